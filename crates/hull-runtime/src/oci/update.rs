//! Update: other limits for a container that is there.

use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

use super::{Container, Status, intel_rdt};
use crate::systemd::{self, Systemd};
use crate::{Error, Result};

impl Container {
    /// Sets limits; what `resources` does not name stays. `schemata` are lines for its class of Intel RDT. Returns
    /// warnings: of what is no limit, and not heeded on this machine.
    ///
    /// # Errors
    /// The container has ended; the kernel does not take a value; this machine has no such limit; the container has no
    /// class of its own.
    pub fn update(&self, resources: &LinuxResources, schemata: &[String]) -> Result<Vec<String>> {
        if self.status()? == Status::Stopped {
            return Err(Error::refused(
                format!("update the container {}", self.id()),
                "container not running",
            ));
        }
        if !schemata.is_empty() && !intel_rdt::is_there() {
            let reason = "Intel RDT is not enabled: this machine has no resctrl mounted, and no schema of the L3 cache or of the memory's bandwidth";
            return Err(Error::refused(format!("update the container {}", self.id()), reason));
        }
        let class = if schemata.is_empty() { None } else { Some(self.class()?) };
        let cgroup = self.existing_cgroup("update")?;
        if let Some(unit) = &self.record.unit {
            Systemd::connect()?.set(unit, systemd::limits(Some(resources), false)?)?;
        }
        let warnings = cgroup.update_whole(resources)?;
        class.map_or(Ok(()), |class| intel_rdt::change(&class, schemata))?;
        Ok(warnings)
    }

    /// Its class of Intel RDT: one that was made for it, or that its configuration names.
    fn class(&self) -> Result<PathBuf> {
        if let Some(class) = &self.record.resctrl {
            return Ok(class.clone());
        }
        let spec = self.config()?;
        let rdt = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
        let doing = || format!("update the container {}", self.id());
        match rdt.and_then(|rdt| rdt.clos_id().as_deref()) {
            Some(class) => intel_rdt::folder_of(class),
            None => Err(Error::refused(doing(), "it has no class of Intel RDT (linux.intelRdt)")),
        }
    }
}
