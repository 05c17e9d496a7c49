//! What is in a folder, as a client tells it before it sends any of it: every entry, and by what a file is known to be
//! the one that was sent before.
//!
//! A listing is bytes: a line that says its version, then the entries one after the other, numbers in LEB128. Whoever
//! reads one trusts nothing in it ([`Listing::read`]).

use std::collections::HashSet;
use std::io::{self, Read, Write};

use hull_image::Digest;
pub use hull_image::{get_number, put_number};

/// The first line. Changes with the format.
const VERSION: &[u8] = b"hull.context.1\n";

/// The longest path and the longest target of a link, in bytes.
const LONGEST: u64 = 4096;

/// So many entries are no folder of somebody's sources any more.
const MOST: usize = 4_000_000;

/// Folders within each other.
const DEPTH: usize = 400;

/// By what a file is known: this changes whenever the file does, for the kernel gives a file that was changed the time of
/// that, and nobody sets that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The file system.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
    /// When contents or anything else were last changed (`st_ctime`): seconds and nanoseconds.
    pub changed: (i64, u32),
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file of so many bytes. Without an identity it is sent anew each time: it was changed so shortly before it was
    /// looked at that it may be changed once more without its time telling.
    File {
        /// Its bytes.
        size: u64,
        /// By what it is known.
        identity: Option<Identity>,
    },
    /// A symbolic link, and where it leads.
    Link(Vec<u8>),
    /// A fifo.
    Fifo,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path beneath the folder: names with slashes between them.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its permissions.
    pub mode: u32,
    /// When its contents were last changed, in seconds since 1970.
    pub modified: i64,
}

/// All entries of a folder; each behind the folder that it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Listing {
    /// The bytes of all files.
    pub fn size(&self) -> u64 {
        let sizes = self.entries.iter().map(|entry| match entry.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// Writes it.
    ///
    /// # Errors
    /// Who takes it does not.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(VERSION)?;
        put_number(out, self.entries.len() as u64)?;
        for entry in &self.entries {
            put_bytes(out, &entry.path)?;
            put_number(out, u64::from(entry.mode))?;
            out.write_all(&entry.modified.to_le_bytes())?;
            match &entry.kind {
                Kind::Folder => out.write_all(b"d")?,
                Kind::Fifo => out.write_all(b"p")?,
                Kind::Link(target) => {
                    out.write_all(b"l")?;
                    put_bytes(out, target)?;
                }
                Kind::File { size, identity: None } => {
                    out.write_all(b"n")?;
                    put_number(out, *size)?;
                }
                Kind::File { size, identity: Some(identity) } => {
                    out.write_all(b"f")?;
                    put_number(out, *size)?;
                    put_number(out, identity.device)?;
                    put_number(out, identity.inode)?;
                    out.write_all(&identity.changed.0.to_le_bytes())?;
                    put_number(out, u64::from(identity.changed.1))?;
                }
            }
        }
        Ok(())
    }

    /// Its bytes, and their digest; no digest where it does not say of every file by what that is known: then the same listing
    /// may come of other files.
    ///
    /// # Errors
    /// Those of [`Listing::write`]: none that memory makes.
    pub fn encoded(&self) -> io::Result<(Vec<u8>, Option<Digest>)> {
        let mut bytes = Vec::with_capacity(64 * self.entries.len() + VERSION.len());
        self.write(&mut bytes)?;
        let known = |entry: &Entry| !matches!(entry.kind, Kind::File { identity: None, .. });
        let digest = self.entries.iter().all(known).then(|| Digest::of(&bytes));
        Ok((bytes, digest))
    }

    /// Reads one, whoever wrote it.
    ///
    /// # Errors
    /// It is malformed: of another version, cut off, too long, or a path in it leads out, is there twice, or is in no
    /// folder.
    pub fn read(source: &mut dyn Read) -> io::Result<Listing> {
        let listing = Listing::read_own(source)?;
        listing.check()?;
        Ok(listing)
    }

    /// Reads one that was read and written here before.
    pub(crate) fn read_own(source: &mut dyn Read) -> io::Result<Listing> {
        let mut version = [0; VERSION.len()];
        source.read_exact(&mut version)?;
        if version != VERSION {
            return Err(malformed("it is of another version"));
        }
        let count = usize::try_from(get_number(source)?).unwrap_or(usize::MAX);
        if count > MOST {
            return Err(malformed("it has too many entries"));
        }
        let mut entries = Vec::with_capacity(count.min(1 << 16));
        for _ in 0..count {
            entries.push(get_entry(source)?);
        }
        Ok(Listing { entries })
    }

    /// Every entry is in the folder, and in one that stands before it; none is there twice.
    fn check(&self) -> io::Result<()> {
        let mut folders: HashSet<&[u8]> = HashSet::from([&b""[..]]);
        let mut all: HashSet<&[u8]> = HashSet::new();
        for entry in &self.entries {
            let path = &entry.path[..];
            let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
            if !path.split(|byte| *byte == b'/').all(plain) {
                return Err(malformed(format!("{:?} is no path in a folder", text(path))));
            }
            if path.iter().filter(|byte| **byte == b'/').count() >= DEPTH {
                return Err(malformed(format!("folders are nested deeper than {DEPTH}")));
            }
            let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
            if !folders.contains(parent) {
                return Err(malformed(format!("{:?} is in no folder of it", text(path))));
            }
            if !all.insert(path) {
                return Err(malformed(format!("{:?} is in it twice", text(path))));
            }
            if entry.kind == Kind::Folder {
                folders.insert(path);
            }
        }
        Ok(())
    }
}

fn get_entry(source: &mut dyn Read) -> io::Result<Entry> {
    let path = get_bytes(source)?;
    let mode = u32::try_from(get_number(source)?).unwrap_or(0) & 0o7777;
    let modified = get_signed(source)?;
    let mut tag = [0];
    source.read_exact(&mut tag)?;
    let kind = match tag[0] {
        b'd' => Kind::Folder,
        b'p' => Kind::Fifo,
        b'l' => Kind::Link(get_bytes(source)?),
        b'n' => Kind::File { size: get_number(source)?, identity: None },
        b'f' => {
            let size = get_number(source)?;
            let (device, inode) = (get_number(source)?, get_number(source)?);
            let changed = (get_signed(source)?, u32::try_from(get_number(source)?).unwrap_or(u32::MAX));
            Kind::File { size, identity: Some(Identity { device, inode, changed }) }
        }
        _ => return Err(malformed("an entry is of no known kind")),
    };
    if matches!(&kind, Kind::Link(target) if target.is_empty() || target.contains(&0)) {
        return Err(malformed("a link leads nowhere"));
    }
    Ok(Entry { path, kind, mode, modified })
}

fn malformed(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn get_signed(source: &mut dyn Read) -> io::Result<i64> {
    let mut bytes = [0; 8];
    source.read_exact(&mut bytes)?;
    Ok(i64::from_le_bytes(bytes))
}

fn put_bytes(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    put_number(out, bytes.len() as u64)?;
    out.write_all(bytes)
}

fn get_bytes(source: &mut dyn Read) -> io::Result<Vec<u8>> {
    let length = get_number(source)?;
    if length > LONGEST {
        return Err(malformed("a path in it is too long"));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: path.into(), kind, mode: 0o644, modified: -1 }
    }

    fn file() -> Kind {
        let identity = Identity { device: 1, inode: u64::MAX, changed: (-5, 999_999_999) };
        Kind::File { size: 1 << 40, identity: Some(identity) }
    }

    fn again(entries: Vec<Entry>) -> io::Result<Listing> {
        let mut bytes = Vec::new();
        Listing { entries }.write(&mut bytes).unwrap();
        Listing::read(&mut &bytes[..])
    }

    #[test]
    fn what_is_written_is_read() {
        let entries = vec![
            entry("d", Kind::Folder),
            entry("d/f", file()),
            entry("d/new", Kind::File { size: 0, identity: None }),
            entry("l", Kind::Link(b"/etc/\xff".to_vec())),
            entry("p", Kind::Fifo),
        ];
        assert_eq!(again(entries.clone()).unwrap().entries, entries);
        assert_eq!(Listing { entries }.size(), 1 << 40);
    }

    #[test]
    fn no_path_leads_out_or_is_there_twice() {
        for path in ["", "/a", "..", "a/../b", "./a", "a//b", "a/", "nowhere/f", "a\0b"] {
            assert!(again(vec![entry("a", Kind::Folder), entry(path, file())]).is_err(), "{path:?}");
        }
        assert!(again(vec![entry("a", file()), entry("a", file())]).is_err());
        // Beneath a link, which would lead out.
        assert!(again(vec![entry("l", Kind::Link(b"/".to_vec())), entry("l/etc", file())]).is_err());
        assert!(again(vec![entry("l", Kind::Link(Vec::new()))]).is_err());
        assert!(again(vec![entry(&"a".repeat(5000), file())]).is_err());
    }

    #[test]
    fn what_is_cut_off_or_garbled_is_refused() {
        let mut bytes = Vec::new();
        let entries = vec![entry("d", Kind::Folder), entry("d/f", file())];
        Listing { entries }.write(&mut bytes).unwrap();
        for length in 0..bytes.len() {
            assert!(Listing::read(&mut &bytes[..length]).is_err(), "{length}");
        }
        // A count that nothing is behind takes no memory.
        let mut many = VERSION.to_vec();
        put_number(&mut many, 3_000_000).unwrap();
        assert!(Listing::read(&mut &many[..]).is_err());
    }
}
