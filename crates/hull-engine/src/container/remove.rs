//! Removing containers: the name is free at once, bytes are removed behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{fs, io};

use super::starting::START_PATIENCE;
use super::stop::Found;
use super::wait::Condition;
use super::{Container, Status, locked};
use crate::blocking::{may_hang_if, see_through};
use crate::database::Table;
use crate::fault;
use crate::{Engine, Error, Kind, Result};

/// How often a forced removal ends what was started in between.
const FORCED: u32 = 16;

/// How often a removal behind an end is tried again.
const BEHIND: u32 = 4;

/// How a container is removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoveOptions {
    /// A running one is killed.
    pub force: bool,
    /// Its anonymous volumes go with it.
    pub volumes: bool,
}

/// A user's removal of a container, of which there is one at a time.
struct Removal(Arc<Container>);

impl Removal {
    /// None, where one is in progress.
    fn begin(container: &Arc<Container>) -> Option<Removal> {
        let begins = !container.removing.swap(true, Ordering::AcqRel);
        begins.then(|| Removal(Arc::clone(container)))
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.0.removing.store(false, Ordering::Release);
    }
}

impl Engine {
    /// Removes a container, which the user called by this name.
    ///
    /// # Errors
    /// It runs, and `force` was not given; or another user removes it already.
    pub async fn remove(
        self: &Arc<Self>,
        container: &Arc<Container>,
        called: &str,
        options: RemoveOptions,
    ) -> Result<()> {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        let Some(removal) = Removal::begin(&container) else {
            return Err(Error::conflict(format!("removal of container {called} is already in progress")));
        };
        // A client that goes away does not leave half a container behind.
        see_through("remove the container", async move {
            let _removal = removal;
            if !options.force {
                let _transition = container.transition.lock().await;
                container.cleared_at_rest().await;
                return engine.remove_now(&container, options.volumes).await;
            }
            for _ in 0..FORCED {
                engine.end_for_removal(&container).await?;
                let _transition = engine.transition_within(&container, Some(START_PATIENCE)).await?;
                container.cleared_at_rest().await;
                match engine.remove_now(&container, options.volumes).await {
                    // Started in between: that run is ended as well.
                    Err(error) if error.kind == Kind::Conflict => {}
                    // One with --rm has gone by itself when it was ended: that is what was asked for.
                    Err(error) if error.kind == Kind::NotFound => return Ok(()),
                    result => return result,
                }
            }
            Err(Error::conflict(format!("container {} is started again and again", container.id)))
        })
        .await
    }

    async fn end_for_removal(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let ended = self.wait(container, Condition::NextExit);
        match self.mark_stopped(container) {
            Found::Runs => {}
            Found::Restarts => {
                self.give_up_restart(container, Some(START_PATIENCE)).await?;
                return Ok(());
            }
            Found::Rests => return Ok(()),
        }
        self.tell_kill(container, libc::SIGKILL);
        self.kill_everything(container).await?;
        if tokio::time::timeout(Duration::from_secs(10), ended).await.is_err()
            && container.record().is_running()
        {
            return Err(Error::new(
                Kind::System,
                format!("could not kill container {}: it still runs after ten seconds", container.id),
            ));
        }
        Ok(())
    }

    /// `--rm`: removed behind its end.
    pub(super) fn remove_behind(self: &Arc<Self>, container: &Arc<Container>) {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            let _transition = container.transition.lock().await;
            container.cleared_at_rest().await;
            let mut pause = Duration::from_millis(100);
            let mut removed = engine.remove_now(&container, true).await;
            for _ in 0..BEHIND {
                if !matches!(&removed, Err(error) if error.kind == Kind::System) {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
                removed = engine.remove_now(&container, true).await;
            }
            if let Err(error) = removed
                && error.kind != Kind::NotFound
            {
                tracing::error!(container = container.id, %error, "a container with --rm could not be removed");
                // Who waits for its removal would wait for ever.
                container.lifetime.send_modify(|lifetime| lifetime.stays = error.message);
            }
        });
    }

    /// The removal itself. The caller holds the transition.
    pub(super) async fn remove_now(
        self: &Arc<Self>,
        container: &Arc<Container>,
        volumes: bool,
    ) -> Result<()> {
        let (name, status) = {
            let mut record = container.record();
            let status = record.state.status;
            let hint = match status {
                Status::Removing => {
                    return Err(Error::not_found(format!("No such container: {}", container.id)));
                }
                Status::Running => "is running",
                Status::Paused => "is paused and must be unpaused first",
                Status::Restarting => "is restarting",
                Status::Created | Status::Exited | Status::Dead => "",
            };
            if !hint.is_empty() {
                return Err(Error::conflict(format!(
                    "cannot remove container \"/{}\": container {hint}: stop the container before removing or force remove",
                    record.name
                )));
            }
            record.state.status = Status::Removing;
            (record.name.clone(), status)
        };
        // The row goes first: a crash from here on leaves files that the next daemon finds no owner for.
        if let Err(error) = self.database.delete(Table::Containers, &container.id) {
            container.record().state.status = status;
            return Err(error);
        }
        self.containers.remove(container, &name);
        locked(&container.waiting_clients).clear();
        // Who still asks for one is told that it is gone.
        drop(std::mem::take(&mut *locked(&container.execs)));
        fault::passed("remove", "row gone");
        let folders = self.put_folders_aside(container);
        fault::passed("remove", "folders aside");
        let of_mounts = container.record().image_mounts();
        for key in std::iter::once(container.id.clone()).chain(of_mounts) {
            if let Err(error) = self.images.remove_snapshot(&key) {
                tracing::error!(container = container.id, snapshot = key, %error, "a snapshot of it could not be removed");
            }
        }
        fault::passed("remove", "snapshot gone");
        let volumes = self.release_volumes(&container.id, volumes).await;
        fault::passed("remove", "volumes aside");
        self.remove_bytes_behind(container, folders, volumes);
        self.free_labels(container.record().labels.as_ref());
        self.tell(container, "destroy");
        container.lifetime.send_modify(|lifetime| {
            lifetime.running = false;
            lifetime.removed = true;
        });
        Ok(())
    }

    /// Its volumes are others' or nobody's now: the folders that are left to be removed of those that went with it.
    pub(super) async fn release_volumes(self: &Arc<Self>, id: &str, anonymous: bool) -> Vec<PathBuf> {
        let may_hang = self.volumes.of_a_container_are_mounts(id);
        let container = id.to_owned();
        let released = may_hang_if(may_hang, self, move |engine| {
            let (gone, released) = engine.volumes.release(&container, anonymous);
            if let Err(error) = released {
                tracing::error!(container, %error, "one of its volumes could not be removed");
            }
            Ok(gone)
        });
        released.await.unwrap_or_else(|error| {
            tracing::error!(container = id, %error, "its volumes could not be released");
            Vec::new()
        })
    }

    /// Its logs and its files of this boot, away with a rename; it is the first of all that goes. Where the power fails before
    /// the row's going is on the disk, the folder's new name says that it was being removed, and the next daemon goes on with
    /// it. What a crash leaves has no owner, and the next daemon removes it.
    fn put_folders_aside(&self, container: &Container) -> Vec<PathBuf> {
        let away = |folder: PathBuf| {
            let gone = gone(&folder);
            match fs::rename(&folder, &gone) {
                Ok(()) => Some(gone),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    tracing::error!(container = container.id, %error, "{} could not be removed", folder.display());
                    None
                }
            }
        };
        [self.container_dir(&container.id), self.runtime_dir(&container.id)]
            .into_iter()
            .filter_map(away)
            .collect()
    }

    /// The bytes of what was put aside. Nobody waits for that.
    fn remove_bytes_behind(
        self: &Arc<Self>,
        container: &Container,
        mut gone: Vec<PathBuf>,
        volumes: Vec<PathBuf>,
    ) {
        gone.extend(volumes);
        // Their going reaches the disk by itself, in the file system's time. The row's goes first: until it has, the folder
        // stays and tells of the removal. What is removed at its end anyway is removed behind a power cut too.
        let goes_anyway = {
            let record = container.record();
            record.host_config.auto_remove && record.state.started_at != super::NEVER
        };
        let synced = (!goes_anyway).then(|| self.database.sync_behind());
        let (engine, id) = (Arc::clone(self), container.id.clone());
        tokio::spawn(async move {
            if let Some(synced) = synced
                && !synced.wait().await
            {
                tracing::error!(container = id, "its files stay until the daemon starts again");
                return;
            }
            let removal = move || {
                for folder in gone {
                    if let Err(error) = hull_image::remove_tree(&folder) {
                        tracing::error!(%error, "{} could not be removed", folder.display());
                    }
                }
                // Until here a look at the disk finds folders that are nobody's, and are no orphans.
                engine.containers.left(&id);
            };
            drop(tokio::task::spawn_blocking(removal));
        });
    }
}

/// Where a container's folder waits for the end of its removal.
pub(super) fn gone(folder: &Path) -> PathBuf {
    folder.with_extension("gone")
}
