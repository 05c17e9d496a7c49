//! A daemon that starts takes up what an earlier one left: running containers run on, the ends of others are
//! learned, what has no owner is removed.

use std::sync::Arc;
use std::time::Duration;

use hull_runtime::cgroup::Cgroup;
use hull_runtime::protocol::Request;
use tokio::task::JoinSet;

use super::rejoin::{Clearing, Over};
use super::shim::Shim;
use super::starting::OnItsWay;
use super::{Container, Status, locked};
use crate::blocking::may_hang;
use crate::networks::Live;
use crate::{Engine, Result};

/// How long a daemon that starts waits for shims that do not answer, all of them together.
const SHIM_PATIENCE: Duration = Duration::from_secs(5);

/// A container whose shim was not there any more, or told its end.
type Ending = (Arc<Container>, Clearing, Over);

impl Engine {
    /// Takes up every container of the database, then removes what no container owns.
    pub(crate) async fn take_up(self: &Arc<Self>) -> Result<()> {
        let may_go = self.finish_removals()?;
        for container in self.containers.all() {
            let names = container.record().volume_names();
            for name in names {
                self.volumes.retain(&name, &container.id);
            }
            if let (Some(selinux), Some(labels)) = (&self.selinux, &container.record().labels) {
                selinux.take_up(labels);
            }
        }
        let endings = self.take_up_shims().await;
        self.remove_ownerless(may_go);
        self.take_up_places();
        self.networks.settle()?;
        // Only now: a policy that starts one again finds taken what others have.
        let orders = self.wanted_up_again();
        self.tell_endings(endings).await;
        let engine = Arc::clone(self);
        // Behind: a server that does not answer keeps no daemon from starting.
        tokio::spawn(may_hang(move || {
            engine.volumes.unmount_unused();
            Ok(())
        }));
        self.remove_steps_behind();
        self.take_up_owned();
        for container in orders {
            {
                let mut record = container.record();
                record.state.status = Status::Restarting;
                record.stopped_by_user = false;
            }
            container.lifetime.send_modify(|lifetime| lifetime.running = true);
            self.restart_after(&container, Duration::ZERO);
        }
        Ok(())
    }

    /// The steps of builds that an earlier daemon ran: whoever wanted them is gone with it.
    fn remove_steps_behind(self: &Arc<Self>) {
        for container in self.containers.all() {
            if container.record().build_step {
                let engine = Arc::clone(self);
                tokio::spawn(async move { engine.remove_step(&container).await });
            }
        }
    }

    /// Asks all shims at the same time. One that does not answer is waited for no longer than it has patience.
    async fn take_up_shims(self: &Arc<Self>) -> Vec<Ending> {
        let (mut running, mut unfinished) = (JoinSet::new(), JoinSet::new());
        for container in self.containers.all() {
            let engine = Arc::clone(self);
            let status = container.record().state.status;
            match status {
                Status::Running | Status::Paused => {
                    running.spawn(async move { engine.take_up_running(container).await });
                }
                Status::Restarting => {}
                Status::Created | Status::Exited | Status::Removing | Status::Dead => {
                    unfinished.spawn(async move { engine.take_up_unfinished(&container).await });
                }
            }
        }
        let mut endings = Vec::new();
        while let Some(joined) = running.join_next().await {
            match joined {
                Ok(ending) => endings.extend(ending),
                Err(error) => tracing::error!(%error, "a container could not be taken up"),
            }
        }
        at_most(
            SHIM_PATIENCE,
            unfinished,
            "what is left of starts that were not finished is still being undone",
        )
        .await;
        endings
    }

    /// Writes down the ends that an earlier daemon did not see.
    async fn tell_endings(self: &Arc<Self>, endings: Vec<Ending>) {
        let mut told = JoinSet::new();
        for (container, clearing, over) in endings {
            tracing::warn!(container = container.id, "a container that ran has ended meanwhile");
            let engine = Arc::clone(self);
            told.spawn(async move {
                engine.over(&container, over).await;
                drop(clearing);
            });
        }
        at_most(SHIM_PATIENCE, told, "what is left of containers that have ended is still being cleared up")
            .await;
    }

    /// Those that do not run and are to: interrupted restarts, and what the policies want. Looks after the ends of
    /// others with `--rm`.
    fn wanted_up_again(self: &Arc<Self>) -> Vec<Arc<Container>> {
        let mut orders = Vec::new();
        for container in self.containers.all() {
            let status = container.record().state.status;
            match status {
                Status::Running | Status::Paused => {}
                // A stop whose last step the earlier daemon did not see is no reason to start it.
                Status::Restarting if container.record().stopped_by_user => {
                    container.change_anyway(&self.database, |record| record.state.status = Status::Exited);
                    container.lifetime.send_modify(|lifetime| lifetime.running = false);
                    if self.wanted_up(&container) {
                        orders.push(container);
                    }
                }
                Status::Restarting => orders.push(container),
                Status::Created | Status::Exited | Status::Removing | Status::Dead => {
                    let record = container.record().clone();
                    if record.host_config.auto_remove && record.state.started_at != super::NEVER {
                        // It ended, and the earlier daemon went before it had removed it.
                        self.remove_behind(&container);
                    } else if self.wanted_up(&container) {
                        orders.push(container);
                    }
                }
            }
        }
        orders
    }

    /// `always` is started again by a daemon that starts, and `unless-stopped` where no user stopped it, as in Docker.
    fn wanted_up(&self, container: &Container) -> bool {
        let record = container.record();
        let ran = record.state.started_at != super::NEVER;
        match record.host_config.restart_policy.name.as_str() {
            "always" => ran,
            "unless-stopped" => ran && !record.stopped_by_user,
            _ => false,
        }
    }

    /// Joins the shim of a container that ran when the earlier daemon went.
    async fn take_up_running(self: &Arc<Self>, container: Arc<Container>) -> Option<Ending> {
        let clearing = Clearing::of(&container);
        match tokio::time::timeout(SHIM_PATIENCE, self.rejoin(&container)).await {
            Ok(Ok(joined)) => {
                self.learn_profile(&container, joined.state.pid);
                self.restore(&container, joined.state.pid);
                self.let_go(&container).await;
                self.run_on(container, joined.shim, clearing);
                None
            }
            Ok(Err(over)) => Some((container, clearing, over)),
            Err(_) => {
                tracing::warn!(
                    container = container.id,
                    "its shim does not answer; it is taken up as it was written down, and asked again"
                );
                let pid = container.record().state.pid;
                self.restore(&container, pid);
                self.let_go(&container).await;
                let engine = Arc::clone(self);
                tokio::spawn(async move {
                    match engine.rejoin(&container).await {
                        Ok(joined) => {
                            engine.learn_profile(&container, joined.state.pid);
                            engine.run_on(container, joined.shim, clearing);
                        }
                        Err(over) => engine.over(&container, over).await,
                    }
                });
                None
            }
        }
    }

    /// Under which AppArmor profile a container runs that was started by a daemon which did not write that down: its execs
    /// are to run under the same.
    fn learn_profile(&self, container: &Container, pid: i32) {
        if container.record().state.apparmor.is_some() {
            return;
        }
        if let Some(profile) = hull_runtime::apparmor::profile_of(pid) {
            container.change_anyway(&self.database, |record| record.state.apparmor = Some(profile));
        }
    }

    /// What a container that runs has of the machine is its own again: its places on networks, its volumes.
    fn restore(&self, container: &Container, pid: i32) {
        let (endpoints, ports, name, hostname, dns, own_network) = {
            let record = container.record();
            let mode = &record.host_config.network_mode;
            (
                record.endpoints.clone(),
                record.ports.clone(),
                record.name.clone(),
                record.hostname().to_owned(),
                record.host_config.dns.clone().unwrap_or_default(),
                !mode.starts_with("container:") && !record.config.network_disabled,
            )
        };
        if own_network {
            let live = Live { id: &container.id, name: &name, hostname: &hostname, pid, dns: &dns };
            match self.networks.restore(&live, &endpoints, &ports) {
                Ok(allocation) => *locked(&container.allocation) = Some(allocation),
                Err(error) => {
                    tracing::error!(container = container.id, %error, "its place on its networks is not known")
                }
            }
        }
        let volumes = container.record().volume_names();
        for volume in volumes {
            if let Err(error) = self.volumes.mount(&volume, &container.run()) {
                tracing::error!(container = container.id, volume, %error, "a volume in use is not mounted");
            }
        }
    }

    /// Follows a container that was taken up.
    fn run_on(self: &Arc<Self>, container: Arc<Container>, shim: Arc<Shim>, clearing: Clearing) {
        *locked(&container.shim) = Some(Arc::clone(&shim));
        self.start_health(&container);
        let engine = Arc::clone(self);
        tokio::spawn(async move { engine.follow(&container, shim, clearing).await });
    }

    /// A start that the earlier daemon did not see through: what came up is ended, as nobody was told of it.
    async fn take_up_unfinished(self: &Arc<Self>, container: &Arc<Container>) {
        // Nobody starts or removes it meanwhile.
        let _transition = container.transition.lock().await;
        let _on_its_way = OnItsWay::begin(container);
        let Some(shim) = self.reach(container).await else {
            // Nothing came up. A shim that was killed on its way may have left a cgroup, and one that has ended still
            // clear its own up, which a start must not meet.
            if Cgroup::open(&container.cgroup_path(&self.config.instance)).is_ok() {
                self.clear_cgroup(container).await;
            }
            return;
        };
        tracing::warn!(container = container.id, "a start that was not finished is undone");
        if shim.tell(&Request::KillAll, &[]).await.is_ok() {
            while let Ok(Some(_)) = shim.event().await {}
        }
        self.release_machine(container).await;
    }
}

/// Waits for work, but not for ever: what is not done by then goes on behind.
async fn at_most(patience: Duration, mut work: JoinSet<()>, late: &str) {
    let all = async { while work.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!("{late}");
        work.detach_all();
    }
}
