//! Networks without a bridge (macvlan, ipvlan): what their options say, and who may share a parent.

use std::collections::BTreeMap;

use hull_network::{Device, IpvlanFlag, IpvlanMode, MacvlanMode, Parent};

use super::create::Network;
use super::plan::{Plan, Wiring, interface_name, mtu, option, prefix};
use crate::{Error, Kind, Result};

const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";

/// Whether a driver has an option; what it has not is kept without effect.
pub(super) fn knows(driver: &str, name: &str) -> bool {
    match name {
        PARENT | option::MTU | option::PREFIX | option::ENABLE4 | option::ENABLE6 => true,
        MACVLAN_MODE => driver == "macvlan",
        IPVLAN_MODE | IPVLAN_FLAG => driver == "ipvlan",
        _ => false,
    }
}

/// What the options say of a network of that driver, in Docker's words where they cannot be.
pub(super) fn check(driver: &str, options: &BTreeMap<String, String>) -> Result<()> {
    device(driver, options)?;
    match options.get(PARENT).map(String::as_str) {
        Some("lo") => refused(format!("loopback interface is not a valid {driver} parent link")),
        Some(name) if !name.is_empty() && !interface_name(name) => Err(Error::invalid(format!(
            "invalid value {name:?} of the network option {PARENT}: it is no interface's name"
        ))),
        _ => Ok(()),
    }
}

/// Whether its subnets have a gateway where nobody names one: nobody routes for a network that nothing leaves, and what
/// ipvlan hands to the machine's routes needs none.
pub(super) fn has_gateways(options: &BTreeMap<String, String>, internal: bool) -> bool {
    let routed = matches!(options.get(IPVLAN_MODE).map(String::as_str), Some("l3" | "l3s"));
    !internal && !routed && options.get(PARENT).is_some_and(|parent| !parent.is_empty())
}

/// What the kernel is to make of a network on a parent; without its subnets.
pub(super) fn by_parent(network: &Network) -> Result<Plan> {
    let device = device(&network.driver, &network.options)?;
    let named = network.options.get(PARENT).filter(|name| !name.is_empty());
    let parent = match named {
        Some(name) => Parent::Of(name.clone()),
        None => Parent::Alone(format!("dm-{}", &network.id[..12])),
    };
    let mut plan = Plan::new(Wiring::Parent(parent, device), network.internal || named.is_none());
    if let Some(value) = network.options.get(option::MTU) {
        plan.mtu = mtu(option::MTU, value)?;
    }
    if let Some(value) = network.options.get(option::PREFIX) {
        plan.interface_prefix = prefix(option::PREFIX, value)?;
    }
    Ok(plan)
}

/// The parent of a network that has one.
pub(super) fn of(wiring: &Wiring) -> Option<&Parent> {
    match wiring {
        Wiring::Parent(parent, _) => Some(parent),
        Wiring::Bridge(_) => None,
    }
}

/// Whether a new network may share its parent with one that is there.
///
/// # Errors
/// It may not; in Docker's words.
pub(super) fn check_shared(new: &Wiring, there: &Wiring, id: &str) -> Result<()> {
    let (Wiring::Parent(parent, new), Wiring::Parent(other, there)) = (new, there) else { return Ok(()) };
    let parent = parent.name();
    if parent != other.name() {
        return Ok(());
    }
    match (new, there) {
        (Device::Ipvlan(..), Device::Ipvlan(..)) => {
            refused(format!("network dm-{} is already using parent interface {parent}", &id[..12]))
        }
        (Device::Macvlan(MacvlanMode::Passthru), Device::Macvlan(_)) => refused(format!(
            "cannot use mode passthru, macvlan network {id} is already using parent interface {parent}"
        )),
        (Device::Macvlan(_), Device::Macvlan(MacvlanMode::Passthru)) => {
            refused(format!("macvlan network {id} is using parent interface {parent} in mode passthru"))
        }
        // One of either kind: the kernel refuses whichever container comes second, and it is told then.
        _ => Ok(()),
    }
}

fn device(driver: &str, options: &BTreeMap<String, String>) -> Result<Device> {
    let value = |name: &str| options.get(name).map_or("", String::as_str);
    if driver == "macvlan" {
        return Ok(Device::Macvlan(match value(MACVLAN_MODE) {
            "" | "bridge" => MacvlanMode::Bridge,
            "private" => MacvlanMode::Private,
            "vepa" => MacvlanMode::Vepa,
            "passthru" => MacvlanMode::Passthru,
            mode => {
                return refused(format!(
                    "requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default"
                ));
            }
        }));
    }
    let mode = match value(IPVLAN_MODE) {
        "" | "l2" => IpvlanMode::L2,
        "l3" => IpvlanMode::L3,
        "l3s" => IpvlanMode::L3s,
        mode => {
            return refused(format!(
                "requested ipvlan mode '{mode}' is not valid, 'l2' mode is the ipvlan driver default"
            ));
        }
    };
    let flag = match value(IPVLAN_FLAG) {
        "" | "bridge" => IpvlanFlag::Bridge,
        "private" => IpvlanFlag::Private,
        "vepa" => IpvlanFlag::Vepa,
        flag => {
            return refused(format!(
                "requested ipvlan flag '{flag}' is not valid, 'bridge' is the ipvlan driver default"
            ));
        }
    };
    Ok(Device::Ipvlan(mode, flag))
}

/// Docker's drivers answer so, with the status of a machine that failed.
fn refused<T>(message: String) -> Result<T> {
    Err(Error::new(Kind::System, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn wiring(driver: &str, list: &[(&str, &str)]) -> Wiring {
        Wiring::Parent(Parent::Of("eth0".into()), device(driver, &options(list)).unwrap())
    }

    #[test]
    fn modes_and_flags_by_their_names() {
        let macvlan = |mode| device("macvlan", &options(&[(MACVLAN_MODE, mode)]));
        assert_eq!(macvlan("").unwrap(), Device::Macvlan(MacvlanMode::Bridge));
        assert_eq!(macvlan("passthru").unwrap(), Device::Macvlan(MacvlanMode::Passthru));
        assert_eq!(
            macvlan("x").unwrap_err().message,
            "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default"
        );
        let ipvlan = |mode, flag| device("ipvlan", &options(&[(IPVLAN_MODE, mode), (IPVLAN_FLAG, flag)]));
        assert_eq!(ipvlan("l3s", "vepa").unwrap(), Device::Ipvlan(IpvlanMode::L3s, IpvlanFlag::Vepa));
        assert!(ipvlan("l4", "").unwrap_err().message.contains("ipvlan mode 'l4'"));
        assert!(ipvlan("l2", "x").unwrap_err().message.contains("ipvlan flag 'x'"));
        let loopback = check("macvlan", &options(&[(PARENT, "lo")])).unwrap_err();
        assert_eq!(loopback.message, "loopback interface is not a valid macvlan parent link");
        assert_eq!(check("ipvlan", &options(&[(PARENT, "a/b")])).unwrap_err().kind, Kind::InvalidParameter);
    }

    #[test]
    fn gateways_are_for_whom_somebody_routes() {
        let on = |list: &[(&str, &str)], internal| has_gateways(&options(list), internal);
        assert!(on(&[(PARENT, "eth0")], false));
        assert!(!on(&[(PARENT, "eth0")], true));
        assert!(!on(&[], false), "one that leads nowhere");
        assert!(!on(&[(PARENT, "eth0"), (IPVLAN_MODE, "l3")], false));
    }

    #[test]
    fn who_shares_a_parent() {
        let shared = |new: &Wiring, there: &Wiring| check_shared(new, there, &"b".repeat(64));
        let (bridge, private) = (wiring("macvlan", &[]), wiring("macvlan", &[(MACVLAN_MODE, "private")]));
        let passthru = wiring("macvlan", &[(MACVLAN_MODE, "passthru")]);
        let ipvlan = wiring("ipvlan", &[]);
        assert!(shared(&bridge, &private).is_ok());
        assert!(shared(&passthru, &bridge).unwrap_err().message.starts_with("cannot use mode passthru"));
        assert!(shared(&bridge, &passthru).unwrap_err().message.ends_with("in mode passthru"));
        assert_eq!(
            shared(&ipvlan, &ipvlan).unwrap_err().message,
            "network dm-bbbbbbbbbbbb is already using parent interface eth0"
        );
        assert!(shared(&ipvlan, &bridge).is_ok(), "the kernel tells it");
    }
}
