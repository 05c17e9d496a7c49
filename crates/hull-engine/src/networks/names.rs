//! Who resolves whom: the names of the containers that run, by network.
//!
//! A container is answered with the names of its own networks and of no other. Read from the runtime's threads by the
//! DNS responders, so nothing here waits for the kernel or the disk.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use hull_network::dns::Names;

/// The names of one daemon's networks.
#[derive(Default)]
pub(super) struct Directory {
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    /// By the network's id.
    networks: HashMap<String, NameTable>,
    /// By the container's id: who may ask.
    scopes: HashMap<String, Scope>,
}

#[derive(Default)]
struct NameTable {
    network: String,
    /// A name, in lower case, and who has it: several containers may share an alias.
    addresses: HashMap<String, Vec<Holder>>,
    names: HashMap<IpAddr, String>,
}

struct Holder {
    container: String,
    addresses: Vec<IpAddr>,
}

/// What one container sees.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    /// Its networks' ids, in the order in which they are asked.
    pub(super) networks: Vec<String>,
    /// By the network's id: aliases of its own, and whom they mean there.
    pub(super) links: HashMap<String, HashMap<String, String>>,
    /// Who is asked for other names; none: they do not exist.
    pub(super) upstreams: Vec<SocketAddr>,
}

impl Directory {
    /// Makes a container's names known on a network.
    pub(super) fn enter(
        &self,
        network: (&str, &str),
        container: &str,
        names: &[String],
        addresses: &[IpAddr],
    ) {
        let mut tables = self.write();
        let (id, name) = network;
        let table = tables.networks.entry(id.to_owned()).or_default();
        table.network = name.to_ascii_lowercase();
        for name in names {
            let holders = table.addresses.entry(name.to_ascii_lowercase()).or_default();
            holders.retain(|holder| holder.container != container);
            holders.push(Holder { container: container.to_owned(), addresses: addresses.to_vec() });
        }
        if let Some(first) = names.first() {
            for address in addresses {
                table.names.insert(*address, format!("{first}.{name}"));
            }
        }
    }

    /// Forgets a container's names on a network.
    pub(super) fn leave(&self, network: &str, container: &str, names: &[String], addresses: &[IpAddr]) {
        let mut tables = self.write();
        let Some(table) = tables.networks.get_mut(network) else { return };
        for name in names {
            let name = name.to_ascii_lowercase();
            if let Some(holders) = table.addresses.get_mut(&name) {
                holders.retain(|holder| holder.container != container);
                if holders.is_empty() {
                    table.addresses.remove(&name);
                }
            }
        }
        for address in addresses {
            table.names.remove(address);
        }
        if table.addresses.is_empty() && table.names.is_empty() {
            tables.networks.remove(network);
        }
    }

    /// Says what a container sees.
    pub(super) fn set_scope(&self, container: &str, scope: Scope) {
        self.write().scopes.insert(container.to_owned(), scope);
    }

    /// The container asks no more.
    pub(super) fn drop_scope(&self, container: &str) {
        self.write().scopes.remove(container);
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Scope {
    /// Whom a name means for this container alone.
    fn meant(&self, network: &str, table: &NameTable, name: &str) -> Option<String> {
        let links = self.links.get(network)?;
        let short = || name.strip_suffix(&table.network)?.strip_suffix('.');
        let target = |name: &str| {
            links.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)).map(|(_, target)| target)
        };
        target(name).or_else(|| target(short()?)).map(|target| target.to_ascii_lowercase())
    }
}

impl NameTable {
    /// The addresses of `web`, also as `web.network`.
    fn find(&self, name: &str) -> Option<Vec<IpAddr>> {
        let short = || name.strip_suffix(&self.network)?.strip_suffix('.');
        let holders = self.addresses.get(name).or_else(|| self.addresses.get(short()?))?;
        Some(holders.iter().flat_map(|holder| holder.addresses.iter().copied()).collect())
    }
}

impl Names for Directory {
    fn lookup(&self, scope: &str, name: &str) -> Option<Vec<IpAddr>> {
        let tables = self.read();
        let scope = tables.scopes.get(scope)?;
        scope.networks.iter().find_map(|network| {
            let table = tables.networks.get(network)?;
            table.find(scope.meant(network, table, name).as_deref().unwrap_or(name))
        })
    }

    fn reverse(&self, scope: &str, address: IpAddr) -> Option<String> {
        let tables = self.read();
        let networks = &tables.scopes.get(scope)?.networks;
        networks
            .iter()
            .filter_map(|network| tables.networks.get(network)?.names.get(&address))
            .next()
            .cloned()
    }

    fn upstreams(&self, scope: &str) -> Vec<SocketAddr> {
        self.read().scopes.get(scope).map(|scope| scope.upstreams.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_container_sees_the_names_of_its_own_networks_only() {
        let directory = Directory::default();
        directory.enter(("n1", "front"), "c1", &words(&["Web", "alias"]), &[address("10.0.0.2")]);
        directory.enter(("n2", "back"), "c2", &words(&["db"]), &[address("10.1.0.2")]);
        directory.set_scope("c1", Scope { networks: words(&["n1"]), ..Scope::default() });
        assert_eq!(directory.lookup("c1", "web"), Some(vec![address("10.0.0.2")]));
        assert_eq!(directory.lookup("c1", "web.front"), Some(vec![address("10.0.0.2")]));
        assert_eq!(directory.lookup("c1", "web.back"), None);
        assert_eq!(directory.lookup("c1", "db"), None);
        assert_eq!(directory.lookup("stranger", "web"), None);
        assert_eq!(directory.reverse("c1", address("10.0.0.2")).as_deref(), Some("Web.front"));
        assert_eq!(directory.reverse("c1", address("10.1.0.2")), None);
    }

    #[test]
    fn a_link_is_an_alias_of_one_container_alone() {
        let directory = Directory::default();
        directory.enter(("n", "net"), "c1", &words(&["db"]), &[address("10.0.0.2")]);
        let links = HashMap::from([("n".to_owned(), HashMap::from([("Data".to_owned(), "DB".to_owned())]))]);
        directory.set_scope("c2", Scope { networks: words(&["n"]), links, ..Scope::default() });
        directory.set_scope("c3", Scope { networks: words(&["n"]), ..Scope::default() });
        for name in ["data", "data.net", "db"] {
            assert_eq!(directory.lookup("c2", name), Some(vec![address("10.0.0.2")]), "{name}");
        }
        assert_eq!(directory.lookup("c3", "data"), None);
    }

    #[test]
    fn containers_may_share_a_name_and_leave_one_by_one() {
        let directory = Directory::default();
        directory.set_scope("c1", Scope { networks: words(&["n"]), ..Scope::default() });
        directory.enter(("n", "net"), "c1", &words(&["a", "shared"]), &[address("10.0.0.2")]);
        directory.enter(("n", "net"), "c2", &words(&["b", "shared"]), &[address("10.0.0.3")]);
        assert_eq!(directory.lookup("c1", "shared").unwrap().len(), 2);
        directory.leave("n", "c2", &words(&["b", "shared"]), &[address("10.0.0.3")]);
        assert_eq!(directory.lookup("c1", "shared"), Some(vec![address("10.0.0.2")]));
        directory.leave("n", "c1", &words(&["a", "shared"]), &[address("10.0.0.2")]);
        assert!(directory.read().networks.is_empty());
    }
}
