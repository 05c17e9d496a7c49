//! The daemon's end of a shim: requests go out in turn, answers and events come in on one connection.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use hull_runtime::protocol::{self, Event, FromShim, ReceiveError, Reply, Request};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::sync::oneshot;

use super::locked;
use crate::watched::watched;
use crate::{Error, Result};

/// A connection to a container's shim.
pub(crate) struct Shim {
    socket: AsyncFd<OwnedFd>,
    /// Who waits for an answer, in the order of the requests.
    waiting: Mutex<VecDeque<oneshot::Sender<Reply>>>,
    /// Held from a request's sending to its place among those that wait.
    turn: tokio::sync::Mutex<()>,
}

/// The last place among those that wait; dropped before its request is sent, it is given up.
struct Place<'a> {
    waiting: &'a Mutex<VecDeque<oneshot::Sender<Reply>>>,
    sent: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.sent {
            locked(self.waiting).pop_back();
        }
    }
}

impl Shim {
    /// Asks on a connection of its own, which nobody reads but this: a request that takes long there holds nobody up.
    ///
    /// # Errors
    /// As [`Shim::ask`].
    pub(super) async fn ask_alone(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Reply> {
        let ask = self.ask(request, descriptors);
        tokio::pin!(ask);
        loop {
            tokio::select! {
                biased;
                reply = &mut ask => return reply,
                event = self.event() => if event?.is_none() {
                    // The answer may have come with the end.
                    return ask.await;
                },
            }
        }
    }

    /// Takes a connected socket over.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(super) fn new(socket: OwnedFd) -> Result<Arc<Shim>> {
        let failed =
            |error: std::io::Error| Error::system("watch the connection to a container's shim", error);
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| failed(error.into()))?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let socket = watched(socket, interest).map_err(failed)?;
        Ok(Arc::new(Shim { socket, waiting: Mutex::default(), turn: tokio::sync::Mutex::new(()) }))
    }

    /// Says that nothing more is wanted, and waits for the other side's end.
    pub(super) async fn finish(&self) {
        // It may be gone already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
        while let Ok(Some(_)) = self.event().await {}
    }

    /// Sends a request that has no answer.
    ///
    /// # Errors
    /// The shim is gone.
    pub(super) async fn tell(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.send(request, descriptors).await
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The shim is gone, or it could not do what was asked.
    pub(super) async fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Reply> {
        let (sender, receiver) = oneshot::channel();
        {
            let _turn = self.turn.lock().await;
            locked(&self.waiting).push_back(sender);
            // Given up before it is sent (the client went away), it has no answer to wait for.
            let mut place = Place { waiting: &self.waiting, sent: false };
            self.send(request, descriptors).await?;
            place.sent = true;
        }
        match receiver.await {
            // It ended as the request came, and only its end was not told yet: no other news than that of the next line.
            Ok(Reply::Failed(error))
                if error.errno == Some(libc::ESRCH)
                    && matches!(request, Request::Signal { .. } | Request::KillAll | Request::Attach(_)) =>
            {
                Err(Error::conflict(error.to_string()))
            }
            Ok(Reply::Failed(error)) => Err(error.into()),
            Ok(reply) => Ok(reply),
            Err(_) => Err(Error::conflict("the container has ended meanwhile")),
        }
    }

    async fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        loop {
            match protocol::send(self.socket.as_fd(), request, descriptors) {
                Ok(()) => return Ok(()),
                Err(error) if error.errno == Some(libc::EAGAIN) => {
                    let ready = self.socket.writable().await;
                    let mut ready =
                        ready.map_err(|error| Error::system("wait for a container's shim", error))?;
                    ready.clear_ready_matching(Ready::WRITABLE);
                }
                Err(error)
                    if matches!(error.errno, Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)) =>
                {
                    return Err(Error::conflict("the container has ended meanwhile"));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next event and its descriptors; answers on the way are given to those who wait. None: the shim has ended.
    pub(super) async fn event(&self) -> Result<Option<(Event, Vec<OwnedFd>)>> {
        loop {
            match protocol::receive::<FromShim>(self.socket.as_fd()) {
                Ok(Some((FromShim::Event(event), descriptors))) => return Ok(Some((event, descriptors))),
                Ok(Some((FromShim::Reply(reply), _))) => {
                    if let Some(sender) = locked(&self.waiting).pop_front() {
                        // Who asked may have stopped waiting.
                        let _ = sender.send(reply);
                    }
                }
                Ok(None) => {
                    locked(&self.waiting).clear();
                    return Ok(None);
                }
                Err(ReceiveError::WouldBlock) => {
                    let ready = self.socket.readable().await;
                    let mut ready =
                        ready.map_err(|error| Error::system("wait for a container's shim", error))?;
                    ready.clear_ready_matching(Ready::READABLE);
                }
                Err(error) => {
                    locked(&self.waiting).clear();
                    return Err(Error::system("read from a container's shim", error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_too_late_is_no_failure_of_the_system() {
        let (ours, theirs) = protocol::pair().unwrap();
        let shim = Shim::new(ours).unwrap();
        let answers = Arc::clone(&shim);
        tokio::spawn(async move { while let Ok(Some(_)) = answers.event().await {} });
        let ended = std::thread::spawn(move || {
            while let Ok(Some((request, _))) = protocol::receive::<Request>(theirs.as_fd()) {
                let gone = hull_runtime::Error::refused("ask the shim", "the container has ended");
                let gone = hull_runtime::Error { errno: Some(libc::ESRCH), ..gone };
                assert!(
                    matches!(request, Request::Signal { .. } | Request::KillAll | Request::Attach(_)),
                    "{request:?}"
                );
                protocol::send(theirs.as_fd(), &FromShim::Reply(Reply::Failed(gone)), &[]).unwrap();
            }
        });
        for request in [Request::Signal { exec: None, signal: libc::SIGTERM }, Request::KillAll] {
            let error = shim.ask(&request, &[]).await.unwrap_err();
            assert_eq!(error.kind, crate::Kind::Conflict, "{error}");
        }
        rustix::net::shutdown(&shim.socket, rustix::net::Shutdown::Both).unwrap();
        ended.join().unwrap();
    }
}
