//! The client's half of the Docker Engine API: requests over one kept-alive connection, streams over their own.
//!
//! Nothing is connected before the first request. Against hull's own socket the API version is known; any other
//! daemon is asked once (`GET /_ping`) and the older of both versions is spoken.

mod autostart;
mod connect;
mod query;
mod response;
mod tls;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use autostart::start as start_daemon;
pub use connect::{Host, Io};
pub use query::{Query, segment};
pub use response::{JsonStream, Response};

use crate::cli::TlsChoice;
use crate::error::Error;

/// The newest API version spoken here.
pub const API_VERSION: (u32, u32) = (1, 56);
/// The oldest.
pub const MIN_API_VERSION: (u32, u32) = (1, 24);

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// No body at all.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body of bytes at hand.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes piece by piece; an error in it breaks the request off.
pub fn streamed(pieces: impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures_util::TryStreamExt as _;
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

/// The way to one daemon.
pub struct Client {
    host: Host,
    tls: Option<TlsChoice>,
    idle: Rc<RefCell<Vec<SendRequest<Body>>>>,
    version: Cell<Option<(u32, u32)>>,
}

/// A connection taken over from HTTP: raw bytes in both directions.
pub struct Hijacked {
    /// The connection.
    pub io: TokioIo<hyper::upgrade::Upgraded>,
    /// Whether standard output and error come in frames (no terminal); `None` where the daemon does not say.
    pub multiplexed: Option<bool>,
}

impl Client {
    /// A client of that daemon. Nothing is connected yet.
    pub fn new(host: Host, tls: Option<TlsChoice>) -> Self {
        // Only hull itself sits on its default socket: what it speaks is known without asking.
        let version = matches!(host, Host::Default).then_some(API_VERSION);
        Self { host, tls, idle: Rc::default(), version: Cell::new(version) }
    }

    /// The daemon's address, as for messages.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether the daemon is this machine's: what it says of processes and files is here.
    pub fn is_local(&self) -> bool {
        matches!(self.host, Host::Default | Host::Unix(_))
    }

    /// Whether a daemon of this machine answers. None is started, and none on another machine is asked: what it knows
    /// is not here.
    pub async fn is_here(&self) -> bool {
        self.is_local() && connect::connect(&self.host, self.tls.as_ref()).await.is_ok()
    }

    /// The API version that is spoken; the daemon is asked the first time, where that is needed.
    pub async fn version(&self) -> Result<(u32, u32), Error> {
        if let Some(version) = self.version.get() {
            return Ok(version);
        }
        let response = self.send(Method::GET, "/_ping", &[], empty()).await?;
        let theirs = response.header("api-version").and_then(parse_version).unwrap_or(MIN_API_VERSION);
        response.bytes().await?;
        if theirs < MIN_API_VERSION {
            return Err(Error::new(format!(
                "the daemon at {} speaks API {}.{}; the oldest understood here is {}.{}",
                self.host, theirs.0, theirs.1, MIN_API_VERSION.0, MIN_API_VERSION.1
            )));
        }
        let version = theirs.min(API_VERSION);
        self.version.set(Some(version));
        Ok(version)
    }

    /// GET, the answer as JSON. `path` starts with `/`, holds the query, and has no version before it.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.request(Method::GET, path, &[], empty()).await?.json().await
    }

    /// GET, the answer as a stream.
    pub async fn stream(&self, path: &str) -> Result<Response, Error> {
        self.request(Method::GET, path, &[], empty()).await
    }

    /// POST of a JSON body, the answer as JSON.
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.post(path, body).await?.json().await
    }

    /// POST of a JSON body, the answer as it comes.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Response, Error> {
        let body = full(serde_json::to_vec(body)?);
        self.request(Method::POST, path, &[(CONTENT_TYPE.as_str(), "application/json")], body).await
    }

    /// POST without a body, the answer thrown away.
    pub async fn post_empty(&self, path: &str) -> Result<StatusCode, Error> {
        let response = self.request(Method::POST, path, &[], empty()).await?;
        let status = response.status();
        response.bytes().await?;
        Ok(status)
    }

    /// DELETE, the answer as it comes.
    pub async fn delete(&self, path: &str) -> Result<Response, Error> {
        self.request(Method::DELETE, path, &[], empty()).await
    }

    /// Any request; a status from 400 on is an [`Error`] with the daemon's words.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Response, Error> {
        let (major, minor) = self.version().await?;
        let response = self.send(method, &format!("/v{major}.{minor}{path}"), headers, body).await?;
        response.refuse_errors().await
    }

    /// POST that takes the connection over (attach, exec start).
    pub async fn hijack(&self, path: &str, body: Option<&serde_json::Value>) -> Result<Hijacked, Error> {
        self.take_over(path, "tcp", &[], body).await
    }

    /// The same, for another protocol, with further headers.
    pub async fn take_over(
        &self,
        path: &str,
        protocol: &str,
        headers: &[(&'static str, String)],
        body: Option<&serde_json::Value>,
    ) -> Result<Hijacked, Error> {
        let (major, minor) = self.version().await?;
        let path = format!("/v{major}.{minor}{path}");
        let mut sender = self.connect().await?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, self.host.http_host())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, protocol);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                full(serde_json::to_vec(body)?)
            }
            None => empty(),
        };
        let request = request.body(body).map_err(|e| Error::new(format!("cannot word the request: {e}")))?;
        let mut response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let response = Response::new(response, None, self.idle.clone()).refuse_errors().await?;
            return Err(Error::new(format!(
                "the daemon answered {} where it was asked to hand over the connection",
                response.status()
            )));
        }
        let multiplexed =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).and_then(|kind| {
                match kind {
                    "application/vnd.docker.multiplexed-stream" => Some(true),
                    // Before API 1.42 this was said of both kinds.
                    "application/vnd.docker.raw-stream" if (major, minor) >= (1, 42) => Some(false),
                    _ => None,
                }
            });
        let upgraded = hyper::upgrade::on(&mut response).await?;
        Ok(Hijacked { io: TokioIo::new(upgraded), multiplexed })
    }

    /// A connection of its own, without HTTP on it: for `system dial-stdio`.
    pub async fn raw(&self) -> Result<Box<dyn Io>, Error> {
        self.open().await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Response, Error> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.host.http_host());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).map_err(|e| Error::new(format!("cannot word the request: {e}")))?;
        let mut sender = match self.take_idle() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await?;
        Ok(Response::new(response, Some(sender), self.idle.clone()))
    }

    fn take_idle(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn open(&self) -> Result<Box<dyn Io>, Error> {
        match connect::connect(&self.host, self.tls.as_ref()).await {
            Err(error) if matches!(self.host, Host::Default) && connect::nobody_there(&error) => {
                autostart::ensure().await?;
                connect::connect(&self.host, None).await.map_err(|e| connect::worded(&self.host, &e))
            }
            result => result.map_err(|e| connect::worded(&self.host, &e)),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Error> {
        let io = TokioIo::new(self.open().await?);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        // What goes wrong on the connection reaches whoever waits for an answer on it.
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
