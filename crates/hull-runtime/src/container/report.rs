//! What the new process tells its parent, and the parent it: packets over a socket pair that both got at the
//! clone. The child's end is close-on-exec, so its end of file says that exec has succeeded.
//!
//! ```text
//! child:  Root?  Terminal?  Warning*  NeedsNetwork?  Warning*  (Failed | end of file)
//! parent:  Cgroup?                                  Network
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Step;
use crate::error::Context;
use crate::sys::{self, sockets};
use crate::{Error, Result};

const ROOT: u8 = b'R';
const WARNING: u8 = b'W';
const TERMINAL: u8 = b'T';
const NEEDS_NETWORK: u8 = b'N';
const FAILED: u8 = b'F';
const NETWORK: u8 = b'n';
const CGROUP: u8 = b'c';

/// The longest packet; a longer text is cut.
const PACKET_MAX: usize = 16 * 1024;

/// What a packet of the child's says.
pub(super) enum Heard {
    /// The root folder, to be held.
    Root(OwnedFd),
    /// What the caller is to know.
    Step(Step),
}

/// The child's end.
pub(super) struct Teller {
    socket: OwnedFd,
}

impl Teller {
    pub(super) fn new(socket: OwnedFd) -> Teller {
        Teller { socket }
    }

    /// Closes everything that this process has of the host's but the socket of this and the standard streams. From here
    /// on no path of the container's choosing leads out of it: not `/proc/self/fd/N/..` as its command, its working
    /// directory or behind a link (CVE-2024-21626; marking them close-on-exec would leave them open while `execve`
    /// looks the command up).
    #[allow(unsafe_code)]
    pub(super) fn close_all_else(&self) -> Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: called on the last stretch, where nothing of what was opened before is used any more; the process
        // executes the command or ends.
        unsafe { sys::close_all_but(self.socket.as_raw_fd()) }
            .context(|| "close the host's descriptors".into())
    }

    fn tell(&self, what: u8, text: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut packet = Vec::with_capacity(1 + text.len());
        packet.push(what);
        packet.extend_from_slice(&text[..text.len().min(PACKET_MAX - 1)]);
        sockets::send(self.socket.as_fd(), &packet, fd).context(|| "report to the shim".into())
    }

    /// The root folder, for the parent to hold.
    pub(super) fn root(&self, root: BorrowedFd<'_>) -> Result<()> {
        self.tell(ROOT, &[], Some(root))
    }

    /// Something is not granted and is done without.
    pub(super) fn warn(&self, text: &str) -> Result<()> {
        self.tell(WARNING, text.as_bytes(), None)
    }

    /// The master of the new terminal.
    pub(super) fn terminal(&self, master: BorrowedFd<'_>) -> Result<()> {
        self.tell(TERMINAL, &[], Some(master))
    }

    /// Asks for the network namespace and waits for it.
    pub(super) fn network(&self) -> Result<OwnedFd> {
        self.tell(NEEDS_NETWORK, &[], None)?;
        let mut packet = [0];
        let received = sockets::receive(self.socket.as_fd(), &mut packet);
        match received.context(|| "wait for the network namespace".into())? {
            (1, Some(netns)) if packet[0] == NETWORK => Ok(netns),
            _ => Err(Error::refused("wait for the network namespace", "the shim gave none")),
        }
    }

    /// Waits until the parent has made the cgroup.
    pub(super) fn cgroup(&self) -> Result<()> {
        let mut packet = [0];
        let received = sockets::receive(self.socket.as_fd(), &mut packet);
        match received.context(|| "wait for the cgroup".into())? {
            (1, None) if packet[0] == CGROUP => Ok(()),
            _ => Err(Error::refused("wait for the cgroup", "the shim made none")),
        }
    }

    /// The start has failed.
    pub(super) fn failed(&self, error: &Error) {
        // If even this cannot be told, the parent sees the end of file and the exit status.
        let text = serde_json::to_vec(error).unwrap_or_default();
        let _ = self.tell(FAILED, &text, None);
    }

    /// Whether the parent is gone.
    pub(super) fn is_alone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut socket = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut socket, Some(&now)), Ok(1..)) && socket[0].revents().contains(PollFlags::HUP)
    }
}

/// Waits for the child's next word.
pub(super) fn hear(socket: BorrowedFd<'_>) -> Result<Heard> {
    let mut packet = vec![0; PACKET_MAX];
    let received = sockets::receive(socket, &mut packet).context(|| "hear from the first process".into())?;
    let step = match received {
        (0, _) => Step::Running,
        (1, Some(root)) if packet[0] == ROOT => return Ok(Heard::Root(root)),
        (1, Some(master)) if packet[0] == TERMINAL => Step::Terminal(master),
        (1, None) if packet[0] == NEEDS_NETWORK => Step::NeedsNetwork,
        (length, None) if packet[0] == WARNING => {
            Step::Warning(String::from_utf8_lossy(&packet[1..length]).into_owned())
        }
        (length, None) if packet[0] == FAILED => {
            return Err(serde_json::from_slice(&packet[1..length]).unwrap_or_else(|_| {
                Error::refused("start the process", "it failed with an unreadable report")
            }));
        }
        _ => {
            return Err(Error::refused(
                "hear from the first process",
                "it said what is no part of the handshake",
            ));
        }
    };
    Ok(Heard::Step(step))
}

/// Tells the child that its cgroup is there. One that has ended does not hear it, and has told why, or its status will.
pub(super) fn cgroup_is_there(socket: BorrowedFd<'_>) -> Result<()> {
    match sockets::send(socket, &[CGROUP], None) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => Ok(()),
        sent => sent.context(|| "tell of the cgroup".into()),
    }
}

/// Hands the child its network namespace.
pub(super) fn give_network(socket: BorrowedFd<'_>, netns: BorrowedFd<'_>) -> Result<()> {
    sockets::send(socket, &[NETWORK], Some(netns)).context(|| "hand over the network namespace".into())
}
