//! Volumes: folders that outlive containers, and who uses them.
//!
//! `<data-root>/volumes/NAME/_data` is what containers see. What a volume's options name (`type`, `device`, `o`) is
//! mounted over it while a container that runs uses it.

mod options;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::DaemonConfig;
use crate::container::{now_ns, random_id, rfc3339};
use crate::database::{Database, Table};
use crate::events::{self, Events};
use crate::filter::Filters;
use crate::{Error, Kind, Result};

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
}

/// The volumes.
pub struct Volumes {
    root: PathBuf,
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

/// The runs of containers that have a volume mounted.
type Mounted = Arc<Mutex<BTreeSet<Run>>>;

/// A run of a container, from its start to its end. What still clears up behind one does not take a volume from the
/// next one of the same container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    /// The container's id.
    pub(crate) container: String,
    /// Which of its runs under this daemon.
    pub(crate) number: u64,
}

impl Run {
    /// Before a container's first run its volumes are mounted to be filled.
    pub(crate) fn before_any(container: &str) -> Run {
        Run { container: container.to_owned(), number: 0 }
    }
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
            for entry in
                entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b".gone-"))
            {
                remove_tree(&entry.path())?;
            }
        }
        let state = Mutex::new(State { volumes, by_container: HashMap::new() });
        Ok(Volumes { root, state, database, events })
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

    /// At load: that container uses that volume.
    pub(crate) fn retain(&self, name: &str, container: &str) {
        self.state().retain(name, container);
    }

    /// A container that is gone uses no volume any more; its anonymous ones may go with it. The folders that are left
    /// to be removed, out of the way already: what is in them may be large, and nobody has to wait for that.
    ///
    /// With them what went wrong, if something did: a folder or a row that cannot be removed does not keep the others.
    pub(crate) fn release(&self, container: &str, remove_anonymous: bool) -> (Vec<PathBuf>, Result<()>) {
        let mut ownerless = Vec::new();
        {
            let mut state = self.state();
            for name in state.by_container.remove(container).unwrap_or_default() {
                let Some(entry) = state.volumes.get_mut(&name) else { continue };
                entry.users.remove(container);
                if remove_anonymous && entry.volume.anonymous && entry.users.is_empty() {
                    ownerless.push(name);
                }
            }
        }
        let (mut gone, mut result) = (Vec::new(), Ok(()));
        for name in ownerless {
            match self.discard(&name) {
                Ok(aside) => gone.extend(aside),
                // Someone took or removed it meanwhile.
                Err(error) if matches!(error.kind, Kind::Conflict | Kind::NotFound) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        (gone, result)
    }

    /// Whether something is mounted over a volume of a container while it runs: that may take its time.
    pub(crate) fn of_a_container_are_mounts(&self, container: &str) -> bool {
        let state = self.state();
        let is_mount =
            |name: &String| state.volumes.get(name).is_some_and(|entry| !entry.volume.options.is_empty());
        state.by_container.get(container).is_some_and(|names| names.iter().any(is_mount))
    }

    /// The folder to bind, for a container that starts. What the volume's options name is mounted at first use.
    ///
    /// # Errors
    /// The volume is gone, or the kernel does not mount it.
    pub(crate) fn mount(&self, name: &str, run: &Run) -> Result<PathBuf> {
        let (volume, mounted) = self.mounts(name)?;
        {
            let mut mounted = locked(&mounted);
            if !volume.options.is_empty() && mounted.is_empty() {
                options::mount(&volume)?;
            }
            mounted.insert(run.clone());
        }
        Ok(volume.mountpoint.clone())
    }

    /// A run that ended needs it no longer: unmounted after the last. Whether the run had it.
    ///
    /// # Errors
    /// The kernel does not unmount it.
    pub(crate) fn unmount(&self, name: &str, run: &Run) -> Result<bool> {
        let (volume, mounted) = self.mounts(name)?;
        let mut mounted = locked(&mounted);
        if !mounted.remove(run) {
            return Ok(false);
        }
        if mounted.is_empty() && !volume.options.is_empty() {
            options::unmount(&volume)?;
        }
        Ok(true)
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

    /// Removes a volume that nobody uses.
    ///
    /// # Errors
    /// There is none (which `force` forgives), containers use it (409), or its files cannot be removed.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        match self.discard(name) {
            Err(error) if error.kind == Kind::NotFound && force => Ok(()),
            // Others go on while its bytes go.
            gone => gone?.iter().try_for_each(|gone| remove_tree(gone)),
        }
    }

    /// Removes the volumes that nobody uses and that pass the filters `all`, `label`, `label!`: the anonymous ones, or
    /// all of them. Their names, and the bytes that they took.
    ///
    /// # Errors
    /// A filter that is not known, or files cannot be removed.
    pub fn prune(&self, filters: &Filters, all_by_default: bool) -> Result<(Vec<String>, u64)> {
        filters.only(&["all", "label", "label!"])?;
        let all = filters.boolean("all")?.unwrap_or(all_by_default);
        let passes = |entry: &&Entry| {
            entry.users.is_empty()
                && (all || entry.volume.labels.contains_key(ANONYMOUS))
                && filters.labels(&entry.volume.labels)
        };
        let candidates: Vec<Arc<Volume>> =
            self.state().volumes.values().filter(passes).map(|entry| Arc::clone(&entry.volume)).collect();
        let (mut removed, mut reclaimed) = (Vec::new(), 0);
        for volume in candidates {
            let size = size(&volume);
            match self.remove(&volume.name, false) {
                Ok(()) => {
                    removed.push(volume.name.clone());
                    reclaimed += size;
                }
                // Someone took or removed it meanwhile.
                Err(error) if matches!(error.kind, Kind::Conflict | Kind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.events.publish(events::Kind::Volume, "prune", "", attributes);
        Ok((removed, reclaimed))
    }

    /// Every volume with the bytes that it takes and the number of containers that use it.
    pub fn disk_usage(&self) -> Vec<(Arc<Volume>, u64, usize)> {
        let volumes: Vec<(Arc<Volume>, usize)> = {
            let state = self.state();
            state.volumes.values().map(|entry| (Arc::clone(&entry.volume), entry.users.len())).collect()
        };
        volumes.into_iter().map(|(volume, users)| (Arc::clone(&volume), size(&volume), users)).collect()
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
        let mountpoint = self.root.join(name).join("_data");
        let made = make(&mountpoint);
        made.map_err(|error| {
            Error::system(format_args!("make the volume's folder {}", mountpoint.display()), error)
        })?;
        let volume = Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint,
            labels,
            options,
            created_at: rfc3339(now_ns()),
            anonymous,
        };
        crate::fault::point("volume create", "folder made")?;
        self.database.put(Table::Volumes, name, &volume)?;
        let entry = Entry::of(volume);
        let volume = Arc::clone(&entry.volume);
        state.volumes.insert(name.to_owned(), entry);
        self.publish("create", &volume, &[]);
        Ok(volume)
    }

    /// Takes out a volume that nobody uses; what is left is to remove the folder that comes back. What may be mounted over
    /// it still, because a daemon died, goes first, and only this volume waits for that.
    fn discard(&self, name: &str) -> Result<Option<PathBuf>> {
        let (volume, mounted) = {
            let state = self.state();
            let entry = state.unused(name)?;
            (Arc::clone(&entry.volume), Arc::clone(&entry.mounted))
        };
        // Held until it is out: nobody mounts it again in between.
        let _mounted = locked(&mounted);
        if !volume.options.is_empty() {
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
        state.volumes.remove(name);
        self.publish("destroy", &volume, &[]);
        Ok(aside)
    }

    fn mounts(&self, name: &str) -> Result<(Arc<Volume>, Mounted)> {
        let state = self.state();
        let entry = state.find(name)?;
        Ok((Arc::clone(&entry.volume), Arc::clone(&entry.mounted)))
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

    /// A volume that no container uses.
    fn unused(&self, name: &str) -> Result<&Entry> {
        let entry = self.find(name)?;
        if entry.users.is_empty() {
            return Ok(entry);
        }
        let users: Vec<&str> = entry.users.iter().map(String::as_str).collect();
        Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))))
    }

    fn retain(&mut self, name: &str, container: &str) {
        if let Some(entry) = self.volumes.get_mut(name) {
            entry.users.insert(container.to_owned());
            self.by_container.entry(container.to_owned()).or_default().insert(name.to_owned());
        }
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
        json!({
            "CreatedAt": self.created_at,
            "Driver": self.driver,
            "Labels": or_null(&self.labels),
            "Mountpoint": self.mountpoint,
            "Name": self.name,
            "Options": or_null(&self.options),
            "Scope": "local",
        })
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
    if name.len() < 2 || name.len() > 200 {
        return Err(Error::invalid(format!("create {name}: a volume name has 2 to 200 characters")));
    }
    Ok(())
}

/// Makes `NAME` and `NAME/_data`. What is in a folder that is there already stays: it is its owner's.
fn make(mountpoint: &Path) -> io::Result<()> {
    let folder = mountpoint.parent().unwrap_or(mountpoint);
    fs::DirBuilder::new().recursive(true).mode(0o701).create(folder)?;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(mountpoint)
}

/// Where a volume waits for the end of its removal. No volume's name begins with a dot.
fn gone(root: &Path, name: &str) -> PathBuf {
    root.join(format!(".gone-{name}"))
}

/// Removes a tree without following links out of it.
fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system(format_args!("remove the volume's files in {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// The bytes that a volume's files take; other file systems mounted in it are not walked. A file with several names
/// counts once.
fn size(volume: &Volume) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(root) = fs::symlink_metadata(&volume.mountpoint) else { return 0 };
    let mut linked = std::collections::HashSet::new();
    let mut folders = vec![volume.mountpoint.clone()];
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
                total += metadata.len();
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        _folder: tempfile::TempDir,
        config: DaemonConfig,
        database: Arc<Database>,
    }

    impl Place {
        fn new() -> Place {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("volumes")).unwrap();
            let config = DaemonConfig {
                data_root: folder.path().to_owned(),
                exec_root: folder.path().join("exec"),
                instance: "hull-test".into(),
                debug: false,
                default_ulimits: BTreeMap::new(),
                log: crate::model::LogConfig::default(),
                bip: None,
                address_pools: Vec::new(),
                dns: Vec::new(),
                dns_options: Vec::new(),
                dns_search: Vec::new(),
                labels: Vec::new(),
                storage_driver: None,
            };
            let database = Arc::new(Database::open(&folder.path().join("db")).unwrap());
            Place { _folder: folder, config, database }
        }

        fn open(&self) -> Volumes {
            Volumes::open(&self.config, Arc::clone(&self.database), Arc::new(Events::new())).unwrap()
        }
    }

    fn run(container: &str, number: u64) -> Run {
        Run { container: container.into(), number }
    }

    fn named(name: &str) -> VolumeCreate {
        VolumeCreate { name: name.into(), ..VolumeCreate::default() }
    }

    fn filters(name: &str, value: &str) -> Filters {
        BTreeMap::from([(name.to_owned(), vec![value.to_owned()])]).into()
    }

    fn names(volumes: Vec<Arc<Volume>>) -> Vec<String> {
        volumes.iter().map(|volume| volume.name.clone()).collect()
    }

    #[test]
    fn a_volume_outlives_the_daemon() {
        let place = Place::new();
        let made = place.open().create(named("data")).unwrap();
        fs::write(made.mountpoint.join("f"), "kept").unwrap();
        let again = place.open();
        assert_eq!(again.get("data").unwrap(), made);
        assert_eq!(again.create(named("data")).unwrap(), made);
        assert_eq!(again.disk_usage()[0].1, 4);
        again.remove("data", false).unwrap();
        assert!(!place.config.data_root.join("volumes/data").exists());
        assert_eq!(fs::read_dir(place.config.data_root.join("volumes")).unwrap().count(), 0);
        assert_eq!(place.open().get("data").unwrap_err().message, "get data: no such volume");
    }

    #[test]
    fn anonymous_volumes_go_with_their_last_container() {
        let place = Place::new();
        let volumes = place.open();
        let none = BTreeMap::new();
        let acquire = |name, container| volumes.acquire(name, "", &none, &none, container).unwrap();
        let anonymous = acquire(None, "c1");
        acquire(Some("named"), "c1");
        let shared = acquire(None, "c1");
        acquire(Some(&shared.name), "c2");
        assert_eq!(anonymous.name.len(), 64);
        let error = volumes.remove("named", true).unwrap_err();
        assert_eq!(error.message, "remove named: volume is in use - [c1]");
        volumes.release("c1", true).1.unwrap();
        assert!(volumes.get(&anonymous.name).is_err());
        assert!(volumes.get("named").is_ok() && volumes.get(&shared.name).is_ok());
        volumes.release("c2", true).1.unwrap();
        assert!(volumes.get(&shared.name).is_ok(), "someone called it by its name");
    }

    #[test]
    fn a_volume_that_cannot_be_removed_does_not_keep_the_others() {
        let place = Place::new();
        let volumes = place.open();
        let none = BTreeMap::new();
        let mut made = [(); 2].map(|()| volumes.acquire(None, "", &none, &none, "c").unwrap());
        made.sort_by(|one, other| one.name.cmp(&other.name));
        // In the place of the second one's folder is a mount that cannot be renamed.
        let stuck = place.config.data_root.join("volumes").join(&made[1].name);
        rustix::mount::mount("tmpfs", &stuck, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        let (gone, result) = volumes.release("c", true);
        rustix::mount::unmount(&stuck, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(result.unwrap_err().message.contains(&made[1].name));
        assert!(gone.len() == 1 && gone[0].exists(), "what is aside is told: {gone:?}");
        assert!(volumes.get(&made[0].name).is_err() && volumes.get(&made[1].name).is_ok());
    }

    #[test]
    fn a_volume_that_is_being_mounted_keeps_no_other_waiting() {
        let place = Place::new();
        let volumes = Arc::new(place.open());
        let options = [("type", "tmpfs"), ("device", "tmpfs")];
        let driver_opts = options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        volumes.create(VolumeCreate { driver_opts, ..named("slow") }).unwrap();
        let (_, mounted) = volumes.mounts("slow").unwrap();
        let hangs = locked(&mounted);
        let removal = std::thread::spawn({
            let volumes = Arc::clone(&volumes);
            move || volumes.remove("slow", false)
        });
        volumes.create(named("other")).unwrap();
        assert!(volumes.get("slow").is_ok(), "its removal waits");
        drop(hangs);
        removal.join().unwrap().unwrap();
        assert!(volumes.get("slow").is_err());
    }

    #[test]
    fn lists_are_filtered_and_prune_spares_what_has_a_name() {
        let place = Place::new();
        let volumes = place.open();
        volumes.create(named("one")).unwrap();
        volumes
            .create(VolumeCreate { labels: BTreeMap::from([("a".into(), "1".into())]), ..named("two") })
            .unwrap();
        volumes.retain("two", "c");
        let unnamed = volumes.create(named("")).unwrap();
        let list = |name: &str, value: &str| names(volumes.list(&filters(name, value)).unwrap());
        assert_eq!(list("label", "a=1"), ["two"]);
        assert_eq!(list("dangling", "false"), ["two"]);
        assert_eq!(list("name", "^on"), ["one"]);
        assert_eq!(volumes.list(&filters("x", "")).unwrap_err().message, "invalid filter 'x'");
        assert_eq!(volumes.prune(&Filters::default(), false).unwrap().0, std::slice::from_ref(&unnamed.name));
        assert_eq!(volumes.prune(&filters("all", "1"), false).unwrap().0, ["one"]);
        assert_eq!(names(volumes.list(&Filters::default()).unwrap()), ["two"]);
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        let place = Place::new();
        let volumes = place.open();
        for name in ["a/b", "..", ".gone-x", "a\nb", "a", "-a", &"a".repeat(300)] {
            assert_eq!(volumes.create(named(name)).unwrap_err().kind, Kind::InvalidParameter, "{name:?}");
        }
        assert_eq!(
            volumes.create(VolumeCreate { driver: "nfs".into(), ..named("ab") }).unwrap_err().kind,
            Kind::NotFound
        );
    }

    #[test]
    fn a_removal_that_a_crash_cut_off_is_finished() {
        let place = Place::new();
        place.open().create(named("data")).unwrap();
        let root = place.config.data_root.join("volumes");
        fs::rename(root.join("data"), root.join(".gone-data")).unwrap();
        assert!(place.open().get("data").is_err());
        assert!(!root.join(".gone-data").exists());
    }

    #[test]
    fn options_are_mounted_at_first_use_and_unmounted_at_last() {
        let place = Place::new();
        let volumes = place.open();
        let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,noexec")];
        let driver_opts = options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let volume = volumes.create(VolumeCreate { driver_opts, ..named("scratch") }).unwrap();
        let is_mounted = || {
            let table = fs::read_to_string("/proc/self/mounts").unwrap();
            table.lines().any(|line| line.contains(&format!(" {} tmpfs ", volume.mountpoint.display())))
        };
        volumes.mount("scratch", &run("c1", 1)).unwrap();
        volumes.mount("scratch", &run("c2", 1)).unwrap();
        assert!(is_mounted());
        // Another daemon finds it mounted and does not mount it again.
        place.open().mount("scratch", &run("c1", 1)).unwrap();
        volumes.unmount("scratch", &run("c1", 1)).unwrap();
        assert!(is_mounted());
        volumes.mount("scratch", &run("c2", 2)).unwrap();
        assert!(volumes.unmount("scratch", &run("c2", 1)).unwrap());
        assert!(!volumes.unmount("scratch", &run("c2", 1)).unwrap());
        assert!(is_mounted(), "the end of a run, however late, takes nothing from the next");
        assert!(volumes.unmount("scratch", &run("c2", 2)).unwrap());
        assert!(!is_mounted());
    }
}
