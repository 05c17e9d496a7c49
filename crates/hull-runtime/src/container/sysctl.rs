//! Kernel parameters of the container's namespaces.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{self, Mode, OFlags, ResolveFlags};

use super::namespaces::Namespaces;
use crate::error::Context;
use crate::{Error, Result};

/// What `statfs` calls a procfs.
pub(super) const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// The host's procfs, opened while the host's paths are there: nothing in it can be redirected by the
/// container. `self` and the parameters of namespaces in it are those of whoever asks, as anywhere.
///
/// Not a mount of one's own: to let go of one that is mounted nowhere costs a grace period of RCU, a millisecond
/// on a busy machine.
pub(super) fn host_procfs() -> Result<OwnedFd> {
    let doing = || "open the host's /proc".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let procfs = fs::open("/proc", flags, Mode::empty()).context(doing)?;
    if fs::fstatfs(&procfs).context(doing)?.f_type as u64 != PROC_SUPER_MAGIC {
        return Err(Error::refused(doing(), "it is no procfs"));
    }
    Ok(procfs)
}

/// Writes to a file of [`host_procfs`].
pub(super) fn write(procfs: BorrowedFd<'_>, path: &str, value: &str) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = fs::openat2(procfs, path, flags, Mode::empty(), resolve)?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

/// The number in a file of [`host_procfs`].
pub(super) fn number(procfs: BorrowedFd<'_>, path: &str) -> Option<i64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = fs::openat2(procfs, path, flags, Mode::empty(), resolve).ok()?;
    let mut text = [0; 32];
    let length = rustix::io::read(&file, &mut text).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

/// Sets the kernel parameters of the configuration that belong to the network, or those that do not.
pub(super) fn set(spec: &Spec, procfs: BorrowedFd<'_>, network: bool) -> Result<()> {
    let parameters = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let chosen = parameters.into_iter().flatten().filter(|(name, _)| is_network(name) == network);
    for (name, value) in chosen {
        let path = PathBuf::from("sys").join(path(name));
        write(procfs, &path.to_string_lossy(), value)
            .context(|| format!("set the kernel parameter {name} to {value:?}"))?;
    }
    Ok(())
}

/// Refuses a parameter that is not of a namespace which is the container's own: it would be the host's.
pub(super) fn check(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let parameters = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    for (name, value) in parameters.into_iter().flatten() {
        let path = path(name);
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(Error::refused(
                format!("set the kernel parameter {name:?}"),
                "this is no name of one",
            ));
        }
        let Some(kind) = owner(&path) else {
            let advice =
                "it is not in a separate kernel namespace: it is the whole machine's, set it on the host";
            return Err(Error::refused(format!("set the kernel parameter {name} to {value:?}"), advice));
        };
        if !namespaces.is_own(kind) {
            let advice = format!("it is not allowed while the container is in the host's {kind} namespace");
            return Err(Error::refused(format!("set the kernel parameter {name} to {value:?}"), advice));
        }
    }
    Ok(())
}

/// `net.ipv4.conf.eth0.x` or `net/ipv4/conf/eth0.1/x` as a path: as sysctl(8) does, the first separator
/// decides which of the two is meant.
fn path(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn is_network(name: &str) -> bool {
    name.starts_with("net.") || name.starts_with("net/")
}

/// The namespace that a parameter belongs to.
fn owner(path: &str) -> Option<LinuxNamespaceType> {
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    match path {
        path if path.starts_with("net/") => Some(LinuxNamespaceType::Network),
        path if IPC.contains(&path) || path.starts_with("fs/mqueue/") => Some(LinuxNamespaceType::Ipc),
        "kernel/domainname" | "kernel/hostname" => Some(LinuxNamespaceType::Uts),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_namespaces() {
        assert_eq!(path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(owner("kernel/sem"), Some(LinuxNamespaceType::Ipc));
        assert_eq!(owner("kernel/panic"), None);
        assert_eq!(owner("vm/swappiness"), None);
    }
}
