//! Capabilities, security options, namespaces, sysctls.

use serde_json::Value;

use super::flags::ContainerFlags;
use super::{Object, bad, pairs};
use crate::error::{Error, words};

/// Fills in what keeps a container apart.
pub fn fill(host: &mut Object, flags: &ContainerFlags) -> Result<(), Error> {
    host.flag("Privileged", flags.privileged);
    host.list("CapAdd", flags.cap_add.clone());
    host.list("CapDrop", flags.cap_drop.clone());
    host.list("GroupAdd", flags.group_add.clone());
    let (options, unconfined_paths) = options(&flags.security_opt)?;
    host.list("SecurityOpt", options);
    if unconfined_paths {
        // Two empty lists: nothing is masked, nothing read-only. Absent ones are the defaults.
        host.set("MaskedPaths", Vec::<String>::new());
        host.set("ReadonlyPaths", Vec::<String>::new());
    }
    namespaces(host, flags)?;
    for parameter in &flags.sysctl {
        check_sysctl(parameter).map_err(|why| bad("--sysctl", parameter, why))?;
    }
    host.map("Sysctls", pairs("--sysctl", &flags.sysctl)?);
    host.some("CgroupParent", flags.cgroup_parent.clone());
    host.some("Isolation", flags.isolation.clone());
    host.some("Runtime", flags.runtime.clone());
    Ok(())
}

/// Whether a `--sysctl` is of a kind that a container can have for itself; Docker's list.
fn check_sysctl(parameter: &str) -> Result<(), String> {
    const OF_IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let name = parameter.split_once('=').map(|(name, _)| name);
    match name {
        Some(name)
            if OF_IPC.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.") =>
        {
            Ok(())
        }
        _ => Err(format!("sysctl '{parameter}' is not allowed")),
    }
}

fn namespaces(host: &mut Object, flags: &ContainerFlags) -> Result<(), Error> {
    let valid =
        |flag: &str, value: &Option<String>, fits: fn(&str) -> bool, kind: &str| match value.as_deref() {
            Some(value) if !value.is_empty() && !fits(value) => {
                Err(Error::usage(format!("{flag}: invalid {kind} mode")))
            }
            _ => Ok(()),
        };
    let of_container = |value: &str| value.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    valid("--pid", &flags.pid, |v| v == "host" || v == "private" || v.starts_with("container:"), "PID")?;
    if flags.pid.as_deref().is_some_and(|pid| pid.starts_with("container:") && !of_container(pid)) {
        return Err(Error::usage("--pid: invalid PID mode"));
    }
    valid("--uts", &flags.uts, |v| v == "host", "UTS")?;
    valid("--userns", &flags.userns, |v| v == "host", "USER")?;
    valid("--cgroupns", &flags.cgroupns, |v| v == "host" || v == "private", "CGROUP")?;
    host.some("PidMode", flags.pid.clone().filter(|mode| mode != "private"));
    host.some("UTSMode", flags.uts.clone());
    host.some("UsernsMode", flags.userns.clone());
    host.some("CgroupnsMode", flags.cgroupns.clone());
    host.some("IpcMode", flags.ipc.clone());
    Ok(())
}

/// The security options with a seccomp profile's file read in, and whether the system's paths are to be left open.
fn options(given: &[String]) -> Result<(Vec<String>, bool), Error> {
    let mut options = Vec::new();
    let mut unconfined_paths = false;
    for option in given {
        if option == "systempaths=unconfined" {
            unconfined_paths = true;
            continue;
        }
        // `key:value` is the older spelling.
        let (key, value) = option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, ""));
        if value.is_empty() && key != "no-new-privileges" {
            return Err(Error::usage(format!("Invalid --security-opt: {option:?}")));
        }
        if key == "seccomp" && value != "unconfined" && value != "builtin" {
            options.push(format!("seccomp={}", seccomp_profile(value)?));
        } else {
            options.push(option.clone());
        }
    }
    Ok((options, unconfined_paths))
}

fn seccomp_profile(path: &str) -> Result<String, Error> {
    let text = std::fs::read(path)
        .map_err(|e| Error::usage(format!("opening seccomp profile ({path}) failed: {}", words(&e))))?;
    let profile: Value = serde_json::from_slice(&text)
        .map_err(|e| Error::usage(format!("the seccomp profile ({path}) is no valid JSON: {e}")))?;
    Ok(profile.to_string())
}
