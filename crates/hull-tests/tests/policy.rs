//! Sockets with a policy, from where an attacker holds one.

use std::path::PathBuf;

use hull_tests::{Client, Daemon, Engine, Response};
use serde_json::{Value, json};

/// Docker has no such sockets.
fn docker() -> bool {
    Engine::under_test() == Engine::Docker
}

/// A further socket of the daemon with these rules.
fn guarded(daemon: &Daemon, rules: &[&str]) -> (PathBuf, Client) {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = daemon.dir().join(format!("guarded-{number}.sock"));
    let body = json!({ "Path": path, "Policy": rules });
    let made = daemon.api().post("/hull/sockets", &body).expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text());
    let client = Client::new(&path);
    (path, client)
}

#[track_caller]
fn refused(what: &str, rule: &str, answer: &Response) {
    let told = answer.message();
    assert_eq!(answer.status, 403, "{what}: {}", answer.text());
    assert!(
        told.contains(&format!("refused by the rule {rule}")) && told.contains(".sock"),
        "{what}: {told}"
    );
}

#[track_caller]
fn done(what: &str, answer: &Response) -> Value {
    assert!(answer.status < 300, "{what}: {} {}", answer.status, answer.text());
    answer.json()
}

fn create(api: &mut Client, host: Value) -> Response {
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": host });
    api.post("/containers/create", &body).expect("an answer")
}

/// The table's rows, as they stand in the source: method, pattern, whether it reads.
fn endpoints() -> Vec<(String, String, bool)> {
    let table = include_str!("../../hull-api/src/routes.rs");
    let rows = table.lines().filter_map(|line| line.trim().strip_prefix("route!("));
    let rows: Vec<_> = rows
        .map(|row| {
            let words: Vec<&str> = row.split(' ').collect();
            let pattern = words[1].trim_matches('"').to_owned();
            (words[0].to_owned(), pattern, words[2].starts_with("Read("))
        })
        .collect();
    assert!(rows.len() > 100, "the table was read");
    rows
}

#[test]
fn a_read_only_socket_lets_no_endpoint_write() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    let before = daemon.ok(&["inspect", "box"]);
    let (path, _) = guarded(&daemon, &["read-only"]);
    // What is not on the list is not answered, a method that has nothing to say neither.
    let options = Client::new(&path).send("OPTIONS", "/containers/box/json", "", b"").expect("an answer");
    assert!(options.status >= 400, "{}", options.status);
    for (method, pattern, reads) in endpoints() {
        let named = if pattern.contains("images") { "busybox" } else { "box" };
        let target = pattern.replace("{*}", named).replace("{}", named);
        // Ends by itself, or at once.
        let query = match target.as_str() {
            "/events" => "?until=1",
            "/containers/box/stats" => "?stream=0&one-shot=1",
            "/containers/box/wait" => "?condition=no-such",
            _ => "",
        };
        // Whichever way it is written.
        for prefix in ["", "/v1.41", "/v1.56"] {
            let mut client = Client::new(&path);
            let answer = client.send(&method, &format!("{prefix}{target}{query}"), "application/json", b"{}");
            let answer = answer.expect("an answer");
            match (reads, answer.status) {
                (true, status) => assert_ne!(status, 403, "{method} {pattern}: {}", answer.text()),
                (false, _) if method == "HEAD" => assert_eq!(answer.status, 403),
                (false, _) => refused(&format!("{method} {pattern}"), "read-only", &answer),
            }
        }
    }
    assert_eq!(daemon.ok(&["inspect", "box"]), before, "nothing has changed");
    // What everybody's builds did is not told.
    let df = |query: &str| Client::new(&path).get(&format!("/v1.44/system/df{query}")).expect("an answer");
    assert_eq!(df("?type=build-cache").status, 403);
    assert!(df("").json().get("BuildCache").is_none());
    // Other ways to write a path are no way around it.
    let mut client = Client::new(&path);
    for target in [
        "/containers/box/stop/",
        "//containers/box/stop",
        "/containers/box/%73top",
        "/Containers/box/stop",
        "/v1.41/v1.41/containers/box/stop",
        "/x/../containers/box/stop",
    ] {
        let answer = client.post_empty(target).expect("an answer");
        assert!(matches!(answer.status, 403 | 404 | 400), "{target}: {}", answer.status);
    }
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "box"]).trim(), "running");
}

/// What a container may not have of the host, and the rule that says so.
fn of_the_host() -> Vec<(&'static str, Value)> {
    vec![
        ("no-privilege", json!({"Privileged": true})),
        ("no-privilege", json!({"CapAdd": ["SYS_ADMIN"]})),
        ("no-privilege", json!({"SecurityOpt": ["seccomp=unconfined"]})),
        ("no-privilege", json!({"SecurityOpt": ["apparmor=unconfined"]})),
        ("no-privilege", json!({"SecurityOpt": ["systempaths=unconfined"]})),
        ("no-privilege", json!({"SecurityOpt": ["no-new-privileges", "seccomp={}"]})),
        ("no-privilege", json!({"MaskedPaths": []})),
        ("no-privilege", json!({"ReadonlyPaths": []})),
        ("no-privilege", json!({"Sysctls": {"net.ipv4.ip_forward": "1"}})),
        ("no-privilege", json!({"CgroupParent": "/"})),
        ("no-privilege", json!({"Runtime": "crun"})),
        ("no-privilege", json!({"OomScoreAdj": -1000})),
        ("no-privilege", json!({"UsernsMode": "host"})),
        ("no-privilege", json!({"Annotations": {"run.oci.handler": "x"}})),
        ("no-binds", json!({"Binds": ["/etc:/mnt:ro"]})),
        ("no-binds", json!({"Binds": ["named:/data", "//:/mnt"]})),
        ("no-binds", json!({"Mounts": [{"Type": "bind", "Source": "/etc", "Target": "/mnt"}]})),
        (
            "no-binds",
            json!({"Mounts": [{"Type": "volume", "Source": "evil", "Target": "/mnt", "VolumeOptions":
            {"DriverConfig": {"Name": "local", "Options": {"type": "none", "o": "bind", "device": "/"}}}}]}),
        ),
        (
            "no-binds",
            json!({"Mounts": [{"Type": "volume", "Source": "evil", "Target": "/mnt", "VolumeOptions":
            {"DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "o": "bind", "device": "/"}}}}]}),
        ),
        ("no-binds", json!({"VolumesFrom": ["binder"]})),
        ("no-binds", json!({"VolumesFrom": ["binder:ro"]})),
        ("no-binds", json!({"Binds": ["bindvolume:/mnt"]})),
        ("no-host-namespaces", json!({"NetworkMode": "host"})),
        ("no-host-namespaces", json!({"PidMode": "host"})),
        ("no-host-namespaces", json!({"IpcMode": "host"})),
        ("no-host-namespaces", json!({"UTSMode": "host"})),
        ("no-host-namespaces", json!({"CgroupnsMode": "host"})),
        ("no-host-namespaces", json!({"NetworkMode": "container:hostnet"})),
        ("no-host-namespaces", json!({"NetworkMode": "HOSTID"})),
        (
            "no-devices",
            json!({"Devices": [{"PathOnHost": "/dev/mem", "PathInContainer": "/dev/mem", "CgroupPermissions": "rwm"}]}),
        ),
        ("no-devices", json!({"DeviceCgroupRules": ["b *:* rwm"]})),
        ("no-devices", json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["x/y=z"]}]})),
    ]
}

#[test]
fn a_confined_socket_gives_nothing_of_the_host() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "binder", "-v", "/etc:/host-etc", "busybox", "sleep", "600"]);
    daemon.ok(&["run", "-d", "--name", "hostnet", "--network", "host", "busybox", "sleep", "600"]);
    daemon.ok(&["run", "-d", "--name", "strong", "--privileged", "busybox", "sleep", "600"]);
    daemon.ok(&["create", "--name", "second", "--network", "container:hostnet", "busybox", "sleep", "600"]);
    daemon.ok(&[
        "volume",
        "create",
        "--opt",
        "type=none",
        "--opt",
        "o=bind",
        "--opt",
        "device=/etc",
        "bindvolume",
    ]);
    let host_network = daemon.ok(&["network", "inspect", "-f", "{{.ID}}", "host"]);
    let (_, mut api) = guarded(&daemon, &["confined"]);
    for (rule, host) in of_the_host() {
        let text = host.to_string().replace("HOSTID", host_network.trim());
        let host: Value = serde_json::from_str(&text).expect("JSON");
        refused(&text, rule, &create(&mut api, host.clone()));
        // The rule by itself, too; and without any of them it is no policy's affair.
        let (_, mut alone) = guarded(&daemon, &[rule]);
        refused(&text, rule, &create(&mut alone, host.clone()));
        let (_, mut other) = guarded(&daemon, &["label=org.example.x"]);
        let answer = create(&mut other, host);
        assert!(!answer.message().contains(&format!("the rule {rule}")), "{text}: {}", answer.text());
    }
    let body = json!({ "Image": "busybox", "NetworkingConfig": { "EndpointsConfig": { "host": {} } } });
    refused("an endpoint", "no-host-namespaces", &api.post("/containers/create", &body).expect("an answer"));
    let host_image = json!({ "Image": "hull/host", "Cmd": ["true"] });
    refused("hull/host", "no-binds", &api.post("/containers/create", &host_image).expect("an answer"));
    let (_, mut alone) = guarded(&daemon, &["no-binds"]);
    let requests = json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["x/y=z"]}]});
    refused("what CDI binds", "no-binds", &create(&mut alone, requests));
    daemon.ok(&["create", "--name", "hostfiles", "hull/host", "true"]);
    // What has more of the host is not entered, started, written or read from inside.
    let exec = json!({ "Cmd": ["true"] });
    for (name, rule) in [
        ("binder", "no-binds"),
        ("hostnet", "no-host-namespaces"),
        ("strong", "no-privilege"),
        ("second", "no-host-namespaces"),
        ("hostfiles", "no-binds"),
    ] {
        for (method, path) in [
            ("POST", format!("/containers/{name}/exec")),
            ("POST", format!("/containers/{name}/attach?stream=1&stdin=1")),
            ("GET", format!("/containers/{name}/attach/ws?stream=1&stdin=1")),
            ("POST", format!("/containers/{name}/restart")),
            ("POST", format!("/containers/{name}/start")),
            ("PUT", format!("/containers/{name}/archive?path=/")),
            ("GET", format!("/containers/{name}/archive?path=/etc/hostname")),
            ("GET", format!("/containers/{name}/export")),
        ] {
            let answer = api.send(method, &path, "application/json", exec.to_string().as_bytes());
            refused(&path, rule, &answer.expect("an answer"));
        }
        assert_eq!(api.get(&format!("/containers/{name}/json")).expect("an answer").status, 200);
    }
    // Another's exec, made with more.
    let own = done("create", &create(&mut api, json!({})))["Id"].as_str().expect("an id").to_owned();
    done("start", &api.post_empty(&format!("/containers/{own}/start")).expect("an answer"));
    let strong = json!({ "Cmd": ["true"], "Privileged": true });
    let path = format!("/containers/{own}/exec");
    refused("exec", "no-privilege", &api.post(&path, &strong).expect("an answer"));
    let made = done("exec", &daemon.api().post(&path, &strong).expect("an answer"))["Id"].clone();
    let start = format!("/exec/{}/start", made.as_str().expect("an id"));
    refused(
        "another's exec",
        "no-privilege",
        &api.post(&start, &json!({"Detach": true})).expect("an answer"),
    );
    let made = done("exec", &api.post(&path, &exec).expect("an answer"))["Id"].clone();
    let start = format!("/exec/{}/start", made.as_str().expect("an id"));
    done("exec start", &api.post(&start, &json!({"Detach": true})).expect("an answer"));
    // What else makes things of the host's.
    let update = json!({ "Devices": [{"PathOnHost": "/dev/mem"}] });
    refused(
        "update",
        "no-devices",
        &api.post(&format!("/containers/{own}/update"), &update).expect("an answer"),
    );
    for kind in ["none", "tmpfs"] {
        let volume = json!({ "Name": "v", "DriverOpts": {"type": kind, "o": "bind", "device": "/"} });
        refused(kind, "no-binds", &api.post("/volumes/create", &volume).expect("an answer"));
    }
    for (option, value) in [
        ("bridge.name", "eth0"),
        ("host_ipv4", "192.0.2.1"),
        ("host_ipv6", "fd00::1"),
        ("bridge.trusted_host_interfaces", "eth0"),
        ("bridge.gateway_mode_ipv4", "routed"),
    ] {
        let options = json!({ format!("com.docker.network.{option}"): value });
        let network = json!({ "Name": "n", "Options": options });
        refused(option, "no-host-namespaces", &api.post("/networks/create", &network).expect("an answer"));
    }
    // Also where it would come from a configuration of somebody else's.
    let options = json!({ "com.docker.network.host_ipv4": "192.0.2.1" });
    let configuration = json!({ "Name": "configuration", "ConfigOnly": true, "Options": options });
    done("configuration", &daemon.api().post("/networks/create", &configuration).expect("an answer"));
    let network = json!({ "Name": "n", "ConfigFrom": {"Network": "configuration"} });
    refused("ConfigFrom", "no-host-namespaces", &api.post("/networks/create", &network).expect("an answer"));
    // The kernel's settings of an interface, also where an older API has them among the container's.
    let set = json!({ "DriverOpts": { "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.proxy_arp=1" } });
    let networks = json!({ "EndpointsConfig": { "bridge": set } });
    let body = json!({ "Image": "busybox", "NetworkingConfig": networks });
    refused("a place", "no-privilege", &api.post("/containers/create", &body).expect("an answer"));
    let sysctls = json!({ "Sysctls": { "net.ipv4.conf.eth0.proxy_arp": "1" } });
    let older = json!({ "Image": "busybox", "HostConfig": sysctls });
    refused("eth0", "no-privilege", &api.post("/v1.46/containers/create", &older).expect("an answer"));
    done("network", &daemon.api().post("/networks/create", &json!({ "Name": "plain" })).expect("an answer"));
    let join = json!({ "Container": own, "EndpointConfig": set });
    refused("connect", "no-privilege", &api.post("/networks/plain/connect", &join).expect("an answer"));
    done("set", &daemon.api().post("/containers/create?name=set", &body).expect("an answer"));
    refused("start", "no-privilege", &api.post_empty("/containers/set/start").expect("an answer"));
    // Older APIs shared more than one says today: behind a policy they do not.
    let created = done(
        "1.39",
        &api.post("/v1.39/containers/create", &json!({ "Image": "busybox" })).expect("an answer"),
    );
    let id = created["Id"].as_str().expect("an id");
    let format = "{{.HostConfig.IpcMode}} {{.HostConfig.CgroupnsMode}}";
    assert_eq!(daemon.ok(&["inspect", "-f", format, id]).trim(), "private private");
    let join = json!({ "Container": own });
    refused("join", "no-host-namespaces", &api.post("/networks/host/connect", &join).expect("an answer"));
    for path in ["/hull/sockets", "/plugins/pull", "/swarm/init", "/networks/bridge/namespace?pid=1"] {
        refused(
            path,
            "no-privilege",
            &api.post(path, &json!({"Path": "/x", "Policy": ["read-only"]})).expect("an answer"),
        );
    }
    // What is harmless is not in the way.
    done(
        "volumes",
        &create(
            &mut api,
            json!({"Binds": ["mine:/data"], "Tmpfs": {"/t": ""}, "SecurityOpt": ["no-new-privileges"],
        "CapDrop": ["ALL"], "Memory": 64 << 20, "NetworkMode": format!("container:{own}")}),
        ),
    );
}

#[test]
fn a_label_is_all_there_is() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "other", "-e", "SECRET=1", "busybox", "sleep", "600"]);
    daemon.ok(&["volume", "create", "othervolume"]);
    daemon.ok(&["network", "create", "othernetwork"]);
    let exec = daemon.api().post("/containers/other/exec", &json!({"Cmd": ["true"]})).expect("an answer");
    let exec = done("exec", &exec)["Id"].as_str().expect("an id").to_owned();
    let other = daemon.ok(&["inspect", "-f", "{{.Id}}", "other"]).trim().to_owned();
    let (_, mut api) = guarded(&daemon, &["label=org.example.ci=7"]);
    // An image carries the label, too.
    let unseen = create(&mut api, json!({}));
    assert_eq!((unseen.status, unseen.message().as_str()), (404, "No such image: busybox"));
    daemon.ok(&["commit", "--change", "LABEL org.example.ci=7", "other", "ci:1"]);
    let mut made = |name: &str, more: Value| {
        let mut body = json!({ "Image": "ci:1", "Cmd": ["sleep", "600"] });
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        api.post(&format!("/containers/create?name={name}"), &body).expect("an answer")
    };
    let own = done("create", &made("own", json!({})))["Id"].as_str().expect("an id").to_owned();
    refused(
        "another label",
        "label=org.example.ci=7",
        &made("x", json!({"Labels": {"org.example.ci": "8"}})),
    );
    let gone = format!("No such container: {other}");
    for (what, host) in [
        ("network", json!({"NetworkMode": format!("container:{other}")})),
        ("pid", json!({"PidMode": format!("container:{other}")})),
        ("ipc", json!({"IpcMode": format!("container:{other}")})),
        ("volumes", json!({"VolumesFrom": [other]})),
        ("links", json!({"Links": [format!("{other}:db")]})),
    ] {
        let answer = made("x", json!({ "HostConfig": host }));
        assert!(answer.status >= 400 && answer.message().contains(&gone), "{what}: {}", answer.text());
    }
    let answer = made("x", json!({ "HostConfig": {"NetworkMode": "othernetwork"} }));
    assert_eq!(answer.message(), "network othernetwork not found");
    refused(
        "volume",
        "label=org.example.ci=7",
        &made("x", json!({"HostConfig": {"Binds": ["othervolume:/x"]}})),
    );
    done("new volume", &made("withvolume", json!({"HostConfig": {"Binds": ["ownvolume:/x"]}})));
    // A label for one container alone takes a volume from the others.
    done("relabelled volume", &made("alone", json!({"HostConfig": {"Binds": ["ownvolume:/x:Z"]}})));
    daemon.ok(&["create", "--name", "stranger", "-v", "ownvolume:/x", "busybox", "true"]);
    let taken = made("x", json!({"HostConfig": {"Binds": ["ownvolume:/x:Z"]}}));
    refused("taking a volume away", "label=org.example.ci=7", &taken);
    done("a shared label", &made("shared", json!({"HostConfig": {"Binds": ["ownvolume:/x:z"]}})));
    let started = api.post("/containers/alone/start", &json!({})).expect("an answer");
    refused("taking it away later", "label=org.example.ci=7", &started);
    daemon.ok(&["rm", "alone", "shared", "stranger"]);
    // What is made carries it.
    let label = "{{index .Labels \"org.example.ci\"}}";
    assert_eq!(
        daemon.ok(&["inspect", "-f", "{{index .Config.Labels \"org.example.ci\"}}", "own"]).trim(),
        "7"
    );
    assert_eq!(daemon.ok(&["volume", "inspect", "-f", label, "ownvolume"]).trim(), "7");
    done("network", &api.post("/networks/create", &json!({"Name": "ownnetwork"})).expect("an answer"));
    assert_eq!(daemon.ok(&["network", "inspect", "-f", label, "ownnetwork"]).trim(), "7");
    refused(
        "taking a volume",
        "label",
        &api.post("/volumes/create", &json!({"Name": "othervolume"})).expect("an answer"),
    );
    // What does not carry it is not there, by whatever name and endpoint: the answer is that to a name that nobody has.
    for name in ["other", &other, &other[..12], "no-such"] {
        for (method, path) in [
            ("GET", format!("/containers/{name}/json")),
            ("GET", format!("/containers/{name}/logs?stdout=1")),
            ("GET", format!("/containers/{name}/top")),
            ("GET", format!("/containers/{name}/stats?stream=0")),
            ("GET", format!("/containers/{name}/changes")),
            ("GET", format!("/containers/{name}/export")),
            ("GET", format!("/containers/{name}/archive?path=/")),
            ("GET", format!("/containers/json?since={name}")),
            ("PUT", format!("/containers/{name}/archive?path=/")),
            ("POST", format!("/containers/{name}/exec")),
            ("POST", format!("/containers/{name}/attach?stream=1")),
            ("POST", format!("/containers/{name}/start")),
            ("POST", format!("/containers/{name}/stop")),
            ("POST", format!("/containers/{name}/restart")),
            ("POST", format!("/containers/{name}/kill")),
            ("POST", format!("/containers/{name}/pause")),
            ("POST", format!("/containers/{name}/rename?name=y")),
            ("POST", format!("/containers/{name}/update")),
            ("POST", format!("/containers/{name}/wait")),
            ("POST", format!("/commit?container={name}")),
            ("DELETE", format!("/containers/{name}?force=1")),
        ] {
            let answer =
                api.send(method, &path, "application/json", b"{\"Cmd\":[\"true\"]}").expect("an answer");
            let told = format!("No such container: {name}");
            let told =
                if path.ends_with("/kill") { format!("cannot kill container: {name}: {told}") } else { told };
            assert_eq!((answer.status, answer.message()), (404, told), "{method} {path}");
        }
    }
    for (method, path) in [
        ("GET", format!("/exec/{exec}/json")),
        ("POST", format!("/exec/{exec}/start")),
        ("GET", "/volumes/othervolume".to_owned()),
        ("DELETE", "/volumes/othervolume?force=1".to_owned()),
        ("GET", "/networks/othernetwork".to_owned()),
        ("DELETE", "/networks/othernetwork".to_owned()),
        ("POST", "/networks/othernetwork/connect".to_owned()),
        ("GET", "/images/busybox/json".to_owned()),
        ("GET", "/images/busybox/get".to_owned()),
        ("GET", "/images/get?names=ci:1&names=busybox".to_owned()),
        ("POST", "/images/busybox/tag?repo=x".to_owned()),
        ("DELETE", "/images/busybox".to_owned()),
    ] {
        let body = json!({ "Container": own }).to_string();
        let answer = api.send(method, &path, "application/json", body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
    }
    let join = json!({ "Container": "other" });
    assert_eq!(api.post("/networks/ownnetwork/connect", &join).expect("an answer").status, 404);
    for (method, path) in [
        ("POST", "/images/load"),
        ("POST", "/images/create?fromImage=busybox"),
        ("POST", "/images/create?fromSrc=-"),
        ("POST", "/images/ci:1/tag?repo=busybox"),
        ("POST", "/commit?container=own&repo=busybox"),
        ("GET", "/system/df"),
        ("POST", "/hull/sockets"),
        ("GET", "/hull/sockets"),
        ("DELETE", "/containers/other/db?link=1"),
    ] {
        let answer = api.send(method, path, "application/json", b"{}").expect("an answer");
        refused(path, "label=org.example.ci=7", &answer);
    }
    // Lists are of what is there, and so is what is pruned and what is told.
    let listed = |answer: Response| {
        let listed = answer.json();
        listed.as_array().or(listed["Volumes"].as_array()).map_or(0, Vec::len)
    };
    let asked = "filters=%7B%22label!%22:%5B%22z%22%5D%7D";
    for (path, many) in [
        (format!("/containers/json?all=1&{asked}"), 2),
        ("/images/json".to_owned(), 1),
        ("/volumes".to_owned(), 1),
        ("/networks".to_owned(), 1),
    ] {
        assert_eq!(listed(api.get(&path).expect("an answer")), many, "{path}");
    }
    let info = api.get("/info").expect("an answer").json();
    assert_eq!((&info["Containers"], &info["Images"]), (&json!(2), &json!(1)));
    daemon.ok(&["stop", "-t", "0", "other"]);
    for path in [
        "/containers/prune",
        "/networks/prune",
        "/volumes/prune?filters=%7B%22all%22:%5B%22true%22%5D%7D",
        "/images/prune",
    ] {
        done(path, &api.post_empty(path).expect("an answer"));
    }
    daemon.ok(&["inspect", "other"]);
    daemon.ok(&["network", "inspect", "othernetwork"]);
    daemon.ok(&["volume", "inspect", "othervolume"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    let until = format!("/events?since=1&until={}.{:09}", now.as_secs(), now.subsec_nanos());
    let told = |client: &mut Client| client.get(&until).expect("an answer").text();
    let (all, seen) = (told(&mut daemon.api()), told(&mut api));
    assert!(all.contains(&other) && all.contains("othervolume"));
    assert!(seen.contains(&own) && !seen.contains("other"), "{seen}");
}

#[test]
fn what_is_pushed_is_the_label_s_own() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["create", "--name", "box", "busybox", "true"]);
    // Nothing listens there: who is let through hears so in the stream.
    let repository = "127.0.0.1:1/shared";
    for (tag, change) in
        [("1", "LABEL org.example.ci=7"), ("2", "LABEL org.example.ci=8"), ("3", "LABEL org.example.ci=7")]
    {
        daemon.ok(&["commit", "--change", change, "box", &format!("{repository}:{tag}")]);
    }
    let push = |api: &mut Client, query: &str| {
        let target = format!("/images/{repository}/push{query}");
        api.send("POST", &target, "application/json", b"{}").expect("an answer")
    };
    let (_, mut api) = guarded(&daemon, &["label=org.example.ci=7"]);
    for (query, others) in
        [("?tag=1", false), ("?tag=2", true), ("", true), ("?tag=3", false), ("?tag=4", false)]
    {
        let answer = push(&mut api, query);
        match others {
            true => refused(query, "label=org.example.ci=7", &answer),
            false => assert_eq!(answer.status, 200, "{query}: {}", answer.text()),
        }
    }
    // Without a label, what has no tag `latest` is there too.
    let (_, mut api) = guarded(&daemon, &["confined"]);
    assert_eq!(push(&mut api, "?tag=1").status, 200);
    assert_eq!(push(&mut api, "").status, 200);
}

/// Whoever has a confined socket decides nothing of what others build: of three ways to leave files in a cache, none leads into
/// a build by the daemon's own socket or by another one's, and each is still a cache for those who took it.
#[test]
fn a_confined_socket_builds_and_leaves_nothing_in_the_builds_of_others() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ sock=${HULL_HOST#unix://}; for name in one two; do eval "$name=unix://${sock%/*}/$name.sock"; hull system socket add "${sock%/*}/$name.sock" confined >/dev/null; done
        $ at() { hull -H "$@"; }; mkdir ctx; echo sent >ctx/sent
        $ printf '%s\n' 'FROM busybox' 'COPY sent /' 'RUN echo clean >/g' >ctx/Dockerfile; at "$one" build -q -t mine ctx >/dev/null; at "$one" run --rm mine cat /g /sent
        clean
        sent
        $ at "$one" build --progress plain ctx 2>&1 | grep -c CACHED; at "$two" build --progress plain ctx 2>&1 | grep -c CACHED; hull build --progress plain ctx 2>&1 | grep -c CACHED
        2
        0
        0
        [1]
        "#,
    );
    // What the host has is refused in a build's steps, too.
    daemon.session(
        r#"
        $ sock=${HULL_HOST#unix://}; at() { hull -H "unix://${sock%/*}/one.sock" "$@"; }; mkdir -p ctx
        $ echo 'FROM busybox' >ctx/Dockerfile; at build --network host ctx 2>&1 | grep -o 'refused by the rule [a-z-]*'
        refused by the rule no-host-namespaces
        $ printf '%s\n' 'FROM busybox' 'ADD http://127.0.0.1:1/x /x' >ctx/Dockerfile; at build ctx 2>&1 | grep -c "from the host's network, which this socket refuses"
        1
        $ printf '%s\n' 'FROM hull/host' 'RUN true' >ctx/Dockerfile; at build ctx 2>&1 | grep -c 'hull/host is this machine itself'
        1
        $ at build logs 2>&1 | grep -o 'refused by the rule no-[a-z]*'; at builder prune -af 2>&1 | grep -o 'refused by the rule no-[a-z]*'; at build shell 2>&1 | grep -o 'refused by the rule no-[a-z]*'
        refused by the rule no-privilege
        refused by the rule no-privilege
        refused by the rule no-privilege
        $ at import http://127.0.0.1:1/x 2>&1 | grep -o 'refused by the rule [a-z-]*'; hull import http://127.0.0.1:1/x 2>&1 | grep -c 'refused by the rule'
        refused by the rule no-host-namespaces
        0
        [1]
        "#,
    );
    // Arguments that are no part of a step's key, and caches by their names.
    daemon.session(
        r#"
        $ sock=${HULL_HOST#unix://}; at() { hull -H "unix://${sock%/*}/one.sock" "$@"; }; mkdir -p ctx
        $ printf '%s\n' 'FROM busybox' 'RUN echo ${HTTP_PROXY:-clean} >/f' 'RUN --mount=type=cache,target=/c cat /c/x >/h 2>/dev/null || echo clean >/h' >ctx/Dockerfile
        $ at build -q --build-arg HTTP_PROXY=http://evil ctx >/dev/null; hull build -q -t his ctx >/dev/null; hull run --rm his cat /f
        clean
        $ printf '%s\n' 'FROM busybox' 'RUN --mount=type=cache,target=/c echo poisoned >/c/x' >ctx/fill; at build -q -f ctx/fill ctx >/dev/null
        $ hull build -q --no-cache -t his ctx >/dev/null; hull run --rm his cat /h; at build -q --no-cache -t mine ctx >/dev/null; at run --rm mine cat /h
        clean
        poisoned
        "#,
    );
    // An image that says of a layer what another command makes: who names it gets it, in that build.
    daemon.session(
        r#"
        $ sock=${HULL_HOST#unix://}; at() { hull -H "unix://${sock%/*}/one.sock" "$@"; }; mkdir -p ctx; echo EVIL >g
        $ at create --name xx busybox /bin/sh -c 'echo lies >/g' >/dev/null; at cp g xx:/g 2>/dev/null; at commit xx evil:1 >/dev/null
        $ printf '%s\n' 'FROM busybox' 'RUN echo lies >/g' 'RUN cat /g >/after' >ctx/Dockerfile; at build -q --cache-from evil:1 -t e ctx >/dev/null; at run --rm e cat /after
        EVIL
        $ at build -q -t e ctx >/dev/null; at run --rm e cat /after; hull build -q -t e ctx >/dev/null; hull run --rm e cat /after
        lies
        lies
        $ hull builder prune -af >/dev/null; hull build -q --cache-from evil:1 -t e ctx >/dev/null; hull run --rm e cat /after; hull build -q -t e ctx >/dev/null; hull run --rm e cat /after
        EVIL
        lies
        "#,
    );
}

#[test]
fn sockets_come_and_go_and_stay() {
    if docker() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.session(
        r#"
        $ sock=${HULL_HOST#unix://}; sock=${sock%/*}/further.sock
        $ hull system socket add "$sock" read-only label=a=b >/dev/null
        $ hull system socket ls --format '{{.Policy}} {{.Kept}}'
        read-only,label=a=b true
        $ hull system socket add "$sock" confined 2>&1 | grep -o 'is there already'
        is there already
        $ hull -H "unix://$sock" ps -a --format '{{.Names}}'
        $ hull -H "unix://$sock" run busybox true 2>&1 | grep -o 'refused by the rule read-only'
        refused by the rule read-only
        $ hull system socket add relative.sock 2>&1 | head -n 1
        hull: 'hull system socket add' requires a path and at least one rule
        $ hull system socket add /x.sock everything 2>&1 | grep -o '"everything" is no rule of a socket'
        "everything" is no rule of a socket
        $ stat -c '%a %u' "$sock"
        660 0
        "#,
    );
    assert_eq!(daemon.stop(), 0);
    daemon.begin();
    daemon.session(
        r#"
        $ sock=${HULL_HOST#unix://}; sock=${sock%/*}/further.sock
        $ hull -H "unix://$sock" ps
        CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES
        $ hull system socket rm "$sock" >/dev/null
        $ test ! -e "$sock"
        $ hull system socket ls -q 2>/dev/null; hull system socket ls
        PATH      POLICY    KEPT
        $ hull system socket rm "$sock" 2>&1 | grep -o 'No such socket'
        No such socket
        "#,
    );
}

#[test]
fn a_connection_ends_with_its_socket() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    let (path, mut api) = guarded(&daemon, &["read-only"]);
    assert_eq!(api.get("/_ping").expect("an answer").status, 200);
    let removed = daemon.api().delete(&format!("/hull/sockets?path={}", path.display())).expect("an answer");
    assert_eq!(removed.status, 204, "{}", removed.text());
    api.get("/_ping").expect_err("the connection that was kept is closed");
}

#[test]
fn a_socket_of_the_flags_stays_with_them() {
    if docker() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("hull-policy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (path, taken) = (folder.join("flag.sock"), folder.join("taken.sock"));
    // Whoever has the folder may listen there and take nobody: that holds up neither the daemon nor its other sockets.
    let listener = std::os::unix::net::UnixListener::bind(&taken).expect("a socket");
    rustix::net::listen(&listener, 0).expect("a short queue");
    let _waiting = std::os::unix::net::UnixStream::connect(&taken).expect("its only place");
    let guards = [&taken, &path].map(|path| format!("{},confined", path.display()));
    let daemon = Daemon::with(&["--socket", &guards[0], "--socket", &guards[1]]);
    let mut api = Client::new(&path);
    refused("privileged", "no-privilege", &create(&mut api, json!({"Privileged": true})));
    let answer = daemon.api().delete(&format!("/hull/sockets?path={}", path.display())).expect("an answer");
    assert_eq!(answer.status, 409, "{}", answer.text());
    drop(daemon);
    assert!(!path.exists(), "a daemon that ends takes its sockets along");
    assert!(taken.exists(), "what another listens on is left alone");
    std::fs::remove_dir_all(&folder).expect("the test's own folder");
}
