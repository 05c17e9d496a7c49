//! A container's place on a network, as it is asked for: checked before anything is made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::create::Network;
use super::plan::interface_name;
use crate::model::EndpointSettings;
use crate::{Error, Kind, Result};

/// What [`check`] read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) address4: Option<Ipv4Addr>,
    pub(super) address6: Option<Ipv6Addr>,
    /// Further addresses, of its link alone.
    pub(super) link_local: Vec<IpAddr>,
    pub(super) mac: Option<[u8; 6]>,
    /// The container end's name.
    pub(super) interface: Option<String>,
    /// `net.ipv4.conf.IFNAME.forwarding`, `1`.
    pub(super) sysctls: Vec<(String, String)>,
    /// Aliases that it alone resolves, each with whom it means.
    pub(super) links: Vec<(String, String)>,
}

/// Whether a container may be on that network with those settings.
///
/// # Errors
/// What of it cannot be, in Docker's words where Docker has them.
pub(super) fn check(network: &Network, settings: &EndpointSettings) -> Result<Asked> {
    if network.config_only {
        let message = "cannot create endpoint on configuration-only network";
        return Err(Error::new(Kind::Forbidden, message));
    }
    let user_defined = network.is_user_defined();
    let mut links = Vec::new();
    for link in settings.links.iter().flatten() {
        let (target, alias) = crate::container::parse_link(link)?;
        links.push((alias.to_owned(), target.to_owned()));
    }
    if !user_defined && !links.is_empty() {
        return Err(Error::invalid(
            "a link of an endpoint is supported only for containers in user defined networks",
        ));
    }
    if !user_defined && settings.aliases.as_ref().is_some_and(|aliases| !aliases.is_empty()) {
        return Err(Error::invalid(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    let mut asked = Asked { links, ..Asked::default() };
    if let Some(ipam) = &settings.ipam_config {
        asked.link_local = link_local(user_defined, &ipam.link_local_ips)?;
        asked.address4 = address(network, user_defined, &ipam.ipv4_address, "IPv4")?;
        asked.address6 = address(network, user_defined, &ipam.ipv6_address, "IPv6")?;
    }
    if !settings.mac_address.is_empty() {
        let invalid = || Error::invalid(format!("invalid MAC address {:?}", settings.mac_address));
        asked.mac = Some(mac(&settings.mac_address).ok_or_else(invalid)?).filter(|_| !has_own_mac(settings));
    }
    for (name, value) in settings.driver_opts.iter().flatten() {
        match name.as_str() {
            "com.docker.network.endpoint.ifname" if interface_name(value) && value != "lo" => {
                asked.interface = Some(value.clone());
            }
            "com.docker.network.endpoint.ifname" => {
                return Err(Error::invalid(format!("invalid interface name {value:?}")));
            }
            "com.docker.network.endpoint.sysctls" => asked.sysctls = sysctls(value)?,
            other if other.starts_with("com.docker.network.") => {
                return Err(Error::unsupported(format_args!("the endpoint option {other}")));
            }
            // Another program's note, kept and shown.
            _ => {}
        }
    }
    Ok(asked)
}

/// Whether the hardware address of a place is the one that nobody chose: it follows from the place's last run, and the
/// next one has one of its own. The address that it belongs to may be another container's by then.
pub(crate) fn has_own_mac(settings: &EndpointSettings) -> bool {
    let address = settings.ip_address.parse().ok();
    mac(&settings.mac_address).is_some_and(|mac| own_mac(address, &settings.endpoint_id) == Some(mac))
}

/// The MAC address that nobody chose: of the IPv4 address, or of the endpoint's id, which is random.
pub(super) fn own_mac(address: Option<Ipv4Addr>, endpoint_id: &str) -> Option<[u8; 6]> {
    let of_id = || u32::from_str_radix(endpoint_id.get(..8)?, 16).ok().map(Ipv4Addr::from_bits);
    address.or_else(of_id).map(hull_network::mac_of)
}

fn address<A: std::str::FromStr + Into<IpAddr> + Copy>(
    network: &Network,
    user_defined: bool,
    text: &str,
    family: &str,
) -> Result<Option<A>> {
    if text.is_empty() {
        return Ok(None);
    }
    if !user_defined {
        return Err(Error::invalid("user specified IP address is supported on user defined networks only"));
    }
    let address: A = text.parse().map_err(|_| Error::invalid(format!("invalid {family} address: {text}")))?;
    if !network.configured {
        return Err(Error::invalid(
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        ));
    }
    let inside = |subnet: &str| {
        subnet.parse::<hull_network::Subnet>().is_ok_and(|subnet| subnet.contains(address.into()))
    };
    if !network.ipam.config.iter().any(|config| inside(&config.subnet)) {
        return Err(in_no_subnet(address.into()));
    }
    Ok(Some(address))
}

/// An address that was asked for is of no subnet that the network has.
pub(super) fn in_no_subnet(address: IpAddr) -> Error {
    Error::invalid(format!("no configured subnet or ip-range contain the IP address {address}"))
}

/// Addresses of the link, which no pool gives.
fn link_local(user_defined: bool, texts: &[String]) -> Result<Vec<IpAddr>> {
    if !user_defined && !texts.is_empty() {
        return Err(Error::invalid("user specified IP address is supported on user defined networks only"));
    }
    let read = |text: &String| {
        let address: Option<IpAddr> = text.parse().ok();
        let of_link = address.filter(|address| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        });
        of_link.ok_or_else(|| Error::invalid(format!("invalid link-local IP address: {text}")))
    };
    texts.iter().map(read).collect()
}

/// `02:42:ac:11:00:02`, or with hyphens.
pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    // A group's address cannot be an interface's own.
    (parts.next().is_none() && bytes[0] & 1 == 0).then_some(bytes)
}

/// The usual writing of a MAC address.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// `net.ipv4.conf.IFNAME.log_martians=1,…`: of the endpoint's own interface only.
fn sysctls(text: &str) -> Result<Vec<(String, String)>> {
    let one = |pair: &str| {
        let invalid = || {
            Error::invalid(format!("invalid endpoint sysctl {pair:?}: net.X.Y.IFNAME.Z=VALUE is expected"))
        };
        let (name, value) = pair.split_once('=').ok_or_else(invalid)?;
        let parts: Vec<&str> = name.trim().split('.').collect();
        let plain =
            |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let shape =
            matches!(parts.as_slice(), ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", _]);
        if !shape || !parts.iter().all(plain) {
            return Err(invalid());
        }
        Ok((name.trim().to_owned(), value.to_owned()))
    };
    text.split(',').filter(|pair| !pair.is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EndpointIpam;
    use std::collections::BTreeMap;

    fn network(name: &str, configured: bool) -> Network {
        let ipam = serde_json::json!({"Driver": "default", "Config": [{"Subnet": "10.1.0.0/16", "Gateway": "10.1.0.1"}]});
        Network {
            name: name.into(),
            id: "a".repeat(64),
            created: String::new(),
            driver: "bridge".into(),
            enable_ipv4: true,
            enable_ipv6: false,
            ipam: serde_json::from_value(ipam).unwrap(),
            internal: false,
            attachable: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            configured,
            config_only: false,
            config_from: String::new(),
            left_out: Vec::new(),
        }
    }

    fn at(address: &str) -> EndpointSettings {
        let ipam = EndpointIpam { ipv4_address: address.into(), ..EndpointIpam::default() };
        EndpointSettings { ipam_config: Some(ipam), ..EndpointSettings::default() }
    }

    #[test]
    fn addresses_are_for_networks_whose_subnet_was_named() {
        let refused = |network: &Network, address: &str| check(network, &at(address)).unwrap_err().message;
        let own = network("own", true);
        assert_eq!(check(&own, &at("10.1.2.3")).unwrap().address4, "10.1.2.3".parse().ok());
        assert_eq!(
            refused(&own, "10.2.0.1"),
            "no configured subnet or ip-range contain the IP address 10.2.0.1"
        );
        assert_eq!(refused(&own, "10.2.0"), "invalid IPv4 address: 10.2.0");
        assert!(refused(&network("bridge", true), "10.1.0.9").contains("user defined networks only"));
        assert!(refused(&network("own", false), "10.1.0.9").contains("user configured subnets"));
    }

    #[test]
    fn addresses_of_the_link_are_of_the_link() {
        let at = |addresses: &[&str]| EndpointSettings {
            ipam_config: Some(EndpointIpam {
                link_local_ips: addresses.iter().map(|address| (*address).to_owned()).collect(),
                ..EndpointIpam::default()
            }),
            ..EndpointSettings::default()
        };
        let own = network("own", false);
        let asked = check(&own, &at(&["169.254.8.8", "fe80::8"])).unwrap();
        assert_eq!(asked.link_local.len(), 2);
        for no in ["10.0.0.1", "2001:db8::1", "", "x"] {
            let message = check(&own, &at(&[no])).unwrap_err().message;
            assert_eq!(message, format!("invalid link-local IP address: {no}"));
        }
        assert!(check(&network("bridge", false), &at(&["169.254.8.8"])).is_err());
    }

    #[test]
    fn aliases_are_for_networks_of_ones_own() {
        let aliases = EndpointSettings { aliases: Some(vec!["db".into()]), ..EndpointSettings::default() };
        assert!(check(&network("own", false), &aliases).is_ok());
        assert!(
            check(&network("bridge", false), &aliases).unwrap_err().message.contains("network-scoped alias")
        );
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(mac("02:42:ac:11:00:02"), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        assert_eq!(mac("02-42-AC-11-00-02"), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        for text in [
            "",
            "02:42",
            "02:42:ac:11:00:02:03",
            "03:42:ac:11:00:02",
            "2:42:ac:11:00:02",
            "zz:42:ac:11:00:02",
        ] {
            assert_eq!(mac(text), None, "{text}");
        }
        assert_eq!(mac_text([2, 0x42, 0xac, 0x11, 0, 2]), "02:42:ac:11:00:02");
    }

    #[test]
    fn a_hardware_address_of_the_last_run_was_not_asked_for() {
        let at = |ip_address: &str, endpoint_id: &str, mac_address: &str| EndpointSettings {
            ip_address: ip_address.into(),
            endpoint_id: endpoint_id.into(),
            mac_address: mac_address.into(),
            ..EndpointSettings::default()
        };
        let asked = |settings: EndpointSettings| check(&network("own", true), &settings).unwrap().mac;
        let id = "c0a80001ffff";
        assert_eq!(asked(at("10.1.0.2", id, "02:42:0a:01:00:02")), None);
        assert_eq!(asked(at("", id, "02:42:c0:a8:00:01")), None, "of a network without IPv4");
        let chosen = Some([2, 0x42, 0x0a, 1, 0, 2]);
        for (address, endpoint) in [("", ""), ("10.1.0.3", id), ("", id)] {
            assert_eq!(asked(at(address, endpoint, "02:42:0a:01:00:02")), chosen);
        }
    }

    #[test]
    fn options_of_an_endpoint() {
        let with = |name: &str, value: &str| EndpointSettings {
            driver_opts: Some(BTreeMap::from([(name.to_owned(), value.to_owned())])),
            ..EndpointSettings::default()
        };
        let of = |name: &str, value: &str| check(&network("own", false), &with(name, value));
        assert_eq!(
            of("com.docker.network.endpoint.ifname", "lan").unwrap().interface.as_deref(),
            Some("lan")
        );
        assert!(of("com.docker.network.endpoint.ifname", "a/b").is_err());
        let sysctls =
            of("com.docker.network.endpoint.sysctls", "net.ipv4.conf.IFNAME.log_martians=1").unwrap().sysctls;
        assert_eq!(sysctls, [("net.ipv4.conf.IFNAME.log_martians".to_owned(), "1".to_owned())]);
        assert!(of("com.docker.network.endpoint.sysctls", "kernel.panic=1").is_err());
        assert!(of("com.docker.network.other", "1").unwrap_err().message.contains("other"));
        assert!(of("com.example.note", "1").is_ok());
    }
}
