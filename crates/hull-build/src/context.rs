//! The context of a build: a folder that whoever builds has sent, and nobody trusts.

use std::any::Any;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_image::Digest;
use hull_image::archive::{self, Put};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, unlinkat};

use crate::failure::{Failure, Result};
use crate::ignore::Ignore;
use crate::kept::Known;

/// The longest Dockerfile and the longest list of patterns, in bytes.
const TEXT_LIMIT: u64 = 4 << 20;

/// A folder that goes with the value.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one of a name that nobody knows, for its owner alone.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn beneath(parent: &Path) -> Result<Folder> {
        let failed = |error: std::io::Error| {
            Failure::system(format_args!("make a folder in {}", parent.display()), error)
        };
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| Failure::system("draw a random name", error))?;
        let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = parent.join(name);
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&path)
            .map_err(failed)?;
        Ok(Folder(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        // Its files may be many: they go behind.
        let work = move || {
            if let Err(error) = hull_image::remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "a build's folder stays until the next start");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }
}

/// A context that has been received.
#[derive(Debug)]
pub struct Context {
    root: OwnedFd,
    path: PathBuf,
    /// It is without what its `.dockerignore` leaves out, to the last file.
    filtered: bool,
    /// What goes, or is given back, with the context.
    _keep: Option<Box<dyn Any + Send + Sync>>,
    /// What is known of the files of one that is kept.
    known: Option<Known>,
}

impl Context {
    /// One with nothing in it.
    ///
    /// # Errors
    /// The disk is full.
    pub fn empty(parent: &Path) -> Result<Context> {
        let folder = Folder::beneath(parent)?;
        let path = folder.path().join("context");
        let failed = |error: std::io::Error| {
            Failure::system(format_args!("make the folder {}", path.display()), error)
        };
        std::fs::create_dir(&path).map_err(failed)?;
        let root = std::fs::File::open(&path).map_err(failed)?.into();
        Ok(Context { root, path, filtered: false, _keep: Some(Box::new(folder)), known: None })
    }

    /// Unpacks an archive that is a request's body, plain or compressed; everything in it becomes root's.
    ///
    /// # Errors
    /// It is malformed, holds devices, or the disk is full.
    pub fn read(parent: &Path, archive: &mut dyn Read) -> Result<Context> {
        // A request says where its body ends (one that does not has none), and one that is cut off is told as such.
        Context::unpack(parent, archive, true)
    }

    /// The same of any archive. `is_whole`: it is known that nothing of it is missing, so that it may lack its end.
    pub(crate) fn unpack(parent: &Path, archive: &mut dyn Read, is_whole: bool) -> Result<Context> {
        let context = Context::empty(parent)?;
        let put = Put { owner: Some((0, 0)), no_devices: true, may_lack_end: is_whole, ..Put::default() };
        archive::put(context.root(), "/", archive, put).map_err(|error| {
            let mut failure = Failure::from(error);
            failure.message = format!("read the build context: {}", failure.message);
            failure
        })?;
        Ok(context)
    }

    /// A folder that has been received already, without what its `.dockerignore` leaves out. `keep` is dropped when the
    /// build needs it no more.
    ///
    /// # Errors
    /// It is not there.
    pub fn of_folder(path: &Path, keep: impl Any + Send + Sync) -> Result<Context> {
        let failed = |error: std::io::Error| {
            Failure::system(format_args!("open the folder {}", path.display()), error)
        };
        let root = std::fs::File::open(path).map_err(failed)?.into();
        Ok(Context { root, path: path.to_owned(), filtered: true, _keep: Some(Box::new(keep)), known: None })
    }

    /// One with a single file in it: a Dockerfile that came by itself.
    ///
    /// # Errors
    /// The disk is full.
    pub fn of_file(parent: &Path, name: &str, bytes: &[u8]) -> Result<Context> {
        let context = Context::empty(parent)?;
        archive::write_file(context.root(), name, bytes, 0o644, (0, 0))?;
        Ok(context)
    }

    /// One whose files stay.
    ///
    /// # Errors
    /// They cannot be opened.
    pub(crate) fn kept(path: PathBuf, known: Known) -> Result<Context> {
        let root = std::fs::File::open(&path)
            .map_err(|error| Failure::system(format_args!("open {}", path.display()), error))?
            .into();
        Ok(Context { root, path, filtered: false, _keep: None, known: Some(known) })
    }

    /// The digest of a file's contents, where it need not be read for that.
    pub(crate) fn digest(&self, path: &[u8]) -> Option<Digest> {
        self.known.as_ref()?.digest(path)
    }

    /// The digest of all that a build can see of it, where that is known.
    pub(crate) fn state(&self) -> Option<Digest> {
        self.known.as_ref().map(Known::state)
    }

    /// Its root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Its folder on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A text in it, links followed beneath its root; none where there is none of that name.
    ///
    /// # Errors
    /// It is no text, or too long.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat2(&self.root, name, flags, Mode::empty(), resolve) {
            Ok(file) => std::fs::File::from(file),
            Err(_) => return Ok(None),
        };
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(TEXT_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::system(format_args!("read {name}"), error))?;
        if bytes.len() as u64 > TEXT_LIMIT {
            return Err(Failure::invalid(format!("{name} is longer than {TEXT_LIMIT} bytes")));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| Failure::invalid(format!("{name} is no UTF-8 text")))
    }

    /// Takes out of it what its own `.dockerignore` leaves out and clients send all the same: the Dockerfile, and that
    /// list itself.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub fn hide_sent_anyway(&self, dockerfile: &str) -> Result<()> {
        // Of what is kept the client has told what belongs to the build, and no more.
        if self.filtered || self.known.is_some() {
            return Ok(());
        }
        let list = format!("{dockerfile}.dockerignore");
        let Some((name, text)) = [list.as_str(), ".dockerignore"]
            .into_iter()
            .find_map(|name| self.text(name).transpose().map(|text| text.map(|text| (name, text))))
            .transpose()?
        else {
            return Ok(());
        };
        let ignore = Ignore::parse(&text)
            .map_err(|message| Failure::invalid(format!("error reading {name}: {message}")))?;
        for path in [name, ".dockerignore", dockerfile] {
            let plain = !path.contains('/') || !path.split('/').any(|part| matches!(part, "" | "." | ".."));
            if plain && ignore.excludes(path.as_bytes()) {
                let _ = self.remove(path);
            }
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> rustix::io::Result<()> {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = openat2(&self.root, folder, flags, Mode::empty(), resolve)?;
        unlinkat(&folder, name, AtFlags::empty())
    }
}

/// Writes a file that only its owner reads.
///
/// # Errors
/// The disk is full.
pub fn write_private(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let failed = |error: std::io::Error| Failure::system(format_args!("write {}", path.display()), error);
    let mut options = std::fs::File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_cut_off_needs_its_end() {
        let parent = Folder::beneath(&std::env::temp_dir()).unwrap();
        let files = Context::of_file(parent.path(), "a", b"").unwrap();
        // Cut off at the border of a block.
        let mut cut = Vec::new();
        archive::export_files(files.root(), std::collections::HashSet::new(), None, &mut cut).unwrap();
        let mut whole = cut.clone();
        archive::end_files(&mut whole).unwrap();
        assert!(Context::unpack(parent.path(), &mut &cut[..], true).is_ok());
        assert!(Context::unpack(parent.path(), &mut &whole[..], false).is_ok());
        let failure = Context::unpack(parent.path(), &mut &cut[..], false).unwrap_err();
        assert!(failure.message.contains("it is truncated"), "{}", failure.message);
    }
}
