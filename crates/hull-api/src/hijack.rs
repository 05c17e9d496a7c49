//! Connections that stop being HTTP: attach and exec.
//!
//! A client that asks to upgrade gets 101 and its socket is taken over; a unix or plain TCP socket is handed to
//! the shim as it is, anything else (TLS) is copied. One that does not ask gets 200 and the same stream, where that is
//! its connection's first request and has no body left; otherwise output is the body of its answer, and what it sends
//! as its own body goes in.

use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use hull_engine::container::ClientStream;
use hull_engine::{Error, Result};
use hyper::StatusCode;
use hyper::body::Body as _;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::http::{self, Request, RequestBody, Response};
use crate::lenient::{self, Lenient};

/// Docker's type of a raw stream, and of one in frames.
const RAW: &str = "application/vnd.docker.raw-stream";
const FRAMED: &str = "application/vnd.docker.multiplexed-stream";

/// The type of a container's output.
pub(crate) fn content_type(framed: bool, version: http::Version) -> &'static str {
    // Clients before 1.42 know the one type only.
    if framed && version >= 42 { FRAMED } else { RAW }
}

/// Answers a client that is about to be a stream. `give` gets its connection once it is free of HTTP.
pub(crate) fn hijack<F, G>(request: Request, framed: bool, give: G) -> Result<Response>
where
    F: Future<Output = ()> + Send + 'static,
    G: FnOnce(ClientStream) -> F + Send + 'static,
{
    let Request { upgrade, unasked, body, version, .. } = request;
    match (upgrade, unasked) {
        (Some(upgrade), _) => {
            tokio::spawn(take_over(upgrade, give));
            let mut response = http::empty(StatusCode::SWITCHING_PROTOCOLS)?;
            // Docker's words; the code is what counts.
            response.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(framed, version)));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
            Ok(response)
        }
        (None, Some(connection)) if body.is_end_stream() => {
            tokio::spawn(take_over(connection, give));
            let mut response = http::empty(StatusCode::SWITCHING_PROTOCOLS)?;
            // The connection makes 200 of it, which hyper would not let go of HTTP.
            response.extensions_mut().insert(ReasonPhrase::from_static(lenient::TAKEN_OVER.as_bytes()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(RAW));
            Ok(response)
        }
        _ => {
            let (ours, theirs) = UnixStream::pair().map_err(|error| Error::system("make a stream", error))?;
            let client = ClientStream { socket: descriptor(theirs)?, already_read: Vec::new() };
            tokio::spawn(give(client));
            Ok(as_body(ours, body, content_type(framed, version)))
        }
    }
}

/// Gives a connection away once its answer's head is written.
async fn take_over<F, G>(connection: OnUpgrade, give: G)
where
    F: Future<Output = ()> + Send + 'static,
    G: FnOnce(ClientStream) -> F + Send + 'static,
{
    match connection.await.map_err(|error| error.to_string()) {
        Ok(upgraded) => match into_stream(upgraded).await {
            Ok(client) => give(client).await,
            Err(error) => tracing::error!(%error, "a client's connection could not be taken over"),
        },
        Err(error) => tracing::debug!(error, "a client went away before it was attached"),
    }
}

/// Frees a connection of HTTP: its socket, and what had been read of it.
async fn into_stream(upgraded: Upgraded) -> Result<ClientStream> {
    let upgraded = match upgraded.downcast::<TokioIo<Lenient<UnixStream>>>() {
        Ok(parts) => {
            let (stream, left) = parts.io.into_inner().into_inner();
            let socket = descriptor(stream)?;
            return Ok(ClientStream { socket, already_read: [&parts.read_buf[..], &left].concat() });
        }
        Err(upgraded) => upgraded,
    };
    let upgraded = match upgraded.downcast::<TokioIo<Lenient<TcpStream>>>() {
        Ok(parts) => {
            let (stream, left) = parts.io.into_inner().into_inner();
            let stream = stream.into_std();
            let stream = stream.map_err(|error| Error::system("take over a connection", error))?;
            let already_read = [&parts.read_buf[..], &left].concat();
            return Ok(ClientStream { socket: stream.into(), already_read });
        }
        Err(upgraded) => upgraded,
    };
    let (mut ours, theirs) = UnixStream::pair().map_err(|error| Error::system("make a stream", error))?;
    tokio::spawn(async move {
        // Either side's end ends the copying; why does not matter to the other.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut ours).await;
    });
    Ok(ClientStream { socket: descriptor(theirs)?, already_read: Vec::new() })
}

pub(crate) fn descriptor(stream: UnixStream) -> Result<OwnedFd> {
    let stream = stream.into_std().map_err(|error| Error::system("take over a connection", error))?;
    Ok(stream.into())
}

/// The container's output as the body of the answer; the request's own body goes in.
fn as_body(ours: UnixStream, mut input: RequestBody, content_type: &'static str) -> Response {
    let (mut reader, mut writer) = ours.into_split();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = input.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            if writer.write_all(&data).await.is_err() {
                break;
            }
        }
        // The input is over; the output may go on.
        if writer.shutdown().await.is_err() {
            tracing::debug!("a container ended before its input did");
        }
    });
    let pieces = stream::poll_fn(move |context| {
        let mut piece = vec![0; 16 * 1024];
        let mut buffer = tokio::io::ReadBuf::new(&mut piece);
        let polled = std::pin::Pin::new(&mut reader);
        match tokio::io::AsyncRead::poll_read(polled, context, &mut buffer) {
            std::task::Poll::Pending => std::task::Poll::Pending,
            std::task::Poll::Ready(Err(error)) => std::task::Poll::Ready(Some(Err(error))),
            std::task::Poll::Ready(Ok(())) if buffer.filled().is_empty() => std::task::Poll::Ready(None),
            std::task::Poll::Ready(Ok(())) => {
                let bytes = Bytes::copy_from_slice(buffer.filled());
                std::task::Poll::Ready(Some(Ok(bytes)))
            }
        }
    });
    http::streamed(StatusCode::OK, content_type, pieces.boxed())
}

/// Writes the last words to a client that gets nothing else.
pub(crate) async fn last_words(socket: OwnedFd, words: &[u8]) {
    hull_engine::container::head_is_read(socket.as_fd()).await;
    let stream = std::os::unix::net::UnixStream::from(socket);
    let Ok(()) = stream.set_nonblocking(true) else { return };
    let Ok(mut stream) = UnixStream::from_std(stream) else { return };
    // A client that is gone needs no words.
    let _ = stream.write_all(words).await;
    let _ = stream.shutdown().await;
    // Closing with unread input would cut the words off: what it still sends is read until it ends.
    let mut rest = [0; 1024];
    let drained = async { while matches!(stream.read(&mut rest).await, Ok(count) if count > 0) {} };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), drained).await;
}

/// Docker's frame: the stream's number, three zeros, the length, the bytes.
pub(crate) fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut framed = vec![stream, 0, 0, 0];
    framed.extend(length.to_be_bytes());
    framed.extend(&bytes[..length as usize]);
    framed
}
