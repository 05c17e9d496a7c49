//! hull/host: this machine, copy-on-write.

mod common;

use common::{Mounted, scratch_store};
use hull_image::{Kind, Removed};

#[test]
fn the_machine_is_seen_without_its_secrets_and_stays_as_it_is() {
    let (scratch, store) = scratch_store();
    let image = store.resolve("hull/host").unwrap();
    assert!(image.builtin && image.repo_tags == ["hull/host:latest"]);
    let snapshot = store.create_snapshot("host", Some(&image)).unwrap();
    {
        let mounted = Mounted::new(scratch.path(), &snapshot);
        mounted.run(
            "test -x bin/sh; test -f etc/passwd; test -z \"$(find root home tmp var/log var/tmp run mnt -mindepth 1)\";
             test \"$(stat -c %a root tmp home | tr '\\n' ' ')\" = '700 1777 755 ';
             test -d dev/pts -a -d proc -a -d sys -a -f .dockerenv; test ! -e etc/shadow-;
             test \"$(grep -c . etc/shadow)\" -gt 0; ! grep -v '^[^:]*:\\*:' etc/shadow;
             test \"$(stat -c %a etc/shadow)\" = \"$(stat -c %a /etc/shadow)\";
             test -z \"$(ls etc/ssh 2>/dev/null | grep 'key$')\"; test -z \"$(ls -A etc/ssl/private 2>/dev/null)\";
             echo changed >etc/hull-test; mkdir tmp/x; rm etc/hostname || true",
        );
    }
    assert!(!std::path::Path::new("/etc/hull-test").exists());
    let changes = store.changes("host").unwrap();
    let added: Vec<&str> = changes.iter().map(|change| &change.path[..]).collect();
    assert!(added.contains(&"/etc/hull-test") && added.contains(&"/tmp/x") && added.len() <= 5, "{added:?}");
    store.remove_snapshot("host").unwrap();
}

#[test]
fn it_cannot_be_removed_saved_or_renamed() {
    let (scratch, store) = scratch_store();
    let id = store.resolve("hull/host").unwrap().id.to_string();
    for name in ["hull/host", &id] {
        assert_eq!(store.remove(name, true, true, &|_| None).unwrap_err().kind, Kind::Forbidden);
        assert_eq!(store.save(&[name.to_owned()], &mut Vec::new()).unwrap_err().kind, Kind::Forbidden);
        assert_eq!(store.tag(name, "other").unwrap_err().kind, Kind::Forbidden);
    }
    let tar = common::shell_tar(scratch.path(), "true", "");
    let image = common::import(&store, &tar, hull_image::Import::default()).unwrap();
    assert_eq!(store.tag(&image.id.to_string(), "hull/host").unwrap_err().kind, Kind::Forbidden);
    let (removed, _) = store.prune(false, &|_| true, &|_| None).unwrap();
    assert!(removed.contains(&Removed::Deleted(image.id.to_string())));
    assert_eq!(store.images().len(), 1);
}

#[test]
fn an_archive_with_its_configuration_is_no_way_to_it() {
    let (scratch, store) = scratch_store();
    let store = std::sync::Arc::new(store);
    let image = store.resolve("hull/host").unwrap();
    assert_eq!(store.draft_of(&image).unwrap_err().kind, Kind::Forbidden);
    let folder = scratch.path().join("archive");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("config.json"), &image.raw_config).unwrap();
    std::fs::write(folder.join("manifest.json"), r#"[{"Config": "config.json", "Layers": []}]"#).unwrap();
    let tar = common::shell_tar(scratch.path(), &format!("cp {}/* .", folder.display()), "");
    let error = store.load(&mut tar.as_slice(), None, &|_| {}).unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    assert!(store.resolve("hull/host").unwrap().builtin);
}

#[test]
fn nothing_stays_mounted() {
    let (scratch, store) = scratch_store();
    let path = scratch.path().canonicalize().unwrap();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(mounts().contains(path.to_str().unwrap()));
    drop(store);
    assert!(!mounts().contains(path.to_str().unwrap()));
}
