//! The few netlink messages that ask whether a network's parts are there.

use std::io;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`, `NLM_F_EXCL`, `NLM_F_CREATE`.
const MAKE: u16 = 4 | 0x200 | 0x400;
/// The kernel's answer with an error, or with 0 for done.
const ERROR: u16 = 2;

/// Asks nftables for its generation.
pub(super) fn nftables() -> io::Result<()> {
    const GETGEN: u16 = (10 << 8) | 16;
    // The family, the version, the resource.
    ask(Some(netlink::NETFILTER), GETGEN, REQUEST, &[0; 4])
}

/// Makes an interface of that kind; it goes with the network namespace.
pub(super) fn make_link(kind: &str) -> io::Result<()> {
    const NEWLINK: u16 = 16;
    const IFNAME: u16 = 3;
    const LINKINFO: u16 = 18;
    const INFO_KIND: u16 = 1;
    let mut payload = vec![0; 16];
    payload.extend(attribute(IFNAME, b"probe0\0"));
    payload.extend(attribute(LINKINFO, &attribute(INFO_KIND, kind.as_bytes())));
    ask(None, NEWLINK, REQUEST | MAKE, &payload)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend_from_slice(payload);
    bytes
}

/// Sends one message and reads the answer: an error, or anything else. No protocol is rtnetlink, whose number is 0.
fn ask(protocol: Option<Protocol>, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    rustix::net::send(&socket, &message(kind, flags, payload), SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    verdict(&answer[..length.min(4096)])
}

fn verdict(answer: &[u8]) -> io::Result<()> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind.ok_or_else(short)? != ERROR {
        return Ok(());
    }
    let errno = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match errno.ok_or_else(short)? {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer = |kind: u16, errno: i32| {
            verdict(&message(kind, 0, &errno.to_ne_bytes())).map_err(|error| error.raw_os_error())
        };
        assert_eq!(answer(ERROR, 0), Ok(()));
        assert_eq!(answer(ERROR, -libc::EOPNOTSUPP), Err(Some(libc::EOPNOTSUPP)));
        assert_eq!(answer(ERROR + 1, -1), Ok(()));
        assert!(verdict(&[1, 2, 3]).is_err());
    }

    #[test]
    fn attributes_are_padded() {
        assert_eq!(attribute(1, b"veth!").len(), 12);
        assert_eq!(attribute(1, b"veth")[..2], 8_u16.to_ne_bytes());
    }
}
