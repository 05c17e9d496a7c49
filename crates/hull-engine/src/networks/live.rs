//! Connect and disconnect while a container runs, and the return of a daemon that was away.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hull_network::{Endpoint, Published, dns, netns};

use super::allocate::{Allocation, Answering};
use super::leg::{Leg, all_names};
use super::{Networks, endpoint, ports};
use crate::model::{EndpointSettings, PortBinding};
use crate::{Error, Kind, Result};

/// A container that runs.
pub(crate) struct Live<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// Its name, without a slash.
    pub(crate) name: &'a str,
    /// Its host name.
    pub(crate) hostname: &'a str,
    /// Its first process, on the host.
    pub(crate) pid: i32,
    /// `--dns`.
    pub(crate) dns: &'a [String],
}

impl Networks {
    /// A container that an earlier daemon left running takes its places again: its addresses and ports are marked, its
    /// names resolve, it is answered again, and what of its ports the kernel no longer publishes is published. Called
    /// within the runtime.
    ///
    /// # Errors
    /// One of its networks is gone, or its namespace cannot be entered.
    pub(crate) fn restore(
        &self,
        live: &Live<'_>,
        endpoints: &BTreeMap<String, EndpointSettings>,
        ports: &BTreeMap<String, Vec<PortBinding>>,
    ) -> Result<Allocation> {
        let mut allocation = Allocation::empty(&self.inner, live.id, live.name, live.dns);
        // Whatever fails from here on, the container runs: nothing of it may be undone.
        allocation.live.store(true, Ordering::Relaxed);
        for (name, settings) in endpoints {
            allocation.rejoin(name, settings)?;
        }
        allocation.find_interfaces(live.pid)?;
        allocation.legs.sort_by(|one, other| one.order().cmp(&other.order()));
        allocation.name_interfaces();
        allocation.ports.clone_from(ports);
        if let Some(leg) = allocation.publisher() {
            allocation.published = ports::again(ports, &leg.target())?;
        }
        self.adopt(&allocation)?;
        allocation.enter_names();
        if allocation.resolves() {
            allocation.listen(live.pid)?;
            allocation.serve();
        }
        Ok(allocation)
    }

    /// Publishes what of a container's ports the kernel has not, and forgets what it has among those that
    /// [`Networks::settle`] takes back.
    fn adopt(&self, allocation: &Allocation) -> Result<()> {
        let mut missing: Vec<Published> = Vec::new();
        {
            let mut found = self.inner.found();
            for port in &allocation.published {
                match found.iter().position(|by| by.owner == allocation.id && same(&by.port, port)) {
                    Some(index) => drop(found.swap_remove(index)),
                    None => missing.push(port.clone()),
                }
            }
        }
        if !missing.is_empty() {
            tracing::warn!(
                container = allocation.id,
                ports = missing.len(),
                "published again what the kernel had lost"
            );
            allocation.publish(&missing)?;
        }
        Ok(())
    }

    /// Puts a running container on one more network; the engine keeps what is returned. Blocks for milliseconds.
    /// Called within the runtime.
    ///
    /// # Errors
    /// There is no such network, the container is on it already (403), the settings cannot be, or the kernel refuses.
    pub(crate) fn connect(
        &self,
        network: &str,
        live: &Live<'_>,
        settings: &EndpointSettings,
        allocation: &mut Allocation,
    ) -> Result<EndpointSettings> {
        let network = self.resolve(network)?;
        let joins_none = matches!(network.driver.as_str(), "host" | "null");
        if joins_none || allocation.legs.iter().any(|leg| leg.network.driver == "host") {
            return Err(Error::new(
                Kind::InvalidParameter,
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        let namespace = namespace(live.pid)?;
        let before = allocation.wired();
        allocation.join(&network.name, settings, all_names(live.name, live.id, live.hostname, settings))?;
        allocation.name_interfaces();
        allocation.legs.sort_by(|one, other| one.order().cmp(&other.order()));
        if let Err(error) =
            allocation.rewire(&namespace, &before).and_then(|()| allocation.listen_if_needed(live.pid))
        {
            let half_made = allocation.wired();
            let joined = |leg: &&Leg| leg.network.id == network.id;
            let joined = allocation.legs.iter().find(joined).and_then(|leg| allocation.endpoint(leg));
            // Its interface may be there, or not yet.
            let detached = joined.map(|end| self.inner.fabric.detach(namespace.as_fd(), &end, &half_made));
            if let Some(Err(error)) = detached {
                tracing::error!(container = live.id, %error, "an interface of a network that failed stays");
            }
            allocation.part(&network.name);
            if let Err(error) = allocation.rewire(&namespace, &half_made) {
                tracing::error!(container = live.id, %error, "a container's routes are not as they were");
            }
            return Err(error);
        }
        allocation.enter_names();
        allocation.serve();
        let settings = allocation.endpoints.get(&network.name).cloned();
        settings.ok_or_else(|| Error::not_found(format!("network {} not found", network.name)))
    }

    /// Takes a running container off a network. Blocks for milliseconds.
    ///
    /// # Errors
    /// There is no such network, the container is not on it, it is the host's, or the kernel refuses.
    pub(crate) fn disconnect(
        &self,
        network: &str,
        live: &Live<'_>,
        allocation: &mut Allocation,
    ) -> Result<()> {
        let network = self.resolve(network)?;
        if network.driver == "host" {
            return Err(Error::new(
                Kind::InvalidParameter,
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        let Some(leg) = allocation.legs.iter().find(|leg| leg.network.id == network.id) else {
            return Err(Error::new(
                Kind::System,
                format!("container {} is not connected to network {}", live.id, network.name),
            ));
        };
        let endpoint = allocation.endpoint(leg);
        let namespace = namespace(live.pid)?;
        let before = allocation.wired();
        if let Some(endpoint) = endpoint {
            self.inner.fabric.detach(namespace.as_fd(), &endpoint, &before)?;
        }
        allocation.part(&network.name);
        allocation.rewire(&namespace, &before)?;
        allocation.enter_names();
        if !allocation.resolves() {
            allocation.fall_silent();
        }
        Ok(())
    }
}

impl Allocation {
    /// Takes a place again that was taken before, with the addresses that inspect showed.
    fn rejoin(&mut self, network: &str, settings: &EndpointSettings) -> Result<()> {
        let leg = {
            let mut state = self.inner.state();
            let entry = state.find_mut(network)?;
            let asked = endpoint::check(&entry.network, settings).unwrap_or_default();
            let mut leg = Leg {
                network: Arc::clone(&entry.network),
                plan: entry.plan.clone(),
                endpoint_id: settings.endpoint_id.clone(),
                interface: asked.interface.unwrap_or_default(),
                mac: endpoint::mac(&settings.mac_address).unwrap_or_default(),
                address4: settings.ip_address.parse().ok().map(|address| (address, settings.ip_prefix_len)),
                address6: (settings.global_ipv6_address.parse().ok())
                    .map(|address| (address, settings.global_ipv6_prefix_len)),
                link_local: asked.link_local,
                sysctls: asked.sysctls,
                links: asked.links,
                priority: settings.gw_priority,
                names: settings.dns_names.clone().unwrap_or_default(),
            };
            if settings.mac_address.is_empty() {
                leg.mac = leg.own_mac();
            }
            for address in leg.addresses() {
                if let Some(pool) = entry.pool_of(address)
                    && let Err(error) = pool.take(address)
                {
                    tracing::warn!(container = self.id, %address, %error, "a running container's address is not its own");
                }
            }
            entry.attached.insert(self.id.clone(), leg.attachment(&self.name));
            leg
        };
        self.endpoints.insert(leg.network.name.clone(), settings.clone());
        self.legs.push(leg);
        Ok(())
    }

    /// Finds what its interfaces are called: their order is that in which it joined, which is not known any more. The
    /// host end's name is that of the endpoint, and the other end knows its index.
    fn find_interfaces(&mut self, pid: i32) -> Result<()> {
        if self.legs.iter().all(|leg| leg.plan.is_none()) {
            return Ok(());
        }
        let namespace = namespace(pid)?;
        let inside = netns::inside(namespace.as_fd())?;
        let all = self.wired();
        for endpoint in &all {
            let found = self.inner.fabric.find_endpoint(&inside, endpoint, &all);
            let leg = self.legs.iter_mut().find(|leg| leg.host_name() == endpoint.host_name);
            match (leg, found) {
                (Some(leg), Some(interface)) => leg.interface.clone_from(&interface.name),
                (Some(leg), None) => {
                    tracing::warn!(container = self.id, network = leg.network.name, "its interface is gone")
                }
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// What the kernel has, or is to have, of its places.
    fn wired(&self) -> Vec<Endpoint> {
        self.legs.iter().filter_map(|leg| self.endpoint(leg)).collect()
    }

    /// Brings the kernel from these endpoints to those of now; those that left were detached before. An interface stays
    /// what it is when it gets or loses a default route: what goes through it goes on. Ports are published of the address
    /// that has the default route now.
    fn rewire(&mut self, namespace: &File, before: &[Endpoint]) -> Result<()> {
        let fabric = &self.inner.fabric;
        let now = self.wired();
        let inside = netns::inside(namespace.as_fd())?;
        for endpoint in &now {
            let known = before.iter().find(|old| old.host_name == endpoint.host_name);
            // One that the container has removed is made again where something changes.
            let lost = known.is_some_and(|old| old != endpoint)
                && fabric.find_endpoint(&inside, endpoint, &now).is_none();
            if lost {
                fabric.detach(namespace.as_fd(), endpoint, &now)?;
            }
            if lost || known.is_none() {
                fabric.attach(namespace.as_fd(), &endpoint.without_default_routes())?;
            }
        }
        fabric.reroute(namespace.as_fd(), before, &now)?;
        let wanted = match self.publisher() {
            Some(leg) => ports::again(&self.ports, &leg.target())?,
            None => Vec::new(),
        };
        if wanted != self.published {
            fabric.unpublish(&self.id, &std::mem::take(&mut self.published))?;
            self.publish(&wanted)?;
            self.published = wanted;
        }
        Ok(())
    }

    /// A container that came to its first network with names is answered from now on.
    fn listen_if_needed(&self, pid: i32) -> Result<()> {
        let silent = matches!(*self.answering(), Answering::Not);
        if silent && self.resolves() { self.listen(pid) } else { Ok(()) }
    }

    /// Binds the sockets of its name responder.
    fn listen(&self, pid: i32) -> Result<()> {
        *self.answering() = Answering::Bound(dns::listen(namespace(pid)?.as_fd())?);
        Ok(())
    }
}

/// A running container's network namespace.
fn namespace(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/ns/net");
    File::open(&path)
        .map_err(|error| Error::system(format_args!("open the container's network namespace {path}"), error))
}

/// Whether the kernel's published port is this one: it knows no difference between no address and the unspecified one.
fn same(kernels: &Published, ours: &Published) -> bool {
    let specific = |address: Option<IpAddr>| address.filter(|address| !address.is_unspecified());
    specific(kernels.host_address) == specific(ours.host_address)
        && kernels.protocol == ours.protocol
        && kernels.host_port == ours.host_port
        && kernels.container_address == ours.container_address
        && kernels.container_port == ours.container_port
}
