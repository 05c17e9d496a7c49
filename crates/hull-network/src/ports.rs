//! Host ports, each held by bound sockets.
//!
//! The firewall takes what arrives at a published port before any socket sees it. The sockets are there so that no
//! other program gets the port while the container lives, that the machine uses it for no connection of its own, and
//! that a connection which is not translated is refused at once instead of hanging.
//! They are bound without SO_REUSEADDR: with it, a program that has it too could bind the port beside them. The price:
//! a port that another program has just left is refused for the minute its last connections stay in TIME_WAIT.
//!
//! One listens: that of IPv6, where the container has IPv4 and no firewall leads there: at every address, or at the one
//! that was asked for. The shim answers ([`Answered`]). It may have SO_REUSEADDR, for nobody binds beside a socket that
//! listens, and needs it: what it has answered stays in TIME_WAIT, where the container's next start must not find it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};

use crate::{Error, Protocol, Result};

/// The host ports that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first; 0 is "any port of the engine's choice".
    pub first: u16,
    /// The last, inclusive.
    pub last: u16,
}

impl PortRange {
    /// Any port of the engine's choice.
    pub const ANY: PortRange = PortRange { first: 0, last: 0 };

    /// Exactly this port.
    pub const fn exactly(port: u16) -> PortRange {
        PortRange { first: port, last: port }
    }
}

/// A host port, ours as long as the sockets live.
#[derive(Debug)]
pub struct Reserved {
    /// Bound, not listening, close-on-exec. The shim holds them for the container's life. Empty for SCTP on a kernel
    /// without it, where no other program can take the port either.
    pub sockets: Vec<OwnedFd>,
    /// Which of the sockets is to be answered at, where one was asked for and this machine has IPv6.
    pub answered: Option<usize>,
    /// The port.
    pub port: u16,
}

/// Who answers at the IPv6 side of a port that is taken on every address, or at the IPv6 address that it is taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The firewall, or nobody.
    No,
    /// Who holds the socket: one of a stream listens.
    ByHolder,
}

/// Takes a host port: the wanted one, the lowest free one of the range, or any of this machine's ephemeral ports
/// (`net.ipv4.ip_local_port_range`). `address` `None` is every IPv4 and IPv6 address; 0.0.0.0 and :: are every one
/// of their family. In the network namespace of the calling thread.
///
/// # Errors
/// [`Error::PortTaken`] for a single port that another has, [`Error::NoPortFree`] for a range, [`Error::NotLocal`] for
/// an address that this machine does not have.
pub fn reserve(
    protocol: Protocol,
    address: Option<IpAddr>,
    wanted: PortRange,
    answered: Answered,
) -> Result<Reserved> {
    // The kernel's SCTP is another program's to answer.
    let answered = answered == Answered::ByHolder
        && address.is_none_or(|address| address.is_ipv6())
        && protocol != Protocol::Sctp;
    if wanted.first > wanted.last {
        return Err(Error::Invalid(format!("invalid range of ports {}-{}", wanted.first, wanted.last)));
    }
    let (first, last, start) = if wanted == PortRange::ANY {
        let (first, last) = ephemeral();
        (first, last, next_ephemeral(first, last))
    } else if wanted.first == 0 {
        return Err(Error::Invalid(format!("invalid range of ports 0-{}: it begins with 1", wanted.last)));
    } else {
        (wanted.first, wanted.last, wanted.first)
    };
    for port in (start..=last).chain(first..start) {
        match hold(protocol, address, port, answered) {
            Ok((sockets, answered)) => return Ok(Reserved { sockets, answered, port }),
            Err(Errno::ADDRINUSE) => {}
            Err(Errno::ADDRNOTAVAIL) => {
                return Err(Error::NotLocal {
                    address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                });
            }
            Err(error) => return Err(Error::kernel(format!("binding {protocol} port {port}"), error)),
        }
    }
    if first == last {
        return Err(Error::PortTaken {
            protocol,
            address,
            port: first,
            holder: holder(protocol, address, first),
        });
    }
    Err(Error::NoPortFree { protocol, address, first, last })
}

fn hold(
    protocol: Protocol,
    address: Option<IpAddr>,
    port: u16,
    answered: bool,
) -> rustix::io::Result<(Vec<OwnedFd>, Option<usize>)> {
    let addresses = match address {
        Some(address) => vec![address],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let mut sockets = Vec::with_capacity(addresses.len());
    let mut place = None;
    for one in addresses {
        let answered = answered && one.is_ipv6();
        match hold_one(protocol, SocketAddr::new(one, port), answered) {
            Ok(socket) => {
                place = place.or(answered.then_some(sockets.len()));
                sockets.push(socket);
            }
            // Every address, on a machine without IPv6.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if address.is_none() && one.is_ipv6() => {}
            Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) if protocol == Protocol::Sctp => {}
            Err(error) => return Err(error),
        }
    }
    Ok((sockets, place))
}

/// How many connections wait to be answered.
const BACKLOG: i32 = 1024;

fn hold_one(protocol: Protocol, to: SocketAddr, answered: bool) -> rustix::io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if to.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if answered && protocol == Protocol::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if protocol == Protocol::Udp && !answered {
        // Nobody reads what is not translated; let no more of it lie about than must.
        sockopt::set_socket_recv_buffer_size(&socket, 0)?;
    }
    bind(&socket, &to)?;
    if answered && protocol == Protocol::Tcp {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// The machine's ephemeral ports.
fn ephemeral() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if 0 < first && first <= last => (first, last),
        _ => (32768, 60999), // the kernel's own default
    }
}

/// The port after the last one given: what was just released is not given again at once, and no search begins with
/// all those that are taken.
fn next_ephemeral(first: u16, last: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let size = u32::from(last - first) + 1;
    let mut next = NEXT.fetch_add(1, Ordering::Relaxed);
    if next == 0 {
        // A daemon that was started again does not begin where its predecessor's ports lie.
        next = std::process::id();
        NEXT.store(next + 1, Ordering::Relaxed);
    }
    first + (next % size) as u16
}

/// Who has the port, when a listening socket of this namespace and its process are found: "nginx (pid 812)".
fn holder(protocol: Protocol, address: Option<IpAddr>, port: u16) -> Option<String> {
    let name = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => return None,
    };
    let families: &[&str] = match address {
        None => &["", "6"],
        Some(address) if address.is_ipv4() => &["", "6"],
        Some(_) => &["6"],
    };
    let inode = families.iter().find_map(|family| {
        let table = std::fs::read_to_string(format!("/proc/thread-self/net/{name}{family}")).ok()?;
        table.lines().skip(1).find_map(|line| inode_of(line, protocol, port))
    })?;
    process_of(&format!("socket:[{inode}]")).ok().flatten()
}

/// The inode in a line of /proc/net/tcp when it is a listening (or bound UDP) socket at the port.
fn inode_of(line: &str, protocol: Protocol, port: u16) -> Option<u64> {
    const TCP_LISTEN: &str = "0A";
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
    let listens = protocol != Protocol::Tcp || *fields.get(3)? == TCP_LISTEN;
    (local == port && listens).then(|| fields.get(9)?.parse().ok())?
}

fn process_of(socket: &str) -> io::Result<Option<String>> {
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let has = |entry: std::fs::DirEntry| {
            std::fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == socket)
        };
        if descriptors.flatten().any(has) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Ok(Some(format!("{} (pid {pid})", name.trim())));
        }
    }
    Ok(None)
}
