//! The container's first process, from its birth in its namespaces to exec: read it from top to bottom.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Process};

use super::devices::{self, Terminal};
use super::hide::Masks;
use super::mounts::Sorted;
use super::namespaces::Namespaces;
use super::notify::Answerer;
use super::outside::Outside;
use super::process::Privileges;
use super::report::Teller;
use super::{
    Hold, Start, Streams, hooks, init, mounts, network, process, root, scheduling, streams, sysctl, user,
    userns,
};
use crate::error::Context;
use crate::seccomp::Filter;
use crate::sys;
use crate::{Error, Result};

/// Runs in the new process.
pub(super) fn run(
    start: &Start<'_>,
    namespaces: &Namespaces,
    teller: &Teller,
    outside: Option<&Outside>,
) -> Result<Infallible> {
    let process = process_of(start)?;
    let made = assemble(start, process, namespaces, teller, outside)?;

    // The process. Nothing of the host's is open any more when the container's own files are first looked at.
    let answerer = made.answerer.as_ref();
    let kept = [start.hold.and_then(Hold::descriptor), answerer.map(Answerer::descriptor)];
    teller.close_all_else(start.preserved, kept.into_iter().flatten())?;
    let process = user::looked_up(process, start.user)?;
    let privileges = Privileges::of(&process, start.filter, teller, answerer, start.hold.is_none())?;
    if start.init {
        init::stand_in_front(&privileges, matches!(start.streams, Streams::Terminal { .. }))?;
    }
    let wait = |command: &process::Command| match start.hold {
        Some(hold) => {
            command.look_up()?;
            hold.wait(teller)
        }
        None => Ok(()),
    };
    process::execute(&privileges, wait, || match start.hold {
        Some(hold) => hold.run_start_hooks(start.spec, made.pid),
        None => Ok(()),
    })
}

/// Makes the container around the process. Everything that does not need the network comes before it is waited for.
fn assemble(
    start: &Start<'_>,
    process: &Process,
    namespaces: &Namespaces,
    teller: &Teller,
    outside: Option<&Outside>,
) -> Result<Made> {
    // Whose parent has no privileges cannot be mapped any more by it when it is shielded; nobody else sees it yet.
    if !outside.is_some_and(Outside::is_mapped_without_privileges) {
        process::shield()?;
    }
    // Who was born into a user namespace that was there has come through the others already.
    if !namespaces.joins_user() {
        namespaces.join()?;
    }
    if let Some(outside) = outside {
        teller.outside()?;
        if outside.in_user_namespace() {
            userns::become_root()?;
            // The kernel has made it visible for the change of user, if that was one.
            process::shield()?;
        }
    }
    let from_outside = outside.filter(|outside| outside.mounts()).map(|_| teller);
    let procfs = sysctl::host_procfs()?;
    process::new_session(start.keyring.then_some(process), procfs.as_fd())?;

    // The file system, while the host's is still there to take from.
    root::cut_propagation(start.spec)?;
    let root = root::assemble(match from_outside {
        Some(teller) => teller.tree()?,
        None => root::detached(start.spec, start.rootfs)?,
    })?;
    teller.root(root.as_fd())?;
    let Sorted { now, later } = mounts::prepare_all(start.spec, from_outside)?;
    for mount in now {
        mount.attach(root.as_fd())?;
    }
    if !mounts::binds_dev(start.spec) {
        devices::make(start.spec, root.as_fd())?;
    }
    let terminal = terminal(start, teller, &root)?;
    let is_later = |path: &Path| later.iter().any(|mount| path.starts_with(mount.destination()));
    let mut masks = Masks::new();
    masks.hide(start.spec, root.as_fd(), |path| !is_later(path))?;

    // The cgroup, as late as the host's paths allow: the shim makes it meanwhile, and the kernel's own memory of all
    // this is not the container's.
    if start.awaits_cgroup {
        teller.cgroup()?;
    }
    let later = mounts::with_cgroups(later, start.cgroup)?;
    if !outside.is_some_and(Outside::in_user_namespace) {
        start.cgroup.join_v1_self()?;
    }
    namespaces.make_cgroup()?;
    let made = meet_the_host(start, teller)?;
    // In a user namespace the kernel's file systems can be mounted only where the host's are still to be seen.
    let leaves_late = outside.is_some_and(Outside::in_user_namespace);
    if !leaves_late {
        root::enter(root.as_fd(), start.no_pivot)?;
    }
    if start.hold.is_some() && namespaces.makes_network() {
        network::loopback_up()?;
    }
    name_the_machine(start, namespaces)?;
    sysctl::set(start.spec, procfs.as_fd(), false)?;
    process::prepare(process, procfs.as_fd(), teller)?;
    let linux = start.spec.linux().as_ref();
    linux.and_then(|linux| linux.memory_policy().as_ref()).map_or(Ok(()), scheduling::memory_policy)?;
    let personality = linux.and_then(|linux| linux.personality().as_ref());
    personality.map_or(Ok(()), scheduling::personality)?;

    // The network, and what shows it.
    if start.awaits_network {
        let netns = teller.network()?;
        sys::setns(netns.as_fd(), libc::CLONE_NEWNET).context(|| "join the network namespace".into())?;
    }
    let places: Vec<_> = later.iter().map(|mount| mount.destination().to_path_buf()).collect();
    for mount in later {
        mount.attach(root.as_fd())?;
    }
    masks.hide(start.spec, root.as_fd(), |path| places.iter().any(|place| path.starts_with(place)))?;
    sysctl::set(start.spec, procfs.as_fd(), true)?;
    if leaves_late {
        root::enter(root.as_fd(), start.no_pivot)?;
    }
    process::make_working_directory(root.as_fd(), process.cwd())?;
    root::finish(start.spec, root.as_fd())?;

    streams::place(&start.streams, terminal.map(|terminal| terminal.slave))?;
    process::limits(process, teller)?;
    Ok(made)
}

/// What the last stretch needs of what was made.
#[derive(Default)]
struct Made {
    /// This process's id outside, where hooks want it.
    pid: Option<i32>,
    /// Who answers the filter's questions.
    answerer: Option<Answerer>,
}

/// What needs the host's paths once more: the hooks that run before its root is left, first the runtime's, then the
/// container's; and who answers the filter's questions.
fn meet_the_host(start: &Start<'_>, teller: &Teller) -> Result<Made> {
    let listener = start.filter.and_then(Filter::listener);
    let hooks = start.spec.hooks().as_ref();
    let Some(hold) = start.hold.filter(|_| hooks.is_some() || listener.is_some()) else {
        return match listener {
            None => Ok(Made::default()),
            Some(_) => {
                Err(Error::refused("seccomp's SCMP_ACT_NOTIFY", "only `hull oci` hands such a filter over"))
            }
        };
    };
    let pid = teller.hooks()?;
    let state = hold.state("creating", pid);
    if let Some(hooks) = hooks {
        hooks::run(hooks.create_container(), &state, "createContainer")?;
    }
    let answerer =
        listener.map(|listener| Answerer::find(listener, &hold.version, pid, &state)).transpose()?;
    Ok(Made { pid: Some(pid), answerer })
}

fn process_of<'a>(start: &Start<'a>) -> Result<&'a Process> {
    let process = start.spec.process().as_ref();
    process.ok_or_else(|| Error::refused("start the container", "its configuration has no process"))
}

fn terminal(start: &Start<'_>, teller: &Teller, root: impl AsFd) -> Result<Option<Terminal>> {
    let Streams::Terminal { size } = start.streams else { return Ok(None) };
    let terminal = devices::open_terminal(root.as_fd(), size)?;
    devices::console(&terminal, root.as_fd())?;
    teller.terminal(terminal.master.as_fd())?;
    Ok(Some(terminal))
}

fn name_the_machine(start: &Start<'_>, namespaces: &Namespaces) -> Result<()> {
    let (host, domain) = (start.spec.hostname(), start.spec.domainname());
    if (host.is_some() || domain.is_some()) && !namespaces.is_own(LinuxNamespaceType::Uts) {
        let advice = "it is not allowed while the container is in the host's uts namespace";
        return Err(Error::refused("set the hostname", advice));
    }
    if let Some(name) = host {
        rustix::system::sethostname(name.as_bytes()).context(|| format!("set the hostname {name}"))?;
    }
    if let Some(name) = domain {
        rustix::system::setdomainname(name.as_bytes()).context(|| format!("set the domain name {name}"))?;
    }
    Ok(())
}
