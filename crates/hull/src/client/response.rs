//! Answers: whole, as JSON, or piece by piece.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Body;
use crate::error::Error;

/// An answer whose head has come. Its connection serves the next request once the body was read to its end.
pub struct Response {
    inner: hyper::Response<Incoming>,
    sender: Option<SendRequest<Body>>,
    idle: Rc<RefCell<Vec<SendRequest<Body>>>>,
}

impl Response {
    pub(super) fn new(
        inner: hyper::Response<Incoming>,
        sender: Option<SendRequest<Body>>,
        idle: Rc<RefCell<Vec<SendRequest<Body>>>>,
    ) -> Self {
        Self { inner, sender, idle }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// A header, where it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.inner.body_mut().frame().await {
            if let Ok(data) = frame?.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
        if let Some(sender) = self.sender.take() {
            self.idle.borrow_mut().push(sender);
        }
        Ok(None)
    }

    /// The whole body.
    pub async fn bytes(mut self) -> Result<Bytes, Error> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.chunk().await? {
            if whole.is_empty() {
                whole = BytesMut::from(piece);
            } else {
                whole.extend_from_slice(&piece);
            }
        }
        // hyper tells a sender that it is free a moment after the body's end; the next request must find it so.
        tokio::task::yield_now().await;
        Ok(whole.freeze())
    }

    /// The whole body, as JSON; an empty one is `null`.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        let body = self.bytes().await?;
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        Ok(serde_json::from_slice(body)?)
    }

    /// The body as JSON documents one after another (pull, load, events, stats).
    pub fn json_stream(self) -> JsonStream {
        JsonStream { response: self, pending: Vec::new(), ended: false }
    }

    pub(super) async fn refuse_errors(self) -> Result<Self, Error> {
        let status = self.status();
        if !(status.is_client_error() || status.is_server_error()) {
            return Ok(self);
        }
        let body = self.bytes().await?;
        let message = match serde_json::from_slice::<Value>(&body) {
            Ok(Value::Object(map)) => {
                map.get("message").and_then(Value::as_str).unwrap_or("the daemon gave no reason").to_owned()
            }
            _ => String::from_utf8_lossy(&body).trim().to_owned(),
        };
        let message = if message.is_empty() { status.to_string() } else { message };
        Err(Error::daemon(status.as_u16(), message))
    }
}

/// JSON documents out of a body, as they come.
pub struct JsonStream {
    response: Response,
    pending: Vec<u8>,
    ended: bool,
}

impl JsonStream {
    /// The next document; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Value>, Error> {
        loop {
            let mut documents = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Value>();
            match documents.next() {
                Some(Ok(document)) => {
                    let used = documents.byte_offset();
                    // A number at the very end may have more digits to come; the API sends objects.
                    self.pending.drain(..used);
                    return Ok(Some(document));
                }
                Some(Err(error)) if !error.is_eof() || self.ended => return Err(error.into()),
                None if self.ended => return Ok(None),
                _ => {}
            }
            match self.response.chunk().await? {
                Some(piece) => self.pending.extend_from_slice(&piece),
                None => self.ended = true,
            }
        }
    }
}
