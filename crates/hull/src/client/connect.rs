//! Addresses of daemons, and the streams to them.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls;
use crate::cli::TlsChoice;
use crate::error::{Error, words};

/// The socket of the daemon that this machine has by default.
pub const DEFAULT_SOCKET: &str = "/run/hull/hull.sock";

/// A stream of bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Where the daemon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Hull's own socket, where nothing else was said: the daemon is started when it is not there.
    Default,
    /// A socket in the file system.
    Unix(PathBuf),
    /// A TCP address, with TLS or without.
    Tcp(String),
    /// A machine reached by `ssh`: the words for it, and the host's name.
    Ssh(Vec<String>),
}

impl Host {
    /// Reads `-H`'s forms. Without a port, `tls` decides which one is Docker's.
    pub fn parse(text: Option<&str>, tls: bool) -> Result<Self, Error> {
        let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(Self::Default);
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        match scheme {
            "unix" if rest.is_empty() => Ok(Self::Default),
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" | "http" | "https" => tcp(rest, text, tls),
            "ssh" => ssh(rest, text),
            "" if text.starts_with('/') => Ok(Self::Unix(PathBuf::from(text))),
            "" => tcp(rest, text, tls),
            _ => Err(bad(text, &format!("{scheme}:// is no way that is known (unix, tcp, ssh are)"))),
        }
    }

    /// What the Host header says.
    pub fn http_host(&self) -> &str {
        match self {
            Self::Tcp(address) => address,
            _ => "hull",
        }
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::usage(format!("unable to parse docker host `{text}`: {why}"))
}

fn tcp(rest: &str, text: &str, tls: bool) -> Result<Host, Error> {
    let address = rest.trim_end_matches('/');
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if address.is_empty() || address.contains('/') {
        return Err(bad(text, "it has no host, or a path after it"));
    }
    let port = if tls { 2376 } else { 2375 };
    Ok(Host::Tcp(if has_port { address.to_owned() } else { format!("{address}:{port}") }))
}

fn ssh(rest: &str, text: &str) -> Result<Host, Error> {
    let rest = rest.trim_end_matches('/');
    let (user, machine) = match rest.rsplit_once('@') {
        Some((user, machine)) => (Some(user), machine),
        None => (None, rest),
    };
    let (machine, port) = match machine.rsplit_once(':') {
        Some((machine, port)) if !port.contains(']') => (machine, Some(port)),
        _ => (machine, None),
    };
    if machine.is_empty() || machine.contains('/') || user.is_some_and(|user| user.contains(':')) {
        return Err(bad(text, "it is ssh://[user@]host[:port], without a password and a path"));
    }
    let mut words = vec!["-o".to_owned(), "ConnectTimeout=30".to_owned(), "-T".to_owned()];
    if let Some(user) = user {
        words.extend(["-l".to_owned(), user.to_owned()]);
    }
    if let Some(port) = port {
        port.parse::<u16>().map_err(|_| bad(text, "its port is no number"))?;
        words.extend(["-p".to_owned(), port.to_owned()]);
    }
    // After `--`, a host name that begins with a hyphen is not an option of ssh's.
    words.extend(["--".to_owned(), machine.trim_matches(['[', ']']).to_owned()]);
    Ok(Host::Ssh(words))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "unix://{DEFAULT_SOCKET}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Ssh(words) => write!(f, "ssh://{}", words.last().map_or("", String::as_str)),
        }
    }
}

pub(super) async fn connect(host: &Host, tls: Option<&TlsChoice>) -> io::Result<Box<dyn Io>> {
    match host {
        Host::Default => Ok(Box::new(UnixStream::connect(DEFAULT_SOCKET).await?)),
        Host::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Host::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            match tls {
                Some(choice) => tls::handshake(choice, address, stream).await,
                None => Ok(Box::new(stream)),
            }
        }
        Host::Ssh(words) => dial_by_ssh(words),
    }
}

/// The other machine's own client carries the bytes to its daemon: hull's, or where there is none, Docker's.
fn dial_by_ssh(ssh: &[String]) -> io::Result<Box<dyn Io>> {
    let mut child = tokio::process::Command::new("ssh")
        .args(ssh)
        .arg("sh -c 'command -v hull >/dev/null && exec hull system dial-stdio || exec docker system dial-stdio'")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run ssh: {}", words(&e))))?;
    match (child.stdout.take(), child.stdin.take()) {
        (Some(output), Some(input)) => Ok(Box::new(Streams { output, input: Some(input) })),
        _ => Err(io::Error::other("ssh has no standard streams")),
    }
}

/// A program's standard streams as one stream. Shutting it down closes the program's input, which a pipe's own
/// shutdown does not do: that is how it hears of the end.
struct Streams {
    output: tokio::process::ChildStdout,
    input: Option<tokio::process::ChildStdin>,
}

impl AsyncRead for Streams {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, to)
    }
}

impl AsyncWrite for Streams {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.as_mut().poll_flush(cx);
        if flushed.is_ready() {
            self.input = None;
        }
        flushed
    }
}

/// Whether the error says that no daemon listens there.
pub(super) fn nobody_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// What the user is told.
pub(super) fn worded(host: &Host, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Error::connection(format!(
            "permission denied on the daemon's socket {host}: use sudo, or join the group hull \
             (sudo usermod -aG hull $USER, then log in anew)"
        ));
    }
    if nobody_there(error) {
        return Error::connection(format!(
            "Cannot connect to the hull daemon at {host}. Is the hull daemon running?"
        ));
    }
    Error::connection(format!("Cannot connect to the hull daemon at {host}: {}", words(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(Some(text), false).unwrap()
    }

    #[test]
    fn forms() {
        assert_eq!(Host::parse(None, false).unwrap(), Host::Default);
        assert_eq!(host("unix:///tmp/x"), Host::Unix("/tmp/x".into()));
        assert_eq!(host("/tmp/x"), Host::Unix("/tmp/x".into()));
        assert_eq!(host("tcp://a:1"), Host::Tcp("a:1".into()));
        assert_eq!(host("a:1"), Host::Tcp("a:1".into()));
        assert_eq!(host("tcp://[::1]:4"), Host::Tcp("[::1]:4".into()));
        assert_eq!(host("tcp://a"), Host::Tcp("a:2375".into()));
        assert_eq!(host("tcp://[::1]"), Host::Tcp("[::1]:2375".into()));
        assert_eq!(Host::parse(Some("tcp://a"), true).unwrap(), Host::Tcp("a:2376".into()));
        for wrong in ["ftp://x", "tcp://", "tcp://a:1/p", "ssh://", "ssh://u:p@h", "ssh://h:x"] {
            assert!(Host::parse(Some(wrong), false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ssh_words() {
        let Host::Ssh(words) = host("ssh://me@there:22") else { panic!() };
        assert_eq!(words.join(" "), "-o ConnectTimeout=30 -T -l me -p 22 -- there");
        let Host::Ssh(words) = host("ssh://-oProxyCommand=x") else { panic!() };
        assert_eq!(words[words.len() - 2], "--");
    }
}
