//! What servers and repositories say, read without a server: for `hull-fuzz`.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::address::Address;
use super::checkout::{self, Checkout};
use super::object::Kind;
use super::pack::Pack;
use super::room::Room;
use super::wire::{self, Lines, Source};
use super::{keep, submodule};
use crate::failure::{Failure, Result};

/// Reads the pack in a file, and writes the files of the first of its commits, and `.git` where that is wanted, into a folder
/// that is there. How many objects there are, and how many submodules.
///
/// # Errors
/// It is malformed, has no commit, or has more than so many files and folders.
pub fn unpack(file: &Path, to: &Path, entries: u64, keep_git_dir: bool) -> Result<(usize, usize)> {
    let stop = Arc::default();
    let pack = Pack::open(file, &stop)?;
    let objects = pack.index();
    let commit = objects.iter().map(|object| object.oid).find(|oid| pack.object(*oid, Kind::Commit).is_ok());
    let commit = commit.ok_or_else(|| Failure::invalid("there is no commit in it"))?;
    let root = std::fs::File::open(to).map_err(|error| Failure::system("open the folder", error))?;
    let left = AtomicU64::new(entries);
    let room = Room::on(to).map_err(|error| Failure::system("look at the disk", error))?;
    let checkout = Checkout {
        pack: &pack,
        commit,
        subdir: "",
        root: root.as_fd(),
        at: "",
        lists_files: keep_git_dir,
        left: &left,
        stop: &stop,
    };
    let written = checkout::write(&checkout, room)?;
    if keep_git_dir {
        let address = Address::parse("https://git.example/a.git")?;
        keep::write(&pack, file, commit, &address, to, &written)?;
    }
    Ok((objects.len(), written.links.len()))
}

/// Reads what a server says as if it were asked for its abilities, a reference and a pack, one behind the other: how
/// many references
/// there are, and how many bytes of a pack.
///
/// # Errors
/// It is not what a server says.
pub async fn said(bytes: Vec<u8>) -> Result<(usize, usize)> {
    let mut lines = Lines::of(Source::Said(bytes));
    let first = lines.text().await?;
    wire::abilities(first, &mut lines).await?;
    let references = wire::references(&mut lines, &["HEAD".to_owned(), "refs/heads/main".to_owned()]).await?;
    wire::until_pack(&mut lines).await?;
    let mut size = 0;
    while let Some(bytes) = wire::pack_bytes(&mut lines).await? {
        size += bytes.len();
    }
    Ok((references.len(), size))
}

/// The submodules that a `.gitmodules` tells of: paths, and where they are as seen from a repository.
pub fn submodules(text: &str, from: &str) -> Result<BTreeMap<String, Result<String>>> {
    let from = Address::parse(from)?;
    let told = submodule::parse(text).into_iter();
    Ok(told.map(|(path, url)| (path, from.relative(&url).map(|address| address.url()))).collect())
}

/// An address as it is told to others, if it is one of git's.
pub fn address(text: &str) -> Option<Result<String>> {
    super::is_git(text).then(|| Address::parse(text).map(|address| address.url()))
}
