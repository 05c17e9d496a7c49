//! Pushes to registries that fail, lie, want tokens, or do nothing at all.

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use hull_tests::registry::{Answer, Asked, Registry, noise};
use hull_tests::{Daemon, Engine, Tar, private_network};
use serde_json::{Value, json};

fn setup(options: &[&str]) -> (Registry, Daemon) {
    private_network();
    let daemon = Daemon::empty(Engine::Hull, options);
    daemon.import_busybox();
    (Registry::start(), daemon)
}

/// Tags busybox for the registry.
fn tagged(registry: &Registry, daemon: &Daemon, name: &str) -> String {
    let name = format!("{}/{name}", registry.address);
    daemon.ok(&["tag", "busybox", &name]);
    name
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    Answer::json(status, &json!({ "errors": [{ "code": code, "message": message }] }))
}

#[test]
fn a_registry_that_fails_now_and_then_gets_the_image() {
    let (registry, daemon) = setup(&[]);
    let name = tagged(&registry, &daemon, "a/b:1");
    let counts: [AtomicU32; 4] = Default::default();
    registry.misbehave(move |asked, proper| {
        let first = |count: &AtomicU32| count.fetch_add(1, Ordering::Relaxed) == 0;
        let is_blob = asked.path.contains("/blobs/uploads/");
        match asked.method.as_str() {
            "POST" if first(&counts[0]) => Answer::of(502, "text/html", "<html>"),
            "PATCH" if first(&counts[1]) => error(503, "UNAVAILABLE", "a moment please"),
            "PUT" if is_blob && first(&counts[2]) => Answer::of(500, "text/plain", "oh"),
            "PUT" if !is_blob && first(&counts[3]) => {
                error(429, "TOOMANYREQUESTS", "slow down").with("Retry-After", "1")
            }
            _ => proper,
        }
    });
    daemon.ok(&["push", &name]);
    let id = daemon.ok(&["image", "inspect", "-f", "{{.Id}}", &name]);
    daemon.ok(&["rmi", "-f", &id]);
    daemon.ok(&["pull", &name]);
    assert_eq!(daemon.ok(&["image", "inspect", "-f", "{{.Id}}", &name]), id);
    // What is not busy but refuses is not asked again.
    let asked = registry.asked().len();
    registry.misbehave(|asked, proper| match asked.method.as_str() {
        "HEAD" | "POST" | "PUT" => error(403, "DENIED", "requested access to the resource is denied"),
        _ => proper,
    });
    daemon.import_busybox();
    let other = tagged(&registry, &daemon, "a/c:1");
    let output = daemon.hull(&["push", &other]);
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("denied"), "{output:?}");
    assert!(registry.asked().len() - asked <= 4, "{:?}", registry.asked());
}

#[test]
fn a_cache_is_pushed_to_a_registry_that_is_busy_when_it_is_asked() {
    let (registry, daemon) = setup(&[]);
    let known = std::sync::Mutex::new(std::collections::HashSet::new());
    registry.misbehave(move |asked, proper| {
        let is_new = || known.lock().unwrap().insert(asked.path.clone());
        match asked.method == "HEAD" && asked.path.contains("/blobs/") && is_new() {
            true => error(503, "UNAVAILABLE", "a moment please"),
            false => proper,
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,id=a,target=/a echo one >/a/n\n";
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("a file");
    let name = format!("{}/kept", registry.address);
    daemon.ok(&["build", "-q", "--cache-mounts-to", &name, &folder.path().to_string_lossy()]);
    let asked = registry.asked();
    let heads = asked.iter().filter(|asked| asked.method == "HEAD" && asked.path.contains("/kept/blobs/"));
    assert!(heads.count() >= 2, "{asked:?}");
    assert!(
        asked.iter().any(|asked| asked.method == "PUT" && asked.path.contains("/kept/manifests/")),
        "{asked:?}"
    );
}

#[test]
fn a_registry_that_lies_is_not_believed() {
    let (registry, daemon) = setup(&[]);
    let begins = |asked: &Asked| asked.method == "POST";
    type Lie = fn(&Asked, Answer) -> Answer;
    let lies: [(Lie, &str); 8] = [
        (
            |asked, proper| if asked.method == "POST" { Answer::of(202, "text/plain", "") } else { proper },
            "wants an upload sent to \"\", which is refused",
        ),
        (
            |asked, proper| match asked.method.as_str() {
                "POST" => Answer::of(202, "text/plain", "").with("Location", "file:///etc/passwd"),
                _ => proper,
            },
            "wants an upload sent to \"file:///etc/passwd\", which is refused",
        ),
        (
            |asked, proper| match asked.method.as_str() {
                "PATCH" => Answer::of(413, "text/plain", ""),
                _ => proper,
            },
            "received unexpected HTTP status: 413 Payload Too Large",
        ),
        (
            |asked, proper| match asked.method.as_str() {
                "PUT" if asked.path.contains("/blobs/") => {
                    error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
                }
                _ => proper,
            },
            "digest invalid: provided digest did not match uploaded content",
        ),
        (
            |asked, proper| match asked.method.as_str() {
                "PUT" if asked.path.contains("/blobs/") => {
                    Answer::of(307, "text/plain", "").with("Location", "/elsewhere")
                }
                _ => proper,
            },
            "received unexpected HTTP status: 307 Temporary Redirect",
        ),
        (
            |asked, proper| match asked.method.as_str() {
                "PUT" if asked.path.contains("/manifests/") => {
                    let other = format!("sha256:{}", "0".repeat(64));
                    Answer::of(201, "text/plain", "").with("Docker-Content-Digest", &other)
                }
                _ => proper,
            },
            "the registry took the manifest sha256:",
        ),
        (
            |asked, proper| match asked.method.as_str() {
                "PUT" if asked.path.contains("/manifests/") => {
                    error(400, "MANIFEST_INVALID", "no\u{1b}[2J such thing")
                }
                _ => proper,
            },
            "manifest invalid: no[2J such thing",
        ),
        (
            |asked, proper| match asked.method.as_str() {
                "PUT" if asked.path.contains("/manifests/") => {
                    Answer::of(301, "text/plain", "").with("Location", "/elsewhere")
                }
                _ => proper,
            },
            "received unexpected HTTP status: 301 Moved Permanently",
        ),
    ];
    for (number, (lie, words)) in lies.into_iter().enumerate() {
        registry.misbehave(lie);
        let name = tagged(&registry, &daemon, &format!("lie/{number}:1"));
        let output = daemon.hull(&["push", &name]);
        assert_eq!(output.status, 1, "{output:?}");
        assert!(output.stderr.contains(words), "{words}: {output:?}");
        let digests = daemon.ok(&["image", "inspect", "-f", "{{json .RepoDigests}}", "busybox"]);
        assert!(!digests.contains(&format!("lie/{number}")), "{digests}");
    }
    assert!(registry.asked().iter().any(begins));
}

#[test]
fn a_token_is_asked_for_by_what_it_is_for() {
    let (registry, daemon) = setup(&["--debug"]);
    let realm = format!("http://{}/token", registry.address);
    registry.misbehave(move |asked, proper| {
        if asked.path.starts_with("/token") {
            // base64 of me:pass-word
            let known = asked.header("authorization") == Some("Basic bWU6cGFzcy13b3Jk");
            let refresh = asked.path.contains("offline_token=true").then_some("the-refresh-token");
            return match known || asked.body.starts_with(b"grant_type=refresh_token") {
                true => Answer::json(200, &json!({ "token": "the-token", "refresh_token": refresh })),
                false => Answer::json(401, &json!({ "details": "incorrect username or password" })),
            };
        }
        match asked.header("authorization") {
            Some("Bearer the-token") => proper,
            _ => error(401, "UNAUTHORIZED", "authentication required")
                .with("WWW-Authenticate", &format!("Bearer realm=\"{realm}\",service=\"r\"")),
        }
    });
    let login = |password: &str| {
        let script =
            format!("printf %s '{password}' | hull login -u me --password-stdin {}", registry.address);
        let output = daemon.command("bash").args(["-c", &script]).output().expect("bash");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = login("wrong");
    assert!(status == Some(1) && said.contains("incorrect username or password"), "{said}");
    assert_eq!(login("pass-word").0, Some(0));
    let kept = std::fs::read_to_string(daemon.dir().join("home/.docker/config.json")).expect("it is kept");
    assert!(kept.contains("the-refresh-token") && !kept.contains("pass-word"), "{kept}");

    let name = tagged(&registry, &daemon, "a/b:1");
    daemon.ok(&["push", &name]);
    let asked = registry.asked();
    let token = asked.iter().rfind(|asked| asked.path.starts_with("/token")).expect("a token was asked for");
    let form = String::from_utf8_lossy(&token.body).into_owned();
    assert!(form.contains("scope=repository:a/b:pull,push"), "{form}");
    let log = daemon.log();
    for secret in ["the-token", "the-refresh-token", "pass-word", "bWU6cGFzcy13b3Jk"] {
        assert!(!log.contains(secret), "the log has {secret}");
    }
}

#[test]
fn what_may_not_be_read_is_not_taken_over_and_hinders_no_push() {
    let (registry, daemon) = setup(&[]);
    let realm = format!("http://{}/token", registry.address);
    registry.misbehave(move |asked, proper| {
        if asked.path.starts_with("/token") {
            return match asked.path.contains("repository:second") && asked.path.contains("repository:first") {
                true => Answer::json(403, &json!({ "details": "access forbidden" })),
                false => Answer::json(200, &json!({ "token": "t" })),
            };
        }
        match asked.header("authorization") {
            // The repositories of this registry share all they have.
            Some(_) if asked.method == "HEAD" && asked.path.starts_with("/v2/second/") => {
                Answer::unknown("BLOB_UNKNOWN", "blob unknown to registry")
            }
            Some(_) => proper,
            None => error(401, "UNAUTHORIZED", "authentication required")
                .with("WWW-Authenticate", &format!("Bearer realm=\"{realm}\",service=\"r\"")),
        }
    });
    let (first, second) = (tagged(&registry, &daemon, "first:1"), tagged(&registry, &daemon, "second:1"));
    daemon.ok(&["push", &first]);
    assert!(daemon.ok(&["push", &second]).contains(": Pushed"));
    assert!(registry.asked().iter().any(|asked| asked.path.contains("mount=")), "it was worth a try");
}

#[test]
fn a_registry_that_stands_still_is_left_and_holds_up_nobody() {
    let (registry, daemon) =
        setup(&["--registry-timeout", "1", "--max-download-attempts", "1", "--max-concurrent-uploads", "1"]);
    // More than the buffers of a line take.
    let archive = Tar::new().file("noise", &noise(1, 24 << 20)).finish();
    let path = "/images/create?fromSrc=-&repo=large&tag=1";
    let made = daemon.api().send("POST", path, "application/x-tar", &archive).expect("an answer");
    assert_eq!(made.status, 200);
    let name = format!("{}/large:1", registry.address);
    daemon.ok(&["tag", "large:1", &name]);
    registry.be_deaf();
    let output = daemon.hull(&["push", &name]);
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("the registry has taken nothing of the layer"), "{output:?}");

    // A client that goes ends its push, and the one upload that may run is another's.
    let mut client = daemon
        .client(&["push", &name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the client starts");
    let pushes = |registry: &Registry| registry.asked().iter().filter(|asked| asked.method == "POST").count();
    hull_tests::wait_until("the second upload begins", hull_tests::PATIENCE, || pushes(&registry) >= 2);
    client.kill().and_then(|()| client.wait()).expect("one's own child can be killed");
    let healthy = Registry::start();
    let other = format!("{}/large:1", healthy.address);
    daemon.ok(&["tag", "large:1", &other]);
    daemon.ok(&["push", &other]);
    let layers: Value = serde_json::from_str(&daemon.ok(&["image", "inspect", "large:1"])).expect("JSON");
    assert!(layers[0]["RepoDigests"][0].as_str().is_some_and(|name| name.contains(&healthy.address)));
}

#[test]
fn what_another_image_says_of_a_layer_is_not_pushed_in_its_place() {
    let (registry, daemon) = setup(&[]);
    let honest = registry.image("1", &[1000]);
    daemon.ok(&["pull", "-q", &format!("{}/a:1", registry.address)]);
    // Another image says that the same layers are blobs of its own.
    let mut evil = honest.clone();
    for layer in evil["layers"].as_array_mut().expect("layers") {
        let other = Tar::new().file("evil", b"evil").finish();
        layer["digest"] = json!(registry.blob(&other));
        layer["size"] = json!(other.len());
    }
    registry.manifest("evil", evil["mediaType"].as_str().expect("a type"), &evil);
    daemon.ok(&["pull", "-q", &format!("{}/a:evil", registry.address)]);
    for image in ["a:1", "a:evil"] {
        let (from, to) = (format!("{}/{image}", registry.address), format!("{}/b:pushed", registry.address));
        daemon.ok(&["tag", &from, &to]);
        daemon.ok(&["push", "-q", &to]);
        let asked = registry.asked();
        let put =
            asked.iter().rfind(|asked| asked.method == "PUT" && asked.path.contains("/manifests/pushed"));
        let put: Value = serde_json::from_slice(&put.expect("a manifest").body).expect("JSON");
        let digests = |manifest: &Value| -> Vec<Value> {
            manifest["layers"]
                .as_array()
                .expect("layers")
                .iter()
                .map(|layer| layer["digest"].clone())
                .collect()
        };
        let evil = digests(&evil);
        assert!(digests(&put).iter().all(|digest| !evil.contains(digest)), "{image}: {put}");
    }
}

/// What came as blobs, by method and where it stands in its upload.
fn uploads(registry: &Registry, method: &str) -> Vec<(Option<String>, Option<String>, usize)> {
    let asked = registry.asked();
    let of = asked.iter().filter(|asked| asked.method == method && asked.path.contains("/blobs/uploads/"));
    let header = |asked: &Asked, name: &str| asked.header(name).map(str::to_owned);
    of.map(|asked| (header(asked, "content-range"), header(asked, "content-length"), asked.body.len()))
        .collect()
}

#[test]
fn a_registry_that_wants_lengths_or_little_at_once_gets_pieces() {
    const MIB: usize = 1 << 20;
    for (status, least, piece) in [(411, None, 8 * MIB), (413, Some(10 * MIB), 10 * MIB)] {
        let (registry, daemon) = setup(&["--max-concurrent-uploads=1"]);
        let tar = Tar::new().file("noise", &noise(9, 21 * MIB)).finish();
        let imported =
            daemon.api().send("POST", "/images/create?fromSrc=-&repo=large", "application/x-tar", &tar);
        assert_eq!(imported.expect("an answer").status, 200);
        let name = format!("{}/large:1", registry.address);
        daemon.ok(&["tag", "large", &name]);
        registry.misbehave(move |asked, proper| {
            let is_chunked = asked.header("transfer-encoding").is_some();
            match asked.method.as_str() {
                "PATCH" if is_chunked => Answer::of(status, "text/html", "<html>no</html>"),
                "POST" => match least {
                    Some(least) => proper.with("OCI-Chunk-Min-Length", &least.to_string()),
                    None => proper,
                },
                _ => proper,
            }
        });
        daemon.ok(&["push", &name]);
        let pieces: Vec<_> =
            uploads(&registry, "PATCH").into_iter().filter(|(range, ..)| range.is_some()).collect();
        let mut start = 0;
        for (number, (range, length, size)) in pieces.iter().enumerate() {
            assert_eq!(range.as_deref(), Some(format!("{start}-{}", start + size - 1).as_str()));
            assert_eq!(length.as_deref(), Some(size.to_string().as_str()));
            assert!(number + 1 == pieces.len() || *size >= piece, "{pieces:?}");
            start += size;
        }
        assert!(pieces.len() > 1 && start > 21 * MIB, "{pieces:?}");
        daemon.ok(&["rmi", "-f", "large", &name]);
        daemon.ok(&["pull", &name]);
    }
}

#[test]
fn a_token_that_ends_amid_an_upload_is_got_anew() {
    token_ends(false);
}

#[test]
fn a_token_that_ends_amid_a_piece_is_got_anew() {
    token_ends(true);
}

fn token_ends(in_pieces: bool) {
    let (registry, daemon) = setup(&[]);
    let name = tagged(&registry, &daemon, "a/b:1");
    let (given, used) = (AtomicU32::new(0), AtomicU32::new(0));
    registry.misbehave(move |asked, proper| {
        let host = asked.header("host").unwrap_or_default().to_owned();
        if asked.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::Relaxed);
            return Answer::json(200, &json!({ "token": format!("t{number}"), "expires_in": 3600 }));
        }
        if in_pieces && asked.method == "PATCH" && asked.header("transfer-encoding").is_some() {
            return Answer::of(411, "text/html", "<html>no</html>");
        }
        // The first token's time is over when the layer is sent, whatever was said of it.
        let token = asked.header("authorization").unwrap_or_default();
        let over = token.is_empty() || token == "Bearer t0" && used.load(Ordering::Relaxed) > 0;
        if asked.method == "PATCH" {
            used.fetch_add(1, Ordering::Relaxed);
        }
        if over || asked.method == "PATCH" && token == "Bearer t0" {
            let challenge =
                format!("Bearer realm=\"http://{host}/token\",service=\"s\",error=\"invalid_token\"");
            return error(401, "UNAUTHORIZED", "authentication required")
                .with("WWW-Authenticate", &challenge);
        }
        proper
    });
    daemon.ok(&["push", &name]);
    let tokens = registry.asked().iter().filter(|asked| asked.path.starts_with("/token")).count();
    assert_eq!(tokens, 2, "{:?}", registry.asked());
}

#[test]
fn pieces_that_are_too_large_to_be_kept_are_refused() {
    let (registry, daemon) = setup(&[]);
    let name = tagged(&registry, &daemon, "a/b:1");
    registry.misbehave(|asked, proper| match asked.method.as_str() {
        "PATCH" if asked.header("transfer-encoding").is_some() => Answer::of(411, "text/html", ""),
        "POST" => proper.with("OCI-Chunk-Min-Length", "16777217"),
        _ => proper,
    });
    let output = daemon.hull(&["push", &name]);
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("pieces of at least 16777217 bytes, and 16777216 are"), "{output:?}");
}

#[test]
fn what_came_from_elsewhere_is_asked_for_by_its_digest_alone() {
    let (first, daemon) = setup(&[]);
    first.image_of("1", &[1, 2].map(|seed| Tar::new().file("noise", &noise(seed, 1000)).finish()));
    let name = format!("{}/a:1", first.address);
    daemon.ok(&["pull", &name]);
    for has in [true, false] {
        let second = Registry::start();
        let to = format!("{}/b:1", second.address);
        daemon.ok(&["tag", &name, &to]);
        second.misbehave(move |asked, proper| match asked.method.as_str() {
            "POST" if has && asked.path.contains("mount=") && !asked.path.contains("from=") => {
                Answer::of(201, "text/plain", "")
            }
            _ => proper,
        });
        let said = daemon.ok(&["push", &to]);
        let sent = uploads(&second, "PATCH").len();
        let begun = uploads(&second, "POST").len();
        // What is not there is sent to where the answer said, without another question; the configuration has its own.
        assert_eq!((sent, begun), if has { (0, 3) } else { (2, 3) }, "{said}");
    }
}

#[test]
fn what_a_registry_warns_of_is_told() {
    let (registry, daemon) = setup(&[]);
    let name = tagged(&registry, &daemon, "a/b:1");
    registry.misbehave(|_, proper| {
        proper.with("Warning", "299 - \"this registry goes away\"").with("Warning", "110 - \"stale\"")
    });
    let told = format!("Warning from {}: this registry", registry.address);
    for command in ["push", "pull"] {
        let said = daemon.ok(&[command, &name]);
        assert_eq!(said.matches(&told).count(), 1, "{command}: {said}");
        assert!(!said.contains("stale"), "{command}: {said}");
    }
}

#[test]
fn a_blob_that_is_taken_for_another_is_not_pushed() {
    let (registry, daemon) = setup(&[]);
    let name = tagged(&registry, &daemon, "a/b:1");
    registry.misbehave(|asked, proper| match asked.method.as_str() {
        "PUT" if asked.path.contains("/blobs/uploads/") => {
            proper.with("Docker-Content-Digest", &format!("sha256:{}", "0".repeat(64)))
        }
        _ => proper,
    });
    let output = daemon.hull(&["push", &name]);
    assert!(output.status == 1 && output.stderr.contains("the registry took the blob"), "{output:?}");
}
