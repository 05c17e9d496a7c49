//! Waiting for a container's end.

use std::sync::Arc;

use super::Container;
use crate::{Engine, Error, Result};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It does not run.
    NotRunning,
    /// It ends once more.
    NextExit,
    /// It is removed.
    Removed,
}

impl Condition {
    /// Reads the query's word; none: `not-running`.
    ///
    /// # Errors
    /// Another word.
    pub fn parse(word: Option<&str>) -> Result<Condition> {
        match word {
            None | Some("" | "not-running") => Ok(Condition::NotRunning),
            Some("next-exit") => Ok(Condition::NextExit),
            Some("removed") => Ok(Condition::Removed),
            Some(other) => Err(Error::invalid(format!("invalid condition: {other:?}"))),
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The exit status.
    pub status: i32,
    /// Why it could not be started or waited for; empty: nothing of the kind.
    pub error: String,
}

impl Engine {
    /// Starts waiting now; the future that comes back ends when the condition holds.
    pub fn wait(
        &self,
        container: &Arc<Container>,
        condition: Condition,
    ) -> impl Future<Output = Ended> + Send + 'static {
        let mut lifetime = container.lifetime.subscribe();
        let exits = lifetime.borrow().exits;
        // Held, so that the sender outlives the wait.
        let container = Arc::clone(container);
        async move {
            let _container = container;
            let holds = |now: &super::Lifetime| match condition {
                Condition::NotRunning => !now.running || now.removed,
                Condition::NextExit => now.exits > exits || now.removed,
                Condition::Removed => now.removed || !now.stays.is_empty(),
            };
            match lifetime.wait_for(holds).await {
                // What kept it from starting is not what kept it from being removed.
                Ok(now) if condition == Condition::Removed => {
                    Ended { error: now.stays.clone(), ..now.ended.clone() }
                }
                Ok(now) => now.ended.clone(),
                // Not while the container is held.
                Err(_) => Ended::default(),
            }
        }
    }
}
