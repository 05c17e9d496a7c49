//! A tree as text, so that two of them can be compared whole.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// All that is in a folder, by its path, and the folder itself as `.`: kind, mode, owner, size, device, the time of its
/// last change to the nanosecond, where a link leads, which names are one file, whether there are holes, extended
/// attributes, and what is in it.
///
/// # Panics
/// Something cannot be read.
pub fn picture(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut names = HashMap::new();
    look(root, ".", &mut names, &mut found);
    found
}

fn look(path: &Path, name: &str, names: &mut HashMap<u64, String>, found: &mut BTreeMap<String, String>) {
    let meta = fs::symlink_metadata(path).expect("what is in a folder can be looked at");
    let mut told = format!(
        "{:o} {}:{} rdev {} mtime {}.{:09}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.rdev(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    for (name, value) in attributes(path) {
        told.push_str(&format!(" {name}={value:?}"));
    }
    if meta.is_dir() {
        found.insert(name.to_owned(), told);
        let mut entries: Vec<_> =
            fs::read_dir(path).expect("a folder can be read").map(|entry| entry.expect("an entry")).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inner = format!("{name}/{}", entry.file_name().to_string_lossy());
            look(&entry.path(), &inner, names, found);
        }
        return;
    }
    if meta.nlink() > 1 {
        let first = names.entry(meta.ino()).or_insert_with(|| name.to_owned());
        told.push_str(&format!(" is {first} of {}", meta.nlink()));
    }
    if meta.is_symlink() {
        told.push_str(&format!(" -> {}", fs::read_link(path).expect("a link").display()));
    }
    if meta.is_file() {
        let holes = meta.blocks() * 512 + (64 << 10) <= meta.len();
        let content = fs::read(path).expect("a file can be read");
        told.push_str(&format!(" {} bytes, holes {holes}, {:x}", meta.len(), Sha256::digest(&content)));
    }
    found.insert(name.to_owned(), told);
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, &mut list[..]) else { return BTreeMap::new() };
    let names = list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]).ok()?;
        value.truncate(length);
        Some((String::from_utf8_lossy(name).into_owned(), value))
    };
    names.filter_map(value).collect()
}
