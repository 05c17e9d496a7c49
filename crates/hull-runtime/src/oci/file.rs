//! The file that a container is written down in, `ROOT/ID`. One file and no folder: of two folders' work the kernel's
//! part alone takes a tenth of a short container's life, and on a disk that is told of each freed block a quarter.
//!
//! ```text
//! 0000001971 c r      how long the configuration is; c: a cgroup was made for it; r: it is a container
//! {"ociVersion":…     the configuration, as it was when it was made
//! {"oci_version":…    the record: see `state::Record`
//! ```
//!
//! Each of the two letters is written when it comes to hold, in one byte: until the last one is there, there is no
//! container, and what is left by who was killed on the way can be cleared away. The socket at which a first process waits
//! lies beside it, named after the file's number (`ROOT/:N`; no id has a colon), for an id is longer than a socket's name
//! may be.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::Runtime;
use super::state::Record;
use crate::error::Context;
use crate::{Error, Result};

/// The digits of a length, with a leading zero for each that it lacks.
const DIGITS: usize = 10;
const MADE_CGROUP: (u64, u8) = (DIGITS as u64 + 1, b'c');
const WHOLE: (u64, u8) = (DIGITS as u64 + 3, b'r');
const NOT_YET: u8 = b'-';
const HEAD: usize = DIGITS + 5;

/// What a file tells of a container, whole or on its way.
#[derive(Debug)]
pub(super) struct Written {
    /// Where its first process waits to be started, while it does.
    pub(super) start: PathBuf,
    /// Whether its cgroup was made for it.
    pub(super) made_cgroup: bool,
    /// The configuration's text.
    pub(super) config: Vec<u8>,
    /// The record's text; none: it is not a container yet.
    pub(super) record: Option<Vec<u8>>,
}

/// Reads a file; none where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Written>> {
    let doing = || format!("read {}", path.display());
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.context(doing)?,
    };
    let mut text = Vec::new();
    let found = file.metadata().context(doing)?;
    if found.is_dir() {
        return Ok(None);
    }
    file.read_to_end(&mut text).context(doing)?;
    let damaged = || Error::refused(doing(), "it is damaged: it does not begin as hull writes it");
    parse(text, start_of(path, found.ino())).map(Some).ok_or_else(damaged)
}

fn parse(mut text: Vec<u8>, start: PathBuf) -> Option<Written> {
    if text.is_empty() {
        // Its maker has got no further.
        return Some(Written { start, made_cgroup: false, config: Vec::new(), record: None });
    }
    let head = text.get(..HEAD)?;
    let length: usize = std::str::from_utf8(head.get(..DIGITS)?).ok()?.parse().ok()?;
    let has = |(at, letter): (u64, u8)| match head.get(usize::try_from(at).ok()?).copied()? {
        NOT_YET => Some(false),
        there => (there == letter).then_some(true),
    };
    let (made_cgroup, whole) = (has(MADE_CGROUP)?, has(WHOLE)?);
    let end = HEAD.checked_add(length).filter(|end| *end <= text.len())?;
    let record = text.split_off(end);
    text.drain(..HEAD);
    Some(Written { start, made_cgroup, config: text, record: whole.then_some(record) })
}

fn start_of(path: &Path, number: u64) -> PathBuf {
    path.with_file_name(format!(":{number}"))
}

/// The file of a container that is being made; removed unless it is kept.
pub(super) struct NewFile {
    path: PathBuf,
    start: PathBuf,
    /// Locked as long as somebody is at it: one that is not whole and that nobody holds was left by a creation that was
    /// killed.
    file: File,
    kept: bool,
}

impl NewFile {
    /// Makes it, with the configuration; that is what makes an id unique.
    pub(super) fn make(runtime: &Runtime, id: &str, config: &[u8]) -> Result<NewFile> {
        let path = runtime.place(id)?;
        let doing = || format!("create the container {id}");
        let make = || fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let made = match make() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut folders = fs::DirBuilder::new();
                folders.mode(0o700).recursive(true).create(&runtime.root).context(doing)?;
                make()
            }
            made => made,
        };
        let file = match made {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::refused(doing(), "container with given ID already exists"));
            }
            made => made.context(doing)?,
        };
        if !lock(&file).context(doing)? {
            return Err(Error::refused(doing(), "it is being removed just now"));
        }
        let found = file.metadata().context(doing)?;
        if found.nlink() == 0 {
            return Err(Error::refused(doing(), "it was removed just now"));
        }
        let start = start_of(&path, found.ino());
        let mut new = NewFile { path, start, file, kept: false };
        let head = format!("{:0DIGITS$} {1} {1}\n", config.len(), char::from(NOT_YET));
        let written = new.file.write_all(&[head.as_bytes(), config].concat());
        written.context(|| format!("write {}", new.path.display()))?;
        Ok(new)
    }

    /// Where the first process waits.
    pub(super) fn start(&self) -> &Path {
        &self.start
    }

    /// Writes down that the cgroup is made for this container, and goes with it.
    pub(super) fn makes_cgroup(&self) -> Result<()> {
        self.mark(MADE_CGROUP)
    }

    /// Writes down what the container is to be: its first process may not be ready yet.
    pub(super) fn write_ahead(&mut self, record: &Record) -> Result<()> {
        let doing = || format!("write down the container {}", record.id);
        let text = serde_json::to_vec(record).map_err(|error| Error::refused(doing(), error.to_string()))?;
        self.file.write_all(&text).context(doing)
    }

    /// Makes what was written ahead hold: from here on it is a container. Returns the places of its file and its socket.
    pub(super) fn keep(mut self) -> Result<(PathBuf, PathBuf)> {
        self.mark(WHOLE)?;
        self.kept = true;
        Ok((self.path.clone(), self.start.clone()))
    }

    fn mark(&self, (at, letter): (u64, u8)) -> Result<()> {
        self.file.write_all_at(&[letter], at).context(|| format!("write {}", self.path.display()))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // The error that led here is the one to tell.
            let _ = remove(&self.path, &self.start);
        }
    }
}

/// Removes a container's file, and before it what lies beside.
pub(super) fn remove(path: &Path, start: &Path) -> std::io::Result<()> {
    for path in [start, path] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Locks a file, and with it what it stands for; false while another process has it.
fn lock(file: &File) -> rustix::io::Result<bool> {
    match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::AGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The file of a container that nobody is making any more, held as if one were.
pub(super) fn hold(path: &Path) -> Result<Option<File>> {
    let doing = || format!("hold {}", path.display());
    let file = File::open(path).context(doing)?;
    Ok(lock(&file).context(doing)?.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Written> {
        parse(text.as_bytes().to_vec(), "start".into())
    }

    #[test]
    fn a_container_is_there_when_its_last_letter_is() {
        let whole = parsed("0000000002 c r\n{}{\"id\":\"c\"}").unwrap();
        assert!(whole.made_cgroup && whole.config == b"{}");
        assert_eq!(whole.record.as_deref(), Some(&b"{\"id\":\"c\"}"[..]));
        let ahead = parsed("0000000002 - -\n{}{\"id\":\"c\"}").unwrap();
        assert!(!ahead.made_cgroup && ahead.record.is_none() && ahead.config == b"{}");
        assert!(parsed("").unwrap().record.is_none());
        for damaged in ["{", "0000000009 c r\n{}", "000000000x c r\n{}", "0000000002 x r\n{}", "0000000002 c"]
        {
            assert!(parsed(damaged).is_none(), "{damaged}");
        }
    }

    #[test]
    fn an_id_is_one_container_s() {
        let root = tempfile::tempdir().unwrap();
        let runtime = Runtime::at(root.path().join("deep/root"));
        let new = NewFile::make(&runtime, "c", b"{}").unwrap();
        assert!(hold(&runtime.place("c").unwrap()).unwrap().is_none(), "its maker holds it");
        let Err(error) = NewFile::make(&runtime, "c", b"{}") else { panic!("an id is taken twice") };
        assert!(error.to_string().ends_with("container with given ID already exists"), "{error}");
        new.makes_cgroup().unwrap();
        let read = read(&runtime.place("c").unwrap()).unwrap().unwrap();
        assert!(read.made_cgroup && read.record.is_none());
        drop(new);
        drop(NewFile::make(&runtime, "c", b"{}").unwrap());
    }
}
