//! Removing volumes, and the bytes that they take.
//!
//! A volume goes in two steps. What may still be mounted over it, because a daemon died, is unmounted, and its folder is
//! put aside with its row: that may hang where a server does not answer. Then its bytes go, which takes its time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use super::{ANONYMOUS, Entry, Run, State, Volume, Volumes, locked, options};
use crate::blocking::{may_hang, may_hang_if, see_through};
use crate::container::random_id;
use crate::database::Table;
use crate::filter::Filters;
use crate::{Engine, Error, Kind, Result, events};

/// A volume, what it takes, and the number of containers that use it.
pub(crate) struct VolumeUsage {
    pub(crate) volume: Arc<Volume>,
    pub(crate) size: Size,
    pub(crate) users: usize,
}

/// What is known of a size without a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// The file system counts.
    Known(u64),
    /// It has to be walked.
    Walked,
    /// There is none.
    None,
}

/// A volume that is out of the way: its name, and the folder that is left to be removed.
pub(super) type Aside = (String, Option<PathBuf>);

impl Engine {
    /// Removes a volume that nobody uses.
    ///
    /// # Errors
    /// There is none (which `force` forgives), containers use it (409), or its files cannot be removed.
    pub async fn remove_volume(self: &Arc<Self>, name: &str, force: bool) -> Result<()> {
        let is_mount = self.volumes.get(name).is_ok_and(|volume| options::is_mount(&volume.options));
        let (engine, name) = (Arc::clone(self), name.to_owned());
        // A client that goes away does not leave the bytes behind.
        see_through("remove the volume", async move {
            let asked = name.clone();
            let database = Arc::clone(&engine.database);
            match may_hang_if(is_mount, &engine, move |engine| engine.volumes.discard(&asked)).await {
                Err(error) if error.kind == Kind::NotFound && force => Ok(()),
                aside => {
                    let aside = aside?;
                    // As with a container: its row is not to outlive its files.
                    database.sync_behind();
                    remove_bytes(vec![(name, aside)]).await.map(drop)
                }
            }
        })
        .await
    }

    /// Removes the volumes that nobody uses and that pass the filters `all`, `label`, `label!`: the anonymous ones, or
    /// all of them. Their names, and the bytes that they took.
    ///
    /// # Errors
    /// A filter that is not known, or files cannot be removed.
    pub async fn prune_volumes(
        self: &Arc<Self>,
        filters: Filters,
        all_by_default: bool,
    ) -> Result<(Vec<String>, u64)> {
        let engine = Arc::clone(self);
        let (removed, reclaimed) = see_through("prune the volumes", async move {
            let database = Arc::clone(&engine.database);
            let (aside, discarded) =
                may_hang(move || engine.volumes.discard_unused(&filters, all_by_default)).await?;
            database.sync_behind();
            let removed = aside.iter().map(|(name, _)| name.clone()).collect();
            let reclaimed = remove_bytes(aside).await;
            discarded?;
            Ok((removed, reclaimed?))
        })
        .await?;
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.events.publish(events::Kind::Volume, "prune", "", attributes);
        Ok((removed, reclaimed))
    }
}

impl Volumes {
    /// Every volume with the number of containers that use it, and the bytes that it takes where the file system counts
    /// them, or where they are none of the volume's own folder.
    pub(crate) fn disk_usage(&self) -> Vec<VolumeUsage> {
        let volumes: Vec<(Arc<Volume>, usize)> = {
            let state = self.state();
            state.volumes.values().map(|entry| (Arc::clone(&entry.volume), entry.users.len())).collect()
        };
        volumes
            .into_iter()
            .map(|(volume, users)| {
                let size = match options::is_mount(&volume.options) {
                    // What is mounted takes none of this disk, and its server may not answer.
                    true => Size::None,
                    false if self.limiter.counts() => match self.limiter.usage(&volume.mountpoint) {
                        Ok(Some(usage)) => Size::Known(usage.bytes),
                        _ => Size::Walked,
                    },
                    false => Size::Walked,
                };
                VolumeUsage { volume, size, users }
            })
            .collect()
    }

    /// Takes out the volumes that nobody uses and that pass the filters. With them what went wrong, if something did:
    /// one that cannot be taken out does not keep those that were.
    ///
    /// # Errors
    /// A filter that is not known.
    pub(super) fn discard_unused(
        &self,
        filters: &Filters,
        all_by_default: bool,
    ) -> Result<(Vec<Aside>, Result<()>)> {
        filters.only(&["all", "label", "label!"])?;
        let all = filters.boolean("all")?.unwrap_or(all_by_default);
        let passes = |entry: &&Entry| {
            entry.users.is_empty()
                // What was made with options stands for something elsewhere, or was made with care: Docker leaves it.
                && entry.volume.options.is_empty()
                && (all || entry.volume.labels.contains_key(ANONYMOUS))
                && filters.labels(&entry.volume.labels)
        };
        let candidates: Vec<String> =
            self.state().volumes.values().filter(passes).map(|entry| entry.volume.name.clone()).collect();
        let (mut aside, mut result) = (Vec::new(), Ok(()));
        for name in candidates {
            match self.discard(&name) {
                Ok(folder) => aside.push((name, folder)),
                // Someone took or removed it meanwhile.
                Err(error) if matches!(error.kind, Kind::Conflict | Kind::NotFound) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        Ok((aside, result))
    }

    /// Takes out a volume that nobody uses; what is left is to remove the folder that comes back. What may be mounted over
    /// it still, because a daemon died, goes first, and only this volume waits for that.
    pub(super) fn discard(&self, name: &str) -> Result<Option<PathBuf>> {
        let (volume, mounted) = {
            let state = self.state();
            let entry = state.unused(name)?;
            (Arc::clone(&entry.volume), Arc::clone(&entry.mounted))
        };
        // Held until it is out: nobody mounts it again in between.
        let mounted_by = locked(&mounted);
        if mounted_by.iter().any(Run::is_for_files) {
            return Err(Error::conflict(format!(
                "remove {name}: volume is in use - it is being cloned, exported or imported"
            )));
        }
        if options::is_mount(&volume.options) {
            options::unmount(&volume)?;
        }
        let mut state = self.state();
        let unchanged = Arc::ptr_eq(&state.unused(name)?.mounted, &mounted);
        if !unchanged {
            return Err(Error::conflict(format!("remove {name}: it was removed and made again meanwhile")));
        }
        self.take_out(&mut state, name)
    }

    /// Takes out a volume that nobody uses: out of the way by a rename, then its row. What is left is to remove the folder
    /// that comes back.
    fn take_out(&self, state: &mut State, name: &str) -> Result<Option<PathBuf>> {
        let Some(entry) = state.volumes.get(name) else { return Ok(None) };
        let volume = Arc::clone(&entry.volume);
        let aside = gone(&self.root, name);
        let folder = self.root.join(name);
        // One of this name that is still being removed is in the way.
        let aside = if aside.exists() { gone(&self.root, &format!("{name}-{}", random_id())) } else { aside };
        let aside = match fs::rename(&folder, &aside) {
            Ok(()) => Some(aside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let doing = format_args!("remove the volume's folder {}", folder.display());
                return Err(Error::system(doing, error));
            }
        };
        crate::fault::passed("volume remove", "folder aside");
        if let Err(error) = self.database.delete(Table::Volumes, name) {
            // It stays, and so does what is in it.
            if let Some(aside) = &aside
                && let Err(error) = fs::rename(aside, &folder)
            {
                tracing::error!(volume = name, %error, "a volume's files stay in {}", aside.display());
            }
            return Err(error);
        }
        if let Some(aside) = &aside {
            self.limiter.release(&aside.join("_data"));
        }
        state.volumes.remove(name);
        self.publish("destroy", &volume, &[]);
        Ok(aside)
    }
}

impl State {
    /// A volume that no container uses.
    fn unused(&self, name: &str) -> Result<&Entry> {
        let entry = self.find(name)?;
        if entry.users.is_empty() {
            return Ok(entry);
        }
        let users: Vec<&str> = entry.users.iter().map(String::as_str).collect();
        Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))))
    }
}

/// Removes what is left of volumes; the bytes that they took. Others go on meanwhile.
async fn remove_bytes(aside: Vec<Aside>) -> Result<u64> {
    let removal = tokio::task::spawn_blocking(move || {
        let (mut bytes, mut result) = (0, Ok(()));
        for folder in aside.into_iter().filter_map(|(_, folder)| folder) {
            bytes += size_on_disk(&folder.join("_data"));
            result = result.and(remove_tree(&folder));
        }
        result.map(|()| bytes)
    });
    removal.await.unwrap_or_else(|error| Err(Error::system("remove a volume's files", error)))
}

/// Where a volume waits for the end of its removal. No volume's name begins with a dot.
pub(super) fn gone(root: &Path, name: &str) -> PathBuf {
    root.join(format!(".gone-{name}"))
}

/// Removes a tree without following links out of it.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    hull_image::remove_tree(path).map_err(|error| {
        Error::system(format_args!("remove the volume's files in {}", path.display()), error)
    })
}

/// The bytes that a volume's files have on the disk, which come back with them; other file systems mounted in it are not
/// walked. A file with several names counts once.
fn size_on_disk(mountpoint: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(root) = fs::symlink_metadata(mountpoint) else { return 0 };
    let mut linked = std::collections::HashSet::new();
    let mut folders = vec![mountpoint.to_owned()];
    let mut total = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != root.dev() {
                continue;
            }
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.nlink() == 1 || linked.insert(metadata.ino()) {
                total += metadata.blocks() * 512;
            }
        }
    }
    total
}
