//! Requests to registries and what answers them: redirects by rules of our own, limits, lines that stand still.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION,
    TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{Method, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::{Connector, is_loopback};
use super::failure::{Answer, Failure, Refusal};
use super::{Registries, tls};
use crate::Error;

/// As many as Go's client follows.
const REDIRECTS: usize = 10;
/// The longest head of an answer, and the most headers in it.
const HEAD: usize = 64 << 10;
const HEADERS: usize = 128;
/// The longest body of an answer that refuses.
const REFUSAL: usize = 64 << 10;
/// Certificates on the disk are looked at again for whoever comes later than this.
const FRESH: Duration = Duration::from_secs(30);
/// So many hosts are remembered.
const HOSTS: usize = 64;

/// The body of a request.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Open lines to one host.
#[derive(Clone)]
pub(super) struct Wire {
    client: Client<Connector, Body>,
    made: Instant,
}

/// What a request carries.
pub enum Payload {
    /// Nothing.
    Empty,
    /// These bytes; they are sent again where that is needed.
    Bytes(Bytes),
    /// A stream, which can be sent once, and its length where that is known. Whoever writes it watches over it.
    Stream(Body, Option<u64>),
}

/// A request.
pub struct Call {
    /// The verb.
    pub method: Method,
    /// The whole address.
    pub url: Uri,
    /// Headers besides those that every request has.
    pub headers: HeaderMap,
    /// The body.
    pub payload: Payload,
    /// What is asked for takes the registry a while: so many times longer than usual its answer is waited for.
    pub slow: u32,
}

impl Call {
    /// A request without a body.
    pub fn new(method: Method, url: Uri) -> Call {
        Call { method, url, headers: HeaderMap::new(), payload: Payload::Empty, slow: 1 }
    }

    /// The same with a header. A value that no header can have is left out.
    pub fn header(mut self, name: HeaderName, value: &str) -> Call {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(name == AUTHORIZATION);
            self.headers.insert(name, value);
        }
        self
    }

    /// The same with a body.
    pub fn payload(mut self, payload: Payload) -> Call {
        self.payload = payload;
        self
    }

    /// The request again, where its body can be sent again.
    pub(super) fn again(&self) -> Option<Call> {
        let payload = match &self.payload {
            Payload::Empty => Payload::Empty,
            Payload::Bytes(bytes) => Payload::Bytes(bytes.clone()),
            Payload::Stream(..) => return None,
        };
        Some(Call {
            method: self.method.clone(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            payload,
            slow: self.slow,
        })
    }
}

/// The answer to a request, its body not read yet.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// Where the answer came from, behind all redirects.
    pub url: Uri,
    method: Method,
    body: Incoming,
    patience: Duration,
}

impl Reply {
    /// A header that is text.
    pub fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether it is told where the body ends. Otherwise that is where the line ends, and what is missing is not seen.
    pub fn tells_its_end(&self) -> bool {
        let is_chunked = || {
            self.header(TRANSFER_ENCODING).is_some_and(|how| how.to_ascii_lowercase().ends_with("chunked"))
        };
        self.headers.contains_key(CONTENT_LENGTH) || is_chunked()
    }

    /// The next piece of the body; none at its end.
    ///
    /// # Errors
    /// The line broke, or nothing came for too long.
    pub async fn chunk(&mut self) -> Answer<Option<Bytes>> {
        loop {
            let frame = match tokio::time::timeout(self.patience, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(self.broken(&cause(&error))),
                Err(_) => {
                    let seconds = self.patience.as_secs_f32();
                    return Err(self.broken(&format!("nothing came for {seconds} seconds")));
                }
            };
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// It is longer than `limit`, or the line broke.
    pub async fn bytes(mut self, limit: usize, what: &str) -> Answer<Bytes> {
        let mut whole = Vec::new();
        while let Some(piece) = self.chunk().await? {
            if whole.len() + piece.len() > limit {
                return Err(Failure::Wrong(format!(
                    "{what} is longer than the {limit} bytes that are allowed"
                )));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }

    /// What a refusal says.
    pub async fn refusal(self) -> Failure {
        let (status, headers) = (self.status, self.headers.clone());
        // A refusal that does not come whole is one all the same.
        let body = self.bytes(REFUSAL, "the answer").await.unwrap_or_default();
        Failure::Refused(Refusal::read(status, &headers, &body))
    }

    fn broken(&self, why: &str) -> Failure {
        Failure::Line(told(&self.method, &self.url, why))
    }
}

impl Registries {
    /// Sends a request and follows where it is sent on to. Credentials go to the host they are for and to no other.
    ///
    /// # Errors
    /// No answer came. An answer that refuses is one.
    pub async fn send(&self, mut call: Call, insecure: bool) -> Answer<Reply> {
        let first = call.url.clone();
        for _ in 0..=REDIRECTS {
            let again = call.again();
            let reply = self.send_one(call, insecure).await?;
            let is_redirect = matches!(reply.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let follows = matches!(reply.method, Method::GET | Method::HEAD);
            let (true, true, Some(mut next)) = (is_redirect, follows, again) else { return Ok(reply) };
            let location = reply.header(LOCATION).unwrap_or_default();
            next.url = redirected(&reply.url, location)?;
            let downgraded = reply.url.scheme_str() == Some("https") && next.url.scheme_str() == Some("http");
            if downgraded && !insecure {
                return Err(Failure::Wrong(told(
                    &reply.method,
                    &reply.url,
                    "it is redirected from https to http, which is not followed",
                )));
            }
            if !same_place(&next.url, &reply.url) {
                next.headers.remove(AUTHORIZATION);
            }
            call = next;
        }
        Err(Failure::Wrong(told(&Method::GET, &first, &format!("stopped after {REDIRECTS} redirects"))))
    }

    async fn send_one(&self, call: Call, insecure: bool) -> Answer<Reply> {
        let Call { method, url, headers, payload, slow } = call;
        let wire = self.wire(&url, insecure).await?;
        let mut request = hyper::Request::new(Body::default());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers;
        let agent = HeaderValue::from_static(concat!("hull/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        if let Some(value) = self.for_proxy(&url) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, value);
        }
        let never = |never: std::convert::Infallible| match never {};
        // A body takes as long as it takes; that its reader stands still is seen by who writes it.
        let mut patience = Some(self.settings().patience * slow);
        *request.body_mut() = match payload {
            Payload::Empty => Empty::new().map_err(never).boxed_unsync(),
            Payload::Bytes(bytes) => Full::new(bytes).map_err(never).boxed_unsync(),
            Payload::Stream(body, length) => {
                patience = None;
                if let Some(length) = length {
                    request.headers_mut().insert(CONTENT_LENGTH, length.into());
                }
                body
            }
        };
        let sent = wire.client.request(request);
        let answer = match patience {
            None => sent.await,
            Some(patience) => match tokio::time::timeout(patience, sent).await {
                Ok(answer) => answer,
                Err(_) => {
                    let why = "net/http: request canceled (Client.Timeout exceeded while awaiting headers)";
                    return Err(Failure::Line(told(&method, &url, why)));
                }
            },
        };
        let answer = answer.map_err(|error| Failure::Line(told(&method, &url, &cause(&error))))?;
        let (parts, body) = answer.into_parts();
        let patience = self.settings().patience;
        Ok(Reply { status: parts.status, headers: parts.headers, url, method, body, patience })
    }

    /// What a proxy is told of who asks, where it reads the request itself.
    fn for_proxy(&self, url: &Uri) -> Option<HeaderValue> {
        let is_read = url.scheme_str() == Some("http") && !is_loopback(url.host().unwrap_or_default());
        let proxy = if is_read { self.proxies.intercept(url) } else { None };
        proxy?.basic_auth().cloned()
    }

    /// Closes the lines to a host, and forgets its certificates.
    pub(super) fn forget(&self, host: &str) {
        let mut wires = self.wires.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        wires.retain(|(known, ..), _| known != host);
    }

    /// The lines to the host of an address.
    async fn wire(&self, url: &Uri, insecure: bool) -> Answer<Wire> {
        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        let is_tls = url.scheme_str() == Some("https");
        let key = (authority.clone(), is_tls, insecure);
        {
            let mut wires = self.wires.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(wire) = wires.get(&key).filter(|wire| wire.made.elapsed() < FRESH) {
                return Ok(wire.clone());
            }
            if wires.len() >= HOSTS {
                wires.clear();
            }
        }
        let folders = self.settings().certificates.clone();
        let config = match is_tls {
            false => None,
            true => {
                let read =
                    tokio::task::spawn_blocking(move || tls::config(&authority, &folders, insecure)).await;
                Some(read.unwrap_or_else(|error| Err(Error::new(crate::Kind::System, error.to_string())))?)
            }
        };
        let connector =
            Connector::new(config, std::sync::Arc::clone(&self.proxies), self.settings().patience);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .http1_max_buf_size(HEAD.max(256 << 10))
            .http1_max_headers(HEADERS)
            .build(connector);
        let wire = Wire { client, made: Instant::now() };
        let mut wires = self.wires.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        wires.insert(key, wire.clone());
        Ok(wire)
    }
}

/// Where an answer sends its request on to.
fn redirected(from: &Uri, location: &str) -> Answer<Uri> {
    let wrong = || {
        let location = super::failure::shown(location, 200);
        Failure::Wrong(told(
            &Method::GET,
            from,
            &format!("it is redirected to {location:?}, which is not followed"),
        ))
    };
    let next = join(from, location).ok_or_else(wrong)?;
    match next.scheme_str() {
        Some("http" | "https") if next.host().is_some_and(|host| !host.is_empty()) => Ok(next),
        _ => Err(wrong()),
    }
}

/// Whether two addresses are of one server, however they are written: in other letters, or with a port that need not be said.
pub(super) fn same_place(one: &Uri, other: &Uri) -> bool {
    let place = |url: &Uri| {
        let usual = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let host = url.host().map(str::to_ascii_lowercase);
        (url.scheme_str().map(str::to_owned), host, url.port_u16().unwrap_or(usual))
    };
    place(one) == place(other)
}

/// An address that an answer gives, in full: it may be relative to where it came from.
pub fn join(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    if location.is_empty() {
        return None;
    }
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let text = if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", from.path())
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    text.parse().ok()
}

/// `Get "https://host/v2/": why`, as Go's client tells it; a query may be a secret and is left out.
pub(super) fn told(method: &Method, url: &Uri, why: &str) -> String {
    let mut verb = method.as_str().to_ascii_lowercase();
    if let Some(first) = verb.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let (scheme, authority) =
        (url.scheme_str().unwrap_or("http"), url.authority().map_or("", |a| a.as_str()));
    // An address that a registry redirects to may have a password in it.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{verb} \"{scheme}://{authority}{}\": {why}", url.path())
}

/// The innermost reason: what the line itself said.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionReset) => "read: connection reset by peer".to_owned(),
        Some(std::io::ErrorKind::UnexpectedEof) => "unexpected EOF".to_owned(),
        _ => innermost.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_http_and_nowhere_else() {
        let from: Uri = "https://r.example:5000/v2/a/blobs/x?y".parse().unwrap();
        let to = |location: &str| redirected(&from, location).map(|uri| uri.to_string()).ok();
        assert_eq!(to("https://cdn.example/x?s=1"), Some("https://cdn.example/x?s=1".to_owned()));
        assert_eq!(to("//cdn.example/x"), Some("https://cdn.example/x".to_owned()));
        assert_eq!(to("/x#f"), Some("https://r.example:5000/x".to_owned()));
        assert_eq!(to("z"), Some("https://r.example:5000/v2/a/blobs/z".to_owned()));
        assert_eq!(to("?z"), Some("https://r.example:5000/v2/a/blobs/x?z".to_owned()));
        for location in
            ["", "file:///etc/passwd", "ftp://a/b", "unix:/run/x", "gopher:x", "http://", "data:,x"]
        {
            assert_eq!(to(location), None, "{location}");
        }
    }

    #[test]
    fn one_server_is_one_however_it_is_written() {
        let same = |one: &str, other: &str| same_place(&one.parse().unwrap(), &other.parse().unwrap());
        for url in ["https://r.example:443/v2/?x", "https://R.Example/y", "HTTPS://r.example"] {
            assert!(same("https://r.example/v2/", url), "{url}");
        }
        assert!(same("http://[::1]:80/", "http://[::1]/"));
        for url in ["http://r.example/", "https://r.example:444/", "https://r.example.evil/", "https://x@y/"]
        {
            assert!(!same("https://r.example/v2/", url), "{url}");
        }
    }

    #[test]
    fn addresses_are_told_without_their_secrets() {
        let url: Uri = "https://u:p@cdn.example/x?signature=secret".parse().unwrap();
        assert_eq!(told(&Method::GET, &url, "no"), "Get \"https://cdn.example/x\": no");
    }
}
