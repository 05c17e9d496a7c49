//! A request's body of which nobody knows how long it is, and what of it nobody reads.
//!
//! A refusal may leave before its client has sent all: one that copies a folder into a container that is not there is
//! still writing. A connection that is closed then breaks the client's pipe, and what it tells is that and not the
//! refusal. As Go's server does, the beginning of what is left is read and thrown away.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// How much of what nobody wants is read, in bytes.
const MOST: usize = 256 << 10;

/// How long the client has for that.
const PATIENCE: Duration = Duration::from_secs(2);

/// A body. What is not read when it goes is read behind.
pub(crate) struct Unread(Option<Incoming>);

impl Unread {
    /// Sees to this body.
    pub(crate) fn new(body: Incoming) -> Unread {
        Unread(Some(body))
    }
}

impl Body for Unread {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        // Without a runtime the daemon is ending.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(tokio::time::timeout(PATIENCE, async move {
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > MOST {
                    return;
                }
            }
        }));
    }
}
