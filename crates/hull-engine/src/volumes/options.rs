//! The options of a volume, `type`, `device` and `o`, as `mount(8)` would take them: read, mounted, unmounted.

use std::collections::BTreeMap;
use std::ffi::CString;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::{Volume, network};
use crate::{Error, Result};

/// Whether something is mounted over the volume while it is used.
pub(super) fn is_mount(options: &BTreeMap<String, String>) -> bool {
    options.contains_key("device")
}

/// The options that are about the volume's own folder, and not about what is mounted over it.
pub(super) fn own(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    options
        .iter()
        .filter(|(name, _)| *name == "size")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The most bytes that the volume's own folder may have.
///
/// # Errors
/// It is no size.
pub(super) fn size(options: &BTreeMap<String, String>) -> Result<Option<u64>> {
    let Some(text) = options.get("size") else { return Ok(None) };
    let bytes = crate::size::parse(text).ok_or_else(|| Error::invalid(format!("invalid size: '{text}'")))?;
    Ok((bytes > 0).then_some(bytes))
}

/// What `o` says.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MountFlags,
    bind: bool,
    propagation: Option<MountPropagationFlags>,
    /// What the file system itself is to read.
    data: Vec<String>,
}

/// Whether the options are such as can be mounted.
///
/// # Errors
/// One that is not known, or one that another needs is missing; in Docker's words.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<()> {
    if let Some(name) = options.keys().find(|name| !matches!(name.as_str(), "type" | "device" | "o" | "size"))
    {
        return Err(Error::invalid(format!("invalid option: {name:?}")));
    }
    if size(options)?.is_some() && is_mount(options) {
        return Err(Error::invalid(
            "invalid option: \"size\": it limits the volume's own folder, and not what is mounted over it; a tmpfs has its \
             size in o=size=…",
        ));
    }
    let needs: [(&str, &[&str]); 3] =
        [("device", &["type"]), ("type", &["device"]), ("o", &["device", "type"])];
    for (_, needed) in needs.iter().filter(|(name, _)| options.contains_key(*name)) {
        if let Some(missing) = needed.iter().find(|needed| !options.contains_key(**needed)) {
            return Err(Error::invalid(format!("missing required option: {missing:?}")));
        }
    }
    if let Some(text) = options.get("o") {
        let parsed = parse(text)?;
        let device = options.get("device").map(String::as_str).unwrap_or_default();
        if parsed.bind && !device.starts_with('/') {
            return Err(Error::invalid(format!("invalid device {device:?}: a bind needs an absolute path")));
        }
    }
    Ok(())
}

/// Whether options would bring something that is not the volume's own: the host's files, a disk, a server's files. It is
/// answered by how they are mounted: `type=tmpfs` beside `o=bind` is a bind.
pub fn bring_others_files(options: &BTreeMap<String, String>) -> bool {
    let option = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
    let in_memory = option("type") == "tmpfs" && parse(option("o")).is_ok_and(|parsed| !parsed.bind);
    is_mount(options) && !in_memory
}

/// Mounts what the options name over the volume's folder, unless it is mounted there already.
pub(super) fn mount(volume: &Volume) -> Result<()> {
    let option = |name: &str| volume.options.get(name).map(String::as_str).unwrap_or_default();
    let (device, kind) = (option("device"), option("type"));
    if device.is_empty() || is_mounted(volume)? {
        return Ok(());
    }
    let options = parse(option("o"))?;
    let target = volume.mountpoint.as_path();
    let (device, words) = network::resolved(device, &options.data, kind)?;
    let device = device.as_str();
    let failed = |error: Errno| {
        let kind = if options.bind { "bind" } else { kind };
        let advice = what_to_do(error, kind, device);
        let error = Error::system(
            format_args!(
                "failed to mount local volume: mount {device}:{} ({kind}), flags: {:#x}, data: {}",
                target.display(),
                options.flags.bits(),
                network::without_secrets(&words)
            ),
            error,
        );
        match advice {
            Some(advice) => Error { message: format!("{}: {advice}", error.message), ..error },
            None => error,
        }
    };
    let data = words.join(",");
    let data = CString::new(data).map_err(|_| Error::invalid("a volume option has a zero byte"))?;
    if options.bind {
        let recursive = options.flags.contains(MountFlags::from_bits_retain(REC));
        let bound = if recursive {
            rustix::mount::mount_bind_recursive(device, target)
        } else {
            rustix::mount::mount_bind(device, target)
        };
        bound.map_err(failed)?;
        let rest = options.flags - MountFlags::from_bits_retain(REC);
        if !rest.is_empty() {
            // A bind takes its flags in a second step.
            let again = MountFlags::BIND | rest;
            if let Err(error) = rustix::mount::mount_remount(target, again, c"") {
                unmount(volume)?;
                return Err(failed(error));
            }
        }
    } else {
        rustix::mount::mount(device, target, kind, options.flags, data.as_c_str()).map_err(failed)?;
    }
    if let Some(propagation) = options.propagation
        && let Err(error) = rustix::mount::mount_change(target, propagation)
    {
        unmount(volume)?;
        return Err(failed(error));
    }
    Ok(())
}

/// Unmounts it, if it is mounted.
pub(super) fn unmount(volume: &Volume) -> Result<()> {
    if !is_mounted(volume)? {
        return Ok(());
    }
    rustix::mount::unmount(volume.mountpoint.as_path(), UnmountFlags::DETACH)
        .map_err(|error| Error::system(format_args!("unmount the volume {}", volume.name), error))
}

/// Whether something is mounted over the volume's folder.
fn is_mounted(volume: &Volume) -> Result<bool> {
    // What is known without asking a server, which may be gone.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, volume.mountpoint.as_path(), flags, StatxFlags::TYPE) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(Error::system(
            format_args!("look at the volume's folder {}", volume.mountpoint.display()),
            error,
        )),
    }
}

/// `MS_REC`.
const REC: u32 = 0x4000;

/// Reads `o`: the words that `mount(2)` knows as flags, and what is left for the file system.
fn parse(text: &str) -> Result<Options> {
    let mut options =
        Options { flags: MountFlags::empty(), bind: false, propagation: None, data: Vec::new() };
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let propagation = |flags| Some(Some(flags));
        let flag = match word {
            "ro" => MountFlags::RDONLY,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            "sync" => MountFlags::SYNCHRONOUS,
            "dirsync" => MountFlags::DIRSYNC,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            "strictatime" => MountFlags::STRICTATIME,
            "bind" => {
                options.bind = true;
                continue;
            }
            "rbind" => {
                options.bind = true;
                MountFlags::from_bits_retain(REC)
            }
            // What holds anyway.
            "rw" | "defaults" | "suid" | "dev" | "exec" | "async" | "atime" | "diratime" => continue,
            "remount" => return Err(Error::invalid("invalid option: \"o\": a volume cannot be remounted")),
            other => {
                let change = match other {
                    "private" => propagation(MountPropagationFlags::PRIVATE),
                    "rprivate" => propagation(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
                    "shared" => propagation(MountPropagationFlags::SHARED),
                    "rshared" => propagation(MountPropagationFlags::SHARED | MountPropagationFlags::REC),
                    "slave" => propagation(MountPropagationFlags::DOWNSTREAM),
                    "rslave" => propagation(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC),
                    _ => None,
                };
                match change {
                    Some(change) => options.propagation = change,
                    None => options.data.push(other.to_owned()),
                }
                continue;
            }
        };
        options.flags |= flag;
    }
    if options.bind && !options.data.is_empty() {
        return Err(Error::invalid(format!(
            "invalid option: \"o\": a bind does not know {:?}",
            options.data.join(",")
        )));
    }
    Ok(options)
}

/// What stands in the way where the kernel says it in one word only.
fn what_to_do(errno: Errno, kind: &str, device: &str) -> Option<String> {
    match (errno, kind) {
        (Errno::NODEV, _) => Some(format!(
            "this kernel has no file system {kind}: load its module (modprobe {kind}), or mount it on the host and bind \
             it (o=bind)"
        )),
        (Errno::NOTBLK, _) => {
            Some(format!("{device} is no block device: make one of it first (losetup --find --show {device})"))
        }
        (Errno::NOENT, "nfs" | "nfs4" | "cifs") => Some(format!("the server has no {device}")),
        (Errno::ACCESS | Errno::PERM, "nfs" | "nfs4") => {
            Some("the server does not let this machine have it: look at what it exports, and to whom".to_owned())
        }
        (Errno::ACCESS | Errno::KEYREJECTED, "cifs") => {
            Some("the server refuses who asks: look at username=, password= and domain= in o".to_owned())
        }
        (
            Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NETUNREACH | Errno::TIMEDOUT,
            "nfs" | "nfs4" | "cifs",
        ) => Some("no server answers there: look at addr= and port=, and whether this machine reaches it".to_owned()),
        (Errno::NOENT, _) => Some(format!("there is no {device} on the host")),
        (Errno::INVAL, "nfs" | "nfs4" | "cifs") => Some(
            "the server's address is wanted as addr=, and what else the options say as the kernel reads it, not as \
             mount.nfs or mount.cifs do"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_mount_knows_is_taken_apart() {
        let parsed = parse("ro,nosuid,size=1m, rw,uid=5").unwrap();
        assert_eq!(parsed.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(parsed.data, ["size=1m", "uid=5"]);
        let bind = parse("rbind,rslave").unwrap();
        assert!(bind.bind && bind.propagation.is_some() && bind.flags.bits() == REC);
        assert!(parse("bind,size=1m").is_err() && parse("remount").is_err());
    }

    #[test]
    fn what_is_in_memory_is_nobody_else_s() {
        let others = |list: &[(&str, &str)]| bring_others_files(&options(list));
        assert!(!others(&[]) && !others(&[("size", "1g")]));
        assert!(!others(&[("type", "tmpfs"), ("device", "tmpfs")]));
        assert!(!others(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=5,nosuid")]));
        for o in ["bind", "rbind", "ro, bind", "size=1m,bind", "remount"] {
            assert!(others(&[("type", "tmpfs"), ("device", "/"), ("o", o)]), "{o}");
        }
        assert!(others(&[("type", "none"), ("device", "/srv"), ("o", "bind")]));
        assert!(others(&[("type", "ext4"), ("device", "/dev/sda")]));
    }

    #[test]
    fn options_need_each_other() {
        let refused = |list: &[(&str, &str)]| check(&options(list)).unwrap_err().message;
        assert!(check(&options(&[])).is_ok());
        assert!(check(&options(&[("type", "none"), ("device", "/srv"), ("o", "bind")])).is_ok());
        assert!(refused(&[("type", "tmpfs")]).contains("missing required option: \"device\""));
        assert!(refused(&[("o", "bind"), ("device", "/srv")]).contains("\"type\""));
        assert!(refused(&[("colour", "red")]).contains("invalid option: \"colour\""));
        assert!(refused(&[("size", "x")]).contains("invalid size: 'x'"));
        assert!(check(&options(&[("size", "1g")])).is_ok());
        let mount = [("size", "1g"), ("type", "tmpfs"), ("device", "tmpfs")];
        assert!(refused(&mount).contains("limits the volume's own folder"));
        assert!(refused(&[("type", "none"), ("device", "srv"), ("o", "bind")]).contains("absolute path"));
    }
}
