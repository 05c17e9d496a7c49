//! The log of a container, as its shim writes it, and [`read`], as the engine reads it.
//!
//! What was read from a stream in one go is encoded and written in one go: a line is in the file by the time
//! the shim waits again. A line is an entry when its newline has come, when it is 16 KiB long (it goes on in
//! the next entry then), or when its stream has ended. Nothing here blocks the container: what the disk does
//! not take is counted, and the log says so as soon as it can be written again.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use self::compress::{Compressor, packed};
use crate::Result;
use crate::error::Context;
use crate::protocol::{Log, LogFile, LogPlace};

mod behind;
mod compress;
mod json;
mod local;
mod packed;
mod process;
pub mod read;

pub(crate) use behind::Sink;
pub(crate) use json::rfc3339;
#[cfg(test)]
mod tests;

/// The longest entry, in bytes: a longer line goes on in the next.
const PIECE_MAX: usize = 16 * 1024;

/// So many encoded bytes are written at once, at least.
const BATCH: usize = 64 * 1024;

/// How long a rotation waits for followers to open the newer files.
const FOLLOWERS_PATIENCE: Duration = Duration::from_secs(2);

/// For how long they are not waited for any more when they have not.
const DEAF: Duration = Duration::from_secs(30);

/// Where a byte was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Local,
}

/// The file that a rotation gives this number; 0 is the current one.
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

/// Writes a container's log.
#[derive(Debug)]
pub(crate) struct Writer {
    config: LogFile,
    format: Format,
    file: File,
    /// The current file's length: all of it whole entries.
    size: u64,
    /// Encoded entries which are not written yet.
    batch: Vec<u8>,
    /// How many they are.
    entries: u64,
    /// Entries that the disk did not take.
    lost: u64,
    /// Of each stream, the start of a line that has not ended.
    begun: [Vec<u8>; 2],
    /// What stands behind each line of the batch (json-file).
    tail: Vec<u8>,
    /// A follower did not come further in time: until then none is waited for.
    deaf_until: Option<Instant>,
    compressor: Compressor,
}

impl Writer {
    /// Opens the log; none for [`Log::None`].
    pub(crate) fn open(log: Log) -> Result<Option<Writer>> {
        let (config, format) = match log {
            Log::None => return Ok(None),
            Log::JsonFile(config) => (config, Format::Json),
            Log::Local(config) => (config, Format::Local),
        };
        let doing = || format!("open the log {}", config.path.display());
        let file = create(&config.path).context(doing)?;
        let mut size = file.metadata().context(doing)?.len();
        if size > 0 {
            size = mend(&file, size, format).context(doing)?;
        }
        let (begun, batch, tail) = Default::default();
        Ok(Some(Writer {
            config,
            format,
            file,
            size,
            batch,
            entries: 0,
            lost: 0,
            begun,
            tail,
            deaf_until: None,
            compressor: Compressor::default(),
        }))
    }

    /// Logs what was read from `stream` at `time_ns`.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8], time_ns: u64) {
        if self.format == Format::Json {
            json::tail(&mut self.tail, stream, &self.config.attributes, time_ns);
        }
        let mut begun = std::mem::take(&mut self.begun[stream as usize - 1]);
        while !begun.is_empty() && !bytes.is_empty() {
            let room = &bytes[..bytes.len().min(PIECE_MAX - begun.len())];
            let newline = room.iter().position(|&byte| byte == b'\n');
            let taken = newline.map_or(room.len(), |at| at + 1);
            begun.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if newline.is_some() || begun.len() == PIECE_MAX {
                self.entry(&begun, stream, time_ns);
                begun.clear();
            }
        }
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let (mut whole, mut rest) = bytes.split_at(whole);
        while !whole.is_empty() {
            whole = &whole[self.entry(whole, stream, time_ns)..];
        }
        while rest.len() >= PIECE_MAX {
            rest = &rest[self.entry(rest, stream, time_ns)..];
        }
        begun.extend_from_slice(rest);
        if begun.is_empty() {
            begun = Vec::new();
        }
        self.begun[stream as usize - 1] = begun;
        self.flush();
    }

    /// The stream has ended: a line without its newline is an entry now.
    pub(crate) fn end(&mut self, stream: Stream, time_ns: u64) {
        let begun = std::mem::take(&mut self.begun[stream as usize - 1]);
        if !begun.is_empty() {
            if self.format == Format::Json {
                json::tail(&mut self.tail, stream, &self.config.attributes, time_ns);
            }
            self.entry(&begun, stream, time_ns);
            self.flush();
        }
    }

    /// Behind the last entry, and of both streams the start of a line that has not ended, and is no entry yet.
    fn place_and_begun(&self) -> Result<behind::Place> {
        let file =
            self.file.metadata().context(|| format!("look at the log {}", self.config.path.display()))?;
        let place = LogPlace { device: file.dev(), inode: file.ino(), offset: self.size };
        Ok((place, self.begun.clone()))
    }

    /// Encodes the first entry of `text`; returns how many bytes it took.
    fn entry(&mut self, text: &[u8], stream: Stream, time_ns: u64) -> usize {
        let max = self.config.max_size;
        if max > 0 && self.size + self.batch.len() as u64 >= max {
            self.flush();
            // Not when nothing could be written: it would throw away what there is.
            if self.size >= max {
                self.rotate();
            }
        }
        let taken = match self.format {
            Format::Json => json::line(&mut self.batch, text, &self.tail),
            Format::Local => local::record(&mut self.batch, text, stream, time_ns),
        };
        self.entries += 1;
        if self.batch.len() >= BATCH {
            self.flush();
        }
        taken
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        if self.lost > 0 {
            // With what follows, so that a disk with room for the notice alone is not filled with notices.
            batch.splice(0..0, self.notice());
        }
        match self.put(&batch) {
            Ok(()) => self.lost = 0,
            Err(_) => self.lost += self.entries,
        }
        self.batch = batch;
        self.batch.clear();
        self.entries = 0;
    }

    /// Writes whole entries, or nothing.
    fn put(&mut self, entries: &[u8]) -> std::io::Result<()> {
        let written = self.file.write_all(entries);
        match &written {
            Ok(()) => self.size += entries.len() as u64,
            // What was written of them is taken back. When that fails too, a reader skips the half entry.
            Err(_) => drop(self.file.set_len(self.size)),
        }
        written
    }

    /// The entry that tells of lost ones.
    fn notice(&self) -> Vec<u8> {
        let text = format!("hull: {} log entries were lost here: the disk took no more\n", self.lost);
        let (mut out, now) = (Vec::new(), super::now_ns());
        match self.format {
            Format::Json => {
                let mut tail = Vec::new();
                json::tail(&mut tail, Stream::Stderr, &self.config.attributes, now);
                json::line(&mut out, text.as_bytes(), &tail)
            }
            Format::Local => local::record(&mut out, text.as_bytes(), Stream::Stderr, now),
        };
        out
    }

    /// Starts a new file. When that cannot be, the old one is written on. The oldest goes when every follower has come
    /// further than it.
    pub(crate) fn rotate(&mut self) {
        let path = &self.config.path;
        let mut fresh = OsString::from(path);
        fresh.push(".new");
        // A rotation that was cut off may have left one.
        let _ = std::fs::remove_file(&fresh);
        let Ok(file) = create(Path::new(&fresh)) else { return };
        let kept = self.config.max_file.max(1);
        let lock = self.config.compress.then(|| compress::lock(path));
        for number in (0..kept).rev() {
            // There are fewer files than allowed at first.
            let _ = std::fs::rename(numbered(path, number), numbered(path, number + 1));
            if self.config.compress && number > 0 {
                let _ = std::fs::rename(packed(path, number), packed(path, number + 1));
            }
        }
        if std::fs::rename(&fresh, path).is_err() {
            // What is written on is the newest again.
            let _ = std::fs::rename(numbered(path, 1), path);
            return;
        }
        let oldest = [numbered(path, kept), packed(path, kept)];
        (self.file, self.size) = (file, 0);
        for oldest in oldest.iter().take(if self.config.compress { 2 } else { 1 }) {
            self.wait_for_followers(oldest);
            let _ = std::fs::remove_file(oldest);
        }
        if lock.is_some() {
            self.compressor.begin(&self.config);
        }
    }

    /// Waits until no follower has this file as its newest: each opens the next one before it lets go of that
    /// ([`read::Keeper`]), which takes no longer than to be woken. One that does not in time is no longer waited for,
    /// and loses what it has not opened.
    fn wait_for_followers(&mut self, oldest: &Path) {
        if self.deaf_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let Ok(oldest) = File::open(oldest) else { return };
        if !until_unlocked(&oldest, FOLLOWERS_PATIENCE) {
            self.deaf_until = Some(Instant::now() + DEAF);
        }
    }
}

/// Waits until no follower holds this file, and locks it then; false, where that takes too long.
fn until_unlocked(file: &File, patience: Duration) -> bool {
    let begun = Instant::now();
    while rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if begun.elapsed() > patience {
            return false;
        }
        // Woken early it looks again early.
        let _ = super::kernel::poll(&mut [], Some(Duration::from_micros(100)));
    }
    true
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// Cuts off a last entry that a crash of the machine left half-written; returns the length that is left.
fn mend(file: &File, size: u64, format: Format) -> std::io::Result<u64> {
    let whole = match format {
        Format::Json => {
            let mut last = [0];
            file.read_exact_at(&mut last, size - 1)?;
            if last == [b'\n'] { size } else { read::last_newline(file, size)? }
        }
        Format::Local => read::whole_records(file, size)?,
    };
    if whole < size {
        file.set_len(whole)?;
    }
    Ok(whole)
}
