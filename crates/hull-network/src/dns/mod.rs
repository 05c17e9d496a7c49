//! The responder at 127.0.0.11 of each container on a network of one's own.
//!
//! ```text
//! container's namespace                             daemon
//!   resolver ──> 127.0.0.11:53 ─(rewritten)─> sockets made inside, served by [`serve`] outside
//!                                                ├─ a name of ours: answered from [`Names`]
//!                                                └─ any other: to the upstreams, from the daemon's namespace
//! ```
//!
//! The sockets are not bound to port 53 but to one that the kernel chose, because a container may serve DNS itself:
//! 0.0.0.0:53 must stay free for it. Four rules in the container's namespace rewrite the port of what goes to, and comes
//! from, 127.0.0.11, without connection tracking, so that a container's packets go no slower for it.
//!
//! The sockets belong to the container's namespace and keep it, and with it the container's interfaces, in being:
//! whoever holds [`Sockets`] or runs [`serve`] drops them when the container ends.

mod message;
mod serve;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;

pub use serve::serve;

use crate::files::{ResolvConf, parse_resolv_conf};
use crate::netlink::Socket;
use crate::netlink::nft::{Base, Expression, Hook, META_L4PROTO, META_NFPROTO, Transaction};
use crate::{Error, Result, netns};

/// Where a container's resolver finds the responder, as with Docker.
pub const RESPONDER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Where the responder takes its names from. Calls must not block: they come from the runtime's own threads.
pub trait Names: Send + Sync + 'static {
    /// The addresses of a name, both families; `None`: not ours, ask upstream. `name` is lower case, without the
    /// final dot. For a name that is known and has no address of the family asked for, the answer says just that,
    /// and nobody else is asked.
    fn lookup(&self, scope: &str, name: &str) -> Option<Vec<IpAddr>>;
    /// The name of an address that is ours; `None`: ask upstream.
    fn reverse(&self, scope: &str, address: IpAddr) -> Option<String>;
    /// The servers that are asked for what is not ours, in order. None: such a name does not exist, said at once.
    fn upstreams(&self, scope: &str) -> Vec<SocketAddr>;
}

/// The responder's sockets, made inside a container's namespace.
#[derive(Debug)]
pub struct Sockets {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

/// Makes the responder's sockets inside the namespace and the rules that lead 127.0.0.11 port 53 there. Made again
/// (by a daemon that was started again), the rules lead to the new ones.
///
/// # Errors
/// The namespace could not be entered; its loopback is not up; the kernel has no nftables.
pub fn listen(namespace: BorrowedFd<'_>) -> Result<Sockets> {
    netns::run(namespace, || {
        let (udp, tcp) =
            bind().map_err(|error| Error::kernel(format!("binding {RESPONDER} for names"), error))?;
        let port =
            tcp.local_addr().map_err(|error| Error::kernel("asking for the responder's port", error))?.port();
        let mut socket =
            Socket::netfilter().map_err(|error| Error::kernel("opening a netfilter socket", error))?;
        redirect(&mut socket, port)?;
        Ok(Sockets { udp, tcp })
    })?
}

/// One port for both protocols.
fn bind() -> std::io::Result<(UdpSocket, TcpListener)> {
    const TRIES: usize = 16;
    let mut last = None;
    for _ in 0..TRIES {
        let udp = UdpSocket::bind((RESPONDER, 0))?;
        match TcpListener::bind((RESPONDER, udp.local_addr()?.port())) {
            Ok(tcp) => {
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                return Ok((udp, tcp));
            }
            Err(error) => last = Some(error), // the container listens there: another one
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

/// A query is rewritten last and an answer first, so that a firewall and a connection tracker that the container may
/// have see port 53 in both.
fn redirect(socket: &mut Socket, port: u16) -> Result<()> {
    const OUTPUT: u32 = 3;
    const DNS: [u8; 2] = 53u16.to_be_bytes();
    const SOURCE: (u32, u32) = (12, 0);
    const DESTINATION: (u32, u32) = (16, 2);
    let port = port.to_be_bytes();
    let mut transaction = Transaction::new("hull-dns");
    transaction.add_table();
    transaction.fresh_chain("queries", Hook { kind: "filter", number: OUTPUT, priority: 300 });
    transaction.fresh_chain("answers", Hook { kind: "filter", number: OUTPUT, priority: -300 });
    let ways = [("queries", DESTINATION, &DNS, &port), ("answers", SOURCE, &port, &DNS)];
    for (chain, (address_at, port_at), from, to) in ways {
        for (protocol, checksum) in [(libc::IPPROTO_UDP as u8, 6), (libc::IPPROTO_TCP as u8, 16)] {
            transaction.rule(
                chain,
                &[
                    Expression::Meta { key: META_NFPROTO, to: 0 },
                    Expression::Equal { from: 0, value: &[libc::AF_INET as u8] },
                    Expression::Payload { base: Base::Network, offset: address_at, length: 4, to: 0 },
                    Expression::Equal { from: 0, value: &RESPONDER.octets() },
                    Expression::Meta { key: META_L4PROTO, to: 0 },
                    Expression::Equal { from: 0, value: &[protocol] },
                    Expression::Payload { base: Base::Transport, offset: port_at, length: 2, to: 0 },
                    Expression::Equal { from: 0, value: from },
                    Expression::Load { to: 0, value: to },
                    Expression::Mangle {
                        base: Base::Transport,
                        offset: port_at,
                        length: 2,
                        from: 0,
                        checksum,
                    },
                ],
            );
        }
    }
    transaction.commit(socket)
}

/// The host's resolvers: /etc/resolv.conf as it is. A stub at 127.0.0.53 can be asked from the host's namespace, which
/// is where [`serve`] asks; for a container's own file, see [`container_resolvers`].
pub fn host_resolvers() -> ResolvConf {
    parse_resolv_conf(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

/// The host's resolvers as a container can reach them: without those on a loopback, and systemd-resolved's own list
/// where /etc/resolv.conf holds its stub alone. Servers may be none; Docker then takes public ones, which is for the
/// engine to decide.
pub fn container_resolvers() -> ResolvConf {
    let mut facts = host_resolvers();
    let stub = !facts.nameservers.is_empty() && facts.nameservers.iter().all(IpAddr::is_loopback);
    if stub && let Ok(text) = std::fs::read_to_string("/run/systemd/resolve/resolv.conf") {
        facts = parse_resolv_conf(&text);
    }
    facts.nameservers.retain(|address| !address.is_loopback());
    facts
}
