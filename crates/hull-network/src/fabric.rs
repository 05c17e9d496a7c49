//! One daemon's network in the kernel: its bridges, the endpoints on them, its published ports.

mod endpoint;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use endpoint::{Attached, Endpoint, mac_of};

use crate::firewall::{self, Ports};
use crate::netlink::{Batch, Socket, route};
use crate::netns::{self, Maker};
use crate::{Error, Result, sysctl};

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
    /// The bridge itself has no IPv4 address: another machine routes for it, or nobody does.
    pub without_address4: bool,
    /// The same of IPv6.
    pub without_address6: bool,
    /// Whoever has a route reaches the containers' IPv4 addresses at all ports, published or not.
    pub open4: bool,
    /// The same of IPv6.
    pub open6: bool,
    /// The containers' IPv4 addresses are reached as they are, at published ports; what leaves keeps them.
    pub routed4: bool,
    /// The same of IPv6.
    pub routed6: bool,
    /// Interfaces of the machine by which published ports are reached at the containers' own addresses.
    pub trusted: Vec<String>,
    /// The IPv4 address that what is masqueraded takes, instead of the interface's that it leaves by.
    pub source4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub source6: Option<Ipv6Addr>,
}

impl Bridge {
    /// The addresses that the bridge has itself.
    fn own_addresses(&self) -> Vec<(IpAddr, u8)> {
        let four = self.gateway4.filter(|_| !self.without_address4);
        let six = self.gateway6.filter(|_| !self.without_address6);
        let four = four.map(|(address, prefix)| (address.into(), prefix));
        four.into_iter().chain(six.map(|(address, prefix)| (address.into(), prefix))).collect()
    }
}

/// A published port: what arrives at the host's goes to the container's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Published {
    /// The protocol.
    pub protocol: Protocol,
    /// The host address; `None`, 0.0.0.0 and :: are every address of the container address's family.
    pub host_address: Option<IpAddr>,
    /// The host port; 0: the container's port is let in at the container's own address, and nothing is translated.
    pub host_port: u16,
    /// The container's address; of the host address's family.
    pub container_address: IpAddr,
    /// The container's port.
    pub container_port: u16,
    /// The bridge the container is on.
    pub bridge: String,
}

impl Published {
    /// The map of the firewall that it is an element of.
    pub fn map(&self) -> &'static str {
        firewall::map_of(self)
    }

    /// Whether it is reached at the container's own address, without translation.
    pub fn is_direct(&self) -> bool {
        self.host_port == 0
    }

    /// The element as nft(8) writes it: `tcp . 8080 : 172.17.0.2 . 80`.
    pub fn element(&self) -> String {
        if self.is_direct() {
            return format!("{} . {} . {}", self.container_address, self.protocol, self.container_port);
        }
        let host = self.host_address.filter(|address| !address.is_unspecified());
        let host = host.map(|address| format!("{address} . ")).unwrap_or_default();
        format!(
            "{host}{} . {} : {} . {}",
            self.protocol, self.host_port, self.container_address, self.container_port
        )
    }
}

/// A published port as the kernel holds it, with its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublishedBy {
    /// The container id given to [`Fabric::publish`].
    pub owner: String,
    /// The port.
    pub port: Published,
}

/// One daemon's network. Thread-safe; every call is synchronous.
///
/// It works in the network namespace of the thread that opened it, whichever thread calls.
#[derive(Debug)]
pub struct Fabric {
    instance: String,
    home: OwnedFd,
    maker: Maker,
    links: Mutex<Socket>,
    firewall: Mutex<Firewall>,
    /// This kernel has IPv6.
    ipv6: bool,
}

#[derive(Debug)]
struct Firewall {
    socket: Socket,
    ports: Ports,
}

/// Whose a bridge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Made just now.
    New,
    /// Made by this instance before.
    Ours,
    /// There already, and nobody's of us: an administrator's. Its settings and addresses stay, and so does it.
    Foreign,
}

/// A poisoned lock is taken all the same: what it guards is a socket whose stale answers are told by their numbers,
/// and an index that is changed only after the kernel has said yes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The longest name of an interface (IFNAMSIZ less its NUL).
const LONGEST_NAME: usize = 15;

pub(crate) fn check_name(name: &str) -> Result<()> {
    let bad = |byte: u8| byte == b'/' || byte == b':' || byte == b'%' || !byte.is_ascii_graphic();
    if name.is_empty() || name.len() > LONGEST_NAME || matches!(name, "." | "..") || name.bytes().any(bad) {
        return Err(Error::Invalid(format!(
            "{name:?} is no name for an interface: 1 to {LONGEST_NAME} printable characters, none of them / : %"
        )));
    }
    Ok(())
}

impl Fabric {
    /// Opens the network of a daemon: its nftables table `inet <instance>` and IPv4 forwarding. Idempotent; what an
    /// earlier daemon of the instance left stays and goes on working, also while this runs. How forwarding is turned
    /// on without making the machine a router for others: see the page on the firewall in this crate's source.
    ///
    /// # Errors
    /// CAP_NET_ADMIN is missing, or the kernel has no nftables (or not its nat, fib, masquerade parts).
    pub fn open(instance: &str) -> Result<Fabric> {
        if instance.is_empty()
            || instance.len() > 32
            || !instance.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return Err(Error::Invalid(format!(
                "{instance:?} is no instance name: letters, digits and -, at most 32"
            )));
        }
        let home = netns::current()?;
        let links = Socket::route().map_err(|error| Error::kernel("opening a netlink socket", error))?;
        let mut socket = Socket::netfilter().map_err(|error| {
            Error::kernel("opening a netfilter socket (does this kernel have nftables?)", error)
        })?;
        firewall::open(&mut socket, instance)?;
        let ports = Ports::read(&mut socket, instance)?;
        let maker =
            Maker::new(home.try_clone().map_err(|error| Error::kernel("keeping the namespace", error))?);
        let fabric = Fabric {
            instance: instance.to_owned(),
            home,
            maker,
            links: Mutex::new(links),
            firewall: Mutex::new(Firewall { socket, ports }),
            ipv6: std::path::Path::new("/proc/sys/net/ipv6").exists(),
        };
        fabric.forward_ipv4()?;
        Ok(fabric)
    }

    fn forward_ipv4(&self) -> Result<()> {
        if sysctl::is_on("net.ipv4.ip_forward") {
            return Ok(());
        }
        self.keep_closed(true)?;
        sysctl::set(self.home.as_fd(), &[("net.ipv4.ip_forward".into(), "1".into())])
    }

    /// The interfaces of this moment, our bridges excepted, go on not being routed between.
    fn keep_closed(&self, ipv4: bool) -> Result<()> {
        let ours: BTreeSet<String> = self
            .all_bridges()?
            .into_iter()
            .filter(|(_, alias)| alias.starts_with(ALIAS))
            .map(|(name, _)| name)
            .collect();
        let mut names = Vec::new();
        lock(&self.links).dump(route::list_links(), |_, body| {
            names.extend(route::interface_of(body).map(|interface| interface.name));
        })?;
        names.retain(|name| name != "lo" && !ours.contains(name));
        firewall::keep_closed(&mut lock(&self.firewall).socket, ipv4, &names)
    }

    /// Once the first bridge has IPv6: forwarding, with those interfaces that learn their routes from router
    /// advertisements set to go on learning (the kernel stops listening to them where it forwards).
    fn forward_ipv6(&self) -> Result<()> {
        if sysctl::is_on("net.ipv6.conf.all.forwarding") {
            return Ok(());
        }
        self.keep_closed(false)?;
        let mut names = Vec::new();
        lock(&self.links).dump(route::list_links(), |_, body| {
            names.extend(route::interface_of(body).map(|interface| interface.name));
        })?;
        let mut settings = Vec::new();
        for name in names {
            if sysctl::is_on(&format!("net/ipv6/conf/{name}/accept_ra")) {
                settings.push((format!("net/ipv6/conf/{name}/accept_ra"), "2".to_owned()));
            }
        }
        settings.push(("net.ipv6.conf.all.forwarding".into(), "1".into()));
        sysctl::set(self.home.as_fd(), &settings)
    }

    /// Makes the bridge, or brings an existing one to what is asked: addresses, MTU, firewall. One that an administrator
    /// made is used as it is: it gets the gateways' addresses, and keeps all it has.
    ///
    /// # Errors
    /// A name that cannot be, or that of an interface which is no bridge, or of another daemon's; what the kernel refuses.
    pub fn ensure_bridge(&self, bridge: &Bridge) -> Result<()> {
        check_name(&bridge.name)?;
        if bridge.gateway6.is_some() {
            self.forward_ipv6()?;
        }
        let standing = self.make_bridge(bridge)?;
        let configured = self.configure_bridge(bridge, standing);
        if configured.is_err() && standing == Standing::New {
            // The first error is the one to tell; what is left of the bridge goes.
            let _ = self.delete_bridge(&bridge.name);
        }
        configured
    }

    fn make_bridge(&self, bridge: &Bridge) -> Result<Standing> {
        let mac = bridge.gateway4.map(|(address, _)| mac_of(address));
        let mut batch = Batch::new();
        route::add_bridge(&mut batch, &bridge.name, mac, bridge.mtu);
        let made = lock(&self.links).send(batch);
        match made {
            Ok(()) => return Ok(Standing::New),
            Err(error) if error.errno() == Some(libc::EEXIST) => {}
            Err(error) => return Err(error),
        }
        self.standing(&bridge.name)?.ok_or_else(|| {
            Error::Invalid(format!(
                "existing interface {} is not a bridge: name another bridge, or remove it",
                bridge.name
            ))
        })
    }

    /// Whose an existing bridge is; `None`: no bridge has the name.
    fn standing(&self, name: &str) -> Result<Option<Standing>> {
        let all = self.all_bridges()?;
        let Some((_, alias)) = all.iter().find(|(other, _)| other == name) else { return Ok(None) };
        match alias.strip_prefix(ALIAS) {
            Some(instance) if instance == self.instance => Ok(Some(Standing::Ours)),
            Some(other) => Err(Error::Invalid(format!(
                "bridge {name} is another daemon's ({other}); name another bridge"
            ))),
            None => Ok(Some(Standing::Foreign)),
        }
    }

    fn configure_bridge(&self, bridge: &Bridge, standing: Standing) -> Result<()> {
        let name = bridge.name.as_str();
        // The firewall stands before the bridge is up.
        firewall::set_bridge(&mut lock(&self.firewall).socket, &self.instance, name, Some(bridge))?;
        let ipv6 = |key: &str, value: &str| (format!("net/ipv6/conf/{name}/{key}"), value.to_owned());
        let mut settings = vec![(format!("net/ipv4/conf/{name}/route_localnet"), "1".to_owned())];
        settings.push(ipv6("accept_ra", "0"));
        sysctl::set_existing(self.home.as_fd(), &settings)?;
        let mut links = lock(&self.links);
        let index = links.index_of(name)?;
        let wanted = bridge.own_addresses();
        let present = addresses_of(&mut links, index)?;
        let mut batch = Batch::new();
        if standing != Standing::Foreign {
            route::set_link(&mut batch, name, &format!("{ALIAS}{}", self.instance), bridge.mtu);
            if self.has_ipv6(bridge.mtu) {
                route::quiet_ipv6(&mut batch, index, name);
            }
            for (address, prefix) in present.iter().filter(|address| !wanted.contains(address)) {
                route::delete_address(&mut batch, index, name, *address, *prefix);
            }
        }
        for (address, prefix) in &wanted {
            route::add_address(&mut batch, index, name, *address, *prefix);
        }
        if bridge.gateway6.is_some() {
            route::add_address(&mut batch, index, name, BRIDGE_LINK_LOCAL.into(), 64);
        }
        route::up(&mut batch, index, name);
        links.send(batch)
    }

    /// Removes a bridge and all the firewall knew of it. One that is already gone is no error; one that hull did not
    /// make (it was there when [`Fabric::ensure_bridge`] came) stays, and the firewall forgets it.
    pub fn remove_bridge(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let removed = match self.standing(name)? {
            Some(Standing::Ours | Standing::New) => self.delete_bridge(name),
            Some(Standing::Foreign) | None => Ok(()),
        };
        // Taken down to the end, whatever the first step said.
        removed.and(firewall::set_bridge(&mut lock(&self.firewall).socket, &self.instance, name, None))
    }

    fn delete_bridge(&self, name: &str) -> Result<()> {
        let mut batch = Batch::new();
        route::delete_link(&mut batch, name);
        absent_is_gone(lock(&self.links).send(batch))
    }

    /// The names of this instance's bridges: those whose alias (`ip link` shows it) is `hull network of INSTANCE`.
    pub fn bridges(&self) -> Result<Vec<String>> {
        let wanted = format!("{ALIAS}{}", self.instance);
        Ok(self
            .all_bridges()?
            .into_iter()
            .filter(|(_, alias)| *alias == wanted)
            .map(|(name, _)| name)
            .collect())
    }

    /// The addresses of a bridge, whoever made it; none: there is no such bridge.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn addresses(&self, bridge: &str) -> Result<Option<Vec<(IpAddr, u8)>>> {
        if !self.all_bridges()?.iter().any(|(name, _)| name == bridge) {
            return Ok(None);
        }
        let mut links = lock(&self.links);
        let index = links.index_of(bridge)?;
        addresses_of(&mut links, index).map(Some)
    }

    /// Name and alias of every bridge of the machine.
    fn all_bridges(&self) -> Result<Vec<(String, String)>> {
        self.all_of("bridge")
    }

    /// Name and alias of every interface of that kind.
    pub(crate) fn all_of(&self, kind: &str) -> Result<Vec<(String, String)>> {
        let mut all = Vec::new();
        lock(&self.links).dump(route::list_kind(kind), |_, body| {
            all.extend(route::link_of_kind(body, kind).map(|link| (link.name, link.alias)));
        })?;
        Ok(all)
    }

    /// The instance's own.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The socket that speaks of the machine's own interfaces.
    pub(crate) fn links(&self) -> MutexGuard<'_, Socket> {
        lock(&self.links)
    }

    /// A new network namespace with its loopback up, held by the descriptor alone.
    pub fn new_namespace(&self) -> Result<OwnedFd> {
        Ok(self.maker.make()?.namespace)
    }

    /// Takes up the loopback of a namespace that others have made, as those of [`Fabric::new_namespace`] have it.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn wake(&self, namespace: BorrowedFd<'_>) -> Result<()> {
        self.maker.hear_no_routers(namespace)?;
        netns::wake(&mut netns::route_socket(namespace)?)
    }

    /// The machine has a moment: makes ahead what the next [`Fabric::new_namespace`] or [`Fabric::attach_new`] hands out,
    /// on a thread of its own. That is half of what an endpoint costs.
    pub fn ahead(&self) {
        self.maker.ahead();
    }

    /// The index of a host's end of a pair, by its name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn host_index(&self, name: &str) -> Result<u32> {
        lock(&self.links).index_of(name)
    }

    /// Publishes ports, all or none, in one transaction of map elements. Publishing the same again changes nothing.
    ///
    /// The host port itself is taken by [`crate::ports::reserve`], before; this is the way from there to the container.
    ///
    /// # Errors
    /// [`Error::AlreadyPublished`] when another owner's port, or another target, is in the way; addresses of two
    /// families.
    pub fn publish(&self, owner: &str, ports: &[Published]) -> Result<()> {
        let mut firewall = lock(&self.firewall);
        let Firewall { socket, ports: held } = &mut *firewall;
        held.publish(socket, &self.instance, owner, ports)
    }

    /// Takes published ports back. One that is already gone is no error; another owner's is left alone.
    pub fn unpublish(&self, owner: &str, ports: &[Published]) -> Result<()> {
        let mut firewall = lock(&self.firewall);
        let Firewall { socket, ports: held } = &mut *firewall;
        held.unpublish(socket, &self.instance, owner, ports)
    }

    /// The published ports that the kernel holds, for reconciling at a daemon's start.
    pub fn published(&self) -> Result<Vec<PublishedBy>> {
        firewall::published(&mut lock(&self.firewall).socket, &self.instance)
    }

    /// The nftables table (of the family inet) that all of it stands in.
    pub fn table(&self) -> &str {
        &self.instance
    }

    /// Removes everything of this instance: its bridges, the parents that it made, and its table. IP forwarding stays
    /// on, and so does the
    /// table that keeps other interfaces closed if this turned it on.
    pub fn close(self) -> Result<()> {
        let mut result = Ok(());
        for name in self.bridges()? {
            result = result.and(self.remove_bridge(&name));
        }
        for name in self.parents()? {
            result = result.and(self.remove_parent(&name));
        }
        result.and(firewall::close(&mut lock(&self.firewall).socket, &self.instance))
    }
}

/// The link-local address of a bridge with IPv6. The kernel's own would be tentative for a second or two (duplicate
/// address detection), and until then the bridge cannot solicit its containers' MAC addresses.
const BRIDGE_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The addresses that an interface has.
fn addresses_of(links: &mut Socket, index: u32) -> Result<Vec<(IpAddr, u8)>> {
    let mut present = Vec::new();
    links.dump(route::list_addresses(), |_, body| {
        present.extend(
            route::address_of(body).filter(|(of, ..)| *of == index).map(|(_, ip, prefix)| (ip, prefix)),
        );
    })?;
    Ok(present)
}

/// A bridge's alias, before the instance's name.
const ALIAS: &str = "hull network of ";

/// What is to be removed and is not there is removed.
pub(crate) fn absent_is_gone(removed: Result<()>) -> Result<()> {
    match removed {
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ESRCH)) => Ok(()),
        other => other,
    }
}
