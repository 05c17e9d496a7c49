//! Creating a container: everything is validated before anything is made, and its row is written last.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use hull_image::{Image, Pinned};

use super::check::{check_config, check_environment, check_modes, check_ports, check_restart_policy};
use super::inherit::inherit;
use super::mounts::{self, MountKind, MountPlan, Owner, Wanted};
use super::selinux::Labels;
use super::{Container, Record, State, command, names, now_ns, random_id, resources, rfc3339};
use crate::blocking::{may_hang_if, see_through};
use crate::config::DefaultBridge;
use crate::database::Table;
use crate::fault;
use crate::model::{Config, CreateBody, HostConfig, LogConfig};
use crate::{Engine, Error, Kind, Result};

/// The answer to a creation.
pub struct Created {
    /// The container's id.
    pub id: String,
    /// What is not as it was asked for.
    pub warnings: Vec<String>,
}

/// A creation that has been looked through: what is left to do can only fail on the machine.
struct Checked {
    record: Record,
    image: Option<Arc<Image>>,
    /// Keep its image, and those that are mounted, here until the container is known to use them.
    pinned: Vec<Pinned>,
    wanted: Vec<Wanted>,
    /// The most bytes that it may write.
    limit: Option<u64>,
    warnings: Vec<String>,
}

/// The labels of a container that is being made. They are free again unless it comes to be, also where nobody waits for it
/// any more.
struct GivenLabels<'e> {
    engine: &'e Engine,
    labels: Option<Labels>,
}

impl GivenLabels<'_> {
    fn keep(mut self) {
        self.labels = None;
    }
}

impl Drop for GivenLabels<'_> {
    fn drop(&mut self) {
        self.engine.free_labels(self.labels.as_ref());
    }
}

impl Engine {
    /// Creates a container; `caller` is who asks for it, as the host knows them.
    ///
    /// # Errors
    /// The image is not there, the name is taken, or something that was asked for cannot be.
    pub async fn create_container(
        self: &Arc<Self>,
        name: Option<&str>,
        body: CreateBody,
        caller: Owner,
    ) -> Result<Created> {
        let may_hang = names_host_paths(&body.host_config);
        let (engine, name) = (Arc::clone(self), name.map(str::to_owned));
        // A client that goes away does not leave half a container behind.
        see_through("create the container", async move {
            let checked = may_hang_if(may_hang, &engine, move |engine| {
                engine.check(name.as_deref(), body, caller, None)
            })
            .await?;
            engine.make(checked, may_hang).await
        })
        .await
    }

    /// Creates the container of a build's step on what was built so far, which need not be an image of the store. What is
    /// asked for is all there is: nothing is inherited.
    ///
    /// # Errors
    /// Something that was asked for cannot be.
    pub(super) async fn create_on(self: &Arc<Self>, image: Arc<Image>, body: CreateBody) -> Result<Created> {
        let engine = Arc::clone(self);
        see_through("create the container of a step", async move {
            let checked = may_hang_if(true, &engine, move |engine| {
                engine.check(None, body, Owner::default(), Some(image))
            });
            engine.make(checked.await?, false).await
        })
        .await
    }

    /// Looks a creation through. `built`: it is a step of a build, on this.
    fn check(
        &self,
        name: Option<&str>,
        body: CreateBody,
        caller: Owner,
        built: Option<Arc<Image>>,
    ) -> Result<Checked> {
        let CreateBody { mut config, mut host_config, networking_config, layered, ends_with, hidden, .. } =
            body;
        let shallow = body.shallow_read_only;
        let id = random_id();
        let name = name.map(names::checked).transpose()?.unwrap_or_default().to_owned();
        let build_step = built.is_some();
        let (image, pinned) = match built {
            Some(image) => (Some(image), None),
            None => self.image_of(&config)?.unzip(),
        };
        check_environment(&config)?;
        if let Some(image) = image.as_ref().filter(|_| !build_step) {
            inherit(&mut config, &image.container_config());
        }
        check_config(&config)?;
        let command = command::of(&config)?;
        let mut warnings = Vec::new();
        self.fill_defaults(&mut host_config)?;
        warnings.extend(super::logs::idle(&host_config.log_config));
        resources::check(&host_config, &mut warnings)?;
        warnings.extend(resources::discarded(&host_config.resources));
        check_modes(self, &host_config, &config)?;
        if host_config.network_mode == "host" && config.hostname.is_empty() {
            // Whoever is on the machine's network is called as the machine is.
            config.hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        }
        for mode in [&mut host_config.pid_mode, &mut host_config.ipc_mode] {
            // Its id, so that a rename of the other changes nothing.
            if let Some(other) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.container(other)?.id);
            }
        }
        self.fill_label_options(&mut host_config)?;
        self.check_labels(&host_config)?;
        self.check_remapped_image(&host_config, image.as_deref())?;
        let mut wanted = self.wanted_mounts(&config, &host_config, caller, shallow)?;
        let mut pinned = Vec::from_iter(pinned);
        pinned.extend(wanted.iter_mut().filter_map(|wanted| wanted.pinned.take()));
        for layered in layered {
            wanted.push(mounts::layered(layered)?);
        }
        let limit = self.storage_limit(&host_config)?;
        let mut endpoints =
            self.new_endpoints(&config, &mut host_config, networking_config.endpoints_config, &mut warnings)?;
        let links = self.take_links(&mut host_config, &mut endpoints)?;
        check_ports(&host_config)?;
        let mut record = Record {
            id,
            name,
            created: rfc3339(now_ns()),
            image_id: image.as_ref().map(|image| image.id.to_string()).unwrap_or_default(),
            command,
            config,
            host_config,
            mounts: Vec::new(),
            endpoints,
            ports: BTreeMap::new(),
            state: State::default(),
            links,
            restart_count: 0,
            stopped_by_user: false,
            build_step,
            hidden,
            owner: None,
            labels: None,
        };
        if let Some(pid) = ends_with {
            record.tie_to(pid)?;
        }
        Ok(Checked { record, image, pinned, wanted, limit, warnings })
    }

    /// Makes what was looked through: name, volumes, snapshot, folders; the row last. A failure undoes it.
    async fn make(self: &Arc<Self>, checked: Checked, may_hang: bool) -> Result<Created> {
        let Checked { mut record, image, pinned, wanted, limit, mut warnings } = checked;
        let id = record.id.clone();
        let taken = if record.name.is_empty() {
            let (name, taken) = self.take_random_name(&id)?;
            record.name = name;
            taken
        } else {
            self.containers.take_name(&record.name, &id)?
        };
        record.labels = self.labels_for(&record.host_config)?;
        let given = GivenLabels { engine: self, labels: record.labels.clone() };
        let mounts = wanted.len();
        if let Err(error) = self.make_parts(&mut record, image.as_deref(), wanted, limit, may_hang).await {
            self.undo_creation(&id, mounts).await;
            return Err(error);
        }
        let read_only =
            |mount: &&MountPlan| !mount.writable && mount.mode.split(',').any(|part| part == "rw");
        warnings.extend(record.mounts.iter().filter(read_only).map(
            |MountPlan { name, destination, .. }| {
                format!(
                    "The volume {name} is a snapshot, to which nobody writes: {destination} is read-only."
                )
            },
        ));
        // One that is removed at its end would not outlive a power cut, and need not be there after it.
        if !record.host_config.auto_remove {
            self.database.sync_behind();
        }
        let container = Arc::new(Container::new(record));
        self.containers.insert(taken, Arc::clone(&container));
        drop(pinned);
        given.keep();
        self.tell(&container, "create");
        self.remove_after_owner(&container);
        Ok(Created { id, warnings })
    }

    /// Everything that a container is made of; its row last.
    async fn make_parts(
        self: &Arc<Self>,
        record: &mut Record,
        image: Option<&Image>,
        wanted: Vec<Wanted>,
        limit: Option<u64>,
        may_hang: bool,
    ) -> Result<()> {
        let fresh;
        (record.mounts, fresh) = {
            let id = record.id.clone();
            let root = self.outer_root(&record.host_config);
            may_hang_if(may_hang, self, move |engine| engine.acquire_mounts(&id, wanted, root)).await?
        };
        if record.labels.is_some() {
            let record = record.clone();
            may_hang_if(may_hang, self, move |engine| engine.label_binds(&record)).await?;
        }
        fault::point("create", "mounts acquired")?;
        self.images.create_limited_snapshot(&record.id, image, limit).map_err(crate::images::error)?;
        fault::point("create", "snapshot made")?;
        let folder = self.container_dir(&record.id);
        fs::create_dir(&folder).map_err(|error| {
            Error::system(format_args!("make the container's folder {}", folder.display()), error)
        })?;
        if !fresh.is_empty() {
            self.fill_volumes(record, &fresh).await?;
        }
        fault::point("create", "volumes filled")?;
        self.database.put(Table::Containers, &record.id, &*record)
    }

    /// Undoes a creation that failed half-way, of a container with so many mounts. Each part may have nothing to undo; the
    /// first failure is the one that is told.
    async fn undo_creation(self: &Arc<Self>, id: &str, mounts: usize) {
        // By their keys: the store may have those of a thousand containers.
        for key in std::iter::once(id.to_owned()).chain((0..mounts).map(|index| mounts::image_key(id, index)))
        {
            let _ = self.images.remove_snapshot(&key);
        }
        // What is mounted over a volume may not let go of it.
        for volume in self.release_volumes(id, true).await {
            let _ = hull_image::remove_tree(&volume);
        }
        let _ = fs::remove_dir_all(self.container_dir(id));
    }

    fn image_of(&self, config: &Config) -> Result<Option<(Arc<Image>, Pinned)>> {
        // Without an image there is only what is mounted.
        if config.image.is_empty() {
            return Ok(None);
        }
        let image = self.images.resolve(&config.image).map_err(crate::images::error)?;
        let pinned = self.pin(&image.id.to_string(), &config.image)?;
        Ok(Some((image, pinned)))
    }

    /// Keeps the image of this id here. `asked` is what the caller calls it.
    pub(super) fn pin(&self, id: &str, asked: &str) -> Result<Pinned> {
        // Removed at this very moment: as if it had been a moment before.
        let gone = |_| Error::new(Kind::NotFound, format!("No such image: {asked}"));
        id.parse().and_then(|id| self.images.pin(&id)).map_err(gone)
    }

    fn take_random_name(&self, id: &str) -> Result<(String, super::registry::NameTaken<'_>)> {
        for attempt in 0..16 {
            let name = names::random(attempt);
            if let Ok(taken) = self.containers.take_name(&name, id) {
                return Ok((name, taken));
            }
        }
        // So many containers that a name is never free: the id's digits are.
        let name = id[..12].to_owned();
        let taken = self.containers.take_name(&name, id)?;
        Ok((name, taken))
    }

    /// What the daemon says where the container says nothing.
    fn fill_defaults(&self, host: &mut HostConfig) -> Result<()> {
        if host.log_config.driver.is_empty() {
            let LogConfig { driver, config } = &self.config.log;
            host.log_config.driver.clone_from(driver);
            if host.log_config.config.is_empty() {
                host.log_config.config.clone_from(config);
            }
        }
        super::logs::check(&host.log_config)?;
        let network_mode = &mut host.network_mode;
        if network_mode.is_empty() || network_mode == "default" {
            let default = match self.config.default_network.bridge {
                DefaultBridge::None => "none",
                DefaultBridge::Own | DefaultBridge::Standing(_) => "bridge",
            };
            *network_mode = default.to_owned();
        }
        let defaults = &self.config.defaults;
        if host.ipc_mode.is_empty() {
            host.ipc_mode.clone_from(&defaults.ipc_mode);
        }
        if host.cgroupns_mode.is_empty() {
            host.cgroupns_mode = if host.privileged { "host" } else { &defaults.cgroupns_mode }.to_owned();
        }
        // What a container is for its whole life is written into it: the next daemon may be told otherwise.
        if host.resources.cgroup_parent.is_empty() {
            host.resources.cgroup_parent.clone_from(&defaults.cgroup_parent);
        }
        if defaults.no_new_privileges {
            let options = host.security_opt.get_or_insert_default();
            if !options.iter().any(|option| option.starts_with("no-new-privileges")) {
                options.push("no-new-privileges".to_owned());
            }
        }
        let resources = &mut host.resources;
        if resources.memory > 0 && resources.memory_swap == 0 {
            // As much swap again as memory, which inspect shows and an update is measured by.
            resources.memory_swap = resources.memory.saturating_mul(2);
        }
        if host.shm_size == 0 {
            host.shm_size = defaults.shm_size;
        }
        if host.shm_size < 0 {
            return Err(Error::invalid("SHM size can not be less than 0"));
        }
        host.runtime = self.runtimes().chosen(&host.runtime)?;
        let policy = &mut host.restart_policy;
        check_restart_policy(policy)?;
        if policy.name.is_empty() {
            policy.name = "no".to_owned();
        }
        if host.auto_remove && policy.name != "no" {
            return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
        }
        // Every cgroup has the switch, and this is how it stands.
        host.resources.oom_kill_disable.get_or_insert(false);
        host.masked_paths
            .get_or_insert_with(|| if host.privileged { Vec::new() } else { super::spec::masked_paths() });
        host.readonly_paths
            .get_or_insert_with(|| if host.privileged { Vec::new() } else { super::spec::read_only_paths() });
        Ok(())
    }

    /// Makes the volumes and sources that mounts need, the sources as the container's root has them; beside them the
    /// places of volumes that may be filled.
    fn acquire_mounts(
        &self,
        id: &str,
        wanted: Vec<Wanted>,
        root: Owner,
    ) -> Result<(Vec<MountPlan>, Vec<usize>)> {
        let (mut plans, mut fresh) = (Vec::new(), Vec::new());
        for Wanted { mut plan, volume, create_source, pinned: _ } in wanted {
            if plan.anonymous && !plan.name.is_empty() {
                // Another container's, by --volumes-from: it stays as nameless as it was.
                self.volumes.retain(&plan.name, id);
            } else if let Some(volume) = volume {
                let name = Some(plan.name.as_str()).filter(|name| !name.is_empty());
                let made = self.volumes.acquire(name, &volume.driver, &volume.options, &volume.labels, id)?;
                plan.name.clone_from(&made.name);
                // Nobody writes to a snapshot, and nothing is put into it.
                plan.writable &= made.snapshot_of.is_none();
                if !plan.no_copy && plan.subpath.is_empty() && made.snapshot_of.is_none() {
                    fresh.push(plans.len());
                }
            }
            if plan.kind == MountKind::Bind && create_source && fs::symlink_metadata(&plan.source).is_err() {
                let Owner { uid, gid } = plan.owner.unwrap_or(root);
                let owned = |()| std::os::unix::fs::chown(&plan.source, Some(uid), Some(gid));
                fs::create_dir_all(&plan.source).and_then(owned).map_err(|error| {
                    Error::new(
                        Kind::System,
                        format!("error while creating mount source path '{}': {error}", plan.source),
                    )
                })?;
            }
            if plan.kind == MountKind::Image {
                let image = self.images.resolve(&plan.image).map_err(crate::images::error)?;
                let key = mounts::image_key(id, plans.len());
                self.images.create_snapshot(&key, Some(&image)).map_err(crate::images::error)?;
            }
            plans.push(plan);
        }
        Ok((plans, fresh))
    }
}

/// Whether a creation names files of the host, which may be where nobody answers.
fn names_host_paths(host: &HostConfig) -> bool {
    let some = |count: Option<usize>| count.is_some_and(|count| count > 0);
    let resources = &host.resources;
    some(host.binds.as_ref().map(Vec::len))
        || some(host.mounts.as_ref().map(Vec::len))
        || some(resources.devices.as_ref().map(Vec::len))
        || some(resources.blkio_weight_device.as_ref().map(Vec::len))
        || some(resources.blkio_device_read_bps.as_ref().map(Vec::len))
        || some(resources.blkio_device_write_bps.as_ref().map(Vec::len))
        || some(resources.blkio_device_read_iops.as_ref().map(Vec::len))
        || some(resources.blkio_device_write_iops.as_ref().map(Vec::len))
}
