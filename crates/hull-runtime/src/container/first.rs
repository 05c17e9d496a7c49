//! The container's first process, from its birth in its namespaces to exec: read it from top to bottom.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Process};

use super::devices::{self, Terminal};
use super::hide::Masks;
use super::mounts::Sorted;
use super::namespaces::Namespaces;
use super::outside::Outside;
use super::process::Privileges;
use super::report::Teller;
use super::{Hold, Start, Streams, hooks, init, mounts, process, root, streams, sysctl, user, userns};
use crate::error::Context;
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
    let pid = assemble(start, process, namespaces, teller, outside)?;

    // The process. Nothing of the host's is open any more when the container's own files are first looked at.
    teller.close_all_else(start.preserved, start.hold.map(Hold::descriptor))?;
    let process = user::looked_up(process, start.user)?;
    let privileges = Privileges::of(&process, start.filter, teller, start.hold.is_none())?;
    if start.init {
        init::stand_in_front(&privileges, matches!(start.streams, Streams::Terminal { .. }))?;
    }
    process::execute(&privileges, |command| match start.hold {
        Some(hold) => {
            command.look_up()?;
            hold.wait(start.spec, pid, teller)
        }
        None => Ok(()),
    })
}

/// Makes the container around the process. Everything that does not need the network comes before it is waited for.
/// Returns the process's id outside, where hooks wanted it.
fn assemble(
    start: &Start<'_>,
    process: &Process,
    namespaces: &Namespaces,
    teller: &Teller,
    outside: Option<&Outside>,
) -> Result<Option<i32>> {
    process::shield()?;
    namespaces.join()?;
    if let Some(outside) = outside {
        teller.outside()?;
        if outside.in_user_namespace() {
            userns::become_root()?;
            // The kernel has made it visible for the change of user, if that was one.
            process::shield()?;
        }
    }
    let from_outside = outside.filter(|outside| outside.mounts()).map(|_| teller);
    process::new_session(start.keyring)?;

    // The file system, while the host's is still there to take from.
    let procfs = sysctl::host_procfs()?;
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
    let pid = hooks(start, teller)?;
    // In a user namespace the kernel's file systems can be mounted only where the host's are still to be seen.
    let leaves_late = outside.is_some_and(Outside::in_user_namespace);
    if !leaves_late {
        root::enter(root.as_fd(), start.no_pivot)?;
    }
    name_the_machine(start, namespaces)?;
    sysctl::set(start.spec, procfs.as_fd(), false)?;
    process::prepare(process, procfs.as_fd(), teller)?;

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
    Ok(pid)
}

/// The hooks that run while the host's root is still there: first the runtime's, then the container's. Returns the
/// process's id outside, if there are hooks.
fn hooks(start: &Start<'_>, teller: &Teller) -> Result<Option<i32>> {
    let Some((hold, hooks)) = start.hold.zip(start.spec.hooks().as_ref()) else { return Ok(None) };
    let pid = teller.hooks()?;
    hooks::run(hooks.create_container(), &hold.state("creating", pid), "createContainer")?;
    Ok(Some(pid))
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
