//! Contexts that are kept, so that a client sends of its folder only what was changed since.
//!
//! A client asks by the digest of what is in its folder whether that is here already, which costs nothing where nothing was
//! changed. Else it tells what is in it ([`Listing`]), hears which files are not here as it has them, and sends those with
//! the build. A file is the one that was sent before when the file system says so (`Identity`); what it holds is known by
//! its digest, taken when it came. Each context is a folder of the builder's: `tree`, the files, and `record`, what they
//! are. The record is taken away before the tree is changed and put back last, and counts for this boot alone: a tree that
//! a kill or a power cut left half changed has none, and is begun anew. Builds that use a tree share it; one that would
//! change it meanwhile is told so, and its client sends all.

mod receive;
mod record;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use hull_engine::Kind as Fault;
use hull_image::Digest;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use self::record::Record;
pub use self::record::boot;
use crate::build::key_of;
use crate::caches::CacheFolder;
use crate::context::{Context, Folder};
use crate::failure::{Failure, Result};
use crate::listing::{Kind, Listing};

/// A folder with more in it is not kept.
const LARGEST: u64 = 8 << 30;

/// So many bytes are kept of all contexts.
const KEPT: u64 = 16 << 30;

/// So many clients of one socket may be about to send what they have told.
const PENDING: usize = 64;

/// So many copies of contexts are known again without looking at their files.
const COPIES: usize = 4096;

/// The contexts of a builder.
#[derive(Debug)]
pub struct Contexts {
    root: PathBuf,
    temporary: PathBuf,
    locks: Mutex<HashMap<String, Arc<RwLock<()>>>>,
    told: Mutex<VecDeque<Told>>,
    /// By what a copy of a context in one state is known, and its key by the contents of its files.
    copies: Mutex<HashMap<Digest, Digest>>,
}

/// What a client has told, and has not sent yet.
#[derive(Debug)]
struct Told {
    id: String,
    name: String,
    socket: Option<PathBuf>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The digest of its listing, which was the kept one's.
    Same(Digest),
    /// A listing, and the files that were asked for: indices of entries.
    Listing(Folder, Vec<usize>),
}

/// What a client is to send.
#[derive(Debug)]
pub struct Missing {
    /// By what it says which listing this was.
    pub id: String,
    /// The indices of entries, in their order.
    pub files: Vec<usize>,
}

/// What is known of the files of a kept context, as long as this is there.
#[derive(Debug)]
pub struct Known {
    record: PathBuf,
    state: Digest,
    /// Read from the record when the first is asked for.
    digests: OnceLock<HashMap<Vec<u8>, Digest>>,
    _guard: OwnedRwLockReadGuard<()>,
}

impl Known {
    /// The digest of a file's contents.
    pub fn digest(&self, path: &[u8]) -> Option<Digest> {
        let read = || Record::read(&self.record).unwrap_or_default().digests();
        self.digests.get_or_init(read).get(path).copied()
    }

    /// The digest of all that a build can see of the context.
    pub fn state(&self) -> Digest {
        self.state
    }
}

impl Contexts {
    /// Opens them; those of another boot, and what a daemon that was killed left half changed, go.
    ///
    /// # Errors
    /// A folder cannot be made or read.
    pub fn open(root: PathBuf, temporary: PathBuf) -> Result<Contexts> {
        let contexts = Contexts {
            root,
            temporary,
            locks: Mutex::default(),
            told: Mutex::default(),
            copies: Mutex::default(),
        };
        let trash = Folder::beneath(&contexts.temporary)?;
        for name in contexts.names()? {
            if Record::head(&contexts.record(&name)).is_none() {
                contexts.throw(&name, &trash)?;
            }
        }
        Ok(contexts)
    }

    /// Reads what is in a client's folder, which it calls `key`; what of it is to be sent. None where there is too much
    /// in it to be kept.
    ///
    /// # Errors
    /// The listing is malformed, or the disk is full.
    pub fn compare(
        &self,
        socket: Option<&Path>,
        key: &str,
        source: &mut dyn Read,
    ) -> Result<Option<Missing>> {
        let listing = Listing::read(&mut BufReader::new(source)).map_err(|error| {
            Failure::invalid(format!("what is in the build context is malformed: {error}"))
        })?;
        if listing.size() > LARGEST {
            return Ok(None);
        }
        let name = name_for(socket, key);
        let files = missing(&listing, &Record::read(&self.record(&name)).unwrap_or_default());
        let folder = Folder::beneath(&self.temporary)?;
        let failed = |error: std::io::Error| Failure::system("write down what is in a build context", error);
        let mut out = std::io::BufWriter::new(fs::File::create(told_in(&folder)).map_err(failed)?);
        listing.write(&mut out).and_then(|()| std::io::Write::flush(&mut out)).map_err(failed)?;
        let id = name_of(folder.path());
        let what = What::Listing(folder, files.clone());
        self.remember(Told { id: id.clone(), name, socket: socket.map(Path::to_owned), what });
        Ok(Some(Missing { id, files }))
    }

    /// Whether what is kept under `key` is what a client has there, by the digest of its listing; none where it is not.
    ///
    /// # Errors
    /// No name for it can be drawn.
    pub fn same(&self, socket: Option<&Path>, key: &str, listing: Digest) -> Result<Option<Missing>> {
        let name = name_for(socket, key);
        if Record::head(&self.record(&name)).and_then(|head| head.listing) != Some(listing) {
            return Ok(None);
        }
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| Failure::system("draw a random name", error))?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let what = What::Same(listing);
        self.remember(Told { id: id.clone(), name, socket: socket.map(Path::to_owned), what });
        Ok(Some(Missing { id, files: Vec::new() }))
    }

    /// Waits for who told something; who never came to send it is forgotten, by socket.
    fn remember(&self, told: Told) {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let of_socket = |other: &Told| other.socket == told.socket;
        let count = all.iter().filter(|other| of_socket(other)).count();
        let oldest = all.iter().position(of_socket).filter(|_| count >= PENDING);
        let forgotten = oldest.and_then(|at| all.remove(at));
        all.push_back(told);
        drop(all);
        drop(forgotten);
    }

    /// Takes the files that were asked for; the context with all of its files, for as long as it is held.
    ///
    /// # Errors
    /// Nothing of the kind was told (`NotFound`), somebody builds of another state of it (`Conflict`): then all is to be
    /// sent. What comes is malformed, or the disk is full.
    pub fn receive(&self, socket: Option<&Path>, id: &str, body: &mut dyn Read) -> Result<Context> {
        let told = {
            let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let at = all.iter().position(|told| told.id == id && told.socket.as_deref() == socket);
            at.and_then(|at| all.remove(at))
        };
        let gone =
            || Failure::new(Fault::NotFound, "what is in the build context was not told, or too long ago");
        let told = told.ok_or_else(gone)?;
        let busy = || Failure::new(Fault::Conflict, "another build uses what is kept of this build context");
        let lock = self.lock(&told.name);
        let (folder, files) = match &told.what {
            What::Same(listing) => {
                let guard = lock.try_read_owned().map_err(|_| busy())?;
                let head =
                    Record::head(&self.record(&told.name)).filter(|head| head.listing == Some(*listing));
                return self.context(&told.name, head.ok_or_else(busy)?.state, None, guard);
            }
            What::Listing(folder, files) => (folder, files),
        };
        let listing =
            fs::File::open(told_in(folder)).and_then(|file| Listing::read_own(&mut BufReader::new(file)));
        let listing = listing.map_err(|error| Failure::system("read what is in a build context", error))?;
        if let Ok(guard) = Arc::clone(&lock).try_read_owned()
            && let Some(record) = Record::read(&self.record(&told.name))
            && files.is_empty()
            && record.listing == listing
        {
            return self.context(&told.name, record.state(), Some(record), guard);
        }
        let guard = lock.try_write_owned().map_err(|_| busy())?;
        let before = Record::read(&self.record(&told.name));
        if missing(&listing, before.as_ref().unwrap_or(&Record::default())) != *files {
            return Err(busy());
        }
        let (record, state) = self.changed(&told.name, before, listing, files, body)?;
        self.context(&told.name, state, Some(record), guard.downgrade())
    }

    /// Changes a tree to what was told. One that could not be changed to its end is nobody's.
    fn changed(
        &self,
        name: &str,
        before: Option<Record>,
        listing: Listing,
        files: &[usize],
        body: &mut dyn Read,
    ) -> Result<(Record, Digest)> {
        let folder = self.root.join(name);
        let failed = |error: std::io::Error| {
            Failure::system(format_args!("make the folder {}", folder.display()), error)
        };
        let trash = Folder::beneath(&self.temporary)?;
        if before.is_none() {
            self.throw(name, &trash)?;
            fs::create_dir_all(folder.join("tree")).map_err(failed)?;
        } else {
            fs::remove_file(self.record(name)).map_err(failed)?;
        }
        let changed = receive::change(
            &folder.join("tree"),
            &before.unwrap_or_default(),
            listing,
            files,
            &mut BufReader::with_capacity(256 << 10, body),
        );
        match changed.and_then(|record| record.write(&folder).map(|state| (record, state))) {
            Ok(changed) => Ok(changed),
            Err(failure) => {
                self.throw(name, &trash)?;
                Err(failure)
            }
        }
    }

    fn context(
        &self,
        name: &str,
        state: Digest,
        record: Option<Record>,
        guard: OwnedRwLockReadGuard<()>,
    ) -> Result<Context> {
        // What was used longest ago goes first.
        let used = fs::File::open(self.record(name)).and_then(|file| file.set_modified(SystemTime::now()));
        used.map_err(|error| Failure::system("note the use of a build context", error))?;
        let digests = record.map_or_else(OnceLock::new, |record| record.digests().into());
        let known = Known { record: self.record(name), state, digests, _guard: guard };
        Context::kept(self.root.join(name).join("tree"), known)
    }

    /// The key of a copy that was looked at before, where it is known by `by`.
    pub(crate) fn copy_known(&self, by: &Digest) -> Option<Digest> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).get(by).copied()
    }

    /// Notes the key of a copy.
    pub(crate) fn note_copy(&self, by: Digest, key: Digest) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.len() >= COPIES {
            // They are looked at once more.
            copies.clear();
        }
        copies.insert(by, key);
    }

    /// Moves contexts that no build uses out of the way, until those that stay take no more than `most` bytes, those that
    /// were used longest ago first; what they are called.
    ///
    /// # Errors
    /// They cannot be read or moved.
    pub fn take(&self, most: u64, trash: &Folder) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for name in self.names()? {
            all.push((Record::head(&self.record(&name)), name));
        }
        all.sort_by_key(|(head, _)| head.map(|head| head.used));
        let mut left: u64 = all.iter().map(|(head, _)| head.map_or(0, |head| head.size)).sum();
        let mut taken = Vec::new();
        for (head, name) in all {
            if most > 0 && left <= most {
                break;
            }
            let Ok(_guard) = self.lock(&name).try_write_owned() else { continue };
            self.throw(&name, trash)?;
            left = left.saturating_sub(head.map_or(0, |head| head.size));
            taken.push(name);
        }
        Ok(taken)
    }

    /// Moves a context that no build uses out of the way; whether it could.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn take_one(&self, name: &str, trash: &Folder) -> Result<bool> {
        let lock = self.lock(name);
        let Ok(_guard) = lock.try_write_owned() else { return Ok(false) };
        self.throw(name, trash)?;
        Ok(true)
    }

    /// What is kept, as `builder df` tells it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn folders(&self) -> Result<Vec<CacheFolder>> {
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or_default()
        };
        let mut folders = Vec::new();
        for name in self.names()? {
            // One that is being changed, or goes at this very moment, is not told.
            let Some(head) = Record::head(&self.record(&name)) else { continue };
            let in_use = self.lock(&name).try_write().is_err();
            let made = fs::metadata(self.root.join(&name)).and_then(|metadata| metadata.created());
            folders.push(CacheFolder {
                name,
                kind: "source.local",
                description: "local source for context".to_owned(),
                in_use,
                size: head.size,
                // Where the file system does not say when it was made, it was no later than it was used.
                created: seconds(made.unwrap_or(head.used)),
                used: seconds(head.used),
            });
        }
        Ok(folders)
    }

    /// Removes what is more than is to be kept.
    ///
    /// # Errors
    /// It cannot be read or moved.
    pub fn collect(&self) -> Result<()> {
        let trash = Folder::beneath(&self.temporary)?;
        self.take(KEPT, &trash).map(drop)
    }

    fn throw(&self, name: &str, trash: &Folder) -> Result<()> {
        match fs::rename(self.root.join(name), trash.path().join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::system("remove what is kept of a build context", error))
            }
            _ => Ok(()),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |error: std::io::Error| Failure::system("read what is kept of build contexts", error);
        let entries = fs::read_dir(&self.root).map_err(failed)?.collect::<std::io::Result<Vec<_>>>();
        Ok(entries.map_err(failed)?.iter().map(|entry| name_of(&entry.path())).collect())
    }

    fn record(&self, name: &str) -> PathBuf {
        self.root.join(name).join("record")
    }

    fn lock(&self, name: &str) -> Arc<RwLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Guards and who waits have their own: what only the map has nobody uses.
        locks.retain(|other, lock| other == name || Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }
}

/// The files that are not there as the listing has them.
fn missing(listing: &Listing, record: &Record) -> Vec<usize> {
    let there: HashSet<(&[u8], &Kind)> = record
        .listing
        .entries
        .iter()
        .filter(|entry| matches!(entry.kind, Kind::File { identity: Some(_), .. }))
        .map(|entry| (&entry.path[..], &entry.kind))
        .collect();
    let is_missing = |entry: &crate::listing::Entry| {
        matches!(entry.kind, Kind::File { .. }) && !there.contains(&(&entry.path[..], &entry.kind))
    };
    (0..listing.entries.len()).filter(|index| is_missing(&listing.entries[*index])).collect()
}

/// The name of what is kept for who came by a socket and calls it `key`.
fn name_for(socket: Option<&Path>, key: &str) -> String {
    key_of("context", socket).with(key).finish().hex()
}

fn told_in(folder: &Folder) -> PathBuf {
    folder.path().join("listing")
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
