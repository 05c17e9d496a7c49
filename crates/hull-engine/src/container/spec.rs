//! From a container to the OCI runtime specification's configuration.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, Mount, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, Root, Spec, User,
};

use super::mounts::{MountKind, MountPlan};
use super::{Record, resources};
use crate::model::{DeviceMapping, HostConfig, Ulimit};
use crate::{Engine, Error, Result};

/// What a start has found out that the record does not hold.
pub(super) struct Facts {
    /// The container's folder in the data root, with the generated files: a container may write them, and what it fills
    /// is then a disk, not the memory of the exec root.
    pub(super) files: PathBuf,
    /// Each mount's source on the host, in the order of the record's mounts.
    pub(super) sources: Vec<PathBuf>,
    /// The namespaces of other containers or of the host that are joined.
    pub(super) namespaces: Namespaces,
    /// The variables of its links.
    pub(super) linked: Vec<String>,
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
    pub(super) network: Share,
    pub(super) pid: Share,
    pub(super) ipc: Share,
    pub(super) uts: Share,
    pub(super) cgroup: Share,
}

/// Docker's fourteen.
const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

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
    format!("{}/{id}", super::mounts::clean(parent).trim_end_matches('/'))
}

/// The part of a security option that matters to the process.
#[derive(Default)]
pub(super) struct Security {
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: SeccompChoice,
    /// `systempaths=unconfined`: nothing is masked or read-only.
    pub(super) unmasked: bool,
}

/// Which system call filter was asked for.
#[derive(Default)]
pub(super) enum SeccompChoice {
    #[default]
    Default,
    Unconfined,
}

/// Reads `--security-opt`.
///
/// # Errors
/// What is unknown, or what this engine has not got.
pub(super) fn security(host: &HostConfig) -> Result<Security> {
    let mut security = Security::default();
    for option in host.security_opt.iter().flatten() {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => security.seccomp = SeccompChoice::Unconfined,
            ("seccomp", "builtin") => security.seccomp = SeccompChoice::Default,
            ("seccomp", _) => {
                return Err(Error::unsupported(
                    "a seccomp profile of one's own (--security-opt seccomp=FILE)",
                ));
            }
            ("systempaths", "unconfined") => security.unmasked = true,
            // Where the machine has neither, both ask for what is so anyway.
            ("apparmor", "unconfined") | ("label", "disable") => {}
            ("apparmor" | "label" | "writable-cgroups", _) => {
                return Err(Error::unsupported(format_args!("--security-opt {option}")));
            }
            _ => return Err(Error::invalid(format!("invalid --security-opt: \"{option}\""))),
        }
    }
    if host.privileged {
        security.seccomp = SeccompChoice::Unconfined;
    }
    Ok(security)
}

/// Checks what a start will need of the host's configuration.
pub(super) fn check(host: &HostConfig) -> Result<()> {
    security(host)?;
    capabilities(host)?;
    for device in host.resources.devices.iter().flatten() {
        devices_of(device)?;
    }
    for (name, _) in host.sysctls.iter().flatten() {
        check_sysctl(name, host)?;
    }
    Ok(())
}

/// Only what belongs to a namespace of the container's own may be set.
fn check_sysctl(name: &str, host: &HostConfig) -> Result<()> {
    let of_ipc = name.starts_with("fs.mqueue.")
        || [
            "kernel.msgmax",
            "kernel.msgmnb",
            "kernel.msgmni",
            "kernel.sem",
            "kernel.shmall",
            "kernel.shmmax",
            "kernel.shmmni",
            "kernel.shm_rmid_forced",
        ]
        .contains(&name);
    if of_ipc {
        if host.ipc_mode == "host" {
            return Err(Error::invalid(format!(
                "sysctl {name} is not allowed: the IPC namespace is the host's"
            )));
        }
        return Ok(());
    }
    if name.starts_with("net.") {
        if host.network_mode == "host" {
            return Err(Error::invalid(format!(
                "sysctl {name} is not allowed: the network namespace is the host's"
            )));
        }
        return Ok(());
    }
    if matches!(name, "kernel.domainname" | "kernel.hostname") {
        return Err(Error::invalid(format!("sysctl {name} is not allowed: use --domainname or --hostname")));
    }
    Err(Error::invalid(format!("sysctl '{name}' is not allowed: it is not in a separate kernel namespace")))
}

/// The capabilities after `--cap-add` and `--cap-drop`.
pub(super) fn capabilities(host: &HostConfig) -> Result<Capabilities> {
    let all = || ALL_CAPABILITIES.iter().filter_map(|name| Capability::from_str(name).ok());
    if host.privileged {
        return Ok(all().collect());
    }
    let parse = |list: &str, name: &String| -> Result<Option<Capability>> {
        let upper = name.to_ascii_uppercase();
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if plain == "ALL" {
            return Ok(None);
        }
        Capability::from_str(plain)
            .map(Some)
            .map_err(|_| Error::invalid(format!("invalid {list}: unknown capability: \"CAP_{plain}\"")))
    };
    let list = |what: &str, names: &Option<Vec<String>>| {
        names.iter().flatten().map(|name| parse(what, name)).collect::<Result<Vec<_>>>()
    };
    let (add, drop) = (list("CapAdd", &host.cap_add)?, list("CapDrop", &host.cap_drop)?);
    let mut set: HashSet<Capability> = match (add.contains(&None), drop.contains(&None)) {
        (true, _) => all().collect(),
        (false, true) => HashSet::new(),
        (false, false) => CAPABILITIES.into_iter().collect(),
    };
    for capability in drop.iter().flatten() {
        set.remove(capability);
    }
    for capability in add.into_iter().flatten() {
        set.insert(capability);
    }
    Ok(set)
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
        spec.set_mounts(Some(mounts(record, facts)?));
        spec.set_process(Some(self.process(record, &facts.linked)?));
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
        linux.set_seccomp(None);
        linux.set_namespaces(Some(namespaces(&facts.namespaces)));
        let path = cgroup_path(&host.resources.cgroup_parent, &self.config.instance, &record.id);
        linux.set_cgroups_path(Some(PathBuf::from(path)));
        let (devices, rules) = devices(host)?;
        linux.set_devices(Some(devices));
        linux.set_resources(Some(resources::to_oci(&host.resources, rules)?));
        linux.set_sysctl(
            host.sysctls.as_ref().map(|sysctls| sysctls.clone().into_iter().collect::<HashMap<_, _>>()),
        );
        linux.set_rootfs_propagation(Some("rprivate".to_owned()));
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

/// The same set in every set but the ambient one, as Docker gives it.
pub(super) fn capability_sets(set: Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()));
    sets.set_effective(Some(set.clone()));
    sets.set_permitted(Some(set));
    sets.set_inheritable(None);
    sets.set_ambient(None);
    sets
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
    environment.extend(given.iter().cloned());
    environment
}

fn namespaces(share: &Namespaces) -> Vec<LinuxNamespace> {
    let kinds = [
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

/// Every mount, in the order of their places: what lies deeper comes later.
fn mounts(record: &Record, facts: &Facts) -> Result<Vec<Mount>> {
    let host = &record.host_config;
    let planned = |place: &str| record.mounts.iter().any(|mount| mount.destination == place);
    let access = if host.privileged { "rw" } else { "ro" };
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
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    let own_ipc = facts.namespaces.ipc == Share::Own;
    match (&facts.namespaces.ipc, host.ipc_mode.as_str()) {
        // A shareable /dev/shm would be bound from outside; the namespace itself is what is shared here.
        (Share::Own, "none") => {}
        (Share::Own, _) => mounts.push(mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
        )),
        (Share::Host, _) => mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rw"])),
        (Share::Of(pid), _) => {
            mounts.push(mount("/dev/shm", "bind", format!("/proc/{pid}/root/dev/shm"), &["rbind", "rw"]));
        }
    }
    if own_ipc || facts.namespaces.ipc == Share::Host {
        mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
    }
    mounts.retain(|mount| !mount.destination().to_str().is_some_and(planned));
    for file in ["resolv.conf", "hostname", "hosts"] {
        let place = format!("/etc/{file}");
        if !planned(&place) {
            // As read-only as the rest of what they lie in.
            let access = if record.host_config.readonly_rootfs { "ro" } else { "rw" };
            mounts.push(mount(&place, "bind", facts.files.join(file), &["rbind", "rprivate", access]));
        }
    }
    for (plan, source) in record.mounts.iter().zip(&facts.sources) {
        mounts.push(planned_mount(plan, source));
    }
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(mounts)
}

fn planned_mount(plan: &MountPlan, source: &Path) -> Mount {
    if plan.kind == MountKind::Tmpfs {
        let options: Vec<&str> =
            plan.options.iter().map(String::as_str).chain((!plan.writable).then_some("ro")).collect();
        return mount(&plan.destination, "tmpfs", "tmpfs", &options);
    }
    let propagation = if plan.propagation.is_empty() { "rprivate" } else { &plan.propagation };
    let bind = if plan.recursive || plan.kind == MountKind::Volume { "rbind" } else { "bind" };
    let access = match (plan.writable, plan.read_only_recursive) {
        (true, _) => "rw",
        (false, true) => "rro",
        (false, false) => "ro",
    };
    mount(&plan.destination, "bind", source, &[bind, propagation, access])
}

/// A device rule.
pub(super) fn device_access(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow);
    rule.set_typ(Some(kind));
    rule.set_major(major);
    rule.set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}

/// The device nodes besides the runtime's own, and the rules for all of them.
fn devices(host: &HostConfig) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    use LinuxDeviceType::{A, B, C};
    if host.privileged {
        let mut devices = Vec::new();
        devices_beneath(Path::new("/dev"), Path::new("/dev"), &mut devices);
        return Ok((devices, vec![device_access(true, A, None, None, "rwm")]));
    }
    let mut rules = vec![
        device_access(false, A, None, None, "rwm"),
        // Nodes may be made of anything; to open them is another matter.
        device_access(true, C, None, None, "m"),
        device_access(true, B, None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, the pseudo-terminals.
    for (major, minor) in [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ] {
        rules.push(device_access(true, C, Some(major), minor, "rwm"));
    }
    let mut devices = Vec::new();
    for mapping in host.resources.devices.iter().flatten() {
        for (device, access) in devices_of(mapping)? {
            rules.push(device_access(
                true,
                device.typ(),
                Some(device.major()),
                Some(device.minor()),
                &access,
            ));
            devices.push(device);
        }
    }
    for rule in host.resources.device_cgroup_rules.iter().flatten() {
        rules.push(resources::device_rule(rule)?);
    }
    Ok((devices, rules))
}

/// The device nodes of one `--device`, a folder's all.
fn devices_of(mapping: &DeviceMapping) -> Result<Vec<(LinuxDevice, String)>> {
    let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
    if !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(Error::invalid(format!("invalid device mode: {access}")));
    }
    let inside =
        if mapping.path_in_container.is_empty() { &mapping.path_on_host } else { &mapping.path_in_container };
    if !inside.starts_with('/') {
        return Err(Error::invalid(format!("invalid device path: {inside} is not absolute")));
    }
    let outside = Path::new(&mapping.path_on_host);
    let failed = |error| {
        Error::system(
            format_args!(
                "error gathering device information while adding custom device \"{}\"",
                mapping.path_on_host
            ),
            error,
        )
    };
    let metadata = fs::metadata(outside).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed("no such file or directory".to_owned()),
        _ => failed(error.to_string()),
    })?;
    let mut devices = Vec::new();
    if metadata.is_dir() {
        devices_beneath(outside, Path::new(inside), &mut devices);
    } else {
        devices.extend(device(&metadata, PathBuf::from(inside)));
    }
    if devices.is_empty() {
        return Err(failed("not a device node".to_owned()));
    }
    Ok(devices.into_iter().map(|device| (device, access.to_owned())).collect())
}

/// What lies beneath a folder of devices; terminals and shared memory are the container's own.
fn devices_beneath(folder: &Path, inside: &Path, devices: &mut Vec<LinuxDevice>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let own = [
            "pts", "shm", "fd", "mqueue", "console", "ptmx", "null", "zero", "full", "random", "urandom",
            "tty",
        ];
        if name.to_str().is_some_and(|name| name.starts_with(".lxc") || own.contains(&name)) {
            continue;
        }
        // A link is not followed: what it points to is found by itself.
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        if metadata.is_dir() {
            devices_beneath(&entry.path(), &inside.join(&name), devices);
        } else {
            devices.extend(device(&metadata, inside.join(&name)));
        }
    }
}

fn device(metadata: &fs::Metadata, inside: PathBuf) -> Option<LinuxDevice> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    LinuxDeviceBuilder::default()
        .path(inside)
        .typ(kind)
        .major(i64::from(rustix::fs::major(metadata.rdev())))
        .minor(i64::from(rustix::fs::minor(metadata.rdev())))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let of = |add: &[&str], drop: &[&str]| {
            let host = HostConfig { cap_add: words(add), cap_drop: words(drop), ..HostConfig::default() };
            capabilities(&host).map(|set| set.len())
        };
        assert_eq!(of(&[], &[]).unwrap(), 14);
        assert_eq!(of(&["sys_admin", "CAP_CHOWN"], &["NET_RAW"]).unwrap(), 14);
        assert_eq!(of(&["NET_ADMIN"], &["ALL"]).unwrap(), 1);
        assert_eq!(of(&["ALL"], &["KILL"]).unwrap(), 40);
        assert!(of(&["NONSENSE"], &[]).is_err());
    }

    #[test]
    fn every_capability_of_the_list_is_known() {
        let host = HostConfig { privileged: true, ..HostConfig::default() };
        assert_eq!(capabilities(&host).unwrap().len(), ALL_CAPABILITIES.len());
    }

    #[test]
    fn a_sysctl_of_the_machine_is_refused() {
        let host = HostConfig::default();
        check_sysctl("net.ipv4.ip_forward", &host).unwrap();
        check_sysctl("kernel.shmmax", &host).unwrap();
        assert!(check_sysctl("kernel.panic", &host).is_err());
        let host = HostConfig { network_mode: "host".to_owned(), ..HostConfig::default() };
        assert!(check_sysctl("net.ipv4.ip_forward", &host).is_err());
    }

    #[test]
    fn a_cgroup_is_beneath_its_parent() {
        assert_eq!(cgroup_path("", "hull", "x"), "/hull/x");
        assert_eq!(cgroup_path("/a/../b/", "hull", "x"), "/b/x");
        assert_eq!(cgroup_path("/", "hull", "x"), "/x");
    }
}
