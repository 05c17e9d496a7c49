//! A private machine for a test: a network namespace of its own, with a fabric, an outside, and containers.

#![allow(unsafe_code)] // unshare
#![allow(dead_code)] // each test uses a part of it

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use hull_network::{Bridge, Endpoint, Fabric, mac_of, netns};

/// Runs a test on a thread that is a machine of its own; the namespace goes with the thread.
pub(crate) fn on_a_machine(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: NEWNET alone; no descriptor table is unshared.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("these tests need root");
            ip("link set lo up");
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// iproute2, to make what is not hull's: the world around it.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a command prints.
pub(crate) fn output(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A namespace that is not hull's.
pub(crate) fn new_namespace() -> OwnedFd {
    let (sender, receiver) = std::sync::mpsc::channel();
    on_a_machine(|| sender.send(netns::current().unwrap()).unwrap());
    receiver.recv().unwrap()
}

/// A namespace behind eth-out: 198.51.100.2 and fd00:51::2, the machine has .1 and ::1. Its default route is the machine.
pub(crate) fn outside() -> OwnedFd {
    let namespace = new_namespace();
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    // Where both ends have one index, the kernel takes the pair for an ordinary device and tells of its carrier once
    // a second only (linkwatch_urgent_event); on a real machine they differ.
    ip(&format!("link add eth-out index 1000 type veth peer name eth0 netns {path}"));
    ip("addr add 198.51.100.1/24 dev eth-out");
    ip("addr add fd00:51::1/64 dev eth-out nodad");
    // A link-local address that needs no second of duplicate detection: a router solicits with it.
    ip("link set eth-out addrgenmode none");
    ip("addr add fe80::51/64 dev eth-out nodad");
    ip("link set eth-out up");
    netns::run(namespace.as_fd(), || {
        ip("addr add 198.51.100.2/24 dev eth0");
        ip("addr add fd00:51::2/64 dev eth0 nodad");
        ip("link set eth0 up");
        ip("route add default via 198.51.100.1");
        ip("route add default via fd00:51::1");
        settle("eth0");
    })
    .unwrap();
    settle("eth-out");
    namespace
}

/// Another machine, 10.<net>.0.2, behind an interface of this one; it serves port 80.
pub(crate) fn beyond(name: &str, net: u8) -> OwnedFd {
    let far = new_namespace();
    let path = format!("/proc/{}/fd/{}", std::process::id(), far.as_raw_fd());
    ip(&format!("link add {name} index {} type veth peer name eth0 netns {path}", 1000 + u32::from(net)));
    ip(&format!("addr add 10.{net}.0.1/24 dev {name}"));
    ip(&format!("link set {name} up"));
    netns::run(far.as_fd(), || {
        ip(&format!("addr add 10.{net}.0.2/24 dev eth0"));
        ip("link set eth0 up");
        ip(&format!("route add default via 10.{net}.0.1"));
        settle("eth0");
    })
    .unwrap();
    settle(name);
    serve(&far, 80);
    far
}

/// Asking for a link makes the kernel do at once what its link watch has queued; until then packets may be lost.
pub(crate) fn settle(link: &str) {
    ip(&format!("link show dev {link}"));
    // An IPv6 address is tentative until a kernel thread has come by, also when nothing is to be detected.
    while !output("ip", &format!("-6 -o addr show dev {link} tentative")).is_empty() {
        std::thread::yield_now();
    }
}

/// A bridge 10.<net>.0.0/16 and fd00:<net>::/64.
pub(crate) fn bridge(name: &str, net: u8) -> Bridge {
    Bridge {
        name: name.into(),
        gateway4: Some((Ipv4Addr::new(10, net, 0, 1), 16)),
        gateway6: Some((v6(net, 1), 64)),
        subnets: vec![
            format!("10.{net}.0.0/16").parse().unwrap(),
            format!("fd00:{net}::/64").parse().unwrap(),
        ],
        inter_container: true,
        masquerade: true,
        ..Bridge::default()
    }
}

pub(crate) fn v4(net: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, net, 0, host)
}

pub(crate) fn v6(net: u8, host: u8) -> Ipv6Addr {
    format!("fd00:{net}::{host}").parse().unwrap()
}

/// The `host`th container on that bridge.
pub(crate) fn endpoint(bridge: &Bridge, host: u8) -> Endpoint {
    let gateway = bridge.gateway4.unwrap().0;
    let net = gateway.octets()[1];
    Endpoint {
        bridge: bridge.name.clone(),
        host_name: format!("v{net}x{host}"),
        container_name: "eth0".into(),
        mac: mac_of(v4(net, host)),
        address4: Some((v4(net, host), 16)),
        address6: Some((v6(net, host), 64)),
        gateway4: (!bridge.internal).then_some(gateway),
        gateway6: bridge.gateway6.filter(|_| !bridge.internal).map(|(address, _)| address),
        isolated: !bridge.inter_container,
        ..Endpoint::default()
    }
}

pub(crate) fn container(fabric: &Fabric, bridge: &Bridge, host: u8) -> OwnedFd {
    let (namespace, _) = fabric.attach_new(&endpoint(bridge, host)).unwrap();
    netns::run(namespace.as_fd(), || settle("eth0")).unwrap();
    settle(&bridge.name);
    namespace
}

/// A server in a namespace: each TCP connection gets the peer's address as seen there, each datagram too.
pub(crate) fn serve(namespace: &OwnedFd, port: u16) {
    let (tcp4, tcp6, udp) = netns::run(namespace.as_fd(), || {
        (
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap(),
            v6_listener(port),
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap(),
        )
    })
    .unwrap();
    for listener in std::iter::once(tcp4).chain(tcp6) {
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = stream.write_all(peer.ip().to_string().as_bytes());
            }
        });
    }
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

fn v6_listener(port: u16) -> Option<TcpListener> {
    use rustix::net::{AddressFamily, SocketAddrV6, SocketType, bind, listen, socket, sockopt};
    let socket = socket(AddressFamily::INET6, SocketType::STREAM, None).ok()?;
    sockopt::set_ipv6_v6only(&socket, true).ok()?;
    bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)).ok()?;
    listen(&socket, 16).ok()?;
    Some(TcpListener::from(socket))
}

/// Asks a server from a namespace; what it answered, or why not.
pub(crate) fn ask(
    from: &OwnedFd,
    address: impl Into<IpAddr>,
    port: u16,
) -> Result<String, std::io::ErrorKind> {
    let to = SocketAddr::new(address.into(), port);
    netns::run(from.as_fd(), || ask_here(to)).unwrap()
}

pub(crate) fn ask_here(to: SocketAddr) -> Result<String, std::io::ErrorKind> {
    let talk = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(700))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    talk().map_err(|error: std::io::Error| error.kind())
}

/// The same with a datagram.
pub(crate) fn ask_udp(
    from: &OwnedFd,
    address: impl Into<IpAddr>,
    port: u16,
) -> Result<String, std::io::ErrorKind> {
    let to = SocketAddr::new(address.into(), port);
    netns::run(from.as_fd(), || {
        let talk = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(700)))?;
            socket.connect(to)?;
            socket.send(b"?")?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        talk().map_err(|error: std::io::Error| error.kind())
    })
    .unwrap()
}
