//! gRPC, as far as BuildKit's clients need it: messages in frames of five bytes over HTTP/2, and how a call ended in its
//! trailers.

pub(crate) mod client;
mod message;
pub(crate) mod server;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bollard_buildkit_proto::google::protobuf::Any;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use prost::Message;

pub(crate) use message::{Messages, framed};

/// How a call ended, where that was not well.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// gRPC's number for it.
    pub(crate) code: Code,
    /// In words.
    pub(crate) message: String,
    /// What else the client wants to know, in types of its own.
    pub(crate) details: Vec<Any>,
}

/// gRPC's numbers, those that are told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Code {
    fn of(number: i32) -> Code {
        let known = [
            Code::Cancelled,
            Code::InvalidArgument,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::FailedPrecondition,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::Unauthenticated,
        ];
        known.into_iter().find(|code| *code as i32 == number).unwrap_or(Code::Unknown)
    }
}

/// The result of a call.
pub(crate) type Result<T, E = Status> = std::result::Result<T, E>;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into(), details: Vec::new() }
    }

    /// The line or the client failed while `doing`.
    pub(crate) fn broken(doing: &str, error: impl std::fmt::Display) -> Status {
        Status::new(Code::Unavailable, format!("{doing}: {error}"))
    }

    /// As the trailers of a call.
    fn trailers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(STATUS, HeaderValue::from(self.code as i32));
        if let Ok(message) = HeaderValue::from_str(&percent_encoded(&self.message)) {
            headers.insert(MESSAGE, message);
        }
        if !self.details.is_empty() {
            let whole = bollard_buildkit_proto::google::rpc::Status {
                code: self.code as i32,
                message: self.message.clone(),
                details: self.details.clone(),
            };
            if let Ok(value) = HeaderValue::from_str(&STANDARD_NO_PAD.encode(whole.encode_to_vec())) {
                headers.insert(DETAILS, value);
            }
        }
        headers
    }

    /// What trailers say; none: they say nothing of how the call ended.
    fn of(headers: &HeaderMap) -> Option<Result<()>> {
        let number: i32 = headers.get(STATUS)?.to_str().ok()?.parse().ok()?;
        if number == 0 {
            return Some(Ok(()));
        }
        let text = headers.get(MESSAGE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Some(Err(Status::new(Code::of(number), percent_decoded(&text.unwrap_or_default()))))
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// The trailers of a call that ended well.
fn well() -> HeaderMap {
    HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))])
}

/// A message, as it may stand in a trailer: with what is no plain letter as its number.
fn percent_encoded(text: &str) -> String {
    const NOT_PLAIN: &AsciiSet = &CONTROLS.add(b'%');
    utf8_percent_encode(text, NOT_PLAIN).to_string()
}

fn percent_decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_comes_back_from_its_trailers() {
        let status = Status::new(Code::NotFound, "100 % é\nnext");
        let back = Status::of(&status.trailers()).unwrap().unwrap_err();
        assert_eq!((back.code, back.message.as_str()), (Code::NotFound, "100 % é\nnext"));
        assert!(Status::of(&well()).unwrap().is_ok());
        assert!(Status::of(&HeaderMap::new()).is_none());
    }
}
