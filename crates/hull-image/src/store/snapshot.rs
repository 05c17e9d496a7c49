//! Snapshots: what containers write to, above the layers of their images.
//!
//! A snapshot is a folder `snapshots/<key>` with `upper`, `work`, and the link `base`, which is made last: it says
//! what the snapshot stands on, and that the folder is complete.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::state::{Base, State, base36};
use super::{Driver, Image, Snapshot, Store};
use crate::{Error, Result};

impl Store {
    /// Makes the writable folder of a container: three folders and a link. The key is the container's id.
    ///
    /// The overlay is to be mounted with `redirect_dir=off` and `metacopy=off`, where these are not off by default:
    /// what a snapshot changed is read from its folder alone.
    pub fn create_snapshot(&self, key: &str, image: Option<&Image>) -> Result<Snapshot> {
        self.create_limited_snapshot(key, image, None)
    }

    /// Whether what is written to a snapshot can be limited.
    ///
    /// # Errors
    /// What the file system lacks for it.
    pub fn check_limits(&self) -> Result<()> {
        if self.driver != Driver::Overlay {
            return Err(Error::invalid(format!(
                "the storage driver {} has none, overlayfs has",
                self.driver.name()
            )));
        }
        self.limiter.check()
    }

    /// [`Store::create_snapshot`] with the most bytes that may be written to it.
    pub fn create_limited_snapshot(
        &self,
        key: &str,
        image: Option<&Image>,
        limit: Option<u64>,
    ) -> Result<Snapshot> {
        check_key(key)?;
        let base = base_of(image);
        let is_overlaid = self.is_overlaid(&base)?;
        let (lower, link) = {
            let mut state = self.state_mut();
            if state.snapshots.contains_key(key) {
                return Err(Error::conflict(format!("snapshot {key} exists already")));
            }
            let link = self.link(&state, &base)?;
            if let Base::Layer(top) = &base {
                let layer = state.layers.get_mut(top);
                layer.ok_or_else(|| Error::not_found("the image was removed meanwhile"))?.users += 1;
            }
            state.snapshots.insert(key.to_owned(), base.clone());
            (self.lower(&state, &base)?, link)
        };
        let folder = self.snapshot_folder(key);
        let made = match is_overlaid {
            true => self.make_snapshot(&folder, &link, limit),
            false => self.make_whole_snapshot(&folder, &lower, &link, limit),
        };
        if let Err(error) = made {
            self.forget_snapshot(key)?;
            self.limiter.release(&folder);
            self.trash.take(&folder)?;
            return Err(error);
        }
        Ok(shown(&folder, lower, !is_overlaid))
    }

    /// Whether what a snapshot stood on is gone, and what was written above it is still there.
    pub fn is_lost_below(&self, key: &str) -> bool {
        self.state().snapshots.get(key) == Some(&Base::Lost)
    }

    /// Has a snapshot that lost what it stood on stand on this image, which it was made of.
    fn stand_on(&self, key: &str, image: Option<&Image>) -> Result<()> {
        let folder = self.snapshot_folder(key);
        let fail = |errno: Errno| Error::file("find what is below", &folder, errno);
        let base = base_of(image);
        let mut state = self.state_mut();
        let link = self.link(&state, &base)?;
        let new = folder.join("base.new");
        match unlinkat(CWD, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(fail(errno)),
        }
        symlinkat(link, CWD, &new).map_err(fail)?;
        renameat(CWD, &new, CWD, folder.join("base")).map_err(fail)?;
        if let Base::Layer(top) = &base
            && let Some(layer) = state.layers.get_mut(top)
        {
            layer.users += 1;
        }
        state.snapshots.insert(key.to_owned(), base);
        Ok(())
    }

    /// Makes what is missing of a snapshot that nothing is mounted of: all of it, on this image, where there is none, and what it
    /// stands on where that was lost. What is there of it stays.
    ///
    /// # Errors
    /// A layer below it is missing, or it cannot be made.
    pub fn renew_snapshot(&self, key: &str, image: Option<&Image>, limit: Option<u64>) -> Result<()> {
        if self.is_lost_below(key) {
            self.stand_on(key, image)?;
        }
        let Ok(snapshot) = self.snapshot(key) else {
            return self.create_limited_snapshot(key, image, limit).map(|_| ());
        };
        if let Some(layer) = snapshot.lower.iter().find(|layer| !layer.is_dir()) {
            return Err(Error::not_found(format!("the layer {} is missing", layer.display())));
        }
        if snapshot.is_whole {
            return Ok(());
        }
        for (folder, mode) in [(&snapshot.upper, 0o755), (&snapshot.work, 0o700)] {
            match mkdirat(CWD, folder, Mode::from(mode)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::file("create", folder, errno)),
            }
        }
        Ok(())
    }

    /// The folders of a snapshot.
    pub fn snapshot(&self, key: &str) -> Result<Snapshot> {
        let state = self.state();
        let base = state.snapshots.get(key).ok_or_else(|| no_such(key))?;
        let folder = self.snapshot_folder(key);
        // Each is as it was made, whatever the driver is today.
        let is_whole = folder.join(WHOLE).is_dir();
        let lower = self.lower(&state, base).map_err(|error| match base {
            Base::Lost => no_such(key),
            _ => error,
        })?;
        Ok(shown(&folder, lower, is_whole))
    }

    /// The files of an image that a snapshot stands on, to be mounted by themselves: the layers, uppermost first, without what a
    /// container's mount points are in. None, where the snapshot is a whole tree.
    pub fn image_layers(&self, key: &str) -> Result<Vec<PathBuf>> {
        let Snapshot { mut lower, is_whole, .. } = self.snapshot(key)?;
        if is_whole {
            return Ok(Vec::new());
        }
        // An overlay has one layer at least.
        if lower.len() > 1 {
            lower.retain(|layer| *layer != self.init_layer());
        }
        Ok(lower)
    }

    /// The keys of all snapshots: a daemon that starts removes those whose container it does not know.
    pub fn snapshots(&self) -> Vec<String> {
        self.state().snapshots.keys().cloned().collect()
    }

    /// Removes a snapshot: a rename for the caller; its bytes are removed behind. It must not be mounted any more.
    /// Layers that only it still used go with it.
    pub fn remove_snapshot(&self, key: &str) -> Result<()> {
        if !self.state().snapshots.contains_key(key) {
            return Err(no_such(key));
        }
        let folder = self.snapshot_folder(key);
        self.limiter.release(&folder);
        self.trash.take(&folder)?;
        crate::fault::passed("snapshot remove", "folder gone");
        self.forget_snapshot(key)
    }

    /// Removes from what a snapshot changed the files and folders at these paths that have nothing in them, in this order.
    /// None of them leads through a link.
    pub fn remove_if_empty(&self, key: &str, paths: &[String]) -> Result<()> {
        use rustix::fs::{FileType, ResolveFlags, openat2, statat};
        let upper = super::diff::open_upper(&self.snapshot(key)?.upper)?;
        for path in paths {
            let fail = |errno| Error::file("remove", std::path::Path::new(path), errno);
            let trimmed = path.trim_matches('/');
            let (folder, name) = trimmed.rsplit_once('/').unwrap_or((".", trimmed));
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let Ok(folder) = openat2(&upper, folder, flags, Mode::empty(), resolve) else { continue };
            let Ok(stat) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let removed = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => unlinkat(&folder, name, AtFlags::REMOVEDIR),
                FileType::RegularFile if stat.st_size == 0 => unlinkat(&folder, name, AtFlags::empty()),
                _ => continue,
            };
            match removed {
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        Ok(())
    }

    fn forget_snapshot(&self, key: &str) -> Result<()> {
        let unused = {
            let mut state = self.state_mut();
            let Some(Base::Layer(top)) = state.snapshots.remove(key) else { return Ok(()) };
            state.release(&top);
            state.layers.get(&top).is_some_and(|layer| layer.users == 0).then_some(top)
        };
        match unused {
            Some(top) => self.collect(top).map(|_| ()),
            None => Ok(()),
        }
    }

    fn make_snapshot(&self, folder: &Path, link: &str, limit: Option<u64>) -> Result<()> {
        let fail = |errno: Errno| Error::file("create the snapshot", folder, errno);
        self.limiter.make(folder, Mode::from(0o710), limit)?;
        let opened = openat(CWD, folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
        mkdirat(&opened, "upper", Mode::from(0o755)).map_err(fail)?;
        mkdirat(&opened, "work", Mode::from(0o700)).map_err(fail)?;
        crate::fault::point("snapshot", "folders made")?;
        symlinkat(link, &opened, "base").map_err(fail)
    }

    fn make_whole_snapshot(
        &self,
        folder: &Path,
        lower: &[PathBuf],
        link: &str,
        limit: Option<u64>,
    ) -> Result<()> {
        let fail = |errno: Errno| Error::file("create the snapshot", folder, errno);
        if limit.is_some() {
            return Err(Error::invalid(format!(
                "the storage driver {} has no limits: what a container writes lies among its image's files; overlayfs \
                 has them",
                self.driver.name()
            )));
        }
        mkdirat(CWD, folder, Mode::from(0o710)).map_err(fail)?;
        self.make_whole(lower, &folder.join(WHOLE))?;
        symlinkat(link, CWD, folder.join("base")).map_err(fail)
    }

    /// The bytes of a snapshot's own files: where the file system counts them, as they lie on the disk; elsewhere walked,
    /// a file with several names once.
    pub fn snapshot_size(&self, key: &str) -> Result<u64> {
        self.counted_size(key)?.map_or_else(|| self.walked_size(key), Ok)
    }

    /// The same where the file system counts them; nothing is walked.
    pub fn counted_size(&self, key: &str) -> Result<Option<u64>> {
        if !self.limiter.counts() || self.snapshot(key)?.is_whole {
            return Ok(None);
        }
        let usage = self.limiter.usage(&self.snapshot_folder(key))?;
        Ok(usage.map(|usage| usage.bytes.saturating_sub(self.empty_size(key))))
    }

    /// Whether a snapshot has reached its limit: less is left of it than programs write at once. None where it has no limit,
    /// where something may have been removed since, for that a write was refused before is not known then, and on btrfs,
    /// which counts when it commits.
    ///
    /// # Errors
    /// There is no such snapshot, or it cannot be opened.
    pub fn is_full(&self, key: &str) -> Result<Option<bool>> {
        /// What a buffered copy writes at once, in bytes.
        const PIECE: u64 = 64 << 10;
        if !self.limiter.counts() || self.snapshot(key)?.is_whole {
            return Ok(None);
        }
        let usage = self.limiter.usage(&self.snapshot_folder(key))?;
        Ok(usage.filter(|usage| usage.limit > 0 && usage.bytes + PIECE > usage.limit).map(|_| true))
    }

    /// What the folders of a snapshot take before anything is in them.
    fn empty_size(&self, key: &str) -> u64 {
        let folder = self.snapshot_folder(key);
        let blocks =
            |part: &str| std::fs::symlink_metadata(folder.join(part)).map_or(0, |meta| meta.blocks());
        ["", "upper", "work", "work/work"].into_iter().map(blocks).sum::<u64>() * 512
    }

    fn snapshot_folder(&self, key: &str) -> PathBuf {
        self.root.join("snapshots").join(key)
    }

    fn link(&self, state: &State, base: &Base) -> Result<String> {
        Ok(match base {
            Base::Nothing => "nothing".to_owned(),
            Base::Host => "host".to_owned(),
            Base::Lost => return Err(lost()),
            Base::Layer(top) => {
                let layer = state.layers.get(top);
                let layer = layer.ok_or_else(|| Error::not_found("the image was removed meanwhile"))?;
                format!("../../layers/{}", base36(layer.row.number))
            }
        })
    }

    /// The folders below. The machine's own have a mask that holds what the init layer does.
    fn lower(&self, state: &State, base: &Base) -> Result<Vec<PathBuf>> {
        let mut lower = match base {
            Base::Nothing => Vec::new(),
            Base::Layer(top) => state.folders(top, &self.root.join("layers")),
            Base::Host => return self.host_lower(),
            Base::Lost => return Err(lost()),
        };
        lower.push(self.init_layer());
        Ok(lower)
    }

    /// Reads the snapshots from the disk; half-made ones go.
    pub(super) fn read_snapshots(&self) -> Result<()> {
        let folder = self.root.join("snapshots");
        let mut state = self.state_mut();
        let by_number: std::collections::HashMap<String, crate::Digest> =
            state.layers.iter().map(|(chain, layer)| (base36(layer.row.number), *chain)).collect();
        for entry in std::fs::read_dir(&folder).map_err(|error| Error::file("read", &folder, error))? {
            let entry = entry.map_err(|error| Error::file("read", &folder, error))?;
            let link = std::fs::read_link(entry.path().join("base")).ok();
            let base = link.as_ref().map(|link| match link.as_os_str().as_bytes() {
                b"nothing" => Base::Nothing,
                b"host" => Base::Host,
                _ => match link.file_name().and_then(|name| {
                    let name = name.to_str()?;
                    // No layer ever gets the number of one that was lost with the database, for this one would stand on it.
                    let number = u64::from_str_radix(name, 36).unwrap_or_default();
                    self.number.fetch_max(number.saturating_add(1), Ordering::Relaxed);
                    by_number.get(name)
                }) {
                    Some(top) => Base::Layer(*top),
                    None => {
                        let key = entry.file_name();
                        tracing::warn!(
                            "the layer {} of snapshot {key:?} is lost: what was written above it is kept until its image is \
                             here again",
                            link.display()
                        );
                        Base::Lost
                    }
                },
            });
            let (Ok(key), Some(base)) = (entry.file_name().into_string(), base) else {
                self.trash.take(&entry.path())?;
                continue;
            };
            if let Base::Layer(top) = &base
                && let Some(layer) = state.layers.get_mut(top)
            {
                layer.users += 1;
            }
            state.snapshots.insert(key, base);
        }
        Ok(())
    }
}

/// The folder of a snapshot that is a whole file system.
const WHOLE: &str = "tree";

fn shown(folder: &Path, lower: Vec<PathBuf>, is_whole: bool) -> Snapshot {
    let (upper, work) = match is_whole {
        true => (folder.join(WHOLE), PathBuf::new()),
        false => (folder.join("upper"), folder.join("work")),
    };
    Snapshot { lower, upper, work, is_whole }
}

fn check_key(key: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if key.is_empty() || key.len() > 255 || key.starts_with('.') || !key.bytes().all(plain) {
        return Err(Error::invalid(format!("invalid snapshot key {key:?}")));
    }
    Ok(())
}

/// What a snapshot of an image stands on.
fn base_of(image: Option<&Image>) -> Base {
    match image {
        None => Base::Nothing,
        Some(image) if image.builtin => Base::Host,
        Some(image) => image.layers.last().map_or(Base::Nothing, |top| Base::Layer(top.chain_id)),
    }
}

fn lost() -> Error {
    Error::not_found("what it stands on was lost")
}

fn no_such(key: &str) -> Error {
    Error::not_found(format!(
        "the files of {key} are not there: the image that it was made of was lost, as when a machine goes down before it \
         is on the disk; load or pull the image again and run `hull system fsck --repair`, or remove the container and \
         make it anew"
    ))
}
