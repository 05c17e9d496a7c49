//! One attached client: its socket, what it wants, and what it has not taken yet.

use std::borrow::Cow;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use super::log::Stream;
use crate::protocol::Attach;
use crate::sys::sockets::unread_by_peer;

/// How long a client may take nothing of what an ended process has printed: someone may read it in a pager.
const STALLS: Duration = Duration::from_secs(3600);

/// How long a client may take to read the head of its answer before the stream begins all the same.
const HEAD_PATIENCE: Duration = Duration::from_millis(100);
/// How often it is looked whether it has. Nothing tells when a peer has read.
const HEAD_LOOKS: Duration = Duration::from_micros(200);

/// A client of a container's or an exec's streams.
#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    stdout: bool,
    stderr: bool,
    framed: bool,
    /// What it sends goes to standard input, and it has not ended that.
    pub(super) sends: bool,
    /// What it was sent and has not taken, from `taken` on.
    pending: Vec<u8>,
    taken: usize,
    keys: DetachKeys,
    /// Until when the stream waits for the client to read the head of its answer, which the daemon has written. Python's
    /// HTTP client (docker-py) reads the head through a buffer and the stream past it: what comes together with the head
    /// would be lost in that buffer. None: it has begun.
    head: Option<Instant>,
    /// Nothing is sent before a byte comes from here; the end of it drops the client.
    held: Option<OwnedFd>,
    /// When it last took something.
    took_at: Instant,
    /// It cannot be written to any more; what it sent before is still read.
    gone: bool,
    /// It is to be dropped.
    done: bool,
}

/// What came from a client.
pub(super) enum Input<'b> {
    /// Nothing now.
    Nothing,
    /// Bytes for standard input.
    Bytes(Cow<'b, [u8]>),
    /// It sends no more.
    End,
}

impl Client {
    /// A new client, which gets its preface first.
    pub(super) fn new(attach: Attach, socket: OwnedFd) -> Client {
        let mut client = Client {
            socket,
            stdout: attach.stdout,
            stderr: attach.stderr,
            framed: attach.framed,
            sends: attach.stdin,
            pending: Vec::new(),
            taken: 0,
            keys: DetachKeys::new(attach.detach_keys),
            head: Some(Instant::now() + HEAD_PATIENCE),
            held: None,
            took_at: Instant::now(),
            gone: false,
            done: false,
        };
        client.send(&[], &attach.preface);
        client
    }

    /// Sends nothing from here on, until a byte comes from the pipe.
    pub(super) fn hold(&mut self, pipe: OwnedFd) {
        self.held = Some(pipe);
    }

    /// Where that byte comes from.
    pub(super) fn held_by(&self) -> Option<i32> {
        self.held.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Something has happened at the pipe.
    pub(super) fn let_go(&mut self) {
        let Some(pipe) = self.held.take() else { return };
        match rustix::io::retry_on_intr(|| rustix::io::read(&pipe, &mut [0; 1])) {
            Ok(1..) => {
                self.took_at = Instant::now();
                if self.has_begun() {
                    self.flush();
                }
            }
            // Who held it has not sent all that comes before, and never will.
            Ok(0) | Err(_) => {
                self.lose();
                self.done = true;
            }
        }
    }

    /// Sends what was printed, if the client wants it.
    pub(super) fn print(&mut self, stream: Stream, bytes: &[u8]) {
        let wanted = match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        if !wanted || self.gone {
            return;
        }
        if !self.framed {
            return self.send(&[], bytes);
        }
        let mut head = [stream as u8, 0, 0, 0, 0, 0, 0, 0];
        head[4..].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.send(&head, bytes);
    }

    fn send(&mut self, head: &[u8], bytes: &[u8]) {
        let mut sent = 0;
        if self.held.is_none() && self.pending.is_empty() && self.has_begun() {
            match self.try_send(&[IoSlice::new(head), IoSlice::new(bytes)]) {
                Some(more) => sent = more,
                None => return,
            }
        }
        self.pending.extend_from_slice(&head[sent.min(head.len())..]);
        self.pending.extend_from_slice(&bytes[sent.saturating_sub(head.len())..]);
    }

    /// Whether the client has read the head of its answer, or has taken too long for it.
    fn has_begun(&mut self) -> bool {
        let waits = self.head.is_some_and(|until| {
            Instant::now() < until && matches!(unread_by_peer(self.socket.as_fd()), Ok(1..))
        });
        if !waits {
            self.head = None;
        }
        !waits
    }

    /// When to look again whether what is pending can be sent; none where nothing waits for the client's reading.
    pub(super) fn looks_at(&self, now: Instant) -> Option<Instant> {
        self.head.filter(|_| self.is_behind() && self.held.is_none()).map(|_| now + HEAD_LOOKS)
    }

    /// Begins the stream where that can be now.
    pub(super) fn look(&mut self) {
        if self.head.is_some() && self.is_behind() && self.held.is_none() && self.has_begun() {
            self.flush();
        }
    }

    /// How many bytes the socket took; none when the client is gone.
    fn try_send(&mut self, parts: &[IoSlice<'_>]) -> Option<usize> {
        if parts.iter().all(|part| part.is_empty()) {
            return Some(0);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut none: [MaybeUninit<u8>; 0] = [];
        let mut none = SendAncillaryBuffer::new(&mut none);
        match rustix::io::retry_on_intr(|| rustix::net::sendmsg(&self.socket, parts, &mut none, flags)) {
            Ok(sent) => {
                self.took_at = Instant::now();
                Some(sent)
            }
            Err(Errno::AGAIN) => Some(0),
            Err(_) => {
                self.lose();
                None
            }
        }
    }

    /// Sends what is pending, as far as the socket takes it.
    pub(super) fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let sent = self.try_send(&[IoSlice::new(&pending[self.taken..])]);
        let Some(sent) = sent else { return };
        self.taken += sent;
        if self.taken < pending.len() {
            self.pending = pending;
        } else {
            self.taken = 0;
        }
    }

    /// It cannot be written to any more.
    fn lose(&mut self) {
        self.gone = true;
        self.held = None;
        self.pending = Vec::new();
        self.taken = 0;
        // What it had sent before it went may still be wanted by the container.
        self.done |= !self.sends;
    }

    /// Whether it must take something before there may be more for it.
    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty() || self.held.is_some()
    }

    /// When it is given up, should it take nothing until then.
    pub(super) fn gives_up_at(&self) -> Option<Instant> {
        self.is_behind().then(|| self.took_at + STALLS)
    }

    /// Whether it is to be dropped.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// What to wait for on its socket; none while nothing that can happen there matters.
    pub(super) fn interest(&self, input_has_room: bool) -> Option<(i32, i16)> {
        let input = if self.sends && input_has_room { libc::POLLIN } else { 0 };
        let waits = self.head.is_some() || self.held.is_some();
        let output = if self.is_behind() && !waits { libc::POLLOUT } else { 0 };
        // That a client is gone is reported without being asked for, and would be again and again.
        (!self.gone || input != 0).then(|| (self.socket.as_raw_fd(), input | output))
    }

    /// Whether it takes nothing any more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone || self.done
    }

    /// Reads what the client sends.
    pub(super) fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> Input<'b> {
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT));
        match received {
            Ok((0, _)) => self.end_of_input(),
            Ok((length, _)) => Input::Bytes(self.sift(&buffer[..length])),
            Err(Errno::AGAIN) => Input::Nothing,
            Err(_) => {
                self.lose();
                self.end_of_input()
            }
        }
    }

    fn end_of_input(&mut self) -> Input<'static> {
        self.sends = false;
        self.done |= self.gone;
        Input::End
    }

    /// What of `bytes` goes to standard input. The keys that detach the client make it done.
    pub(super) fn sift<'b>(&mut self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        if self.keys.keys.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let (bytes, detach) = self.keys.sift(bytes);
        self.done |= detach;
        Cow::Owned(bytes)
    }

    /// Its socket has hung up or failed.
    pub(super) fn hang_up(&mut self) {
        if !self.gone {
            self.lose();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The daemon may hold the socket as well, so closing it here would not end the connection.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        // Closed with unread input, the socket would greet the client with an error instead of the end.
        let mut rest = [0; 4096];
        for _ in 0..256 {
            match rustix::net::recv(&self.socket, &mut rest, RecvFlags::DONTWAIT) {
                Ok((1.., _)) => {}
                _ => break,
            }
        }
    }
}

/// The keys that detach a client, and how many of them it has typed.
#[derive(Debug)]
struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

impl DetachKeys {
    fn new(keys: Vec<u8>) -> DetachKeys {
        DetachKeys { keys, typed: 0 }
    }

    /// What of `bytes` goes to the container, and whether all keys have been typed. Keys that turn out not to
    /// be followed by the others go to the container after all.
    fn sift(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len() + self.typed);
        for &byte in bytes {
            if byte != self.keys[self.typed] {
                out.extend_from_slice(&self.keys[..self.typed]);
                self.typed = 0;
            }
            if byte != self.keys[self.typed] {
                out.push(byte);
                continue;
            }
            self.typed += 1;
            if self.typed == self.keys.len() {
                self.typed = 0;
                return (out, true);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_nothing_is_given_up_in_the_end() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let attach: Attach =
            serde_json::from_str(r#"{"stdin":false,"stdout":true,"stderr":false,"framed":false}"#).unwrap();
        let mut client = Client::new(attach, theirs.into());
        assert_eq!(client.gives_up_at(), None, "it has everything");
        client.print(Stream::Stdout, &vec![b'x'; 4 << 20]);
        let at = client.gives_up_at().unwrap();
        assert!(at > Instant::now() + STALLS / 2);
        std::io::Read::read_exact(&mut &ours, &mut vec![0; 1 << 16]).unwrap();
        client.flush();
        assert!(client.gives_up_at().unwrap() > at, "it has taken something");
    }

    #[test]
    fn keys_detach_when_all_are_typed() {
        let keys = || DetachKeys::new(vec![16, 17]);
        assert_eq!(keys().sift(b"abc"), (b"abc".to_vec(), false));
        assert_eq!(keys().sift(b"ab\x10\x11c"), (b"ab".to_vec(), true));
        assert_eq!(keys().sift(b"\x11\x10"), (b"\x11".to_vec(), false));
        let mut one_by_one = keys();
        assert_eq!(one_by_one.sift(b"\x10"), (vec![], false));
        assert_eq!(one_by_one.sift(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(one_by_one.sift(b"\x10"), (vec![], false));
        assert_eq!(one_by_one.sift(b"\x10"), (b"\x10".to_vec(), false));
        assert_eq!(one_by_one.sift(b"\x11"), (vec![], true));
    }
}
