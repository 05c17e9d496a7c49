//! Another process in a container that runs: into its namespaces at once, then the last stretch that it has in
//! common with the first process.

use std::convert::Infallible;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::notify::Answerer;
use super::process::Privileges;
use super::report::Teller;
use super::{ExecIn, Streams, devices, process, scheduling, streams, sysctl, user, userns};
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::seccomp::Filter;
use crate::{Error, Result, sys};

/// Every namespace that a container may have; the pid namespace is the clone's own doing.
const NAMESPACES: i32 =
    libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP;

/// Runs in the new process, which was born into the container's pid namespace.
pub(super) fn run(exec: &ExecIn<'_>, teller: &Teller) -> Result<Infallible> {
    let answerer = enter(exec, teller)?;
    // Nothing of the host's is open any more when the container's own files are first looked at.
    teller.close_all_else(exec.preserved, answerer.iter().map(Answerer::descriptor))?;
    let process = user::looked_up(exec.process, exec.user)?;
    let privileges = Privileges::of(&process, exec.filter, teller, answerer.as_ref(), !exec.detached)?;
    process::execute(&privileges, |_| Ok(()), || Ok(()))
}

/// The namespaces that few containers have of their own, and that the kernel does not let one join again.
fn further_namespaces(exec: &ExecIn<'_>) -> Result<i32> {
    let mut flags = 0;
    for (name, flag) in [("user", libc::CLONE_NEWUSER), ("time", libc::CLONE_NEWTIME)] {
        let of = |pid: &str| rustix::fs::stat(format!("/proc/{pid}/ns/{name}"));
        match (of("self"), of(&exec.target_pid.to_string())) {
            (Ok(own), Ok(there)) if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino) => flags |= flag,
            (Ok(_), Ok(_)) => {}
            // A kernel without this kind; a process that has ended is found so by who joins the others.
            (Err(Errno::NOENT), _) | (_, Err(Errno::NOENT)) => {}
            (Err(error), _) | (_, Err(error)) => {
                return Err(Error::kernel(format!("look at the container's {name} namespace"), error));
            }
        }
    }
    Ok(flags)
}

/// Goes into the container, with streams of its own.
fn enter(exec: &ExecIn<'_>, teller: &Teller) -> Result<Option<Answerer>> {
    // Before it can be seen from inside: it holds the shim's memory and descriptors.
    process::shield()?;
    let answerer = answerer(exec, teller)?;
    let affinity = exec.process.exec_cpu_affinity().as_ref();
    scheduling::initial_processors(affinity)?;
    exec.cgroup.join_v1_self()?;
    exec.apart.iter().try_for_each(|folder| Cgroup::join_folder_self(folder))?;
    if let Some(leaf) = exec.leaf {
        leaf.join_leaf_self()?;
    }
    scheduling::final_processors(affinity)?;
    let procfs = sysctl::host_procfs()?;
    let further = further_namespaces(exec)?;
    let in_user_namespace = further & libc::CLONE_NEWUSER != 0;
    if in_user_namespace {
        // From inside it has no say over these any more.
        userns::give(&exec.streams, userns::root_of(exec.target_pid)?)?;
        process::prepare(exec.process, procfs.as_fd(), teller)?;
        process::limits_but_files(exec.process, teller)?;
        process::make_way_for_files(exec.process);
    }
    sys::setns(exec.target_pidfd, NAMESPACES | further)
        .context(|| "join the container's namespaces".into())?;
    if in_user_namespace {
        userns::become_root()?;
        process::shield()?;
    }
    process::new_session(Some(exec.process), procfs.as_fd())?;
    let terminal = match exec.streams {
        Streams::Pipes { .. } | Streams::Inherited => None,
        Streams::Terminal { size } => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open("/", flags, Mode::empty()).context(|| "open the root".into())?;
            let terminal = devices::open_terminal(root.as_fd(), size)?;
            teller.terminal(terminal.master.as_fd())?;
            Some(terminal.slave)
        }
    };
    if !in_user_namespace {
        process::prepare(exec.process, procfs.as_fd(), teller)?;
    }
    streams::place(&exec.streams, terminal)?;
    if !in_user_namespace {
        process::limits_but_files(exec.process, teller)?;
    }
    process::limit_of_files(exec.process, teller)?;
    Ok(answerer)
}

/// Who answers the filter's questions, found while the host's paths are there.
fn answerer(exec: &ExecIn<'_>, teller: &Teller) -> Result<Option<Answerer>> {
    let Some(listener) = exec.filter.and_then(Filter::listener) else { return Ok(None) };
    let Some(state) = exec.state else {
        return Err(Error::refused("seccomp's SCMP_ACT_NOTIFY", "only `hull oci` hands such a filter over"));
    };
    let pid = teller.hooks()?;
    Answerer::find(listener, &state.version, pid, &state.json).map(Some)
}
