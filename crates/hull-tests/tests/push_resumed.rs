//! Pushes by a line that breaks amid uploads: they go on where the registry says that they are.

use std::sync::atomic::{AtomicUsize, Ordering};

use hull_tests::registry::{Answer, Registry, noise};
use hull_tests::{Daemon, Engine, Tar, private_network};
use serde_json::json;

const MIB: usize = 1 << 20;

/// A daemon with an image of one large layer, that has a name in a registry.
fn setup(size: usize) -> (Registry, Daemon, String) {
    private_network();
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let tar = Tar::new().file("noise", &noise(9, size)).finish();
    let path = "/images/create?fromSrc=-&repo=large&tag=1";
    assert_eq!(daemon.api().send("POST", path, "application/x-tar", &tar).expect("an answer").status, 200);
    let registry = Registry::start();
    let name = format!("{}/large:1", registry.address);
    daemon.ok(&["tag", "large:1", &name]);
    (registry, daemon, name)
}

/// The bytes of blobs that came, and in how many requests.
fn came(registry: &Registry) -> (usize, usize) {
    let asked = registry.asked();
    let parts = asked.iter().filter(|asked| asked.method == "PATCH");
    parts.fold((0, 0), |(bytes, count), asked| (bytes + asked.body.len(), count + 1))
}

/// What is there is the image: it comes back from there.
fn is_whole(daemon: &Daemon, name: &str) {
    let id = daemon.ok(&["image", "inspect", "-f", "{{.Id}}", name]);
    daemon.ok(&["rmi", "-f", &id]);
    daemon.ok(&["pull", name]);
    assert_eq!(daemon.ok(&["image", "inspect", "-f", "{{.Id}}", name]), id);
}

#[test]
fn a_line_that_breaks_again_and_again_sends_nothing_twice() {
    let (registry, daemon, name) = setup(24 * MIB);
    // Another place each time, in some requests right at their beginning.
    registry.cut_uploads(|number| (number < 30).then_some(number * 7919 * 101 % (2 * MIB)));
    daemon.ok(&["push", &name]);
    let (bytes, requests) = came(&registry);
    assert!(requests > 15, "{requests}");
    assert!(bytes < 24 * MIB + MIB, "{bytes} bytes in {requests} requests");
    is_whole(&daemon, &name);
}

#[test]
fn an_answer_that_is_lost_is_not_what_was_sent() {
    let (registry, daemon, name) = setup(MIB);
    let (parts, ends) = (AtomicUsize::new(0), AtomicUsize::new(0));
    registry.misbehave(move |asked, proper| {
        let is_first = |count: &AtomicUsize| count.fetch_add(1, Ordering::Relaxed) == 0;
        match asked.method.as_str() {
            "PATCH" if is_first(&parts) => Answer::of(502, "text/html", "<html>"),
            "PUT" if asked.path.contains("/blobs/") && is_first(&ends) => {
                Answer::of(504, "text/html", "<html>")
            }
            _ => proper,
        }
    });
    daemon.ok(&["push", &name]);
    let (bytes, requests) = came(&registry);
    assert!(requests == 1 && bytes < 2 * MIB, "{bytes} bytes in {requests} requests");
    is_whole(&daemon, &name);
}

#[test]
fn registries_that_do_not_know_it_get_all_anew() {
    type Lie = fn(Answer) -> Answer;
    let lies: [(&str, Lie); 6] = [
        ("no such upload", |_| Answer::unknown("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")),
        ("no range", |proper| Answer { headers: Vec::new(), ..proper }),
        ("more than was sent", |proper| {
            Answer { headers: Vec::new(), ..proper }.with("Range", "0-99999999999")
        }),
        ("less than it has", |proper| Answer { headers: Vec::new(), ..proper }.with("Range", "0-4095")),
        ("no number", |proper| Answer { headers: Vec::new(), ..proper }.with("Range", "bytes=x-y")),
        ("elsewhere", |proper| {
            Answer { headers: Vec::new(), ..proper }
                .with("Range", "0-4095")
                .with("Location", "file:///etc/passwd")
        }),
    ];
    for (what, lie) in lies {
        let (registry, daemon, name) = setup(3 * MIB);
        registry.cut_uploads(|number| (number == 0).then_some(MIB));
        registry.misbehave(move |asked, proper| match asked.method.as_str() {
            "GET" if asked.path.contains("/blobs/uploads/") => lie(proper),
            _ => proper,
        });
        daemon.ok(&["push", &name]);
        let (bytes, _) = came(&registry);
        assert!(bytes > 3 * MIB && bytes < 5 * MIB, "{what}: {bytes}");
        is_whole(&daemon, &name);
    }
}

#[test]
fn what_was_lost_behind_a_promise_is_sent_anew_once() {
    let (registry, daemon, name) = setup(3 * MIB);
    // It says that it has what it has not: the whole then has another digest.
    registry.cut_uploads(|number| (number == 0).then_some(MIB));
    registry.misbehave(|asked, proper| match asked.method.as_str() {
        "GET" if asked.path.contains("/blobs/uploads/") => {
            let headers = proper.headers.into_iter().filter(|(name, _)| name != "Range").collect();
            Answer { headers, ..proper }.with("Range", &format!("0-{}", MIB + 99))
        }
        // What comes behind a hole is refused, and where the end is, said.
        "PATCH" if asked.header("content-range").is_some_and(|range| range.starts_with("1048676-")) => {
            Answer::json(416, &json!({ "errors": [{ "code": "RANGE_INVALID", "message": "invalid" }] }))
        }
        _ => proper,
    });
    daemon.ok(&["push", &name]);
    is_whole(&daemon, &name);
    let begun = registry.asked().iter().filter(|asked| asked.method == "POST").count();
    assert!(begun <= 4, "{begun} uploads were begun");
}

#[test]
fn a_piece_that_is_not_the_next_one_goes_on_where_the_refusal_says() {
    let (registry, daemon, name) = setup(20 * MIB);
    let pieces = AtomicUsize::new(0);
    registry.misbehave(move |asked, proper| match asked.method.as_str() {
        "PATCH" if asked.header("transfer-encoding").is_some() => Answer::of(411, "text/html", ""),
        // The second piece's answer comes from one who has not heard of the piece: it has all of it.
        "PATCH" if pieces.fetch_add(1, Ordering::Relaxed) == 1 => {
            let (_, end) =
                asked.header("content-range").and_then(|range| range.split_once('-')).expect("a range");
            Answer::of(416, "text/plain", "").with("Range", &format!("0-{end}"))
        }
        // And it is not asked.
        "GET" if asked.path.contains("/blobs/uploads/") => Answer::of(405, "text/plain", ""),
        _ => proper,
    });
    daemon.ok(&["push", &name]);
    let asked = registry.asked();
    let pieces =
        asked.iter().filter(|asked| asked.method == "PATCH" && asked.header("content-range").is_some());
    let bytes: usize = pieces.map(|asked| asked.body.len()).sum();
    assert!(bytes > 20 * MIB && bytes < 21 * MIB, "{bytes}");
    is_whole(&daemon, &name);
}
