//! The server's side: a request's path is the method, its headers the metadata.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Code, Messages, Result, Status, framed, well};

/// One call.
pub(crate) struct Request {
    /// `/package.Service/Method`.
    pub(crate) method: String,
    /// What came with it.
    pub(crate) metadata: HeaderMap,
    /// What the client sends.
    pub(crate) messages: Messages,
}

/// The messages of an answer, framed.
pub(crate) type Answers = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What a call is answered with.
pub(crate) enum Answer {
    One(Bytes),
    Many(Answers),
}

impl Answer {
    /// One message.
    pub(crate) fn one(message: &impl Message) -> Answer {
        Answer::One(framed(message))
    }
}

impl Request {
    /// The one message of a call that has one.
    pub(crate) async fn message<T: Message + Default>(&mut self) -> Result<T> {
        let message = self.messages.next().await?;
        message.ok_or_else(|| Status::new(Code::InvalidArgument, format!("{}: no message", self.method)))
    }

    /// A value that came with it.
    pub(crate) fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.to_str().ok()
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers calls on a connection until it ends. A call that its client takes back is dropped.
pub(crate) async fn serve<I, F>(
    io: I,
    answer: impl Fn(Request) -> F + Clone + Send + 'static,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<Answer>> + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let (head, body) = request.into_parts();
        let method = head.uri.path().to_owned();
        let answered = answer(Request { method, metadata: head.headers, messages: Messages::new(body) });
        async move { Ok::<_, Infallible>(response(answered.await)) }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(io), service)
        .await
}

fn response(answered: Result<Answer>) -> hyper::Response<Body> {
    let answers: Answers = match answered {
        Ok(Answer::One(message)) => Box::pin(stream::once(std::future::ready(Ok(message)))),
        Ok(Answer::Many(answers)) => answers,
        Err(status) => {
            // All in the head: there is nothing behind it.
            let mut response = hyper::Response::new(Empty::new().boxed_unsync());
            response.headers_mut().extend(status.trailers());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            return response;
        }
    };
    // Behind the last message, or the first error, come the trailers and nothing more.
    let frames = stream::unfold(Some(answers), |answers| async move {
        let mut answers = answers?;
        Some(match answers.next().await {
            Some(Ok(message)) => (Ok(Frame::data(message)), Some(answers)),
            Some(Err(status)) => (Ok(Frame::trailers(status.trailers())), None),
            None => (Ok(Frame::trailers(well())), None),
        })
    });
    let mut response = hyper::Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
