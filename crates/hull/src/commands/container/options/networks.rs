//! `--network` and what belongs to it.

use serde_json::{Map, Value, json};

use super::flags::ContainerFlags;
use super::{Object, bad, csv};
use crate::error::Error;

/// The networks asked for.
#[derive(Debug)]
pub struct Networks {
    /// `HostConfig.NetworkMode`: the first of them, or `default`.
    pub mode: String,
    /// `NetworkingConfig.EndpointsConfig`
    pub endpoints: Map<String, Value>,
}

/// One `--network`.
#[derive(Debug, Default)]
struct Endpoint {
    target: String,
    aliases: Vec<String>,
    links: Vec<String>,
    ip: Option<String>,
    ip6: Option<String>,
    link_local: Vec<String>,
    mac: Option<String>,
    driver_opts: Map<String, Value>,
    gw_priority: Option<i64>,
}

/// Reads the flags.
pub fn parse(flags: &ContainerFlags) -> Result<Networks, Error> {
    let mut endpoints = Vec::new();
    for spec in &flags.network {
        endpoints.push(endpoint(spec).map_err(|why| bad("--network", spec, why))?);
    }
    if endpoints.is_empty() {
        endpoints.push(Endpoint { target: "default".to_owned(), ..Endpoint::default() });
    }
    if endpoints.len() > 1
        && let Some(other) = endpoints.iter().find(|endpoint| !endpoint.user_defined())
    {
        return Err(Error::usage(format!(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes ({})",
            other.target
        )));
    }
    endpoints[0].take_flags(flags)?;
    let mode = endpoints[0].target.clone();
    let mut map = Map::new();
    for endpoint in endpoints {
        let target = endpoint.target.clone();
        if map.contains_key(&target) {
            return Err(Error::usage(format!("network {target:?} is specified multiple times")));
        }
        // The modes that are no networks have no endpoint, nor has the default without settings.
        let user_defined = endpoint.user_defined();
        let settings = endpoint.settings();
        if user_defined || settings.as_object().is_some_and(|settings| !settings.is_empty()) {
            map.insert(target, settings);
        }
    }
    Ok(Networks { mode, endpoints: map })
}

/// Fills in what of networks is the host's configuration.
pub fn fill(host: &mut Object, flags: &ContainerFlags, networks: &Networks) -> Result<(), Error> {
    host.set("NetworkMode", networks.mode.as_str());
    host.list("Links", flags.link.clone());
    host.flag("PublishAllPorts", flags.publish_all);
    for server in &flags.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(bad("--dns", server, "it is not an IP address"));
        }
    }
    host.list("Dns", flags.dns.clone());
    host.list("DnsOptions", flags.dns_option.clone());
    // `--dns-search .` means none at all.
    host.list("DnsSearch", flags.dns_search.clone());
    let hosts: Result<Vec<_>, _> = flags.add_host.iter().map(|text| extra_host(text)).collect();
    host.list("ExtraHosts", hosts?);
    Ok(())
}

/// `name:address` or `name=address`; an IPv6 address may stand in brackets.
fn extra_host(text: &str) -> Result<String, Error> {
    let wrong = |why: String| bad("--add-host", text, why);
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| wrong(format!("bad format for add-host: {text:?}")))?;
    let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    if bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(wrong(format!("invalid IP address in add-host: {address:?}")));
    }
    Ok(format!("{name}:{bare}"))
}

/// `NAME`, or `name=NAME,alias=…,ip=…`.
fn endpoint(spec: &str) -> Result<Endpoint, String> {
    let mut endpoint = Endpoint::default();
    if !spec.contains('=') {
        endpoint.target = spec.to_owned();
        return Ok(endpoint);
    }
    for field in csv::fields(spec)? {
        let (key, value) =
            field.split_once('=').ok_or_else(|| format!("invalid field {field}: it must be key=value"))?;
        let value = value.trim().to_owned();
        match key.trim().to_lowercase().as_str() {
            "name" => endpoint.target = value,
            "alias" => endpoint.aliases.push(value),
            "ip" => endpoint.ip = Some(value),
            "ip6" => endpoint.ip6 = Some(value),
            "link-local-ip" => endpoint.link_local.push(value),
            "mac-address" => endpoint.mac = Some(value),
            "driver-opt" => {
                let (name, setting) =
                    value.split_once('=').ok_or("invalid key value pair format in driver options")?;
                endpoint.driver_opts.insert(name.trim().to_owned(), setting.trim().into());
            }
            "gw-priority" => {
                endpoint.gw_priority = Some(
                    value
                        .parse()
                        .map_err(|_| format!("invalid gw-priority ({value}): it must be an integer"))?,
                );
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if endpoint.target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(endpoint)
}

impl Endpoint {
    fn user_defined(&self) -> bool {
        let mode = self.target.as_str();
        !matches!(mode, "" | "default" | "bridge" | "host" | "none") && !mode.starts_with("container:")
    }

    /// The flags without a network's name in them speak of the first network.
    fn take_flags(&mut self, flags: &ContainerFlags) -> Result<(), Error> {
        let conflict = |flag: &str, inner: &str| {
            Error::usage(format!("conflicting options: cannot specify both {flag} and per-network {inner}"))
        };
        if !flags.network_alias.is_empty() {
            if !self.aliases.is_empty() {
                return Err(conflict("--network-alias", "alias"));
            }
            self.aliases = flags.network_alias.clone();
        }
        if self.user_defined() {
            self.links = flags.link.clone();
        }
        for (flag, inner, given, mine) in [
            ("--ip", "IPv4 address", &flags.ip, &mut self.ip),
            ("--ip6", "IPv6 address", &flags.ip6, &mut self.ip6),
            ("--mac-address", "MAC address", &flags.mac_address, &mut self.mac),
        ] {
            if given.is_some() {
                if mine.is_some() {
                    return Err(conflict(flag, inner));
                }
                *mine = given.clone();
            }
        }
        if !flags.link_local_ip.is_empty() {
            if !self.link_local.is_empty() {
                return Err(conflict("--link-local-ip", "link-local IP addresses"));
            }
            self.link_local = flags.link_local_ip.clone();
        }
        Ok(())
    }

    fn settings(self) -> Value {
        let mut settings = Object::default();
        let mut ipam = Object::default();
        ipam.some("IPv4Address", self.ip);
        ipam.some("IPv6Address", self.ip6);
        ipam.list("LinkLocalIPs", self.link_local);
        if !ipam.0.is_empty() {
            settings.set("IPAMConfig", json!(ipam.0));
        }
        settings.list("Aliases", self.aliases);
        settings.list("Links", self.links);
        settings.some("MacAddress", self.mac);
        settings.map("DriverOpts", self.driver_opts);
        settings.some("GwPriority", self.gw_priority);
        Value::Object(settings.0)
    }
}
