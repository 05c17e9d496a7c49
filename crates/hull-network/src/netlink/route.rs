//! rtnetlink: links, addresses, routes. Each function appends one message; see `man 7 rtnetlink`.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{
    Attributes, Batch, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, attribute, attributes, text,
};
use crate::ipam::Subnet;
use crate::netns::Interface;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 0x02;
const IFA_F_PERMANENT: u8 = 0x80;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RTN_UNICAST: u8 = 1;
const UP: u32 = libc::IFF_UP as u32;

/// struct ifinfomsg.
fn link(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// A veth pair: the host's end on its bridge, the other made directly in `namespace`. Both are down.
///
/// One queue each: the kernel would make one for each processor, with its folders in sysfs, and use one.
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) bridge: &'a str,
    pub(crate) bridge_index: u32,
    pub(crate) container_name: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: Option<u32>,
    pub(crate) namespace: BorrowedFd<'a>,
}

pub(crate) fn add_veth(batch: &mut Batch, veth: &Veth<'_>) {
    let what = format!("making interface {} on bridge {}", veth.host_name, veth.bridge);
    batch.message(what, libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link(0, 0, 0), |attributes| {
        attributes.text(IFLA_IFNAME, veth.host_name).u32(IFLA_MASTER, veth.bridge_index);
        attributes.u32(IFLA_NUM_TX_QUEUES, 1).u32(IFLA_NUM_RX_QUEUES, 1);
        if let Some(mtu) = veth.mtu {
            attributes.u32(IFLA_MTU, mtu);
        }
        attributes.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest_with(VETH_INFO_PEER, &link(0, 0, 0), |peer| {
                    peer.text(IFLA_IFNAME, veth.container_name)
                        .bytes(IFLA_ADDRESS, &veth.mac)
                        .u32(IFLA_NET_NS_FD, veth.namespace.as_raw_fd() as u32)
                        .u32(IFLA_NUM_TX_QUEUES, 1)
                        .u32(IFLA_NUM_RX_QUEUES, 1);
                    if let Some(mtu) = veth.mtu {
                        peer.u32(IFLA_MTU, mtu);
                    }
                });
            });
        });
    });
}

/// Settings of a bridge's port before it comes up. Without an IPv6 address of its own it sends no router solicitations and
/// multicast reports, which the bridge would carry to each of a thousand containers.
pub(crate) fn set_port(batch: &mut Batch, name: &str, port: Port, has_ipv6: bool) {
    let what = format!("setting bridge port {name}");
    batch.message(what, libc::RTM_NEWLINK, 0, &link(0, 0, 0), |attributes| {
        attributes.text(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.u8(IFLA_BRPORT_MODE, u8::from(port.hairpin));
                data.u8(IFLA_BRPORT_ISOLATED, u8::from(port.isolated));
            });
        });
        if has_ipv6 {
            no_ipv6_addresses(attributes);
        }
    });
}

/// What a bridge does with a port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port {
    /// A packet may leave by the port it came from.
    pub(crate) hairpin: bool,
    /// No packet goes to another isolated port.
    pub(crate) isolated: bool,
}

fn no_ipv6_addresses(attributes: &mut Attributes<'_>) {
    attributes.nest(IFLA_AF_SPEC, |families| {
        families.nest(libc::AF_INET6 as u16, |inet6| {
            inet6.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
        });
    });
}

/// Asks for a link, for what asking does: the kernel carries out at once what its link watch has queued (rtnl_getlink,
/// since Linux 6.8). Until then a bridge does not forward to a port that is up, and the first packet of a container,
/// most often an ARP request, is lost for a second. Measured: about 1 in 100 first connections took 1.02 s.
pub(crate) fn settle(batch: &mut Batch, name: &str) {
    batch.message(format!("asking for {name}"), libc::RTM_GETLINK, 0, &link(0, 0, 0), |attributes| {
        attributes.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS).text(IFLA_IFNAME, name);
    });
}

/// Brings a link up that is known by its name.
pub(crate) fn up_port(batch: &mut Batch, name: &str) {
    batch.message(format!("bringing {name} up"), libc::RTM_NEWLINK, 0, &link(0, UP, UP), |attributes| {
        attributes.text(IFLA_IFNAME, name);
    });
}

/// A device of `kind` on a parent, made directly in `namespace`; it is down.
pub(crate) struct OnParent<'a> {
    pub(crate) parent: &'a str,
    pub(crate) parent_index: u32,
    pub(crate) name: &'a str,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: Option<u32>,
    pub(crate) namespace: BorrowedFd<'a>,
    pub(crate) device: Device,
}

/// See [`crate::Device`]; the numbers are the kernel's (linux/if_link.h).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Device {
    Macvlan { mode: u32 },
    Ipvlan { mode: u16, flags: u16 },
}

pub(crate) fn add_on_parent(batch: &mut Batch, made: &OnParent<'_>) {
    let kind = match made.device {
        Device::Macvlan { .. } => "macvlan",
        Device::Ipvlan { .. } => "ipvlan",
    };
    let what = format!("making a {kind} interface on {}", made.parent);
    batch.message(what, libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link(0, 0, 0), |attributes| {
        attributes.text(IFLA_IFNAME, made.name).u32(IFLA_LINK, made.parent_index);
        attributes.u32(IFLA_NET_NS_FD, made.namespace.as_raw_fd() as u32);
        if let Some(mac) = made.mac {
            attributes.bytes(IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = made.mtu {
            attributes.u32(IFLA_MTU, mtu);
        }
        attributes.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, kind).nest(IFLA_INFO_DATA, |data| match made.device {
                Device::Macvlan { mode } => {
                    data.u32(IFLA_MACVLAN_MODE, mode);
                }
                Device::Ipvlan { mode, flags } => {
                    data.bytes(IFLA_IPVLAN_MODE, &mode.to_ne_bytes());
                    data.bytes(IFLA_IPVLAN_FLAGS, &flags.to_ne_bytes());
                }
            });
        });
    });
}

/// The hardware address of an existing link, also where the kernel has chosen another when it was made.
pub(crate) fn set_mac(batch: &mut Batch, index: u32, name: &str, mac: [u8; 6]) {
    let what = format!("giving {name} its hardware address");
    batch.message(what, libc::RTM_NEWLINK, 0, &link(index, 0, 0), |attributes| {
        attributes.bytes(IFLA_ADDRESS, &mac);
    });
}

/// An interface of a kind that needs nothing else: `dummy`, `ifb`. It is up.
pub(crate) fn add_alone(batch: &mut Batch, name: &str, kind: &str) {
    let what = format!("making the {kind} interface {name}");
    batch.message(what, libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link(0, UP, UP), |attributes| {
        attributes.text(IFLA_IFNAME, name);
        attributes.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, kind);
        });
    });
}

/// A VLAN's interface on another. It is up.
pub(crate) fn add_vlan(batch: &mut Batch, name: &str, parent_index: u32, id: u16) {
    let what = format!("making the VLAN interface {name}");
    batch.message(what, libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link(0, UP, UP), |attributes| {
        attributes.text(IFLA_IFNAME, name).u32(IFLA_LINK, parent_index);
        attributes.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "vlan").nest(IFLA_INFO_DATA, |data| {
                data.bytes(IFLA_VLAN_ID, &id.to_ne_bytes());
            });
        });
    });
}

/// Multicast is flooded, not snooped: without a querier the kernel floods it anyway, and snooping made the 900th port
/// a third dearer than the first.
pub(crate) fn add_bridge(batch: &mut Batch, name: &str, mac: Option<[u8; 6]>, mtu: Option<u32>) {
    let what = format!("making bridge {name}");
    batch.message(what, libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link(0, 0, 0), |attributes| {
        attributes.text(IFLA_IFNAME, name);
        if let Some(mac) = mac {
            attributes.bytes(IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = mtu {
            attributes.u32(IFLA_MTU, mtu);
        }
        attributes.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
                data.u32(IFLA_BR_FORWARD_DELAY, 0).u32(IFLA_BR_STP_STATE, 0).u8(IFLA_BR_MCAST_SNOOPING, 0);
            });
        });
    });
}

/// Alias and MTU of an existing link.
pub(crate) fn set_link(batch: &mut Batch, name: &str, alias: &str, mtu: Option<u32>) {
    batch.message(format!("setting {name}"), libc::RTM_NEWLINK, 0, &link(0, 0, 0), |attributes| {
        attributes.text(IFLA_IFNAME, name).bytes(IFLA_IFALIAS, alias.as_bytes());
        if let Some(mtu) = mtu {
            attributes.u32(IFLA_MTU, mtu);
        }
    });
}

/// No address of its own making: no fe80::, no duplicate address detection, no multicast reports.
pub(crate) fn quiet_ipv6(batch: &mut Batch, index: u32, name: &str) {
    let what = format!("keeping {name} free of IPv6 addresses");
    batch.message(what, libc::RTM_NEWLINK, 0, &link(index, 0, 0), no_ipv6_addresses);
}

pub(crate) fn up(batch: &mut Batch, index: u32, name: &str) {
    batch.message(format!("bringing {name} up"), libc::RTM_NEWLINK, 0, &link(index, UP, UP), |_| {});
}

/// Removes an interface by its index, which nobody changes as names are.
pub(crate) fn delete_index(batch: &mut Batch, index: u32, name: &str) {
    batch.message(format!("removing {name}"), libc::RTM_DELLINK, 0, &link(index, 0, 0), |_| {});
}

pub(crate) fn delete_link(batch: &mut Batch, name: &str) {
    batch.message(format!("removing {name}"), libc::RTM_DELLINK, 0, &link(0, 0, 0), |attributes| {
        attributes.text(IFLA_IFNAME, name);
    });
}

fn family_of(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn address_bytes(attributes: &mut Attributes<'_>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => attributes.bytes(kind, &address.octets()),
        IpAddr::V6(address) => attributes.bytes(kind, &address.octets()),
    };
}

/// struct ifaddrmsg.
fn address_header(address: IpAddr, prefix: u8, index: u32) -> [u8; 8] {
    let flags = if address.is_ipv6() { IFA_F_NODAD | IFA_F_PERMANENT } else { IFA_F_PERMANENT };
    let scope = if address.is_loopback() { RT_SCOPE_HOST } else { RT_SCOPE_UNIVERSE };
    let [a, b, c, d] = index.to_ne_bytes();
    [family_of(address), prefix, flags, scope, a, b, c, d]
}

/// Adds an address, or leaves it as it is when it is there.
pub(crate) fn add_address(batch: &mut Batch, index: u32, name: &str, address: IpAddr, prefix: u8) {
    let what = format!("adding {address}/{prefix} to {name}");
    let header = address_header(address, prefix, index);
    batch.message(what, libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header, |attributes| {
        address_bytes(attributes, IFA_LOCAL, address);
        address_bytes(attributes, IFA_ADDRESS, address);
        if let IpAddr::V4(address) = address
            && prefix < 31
        {
            let broadcast = address.to_bits() | (u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0));
            attributes.bytes(IFA_BROADCAST, &broadcast.to_be_bytes());
        }
    });
}

pub(crate) fn delete_address(batch: &mut Batch, index: u32, name: &str, address: IpAddr, prefix: u8) {
    let what = format!("removing {address}/{prefix} from {name}");
    batch.message(what, libc::RTM_DELADDR, 0, &address_header(address, prefix, index), |attributes| {
        address_bytes(attributes, IFA_LOCAL, address);
        address_bytes(attributes, IFA_ADDRESS, address);
    });
}

/// Where a default route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DefaultWay {
    /// A router, which is of the route's family.
    Gateway(IpAddr),
    /// The interface itself: whoever is meant is beyond it.
    Device {
        /// The route's family.
        is_ipv6: bool,
    },
}

impl std::fmt::Display for DefaultWay {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DefaultWay::Gateway(gateway) => write!(formatter, "the default route by {gateway}"),
            DefaultWay::Device { .. } => formatter.write_str("the default route by the interface itself"),
        }
    }
}

/// Adds a default route.
pub(crate) fn add_default_route(batch: &mut Batch, index: u32, way: DefaultWay) {
    default_route(batch, "adding", (libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL), index, way);
}

/// Makes it the default route, whichever there was.
pub(crate) fn set_default_route(batch: &mut Batch, index: u32, way: DefaultWay) {
    default_route(batch, "moving", (libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE), index, way);
}

/// Removes that very route.
pub(crate) fn delete_default_route(batch: &mut Batch, index: u32, way: DefaultWay) {
    default_route(batch, "removing", (libc::RTM_DELROUTE, 0), index, way);
}

fn default_route(batch: &mut Batch, verb: &str, (kind, flags): (u16, u16), index: u32, way: DefaultWay) {
    let is_ipv6 = match way {
        DefaultWay::Gateway(gateway) => gateway.is_ipv6(),
        DefaultWay::Device { is_ipv6 } => is_ipv6,
    };
    let family = (if is_ipv6 { libc::AF_INET6 } else { libc::AF_INET }) as u8;
    let on_link = matches!(way, DefaultWay::Device { is_ipv6: false });
    let scope = if on_link { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE };
    // struct rtmsg.
    let header = [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0, 0, 0, 0];
    batch.message(format!("{verb} {way}"), kind, flags, &header, |attributes| {
        if let DefaultWay::Gateway(gateway) = way {
            address_bytes(attributes, RTA_GATEWAY, gateway);
        }
        attributes.u32(RTA_OIF, index);
    });
}

/// A request for every interface with its counters.
pub(crate) fn list_links() -> Batch {
    let mut batch = Batch::new();
    batch.message("listing interfaces", libc::RTM_GETLINK, NLM_F_DUMP, &link(0, 0, 0), |_| {});
    batch
}

/// A request for every interface of a kind. The kernel does the filtering: a thousand veths cost nothing.
pub(crate) fn list_kind(kind: &str) -> Batch {
    let mut batch = Batch::new();
    batch.message(
        format!("listing {kind} interfaces"),
        libc::RTM_GETLINK,
        NLM_F_DUMP,
        &link(0, 0, 0),
        |attributes| {
            attributes.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS).nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, kind);
            });
        },
    );
    batch
}

/// An interface of a dump, and what it is called besides.
#[derive(Debug, Clone)]
pub(crate) struct NamedLink {
    pub(crate) name: String,
    pub(crate) alias: String,
}

/// The interface of a dump, if it is of that kind: a kernel that knows no such kind does not filter.
pub(crate) fn link_of_kind(body: &[u8], kind: &str) -> Option<NamedLink> {
    let body = body.get(16..)?;
    let info = attribute(body, IFLA_LINKINFO)?;
    if attribute(info, IFLA_INFO_KIND).map(text)? != kind {
        return None;
    }
    let alias = attribute(body, IFLA_IFALIAS).map(text).unwrap_or_default();
    Some(NamedLink { name: attribute(body, IFLA_IFNAME).map(text)?, alias })
}

pub(crate) fn interface_of(body: &[u8]) -> Option<Interface> {
    let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk::<4>()?);
    let mut interface = Interface { index, ..Interface::default() };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => interface.name = text(value),
            IFLA_LINK => interface.peer = value.first_chunk().map_or(0, |index| u32::from_ne_bytes(*index)),
            IFLA_LINK_NETNSID => interface.peer_is_elsewhere = true,
            IFLA_ADDRESS => interface.mac = value.try_into().ok(),
            IFLA_LINKINFO => interface.kind = attribute(value, IFLA_INFO_KIND).map(text).unwrap_or_default(),
            IFLA_STATS64 => {
                // struct rtnl_link_stats64: packets, bytes, errors, dropped; of each received, then sent.
                let number = |at: usize| {
                    value
                        .get(at * 8..at * 8 + 8)
                        .map_or(0, |bytes| bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes)))
                };
                interface.rx_packets = number(0);
                interface.tx_packets = number(1);
                interface.rx_bytes = number(2);
                interface.tx_bytes = number(3);
                interface.rx_errors = number(4);
                interface.tx_errors = number(5);
                interface.rx_dropped = number(6);
                interface.tx_dropped = number(7);
            }
            _ => {}
        }
    }
    Some(interface)
}

/// A request for every address.
pub(crate) fn list_addresses() -> Batch {
    let mut batch = Batch::new();
    batch.message("listing addresses", libc::RTM_GETADDR, NLM_F_DUMP, &[0; 8], |_| {});
    batch
}

/// An address of a dump: the interface's index, the address, its prefix length. Link-local ones are left out.
pub(crate) fn address_of(body: &[u8]) -> Option<(u32, IpAddr, u8)> {
    let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk::<4>()?);
    let attributes = body.get(8..)?;
    let address = ip(attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?)?;
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    (!link_local).then_some((index, address, body[1]))
}

/// A request for every route.
pub(crate) fn list_routes() -> Batch {
    let mut batch = Batch::new();
    batch.message("listing routes", libc::RTM_GETROUTE, NLM_F_DUMP, &[0; 12], |_| {});
    batch
}

/// The destination of a unicast route of the main table; a default route has none.
pub(crate) fn destination_of(body: &[u8]) -> Option<Subnet> {
    let (header, rest) = (body.first_chunk::<12>()?, body.get(12..)?);
    let table = attribute(rest, RTA_TABLE)
        .and_then(|value| value.first_chunk())
        .map_or(u32::from(header[4]), |value| u32::from_ne_bytes(*value));
    if table != u32::from(RT_TABLE_MAIN) || header[7] != RTN_UNICAST || header[1] == 0 {
        return None;
    }
    Subnet::new(ip(attribute(rest, RTA_DST)?)?, header[1]).ok()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        16 => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}
