//! The parent of a program: it clones it, hands signals on, stops when it stops, and ends as it ends.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::kernel::{self, Signals, Waited};
use crate::error::Context as _;
use crate::sys::{self, Cloned};
use crate::{Error, Result};

/// A program that runs, and whose parent this process is.
pub(super) struct Supervised {
    pid: i32,
    signals: Signals,
}

/// What is watched while the program runs: a descriptor, and what to do when it has something.
pub(super) struct Watch<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) events: PollFlags,
    pub(super) told: &'a mut dyn FnMut(),
}

/// Clones a process with these namespaces, into this cgroup. `prepare` runs here while it waits; then it runs
/// `child`, which ends in an exec or in the error that this returns.
pub(super) fn start(
    flags: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    prepare: impl FnOnce(i32) -> Result<()>,
    child: impl FnOnce() -> Result<Infallible>,
) -> Result<Supervised> {
    let doing = || "start a process".to_owned();
    let signals = Signals::block().context(doing)?;
    let (go_read, go_write) = pipe_with(PipeFlags::CLOEXEC).context(doing)?;
    let (failed_read, failed_write) = pipe_with(PipeFlags::CLOEXEC).context(doing)?;
    match sys::clone3(flags, cgroup).map_err(|error| cannot_clone(flags, error)) {
        Ok(Cloned::Child) => {
            drop((go_write, failed_read));
            let error = match as_child(&signals, go_read, child) {
                Err(error) => error,
                Ok(never) => match never {},
            };
            tell(failed_write, &error);
            sys::exit_now(error.exit_status.into());
        }
        Ok(Cloned::Parent { pid, .. }) => {
            drop((go_read, failed_write));
            // Closing the pipe unwritten ends the child, which has nothing to tell then.
            let prepared = prepare(pid);
            if prepared.is_ok() {
                rustix::io::write(&go_write, &[1]).context(doing)?;
            }
            drop(go_write);
            let failed = prepared.err().or_else(|| told(failed_read));
            let running = Supervised { pid, signals };
            match failed {
                None => Ok(running),
                Some(error) => {
                    running.wait(None)?;
                    Err(error)
                }
            }
        }
        Err(error) => {
            signals.restore().context(doing)?;
            Err(error)
        }
    }
}

fn cannot_clone(flags: libc::c_int, error: std::io::Error) -> Error {
    let errno = error.raw_os_error();
    let error = Error::kernel("make the namespaces", error);
    match errno {
        Some(libc::EPERM) if flags & libc::CLONE_NEWUSER == 0 => {
            error.advise("that needs root, or a user namespace as well: --user --map-root-user")
        }
        Some(libc::EPERM) => error.advise("user namespaces are not allowed here: see hull doctor"),
        Some(libc::ENOSPC | libc::EUSERS) => {
            error.advise("there are too many already: see /proc/sys/user/max_*_namespaces")
        }
        Some(libc::EINVAL) => error.advise("this kernel does not have all of them: see hull doctor"),
        _ => error,
    }
}

fn as_child(
    signals: &Signals,
    go: OwnedFd,
    child: impl FnOnce() -> Result<Infallible>,
) -> Result<Infallible> {
    let mut byte = [0];
    let length = rustix::io::read(&go, &mut byte).context(|| "wait for the parent".into())?;
    if length == 0 {
        sys::exit_now(125); // the parent failed, and tells why
    }
    drop(go);
    signals.restore().context(|| "unblock the signals".into())?;
    child()
}

/// The child's error, to the parent. A parent that is gone needs none.
fn tell(pipe: OwnedFd, error: &Error) {
    if let Ok(text) = serde_json::to_vec(error) {
        let _ = std::fs::File::from(pipe).write_all(&text);
    }
}

/// What the child told: nothing when it has become the program, which closed the pipe.
fn told(pipe: OwnedFd) -> Option<Error> {
    let mut text = Vec::new();
    match std::fs::File::from(pipe).read_to_end(&mut text) {
        Err(error) => Some(Error::kernel("hear of the program's start", error)),
        Ok(0) => None,
        Ok(_) => Some(serde_json::from_slice(&text).unwrap_or_else(|_| {
            Error::refused("start the program", "its process ended before it could say why")
        })),
    }
}

impl Supervised {
    /// Returns when the program has ended: its exit status, 128 and the signal's number where one ended it.
    pub(super) fn wait(&self, mut watch: Option<Watch<'_>>) -> Result<i32> {
        let doing = || "wait for the program".to_owned();
        loop {
            match kernel::wait(self.pid).context(doing)? {
                Some(Waited::Exited(status)) => return Ok(status),
                Some(Waited::Signaled(signal)) => return Ok(128 + signal),
                // The shell that has this process in the foreground sees it stop as well, and wakes the whole group.
                Some(Waited::Stopped) => {
                    sys::kill(std::process::id().cast_signed(), libc::SIGSTOP).context(doing)?;
                }
                None => {}
            }
            let mut interests = vec![PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN)];
            interests.extend(watch.as_ref().map(|watch| PollFd::from_borrowed_fd(watch.fd, watch.events)));
            match poll(&mut interests, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::kernel(doing(), error)),
            }
            let watched = interests.get(1).is_some_and(|interest| !interest.revents().is_empty());
            while let Some(came) = self.signals.next().context(doing)? {
                self.hand_on(came)?;
            }
            if watched && let Some(watch) = &mut watch {
                (watch.told)();
            }
        }
    }

    /// What a terminal's key sent, the program has got by itself.
    fn hand_on(&self, came: kernel::Came) -> Result<()> {
        if came.from_kernel || came.signal == libc::SIGCHLD {
            return Ok(());
        }
        match sys::kill(self.pid, came.signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(Error::kernel(format!("hand signal {} on to the program", came.signal), error))
            }
            _ => Ok(()),
        }
    }
}
