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
const VERSION: &str = "hull.kept.2";

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
    /// The digest of its listing, where that says of every file by what it is known.
    pub(super) listing: Option<Digest>,
    /// The digest of all that a build can see of it.
    pub(super) state: Digest,
}

/// What was not on the disk when the machine lost its power may be anything now, so nothing outlives a boot.
pub fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

impl Record {
    /// Its size and last use; none where there is none of this boot.
    pub(super) fn head(path: &Path) -> Option<Head> {
        let file = fs::File::open(path).ok()?;
        let used = file.metadata().ok()?.modified().ok()?;
        begin(&mut BufReader::new(file), used)
    }

    /// All that a build can see of it: not when files were changed, nor by what they are known.
    pub(super) fn state(&self) -> Digest {
        let mut hasher = Sha256::new();
        let mut contents = self.contents.iter();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for entry in &self.listing.entries {
            field(&entry.path);
            field(&entry.mode.to_le_bytes());
            match &entry.kind {
                Kind::Folder => field(b"folder"),
                Kind::Fifo => field(b"fifo"),
                Kind::Link(target) => {
                    field(b"link");
                    field(target);
                }
                Kind::File { .. } => {
                    field(b"file");
                    field(contents.next().map(|digest| &digest.bytes()[..]).unwrap_or_default());
                }
            }
        }
        Digest::from_hasher(hasher)
    }

    /// Reads it; none where there is none of this boot.
    pub(super) fn read(path: &Path) -> Option<Record> {
        let mut source = BufReader::with_capacity(256 << 10, fs::File::open(path).ok()?);
        begin(&mut source, SystemTime::UNIX_EPOCH)?;
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

    /// Writes it into a folder, under its name last; its state.
    pub(super) fn write(&self, folder: &Path) -> Result<Digest> {
        let failed = |error: io::Error| Failure::system("write down what is kept of a build context", error);
        let boot = boot().ok_or_else(|| failed(io::Error::other("the kernel tells no id of this boot")))?;
        let new = folder.join("record.new");
        let mut out = BufWriter::with_capacity(256 << 10, fs::File::create(&new).map_err(failed)?);
        let (size, state) = (self.listing.size(), self.state());
        let (listing, digest) = self.listing.encoded().map_err(failed)?;
        let digest = digest.map(|digest| digest.to_string()).unwrap_or_default();
        let written = write!(out, "{VERSION}\n{boot}\n{size}\n{digest}\n{state}\n")
            .and_then(|()| out.write_all(&listing))
            .and_then(|()| self.contents.iter().try_for_each(|digest| out.write_all(digest.bytes())))
            .and_then(|()| out.flush());
        written.map_err(failed)?;
        fs::rename(new, folder.join("record")).map_err(failed)?;
        Ok(state)
    }

    /// The digests by their paths.
    pub(super) fn digests(self) -> HashMap<Vec<u8>, Digest> {
        let files = self.listing.entries.into_iter().filter(|entry| matches!(entry.kind, Kind::File { .. }));
        files.map(|entry| entry.path).zip(self.contents).collect()
    }
}

/// Reads what stands before the listing.
fn begin(source: &mut impl BufRead, used: SystemTime) -> Option<Head> {
    let mut line = || {
        let mut line = String::new();
        source.by_ref().take(256).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    (line()? == VERSION && line()? == boot()?).then_some(())?;
    Some(Head {
        used,
        size: line()?.parse().ok()?,
        listing: line()?.parse().ok(),
        state: line()?.parse().ok()?,
    })
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
