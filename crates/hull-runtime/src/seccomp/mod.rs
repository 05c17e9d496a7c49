//! System call filters: the default profile, and the compiler from OCI profiles to BPF.
//!
//! A [`Filter`] is compiled once (in the launcher or the shim) and installed by the container's first process
//! as the last thing before exec.

use oci_spec::runtime::{Capability, LinuxSeccomp};

use crate::{Error, Result};

/// A compiled filter: classic BPF as `seccomp(2)` takes it.
#[derive(Clone, Debug)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
    flags: u64,
}

impl Filter {
    /// Installs it for the calling thread.
    pub(crate) fn install(&self) -> Result<()> {
        use crate::error::Context;
        crate::sys::install_filter(&self.program, self.flags)
            .context(|| "install the filter of system calls".into())
    }
}

/// hull's built-in profile (Docker's default in meaning), fitted to the capabilities in `bounding`.
pub fn default_filter(bounding: &[Capability]) -> Result<Filter> {
    let _ = bounding;
    Err(Error::refused("seccomp", "not there yet"))
}

/// Compiles a profile of the OCI runtime specification.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let _ = profile;
    Err(Error::refused("seccomp", "not there yet"))
}
