//! Importing a root file system, and snapshots of it.

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use common::{import, scratch_store, shell_tar};
use hull_image::{Import, Kind};

#[test]
fn an_import_keeps_what_the_archive_says() {
    let (scratch, store) = scratch_store();
    let tar = shell_tar(
        scratch.path(),
        "mkdir -p a/b; echo hello >a/b/f; ln a/b/f a/hard; ln -s ../x a/sym; mkfifo a/fifo; mknod a/dev c 1 3;
         chown 12:34 a/hard; chmod 4755 a/b/f; chmod 1777 a; touch -d @1234567890.5 a/b; truncate -s 5M a/sparse;
         echo end >>a/sparse",
        "--format=posix --xattrs",
    );
    let image = import(&store, &tar, Import { reference: Some("x/y".into()), ..Import::default() }).unwrap();
    assert_eq!(image.repo_tags, ["x/y:latest"]);
    let snapshot = store.create_snapshot("key", Some(&image)).unwrap();
    let tree = &snapshot.lower[0];
    let file = tree.join("a/b/f").metadata().unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.nlink()), (0o4755, 12, 34, 2));
    assert_eq!(tree.join("a/b").metadata().unwrap().mtime_nsec(), 500_000_000);
    assert_eq!(tree.join("a").metadata().unwrap().permissions().mode() & 0o7777, 0o1777);
    assert_eq!(std::fs::read_link(tree.join("a/sym")).unwrap().to_str(), Some("../x"));
    assert!(tree.join("a/fifo").metadata().unwrap().file_type().is_fifo());
    assert_eq!(tree.join("a/dev").metadata().unwrap().rdev(), rustix::fs::makedev(1, 3));
    let sparse = tree.join("a/sparse").metadata().unwrap();
    assert!(sparse.len() > 5 << 20 && sparse.blocks() * 512 < 1 << 20, "holes are kept");
    assert!(snapshot.upper.is_dir() && snapshot.work.is_dir());
    assert_eq!(store.snapshot("key").unwrap(), snapshot);
    assert_eq!(store.create_snapshot("key", None).unwrap_err().kind, Kind::Conflict);
    store.remove_snapshot("key").unwrap();
    assert_eq!(store.remove_snapshot("key").unwrap_err().kind, Kind::NotFound);
}

#[test]
fn a_store_knows_after_it_was_opened_again_what_it_knew() {
    let (scratch, store) = scratch_store();
    let tar = shell_tar(scratch.path(), "echo a >a", "");
    let options = Import {
        reference: Some("a:1".into()),
        changes: vec!["CMD [\"sh\"]".into(), "ENV PATH=/bin".into()],
        message: "words".into(),
        platform: None,
    };
    let image = import(&store, &tar, options).unwrap();
    let snapshot = store.create_snapshot("kept", Some(&image)).unwrap();
    std::fs::create_dir_all(scratch.path().join("store/snapshots/half/upper")).unwrap();
    std::fs::create_dir_all(scratch.path().join("store/layers/zz")).unwrap();
    drop(store);
    let store = hull_image::Store::open(&scratch.path().join("store"), &[]).unwrap();
    assert_eq!(store.resolve("a:1").unwrap(), image);
    assert_eq!(store.resolve(&image.id.short()).unwrap(), image);
    assert_eq!(store.snapshot("kept").unwrap(), snapshot);
    assert_eq!(store.snapshots(), ["kept"]);
    assert!(!scratch.path().join("store/snapshots/half").exists());
    assert!(!scratch.path().join("store/layers/zz").exists());
    assert_eq!(image.container_config().cmd.unwrap(), ["sh"]);
    assert_eq!(store.resolve("nothing").unwrap_err().message, "No such image: nothing:latest");
    assert_eq!(
        hull_image::Store::open(&scratch.path().join("store"), &[]).unwrap_err().kind,
        Kind::Conflict,
        "one daemon at a time"
    );
}

#[test]
fn on_ext4_the_folders_of_layers_are_scattered_over_its_groups() {
    use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, open};
    let (scratch, _store) = scratch_store();
    // What statfs(2) says of ext2, ext3 and ext4.
    if rustix::fs::statfs(scratch.path()).unwrap().f_type as u64 != 0xEF53 {
        return;
    }
    for (folder, scattered) in [("tmp", true), ("layers", true), ("snapshots", false)] {
        let folder = open(scratch.path().join("store").join(folder), OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(ioctl_getflags(&folder).unwrap().contains(IFlags::TOPDIR), scattered, "{folder:?}");
    }
}
