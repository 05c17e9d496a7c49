//! Rotated files compressed with gzip: `PATH.1.gz`, `PATH.2.gz`.
//!
//! A process of its own does it, at the lowest priority, while the shim writes on. A shim has one at a time; that of the
//! shim before it, which ran the container until its restart, may still be at work. One that ends has left no file behind:
//! the compressed file has no name until it is whole, or, where files cannot be without, one that nobody reads and that it
//! has locked. It gets the name of the file which it stands for, wherever rotations have moved that meanwhile: a lock on the
//! log's folder keeps the two apart. In its header is which file it was made of, so that a reader which has that one open
//! does not take it for another.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::{Compression, GzBuilder};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::{FOLLOWERS_PATIENCE, numbered, process, until_unlocked};
use crate::protocol::LogFile;
use crate::shim::kernel::{self, Interest};

/// How a header's field begins that names the file: two letters and its length (RFC 1952, 2.3.1.1).
const FIELD: [u8; 4] = [b'h', b'L', 32, 0];
/// Where that field begins: behind the ten bytes of the head, and the length of all fields.
const FIELD_AT: u64 = 12;

/// The compressed file of this number.
pub(super) fn packed(path: &Path, number: u32) -> PathBuf {
    let mut name = numbered(path, number).into_os_string();
    name.push(".gz");
    name.into()
}

/// Keeps the names of rotated files as they are while it is held; none where the folder cannot be locked, which means that
/// nobody else can either.
pub(super) fn lock(path: &Path) -> Option<File> {
    let folder = File::open(path.parent()?).ok()?;
    rustix::fs::flock(&folder, FlockOperation::LockExclusive).ok()?;
    Some(folder)
}

/// Compresses what is rotated.
#[derive(Debug, Default)]
pub(super) struct Compressor {
    /// Closes at the other end when the process has ended.
    running: Option<OwnedFd>,
}

impl Compressor {
    /// Has the rotated files compressed that are not yet, under the folder's [`lock`]. What cannot be, stays as it is.
    pub(super) fn begin(&mut self, config: &LogFile) {
        if self.running.as_ref().is_some_and(|process| !has_ended(process)) {
            // It will look for more before it ends.
            return;
        }
        let Ok((reader, writer)) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC) else { return };
        let started = process::beside(c"hull-log-gzip", &mut [writer.as_raw_fd()], || all(config, writer));
        self.running = started.is_ok().then_some(reader);
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut interest = [Interest { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    kernel::poll(&mut interest, Some(Duration::ZERO)).is_ok() && interest[0].revents != 0
}

fn all(config: &LogFile, running: OwnedFd) {
    // Where that is not granted it is done all the same.
    let _ = rustix::process::nice(19);
    let rotated = |number: u32| {
        let file = File::open(numbered(&config.path, number)).ok()?;
        let metadata = file.metadata().ok()?;
        Some((file, (metadata.dev(), metadata.ino())))
    };
    loop {
        // Whoever rotates holds it, too: he finds this one ended, or this one finds what he has rotated.
        let lock = lock(&config.path);
        // The oldest first.
        let Some((file, id)) = (1..=config.max_file).rev().find_map(rotated) else {
            drop(running);
            return;
        };
        drop(lock);
        // One that cannot be compressed keeps those behind it from being tried again and again.
        if one(config, file, id).is_err() {
            return;
        }
    }
}

/// Puts a compressed file in the place of this one.
fn one(config: &LogFile, mut file: File, id: (u64, u64)) -> io::Result<()> {
    // Who still has it as the newest that he knows would not be waited for when it is removed.
    if until_unlocked(&file, FOLLOWERS_PATIENCE) {
        rustix::fs::flock(&file, FlockOperation::Unlock)?;
    }
    let whole = pack(&mut file, Whole::beside(&config.path, id.1)?)?;
    let lock = lock(&config.path).ok_or(io::ErrorKind::ResourceBusy)?;
    let is_it = |number: &u32| {
        std::fs::metadata(numbered(&config.path, *number)).is_ok_and(|it| (it.dev(), it.ino()) == id)
    };
    // It may have become too old meanwhile.
    let Some(number) = (1..=config.max_file).find(is_it) else { return Ok(()) };
    let name = packed(&config.path, number);
    whole.call(&name)?;
    let removed = std::fs::remove_file(numbered(&config.path, number));
    drop(lock);
    removed
}

fn pack(file: &mut File, whole: Whole) -> io::Result<Whole> {
    let field = Origin::of(&file.metadata()?).field();
    let mut packer = GzBuilder::new().extra(field).write(BufWriter::new(&whole.file), Compression::default());
    io::copy(file, &mut packer)?;
    packer.finish()?.flush()?;
    Ok(whole)
}

/// A compressed file until it is whole: it has no name, or one that nobody reads, and goes unless it is called otherwise.
#[derive(Debug)]
struct Whole {
    file: File,
    name: Option<PathBuf>,
}

impl Whole {
    /// For the compressed form of the rotated file with this inode.
    fn beside(path: &Path, inode: u64) -> io::Result<Whole> {
        let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::open(folder, flags, MODE) {
            // There are file systems where each file has a name (NFS, some overlays).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => Whole::named(path, inode),
            opened => Ok(Whole { file: opened?.into(), name: None }),
        }
    }

    /// Named by the file that it is made of, and locked: another process at the same file sees that it is being done.
    fn named(path: &Path, inode: u64) -> io::Result<Whole> {
        let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
        let mut prefix = path.file_name().ok_or(io::ErrorKind::NotFound)?.to_owned();
        prefix.push(".gz.");
        // Nobody takes it for a leftover before it is locked. Where the folder cannot be, the log stays uncompressed.
        let _lock = lock(path).ok_or(io::ErrorKind::ResourceBusy)?;
        remove_leftovers(folder, &prefix)?;
        prefix.push(format!("{inode}{UNFINISHED}"));
        let name = folder.join(prefix);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(&name, flags, MODE)?.into();
        let whole = Whole { file, name: Some(name) };
        rustix::fs::flock(&whole.file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(whole)
    }

    /// Gives it its name.
    fn call(mut self, name: &Path) -> io::Result<()> {
        if let Some(own) = &self.name {
            std::fs::rename(own, name)?;
            self.name = None;
            return Ok(());
        }
        // A process that was killed between this and the removal of the file that it is made of may have left one.
        let _ = std::fs::remove_file(name);
        let itself = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, itself, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
    }
}

/// Removes what processes that were killed have left: it is locked by nobody.
fn remove_leftovers(folder: &Path, prefix: &OsStr) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_bytes();
        if !name.starts_with(prefix.as_bytes()) || !name.ends_with(UNFINISHED.as_bytes()) {
            continue;
        }
        // To write, as a lock wants it where it goes to another machine.
        let Ok(file) = File::options().write(true).open(entry.path()) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            removed(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a leftover, unless it is gone: whoever was at it has removed it, or given it its name.
fn removed(leftover: &Path) -> io::Result<()> {
    match std::fs::remove_file(leftover) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Where that fails it is removed by the next one, or with the log.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// How a name ends that a file has until it is whole.
const UNFINISHED: &str = ".tmp";

/// As the log itself has it.
const MODE: Mode = Mode::from_raw_mode(0o640);

/// Which file a compressed one was made of: its device and inode; and, for the next one gets the same inode, how long it was
/// and when it was last written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin([u64; 4]);

impl Origin {
    /// This file.
    pub(super) fn of(file: &Metadata) -> Origin {
        let written = file.mtime() as u64 * 1_000_000_000 + file.mtime_nsec() as u64;
        Origin([file.dev(), file.ino(), file.len(), written])
    }

    /// What a compressed file's header says; none, where it says nothing.
    pub(super) fn read(packed: &File) -> Option<Origin> {
        let mut field = [0; 36];
        packed.read_exact_at(&mut field, FIELD_AT).ok()?;
        let mut numbers = [0; 4];
        for (number, bytes) in numbers.iter_mut().zip(field.strip_prefix(&FIELD)?.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(Origin(numbers))
    }

    /// Device and inode.
    pub(super) fn id(self) -> (u64, u64) {
        (self.0[0], self.0[1])
    }

    fn field(self) -> Vec<u8> {
        FIELD.into_iter().chain(self.0.into_iter().flat_map(u64::to_le_bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_every_file_has_a_name_it_has_one_that_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (log, rotated) = (folder.path().join("log"), folder.path().join("log.1"));
        std::fs::write(&rotated, "much the same ".repeat(1000)).unwrap();
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        std::fs::write(folder.path().join("log.gz.7.tmp"), "of one that was killed").unwrap();
        std::fs::write(folder.path().join("log.gz.8.tmp"), "of one that was killed").unwrap();
        drop(pack(&mut File::open(&rotated).unwrap(), Whole::named(&log, 7).unwrap()).unwrap());
        assert_eq!(names(), 1, "what is not whole goes");
        let whole = pack(&mut File::open(&rotated).unwrap(), Whole::named(&log, 7).unwrap()).unwrap();
        assert_eq!(Whole::named(&log, 7).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(Whole::named(&log, 8).unwrap());
        assert_eq!(names(), 2, "and what another is at stays");
        removed(&folder.path().join("log.gz.8.tmp")).expect("what is gone is removed");
        removed(folder.path()).expect_err("and what cannot be is told");
        let nowhere = Whole::named(Path::new("/proc/self/fd/none/log"), 7).unwrap_err();
        assert_eq!(nowhere.kind(), io::ErrorKind::ResourceBusy, "nothing is made without the lock");
        whole.call(&packed(&log, 1)).unwrap();
        let file = File::open(folder.path().join("log.1.gz")).unwrap();
        assert_eq!(Origin::read(&file), Some(Origin::of(&std::fs::metadata(&rotated).unwrap())));
        assert_eq!(names(), 2);
    }
}
