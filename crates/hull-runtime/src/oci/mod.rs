//! Containers without a daemon, as the OCI runtime specification has them: a bundle (a folder with `config.json` and a
//! root file system) becomes a container by [`Runtime::create`], which waits until [`Runtime::start`].
//!
//! Nothing of hull's stays with such a container: who called is the parent of its first process, or whoever inherits
//! orphans there. What is to be known of it is in the runtime's root:
//!
//! ```text
//! ROOT/ID   what it is, and its configuration as it was when it was made (see `file`); removed last by delete
//! ROOT/:N   the socket at which its first process waits to be started; gone when it was
//! ROOT/:N.notify/   where it says that it is ready, if somebody wants to hear it (see `notify`)
//! ```
//!
//! Sources: the runtime specification 1.3 and, for the command line's words, what `runc` takes and prints.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

mod cgroup;
mod config;
mod create;
mod crun;
mod descriptors;
mod events;
mod exec;
mod features;
mod file;
pub mod foreground;
mod intel_rdt;
mod kill;
mod net_devices;
mod notify;
mod spec;
mod start;
mod state;
mod update;
mod watch;

pub use config::read_process;
pub use create::{Console, Create, Created};
pub use exec::{Exec, Executed};
pub use features::features;
pub use kill::signal_number;
pub use notify::Notify;
pub use spec::{VERSION as SPECIFICATION, default_spec};
pub use state::{Container, Listed, Status, process_began};

/// The containers below one folder.
#[derive(Clone, Debug)]
pub struct Runtime {
    root: PathBuf,
}

impl Runtime {
    /// The containers below `root`, which is made when the first one is created.
    pub fn at(root: impl Into<PathBuf>) -> Runtime {
        Runtime { root: root.into() }
    }

    /// Where containers are kept that nobody said a place for: `/run/hull-oci`, or a folder of the user's own.
    pub fn default_root() -> PathBuf {
        let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
        match own {
            Some(folder) if !rustix::process::geteuid().is_root() => Path::new(&folder).join("hull-oci"),
            _ => PathBuf::from("/run/hull-oci"),
        }
    }

    /// Where a container is written down.
    ///
    /// # Errors
    /// It is no id: letters, digits and `_ + - .`, but not `.` or `..`.
    fn place(&self, id: &str) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(plain) {
            let reason = "an id has letters, digits, and _ + - . alone";
            return Err(Error::refused(format!("invalid container ID format: {id:?}"), reason));
        }
        Ok(self.root.join(id))
    }
}

/// Replaces this process by the same program from a file that nobody can write, if it is not that already: what runs
/// in a container can then not write the host's binary through `/proc/self/exe` (CVE-2019-5736).
///
/// # Errors
/// No such file can be made: neither a read-only clone of the mount nor a copy in memory.
pub fn protect_own_binary() -> Result<()> {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;

    use crate::error::Context;
    if is_protected() {
        return Ok(());
    }
    let program = crate::launcher::protected_self()?;
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| "hull".into());
    let error = std::process::Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0(name)
        .args(words)
        .exec();
    Err(error).context(|| "execute a protected copy of hull's own binary".into())
}

/// Whether the file that this process was executed from cannot be opened for writing: it is on a read-only mount, or
/// sealed.
pub(crate) fn is_protected() -> bool {
    use rustix::fs::{Mode, OFlags, SealFlags, StatVfsMountFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(own) = rustix::fs::open("/proc/self/exe", flags, Mode::empty()) else { return false };
    let read_only = rustix::fs::fstatvfs(&own).is_ok_and(|at| at.f_flag.contains(StatVfsMountFlags::RDONLY));
    read_only || rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}
