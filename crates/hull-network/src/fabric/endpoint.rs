//! A container's interface on a network: made, configured, removed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Fabric, absent_is_gone, check_name, lock};
use crate::netlink::route::DefaultWay;
use crate::netlink::{Batch, Socket, route};
use crate::netns;
use crate::parent::OnParent;
use crate::{Error, Result, sysctl};

/// A container's interface on a network, and what it is to be: its end of a veth pair whose other end is a port of a
/// bridge, or a device of its own on a parent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// It is made on an interface of the machine; there is no bridge then, and no host end.
    pub on_parent: Option<OnParent>,
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
    /// Further addresses of its own, of its link alone.
    pub link_local: Vec<IpAddr>,
    /// The IPv4 default route's gateway; `None`: no default route.
    pub gateway4: Option<Ipv4Addr>,
    /// The IPv6 default route's gateway; `None`: no default route.
    pub gateway6: Option<Ipv6Addr>,
    /// The IPv4 default route leads to the interface itself, without a gateway.
    pub device_route4: bool,
    /// The same for IPv6.
    pub device_route6: bool,
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

/// Docker's rule for a MAC address that nobody chose: 02:42 and the four bytes of the IPv4 address.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

impl Fabric {
    /// Gives a namespace one more interface on a bridge. When it fails, nothing of the interface is left.
    pub fn attach(&self, namespace: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Attached> {
        let mut socket = netns::route_socket(namespace)?;
        self.connect(namespace, &mut socket, endpoint)
    }

    /// A new namespace and its first interface: the hot path, in the fewest messages.
    pub fn attach_new(&self, endpoint: &Endpoint) -> Result<(OwnedFd, Attached)> {
        let mut made = self.maker.make()?;
        let attached = self.connect(made.namespace.as_fd(), &mut made.socket, endpoint)?;
        Ok((made.namespace, attached))
    }

    /// Two batches: the pair from this side, the container's end from its own.
    fn connect(
        &self,
        namespace: BorrowedFd<'_>,
        inside: &mut Socket,
        endpoint: &Endpoint,
    ) -> Result<Attached> {
        check_name(&endpoint.container_name)?;
        let quiet = self.has_ipv6(endpoint.mtu);
        if let Some(on_parent) = &endpoint.on_parent {
            let (host_index, index) = self.add_on_parent(namespace, inside, on_parent, endpoint)?;
            let configured = configure_inside(namespace, inside, index, endpoint, quiet);
            if let Err(error) = configured {
                return Err(take_back(inside, index, endpoint, error));
            }
            return Ok(Attached { host_index, container_index: index });
        }
        check_name(&endpoint.host_name)?;
        let host_index = self.add_pair(namespace, endpoint)?;
        let configured = inside.index_of(&endpoint.container_name).and_then(|index| {
            configure_inside(namespace, inside, index, endpoint, quiet)?;
            let mut batch = Batch::new();
            route::settle(&mut batch, &endpoint.host_name);
            route::settle(&mut batch, &endpoint.bridge);
            lock(&self.links).send(batch)?;
            Ok(index)
        });
        if configured.is_err() {
            let mut batch = Batch::new();
            route::delete_link(&mut batch, &endpoint.host_name);
            // The first error is the one to tell.
            let _ = lock(&self.links).send(batch);
        }
        Ok(Attached { host_index, container_index: configured? })
    }

    /// Whether an interface of this MTU has anything to do with IPv6: the kernel takes it off those below 1280.
    pub(super) fn has_ipv6(&self, mtu: Option<u32>) -> bool {
        self.ipv6 && mtu.is_none_or(|mtu| mtu >= 1280)
    }

    fn add_pair(&self, namespace: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<u32> {
        let mut links = lock(&self.links);
        let bridge_index = links.index_of(&endpoint.bridge)?;
        let mut batch = Batch::new();
        route::add_veth(
            &mut batch,
            &route::Veth {
                host_name: &endpoint.host_name,
                bridge: &endpoint.bridge,
                bridge_index,
                container_name: &endpoint.container_name,
                mac: endpoint.mac,
                mtu: endpoint.mtu,
                namespace,
            },
        );
        links.send(batch)?;
        let mut batch = Batch::new();
        let port = route::Port { hairpin: bridge_netfilter(), isolated: endpoint.isolated };
        route::set_port(&mut batch, &endpoint.host_name, port, self.has_ipv6(endpoint.mtu));
        route::up_port(&mut batch, &endpoint.host_name);
        let finished = links.send(batch).and_then(|()| links.index_of(&endpoint.host_name));
        if finished.is_err() {
            let mut batch = Batch::new();
            route::delete_link(&mut batch, &endpoint.host_name);
            // The first error is the one to tell.
            let _ = links.send(batch);
        }
        finished
    }

    /// Removes an endpoint's interface from a namespace that lives on. For one that ends, drop the namespace instead: the
    /// kernel takes its interfaces down on its own time, and nobody waits. One that is gone is no error.
    ///
    /// What it is called inside says nothing: the container may have changed names, or exchanged them. A pair goes by its
    /// end on the host, a device on a parent by what [`Fabric::find`] looks at.
    ///
    /// `all` are the namespace's endpoints, as for [`Fabric::find_endpoint`].
    ///
    /// # Errors
    /// The kernel refuses, or there are devices on the parent of which nobody can tell whether one is this endpoint's.
    pub fn detach(&self, namespace: BorrowedFd<'_>, endpoint: &Endpoint, all: &[Endpoint]) -> Result<()> {
        if let Some(on_parent) = &endpoint.on_parent {
            return self.detach_on_parent(namespace, on_parent, endpoint, all);
        }
        check_name(&endpoint.host_name)?;
        let mut batch = Batch::new();
        route::delete_link(&mut batch, &endpoint.host_name);
        // By a socket of its own: it takes the kernel milliseconds, in which others make theirs.
        absent_is_gone(netns::route_socket(self.home.as_fd())?.send(batch).map(drop))
    }

    /// Moves a namespace's default routes from where these endpoints had them to where they have them now; their
    /// interfaces stay as they are, and so do the connections through them. The new one takes the old one's place at
    /// once, so that nothing is without a way in between.
    ///
    /// # Errors
    /// The kernel refuses, or an interface that a default route is to lead through is gone.
    pub fn reroute(&self, namespace: BorrowedFd<'_>, before: &[Endpoint], now: &[Endpoint]) -> Result<()> {
        let mut socket = netns::route_socket(namespace)?;
        let inside = netns::look_inside(&mut socket)?;
        for is_ipv6 in [false, true] {
            let leads = |endpoint: &&Endpoint| endpoint.default_way(is_ipv6).is_some();
            let (old, new) = (before.iter().find(leads), now.iter().find(leads));
            let way = |endpoint: Option<&Endpoint>| {
                endpoint.map(|endpoint| (endpoint.host_name.clone(), endpoint.default_way(is_ipv6)))
            };
            if way(old) == way(new) {
                continue;
            }
            let mut moved = Batch::new();
            if let Some((endpoint, way)) = new.and_then(|new| Some((new, new.default_way(is_ipv6)?))) {
                let gone = || Error::Refused(format!("the interface {} is gone", endpoint.container_name));
                let interface = self.find_endpoint(&inside, endpoint, now).ok_or_else(gone)?;
                route::set_default_route(&mut moved, interface.index, way);
                socket.send(moved)?;
            }
            // That of an interface that has left went with it.
            let mut left = Batch::new();
            if let Some((endpoint, way)) = old.and_then(|old| Some((old, old.default_way(is_ipv6)?)))
                && let Some(interface) = self.find_endpoint(&inside, endpoint, before)
            {
                route::delete_default_route(&mut left, interface.index, way);
                absent_is_gone(socket.send(left))?;
            }
        }
        Ok(())
    }
}

impl Endpoint {
    /// Where the default route of a family leads to that is this endpoint's.
    fn default_way(&self, is_ipv6: bool) -> Option<DefaultWay> {
        let (gateway, by_device) = match is_ipv6 {
            false => (self.gateway4.map(IpAddr::V4), self.device_route4),
            true => (self.gateway6.map(IpAddr::V6), self.device_route6),
        };
        gateway.map(DefaultWay::Gateway).or_else(|| by_device.then_some(DefaultWay::Device { is_ipv6 }))
    }

    /// The same without a default route.
    pub fn without_default_routes(&self) -> Endpoint {
        Endpoint {
            gateway4: None,
            gateway6: None,
            device_route4: false,
            device_route6: false,
            ..self.clone()
        }
    }
}

/// The link-local address that the kernel would make of a MAC address (RFC 4291, appendix A).
fn link_local_of([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

/// Whether bridged packets come to the firewall, so that ports must be in hairpin mode (see [`crate::firewall`]). Asked
/// for each endpoint, because another engine may load br_netfilter at any time.
fn bridge_netfilter() -> bool {
    sysctl::is_on("net.bridge.bridge-nf-call-iptables")
        || sysctl::is_on("net.bridge.bridge-nf-call-ip6tables")
}

/// Removes what could not be configured; the error of that, and where the interface stays, that.
fn take_back(inside: &mut Socket, index: u32, endpoint: &Endpoint, error: Error) -> Error {
    let mut batch = Batch::new();
    route::delete_index(&mut batch, index, &endpoint.container_name);
    match absent_is_gone(inside.send(batch)) {
        Ok(()) => error,
        Err(stays) => Error::Refused(format!(
            "{error}; and the interface made for it stays in the container, its number is {index}: {stays}"
        )),
    }
}

/// The container's end: everything it needs in one batch.
fn configure_inside(
    namespace: BorrowedFd<'_>,
    socket: &mut Socket,
    index: u32,
    endpoint: &Endpoint,
    has_ipv6: bool,
) -> Result<()> {
    let name = endpoint.container_name.as_str();
    if !endpoint.sysctls.is_empty() {
        sysctl::set(namespace, &endpoint.sysctls)?;
    }
    let mut batch = Batch::new();
    if endpoint.on_parent.as_ref().is_some_and(OnParent::has_parents_mac) {
        route::set_mac(&mut batch, index, name, endpoint.mac);
    }
    if has_ipv6 {
        route::quiet_ipv6(&mut batch, index, name);
    }
    if let Some((address, prefix)) = endpoint.address4 {
        route::add_address(&mut batch, index, name, address.into(), prefix);
    }
    if let Some((address, prefix)) = endpoint.address6 {
        route::add_address(&mut batch, index, name, address.into(), prefix);
        route::add_address(&mut batch, index, name, link_local_of(endpoint.mac).into(), 64);
    }
    for address in &endpoint.link_local {
        // As long as the prefix of such addresses is (RFC 3927, RFC 4291).
        let prefix = if address.is_ipv4() { 16 } else { 64 };
        route::add_address(&mut batch, index, name, *address, prefix);
    }
    route::up(&mut batch, index, name);
    for way in [false, true].into_iter().filter_map(|is_ipv6| endpoint.default_way(is_ipv6)) {
        route::add_default_route(&mut batch, index, way);
    }
    route::settle(&mut batch, name);
    socket.send(batch)
}
