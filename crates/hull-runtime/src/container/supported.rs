//! What of the runtime specification hull does not do: refused by name, before anything is made.

use oci_spec::runtime::Spec;

use super::labels;
use crate::{Error, Result};

fn refuse(what: &str, asked: bool) -> Result<()> {
    if asked { Err(Error::refused(what, "it is not supported yet")) } else { Ok(()) }
}

/// Checks a container's configuration.
pub(super) fn check(spec: &Spec, held: bool) -> Result<()> {
    refuse("hooks", !held && spec.hooks().as_ref().is_some_and(|hooks| *hooks != Default::default()))?;
    if let Some(process) = spec.process() {
        labels::check(process)?;
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    refuse("linux.intelRdt", !held && linux.intel_rdt().is_some())?;
    refuse(
        "linux.netDevices",
        !held && linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()),
    )?;
    labels::check_mounts(spec)?;
    Ok(())
}
