//! The launcher: a small single-threaded process that forks shims, and the daemon's handle of it.
//!
//! ```text
//! daemon ── ToLauncher, descriptors ──> launcher ──fork──> shim (reads the message, answers on its control socket)
//! ```
//!
//! The launcher itself reads no message: it takes the packet and the descriptors, forks, and forgets both. So
//! it does not grow, and what it has touched by then is all that its shims share. It ends when the daemon's
//! end of the socket closes; the shims go on.
//!
//! It runs from a read-only clone of the mount that hull's binary is on, or from a sealed copy in memory:
//! whatever a container does with `/proc/PID/exe` of a process that entered it, the host's binary is not
//! written (CVE-2019-5736).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Child;

use oci_spec::runtime::Capability;
use rustix::fs::{CWD, MemfdFlags, SealFlags};
use rustix::mount::OpenTreeFlags;

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

/// The daemon's handle of its launcher. Dropped, it ends the launcher and waits for that.
#[derive(Debug)]
pub struct Launcher {
    socket: Option<OwnedFd>,
    process: Child,
}

impl Launcher {
    /// The launcher's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a message; threads may do so at once. Blocks only while the socket's buffer is full, which the
    /// launcher empties without waiting for anything. `EPIPE` as the error's `errno`: the launcher is gone.
    pub fn send(&self, message: &ToLauncher, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let Some(socket) = &self.socket else {
            return Err(Error::refused("send to the launcher", "it is being ended"));
        };
        protocol::send(socket.as_fd(), message, descriptors)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.socket = None;
        // Only fails when someone else has reaped it.
        let _ = self.process.wait();
    }
}

/// Starts the launcher: this very binary, as `hull launcher`. Called before the daemon has threads, so that
/// little is copied by the fork.
pub fn start() -> Result<Launcher> {
    // Away from descriptor 3, where the launcher's socket goes before the program is executed.
    let program = protected_self()?;
    let program = rustix::io::fcntl_dupfd_cloexec(&program, 10).context(|| "start the launcher".into())?;
    let (ours, theirs) = protocol::pair()?;
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let process = kernel::spawn_launcher(&path, theirs).context(|| "start the launcher".into())?;
    Ok(Launcher { socket: Some(ours), process })
}

/// This binary as a file which can be executed and cannot be written by anyone.
fn protected_self() -> Result<OwnedFd> {
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

/// What `hull launcher` runs. Its socket is descriptor 3.
pub fn main() -> ! {
    serve(kernel::launcher_socket())
}

/// What a shim finds ready in the memory that it was forked with.
pub(crate) struct Warm {
    /// Where the title goes that `ps` shows.
    title: Option<Title>,
}

impl Warm {
    /// Looks up and compiles what every shim needs, and keeps it where the shims find it.
    fn up() -> Warm {
        cgroup::hierarchy();
        // What is wrong with the filter, the container says that wants it.
        let _ = seccomp::default_filter(&USUAL);
        Warm { title: Title::find() }
    }

    /// Names the process for `ps`.
    pub(crate) fn name(&self, name: &std::ffi::CStr, title: &str) {
        // A name is a courtesy to who looks at the machine; a process without one works.
        let _ = rustix::thread::set_name(name);
        if let Some(area) = self.title {
            area.set(title);
        }
    }
}

/// Forks for each message on `socket` until its other end closes.
pub(crate) fn serve(socket: OwnedFd) -> ! {
    kernel::ignore_signals();
    // Only granted with CAP_SYS_RESOURCE; without, launcher and shims are as likely a victim as others.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    let warm = Warm::up();
    warm.name(c"hull-launcher", "hull launcher");
    loop {
        match protocol::receive_packet(socket.as_fd()) {
            Ok(Some((body, descriptors))) => match sys::fork() {
                Ok(Some(_)) => {}
                Ok(None) => {
                    drop(socket);
                    let _ = rustix::process::setsid();
                    forked(body, descriptors, &warm);
                    sys::exit_now(0);
                }
                Err(error) => tell_failure(&descriptors, Error::kernel("fork a shim", error)),
            },
            // The daemon is gone.
            Ok(None) => sys::exit_now(0),
            // A packet that was cut: whoever waits for it sees its control socket close.
            Err(ReceiveError::Broken(error)) if error.errno.is_none() => {}
            Err(ReceiveError::Broken(_)) => sys::exit_now(1),
            Err(ReceiveError::WouldBlock) => wait_readable(socket.as_fd()),
        }
    }
}

fn tell_failure(descriptors: &[OwnedFd], error: Error) {
    if let Some(control) = descriptors.first() {
        // Whoever would be told is gone when this fails.
        let _ = protocol::send(control.as_fd(), &FromShim::Event(Event::StartFailed(error)), &[]);
    }
}

/// In the forked process: reads the message and becomes what it asks for.
fn forked(body: Vec<u8>, descriptors: Vec<OwnedFd>, warm: &Warm) {
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
        ToLauncher::Start(launch) => shim::run(*launch, control, others, warm),
        ToLauncher::View(view) => show(&view, control.as_fd(), warm),
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
