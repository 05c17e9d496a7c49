//! User namespaces: their mappings, and handles of such as stand for the mappings of a mount.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxIdMapping;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::error::Context;
use crate::sys::{self, Cloned, sockets};
use crate::{Error, Result};

/// Mappings of users and groups, as a configuration lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mappings<'s> {
    pub(super) users: &'s [LinuxIdMapping],
    pub(super) groups: &'s [LinuxIdMapping],
}

impl Mappings<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// Writes them for a process that is in a new user namespace.
    pub(super) fn write(&self, pid: i32) -> Result<()> {
        if self.users.is_empty() || self.groups.is_empty() {
            let advice = "a user namespace needs both linux.uidMappings and linux.gidMappings";
            return Err(Error::refused("map the user namespace", advice));
        }
        if !rustix::process::geteuid().is_root() && !self.are_ones_own() {
            write_by_helper(pid, "newuidmap", &lines(self.users))?;
            return write_by_helper(pid, "newgidmap", &lines(self.groups));
        }
        // Without privileges a group map is only taken from who cannot drop groups by it.
        if !rustix::process::geteuid().is_root() {
            let path = format!("/proc/{pid}/setgroups");
            std::fs::write(&path, "deny").context(|| format!("write deny to {path}"))?;
        }
        for (name, mappings) in [("uid_map", self.users), ("gid_map", self.groups)] {
            let path = format!("/proc/{pid}/{name}");
            let text = lines(mappings);
            std::fs::write(&path, &text).context(|| {
                format!("map the user namespace ({name}: {})", text.trim().replace('\n', ", "))
            })?;
        }
        Ok(())
    }

    /// Whether they map nobody but the calling user.
    fn are_ones_own(&self) -> bool {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let only = |mappings: &[LinuxIdMapping], own| matches!(mappings, [one] if one.host_id() == own && one.size() == 1);
        only(self.users, uid) && only(self.groups, gid)
    }

    /// A user namespace of these mappings that no process is in.
    pub(super) fn handle(&self) -> Result<OwnedFd> {
        let doing = || "make a user namespace for an id-mapped mount".to_owned();
        let (ours, theirs) = sockets::packet_pair().context(doing)?;
        match sys::clone3(libc::CLONE_NEWUSER, None).context(doing)? {
            Cloned::Child => {
                drop(ours);
                // Until its parent is done with it, or gone.
                let _ = sockets::receive(theirs.as_fd(), &mut [0]);
                sys::exit_now(0)
            }
            Cloned::Parent { pid, pidfd } => {
                let mapped = self.write(pid);
                let handle = mapped.and_then(|()| of_process(pid));
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                let _ =
                    rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
                handle
            }
        }
    }
}

/// Has a map written by `newuidmap` or `newgidmap` of the host's uidmap package, which look up in `/etc/subuid` and
/// `/etc/subgid` what a user without privileges may map: nobody else can.
pub(crate) fn write_by_helper(pid: i32, helper: &str, map: &str) -> Result<()> {
    let doing = || format!("map the user namespace with {helper}");
    let output = std::process::Command::new(helper)
        .arg(pid.to_string())
        .args(map.split_whitespace())
        .output()
        .map_err(|error| {
            let advice = "a user without privileges maps others by the programs of the uidmap package";
            Error::kernel(doing(), error).advise(advice)
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::refused(doing(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The user namespace of a process.
pub(super) fn of_process(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    File::open(&path).map(OwnedFd::from).context(|| format!("open {path}"))
}

fn lines(mappings: &[LinuxIdMapping]) -> String {
    let line = |mapping: &LinuxIdMapping| {
        format!("{} {} {}\n", mapping.container_id(), mapping.host_id(), mapping.size())
    };
    mappings.iter().map(line).collect()
}

/// Becomes root of the user namespace that this process is in.
pub(super) fn become_root() -> Result<()> {
    use rustix::fs::{Gid, Uid};
    let doing = || "become root in the user namespace".to_owned();
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).context(doing)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).context(doing)
}
