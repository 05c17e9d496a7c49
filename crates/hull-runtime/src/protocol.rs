//! The words that daemon, launcher and shim exchange: plain data, and how it goes over a socket.
//!
//! All sockets are `SOCK_SEQPACKET`: one message, one packet. A message is JSON. Up to [`INLINE_MAX`] bytes
//! it is the packet's own body; above, the packet's body is empty and the last file descriptor that comes
//! with it is a sealed memory file which holds the JSON. Other descriptors come before, in the order that
//! the message's documentation names.
//!
//! The protocol has a version. A newer daemon drives the shims that an older one left: a field is only ever
//! added, with a default, and what an old shim does not know it refuses by name.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::{Error, Result};

/// The version that this build speaks.
pub const VERSION: u32 = 2;

/// The longest JSON that travels in the packet itself, in bytes.
pub const INLINE_MAX: usize = 64 * 1024;

/// The longest JSON that is accepted at all, in bytes.
pub const MESSAGE_MAX: usize = 16 << 20;

/// The most descriptors that a message may carry, the memory file counted (the kernel's `SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;

/// Daemon to launcher. There is no answer on the launcher's socket: what was forked answers on the control
/// socket, which is the first descriptor of each message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToLauncher {
    /// Start a container.
    Start(Box<Launch>),
    /// Mount a container's file system as a start would, and show it.
    View(Box<View>),
}

/// A look at the file system of a container that does not run. A short-lived process mounts the root file
/// system and the spec's mounts of kind bind in a mount namespace of its own, answers [`Event::ViewReady`]
/// with one descriptor, the root folder, and holds it all until the control socket closes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    /// [`VERSION`] of the daemon.
    pub version: u32,
    /// The container, of which root and mounts are looked at.
    pub spec: Spec,
    /// Where the root file system comes from.
    pub rootfs: Rootfs,
}

/// Start one container. The shim answers with [`Event::Started`] or [`Event::StartFailed`] on the control
/// socket, which stays a subscribed connection of the shim until it closes.
///
/// Descriptors: the shim's end of the control socket; then `reserved` sockets which the shim merely holds
/// open until the container ends (bound host ports); then one client's stream socket for each of `attach`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Launch {
    /// [`VERSION`] of the daemon.
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// The container as the OCI runtime specification describes it. Its `linux.seccomp` is only looked at
    /// with [`Seccomp::Spec`].
    pub spec: Spec,
    /// Where the root file system comes from.
    pub rootfs: Rootfs,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// The standard streams.
    pub stdio: Stdio,
    /// Where output is logged.
    pub log: Log,
    /// The time after which everything in the container is killed.
    #[serde(default)]
    pub limits: Limits,
    /// The shim's folder in the exec root, made by the daemon: `shim.sock` and `exit.json` live here.
    pub runtime_dir: PathBuf,
    /// Whether the first process waits for [`Request::Network`] before it goes on (its network namespace is
    /// made elsewhere, meanwhile). In a user namespace it makes that itself, for it must be its own: it comes by
    /// [`Event::Network`], and goes back when it has its interfaces.
    #[serde(default)]
    pub awaits_network: bool,
    /// Whether a small init stands as process 1 in front of the command: it passes signals on and reaps.
    #[serde(default)]
    pub init: bool,
    /// How many of the descriptors after the control socket are reserved ones.
    #[serde(default)]
    pub reserved: usize,
    /// Those of them that the shim answers at; it merely holds the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<Relay>,
    /// Clients that are attached before the first byte is printed, each with a descriptor after the reserved
    /// ones. Should the start fail, their sockets are shut and nothing is written to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attach: Vec<Attach>,
    /// Whom the command runs as, looked up inside; none: the spec's numeric user.
    #[serde(default)]
    pub user: Option<UserLookup>,
    /// The OCI runtime that makes the container; none: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<ForeignRuntime>,
}

/// A reserved socket at which the shim answers: what comes there goes on elsewhere, and what comes back, back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Its place among the reserved descriptors. A stream's socket listens.
    pub reserved: usize,
    /// It takes datagrams and no connections.
    pub datagrams: bool,
    /// Where what comes goes to.
    pub to: std::net::SocketAddr,
}

/// Another OCI runtime, with runc's command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignRuntime {
    /// The name by which users choose it.
    pub name: String,
    /// Its program; without a folder it is looked for in the daemon's `PATH`.
    pub path: PathBuf,
    /// What it is given before everything else.
    #[serde(default)]
    pub arguments: Vec<String>,
}

/// A user and groups as they were written: the new process looks them up in the container's own /etc/passwd
/// and /etc/group, which is where names mean something. It wins over the process's numeric user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLookup {
    /// `user[:group]`, by name or number; empty: root.
    pub user: String,
    /// Further groups, by name or number.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// Where a root file system comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rootfs {
    /// It is already there, at the spec's `root.path`.
    Path,
    /// The same, and its ids are mapped by the container's user namespace, as those of an overlay's layers.
    MappedPath,
    /// An overlay, mounted by the container's first process in its own mount namespace.
    Overlay {
        /// Read-only layers, uppermost first.
        lower: Vec<PathBuf>,
        /// The container's writable layer.
        upper: PathBuf,
        /// overlayfs's work folder, beside `upper`.
        work: PathBuf,
        /// The ids of the layers are mapped by the container's user namespace: root's files on the disk are root's inside,
        /// and nobody's files change hands.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        mapped: bool,
    },
}

/// Which system call filter a container gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// hull's built-in profile, fitted to the capabilities of the spec's bounding set.
    Default,
    /// The spec's `linux.seccomp` section.
    Spec,
    /// No filter.
    Unconfined,
}

/// The standard streams of a container or of an exec.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// A pseudo-terminal of the container's own devpts instead of three pipes.
    pub terminal: bool,
    /// Whether standard input is open (otherwise `/dev/null`).
    pub stdin: bool,
    /// Whether standard input closes when the first attached client's does.
    pub stdin_once: bool,
    /// Width and height of the terminal at the start, in characters.
    pub size: Option<(u16, u16)>,
}

/// Where the shim writes what the container prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "driver")]
pub enum Log {
    /// Nowhere.
    None,
    /// Docker's json-file format: one JSON object a line.
    JsonFile(LogFile),
    /// hull's own compact format (see `shim::log`).
    Local(LogFile),
}

/// A log file and when it is rotated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogFile {
    /// The current file; rotated ones are called `PATH.1`, `PATH.2`, the highest the oldest.
    pub path: PathBuf,
    /// A file that has reached this many bytes is rotated; 0: never.
    pub max_size: u64,
    /// How many files there are at most, the current one counted; at least 1.
    pub max_file: u32,
    /// Extra attributes of each json-file line (`attrs`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Rotated files are compressed with gzip (`PATH.1.gz`).
    #[serde(default)]
    pub compress: bool,
    /// A process of its own writes the log, and who prints never waits for it: so many bytes wait for that process at
    /// most, and what does not fit is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer: Option<u64>,
}

/// How long something may run. The shim holds these, so they hold while the daemon is away.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Wall-clock time, in nanoseconds; 0: no limit.
    #[serde(default)]
    pub timeout_ns: u64,
    /// Processor time of everything in the cgroup (of an exec: of its process tree), in nanoseconds; 0: no limit.
    #[serde(default)]
    pub cpu_time_ns: u64,
}

/// Daemon to shim. Each but [`Request::Network`] is answered by one [`Reply`] on the same connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The network namespace is ready. Descriptor: the namespace. Sent on the control socket of the
    /// [`Launch`] only.
    Network,
    /// The network could not be made: the start is given up, with the reason passed back in
    /// [`Event::StartFailed`].
    NetworkFailed(Error),
    /// Connects a client to the streams. Descriptors: with [`Attach::held`] the reading end of a pipe; the client's
    /// stream socket.
    Attach(Attach),
    /// Starts another process in the container. Descriptor: the client's stream socket, if `attach` is set.
    /// Answered by [`Reply::Started`] once its exec has succeeded.
    Exec(Box<Exec>),
    /// Sets the size of a terminal: of the exec with that id, or of the container itself.
    Resize {
        /// The exec's id, or none for the container itself.
        exec: Option<String>,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Sends a signal to the first process of the container or of an exec. To be killed, an exec's others get it too; the
    /// shim of an older build knows them only where the exec has limits.
    Signal {
        /// The exec's id, or none for the container itself.
        exec: Option<String>,
        /// The signal's number.
        signal: i32,
    },
    /// Kills every process in the container's cgroup. On the control socket of a start it gives the start up, wherever
    /// its first process hangs: that fails, and has no answer but [`Event::StartFailed`].
    KillAll,
    /// Sets new limits of time, counted from the container's start.
    SetLimits(Limits),
    /// What the shim knows; answered by [`Reply::State`].
    State,
    /// From now on this connection also receives every [`Event`]. Answered by [`Reply::State`].
    Subscribe,
    /// Starts a new log file (the old one is rotated or, when `truncate`, emptied).
    ReopenLog,
}

/// How a client is connected to streams.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attach {
    /// The exec to attach to, or none for the container itself.
    #[serde(default)]
    pub exec: Option<String>,
    /// What the client sends goes to standard input.
    pub stdin: bool,
    /// Standard output goes to the client.
    pub stdout: bool,
    /// Standard error goes to the client.
    pub stderr: bool,
    /// Output is framed with Docker's 8-byte headers.
    pub framed: bool,
    /// The bytes which, typed by the client, detach it; empty: none.
    #[serde(default)]
    pub detach_keys: Vec<u8>,
    /// Bytes that the client had sent already when its socket was taken over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub already_read: Vec<u8>,
    /// Bytes that are written to the client first (the HTTP answer's head).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preface: Vec<u8>,
    /// The client's stream begins where the log is at that moment, and waits there, so that the log can be sent to
    /// the client until then. One byte in the pipe begins the stream; the pipe's end without one drops the client.
    /// Meanwhile the container waits as for a client that is slow. Answered by [`Reply::Held`]; the shim of an
    /// older build answers [`Reply::Done`], and the stream has begun. Only of [`Request::Attach`], and to the
    /// container itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

/// Another process in a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The exec's id.
    pub id: String,
    /// The process, as the OCI specification describes it.
    pub process: Process,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// Its standard streams.
    pub stdio: Stdio,
    /// How the client that came with the request is attached, if one did.
    pub attach: Option<Attach>,
    /// The time after which it and what it started is killed.
    #[serde(default)]
    pub limits: Limits,
    /// Whom it runs as, looked up inside; none: the process's numeric user.
    #[serde(default)]
    pub user: Option<UserLookup>,
    /// It is killed, with all that came of it, when the client that came with it has gone. The shim of an older build
    /// lets it run on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_with_client: bool,
}

/// Shim to daemon, in answer to a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done,
    /// An exec runs.
    Started {
        /// Its process id in the daemon's namespace.
        pid: i32,
    },
    /// What the shim knows.
    State(State),
    /// A client is attached, and its stream waits behind this place of the log.
    Held(LogPlace),
    /// Not done.
    Failed(Error),
}

/// A place between two entries of a log: the file, whatever its name is by now, and how much of it comes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    /// The device of the log's file.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Bytes from its start.
    pub offset: u64,
}

/// What a shim knows of its container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// [`VERSION`] of the shim.
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// The shim's own process id.
    pub shim_pid: i32,
    /// The first process, in the shim's namespace.
    pub pid: i32,
    /// When it started, in nanoseconds since 1970.
    pub started_at_ns: u64,
    /// The execs that run: their ids and process ids.
    pub execs: BTreeMap<String, i32>,
    /// Times the kernel killed a process of this container for memory.
    pub oom_kills: u64,
}

/// Shim to daemon, unasked, on subscribed connections and on the control socket of the [`Launch`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The command has been executed.
    Started {
        /// The first process, in the shim's namespace.
        pid: i32,
        /// The shim itself.
        shim_pid: i32,
        /// When, in nanoseconds since 1970.
        at_ns: u64,
        /// What the machine did not grant and the container runs without.
        warnings: Vec<String>,
    },
    /// The container could not be started; nothing of it is left and the shim ends.
    StartFailed(Error),
    /// The network namespace that the first process has made in its user namespace. Descriptor: the namespace. It waits
    /// for [`Request::Network`].
    Network,
    /// A [`View`] is mounted. Descriptor: its root folder.
    ViewReady,
    /// The kernel killed a process for memory.
    Oom,
    /// An exec ended.
    ExecExited {
        /// The exec's id.
        id: String,
        /// How it ended.
        exit: Exit,
    },
    /// The container ended; its streams are drained, and the same record is in `exit.json`. Its cgroup is removed when
    /// the connection closes: the shim ends.
    Exited(Exit),
}

/// A message on a connection from the shim: the answer to a request, or an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromShim {
    /// The answer to the oldest unanswered request.
    Reply(Reply),
    /// An event.
    Event(Event),
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit status; 128 + the signal's number when a signal ended it.
    pub status: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed any process of it for memory.
    pub oom_killed: bool,
    /// Why it ended, where hull ended it.
    pub reason: EndReason,
    /// When, in nanoseconds since 1970.
    pub at_ns: u64,
    /// What it met of limits, as far as that is known. The shim of an older build tells nothing of it.
    #[serde(default)]
    pub met: Met,
}

/// What a process or its container met of limits. What is none is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Met {
    /// Where the kernel killed for memory: at whose limit.
    pub memory: Option<Whose>,
    /// How often a new process was refused.
    pub refused_forks: Option<u64>,
    /// Processor time used, in nanoseconds.
    pub cpu_time_ns: Option<u64>,
}

/// Whose limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// The container's own.
    Own,
    /// One of a cgroup that it is below.
    Parent,
    /// Nobody's: the machine had no more.
    Machine,
}

/// Why a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// It exited by itself.
    Exited,
    /// A signal ended it.
    Signal,
    /// The kernel killed it for memory.
    Oom,
    /// Its wall-clock time was over.
    Timeout,
    /// Its processor time was spent.
    CpuTime,
    /// The client that it was to end with has gone.
    ClientGone,
}

/// Two connected ends, close-on-exec and blocking.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context(|| "make a pair of sockets".into())
}

/// Sends one message with its descriptors. A blocking socket waits for room; a full non-blocking one is an
/// error with `EAGAIN` as its `errno`, and nothing was sent.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let doing = || "send a message".to_owned();
    let json = serde_json::to_vec(message).map_err(|error| Error::refused(doing(), error.to_string()))?;
    let mut fds = descriptors.to_vec();
    let memory = if json.len() > INLINE_MAX { Some(memory_file(&json).context(doing)?) } else { None };
    fds.extend(memory.as_ref().map(AsFd::as_fd));
    if fds.len() > DESCRIPTORS_MAX || json.len() > MESSAGE_MAX {
        let (bytes, count) = (json.len(), fds.len());
        let reason = format!(
            "{bytes} bytes with {count} descriptors are too much: {MESSAGE_MAX} bytes and {DESCRIPTORS_MAX} \
             descriptors may travel at once"
        );
        return Err(Error::refused(doing(), reason));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let body = if memory.is_some() { &[][..] } else { &json[..] };
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(body)], &mut ancillary, SendFlags::NOSIGNAL)
    })
    .context(doing)?;
    Ok(())
}

fn memory_file(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::write(&file, &bytes[written..])?;
    }
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(file)
}

/// Why [`receive`] has no message.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The socket is non-blocking and nothing is there yet.
    #[error("nothing is there yet")]
    WouldBlock,
    /// The packet could not be received or is none of this protocol. The connection is of no use any more.
    #[error(transparent)]
    Broken(#[from] Error),
}

/// Receives one message with its descriptors (close-on-exec); none when the other end is closed.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<Option<(T, Vec<OwnedFd>)>, ReceiveError> {
    let Some((body, descriptors)) = receive_packet(socket)? else { return Ok(None) };
    let (json, descriptors) = unpack(body, descriptors)?;
    Ok(Some((parse(&json)?, descriptors)))
}

/// A packet's body, and all its descriptors.
pub(crate) type Packet = (Vec<u8>, Vec<OwnedFd>);

/// Receives a packet as it came. The launcher hands it to what it forks unread.
pub(crate) fn receive_packet(socket: BorrowedFd<'_>) -> Result<Option<Packet>, ReceiveError> {
    let doing = || "receive a message".to_owned();
    let broken = |error: Errno| match error {
        Errno::AGAIN => ReceiveError::WouldBlock,
        error => ReceiveError::Broken(Error::kernel(doing(), error)),
    };
    // The length first, so that no larger buffer is touched than is needed. The packet stays, so this is not
    // the end of the connection even when it says 0.
    let look = || rustix::net::recv(socket, &mut [0_u8; 0], RecvFlags::PEEK | RecvFlags::TRUNC);
    let looked = match rustix::io::retry_on_intr(look) {
        // The other end closed before it had read everything of ours. The kernel says so once, before it gives out
        // what the other end had said.
        Err(Errno::CONNRESET) => rustix::io::retry_on_intr(look),
        looked => looked,
    };
    let (_, length) = looked.map_err(broken)?;
    if length > INLINE_MAX {
        let reason = format!("a packet of {length} bytes is longer than {INLINE_MAX}");
        return Err(ReceiveError::Broken(Error::refused(doing(), reason)));
    }
    let mut body = vec![0; length];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let body = &mut [IoSliceMut::new(&mut body)];
        rustix::net::recvmsg(socket, body, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(broken)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        let reason = "the packet was cut: too many descriptors came, or too many files are open";
        return Err(ReceiveError::Broken(Error::refused(doing(), reason)));
    }
    if received.bytes == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    body.truncate(received.bytes);
    Ok(Some((body, descriptors)))
}

/// The JSON of a packet and its other descriptors.
pub(crate) fn unpack(body: Vec<u8>, mut descriptors: Vec<OwnedFd>) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    if !body.is_empty() {
        return Ok((body, descriptors));
    }
    let doing = || "read a message from its memory file".to_owned();
    let Some(memory) = descriptors.pop() else {
        return Err(Error::refused(doing(), "an empty packet came without one"));
    };
    // Unsealed, the sender could change it while it is read.
    let needed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    let length = rustix::fs::fstat(&memory).context(doing)?.st_size as usize;
    let sealed = rustix::fs::fcntl_get_seals(&memory).is_ok_and(|seals| seals.contains(needed));
    if !sealed || length > MESSAGE_MAX {
        return Err(Error::refused(doing(), "it is not sealed, or too long"));
    }
    let mut json = vec![0; length];
    let mut read = 0;
    while read < length {
        match rustix::io::pread(&memory, &mut json[read..], read as u64).context(doing)? {
            0 => return Err(Error::refused(doing(), "it ends early")),
            more => read += more,
        }
    }
    Ok((json, descriptors))
}

/// Parses a message's JSON.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        let reason = format!("{error}; this build speaks version {VERSION} of the protocol");
        Error::refused("understand a message", reason)
    })
}

#[cfg(test)]
mod tests;
