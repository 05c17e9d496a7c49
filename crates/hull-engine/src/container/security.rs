//! What a container may do: capabilities, the system call filter, `--security-opt`, `--sysctl`.

use std::collections::HashSet;
use std::str::FromStr;

use hull_runtime::protocol::Seccomp;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxSeccomp};

use super::devices::devices_of;
use crate::config::DefaultSeccomp;
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

/// What `--security-opt` comes to.
#[derive(Default)]
pub(super) struct Security {
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: SeccompChoice,
    /// The AppArmor profile: the one that was asked for, or the default that is loaded; none: there is none of either.
    pub(super) apparmor: Option<String>,
    /// `systempaths=unconfined`: nothing is masked or read-only.
    pub(super) unmasked: bool,
    /// The container's own cgroups are writable in it.
    pub(super) writable_cgroups: bool,
}

/// Which system call filter was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum SeccompChoice {
    /// The daemon's.
    #[default]
    Default,
    /// hull's own.
    BuiltIn,
    /// A profile of one's own, in Docker's format.
    Profile(String),
    Unconfined,
}

/// Reads `--security-opt`.
///
/// # Errors
/// What is unknown, or what this machine has not got.
pub(super) fn security(host: &HostConfig) -> Result<Security> {
    let mut security = Security::default();
    if host.privileged {
        security.seccomp = SeccompChoice::Unconfined;
        security.writable_cgroups = true;
    }
    for option in host.security_opt.iter().flatten() {
        match option.as_str() {
            "no-new-privileges" => security.no_new_privileges = true,
            // `label=disable`, in its oldest spelling: `selinux.rs`.
            "disable" => {}
            option => {
                let (name, value) = option
                    .split_once('=')
                    .or_else(|| option.split_once(':'))
                    .ok_or_else(|| Error::invalid(format!("invalid --security-opt 1: {option:?}")))?;
                security.take(option, name, value)?;
            }
        }
    }
    if security.apparmor.is_none() && !host.privileged {
        security.apparmor = hull_runtime::apparmor::default_profile().map(str::to_owned);
    }
    Ok(security)
}

impl Security {
    fn take(&mut self, option: &str, name: &str, value: &str) -> Result<()> {
        let invalid = || Error::invalid(format!("invalid --security-opt 2: {option:?}"));
        match (name, value) {
            ("no-new-privileges", value) => self.no_new_privileges = truth(value).ok_or_else(invalid)?,
            ("writable-cgroups", value) => self.writable_cgroups = truth(value).ok_or_else(invalid)?,
            ("seccomp", "unconfined") => self.seccomp = SeccompChoice::Unconfined,
            ("seccomp", "builtin") => self.seccomp = SeccompChoice::BuiltIn,
            ("seccomp", profile) => self.seccomp = SeccompChoice::Profile(profile.to_owned()),
            ("apparmor", profile) => self.apparmor = Some(profile.to_owned()),
            // Read in `selinux.rs`, where the daemon gives labels.
            ("label", _) => {}
            ("systempaths", "unconfined") => self.unmasked = true,
            _ => return Err(invalid()),
        }
        Ok(())
    }
}

/// A truth value in any of Go's spellings.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Checks what a start will need of the host's configuration.
pub(super) fn check(host: &HostConfig) -> Result<()> {
    let security = security(host)?;
    let capabilities = capabilities(host)?;
    if let SeccompChoice::Profile(profile) = &security.seccomp {
        profile_of(profile, &capabilities)?;
    }
    if let Some(profile) = &security.apparmor {
        hull_runtime::container::check_apparmor(profile)
            .map_err(|error| Error::invalid(error.to_string()))?;
    }
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

fn profile_of(json: &str, capabilities: &Capabilities) -> Result<Option<LinuxSeccomp>> {
    hull_runtime::seccomp::of_docker(json, capabilities)
        .map_err(|why| Error::invalid(format!("decoding seccomp profile failed: {why}")))
}

/// The system call filter of a container: which, and where it is a profile of one's own or of the daemon's, that.
pub(super) fn seccomp(
    host: &HostConfig,
    default: &DefaultSeccomp,
) -> Result<(Seccomp, Option<LinuxSeccomp>)> {
    let profile = match (security(host)?.seccomp, default) {
        (SeccompChoice::Profile(profile), _) => profile,
        (SeccompChoice::Default, DefaultSeccomp::Profile { json, .. }) => json.clone(),
        (SeccompChoice::BuiltIn, _) | (SeccompChoice::Default, DefaultSeccomp::BuiltIn) => {
            return Ok((Seccomp::Default, None));
        }
        (SeccompChoice::Unconfined, _) | (SeccompChoice::Default, DefaultSeccomp::Unconfined) => {
            return Ok((Seccomp::Unconfined, None));
        }
    };
    Ok(match profile_of(&profile, &capabilities(host)?)? {
        Some(profile) => (Seccomp::Spec, Some(profile)),
        None => (Seccomp::Unconfined, None),
    })
}

/// Whether a profile for all containers can be read.
///
/// # Errors
/// It is none in Docker's format.
pub fn check_profile(json: &str) -> Result<()> {
    profile_of(json, &capabilities(&HostConfig::default())?).map(drop)
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
    fn security_options_are_read_as_docker_does() {
        let of = |options: &[&str]| {
            security(&HostConfig { security_opt: words(options), ..HostConfig::default() })
        };
        assert!(of(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(of(&["no-new-privileges:true"]).unwrap().no_new_privileges);
        assert!(!of(&["no-new-privileges", "no-new-privileges=0"]).unwrap().no_new_privileges);
        assert!(of(&["writable-cgroups=True"]).unwrap().writable_cgroups);
        assert!(of(&["systempaths=unconfined", "label=disable", "label:disable"]).unwrap().unmasked);
        let json = r#"{"a": "b:c=d"}"#;
        let profile = of(&[&format!("seccomp={json}")]).unwrap().seccomp;
        assert_eq!(profile, SeccompChoice::Profile(json.to_owned()));
        for (option, why) in [
            ("nonsense", "invalid --security-opt 1: \"nonsense\""),
            ("nonsense=x", "invalid --security-opt 2: \"nonsense=x\""),
            ("no-new-privileges=maybe", "invalid --security-opt 2"),
            ("writable-cgroups=", "invalid --security-opt 2"),
            ("systempaths=confined", "invalid --security-opt 2"),
        ] {
            let error = of(&[option]).err().unwrap();
            assert!(error.message.contains(why), "{option}: {}", error.message);
        }
    }

    #[test]
    fn the_privileged_have_no_filter_but_what_they_ask_for() {
        let of = |options: &[&str]| {
            let host = HostConfig { privileged: true, security_opt: words(options), ..HostConfig::default() };
            security(&host).unwrap().seccomp
        };
        assert_eq!(of(&[]), SeccompChoice::Unconfined);
        assert_eq!(of(&["seccomp={}"]), SeccompChoice::Profile("{}".to_owned()));
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
