//! Registries with a bad moment, or behind a proxy that is wrong about something: what can be pulled is pulled.

use std::sync::atomic::{AtomicUsize, Ordering};

use hull_tests::registry::{Answer, Asked, Registry, Then};
use hull_tests::{Daemon, Engine, private_network};
use serde_json::json;

const MIB: usize = 1 << 20;

/// A registry with an image of one layer besides busybox's, and a daemon without any.
fn given() -> (Registry, Daemon) {
    private_network();
    let registry = Registry::start();
    registry.image("1", &[2 * MIB]);
    (registry, Daemon::empty(Engine::Hull, &[]))
}

fn is_whole(daemon: &Daemon, image: &str) {
    assert_eq!(daemon.ok(&["run", "--rm", image, "wc", "-c", "/0"]), format!("{} /0", 2 * MIB));
    assert_eq!(daemon.hull(&["system", "fsck", "--contents"]).status, 0);
}

/// The half of a layer, and then the line is cut; behind that `then` is asked, with the answer that would be right.
fn cut_once(registry: &Registry, then: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) {
    let cut = AtomicUsize::new(0);
    registry.misbehave(move |asked, answer| {
        if !asked.is_blob() || (asked.header("range").is_none() && answer.body.len() < MIB) {
            return answer;
        }
        match cut.fetch_add(1, Ordering::SeqCst) {
            0 => answer.cut(MIB / 2, Then::Cut),
            _ => then(asked, answer),
        }
    });
}

#[test]
fn a_manifest_is_asked_for_again() {
    let (registry, daemon) = given();
    let image = format!("{}/a:1", registry.address);
    for (name, fault) in [
        ("busy", (|answer: Answer| Answer { status: 503, ..answer }) as fn(Answer) -> Answer),
        ("a gateway", |answer| Answer { status: 502, ..answer }),
        ("the line is cut in the head", |answer| answer.cut(0, Then::Cut)),
        ("and in the body", |answer| answer.cut(100, Then::Cut)),
    ] {
        let asked = AtomicUsize::new(0);
        registry.misbehave(move |call, answer| {
            let is_first = call.path.contains("/manifests/") && asked.fetch_add(1, Ordering::SeqCst) % 3 < 2;
            if is_first { fault(answer) } else { answer }
        });
        let pulled = daemon.hull(&["pull", "-q", &image]);
        assert_eq!(pulled.status, 0, "{name}: {pulled:?}");
        is_whole(&daemon, &image);
        daemon.ok(&["rmi", &image]);
    }
    // One that counts pulls is not asked again, and one that stays away is given up.
    for status in [429, 503] {
        let before = registry.asked().len();
        registry.misbehave(move |call, answer| {
            if call.path.contains("/manifests/") { Answer { status, ..answer } } else { answer }
        });
        assert_eq!(daemon.hull(&["pull", "-q", &image]).status, 1);
        let asked = registry.asked().len() - before;
        assert!(if status == 429 { asked <= 3 } else { asked <= 8 }, "{status}: asked {asked} times");
    }
}

#[test]
fn a_layer_comes_from_registries_that_know_ranges_wrongly() {
    let (registry, daemon) = given();
    let image = format!("{}/a:1", registry.address);
    for what in ["416", "another part", "nothing of it"] {
        cut_once(&registry, move |asked, answer| match (asked.header("range"), what) {
            (None, _) => answer,
            (_, "416") => Answer { status: 416, body: Vec::new(), ..answer },
            // It says that it is the beginning, and leaves out the rest.
            (_, "another part") => Answer {
                headers: vec![("Content-Range".to_owned(), format!("bytes 0-99/{}", 2 * MIB))],
                status: 206,
                body: vec![0; 100],
                ..answer
            },
            _ => Answer { body: Vec::new(), ..answer },
        });
        let pulled = daemon.hull(&["pull", "-q", &image]);
        assert_eq!(pulled.status, 0, "{what}: {pulled:?}");
        is_whole(&daemon, &image);
        daemon.ok(&["rmi", &image]);
    }
}

#[test]
fn a_token_server_may_be_elsewhere_by_now() {
    let (registry, daemon) = given();
    registry.misbehave(|asked, answer| {
        let host = asked.header("host").unwrap_or_default();
        if asked.path.starts_with("/token/now") {
            return Answer::json(200, &json!({ "token": "good" }));
        }
        if let Some(query) = asked.path.strip_prefix("/token") {
            return Answer::json(307, &json!({})).with("Location", &format!("/token/now{query}"));
        }
        if asked.header("authorization") == Some("Bearer good") {
            return answer;
        }
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"the registry\"");
        Answer::json(401, &json!({ "errors": [] })).with("WWW-Authenticate", &challenge)
    });
    let image = format!("{}/a:1", registry.address);
    daemon.ok(&["pull", "-q", &image]);
    is_whole(&daemon, &image);
}
