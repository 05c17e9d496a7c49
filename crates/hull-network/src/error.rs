//! What can go wrong, in the words of who asked.

use std::io;
use std::net::IpAddr;

use crate::fabric::Protocol;

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a network call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a step; `what` says which, `hint` what may help ("" or "; …").
    #[error("{what}: {source}{hint}")]
    Kernel {
        /// The step, with the names in it: "adding 172.17.0.2/16 to eth0".
        what: String,
        /// The kernel's errno.
        source: io::Error,
        /// What to do about it, beginning with "; ", or empty.
        hint: String,
    },
    /// A value that cannot be: a name that is too long, an address of the wrong family.
    #[error("{0}")]
    Invalid(String),
    /// What is asked for cannot be on this machine; a whole sentence.
    #[error("{0}")]
    Refused(String),
    /// Another program, or another container, has the port.
    #[error("{}/{protocol} is already in use{}", socket_text(*address, *port), holder_text(holder))]
    PortTaken {
        /// The protocol asked for.
        protocol: Protocol,
        /// The host address asked for; `None` is every address.
        address: Option<IpAddr>,
        /// The port asked for.
        port: u16,
        /// The program that has it, when that was cheap to learn: "nginx (pid 812)".
        holder: Option<String>,
    },
    /// No port of a range is free.
    #[error("no free {protocol} port on {} in {first}-{last}", socket_text(*address, 0))]
    NoPortFree {
        /// The protocol asked for.
        protocol: Protocol,
        /// The host address asked for; `None` is every address.
        address: Option<IpAddr>,
        /// First port tried.
        first: u16,
        /// Last port tried.
        last: u16,
    },
    /// The host address of a published port is not one of this machine's.
    #[error("{address} is not an address of this machine; ports can be published on its own addresses only")]
    NotLocal {
        /// The address asked for.
        address: IpAddr,
    },
    /// Two owners want one host port in the firewall.
    #[error("{}/{protocol} is already published", socket_text(*address, *port))]
    AlreadyPublished {
        /// The protocol asked for.
        protocol: Protocol,
        /// The host address asked for; `None` is every address.
        address: Option<IpAddr>,
        /// The port asked for.
        port: u16,
    },
    /// The wanted address is another's.
    #[error("address {address} is already in use")]
    AddressInUse {
        /// The address asked for.
        address: IpAddr,
    },
    /// The wanted address is not inside the subnet.
    #[error("address {address} is not in the subnet {subnet}")]
    OutsideSubnet {
        /// The address asked for.
        address: IpAddr,
        /// The subnet, as a prefix.
        subnet: String,
    },
    /// Every address of a subnet (or of its range) is taken.
    #[error("no free address in {subnet}")]
    Exhausted {
        /// The subnet, or its range, as a prefix.
        subnet: String,
    },
    /// Every default subnet overlaps a network or a route of this machine.
    #[error(
        "all predefined address pools are in use or overlap a route of this machine; \
         name a --subnet, or give the daemon more with --default-address-pool"
    )]
    NoFreeSubnet,
}

impl Error {
    /// The kernel's errno of a failed step, when that is what it was.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    pub(crate) fn kernel(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error::Kernel { what: what.into(), source: source.into(), hint: String::new() }
    }
}

fn socket_text(address: Option<IpAddr>, port: u16) -> String {
    let address = match address {
        None => "0.0.0.0".to_owned(),
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        Some(IpAddr::V4(address)) => address.to_string(),
    };
    if port == 0 { address } else { format!("{address}:{port}") }
}

fn holder_text(holder: &Option<String>) -> String {
    holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default()
}
