//! An OCI runtime: from a runtime-spec configuration to a running process, and the two small processes
//! that stand between the daemon and a container.
//!
//! ```text
//! daemon ──socketpair──> launcher ──fork──> shim (one a container) ──clone3──> container
//! ```
//!
//! Everything here is synchronous and, in the launcher and the shims, single-threaded.
//!
//! - [`protocol`]: the words that daemon, launcher and shim exchange.
//! - [`launcher`]: the process that forks shims, and the daemon's handle of it.
//! - [`shim`]: parent and reaper of the container's first process.
//! - [`container`]: the container's first process, from clone to exec, in one straight line.
//! - [`cgroup`]: make, limit, read, freeze, kill and remove cgroups on v1, v2 and the hybrid of both.
//! - [`oci`]: containers without a daemon, as the OCI runtime specification has them.
//! - [`partial`]: a program in some namespaces or in a cgroup, without a container around it.
//! - [`doctor`]: what this machine's kernel offers, found out by trying.
//! - [`apparmor`]: the profile of containers that ask for none.
//! - `systemd`: a container's cgroup made by systemd, as a scope of its own.
//! - [`seccomp`]: the default profile and the compiler from profiles to BPF.

pub mod apparmor;
pub mod cgroup;
pub mod container;
pub mod doctor;
pub mod error;
pub mod launcher;
pub mod oci;
pub mod partial;
pub mod protocol;
pub mod seccomp;
pub mod selinux;
pub mod shim;
pub mod sys;
mod systemd;

pub use error::{Error, Result};
