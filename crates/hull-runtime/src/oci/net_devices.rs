//! `linux.netDevices`: interfaces of the host that move into the container's network namespace, with their addresses, and
//! are up there. Source: `config-linux.md` of the runtime specification 1.3 and `rtnetlink(7)`.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{LinuxNamespaceType, LinuxNetDevice, Spec};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::Context;
use crate::{Error, Result, sys};

const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_PID: u16 = 19;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// `struct ifaddrmsg`: family, prefix, flags, scope, index.
const ADDRESS_HEADER: usize = 8;
/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFA_F_PERMANENT: u32 = 0x80;
/// The longest name of an interface, without its end.
const NAME_MAX: usize = 15;

/// Looks the devices through before anything is made.
pub(super) fn check(spec: &Spec) -> Result<()> {
    let Some(devices) = of(spec) else { return Ok(()) };
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    if !namespaces.into_iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::Network) {
        let reason = "the container has no network namespace of its own";
        return Err(Error::refused("linux.netDevices", reason));
    }
    let mut names = Vec::new();
    for (host, device) in devices {
        let inside = name_inside(host, device);
        for name in [host, inside] {
            let plain = !name.is_empty() && name.len() <= NAME_MAX && name != "." && name != "..";
            if !plain || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
                let reason = format!("{name:?} is no name of an interface");
                return Err(Error::refused("linux.netDevices", reason));
            }
        }
        if names.contains(&inside) {
            let reason = format!("two of them would be called {inside} in the container");
            return Err(Error::refused("linux.netDevices", reason));
        }
        names.push(inside);
    }
    Ok(())
}

fn of(spec: &Spec) -> Option<&HashMap<String, LinuxNetDevice>> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    devices.filter(|devices| !devices.is_empty())
}

fn name_inside<'n>(host: &'n str, device: &'n LinuxNetDevice) -> &'n str {
    device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host)
}

/// Moves the devices to the namespace of a process. The caller has one thread.
pub(super) fn move_all(spec: &Spec, pid: i32) -> Result<()> {
    let Some(devices) = of(spec) else { return Ok(()) };
    let mut here = Netlink::open()?;
    let path = format!("/proc/{pid}/ns/net");
    let theirs = OwnedFd::from(File::open(&path).context(|| format!("open {path}"))?);
    let ours =
        OwnedFd::from(File::open("/proc/self/ns/net").context(|| "open the network namespace".into())?);
    sys::setns(theirs.as_fd(), libc::CLONE_NEWNET).context(|| "enter the container's network".into())?;
    // A socket stays in the namespace that it was made in.
    let there = Netlink::open();
    if sys::setns(ours.as_fd(), libc::CLONE_NEWNET).is_err() {
        // Every process made from here on would be in the container's network.
        eprintln!("hull oci: cannot come back from the container's network namespace: it is left as it is");
        sys::exit_now(125);
    }
    let mut there = there?;
    for (host, device) in devices {
        let inside = name_inside(host, device);
        let doing = || format!("move the interface {host} into the container as {inside} (linux.netDevices)");
        let index = here.index(host).map_err(|error| explain(error, doing()))?;
        let addresses = here.addresses(index).context(doing)?;
        here.send_away(index, inside, pid).map_err(|error| explain(error, doing()))?;
        let index = there.index(inside).context(doing)?;
        for address in addresses {
            there.add(index, &address).context(doing)?;
        }
        there.up(index).context(doing)?;
    }
    Ok(())
}

fn explain(error: std::io::Error, doing: String) -> Error {
    let advice = match error.raw_os_error() {
        Some(libc::ENODEV) => "there is no such interface",
        Some(libc::EEXIST) => "there is one of that name in the container's network",
        Some(libc::EINVAL) => "this kind of interface cannot be moved",
        _ => "",
    };
    Error::kernel(doing, error).advise(advice)
}

/// An address of an interface, as the kernel tells it: its header but for the interface, and its attributes.
struct Address {
    header: [u8; ADDRESS_HEADER],
    attributes: Vec<(u16, Vec<u8>)>,
}

/// A connection to the kernel's routing.
struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Netlink> {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        Ok(Netlink { socket: socket.context(|| "open a netlink socket".into())?, sequence: 0 })
    }

    /// Sends a request and gives `each` message of the answer to look at.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> std::io::Result<()> {
        self.sequence += 1;
        let length = (HEADER + body.len()) as u32;
        let mut message = Vec::with_capacity(length as usize);
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend_from_slice(body);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let mut buffer = vec![0; 32 << 10];
        loop {
            let (length, _) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())
            })?;
            let mut rest = &buffer[..length];
            while rest.len() >= HEADER {
                let size = number(rest, 0) as usize;
                let (kind, flags) = (short(rest, 4), short(rest, 6));
                if size < HEADER || size > rest.len() {
                    return Err(std::io::Error::from_raw_os_error(libc::EBADMSG));
                }
                let body = &rest[HEADER..size];
                match i32::from(kind) {
                    libc::NLMSG_ERROR if body.len() >= 4 => {
                        let error = number(body, 0).cast_signed();
                        return if error == 0 {
                            Ok(())
                        } else {
                            Err(std::io::Error::from_raw_os_error(-error))
                        };
                    }
                    libc::NLMSG_DONE => return Ok(()),
                    _ => each(kind, body),
                }
                if flags & libc::NLM_F_MULTI as u16 == 0 && kind == libc::RTM_NEWLINK {
                    // The one answer to a question; its acknowledgement was not asked for.
                    return Ok(());
                }
                rest = &rest[size.next_multiple_of(4).min(rest.len())..];
            }
        }
    }

    /// The index of an interface.
    fn index(&mut self, name: &str) -> std::io::Result<i32> {
        let mut body = vec![0; LINK_HEADER];
        attribute(&mut body, IFLA_IFNAME, &c_string(name));
        let mut index = None;
        self.ask(libc::RTM_GETLINK, 0, &body, |_, answer| {
            index = Some(number(answer, 4).cast_signed());
        })?;
        index.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// The addresses that were given to an interface, and would be lost by its move: those that the kernel derives
    /// from others come by themselves.
    fn addresses(&mut self, index: i32) -> std::io::Result<Vec<Address>> {
        let mut found = Vec::new();
        self.ask(libc::RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_HEADER], |kind, body| {
            if kind != libc::RTM_NEWADDR
                || body.len() < ADDRESS_HEADER
                || number(body, 4).cast_signed() != index
            {
                return;
            }
            let attributes = attributes(&body[ADDRESS_HEADER..]);
            let flags = attributes.iter().find(|(kind, _)| *kind == IFA_FLAGS);
            let flags = flags
                .filter(|(_, value)| value.len() == 4)
                .map_or(u32::from(body[2]), |(_, value)| number(value, 0));
            if body[3] != RT_SCOPE_UNIVERSE || flags & IFA_F_PERMANENT == 0 {
                return;
            }
            let mut header = [0; ADDRESS_HEADER];
            header.copy_from_slice(&body[..ADDRESS_HEADER]);
            // What is not said again the kernel works out: the label has the name, the flags are its own.
            let kept = attributes.into_iter().filter(|(kind, _)| [IFA_ADDRESS, IFA_LOCAL].contains(kind));
            found.push(Address { header, attributes: kept.collect() });
        })?;
        Ok(found)
    }

    /// Moves an interface to the network of a process, under a name.
    fn send_away(&mut self, index: i32, name: &str, pid: i32) -> std::io::Result<()> {
        let mut body = vec![0; LINK_HEADER];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        attribute(&mut body, IFLA_NET_NS_PID, &pid.to_ne_bytes());
        attribute(&mut body, IFLA_IFNAME, &c_string(name));
        // Down first: one that is up cannot be renamed by older kernels.
        let mut down = vec![0; LINK_HEADER];
        down[4..8].copy_from_slice(&index.to_ne_bytes());
        down[12..16].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
        self.ask(libc::RTM_NEWLINK, NLM_F_ACK, &down, |_, _| {})?;
        self.ask(libc::RTM_NEWLINK, NLM_F_ACK, &body, |_, _| {})
    }

    fn add(&mut self, index: i32, address: &Address) -> std::io::Result<()> {
        let mut body = address.header.to_vec();
        body[2] = 0;
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        self.ask(libc::RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, &body, |_, _| {})
    }

    fn up(&mut self, index: i32) -> std::io::Result<()> {
        let mut body = vec![0; LINK_HEADER];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let up = (libc::IFF_UP as u32).to_ne_bytes();
        body[8..12].copy_from_slice(&up);
        body[12..16].copy_from_slice(&up);
        self.ask(libc::RTM_NEWLINK, NLM_F_ACK, &body, |_, _| {})
    }
}

fn c_string(name: &str) -> Vec<u8> {
    name.bytes().chain([0]).collect()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::from(short(bytes, 0));
        if length < 4 || length > bytes.len() {
            break;
        }
        found.push((short(bytes, 2), bytes[4..length].to_vec()));
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(devices: serde_json::Value) -> Spec {
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.3.0", "linux": { "namespaces": [{ "type": "network" }], "netDevices": devices },
        }))
        .unwrap()
    }

    #[test]
    fn names_are_looked_through() {
        check(&spec(serde_json::json!({ "eth9": { "name": "lan" }, "eth8": {} }))).unwrap();
        for wrong in [
            serde_json::json!({ "eth9": { "name": "a/b" } }),
            serde_json::json!({ "eth9": { "name": "a name that is too long" } }),
            serde_json::json!({ "eth9": { "name": "lan" }, "eth8": { "name": "lan" } }),
        ] {
            assert!(check(&spec(wrong.clone())).is_err(), "{wrong}");
        }
    }
}
