//! A start that is on its way, and how it is ended.
//!
//! A start holds the container's transition, and what it looks at may lie on a file system that answers nobody: here,
//! in the daemon's look at a source, or in the container's first process. Who wants the container ended waits a
//! while, for most starts are through in no time, and then ends the start, which lets go of the transition itself.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use hull_runtime::protocol::Request;
use tokio::sync::{MutexGuard, watch};

use super::shim::Shim;
use super::{Container, locked};
use crate::blocking::may_hang;
use crate::{Engine, Error, Kind, Result};

/// How long an end that is wanted at once waits for a start that is on its way.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two attempts to end a start.
const PAUSE: Duration = Duration::from_millis(500);

/// So many attempts are made: ten seconds.
const ATTEMPTS: u32 = 20;

/// A start that is on its way.
#[derive(Default)]
pub(super) struct Starting {
    given_up: watch::Sender<bool>,
    /// Its shim, from when there is one until it is told to give up.
    shim: Mutex<Option<Arc<Shim>>>,
}

/// The container is being started as long as this lives.
pub(super) struct OnItsWay {
    container: Arc<Container>,
    pub(super) starting: Arc<Starting>,
}

impl OnItsWay {
    /// Whoever calls holds the transition.
    pub(super) fn begin(container: &Arc<Container>) -> OnItsWay {
        let starting = Arc::new(Starting::default());
        *locked(&container.starting) = Some(Arc::clone(&starting));
        OnItsWay { container: Arc::clone(container), starting }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        *locked(&self.container.starting) = None;
    }
}

impl Starting {
    /// From now on it is the shim that ends it.
    pub(super) fn launched(&self, shim: &Arc<Shim>) {
        *locked(&self.shim) = Some(Arc::clone(shim));
    }

    /// Returns when someone wants it ended.
    pub(super) async fn given_up(&self) {
        // The sender lives in what is borrowed.
        let _ = self.given_up.subscribe().wait_for(|given_up| *given_up).await;
    }
}

/// The error of a start that was given up.
pub(super) fn given_up(container: &Container) -> Error {
    Error::conflict(format!(
        "the start of container {} was given up: a user ended it meanwhile",
        container.id
    ))
}

impl Engine {
    /// The container's transition. A start that holds it for longer than `patience` (none: however long) is ended.
    ///
    /// # Errors
    /// The start cannot be ended: its process waits in the kernel, where no signal comes to it.
    pub(super) async fn transition_within<'a>(
        &self,
        container: &'a Container,
        patience: Option<Duration>,
    ) -> Result<MutexGuard<'a, ()>> {
        let transition = container.transition.lock();
        tokio::pin!(transition);
        let Some(patience) = patience else { return Ok(transition.await) };
        if let Ok(transition) = tokio::time::timeout(patience, &mut transition).await {
            return Ok(transition);
        }
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            // Others hold it for as long as they need, and end.
            let starting = locked(&container.starting).clone();
            if let Some(starting) = starting {
                attempts += 1;
                self.end_start(container, &starting).await;
            }
            if let Ok(transition) = tokio::time::timeout(PAUSE, &mut transition).await {
                return Ok(transition);
            }
        }
        Err(Error::new(
            Kind::System,
            format!(
                "container {} is being started, and that could not be ended: a file system that it mounts does not \
                 answer; bring its server back, or unmount it by force",
                container.id
            ),
        ))
    }

    /// Ends a start: by its shim, and where that is not heard, or not known any more, by its cgroup.
    async fn end_start(&self, container: &Container, starting: &Starting) {
        starting.given_up.send_replace(true);
        let shim = locked(&starting.shim).take();
        if let Some(shim) = shim {
            let told = tokio::time::timeout(PAUSE, shim.tell(&Request::KillAll, &[]));
            if matches!(told.await, Ok(Ok(()))) {
                return;
            }
        }
        let path = container.cgroup_path(&self.config.instance);
        let killed = may_hang(move || match hull_runtime::cgroup::Cgroup::open(&path) {
            Ok(cgroup) => Ok(cgroup.kill_all()?),
            // It is not made yet.
            Err(_) => Ok(()),
        });
        if let Ok(Err(error)) = tokio::time::timeout(PAUSE, killed).await {
            tracing::warn!(container = container.id, %error, "a start could not be ended by its cgroup");
        }
    }
}
