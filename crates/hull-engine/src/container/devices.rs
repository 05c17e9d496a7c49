//! The devices of a container: their nodes, and the rules of its cgroup for them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType};

use super::resources;
use crate::model::{DeviceMapping, HostConfig};
use crate::{Error, Result};

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
pub(super) fn devices(host: &HostConfig) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
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
pub(super) fn devices_of(mapping: &DeviceMapping) -> Result<Vec<(LinuxDevice, String)>> {
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

/// The device node of the host at a path, as one of the container at another.
pub(super) fn host_device(outside: &Path, inside: PathBuf) -> std::result::Result<LinuxDevice, String> {
    let metadata = fs::metadata(outside).map_err(|error| error.to_string())?;
    device(&metadata, inside).ok_or_else(|| "it is not a device node".to_owned())
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
