//! Limits of folders, and what is in them, as the file system counts it: project quotas on ext4 and XFS, the quotas of
//! subvolumes on btrfs.
//!
//! A folder that is limited, or only counted, is made here and empty at first. On ext4 and XFS it has a project id, which
//! what is made in it inherits; an id is one that nobody on the file system has: no limit, no file. So an id is given
//! back by removing the folder and its limit. On btrfs the folder is a subvolume.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::kernel::{self, PROJECT_INHERITED, Quota, SPACE_LIMITS};
use super::{FileSystem, file_system};
use crate::{Error, Kind, Result};

/// Makes folders with a limit, beneath one root.
#[derive(Debug)]
pub struct Limiter {
    root: PathBuf,
    way: Way,
    /// The first of the ids that this root takes, and how far it is among them.
    base: u32,
    next: AtomicU32,
    turn: Mutex<()>,
}

/// How the file system limits folders.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// By project ids, which are counted.
    Projects,
    /// By subvolumes; quotas are turned on when the first limit is asked for.
    Subvolumes,
    /// Not: what it lacks.
    None(String),
}

/// So many ids has a root.
const IDS: u32 = 1 << 20;

/// What a folder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The bytes on the disk.
    pub bytes: u64,
    /// The most that they may be; 0: no limit.
    pub limit: u64,
}

impl Limiter {
    /// Looks what the file system beneath a folder can do.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn open(root: &Path) -> Result<Limiter> {
        let way = match file_system(root)? {
            FileSystem::Btrfs => Way::Subvolumes,
            kind => projects(root, kind)?,
        };
        let mut hasher = DefaultHasher::new();
        root.hash(&mut hasher);
        // Beyond what people take for their own projects, and below what is negative for some programs.
        let base = (1 << 30) | ((hasher.finish() as u32 % 1000) * IDS);
        Ok(Limiter { root: root.to_owned(), way, base, next: AtomicU32::new(0), turn: Mutex::new(()) })
    }

    /// Whether a folder can be limited.
    ///
    /// # Errors
    /// What the file system lacks for it.
    pub fn check(&self) -> Result<()> {
        match &self.way {
            Way::None(why) => Err(Error::new(Kind::NotImplemented, why.clone())),
            Way::Projects | Way::Subvolumes => Ok(()),
        }
    }

    /// Whether what is in folders is counted, so that nobody need walk them.
    pub fn counts(&self) -> bool {
        self.way == Way::Projects
    }

    /// Makes an empty folder that may hold so many bytes; without a limit it is counted, where that costs nothing.
    ///
    /// # Errors
    /// The file system cannot do it, or the folder is there already.
    pub fn make(&self, folder: &Path, mode: Mode, limit: Option<u64>) -> Result<()> {
        if limit.is_some() {
            self.check()?;
        }
        if self.way == Way::Subvolumes && limit.is_some() {
            return self.make_subvolume(folder, mode, limit);
        }
        self.make_counted(folder, mode, limit)
    }

    /// The same for a folder of which [`Limiter::snapshot`] is to be able to make another.
    ///
    /// # Errors
    /// As for [`Limiter::make`].
    pub fn make_for_snapshots(&self, folder: &Path, mode: Mode, limit: Option<u64>) -> Result<()> {
        if limit.is_some() {
            self.check()?;
        }
        match self.way {
            Way::Subvolumes => self.make_subvolume(folder, mode, limit),
            Way::Projects | Way::None(_) => self.make_counted(folder, mode, limit),
        }
    }

    /// Makes a folder that is another as it is now, whatever there is in it, at once. False: the file system has no
    /// snapshots, or the other folder is no subvolume.
    ///
    /// # Errors
    /// The folder is there already, or the file system fails.
    pub fn snapshot(&self, source: &Path, folder: &Path, limit: Option<u64>) -> Result<bool> {
        let fail = |errno: Errno| Error::file("make a snapshot of", source, errno);
        if self.way != Way::Subvolumes {
            return Ok(false);
        }
        let source = open(source).map_err(fail)?;
        if !kernel::is_subvolume(&source) {
            return Ok(false);
        }
        let (parent, name) = parent_and_name(folder).map_err(fail)?;
        if limit.is_some() {
            enable(&parent).map_err(fail)?;
        }
        match kernel::snapshot_subvolume(source.as_fd(), parent.as_fd(), name) {
            // Another file system's, though it is btrfs too.
            Err(Errno::XDEV | Errno::INVAL) => return Ok(false),
            done => done.map_err(fail)?,
        }
        let limited = limit.map_or(Ok(()), |bytes| {
            open(folder).and_then(|opened| kernel::limit_subvolume(opened.as_fd(), bytes))
        });
        if limited.is_err() {
            let _ = kernel::destroy_subvolume(parent.as_fd(), name);
        }
        limited.map_err(fail)?;
        Ok(true)
    }

    fn make_counted(&self, folder: &Path, mode: Mode, limit: Option<u64>) -> Result<()> {
        let fail = |errno: Errno| Error::file("create", folder, errno);
        mkdirat(CWD, folder, mode).map_err(fail)?;
        if self.way != Way::Projects {
            return Ok(());
        }
        let opened = open(folder).map_err(fail)?;
        let done = self.give_project(&opened, limit);
        if done.is_err() {
            let _ = std::fs::remove_dir(folder);
        }
        done.map_err(|errno| Error::file("limit", folder, errno))
    }

    fn give_project(&self, folder: &OwnedFd, limit: Option<u64>) -> Result<(), Errno> {
        // Between the look and the taking nobody else may look.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let project = self.free_project(folder)?;
        if let Some(bytes) = limit {
            kernel::set_quota(folder.as_fd(), project, limit_of(bytes))?;
        }
        let mut found = kernel::get_fsxattr(folder.as_fd())?;
        (found.project, found.flags) = (project, found.flags | PROJECT_INHERITED);
        kernel::set_fsxattr(folder.as_fd(), found)
    }

    /// An id that nobody has.
    fn free_project(&self, folder: &OwnedFd) -> Result<u32, Errno> {
        for _ in 0..IDS {
            let project = self.base + self.next.fetch_add(1, Ordering::Relaxed) % IDS;
            let quota = match kernel::get_quota(folder.as_fd(), project) {
                Ok(quota) => quota,
                Err(Errno::NOENT | Errno::SRCH) => Quota::default(),
                Err(errno) => return Err(errno),
            };
            if quota.space == 0 && quota.inodes == 0 && quota.hard == 0 && quota.soft == 0 {
                return Ok(project);
            }
        }
        Err(Errno::DQUOT)
    }

    fn make_subvolume(&self, folder: &Path, mode: Mode, limit: Option<u64>) -> Result<()> {
        let fail = |errno: Errno| Error::file("create the subvolume", folder, errno);
        let (parent, name) = parent_and_name(folder).map_err(fail)?;
        if limit.is_some() {
            enable(&parent)
                .map_err(|errno| Error::file("turn on quotas of btrfs beneath", &self.root, errno))?;
        }
        kernel::create_subvolume(parent.as_fd(), name).map_err(fail)?;
        let done = open(folder).and_then(|opened| {
            rustix::fs::fchmod(&opened, mode)?;
            limit.map_or(Ok(()), |bytes| kernel::limit_subvolume(opened.as_fd(), bytes))
        });
        if done.is_err() {
            let _ = kernel::destroy_subvolume(parent.as_fd(), name);
        }
        done.map_err(|errno| Error::file("limit", folder, errno))
    }

    /// Limits a folder that was made here, whatever is in it already.
    ///
    /// # Errors
    /// The file system cannot do it, or the folder is none that is counted.
    pub fn limit(&self, folder: &Path, bytes: u64) -> Result<()> {
        self.check()?;
        let limited = open(folder).and_then(|opened| match self.way {
            Way::Subvolumes => {
                enable(&opened)?;
                kernel::limit_subvolume(opened.as_fd(), bytes)
            }
            Way::Projects => {
                let project = self.project_of(&opened)?.ok_or(Errno::NOENT)?;
                kernel::set_quota(opened.as_fd(), project, limit_of(bytes))
            }
            Way::None(_) => Err(Errno::OPNOTSUPP),
        });
        limited.map_err(|errno| Error::file("limit", folder, errno))
    }

    /// What a folder takes that was made here; none where nobody counts. Nothing is walked.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub fn usage(&self, folder: &Path) -> Result<Option<Usage>> {
        let fail = |errno: Errno| Error::file("look at", folder, errno);
        match self.way {
            Way::None(_) => Ok(None),
            Way::Subvolumes => {
                let opened = open(folder).map_err(fail)?;
                if !kernel::is_subvolume(&opened) {
                    return Ok(None);
                }
                let usage = kernel::subvolume_usage(opened.as_fd()).map_err(fail)?;
                Ok(usage.map(|(bytes, limit)| Usage { bytes, limit }))
            }
            Way::Projects => {
                let opened = open(folder).map_err(fail)?;
                let Some(project) = self.project_of(&opened).map_err(fail)? else { return Ok(None) };
                let quota = kernel::get_quota(opened.as_fd(), project).map_err(fail)?;
                Ok(Some(Usage { bytes: quota.space, limit: quota.hard * 1024 }))
            }
        }
    }

    /// Takes a folder's limit away, since it goes: what is removed behind needs none, and the id is free when it is gone.
    pub fn release(&self, folder: &Path) {
        if self.way != Way::Projects {
            return;
        }
        let released = open(folder).and_then(|opened| match self.project_of(&opened)? {
            Some(project) => kernel::set_quota(opened.as_fd(), project, limit_of(0)),
            None => Ok(()),
        });
        match released {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => tracing::warn!("take the limit of {} away: {errno}", folder.display()),
        }
    }

    /// The id of a folder that was made here; another's is none of ours.
    fn project_of(&self, folder: &OwnedFd) -> Result<Option<u32>, Errno> {
        let found = kernel::get_fsxattr(folder.as_fd())?.project;
        Ok((self.base..self.base + IDS).contains(&found).then_some(found))
    }
}

fn limit_of(bytes: u64) -> Quota {
    // Rounded up: what was asked for is to be had.
    let hard = bytes.div_ceil(1024);
    Quota { hard, soft: hard, valid: SPACE_LIMITS, ..Quota::default() }
}

/// Turns quotas on, if nobody has. The count of what is there already begins in the kernel; new subvolumes have theirs.
fn enable(folder: &OwnedFd) -> Result<(), Errno> {
    match kernel::enable_subvolume_quotas(folder.as_fd()) {
        Ok(()) | Err(Errno::EXIST | Errno::INPROGRESS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn open(folder: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn parent_and_name(folder: &Path) -> Result<(OwnedFd, &[u8]), Errno> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else { return Err(Errno::INVAL) };
    Ok((open(parent)?, name.as_bytes()))
}

/// Whether there are project quotas, or what is lacking.
fn projects(root: &Path, kind: FileSystem) -> Result<Way> {
    let opened = open(root).map_err(|errno| Error::file("open", root, errno))?;
    let name = if kind == FileSystem::Ext { "ext4" } else { kind.name() };
    let place = Mount::of(root);
    let remedy = match kind {
        FileSystem::Ext => format!(
            "it needs the features project and quota (unmounted: tune2fs -O project,quota {}), the mount option \
             prjquota, and a kernel with CONFIG_QFMT_V2",
            place.device
        ),
        FileSystem::Xfs => {
            "it needs the mount option prjquota (given when it is mounted first; for / rootflags=prjquota), \
                            and a kernel with CONFIG_XFS_QUOTA"
                .to_owned()
        }
        _ => {
            return Ok(Way::None(format!(
                "the data root {} is on {name}, which has no project quotas: it has to be on ext4 or xfs mounted with \
                 prjquota, or on btrfs",
                root.display()
            )));
        }
    };
    let lacks = |what: &str| {
        Way::None(format!(
            "the data root is on {name} ({}, mounted at {}), {what}: {remedy}",
            place.device, place.target
        ))
    };
    Ok(match kernel::quota_state(opened.as_fd()) {
        Ok((true, true)) => Way::Projects,
        Ok((true, false)) => lacks("which counts projects and does not limit them"),
        Ok((false, _)) => lacks("which has no project quotas turned on"),
        Err(Errno::NOSYS | Errno::SRCH | Errno::OPNOTSUPP | Errno::INVAL) => {
            lacks("which has no project quotas turned on")
        }
        Err(Errno::PERM | Errno::ACCESS) => lacks("whose quotas this daemon may not ask for"),
        Err(errno) => return Err(Error::file("ask for the quotas of", root, errno)),
    })
}

/// Where a folder's file system is mounted, as the kernel lists it.
struct Mount {
    device: String,
    target: String,
}

impl Mount {
    fn of(folder: &Path) -> Mount {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let of_line = |line: &str| {
            let (left, right) = line.split_once(" - ")?;
            let target = left.split(' ').nth(4)?.replace("\\040", " ");
            let device = right.split(' ').nth(1)?.to_owned();
            folder.starts_with(&target).then_some(Mount { device, target })
        };
        let found = mounts.lines().filter_map(of_line).max_by_key(|mount| mount.target.len());
        found.unwrap_or(Mount { device: "its device".to_owned(), target: "an unknown place".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_never_less_than_what_was_asked_for() {
        assert_eq!((limit_of(1).hard, limit_of(1024).hard, limit_of(1025).hard), (1, 1, 2));
        assert_eq!(limit_of(0), Quota { valid: SPACE_LIMITS, ..Quota::default() });
    }

    #[test]
    fn where_a_folder_is_mounted_is_known() {
        assert_eq!(Mount::of(Path::new("/proc/self")).device, "proc");
        assert_eq!(Mount::of(Path::new("/proc/self")).target, "/proc");
    }

    #[test]
    fn what_a_file_system_lacks_is_told() {
        let Way::None(why) = projects(Path::new("/proc"), FileSystem::Other).unwrap() else {
            panic!("a way")
        };
        assert!(why.contains("/proc is on unknown, which has no project quotas"), "{why}");
    }
}
