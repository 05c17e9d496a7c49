//! A folder is told before it is sent: the daemon answers which of its files it does not have as they are.

use std::fs::{self, Metadata};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hull_api::ignore::{Ignore, State};
use hull_api::listing::{Entry, Identity, Kind, Listing, put_number};
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::client::{Body, Query, full};
use crate::commands::shared::progress::Transfer;
use crate::context::Context;
use crate::error::Error;

use super::pack::{Channel, Exactly, PIECE, opened, written};

/// A folder with less in it is sent whole: telling it first would cost more.
const FEW: usize = 256;
const LITTLE: u64 = 1 << 20;

/// A file that was changed less than this before it was looked at may be changed again without its time telling: clocks
/// of file systems tick, some of them only every other second.
const TICK: i64 = 2;

/// File systems of this machine's kernel alone, whose times are this machine's: ext, xfs, btrfs, tmpfs, overlay, zfs, f2fs,
/// bcachefs. On others a file may be changed from elsewhere, by another clock.
const LOCAL: [i64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e];

/// A folder that was told.
pub(super) struct Told {
    /// By what the daemon knows that it was.
    pub(super) id: String,
    folder: PathBuf,
    /// The files to send: their number in the listing, and their path.
    files: Vec<(usize, Vec<u8>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    id: String,
    missing: Vec<usize>,
}

/// Tells a folder, if that is worth it and can be done.
pub(super) async fn tell(
    context: &Context,
    folder: &Path,
    ignore: &Ignore,
    dockerfile: Option<&str>,
) -> Result<Option<Told>, Error> {
    let wrong = |error: io::Error| Error::new(format!("read the build context: {error}"));
    let Some(listing) = listed(folder, ignore).map_err(wrong)? else { return Ok(None) };
    if listing.entries.len() < FEW && listing.size() < LITTLE {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    listing.write(&mut bytes).map_err(wrong)?;
    let query = Query::new("/build/context").with("key", key(folder, dockerfile).map_err(wrong)?);
    let answer = context.client.request(Method::POST, &query, &[], full(bytes)).await;
    let answer: Option<Answer> = match answer {
        Ok(response) => response.json().await?,
        // A daemon that keeps nothing, or a socket that lets nobody build, which the build itself is told.
        Err(error) if error.http_status().is_some() => None,
        Err(error) => return Err(error),
    };
    let Some(Answer { id, missing }) = answer else { return Ok(None) };
    let mut entries: Vec<Option<Vec<u8>>> =
        listing.entries.into_iter().map(|entry| Some(entry.path)).collect();
    let mut files = Vec::with_capacity(missing.len());
    for index in missing {
        let path = entries.get_mut(index).and_then(Option::take);
        let path = path.ok_or_else(|| Error::new("the daemon asks for a file that was not told"))?;
        files.push((index, path));
    }
    Ok(Some(Told { id, folder: folder.to_owned(), files }))
}

impl Told {
    /// The body: what stands before the files in one line, then those that are missing.
    pub(super) fn body(self, preface: &Value) -> (Body, Transfer) {
        written(preface, move |out| self.write(out))
    }

    fn write(self, out: &mut Channel) -> io::Result<()> {
        for (index, path) in self.files {
            let path = self.folder.join(std::ffi::OsString::from_vec(path));
            let in_path =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            let (file, left) = opened(&path).map_err(in_path)?;
            put_number(out, index as u64)?;
            put_number(out, left)?;
            // Small files are read at once, large ones in the pieces that are sent.
            let piece = usize::try_from(left).unwrap_or(PIECE).clamp(1, PIECE);
            let mut file = io::BufReader::with_capacity(piece, Exactly { file, left });
            io::copy(&mut file, out).map_err(in_path)?;
        }
        out.flush()
    }
}

/// By what the daemon knows the folder again: the machine, where it is there, and whose patterns were applied.
fn key(folder: &Path, dockerfile: Option<&str>) -> io::Result<String> {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let (place, meta) = (folder.canonicalize()?, fs::metadata(folder)?);
    Ok(format!(
        "{}:{}:{}:{}:{}",
        machine.trim(),
        meta.dev(),
        meta.ino(),
        dockerfile.unwrap_or_default(),
        place.display()
    ))
}

/// All that belongs to the build; none where the file system's word for what was changed is not this machine's.
fn listed(folder: &Path, ignore: &Ignore) -> io::Result<Option<Listing>> {
    let kind = rustix::fs::statfs(folder)?.f_type;
    if !LOCAL.contains(&(kind as i64 & 0xffff_ffff)) {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut walk = Walk {
        ignore,
        device: fs::metadata(folder)?.dev(),
        before: i64::try_from(now).unwrap_or(0) - TICK,
        listing: Listing::default(),
        above: Vec::new(),
    };
    let state = ignore.root();
    walk.folder(folder, Path::new(""), &state)?;
    Ok(Some(walk.listing))
}

struct Walk<'a> {
    ignore: &'a Ignore,
    /// The folder's file system: nothing is known of others that are mounted in it.
    device: u64,
    /// What was changed at this second or later may be changed again without telling.
    before: i64,
    listing: Listing,
    /// Folders that are left out, of which something beneath may not be: told when that is.
    above: Vec<Entry>,
}

impl Walk<'_> {
    fn folder(&mut self, path: &Path, name: &Path, state: &State) -> io::Result<()> {
        let in_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let entries = fs::read_dir(path).map_err(in_path)?.collect::<io::Result<Vec<_>>>();
        let mut entries = entries.map_err(in_path)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = name.join(entry.file_name());
            let state = self.ignore.enter(state, name.as_os_str().as_bytes());
            self.entry(&entry, &name, &state)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &fs::DirEntry, name: &Path, state: &State) -> io::Result<()> {
        let path = entry.path();
        let in_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let bytes = name.as_os_str().as_bytes();
        if state.is_excluded() {
            // A folder that is left out is entered only for what may not be.
            if self.ignore.may_include_beneath(bytes)
                && let Ok(meta) = entry.metadata()
                && meta.is_dir()
            {
                self.above.push(told(bytes, &meta, Kind::Folder));
                self.folder(&path, name, state)?;
                // Told with what is in it, or not at all.
                self.above.pop();
            }
            return Ok(());
        }
        let meta = entry.metadata().map_err(in_path)?;
        let kind = meta.file_type();
        let kind = if kind.is_dir() {
            Kind::Folder
        } else if kind.is_symlink() {
            Kind::Link(fs::read_link(&path).map_err(in_path)?.into_os_string().into_vec())
        } else if kind.is_file() {
            Kind::File { size: meta.len(), identity: self.identity(&meta) }
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            // Sockets and devices are this machine's.
            return Ok(());
        };
        self.listing.entries.append(&mut self.above);
        let is_folder = kind == Kind::Folder;
        self.listing.entries.push(told(bytes, &meta, kind));
        if is_folder { self.folder(&path, name, state) } else { Ok(()) }
    }

    fn identity(&self, meta: &Metadata) -> Option<Identity> {
        let settled = meta.ctime() < self.before && meta.dev() == self.device;
        let nanoseconds = u32::try_from(meta.ctime_nsec()).ok()?;
        settled.then(|| Identity {
            device: meta.dev(),
            inode: meta.ino(),
            changed: (meta.ctime(), nanoseconds),
        })
    }
}

fn told(path: &[u8], meta: &Metadata, kind: Kind) -> Entry {
    Entry { path: path.to_vec(), kind, mode: meta.mode() & 0o7777, modified: meta.mtime() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(folder: &Path, patterns: &str) -> Vec<String> {
        let listing = listed(folder, &Ignore::parse(patterns).unwrap()).unwrap().unwrap();
        let mut bytes = Vec::new();
        listing.write(&mut bytes).unwrap();
        // What is told is what the daemon takes.
        let listing = Listing::read(&mut &bytes[..]).unwrap();
        listing.entries.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
    }

    #[test]
    fn what_is_left_out_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in ["a/b/c", "a/empty", "out/in"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["a/b/c/keep", "a/b/drop", "out/in/f", "z"] {
            fs::write(root.join(path), "x").unwrap();
        }
        assert_eq!(paths(root, "out\n**/drop\n"), ["a", "a/b", "a/b/c", "a/b/c/keep", "a/empty", "z"]);
        // Folders on the way to what is wanted are told, and once.
        assert_eq!(paths(root, "*\n!a/b/c/keep\n!z\n"), ["a", "a/b", "a/b/c", "a/b/c/keep", "z"]);
    }

    #[test]
    fn what_was_changed_just_now_may_be_changed_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f"), "x").unwrap();
        let meta = fs::metadata(folder.path().join("f")).unwrap();
        let ignore = Ignore::default();
        let walk = |before, device| Walk {
            ignore: &ignore,
            device,
            before,
            listing: Listing::default(),
            above: Vec::new(),
        };
        assert!(walk(meta.ctime(), meta.dev()).identity(&meta).is_none());
        assert!(walk(meta.ctime() + 1, meta.dev()).identity(&meta).is_some());
        assert!(walk(meta.ctime() + 1, meta.dev() + 1).identity(&meta).is_none());
        let listing = listed(folder.path(), &ignore).unwrap().unwrap();
        assert_eq!(listing.entries[0].kind, Kind::File { size: 1, identity: None });
    }
}
