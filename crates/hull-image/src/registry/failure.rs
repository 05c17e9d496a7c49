//! What goes wrong between a registry and here, and how it is told in Docker's words.

use std::fmt;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, RANGE, RETRY_AFTER};
use serde::Deserialize;

use crate::reference::Reference;
use crate::{Error, Kind};

/// The longest time that a registry may have us wait.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why a registry did not give what it was asked for.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It answered, and the answer was no.
    Refused(Refusal),
    /// No answer came: nobody listens, the line broke or stood still, its certificate is nobody's.
    Line(String),
    /// It answered with what no registry should: another digest, too long a body, a redirect in circles.
    Wrong(String),
    /// It was asked for what is not done, or the machine failed here.
    Here(Error),
}

/// The answer of a registry that refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// `MANIFEST_UNKNOWN`, `DENIED`; empty where the answer has none.
    pub code: String,
    /// What the registry says.
    pub message: String,
    /// When it may be asked again, in its own words: seconds or a date.
    pub retry_after: Option<String>,
    /// How much of an upload it has, where a piece was not the next one and it says so.
    pub received: Option<u64>,
}

/// The result of what is asked of a registry.
pub type Answer<T> = Result<T, Failure>;

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<One>,
    /// Token servers, and what stands before registries.
    #[serde(default)]
    details: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct One {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

impl Refusal {
    /// Reads the answer to a request that failed.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
        let retry_after =
            headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(|text| shown(text, 64));
        let body: Option<Body> = serde_json::from_slice(body).ok();
        let (mut code, mut message) = (String::new(), String::new());
        if let Some(body) = body {
            if let Some(one) = body.errors.into_iter().next() {
                (code, message) = (one.code, one.message.unwrap_or_default());
            } else {
                message = if body.details.is_empty() { body.message } else { body.details };
            }
        }
        // As Docker's client: what is said against the token says more than the body does.
        match super::challenge::objection(headers).filter(|_| status.is_client_error()) {
            Some((error, description)) if error == "insufficient_scope" => {
                code = "DENIED".to_owned();
                message = match description.is_empty() {
                    true => "requested access to the resource is denied".to_owned(),
                    false => description,
                };
            }
            Some((error, description)) if error == "invalid_token" && code.is_empty() => {
                (code, message) = ("UNAUTHORIZED".to_owned(), description);
                if message.is_empty() {
                    message = "authentication required".to_owned();
                }
            }
            _ => {}
        }
        let range = headers.get(RANGE).filter(|_| status == StatusCode::RANGE_NOT_SATISFIABLE);
        let received = range.and_then(|range| super::upload::received(range.to_str().ok()?));
        Refusal { status, code: shown(&code, 64), message: shown(&message, 1024), retry_after, received }
    }

    /// Whether the registry does not have what was named.
    pub fn is_unknown(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
            || matches!(self.code.as_str(), "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "BLOB_UNKNOWN")
    }

    /// Whether it wants to know who asks, or will not serve who asks.
    pub fn is_denied(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            || matches!(self.code.as_str(), "DENIED" | "UNAUTHORIZED")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, message) = match (self.code.as_str(), self.status) {
            ("", StatusCode::UNAUTHORIZED) => ("UNAUTHORIZED", "authentication required"),
            // The answer to a HEAD has no words of its own.
            ("", StatusCode::FORBIDDEN) => ("DENIED", "requested access to the resource is denied"),
            ("", StatusCode::TOO_MANY_REQUESTS) => ("TOOMANYREQUESTS", "too many requests"),
            ("", _) => ("", ""),
            (code, _) => (code, ""),
        };
        let message = if self.message.is_empty() { message } else { &self.message };
        match (code, message) {
            ("", "") => write!(f, "received unexpected HTTP status: {}", self.status)?,
            ("", message) => write!(f, "received unexpected HTTP status: {}: {message}", self.status)?,
            (code, message) => {
                let code = code.to_lowercase().replace('_', " ");
                write!(f, "{code}: {}", if message.is_empty() { &code } else { message })?;
            }
        }
        match &self.retry_after {
            Some(when) if when.bytes().all(|byte| byte.is_ascii_digit()) => {
                write!(f, " (the registry asks to try again in {when} seconds)")
            }
            Some(when) => write!(f, " (the registry asks to try again at {when})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(refusal) => refusal.fmt(f),
            Failure::Line(message) | Failure::Wrong(message) => f.write_str(message),
            Failure::Here(error) => error.fmt(f),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Here(error)
    }
}

impl Failure {
    /// Whether another registry of the same content, or the same one a moment later, may do better.
    pub fn is_passing(&self) -> bool {
        match self {
            Failure::Line(_) => true,
            Failure::Refused(refusal) => {
                refusal.status.is_server_error() || refusal.status == StatusCode::TOO_MANY_REQUESTS
            }
            Failure::Wrong(_) | Failure::Here(_) => false,
        }
    }

    /// How long a registry that is busy wants to be left alone, if it says so in seconds.
    pub(super) fn asked_to_wait(&self) -> Option<Duration> {
        match self {
            Failure::Refused(Refusal { retry_after: Some(text), .. }) => {
                text.parse().ok().map(Duration::from_secs).map(|asked| asked.min(LONGEST_WAIT))
            }
            _ => None,
        }
    }

    /// The failure of a push, as Docker words it.
    pub fn of_push(self) -> Error {
        match self {
            Failure::Here(error) => error,
            other => Error::new(Kind::System, other.to_string()),
        }
    }

    /// The failure of a pull, as Docker words it.
    pub fn of_pull(self, reference: &Reference) -> Error {
        let name = reference.familiar_name();
        match self {
            Failure::Here(error) => error,
            Failure::Line(_) | Failure::Wrong(_) => Error::new(Kind::System, self.to_string()),
            Failure::Refused(refusal) => match refusal.code.as_str() {
                "DENIED" => Error::not_found(format!(
                    "pull access denied for {name}, repository does not exist or may require 'docker login': {refusal}"
                )),
                "MANIFEST_UNKNOWN" => {
                    Error::not_found(format!("manifest for {} not found: {refusal}", reference.familiar()))
                }
                "NAME_UNKNOWN" => Error::not_found(format!("repository {name} not found: {refusal}")),
                _ => Error::new(Kind::System, refusal.to_string()),
            },
        }
    }
}

/// What others wrote, fit to be shown: no control characters, and not without end.
pub(super) fn shown(text: &str, limit: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Refusal {
        Refusal::read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn refusals_are_worded_as_docker_words_them() {
        let reference = Reference::parse("127.0.0.1:5000/a/b:none").unwrap();
        let unknown =
            read(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#);
        let error = Failure::Refused(unknown).of_pull(&reference);
        assert_eq!(error.kind, Kind::NotFound);
        assert_eq!(
            error.message,
            "manifest for 127.0.0.1:5000/a/b:none not found: manifest unknown: manifest unknown"
        );
        let denied = read(
            403,
            r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#,
        );
        assert_eq!(
            Failure::Refused(denied).of_pull(&Reference::parse("x/y").unwrap()).message,
            "pull access denied for x/y, repository does not exist or may require 'docker login': denied: requested \
             access to the resource is denied"
        );
        assert_eq!(read(401, "").to_string(), "unauthorized: authentication required");
        assert_eq!(read(403, "").to_string(), "denied: requested access to the resource is denied");
        assert_eq!(read(502, "<html>").to_string(), "received unexpected HTTP status: 502 Bad Gateway");
    }

    #[test]
    fn a_repository_that_is_not_there_is_told_as_docker_tells_it() {
        let header = r#"Bearer realm="https://a/t",service="s",scope="repository:no/such:pull",error="insufficient_scope""#;
        let headers = HeaderMap::from_iter([(hyper::header::WWW_AUTHENTICATE, header.parse().unwrap())]);
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        let refusal = Refusal::read(StatusCode::UNAUTHORIZED, &headers, body);
        let error = Failure::Refused(refusal).of_pull(&Reference::parse("no/such").unwrap());
        assert_eq!(
            (error.kind, error.message.as_str()),
            (
                Kind::NotFound,
                "pull access denied for no/such, repository does not exist or may require 'docker login': denied: requested \
                 access to the resource is denied"
            )
        );
    }

    #[test]
    fn when_to_try_again_is_told() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "17".parse().unwrap())]);
        let refusal = Refusal::read(StatusCode::TOO_MANY_REQUESTS, &headers, b"");
        assert_eq!(
            refusal.to_string(),
            "toomanyrequests: too many requests (the registry asks to try again in 17 seconds)"
        );
    }

    #[test]
    fn what_a_registry_says_moves_no_cursor() {
        let refusal = read(400, "{\"errors\":[{\"code\":\"X\",\"message\":\"a\\u001b[2Jb\"}]}");
        assert_eq!(refusal.to_string(), "x: a[2Jb");
    }
}
