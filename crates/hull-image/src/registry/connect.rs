//! A line to a registry: TCP, through a proxy where the environment names one, TLS upon it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tls;

/// How long one address is tried.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a proxy's answer, or a TLS handshake, is waited for.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// The longest head of a proxy's answer.
const PROXY_HEAD: usize = 16 << 10;

/// What a line is read from and written to.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An open line.
pub(super) struct Line {
    io: TokioIo<Box<dyn Io>>,
    /// Requests name the whole address: a proxy reads them.
    proxied: bool,
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl hyper::rt::Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Opens lines to one host.
#[derive(Clone)]
pub(super) struct Connector {
    /// None where the host is spoken to without TLS.
    tls: Option<Arc<ClientConfig>>,
    proxies: Arc<Matcher>,
    /// The line's patience, where it is shorter than the usual one.
    patience: Duration,
}

impl Connector {
    pub(super) fn new(tls: Option<ClientConfig>, proxies: Arc<Matcher>, patience: Duration) -> Connector {
        Connector { tls: tls.map(Arc::new), proxies, patience }
    }

    async fn open(self, uri: Uri) -> io::Result<Line> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        // As in Go: what is on this machine is never asked for through a proxy.
        let proxy = if is_loopback(&host) { None } else { self.proxies.intercept(&uri) };
        let (mut stream, proxied): (Box<dyn Io>, bool) = match &proxy {
            None => (Box::new(self.dial(&host, port).await?), false),
            Some(proxy) => (self.dial_proxy(proxy.uri()).await?, !is_tls),
        };
        let Some(config) = self.tls.filter(|_| is_tls) else {
            return Ok(Line { io: TokioIo::new(stream), proxied });
        };
        let patience = HANDSHAKE.min(self.patience);
        if let Some(proxy) = &proxy {
            let authority =
                if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            let tunnel = tunnel(&mut stream, &authority, proxy.basic_auth());
            waited(tokio::time::timeout(patience, tunnel).await, "the proxy does not answer")?;
        }
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let handshake = tokio_rustls::TlsConnector::from(config).connect(name, stream);
        let stream = match tokio::time::timeout(patience, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let authority = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
                return Err(io::Error::new(error.kind(), tls::told(authority, &error)));
            }
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "net/http: TLS handshake timeout")),
        };
        Ok(Line { io: TokioIo::new(Box::new(stream)), proxied: false })
    }

    async fn dial_proxy(&self, proxy: &Uri) -> io::Result<Box<dyn Io>> {
        let host = proxy.host().unwrap_or_default().trim_matches(['[', ']']);
        match proxy.scheme_str() {
            Some("http") | None => {
                let stream = self.dial(host, proxy.port_u16().unwrap_or(80)).await;
                Ok(Box::new(
                    stream.map_err(|error| {
                        io::Error::new(error.kind(), format!("proxyconnect tcp: {error}"))
                    })?,
                ))
            }
            Some(other) => Err(io::Error::other(format!(
                "the environment's proxy is of the kind {other}, which is not supported: name one by http://"
            ))),
        }
    }

    /// Connects to the first of the host's addresses that answers.
    async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let found: Vec<SocketAddr> = match tokio::net::lookup_host((host, port)).await {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                let why = error.to_string();
                let why =
                    if why.contains("not known") || why.contains("does not") { "no such host" } else { &why };
                return Err(io::Error::new(error.kind(), format!("dial tcp: lookup {host}: {why}")));
            }
        };
        let mut last = io::Error::other(format!("dial tcp: lookup {host}: no such host"));
        for address in found {
            match tokio::time::timeout(CONNECT.min(self.patience), TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Of no effect on what is right: a request's last piece need not wait for more.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => {
                    let why = error.to_string().to_lowercase();
                    let why = why.split(" (os error").next().unwrap_or_default();
                    last = io::Error::new(error.kind(), format!("dial tcp {address}: connect: {why}"));
                }
                Err(_) => {
                    last =
                        io::Error::new(io::ErrorKind::TimedOut, format!("dial tcp {address}: i/o timeout"));
                }
            }
        }
        Err(last)
    }
}

/// Asks a proxy for a line through it.
async fn tunnel(
    stream: &mut Box<dyn Io>,
    authority: &str,
    credentials: Option<&hyper::header::HeaderValue>,
) -> io::Result<()> {
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(credentials) = credentials {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(credentials.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head is the other side's already.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_HEAD {
            return Err(io::Error::other("the proxy's answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    let status = head.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    match status.starts_with(b"2") {
        true => Ok(()),
        false => {
            let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
            let line = super::failure::shown(&String::from_utf8_lossy(line), 200);
            Err(io::Error::other(format!("the proxy does not connect to {authority}: {line}")))
        }
    }
}

fn waited<T>(result: Result<io::Result<T>, tokio::time::error::Elapsed>, why: &str) -> io::Result<T> {
    result.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, why)))
}

/// Whether a host is this machine by its name alone.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl tower_service::Service<Uri> for Connector {
    type Response = Line;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Line>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().open(uri))
    }
}

/// `user:password` as Basic credentials.
pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}
