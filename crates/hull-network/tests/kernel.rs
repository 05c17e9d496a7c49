//! The fabric against the kernel, each test on a private machine (a network namespace of its own). Needs root.

mod machine;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;

use hull_network::{
    Bridge, Device, Endpoint, Error, Fabric, Given, MacvlanMode, Mark, OnParent, Protocol, Published, mac_of,
    netns,
};
use machine::*;

#[test]
fn two_containers_on_a_bridge_reach_each_other_and_the_host() {
    on_a_machine(|| {
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let (one, two) = (container(&fabric, &net, 2), container(&fabric, &net, 3));
        serve(&two, 80);
        assert_eq!(ask(&one, v4(20, 3), 80).as_deref(), Ok("10.20.0.2"));
        assert_eq!(ask(&one, v6(20, 3), 80).as_deref(), Ok("fd00:20::2"));
        serve(&netns::current().unwrap(), 81);
        assert_eq!(ask(&one, v4(20, 1), 81).as_deref(), Ok("10.20.0.2"));
        assert_eq!(ask(&netns::current().unwrap(), v4(20, 3), 80).as_deref(), Ok("10.20.0.1"));
    });
}

/// The machine itself.
fn host() -> std::os::fd::OwnedFd {
    netns::current().unwrap()
}

fn tcp(host_address: Option<IpAddr>, host_port: u16, container: impl Into<IpAddr>) -> Published {
    Published {
        protocol: Protocol::Tcp,
        host_address,
        host_port,
        container_address: container.into(),
        container_port: 80,
        bridge: "hull0".into(),
    }
}

#[test]
fn what_leaves_takes_the_hosts_address_and_nothing_comes_in_unasked() {
    on_a_machine(|| {
        let outside = outside();
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let one = container(&fabric, &net, 2);
        serve(&outside, 80);
        serve(&one, 80);
        assert_eq!(ask(&one, [198, 51, 100, 2], 80).as_deref(), Ok("198.51.100.1"));
        assert_eq!(ask_udp(&one, [198, 51, 100, 2], 80).as_deref(), Ok("198.51.100.1"));
        assert_eq!(ask(&one, "fd00:51::2".parse::<IpAddr>().unwrap(), 80).as_deref(), Ok("fd00:51::1"));
        assert!(ask(&outside, v4(20, 2), 80).is_err(), "the outside has a route and must be kept out");
        assert!(ask(&outside, v6(20, 2), 80).is_err());
        // Without masquerading the packet leaves as it is.
        fabric.ensure_bridge(&Bridge { masquerade: false, ..net.clone() }).unwrap();
        assert_eq!(ask(&one, [198, 51, 100, 2], 80).as_deref(), Ok("10.20.0.2"));
    });
}

/// The container's port 80 at its own address.
fn direct(container: impl Into<IpAddr>) -> Published {
    Published { bridge: "hull0".into(), ..tcp(None, 0, container) }
}

#[test]
fn a_routed_network_is_reached_at_its_own_addresses() {
    on_a_machine(|| {
        let outside = outside();
        let fabric = Fabric::open("hull").unwrap();
        let net = Bridge { routed4: true, routed6: true, ..bridge("hull0", 20) };
        let other = bridge("br-other", 21);
        fabric.ensure_bridge(&net).unwrap();
        fabric.ensure_bridge(&other).unwrap();
        let (one, beside) = (container(&fabric, &net, 2), container(&fabric, &other, 2));
        serve(&one, 80);
        serve(&one, 81);
        serve(&outside, 80);
        assert!(ask(&outside, v4(20, 2), 80).is_err(), "nothing is published yet");
        let ports = [direct(v4(20, 2)), direct(v6(20, 2))];
        fabric.publish("c1", &ports).unwrap();
        assert_eq!(ask(&outside, v4(20, 2), 80).as_deref(), Ok("198.51.100.2"));
        assert_eq!(ask(&outside, v6(20, 2), 80).as_deref(), Ok("fd00:51::2"));
        assert!(ask(&outside, v4(20, 2), 81).is_err(), "which is not published");
        assert!(ask(&beside, v4(20, 2), 80).is_ok(), "from another network");
        assert!(ask(&beside, v4(20, 2), 81).is_err());
        assert_eq!(ask(&one, [198, 51, 100, 2], 80).as_deref(), Ok("10.20.0.2"), "it keeps its address");
        // What the kernel holds is read as it was written.
        let held: Vec<Published> = fabric.published().unwrap().into_iter().map(|by| by.port).collect();
        assert!(ports.iter().all(|port| held.contains(port)) && held.len() == 2, "{held:?}");
        fabric.unpublish("c1", &ports).unwrap();
        assert!(ask(&outside, v4(20, 2), 80).is_err());
    });
}

#[test]
fn an_interface_that_is_trusted_and_an_address_of_ones_choice() {
    on_a_machine(|| {
        let outside = outside();
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let one = container(&fabric, &net, 2);
        serve(&one, 80);
        serve(&outside, 80);
        fabric.publish("c1", &[tcp(None, 8080, v4(20, 2)), direct(v4(20, 2))]).unwrap();
        assert!(ask(&outside, v4(20, 2), 80).is_err(), "not trusted");
        let trusting = Bridge { trusted: vec!["eth-out".into()], ..net.clone() };
        fabric.ensure_bridge(&trusting).unwrap();
        assert_eq!(ask(&outside, v4(20, 2), 80).as_deref(), Ok("198.51.100.2"));
        assert_eq!(ask(&outside, [198, 51, 100, 1], 8080).as_deref(), Ok("198.51.100.2"));
        ip("addr add 198.51.100.77/24 dev eth-out");
        let addressed = Bridge { source4: Some([198, 51, 100, 77].into()), ..net.clone() };
        fabric.ensure_bridge(&addressed).unwrap();
        assert_eq!(ask(&one, [198, 51, 100, 2], 80).as_deref(), Ok("198.51.100.77"));
        fabric.ensure_bridge(&net).unwrap();
        assert_eq!(ask(&one, [198, 51, 100, 2], 80).as_deref(), Ok("198.51.100.1"));
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    for bridge_netfilter in ["0", "1"] {
        on_a_machine(|| {
            set_bridge_netfilter(bridge_netfilter);
            let outside = outside();
            let fabric = Fabric::open("hull").unwrap();
            let (net, other) = (bridge("hull0", 20), bridge("br-other", 21));
            fabric.ensure_bridge(&net).unwrap();
            fabric.ensure_bridge(&other).unwrap();
            let (one, two) = (container(&fabric, &net, 2), container(&fabric, &net, 3));
            let three = container(&fabric, &other, 2);
            serve(&one, 80);
            let mut ports = vec![tcp(None, 8080, v4(20, 2)), tcp(None, 8080, v6(20, 2))];
            ports.push(tcp(Some(Ipv4Addr::LOCALHOST.into()), 8081, v4(20, 2)));
            ports.push(Published { protocol: Protocol::Udp, ..tcp(None, 8080, v4(20, 2)) });
            fabric.publish("c1", &ports).unwrap();
            let out: IpAddr = [198, 51, 100, 1].into();
            let out6: IpAddr = "fd00:51::1".parse().unwrap();
            // From outside, with the peer's own address.
            assert_eq!(ask(&outside, out, 8080).as_deref(), Ok("198.51.100.2"));
            assert_eq!(ask_udp(&outside, out, 8080).as_deref(), Ok("198.51.100.2"));
            assert_eq!(ask(&outside, out6, 8080).as_deref(), Ok("fd00:51::2"));
            assert!(ask(&outside, out, 8081).is_err(), "published on 127.0.0.1 alone");
            // From the host.
            assert_eq!(ask(&host(), out, 8080).as_deref(), Ok("198.51.100.1"));
            assert_eq!(ask(&host(), Ipv4Addr::LOCALHOST, 8080).as_deref(), Ok("10.20.0.1"));
            assert_eq!(ask(&host(), Ipv4Addr::LOCALHOST, 8081).as_deref(), Ok("10.20.0.1"));
            assert_eq!(ask_udp(&host(), Ipv4Addr::LOCALHOST, 8080).as_deref(), Ok("10.20.0.1"));
            assert_eq!(ask(&host(), out6, 8080).as_deref(), Ok("fd00:51::1"));
            // From itself, its neighbour, and a container of another bridge.
            for (from, who) in [(&one, "itself"), (&two, "a neighbour"), (&three, "another bridge")] {
                for address in [out, v4(20, 1).into(), out6] {
                    let answer = ask(from, address, 8080);
                    assert!(
                        answer.is_ok(),
                        "{who} by {address}, bridge netfilter {bridge_netfilter}: {answer:?}"
                    );
                }
                assert!(
                    ask_udp(from, out, 8080).is_ok(),
                    "{who} by UDP, bridge netfilter {bridge_netfilter}"
                );
            }
            // Taken back, and only by its owner.
            fabric.unpublish("c2", &ports).unwrap();
            assert!(ask(&outside, out, 8080).is_ok());
            fabric.unpublish("c1", &ports).unwrap();
            assert!(ask(&outside, out, 8080).is_err());
            assert!(ask_udp(&outside, out, 8080).is_err());
            assert!(ask(&host(), Ipv4Addr::LOCALHOST, 8081).is_err());
        });
    }
}

fn set_bridge_netfilter(value: &str) {
    for name in ["iptables", "ip6tables"] {
        // A kernel without br_netfilter has no such file, and behaves as with 0.
        let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{name}"), value);
    }
}

/// One socket that sends without a pause: its flow must follow the port from container to container.
#[test]
fn udp_flows_end_with_their_port() {
    on_a_machine(|| {
        let outside = outside();
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let servers = [container(&fabric, &net, 2), container(&fabric, &net, 3)].map(|container| {
            let socket = netns::run(container.as_fd(), || UdpSocket::bind("0.0.0.0:80").unwrap()).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
            (container, socket)
        });
        let client = netns::run(outside.as_fd(), || UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        client.connect("198.51.100.1:8080").unwrap();
        client.send(b"before it is published").unwrap();
        let mut buffer = [0; 64];
        for (host, (_, server)) in [2, 3].into_iter().zip(&servers) {
            let port = [Published { protocol: Protocol::Udp, ..tcp(None, 8080, v4(20, host)) }];
            fabric.publish("c", &port).unwrap();
            client.send(b"x").or_else(|_| client.send(b"x")).unwrap(); // the first may report an older refusal
            assert_eq!(server.recv(&mut buffer).unwrap(), 1, "container {host}");
            fabric.unpublish("c", &port).unwrap();
        }
    });
}

/// What is published at an address is no reason to forget others' flows to the same port.
#[test]
fn other_addresses_flows_stay_when_a_port_goes() {
    on_a_machine(|| {
        let outside = outside();
        let fabric = Fabric::open("hull").unwrap();
        let net = Bridge { routed4: true, ..bridge("hull0", 20) };
        fabric.ensure_bridge(&net).unwrap();
        let (one, two) = (container(&fabric, &net, 2), container(&fabric, &net, 3));
        let ports = [2, 3].map(|host| Published { protocol: Protocol::Udp, ..direct(v4(20, host)) });
        for (owner, port) in [("one", &ports[0]), ("two", &ports[1])] {
            fabric.publish(owner, std::slice::from_ref(port)).unwrap();
        }
        for (container, host) in [(&one, 2), (&two, 3)] {
            serve(container, 80);
            assert!(ask_udp(&outside, v4(20, host), 80).is_ok());
        }
        let flows = || [2, 3].map(|host| flows_to(v4(20, host)));
        assert_eq!(flows(), [true, true]);
        fabric.unpublish("one", &ports[..1]).unwrap();
        assert_eq!(flows(), [false, true]);
    });
}

/// Whether the kernel knows a flow to that address: asked by ctnetlink, which is there wherever flows are forgotten, and by
/// hand, for what is tested is not to be its own witness.
fn flows_to(address: Ipv4Addr) -> bool {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};
    const GET_FLOWS: u16 = 1 << 8 | 1; // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
    const REQUEST_DUMP: u16 = 0x1 | 0x300; // NLM_F_REQUEST, NLM_F_DUMP
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    const DESTINATION4: u16 = 2; // CTA_IP_V4_DST
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)).unwrap();
    set_socket_timeout(&socket, Timeout::Recv, Some(std::time::Duration::from_secs(10))).unwrap();
    // struct nlmsghdr: length, kind, flags, number, port; struct nfgenmsg: family, version, resource.
    let mut request = 20u32.to_ne_bytes().to_vec();
    request.extend(GET_FLOWS.to_ne_bytes().into_iter().chain(REQUEST_DUMP.to_ne_bytes()));
    request.extend(1u32.to_ne_bytes().into_iter().chain([0; 4]));
    request.extend([libc::AF_INET as u8, 0, 0, 0]);
    send(&socket, &request, SendFlags::empty()).unwrap();
    // struct nlattr.
    let [length, kind] = [8, DESTINATION4].map(u16::to_ne_bytes);
    let destination = [&length[..], &kind, &address.octets()].concat();
    let mut buffer = vec![0; 64 << 10];
    let mut found = false;
    loop {
        let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty()).expect("the kernel answers");
        found |= buffer[..length].windows(8).any(|window| window == destination);
        let mut at = 0;
        while at + 16 <= length {
            let size = u32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap()) as usize;
            match u16::from_ne_bytes(buffer[at + 4..at + 6].try_into().unwrap()) {
                ERROR => panic!("the kernel refuses"),
                DONE => return found,
                _ => at += size.next_multiple_of(4).max(16),
            }
        }
    }
}

/// Nobody holds the addresses that stand for IPv6 ones: what leads nowhere leads to nobody else.
#[test]
fn what_stands_for_an_ipv6_address_leads_to_its_container_or_nowhere() {
    on_a_machine(|| {
        let net = bridge("hull0", 20);
        let fabric = Fabric::open("hull").unwrap();
        // Another daemon's table is asked as well.
        let beside = Fabric::open("beside").unwrap();
        fabric.ensure_bridge(&net).unwrap();
        let (one, two) = (container(&fabric, &net, 2), container(&fabric, &net, 3));
        serve(&one, 80);
        serve(&two, 80);
        serve(&host(), 8080);
        let [first, second] = hull_network::STAND_INS;
        let at = |last| Ipv4Addr::new(first, second, 7, last);
        let ask_host = |last, port| ask(&host(), at(last), port);
        let refused = Err(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(ask_host(1, 8080), refused, "somebody else listens at every address");
        assert!(ask_udp(&host(), at(1), 8080).is_err());
        assert!(ask(&host(), [127, 0, 0, 2], 8080).is_ok(), "the rest of the loopback is the machine's");
        // Also where a container is published at the port of every address.
        fabric.publish("two", &[tcp(None, 8081, v4(20, 3))]).unwrap();
        assert!(ask(&host(), [127, 0, 0, 2], 8081).is_ok());
        assert_eq!(ask_host(1, 8081), refused);
        let led = [8080, 8081].map(|port| tcp(Some(at(1).into()), port, v4(20, 2)));
        for by in [&fabric, &beside] {
            by.publish("one", &led).unwrap();
            assert_eq!([8080, 8081].map(|port| ask_host(1, port).is_ok()), [true, true]);
            assert_eq!(ask_host(2, 8080), refused);
            by.unpublish("one", &led).unwrap();
            assert_eq!([ask_host(1, 8080), ask_host(1, 8081)], [refused.clone(), refused.clone()]);
        }
    });
}

/// The default routes of a namespace move between its interfaces, which stay, and what goes through them goes on.
#[test]
fn a_default_route_moves_alone() {
    on_a_machine(|| {
        let fabric = Fabric::open("hull").unwrap();
        let (net, other) = (bridge("hull0", 20), bridge("br-other", 21));
        for bridge in [&net, &other] {
            fabric.ensure_bridge(bridge).unwrap();
        }
        ip("link add up0 type veth peer name down0");
        ip("link set up0 up");
        let namespace = container(&fabric, &net, 2);
        let one = endpoint(&net, 2);
        let two = Endpoint { container_name: "eth1".into(), ..endpoint(&other, 2) };
        let by_device = Endpoint {
            on_parent: Some(OnParent { parent: "up0".into(), device: Device::Macvlan(MacvlanMode::Bridge) }),
            host_name: "third".into(),
            container_name: "eth2".into(),
            mac: mac_of(v4(30, 2)),
            address4: Some((v4(30, 2), 24)),
            address6: Some((v6(30, 2), 64)),
            device_route4: true,
            device_route6: true,
            ..Endpoint::default()
        };
        for more in [&two, &by_device] {
            fabric.attach(namespace.as_fd(), &more.without_default_routes()).unwrap();
        }
        let inside =
            |command: &'static str| netns::run(namespace.as_fd(), move || output("ip", command)).unwrap();
        let links = inside("-o link");
        let without = |one: &Endpoint| one.without_default_routes();
        let from_one = [one.clone(), without(&two), without(&by_device)];
        let from_two = [without(&one), two.clone(), without(&by_device)];
        let from_device = [without(&one), without(&two), by_device.clone()];
        let nowhere = [without(&one), without(&two), without(&by_device)];
        let four_only = [one.clone(), Endpoint { gateway4: None, ..two.clone() }, without(&by_device)];
        let four_only =
            [Endpoint { gateway6: None, ..four_only[0].clone() }, four_only[1].clone(), four_only[2].clone()];
        let mut before = &from_one;
        for (now, four, six) in [
            (&from_two, "via 10.21.0.1 dev eth1", "via fd00:21::1 dev eth1"),
            (&from_device, "dev eth2", "dev eth2"),
            (&from_one, "via 10.20.0.1 dev eth0", "via fd00:20::1 dev eth0"),
            (&four_only, "via 10.20.0.1 dev eth0", "via fd00:21::1 dev eth1"),
            (&nowhere, "", ""),
            (&from_device, "dev eth2", "dev eth2"),
            (&from_two, "via 10.21.0.1 dev eth1", "via fd00:21::1 dev eth1"),
        ] {
            fabric.reroute(namespace.as_fd(), before, now).unwrap();
            for (command, wanted) in [("-o route show default", four), ("-6 -o route show default", six)] {
                let routes = inside(command);
                assert_eq!(routes.lines().count(), usize::from(!wanted.is_empty()), "{routes}");
                assert!(routes.contains(wanted), "{routes}");
            }
            before = now;
        }
        assert_eq!(inside("-o link"), links, "the interfaces are the same ones");
        // One that the container has removed itself is in nobody's way, unless the route is to lead there.
        netns::run(namespace.as_fd(), || ip("link del eth1")).unwrap();
        fabric.reroute(namespace.as_fd(), &from_two, &from_one).unwrap();
        let gone = fabric.reroute(namespace.as_fd(), &from_one, &from_two).unwrap_err().to_string();
        assert!(gone.contains("the interface eth1 is gone"), "{gone}");
    });
}

#[test]
fn bridges_are_apart_and_internal_ones_closed() {
    for bridge_netfilter in ["0", "1"] {
        on_a_machine(|| {
            set_bridge_netfilter(bridge_netfilter);
            let outside = outside();
            let fabric = Fabric::open("hull").unwrap();
            let (net, other) = (bridge("hull0", 20), bridge("br-other", 21));
            let internal = Bridge { internal: true, ..bridge("br-int", 22) };
            let lonely = Bridge { inter_container: false, ..bridge("br-lonely", 23) };
            for bridge in [&net, &other, &internal, &lonely] {
                fabric.ensure_bridge(bridge).unwrap();
            }
            let (one, three) = (container(&fabric, &net, 2), container(&fabric, &other, 2));
            let (inside, beside) = (container(&fabric, &internal, 2), container(&fabric, &internal, 3));
            let (alone, neighbour) = (container(&fabric, &lonely, 2), container(&fabric, &lonely, 3));
            for namespace in [&one, &three, &inside, &beside, &alone, &neighbour, &outside] {
                serve(namespace, 80);
            }
            assert!(ask(&one, v4(21, 2), 80).is_err(), "another bridge");
            assert!(ask(&one, v6(21, 2), 80).is_err(), "another bridge, IPv6");
            assert_eq!(
                ask(&inside, v4(22, 3), 80).as_deref(),
                Ok("10.22.0.2"),
                "a neighbour on an internal one"
            );
            netns::run(inside.as_fd(), || ip("route add default via 10.22.0.1")).unwrap();
            assert!(ask(&inside, [198, 51, 100, 2], 80).is_err(), "out of an internal one");
            assert!(ask(&inside, v4(20, 2), 80).is_err(), "from an internal one to another");
            assert!(ask(&one, v4(22, 2), 80).is_err(), "into an internal one");
            assert!(ask(&alone, v4(23, 3), 80).is_err(), "no talk between containers");
            assert!(ask(&alone, v6(23, 3), 80).is_err(), "no talk between containers, IPv6");
            assert!(ask(&alone, [198, 51, 100, 2], 80).is_ok(), "but out");
            assert!(ask(&one, [198, 51, 100, 2], 80).is_ok());
        });
    }
}

#[test]
fn an_open_bridge_is_reached_from_outside_and_one_without_an_address_by_nobody() {
    on_a_machine(|| {
        let outside = outside();
        let fabric = Fabric::open("hull").unwrap();
        let (net, open) = (bridge("hull0", 20), Bridge { open4: true, ..bridge("br-open", 21) });
        let silent = Bridge { without_address4: true, internal: true, ..bridge("br-silent", 22) };
        for bridge in [&net, &open, &silent] {
            fabric.ensure_bridge(bridge).unwrap();
        }
        let (closed, opened) = (container(&fabric, &net, 2), container(&fabric, &open, 2));
        let alone = container(&fabric, &silent, 2);
        for namespace in [&closed, &opened, &alone] {
            serve(namespace, 80);
        }
        netns::run(outside.as_fd(), || ip("route add 10.0.0.0/8 via 198.51.100.1")).unwrap();
        assert!(ask(&outside, v4(20, 2), 80).is_err(), "what is not published");
        assert!(ask(&outside, v4(21, 2), 80).is_ok(), "of an open bridge");
        assert!(ask(&closed, v4(21, 2), 80).is_err(), "another bridge, open or not");
        assert!(ask(&host(), v4(22, 2), 80).is_err(), "the machine has no address there");
        // Asked again without the option: what it changed is changed back.
        fabric.ensure_bridge(&Bridge { open4: false, ..open }).unwrap();
        assert!(ask(&outside, v4(21, 2), 80).is_err(), "open no more");
    });
}

#[test]
fn addresses_of_the_link_are_beside_the_pools() {
    on_a_machine(|| {
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let link_local = vec!["169.254.8.8".parse().unwrap(), "fe80::8".parse().unwrap()];
        let (namespace, _) = fabric.attach_new(&Endpoint { link_local, ..endpoint(&net, 2) }).unwrap();
        let shown = netns::run(namespace.as_fd(), || output("ip", "addr show dev eth0")).unwrap();
        for address in ["10.20.0.2/16", "169.254.8.8/16", "fe80::8/64"] {
            assert!(shown.contains(address), "{address}: {shown}");
        }
    });
}

#[test]
fn the_hosts_loopback_is_out_of_a_containers_reach() {
    on_a_machine(|| {
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let one = container(&fabric, &net, 2);
        serve(&host(), 80);
        let reach = || {
            netns::run(one.as_fd(), || {
                std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
                ip("route replace 127.9.9.9/32 via 10.20.0.1");
                ip("rule add pref 2 lookup local");
                ip("rule add pref 1 to 127.9.9.9 lookup main");
                ip("rule del pref 0");
            })
            .unwrap();
            let answer = ask(&one, [127, 9, 9, 9], 80);
            netns::run(one.as_fd(), || {
                ip("rule add pref 0 lookup local");
                ip("rule del pref 1");
                ip("rule del pref 2");
            })
            .unwrap();
            answer
        };
        assert!(reach().is_err());
        // That the attack itself is right shows without the rule.
        assert_eq!(output("nft", "flush chain inet hull guard"), "");
        assert!(reach().is_ok(), "the attack must work where nothing stands against it");
    });
}

#[test]
fn a_second_daemon_finds_what_the_first_left_and_ports_go_on_answering() {
    on_a_machine(|| {
        let outside = outside();
        let net = bridge("hull0", 20);
        let ports = [tcp(None, 8080, v4(20, 2)), tcp(Some([198, 51, 100, 1].into()), 8081, v4(20, 2))];
        let first = Fabric::open("hull").unwrap();
        first.ensure_bridge(&net).unwrap();
        let one = container(&first, &net, 2);
        serve(&one, 80);
        first.publish("c1", &ports).unwrap();
        drop(first);
        // What an administrator sees.
        let listed = output("nft", "list table inet hull");
        for wanted in ["elements = { \"hull0\" }", "tcp . 8080 comment \"c1 hull0\" : 10.20.0.2 . 80"] {
            assert!(listed.contains(wanted), "{wanted}: {listed}");
        }
        assert!(ask(&outside, [198, 51, 100, 1], 8080).is_ok(), "while no daemon is there");
        let second = Fabric::open("hull").unwrap();
        assert!(ask(&outside, [198, 51, 100, 1], 8080).is_ok());
        assert_eq!(second.bridges().unwrap(), ["hull0"]);
        let mut held = second.published().unwrap();
        held.sort();
        let mut wanted: Vec<_> = ports.iter().map(|port| ("c1".to_owned(), port.clone())).collect();
        wanted.sort();
        assert_eq!(held.into_iter().map(|by| (by.owner, by.port)).collect::<Vec<_>>(), wanted);
        second.ensure_bridge(&net).unwrap();
        second.publish("c1", &ports).unwrap();
        let clash = second.publish("c2", &[tcp(None, 9999, v4(20, 3)), tcp(None, 8080, v4(20, 3))]);
        assert!(matches!(clash, Err(Error::AlreadyPublished { port: 8080, .. })), "{clash:?}");
        assert_eq!(second.published().unwrap().len(), 2, "all or none");
        second.unpublish("c1", &ports).unwrap();
        second.unpublish("c1", &ports).unwrap();
        assert!(second.published().unwrap().is_empty());
    });
}

#[test]
fn an_administrators_bridge_is_used_and_stays() {
    on_a_machine(|| {
        ip("link add br-admin type bridge");
        ip("addr add 192.0.2.1/24 dev br-admin");
        ip("link add dummy type veth peer name dummy-peer");
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("br-admin", 20);
        fabric.ensure_bridge(&net).unwrap();
        let one = container(&fabric, &net, 2);
        serve(&one, 80);
        assert!(ask(&host(), v4(20, 2), 80).is_ok());
        assert!(fabric.bridges().unwrap().is_empty(), "not this instance's");
        fabric.remove_bridge("br-admin").unwrap();
        assert!(output("ip", "-4 -o addr show dev br-admin").contains("192.0.2.1/24"));
        let no_bridge = fabric.ensure_bridge(&bridge("dummy", 21)).unwrap_err().to_string();
        assert!(no_bridge.contains("existing interface dummy is not a bridge"), "{no_bridge}");
        fabric.ensure_bridge(&bridge("hull0", 22)).unwrap();
        let other = Fabric::open("hull-0a1b2c").unwrap();
        for refused in [other.ensure_bridge(&bridge("hull0", 22)), other.remove_bridge("hull0")] {
            assert!(refused.unwrap_err().to_string().contains("another daemon's (hull)"));
        }
        for wrong in ["", "a-name-of-sixteen", "a/b", "a b", ".."] {
            assert!(fabric.ensure_bridge(&bridge(wrong, 23)).is_err(), "{wrong:?}");
        }
        other.close().unwrap();
        assert_eq!(fabric.bridges().unwrap(), ["hull0"]);
    });
}

#[test]
fn an_interface_too_narrow_for_ipv6_works() {
    on_a_machine(|| {
        let fabric = Fabric::open("hull").unwrap();
        let narrow = Bridge { gateway6: None, mtu: Some(1000), ..bridge("hull0", 20) };
        fabric.ensure_bridge(&narrow).unwrap();
        let end = Endpoint { address6: None, gateway6: None, mtu: Some(1000), ..endpoint(&narrow, 2) };
        let (one, _) = fabric.attach_new(&end).unwrap();
        serve(&one, 80);
        assert_eq!(ask(&host(), v4(20, 2), 80).as_deref(), Ok("10.20.0.1"));
    });
}

#[test]
fn nothing_is_left() {
    on_a_machine(|| {
        let links = || output("ip", "-o link").lines().count();
        let before = links();
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        for round in 0..50 {
            let namespace = container(&fabric, &net, 3 + round);
            let second =
                Endpoint { container_name: "eth1".into(), host_name: "second".into(), ..endpoint(&net, 99) };
            let second = Endpoint { gateway4: None, gateway6: None, ..second };
            fabric.attach(namespace.as_fd(), &second).unwrap();
            fabric.detach(namespace.as_fd(), &second, &[]).unwrap();
            fabric.detach(namespace.as_fd(), &second, &[]).unwrap();
        }
        // An endpoint that fails half-way leaves no interface.
        let wrong = Endpoint { gateway4: Some([192, 0, 2, 99].into()), ..endpoint(&net, 77) };
        let error = fabric.attach_new(&wrong).unwrap_err().to_string();
        assert!(error.contains("default route by 192.0.2.99"), "{error}");
        assert!(!output("ip", "-o link").contains(&wrong.host_name));
        let absent = fabric.attach_new(&Endpoint { bridge: "nosuch".into(), ..endpoint(&net, 77) });
        assert!(absent.unwrap_err().to_string().contains("nosuch"));
        let twice = [endpoint(&net, 78), endpoint(&net, 78)].map(|endpoint| fabric.attach_new(&endpoint));
        assert!(twice[0].is_ok() && twice[1].is_err());
        assert!(output("ip", "-o link").contains("v20x78"), "the one that was there stays");
        drop(twice);
        fabric.close().unwrap();
        // The kernel takes the pairs down on its own time; removing the bridge did not wait for it.
        while links() > before {
            std::thread::yield_now();
        }
        assert!(!output("nft", "list tables").contains("inet hull\n"));
    });
}

/// A container that may change its interfaces exchanges names and moves its address: what is removed is the network's own.
#[test]
fn what_a_container_calls_its_interfaces_protects_none_of_them() {
    on_a_machine(|| {
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        ip("link add up0 type veth peer name down0");
        ip("link set up0 up");
        let namespace = container(&fabric, &net, 2);
        let on_parent = Endpoint {
            on_parent: Some(OnParent { parent: "up0".into(), device: Device::Macvlan(MacvlanMode::Bridge) }),
            container_name: "eth1".into(),
            mac: mac_of(v4(30, 2)),
            address4: Some((v4(30, 2), 24)),
            ..Endpoint::default()
        };
        // One that cannot be configured is not left there.
        let wrong = Endpoint { gateway4: Some([192, 0, 2, 99].into()), ..on_parent.clone() };
        let error = fabric.attach(namespace.as_fd(), &wrong).unwrap_err().to_string();
        assert!(error.contains("default route by 192.0.2.99"), "{error}");
        let inside = |command: &'static str| netns::run(namespace.as_fd(), move || output("ip", command));
        assert!(!inside("-o link").unwrap().contains("eth1"));
        let made = fabric.attach(namespace.as_fd(), &on_parent).unwrap();
        netns::run(namespace.as_fd(), || {
            for step in [
                "link set eth0 down",
                "link set eth1 down",
                "link set eth0 name other",
                "link set eth1 name eth0",
                "link set other name eth1",
                "addr flush dev eth0",
                "addr add 10.30.0.2/24 dev eth1",
            ] {
                ip(step);
            }
        })
        .unwrap();
        let now = netns::inside(namespace.as_fd()).unwrap();
        let given = Given { mac: on_parent.mac, addresses: vec![v4(30, 2).into()] };
        let mark = Mark::OnParent { parent: "up0", kind: "macvlan", given: &given, others: &[] };
        assert_eq!(fabric.find(&now, &mark).map(|found| found.index), Some(made.container_index));
        // Another network's on the same parent, whose own the container has removed: this is not it.
        let other = Endpoint {
            host_name: "other".into(),
            mac: mac_of(v4(31, 2)),
            address4: Some((v4(31, 2), 24)),
            ..on_parent.clone()
        };
        fabric.detach(namespace.as_fd(), &other, &[on_parent.clone(), other.clone()]).unwrap();
        assert!(inside("-o link").unwrap().contains("eth0"));
        // Which cannot be told where a third's is gone, too, and the one that is there has nothing of its own.
        let third =
            Endpoint { host_name: "third".into(), mac: mac_of(v4(32, 2)), address4: None, ..other.clone() };
        fabric.detach(namespace.as_fd(), &other, &[third, other.clone()]).unwrap_err();
        assert!(inside("-o link").unwrap().contains("eth0"));
        fabric.detach(namespace.as_fd(), &on_parent, &[other, on_parent.clone()]).unwrap();
        let left = inside("-o link").unwrap();
        assert!(left.contains("eth1") && !left.contains("eth0"), "{left}");
        fabric.detach(namespace.as_fd(), &endpoint(&net, 2), &[]).unwrap();
        assert!(!inside("-o link").unwrap().contains("eth1"));
    });
}

#[test]
fn forwarding_is_opened_for_containers_alone() {
    on_a_machine(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let outside = outside();
        // A second interface that was there before, and one that comes later.
        let _before = beyond("eth-before", 41);
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let one = container(&fabric, &net, 2);
        assert!(ask(&one, [10, 41, 0, 2], 80).is_ok(), "a container gets out");
        assert!(ask(&outside, [10, 41, 0, 2], 80).is_err(), "the machine is no router between the two");
        let _later = beyond("eth-later", 42);
        assert!(ask(&outside, [10, 42, 0, 2], 80).is_ok(), "what comes later is not hull's to close");
    });
}

#[test]
fn a_router_goes_on_routing() {
    on_a_machine(|| {
        let outside = outside();
        let _far = beyond("eth-far", 41);
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        assert_eq!(ask(&outside, [10, 41, 0, 2], 80).as_deref(), Ok("198.51.100.2"));
        // IPv6 forwarding is off, and is turned on for this bridge.
        let fabric = Fabric::open("hull").unwrap();
        fabric.ensure_bridge(&bridge("hull0", 20)).unwrap();
        assert_eq!(ask(&outside, [10, 41, 0, 2], 80).as_deref(), Ok("198.51.100.2"));
    });
}

#[test]
fn settings_of_a_namespace_are_set_there() {
    on_a_machine(|| {
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let settings = [("net.ipv4.ip_forward", "0"), ("net.ipv4.conf.eth0.log_martians", "1")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let with = Endpoint { sysctls: settings, mtu: Some(1400), ..endpoint(&net, 2) };
        let (namespace, attached) = fabric.attach_new(&with).unwrap();
        let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
        netns::run(namespace.as_fd(), || {
            assert_eq!(read("/proc/sys/net/ipv4/ip_forward"), "0");
            assert_eq!(read("/proc/sys/net/ipv4/conf/eth0/log_martians"), "1");
            assert_eq!(read("/proc/sys/net/ipv6/conf/eth0/mtu"), "1400");
        })
        .unwrap();
        assert_eq!(read("/proc/sys/net/ipv4/ip_forward"), "1", "and nowhere else");
        let outside = [("kernel.hostname".to_owned(), "x".to_owned())].to_vec();
        assert!(fabric.attach_new(&Endpoint { sysctls: outside, ..endpoint(&net, 3) }).is_err());
        let inside = netns::interfaces(namespace.as_fd()).unwrap();
        let eth0 = inside.iter().find(|interface| interface.name == "eth0").unwrap();
        assert_eq!(eth0.index, attached.container_index);
        let before = eth0.rx_bytes;
        serve(&namespace, 80);
        assert!(ask(&host(), v4(20, 2), 80).is_ok());
        let after = netns::interfaces(namespace.as_fd()).unwrap();
        assert!(after.iter().any(|interface| interface.name == "eth0" && interface.rx_bytes > before));
        // An IPv4 endpoint has no IPv6 address at all.
        let (plain, _) =
            fabric.attach_new(&Endpoint { address6: None, gateway6: None, ..endpoint(&net, 4) }).unwrap();
        let addresses = netns::run(plain.as_fd(), || output("ip", "-6 -o addr show dev eth0")).unwrap();
        assert_eq!(addresses, "");
    });
}
