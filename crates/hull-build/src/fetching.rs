//! ADD of addresses: a file that is fetched before the step, and told apart by what is in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use hull_engine::Kind;
use hull_image::Digest;
use hull_image::archive::Found;
use hull_image::registry::{Call, Registries};
use hyper::header::LAST_MODIFIED;
use hyper::{Method, Uri};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use crate::context::{Context, Folder};
use crate::elsewhere::shown;
use crate::failure::{Failure, Result};

/// What was fetched, as long as this is there.
#[derive(Debug)]
pub(crate) struct Fetched {
    root: OwnedFd,
    found: Found,
    /// Of a file alone.
    digest: Option<Digest>,
    /// That all of it came was told by the server: how long it is, or where it ends.
    is_whole: bool,
    _kept: Kept,
}

/// What goes with the value.
#[derive(Debug)]
enum Kept {
    File { _folder: Folder },
    Repository { _context: Context },
}

impl Fetched {
    /// The folder that it is in.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// It, in that folder.
    pub(crate) fn found(&self) -> Found {
        self.found.clone()
    }

    /// Whether it is known that nothing of it is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The files of a repository.
    pub(crate) fn repository(context: Context) -> Result<Fetched> {
        let root = context.root().try_clone_to_owned();
        let root = root.map_err(|error| Failure::system("keep a folder open", error))?;
        let found = Found { path: String::new(), named: String::new(), is_folder: true };
        Ok(Fetched {
            root,
            found,
            digest: None,
            is_whole: true,
            _kept: Kept::Repository { _context: context },
        })
    }

    /// Refuses what is not what was expected.
    pub(crate) fn check(&self, wanted: Option<&str>) -> Result<()> {
        match wanted {
            Some(wanted) => match self.digest {
                Some(digest) if wanted != digest.to_string() => {
                    Err(Failure::invalid(format!("digest mismatch {digest}: {wanted}")))
                }
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }
}

/// Whether a source is an address, and not a path.
pub(crate) fn is_address(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// The file that an address names.
fn name_of(url: &Uri) -> Option<String> {
    let name = url.path().trim_end_matches('/').rsplit('/').next()?;
    (!matches!(name, "" | "." | "..") && !name.contains('\0')).then(|| name.to_owned())
}

/// Fetches a file. `what` failed where it fails. `into_folder`: it is called as the address does, and must be.
///
/// # Errors
/// The address is none, nobody answers, the answer is no, or nobody wants it any more.
pub(crate) async fn fetch(
    registries: &Registries,
    parent: &Path,
    (what, source): (&str, &str),
    into_folder: bool,
    stop: &AtomicBool,
) -> Result<Fetched> {
    let shown = shown(source);
    let failed = |why: String| Failure::new(Kind::System, format!("{what} {shown}: {why}"));
    let url: Uri = source.parse().map_err(|_| Failure::invalid(format!("{what} {shown} is no address")))?;
    let name = match name_of(&url) {
        Some(name) => name,
        None if into_folder => {
            return Err(Failure::invalid(format!(
                "cannot determine filename from url: {shown}: name the file in the destination"
            )));
        }
        None => "file".to_owned(),
    };
    let folder = Folder::beneath(parent)?;
    let disk = |error: std::io::Error| failed(error.to_string());
    let path = folder.path().join(&name);
    let file = tokio::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).await;
    let mut file = tokio::io::BufWriter::with_capacity(1 << 20, file.map_err(disk)?);
    let mut reply = registries
        .send(Call::new(Method::GET, url), false)
        .await
        .map_err(|failure| failed(failure.to_string()))?;
    if !reply.status.is_success() {
        return Err(Failure::new(
            Kind::NotFound,
            format!("{what} {shown}: the server answered {}", reply.status),
        ));
    }
    let is_whole = reply.tells_its_end();
    let modified = reply.header(LAST_MODIFIED).and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
    let mut hasher = Sha256::new();
    while let Some(piece) = reply.chunk().await.map_err(|failure| failed(failure.to_string()))? {
        crate::build::wanted(stop)?;
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    let file = file.into_inner().into_std().await;
    let time = modified.map(|time| time.timestamp().into()).unwrap_or(std::time::UNIX_EPOCH);
    file.set_modified(time).map_err(disk)?;
    let root = std::fs::File::open(folder.path()).map_err(disk)?.into();
    let found = Found { path: name.clone(), named: name, is_folder: false };
    let digest = Some(Digest::from_hasher(hasher));
    Ok(Fetched { root, found, digest, is_whole, _kept: Kept::File { _folder: folder } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_files() {
        let name = |text: &str| name_of(&text.parse().unwrap());
        assert_eq!(name("https://e/a/b.tar?x=1").as_deref(), Some("b.tar"));
        assert_eq!(name("https://e/a/").as_deref(), Some("a"));
        assert_eq!(name("https://e/"), None);
        assert_eq!(name("https://e/a/.."), None);
        assert!(is_address("http://e") && !is_address("httpx"));
    }
}
