//! The context as a request's body, packed by a thread of its own: what is left out is not even entered.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hull_api::ignore::{Ignore, State};
use serde_json::Value;
use tokio::sync::mpsc;

use super::walk::in_path;
use crate::client::{Body, streamed};
use crate::commands::shared::progress::Transfer;
use crate::error::{Error, words};

/// Bytes gathered before they are sent on, and pieces read ahead of the connection.
pub(super) const PIECE: usize = 256 << 10;
const AHEAD: usize = 8;

/// What is packed.
pub(super) enum Packed {
    /// A folder, without what is left out.
    Folder(PathBuf, Ignore),
    /// An OCI layout in a folder, and the index of what of it is meant.
    Layout(PathBuf, Vec<u8>),
    /// An archive on standard input, of which this was read already.
    Archive(Vec<u8>),
    /// Nothing at all.
    Nothing,
}

/// The patterns of a folder: those of the Dockerfile's own list, or the folder's.
pub(super) fn ignore(folder: &Path, dockerfile: Option<&str>) -> Result<Ignore, Error> {
    let own = dockerfile.map_or_else(|| folder.join("Dockerfile"), PathBuf::from);
    let mut name = own.clone().into_os_string();
    name.push(".dockerignore");
    for path in [PathBuf::from(name), folder.join(".dockerignore")] {
        match fs::read_to_string(&path) {
            Ok(text) => {
                return Ignore::parse(&text)
                    .map_err(|error| Error::new(format!("error reading {}: {error}", path.display())));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::new(format!("error reading {}: {}", path.display(), words(&error))));
            }
        }
    }
    Ok(Ignore::default())
}

/// Whether something begins as an archive does, plain or compressed.
pub(super) fn is_archive(start: &[u8]) -> bool {
    let magic: [&[u8]; 4] =
        [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], &[0xfd, b'7', b'z', b'X', b'Z', 0], b"BZh"];
    let compressed = magic.iter().any(|magic| start.starts_with(magic));
    compressed || (start.len() == 512 && (&start[257..262] == b"ustar" || is_old_header(start)))
}

/// The header of an archive from before `ustar`: its checksum is right.
fn is_old_header(block: &[u8]) -> bool {
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
        .sum();
    let text = String::from_utf8_lossy(&block[148..156]).into_owned();
    u64::from_str_radix(text.trim_matches(['\0', ' ']), 8) == Ok(sum)
}

impl Packed {
    /// A folder.
    pub(super) fn folder(path: PathBuf, ignore: Ignore) -> Packed {
        Packed::Folder(path, ignore)
    }

    /// Standard input, from where it was read to.
    pub(super) fn archive(start: Vec<u8>) -> Packed {
        Packed::Archive(start)
    }

    /// An archive with nothing in it.
    pub(super) fn nothing() -> Packed {
        Packed::Nothing
    }

    /// The body: what stands before the archive in one line, contexts beside it in pieces, then the archive; and the bar that
    /// shows how much was sent.
    pub(super) fn body(self, preface: &Value, beside: Vec<Packed>) -> (Body, Transfer) {
        written(preface, move |out| {
            sent_before(beside, out)?;
            self.write(out)
        })
    }

    fn write(self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Packed::Folder(path, ignore) => {
                let mut packer = Packer { archive: tar::Builder::new(out), ignore };
                let state = packer.ignore.root();
                packer.folder(&path, Path::new(""), &state)?;
                packer.archive.finish()
            }
            Packed::Layout(path, index) => {
                let mut packer = Packer { archive: tar::Builder::new(out), ignore: Ignore::default() };
                packer.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
                packer.bytes("index.json", &index)?;
                let state = packer.ignore.root();
                packer.folder(&path.join("blobs"), Path::new("blobs"), &state)?;
                packer.archive.finish()
            }
            Packed::Archive(start) => {
                out.write_all(&start)?;
                io::copy(&mut io::stdin().lock(), out).map(drop)
            }
            Packed::Nothing => tar::Builder::new(out).finish(),
        }
    }
}

/// A body that a thread writes, behind a line of JSON; and the bar that shows how much of it was sent.
pub(super) fn written(
    preface: &Value,
    write: impl FnOnce(&mut Channel) -> io::Result<()> + Send + 'static,
) -> (Body, Transfer) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let sent = Arc::new(AtomicU64::new(0));
    let transfer = Transfer::start("Sending the build context", None, sent.clone());
    let preface = format!("{preface}\n");
    std::thread::spawn(move || {
        let failing = sender.clone();
        let mut channel = Channel { sender, gathered: preface.into_bytes(), sent };
        if let Err(error) = write(&mut channel).and_then(|()| channel.flush()) {
            // Without a receiver the daemon has refused already, and its words are told.
            let _ = failing.blocking_send(Err(error));
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    (streamed(pieces), transfer)
}

/// Opens a file to be sent; its length now.
pub(super) fn opened(path: &Path) -> io::Result<(File, u64)> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// Sends contexts in pieces, each behind its length; an empty piece ends each of them.
fn sent_before(contexts: Vec<Packed>, channel: &mut Channel) -> io::Result<()> {
    for context in contexts {
        let mut pieces = io::BufWriter::with_capacity(PIECE, Pieces(channel));
        context.write(&mut pieces)?;
        pieces.flush()?;
        drop(pieces);
        channel.write_all(&0u32.to_be_bytes())?;
    }
    Ok(())
}

/// What is written to it goes on as one piece behind its length.
struct Pieces<'a>(&'a mut Channel);

impl Write for Pieces<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let data = &data[..data.len().min(PIECE)];
        if !data.is_empty() {
            self.0.write_all(&(data.len() as u32).to_be_bytes())?;
            self.0.write_all(data)?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Packer<W: Write> {
    archive: tar::Builder<W>,
    ignore: Ignore,
}

impl<W: Write> Packer<W> {
    /// A file that is not on the disk.
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.archive.append_data(&mut header, name, bytes)
    }

    fn folder(&mut self, path: &Path, name: &Path, state: &State) -> io::Result<()> {
        let in_path = |error| in_path(path, error);
        let mut entries =
            fs::read_dir(path).map_err(in_path)?.collect::<io::Result<Vec<_>>>().map_err(in_path)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = name.join(entry.file_name());
            let state = self.ignore.enter(state, name.as_os_str().as_bytes());
            self.entry(&entry.path(), &name, &state)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path, state: &State) -> io::Result<()> {
        let in_path = |error| in_path(path, error);
        if state.is_excluded() {
            // A folder that is left out is entered only for what may not be.
            let inside = self.ignore.may_include_beneath(name.as_os_str().as_bytes());
            if inside && fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
                return self.folder(path, name, state);
            }
            return Ok(());
        }
        let meta = fs::symlink_metadata(path).map_err(in_path)?;
        let kind = meta.file_type();
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&meta);
        // Whose they are here means nothing there.
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(in_path)?;
            return self.archive.append_link(&mut header, name, target);
        }
        if kind.is_dir() {
            self.archive.append_data(&mut header, name.join(""), io::empty())?;
            return self.folder(path, name, state);
        }
        if kind.is_file() {
            let (file, left) = opened(path).map_err(in_path)?;
            header.set_size(left);
            return self.archive.append_data(&mut header, name, Exactly { file, left }).map_err(in_path);
        }
        if kind.is_fifo() {
            return self.archive.append_data(&mut header, name, io::empty());
        }
        // Sockets and devices are this machine's.
        Ok(())
    }
}

/// As many bytes as the header has promised; a file that becomes shorter while it is read is an error.
pub(super) struct Exactly {
    pub(super) file: File,
    pub(super) left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.file.read(&mut buffer[..wanted])?;
        if length == 0 {
            return Err(io::Error::other("it became shorter while it was sent"));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// Writes into a channel.
pub(super) struct Channel {
    sender: mpsc::Sender<io::Result<Bytes>>,
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
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE));
        self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        self.sender.blocking_send(Ok(Bytes::from(piece))).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(folder: &Path) -> Vec<String> {
        let (sender, mut receiver) = mpsc::channel(64);
        let mut channel = Channel { sender, gathered: Vec::new(), sent: Arc::default() };
        Packed::folder(folder.to_owned(), ignore(folder, None).unwrap()).write(&mut channel).unwrap();
        channel.flush().unwrap();
        drop(channel);
        let mut bytes = Vec::new();
        while let Ok(piece) = receiver.try_recv() {
            bytes.extend_from_slice(&piece.unwrap());
        }
        assert!(is_archive(&bytes[..512]));
        let mut archive = tar::Archive::new(&bytes[..]);
        let names =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        names.collect()
    }

    #[test]
    fn what_is_left_out_is_not_entered() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in ["a/b", "node_modules/x", "closed"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["a/keep.md", "a/drop.log", "a/b/drop.log", "node_modules/x/f", "closed/f"] {
            fs::write(root.join(path), "x").unwrap();
        }
        fs::write(
            root.join(".dockerignore"),
            "**/*.log\nnode_modules\nclosed\n!a/b/drop.log\n.dockerignore\n",
        )
        .unwrap();
        assert_eq!(packed(root), ["a/", "a/b/", "a/b/drop.log", "a/keep.md"]);
        fs::write(root.join("Dockerfile.dockerignore"), "*\n!a/keep.md\n").unwrap();
        assert_eq!(packed(root), ["a/keep.md"]);
    }

    #[test]
    fn archives_are_told_from_dockerfiles() {
        assert!(!is_archive(b"FROM x\n"));
        assert!(!is_archive(&[b'F'; 512]));
        assert!(is_archive(&[0x1f, 0x8b, 8]));
    }
}
