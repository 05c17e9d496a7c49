//! Reading a container's log, while its shim writes and rotates it.
//!
//! A [`Reader`] goes through the files from the oldest to the current one. Once it has a file open, a rotation
//! takes nothing from it: a file is left when it is read to its end *after* a newer one was seen. The files
//! are looked up from the newest to the oldest, the way that rotations move them, so that one which happens
//! meanwhile can show a file twice (its inode tells) and never hide one. A follower has a lock on the newest file it
//! knows, and the shim removes no file that is locked so: what comes after it cannot be removed before it, so nothing
//! is gone before it was found.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;
use serde::Deserialize;

use super::compress::{self, Origin};
use super::packed::Packed;
use super::{Format, Stream, json, local, numbered};
use crate::error::Context;
use crate::protocol::{Log, LogPlace};
use crate::{Error, Result};

/// How much is read at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// How much a reader that is behind keeps open, and with it its place on the disk: bytes, and files.
const HELD: u64 = 512 << 20;
const HELD_FILES: usize = 2048;

/// How often the newest file may be removed while it is looked at.
const LOOKS: u32 = 100;

/// One entry: a line, or a piece of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was read from the container, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Where it was printed.
    pub stream: Stream,
    /// What was printed, with its newline.
    pub bytes: Vec<u8>,
    /// The line goes on in the next entry of its stream, or ended without a newline.
    pub partial: bool,
}

/// Which entries are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// Only so many of the last ones (looked at before the times are).
    pub tail: Option<u64>,
    /// None before this time, in nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// None after this time, in nanoseconds since 1970.
    pub until_ns: Option<u64>,
    /// It is read on as it grows: a rotation removes nothing that has not been opened, as long as a [`Keeper`] opens it.
    pub follow: bool,
}

/// Reads the entries of a log.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    format: Format,
    query: Query,
    /// The files still to be read, the one being read first.
    files: VecDeque<OpenFile>,
    /// Where those that come after them are found.
    found: Arc<Mutex<Found>>,
    /// Bytes of the first file from `at` on.
    buffer: Vec<u8>,
    /// How far the buffer is used up.
    used: usize,
    /// An entry was later than wanted.
    over: bool,
    /// Entries behind this place are not wanted.
    end: Option<LogPlace>,
}

/// The files of a log as they come: each is found once, whether the reader looks or its keeper.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    max_file: u32,
    max_size: u64,
    /// The newest that was found.
    newest: Option<(u64, u64)>,
    /// Found and not taken by the reader yet, the oldest first.
    queue: VecDeque<OpenFile>,
    /// Whether what is not found yet is to be kept.
    follow: bool,
    /// The newest that was found, locked: the shim removes it only when this is another one.
    frontier: Option<Arc<File>>,
}

/// Opens the files of a log for a reader that may be behind: a rotation takes an open file from nobody.
#[derive(Debug)]
pub struct Keeper(Arc<Mutex<Found>>);

impl Keeper {
    /// Opens the files that have come, as long as less than 512 MiB is held for the reader. To be called when
    /// something was made or renamed in the log's folder; does not wait for a reader at work.
    pub fn take_up_newer(&self) -> Result<()> {
        let mut found = lock(&self.0);
        let count = found.queue.len();
        if count < HELD_FILES && found.max_size.saturating_mul(count as u64) < HELD {
            found.look()?;
        } else {
            // Too far behind: the shim does not wait for this one.
            found.let_go();
        }
        Ok(())
    }
}

/// A panic elsewhere leaves nothing half-done here.
fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<File>,
    id: (u64, u64),
    /// Where the buffer starts, or reading will.
    at: u64,
    /// It is compressed, and has the place of the file which it was made of.
    packed: Option<Packed>,
    /// Of a compressed file: what it was made of, and which file it is itself.
    origin: Option<(Origin, (u64, u64))>,
}

impl OpenFile {
    /// Whether both have the same in them, as far as they were not opened long ago.
    fn is_the_same(&self, other: &OpenFile) -> bool {
        match (&self.origin, &other.origin) {
            (None, None) => self.id == other.id,
            (Some((_, this)), Some((_, other))) => this == other,
            (None, Some((origin, _))) => self.file.metadata().is_ok_and(|now| Origin::of(&now) == *origin),
            (Some(_), None) => other.is_the_same(self),
        }
    }

    /// Reads of what is in it, from there on.
    fn read_at(&mut self, buffer: &mut [u8], from: u64) -> std::io::Result<usize> {
        match &mut self.packed {
            Some(packed) => packed.read_at(buffer, from),
            None => self.file.read_at(buffer, from),
        }
    }

    /// Where the last `count` entries in it start, and how many there are (fewer, when it has no more).
    fn back(&self, format: Format, count: u64) -> std::io::Result<(u64, u64)> {
        match (&self.packed, format) {
            (Some(packed), _) => packed.back(format, count),
            (None, Format::Json) => lines_back(&self.file, count),
            (None, Format::Local) => records_back(&self.file, count),
        }
    }
}

impl Reader {
    /// Opens the files of a log as they are now; none for a log that is kept nowhere.
    pub fn open(log: &Log, query: Query) -> Result<Option<Reader>> {
        let (config, format) = match log {
            Log::None => return Ok(None),
            Log::JsonFile(config) => (config, Format::Json),
            Log::Local(config) => (config, Format::Local),
        };
        let mut found = Found {
            path: config.path.clone(),
            max_file: config.max_file.max(1),
            max_size: config.max_size,
            newest: None,
            queue: VecDeque::new(),
            follow: query.follow,
            frontier: None,
        };
        found.look()?;
        let mut reader = Reader {
            path: config.path.clone(),
            format,
            query,
            files: std::mem::take(&mut found.queue),
            found: Arc::new(Mutex::new(found)),
            buffer: Vec::new(),
            used: 0,
            over: false,
            end: None,
        };
        if let Some(count) = query.tail {
            reader.skip_to_tail(count)?;
        }
        Ok(Some(reader))
    }

    /// What opens the files to come while this is behind.
    pub fn keeper(&self) -> Keeper {
        Keeper(Arc::clone(&self.found))
    }

    /// Reads no further than to the first end of an entry at `place` or behind it; none: to the end.
    pub fn end_at(&mut self, place: Option<LogPlace>) {
        self.end = place;
    }

    /// The end of the log at this moment, of those files that are open; none where there are none.
    pub fn place_of_end(&self) -> Result<Option<LogPlace>> {
        let Some(newest) = self.files.back() else { return Ok(None) };
        let offset = newest.file.metadata().context(|| self.doing())?.len();
        Ok(Some(LogPlace { device: newest.id.0, inode: newest.id.1, offset }))
    }

    /// Whether the next entry is the first behind the end.
    fn is_at_end(&self) -> bool {
        self.files.front().zip(self.end).is_some_and(|(file, end)| {
            file.id == (end.device, end.inode) && file.at + self.used as u64 >= end.offset
        })
    }

    fn doing(&self) -> String {
        format!("read the log {}", self.path.display())
    }

    /// Forgets all but the last `count` entries.
    fn skip_to_tail(&mut self, count: u64) -> Result<()> {
        let mut wanted = count;
        for index in (0..self.files.len()).rev() {
            let file = &mut self.files[index];
            let doing = || format!("read the log {}", self.path.display());
            let (start, skipped) = file.back(self.format, wanted).context(doing)?;
            file.at = start;
            wanted -= skipped;
            if wanted == 0 {
                self.files.drain(..index);
                break;
            }
        }
        Ok(())
    }

    /// The next entry; none when there is none now, or none wanted any more ([`Reader::is_over`]).
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        while !self.over {
            if self.is_at_end() {
                break;
            }
            match self.parse() {
                Some((entry, length)) => {
                    self.used += length;
                    let Some(entry) = entry else { continue };
                    if self.query.since_ns.is_some_and(|since| entry.time_ns < since) {
                        continue;
                    }
                    self.over = self.query.until_ns.is_some_and(|until| entry.time_ns > until);
                    if !self.over {
                        return Ok(Some(entry));
                    }
                }
                None if self.fill()? => {}
                // Read to its end after a newer one was seen: nothing is added to it any more.
                None if self.files.len() > 1 => {
                    self.files.pop_front();
                    (self.buffer, self.used) = (Vec::new(), 0);
                }
                None => {
                    self.rewind();
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Whether an entry later than wanted has been seen, or the end is reached: there is nothing to follow any more.
    pub fn is_over(&self) -> bool {
        self.over || self.is_at_end()
    }

    /// Looks whether [`Reader::next_entry`] may have more: new bytes, or a new file. To be called when
    /// something has changed in the log's folder.
    pub fn poll_more(&mut self) -> Result<bool> {
        if self.is_over() {
            return Ok(false);
        }
        if self.fill()? {
            return Ok(true);
        }
        self.rewind();
        let mut found = lock(&self.found);
        if !found.is_up_to_date() {
            found.look()?;
        }
        let more = !found.queue.is_empty();
        self.files.append(&mut found.queue);
        Ok(more)
    }

    /// Reads more of the first file; whether there was more.
    fn fill(&mut self) -> Result<bool> {
        let doing = self.doing();
        let Some(file) = self.files.front_mut() else { return Ok(false) };
        file.at += self.used as u64;
        self.buffer.drain(..self.used);
        self.used = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + CHUNK, 0);
        let from = file.at + length as u64;
        let read = file.read_at(&mut self.buffer[length..], from);
        self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
        Ok(read.context(|| doing)? > 0)
    }

    /// Forgets half an entry: it is read anew, for the writer may take it back when the disk is full.
    fn rewind(&mut self) {
        if let Some(file) = self.files.front_mut() {
            file.at += self.used as u64;
        }
        self.buffer.clear();
        self.used = 0;
    }

    /// The next entry in the buffer, and its length there; no entry where the bytes are none.
    fn parse(&self) -> Option<(Option<Entry>, usize)> {
        let bytes = &self.buffer[self.used..];
        match self.format {
            Format::Json => {
                let end = bytes.iter().position(|&byte| byte == b'\n')?;
                Some((parse_line(&bytes[..end]), end + 1))
            }
            Format::Local => parse_record(bytes),
        }
    }
}

impl Found {
    /// Whether the newest file is found, for sure.
    fn is_up_to_date(&self) -> bool {
        self.newest.is_some() && self.current() == self.newest
    }

    /// Finds what is newer than the newest that was found, and holds on to the newest.
    fn look(&mut self) -> Result<()> {
        for _ in 0..LOOKS {
            let newest = self.look_once()?;
            if !self.follow || self.hold(newest)? {
                break;
            }
            // It was removed before it was held: there are newer ones.
        }
        Ok(())
    }

    /// Locks the newest file in place of the one before. False: it was removed in between.
    fn hold(&mut self, newest: Option<Arc<File>>) -> Result<bool> {
        let Some(newest) = newest else { return Ok(true) };
        if rustix::fs::flock(&*newest, FlockOperation::NonBlockingLockShared).is_err() {
            // It is just being removed.
            return Ok(false);
        }
        self.let_go();
        let linked =
            newest.metadata().context(|| format!("hold the log {}", self.path.display()))?.nlink() > 0;
        self.frontier = Some(newest);
        Ok(linked)
    }

    /// The shim may remove what was the newest.
    fn let_go(&mut self) {
        if let Some(frontier) = self.frontier.take() {
            // Others have the file open as well: closing it would not do.
            let _ = rustix::fs::flock(&*frontier, FlockOperation::Unlock);
        }
    }

    /// Opens the files newer than the newest that was found; all, where that has been rotated away. The newest, where
    /// there are any.
    fn look_once(&mut self) -> Result<Option<Arc<File>>> {
        let mut files = self.newer()?;
        for _ in 0..LOOKS {
            // Two rotations amid the look, and files would stand in a wrong order. A shim that waits for this follower
            // soon makes none.
            if files.back().is_none_or(|newest| self.current() == Some(newest.id)) {
                break;
            }
            files = self.newer()?;
        }
        let mut handle = None;
        if let Some(newest) = files.back() {
            self.newest = Some(newest.id);
            if self.follow {
                handle = Some(Arc::clone(&newest.file));
            }
        }
        self.queue.append(&mut files);
        Ok(handle)
    }

    /// Which file is written to at this moment.
    fn current(&self) -> Option<(u64, u64)> {
        std::fs::metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino())).ok()
    }

    /// The files newer than the newest that was found, the oldest first.
    fn newer(&self) -> Result<VecDeque<OpenFile>> {
        let mut files: VecDeque<OpenFile> = VecDeque::new();
        // One more than there may be: a rotation in progress has moved the oldest up before it is gone.
        for number in 0..=self.max_file {
            let Some(file) = self.numbered(number)? else { continue };
            if Some(file.id) == self.newest {
                break;
            }
            if files.iter().all(|other| !other.is_the_same(&file)) {
                files.push_front(file);
            }
        }
        Ok(files)
    }

    /// The file of this number, or the compressed one that has taken its place: that is there before the other goes.
    fn numbered(&self, number: u32) -> Result<Option<OpenFile>> {
        let compressed = (number > 0).then(|| compress::packed(&self.path, number));
        for path in std::iter::once(numbered(&self.path, number)).chain(compressed) {
            let doing = || format!("open the log {}", path.display());
            let file = match File::open(&path) {
                Ok(file) => Arc::new(file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::kernel(doing(), error)),
            };
            let metadata = file.metadata().context(doing)?;
            let is_packed = path.extension().is_some_and(|extension| extension == "gz");
            let packed = is_packed.then(|| Packed::new(Arc::clone(&file)));
            let itself = (metadata.dev(), metadata.ino());
            let origin = if is_packed { Origin::read(&file).map(|origin| (origin, itself)) } else { None };
            let id = origin.map_or(itself, |(origin, _)| origin.id());
            return Ok(Some(OpenFile { file, id, at: 0, packed, origin }));
        }
        Ok(None)
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    log: String,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let stream = if line.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
    let bytes = line.log.into_bytes();
    let partial = bytes.last() != Some(&b'\n');
    Some(Entry { time_ns: json::parse_time(&line.time)?, stream, bytes, partial })
}

fn parse_record(bytes: &[u8]) -> Option<(Option<Entry>, usize)> {
    let head = bytes.get(..local::HEAD)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let text = bytes.get(local::HEAD..local::HEAD + length)?;
    let whole = local::HEAD + length + local::TAIL;
    bytes.get(..whole)?;
    let partial = head[4] & local::GOES_ON != 0;
    let stream = if head[4] & !local::GOES_ON == 2 { Stream::Stderr } else { Stream::Stdout };
    let time_ns = u64::from_le_bytes(head[5..].try_into().ok()?);
    let mut bytes = text.to_vec();
    if !partial {
        bytes.push(b'\n');
    }
    Some((Some(Entry { time_ns, stream, bytes, partial }), whole))
}

/// Where the last `count` lines start, and how many there are (fewer, when the file has no more).
fn lines_back(file: &File, count: u64) -> std::io::Result<(u64, u64)> {
    let mut end = last_newline(file, file.metadata()?.len())?;
    if count == 0 || end == 0 {
        return Ok((end, 0));
    }
    // The newline at the very end belongs to the last line.
    end -= 1;
    let mut found = 0;
    let mut chunk = vec![0; CHUNK];
    while end > 0 {
        let length = CHUNK.min(end as usize);
        let start = end - length as u64;
        file.read_exact_at(&mut chunk[..length], start)?;
        for at in (0..length).rev().filter(|&at| chunk[at] == b'\n') {
            found += 1;
            if found == count {
                return Ok((start + at as u64 + 1, found));
            }
        }
        end = start;
    }
    Ok((0, found + 1))
}

/// Where the last `count` records start, and how many there are (fewer, when the file has no more).
fn records_back(file: &File, count: u64) -> std::io::Result<(u64, u64)> {
    let size = file.metadata()?.len();
    let around = (local::HEAD + local::TAIL) as u64;
    let (mut at, mut found) = (size, 0);
    let (mut head, mut tail) = ([0; 4], [0; 4]);
    while found < count && at >= around {
        file.read_exact_at(&mut tail, at - local::TAIL as u64)?;
        let start = at.checked_sub(around + u64::from(u32::from_le_bytes(tail)));
        if let Some(start) = start {
            file.read_exact_at(&mut head, start)?;
        }
        let Some(start) = start.filter(|_| head == tail) else {
            // Half a record at the end, being written just now: what is whole is found from the front.
            let whole = if at == size { whole_records(file, size)? } else { size };
            if whole == size {
                break;
            }
            at = whole;
            continue;
        };
        (at, found) = (start, found + 1);
    }
    Ok((at, found))
}

/// Where the last whole line ends.
pub(super) fn last_newline(file: &File, size: u64) -> std::io::Result<u64> {
    let mut end = size;
    let mut chunk = vec![0; CHUNK];
    while end > 0 {
        let length = chunk.len().min(end as usize);
        file.read_exact_at(&mut chunk[..length], end - length as u64)?;
        if let Some(at) = chunk[..length].iter().rposition(|&byte| byte == b'\n') {
            return Ok(end - (length - at - 1) as u64);
        }
        end -= length as u64;
    }
    Ok(0)
}

/// Where the last whole record of the local format ends.
pub(super) fn whole_records(file: &File, size: u64) -> std::io::Result<u64> {
    let around = (local::HEAD + local::TAIL) as u64;
    let mut at = 0;
    let mut length = [0; 4];
    while at + around <= size {
        file.read_exact_at(&mut length, at)?;
        let next = at + around + u64::from(u32::from_le_bytes(length));
        if next > size {
            break;
        }
        at = next;
    }
    Ok(at)
}
