//! Removing images: what goes, what stays, and the words.

mod common;

use common::{import, scratch_store, shell_tar};
use hull_image::{Commit, Digest, Import, InUse, Kind, Removed, Store};

fn image(scratch: &std::path::Path, store: &Store, name: &str, text: &str) -> Digest {
    let tar = shell_tar(scratch, &format!("echo {text} >f"), "");
    import(store, &tar, Import { reference: Some(name.into()), ..Import::default() }).unwrap().id
}

fn nobody(_: &Digest) -> Option<InUse> {
    None
}

fn used(running: bool) -> impl Fn(&Digest) -> Option<InUse> {
    move |_| Some(InUse { container: "0123456789abcdef".into(), running })
}

#[test]
fn names_go_one_by_one_and_the_image_with_the_last() {
    let (scratch, store) = scratch_store();
    let id = image(scratch.path(), &store, "a:1", "x");
    store.tag("a:1", "b").unwrap();
    assert_eq!(store.resolve("b").unwrap().repo_tags, ["a:1", "b:latest"]);
    let error = store.remove(&id.short(), false, true, &nobody).unwrap_err();
    let words = format!(
        "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
        id.short()
    );
    assert_eq!((error.kind, error.message), (Kind::Conflict, words));
    assert_eq!(store.remove("a:1", false, true, &used(true)).unwrap(), [Removed::Untagged("a:1".into())]);
    assert_eq!(store.resolve("a:1").unwrap_err().message, "No such image: a:1");
    let layer = store.resolve("b").unwrap().layers[0].chain_id;
    assert_eq!(
        store.remove("b", false, true, &nobody).unwrap(),
        [
            Removed::Untagged("b:latest".into()),
            Removed::Deleted(id.to_string()),
            Removed::Deleted(layer.to_string())
        ]
    );
    assert_eq!((store.layers_size(), store.images().len()), (0, 1));
    assert_eq!(store.remove("b", false, true, &nobody).unwrap_err().kind, Kind::NotFound);
}

#[test]
fn containers_keep_their_image() {
    let (scratch, store) = scratch_store();
    let id = image(scratch.path(), &store, "a:1", "x");
    let found = store.resolve("a:1").unwrap();
    store.create_snapshot("c", Some(&found)).unwrap();
    assert_eq!(
        store.remove("a:1", false, true, &used(false)).unwrap_err().message,
        format!(
            "conflict: unable to remove repository reference \"a:1\" (must force) - container 0123456789ab is using its \
             referenced image {}",
            id.short()
        )
    );
    assert_eq!(
        store.remove(&id.to_string(), false, true, &used(false)).unwrap_err().message,
        format!(
            "conflict: unable to delete {} (must be forced) - image is being used by stopped container 0123456789ab",
            id.short()
        )
    );
    assert_eq!(
        store.remove(&id.hex(), true, true, &used(true)).unwrap_err().message,
        format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container 0123456789ab",
            id.short()
        )
    );
    assert_eq!(
        store.remove("a:1", true, true, &used(true)).unwrap(),
        [Removed::Untagged("a:1".into())],
        "forced, a name goes; what runs stays"
    );
    let removed = store.remove(&id.to_string(), true, true, &used(false)).unwrap();
    assert_eq!(removed, [Removed::Deleted(id.to_string())], "the layer stays for the container");
    assert!(store.snapshot("c").unwrap().lower[0].join("f").is_file());
    store.remove_snapshot("c").unwrap();
    assert_eq!(store.layers_size(), 0, "and goes with it");
}

#[test]
fn parents_and_children() {
    let (scratch, store) = scratch_store();
    let parent = image(scratch.path(), &store, "p", "x");
    let found = store.resolve("p").unwrap();
    store.create_snapshot("c", Some(&found)).unwrap();
    let options = Commit { reference: Some("child".into()), ..Commit::default() };
    let child = store.commit("c", Some(&found), options).unwrap();
    store.remove_snapshot("c").unwrap();
    let error = store.remove(&parent.to_string(), true, true, &nobody).unwrap_err();
    assert!(error.message.ends_with("(cannot be forced) - image has dependent child images"), "{error}");
    assert_eq!(store.remove("p", false, true, &nobody).unwrap(), [Removed::Untagged("p:latest".into())]);
    let usage = store.disk_usage();
    let of = |id: &Digest| usage.images.iter().find(|usage| usage.id == *id).unwrap().clone();
    assert_eq!((of(&parent).shared, of(&parent).unique), (2, 0));
    let removed = store.remove("child", false, true, &nobody).unwrap();
    assert!(removed.contains(&Removed::Deleted(child.id.to_string())));
    assert!(
        removed.contains(&Removed::Deleted(parent.to_string())),
        "a nameless parent goes with its last child"
    );
    assert_eq!(store.layers_size(), 0);
}

#[test]
fn pruning_takes_what_nobody_needs() {
    let (scratch, store) = scratch_store();
    let first = image(scratch.path(), &store, "a", "one");
    let second = image(scratch.path(), &store, "a", "two22");
    let used = image(scratch.path(), &store, "used", "three333");
    assert!(store.resolve(&first.to_string()).unwrap().is_dangling());
    let (removed, bytes) = store.prune(true, &|_| true, &nobody).unwrap();
    assert!(removed.contains(&Removed::Deleted(first.to_string())) && bytes == 4);
    let in_use = |id: &Digest| (*id == used).then(|| InUse { container: "c".into(), running: false });
    let (removed, bytes) = store.prune(false, &|image| image.id != first, &in_use).unwrap();
    assert!(removed.contains(&Removed::Untagged("a:latest".into())) && bytes == 6, "{removed:?} {bytes}");
    assert!(removed.contains(&Removed::Deleted(second.to_string())));
    assert!(store.resolve("used").is_ok());
}

#[test]
fn digests_go_with_the_last_tag_of_their_repository() {
    let (scratch, store) = scratch_store();
    let id = image(scratch.path(), &store, "a:1", "x");
    let digest = format!("a@sha256:{}", "1".repeat(64));
    store.add_digest(&id, &digest).unwrap();
    assert_eq!(store.resolve(&digest).unwrap().repo_digests, std::slice::from_ref(&digest));
    assert_eq!(store.resolve(&digest.replace('@', ":7@")).unwrap().id, id, "the digest says all");
    let removed = store.remove("a:1", false, true, &nobody).unwrap();
    assert!(
        removed.contains(&Removed::Untagged(digest)) && removed.contains(&Removed::Deleted(id.to_string()))
    );
}

#[test]
fn an_image_whose_container_is_only_being_made_stays() {
    let (scratch, store) = scratch_store();
    let store = std::sync::Arc::new(store);
    let id = image(scratch.path(), &store, "a:1", "x");
    let pinned = store.pin(&id).unwrap();
    let error = store.remove(&id.short(), true, true, &nobody).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert!(
        error
            .message
            .ends_with("(cannot be forced) - image is being used by a container that is being created")
    );
    assert_eq!(store.prune(false, &|_| true, &nobody).unwrap().0, []);
    assert_eq!(store.resolve("a:1").unwrap().id, id, "its name stays as well");
    // A name may go, as that of one that a container uses.
    assert_eq!(store.remove("a:1", true, true, &nobody).unwrap(), [Removed::Untagged("a:1".into())]);
    let again = store.pin(&id).unwrap();
    drop(pinned);
    assert_eq!(store.prune(true, &|_| true, &nobody).unwrap().0, []);
    // By then it is known who uses it.
    drop(again);
    assert_eq!(store.prune(true, &|_| true, &used(false)).unwrap().0, []);
    assert_eq!(store.prune(true, &|_| true, &nobody).unwrap().0[0], Removed::Deleted(id.to_string()));
    assert_eq!(store.pin(&id).unwrap_err().kind, Kind::NotFound);
}

#[test]
fn whoever_asks_what_uses_an_image_is_not_overtaken() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (scratch, store) = scratch_store();
    let store = std::sync::Arc::new(store);
    let tar = shell_tar(scratch.path(), "echo x >f", "");
    let used_by_one = AtomicBool::new(false);
    let ended = AtomicBool::new(false);
    let in_use = |_: &Digest| {
        let container = "0123456789abcdef".to_owned();
        used_by_one.load(Ordering::SeqCst).then_some(InUse { container, running: false })
    };
    /// Ends the pruner also where the test fails.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _end = End(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                store.prune(false, &|_| true, &in_use).unwrap();
            }
        });
        let mut made = 0;
        while made < 20 {
            let id = import(&store, &tar, Import { reference: Some("a:1".into()), ..Import::default() });
            // Pruned before it is used: as good as never made.
            let Ok(pinned) = id.and_then(|image| store.pin(&image.id)) else { continue };
            used_by_one.store(true, Ordering::SeqCst);
            drop(pinned);
            made += 1;
            let there = store.resolve("a:1").is_ok();
            used_by_one.store(false, Ordering::SeqCst);
            assert!(there, "the image of a container was pruned");
        }
    });
}

#[test]
fn a_name_that_moved_meanwhile_is_the_other_images() {
    let (scratch, store) = scratch_store();
    let former = import(
        &store,
        &shell_tar(scratch.path(), "echo x >f", ""),
        Import { reference: Some("a:1".into()), ..Import::default() },
    );
    let former = former.unwrap().id;
    let next = import(
        &store,
        &shell_tar(scratch.path(), "echo y >f", ""),
        Import { reference: Some("b:1".into()), ..Import::default() },
    );
    let next = next.unwrap().id;
    // Its names are known by the time that it is asked who uses it.
    let moves_it = |id: &Digest| {
        if *id == former {
            store.tag("b:1", "a:1").unwrap();
        }
        None
    };
    let (removed, _) = store.prune(false, &|image| image.id == former, &moves_it).unwrap();
    assert_eq!(store.resolve("a:1").unwrap().id, next, "the name that moved went with its former image");
    assert_eq!(removed[0], Removed::Deleted(former.to_string()));
}

#[test]
fn who_removes_what_another_removes_is_told_its_own_end() {
    let (scratch, store) = scratch_store();
    let tar = shell_tar(scratch.path(), "echo x >f", "");
    let id = import(&store, &tar, Import { reference: Some("a:1".into()), ..Import::default() }).unwrap().id;
    let name = id.to_string();
    let running = || Some(InUse { container: "0123456789abcdef".into(), running: true });
    // Which of both comes first at the end is the machine's, so often.
    for _ in 0..50 {
        let (asked, is_asked) = std::sync::mpsc::channel();
        let (answer, answered) = std::sync::mpsc::channel();
        // The first is asked who uses the image, and hears in the end that a container does.
        let slow = move |_: &Digest| {
            asked.send(()).unwrap();
            answered.recv().unwrap()
        };
        let (store, name) = (&store, &name);
        std::thread::scope(|scope| {
            let first = scope.spawn(move || store.remove(name, false, true, &slow));
            is_asked.recv().unwrap();
            let second = scope.spawn(move || store.remove(name, false, true, &|_| running()));
            std::thread::yield_now();
            answer.send(running()).unwrap();
            for removal in [first, second] {
                let refused = removal.join().unwrap().unwrap_err();
                assert!(
                    refused.message.ends_with("used by running container 0123456789ab"),
                    "{}",
                    refused.message
                );
            }
        });
    }
    assert_eq!(store.resolve("a:1").unwrap().id, id);
}

#[test]
fn a_name_that_was_given_meanwhile_keeps_its_image() {
    for (name, force) in [("a:1", true), ("a:1", false), ("ID", false)] {
        let (scratch, store) = scratch_store();
        let tar = shell_tar(scratch.path(), "echo x >f", "");
        let id =
            import(&store, &tar, Import { reference: Some("a:1".into()), ..Import::default() }).unwrap().id;
        // The last question is asked when the name that was known has gone.
        let asked = std::cell::Cell::new(0);
        let names_it = |_: &Digest| {
            asked.set(asked.get() + 1);
            store.tag(&id.to_string(), "b:1").unwrap();
            None
        };
        let name = if name == "ID" { id.to_string() } else { name.to_owned() };
        let told = store.remove(&name, force, true, &names_it);
        assert!(asked.get() > 0);
        assert_eq!(store.resolve("b:1").unwrap().id, id, "{name} {force}: {told:?}");
        // What is refused has changed nothing.
        assert_eq!(store.resolve("a:1").is_ok(), told.is_err(), "{name} {force}: {told:?}");
    }
}
