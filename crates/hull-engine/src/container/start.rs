//! The start of a container: what does not depend on each other is prepared at the same time, one message
//! carries the whole configuration, and the answer leaves as soon as exec has succeeded or failed.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hull_runtime::protocol::{
    self, Event, Launch, Limits, Request, Rootfs, Seccomp, Stdio, ToLauncher, UserLookup,
};
use tokio::sync::oneshot;

use super::files::LinkLine;
use super::links::Linked;
use super::mounts::MountKind;
use super::ownerless::note_cgroup;
use super::rejoin::Clearing;
use super::shim::Shim;
use super::spec::{Facts, Namespaces, SeccompChoice, Share};
use super::starting::{self, OnItsWay, Starting};
use super::{Container, Record, Status, locked, logs, now_ns, rfc3339};
use crate::blocking::may_hang_if;
use crate::fault;
use crate::model::EndpointSettings;
use crate::networks::HostsOf;
use crate::networks::{Allocation, Joiner, Resolving};
use crate::volumes::Run;
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
        container.begin_run();
        let on_its_way = OnItsWay::begin(container);
        match self.try_start(container, starter, &on_its_way.starting).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.start_failed(container, &error).await;
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
        let reserved =
            prepared.allocation.as_mut().map(|allocation| std::mem::take(&mut allocation.reserved));
        self.send_launch(launch, theirs, reserved.unwrap_or_default(), clients)?;

        let (tell_started, started) = oneshot::channel::<Outcome>();
        let watcher = self.watch(container, &shim, tell_started);
        fault::passed("start", "launched");
        if prepared.awaits_network {
            match self.network(&shim, prepared.allocation.take()).await {
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
            Ok(Err(error)) => return Err(start_error(error)),
            Err(_) => {
                self.clear_cgroup(container).await;
                return Err(Error::system(
                    "start the container",
                    "its shim ended without a word: it, or the launcher that was to fork it, was killed; start it again",
                ));
            }
        };
        fault::passed("start", "executed");
        match self.enter_running(container, &shim, prepared.allocation, &started, starter).await {
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

    /// Does what comes before the launcher is asked. One that hangs there is left behind when it is given up.
    async fn prepare_unless_given_up(
        self: &Arc<Self>,
        container: &Arc<Container>,
        starting: &Starting,
    ) -> Result<(Prepared, Launch)> {
        tokio::select! {
            biased;
            () = container.cleared() => {}
            () = starting.given_up() => return Err(starting::given_up(container)),
        }
        let record = container.record().clone();
        let run = container.run();
        let may_hang = self.looks_at_host_paths(&record);
        let prepare = may_hang_if(may_hang, self, move |engine| {
            // What it has mounted when it fails, or when nobody waits for it any more, goes with this.
            let mut mounted = MountedVolumes { engine: Arc::clone(engine), run, volumes: Vec::new() };
            let prepared = engine.prepare(&record, &mut mounted)?;
            let launch = engine.launch(&record, &prepared)?;
            Ok((prepared, launch, mounted))
        });
        let (prepared, launch, mounted) = tokio::select! {
            biased;
            prepared = prepare => prepared?,
            () = starting.given_up() => return Err(starting::given_up(container)),
        };
        mounted.keep();
        Ok((prepared, launch))
    }

    /// Whether a start looks at files of the host that a user named: they may be where nobody answers.
    fn looks_at_host_paths(&self, record: &Record) -> bool {
        let devices = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
        record.mounts.iter().any(|mount| mount.kind == MountKind::Bind || !mount.subpath.is_empty())
            || devices(&record.host_config.resources.devices)
            || self.volumes.of_a_container_are_mounts(&record.id)
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

    /// What must be there before the launcher is asked: files, mounts, addresses. Memory and small files only.
    fn prepare(&self, record: &Record, mounted: &mut MountedVolumes) -> Result<Prepared> {
        let runtime_dir = self.runtime_dir(&record.id);
        make_runtime_dir(&runtime_dir)?;
        note_cgroup(record, &self.config.instance, &runtime_dir)?;
        let namespaces = self.shared_namespaces(record)?;
        let own_network = namespaces.network == Share::Own;
        let allocation = (own_network || record.host_config.network_mode == "host")
            .then(|| self.allocate(record))
            .transpose()?;
        let files = self.container_dir(&record.id);
        let linked = self.linked(record)?;
        self.write_files(record, allocation.as_ref(), &linked, &files)?;
        if record.host_config.ipc_mode == "shareable" {
            super::view::mount_shared_memory(&runtime_dir, record.host_config.shm_size)?;
        }
        let sources = self.mount_sources(record, mounted)?;
        Ok(Prepared {
            awaits_network: own_network,
            allocation,
            runtime_dir,
            facts: Facts {
                files,
                sources,
                namespaces,
                linked: linked.into_iter().flat_map(|linked| linked.environment).collect(),
            },
        })
    }

    fn allocate(&self, record: &Record) -> Result<Allocation> {
        let exposed: Vec<String> =
            record.config.exposed_ports.iter().flatten().map(|(port, _)| port.clone()).collect();
        let none = Default::default();
        let dns = record.host_config.dns.clone().unwrap_or_default();
        self.networks.allocate(&Joiner {
            id: &record.id,
            name: &record.name,
            hostname: record.hostname(),
            endpoints: &record.endpoints,
            port_bindings: record.host_config.port_bindings.as_ref().unwrap_or(&none),
            exposed: &exposed,
            publish_all: record.host_config.publish_all_ports,
            dns: &dns,
        })
    }

    /// The namespaces of others that a container joins.
    fn shared_namespaces(&self, record: &Record) -> Result<Namespaces> {
        let host = &record.host_config;
        let of = |mode: &str, what: &str| -> Result<Share> {
            if mode == "host" {
                return Ok(Share::Host);
            }
            let Some(name) = mode.strip_prefix("container:") else { return Ok(Share::Own) };
            let other = self.container(name)?;
            let other = other.record();
            if other.is_running() {
                return Ok(Share::Of(other.state.pid));
            }
            Err(Error::conflict(format!("cannot join {what} of a non running container: {}", other.id)))
        };
        let network = of(&host.network_mode, "network")?;
        let ipc = match host.ipc_mode.strip_prefix("container:") {
            Some(name) if self.container(name)?.record().host_config.ipc_mode == "private" => {
                return Err(Error::conflict(format!(
                    "can't join IPC of container {name}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                )));
            }
            _ => of(&host.ipc_mode, "IPC")?,
        };
        Ok(Namespaces {
            uts: match (&network, host.uts_mode.as_str()) {
                (_, "host") => Share::Host,
                (Share::Of(pid), _) => Share::Of(*pid),
                (Share::Own | Share::Host, _) => Share::Own,
            },
            network,
            pid: of(&host.pid_mode, "PID")?,
            ipc,
            cgroup: of(&host.cgroupns_mode, "cgroup")?,
        })
    }

    /// /etc/hostname, hosts and resolv.conf, in the data root: bound into the container.
    fn write_files(
        &self,
        record: &Record,
        allocation: Option<&Allocation>,
        linked: &[Linked],
        folder: &Path,
    ) -> Result<()> {
        if let Some(other) = record.host_config.network_mode.strip_prefix("container:") {
            return self.copy_files(other, folder);
        }
        let endpoints = allocation.map_or(&record.endpoints, |allocation| &allocation.endpoints);
        let lines = linked.iter().map(|linked| linked.hosts.clone()).collect();
        for (name, text) in [
            ("hostname", format!("{}\n", record.hostname())),
            ("hosts", self.hosts_text(record, endpoints, lines)?),
            ("resolv.conf", self.resolv_conf_text(record, endpoints)?),
        ] {
            let path = folder.join(name);
            fs::write(&path, text)
                .map_err(|error| Error::system(format_args!("write {}", path.display()), error))?;
        }
        Ok(())
    }

    /// The text of /etc/hosts for a container at these places.
    pub(super) fn hosts_text(
        &self,
        record: &Record,
        endpoints: &BTreeMap<String, EndpointSettings>,
        linked: Vec<LinkLine>,
    ) -> Result<String> {
        self.networks.hosts(&HostsOf {
            endpoints,
            hostname: record.hostname(),
            domainname: &record.config.domainname,
            extra: record.host_config.extra_hosts.as_deref().unwrap_or_default(),
            linked,
        })
    }

    /// The text of /etc/resolv.conf for a container at these places.
    pub(super) fn resolv_conf_text(
        &self,
        record: &Record,
        endpoints: &BTreeMap<String, EndpointSettings>,
    ) -> Result<String> {
        let host = &record.host_config;
        let networks: Vec<&str> = endpoints.keys().map(String::as_str).collect();
        self.networks.resolv_conf(&Resolving {
            networks: &networks,
            dns: host.dns.as_deref().unwrap_or_default(),
            search: host.dns_search.as_deref().unwrap_or_default(),
            options: host.dns_options.as_deref().unwrap_or_default(),
        })
    }

    /// The host's folder behind each mount of the record, in its order; a tmpfs has none.
    fn mount_sources(&self, record: &Record, mounted: &mut MountedVolumes) -> Result<Vec<PathBuf>> {
        let mut sources = Vec::with_capacity(record.mounts.len());
        for mount in &record.mounts {
            sources.push(match mount.kind {
                MountKind::Tmpfs => PathBuf::new(),
                MountKind::Volume => {
                    let folder = self.volumes.mount(&mount.name, &mounted.run)?;
                    mounted.volumes.push(mount.name.clone());
                    let place = [
                        ("container", record.id.as_str()),
                        ("destination", mount.destination.as_str()),
                        ("propagation", mount.propagation.as_str()),
                        ("read/write", if mount.writable { "true" } else { "false" }),
                    ];
                    self.volumes.tell("mount", &mount.name, &place);
                    if mount.subpath.is_empty() { folder } else { beneath(&folder, &mount.subpath)? }
                }
                MountKind::Bind => {
                    if let Err(error) = fs::metadata(&mount.source) {
                        return Err(Error::invalid(format!(
                            "invalid mount config for type \"bind\": bind source path {}: {error}",
                            mount.source
                        )));
                    }
                    PathBuf::from(&mount.source)
                }
            });
        }
        Ok(sources)
    }

    /// The message to the launcher.
    fn launch(&self, record: &Record, prepared: &Prepared) -> Result<Launch> {
        let host = &record.host_config;
        let snapshot = self.images.snapshot(&record.id).map_err(crate::images::error)?;
        let size = match host.console_size {
            [0, _] | [_, 0] => None,
            [height, width] => Some((width, height)),
        };
        Ok(Launch {
            version: protocol::VERSION,
            id: record.id.clone(),
            spec: self.spec(record, &prepared.facts)?,
            rootfs: Rootfs::Overlay { lower: snapshot.lower, upper: snapshot.upper, work: snapshot.work },
            seccomp: seccomp(record)?,
            stdio: Stdio {
                terminal: record.config.tty,
                stdin: record.config.open_stdin,
                stdin_once: record.config.stdin_once,
                size,
            },
            log: logs::to_shim(record, &self.container_dir(&record.id))?,
            limits: Limits {
                timeout_ns: host.timeout.unsigned_abs(),
                cpu_time_ns: host.cpu_time.unsigned_abs(),
            },
            runtime_dir: prepared.runtime_dir.clone(),
            awaits_network: prepared.awaits_network,
            init: host.init.unwrap_or(false),
            reserved: prepared.allocation.as_ref().map_or(0, |allocation| allocation.reserved.len()),
            attach: Vec::new(),
            user: Some(user(record)),
        })
    }

    /// Makes the network while the first process mounts, and hands the namespace over.
    async fn network(self: &Arc<Self>, shim: &Shim, allocation: Option<Allocation>) -> Result<Allocation> {
        let engine = Arc::clone(self);
        let allocation =
            allocation.ok_or_else(|| Error::system("make the network", "nothing was allocated"))?;
        let made = tokio::task::spawn_blocking(move || {
            let namespace = engine.networks.realise(&allocation);
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
            record.state.error.clear();
            record.state.oom_killed = false;
            record.state.end_reason.clear();
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
    async fn start_failed(self: &Arc<Self>, container: &Arc<Container>, error: &Error) {
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
    ) -> tokio::task::JoinHandle<()> {
        let (engine, container, shim) = (Arc::clone(self), Arc::clone(container), Arc::clone(shim));
        tokio::spawn(async move {
            match shim.event().await {
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

/// What a start needs, ready.
struct Prepared {
    runtime_dir: PathBuf,
    facts: Facts,
    awaits_network: bool,
    allocation: Option<Allocation>,
}

/// The volumes that a start has mounted, until it keeps them: dropped, they are unmounted again.
struct MountedVolumes {
    engine: Arc<Engine>,
    run: Run,
    volumes: Vec<String>,
}

impl MountedVolumes {
    /// The run has them, and its end unmounts them.
    fn keep(mut self) {
        self.volumes.clear();
    }
}

impl Drop for MountedVolumes {
    fn drop(&mut self) {
        for volume in &self.volumes {
            match self.engine.volumes.unmount(volume, &self.run) {
                Ok(true) => {
                    self.engine.volumes.tell("unmount", volume, &[("container", &self.run.container)]);
                }
                Ok(false) => {}
                Err(error) => {
                    let container = &self.run.container;
                    tracing::error!(container, volume, %error, "a volume could not be unmounted");
                }
            }
        }
    }
}

/// Makes the folder of this start; an earlier one's goes, and with it how that ended.
fn make_runtime_dir(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let cleared = fs::remove_dir_all(folder).and_then(|()| fs::create_dir(folder));
            cleared.map_err(|error| Error::system(format_args!("clear {}", folder.display()), error))
        }
        made => {
            made.map_err(|error| Error::system(format_args!("make the folder {}", folder.display()), error))
        }
    }
}

/// A folder inside a volume; links may not lead out of it.
fn beneath(volume: &Path, subpath: &str) -> Result<PathBuf> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let failed = |error: rustix::io::Errno| {
        Error::invalid(format!("the subpath {subpath} of the volume {}: {error}", volume.display()))
    };
    let root =
        rustix::fs::openat(CWD, volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(
        &root,
        subpath,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(failed)?;
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
        .map_err(|error| Error::system(format_args!("find the subpath {subpath}"), error))
}

/// Whom the first process looks up in its own files.
pub(super) fn user(record: &Record) -> UserLookup {
    UserLookup {
        user: record.config.user.clone(),
        groups: record.host_config.group_add.clone().unwrap_or_default(),
    }
}

pub(super) fn seccomp(record: &Record) -> Result<Seccomp> {
    Ok(match super::spec::security(&record.host_config)?.seccomp {
        SeccompChoice::Default => Seccomp::Default,
        SeccompChoice::Unconfined => Seccomp::Unconfined,
    })
}

/// A failed start in Docker's words.
fn start_error(error: hull_runtime::Error) -> Error {
    let exit_status = error.exit_status;
    let kind = if matches!(exit_status, 126 | 127) { Kind::InvalidParameter } else { Kind::System };
    let message = format!("OCI runtime create failed: unable to start container process: {error}");
    Error { exit_status: if exit_status == 125 { 128 } else { exit_status }, ..Error::new(kind, message) }
}
