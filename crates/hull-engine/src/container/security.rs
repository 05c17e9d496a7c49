//! What a container may do: capabilities, the system call filter, `--security-opt`, `--sysctl`.

use std::collections::HashSet;
use std::str::FromStr;

use hull_runtime::protocol::Seccomp;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::Record;
use super::devices::devices_of;
use crate::model::HostConfig;
use crate::{Error, Result};

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

pub(super) fn seccomp(record: &Record) -> Result<Seccomp> {
    Ok(match security(&record.host_config)?.seccomp {
        SeccompChoice::Default => Seccomp::Default,
        SeccompChoice::Unconfined => Seccomp::Unconfined,
    })
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
}
