//! The labels of the kernel's security modules: a profile of AppArmor, a context of SELinux. They hold from the exec on.

use std::os::fd::BorrowedFd;

use oci_spec::runtime::{LinuxNamespaceType, Mount, Process, Spec};
use rustix::io::Errno;

use super::options::Options;
use super::{mounts, sysctl};
use crate::error::Context;
use crate::{Error, Result, apparmor, selinux};

/// What a process asks for that this machine has no module for is refused: a container without it would be less
/// confined than asked for.
pub(super) fn check(process: &Process) -> Result<()> {
    check_apparmor(profile(process).unwrap_or_default())?;
    if context(process).is_some() && !selinux::is_enabled() {
        let reason = "SELinux is not enabled on this machine: start the container with label=disable";
        return Err(Error::refused(
            format!("the SELinux label {}", context(process).unwrap_or_default()),
            reason,
        ));
    }
    Ok(())
}

/// Whether this machine has a module that knows AppArmor's profiles; `unconfined`, or nothing, asks for none.
///
/// # Errors
/// It has none.
pub fn check_apparmor(profile: &str) -> Result<()> {
    if matches!(profile, "" | "unconfined") || apparmor::is_enabled() {
        return Ok(());
    }
    let reason = "AppArmor is not enabled on this machine: start the container with apparmor=unconfined";
    Err(Error::refused(format!("the AppArmor profile {profile}"), reason))
}

/// A label for a container's mounts is refused where there is no SELinux to heed it.
pub(super) fn check_mounts(spec: &Spec) -> Result<()> {
    match of_mounts(spec) {
        Some(label) if !selinux::is_enabled() => {
            Err(Error::refused(format!("linux.mountLabel {label}"), "SELinux is not enabled on this machine"))
        }
        _ => Ok(()),
    }
}

/// The label of the files in what is mounted for a container.
pub(super) fn of_mounts(spec: &Spec) -> Option<&str> {
    spec.linux().as_ref()?.mount_label().as_deref().filter(|label| !label.is_empty())
}

/// That label for one mount: what has labels of its own, or says its own, gets none. The kernel's own file systems keep
/// theirs, which are what the policy lets a container read of them.
pub(super) fn of_mount(mount: &Mount, options: &Options, spec: &Spec) -> Option<String> {
    let of_the_kernel = matches!(mount.typ().as_deref(), Some("proc" | "sysfs" | "cgroup2" | "mqueue"));
    let own = ["context", "fscontext", "defcontext", "rootcontext"];
    let says_its_own = options.data.iter().any(|(key, _)| own.contains(&key.as_str()));
    let is_made = !mounts::is_bind(mount, options) && !options.remount;
    of_mounts(spec).filter(|_| is_made && !of_the_kernel && !says_its_own).map(str::to_owned)
}

/// Labels the file system of a container's own message queues: the kernel has made it with the namespace, before there was
/// a mount to say a label for.
pub(super) fn label_queues(kind: &str, tree: BorrowedFd<'_>, spec: &Spec) -> Result<()> {
    let Some(label) = of_mounts(spec).filter(|_| kind == "mqueue" && has_own_queues(spec)) else {
        return Ok(());
    };
    selinux::label_opened(tree, label)
        .context(|| format!("give the message queues the SELinux label {label}"))
}

fn has_own_queues(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| {
        namespace.typ() == LinuxNamespaceType::Ipc
            && namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
    })
}

/// Makes keys, which have the process's label.
pub(super) fn with_labelled_keys<T>(
    process: &Process,
    procfs: BorrowedFd<'_>,
    make: impl FnOnce() -> T,
) -> Result<T> {
    let Some(label) = context(process) else { return Ok(make()) };
    let write = |label: &str| {
        sysctl::write(procfs, "thread-self/attr/keycreate", label)
            .map_err(|error| not_labelled(format!("give the keyring the SELinux label {label:?}"), error))
    };
    write(label)?;
    let made = make();
    write("")?;
    Ok(made)
}

/// Says what the next exec of this process is to be confined by.
pub(super) fn set(process: &Process, procfs: BorrowedFd<'_>) -> Result<()> {
    if let Some(profile) = profile(process) {
        let word = format!("exec {profile}");
        let own = sysctl::write(procfs, "thread-self/attr/apparmor/exec", &word);
        // Before Linux 5.8 AppArmor has no folder of its own.
        let written = match own {
            Err(Errno::NOENT) => sysctl::write(procfs, "thread-self/attr/exec", &word),
            written => written,
        };
        written.map_err(|error| {
            let advice = if error == Errno::NOENT {
                "the profile is not loaded: apparmor_parser -r loads one"
            } else {
                ""
            };
            // Docker's words.
            let doing = format!(
                "unable to apply apparmor profile: apparmor failed to apply profile {profile}: write \
                 thread-self/attr/apparmor/exec"
            );
            Error::kernel(doing, error).advise(advice)
        })?;
    }
    if let Some(label) = context(process) {
        sysctl::write(procfs, "thread-self/attr/exec", label)
            .map_err(|error| not_labelled(format!("set the SELinux label {label}"), error))?;
    }
    Ok(())
}

fn not_labelled(doing: String, error: Errno) -> Error {
    let advice = match error {
        Errno::INVAL => "the policy knows no such label",
        Errno::ACCESS => {
            "the policy does not let hull choose what others are labelled (setexec, setkeycreate)"
        }
        _ => "",
    };
    Error::kernel(doing, error).advise(advice)
}

fn profile(process: &Process) -> Option<&str> {
    process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty() && *profile != "unconfined")
}

fn context(process: &Process) -> Option<&str> {
    process.selinux_label().as_deref().filter(|label| !label.is_empty())
}
