//! What of the runtime specification hull does not do: refused by name, before anything is made.

use oci_spec::runtime::{Process, Spec};

use crate::{Error, Result};

fn refuse(what: &str, asked: bool) -> Result<()> {
    if asked { Err(Error::refused(what, "it is not supported yet")) } else { Ok(()) }
}

/// Checks a container's configuration.
pub(super) fn check(spec: &Spec, held: bool) -> Result<()> {
    refuse("hooks", !held && spec.hooks().as_ref().is_some_and(|hooks| *hooks != Default::default()))?;
    if let Some(process) = spec.process() {
        check_process(process)?;
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    refuse("linux.intelRdt", linux.intel_rdt().is_some())?;
    refuse("linux.memoryPolicy", linux.memory_policy().is_some())?;
    refuse("linux.personality", linux.personality().is_some())?;
    refuse("linux.netDevices", linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()))?;
    refuse("linux.mountLabel", linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()))?;
    Ok(())
}

/// Checks a process.
pub(super) fn check_process(process: &Process) -> Result<()> {
    let named = |label: &Option<String>| label.as_ref().is_some_and(|label| !label.is_empty());
    let apparmor = process.apparmor_profile();
    refuse("AppArmor profiles", named(apparmor) && apparmor.as_deref() != Some("unconfined"))?;
    refuse("SELinux labels", named(process.selinux_label()))?;
    refuse("process.scheduler", process.scheduler().is_some())?;
    refuse("process.execCPUAffinity", process.exec_cpu_affinity().is_some())
}
