//! Serving: each query is answered at once, or asked on. Dropping the future ends everything it began.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::message::{self, Code, Query, Record, Refused, TYPE_A, TYPE_AAAA, TYPE_PTR, UDP_MOST};
use super::{Names, Sockets};

/// How long one upstream has for its answer. A client waits 5 seconds (man 5 resolv.conf), so two can be tried.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(2);
/// Of those, the most that are asked.
const UPSTREAMS: usize = 3;
/// A container's queries that wait for an upstream at one time; the next is refused at once.
const WAITING: usize = 256;
/// A container's TCP connections at one time; the next waits in the kernel's queue.
const CONNECTIONS: usize = 32;
/// How long a TCP connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// What every query of a container needs.
struct Responder {
    scope: String,
    names: Arc<dyn Names>,
    waiting: Semaphore,
    turn: AtomicUsize,
}

/// How a query came, and goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Udp,
    Tcp,
}

/// Answers queries until the future is dropped. `scope` is handed to [`Names`] as it is (the container's id). Must be
/// called within a tokio runtime; upstreams are asked from the namespace of the runtime's threads.
///
/// It ends by itself only when the sockets cannot be used, which is returned.
pub async fn serve(sockets: Sockets, scope: String, names: Arc<dyn Names>) -> io::Result<()> {
    let udp = Arc::new(UdpSocket::from_std(sockets.udp)?);
    let tcp = TcpListener::from_std(sockets.tcp)?;
    let responder =
        Arc::new(Responder { scope, names, waiting: Semaphore::new(WAITING), turn: AtomicUsize::new(0) });
    tokio::select! {
        ended = serve_udp(udp, responder.clone()) => ended,
        ended = serve_tcp(tcp, responder) => ended,
    }
}

async fn serve_udp(udp: Arc<UdpSocket>, responder: Arc<Responder>) -> io::Result<()> {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; UDP_MOST];
    loop {
        while tasks.try_join_next().is_some() {}
        let (length, client) = match udp.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) if is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        match responder.answer(&buffer[..length], Way::Udp) {
            Answer::None => {}
            // A client that is gone needs no answer.
            Answer::Ready(answer) => drop(udp.send_to(&answer, client).await),
            Answer::Ask(query) => {
                let (udp, responder, bytes) = (udp.clone(), responder.clone(), buffer[..length].to_vec());
                tasks.spawn(async move {
                    let answer = responder.ask(&query, bytes, Way::Udp).await;
                    drop(udp.send_to(&answer, client).await);
                });
            }
        }
    }
}

/// An error of one client, reported on the socket of all.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
    ) || error.kind() == io::ErrorKind::Interrupted
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>) -> io::Result<()> {
    /// Descriptors run out for a while; nothing tells when there are some again.
    const LATER: Duration = Duration::from_millis(100);
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let responder = responder.clone();
                // What goes wrong on a connection ends that connection.
                connections.spawn(async move { drop(serve_connection(stream, &responder).await) });
            }
            Err(error) if is_passing(&error) => {}
            Err(_) => sleep(LATER).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    loop {
        let bytes = timeout(SILENCE, read_message(&mut stream)).await??;
        let answer = match responder.answer(&bytes, Way::Tcp) {
            Answer::None => return Ok(()),
            Answer::Ready(answer) => answer,
            Answer::Ask(query) => responder.ask(&query, bytes, Way::Tcp).await,
        };
        timeout(SILENCE, write_message(&mut stream, &answer)).await??;
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_message(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await
}

/// What becomes of a query.
enum Answer {
    /// Nothing.
    None,
    Ready(Vec<u8>),
    /// Somebody else knows.
    Ask(Query),
}

impl Responder {
    /// Answers what is ours.
    fn answer(&self, bytes: &[u8], way: Way) -> Answer {
        let query = match message::parse(bytes) {
            Ok(query) => query,
            Err(Refused::Silently) => return Answer::None,
            Err(Refused::With(refusal)) => return Answer::Ready(refusal),
        };
        match self.own_records(&query) {
            Some(records) => Answer::Ready(query.answer(Code::NoError, &records, limit(&query, way))),
            None => Answer::Ask(query),
        }
    }

    /// The records of a name that is ours: none when it has none of that type.
    fn own_records(&self, query: &Query) -> Option<Vec<Record>> {
        if !query.class_in {
            return None;
        }
        if query.kind == TYPE_PTR
            && let Some(address) = query.asked_address()
        {
            return self.names.reverse(&self.scope, address).map(|name| vec![Record::Name(name)]);
        }
        let mut addresses =
            self.names.lookup(&self.scope, query.name.as_deref().filter(|name| !name.is_empty())?)?;
        addresses.retain(|address| match query.kind {
            TYPE_A => address.is_ipv4(),
            TYPE_AAAA => address.is_ipv6(),
            _ => false,
        });
        // Several containers of one name take turns at being first.
        if addresses.len() > 1 {
            let first = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(first);
        }
        Some(addresses.into_iter().map(Record::Address).collect())
    }

    /// Asks the upstreams, one after the other; the first that knows is passed on.
    async fn ask(&self, query: &Query, bytes: Vec<u8>, way: Way) -> Vec<u8> {
        let limit = limit(query, way);
        let upstreams = self.names.upstreams(&self.scope);
        if upstreams.is_empty() {
            return query.answer(Code::NoSuchName, &[], limit);
        }
        let Ok(_turn) = self.waiting.try_acquire() else {
            return query.answer(Code::ServerFailure, &[], limit);
        };
        let mut failure = None;
        for upstream in upstreams.into_iter().take(UPSTREAMS) {
            let asked = async {
                match way {
                    Way::Udp => ask_udp(query, &bytes, upstream).await,
                    Way::Tcp => ask_tcp(query, &bytes, upstream).await,
                }
            };
            match timeout(UPSTREAM_PATIENCE, asked).await {
                Ok(Ok(answer)) if !message::failed(&answer) => return query.pass_on(answer, limit),
                Ok(Ok(answer)) => failure = Some(answer),
                Ok(Err(_)) | Err(_) => {} // out of reach: the next
            }
        }
        match failure {
            Some(answer) => query.pass_on(answer, limit),
            None => query.answer(Code::ServerFailure, &[], limit),
        }
    }
}

fn limit(query: &Query, way: Way) -> usize {
    match way {
        Way::Udp => query.udp_limit,
        Way::Tcp => usize::from(u16::MAX),
    }
}

/// The client's message under an id of our own: with the kernel's choice of a port, 32 bits that a forger must guess.
fn under_new_id(bytes: &[u8]) -> io::Result<(Vec<u8>, u16)> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let mut bytes = bytes.to_vec();
    bytes[..2].copy_from_slice(&id);
    Ok((bytes, u16::from_be_bytes(id)))
}

async fn ask_udp(query: &Query, bytes: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    let (bytes, id) = under_new_id(bytes)?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; UDP_MOST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else is somebody's guess: the answer may still come.
        if query.is_answered_by(&buffer[..length], id) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(query: &Query, bytes: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let (bytes, id) = under_new_id(bytes)?;
    write_message(&mut stream, &bytes).await?;
    let answer = read_message(&mut stream).await?;
    if !query.is_answered_by(&answer, id) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(answer)
}
