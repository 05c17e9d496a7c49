//! Subnets and addresses: who has which. Pure; what is taken is told by the engine at its start.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Error, Result};

/// A subnet: an address and a prefix length, its host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnet {
    base: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet that holds `address`; its host bits are cleared. A prefix longer than the family's is an error.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Subnet> {
        let width = width(address);
        if prefix > width {
            return Err(Error::Invalid(format!(
                "{address}/{prefix} is no subnet: its prefix is over {width}"
            )));
        }
        Ok(Subnet { base: of_bits(bits(address) & !host_mask(prefix, width), address.is_ipv4()), prefix })
    }

    /// Its first address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// Its last address: IPv4's broadcast.
    pub fn last(&self) -> IpAddr {
        of_bits(bits(self.base) | host_mask(self.prefix, width(self.base)), self.base.is_ipv4())
    }

    /// Its prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.base.is_ipv4() == address.is_ipv4() && self.base <= address && address <= self.last()
    }

    /// Whether they have an address in common.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }
}

/// An address as a number, of either family.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn of_bits(bits: u128, ipv4: bool) -> IpAddr {
    if ipv4 { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) } else { IpAddr::V6(Ipv6Addr::from_bits(bits)) }
}

/// How many bits an address of the family has.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn host_mask(prefix: u8, width: u8) -> u128 {
    let hosts = u32::from(width - prefix);
    1u128.checked_shl(hosts).map_or(u128::MAX, |size| size - 1)
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.base, self.prefix)
    }
}

/// Parses "10.1.0.0/16"; host bits are cleared.
impl std::str::FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
            Some((address.parse().ok()?, prefix.parse().ok().filter(|_| digits)?))
        });
        let (address, prefix) = parsed.ok_or_else(|| {
            Error::Invalid(format!("invalid subnet \"{text}\": an address, / and a prefix length"))
        })?;
        Subnet::new(address, prefix)
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
        Subnet { base: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 }
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
