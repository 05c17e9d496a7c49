//! What a network is asked to be, checked and completed: names, subnets.

use std::collections::BTreeMap;

use hull_network::Subnet;
use hull_network::ipam::Pools;
use serde::{Deserialize, Serialize};

use super::plan::{boolean, invalid_option, option};
use super::subnets::{Routing, subnets, validate};
use crate::{Error, Kind, Result};

/// A network: the row in the database, and the API's words for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    #[serde(rename = "Name")]
    pub name: String,
    /// Its id.
    #[serde(rename = "Id")]
    pub id: String,
    /// When it was made, RFC 3339.
    #[serde(rename = "Created")]
    pub created: String,
    /// `bridge`, `macvlan`, `ipvlan`, `host` or `null`.
    #[serde(rename = "Driver")]
    pub driver: String,
    /// It has IPv4 addresses.
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: bool,
    /// It has IPv6 addresses.
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    /// Its subnets.
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    /// Nothing leaves it and nothing comes in.
    #[serde(rename = "Internal")]
    pub internal: bool,
    /// Swarm's word, kept.
    #[serde(rename = "Attachable")]
    pub attachable: bool,
    /// The driver's options.
    #[serde(rename = "Options")]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(rename = "Labels")]
    pub labels: BTreeMap<String, String>,
    /// The subnet was asked for, so that containers may ask for addresses in it.
    #[serde(rename = "hull.Configured", default)]
    pub configured: bool,
    /// It is the configuration of other networks, and none itself.
    #[serde(rename = "hull.ConfigOnly", default)]
    pub config_only: bool,
    /// The name of the network that it has its configuration of; empty: its own.
    #[serde(rename = "hull.ConfigFrom", default)]
    pub config_from: String,
    /// Subnets that were asked for and are not made: those of IPv6 where it is not enabled. Known to its creation alone.
    #[serde(skip)]
    pub left_out: Vec<String>,
}

/// Who gives addresses, and of what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ipam {
    /// Always `default`.
    pub driver: String,
    /// Options of that driver: none are known, and what is given is kept and shown.
    pub options: Option<BTreeMap<String, String>>,
    /// One subnet, or one of each family; of macvlan and ipvlan any number.
    pub config: Vec<IpamConfig>,
}

/// A subnet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    /// `172.20.0.0/16`.
    #[serde(rename = "Subnet", skip_serializing_if = "String::is_empty")]
    pub subnet: String,
    /// Where addresses come from that nobody asks for by name.
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
    pub ip_range: String,
    /// The bridge's own address, or whom containers without a bridge route by; where empty, the first.
    #[serde(rename = "Gateway", skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// Addresses that are other things' on this network.
    #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

/// The body of `POST /networks/create`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NetworkCreate {
    /// Its name.
    #[serde(rename = "Name")]
    pub name: String,
    /// The driver; empty: `bridge`.
    #[serde(rename = "Driver")]
    pub driver: String,
    /// `local`, or nothing.
    #[serde(rename = "Scope")]
    pub scope: String,
    /// Nothing leaves it and nothing comes in.
    #[serde(rename = "Internal")]
    pub internal: bool,
    /// Swarm's word, kept.
    #[serde(rename = "Attachable")]
    pub attachable: bool,
    /// Swarm's: refused.
    #[serde(rename = "Ingress")]
    pub ingress: bool,
    /// A configuration for other networks, and no network itself.
    #[serde(rename = "ConfigOnly")]
    pub config_only: bool,
    /// The network that it has its configuration of.
    #[serde(rename = "ConfigFrom")]
    pub config_from: ConfigFrom,
    /// Its subnets.
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    /// IPv4 addresses; they are there unless that is false.
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: Option<bool>,
    /// IPv6 addresses.
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    /// The driver's options.
    #[serde(rename = "Options")]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(rename = "Labels")]
    pub labels: BTreeMap<String, String>,
    /// Clients before API 1.44 ask that a name be free; later ones need not.
    #[serde(rename = "CheckDuplicate")]
    pub check_duplicate: bool,
}

/// Whose configuration a network has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigFrom {
    /// The name of a network that is a configuration only.
    #[serde(rename = "Network")]
    pub network: String,
}

/// The names of the networks that are always there.
pub(super) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// The auxiliary addresses that are routers, by Docker's names for them.
pub(super) const ROUTER4: &str = "DefaultGatewayIPv4";
pub(super) const ROUTER6: &str = "DefaultGatewayIPv6";

impl Network {
    /// What of that which was asked has no effect, in a sentence; empty where all of it has one.
    pub fn warning(&self) -> String {
        let left_out = (!self.left_out.is_empty()).then(|| {
            format!("IPv6 is not enabled (--ipv6): without the subnet {}", self.left_out.join(", "))
        });
        let names: Vec<&str> = self.options.keys().map(String::as_str).collect();
        let idle: Vec<&str> = match self.driver.as_str() {
            "macvlan" | "ipvlan" => {
                names.into_iter().filter(|name| !super::parent::knows(&self.driver, name)).collect()
            }
            _ => names.into_iter().filter(|name| !name.starts_with(option::OWN)).collect(),
        };
        let idle = (!idle.is_empty()).then(|| {
            format!("the driver {} has no option {}: kept without effect", self.driver, idle.join(", "))
        });
        left_out.into_iter().chain(idle).collect::<Vec<_>>().join("; ")
    }
}

impl NetworkCreate {
    /// Completes what was asked: `id` and `created` are the caller's, subnets that nobody named come from `pools` and
    /// overlap nothing of `networks` and `routes`.
    ///
    /// # Errors
    /// Something in it cannot be, or overlaps; the sentence is Docker's where Docker has one.
    pub(super) fn complete(
        mut self,
        id: String,
        created: String,
        pools: &Pools,
        networks: &[Subnet],
        routes: &[Subnet],
    ) -> Result<Network> {
        self.take_families_from_options()?;
        self.check()?;
        if self.config_only {
            return Ok(self.configuration(id, created));
        }
        let left_out = validate(&mut self.ipam.config, self.enable_ipv6)?;
        let configured = self.ipam.config.iter().any(|config| !config.subnet.is_empty());
        let enable_ipv4 = self.enable_ipv4.unwrap_or(true);
        let driver =
            if matches!(self.driver.as_str(), "" | "default") { "bridge".to_owned() } else { self.driver };
        let has_parent = driver != "bridge";
        let routing = Routing {
            several: has_parent,
            gateways: !has_parent || super::parent::has_gateways(&self.options, self.internal),
        };
        let families = (enable_ipv4, self.enable_ipv6);
        let config = subnets(self.ipam.config, families, routing, pools, networks, routes)?;
        let ipam = Ipam { driver: "default".to_owned(), options: self.ipam.options, config };
        Ok(Network {
            name: self.name,
            id,
            created,
            driver,
            enable_ipv4,
            enable_ipv6: self.enable_ipv6,
            ipam,
            internal: self.internal,
            attachable: self.attachable,
            options: self.options,
            labels: self.labels,
            configured,
            config_only: false,
            config_from: self.config_from.network,
            left_out,
        })
    }

    /// Gives it the options of its driver that it does not set itself.
    pub(super) fn set_unset(&mut self, options: &BTreeMap<String, BTreeMap<String, String>>) {
        let driver = if matches!(self.driver.as_str(), "" | "default") { "bridge" } else { &self.driver };
        for (name, value) in options.get(driver).into_iter().flatten() {
            self.options.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }

    /// The options that stand for the fields of the same names, where those say nothing.
    fn take_families_from_options(&mut self) -> Result<()> {
        let option = |name: &str| -> Result<Option<bool>> {
            let Some(value) = self.options.get(name) else { return Ok(None) };
            boolean(value).map(Some).ok_or_else(|| invalid_option(name, value))
        };
        let (four, six) = (option(option::ENABLE4)?, option(option::ENABLE6)?);
        self.enable_ipv4 = self.enable_ipv4.or(four);
        self.enable_ipv6 |= six.unwrap_or_default();
        Ok(())
    }

    fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        self.check_configuration()?;
        match self.driver.as_str() {
            "" | "bridge" | "default" => {}
            "macvlan" | "ipvlan" => super::parent::check(&self.driver, &self.options)?,
            driver @ ("host" | "null") => {
                let message = format!("only one instance of \"{driver}\" network is allowed");
                return Err(Error::new(Kind::Forbidden, message));
            }
            "overlay" => {
                return Err(Error::new(
                    Kind::Unavailable,
                    "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
                     node to swarm and try again.",
                ));
            }
            driver => {
                return Err(Error::not_found(format!(
                    "could not find plugin {driver} in v1 plugin registry: plugin not found"
                )));
            }
        }
        let swarms = match self.scope.as_str() {
            "" | "local" if self.ingress => Some("Ingress network can only be global scope network"),
            "" | "local" => None,
            _ => Some("cannot create a swarm scoped network when swarm is not active"),
        };
        if let Some(message) = swarms {
            return Err(Error::new(Kind::Forbidden, message));
        }
        if !matches!(self.ipam.driver.as_str(), "" | "default") {
            // It would be a plugin, of which there are none.
            return Err(Error::not_found(format!("plugin \"{}\" not found", self.ipam.driver)));
        }
        if self.enable_ipv4 == Some(false) && !self.enable_ipv6 {
            return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    if PREDEFINED.contains(&name) || name == "default" {
        let message = format!("operation is not permitted on predefined {name} network");
        return Err(Error::new(Kind::Forbidden, message));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !starts || !name.bytes().all(plain) {
        return Err(Error::invalid(format!(
            "invalid network name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;

    fn complete(body: serde_json::Value, used: &[&str]) -> Result<Network> {
        let body: NetworkCreate = serde_json::from_value(body).unwrap();
        let used: Vec<Subnet> = used.iter().map(|text| text.parse().unwrap()).collect();
        body.complete("a".repeat(64), "now".into(), &Pools::docker(), &used, &[])
    }

    #[test]
    fn what_nobody_names_is_chosen() {
        let network = complete(serde_json::json!({"Name": "n"}), &["172.17.0.0/16"]).unwrap();
        assert_eq!(network.ipam.config[0].subnet, "172.18.0.0/16");
        assert_eq!(network.ipam.config[0].gateway, "172.18.0.1");
        assert!(!network.configured);
        let mut plan = plan(&network).unwrap();
        assert_eq!(plan.pools[0].allocate().unwrap().to_string(), "172.18.0.2");
        let bridge = plan.bridge().unwrap();
        assert_eq!(bridge.name, "br-aaaaaaaaaaaa");
        assert_eq!(bridge.gateway4, Some(("172.18.0.1".parse().unwrap(), 16)));
        assert!(bridge.masquerade && bridge.inter_container);
    }

    #[test]
    fn what_is_named_is_taken() {
        let network = complete(
            serde_json::json!({"Name": "n", "Internal": true, "EnableIPv6": true, "IPAM": {"Config": [
                {"Subnet": "10.9.0.0/16", "IPRange": "10.9.8.0/24", "AuxiliaryAddresses": {"router": "10.9.8.0"}},
                {"Subnet": "fd00:9::/64", "Gateway": "fd00:9::9"}]},
                "Options": {"com.docker.network.bridge.enable_icc": "false", "com.docker.network.driver.mtu": "1400",
                    "com.docker.network.bridge.name": "mine"}}),
            &[],
        )
        .unwrap();
        assert!(network.configured);
        let mut plan = plan(&network).unwrap();
        assert_eq!(plan.pools[0].allocate().unwrap().to_string(), "10.9.8.1");
        let bridge = plan.bridge().unwrap();
        assert_eq!((bridge.name.as_str(), bridge.mtu), ("mine", Some(1400)));
        assert!(!bridge.inter_container && !bridge.masquerade);
        assert_eq!(bridge.gateway6, Some(("fd00:9::9".parse().unwrap(), 64)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused =
            |body: serde_json::Value| complete(body, &["10.5.0.0/16"]).map(|_| ()).unwrap_err().kind;
        let with = |name: &str, value: serde_json::Value| {
            let mut body = serde_json::json!({"Name": "n"});
            body[name] = value;
            body
        };
        let ipam = |config: serde_json::Value| with("IPAM", serde_json::json!({"Config": [config]}));
        for name in ["", "a b", "a/b", "-a", "a\n"] {
            assert_eq!(refused(serde_json::json!({ "Name": name })), Kind::InvalidParameter, "{name:?}");
        }
        for name in ["bridge", "host", "none", "default"] {
            assert_eq!(refused(serde_json::json!({ "Name": name })), Kind::Forbidden, "{name}");
        }
        assert_eq!(refused(with("Driver", "host".into())), Kind::Forbidden);
        assert_eq!(refused(with("Driver", "weave".into())), Kind::NotFound);
        assert_eq!(refused(with("Driver", "overlay".into())), Kind::Unavailable);
        assert_eq!(refused(with("Scope", "swarm".into())), Kind::Forbidden);
        let attachable = serde_json::json!({"Name": "n", "ConfigOnly": true, "Attachable": true});
        assert_eq!(refused(attachable), Kind::Forbidden);
        assert_eq!(refused(with("EnableIPv4", false.into())), Kind::InvalidParameter);
        assert_eq!(refused(ipam(serde_json::json!({"Subnet": "10.5.1.0/24"}))), Kind::Forbidden);
        for config in [
            serde_json::json!({"Subnet": "10.6.0.1/24"}),
            serde_json::json!({"Subnet": "10.6.0.0"}),
            serde_json::json!({"Subnet": "10.6.0.0/33"}),
            serde_json::json!({"Subnet": "10.6.0.0/24", "Gateway": "10.7.0.1"}),
            serde_json::json!({"Subnet": "10.6.0.0/24", "IPRange": "10.7.0.0/25"}),
            serde_json::json!({"Subnet": "10.6.0.0/24", "IPRange": "10.6.0.0/16"}),
        ] {
            assert_eq!(refused(ipam(config.clone())), Kind::InvalidParameter, "{config}");
        }
        let taken = serde_json::json!({"Subnet": "10.6.0.0/24", "AuxiliaryAddresses": {"a": "10.6.0.1"}});
        assert_eq!(refused(ipam(taken)), Kind::System);
        let two = serde_json::json!({"Config": [{"Subnet": "10.6.0.0/24"}, {"Subnet": "10.7.0.0/24"}]});
        assert_eq!(refused(with("IPAM", two)), Kind::Forbidden);
    }

    #[test]
    fn a_subnet_of_a_family_that_is_not_enabled_is_left_out() {
        let both = serde_json::json!({"Config": [{"Subnet": "fd00:7::/64"}, {"Subnet": "10.7.0.0/24"}]});
        let body = serde_json::json!({"Name": "n", "IPAM": both, "Options": {"colour": "red"}});
        let network = complete(body, &[]).unwrap();
        assert_eq!(network.ipam.config.len(), 1);
        let told = network.warning();
        assert!(told.contains("fd00:7::/64") && told.contains("no option colour"), "{told}");
    }
}
