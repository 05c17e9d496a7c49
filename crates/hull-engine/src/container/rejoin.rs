//! Joining the shim of a container that runs once more: behind a connection that has closed, and in a daemon that
//! starts.
//!
//! Only a shim that is gone means an end. What else may fail (no descriptor is free, the connection was closed for
//! slow reading) is this daemon's trouble: it is tried again, and the container runs on.

use std::sync::Arc;
use std::time::Duration;

use hull_runtime::protocol::{Event, Exit, Reply, Request, State};

use super::Container;
use super::shim::Shim;
use crate::fault;
use crate::{Engine, Error, Result};

/// The pause before the second attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// While it lives, a shim has the container or clears up behind it.
pub(super) struct Clearing(Arc<Container>);

impl Clearing {
    pub(super) fn of(container: &Arc<Container>) -> Clearing {
        container.clearing.send_replace(true);
        Clearing(Arc::clone(container))
    }
}

impl Drop for Clearing {
    fn drop(&mut self) {
        self.0.clearing.send_replace(false);
    }
}

/// The container has ended, or is about to have.
pub(super) enum Over {
    /// Its shim told so, and closes this connection when it has cleared up.
    Told(Arc<Shim>, Exit),
    /// Its shim is gone.
    Gone,
}

/// A joined shim: every event comes on this connection from here on.
pub(super) struct Joined {
    pub(super) shim: Arc<Shim>,
    pub(super) state: State,
}

impl Engine {
    /// Joins a container's shim, as often as it takes. Whoever calls holds a [`Clearing`].
    pub(super) async fn rejoin(
        self: &Arc<Self>,
        container: &Arc<Container>,
    ) -> std::result::Result<Joined, Over> {
        let mut pause = FIRST_PAUSE;
        loop {
            let tried = match self.reach(container).await {
                Some(shim) => self.subscribe(container, shim).await,
                None => return Err(Over::Gone),
            };
            match tried {
                Ok(joined) => return joined,
                Err(error) => self.pause_before_retry(container, &error, &mut pause).await,
            }
        }
    }

    /// A connection to a container's shim; none: the shim is gone.
    pub(super) async fn reach(&self, container: &Container) -> Option<Arc<Shim>> {
        let mut pause = FIRST_PAUSE;
        loop {
            match hull_runtime::shim::connect(&self.runtime_dir(&container.id)) {
                Ok(socket) => match Shim::new(socket) {
                    Ok(shim) => return Some(shim),
                    Err(error) => self.pause_before_retry(container, &error, &mut pause).await,
                },
                // No socket, or nobody behind it.
                Err(error) if matches!(error.errno, Some(libc::ENOENT | libc::ECONNREFUSED)) => return None,
                Err(error) => self.pause_before_retry(container, &error.into(), &mut pause).await,
            }
        }
    }

    async fn pause_before_retry(&self, container: &Container, error: &Error, pause: &mut Duration) {
        tracing::warn!(container = container.id, %error, "its shim is tried again");
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
    }

    /// Asks for every event on a new connection.
    async fn subscribe(
        self: &Arc<Self>,
        container: &Arc<Container>,
        shim: Arc<Shim>,
    ) -> Result<std::result::Result<Joined, Over>> {
        fault::point("rejoin", "connected")?;
        let reply = {
            let ask = shim.ask(&Request::Subscribe, &[]);
            tokio::pin!(ask);
            // Answers arrive while events are read: both at once, until the answer is there.
            loop {
                tokio::select! {
                    biased;
                    reply = &mut ask => break reply?,
                    event = shim.event() => match event? {
                        Some((Event::Exited(exit), _)) => return Ok(Err(Over::Told(Arc::clone(&shim), exit))),
                        Some((Event::ExecExited { id, exit }, _)) => self.exec_ended(container, &id, &exit),
                        Some(_) => {}
                        None => return Err(Error::conflict("the container's shim closed the connection")),
                    },
                }
            }
        };
        match reply {
            Reply::State(state) => Ok(Ok(Joined { shim, state })),
            other => Err(Error::system("follow a container", format!("its shim answered {other:?}"))),
        }
    }
}
