//! /containers/{id}/attach/ws: a container's streams in a websocket's messages.
//!
//! The shim knows sockets only, so it gets one end of a pair; messages are copied from and to the other.

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hull_engine::container::{AttachPlace, AttachRequest, ClientStream};
use hull_engine::{Error, Result};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::hijack;
use crate::http::{self, Request, Response};

/// The longest message that is taken, in bytes.
const MESSAGE_MAX: usize = 1 << 20;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(crate) async fn attach(request: Request) -> Result<Response> {
    let container = request.engine.container(request.capture(0))?;
    let accept = accept_key(&request.headers)?;
    let query = &request.query;
    // Clients before 1.42 got all three streams, whatever they asked for.
    let stream = |name: &str| request.version < 42 || query.flag(name);
    let asked = AttachRequest {
        stdin: stream("stdin"),
        stdout: stream("stdout"),
        stderr: stream("stderr"),
        framed: false,
        detach_keys: query.get("detachKeys").unwrap_or_default().to_owned(),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
    };
    let place = request.engine.attach(&container, asked)?;
    let upgrade = request.upgrade.ok_or_else(no_websocket)?;
    tokio::spawn(async move {
        if let Err(error) = carry(upgrade, place).await {
            tracing::debug!(%error, "a client could not be attached by websocket");
        }
    });
    let mut response = http::empty(StatusCode::SWITCHING_PROTOCOLS)?;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

fn no_websocket() -> Error {
    Error::invalid("this endpoint is a websocket: the request must upgrade to it (RFC 6455, version 13)")
}

/// The answer to the client's key, if the request is for a websocket at all.
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue> {
    let is = |name: HeaderName, value: &str| {
        headers
            .get(name)
            .and_then(|given| given.to_str().ok())
            .is_some_and(|given| given.eq_ignore_ascii_case(value))
    };
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|_| is(header::UPGRADE, "websocket") && is(header::SEC_WEBSOCKET_VERSION, "13"));
    let accept = derive_accept_key(key.ok_or_else(no_websocket)?.as_bytes());
    HeaderValue::from_str(&accept).map_err(|error| Error::system("answer the websocket's key", error))
}

/// Carries messages both ways until either side ends.
async fn carry(upgrade: OnUpgrade, place: AttachPlace) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::system("carry a websocket", error);
    let upgraded = upgrade.await.map_err(|error| failed(&error))?;
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    let socket = Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (ours, theirs) = UnixStream::pair().map_err(|error| failed(&error))?;
    let client = ClientStream { socket: hijack::descriptor(theirs)?, already_read: Vec::new() };
    let (messages_out, messages_in) = socket.split();
    let (output, input) = ours.into_split();
    let (taken, ()) = tokio::join!(place.take(client), async {
        tokio::select! {
            () = outwards(output, messages_out) => {}
            () = inwards(messages_in, input) => {}
        }
    });
    taken
}

/// What the container prints becomes messages; its end closes the websocket.
async fn outwards(mut output: OwnedReadHalf, mut messages: SplitSink<Socket, Message>) {
    let mut piece = vec![0; 16 << 10];
    loop {
        let message = match output.read(&mut piece).await {
            Ok(0) | Err(_) => {
                Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Default::default() }))
            }
            Ok(length) => Message::binary(piece[..length].to_vec()),
        };
        let last = message.is_close();
        if messages.send(message).await.is_err() || last {
            return;
        }
    }
}

/// What the client sends goes in. Returns when the client is gone.
async fn inwards(mut messages: SplitStream<Socket>, mut input: OwnedWriteHalf) {
    while let Some(Ok(message)) = messages.next().await {
        let sent = match message {
            Message::Binary(bytes) => input.write_all(&bytes).await,
            Message::Text(text) => input.write_all(text.as_bytes()).await,
            Message::Close(_) => return,
            // The library answers a ping itself.
            _ => Ok(()),
        };
        if sent.is_err() {
            // The container takes no more; what it prints still goes out.
            std::future::pending::<()>().await;
        }
    }
}
