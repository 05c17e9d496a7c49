//! The shim: parent and reaper of a container's first process, owner of its streams and its log.
//!
//! One process a container, one thread, one `ppoll`. Its life:
//!
//! ```text
//! Starting ── exec succeeded ──> Running ── first process reaped ──> Draining ── all told ──> Ended
//!     │                             │ log, clients, execs,              │ the rest is killed,
//!     │                             │ limits, requests                  │ streams are read to their end
//!     └─ failed: StartFailed,       └─ the daemon may come and go       └─ exit.json, Exited, cgroup removed
//!        nothing is left
//! ```
//!
//! - Starting ([`start`]): `shim.sock` is bound, the cgroup made, the first process cloned and led to its exec.
//! - Running ([`running`]): whatever happens is one round of the loop. [`control`] answers the daemon.
//! - Draining and Ended ([`ending`]): `exit.json` is there before anyone is told.
//!
//! A daemon that was away connects to `shim.sock` ([`connect`]); where nobody answers, the container has ended
//! and [`read_exit`] says how.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::Context;
use crate::launcher::Warm;
use crate::protocol::{self, Event, Exit, FromShim, Launch};
use crate::{Error, Result};

mod causes;
mod client;
mod control;
mod early;
mod ending;
mod exec_cgroup;
mod foreign;
mod interests;
pub(crate) mod kernel;
mod limits;
pub mod log;
mod relay;
mod running;
mod start;
mod starting;
mod streams;

pub use kernel::{share_heap, trim_heap, trim_text};

pub(crate) use start::Ready;

/// The socket of a shim, in its runtime folder.
const SOCKET: &str = "shim.sock";
/// How a container ended, in the runtime folder of its shim.
const EXIT: &str = "exit.json";

/// Connects to the shim of a runtime folder. `ENOENT` or `ECONNREFUSED` as the error's `errno`: there is none. `EAGAIN`:
/// more have connected than it has looked at yet, and this does not wait for it to.
pub fn connect(runtime_dir: &Path) -> Result<OwnedFd> {
    let doing = || format!("connect to the shim at {}", runtime_dir.display());
    let folder = open_folder(runtime_dir).context(doing)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).context(doing)?;
    rustix::net::connect(&socket, &address(folder.as_fd()).context(doing)?).context(doing)?;
    rustix::io::ioctl_fionbio(&socket, false).context(doing)?;
    Ok(socket)
}

/// How the container of a runtime folder ended; none when it has not, or was never started there.
pub fn read_exit(runtime_dir: &Path) -> Result<Option<Exit>> {
    let path = runtime_dir.join(EXIT);
    let doing = || format!("read {}", path.display());
    match std::fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| Error::refused(doing(), error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::kernel(doing(), error)),
    }
}

/// The shim's process, from its fork to its end. `others`: the reserved descriptors, then clients'.
pub(crate) fn run(launch: Launch, control: OwnedFd, others: Vec<OwnedFd>, warm: &Warm, ready: Ready) {
    warm.name(c"hull-shim", &format!("hull shim {}", launch.id.get(..12).unwrap_or(&launch.id)));
    match start::start(launch, &control, others, ready) {
        Ok(started) => running::Shim::new(started, control).run(),
        Err(error) => {
            // Whoever would be told is gone when this fails.
            let _ = protocol::send(control.as_fd(), &FromShim::Event(Event::StartFailed(error)), &[]);
        }
    }
}

/// A folder by descriptor: what is bound or connected to through it may have a path of any length.
fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn address(folder: BorrowedFd<'_>) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

/// Binds the socket that daemons connect to. Only root may.
fn listen(folder: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    remove(folder, SOCKET)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &address(folder)?);
    rustix::process::umask(before);
    bound?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

fn remove(folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(folder, name, rustix::fs::AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// The time, in nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    // By the C library, which has found the kernel's clock when the program began: rustix would look for it anew.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
