//! What the kernel is to make of a network: its bridge by the options, and the addresses that it gives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_network::ipam::Pool;
use hull_network::{Bridge, Device, IpvlanMode, Parent, Subnet};

use super::create::{Network, ROUTER4, ROUTER6};
use super::subnets::pool;
use crate::{Error, Result};

/// The options that the bridge driver knows.
pub(super) mod option {
    pub(in crate::networks) const NAME: &str = "com.docker.network.bridge.name";
    pub(in crate::networks) const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
    pub(in crate::networks) const ICC: &str = "com.docker.network.bridge.enable_icc";
    pub(in crate::networks) const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
    pub(in crate::networks) const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
    pub(in crate::networks) const MTU: &str = "com.docker.network.driver.mtu";
    /// What begins so is meant for the driver.
    pub(in crate::networks) const OWN: &str = "com.docker.network.";
    pub(in crate::networks) const PREFIX: &str = "com.docker.network.container_iface_prefix";
    pub(in crate::networks) const INHIBIT4: &str = "com.docker.network.bridge.inhibit_ipv4";
    pub(in crate::networks) const MODE4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
    pub(in crate::networks) const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
    pub(in crate::networks) const TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
    pub(in crate::networks) const SOURCE4: &str = "com.docker.network.host_ipv4";
    pub(in crate::networks) const SOURCE6: &str = "com.docker.network.host_ipv6";
    pub(in crate::networks) const ENABLE4: &str = "com.docker.network.enable_ipv4";
    pub(in crate::networks) const ENABLE6: &str = "com.docker.network.enable_ipv6";
}

/// What the kernel is to make of a network, and the addresses that it gives.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) wiring: Wiring,
    /// Nothing leaves it and nothing comes in.
    pub(super) internal: bool,
    pub(super) mtu: Option<u32>,
    pub(super) host_binding: Option<IpAddr>,
    /// The routers that containers use; without one, the gateways.
    pub(super) router4: Option<Ipv4Addr>,
    pub(super) router6: Option<Ipv6Addr>,
    /// `eth`, as in `eth0`.
    pub(super) interface_prefix: String,
    /// The subnets, each with its gateway; none: nobody routes for it.
    pub(super) subnets: Vec<(Subnet, Option<IpAddr>)>,
    /// The addresses of each of them, taken out when the network is entered.
    pub(super) pools: Vec<Pool>,
}

/// How containers' interfaces come to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wiring {
    /// Each is a port of a bridge.
    Bridge(Bridge),
    /// Each is a device of its own on a parent.
    Parent(Parent, Device),
}

impl Plan {
    /// The network's bridge, if it has one.
    pub(super) fn bridge(&self) -> Option<&Bridge> {
        match &self.wiring {
            Wiring::Bridge(bridge) => Some(bridge),
            Wiring::Parent(..) => None,
        }
    }

    /// The default route leads to the interface itself: the machine routes what ipvlan hands it.
    pub(super) fn routes_by_device(&self) -> bool {
        matches!(self.wiring, Wiring::Parent(_, Device::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _)))
            && !self.internal
    }

    /// The gateway of the subnet that an address is in.
    pub(super) fn gateway_of(&self, address: IpAddr) -> Option<IpAddr> {
        let subnet = self.subnets.iter().find(|(subnet, _)| subnet.contains(address));
        subnet.and_then(|(_, gateway)| *gateway)
    }
}

/// What the kernel is to make of a network.
///
/// # Errors
/// An option that is not known, or not as it should be.
pub(super) fn plan(network: &Network) -> Result<Plan> {
    let mut plan = match network.driver.as_str() {
        "bridge" => by_bridge(network)?,
        _ => super::parent::by_parent(network)?,
    };
    for config in &network.ipam.config {
        let pool = pool(config)?;
        for (name, address) in &config.auxiliary_addresses {
            match (name.as_str(), address.parse()) {
                (ROUTER4, Ok(IpAddr::V4(address))) => plan.router4 = Some(address),
                (ROUTER6, Ok(IpAddr::V6(address))) => plan.router6 = Some(address),
                _ => {}
            }
        }
        let subnet = pool.subnet();
        let gateway = match config.gateway.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Error::invalid(format!("invalid gateway {text:?}")))?),
        };
        if let Wiring::Bridge(bridge) = &mut plan.wiring {
            bridge.subnets.push(subnet);
            match gateway {
                Some(IpAddr::V4(gateway)) => bridge.gateway4 = Some((gateway, subnet.prefix())),
                Some(IpAddr::V6(gateway)) => bridge.gateway6 = Some((gateway, subnet.prefix())),
                None => {}
            }
        }
        plan.subnets.push((subnet, gateway));
        plan.pools.push(pool);
    }
    Ok(plan)
}

impl Plan {
    /// One without subnets yet.
    pub(super) fn new(wiring: Wiring, internal: bool) -> Plan {
        Plan {
            wiring,
            internal,
            mtu: None,
            host_binding: None,
            router4: None,
            router6: None,
            interface_prefix: "eth".to_owned(),
            subnets: Vec::new(),
            pools: Vec::new(),
        }
    }
}

fn by_bridge(network: &Network) -> Result<Plan> {
    let mut bridge = Bridge {
        name: format!("br-{}", &network.id[..12]),
        internal: network.internal,
        inter_container: true,
        masquerade: !network.internal,
        ..Bridge::default()
    };
    let mut host_binding = None;
    let mut interface_prefix = "eth".to_owned();
    for (name, value) in &network.options {
        let invalid = || invalid_option(name, value);
        match name.as_str() {
            // As Docker has it: one that is chosen.
            option::NAME if value.is_empty() => {}
            option::NAME if interface_name(value) => bridge.name.clone_from(value),
            option::PREFIX => interface_prefix = prefix(name, value)?,
            option::NAME => return Err(invalid()),
            option::MASQUERADE => {
                bridge.masquerade = boolean(value).ok_or_else(invalid)? && !network.internal
            }
            option::ICC => bridge.inter_container = boolean(value).ok_or_else(invalid)?,
            option::HOST_BINDING => {
                let address: IpAddr = value.parse().map_err(|_| invalid())?;
                // `::` is every IPv6 address, 0.0.0.0 every one.
                let every = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                host_binding = Some(address).filter(|address| *address != every);
            }
            option::TRUSTED => {
                let names = value.split(':').map(str::trim).filter(|name| !name.is_empty());
                bridge.trusted = names.map(str::to_owned).collect();
                if !bridge.trusted.iter().all(|name| interface_name(name)) {
                    return Err(invalid());
                }
            }
            option::SOURCE4 => bridge.source4 = Some(value.parse().map_err(|_| invalid())?),
            option::SOURCE6 => bridge.source6 = Some(value.parse().map_err(|_| invalid())?),
            option::MTU => bridge.mtu = mtu(name, value)?,
            option::INHIBIT4 => bridge.without_address4 |= boolean(value).ok_or_else(invalid)?,
            option::MODE4 => {
                let mode = GatewayMode::of(name, value, network.internal)?;
                bridge.without_address4 |= mode == GatewayMode::Isolated;
                bridge.open4 = mode == GatewayMode::Unprotected;
                bridge.routed4 = mode == GatewayMode::Routed;
            }
            option::MODE6 => {
                let mode = GatewayMode::of(name, value, network.internal)?;
                bridge.without_address6 |= mode == GatewayMode::Isolated;
                bridge.open6 = mode == GatewayMode::Unprotected;
                bridge.routed6 = mode == GatewayMode::Routed;
            }
            // Read when the network was made.
            option::ENABLE4 | option::ENABLE6 => {}
            // What inspect shows of the default network; a client may hand it back.
            option::DEFAULT_BRIDGE if network.name == "bridge" || boolean(value) == Some(false) => {}
            other if other.starts_with(option::OWN) => {
                return Err(Error::unsupported(format_args!("the network option {other}")));
            }
            // Another program's note, kept and shown; the answer to its creation says so.
            _ => {}
        }
    }
    let mtu = bridge.mtu;
    let plan = Plan::new(Wiring::Bridge(bridge), network.internal);
    Ok(Plan { mtu, host_binding, interface_prefix, ..plan })
}

/// How containers' interfaces begin, with room for their number behind it.
pub(super) fn prefix(name: &str, value: &str) -> Result<String> {
    if interface_name(value) && value.len() <= 12 {
        Ok(value.to_owned())
    } else {
        Err(invalid_option(name, value))
    }
}

/// An MTU; 0 is the kernel's own.
pub(super) fn mtu(name: &str, value: &str) -> Result<Option<u32>> {
    match value.parse() {
        Ok(0) => Ok(None),
        Ok(mtu @ 68..=65535) => Ok(Some(mtu)),
        _ => Err(invalid_option(name, value)),
    }
}

/// In Docker's words, which are Go's where a value is read.
pub(super) fn invalid_option(name: &str, value: &str) -> Error {
    let why = match name {
        option::MTU if value.parse::<i64>().is_ok() => "value out of range".to_owned(),
        option::MTU => format!("strconv.Atoi: parsing {value:?}: invalid syntax"),
        option::MASQUERADE | option::ICC | option::INHIBIT4 | option::ENABLE4 | option::ENABLE6 => {
            format!("strconv.ParseBool: parsing {value:?}: invalid syntax")
        }
        option::HOST_BINDING => "nil ip".to_owned(),
        _ => return Error::invalid(format!("invalid value {value:?} of the network option {name}")),
    };
    Error::invalid(format!("failed to parse {name} value: {value} ({why})"))
}

/// How a bridge stands between its containers and the rest, for one family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GatewayMode {
    /// Ports are published; nothing else comes in.
    Nat,
    /// Ports are published, and whoever has a route reaches all others too.
    Unprotected,
    /// Containers are reached at their own addresses, at published ports; nothing is translated.
    Routed,
    /// The bridge has no address: the containers reach each other and nobody else, the host neither.
    Isolated,
}

impl GatewayMode {
    fn of(name: &str, value: &str, internal: bool) -> Result<GatewayMode> {
        match value {
            "" | "nat" => Ok(GatewayMode::Nat),
            "nat-unprotected" => Ok(GatewayMode::Unprotected),
            "isolated" if internal => Ok(GatewayMode::Isolated),
            "isolated" => Err(Error::invalid(format!(
                "invalid value \"isolated\" of the network option {name}: gateway mode 'isolated' can only be used with an \
                 internal network"
            ))),
            "routed" => Ok(GatewayMode::Routed),
            _ => Err(invalid_option(name, value)),
        }
    }
}

/// Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Whether the kernel would take it as an interface's name.
pub(super) fn interface_name(name: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    (1..=15).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(fine)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hull_network::ipam::Pools;

    use super::*;
    use crate::Kind;
    use crate::networks::create::NetworkCreate;

    fn complete(body: serde_json::Value, used: &[&str]) -> Result<Network> {
        let body: NetworkCreate = serde_json::from_value(body).unwrap();
        let used: Vec<hull_network::Subnet> = used.iter().map(|text| text.parse().unwrap()).collect();
        body.complete("a".repeat(64), "now".into(), &Pools::docker(), &used, &[])
    }

    #[test]
    fn an_option_that_is_not_known_is_refused_by_name() {
        let mut network = complete(serde_json::json!({"Name": "n"}), &[]).unwrap();
        network.options.insert("com.docker.network.bridge.nosuch".into(), "1".into());
        assert_eq!(plan(&network).unwrap_err().kind, Kind::NotImplemented);
        network.options.clear();
        network.options.insert("com.docker.network.bridge.gateway_mode_ipv4".into(), "bogus".into());
        assert!(plan(&network).unwrap_err().message.contains("gateway_mode_ipv4"));
        network.options = BTreeMap::from([("com.docker.network.bridge.name".into(), "a/b".into())]);
        assert_eq!(plan(&network).unwrap_err().kind, Kind::InvalidParameter);
        // What says nothing is nothing.
        const DEFAULT: &str = "com.docker.network.bridge.default_bridge";
        let empty =
            [("com.docker.network.bridge.name".into(), String::new()), (DEFAULT.into(), "false".into())];
        network.options = BTreeMap::from(empty);
        assert_eq!(plan(&network).unwrap().bridge().unwrap().name, "br-aaaaaaaaaaaa");
        network.options.insert(DEFAULT.into(), "true".into());
        assert_eq!(plan(&network).unwrap_err().kind, Kind::NotImplemented);
    }

    #[test]
    fn the_gateway_stands_as_its_options_say() {
        let planned = |internal: bool, options: &[(&str, &str)]| {
            let options: BTreeMap<&str, &str> = options.iter().copied().collect();
            let body = serde_json::json!({"Name": "n", "Internal": internal, "Options": options});
            complete(body, &[]).and_then(|network| plan(&network)).map(|plan| plan.bridge().unwrap().clone())
        };
        const MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
        let nat = planned(false, &[(MODE, "nat")]).unwrap();
        assert!(!nat.without_address4 && !nat.open4);
        assert!(planned(false, &[(MODE, "nat-unprotected")]).unwrap().open4);
        assert!(planned(true, &[(MODE, "isolated")]).unwrap().without_address4);
        assert!(planned(false, &[(MODE, "routed")]).unwrap().routed4);
        let trusted = planned(false, &[("com.docker.network.bridge.trusted_host_interfaces", "eth0:vx.1")]);
        assert_eq!(trusted.unwrap().trusted, ["eth0", "vx.1"]);
        let source = planned(false, &[("com.docker.network.host_ipv4", "192.0.2.1")]).unwrap().source4;
        assert_eq!(source, Some("192.0.2.1".parse().unwrap()));
        assert!(planned(false, &[("com.docker.network.host_ipv4", "fd00::1")]).is_err());
        assert_eq!(planned(false, &[(MODE, "isolated")]).unwrap_err().kind, Kind::InvalidParameter);
        assert!(planned(false, &[("com.docker.network.bridge.inhibit_ipv4", "1")]).unwrap().without_address4);
        let six = planned(false, &[("com.docker.network.enable_ipv6", "true")]).unwrap();
        assert!(six.gateway4.is_some() && six.gateway6.is_some());
        let without =
            [("com.docker.network.enable_ipv6", "true"), ("com.docker.network.enable_ipv4", "false")];
        assert!(planned(false, &without).unwrap().gateway4.is_none());
    }
}
