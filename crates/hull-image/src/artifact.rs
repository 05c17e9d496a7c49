//! What goes out, or comes in, in the form of an image's manifest, and is none: blobs of files with what is said of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::archive;
use crate::compress::{Algorithm, Compress};
use crate::dress::{bytes_of, described, raw};
use crate::registry::manifest::{Descriptor, OCI_INDEX, OCI_MANIFEST, Raw};
use crate::store::send::{Compressed, Pieces};
use crate::tar::{Entry, Kind, Writer};
use crate::{Digest, Error, Result};

/// What a configuration is where there is none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// How much is read at once.
const PIECE: usize = 128 << 10;
/// A manifest that is read may not be longer, nor name more blobs.
const MANIFEST_LIMIT: u64 = 4 << 20;
const BLOBS: usize = 1024;

/// What goes out.
#[derive(Debug)]
pub struct Artifact {
    /// What names the blobs.
    pub manifest: Raw,
    /// The blobs.
    pub blobs: Vec<Blob>,
}

/// A blob.
#[derive(Clone, Debug)]
pub struct Blob {
    /// What it is.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub source: Source,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In memory.
    Bytes(Bytes),
    /// In a file, from its first byte on.
    File(Arc<File>),
}

/// What a manifest of an artifact says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Artifact {
    /// Blobs of that kind.
    pub fn new(artifact_type: &str, mut blobs: Vec<Blob>) -> Artifact {
        let empty = Bytes::from_static(b"{}");
        let config =
            Descriptor { media_type: EMPTY.to_owned(), size: 2, ..Descriptor::of(Digest::of(&empty)) };
        let mut layers: Vec<&Descriptor> = blobs.iter().map(|blob| &blob.descriptor).collect();
        if layers.is_empty() {
            // The specification wants one.
            layers.push(&config);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": config,
            "layers": layers,
        });
        let manifest = raw(OCI_MANIFEST, &manifest);
        blobs.push(Blob { descriptor: config, source: Source::Bytes(empty) });
        Artifact { manifest, blobs }
    }

    /// Writes it as an archive that is an OCI layout; what names it.
    ///
    /// # Errors
    /// A blob cannot be read, or nobody takes the archive.
    pub fn write_layout(&self, out: &mut dyn Write) -> Result<Value> {
        let mut out = Writer::new(io::BufWriter::with_capacity(PIECE, out));
        for folder in ["blobs/", "blobs/sha256/"] {
            out.header(&Entry::new(folder, Kind::Directory, 0o755, 0, 0)).map_err(sending)?;
        }
        let mut written = std::collections::BTreeSet::new();
        for Blob { descriptor, source } in &self.blobs {
            // The same files under two names are one blob.
            if !written.insert(descriptor.digest) {
                continue;
            }
            match source {
                Source::Bytes(bytes) => {
                    out.file(&path(&descriptor.digest), bytes, 0).map_err(sending)?;
                }
                Source::File(file) => write_blob(&mut out, &descriptor.digest, file, descriptor.size)?,
            }
        }
        out.file(&path(&self.manifest.digest), &self.manifest.bytes, 0).map_err(sending)?;
        let descriptor = described(&self.manifest);
        end_layout(out, std::slice::from_ref(&descriptor))?;
        Ok(descriptor)
    }
}

/// Packs all files of a folder, with owners, modes, times, extended attributes and hard links, as a blob in an unnamed file of
/// `spool`'s file system.
///
/// # Errors
/// Something cannot be read, or the disk is full.
pub fn pack(
    root: BorrowedFd<'_>,
    spool: &Path,
    how: Compress,
    annotations: BTreeMap<String, String>,
) -> Result<Blob> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(spool, flags, Mode::from(0o600));
    let mut file = File::from(file.map_err(|errno| Error::file("create a file in", spool, errno))?);
    let algorithm = how.algorithm.unwrap_or(Algorithm::Zstd);
    let failed = |error: io::Error| Error::system("pack the files", error);
    let mut broken = None;
    let mut take = |piece: Bytes| match file.write_all(&piece) {
        Ok(()) => true,
        Err(error) => {
            broken = Some(error);
            false
        }
    };
    let packed = (|| {
        let mut encoder = algorithm.encoder(how.level, Pieces::new(&mut take)).map_err(failed)?;
        archive::export_volume(root, &mut encoder)?;
        encoder.finish().and_then(Pieces::ended).map_err(failed)
    })();
    let Compressed { digest, size } = match broken {
        Some(error) => return Err(failed(error)),
        None => packed?,
    };
    let media_type = algorithm.media_type(false).to_owned();
    let descriptor = Descriptor { media_type, size, annotations, ..Descriptor::of(digest) };
    Ok(Blob { descriptor, source: Source::File(Arc::new(file)) })
}

/// The blobs that a manifest names, where that is of the kind that is wanted.
///
/// # Errors
/// It is malformed, too long, or something else.
pub fn blobs_of(manifest: &[u8], artifact_type: &str) -> Result<Vec<Descriptor>> {
    let parsed: Manifest = serde_json::from_slice(manifest)
        .map_err(|error| Error::invalid(format!("a malformed manifest: {error}")))?;
    if parsed.artifact_type != artifact_type {
        let kind: String = parsed.artifact_type.chars().take(80).collect();
        return Err(Error::invalid(format!("it is something else (of the type {kind:?})")));
    }
    if parsed.layers.len() > BLOBS {
        return Err(Error::invalid(format!(
            "it has {} blobs, where {BLOBS} are allowed",
            parsed.layers.len()
        )));
    }
    Ok(parsed.layers.into_iter().filter(|layer| layer.media_type != EMPTY).collect())
}

/// An OCI layout in a folder that somebody else has sent.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a>(pub BorrowedFd<'a>);

impl Layout<'_> {
    /// The one manifest that its index names.
    ///
    /// # Errors
    /// It is none, or has another number of them.
    pub fn manifest(&self) -> Result<Vec<u8>> {
        let malformed = |what: &str| Error::invalid(format!("a malformed OCI layout: {what}"));
        let index = self.small("index.json")?;
        let index: Value =
            serde_json::from_slice(&index).map_err(|error| malformed(&format!("index.json: {error}")))?;
        let manifests = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [one] = manifests else {
            return Err(malformed(&format!("its index names {} where one is wanted", manifests.len())));
        };
        let digest: Digest = one["digest"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| malformed("its index names something without a digest"))?;
        let bytes = self.small(&path(&digest))?;
        match Digest::of(&bytes) == digest {
            true => Ok(bytes),
            false => Err(malformed(&format!("{digest} is not what its digest says"))),
        }
    }

    /// A blob, whose digest is compared at its end.
    ///
    /// # Errors
    /// It is not there.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Verified<File>> {
        Ok(Verified::new(self.open(&path(&descriptor.digest))?, descriptor))
    }

    fn open(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = openat2(self.0.as_fd(), name, flags, Mode::empty(), resolve).map(File::from);
        let missing = |why: String| Error::not_found(format!("the OCI layout has no {name}: {why}"));
        let file = file.map_err(|errno| missing(errno.to_string()))?;
        match file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            true => Ok(file),
            false => Err(missing("it is no file".to_owned())),
        }
    }

    fn small(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.open(name)?.take(MANIFEST_LIMIT + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::system(format_args!("read {name}"), error))?;
        match bytes.len() as u64 > MANIFEST_LIMIT {
            true => Err(Error::invalid(format!("{name} has more than {MANIFEST_LIMIT} bytes"))),
            false => Ok(bytes),
        }
    }
}

/// A blob that is read: no more than it is said to have, and at its end it is what its digest says, or an error.
pub struct Verified<R> {
    source: R,
    wanted: Digest,
    left: u64,
    hash: Sha256,
}

impl<R: Read> Verified<R> {
    /// What comes from `source`.
    pub fn new(source: R, descriptor: &Descriptor) -> Verified<R> {
        Verified { source, wanted: descriptor.digest, left: descriptor.size, hash: Sha256::new() }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wrong = |what: &str, digest: &Digest| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the blob {digest} {what}"))
        };
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if self.left == 0 {
            let found = Digest::from_hasher(self.hash.clone());
            return match found == self.wanted {
                true => Ok(0),
                false => Err(wrong("is not what its digest says", &self.wanted)),
            };
        }
        let count = self.source.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(wrong("is shorter than its manifest says", &self.wanted));
        }
        self.hash.update(&buffer[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}

/// The bytes of a file, piece by piece, with their digest.
pub(crate) fn pieces_of(
    file: &File,
    progress: &dyn Fn(u64),
    take: &mut dyn FnMut(Bytes) -> bool,
) -> Result<Compressed> {
    let failed = |error: io::Error| Error::system("read a blob", error);
    let mut pieces = Pieces::new(take);
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    loop {
        let count = file.read_at(&mut buffer, at).map_err(failed)?;
        if count == 0 {
            return pieces.ended().map_err(failed);
        }
        pieces.write_all(&buffer[..count]).map_err(failed)?;
        at += count as u64;
        progress(at);
    }
}

/// Writes a file as a blob of a layout.
pub(crate) fn write_blob<W: Write>(
    out: &mut Writer<W>,
    digest: &Digest,
    file: &File,
    size: u64,
) -> Result<()> {
    out.header(&Entry::new(&path(digest), Kind::File, 0o644, size, 0)).map_err(sending)?;
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    while at < size {
        let count = file.read_at(&mut buffer, at).map_err(|error| Error::system("read a blob", error))?;
        if count == 0 {
            return Err(Error::invalid(format!("the blob {digest} became shorter while it was sent")));
        }
        let count = count.min(usize::try_from(size - at).unwrap_or(usize::MAX));
        out.contents(&buffer[..count]).map_err(sending)?;
        at += count as u64;
    }
    out.pad(size).map_err(sending)
}

/// Ends a layout with what it is, and its index.
pub(crate) fn end_layout<W: Write>(mut out: Writer<W>, manifests: &[Value]) -> Result<()> {
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    out.file("index.json", &bytes_of(&index), 0).map_err(sending)?;
    let layout = json!({ "imageLayoutVersion": "1.0.0" });
    out.file("oci-layout", &bytes_of(&layout), 0).map_err(sending)?;
    out.finish().map(drop).map_err(sending)
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn sending(error: io::Error) -> Error {
    Error::system("write the archive", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "application/vnd.example.v1";

    fn layout(artifact: &Artifact) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Vec::new();
        artifact.write_layout(&mut archive).unwrap();
        let root = File::open(folder.path()).unwrap();
        archive::put(root.as_fd(), "/", &mut &archive[..], archive::Put::default()).unwrap();
        folder
    }

    #[test]
    fn files_come_back_from_a_layout_as_they_were() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
        let from = tempfile::tempdir().unwrap();
        std::fs::create_dir(from.path().join("d")).unwrap();
        std::fs::write(from.path().join("d/f"), vec![7; 300_000]).unwrap();
        std::fs::hard_link(from.path().join("d/f"), from.path().join("g")).unwrap();
        std::fs::set_permissions(from.path().join("d"), PermissionsExt::from_mode(0o2711)).unwrap();
        rustix::fs::setxattr(from.path().join("g"), "user.a", b"v", rustix::fs::XattrFlags::empty()).unwrap();
        for algorithm in [Algorithm::Gzip, Algorithm::Zstd, Algorithm::Uncompressed] {
            let root = File::open(from.path()).unwrap();
            let how = Compress { algorithm: Some(algorithm), ..Compress::default() };
            let of = BTreeMap::from([("of".to_owned(), "x".to_owned())]);
            let blob = pack(root.as_fd(), &std::env::temp_dir(), how, of).unwrap();
            let folder = layout(&Artifact::new(KIND, vec![blob]));
            let root = File::open(folder.path()).unwrap();
            let layout = Layout(root.as_fd());
            let blobs = blobs_of(&layout.manifest().unwrap(), KIND).unwrap();
            assert_eq!((blobs.len(), blobs[0].annotations["of"].as_str()), (1, "x"));
            let to = tempfile::tempdir().unwrap();
            let back = File::open(to.path()).unwrap();
            // Small as it comes, and not unpacked beyond what there is room for.
            let error =
                archive::import_files(back.as_fd(), &mut layout.blob(&blobs[0]).unwrap(), 1024).unwrap_err();
            assert!(error.message.contains("more than the 1024 bytes"), "{error}");
            archive::import_files(back.as_fd(), &mut layout.blob(&blobs[0]).unwrap(), 1 << 20).unwrap();
            let meta = |name: &str| std::fs::metadata(to.path().join(name)).unwrap();
            assert_eq!((meta("g").ino(), meta("g").len()), (meta("d/f").ino(), 300_000));
            assert_eq!(meta("d").mode() & 0o7777, 0o2711);
            let mut value = [0; 8];
            assert_eq!(rustix::fs::getxattr(to.path().join("g"), "user.a", &mut value[..]).unwrap(), 1);
        }
    }

    #[test]
    fn what_is_not_what_it_says_is_refused() {
        let folder = layout(&Artifact::new(KIND, Vec::new()));
        let root = File::open(folder.path()).unwrap();
        let manifest = Layout(root.as_fd()).manifest().unwrap();
        assert!(blobs_of(&manifest, KIND).unwrap().is_empty());
        assert!(blobs_of(&manifest, "other").unwrap_err().message.contains("something else"));
        let descriptor = |bytes: &[u8], size| Descriptor { size, ..Descriptor::of(Digest::of(bytes)) };
        let read = |bytes: &[u8], descriptor| {
            let mut out = Vec::new();
            Verified::new(bytes, &descriptor).read_to_end(&mut out).map(|_| out).map_err(|e| e.to_string())
        };
        assert_eq!(read(b"abc", descriptor(b"abc", 3)).unwrap(), b"abc");
        assert_eq!(read(b"abcd", descriptor(b"abc", 3)).unwrap(), b"abc");
        assert!(read(b"abd", descriptor(b"abc", 3)).unwrap_err().contains("is not what its digest says"));
        assert!(read(b"ab", descriptor(b"abc", 3)).unwrap_err().contains("is shorter"));
        // Neither a link of the layout's own nor a device is opened.
        let index = folder.path().join("index.json");
        std::fs::remove_file(&index).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &index).unwrap();
        assert!(Layout(root.as_fd()).manifest().unwrap_err().message.contains("has no index.json"));
    }
}
