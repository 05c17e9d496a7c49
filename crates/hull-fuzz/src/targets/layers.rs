//! Layers over layers: whiteouts, links and files of one meet what those below it have. The image is loaded twice, and each
//! time merged into a tree as a container has it where there is no overlay; both trees must be the same.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use hull_image::{Digest, Store};
use serde_json::json;

use super::tar::{BLOCK, WORDS, Walls, archive, checksums, header, member, pax};
use crate::{Once, Target};

/// The name of a member behind which another layer begins.
const NEXT: &[u8] = b"next-layer";

pub(crate) const TARGET: Target = Target {
    name: "tar-layers",
    about: "layers over layers, merged",
    seeds,
    words: WORDS,
    block: BLOCK,
    repair: checksums,
    prepare,
};

fn seeds() -> Vec<Vec<u8>> {
    let next = || header(NEXT, b'0', 0, b"");
    let folder = |name: &[u8]| header(name, b'5', 0, b"");
    let link = |name: &[u8], kind: u8, to: &[u8]| header(name, kind, 0, to);
    let below = || [folder(b"d/"), member("d/f", b"below"), member("g", b"below"), folder(b"e/s/")].concat();
    let seed = |members: &[Vec<u8>]| [below(), next(), members.concat()].concat();
    vec![
        seed(&[member("d/.wh.f", b""), member("d/n", b"above")]),
        seed(&[member("d/.wh..wh..opq", b""), member("d/f", b"above"), next(), link(b"d/h", b'1', b"d/f")]),
        seed(&[link(b"h", b'1', b"g"), next(), member(".wh.g", b""), link(b"i", b'1', b"h")]),
        seed(&[link(b"d", b'2', b"../outside"), next(), member("d/f", b"above"), folder(b"d/")]),
        seed(&[member("d", b"a file"), next(), folder(b"d/"), member("d/f/x", b"")]),
        seed(&[pax(&[("SCHILY.xattr.trusted.overlay.opaque", "y")]), folder(b"d/"), link(b"e", b'3', b"")]),
    ]
}

fn prepare() -> Once {
    let walls = Walls::new();
    let store = Store::open_with(&walls.inner, &[], Some("vfs")).expect("a store");
    Box::new(move |input| {
        let image = image(&layers(input));
        let first = merged(&store, &image);
        let again = merged(&store, &image);
        assert_eq!(first, again, "the same image makes two trees");
        walls.hold();
        match first {
            Ok(tree) => format!("{} entries", tree.len().min(20)),
            Err(why) => why,
        }
    })
}

/// The layers of an input, each an archive.
fn layers(input: &[u8]) -> Vec<Vec<u8>> {
    let mut layers: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    for block in input.chunks(BLOCK) {
        let is_next = block.starts_with(NEXT) && layers.len() < 8;
        match layers.last_mut() {
            Some(layer) if !is_next => layer.push(block.to_vec()),
            _ => layers.push(Vec::new()),
        }
    }
    layers.iter().map(|blocks| archive(blocks)).collect()
}

fn image(layers: &[Vec<u8>]) -> Vec<u8> {
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": ["fuzz:1"], "Layers": names }]);
    let mut members = vec![
        member("manifest.json", manifest.to_string().as_bytes()),
        member("config.json", config.to_string().as_bytes()),
    ];
    members.extend(names.iter().zip(layers).map(|(name, layer)| member(name, layer)));
    archive(&members)
}

/// What a container of the image sees, sorted; nothing of it stays.
fn merged(store: &Store, image: &[u8]) -> Result<Vec<String>, String> {
    store.load(&mut &image[..], None, &|_| {}).map_err(|error| error.message)?;
    let image = store.resolve("fuzz:1").expect("what was loaded is there");
    let made = store.create_snapshot("fuzz", Some(&image));
    let tree = made.map_err(|error| error.message).map(|snapshot| {
        let mut tree = Vec::new();
        look(&snapshot.upper, "", &mut tree);
        tree.sort();
        store.remove_snapshot("fuzz").expect("what was made can be removed");
        tree
    });
    store.save(&["fuzz:1".to_owned()], &mut std::io::sink()).expect("an image is given back as it came");
    store.remove("fuzz:1", true, true, &|_| None).expect("what was loaded can be removed");
    tree
}

/// Each name with what it is, its mode and owner, its links, and where it leads or how long it is.
fn look(folder: &Path, at: &str, tree: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the folder").flatten() {
        let (path, data) = (entry.path(), entry.metadata().expect("the file"));
        let name = format!("{at}/{}", entry.file_name().to_string_lossy());
        assert!(!entry.file_name().to_string_lossy().starts_with(".wh."), "{name} is a whiteout's");
        let is = data.file_type();
        let what = match () {
            () if is.is_symlink() => format!("{:?}", fs::read_link(&path).expect("a link")),
            () if is.is_file() => data.len().to_string(),
            () => String::new(),
        };
        tree.push(format!("{name} {:o} {}:{} {} {what}", data.mode(), data.uid(), data.gid(), data.nlink()));
        if is.is_dir() {
            look(&path, &name, tree);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn layers_over_layers() {
        crate::briefly(&super::TARGET);
    }
}
