//! A folder's files, sent to the client: it is told of each, and asks for the contents that it wants.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
use prost::Message as _;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat, statat};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::tree::go;
use crate::grpc::client::{Call, Receiving, Sending};
use crate::grpc::{Result, Status};
use crate::patience::Patience;

/// Folders deeper than this are refused: each takes a descriptor.
const DEPTH: usize = 900;

/// So many requests of the client's wait until they are answered; those behind them wait on the line.
const ASKS: usize = 1024;

/// How much of a file goes at a time.
const PIECE: usize = 256 << 10;

/// Sends all that is beneath a folder, but for these paths, on a call that has begun, as what is in the folder `beneath` where
/// there is one. Blocks.
///
/// # Errors
/// The files cannot be read, or the client does not take them.
pub(crate) fn send(
    call: Call,
    patience: &Patience,
    root: BorrowedFd<'_>,
    without: &HashSet<Vec<u8>>,
    beneath: Option<&str>,
) -> io::Result<()> {
    let Call { send: sending, receive } = call;
    // What the client asks for is taken as it comes: it may ask before it was told of everything.
    let (asks, mut asked) = mpsc::channel(ASKS);
    // Dropped, it ends: where the files cannot be sent nobody listens any more.
    let mut listening = JoinSet::new();
    listening.spawn_on(listen(receive, asks), &Handle::current());
    let send = To { send: &sending, patience };
    let prefix = beneath.map(|name| format!("{name}/")).unwrap_or_default();
    let mut walk = Walk { send: &send, without, prefix, told: Vec::new(), links: HashMap::new() };
    if let Some(name) = beneath {
        walk.told.push(None);
        let folder = Stat { path: name.to_owned(), mode: go::DIR | 0o755, ..Stat::default() };
        say(&send, stat_of(folder))?;
    }
    let root = openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    walk.folder(&root, b"", 0)?;
    let told = std::mem::take(&mut walk.told);
    say(&send, Packet { r#type: PacketType::PacketStat.into(), ..Packet::default() })?;
    let mut buffer = vec![0; PIECE];
    let mut served = vec![false; told.len()];
    while let Some(number) =
        patience.wait(async { Ok(asked.recv().await) }).map_err(|status| other(&status))?
    {
        let number = number as usize;
        let fresh = served.get_mut(number).is_some_and(|served| !std::mem::replace(served, true));
        let Some(path) = told.get(number).and_then(Option::as_ref).filter(|_| fresh) else {
            return Err(io::Error::other("the client asks for what it was not told of"));
        };
        contents(&send, &root, path, number, &mut buffer)?;
    }
    say(&send, Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() })?;
    drop(sending);
    let ended = async {
        while let Some(ended) = listening.join_next().await {
            ended.map_err(|error| Status::broken("send files", error))??.end().await?;
        }
        Ok(())
    };
    patience.wait_for_end(ended).map_err(|status| other(&status))
}

/// The client, and the patience with it.
struct To<'a> {
    send: &'a Sending,
    patience: &'a Patience,
}

/// Hands on what the client asks for, until it has all.
async fn listen(mut receive: Receiving, asks: mpsc::Sender<u32>) -> Result<Receiving> {
    while let Some(packet) = receive.next::<Packet>().await? {
        match packet.r#type() {
            PacketType::PacketReq => {
                // Whoever sends has failed: the rest is not wanted.
                if asks.send(packet.id).await.is_err() {
                    break;
                }
            }
            PacketType::PacketErr => {
                let why = String::from_utf8_lossy(&packet.data).into_owned();
                return Err(Status::broken("send files", why));
            }
            _ => break,
        }
    }
    Ok(receive)
}

fn other(status: &Status) -> io::Error {
    io::Error::other(status.message.clone())
}

fn say(to: &To<'_>, packet: Packet) -> io::Result<()> {
    to.patience.wait(to.send.send(&packet)).map_err(|status| other(&status))?;
    to.patience.moved(packet.encoded_len());
    Ok(())
}

/// Sends what is in a file; an empty piece is its end.
fn contents(send: &To<'_>, root: &OwnedFd, path: &[u8], number: usize, buffer: &mut [u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut file = File::from(openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), beneath)?);
    let id = u32::try_from(number).unwrap_or(u32::MAX);
    loop {
        let count = file.read(buffer)?;
        let data = buffer[..count].to_vec();
        say(send, Packet { r#type: PacketType::PacketData.into(), id, data, ..Packet::default() })?;
        if count == 0 {
            return Ok(());
        }
    }
}

fn stat_of(stat: Stat) -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
}

/// The extended attributes of what is at a name, without those that are the machine's own business.
fn attributes(folder: &OwnedFd, name: &CString) -> io::Result<HashMap<String, Vec<u8>>> {
    let found = hull_image::archive::attributes(folder.as_fd(), name.to_bytes())?;
    let text = |(name, value): (Vec<u8>, Vec<u8>)| Some((String::from_utf8(name).ok()?, value));
    Ok(found.into_iter().filter_map(text).collect())
}

/// A walk that tells of what it comes by, in the order of names.
struct Walk<'a> {
    send: &'a To<'a>,
    without: &'a HashSet<Vec<u8>>,
    /// What stands before each path that is told.
    prefix: String,
    /// The paths of the files whose contents may be asked for, by their numbers.
    told: Vec<Option<Vec<u8>>>,
    /// Files with several names, by device and inode: the name that was told first.
    links: HashMap<(u64, u64), String>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &OwnedFd, path: &[u8], depth: usize) -> io::Result<()> {
        if depth > DEPTH {
            return Err(io::Error::other("the folders are nested too deep"));
        }
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(folder)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let path = if path.is_empty() {
                name.to_bytes().to_vec()
            } else {
                [path, b"/", name.to_bytes()].concat()
            };
            if !self.without.contains(&path) {
                self.one(folder, &name, path, depth)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, folder: &OwnedFd, name: &CString, path: Vec<u8>, depth: usize) -> io::Result<()> {
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let text = std::str::from_utf8(&path).map(|path| format!("{}{path}", self.prefix)).map_err(|_| {
            let name = String::from_utf8_lossy(&path).into_owned();
            io::Error::other(format!(
                "{name:?} is no text: this protocol has no such names; -o type=tar takes them"
            ))
        })?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut told = Stat {
            path: text.clone(),
            mode: (stat.st_mode & 0o777) | go::special(stat.st_mode),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mod_time: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64),
            ..Stat::default()
        };
        let mut has_contents = false;
        match kind {
            FileType::Directory => told.mode |= go::DIR,
            FileType::Symlink => {
                told.mode |= go::SYMLINK;
                let target = readlinkat(folder, name, Vec::new())?;
                told.linkname = String::from_utf8_lossy(target.to_bytes()).into_owned();
            }
            FileType::Fifo => told.mode |= go::PIPE,
            FileType::CharacterDevice | FileType::BlockDevice => {
                told.mode |= go::DEVICE;
                if kind == FileType::CharacterDevice {
                    told.mode |= go::CHAR_DEVICE;
                }
                told.devmajor = i64::from(rustix::fs::major(stat.st_rdev));
                told.devminor = i64::from(rustix::fs::minor(stat.st_rdev));
            }
            FileType::RegularFile => {
                told.size = stat.st_size;
                has_contents = true;
            }
            // A socket is nothing without its listener.
            _ => return Ok(()),
        }
        if stat.st_nlink > 1 && kind != FileType::Directory {
            match self.links.get(&(stat.st_dev, stat.st_ino)) {
                Some(first) if kind != FileType::Symlink => {
                    told.linkname.clone_from(first);
                    (told.size, has_contents) = (0, false);
                }
                _ => drop(self.links.insert((stat.st_dev, stat.st_ino), text)),
            }
        }
        told.xattrs = attributes(folder, name)?;
        self.told.push(has_contents.then(|| path.clone()));
        say(self.send, stat_of(told))?;
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = openat(folder.as_fd(), name, flags, Mode::empty())?;
            self.folder(&inner, &path, depth + 1)?;
        }
        Ok(())
    }
}
