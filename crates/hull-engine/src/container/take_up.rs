//! A daemon that starts takes up what an earlier one left: running containers run on, the ends of others are
//! learned, what has no owner is removed.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use hull_runtime::protocol::{Event, Reply, Request, State};

use super::shim::Shim;
use super::{Container, Status, locked};
use crate::networks::Live;
use crate::{Engine, Error, Result};

impl Engine {
    /// Takes up every container of the database, then removes what no container owns.
    pub(crate) async fn take_up(self: &Arc<Self>) -> Result<()> {
        for container in self.containers.all() {
            let names: Vec<String> =
                container.record().volume_names().into_iter().map(str::to_owned).collect();
            for name in names {
                self.volumes.retain(&name, &container.id);
            }
        }
        let mut orders = Vec::new();
        for container in self.containers.all() {
            let status = container.record().state.status;
            match status {
                Status::Running | Status::Paused => {
                    if let Err(error) = self.take_up_running(&container).await {
                        tracing::warn!(container = container.id, %error, "a container that ran has ended meanwhile");
                        self.shim_lost(&container).await;
                    }
                }
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
                    self.take_up_unfinished(&container).await;
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
        self.remove_ownerless();
        self.networks.settle()?;
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

    /// Asks for every event on a new connection; what the shim knows. None: it told its end instead, which is written down.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        container: &Arc<Container>,
        shim: &Shim,
    ) -> Result<Option<State>> {
        let ask = shim.ask(&Request::Subscribe, &[]);
        tokio::pin!(ask);
        // Answers arrive while events are read: both at once, until the answer is there.
        let reply = loop {
            tokio::select! {
                biased;
                reply = &mut ask => break reply?,
                event = shim.event() => match event? {
                    Some((Event::Exited(exit), _)) => {
                        self.ended(container, &exit).await;
                        return Ok(None);
                    }
                    Some((Event::ExecExited { id, exit }, _)) => self.exec_ended(container, &id, &exit),
                    Some(_) => {}
                    None => return Err(Error::conflict("the container's shim is gone")),
                },
            }
        };
        match reply {
            Reply::State(state) => Ok(Some(state)),
            other => Err(Error::system("follow a container", format!("its shim answered {other:?}"))),
        }
    }

    /// Connects to the shim of a container that ran when the earlier daemon went.
    async fn take_up_running(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let shim = Shim::new(hull_runtime::shim::connect(&self.runtime_dir(&container.id))?)?;
        let Some(state) = self.subscribe(container, &shim).await? else { return Ok(()) };
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
            let live =
                Live { id: &container.id, name: &name, hostname: &hostname, pid: state.pid, dns: &dns };
            match self.networks.restore(&live, &endpoints, &ports) {
                Ok(allocation) => *locked(&container.allocation) = Some(allocation),
                Err(error) => {
                    tracing::error!(container = container.id, %error, "its place on its networks is not known")
                }
            }
        }
        let volumes: Vec<String> = container.record().volume_names().into_iter().map(str::to_owned).collect();
        for volume in volumes {
            if let Err(error) = self.volumes.mount(&volume, &container.id) {
                tracing::error!(container = container.id, volume, %error, "a volume in use is not mounted");
            }
        }
        *locked(&container.shim) = Some(Arc::clone(&shim));
        self.start_health(container);
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move { engine.follow(&container, &shim).await });
        Ok(())
    }

    /// A start that the earlier daemon did not see through: what came up is ended, as nobody was told of it.
    async fn take_up_unfinished(self: &Arc<Self>, container: &Arc<Container>) {
        // Without a socket there is no shim, and nothing came up.
        let Ok(socket) = hull_runtime::shim::connect(&self.runtime_dir(&container.id)) else { return };
        let Ok(shim) = Shim::new(socket) else { return };
        tracing::warn!(container = container.id, "a start that was not finished is undone");
        if shim.tell(&Request::KillAll, &[]).await.is_ok() {
            while let Ok(Some(_)) = shim.event().await {}
        }
        self.release_machine(container).await;
    }

    /// Folders, snapshots and cgroups of containers that are not in the database.
    fn remove_ownerless(&self) {
        let known = |name: &std::ffi::OsStr| {
            name.to_str().is_some_and(|id| {
                id.len() == 64 && self.containers.find(id).is_ok_and(|found| found.id == id)
            })
        };
        for folder in [self.config.data_root.join("containers"), self.config.exec_root.join("c")] {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten().filter(|entry| !known(&entry.file_name())) {
                tracing::warn!(path = %entry.path().display(), "a folder that no container owns is removed");
                super::view::unmount_shared_memory(&entry.path());
                self.end_ownerless(&entry.file_name());
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    tracing::error!(path = %entry.path().display(), %error, "it could not be removed");
                }
            }
        }
        for key in self.images.snapshots() {
            if !known(key.as_ref())
                && let Err(error) = self.images.remove_snapshot(&key)
            {
                tracing::error!(key, %error, "a writable layer that no container owns could not be removed");
            }
        }
    }

    /// Processes of a container whose row is gone.
    fn end_ownerless(&self, id: &std::ffi::OsStr) {
        let Some(id) = id.to_str() else { return };
        let path = super::spec::cgroup_path("", &self.config.instance, id);
        if let Ok(cgroup) = hull_runtime::cgroup::Cgroup::open(&path)
            && let Err(error) = cgroup.kill_all().and_then(|()| cgroup.remove())
        {
            tracing::error!(id, %error, "processes that no container owns could not be ended");
        }
    }
}
