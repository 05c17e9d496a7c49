//! A tmpfs that starts with what its destination held: a copy of a folder, by descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Uid};

/// Copies what is in folder `from` into folder `to`, and the mode and owner of `from` itself: folders, files,
/// links, devices and pipes with owner and mode. Links are copied as links; nothing follows one.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let readable = reopen(from)?;
    for entry in fs::Dir::read_from(&readable)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        copy_entry(readable.as_fd(), to, name)?;
    }
    let stat = fs::fstat(&readable)?;
    own(to, &stat)
}

fn reopen(folder: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::openat(folder, ".", flags, Mode::empty())?)
}

fn own(fd: BorrowedFd<'_>, stat: &fs::Stat) -> io::Result<()> {
    fs::fchown(fd, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    Ok(fs::fchmod(fd, Mode::from_raw_mode(stat.st_mode & 0o7777))?)
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
    let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let safe = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let source = fs::openat(from, name, safe | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let target = fs::openat(to, name, safe | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            copy(source.as_fd(), target.as_fd())
        }
        FileType::RegularFile => {
            let source = fs::openat(from, name, safe | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
            let target = fs::openat(
                to,
                name,
                safe | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
                Mode::RUSR | Mode::WUSR,
            )?;
            own(target.as_fd(), &stat)?;
            io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(target))?;
            Ok(())
        }
        FileType::Symlink => {
            fs::symlinkat(&*fs::readlinkat(from, name, Vec::new())?, to, name)?;
            own_link(to, name, &stat)
        }
        FileType::Socket => Ok(()),
        kind => {
            fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev)?;
            own_link(to, name, &stat)
        }
    }
}

fn own_link(folder: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &fs::Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}
