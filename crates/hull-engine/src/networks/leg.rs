//! One network of a container: its addresses, its names, and what inspect shows of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{Attachment, Entry, Network, endpoint, plan, ports};
use crate::container::random_id;
use crate::model::EndpointSettings;
use crate::{Error, Result};

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

impl Entry {
    /// A new place on this network.
    pub(super) fn leg(&mut self, settings: &EndpointSettings, names: Vec<String>) -> Result<Leg> {
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

    pub(super) fn gateway4(&self) -> Option<Ipv4Addr> {
        let plan = self.plan.as_ref().filter(|plan| !plan.internal && !plan.routes_by_device())?;
        let (address, _) = self.address4?;
        plan.router4.or_else(|| match plan.gateway_of(address.into()) {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        })
    }

    pub(super) fn gateway6(&self) -> Option<Ipv6Addr> {
        let plan = self.plan.as_ref().filter(|plan| !plan.internal && !plan.routes_by_device())?;
        let (address, _) = self.address6?;
        plan.router6.or_else(|| match plan.gateway_of(address.into()) {
            Some(IpAddr::V6(gateway)) => Some(gateway),
            _ => None,
        })
    }

    /// Whether the default route of a family that it has an address of leads to its interface itself.
    pub(super) fn by_device(&self, has_address: bool) -> bool {
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

    /// The MAC address that nobody chose.
    pub(super) fn own_mac(&self) -> [u8; 6] {
        let address = self.address4.map(|(address, _)| address);
        endpoint::own_mac(address, &self.endpoint_id).unwrap_or_default()
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
