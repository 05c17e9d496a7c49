//! Update: other limits for a container that is there.

use oci_spec::runtime::LinuxResources;

use super::{Container, Status};
use crate::systemd::{self, Systemd};
use crate::{Error, Result};

impl Container {
    /// Sets limits; what `resources` does not name stays.
    ///
    /// # Errors
    /// The container has ended; the kernel does not take a value.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        if self.status()? == Status::Stopped {
            return Err(Error::refused(
                format!("update the container {}", self.id()),
                "container not running",
            ));
        }
        let cgroup = self.existing_cgroup("update")?;
        if let Some(unit) = &self.record.unit {
            Systemd::connect()?.set(unit, systemd::limits(Some(resources), false)?)?;
        }
        cgroup.update(resources)
    }
}
