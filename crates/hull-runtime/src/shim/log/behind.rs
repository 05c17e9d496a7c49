//! Where a shim's output goes to be logged: the file itself, or (`mode=non-blocking`) a process that writes it.
//!
//! A disk that does not answer holds up who writes to it, and with it the shim and who prints. For who asked for that not
//! to happen, another process has the file: it is sent what was read, as much as its socket takes, and the rest waits
//! here up to the container's `max-buffer-size`. What does not fit is dropped, and the log says so. A process that was
//! killed is replaced by another, and the log says that, too.
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

/// How long the process is waited for that writes, when the container has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it is, where someone has to know its place: the container's streams stand still for as long.
const ANSWERS: Duration = Duration::from_secs(1);

/// How long after one was started another is, at least.
const AGAIN: Duration = Duration::from_secs(1);

/// What waits takes no less memory than this once something has waited; more is let go when nothing does.
const SMALL: usize = 64 * 1024;

/// Bytes before those of a message.
const HEAD: usize = 13;

/// Bytes before those of an answer: the question's number, and the length.
const ANSWER_HEAD: usize = 12;

// What a message is.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
/// This, and the stream's number: it has ended.
const END: u8 = 16;
const ROTATE: u8 = 32;
/// Instead of a time it has the question's number.
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
        let Some(writer) = Writer::open(log.clone())? else { return Ok(None) };
        Ok(Some(match buffer {
            None => Sink::Here(Box::new(writer)),
            Some(max) => Sink::Behind(Behind::start(writer, log, max)?),
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
            Sink::Behind(behind) if !behind.waiting.is_empty() => {
                behind.socket.as_ref().map(AsRawFd::as_raw_fd)
            }
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
    /// None: the process is gone, and the next one not due.
    socket: Option<UnixStream>,
    /// When the process was started.
    started: Instant,
    /// What another process opens.
    log: Log,
    /// Messages that the socket has not taken, one behind the other: they have no cost beside their bytes.
    waiting: VecDeque<u8>,
    /// How much of the first it has.
    taken: usize,
    /// How many bytes may wait.
    max: u64,
    /// Bytes that were dropped since the last one that was not.
    dropped: u64,
    /// The number of the last question, and of the last that was answered or never will be.
    asked: u64,
    answered: u64,
    /// What has come of an answer.
    answer: Vec<u8>,
}

impl Behind {
    fn start(writer: Writer, log: Log, max: u64) -> Result<Behind> {
        let doing = || "start the process that writes the log".to_owned();
        let (socket, theirs) = UnixStream::pair().context(doing)?;
        let mut kept = [theirs.as_raw_fd(), writer.file.as_raw_fd()];
        process::beside(c"hull-log", &mut kept, || serve(writer, theirs)).context(doing)?;
        socket.set_nonblocking(true).context(doing)?;
        Ok(Behind {
            socket: Some(socket),
            started: Instant::now(),
            log,
            waiting: VecDeque::new(),
            taken: 0,
            max,
            dropped: 0,
            asked: 0,
            answered: 0,
            answer: Vec::new(),
        })
    }

    /// How many bytes wait.
    pub(super) fn held(&self) -> u64 {
        self.waiting.len() as u64
    }

    fn write(&mut self, stream: Stream, bytes: &[u8], time_ns: u64) {
        // Something always fits: a buffer smaller than what is read in one go is not one that takes nothing.
        if !self.waiting.is_empty() && self.held() + (HEAD + bytes.len()) as u64 > self.max {
            self.dropped += bytes.len() as u64;
            // Where the process is gone, nothing else looks for another.
            return self.feed();
        }
        self.tell_dropped(time_ns);
        let what = if stream == Stream::Stdout { STDOUT } else { STDERR };
        self.push(what, time_ns, bytes);
        self.feed();
    }

    fn tell_dropped(&mut self, time_ns: u64) {
        if self.dropped > 0 {
            let text =
                format!("hull: {} bytes of output were dropped here: the log was behind\n", self.dropped);
            self.dropped = 0;
            self.push(STDERR, time_ns, text.as_bytes());
        }
    }

    /// Tells what has no bytes.
    fn say(&mut self, what: u8, time_ns: u64) {
        self.push(what, time_ns, &[]);
        self.feed();
    }

    fn push(&mut self, what: u8, time_ns: u64, bytes: &[u8]) {
        let length = HEAD + bytes.len();
        let free = self.waiting.capacity() - self.waiting.len();
        if free < length {
            // Twice as much as there was, but not more than may wait.
            let within = usize::try_from(self.max).unwrap_or(usize::MAX).saturating_sub(self.waiting.len());
            self.waiting.reserve_exact(self.waiting.capacity().max(SMALL).min(within).max(length));
        }
        self.waiting.extend(message_head(what, time_ns, bytes.len()));
        self.waiting.extend(bytes);
    }

    /// Sends what the socket takes. Where nobody is there to read it, another process is started.
    fn feed(&mut self) {
        while !self.waiting.is_empty() {
            if self.socket.is_none() && !self.start_again() {
                return;
            }
            let Some(socket) = &mut self.socket else { return };
            let (first, second) = self.waiting.as_slices();
            let rest = first.get(self.taken..).filter(|rest| !rest.is_empty());
            match socket.write(rest.unwrap_or_else(|| &second[self.taken - first.len()..])) {
                Ok(count) => self.taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.is_gone(),
            }
            self.let_go();
        }
        if self.waiting.is_empty() && self.waiting.capacity() > SMALL {
            self.waiting = VecDeque::new();
        }
    }

    /// Lets go of the messages that the socket has as a whole.
    fn let_go(&mut self) {
        while let Some(length) = self.first_length().filter(|length| *length <= self.taken) {
            self.waiting.drain(..length);
            self.taken -= length;
        }
    }

    /// How long the first message is.
    fn first_length(&self) -> Option<usize> {
        let mut length = [0; 4];
        for (byte, at) in length.iter_mut().zip(HEAD - 4..) {
            *byte = *self.waiting.get(at)?;
        }
        Some(HEAD + u32::from_le_bytes(length) as usize)
    }

    /// The process has died. What its socket had is lost with it, but for the message that it did not have as a whole.
    fn is_gone(&mut self) {
        self.socket = None;
        self.taken = 0;
        self.answered = self.asked;
        self.answer.clear();
    }

    /// Starts another process, whether it is time to; false: later. It opens the log itself, for that may take long.
    fn start_again(&mut self) -> bool {
        if self.started.elapsed() < AGAIN {
            return false;
        }
        self.started = Instant::now();
        let Ok((socket, theirs)) = UnixStream::pair() else { return false };
        let log = self.log.clone();
        let started = process::beside(c"hull-log", &mut [theirs.as_raw_fd()], || {
            if let Ok(Some(writer)) = Writer::open(log) {
                serve(writer, theirs);
            }
        });
        if started.and_then(|()| socket.set_nonblocking(true)).is_err() {
            return false;
        }
        self.socket = Some(socket);
        let text = b"hull: output may be missing here: the process that writes the log was killed\n";
        let head = message_head(STDERR, now_ns(), text.len());
        for byte in head.iter().chain(text).rev() {
            self.waiting.push_front(*byte);
        }
        true
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

    /// Waits for the socket, or where there is none for the moment to start another process. Woken early, who asked looks
    /// again.
    fn wait(&self, events: i16, until: Instant) {
        let Some(socket) = &self.socket else {
            let until = until.min(self.started + AGAIN);
            let _ = kernel::poll(&mut [], Some(until.saturating_duration_since(Instant::now())));
            return;
        };
        let mut interest = [Interest { fd: socket.as_raw_fd(), events, revents: 0 }];
        let _ = kernel::poll(&mut interest, Some(until.saturating_duration_since(Instant::now())));
    }

    /// Asks for the place. Who asks holds up the container for no more than a moment, and only once while the disk does
    /// not answer.
    fn place(&mut self) -> Result<Place> {
        let doing = || "ask for the end of the log".to_owned();
        let late =
            "its file takes nothing at this moment: try again later, or attach without what was logged";
        // What was asked before may have been answered since.
        while self.answered < self.asked {
            match self.next_answer(Instant::now()) {
                Ok(_) => {}
                Err(_) if self.answered < self.asked => return Err(Error::refused(doing(), late)),
                Err(_) => break,
            }
        }
        let until = Instant::now() + ANSWERS;
        self.asked += 1;
        let number = self.asked;
        self.push(PLACE, number, &[]);
        if !self.flush(until) {
            return Err(Error::refused(doing(), late));
        }
        loop {
            let (answers, answer) = match self.next_answer(until) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::refused(doing(), late));
                }
                answer => answer.context(doing)?,
            };
            if answers == number {
                let place: Option<Place> = serde_json::from_slice(&answer)
                    .map_err(|error| Error::refused(doing(), error.to_string()))?;
                return place.ok_or_else(|| Error::refused(doing(), "its file cannot be looked at"));
            }
        }
    }

    /// The number of the question that was answered next, and the answer. What has come of one in time is kept.
    fn next_answer(&mut self, until: Instant) -> io::Result<(u64, Vec<u8>)> {
        self.receive(ANSWER_HEAD, until)?;
        let (mut number, mut length) = ([0; 8], [0; 4]);
        number.copy_from_slice(&self.answer[..8]);
        length.copy_from_slice(&self.answer[8..ANSWER_HEAD]);
        self.receive(ANSWER_HEAD + u32::from_le_bytes(length) as usize, until)?;
        self.answered = u64::from_le_bytes(number);
        let answer = std::mem::take(&mut self.answer).split_off(ANSWER_HEAD);
        Ok((self.answered, answer))
    }

    /// Reads until so much of an answer is there.
    fn receive(&mut self, length: usize, until: Instant) -> io::Result<()> {
        while self.answer.len() < length {
            let Some(socket) = &mut self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
            let mut bytes = [0; 4096];
            let wanted = (length - self.answer.len()).min(bytes.len());
            match socket.read(&mut bytes[..wanted]) {
                Ok(0) => {
                    self.is_gone();
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(count) => self.answer.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    self.wait(libc::POLLIN, until);
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.is_gone();
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        let until = Instant::now() + PATIENCE;
        self.tell_dropped(now_ns());
        self.flush(until);
        // It ends when it has read all, and with it its end of the socket; before that may come answers nobody waits for.
        let shut = |socket: &UnixStream| socket.shutdown(std::net::Shutdown::Write).is_ok();
        if self.socket.as_ref().is_some_and(shut) {
            while self.next_answer(until).is_ok() {}
        }
    }
}

fn message_head(what: u8, time_ns: u64, length: usize) -> [u8; HEAD] {
    let mut head = [what; HEAD];
    head[1..9].copy_from_slice(&time_ns.to_le_bytes());
    // No more is read in one go than fits.
    head[9..].copy_from_slice(&(length as u32).to_le_bytes());
    head
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
                let length = (answer.len() as u32).to_le_bytes();
                if socket.write_all(&[&time[..], &length, &answer].concat()).is_err() {
                    return;
                }
            }
            _ => writer.end(stream, time_ns),
        }
    }
}
