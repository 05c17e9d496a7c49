//! A kept tree is changed to what a client has now.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hull_image::Digest;
use rustix::fs::{
    self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, openat2,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::record::{Hashed, Record};
use crate::failure::{Failure, Result};
use crate::listing::{Entry, Kind, Listing, get_number};

/// So many bytes are taken at once.
const PIECE: usize = 256 << 10;

/// Takes away what is not there any more or is another now, makes what is new, and takes the missing files from `body`:
/// each with its index, its length, and its bytes.
pub(super) fn change(
    root: &Path,
    before: &Record,
    mut listing: Listing,
    missing: &[usize],
    body: &mut dyn Read,
) -> Result<Record> {
    let opened = File::open(root).map_err(|error| failed(b"", error))?;
    let mut tree = Tree { root: opened.into(), parent: (Vec::new(), None), buffer: vec![0; PIECE] };
    let digests = remove(&mut tree, before, &listing, missing)?;
    let mut missing = missing.iter().copied().peekable();
    let mut contents = Vec::new();
    for index in 0..listing.entries.len() {
        let entry = &mut listing.entries[index];
        if missing.next_if_eq(&index).is_some() {
            contents.push(tree.file(entry, index, body)?);
        } else if let Kind::File { .. } = entry.kind {
            let digest = digests.get(&entry.path[..]).copied();
            contents.push(digest.ok_or_else(|| failed(&entry.path, "it is not kept"))?);
        } else {
            tree.other(entry)?;
        }
    }
    // What was made in them has changed their times.
    for entry in listing.entries.iter().rev().filter(|entry| entry.kind == Kind::Folder) {
        tree.dress(entry)?;
    }
    Ok(Record { listing, contents })
}

/// Removes what is not wanted as it is; the digests of the files.
fn remove<'a>(
    tree: &mut Tree,
    before: &'a Record,
    listing: &Listing,
    missing: &[usize],
) -> Result<HashMap<&'a [u8], Digest>> {
    let mut stays: HashMap<&[u8], &Kind> =
        listing.entries.iter().map(|entry| (&entry.path[..], &entry.kind)).collect();
    for index in missing {
        stays.remove(&listing.entries[*index].path[..]);
    }
    // What is in a folder stands behind it, and goes first.
    for entry in before.listing.entries.iter().rev() {
        if stays.get(&entry.path[..]) == Some(&&entry.kind) {
            continue;
        }
        let flags = if entry.kind == Kind::Folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let (parent, name) = tree.place(&entry.path)?;
        fs::unlinkat(parent, name, flags).map_err(|errno| failed(&entry.path, errno))?;
    }
    let files = before.listing.entries.iter().filter(|entry| matches!(entry.kind, Kind::File { .. }));
    Ok(files.map(|entry| &entry.path[..]).zip(before.contents.iter().copied()).collect())
}

struct Tree {
    root: OwnedFd,
    /// The folder that was used last.
    parent: (Vec<u8>, Option<OwnedFd>),
    buffer: Vec<u8>,
}

impl Tree {
    /// The folder that a path lies in, and its name there. No link is followed: there is none in a listing's folders.
    fn place<'a>(&mut self, path: &'a [u8]) -> Result<(&OwnedFd, &'a [u8])> {
        let Some(at) = path.iter().rposition(|byte| *byte == b'/') else { return Ok((&self.root, path)) };
        let (folder, name) = (&path[..at], &path[at + 1..]);
        if self.parent.0 != folder || self.parent.1.is_none() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let opened = openat2(&self.root, folder, flags, Mode::empty(), resolve)
                .map_err(|errno| failed(path, errno))?;
            self.parent = (folder.to_vec(), Some(opened));
        }
        Ok((self.parent.1.as_ref().unwrap_or(&self.root), name))
    }

    /// Makes what is no file, where it is not there.
    fn other(&mut self, entry: &Entry) -> Result<()> {
        let (parent, name) = self.place(&entry.path)?;
        let made = match &entry.kind {
            Kind::Folder => fs::mkdirat(parent, name, Mode::RWXU),
            Kind::Link(target) => fs::symlinkat(&target[..], parent, name),
            Kind::Fifo => fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0),
            Kind::File { .. } => Ok(()),
        };
        match made {
            // It stayed.
            Err(Errno::EXIST) => {}
            made => made.map_err(|errno| failed(&entry.path, errno))?,
        }
        match entry.kind {
            Kind::Fifo => self.dress(entry),
            Kind::Link(_) => {
                let (parent, name) = self.place(&entry.path)?;
                fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| failed(&entry.path, errno))
            }
            _ => Ok(()),
        }
    }

    /// Takes a file; its digest. One whose length is not what was told was changed since: its identity is not its own.
    fn file(&mut self, entry: &mut Entry, index: usize, body: &mut dyn Read) -> Result<Digest> {
        let cut = |error: io::Error| Failure::invalid(format!("read the build context: {error}"));
        let (sent, length) = (get_number(body).map_err(cut)?, get_number(body).map_err(cut)?);
        if sent != index as u64 {
            return Err(Failure::invalid("read the build context: a file came that was not asked for"));
        }
        let (parent, name) = self.place(&entry.path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed(&entry.path, errno))?;
        let mut out = Hashed { out: File::from(file), hasher: Sha256::new() };
        let copied = copy(&mut body.take(length), &mut out, &mut self.buffer)
            .map_err(|error| failed(&entry.path, error))?;
        if copied != length {
            return Err(Failure::invalid("read the build context: it is cut off"));
        }
        if let Kind::File { size, identity } = &mut entry.kind
            && *size != length
        {
            (*size, *identity) = (length, None);
        }
        fs::fchmod(&out.out, Mode::from_raw_mode(entry.mode))
            .and_then(|()| fs::futimens(&out.out, &times(entry)))
            .map_err(|errno| failed(&entry.path, errno))?;
        Ok(Digest::from_hasher(out.hasher))
    }

    /// Gives a folder or a fifo its mode and its time.
    fn dress(&mut self, entry: &Entry) -> Result<()> {
        let (parent, name) = self.place(&entry.path)?;
        fs::chmodat(parent.as_fd(), name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .and_then(|()| fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|errno| failed(&entry.path, errno))
    }
}

/// `std::io::copy` with a buffer that is worth its system calls.
fn copy(from: &mut dyn Read, to: &mut dyn Write, buffer: &mut [u8]) -> io::Result<u64> {
    let mut copied = 0;
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                copied += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: entry.modified, tv_nsec: 0 },
    }
}

fn failed(path: &[u8], error: impl std::fmt::Display) -> Failure {
    Failure::system(format_args!("keep {:?} of the build context", String::from_utf8_lossy(path)), error)
}
