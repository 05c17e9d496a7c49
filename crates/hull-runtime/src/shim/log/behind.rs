//! Where a shim's output goes to be logged: the file itself, or (`mode=non-blocking`) a process that writes it.
//!
//! A disk that does not answer holds up who writes to it, and with it the shim and who prints. For who asked for that not
//! to happen, another process has the file: it is sent what was read, as much as its socket takes, and the rest waits
//! here up to the container's `max-buffer-size`. What does not fit is dropped, and the log says so.
//!
//! On the socket each message is a head of 13 bytes (what, the time, the length) and the bytes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Stream, Writer, process};
use crate::error::Context;
use crate::protocol::{Log, LogPlace};
use crate::shim::kernel::{self, Interest};
use crate::shim::now_ns;
use crate::{Error, Result};

/// How long the process is waited for that writes, when the container has ended, or someone has to know its place.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes before those of a message.
const HEAD: usize = 13;

// What a message is.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
/// This, and the stream's number: it has ended.
const END: u8 = 16;
const ROTATE: u8 = 32;
const PLACE: u8 = 33;

/// The end of a log at some moment, and of both streams what has begun and is no entry yet.
pub(crate) type Place = (LogPlace, [Vec<u8>; 2]);

/// Takes what a container prints.
#[derive(Debug)]
pub(crate) enum Sink {
    /// The shim writes the file.
    Here(Box<Writer>),
    /// Another process does.
    Behind(Behind),
}

impl Sink {
    /// Opens the log; none for [`Log::None`].
    pub(crate) fn open(log: Log) -> Result<Option<Sink>> {
        let buffer = match &log {
            Log::None => None,
            Log::JsonFile(config) | Log::Local(config) => config.buffer,
        };
        let Some(writer) = Writer::open(log)? else { return Ok(None) };
        Ok(Some(match buffer {
            None => Sink::Here(Box::new(writer)),
            Some(max) => Sink::Behind(Behind::start(writer, max)?),
        }))
    }

    /// Logs what was read from `stream` at `time_ns`.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], time_ns: u64) {
        match self {
            Sink::Here(writer) => writer.write(stream, bytes, time_ns),
            Sink::Behind(behind) => behind.write(stream, bytes, time_ns),
        }
    }

    /// The stream has ended.
    pub(crate) fn end(&mut self, stream: Stream, time_ns: u64) {
        match self {
            Sink::Here(writer) => writer.end(stream, time_ns),
            Sink::Behind(behind) => behind.say(END + stream as u8, time_ns),
        }
    }

    /// Starts a new file.
    pub(crate) fn rotate(&mut self) {
        match self {
            Sink::Here(writer) => writer.rotate(),
            Sink::Behind(behind) => behind.say(ROTATE, 0),
        }
    }

    /// Behind the last entry, and what has begun since.
    pub(crate) fn place(&mut self) -> Result<Place> {
        match self {
            Sink::Here(writer) => writer.place_and_begun(),
            Sink::Behind(behind) => behind.place(),
        }
    }

    /// What waits to be taken: its descriptor has to have room for it.
    pub(crate) fn waits_for(&self) -> Option<i32> {
        match self {
            Sink::Behind(behind) if !behind.waiting.is_empty() => Some(behind.socket.as_raw_fd()),
            _ => None,
        }
    }

    /// There is room.
    pub(crate) fn ready(&mut self) {
        if let Sink::Behind(behind) = self {
            behind.feed();
        }
    }

    /// All has been said. Returns when it is written, or a disk that does not answer was waited for long enough.
    pub(crate) fn close(self) {
        if let Sink::Behind(mut behind) = self {
            behind.close();
        }
    }
}

/// The process that writes, and what it is to be told.
#[derive(Debug)]
pub(crate) struct Behind {
    socket: UnixStream,
    /// Messages that the socket has not taken.
    waiting: VecDeque<Vec<u8>>,
    /// How much of the first it has.
    taken: usize,
    /// How many bytes wait.
    pub(super) held: u64,
    /// How many may.
    max: u64,
    /// Bytes that were dropped since the last one that was not.
    dropped: u64,
}

impl Behind {
    fn start(writer: Writer, max: u64) -> Result<Behind> {
        let doing = || "start the process that writes the log".to_owned();
        let (socket, theirs) = UnixStream::pair().context(doing)?;
        let mut kept = [theirs.as_raw_fd(), writer.file.as_raw_fd()];
        process::beside(c"hull-log", &mut kept, || serve(writer, theirs)).context(doing)?;
        socket.set_nonblocking(true).context(doing)?;
        let waiting = VecDeque::new();
        Ok(Behind { socket, waiting, taken: 0, held: 0, max, dropped: 0 })
    }

    fn write(&mut self, stream: Stream, bytes: &[u8], time_ns: u64) {
        // Something always fits: a buffer smaller than what is read in one go is not one that takes nothing.
        if !self.waiting.is_empty() && self.held + bytes.len() as u64 > self.max {
            self.dropped += bytes.len() as u64;
            return;
        }
        if self.dropped > 0 {
            let text =
                format!("hull: {} bytes of output were dropped here: the log was behind\n", self.dropped);
            self.dropped = 0;
            self.push(STDERR, time_ns, text.as_bytes());
        }
        let what = if stream == Stream::Stdout { STDOUT } else { STDERR };
        self.push(what, time_ns, bytes);
        self.feed();
    }

    /// Tells what has no bytes.
    fn say(&mut self, what: u8, time_ns: u64) {
        self.push(what, time_ns, &[]);
        self.feed();
    }

    fn push(&mut self, what: u8, time_ns: u64, bytes: &[u8]) {
        let mut message = Vec::with_capacity(HEAD + bytes.len());
        message.push(what);
        message.extend_from_slice(&time_ns.to_le_bytes());
        // No more is read in one go than fits.
        message.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        message.extend_from_slice(bytes);
        self.held += message.len() as u64;
        self.waiting.push_back(message);
    }

    /// Sends what the socket takes. Where nobody is there to read it, it is let go.
    fn feed(&mut self) {
        while let Some(message) = self.waiting.front() {
            match self.socket.write(&message[self.taken..]) {
                Ok(count) => self.taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.taken = message.len(),
            }
            if self.taken == message.len() {
                self.held -= message.len() as u64;
                self.waiting.pop_front();
                self.taken = 0;
            }
        }
        if self.waiting.capacity() > 64 {
            self.waiting = VecDeque::new();
        }
    }

    /// Sends everything; whether the socket has taken it in time.
    fn flush(&mut self, until: Instant) -> bool {
        self.feed();
        while !self.waiting.is_empty() && Instant::now() < until {
            self.wait(libc::POLLOUT, until);
            self.feed();
        }
        self.waiting.is_empty()
    }

    /// Waits for the socket. Woken early, who asked looks again.
    fn wait(&self, events: i16, until: Instant) {
        let mut interest = [Interest { fd: self.socket.as_raw_fd(), events, revents: 0 }];
        let _ = kernel::poll(&mut interest, Some(until.saturating_duration_since(Instant::now())));
    }

    fn place(&mut self) -> Result<Place> {
        let doing = || "ask for the end of the log".to_owned();
        let until = Instant::now() + PATIENCE;
        self.push(PLACE, 0, &[]);
        if !self.flush(until) {
            return Err(Error::refused(doing(), "its file takes nothing at this moment"));
        }
        let mut head = [0; 4];
        self.read(&mut head, until).context(doing)?;
        let mut answer = vec![0; u32::from_le_bytes(head) as usize];
        self.read(&mut answer, until).context(doing)?;
        let place: Option<Place> =
            serde_json::from_slice(&answer).map_err(|error| Error::refused(doing(), error.to_string()))?;
        place.ok_or_else(|| Error::refused(doing(), "its file cannot be looked at"))
    }

    fn read(&self, mut bytes: &mut [u8], until: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.socket).read(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    self.wait(libc::POLLIN, until);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        let until = Instant::now() + PATIENCE;
        if self.dropped > 0 {
            // Tells of them.
            self.write(Stream::Stderr, &[], now_ns());
        }
        self.flush(until);
        // It ends when it has read all, and with it its end of the socket.
        if self.socket.shutdown(std::net::Shutdown::Write).is_ok() {
            let _ = self.read(&mut [0], until);
        }
    }
}

/// The process that writes: does what it is told until there will be no more.
fn serve(mut writer: Writer, mut socket: UnixStream) {
    let mut head = [0; HEAD];
    let mut bytes = Vec::new();
    while socket.read_exact(&mut head).is_ok() {
        let (mut time, mut length) = ([0; 8], [0; 4]);
        time.copy_from_slice(&head[1..9]);
        length.copy_from_slice(&head[9..]);
        let time_ns = u64::from_le_bytes(time);
        bytes.resize(u32::from_le_bytes(length) as usize, 0);
        if socket.read_exact(&mut bytes).is_err() {
            return;
        }
        let stream = if head[0] & !END == STDERR { Stream::Stderr } else { Stream::Stdout };
        match head[0] {
            STDOUT | STDERR => writer.write(stream, &bytes, time_ns),
            ROTATE => writer.rotate(),
            PLACE => {
                let answer = serde_json::to_vec(&writer.place_and_begun().ok()).unwrap_or_default();
                let head = (answer.len() as u32).to_le_bytes();
                if socket.write_all(&head).and_then(|()| socket.write_all(&answer)).is_err() {
                    return;
                }
            }
            _ => writer.end(stream, time_ns),
        }
    }
}
