//! A bundle's configuration, read and looked through before anything is made.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxIdMapping, LinuxNamespaceType, Mount, Process, Spec};
use serde_json::Value;

use super::{Create, crun};
use crate::error::Context;
use crate::{Error, Result, container};

/// A configuration, with the text that it was read from.
pub(super) struct Config {
    pub(super) spec: Spec,
    pub(super) text: Vec<u8>,
    /// The folder of the bundle, from the root.
    pub(super) bundle: PathBuf,
    /// What it asks for and does not get.
    pub(super) warnings: Vec<String>,
    /// A socket that gets a pidfd of the first process, by an annotation of crun's.
    pub(super) pidfd_receiver: Option<PathBuf>,
}

/// Reads `config.json` of a bundle, or the file that stands for it.
pub(super) fn read(create: &Create) -> Result<Config> {
    let Create { bundle, config, crun_annotations, .. } = create;
    let path = config.as_deref().map_or_else(|| bundle.join("config.json"), Path::to_path_buf);
    let doing = || format!("read the configuration {}", path.display());
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let advice = "a bundle is a folder with a config.json; `hull oci spec` writes one to begin with";
            return Err(Error::kernel(doing(), error).advise(advice));
        }
        text => text.context(doing)?,
    };
    let (mut spec, text, mut warnings) = match serde_json::from_slice(&text) {
        Ok(spec) => (spec, text, Vec::new()),
        Err(error) => as_the_field_reads(&text).ok_or_else(|| Error::refused(doing(), error.to_string()))?,
    };
    warnings.extend(from_the_root(&mut spec));
    let bundle = std::fs::canonicalize(bundle).context(doing)?;
    let of_file = |error: Error| Error { doing: format!("{}: {}", doing(), error.doing), ..error };
    crun::read_mappings(&mut spec).map_err(of_file)?;
    let pidfd_receiver =
        if *crun_annotations { crun::read_annotations(&mut spec).map_err(of_file)? } else { None };
    warnings.extend(without_words_of_no_bind(&mut spec));
    check(&spec).map_err(of_file)?;
    if let Some(root) = spec.root_mut() {
        let path = bundle.join(root.path());
        check_root(&path)?;
        root.set_path(path);
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if let Some(source) = mount.source().as_ref().filter(|source| source.is_relative() && is_bind(mount))
        {
            let source = bundle.join(source);
            mount.set_source(Some(source));
        }
    }
    Ok(Config { spec, text, bundle, warnings, pidfd_receiver })
}

/// Relative destinations, which older tools write, are from the root: the specification has it so. Returns the warnings.
fn from_the_root(spec: &mut Spec) -> Vec<String> {
    let mut warnings = Vec::new();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let destination = mount.destination();
        if destination.is_relative() && !destination.as_os_str().is_empty() {
            let word = destination.display();
            warnings.push(format!("mount destination {word} is not absolute: it is taken as /{word}"));
            mount.set_destination(Path::new("/").join(destination));
        }
    }
    warnings
}

/// What is no option of a bind is left out of it, as the kernel does by `mount(2)`. Returns the warnings.
fn without_words_of_no_bind(spec: &mut Spec) -> Vec<String> {
    let mut warnings = Vec::new();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let unknown = container::not_of_a_bind(mount);
        if unknown.is_empty() {
            continue;
        }
        let mut words = mount.options().clone().unwrap_or_default();
        words.retain(|word| !unknown.contains(word));
        mount.set_options(Some(words));
        let (place, unknown) = (mount.destination().display(), unknown.join(","));
        warnings
            .push(format!("a bind mount has no such option, and the one on {place} goes without: {unknown}"));
    }
    warnings
}

fn check_root(path: &Path) -> Result<()> {
    let doing = || format!("invalid rootfs {}", path.display());
    if std::fs::metadata(path).context(doing)?.is_dir() {
        Ok(())
    } else {
        Err(Error::kernel(doing(), std::io::Error::from_raw_os_error(libc::ENOTDIR)))
    }
}

/// Whether a mount's source is a path, which a relative one has from the bundle's folder.
fn is_bind(mount: &Mount) -> bool {
    let words = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind") || words.into_iter().any(|word| word == "bind" || word == "rbind")
}

/// The configuration as other runtimes read it: less the capabilities that this hull does not know, for whoever wrote it
/// may know a newer kernel; and a process without a user is root's. None where something else is wrong with it too.
fn as_the_field_reads(text: &[u8]) -> Option<(Spec, Vec<u8>, Vec<String>)> {
    let mut config: Value = serde_json::from_slice(text).ok()?;
    let warnings = mend(config.get_mut("process")?);
    let text = serde_json::to_vec(&config).ok()?;
    Some((serde_json::from_value(config).ok()?, text, warnings))
}

/// A process as the specification has it, and what it asks for and does not get.
///
/// # Errors
/// It is none.
pub fn read_process(text: &[u8]) -> Result<(Process, Vec<String>)> {
    let error = match serde_json::from_slice(text) {
        Ok(process) => return Ok((process, Vec::new())),
        Err(error) => Error::refused("read the process", error.to_string()),
    };
    let again = || {
        let mut process: Value = serde_json::from_slice(text).ok()?;
        let warnings = mend(&mut process);
        Some((serde_json::from_value(process).ok()?, warnings))
    };
    again().ok_or(error)
}

/// Makes a process readable that lacks only what others do without: one without a user is root's, as with runc and crun.
/// Returns the warnings of what is left out.
fn mend(process: &mut Value) -> Vec<String> {
    if let Some(process) = process.as_object_mut()
        && process.get("user").is_none_or(Value::is_null)
    {
        process.insert("user".to_owned(), serde_json::json!({ "uid": 0, "gid": 0 }));
    }
    drop_unknown_capabilities(process).into_iter().collect()
}

/// Takes them out of a process's sets, and gives back the words of warning.
fn drop_unknown_capabilities(process: &mut Value) -> Option<String> {
    let mut unknown = Vec::new();
    for set in process.get_mut("capabilities")?.as_object_mut()?.values_mut() {
        let Some(names) = set.as_array_mut() else { continue };
        names.retain(|name| {
            let known = !name.is_string() || serde_json::from_value::<Capability>(name.clone()).is_ok();
            if let (false, Some(name)) = (known, name.as_str().map(str::to_owned)) {
                unknown.push(name);
            }
            known
        });
    }
    unknown.sort_unstable();
    unknown.dedup();
    (!unknown.is_empty())
        .then(|| format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" ")))
}

fn check(spec: &Spec) -> Result<()> {
    check_version(spec.version())?;
    if spec.root().as_ref().is_none_or(|root| root.path().as_os_str().is_empty()) {
        return Err(Error::refused("root.path", "the configuration names no root file system"));
    }
    if spec.linux().is_none() {
        return Err(Error::refused("linux", "the configuration is not one of a Linux container"));
    }
    check_process(spec.process().as_ref())?;
    for mount in spec.mounts().iter().flatten() {
        if !mount.destination().is_absolute() {
            let doing = format!("mount destination {}", mount.destination().display());
            return Err(Error::refused(doing, "it is not absolute"));
        }
    }
    check_namespaces(spec)?;
    check_names(spec)?;
    check_device_rules(spec)?;
    super::net_devices::check(spec)?;
    check_hooks(spec)
}

/// The specification has it a version by SemVer 2.0; what a later one of the same major number adds is ignored by older
/// runtimes, another one may mean anything.
fn check_version(version: &str) -> Result<()> {
    let doing = || format!("ociVersion {version:?}");
    match major_of(version) {
        Some(1) => Ok(()),
        Some(_) => {
            let reason = format!(
                "hull follows the runtime specification 1, up to {}: write the bundle for that",
                super::SPECIFICATION
            );
            Err(Error::refused(doing(), reason))
        }
        None => Err(Error::refused(doing(), "it is no version such as 1.0.2 or 1.2.0-rc.1 (SemVer 2.0)")),
    }
}

/// The major number of a version by SemVer 2.0; none: it is none.
fn major_of(version: &str) -> Option<u64> {
    let (version, build) = version.split_once('+').map_or((version, None), |(v, build)| (v, Some(build)));
    let (core, early) = version.split_once('-').map_or((version, None), |(core, early)| (core, Some(early)));
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = |word: &str| is_number(word) && (word == "0" || !word.starts_with('0'));
    let numbers: Vec<&str> = core.split('.').collect();
    let valid = numbers.len() == 3
        && numbers.iter().all(|number| is_plain(number))
        && early.is_none_or(|words| {
            words.split('.').all(|word| is_word(word) && (!is_number(word) || is_plain(word)))
        })
        && build.is_none_or(|words| words.split('.').all(is_word));
    numbers.first().filter(|_| valid)?.parse().ok()
}

/// Looks a process through that is to be executed.
pub(super) fn check_process(process: Option<&Process>) -> Result<()> {
    let Some(process) = process else {
        return Err(Error::refused("process", "process property must not be empty"));
    };
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::refused("process.args", "args must not be empty"));
    }
    if process.cwd().as_os_str().is_empty() {
        return Err(Error::refused("process.cwd", "Cwd property must not be empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::refused("process.cwd", "Cwd must be an absolute path"));
    }
    let mut limited = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        if limited.contains(&limit.typ()) {
            return Err(Error::refused(format!("process.rlimits: {}", limit.typ()), "it is there twice"));
        }
        limited.push(limit.typ());
    }
    let is_variable = |word: &&String| !word.starts_with('=') && word.contains('=');
    match process.env().iter().flatten().find(|word| !is_variable(word)) {
        Some(word) => {
            let doing = format!("process.env: invalid environment variable: {word:?}");
            Err(Error::refused(doing, "it is NAME=VALUE"))
        }
        None => Ok(()),
    }
}

/// Looks through the names that a container gives itself, which are its own in a namespace of its own.
fn check_names(spec: &Spec) -> Result<()> {
    let parameters = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    if parameters.into_iter().flatten().any(|(name, _)| name.replace('/', ".") == "kernel.hostname") {
        let reason = "it is not allowed as it conflicts with the OCI \"hostname\" field";
        return Err(Error::refused("sysctl \"kernel.hostname\"", reason));
    }
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    if namespaces.into_iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::Uts) {
        return Ok(());
    }
    let names = [("hostname", spec.hostname()), ("domainname", spec.domainname())];
    match names.into_iter().find(|(_, name)| name.as_ref().is_some_and(|name| !name.is_empty())) {
        Some((kind, _)) => {
            let reason = format!("unable to set {kind} without a private UTS namespace (linux.namespaces)");
            Err(Error::refused(kind, reason))
        }
        None => Ok(()),
    }
}

fn check_namespaces(spec: &Spec) -> Result<()> {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let mut seen: Vec<LinuxNamespaceType> = Vec::new();
    for namespace in listed.into_iter().flatten() {
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return Err(Error::refused(format!("linux.namespaces: {kind}"), "it is there twice"));
        }
        if let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty())
            && !path.is_absolute()
        {
            let doing = format!("linux.namespaces: {kind}: path {}", path.display());
            return Err(Error::refused(doing, "it is not absolute"));
        }
        seen.push(kind);
    }
    let given = |mappings: &Option<Vec<LinuxIdMapping>>| mappings.as_ref().is_some_and(|all| !all.is_empty());
    let mapped = spec.linux().as_ref().is_some_and(|l| given(l.uid_mappings()) || given(l.gid_mappings()));
    if mapped && !seen.contains(&LinuxNamespaceType::User) {
        let reason = "there is no user namespace of the container's own (linux.namespaces)";
        return Err(Error::refused("linux.uidMappings, linux.gidMappings", reason));
    }
    Ok(())
}

/// Looks the rules through of which devices may be used: what a rule allows or takes away is reading, writing and making.
fn check_device_rules(spec: &Spec) -> Result<()> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_ref());
    let words = rules.into_iter().flatten().filter_map(|rule| rule.access().as_deref());
    match words.into_iter().find(|word| word.is_empty() || !word.chars().all(|letter| "rwm".contains(letter)))
    {
        Some(word) => {
            let doing = format!("linux.resources.devices: access {word:?}");
            Err(Error::refused(doing, "it is made of r, w and m"))
        }
        None => Ok(()),
    }
}

/// Looks the hooks through: each is a program by its whole path, with a time limit that can pass.
fn check_hooks(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    // Read by its name though it is deprecated: there are configurations that have it.
    #[allow(deprecated)]
    let points = [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    for hook in points.into_iter().flatten().flatten() {
        let doing = || format!("hook {}", hook.path().display());
        if !hook.path().is_absolute() {
            return Err(Error::refused(doing(), "its path is not absolute"));
        }
        if let Some(word) = hook.env().iter().flatten().find(|word| !word.contains('=')) {
            return Err(Error::refused(doing(), format!("its variable {word:?} has no value")));
        }
        if hook.timeout().is_some_and(|seconds| seconds <= 0) {
            return Err(Error::refused(doing(), "its timeout is not greater than 0"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_one_of_the_specification_1() {
        for version in ["1.0.0", "1.0.2-dev", "1.3.0", "1.12.0-rc.1", "1.0.2+vendor.7", "1.0.0-0a"] {
            check_version(version).unwrap();
        }
        for version in ["2.0.0", "0.5.0", "10.0.0"] {
            let error = check_version(version).unwrap_err().to_string();
            assert!(error.contains("follows the runtime specification 1"), "{version}: {error}");
        }
        for version in [
            "", "1", "1.0", "1.x.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0+", "1.0.0.0", "1.0.-1",
            " 1.0.0",
        ] {
            let error = check_version(version).unwrap_err().to_string();
            assert!(error.contains("no version"), "{version}: {error}");
        }
    }
}
