//! What the new process tells its parent, and the parent it: packets over a socket pair that both got at the
//! clone. The child's end is close-on-exec, so its end of file says that exec has succeeded.
//!
//! ```text
//! child:  NeedsOutside?  Root?  Terminal?  Warning*  NeedsHooks?  NeedsNetwork?  Warning*  (Failed | Held | end of file)
//! parent:  Mapped Tree*  Cgroup?                           Hooks         Network                       Start?
//! ```
//!
//! A child that is held goes on with whoever starts it, in the same words; with its parent once that has said so (Start).

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

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
const NEEDS_HOOKS: u8 = b'H';
const HOOKS: u8 = b'h';
const HELD: u8 = b'C';
const START: u8 = b's';
const NEEDS_OUTSIDE: u8 = b'O';
const MAPPED: u8 = b'm';
const TREE: u8 = b't';

/// The longest packet; a longer text is cut.
const PACKET_MAX: usize = 16 * 1024;

/// What a packet of the child's says.
pub(super) enum Heard {
    /// It waits for its user namespace to be mapped, and for mounts: [`mapped`] and [`tree`].
    NeedsOutside,
    /// The root folder, to be held.
    Root(OwnedFd),
    /// What the caller is to know.
    Step(Step),
}

/// The child's end.
pub(super) struct Teller {
    /// Another one once a held child is started.
    socket: RefCell<OwnedFd>,
    /// The news of the cgroup has come before it was waited for.
    has_cgroup: Cell<bool>,
}

impl Teller {
    pub(super) fn new(socket: OwnedFd) -> Teller {
        Teller { socket: RefCell::new(socket), has_cgroup: Cell::new(false) }
    }

    /// From here on, somebody else listens.
    pub(super) fn tell_instead(&self, socket: OwnedFd) {
        self.socket.replace(socket);
    }

    /// Closes everything that this process has of the host's but the socket of this, the standard streams, `preserved`
    /// descriptors after these, which are the command's, and those in `kept`. From here
    /// on no path of the container's choosing leads out of it: not `/proc/self/fd/N/..` as its command, its working
    /// directory or behind a link (CVE-2024-21626; marking them close-on-exec would leave them open while `execve`
    /// looks the command up).
    #[allow(unsafe_code)]
    pub(super) fn close_all_else(&self, preserved: u32, kept: impl Iterator<Item = RawFd>) -> Result<()> {
        let mut kept: Vec<RawFd> = kept.chain([self.socket.borrow().as_raw_fd()]).collect();
        // SAFETY: called on the last stretch, where nothing of what was opened before is used any more; the process
        // executes the command or ends.
        unsafe { sys::close_all_but(3 + preserved, &mut kept) }
            .context(|| "close the host's descriptors".into())
    }

    fn tell(&self, what: u8, text: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut packet = Vec::with_capacity(1 + text.len());
        packet.push(what);
        packet.extend_from_slice(&text[..text.len().min(PACKET_MAX - 1)]);
        sockets::send(self.socket.borrow().as_fd(), &packet, fd).context(|| "report to the shim".into())
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
        let received = sockets::receive(self.socket.borrow().as_fd(), &mut packet);
        match received.context(|| "wait for the network namespace".into())? {
            (1, Some(netns)) if packet[0] == NETWORK => Ok(netns),
            _ => Err(Error::refused("wait for the network namespace", "the shim gave none")),
        }
    }

    /// Waits until the parent has made the cgroup, which it may have told already.
    pub(super) fn cgroup(&self) -> Result<()> {
        if self.has_cgroup.get() {
            return Ok(());
        }
        let mut packet = [0];
        let received = sockets::receive(self.socket.borrow().as_fd(), &mut packet);
        match received.context(|| "wait for the cgroup".into())? {
            (1, None) if packet[0] == CGROUP => Ok(()),
            _ => Err(Error::refused("wait for the cgroup", "the shim made none")),
        }
    }

    /// The parent's next packet, past the news of the cgroup.
    fn next(&self, doing: &str) -> Result<(u8, Option<OwnedFd>)> {
        loop {
            let mut packet = [0];
            let received = sockets::receive(self.socket.borrow().as_fd(), &mut packet);
            match received.context(|| doing.into())? {
                (1, None) if packet[0] == CGROUP => self.has_cgroup.set(true),
                (1, fd) => return Ok((packet[0], fd)),
                _ => return Err(Error::refused(doing, "the parent is gone")),
            }
        }
    }

    /// Asks for the runtime's hooks and waits for them. Returns this process's id in the runtime's namespace.
    pub(super) fn hooks(&self) -> Result<i32> {
        self.tell(NEEDS_HOOKS, &[], None)?;
        let mut packet = [0; 5];
        let received = sockets::receive(self.socket.borrow().as_fd(), &mut packet);
        match (received.context(|| "wait for the hooks".into())?, packet) {
            ((5, None), [HOOKS, pid @ ..]) => Ok(i32::from_ne_bytes(pid)),
            _ => Err(Error::refused("wait for the hooks", "the runtime is gone")),
        }
    }

    /// Asks for what only its parent can do, and waits until the user namespace is mapped.
    pub(super) fn outside(&self) -> Result<()> {
        const DOING: &str = "wait for the user namespace's mappings";
        self.tell(NEEDS_OUTSIDE, &[], None)?;
        match self.next(DOING)? {
            (MAPPED, None) => Ok(()),
            _ => Err(Error::refused(DOING, "the parent said something else")),
        }
    }

    /// The next of the mounts that the parent makes.
    pub(super) fn tree(&self) -> Result<OwnedFd> {
        const DOING: &str = "wait for a mount from outside";
        match self.next(DOING)? {
            (TREE, Some(tree)) => Ok(tree),
            _ => Err(Error::refused(DOING, "the parent said something else")),
        }
    }

    /// It waits to be started.
    pub(super) fn held(&self) -> Result<()> {
        self.tell(HELD, &[], None)
    }

    /// Waits until the parent starts it, having told that it waits.
    pub(super) fn started(&self) -> Result<()> {
        const DOING: &str = "wait to be started";
        match self.next(DOING)? {
            (START, None) => Ok(()),
            _ => Err(Error::refused(DOING, "the parent said something else")),
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
        let socket = self.socket.borrow();
        let mut socket = [PollFd::new(&*socket, PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut socket, Some(&now)), Ok(1..)) && socket[0].revents().contains(PollFlags::HUP)
    }
}

/// Waits for the child's next word.
pub(super) fn hear(socket: BorrowedFd<'_>) -> Result<Heard> {
    let mut packet = vec![0; PACKET_MAX];
    let mut received = sockets::receive(socket, &mut packet);
    // A child that ends without having read everything resets its socket: that is told once, before its last words.
    if matches!(&received, Err(error) if error.raw_os_error() == Some(libc::ECONNRESET)) {
        let last = sockets::receive(socket, &mut packet);
        // Without any it was killed: who gets as far as the exec has read everything. The errno is how callers know it.
        if matches!(last, Ok((0, _))) {
            let reset = std::io::Error::from_raw_os_error(libc::ECONNRESET);
            let error = Error::kernel("hear from the first process", reset);
            return Err(error.advise("it was killed, and ended without a word"));
        }
        received = last;
    }
    let received = received.context(|| "hear from the first process".into())?;
    let step = match received {
        (0, _) => Step::Running,
        (1, Some(root)) if packet[0] == ROOT => return Ok(Heard::Root(root)),
        (1, Some(master)) if packet[0] == TERMINAL => Step::Terminal(master),
        (1, None) if packet[0] == NEEDS_OUTSIDE => return Ok(Heard::NeedsOutside),
        (1, None) if packet[0] == NEEDS_NETWORK => Step::NeedsNetwork,
        (1, None) if packet[0] == NEEDS_HOOKS => Step::NeedsHooks,
        (1, None) if packet[0] == HELD => Step::Held,
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
    tell_if_there(socket, CGROUP, None).context(|| "tell of the cgroup".into())
}

/// Starts a held child, which may have ended as well.
pub(super) fn start(socket: BorrowedFd<'_>) -> Result<()> {
    tell_if_there(socket, START, None).context(|| "start the command".into())
}

fn tell_if_there(socket: BorrowedFd<'_>, what: u8, fd: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
    match sockets::send(socket, &[what], fd) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => Ok(()),
        sent => sent,
    }
}

/// Tells the child that its user namespace is mapped.
pub(super) fn mapped(socket: BorrowedFd<'_>) -> Result<()> {
    sockets::send(socket, &[MAPPED], None).context(|| "tell of the user namespace's mappings".into())
}

/// Hands the child a mount that was made for it.
pub(super) fn tree(socket: BorrowedFd<'_>, tree: BorrowedFd<'_>) -> Result<()> {
    sockets::send(socket, &[TREE], Some(tree)).context(|| "hand over a mount".into())
}

/// Tells the child that the hooks have run, and its process id.
pub(super) fn hooks_are_done(socket: BorrowedFd<'_>, pid: i32) -> Result<()> {
    let mut packet = [HOOKS, 0, 0, 0, 0];
    packet[1..].copy_from_slice(&pid.to_ne_bytes());
    sockets::send(socket, &packet, None).context(|| "tell of the hooks".into())
}

/// Hands the child its network namespace. One that has ended does not take it.
pub(super) fn give_network(socket: BorrowedFd<'_>, netns: BorrowedFd<'_>) -> Result<()> {
    tell_if_there(socket, NETWORK, Some(netns)).context(|| "hand over the network namespace".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_child_that_has_not_heard_everything() {
        let (parents, childs) = sockets::packet_pair().unwrap();
        cgroup_is_there(parents.as_fd()).unwrap();
        let teller = Teller::new(childs);
        teller.failed(&Error::refused("mount", "no"));
        drop(teller);
        let Err(error) = hear(parents.as_fd()) else { panic!("the child has failed") };
        assert_eq!((error.doing.as_str(), error.to_string().as_str()), ("mount", "mount: no"));
        assert!(matches!(hear(parents.as_fd()), Ok(Heard::Step(Step::Running))));
    }

    #[test]
    fn a_child_that_was_killed_before_it_heard_everything_does_not_run() {
        let (parents, childs) = sockets::packet_pair().unwrap();
        cgroup_is_there(parents.as_fd()).unwrap();
        drop(childs);
        let Err(error) = hear(parents.as_fd()) else { panic!("the child is gone") };
        assert_eq!(
            (error.doing.as_str(), error.errno),
            ("hear from the first process", Some(libc::ECONNRESET))
        );
    }
}
