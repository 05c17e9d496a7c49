//! Contexts that the daemon fetches: git repositories, archives, and files by themselves.

use std::io::Read;
use std::sync::Arc;

use hull_engine::Kind;
use hull_image::archive;

use crate::builder::Builder;
use crate::cancel::Stop;
use crate::context::Context;
use crate::copying::blocking;
use crate::failure::{Failure, Result};
use crate::fetching::{Fetched, fetch, is_address};
use crate::git::{self, Address, Fetcher, is_git};
use crate::named::Named;
use crate::request::Request;

/// The longest file that a context may be by itself, in bytes.
const FILE_LIMIT: u64 = 64 << 20;

/// Whether something is fetched by the daemon, and is no path of the client's.
pub fn is_elsewhere(text: &str) -> bool {
    is_git(text) || is_address(text)
}

/// An address as it may be shown and written down: without a password or a token in it.
pub fn shown(address: &str) -> String {
    git::without_user(address)
}

impl Builder {
    /// Fetches the context of a build. One that is no archive is the Dockerfile, which is noted in the request then.
    ///
    /// # Errors
    /// The socket may not, nobody answers, or what comes is malformed.
    pub async fn fetch_context(&self, address: &str, request: &mut Request, stop: &Stop) -> Result<Context> {
        let keep = request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").cloned().flatten();
        let keep = keep.is_some_and(|value| matches!(value.as_str(), "1" | "true"));
        let context = match self.fetched(address, request, stop, keep).await? {
            Got::Repository(context, commit) => {
                let shown = shown(address);
                let repository = shown.split('#').next().unwrap_or(&shown).to_owned();
                request.sources.insert(repository, commit.to_string());
                context
            }
            Got::Folder(context) => context,
            Got::File(_, bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| {
                    Failure::invalid(format!(
                        "{} is neither an archive nor a Dockerfile: it is no text",
                        shown(address)
                    ))
                })?;
                request.dockerfile_text.get_or_insert(text);
                Context::empty(&self.places.temporary)?
            }
        };
        Ok(context)
    }

    /// Fetches a context beside the build's own. One that is no archive is a folder with that file.
    ///
    /// # Errors
    /// As [`Builder::fetch_context`].
    pub async fn fetch_named(&self, address: &str, request: &Request, stop: &Stop) -> Result<Named> {
        let context = match self.fetched(address, request, stop, false).await? {
            Got::Repository(context, _) | Got::Folder(context) => context,
            Got::File(name, bytes) => Context::of_file(&self.places.temporary, &name, &bytes)?,
        };
        Ok(Named::Folder(Arc::new(context)))
    }

    async fn fetched(&self, address: &str, request: &Request, stop: &Stop, keep: bool) -> Result<Got> {
        if !request.may_fetch {
            return Err(Failure::new(
                Kind::Forbidden,
                format!(
                    "the context {}: the daemon fetches it from the host's network, which this socket refuses; fetch it \
                     and build the folder",
                    shown(address)
                ),
            ));
        }
        let (registries, parent) = (self.engine.registries(), self.places.temporary.as_path());
        if is_git(address) {
            let fetcher = Fetcher { registries, parent, secrets: &request.secrets, stop: stop.flag() };
            let address = Address::parse(address)?;
            let commit = fetcher.resolve(&address).await?;
            let context = fetcher.fetch(&address, commit, keep || address.keep_git_dir).await?;
            return Ok(Got::Repository(context, commit));
        }
        let what = ("error downloading remote context", address);
        let fetched = fetch(registries, parent, what, false, &stop.flag()).await?;
        let parent = parent.to_owned();
        blocking("unpack a context", move || Got::of(&fetched, &parent)).await
    }
}

/// What was fetched.
enum Got {
    /// The files of a commit.
    Repository(Context, git::Oid),
    Folder(Context),
    /// A file by itself: its name and what is in it.
    File(String, Vec<u8>),
}

impl Got {
    fn of(fetched: &Fetched, parent: &std::path::Path) -> Result<Got> {
        let found = fetched.found();
        if let Some(mut archive) = archive::open_archive(fetched.root(), &found)? {
            return Context::unpack(parent, &mut archive, fetched.is_whole()).map(Got::Folder);
        }
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(fetched.root(), &*found.path, flags, rustix::fs::Mode::empty())
            .map_err(|errno| Failure::system("read what was fetched", errno))?;
        let mut bytes = Vec::new();
        std::fs::File::from(file)
            .take(FILE_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::system("read what was fetched", error))?;
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(Failure::invalid(format!(
                "{} is no archive, and as a file by itself longer than {FILE_LIMIT} bytes",
                found.named
            )));
        }
        Ok(Got::File(found.named, bytes))
    }
}

/// The files of a repository as a source of ADD.
pub(crate) async fn repository(
    fetcher: &Fetcher<'_>,
    address: &Address,
    commit: git::Oid,
    keep_git_dir: bool,
) -> Result<Fetched> {
    let context = fetcher.fetch(address, commit, keep_git_dir || address.keep_git_dir).await?;
    Fetched::repository(context)
}
