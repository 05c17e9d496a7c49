//! Saving and loading: what comes back is what went.

mod common;

use std::io::Write;

use common::{import, scratch_store, shell_tar};
use hull_image::{Commit, Import, Kind, Loaded, Store};

fn load(store: &Store, mut archive: &[u8]) -> hull_image::Result<Vec<Loaded>> {
    store.load(&mut archive, None, &|_| {})
}

fn save(store: &Store, names: &[&str]) -> Vec<u8> {
    let mut archive = Vec::new();
    store.save(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), &mut archive).unwrap();
    archive
}

/// An image of three layers whose archives are hard to give back bit by bit.
fn three_layers(scratch: &std::path::Path, store: &Store) {
    let script =
        "mkdir -p a/b; echo hello >a/b/f; ln a/b/f hard; ln -s x sym; truncate -s 3M sparse; echo z >>sparse;
                  head -c 300000 /dev/urandom >random; mknod null c 1 3";
    for (name, options) in [("x:gnu", "--format=gnu --sparse"), ("x:pax", "--format=posix --sparse --xattrs")]
    {
        let tar = shell_tar(scratch, script, options);
        import(store, &tar, Import { reference: Some(name.into()), ..Import::default() }).unwrap();
    }
    let base = store.resolve("x:pax").unwrap();
    let snapshot = store.create_snapshot("s", Some(&base)).unwrap();
    std::fs::write(snapshot.upper.join("more"), vec![7; 100_000]).unwrap();
    let options = |name: &str| Commit { reference: Some(name.into()), ..Commit::default() };
    let one = store.commit("s", Some(&base), options("y:1")).unwrap();
    // The same layer twice in one image.
    store.commit("s", Some(&one), options("y:2")).unwrap();
    store.remove_snapshot("s").unwrap();
}

/// An archive whose client sends some of it, says so, and then no more until it is told.
struct Stalls<'a> {
    head: &'a [u8],
    begun: Option<std::sync::mpsc::Sender<()>>,
    goes_on: std::sync::mpsc::Receiver<()>,
}

impl std::io::Read for Stalls<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.head.is_empty() {
            let _ = self.begun.take().map(|begun| begun.send(()));
            let _ = self.goes_on.recv();
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.head.read(buffer)
    }
}

#[test]
fn drafts_are_nobody_s_images_and_nobody_waits_for_a_client_that_is_silent() {
    let (scratch, store) = scratch_store();
    three_layers(scratch.path(), &store);
    let archive = save(&store, &["y:1"]);
    let id = store.resolve("y:1").unwrap().id;
    let (_other, second) = scratch_store();
    let second = std::sync::Arc::new(second);
    let before = second.images().len();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (end, goes_on) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let second = &second;
        let mut stalls = Stalls { head: &archive[..archive.len() / 2], begun: Some(begun), goes_on };
        let silent = scope.spawn(move || second.load_drafts(&mut stalls, &[]).err());
        has_begun.recv().unwrap();
        // Twice: what one has the other has as well, and neither takes it away from the other.
        let drafts = [(); 2].map(|()| second.load_drafts(&mut &archive[..], &[]).unwrap());
        assert!(drafts.iter().flatten().all(|draft| draft.image.id == id));
        assert!(
            second.images().len() == before && second.resolve("y:1").is_err(),
            "nothing is entered or named"
        );
        let [first, last] = drafts;
        drop(first);
        assert!(second.layers_size() > 0);
        second.enter_draft(&last[0], &[]).unwrap();
        drop(last);
        assert_eq!(second.resolve(&id.to_string()).unwrap().id, id);
        second.remove(&id.to_string(), false, false, &|_| None).unwrap();
        assert_eq!(second.layers_size(), 0, "the layers were the drafts' alone");
        drop(end);
        assert!(silent.join().unwrap().is_some());
    });
}

#[test]
fn what_is_loaded_is_what_was_saved() {
    let (scratch, store) = scratch_store();
    three_layers(scratch.path(), &store);
    let archive = save(&store, &["x", "y:1", "y:2"]);
    assert_eq!(save(&store, &["x", "y:1", "y:2"]), archive, "the same every time");
    let (_other, second) = scratch_store();
    let mut loaded = load(&second, &archive).unwrap();
    loaded.sort_by_key(|loaded| format!("{loaded:?}"));
    let names = ["x:gnu", "x:pax", "y:1", "y:2"];
    assert_eq!(loaded, names.map(|name| Loaded::Reference(name.to_owned())));
    for name in names {
        assert_eq!(second.resolve(name).unwrap().id, store.resolve(name).unwrap().id);
    }
    assert_eq!(save(&second, &["x", "y:1", "y:2"]), archive);
    // Once more, into what has all of it; and compressed in every way.
    for command in ["cat", "gzip -1", "bzip2 -1", "zstd -1", "xz -0"] {
        let mut child = std::process::Command::new("sh")
            .args(["-c", command])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = archive.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        let compressed = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap();
        let (_scratch, third) = scratch_store();
        assert_eq!(load(&third, &compressed).unwrap().len(), 4, "{command}");
        assert_eq!(load(&third, &compressed).unwrap().len(), 4, "{command}, again");
        assert_eq!(third.layers_size(), store.layers_size());
    }
}

#[test]
fn an_image_without_a_name_is_loaded_by_its_id() {
    let (scratch, store) = scratch_store();
    three_layers(scratch.path(), &store);
    let id = store.resolve("y:1").unwrap().id;
    let archive = save(&store, &[&id.short()]);
    let (_other, second) = scratch_store();
    assert_eq!(load(&second, &archive).unwrap(), [Loaded::Id(id)]);
    assert!(second.resolve(&id.to_string()).unwrap().is_dangling());
}

#[test]
fn a_tree_that_was_changed_is_not_saved() {
    let (scratch, store) = scratch_store();
    let tar = shell_tar(scratch.path(), "echo secret >f", "");
    let image = import(&store, &tar, Import { reference: Some("x".into()), ..Import::default() }).unwrap();
    let tree = store.create_snapshot("s", Some(&image)).unwrap().lower[0].clone();
    std::fs::write(tree.join("f"), "SECRET\n").unwrap();
    let error = store.save(&["x".into()], &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind, Kind::System);
    assert!(error.message.contains("not any more what it was"), "{error}");
}

#[test]
fn an_archive_with_replaced_files_comes_back_bit_by_bit() {
    let (scratch, store) = scratch_store();
    let script = |text: &str| {
        format!(
            "mkdir -p d; echo {text} >f; echo {text}{text} >d/g; ln f h; truncate -s 2M s; echo {text} >>s"
        )
    };
    // Three archives in one: each file is there three times, the folder is a file once.
    let first = shell_tar(scratch.path(), &script("one"), "--sparse -b1");
    let second = shell_tar(scratch.path(), "echo none >d; echo two >h", "-b1");
    let third = shell_tar(scratch.path(), &script("three"), "-b1");
    let end = |tar: &[u8]| {
        let blocks = tar.chunks(512).rev().take_while(|block| block.iter().all(|&byte| byte == 0)).count();
        tar.len() - blocks * 512
    };
    let tar = [&first[..end(&first)], &second[..end(&second)], &third[..]].concat();
    let image = import(&store, &tar, Import { reference: Some("x".into()), ..Import::default() }).unwrap();
    let tree = store.create_snapshot("s", Some(&image)).unwrap().lower[0].clone();
    assert_eq!(std::fs::read_to_string(tree.join("d/g")).unwrap(), "threethree\n");
    let (_other, other) = scratch_store();
    load(&other, &save(&store, &["x"])).unwrap();
    assert_eq!(other.resolve("x").unwrap().id, image.id);
}
