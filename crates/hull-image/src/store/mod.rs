//! The store: images, their layers, and the snapshots that containers write to.
//!
//! Beneath the root: `layers/<number>` are the extracted layers, `split/<number>` what is in their archives besides
//! the files' bytes, `snapshots/<key>` the containers' writable folders, `tmp` what is being made, `trash` what is
//! being removed, `partial` what came of layers that are being fetched, `image.db` the rows. A folder without a row is
//! removed when the store opens; rows come last.
//!
//! Who changes rows holds the database's lock, then changes the state in memory; who reads asks the state only.

mod bootstrap;
mod check;
mod clamp;
mod commit;
mod database;
mod diff;
mod driver;
mod history;
mod host;
mod images;
mod import;
mod init;
mod kept;
mod load;
mod lost;
mod manifest;
mod pins;
pub(crate) mod receive;
mod remove;
mod save;
mod save_built;
mod seal;
pub(crate) mod send;
mod snapshot;
mod state;
mod step_images;
mod steps;
mod sync;
mod trash;
mod tree;
mod types;
mod whole;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use self::check::{Check, Checked, Finding, Wrong};
use self::database::{Database, LayerRow};
pub use self::diff::tree_size;
pub use self::driver::Driver;
use self::host::Host;
pub use self::lost::LostLayers;
pub(crate) use self::manifest::diff_ids;
pub use self::pins::Pinned;
pub use self::receive::LayerBlob;
pub use self::seal::{Held, Taken, Unnamed};
use self::state::{State, base36};
pub use self::steps::{Draft, StepUsage};
use self::sync::Syncing;
use self::trash::Trash;
pub use self::tree::{Count, Difference, LayerWork, Step, StoredAgain};
pub use self::types::*;
use crate::disk::Limiter;
use crate::layer::unpack::Place;
use crate::{Digest, Error, Result};

/// The store of images, layers and snapshots beneath one folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    database: Arc<Mutex<Database>>,
    syncing: Syncing,
    state: RwLock<State>,
    /// Who is about to use images, or to remove them.
    pins: pins::Pins,
    trash: Trash,
    /// How snapshots are made.
    driver: Driver,
    /// Held by who merges layers into a subvolume.
    merging: Mutex<()>,
    /// What limits and counts the snapshots.
    limiter: Limiter,
    /// What is known of layers that were put aside.
    lost: Mutex<Vec<LostLayers>>,
    /// The next number of a layer or of a temporary folder.
    number: AtomicU64,
    /// This boot's id: what was written during another is on the disk, or lost.
    boot: String,
    /// This machine as an image, or why it cannot be one.
    host: Mutex<Option<Result<Host>>>,
    /// Held: one daemon has the store.
    _lock: std::fs::File,
}

impl Store {
    /// Opens the store beneath `root` (`<data-root>/image`), making it where it is not there. What a crash left half
    /// made is removed. `hide` are folders that `hull/host` must not show: the data root and the exec root.
    pub fn open(root: &Path, hide: &[PathBuf]) -> Result<Store> {
        Store::open_with(root, hide, None)
    }

    /// [`Store::open`] with the storage driver that is asked for; none: the best that the file system carries.
    pub fn open_with(root: &Path, hide: &[PathBuf], driver: Option<&str>) -> Result<Store> {
        for folder in ["", "layers", "split", "merged", "snapshots", "partial"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(|error| Error::file("create", &folder, error))?;
        }
        let root = root.canonicalize().map_err(|error| Error::file("open", root, error))?;
        // One that is closed to all others stays so.
        rustix::fs::stat(&root)
            .map(|found| rustix::fs::Mode::from_raw_mode(found.st_mode) & rustix::fs::Mode::from(0o710))
            .and_then(|mode| rustix::fs::chmod(&root, mode))
            .map_err(|error| Error::file("open", &root, error))?;
        let lock = lock(&root)?;
        let trash = Trash::open(&root.join("trash"))?;
        trash.take(&root.join("tmp"))?;
        let limiter = Limiter::open(&root)?;
        let temporary = root.join("tmp");
        std::fs::create_dir(&temporary).map_err(|error| Error::file("create", &temporary, error))?;
        lost::put_aside(&root)?;
        scatter(&temporary);
        scatter(&root.join("layers"));
        let driver = Driver::choose(driver, &root)?;
        let database = Database::open(&root.join("image.db"))?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|error| Error::file("read", Path::new("/proc/sys/kernel/random/boot_id"), error))?;
        let number = AtomicU64::new(database.last_number()? + 1);
        let database = Arc::new(Mutex::new(database));
        let syncing = Syncing::new(root.join("layers"), root.join("image.db-wal"), &database);
        let store = Store {
            root,
            database,
            syncing,
            state: RwLock::default(),
            pins: pins::Pins::default(),
            trash,
            driver,
            merging: Mutex::default(),
            limiter,
            lost: Mutex::default(),
            number,
            boot: boot.trim().to_owned(),
            host: Mutex::default(),
            _lock: lock,
        };
        store.read_rows()?;
        store.read_steps()?;
        store.read_step_images()?;
        store.read_snapshots()?;
        store.remove_strays()?;
        store.remove_partials(receive::FORGOTTEN)?;
        store.collect_all()?;
        store.make_init_layer()?;
        store.open_host(hide)?;
        Ok(store)
    }

    /// Reads layers, images and names. Layers that a crash of the machine may have lost go, with what stands on them.
    fn read_rows(&self) -> Result<()> {
        let database = self.database();
        let mut state = self.state_mut();
        for row in database.layers()? {
            let lost = row.unsynced.as_ref().is_some_and(|boot| *boot != self.boot)
                || row.parent.is_some_and(|parent| !state.layers.contains_key(&parent))
                || !self.layer_place(row.number).tree.is_dir();
            if lost {
                tracing::warn!(
                    "layer {} was not written to the disk before the machine went down",
                    row.chain_id
                );
                database.remove_layer(row.number)?;
            } else {
                state.add_layer(row);
            }
        }
        for row in database.images()? {
            if let Err(error) = state.add_image(row.id, row.config.into(), row.parent, row.last_tagged) {
                tracing::warn!("{error}; the image is removed, load it again");
                database.remove_image(&row.id)?;
            }
        }
        for (name, image) in database.names()? {
            if state.images.contains_key(&image) {
                state.set_name(name, image);
            } else {
                database.remove_name(&name)?;
            }
        }
        drop(state);
        drop(database);
        let state = self.state();
        let unsynced = state.layers.values().filter(|layer| layer.row.unsynced.is_some());
        self.syncing.layers(unsynced.map(|layer| layer.row.number));
        Ok(())
    }

    /// Removes the folders of layers that have no row.
    fn remove_strays(&self) -> Result<()> {
        let known: HashSet<String> = self
            .state()
            .layers
            .values()
            .map(|layer| base36(layer.row.number))
            .chain(["0".to_owned()])
            .collect();
        for folder in ["layers", "split", "merged"] {
            let folder = self.root.join(folder);
            for entry in std::fs::read_dir(&folder).map_err(|error| Error::file("read", &folder, error))? {
                let entry = entry.map_err(|error| Error::file("read", &folder, error))?;
                let name = entry.file_name();
                let number = name.to_str().map(|name| name.trim_end_matches(".kept"));
                if number.is_none_or(|number| !known.contains(number)) {
                    self.trash.take(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Removes layers that neither an image nor a snapshot uses.
    fn collect_all(&self) -> Result<()> {
        let unused: Vec<Digest> = {
            let state = self.state();
            state.layers.iter().filter(|(_, layer)| layer.users == 0).map(|(chain_id, _)| *chain_id).collect()
        };
        unused.into_iter().try_for_each(|chain_id| self.collect(chain_id).map(|_| ()))
    }

    /// Removes a layer that nothing uses, and those below it that nothing uses then. Returns them, uppermost first.
    fn collect(&self, chain_id: Digest) -> Result<Vec<LayerRow>> {
        let database = self.database();
        let rows = self.state_mut().take_unused(chain_id);
        database.transaction(|database| rows.iter().try_for_each(|row| database.remove_layer(row.number)))?;
        for row in &rows {
            let place = self.layer_place(row.number);
            let merged = self.root.join("merged").join(base36(row.number));
            for path in [&place.tree, &place.split, &place.kept, &merged] {
                self.trash.take(path)?;
            }
        }
        Ok(rows)
    }

    fn layer_place(&self, number: u64) -> Place {
        let name = base36(number);
        Place {
            tree: self.root.join("layers").join(&name),
            split: self.root.join("split").join(&name),
            kept: self.root.join("split").join(name + ".kept"),
        }
    }

    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// A new temporary folder. What is in it is lost when the store opens again.
    fn temporary(&self) -> Result<PathBuf> {
        let folder = self.root.join("tmp").join(base36(self.next_number()));
        std::fs::create_dir(&folder).map_err(|error| Error::file("create", &folder, error))?;
        Ok(folder)
    }

    fn discard(&self, folder: &Path) {
        if let Err(error) = self.trash.take(folder) {
            tracing::warn!("{error}; it is removed at the next start");
        }
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, Option<Result<Host>>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks ext4 to give each folder in this one a block group of its own (`chattr +T`). Layers that are unpacked side by side
/// do not wait for one another's bitmaps then; and without a journal ext4 passes over each inode that was freed in the
/// last minutes one by one, which makes a pull behind a removal of as many files four times slower. Other file systems
/// have no such groups.
fn scatter(folder: &Path) {
    use rustix::fs::{IFlags, Mode, OFlags};
    let asked = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|folder| {
            let flags = rustix::fs::ioctl_getflags(&folder)?;
            rustix::fs::ioctl_setflags(&folder, flags | IFlags::TOPDIR)
        });
    if let Err(errno) = asked {
        tracing::debug!("{} has no groups to scatter its folders over: {errno}", folder.display());
    }
}

/// One daemon at a time.
fn lock(root: &Path) -> Result<std::fs::File> {
    let path = root.join("lock");
    let file = std::fs::File::create(&path).map_err(|error| Error::file("create", &path, error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::conflict(format!(
            "{} is in use by another daemon: end it, or choose another --data-root",
            root.display()
        ))),
        Err(errno) => Err(Error::file("lock", &path, errno)),
    }
}

/// The reference of the built-in image, in full.
const HOST_NAME: &str = "docker.io/hull/host:latest";
