//! The requests to file systems that rustix has no functions for: project ids, quotas, subvolumes.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Setter, Updater, ioctl, opcode};

/// `struct fsxattr`: what XFS first knew of a file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FsXattr {
    pub(super) flags: u32,
    pub(super) extent_size: u32,
    pub(super) extents: u32,
    pub(super) project: u32,
    pub(super) cow_extent_size: u32,
    pub(super) padding: [u8; 8],
}

/// What is made in a folder belongs to its project.
pub(super) const PROJECT_INHERITED: u32 = 0x200;

/// `FS_IOC_FSGETXATTR`.
pub(super) fn get_fsxattr(file: BorrowedFd<'_>) -> Result<FsXattr, Errno> {
    // SAFETY: the kernel fills a `struct fsxattr`, which FsXattr is, and the number says its size.
    unsafe { ioctl(file, Getter::<{ opcode::read::<FsXattr>(b'X', 31) }, FsXattr>::new()) }
}

/// `FS_IOC_FSSETXATTR`.
pub(super) fn set_fsxattr(file: BorrowedFd<'_>, value: FsXattr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a `struct fsxattr`, which FsXattr is.
    unsafe { ioctl(file, Setter::<{ opcode::write::<FsXattr>(b'X', 32) }, FsXattr>::new(value)) }
}

/// `struct if_dqblk`: limits and usage of a project. Limits are in pieces of 1024 bytes, the space in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) hard: u64,
    pub(super) soft: u64,
    pub(super) space: u64,
    pub(super) inodes_hard: u64,
    pub(super) inodes_soft: u64,
    pub(super) inodes: u64,
    pub(super) time: u64,
    pub(super) inodes_time: u64,
    pub(super) valid: u32,
}

/// That the limits of space in a [`Quota`] count.
pub(super) const SPACE_LIMITS: u32 = 1;

const PROJECT: u32 = 2;
const GET: u32 = 0x0080_0007;
const SET: u32 = 0x0080_0008;
const STATE: u32 = 0x5805;

/// The limits and the usage of a project.
pub(super) fn get_quota(folder: BorrowedFd<'_>, project: u32) -> Result<Quota, Errno> {
    let mut quota = Quota::default();
    quotactl(folder, GET, project, (&raw mut quota).cast())?;
    Ok(quota)
}

/// Sets the limits of a project.
pub(super) fn set_quota(folder: BorrowedFd<'_>, project: u32, mut quota: Quota) -> Result<(), Errno> {
    quotactl(folder, SET, project, (&raw mut quota).cast())
}

/// Whether the file system counts what projects use, and holds them to their limits.
pub(super) fn quota_state(folder: BorrowedFd<'_>) -> Result<(bool, bool), Errno> {
    /// `struct fs_quota_stat`, and more room than it needs; eight bytes each, as it is aligned.
    const ROOM: usize = 32;
    let mut state = [0u64; ROOM];
    quotactl(folder, STATE, 0, state.as_mut_ptr().cast())?;
    let bytes = state[0].to_ne_bytes();
    let flags = u16::from_ne_bytes([bytes[2], bytes[3]]);
    Ok((flags & 1 << 4 != 0, flags & 1 << 5 != 0))
}

fn quotactl(
    folder: BorrowedFd<'_>,
    command: u32,
    project: u32,
    address: *mut libc::c_void,
) -> Result<(), Errno> {
    let command = command << 8 | PROJECT;
    // SAFETY: quotactl_fd(2) reads or fills what the command is about, to which every caller's pointer leads.
    let done = unsafe { libc::syscall(libc::SYS_quotactl_fd, folder.as_raw_fd(), command, project, address) };
    match done {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
pub(super) struct Subvolume {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
pub(super) struct Snapshot {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

fn named<const N: usize>(name: &[u8]) -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    // A zero byte ends it.
    if name.is_empty() || name.len() >= N.min(256) || name.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    bytes[..name.len()].copy_from_slice(name);
    Ok(bytes)
}

/// `BTRFS_IOC_SUBVOL_CREATE`.
pub(super) fn create_subvolume(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let made = Subvolume { fd: 0, name: named(name)? };
    // SAFETY: the kernel reads a `struct btrfs_ioctl_vol_args`, whose name ends with a zero byte.
    unsafe { ioctl(folder, Setter::<{ opcode::write::<Subvolume>(0x94, 14) }, Subvolume>::new(made)) }
}

/// `BTRFS_IOC_SNAP_DESTROY`.
pub(super) fn destroy_subvolume(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let gone = Subvolume { fd: 0, name: named(name)? };
    // SAFETY: as for its creation.
    unsafe { ioctl(folder, Setter::<{ opcode::write::<Subvolume>(0x94, 15) }, Subvolume>::new(gone)) }
}

/// `BTRFS_IOC_SNAP_CREATE_V2`.
pub(super) fn snapshot_subvolume(
    source: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(), Errno> {
    let fd = i64::from(source.as_raw_fd());
    let made = Snapshot { fd, transaction: 0, flags: 0, unused: [0; 4], name: named(name)? };
    // SAFETY: the kernel reads a `struct btrfs_ioctl_vol_args_v2`, whose name ends with a zero byte.
    unsafe { ioctl(folder, Setter::<{ opcode::write::<Snapshot>(0x94, 23) }, Snapshot>::new(made)) }
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
#[derive(Default)]
struct QuotaControl {
    command: u64,
    status: u64,
}

/// Has the file system count what subvolumes use (`BTRFS_IOC_QUOTA_CTL`).
pub(super) fn enable_subvolume_quotas(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut control = QuotaControl { command: 1, status: 0 };
    // SAFETY: the kernel reads and fills a `struct btrfs_ioctl_quota_ctl_args`.
    unsafe {
        let request = Updater::<{ opcode::read_write::<QuotaControl>(0x94, 40) }, _>::new(&mut control);
        ioctl(folder, request)
    }
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
#[derive(Default)]
struct GroupLimit {
    group: u64,
    flags: u64,
    most: u64,
    most_exclusive: u64,
    reserved: u64,
    reserved_exclusive: u64,
}

/// Limits what the subvolume that `folder` is in refers to (`BTRFS_IOC_QGROUP_LIMIT`).
pub(super) fn limit_subvolume(folder: BorrowedFd<'_>, bytes: u64) -> Result<(), Errno> {
    // No group means that of the folder's own subvolume.
    let limit = GroupLimit { flags: 1, most: bytes, ..GroupLimit::default() };
    // The kernel's header has this request as one that is read.
    // SAFETY: the kernel reads a `struct btrfs_ioctl_qgroup_limit_args`.
    unsafe { ioctl(folder, Setter::<{ opcode::read::<GroupLimit>(0x94, 43) }, GroupLimit>::new(limit)) }
}

/// `struct btrfs_ioctl_search_args`.
#[repr(C)]
struct Search {
    tree: u64,
    objects: [u64; 2],
    offsets: [u64; 2],
    transactions: [u64; 2],
    kinds: [u32; 2],
    items: u32,
    unused: u32,
    unused_more: [u64; 4],
    found: [u8; 3992],
}

/// The item of a tree with this key; none where it is not there (`BTRFS_IOC_TREE_SEARCH`).
fn tree_item(folder: BorrowedFd<'_>, tree: u64, key: (u64, u32, u64)) -> Result<Option<Vec<u8>>, Errno> {
    let (object, kind, offset) = key;
    let mut search = Search {
        tree,
        objects: [object; 2],
        offsets: [offset; 2],
        transactions: [0, u64::MAX],
        kinds: [kind; 2],
        items: 1,
        unused: 0,
        unused_more: [0; 4],
        found: [0; 3992],
    };
    // SAFETY: the kernel reads and fills a `struct btrfs_ioctl_search_args`.
    unsafe {
        let request = Updater::<{ opcode::read_write::<Search>(0x94, 17) }, _>::new(&mut search);
        ioctl(folder, request)?;
    }
    if search.items == 0 {
        return Ok(None);
    }
    // A header of 32 bytes, whose last four are the item's length, and the item.
    let length = search.found[28..32].try_into().map(u32::from_ne_bytes).unwrap_or_default() as usize;
    Ok(search.found.get(32..32 + length).map(<[u8]>::to_vec))
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct Lookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// The id of the subvolume that a folder is in (`BTRFS_IOC_INO_LOOKUP`).
fn subvolume_id(folder: BorrowedFd<'_>) -> Result<u64, Errno> {
    /// The first object of every tree.
    const FIRST: u64 = 256;
    let mut lookup = Lookup { tree: 0, object: FIRST, name: [0; 4080] };
    // SAFETY: the kernel reads and fills a `struct btrfs_ioctl_ino_lookup_args`.
    unsafe {
        let request = Updater::<{ opcode::read_write::<Lookup>(0x94, 18) }, _>::new(&mut lookup);
        ioctl(folder, request)?;
    }
    Ok(lookup.tree)
}

/// The bytes that the subvolume which a folder is in refers to, and its limit (0: none); none where nobody counts.
pub(super) fn subvolume_usage(folder: BorrowedFd<'_>) -> Result<Option<(u64, u64)>, Errno> {
    const QUOTA_TREE: u64 = 8;
    const INFO: u32 = 242;
    const LIMIT: u32 = 244;
    let group = subvolume_id(folder)?;
    let word = |item: &[u8], at: usize| {
        item.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    };
    let info = match tree_item(folder, QUOTA_TREE, (0, INFO, group)) {
        Ok(info) => info,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let Some(used) = info.and_then(|item| word(&item, 8)) else { return Ok(None) };
    let limit = tree_item(folder, QUOTA_TREE, (0, LIMIT, group))?;
    let limit = limit.filter(|item| word(item, 0).is_some_and(|flags| flags & 1 != 0));
    Ok(Some((used, limit.and_then(|item| word(&item, 8)).unwrap_or(0))))
}

/// Whether a folder is a subvolume's own.
pub(super) fn is_subvolume(folder: impl AsFd) -> bool {
    rustix::fs::fstat(folder).is_ok_and(|stat| stat.st_ino == 256)
}
