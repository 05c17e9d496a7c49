//! Published ports, as they are reached by IPv6 where no firewall leads to the container: it has IPv4 alone, or `::1` was
//! asked.
//!
//! No firewall translates from IPv6 to IPv4, so the shim, which holds the port's socket in any case, answers there. What
//! comes to a port of every address goes on to the same port of 127.0.0.1, what comes to one of a single address to a place
//! of 127.208.0.0/16 that stands for it; the firewall leads from both to the container. So the shim need not know where
//! that is, and it goes on while no daemon is there. Nothing of this costs anything before the first client comes.

mod connection;

use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, connect, recv, send,
    socket_with, sockopt,
};

use self::connection::Connection;
use super::interests::{Interests, Part};
use crate::protocol::Relay;
use crate::sys::datagrams;
use crate::{Error, Result};

/// How many connections there are at once, where the limit of open files allows it; who comes then waits for one to end.
const CONNECTIONS: usize = 512;

/// How many senders of datagrams are known at once, as far; the one that has been still for longest is forgotten.
const PEERS: usize = 256;

/// How many files the shim has open for other things, at most.
const OTHER_FILES: u64 = 64;

/// How long nobody is let in after nobody could be, unless a connection ends before.
const REST: Duration = Duration::from_secs(1);

/// For how long a sender of datagrams is known who sends nothing and is sent nothing.
const STILL: Duration = Duration::from_secs(90);

/// How much is read at once, in bytes; no datagram is longer.
const PIECE: usize = 64 << 10;

/// How much is kept of all connections' bytes before each is read less of, and how much that is.
const KEPT: usize = 1 << 20;
const SMALL_PIECE: usize = 1 << 10;

/// How many datagrams are passed on before others have their turn.
const DATAGRAMS: usize = 32;

/// The ports that are answered, and who has come to them.
#[derive(Debug, Default)]
pub(super) struct Relays {
    ports: Vec<Port>,
    connections: Vec<Connection>,
    peers: Vec<Peer>,
    most: Most,
    /// Until when nobody is let in: it failed.
    rests: Option<Instant>,
}

/// How many there may be at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Most {
    connections: usize,
    peers: usize,
}

/// What is ready.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// A port.
    Port(usize),
    /// The client's end of a connection.
    Client(usize),
    /// The container's end of a connection.
    Target(usize),
    /// The container's answers to a sender of datagrams.
    Peer(usize),
}

#[derive(Debug)]
struct Port {
    socket: OwnedFd,
    datagrams: bool,
    to: SocketAddr,
}

#[derive(Debug)]
struct Peer {
    port: usize,
    address: SocketAddrV6,
    /// The machine's address that was asked, and answers: a sender takes none from another.
    asked: Option<datagrams::Local>,
    target: OwnedFd,
    seen: Instant,
}

impl Relays {
    /// Takes those of the reserved sockets that are to be answered.
    ///
    /// # Errors
    /// There is no such socket.
    pub(super) fn new(asked: &[Relay], reserved: &mut Vec<OwnedFd>) -> Result<Relays> {
        let mut asked: Vec<&Relay> = asked.iter().collect();
        // From behind, so that the others keep their places.
        asked.sort_by_key(|relay| std::cmp::Reverse(relay.reserved));
        let mut relays = Relays { most: Most::here(), ..Relays::default() };
        for relay in asked {
            if relay.reserved >= reserved.len() {
                let reason = format!("socket {} of {} is to be answered", relay.reserved, reserved.len());
                return Err(Error::refused("start the container", reason));
            }
            let socket = reserved.remove(relay.reserved);
            rustix::io::ioctl_fionbio(&socket, true)
                .map_err(|error| Error::kernel("prepare a published port", error))?;
            if relay.datagrams {
                datagrams::tell_destinations(socket.as_fd())
                    .map_err(|error| Error::kernel("prepare a published port", error))?;
            }
            relays.ports.push(Port { socket, datagrams: relay.datagrams, to: relay.to });
        }
        Ok(relays)
    }

    /// Adds what is waited for.
    pub(super) fn interests(&self, interests: &mut Interests) {
        let closed = self.rests.is_some() || self.connections.len() >= self.most.connections;
        for (index, port) in self.ports.iter().enumerate().filter(|(_, port)| port.datagrams || !closed) {
            interests.add(port.socket.as_raw_fd(), libc::POLLIN, Part::Relay(Side::Port(index)));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            let (client, target) = connection.events();
            // A client that vanishes is noticed also while nothing is wanted of it.
            if client != 0 || !connection.hung_up {
                interests.add(connection.client.as_raw_fd(), client, Part::Relay(Side::Client(index)));
            }
            // Of the container's end what it has sent comes first: its hang-up would be told again and again.
            if target != 0 {
                interests.add(connection.target.as_raw_fd(), target, Part::Relay(Side::Target(index)));
            }
        }
        for (index, peer) in self.peers.iter().enumerate() {
            interests.add(peer.target.as_raw_fd(), libc::POLLIN, Part::Relay(Side::Peer(index)));
        }
    }

    /// Something is ready. What it ends is taken away by [`Relays::sweep`], so that the others keep their numbers.
    pub(super) fn ready(&mut self, side: Side, ready: i16, buffer: &mut Vec<u8>) {
        match side {
            Side::Port(index) if self.ports[index].datagrams => self.receive(index, buffer),
            Side::Port(index) => self.accept(index),
            Side::Client(index) | Side::Target(index) => {
                let piece = self.piece();
                let Some(connection) = self.connections.get_mut(index) else { return };
                buffer.resize(PIECE, 0);
                match side {
                    Side::Client(_) => connection.client_ready(ready, &mut buffer[..piece]),
                    _ => connection.turn(&mut buffer[..piece]),
                }
            }
            Side::Peer(index) => self.answer(index, buffer),
        }
    }

    /// Forgets what has ended.
    pub(super) fn sweep(&mut self, now: Instant) {
        let before = self.connections.len();
        self.connections.retain(|connection| !connection.is_over());
        if self.connections.len() < before || self.rests.is_some_and(|until| until <= now) {
            self.rests = None;
        }
        self.peers.retain(|peer| now.saturating_duration_since(peer.seen) < STILL);
    }

    /// When to [`Relays::sweep`] again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.peers.iter().map(|peer| peer.seen + STILL).chain(self.rests).min()
    }

    /// How much of a connection is read at once: little where much is kept already of what nobody takes.
    fn piece(&self) -> usize {
        let kept: usize = self.connections.iter().map(Connection::kept).sum();
        if kept < KEPT { PIECE } else { SMALL_PIECE }
    }

    fn accept(&mut self, index: usize) {
        let port = &self.ports[index];
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while self.connections.len() < self.most.connections {
            let both = match accept_with(&port.socket, flags) {
                // Whoever has gone already is that client's matter.
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(error) => Err(error),
                Ok(client) => reach(port.to, SocketType::STREAM).map(|target| (client, target)),
            };
            let Ok((client, (target, connected))) = both else {
                // No more files, or no memory: the socket would be ready again at once.
                self.rests = Some(Instant::now() + REST);
                return;
            };
            for end in [&client, &target] {
                // One whose machine has vanished is found out; where that cannot be set, it stays as long as it likes.
                let _ = sockopt::set_socket_keepalive(end, true);
                let _ = sockopt::set_tcp_nodelay(end, true);
            }
            let (up, down) = Default::default();
            self.connections.push(Connection { client, target, connected, hung_up: false, up, down });
        }
    }

    fn receive(&mut self, index: usize, buffer: &mut Vec<u8>) {
        buffer.resize(PIECE, 0);
        for _ in 0..DATAGRAMS {
            let Ok(arrived) = datagrams::receive(self.ports[index].socket.as_fd(), buffer) else { return };
            let Some(arrived) = arrived else { continue };
            if let Some(target) = self.peer(index, &arrived) {
                // A datagram may be lost, here too.
                let _ = send(target, &buffer[..arrived.length], SendFlags::NOSIGNAL);
            }
        }
    }

    /// The socket by which a sender's datagrams go on, and the answers come back.
    fn peer(&mut self, port: usize, arrived: &datagrams::Arrived) -> Option<&OwnedFd> {
        let (address, asked) = (arrived.from, arrived.to);
        let is_it = |peer: &Peer| (peer.port, peer.address, peer.asked) == (port, address, asked);
        let known = self.peers.iter().position(is_it);
        let index = match known {
            Some(index) => index,
            None => {
                let (target, _) = reach(self.ports[port].to, SocketType::DGRAM).ok()?;
                let peer = Peer { port, address, asked, target, seen: Instant::now() };
                let stillest = self.peers.iter().enumerate().min_by_key(|(_, peer)| peer.seen);
                match stillest.map(|(index, _)| index).filter(|_| self.peers.len() >= self.most.peers) {
                    Some(index) => {
                        self.peers[index] = peer;
                        index
                    }
                    None => {
                        self.peers.push(peer);
                        self.peers.len() - 1
                    }
                }
            }
        };
        let peer = &mut self.peers[index];
        peer.seen = Instant::now();
        Some(&peer.target)
    }

    fn answer(&mut self, index: usize, buffer: &mut Vec<u8>) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        buffer.resize(PIECE, 0);
        for _ in 0..DATAGRAMS {
            match recv(&peer.target, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => {
                    peer.seen = Instant::now();
                    let socket = &self.ports[peer.port].socket;
                    let _ = datagrams::answer(socket.as_fd(), &buffer[..length], peer.address, peer.asked);
                }
                // Nobody listened there: told once, and over with.
                Err(Errno::CONNREFUSED) => {}
                Err(_) => return,
            }
        }
    }
}

impl Most {
    /// As many as this process may have files for.
    fn here() -> Most {
        let files = crate::sys::get_limit(libc::RLIMIT_NOFILE).map_or(OTHER_FILES, |(soft, _)| soft);
        Most::of(files)
    }

    fn of(files: u64) -> Most {
        let files = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
        let peers = (files / 4).clamp(1, PEERS);
        // Each has two.
        Most { connections: (files.saturating_sub(peers) / 2).clamp(1, CONNECTIONS), peers }
    }
}

/// A socket to the container, and whether it is connected already.
fn reach(to: SocketAddr, kind: SocketType) -> rustix::io::Result<(OwnedFd, bool)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
    match connect(&socket, &to) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    /// A relay from ::1 to a port of 127.0.0.1; none where this machine has no IPv6.
    fn relay(to: SocketAddr, datagrams: bool) -> Option<(Relays, SocketAddr)> {
        let (socket, at) = if datagrams {
            let socket = UdpSocket::bind("[::1]:0").ok()?;
            let at = socket.local_addr().unwrap();
            (OwnedFd::from(socket), at)
        } else {
            let listener = TcpListener::bind("[::1]:0").ok()?;
            let at = listener.local_addr().unwrap();
            (OwnedFd::from(listener), at)
        };
        let mut reserved = vec![socket];
        let relays = Relays::new(&[Relay { reserved: 0, datagrams, to }], &mut reserved).unwrap();
        assert!(reserved.is_empty());
        Some((relays, at))
    }

    /// Turns the relay until nothing happens for a moment, or `until` says that it is enough.
    fn turn(relays: &mut Relays, until: impl Fn(&Relays) -> bool) {
        let (mut interests, mut buffer) = (Interests::default(), Vec::new());
        let begun = Instant::now();
        while !until(relays) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{relays:?}");
            interests.clear();
            relays.interests(&mut interests);
            interests.wait(Some(Duration::from_millis(20)));
            for index in 0..interests.len() {
                if let Some((Part::Relay(side), ready)) = interests.ready(index) {
                    relays.ready(side, ready, &mut buffer);
                }
            }
            relays.sweep(Instant::now());
        }
    }

    #[test]
    fn a_connection_goes_through_both_ways_and_ends_each_by_itself() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let Some((mut relays, at)) = relay(server.local_addr().unwrap(), false) else { return };
        // More than any buffer on the way.
        let sent = vec![7; 3 << 20];
        let expected = sent.len();
        let client = std::thread::spawn(move || {
            let mut client = TcpStream::connect(at).unwrap();
            client.write_all(&sent).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        });
        let served = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            write!(stream, "{} bytes", got.len()).unwrap();
        });
        turn(&mut relays, |_| client.is_finished() && served.is_finished());
        assert_eq!(client.join().unwrap(), format!("{expected} bytes"));
        turn(&mut relays, |relays| relays.connections.is_empty());
    }

    #[test]
    fn who_vanishes_is_noticed_while_the_container_does_not_read() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let Some((mut relays, at)) = relay(server.local_addr().unwrap(), false) else { return };
        let mut client = TcpStream::connect(at).unwrap();
        client.set_nonblocking(true).unwrap();
        turn(&mut relays, |relays| relays.connections.iter().any(|connection| connection.connected));
        let _deaf = server.accept().unwrap();
        let full = Cell::new(false);
        turn(&mut relays, |relays| {
            // Until all that is on the way is full: the relay, too, and nothing is wanted of the client any more.
            while (&client).write(&[0; 64 << 10]).is_ok() {}
            let stuck = relays.connections[0].events().0 == 0;
            full.replace(stuck) && stuck
        });
        assert!(relays.connections[0].kept() <= PIECE);
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        client.flush().unwrap();
        drop(client);
        turn(&mut relays, |relays| relays.connections.is_empty());
    }

    #[test]
    fn a_port_that_nobody_can_be_let_in_by_rests() {
        // It does not listen: each accept fails, and it is ready all the time.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        let asked = Relay { reserved: 0, datagrams: false, to: "127.0.0.1:1".parse().unwrap() };
        let mut relays = Relays::new(&[asked], &mut vec![socket]).unwrap();
        turn(&mut relays, |relays| relays.rests.is_some());
        let mut interests = Interests::default();
        relays.interests(&mut interests);
        let due = relays.due().expect("a time");
        assert!(interests.len() == 0 && due <= Instant::now() + REST);
        relays.sweep(due);
        relays.interests(&mut interests);
        assert_eq!((interests.len(), relays.due()), (1, None));
    }

    #[test]
    fn there_are_no_more_connections_than_files() {
        assert_eq!(Most::of(1 << 20), Most { connections: CONNECTIONS, peers: PEERS });
        assert_eq!(Most::of(1024), Most { connections: 360, peers: 240 });
        assert_eq!(Most::of(3), Most { connections: 1, peers: 1 });
    }

    #[test]
    fn where_nobody_listens_the_client_hears_of_it() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let Some((mut relays, at)) = relay(closed, false) else { return };
        let mut client = TcpStream::connect(at).unwrap();
        let reader = std::thread::spawn(move || client.read(&mut [0; 1]));
        turn(&mut relays, |_| reader.is_finished());
        assert!(!matches!(reader.join().unwrap(), Ok(1..)));
        turn(&mut relays, |relays| relays.connections.is_empty());
    }

    #[test]
    fn datagrams_come_back_to_who_has_sent_and_the_still_are_forgotten() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let Some((mut relays, at)) = relay(server.local_addr().unwrap(), true) else { return };
        let [one, two] = [(); 2].map(|()| UdpSocket::bind("[::1]:0").unwrap());
        for (client, word) in [(&one, b"one"), (&two, b"two")] {
            client.connect(at).unwrap();
            client.send(word).unwrap();
        }
        turn(&mut relays, |relays| relays.peers.len() == 2);
        let mut buffer = [0; 16];
        for _ in 0..2 {
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..length], from).unwrap();
        }
        for (client, word) in [(&one, b"one"), (&two, b"two")] {
            client.set_nonblocking(true).unwrap();
            turn(&mut relays, |_| client.peek(&mut [0; 16]).is_ok());
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], word);
        }
        assert!(relays.due().is_some());
        relays.sweep(Instant::now() + STILL);
        assert!(relays.peers.is_empty() && relays.due().is_none());
    }

    #[test]
    fn a_sender_that_comes_by_two_interfaces_is_one() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let Some((mut relays, _)) = relay(server.local_addr().unwrap(), true) else { return };
        let mut come = |asked: &str, interface| {
            let to = Some(datagrams::Local::asked_by(asked.parse().unwrap(), interface));
            let from = "[2001:db8::1]:9".parse().unwrap();
            relays.peer(0, &datagrams::Arrived { length: 1, from, to }).unwrap();
            relays.peers.len()
        };
        assert_eq!([come("2001:db8::2", 1), come("2001:db8::2", 2), come("2001:db8::3", 2)], [1, 1, 2]);
        // An address of a link is another one on each.
        assert_eq!([come("fe80::2", 1), come("fe80::2", 2)], [3, 4]);
    }

    #[test]
    fn a_socket_that_is_not_there_is_refused() {
        let asked = Relay { reserved: 1, datagrams: false, to: "127.0.0.1:1".parse().unwrap() };
        assert!(Relays::new(&[asked], &mut Vec::new()).is_err());
    }
}
