//! A process that is born into a user namespace that is there already: its other namespaces are to belong to that one, and
//! only who is inside can make such. So one in between joins it, and clones the one that is meant: not its own child but
//! its parent's.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::namespaces::Namespaces;
use super::report::{self, Teller};
use super::{Child, be_child, process};
use crate::error::Context;
use crate::sys::{self, Cloned, sockets};
use crate::{Error, Result};

/// Clones a process which runs `main` and never returns from it. All that the container joins is joined by then.
pub(super) fn clone(
    namespaces: &Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
    main: impl FnOnce(&Teller) -> Result<Infallible>,
) -> Result<Child> {
    let doing = || "clone a process into the user namespace".to_owned();
    let (sync, childs) = sockets::packet_pair().context(doing)?;
    let (ours, theirs) = sockets::packet_pair().context(doing)?;
    match sys::clone3(0, cgroup).context(doing)? {
        Cloned::Child => {
            drop((sync, ours));
            be_child(&Teller::new(childs), |teller| be_between(namespaces, &theirs, teller, main))
        }
        Cloned::Parent { pidfd: between, .. } => {
            drop((childs, theirs));
            let mut packet = [0];
            let received = sockets::receive(ours.as_fd(), &mut packet);
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(between.as_fd()), WaitIdOptions::EXITED))
                .context(|| "wait for the process in between".into())?;
            match received.context(doing)? {
                (1, Some(pidfd)) => {
                    let pid = pid_of(&pidfd).context(doing)?;
                    Ok(Child { pid, pidfd: Some(pidfd), sync, root: None, outside: None, running: false })
                }
                // It has told why.
                _ => Err(report::hear(sync.as_fd())
                    .err()
                    .unwrap_or_else(|| Error::refused(doing(), "the process in between was killed"))),
            }
        }
    }
}

fn be_between(
    namespaces: &Namespaces,
    parent: &OwnedFd,
    teller: &Teller,
    main: impl FnOnce(&Teller) -> Result<Infallible>,
) -> Result<Infallible> {
    process::shield()?;
    namespaces.join()?;
    let doing = || "clone the container's first process".to_owned();
    match sys::clone3(namespaces.new | libc::CLONE_PARENT, None).context(doing)? {
        Cloned::Child => main(teller),
        Cloned::Parent { pidfd, .. } => {
            sockets::send(parent.as_fd(), b"P", Some(pidfd.as_fd())).context(doing)?;
            sys::exit_now(0)
        }
    }
}

/// The process behind a pidfd, in the namespace of the host's `/proc`.
fn pid_of(pidfd: &OwnedFd) -> std::io::Result<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESRCH))
}
