//! The responder, from inside a container's namespace. Needs root: each test is on a machine of its own.

mod machine;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hull_network::{Fabric, dns, netns};
use machine::*;

struct Book {
    upstreams: Vec<SocketAddr>,
}

impl dns::Names for Book {
    fn lookup(&self, scope: &str, name: &str) -> Option<Vec<IpAddr>> {
        assert_eq!(scope, "c1");
        match name {
            "web" => Some(vec![[10, 20, 0, 7].into()]),
            "both" => Some(vec![[10, 20, 0, 8].into(), "fd00::8".parse().unwrap()]),
            "many" => Some((0..100).map(|host| [10, 20, 1, host].into()).collect()),
            _ => None,
        }
    }

    fn reverse(&self, _: &str, address: IpAddr) -> Option<String> {
        (address == IpAddr::from([10, 20, 0, 7])).then(|| "web.net".into())
    }

    fn upstreams(&self, _: &str) -> Vec<SocketAddr> {
        self.upstreams.clone()
    }
}

/// Runs a responder for a container while `test` asks it.
fn with_responder(upstreams: Vec<SocketAddr>, test: impl FnOnce(&OwnedFd) + Send) {
    on_a_machine(|| {
        let container = Fabric::open("hull").unwrap().new_namespace().unwrap();
        // As a daemon that was started again: the second one counts.
        drop(dns::listen(container.as_fd()).unwrap());
        let sockets = dns::listen(container.as_fd()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (done, finished) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                test(&container);
                drop(done);
            });
            runtime.block_on(async {
                tokio::select! {
                    ended = dns::serve(sockets, "c1".into(), Arc::new(Book { upstreams })) => panic!("{ended:?}"),
                    _ = finished => {}
                }
            });
        });
    });
}

fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, kind, 0, 1]);
    bytes
}

const SERVER: (Ipv4Addr, u16) = (dns::RESPONDER, 53);
const A: u8 = 1;
const PTR: u8 = 12;
const TXT: u8 = 16;
const AAAA: u8 = 28;

fn ask_udp(from: &OwnedFd, bytes: &[u8]) -> Vec<u8> {
    netns::run(from.as_fd(), || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(7))).unwrap();
        // Connected: the kernel takes an answer from 127.0.0.11 port 53 alone.
        socket.connect(SERVER).unwrap();
        let mut buffer = [0; 4096];
        // As every resolver asks: a question that meets a full queue is lost, and asked again.
        let answered = (0..3).find_map(|_| {
            socket.send(bytes).unwrap();
            socket.recv(&mut buffer).ok()
        });
        buffer[..answered.expect("an answer to one of three questions")].to_vec()
    })
    .unwrap()
}

fn ask_tcp(from: &OwnedFd, queries: &[Vec<u8>]) -> Vec<Vec<u8>> {
    netns::run(from.as_fd(), || {
        let mut stream = TcpStream::connect(SERVER).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(7))).unwrap();
        let framed = |bytes: &Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        stream.write_all(&queries.iter().flat_map(framed).collect::<Vec<_>>()).unwrap();
        queries
            .iter()
            .map(|_| {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut bytes).unwrap();
                bytes
            })
            .collect()
    })
    .unwrap()
}

/// Code, number of answers, and the last bytes.
fn facts(answer: &[u8]) -> (u8, u8, &[u8]) {
    assert_eq!(answer[..2], [0xab, 0xcd], "the query's id");
    (answer[3] & 15, answer[7], &answer[answer.len() - 4..])
}

/// Code and number of answers.
fn counts(answer: &[u8]) -> (u8, u8) {
    let (code, count, _) = facts(answer);
    (code, count)
}

#[test]
fn own_names_are_answered() {
    with_responder(Vec::new(), |container| {
        assert_eq!(facts(&ask_udp(container, &query("WEB", A))), (0, 1, &[10, 20, 0, 7][..]));
        assert_eq!(facts(&ask_udp(container, &query("both", AAAA))), (0, 1, &[0, 0, 0, 8][..]));
        assert_eq!(
            counts(&ask_udp(container, &query("web", AAAA))),
            (0, 0),
            "known, and without an IPv6 address"
        );
        assert_eq!(counts(&ask_udp(container, &query("web", TXT))), (0, 0));
        let name = ask_udp(container, &query("7.0.20.10.in-addr.arpa", PTR));
        assert!(name.ends_with(b"\x03web\x03net\0"));
        let start = Instant::now();
        assert_eq!(counts(&ask_udp(container, &query("nosuch", A))), (3, 0), "no upstream: no such name");
        assert!(start.elapsed() < Duration::from_secs(1));
        let cut = ask_udp(container, &query("many", A));
        assert!(cut.len() <= 512 && cut[2] & 2 != 0);
        // Who takes more by UDP gets all (EDNS); and each of the many is the first once.
        let mut large = query("many", A);
        large[11] = 1;
        large.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        let whole = ask_udp(container, &large);
        assert_eq!((whole[7], whole[2] & 2), (100, 0));
        // Behind the question: a pointer to its name, type, class, the time to live, the length.
        let first = |answer: &[u8]| answer[large.len() - 11 + 12..][..4].to_vec();
        let firsts: std::collections::BTreeSet<_> =
            (0..100).map(|_| first(&ask_udp(container, &large))).collect();
        assert_eq!(firsts.len(), 100);
        let both = ask_tcp(container, &[query("many", A), query("web", A)]);
        assert_eq!((facts(&both[0]).1, both[0][2] & 2), (100, 0));
        assert_eq!(facts(&both[1]), (0, 1, &[10, 20, 0, 7][..]));
    });
}

#[test]
fn a_container_may_serve_dns_itself() {
    with_responder(Vec::new(), |container| {
        netns::run(container.as_fd(), || {
            let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
            let _tcp = TcpListener::bind("0.0.0.0:53").unwrap();
            // What is for its own address reaches it and is not rewritten.
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect("127.0.0.1:53").unwrap();
            client.send(b"own").unwrap();
            let mut buffer = [0; 16];
            let (length, peer) = udp.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"own");
            udp.send_to(b"yes", peer).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 3);
        })
        .unwrap();
        assert_eq!(facts(&ask_udp(container, &query("web", A))), (0, 1, &[10, 20, 0, 7][..]));
    });
}

/// An upstream on the machine: 192.0.2.1 for every question; `silent` ones never answer.
fn upstream(silent: bool) -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).unwrap();
    let answer = |query: &[u8]| {
        let mut bytes = query.to_vec();
        (bytes[2], bytes[3], bytes[7]) = (0x81, 0x80, 1);
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        bytes
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            if !silent {
                // First a forger's guesses: another id, another question.
                let mut forged = answer(&buffer[..length]);
                forged[0] ^= 1;
                let _ = udp.send_to(&forged, peer);
                let mut forged = answer(&buffer[..length]);
                forged[13] ^= 1;
                let _ = udp.send_to(&forged, peer);
                let _ = udp.send_to(&answer(&buffer[..length]), peer);
            }
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut bytes).is_ok() {
                let bytes = answer(&bytes);
                let _ = stream.write_all(&[&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat());
            }
        }
    });
    address
}

#[test]
fn other_names_are_asked_on_from_the_machine() {
    on_a_machine(|| {
        let (silent, good) = (upstream(true), upstream(false));
        // A machine within this one: its loopback is this thread's, so the responder is run here.
        let container = Fabric::open("hull").unwrap().new_namespace().unwrap();
        let sockets = dns::listen(container.as_fd()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (done, finished) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let wanted = (0, 1, &[192, 0, 2, 1][..]);
                let start = Instant::now();
                assert_eq!(facts(&ask_udp(&container, &query("example.org", A))), wanted);
                assert!(start.elapsed() >= Duration::from_secs(2), "the first upstream is silent");
                assert_eq!(facts(&ask_tcp(&container, &[query("example.org", A)])[0]), wanted);
                drop(done);
            });
            runtime.block_on(async {
                let book = Arc::new(Book { upstreams: vec![silent, good] });
                tokio::select! {
                    ended = dns::serve(sockets, "c1".into(), book) => panic!("{ended:?}"),
                    _ = finished => {}
                }
            });
        });
    });
}

#[test]
fn random_packets_leave_the_responder_answering() {
    with_responder(Vec::new(), |container| {
        netns::run(container.as_fd(), || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let mut state = 0x1234_5678_9abc_def1_u64;
            for round in 0..5_000 {
                let mut bytes = query("web", A);
                for _ in 0..8 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let at = (state >> 16) as usize % bytes.len();
                    bytes[at] = state as u8;
                }
                bytes.truncate(round % (bytes.len() + 1));
                socket.send_to(&bytes, SERVER).unwrap();
            }
            // A connection that is cut anywhere.
            for length in 0..20 {
                let mut stream = TcpStream::connect(SERVER).unwrap();
                stream.write_all(&vec![0xff; length]).unwrap();
            }
        })
        .unwrap();
        assert_eq!(facts(&ask_udp(container, &query("web", A))), (0, 1, &[10, 20, 0, 7][..]));
        assert_eq!(facts(&ask_tcp(container, &[query("web", A)])[0]), (0, 1, &[10, 20, 0, 7][..]));
    });
}
