//! A place on a network that is no container's: a program's that was put there by hand (`hull ns run --net NAME`).

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::{Allocation, HostsOf, Joiner, Networks, Resolving};
use crate::container::random_id;
use crate::model::EndpointSettings;
use crate::{Error, Result};

/// A namespace with an address and names on one network. Dropped, it gives them back; the namespace lives on as long as
/// somebody is in it.
pub struct Place {
    namespace: OwnedFd,
    /// None when it was given back.
    allocation: Option<Allocation>,
    networks: Networks,
    /// The text of /etc/hosts there.
    pub hosts: String,
    /// The text of /etc/resolv.conf there.
    pub resolv_conf: String,
}

impl Networks {
    /// Makes a namespace on that network. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// There is no such network, it has no addresses (`host`, `none`) or none that is free, or the kernel refuses.
    pub fn place(&self, network: &str, name: Option<&str>) -> Result<Place> {
        let id = random_id();
        let name = name.map_or_else(|| format!("ns-{}", &id[..12]), str::to_owned);
        let network = self.check(network, &EndpointSettings::default())?;
        if matches!(network.as_str(), "host" | "none") {
            let message =
                format!("network {network} has no addresses to be given: a namespace alone is --net");
            return Err(Error::invalid(message));
        }
        let endpoints = BTreeMap::from([(network, EndpointSettings::default())]);
        let allocation = self.allocate(&Joiner {
            id: &id,
            name: &name,
            hostname: &name,
            endpoints: &endpoints,
            port_bindings: &BTreeMap::new(),
            exposed: &[],
            publish_all: false,
            dns: &[],
        })?;
        let namespace = self.realise(&allocation)?;
        let networks: Vec<&str> = allocation.endpoints.keys().map(String::as_str).collect();
        let resolv_conf =
            self.resolv_conf(&Resolving { networks: &networks, dns: &[], search: &[], options: &[] })?;
        let hosts = self.hosts(&HostsOf {
            endpoints: &allocation.endpoints,
            hostname: &name,
            domainname: "",
            extra: &[],
            linked: Vec::new(),
        })?;
        let networks = Networks { inner: self.inner.clone() };
        Ok(Place { namespace, allocation: Some(allocation), networks, hosts, resolv_conf })
    }
}

impl Place {
    /// Its names resolve from now on, and it is answered where it asks. Called within the runtime.
    ///
    /// # Errors
    /// As for a container.
    pub fn begin(&self) -> Result<()> {
        match &self.allocation {
            Some(allocation) => self.networks.running(&allocation.id, allocation, 0),
            None => Ok(()),
        }
    }

    /// The namespace's file: a way to it for whoever may look into this process.
    pub fn namespace(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// What it is on each network, by the network's name.
    pub fn endpoints(&self) -> BTreeMap<String, EndpointSettings> {
        self.allocation.as_ref().map(|allocation| allocation.endpoints.clone()).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(allocation) = self.allocation.take() {
            let id = allocation.id.clone();
            if let Err(error) = self.networks.release(&id, allocation) {
                tracing::warn!(%id, %error, "a place on a network could not be given back whole");
            }
        }
    }
}
