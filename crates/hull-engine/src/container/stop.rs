//! Stop, kill, restart: how a container's run is ended, whichever phase it is in.
//!
//! Who ends a run marks first, under the record's lock, that a user wants it ended: from then on the container's
//! policy does not start it again. A start of the policy's that has begun by then is seen through, and what came up
//! is ended like any other run. Only a user's start takes the mark away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hull_runtime::protocol::Request;

use super::lifecycle::signal;
use super::starting::START_PATIENCE;
use super::wait::Condition;
use super::{Container, Ended, Status};
use crate::blocking::see_through;
use crate::{Engine, Error, Kind, Result};

/// Docker's time between the stop signal and the kill, in seconds.
const STOP_TIMEOUT: i64 = 10;

/// How long a killed container gets to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What was found when a container was marked as stopped by a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It runs, and its end will be its last.
    Runs,
    /// Its policy waits to start it, or is starting it.
    Restarts,
    /// It does not run. Nothing was marked.
    Rests,
}

/// A user's restart: an end meanwhile is not that of a container with `--rm`.
struct Restarting<'a>(&'a Container);

impl<'a> Restarting<'a> {
    fn begin(container: &'a Container) -> Restarting<'a> {
        container.restarting.fetch_add(1, Ordering::SeqCst);
        Restarting(container)
    }
}

impl Drop for Restarting<'_> {
    fn drop(&mut self) {
        self.0.restarting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How a container is stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    signal: i32,
    /// From the signal to the kill; none: never.
    patience: Option<Duration>,
}

impl Engine {
    /// Stops a container: its signal, and after `timeout` seconds (-1: never) a kill. True: it ran.
    ///
    /// # Errors
    /// The signal is unknown, or the container outlives the kill.
    pub async fn stop(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal_name: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<bool> {
        let way = way_to_stop(container, signal_name, timeout)?;
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        see_through("stop the container", async move { engine.stop_now(&container, way).await }).await
    }

    async fn stop_now(self: &Arc<Self>, container: &Arc<Container>, way: Way) -> Result<bool> {
        // Each turn ends one run; there is another one where the policy had been faster than the mark.
        loop {
            // From before the mark on: an end behind it is not missed.
            let ended = self.wait(container, Condition::NextExit);
            match self.mark_stopped(container) {
                Found::Runs => self.end_run(container, way, ended).await?,
                Found::Restarts if self.give_up_restart(container, way.patience).await? => {}
                Found::Restarts => continue,
                Found::Rests => {
                    // A start on its way is waited for as a process that is to stop is; then it is known whether
                    // there is something to stop.
                    drop(self.transition_within(container, way.patience).await?);
                    if is_at_rest(container) {
                        return Ok(false);
                    }
                    continue;
                }
            }
            // The end that was seen may have been that of the run before.
            if !runs_though_stopped(container) {
                self.tell(container, "stop");
                return Ok(true);
            }
        }
    }

    /// Ends the run that was marked.
    pub(super) async fn end_run(
        self: &Arc<Self>,
        container: &Arc<Container>,
        way: Way,
        ended: impl Future<Output = Ended>,
    ) -> Result<()> {
        tokio::pin!(ended);
        // Told before it is sent: its end, which is told next, may come at once.
        self.tell_kill(container, way.signal);
        self.signal_quietly(container, way.signal).await?;
        match way.patience {
            Some(patience) if tokio::time::timeout(patience, &mut ended).await.is_ok() => return Ok(()),
            Some(_) => {}
            None => {
                (&mut ended).await;
                return Ok(());
            }
        }
        self.tell_kill(container, libc::SIGKILL);
        self.kill_everything(container).await?;
        match tokio::time::timeout(KILL_PATIENCE, &mut ended).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(
                Kind::System,
                format!(
                    "container {} PID {} is zombie and can not be killed. Use the --init option when creating \
                     containers to run an init inside the container that forwards signals and reaps processes",
                    container.id,
                    container.record().state.pid
                ),
            )),
        }
    }

    /// Marks that a user wants it ended, where it runs or is about to. Holds although it may not be written: to end
    /// a container must work on a disk that is full.
    pub(super) fn mark_stopped(&self, container: &Container) -> Found {
        container.change_anyway(&self.database, |record| match record.state.status {
            Status::Running | Status::Paused => {
                record.stopped_by_user = true;
                Found::Runs
            }
            Status::Restarting => {
                record.stopped_by_user = true;
                Found::Restarts
            }
            Status::Created | Status::Exited | Status::Removing | Status::Dead => Found::Rests,
        })
    }

    /// Ends the back-off of a container that was marked. False: its policy had begun to start it, and it may run now.
    ///
    /// # Errors
    /// It is being started, and that could not be ended when the patience was.
    pub(super) async fn give_up_restart(
        &self,
        container: &Container,
        patience: Option<Duration>,
    ) -> Result<bool> {
        container.back_off.notify_waiters();
        let _transition = self.transition_within(container, patience).await?;
        let given_up = container.change_anyway(&self.database, |record| {
            let waits = record.state.status == Status::Restarting;
            if waits {
                record.state.status = Status::Exited;
            }
            waits || record.state.status == Status::Exited
        });
        if given_up {
            container.lifetime.send_if_modified(|lifetime| std::mem::take(&mut lifetime.running));
        }
        Ok(given_up)
    }

    /// Sends a signal to the container's first process. One that ends containers takes a waiting restart back.
    ///
    /// # Errors
    /// It does not run, or the signal is unknown.
    pub async fn kill(self: &Arc<Self>, container: &Arc<Container>, signal_name: Option<&str>) -> Result<()> {
        let number = signal(signal_name.filter(|name| !name.is_empty()).unwrap_or("SIGKILL"))?;
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        see_through("kill the container", async move { engine.kill_now(&container, number).await }).await
    }

    async fn kill_now(self: &Arc<Self>, container: &Arc<Container>, number: i32) -> Result<()> {
        let ended = self.wait(container, Condition::NextExit);
        let is_end = matches!(number, libc::SIGKILL | libc::SIGTERM | libc::SIGINT);
        let status = container.record().state.status;
        let found = match status {
            Status::Running | Status::Paused | Status::Restarting if is_end => self.mark_stopped(container),
            Status::Running | Status::Paused => Found::Runs,
            Status::Restarting => Found::Restarts,
            _ => Found::Rests,
        };
        let not_running = || Error::conflict(format!("container {} is not running", container.id));
        match found {
            Found::Runs => {}
            Found::Rests => return Err(not_running()),
            // As in Docker: there is no process to get the signal.
            Found::Restarts if !is_end => return Ok(()),
            Found::Restarts if self.give_up_restart(container, Some(START_PATIENCE)).await? => return Ok(()),
            Found::Restarts if !container.record().is_running() => return Err(not_running()),
            Found::Restarts => {}
        }
        self.tell_kill(container, number);
        if number == libc::SIGKILL {
            self.kill_everything(container).await?;
            // Docker's kill returns when it is done, if that is soon.
            if tokio::time::timeout(KILL_PATIENCE, ended).await.is_err() {
                tracing::warn!(container = container.id, "a container outlives its kill");
            }
        } else {
            self.send_signal(container, number).await.map_err(|error| Error::conflict(error.message))?;
        }
        Ok(())
    }

    pub(super) fn tell_kill(&self, container: &Container, signal: i32) {
        self.tell_with(container, "kill", [("signal", signal.to_string())]);
    }

    async fn send_signal(&self, container: &Container, signal: i32) -> Result<()> {
        let shim = self.shim_alone(container).await?;
        shim.ask_alone(&Request::Signal { exec: None, signal }, &[]).await.map(drop)
    }

    /// A container that ended meanwhile needs no signal any more. A paused one would not see it: it is thawed behind it.
    async fn signal_quietly(self: &Arc<Self>, container: &Arc<Container>, signal: i32) -> Result<()> {
        match self.send_signal(container, signal).await {
            Ok(()) => {}
            Err(error) if error.kind == Kind::Conflict => return Ok(()),
            Err(error) => return Err(error),
        }
        self.thaw_if_paused(container).await
    }

    /// Kills every process of it, frozen ones too, by a connection of its own: an exec on its way holds the other
    /// one up.
    pub(super) async fn kill_everything(&self, container: &Container) -> Result<()> {
        let killed = match self.shim_alone(container).await {
            Ok(shim) => shim.ask_alone(&Request::KillAll, &[]).await.map(drop),
            Err(error) => Err(error),
        };
        match killed {
            Err(error) if error.kind == Kind::Conflict => Ok(()),
            killed => killed,
        }
    }

    /// Stops a container if it runs, and starts it.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::start`].
    pub async fn restart(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let way = way_to_stop(container, signal, timeout)?;
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        see_through("restart the container", async move {
            {
                let _restarting = Restarting::begin(&container);
                engine.stop_now(&container, way).await?;
                match engine.start(&container).await {
                    Err(error) if error.kind == Kind::NotModified => {}
                    started => started?,
                }
            }
            engine.tell(&container, "restart");
            Ok(())
        })
        .await
    }
}

/// How to stop it: as was asked for, or as it says itself.
pub(super) fn way_to_stop(
    container: &Container,
    signal_name: Option<&str>,
    timeout: Option<i64>,
) -> Result<Way> {
    let record = container.record();
    let own = Some(record.config.stop_signal.as_str()).filter(|name| !name.is_empty());
    let seconds = timeout.or(record.config.stop_timeout).unwrap_or(STOP_TIMEOUT);
    Ok(Way {
        signal: signal(signal_name.or(own).unwrap_or("SIGTERM"))?,
        patience: u64::try_from(seconds).ok().map(Duration::from_secs),
    })
}

/// Neither does it run, nor will its policy start it.
fn is_at_rest(container: &Container) -> bool {
    let record = container.record();
    !record.is_running() && record.state.status != Status::Restarting
}

/// It runs although a user wants it ended. One that a user started meanwhile is not meant.
fn runs_though_stopped(container: &Container) -> bool {
    let record = container.record();
    record.stopped_by_user && (record.is_running() || record.state.status == Status::Restarting)
}
