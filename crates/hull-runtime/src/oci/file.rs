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
//! container, however much of the file is there (a reader sees it grow page by page), and what is left by who was killed
//! on the way can be cleared away. The socket at which a first process waits
//! lies beside it, named after the file's number (`ROOT/:N`; no id has a colon), for an id is longer than a socket's name
//! may be.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::Runtime;
use super::notify;
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

/// Reads a file; none where there is none, or an empty folder.
pub(super) fn read(path: &Path) -> Result<Option<Written>> {
    let doing = || format!("read {}", path.display());
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.context(doing)?,
    };
    let mut text = Vec::new();
    let found = file.metadata().context(doing)?;
    if found.is_dir() {
        return no_folder(path).map(|()| None);
    }
    file.read_to_end(&mut text).context(doing)?;
    let damaged = || Error::refused(doing(), "it is damaged: it does not begin as hull writes it");
    parse(text, start_of(path, found.ino())).map(Some).ok_or_else(damaged)
}

/// Earlier builds kept a container in a folder: what runs in it is not for this one to lose sight of. An empty one is what
/// their removal had not taken away yet.
fn no_folder(path: &Path) -> Result<()> {
    let doing = || format!("read {}", path.display());
    if fs::read_dir(path).context(doing)?.next().is_none() {
        return Ok(());
    }
    let reason = "it is a folder, as an earlier build of hull or another runtime keeps a container: let that one delete \
                  it; or kill its processes, remove its cgroup, and then this folder";
    Err(Error::refused(doing(), reason))
}

fn parse(mut text: Vec<u8>, start: PathBuf) -> Option<Written> {
    let (length, made_cgroup, whole) = parse_head(text.get(..HEAD).unwrap_or(&text))?;
    let end = HEAD.checked_add(length)?;
    if whole && text.len() < end {
        return None;
    }
    let record = text.split_off(end.min(text.len()));
    text.drain(..HEAD.min(text.len()));
    Some(Written { start, made_cgroup, config: text, record: whole.then_some(record) })
}

/// The length of the configuration and the two letters, from as much of a head as there is; what is not there yet does not
/// hold yet. None: it is none of hull's.
fn parse_head(head: &[u8]) -> Option<(usize, bool, bool)> {
    let (digits, rest) = head.split_at(head.len().min(DIGITS));
    let length = digits.iter().try_fold(0_usize, |length, digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })?;
    let mut holds = [false, false];
    for (at, found) in (DIGITS as u64..).zip(rest.iter().copied()) {
        let letter = [MADE_CGROUP, WHOLE].iter().position(|(place, _)| *place == at);
        match letter {
            Some(letter) if found == [MADE_CGROUP, WHOLE][letter].1 => holds[letter] = true,
            Some(_) if found == NOT_YET => {}
            None if found == if at + 1 == HEAD as u64 { b'\n' } else { b' ' } => {}
            _ => return None,
        }
    }
    Some((length, holds[0], holds[1]))
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
    /// It has a place to say at that it is ready.
    notifies: bool,
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
            // An empty folder is no container.
            Err(error)
                if error.kind() == std::io::ErrorKind::AlreadyExists && fs::remove_dir(&path).is_ok() =>
            {
                make()
            }
            made => made,
        };
        let file = match made {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                if path.is_dir() {
                    no_folder(&path)?;
                }
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
        let mut new = NewFile { path, start, file, notifies: false, kept: false };
        let head = format!("{:0DIGITS$} {1} {1}\n", config.len(), char::from(NOT_YET));
        let written = new.file.write_all(&[head.as_bytes(), config].concat());
        written.context(|| format!("write {}", new.path.display()))?;
        Ok(new)
    }

    /// Where the first process waits.
    pub(super) fn start(&self) -> &Path {
        &self.start
    }

    /// Has the place removed with it that `notify` makes.
    pub(super) fn notifies(&mut self) {
        self.notifies = true;
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
            if self.notifies {
                let _ = notify::remove(&self.start);
            }
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
        for damaged in [
            "{",
            "0000000009 c r\n{}",
            "000000000x c r\n{}",
            "0000000002 x r\n{}",
            "0000000002 c-r\n{}",
            "0000000002 - -{}",
        ] {
            assert!(parsed(damaged).is_none(), "{damaged}");
        }
    }

    /// What a creation has written by any moment at which it is killed, or at which somebody looks.
    #[test]
    fn a_creation_that_was_cut_off_anywhere_is_none_and_can_be_cleared_away() {
        let root = tempfile::tempdir().unwrap();
        let runtime = Runtime::at(root.path());
        let path = runtime.place("c").unwrap();
        let config = r#"{"ociVersion":"1.0.2"}"#;
        for marks in ["- -", "c -"] {
            let text = format!("{:0DIGITS$} {marks}\n{config}{{\"id\":\"c\"}}", config.len());
            for length in 0..=text.len() {
                fs::write(&path, &text[..length]).unwrap();
                assert!(!runtime.is_there("c").unwrap(), "{length}");
                let found = read(&path).unwrap().unwrap();
                let there = text[..length].get(HEAD..).unwrap_or_default();
                assert_eq!(found.config, &there.as_bytes()[..there.len().min(config.len())], "{length}");
                let listed = runtime.containers().unwrap();
                assert!(listed.containers.is_empty() && listed.unreadable.is_empty(), "{length}: {listed:?}");
                // Its cgroup is another test's: places that it names are the machine's.
                if marks == "- -" {
                    assert!(runtime.clear_unfinished("c").unwrap(), "{length}");
                    drop(NewFile::make(&runtime, "c", b"{}").unwrap());
                }
            }
        }
    }

    #[test]
    fn a_container_that_is_a_folder_is_not_lost_sight_of() {
        let root = tempfile::tempdir().unwrap();
        let runtime = Runtime::at(root.path());
        let folder = root.path().join("c");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("state.json"), "{}").unwrap();
        for error in [
            runtime.is_there("c").unwrap_err(),
            runtime.container("c").unwrap_err(),
            runtime.clear_unfinished("c").unwrap_err(),
            NewFile::make(&runtime, "c", b"{}").map(drop).unwrap_err(),
        ] {
            assert!(error.to_string().contains("it is a folder, as an earlier build"), "{error}");
        }
        assert_eq!(runtime.containers().unwrap().unreadable.len(), 1);
        fs::remove_file(folder.join("state.json")).unwrap();
        assert!(!runtime.is_there("c").unwrap(), "an empty one is none");
        drop(NewFile::make(&runtime, "c", b"{}").unwrap());
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
