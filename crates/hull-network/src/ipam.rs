//! Subnets and addresses: who has which. Pure; what is taken is told by the engine at its start.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{Socket, route};
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
///
/// What is taken is kept as ranges that never touch, so that the next free address after any other is one look-up,
/// however many are taken and however large the subnet: nothing is walked.
#[derive(Debug, Clone)]
pub struct Pool {
    subnet: Subnet,
    /// First and last address that is given to who asks for none.
    range: (u128, u128),
    /// First and last of each taken range.
    taken: BTreeMap<u128, u128>,
    /// The first and the last address where nobody may have them.
    reserved: Vec<u128>,
    count: u64,
    next: u128,
}

impl Pool {
    /// A pool over `subnet` whose network and (IPv4) broadcast addresses are reserved. Addresses that nobody asks
    /// for by name come from `range` (a part of the subnet), else from all of it.
    ///
    /// # Errors
    /// The range is not inside the subnet.
    pub fn new(subnet: Subnet, range: Option<Subnet>) -> Result<Pool> {
        let within = range.unwrap_or(subnet);
        if !subnet.contains(within.base) || !subnet.contains(within.last()) {
            return Err(Error::Invalid(format!("the range {within} is not inside the subnet {subnet}")));
        }
        let range = (bits(within.base), bits(within.last()));
        let mut pool =
            Pool { subnet, range, taken: BTreeMap::new(), reserved: Vec::new(), count: 0, next: range.0 };
        // A /31 or /32 (RFC 3021), a /127 or /128 (RFC 6164) has no address to spare.
        if width(subnet.base) - subnet.prefix > 1 {
            pool.reserved.push(bits(subnet.base));
            if subnet.base.is_ipv4() {
                pool.reserved.push(bits(subnet.last()));
            }
        }
        for address in pool.reserved.clone() {
            pool.insert(address);
        }
        Ok(pool)
    }

    /// The subnet.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The address a gateway gets when nobody chose one: the first that is not reserved.
    pub fn first(&self) -> IpAddr {
        let base = bits(self.subnet.base);
        of_bits(base + u128::from(self.reserved.contains(&base)), self.subnet.base.is_ipv4())
    }

    /// The next free address after the last one given. What was just released is given again last: its neighbours'
    /// caches, and connections that are not quite closed, still know it.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn allocate(&mut self) -> Result<IpAddr> {
        let (first, last) = self.range;
        let from = if (first..=last).contains(&self.next) { self.next } else { first };
        let free = self.free_from(from, last).or_else(|| self.free_from(first, last));
        let Some(free) = free else {
            let whole = self.range == (bits(self.subnet.base), bits(self.subnet.last()));
            let subnet =
                if whole { self.subnet.to_string() } else { format!("the range of {}", self.subnet) };
            return Err(Error::Exhausted { subnet });
        };
        self.insert(free);
        self.count += 1;
        self.next = free.wrapping_add(1);
        Ok(of_bits(free, self.subnet.base.is_ipv4()))
    }

    /// This very address: a container's `--ip`, a gateway, an auxiliary address, or what a row of the state says.
    ///
    /// # Errors
    /// [`Error::OutsideSubnet`]; [`Error::AddressInUse`] also for the subnet's network and broadcast address.
    pub fn take(&mut self, address: IpAddr) -> Result<()> {
        if !self.subnet.contains(address) {
            return Err(Error::OutsideSubnet { address, subnet: self.subnet.to_string() });
        }
        if self.holder(bits(address)).is_some() {
            return Err(Error::AddressInUse { address });
        }
        self.insert(bits(address));
        self.count += 1;
        Ok(())
    }

    /// Gives an address back; one that is free already, or reserved by the pool itself, is left as it is.
    pub fn release(&mut self, address: IpAddr) {
        let number = bits(address);
        if !self.subnet.contains(address) || self.reserved.contains(&number) {
            return;
        }
        let Some((first, last)) = self.holder(number) else { return };
        self.taken.remove(&first);
        if first < number {
            self.taken.insert(first, number - 1);
        }
        if number < last {
            self.taken.insert(number + 1, last);
        }
        self.count -= 1;
    }

    /// How many addresses are taken, the reserved ones not counted.
    pub fn taken(&self) -> u64 {
        self.count
    }

    /// The taken range that the address is in.
    fn holder(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.taken.range(..=number).next_back()?;
        (number <= *last).then_some((*first, *last))
    }

    fn free_from(&self, from: u128, last: u128) -> Option<u128> {
        let free = match self.holder(from) {
            Some((_, end)) => end.checked_add(1)?,
            None => from,
        };
        (free <= last).then_some(free)
    }

    /// Adds a free address, joined with the ranges that it touches.
    fn insert(&mut self, number: u128) {
        let before = number.checked_sub(1).and_then(|before| self.holder(before));
        let after = number.checked_add(1).and_then(|after| self.taken.remove(&after));
        let first = before.map_or(number, |(first, _)| first);
        self.taken.insert(first, after.unwrap_or(number));
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

impl DefaultPool {
    /// A pool whose size is at least the base's.
    pub fn new(base: Subnet, size: u8) -> Result<DefaultPool> {
        if size < base.prefix || size > width(base.base) {
            return Err(Error::Invalid(format!(
                "invalid default address pool: subnets of size /{size} cannot be cut from {base}"
            )));
        }
        Ok(DefaultPool { base, size })
    }
}

/// Parses "base=10.10.0.0/16,size=24".
impl std::str::FromStr for DefaultPool {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            || Error::Invalid(format!("invalid default address pool \"{text}\": base=10.10.0.0/16,size=24"));
        let (mut base, mut size) = (None, None);
        for part in text.split(',') {
            match part.trim().split_once('=') {
                Some(("base", value)) if base.is_none() => base = Some(value.parse::<Subnet>()?),
                Some(("size", value)) if size.is_none() => {
                    size = Some(value.parse::<u8>().map_err(|_| invalid())?)
                }
                _ => return Err(invalid()),
            }
        }
        DefaultPool::new(base.ok_or_else(invalid)?, size.ok_or_else(invalid)?)
    }
}

/// Where a network without a `--subnet` gets one.
#[derive(Debug, Clone)]
pub struct Pools {
    pools: Vec<DefaultPool>,
}

impl Pools {
    /// Pools to choose from, in order.
    pub fn new(pools: Vec<DefaultPool>) -> Pools {
        Pools { pools }
    }

    /// Docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in /20s.
    pub fn docker() -> Pools {
        let pool = |second: u8, prefix, size| {
            let base =
                IpAddr::V4(Ipv4Addr::new(if prefix == 16 && size == 20 { 192 } else { 172 }, second, 0, 0));
            DefaultPool { base: Subnet { base, prefix }, size }
        };
        Pools {
            pools: vec![
                pool(17, 16, 16),
                pool(18, 16, 16),
                pool(19, 16, 16),
                pool(20, 14, 16),
                pool(24, 14, 16),
                pool(28, 14, 16),
                pool(168, 16, 20),
            ],
        }
    }

    /// The first IPv4 subnet that overlaps none of `used`: the other networks' subnets and [`routes`].
    ///
    /// # Errors
    /// [`Error::NoFreeSubnet`].
    pub fn choose4(&self, used: &[Subnet]) -> Result<Subnet> {
        let ipv4 = self.pools.iter().filter(|pool| pool.base.base.is_ipv4());
        ipv4.into_iter().find_map(|pool| first_free(pool, used)).ok_or(Error::NoFreeSubnet)
    }

    /// The same for IPv6. Where no pool is IPv6, a random unique local /64 (RFC 4193).
    ///
    /// # Errors
    /// [`Error::NoFreeSubnet`]; the kernel has no random bytes yet.
    pub fn choose6(&self, used: &[Subnet]) -> Result<Subnet> {
        let mut ipv6 = self.pools.iter().filter(|pool| !pool.base.base.is_ipv4()).peekable();
        if ipv6.peek().is_some() {
            return ipv6.find_map(|pool| first_free(pool, used)).ok_or(Error::NoFreeSubnet);
        }
        // Two of 2^40: that one overlaps what is used does not happen twice by chance.
        for _ in 0..8 {
            let mut address = [0; 16];
            rustix::rand::getrandom(&mut address[1..6], rustix::rand::GetRandomFlags::empty())
                .map_err(|error| Error::kernel("choosing a random IPv6 subnet", error))?;
            address[0] = 0xfd;
            let subnet = Subnet { base: IpAddr::from(address), prefix: 64 };
            if !used.iter().any(|other| other.overlaps(&subnet)) {
                return Ok(subnet);
            }
        }
        Err(Error::NoFreeSubnet)
    }
}

/// The first subnet of a pool that overlaps none of `used`: from the end of one that is in the way to the next.
fn first_free(pool: &DefaultPool, used: &[Subnet]) -> Option<Subnet> {
    let ipv4 = pool.base.base.is_ipv4();
    let step = host_mask(pool.size, width(pool.base.base));
    let mut in_the_way: Vec<_> = used
        .iter()
        .filter(|other| other.overlaps(&pool.base))
        .map(|other| (bits(other.base), bits(other.last())))
        .collect();
    in_the_way.sort_unstable();
    let end = bits(pool.base.last());
    let mut candidate = bits(pool.base.base);
    for (first, last) in in_the_way {
        if candidate + step < first {
            break;
        }
        if last >= candidate {
            candidate = (last | step).checked_add(1)?;
        }
    }
    (candidate <= end).then(|| Subnet { base: of_bits(candidate, ipv4), prefix: pool.size })
}

/// The destinations this machine has routes to (default routes not counted) and the resolvers of /etc/resolv.conf:
/// what a new network must not overlap. Of the calling thread's network namespace.
pub fn routes() -> Result<Vec<Subnet>> {
    let mut socket = Socket::route().map_err(|error| Error::kernel("opening a netlink socket", error))?;
    let mut all = Vec::new();
    socket.dump(route::list_routes(), |_, body| all.extend(route::destination_of(body)))?;
    let resolvers =
        crate::dns::host_resolvers().nameservers.into_iter().filter(|address| !address.is_loopback());
    all.extend(resolvers.map(|address| Subnet { base: address, prefix: width(address) }));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets() {
        assert_eq!(subnet("10.1.2.3/16").to_string(), "10.1.0.0/16");
        assert_eq!(subnet("10.1.2.3/0").last(), address("255.255.255.255"));
        assert_eq!(subnet("fd00::5/64").last(), address("fd00::ffff:ffff:ffff:ffff"));
        assert_eq!(subnet("::/0").last(), address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        for wrong in
            ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "10.0.0.0/+8", "10.0.0.0/", "x/8"]
        {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
        assert!(subnet("10.0.0.0/8").overlaps(&subnet("10.9.0.0/16")));
        assert!(subnet("10.9.0.0/16").overlaps(&subnet("10.0.0.0/8")));
        assert!(!subnet("10.9.0.0/16").overlaps(&subnet("10.10.0.0/16")));
        assert!(!subnet("0.0.0.0/0").overlaps(&subnet("::/0")));
    }

    #[test]
    fn addresses_come_in_order_and_come_again_last() {
        let mut pool = Pool::new(subnet("10.0.0.0/29"), None).unwrap();
        assert_eq!(pool.first(), address("10.0.0.1"));
        pool.take(pool.first()).unwrap();
        let given: Vec<_> = (0..5).map(|_| pool.allocate().unwrap().to_string()).collect();
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(pool.allocate().unwrap_err().to_string(), "no free address in 10.0.0.0/29");
        pool.release(address("10.0.0.3"));
        pool.release(address("10.0.0.5"));
        pool.release(address("10.0.0.5"));
        assert_eq!(pool.taken(), 4);
        assert_eq!(pool.allocate().unwrap(), address("10.0.0.3"));
        assert_eq!(pool.allocate().unwrap(), address("10.0.0.5"));
        pool.release(address("10.0.0.0"));
        pool.release(address("10.0.0.7"));
        pool.release(address("192.0.2.1"));
        assert!(pool.allocate().is_err(), "network and broadcast are nobody's");
        assert!(matches!(pool.take(address("10.0.0.7")), Err(Error::AddressInUse { .. })));
        assert!(matches!(pool.take(address("10.0.1.7")), Err(Error::OutsideSubnet { .. })));
        assert!(matches!(pool.take(address("fd00::1")), Err(Error::OutsideSubnet { .. })));
    }

    #[test]
    fn a_range_is_kept_to() {
        let mut pool = Pool::new(subnet("10.0.0.0/16"), Some(subnet("10.0.5.0/30"))).unwrap();
        pool.take(address("10.0.5.1")).unwrap();
        pool.take(address("10.0.200.1")).unwrap();
        let given: Vec<_> = (0..3).map(|_| pool.allocate().unwrap().to_string()).collect();
        assert_eq!(given, ["10.0.5.0", "10.0.5.2", "10.0.5.3"]);
        assert_eq!(pool.allocate().unwrap_err().to_string(), "no free address in the range of 10.0.0.0/16");
        assert!(Pool::new(subnet("10.0.0.0/16"), Some(subnet("10.1.0.0/24"))).is_err());
        assert!(Pool::new(subnet("10.0.0.0/16"), Some(subnet("10.0.0.0/8"))).is_err());
    }

    #[test]
    fn the_smallest_and_the_largest() {
        let mut two = Pool::new(subnet("10.0.0.0/31"), None).unwrap();
        assert_eq!(
            (two.allocate().unwrap(), two.allocate().unwrap()),
            (address("10.0.0.0"), address("10.0.0.1"))
        );
        assert!(two.allocate().is_err());
        let mut end = Pool::new(subnet("255.255.255.254/31"), None).unwrap();
        assert!(end.allocate().is_ok() && end.allocate().is_ok() && end.allocate().is_err());
        let mut all = Pool::new(subnet("::/0"), None).unwrap();
        assert_eq!(all.allocate().unwrap(), address("::1"));
        all.take(address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")).unwrap();
        let mut large = Pool::new(subnet("10.0.0.0/8"), None).unwrap();
        for _ in 0..100_000 {
            large.allocate().unwrap();
        }
        assert_eq!(large.taken.len(), 2, "a hundred thousand neighbours are one range");
    }

    /// Random operations against a plain set.
    #[test]
    fn a_pool_is_a_set() {
        let whole = subnet("10.0.0.0/27");
        let mut pool = Pool::new(whole, None).unwrap();
        let mut model = BTreeSet::new();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let one = of_bits(bits(whole.base) + u128::from(state >> 8) % 32, true);
            let inner = one != whole.base && one != whole.last();
            match state % 3 {
                0 => assert_eq!(pool.take(one).is_ok(), inner && model.insert(one)),
                1 => {
                    pool.release(one);
                    model.remove(&one);
                }
                _ => match pool.allocate() {
                    Ok(given) => assert!(whole.contains(given) && model.insert(given)),
                    Err(_) => assert_eq!(model.len(), 30),
                },
            }
            assert_eq!(pool.taken(), model.len() as u64);
        }
    }

    #[test]
    fn default_pools() {
        let docker = Pools::docker();
        let mut used = Vec::new();
        for _ in 0..31 {
            used.push(docker.choose4(&used).unwrap());
        }
        let text: Vec<_> = used.iter().map(Subnet::to_string).collect();
        assert_eq!(text[0], "172.17.0.0/16");
        assert_eq!(text[14], "172.31.0.0/16");
        assert_eq!(text[15], "192.168.0.0/20");
        assert_eq!(text[30], "192.168.240.0/20");
        assert!(docker.choose4(&used).is_err());
        let vpn = [subnet("172.16.0.0/13"), subnet("172.24.3.0/24"), subnet("10.0.0.0/8")];
        assert_eq!(docker.choose4(&vpn).unwrap().to_string(), "172.25.0.0/16");
        let own = Pools::new(vec!["size=24,base=10.10.0.0/16".parse().unwrap()]);
        assert_eq!(
            own.choose4(&[subnet("10.10.0.128/25"), subnet("10.10.2.0/23")]).unwrap().to_string(),
            "10.10.1.0/24"
        );
        assert!(own.choose4(&[subnet("0.0.0.0/0")]).is_err());
        for wrong in
            ["", "base=10.0.0.0/16", "base=10.0.0.0/16,size=8", "base=10.0.0.0/16,size=33", "base=x,size=24"]
        {
            assert!(wrong.parse::<DefaultPool>().is_err(), "{wrong}");
        }
        let random = docker.choose6(&[]).unwrap();
        assert!(random.prefix() == 64 && random.to_string().starts_with("fd"));
        assert_ne!(random, docker.choose6(&[]).unwrap());
    }
}
