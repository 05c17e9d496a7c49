//! Clients at a container's streams. The client's own socket is handed to the shim: no byte passes the daemon.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hull_runtime::protocol::{Attach, Reply, Request};
use hull_runtime::sys::sockets::unread_by_peer;
use rustix::net::RecvFlags;
use rustix::pipe::PipeFlags;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::{Container, LogOptions, Logs, Status, locked};
use crate::{Engine, Error, Kind, Result};

/// How a client wants to be attached.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// What it sends goes to standard input.
    pub stdin: bool,
    /// It gets standard output.
    pub stdout: bool,
    /// It gets standard error.
    pub stderr: bool,
    /// Output comes in Docker's frames, where there is no terminal.
    pub framed: bool,
    /// The keys that detach, as `ctrl-p,ctrl-q`; empty: those.
    pub detach_keys: String,
    /// The client asked for output as it comes; without it only what is logged already is wanted.
    pub stream: bool,
    /// What is logged already comes first.
    pub logs: bool,
}

/// A client's connection, taken over from HTTP.
pub struct ClientStream {
    /// Its stream socket.
    pub socket: OwnedFd,
    /// What it had sent already.
    pub already_read: Vec<u8>,
}

/// A client that attached before the container runs.
pub(super) struct Waiting {
    request: AttachRequest,
    client: oneshot::Receiver<ClientStream>,
}

/// A place at a container's streams, reserved before the client's connection is taken over: a start that
/// comes in between waits for it, so that the client loses no byte.
pub struct AttachPlace {
    container: Arc<Container>,
    request: AttachRequest,
    /// Set where the container does not run yet.
    waiting: Option<oneshot::Sender<ClientStream>>,
    /// What comes first.
    logs: Option<Logs>,
}

impl Engine {
    /// Reserves a place at a container's streams.
    ///
    /// # Errors
    /// The container cannot be attached to in its state, it keeps no log though that is wanted, or the keys are no
    /// keys.
    pub fn attach(&self, container: &Arc<Container>, request: AttachRequest) -> Result<AttachPlace> {
        detach_keys(&request.detach_keys)?;
        let logged = LogOptions {
            stdout: request.stdout,
            stderr: request.stderr,
            // So that no file is removed before it was read, however slow the client.
            follow: request.stream,
            ..LogOptions::default()
        };
        let logs = if request.logs { Some(self.logs(container, &logged, request.framed)?) } else { None };
        let record = container.record();
        match record.state.status {
            Status::Paused => {
                return Err(Error::conflict(format!(
                    "Container {} is paused, unpause the container before attach",
                    container.id
                )));
            }
            Status::Restarting => {
                return Err(Error::conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => {}
        }
        // A start would wait for a client that is slow to read the log: that one gets its place behind it.
        let waiting = if record.is_running() || !request.stream || request.logs {
            None
        } else {
            Some(container.add_waiting(&request))
        };
        drop(record);
        self.tell(container, "attach");
        Ok(AttachPlace { container: Arc::clone(container), request, waiting, logs })
    }
}

impl AttachPlace {
    /// Whether output is to be framed: never with a terminal.
    pub fn framed(&self) -> bool {
        self.request.framed && !self.container.record().config.tty
    }

    /// Gives the client's connection to the container. Where it wants the log first, that is sent from here, and what
    /// comes behind it by the shim: each byte once.
    ///
    /// # Errors
    /// The container has ended meanwhile, or the log cannot be read.
    pub async fn take(self, client: ClientStream) -> Result<()> {
        let AttachPlace { container, request, waiting, logs } = self;
        if let Some(logs) = logs {
            return behind_the_log(&container, &request, client, logs).await;
        }
        if !request.stream {
            client.close();
            return Ok(());
        }
        match waiting {
            Some(waiting) => hand_over(waiting, client),
            None => {
                let shim = container.shim()?;
                let attach = protocol_attach(&container, &request, client.already_read, None)?;
                shim.ask(&Request::Attach(attach), &[client.socket.as_fd()]).await.map(drop)
            }
        }
    }
}

/// Sends the log to a client, and then gives it its place at the streams.
async fn behind_the_log(
    container: &Container,
    request: &AttachRequest,
    client: ClientStream,
    mut logs: Logs,
) -> Result<()> {
    head_is_read(client.socket.as_fd()).await;
    // What is printed while this is sent comes with the rest below: it may be more than a slow client ever takes.
    logs.end_here()?;
    client.replay(&mut logs).await?;
    logs.end_at(None);
    if !request.stream {
        client.close();
        return Ok(());
    }
    let waiting = {
        let record = container.record();
        let waits = !record.is_running() && !logs.follows();
        waits.then(|| container.add_waiting(request))
    };
    if let Some(waiting) = waiting {
        return hand_over(waiting, client);
    }
    match held_stream(container, request, &client, &mut logs).await {
        // It ended while its log was sent: the rest of what it printed is there too.
        Err(error) if error.kind == Kind::Conflict => client.replay_to_the_end(logs).await,
        done => done,
    }
}

/// Gives a client its place at the streams, which begin where the log ends that it has got.
///
/// # Errors
/// The container has ended (a conflict, the client is not attached), or the log cannot be read or sent.
async fn held_stream(
    container: &Container,
    request: &AttachRequest,
    client: &ClientStream,
    logs: &mut Logs,
) -> Result<()> {
    let failed = |error: std::io::Error| Error::system("hold a client's stream", error);
    let (pipe, hold) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let shim = container.shim()?;
    let attach = protocol_attach(container, request, client.already_read.clone(), None)?;
    let attach = Request::Attach(Attach { held: true, ..attach });
    match shim.ask(&attach, &[pipe.as_fd(), client.socket.as_fd()]).await? {
        Reply::Held(place) => {
            logs.end_at(Some(place));
            // Where this fails, the hold ends without a byte, and the shim drops the client.
            client.replay(logs).await?;
            rustix::io::write(&hold, &[0]).map(drop).map_err(|error| failed(error.into()))
        }
        // The shim of an older build has begun the stream: what was printed since the replay is in the log alone.
        _ => Ok(()),
    }
}

/// Gives a client to the start that waits for it.
fn hand_over(waiting: oneshot::Sender<ClientStream>, client: ClientStream) -> Result<()> {
    waiting.send(client).map_err(|_| Error::conflict("the container was removed meanwhile"))
}

fn unsent(error: std::io::Error) -> Error {
    Error::system("send the log to an attached client", error)
}

/// How long a client may take to read the head of its answer before it is written to all the same.
const HEAD_PATIENCE: Duration = Duration::from_millis(100);

/// Waits until a client has read the head of its answer, as a shim does before its first word: some clients (docker-py)
/// lose what comes together with the head.
pub async fn head_is_read(socket: BorrowedFd<'_>) {
    let begin = Instant::now();
    // Nothing tells when a peer has read, so it is asked for.
    while matches!(unread_by_peer(socket), Ok(1..)) && begin.elapsed() < HEAD_PATIENCE {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl ClientStream {
    /// Sends what is logged until now, or until the end that was set.
    async fn replay(&self, logs: &mut Logs) -> Result<()> {
        let mut socket = self.writer().map_err(unsent)?;
        while let Some(piece) = logs.now().await? {
            socket.write_all(&piece).await.map_err(unsent)?;
        }
        Ok(())
    }

    /// Sends what is logged until the container's end, and ends the connection.
    async fn replay_to_the_end(self, mut logs: Logs) -> Result<()> {
        let mut socket = self.writer().map_err(unsent)?;
        while let Some(piece) = logs.next().await? {
            socket.write_all(&piece).await.map_err(unsent)?;
        }
        self.close();
        Ok(())
    }

    /// A copy of the socket for the reactor; any stream socket is written to alike.
    fn writer(&self) -> std::io::Result<UnixStream> {
        let socket = std::os::unix::net::UnixStream::from(self.socket.try_clone()?);
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket)
    }

    /// Ends a connection that gets nothing more.
    fn close(self) {
        // The client may be gone already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        // Closed with unread input, the socket would greet the client with an error instead of the end.
        let mut rest = [0; 4096];
        while matches!(rustix::net::recv(&self.socket, &mut rest, RecvFlags::DONTWAIT), Ok((1.., _))) {}
    }
}

impl Container {
    fn add_waiting(&self, request: &AttachRequest) -> oneshot::Sender<ClientStream> {
        let (sender, client) = oneshot::channel();
        locked(&self.waiting_clients).push(Waiting { request: request.clone(), client });
        sender
    }

    /// The clients that attached before the start, once their connections have been taken over.
    pub(super) async fn waited_clients(&self) -> Result<Vec<(Attach, OwnedFd)>> {
        let waiting = std::mem::take(&mut *locked(&self.waiting_clients));
        let mut clients = Vec::with_capacity(waiting.len());
        for Waiting { request, client } in waiting {
            // A client that went away before it had the connection is no client.
            let Ok(client) = client.await else { continue };
            clients.push((protocol_attach(self, &request, client.already_read, None)?, client.socket));
        }
        Ok(clients)
    }
}

/// The request as the shim understands it.
pub(super) fn protocol_attach(
    container: &Container,
    request: &AttachRequest,
    already_read: Vec<u8>,
    exec: Option<String>,
) -> Result<Attach> {
    let record = container.record();
    let terminal = record.config.tty;
    Ok(Attach {
        exec,
        stdin: request.stdin && record.config.open_stdin,
        stdout: request.stdout,
        // A terminal has one stream.
        stderr: request.stderr && !terminal,
        framed: request.framed && !terminal,
        detach_keys: if terminal { detach_keys(&request.detach_keys)? } else { Vec::new() },
        already_read,
        preface: Vec::new(),
        held: false,
    })
}

/// Reads `ctrl-p,ctrl-q` or `a,b`.
///
/// # Errors
/// A part is neither a character nor ctrl- and one.
pub(super) fn detach_keys(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok(vec![16, 17]);
    }
    text.split(',')
        .map(|key| match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
            ([byte], _) => Ok(*byte),
            (_, Some([byte @ b'a'..=b'z'])) => Ok(byte - b'a' + 1),
            (_, Some(b"@")) => Ok(0),
            (_, Some(b"[")) => Ok(27),
            (_, Some(b"\\")) => Ok(28),
            (_, Some(b"]")) => Ok(29),
            (_, Some(b"^")) => Ok(30),
            (_, Some(b"_")) => Ok(31),
            _ => Err(Error::invalid(format!(
                "Invalid detach keys ({text}) provided: unknown character: '{key}'"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_characters_or_control_characters() {
        assert_eq!(detach_keys("").unwrap(), [16, 17]);
        assert_eq!(detach_keys("ctrl-a,x,ctrl-]").unwrap(), [1, b'x', 29]);
        for wrong in ["ctrl-A", "xy", "a,", "ctrl-"] {
            assert!(detach_keys(wrong).is_err(), "{wrong}");
        }
    }
}
