//! Tests from outside: the release binary, driven by its command line and its API.
//!
//! Here is the harness; the tests are in `tests/`, a file for each subject. A test starts a [`Daemon`] of its own, with
//! roots, socket and network namespace of its own, so that tests run side by side and beside whatever else runs on the
//! machine; dropping it removes everything, also when the test failed. A test that was killed leaves a folder behind,
//! and the next one that starts clears away what belongs to it (see [`sweep`]).
//!
//! With `REFERENCE=docker` the same tests drive the machine's dockerd by Docker's own client: a test that fails there
//! expects something else than Docker does.

mod archive;
mod attack;
mod census;
mod cleanup;
mod corpus;
mod daemon;
mod docker_registry;
mod http;
mod kernel;
mod loops;
mod oci;
mod others;
mod picture;
pub mod registry;
mod session;
mod systemd;

pub use archive::{Kind, Tar, busybox_rootfs};
pub use attack::{attacker, python};
pub use census::Census;
pub use cleanup::{cgroups_of, sweep};
pub use corpus::{Specimen, corpus};
pub use daemon::{Daemon, Engine, Output, hull_binary};
pub use docker_registry::DockerRegistry;
pub use http::{Client, PATIENCE, Response, frames};
pub use kernel::{Pty, private_files, private_network, wait_until};
pub use loops::LoopMount;
pub use oci::Oci;
pub use others::{HullOci, Other, which};
pub use picture::picture;
pub use session::{mask, unindented};
pub use systemd::{Call, Does, FakeSystemd, property};
