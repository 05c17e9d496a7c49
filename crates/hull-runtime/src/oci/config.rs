//! A bundle's configuration, read and looked through before anything is made.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Process, Spec};

use crate::error::Context;
use crate::{Error, Result};

/// A configuration, with the text that it was read from.
pub(super) struct Config {
    pub(super) spec: Spec,
    pub(super) text: Vec<u8>,
    /// The folder of the bundle, from the root.
    pub(super) bundle: PathBuf,
}

/// Reads `config.json` of a bundle.
pub(super) fn read(bundle: &Path) -> Result<Config> {
    let path = bundle.join("config.json");
    let doing = || format!("read the configuration {}", path.display());
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let advice = "a bundle is a folder with a config.json; `hull oci spec` writes one to begin with";
            return Err(Error::kernel(doing(), error).advise(advice));
        }
        text => text.context(doing)?,
    };
    let mut spec: Spec =
        serde_json::from_slice(&text).map_err(|error| Error::refused(doing(), error.to_string()))?;
    let bundle = std::fs::canonicalize(bundle).context(doing)?;
    check(&spec).map_err(|error| Error { doing: format!("{}: {}", doing(), error.doing), ..error })?;
    if let Some(root) = spec.root_mut() {
        let path = bundle.join(root.path());
        root.set_path(path);
    }
    Ok(Config { spec, text, bundle })
}

fn check(spec: &Spec) -> Result<()> {
    let version = spec.version();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major != Some(1) {
        let reason = "hull follows the runtime specification 1";
        return Err(Error::refused(format!("ociVersion {version:?}"), reason));
    }
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
    check_hooks(spec)
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
    Ok(())
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
        if hook.timeout().is_some_and(|seconds| seconds < 0) {
            return Err(Error::refused(doing(), "its timeout is below 0"));
        }
    }
    Ok(())
}
