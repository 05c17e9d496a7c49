//! Registries that lie: what they say reaches nobody, and is refused for the right reason.

use std::time::{Duration, Instant};

use hull_tests::registry::{Answer, Asked, INDEX, MANIFEST, Registry, Then, digest};
use hull_tests::{Daemon, Engine, PATIENCE, private_network, wait_until};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

/// A registry with an image of two layers, of which it says something else; and a daemon of little patience.
fn lies(whim: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) -> (Registry, Daemon) {
    private_network();
    let registry = Registry::start();
    registry.image("1", &[2 * MIB]);
    registry.misbehave(whim);
    (registry, Daemon::empty(Engine::Hull, &["--registry-timeout=1", "--max-download-attempts=2"]))
}

/// The pull fails with these words, soon, and leaves nothing.
#[track_caller]
fn refuses(registry: &Registry, daemon: &Daemon, words: &str) {
    let begun = Instant::now();
    let pull = daemon.hull(&["pull", &format!("{}/a:1", registry.address)]);
    assert!(pull.status == 1 && pull.stderr.contains(words), "{pull:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    assert_eq!(daemon.ok(&["images", "-q", &format!("{}/a", registry.address)]), "");
    for folder in ["layers", "split", "tmp"] {
        let folder = daemon.dir().join("data/image").join(folder);
        let left = || {
            std::fs::read_dir(&folder)
                .map_or(0, |entries| entries.flatten().filter(|entry| entry.file_name() != "0").count())
        };
        wait_until(&format!("nothing is left in {}", folder.display()), PATIENCE, || left() == 0);
    }
}

fn is_large(asked: &Asked, answer: &Answer) -> bool {
    asked.is_blob() && answer.body.len() > 3 * MIB / 2
}

#[test]
fn a_layer_of_another_digest() {
    let (registry, daemon) = lies(|asked, mut answer| {
        if is_large(asked, &answer) {
            let at = answer.body.len() / 2;
            answer.body[at] ^= 1;
        }
        answer
    });
    refuses(&registry, &daemon, "filesystem layer verification failed for digest sha256:");
    let partial = std::fs::read_dir(daemon.dir().join("data/image/partial")).expect("the folder");
    let sizes: Vec<u64> =
        partial.flatten().filter_map(|file| file.metadata().ok()).map(|data| data.len()).collect();
    assert!(!sizes.contains(&(2 * MIB as u64 + 2048)), "what is wrong was kept: {sizes:?}");
    registry.behave();
    daemon.ok(&["pull", "-q", &format!("{}/a:1", registry.address)]);
}

#[test]
fn a_layer_that_is_longer_than_it_should_be() {
    let (registry, daemon) = lies(|asked, mut answer| {
        if is_large(asked, &answer) {
            answer.body.extend_from_slice(&[0; 4096]);
        }
        answer
    });
    refuses(&registry, &daemon, "bytes that its manifest says");
}

#[test]
fn a_layer_without_end() {
    let (registry, daemon) = lies(|asked, mut answer| {
        if is_large(asked, &answer) {
            answer.then = Then::Endless;
        }
        answer
    });
    refuses(&registry, &daemon, "bytes that its manifest says");
    assert!(registry.sent() < 64 * MIB as u64, "{} bytes were taken", registry.sent());
}

#[test]
fn a_layer_that_is_shorter_than_it_should_be() {
    let (registry, daemon) = lies(|asked, mut answer| {
        if asked.is_blob() && answer.status == 206 {
            return Answer::of(416, "text/plain", "");
        }
        if is_large(asked, &answer) {
            answer.body.truncate(MIB);
        }
        answer
    });
    refuses(&registry, &daemon, "bytes that its manifest says");
}

#[test]
fn a_line_that_stands_still() {
    let (registry, daemon) = lies(|asked, answer| match is_large(asked, &answer) {
        true => answer.cut(0, Then::Stall),
        false => answer,
    });
    refuses(&registry, &daemon, "nothing came for 1 seconds");
}

#[test]
fn a_registry_that_never_answers() {
    let (registry, daemon) = lies(|_, _| Answer::of(100, "", "").cut(0, Then::Stall));
    refuses(&registry, &daemon, "Client.Timeout exceeded while awaiting headers");
}

#[test]
fn redirects_in_circles_and_to_other_schemes() {
    let (registry, daemon) = lies(|asked, answer| match asked.is_blob() {
        true => Answer::of(307, "text/plain", "").with("Location", &asked.path),
        false => answer,
    });
    refuses(&registry, &daemon, "stopped after 10 redirects");
    for location in ["file:///etc/passwd", "ftp://127.0.0.1/x", "unix:///run/docker.sock", ""] {
        registry.misbehave(move |asked, answer| match asked.is_blob() {
            true => Answer::of(302, "text/plain", "").with("Location", location),
            false => answer,
        });
        refuses(&registry, &daemon, "which is not followed");
    }
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    private_network();
    let (registry, other) = (Registry::start(), Registry::start());
    registry.image("1", &[1000]);
    other.image("1", &[1000]);
    let elsewhere = other.address.clone();
    registry.misbehave(move |asked, answer| {
        // base64 of someone:secret
        if asked.header("authorization") != Some("Basic c29tZW9uZTpzZWNyZXQ=") {
            return Answer::json(401, &json!({})).with("WWW-Authenticate", "Basic realm=\"r\"");
        }
        match asked.is_blob() {
            true => Answer::of(307, "text/plain", "")
                .with("Location", &format!("http://{elsewhere}{}", asked.path)),
            false => answer,
        }
    });
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let name = format!("{}/a:1", registry.address);
    let refused = daemon.hull(&["pull", &name]);
    assert!(refused.stderr.contains("no basic auth credentials"), "{refused:?}");
    std::fs::create_dir_all(daemon.dir().join("home/.docker")).expect("a folder");
    let auths = json!({ "auths": { registry.address.clone(): { "auth": "c29tZW9uZTpzZWNyZXQ=" } } });
    std::fs::write(daemon.dir().join("home/.docker/config.json"), auths.to_string()).expect("a file");
    daemon.ok(&["pull", "-q", &name]);
    assert!(!other.asked().is_empty());
    for asked in other.asked() {
        assert!(asked.header("authorization").is_none(), "{asked:?}");
    }
    assert!(!daemon.log().contains("secret") && !daemon.log().contains("c29tZW9uZTpzZWNyZXQ"));
}

#[test]
fn token_servers_that_lie() {
    let answer_with = |token: Answer| {
        move |asked: &Asked, answer: Answer| {
            if asked.path.starts_with("/token") {
                return token.clone();
            }
            let realm = format!(
                "Bearer realm=\"http://{}/token\",service=\"s\"",
                asked.header("host").unwrap_or_default()
            );
            match asked.header("authorization") {
                Some("Bearer good") => answer,
                _ => Answer::json(
                    401,
                    &json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "authentication required" }] }),
                )
                .with("WWW-Authenticate", &realm),
            }
        }
    };
    let (registry, daemon) = lies(answer_with(Answer::json(200, &json!({}))));
    refuses(&registry, &daemon, "did not include a token");
    let endless = Answer { then: Then::Endless, ..Answer::of(200, "application/json", vec![b' '; 1 << 16]) };
    for (lie, words) in [
        (Answer::json(200, &json!({ "token": "bad" })), "unauthorized: authentication required"),
        (Answer::json(200, &json!({ "token": "a\r\nX-Evil: 1" })), "fits into no header"),
        (Answer::json(200, &json!({ "token": 7 })), "no JSON with a token"),
        (endless, "longer than the 1048576 bytes"),
        (
            Answer::json(401, &json!({ "details": "incorrect username or password" })),
            "incorrect username or password",
        ),
        (Answer::json(200, &json!({})).cut(0, Then::Stall), "nothing came for 1 seconds"),
        (Answer::of(302, "text/plain", "").with("Location", "file:///etc/shadow"), "which is not followed"),
    ] {
        registry.misbehave(answer_with(lie));
        refuses(&registry, &daemon, words);
    }
    registry.misbehave(|asked, answer| match asked.header("authorization") {
        None if asked.path.starts_with("/v2/") => {
            Answer::json(401, &json!({})).with("WWW-Authenticate", "Bearer realm=\"file:///etc/shadow\"")
        }
        _ => answer,
    });
    refuses(&registry, &daemon, "no http(s) address");
    // And one that does not.
    registry.misbehave(answer_with(Answer::json(200, &json!({ "token": "good", "expires_in": 60 }))));
    daemon.ok(&["pull", "-q", &format!("{}/a:1", registry.address)]);
    let asked = registry.asked();
    let token =
        asked.iter().rev().find(|asked| asked.path.starts_with("/token")).expect("a token was asked for");
    assert!(token.path.contains("service=s&scope=repository:a:pull"), "{}", token.path);
}

#[test]
fn a_registry_that_has_enough_says_when_to_come_back() {
    let (registry, daemon) = lies(|_, _| {
        Answer::json(429, &json!({ "errors": [{ "code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit." }] }))
            .with("Retry-After", "17")
    });
    refuses(
        &registry,
        &daemon,
        "toomanyrequests: You have reached your pull rate limit. (the registry asks to try again in 17 seconds)",
    );
}

#[test]
fn manifests_that_are_none() {
    let (registry, daemon) = lies(|asked, answer| match asked.path.contains("/manifests/") {
        true => Answer { then: Then::Endless, ..Answer::of(200, MANIFEST, vec![b' '; 1 << 20]) },
        false => answer,
    });
    refuses(&registry, &daemon, "longer than the 4194304 bytes that are allowed");
    let manifest = |media_type: &'static str, value: Value| {
        move |asked: &Asked, answer: Answer| match asked.path.contains("/manifests/") {
            true => Answer::of(200, media_type, value.to_string()),
            false => answer,
        }
    };
    let config = json!({ "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(b"{}"), "size": 2 });
    for (lie, words) in [
        (
            json!({ "schemaVersion": 2, "config": config, "layers": [] }),
            "artifact of the type application/vnd.cncf.helm.config.v1+json",
        ),
        (json!({ "schemaVersion": 1, "fsLayers": [], "history": [] }), "schema 1"),
        (
            json!({ "schemaVersion": 2, "config": config, "layers": [], "manifests": [] }),
            "an image and an index at once",
        ),
        (json!([]), "invalid manifest"),
    ] {
        registry.misbehave(manifest(MANIFEST, lie));
        refuses(&registry, &daemon, words);
    }
    // What it is said to be is not what it is.
    registry.misbehave(|asked, mut answer| {
        if asked.path.contains("/manifests/") {
            answer.headers.retain(|(name, _)| name != "Docker-Content-Digest");
            return answer.with("Docker-Content-Digest", &digest(b"something else"));
        }
        answer
    });
    refuses(&registry, &daemon, "manifest verification failed for digest sha256:");
}

#[test]
fn indexes_in_indexes() {
    let (registry, daemon) = lies(|_, answer| answer);
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let mut inner = digest(&std::fs::read("/dev/null").expect("nothing"));
    for depth in 0..12 {
        let tag = if depth == 11 { "1".to_owned() } else { format!("depth-{depth}") };
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
            { "mediaType": INDEX, "digest": inner, "size": 1, "platform": { "os": "linux", "architecture": host } },
        ] });
        inner = registry.manifest(&tag, INDEX, &index);
    }
    registry.behave();
    refuses(&registry, &daemon, "too deep");
}

#[test]
fn a_configuration_that_does_not_fit_its_layers() {
    private_network();
    let registry = Registry::start();
    let daemon = Daemon::empty(Engine::Hull, &["--registry-timeout=1"]);
    let mut manifest = registry.image("1", &[1000, 2000]);
    let layers = manifest["layers"].as_array_mut().expect("layers");
    layers.swap(1, 2);
    registry.manifest("1", MANIFEST, &manifest);
    refuses(&registry, &daemon, "layers from manifest don't match image configuration");
    manifest["layers"].as_array_mut().expect("layers").pop();
    registry.manifest("1", MANIFEST, &manifest);
    refuses(&registry, &daemon, "layers from manifest don't match image configuration");
}

#[test]
fn what_has_a_digest_is_not_what_a_head_says() {
    let (registry, daemon) = lies(|_, answer| answer);
    registry.behave();
    let first = registry.image("1", &[1000]);
    registry.image("2", &[2000]);
    let second = registry.manifest("2", MANIFEST, &registry.image("2", &[2000]));
    daemon.ok(&["pull", "-q", &format!("{}/a:1", registry.address)]);
    let first = digest(first.to_string().as_bytes());
    registry.misbehave(move |asked, answer| match asked.method.as_str() {
        "HEAD" => Answer::of(200, MANIFEST, "").with("Docker-Content-Digest", &first),
        _ => answer,
    });
    let name = format!("{}/a@{second}", registry.address);
    daemon.ok(&["pull", "-q", &name]);
    let inspect = |name: &str| daemon.ok(&["image", "inspect", "-f", "{{.Id}}", name]);
    assert_ne!(inspect(&name), inspect(&format!("{}/a:1", registry.address)));
}

#[test]
fn tags_that_are_none_are_passed_over() {
    let (registry, daemon) = lies(|asked, answer| match asked.path.contains("/tags/list") {
        true => Answer::json(
            200,
            &json!({ "name": "a", "tags": ["1", "x?y", "../../b/manifests/1", "\u{1b}[2J", ""] }),
        ),
        false => answer,
    });
    let pull = daemon.hull(&["pull", "--all-tags", &format!("{}/a", registry.address)]);
    assert!(pull.status == 0, "{pull:?}");
    assert_eq!(daemon.ok(&["images", "--format", "{{.Tag}}", &format!("{}/a", registry.address)]), "1");
    assert!(
        registry.asked().iter().all(|asked| !asked.path.contains("b/manifests")),
        "{:?}",
        registry.asked()
    );
}

#[test]
fn pulls_of_a_registry_that_stalls_hold_nobody_up() {
    const PULLS: usize = 600;
    let (registry, _) = lies(|_, answer| answer);
    registry.behave();
    let manifest = registry.image("1", &[2 * MIB]);
    for number in 0..PULLS {
        registry.manifest(&format!("t{number}"), MANIFEST, &manifest);
    }
    registry.misbehave(|asked, answer| match is_large(asked, &answer) {
        true => answer.cut(0, Then::Stall),
        false => answer,
    });
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let clients: Vec<_> = (0..PULLS)
        .map(|number| {
            let image = format!("{}/a", registry.address);
            let request = format!(
                "POST /images/create?fromImage={image}&tag=t{number} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            );
            let mut client = daemon.api().connect().expect("the daemon listens");
            std::io::Write::write_all(client.get_mut(), request.as_bytes()).expect("it is asked");
            client
        })
        .collect();
    wait_until("every pull has begun", PATIENCE, || {
        registry.asked().iter().filter(|asked| asked.path.contains("manifests/t")).count() >= PULLS
    });
    let answer = daemon.api().get("/system/df").expect("an answer");
    assert_eq!(answer.status, 200);
    drop(clients);
}
