//! What is known of a kept context: its listing, and the digest of each file.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use hull_image::Digest;
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, Result};
use crate::listing::{Kind, Listing};

/// The first line; the boot's id follows it.
const VERSION: &str = "hull.kept.1";

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) listing: Listing,
    /// Of each file, in the listing's order.
    pub(super) contents: Vec<Digest>,
}

/// What is told of one without reading it whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) used: SystemTime,
}

/// What was not on the disk when the machine lost its power may be anything now, so nothing outlives a boot.
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

impl Record {
    /// Its size and last use; none where there is none of this boot.
    pub(super) fn head(path: &Path) -> Option<Head> {
        let file = fs::File::open(path).ok()?;
        let used = file.metadata().ok()?.modified().ok()?;
        begin(&mut BufReader::new(file)).map(|size| Head { size, used })
    }

    /// Reads it; none where there is none of this boot.
    pub(super) fn read(path: &Path) -> Option<Record> {
        let mut source = BufReader::with_capacity(256 << 10, fs::File::open(path).ok()?);
        begin(&mut source)?;
        let listing = Listing::read_own(&mut source).ok()?;
        let files = listing.entries.iter().filter(|entry| matches!(entry.kind, Kind::File { .. })).count();
        let mut contents = Vec::with_capacity(files);
        for _ in 0..files {
            let mut digest = [0; 32];
            source.read_exact(&mut digest).ok()?;
            contents.push(Digest::from_bytes(digest));
        }
        Some(Record { listing, contents })
    }

    /// Writes it into a folder, under its name last.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let failed = |error: io::Error| Failure::system("write down what is kept of a build context", error);
        let boot = boot().ok_or_else(|| failed(io::Error::other("the kernel tells no id of this boot")))?;
        let new = folder.join("record.new");
        let mut out = BufWriter::with_capacity(256 << 10, fs::File::create(&new).map_err(failed)?);
        let written = write!(out, "{VERSION}\n{boot}\n{}\n", self.listing.size())
            .and_then(|()| self.listing.write(&mut out))
            .and_then(|()| self.contents.iter().try_for_each(|digest| out.write_all(digest.bytes())))
            .and_then(|()| out.flush());
        written.map_err(failed)?;
        fs::rename(new, folder.join("record")).map_err(failed)
    }

    /// The digests by their paths.
    pub(super) fn digests(self) -> HashMap<Vec<u8>, Digest> {
        let files = self.listing.entries.into_iter().filter(|entry| matches!(entry.kind, Kind::File { .. }));
        files.map(|entry| entry.path).zip(self.contents).collect()
    }
}

/// Reads what stands before the listing; the bytes of all files.
fn begin(source: &mut impl BufRead) -> Option<u64> {
    let mut line = || {
        let mut line = String::new();
        source.by_ref().take(256).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    (line()? == VERSION && line()? == boot()?).then_some(())?;
    line()?.parse().ok()
}

/// The digest of what passes by.
pub(super) struct Hashed<W> {
    pub(super) out: W,
    pub(super) hasher: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
