//! Removing containers: the name is free at once, bytes are removed behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use super::wait::Condition;
use super::{Container, Status, locked};
use crate::database::Table;
use crate::{Engine, Error, Kind, Result};

/// How a container is removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoveOptions {
    /// A running one is killed.
    pub force: bool,
    /// Its anonymous volumes go with it.
    pub volumes: bool,
}

impl Engine {
    /// Removes a container.
    ///
    /// # Errors
    /// It runs, and `force` was not given.
    pub async fn remove(self: &Arc<Self>, container: &Arc<Container>, options: RemoveOptions) -> Result<()> {
        let status = container.record().state.status;
        let hint = match status {
            Status::Paused => "is paused and must be unpaused first",
            Status::Restarting => "is restarting",
            _ => "is running",
        };
        if matches!(status, Status::Running | Status::Paused | Status::Restarting) {
            if !options.force {
                return Err(Error::conflict(format!(
                    "cannot remove container \"/{}\": container {hint}: stop the container before removing or force remove",
                    container.record().name
                )));
            }
            self.end_for_removal(container).await?;
        }
        let engine = Arc::clone(self);
        let container = Arc::clone(container);
        // A client that goes away does not leave half a container behind.
        let work = tokio::spawn(async move {
            let _transition = container.transition.lock().await;
            if !container.record().is_running() {
                container.cleared().await;
            }
            engine.remove_now(&container, options.volumes)
        });
        work.await.unwrap_or_else(|error| Err(Error::system("remove the container", error)))
    }

    async fn end_for_removal(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        container.change(&self.database, |record| {
            record.stopped_by_user = true;
            if record.state.status == Status::Restarting {
                record.state.status = Status::Exited;
            }
        })?;
        container.back_off.notify_waiters();
        if !container.record().is_running() {
            return Ok(());
        }
        let ended = self.wait(container, Condition::NextExit);
        self.kill_everything(container).await?;
        if container.record().is_running()
            && tokio::time::timeout(Duration::from_secs(10), ended).await.is_err()
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
            if !container.record().is_running() {
                container.cleared().await;
            }
            if let Err(error) = engine.remove_now(&container, true)
                && error.kind != Kind::NotFound
            {
                tracing::error!(container = container.id, %error, "a container with --rm could not be removed");
            }
        });
    }

    /// The removal itself. The caller holds the transition.
    fn remove_now(self: &Arc<Self>, container: &Arc<Container>, volumes: bool) -> Result<()> {
        let (name, running) = {
            let record = container.record();
            if record.state.status == Status::Removing {
                return Err(Error::not_found(format!("No such container: {}", container.id)));
            }
            (record.name.clone(), record.is_running())
        };
        if running {
            return Err(Error::conflict(format!(
                "cannot remove container \"/{name}\": it was started meanwhile"
            )));
        }
        container.record().state.status = Status::Removing;
        // The row goes first: a crash from here on leaves files that the next daemon finds no owner for.
        self.database.delete(Table::Containers, &container.id)?;
        self.containers.remove(&container.id, &name);
        locked(&container.waiting_clients).clear();
        if let Err(error) = self.images.remove_snapshot(&container.id) {
            tracing::error!(container = container.id, %error, "its writable layer could not be removed");
        }
        if let Err(error) = self.volumes.release(&container.id, volumes) {
            tracing::error!(container = container.id, %error, "its volumes could not be released");
        }
        self.remove_folders_behind(container);
        self.tell(container, "destroy");
        container.lifetime.send_modify(|lifetime| {
            lifetime.running = false;
            lifetime.removed = true;
        });
        Ok(())
    }

    /// Its logs and its files of this boot: away with a rename, their bytes behind. What a crash leaves of them has no
    /// owner, and the next daemon removes it.
    fn remove_folders_behind(&self, container: &Container) {
        let gone: Vec<PathBuf> = [self.container_dir(&container.id), self.runtime_dir(&container.id)]
            .into_iter()
            .filter_map(|folder| {
                let gone = folder.with_extension("gone");
                match fs::rename(&folder, &gone) {
                    Ok(()) => Some(gone),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => {
                        tracing::error!(container = container.id, %error, "{} could not be removed", folder.display());
                        None
                    }
                }
            })
            .collect();
        tokio::task::spawn_blocking(move || {
            for folder in gone {
                if let Err(error) = fs::remove_dir_all(&folder) {
                    tracing::error!(%error, "{} could not be removed", folder.display());
                }
            }
        });
    }
}
