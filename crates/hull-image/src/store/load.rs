//! Taking in the images of an archive: Docker's (new and old) or an OCI layout.
//!
//! The archive is read once, as a stream. What is small is kept in memory; what is large is put into unnamed files,
//! and what looks like a layer is unpacked from there by workers while the archive is still being read. Only then
//! is it known what belongs to which image.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::import::Unpacked;
use super::kept::Kept;
use super::steps::Draft;
use super::{Loaded, Platform, Progress, Report, Store};
use crate::layer::extract::clean;
use crate::layer::stream::Compression;
use crate::reference::Reference;
use crate::tar::{Kind, Reader};
use crate::{Digest, Error, ImageId, Result};

/// Up to this size a member is kept in memory: configurations, manifests, tiny layers.
const SMALL: u64 = 64 * 1024;
/// All small members together.
const SMALL_IN_ALL: u64 = 64 << 20;
/// A configuration, manifest or index may not be larger.
pub(super) const JSON_LIMIT: u64 = 8 << 20;
/// An archive may not have more members.
const MEMBERS: usize = 200_000;

/// A member of the archive.
enum Member {
    Bytes(Vec<u8>),
    /// A large one, in an unnamed file.
    File {
        file: Arc<File>,
        size: u64,
    },
    /// A layer that was unpacked from the stream; its bytes are gone.
    Unpacked,
    /// The name of another, absolute within the archive.
    Link(Vec<u8>),
    /// A folder, a device: nothing that could be read.
    Other,
}

/// The members by their cleaned names.
pub(super) struct Members {
    members: BTreeMap<Vec<u8>, Member>,
    /// The archive has its end-of-archive marker.
    ended: bool,
}

/// Where a layer's bytes are.
#[derive(Clone)]
pub(super) enum Blob {
    /// Unpacked already.
    Gone,
    Bytes(Arc<Vec<u8>>),
    File(Arc<File>),
}

impl Members {
    pub(super) fn has(&self, path: &str) -> bool {
        self.members.contains_key(path.as_bytes())
    }

    /// A member's final name and what it is, links followed: of the member itself and of the folders on the way.
    fn find(&self, path: &str) -> Result<(&[u8], &Member)> {
        let mut name = clean(path.as_bytes())?;
        for _ in 0..16 {
            match self.members.get_key_value(&name) {
                Some((_, Member::Link(target))) => name.clone_from(target),
                Some((name, member)) => return Ok((name, member)),
                None => match self.through_link(&name) {
                    Some(led) => name = led,
                    None => return Err(Error::invalid(format!("invalid archive: {path:?} is missing"))),
                },
            }
        }
        Err(Error::invalid(format!("invalid archive: {path:?} is a link in a circle")))
    }

    /// Where a name leads of which a folder is a link.
    fn through_link(&self, name: &[u8]) -> Option<Vec<u8>> {
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        slashes.into_iter().find_map(|slash| match self.members.get(&name[..slash]) {
            Some(Member::Link(target)) if target.is_empty() => Some(name[slash + 1..].to_vec()),
            Some(Member::Link(target)) => Some([target, &name[slash..]].concat()),
            _ => None,
        })
    }

    /// The contents of a configuration, manifest or index.
    pub(super) fn json(&self, path: &str) -> Result<Vec<u8>> {
        match self.find(path)?.1 {
            Member::Bytes(bytes) => Ok(bytes.clone()),
            Member::File { size, .. } if *size > JSON_LIMIT => Err(Error::invalid(format!(
                "invalid archive: {path:?} is of {size} bytes: {JSON_LIMIT} are allowed"
            ))),
            Member::File { file, size } => {
                let mut bytes = Vec::with_capacity(*size as usize);
                Positioned { file, position: 0 }.read_to_end(&mut bytes).map_err(spool)?;
                Ok(bytes)
            }
            _ => Err(Error::invalid(format!("invalid archive: {path:?} is no file"))),
        }
    }

    /// A layer: the name that tells it apart, and its bytes.
    pub(super) fn blob(&self, path: &str) -> Result<(Vec<u8>, Blob)> {
        match self.find(path)? {
            (name, Member::Bytes(bytes)) => Ok((name.to_vec(), Blob::Bytes(Arc::new(bytes.clone())))),
            (name, Member::File { file, .. }) => Ok((name.to_vec(), Blob::File(Arc::clone(file)))),
            (name, Member::Unpacked) => Ok((name.to_vec(), Blob::Gone)),
            _ => Err(Error::invalid(format!("invalid archive: {path:?} is no file"))),
        }
    }
}

impl Members {
    /// What is wrong with an archive that lacks something: some writers leave the end out, and what is described is compared
    /// with its digests anyway; yet where not all is there, that is why.
    fn cut_off(&self, error: Error) -> Error {
        match self.ended {
            true => error,
            false => Error::invalid(format!(
                "invalid tar archive: it is truncated (it has no end-of-archive marker): {}",
                error.message
            )),
        }
    }
}

/// Reads a file from its beginning, whoever else reads it.
struct Positioned<'a> {
    file: &'a File,
    position: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// Reads the contents of the current member.
struct Contents<'a, R> {
    reader: &'a mut Reader<R, ()>,
}

impl<R: BufRead> Read for Contents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let piece = self.reader.data()?;
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        self.reader.consume(count);
        Ok(count)
    }
}

/// An image that the archive describes.
pub(super) struct Described {
    pub(super) config: Vec<u8>,
    /// The layers' names in the archive, lowest first, each with the digest that a manifest gives it.
    pub(super) layers: Vec<(String, Option<Digest>)>,
    pub(super) names: Vec<crate::reference::Reference>,
    pub(super) parent: Option<ImageId>,
}

/// A layer that workers unpack, or have unpacked.
enum Work<'a> {
    Waiting(Blob, u64),
    Running,
    Done(Result<Unpacked<'a>>),
}

/// Layers as they were unpacked, by their names in the archive.
type Layers<'a> = HashMap<Vec<u8>, Result<Unpacked<'a>>>;

/// An archive that was read: what is in it, the images that it describes, and their layers.
struct Opened<'a> {
    members: Members,
    images: Vec<Described>,
    unpacked: Layers<'a>,
    /// The layers that were here already, which stay as long.
    _held: Vec<Kept<&'a Store>>,
}

/// The work, shared by those who bring it and those who do it.
struct Yard<'a> {
    store: &'a Store,
    report: Report<'a>,
    work: Mutex<(HashMap<Vec<u8>, Work<'a>>, bool)>,
    changed: Condvar,
}

impl<'a> Yard<'a> {
    fn lock(&self) -> MutexGuard<'_, (HashMap<Vec<u8>, Work<'a>>, bool)> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, name: &[u8], blob: Blob, size: u64) {
        self.lock().0.entry(name.to_vec()).or_insert(Work::Waiting(blob, size));
        self.changed.notify_one();
    }

    /// What was done by the one who reads.
    fn done(&self, name: &[u8], done: Result<Unpacked<'a>>) {
        self.lock().0.insert(name.to_vec(), Work::Done(done));
    }

    /// Does what is offered until no more is to come.
    fn labour(&self) {
        let mut work = self.lock();
        loop {
            let next = work.0.iter_mut().find_map(|(name, work)| match work {
                Work::Waiting(blob, size) => {
                    let (blob, size) = (blob.clone(), *size);
                    *work = Work::Running;
                    Some((name.clone(), blob, size))
                }
                _ => None,
            });
            let Some((name, blob, size)) = next else {
                if work.1 {
                    return;
                }
                work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(work);
            let done = self.store.unpack_blob(&name, &blob, size, self.report);
            work = self.lock();
            work.0.insert(name, Work::Done(done));
            self.changed.notify_all();
        }
    }

    /// Nothing more is offered: the workers end when all is done.
    fn close(&self) {
        self.lock().1 = true;
        self.changed.notify_all();
    }
}

impl Store {
    /// Takes in the images of an archive: Docker's (new and old) or an OCI layout, plain or compressed. Where an OCI
    /// index holds several platforms, `platform` chooses; this machine's where it is not said.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        platform: Option<&Platform>,
        progress: Report<'_>,
    ) -> Result<Vec<Loaded>> {
        let platforms = platform.map(std::slice::from_ref).unwrap_or_default();
        let Opened { members, images, mut unpacked, _held } = self.unpacked(archive, platforms, progress)?;
        let mut loaded = Vec::new();
        for image in images {
            loaded.extend(self.enter_described(&members, image, &mut unpacked)?);
        }
        Ok(loaded)
    }

    /// The same, but for whoever asks alone: no image is entered, and nothing gets a name. Of an index the images for these
    /// platforms; none: for this machine's.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn load_drafts(
        self: &Arc<Self>,
        archive: &mut dyn Read,
        platforms: &[Platform],
    ) -> Result<Vec<Draft>> {
        let Opened { members, images, mut unpacked, _held } = self.unpacked(archive, platforms, &|_| {})?;
        let draft = |image: Described| {
            let layers = self.new_layers(&members, &image, &mut unpacked)?;
            self.enter_as_draft(&image.config, layers)
        };
        images.into_iter().map(draft).collect()
    }

    /// Reads an archive.
    fn unpacked<'a>(
        &'a self,
        archive: &mut dyn Read,
        platforms: &[Platform],
        progress: Report<'a>,
    ) -> Result<Opened<'a>> {
        let mut held = Vec::new();
        let yard = Yard { store: self, report: progress, work: Mutex::default(), changed: Condvar::new() };
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(8);
        let described = std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| yard.labour());
            }
            let described = self.read_members(archive, &yard).and_then(|members| {
                let images = super::manifest::described(&members, platforms)
                    .map_err(|error| members.cut_off(error))?;
                held.extend(images.iter().map(|image| self.hold_layers_of(image)));
                // What did not look like a layer, or is known under another chain, is wanted after all.
                for (name, _) in images.iter().flat_map(|image| self.missing_layers(image)) {
                    let (name, blob) = members.blob(&name).map_err(|error| members.cut_off(error))?;
                    yard.offer(&name, blob, 0);
                }
                Ok((members, images))
            });
            if described.is_err() {
                yard.lock().0.retain(|_, work| !matches!(work, Work::Waiting(..)));
            }
            yard.close();
            described
        });
        let (members, images) = described?;
        let mut unpacked = HashMap::new();
        for (name, work) in yard.work.into_inner().unwrap_or_else(PoisonError::into_inner).0 {
            if let Work::Done(done) = work {
                unpacked.insert(name, done);
            }
        }
        Ok(Opened { members, images, unpacked, _held: held })
    }

    /// Keeps those layers of an image that are here already, for whoever removes another image of theirs meanwhile.
    fn hold_layers_of(&self, image: &Described) -> Kept<&Store> {
        self.hold_chain(super::manifest::diff_ids(&image.config).unwrap_or_default())
    }

    /// The layers of an image that are not in the store.
    fn missing_layers<'a>(
        &self,
        image: &'a Described,
    ) -> impl Iterator<Item = (String, Option<Digest>)> + 'a {
        let diff_ids = super::manifest::diff_ids(&image.config).unwrap_or_default();
        let known = self.state().known_depth(&diff_ids);
        image.layers.iter().skip(known).cloned()
    }

    fn enter_described(
        &self,
        members: &Members,
        image: Described,
        unpacked: &mut Layers<'_>,
    ) -> Result<Vec<Loaded>> {
        let layers = self.new_layers(members, &image, unpacked)?;
        let id = Digest::of(&image.config);
        let parent = image.parent.filter(|parent| self.image(parent).is_ok());
        let mut loaded = self.renamed(&image.names, &id);
        self.enter(&image.config, layers, parent, &image.names)?;
        match image.names.is_empty() {
            true => loaded.push(Loaded::Id(id)),
            false => loaded.extend(image.names.iter().map(|name| Loaded::Reference(name.familiar()))),
        }
        Ok(loaded)
    }

    /// Those layers of an image that are not in the store, compared with what is said of them.
    fn new_layers<'a>(
        &self,
        members: &Members,
        image: &Described,
        unpacked: &mut Layers<'a>,
    ) -> Result<Vec<Unpacked<'a>>> {
        let diff_ids = super::manifest::diff_ids(&image.config)?;
        let known = self.state().known_depth(&diff_ids);
        let mut layers = Vec::new();
        for ((path, stated), diff_id) in image.layers.iter().zip(&diff_ids).skip(known) {
            let name = members.blob(path)?.0;
            // A layer that comes twice was taken the first time: `enter` makes another of it.
            let Some(done) = unpacked.remove(&name) else { continue };
            let layer = done?;
            if layer.passed.diff_id != *diff_id {
                return Err(Error::invalid(format!(
                    "invalid archive: the layer {path} is {}, and the configuration says {diff_id}",
                    layer.passed.diff_id
                )));
            }
            if stated.is_some_and(|stated| stated != layer.passed.blob) {
                return Err(Error::invalid(format!(
                    "invalid archive: the layer {path} does not have the digest that its manifest gives it"
                )));
            }
            layers.push(layer);
        }
        Ok(layers)
    }

    /// Those of the names that name another image now.
    fn renamed(&self, names: &[Reference], id: &ImageId) -> Vec<Loaded> {
        let state = self.state();
        let former = |name: &Reference| {
            let former = state.names.get(&super::images::key(name)).filter(|former| *former != id)?;
            Some(Loaded::Renamed(name.familiar(), *former))
        };
        names.iter().filter_map(former).collect()
    }

    fn unpack_blob(&self, name: &[u8], blob: &Blob, size: u64, report: Report<'_>) -> Result<Unpacked<'_>> {
        match blob {
            Blob::Bytes(bytes) => self.unpack_member(name, &mut &bytes[..], size, report),
            Blob::File(file) => self.unpack_member(name, &mut Positioned { file, position: 0 }, size, report),
            Blob::Gone => {
                let name = String::from_utf8_lossy(name);
                Err(Error::not_found(format!("layer {name:?} was removed meanwhile: load the archive again")))
            }
        }
    }

    fn unpack_member(
        &self,
        name: &[u8],
        source: &mut dyn Read,
        size: u64,
        report: Report<'_>,
    ) -> Result<Unpacked<'_>> {
        let text = String::from_utf8_lossy(name);
        let id = text.rsplit('/').find(|part| part.len() >= 12 && *part != "layer.tar").unwrap_or(&text);
        let id: String = id.chars().take(12).collect();
        self.unpack(source, false, &|current| {
            report(Progress { id: id.clone(), status: "Loading layer", current, total: size });
        })
    }

    /// Reads the whole archive.
    fn read_members<'a>(&'a self, archive: &mut dyn Read, yard: &Yard<'a>) -> Result<Members> {
        let mut source = BufReader::with_capacity(256 * 1024, archive);
        let start = source.fill_buf().map_err(|error| Error::system("read the archive", error))?;
        let compression = Compression::sniff(start)?;
        if compression == Compression::None {
            return self.read_tar(source, yard);
        }
        let decoded = compression.decoder(source).map_err(Error::archive)?;
        self.read_tar(BufReader::with_capacity(256 * 1024, decoded), yard)
    }

    fn read_tar<'a>(&'a self, source: impl BufRead, yard: &Yard<'a>) -> Result<Members> {
        let mut reader = Reader::new(source, ());
        let mut members = BTreeMap::new();
        let mut small = 0;
        while let Some(entry) = reader.next().map_err(Error::archive)? {
            let name = clean(&entry.path)?;
            if members.len() >= MEMBERS {
                return Err(Error::invalid(format!("invalid archive: it has more than {MEMBERS} members")));
            }
            let member = match entry.kind {
                Kind::File if entry.sparse.is_some() => {
                    return Err(Error::invalid(
                        "invalid archive: a member of an image's archive is a sparse file",
                    ));
                }
                Kind::File if entry.size <= SMALL && small < SMALL_IN_ALL => {
                    small += entry.size;
                    let mut bytes = Vec::with_capacity(entry.size as usize);
                    drain(&mut reader, |piece| bytes.write_all(piece))?;
                    Member::Bytes(bytes)
                }
                Kind::File if self.is_plain_layer(&mut reader, &name)? => {
                    let mut source = Contents { reader: &mut reader };
                    let done = self.unpack_member(&name, &mut source, entry.size, yard.report);
                    yard.done(&name, done);
                    // Where it failed, the rest is passed over.
                    drain(&mut reader, |_| Ok(()))?;
                    Member::Unpacked
                }
                Kind::File => {
                    let file = self.spool()?;
                    let mut start = [0; 264];
                    let mut have = 0;
                    drain(&mut reader, |piece| {
                        let count = piece.len().min(start.len() - have);
                        start[have..have + count].copy_from_slice(&piece[..count]);
                        have += count;
                        (&file).write_all(piece)
                    })?;
                    let file = Arc::new(file);
                    if looks_like_layer(&start) && !self.knows_blob(&name) {
                        yard.offer(&name, Blob::File(Arc::clone(&file)), entry.size);
                    }
                    Member::File { file, size: entry.size }
                }
                Kind::Symlink => Member::Link(link(&name, &entry.link)),
                Kind::HardLink => Member::Link(clean(&entry.link)?),
                _ => Member::Other,
            };
            members.insert(name, member);
        }
        let (ended, ()) = reader.finish().map_err(Error::archive)?;
        Ok(Members { members, ended })
    }

    /// Whether the current member looks like a layer that is not compressed and not known: it is unpacked right from
    /// the stream, without the way over another file.
    fn is_plain_layer<R: BufRead>(&self, reader: &mut Reader<R, ()>, name: &[u8]) -> Result<bool> {
        let start = reader.data().map_err(Error::archive)?;
        Ok(start.len() > 262 && &start[257..262] == b"ustar" && !self.knows_blob(name))
    }

    /// A file without a name, which goes when it is closed.
    pub(super) fn spool(&self) -> Result<File> {
        let folder = self.root.join("tmp");
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&folder, flags, Mode::from(0o600));
        Ok(file.map_err(|errno| Error::file("create a file in", &folder, errno))?.into())
    }

    /// Whether a layer's name in an OCI layout says that it is in the store already.
    fn knows_blob(&self, name: &[u8]) -> bool {
        let hex = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix("blobs/sha256/"));
        let digest = hex.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
        digest.is_some_and(|digest| self.state().layers.values().any(|layer| layer.row.diff_id == digest))
    }
}

/// Passes the contents of the current member on.
fn drain<R: BufRead>(
    reader: &mut Reader<R, ()>,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<()> {
    loop {
        let piece = reader.data().map_err(Error::archive)?;
        if piece.is_empty() {
            return Ok(());
        }
        take(piece).map_err(spool)?;
        let count = piece.len();
        reader.consume(count);
    }
}

/// A tar, or something compressed; anything else large is kept until it is asked for.
fn looks_like_layer(start: &[u8; 264]) -> bool {
    &start[257..262] == b"ustar" || Compression::sniff(start).is_ok_and(|found| found != Compression::None)
}

/// Where a symbolic link in the archive leads within it: Docker links one layer's archive to another's. The archive is the
/// whole world to it, as to Docker: what is absolute begins there, and above that is nothing.
fn link(name: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = match target.starts_with(b"/") {
        true => Vec::new(),
        false => name.split(|&byte| byte == b'/').collect(),
    };
    parts.pop();
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn spool(error: std::io::Error) -> Error {
    Error::system("put the archive on the disk", error)
}
