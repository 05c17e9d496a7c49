//! The kernel's features by hand and in part: a program in some namespaces or in a cgroup, without a container
//! around it.
//!
//! Everything here runs in the caller's own process, which must have one thread: `unshare`, `setns` and a fork that
//! goes on in Rust need that. The caller becomes the program where nothing needs to stand beside it; otherwise it
//! stays as the program's parent, hands signals on and ends as the program does.
//!
//! - [`run`]: a program in new namespaces (`hull ns run`).
//! - [`enter`]: a program in namespaces of a process (`hull ns enter`).
//! - [`list`]: which namespaces there are, and a process's id in each (`hull ns ls`, `hull ns pids`).
//! - [`limited`]: a program in a cgroup of its own (`hull cgroup run`).

pub mod enter;
mod kernel;
mod kinds;
pub mod limited;
pub mod list;
mod program;
mod root;
pub mod run;
mod supervise;
mod users;

pub(crate) use kernel::become_ids;
pub use kinds::{Kind, Kinds};
pub use users::{Range, Users};
