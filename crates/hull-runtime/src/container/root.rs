//! The root file system of a container: assembled in a mount namespace of its own, put over the host's root
//! there, and made the root by `pivot_root`.
//!
//! The mount point of every container is `/` itself: a mount put upon the root hides nothing from a process
//! whose root lies below it, so the host's paths stay usable until the pivot, and no folder has to be made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::{fs, mount, process};

use super::{labels, options};
use crate::error::Context;
use crate::protocol::Rootfs;
use crate::sys::{self, MountAttr};
use crate::{Error, Result};

/// The longest string that `fsconfig` takes, without its end.
const FSCONFIG_MAX: usize = 255;
/// The longest option string of `mount(2)`: a page, without its end.
const MOUNT_MAX: usize = 4095;

/// Parameters that make the upper folder a plain layer, whatever the kernel's defaults are: no redirects (nor
/// trust in those that an image claims), no inode index, no copies of metadata alone.
const PLAIN: [(&str, &str); 3] = [("redirect_dir", "nofollow"), ("index", "off"), ("metacopy", "off")];

/// Cuts the new mount namespace's ties: what is mounted in here is not seen on the host. `rootfsPropagation`
/// may keep the other direction (slave) or both (shared) open for binds that ask for it.
pub(super) fn cut_propagation(spec: &Spec) -> Result<()> {
    let host = fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(|| "open /".into())?;
    let wanted = wanted_propagation(spec)?;
    let everywhere = match wanted {
        Some((libc::MS_SHARED, _)) => None,
        Some((libc::MS_SLAVE, _)) | None => Some(libc::MS_SLAVE),
        Some(_) => Some(libc::MS_PRIVATE),
    };
    if let Some(propagation) = everywhere {
        sys::mount_setattr(host.as_fd(), true, &MountAttr::propagation(propagation))
            .context(|| "cut the mount namespace's propagation to the host".into())?;
    }
    // The root is what the container's root is mounted upon, and that must never propagate.
    sys::mount_setattr(host.as_fd(), false, &MountAttr::propagation(libc::MS_PRIVATE))
        .context(|| "make the root mount private".into())
}

fn wanted_propagation(spec: &Spec) -> Result<Option<(u64, bool)>> {
    let word = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    match word.filter(|word| !word.is_empty()) {
        None => Ok(None),
        Some(word) => options::propagation(word).map(Some).ok_or_else(|| {
            Error::refused(format!("rootfsPropagation {word:?}"), "there is no such propagation")
        }),
    }
}

/// The root file system as a detached mount.
pub(crate) fn detached(spec: &Spec, rootfs: &Rootfs) -> Result<OwnedFd> {
    match rootfs {
        Rootfs::Path => clone_of_path(spec),
        Rootfs::Overlay { lower, upper, work, mapped: false } => {
            overlay(lower, upper, work, labels::of_mounts(spec))
        }
        Rootfs::Overlay { mapped: true, .. } | Rootfs::MappedPath => {
            let reason = "the container has no user namespace to map the ids of its files by";
            Err(Error::refused("mount the root file system", reason))
        }
    }
}

/// Mounts the root file system upon `/`. Returns its root folder.
pub(super) fn assemble(root: OwnedFd) -> Result<OwnedFd> {
    attach(root.as_fd(), CWD, Path::new("/")).context(|| "move the root file system to its place".into())?;
    Ok(root)
}

fn clone_of_path(spec: &Spec) -> Result<OwnedFd> {
    let path = path_of(spec)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = mount::open_tree(CWD, path, flags).context(|| format!("open the root {}", path.display()))?;
    sys::mount_setattr(tree.as_fd(), true, &MountAttr::propagation(libc::MS_PRIVATE))
        .context(|| format!("make the root {} private", path.display()))?;
    Ok(tree)
}

/// Where the configuration has its root.
pub(super) fn path_of(spec: &Spec) -> Result<&Path> {
    match spec.root() {
        Some(root) => Ok(root.path()),
        None => Err(Error::refused("the container's root", "the configuration names none (root.path)")),
    }
}

/// Moves a detached mount to a path beneath `folder`.
pub(crate) fn attach(mounted: BorrowedFd<'_>, folder: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<()> {
    mount::move_mount(mounted, "", folder, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Moves a detached mount onto an opened destination.
pub(super) fn attach_at(mounted: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    mount::move_mount(mounted, "", destination, "", flags)
}

/// A detached overlay of the layers, uppermost first; all files in it have the SELinux label that is given.
pub(crate) fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, label: Option<&str>) -> Result<OwnedFd> {
    let doing = || format!("mount the overlay of {} layers on {}", lower.len(), upper.display());
    if lower.is_empty() {
        return Err(Error::refused(doing(), "an overlay needs at least one layer"));
    }
    match overlay_by_fsopen(lower, upper, work, label) {
        Ok(Some(mounted)) => Ok(mounted),
        Ok(None) => overlay_by_mount(lower, upper, work, label)
            .map_err(|error| if error.doing.is_empty() { Error { doing: doing(), ..error } } else { error }),
        Err((error, said)) => Err(Error::kernel(doing(), error).advise(said)),
    }
}

/// Whether this kernel's overlayfs reads its parameters one by one (since Linux 6.5). An older one takes whatever
/// it is given, and refuses the mount for it in the end, which it also tells the kernel's log.
pub(crate) fn overlay_reads_parameters() -> bool {
    static READS: OnceLock<bool> = OnceLock::new();
    *READS.get_or_init(|| {
        let unknown = |context: OwnedFd| mount::fsconfig_set_string(&context, "no-such-parameter", "");
        let probed = mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).and_then(unknown);
        probed == Err(Errno::INVAL)
    })
}

/// By the new mount calls, one layer a parameter: no limit of a page. Nothing where the kernel's overlayfs
/// does not know `lowerdir+` (before Linux 6.7) or a path is too long for a parameter.
fn overlay_by_fsopen(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    label: Option<&str>,
) -> std::result::Result<Option<OwnedFd>, (Errno, String)> {
    let too_long = |path: &Path| path.as_os_str().len() > FSCONFIG_MAX;
    if too_long(upper)
        || label.is_some_and(|label| label.len() > FSCONFIG_MAX)
        || too_long(work)
        || lower.iter().any(|path| too_long(path))
        || !overlay_reads_parameters()
    {
        return Ok(None);
    }
    let context =
        mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| (error, String::new()))?;
    let failed = |error| (error, said(context.as_fd()));
    for (index, layer) in lower.iter().enumerate() {
        match mount::fsconfig_set_string(&context, "lowerdir+", layer) {
            Err(Errno::INVAL) if index == 0 => return Ok(None),
            result => result.map_err(failed)?,
        }
    }
    mount::fsconfig_set_string(&context, "upperdir", upper).map_err(failed)?;
    mount::fsconfig_set_string(&context, "workdir", work).map_err(failed)?;
    for (key, value) in PLAIN.into_iter().chain(label.map(|label| ("context", label))) {
        mount::fsconfig_set_string(&context, key, value).map_err(failed)?;
    }
    mount::fsconfig_create(&context).map_err(failed)?;
    mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(Some).map_err(failed)
}

/// By `mount(2)`, whose options must fit in a page: the paths are given relative to the folder that all of
/// them share. The overlay is mounted on its own upper folder and detached from there.
pub(super) fn overlay_by_mount(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    label: Option<&str>,
) -> Result<OwnedFd> {
    let shared = shared_folder(lower.iter().map(PathBuf::as_path).chain([upper, work]));
    let relative = |path: &Path| -> String {
        let name = path.strip_prefix(&shared).unwrap_or(path).to_string_lossy();
        // The shared folder itself: the root, where that is a layer.
        let name = if name.is_empty() { ".".into() } else { name };
        name.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
    };
    let layers: Vec<String> = lower.iter().map(|layer| relative(layer)).collect();
    let mut options =
        format!("lowerdir={},upperdir={},workdir={}", layers.join(":"), relative(upper), relative(work));
    for (key, value) in PLAIN {
        options.push_str(&format!(",{key}={value}"));
    }
    if let Some(label) = label {
        options.push(',');
        options.push_str(&crate::selinux::context_option(label)?);
    }
    let doing = || format!("mount the overlay of {} layers on {}", lower.len(), upper.display());
    if options.len() > MOUNT_MAX {
        let advice = format!(
            "this kernel takes {MOUNT_MAX} bytes of layers' names and these need {}: use a shorter data root, \
             or Linux 6.7 or newer",
            options.len()
        );
        return Err(Error::refused(doing(), advice));
    }
    process::chdir(&shared).context(|| format!("enter {}", shared.display()))?;
    let options =
        std::ffi::CString::new(options).map_err(|_| Error::refused(doing(), "a path holds a NUL byte"))?;
    mount::mount("overlay", upper, "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .context(doing)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = mount::open_tree(CWD, upper, flags).context(doing)?;
    // Mounted in the host's namespace (for a user namespace), it is shared as what it was mounted on is, and such a
    // one is never made the root.
    sys::mount_setattr(tree.as_fd(), false, &MountAttr::propagation(libc::MS_PRIVATE)).context(doing)?;
    mount::unmount(upper, UnmountFlags::DETACH).context(doing)?;
    process::chdir("/").context(|| "enter /".into())?;
    Ok(tree)
}

/// The deepest folder that all paths are below.
fn shared_folder<'p>(mut paths: impl Iterator<Item = &'p Path>) -> PathBuf {
    let mut shared = paths.next().and_then(Path::parent).unwrap_or(Path::new("/")).to_path_buf();
    for path in paths {
        while !path.starts_with(&shared) || path == shared {
            if !shared.pop() {
                return PathBuf::from("/");
            }
        }
    }
    shared
}

/// What the kernel has to say about a failed file system context.
pub(super) fn said(context: BorrowedFd<'_>) -> String {
    let mut text = Vec::new();
    let mut line = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        if !text.is_empty() {
            text.extend_from_slice(b"; ");
        }
        // Each message begins with its severity: "e " for an error.
        let message = line[..length].trim_ascii_end();
        text.extend_from_slice(message.strip_prefix(b"e ").unwrap_or(message));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Makes `root` the root and lets go of the host's file systems. `no_pivot`: these stay beneath.
pub(crate) fn enter(root: BorrowedFd<'_>, no_pivot: bool) -> Result<()> {
    process::fchdir(root).context(|| "enter the root file system".into())?;
    if no_pivot {
        process::chroot(".").context(|| "make it the root (chroot)".into())?;
        return process::chdir("/").context(|| "enter the new root".into());
    }
    // The old root is stacked onto the new one, at ".": no folder for it is needed, and one umount rids of it.
    process::pivot_root(".", ".").context(|| "make it the root (pivot_root)".into())?;
    mount::unmount(".", UnmountFlags::DETACH).context(|| "let go of the host's root".into())?;
    process::chdir("/").context(|| "enter the new root".into())
}

/// What is to hold for the new root itself: its propagation, and whether it can be written.
pub(super) fn finish(spec: &Spec, root: BorrowedFd<'_>) -> Result<()> {
    if let Some((propagation, recursive)) = wanted_propagation(spec)? {
        sys::mount_setattr(root, recursive, &MountAttr::propagation(propagation))
            .context(|| "set the root's propagation".into())?;
    }
    if spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
        sys::mount_setattr(root, false, &MountAttr::flags(options::RDONLY, 0))
            .context(|| "make the root read-only".into())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_new_parameter_the_old_call_mounts_the_same() {
        let folder = tempfile::tempdir().unwrap();
        // A name with what separates options and layers.
        let base = folder.path().join("a,b:c");
        let layers: Vec<PathBuf> = (0..60).map(|layer| base.join(format!("l{layer}"))).collect();
        for path in layers.iter().chain(&[base.join("upper"), base.join("work")]) {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(layers[0].join("f"), "uppermost").unwrap();
        std::fs::write(layers[59].join("f"), "lowest").unwrap();
        std::fs::write(layers[59].join("g"), "lowest").unwrap();
        let (upper, work) = (base.join("upper"), base.join("work"));
        let outcome = super::super::tests::in_a_shim(|outcome| {
            sys::unshare_namespaces(libc::CLONE_NEWNS).unwrap();
            cut_propagation(&Spec::default())?;
            let root = overlay_by_mount(&layers, &upper, &work, None)?;
            attach(root.as_fd(), CWD, Path::new("/")).unwrap();
            for name in ["f", "g"] {
                let file = fs::openat(&root, name, OFlags::RDONLY, Mode::empty()).unwrap();
                std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut outcome.output).unwrap();
            }
            fs::openat(&root, "new", OFlags::CREATE | OFlags::WRONLY, Mode::empty()).unwrap();
            Ok(())
        });
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
        assert_eq!(outcome.output, "uppermostlowest");
        assert!(upper.join("new").exists());
    }

    #[test]
    fn the_host_s_root_is_a_layer_by_the_old_call_too() {
        let folder = tempfile::tempdir().unwrap();
        let (upper, work) = (folder.path().join("upper"), folder.path().join("work"));
        [&upper, &work].iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
        let outcome = super::super::tests::in_a_shim(|outcome| {
            sys::unshare_namespaces(libc::CLONE_NEWNS).unwrap();
            cut_propagation(&Spec::default())?;
            let root = overlay_by_mount(&[PathBuf::from("/")], &upper, &work, None)?;
            let found = fs::statat(&root, "etc/passwd", fs::AtFlags::empty());
            outcome.output = found.map_or_else(|error| error.to_string(), |_| "there".to_owned());
            Ok(())
        });
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
        assert_eq!(outcome.output, "there");
    }

    #[test]
    fn too_many_layers_for_the_old_call_are_refused_in_words() {
        let layers: Vec<PathBuf> =
            (0..300).map(|layer| PathBuf::from(format!("/layers/number-{layer}"))).collect();
        let error = overlay_by_mount(&layers, Path::new("/upper"), Path::new("/work"), None).unwrap_err();
        assert!(error.to_string().contains("Linux 6.7 or newer"), "{error}");
    }

    #[test]
    fn the_shared_folder_of_layers() {
        let of = |paths: &[&str]| shared_folder(paths.iter().map(Path::new));
        assert_eq!(of(&["/d/l/1", "/d/l/2", "/d/c/up"]), Path::new("/d"));
        assert_eq!(of(&["/d/l/1", "/d/l/1/x"]), Path::new("/d/l"));
        assert_eq!(of(&["/a/1", "/b/1"]), Path::new("/"));
    }
}
