//! What is done for a first process from outside: in a user namespace it has no say over the host's mounts, cgroups and
//! limits any more, and a mount's ids can only be mapped by who has a say over its file system.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{LinuxNamespaceType, Mount, PosixRlimit, Spec};
use rustix::thread::{CapabilitySet, capabilities};

use super::namespaces::Namespaces;
use super::options::{self, IdMap};
use super::userns::{self, Mappings};
use super::{Streams, mapped, mounts, process, report};
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::protocol::Rootfs;
use crate::sys::{self, MountAttr};
use crate::{Error, Result};

/// What the parent does for a first process when that asks for it.
#[derive(Debug)]
pub(super) struct Outside {
    /// The part of the configuration that says what is mounted.
    spec: Spec,
    rootfs: Rootfs,
    cgroup: Cgroup,
    /// A user namespace is made, and must be mapped.
    maps: bool,
    /// The first process is in a user namespace of its own, a new one or another's.
    in_user_namespace: bool,
    /// The parent mounts the root and the binds.
    mounts: bool,
    /// The parent is not root.
    unprivileged: bool,
}

impl Outside {
    /// Nothing where the first process can do it all.
    pub(super) fn of(
        spec: &Spec,
        rootfs: &Rootfs,
        cgroup: &Cgroup,
        namespaces: &Namespaces,
    ) -> Result<Option<Outside>> {
        let in_user_namespace = namespaces.is_own(LinuxNamespaceType::User);
        let mapped = spec
            .mounts()
            .iter()
            .flatten()
            .try_fold(false, |any, mount| Ok::<bool, Error>(any || is_mapped(mount)?))?;
        if !in_user_namespace && !mapped {
            return Ok(None);
        }
        // Who has no say over mounts either leaves them to the first process, which has in its own namespace.
        let may = capabilities(None).context(|| "read this process's capabilities".into())?;
        let mounts = may.effective.contains(CapabilitySet::SYS_ADMIN);
        if mapped && !mounts {
            return Err(Error::refused("map the ids of a mount", "this needs CAP_SYS_ADMIN"));
        }
        Ok(Some(Outside {
            spec: spec.clone(),
            rootfs: rootfs.clone(),
            cgroup: cgroup.clone(),
            maps: namespaces.makes_user(),
            in_user_namespace,
            mounts,
            unprivileged: !rustix::process::geteuid().is_root(),
        }))
    }

    /// Whether the first process is in a user namespace of its own: it becomes root there, and has no say over the
    /// host's cgroups.
    pub(super) fn in_user_namespace(&self) -> bool {
        self.in_user_namespace
    }

    /// Whether the user namespace is mapped by a parent that is not root.
    pub(super) fn is_mapped_without_privileges(&self) -> bool {
        self.maps && self.unprivileged
    }

    /// Whether the root and the binds come from the parent.
    pub(super) fn mounts(&self) -> bool {
        self.mounts
    }

    /// Puts the first process into its cgroups, which it cannot itself. Where they are to be written from inside, that one
    /// of v2 is its root's.
    pub(super) fn join_cgroup(&self, pid: i32) -> Result<()> {
        if !self.in_user_namespace {
            return Ok(());
        }
        self.cgroup.add_v1(pid)?;
        if self.unprivileged || !self.writes_cgroups() {
            return Ok(());
        }
        self.root(pid)?.map_or(Ok(()), |root| self.cgroup.delegate(root))
    }

    fn writes_cgroups(&self) -> bool {
        self.spec.mounts().iter().flatten().any(|mount| {
            let options = options::parse(mount.options().as_deref().unwrap_or_default());
            matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
                && options.attributes.set & options::RDONLY == 0
        })
    }

    /// Who is root in the user namespace, as it is seen from here.
    fn root(&self, pid: i32) -> Result<Option<(u32, u32)>> {
        if self.maps { Ok(mappings(&self.spec).root()) } else { userns::root_of(pid).map(Some) }
    }

    /// Gives the container's root the pipes that are its standard streams.
    pub(super) fn give(&self, streams: &Streams, pid: i32) -> Result<()> {
        if !self.in_user_namespace || self.unprivileged {
            return Ok(());
        }
        self.root(pid)?.map_or(Ok(()), |root| userns::give(streams, root))
    }

    /// Does what the first process waits for.
    pub(super) fn serve(&self, pid: i32, sync: BorrowedFd<'_>) -> Result<()> {
        if self.maps {
            mappings(&self.spec).write(pid)?;
        }
        if self.in_user_namespace {
            self.raise_limits(pid)?;
        }
        report::mapped(sync)?;
        if !self.mounts {
            return Ok(());
        }
        let is_mapped = matches!(self.rootfs, Rootfs::MappedPath | Rootfs::Overlay { mapped: true, .. });
        let owner = (is_mapped && self.in_user_namespace).then(|| mapped::Owner::of(pid)).transpose()?;
        let root = mapped::root_tree(&self.spec, &self.rootfs, owner.as_ref())?;
        report::tree(sync, root.as_fd())?;
        let namespace = self.in_user_namespace.then(|| userns::of_process(pid)).transpose()?;
        for mount in self.spec.mounts().iter().flatten() {
            let options = mounts::parsed(mount, &self.spec);
            if mount.typ().as_deref() == Some(mounts::LAYERS) {
                let owner = self.in_user_namespace.then(|| mapped::Owner::of(pid)).transpose()?;
                let tree = mounts::layers(mount.destination(), &options, owner.as_ref())?;
                report::tree(sync, tree.as_fd())?;
                continue;
            }
            if !mounts::is_bind(mount, &options) {
                continue;
            }
            let tree = bind_tree(mount, &options, namespace.as_ref().map(AsFd::as_fd))?;
            if self.in_user_namespace {
                // As the kernel has it where a user namespace gets a copy of mounts: it sees what the host mounts there,
                // never the other way round, whatever the container makes of its side.
                sys::mount_setattr(tree.as_fd(), true, &MountAttr::propagation(libc::MS_SLAVE))
                    .context(|| format!("cut the propagation of {}", mount.destination().display()))?;
            }
            report::tree(sync, tree.as_fd())?;
        }
        Ok(())
    }

    /// Limits that only the host's root may raise. What this machine does not grant, the first process tells.
    fn raise_limits(&self, pid: i32) -> Result<()> {
        let Some(process) = self.spec.process() else { return Ok(()) };
        for limit in process.rlimits().iter().flatten() {
            let limit: &PosixRlimit = limit;
            let (resource, _) = process::resource(limit.typ());
            let (soft, hard) = match sys::get_limit(resource) {
                // It has much to open yet, and lowers this one itself. It was born with this process's limits.
                Ok((soft, hard)) if resource == libc::RLIMIT_NOFILE => (soft, hard.max(limit.hard())),
                _ => (limit.soft(), limit.hard()),
            };
            let _ = sys::set_limit(Some(pid), resource, soft, hard);
        }
        if let Some(score) = process.oom_score_adj() {
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
        }
        Ok(())
    }
}

/// The tree of a bind, its ids mapped where the mount says so; `container` is the container's user namespace, if it has
/// one.
pub(super) fn bind_tree(
    mount: &Mount,
    options: &options::Options,
    container: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let tree = mounts::bind_tree(mount, options)?;
    if let Some(recursive) = id_map(mount, options) {
        let own = of_mount(mount);
        let handle = (!own.is_empty()).then(|| own.handle()).transpose()?;
        let Some(namespace) = handle.as_ref().map(AsFd::as_fd).or(container) else {
            let doing = format!("map the ids of the mount on {}", mount.destination().display());
            let reason = "it names no mappings, and the container has no user namespace whose they could be";
            return Err(Error::refused(doing, reason));
        };
        map(&tree, namespace, recursive).map_err(|error| explain(error, mount))?;
    }
    Ok(tree)
}

/// The mappings of the configuration's user namespace.
pub(super) fn mappings(spec: &Spec) -> Mappings<'_> {
    let linux = spec.linux().as_ref();
    Mappings {
        users: linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default(),
        groups: linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default(),
    }
}

fn of_mount(mount: &Mount) -> Mappings<'_> {
    Mappings {
        users: mount.uid_mappings().as_deref().unwrap_or_default(),
        groups: mount.gid_mappings().as_deref().unwrap_or_default(),
    }
}

/// Whether a mount's ids are mapped, for which its tree comes from outside.
///
/// # Errors
/// They cannot be.
pub(crate) fn is_mapped(mount: &Mount) -> Result<bool> {
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    let mapped = id_map(mount, &options).is_some();
    if mapped && !mounts::is_bind(mount, &options) {
        let doing = format!("map the ids of the mount on {}", mount.destination().display());
        return Err(Error::refused(doing, "only those of a bind can be mapped"));
    }
    Ok(mapped)
}

/// Whether a mount's ids are mapped, and then whether those of the mounts below it are.
fn id_map(mount: &Mount, options: &options::Options) -> Option<bool> {
    match options.id_map {
        Some(IdMap::This) => Some(false),
        Some(IdMap::Recursive) => Some(true),
        None if of_mount(mount).is_empty() => None,
        None => Some(false),
    }
}

fn map(tree: &OwnedFd, namespace: BorrowedFd<'_>, recursive: bool) -> std::io::Result<()> {
    sys::mount_setattr(tree.as_fd(), recursive, &MountAttr::id_map(namespace))
}

fn explain(error: std::io::Error, mount: &Mount) -> Error {
    let source = mount.source().as_deref().unwrap_or_else(|| "".as_ref()).display();
    let doing = format!("map the ids of {source} for the mount on {}", mount.destination().display());
    let advice = mapped::advice(error.raw_os_error());
    Error::kernel(doing, error).advise(advice)
}
