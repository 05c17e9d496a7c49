//! What flows between this process's standard streams and a container's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use bytes::{Buf as _, Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::error::{Error, words};
use crate::terminal::Escape;

/// How a pumping of streams ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other side has nothing more to say.
    Closed,
    /// The user typed the detach keys.
    Detached,
}

/// Where a frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Takes the frames of a multiplexed stream apart: 8 bytes (stream, 3 zeros, length in network order), then data.
/// A frame's data is given on as it comes, without waiting for its end.
#[derive(Debug, Default)]
pub struct Demux {
    pending: BytesMut,
    /// The frame that is open: where it goes and how much of it is still to come.
    open: Option<(Target, usize)>,
}

impl Demux {
    /// Takes in what was received.
    pub fn feed(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
    }

    /// The next piece of data; `None` when more must be received first.
    ///
    /// # Errors
    /// A frame of an unknown stream: what is received is no multiplexed stream.
    pub fn next(&mut self) -> Result<Option<(Target, Bytes)>, Error> {
        loop {
            if let Some((target, left)) = self.open {
                if left == 0 {
                    self.open = None;
                    continue;
                }
                if self.pending.is_empty() {
                    return Ok(None);
                }
                let length = left.min(self.pending.len());
                self.open = Some((target, left - length));
                return Ok(Some((target, self.pending.split_to(length).freeze())));
            }
            if self.pending.len() < 8 {
                return Ok(None);
            }
            let kind = self.pending.get_u32() >> 24;
            let length = self.pending.get_u32() as usize;
            let target = match kind {
                0 | 1 => Target::Out,
                // 3 is the daemon's own word on an error.
                2 | 3 => Target::Err,
                _ => {
                    return Err(Error::new(format!(
                        "the daemon's stream has a frame of the unknown kind {kind}"
                    )));
                }
            };
            self.open = Some((target, length));
        }
    }
}

/// Writes to one of our own standard streams without ever holding up the event loop: while a pipe is full or a
/// terminal stopped, signals must still be passed on.
pub async fn write(target: Target, mut data: &[u8]) -> Result<(), Error> {
    // poll's "writable" promises room for PIPE_BUF bytes, no more.
    const SURE: usize = 4096;
    while !data.is_empty() {
        if !writable(target, Some(Timespec { tv_sec: 0, tv_nsec: 0 }))? {
            let waited = tokio::task::spawn_blocking(move || writable(target, None)).await;
            waited.map_err(|e| Error::new(format!("cannot wait for the output: {e}")))??;
            continue;
        }
        let piece = &data[..data.len().min(SURE)];
        let written = with_fd(target, |fd| rustix::io::retry_on_intr(|| rustix::io::write(fd, piece)));
        match written {
            Ok(length) => data = &data[length..],
            Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Ok(())
}

fn with_fd<T>(target: Target, action: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    match target {
        Target::Out => action(io::stdout().as_fd()),
        Target::Err => action(io::stderr().as_fd()),
    }
}

fn writable(target: Target, timeout: Option<Timespec>) -> Result<bool, Error> {
    let ready = with_fd(target, |fd| {
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref()))
    });
    ready.map(|count| count > 0).map_err(|e| io::Error::from(e).into())
}

/// Copies what is received to our standard streams, until its end.
pub async fn receive(mut from: impl AsyncRead + Unpin, multiplexed: bool) -> Result<(), Error> {
    let mut buffer = vec![0; 32 * 1024];
    let mut demux = Demux::default();
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            // A daemon that drops the connection has said all it will.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                return Ok(());
            }
            Err(e) => {
                return Err(Error::connection(format!("the connection to the daemon broke: {}", words(&e))));
            }
        };
        if !multiplexed {
            write(Target::Out, &buffer[..length]).await?;
            continue;
        }
        demux.feed(&buffer[..length]);
        while let Some((target, data)) = demux.next()? {
            write(target, &data).await?;
        }
    }
}

/// Copies our standard input to the container, until its end or the detach keys.
///
/// The end of our input closes that direction alone. A container that no longer reads ends the copying, not more.
async fn send(mut to: impl AsyncWrite + Unpin, keys: Vec<u8>) -> End {
    let mut input = read_stdin();
    let mut escape = Escape::new(keys);
    while let Some(typed) = input.recv().await {
        let (through, detached) = escape.pass(&typed);
        if to.write_all(&through).await.is_err() || to.flush().await.is_err() {
            return End::Closed;
        }
        if detached {
            return End::Detached;
        }
    }
    let _ = to.shutdown().await;
    End::Closed
}

/// Standard input, read by a thread of its own: a file, a pipe and a terminal are read alike that way.
fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::read(io::stdin().as_fd(), &mut buffer)) {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

/// What is pumped besides the output.
pub struct Pump {
    /// Standard input is sent.
    pub stdin: bool,
    /// The output comes in frames.
    pub multiplexed: bool,
    /// The keys that detach; none outside of a terminal.
    pub detach_keys: Vec<u8>,
}

/// Pumps both ways until the output's end or the detach keys.
pub async fn pump(io: impl AsyncRead + AsyncWrite, how: Pump) -> Result<End, Error> {
    let (from, to) = tokio::io::split(io);
    let receiving = receive(Box::pin(from), how.multiplexed);
    if !how.stdin {
        // The writing half stays open: closing it would tell some daemons that the client has gone.
        receiving.await?;
        drop(to);
        return Ok(End::Closed);
    }
    let sending = send(Box::pin(to), how.detach_keys);
    tokio::pin!(receiving, sending);
    tokio::select! {
        received = &mut receiving => received.map(|()| End::Closed),
        sent = &mut sending => match sent {
            End::Detached => Ok(End::Detached),
            End::Closed => receiving.await.map(|()| End::Closed),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind, 0, 0, 0];
        frame.extend_from_slice(&(data.len() as u32).to_be_bytes());
        frame.extend_from_slice(data);
        frame
    }

    fn all(pieces: &[&[u8]]) -> Vec<(Target, Vec<u8>)> {
        let mut demux = Demux::default();
        let mut got: Vec<(Target, Vec<u8>)> = Vec::new();
        for piece in pieces {
            demux.feed(piece);
            while let Some((target, data)) = demux.next().unwrap() {
                match got.last_mut() {
                    Some((last, text)) if *last == target => text.extend_from_slice(&data),
                    _ => got.push((target, data.to_vec())),
                }
            }
        }
        got
    }

    #[test]
    fn frames_cut_anywhere() {
        let mut whole = frame(1, b"hello");
        whole.extend(frame(2, b"error"));
        whole.extend(frame(1, b""));
        whole.extend(frame(1, b"x"));
        let wanted = vec![
            (Target::Out, b"hello".to_vec()),
            (Target::Err, b"error".to_vec()),
            (Target::Out, b"x".to_vec()),
        ];
        assert_eq!(all(&[&whole]), wanted);
        for cut in 0..whole.len() {
            assert_eq!(all(&[&whole[..cut], &whole[cut..]]), wanted, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(all(&bytes), wanted);
    }

    #[test]
    fn data_before_its_frame_ends() {
        let mut demux = Demux::default();
        demux.feed(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, b'a']);
        assert_eq!(demux.next().unwrap(), Some((Target::Out, Bytes::from_static(b"a"))));
        assert_eq!(demux.next().unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut demux = Demux::default();
        demux.feed(b"plain text of a terminal");
        assert!(demux.next().is_err());
    }
}
