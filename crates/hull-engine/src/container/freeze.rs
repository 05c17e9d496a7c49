//! Pause and unpause. The freezer may take its time, and a process that hangs in a file system takes it all: this is
//! done on threads of its own, one at a time for each container.

use std::sync::Arc;

use hull_runtime::cgroup::Cgroup;

use super::{Container, Status, locked};
use crate::blocking::may_hang;
use crate::{Engine, Error, Kind, Result};

/// A container that stands still, and goes on when this goes.
pub(crate) struct Still<'a> {
    engine: &'a Engine,
    container: Arc<Container>,
}

impl<'a> Still<'a> {
    /// Freezes a container that runs; blocks.
    pub(super) fn of(engine: &'a Engine, container: &Arc<Container>) -> Result<Still<'a>> {
        engine.freeze(container, true)?;
        Ok(Still { engine, container: Arc::clone(container) })
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        match self.engine.thaw(&self.container) {
            // It was killed, or a user was faster.
            Err(error) if error.kind == Kind::Conflict => {}
            Err(error) => {
                tracing::error!(container = self.container.id, %error, "a container stays paused");
            }
            Ok(()) => {}
        }
    }
}

impl Engine {
    /// Those of these containers that run stand still until the values go; blocks.
    pub(crate) fn hold_still(&self, containers: &[String]) -> Result<Vec<Still<'_>>> {
        let mut still = Vec::new();
        for container in containers.iter().filter_map(|id| self.containers.find(id).ok()) {
            if container.record().state.status != Status::Running {
                continue;
            }
            match Still::of(self, &container) {
                Ok(one) => still.push(one),
                // It has ended meanwhile, or a user has paused it.
                Err(error) if error.kind == Kind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(still)
    }

    /// Freezes every process of it.
    ///
    /// # Errors
    /// It does not run, or is paused.
    pub async fn pause(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        may_hang(move || engine.freeze(&container, false)).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It is not paused.
    pub async fn unpause(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        may_hang(move || engine.thaw(&container)).await
    }

    /// [`Engine::pause`]; blocks. `held`: it is for the daemon, and over when that ends, however it does.
    fn freeze(&self, container: &Container, held: bool) -> Result<()> {
        let _turn = locked(&container.cgroup_turn);
        match container.record().state.status {
            Status::Running => {}
            Status::Paused => {
                return Err(Error::conflict(format!("container {} is already paused", container.id)));
            }
            _ => return Err(Error::conflict(format!("container {} is not running", container.id))),
        }
        let cgroup = Cgroup::open(&container.cgroup_path(&self.config.instance))?;
        if held {
            // First, so that a daemon that finds it frozen knows that nobody asked for it.
            container.change_anyway(&self.database, |record| record.state.held = true);
        }
        if let Err(error) = cgroup.freeze() {
            // What stands still already must not stay so in a container that is said to run.
            let _ = cgroup.thaw();
            return Err(error.into());
        }
        if !self.set_status(container, Status::Running, Status::Paused, held) {
            return Err(Error::conflict(format!("container {} is not running", container.id)));
        }
        self.tell(container, "pause");
        Ok(())
    }

    /// [`Engine::unpause`]; blocks.
    pub(super) fn thaw(&self, container: &Container) -> Result<()> {
        let _turn = locked(&container.cgroup_turn);
        if container.record().state.status != Status::Paused {
            return Err(Error::conflict(format!("container {} is not paused", container.id)));
        }
        Cgroup::open(&container.cgroup_path(&self.config.instance))?.thaw()?;
        if !self.set_status(container, Status::Paused, Status::Running, false) {
            return Err(Error::conflict(format!("container {} is not paused", container.id)));
        }
        self.tell(container, "unpause");
        Ok(())
    }

    /// Lets go of a container that an earlier daemon held when it was killed.
    pub(super) async fn let_go(self: &Arc<Self>, container: &Arc<Container>) {
        if !container.record().state.held {
            return;
        }
        let (engine, held) = (Arc::clone(self), Arc::clone(container));
        let thawed = may_hang(move || {
            {
                let _turn = locked(&held.cgroup_turn);
                Cgroup::open(&held.cgroup_path(&engine.config.instance))?.thaw()?;
            }
            let was_paused = held.change_anyway(&engine.database, |record| {
                record.state.held = false;
                let paused = record.state.status == Status::Paused;
                if paused {
                    record.state.status = Status::Running;
                }
                paused
            });
            if was_paused {
                engine.tell(&held, "unpause");
            }
            Ok(())
        });
        if let Err(error) = thawed.await {
            tracing::error!(container = container.id, %error, "a container stays paused");
        }
    }

    /// Lets a paused container see the signal that it was sent. One that is just being paused is waited for.
    pub(super) async fn thaw_if_paused(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if container.record().state.status != Status::Paused && container.cgroup_turn.try_lock().is_ok() {
            return Ok(());
        }
        match self.unpause(container).await {
            // It was not paused, or it has ended meanwhile, and its cgroup with it.
            Err(_) if container.record().state.status != Status::Paused => Ok(()),
            result => result,
        }
    }

    /// Goes from one status to another, if it is still in the one: the kernel has done so already. False: it has
    /// ended meanwhile.
    fn set_status(&self, container: &Container, from: Status, to: Status, held: bool) -> bool {
        container.change_anyway(&self.database, |record| {
            let still = record.state.status == from;
            if still {
                record.state.status = to;
                record.state.held = held;
            }
            still
        })
    }
}
