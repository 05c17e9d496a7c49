//! The labels of the kernel's security modules: a profile of AppArmor, a context of SELinux. They hold from the exec on.

use std::os::fd::BorrowedFd;
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use rustix::io::Errno;

use super::sysctl;
use crate::{Error, Result, apparmor};

/// What a process asks for that this machine has no module for is refused: a container without it would be less
/// confined than asked for.
pub(super) fn check(process: &Process) -> Result<()> {
    check_apparmor(profile(process).unwrap_or_default())?;
    if context(process).is_some() && !has_selinux() {
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

/// A label for a container's mounts is refused: none is given to any.
pub(super) fn check_mounts(spec: &Spec) -> Result<()> {
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(()) };
    // Mounts without it would be labelled as the host's are.
    let reason = if has_selinux() {
        "mounts get no SELinux labels here: leave linux.mountLabel away, and label the files themselves"
    } else {
        "SELinux is not enabled on this machine"
    };
    Err(Error::refused(format!("linux.mountLabel {label}"), reason))
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
            .map_err(|error| Error::kernel(format!("set the SELinux label {label}"), error))?;
    }
    Ok(())
}

fn profile(process: &Process) -> Option<&str> {
    process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty() && *profile != "unconfined")
}

fn context(process: &Process) -> Option<&str> {
    process.selinux_label().as_deref().filter(|label| !label.is_empty())
}

/// Whether SELinux is enabled.
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}
