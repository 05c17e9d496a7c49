//! The default network, as the daemon's flags have it, and its two companions.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use hull_network::Subnet;

use super::Inner;
use super::create::{Ipam, IpamConfig, Network, ROUTER4, ROUTER6};
use super::plan::option;
use super::subnets;
use crate::config::{DaemonConfig, DefaultBridge, DefaultNetwork};
use crate::database::Table;
use crate::{Error, Result};

impl Inner {
    /// Makes the rows of the networks that are always there. The default one keeps its subnets over the daemon's
    /// starts, for the containers that still run on it, unless the daemon is told others.
    ///
    /// # Errors
    /// A bridge that is to be there is not, or addresses do not go together.
    pub(super) fn ensure_predefined(&self, config: &DaemonConfig) -> Result<()> {
        for (name, driver) in [("host", "host"), ("none", "null")] {
            if !self.state().by_name.contains_key(name) {
                self.keep(Network::plain(name, driver))?;
            }
        }
        let known = self.state().by_name.get("bridge").cloned();
        let known = known.and_then(|id| self.state().by_id.get(&id).map(|entry| entry.network.clone()));
        let wanted = &config.default_network;
        let bridge = match &wanted.bridge {
            DefaultBridge::Own => config.bridge_name(),
            DefaultBridge::Standing(name) => name.clone(),
            DefaultBridge::None => {
                if let Some(known) = known {
                    self.state().remove(&known.id);
                    self.database.delete(Table::Networks, &known.id)?;
                }
                return Ok(());
            }
        };
        let mut network = match &known {
            Some(known) => Network::clone(known),
            None => Network::plain("bridge", "bridge"),
        };
        network.options = usual_options(&bridge);
        network.options.extend(wanted.options.clone());
        network.enable_ipv6 = wanted.ipv6;
        network.ipam = Ipam { config: self.default_subnets(wanted, known.as_deref())?, ..network.ipam };
        if known.is_none_or(|known| *known != network) {
            self.state().remove(&network.id);
            self.keep(network)?;
        }
        Ok(())
    }

    fn default_subnets(&self, wanted: &DefaultNetwork, known: Option<&Network>) -> Result<Vec<IpamConfig>> {
        let known = known.map(|network| network.ipam.config.as_slice()).unwrap_or_default();
        let is_ipv6 = |config: &&IpamConfig| config.subnet.contains(':');
        let mut all = vec![self.default_ipv4(wanted, known.iter().find(|config| !is_ipv6(config)))?];
        if wanted.ipv6 {
            all.push(self.default_ipv6(wanted, known.iter().find(is_ipv6))?);
        }
        Ok(all)
    }

    fn default_ipv4(&self, wanted: &DefaultNetwork, known: Option<&IpamConfig>) -> Result<IpamConfig> {
        let standing = match &wanted.bridge {
            DefaultBridge::Standing(name) => {
                let addresses = self.fabric.addresses(name)?.ok_or_else(|| {
                    Error::invalid(format!(
                        "bridge device with non default name {name} must be created manually: there is no bridge {name} on this machine"
                    ))
                })?;
                addresses.into_iter().find(|(address, _)| address.is_ipv4())
            }
            _ => None,
        };
        let (subnet, gateway) = match (&wanted.bip, standing, wanted.range4) {
            (Some(bip), ..) => bridge_ip(bip)?,
            (None, Some((address, prefix)), _) => (Subnet::new(address, prefix)?, address),
            (None, None, range) => {
                // A range alone is the subnet, unless it is part of the one that there is.
                let within = |config: &&IpamConfig| {
                    let subnet: Option<Subnet> = config.subnet.parse().ok();
                    range.is_none_or(|range| subnet.is_some_and(|subnet| contains(subnet, range)))
                };
                match known.filter(within) {
                    Some(known) => {
                        let subnet: Subnet = known.subnet.parse()?;
                        let gateway = known.gateway.parse().or_else(|_| subnets::first_address(subnet))?;
                        (subnet, gateway)
                    }
                    None => {
                        let busy = [self.state().subnets(), hull_network::ipam::routes()?].concat();
                        let subnet = range.map_or_else(|| self.pools.choose4(&busy), Ok)?;
                        (subnet, subnets::first_address(subnet)?)
                    }
                }
            }
        };
        let range = wanted.range4.filter(|range| *range != subnet);
        config_of(subnet, gateway, range, (ROUTER4, wanted.gateway4.map(IpAddr::V4)))
    }

    fn default_ipv6(&self, wanted: &DefaultNetwork, known: Option<&IpamConfig>) -> Result<IpamConfig> {
        let subnet = match (wanted.range6, known) {
            (Some(range), _) => range,
            (None, Some(known)) => known.subnet.parse()?,
            (None, None) => {
                self.pools.choose6(&[self.state().subnets(), hull_network::ipam::routes()?].concat())?
            }
        };
        config_of(subnet, subnets::first_address(subnet)?, None, (ROUTER6, wanted.gateway6.map(IpAddr::V6)))
    }
}

/// The options that the default network shows.
fn usual_options(bridge: &str) -> BTreeMap<String, String> {
    [
        (option::DEFAULT_BRIDGE, "true"),
        (option::ICC, "true"),
        (option::MASQUERADE, "true"),
        (option::HOST_BINDING, "0.0.0.0"),
        (option::NAME, bridge),
        (option::MTU, "1500"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// A subnet with its gateway, and what containers have of it.
fn config_of(
    subnet: Subnet,
    gateway: IpAddr,
    range: Option<Subnet>,
    (name, router): (&str, Option<IpAddr>),
) -> Result<IpamConfig> {
    let config = IpamConfig {
        subnet: subnet.to_string(),
        gateway: gateway.to_string(),
        ip_range: range.map(|range| range.to_string()).unwrap_or_default(),
        auxiliary_addresses: router
            .filter(|router| *router != gateway)
            .map(|router| (name.to_owned(), router.to_string()))
            .into_iter()
            .collect(),
    };
    subnets::pool(&config)?;
    Ok(config)
}

fn contains(subnet: Subnet, part: Subnet) -> bool {
    part.prefix() >= subnet.prefix() && subnet.contains(part.base())
}

fn bridge_ip(text: &str) -> Result<(Subnet, IpAddr)> {
    let invalid = || {
        Error::invalid(format!("invalid --bip {text:?}: an IPv4 address and a prefix length are expected"))
    };
    let (address, _) = text.split_once('/').ok_or_else(invalid)?;
    let subnet: Subnet = text.parse().map_err(|_| invalid())?;
    let gateway: Ipv4Addr = address.parse().map_err(|_| invalid())?;
    Ok((subnet, IpAddr::V4(gateway)))
}
