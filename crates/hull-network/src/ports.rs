//! Host ports, each held by bound sockets that never listen: no other program gets the port while they live, and a
//! connection that the firewall did not translate (::1) is refused at once instead of hanging.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

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
    /// Bound, not listening. The shim holds them for the container's life.
    pub sockets: Vec<OwnedFd>,
    /// The port.
    pub port: u16,
}

/// Takes a host port: the wanted one, or one of the range. `address` `None` means every IPv4 and IPv6 address.
pub fn reserve(_protocol: Protocol, _address: Option<IpAddr>, _wanted: PortRange) -> Result<Reserved> {
    Err(Error::Invalid("not there yet".into()))
}
