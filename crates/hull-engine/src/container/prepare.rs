//! What a start needs before the launcher is asked: namespaces, addresses, files, mounts, and the message itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_runtime::protocol::{self, Launch, Limits, Stdio, UserLookup};
use hull_runtime::selinux::Walk;

use super::cdi::{Edits, Registry};
use super::files::LinkLine;
use super::links::Linked;
use super::mounts::{self, MountKind, MountPlan};
use super::ownerless::note_cgroup;
use super::rootfs::rootfs;
use super::security::seccomp;
use super::selinux::Relabel;
use super::spec::{Facts, Namespaces, Share, Source};
use super::starting::{self, Starting};
use super::{Container, Record, init, logs};
use crate::blocking::may_hang_if;
use crate::model::EndpointSettings;
use crate::networks::{Allocation, HostsOf, Joiner, Resolving};
use crate::volumes::{Run, bring_others_files};
use crate::{Engine, Error, Result};

/// What a start needs, ready.
pub(super) struct Prepared {
    runtime_dir: PathBuf,
    facts: Facts,
    pub(super) awaits_network: bool,
    /// The network namespace is not the daemon's to make, for it belongs to a user namespace.
    pub(super) makes_network: bool,
    pub(super) allocation: Option<Allocation>,
}

impl Engine {
    /// Does what comes before the launcher is asked. One that hangs there is left behind when it is given up.
    pub(super) async fn prepare_unless_given_up(
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
        // Whole trees may have to be labelled.
        let may_hang = self.looks_at_host_paths(&record) || record.labels.is_some();
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
            || record.host_config.resources.device_requests.as_ref().is_some_and(|list| !list.is_empty())
            || self.volumes.of_a_container_are_mounts(&record.id)
    }

    /// What must be there before the launcher is asked: files, mounts, addresses. Memory and small files only.
    fn prepare(&self, record: &Record, mounted: &mut MountedVolumes) -> Result<Prepared> {
        // The daemon may have been started otherwise when it was made.
        self.check_remapped(&record.host_config)?;
        let image = self.images.resolve(&record.image_id).ok();
        self.check_remapped_image(&record.host_config, image.as_deref())?;
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
            let root = self.outer_root(&record.host_config);
            let label = record.mount_label();
            let size = record.host_config.shm_size;
            super::view::mount_shared_memory(&runtime_dir, size, root, label.as_deref())?;
        }
        let edits = self.edits(record)?;
        let shared_memory = self.shared_memory(record)?;
        let sources = self.mount_sources(record, mounted)?;
        self.label_mounts(record, &files, &sources)?;
        Ok(Prepared {
            awaits_network: own_network,
            makes_network: own_network && namespaces.user != Share::Host,
            allocation,
            runtime_dir,
            facts: Facts {
                files,
                sources,
                namespaces,
                linked: linked
                    .into_iter()
                    .flat_map(|linked| linked.environment)
                    .chain(self.secret_env(&record.id))
                    .collect(),
                edits,
                shared_memory,
            },
        })
    }

    /// What its CDI devices bring.
    pub(super) fn edits(&self, record: &Record) -> Result<Edits> {
        match record.host_config.resources.device_requests.as_deref() {
            None | Some([]) => Ok(Edits::default()),
            Some(requests) => Registry::read(&self.config.cdi_spec_dirs).serve(requests),
        }
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
    pub(super) fn shared_namespaces(&self, record: &Record) -> Result<Namespaces> {
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
            // In Docker's words, which are not the same for each.
            Err(Error::conflict(match what {
                "PID" => format!("container {} is not running", other.id),
                "IPC" => format!("can't join IPC of container {0}: container {0} is not running", other.id),
                what => format!("cannot join {what} of a non running container: {}", other.id),
            }))
        };
        let network = of(&host.network_mode, "network")?;
        let ipc = of(&host.ipc_mode, "IPC")?;
        let (pid, cgroup) = (of(&host.pid_mode, "PID")?, of(&host.cgroupns_mode, "cgroup")?);
        let shares = [("network", &network), ("IPC", &ipc), ("PID", &pid), ("cgroup", &cgroup)];
        Ok(Namespaces {
            user: self.user_namespace(host, shares)?,
            uts: match (&network, host.uts_mode.as_str()) {
                (_, "host") => Share::Host,
                (Share::Of(pid), _) => Share::Of(*pid),
                (Share::Own | Share::Host, _) => Share::Own,
            },
            network,
            pid,
            ipc,
            cgroup,
        })
    }

    /// The folder on the host that is a container's /dev/shm, where others may have it too: the host's, its own that is
    /// shareable, or that of whose namespace it joins.
    pub(super) fn shared_memory(&self, record: &Record) -> Result<Option<PathBuf>> {
        let (mut id, mut mode) = (record.id.clone(), record.host_config.ipc_mode.clone());
        let mut passed = std::collections::BTreeSet::new();
        while let Some(name) = mode.strip_prefix("container:") {
            let donor = self.container(name)?;
            if !passed.insert(donor.id.clone()) {
                return Err(Error::conflict(format!(
                    "can't join IPC of container {}: it joins its own",
                    donor.id
                )));
            }
            (id, mode) = (donor.id.clone(), donor.record().host_config.ipc_mode.clone());
        }
        match mode.as_str() {
            "host" => Ok(Some(PathBuf::from("/dev/shm"))),
            "shareable" => Ok(Some(super::view::shared_memory(&self.runtime_dir(&id)))),
            _ if id == record.id => Ok(None),
            _ => Err(Error::invalid(format!(
                "can't join IPC of container {id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            ))),
        }
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

    /// The host's folder behind each mount of the record, in its order, the volumes mounted; a tmpfs has none.
    fn mount_sources(&self, record: &Record, mounted: &mut MountedVolumes) -> Result<Vec<Source>> {
        let mut sources = Vec::with_capacity(record.mounts.len());
        for (index, mount) in record.mounts.iter().enumerate() {
            match mount.kind {
                MountKind::Tmpfs | MountKind::Image => {}
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
                    if !mount.subpath.is_empty() {
                        check_subpath(&folder, &mount.subpath)?;
                    }
                }
                MountKind::Bind => {
                    if let Err(error) = fs::metadata(&mount.source) {
                        return Err(Error::invalid(format!(
                            "invalid mount config for type \"bind\": bind source path {}: {error}",
                            mount.source
                        )));
                    }
                }
            }
            sources.push(self.source_of(record, index, mount)?);
        }
        Ok(sources)
    }

    /// What a mount shows, which is the record's mount of that index.
    pub(super) fn source_of(&self, record: &Record, index: usize, mount: &MountPlan) -> Result<Source> {
        Ok(match mount.kind {
            MountKind::Tmpfs => Source::default(),
            MountKind::Image => self.mounted_image(record, index, mount)?,
            MountKind::Volume => {
                let volume = self.volumes.get(&mount.name)?;
                let own = !bring_others_files(&volume.options);
                let folder = volume.mountpoint.clone();
                Source { folder, subpath: mount.subpath.clone(), own, ..Source::default() }
            }
            MountKind::Bind => Source {
                folder: PathBuf::from(&mount.source),
                layers: mount.layers.clone(),
                // What a build mounts is the builder's, and told as the layers are.
                own: record.build_step,
                ..Source::default()
            },
        })
    }

    /// The files behind the mount of an image, which is the record's mount of that index.
    fn mounted_image(&self, record: &Record, index: usize, mount: &MountPlan) -> Result<Source> {
        let key = mounts::image_key(&record.id, index);
        let snapshot = self.images.snapshot(&key).map_err(crate::images::error)?;
        let layers = self.images.image_layers(&key).map_err(crate::images::error)?;
        Ok(Source::of_image(snapshot, layers, mount.subpath.clone()))
    }

    /// The message to the launcher.
    fn launch(&self, record: &Record, prepared: &Prepared) -> Result<Launch> {
        let host = &record.host_config;
        let snapshot = self.images.snapshot(&record.id).map_err(crate::images::error)?;
        let size = match host.console_size {
            [0, _] | [_, 0] => None,
            [height, width] => Some((width, height)),
        };
        let runtime = self.runtimes().foreign(host)?;
        let mut spec = self.spec(record, &prepared.facts)?;
        if runtime.is_some() && host.init.unwrap_or(self.config.defaults.init) {
            init::stand_in_front(&mut spec)?;
        }
        if snapshot.is_whole {
            // A tree is bound, and not mounted with a label for all of it.
            record.relabel(&snapshot.upper, Relabel::Private, Walk::UnlessLabelled, &[])?;
        }
        let rootfs = rootfs(snapshot, prepared.facts.namespaces.user != Share::Host, &mut spec);
        Ok(Launch {
            version: protocol::VERSION,
            id: record.id.clone(),
            spec,
            rootfs,
            seccomp: seccomp(host, &self.config.defaults.seccomp)?.0,
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
            init: host.init.unwrap_or(self.config.defaults.init),
            reserved: prepared.allocation.as_ref().map_or(0, |allocation| allocation.reserved.len()),
            relays: prepared
                .allocation
                .as_ref()
                .map(|allocation| allocation.relays.clone())
                .unwrap_or_default(),
            attach: Vec::new(),
            user: Some({
                let UserLookup { user, mut groups } = user(record);
                groups.extend(prepared.facts.edits.groups.iter().map(u32::to_string));
                UserLookup { user, groups }
            }),
            runtime,
        })
    }
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

/// Looks whether a volume has this part now, so that one that it has not is told in the engine's words. What is mounted is
/// looked up by the container's first process itself: it may be exchanged meanwhile.
fn check_subpath(volume: &Path, subpath: &str) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let failed = |error: rustix::io::Errno| match error {
        rustix::io::Errno::NOENT => {
            Error::invalid(format!("cannot access path {subpath} in the volume: no such file or directory"))
        }
        error => Error::invalid(format!("the subpath {subpath} of the volume {}: {error}", volume.display())),
    };
    let root =
        rustix::fs::openat(CWD, volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(
        &root,
        subpath,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(failed)?;
    Ok(())
}

/// Whom the first process looks up in its own files.
pub(super) fn user(record: &Record) -> UserLookup {
    UserLookup {
        user: record.config.user.clone(),
        groups: record.host_config.group_add.clone().unwrap_or_default(),
    }
}
