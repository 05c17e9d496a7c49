//! Who may be on which networks, asked over the API as clients of several ages do.

use hull_tests::{Client, Daemon, Response};
use serde_json::{Value, json};

fn create(api: &mut Client, version: &str, name: &str, host: Value, endpoints: Value) -> Response {
    let body = json!({
        "Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": host,
        "NetworkingConfig": { "EndpointsConfig": endpoints },
    });
    api.post(&format!("{version}/containers/create?name={name}"), &body).expect("an answer")
}

fn connect(api: &mut Client, network: &str, container: &str) -> Response {
    api.post(&format!("/networks/{network}/connect"), &json!({ "Container": container })).expect("an answer")
}

fn networks(api: &mut Client, version: &str, name: &str) -> Value {
    let shown = api.get(&format!("{version}/containers/{name}/json")).expect("an answer").json();
    shown["NetworkSettings"]["Networks"].clone()
}

#[test]
fn modes_that_exclude_further_networks() {
    let daemon = Daemon::start();
    daemon.ok(&["network", "create", "own"]);
    let mut api = daemon.api();
    for (name, mode) in
        [("plain", "bridge"), ("hosted", "host"), ("lonely", "none"), ("shared", "container:plain")]
    {
        assert_eq!(
            create(&mut api, "", name, json!({ "NetworkMode": mode }), json!({})).status,
            201,
            "{name}"
        );
    }
    for (network, container, why) in [
        ("host", "plain", "connected to host network"),
        ("none", "plain", "private (none) mode"),
        ("own", "hosted", "sharing network namespace"),
        ("own", "lonely", "private (none) mode"),
        ("own", "shared", "sharing network namespace"),
    ] {
        let answer = connect(&mut api, network, container);
        assert_eq!(answer.status, 400, "{container} to {network}: {}", answer.text());
        assert!(answer.message().contains(why), "{container} to {network}: {}", answer.text());
    }
    // One that does not run only has its settings changed; one that runs is there already.
    assert_eq!(connect(&mut api, "own", "plain").status, 200);
    assert_eq!(connect(&mut api, "own", "plain").status, 200);
    daemon.ok(&["start", "plain"]);
    let answer = connect(&mut api, "own", "plain");
    assert_eq!(
        (answer.status, answer.message().as_str()),
        (403, "endpoint with name plain already exists in network own")
    );
}

#[test]
fn networks_named_at_creation() {
    let daemon = Daemon::start();
    for network in ["one", "two"] {
        daemon.ok(&["network", "create", network]);
    }
    let mut api = daemon.api();
    // Before 1.44 one network alone could be named.
    let both = json!({ "one": {}, "two": {} });
    let old = create(&mut api, "/v1.43", "old", json!({ "NetworkMode": "one" }), both.clone());
    assert_eq!(
        (old.status, old.message().as_str()),
        (400, "Container cannot be created with multiple network endpoints: one, two")
    );
    assert_eq!(create(&mut api, "/v1.44", "new", json!({ "NetworkMode": "one" }), both).status, 201);
    // A network beside the default one is the only one.
    assert_eq!(create(&mut api, "", "beside", json!({}), json!({ "one": { "Aliases": ["a"] } })).status, 201);
    daemon.ok(&["start", "beside"]);
    let shown = networks(&mut api, "", "beside");
    assert_eq!(
        shown.as_object().map(|networks| networks.keys().cloned().collect::<Vec<_>>()),
        Some(vec!["one".to_owned()])
    );
    assert_eq!(shown["one"]["Aliases"], json!(["a"]));
    // Before 1.45 the id's beginning was an alias.
    let aliases = networks(&mut api, "/v1.44", "beside")["one"]["Aliases"].clone();
    assert_eq!((aliases[0].as_str(), aliases[1].as_str().map(str::len)), (Some("a"), Some(12)), "{aliases}");
}

#[test]
fn a_network_that_is_not_there_yet() {
    Daemon::start().session(
        r#"
        $ hull create --name early --network later busybox echo here
        <id>
        $ hull start early
        Error response from daemon: network later not found
        Error: failed to start containers: early
        [1]
        $ hull network create later; hull start -a early
        <id>
        here
        $ hull run --rm --network never busybox true 2>&1 | head -n 1
        hull: Error response from daemon: network never not found
        $ hull ps -aq --filter network=never
        $ hull run --rm --network host -p 80:80 busybox true
        WARNING: Published ports are discarded when using host network mode
        $ hull run --rm --network container:early --add-host a:1.2.3.4 busybox true 2>&1 | head -n 1
        hull: Error response from daemon: conflicting options: custom host-to-IP mapping and the network mode
        "#,
    );
}

#[test]
fn options_of_other_programs_are_kept_and_said_to_be_idle() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let body =
        json!({ "Name": "noted", "Options": { "note": "x" }, "IPAM": { "Options": { "other": "y" } } });
    let made = api.post("/networks/create", &body).expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(
        made.json()["Warning"].as_str().is_some_and(|warning| warning.contains("note")),
        "{}",
        made.text()
    );
    let shown = api.get("/networks/noted").expect("an answer").json();
    assert_eq!((&shown["Options"]["note"], &shown["IPAM"]["Options"]["other"]), (&json!("x"), &json!("y")));
    let body = json!({ "Name": "bad", "Options": { "com.docker.network.bridge.nosuch": "x" } });
    assert_eq!(api.post("/networks/create", &body).expect("an answer").status, 501);
}

#[test]
fn a_configuration_that_networks_share() {
    Daemon::start().session(
        r#"
        $ hull network create --config-only --subnet 10.201.0.0/24 --label a=b conf
        <id>
        $ hull network inspect -f '{{.ConfigOnly}} {{.Driver}}' conf
        true null
        $ hull network create --config-from conf made
        <id>
        $ hull network inspect -f '{{.ConfigFrom.Network}} {{(index .IPAM.Config 0).Subnet}} {{.Labels}}' made
        conf 10.201.0.0/24 map[a:b]
        $ hull run --rm --network made busybox ip -4 -o addr show eth0 | grep -c 10.201.0
        1
        $ hull network rm conf
        Error response from daemon: error while removing network: configuration network "conf" is in use
        [1]
        $ hull network prune -f --filter label=none
        $ hull network create --config-from nosuch other
        Error response from daemon: configuration network "nosuch" does not exist
        [1]
        $ hull network create --config-from conf --label x=y other
        Error response from daemon: user specified configurations are not supported if the network depends on a configuration network
        [1]
        $ hull run --rm --network conf busybox true 2>&1 | grep -c 'cannot create endpoint on configuration-only network'
        1
        $ hull network rm made conf
        made
        conf
        "#,
    );
}

#[test]
fn addresses_of_the_link_and_the_address_where_it_always_stood() {
    let daemon = Daemon::start();
    daemon.ok(&["network", "create", "own"]);
    let mut api = daemon.api();
    let settings = json!({ "own": { "IPAMConfig": { "LinkLocalIPs": ["169.254.8.8"] } } });
    assert_eq!(create(&mut api, "", "linked", json!({ "NetworkMode": "own" }), settings.clone()).status, 201);
    daemon.ok(&["start", "linked"]);
    let shown = networks(&mut api, "", "linked");
    assert_eq!(shown["own"]["IPAMConfig"], settings["own"]["IPAMConfig"]);
    let addresses = daemon.ok(&["exec", "linked", "ip", "addr", "show", "dev", "eth0"]);
    assert!(addresses.contains("169.254.8.8/16"), "{}", addresses);
    // Clients that name no version look one level higher than Docker's newest answers have it.
    daemon.ok(&["run", "-d", "--name", "plain", "busybox", "sleep", "600"]);
    let shown = api.get("/containers/plain/json").expect("an answer").json()["NetworkSettings"].clone();
    assert_eq!(shown["IPAddress"], shown["Networks"]["bridge"]["IPAddress"]);
    assert!(shown["IPAddress"].as_str().is_some_and(|address| !address.is_empty()), "{shown}");
}

#[test]
fn what_networks_cannot_be_is_told_in_dockers_words() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let mut made = |name: &str, value: Value| {
        let mut body = json!({ "Name": "n" });
        body[name] = value;
        let answer = api.post("/networks/create", &body).expect("an answer");
        (answer.status, answer.message())
    };
    let subnet = json!({ "Config": [{ "Subnet": "10.201.0.5/24", "Gateway": "10.202.0.1" }] });
    let told = "invalid network config:\n* invalid subnet 10.201.0.5/24: it should be 10.201.0.0/24\n\
                * invalid gateway 10.202.0.1: parent subnet 10.201.0.0/24 doesn't contain this address";
    assert_eq!(made("IPAM", subnet), (400, told.to_owned()));
    let two = json!({ "Config": [{ "Subnet": "10.201.0.0/24" }, { "Subnet": "10.202.0.0/24" }] });
    assert_eq!(made("IPAM", two), (403, "bridge driver doesn't support multiple subnets".to_owned()));
    const ICC: &str = "com.docker.network.bridge.enable_icc";
    let told = "failed to parse com.docker.network.bridge.enable_icc value: x (strconv.ParseBool: parsing \"x\": \
                invalid syntax)";
    assert_eq!(made("Options", json!({ ICC: "x" })), (400, told.to_owned()));
    // IPv6 that is not enabled is left out, and that is said.
    let six = json!({ "Name": "four", "IPAM": { "Config": [{ "Subnet": "fd00:201::/64" }] } });
    let answer = api.post("/networks/create", &six).expect("an answer");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(answer.json()["Warning"].as_str().is_some_and(|text| text.contains("fd00:201::/64")));
    daemon.ok(&["run", "-d", "--name", "plain", "busybox", "sleep", "600"]);
    let gone = api.post("/networks/four/disconnect", &json!({ "Container": "plain" })).expect("an answer");
    assert_eq!(gone.status, 500, "{}", gone.text());
    assert!(gone.message().ends_with("is not connected to network four"), "{}", gone.text());
}

#[test]
fn a_container_on_the_hosts_network_is_called_as_the_host_is() {
    Daemon::start().session(
        r#"
        $ hull run -d --name hosted --network host --expose 80 busybox sleep 600
        <id>
        $ [ "$(hull inspect -f '{{.Config.Hostname}}' hosted)" = "$(uname -n)" ] && [ "$(hull exec hosted hostname)" = "$(uname -n)" ]
        $ hull run -d --name lonely --network none --expose 80 busybox sleep 600; hull inspect -f '{{.NetworkSettings.Ports}}' lonely
        <id>
        map[]
        "#,
    );
}

/// An address that a container had may be another's at its next start, and the hardware address that was made of it with it.
#[test]
fn a_hardware_address_that_nobody_chose_is_of_one_run() {
    Daemon::start().session(
        r#"
        $ hull network create --subnet 10.208.0.0/29 small
        <id>
        $ hull run -d --name one --network small busybox sleep 600; hull run -d --name chosen --network small --mac-address 02:42:ac:11:99:98 busybox sleep 600
        <id>
        <id>
        $ show() { hull inspect -f '{{with .NetworkSettings.Networks.small}}{{.IPAddress}}|{{.MacAddress}}{{end}}' $1; }; show one; hull stop -t 0 one; show one
        10.208.0.2|02:42:0a:d0:00:02
        one
        |
        $ for name in a1 a2 a3 a4; do hull run -d --name $name --network small busybox sleep 600 >/dev/null; done
        $ hull inspect -f '{{.NetworkSettings.Networks.small.IPAddress}}' a4
        10.208.0.2
        $ hull rm -f a1; hull start one; hull exec one cat /sys/class/net/eth0/address | grep -c "$(hull inspect -f '{{.NetworkSettings.Networks.small.MacAddress}}' one)"
        a1
        one
        1
        $ hull inspect -f '{{.NetworkSettings.Networks.small.MacAddress}}' one a2 a3 a4 | sort | uniq | wc -l
        4
        $ hull restart -t 0 chosen; hull exec chosen cat /sys/class/net/eth0/address
        chosen
        02:42:ac:11:99:98
        "#,
    );
}

/// Docker's words and statuses for what networks cannot be.
#[test]
fn what_is_asked_of_networks_over_the_api() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let mut created = |name: &str, mut more: Value| {
        more["Name"] = json!(name);
        let response = api.post("/networks/create", &more).unwrap();
        (response.status, response.text())
    };
    let named = |bridge: &str| json!({ "Options": { "com.docker.network.bridge.name": bridge } });
    assert_eq!(created("one", named("br-one")).0, 201);
    let (status, text) = created("two", named("br-one"));
    assert!(status == 403 && text.contains("(br-one): networks have same bridge name"), "{status} {text}");
    let (status, text) = created("lo", named("lo"));
    assert!(status == 400 && text.contains("existing interface lo is not a bridge"), "{status} {text}");
    let taken = json!({ "Subnet": "10.209.0.0/24", "AuxiliaryAddresses": { "a": "10.209.0.1" } });
    let (status, text) = created("aux", json!({ "IPAM": { "Config": [taken] } }));
    assert!(
        status == 500 && text.contains("address (a:10.209.0.1): Address already in use"),
        "{status} {text}"
    );
    assert_eq!(created("empty", named("")).0, 201);
    let odd = api.get("/networks/one?verbose=maybe").unwrap();
    assert!(odd.status == 400 && odd.text().contains("invalid value for verbose: maybe: strconv.ParseBool"));
    assert_eq!(api.get("/networks/one?verbose=true").unwrap().status, 200);
}
