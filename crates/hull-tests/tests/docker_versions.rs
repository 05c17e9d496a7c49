//! What a version of the API began, moved or ended, as its clients see it; and the words of what cannot be read.

use hull_tests::{Client, Daemon, Engine, Response, Tar};
use serde_json::{Value, json};

fn get(api: &mut Client, path: &str) -> Value {
    let response = api.get(path).expect("an answer");
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json()
}

fn create(api: &mut Client, version: &str, name: &str, body: &Value) -> Response {
    api.post(&format!("{version}/containers/create?name={name}"), body).expect("an answer")
}

fn sleeper(api: &mut Client) {
    let created = create(api, "", "box", &json!({ "Image": "busybox", "Cmd": ["sleep", "1000"] }));
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(api.post_empty("/containers/box/start").expect("an answer").status, 204);
}

#[test]
fn shapes_that_ended_are_gone_for_who_names_the_version() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let mut api = daemon.api();
    sleeper(&mut api);
    // Who names no version keeps what scripts look for.
    for (version, there) in [("", true), ("/v1.51", true), ("/v1.52", false), ("/v1.56", false)] {
        let container = get(&mut api, &format!("{version}/containers/box/json"));
        assert_eq!(container["NetworkSettings"].get("IPAddress").is_some(), there, "{version}");
        assert!(container["NetworkSettings"]["Networks"]["bridge"].is_object(), "{version}");
        assert_eq!(container["Config"].get("OnBuild").is_some(), there, "{version}");
        let image = get(&mut api, &format!("{version}/images/busybox/json"));
        assert_eq!(image.get("Author").is_some(), there, "{version}");
        assert_eq!(image["Config"].get("Volumes").is_some(), there, "{version}");
        // Until a moment that is just to come: what happened in this second is before it.
        let filters = "filters=%7B%22event%22:%5B%22start%22%5D%7D";
        let events = format!("{version}/events?since=1&until={}&{filters}", now() + 1);
        let events = api.get(&events).expect("an answer").text();
        assert_eq!(events.contains("\"status\":\"start\""), there, "{version}: {events}");
        assert!(events.contains("\"Action\":\"start\""), "{version}: {events}");
    }
    for (path, lists, sums) in [
        ("/v1.51/system/df", true, false),
        ("/v1.52/system/df", true, true),
        ("/v1.52/system/df?verbose=1", false, true),
        ("/v1.53/system/df", false, true),
        ("/system/df", true, true),
    ] {
        let usage = get(&mut api, path);
        assert_eq!(usage.get("Images").is_some(), lists, "{path}");
        assert_eq!(usage.get("ImageUsage").is_some(), sums, "{path}");
        assert!(usage.get("BuilderSize").is_none(), "{path}");
    }
    assert!(get(&mut api, "/v1.41/system/df").get("BuilderSize").is_some());
    let info = get(&mut api, "/v1.24/info");
    assert_eq!(info["ExecutionDriver"], "<not supported>");
    assert!(info["SecurityOptions"].to_string().contains("\"seccomp\""), "{}", info["SecurityOptions"]);
    let address = json!({ "Image": "busybox", "MacAddress": "02:42:ac:11:00:99" });
    let refused = create(&mut api, "/v1.52", "", &address);
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.message().contains("use endpoint-specific MAC address"), "{}", refused.text());
    assert_eq!(create(&mut api, "/v1.51", "", &address).status, 201);
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("a time since 1970").as_secs()
}

#[test]
fn an_old_clients_container_is_as_it_was_then() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let settings = json!({ "Image": "busybox", "Cmd": ["cat", "/proc/sys/net/ipv4/conf/eth0/log_martians"],
        "HostConfig": { "Sysctls": { "net.ipv4.conf.eth0.log_martians": "1" } } });
    let moved = create(&mut api, "/v1.47", "moved", &settings);
    assert!(
        moved.json()["Warnings"][0].as_str().unwrap_or_default().starts_with("Migrated "),
        "{}",
        moved.text()
    );
    assert_eq!(daemon.ok(&["start", "-a", "moved"]), "1");
    let refused = create(&mut api, "/v1.48", "refused", &settings);
    assert_eq!(refused.status, 400, "{}", refused.text());
    for (name, body, words) in [
        ("annotation", json!({ "Annotations": { "": "a" } }), "the empty string is not permitted"),
        ("pid", json!({ "PidMode": "container:" }), "invalid PID mode: container:"),
    ] {
        let refused = create(&mut api, "", name, &json!({ "Image": "busybox", "HostConfig": body }));
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(refused.message().contains(words), "{}", refused.text());
    }
    // One word stands for a list of one.
    let word = json!({ "Image": "busybox", "HostConfig": { "CapAdd": "NET_ADMIN" } });
    assert_eq!(create(&mut api, "", "word", &word).status, 201);
    let shown = get(&mut api, "/containers/word/json");
    assert_eq!(shown["HostConfig"]["CapAdd"], json!(["NET_ADMIN"]));
}

#[test]
fn an_image_for_another_machine_earns_a_warning_and_users_are_counted() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let import = "/images/create?fromSrc=-&repo=elsewhere&tag=1&platform=linux/s390x";
    let archive = Tar::new().file("f", b"x").finish();
    assert_eq!(api.send("POST", import, "application/x-tar", &archive).expect("an answer").status, 200);
    let body = json!({ "Image": "elsewhere:1", "Cmd": ["/f"] });
    let warned = create(&mut api, "", "warned", &body);
    let warning = warned.json()["Warnings"][0].as_str().unwrap_or_default().to_owned();
    assert!(warning.starts_with("The requested image's platform (linux/s390x) does not match"), "{warning}");
    let asked = api.post("/containers/create?platform=linux/s390x", &body).expect("an answer");
    assert_eq!((asked.status, &asked.json()["Warnings"]), (201, &json!([])), "{}", asked.text());
    let mut counts = |version: &str| -> Value {
        let listed = get(&mut api, &format!("{version}/images/json"));
        let images = listed.as_array().expect("a list").iter();
        let found = images.filter(|image| image["RepoTags"][0] == "elsewhere:1");
        found.map(|image| image["Containers"].clone()).collect()
    };
    assert_eq!(counts("/v1.50"), json!([-1]));
    assert_eq!(counts("/v1.51"), json!([2]));
}

#[test]
fn a_prune_of_builds_is_of_the_kinds_that_it_names() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    daemon.session(
        r"
        $ mkdir ctx; printf 'FROM busybox\nRUN --mount=type=cache,target=/c touch /c/x\n' >ctx/Dockerfile; hull build -q ctx >/dev/null
        ",
    );
    let mut api = daemon.api();
    let kinds = |api: &mut Client| -> Vec<String> {
        let usage = get(api, "/v1.51/system/df?type=build-cache");
        let caches = usage["BuildCache"].as_array().expect("a list").iter();
        let mut kinds: Vec<String> =
            caches.map(|cache| cache["Type"].as_str().unwrap_or_default().to_owned()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let has = |api: &mut Client, kind: &str| kinds(api).iter().any(|there| there == kind);
    assert!(has(&mut api, "exec.cachemount") && has(&mut api, "regular"), "{:?}", kinds(&mut api));
    let mut prune = |filters: &str| {
        let pruned = api.post_empty(&format!("/build/prune?all=1&filters={filters}")).expect("an answer");
        assert_eq!(pruned.status, 200, "{}", pruned.text());
        (has(&mut api, "exec.cachemount"), has(&mut api, "regular"))
    };
    assert_eq!(prune("%7B%22inuse%22:%5B%22true%22%5D%7D"), (true, true));
    assert_eq!(prune("%7B%22type%22:%5B%22exec.cachemount%22%5D%7D"), (false, true));
    assert_eq!(prune("%7B%22type%22:%5B%22regular%22%5D%7D"), (false, false));
}

#[test]
fn a_body_is_read_and_refused_as_go_does() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let mut post = |path: &str, body: &str| {
        api.send("POST", path, "application/json", body.as_bytes()).expect("an answer")
    };
    for (path, body, words) in [
        ("/networks/create", "{ invalid", "invalid character 'i' looking for beginning of object key string"),
        ("/volumes/create", "{\"Name\":}", "invalid character '}' looking for beginning of value"),
        ("/volumes/create", "{} trailing", "unexpected content after JSON"),
        (
            "/containers/create",
            "{\"HostConfig\": {\"Memory\": \"1g\"}}",
            "cannot unmarshal string into Go struct field HostConfig.HostConfig.Memory of type int64",
        ),
        (
            "/networks/bridge/connect",
            "{\"Container\": 5}",
            "cannot unmarshal number into Go struct field ConnectRequest.Container of type string",
        ),
    ] {
        let refused = post(path, body);
        assert_eq!(refused.status, 400, "{path} {body}: {}", refused.text());
        assert!(refused.message().contains(words), "{path} {body}: {}", refused.text());
    }
    let twice = "{\"Name\": \"twice\", \"Labels\": {\"a\": \"1\", \"b\": \"1\"}, \"labels\": {\"b\": \"2\"}}";
    let made = post("/volumes/create", twice);
    assert_eq!(made.json()["Labels"], json!({ "a": "1", "b": "2" }), "{}", made.text());
    let short = post("/volumes/create", "{\"Name\": \"p\"}").message();
    assert!(short.contains("volume name is too short, names should be at least two"), "{short}");
}

#[test]
fn a_session_is_an_upgrade() {
    let daemon = Daemon::empty(Engine::under_test(), &[]);
    let mut api = daemon.api();
    let refused = api.post_empty("/session").expect("an answer");
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.message().contains("no upgrade"), "{}", refused.text());
    let head = b"POST /session HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n";
    let refused = daemon.api().raw(head, false).expect("an answer");
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.message().contains("not supported"), "{}", refused.text());
}

/// A client that has heard that its exec begins may set its terminal's size, whether the process is there yet or not.
#[test]
fn an_exec_that_is_on_its_way_has_a_size() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    sleeper(&mut api);
    for _ in 0..10 {
        let body = json!({ "Cmd": ["sleep", "100"], "Tty": true, "AttachStdout": true });
        let made = api.post("/containers/box/exec", &body).expect("an answer").json();
        let id = made["Id"].as_str().expect("an id");
        let stream = daemon.api().upgrade(&format!("/exec/{id}/start"), &json!({ "Tty": true }));
        let (head, _stream) = stream.expect("an answer");
        assert_eq!(head.status, 101, "{}", head.text());
        let resized = api.post_empty(&format!("/exec/{id}/resize?h=10&w=20")).expect("an answer");
        assert_eq!(resized.status, 200, "{}", resized.text());
    }
}

#[test]
fn a_folders_content_is_called_by_a_dot() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    sleeper(&mut api);
    for path in ["/.", ".", "./", "etc/./", "/etc/."] {
        let archive = api.get(&format!("/containers/box/archive?path={path}")).expect("an answer");
        assert_eq!(archive.status, 200, "{path}: {}", archive.text());
        let name: Vec<u8> = archive.body.iter().copied().take_while(|byte| *byte != 0).collect();
        assert!(matches!(&name[..], b"." | b"./"), "{path}: {}", String::from_utf8_lossy(&name));
    }
    daemon.session(
        r#"
        $ hull exec box sh -c 'mkdir /d /d/e; echo f >/d/e/f'; hull cp -q box:/d/. out; cat out/e/f
        f
        $ hull cp -q box:/d out; cat out/d/e/f
        f
        "#,
    );
}
