//! The start of a container: what does not depend on each other is prepared at the same time, one message
//! carries the whole configuration, and the answer leaves as soon as exec has succeeded or failed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hull_runtime::protocol::{self, Event, Launch, Request, ToLauncher};
use tokio::sync::oneshot;

use super::rejoin::Clearing;
use super::shim::Shim;
use super::starting::{OnItsWay, Starting};
use super::{Container, Status, locked, now_ns, rfc3339};
use crate::fault;
use crate::networks::Allocation;
use crate::{Engine, Error, Kind, Result};

/// How a start turned out.
type Outcome = std::result::Result<Started, hull_runtime::Error>;

/// The container runs.
pub(super) struct Started {
    pub(super) pid: i32,
    pub(super) at_ns: i64,
    pub(super) warnings: Vec<String>,
    /// Told once the start is written down: only then its end may be. Dropped, the start is given up.
    entered: oneshot::Sender<()>,
}

/// Who starts a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    /// A user, who wants it to run whatever was wanted before.
    User,
    /// Its restart policy.
    Policy,
}

/// How long a start that is given up waits for its shim to be gone.
const UNDONE: Duration = Duration::from_secs(10);

impl Engine {
    /// Starts a container.
    ///
    /// # Errors
    /// It runs already (`NotModified`), or it could not be started: then nothing of the start is left.
    pub async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        // A client that goes away does not leave a half-made start behind: the work is a task of its own.
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        let work = tokio::spawn(async move {
            let _transition = container.transition.lock().await;
            container.back_off.notify_waiters();
            // A user's start begins the count anew.
            container.record().restart_count = 0;
            engine.start_now(&container, Starter::User).await
        });
        work.await.unwrap_or_else(|error| Err(Error::system("start the container", error)))
    }

    /// The start itself. The caller holds the transition.
    pub(super) async fn start_now(
        self: &Arc<Self>,
        container: &Arc<Container>,
        starter: Starter,
    ) -> Result<()> {
        {
            let record = container.record();
            match record.state.status {
                Status::Running => {
                    return Err(Error::new(Kind::NotModified, "the container is running already"));
                }
                Status::Paused => {
                    return Err(Error::conflict("cannot start a paused container, try unpause instead"));
                }
                Status::Removing | Status::Dead => {
                    return Err(Error::conflict("container is marked for removal and cannot be started"));
                }
                Status::Created | Status::Exited | Status::Restarting => {}
            }
        }
        self.check_not_ending()?;
        container.begin_run();
        let on_its_way = OnItsWay::begin(container);
        match self.try_start(container, starter, &on_its_way.starting).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.start_failed(container, starter, &error).await;
                Err(error)
            }
        }
    }

    async fn try_start(
        self: &Arc<Self>,
        container: &Arc<Container>,
        starter: Starter,
        starting: &Starting,
    ) -> Result<()> {
        let (mut prepared, mut launch) = self.prepare_unless_given_up(container, starting).await?;
        fault::point("start", "prepared")?;
        let clients = container.waited_clients().await?;
        launch.attach = clients.iter().map(|(attach, _)| attach.clone()).collect();
        let (ours, theirs) = protocol::pair()?;
        let shim = Shim::new(ours)?;
        starting.launched(&shim);
        // From here on the shim holds the reserved ports and the clients.
        let by_other = launch.runtime.is_some();
        let apparmor = launch.spec.process().as_ref().and_then(|process| process.apparmor_profile().clone());
        let reserved =
            prepared.allocation.as_mut().map(|allocation| std::mem::take(&mut allocation.reserved));
        self.send_launch(launch, theirs, reserved.unwrap_or_default(), clients)?;

        let (tell_started, started) = oneshot::channel::<Outcome>();
        let (tell_namespace, namespace) = oneshot::channel::<OwnedFd>();
        let watcher = self.watch(container, &shim, tell_started, tell_namespace);
        fault::passed("start", "launched");
        if prepared.awaits_network {
            let made = prepared.makes_network.then_some(namespace);
            match self.network(&shim, prepared.allocation.take(), made).await {
                Ok(allocation) => prepared.allocation = Some(allocation),
                Err(error) => {
                    // The shim undoes its part first: another start would meet it half-way.
                    drop(started);
                    let _ = tokio::time::timeout(UNDONE, watcher).await;
                    return Err(error);
                }
            }
        }
        let started = match started.await {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => return Err(start_error(error, by_other)),
            Err(_) => {
                self.clear_cgroup(container).await;
                return Err(Error::system(
                    "start the container",
                    "its shim ended without a word: it, or the launcher that was to fork it, was killed; start it again",
                ));
            }
        };
        fault::passed("start", "executed");
        match self.enter_running(container, &shim, prepared.allocation, &started, apparmor, starter).await {
            Ok(()) => {
                // Its watcher lives as long as this receiver's other end.
                let _ = started.entered.send(());
                Ok(())
            }
            Err(error) => {
                // It runs, but nobody would know: its watcher ends it.
                drop(started);
                let _ = tokio::time::timeout(UNDONE, watcher).await;
                Err(error)
            }
        }
    }

    /// Sends the message with its descriptors, in the order that [`Launch`] names; here they close behind it.
    fn send_launch(
        &self,
        launch: Launch,
        control: OwnedFd,
        reserved: Vec<OwnedFd>,
        clients: Vec<(protocol::Attach, OwnedFd)>,
    ) -> Result<()> {
        let sockets = clients.iter().map(|(_, socket)| socket.as_fd());
        let descriptors: Vec<BorrowedFd<'_>> =
            std::iter::once(control.as_fd()).chain(reserved.iter().map(AsFd::as_fd)).chain(sockets).collect();
        Ok(self.launcher.send(&ToLauncher::Start(Box::new(launch)), &descriptors)?)
    }

    /// Makes the network while the first process mounts, and hands the namespace over. In a user namespace the first
    /// process has `made` it.
    async fn network(
        self: &Arc<Self>,
        shim: &Shim,
        allocation: Option<Allocation>,
        made: Option<oneshot::Receiver<OwnedFd>>,
    ) -> Result<Allocation> {
        let engine = Arc::clone(self);
        let allocation =
            allocation.ok_or_else(|| Error::system("make the network", "nothing was allocated"))?;
        let inside = match made {
            None => None,
            Some(made) => match made.await {
                Ok(namespace) => Some(namespace),
                // The start has failed before, and tells so itself.
                Err(_) => return Ok(allocation),
            },
        };
        let made = tokio::task::spawn_blocking(move || {
            let namespace = engine.networks.realise(&allocation, inside);
            (allocation, namespace)
        });
        let (allocation, namespace): (Allocation, Result<OwnedFd>) =
            made.await.map_err(|error| Error::system("make the network", error))?;
        match namespace {
            Ok(namespace) => {
                // A shim that is gone has told why, or will: its word is the better one.
                let _ = shim.tell(&Request::Network, &[namespace.as_fd()]).await;
                Ok(allocation)
            }
            Err(error) => {
                let reason = hull_runtime::Error::refused(error.message.clone(), "");
                let _ = shim.tell(&Request::NetworkFailed(reason), &[]).await;
                Err(error)
            }
        }
    }

    /// The container runs: everyone is told.
    async fn enter_running(
        self: &Arc<Self>,
        container: &Arc<Container>,
        shim: &Arc<Shim>,
        allocation: Option<Allocation>,
        started: &Started,
        apparmor: Option<String>,
        starter: Starter,
    ) -> Result<()> {
        for warning in &started.warnings {
            tracing::warn!(container = container.id, "{warning}");
        }
        let (endpoints, ports) = match &allocation {
            Some(allocation) => (Some(allocation.endpoints.clone()), allocation.ports.clone()),
            None => (None, Default::default()),
        };
        if let Some(allocation) = &allocation {
            self.networks.running(&container.id, allocation, started.pid)?;
        }
        *locked(&container.allocation) = allocation;
        *locked(&container.shim) = Some(Arc::clone(shim));
        container.change(&self.database, |record| {
            record.state.status = Status::Running;
            record.state.pid = started.pid;
            record.state.exit_code = 0;
            record.state.apparmor = Some(apparmor.unwrap_or_default());
            record.state.error.clear();
            record.state.oom_killed = false;
            record.state.end_reason.clear();
            record.state.end = None;
            record.state.started_at = rfc3339(started.at_ns);
            // One that its policy starts may have been stopped meanwhile: the stop waits for it to run, and ends it.
            if starter == Starter::User {
                record.stopped_by_user = false;
            }
            record.ports = ports;
            if let Some(endpoints) = endpoints {
                record.endpoints = endpoints;
            }
        })?;
        container.lifetime.send_modify(|lifetime| {
            lifetime.running = true;
            lifetime.stays.clear();
        });
        for network in container.network_names() {
            self.tell_network(&network, container, "connect");
        }
        self.tell_linked(container).await;
        self.tell(container, "start");
        self.start_health(container);
        Ok(())
    }

    /// A start that failed leaves nothing but its reason.
    async fn start_failed(self: &Arc<Self>, container: &Arc<Container>, starter: Starter, error: &Error) {
        self.release_machine(container).await;
        container.change_anyway(&self.database, |record| {
            record.state.status =
                if record.state.started_at == super::NEVER { Status::Created } else { Status::Exited };
            record.state.error.clone_from(&error.message);
            record.state.exit_code = i32::from(error.exit_status);
            record.state.pid = 0;
        });
        let (exit_code, auto_remove) = {
            let record = container.record();
            (record.state.exit_code, record.host_config.auto_remove)
        };
        container.lifetime.send_modify(|lifetime| {
            lifetime.running = false;
            lifetime.ends += 1;
            lifetime.exits += u64::from(starter == Starter::Policy);
            lifetime.ended = super::Ended { status: exit_code, error: error.message.clone() };
        });
        if auto_remove {
            self.remove_behind(container);
        }
    }

    /// Looks after a shim from its first word to its last.
    fn watch(
        self: &Arc<Self>,
        container: &Arc<Container>,
        shim: &Arc<Shim>,
        started: oneshot::Sender<Outcome>,
        namespace: oneshot::Sender<OwnedFd>,
    ) -> tokio::task::JoinHandle<()> {
        let (engine, container, shim) = (Arc::clone(self), Arc::clone(container), Arc::clone(shim));
        tokio::spawn(async move {
            let word = match shim.event().await {
                Ok(Some((Event::Network, descriptors))) => {
                    // A start that was given up wants none.
                    let _ = descriptors.into_iter().next().map(|made| namespace.send(made));
                    shim.event().await
                }
                word => {
                    drop(namespace);
                    word
                }
            };
            match word {
                Ok(Some((Event::Started { pid, at_ns, warnings, .. }, _))) => {
                    let at_ns = i64::try_from(at_ns).unwrap_or_else(|_| now_ns());
                    let (enter, entered) = oneshot::channel::<()>();
                    // Where nobody waits for it any more, it is dropped with its sender.
                    let _ = started.send(Ok(Started { pid, at_ns, warnings, entered: enter }));
                    // An end can be as quick as the start: it is written down behind it.
                    if entered.await.is_ok() {
                        let clearing = Clearing::of(&container);
                        return engine.follow(&container, shim, clearing).await;
                    }
                    tracing::warn!(container = container.id, "a start was given up; what came up is ended");
                    let _ = shim.tell(&Request::KillAll, &[]).await;
                    while let Ok(Some(_)) = shim.event().await {}
                }
                Ok(Some((Event::StartFailed(error), _))) => {
                    let _ = started.send(Err(error));
                }
                // Dropped, the sender tells that there was no word.
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(container = container.id, %error, "a start could not be followed")
                }
            }
        })
    }
}

/// A failed start in Docker's words. Another runtime (`by_other`) has its own for what it was about.
fn start_error(error: hull_runtime::Error, by_other: bool) -> Error {
    let exit_status = error.exit_status;
    let kind = if matches!(exit_status, 126 | 127) { Kind::InvalidParameter } else { Kind::System };
    let about = if by_other { "" } else { "unable to start container process: " };
    let message = format!("OCI runtime create failed: {about}{error}");
    let exit_status = if exit_status == 125 { 128 } else { exit_status };
    Error { exit_status, errno: error.errno, ..Error::new(kind, message) }
}
