use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::listing::{Entry, Identity, put_number};

struct Place {
    _root: tempfile::TempDir,
    contexts: Contexts,
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let (kept, temporary) = (root.path().join("kept"), root.path().join("tmp"));
    fs::create_dir(&kept).unwrap();
    fs::create_dir(&temporary).unwrap();
    Place { contexts: Contexts::open(kept, temporary).unwrap(), _root: root }
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry { path: path.into(), kind, mode: 0o750, modified: 1_000_000 }
}

/// A file whose identity is this number.
fn file(path: &str, size: u64, number: u32) -> Entry {
    let identity = (number > 0).then_some(Identity { device: 1, inode: 2, changed: (3, number) });
    entry(path, Kind::File { size, identity })
}

/// Tells, and sends what is asked for; which files that were.
fn sent(
    contexts: &Contexts,
    socket: Option<&str>,
    entries: Vec<Entry>,
    bytes: &[u8],
) -> (Vec<usize>, Result<Context>) {
    let mut told = Vec::new();
    Listing { entries }.write(&mut told).unwrap();
    let socket = socket.map(Path::new);
    let missing = contexts.compare(socket, "here", &mut &told[..]).unwrap().unwrap();
    let mut body = Vec::new();
    for index in &missing.files {
        put_number(&mut body, *index as u64).unwrap();
        put_number(&mut body, bytes.len() as u64).unwrap();
        body.extend(bytes);
    }
    let context = contexts.receive(socket, &missing.id, &mut &body[..]);
    (missing.files, context)
}

fn read(context: &Context, path: &str) -> String {
    fs::read_to_string(context.path().join(path)).unwrap()
}

#[test]
fn only_what_was_changed_is_sent() {
    let place = place();
    let entries = || vec![entry("d", Kind::Folder), file("d/a", 3, 1), file("d/b", 3, 1), file("new", 3, 0)];
    let (asked, context) = sent(&place.contexts, None, entries(), b"one");
    assert_eq!(asked, [1, 2, 3]);
    let context = context.unwrap();
    assert_eq!(read(&context, "d/a"), "one");
    let metadata = fs::metadata(context.path().join("d")).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.mtime()), (0o750, 1_000_000));
    assert_eq!(context.digest(b"d/a"), Some(Digest::of(b"one")));
    drop(context);
    let mut entries = entries();
    entries[1] = file("d/a", 3, 2);
    let (asked, context) = sent(&place.contexts, None, entries, b"two");
    assert_eq!(asked, [1, 3]);
    let context = context.unwrap();
    assert_eq!((read(&context, "d/a"), read(&context, "d/b")), ("two".into(), "one".into()));
    assert_eq!(context.digest(b"d/b"), Some(Digest::of(b"one")));
    assert_eq!(context.digest(b"d/a"), Some(Digest::of(b"two")));
}

#[test]
fn what_becomes_another_kind_or_goes_is_replaced() {
    let place = place();
    let first = vec![
        entry("d", Kind::Folder),
        entry("d/e", Kind::Folder),
        file("d/e/f", 1, 1),
        entry("l", Kind::Link(b"/etc".to_vec())),
        file("x", 1, 1),
        file("gone", 1, 1),
    ];
    drop(sent(&place.contexts, None, first, b"1").1.unwrap());
    let second = vec![file("d", 1, 1), entry("l", Kind::Folder), file("l/f", 1, 1), entry("x", Kind::Fifo)];
    let context = sent(&place.contexts, None, second, b"2").1.unwrap();
    assert_eq!((read(&context, "d"), read(&context, "l/f")), ("2".into(), "2".into()));
    assert!(!context.path().join("gone").exists() && !Path::new("/etc/f").exists());
    assert_eq!(fs::read_dir(context.path()).unwrap().count(), 3);
    assert_eq!(context.digest(b"gone"), None);
}

#[test]
fn a_build_that_goes_on_keeps_its_files() {
    let place = place();
    let one = || vec![file("f", 1, 1)];
    let first = sent(&place.contexts, None, one(), b"1").1.unwrap();
    // The same is shared; another state of it is not made under its eyes.
    let (asked, second) = sent(&place.contexts, None, one(), b"1");
    assert!(asked.is_empty());
    let second = second.unwrap();
    let told = place.contexts.folders().unwrap();
    assert_eq!((told.len(), told[0].in_use, told[0].size), (1, true, 1));
    let refused = sent(&place.contexts, None, vec![file("f", 1, 2)], b"2").1.unwrap_err();
    assert_eq!(refused.kind, Fault::Conflict);
    assert_eq!(read(&first, "f"), "1");
    let trash = Folder::beneath(&place.contexts.temporary).unwrap();
    assert!(place.contexts.take(0, &trash).unwrap().is_empty());
    drop((first, second));
    assert_eq!(read(&sent(&place.contexts, None, vec![file("f", 1, 2)], b"2").1.unwrap(), "f"), "2");
    assert!(place.contexts.take(1, &trash).unwrap().is_empty());
    assert_eq!(place.contexts.take(0, &trash).unwrap().len(), 1);
    assert_eq!(place.contexts.names().unwrap().len(), 0);
}

#[test]
fn sockets_share_nothing() {
    let place = place();
    let one = || vec![file("f", 1, 1)];
    drop(sent(&place.contexts, None, one(), b"1").1.unwrap());
    let (asked, context) = sent(&place.contexts, Some("/a.sock"), one(), b"2");
    assert_eq!((asked, read(&context.unwrap(), "f")), (vec![0], "2".to_owned()));
    // What one has told another does not take.
    let mut told = Vec::new();
    Listing { entries: one() }.write(&mut told).unwrap();
    let missing = place.contexts.compare(None, "here", &mut &told[..]).unwrap().unwrap();
    let other = place.contexts.receive(Some(Path::new("/a.sock")), &missing.id, &mut std::io::empty());
    assert_eq!(other.unwrap_err().kind, Fault::NotFound);
}

#[test]
fn what_comes_half_or_was_not_asked_for_leaves_nothing() {
    let place = place();
    let told = |entries| {
        let mut told = Vec::new();
        Listing { entries }.write(&mut told).unwrap();
        place.contexts.compare(None, "here", &mut &told[..]).unwrap().unwrap()
    };
    for body in [&b""[..], b"\x00\x05abc", b"\x01\x01a", b"\x00"] {
        let missing = told(vec![file("f", 5, 1)]);
        assert!(place.contexts.receive(None, &missing.id, &mut &body[..]).is_err(), "{body:?}");
        assert!(place.contexts.names().unwrap().is_empty());
        // Nor does it count a second time.
        let again = place.contexts.receive(None, &missing.id, &mut &body[..]).unwrap_err();
        assert_eq!(again.kind, Fault::NotFound);
    }
    // A file that has become longer since it was told is asked for again.
    drop(sent(&place.contexts, None, vec![file("f", 1, 1)], b"longer").1.unwrap());
    assert_eq!(told(vec![file("f", 1, 1)]).files, [0]);
    assert_eq!(told(vec![file("f", 6, 1)]).files, [0]);
}

#[test]
fn a_tree_without_its_record_is_begun_anew() {
    let place = place();
    drop(sent(&place.contexts, None, vec![file("f", 1, 1)], b"1").1.unwrap());
    let name = place.contexts.names().unwrap().remove(0);
    let record = place.contexts.record(&name);
    let text = fs::read(&record).unwrap();
    // Of another boot.
    let at = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let other = [&text[..at], b"00000000", &text[at + 8..]].concat();
    fs::write(&record, other).unwrap();
    let (asked, context) = sent(&place.contexts, None, vec![file("f", 1, 1)], b"2");
    assert_eq!((asked, read(&context.unwrap(), "f")), (vec![0], "2".to_owned()));
    fs::remove_file(&record).unwrap();
    let Contexts { root, temporary, .. } = place.contexts;
    let again = Contexts::open(root, temporary).unwrap();
    assert!(again.names().unwrap().is_empty());
}

#[test]
fn what_was_not_changed_is_known_by_its_digest() {
    let place = place();
    let entries = || vec![entry("d", Kind::Folder), file("d/f", 3, 1)];
    let digest = |entries| Listing { entries }.encoded().unwrap().1;
    let known = digest(entries()).unwrap();
    assert!(place.contexts.same(None, "here", known).unwrap().is_none());
    let state = sent(&place.contexts, None, entries(), b"one").1.unwrap().state();
    let missing = place.contexts.same(None, "here", known).unwrap().unwrap();
    assert!(missing.files.is_empty());
    let context = place.contexts.receive(None, &missing.id, &mut std::io::empty()).unwrap();
    assert_eq!((context.state(), context.digest(b"d/f")), (state, Some(Digest::of(b"one"))));
    drop(context);
    // Neither under another name nor for who comes by another socket.
    assert!(place.contexts.same(None, "there", known).unwrap().is_none());
    assert!(place.contexts.same(Some(Path::new("/a.sock")), "here", known).unwrap().is_none());
    // What was changed between the question and the build is told again.
    let missing = place.contexts.same(None, "here", known).unwrap().unwrap();
    let touched = || vec![entry("d", Kind::Folder), file("d/f", 3, 2)];
    let again = sent(&place.contexts, None, touched(), b"one").1.unwrap();
    assert_eq!(again.state(), state, "a touch changes nothing that a build sees");
    drop(again);
    let refused = place.contexts.receive(None, &missing.id, &mut std::io::empty()).unwrap_err();
    assert_eq!(refused.kind, Fault::Conflict);
    let other = sent(&place.contexts, None, vec![entry("d", Kind::Folder), file("d/f", 3, 3)], b"two");
    assert_ne!(other.1.unwrap().state(), state);
    // A file by which nothing is known is sent each time.
    let unknown = || vec![file("f", 3, 0)];
    assert!(digest(unknown()).is_none());
    drop(sent(&place.contexts, None, unknown(), b"one").1.unwrap());
    assert_eq!(Record::head(&place.contexts.record(&name_for(None, "here"))).unwrap().listing, None);
}

#[test]
fn who_only_tells_drives_out_its_own() {
    let place = place();
    let tell = |socket: Option<&str>| {
        let mut told = Vec::new();
        Listing { entries: vec![file("f", 1, 1)] }.write(&mut told).unwrap();
        place.contexts.compare(socket.map(Path::new), "here", &mut &told[..]).unwrap().unwrap().id
    };
    let first = tell(None);
    let others: Vec<String> = (0..=PENDING).map(|_| tell(Some("/a.sock"))).collect();
    let receive = |socket: Option<&str>, id: &str| {
        place.contexts.receive(socket.map(Path::new), id, &mut &b"\x00\x01x"[..]).map(drop)
    };
    assert_eq!(receive(Some("/a.sock"), &others[0]).unwrap_err().kind, Fault::NotFound);
    receive(Some("/a.sock"), &others[1]).unwrap();
    receive(None, &first).unwrap();
    // Who was waited for is forgotten with the last.
    place.contexts.lock("another");
    assert_eq!(place.contexts.locks.lock().unwrap().len(), 1);
}

#[test]
fn copies_are_known_again_up_to_a_number() {
    let place = place();
    let digest = |n: usize| Digest::of(&n.to_le_bytes());
    for n in 0..COPIES {
        place.contexts.note_copy(digest(n), digest(0));
    }
    assert_eq!(place.contexts.copy_known(&digest(1)), Some(digest(0)));
    place.contexts.note_copy(digest(COPIES), digest(1));
    assert_eq!(
        (place.contexts.copy_known(&digest(1)), place.contexts.copy_known(&digest(COPIES))),
        (None, Some(digest(1)))
    );
}
