//! The streams of a container or an exec: what it prints goes to the log and to its clients, what they send
//! goes to its standard input.
//!
//! Nothing is read that cannot be passed on: while a client has not taken what was printed, the stream is not
//! read, and the container waits, as it would for a terminal. While standard input is full, clients are not
//! read. When the process has ended, nobody waits any more: what it left in its pipes is read, and kept for those
//! clients that go on taking it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::Winsize;

use super::client::{Client, Input};
use super::early::Early;
use super::interests::{Interests, Part};
use super::log::{Sink, Stream};
use crate::error::Context;
use crate::protocol::{Attach, Stdio};
use crate::{Error, Result, container};

/// How much is read at once, in bytes.
pub(super) const READ_MAX: usize = 64 * 1024;

/// How much of a client's input is read at once, in bytes.
const INPUT_MAX: usize = 8 * 1024;

/// How much is told of what was printed for nothing, before a process that never came.
const LAST_WORDS: usize = 16 * 1024;

/// How many bytes the keys that detach may be.
const DETACH_KEYS_MAX: usize = 64;

/// What keeps a new client's stream back.
pub(super) struct Hold<'a> {
    /// Where the byte comes from that lets it go.
    pub(super) pipe: OwnedFd,
    /// Of each stream, the line that has begun and is not in the log yet.
    pub(super) begun: [(Stream, &'a [u8]); 2],
}

/// The shim's ends of the streams, and who is attached to them.
#[derive(Debug)]
pub(super) struct Streams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// The terminal's master, which stands for all three.
    terminal: Option<OwnedFd>,
    /// The terminal has not ended.
    terminal_open: bool,
    stdio: Stdio,
    /// What standard input has not taken yet.
    input: Vec<u8>,
    /// No more input will come.
    input_ends: bool,
    clients: Vec<Client>,
    /// Nothing is held back for slow clients any more: the process has ended, and what it left is little.
    draining: bool,
    /// What was printed before the process was there: by a runtime that makes it, whose words these are too.
    early: Early,
    /// The streams that have ended by then.
    early_ends: Vec<Stream>,
}

impl Streams {
    /// Makes the streams, and the ends that the new process gets.
    pub(super) fn new(stdio: Stdio) -> Result<(Streams, container::Streams)> {
        let doing = || "make the pipes of the standard streams".to_owned();
        let mut streams = Streams {
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
            terminal_open: false,
            stdio,
            input: Vec::new(),
            input_ends: false,
            clients: Vec::new(),
            draining: false,
            early: Early::default(),
            early_ends: Vec::new(),
        };
        if streams.stdio.terminal {
            let size = streams.stdio.size;
            return Ok((streams, container::Streams::Terminal { size }));
        }
        let stdin = if streams.stdio.stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).context(doing)?;
            rustix::io::ioctl_fionbio(&ours, true).context(doing)?;
            streams.stdin = Some(ours);
            theirs
        } else {
            null(OFlags::RDONLY)?
        };
        let (stdout_ours, stdout) = pipe_with(PipeFlags::CLOEXEC).context(doing)?;
        let (stderr_ours, stderr) = pipe_with(PipeFlags::CLOEXEC).context(doing)?;
        rustix::io::ioctl_fionbio(&stdout_ours, true).context(doing)?;
        rustix::io::ioctl_fionbio(&stderr_ours, true).context(doing)?;
        (streams.stdout, streams.stderr) = (Some(stdout_ours), Some(stderr_ours));
        Ok((streams, container::Streams::Pipes { stdin, stdout, stderr }))
    }

    /// No streams at all, for a process whose output nobody will ever see.
    pub(super) fn none() -> Result<(Streams, container::Streams)> {
        let streams = Streams {
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
            terminal_open: false,
            stdio: Stdio::default(),
            input: Vec::new(),
            input_ends: true,
            clients: Vec::new(),
            draining: false,
            early: Early::default(),
            early_ends: Vec::new(),
        };
        let (stdin, stdout) = (null(OFlags::RDONLY)?, null(OFlags::WRONLY)?);
        let stderr = null(OFlags::WRONLY)?;
        Ok((streams, container::Streams::Pipes { stdin, stdout, stderr }))
    }

    /// The terminal's master has come.
    pub(super) fn set_terminal(&mut self, master: OwnedFd) -> Result<()> {
        rustix::io::ioctl_fionbio(&master, true).context(|| "set up the terminal".into())?;
        self.terminal = Some(master);
        self.terminal_open = true;
        Ok(())
    }

    /// Sets the terminal's size; false when there is no terminal.
    pub(super) fn resize(&self, width: u16, height: u16) -> Result<bool> {
        let Some(terminal) = &self.terminal else { return Ok(false) };
        let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).context(|| "set the terminal's size".into())?;
        Ok(true)
    }

    /// Connects a client; with a hold its stream waits, and begins with what stands there.
    pub(super) fn attach(&mut self, mut attach: Attach, socket: OwnedFd, hold: Option<Hold<'_>>) {
        let already = std::mem::take(&mut attach.already_read);
        let mut client = Client::new(attach, socket);
        if let Some(Hold { pipe, begun }) = hold {
            client.hold(pipe);
            for (stream, bytes) in begun.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
                client.print(stream, bytes);
            }
        }
        if client.sends {
            self.feed(&client.sift(&already));
        }
        self.clients.push(client);
    }

    /// Whether anyone is attached.
    pub(super) fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    fn source(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        match stream {
            Stream::Stdout if self.terminal_open => self.terminal.as_ref().map(AsFd::as_fd),
            Stream::Stdout => self.stdout.as_ref().map(AsFd::as_fd),
            Stream::Stderr => self.stderr.as_ref().map(AsFd::as_fd),
        }
    }

    fn sink(&self) -> Option<BorrowedFd<'_>> {
        if self.terminal_open && self.stdio.stdin {
            return self.terminal.as_ref().map(AsFd::as_fd);
        }
        self.stdin.as_ref().map(AsFd::as_fd)
    }

    /// Whether nothing more can be printed.
    pub(super) fn ended(&self) -> bool {
        self.source(Stream::Stdout).is_none() && self.source(Stream::Stderr).is_none()
    }

    /// Begins the streams of clients that have read the heads of their answers by now.
    pub(super) fn look(&mut self) {
        self.clients.iter_mut().for_each(Client::look);
    }

    /// When to [`Streams::look`] again.
    pub(super) fn looks_at(&self, now: Instant) -> Option<Instant> {
        self.clients.iter().filter_map(|client| client.looks_at(now)).min()
    }

    /// Whether every client has taken everything.
    pub(super) fn delivered(&self) -> bool {
        !self.clients.iter().any(Client::is_behind)
    }

    /// The process has ended: from now on nothing is held back for slow clients.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Adds what these streams wait for.
    pub(super) fn interests(&self, owner: usize, interests: &mut Interests) {
        if self.draining || self.delivered() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(fd) = self.source(stream) {
                    interests.add(fd.as_raw_fd(), libc::POLLIN, Part::Output(owner, stream));
                }
            }
        }
        if let Some(fd) = self.sink().filter(|_| !self.input.is_empty()) {
            interests.add(fd.as_raw_fd(), libc::POLLOUT, Part::Input(owner));
        }
        for (index, client) in self.clients.iter().enumerate() {
            if let Some((fd, events)) = client.interest(self.input.is_empty()) {
                interests.add(fd, events, Part::Client(owner, index));
            }
            if let Some(fd) = client.held_by() {
                interests.add(fd, libc::POLLIN, Part::Hold(owner, index));
            }
        }
    }

    /// Reads a stream once and passes it on; whether there may be more at once.
    pub(super) fn output(&mut self, stream: Stream, buffer: &mut Vec<u8>, log: Option<&mut Sink>) -> bool {
        let Some(source) = self.source(stream) else { return false };
        buffer.clear();
        match rustix::io::retry_on_intr(|| rustix::io::read(source, spare_capacity(buffer))) {
            Err(Errno::AGAIN) => false,
            // A terminal fails so when nobody has it open any more.
            Ok(0) | Err(_) => {
                self.end_output(stream, log);
                false
            }
            Ok(_) => {
                if let Some(log) = log {
                    log.write(stream, buffer, super::now_ns());
                }
                for client in &mut self.clients {
                    client.print(stream, buffer);
                }
                true
            }
        }
    }

    /// Reads what a runtime prints that makes the process, so that it is not held up; it is passed on when the process is there.
    pub(super) fn read_early(&mut self) {
        let mut bytes = Vec::with_capacity(READ_MAX);
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.early.has_room() && !self.early_ends.contains(&stream) {
                bytes.clear();
                let Some(source) = self.source(stream) else { break };
                match rustix::io::retry_on_intr(|| rustix::io::read(source, spare_capacity(&mut bytes))) {
                    Ok(1..) => self.early.add(stream, &bytes),
                    Err(Errno::AGAIN) => break,
                    // It is found again by who reads the streams later.
                    Ok(0) | Err(_) => {
                        self.early_ends.push(stream);
                        break;
                    }
                }
            }
        }
    }

    /// Where [`Streams::read_early`] is waited for.
    pub(super) fn read_early_at(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let has_room = self.early.has_room();
        [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .filter(move |stream| has_room && !self.early_ends.contains(stream))
            .filter_map(|stream| self.source(stream))
    }

    /// Passes on what was read before the process was there.
    pub(super) fn pass_early(&mut self, mut log: Option<&mut Sink>) {
        for (stream, bytes) in self.early.take() {
            if let Some(log) = &mut log {
                log.write(stream, &bytes, super::now_ns());
            }
            for client in &mut self.clients {
                client.print(stream, &bytes);
            }
        }
    }

    /// What was printed to standard error in the end: the last words of a process that never came to be this one.
    pub(super) fn printed(&mut self) -> Vec<u8> {
        self.read_early();
        self.early.tail(Stream::Stderr, LAST_WORDS)
    }

    /// The stream has ended, or is given up.
    fn end_output(&mut self, stream: Stream, log: Option<&mut Sink>) {
        match stream {
            Stream::Stdout => (self.terminal_open, self.stdout) = (false, None),
            Stream::Stderr => self.stderr = None,
        }
        if let Some(log) = log {
            log.end(stream, super::now_ns());
        }
    }

    /// Reads what is there and then ends both streams, whoever still holds them.
    pub(super) fn give_up(&mut self, buffer: &mut Vec<u8>, mut log: Option<&mut Sink>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // A pipe holds a mebibyte at most; whoever fills it faster than it is read is not waited for.
            for _ in 0..64 {
                if !self.output(stream, buffer, log.as_deref_mut()) {
                    break;
                }
            }
            if self.source(stream).is_some() {
                self.end_output(stream, log.as_deref_mut());
            }
        }
    }

    /// Standard input can take more.
    pub(super) fn input_ready(&mut self) {
        let input = std::mem::take(&mut self.input);
        self.feed(&input);
    }

    /// Writes to standard input; what it does not take is kept.
    fn feed(&mut self, bytes: &[u8]) {
        // Where nothing is left to write to, input goes nowhere, as it does into a closed pipe.
        if let Some(sink) = self.sink() {
            let mut written = 0;
            if self.input.is_empty() {
                while written < bytes.len() {
                    match rustix::io::retry_on_intr(|| rustix::io::write(sink, &bytes[written..])) {
                        Ok(more) => written += more,
                        Err(Errno::AGAIN) => break,
                        Err(_) => {
                            self.stdin = None;
                            return;
                        }
                    }
                }
            }
            self.input.extend_from_slice(&bytes[written..]);
        }
        if self.input.is_empty() && self.input_ends {
            self.stdin = None;
        }
    }

    /// Something has happened at a client's socket.
    pub(super) fn client_ready(&mut self, index: usize, ready: i16) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if ready & libc::POLLOUT != 0 {
            client.flush();
        }
        if ready & libc::POLLIN != 0 && client.sends {
            let mut buffer = [0; INPUT_MAX];
            match client.receive(&mut buffer) {
                Input::Nothing => {}
                Input::Bytes(bytes) => self.feed(&bytes),
                Input::End => self.client_sends_no_more(),
            }
        } else if ready & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
            client.hang_up();
            if client.is_done() && self.clients[index].sends {
                self.client_sends_no_more();
            }
        }
    }

    /// A client's stream begins, or it is dropped.
    pub(super) fn hold_ready(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.let_go();
        if client.is_done() && client.sends {
            self.client_sends_no_more();
        }
    }

    fn client_sends_no_more(&mut self) {
        if self.stdio.stdin_once && !self.stdio.terminal {
            self.input_ends = true;
            self.feed(&[]);
        }
    }

    /// Whether a client is there to see what comes.
    pub(super) fn is_attended(&self) -> bool {
        self.clients.iter().any(|client| !client.is_gone())
    }

    /// Forgets clients that have detached or are gone.
    pub(super) fn sweep(&mut self) {
        self.clients.retain(|client| !client.is_done());
    }

    /// When the first of those clients that take nothing is given up.
    pub(super) fn gives_up_at(&self) -> Option<Instant> {
        self.clients.iter().filter_map(Client::gives_up_at).min()
    }

    /// Disconnects those clients that have taken nothing for too long. Only what has ended may do that: a process that
    /// runs waits for its clients.
    pub(super) fn cut_stalled(&mut self, now: Instant) {
        self.clients.retain(|client| client.gives_up_at().is_none_or(|at| at > now));
    }

    /// Disconnects those clients that have everything.
    pub(super) fn release(&mut self) {
        self.clients.retain(|client| client.is_behind() && !client.is_done());
    }

    /// The process has ended: clients send nothing any more.
    pub(super) fn end_input(&mut self) {
        self.stdin = None;
        self.input = Vec::new();
        for client in &mut self.clients {
            client.sends = false;
        }
    }
}

/// Whether a client may be attached so; `logged`: to streams whose log can be sent to it first.
pub(super) fn check(attach: &Attach, logged: bool) -> Result<()> {
    if attach.held && !logged {
        return Err(Error::refused(
            "hold a client's stream",
            "these streams have no log that it could follow",
        ));
    }
    if attach.detach_keys.len() > DETACH_KEYS_MAX {
        let reason = format!("more than {DETACH_KEYS_MAX} bytes of keys to detach");
        return Err(Error::refused("attach a client", reason));
    }
    Ok(())
}

fn null(access: OFlags) -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", access | OFlags::CLOEXEC, Mode::empty()).context(|| "open /dev/null".into())
}
