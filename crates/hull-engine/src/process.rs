//! A process outside the daemon that something of the daemon's belongs to: when it ends, that goes as well. It is known
//! again by a daemon that comes back.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;

use crate::watched::watched;

/// Which process it is; its id alone may be another's by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pid: i32,
    /// When it began, in the kernel's ticks since boot.
    began: u64,
    /// Which boot that was.
    boot: String,
}

impl Process {
    /// The process that has this id now.
    pub(crate) fn of(pid: i32) -> Option<Process> {
        Some(Process { pid, began: began(pid)?, boot: boot()? })
    }

    /// A handle of it; none: it has ended.
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        // Opened before it is looked at, so that it is never another one.
        let pidfd = open(self.pid)?;
        (Process::of(self.pid)? == *self).then_some(pidfd)
    }
}

pub(crate) fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// When a process began, in the kernel's ticks since boot.
pub(crate) fn began(pid: i32) -> Option<u64> {
    hull_runtime::oci::process_began(pid).map(|(began, _)| began)
}

fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// Waits for its end.
///
/// # Errors
/// It cannot be watched.
pub(crate) async fn ended(pidfd: OwnedFd) -> io::Result<()> {
    watched(pidfd, Interest::READABLE)?.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_opened_if_it_is_there() {
        assert!(began(std::process::id().cast_signed()).is_some());
        assert!(open(0).is_none() && open(4_194_303).is_none() && Process::of(4_194_303).is_none());
    }

    #[tokio::test]
    async fn a_process_is_not_another_that_has_its_id() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let process = Process::of(child.id().cast_signed()).unwrap();
        let pidfd = process.open().unwrap();
        let others = [
            Process { began: process.began + 1, ..process.clone() },
            Process { boot: String::new(), ..process.clone() },
        ];
        assert!(others.iter().all(|other| other.open().is_none()));
        drop(child.stdin.take());
        ended(pidfd).await.unwrap();
        child.wait().unwrap();
        assert!(process.open().is_none());
    }
}
