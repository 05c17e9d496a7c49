//! The networks that a new container is to be on.

use std::collections::BTreeMap;

use crate::model::{Config, EndpointSettings, HostConfig};
use crate::{Engine, Error, Kind, Result};

impl Engine {
    /// The networks that a container will be on, by their names. One that is not there yet is kept as it was named: it
    /// must be there when the container starts.
    pub(super) fn new_endpoints(
        &self,
        config: &Config,
        host: &mut HostConfig,
        asked: BTreeMap<String, EndpointSettings>,
        warnings: &mut Vec<String>,
    ) -> Result<BTreeMap<String, EndpointSettings>> {
        let mode = host.network_mode.clone();
        if let Some(other) = if mode == "container" { Some("") } else { mode.strip_prefix("container:") } {
            check_shared(config, host)?;
            // Its id, so that a rename of the other changes nothing.
            if other.is_empty() {
                return Err(Error::invalid(
                    "Invalid network mode: invalid container format container:<name|id>",
                ));
            }
            // One that is not there yet is looked for at the start: a client takes "not found" here for the image's.
            match self.container(other) {
                Ok(other) => host.network_mode = format!("container:{}", other.id),
                Err(error) if error.kind == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
            return Ok(BTreeMap::new());
        }
        if config.network_disabled {
            return Ok(BTreeMap::new());
        }
        if mode == "host" && host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty()) {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
        let exclusive = mode == "host" || mode == "none";
        let mode_network = self.network_name(&mode)?;
        let mut endpoints = BTreeMap::new();
        for (network, mut settings) in asked {
            let name = self.network_name(&network)?;
            if exclusive && name != mode_network {
                return Err(Error::invalid(format!(
                    "conflicting options: cannot attach the network {name} to a container with network mode {mode}"
                )));
            }
            if name == mode_network && settings.mac_address.is_empty() {
                settings.mac_address.clone_from(&config.mac_address);
            }
            endpoints.insert(name, settings);
        }
        // Who names networks beside the default one is on those alone.
        let elsewhere = mode_network == "bridge" && !endpoints.is_empty();
        if !elsewhere && !endpoints.contains_key(&mode_network) {
            let settings =
                EndpointSettings { mac_address: config.mac_address.clone(), ..EndpointSettings::default() };
            endpoints.insert(mode_network, settings);
        }
        for (name, settings) in &endpoints {
            match self.networks.check(name, settings) {
                Err(error) if error.kind != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(endpoints)
    }

    /// What a network is called that may be named by its id; as it was named where there is none.
    fn network_name(&self, named: &str) -> Result<String> {
        match self.networks.resolve(named) {
            Ok(network) => Ok(network.name.clone()),
            Err(error) if error.kind == Kind::NotFound => Ok(named.to_owned()),
            Err(error) => Err(error),
        }
    }
}

/// What a container cannot have that is in another's network.
fn check_shared(config: &Config, host: &HostConfig) -> Result<()> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let exposes = config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty());
    let conflicts = [
        (!config.hostname.is_empty(), "hostname and the network mode"),
        (some(&host.dns), "dns and the network mode"),
        (some(&host.extra_hosts), "custom host-to-IP mapping and the network mode"),
        (!config.mac_address.is_empty(), "mac-address and the network mode"),
        (publishes(host), "port publishing and the container type network mode"),
        (exposes, "port exposing and the container type network mode"),
    ];
    match conflicts.iter().find(|(conflicts, _)| *conflicts) {
        Some((_, what)) => Err(Error::invalid(format!("conflicting options: {what}"))),
        None => Ok(()),
    }
}

fn publishes(host: &HostConfig) -> bool {
    host.publish_all_ports || host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shared_network_excludes() {
        let host = HostConfig::default();
        assert!(check_shared(&Config::default(), &host).is_ok());
        let named = Config { hostname: "h".into(), ..Config::default() };
        let told = check_shared(&named, &host).unwrap_err().message;
        assert_eq!(told, "conflicting options: hostname and the network mode");
        let hosts = HostConfig { extra_hosts: Some(vec!["a:1.2.3.4".into()]), ..HostConfig::default() };
        assert!(check_shared(&Config::default(), &hosts).unwrap_err().message.contains("host-to-IP"));
        let all = HostConfig { publish_all_ports: true, ..HostConfig::default() };
        assert!(check_shared(&Config::default(), &all).unwrap_err().message.contains("port publishing"));
    }
}
