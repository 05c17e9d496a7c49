//! A request as the handlers see it, and the answers that they give.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hull_build::Builder;
use hull_buildkit::BuildKit;
use hull_engine::filter::FilterSets;
use hull_engine::{Engine, Error, Kind, Owner, Result, model};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::blocking::BodyReader;
use crate::places::Side;
use crate::policy::{Guard, Judged};
use crate::sockets::Sockets;

/// The longest JSON body that is read, in bytes.
pub(crate) const BODY_LIMIT: usize = 8 << 20;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The body of a request.
pub(crate) type RequestBody = BoxBody<Bytes, hyper::Error>;

/// An answer.
pub(crate) type Response = hyper::Response<Body>;

/// The API's minor version: 41 is 1.41.
pub(crate) type Version = u32;

/// The oldest and the newest version that is spoken.
pub(crate) const OLDEST: Version = 24;
/// See [`OLDEST`].
pub(crate) const NEWEST: Version = 56;

/// One request, its path taken apart.
pub(crate) struct Request {
    /// The engine.
    pub(crate) engine: Arc<Engine>,
    /// The builder.
    pub(crate) builder: Arc<Builder>,
    /// It, as BuildKit's clients know it.
    pub(crate) buildkit: Arc<BuildKit>,
    /// The sockets that are listened on.
    pub(crate) sockets: Arc<Sockets>,
    /// The policy of the socket that it came by, where that has one.
    pub(crate) guard: Option<Arc<Guard>>,
    /// The version that the path asked for, or the newest.
    pub(crate) version: Version,
    /// Whether the path asked for one.
    pub(crate) versioned: bool,
    /// What stood in the places of the pattern's braces, decoded.
    pub(crate) captures: Vec<String>,
    /// The query.
    pub(crate) query: Query,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body, not read yet.
    pub(crate) body: RequestBody,
    /// Who asks: the user at the other end of a unix socket; root, who may be anybody, over TCP.
    pub(crate) caller: Owner,
    /// Its process, where it came by a unix socket and the daemon sees it.
    pub(crate) caller_pid: Option<i32>,
    /// The connection, where the client asked to upgrade it.
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// The connection, where the client did not ask, but this endpoint takes it over all the same.
    pub(crate) unasked: Option<hyper::upgrade::OnUpgrade>,
}

impl Request {
    /// Whose places among those who wait for clients it may take.
    pub(crate) fn side(&self) -> Side {
        if self.guard.is_some() { Side::Guarded } else { Side::Owner }
    }

    /// Whether the client says that it was written for what ended with a version of the API. Who names no version (scripts,
    /// and clients that take whatever the daemon has) keeps it: it would not know.
    pub(crate) fn knows_the_end_of(&self, version: Version) -> bool {
        self.versioned && self.version >= version
    }

    /// The process that asks, whose `what` is to be. It is who the kernel says: a number that the client names could be
    /// anybody's, and is another's in a pid namespace.
    ///
    /// # Errors
    /// The daemon does not see it.
    pub(crate) fn owner(&self, what: &str) -> Result<i32> {
        self.caller_pid.ok_or_else(|| {
            Error::invalid(format!(
                "{what} is the process's that asks for it, and the daemon does not see this one: ask by its unix socket, \
                 from its own pid namespace or one below"
            ))
        })
    }

    /// Its body, to be read by a thread that may block.
    ///
    /// # Errors
    /// Too many requests wait for their clients.
    pub(crate) async fn reader(&mut self) -> Result<BodyReader> {
        let body = std::mem::take(&mut self.body);
        BodyReader::new(body, self.side()).await
    }

    /// The n-th capture of the pattern.
    pub(crate) fn capture(&self, n: usize) -> &str {
        self.captures.get(n).map_or("", String::as_str)
    }

    /// Reads the body as JSON; a `null` is the field's zero value, as in Go. An empty body stands for the type's default.
    /// The socket's policy has judged what is returned.
    pub(crate) async fn json<T: DeserializeOwned + Default + Judged>(&mut self) -> Result<T> {
        let bytes = self.json_bytes().await?;
        let mut body = if bytes.is_empty() { T::default() } else { hull_engine::model::parse(&bytes)? };
        self.judge(&mut body)?;
        Ok(body)
    }

    /// Has the socket's policy judge what was read of the body.
    pub(crate) fn judge(&self, body: &mut impl Judged) -> Result<()> {
        self.guard.as_ref().map_or(Ok(()), |guard| body.judge(&guard.on(&self.engine)))
    }

    /// The same, for an object whose members matter by their presence: none, where the body is empty or `null`.
    pub(crate) async fn json_object(&mut self) -> Result<Option<hull_engine::model::Members>> {
        let bytes = self.json_bytes().await?;
        if bytes.is_empty() { Ok(None) } else { hull_engine::model::parse_object(&bytes) }
    }

    /// The body of a request that says that it sends JSON. One without a body need not say so.
    async fn json_bytes(&mut self) -> Result<Bytes> {
        let content_type = match self.headers.get(CONTENT_TYPE).map(HeaderValue::to_str) {
            None => String::new(),
            Some(Ok(text)) => text.to_owned(),
            Some(Err(_)) => return Err(Error::invalid("malformed Content-Type header: it is no text")),
        };
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case("application/json") {
            return self.bytes().await;
        }
        if content_type.is_empty() {
            let body = self.bytes().await?;
            if body.is_empty() {
                return Ok(body);
            }
        }
        Err(Error::invalid(format!(
            "unsupported Content-Type header ({content_type}): must be 'application/json'"
        )))
    }

    /// Reads the body, of whatever kind.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes> {
        match Limited::new(&mut self.body, BODY_LIMIT).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err(Error::invalid(format!("the request's body is longer than {BODY_LIMIT} bytes")))
            }
            Err(error) => Err(Error::invalid(format!("the request's body ended early: {error}"))),
        }
    }
}

/// A query, decoded; a name may occur several times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Takes the query of an address apart.
    pub(crate) fn of(uri: &Uri) -> Query {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = |text: &str| decode(&text.replace('+', " "));
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(name), decoded(value))
                })
                .collect(),
        )
    }

    /// The first value of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Puts one value in the place of all of that name.
    pub(crate) fn set(&mut self, name: &str, value: String) {
        self.0.retain(|(key, _)| key != name);
        self.0.push((name.to_owned(), value));
    }

    /// Adds a value of that name.
    pub(crate) fn add(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }

    /// The first value of that name, where it is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Every value of that name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether that switch is on, as Docker reads it: anything but nothing, `0`, `no`, `false`, `none`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// The same, with what holds where the name is not there.
    pub(crate) fn flag_or(&self, name: &str, absent: bool) -> bool {
        match self.get(name) {
            None => absent,
            Some(value) => {
                !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
            }
        }
    }

    /// The height `h` and the width `w` of a terminal.
    pub(crate) fn terminal_size(&self) -> Result<(u16, u16)> {
        let side = |name: &str, what: &str| -> Result<u16> {
            let text = self.get(name).unwrap_or_default();
            let problem = match text.parse::<u32>() {
                Ok(number) => match u16::try_from(number) {
                    Ok(side) => return Ok(side),
                    Err(_) => "value out of range",
                },
                Err(_) => "invalid syntax",
            };
            Err(Error::invalid(format!("invalid resize {what} {text:?}: {problem}")))
        };
        Ok((side("h", "height")?, side("w", "width")?))
    }

    /// A whole number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        match self.text(name) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
                let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                let problem = if is_number { "value out of range" } else { "invalid syntax" };
                // Docker's words, and which number it is.
                let why = format!("strconv.Atoi: parsing {text:?}: {problem}");
                Error::invalid(format!("{why}: the query's {name} is a whole number"))
            }),
        }
    }

    /// The `filters` of list and prune endpoints: name to values. Both shapes are read, `{"a":{"b":true}}` and
    /// the older `{"a":["b"]}`.
    pub(crate) fn filters(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let Some(text) = self.text("filters") else { return Ok(BTreeMap::new()) };
        let mistake = match model::decode::<FilterSets>(text.as_bytes()) {
            Ok(sets) => return Ok(sets.into_lists()),
            Err(mistake) => mistake,
        };
        model::decode(text.as_bytes()).map_err(|_| Error::invalid(format!("invalid filter: {mistake}")))
    }
}

/// Decodes `%41`; what is no such escape stays as it is.
pub(crate) fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response> {
    let mut body =
        serde_json::to_vec(value).map_err(|error| Error::system("write the answer as JSON", error))?;
    body.push(b'\n');
    Ok(with_type(status, "application/json", full(body)))
}

/// An answer of 200 with a JSON body.
pub(crate) fn ok(value: &impl Serialize) -> Result<Response> {
    json(StatusCode::OK, value)
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Result<Response> {
    let mut response = hyper::Response::new(full(Vec::new()));
    *response.status_mut() = status;
    Ok(response)
}

/// An answer whose body comes in pieces.
pub(crate) fn streamed<S>(status: StatusCode, content_type: &'static str, pieces: S) -> Response
where
    S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    use futures_util::StreamExt;
    with_type(
        status,
        content_type,
        StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync(),
    )
}

/// An answer of that type.
pub(crate) fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = hyper::Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A body that is all there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// The answer to a request that failed: Docker's JSON, Docker's status.
pub(crate) fn failure(error: &Error) -> Response {
    let status = match error.kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::InvalidParameter => StatusCode::BAD_REQUEST,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::NotModified => StatusCode::NOT_MODIFIED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        Kind::System => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if status == StatusCode::NOT_MODIFIED {
        let mut response = hyper::Response::new(full(Vec::new()));
        *response.status_mut() = status;
        return response;
    }
    let mut body = serde_json::json!({ "message": error.message }).to_string();
    body.push('\n');
    with_type(status, "application/json", full(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("http://hull/x?{text}").parse().unwrap())
    }

    #[test]
    fn a_query_is_decoded() {
        let query = query("a=1&b=x%20y+z&b=%2F&c&broken=%zz");
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.all("b").collect::<Vec<_>>(), ["x y z", "/"]);
        assert_eq!(query.get("broken"), Some("%zz"));
        assert!(query.flag("a") && !query.flag("c") && !query.flag("d") && query.flag_or("d", true));
    }

    #[test]
    fn filters_come_in_two_shapes() {
        let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let of = |text: &str| query(&format!("filters={}", encoded(text))).filters();
        assert_eq!(of(r#"{"label":["a","b"]}"#).unwrap()["label"], ["a", "b"]);
        assert_eq!(of(r#"{"label":{"a":true,"b":false}}"#).unwrap()["label"], ["a"]);
        let refused = |text: &str| of(text).unwrap_err().message;
        assert!(refused("[1]").ends_with("array into Go value of type map[string]map[string]bool"));
        assert!(
            refused(r#"{"type map[string]string":1}"#)
                .ends_with("number into Go value of type map[string]bool")
        );
        assert!(refused(r#"{"a":{"b":1}}"#).ends_with("number into Go value of type bool"));
        assert!(of(r#"{"label":null}"#).unwrap()["label"].is_empty());
    }
}
