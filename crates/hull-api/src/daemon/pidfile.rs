//! The file that says which process the daemon is.

use std::fs;
use std::path::{Path, PathBuf};

use hull_engine::{Error, Result};

/// The file with the daemon's process id; removed at its end.
pub(super) struct Pidfile(PathBuf);

impl Pidfile {
    pub(super) fn write(path: &Path) -> Result<Pidfile> {
        if let Ok(text) = fs::read_to_string(path)
            && let Ok(pid) = text.trim().parse::<u32>()
            && pid != std::process::id()
            && is_daemon(pid)
        {
            return Err(Error::conflict(format!(
                "process {pid} is a daemon with the same pidfile {}: end it with `hull system stop`, or give this one \
                 roots and a pidfile of its own (--data-root, --exec-root, --pidfile)",
                path.display()
            )));
        }
        fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|error| Error::system(format_args!("write the pidfile {}", path.display()), error))?;
        Ok(Pidfile(path.to_owned()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // It may have been removed with its folder.
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether that process is a daemon of hull's, and not another that got the number later.
fn is_daemon(pid: u32) -> bool {
    let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    program.ends_with(b"dockerd") || program.ends_with(b"hull") && words.next() == Some(b"daemon")
}
