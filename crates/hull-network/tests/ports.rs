//! Host ports, held against every other program. Needs root: each test is on a machine of its own.

mod machine;

use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use hull_network::ports::{Answered, PortRange, reserve};
use hull_network::{Error, Protocol};
use machine::*;

#[test]
fn a_reserved_port_is_nobody_elses_and_refuses() {
    on_a_machine(|| {
        let held = reserve(Protocol::Tcp, None, PortRange::exactly(3000), Answered::No).unwrap();
        assert_eq!((held.port, held.sockets.len()), (3000, 2));
        // The standard library sets SO_REUSEADDR, as most servers do.
        assert!(TcpListener::bind("0.0.0.0:3000").is_err());
        assert!(TcpListener::bind("127.0.0.1:3000").is_err());
        assert!(TcpListener::bind("[::]:3000").is_err());
        for address in ["127.0.0.1:3000", "[::1]:3000"] {
            let refused = TcpStream::connect(address).unwrap_err().kind();
            assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "{address}");
        }
        assert!(reserve(Protocol::Tcp, None, PortRange::exactly(3000), Answered::No).is_err());
        let loopback = Some(Ipv4Addr::LOCALHOST.into());
        assert!(reserve(Protocol::Tcp, loopback, PortRange::exactly(3000), Answered::No).is_err());
        let udp = reserve(Protocol::Udp, loopback, PortRange::exactly(3000), Answered::No).unwrap();
        assert!(UdpSocket::bind("127.0.0.1:3000").is_err());
        drop((held, udp));
        assert!(TcpListener::bind("0.0.0.0:3000").is_ok());
        assert!(UdpSocket::bind("127.0.0.1:3000").is_ok());
    });
}

#[test]
fn who_has_a_port_is_told() {
    on_a_machine(|| {
        let _listener = TcpListener::bind("127.0.0.1:3000").unwrap();
        let error = reserve(Protocol::Tcp, None, PortRange::exactly(3000), Answered::No).unwrap_err();
        let mine = format!("(pid {})", std::process::id());
        assert!(
            matches!(&error, Error::PortTaken { holder: Some(holder), .. } if holder.ends_with(&mine)),
            "{error}"
        );
        assert!(error.to_string().starts_with("0.0.0.0:3000/tcp is already in use by "), "{error}");
        let far: IpAddr = [192, 0, 2, 7].into();
        let error = reserve(Protocol::Tcp, Some(far), PortRange::exactly(3000), Answered::No).unwrap_err();
        assert!(matches!(error, Error::NotLocal { .. }), "{error}");
    });
}

#[test]
fn of_a_range_the_lowest_free_one_and_of_all_the_next() {
    on_a_machine(|| {
        let range = PortRange { first: 4000, last: 4002 };
        let held: Vec<_> =
            (0..3).map(|_| reserve(Protocol::Tcp, None, range, Answered::No).unwrap()).collect();
        assert_eq!(held.iter().map(|held| held.port).collect::<Vec<_>>(), [4000, 4001, 4002]);
        assert!(matches!(
            reserve(Protocol::Tcp, None, range, Answered::No),
            Err(Error::NoPortFree { first: 4000, last: 4002, .. })
        ));
        assert!(reserve(Protocol::Tcp, None, PortRange { first: 9, last: 8 }, Answered::No).is_err());
        assert!(reserve(Protocol::Tcp, None, PortRange { first: 0, last: 8 }, Answered::No).is_err());
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50009").unwrap();
        let mut ports: Vec<_> =
            (0..10).map(|_| reserve(Protocol::Udp, None, PortRange::ANY, Answered::No).unwrap()).collect();
        assert!(reserve(Protocol::Udp, None, PortRange::ANY, Answered::No).is_err());
        ports.sort_by_key(|held| held.port);
        assert_eq!(
            ports.iter().map(|held| held.port).collect::<Vec<_>>(),
            (50000..=50009).collect::<Vec<_>>()
        );
        drop(ports);
        let one = reserve(Protocol::Udp, None, PortRange::ANY, Answered::No).unwrap().port;
        let two = reserve(Protocol::Udp, None, PortRange::ANY, Answered::No).unwrap().port;
        assert_ne!(one, two, "a port is not given again at once");
    });
}

#[test]
fn sctp_is_held_or_nobodys() {
    on_a_machine(|| {
        let held = reserve(Protocol::Sctp, None, PortRange::exactly(5000), Answered::No).unwrap();
        assert_eq!(held.port, 5000);
    });
}

#[test]
fn the_side_of_ipv6_listens_where_it_is_to_be_answered() {
    on_a_machine(|| {
        let port = PortRange::exactly(3000);
        let held = reserve(Protocol::Tcp, None, port, Answered::ByHolder).unwrap();
        assert_eq!((held.sockets.len(), held.answered), (2, Some(1)));
        TcpStream::connect("[::1]:3000").expect("a place in the queue");
        assert!(TcpStream::connect("127.0.0.1:3000").is_err(), "that is the firewall's");
        assert!(TcpListener::bind("[::]:3000").is_err(), "nobody listens beside it");
        // What was answered stays in TIME_WAIT, and is in nobody's way.
        drop(held);
        assert!(reserve(Protocol::Tcp, None, port, Answered::ByHolder).is_ok());
        let one = Some(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(reserve(Protocol::Udp, one, port, Answered::ByHolder).unwrap().answered, None);
    });
}
