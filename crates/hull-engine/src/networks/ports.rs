//! Published ports: what was asked for, and what the host could give.

mod answered;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use hull_network::ports::{Answered, PortRange, reserve};
use hull_network::{Protocol, Published};
use hull_runtime::protocol::Relay;

pub(super) use self::answered::told;
use self::answered::{is_led_with_ipv4, stand_in};
use crate::model::PortBinding;
use crate::{Error, Kind, Result};

/// A port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    number: u16,
    protocol: Protocol,
}

impl std::fmt::Display for Port {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.number, self.protocol)
    }
}

/// One place on the host that a port is to be reached at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    address: Option<IpAddr>,
    range: PortRange,
}

/// What is asked for each port; an empty list is a port that is exposed and not published.
pub(super) type Plan = BTreeMap<Port, Vec<Wanted>>;

/// What a container's ports came to.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) shown: BTreeMap<String, Vec<PortBinding>>,
    pub(super) published: Vec<Published>,
    pub(super) sockets: Vec<OwnedFd>,
    /// At which of the sockets the shim answers.
    pub(super) relays: Vec<Relay>,
}

/// Where ports lead to.
#[derive(Clone, Copy, Default)]
pub(super) struct Target<'a> {
    pub(super) bridge: &'a str,
    pub(super) address4: Option<Ipv4Addr>,
    pub(super) address6: Option<Ipv6Addr>,
    /// The network's `com.docker.network.bridge.host_binding_ipv4`.
    pub(super) host_binding: Option<IpAddr>,
    /// The shim answers by IPv6 where the container has none.
    pub(super) relayed: bool,
    /// What is published of the IPv4 address is let in there, and no port of the host leads to it.
    pub(super) routed4: bool,
    /// The same of IPv6.
    pub(super) routed6: bool,
    /// What is published is let in at the container's own address besides.
    pub(super) trusts: bool,
}

/// Reads what was asked.
///
/// # Errors
/// A port, range, protocol or address that is none.
pub(super) fn plan(
    bindings: &BTreeMap<String, Vec<PortBinding>>,
    exposed: &[String],
    publish_all: bool,
) -> Result<Plan> {
    let mut plan = Plan::new();
    for text in exposed {
        for port in ports(text)? {
            plan.entry(port).or_default();
        }
    }
    for (text, places) in bindings {
        let mut ports = ports(text)?;
        let port = ports.next().ok_or_else(|| no_port(text))?;
        if ports.next().is_some() {
            return Err(Error::invalid(format!(
                "invalid port specification: \"{text}\": name each of the range's ports with its binding"
            )));
        }
        let wanted = places.iter().map(wanted).collect::<Result<Vec<_>>>()?;
        let place = plan.entry(port).or_default();
        place.extend(wanted);
        if places.is_empty() {
            place.push(Wanted { address: None, range: PortRange::ANY });
        }
    }
    if publish_all {
        for places in plan.values_mut().filter(|places| places.is_empty()) {
            places.push(Wanted { address: None, range: PortRange::ANY });
        }
    }
    Ok(plan)
}

/// Takes the host's ports. What is taken already is given back by its drop when one cannot be had.
///
/// # Errors
/// A port of the host is another's; the sentence is Docker's.
pub(super) fn take(plan: &Plan, target: &Target<'_>, endpoint: (&str, &str)) -> Result<Taken> {
    let mut taken = Taken::default();
    for (port, places) in plan {
        let mut shown = Vec::new();
        let mut answered = Vec::new();
        for place in places {
            let address = place.address.or(target.host_binding);
            let asked = (address, place.range);
            if let Some(host) = target.answered_for(address).filter(|_| port.protocol != Protocol::Sctp) {
                let (number, relay) = taken.hold(*port, asked, Answered::ByHolder, endpoint)?;
                shown.push(binding(host.into(), number));
                answered.extend(relay.map(|relay| (host, number, relay)));
                continue;
            }
            let pairs = target.pairs(address)?;
            let (direct, translated): (Vec<_>, Vec<_>) =
                pairs.into_iter().partition(|(_, container)| target.is_routed(*container));
            if let [(host, _), ..] = translated.as_slice() {
                // The host's port of a family that is routed stays free.
                let held = address.or((!direct.is_empty()).then_some(*host));
                // The firewall leads from this one. Whoever is at this port of 127.0.0.1 is another there.
                let by = if held.is_some() { Answered::No } else { target.answered() };
                let (number, relay) = taken.hold(*port, (held, place.range), by, endpoint)?;
                // Where the container has IPv6 it is shown as published there.
                if relay.is_some() && target.address6.is_none() {
                    shown.push(binding(Ipv6Addr::UNSPECIFIED.into(), number));
                }
                taken.publish(*port, number, &translated, target, &mut shown);
            }
            taken.publish(*port, 0, &direct, target, &mut shown);
        }
        taken.lead(*port, &answered, &shown, target);
        shown.sort_by_key(|binding: &PortBinding| binding.host_ip.contains(':'));
        taken.shown.insert(port.to_string(), shown);
    }
    Ok(taken)
}

impl Taken {
    /// Takes a port of the host, and has the shim answer at it where that is asked for; its number, and the relay's.
    fn hold(
        &mut self,
        port: Port,
        (address, range): (Option<IpAddr>, PortRange),
        answered: Answered,
        endpoint: (&str, &str),
    ) -> Result<(u16, Option<usize>)> {
        let reserved = reserve(port.protocol, address, range, answered)
            .map_err(|error| refused(&error, endpoint, address, range))?;
        let relay = reserved.answered.map(|place| {
            self.relays.push(Relay {
                reserved: self.sockets.len() + place,
                datagrams: port.protocol == Protocol::Udp,
                // Which the firewall leads to wherever the container is.
                to: (Ipv4Addr::LOCALHOST, reserved.port).into(),
            });
            self.relays.len() - 1
        });
        self.sockets.extend(reserved.sockets);
        Ok((reserved.port, relay))
    }

    /// Publishes at a port of the host, or (0) at the container's own addresses.
    fn publish(
        &mut self,
        port: Port,
        number: u16,
        pairs: &[(IpAddr, IpAddr)],
        target: &Target<'_>,
        shown: &mut Vec<PortBinding>,
    ) {
        for (host, container) in pairs {
            shown.push(binding(*host, number));
            add(&mut self.published, port, (*host, number), *container, target);
        }
    }
}

/// What inspect shows of a port of the host, or (0) of one at the container's own address.
fn binding(host: IpAddr, number: u16) -> PortBinding {
    let host_port = if number == 0 { String::new() } else { number.to_string() };
    PortBinding { host_ip: host.to_string(), host_port }
}

/// Adds what is published, and what is let in besides.
fn add(
    all: &mut Vec<Published>,
    port: Port,
    (host, number): (IpAddr, u16),
    container: IpAddr,
    target: &Target<'_>,
) {
    if number != 0 {
        all.push(published(port, host, number, container, target));
    }
    if number == 0 || target.trusts {
        let direct = published(port, host, 0, container, target);
        // Two ports of the host may lead to one of the container's.
        if !all.contains(&direct) {
            all.push(direct);
        }
    }
}

/// The ports of a container that nothing is published of: each is shown with an empty list.
pub(super) fn unpublished(plan: &Plan) -> Taken {
    let shown = plan.keys().map(|port| (port.to_string(), Vec::new())).collect();
    Taken { shown, ..Taken::default() }
}

/// What is published, from what inspect shows of it: for a container that an earlier daemon started, or one whose
/// address changed.
pub(super) fn again(
    shown: &BTreeMap<String, Vec<PortBinding>>,
    target: &Target<'_>,
) -> Result<Vec<Published>> {
    let mut all = Vec::new();
    for (text, places) in shown {
        for (port, place) in ports(text)?.flat_map(|port| places.iter().map(move |place| (port, place))) {
            let host: IpAddr = address(&place.host_ip)?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            // None is one that is let in at the container's own address.
            let number = match place.host_port.as_str() {
                "" => 0,
                text => number(text).ok_or_else(|| no_port(text))?,
            };
            let relayed = Target { relayed: number != 0, ..*target };
            if let (Some(host), Some(container)) = (relayed.answered_for(Some(host)), target.address4) {
                if !is_led_with_ipv4(host, number, places) {
                    add(&mut all, port, stand_in(host, number), container.into(), target);
                }
                continue;
            }
            for (host, container) in target.pairs(Some(host))? {
                add(&mut all, port, (host, number), container, target);
            }
        }
    }
    Ok(all)
}

fn published(port: Port, host: IpAddr, host_port: u16, container: IpAddr, target: &Target<'_>) -> Published {
    Published {
        protocol: port.protocol,
        host_address: Some(host).filter(|address| host_port != 0 && !address.is_unspecified()),
        host_port,
        container_address: container,
        container_port: port.number,
        bridge: target.bridge.to_owned(),
    }
}

impl Target<'_> {
    /// Whether what is published of an address of the container's is let in there.
    fn is_routed(&self, container: IpAddr) -> bool {
        if container.is_ipv4() { self.routed4 } else { self.routed6 }
    }

    /// The host's address and the container's that it leads to; two where no address was asked for and both families
    /// are there.
    fn pairs(&self, host: Option<IpAddr>) -> Result<Vec<(IpAddr, IpAddr)>> {
        let four = |host: Ipv4Addr| self.address4.map(|address| (IpAddr::V4(host), IpAddr::V4(address)));
        let six = |host: Ipv6Addr| self.address6.map(|address| (IpAddr::V6(host), IpAddr::V6(address)));
        let pairs: Vec<_> = match host {
            None => four(Ipv4Addr::UNSPECIFIED).into_iter().chain(six(Ipv6Addr::UNSPECIFIED)).collect(),
            Some(IpAddr::V4(host)) => four(host).into_iter().collect(),
            Some(IpAddr::V6(host)) => six(host).into_iter().collect(),
        };
        if pairs.is_empty() {
            let family = if host.is_some_and(|host| host.is_ipv6()) { "IPv6" } else { "IPv4" };
            return Err(Error::invalid(format!(
                "cannot publish a port on an {family} address: the container's network has no {family}"
            )));
        }
        Ok(pairs)
    }
}

/// `80`, `80/tcp`, `8000-8010/udp`.
fn ports(text: &str) -> Result<impl Iterator<Item = Port> + use<>> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol: Protocol = protocol
        .parse()
        .map_err(|_| Error::invalid(format!("invalid port specification: \"{text}\": invalid protocol")))?;
    let range = range(numbers).filter(|range| range.first > 0).ok_or_else(|| no_port(text))?;
    Ok((range.first..=range.last).map(move |number| Port { number, protocol }))
}

fn wanted(binding: &PortBinding) -> Result<Wanted> {
    let range = match binding.host_port.as_str() {
        "" | "0" => PortRange::ANY,
        text => range(text)
            .filter(|range| range.first > 0)
            .ok_or_else(|| Error::invalid(format!("invalid port specification: \"{text}\"")))?,
    };
    Ok(Wanted { address: address(&binding.host_ip)?, range })
}

fn address(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse()
        .map(Some)
        .map_err(|_| Error::invalid(format!("invalid IP address in port binding: {text:?}")))
}

/// `3000` or `3000-3010`.
fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(PortRange { first, last })
}

fn number(text: &str) -> Option<u16> {
    // `parse` alone would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn no_port(text: &str) -> Error {
    Error::invalid(format!("invalid port specification: \"{text}\": a port is a number from 1 to 65535"))
}

fn refused(
    error: &hull_network::Error,
    (name, id): (&str, &str),
    address: Option<IpAddr>,
    range: PortRange,
) -> Error {
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let reason = match error {
        hull_network::Error::PortTaken { port, holder, .. } => {
            let host = std::net::SocketAddr::new(address, *port);
            let by = holder.as_ref().map(|holder| format!(" (by {holder})")).unwrap_or_default();
            format!("Bind for {host} failed: port is already allocated{by}")
        }
        hull_network::Error::NoPortFree { .. } if range != PortRange::ANY => {
            let (first, last) = (range.first, range.last);
            format!("Bind for {address}:{first}-{last} failed: all ports are allocated")
        }
        other => other.to_string(),
    };
    let message =
        format!("driver failed programming external connectivity on endpoint {name} ({id}): {reason}");
    Error::new(Kind::System, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn bindings(list: &[(&str, &str, &str)]) -> BTreeMap<String, Vec<PortBinding>> {
        let mut map = BTreeMap::<String, Vec<PortBinding>>::new();
        for (port, host_ip, host_port) in list {
            let binding = PortBinding { host_ip: (*host_ip).into(), host_port: (*host_port).into() };
            map.entry((*port).into()).or_default().push(binding);
        }
        map
    }

    fn shown(plan: &Plan) -> Vec<String> {
        let place = |place: &Wanted| {
            let address = place.address.map(|address| address.to_string()).unwrap_or_default();
            format!("{address}:{}-{}", place.range.first, place.range.last)
        };
        let line = |(port, places): (&Port, &Vec<Wanted>)| {
            format!("{port} {}", places.iter().map(place).collect::<Vec<_>>().join(" "))
        };
        plan.iter().map(line).collect()
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let asked = bindings(&[
            ("80/tcp", "127.0.0.1", "3000"),
            ("80/tcp", "", "3001-3003"),
            ("53/UDP", "[::1]", "0"),
            ("90", "", ""),
        ]);
        let plan = plan(&asked, &["443/tcp".into(), "80".into()], false).unwrap();
        assert_eq!(
            shown(&plan),
            ["53/udp ::1:0-0", "80/tcp 127.0.0.1:3000-3000 :3001-3003", "90/tcp :0-0", "443/tcp "]
        );
    }

    #[test]
    fn publish_all_publishes_what_is_exposed() {
        let plan = plan(&bindings(&[("80/tcp", "", "80")]), &["80/tcp".into(), "7000-7001/udp".into()], true)
            .unwrap();
        assert_eq!(shown(&plan), ["80/tcp :80-80", "7000/udp :0-0", "7001/udp :0-0"]);
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for (port, address, host_port) in [
            ("0/tcp", "", ""),
            ("80/http", "", ""),
            ("65536", "", ""),
            ("+80", "", ""),
            ("", "", ""),
            ("9-8", "", ""),
            ("80-81", "", ""),
            ("80", "300.0.0.1", ""),
            ("80", "", "70000"),
            ("80", "", "a"),
            ("80", "", "9-8"),
        ] {
            let refused = plan(&bindings(&[(port, address, host_port)]), &[], false);
            assert_eq!(
                refused.map_err(|error| error.kind),
                Err(Kind::InvalidParameter),
                "{port} {host_port}"
            );
        }
    }

    #[test]
    fn both_families_are_published_where_both_are_there() {
        let four = "10.0.0.2".parse().ok();
        let six = "fd00::2".parse().ok();
        let target = |address4, address6| Target {
            bridge: "b",
            address4,
            address6,
            relayed: true,
            ..Target::default()
        };
        assert_eq!(target(four, None).pairs(None).unwrap().len(), 1);
        assert_eq!(target(four, six).pairs(None).unwrap().len(), 2);
        assert_eq!(target(four, six).pairs(Some("::1".parse().unwrap())).unwrap().len(), 1);
        assert!(target(four, None).pairs(Some("::1".parse().unwrap())).is_err());
        // What the shim answers needs IPv4 in the container.
        let answered =
            [(four, None), (four, six), (None, six)].map(|(four, six)| target(four, six).answered());
        assert_eq!(answered, [Answered::ByHolder, Answered::ByHolder, Answered::No]);
    }

    #[test]
    fn what_was_published_is_known_again_from_what_is_shown() {
        let target = Target { bridge: "b", address4: "10.0.0.2".parse().ok(), ..Target::default() };
        let shown = [("80/tcp", "0.0.0.0", "3000"), ("80/tcp", "::", "3000"), ("81/udp", "127.0.0.1", "9")];
        let all = again(&bindings(&shown), &target).unwrap();
        assert_eq!(all.len(), 2, "what the shim answers is not the firewall's");
        assert_eq!(all[0].host_address, None);
        assert_eq!((all[0].host_port, all[0].container_port), (3000, 80));
        assert_eq!(all[1].host_address, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(all[1].protocol, Protocol::Udp);
    }

    #[test]
    fn what_is_routed_takes_no_port_of_the_host() {
        let target = Target {
            bridge: "b",
            address4: "10.0.0.2".parse().ok(),
            address6: "fd00::2".parse().ok(),
            routed4: true,
            routed6: true,
            ..Target::default()
        };
        let plan = plan(&bindings(&[("80/tcp", "", "3000"), ("80/tcp", "", "3001")]), &[], false).unwrap();
        let taken = take(&plan, &target, ("web", "e1")).unwrap();
        assert!(taken.sockets.is_empty() && taken.relays.is_empty());
        let binding = |binding: &PortBinding| format!("{}:{}", binding.host_ip, binding.host_port);
        let shown: Vec<String> = taken.shown["80/tcp"].iter().map(binding).collect();
        assert_eq!(shown, ["0.0.0.0:", "0.0.0.0:", ":::", ":::"]);
        assert_eq!(taken.published.len(), 2, "each address once");
        assert!(taken.published.iter().all(Published::is_direct));
        assert_eq!(again(&taken.shown, &target).unwrap(), taken.published);
    }

    #[test]
    fn a_port_in_use_is_refused_in_dockers_words() {
        let error = hull_network::Error::PortTaken {
            protocol: Protocol::Tcp,
            address: None,
            port: 3000,
            holder: None,
        };
        let refused = refused(&error, ("web", "e1"), None, PortRange::exactly(3000));
        assert_eq!(
            refused.message,
            "driver failed programming external connectivity on endpoint web (e1): \
             Bind for 0.0.0.0:3000 failed: port is already allocated"
        );
    }
}
