//! Volumes: folders that outlive containers, and who uses them.
//!
//! `<data-root>/volumes/NAME/_data` is what containers see. What a volume's options name (`type`, `device`, `o`) is
//! mounted over it while a container that runs uses it. `.new-…` is a volume that is being made, `.gone-…` one that is being
//! removed.

mod check;
mod files;
mod network;
mod options;
mod remove;
mod uses;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use files::{Cloned, VolumeClone};
use hull_image::disk::Limiter;
pub use options::bring_others_files;
pub(crate) use remove::{Size, VolumeUsage};
use remove::{gone, remove_tree};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uses::Mounted;
pub(crate) use uses::Run;

use crate::config::DaemonConfig;
use crate::container::{now_ns, random_id, rfc3339};
use crate::database::{Database, Table};
use crate::events::{self, Events};
use crate::filter::Filters;
use crate::{Error, Result};

/// The label of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// The body of `POST /volumes/create`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeCreate {
    /// Its name; empty: 64 digits of the engine's choice.
    pub name: String,
    /// The driver; empty: `local`, the only one.
    pub driver: String,
    /// `type`, `device`, `o`: what is mounted while the volume is used.
    pub driver_opts: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Swarm's: refused.
    pub cluster_volume_spec: Option<Value>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Always `local`.
    pub driver: String,
    /// The folder that is bound.
    pub mountpoint: PathBuf,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What it was made with.
    pub options: BTreeMap<String, String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Nobody named it: it goes with its container.
    pub anonymous: bool,
    /// It is a snapshot of the volume of that name: nobody writes to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_of: Option<String>,
}

/// The volumes.
pub struct Volumes {
    root: PathBuf,
    /// What limits and counts them.
    limiter: Limiter,
    state: Mutex<State>,
    database: Arc<Database>,
    events: Arc<Events>,
}

#[derive(Default)]
struct State {
    volumes: BTreeMap<String, Entry>,
    /// The volumes of a container.
    by_container: HashMap<String, BTreeSet<String>>,
}

struct Entry {
    volume: Arc<Volume>,
    users: BTreeSet<String>,
    /// Those of them that run. Its lock is held while the kernel mounts, which may be long (NFS), so that the others
    /// need not wait.
    mounted: Mounted,
}

impl Volumes {
    /// Opens the volumes beneath `<data-root>/volumes`. A removal that a crash interrupted is finished.
    pub(crate) fn open(
        config: &DaemonConfig,
        database: Arc<Database>,
        events: Arc<Events>,
    ) -> Result<Volumes> {
        let root = config.data_root.join("volumes");
        let mut volumes = BTreeMap::new();
        for mut volume in database.all::<Volume>(Table::Volumes)? {
            // Where its folder is there too, it was made anew while the earlier one of its name was still being removed.
            if gone(&root, &volume.name).exists() && !root.join(&volume.name).exists() {
                database.delete(Table::Volumes, &volume.name)?;
                continue;
            }
            // The data root may have moved since.
            volume.mountpoint = root.join(&volume.name).join("_data");
            volumes.insert(volume.name.clone(), Entry::of(volume));
        }
        if let Ok(entries) = fs::read_dir(&root) {
            for entry in entries.flatten() {
                let name = entry.file_name();
                if [&b".gone-"[..], b".new-"].iter().any(|start| name.as_encoded_bytes().starts_with(start))
                    && let Err(error) = remove_tree(&entry.path())
                {
                    // Whoever made a file there that cannot be removed has not stopped all containers by it.
                    tracing::warn!(%error, "what is left of a volume stays, and is tried again at the next start");
                }
            }
        }
        let state = Mutex::new(State { volumes, by_container: HashMap::new() });
        let limiter = Limiter::open(&root)?;
        let volumes = Volumes { root, limiter, state, database, events };
        volumes.remove_left()?;
        Ok(volumes)
    }

    /// Makes a volume; one of that name that is there already is the answer.
    ///
    /// # Errors
    /// A name, driver or option that cannot be, or the folder cannot be made.
    pub fn create(&self, create: VolumeCreate) -> Result<Arc<Volume>> {
        if create.cluster_volume_spec.is_some() {
            return Err(Error::unsupported("a cluster volume"));
        }
        let anonymous = create.name.is_empty();
        let name = if anonymous { random_id() } else { create.name };
        let mut labels = create.labels;
        if anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        let mut state = self.state();
        // Docker shows the label, but the volume goes with no container: nobody's is it yet.
        self.ensure(&mut state, &name, &create.driver, create.driver_opts, labels, false)
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> Result<Arc<Volume>> {
        Ok(Arc::clone(&self.state().find(name)?.volume))
    }

    /// A volume for a container, made if it is not there; from now on the container uses it. `None`: anonymous.
    pub(crate) fn acquire(
        &self,
        name: Option<&str>,
        driver: &str,
        options: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
        container: &str,
    ) -> Result<Arc<Volume>> {
        let mut labels = labels.clone();
        let made;
        let (name, anonymous) = match name {
            Some(name) => (name, false),
            None => {
                labels.insert(ANONYMOUS.to_owned(), String::new());
                made = random_id();
                (made.as_str(), true)
            }
        };
        let mut state = self.state();
        let mut volume = self.ensure(&mut state, name, driver, options.clone(), labels, anonymous)?;
        if volume.anonymous && !anonymous {
            // Someone calls it by its name: it stays when the container that it was made for goes.
            volume = Arc::new(Volume { anonymous: false, ..Volume::clone(&volume) });
            self.database.put(Table::Volumes, name, &*volume)?;
            if let Some(entry) = state.volumes.get_mut(name) {
                entry.volume = Arc::clone(&volume);
            }
        }
        state.retain(name, container);
        Ok(volume)
    }

    /// The volumes that pass the filters `dangling`, `driver`, `label` and `name`, by name.
    ///
    /// # Errors
    /// A filter that is not known.
    pub fn list(&self, filters: &Filters) -> Result<Vec<Arc<Volume>>> {
        filters.only(&["dangling", "driver", "label", "name"])?;
        let dangling = filters.boolean("dangling")?;
        let passes = |entry: &&Entry| {
            filters.any_exact("driver", &entry.volume.driver)
                && filters.any_match("name", &entry.volume.name)
                && filters.labels(&entry.volume.labels)
                && dangling.is_none_or(|dangling| dangling == entry.users.is_empty())
        };
        Ok(self.state().volumes.values().filter(passes).map(|entry| Arc::clone(&entry.volume)).collect())
    }

    /// The volume of that name, which is made if there is none.
    fn ensure(
        &self,
        state: &mut State,
        name: &str,
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
        anonymous: bool,
    ) -> Result<Arc<Volume>> {
        if !matches!(driver, "" | "local") {
            let message = format!(
                "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            );
            return Err(Error::not_found(message));
        }
        if let Some(entry) = state.volumes.get(name) {
            return Ok(Arc::clone(&entry.volume));
        }
        check_name(name)?;
        options::check(&options)
            .map_err(|error| Error::new(error.kind, format!("create {name}: {}", error.message)))?;
        let limit = self
            .limit(&options)
            .map_err(|error| Error::new(error.kind, format!("create {name}: {}", error.message)))?;
        let mountpoint = self.root.join(name).join("_data");
        self.make(&mountpoint, limit)?;
        let volume = Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint,
            labels,
            options,
            created_at: rfc3339(now_ns()),
            anonymous,
            snapshot_of: None,
        };
        crate::fault::point("volume create", "folder made")?;
        self.database.put(Table::Volumes, name, &volume)?;
        let entry = Entry::of(volume);
        let volume = Arc::clone(&entry.volume);
        state.volumes.insert(name.to_owned(), entry);
        self.publish("create", &volume, &[]);
        Ok(volume)
    }

    /// The most bytes that a volume may have, by its options.
    fn limit(&self, options: &BTreeMap<String, String>) -> Result<Option<u64>> {
        let limit = options::size(options)?;
        if limit.is_some() {
            self.limiter.check().map_err(|error| {
                Error::invalid(format!("quota size requested but no quota support: {error}"))
            })?;
        }
        Ok(limit)
    }

    /// Makes `NAME` and `NAME/_data`. What is in a folder that is there already stays: it is its owner's.
    fn make(&self, mountpoint: &Path, limit: Option<u64>) -> Result<()> {
        let failed = |error: io::Error| {
            Error::system(format_args!("make the volume's folder {}", mountpoint.display()), error)
        };
        self.make_folder(mountpoint).map_err(failed)?;
        if !mountpoint.exists() {
            return Ok(self.limiter.make_for_snapshots(mountpoint, Mode::from(0o755), limit)?);
        }
        match limit {
            None => Ok(()),
            Some(_) => Err(Error::conflict(format!(
                "the volume cannot be limited: there is a folder {} already, which no volume owns",
                mountpoint.display()
            ))),
        }
    }

    /// Makes the folder that `_data` lies in.
    fn make_folder(&self, mountpoint: &Path) -> io::Result<()> {
        let folder = mountpoint.parent().unwrap_or(mountpoint);
        fs::DirBuilder::new().recursive(true).mode(0o701).create(folder)
    }

    /// Tells that a container that starts or ends has a volume, or has it no more.
    pub(crate) fn tell(&self, action: &str, name: &str, further: &[(&str, &str)]) {
        if let Ok(volume) = self.get(name) {
            self.publish(action, &volume, further);
        }
    }

    fn publish(&self, action: &str, volume: &Volume, further: &[(&str, &str)]) {
        let mut attributes = BTreeMap::from([("driver".to_owned(), volume.driver.clone())]);
        attributes.extend(further.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.events.publish(events::Kind::Volume, action, &volume.name, attributes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

impl State {
    fn find(&self, name: &str) -> Result<&Entry> {
        self.volumes.get(name).ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }
}

impl Entry {
    fn of(volume: Volume) -> Entry {
        Entry { volume: Arc::new(volume), users: BTreeSet::new(), mounted: Arc::default() }
    }
}

impl Volume {
    /// The volume in the API's shape.
    pub fn shown(&self) -> Value {
        let or_null = |map: &BTreeMap<String, String>| if map.is_empty() { Value::Null } else { json!(map) };
        let mut shown = json!({
            "CreatedAt": self.created_at,
            "Driver": self.driver,
            "Labels": or_null(&self.labels),
            "Mountpoint": self.mountpoint,
            "Name": self.name,
            "Options": or_null(&self.options),
            "Scope": "local",
        });
        // What a driver knows of a volume besides has this place in Docker.
        if let Some(volume) = &self.snapshot_of {
            shown["Status"] = json!({ "SnapshotOf": volume });
        }
        shown
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !starts || !name.bytes().all(plain) {
        return Err(Error::invalid(format!(
            "create {name}: {name:?} includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    if name.len() < 2 {
        return Err(Error::invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    if name.len() > 200 {
        return Err(Error::invalid(format!(
            "create {name}: volume name is too long, names should be 200 characters at most"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
