//! Versions of the API, and what is not there.

use hull_tests::{Daemon, Engine};
use serde_json::json;

/// The versions that are served, as minor numbers.
fn served() -> std::ops::RangeInclusive<u32> {
    match Engine::under_test() {
        Engine::Hull => 24..=56,
        Engine::Docker => 24..=41,
    }
}

#[test]
fn every_version_is_served_and_no_other() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    for minor in served() {
        for path in
            ["_ping", "version", "info", "containers/json?all=1", "images/json", "networks", "volumes"]
        {
            let response = api.get(&format!("/v1.{minor}/{path}")).expect("an answer");
            assert_eq!(response.status, 200, "/v1.{minor}/{path}: {}", response.text());
        }
    }
    for version in ["v1.57", "v1.99", "v2.0", "v1.23", "v1.0"] {
        if Engine::under_test() == Engine::Docker && version == "v1.23" {
            // Served by the old dockerd of this distribution.
            continue;
        }
        let response = api.get(&format!("/{version}/info")).expect("an answer");
        assert_eq!(response.status, 400, "/{version}/info: {}", response.text());
        assert!(response.text().contains("version"), "/{version}/info: {}", response.text());
    }
    let ping = api.send("HEAD", "/_ping", "", &[]).expect("an answer");
    assert_eq!(ping.status, 200);
    let newest = format!("1.{}", served().end());
    assert_eq!(ping.header("api-version"), Some(newest.as_str()));
    assert_eq!(ping.header("ostype"), Some("linux"));
    let version = api.get("/version").expect("an answer").json();
    assert_eq!(version["ApiVersion"], json!(newest));
}

#[test]
fn a_container_lives_by_every_version() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    for minor in served() {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}});
        let created = api.post(&format!("/v1.{minor}/containers/create"), &body).expect("an answer");
        assert_eq!(created.status, 201, "1.{minor}: {}", created.text());
        let id = created.json()["Id"].as_str().expect("an id").to_owned();
        let mut status = |method: &str, path: &str| {
            api.send(method, &format!("/v1.{minor}{path}"), "", &[]).expect("an answer").status
        };
        assert_eq!(status("POST", &format!("/containers/{id}/start")), 204, "1.{minor}");
        assert_eq!(status("POST", &format!("/containers/{id}/wait")), 200, "1.{minor}");
        assert_eq!(status("GET", &format!("/containers/{id}/json")), 200, "1.{minor}");
        assert_eq!(status("DELETE", &format!("/containers/{id}")), 204, "1.{minor}");
    }
}

#[test]
fn what_is_not_there_says_so() {
    let daemon = Daemon::empty(Engine::under_test(), &[]);
    let mut api = daemon.api();
    let nothing = api.get("/no/such/thing").expect("an answer");
    assert_eq!((nothing.status, nothing.message().is_empty()), (404, false), "{}", nothing.text());
    if Engine::under_test() == Engine::Docker {
        return;
    }
    for (method, path, name) in [("POST", "/swarm/init", "swarm"), ("POST", "/plugins/pull", "plugins")] {
        let response = api.send(method, path, "", &[]).expect("an answer");
        assert_eq!(response.status, 501, "{method} {path}: {}", response.text());
        assert!(response.message().contains(name), "{method} {path}: {}", response.text());
    }
}

#[test]
fn an_engine_in_no_swarm_and_without_plugins() {
    let daemon = Daemon::empty(Engine::under_test(), &[]);
    let mut api = daemon.api();
    for (method, path) in [
        ("GET", "/swarm"),
        ("GET", "/services"),
        ("GET", "/nodes"),
        ("GET", "/tasks"),
        ("GET", "/secrets"),
        ("GET", "/configs"),
        ("POST", "/secrets/create"),
        ("DELETE", "/services/x"),
    ] {
        // With a body that nobody asked for: the answer is heard all the same.
        let response = api.send(method, path, "application/json", b"{}").expect("an answer");
        assert_eq!(response.status, 503, "{method} {path}: {}", response.text());
        assert!(response.message().contains("not a swarm manager"), "{method} {path}: {}", response.text());
    }
    let response = api.post_empty("/swarm/leave").expect("an answer");
    assert_eq!((response.status, response.message().as_str()), (503, "This node is not part of a swarm"));
    assert_eq!(api.get("/plugins").expect("an answer").json(), serde_json::json!([]));
    let response = api.get("/plugins/x/json").expect("an answer");
    assert_eq!((response.status, response.message().as_str()), (404, "plugin \"x\" not found"));
    let pruned = api.post_empty("/build/prune").expect("an answer");
    assert_eq!((pruned.status, &pruned.json()["SpaceReclaimed"]), (200, &serde_json::json!(0)));
}

/// A client that sends head and body one after the other, as Python's does, hears a refusal and not a broken pipe.
#[test]
fn a_refusal_waits_for_a_short_body() {
    use std::io::{Read, Write};
    let daemon = Daemon::empty(Engine::under_test(), &[]);
    let mut stream = daemon.api().connect().expect("a connection");
    let stream = stream.get_mut();
    let head = "POST /no/such/thing HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("the head is sent");
    hull_tests::wait_until("the daemon has read the head", std::time::Duration::from_secs(10), || {
        api_is_there(&daemon)
    });
    stream.write_all(b"{}").expect("the body is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

fn api_is_there(daemon: &Daemon) -> bool {
    daemon.api().get("/_ping").is_ok_and(|answer| answer.status == 200)
}

#[test]
fn dockers_own_client_drives_it() {
    let docker = std::path::Path::new("/usr/local/bin/docker");
    if !docker.exists() {
        eprintln!("left out: {} is not there", docker.display());
        return;
    }
    let daemon = Daemon::start();
    std::fs::remove_file(daemon.dir().join("bin/hull")).expect("the link is there");
    std::os::unix::fs::symlink(docker, daemon.dir().join("bin/hull")).expect("a link to docker's client");
    daemon.session(
        r#"
        $ hull run --rm busybox echo hello
        hello
        $ hull run -d --name box --label k=v busybox sh -c 'echo started; exec sleep 600'
        <id>
        $ hull ps --format '{{.Names}} {{.Image}} {{.State}} {{.Status}} {{.Labels}}'
        box busybox running Up <ago> k=v
        $ eventually sh -c 'hull logs box | grep started'; hull logs box
        started
        $ hull exec box cat /proc/1/comm
        sleep
        $ hull top box -o pid,args | tail -n 1 | grep -o 'sleep 600'
        sleep 600
        $ hull stats --no-stream --format '{{.Name}} {{.PIDs}}' box
        box 1
        $ echo copied >file; hull cp -q file box:/tmp/; hull exec box cat /tmp/file
        copied
        $ hull volume create vol; hull network create net
        vol
        <id>
        $ hull network connect net box; hull inspect -f '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}' box
        bridge net
        $ hull diff box
        C /tmp
        A /tmp/file
        $ hull commit box child >/dev/null; hull run --rm child cat /tmp/file
        copied
        $ hull system df --format '{{.Type}} {{.TotalCount}}' | grep -vE 'Build|Images'
        Containers 1
        Local Volumes 1
        $ hull rm -f box; hull network rm net; hull volume rm vol; hull rmi child | head -n 1
        box
        net
        vol
        Untagged: child:latest
        $ hull info --format '{{.Containers}} {{.OSType}}'
        0 linux
        "#,
    );
}
