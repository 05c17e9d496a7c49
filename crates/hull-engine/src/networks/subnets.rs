//! The subnets of a network: what is asked of them, checked in Docker's words, and completed.

use std::net::IpAddr;

use hull_network::Subnet;
use hull_network::ipam::{Pool, Pools};

use super::create::IpamConfig;
use crate::{Error, Kind, Result};

/// Checks what is asked of the subnets, all of it before anything is said. Those of IPv6 are taken out where that is not
/// enabled, and returned.
///
/// # Errors
/// What of it cannot be: each on a line of its own.
pub(super) fn validate(asked: &mut Vec<IpamConfig>, enable_ipv6: bool) -> Result<Vec<String>> {
    let (mut faults, mut left_out) = (Vec::new(), Vec::new());
    asked.retain(|config| {
        let Ok(subnet) = config.subnet.parse::<Subnet>() else {
            // One that names none has it chosen, unless something is to be in it.
            let is_bare = config.ip_range.is_empty()
                && config.gateway.is_empty()
                && config.auxiliary_addresses.is_empty();
            if !config.subnet.is_empty() || !is_bare {
                faults.push(no_subnet(&config.subnet));
            }
            return true;
        };
        if subnet.base().is_ipv6() && !enable_ipv6 {
            left_out.push(config.subnet.clone());
            return false;
        }
        faults.extend(faults_of(config, subnet));
        true
    });
    match faults.as_slice() {
        [] => Ok(left_out),
        [one] => Err(Error::invalid(format!("invalid network config:\n{one}"))),
        several => Err(Error::invalid(format!("invalid network config:\n* {}", several.join("\n* ")))),
    }
}

fn faults_of(config: &IpamConfig, subnet: Subnet) -> Vec<String> {
    let mut faults = Vec::new();
    if !is_masked(&config.subnet, subnet) {
        faults.push(format!("invalid subnet {}: it should be {subnet}", config.subnet));
    }
    let text = config.ip_range.as_str();
    match text.parse::<Subnet>() {
        _ if text.is_empty() => {}
        Err(_) => faults.push(no_range(text)),
        Ok(range) if range.base().is_ipv6() != subnet.base().is_ipv6() => {
            faults.push(format!("invalid ip-range {text}: parent subnet is an {} block", family(subnet)));
        }
        Ok(range) => {
            let mut fault = |why: String| faults.push(format!("invalid ip-range {text}: {why}"));
            if range.prefix() < subnet.prefix() {
                fault(format!("CIDR block is bigger than its parent subnet {subnet}"));
            }
            if !is_masked(text, range) {
                fault(format!("it should be {range}"));
            }
            if !subnet.overlaps(&range) {
                fault(format!("parent subnet {subnet} doesn't contain ip-range"));
            }
        }
    }
    // `10.1.0.1/16` is as good as `10.1.0.1`.
    let gateway = config.gateway.split('/').next().unwrap_or_default();
    if let Some(why) = fault_of_address(gateway, subnet) {
        faults.push(format!("invalid gateway {}: {why}", config.gateway));
    }
    for (name, address) in &config.auxiliary_addresses {
        if let Some(why) = fault_of_address(address, subnet) {
            faults.push(format!("invalid auxiliary address {name}: {why}"));
        }
    }
    faults
}

fn fault_of_address(text: &str, subnet: Subnet) -> Option<String> {
    match text.parse::<IpAddr>() {
        _ if text.is_empty() => None,
        Err(_) => Some("invalid address".to_owned()),
        Ok(address) if address.is_ipv6() != subnet.base().is_ipv6() => {
            Some(format!("parent subnet is an {} block", family(subnet)))
        }
        Ok(address) if !subnet.contains(address) => {
            Some(format!("parent subnet {subnet} doesn't contain this address"))
        }
        Ok(_) => None,
    }
}

/// Whether a subnet was written without host bits.
fn is_masked(text: &str, subnet: Subnet) -> bool {
    let address = text.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok());
    address == Some(subnet.base())
}

fn family(subnet: Subnet) -> &'static str {
    if subnet.base().is_ipv6() { "IPv6" } else { "IPv4" }
}

fn no_subnet(text: &str) -> String {
    format!("invalid subnet {text}: invalid CIDR block notation")
}

fn no_range(text: &str) -> String {
    format!("invalid ip-range {text}: invalid CIDR block notation")
}

/// How a driver's subnets are routed.
#[derive(Clone, Copy)]
pub(super) struct Routing {
    /// There may be several of a family.
    pub(super) several: bool,
    /// Each has a gateway, also where nobody names one.
    pub(super) gateways: bool,
}

/// A subnet as it was asked for: with its configuration, and without a prefix where one is to be chosen.
type Asked = (IpamConfig, Option<Subnet>);

/// Completes the subnets: at least one of each family that is there.
pub(super) fn subnets(
    asked: Vec<IpamConfig>,
    families: (bool, bool),
    routing: Routing,
    pools: &Pools,
    networks: &[Subnet],
    routes: &[Subnet],
) -> Result<Vec<IpamConfig>> {
    let (four, six) = by_family(asked, families.0, routing)?;
    let (enable_ipv4, enable_ipv6) = families;
    let mut used = networks.to_vec();
    let mut complete = Vec::new();
    for (enabled, asked, is_ipv6) in [(enable_ipv4, four, false), (enable_ipv6, six, true)] {
        if !enabled {
            continue;
        }
        let asked = if asked.is_empty() { vec![Asked::default()] } else { asked };
        for (mut config, subnet) in asked {
            let subnet = match subnet {
                Some(subnet) if used.iter().any(|other| other.overlaps(&subnet)) => {
                    let message = "invalid pool request: Pool overlaps with other one on this address space";
                    return Err(Error::new(Kind::Forbidden, message));
                }
                Some(subnet) => subnet,
                None => {
                    let busy = [used.as_slice(), routes].concat();
                    if is_ipv6 { pools.choose6(&busy)? } else { pools.choose4(&busy)? }
                }
            };
            used.push(subnet);
            config.subnet = subnet.to_string();
            if config.gateway.is_empty() && routing.gateways {
                config.gateway = first_address(subnet)?.to_string();
            }
            // `10.1.0.1/16` is as good as `10.1.0.1`.
            config.gateway = config.gateway.split('/').next().unwrap_or_default().to_owned();
            pool(&config)?;
            complete.push(config);
        }
    }
    Ok(complete)
}

/// What was asked for, IPv4 and IPv6 apart.
fn by_family(
    asked: Vec<IpamConfig>,
    enable_ipv4: bool,
    routing: Routing,
) -> Result<(Vec<Asked>, Vec<Asked>)> {
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for config in asked {
        let subnet = match config.subnet.as_str() {
            "" => None,
            text => Some(subnet(text)?),
        };
        let is_ipv6 = subnet.is_some_and(|subnet| subnet.base().is_ipv6());
        if !is_ipv6 && !enable_ipv4 {
            return Err(Error::invalid(format!(
                "invalid network config:\nsubnet {} needs IPv4: enable it with --ipv4",
                config.subnet
            )));
        }
        let place: &mut Vec<Asked> = if is_ipv6 { &mut six } else { &mut four };
        if !place.is_empty() && !routing.several {
            return Err(Error::new(Kind::Forbidden, "bridge driver doesn't support multiple subnets"));
        }
        place.push((config, subnet));
    }
    Ok((four, six))
}

fn subnet(text: &str) -> Result<Subnet> {
    let invalid = || Error::invalid(format!("invalid network config:\n{}", no_subnet(text)));
    text.parse().map_err(|_| invalid())
}

pub(super) fn first_address(subnet: Subnet) -> Result<IpAddr> {
    Ok(Pool::new(subnet, None)?.allocate()?)
}

/// The addresses that a subnet gives: its gateway and its auxiliary addresses are taken.
pub(super) fn pool(config: &IpamConfig) -> Result<Pool> {
    let subnet = subnet(&config.subnet)?;
    let range = match config.ip_range.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Error::invalid(no_range(text)))?),
    };
    let mut pool = Pool::new(subnet, range)?;
    let gateway = Some(("gateway", &config.gateway, true)).filter(|(_, address, _)| !address.is_empty());
    let others = config.auxiliary_addresses.iter().map(|(name, address)| (name.as_str(), address, false));
    for (name, text, is_gateway) in gateway.into_iter().chain(others) {
        let address: IpAddr =
            text.parse().map_err(|_| Error::invalid(format!("invalid {name} {text}: invalid address")))?;
        pool.take(address).map_err(|error| match error {
            hull_network::Error::AddressInUse { .. } => {
                let what = match is_gateway {
                    true => format!("gateway ({text})"),
                    false => format!("secondary ip address ({name}:{text})"),
                };
                Error::new(Kind::System, format!("failed to allocate {what}: Address already in use"))
            }
            error => Error::invalid(format!("invalid network config:\ninvalid {name} {text}: {error}")),
        })?;
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(config: serde_json::Value) -> String {
        let mut asked = vec![serde_json::from_value(config).unwrap()];
        validate(&mut asked, true).unwrap_err().message
    }

    #[test]
    fn what_cannot_be_is_told_in_dockers_words() {
        let all = told(serde_json::json!({
            "Subnet": "10.9.1.5/16", "IPRange": "10.0.0.0/8", "Gateway": "10.8.0.1",
            "AuxiliaryAddresses": { "router": "fd00::1", "printer": "x" }
        }));
        let lines = [
            "invalid network config:",
            "* invalid subnet 10.9.1.5/16: it should be 10.9.0.0/16",
            "* invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.9.0.0/16",
            "* invalid gateway 10.8.0.1: parent subnet 10.9.0.0/16 doesn't contain this address",
            "* invalid auxiliary address printer: invalid address",
            "* invalid auxiliary address router: parent subnet is an IPv4 block",
        ];
        assert_eq!(all, lines.join("\n"));
        for lost in
            [serde_json::json!({ "Gateway": "10.9.0.1" }), serde_json::json!({ "IPRange": "10.9.0.0/24" })]
        {
            assert_eq!(told(lost), "invalid network config:\ninvalid subnet : invalid CIDR block notation");
        }
        let one = told(serde_json::json!({ "Subnet": "10.9.0.0" }));
        assert_eq!(one, "invalid network config:\ninvalid subnet 10.9.0.0: invalid CIDR block notation");
        let range = told(serde_json::json!({ "Subnet": "fd00::/64", "IPRange": "10.0.0.0/24" }));
        assert!(range.ends_with("invalid ip-range 10.0.0.0/24: parent subnet is an IPv6 block"), "{range}");
    }

    #[test]
    fn an_address_that_is_taken_is_told_with_its_name() {
        let refused = |config: serde_json::Value| {
            let config: IpamConfig = serde_json::from_value(config).unwrap();
            let error = pool(&config).unwrap_err();
            assert_eq!(error.kind, Kind::System);
            error.message
        };
        let subnet = "10.9.0.0/24";
        assert_eq!(
            refused(serde_json::json!({ "Subnet": subnet, "Gateway": "10.9.0.255" })),
            "failed to allocate gateway (10.9.0.255): Address already in use"
        );
        let aux = serde_json::json!({ "gateway": "10.9.0.1" });
        assert_eq!(
            refused(
                serde_json::json!({ "Subnet": subnet, "Gateway": "10.9.0.1", "AuxiliaryAddresses": aux })
            ),
            "failed to allocate secondary ip address (gateway:10.9.0.1): Address already in use"
        );
    }
}
