//! What a container has of the host, whether it is asked for or there already.

use std::collections::BTreeSet;
use std::sync::Arc;

use hull_engine::Result;
use hull_engine::container::{Container, MountKind, Mounted, is_unmasked};
use hull_engine::model::{EndpointSettings, HostConfig, Resources};
use hull_engine::volumes::bring_others_files;

use super::{Judge, Rule};
use crate::container_create::ENDPOINT_SYSCTLS;

impl Judge<'_> {
    /// Judges a container that is there.
    pub(super) fn judge_existing(&self, container: &Arc<Container>) -> Result<()> {
        self.judge_chain(container, &mut BTreeSet::new())
    }

    /// The same, and those whose namespaces it shares. They may share each other's in a circle.
    fn judge_chain(&self, container: &Arc<Container>, judged: &mut BTreeSet<String>) -> Result<()> {
        if !judged.insert(container.id.clone()) {
            return Ok(());
        }
        let traits = container.traits();
        self.judge_host(&traits.host_config)?;
        self.judge_mounts(&traits.mounts)?;
        if let Ok(image) = self.engine.images.resolve(&traits.image) {
            self.check(Rule::NoBinds, image.builtin, "the image hull/host")?;
        }
        for (network, place) in &traits.networks {
            self.judge_network(network)?;
            self.judge_place(place)?;
        }
        for other in shared(&traits.host_config).filter_map(|name| self.engine.container(name).ok()) {
            self.judge_chain(&other, judged)?;
        }
        Ok(())
    }

    /// A container whose namespaces are joined: what it has of the host's is joined too.
    pub(super) fn judge_joined(&self, container: &Arc<Container>) -> Result<()> {
        self.judge_existing(container)
    }

    /// Judges what the host is to do for a container; its mounts and networks apart.
    pub(super) fn judge_host(&self, host: &HostConfig) -> Result<()> {
        self.judge_privilege(host)?;
        for (name, mode) in modes(host) {
            self.check(Rule::NoHostNamespaces, !is_own(mode), format_args!("HostConfig.{name} {mode:?}"))?;
        }
        self.judge_resources(&host.resources)
    }

    fn judge_privilege(&self, host: &HostConfig) -> Result<()> {
        let refuse = |broken: bool, what: &str| self.check(Rule::NoPrivilege, broken, what);
        refuse(host.privileged, "HostConfig.Privileged")?;
        for capability in host.cap_add.iter().flatten() {
            refuse(true, &format!("HostConfig.CapAdd {capability}"))?;
        }
        for option in host.security_opt.iter().flatten() {
            let hardens = option.split([':', '=']).next() == Some("no-new-privileges")
                || matches!(option.as_str(), "seccomp=builtin" | "seccomp:builtin");
            refuse(!hardens, &format!("HostConfig.SecurityOpt {:.60}", option))?;
        }
        refuse(is_unmasked(host), "HostConfig.MaskedPaths or ReadonlyPaths")?;
        refuse(host.sysctls.as_ref().is_some_and(|sysctls| !sysctls.is_empty()), "HostConfig.Sysctls")?;
        refuse(host.oom_score_adj < 0, "HostConfig.OomScoreAdj below 0")?;
        refuse(
            !self.engine.runtimes().is_usual(&host.runtime),
            &format!("HostConfig.Runtime {}", host.runtime),
        )?;
        // Out of the users that the daemon maps.
        refuse(!matches!(host.userns_mode.as_str(), "" | "private"), "HostConfig.UsernsMode")?;
        refuse(!host.cgroup.is_empty(), "HostConfig.Cgroup")?;
        // What a runtime takes its orders from.
        refuse(
            host.annotations.as_ref().is_some_and(|annotations| !annotations.is_empty()),
            "HostConfig.Annotations",
        )
    }

    /// Judges what a container may use: the part that `update` changes.
    pub(super) fn judge_resources(&self, resources: &Resources) -> Result<()> {
        // Under a cgroup that others account for, or with none of the host's limits.
        self.check(Rule::NoPrivilege, !resources.cgroup_parent.is_empty(), "HostConfig.CgroupParent")?;
        self.check(Rule::NoPrivilege, resources.cpu_realtime_runtime != 0, "HostConfig.CpuRealtimeRuntime")?;
        let some = |count: Option<usize>| count.is_some_and(|count| count > 0);
        for (name, count) in [
            ("Devices", resources.devices.as_ref().map(Vec::len)),
            ("DeviceCgroupRules", resources.device_cgroup_rules.as_ref().map(Vec::len)),
            ("DeviceRequests", resources.device_requests.as_ref().map(Vec::len)),
            ("BlkioWeightDevice", resources.blkio_weight_device.as_ref().map(Vec::len)),
            ("BlkioDeviceReadBps", resources.blkio_device_read_bps.as_ref().map(Vec::len)),
            ("BlkioDeviceWriteBps", resources.blkio_device_write_bps.as_ref().map(Vec::len)),
            ("BlkioDeviceReadIOps", resources.blkio_device_read_iops.as_ref().map(Vec::len)),
            ("BlkioDeviceWriteIOps", resources.blkio_device_write_iops.as_ref().map(Vec::len)),
        ] {
            self.check(Rule::NoDevices, some(count), format_args!("HostConfig.{name}"))?;
        }
        // What describes a device (CDI) may bind files of the host beside it.
        let requests = some(resources.device_requests.as_ref().map(Vec::len));
        self.check(Rule::NoBinds, requests, "HostConfig.DeviceRequests")
    }

    /// Judges what is mounted, volumes with the options that they have or will have.
    pub(super) fn judge_mounts(&self, mounts: &[Mounted]) -> Result<()> {
        for mount in mounts {
            match mount.kind {
                MountKind::Tmpfs => {}
                MountKind::Volume => {
                    self.check(
                        Rule::Label,
                        mount.private && self.others_use(&mount.source),
                        format_args!("{}:Z, which takes the volume from another's container", mount.source),
                    )?;
                    self.judge_volume_options(&mount.source, &mount.options)?;
                    if let Ok(volume) = self.engine.volumes.get(&mount.source) {
                        self.judge_volume_options(&mount.source, &volume.options)?;
                    }
                }
                // Which image it may be has been judged by its name.
                MountKind::Image => {
                    let is_hosts = self.engine.images.resolve(&mount.source).is_ok_and(|image| image.builtin);
                    self.check(Rule::NoBinds, is_hosts, "the image hull/host, which is the host's files")?;
                }
                // Whatever else there will be.
                _ => self.check(Rule::NoBinds, true, format_args!("the mount of {}", mount.source))?,
            }
        }
        Ok(())
    }

    /// Whether a container that is not there for this socket has the volume.
    fn others_use(&self, volume: &str) -> bool {
        let containers = self.engine.volumes.users(volume).into_iter();
        containers.filter_map(|id| self.engine.container(&id).ok()).any(|container| !self.sees(&container))
    }

    /// A volume with options is a mount of the host's: a bind, a disk, a server's files.
    pub(super) fn judge_volume_options(
        &self,
        name: &str,
        options: &std::collections::BTreeMap<String, String>,
    ) -> Result<()> {
        let mounts = bring_others_files(options);
        let what = format_args!("the volume {name}, which has options of a mount");
        self.check(Rule::NoBinds, mounts, what)?;
        let device = options.get("device").is_some_and(|device| device.contains("/dev"));
        self.check(Rule::NoDevices, mounts && device, what)
    }

    /// Judges a container's place on a network: the kernel's settings of its interface, as those of the container are.
    pub(super) fn judge_place(&self, settings: &EndpointSettings) -> Result<()> {
        let sets = settings.driver_opts.iter().flatten().any(|(name, _)| name == ENDPOINT_SYSCTLS);
        self.check(Rule::NoPrivilege, sets, format_args!("DriverOpts {ENDPOINT_SYSCTLS}"))
    }

    /// Judges a network that a container is on, by its name or id.
    pub(super) fn judge_network(&self, name: &str) -> Result<()> {
        let is_hosts = name == "host"
            || self.engine.networks.resolve(name).is_ok_and(|network| network.driver == "host");
        self.check(Rule::NoHostNamespaces, is_hosts, format_args!("the network {name}"))
    }
}

/// The modes of namespaces, the network's apart from those that are networks' names.
fn modes(host: &HostConfig) -> [(&'static str, &str); 5] {
    [
        ("PidMode", &host.pid_mode),
        ("IpcMode", &host.ipc_mode),
        ("UTSMode", &host.uts_mode),
        ("CgroupnsMode", &host.cgroupns_mode),
        ("UsernsMode", &host.userns_mode),
    ]
}

/// Whether a mode gives a container a namespace of its own, or another's, which is judged by itself.
fn is_own(mode: &str) -> bool {
    matches!(mode, "" | "private" | "shareable" | "none") || mode.starts_with("container:")
}

/// The containers whose namespaces a container shares.
fn shared(host: &HostConfig) -> impl Iterator<Item = &str> {
    let modes = modes(host).map(|(_, mode)| mode).into_iter();
    modes.chain([host.network_mode.as_str()]).filter_map(|mode| mode.strip_prefix("container:"))
}
