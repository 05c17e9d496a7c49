//! The texts of a container's /etc/hosts and /etc/resolv.conf.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use hull_network::files::{Hosts, ResolvConf, hosts, resolv_conf};

use super::Networks;
use crate::model::EndpointSettings;
use crate::{Error, Result};

/// What a container's /etc/resolv.conf depends on.
pub(crate) struct Resolving<'a> {
    /// The names of its networks; none for `container:`, which has the other's file.
    pub(crate) networks: &'a [&'a str],
    /// `--dns`.
    pub(crate) dns: &'a [String],
    /// `--dns-search`.
    pub(crate) search: &'a [String],
    /// `--dns-option`.
    pub(crate) options: &'a [String],
}

/// What a container's /etc/hosts depends on.
pub(crate) struct HostsOf<'a> {
    /// Its places on networks.
    pub(crate) endpoints: &'a BTreeMap<String, EndpointSettings>,
    /// Its host name.
    pub(crate) hostname: &'a str,
    /// Its domain name.
    pub(crate) domainname: &'a str,
    /// `--add-host`.
    pub(crate) extra: &'a [String],
    /// Whom it is linked to, with all names.
    pub(crate) linked: Vec<(IpAddr, Vec<String>)>,
}

/// Who is asked where neither the host nor the user names a server that a container can reach: Docker's choice.
const PUBLIC: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4))];
/// Where a container on a network of one's own asks.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// What a network is to name resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The host's own namespace: its resolvers as they are.
    Host,
    /// A namespace of its own without names: the host's resolvers that it can reach.
    Plain,
    /// A network of one's own.
    Own,
}

impl Networks {
    /// The text of /etc/resolv.conf.
    ///
    /// # Errors
    /// A server of `--dns` is no address.
    pub(crate) fn resolv_conf(&self, resolving: &Resolving<'_>) -> Result<String> {
        let state = self.inner.state();
        let mut place = Place::Plain;
        for network in resolving.networks {
            let network = &state.find(network)?.network;
            match network.driver.as_str() {
                "host" => place = Place::Host,
                _ if network.is_user_defined() => place = Place::Own,
                _ => {}
            }
        }
        drop(state);
        let or = |own: &[String], daemons: &[String]| {
            if own.is_empty() { daemons.to_vec() } else { own.to_vec() }
        };
        let own = ResolvConf {
            nameservers: match servers(resolving.dns)? {
                servers if servers.is_empty() => self.inner.dns.clone(),
                servers => servers,
            },
            search: or(resolving.search, &self.inner.dns_search),
            options: or(resolving.options, &self.inner.dns_options),
        };
        Ok(resolv_conf(&facts(place, own, hull_network::dns::host_resolvers())))
    }

    /// The text of /etc/hosts for a container with these endpoints: without one of its own for `none`, the host's
    /// file for `host`.
    ///
    /// # Errors
    /// An `--add-host` that is none.
    pub(crate) fn hosts(&self, of: &HostsOf<'_>) -> Result<String> {
        let HostsOf { endpoints, hostname, domainname, extra, linked } = of;
        let gateways = self.gateways();
        let mut named = Vec::new();
        for text in *extra {
            named.extend(extra_host(text, &gateways)?);
        }
        let extra = named;
        let on_host = endpoints.keys().any(|name| name == "host");
        if on_host {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for (name, address) in extra {
                text.push_str(&format!("{address}\t{name}\n"));
            }
            return Ok(text);
        }
        let names = match *domainname {
            // A host name with a domain in it is found by its first part, too.
            "" => match hostname.split_once('.') {
                Some((first, _)) => vec![(*hostname).to_owned(), first.to_owned()],
                None => vec![(*hostname).to_owned()],
            },
            domain => vec![format!("{hostname}.{domain}"), (*hostname).to_owned()],
        };
        let addresses =
            endpoints.values().flat_map(|settings| [&settings.ip_address, &settings.global_ipv6_address]);
        let own: Vec<_> =
            addresses.filter_map(|text| text.parse().ok()).map(|address| (address, names.clone())).collect();
        Ok(hosts(&Hosts { own, extra, linked: linked.clone(), ipv6: true }))
    }

    /// What `host-gateway` stands for: what the daemon is told, or the default network's bridge.
    fn gateways(&self) -> Vec<IpAddr> {
        if !self.inner.host_gateways.is_empty() {
            return self.inner.host_gateways.clone();
        }
        let state = self.inner.state();
        let plan = state.find("bridge").ok().and_then(|entry| entry.plan.clone());
        let gateway = plan.and_then(|plan| plan.bridge()?.gateway4);
        gateway.map(|(address, _)| IpAddr::V4(address)).into_iter().collect()
    }
}

/// The servers of `--dns`.
pub(super) fn servers(texts: &[String]) -> Result<Vec<IpAddr>> {
    let server = |text: &String| {
        text.parse().map_err(|_| Error::invalid(format!("invalid DNS server: {text:?} is not an IP address")))
    };
    texts.iter().map(server).collect()
}

/// What the file says: `own` is what the user or the daemon was told, `host` fills what is empty in it.
fn facts(place: Place, own: ResolvConf, host: ResolvConf) -> ResolvConf {
    let ResolvConf { mut nameservers, mut search, mut options } = own;
    if place == Place::Own {
        nameservers = vec![OWN];
        if !options.iter().any(|option| option.starts_with("ndots:")) {
            options.push("ndots:0".to_owned());
        }
    } else if nameservers.is_empty() {
        nameservers = host.nameservers;
        if place == Place::Plain {
            nameservers.retain(|server| !server.is_loopback());
            if nameservers.is_empty() {
                nameservers = PUBLIC.to_vec();
            }
        }
    }
    if search.is_empty() {
        search = host.search;
    }
    // `--dns-search .` means none.
    search.retain(|domain| domain != ".");
    if options.is_empty() {
        options = host.options;
    }
    ResolvConf { nameservers, search, options }
}

/// `name:address`, `name=address`, `name:host-gateway`, which may be two addresses.
fn extra_host(text: &str, gateways: &[IpAddr]) -> Result<Vec<(String, IpAddr)>> {
    let invalid = |why: &str| Error::invalid(format!("invalid extra host {text:?}: {why}"));
    let (name, address) = text.split_once(['=', ':']).ok_or_else(|| invalid("name:address is expected"))?;
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(invalid("a name without spaces is expected"));
    }
    if address == "host-gateway" {
        if gateways.is_empty() {
            return Err(invalid("the default network has no IPv4 gateway"));
        }
        return Ok(gateways.iter().map(|gateway| (name.to_owned(), *gateway)).collect());
    }
    let bare = address.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(address);
    let address = bare.parse().map_err(|_| invalid("no IP address behind the name"))?;
    Ok(vec![(name.to_owned(), address)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(nameservers: &[&str], search: &[&str], options: &[&str]) -> ResolvConf {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        ResolvConf {
            nameservers: nameservers.iter().map(|text| text.parse().unwrap()).collect(),
            search: words(search),
            options: words(options),
        }
    }

    #[test]
    fn the_hosts_resolvers_without_those_that_cannot_be_reached() {
        let host = conf(&["127.0.0.53", "10.0.0.1"], &["example.org"], &["edns0"]);
        let of = |place, own: &ResolvConf| facts(place, own.clone(), host.clone());
        let nothing = ResolvConf::default();
        assert_eq!(of(Place::Plain, &nothing), conf(&["10.0.0.1"], &["example.org"], &["edns0"]));
        assert_eq!(of(Place::Host, &nothing), host);
        assert_eq!(of(Place::Own, &nothing), conf(&["127.0.0.11"], &["example.org"], &["ndots:0"]));
        let own = conf(&["9.9.9.9"], &["."], &["ndots:2"]);
        assert_eq!(of(Place::Plain, &own), conf(&["9.9.9.9"], &[], &["ndots:2"]));
        assert_eq!(of(Place::Own, &own), conf(&["127.0.0.11"], &[], &["ndots:2"]));
        let stub = conf(&["127.0.0.53"], &[], &[]);
        assert_eq!(facts(Place::Plain, nothing, stub).nameservers, PUBLIC);
    }

    #[test]
    fn extra_hosts() {
        let gateways = ["172.17.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let line = |(name, address): (String, IpAddr)| format!("{name} {address}");
        let of = |text: &str| {
            let all = extra_host(text, &gateways)?;
            Ok::<_, Error>(all.into_iter().map(line).collect::<Vec<_>>().join(", "))
        };
        assert_eq!(of("a:10.0.0.1").unwrap(), "a 10.0.0.1");
        assert_eq!(of("a=10.0.0.1").unwrap(), "a 10.0.0.1");
        assert_eq!(of("a:::1").unwrap(), "a ::1");
        assert_eq!(of("a:[::1]").unwrap(), "a ::1");
        assert_eq!(of("a:host-gateway").unwrap(), "a 172.17.0.1, a fd00::1");
        for text in ["a", "a:", ":1.2.3.4", "a\nb:1.2.3.4", "a:1.2.3"] {
            assert!(of(text).is_err(), "{text:?}");
        }
        assert!(extra_host("a:host-gateway", &[]).is_err());
    }
}
