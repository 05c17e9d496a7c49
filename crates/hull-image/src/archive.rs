//! The files of a container as archives: for `docker cp`, `export`, and a volume's first filling.
//!
//! All is resolved beneath a root that is given as a descriptor; the container may run and change things meanwhile.

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a path is, as Docker's `X-Docker-Container-Path-Stat` header says it: serialise it to JSON, then base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// The last element of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode` bits.
    pub mode: u32,
    /// RFC 3339.
    pub mtime: String,
    /// Where a symbolic link leads, resolved within the root; empty where it is none.
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

/// How [`put`] treats what is there, and owners.
#[derive(Clone, Copy, Debug, Default)]
pub struct Put {
    /// A folder is not replaced by what is none, nor the other way round: an error instead.
    pub no_overwrite_dir_non_dir: bool,
    /// Files get the owner that the archive names; otherwise they are root's.
    pub copy_uid_gid: bool,
}

fn not_yet<T>() -> Result<T> {
    Err(Error::new(crate::Kind::NotImplemented, "not there yet"))
}

/// What is at `path` beneath `root`; its last element is not followed.
pub fn stat(_root: BorrowedFd<'_>, _path: &str) -> Result<PathStat> {
    not_yet()
}

/// Writes the file or folder at `path` as a tar, as Docker's `GET /containers/{id}/archive`.
pub fn get(_root: BorrowedFd<'_>, _path: &str, _out: &mut dyn Write) -> Result<()> {
    not_yet()
}

/// Unpacks a tar (plain or compressed) into the folder at `path`.
pub fn put(_root: BorrowedFd<'_>, _path: &str, _tar: &mut dyn Read, _options: Put) -> Result<()> {
    not_yet()
}

/// Writes the whole tree as a tar; other file systems mounted in it are left out.
pub fn export(_root: BorrowedFd<'_>, _out: &mut dyn Write) -> Result<()> {
    not_yet()
}

/// Copies what is at `path` beneath `root` into the empty folder `destination`, with owners, modes, times, extended
/// attributes, hard links and holes. The folder itself gets the owner and mode of what was copied. Where `path` is
/// not there or is no folder, nothing happens.
pub fn copy_up(_root: BorrowedFd<'_>, _path: &str, _destination: BorrowedFd<'_>) -> Result<()> {
    not_yet()
}
