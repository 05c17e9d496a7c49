//! Calls to the other side of a connection: a session's client is the server of these.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use prost::Message;
use tokio::sync::mpsc;

use super::{Code, Messages, Result, Status, framed};

/// What a call sends.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Names with values that go with a call.
pub(crate) type Metadata = Vec<(&'static str, String)>;

/// How many messages may wait to be sent.
const WAITING: usize = 32;

/// Who calls.
#[derive(Clone)]
pub(crate) struct Caller(SendRequest<Body>);

/// A call on which both sides send.
pub(crate) struct Call {
    pub(crate) send: Sending,
    pub(crate) receive: Receiving,
}

/// What is sent on a call. Dropped, it is over.
pub(crate) struct Sending(mpsc::Sender<Bytes>);

type Answer = Pin<Box<dyn Future<Output = hyper::Result<hyper::Response<Incoming>>> + Send>>;

/// What comes back on a call. Its head may be long in coming: nothing waits for it but who reads.
pub(crate) enum Receiving {
    Waiting(Answer),
    Reading(Messages),
}

impl Caller {
    pub(crate) fn new(connection: SendRequest<Body>) -> Caller {
        Caller(connection)
    }

    /// Begins a call.
    pub(crate) fn call(&self, method: &str, metadata: Metadata) -> Result<Call> {
        let (send, messages) = mpsc::channel(WAITING);
        let frames = stream::unfold(messages, |mut messages: mpsc::Receiver<Bytes>| async move {
            let message = messages.recv().await?;
            Some((Ok(Frame::data(message)), messages))
        });
        let mut request = hyper::Request::post(format!("http://localhost{method}"))
            .body(StreamBody::new(frames).boxed_unsync())
            .map_err(|error| Status::new(Code::Internal, format!("call {method}: {error}")))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        for (name, value) in metadata {
            let value = HeaderValue::from_str(&value).map_err(|_| {
                Status::new(Code::InvalidArgument, format!("{name} {value:?} cannot be sent"))
            })?;
            headers.append(HeaderName::from_static(name), value);
        }
        let answer = Box::pin(self.0.clone().send_request(request));
        Ok(Call { send: Sending(send), receive: Receiving::Waiting(answer) })
    }

    /// A call with one message in either direction.
    pub(crate) async fn unary<T: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<T> {
        let Call { send, mut receive } = self.call(method, Vec::new())?;
        send.send(request).await?;
        drop(send);
        let answer = receive.next().await?;
        receive.end().await?;
        answer.ok_or_else(|| Status::new(Code::Internal, format!("{method} was answered with nothing")))
    }
}

impl Sending {
    /// Sends a message, as fast as the other side takes it.
    pub(crate) async fn send(&self, message: &impl Message) -> Result<()> {
        let gone = |_| Status::new(Code::Unavailable, "the client takes nothing any more");
        self.0.send(framed(message)).await.map_err(gone)
    }
}

impl Receiving {
    /// The next message; none behind the last.
    pub(crate) async fn next<T: Message + Default>(&mut self) -> Result<Option<T>> {
        loop {
            match self {
                Receiving::Reading(messages) => return messages.next().await,
                Receiving::Waiting(answer) => {
                    let answer = answer.await.map_err(|error| Status::broken("call the client", error))?;
                    // An error may stand in the head already.
                    if let Some(Err(status)) = Status::of(answer.headers()) {
                        return Err(status);
                    }
                    if !answer.status().is_success() {
                        return Err(Status::broken("call the client", answer.status()));
                    }
                    *self = Receiving::Reading(Messages::new(answer.into_body()));
                }
            }
        }
    }

    /// Waits for the call's end.
    pub(crate) async fn end(&mut self) -> Result<()> {
        while self.next::<Ignored>().await?.is_some() {}
        Ok(())
    }
}

/// A message that nobody looks at.
#[derive(Clone, PartialEq, prost::Message)]
struct Ignored {}
