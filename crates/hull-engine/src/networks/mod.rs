//! Networks: what they are to a user, who is on them, and who resolves whom.
//!
//! Three words for a container's place on networks: [`Networks::allocate`] decides (memory and `bind(2)`),
//! [`Networks::realise`] tells the kernel, [`Networks::running`] makes its names known.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_network::Fabric;

use crate::config::DaemonConfig;
use crate::database::Database;
use crate::events::Events;
use crate::model::{EndpointSettings, PortBinding};
use crate::{Error, Result};

/// A network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// `bridge`, `host` or `null`.
    pub driver: String,
}

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
}

/// A container's place on its networks. Dropped before [`Networks::running`], it undoes what was made; dropped later,
/// it leaves the kernel as it is (the daemon ends, the container does not).
pub(crate) struct Allocation {
    /// As inspect shows them, by the network's name.
    pub(crate) endpoints: BTreeMap<String, EndpointSettings>,
    /// `NetworkSettings.Ports`: an empty list is a port that is exposed and not published (`null` on the wire).
    pub(crate) ports: BTreeMap<String, Vec<PortBinding>>,
    /// The published host ports, bound: the shim holds them as long as the container runs.
    pub(crate) reserved: Vec<OwnedFd>,
}

/// A container that runs, as [`Networks::connect`] needs to know it.
pub(crate) struct Live<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// Its name, without a slash.
    pub(crate) name: &'a str,
    /// Its host name.
    pub(crate) hostname: &'a str,
    /// Its first process, on the host.
    pub(crate) pid: i32,
}

/// What a container's /etc/resolv.conf depends on.
pub(crate) struct Resolving<'a> {
    /// The names of its networks.
    pub(crate) networks: &'a [&'a str],
    /// `--dns`.
    pub(crate) dns: &'a [String],
    /// `--dns-search`.
    pub(crate) search: &'a [String],
    /// `--dns-option`.
    pub(crate) options: &'a [String],
}

/// The networks.
pub struct Networks {}

impl Networks {
    /// Opens the networks and makes the kernel have their bridges.
    pub(crate) fn open(
        _config: &DaemonConfig,
        _fabric: Arc<Fabric>,
        _database: Arc<Database>,
        _events: Arc<Events>,
    ) -> Result<Networks> {
        Ok(Networks {})
    }

    /// The network of that name, id or beginning of an id.
    pub fn resolve(&self, _name: &str) -> Result<Arc<Network>> {
        Err(Error::unsupported("this"))
    }

    /// Whether a container may be on that network with those settings; the network's name.
    pub(crate) fn check(&self, _network: &str, _settings: &EndpointSettings) -> Result<String> {
        Err(Error::unsupported("this"))
    }

    /// Decides about addresses and ports. Pure memory and `bind(2)`.
    pub(crate) fn allocate(&self, _joiner: &Joiner<'_>) -> Result<Allocation> {
        Err(Error::unsupported("this"))
    }

    /// Makes the namespace, its interfaces and the published ports. Blocks for a few milliseconds. Not for `host`.
    pub(crate) fn realise(&self, _allocation: &Allocation) -> Result<OwnedFd> {
        Err(Error::unsupported("this"))
    }

    /// The container runs: its names resolve, and it is answered where it asks. Called within the runtime.
    pub(crate) fn running(&self, _id: &str, _allocation: &Allocation, _pid: i32) -> Result<()> {
        Err(Error::unsupported("this"))
    }

    /// A container that an earlier daemon left running takes its place again. Called within the runtime.
    pub(crate) fn restore(
        &self,
        _live: &Live<'_>,
        _endpoints: &BTreeMap<String, EndpointSettings>,
        _ports: &BTreeMap<String, Vec<PortBinding>>,
    ) -> Result<Allocation> {
        Err(Error::unsupported("this"))
    }

    /// The container ended: its ports, addresses and names are free again.
    pub(crate) fn release(&self, _id: &str, _allocation: Allocation) -> Result<()> {
        Err(Error::unsupported("this"))
    }

    /// The container has another name now.
    pub(crate) fn renamed(&self, _allocation: &mut Allocation, _name: &str) {}

    /// Puts a running container on one more network; the engine keeps what is returned. Blocks for milliseconds.
    pub(crate) fn connect(
        &self,
        _network: &str,
        _live: &Live<'_>,
        _settings: &EndpointSettings,
        _allocation: &mut Allocation,
    ) -> Result<EndpointSettings> {
        Err(Error::unsupported("this"))
    }

    /// Takes a running container off a network. Blocks for milliseconds.
    pub(crate) fn disconnect(&self, _network: &str, _live: &Live<'_>, _allocation: &mut Allocation) -> Result<()> {
        Err(Error::unsupported("this"))
    }

    /// The text of /etc/resolv.conf.
    pub(crate) fn resolv_conf(&self, _resolving: &Resolving<'_>) -> Result<String> {
        Err(Error::unsupported("this"))
    }

    /// The text of /etc/hosts for a container with these endpoints (empty for `none` and `host`).
    pub(crate) fn hosts(
        &self,
        _endpoints: &BTreeMap<String, EndpointSettings>,
        _hostname: &str,
        _domainname: &str,
        _extra: &[String],
    ) -> Result<String> {
        Err(Error::unsupported("this"))
    }
}
