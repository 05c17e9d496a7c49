//! The responder at 127.0.0.11 of each container on a network of one's own.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::files::ResolvConf;
use crate::{Error, Result};

/// Where the responder takes its names from. Calls must not block: they come from the runtime's own threads.
pub trait Names: Send + Sync + 'static {
    /// The addresses of a name, both families; `None`: not ours, ask upstream. `name` is lower case, without the
    /// final dot.
    fn lookup(&self, scope: &str, name: &str) -> Option<Vec<IpAddr>>;
    /// The name of an address that is ours.
    fn reverse(&self, scope: &str, address: IpAddr) -> Option<String>;
    /// The servers that are asked for what is not ours, in order. None: such a name does not exist.
    fn upstreams(&self, scope: &str) -> Vec<SocketAddr>;
}

/// The responder's sockets, made inside a container's namespace.
#[derive(Debug)]
pub struct Sockets {
    pub(crate) _udp: std::net::UdpSocket,
    pub(crate) _tcp: std::net::TcpListener,
}

/// Makes the sockets for 127.0.0.11 port 53, UDP and TCP, inside the namespace.
pub fn listen(_namespace: BorrowedFd<'_>) -> Result<Sockets> {
    Err(Error::Invalid("not there yet".into()))
}

/// Answers queries until the future is dropped. `scope` is handed to [`Names`] as it is (the container's id).
pub async fn serve(_sockets: Sockets, _scope: String, _names: Arc<dyn Names>) {}

/// The host's resolvers: /etc/resolv.conf, or systemd-resolved's own list where that holds only its stub.
pub fn host_resolvers() -> ResolvConf {
    ResolvConf::default()
}
