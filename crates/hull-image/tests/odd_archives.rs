//! Archives as other tools write them: taken as Docker takes them, and given back as they came.

mod common;

use common::{import, scratch_store, shell_tar};
use hull_image::{Check, Import, Store};

fn named(name: &str) -> Import {
    Import { reference: Some(name.to_owned()), ..Import::default() }
}

fn nothing_is_wrong(store: &Store) {
    let found = store.check(Check { contents: true, ..Check::default() }).unwrap().findings;
    assert_eq!(found, []);
}

/// A manifest for what `docker save` writes.
fn docker_archive(scratch: &std::path::Path, layer: &[u8], script: &str, names: &str) -> Vec<u8> {
    std::fs::write(scratch.join("layer.tar"), layer).unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        hull_image::Digest::of(layer)
    );
    std::fs::write(scratch.join("c.json"), config).unwrap();
    let manifest = r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["lay/layer.tar"]}]"#;
    std::fs::write(scratch.join("manifest.json"), manifest).unwrap();
    let script = format!("cp ../*.json .; cp ../layer.tar real.tar; {script}");
    shell_tar(scratch, &script, &format!("--no-recursion {names}"))
}

#[test]
fn entries_beneath_the_layer_s_own_links_are_where_those_lead() {
    let (scratch, store) = scratch_store();
    // As of a system whose /lib is a link, and packages that know nothing of that.
    let script =
        "mkdir -p usr/lib x/deep; ln -s usr/lib lib; ln -s /lib root; echo a >usr/lib/a; echo new >x/new;
                  ln x/new x/hard; echo er >x/deep/er; mkdir y; echo last >y/last; echo changed >y/new";
    let options = "--no-recursion --transform=s,^./x/,./lib/, --transform=s,^./y/,./root/, ./usr ./usr/lib ./usr/lib/a \
                   ./lib ./root ./x/new ./x/hard ./x/deep/er ./y/last ./y/new";
    let tar = shell_tar(scratch.path(), script, options);
    let image = import(&store, &tar, named("x:1")).unwrap();
    let snapshot = store.create_snapshot("s", Some(&image)).unwrap();
    let mounted = common::Mounted::new(scratch.path(), &snapshot);
    mounted.run(
        "test -L lib; test -L root; cd usr/lib; test $(cat a) = a; test $(cat hard) = new; test $(cat new) = changed;
         test $(cat deep/er) = er; test $(cat last) = last; test $(ls | wc -l) = 5",
    );
    drop(mounted);
    store.remove_snapshot("s").unwrap();
    nothing_is_wrong(&store);
    let mut saved = Vec::new();
    store.save(&["x:1".to_owned()], &mut saved).unwrap();
    let (_other, second) = scratch_store();
    second.load(&mut &saved[..], None, &|_| {}).unwrap();
    assert_eq!(second.resolve("x:1").unwrap().id, image.id, "its layer is given back bit by bit");
}

#[test]
fn links_of_a_layer_lead_nowhere_out() {
    let (scratch, store) = scratch_store();
    let outside = scratch.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    for link in
        [outside.to_str().unwrap(), "../../../outside", "../../../../../../../../../../tmp/../proc/self/cwd"]
    {
        let script = format!("ln -s {link} lib; mkdir x; echo new >x/new");
        let tar =
            shell_tar(scratch.path(), &script, "--no-recursion --transform=s,^./x/,./lib/, ./lib ./x/new");
        let refused = import(&store, &tar, named("x:1")).unwrap_err();
        assert!(
            refused.message.contains("a symbolic link that leads to no folder of the archive"),
            "{refused}"
        );
    }
    // One to the root is the layer's own.
    let script = "ln -s ../../../.. lib; mkdir x; echo new >x/new";
    let tar = shell_tar(scratch.path(), script, "--no-recursion --transform=s,^./x/,./lib/, ./lib ./x/new");
    let image = import(&store, &tar, named("x:1")).unwrap();
    let snapshot = store.create_snapshot("s", Some(&image)).unwrap();
    common::Mounted::new(scratch.path(), &snapshot).run("test $(cat new) = new");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    nothing_is_wrong(&store);
}

#[test]
fn a_link_that_is_replaced_takes_no_file_along() {
    let (scratch, store) = scratch_store();
    // `a` leads to `b`; then `b` is another folder, and what came by way of `a` before is not in it.
    let script = "mkdir b x y z; ln -s b a; echo 1 >x/f; echo file >y/b; echo 2 >z/g";
    let options = "--no-recursion --transform=s,^./x/,./a/, --transform=s,^./y/,./, --transform=s,^./z/,./a/, ./b ./a ./x/f ./y/b";
    let tar = shell_tar(scratch.path(), script, options);
    let image = import(&store, &tar, named("x:1")).unwrap();
    let snapshot = store.create_snapshot("s", Some(&image)).unwrap();
    common::Mounted::new(scratch.path(), &snapshot).run("test $(cat b) = file; test -L a");
    nothing_is_wrong(&store);
    let tar = shell_tar(scratch.path(), script, &format!("{options} ./z/g"));
    let refused = import(&store, &tar, named("x:2")).unwrap_err();
    assert!(refused.message.contains("leads to no folder"), "{refused}");
}

#[test]
fn an_archive_without_its_end_is_taken_where_nothing_is_missing() {
    let (scratch, store) = scratch_store();
    let layer = shell_tar(scratch.path(), "echo x >x", "");
    let script = "mkdir lay; mv real.tar lay/layer.tar";
    let whole = docker_archive(scratch.path(), &layer, script, "./c.json ./lay/layer.tar ./manifest.json");
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    // The last member is `.` itself: its header is the last block that has something.
    let cut = &whole[..end / 512 * 512];
    store.load(&mut &cut[..], None, &|_| {}).unwrap();
    assert!(store.resolve("x:1").is_ok());
    let without = docker_archive(scratch.path(), &layer, script, "./manifest.json ./c.json ./lay/layer.tar");
    let first = 512 * 4;
    let (_other, empty) = scratch_store();
    let error = empty.load(&mut &without[..first], None, &|_| {}).unwrap_err();
    assert!(error.message.contains("truncated") && error.message.contains("is missing"), "{error}");
}

#[test]
fn links_of_an_archive_lead_within_it() {
    let (scratch, store) = scratch_store();
    let layer = shell_tar(scratch.path(), "echo x >x", "");
    for (link, script) in [
        ("a layer", "mkdir lay; ln -s ../real.tar lay/layer.tar"),
        ("an absolute one", "mkdir lay; ln -s /real.tar lay/layer.tar"),
        ("above the archive is nothing", "mkdir lay; ln -s ../../../real.tar lay/layer.tar"),
        ("a folder", "mkdir real; mv real.tar real/layer.tar; ln -s real lay"),
        ("the archive itself", "mv real.tar layer.tar; ln -s . lay"),
    ] {
        let names = "./c.json ./manifest.json $(find . -name '*.tar') $(find . -name lay)";
        let archive = docker_archive(scratch.path(), &layer, script, names);
        store.load(&mut &archive[..], None, &|_| {}).unwrap_or_else(|error| panic!("{link}: {error}"));
        store.remove("x:1", false, true, &|_| None).unwrap();
    }
    nothing_is_wrong(&store);
}

#[test]
fn a_configuration_without_layers_says_so() {
    let (scratch, store) = scratch_store();
    let manifest = r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":[]}]"#;
    for (config, is_taken) in
        [("{}", false), (r#"{"rootfs":null}"#, false), (r#"{"rootfs":{"type":"layers"}}"#, true)]
    {
        let script = format!("printf '%s' '{manifest}' >manifest.json; printf '%s' '{config}' >c.json");
        let archive = shell_tar(scratch.path(), &script, "");
        let loaded = store.load(&mut &archive[..], None, &|_| {});
        assert_eq!(loaded.is_ok(), is_taken, "{config}");
        if let Err(error) = loaded {
            assert_eq!(error.message, "invalid image JSON, no RootFS key");
        }
    }
}

#[test]
fn what_is_loaded_has_its_name_at_once() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (scratch, store) = scratch_store();
    let layer = shell_tar(scratch.path(), "echo x >x", "");
    let archive = docker_archive(
        scratch.path(),
        &layer,
        "mkdir lay; mv real.tar lay/layer.tar",
        "./c.json ./lay/layer.tar ./manifest.json",
    );
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // What has no name goes, whoever it is of.
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                store.prune(true, &|_| true, &|_| None).unwrap();
            }
        });
        let loaded: Result<(), String> = (0..100).try_for_each(|_| {
            let loaded = store.load(&mut &archive[..], None, &|_| {}).map_err(|error| error.to_string())?;
            assert_eq!(format!("{loaded:?}"), r#"[Reference("x:1")]"#);
            store.remove("x:1", false, true, &|_| None).map(drop).map_err(|error| error.to_string())
        });
        ended.store(true, Ordering::Relaxed);
        loaded.unwrap();
    });
    nothing_is_wrong(&store);
}

#[test]
fn layers_whose_database_is_gone_are_put_aside_and_told() {
    let (scratch, store) = scratch_store();
    let root = scratch.path().join("store");
    let image = import(&store, &shell_tar(scratch.path(), "echo x >x", ""), named("x:1")).unwrap();
    let upper = store.create_snapshot("s", Some(&image)).unwrap().upper;
    std::fs::write(upper.join("mine"), "precious").unwrap();
    drop(store);
    for file in ["image.db", "image.db-wal", "image.db-shm"] {
        std::fs::remove_file(root.join(file)).ok();
    }
    // A daemon that died amid this has done a part of it.
    std::fs::create_dir_all(root.join("lost/1")).unwrap();
    std::fs::rename(root.join("split"), root.join("lost/1/split")).unwrap();
    let store = Store::open(&root, &[]).unwrap();
    assert!(["split", "merged", "layers"].iter().all(|folder| root.join("lost/1").join(folder).exists()));
    assert!(!root.join("lost/2").exists());
    assert!(store.is_lost_below("s"));
    let told = |how| {
        let found = store.check(how).unwrap().findings;
        found.iter().map(|finding| (finding.what.clone(), finding.repaired)).collect::<Vec<_>>()
    };
    let lost = |repaired| vec![("1 layers (0 MB) whose database is gone".to_owned(), repaired)];
    assert_eq!(told(Check::default()), lost(false));
    let layers = std::fs::read_dir(root.join("lost/1/layers")).unwrap().flatten();
    assert!(
        layers.map(|layer| layer.path().join("x")).any(|file| file.exists()),
        "a container may run on it"
    );
    let repair = Check { repair: true, ..Check::default() };
    assert_eq!(told(Check { lost_is_used: true, ..repair }), lost(false));
    // Another image gets no number of theirs: the snapshot would stand on it the next time.
    let other = import(&store, &shell_tar(scratch.path(), "echo y >y", ""), named("y:1")).unwrap();
    drop(store);
    let store = Store::open(&root, &[]).unwrap();
    assert!(store.is_lost_below("s"), "it does not stand on {}", other.id);
    let found = store.check(repair).unwrap().findings;
    assert!(found.len() == 1 && found[0].repaired, "{found:?}");
    nothing_is_wrong(&store);
    assert_eq!(std::fs::read_dir(root.join("lost")).unwrap().count(), 0);
    // What was written above is there for whoever has the image again.
    let image = import(&store, &shell_tar(scratch.path(), "echo x >x", ""), named("x:1")).unwrap();
    store.renew_snapshot("s", Some(&image), None).unwrap();
    assert_eq!(std::fs::read(store.snapshot("s").unwrap().upper.join("mine")).unwrap(), b"precious");
}
