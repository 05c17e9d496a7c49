//! A container's places on its networks, from the decision to their end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_network::dns::Sockets;
use hull_network::{Endpoint, OnParent, Published, dns};
use hull_runtime::protocol::Relay;

use super::leg::{Leg, all_names};
use super::{Inner, Networks, names, plan, ports};
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

    /// Makes the namespace, unless there is one `inside`, its interfaces and the published ports. Blocks for a few
    /// milliseconds. Not for `host`,
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
            allocation.publish(&allocation.published)?;
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

    /// Has the firewall lead to ports of it.
    pub(super) fn publish(&self, ports: &[Published]) -> Result<()> {
        self.inner.fabric.publish(&self.id, ports).map_err(|error| ports::told(error, &self.ports))
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
