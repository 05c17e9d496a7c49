//! The end of a daemon whose containers are not to outlive it (`live-restore: false`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Container;
use super::stop::way_to_stop;
use super::wait::Condition;
use crate::{Engine, Error, Kind, Result};

/// What a container has beyond its own time to stop, as in Docker.
const BEYOND: Duration = Duration::from_secs(5);

impl Engine {
    /// Stops every container that runs, all at the same time; those that have not ended after `patience` (none: however
    /// long) run on. A container that has a longer time to stop than that has it, and a little more. Nothing starts any
    /// more. To restart policies it is no stop of a user's: the next daemon starts those again that are to be up.
    pub async fn stop_all(self: &Arc<Self>, patience: Option<Duration>) {
        self.ending.store(true, Ordering::SeqCst);
        let mut stops = tokio::task::JoinSet::new();
        let mut longest = patience;
        for container in self.containers.all() {
            // A start that is on its way is seen through first.
            drop(container.transition.lock().await);
            if !container.record().is_running() {
                continue;
            }
            let own = container.record().config.stop_timeout.unwrap_or_default();
            longest = match (longest, u64::try_from(own)) {
                (Some(longest), Ok(own)) => Some(longest.max(Duration::from_secs(own) + BEYOND)),
                (_, Err(_)) | (None, _) => None,
            };
            let engine = Arc::clone(self);
            stops.spawn(async move {
                if let Err(error) = engine.stop_for_the_end(&container).await {
                    tracing::error!(container = container.id, %error, "it was not stopped");
                }
            });
        }
        let all = async { while stops.join_next().await.is_some() {} };
        let Some(longest) = longest else { return all.await };
        if tokio::time::timeout(longest, all).await.is_err() {
            tracing::warn!("the time to stop containers is over; those that are left run on");
        }
    }

    async fn stop_for_the_end(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let way = way_to_stop(container, None, None)?;
        let ended = self.wait(container, Condition::NextExit);
        if container.record().is_running() {
            self.end_run(container, way, ended).await?;
        }
        Ok(())
    }

    /// Whether something may start.
    pub(super) fn check_not_ending(&self) -> Result<()> {
        if self.ending.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Unavailable, "the daemon is ending, and its containers with it"));
        }
        Ok(())
    }
}
