//! Networks without a bridge: each container's interface is a device of its own on one of the machine's (macvlan,
//! ipvlan), and what it sends leaves there as it is.
//!
//! The machine's interface, the parent, is an administrator's, or made here: a VLAN's on another (`eth0.10`), or one that
//! leads nowhere. What is made here carries the instance's alias and goes with its last network.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use crate::fabric::{Endpoint, Fabric, absent_is_gone, check_name};
use crate::netlink::{Batch, Socket, route};
use crate::netns::{self, Inside, Interface};
use crate::{Error, Result};

/// What a device of macvlan's does with what is meant for its neighbours on the parent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MacvlanMode {
    /// They reach each other.
    #[default]
    Bridge,
    /// They do not.
    Private,
    /// They do if the switch that the parent is connected to sends it back.
    Vepa,
    /// There is one only, and it has the parent to itself.
    Passthru,
}

/// Where a device of ipvlan's decides about a packet's way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpvlanMode {
    /// By its own neighbours, on the parent's link.
    #[default]
    L2,
    /// By the machine's routes.
    L3,
    /// By the machine's routes, and its firewall sees it.
    L3s,
}

/// Whom a device of ipvlan's reaches on its parent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpvlanFlag {
    /// Its neighbours.
    #[default]
    Bridge,
    /// Not its neighbours.
    Private,
    /// Its neighbours, if the switch that the parent is connected to sends it back.
    Vepa,
}

/// The kind of device that is made on a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// One with a hardware address of its own.
    Macvlan(MacvlanMode),
    /// One with the parent's hardware address.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// A device of its own on a parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnParent {
    /// The parent's name.
    pub parent: String,
    /// What is made on it.
    pub device: Device,
}

/// What a device on a parent was given when it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What a container's interface is known by among the others of its namespace, whatever it is called there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark<'a> {
    /// The name of its pair's end on the host.
    HostEnd(&'a str),
    /// It is a device on a parent.
    OnParent {
        /// The parent's name.
        parent: &'a str,
        /// `macvlan` or `ipvlan`.
        kind: &'a str,
        /// What it was given.
        given: &'a Given,
        /// What the container's others of that kind on that parent were given: other networks' may be on one.
        others: &'a [Given],
    },
}

impl OnParent {
    /// Made with the parent's hardware address, and given its own behind that: the parent takes it, too.
    pub(crate) fn has_parents_mac(&self) -> bool {
        self.device == Device::Macvlan(MacvlanMode::Passthru)
    }
}

/// An interface that a network's containers have theirs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// One that leads nowhere, made and removed with the network.
    Alone(String),
    /// One of the machine's. Where it is not there and its name is another's with a VLAN's number (`eth0.10`), it is
    /// made, and removed with its last network.
    Of(String),
}

impl Parent {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Parent::Alone(name) | Parent::Of(name) => name,
        }
    }
}

/// The alias of a parent that was made here, before the instance's name.
const ALIAS: &str = "hull parent of ";

/// The kinds of interface that parents are made of: `ifb` where the kernel has no `dummy`.
const KINDS: [&str; 3] = ["vlan", "dummy", "ifb"];

impl Fabric {
    /// Makes the parent, unless it is there.
    ///
    /// # Errors
    /// It is not there and its name is no VLAN's on one that is; in Docker's words. Or the kernel refuses.
    pub fn ensure_parent(&self, parent: &Parent) -> Result<()> {
        let name = parent.name();
        check_name(name)?;
        if self.interface_exists(name)? {
            return Ok(());
        }
        match parent {
            Parent::Alone(name) => self.make_alone(name)?,
            Parent::Of(name) => self.make_vlan(name)?,
        }
        let mut batch = Batch::new();
        route::set_link(&mut batch, name, &format!("{ALIAS}{}", self.instance()), None);
        let named = self.links().send(batch);
        if named.is_err() {
            // The first error is the one to tell; without its alias nobody would remove it.
            let _ = self.delete_interface(name);
        }
        named
    }

    /// Removes a parent if this instance made it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_parent(&self, name: &str) -> Result<()> {
        if self.parents()?.iter().any(|own| own == name) { self.delete_interface(name) } else { Ok(()) }
    }

    /// The parents that this instance made.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn parents(&self) -> Result<Vec<String>> {
        let wanted = format!("{ALIAS}{}", self.instance());
        let mut own = Vec::new();
        for kind in KINDS {
            let links = self.all_of(kind)?.into_iter().filter(|(_, alias)| *alias == wanted);
            own.extend(links.map(|(name, _)| name));
        }
        Ok(own)
    }

    fn interface_exists(&self, name: &str) -> Result<bool> {
        match self.links().index_of(name) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn make_alone(&self, name: &str) -> Result<()> {
        let make = |kind| {
            let mut batch = Batch::new();
            route::add_alone(&mut batch, name, kind);
            self.links().send(batch)
        };
        match make("dummy") {
            // This kernel has none: what is sent to an intermediate functional block that nobody set up goes nowhere, too.
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => make("ifb"),
            made => made,
        }
    }

    fn make_vlan(&self, name: &str) -> Result<()> {
        let (parent, id) = vlan_of(name)?;
        let parent_index = match self.links().index_of(parent) {
            Err(error) if error.errno() == Some(libc::ENODEV) => {
                return Err(Error::Refused(format!(
                    "-o parent interface was not found on the host: {parent}"
                )));
            }
            found => found?,
        };
        let mut batch = Batch::new();
        route::add_vlan(&mut batch, name, parent_index, id);
        self.links().send(batch)
    }

    fn delete_interface(&self, name: &str) -> Result<()> {
        let mut batch = Batch::new();
        route::delete_link(&mut batch, name);
        absent_is_gone(self.links().send(batch))
    }

    /// Makes an endpoint's device in its namespace, which `inside` speaks to; the parent's index, and its own. It is not
    /// looked for by its name: who is in the namespace may have changed that already.
    pub(crate) fn add_on_parent(
        &self,
        namespace: BorrowedFd<'_>,
        inside: &mut Socket,
        on_parent: &OnParent,
        endpoint: &Endpoint,
    ) -> Result<(u32, u32)> {
        let before = netns::look_inside(inside)?;
        let parent_index = self.make_on_parent(namespace, on_parent, endpoint)?;
        let after = netns::look_inside(inside)?;
        let is_new = |made: &&Interface| before.interfaces.iter().all(|old| old.index != made.index);
        let made = devices(&after, on_parent.device.kind(), parent_index).find(is_new);
        let gone = || Error::Refused(format!("{} was removed as it was made", endpoint.container_name));
        Ok((parent_index, made.ok_or_else(gone)?.index))
    }

    /// The interface of a namespace that has this mark; none where it is gone, or all that it was known by.
    pub fn find<'a>(&self, inside: &'a Inside, mark: &Mark<'_>) -> Option<&'a Interface> {
        match mark {
            Mark::HostEnd(name) => {
                let index = self.host_index(name).ok()?;
                let is_it = |end: &&Interface| end.peer == index && end.peer_is_elsewhere;
                inside.interfaces.iter().find(is_it)
            }
            Mark::OnParent { parent, kind, given, others } => {
                match find_device(inside, kind, self.host_index(parent).ok()?, given, others) {
                    Found::Here(device) => Some(device),
                    Found::Gone | Found::Unknown => None,
                }
            }
        }
    }

    /// The interface of a namespace that is this endpoint's. `all` are those of the namespace, this one among them: they are
    /// told apart by the names of their host ends, which also those on a parent have.
    ///
    /// None where it is gone, or all that it was known by.
    pub fn find_endpoint<'a>(
        &self,
        inside: &'a Inside,
        endpoint: &Endpoint,
        all: &[Endpoint],
    ) -> Option<&'a Interface> {
        let Some(on_parent) = &endpoint.on_parent else {
            return self.find(inside, &Mark::HostEnd(&endpoint.host_name));
        };
        let others = others_on(on_parent, endpoint, all);
        let (parent, kind) = (on_parent.parent.as_str(), on_parent.device.kind());
        self.find(inside, &Mark::OnParent { parent, kind, given: &given(endpoint), others: &others })
    }

    /// Removes an endpoint's device from a namespace that lives on.
    pub(crate) fn detach_on_parent(
        &self,
        namespace: BorrowedFd<'_>,
        on_parent: &OnParent,
        endpoint: &Endpoint,
        all: &[Endpoint],
    ) -> Result<()> {
        let mut socket = netns::route_socket(namespace)?;
        let inside = netns::look_inside(&mut socket)?;
        let (parent, kind) = (on_parent.parent.as_str(), on_parent.device.kind());
        let Ok(index) = self.host_index(parent) else {
            // It went with its parent.
            return Ok(());
        };
        let others = others_on(on_parent, endpoint, all);
        match find_device(&inside, kind, index, &given(endpoint), &others) {
            Found::Here(device) => {
                let mut batch = Batch::new();
                route::delete_index(&mut batch, device.index, &device.name);
                absent_is_gone(socket.send(batch))
            }
            Found::Gone => Ok(()),
            Found::Unknown => Err(Error::Refused(format!(
                "which of the container's interfaces on {parent} is this network's cannot be told any more, for their \
                 addresses were changed inside: remove it there (ip link delete), and disconnect again"
            ))),
        }
    }

    /// The parent's index.
    fn make_on_parent(
        &self,
        namespace: BorrowedFd<'_>,
        on_parent: &OnParent,
        endpoint: &Endpoint,
    ) -> Result<u32> {
        let mut links = self.links();
        let parent = on_parent.parent.as_str();
        let parent_index = match links.index_of(parent) {
            Err(error) if error.errno() == Some(libc::ENODEV) => {
                return Err(Error::Refused(format!(
                    "the requested parent interface {parent} was not found on the Docker host"
                )));
            }
            found => found?,
        };
        let mut batch = Batch::new();
        route::add_on_parent(
            &mut batch,
            &route::OnParent {
                parent,
                parent_index,
                name: &endpoint.container_name,
                mac: matches!(on_parent.device, Device::Macvlan(_)).then_some(endpoint.mac),
                mtu: endpoint.mtu,
                namespace,
                device: on_parent.device.kernels(),
            },
        );
        links.send(batch)?;
        Ok(parent_index)
    }
}

/// The devices of that kind on a parent of another namespace's.
fn devices<'a>(inside: &'a Inside, kind: &str, parent: u32) -> impl Iterator<Item = &'a Interface> {
    let on_it = move |interface: &&Interface| interface.peer == parent && interface.peer_is_elsewhere;
    inside.interfaces.iter().filter(on_it).filter(move |interface| interface.kind == kind)
}

fn given(endpoint: &Endpoint) -> Given {
    let four = endpoint.address4.map(|(address, _)| address.into());
    let six = endpoint.address6.map(|(address, _)| address.into());
    Given { mac: endpoint.mac, addresses: four.into_iter().chain(six).collect() }
}

/// What the other endpoints were given that have devices of the same kind on the same parent.
fn others_on(on_parent: &OnParent, endpoint: &Endpoint, all: &[Endpoint]) -> Vec<Given> {
    let same = |other: &&Endpoint| {
        let other_on = other.on_parent.as_ref();
        other.host_name != endpoint.host_name
            && other_on.is_some_and(|other| {
                other.parent == on_parent.parent && other.device.kind() == on_parent.device.kind()
            })
    };
    all.iter().filter(same).map(given).collect()
}

/// What became of a device.
#[derive(Debug, PartialEq, Eq)]
enum Found<'a> {
    Here(&'a Interface),
    /// Each that is there is another network's.
    Gone,
    /// One that is there may be this one, or another.
    Unknown,
}

/// The one of them that has this hardware address, where each has its own; or one of these addresses; or the one that is
/// left when each of the others is known so. Where one of those is not, it may be that one's.
fn find_device<'a>(
    inside: &'a Inside,
    kind: &str,
    parent: u32,
    wanted: &Given,
    others: &[Given],
) -> Found<'a> {
    let all: Vec<&Interface> = devices(inside, kind, parent).collect();
    let has_address = |device: &Interface, given: &Given| {
        let mut own = inside.addresses.iter().filter(|(index, ..)| *index == device.index);
        own.any(|(_, address, _)| given.addresses.contains(address))
    };
    let known = |given: &Given| {
        let by_mac = all.iter().find(|device| kind == "macvlan" && device.mac == Some(given.mac));
        by_mac.or_else(|| all.iter().find(|device| has_address(device, given))).copied()
    };
    if let Some(device) = known(wanted) {
        return Found::Here(device);
    }
    let theirs: Vec<&Interface> = others.iter().filter_map(known).collect();
    let mut left = all.iter().filter(|device| theirs.iter().all(|other| other.index != device.index));
    match (left.next(), left.next()) {
        (None, _) => Found::Gone,
        (Some(device), None) if theirs.len() == others.len() => Found::Here(device),
        _ => Found::Unknown,
    }
}

impl Device {
    /// The kernel's word for it.
    pub fn kind(self) -> &'static str {
        match self {
            Device::Macvlan(_) => "macvlan",
            Device::Ipvlan(..) => "ipvlan",
        }
    }

    fn kernels(self) -> route::Device {
        match self {
            Device::Macvlan(mode) => route::Device::Macvlan {
                mode: match mode {
                    MacvlanMode::Private => 1,
                    MacvlanMode::Vepa => 2,
                    MacvlanMode::Bridge => 4,
                    MacvlanMode::Passthru => 8,
                },
            },
            Device::Ipvlan(mode, flag) => route::Device::Ipvlan {
                mode: match mode {
                    IpvlanMode::L2 => 0,
                    IpvlanMode::L3 => 1,
                    IpvlanMode::L3s => 2,
                },
                flags: match flag {
                    IpvlanFlag::Bridge => 0,
                    IpvlanFlag::Private => 1,
                    IpvlanFlag::Vepa => 2,
                },
            },
        }
    }
}

/// `eth0.10`: the interface and the VLAN's number.
fn vlan_of(name: &str) -> Result<(&str, u16)> {
    let refused = |message: String| Err(Error::Refused(message));
    match name.split('.').collect::<Vec<_>>().as_slice() {
        [_] => refused(format!("invalid subinterface vlan name {name}, example formatting is eth0.10")),
        [parent, number] => match number.parse::<i64>() {
            Ok(id @ 1..=4094) => Ok((*parent, id as u16)),
            Ok(id) => refused(format!("vlan id must be between 1-4094, received: {id}")),
            Err(_) => {
                refused(format!("unable to parse a valid vlan id from: {number} (ex. eth0.10 for vlan 10)"))
            }
        },
        _ => refused(format!(
            "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received {name}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container with NET_ADMIN changes all that is its own; not what its interfaces are, nor what they are on.
    #[test]
    fn a_device_is_known_by_what_it_is_on() {
        let device = |index: u32, kind: &str, peer, last| Interface {
            index,
            kind: kind.into(),
            peer,
            peer_is_elsewhere: true,
            mac: Some([2, 0, 0, 0, 0, last]),
            ..Interface::default()
        };
        let at = |index: u32, last: u8| (index, IpAddr::from([10, 0, 0, last]), 24);
        let given = |last: u8| Given { mac: [2, 0, 0, 0, 0, last], addresses: vec![[10, 0, 0, last].into()] };
        let beside = |inside: &Inside, last: u8, others: &[u8]| {
            let others: Vec<Given> = others.iter().map(|other| given(*other)).collect();
            match find_device(inside, "macvlan", 7, &given(last), &others) {
                Found::Here(found) => Ok(found.index),
                Found::Gone => Err("gone"),
                Found::Unknown => Err("unknown"),
            }
        };
        let index = |inside: &Inside, last: u8| beside(inside, last, &[]);
        // The address is on the pair's end now, and the device has another.
        let inside = Inside {
            interfaces: vec![device(2, "veth", 7, 5), device(3, "macvlan", 7, 6), device(4, "macvlan", 8, 1)],
            addresses: vec![at(2, 1), at(3, 9)],
        };
        assert_eq!(index(&inside, 1), Ok(3));
        // Where it is another network's, or may be, it is not taken for this one's.
        let other = [[6].as_slice(), &[9], &[8], &[6, 8]].map(|others| beside(&inside, 1, others));
        assert_eq!(other, [Err("gone"), Err("gone"), Err("unknown"), Err("gone")]);
        assert_eq!(index(&Inside::default(), 1), Err("gone"));
        // Of two on the parent it is the one with its hardware address, or its address; else it cannot be told.
        let two = Inside {
            interfaces: vec![device(2, "macvlan", 7, 1), device(3, "macvlan", 7, 6)],
            addresses: vec![at(3, 1), at(3, 2)],
        };
        assert_eq!([index(&two, 1), index(&two, 2), index(&two, 3)], [Ok(2), Ok(3), Err("unknown")]);
        // But by the others'.
        let by_others = [[1].as_slice(), &[2], &[4], &[1, 2]].map(|others| beside(&two, 3, others));
        assert_eq!(by_others, [Ok(3), Ok(2), Err("unknown"), Err("gone")]);
        // One that the container has made on an interface of its own is none.
        let own = Interface { peer_is_elsewhere: false, ..device(3, "macvlan", 7, 1) };
        assert_eq!(index(&Inside { interfaces: vec![own], ..Inside::default() }, 1), Err("gone"));
    }

    #[test]
    fn names_of_vlans() {
        assert_eq!(vlan_of("eth0.10").unwrap(), ("eth0", 10));
        for (name, why) in [
            ("nothing", "invalid subinterface vlan name nothing, example formatting is eth0.10"),
            ("eth0.0", "vlan id must be between 1-4094, received: 0"),
            ("eth0.4095", "vlan id must be between 1-4094, received: 4095"),
            ("eth0.x", "unable to parse a valid vlan id from: x (ex. eth0.10 for vlan 10)"),
            ("a.1.2", "required interface name format is: name.vlan_id"),
        ] {
            assert!(vlan_of(name).unwrap_err().to_string().starts_with(why), "{name}");
        }
    }
}
