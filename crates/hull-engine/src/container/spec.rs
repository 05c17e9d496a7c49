//! From a container to the OCI runtime specification's configuration.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::{
    Linux, LinuxNamespace, LinuxNamespaceType, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    Process, Root, Spec, User,
};

use super::cdi::Edits;
use super::devices::devices;
use super::mounts::{MountKind, MountPlan};
use super::security::{capabilities, capability_sets, seccomp, security};
use super::{Record, idmap, remapped, resources};
use crate::model::{HostConfig, Ulimit};
use crate::remap::Remap;
use crate::{Engine, Error, Result};

/// What a mount shows: the host's file or folder, or of a volume a part.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub(super) folder: PathBuf,
    /// Empty where all of it is meant.
    pub(super) subpath: String,
    /// Folders that are shown merged, uppermost first, above which are those in `folder`; none: it is `folder` itself.
    pub(super) layers: Vec<PathBuf>,
    /// It is the container's alone, and root's in there as it is on the disk: its ids are mapped like the container's.
    pub(super) own: bool,
}

impl Source {
    /// The files of an image, which a snapshot holds that nobody writes to.
    pub(super) fn of_image(snapshot: hull_image::Snapshot, layers: Vec<PathBuf>, subpath: String) -> Source {
        let folder = match layers.is_empty() {
            true => snapshot.upper,
            false => snapshot.upper.parent().map(PathBuf::from).unwrap_or_default(),
        };
        Source { folder, subpath, layers, own: true }
    }

    /// The mount's option that names the part.
    pub(super) fn option(&self) -> Option<String> {
        (!self.subpath.is_empty()).then(|| format!("{}={}", hull_runtime::container::SUBPATH, self.subpath))
    }
}

impl From<PathBuf> for Source {
    fn from(folder: PathBuf) -> Source {
        Source { folder, ..Source::default() }
    }
}

/// What a start has found out that the record does not hold.
pub(super) struct Facts {
    /// The container's folder in the data root, with the generated files: a container may write them, and what it fills
    /// is then a disk, not the memory of the exec root.
    pub(super) files: PathBuf,
    /// Each mount's source on the host, in the order of the record's mounts.
    pub(super) sources: Vec<Source>,
    /// The namespaces of other containers or of the host that are joined.
    pub(super) namespaces: Namespaces,
    /// The variables of its links.
    pub(super) linked: Vec<String>,
    /// The folder on the host that is its /dev/shm, if it is one that others have too.
    pub(super) shared_memory: Option<PathBuf>,
    /// What its devices bring.
    pub(super) edits: Edits,
}

/// A namespace that a container does not have for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Share {
    /// Its own.
    #[default]
    Own,
    /// The host's.
    Host,
    /// That of another container's first process.
    Of(i32),
}

/// Which namespaces are shared.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespaces {
    pub(super) user: Share,
    pub(super) network: Share,
    pub(super) pid: Share,
    pub(super) ipc: Share,
    pub(super) uts: Share,
    pub(super) cgroup: Share,
}

/// What a container must not see of the kernel.
pub(super) fn masked_paths() -> Vec<String> {
    [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// What a container must not write.
pub(super) fn read_only_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).to_vec()
}

/// The container's cgroup: beneath its parent, or beneath the daemon's own.
pub(super) fn cgroup_path(parent: &str, instance: &str, id: &str) -> String {
    let parent = if parent.is_empty() { instance } else { parent };
    format!("{}/{id}", hull_image::archive::clean(parent).trim_end_matches('/'))
}

/// The type of a limit by Docker's name.
pub(super) fn rlimit_type(name: &str) -> Result<PosixRlimitType> {
    PosixRlimitType::from_str(&format!("RLIMIT_{}", name.to_ascii_uppercase()))
        .map_err(|_| Error::invalid(format!("invalid ulimit type: {name}")))
}

impl Engine {
    /// The configuration of a container that is about to start.
    pub(super) fn spec(&self, record: &Record, facts: &Facts) -> Result<Spec> {
        let mut spec = Spec::default();
        spec.set_version("1.2.0".to_owned());
        let mut root = Root::default();
        root.set_path(PathBuf::from("rootfs"));
        root.set_readonly(Some(record.host_config.readonly_rootfs));
        spec.set_root(Some(root));
        spec.set_hostname(match facts.namespaces.uts {
            Share::Own => Some(record.hostname().to_owned()),
            Share::Host | Share::Of(_) => None,
        });
        spec.set_domainname(
            Some(record.config.domainname.clone())
                .filter(|name| !name.is_empty() && facts.namespaces.uts == Share::Own),
        );
        spec.set_mounts(Some(mounts(record, facts, self.remap_of(&record.host_config))?));
        let mut process = self.process(record, &facts.linked)?;
        if !facts.edits.environment.is_empty() {
            let own = process.env().clone().unwrap_or_default();
            process.set_env(Some(with_variables(own, &facts.edits.environment)));
        }
        spec.set_process(Some(process));
        spec.set_annotations(
            record
                .host_config
                .annotations
                .as_ref()
                .map(|annotations| annotations.clone().into_iter().collect()),
        );
        spec.set_linux(Some(self.linux(record, facts)?));
        Ok(spec)
    }

    fn linux(&self, record: &Record, facts: &Facts) -> Result<Linux> {
        let host = &record.host_config;
        let security = security(host)?;
        let mut linux = Linux::default();
        linux.set_devices(None);
        linux.set_mount_label(record.mount_label());
        linux.set_seccomp(seccomp(host, &self.config.defaults.seccomp)?.1);
        linux.set_namespaces(Some(namespaces(&facts.namespaces)));
        if let Some(remap) = self.remap_of(host).filter(|_| facts.namespaces.user == Share::Own) {
            linux.set_uid_mappings(Some(remapped::mappings(&remap.users)));
            linux.set_gid_mappings(Some(remapped::mappings(&remap.groups)));
        }
        let path = cgroup_path(&host.resources.cgroup_parent, &self.config.instance, &record.id);
        linux.set_cgroups_path(Some(PathBuf::from(path)));
        let (mut devices, mut rules) = devices(host)?;
        devices.extend(facts.edits.devices.iter().cloned());
        rules.extend(facts.edits.rules.iter().cloned());
        linux.set_devices(Some(devices));
        linux.set_resources(Some(resources::to_oci(&host.resources, rules)?));
        linux.set_sysctl(
            host.sysctls.as_ref().map(|sysctls| sysctls.clone().into_iter().collect::<HashMap<_, _>>()),
        );
        linux.set_rootfs_propagation(Some(root_propagation(&record.mounts).to_owned()));
        let unless_unmasked = |paths: &Option<Vec<String>>| {
            if security.unmasked { Some(Vec::new()) } else { paths.clone() }
        };
        linux.set_masked_paths(unless_unmasked(&host.masked_paths));
        linux.set_readonly_paths(unless_unmasked(&host.readonly_paths));
        Ok(linux)
    }

    pub(super) fn process(&self, record: &Record, linked: &[String]) -> Result<Process> {
        let (config, host) = (&record.config, &record.host_config);
        let mut process = Process::default();
        process.set_terminal(Some(config.tty));
        process.set_user(User::default());
        process.set_args(Some(record.command.clone()));
        process.set_env(Some(environment(record, linked)));
        process.set_cwd(PathBuf::from(if config.working_dir.is_empty() { "/" } else { &config.working_dir }));
        process.set_capabilities(Some(capability_sets(capabilities(host)?)));
        process.set_no_new_privileges(Some(security(host)?.no_new_privileges));
        process.set_apparmor_profile(record.apparmor()?);
        process.set_selinux_label(record.process_label());
        process.set_oom_score_adj((host.oom_score_adj != 0).then_some(host.oom_score_adj));
        process.set_rlimits(Some(self.rlimits(host)?));
        Ok(process)
    }

    /// The container's own limits over the daemon's over hull's.
    fn rlimits(&self, host: &HostConfig) -> Result<Vec<PosixRlimit>> {
        let mut by_name = self.config.default_ulimits.clone();
        by_name.entry("nofile".to_owned()).or_insert_with(default_nofile);
        for ulimit in host.resources.ulimits.iter().flatten() {
            by_name.insert(ulimit.name.clone(), ulimit.clone());
        }
        let limit = |ulimit: &Ulimit| {
            let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
            PosixRlimitBuilder::default()
                .typ(rlimit_type(&ulimit.name)?)
                .soft(value(ulimit.soft))
                .hard(value(ulimit.hard))
                .build()
                .map_err(|error| Error::system("describe a limit", error))
        };
        by_name.values().map(limit).collect()
    }
}

/// hull's own limit of open files; where the daemon itself may have fewer, a container that asked for nothing gets those.
fn default_nofile() -> Ulimit {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let own = own.and_then(|most| i64::try_from(most).ok()).unwrap_or(i64::MAX);
    Ulimit { name: "nofile".to_owned(), soft: own.min(1024), hard: own.min(524_288) }
}

/// The environment: what Docker always sets and that of links, under what the container says.
fn environment(record: &Record, linked: &[String]) -> Vec<String> {
    let mut environment = Vec::new();
    let given = record.config.env.as_deref().unwrap_or_default();
    let has = |name: &str| given.iter().any(|entry| entry.split('=').next() == Some(name));
    if !has("PATH") {
        environment.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    if !has("HOSTNAME") {
        environment.push(format!("HOSTNAME={}", record.hostname()));
    }
    if record.config.tty && !has("TERM") {
        environment.push("TERM=xterm".to_owned());
    }
    let name_of = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    environment.extend(linked.iter().filter(|entry| !has(&name_of(entry))).cloned());
    environment.extend(given.iter().filter(|entry| entry.contains('=')).cloned());
    environment
}

/// An environment with further variables, which replace those of their names; a name alone takes its variable out.
pub(super) fn with_variables(mut environment: Vec<String>, more: &[String]) -> Vec<String> {
    let name_of = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in more {
        environment.retain(|present| name_of(present) != name_of(entry));
        environment.extend(entry.contains('=').then(|| entry.clone()));
    }
    environment
}

fn namespaces(share: &Namespaces) -> Vec<LinuxNamespace> {
    let kinds = [
        (LinuxNamespaceType::User, &share.user, "user"),
        (LinuxNamespaceType::Mount, &Share::Own, "mnt"),
        (LinuxNamespaceType::Network, &share.network, "net"),
        (LinuxNamespaceType::Uts, &share.uts, "uts"),
        (LinuxNamespaceType::Pid, &share.pid, "pid"),
        (LinuxNamespaceType::Ipc, &share.ipc, "ipc"),
        (LinuxNamespaceType::Cgroup, &share.cgroup, "cgroup"),
    ];
    kinds
        .into_iter()
        .filter_map(|(kind, share, file)| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            match share {
                Share::Own => {}
                Share::Host => return None,
                Share::Of(pid) => {
                    namespace.set_path(Some(PathBuf::from(format!("/proc/{pid}/ns/{file}"))));
                }
            }
            Some(namespace)
        })
        .collect()
}

fn mount(destination: &str, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(PathBuf::from(destination));
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(source.into()));
    mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// What the root lets through, for the binds that want it: as much as the one that wants most.
fn root_propagation(mounts: &[MountPlan]) -> &'static str {
    let any = |words: [&str; 2]| mounts.iter().any(|mount| words.contains(&mount.propagation.as_str()));
    match (any(["shared", "rshared"]), any(["slave", "rslave"])) {
        (true, _) => "shared",
        (false, true) => "rslave",
        (false, false) => "rprivate",
    }
}

/// Every mount, in the order of their places: what lies deeper comes later.
fn mounts(record: &Record, facts: &Facts, remap: Option<&Remap>) -> Result<Vec<Mount>> {
    let host = &record.host_config;
    let planned = |place: &str| record.mounts.iter().any(|mount| mount.destination == place);
    let access = |writable: bool| if writable { "rw" } else { "ro" };
    let (sysfs, cgroups) = (access(host.privileged), access(security(host)?.writable_cgroups));
    let shm_size = format!("size={}", host.shm_size);
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sysfs]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", cgroups]),
    ];
    match &facts.shared_memory {
        Some(folder) => mounts.push(mount(
            "/dev/shm",
            "bind",
            folder,
            &["rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"],
        )),
        None if host.ipc_mode == "none" => {}
        None => mounts.push(mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
        )),
    }
    let mqueue = ["nosuid", "noexec", "nodev"];
    match facts.namespaces.ipc {
        // Whose user namespace the host's is not, may not mount it anew.
        Share::Host if remap.is_some() => {
            if Path::new("/dev/mqueue").exists() {
                let options: Vec<&str> = ["rbind", "rprivate"].into_iter().chain(mqueue).collect();
                mounts.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &options));
            }
        }
        Share::Own | Share::Host => mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &mqueue)),
        Share::Of(_) => {}
    }
    mounts.retain(|mount| !mount.destination().to_str().is_some_and(planned));
    for file in ["resolv.conf", "hostname", "hosts"] {
        let place = format!("/etc/{file}");
        if !planned(&place) {
            // As read-only as the rest of what they lie in.
            let access = if record.host_config.readonly_rootfs { "ro" } else { "rw" };
            let mut bind = mount(&place, "bind", facts.files.join(file), &["rbind", "rprivate", access]);
            if remap.is_some() {
                idmap::as_in_container(&mut bind);
            }
            mounts.push(bind);
        }
    }
    for (plan, source) in record.mounts.iter().zip(&facts.sources) {
        mounts.push(planned_mount(plan, source, remap));
    }
    mounts.extend(facts.edits.mounts.iter().cloned());
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(mounts)
}

/// A mount of the record's, from its source on the host.
pub(super) fn planned_mount(plan: &MountPlan, source: &Source, remap: Option<&Remap>) -> Mount {
    if plan.kind == MountKind::Tmpfs {
        let options: Vec<&str> =
            plan.options.iter().map(String::as_str).chain((!plan.writable).then_some("ro")).collect();
        return mount(&plan.destination, "tmpfs", "tmpfs", &options);
    }
    if !source.layers.is_empty() {
        let path = |name: &str, path: &std::path::Path| format!("{name}={}", path.display());
        let written = ["upper", "work"].map(|name| path(&format!("{name}dir"), &source.folder.join(name)));
        let options = source.layers.iter().map(|layer| path("lowerdir", layer)).chain(written);
        let options = options.chain(source.option());
        let options: Vec<String> = options.chain((!plan.writable).then(|| "ro".to_owned())).collect();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        return mount(&plan.destination, hull_runtime::container::LAYERS, "layers", &options);
    }
    let propagation = if plan.propagation.is_empty() { "rprivate" } else { &plan.propagation };
    let bind = if plan.recursive || plan.kind == MountKind::Volume { "rbind" } else { "bind" };
    // What is not read-only is as its source is mounted: "rw" would take `o=ro` of a volume away, or a host's read-only mount.
    let access = match (plan.writable, plan.read_only_recursive) {
        (true, _) => None,
        (false, true) => Some("rro"),
        (false, false) => Some("ro"),
    };
    let subpath = source.option();
    let options: Vec<&str> =
        [bind, propagation].into_iter().chain(access).chain(subpath.as_deref()).collect();
    let mut mount = mount(&plan.destination, "bind", &source.folder, &options);
    match (plan.owner, remap) {
        (Some(owner), _) => idmap::of_owner(&mut mount, owner, remap),
        (None, Some(_)) if source.own => idmap::as_in_container(&mut mount),
        (None, _) => {}
    }
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_s_part_is_left_to_the_first_process_to_look_up() {
        let plan = MountPlan { kind: MountKind::Volume, destination: "/v".into(), ..MountPlan::default() };
        let source = Source {
            folder: "/volumes/v/_data".into(),
            subpath: "a/b".into(),
            own: true,
            ..Source::default()
        };
        let planned = planned_mount(&plan, &source, None);
        assert_eq!(planned.source().as_deref(), Some("/volumes/v/_data".as_ref()));
        let words = ["rbind", "rprivate", "ro", "x-hull.subpath=a/b"].map(str::to_owned);
        assert_eq!(planned.options().as_deref(), Some(&words[..]));
        let whole = planned_mount(&plan, &Source::from(source.folder), None);
        assert_eq!(whole.options().as_deref(), Some(&words[..3]));
    }

    #[test]
    fn the_root_lets_through_what_a_bind_wants() {
        let of = |words: &[&str]| {
            let plan = |word: &&str| MountPlan { propagation: (*word).to_owned(), ..MountPlan::default() };
            root_propagation(&words.iter().map(plan).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), "rprivate");
        assert_eq!(of(&["", "rprivate", "private"]), "rprivate");
        assert_eq!(of(&["rprivate", "slave"]), "rslave");
        assert_eq!(of(&["rshared", "rslave"]), "shared");
    }

    #[test]
    fn a_cgroup_is_beneath_its_parent() {
        assert_eq!(cgroup_path("", "hull", "x"), "/hull/x");
        assert_eq!(cgroup_path("/a/../b/", "hull", "x"), "/b/x");
        assert_eq!(cgroup_path("/", "hull", "x"), "/x");
    }
}
