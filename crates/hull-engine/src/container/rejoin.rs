//! Joining the shim of a container that runs once more: behind a connection that has closed, and in a daemon that
//! starts.
//!
//! Only a shim that is gone means an end. What else may fail (no descriptor is free, the connection was closed for
//! slow reading) is this daemon's trouble: it is tried again, and the container runs on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hull_runtime::protocol::{Event, Exit, Reply, Request, State};

use super::Container;
use super::shim::Shim;
use crate::fault;
use crate::{Engine, Error, Result};

/// The pause before the second attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long a request waits for a place in a shim's queue, and how often it looks for one.
const QUEUE_PATIENCE: Duration = Duration::from_secs(10);
const QUEUE_LOOKS: Duration = Duration::from_millis(5);

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

    /// A connection to a running container's shim for one request.
    ///
    /// # Errors
    /// The container does not run, or its shim looks at nobody.
    pub(super) async fn shim_alone(&self, container: &Container) -> Result<Arc<Shim>> {
        container.shim()?;
        let until = Instant::now() + QUEUE_PATIENCE;
        loop {
            let error = match hull_runtime::shim::connect(&self.runtime_dir(&container.id)) {
                Ok(socket) => return Shim::new(socket),
                Err(error) => error,
            };
            match error.errno {
                Some(libc::ENOENT | libc::ECONNREFUSED) => {
                    return Err(Error::conflict(format!("container {} is not running", container.id)));
                }
                // Its queue is full of others, and nothing tells when it has room.
                Some(libc::EAGAIN) if Instant::now() < until => tokio::time::sleep(QUEUE_LOOKS).await,
                _ => return Err(error.into()),
            }
        }
    }

    /// How a container ended whose shim is gone, by the record that it left; none: it left none, for it was killed. What
    /// else keeps the daemon from reading it (no descriptor is free) passes.
    pub(super) async fn left_exit(&self, container: &Container) -> Result<Option<Exit>> {
        let mut pause = FIRST_PAUSE;
        loop {
            let trouble = match fault::point("end", "record read") {
                Err(error) => error,
                Ok(()) => match hull_runtime::shim::read_exit(&self.runtime_dir(&container.id)) {
                    Ok(exit) => return Ok(exit),
                    // It was read, and says nothing.
                    Err(error) if error.errno.is_none() => return Err(error.into()),
                    Err(error) => error.into(),
                },
            };
            self.pause_before_retry(container, &trouble, &mut pause).await;
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
                        Some((Event::ExecExited { id, exit }, _)) => self.exec_ended(container, &id, &exit).await,
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
