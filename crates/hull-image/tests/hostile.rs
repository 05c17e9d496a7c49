//! Archives by attackers: always an error in words or a harmless result, never a panic, nothing half-made left.

mod common;

use std::path::Path;

use common::{import, scratch_store};
use hull_image::{Import, Kind, Store};

/// A header block with its checksum.
fn header(name: &str, typeflag: u8, size: u64, link: &str) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = typeflag;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    checksum(&mut block);
    block
}

fn checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn member(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, b'0', contents.len() as u64, "");
    bytes.extend_from_slice(contents);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

fn pax(records: &[u8]) -> Vec<u8> {
    let mut bytes = header("PaxHeaders/x", b'x', records.len() as u64, "");
    bytes.extend_from_slice(records);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// What is beneath the store's folder besides its own files, and outside of it.
fn nothing_is_left(scratch: &Path, store: &Store) {
    assert_eq!(store.images().len(), 1, "the built-in image alone");
    for folder in ["tmp", "snapshots", "split"] {
        assert_eq!(std::fs::read_dir(scratch.join("store").join(folder)).unwrap().count(), 0, "{folder}");
    }
    assert_eq!(std::fs::read_dir(scratch.join("store/layers")).unwrap().count(), 1, "the init layer alone");
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 1, "nothing beside the store");
}

#[test]
fn hostile_root_file_systems_are_refused() {
    let huge = |name: &str| {
        let mut block = header(name, b'0', 0, "");
        block[124..136].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
        checksum(&mut block);
        block
    };
    let sparse = |map: &str| {
        let record = |text: String| {
            let length = text.len() + 1;
            let digits = (length + 2).to_string().len();
            format!("{} {text}", length + digits)
        };
        let records = format!(
            "{}{}",
            record("GNU.sparse.size=1000\n".into()),
            record(format!("GNU.sparse.map={map}\n"))
        );
        [pax(records.as_bytes()), member("sparse", b"12345678")].concat()
    };
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "truncated"),
        ("zeros without end", vec![0; 100], "truncated"),
        ("text", b"hello world\n".repeat(100), "checksum"),
        ("parent", archive(&[member("../escape", b"x")]), "leads out of its root"),
        ("parent within", archive(&[member("a/../../escape", b"x")]), "leads out of its root"),
        (
            "hard link out",
            archive(&[header("link", b'1', 0, "../../../etc/passwd")]),
            "leads out of its root",
        ),
        (
            "hard link to what is not there",
            archive(&[header("link", b'1', 0, "/etc/passwd")]),
            "not in the archive",
        ),
        (
            "through a link",
            archive(&[header("link", b'2', 0, "/tmp"), member("link/escape", b"x")]),
            "symbolic link that leads to no folder of the archive",
        ),
        (
            "hard link through a link",
            archive(&[header("link", b'2', 0, "/etc"), header("hard", b'1', 0, "link/passwd")]),
            "not in the archive",
        ),
        ("beneath a file", archive(&[member("file", b"x"), member("file/beneath", b"x")]), "not a folder"),
        ("truncated in the contents", member("file", &[7; 5000])[..2000].to_vec(), "truncated"),
        ("truncated in a header", header("file", b'0', 0, "")[..200].to_vec(), "truncated"),
        ("without end", member("file", b"x"), "truncated"),
        ("a size of half the world", [huge("file"), vec![1; 5000]].concat(), "bytes"),
        ("a huge extended header", header("x", b'x', 1 << 30, ""), "extended header of"),
        ("a huge long name", header("x", b'L', 1 << 30, ""), "extended header of"),
        ("a wrong record", archive(&[pax(b"99 path=x\n"), member("x", b"")]), "PAX record"),
        ("a size that is none", archive(&[pax(b"11 size=-1\n"), member("x", b"")]), "PAX record"),
        ("a NUL in a name", archive(&[pax(b"11 path=a\0b"), member("x", b"")]), "PAX record"),
        ("an unknown type", archive(&[header("x", b'Q', 0, "")]), "unknown type"),
        ("only an extended header", archive(&[pax(b"11 path=ab\n")]), "after an extended header"),
        ("overlapping pieces", archive(&[sparse("0,4,2,4")]), "overlap"),
        ("pieces outside", archive(&[sparse("996,8")]), "overlap or lie outside"),
        ("other pieces than stored", archive(&[sparse("0,4")]), "does not fit"),
        ("an odd map", archive(&[sparse("0,4,8")]), "odd"),
        (
            "overlay's own attributes",
            archive(&[
                pax(b"53 SCHILY.xattr.trusted.overlay.redirect=/etc/passwd\n"),
                header("d", b'5', 0, ""),
            ]),
            "not allowed",
        ),
        ("a whiteout of nothing", archive(&[member(".wh.", b"")]), "hides no name"),
        ("a whiteout of the parent", archive(&[member("a/.wh...", b"")]), "hides no name"),
        ("a symbolic link to nothing", archive(&[header("x", b'2', 0, "")]), "leads nowhere"),
        (
            "a name too long",
            archive(&[
                pax(&{
                    let name = "n".repeat(300);
                    format!("310 path={name}\n").into_bytes()
                }),
                member("x", b""),
            ]),
            "long",
        ),
        ("broken bzip2", b"BZh91AY&SYrubbish rubbish rubbish".to_vec(), "decompress"),
        ("broken gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\0rubbish".to_vec(), "decompress"),
        ("broken zstd", b"\x28\xb5\x2f\xfdrubbish rubbish".to_vec(), "decompress"),
        ("broken xz", b"\xfd7zXZ\0rubbish rubbish rubbish".to_vec(), "decompress"),
    ];
    let (scratch, store) = scratch_store();
    for (what, bytes, words) in table {
        let error = import(&store, &bytes, Import::default()).expect_err(what);
        assert!(error.message.contains(words), "{what}: {error}");
        assert!(matches!(error.kind, Kind::InvalidParameter | Kind::NotImplemented), "{what}: {error:?}");
        nothing_is_left(scratch.path(), &store);
    }
}

#[test]
fn names_from_the_root_and_doubled_ones_stay_beneath() {
    let (_scratch, store) = scratch_store();
    let bytes =
        archive(&[member("/etc/hull-hostile", b"x"), member(".//a//./b", b"y"), header("/", b'5', 0, "")]);
    let image = import(&store, &bytes, Import::default()).unwrap();
    let tree = store.create_snapshot("s", Some(&image)).unwrap().lower[0].clone();
    assert!(tree.join("etc/hull-hostile").is_file() && tree.join("a/b").is_file());
    assert!(!Path::new("/etc/hull-hostile").exists());
}

#[test]
fn a_long_run_of_zeros_takes_no_space() {
    let (_scratch, store) = scratch_store();
    let mut compressed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    std::io::Write::write_all(&mut compressed, &header("zeros", b'0', 64 << 20, "")).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), (64 << 20) + 1024), &mut compressed).unwrap();
    let image = import(&store, &compressed.finish().unwrap(), Import::default()).unwrap();
    let tree = store.create_snapshot("s", Some(&image)).unwrap().lower[0].clone();
    let found = std::os::unix::fs::MetadataExt::blocks(&tree.join("zeros").metadata().unwrap());
    assert!(image.size == 64 << 20 && found < 1000, "{found}");
}

#[test]
fn whiteouts_and_later_entries_of_one_layer() {
    let (_scratch, store) = scratch_store();
    let bytes = archive(&[
        member(".wh.gone", b""),
        header("d", b'5', 0, ""),
        member("d/.wh..wh..opq", b""),
        member(".wh.d", b""),
        member("file", b"stays"),
        member(".wh.file", b""),
        member(".wh.later", b""),
        header("later", b'5', 0, ""),
        member(".wh..wh.plnk", b""),
    ]);
    let image = import(&store, &bytes, Import::default()).unwrap();
    let tree = store.create_snapshot("s", Some(&image)).unwrap().lower[0].clone();
    let gone = rustix::fs::lstat(tree.join("gone")).unwrap();
    assert_eq!((gone.st_mode & 0o170_000, gone.st_rdev), (0o020_000, 0));
    assert_eq!(std::fs::read(tree.join("file")).unwrap(), b"stays");
    for folder in ["d", "later"] {
        let mut value = [0; 1];
        rustix::fs::getxattr(tree.join(folder), "trusted.overlay.opaque", &mut value[..]).unwrap();
        assert_eq!(&value, b"y", "{folder}");
    }
}

#[test]
fn hostile_image_archives_are_refused() {
    let digest = |bytes: &[u8]| hull_image::Digest::of(bytes);
    let layer = archive(&[member("file", b"x")]);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest(&layer)
    );
    let wrong = config.replace(&digest(&layer).hex(), &"0".repeat(64));
    let manifest = |config: &str, layers: &str, tags: &str| {
        format!(r#"[{{"Config":"{config}","RepoTags":{tags},"Layers":{layers}}}]"#).into_bytes()
    };
    let one = |manifest: Vec<u8>, config: &str, layer: Vec<u8>| {
        archive(&[member("c.json", config.as_bytes()), layer, member("manifest.json", &manifest)])
    };
    let good = || manifest("c.json", r#"["l.tar"]"#, r#"["x:1"]"#);
    let many = format!("[{}]", vec![r#"{"Config":"none","Layers":[]}"#; 5000].join(","));
    let named = format!("{}.json", "0".repeat(64));
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no manifest", archive(&[member("x", b"")]), "neither manifest.json"),
        ("a manifest that is none", one(b"{}".to_vec(), &config, member("l.tar", &layer)), "manifest.json"),
        ("thousands of images", archive(&[member("manifest.json", many.as_bytes())]), "missing"),
        ("no configuration", archive(&[member("manifest.json", &good())]), "\"c.json\" is missing"),
        ("a configuration that is none", one(good(), "[]", member("l.tar", &layer)), "configuration"),
        (
            "a configuration of another digest",
            archive(&[
                member(&named, config.as_bytes()),
                member("l.tar", &layer),
                member("manifest.json", &manifest(&named, r#"["l.tar"]"#, "null")),
            ]),
            "digest that its name says",
        ),
        ("a layer of another digest", one(good(), &wrong, member("l.tar", &layer)), "the configuration says"),
        ("a layer that is missing", one(good(), &config, member("m.tar", &layer)), "\"l.tar\" is missing"),
        ("a layer that is a folder", one(good(), &config, header("l.tar", b'5', 0, "")), "is no file"),
        ("a layer that is a device", one(good(), &config, header("l.tar", b'3', 0, "")), "is no file"),
        ("a link in a circle", one(good(), &config, header("l.tar", b'2', 0, "l.tar")), "in a circle"),
        ("a link out", one(good(), &config, header("l.tar", b'2', 0, "../../etc/passwd")), "is missing"),
        (
            "a path out",
            one(manifest("../c.json", "[]", "null"), &config, member("l.tar", &layer)),
            "leads out",
        ),
        (
            "too many layers",
            one(manifest("c.json", r#"["l.tar","l.tar"]"#, "null"), &config, member("l.tar", &layer)),
            "length mismatch",
        ),
        (
            "a name that is none",
            one(manifest("c.json", r#"["l.tar"]"#, r#"["X Y"]"#), &config, member("l.tar", &layer)),
            "invalid reference",
        ),
        (
            "the host's name",
            one(manifest("c.json", r#"["l.tar"]"#, r#"["hull/host"]"#), &config, member("l.tar", &layer)),
            "built in",
        ),
        ("a layer that is no tar", one(good(), &wrong, member("l.tar", &[1; 100_000])), "checksum"),
        ("a member out", archive(&[member("../x", b"")]), "leads out of its root"),
        ("truncated", one(good(), &config, member("l.tar", &layer))[..3000].to_vec(), "truncated"),
        (
            "an index that leads to itself",
            { archive(&[member("index.json", br#"{"manifests":[{"digest":"sha256:../../etc/passwd"}]}"#)]) },
            "invalid digest",
        ),
        ("before Docker 1.10", archive(&[member("repositories", br#"{"x":{"1":"abc"}}"#)]), "Docker 1.10"),
    ];
    let (scratch, store) = scratch_store();
    for (what, bytes, words) in table {
        let error = store.load(&mut &bytes[..], None, &|_| {}).expect_err(what);
        assert!(error.message.contains(words), "{what}: {error}");
        assert_ne!(error.kind, Kind::System, "{what}: {error:?}");
        nothing_is_left(scratch.path(), &store);
    }
    let bytes = one(good(), &config, member("l.tar", &layer));
    assert_eq!(store.load(&mut &bytes[..], None, &|_| {}).unwrap().len(), 1);
}

#[test]
fn a_full_disk_is_an_error_that_cleans_up() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = scratch.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("small", &disk, "tmpfs", flags, c"size=4m").unwrap();
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }
    let _unmount = Unmount(&disk);
    let store = Store::open(&disk.join("store"), &[]).unwrap();
    let error =
        import(&store, &archive(&[member("big", &vec![7; 16 << 20])]), Import::default()).unwrap_err();
    assert!(error.kind == Kind::System && error.message.contains("No space left"), "{error:?}");
    let error =
        store.load(&mut &archive(&[member("big", &vec![7; 16 << 20])])[..], None, &|_| {}).unwrap_err();
    assert!(error.kind == Kind::System && error.message.contains("No space left"), "{error:?}");
    nothing_is_left(&disk, &store);
}

/// Bytes that are almost an archive never make a panic.
#[test]
fn damaged_archives_never_panic() {
    let (scratch, store) = scratch_store();
    let original = archive(&[
        pax(b"19 path=some/where\n"),
        member("x", &[5; 700]),
        header("d", b'5', 0, ""),
        header("d/l", b'2', 0, "target"),
        header("d/h", b'1', 0, "some/where"),
        member("manifest.json", br#"[{"Config":"d","Layers":["x"]}]"#),
        member("d/.wh.y", b""),
    ]);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for round in 0..400 {
        let mut bytes = original.clone();
        for _ in 0..=next() % 4 {
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
        }
        if round % 3 == 0 {
            bytes.truncate(next() % bytes.len());
        }
        // Most damage is in headers: with the checksum made right, it goes deeper.
        for block in bytes.chunks_mut(512).filter(|block| block.len() == 512 && &block[257..262] == b"ustar")
        {
            checksum(block);
        }
        if let Ok(image) = import(&store, &bytes, Import::default()) {
            store.remove(&image.id.to_string(), true, true, &|_| None).unwrap();
        }
        let _ = store.load(&mut &bytes[..], None, &|_| {});
        if let Ok((root, folder)) = std::fs::create_dir(scratch.path().join("put"))
            .and_then(|()| Ok((std::fs::File::open(scratch.path().join("put"))?, scratch.path().join("put"))))
        {
            let options = hull_image::archive::Put::default();
            let _ = hull_image::archive::put(std::os::fd::AsFd::as_fd(&root), "/", &mut &bytes[..], options);
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
    nothing_is_left(scratch.path(), &store);
}
