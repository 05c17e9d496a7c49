//! Profiles in Docker's format: from that, which has conditions on capabilities, processors and the
//! kernel's version, to the runtime specification's, which has none.

use std::path::PathBuf;

use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

/// A profile as Docker writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: Option<LinuxSeccompAction>,
    default_errno_ret: Option<u32>,
    /// Which architectures it is for, whatever the machine is.
    architectures: Option<Vec<String>>,
    /// Which architectures come with which machine.
    arch_map: Option<Vec<Family>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Entry>>,
}

/// An architecture and those that its processors execute as well.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Family {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

/// What happens to some calls, and when that holds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

/// A condition of an entry.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// The machine that a profile is for.
struct Machine {
    /// As Go calls the processor, which is how profiles do.
    architecture: &'static str,
    /// The kernel's version, its first two numbers.
    kernel: (u32, u32),
}

impl Machine {
    fn this() -> Machine {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        Machine { architecture, kernel: version(&release).unwrap_or_default() }
    }

    /// As libseccomp calls the processor.
    fn seccomp_name(&self) -> &'static str {
        if self.architecture == "arm64" { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" }
    }
}

/// A profile as the runtime takes it, for a container with these capabilities; nothing where the profile says nothing.
///
/// # Errors
/// It is no profile.
pub fn of_docker(json: &str, bounding: &Capabilities) -> Result<Option<LinuxSeccomp>, String> {
    convert(json, bounding, &Machine::this())
}

fn convert(json: &str, bounding: &Capabilities, machine: &Machine) -> Result<Option<LinuxSeccomp>, String> {
    let profile: Profile = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let entries = profile.syscalls.unwrap_or_default();
    let default = match profile.default_action {
        Some(action) => action,
        None if entries.is_empty() => return Ok(None),
        None => return Err("defaultAction is missing".to_owned()),
    };
    let listed = profile.architectures.unwrap_or_default();
    let families = profile.arch_map.unwrap_or_default();
    if !listed.is_empty() && !families.is_empty() {
        return Err(either("architectures", "archMap"));
    }
    let mut architectures = known(&listed)?;
    if let Some(family) = families.iter().find(|family| family.architecture == machine.seccomp_name()) {
        architectures.extend(known(std::slice::from_ref(&family.architecture))?);
        architectures.extend(known(family.sub_architectures.as_deref().unwrap_or_default())?);
    }
    let mut calls: Vec<LinuxSyscall> = Vec::new();
    for entry in entries {
        if !entry.name.is_empty() && entry.names.as_ref().is_some_and(|names| !names.is_empty()) {
            return Err(either("name", "names"));
        }
        if applies(&entry, bounding, machine)? {
            calls.push(call(entry).map_err(|error| error.to_string())?);
        }
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp.set_default_action(default);
    seccomp.set_default_errno_ret(profile.default_errno_ret);
    seccomp.set_architectures(Some(architectures));
    seccomp.set_flags(profile.flags);
    seccomp.set_listener_path(profile.listener_path.filter(|path| !path.as_os_str().is_empty()));
    seccomp.set_listener_metadata(profile.listener_metadata.filter(|text| !text.is_empty()));
    seccomp.set_syscalls(Some(calls));
    Ok(Some(seccomp))
}

fn either(one: &str, other: &str) -> String {
    format!(
        "both '{one}' and '{other}' are specified in the seccomp profile, use either '{one}' or '{other}'"
    )
}

/// The architectures of these names. One that the specification has no word for is none that this machine executes.
fn known(names: &[String]) -> Result<Vec<Arch>, String> {
    let mut known = Vec::new();
    for name in names {
        match serde_json::from_value(name.as_str().into()) {
            Ok(architecture) => known.push(architecture),
            Err(_) if name.starts_with("SCMP_ARCH_") => {}
            Err(_) => return Err(format!("unknown architecture {name:?}")),
        }
    }
    Ok(known)
}

/// Whether an entry's conditions hold: none of what excludes it, all of what it needs.
fn applies(entry: &Entry, bounding: &Capabilities, machine: &Machine) -> Result<bool, String> {
    let none = Filter::default();
    let (excludes, includes) =
        (entry.excludes.as_ref().unwrap_or(&none), entry.includes.as_ref().unwrap_or(&none));
    let here = |filter: &Filter| filter.arches.iter().flatten().any(|name| name == machine.architecture);
    let holds = |name: &String| {
        bounding.iter().any(|capability| name.strip_prefix("CAP_") == Some(&capability.to_string()))
    };
    let excluded = here(excludes)
        || excludes.caps.iter().flatten().any(holds)
        || is_at_least(excludes, machine)?.unwrap_or(false);
    let included = (includes.arches.as_ref().is_none_or(Vec::is_empty) || here(includes))
        && includes.caps.iter().flatten().all(holds)
        && is_at_least(includes, machine)?.unwrap_or(true);
    Ok(included && !excluded)
}

/// Whether the kernel is as new as a filter asks, if it asks.
fn is_at_least(filter: &Filter, machine: &Machine) -> Result<Option<bool>, String> {
    let Some(text) = filter.min_kernel.as_deref() else { return Ok(None) };
    let least = version(text).ok_or_else(|| format!("invalid kernel version: {text:?}"))?;
    Ok(Some(machine.kernel >= least))
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

fn call(entry: Entry) -> Result<LinuxSyscall, oci_spec::OciSpecError> {
    let names = if entry.name.is_empty() { entry.names.unwrap_or_default() } else { vec![entry.name] };
    let mut call = LinuxSyscallBuilder::default()
        .names(names)
        .action(entry.action)
        .args(entry.args.unwrap_or_default())
        .build()?;
    call.set_errno_ret(entry.errno_ret);
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;

    const OLD: Machine = Machine { architecture: "amd64", kernel: (4, 4) };
    const NEW: Machine = Machine { architecture: "arm64", kernel: (6, 1) };

    /// The names of the calls that a profile speaks of for a machine.
    fn names(json: &str, bounding: &[Capability], machine: &Machine) -> Vec<String> {
        let bounding = bounding.iter().copied().collect();
        let seccomp = convert(json, &bounding, machine).unwrap().unwrap();
        seccomp.syscalls().iter().flatten().flat_map(|call| call.names().clone()).collect()
    }

    #[test]
    fn conditions_choose_the_entries() {
        let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["always"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}},
            {"name": "old-name", "action": "SCMP_ACT_ALLOW"},
            {"names": ["admin"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["both"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}},
            {"names": ["not-admin"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
            {"names": ["not-arm"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
            {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["not-new"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}}]}"#;
        assert_eq!(names(json, &[], &OLD), ["always", "old-name", "not-admin", "not-arm", "not-new"]);
        assert_eq!(names(json, &[Capability::SysAdmin], &NEW), ["always", "old-name", "admin", "arm", "new"]);
        assert!(names(json, &[Capability::SysAdmin, Capability::Bpf], &NEW).contains(&"both".to_owned()));
    }

    #[test]
    fn architectures_come_with_the_machine() {
        let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [
            {"architecture": "SCMP_ARCH_LOONGARCH64", "subArchitectures": null},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}]}"#;
        let seccomp = |machine| convert(json, &Capabilities::new(), machine).unwrap().unwrap();
        let x86 = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
        assert_eq!(seccomp(&OLD).architectures().as_deref(), Some(&x86[..]));
        assert_eq!(seccomp(&NEW).architectures().as_deref(), Some(&[][..]));
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for (json, why) in [
            ("{", "EOF"),
            (r#"{"defaultAction": "SCMP_ACT_NONSENSE"}"#, "unknown variant"),
            (r#"{"syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW"}]}"#, "defaultAction"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                    "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
                "both 'architectures' and 'archMap'",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                    {"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]}"#,
                "both 'name' and 'names'",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                    {"name": "a", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}}]}"#,
                "invalid kernel version",
            ),
        ] {
            let error = convert(json, &Capabilities::new(), &OLD).unwrap_err();
            assert!(error.contains(why), "{json}: {error}");
        }
        // Neither an action nor calls: Docker takes it for no profile at all.
        assert!(convert("{}", &Capabilities::new(), &OLD).unwrap().is_none());
    }
}
