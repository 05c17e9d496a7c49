//! Settings beneath /proc/sys/net, of one namespace.
//!
//! The files speak of the network namespace of the thread that opens them. A key is written with dots, as sysctl(8)
//! has it, or with slashes where a name within it has dots of its own ("net/ipv4/conf/eth0.5/forwarding").

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::{Error, Result, netns};

/// The file of a key; only those below "net" are a namespace's.
fn path_of(key: &str) -> Result<PathBuf> {
    let separator = if key.contains('/') { '/' } else { '.' };
    let mut parts = key.split(separator);
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains(['/', '\0']);
    if parts.next() != Some("net") || key.split(separator).any(bad) {
        return Err(Error::Invalid(format!("sysctl {key:?} is not one of a network namespace: net.…")));
    }
    Ok(key.split(separator).fold(PathBuf::from("/proc/sys"), |path, part| path.join(part)))
}

/// Whether a switch of the calling thread's namespace is on. One that does not exist is off.
pub(crate) fn is_on(key: &str) -> bool {
    path_of(key).ok().and_then(|path| fs::read_to_string(path).ok()).is_some_and(|value| value.trim() == "1")
}

/// Sets all of them in the namespace.
pub(crate) fn set(namespace: BorrowedFd<'_>, settings: &[(String, String)]) -> Result<()> {
    write(namespace, settings, false)
}

/// Sets those that this kernel has (one without IPv6 has no net.ipv6).
pub(crate) fn set_existing(namespace: BorrowedFd<'_>, settings: &[(String, String)]) -> Result<()> {
    write(namespace, settings, true)
}

fn write(namespace: BorrowedFd<'_>, settings: &[(String, String)], skip_absent: bool) -> Result<()> {
    let files =
        settings.iter().map(|(key, value)| Ok((path_of(key)?, key, value))).collect::<Result<Vec<_>>>()?;
    netns::run(namespace, || {
        for (path, key, value) in files {
            match fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
            {
                Err(error) if skip_absent && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::kernel(format!("setting sysctl {key} to {value}"), error)),
                Ok(()) => {}
            }
        }
        Ok(())
    })?
}
