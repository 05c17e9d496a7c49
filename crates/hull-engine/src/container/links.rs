//! Links of the old kind (`--link`): on the default network one container learns of another by its /etc/hosts and by
//! environment variables. On a network of one's own a link is an alias that one container alone resolves, and belongs
//! to its place there ([`crate::networks`]).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::files::{LineOf, LinkLine};
use super::{Container, Record};
use crate::model::{EndpointSettings, HostConfig};
use crate::{Engine, Error, Kind, Result};

/// The network that links are of.
const DEFAULT: &str = "bridge";

/// That a container knows another one by an alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// The other's id: a rename of it changes nothing.
    pub(super) target: String,
    /// What the other was called when the link was made; shown when it is no more.
    pub(super) name: String,
    /// Its name in /etc/hosts and in the names of the variables.
    pub(super) alias: String,
}

#[cfg(test)]
impl Link {
    /// A link whose target has the id and the name that the alias is, too.
    pub(super) fn plain(target: &str) -> Link {
        Link { target: target.to_owned(), name: target.to_owned(), alias: target.to_owned() }
    }
}

/// What a container that starts is told of one that it is linked to.
pub(super) struct Linked {
    /// The line of /etc/hosts.
    pub(super) hosts: LinkLine,
    /// The variables.
    pub(super) environment: Vec<String>,
}

/// `NAME`, `NAME:ALIAS`, and `/NAME:/CONTAINER/ALIAS` as inspect shows it.
///
/// # Errors
/// It is none of them, in Docker's words.
pub(crate) fn parse(text: &str) -> Result<(&str, &str)> {
    if text.is_empty() {
        return Err(Error::invalid("empty string specified for links"));
    }
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    if alias.contains(':') {
        return Err(Error::invalid(format!("bad format for links: {text}")));
    }
    let plain = name.strip_prefix('/').unwrap_or(name);
    let alias = if name.starts_with('/') { alias.rsplit('/').next().unwrap_or(alias) } else { alias };
    if plain.is_empty() || alias.is_empty() || alias.contains(|letter: char| letter.is_whitespace()) {
        return Err(Error::invalid(format!("bad format for links: {text}")));
    }
    Ok((plain, alias))
}

impl Engine {
    /// The links that a new container asks for. On a network of one's own they become those of its place there.
    ///
    /// # Errors
    /// One is none, leads to no container, or the network's mode knows no links.
    pub(super) fn take_links(
        &self,
        host: &mut HostConfig,
        endpoints: &mut BTreeMap<String, EndpointSettings>,
    ) -> Result<Vec<Link>> {
        let Some(asked) = host.links.take().filter(|links| !links.is_empty()) else { return Ok(Vec::new()) };
        let mode = host.network_mode.as_str();
        if mode == "host" {
            return Err(conflict("host type networking"));
        }
        if mode.starts_with("container:") {
            return Err(conflict("container type network"));
        }
        if !matches!(mode, "none" | DEFAULT) {
            for link in &asked {
                parse(link)?;
            }
            // Clients that name it in both places mean one link.
            let network = self.networks.resolve(mode).map(|network| network.name.clone());
            if let Some(settings) = endpoints.get_mut(network.as_deref().unwrap_or(mode)) {
                let links = settings.links.get_or_insert_default();
                links.extend(asked.into_iter().filter(|link| !links.contains(link)).collect::<Vec<_>>());
            }
            return Ok(Vec::new());
        }
        let mut links: Vec<Link> = Vec::new();
        for text in &asked {
            let link = self.link(text)?;
            if links.iter().any(|known| known.alias == link.alias) {
                // As in Docker the first one keeps the alias.
                tracing::warn!(
                    alias = link.alias,
                    "two links of a container have one alias; the second is left out"
                );
                continue;
            }
            links.push(link);
        }
        Ok(links)
    }

    fn link(&self, text: &str) -> Result<Link> {
        let (name, alias) = parse(text)?;
        let missing = |error: Error| {
            // Not as "not found": clients would take the image for the missing one and pull it.
            let kind = if error.kind == Kind::NotFound { Kind::InvalidParameter } else { error.kind };
            Error::new(kind, format!("could not get container for {name}: {}", error.message))
        };
        let mut target = self.container(name).map_err(missing)?;
        loop {
            let mode = target.record().host_config.network_mode.clone();
            match mode.strip_prefix("container:") {
                Some(other) => target = self.container(other).map_err(missing)?,
                None if mode == "host" => return Err(conflict("host type networking")),
                None => break,
            }
        }
        let name = target.record().name.clone();
        Ok(Link { target: target.id.clone(), name, alias: alias.to_owned() })
    }

    /// What a container that starts is told of those that it is linked to.
    ///
    /// # Errors
    /// One of them does not run, or is not on the default network.
    pub(super) fn linked(&self, record: &Record) -> Result<Vec<Linked>> {
        if !self.has_links(record) {
            return Ok(Vec::new());
        }
        record.links.iter().map(|link| self.linked_one(record, link)).collect()
    }

    /// The same of a container that runs: of whom it is linked to one or another may have ended since.
    pub(super) fn linked_running(&self, record: &Record) -> Vec<Linked> {
        if !self.has_links(record) {
            return Vec::new();
        }
        record.links.iter().filter_map(|link| self.linked_one(record, link).ok()).collect()
    }

    /// Whether it is where links are of any use.
    pub(super) fn has_links(&self, record: &Record) -> bool {
        !record.links.is_empty() && record.endpoints.contains_key(DEFAULT)
    }

    fn linked_one(&self, record: &Record, link: &Link) -> Result<Linked> {
        let full = format!("/{}/{}", record.name, link.alias);
        let stopped = |name: &str| {
            Err(Error::new(
                Kind::System,
                format!("Cannot link to a non running container: /{name} AS {full}"),
            ))
        };
        let Ok(target) = self.container(&link.target) else { return stopped(&link.name) };
        let target = target.record().clone();
        if !target.is_running() {
            return stopped(&target.name);
        }
        let Some(address) = default_address(&target) else {
            return Err(Error::new(
                Kind::System,
                format!("Cannot link to /{}, as it does not belong to the default network", target.name),
            ));
        };
        let ports: Vec<&str> =
            target.config.exposed_ports.iter().flatten().map(|(port, _)| port.as_str()).collect();
        let own = target.config.env.as_deref().unwrap_or_default();
        Ok(Linked {
            hosts: (address, hosts_names(&link.alias, &target)),
            environment: environment(&link.alias, &full, address, &ports, own),
        })
    }

    /// A container that has started again may have another address: who is linked to it is told.
    pub(super) async fn tell_linked(self: &Arc<Self>, container: &Container) {
        let parents = self.containers.linked_to(&container.id);
        if parents.is_empty() {
            return;
        }
        let target = container.record().clone();
        let Some(address) = default_address(&target) else { return };
        let engine = Arc::clone(self);
        let told = tokio::task::spawn_blocking(move || {
            for parent in parents {
                let record = parent.record().clone();
                let links = record.links.iter().filter(|link| link.target == target.id);
                for link in links.filter(|_| record.is_running()) {
                    let of = LineOf { alias: &link.alias, hostname: Some(target.hostname()) };
                    engine.edit_link(&parent, &of, Some(&(address, hosts_names(&link.alias, &target))));
                }
            }
        });
        if let Err(error) = told.await {
            tracing::error!(container = container.id, %error, "who is linked to it was not told its address");
        }
    }

    /// Removes the link `CONTAINER/ALIAS`. It reads and writes a file.
    ///
    /// # Errors
    /// There is none, or it is a container's own name.
    pub fn remove_link(&self, name: &str) -> Result<()> {
        let plain = name.strip_prefix('/').unwrap_or(name);
        let Some((parent, alias)) = plain.split_once('/') else {
            self.container(name)?;
            return Err(Error::conflict("Conflict, cannot remove the default link name of the container"));
        };
        let missing = || Error::not_found(format!("No such container: {name}"));
        let parent = self.container(parent).map_err(|_| missing())?;
        let removed = parent.change(&self.database, |record| {
            let index = record.links.iter().position(|link| link.alias == alias)?;
            let link = record.links.remove(index);
            let was_last = record.links.iter().all(|other| other.target != link.target);
            Some((link, was_last))
        })?;
        let (link, was_last) = removed.ok_or_else(missing)?;
        if was_last {
            self.containers.unlinked(&parent.id, &link.target);
        }
        if parent.record().is_running() {
            let hostname = self.container(&link.target).ok();
            let hostname = hostname.map(|target| target.record().hostname().to_owned());
            let of = LineOf { alias: &link.alias, hostname: hostname.as_deref() };
            self.edit_link(&parent, &of, None);
        }
        Ok(())
    }

    /// The links of a container as inspect shows them: `/target:/container/alias`.
    pub(super) fn shown_links(&self, record: &Record) -> Option<Vec<String>> {
        let shown = |link: &Link| {
            let target = self.container(&link.target).map(|target| target.record().name.clone());
            let target = target.unwrap_or_else(|_| link.name.clone());
            format!("/{target}:/{}/{}", record.name, link.alias)
        };
        (!record.links.is_empty()).then(|| record.links.iter().map(shown).collect())
    }

    /// The further names that links give to containers, by the container's id.
    pub(super) fn linked_names(&self) -> HashMap<String, Vec<String>> {
        let mut names: HashMap<String, Vec<String>> = HashMap::new();
        for container in self.containers.all() {
            let record = container.record();
            for link in &record.links {
                let name = format!("/{}/{}", record.name, link.alias);
                names.entry(link.target.clone()).or_default().push(name);
            }
        }
        names
    }
}

fn conflict(what: &str) -> Error {
    Error::invalid(format!(
        "conflicting options: {what} can't be used with links. This would result in undefined behavior"
    ))
}

/// What a linked container is called in /etc/hosts: the alias, its host name, its name.
fn hosts_names(alias: &str, target: &Record) -> Vec<String> {
    let mut names = vec![alias.to_owned(), target.hostname().to_owned()];
    if target.name != alias {
        names.push(target.name.clone());
    }
    names
}

/// Its address on the default network.
fn default_address(record: &Record) -> Option<IpAddr> {
    record.endpoints.get(DEFAULT)?.ip_address.parse().ok()
}

/// Docker's variables of a link: of each port, of each run of ports in a row, of the lowest one, the link's name, and
/// the target's own variables.
fn environment(alias: &str, full: &str, address: IpAddr, ports: &[&str], own: &[String]) -> Vec<String> {
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut ports: Vec<(u16, &str)> = ports
        .iter()
        .filter_map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some((number.parse().ok()?, protocol))
        })
        .collect();
    // Of one number TCP comes first.
    ports.sort_by_key(|(number, protocol)| (*number, *protocol != "tcp"));
    let mut variables = Vec::new();
    if let Some((number, protocol)) = ports.first() {
        variables.push(format!("{prefix}_PORT={protocol}://{address}:{number}"));
    }
    for run in runs(&ports) {
        let ((first, protocol), (last, _)) = run;
        let name = format!("{prefix}_PORT_{first}_{}", protocol.to_uppercase());
        variables.extend([
            format!("{name}_START={protocol}://{address}:{first}"),
            format!("{name}_PORT_START={first}"),
            format!("{name}_END={protocol}://{address}:{last}"),
            format!("{name}_PORT_END={last}"),
        ]);
    }
    for (number, protocol) in &ports {
        let name = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        variables.extend([
            format!("{name}={protocol}://{address}:{number}"),
            format!("{name}_ADDR={address}"),
            format!("{name}_PORT={number}"),
            format!("{name}_PROTO={protocol}"),
        ]);
    }
    variables.push(format!("{prefix}_NAME={full}"));
    let own = own.iter().filter_map(|entry| entry.split_once('='));
    variables.extend(
        own.filter(|(name, _)| !matches!(*name, "HOME" | "PATH"))
            .map(|(name, value)| format!("{prefix}_ENV_{name}={value}")),
    );
    variables
}

/// A port's number and protocol.
type PortOf<'a> = (u16, &'a str);

/// Ports in a row of one protocol, three or more as Docker counts them: the first and the last of each.
fn runs<'a>(ports: &[PortOf<'a>]) -> Vec<(PortOf<'a>, PortOf<'a>)> {
    let mut runs = Vec::new();
    let mut at = 0;
    while let Some(first) = ports.get(at) {
        let mut end = at;
        while let (Some(here), Some(next)) = (ports.get(end), ports.get(end + 1))
            && here.0.checked_add(1) == Some(next.0)
            && here.1 == next.1
        {
            end += 1;
        }
        if end > at + 1 {
            runs.push((*first, ports[end]));
        }
        at = end + 1;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_written_in_three_ways() {
        assert_eq!(parse("db").unwrap(), ("db", "db"));
        assert_eq!(parse("db:data").unwrap(), ("db", "data"));
        assert_eq!(parse("/db:/web/data").unwrap(), ("db", "data"));
        for text in ["", ":", ":x", "db:", "a:b:c", "db:x y", "/", "/db:/web/"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_variables_of_a_link_are_dockers() {
        let address = "172.17.0.2".parse().unwrap();
        let own = ["FOO=bar".to_owned(), "HOME=/x".to_owned(), "NOEQ".to_owned()];
        let ports = ["80/tcp", "81/tcp", "82/tcp", "53/udp", "53/tcp", "9000/tcp"];
        let variables = environment("my-al", "/src/my-al", address, &ports, &own);
        for expected in [
            "MY_AL_PORT=tcp://172.17.0.2:53",
            "MY_AL_PORT_53_UDP_PROTO=udp",
            "MY_AL_PORT_80_TCP_START=tcp://172.17.0.2:80",
            "MY_AL_PORT_80_TCP_PORT_START=80",
            "MY_AL_PORT_80_TCP_END=tcp://172.17.0.2:82",
            "MY_AL_PORT_80_TCP_PORT_END=82",
            "MY_AL_PORT_81_TCP=tcp://172.17.0.2:81",
            "MY_AL_PORT_9000_TCP_ADDR=172.17.0.2",
            "MY_AL_NAME=/src/my-al",
            "MY_AL_ENV_FOO=bar",
        ] {
            assert!(variables.iter().any(|variable| variable == expected), "{expected} in {variables:#?}");
        }
        assert_eq!(variables.len(), 1 + 4 + 6 * 4 + 1 + 1);
        assert_eq!(environment("a", "/b/a", address, &[], &[]), ["A_NAME=/b/a"]);
    }
}
