//! What snapshots changed, and images made of that.

mod common;

use common::{Mounted, import, scratch_store, shell_tar};
use hull_image::{ChangeKind, Commit, Import};

fn told(store: &hull_image::Store, key: &str) -> String {
    let changes = store.changes(key).unwrap();
    let lines = changes.iter().map(|change| {
        let kind = match change.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        format!("{kind} {}", change.path)
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn changes_are_told_and_committed() {
    let (scratch, store) = scratch_store();
    let tar = shell_tar(
        scratch.path(),
        "mkdir -p etc a/b/c gone same kept; echo x >etc/passwd; echo y >etc/group; echo 1 >a/b/f; echo 2 >a/b/g;
         echo 3 >gone/f; echo 4 >same/f; echo 5 >tofile; mkdir todir; echo 6 >todir/f; echo 7 >kept/f",
        "",
    );
    let image = import(&store, &tar, Import::default()).unwrap();
    let snapshot = store.create_snapshot("one", Some(&image)).unwrap();
    {
        let mounted = Mounted::new(scratch.path(), &snapshot);
        assert!(mounted.0.join("dev/pts").is_dir() && mounted.0.join(".dockerenv").is_file());
        mounted.run(
            "echo x >new; rm etc/group; echo y >>etc/passwd; rm -r gone; mkdir deep deep/er; ln new deep/er/hard;
             rm -r a; mkdir a a/b; echo 9 >a/b/g; rm tofile; mkdir tofile; echo >tofile/f; rm -r todir; echo >todir;
             chmod 600 same/f; touch -c -r kept/f kept/f; ln -s nowhere link; mknod node c 1 5; truncate -s 3M holes;
             setfattr -n user.x -v 1 new 2>/dev/null || true",
        );
    }
    let expected = "A /deep\nA /deep/er\nA /deep/er/hard\nA /holes\nA /link\nA /new\nA /node\nC /a\nC /a/b\nC /a/b/g\n\
                    C /etc\nC /etc/passwd\nC /same\nC /same/f\nC /todir\nC /tofile\nA /tofile/f\nD /a/b/c\nD /a/b/f\n\
                    D /etc/group\nD /gone";
    let mut expected: Vec<&str> = expected.split('\n').collect();
    expected.sort_by_key(|line| line[2..].to_owned());
    assert_eq!(told(&store, "one").lines().collect::<Vec<_>>(), expected);
    assert!(store.snapshot_size("one").unwrap() > 3 << 20);

    let options = Commit { author: "me".into(), reference: Some("child:1".into()), ..Commit::default() };
    let child = store.commit("one", Some(&image), options).unwrap();
    assert_eq!((child.layers.len(), child.parent), (2, Some(image.id)));
    assert!(store.has_children(&image.id));
    let snapshot = store.create_snapshot("two", Some(&child)).unwrap();
    {
        let mounted = Mounted::new(scratch.path(), &snapshot);
        mounted.run(
            "test \"$(cat new)\" = x; test ! -e etc/group; test ! -e gone; test ! -e a/b/f; test \"$(cat a/b/g)\" = 9;
             test -f todir; test -f tofile/f; test new -ef deep/er/hard; test -c node; test \"$(readlink link)\" = nowhere;
             test \"$(stat -c %s holes)\" = 3145728; test \"$(stat -c %b holes)\" -lt 100; test \"$(stat -c %a same/f)\" = 600",
        );
    }
    assert_eq!(told(&store, "two"), "", "a child as it is has no changes");
    let history = store.history(&child);
    assert_eq!(history.len(), 2);
    assert_eq!((history[0].id.clone(), history[1].id.clone()), (child.id.to_string(), image.id.to_string()));
    assert_eq!(history[0].tags, ["child:1"]);
    store.remove_snapshot("one").unwrap();
    store.remove_snapshot("two").unwrap();
}

#[test]
fn three_hundred_layers_mount() {
    let (scratch, store) = scratch_store();
    let mut image = import(&store, &shell_tar(scratch.path(), "echo 0 >f0", ""), Import::default()).unwrap();
    for number in 1..300 {
        let key = format!("k{number}");
        let snapshot = store.create_snapshot(&key, Some(&image)).unwrap();
        std::fs::write(snapshot.upper.join(format!("f{number}")), b"x").unwrap();
        image = store.commit(&key, Some(&image), Commit::default()).unwrap();
        store.remove_snapshot(&key).unwrap();
    }
    let snapshot = store.create_snapshot("all", Some(&image)).unwrap();
    let names: usize = snapshot.lower.iter().map(|path| path.file_name().unwrap().len() + 1).sum();
    assert!(snapshot.lower.len() == 301 && names < 1000, "names relative to the folder of layers are short");
    let mounted = Mounted::new(scratch.path(), &snapshot);
    mounted.run("test -f f0 -a -f f1 -a -f f299 -a -d proc");
}
