//! Makes the archive of a file or folder of this machine, on a thread of its own.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::paths::{self, Source};

/// Bytes gathered before they are sent on.
const PIECE: usize = 256 * 1024;

type Sender = mpsc::Sender<io::Result<Bytes>>;

/// Packs the source and sends it piece by piece; what goes wrong is sent as well and breaks the request off.
pub fn pack(source: &Source, rename: Option<&(String, String)>, sender: Sender, sent: &Arc<AtomicU64>) {
    let channel = Channel { sender: sender.clone(), gathered: Vec::with_capacity(PIECE), sent: sent.clone() };
    let mut packer = Packer { archive: tar::Builder::new(channel), links: HashMap::new() };
    let base = paths::split(&source.path).1;
    let name = rename.map_or(base.as_str(), |(_, to)| to.as_str());
    let result = packer.add(Path::new(&source.path), Path::new(name), true).and_then(|()| {
        let mut channel = packer.archive.into_inner()?;
        channel.flush()
    });
    if let Err(error) = result {
        // Without a receiver the daemon has refused already, and its words are told.
        let _ = sender.blocking_send(Err(error));
    }
}

struct Packer {
    archive: tar::Builder<Channel>,
    /// Files with several names, by device and inode: the first name they were packed under.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Packer {
    fn add(&mut self, path: &Path, name: &Path, top: bool) -> io::Result<()> {
        let in_path = |e: io::Error| {
            io::Error::new(e.kind(), format!("{}: {}", path.display(), crate::error::words(&e)))
        };
        let meta = fs::symlink_metadata(path).map_err(in_path)?;
        let kind = meta.file_type();
        // Sockets mean nothing in an archive.
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&meta);
        if kind.is_symlink() {
            header.set_size(0);
            let target = fs::read_link(path).map_err(in_path)?;
            return self.archive.append_link(&mut header, name, target);
        }
        if kind.is_dir() {
            header.set_size(0);
            let folder = if top && name == Path::new(".") { PathBuf::from("./") } else { name.join("") };
            self.archive.append_data(&mut header, folder, io::empty())?;
            let mut entries =
                fs::read_dir(path).map_err(in_path)?.collect::<io::Result<Vec<_>>>().map_err(in_path)?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self.add(&entry.path(), &name.join(entry.file_name()), false)?;
            }
            return Ok(());
        }
        if kind.is_file() {
            return self.add_file(path, name, &meta, header).map_err(in_path);
        }
        // Pipes and devices are their header alone.
        header.set_size(0);
        self.archive.append_data(&mut header, name, io::empty())
    }

    fn add_file(
        &mut self,
        path: &Path,
        name: &Path,
        meta: &Metadata,
        mut header: tar::Header,
    ) -> io::Result<()> {
        if meta.nlink() > 1 {
            if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                return self.archive.append_link(&mut header, name, first);
            }
            self.links.insert((meta.dev(), meta.ino()), name.to_owned());
        }
        let file =
            fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        let left = meta.len();
        header.set_size(left);
        self.archive.append_data(&mut header, name, Exactly { file, left })
    }
}

/// As many bytes as the header has promised; a file that becomes shorter while it is read is an error.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.file.read(&mut buffer[..wanted])?;
        if length == 0 {
            return Err(io::Error::other("it became shorter while it was copied"));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// Writes into a channel.
struct Channel {
    sender: Sender,
    gathered: Vec<u8>,
    sent: Arc<AtomicU64>,
}

impl Write for Channel {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(data);
        if self.gathered.len() >= PIECE {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE));
        self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        self.sender.blocking_send(Ok(Bytes::from(piece))).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
