//! The end of a container: what its shim tells, what is given back to the machine, and whether it starts again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hull_runtime::protocol::{EndReason, Event, Exit, Met, State};

use super::end::{End, reason};
use super::rejoin::{Clearing, Over};
use super::shim::Shim;
use super::start::Starter;
use super::{Container, Ended, Record, Status, locked, now_ns, rfc3339};
use crate::Engine;
use crate::blocking::{may_hang, may_hang_if};
use crate::fault;

/// The back-off before the first restart; it doubles up to [`LONGEST_BACK_OFF`], as Docker's does.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// A container that ran this long has started well: its next restart waits the shortest time again.
const GOOD_RUN: Duration = Duration::from_secs(10);
/// How long an end waits for its volumes to be unmounted, where a server does not answer.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Follows a running container's shim to its end.
    pub(super) async fn follow(
        self: &Arc<Self>,
        container: &Arc<Container>,
        mut shim: Arc<Shim>,
        _clearing: Clearing,
    ) {
        loop {
            match shim.event().await {
                Ok(Some((Event::Oom, _))) => {
                    self.tell(container, "oom");
                    continue;
                }
                Ok(Some((Event::ExecExited { id, exit }, _))) => {
                    self.exec_ended(container, &id, &exit).await;
                    continue;
                }
                Ok(Some((Event::Exited(exit), _))) => {
                    return self.over(container, Over::Told(shim, exit)).await;
                }
                Ok(Some((
                    Event::Started { .. } | Event::StartFailed(_) | Event::Network | Event::ViewReady,
                    _,
                ))) => continue,
                // The shim's own end, or it was closed for not being read in time.
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(container = container.id, %error, "a container could not be followed");
                }
            }
            match self.rejoin(container).await {
                Ok(joined) => {
                    self.end_execs_but(container, &joined.state);
                    *locked(&container.shim) = Some(Arc::clone(&joined.shim));
                    shim = joined.shim;
                }
                Err(over) => return self.over(container, over).await,
            }
        }
    }

    /// Ends of execs that were told while nobody heard them.
    fn end_execs_but(&self, container: &Container, state: &State) {
        let execs: Vec<_> = locked(&container.execs).values().cloned().collect();
        for exec in execs.iter().filter(|exec| exec.is_running() && !state.execs.contains_key(&exec.id)) {
            exec.ended_with_container();
        }
    }

    /// A container that is over: its end is told, then nothing is left of its run. Whoever calls holds a [`Clearing`].
    pub(super) async fn over(self: &Arc<Self>, container: &Arc<Container>, over: Over) {
        match over {
            Over::Told(shim, exit) => {
                let end = End::told(&exit, self.disk_limit_met(container).await);
                self.ended(container, &exit, end).await;
                // Its cgroup is gone when the connection closes.
                while let Ok(Some(_)) = shim.event().await {}
            }
            Over::Gone => self.shim_lost(container).await,
        }
    }

    /// A shim that is gone without a word may have left its record; if not, it was killed, and its container with it.
    async fn shim_lost(self: &Arc<Self>, container: &Arc<Container>) {
        let (exit, end) = match self.left_exit(container).await {
            Ok(Some(exit)) => {
                let end = End::told(&exit, self.disk_limit_met(container).await);
                (exit, end)
            }
            Ok(None) => {
                tracing::warn!(
                    container = container.id,
                    "the container's shim is gone; what is left of it is killed"
                );
                self.clear_cgroup(container).await;
                let exit = Exit {
                    status: 137,
                    signal: Some(libc::SIGKILL),
                    oom_killed: false,
                    reason: EndReason::Signal,
                    at_ns: now_ns().unsigned_abs(),
                    met: Met::default(),
                };
                (exit, End::default())
            }
            Err(error) => {
                tracing::error!(container = container.id, %error, "how the container ended could not be read");
                let exit = Exit {
                    status: 255,
                    signal: None,
                    oom_killed: false,
                    reason: EndReason::Exited,
                    at_ns: now_ns().unsigned_abs(),
                    met: Met::default(),
                };
                (exit, End::default())
            }
        };
        self.ended(container, &exit, end).await;
        // What it still clears up, or left when it was killed behind its record, is in the next start's way.
        self.clear_cgroup(container).await;
    }

    /// Kills what a shim that was killed left, and removes its cgroup.
    pub(super) async fn clear_cgroup(&self, container: &Container) {
        let path = container.cgroup_path(&self.config.instance);
        let cleared = may_hang(move || match hull_runtime::cgroup::Cgroup::open(&path) {
            Ok(cgroup) => {
                let removed = cgroup.kill_all().and_then(|()| cgroup.remove());
                cgroup.remove_elsewhere();
                Ok(removed?)
            }
            // It had made none.
            Err(_) => Ok(()),
        });
        if let Err(error) = cleared.await {
            tracing::error!(container = container.id, %error, "its cgroup could not be cleared");
        }
    }

    /// A container has ended: it is written down, what it had of the machine is given back, and its policy decides.
    pub(super) async fn ended(self: &Arc<Self>, container: &Arc<Container>, exit: &Exit, end: End) {
        self.stop_health(container);
        fault::passed("end", "told");
        self.release_machine(container).await;
        fault::passed("end", "machine released");
        let restart = container.change_anyway(&self.database, |record| {
            let restart = restarts(record, exit).filter(|_| self.check_not_ending().is_ok());
            let state = &mut record.state;
            state.status = if restart.is_some() { Status::Restarting } else { Status::Exited };
            state.pid = 0;
            state.exit_code = exit.status;
            state.oom_killed = exit.oom_killed;
            state.end_reason = reason(exit.reason).to_owned();
            state.end = Some(end);
            state.finished_at = rfc3339(i64::try_from(exit.at_ns).unwrap_or_else(|_| now_ns()));
            record.ports.clear();
            if restart.is_some() {
                record.restart_count += 1;
            }
            // Under the record's lock: whoever starts it from here on is heard behind its end.
            container.lifetime.send_modify(|lifetime| {
                lifetime.running = restart.is_some();
                lifetime.ends += 1;
                lifetime.exits += 1;
                lifetime.ended = Ended { status: exit.status, error: String::new() };
            });
            restart
        });
        let (auto_remove, started_at, finished_at) = {
            let record = container.record();
            (
                record.host_config.auto_remove,
                record.state.started_at.clone(),
                record.state.finished_at.clone(),
            )
        };
        self.tell_with(
            container,
            "die",
            [
                ("exitCode", exit.status.to_string()),
                ("execDuration", ran_for(&started_at, &finished_at).as_secs().to_string()),
            ],
        );
        for network in container.network_names() {
            self.tell_network(&network, container, "disconnect");
        }
        if let Some(wait) = restart {
            self.restart_after(container, wait);
        } else if auto_remove && container.restarting.load(Ordering::SeqCst) == 0 {
            self.remove_behind(container);
        }
    }

    /// Gives back what a container had of the machine: streams, addresses, ports, mounts. The runtime folder stays until
    /// the next start or the removal: should the daemon die before the end is written down, the shim's record is in it.
    pub(super) async fn release_machine(self: &Arc<Self>, container: &Arc<Container>) {
        *locked(&container.shim) = None;
        if let Some(allocation) = locked(&container.allocation).take()
            && let Err(error) = self.networks.release(&container.id, allocation)
        {
            tracing::error!(container = container.id, %error, "its addresses and ports could not be given back");
        }
        self.unmount_volumes(container).await;
        if container.record().host_config.ipc_mode == "shareable" {
            super::view::unmount_shared_memory(&self.runtime_dir(&container.id));
        }
        container.end_execs();
    }

    async fn unmount_volumes(self: &Arc<Self>, container: &Arc<Container>) {
        let names = container.record().volume_names();
        let unmount = {
            // Should this go on when nobody waits any more, it does not take them from the next run.
            let (container, run) = (Arc::clone(container), container.run());
            move |engine: &Arc<Engine>| {
                for volume in names {
                    match engine.volumes.unmount(&volume, &run) {
                        Ok(true) => engine.volumes.tell("unmount", &volume, &[("container", &container.id)]),
                        Ok(false) => {}
                        Err(error) => {
                            tracing::error!(container = container.id, volume, %error, "a volume could not be unmounted");
                        }
                    }
                }
                Ok(())
            }
        };
        let may_hang = self.volumes.of_a_container_are_mounts(&container.id);
        match tokio::time::timeout(UNMOUNT_PATIENCE, may_hang_if(may_hang, self, unmount)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(container = container.id, %error, "its volumes could not be unmounted")
            }
            Err(_) => tracing::error!(container = container.id, "its volumes are still being unmounted"),
        }
    }

    /// Starts it again after a while, unless a user decides otherwise meanwhile.
    pub(super) fn restart_after(self: &Arc<Self>, container: &Arc<Container>, wait: Duration) {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        let interrupted = Arc::clone(&container);
        let ends = container.lifetime.borrow().ends;
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = interrupted.back_off.notified() => {}
            }
            let _transition = container.transition.lock().await;
            // It was started and has ended since: that end has a wait of its own.
            let another_end = container.lifetime.borrow().ends != ends;
            let (status, stopped) = {
                let record = container.record();
                (record.state.status, record.stopped_by_user)
            };
            if status != Status::Restarting || stopped || another_end {
                return;
            }
            if let Err(error) = engine.start_now(&container, Starter::Policy).await {
                tracing::warn!(container = container.id, %error, "its policy could not start it again");
            }
        });
    }
}

/// Whether the policy starts it again, and after which time.
fn restarts(record: &Record, exit: &Exit) -> Option<Duration> {
    if record.stopped_by_user {
        return None;
    }
    let policy = &record.host_config.restart_policy;
    let again = match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => {
            let tries = u64::try_from(policy.maximum_retry_count).unwrap_or(0);
            exit.status != 0 && (tries == 0 || record.restart_count < tries)
        }
        _ => false,
    };
    let finished_at = rfc3339(i64::try_from(exit.at_ns).unwrap_or_else(|_| now_ns()));
    let ran = ran_for(&record.state.started_at, &finished_at);
    again.then(|| back_off(record.restart_count, ran))
}

/// The time before the next restart, after so many.
fn back_off(restarts: u64, ran: Duration) -> Duration {
    if ran >= GOOD_RUN {
        return FIRST_BACK_OFF;
    }
    let doublings = u32::try_from(restarts.min(16)).unwrap_or(16);
    FIRST_BACK_OFF.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_BACK_OFF)
}

/// From one moment to another, both RFC 3339.
fn ran_for(started_at: &str, finished_at: &str) -> Duration {
    let parse = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let (Some(started), Some(finished)) = (parse(started_at), parse(finished_at)) else {
        return Duration::ZERO;
    };
    Duration::try_from(finished.duration_since(started)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_and_has_an_end() {
        let after = |restarts| back_off(restarts, Duration::ZERO).as_millis();
        assert_eq!(
            [after(0), after(1), after(2), after(9), after(10), after(u64::MAX)],
            [100, 200, 400, 51_200, 60_000, 60_000]
        );
        assert_eq!(back_off(9, GOOD_RUN), FIRST_BACK_OFF);
    }

    #[test]
    fn a_run_is_measured_between_its_moments() {
        assert_eq!(ran_for("2026-01-01T00:00:00Z", "2026-01-01T00:00:01.5Z"), Duration::from_millis(1500));
        assert_eq!(ran_for("nonsense", "2026-01-01T00:00:01Z"), Duration::ZERO);
    }
}
