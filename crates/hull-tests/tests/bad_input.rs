//! What no well-behaved client sends: always an answer with its status, never a hang, nothing half-made left.

use hull_tests::{Client, Daemon, Engine, Kind, Response, Tar};
use serde_json::{Value, json};

/// The answer is an error of the client's, in words.
#[track_caller]
fn refused(what: &str, response: &Response, statuses: &[u16]) {
    assert!(
        statuses.contains(&response.status),
        "{what}: answered {} {}, not one of {statuses:?}",
        response.status,
        response.text()
    );
    assert!(!response.message().is_empty(), "{what}: no message in {:?}", response.text());
}

fn create(api: &mut Client, name: &str, body: &Value) -> Response {
    api.post(&format!("/containers/create{name}"), body).expect("an answer")
}

#[test]
fn bodies_that_are_no_json_or_of_wrong_types() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    for body in
        ["", "{", "[]", "null", "\"text\"", "{\"Image\": 7}", "{\"Cmd\": {\"a\": 1}}", "{\"Env\": \"A=b\"}"]
    {
        let response =
            api.send("POST", "/containers/create", "application/json", body.as_bytes()).expect("an answer");
        refused(body, &response, &[400]);
    }
    let host = [
        json!({"Memory": "much"}),
        json!({"Memory": -5}),
        json!({"Memory": 1}),
        json!({"NanoCpus": -1}),
        json!({"PortBindings": {"no-port/tcp": [{}]}}),
        json!({"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}),
        json!({"RestartPolicy": {"Name": "sometimes"}}),
        json!({"Binds": ["one:two:three:four:five"]}),
        json!({"Binds": ["/:/"]}),
        json!({"LogConfig": {"Type": "no-such-driver"}}),
        json!({"Ulimits": [{"Name": "no-such-limit", "Soft": 1, "Hard": 1}]}),
    ];
    for host in host {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host});
        refused(&body.to_string(), &create(&mut api, "", &body), &[400]);
    }
    let binary =
        api.send("POST", "/containers/create", "application/json", &[0, 159, 146, 150]).expect("an answer");
    refused("bytes that are no text", &binary, &[400]);
    let text = api.send("POST", "/containers/create", "text/plain", b"{}").expect("an answer");
    refused("another content type", &text, &[400, 415]);
    assert_eq!(daemon.ok(&["ps", "-aq"]), "");
}

#[test]
fn names_and_ids() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let body = json!({"Image": "busybox", "Cmd": ["true"]});
    for name in ["a%2Fb", "a%0Ab", "%20", ".a", "-a", "a%00b", "a", "..", "%F0%9F%90%B3"] {
        refused(name, &create(&mut api, &format!("?name={name}"), &body), &[400]);
    }
    for path in [
        "/containers/no-such/json",
        "/containers/%0A/json",
        "/images/no-such/json",
        "/volumes/no-such",
        "/networks/no-such",
        "/exec/no-such/json",
    ] {
        refused(path, &api.get(path).expect("an answer"), &[404]);
    }
    refused(
        "a path above",
        &api.get("/containers/..%2F..%2Fetc%2Fpasswd/json").expect("an answer"),
        &[400, 404],
    );
    // Seventeen containers: two ids share their first digit.
    for _ in 0..17 {
        assert_eq!(create(&mut api, "", &body).status, 201);
    }
    let ids = daemon.ok(&["ps", "-aq"]);
    let mut firsts: Vec<&str> = ids.lines().map(|id| &id[..1]).collect();
    firsts.sort_unstable();
    let shared = firsts.windows(2).find(|pair| pair[0] == pair[1]).expect("17 ids over 16 digits")[0];
    let response = api.get(&format!("/containers/{shared}/json")).expect("an answer");
    refused("an ambiguous id", &response, &[400, 404, 409, 500]);
    assert!(!daemon.ok(&["inspect", "-f", "{{.Id}}", &ids.lines().next().expect("an id")[..12]]).is_empty());
}

#[test]
fn requests_that_are_no_http() {
    let daemon = Daemon::start();
    let api = daemon.api();
    let status = |bytes: &[u8]| api.raw(bytes, true).map(|response| response.status).unwrap_or(0);
    // Closing without a word is an answer too, to what is no HTTP at all.
    assert!(matches!(status(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"), 0 | 400));
    assert!(matches!(status(b"GET / HTTP/9.9\r\n\r\n"), 0 | 400 | 505));
    assert!(matches!(status(b"GET /_ping HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n"), 0 | 400));
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(1 << 20));
    assert!(matches!(status(long.as_bytes()), 0 | 400 | 404 | 414 | 431));
    let many = format!("GET /_ping HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(100_000));
    assert!(matches!(status(many.as_bytes()), 0 | 200 | 400 | 431));
    // A body that ends before its length: refused, or the connection closed.
    let short = b"POST /containers/create HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"Image\":";
    assert!(matches!(status(short), 0 | 400));
    assert_eq!(daemon.api().get("/_ping").expect("it still serves").status, 200);
}

#[test]
fn a_body_of_too_many_values_and_a_log_of_too_many_files() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    // Of the length that is taken; each of its two bytes would be a value of tens of bytes, kept more than once.
    let body = format!("{{\"HostConfig\": {{\"x\": [{}0]}}}}", "0,".repeat((8 << 20) / 2 - 100));
    let before = peak(daemon.pid());
    let response =
        api.send("POST", "/containers/create", "application/json", body.as_bytes()).expect("an answer");
    refused("four million values", &response, &[400]);
    assert!(response.message().contains("more than 100000 values"), "{}", response.text());
    let taken = peak(daemon.pid()) - before;
    assert!(taken < 64 << 10, "{taken} KiB for a body of 8 MiB");
    let log = json!({"Type": "local", "Config": {"max-file": "4294967295"}});
    let body = json!({"Image": "busybox", "HostConfig": {"LogConfig": log}});
    let response = create(&mut api, "", &body);
    refused("four billion files", &response, &[400]);
    assert!(response.message().contains("max-file: 4294967295 files are more"), "{}", response.text());
}

/// The most memory that a process has had, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_body_that_is_too_large() {
    if Engine::under_test() == Engine::Docker {
        // dockerd reads whatever comes.
        return;
    }
    let daemon = Daemon::start();
    let mut body = b"{\"Image\": \"busybox\", \"Env\": [\"A=".to_vec();
    body.resize(64 << 20, b'x');
    body.extend_from_slice(b"\"]}");
    let response =
        daemon.api().send("POST", "/containers/create", "application/json", &body).expect("an answer");
    refused("a body of 64 MiB", &response, &[400, 413]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let response = daemon
        .api()
        .send("POST", "/containers/create", "application/json", deep.as_bytes())
        .expect("an answer");
    refused("a body of deep nesting", &response, &[400]);
    assert_eq!(daemon.api().get("/_ping").expect("it still serves").status, 200);
}

/// Archives that reach out of their root, by any of the ways a tar file has.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let up = "../../../../../../../../../../../../../../tmp/hull-tests-escaped";
    let absolute = "/tmp/hull-tests-escaped";
    vec![
        ("a name with ..", Tar::new().file(up, b"out").finish()),
        (
            "a symbolic link up, then a file through it",
            through_link("../../../../../../../../../../../../tmp"),
        ),
        ("a symbolic link to the host's /tmp, then a file through it", through_link("/tmp")),
        ("a hard link to the host", Tar::new().entry(Kind::HardLink, "passwd", "/etc/passwd", b"").finish()),
        (
            "a hard link up",
            Tar::new().entry(Kind::HardLink, "link", "../../../../../../../etc/shadow", b"").finish(),
        ),
        (
            "a file written through a link of the same name",
            Tar::new().entry(Kind::SymLink, "f", absolute, b"").file("f", b"out").finish(),
        ),
        ("an absolute name", Tar::new().file(absolute, b"out").finish()),
    ]
}

fn through_link(target: &str) -> Vec<u8> {
    Tar::new().entry(Kind::SymLink, "link", target, b"").file("link/hull-tests-escaped", b"out").finish()
}

fn assert_nothing_escaped(what: &str) {
    let escaped = std::path::Path::new("/tmp/hull-tests-escaped");
    let out = escaped.exists();
    std::fs::remove_file(escaped).ok();
    assert!(!out, "{what}: a file was written outside");
}

#[test]
fn hostile_archives_stay_inside() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    for (what, archive) in hostile() {
        let import = "/images/create?fromSrc=-&repo=hostile&tag=latest";
        let imported = api.send("POST", import, "application/x-tar", &archive).expect("an answer");
        assert!(imported.status < 600, "{what}: {}", imported.text());
        assert_nothing_escaped(what);
        let put = api
            .send("PUT", "/containers/box/archive?path=/", "application/x-tar", &archive)
            .expect("an answer");
        assert!(put.status < 600, "{what}: {}", put.text());
        assert_nothing_escaped(what);
        if imported.status == 200 && !imported.text().contains("\"error\"") {
            // What was let in is unpacked for a container: there too it stays inside.
            let run = daemon.hull(&["create", "--name", "hostile", "hostile", "/none"]);
            if run.status == 0 {
                daemon.hull(&["export", "-o", "/dev/null", "hostile"]);
                daemon.ok(&["rm", "hostile"]);
            }
            assert_nothing_escaped(what);
            daemon.hull(&["rmi", "-f", "hostile"]);
        }
    }
    let before = std::fs::metadata("/etc/passwd").expect("it is there");
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&before), 1, "/etc/passwd has a second name");
}

#[test]
fn archives_that_are_cut_or_nonsense_are_refused_and_leave_nothing() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let images = daemon.ok(&["images", "-q"]);
    let cut = Tar::new().file("a", &vec![7; 100_000]).unfinished();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nonsense", b"this is no archive at all".repeat(100)),
        ("a cut entry", cut[..50_000].to_vec()),
        ("a claim of 8 GiB with nothing behind it", Tar::new().claim("big", (1 << 33) - 1).unfinished()),
        ("a gzip header and nothing", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]),
    ];
    for (what, archive) in &cases {
        let import = "/images/create?fromSrc=-&repo=cut&tag=latest";
        let response = api.send("POST", import, "application/x-tar", archive).expect("an answer");
        let text = response.text();
        assert!(
            response.status >= 400 || text.contains("\"error\""),
            "import of {what}: {} {text}",
            response.status
        );
        let response = api.send("POST", "/images/load", "application/x-tar", archive).expect("an answer");
        let text = response.text();
        assert!(
            response.status >= 400 || text.contains("\"error\""),
            "load of {what}: {} {text}",
            response.status
        );
    }
    let manifest = |layers: Value, config: &str| {
        let manifest = json!([{"Config": config, "RepoTags": ["bad:latest"], "Layers": layers}]);
        Tar::new().file("manifest.json", manifest.to_string().as_bytes())
    };
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))]}});
    let layer = Tar::new().file("f", b"x").finish();
    let loads = [
        (
            "a layer that is not there",
            manifest(json!(["no.tar"]), "c.json").file("c.json", config.to_string().as_bytes()),
        ),
        (
            "a layer whose digest is another",
            manifest(json!(["l.tar"]), "c.json")
                .file("c.json", config.to_string().as_bytes())
                .file("l.tar", &layer),
        ),
        ("a configuration that is not there", manifest(json!([]), "c.json")),
        ("a configuration outside", manifest(json!([]), "../../../../../../etc/passwd")),
        ("a configuration that is no JSON", manifest(json!([]), "c.json").file("c.json", b"{")),
        ("a manifest that is no list", Tar::new().file("manifest.json", b"{}")),
        (
            "a layer that is a link to the host",
            manifest(json!(["l.tar"]), "c.json").file("c.json", config.to_string().as_bytes()).entry(
                Kind::SymLink,
                "l.tar",
                "/etc/passwd",
                b"",
            ),
        ),
    ];
    for (what, archive) in loads {
        let response =
            api.send("POST", "/images/load", "application/x-tar", &archive.finish()).expect("an answer");
        let text = response.text();
        assert!(response.status >= 400 || text.contains("\"error\""), "{what}: {} {text}", response.status);
    }
    assert_eq!(daemon.ok(&["images", "-q"]), images);
    assert_eq!(api.get("/_ping").expect("it still serves").status, 200);
}

#[test]
fn clients_that_go_away_at_any_point() {
    use std::io::Write;
    let daemon = Daemon::start();
    let archive = Tar::new().file("a", &vec![7; 1_000_000]).finish();
    let head = format!(
        "POST /images/create?fromSrc=-&repo=gone HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        archive.len()
    );
    let whole = [head.as_bytes(), &archive].concat();
    for cut in [1, head.len() / 2, head.len(), head.len() + 600, head.len() + 500_000] {
        let mut stream = daemon.api().connect().expect("a connection");
        stream.get_mut().write_all(&whole[..cut]).expect("sent");
    }
    for request in ["GET /events HTTP/1.1\r\nHost: h\r\n\r\n", "GET /containers/create HTTP/1.1\r\n"] {
        let mut stream = daemon.api().connect().expect("a connection");
        stream.get_mut().write_all(request.as_bytes()).expect("sent");
    }
    assert_eq!(daemon.api().get("/_ping").expect("it still serves").status, 200);
    assert_eq!(daemon.ok(&["images", "-q", "gone"]), "");
}
