//! A program in new namespaces, all else shared with the caller: `unshare`, and partial containers.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use super::root::{self, Substitutes};
pub use super::root::{Propagation, Root};
use super::{Kind, Kinds, Users, kernel, program, supervise};
use crate::error::Context as _;
use crate::{Error, Result, sys};

/// A place on a network that somebody else made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its namespace's file.
    pub namespace: PathBuf,
    /// The text of `/etc/resolv.conf` there.
    pub resolv_conf: String,
    /// The text of `/etc/hosts` there.
    pub hosts: String,
}

/// Which namespaces are new, and what is set up in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// The new ones.
    pub kinds: Kinds,
    /// The maps of the new user namespace.
    pub users: Users,
    /// What becomes of mounts.
    pub propagation: Propagation,
    /// Whose files there are.
    pub root: Option<Root>,
    /// Where to mount a `/proc` of the pid namespace.
    pub proc_at: Option<PathBuf>,
    /// The network to be on, instead of a new and empty one.
    pub network: Option<Network>,
    /// The host name.
    pub hostname: Option<String>,
    /// Seconds that the monotonic clock is ahead of the caller's.
    pub monotonic: Option<i64>,
    /// Seconds that the time since boot is ahead of the caller's.
    pub boottime: Option<i64>,
    /// The working directory.
    pub directory: Option<PathBuf>,
    /// The user to become.
    pub uid: Option<u32>,
    /// The group to become.
    pub gid: Option<u32>,
    /// A process of its own, though nothing needs it.
    pub fork: bool,
    /// The signal that the program gets when its parent dies.
    pub kill_child: Option<i32>,
    /// What to run.
    pub program: Vec<String>,
}

/// Runs it and returns its exit status. Where the program needs no parent, this process becomes it and nothing
/// returns. `wait` says that something is to be done after its end: then there is a parent, and the program dies with it.
///
/// # Errors
/// A step failed; 126 and 127 where it was the program's execution.
pub fn run(partial: &Partial, wait: bool) -> Result<i32> {
    let mut partial = partial.completed()?;
    if wait {
        partial.kill_child.get_or_insert(libc::SIGKILL);
    }
    // A clone enters its new pid namespace; the maps of a user namespace are written from outside.
    let apart = partial.kinds.has(Kind::Pid)
        || partial.kinds.has(Kind::User)
        || partial.fork
        || partial.kill_child.is_some();
    // The clocks' offsets can be set as long as nobody is in the namespace, so that one is not cloned into.
    let flags = partial.kinds.without(Kind::Time).flags();
    if !apart {
        sys::unshare_namespaces(flags)
            .context(|| format!("make new namespaces ({})", partial.kinds))
            .map_err(|error| match error.errno {
                Some(libc::EPERM) => {
                    error.advise("that needs root, or a user namespace as well: --user --map-root-user")
                }
                _ => error,
            })?;
        return partial.go_on().map(|never| match never {});
    }
    let maps = |pid| if partial.kinds.has(Kind::User) { partial.users.write(pid) } else { Ok(()) };
    supervise::start(flags, None, maps, || partial.go_on())?.wait(None)
}

impl Partial {
    /// With what it implies; refused where it contradicts itself.
    fn completed(&self) -> Result<Partial> {
        let mut partial = self.clone();
        let needs = |flag: &str, kind: Kind, is_set: bool| {
            if is_set && !self.kinds.has(kind) {
                let name = kind.name();
                let advice = format!("it needs a {name} namespace of its own: say --{name} as well");
                return Err(Error::refused(flag, advice));
            }
            Ok(())
        };
        needs("--hostname", Kind::Uts, self.hostname.is_some())?;
        needs("--monotonic and --boottime", Kind::Time, self.monotonic.or(self.boottime).is_some())?;
        let maps = !self.users.uids.is_empty() || !self.users.gids.is_empty();
        needs("a map of users", Kind::User, maps || self.users.setgroups.is_some())?;
        let mounts = matches!(self.root, Some(Root::Layers { .. })) || self.network.is_some();
        if mounts && self.kinds.has(Kind::User) {
            let advice = "it is entered and mounted by root, which a user namespace is not: one or the other";
            return Err(Error::refused("--user with --root IMAGE or --net NETWORK", advice));
        }
        if mounts && matches!(self.propagation, Propagation::Shared | Propagation::Unchanged) {
            let advice = "mounts of one's own must not reach the host's: private or slave";
            return Err(Error::refused("--propagation with --root IMAGE or --net NETWORK", advice));
        }
        if mounts && !self.kinds.has(Kind::Mount) {
            // Nobody asked for other mounts, so the host's go on to be seen.
            partial.propagation = Propagation::Slave;
        }
        if mounts || self.proc_at.is_some() {
            partial.kinds = partial.kinds.with(Kind::Mount);
        }
        let own_layers = matches!(self.root, Some(Root::Layers { .. }));
        if partial.kinds.has(Kind::Pid) && partial.kinds.has(Kind::Mount) && !own_layers {
            partial.proc_at.get_or_insert_with(|| "/proc".into());
        }
        Ok(partial)
    }

    /// In the new namespaces: sets them up, from what needs most to what needs least, and becomes the program.
    fn go_on(&self) -> Result<Infallible> {
        if self.kinds.has(Kind::Time) {
            self.enter_time()?;
        }
        if let Some(network) = &self.network {
            join_network(network)?;
        }
        if self.kinds.has(Kind::Mount) {
            self.propagation.set()?;
        }
        self.set_up_files()?;
        if let Some(name) = &self.hostname {
            rustix::system::sethostname(name.as_bytes()).context(|| format!("set the host name {name:?}"))?;
        }
        if let Some(directory) = &self.directory {
            rustix::process::chdir(directory).context(|| format!("enter {}", directory.display()))?;
        }
        // With a group of its own the program does not keep the caller's supplementary ones.
        kernel::set_ids(self.uid, self.gid, self.gid.is_some())
            .context(|| "become the user and group".into())?;
        // Last: a change of user unties it.
        if let Some(signal) = self.kill_child {
            let signal = libc::c_ulong::from(signal.unsigned_abs());
            sys::prctl(libc::PR_SET_PDEATHSIG, signal).context(|| "tie it to its parent's life".into())?;
        }
        program::become_program(&self.program)
    }

    /// Makes the time namespace, sets its clocks while nobody is in it, and enters it.
    fn enter_time(&self) -> Result<()> {
        sys::unshare_namespaces(libc::CLONE_NEWTIME).context(|| "make a time namespace".into())?;
        for (clock, offset) in [("monotonic", self.monotonic), ("boottime", self.boottime)] {
            if let Some(seconds) = offset {
                std::fs::write("/proc/self/timens_offsets", format!("{clock} {seconds} 0\n"))
                    .context(|| format!("set the clock {clock} ahead by {seconds} seconds"))?;
            }
        }
        let doing = || "enter the time namespace".to_owned();
        let namespace = File::open("/proc/self/ns/time_for_children").context(doing)?;
        sys::setns(namespace.as_fd(), libc::CLONE_NEWTIME).context(doing)
    }

    fn set_up_files(&self) -> Result<()> {
        let substitutes = match &self.network {
            Some(network) => Some(Substitutes::make(&[
                ("/etc/resolv.conf", &network.resolv_conf),
                ("/etc/hosts", &network.hosts),
            ])?),
            None => None,
        };
        if let Some(root) = &self.root {
            root::change(root)?;
        }
        if let Some(substitutes) = substitutes {
            substitutes.put()?;
        }
        match &self.proc_at {
            Some(at) => root::mount_proc(at),
            None => Ok(()),
        }
    }
}

fn join_network(network: &Network) -> Result<()> {
    let doing = || format!("enter the network's namespace {}", network.namespace.display());
    let namespace = File::open(&network.namespace).context(doing)?;
    sys::setns(namespace.as_fd(), libc::CLONE_NEWNET).context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_implies_what() {
        let of = |kinds: &[Kind]| Partial { kinds: kinds.iter().copied().collect(), ..Partial::default() };
        let proc_at = |kinds: &[Kind]| of(kinds).completed().unwrap().proc_at;
        assert_eq!(proc_at(&[Kind::Pid, Kind::Mount]), Some("/proc".into()));
        assert_eq!(proc_at(&[Kind::Pid]), None);
        let alone = Partial { proc_at: Some("/mnt".into()), ..of(&[]) }.completed().unwrap();
        assert!(alone.kinds.has(Kind::Mount));
    }

    #[test]
    fn what_has_no_namespace_to_be_in_is_refused() {
        let named = Partial { hostname: Some("x".into()), ..Partial::default() };
        assert!(named.completed().unwrap_err().to_string().contains("uts namespace"));
        let users = Users { uids: vec![super::super::Range::one(0, 0)], ..Users::default() };
        assert!(Partial { users, ..Partial::default() }.completed().is_err());
        assert!(Partial { monotonic: Some(1), ..Partial::default() }.completed().is_err());
        let network = Network { namespace: "/x".into(), resolv_conf: String::new(), hosts: String::new() };
        let on_network = Partial { network: Some(network), ..Partial::default() };
        assert_eq!(on_network.completed().unwrap().propagation, Propagation::Slave);
        let kinds = Kinds::NONE.with(Kind::User);
        assert!(Partial { kinds, ..on_network.clone() }.completed().is_err());
        assert!(Partial { propagation: Propagation::Shared, ..on_network }.completed().is_err());
    }
}
