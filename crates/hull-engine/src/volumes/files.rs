//! The files of volumes: cloned, caught in a snapshot, exported and imported as tar.
//!
//! A new volume is made beside its place (`.new-…`), takes its name by a rename, and its row is written last. While files
//! are read or written for a user, the volume is in use: it stays mounted, and is not removed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use hull_image::archive::{self, Copied};
use rustix::fs::{CWD, Mode, OFlags};
use serde::Deserialize;
use serde_json::{Value, json};

use super::uses::not_filled;
use super::{
    ANONYMOUS, Entry, Mounted, Run, Volume, VolumeCreate, Volumes, check_name, locked, options, remove_tree,
};
use crate::blocking::{may_hang, see_through};
use crate::container::{Still, now_ns, random_id, rfc3339};
use crate::database::Table;
use crate::{Engine, Error, Result, fault};

/// The body of `POST /volumes/NAME/clone`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeClone {
    /// The new volume's name; empty: 64 digits, or for a snapshot the volume's name and the time.
    pub name: String,
    /// Labels beside those of the volume, which they overrule.
    pub labels: BTreeMap<String, String>,
    /// It is a snapshot: the containers that run with the volume stand still while it is taken, and nobody writes to it.
    pub snapshot: bool,
}

/// A volume that was cloned, and what that took.
#[derive(Clone, Debug)]
pub struct Cloned {
    /// The new volume.
    pub volume: Arc<Volume>,
    /// What its files took; none: it is a snapshot of the file system's.
    copied: Option<Copied>,
    /// Where nothing could be shared: the file system.
    unshared: Option<&'static str>,
}

impl Cloned {
    /// The volume in the API's shape, and beside it what was shared and what copied.
    pub fn shown(&self) -> Value {
        let mut shown = self.volume.shown();
        let Copied { shared, copied } = self.copied.unwrap_or_default();
        shown["Copied"] = json!({
            "SharedBytes": shared,
            "CopiedBytes": copied,
            "IsSnapshot": self.copied.is_none(),
            "CannotShare": self.unshared,
        });
        shown
    }
}

impl Engine {
    /// Makes a volume; one of that name that is there already is the answer.
    ///
    /// # Errors
    /// See [`Volumes::create`].
    pub async fn create_volume(self: &Arc<Self>, create: VolumeCreate) -> Result<Arc<Volume>> {
        let engine = Arc::clone(self);
        see_through("make the volume", async move {
            let database = Arc::clone(&engine.database);
            let made = may_hang(move || engine.volumes.create(create)).await?;
            database.sync_behind();
            Ok(made)
        })
        .await
    }

    /// Makes a volume with the files of another.
    ///
    /// # Errors
    /// There is no such volume, the new one's name is taken or none, or the files cannot be read or written; nothing is
    /// left then.
    pub async fn clone_volume(self: &Arc<Self>, source: &str, clone: VolumeClone) -> Result<Cloned> {
        let (engine, source) = (Arc::clone(self), source.to_owned());
        // A client that goes away does not leave containers standing still.
        see_through("clone the volume", async move {
            let database = Arc::clone(&engine.database);
            let cloned = may_hang(move || engine.clone_files(&source, clone)).await?;
            database.sync_behind();
            Ok(cloned)
        })
        .await
    }

    fn clone_files(&self, source: &str, clone: VolumeClone) -> Result<Cloned> {
        let held = self.volumes.hold(source)?;
        let still = match clone.snapshot {
            true => self.hold_still(&self.volumes.users(source))?,
            false => Vec::new(),
        };
        self.volumes.clone_of(&held, clone, still)
    }

    /// Writes a volume's files as a tar. Blocks.
    ///
    /// # Errors
    /// There is no such volume, or its files cannot be read.
    pub fn export_volume(&self, name: &str, out: &mut dyn Write) -> Result<()> {
        let held = self.volumes.hold(name)?;
        Ok(archive::export_volume(held.open()?.as_fd(), out)?)
    }

    /// Unpacks a tar, plain or compressed, into a volume that is empty and that no container runs with, or, with
    /// `merge`, over what is there. Blocks.
    ///
    /// # Errors
    /// There is no such volume, it is a snapshot, not empty or in use, or the archive is malformed: what was unpacked into
    /// an empty volume goes then, but for one that stands for something else (`device=`), where others may have written.
    pub fn import_volume(&self, name: &str, tar: &mut dyn Read, merge: bool) -> Result<()> {
        let held = self.volumes.hold(name)?;
        if held.volume.snapshot_of.is_some() {
            return Err(Error::conflict(format!(
                "import into {name}: it is a snapshot, which stays as it is; clone it, and import into the clone"
            )));
        }
        let root = held.open()?;
        if merge {
            archive::import_volume(root.as_fd(), tar)?;
            return written(&root, name);
        }
        let _alone = held.alone()?;
        if !is_empty(&held)? {
            return Err(Error::conflict(format!(
                "import into {name}: it is not empty; merge the archive into what is there, or import into another volume"
            )));
        }
        match archive::import_volume(root.as_fd(), tar).map_err(Error::from) {
            Ok(()) => written(&root, name),
            // Its files are a server's, or the host's: what somebody else has written meanwhile is nobody's to remove.
            Err(error) if options::is_mount(&held.volume.options) => {
                let told = format!("{}; what was unpacked before stays in the volume {name}", error.message);
                Err(Error::new(error.kind, told))
            }
            Err(error) => {
                hull_image::empty_folder(&held.volume.mountpoint)
                    .map_err(|error| Error::system(format_args!("empty the volume {name} again"), error))?;
                Err(error)
            }
        }
    }
}

impl Volumes {
    /// Uses those of a container's volumes over which something is mounted while they are used: what is looked at or written
    /// beneath would be hidden from the container.
    pub(crate) fn hold_mounts<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<Held<'_>>> {
        let is_mount =
            |name: &&str| self.state().find(name).is_ok_and(|entry| options::is_mount(&entry.volume.options));
        names.filter(is_mount).map(|name| self.hold(name)).collect()
    }

    /// Uses a volume for its files: what its options name is mounted, and it is not removed meanwhile.
    fn hold(&self, name: &str) -> Result<Held<'_>> {
        let (volume, mounted) = self.mounts(name)?;
        let run = Run::for_files();
        {
            let mut mounted = locked(&mounted);
            // It may have gone while this waited.
            let same = self.state().find(name).is_ok_and(|entry| Arc::ptr_eq(&entry.volume, &volume));
            if !same {
                return Err(Error::not_found(format!("get {name}: no such volume")));
            }
            not_filled(name, &mounted)?;
            if options::is_mount(&volume.options) && mounted.is_empty() {
                options::mount(&volume)?;
            }
            mounted.insert(run.clone());
        }
        Ok(Held { volumes: self, volume, run })
    }

    /// The ids of the containers that use a volume.
    pub fn users(&self, name: &str) -> Vec<String> {
        self.state().find(name).map(|entry| entry.users.iter().cloned().collect()).unwrap_or_default()
    }

    /// What stands `still` goes on when the files are copied.
    fn clone_of(&self, source: &Held<'_>, clone: VolumeClone, still: Vec<Still<'_>>) -> Result<Cloned> {
        let VolumeClone { name, labels: wanted, snapshot } = clone;
        let created_at = rfc3339(now_ns());
        let anonymous = name.is_empty() && !snapshot;
        let name = match (name.is_empty(), snapshot) {
            (false, _) => name,
            (true, true) => self.free_name(snapshot_name(&source.volume.name, &created_at)),
            (true, false) => random_id(),
        };
        check_name(&name)?;
        self.check_free(&name)?;
        let mut labels = source.volume.labels.clone();
        labels.remove(ANONYMOUS);
        labels.extend(wanted);
        if anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        let volume = Volume {
            mountpoint: self.root.join(&name).join("_data"),
            name,
            driver: "local".to_owned(),
            labels,
            options: options::own(&source.volume.options),
            created_at,
            // As with one that is created: it goes with no container, as none has it.
            anonymous: false,
            snapshot_of: snapshot.then(|| source.volume.name.clone()),
        };
        let limit = self.limit(&volume.options)?;
        let (volume, copied) = self.enter(volume, |folder| {
            let copied = self.copy_into(folder, source, limit)?;
            fault::point("volume clone", "copied")?;
            drop(still);
            Ok(copied)
        })?;
        let unshared = copied
            .is_some_and(|copied| copied.shared == 0 && copied.copied > 0)
            .then(|| hull_image::disk::file_system(&self.root).map(hull_image::disk::FileSystem::name))
            .transpose()?;
        Ok(Cloned { volume, copied, unshared })
    }

    /// Makes a folder with a volume's files; none are copied where the file system has snapshots.
    fn copy_into(
        &self,
        folder: &std::path::Path,
        source: &Held<'_>,
        limit: Option<u64>,
    ) -> Result<Option<Copied>> {
        let can_be_a_snapshot = !options::is_mount(&source.volume.options);
        if can_be_a_snapshot && self.limiter.snapshot(&source.volume.mountpoint, folder, limit)? {
            return Ok(None);
        }
        // Limited when it is filled: a reflink of a volume that is full needs more for a moment on XFS.
        self.make(folder, None)?;
        let doing = |error| Error::system(format_args!("clone the volume {}", source.volume.name), error);
        let into = open(folder).map_err(doing)?;
        let copied = archive::clone_tree(source.open()?.as_fd(), into.as_fd())?;
        limit.map_or(Ok(()), |bytes| self.limiter.limit(folder, bytes))?;
        Ok(Some(copied))
    }

    /// Makes a volume with what `fill` puts into its folder: beside its place, then by a rename, the row last.
    fn enter<T>(
        &self,
        volume: Volume,
        fill: impl FnOnce(&std::path::Path) -> Result<T>,
    ) -> Result<(Arc<Volume>, T)> {
        let beside = Beside(self.root.join(format!(".new-{}", random_id())));
        let folder = beside.0.join("_data");
        self.make_folder(&folder).map_err(|error| {
            Error::system(format_args!("make the volume's folder {}", folder.display()), error)
        })?;
        let value = fill(&folder)?;
        // Until its row is there it is nobody's: a daemon that finds this beside its files removes them.
        fs::write(beside.0.join(MARK), []).map_err(|error| {
            Error::system(format_args!("make the volume's folder {}", beside.0.display()), error)
        })?;
        let filled = open(&folder).map_err(|error| {
            Error::system(format_args!("open the volume's folder {}", folder.display()), error)
        })?;
        // Its row says that the files are there: a power cut must not take them then.
        written(&filled, &volume.name)?;
        fault::point("volume clone", "filled")?;
        let mut state = self.state();
        if state.volumes.contains_key(&volume.name) {
            return Err(taken(&volume.name));
        }
        let place = self.root.join(&volume.name);
        fs::rename(&beside.0, &place).map_err(|error| {
            Error::system(format_args!("make the volume's folder {}", place.display()), error)
        })?;
        let placed = Beside(place);
        fault::point("volume clone", "placed")?;
        self.database.put(Table::Volumes, &volume.name, &volume)?;
        // Where it stays, the next daemon takes it away.
        let _ = fs::remove_file(placed.0.join(MARK));
        placed.keep();
        let entry = Entry::of(volume);
        let volume = Arc::clone(&entry.volume);
        state.volumes.insert(volume.name.clone(), entry);
        self.publish("create", &volume, &[]);
        Ok((volume, value))
    }

    /// That name, or where a volume has it, the same with a number: nobody chose it.
    pub(super) fn free_name(&self, name: String) -> String {
        let state = self.state();
        let is_free = |name: &String| !state.volumes.contains_key(name);
        let numbered = (2..=state.volumes.len() + 1).map(|number| format!("{name}-{number}"));
        std::iter::once(name.clone()).chain(numbered).find(is_free).unwrap_or(name)
    }

    fn check_free(&self, name: &str) -> Result<()> {
        if self.state().volumes.contains_key(name) { Err(taken(name)) } else { Ok(()) }
    }
}

/// Beside the files of a volume whose row is not there yet.
pub(super) const MARK: &str = ".new";

/// What was written beneath a folder is on the disk.
fn written(folder: &OwnedFd, name: &str) -> Result<()> {
    rustix::fs::syncfs(folder).map_err(|errno| {
        Error::system(format_args!("write the files of the volume {name} to the disk"), errno)
    })
}

fn taken(name: &str) -> Error {
    Error::conflict(format!("clone into {name}: there is a volume of that name already"))
}

/// A volume whose files are read or written for a user.
pub(crate) struct Held<'a> {
    volumes: &'a Volumes,
    volume: Arc<Volume>,
    run: Run,
}

impl Held<'_> {
    fn open(&self) -> Result<OwnedFd> {
        open(&self.volume.mountpoint)
            .map_err(|error| Error::system(format_args!("open the volume {}", self.volume.name), error))
    }

    /// Has nobody else use it until the value goes.
    fn alone(&self) -> Result<Alone> {
        let name = &self.volume.name;
        let (_, mounted) = self.volumes.mounts(name)?;
        let run = Run::for_filling();
        {
            let mut mounted = locked(&mounted);
            let others = || mounted.iter().filter(|run| **run != self.run);
            if others().any(|run| !run.is_for_files()) {
                return Err(Error::conflict(format!(
                    "import into {name}: a container runs with it; stop it, or merge the archive into what is there"
                )));
            }
            if others().next().is_some() {
                return Err(Error::conflict(format!(
                    "import into {name}: it is being cloned, exported or imported into; wait until that is done"
                )));
            }
            mounted.insert(run.clone());
        }
        Ok(Alone { mounted, run })
    }
}

/// A volume that is filled: nobody else uses it.
struct Alone {
    mounted: Mounted,
    run: Run,
}

impl Drop for Alone {
    fn drop(&mut self) {
        locked(&self.mounted).remove(&self.run);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.volumes.unmount(&self.volume.name, &self.run) {
            tracing::error!(volume = self.volume.name, %error, "a volume could not be unmounted");
        }
    }
}

/// A folder that goes where nothing comes of it.
struct Beside(PathBuf);

impl Beside {
    fn keep(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if self.0.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = remove_tree(&self.0) {
            tracing::warn!(%error, "what is left of a clone goes at the next start");
        }
    }
}

fn is_empty(held: &Held<'_>) -> Result<bool> {
    let entries = fs::read_dir(&held.volume.mountpoint);
    Ok(entries
        .map_err(|error| Error::system(format_args!("look into the volume {}", held.volume.name), error))?
        .next()
        .is_none())
}

fn open(folder: &std::path::Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, folder, flags, Mode::empty())?)
}

/// `data-20240102T030405`.
fn snapshot_name(volume: &str, created_at: &str) -> String {
    let moment: String = created_at.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{volume}-{moment}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_called_by_its_time() {
        assert_eq!(snapshot_name("data", "2024-01-02T03:04:05.678901Z"), "data-20240102T030405");
    }
}
