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
    /// Others' that the clone itself must happen into: a pid namespace; and with a user namespace of the container's
    /// own, in which the first process has no say over them any more, all.
    before: Vec<(Kind, OwnedFd)>,
    /// What a new time namespace adds to the clocks, as `/proc/PID/timens_offsets` takes it.
    offsets: Option<String>,
    /// Whether a cgroup namespace is made. It is rooted where the process that makes it is, so that happens
    /// when the process is in its cgroup.
    pub(super) cgroup: bool,
    /// The kinds that are not the host's.
    own: Vec<Kind>,
}

impl Namespaces {
    /// Reads the configuration and opens the paths. With `awaits_network` the network namespace is left out, but in a user
    /// namespace: there it must belong to that one.
    pub(super) fn of(spec: &Spec, awaits_network: bool) -> Result<Namespaces> {
        let mut namespaces = Namespaces {
            new: 0,
            joined: Vec::new(),
            before: Vec::new(),
            offsets: None,
            cgroup: false,
            own: Vec::new(),
        };
        let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        for namespace in listed.into_iter().flatten() {
            let kind = namespace.typ();
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => {
                    let doing = || format!("open the {kind} namespace {}", path.display());
                    let file = OwnedFd::from(File::open(path).context(doing)?);
                    if !is_host(kind, &file).context(doing)? {
                        namespaces.own.push(kind);
                    }
                    match kind {
                        Kind::Pid => namespaces.before.push((kind, file)),
                        // Nobody joins the user namespace that they are in.
                        Kind::User if !namespaces.is_own(kind) => {}
                        _ => namespaces.joined.push((kind, file)),
                    }
                }
                None => {
                    namespaces.own.push(kind);
                    match kind {
                        Kind::Cgroup => namespaces.cgroup = true,
                        Kind::Network if awaits_network => {}
                        Kind::Time => namespaces.offsets = Some(offsets(spec)?),
                        _ => namespaces.new |= kind as i32,
                    }
                }
            }
        }
        // A user namespace that is joined comes first: it is what gives the right to join the others. One that is made
        // takes it away.
        namespaces.joined.sort_by_key(|(kind, _)| *kind != Kind::User);
        if namespaces.makes_user() {
            let movable = |(kind, _): &mut (Kind, OwnedFd)| *kind != Kind::Mount;
            namespaces.before.extend(namespaces.joined.extract_if(.., movable));
        }
        if namespaces.offsets.is_none() && has_offsets(spec) {
            let reason = "there is no time namespace of the container's own for them";
            return Err(Error::refused("linux.timeOffsets", reason));
        }
        if namespaces.new & libc::CLONE_NEWNS == 0 {
            let advice = "a container without a mount namespace of its own is not supported";
            return Err(Error::refused("start the container", advice));
        }
        if awaits_network && !namespaces.is_own(Kind::Network) {
            namespaces.own.push(Kind::Network);
        }
        if awaits_network && namespaces.is_own(Kind::User) {
            namespaces.new |= libc::CLONE_NEWNET;
        }
        Ok(namespaces)
    }

    /// Whether the container's namespace of this kind is another than the host's.
    pub(super) fn is_own(&self, kind: Kind) -> bool {
        self.own.contains(&kind)
    }

    /// Whether a user namespace is made.
    pub(super) fn makes_user(&self) -> bool {
        self.new & libc::CLONE_NEWUSER != 0
    }

    /// Whether the clone makes a network namespace.
    pub(super) fn makes_network(&self) -> bool {
        self.new & libc::CLONE_NEWNET != 0
    }

    /// Whether a user namespace is joined: whoever is to have a say over the others is born inside of it.
    pub(super) fn joins_user(&self) -> bool {
        self.joined.iter().any(|(kind, _)| *kind == Kind::User)
    }

    /// Enters those that the clone must happen into; they are left when the returned value is dropped.
    pub(super) fn enter_before(&self) -> Result<Vec<Entered>> {
        let mut entered = Vec::new();
        for (kind, file) in &self.before {
            entered.push(Entered::enter(*kind, file)?);
        }
        if let Some(offsets) = &self.offsets {
            entered.push(Entered::new_time(offsets)?);
        }
        Ok(entered)
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

/// While it lives, the processes that this one clones are born into another namespace. Its end puts that
/// back; failing to would let every later child be born there, so the process ends then.
pub(super) struct Entered {
    kind: Kind,
    own: OwnedFd,
}

impl Entered {
    /// Enters by a namespace file or a pidfd.
    pub(super) fn enter(kind: Kind, namespace: impl AsFd) -> Result<Entered> {
        let doing = || format!("join the {kind} namespace");
        let own = OwnedFd::from(File::open(format!("/proc/self/ns/{kind}")).context(doing)?);
        sys::setns(namespace.as_fd(), kind as i32).context(doing)?;
        Ok(Entered { kind, own })
    }

    /// A new network namespace, in which the caller is meanwhile.
    pub(super) fn new_network() -> Result<Entered> {
        let doing = || "make a network namespace".to_owned();
        let own = OwnedFd::from(File::open("/proc/self/ns/net").context(doing)?);
        sys::unshare_namespaces(libc::CLONE_NEWNET).context(doing)?;
        Ok(Entered { kind: Kind::Network, own })
    }

    /// A new time namespace, which is only ever its maker's children's.
    fn new_time(offsets: &str) -> Result<Entered> {
        let doing = || "make a time namespace".to_owned();
        let own = OwnedFd::from(File::open("/proc/self/ns/time").context(doing)?);
        sys::unshare_namespaces(libc::CLONE_NEWTIME).context(doing)?;
        let entered = Entered { kind: Kind::Time, own };
        if !offsets.is_empty() {
            let written = std::fs::write("/proc/self/timens_offsets", offsets);
            written.context(|| {
                format!("set the offsets of its clocks ({})", offsets.trim().replace('\n', ", "))
            })?;
        }
        Ok(entered)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if sys::setns(self.own.as_fd(), self.kind as i32).is_err() {
            sys::exit_now(125);
        }
    }
}

fn has_offsets(spec: &Spec) -> bool {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    offsets.is_some_and(|offsets| !offsets.is_empty())
}

/// `linux.timeOffsets` as the kernel's file takes it: a clock, seconds and nanoseconds a line.
fn offsets(spec: &Spec) -> Result<String> {
    let mut text = String::new();
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    for (clock, offset) in offsets.into_iter().flatten() {
        if clock != "monotonic" && clock != "boottime" {
            let reason = "the clocks that can be set off are monotonic and boottime";
            return Err(Error::refused(format!("linux.timeOffsets: {clock:?}"), reason));
        }
        let (seconds, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        text.push_str(&format!("{clock} {seconds} {nanos}\n"));
    }
    Ok(text)
}
