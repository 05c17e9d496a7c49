//! One daemon's network in the kernel: its bridges, the endpoints on them, its published ports.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::{Error, Result};

/// A transport protocol whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl std::str::FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(Error::Invalid(format!("invalid protocol \"{text}\": tcp, udp or sctp"))),
        }
    }
}

pub use crate::ipam::Subnet;

/// A network's bridge and what the firewall is to let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bridge {
    /// The interface's name, at most 15 bytes.
    pub name: String,
    /// The bridge's own IPv4 address and prefix length: the containers' gateway.
    pub gateway4: Option<(Ipv4Addr, u8)>,
    /// The same for IPv6.
    pub gateway6: Option<(Ipv6Addr, u8)>,
    /// The subnets behind it, for masquerading. Several of one family are allowed.
    pub subnets: Vec<Subnet>,
    /// Its MTU; the kernel's 1500 otherwise.
    pub mtu: Option<u32>,
    /// Nothing is forwarded to or from other interfaces.
    pub internal: bool,
    /// The containers on it reach each other.
    pub inter_container: bool,
    /// What leaves by another interface takes that interface's address.
    pub masquerade: bool,
}

/// A container's end of a veth pair and what it is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The bridge's name.
    pub bridge: String,
    /// The host end's name, at most 15 bytes, unique on the machine.
    pub host_name: String,
    /// The container end's name: "eth0".
    pub container_name: String,
    /// The container end's MAC address; see [`mac_of`].
    pub mac: [u8; 6],
    /// Its IPv4 address and prefix length.
    pub address4: Option<(Ipv4Addr, u8)>,
    /// Its IPv6 address and prefix length. Without one the interface has no IPv6 address at all.
    pub address6: Option<(Ipv6Addr, u8)>,
    /// The IPv4 default route's gateway; `None`: no default route.
    pub gateway4: Option<Ipv4Addr>,
    /// The IPv6 default route's gateway; `None`: no default route.
    pub gateway6: Option<Ipv6Addr>,
    /// The MTU of both ends; the kernel's 1500 otherwise.
    pub mtu: Option<u32>,
    /// The container end may not reach its neighbours on the bridge (the bridge's `inter_container` is false).
    pub isolated: bool,
    /// Settings beneath /proc/sys of the new namespace: ("net.ipv4.conf.eth0.forwarding", "1").
    pub sysctls: Vec<(String, String)>,
}

/// What [`Fabric::attach`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// The host end's index.
    pub host_index: u32,
    /// The container end's index in its namespace.
    pub container_index: u32,
}

/// A published port: what arrives at the host's goes to the container's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Published {
    /// The protocol.
    pub protocol: Protocol,
    /// The host address; `None`, 0.0.0.0 and :: are every address of the container address's family.
    pub host_address: Option<IpAddr>,
    /// The host port.
    pub host_port: u16,
    /// The container's address; of the host address's family.
    pub container_address: IpAddr,
    /// The container's port.
    pub container_port: u16,
    /// The bridge the container is on.
    pub bridge: String,
}

/// A published port as the kernel holds it, with its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublishedBy {
    /// The container id given to [`Fabric::publish`].
    pub owner: String,
    /// The port.
    pub port: Published,
}

/// Docker's rule for a MAC address that nobody chose: 02:42 and the four bytes of the IPv4 address.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// One daemon's network. Thread-safe; every call is synchronous.
#[derive(Debug)]
pub struct Fabric {}

fn not_there_yet<T>() -> Result<T> {
    Err(Error::Invalid("not there yet".into()))
}

impl Fabric {
    /// Opens the network of a daemon: its nftables table `inet <instance>` and IPv4 forwarding. Idempotent; what an
    /// earlier daemon of the instance left stays and goes on working.
    pub fn open(_instance: &str) -> Result<Fabric> {
        not_there_yet()
    }

    /// Makes the bridge, or brings an existing one to what is asked.
    pub fn ensure_bridge(&self, _bridge: &Bridge) -> Result<()> {
        not_there_yet()
    }

    /// Removes a bridge and all the firewall knew of it. One that is already gone is no error.
    pub fn remove_bridge(&self, _name: &str) -> Result<()> {
        not_there_yet()
    }

    /// The names of this instance's bridges.
    pub fn bridges(&self) -> Result<Vec<String>> {
        not_there_yet()
    }

    /// A new network namespace with its loopback up, held by the descriptor alone.
    pub fn new_namespace(&self) -> Result<OwnedFd> {
        not_there_yet()
    }

    /// Gives a namespace one more interface on a bridge.
    pub fn attach(&self, _namespace: BorrowedFd<'_>, _endpoint: &Endpoint) -> Result<Attached> {
        not_there_yet()
    }

    /// A new namespace and its first interface: the hot path, in the fewest messages.
    pub fn attach_new(&self, _endpoint: &Endpoint) -> Result<(OwnedFd, Attached)> {
        not_there_yet()
    }

    /// Removes an interface from a namespace that lives on. For one that ends, drop the namespace instead.
    pub fn detach(&self, _namespace: BorrowedFd<'_>, _container_name: &str) -> Result<()> {
        not_there_yet()
    }

    /// Publishes ports, all or none, in one batch. Publishing the same again changes nothing.
    pub fn publish(&self, _owner: &str, _ports: &[Published]) -> Result<()> {
        not_there_yet()
    }

    /// Takes published ports back. One that is already gone is no error; another owner's is left alone.
    pub fn unpublish(&self, _owner: &str, _ports: &[Published]) -> Result<()> {
        not_there_yet()
    }

    /// The published ports that the kernel holds, for reconciling at a daemon's start.
    pub fn published(&self) -> Result<Vec<PublishedBy>> {
        not_there_yet()
    }

    /// Removes everything of this instance: its bridges and its table.
    pub fn close(self) -> Result<()> {
        not_there_yet()
    }
}
