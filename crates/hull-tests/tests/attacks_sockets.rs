//! Attacks on a socket with a policy by the form of a request: what the policy has judged is what is done
//! (CVE-2024-41110 was a body that Docker's plug-ins were not shown).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_tests::{Daemon, Engine};

/// What the socket says to these bytes, as far as it says something.
fn ask(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).expect("the socket");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    // One that has been refused already may have closed.
    stream.write_all(request).ok();
    stream.shutdown(std::net::Shutdown::Write).ok();
    let mut told = Vec::new();
    stream.read_to_end(&mut told).ok();
    String::from_utf8_lossy(&told).into_owned()
}

fn head(path: &str, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n{more}\r\n"
    )
}

fn with_length(path: &str, body: &str) -> Vec<u8> {
    (head(path, &format!("Content-Length: {}\r\n", body.len())) + body).into_bytes()
}

fn chunk(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// What becomes of a request: it is refused by the policy, is none, goes nowhere, or asks for nothing by words of its own.
fn expected(what: &str) -> &'static str {
    match what {
        "no length, then a body" | "two lengths" | "of no type" | "behind a mark" | "two values" => "400",
        // What two of one name say is put together. A key in other letters is the same key, for the policy as for the engine.
        "/containers/create/"
        | "/v1.43/containers/%63reate"
        | "/v1.43/./containers/create"
        | "/v1.43/x/../containers/create"
        | "/CONTAINERS/create" => "404",
        _ => "403",
    }
}

#[test]
fn a_request_s_form_gets_nothing_past_a_policy() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let socket: PathBuf = daemon.dir().join("confined.sock");
    daemon.ok(&["system", "socket", "add", &socket.display().to_string(), "confined"]);
    let create = "/v1.43/containers/create";
    let bad = r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"Privileged":true}}"#;
    let plain = ask(&socket, &with_length(create, bad));
    assert!(plain.starts_with("HTTP/1.1 403") && plain.contains("no-privilege"), "{plain}");
    let good = r#"{"Image":"busybox","Cmd":["true"]}"#;
    assert!(ask(&socket, &with_length(create, good)).starts_with("HTTP/1.1 201"));

    let chunked = "Transfer-Encoding: chunked\r\n";
    let padded = format!("{{\"Labels\":{{\"x\":\"{}\"}},{}", "x".repeat(1_500_000), &bad[1..]);
    let twice = |first: &str, second: &str| {
        format!(r#"{{"Image":"busybox","Cmd":["true"],"HostConfig":{first},"HostConfig":{second}}}"#)
    };
    let no_type = |request: Vec<u8>| {
        String::from_utf8(request)
            .expect("text")
            .replace("Content-Type: application/json\r\n", "")
            .into_bytes()
    };
    let mut requests: Vec<(&str, Vec<u8>)> = vec![
        ("in chunks", (head(create, chunked) + &chunk(bad)).into_bytes()),
        ("no length, then a body", (head(create, "Content-Length: 0\r\n") + bad).into_bytes()),
        (
            "no length, in chunks",
            (head(create, &format!("Content-Length: 0\r\n{chunked}")) + &chunk(bad)).into_bytes(),
        ),
        (
            "in chunks, no length",
            (head(create, &format!("{chunked}Content-Length: 0\r\n")) + &chunk(bad)).into_bytes(),
        ),
        (
            "two lengths",
            (head(create, &format!("Content-Length: 0\r\nContent-Length: {}\r\n", bad.len())) + bad)
                .into_bytes(),
        ),
        ("large", with_length(create, &padded)),
        ("large, in chunks", (head(create, chunked) + &chunk(&padded)).into_bytes()),
        ("twice, the first", with_length(create, &twice(r#"{"Privileged":true}"#, "{}"))),
        ("twice, the second", with_length(create, &twice("{}", r#"{"Privileged":true}"#))),
        ("in small letters", with_length(create, &bad.to_lowercase().replace("\"image\"", "\"Image\""))),
        (
            "in capital letters",
            with_length(create, &bad.replace("HostConfig", "HOSTCONFIG").replace("Privileged", "PRIVILEGED")),
        ),
        ("escaped", with_length(create, &bad.replace("Privileged", "\\u0050rivileged"))),
        ("of no type", no_type(with_length(create, bad))),
        ("behind a mark", with_length(create, &format!("\u{feff}{bad}"))),
        ("two values", with_length(create, &format!("{good}{bad}"))),
    ];
    for path in [
        "/containers/create",
        "//containers/create",
        "/v1.43//containers/create",
        "/containers/create/",
        "/v1.43/containers/%63reate",
        "/v1.43/./containers/create",
        "/v1.43/x/../containers/create",
        "http://x/v1.43/containers/create",
        "/v1.43/containers/create?name=a#b",
        "/CONTAINERS/create",
    ] {
        requests.push((path, with_length(path, bad)));
    }
    for (what, request) in &requests {
        let told = ask(&socket, request);
        assert_eq!(told.matches("HTTP/1.1 ").count(), 1, "{what}: {told}");
        let status = told.strip_prefix("HTTP/1.1 ").and_then(|told| told.get(..3));
        assert_eq!(status, Some(expected(what)), "{what}: {told}");
        let privileged = daemon
            .ok(&["ps", "-aq"])
            .lines()
            .any(|id| daemon.ok(&["inspect", "-f", "{{.HostConfig.Privileged}}", id]) != "false");
        assert!(!privileged, "{what}: {told}");
    }
    // Behind a request that is allowed, on the same connection.
    let mut two =
        String::from_utf8(with_length(create, good)).expect("text").replace("Connection: close\r\n", "");
    two.push_str(&String::from_utf8(with_length(create, bad)).expect("text"));
    let told = ask(&socket, two.as_bytes());
    assert!(told.contains("HTTP/1.1 201") && told.contains("HTTP/1.1 403"), "{told}");
}
