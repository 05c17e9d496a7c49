#![allow(unsafe_code)] // two socket options that rustix has no call for
//! Netlink, as much of it as this crate speaks: messages, batches of them, acknowledgements, dumps.
//!
//! A batch is one `send`. Only its last message asks for an acknowledgement, because the kernel answers errors
//! unasked; so a batch of six costs two system calls. The kernel works through all of a batch even when one of its
//! messages fails: the caller takes back what was done.
//! See `man 7 netlink` and Documentation/userspace-api/netlink/intro.rst.

pub(crate) mod conntrack;
pub(crate) mod nft;
pub(crate) mod route;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::{Error, Result};

const HEADER: usize = 16;

const NLM_F_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const NLM_F_ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
pub(crate) const NLM_F_CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(crate) const NLM_F_EXCL: u16 = libc::NLM_F_EXCL as u16;
pub(crate) const NLM_F_REPLACE: u16 = libc::NLM_F_REPLACE as u16;
pub(crate) const NLM_F_APPEND: u16 = libc::NLM_F_APPEND as u16;
/// In an acknowledgement: the request is not repeated in it.
const NLM_F_CAPPED: u16 = 0x100;
/// In an acknowledgement: attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The kernel's own text for an error.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// An attribute that holds attributes.
const NLA_F_NESTED: u16 = 0x8000;

/// Messages to be sent together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins, and what it does, for the error's text.
    messages: Vec<(usize, String)>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Batch { bytes: Vec::with_capacity(1024), messages: Vec::with_capacity(8) }
    }

    /// Adds a message. `header` is the family's own (ifinfomsg, …); `attributes` appends to the body.
    pub(crate) fn message(
        &mut self,
        what: impl Into<String>,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.messages.push((start, what.into()));
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(header);
        pad(&mut self.bytes);
        attributes(&mut Attributes { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn number(&mut self, first: u32) {
        for (index, (start, _)) in self.messages.iter().enumerate() {
            let sequence = first.wrapping_add(index as u32);
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }

    fn acknowledge(&mut self, index: usize) {
        let at = self.messages[index].0 + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | NLM_F_ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Appends attributes to a message's body.
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
        self
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// In the machine's byte order, as rtnetlink has its numbers.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In network byte order, as nfnetlink has its numbers.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.bytes.extend_from_slice(&((value.len() + 5) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        pad(self.bytes);
        self
    }

    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.nest_with(kind | NLA_F_NESTED, &[], inside)
    }

    /// An attribute whose value is a fixed header and attributes (VETH_INFO_PEER).
    pub(crate) fn nest_with(
        &mut self,
        kind: u16,
        header: &[u8],
        inside: impl FnOnce(&mut Attributes<'_>),
    ) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(header);
        pad(self.bytes);
        inside(&mut Attributes { bytes: self.bytes });
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

/// The attributes in a received body, in order; what is cut short ends it.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk::<2>()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk::<2>()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a kind.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A text attribute's value up to its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A socket to the kernel's side of the namespace it was made in, wherever it is used later.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Socket {
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(None) // NETLINK_ROUTE is 0, which rustix has as None
    }

    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            let on: libc::c_int = 1;
            // SAFETY: the value is a c_int that lives through the call, and its size is given.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Socket { socket, sequence: 1, buffer: vec![0; 32 * 1024] })
    }

    /// Sends a batch and waits for the kernel to have done it. The first error is returned.
    pub(crate) fn send(&mut self, batch: Batch) -> Result<()> {
        let last = batch.messages.len().saturating_sub(1);
        self.exchange(batch, last)
    }

    /// The same, with the acknowledgement of message `last` taken as the end (an nfnetlink batch's own end message
    /// is not acknowledged before Linux 6.10).
    fn exchange(&mut self, mut batch: Batch, last: usize) -> Result<()> {
        if batch.messages.is_empty() {
            return Ok(());
        }
        let first = self.sequence;
        self.sequence = first.wrapping_add(batch.messages.len() as u32);
        batch.number(first);
        batch.acknowledge(last);
        let what = |index: usize| batch.messages.get(index).map_or("", |(_, what)| what.as_str()).to_owned();
        rustix::net::send(&self.socket, &batch.bytes, SendFlags::empty())
            .map_err(|error| Error::kernel(what(0), error))?;
        let mut failed: Option<(usize, Error)> = None;
        loop {
            let length = self.receive().map_err(|error| Error::kernel(what(last), error))?;
            for message in messages(&self.buffer[..length]) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if message.kind != libc::NLMSG_ERROR as u16 || index > last.max(batch.messages.len()) {
                    continue; // an answer to an earlier batch that was given up
                }
                if let Some(error) = message.error()
                    && failed.as_ref().is_none_or(|(earlier, _)| index < *earlier)
                {
                    failed = Some((index, kernel_error(what(index), error, message.error_text())));
                }
                if index == last {
                    return failed.map_or(Ok(()), |(_, error)| Err(error));
                }
            }
        }
    }

    /// Sends one dump request and gives each answer's kind and body to `each`.
    pub(crate) fn dump(&mut self, mut batch: Batch, mut each: impl FnMut(u16, &[u8])) -> Result<()> {
        let first = self.sequence;
        self.sequence = first.wrapping_add(1);
        batch.number(first);
        let what = batch.messages.first().map(|(_, what)| what.clone()).unwrap_or_default();
        rustix::net::send(&self.socket, &batch.bytes, SendFlags::empty())
            .map_err(|error| Error::kernel(what.clone(), error))?;
        loop {
            let length = self.receive().map_err(|error| Error::kernel(what.clone(), error))?;
            for message in messages(&self.buffer[..length]) {
                if message.sequence != first {
                    continue;
                }
                match libc::c_int::from(message.kind) {
                    // A dump's end carries an errno of its own; NLMSG_ERROR has the same place for it.
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        return message
                            .error()
                            .map_or(Ok(()), |error| Err(kernel_error(what, error, message.error_text())));
                    }
                    _ => each(message.kind, message.body),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            // TRUNC as a flag makes the kernel return the datagram's real length.
            match rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, length)) if length > self.buffer.len() => {
                    return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                }
                Ok((_, length)) => return Ok(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The index of an interface, by its name, in this socket's namespace. One ioctl.
    pub(crate) fn index_of(&self, name: &str) -> Result<u32> {
        rustix::net::netdevice::name_to_index(&self.socket, name)
            .map_err(|error| Error::kernel(format!("finding interface {name}"), error))
    }
}

fn kernel_error(what: String, error: io::Error, text: Option<String>) -> Error {
    let hint = match error.raw_os_error() {
        // BR_MAX_PORTS.
        Some(libc::EXFULL) => "; a Linux bridge has at most 1023 ports: use a second network".to_owned(),
        Some(libc::EPERM) => "; this needs root (CAP_NET_ADMIN)".to_owned(),
        _ => text.map(|text| format!(" ({text})")).unwrap_or_default(),
    };
    Error::Kernel { what, source: error, hint }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    fn error(&self) -> Option<io::Error> {
        let code = i32::from_ne_bytes(*self.body.first_chunk::<4>()?);
        (code < 0).then(|| io::Error::from_raw_os_error(-code))
    }

    fn error_text(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 || self.kind != libc::NLMSG_ERROR as u16 {
            return None;
        }
        let repeated = if self.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            (u32::from_ne_bytes(*self.body.get(4..)?.first_chunk::<4>()?) as usize).next_multiple_of(4)
        };
        attribute(self.body.get(4 + repeated..)?, NLMSGERR_ATTR_MSG).map(text)
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut batch = Batch::new();
        batch.message("first", 16, 0, &[1, 2, 3], |attributes| {
            attributes.text(3, "eth0").u32(4, 7).nest(5, |inside| {
                inside.u8(1, 9);
            });
        });
        batch.message("second", 17, NLM_F_CREATE, &[], |_| {});
        batch.number(40);
        batch.acknowledge(1);
        let read: Vec<_> = messages(&batch.bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].sequence, read[1].sequence), (16, 40, 41));
        assert_eq!(read[1].flags, NLM_F_CREATE | NLM_F_REQUEST | NLM_F_ACK);
        let body = &read[0].body[4..];
        assert_eq!(attribute(body, 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(attribute(body, 4), Some(&7u32.to_ne_bytes()[..]));
        assert_eq!(attribute(attribute(body, 5).unwrap(), 1), Some(&[9][..]));
    }

    #[test]
    fn bytes_cut_short_end_the_reading() {
        let mut batch = Batch::new();
        batch.message("", 16, 0, &[0; 16], |attributes| {
            attributes.text(3, "eth0").u32(4, 7);
        });
        for end in 0..batch.bytes.len() {
            for message in messages(&batch.bytes[..end]) {
                attributes(message.body).count();
            }
            attributes(&batch.bytes[..end]).count();
        }
        assert_eq!(attributes(&[0; 8]).count(), 0, "a length of nought must not loop");
    }
}
