//! ctnetlink: forgetting connections whose translation is no longer true.
//!
//! The NAT chains see the first packet of a connection only. A UDP peer that sends on without a pause keeps its old
//! way for ever: to a container that is gone, or past one that was published just now.

use std::net::IpAddr;

use super::{Batch, NLM_F_DUMP, Socket, attribute};
use crate::Result;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
/// The kernel compares protocol and destination port itself (Linux 5.8); an older one sends everything.
const BY_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;

/// Removes the entries of UDP flows that were addressed to `port`, of IPv4 or IPv6; only to that address of it, where there
/// is one: others' flows to the same port are none of this one's.
pub(crate) fn forget_udp(socket: &mut Socket, ipv4: bool, address: Option<IpAddr>, port: u16) -> Result<()> {
    const UDP: u8 = libc::IPPROTO_UDP as u8;
    let family = (if ipv4 { libc::AF_INET } else { libc::AF_INET6 }) as u8;
    let header = [family, 0, 0, 0];
    let mut list = Batch::new();
    list.message(format!("listing UDP flows to port {port}"), GET, NLM_F_DUMP, &header, |attributes| {
        attributes.nest(CTA_TUPLE_ORIG, |tuple| {
            tuple.nest(CTA_TUPLE_PROTO, |protocol| {
                protocol.u8(CTA_PROTO_NUM, UDP).bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes());
            });
        });
        attributes.nest(CTA_FILTER, |filter| {
            filter.u32(CTA_FILTER_ORIG_FLAGS, BY_PROTOCOL_AND_PORT);
        });
    });
    let mut flows = Vec::new();
    socket.dump(list, |_, body| {
        let entry = body.get(4..).unwrap_or_default();
        let tuple = attribute(entry, CTA_TUPLE_ORIG).unwrap_or_default();
        let protocol = attribute(tuple, CTA_TUPLE_PROTO).unwrap_or_default();
        if attribute(protocol, CTA_PROTO_NUM) == Some(&[UDP])
            && attribute(protocol, CTA_PROTO_DST_PORT) == Some(&port.to_be_bytes())
            && address.is_none_or(|address| is_to(tuple, address))
        {
            flows.push((tuple.to_vec(), attribute(entry, CTA_ID).map(<[u8]>::to_vec)));
        }
    })?;
    for (tuple, id) in flows {
        let mut batch = Batch::new();
        batch.message(format!("forgetting a UDP flow to port {port}"), DELETE, 0, &header, |attributes| {
            attributes.bytes(CTA_TUPLE_ORIG | super::NLA_F_NESTED, &tuple);
            if let Some(id) = &id {
                attributes.bytes(CTA_ID, id);
            }
        });
        match socket.send(batch) {
            Err(error) if error.errno() != Some(libc::ENOENT) => return Err(error),
            _ => {} // gone by itself meanwhile
        }
    }
    Ok(())
}

/// Whether a tuple's destination is this address.
fn is_to(tuple: &[u8], address: IpAddr) -> bool {
    let addresses = attribute(tuple, CTA_TUPLE_IP).unwrap_or_default();
    match address {
        IpAddr::V4(address) => attribute(addresses, CTA_IP_V4_DST) == Some(&address.octets()),
        IpAddr::V6(address) => attribute(addresses, CTA_IP_V6_DST) == Some(&address.octets()),
    }
}
