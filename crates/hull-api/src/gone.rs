//! Clients that went away while their answer was still to come.
//!
//! A client may end its own direction and still wait for the answer, so the end of what it sends is not its end,
//! and a silent answer (the log of a container that prints nothing) would notice it only when it is next written
//! to. The kernel tells a unix socket that is closed altogether (`POLLHUP`) from one that is closed halfway. For
//! TCP both look alike: there the next write tells.

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hull_engine::Owner;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;

use crate::http::{Body, Response};

/// A client's connection, to be looked at beside HTTP; none where a close cannot be told.
#[derive(Clone)]
pub(crate) struct Client {
    socket: Option<Arc<OwnedFd>>,
    caller: Owner,
    pid: Option<i32>,
}

impl Client {
    /// A client on a unix socket.
    pub(crate) fn unix(stream: &UnixStream) -> Client {
        let socket = match stream.as_fd().try_clone_to_owned() {
            Ok(copy) => Some(Arc::new(copy)),
            Err(error) => {
                tracing::debug!(%error, "a client's going away is noticed late");
                None
            }
        };
        match stream.peer_cred() {
            Ok(peer) => Client {
                socket,
                caller: Owner { uid: peer.uid(), gid: peer.gid() },
                // 0: it is in a pid namespace that is out of the daemon's sight.
                pid: peer.pid().filter(|pid| *pid > 0),
            },
            Err(error) => {
                tracing::debug!(%error, "a client's user is not known");
                Client { socket, caller: Owner::default(), pid: None }
            }
        }
    }

    /// A client of which only a failed write tells that it is gone. Over TCP it may be anybody who is let in: root.
    pub(crate) fn other() -> Client {
        Client { socket: None, caller: Owner::default(), pid: None }
    }

    /// Who that is, as the kernel knows it from a unix socket.
    pub(crate) fn caller(&self) -> Owner {
        self.caller
    }

    /// The process that connected, by the daemon's numbers; none over TCP, or where the daemon does not see it.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Ends an answer that comes in pieces when the client is gone.
    pub(crate) fn watches(&self, response: Response) -> Response {
        let Some(socket) = &self.socket else { return response };
        if response.body().is_end_stream() || response.body().size_hint().exact().is_some() {
            return response;
        }
        let gone = Box::pin(closed(Arc::clone(socket)));
        response.map(|body| UntilGone { body, gone }.boxed_unsync())
    }
}

/// Returns when a socket is closed in both directions.
async fn closed(socket: Arc<OwnedFd>) {
    let watch = || -> std::io::Result<AsyncFd<OwnedFd>> {
        // A descriptor is registered once; the connection's own is HTTP's.
        let copy = socket.try_clone()?;
        hull_engine::watched(copy, Interest::WRITABLE)
    };
    if let Ok(watched) = watch() {
        while let Ok(mut ready) = watched.ready(Interest::WRITABLE).await {
            if ready.ready().is_write_closed() {
                return;
            }
            // Room to write is of no interest here.
            ready.clear_ready_matching(Ready::WRITABLE);
        }
    }
    std::future::pending().await
}

/// A body that ends early when its client is gone.
struct UntilGone<F> {
    body: Body,
    gone: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> hyper::body::Body for UntilGone<F> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // Nothing to send for now: is there still someone to send it to?
        if polled.is_pending() && self.gone.as_mut().poll(context).is_ready() {
            let gone = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the client went away");
            return Poll::Ready(Some(Err(gone)));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
