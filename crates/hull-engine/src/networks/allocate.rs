//! A container's places on its networks, from the decision to their end.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_network::dns::Sockets;
use hull_network::{Endpoint, OnParent, Published, dns, mac_of};
use hull_runtime::protocol::Relay;

use super::{Attachment, Entry, Inner, Network, Networks, endpoint, names, plan, ports};
use crate::container::random_id;
use crate::model::{EndpointSettings, PortBinding};
use crate::{Error, Result};

/// A container that joins its networks.
pub(crate) struct Joiner<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// Its name, without a slash.
    pub(crate) name: &'a str,
    /// Its host name.
    pub(crate) hostname: &'a str,
    /// By the network's name, as [`Networks::check`] gave it.
    pub(crate) endpoints: &'a BTreeMap<String, EndpointSettings>,
    /// What is to be published where.
    pub(crate) port_bindings: &'a BTreeMap<String, Vec<PortBinding>>,
    /// What it listens on: `80/tcp`, also ranges.
    pub(crate) exposed: &'a [String],
    /// All of that is published at ports of the engine's choice.
    pub(crate) publish_all: bool,
    /// `--dns`: who is asked for names that are no container's.
    pub(crate) dns: &'a [String],
}

/// A container's places on its networks. Dropped before [`Networks::running`], it undoes what was made; dropped later,
/// it leaves the kernel as it is: the daemon ends, the container does not.
pub(crate) struct Allocation {
    /// As inspect shows them, by the network's name.
    pub(crate) endpoints: BTreeMap<String, EndpointSettings>,
    /// `NetworkSettings.Ports`: an empty list is a port that is exposed and not published (`null` on the wire).
    pub(crate) ports: BTreeMap<String, Vec<PortBinding>>,
    /// The published host ports, bound: the shim holds them as long as the container runs.
    pub(crate) reserved: Vec<OwnedFd>,
    /// Those of them that the shim answers at.
    pub(crate) relays: Vec<Relay>,
    pub(super) inner: Arc<Inner>,
    pub(super) id: String,
    pub(super) name: String,
    /// In the order of their interfaces; the first with a gateway has the default route.
    pub(super) legs: Vec<Leg>,
    pub(super) published: Vec<Published>,
    pub(super) dns: Vec<String>,
    pub(super) answering: Mutex<Answering>,
    /// It runs: from now on only [`Networks::release`] undoes it.
    pub(super) live: AtomicBool,
}

/// How far a container's own name responder is.
#[derive(Default)]
pub(super) enum Answering {
    /// It needs none, or is not that far.
    #[default]
    Not,
    /// Its sockets are bound, and what is asked already waits in them.
    Bound(Sockets),
    /// It is served by a task.
    Served(tokio::task::AbortHandle),
}

/// One network of a container.
#[derive(Clone, Debug)]
pub(super) struct Leg {
    pub(super) network: Arc<Network>,
    pub(super) plan: Option<Arc<plan::Plan>>,
    pub(super) endpoint_id: String,
    pub(super) interface: String,
    pub(super) mac: [u8; 6],
    pub(super) address4: Option<(Ipv4Addr, u8)>,
    pub(super) address6: Option<(Ipv6Addr, u8)>,
    pub(super) link_local: Vec<IpAddr>,
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) priority: i64,
    /// Aliases that it alone resolves, each with whom it means.
    pub(super) links: Vec<(String, String)>,
    /// What it is called there; empty where nobody resolves it.
    pub(super) names: Vec<String>,
}

impl Networks {
    /// Decides about addresses and ports: memory and `bind(2)`.
    ///
    /// # Errors
    /// A network or an address of it is gone, a port of the host is another's (in Docker's words).
    pub(crate) fn allocate(&self, joiner: &Joiner<'_>) -> Result<Allocation> {
        let plan = ports::plan(joiner.port_bindings, joiner.exposed, joiner.publish_all)?;
        let mut allocation = Allocation::empty(&self.inner, joiner.id, joiner.name, joiner.dns);
        for (name, settings) in joiner.endpoints {
            let names = all_names(joiner.name, joiner.id, joiner.hostname, settings);
            allocation.join(name, settings, names)?;
        }
        allocation.legs.sort_by(|one, other| one.order().cmp(&other.order()));
        allocation.name_interfaces();
        let taken = match allocation.publisher() {
            Some(leg) => {
                let target = ports::Target { relayed: self.inner.userland_proxy, ..leg.target() };
                ports::take(&plan, &target, (joiner.name, &leg.endpoint_id))?
            }
            None => match allocation.legs.first().map(|leg| leg.network.driver.as_str()) {
                // The host's own ports are there without being published, and so are those of a container that is on the
                // link itself; where there is no network, there are none.
                Some("host" | "null" | "macvlan" | "ipvlan") => ports::Taken::default(),
                _ => ports::unpublished(&plan),
            },
        };
        (allocation.ports, allocation.published) = (taken.shown, taken.published);
        (allocation.reserved, allocation.relays) = (taken.sockets, taken.relays);
        Ok(allocation)
    }

    /// Makes the namespace, unless there is one `inside`, its interfaces and the published ports. Blocks for a few milliseconds. Not for `host`,
    /// which has no namespace of its own.
    ///
    /// # Errors
    /// The kernel refuses a step; what was made goes with the namespace and with the allocation.
    pub(crate) fn realise(&self, allocation: &Allocation, inside: Option<OwnedFd>) -> Result<OwnedFd> {
        let fabric = &self.inner.fabric;
        let mut namespace = inside;
        if let Some(namespace) = &namespace {
            fabric.wake(namespace.as_fd())?;
        }
        for leg in &allocation.legs {
            let Some(endpoint) = allocation.endpoint(leg) else { continue };
            match &namespace {
                None => namespace = Some(fabric.attach_new(&endpoint)?.0),
                Some(namespace) => {
                    fabric.attach(namespace.as_fd(), &endpoint)?;
                }
            }
        }
        let namespace = match namespace {
            Some(namespace) => namespace,
            None => fabric.new_namespace()?,
        };
        if allocation.resolves() {
            // Bound before the container runs: its first question waits in the socket instead of being refused.
            *allocation.answering() = Answering::Bound(dns::listen(namespace.as_fd())?);
        }
        if !allocation.published.is_empty() {
            fabric.publish(&allocation.id, &allocation.published)?;
        }
        Ok(namespace)
    }

    /// The container runs: its names resolve, and it is answered where it asks. Called within the runtime.
    ///
    /// # Errors
    /// None of today's; the signature leaves room for those of the kernel.
    pub(crate) fn running(&self, id: &str, allocation: &Allocation, pid: i32) -> Result<()> {
        debug_assert_eq!(id, allocation.id);
        tracing::debug!(id, pid, networks = allocation.legs.len(), "the container's names are known");
        self.inner.fabric.ahead();
        allocation.live.store(true, Ordering::Relaxed);
        allocation.enter_names();
        allocation.serve();
        Ok(())
    }

    /// The container ended: its ports, addresses and names are free again. Its interfaces go with its namespace.
    ///
    /// # Errors
    /// The kernel refuses to take back a published port; everything else is done.
    pub(crate) fn release(&self, _id: &str, mut allocation: Allocation) -> Result<()> {
        allocation.undo()
    }

    /// The container has another name now.
    pub(crate) fn renamed(&self, allocation: &mut Allocation, name: &str) {
        allocation.leave_names();
        let old = std::mem::replace(&mut allocation.name, name.to_owned());
        for leg in &mut allocation.legs {
            for known in leg.names.iter_mut().filter(|known| **known == old) {
                name.clone_into(known);
            }
            if let Some(settings) = allocation.endpoints.get_mut(&leg.network.name) {
                settings.dns_names = Some(leg.names.clone()).filter(|names| !names.is_empty());
            }
        }
        {
            let mut state = self.inner.state();
            for leg in &allocation.legs {
                let attachment =
                    state.by_id.get_mut(&leg.network.id).and_then(|e| e.attached.get_mut(&allocation.id));
                if let Some(attachment) = attachment {
                    name.clone_into(&mut attachment.name);
                }
            }
        }
        if allocation.live.load(Ordering::Relaxed) {
            allocation.enter_names();
        }
    }
}

impl Allocation {
    pub(super) fn empty(inner: &Arc<Inner>, id: &str, name: &str, dns: &[String]) -> Allocation {
        Allocation {
            endpoints: BTreeMap::new(),
            ports: BTreeMap::new(),
            reserved: Vec::new(),
            relays: Vec::new(),
            inner: Arc::clone(inner),
            id: id.to_owned(),
            name: name.to_owned(),
            legs: Vec::new(),
            published: Vec::new(),
            dns: dns.to_vec(),
            answering: Mutex::default(),
            live: AtomicBool::new(false),
        }
    }

    /// Takes a place on one more network, in memory.
    pub(super) fn join(
        &mut self,
        network: &str,
        settings: &EndpointSettings,
        names: Vec<String>,
    ) -> Result<()> {
        let leg = {
            let mut state = self.inner.state();
            let entry = state.find_mut(network)?;
            if entry.attached.contains_key(&self.id) {
                let message = format!(
                    "endpoint with name {} already exists in network {}",
                    self.name, entry.network.name
                );
                return Err(Error::new(crate::Kind::Forbidden, message));
            }
            let leg = entry.leg(settings, names)?;
            entry.attached.insert(self.id.clone(), leg.attachment(&self.name));
            leg
        };
        self.endpoints.insert(leg.network.name.clone(), leg.settings(settings));
        self.legs.push(leg);
        Ok(())
    }

    /// Gives each interface that has no name of its own the next of its prefix: `eth0`, `eth1` …
    pub(super) fn name_interfaces(&mut self) {
        for index in 0..self.legs.len() {
            let leg = &self.legs[index];
            let Some(plan) = leg.plan.as_ref().filter(|_| leg.interface.is_empty()) else { continue };
            let prefix = &plan.interface_prefix;
            let taken = |name: &String| self.legs.iter().any(|leg| leg.interface == *name);
            let name = (0..).map(|number| format!("{prefix}{number}")).find(|name| !taken(name));
            self.legs[index].interface = name.unwrap_or_default();
        }
    }

    /// The first network that leads out: the one with the default route.
    fn way_out(&self) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.plan.as_ref().is_some_and(|plan| !plan.internal))
    }

    /// The network whose address ports are published of: the one with the default route, if it is a bridge. What
    /// answers by another way does not come back through the machine.
    pub(super) fn publisher(&self) -> Option<&Leg> {
        self.way_out().filter(|leg| leg.plan.as_ref().is_some_and(|plan| plan.bridge().is_some()))
    }

    /// What the kernel is to make of a place; none: `host` and `none` have no interface.
    pub(super) fn endpoint(&self, leg: &Leg) -> Option<Endpoint> {
        let plan = leg.plan.as_ref()?;
        let first = |family: fn(&Leg) -> bool| {
            self.legs.iter().find(|leg| family(leg)).is_some_and(|first| first.endpoint_id == leg.endpoint_id)
        };
        let routes4 = first(|leg| leg.gateway4().is_some() || leg.by_device(leg.address4.is_some()));
        let routes6 = first(|leg| leg.gateway6().is_some() || leg.by_device(leg.address6.is_some()));
        let (bridge, on_parent) = match &plan.wiring {
            plan::Wiring::Bridge(bridge) => (Some(bridge), None),
            plan::Wiring::Parent(parent, device) => {
                (None, Some(OnParent { parent: parent.name().to_owned(), device: *device }))
            }
        };
        let own = |(name, value): &(String, String)| (name.replace("IFNAME", &leg.interface), value.clone());
        Some(Endpoint {
            on_parent,
            bridge: bridge.map(|bridge| bridge.name.clone()).unwrap_or_default(),
            host_name: leg.host_name(),
            container_name: leg.interface.clone(),
            mac: leg.mac,
            address4: leg.address4,
            address6: leg.address6,
            link_local: leg.link_local.clone(),
            gateway4: leg.gateway4().filter(|_| routes4),
            gateway6: leg.gateway6().filter(|_| routes6),
            device_route4: routes4 && leg.by_device(leg.address4.is_some()),
            device_route6: routes6 && leg.by_device(leg.address6.is_some()),
            mtu: plan.mtu,
            isolated: bridge.is_some_and(|bridge| !bridge.inter_container),
            sysctls: leg.sysctls.iter().map(own).collect(),
        })
    }

    /// Whether names are resolved for it: it is on a network of one's own.
    pub(super) fn resolves(&self) -> bool {
        self.legs.iter().any(Leg::resolves)
    }

    pub(super) fn answering(&self) -> MutexGuard<'_, Answering> {
        self.answering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes its names known, and what it may ask.
    pub(super) fn enter_names(&self) {
        let directory = &self.inner.directory;
        for leg in self.legs.iter().filter(|leg| leg.resolves()) {
            directory.enter((&leg.network.id, &leg.network.name), &self.id, &leg.names, &leg.addresses());
        }
        if !self.resolves() {
            return directory.drop_scope(&self.id);
        }
        let networks =
            self.legs.iter().filter(|leg| leg.resolves()).map(|leg| leg.network.id.clone()).collect();
        // Nobody outside is asked for a container that must not reach the outside.
        let upstreams = match self.way_out() {
            Some(_) => self.inner.upstreams(&self.dns).unwrap_or_default(),
            None => Vec::new(),
        };
        let links = self.legs.iter().filter(|leg| leg.resolves());
        let links = links.map(|leg| (leg.network.id.clone(), leg.links.iter().cloned().collect())).collect();
        directory.set_scope(&self.id, names::Scope { networks, links, upstreams });
    }

    pub(super) fn leave_names(&self) {
        for leg in self.legs.iter().filter(|leg| leg.resolves()) {
            self.inner.directory.leave(&leg.network.id, &self.id, &leg.names, &leg.addresses());
        }
    }

    /// Answers what is asked at 127.0.0.11, where its sockets are bound.
    pub(super) fn serve(&self) {
        let mut answering = self.answering();
        *answering = match std::mem::take(&mut *answering) {
            Answering::Bound(sockets) => {
                let directory = Arc::clone(&self.inner.directory);
                let task = tokio::spawn(dns::serve(sockets, self.id.clone(), directory));
                Answering::Served(task.abort_handle())
            }
            // A task that goes on is known on, too: its sockets would keep the namespace.
            other => other,
        };
    }

    /// Nobody answers at 127.0.0.11 any more.
    pub(super) fn fall_silent(&self) {
        if let Answering::Served(task) = std::mem::take(&mut *self.answering()) {
            task.abort();
        }
    }

    /// Leaves one network, in memory.
    pub(super) fn part(&mut self, network: &str) {
        let Some(index) = self.legs.iter().position(|leg| leg.network.name == network) else { return };
        let leg = self.legs.remove(index);
        if leg.resolves() {
            self.inner.directory.leave(&leg.network.id, &self.id, &leg.names, &leg.addresses());
        }
        if let Some(entry) = self.inner.state().by_id.get_mut(&leg.network.id) {
            entry.attached.remove(&self.id);
            entry.give_back(&leg);
        }
        self.endpoints.remove(network);
    }

    /// Undoes everything; the first failure is told when all the rest is done.
    fn undo(&mut self) -> Result<()> {
        self.live.store(false, Ordering::Relaxed);
        let unpublished = match std::mem::take(&mut self.published) {
            ports if ports.is_empty() => Ok(()),
            ports => self.inner.fabric.unpublish(&self.id, &ports),
        };
        self.fall_silent();
        self.inner.directory.drop_scope(&self.id);
        while let Some(leg) = self.legs.last() {
            let network = leg.network.name.clone();
            self.part(&network);
        }
        self.reserved.clear();
        Ok(unpublished?)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if !*self.live.get_mut()
            && let Err(error) = self.undo()
        {
            tracing::error!(container = self.id, %error, "a container's network is not all undone");
        }
    }
}

impl Entry {
    /// A new place on this network.
    fn leg(&mut self, settings: &EndpointSettings, names: Vec<String>) -> Result<Leg> {
        let asked = endpoint::check(&self.network, settings)?;
        if asked.mac.is_some() && self.network.driver == "ipvlan" {
            let message = "ipvlan interfaces do not support custom mac address assignment";
            return Err(Error::new(crate::Kind::System, message));
        }
        let mut leg = Leg {
            network: Arc::clone(&self.network),
            plan: self.plan.clone(),
            endpoint_id: random_id(),
            interface: asked.interface.clone().unwrap_or_default(),
            mac: [0; 6],
            address4: None,
            address6: None,
            link_local: asked.link_local.clone(),
            sysctls: asked.sysctls.clone(),
            links: asked.links.clone(),
            priority: settings.gw_priority,
            names: if self.network.is_user_defined() { names } else { Vec::new() },
        };
        let taken = self.take_addresses(&mut leg, &asked);
        if let Err(error) = taken {
            self.give_back(&leg);
            return Err(error);
        }
        if self.plan.is_some() {
            leg.mac = asked.mac.unwrap_or_else(|| leg.own_mac());
        }
        Ok(leg)
    }

    /// Takes an address of each family that the network has: the one that is asked for, or the next of the first subnet
    /// with one to give.
    fn take_addresses(&mut self, leg: &mut Leg, asked: &endpoint::Asked) -> Result<()> {
        for is_ipv6 in [false, true] {
            let wanted =
                if is_ipv6 { asked.address6.map(IpAddr::V6) } else { asked.address4.map(IpAddr::V4) };
            let mut full = None;
            let mut pools = self.pools.iter_mut().filter(|pool| {
                let subnet = pool.subnet();
                subnet.base().is_ipv6() == is_ipv6 && wanted.is_none_or(|wanted| subnet.contains(wanted))
            });
            let found = pools.find_map(|pool| match take(pool, wanted) {
                Ok(address) => Some((address, pool.subnet().prefix())),
                Err(error) => {
                    full = Some(error);
                    None
                }
            });
            let full = full.map(|error| match &error {
                hull_network::Error::Exhausted { .. } => {
                    let family = if is_ipv6 { "IPv6" } else { "IPv4" };
                    let (name, id) = (&self.network.name, &self.network.id);
                    let message = format!(
                        "no available {family} addresses on this network's address pools: {name} ({id})"
                    );
                    Error::new(crate::Kind::System, message)
                }
                hull_network::Error::AddressInUse { address } => {
                    Error::new(crate::Kind::Forbidden, format!("Address already in use: {address}"))
                }
                _ => error.into(),
            });
            match (found, full) {
                (Some((IpAddr::V4(address), prefix)), _) => leg.address4 = Some((address, prefix)),
                (Some((IpAddr::V6(address), prefix)), _) => leg.address6 = Some((address, prefix)),
                (None, Some(error)) => return Err(error),
                (None, None) => {
                    if let Some(address) = wanted {
                        return Err(endpoint::in_no_subnet(address));
                    }
                }
            }
        }
        Ok(())
    }

    /// The addresses of a place are free again.
    pub(super) fn give_back(&mut self, leg: &Leg) {
        for address in leg.addresses() {
            if let Some(pool) = self.pool_of(address) {
                pool.release(address);
            }
        }
    }

    /// The pool that an address is of.
    pub(super) fn pool_of(&mut self, address: IpAddr) -> Option<&mut hull_network::ipam::Pool> {
        self.pools.iter_mut().find(|pool| pool.subnet().contains(address))
    }
}

fn take(pool: &mut hull_network::ipam::Pool, asked: Option<IpAddr>) -> hull_network::Result<IpAddr> {
    match asked {
        None => pool.allocate(),
        Some(address) => pool.take(address).map(|()| address),
    }
}

impl Network {
    /// Whether its containers resolve each other: it is one of the user's own.
    pub(crate) fn is_user_defined(&self) -> bool {
        matches!(self.driver.as_str(), "bridge" | "macvlan" | "ipvlan") && self.name != "bridge"
    }
}

/// The name of an endpoint's end on the host: 40 random bits, so that among thousands there are no two. Empty where
/// there is no endpoint.
pub(super) fn host_name(endpoint_id: &str) -> String {
    endpoint_id.get(..10).map(|start| format!("veth{start}")).unwrap_or_default()
}

impl Leg {
    /// Where its interface stands among the others: the highest priority first, then by the network's name.
    pub(super) fn order(&self) -> (std::cmp::Reverse<i64>, &str) {
        (std::cmp::Reverse(self.priority), &self.network.name)
    }

    pub(super) fn resolves(&self) -> bool {
        self.network.is_user_defined()
    }

    /// The host end's name.
    pub(super) fn host_name(&self) -> String {
        host_name(&self.endpoint_id)
    }

    fn gateway4(&self) -> Option<Ipv4Addr> {
        let plan = self.plan.as_ref().filter(|plan| !plan.internal && !plan.routes_by_device())?;
        let (address, _) = self.address4?;
        plan.router4.or_else(|| match plan.gateway_of(address.into()) {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        })
    }

    fn gateway6(&self) -> Option<Ipv6Addr> {
        let plan = self.plan.as_ref().filter(|plan| !plan.internal && !plan.routes_by_device())?;
        let (address, _) = self.address6?;
        plan.router6.or_else(|| match plan.gateway_of(address.into()) {
            Some(IpAddr::V6(gateway)) => Some(gateway),
            _ => None,
        })
    }

    /// Whether the default route of a family that it has an address of leads to its interface itself.
    fn by_device(&self, has_address: bool) -> bool {
        has_address && self.plan.as_ref().is_some_and(|plan| plan.routes_by_device())
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let four = self.address4.map(|(address, _)| IpAddr::V4(address));
        let six = self.address6.map(|(address, _)| IpAddr::V6(address));
        four.into_iter().chain(six).collect()
    }

    pub(super) fn target(&self) -> ports::Target<'_> {
        let bridge = self.plan.as_ref().and_then(|plan| plan.bridge());
        ports::Target {
            routed4: bridge.is_some_and(|bridge| bridge.routed4),
            routed6: bridge.is_some_and(|bridge| bridge.routed6),
            trusts: bridge.is_some_and(|bridge| !bridge.trusted.is_empty()),
            bridge: bridge.map_or("", |bridge| &bridge.name),
            address4: self.address4.map(|(address, _)| address),
            address6: self.address6.map(|(address, _)| address),
            host_binding: self.plan.as_ref().and_then(|plan| plan.host_binding),
            relayed: false,
        }
    }

    /// The MAC address that nobody chose: of the IPv4 address, or of the endpoint's id, which is random.
    pub(super) fn own_mac(&self) -> [u8; 6] {
        match self.address4 {
            Some((address, _)) => mac_of(address),
            None => {
                let digits = u32::from_str_radix(&self.endpoint_id[..8], 16).unwrap_or_default();
                mac_of(Ipv4Addr::from_bits(digits))
            }
        }
    }

    pub(super) fn attachment(&self, name: &str) -> Attachment {
        let text = |address: Option<IpAddr>, prefix: Option<u8>| match (address, prefix) {
            (Some(address), Some(prefix)) => format!("{address}/{prefix}"),
            _ => String::new(),
        };
        Attachment {
            name: name.to_owned(),
            endpoint: self.endpoint_id.clone(),
            mac: self.mac_text(),
            address4: text(self.address4.map(|a| IpAddr::V4(a.0)), self.address4.map(|a| a.1)),
            address6: text(self.address6.map(|a| IpAddr::V6(a.0)), self.address6.map(|a| a.1)),
        }
    }

    fn mac_text(&self) -> String {
        // Those of ipvlan have their parent's.
        let own = self.plan.is_some() && self.network.driver != "ipvlan";
        if own { endpoint::mac_text(self.mac) } else { String::new() }
    }

    /// What was asked for with what it got, as inspect shows it.
    pub(super) fn settings(&self, asked: &EndpointSettings) -> EndpointSettings {
        let mut settings = EndpointSettings {
            ipam_config: asked.ipam_config.clone(),
            links: asked.links.clone(),
            aliases: asked.aliases.clone(),
            driver_opts: asked.driver_opts.clone(),
            gw_priority: asked.gw_priority,
            network_id: self.network.id.clone(),
            endpoint_id: self.endpoint_id.clone(),
            mac_address: self.mac_text(),
            dns_names: Some(self.names.clone()).filter(|names| !names.is_empty()),
            ..EndpointSettings::default()
        };
        if let Some((address, prefix)) = self.address4 {
            (settings.ip_address, settings.ip_prefix_len) = (address.to_string(), prefix);
            settings.gateway = self.gateway4().map(|gateway| gateway.to_string()).unwrap_or_default();
        }
        if let Some((address, prefix)) = self.address6 {
            (settings.global_ipv6_address, settings.global_ipv6_prefix_len) = (address.to_string(), prefix);
            settings.ipv6_gateway = self.gateway6().map(|gateway| gateway.to_string()).unwrap_or_default();
        }
        settings
    }
}

/// Every name of a container on a network: its own, its aliases, its id's beginning, its host name.
pub(super) fn all_names(name: &str, id: &str, hostname: &str, settings: &EndpointSettings) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let aliases = settings.aliases.iter().flatten().map(String::as_str);
    let short = id.get(..12).unwrap_or(id);
    for word in std::iter::once(name).chain(aliases).chain([short, hostname]) {
        if !word.is_empty() && !names.iter().any(|known| known == word) {
            names.push(word.to_owned());
        }
    }
    names
}
