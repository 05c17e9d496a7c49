//! What changes in the table: the elements of its sets and maps.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::{
    DIRECT4, DIRECT6, OF_BRIDGES, OF_PORTS, PORTS4, PORTS6, WILDCARD4, WILDCARD6, ignore_absent,
    interface_bytes,
};
use crate::fabric::{Bridge, Protocol, Published, PublishedBy};
use crate::ipam::Subnet;
use crate::netlink::nft::{self, Element, Field, Set, Transaction};
use crate::netlink::{Socket, conntrack};
use crate::{Error, Result};

fn subnet_element(subnet: &Subnet, bridge: &str) -> Element {
    let with_bridge = |address: IpAddr| {
        let mut bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        bytes.extend_from_slice(&interface_bytes(bridge));
        bytes
    };
    Element { key: with_bridge(subnet.base()), key_end: with_bridge(subnet.last()), ..Element::default() }
}

fn wanted_elements(set: &Set, bridge: &Bridge) -> Vec<Element> {
    let name = interface_bytes(&bridge.name).to_vec();
    let subnets = |ipv4: bool| {
        let of_family = bridge.subnets.iter().filter(|subnet| subnet.base().is_ipv4() == ipv4);
        of_family.map(|subnet| subnet_element(subnet, &bridge.name)).collect()
    };
    let when = |condition: bool, key: Vec<u8>| {
        if condition { vec![Element { key, ..Element::default() }] } else { Vec::new() }
    };
    let masquerade = bridge.masquerade && !bridge.internal;
    let source = |key, address: Option<Vec<u8>>| {
        address.map(|data| Element { key, data, ..Element::default() }).into_iter().collect()
    };
    match set.name {
        "bridges" => when(true, name),
        "internal" => when(bridge.internal, name),
        "neighbours" => when(bridge.inter_container, [name.clone(), name].concat()),
        "subnets4" => subnets(true),
        "subnets6" => subnets(false),
        "open4" => when(bridge.open4, name),
        "open6" => when(bridge.open6, name),
        "masquerade4" if masquerade && !bridge.routed4 => subnets(true),
        "masquerade6" if masquerade && !bridge.routed6 => subnets(false),
        "routed4" => when(bridge.routed4, name),
        "routed6" => when(bridge.routed6, name),
        "trusted" => {
            let pair = |from: &String| [interface_bytes(from).to_vec(), name.clone()].concat();
            let pairs = bridge.trusted.iter().map(pair);
            pairs.map(|key| Element { key, ..Element::default() }).collect()
        }
        "source4" => source(name, bridge.source4.map(|address| address.octets().to_vec())),
        "source6" => source(name, bridge.source6.map(|address| address.octets().to_vec())),
        _ => Vec::new(),
    }
}

/// Makes the elements of a bridge what they are to be: none at all for `None`. One transaction.
pub(crate) fn set_bridge(
    socket: &mut Socket,
    table: &str,
    name: &str,
    bridge: Option<&Bridge>,
) -> Result<()> {
    let last_field = interface_bytes(name);
    let what = format!("setting the firewall for bridge {name}");
    let mut transaction = Transaction::new(table);
    for set in &OF_BRIDGES {
        let present: BTreeSet<Element> = nft::elements(socket, table, set.name)?
            .into_iter()
            .filter(|element| element.key.ends_with(&last_field))
            .collect();
        let wanted: BTreeSet<Element> =
            bridge.map(|bridge| wanted_elements(set, bridge)).unwrap_or_default().into_iter().collect();
        let stale: Vec<_> = present.difference(&wanted).cloned().collect();
        let missing: Vec<_> = wanted.difference(&present).cloned().collect();
        transaction.delete_elements(set.name, &what, &stale);
        transaction.add_elements(set.name, &what, &missing);
    }
    transaction.commit(socket)
}

fn protocol_number(protocol: Protocol) -> u8 {
    (match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
        Protocol::Sctp => libc::IPPROTO_SCTP,
    }) as u8
}

fn push_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
    }
}

/// The map that a published port stands in.
pub(crate) fn map_of(port: &Published) -> &'static str {
    if port.is_direct() {
        return if port.container_address.is_ipv4() { DIRECT4.name } else { DIRECT6.name };
    }
    let every = port.host_address.is_none_or(|address| address.is_unspecified());
    match (port.container_address.is_ipv4(), every) {
        (true, false) => PORTS4.name,
        (true, true) => WILDCARD4.name,
        (false, false) => PORTS6.name,
        (false, true) => WILDCARD6.name,
    }
}

/// The map that an element stands in, and its key there: what a published port is known by.
type Key = (&'static str, Vec<u8>);

/// The key and the element of a published port. The comment is "owner bridge".
fn port_element(owner: &str, port: &Published) -> Result<(Key, Element)> {
    let address = port.host_address.filter(|address| !address.is_unspecified());
    let ipv4 = port.container_address.is_ipv4();
    if port.host_address.is_some_and(|address| address.is_ipv4() != ipv4) {
        return Err(Error::Invalid(format!(
            "port {} of {} cannot be published to {}: IPv4 and IPv6 are not translated into each other",
            port.host_port,
            port.host_address.map(|address| address.to_string()).unwrap_or_default(),
            port.container_address
        )));
    }
    if owner.len() + 1 + port.bridge.len() > 120 || owner.contains(' ') || owner.contains('\0') {
        return Err(Error::Invalid(format!(
            "{owner:?} cannot own a port: at most 100 bytes, without spaces"
        )));
    }
    let set = map_of(port);
    let mut element = Element { comment: format!("{owner} {}", port.bridge), ..Element::default() };
    if port.is_direct() {
        push_address(&mut element.key, port.container_address);
        element.key.extend_from_slice(&[protocol_number(port.protocol), 0, 0, 0]);
        element.key.extend_from_slice(&port.container_port.to_be_bytes());
        element.key.extend_from_slice(&[0, 0]);
        return Ok(((set, element.key.clone()), element));
    }
    if let Some(address) = address {
        push_address(&mut element.key, address);
    }
    element.key.extend_from_slice(&[protocol_number(port.protocol), 0, 0, 0]);
    element.key.extend_from_slice(&port.host_port.to_be_bytes());
    element.key.extend_from_slice(&[0, 0]);
    push_address(&mut element.data, port.container_address);
    element.data.extend_from_slice(&port.container_port.to_be_bytes());
    element.data.extend_from_slice(&[0, 0]);
    Ok(((set, element.key.clone()), element))
}

/// What an element says, or `None` for one that is not ours to read.
fn port_of(set: &Set, element: &Element) -> Option<PublishedBy> {
    fn address(bytes: &[u8], ipv4: bool) -> Option<(IpAddr, &[u8])> {
        if ipv4 {
            let (address, rest) = bytes.split_first_chunk::<4>()?;
            Some((IpAddr::from(*address), rest))
        } else {
            let (address, rest) = bytes.split_first_chunk::<16>()?;
            Some((IpAddr::from(*address), rest))
        }
    }
    // Where nothing is translated, the container's own address and port are the key.
    let is_direct = set.data.is_empty();
    let ipv4 = if is_direct { set.key[0] } else { set.data[0] } == Field::Address4;
    let (host_address, key) = if set.key.len() == 3 {
        let (address, rest) = address(&element.key, ipv4)?;
        (Some(address), rest)
    } else {
        (None, element.key.as_slice())
    };
    let protocol = match libc::c_int::from(*key.first()?) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        libc::IPPROTO_SCTP => Protocol::Sctp,
        _ => return None,
    };
    let key_port = u16::from_be_bytes(*key.get(4..)?.first_chunk()?);
    let (owner, bridge) = element.comment.split_once(' ').unwrap_or((&element.comment, ""));
    let (container_address, container_port, host_address, host_port) = if is_direct {
        (host_address?, key_port, None, 0)
    } else {
        let (container, data) = address(&element.data, ipv4)?;
        (container, u16::from_be_bytes(*data.first_chunk()?), host_address, key_port)
    };
    let bridge = bridge.to_owned();
    let port = Published { protocol, host_address, host_port, container_address, container_port, bridge };
    Some(PublishedBy { owner: owner.to_owned(), port })
}

/// What the maps hold, kept beside the kernel's copy so that a clash is found and an owner is known without a dump.
/// This daemon is the table's only writer.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    held: HashMap<Key, (String, Published)>,
}

impl Ports {
    /// What an earlier daemon left.
    pub(crate) fn read(socket: &mut Socket, table: &str) -> Result<Ports> {
        let mut held = HashMap::new();
        for by in published(socket, table)? {
            let (key, _) = port_element(&by.owner, &by.port)?;
            held.insert(key, (by.owner, by.port));
        }
        Ok(Ports { held })
    }

    /// Adds the ports' elements: all or none. Those that are there already are no error.
    pub(crate) fn publish(
        &mut self,
        socket: &mut Socket,
        table: &str,
        owner: &str,
        ports: &[Published],
    ) -> Result<()> {
        let mut new: HashMap<_, (Element, &Published)> = HashMap::new();
        for port in ports {
            let (key, element) = port_element(owner, port)?;
            let clash = match self.held.get(&key) {
                Some((holder, held)) if holder == owner && same(held, port) => continue,
                Some(_) => true,
                None => new.insert(key, (element, port)).is_some_and(|(_, other)| !same(other, port)),
            };
            if clash {
                return Err(Error::AlreadyPublished {
                    protocol: port.protocol,
                    address: port.host_address,
                    port: port.host_port,
                });
            }
        }
        let mut transaction = Transaction::new(table);
        for ((set, _), (element, port)) in &new {
            let what = format!("publishing port {}/{}", port.host_port, port.protocol);
            transaction.add_elements(set, &what, std::slice::from_ref(element));
        }
        transaction.commit(socket)?;
        let added: Vec<_> = new.values().map(|(_, port)| *port).collect();
        self.held
            .extend(new.iter().map(|(key, (_, port))| (key.clone(), (owner.to_owned(), (*port).clone()))));
        forget_udp(socket, &added)
    }

    /// Removes the ports' elements as far as they are the owner's.
    pub(crate) fn unpublish(
        &mut self,
        socket: &mut Socket,
        table: &str,
        owner: &str,
        ports: &[Published],
    ) -> Result<()> {
        let mut transaction = Transaction::new(table);
        let mut gone = Vec::new();
        for port in ports {
            let (key, element) = port_element(owner, port)?;
            if self.held.get(&key).is_some_and(|(holder, held)| holder == owner && same(held, port)) {
                let what = format!("taking port {}/{} back", port.host_port, port.protocol);
                transaction.delete_elements(
                    key.0,
                    &what,
                    &[Element { key: element.key, ..Element::default() }],
                );
                gone.push((key, port));
            }
        }
        ignore_absent(transaction.commit(socket))?;
        for (key, _) in &gone {
            self.held.remove(key);
        }
        forget_udp(socket, &gone.into_iter().map(|(_, port)| port).collect::<Vec<_>>())
    }
}

/// See "Connections that exist" on the page above.
fn forget_udp(socket: &mut Socket, ports: &[&Published]) -> Result<()> {
    for port in ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        let (address, number) = if port.is_direct() {
            (Some(port.container_address), port.container_port)
        } else {
            (port.host_address.filter(|address| !address.is_unspecified()), port.host_port)
        };
        conntrack::forget_udp(socket, port.container_address.is_ipv4(), address, number)?;
    }
    Ok(())
}

fn same(one: &Published, other: &Published) -> bool {
    (one.container_address, one.container_port) == (other.container_address, other.container_port)
}

/// Every published port in the table.
pub(crate) fn published(socket: &mut Socket, table: &str) -> Result<Vec<PublishedBy>> {
    let mut all = Vec::new();
    for set in &OF_PORTS {
        let elements = nft::elements(socket, table, set.name)?;
        all.extend(elements.iter().filter_map(|element| port_of(set, element)));
    }
    Ok(all)
}
