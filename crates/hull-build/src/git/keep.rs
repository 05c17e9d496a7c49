//! `.git`, where it is wanted: enough of a repository that git itself finds its HEAD, the commit, and nothing changed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use sha1_checked::{Digest as _, Sha1};

use super::address::Address;
use super::checkout::{Filed, Written};
use super::object::{Oid, finished};
use super::pack::{Indexed, Pack};
use crate::failure::{Failure, Result};

/// Writes the repository of one commit into a folder that has its files.
pub(super) fn write(
    pack: &Pack,
    file: &Path,
    commit: Oid,
    address: &Address,
    folder: &Path,
    written: &Written,
) -> Result<()> {
    let failed = |error: io::Error| Failure::system("keep .git", error);
    let git = folder.join(".git");
    // The folder was made by this daemon and no tree has an entry of that name, so nothing here is somebody else's link.
    for inner in ["objects/pack", "objects/info", "refs/heads", "refs/tags", "info"] {
        fs::create_dir_all(git.join(inner)).map_err(failed)?;
    }
    let put = |name: &str, bytes: &[u8]| fs::write(git.join(name), bytes).map_err(failed);
    put("HEAD", format!("{commit}\n").as_bytes())?;
    put("shallow", format!("{commit}\n").as_bytes())?;
    let config = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n[remote \"origin\"]\n\turl = {}\n\tfetch = \
         +refs/heads/*:refs/remotes/origin/*\n",
        address.url()
    );
    put("config", config.as_bytes())?;
    let tag = address.reference.strip_prefix("refs/tags/");
    if let Some(tag) = tag.filter(|tag| !tag.contains("..") && !tag.starts_with('/')) {
        let path = git.join("refs/tags").join(tag);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        fs::write(path, format!("{commit}\n")).map_err(failed)?;
    }
    let name = format!("objects/pack/pack-{}", pack.checksum);
    fs::copy(file, git.join(format!("{name}.pack"))).map_err(failed)?;
    put(&format!("{name}.idx"), &index_of_pack(&pack.index(), pack.checksum)?)?;
    // Of a part of a repository git's list would say that all else is gone; without one it makes its own.
    if let Some(files) = written.files.as_ref().filter(|_| address.subdir.is_empty()) {
        put("index", &list_of_files(files)?)?;
    }
    Ok(())
}

fn ended(mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut hash = Sha1::new();
    hash.update(&bytes);
    bytes.extend_from_slice(&finished(hash)?.0);
    Ok(bytes)
}

/// An index of a pack, version 2.
fn index_of_pack(objects: &[Indexed], checksum: Oid) -> Result<Vec<u8>> {
    let mut bytes = b"\xfftOc\0\0\0\x02".to_vec();
    let mut at = 0;
    for first in 0..=255u8 {
        at += objects[at..].iter().take_while(|object| object.oid.0[0] <= first).count();
        bytes.extend_from_slice(&(at as u32).to_be_bytes());
    }
    objects.iter().for_each(|object| bytes.extend_from_slice(&object.oid.0));
    objects.iter().for_each(|object| bytes.extend_from_slice(&object.crc.to_be_bytes()));
    let mut large = Vec::new();
    for object in objects {
        match u32::try_from(object.offset).ok().filter(|offset| *offset < 1 << 31) {
            Some(offset) => bytes.extend_from_slice(&offset.to_be_bytes()),
            None => {
                bytes.extend_from_slice(&((large.len() as u32 / 8) | (1 << 31)).to_be_bytes());
                large.extend_from_slice(&object.offset.to_be_bytes());
            }
        }
    }
    bytes.extend_from_slice(&large);
    bytes.extend_from_slice(&checksum.0);
    ended(bytes)
}

/// git's list of the files that it looks after, version 2, with nothing about their times: git looks at each once.
fn list_of_files(files: &[Filed]) -> Result<Vec<u8>> {
    let mut files: Vec<&Filed> = files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut bytes = b"DIRC\0\0\0\x02".to_vec();
    bytes.extend_from_slice(&(files.len() as u32).to_be_bytes());
    for file in files {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 24]);
        bytes.extend_from_slice(&file.mode.to_be_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&file.oid.0);
        bytes.extend_from_slice(&(file.path.len().min(0xfff) as u16).to_be_bytes());
        bytes.write_all(&file.path).map_err(|error| Failure::system("keep .git", error))?;
        // At least one zero, until the length is a multiple of eight.
        bytes.resize(start + (bytes.len() - start + 8) / 8 * 8, 0);
    }
    ended(bytes)
}
