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
mod submodule;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hull_image::registry::Registries;

pub(crate) use self::address::{Address, is_git};
pub(crate) use self::object::Oid;
use self::pack::Pack;
use self::remote::Remote;
use crate::context::{Context, Folder};
use crate::copying::blocking;
use crate::failure::{Failure, Result};
use crate::request::Secret;

/// Submodules may lie in each other so deep.
const NESTED: usize = 8;

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
        let context = Context::empty(self.parent)?;
        let context = Arc::new(context);
        let subdir = address.subdir.clone();
        self.fetch_into(address, commit, &subdir, &context, "", keep_git_dir, 0).await?;
        Arc::into_inner(context)
            .ok_or_else(|| Failure::system("fetch a git repository", "its folder is still in use"))
    }

    /// Writes the files of a commit beneath a path of a folder, and those of its submodules beneath theirs.
    #[allow(clippy::too_many_arguments)]
    async fn fetch_into(
        &self,
        address: &Address,
        commit: Oid,
        subdir: &str,
        context: &Arc<Context>,
        at: &str,
        keep_git_dir: bool,
        depth: usize,
    ) -> Result<()> {
        if depth > NESTED {
            return Err(address.failed(format!("its submodules lie in each other deeper than {NESTED}")));
        }
        let scratch = Arc::new(Folder::beneath(self.parent)?);
        let file = scratch.path().join("pack");
        Remote::open(self, address).await?.fetch(commit, &file).await?;
        let (of, to, at_path, inner) =
            (address.clone(), Arc::clone(context), at.to_owned(), subdir.to_owned());
        let stop = Arc::clone(&self.stop);
        let work = move || {
            let pack = Pack::open(&file, &stop).map_err(|error| of.failed(error.message))?;
            let written = checkout::write(&pack, commit, &inner, to.root(), &at_path, &stop)
                .map_err(|error| of.failed(error.message))?;
            if keep_git_dir {
                keep::write(&pack, &file, commit, &of, &to.path().join(&at_path), &written)?;
            }
            drop(scratch);
            Ok(written)
        };
        let written = blocking("write the files of a git repository", work).await?;
        for link in written.links {
            let modules = submodule::parse(written.modules.as_deref().unwrap_or_default());
            let Some(url) = modules.get(&link.whole_path) else {
                return Err(
                    address.failed(format!("its submodule {} is not in .gitmodules", link.whole_path))
                );
            };
            let inner = address.relative(url)?;
            let at = match at.is_empty() {
                true => link.path.clone(),
                false => format!("{at}/{}", link.path),
            };
            Box::pin(self.fetch_into(&inner, link.commit, "", context, &at, false, depth + 1)).await?;
        }
        Ok(())
    }
}

/// Another commit than was said.
pub(crate) fn mismatch(checksum: &str, commit: &Oid) -> Failure {
    Failure::invalid(format!("expected checksum to match {checksum}, got {commit}"))
}
