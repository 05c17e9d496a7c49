//! One command of a runtime: its process, how long it may take, and how it went.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::words;
use crate::error::Context;
use crate::protocol::ForeignRuntime;
use crate::shim::kernel::{self, Interest};
use crate::{Error, Result, container, sys};

/// Where programs are looked for that are named without a folder, should the daemon's environment not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much is read of what a command prints, in bytes.
const SAID_MAX: usize = 16 * 1024;

/// Where a command's output goes.
pub(super) enum Output {
    /// To who tells how it went.
    Said,
    /// The streams are those of the process that it makes.
    Process(container::Streams),
}

/// A command on its way. Dropped before its end, it is killed, with all that it started but for what lives in sessions
/// of their own.
#[derive(Debug)]
pub(super) struct Invocation {
    runtime: String,
    verb: &'static str,
    pid: Pid,
    pidfd: OwnedFd,
    /// What it prints, where that is not a process's: a file in memory, which takes however much that is.
    said: Option<OwnedFd>,
    log: PathBuf,
    limit: Duration,
    due: Instant,
    reaped: bool,
}

impl Invocation {
    pub(super) fn begin(
        runtime: &ForeignRuntime,
        verb: &'static str,
        arguments: &[&OsStr],
        log: PathBuf,
        output: Output,
        limit: Duration,
    ) -> Result<Invocation> {
        let doing = || format!("execute the runtime {} ({})", runtime.name, runtime.path.display());
        // Only what this very command writes is its own.
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(&runtime.path);
        // Not what the daemon's service manager has told the daemon: runtimes hand that on to the container.
        let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
        command.args(arguments).env_clear().env("PATH", path).current_dir("/").process_group(0);
        let said = match output {
            Output::Process(container::Streams::Pipes { stdin, stdout, stderr }) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                None
            }
            Output::Said | Output::Process(_) => {
                let ours = memfd_create("said", MemfdFlags::CLOEXEC).context(doing)?;
                let theirs = ours.try_clone().context(doing)?;
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(theirs);
                Some(ours)
            }
        };
        let child = kernel::as_others(&mut command).spawn().map_err(|error| {
            Error::kernel(doing(), error)
                .advise("see whether it is there and may be executed, and what the daemon's runtimes say")
        })?;
        let pid = Pid::from_child(&child);
        // It is a child that nobody else reaps: the id is its own.
        let pidfd = pidfd_open(pid, PidfdFlags::empty());
        let due = Instant::now() + limit;
        match pidfd {
            Ok(pidfd) => Ok(Invocation {
                runtime: runtime.name.clone(),
                verb,
                pid,
                pidfd,
                said,
                log,
                limit,
                due,
                reaped: false,
            }),
            Err(error) => {
                let _ = sys::kill(-pid.as_raw_nonzero().get(), libc::SIGKILL);
                Err(Error::kernel(doing(), error))
            }
        }
    }

    /// Readable when it has ended.
    pub(super) fn ends(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// When it has taken too long.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// How it went; none: it goes on. `printed` is what the process was to print that it makes.
    pub(super) fn ended(&mut self, printed: impl FnOnce() -> Vec<u8>) -> Option<Result<()>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let ended = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), options));
        match ended {
            Ok(None) if Instant::now() >= self.due => Some(Err(self.hangs())),
            Ok(None) => None,
            Err(error) => Some(Err(Error::kernel(self.doing(), error))),
            Ok(Some(status)) => {
                self.reaped = true;
                if status.exit_status() == Some(0) {
                    return Some(Ok(()));
                }
                let printed = if self.said.is_some() { self.said() } else { printed() };
                let how = match (status.exit_status(), status.terminating_signal()) {
                    (Some(status), _) => format!("it ended with status {status} and said nothing"),
                    (None, Some(signal)) => format!("it was killed by signal {signal}"),
                    (None, None) => "it ended in a way that is not known".to_owned(),
                };
                Some(Err(words::error(&self.log, &printed, || Error::refused(self.doing(), how))))
            }
        }
    }

    /// Waits for the end.
    pub(super) fn wait(mut self) -> Result<()> {
        loop {
            if let Some(ended) = self.ended(Vec::new) {
                return ended;
            }
            let mut interest = [Interest { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            // Interrupted, it is looked at anew.
            let _ = kernel::poll(&mut interest, Some(self.due.saturating_duration_since(Instant::now())));
        }
    }

    fn doing(&self) -> String {
        format!("{} of the runtime {}", self.verb, self.runtime)
    }

    fn hangs(&self) -> Error {
        let seconds = self.limit.as_secs();
        Error::refused(self.doing(), format!("it did not end within {seconds} seconds and was killed"))
    }

    fn said(&self) -> Vec<u8> {
        let Some(said) = &self.said else { return Vec::new() };
        let length = rustix::fs::fstat(said).map_or(0, |stat| stat.st_size as u64);
        let mut text = Vec::with_capacity(SAID_MAX);
        // The end of it: that says why.
        let from = length.saturating_sub(SAID_MAX as u64);
        let _ = rustix::io::retry_on_intr(|| {
            rustix::io::pread(said, rustix::buffer::spare_capacity(&mut text), from)
        });
        text
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        if !self.reaped {
            // The group is there as long as it is not reaped.
            if sys::kill(-self.pid.as_raw_nonzero().get(), libc::SIGKILL).is_err() {
                let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            }
            // One that waits in the kernel for what does not answer is reaped with the others, when it can.
            let deadline = Instant::now() + Duration::from_secs(1);
            while Instant::now() < deadline {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                    Ok(None) | Err(Errno::INTR) => {
                        let mut interest =
                            [Interest { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
                        let _ = kernel::poll(&mut interest, Some(Duration::from_millis(100)));
                    }
                    _ => break,
                }
            }
        }
        let _ = std::fs::remove_file(&self.log);
    }
}
