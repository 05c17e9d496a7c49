//! Details of Docker's answers that programs on top of it rely on: docker-py, the client's own templates and filters.

use std::io::{Read, Write};
use std::net::TcpListener;

use hull_tests::{Client, Daemon, Response, Tar, busybox_rootfs, frames};
use serde_json::{Value, json};

#[track_caller]
fn says(response: &Response, status: u16, words: &str) {
    let message = response.message();
    assert!(response.status == status && message.contains(words), "{} {message}", response.status);
}

fn create(api: &mut Client, name: &str, body: &Value) -> Response {
    api.post(&format!("/v1.41/containers/create?name={name}"), body).expect("an answer")
}

fn host(host: Value) -> Value {
    json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host })
}

#[track_caller]
fn made(api: &mut Client, name: &str, body: &Value) -> Value {
    let created = create(api, name, body);
    assert_eq!(created.status, 201, "{}", created.text());
    api.get(&format!("/v1.41/containers/{name}/json")).expect("an answer").json()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[test]
fn what_creation_fills_in_is_shown() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let other = made(&mut api, "other", &host(json!({})))["Id"].as_str().expect("an id").to_owned();
    daemon.ok(&["start", "other"]);
    let limited = json!({ "Memory": 64 << 20, "PidMode": "container:other", "IpcMode": "private" });
    let shown = made(&mut api, "box", &host(limited));
    assert_eq!(shown["HostConfig"]["MemorySwap"], json!(128 << 20));
    assert_eq!(shown["HostConfig"]["PidMode"], json!(format!("container:{other}")));
    // As much memory as that is no conflict with what was filled in.
    let more = api.post("/containers/box/update", &json!({ "Memory": 100 << 20 })).expect("an answer");
    assert_eq!(more.status, 200, "{}", more.text());
    let most = api.post("/containers/box/update", &json!({ "Memory": 200 << 20 })).expect("an answer");
    says(&most, 409, "Memory limit should be smaller than already set memoryswap limit");
    let least = api.post("/containers/box/update", &json!({ "Memory": 1 })).expect("an answer");
    says(&least, 400, "Minimum memory limit allowed is 6MB");
    let bare = json!({ "Image": "busybox", "Env": ["A=1", "PATH"], "Cmd": ["env"] });
    assert_eq!(made(&mut api, "env", &bare)["Config"]["Env"], json!(["A=1", "PATH"]));
    assert!(!daemon.ok(&["start", "-a", "env"]).contains("PATH"));
}

#[test]
fn names_in_bodies_are_taken_in_any_case() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let body = json!({ "image": "busybox", "cmd": ["sleep", "1000"], "labels": { "cmd": "kept", "Cmd": "too" },
        "hostconfig": { "memory": 64 << 20, "extrahosts": ["a:1.2.3.4"], "NanoCPUs": 500_000_000 } });
    let shown = made(&mut api, "box", &body);
    assert_eq!(shown["Config"]["Labels"], json!({ "cmd": "kept", "Cmd": "too" }));
    let host = &shown["HostConfig"];
    assert_eq!((&host["Memory"], &host["ExtraHosts"]), (&json!(64 << 20), &json!(["a:1.2.3.4"])));
    assert_eq!(host["NanoCpus"], json!(500_000_000));
    says(&create(&mut api, "none", &json!({ "hostconfig": {} })), 400, "config cannot be empty");
    let updated =
        api.post("/containers/box/update", &json!({ "memoryreservation": 32 << 20 })).expect("an answer");
    assert_eq!(updated.status, 200, "{}", updated.text());
    daemon.ok(&["start", "box"]);
    let exec = api
        .post("/containers/box/exec", &json!({ "attachstdout": true, "CMD": ["true"] }))
        .expect("an answer");
    assert_eq!(exec.status, 201, "{}", exec.text());
    let network = json!({ "name": "small", "ipam": { "config": [{ "subnet": "10.211.77.0/24" }] } });
    assert_eq!(api.post("/networks/create", &network).expect("an answer").status, 201);
    let shown = api.get("/networks/small").expect("an answer").json();
    assert_eq!(shown["IPAM"]["Config"][0]["Subnet"], json!("10.211.77.0/24"));
    let connected = json!({ "container": "box", "endpointconfig": { "aliases": ["other"] } });
    assert_eq!(api.post("/networks/small/connect", &connected).expect("an answer").status, 200);
    let volume =
        api.post("/volumes/create", &json!({ "name": "vol", "labels": { "A": "b" } })).expect("an answer");
    assert_eq!(volume.json()["Labels"], json!({ "A": "b" }));
}

#[test]
fn what_creation_refuses_it_refuses_in_dockers_words() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    for (body, words) in [
        (json!({ "Image": "busybox", "Env": [""] }), "invalid environment variable: "),
        (
            host(json!({ "Mounts": [{ "Type": "volume", "Target": "/x", "ReadOnly": true }] })),
            "invalid mount config for type \"volume\": must not set ReadOnly mode when using anonymous volumes",
        ),
        (
            host(json!({ "Mounts": [{ "Type": "npipe", "Source": "/a", "Target": "/x" }] })),
            "invalid mount config for type \"npipe\": mount type unknown",
        ),
        (
            host(json!({ "PortBindings": { "80-81/tcp": [{ "HostPort": "8000" }] } })),
            "invalid port specification: \"80-81\"",
        ),
        (
            host(json!({ "CpuRealtimePeriod": 100, "CpuRealtimeRuntime": 200 })),
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ),
        (
            host(json!({ "LogConfig": { "Type": "json-file", "Config": { "mode": "x" } } })),
            "logger: logging mode not supported: x",
        ),
        (
            host(json!({ "LogConfig": { "Type": "json-file", "Config": { "max-buffer-size": "1m" } } })),
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        (
            host(json!({ "LogConfig": { "Type": "json-file", "Config": { "tag": "{{.Nothing}}" } } })),
            "invalid log tag",
        ),
    ] {
        says(&create(&mut api, "", &body), 400, words);
    }
    made(&mut api, "one", &host(json!({})));
    made(&mut api, "two", &host(json!({})));
    let mut rename =
        |to: &str| api.post_empty(&format!("/containers/one/rename?name={to}")).expect("an answer");
    let taken = "Error when allocating new name: Conflict. The container name \"/two\" is already in use";
    says(&rename("two"), 409, taken);
    says(&rename("x"), 400, "Error when allocating new name: Invalid container name (/x), only");
    daemon.ok(&["start", "one"]);
    let signal = daemon.api().post_empty("/containers/one/kill?signal=99").expect("an answer");
    says(&signal, 400, "The linux daemon does not support signal 99");
    let network = json!({ "Name": "own", "IPAM": { "Driver": "nope" } });
    says(
        &daemon.api().post("/networks/create", &network).expect("an answer"),
        404,
        "plugin \"nope\" not found",
    );
}

/// What was found by asking both engines the same odd things.
#[test]
fn odd_requests_are_answered_as_docker_answers_them() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let options = api.send("OPTIONS", "/v1.41/no/such/path", "", &[]).expect("an answer");
    assert_eq!((options.status, options.body.len()), (200, 0));
    for (filters, words) in [
        ("x", "invalid filter: invalid character 'x' looking for beginning of value"),
        ("[]", "cannot unmarshal array into Go value of type map[string]map[string]bool"),
        ("{\"a\":1}", "cannot unmarshal number into Go value of type map[string]bool"),
        ("{\"name\":[1]}", "cannot unmarshal array into Go value of type map[string]bool"),
        ("{\"name\":{\"a\":1}}", "cannot unmarshal number into Go value of type bool"),
        ("{}x", "invalid character 'x' after top-level value"),
    ] {
        let path = format!("/containers/json?filters={}", encoded(filters));
        says(&api.get(&path).expect("an answer"), 400, words);
    }
    let none = format!("/containers/json?all=1&filters={}", encoded("{\"name\":null}"));
    assert_eq!(api.get(&none).expect("an answer").status, 200);
    made(&mut api, "odd", &json!({ "Image": "busybox", "Cmd": ["sleep", "1000"] }));
    for (path, words) in [
        (
            "/containers/odd/stop?t=x",
            "strconv.Atoi: parsing \"x\": invalid syntax: the query's t is a whole number",
        ),
        ("/containers/odd/restart?t=1.5", "strconv.Atoi: parsing \"1.5\": invalid syntax"),
        ("/containers/odd/stop?t=99999999999999999999", "value out of range"),
        ("/containers/odd/exec", "No exec command specified"),
        ("/auth", "got EOF while reading request body"),
    ] {
        says(&api.post_empty(path).expect("an answer"), 400, words);
    }
    for (body, words) in [
        (host(json!({ "Binds": ["/etc:/b:shared,slave"] })), "invalid mode: shared,slave"),
        (host(json!({ "Binds": ["/etc:/b:z,Z"] })), "invalid mode: z,Z"),
        (host(json!({ "NetworkMode": "container" })), "invalid container format container:<name|id>"),
        (
            host(json!({ "BlkioDeviceReadBps": [{ "Path": "/dev/nope", "Rate": 5 }] })),
            "the block device \"/dev/nope\" is not there",
        ),
    ] {
        says(&create(&mut api, "", &body), 400, words);
    }
    says(&api.post_empty("/exec/none/start").expect("an answer"), 404, "No such exec instance");
    says(
        &api.get("/networks/bridge?verbose=x").expect("an answer"),
        400,
        "invalid value for verbose: x: strconv.ParseBool",
    );
    // Who says nothing of a volume or an update says so: a body need not be there.
    assert_eq!(api.post_empty("/volumes/create").expect("an answer").status, 201);
    assert_eq!(api.post_empty("/containers/odd/update").expect("an answer").status, 200);
    for (path, body, field) in [
        ("/containers/odd/update", json!({ "Memory": "x" }), "UpdateConfig.Memory of type int64"),
        ("/volumes/create", json!({ "Name": 5 }), "CreateRequest.Name of type string"),
        ("/networks/create", json!({ "Name": 5 }), "CreateRequest.Name of type string"),
        ("/networks/bridge/connect", json!({ "Container": 5 }), "ConnectRequest.Container of type string"),
        ("/networks/bridge/disconnect", json!({ "Force": 5 }), "DisconnectRequest.Force of type bool"),
    ] {
        let words = format!("into Go struct field {field}");
        says(&api.post(path, &body).expect("an answer"), 400, &words);
    }
    // Whatever version a client speaks: what is for another kind of mount is not dropped, and the terminal's size is kept.
    let options = json!([{ "Type": "bind", "Source": "/etc", "Target": "/a", "VolumeOptions": {} }]);
    for path in ["/containers/create", "/v1.41/containers/create"] {
        let answer = api.post(path, &host(json!({ "Mounts": options }))).expect("an answer");
        let words = "invalid mount config for type \"bind\": field VolumeOptions must not be specified";
        says(&answer, 400, words);
    }
    let sized = host(json!({ "ConsoleSize": [1, 2] }));
    assert_eq!(api.post("/v1.41/containers/create?name=sized", &sized).expect("an answer").status, 201);
    let shown = api.get("/containers/sized/json").expect("an answer").json();
    assert_eq!(shown["HostConfig"]["ConsoleSize"], json!([1, 2]));
    let root = json!({ "Image": "busybox", "Volumes": { "/": {} } });
    says(
        &create(&mut api, "", &root),
        400,
        "invalid volume specification: '/': invalid mount config for type \"volume\": invalid specification: destination can't be '/'",
    );
    let body = json!({
        "Image": "busybox", "Entrypoint": [], "WorkingDir": "/a/../b", "Healthcheck": { "Test": [], "Retries": 2 }
    });
    let config = made(&mut api, "cleaned", &body)["Config"].clone();
    assert_eq!(config["Entrypoint"], json!([]));
    assert_eq!(config["WorkingDir"], "/b");
    assert_eq!(config["Healthcheck"], json!({ "Retries": 2 }));
}

#[test]
fn modes_of_volumes_are_shown_as_docker_shows_them() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let mounts = |shown: &Value| -> Vec<(String, String, bool)> {
        let mounts = shown["Mounts"].as_array().expect("mounts").iter();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        mounts
            .map(|mount| {
                (text(&mount["Destination"]), text(&mount["Mode"]), mount["RW"].as_bool().expect("RW"))
            })
            .collect()
    };
    let body = json!({
        "Image": "busybox",
        "Volumes": { "/anonymous": {} },
        "HostConfig": {
            "Binds": ["named:/named", "other:/other:ro", "/tmp:/bind"],
            "Mounts": [{ "Type": "volume", "Source": "third", "Target": "/third" }],
        },
    });
    let own = [
        ("/anonymous", "", true),
        ("/bind", "", true),
        ("/named", "z", true),
        ("/other", "ro", false),
        ("/third", "z", true),
    ];
    let wanted = |list: &[(&str, &str, bool)]| -> Vec<(String, String, bool)> {
        list.iter().map(|(place, mode, rw)| ((*place).to_owned(), (*mode).to_owned(), *rw)).collect()
    };
    assert_eq!(mounts(&made(&mut api, "box", &body)), wanted(&own));
    let inherited = own.map(|(place, _, rw)| (place, "", rw));
    let from = json!({ "Image": "busybox", "HostConfig": { "VolumesFrom": ["box"] } });
    assert_eq!(mounts(&made(&mut api, "from", &from)), wanted(&inherited));
}

#[test]
fn an_exec_is_framed_as_its_start_says() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    made(&mut api, "box", &host(json!({})));
    daemon.ok(&["start", "box"]);
    // docker-py says that there is a terminal when it makes the exec, and need not say it again.
    for (start, wanted) in [(json!({ "Tty": false }), Some(&b"hi\r\n"[..])), (json!({ "Tty": true }), None)] {
        let body = json!({ "Cmd": ["echo", "hi"], "AttachStdout": true, "AttachStderr": true, "Tty": true,
                           "detachKeys": "ctrl-p" });
        let exec = api.post("/containers/box/exec", &body).expect("an answer").json();
        let id = exec["Id"].as_str().expect("an id");
        let (_, mut stream) = api.upgrade(&format!("/exec/{id}/start"), &start).expect("a stream");
        let mut output = Vec::new();
        stream.read_to_end(&mut output).expect("the stream");
        match wanted {
            Some(text) => assert_eq!(frames(&output), [(1, text.to_vec())]),
            None => assert_eq!(output, b"hi\r\n"),
        }
        let shown = api.get(&format!("/exec/{id}/json")).expect("an answer").json();
        // ctrl-p, as Go writes bytes: docker-py spells the field with a small letter.
        assert_eq!(shown["DetachKeys"], json!("EA=="));
    }
}

#[test]
fn lists_and_prunes_are_filtered_as_dockers() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let published = json!({ "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8081" }] } });
    made(&mut api, "box", &host(published));
    daemon.ok(&["start", "box"]);
    let mut listed = |filter: &str| {
        let path = format!("/containers/json?filters={}", encoded(filter));
        api.get(&path).expect("an answer").json().as_array().map(Vec::len)
    };
    // By the port of the host.
    assert_eq!(listed(r#"{"publish":["8081"]}"#), Some(1));
    assert_eq!(listed(r#"{"publish":["80"]}"#), Some(0));
    let mut asked = |method: &str, path: &str, filter: &str| {
        let path = format!("{path}?filters={}", encoded(filter));
        if method == "GET" { api.get(&path) } else { api.post_empty(&path) }.expect("an answer")
    };
    says(&asked("GET", "/images/json", r#"{"dangling":["x"]}"#), 400, "invalid filter 'dangling=[x]'");
    says(&asked("GET", "/images/json", r#"{"reference":["["]}"#), 400, "syntax error in pattern");
    let twice = asked("POST", "/containers/prune", r#"{"until":["1h","2h"]}"#);
    says(&twice, 400, "more than one until filter specified");
    // A volume with options stands for something elsewhere.
    daemon.ok(&["volume", "create", "plain"]);
    daemon.ok(&["volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "elsewhere"]);
    let pruned = asked("POST", "/v1.41/volumes/prune", "{}").json();
    assert_eq!(pruned["VolumesDeleted"], json!(["plain"]));
    assert_eq!(daemon.ok(&["volume", "ls", "-q"]), "elsewhere");
}

#[test]
fn an_image_tells_of_which_container_it_was_made() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "Labels": { "a": "b" } });
    let id = made(&mut api, "box", &body)["Id"].clone();
    daemon.ok(&["start", "box"]);
    daemon.ok(&["commit", "box", "child:1"]);
    let child = api.get("/v1.41/images/child:1/json").expect("an answer").json();
    assert_eq!(child["Container"], id);
    assert_eq!(child["ContainerConfig"]["Image"], json!("busybox"));
    assert_eq!(child["ContainerConfig"]["Labels"], json!({ "a": "b" }));
    // The container goes on behind the news of its image.
    let events = api.get("/events?since=1&until=0s").expect("events").text();
    let actions: Vec<String> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an event"))
        .map(|event| {
            format!("{} {}", event["Type"].as_str().unwrap_or(""), event["Action"].as_str().unwrap_or(""))
        })
        .collect();
    let last = ["container pause", "image tag", "container commit", "container unpause"];
    assert!(actions.ends_with(&last.map(str::to_owned)), "{actions:?}");
    // What is built on it was not made of that container, but of its own.
    let context = Tar::new().file("Dockerfile", b"FROM child:1\nLABEL c=d\n").finish();
    // As docker-py asks unless told otherwise: the containers of steps stay.
    let path = "/v1.41/build?t=grandchild&rm=False&forcerm=False&q=False";
    let built = api.send("POST", path, "application/x-tar", &context).expect("an answer");
    assert!(built.status == 200 && built.text().contains("Successfully built"), "{}", built.text());
    let grandchild = api.get("/v1.41/images/grandchild/json").expect("an answer").json();
    let made_of = api.get("/containers/json?all=1").expect("an answer").json()[0].clone();
    assert_eq!(made_of["Command"], json!("/bin/sh -c '#(nop) ' 'LABEL c=d'"));
    assert_eq!((&grandchild["Container"], &grandchild["Parent"]), (&made_of["Id"], &child["Id"]));
    assert_eq!(grandchild["ContainerConfig"]["Image"], child["Id"]);
    let quiet =
        api.send("POST", "/v1.41/build?q=1", "application/x-tar", &context).expect("an answer").text();
    assert!(quiet.lines().count() == 1 && quiet.starts_with("{\"stream\":\"sha256:"), "{quiet}");
}

#[test]
fn lines_of_a_log_have_what_its_options_name() {
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ hull run --name box --label one=1 --label two=2 -e A_X=3 -e B=4 --log-opt labels=one --log-opt env-regex=^A_ --log-opt 'tag={{.ImageName}}/{{.Name}}' busybox echo hi
        hi
        $ hull logs --details box
        A_X=3,one=1,tag=busybox%2Fbox hi
        $ grep -o '"attrs":{[^}]*}' "$(hull inspect -f '{{.LogPath}}' box)"
        "attrs":{"A_X":"3","one":"1","tag":"busybox/box"}
        $ hull create --log-opt 'labels-regex=(' busybox 2>&1 | grep -o 'invalid value "(" of the log option labels-regex'
        invalid value "(" of the log option labels-regex
        "#,
    );
}

#[test]
fn a_file_system_is_imported_from_an_address() {
    let daemon = Daemon::start();
    let server = TcpListener::bind("127.0.0.1:0").expect("a server");
    let address = server.local_addr().expect("its address");
    let serving = std::thread::spawn(move || {
        for status in ["200 OK", "200 OK", "404 Not Found"] {
            let (mut client, _) = server.accept().expect("a client");
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                client.read_exact(&mut byte).expect("a request");
                head.push(byte[0]);
            }
            let body = if status == "200 OK" { busybox_rootfs().finish() } else { Vec::new() };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            client.write_all(answer.as_bytes()).and_then(|()| client.write_all(&body)).expect("it is taken");
        }
    });
    let mut api = daemon.api();
    let import = format!("/images/create?fromSrc={address}/root.tar&repo=fetched&tag=1");
    let imported = api.post_empty(&import).expect("an answer");
    let first = format!("{{\"status\":\"Downloading from http://{address}/root.tar\"}}");
    assert!(imported.status == 200 && imported.text().starts_with(&first), "{}", imported.text());
    assert_eq!(daemon.ok(&["run", "--rm", "fetched:1", "/bin/busybox", "echo", "hi"]), "hi");
    daemon.ok(&["import", &format!("http://{address}/root.tar"), "fetched:2"]);
    let shown = api.get("/images/fetched:1/json").expect("an answer").json();
    assert_eq!(shown["Comment"], json!(format!("Imported from {address}/root.tar")));
    says(&api.post_empty(&import).expect("an answer"), 500, "the server answered 404 Not Found");
    serving.join().expect("the server has answered");
    let other = api.post_empty("/images/create?fromSrc=ftp://x/y&repo=z").expect("an answer");
    says(&other, 400, "is no address of http or https to import from");
}

#[test]
fn a_refusal_is_heard_by_who_is_still_sending() {
    let daemon = Daemon::start();
    for _ in 0..20 {
        let mut stream = daemon.api().connect().expect("a connection");
        let head = "PUT /containers/nope/archive?path=/ HTTP/1.1\r\nHost: hull\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.get_mut().write_all(head.as_bytes()).expect("a head");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("a refusal");
        assert_eq!(&answer, b"HTTP/1.1 404");
        // More than the socket holds: someone reads it.
        for _ in 0..16 {
            let piece = [b"2000\r\n".to_vec(), vec![b'x'; 0x2000], b"\r\n".to_vec()].concat();
            stream.get_mut().write_all(&piece).expect("the pipe is whole");
        }
        stream.get_mut().write_all(b"0\r\n\r\n").expect("the end is taken");
    }
}

#[test]
fn paths_and_words_are_taken_as_dockers_router_takes_them() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    made(&mut api, "box", &host(json!({})));
    for path in ["//containers/json", "/v1.41//containers/box/json", "/images//busybox/json", "/networks/"] {
        let answer = api.get(path).expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let checkpoint =
        api.post("/containers/box/checkpoints", &json!({ "CheckpointID": "a" })).expect("an answer");
    says(&checkpoint, 501, "This experimental feature is disabled by default");
    for (method, path) in
        [("GET", "/containers/box/checkpoints"), ("DELETE", "/containers/box/checkpoints/a")]
    {
        says(&api.send(method, path, "", b"").expect("an answer"), 501, "This experimental feature");
    }
    // Whoever builds for a word that is no platform is told so at once, and not by the registry.
    let context = Tar::new().file("Dockerfile", b"FROM busybox\n").finish();
    let built =
        api.send("POST", "/v1.41/build?platform=foobar", "application/x-tar", &context).expect("an answer");
    says(&built, 400, "\"foobar\": unknown operating system or architecture");
}

#[test]
fn who_is_on_anothers_network_has_its_name() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let named = json!({ "Image": "busybox", "Hostname": "first", "Cmd": ["sleep", "1000"] });
    made(&mut api, "one", &named);
    let shown = made(&mut api, "two", &host(json!({ "NetworkMode": "container:one" })));
    assert_eq!(shown["Config"]["Hostname"], json!("first"));
}

#[test]
fn who_attaches_to_no_stream_waits_for_nothing() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    made(&mut api, "box", &host(json!({})));
    daemon.ok(&["start", "box"]);
    let (_, mut stream) = api.upgrade("/containers/box/attach?stream=1", &json!({})).expect("a stream");
    let mut output = Vec::new();
    stream.read_to_end(&mut output).expect("it ends while the container runs");
    assert_eq!(output, b"");
}
