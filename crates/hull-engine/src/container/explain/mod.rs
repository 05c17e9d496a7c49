//! What a container is made of: what was asked of the kernel, and what the kernel has.
//!
//! What was asked is the OCI configuration as the next start would write it, so a stopped container is explained,
//! too. What the kernel has is read from `/proc` of the first process, and holds for that process alone: a pidfd
//! tells whether it was there from the first file to the last, so that no other process under its number is taken
//! for it.

pub(super) mod process;
mod sharing;

use std::path::PathBuf;
use std::sync::Arc;

use hull_runtime::cgroup::{self, Cgroup, HierarchyMode, Usage};
use hull_runtime::container::{DEFAULT_DEVICES, capability_name};
use hull_runtime::protocol;
use hull_runtime::seccomp::{self, Summary};
use hull_runtime::{apparmor, selinux};
use oci_spec::runtime::{Capability, LinuxDeviceCgroup, LinuxDeviceType, Mount, Spec};
use serde::Serialize;

use self::process::{Alive, Live, Processes, User};
use self::sharing::Namespace;
use super::cdi::Edits;
use super::mounts::MountKind;
use super::security::security;
use super::spec::{Facts, Namespaces, Source};
use super::{Container, Record};
use crate::blocking::may_hang;
use crate::config::DefaultSeccomp;
use crate::model::HostConfig;
use crate::networks::{Element, Wire};
use crate::{Engine, Result};

/// What a container is made of. What only a process has is not there for one that does not run.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Its id.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// The image as it was named.
    pub image: String,
    /// As in inspect: `running`, `exited`…
    pub status: &'static str,
    /// The entry point and the command in one.
    pub command: Vec<String>,
    /// By kind, as `/proc` calls it: mnt, uts, ipc, net, pid, user, cgroup, time.
    pub namespaces: std::collections::BTreeMap<&'static str, Namespace>,
    /// Where it is limited and counted.
    pub cgroup: Control,
    /// The folders of which its root is an overlay.
    pub layers: Layers,
    /// What is mounted, the root first; of one that runs as the kernel has it.
    pub mounts: Vec<Mounted>,
    /// Files of devices that it gets, and what its cgroup lets it use.
    pub devices: Devices,
    /// Its ways to others.
    pub network: Network,
    /// The user as it was asked for; empty is root.
    pub configured_user: String,
    /// Who its first process is; none where it does not run.
    pub user: Option<User>,
    /// The capabilities that it can ever have, by name.
    pub capabilities: Vec<String>,
    /// The filter of system calls.
    pub seccomp: Seccomp,
    /// Its AppArmor profile, as asked or, where it runs, as the kernel has it; empty: it is under none.
    pub apparmor: Module,
    /// Its SELinux label; empty: it has that of the daemon.
    pub selinux: Module,
    /// Whether a set-user-id program gives it nothing.
    pub no_new_privileges: bool,
    /// What of /proc and /sys is hidden from it.
    pub masked_paths: Vec<String>,
    /// What of them it cannot write.
    pub readonly_paths: Vec<String>,
    /// The limits of each process.
    pub limits: Vec<Limit>,
    /// From -1000, never killed for memory, to 1000, killed first.
    pub oom_score_adj: i64,
    /// Its processes by the host's numbers; none where it does not run.
    pub processes: Option<Processes>,
    /// The OCI configuration as a start writes it: what `hull oci run` would take. None where it cannot be written now.
    pub oci: Option<Spec>,
    /// What could not be found out, and why.
    pub notes: Vec<String>,
}

/// The cgroup.
#[derive(Debug, Serialize)]
pub struct Control {
    /// Its path beneath each hierarchy's mount.
    pub path: String,
    /// How the hierarchies are mounted: `v1`, `v2` or `hybrid`.
    pub hierarchies: &'static str,
    /// What it uses of what it may; none where it does not run.
    pub usage: Option<Usage>,
}

/// The folders of which the root is an overlay, or a tree that was made of them.
#[derive(Debug, Default, Serialize)]
pub struct Layers {
    /// Those of the image, uppermost first: never written.
    pub lower: Vec<PathBuf>,
    /// What the container writes.
    pub upper: PathBuf,
    /// Where overlayfs prepares what it moves there; empty: the writable folder is the whole tree.
    pub work: PathBuf,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mounted {
    /// Where, inside.
    pub destination: String,
    /// The file system, or `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of what: for a bind, what of the host.
    pub source: String,
    /// As mount(8) takes them.
    pub options: Vec<String>,
}

/// Devices.
#[derive(Debug, Serialize)]
pub struct Devices {
    /// The files in /dev.
    pub files: Vec<String>,
    /// The cgroup's rules, in the words of v1: `allow c 1:3 rwm`; the last that fits decides.
    pub rules: Vec<String>,
}

/// Its ways to others.
#[derive(Debug, Serialize)]
pub struct Network {
    /// As it was asked for: a network's name, `host`, `none`, `container:NAME`.
    pub mode: String,
    /// One for each network.
    pub interfaces: Vec<Wire>,
    /// The firewall's elements of its published ports.
    pub firewall: Vec<Element>,
}

/// The filter of system calls.
#[derive(Debug, Serialize)]
pub struct Seccomp {
    /// `builtin`, `own` (`--security-opt seccomp=FILE`) or `unconfined`.
    pub profile: &'static str,
    /// What the filter does; none where there is none.
    #[serde(flatten)]
    pub summary: Option<Summary>,
    /// How many filters the kernel has for the first process; none where it does not run or tell.
    pub filters: Option<u64>,
}

/// What a security module of the kernel confines its processes by.
#[derive(Debug, Default, Serialize)]
pub struct Module {
    /// Whether the machine has the module.
    pub enabled: bool,
    /// The profile or the label.
    pub confined_by: String,
}

/// A limit of each process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// As `ulimit` and `/proc` call it: `nofile`, `Max open files`.
    pub name: String,
    /// What the kernel holds it to; none is no limit.
    pub soft: Option<u64>,
    /// How far it may raise that; none is no limit.
    pub hard: Option<u64>,
}

impl Engine {
    /// What a container is made of.
    ///
    /// # Errors
    /// Its configuration cannot be.
    pub async fn explain(self: &Arc<Self>, container: &Arc<Container>) -> Result<Explanation> {
        // It reads what users named, on whatever file system that lies.
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        may_hang(move || engine.explain_now(&container)).await
    }

    fn explain_now(&self, container: &Container) -> Result<Explanation> {
        let record = container.record().clone();
        let alive = record.is_running().then(|| Alive::of(&container.id, record.state.pid)).flatten();
        let mut explanation = self.as_asked(container, &record)?;
        if let Some(alive) = alive {
            match self.as_it_is(&record, &alive, &explanation) {
                // It ended meanwhile: then some of it may be of nobody.
                Ok(live) if alive.still() => explanation.enrich(live),
                Ok(_) => {}
                Err(error) if alive.still() => explanation.notes.push(error.to_string()),
                Err(_) => {}
            }
        }
        if explanation.processes.is_none() && record.is_running() {
            explanation.status = container.record().state.status.word();
        }
        Ok(explanation)
    }

    /// From the record alone.
    fn as_asked(&self, container: &Container, record: &Record) -> Result<Explanation> {
        let host = &record.host_config;
        let mut notes = Vec::new();
        let mut tell = |what: &str, error: &dyn std::fmt::Display| notes.push(format!("{what}: {error}"));
        let namespaces = self.shared_namespaces(record).unwrap_or_else(|error| {
            tell("the namespaces that it joins", &error);
            Namespaces::default()
        });
        let edits = self.edits(record).unwrap_or_else(|error| {
            tell("its CDI devices", &error);
            Edits::default()
        });
        let facts = self.facts(record, namespaces, edits);
        let oci = self.spec(record, &facts).map_err(|error| tell("its configuration", &error)).ok();
        let layers = match self.images.snapshot(&record.id) {
            Ok(snapshot) => Layers { lower: snapshot.lower, upper: snapshot.upper, work: snapshot.work },
            Err(error) => {
                tell("its layers", &error);
                Layers::default()
            }
        };
        let wired = record.endpoints.iter().filter_map(|(name, settings)| {
            self.networks.wire(name, settings).map_err(|error| tell("a network", &error)).ok().flatten()
        });
        let interfaces = wired.collect();
        let (security, linux) = (security(host)?, oci.as_ref().and_then(|oci| oci.linux().as_ref()));
        let capabilities = super::security::capabilities(host)?;
        Ok(Explanation {
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.config.image.clone(),
            status: record.state.status.word(),
            command: record.command.clone(),
            namespaces: self.planned_namespaces(&facts.namespaces),
            cgroup: Control {
                path: container.cgroup_path(&self.config.instance),
                hierarchies: match cgroup::hierarchy().mode {
                    HierarchyMode::V1 => "v1",
                    HierarchyMode::V2 => "v2",
                    HierarchyMode::Hybrid => "hybrid",
                },
                usage: None,
            },
            mounts: planned_mounts(&layers, oci.as_ref()),
            layers,
            devices: devices(oci.as_ref()),
            network: Network { mode: host.network_mode.clone(), interfaces, firewall: Vec::new() },
            configured_user: record.config.user.clone(),
            user: None,
            seccomp: seccomp_of(
                host,
                &self.config.defaults.seccomp,
                &capabilities.iter().copied().collect::<Vec<_>>(),
            )?,
            capabilities: sorted(capabilities.into_iter().map(capability_name)),
            apparmor: Module {
                enabled: apparmor::is_enabled(),
                confined_by: security.apparmor.filter(|profile| profile != "unconfined").unwrap_or_default(),
            },
            selinux: Module {
                enabled: selinux::is_enabled(),
                confined_by: record.process_label().unwrap_or_default(),
            },
            no_new_privileges: security.no_new_privileges,
            masked_paths: linux.and_then(|linux| linux.masked_paths().clone()).unwrap_or_default(),
            readonly_paths: linux.and_then(|linux| linux.readonly_paths().clone()).unwrap_or_default(),
            limits: planned_limits(oci.as_ref()),
            oom_score_adj: host.oom_score_adj.into(),
            processes: None,
            oci,
            notes,
        })
    }

    /// What a start finds out, without doing anything for it.
    fn facts(&self, record: &Record, namespaces: Namespaces, edits: Edits) -> Facts {
        let sources = record.mounts.iter().map(|mount| match mount.kind {
            MountKind::Tmpfs => PathBuf::new(),
            MountKind::Image => PathBuf::from(&mount.image),
            MountKind::Bind => PathBuf::from(&mount.source),
            MountKind::Volume => {
                let volume = self.volumes.get(&mount.name);
                volume.map_or_else(
                    |_| PathBuf::from(&mount.source),
                    |volume| volume.mountpoint.join(&mount.subpath),
                )
            }
        });
        Facts {
            files: self.container_dir(&record.id),
            // A path, which other runtimes understand too.
            sources: sources.map(Source::from).collect(),
            namespaces,
            linked: self.linked_running(record).into_iter().flat_map(|linked| linked.environment).collect(),
            edits,
            // Whose it cannot share, it would not start with: the namespaces say so.
            shared_memory: self.shared_memory(record).unwrap_or_default(),
        }
    }

    /// What the kernel has of it.
    fn as_it_is(&self, record: &Record, alive: &Alive, asked: &Explanation) -> Result<Live> {
        let mut live = alive.read(&asked.mounts)?;
        live.namespaces = self.shared_with(&record.id, alive.pid);
        let cgroup = Cgroup::open(&asked.cgroup.path)?;
        live.usage = Some(cgroup.usage()?);
        live.processes.all = cgroup.processes()?;
        live.firewall = self.networks.elements_of(&record.id)?;
        live.interfaces = self.networks.interfaces_of(alive.pid, &asked.network.interfaces)?;
        Ok(live)
    }
}

impl Explanation {
    /// What is asked gives way to what is.
    fn enrich(&mut self, live: Live) {
        self.namespaces = live.namespaces;
        self.cgroup.usage = live.usage;
        self.mounts = live.mounts;
        self.network.interfaces = live.interfaces;
        self.network.firewall = live.firewall;
        self.capabilities = live.capabilities;
        self.seccomp.filters = live.filters;
        self.apparmor.confined_by = live.apparmor;
        self.selinux.confined_by = live.selinux;
        self.no_new_privileges = live.no_new_privileges;
        self.limits = live.limits;
        self.oom_score_adj = live.oom_score_adj;
        self.user = Some(live.user);
        self.processes = Some(live.processes);
    }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

/// The filter that a start would install.
fn seccomp_of(host: &HostConfig, default: &DefaultSeccomp, bounding: &[Capability]) -> Result<Seccomp> {
    let (profile, summary) = match super::security::seccomp(host, default)? {
        (protocol::Seccomp::Default, _) => ("builtin", seccomp::default_summary(bounding).ok()),
        (protocol::Seccomp::Spec, Some(profile)) => ("own", seccomp::summary(&profile).ok()),
        (protocol::Seccomp::Spec | protocol::Seccomp::Unconfined, _) => ("unconfined", None),
    };
    Ok(Seccomp { profile, summary, filters: None })
}

fn planned_mounts(layers: &Layers, oci: Option<&Spec>) -> Vec<Mounted> {
    // A whole tree has no working folder.
    let is_whole = layers.work.as_os_str().is_empty();
    let (kind, source, how) = match is_whole {
        true => ("bind", layers.upper.display().to_string(), "made of"),
        false => ("overlay", "overlay".to_owned(), "below"),
    };
    let root = Mounted {
        destination: "/".to_owned(),
        kind: kind.to_owned(),
        source,
        options: vec![match is_whole {
            true => format!("{how} {} layers", layers.lower.len()),
            false => format!("{} layers {how} {}", layers.lower.len(), layers.upper.display()),
        }],
    };
    let text =
        |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let planned = |mount: &Mount| Mounted {
        destination: mount.destination().display().to_string(),
        kind: mount.typ().clone().unwrap_or_default(),
        source: text(mount.source()),
        options: mount.options().clone().unwrap_or_default(),
    };
    let mounts = oci.and_then(|oci| oci.mounts().as_deref()).unwrap_or_default();
    std::iter::once(root).chain(mounts.iter().map(planned)).collect()
}

fn planned_limits(oci: Option<&Spec>) -> Vec<Limit> {
    let process = oci.and_then(|oci| oci.process().as_ref());
    let limits = process.and_then(|process| process.rlimits().as_deref()).unwrap_or_default();
    let some = |value: u64| (value != u64::MAX).then_some(value);
    let limit = |limit: &oci_spec::runtime::PosixRlimit| Limit {
        name: limit.typ().to_string().trim_start_matches("RLIMIT_").to_ascii_lowercase(),
        soft: some(limit.soft()),
        hard: some(limit.hard()),
    };
    limits.iter().map(limit).collect()
}

fn devices(oci: Option<&Spec>) -> Devices {
    let linux = oci.and_then(|oci| oci.linux().as_ref());
    let further = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let default = DEFAULT_DEVICES.iter().map(|(name, ..)| format!("/dev/{name}"));
    let files = default.chain(further.iter().map(|device| device.path().display().to_string())).collect();
    let rules = linux.and_then(|linux| linux.resources().as_ref()?.devices().as_deref()).unwrap_or_default();
    Devices { files, rules: rules.iter().map(rule).collect() }
}

/// A rule as `devices.allow` and `devices.deny` take it.
fn rule(rule: &LinuxDeviceCgroup) -> String {
    let what = if rule.allow() { "allow" } else { "deny" };
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => return format!("{what} a"),
        Some(LinuxDeviceType::B) => "b",
        Some(_) => "c",
    };
    let number = |number: Option<i64>| {
        number.filter(|number| *number >= 0).map_or_else(|| "*".to_owned(), |number| number.to_string())
    };
    let access = rule.access().clone().filter(|access| !access.is_empty());
    let access = access.unwrap_or_else(|| "rwm".to_owned());
    format!("{what} {kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}
