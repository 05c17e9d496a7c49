//! Subnets and addresses: who has which. Pure; what is taken is told by the engine at its start.

use std::fmt;
use std::net::IpAddr;

use crate::{Error, Result};

/// A subnet: an address and a prefix length, its host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnet {
    base: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet that holds `address`; its host bits are cleared. A prefix longer than the family's is an error.
    pub fn new(_address: IpAddr, _prefix: u8) -> Result<Subnet> {
        Err(Error::Invalid("not there yet".into()))
    }

    /// Its first address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// Its prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address is inside.
    pub fn contains(&self, _address: IpAddr) -> bool {
        false
    }

    /// Whether they have an address in common.
    pub fn overlaps(&self, _other: &Subnet) -> bool {
        false
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.base, self.prefix)
    }
}

/// Parses "10.1.0.0/16"; host bits are cleared.
impl std::str::FromStr for Subnet {
    type Err = Error;

    fn from_str(_text: &str) -> Result<Self> {
        Err(Error::Invalid("not there yet".into()))
    }
}

/// The addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Pool {}

impl Pool {
    /// A pool over `subnet` whose network and (IPv4) broadcast addresses are reserved. Addresses that nobody asks
    /// for by name come from `range` (a part of the subnet), else from all of it.
    pub fn new(_subnet: Subnet, _range: Option<Subnet>) -> Result<Pool> {
        Err(Error::Invalid("not there yet".into()))
    }

    /// The subnet.
    pub fn subnet(&self) -> Subnet {
        Subnet { base: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), prefix: 0 }
    }

    /// The next free address.
    pub fn allocate(&mut self) -> Result<IpAddr> {
        Err(Error::Invalid("not there yet".into()))
    }

    /// This very address: a container's `--ip`, a gateway, an auxiliary address, or what a row of the state says.
    pub fn take(&mut self, _address: IpAddr) -> Result<()> {
        Err(Error::Invalid("not there yet".into()))
    }

    /// Gives an address back; one that is free already, or reserved by the pool itself, is left as it is.
    pub fn release(&mut self, _address: IpAddr) {}

    /// How many addresses are taken, the reserved ones not counted.
    pub fn taken(&self) -> u64 {
        0
    }
}

/// A `--default-address-pool`: subnets of one size are cut from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultPool {
    /// What the subnets are cut from.
    pub base: Subnet,
    /// Their prefix length.
    pub size: u8,
}

/// Parses "base=10.10.0.0/16,size=24".
impl std::str::FromStr for DefaultPool {
    type Err = Error;

    fn from_str(_text: &str) -> Result<Self> {
        Err(Error::Invalid("not there yet".into()))
    }
}

/// Where a network without a `--subnet` gets one.
#[derive(Debug, Clone)]
pub struct Pools {}

impl Pools {
    /// Pools to choose from, in order.
    pub fn new(_pools: Vec<DefaultPool>) -> Pools {
        Pools {}
    }

    /// Docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in /20s.
    pub fn docker() -> Pools {
        Pools {}
    }

    /// The first IPv4 subnet that overlaps none of `used`: the other networks' subnets and [`routes`].
    pub fn choose4(&self, _used: &[Subnet]) -> Result<Subnet> {
        Err(Error::NoFreeSubnet)
    }

    /// The same for IPv6. Where no pool is IPv6, a random unique local /64 (RFC 4193).
    pub fn choose6(&self, _used: &[Subnet]) -> Result<Subnet> {
        Err(Error::NoFreeSubnet)
    }
}

/// The destinations this machine has routes to (its default route not counted), and its resolvers' addresses: what a
/// new network must not overlap. Read from the caller's network namespace.
pub fn routes() -> Result<Vec<Subnet>> {
    Err(Error::Invalid("not there yet".into()))
}
