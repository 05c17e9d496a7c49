//! Datagrams of IPv6 with the address of this machine that they were sent to, and that answers leave from (RFC 3542).

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) address: Ipv6Addr,
    /// The interface that it is an address of, where it is one of a link; 0 elsewhere.
    interface: u32,
}

impl Local {
    /// An address that was asked by this interface. By which one says nothing of addresses that are the whole machine's: what
    /// the same sender sends to one comes by several where routes differ, and is the same all the while.
    pub(crate) fn asked_by(address: Ipv6Addr, interface: u32) -> Local {
        Local { address, interface: if address.is_unicast_link_local() { interface } else { 0 } }
    }
}

/// A datagram in the buffer that was given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) length: usize,
    pub(crate) from: SocketAddrV6,
    /// Where it was sent to; none where the kernel does not say.
    pub(crate) to: Option<Local>,
}

/// Room for one message of control data, aligned as its header must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

const PACKET_INFO: usize = size_of::<libc::in6_pktinfo>();
const CONTROL: usize = {
    // SAFETY: it computes a length of a length.
    (unsafe { libc::CMSG_SPACE(PACKET_INFO as u32) }) as usize
};

/// Has the kernel tell where each datagram was sent to.
pub(crate) fn tell_destinations(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is a c_int that lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVPKTINFO,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one datagram; none of a sender that has no IPv6 address.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Arrived>> {
    // SAFETY: for these plain structures of C all zeros are a value.
    let (mut name, mut header): (libc::sockaddr_in6, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    // SAFETY: every pointer of the header is to something above that lives through the call, with its size.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    if i32::from(name.sin6_family) != libc::AF_INET6 {
        return Ok(None);
    }
    let from = SocketAddrV6::new(
        Ipv6Addr::from(name.sin6_addr.s6_addr),
        u16::from_be(name.sin6_port),
        name.sin6_flowinfo,
        name.sin6_scope_id,
    );
    Ok(Some(Arrived { length, from, to: destination(&header) }))
}

/// The destination in what came along.
fn destination(header: &libc::msghdr) -> Option<Local> {
    // SAFETY: the kernel has set the length of the control data to what it has written there.
    let first = unsafe { libc::CMSG_FIRSTHDR(header) };
    if first.is_null() {
        return None;
    }
    // SAFETY: CMSG_FIRSTHDR gives a header that is wholly within the control data, or none.
    let told = unsafe { &*first };
    // SAFETY: it computes a length of a length.
    let whole = unsafe { libc::CMSG_LEN(PACKET_INFO as u32) };
    let is_info = told.cmsg_level == libc::IPPROTO_IPV6
        && told.cmsg_type == libc::IPV6_PKTINFO
        && told.cmsg_len as usize >= whole as usize;
    if !is_info {
        return None;
    }
    // SAFETY: the message is of that type and at least that long; it may stand at any address.
    let info = unsafe { libc::CMSG_DATA(first).cast::<libc::in6_pktinfo>().read_unaligned() };
    Some(Local::asked_by(Ipv6Addr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex))
}

/// Sends an answer from where it was asked, if something may leave from there: what was sent to many (broadcast and
/// multicast), or to an address that is gone meanwhile, is answered from where the routes say.
pub(crate) fn answer(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: SocketAddrV6,
    asked: Option<Local>,
) -> io::Result<()> {
    let asked = asked.filter(|asked| !is_multicast(asked.address));
    match send(socket, bytes, to, asked) {
        Err(error)
            if asked.is_some()
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH)
                ) =>
        {
            send(socket, bytes, to, None)
        }
        sent => sent,
    }
}

/// Also of IPv4, as sockets of both kinds have it.
fn is_multicast(address: Ipv6Addr) -> bool {
    address.is_multicast()
        || address.to_ipv4_mapped().is_some_and(|address| address.is_multicast() || address.is_broadcast())
}

/// Sends one datagram, from an address of this machine where one is named.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], to: SocketAddrV6, from: Option<Local>) -> io::Result<()> {
    // SAFETY: for these plain structures of C all zeros are a value.
    let (mut name, mut header): (libc::sockaddr_in6, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    name.sin6_port = to.port().to_be();
    name.sin6_flowinfo = to.flowinfo();
    name.sin6_addr.s6_addr = to.ip().octets();
    name.sin6_scope_id = to.scope_id();
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(from) = from {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL as _;
        let info = libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: from.address.octets() },
            ipi6_ifindex: from.interface,
        };
        // SAFETY: there is room for one such message, and the pointers are into it.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::IPPROTO_IPV6;
            (*first).cmsg_type = libc::IPV6_PKTINFO;
            (*first).cmsg_len = libc::CMSG_LEN(PACKET_INFO as u32) as _;
            libc::CMSG_DATA(first).cast::<libc::in6_pktinfo>().write_unaligned(info);
        }
    }
    // SAFETY: every pointer of the header is to something above that lives through the call, with its size.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_answer_leaves_from_where_it_was_asked() {
        let Ok(server) = UdpSocket::bind("[::]:0") else {
            eprintln!("left out: this machine has no IPv6");
            return;
        };
        tell_destinations(server.as_fd()).unwrap();
        let client = UdpSocket::bind("[::1]:0").unwrap();
        client.connect(("::1", server.local_addr().unwrap().port())).unwrap();
        client.send(b"ping").unwrap();
        let mut buffer = [0; 16];
        let arrived = receive(server.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..arrived.length], arrived.from.ip()), (&b"ping"[..], &Ipv6Addr::LOCALHOST));
        assert_eq!(arrived.to.map(|to| to.address), Some(Ipv6Addr::LOCALHOST));
        client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        answer(server.as_fd(), b"pong", arrived.from, arrived.to).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 4);
        // Nothing leaves from what was sent to many, nor from what the machine has not any more: the routes say.
        for asked in ["ff02::1", "::ffff:255.255.255.255", "2001:db8::1"] {
            let asked = Local::asked_by(asked.parse().unwrap(), 0);
            answer(server.as_fd(), b"again", arrived.from, Some(asked)).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 5);
        }
        // From an address that the machine has not, nothing is sent.
        let strange = Local::asked_by("2001:db8::1".parse().unwrap(), 0);
        assert!(send(server.as_fd(), b"pong", arrived.from, Some(strange)).is_err());
    }
}
