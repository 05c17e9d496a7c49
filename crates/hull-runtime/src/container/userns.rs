//! User namespaces: their mappings, and handles of such as stand for the mappings of a mount.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::Streams;
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

    /// Who is root, outside: user and group.
    pub(super) fn root(&self) -> Option<(u32, u32)> {
        let of = |mappings: &[LinuxIdMapping]| {
            mappings.iter().find(|mapping| mapping.container_id() == 0).map(LinuxIdMapping::host_id)
        };
        Some((of(self.users)?, of(self.groups)?))
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
        let cloned = sys::clone3(libc::CLONE_NEWUSER, None).map_err(|error| {
            let advice = match error.raw_os_error() {
                Some(libc::ENOSPC) => "the machine has as many as it may: raise user.max_user_namespaces",
                _ => "",
            };
            Error::kernel(doing(), error).advise(advice)
        });
        match cloned? {
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

/// A user namespace of these ranges (inside, outside, how many) that no process is in, and who is its root.
pub(super) fn handle_of(users: &[[u32; 3]], groups: &[[u32; 3]]) -> Result<(OwnedFd, (u32, u32))> {
    let mapping = |[inside, outside, count]: &[u32; 3]| {
        let builder = LinuxIdMappingBuilder::default();
        builder.container_id(*inside).host_id(*outside).size(*count).build().unwrap_or_default()
    };
    let (users, groups): (Vec<_>, Vec<_>) =
        (users.iter().map(mapping).collect(), groups.iter().map(mapping).collect());
    let mappings = Mappings { users: &users, groups: &groups };
    let root =
        mappings.root().ok_or_else(|| Error::refused("make a user namespace", "nobody is root in it"))?;
    Ok((mappings.handle()?, root))
}

/// Who is root of a process's user namespace, as this process sees it: user and group.
pub(crate) fn root_of(pid: i32) -> Result<(u32, u32)> {
    let of = |file: &str| -> Result<u32> {
        let path = format!("/proc/{pid}/{file}");
        let text = std::fs::read_to_string(&path).context(|| format!("read {path}"))?;
        root_in(&text).ok_or_else(|| Error::refused(format!("find out who is root in {path}"), "nobody is"))
    };
    Ok((of("uid_map")?, of("gid_map")?))
}

/// Whose id 0 is, by the kernel's list of mappings.
fn root_in(map: &str) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace();
        (numbers.next() == Some("0")).then(|| numbers.next()?.parse().ok())?
    })
}

/// Gives pipes to whoever is root in the user namespace: it could not open them again by `/dev/stdout` otherwise.
pub(crate) fn give(streams: &Streams, (uid, gid): (u32, u32)) -> Result<()> {
    let Streams::Pipes { stdin, stdout, stderr } = streams else { return Ok(()) };
    for stream in [stdin, stdout, stderr] {
        // What is no pipe is somebody's file, or the host's null device.
        let stat = rustix::fs::fstat(stream).context(|| "look at the standard streams".into())?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
            let owner = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)));
            rustix::fs::fchown(stream, owner.0, owner.1)
                .context(|| "give the standard streams to the container's root".into())?;
        }
    }
    Ok(())
}

/// Becomes root of the user namespace that this process is in.
pub(super) fn become_root() -> Result<()> {
    use rustix::fs::{Gid, Uid};
    let doing = || "become root in the user namespace".to_owned();
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).context(doing)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_in_the_kernel_s_list() {
        assert_eq!(root_in("         0     100000      65536\n"), Some(100_000));
        assert_eq!(root_in("1 7 2\n0 300000 1\n"), Some(300_000));
        assert_eq!(root_in("1 7 2\n"), None);
        assert_eq!(root_in(""), None);
    }
}
