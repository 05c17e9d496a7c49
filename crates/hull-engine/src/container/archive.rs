//! The files of a container from outside: `cp`, `diff`, `export`.
//!
//! All of it blocks and is called on threads that may. Of a container that does not run a view is mounted; its
//! transition is held meanwhile, for one overlay must not be mounted twice.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hull_image::archive::{self, PathStat, Put};
use hull_runtime::container::as_owner;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags, openat2};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::Container;
use super::mounts::MountKind;
use super::view::View;
use crate::{Engine, Error, Kind, Result};

/// So much of a container's `/etc/passwd` and `/etc/group` is read, in bytes.
const ACCOUNTS_MAX: u64 = 4 << 20;

/// How [`Engine::put_archive`] treats what is there, and owners.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// A folder is not replaced by what is none, nor the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// Everything gets the container's user as its owner.
    pub copy_uid_gid: bool,
}

impl Engine {
    /// What is at a path in a container; its last element is not followed.
    ///
    /// # Errors
    /// There is nothing, or the path leads nowhere.
    pub fn stat_archive(
        self: &Arc<Self>,
        container: &Arc<Container>,
        name: &str,
        path: &str,
    ) -> Result<PathStat> {
        self.in_view(container, true, |view| {
            archive::stat(view.root.as_fd(), path).map_err(|error| located(error, name))
        })
    }

    /// Writes what is at a path in a container as a tar. `found` is told first what that is.
    ///
    /// # Errors
    /// There is nothing, or who reads went away.
    pub fn get_archive(
        self: &Arc<Self>,
        container: &Arc<Container>,
        name: &str,
        path: &str,
        found: impl FnOnce(PathStat),
        out: &mut dyn Write,
    ) -> Result<()> {
        self.in_view(container, true, |view| {
            let root = view.root.as_fd();
            found(archive::stat(root, path).map_err(|error| located(error, name))?);
            archive::get(root, path, &view.ids, out).map_err(|error| located(error, name))
        })?;
        self.tell(container, "archive-path");
        Ok(())
    }

    /// Unpacks a tar into a folder of a container.
    ///
    /// # Errors
    /// There is no folder, it is not to be written to, or the archive is malformed. What was unpacked before an
    /// error stays.
    pub fn put_archive(
        self: &Arc<Self>,
        container: &Arc<Container>,
        name: &str,
        path: &str,
        tar: &mut (dyn Read + Send),
        options: PutOptions,
    ) -> Result<()> {
        self.in_view(container, true, |view| {
            let root = view.root.as_fd();
            let (read_only, user) = {
                let record = container.record();
                (record.host_config.readonly_rootfs, record.config.user.clone())
            };
            check_writable(root, path, read_only)?;
            let owner =
                if options.copy_uid_gid && !user.is_empty() { Some(owner(root, &user)?) } else { None };
            let put = Put {
                no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
                owner,
                ids: view.ids.clone(),
                ..Put::default()
            };
            // The host's root has no id on layers that are mapped: who makes files there is the container's.
            let unpacked = match view.ids.root() {
                None => archive::put(root, path, tar, put),
                Some(owner) => as_owner(owner, || archive::put(root, path, tar, put))?,
            };
            unpacked.map_err(|error| located(error, name))
        })?;
        self.tell(container, "extract-to-dir");
        Ok(())
    }

    /// What a container changed against its image.
    ///
    /// # Errors
    /// Its files cannot be read.
    pub fn changes(&self, container: &Container) -> Result<Vec<Value>> {
        let changes = self.images.changes(&container.id).map_err(crate::images::error)?;
        let shown = |change: hull_image::Change| json!({ "Path": change.path, "Kind": change.kind as u8 });
        Ok(changes.into_iter().map(shown).collect())
    }

    /// Writes a container's own file system as a tar, without what is mounted in it.
    ///
    /// # Errors
    /// Its files cannot be read, or who reads went away.
    pub fn export(self: &Arc<Self>, container: &Arc<Container>, out: &mut dyn Write) -> Result<()> {
        self.in_view(container, false, |view| {
            archive::export(view.root.as_fd(), &view.ids, out).map_err(crate::images::error)
        })?;
        self.tell(container, "export");
        Ok(())
    }

    /// Does something with a container's root, whether it runs or not; `mounts`: with what is mounted in it, where
    /// it does not run.
    fn in_view<T>(
        self: &Arc<Self>,
        container: &Arc<Container>,
        mounts: bool,
        work: impl FnOnce(&View) -> Result<T>,
    ) -> Result<T> {
        if container.record().is_running() {
            return work(&Handle::current().block_on(self.view(container))?);
        }
        // A start waits for its turn, as it does in Docker.
        let _transition = container.transition.blocking_lock();
        let record = container.record().clone();
        let with_mounts = mounts && !record.is_running();
        let volumes = record.mounts.iter().filter(|plan| with_mounts && plan.kind == MountKind::Volume);
        let _held = self.volumes.hold_mounts(volumes.map(|plan| plan.name.as_str()))?;
        let view = match mounts || record.is_running() {
            true => Handle::current().block_on(self.view(container))?,
            false => Handle::current().block_on(self.plain_view(&record))?,
        };
        work(&view)
    }
}

/// The store's error, with the container's name where it is about a file that is not there.
fn located(error: hull_image::Error, container: &str) -> Error {
    let mut error: Error = error.into();
    if error.kind == Kind::NotFound {
        error.message = format!("{} in container {container}", error.message);
    }
    error
}

fn open_in_root(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { "/" } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Refuses a folder on a file system that is mounted read-only, in Docker's words. The kernel would refuse too, in
/// its own words and amid the work; and a view of a container that does not run has a writable root.
fn check_writable(root: BorrowedFd<'_>, path: &str, read_only_root: bool) -> Result<()> {
    // A path that leads nowhere is an error of its own, told by the unpacking.
    let Ok(folder) = open_in_root(root, path, OFlags::PATH) else { return Ok(()) };
    let looked =
        |errno: rustix::io::Errno| Error::system(format_args!("look at {path} in the container"), errno);
    let mount = |file: BorrowedFd<'_>| {
        rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
    };
    let on_root = mount(folder.as_fd()).map_err(looked)? == mount(root).map_err(looked)?;
    let read_only = rustix::fs::fstatvfs(&folder).map_err(looked)?.f_flag.contains(StatVfsMountFlags::RDONLY);
    match (on_root, read_only) {
        (true, _) if read_only || read_only_root => {
            Err(Error::new(Kind::Forbidden, "container rootfs is marked read-only"))
        }
        (false, true) => Err(Error::new(Kind::Forbidden, "mounted volume is marked read-only")),
        _ => Ok(()),
    }
}

/// The numbers of `user[:group]`, names looked up in the container's own files.
pub(super) fn owner(root: BorrowedFd<'_>, text: &str) -> Result<(u32, u32)> {
    let read = |path: &str| -> String {
        let Ok(file) = open_in_root(root, path, OFlags::RDONLY | OFlags::NONBLOCK) else {
            return String::new();
        };
        let mut bytes = Vec::new();
        // What cannot be read has no names in it.
        let _ = std::fs::File::from(file).take(ACCOUNTS_MAX).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    find_owner(text, &read("/etc/passwd"), &read("/etc/group"))
}

fn find_owner(text: &str, passwd: &str, group: &str) -> Result<(u32, u32)> {
    let (user, group_name) = text.split_once(':').unwrap_or((text, ""));
    let line = |text: &str, name: &str| -> Option<Vec<u32>> {
        let fields = text
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&name) || fields.get(2) == Some(&name))?;
        fields.get(2..4.min(fields.len()))?.iter().map(|id| id.parse().ok().or(Some(0))).collect()
    };
    let known = line(passwd, user);
    let uid = match known.as_deref() {
        Some([uid, ..]) => *uid,
        _ => user.parse().map_err(|_| {
            Error::invalid(format!("unable to find user {user}: no matching entries in passwd file"))
        })?,
    };
    let gid = match (group_name, known.as_deref()) {
        ("", Some([_, gid, ..])) => *gid,
        ("", _) => 0,
        (name, _) => match line(group, name).as_deref() {
            Some([gid, ..]) => *gid,
            _ => name.parse().map_err(|_| {
                Error::invalid(format!("unable to find group {name}: no matching entries in group file"))
            })?,
        },
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n";
        let group = "root:x:0:\nstaff:x:50:\n";
        let of = |text: &str| find_owner(text, passwd, group).unwrap();
        assert_eq!(
            [of("web"), of("33"), of("1234"), of("web:staff"), of("7:8")],
            [(33, 34), (33, 34), (1234, 0), (33, 50), (7, 8)]
        );
        assert!(find_owner("nobody", passwd, group).unwrap_err().message.contains("nobody"));
        assert!(find_owner("root:none", passwd, group).unwrap_err().message.contains("none"));
    }
}
