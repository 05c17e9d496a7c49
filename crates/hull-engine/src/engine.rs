//! The engine: what one daemon owns, and how it comes up.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hull_image::Store;
use hull_image::registry::{Puller, Pusher, Registries, Settings};
use hull_network::Fabric;
use hull_runtime::launcher::Launcher;
use tokio::io::Interest;

use crate::config::{DaemonConfig, Reloadable};
use crate::container::{Containers, ExecIndex, Selinux};
use crate::database::Database;
use crate::events::Events;
use crate::images::Pulls;
use crate::networks::Networks;
use crate::volumes::Volumes;
use crate::watched::watched;
use crate::{Error, Kind, Result, Runtimes};

/// What one daemon owns: containers, images, networks, volumes, events.
pub struct Engine {
    /// What the daemon was told at its start.
    pub config: DaemonConfig,
    /// Stays the same over restarts of the daemon.
    pub id: String,
    /// When this daemon started, in nanoseconds since 1970.
    pub started_at_ns: i64,
    /// The images and the containers' writable layers.
    pub images: Arc<Store>,
    /// The networks and who is on them.
    pub networks: Networks,
    /// The volumes and who uses them.
    pub volumes: Volumes,
    /// What happened.
    pub events: Arc<Events>,
    pub(crate) pulls: Pulls,
    pub(crate) pusher: Pusher,
    pub(crate) containers: Containers,
    pub(crate) execs: ExecIndex,
    pub(crate) database: Arc<Database>,
    pub(crate) launcher: Launcher,
    /// Who gives SELinux's labels, if containers have them.
    pub(crate) selinux: Option<Selinux>,
    /// The sizes of what nobody counts: volumes, and containers' writable layers.
    pub(crate) volume_sizes: crate::system::Sizes,
    pub(crate) container_sizes: crate::system::Sizes,
    /// The daemon ends, and its containers with it: nothing starts any more.
    pub(crate) ending: AtomicBool,
    /// What of the configuration was taken anew since the start.
    reloadable: Mutex<Reloadable>,
    /// Held as long as this daemon lives, so that no other has its roots.
    _roots: [fs::File; 2],
}

impl Engine {
    /// Opens what is in the data root and takes up what an earlier daemon left running.
    ///
    /// # Errors
    /// A folder or the database cannot be opened, or another daemon has them.
    pub async fn open(config: DaemonConfig, launcher: Launcher) -> Result<Arc<Engine>> {
        make_private(&config.data_root)?;
        make_private(&config.exec_root)?;
        let roots = [
            own(&config.data_root, "data root", "--data-root")?,
            own(&config.exec_root, "exec root", "--exec-root")?,
        ];
        for folder in [
            config.data_root.join("containers"),
            config.data_root.join("volumes"),
            config.exec_root.join("c"),
        ] {
            make_private(&folder)?;
        }
        if config.userns_remap.is_some() {
            // Set-user-ID programs of the host's root lie there, made by whoever is root in a container.
            close(&config.data_root.join("volumes"))?;
            make_private(&config.data_root.join("image"))?;
            close(&config.data_root.join("image"))?;
        }
        let database = Arc::new(Database::open(&config.data_root.join("hull.db"))?);
        let images = Store::open_with(
            &config.data_root.join("image"),
            &[config.data_root.clone(), config.exec_root.clone()],
            config.storage_driver.as_deref(),
        )
        .map_err(crate::images::error)?;
        let images = Arc::new(images);
        let registries = Registries::new(config.registries.clone());
        let puller = Puller::new(Arc::clone(&images), registries.clone());
        let pusher = Pusher::new(Arc::clone(&images), registries);
        if config.default_size.is_some() {
            images.check_limits().map_err(|error| {
                Error::new(
                    Kind::NotImplemented,
                    format!("--storage-opt overlay2.size is not supported here: {error}"),
                )
            })?;
        }
        let fabric = Arc::new(Fabric::open(&config.instance)?);
        let events = Arc::new(Events::new());
        let volumes = Volumes::open(&config, Arc::clone(&database), Arc::clone(&events))?;
        let networks = Networks::open(&config, fabric, Arc::clone(&database), Arc::clone(&events))?;
        let engine = Arc::new(Engine {
            id: daemon_id(&config.data_root)?,
            started_at_ns: crate::container::now_ns(),
            images,
            pulls: Pulls::new(puller),
            pusher,
            networks,
            volumes,
            events,
            containers: Containers::load(&database)?,
            execs: ExecIndex::default(),
            database,
            launcher,
            selinux: Selinux::open(config.selinux_enabled)?,
            volume_sizes: crate::system::Sizes::default(),
            container_sizes: crate::system::Sizes::default(),
            ending: AtomicBool::new(false),
            reloadable: Mutex::new(Reloadable {
                debug: config.debug,
                labels: config.labels.clone(),
                runtimes: Arc::new(config.runtimes.clone()),
            }),
            config,
            _roots: roots,
        });
        engine.take_up().await?;
        crate::images::collect::begin(&engine);
        tokio::spawn(keep_launcher(Arc::downgrade(&engine)));
        Ok(engine)
    }

    /// Takes over what the configuration file says now, and tells who listens.
    pub fn reload(&self, debug: bool, labels: Vec<String>, runtimes: Runtimes, registries: Settings) {
        let attributes = BTreeMap::from([
            ("name".to_owned(), rustix::system::uname().nodename().to_string_lossy().into_owned()),
            ("debug".to_owned(), debug.to_string()),
            ("labels".to_owned(), serde_json::json!(labels).to_string()),
            ("default-runtime".to_owned(), runtimes.default_name().to_owned()),
            ("runtimes".to_owned(), runtimes.described().to_string()),
            ("registry-mirrors".to_owned(), serde_json::json!(registries.mirrors).to_string()),
            ("insecure-registries".to_owned(), serde_json::json!(registries.insecure).to_string()),
            ("max-concurrent-downloads".to_owned(), registries.downloads.to_string()),
            ("max-concurrent-uploads".to_owned(), registries.uploads.to_string()),
            ("max-download-attempts".to_owned(), registries.attempts.to_string()),
        ]);
        self.reconfigure_registries(registries);
        let reloadable = Reloadable { debug, labels, runtimes: Arc::new(runtimes) };
        *self.reloadable.lock().unwrap_or_else(PoisonError::into_inner) = reloadable;
        self.events.publish(crate::events::Kind::Daemon, "reload", &self.id, attributes);
    }

    /// What the configuration says by now.
    pub(crate) fn reloadable(&self) -> Reloadable {
        self.reloadable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the folder of this daemon's cgroups away where nothing is in it: it is of no use without a daemon.
    pub fn leave_cgroups(&self) {
        if let Ok(own) = hull_runtime::cgroup::Cgroup::open(&format!("/{}", self.config.instance)) {
            own.remove_if_empty();
        }
    }

    /// The runtimes that make containers by now.
    pub fn runtimes(&self) -> Arc<Runtimes> {
        Arc::clone(&self.reloadable.lock().unwrap_or_else(PoisonError::into_inner).runtimes)
    }
}

/// The shortest and the longest time between two attempts to watch the launcher, or to start it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_BLIND: Duration = Duration::from_secs(10);

/// Starts the launcher anew whenever it has been killed, as long as the engine is there.
async fn keep_launcher(engine: Weak<Engine>) {
    let (mut pause, mut blind) = (Duration::ZERO, Duration::ZERO);
    loop {
        let end = {
            let Some(engine) = engine.upgrade() else { return };
            engine.launcher.end()
        };
        let ended = async {
            let failed = |error: io::Error| Error::system("watch the launcher", error);
            let end = watched(end?, Interest::READABLE).map_err(failed)?;
            let _ready = end.readable().await.map_err(failed)?;
            Ok::<(), Error>(())
        };
        if let Err(error) = ended.await {
            // It may well live: that it cannot be watched is no reason to say otherwise.
            tracing::warn!(%error, "the launcher cannot be watched; that is tried again");
            blind = (blind * 2).clamp(SHORTEST_PAUSE, LONGEST_BLIND);
            tokio::time::sleep(blind).await;
        } else {
            blind = Duration::ZERO;
        }
        tokio::time::sleep(pause).await;
        let Some(engine) = engine.upgrade() else { return };
        let revived = tokio::task::spawn_blocking(move || engine.launcher.revive().map_err(Error::from));
        match revived.await.unwrap_or_else(|error| Err(Error::system("start the launcher", error))) {
            // One that a start had been faster to replace.
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!("the launcher was killed and has been started anew; containers run on")
            }
            Err(error) => {
                tracing::error!(%error, "the launcher is gone, and another one could not be started");
                pause = (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_BLIND);
                continue;
            }
        }
        // One that dies at once is not started at every instant.
        pause = SHORTEST_PAUSE;
    }
}

/// Makes a folder that only its owner enters.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o710)
        .create(path)
        .map_err(|error| Error::system(format_args!("make the folder {}", path.display()), error))
}

/// Leaves a folder, whoever made it and how, to its owner alone.
fn close(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(|error| {
        Error::system(format_args!("close the folder {} to others", folder.display()), error)
    })
}

/// Takes a root for this daemon alone. The kernel lets go of it when the daemon ends, however it does.
fn own(root: &Path, what: &str, flag: &str) -> Result<fs::File> {
    let failed = |error: io::Error| Error::system(format_args!("lock the {what} {}", root.display()), error);
    let folder = fs::File::open(root).map_err(failed)?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(fs::TryLockError::WouldBlock) => Err(Error::conflict(format!(
            "another daemon has the {what} {}: end it with `hull system stop`, or give this one a folder of its own \
             with {flag}",
            root.display()
        ))),
        Err(fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The daemon's id, made once for each data root.
fn daemon_id(data_root: &Path) -> Result<String> {
    let path = data_root.join("id");
    let failed =
        |error: io::Error| Error::system(format_args!("keep the daemon's id in {}", path.display()), error);
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        Ok(_) => write_id(&path).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_id(&path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

fn write_id(path: &Path) -> io::Result<String> {
    let digits = crate::container::random_id();
    let parts = [&digits[0..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..32]];
    let id = parts.join("-");
    fs::write(path, &id)?;
    Ok(id)
}
