//! Git repositories as contexts and sources of ADD: one commit is fetched, by version 2 of git's protocol over HTTP(S) or
//! git://, and its files are written. No git is executed. What a server sends is an attacker's: objects are what their
//! hashes say, names stay beneath the folder, and nothing of it is configuration.

mod address;
mod checkout;
mod delta;
mod keep;
mod object;
mod pack;
mod remote;
mod room;
mod submodule;
mod wire;
pub mod words;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use hull_image::registry::Registries;

pub(crate) use self::address::{Address, is_git, without_user};
use self::checkout::{Checkout, Written};
pub(crate) use self::object::Oid;
use self::pack::Pack;
use self::remote::Remote;
use self::room::Room;
use crate::context::{Context, Folder};
use crate::copying::blocking;
use crate::failure::{Failure, Result};
use crate::request::Secret;

/// Submodules may lie in each other so deep.
const NESTED: usize = 8;
/// So many there may be: each is a connection to a host that a stranger's file names.
const SUBMODULES: usize = 1000;

/// Who fetches, and as whom.
#[derive(Clone)]
pub(crate) struct Fetcher<'a> {
    /// How addresses are reached.
    pub(crate) registries: &'a Registries,
    /// Where what was fetched is put.
    pub(crate) parent: &'a Path,
    /// Secrets of the build: `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER` are for the server.
    pub(crate) secrets: &'a std::collections::BTreeMap<String, Secret>,
    /// Set when nobody wants it any more.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Fetcher<'_> {
    /// What commit an address means.
    ///
    /// # Errors
    /// The server does not answer, or has nothing of that name.
    pub(crate) async fn resolve(&self, address: &Address) -> Result<Oid> {
        let wanted = match address.reference.parse::<Oid>() {
            Ok(commit) => commit,
            Err(_) => Remote::open(self, address).await?.resolve(&address.reference).await?,
        };
        match &address.checksum {
            Some(checksum) if !wanted.begins_with(checksum) => Err(mismatch(checksum, &wanted)),
            _ => Ok(wanted),
        }
    }

    /// The files of a commit in a folder of their own.
    ///
    /// # Errors
    /// The server does not give it, it is malformed, or the disk is full.
    pub(crate) async fn fetch(&self, address: &Address, commit: Oid, keep_git_dir: bool) -> Result<Context> {
        let context = Arc::new(Context::empty(self.parent)?);
        let mut tree = Tree {
            fetcher: self,
            context: Arc::clone(&context),
            left: Arc::new(AtomicU64::new(checkout::ENTRIES)),
            submodules: 0,
        };
        let first = Wanted { address: address.clone(), commit, at: String::new(), keep_git_dir, depth: 0 };
        tree.fetch(first).await?;
        drop(tree);
        Arc::into_inner(context)
            .ok_or_else(|| Failure::system("fetch a git repository", "its folder is still in use"))
    }
}

/// A repository with its submodules, while they are fetched.
struct Tree<'a> {
    fetcher: &'a Fetcher<'a>,
    /// Where the files go.
    context: Arc<Context>,
    /// So many files and folders may still be written.
    left: Arc<AtomicU64>,
    /// So many submodules were there.
    submodules: usize,
}

/// One of its repositories.
struct Wanted {
    address: Address,
    commit: Oid,
    /// Where its files go, beneath the folder.
    at: String,
    keep_git_dir: bool,
    /// In so many others.
    depth: usize,
}

impl Tree<'_> {
    /// Writes the files of a commit beneath a path of the folder, and those of its submodules beneath theirs.
    async fn fetch(&mut self, wanted: Wanted) -> Result<()> {
        let (address, depth) = (wanted.address.clone(), wanted.depth);
        if depth > NESTED {
            return Err(address.failed(format!("its submodules lie in each other deeper than {NESTED}")));
        }
        let at = wanted.at.clone();
        let written = self.write(wanted).await?;
        for link in written.links.into_iter().filter(|_| address.submodules) {
            self.submodules += 1;
            if self.submodules > SUBMODULES {
                return Err(address.failed(format!("it has more than {SUBMODULES} submodules")));
            }
            let Some(url) = written.modules.get(&link.whole_path) else {
                return Err(
                    address.failed(format!("its submodule {} is not in .gitmodules", link.whole_path))
                );
            };
            let at = if at.is_empty() { link.path } else { format!("{at}/{}", link.path) };
            let (commit, address) = (link.commit, address.relative(url)?);
            let inner = Wanted { address, commit, at, keep_git_dir: false, depth: depth + 1 };
            Box::pin(self.fetch(inner)).await?;
        }
        Ok(())
    }

    /// Fetches one repository and writes its files.
    async fn write(&self, wanted: Wanted) -> Result<Written> {
        let scratch = Folder::beneath(self.fetcher.parent)?;
        let file = scratch.path().join("pack");
        Remote::open(self.fetcher, &wanted.address).await?.fetch(wanted.commit, &file).await?;
        let (to, left, stop) =
            (Arc::clone(&self.context), Arc::clone(&self.left), Arc::clone(&self.fetcher.stop));
        let work = move || {
            let Wanted { address, commit, at, keep_git_dir, .. } = wanted;
            let failed = |error: Failure| address.failed(error.message);
            let pack = Pack::open(&file, &stop).map_err(failed)?;
            let disk = |error| Failure::system("look how much room the disk has", error);
            let mut room = Room::on(to.path()).map_err(disk)?;
            if keep_git_dir {
                // It goes there, too.
                let length = file.metadata().map_err(disk)?.len();
                room.take(usize::try_from(length).unwrap_or(usize::MAX)).map_err(disk)?;
            }
            let checkout = Checkout {
                pack: &pack,
                commit,
                subdir: &address.subdir,
                root: to.root(),
                at: &at,
                lists_files: keep_git_dir,
                left: &left,
                stop: &stop,
            };
            let written = checkout::write(&checkout, room).map_err(failed)?;
            if keep_git_dir {
                keep::write(&pack, &file, commit, &address, &to.path().join(&at), &written)?;
            }
            drop(scratch);
            Ok(written)
        };
        blocking("write the files of a git repository", work).await
    }
}

/// Another commit than was said.
pub(crate) fn mismatch(checksum: &str, commit: &Oid) -> Failure {
    Failure::invalid(format!("expected checksum to match {checksum}, got {commit}"))
}
