//! What is in a layer's archive besides the bytes of its files, kept so that the archive can be given back bit by
//! bit from the extracted tree.
//!
//! The file is a zstd stream of records: `0`, a length, raw bytes; or `1`, the length of a path, the path, an offset
//! and a length: that many bytes of that file. Numbers are LEB128. A file that a later entry of the same archive
//! replaced lies in the folder of kept files, under a name made of its path and of the number of contents records
//! that were written when it was replaced.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::Digest;
use crate::number::{get_number, put_number};
use crate::tar::Record;

const RAW: u8 = 0;
const CONTENTS: u8 = 1;

/// Raw bytes are gathered up to this many before they become a record.
const GATHER: usize = 64 * 1024;

/// The name under which a replaced file is kept.
pub(crate) fn kept_name(path: &[u8], contents: u64) -> String {
    format!("{}.{contents}", Digest::of(path).hex())
}

/// Writes the file.
pub(crate) struct SplitWriter {
    out: zstd::stream::write::Encoder<'static, File>,
    raw: Vec<u8>,
    contents: u64,
}

impl SplitWriter {
    /// Begins the file.
    pub(crate) fn create(path: &Path) -> io::Result<SplitWriter> {
        let out = zstd::stream::write::Encoder::new(File::create_new(path)?, 1)?;
        Ok(SplitWriter { out, raw: Vec::with_capacity(GATHER), contents: 0 })
    }

    /// How many contents records were written.
    pub(crate) fn contents_count(&self) -> u64 {
        self.contents
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.finish()?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            self.out.write_all(&[RAW])?;
            put_number(&mut self.out, self.raw.len() as u64)?;
            self.out.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }
}

impl Record for SplitWriter {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(GATHER) {
            if self.raw.len() + piece.len() > GATHER {
                self.flush()?;
            }
            self.raw.extend_from_slice(piece);
        }
        Ok(())
    }

    fn contents(&mut self, path: &[u8], offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        self.flush()?;
        self.contents += 1;
        self.out.write_all(&[CONTENTS])?;
        put_number(&mut self.out, path.len() as u64)?;
        self.out.write_all(path)?;
        put_number(&mut self.out, offset)?;
        put_number(&mut self.out, length)
    }
}

/// Writes a layer's archive again, from its split file, its kept files and its tree.
pub(crate) fn assemble(split: &Path, kept: &Path, tree: &Path, out: &mut dyn Write) -> io::Result<()> {
    let mut source = BufReader::new(zstd::stream::read::Decoder::new(File::open(split)?)?);
    let files = Files { tree: open_folder(tree)?, kept: Kept::read(kept)? };
    let mut buffer = vec![0; 128 * 1024];
    let mut contents = 0;
    loop {
        let mut tag = [0];
        if source.read(&mut tag)? == 0 {
            return Ok(());
        }
        if tag[0] == RAW {
            let length = get_number(&mut source)?;
            let mut left = length;
            while left > 0 {
                let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                source.read_exact(&mut buffer[..count])?;
                out.write_all(&buffer[..count])?;
                left -= count as u64;
            }
            continue;
        }
        let mut path = vec![0; usize::try_from(get_number(&mut source)?.min(1 << 20)).unwrap_or(0)];
        source.read_exact(&mut path)?;
        let (offset, length) = (get_number(&mut source)?, get_number(&mut source)?);
        let file = files.open(&path, contents)?;
        contents += 1;
        copy(&file, offset, length, &mut buffer, out)?;
    }
}

fn copy(file: &File, offset: u64, length: u64, buffer: &mut [u8], out: &mut dyn Write) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut done = 0;
    while done < length {
        let count = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let count = file.read_at(&mut buffer[..count], offset + done)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a file of the layer is shorter than it was",
            ));
        }
        out.write_all(&buffer[..count])?;
        done += count as u64;
    }
    Ok(())
}

struct Files {
    tree: OwnedFd,
    kept: Kept,
}

impl Files {
    /// The file that had `path` when the contents record of this number was written.
    fn open(&self, path: &[u8], contents: u64) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if let Some((folder, name)) = self.kept.find(path, contents) {
            return Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?.into());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = openat2(self.tree.as_fd(), path, flags, Mode::empty(), resolve);
        Ok(file
            .map_err(|errno| {
                let reason = io::Error::from(errno);
                let path = String::from_utf8_lossy(path);
                io::Error::new(reason.kind(), format!("open {path} in the layer's tree: {reason}"))
            })?
            .into())
    }
}

/// The kept files: for each path's digest, the numbers at which it was replaced.
struct Kept {
    folder: Option<OwnedFd>,
    replaced: HashMap<String, Vec<u64>>,
}

impl Kept {
    fn read(folder: &Path) -> io::Result<Kept> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Kept { folder: None, replaced: HashMap::new() });
            }
            Err(error) => return Err(error),
        };
        let mut replaced: HashMap<String, Vec<u64>> = HashMap::new();
        for entry in entries {
            let name = entry?.file_name();
            let parts = name.to_str().and_then(|name| name.split_once('.'));
            if let Some((digest, number)) =
                parts.and_then(|(digest, number)| Some((digest, number.parse().ok()?)))
            {
                replaced.entry(digest.to_owned()).or_default().push(number);
            }
        }
        Ok(Kept { folder: Some(open_folder(folder)?), replaced })
    }

    /// The first replacement after the record is where its file went.
    fn find(&self, path: &[u8], contents: u64) -> Option<(&OwnedFd, String)> {
        let folder = self.folder.as_ref()?;
        let numbers = self.replaced.get(&Digest::of(path).hex())?;
        let number = numbers.iter().filter(|&&number| number > contents).min()?;
        Some((folder, kept_name(path, *number)))
    }
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
