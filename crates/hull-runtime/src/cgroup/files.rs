//! Reading and writing the small files of cgroups.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// Writes a value in one call, as cgroup files want it.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// A file's text; empty where there is none (a controller that the machine lacks has no figures).
pub(super) fn text(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        // The cgroup went with its file open.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(String::new()),
        result => result,
    }
}

/// A file's one number; nothing where there is no file, and `u64::MAX` for `max`.
pub(super) fn number(path: &Path) -> io::Result<Option<u64>> {
    let text = text(path)?;
    Ok(match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    })
}

/// The value of a key in a file of `key value` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
