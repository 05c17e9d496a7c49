//! Answers that Docker's clients and the scripts around them take apart: what is said, in which order, under which name.

use std::collections::BTreeMap;

use hull_tests::{Client, Daemon, Response};
use serde_json::{Value, json};

#[track_caller]
fn says(response: &Response, status: u16, words: &str) {
    let message = response.message();
    assert!(response.status == status && message.contains(words), "{} {message}", response.status);
}

fn create(api: &mut Client, name: &str, body: &Value) -> Response {
    api.post(&format!("/v1.41/containers/create?name={name}"), body).expect("an answer")
}

fn sleeper(api: &mut Client, name: &str, host: &Value) -> String {
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host });
    let created = create(api, name, &body);
    assert_eq!(created.status, 201, "{}", created.text());
    let started = api.post_empty(&format!("/containers/{name}/start")).expect("an answer");
    assert_eq!(started.status, 204, "{}", started.text());
    created.json()["Id"].as_str().expect("an id").to_owned()
}

#[test]
fn what_is_wrong_with_a_creation() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    says(&create(&mut api, "", &json!({})), 400, "config cannot be empty in order to create a container");
    let host = |host: Value| json!({ "Image": "busybox", "HostConfig": host });
    for (body, words) in [
        (
            host(json!({ "Binds": ["/x:rel"] })),
            "invalid volume specification: '/x:rel': invalid mount config for",
        ),
        (host(json!({ "Binds": ["/x:/y:ro,rw"] })), "invalid mode: ro,rw"),
        (host(json!({ "CapAdd": ["foo"] })), "invalid CapAdd: unknown capability: \"CAP_FOO\""),
        (host(json!({ "ExtraHosts": ["a"] })), "bad format for add-host: \"a\""),
        (host(json!({ "ExtraHosts": ["a:b"] })), "invalid IP address in add-host: \"b\""),
        (host(json!({ "VolumesFrom": ["nope"] })), "No such container: nope"),
        (host(json!({ "LogConfig": { "Type": "foo" } })), "plugin \"foo\" not found"),
        (
            host(json!({ "RestartPolicy": { "Name": "always", "MaximumRetryCount": 2 } })),
            "maximum retry count can only be used with 'on-failure'",
        ),
    ] {
        says(&create(&mut api, "", &body), 400, words);
    }
    let body = br#"{"Image":"busybox"}"#;
    let text = api.send("POST", "/containers/create", "text/plain", body).expect("an answer");
    says(&text, 400, "unsupported Content-Type header (text/plain): must be 'application/json'");
    let other = api.post("/containers/create?platform=linux/s390x", &json!({ "Image": "busybox" }));
    says(&other.expect("an answer"), 404, "does not match the specified platform");
    let old = api.post("/v1.40/containers/create?platform=linux/s390x", &json!({ "Image": "busybox" }));
    assert_eq!(old.expect("an answer").status, 201, "a query that 1.40 does not know");
    let runc = create(&mut api, "runc", &host(json!({ "Runtime": "runc", "PidsLimit": -1 })));
    assert_eq!(runc.status, 201, "{}", runc.text());
    let shown = api.get("/containers/runc/json").expect("an answer").json();
    assert_eq!(shown["HostConfig"]["PidsLimit"], Value::Null);
    assert_eq!(shown["HostConfig"]["OomKillDisable"], json!(false));
    assert_eq!(shown["Config"]["Labels"], json!({}));
}

#[test]
fn a_kill_says_what_it_could_not_do() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let none = api.post_empty("/containers/nope/kill").expect("an answer");
    says(&none, 404, "cannot kill container: nope: No such container: nope");
    create(&mut api, "still", &json!({ "Image": "busybox" }));
    let still = api.post_empty("/containers/still/kill").expect("an answer");
    says(&still, 409, "cannot kill container: still: container ");
    says(
        &api.post_empty("/containers/still/rename").expect("an answer"),
        400,
        "Neither old nor new names may be empty",
    );
    says(&api.get("/containers/nope/logs").expect("an answer"), 400, "you must choose at least one stream");
    says(&api.post_empty("/containers/still/resize").expect("an answer"), 400, "invalid resize height \"\"");
}

#[test]
fn a_list_is_bounded_by_query_and_by_filter_and_keeps_its_versions_shape() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    for name in ["one", "two", "three"] {
        create(&mut api, name, &json!({ "Image": "busybox" }));
    }
    let mut names = |query: &str| -> Vec<String> {
        let listed = api.get(&format!("/containers/json?all=1&{query}")).expect("an answer").json();
        let shown = listed.as_array().expect("a list").iter();
        shown.map(|container| container["Names"][0].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names("before=two"), ["/one"]);
    assert_eq!(names("since=two"), ["/three"]);
    assert_eq!(names("filters=null").len(), 3);
    let of =
        |version: &str| daemon.api().get(&format!("/{version}/containers/json?all=1")).expect("an answer");
    assert_eq!(of("v1.51").json()[0].get("Health"), None);
    assert!(of("v1.52").json()[0].get("Health").is_some());
    // Also where there is no container of which it could be true.
    daemon.ok(&["rm", "one", "two", "three"]);
    for filter in
        [r#"{"status":["x"]}"#, r#"{"exited":["x"]}"#, r#"{"health":["x"]}"#, r#"{"is-task":["x"]}"#]
    {
        let encoded: String = filter.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let refused = daemon.api().get(&format!("/containers/json?filters={encoded}")).expect("an answer");
        says(&refused, 400, "invalid filter");
    }
    let pruned = daemon.api().post_empty("/containers/prune").expect("an answer").json();
    assert_eq!(pruned, json!({ "ContainersDeleted": null, "SpaceReclaimed": 0 }));
}

#[test]
fn an_exec_is_its_containers_until_it_is_over() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    sleeper(&mut api, "box", &json!({}));
    says(
        &api.post("/containers/nope/exec", &json!({})).expect("an answer"),
        400,
        "No exec command specified",
    );
    let exec = |api: &mut Client, body: &Value| -> String {
        let made = api.post("/containers/box/exec", body).expect("an answer");
        made.json()["Id"].as_str().expect("an id").to_owned()
    };
    let id = exec(&mut api, &json!({ "Cmd": ["true"] }));
    let ids =
        |api: &mut Client| api.get("/containers/box/json").expect("an answer").json()["ExecIDs"].clone();
    assert_eq!(ids(&mut api), json!([id]));
    let shown = api.get(&format!("/exec/{id}/json")).expect("an answer").json();
    assert_eq!(shown["DetachKeys"], "");
    assert_eq!(shown["CanRemove"], false);
    assert_eq!(shown["ProcessConfig"].get("user"), None);
    let response = api.post(&format!("/exec/{id}/start"), &json!({ "Detach": true })).expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    let id = exec(&mut api, &json!({ "Cmd": ["no-such-program"] }));
    let failed = api.post(&format!("/exec/{id}/start"), &json!({ "Detach": true })).expect("an answer");
    says(
        &failed,
        400,
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"no-such",
    );
    assert_eq!(api.get(&format!("/exec/{id}/json")).expect("an answer").json()["ExitCode"], 127);
    let id = exec(&mut api, &json!({ "Cmd": ["sleep", "100"] }));
    api.post(&format!("/exec/{id}/start"), &json!({ "Detach": true })).expect("an answer");
    let again = api.post(&format!("/exec/{id}/start"), &json!({ "Detach": true })).expect("an answer");
    says(&again, 409, "is already running");
    let resized = api.post_empty(&format!("/exec/{id}/resize?h=10&w=20")).expect("an answer");
    assert_eq!(resized.status, 200, "no terminal, and no mistake: {}", resized.text());
    let resized = api.post_empty("/containers/box/resize?h=10&w=20").expect("an answer");
    assert_eq!(resized.status, 200, "no terminal, and no mistake: {}", resized.text());
}

#[test]
fn an_update_contradicts_nothing_that_is_set() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    sleeper(&mut api, "box", &json!({ "CpuPeriod": 50000, "CpuQuota": 25000 }));
    let update =
        |api: &mut Client, body: &Value| api.post("/containers/box/update", body).expect("an answer");
    let conflict = update(&mut api, &json!({ "NanoCpus": 500_000_000 }));
    says(
        &conflict,
        409,
        "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
    );
    says(&update(&mut api, &json!({ "Memory": 33_554_432 })), 409, "update the memoryswap at the same time");
    let done = update(&mut api, &json!({ "Memory": 33_554_432, "MemorySwap": -1 }));
    assert_eq!((done.status, done.json()), (200, json!({ "Warnings": null })));
    let policy = json!({ "RestartPolicy": { "Name": "always", "MaximumRetryCount": 3 } });
    says(&update(&mut api, &policy), 400, "maximum retry count can only be used with 'on-failure'");
}

#[test]
fn events_come_in_the_order_of_what_they_tell() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    sleeper(&mut api, "box", &json!({}));
    daemon.ok(&["exec", "box", "true"]);
    daemon.ok(&["kill", "box"]);
    daemon.ok(&["start", "box"]);
    daemon.ok(&["rm", "-f", "box"]);
    let events =
        api.get("/events?since=1&until=0s&filters=%7B%22type%22:%5B%22container%22%5D%7D").expect("events");
    let actions: Vec<String> = events
        .text()
        .lines()
        .map(|line| serde_json::from_str::<BTreeMap<String, Value>>(line).expect("an event"))
        .map(|event| event["Action"].as_str().expect("an action").to_owned())
        .collect();
    let wanted = [
        "create",
        "start",
        "exec_create: true ",
        "exec_start: true ",
        "exec_die",
        "kill",
        "die",
        "start",
        "kill",
        "die",
        "destroy",
    ];
    assert_eq!(actions, wanted);
}

#[test]
fn a_read_only_root_has_read_only_files_of_the_network() {
    let daemon = Daemon::start();
    let tried = daemon.hull(&["run", "--rm", "--read-only", "busybox", "sh", "-c", "echo >>/etc/hosts"]);
    assert!(tried.status == 1 && tried.stderr.contains("Read-only file system"), "{tried:?}");
    let hosts = daemon.ok(&["run", "--rm", "--hostname", "web.example.org", "busybox", "cat", "/etc/hosts"]);
    assert!(hosts.lines().any(|line| line.ends_with("\tweb.example.org web")), "{hosts}");
}

#[test]
fn an_archive_of_nothing_extracts_nothing() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    create(&mut api, "box", &json!({ "Image": "busybox" }));
    let put =
        api.send("PUT", "/containers/box/archive?path=/tmp", "application/x-tar", b"").expect("an answer");
    assert_eq!(put.status, 200, "{}", put.text());
}

#[test]
fn a_network_that_is_not_there_is_missed_at_the_start() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let on = |mode: &str| json!({ "Image": "busybox", "HostConfig": { "NetworkMode": mode } });
    // A client takes 404 here for the image's, and pulls.
    for (name, mode, words) in
        [("one", "later", "network later not found"), ("two", "container:later", "No such container: later")]
    {
        assert_eq!(create(&mut api, name, &on(mode)).status, 201, "{mode}");
        let started = api.post_empty(&format!("/containers/{name}/start")).expect("an answer");
        says(&started, 404, words);
    }
    says(&create(&mut api, "none", &on("container:")), 400, "invalid container format");
    daemon.ok(&["network", "create", "later"]);
    daemon.ok(&["start", "one"]);
}

#[test]
fn a_container_that_removes_itself_can_be_removed_by_force() {
    let daemon = Daemon::start();
    for _ in 0..10 {
        let id = daemon.ok(&["run", "-d", "--rm", "busybox", "sleep", "1000"]);
        let removed = daemon.api().delete(&format!("/containers/{id}?force=1")).expect("an answer");
        assert_eq!(removed.status, 204, "{}", removed.text());
    }
}

#[test]
fn a_stream_never_comes_with_the_head_that_announces_it() {
    use std::io::Read;
    let daemon = Daemon::start();
    let mut api = daemon.api();
    sleeper(&mut api, "box", &json!({}));
    for _ in 0..20 {
        let body = json!({ "Cmd": ["echo", "hi"], "AttachStdout": true, "Tty": true });
        let made = api.post("/containers/box/exec", &body).expect("an answer").json();
        let id = made["Id"].as_str().expect("an id");
        let mut stream = daemon.api().connect().expect("a connection");
        let start = r#"{"Tty":true}"#;
        let request = format!(
            "POST /exec/{id}/start HTTP/1.1\r\nHost: hull\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{start}",
            start.len()
        );
        std::io::Write::write_all(stream.get_mut(), request.as_bytes()).expect("a request is sent");
        // One read, as large as a client's buffer: it may hold the head, and nothing of the stream.
        let mut head = vec![0; 8192];
        let mut length = 0;
        while !head[..length].ends_with(b"\r\n\r\n") {
            let read = stream.get_mut().read(&mut head[length..]).expect("an answer");
            assert!(read > 0, "{:?}", String::from_utf8_lossy(&head[..length]));
            length += read;
            assert!(!head[..length].ends_with(b"hi\r\n"), "the stream came with the head");
        }
        let mut output = String::new();
        stream.get_mut().read_to_string(&mut output).expect("the stream");
        assert_eq!(output, "hi\r\n");
    }
}

#[test]
fn a_filter_may_be_written_as_it_is() {
    let daemon = Daemon::start();
    create(&mut daemon.api(), "box", &json!({ "Image": "busybox" }));
    // As curl -g sends it, and scripts have it.
    let request =
        b"GET /v1.41/containers/json?all=1&filters={\"status\":[\"created\"]} HTTP/1.1\r\nHost: hull\r\n\r\n";
    let listed = daemon.api().raw(request, true).expect("an answer");
    assert_eq!((listed.status, listed.json().as_array().map(Vec::len)), (200, Some(1)));
}

#[test]
fn a_stream_needs_no_upgrade() {
    use std::io::{Read, Write};
    let daemon = Daemon::start();
    let mut api = daemon.api();
    sleeper(&mut api, "box", &json!({}));
    let body = json!({ "Cmd": ["cat"], "AttachStdin": true, "AttachStdout": true, "Tty": false });
    let exec = api.post("/containers/box/exec", &body).expect("an answer").json();
    let start = r#"{"Detach":false,"Tty":false}"#;
    let exec = format!(
        "POST /v1.41/exec/{}/start HTTP/1.1\r\nHost: hull\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{start}",
        exec["Id"].as_str().expect("an id"),
        start.len()
    );
    let cat = json!({ "Image": "busybox", "Cmd": ["cat"], "OpenStdin": true, "StdinOnce": true });
    assert_eq!(create(&mut api, "cat", &cat).status, 201);
    daemon.ok(&["start", "cat"]);
    let attach =
        "POST /containers/cat/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: hull\r\n\r\n".to_owned();
    for request in [exec, attach] {
        let mut stream = daemon.api().connect().expect("a connection");
        // The input is right behind the request, and over with it.
        stream.get_mut().write_all(format!("{request}hello\n").as_bytes()).expect("a request is sent");
        stream.get_mut().shutdown(std::net::Shutdown::Write).expect("the input ends");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the stream");
        let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
        let output = answer.split_off(head);
        let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
        assert!(head.contains("content-type: application/vnd.docker.raw-stream\r\n"), "{head}");
        assert!(!head.contains("transfer-encoding") && !head.contains("upgrade"), "{head}");
        assert_eq!(output, b"\x01\0\0\0\0\0\0\x06hello\n", "{head}");
    }
}

#[test]
fn limits_that_the_kernel_has_no_more_earn_a_warning() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let body = json!({ "Image": "busybox", "HostConfig": { "KernelMemory": 50_000_000 } });
    let created = create(&mut api, "box", &body).json();
    let discarded = json!([
        "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. Limitation \
         discarded."
    ]);
    assert_eq!(created["Warnings"], discarded);
    let updated =
        api.post("/containers/box/update", &json!({ "KernelMemory": 50_000_000 })).expect("an answer");
    assert_eq!(updated.json()["Warnings"], discarded);
    // What was discarded is not said again.
    let updated = api.post("/containers/box/update", &json!({ "CpuShares": 512 })).expect("an answer");
    assert_eq!(updated.json()["Warnings"], json!(null));
}

#[test]
fn an_image_is_of_one_platform_and_no_other_is_shown_saved_or_removed() {
    if hull_tests::Engine::under_test() == hull_tests::Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let machine = daemon.ok(&["image", "inspect", "-f", "{{.Architecture}}", "busybox"]);
    let json =
        |architecture: &str| format!("%7B%22os%22:%22linux%22,%22architecture%22:%22{architecture}%22%7D");
    let (own, other) = (json(&machine), json("riscv64"));
    for path in ["busybox/json", "busybox/history", "busybox/get"] {
        let mut get = |query: &str| api.get(&format!("/images/{path}?{query}")).expect("an answer");
        assert_eq!(get(&format!("platform={own}")).status, 200, "{path}");
        says(&get(&format!("platform={other}")), 404, "does not match the specified platform");
        let several = format!("platform={own}&platform={other}");
        says(&get(&several), 400, "multiple platform parameters not supported");
        says(&get("platform=%7B%22os%22:%22linux%22%7D"), 400, "failed to parse platform");
    }
    let both = api.get(&format!("/images/busybox/json?manifests=1&platform={own}")).expect("an answer");
    says(&both, 400, "manifests and platform options cannot both be set");
    let refused = api.delete(&format!("/images/busybox?platforms={other}")).expect("an answer");
    says(&refused, 404, "does not match the specified platform");
    assert_eq!(api.delete(&format!("/images/busybox?platforms={own}")).expect("an answer").status, 200);
    // What is no name in any registry is asked of none.
    let scratch = api.post_empty("/images/create?fromImage=scratch&tag=latest").expect("an answer");
    says(&scratch, 403, "'scratch' is a reserved name");
    let id = "0".repeat(64);
    for name in [id.clone(), format!("sha256:{id}")] {
        let asked = api.get(&format!("/distribution/{name}/json")).expect("an answer");
        says(&asked, 400, "no manifest found for full image ID");
    }
}
