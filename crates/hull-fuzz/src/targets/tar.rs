//! Archives: into a volume, as a layer, and as images that are loaded. Each is unpacked into a folder beside which stand
//! files that must stay what they are.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hull_image::{Digest, Import, Store, archive as files, remove_tree};
use serde_json::json;

use crate::{Once, Target, outcome};

pub(super) const BLOCK: usize = 512;

pub(super) const WORDS: &[&str] = &[
    "../",
    "/",
    "./",
    "..",
    "outside",
    "dir/",
    ".wh.",
    ".wh..wh..opq",
    "ustar\0",
    "ustar  \0",
    "GNU.sparse.map=",
    "GNU.sparse.size=",
    "GNU.sparse.major=1",
    "GNU.sparse.minor=0",
    "GNU.sparse.name=",
    "SCHILY.xattr.user.x=",
    "SCHILY.xattr.trusted.overlay.opaque=y",
    "path=",
    "linkpath=",
    "size=",
    "uid=",
    "mtime=",
    "LIBARCHIVE.xattr.",
    "././@LongLink",
];

pub(crate) const VOLUME: Target = Target {
    name: "tar-volume",
    about: "a tar that is unpacked into a volume",
    seeds: tars,
    words: WORDS,
    block: BLOCK,
    repair: checksums,
    prepare: volume,
};

pub(crate) const LAYER: Target = Target {
    name: "tar-layer",
    about: "a tar that becomes a layer, and is given back as it came",
    seeds: tars,
    words: WORDS,
    block: BLOCK,
    repair: checksums,
    prepare: layer,
};

pub(crate) const ARCHIVE: Target = Target {
    name: "tar-images",
    about: "an archive of images that is loaded",
    seeds: archives,
    words: &[
        "manifest.json",
        "index.json",
        "repositories",
        "blobs/sha256/",
        "\"Config\":",
        "\"RepoTags\":",
        "\"Layers\":",
        "\"Parent\":",
        "\"manifests\":",
        "\"digest\":",
        "\"platform\":",
        "../",
        "null",
        "[]",
        "{}",
        "layer.tar",
        "a:1",
    ],
    block: BLOCK,
    repair: checksums,
    prepare: images,
};

/// A header block.
pub(super) fn header(name: &[u8], kind: u8, size: usize, link: &[u8]) -> Vec<u8> {
    let mut block = vec![0u8; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000755");
    block[108..115].copy_from_slice(b"0001750");
    block[116..123].copy_from_slice(b"0001750");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"14551234567");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..336].copy_from_slice(b"0000001");
    block[337..344].copy_from_slice(b"0000003");
    checksum(&mut block);
    block
}

/// A member with its contents.
pub(super) fn member(name: &str, contents: &[u8]) -> Vec<u8> {
    with_contents(header(name.as_bytes(), b'0', contents.len(), b""), contents)
}

pub(super) fn with_contents(mut header: Vec<u8>, contents: &[u8]) -> Vec<u8> {
    header.extend_from_slice(contents);
    header.resize(header.len().next_multiple_of(BLOCK), 0);
    header
}

/// Members with the marker of their end.
pub(super) fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 2 * BLOCK]].concat()
}

fn checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Puts the checksums right of all that looks like a header.
pub(super) fn checksums(input: &mut [u8]) {
    for block in input.chunks_exact_mut(BLOCK) {
        if block[257..].starts_with(b"ustar") {
            checksum(block);
        }
    }
}

pub(super) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        text.push_str(&format!("{length} {key}={value}\n"));
    }
    with_contents(header(b"PaxHeaders/x", b'x', text.len(), b""), text.as_bytes())
}

/// One of everything.
fn all_kinds() -> Vec<u8> {
    let long = format!("dir/{}", "l".repeat(150));
    archive(&[
        header(b"./", b'5', 0, b""),
        header(b"dir/", b'5', 0, b""),
        member("dir/file", b"contents"),
        header(b"dir/hard", b'1', 0, b"dir/file"),
        header(b"dir/soft", b'2', 0, b"../../outside"),
        header(b"dir/null", b'3', 0, b""),
        header(b"dir/block", b'4', 0, b""),
        header(b"dir/fifo", b'6', 0, b""),
        with_contents(header(b"././@LongLink", b'L', long.len() + 1, b""), format!("{long}\0").as_bytes()),
        member("short", b"x"),
        pax(&[("path", "dir/pax"), ("SCHILY.xattr.user.x", "y"), ("mtime", "1.5"), ("uid", "7")]),
        member("y", b"z"),
        member("dir/.wh.file", b""),
        member("dir/.wh..wh..opq", b""),
    ])
}

fn tars() -> Vec<Vec<u8>> {
    let plain = all_kinds();
    let sparse = archive(&[
        pax(&[("GNU.sparse.size", "100000"), ("GNU.sparse.map", "0,4,90000,4")]),
        member("old", b"12345678"),
        pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "new"),
            ("GNU.sparse.realsize", "100000"),
        ]),
        with_contents(header(b"GNUSparseFile/new", b'0', BLOCK + 8, b""), &{
            let mut map = b"2\n0\n4\n90000\n4\n".to_vec();
            map.resize(BLOCK, 0);
            map.extend_from_slice(b"12345678");
            map
        }),
    ]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("memory takes all");
    let zstd = zstd::encode_all(&plain[..], 1).expect("memory takes all");
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).expect("memory takes all");
    vec![
        plain,
        sparse,
        gzip.finish().expect("memory takes all"),
        zstd,
        xz.finish().expect("memory takes all"),
        Vec::new(),
    ]
}

fn archives() -> Vec<Vec<u8>> {
    let layer = archive(&[member("file", b"contents")]);
    let diff_id = Digest::of(&layer);
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created_by": "x" }],
    })
    .to_string();
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.to_vec());
    let blobs =
        |all: &[(String, Vec<u8>)]| all.iter().map(|(name, bytes)| member(name, bytes)).collect::<Vec<_>>();
    let docker =
        json!([{ "Config": "config.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"] }]).to_string();
    let docker = archive(&[
        member("config.json", config.as_bytes()),
        member("layer.tar", &layer),
        member("manifest.json", docker.as_bytes()),
    ]);
    let described = |bytes: &[u8]| json!({ "digest": Digest::of(bytes), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2, "config": described(config.as_bytes()), "layers": [described(&layer)],
    })
    .to_string();
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "digest": Digest::of(manifest.as_bytes()), "size": manifest.len(),
        "platform": { "os": "linux", "architecture": "amd64" },
        "annotations": { "io.containerd.image.name": "a:1" },
    }] })
    .to_string();
    let mut members = blobs(&[blob(config.as_bytes()), blob(&layer), blob(manifest.as_bytes())]);
    members.extend([
        member("index.json", index.as_bytes()),
        member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
    ]);
    vec![docker, archive(&members), archive(&[member("repositories", br#"{"a":{"1":"x"}}"#)])]
}

/// A folder in memory, where there is one: what is removed behind must keep up with what is made.
pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// A folder to unpack into, beneath others with files that are nobody's to change.
pub(super) struct Walls {
    outer: tempfile::TempDir,
    pub(super) inner: PathBuf,
    before: BTreeMap<PathBuf, (u64, u32, i64, Vec<u8>)>,
}

impl Walls {
    pub(super) fn new() -> Walls {
        let outer = scratch();
        let inner = outer.path().join("dir/inner");
        fs::create_dir_all(&inner).expect("a folder");
        for name in ["outside", "dir/outside", "dir/file"] {
            fs::write(outer.path().join(name), name).expect("a file");
        }
        let mut walls = Walls { outer, inner, before: BTreeMap::new() };
        walls.before = walls.outside();
        walls
    }

    /// All that stands beside the inner folder.
    fn outside(&self) -> BTreeMap<PathBuf, (u64, u32, i64, Vec<u8>)> {
        let mut all = BTreeMap::new();
        let mut folders = vec![self.outer.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("the folder").flatten() {
                let (path, data) = (entry.path(), entry.metadata().expect("the file"));
                if path == self.inner {
                    continue;
                }
                let contents = if data.is_file() { fs::read(&path).expect("the file") } else { Vec::new() };
                if data.is_dir() {
                    folders.push(path.clone());
                }
                // Of a folder that a folder is made in the links change: what is made is what is looked for.
                all.insert(
                    path,
                    (data.nlink(), data.mode(), if data.is_dir() { 0 } else { data.mtime() }, contents),
                );
            }
        }
        all
    }

    /// # Panics
    /// Something outside is not what it was.
    pub(super) fn hold(&self) {
        assert_eq!(self.outside(), self.before, "something outside was changed");
    }

    pub(super) fn empty(&self) -> &Path {
        remove_tree(&self.inner).expect("remove what was unpacked");
        fs::create_dir(&self.inner).expect("a folder");
        &self.inner
    }
}

fn volume() -> Once {
    let walls = Walls::new();
    Box::new(move |input| {
        let folder = fs::File::open(walls.empty()).expect("the folder");
        let unpacked = files::import_volume(folder.as_fd(), &mut &input[..]);
        if unpacked.is_ok() {
            let mut exported = Vec::new();
            // A file may be of any size that its archive claims: a hole takes no room.
            let read = apparent(&walls.inner) < 64 << 20;
            if read {
                files::export_volume(folder.as_fd(), &mut exported)
                    .expect("what was imported can be exported");
            }
        }
        walls.hold();
        outcome(&unpacked)
    })
}

/// The sizes of the files beneath a folder, as they say.
fn apparent(folder: &Path) -> u64 {
    let entries =
        fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let size = |entry: &fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => apparent(&entry.path()),
        Ok(data) if data.is_file() => data.len(),
        _ => 0,
    };
    entries.iter().map(size).fold(0, u64::saturating_add)
}

/// A store behind walls, in which nothing is left.
fn store() -> (Walls, Store) {
    let walls = Walls::new();
    let store = Store::open(&walls.inner, &[]).expect("a store");
    (walls, store)
}

/// # Panics
/// Something is left in the store.
pub(super) fn is_empty(walls: &Walls, store: &Store) {
    assert_eq!(store.images().len(), 1, "the built-in image alone");
    assert_eq!(
        fs::read_dir(walls.inner.join("tmp")).expect("the folder").count(),
        0,
        "something half-made is left"
    );
    walls.hold();
}

fn layer() -> Once {
    let (walls, store) = store();
    Box::new(move |input| {
        let options = Import { reference: Some("fuzz:1".to_owned()), ..Import::default() };
        let imported = store.import(&mut &input[..], options, &|_| {});
        if imported.is_ok() {
            // Its digest is verified on the way.
            store
                .save(&["fuzz:1".to_owned()], &mut std::io::sink())
                .expect("a layer is given back as it came");
            store.remove("fuzz:1", true, true, &|_| None).expect("what was imported can be removed");
        }
        is_empty(&walls, &store);
        outcome(&imported)
    })
}

fn images() -> Once {
    let (walls, store) = store();
    Box::new(move |input| {
        let loaded = store.load(&mut &input[..], None, &|_| {});
        for image in store.images().iter().filter(|image| !image.builtin) {
            let id = image.id.to_string();
            store
                .save(std::slice::from_ref(&id), &mut std::io::sink())
                .expect("an image is given back as it came");
            store.remove(&id, true, true, &|_| None).expect("what was loaded can be removed");
        }
        is_empty(&walls, &store);
        outcome(&loaded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        crate::briefly(&VOLUME);
    }

    #[test]
    fn layers() {
        crate::briefly(&LAYER);
    }

    #[test]
    fn archives_of_images() {
        crate::briefly(&ARCHIVE);
    }
}
