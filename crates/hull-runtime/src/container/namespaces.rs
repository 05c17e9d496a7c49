//! Which namespaces a container gets: new ones, others' by path, or the host's where it names none.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{LinuxNamespaceType as Kind, Spec};

use crate::error::Context;
use crate::sys;
use crate::{Error, Result};

/// The namespaces of one container, with those of others opened.
pub(super) struct Namespaces {
    /// `CLONE_NEW…` of those that clone3 makes.
    pub(super) new: i32,
    /// Others', to be joined by the first process.
    joined: Vec<(Kind, OwnedFd)>,
    /// Another's pid namespace: the clone itself must happen into it.
    pub(super) pid: Option<OwnedFd>,
    /// Whether a cgroup namespace is made. It is rooted where the process that makes it is, so that happens
    /// when the process is in its cgroup.
    pub(super) cgroup: bool,
    /// The kinds that are not the host's.
    own: Vec<Kind>,
}

impl Namespaces {
    /// Reads the configuration and opens the paths. With `awaits_network` the network namespace is left out.
    pub(super) fn of(spec: &Spec, awaits_network: bool) -> Result<Namespaces> {
        let mut namespaces =
            Namespaces { new: 0, joined: Vec::new(), pid: None, cgroup: false, own: Vec::new() };
        let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        for namespace in listed.into_iter().flatten() {
            let kind = namespace.typ();
            if matches!(kind, Kind::User | Kind::Time) {
                let doing = format!("make a {kind} namespace");
                return Err(Error::refused(doing, "it is not supported yet"));
            }
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => {
                    let doing = || format!("open the {kind} namespace {}", path.display());
                    let file = OwnedFd::from(File::open(path).context(doing)?);
                    if !is_host(kind, &file).context(doing)? {
                        namespaces.own.push(kind);
                    }
                    match kind {
                        Kind::Pid => namespaces.pid = Some(file),
                        _ => namespaces.joined.push((kind, file)),
                    }
                }
                None => {
                    namespaces.own.push(kind);
                    match kind {
                        Kind::Cgroup => namespaces.cgroup = true,
                        Kind::Network if awaits_network => {}
                        _ => namespaces.new |= kind as i32,
                    }
                }
            }
        }
        if namespaces.new & libc::CLONE_NEWNS == 0 {
            let advice = "a container without a mount namespace of its own is not supported";
            return Err(Error::refused("start the container", advice));
        }
        if awaits_network && !namespaces.is_own(Kind::Network) {
            namespaces.own.push(Kind::Network);
        }
        Ok(namespaces)
    }

    /// Whether the container's namespace of this kind is another than the host's.
    pub(super) fn is_own(&self, kind: Kind) -> bool {
        self.own.contains(&kind)
    }

    /// Joins those given by path.
    pub(super) fn join(&self) -> Result<()> {
        for (kind, file) in &self.joined {
            sys::setns(file.as_fd(), *kind as i32).context(|| format!("join the {kind} namespace"))?;
        }
        Ok(())
    }

    /// Makes the cgroup namespace, rooted where the process now is.
    pub(super) fn make_cgroup(&self) -> Result<()> {
        if !self.cgroup {
            return Ok(());
        }
        sys::unshare_namespaces(libc::CLONE_NEWCGROUP).context(|| "make a cgroup namespace".into())
    }
}

/// Whether an opened namespace is the one that this process is in.
fn is_host(kind: Kind, file: &OwnedFd) -> std::io::Result<bool> {
    let own = rustix::fs::stat(format!("/proc/self/ns/{kind}"))?;
    let there = rustix::fs::fstat(file)?;
    Ok((own.st_dev, own.st_ino) == (there.st_dev, there.st_ino))
}

/// While it lives, the processes that this one clones are born into another pid namespace. Its end puts that
/// back; failing to would let every later child be born there, so the process ends then.
pub(super) struct PidNamespace {
    own: OwnedFd,
}

impl PidNamespace {
    /// Enters by a namespace file or a pidfd.
    pub(super) fn enter(namespace: impl AsFd) -> Result<PidNamespace> {
        let doing = || "join the pid namespace".to_owned();
        let own = OwnedFd::from(File::open("/proc/self/ns/pid").context(doing)?);
        sys::setns(namespace.as_fd(), libc::CLONE_NEWPID).context(doing)?;
        Ok(PidNamespace { own })
    }
}

impl Drop for PidNamespace {
    fn drop(&mut self) {
        if sys::setns(self.own.as_fd(), libc::CLONE_NEWPID).is_err() {
            sys::exit_now(125);
        }
    }
}
