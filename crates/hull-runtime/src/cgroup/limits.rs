//! From the limits of a configuration to writes into files.

use super::Cgroup;
use crate::Result;
use oci_spec::runtime::LinuxResources;

/// When limits are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// With the cgroup.
    Create,
    /// Later, while processes run in it.
    Update,
}

pub(super) fn set(_cgroup: &Cgroup, _resources: &LinuxResources, _when: When) -> Result<Vec<String>> {
    Ok(Vec::new())
}
