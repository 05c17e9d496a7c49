//! A container that is a process's of the machine, and goes with it: the files that `hull ns run --root IMAGE` gives a
//! program are a container which is never started, and whoever kills that command leaves nobody else to remove it.

use std::sync::Arc;
use std::time::Duration;

use super::remove::RemoveOptions;
use super::{Container, Record};
use crate::{Engine, Error, Kind, Result, process};

/// How often a removal that the machine refuses is tried again: what was mounted of the container goes with the processes
/// of its owner, which may be ending still.
const TRIES: u32 = 5;

impl Engine {
    /// Removes a container behind its owner's end; one that has ended already, at once. Nothing for those without.
    /// Called within the runtime.
    pub(super) fn remove_after_owner(self: &Arc<Self>, container: &Arc<Container>) {
        let Some(owner) = container.record().owner.clone() else { return };
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            let mut lifetime = container.lifetime.subscribe();
            if let Some(pidfd) = owner.open() {
                tokio::select! {
                    ended = process::ended(pidfd) => if let Err(error) = ended {
                        // It stays, as one without an owner; the next daemon looks again.
                        tracing::error!(container = container.id, %error, "its owner cannot be watched");
                        return;
                    },
                    // Its owner has removed it, or somebody else.
                    _ = lifetime.wait_for(|lifetime| lifetime.removed) => return,
                }
            }
            engine.remove_unowned(&container).await;
        });
    }

    async fn remove_unowned(self: &Arc<Self>, container: &Arc<Container>) {
        let options = RemoveOptions { force: true, volumes: true };
        let mut pause = Duration::from_millis(100);
        for tried in 1..=TRIES {
            match self.remove(container, &container.id, options).await {
                Ok(()) => return,
                Err(error) if error.kind == Kind::NotFound => return,
                Err(error) if tried == TRIES => {
                    tracing::error!(container = container.id, %error, "a container could not be removed behind its owner");
                }
                // Its owner's own removal may be on its way.
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
    }

    /// Those that an earlier daemon has made go with their owners still. Called within the runtime.
    pub(super) fn take_up_owned(self: &Arc<Self>) {
        for container in self.containers.all() {
            self.remove_after_owner(&container);
        }
    }
}

impl Record {
    /// Ties it to the life of the process that has this id.
    pub(super) fn tie_to(&mut self, pid: i32) -> Result<()> {
        let nobody = || Error::invalid(format!("the container's owner: there is no process {pid}"));
        self.owner = Some(process::Process::of(pid).ok_or_else(nobody)?);
        Ok(())
    }
}
