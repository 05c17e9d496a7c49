//! The end of a daemon whose containers are not to outlive it (`live-restore: false`).

use std::sync::Arc;
use std::time::Duration;

use super::{Container, Status};
use crate::Engine;

impl Engine {
    /// Stops every container that runs, as `stop` does, all at the same time; those that have not ended after `patience`
    /// run on. To their restart policies it is no stop of a user's: the next daemon starts those again that are to be up.
    pub async fn stop_all(self: &Arc<Self>, patience: Option<Duration>) {
        let runs = |container: &Arc<Container>| {
            !matches!(container.record().state.status, Status::Created | Status::Exited)
        };
        let mut stops = tokio::task::JoinSet::new();
        for container in self.containers.all().into_iter().filter(runs) {
            let engine = Arc::clone(self);
            stops.spawn(async move {
                let stopped_before = container.record().stopped_by_user;
                if let Err(error) = engine.stop(&container, None, None).await {
                    tracing::error!(container = container.id, %error, "it was not stopped");
                }
                container.change_anyway(&engine.database, |record| record.stopped_by_user = stopped_before);
            });
        }
        let all = async { while stops.join_next().await.is_some() {} };
        let Some(patience) = patience else { return all.await };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("the time to stop containers is over; those that are left run on");
        }
    }
}
