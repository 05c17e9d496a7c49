//! Networks whose containers have devices of their own on an interface of the machine: macvlan and ipvlan.

use std::process::Command;

use hull_tests::Daemon;
use serde_json::{Value, json};

fn ip(arguments: &str) -> bool {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is installed");
    output.status.success()
}

/// A parent with a carrier: one end of a pair, whose other end is the machine's own on that link.
fn link(daemon: &Daemon) {
    // The daemon and this thread are on a network of their own by now.
    assert!(daemon.pid() > 0);
    for arguments in ["link add up0 type veth peer name down0", "link set up0 up", "link set down0 up"] {
        assert!(ip(arguments), "ip {arguments}");
    }
}

/// Whether this kernel has ipvlan.
fn has_ipvlan() -> bool {
    let made = ip("link add link up0 name probe0 type ipvlan mode l2");
    if made {
        assert!(ip("link del probe0"));
    }
    made
}

#[test]
fn containers_on_a_parent_reach_each_other_and_the_link() {
    let daemon = Daemon::start();
    link(&daemon);
    assert!(ip("addr add 10.205.0.1/24 dev down0"));
    daemon.session(
        r#"
        $ hull network create -d macvlan -o parent=up0 --subnet 10.205.0.0/24 --aux-address router=10.205.0.2 mac
        <id>
        $ hull network inspect -f '{{.Driver}} {{.Options.parent}} {{(index .IPAM.Config 0).Gateway}}' mac
        macvlan up0 10.205.0.1
        $ hull run -d --name aa --network mac -p 18200:80 --expose 90 busybox sleep 600
        <id>
        $ hull run -d --name bb --network mac --ip 10.205.0.77 --mac-address 02:42:0a:cd:00:99 busybox sleep 600
        <id>
        $ hull inspect -f '{{with .NetworkSettings}}{{with .Networks.mac}}{{.IPAddress}} {{.Gateway}}{{end}} {{.Ports}}{{end}}' aa
        10.205.0.3 10.205.0.1 map[]
        $ hull exec bb ip link show dev eth0 | grep -o 02:42:0a:cd:00:99
        02:42:0a:cd:00:99
        $ hull exec aa ip route
        default via 10.205.0.1 dev eth0 
        10.205.0.0/24 dev eth0 scope link  src 10.205.0.3 
        $ hull exec aa ping -c1 -W2 bb | grep -c '64 bytes from 10.205.0.77'
        1
        $ hull exec aa ping -c1 -W2 10.205.0.1 | grep -c '64 bytes'
        1
        $ hull network rm mac 2>&1 | grep -c 'has active endpoints'
        1
        $ hull run --rm --network mac --ip 10.205.0.2 busybox true 2>&1 | grep -o 'Address already in use'
        Address already in use
        $ hull run --rm --network mac --ip 10.206.0.2 busybox true 2>&1 | grep -o 'no configured subnet.*'
        no configured subnet or ip-range contain the IP address 10.206.0.2
        $ hull explain aa | grep -c 'up0 of network mac'
        1
        "#,
    );
}

#[test]
fn several_networks_and_a_daemon_that_comes_back() {
    let mut daemon = Daemon::start();
    link(&daemon);
    let before = daemon.settled();
    daemon.session(
        r#"
        $ hull network create -d macvlan -o parent=up0 --subnet 10.205.0.0/24 one
        <id>
        $ hull network create -d macvlan -o parent=up0 --ipv6 --subnet 10.206.0.0/24 --subnet 10.207.0.0/24 --subnet fd00:206::/64 two
        <id>
        $ hull network create bridged
        <id>
        $ hull run -d --name aa --network one busybox sleep 600
        <id>
        $ hull run -d --name bb --network two --ip 10.207.0.9 busybox sleep 600
        <id>
        $ hull inspect -f '{{with .NetworkSettings.Networks.two}}{{.Gateway}} {{.GlobalIPv6Address}} {{.IPv6Gateway}}{{end}}' bb
        10.207.0.1 fd00:206::2 fd00:206::1
        $ hull network connect --ip 10.207.0.8 two aa
        $ hull network connect bridged aa
        $ hull exec aa ip -4 -o addr show eth1 | grep -c 10.207.0.8
        1
        $ hull exec aa ping -c1 -W2 bb.two | grep -c '64 bytes'
        1
        $ hull exec bb ping -c1 -W2 fd00:206::3 | grep -c '64 bytes'
        1
        "#,
    );
    daemon.kill();
    daemon.begin();
    daemon.session(
        r#"
        $ hull exec aa ping -c1 -W2 bb | grep -c '64 bytes'
        1
        $ hull network disconnect two aa
        $ hull exec aa ip -o link | grep -c eth1
        0
        [1]
        $ hull exec aa ip route | head -n 1 | cut -d' ' -f1-2
        default via
        $ hull network disconnect one aa
        $ hull exec aa ip -o link | grep -c 'eth[01]'
        0
        [1]
        $ hull network connect one aa
        $ hull exec aa ip -4 -o addr show eth0 | grep -c 10.205.0
        1
        $ hull rm -f aa bb
        aa
        bb
        $ hull network rm one two bridged
        one
        two
        bridged
        "#,
    );
    daemon.comes_back_to(&before);
}

#[test]
fn a_network_that_leads_nowhere_has_a_parent_of_its_own() {
    let mut daemon = Daemon::start();
    let id = daemon.ok(&["network", "create", "-d", "macvlan", "--subnet", "10.205.0.0/24", "alone"]);
    let parent = format!("dm-{}", &id[..12]);
    assert!(ip(&format!("link show {parent}")), "{parent} is there");
    daemon.session(
        r#"
        $ hull network inspect -f '{{.Internal}} {{index .IPAM.Config 0}}' alone | tr -d ' '
        false{10.205.0.0/24map[]}
        $ hull run -d --name aa --network alone busybox sleep 600
        <id>
        $ hull run --rm --network alone busybox ping -c1 -W2 aa | grep -c '64 bytes'
        1
        $ hull exec aa ip route
        10.205.0.0/24 dev eth0 scope link  src 10.205.0.1 
        $ hull exec aa nslookup outside.example 2>&1 | grep -c NXDOMAIN
        2
        $ hull rm -f aa
        aa
        "#,
    );
    daemon.kill();
    assert!(ip(&format!("link del {parent}")));
    daemon.begin();
    assert!(ip(&format!("link show {parent}")), "it is made again where it is gone");
    daemon.ok(&["network", "rm", "alone"]);
    assert!(!ip(&format!("link show {parent}")), "it goes with its network");
}

#[test]
fn parents_and_modes_that_cannot_be() {
    let daemon = Daemon::start();
    link(&daemon);
    daemon.ok(&["network", "create", "-d", "macvlan", "-o", "parent=up0", "first"]);
    let mut api = daemon.api();
    let mut refused = |driver: &str, options: Value| {
        let body = json!({ "Name": "no", "Driver": driver, "Options": options });
        let answer = api.post("/networks/create", &body).expect("an answer");
        assert_eq!(answer.status, 500, "{options}: {}", answer.text());
        answer.message()
    };
    let macvlan = "macvlan";
    assert!(
        refused(macvlan, json!({ "parent": "up0", "macvlan_mode": "passthru" }))
            .ends_with("is already using parent interface up0")
    );
    for (driver, options, message) in [
        (
            macvlan,
            json!({ "parent": "nothing" }),
            "invalid subinterface vlan name nothing, example formatting is eth0.10",
        ),
        (macvlan, json!({ "parent": "gone.10" }), "-o parent interface was not found on the host: gone"),
        (macvlan, json!({ "parent": "up0.5000" }), "vlan id must be between 1-4094, received: 5000"),
        (macvlan, json!({ "parent": "lo" }), "loopback interface is not a valid macvlan parent link"),
        (
            macvlan,
            json!({ "parent": "up0", "macvlan_mode": "x" }),
            "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        (
            "ipvlan",
            json!({ "parent": "up0", "ipvlan_mode": "l4" }),
            "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver default",
        ),
    ] {
        assert_eq!(refused(driver, options), message);
    }
    daemon.ok(&["network", "create", "-d", "ipvlan", "-o", "parent=up0", "second"]);
    assert!(refused("ipvlan", json!({ "parent": "up0" })).ends_with("is already using parent interface up0"));
    // What the driver does not know is said to be idle.
    let body =
        json!({ "Name": "noted", "Driver": macvlan, "Options": { "parent": "up0", "ipvlan_mode": "l2" } });
    let made = api.post("/networks/create", &body).expect("an answer");
    assert!(
        made.json()["Warning"].as_str().is_some_and(|warning| warning.contains("ipvlan_mode")),
        "{}",
        made.text()
    );
    let names = api.get("/info").expect("an answer").json()["Plugins"]["Network"].clone();
    assert_eq!(names, json!(["bridge", "host", "ipvlan", "macvlan", "null"]));
}

#[test]
fn one_container_has_a_parent_to_itself() {
    let daemon = Daemon::start();
    link(&daemon);
    daemon.session(
        r#"
        $ hull network create -d macvlan -o parent=up0 -o macvlan_mode=passthru --subnet 10.205.0.0/24 through
        <id>
        $ hull run -d --name aa --network through --mac-address 02:42:0a:cd:00:99 busybox sleep 600
        <id>
        $ hull exec aa ip link show dev eth0 | grep -o 02:42:0a:cd:00:99
        02:42:0a:cd:00:99
        $ hull run --rm --network through busybox true >/dev/null 2>&1
        [125]
        $ hull rm -f aa
        aa
        $ hull network create -d macvlan -o parent=up0 -o macvlan_mode=private --subnet 10.206.0.0/24 shut 2>&1 | grep -o 'in mode passthru'
        in mode passthru
        "#,
    );
}

#[test]
fn a_vlans_interface_is_made_for_its_networks() {
    let daemon = Daemon::start();
    link(&daemon);
    let kernel_has_vlans = ip("link add link up0 name probe type vlan id 9");
    if !kernel_has_vlans {
        let told = daemon.hull(&["network", "create", "-d", "macvlan", "-o", "parent=up0.10", "tagged"]);
        assert!(told.stderr.contains("making the VLAN interface up0.10"), "{}", told.stderr);
        eprintln!("left out: this kernel has no VLANs");
        return;
    }
    daemon.ok(&["network", "create", "-d", "macvlan", "-o", "parent=up0.10", "tagged"]);
    daemon.ok(&["network", "create", "-d", "macvlan", "-o", "parent=up0.10", "another"]);
    daemon.ok(&["network", "rm", "tagged"]);
    assert!(ip("link show up0.10"), "another network is on it");
    daemon.ok(&["network", "rm", "another"]);
    assert!(!ip("link show up0.10"), "it goes with its last network");
}

#[test]
fn ipvlan_has_the_parents_address_and_routes_by_the_machine() {
    let daemon = Daemon::start();
    link(&daemon);
    daemon.ok(&[
        "network",
        "create",
        "-d",
        "ipvlan",
        "-o",
        "parent=up0",
        "--subnet",
        "10.205.0.0/24",
        "flat",
    ]);
    let mac = ["run", "--rm", "--network", "flat", "--mac-address", "02:42:0a:cd:00:99", "busybox", "true"];
    let told = daemon.hull(&mac);
    let words = "ipvlan interfaces do not support custom mac address assignment";
    assert!(told.status == 125 && told.stderr.contains(words), "{}", told.stderr);
    if !has_ipvlan() {
        let told = daemon.hull(&["run", "--rm", "--network", "flat", "busybox", "true"]);
        assert!(told.stderr.contains("making a ipvlan interface on up0"), "{}", told.stderr);
        eprintln!("left out: this kernel has no ipvlan");
        return;
    }
    daemon.session(
        r#"
        $ hull run -d --name aa --network flat busybox sleep 600
        <id>
        $ hull inspect -f '{{with .NetworkSettings.Networks.flat}}{{.MacAddress}} {{.Gateway}}{{end}}' aa
         10.205.0.1
        $ hull run --rm --network flat busybox ping -c1 -W2 aa | grep -c '64 bytes'
        1
        $ hull rm -f aa; hull network rm flat
        aa
        flat
        $ hull network create -d ipvlan -o parent=up0 -o ipvlan_mode=l3 --subnet 10.206.0.0/24 --subnet 10.207.0.0/24 routed
        <id>
        $ hull run -d --name bb --network routed --ip 10.206.0.9 busybox sleep 600
        <id>
        $ hull exec bb ip route
        default dev eth0 scope link 
        10.206.0.0/24 dev eth0 scope link  src 10.206.0.9 
        $ hull run --rm --network routed --ip 10.207.0.9 busybox ping -c1 -W2 bb | grep -c '64 bytes'
        1
        "#,
    );
}
