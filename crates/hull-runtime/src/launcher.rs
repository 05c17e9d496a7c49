//! The launcher: a small single-threaded process that forks shims, and the daemon's handle of it.
//!
//! ```text
//! daemon ── ToLauncher, descriptors ──> spare shim (takes the message, answers on its control socket)
//!                                         ▲
//!                          launcher ──────┘ forks the next one when the spare has taken a message
//! ```
//!
//! The launcher itself reads no message: it keeps one spare process that waits on the daemon's socket, ready to be
//! a shim, so that the fork and what the fork's memory costs at first touch are not on the way of a start. The
//! launcher does not grow, and what it has touched by then is all that its shims share. Both end when the daemon's
//! end of the socket closes; the shims go on.
//!
//! It runs from a read-only clone of the mount that hull's binary is on, or from a sealed copy in memory:
//! whatever a container does with `/proc/PID/exe` of a process that entered it, the host's binary is not
//! written (CVE-2019-5736).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use oci_spec::runtime::Capability;
use rustix::fs::{CWD, MemfdFlags, SealFlags};
use rustix::mount::OpenTreeFlags;
use rustix::pipe::PipeFlags;

use crate::error::Context;
use crate::protocol::{self, Event, FromShim, ReceiveError, ToLauncher, View};
use crate::shim::kernel::{self, Title};
use crate::sys::{self, MountAttr};
use crate::{Error, Result, cgroup, container, seccomp, shim};

/// Docker's default capabilities, which most containers have.
const USUAL: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The daemon's handle of its launcher. A launcher that is killed is started anew, by whoever notices first: a message
/// that finds nobody, or [`Launcher::revive`]. Dropped, it ends the launcher and waits for that.
#[derive(Debug)]
pub struct Launcher {
    /// The protected binary.
    program: OwnedFd,
    running: RwLock<Running>,
}

/// How often a message finds its launcher killed before that is told.
const ATTEMPTS: u32 = 5;

/// A launcher that was started.
#[derive(Debug)]
struct Running {
    socket: Option<OwnedFd>,
    process: Child,
}

impl Launcher {
    /// The launcher's process id.
    pub fn pid(&self) -> u32 {
        read(&self.running).process.id()
    }

    /// Sends a message; threads may do so at once. Blocks only while the socket's buffer is full, which is emptied at the
    /// pace of forks.
    pub fn send(&self, message: &ToLauncher, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let pid = match self.send_once(message, descriptors) {
                (pid, Err(error)) if matches!(error.errno, Some(libc::EPIPE | libc::ECONNRESET)) => pid,
                (_, sent) => return sent,
            };
            self.replace(pid)?;
        }
        Err(Error::refused("send to the launcher", "it is killed again and again; start it again"))
    }

    /// Beside how it went: to which launcher.
    fn send_once(&self, message: &ToLauncher, descriptors: &[BorrowedFd<'_>]) -> (u32, Result<()>) {
        let running = read(&self.running);
        let sent = match &running.socket {
            Some(socket) => protocol::send(socket.as_fd(), message, descriptors),
            None => Err(Error::refused("send to the launcher", "it is being ended")),
        };
        (running.process.id(), sent)
    }

    /// A launcher whose socket is closed has ended or is about to: it is waited for, and another one started, unless
    /// someone else was faster.
    fn replace(&self, pid: u32) -> Result<()> {
        let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
        if running.process.id() == pid {
            // It may have ended; then there is nothing to kill.
            let _ = running.process.kill();
            let _ = running.process.wait();
            *running = spawn(&self.program)?;
        }
        Ok(())
    }

    /// A descriptor that is readable when the launcher of this moment has ended.
    pub fn end(&self) -> Result<OwnedFd> {
        let pid = rustix::process::Pid::from_child(&read(&self.running).process);
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .context(|| "watch the launcher".into())
    }

    /// Starts the launcher anew if it has ended; true where that was needed. What was asked of the one that is gone and
    /// not begun is told by its control socket, which closes.
    pub fn revive(&self) -> Result<bool> {
        let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(running.process.try_wait(), Ok(None)) {
            return Ok(false);
        }
        *running = spawn(&self.program)?;
        Ok(true)
    }
}

/// A panic elsewhere leaves nothing half-done here.
fn read(running: &RwLock<Running>) -> RwLockReadGuard<'_, Running> {
    running.read().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        running.socket = None;
        // Only fails when someone else has reaped it.
        let _ = running.process.wait();
    }
}

/// Starts the launcher: this very binary, as `hull launcher`. Called before the daemon has threads, so that
/// little is copied by the fork.
pub fn start() -> Result<Launcher> {
    let program = protected_self()?;
    let running = RwLock::new(spawn(&program)?);
    Ok(Launcher { program, running })
}

/// Executes the launcher. Threads do no harm: between fork and exec nothing of theirs is used.
fn spawn(program: &OwnedFd) -> Result<Running> {
    let (ours, theirs) = protocol::pair()?;
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let process = kernel::spawn_launcher(&path, theirs).context(|| "start the launcher".into())?;
    Ok(Running { socket: Some(ours), process })
}

/// This binary as a file which can be executed and cannot be written by anyone.
pub(crate) fn protected_self() -> Result<OwnedFd> {
    match read_only_clone() {
        Ok(program) => Ok(program),
        // Without CAP_SYS_ADMIN, or before Linux 5.12.
        Err(_) => sealed_copy().context(|| "make a sealed copy of hull's own binary".into()),
    }
}

fn read_only_clone() -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = rustix::mount::open_tree(CWD, "/proc/self/exe", flags)?;
    sys::mount_setattr(clone.as_fd(), false, &MountAttr::flags(libc::MOUNT_ATTR_RDONLY, 0))?;
    Ok(clone)
}

fn sealed_copy() -> std::io::Result<OwnedFd> {
    let mut program = std::fs::File::open("/proc/self/exe")?;
    let copy = rustix::fs::memfd_create("hull", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = std::fs::File::from(copy);
    std::io::copy(&mut program, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // An executable file that is open for writing is busy: it is opened anew, for reading.
    Ok(std::fs::File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?.into())
}

/// What `hull launcher` runs. Its socket is standard input.
pub fn main() -> ! {
    match kernel::launcher_socket() {
        Ok(socket) => serve(socket),
        Err(error) => {
            eprintln!("hull launcher: it is started by the daemon alone: {error}");
            sys::exit_now(125)
        }
    }
}

/// What a shim finds ready in the memory that it was forked with.
pub(crate) struct Warm {
    /// Where the title goes that `ps` shows.
    title: Option<Title>,
    /// A message like those that come, see [`Warm::rehearse`].
    message: Vec<u8>,
}

impl Warm {
    /// Looks up and compiles what every shim needs, and keeps it where the shims find it.
    fn up() -> Warm {
        cgroup::hierarchy();
        container::overlay_reads_parameters();
        // What is wrong with the filter, the container says that wants it.
        let _ = seccomp::default_filter(&USUAL);
        let message = serde_json::to_vec(&oci_spec::runtime::Spec::default()).unwrap_or_default();
        Warm { title: Title::find(), message }
    }

    /// Names the process for `ps`.
    pub(crate) fn name(&self, name: &std::ffi::CStr, title: &str) {
        // A name is a courtesy to who looks at the machine; a process without one works.
        let _ = rustix::thread::set_name(name);
        if let Some(area) = self.title {
            area.set(title);
        }
    }

    /// Touches the memory that a message's way through this process will need, while nobody waits for it.
    fn rehearse(&self) {
        let _ = std::hint::black_box(serde_json::from_slice::<oci_spec::runtime::Spec>(&self.message));
    }
}

/// Keeps a spare process on `socket`, for each message a new one, until its other end closes.
pub(crate) fn serve(socket: OwnedFd) -> ! {
    kernel::ignore_signals();
    // Only granted with CAP_SYS_RESOURCE; without, launcher and shims are as likely a victim as others.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    let warm = Warm::up();
    warm.name(c"hull-launcher", "hull launcher");
    loop {
        match fork_spare() {
            Ok(Forked::Spare(word)) => {
                spare(socket, word, &warm);
                sys::exit_now(0)
            }
            Ok(Forked::Launcher(word)) => {
                if rustix::io::retry_on_intr(|| rustix::io::read(&word, &mut [0_u8])) == Ok(1) {
                    wait_for_a_moment(socket.as_fd(), word.as_fd());
                } else if is_closed(socket.as_fd()) {
                    // The spare has ended with the daemon. Otherwise it was killed while it waited.
                    sys::exit_now(0)
                }
            }
            Err(error) => refuse_one(socket.as_fd(), Error::kernel("fork a shim", error)),
        }
    }
}

/// Waits until the last spare has done what it was asked for, while the machine has better to do than the next fork; or
/// until the next message is there, which has no other taker than the next spare.
fn wait_for_a_moment(socket: BorrowedFd<'_>, word: BorrowedFd<'_>) {
    let interest =
        |fd: BorrowedFd<'_>| kernel::Interest { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // Interrupted, the fork comes a little early.
    let _ = kernel::poll(&mut [interest(socket), interest(word)], None);
}

/// Which process returned from [`fork_spare`], with its end of a pipe: the spare writes to it when it has taken a message,
/// and closes it when the container has started or failed to.
enum Forked {
    Launcher(OwnedFd),
    Spare(OwnedFd),
}

fn fork_spare() -> std::io::Result<Forked> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok(match sys::fork()? {
        Some(_) => Forked::Launcher(reader),
        None => Forked::Spare(writer),
    })
}

/// The spare process: gets ready, takes a message, says so and becomes what the message asks for.
fn spare(socket: OwnedFd, word: OwnedFd, warm: &Warm) {
    warm.name(c"hull-spare", "hull spare");
    let mut ready = match shim::Ready::up() {
        Ok(ready) => ready,
        // Not before somebody asks: the launcher forks the next one when this one has ended.
        Err(error) => return refuse_one(socket.as_fd(), error),
    };
    warm.rehearse();
    let (body, descriptors) = loop {
        match protocol::receive_packet(socket.as_fd()) {
            Ok(Some(packet)) => break packet,
            Err(ReceiveError::WouldBlock) => wait_readable(socket.as_fd()),
            // A packet that was cut: whoever waits for it sees its control socket close.
            Err(ReceiveError::Broken(error)) if error.errno.is_none() => {}
            // The daemon is gone.
            Ok(None) | Err(ReceiveError::Broken(_)) => return,
        }
    };
    // A launcher that is gone needs no word.
    let _ = rustix::io::write(&word, &[0]);
    ready.word = Some(word);
    drop(socket);
    become_what_is_asked(body, descriptors, warm, ready);
}

/// Whether the daemon has closed its end.
fn is_closed(socket: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut socket = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    matches!(poll(&mut socket, Some(&now)), Ok(1..))
        && socket[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR)
}

/// No shim can be made: the next start is answered with that.
fn refuse_one(socket: BorrowedFd<'_>, error: Error) {
    match protocol::receive_packet(socket) {
        Ok(Some((_, descriptors))) => tell_failure(&descriptors, error),
        Ok(None) => sys::exit_now(0),
        Err(ReceiveError::WouldBlock) => wait_readable(socket),
        Err(ReceiveError::Broken(error)) if error.errno.is_none() => {}
        Err(ReceiveError::Broken(_)) => sys::exit_now(1),
    }
}

fn tell_failure(descriptors: &[OwnedFd], error: Error) {
    if let Some(control) = descriptors.first() {
        // Whoever would be told is gone when this fails.
        let _ = protocol::send(control.as_fd(), &FromShim::Event(Event::StartFailed(error)), &[]);
    }
}

/// Reads the message and becomes what it asks for.
fn become_what_is_asked(body: Vec<u8>, descriptors: Vec<OwnedFd>, warm: &Warm, ready: shim::Ready) {
    let (json, mut descriptors) = match protocol::unpack(body, descriptors) {
        Ok(unpacked) => unpacked,
        Err(_) => return,
    };
    let message = match protocol::parse::<ToLauncher>(&json) {
        Ok(message) => message,
        Err(error) => return tell_failure(&descriptors, error),
    };
    drop(json);
    if descriptors.is_empty() {
        return;
    }
    let others = descriptors.split_off(1);
    let Some(control) = descriptors.pop() else { return };
    match message {
        ToLauncher::Start(launch) => shim::run(*launch, control, others, warm, ready),
        ToLauncher::View(view) => {
            drop(ready);
            show(&view, control.as_fd(), warm)
        }
    }
}

/// Shows a container's file system until the control socket closes.
fn show(view: &View, control: BorrowedFd<'_>, warm: &Warm) {
    warm.name(c"hull-view", "hull view");
    let shown = container::view(&view.spec, &view.rootfs)
        .and_then(|root| protocol::send(control, &FromShim::Event(Event::ViewReady), &[root.as_fd()]));
    match shown {
        Ok(()) => while let Ok(Some(_)) = protocol::receive_packet(control) {},
        Err(error) => {
            // Whoever would be told is gone when this fails.
            let _ = protocol::send(control, &FromShim::Event(Event::StartFailed(error)), &[]);
        }
    }
}

fn wait_readable(fd: BorrowedFd<'_>) {
    let interest = kernel::Interest { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // Interrupted, the caller tries again.
    let _ = kernel::poll(&mut [interest], None);
}
