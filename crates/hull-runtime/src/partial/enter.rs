//! A program in the namespaces of a process that runs: `nsenter`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::list::container_of;
use super::run::Propagation;
use super::{Kind, Kinds, kernel, program, root, supervise};
use crate::error::Context as _;
use crate::{Error, Result, sys};

/// Whose namespaces to enter, and what to run there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enter {
    /// The process.
    pub pid: i32,
    /// The container whose process it is to be, by its id: its number may be another's by now.
    pub container: Option<String>,
    /// Which of its namespaces; none named: all in which it is not with the caller.
    pub kinds: Kinds,
    /// Where to mount a `/proc` of the pid namespace, in a mount namespace of the program's own.
    pub proc_at: Option<PathBuf>,
    /// The working directory.
    pub directory: Option<PathBuf>,
    /// The user to become.
    pub uid: Option<u32>,
    /// The group to become.
    pub gid: Option<u32>,
    /// Not to become root in a user namespace that is entered.
    pub keep_credentials: bool,
    /// What to run; nothing: a shell.
    pub program: Vec<String>,
}

/// Runs it and returns its exit status. Where the program needs no parent, this process becomes it and nothing
/// returns.
///
/// # Errors
/// The process is gone, a step failed; 126 and 127 where it was the program's execution.
pub fn enter(wish: &Enter) -> Result<i32> {
    let process = Pid::from_raw(wish.pid).ok_or_else(|| gone(wish.pid))?;
    let pidfd = match pidfd_open(process, PidfdFlags::empty()) {
        Err(Errno::SRCH | Errno::INVAL) => return Err(gone(wish.pid)),
        opened => opened.context(|| format!("open process {}", wish.pid))?,
    };
    let other = others(wish.pid)?;
    let is_meant = wish.container.as_ref().is_none_or(|id| container_of(wish.pid).as_ref() == Some(id));
    // One that has ended has no namespaces any more, which looks as if they were the caller's: the program would run
    // among the host's. If it runs still, all that was read under its number was its own.
    if !is_meant || ended(&pidfd)? {
        return Err(gone(wish.pid));
    }
    // One's own user namespace cannot be entered again.
    let kinds = match (wish.kinds.is_empty(), other.has(Kind::User)) {
        (true, _) => other,
        (false, true) => wish.kinds,
        (false, false) => wish.kinds.without(Kind::User),
    };
    if !kinds.is_empty() {
        // All at once, by the process: it cannot be another's by now.
        match sys::setns(pidfd.as_fd(), kinds.flags()) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(gone(wish.pid)),
            entered => {
                entered.context(|| format!("enter the namespaces ({kinds}) of process {}", wish.pid))?
            }
        }
    }
    let go_on = || {
        if let Some(at) = &wish.proc_at {
            sys::unshare_namespaces(libc::CLONE_NEWNS).context(|| "make a mount namespace".into())?;
            Propagation::Private.set()?;
            root::mount_proc(at)?;
        }
        if let Some(directory) = &wish.directory {
            rustix::process::chdir(directory).context(|| format!("enter {}", directory.display()))?;
        }
        wish.become_user(kinds.has(Kind::User))?;
        program::become_program(&wish.program).map_err(|error| {
            if error.exit_status == 127 && kinds.has(Kind::Mount) && !wish.program.is_empty() {
                error.advise("there is no such program in those files; without --mount the host's are used")
            } else {
                error
            }
        })
    };
    if kinds.has(Kind::Pid) {
        // Only a child is born into the pid namespace.
        return supervise::start(0, None, |_| Ok(()), go_on)?.wait(None);
    }
    go_on().map(|never| match never {})
}

impl Enter {
    /// Who enters a user namespace is nobody there until it becomes someone: root, if nobody else was named.
    fn become_user(&self, in_user_namespace: bool) -> Result<()> {
        let root = (in_user_namespace && !self.keep_credentials).then_some(0);
        let (uid, gid) = (self.uid.or(root), self.gid.or(root));
        // Where the namespace's maker gave that up, groups stay as they are.
        let denied = std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|word| word.trim() == "deny");
        kernel::set_ids(uid, gid, gid.is_some() && !denied).context(|| "become the user and group".into())
    }
}

/// Whether a process has ended, reaped or not.
fn ended(pidfd: &OwnedFd) -> Result<bool> {
    let mut end = [PollFd::new(pidfd, PollFlags::IN)];
    let polled = poll(&mut end, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    Ok(polled.context(|| "look whether the process runs".into())? > 0)
}

/// The kinds in which a process is not with this one.
fn others(pid: i32) -> Result<Kinds> {
    let process = pid.to_string();
    let folder = format!("/proc/{pid}/ns");
    if let Err(error) = std::fs::read_link(format!("{folder}/pid")) {
        return Err(match error.kind() {
            std::io::ErrorKind::NotFound => gone(pid),
            _ => Error::kernel(format!("look at the namespaces of process {pid}"), error),
        });
    }
    let differs = |kind: &Kind| {
        let theirs = kind.inode_of(&process);
        theirs.is_some() && theirs != kind.inode_of("self")
    };
    Ok(Kind::ALL.into_iter().filter(differs).collect())
}

fn gone(pid: i32) -> Error {
    Error::refused(
        format!("enter the namespaces of process {pid}"),
        "there is no such process, or it is gone",
    )
}
