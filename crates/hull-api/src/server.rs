//! Listeners and connections: who may connect, which version is spoken, and a panic that ends one request alone.

use std::borrow::Cow;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hull_buildkit::BuildKit;
use hull_engine::{Engine, Error, Owner, Result};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, SERVER, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::gone::Client;
use crate::http::{self, NEWEST, OLDEST, Query, Request, RequestBody, Response, Version};
use crate::lenient::{self, Lenient};
use crate::policy::Guard;
use crate::routes;
use crate::sockets::Sockets;
use crate::unread::Unread;

/// One place where clients connect.
pub(crate) enum Listener {
    /// A unix socket; its file is removed when the listener ends, if it was made here.
    Unix(UnixListener, Option<PathBuf>),
    /// TCP, with TLS or, on loopback or where asked for, without.
    Tcp(TcpListener, Option<TlsAcceptor>),
}

/// Makes a unix socket that only root and a group may use.
///
/// # Errors
/// Another daemon listens there, or the file cannot be made.
pub(crate) fn listen_unix(path: &Path, group: Option<u32>) -> Result<Listener> {
    use std::os::unix::fs::FileTypeExt;
    let failed =
        |error: std::io::Error| Error::system(format_args!("listen on unix://{}", path.display()), error);
    if somebody_listens(path).map_err(failed)? {
        return Err(Error::conflict(format!(
            "another daemon listens on unix://{}: stop it with `hull system stop`, or choose another place with -H",
            path.display()
        )));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        // What a daemon left that was killed.
        Ok(left) if left.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(Error::conflict(format!("{} is there, and is no socket", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = bind(path).map_err(failed)?;
    give_to(path, group).map_err(failed)?;
    Ok(Listener::Unix(listener, Some(path.to_owned())))
}

/// Whether a connection would be taken. It is not waited for: whoever has the folder could listen there and take none.
fn somebody_listens(path: &Path) -> std::io::Result<bool> {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // EAGAIN: as many wait there already as may.
    Ok(matches!(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?), Ok(()) | Err(Errno::AGAIN)))
}

/// Lets a group use the socket that was just bound. Whoever has the folder may have put something else in its place
/// meanwhile: no link is followed, and nothing but a socket is changed.
fn give_to(path: &Path, group: Option<u32>) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
        return Err(std::io::Error::other("something else was put in the socket's place"));
    }
    if let Some(group) = group {
        rustix::fs::chownat(&file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    }
    // A descriptor of this kind takes no mode; the kernel's name of what it holds does.
    let held = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(held, std::fs::Permissions::from_mode(0o660))
}

/// A socket whose file nobody but root can use from its first moment: the kernel gives the file the mode of the socket
/// that is bound, less the process's mask, which is nobody's to change while there are threads.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 1024)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))
}

/// Whose requests are answered, and by what policy.
#[derive(Clone)]
pub(crate) struct Service {
    engine: Arc<Engine>,
    builder: Arc<BuildKit>,
    sockets: Arc<Sockets>,
    guard: Option<Arc<Guard>>,
    /// Of a socket that may be taken away: the other end goes with it.
    ended: Option<watch::Receiver<()>>,
}

impl Service {
    /// For those who have the machine.
    pub(crate) fn new(engine: Arc<Engine>, builder: Arc<BuildKit>, sockets: Arc<Sockets>) -> Service {
        Service { engine, builder, sockets, guard: None, ended: None }
    }

    /// For a socket with a policy.
    pub(crate) fn guarded(
        engine: Arc<Engine>,
        builder: Arc<BuildKit>,
        sockets: Arc<Sockets>,
        guard: Arc<Guard>,
        ended: watch::Receiver<()>,
    ) -> Service {
        Service { engine, builder, sockets, guard: Some(guard), ended: Some(ended) }
    }

    /// Waits until the socket is taken away.
    async fn over(&self) {
        match self.ended.clone() {
            // Nothing is ever sent: it ends when the other end is dropped.
            Some(mut ended) => while ended.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

impl Listener {
    /// Answers every client until the future is dropped.
    pub(crate) async fn serve(self, service: Service) {
        loop {
            match &self {
                Listener::Unix(listener, _) => match listener.accept().await {
                    Ok((stream, _)) => {
                        let client = Client::unix(&stream);
                        tokio::spawn(connection(TokioIo::new(Lenient::new(stream)), service.clone(), client));
                    }
                    Err(error) => accept_failed(&error).await,
                },
                Listener::Tcp(listener, tls) => match listener.accept().await {
                    Ok((stream, _)) => {
                        // Small answers leave at once.
                        if let Err(error) = stream.set_nodelay(true) {
                            tracing::debug!(%error, "a connection keeps Nagle's algorithm");
                        }
                        let (service, tls) = (service.clone(), tls.clone());
                        tokio::spawn(async move {
                            match tls {
                                None => {
                                    connection(TokioIo::new(Lenient::new(stream)), service, Client::other())
                                        .await
                                }
                                Some(tls) => with_tls(stream, tls, service).await,
                            }
                        });
                    }
                    Err(error) => accept_failed(&error).await,
                },
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, Some(path)) = self {
            // A daemon that came after may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// How long a client may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The first byte of TLS: a handshake's record.
const TLS_HANDSHAKE: u8 = 22;

/// Answers a client that speaks TLS; one that does not is told so in its own language.
async fn with_tls(mut stream: TcpStream, tls: TlsAcceptor, service: Service) {
    let handshake = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
            let said = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
            stream.write_all(said).await?;
            // Closing a socket with something unread in it would take the answer back.
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            return Err(std::io::Error::other("it does not speak TLS"));
        }
        tls.accept(stream).await
    };
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => connection(TokioIo::new(Lenient::new(stream)), service, Client::other()).await,
        Ok(Err(error)) => tracing::info!(%error, "a client could not prove who it is"),
        Err(_) => tracing::info!("a client did not say who it is in time"),
    }
}

/// Out of descriptors: those that are open must close first, and nothing tells when.
async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "a client could not connect");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

/// Who asks, as the kernel knows it.
#[derive(Clone, Copy)]
struct Caller {
    owner: Owner,
    pid: Option<i32>,
}

/// Answers one client's requests, one after the other.
async fn connection<I>(io: TokioIo<I>, service: Service, client: Client)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let caller = Caller { owner: client.caller(), pid: client.pid() };
    let answers = {
        let service = service.clone();
        service_fn(move |request| {
            let (service, client) = (service.clone(), client.clone());
            async move { Ok::<_, Infallible>(client.watches(answer(service, request, caller).await)) }
        })
    };
    let served = tokio::select! {
        served = protocol().serve_connection(io, answers).with_upgrades() => served,
        () = service.over() => return,
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

fn protocol() -> http1::Builder {
    let mut protocol = http1::Builder::new();
    // Names of headers as Go writes them: scripts that look at them do not all know that case means nothing there.
    // A head has all the time it wants: a limit would also end a connection that rests between two requests.
    protocol.header_read_timeout(None).half_close(true).title_case_headers(true);
    protocol
}

/// Answers one request, whatever happens.
async fn answer(service: Service, request: hyper::Request<Incoming>, caller: Caller) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // A task of its own: a panic ends it and nothing else. Dropped with the client, it is ended too.
    let experimental = if service.engine.config.experimental { "true" } else { "false" };
    let mut task = AbortOnDrop(tokio::spawn(dispatch(service, request, caller)));
    let mut response = match (&mut task.0).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::debug!(%method, path, %error, "refused");
            http::failure(&error)
        }
        Err(panic) => {
            tracing::error!(%method, path, %panic, "a request failed in a way that nobody foresaw");
            http::failure(&Error::system(
                format_args!("{method} {path}"),
                "an error inside hull; its log has more",
            ))
        }
    };
    let headers = response.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static("1.56"));
    headers.insert("Docker-Experimental", HeaderValue::from_static(experimental));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert(SERVER, HeaderValue::from_static(concat!("hull/", env!("CARGO_PKG_VERSION"), " (linux)")));
    response
}

struct AbortOnDrop(tokio::task::JoinHandle<Result<Response>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn dispatch(
    service: Service,
    mut request: hyper::Request<Incoming>,
    caller: Caller,
) -> Result<Response> {
    let Service { engine, builder, sockets, guard, .. } = service;
    let path = without_double_slashes(request.uri().path());
    let (asked_version, path) = version_of(&path)?;
    if *request.method() == hyper::Method::OPTIONS && guard.is_none() {
        // Every path has it, as with Docker, and nothing to say to it. A policy lets through what is on its list alone.
        return http::empty(hyper::StatusCode::OK);
    }
    let mut query = Query::of(request.uri());
    let found = routes::find(request.method(), path).and_then(|(route, mut captures)| {
        if let Some(guard) = &guard {
            guard.on(&engine).admit(route, &mut captures, &mut query)?;
        }
        match route.handler {
            Some(handler) => Ok((handler, captures)),
            None => Err(Error::unsupported(format_args!("the endpoint {}", route.name()))),
        }
    });
    let (handler, captures) = match found {
        Ok(found) => found,
        Err(error) => {
            let (parts, body) = request.into_parts();
            // Read, so that a client that is still sending it hears the answer and not a broken pipe.
            at_hand(&parts.headers, body).await?;
            return Err(error);
        }
    };
    let wants_upgrade = request.headers().contains_key(UPGRADE);
    let asked = request.headers().get_all(UPGRADE).iter().any(|value| value != lenient::TAKE_OVER);
    let connection = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (upgrade, unasked) = if asked { (connection, None) } else { (None, connection) };
    let (parts, body) = request.into_parts();
    let body = if upgrade.is_some() { body.boxed() } else { at_hand(&parts.headers, body).await? };
    let headers = parts.headers;
    handler(Request {
        engine,
        builder: Arc::clone(builder.builder()),
        buildkit: builder,
        sockets,
        guard,
        version: asked_version.unwrap_or(NEWEST),
        versioned: asked_version.is_some(),
        captures,
        query,
        headers,
        body,
        caller: caller.owner,
        caller_pid: caller.pid,
        upgrade,
        unasked,
    })
    .await
}

/// How long a body may be that is read before anything is answered.
const SHORT: u64 = 64 << 10;

/// A request's body, read if it is short: whatever the answer is then, it does not meet a client that is still sending.
async fn at_hand(headers: &HeaderMap, body: Incoming) -> Result<RequestBody> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_none_or(|length| length > SHORT) {
        return Ok(Unread::new(body).boxed());
    }
    let ended = |error| Error::invalid(format!("the request's body ended early: {error}"));
    let bytes = body.collect().await.map_err(ended)?.to_bytes();
    Ok(Full::new(bytes).map_err(|never: Infallible| match never {}).boxed())
}

/// A path as Docker's router cleans it: clients put together an address that ends in a slash and a path that begins with
/// one.
fn without_double_slashes(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut cleaned = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !cleaned.ends_with('/') {
            cleaned.push(letter);
        }
    }
    Cow::Owned(cleaned)
}

/// Takes `/v1.41` off a path, which may not have it.
///
/// # Errors
/// The version is one that is not spoken.
fn version_of(path: &str) -> Result<(Option<Version>, &str)> {
    let none = Ok((None, path));
    let Some(rest) = path.strip_prefix("/v") else { return none };
    let end = rest.find('/').unwrap_or(rest.len());
    let (version, path) = rest.split_at(end);
    let Some((major, minor)) = version.split_once('.') else { return none };
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else { return none };
    if (major, minor) < (1, OLDEST) {
        return Err(Error::invalid(format!(
            "client version {version} is too old. Minimum supported API version is 1.{OLDEST}, please upgrade your \
             client to a newer version"
        )));
    }
    if (major, minor) > (1, NEWEST) {
        return Err(Error::invalid(format!(
            "client version {version} is too new. Maximum supported API version is 1.{NEWEST}"
        )));
    }
    Ok((Some(minor), path))
}

/// A descriptor that another process handed over, as a listener.
///
/// # Errors
/// It is no listening unix or TCP socket.
pub(crate) fn listen_inherited(
    descriptor: OwnedFd,
    tls: Option<TlsAcceptor>,
    trusted: bool,
) -> Result<Listener> {
    let failed = |error: std::io::Error| Error::system("take over a socket with fd://", error);
    let family = rustix::net::sockopt::socket_domain(&descriptor).map_err(|error| failed(error.into()))?;
    if family == rustix::net::AddressFamily::UNIX {
        let listener = std::os::unix::net::UnixListener::from(descriptor);
        listener.set_nonblocking(true).map_err(failed)?;
        return Ok(Listener::Unix(UnixListener::from_std(listener).map_err(failed)?, None));
    }
    let listener = std::net::TcpListener::from(descriptor);
    let address = listener.local_addr().map_err(failed)?;
    if !trusted && !address.ip().is_loopback() {
        return Err(Error::new(
            hull_engine::Kind::Forbidden,
            format!(
                "the socket {address} that was handed over would give root on this machine to everyone who reaches it: \
                 use --tlsverify, listen on 127.0.0.1, or say --allow-root-to-anyone-on-the-network"
            ),
        ));
    }
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?, tls))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    /// A folder of this test's own, which ends with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("hull-server-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn a_socket_is_the_group_s() {
        let folder = Folder::new("group");
        let path = folder.0.join("a.sock");
        let group = std::fs::metadata(&folder.0).unwrap().gid();
        let _listener = listen_unix(&path, Some(group)).unwrap();
        assert_eq!((mode(&path), std::fs::metadata(&path).unwrap().gid()), (0o660, group));
        assert!(listen_unix(&path, None).err().unwrap().message.contains("another daemon"));
    }

    #[test]
    fn what_was_put_in_the_socket_s_place_stays_as_it_is() {
        let folder = Folder::new("swapped");
        let (file, socket, link) = (folder.0.join("file"), folder.0.join("b.sock"), folder.0.join("link"));
        std::fs::write(&file, "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for target in [&file, &socket] {
            std::fs::set_permissions(target, std::fs::Permissions::from_mode(0o600)).unwrap();
            symlink(target, &link).unwrap();
            assert!(give_to(&link, None).is_err());
            std::fs::remove_file(&link).unwrap();
        }
        assert!(give_to(&file, None).is_err());
        assert_eq!((mode(&file), mode(&socket)), (0o600, 0o600));
    }

    #[test]
    fn a_listener_that_takes_nobody_holds_up_nobody() {
        let folder = Folder::new("full");
        let path = folder.0.join("full.sock");
        assert!(!somebody_listens(&path).unwrap());
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        // Its one place is taken.
        let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(somebody_listens(&path).unwrap());
        let error = listen_unix(&path, None).err().unwrap();
        assert!(error.message.contains("another daemon"), "{}", error.message);
        drop(listener);
        assert!(!somebody_listens(&path).unwrap());
    }

    #[test]
    fn a_version_is_taken_off_the_path() {
        assert_eq!(version_of("/v1.41/info").unwrap(), (Some(41), "/info"));
        assert_eq!(version_of("/info").unwrap(), (None, "/info"));
        assert_eq!(version_of("/volumes/v").unwrap(), (None, "/volumes/v"));
        assert_eq!(version_of("/version").unwrap(), (None, "/version"));
        assert!(version_of("/v1.23/info").unwrap_err().message.contains("too old"));
        assert!(version_of("/v1.57/info").unwrap_err().message.contains("too new"));
        assert!(version_of("/v2.0/info").is_err());
    }
}
