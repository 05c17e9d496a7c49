//! Networks: what they are to a user, who is on them, and who resolves whom.
//!
//! Three words for a container's way onto its networks: [`Networks::allocate`] decides (memory and `bind(2)`),
//! [`Networks::realise`] tells the kernel, [`Networks::running`] makes its names known.
//!
//! | file | what lives there |
//! |---|---|
//! | `configuration` | networks that are the configuration of others |
//! | `create` | what a network is asked to be, checked and completed; pure |
//! | `subnets` | the subnets that it is asked to have; pure |
//! | `default` | the default network, as the daemon's flags have it |
//! | `endpoint` | what a container asks of its place on one; pure |
//! | `ports` | published ports; `ports/answered`: those that shims answer at |
//! | `parent` | networks without a bridge: macvlan and ipvlan |
//! | `names` | who resolves whom |
//! | `files` | /etc/hosts and /etc/resolv.conf |
//! | `allocate` | a container's places, from the decision to their end |
//! | `leg` | one of them |
//! | `wiring` | the bridges and parents of networks, made and removed |
//! | `place` | a place that is no container's: a program's, by hand |
//! | `explain` | what a place consists of in the kernel |
//! | `live` | connect and disconnect while it runs, and a daemon that comes back |

mod allocate;
mod configuration;
mod create;
mod default;
mod endpoint;
mod explain;
mod files;
mod leg;
mod live;
mod names;
mod parent;
mod place;
mod plan;
mod ports;
mod subnets;
#[cfg(test)]
mod tests;
mod wiring;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_network::ipam::{DefaultPool, Pool, Pools};
use hull_network::{Fabric, PublishedBy, Subnet};
use serde_json::{Map, Value, json};

pub(crate) use allocate::{Allocation, Joiner};
pub use create::{Ipam, IpamConfig, Network, NetworkCreate};
pub(crate) use endpoint::has_own_mac;
pub use explain::{Element, Wire};
pub(crate) use files::{HostsOf, Resolving};
pub(crate) use live::Live;
pub use place::Place;

use crate::config::DaemonConfig;
use crate::container::{now_ns, random_id, rfc3339};
use crate::database::{Database, Table};
use crate::events::{self, Events};
use crate::filter::Filters;
use crate::model::EndpointSettings;
use crate::{Error, Kind, Result};

impl From<hull_network::Error> for Error {
    fn from(error: hull_network::Error) -> Error {
        let kind = match &error {
            hull_network::Error::Invalid(_) | hull_network::Error::OutsideSubnet { .. } => {
                Kind::InvalidParameter
            }
            hull_network::Error::AddressInUse { .. } => Kind::Forbidden,
            _ => Kind::System,
        };
        Error::new(kind, error.to_string())
    }
}

/// The networks.
pub struct Networks {
    inner: Arc<Inner>,
}

/// What the networks share with every container's [`Allocation`].
struct Inner {
    state: Mutex<State>,
    directory: Arc<names::Directory>,
    fabric: Arc<Fabric>,
    database: Arc<Database>,
    events: Arc<Events>,
    pools: Pools,
    /// The daemon's own `--dns` and its companions.
    dns: Vec<IpAddr>,
    dns_options: Vec<String>,
    dns_search: Vec<String>,
    /// What the daemon's `host-gateway-ip` stands for.
    host_gateways: Vec<IpAddr>,
    /// Options that networks have which do not set them, by driver.
    network_options: BTreeMap<String, BTreeMap<String, String>>,
    /// Shims answer by IPv6 at published ports.
    userland_proxy: bool,
    /// Held while parents are made and removed: deleting an interface takes tens of milliseconds, and no start waits for
    /// it as for the state. It is taken before the state is.
    parents: Mutex<()>,
    /// What the kernel had published when the daemon came, until [`Networks::settle`].
    found: Mutex<Vec<PublishedBy>>,
}

#[derive(Default)]
struct State {
    by_id: BTreeMap<String, Entry>,
    by_name: HashMap<String, String>,
}

/// A network and who is on it.
struct Entry {
    network: Arc<Network>,
    /// None: `host` and `none` have no interfaces and no addresses.
    plan: Option<Arc<plan::Plan>>,
    /// The addresses of its subnets.
    pools: Vec<Pool>,
    /// By the container's id.
    attached: BTreeMap<String, Attachment>,
}

/// A container on a network, as its inspect shows it.
struct Attachment {
    name: String,
    endpoint: String,
    mac: String,
    address4: String,
    address6: String,
}

impl Networks {
    /// Opens the networks and makes the kernel have their bridges. What the kernel has of networks that are no more is
    /// removed.
    ///
    /// # Errors
    /// A row, a setting of the daemon or a bridge cannot be.
    pub(crate) fn open(
        config: &DaemonConfig,
        fabric: Arc<Fabric>,
        database: Arc<Database>,
        events: Arc<Events>,
    ) -> Result<Networks> {
        let pools = match config.address_pools.as_slice() {
            [] => Pools::docker(),
            texts => {
                Pools::new(texts.iter().map(|text| text.parse::<DefaultPool>()).collect::<Result<_, _>>()?)
            }
        };
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            directory: Arc::default(),
            parents: Mutex::default(),
            found: Mutex::new(fabric.published()?),
            fabric,
            database,
            events,
            pools,
            dns: config.dns.clone(),
            dns_options: config.dns_options.clone(),
            dns_search: config.dns_search.clone(),
            host_gateways: config.host_gateways.clone(),
            network_options: config.network_options.clone(),
            userland_proxy: config.userland_proxy,
        });
        for network in inner.database.all::<Network>(Table::Networks)? {
            inner.state().insert(Arc::new(network))?;
        }
        inner.ensure_predefined(config)?;
        inner.ensure_wirings()?;
        Ok(Networks { inner })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.inner.state().by_id.len()
    }

    /// After every container that runs was restored: what the kernel publishes for others is taken back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn settle(&self) -> Result<()> {
        let found = std::mem::take(&mut *self.inner.found());
        for PublishedBy { owner, port } in found {
            tracing::info!(%owner, ?port, "a published port of a container that does not run is taken back");
            self.inner.fabric.unpublish(&owner, std::slice::from_ref(&port))?;
        }
        Ok(())
    }

    /// The network of that name, id or beginning of an id.
    ///
    /// # Errors
    /// There is none, or the beginning is that of several.
    pub fn resolve(&self, name: &str) -> Result<Arc<Network>> {
        Ok(Arc::clone(&self.inner.state().find(name)?.network))
    }

    /// Whether a container may be on that network with those settings; the network's name.
    ///
    /// # Errors
    /// There is no such network, or the settings cannot be, in Docker's words.
    pub(crate) fn check(&self, network: &str, settings: &EndpointSettings) -> Result<String> {
        let network = self.resolve(network)?;
        let within =
            |error: Error| Error::new(error.kind, format!("invalid endpoint settings:\n{}", error.message));
        endpoint::check(&network, settings).map_err(within)?;
        Ok(network.name.clone())
    }

    /// Makes a network. The second value is a warning, or empty.
    ///
    /// # Errors
    /// The name is taken (409), it is one of those that are always there, subnets overlap (403), a setting cannot be.
    pub fn create(&self, mut create: NetworkCreate) -> Result<Arc<Network>> {
        let taken = |name: &str| Error::conflict(format!("network with name {name} already exists"));
        let routes = hull_network::ipam::routes()?;
        let network = {
            let mut state = self.inner.state();
            if !create.name.is_empty()
                && !create::PREDEFINED.contains(&create.name.as_str())
                && state.by_name.contains_key(&create.name)
            {
                return Err(taken(&create.name));
            }
            if !create.config_from.network.is_empty() && !create.config_only {
                let from = state.configuration(&create.config_from.network)?;
                create.configure(&from)?;
            }
            let used = state.subnets();
            let created = rfc3339(now_ns());
            if !create.config_only {
                create.set_unset(&self.inner.network_options);
            }
            let network =
                Arc::new(create.complete(random_id(), created, &self.inner.pools, &used, &routes)?);
            state.check_wiring(&network)?;
            // In memory first, which keeps the name and the subnet; the row comes last.
            state.insert(Arc::clone(&network))?;
            network
        };
        if let Err(error) = self.inner.build(&network) {
            self.inner.state().remove(&network.id);
            return Err(error);
        }
        self.inner.publish("create", &network);
        Ok(network)
    }

    /// Removes a network that nobody is on.
    ///
    /// # Errors
    /// There is none, it is one of those that are always there, or containers are on it (403).
    pub fn remove(&self, name: &str) -> Result<()> {
        let network = {
            let mut state = self.inner.state();
            let entry = state.find(name)?;
            let network = Arc::clone(&entry.network);
            if create::PREDEFINED.contains(&network.name.as_str()) {
                let message = format!("{} is a pre-defined network and cannot be removed", network.name);
                return Err(Error::new(Kind::Forbidden, message));
            }
            if !entry.attached.is_empty() {
                let endpoint = |at: &Attachment| format!("name:{:?} id:{:?}", at.name, &at.endpoint[..12]);
                let endpoints: Vec<String> = entry.attached.values().map(endpoint).collect();
                return Err(Error::new(
                    Kind::Forbidden,
                    format!(
                        "error while removing network: network {} has active endpoints ({})",
                        network.name,
                        endpoints.join(", ")
                    ),
                ));
            }
            let depends = |other: &&Entry| network.config_only && other.network.config_from == network.name;
            if state.by_id.values().any(|other| depends(&other)) {
                let message = format!(
                    "error while removing network: configuration network {:?} is in use",
                    network.name
                );
                return Err(Error::new(Kind::Forbidden, message));
            }
            state.remove(&network.id);
            network
        };
        // The row first: a bridge without a row is removed when the daemon starts.
        self.inner.database.delete(Table::Networks, &network.id)?;
        if !network.config_only {
            self.inner.unmake(&network.id, &plan::plan(&network)?.wiring)?;
        }
        self.inner.publish("destroy", &network);
        Ok(())
    }

    /// The networks that pass the filters `dangling`, `driver`, `id`, `label`, `name`, `scope` and `type`, in the API's
    /// shape, by name.
    ///
    /// # Errors
    /// A filter that is not known.
    pub fn list(&self, filters: &Filters) -> Result<Vec<Value>> {
        filters.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let dangling = filters.boolean("dangling")?;
        if let Some(kind) =
            filters.values("type").iter().find(|kind| !matches!(kind.as_str(), "builtin" | "custom"))
        {
            return Err(Error::invalid(format!("invalid filter 'type={kind}'")));
        }
        let state = self.inner.state();
        let passes = |entry: &&Entry| {
            let network = &entry.network;
            let predefined = create::PREDEFINED.contains(&network.name.as_str());
            filters.any_exact("driver", &network.driver)
                && filters.any_match("id", &network.id)
                && filters.any_match("name", &network.name)
                && filters.any_exact("scope", "local")
                && filters.any_exact("type", if predefined { "builtin" } else { "custom" })
                && filters.labels(&network.labels)
                && dangling.is_none_or(|dangling| dangling == (entry.attached.is_empty() && !predefined))
        };
        let mut entries: Vec<&Entry> = state.by_id.values().filter(passes).collect();
        entries.sort_by(|one, other| one.network.name.cmp(&other.network.name));
        Ok(entries.into_iter().map(Entry::summary).collect())
    }

    /// A network in the API's shape, with the containers that are on it.
    ///
    /// # Errors
    /// There is none, or the beginning of an id is that of several.
    pub fn inspect(&self, name: &str) -> Result<Value> {
        let state = self.inner.state();
        Ok(state.find(name)?.inspect())
    }

    /// Removes the networks that nobody is on and that pass the filters `label`, `label!` and `until`; their names.
    ///
    /// # Errors
    /// A filter that is not known, or the kernel refuses.
    pub fn prune(&self, filters: &Filters) -> Result<Vec<String>> {
        filters.only(&["label", "label!", "until"])?;
        let until = filters.until()?;
        let candidates: Vec<Arc<Network>> = {
            let state = self.inner.state();
            let passes = |entry: &&Entry| {
                entry.attached.is_empty()
                    && !entry.network.config_only
                    && !create::PREDEFINED.contains(&entry.network.name.as_str())
                    && filters.labels(&entry.network.labels)
                    && until.is_none_or(|until| crate::system::parse_rfc3339(&entry.network.created) < until)
            };
            state.by_id.values().filter(passes).map(|entry| Arc::clone(&entry.network)).collect()
        };
        let mut removed = Vec::new();
        for network in candidates {
            match self.remove(&network.id) {
                Ok(()) => removed.push(network.name.clone()),
                // Someone joined or removed it meanwhile.
                Err(error) if matches!(error.kind, Kind::Forbidden | Kind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.inner.events.publish(
            events::Kind::Network,
            "prune",
            "",
            BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]),
        );
        removed.sort();
        Ok(removed)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> MutexGuard<'_, Vec<PublishedBy>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a network, in memory and in the database.
    fn keep(&self, network: Network) -> Result<()> {
        self.state().insert(Arc::new(network.clone()))?;
        self.database.put(Table::Networks, &network.id, &network)
    }

    /// Tells of a network itself; who comes and goes is told by the containers.
    fn publish(&self, action: &str, network: &Network) {
        let attributes = BTreeMap::from([
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.driver.clone()),
        ]);
        self.events.publish(events::Kind::Network, action, &network.id, attributes);
    }

    /// Who is asked for names that are not ours: the container's `--dns`, the daemon's, or the host's.
    fn upstreams(&self, dns: &[String]) -> Result<Vec<SocketAddr>> {
        let own = files::servers(dns)?;
        let servers = match (own.is_empty(), self.dns.is_empty()) {
            (false, _) => own,
            (true, false) => self.dns.clone(),
            (true, true) => hull_network::dns::host_resolvers().nameservers,
        };
        Ok(servers.into_iter().map(|server| SocketAddr::new(server, 53)).collect())
    }
}

impl State {
    fn insert(&mut self, network: Arc<Network>) -> Result<()> {
        let mut pools = Vec::new();
        let plan = match network.driver.as_str() {
            "host" | "null" => None,
            _ => {
                let mut plan = plan::plan(&network)?;
                pools = std::mem::take(&mut plan.pools);
                Some(Arc::new(plan))
            }
        };
        self.by_name.insert(network.name.clone(), network.id.clone());
        self.by_id.insert(network.id.clone(), Entry { network, plan, pools, attached: BTreeMap::new() });
        Ok(())
    }

    fn remove(&mut self, id: &str) {
        if let Some(entry) = self.by_id.remove(id) {
            self.by_name.remove(&entry.network.name);
        }
    }

    fn find(&self, name: &str) -> Result<&Entry> {
        // Clients call the default network so, too.
        let name = if name == "default" { "bridge" } else { name };
        if let Some(entry) =
            self.by_name.get(name).or(Some(&name.to_owned())).and_then(|id| self.by_id.get(id))
        {
            return Ok(entry);
        }
        let mut alike = self.by_id.range(name.to_owned()..).take_while(|(id, _)| id.starts_with(name));
        match (alike.next(), alike.next()) {
            (Some((_, entry)), None) if !name.is_empty() => Ok(entry),
            (Some(_), Some(_)) if !name.is_empty() => Err(Error::invalid(format!(
                "network {name} is ambiguous: it is the beginning of several ids"
            ))),
            _ => Err(Error::not_found(format!("network {name} not found"))),
        }
    }

    fn find_mut(&mut self, name: &str) -> Result<&mut Entry> {
        let id = self.find(name)?.network.id.clone();
        self.by_id.get_mut(&id).ok_or_else(|| Error::not_found(format!("network {name} not found")))
    }

    fn subnets(&self) -> Vec<Subnet> {
        let plans = self.by_id.values().filter_map(|entry| entry.plan.as_deref());
        plans.flat_map(|plan| plan.subnets.iter().map(|(subnet, _)| *subnet)).collect()
    }
}

impl Entry {
    fn summary(&self) -> Value {
        let mut members = match serde_json::to_value(&*self.network) {
            Ok(Value::Object(members)) => members,
            _ => Map::new(),
        };
        for own in ["hull.Configured", "hull.ConfigOnly", "hull.ConfigFrom"] {
            members.shift_remove(own);
        }
        members.insert("Scope".to_owned(), json!("local"));
        members.insert("Ingress".to_owned(), json!(false));
        members.insert("ConfigFrom".to_owned(), json!({ "Network": self.network.config_from }));
        members.insert("ConfigOnly".to_owned(), json!(self.network.config_only));
        members.insert("Containers".to_owned(), json!({}));
        Value::Object(members)
    }

    fn inspect(&self) -> Value {
        let mut value = self.summary();
        let containers: Map<String, Value> =
            self.attached.iter().map(|(id, attachment)| (id.clone(), attachment.shown())).collect();
        value["Containers"] = Value::Object(containers);
        let status = |pool: &Pool| {
            let subnet = pool.subnet();
            let bits = (if subnet.base().is_ipv6() { 128u32 } else { 32 }) - u32::from(subnet.prefix());
            let all = 1u64.checked_shl(bits).unwrap_or(u64::MAX);
            // The network's own address and, with IPv4, the broadcast's are never given.
            let used = pool.taken().saturating_add(if subnet.base().is_ipv6() { 1 } else { 2 });
            (subnet.to_string(), json!({ "IPsInUse": used, "DynamicIPsAvailable": all.saturating_sub(used) }))
        };
        let subnets: Map<String, Value> = self.pools.iter().map(status).collect();
        value["Status"] = json!({ "IPAM": { "Subnets": subnets } });
        value
    }
}

impl Attachment {
    fn shown(&self) -> Value {
        json!({
            "Name": self.name,
            "EndpointID": self.endpoint,
            "MacAddress": self.mac,
            "IPv4Address": self.address4,
            "IPv6Address": self.address6,
        })
    }
}

impl Network {
    fn plain(name: &str, driver: &str) -> Network {
        Network {
            name: name.to_owned(),
            id: random_id(),
            created: rfc3339(now_ns()),
            driver: driver.to_owned(),
            enable_ipv4: true,
            enable_ipv6: false,
            ipam: Ipam { driver: "default".to_owned(), options: None, config: Vec::new() },
            internal: false,
            attachable: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            configured: false,
            config_only: false,
            config_from: String::new(),
            left_out: Vec::new(),
        }
    }
}
