//! The end of a container: signals, pausing before, and what is cleared away after.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Container, Status};
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::shim::kernel::signal_by_pidfd;
use crate::systemd::Systemd;
use crate::{Error, Result, sys};

/// How long a killed container's first process is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal by its number or name, with or without `SIG`, in any case; `RTMIN+1` and `RTMAX-1` too.
///
/// # Errors
/// There is no such signal.
pub fn signal_number(word: &str) -> Result<i32> {
    const MOST: i32 = 64;
    let unknown = || Error::refused(format!("signal {word:?}"), "unknown signal");
    if let Ok(number) = word.parse::<i32>() {
        return if (0..=MOST).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|other| *other == name) {
        return Ok(index as i32 + 1);
    }
    match name {
        "POLL" => return Ok(libc::SIGIO),
        "IOT" => return Ok(libc::SIGABRT),
        "CLD" => return Ok(libc::SIGCHLD),
        _ => {}
    }
    let (least, most) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest).map(|offset| least + offset)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest).map(|offset| most + offset)
    } else {
        None
    };
    number.filter(|number| (least..=most).contains(number)).ok_or_else(unknown)
}

impl Container {
    /// Sends a signal to the first process, or with `all` to every process.
    ///
    /// # Errors
    /// It has ended (with `all`, that is no error).
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        let doing = || format!("kill the container {}", self.id());
        if all {
            return self.kill_all(signal);
        }
        let Some(pidfd) = self.first_process()? else {
            // Where the process ids are the host's, others may have outlived the first.
            if signal == libc::SIGKILL && self.shares_process_ids() && !self.processes()?.is_empty() {
                return self.kill_all(signal);
            }
            return Err(Error::refused(doing(), "container not running"));
        };
        use std::os::fd::AsRawFd;
        signal_by_pidfd(pidfd.as_raw_fd(), signal).context(doing)?;
        if signal == libc::SIGKILL && self.shares_process_ids() {
            self.kill_all(signal)?;
        }
        // On v1 what is frozen dies only when it thaws.
        match self.cgroup() {
            Some(cgroup) if signal == libc::SIGKILL && cgroup.is_frozen()? => cgroup.thaw(),
            _ => Ok(()),
        }
    }

    fn kill_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.cgroup().map_or(Ok(()), |cgroup| cgroup.kill_all());
        }
        for pid in self.processes()? {
            match sys::kill(pid, signal) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                sent => {
                    sent.context(|| format!("signal the process {pid} of the container {}", self.id()))?
                }
            }
        }
        Ok(())
    }

    fn shares_process_ids(&self) -> bool {
        use oci_spec::runtime::LinuxNamespaceType::Pid;
        let own = |spec: oci_spec::runtime::Spec| {
            let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone());
            namespaces
                .into_iter()
                .flatten()
                .any(|namespace| namespace.typ() == Pid && namespace.path().is_none())
        };
        !self.config().is_ok_and(own)
    }

    /// Makes all processes stand still.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        match self.status()? {
            Status::Running | Status::Created => self.existing_cgroup("pause")?.freeze(),
            status => Err(self.not_possible("pause", "running", status)),
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It is not paused.
    pub fn resume(&self) -> Result<()> {
        match self.status()? {
            Status::Paused => self.existing_cgroup("resume")?.thaw(),
            status => Err(self.not_possible("resume", "paused", status)),
        }
    }

    pub(super) fn existing_cgroup(&self, verb: &str) -> Result<Cgroup> {
        let doing = || format!("{verb} the container {}", self.id());
        self.cgroup()
            .ok_or_else(|| Error::refused(doing(), format!("its cgroup {} is gone", self.record.cgroup)))
    }

    /// In runc's words, which its callers know.
    fn not_possible(&self, verb: &str, needed: &str, status: Status) -> Error {
        let reason = format!("container not {needed}: it is {status}");
        Error::refused(format!("{verb} the container {}", self.id()), reason)
    }

    /// Removes a container that has ended or was never started; with `force` one that runs too, which is killed. Returns
    /// what its last hooks had to warn of: the container is gone whatever they do.
    ///
    /// # Errors
    /// It runs; or a part of it cannot be removed, and then everything that is written down of it stays.
    pub fn delete(&self, force: bool) -> Result<Vec<String>> {
        let status = self.status()?;
        match status {
            Status::Stopped => {}
            Status::Created => self.end()?,
            Status::Running | Status::Paused if force => self.end()?,
            Status::Running | Status::Paused => {
                let doing = format!("delete the container {}", self.id());
                let reason = format!("cannot delete container {} that is not stopped: {status}", self.id());
                return Err(Error::refused(doing, reason));
            }
        }
        let cgroup = self.cgroup();
        // Where the process ids are the host's, others may have outlived the first process.
        cgroup.as_ref().map_or(Ok(()), Cgroup::kill_all)?;
        if let Some(unit) = &self.record.unit {
            Systemd::connect()?.stop(unit)?;
        }
        cgroup.map_or(Ok(()), |cgroup| cgroup.remove())?;
        if let Some(class) = &self.record.resctrl {
            match std::fs::remove_dir(class) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::kernel(format!("remove the class {}", class.display()), error));
                }
                _ => {}
            }
        }
        let warnings = self.run_last_hooks();
        self.forget()?;
        Ok(warnings)
    }

    /// Kills it and waits for the end of its first process.
    fn end(&self) -> Result<()> {
        let doing = || format!("end the container {}", self.id());
        let pidfd = self.first_process()?;
        match self.cgroup() {
            Some(cgroup) => cgroup.kill_all()?,
            None => self.kill(libc::SIGKILL, false)?,
        }
        let Some(pidfd) = pidfd else { return Ok(()) };
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)).context(doing)? {
            0 => Err(Error::refused(
                doing(),
                "its first process does not die: it waits for a device or a file system",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_number_and_name() {
        for (word, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigkill", 9),
            ("SIGTERM", 15),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
        ] {
            assert_eq!(signal_number(word).unwrap(), number, "{word}");
        }
        for word in ["", "65", "-1", "NOSUCH", "RTMAX+1", "SIG"] {
            assert!(signal_number(word).is_err(), "{word:?}");
        }
    }
}
