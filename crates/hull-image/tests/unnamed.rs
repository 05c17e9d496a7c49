//! Layers that are stood on before their digests are known.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::scratch_store;
use hull_image::{Check, Image, ImageConfig, Kind, Layer, Store, Taken, Unnamed};

/// A snapshot with one file in it, taken.
fn taken(store: &Arc<Store>, key: &str, below: Option<&Image>, contents: &str) -> Unnamed {
    let snapshot = store.create_snapshot(key, below).unwrap();
    std::fs::write(snapshot.upper.join(contents), contents).unwrap();
    let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    for path in [snapshot.upper.join(contents), snapshot.upper.clone()] {
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
    }
    let Some(Taken::Unnamed(unnamed)) = store.take(key, None).unwrap() else { panic!("nothing was taken") };
    store.remove_snapshot(key).unwrap();
    unnamed
}

/// An image of these layers that is not entered.
fn on(layers: &[&Layer]) -> ImageConfig {
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    config
}

fn folders(root: &Path) -> usize {
    // One of them is everybody's.
    std::fs::read_dir(root.join("store/layers")).unwrap().count() - 1
}

fn is_sound(store: &Store) {
    let checked = store.check(Check { contents: true, ..Check::default() }).unwrap();
    assert_eq!(checked.findings, []);
}

#[test]
fn what_stands_on_one_is_there_when_it_has_its_digest() {
    let (scratch, store) = scratch_store();
    let store = Arc::new(store);
    let first = taken(&store, "one", None, "a");
    let below = first.layer().clone();
    let draft = store.draft(on(&[&below])).unwrap();
    is_sound(&store);
    let second = taken(&store, "two", Some(&draft.image), "b");
    let above = second.layer().clone();
    // Each has its digest behind that of the one below.
    assert_eq!(taken(&store, "three", Some(&draft.image), "c").named().unwrap_err().kind, Kind::Conflict);
    let (first, first_held) = first.named().unwrap();
    let (second, second_held) = second.named().unwrap();
    assert_ne!(first.diff_id, below.diff_id);
    let named = store.draft(on(&[&first, &second])).unwrap();
    is_sound(&store);
    // By its former name it is known as long as that is used.
    let snapshot = store.create_snapshot("four", Some(&draft.image)).unwrap();
    assert!(snapshot.lower[0].join("a").is_file());
    assert!(store.draft(on(&[&below])).is_ok());
    drop((first_held, draft));
    assert!(store.draft(on(&[&below])).is_ok());
    store.remove_snapshot("four").unwrap();
    assert!(store.draft(on(&[&below])).is_err() && store.draft(on(&[&above])).is_err());
    assert_eq!(folders(scratch.path()), 2);
    drop((named, second_held));
    assert_eq!(folders(scratch.path()), 0);
    is_sound(&store);
}

#[test]
fn one_that_is_here_already_goes_with_its_name() {
    let (scratch, store) = scratch_store();
    let store = Arc::new(store);
    let (first, first_held) = taken(&store, "one", None, "same").named().unwrap();
    let again = taken(&store, "two", None, "same");
    let draft = store.draft(on(&[again.layer()])).unwrap();
    let (second, second_held) = again.named().unwrap();
    assert_eq!(first, second);
    drop((first_held, second_held));
    // What stands on the second's files has them, and the first's row stays with them.
    assert_eq!(folders(scratch.path()), 2);
    is_sound(&store);
    drop(draft);
    assert_eq!(folders(scratch.path()), 0);
}

#[test]
fn one_that_is_given_up_leaves_nothing() {
    let (scratch, store) = scratch_store();
    let store = Arc::new(store);
    let unnamed = taken(&store, "one", None, "a");
    let layer = unnamed.layer().clone();
    assert_eq!(folders(scratch.path()), 1);
    drop(unnamed);
    assert_eq!(folders(scratch.path()), 0);
    assert!(store.draft(on(&[&layer])).is_err());
    is_sound(&store);
}
