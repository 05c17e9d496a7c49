#![allow(unsafe_code)] // unshare: rustix marks it unsafe because of CLONE_FILES, which is not used here
//! Work inside a network namespace, never on the caller's thread.
//!
//! A thread that fails between entering a namespace and leaving it would do the next request's work inside a
//! container. So work in a namespace runs on a thread that ends with it ([`run`]); the one thread that makes
//! namespaces and comes back ends itself when it cannot come back (`Maker`).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::netlink::{Batch, Socket, route};
use crate::own_proc::OwnProc;
use crate::{Error, Result};

/// An interface and its counters since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in its namespace.
    pub index: u32,
    /// Of a veth's end: the other end's index, in the namespace where that one is; of a device on a parent: the parent's.
    /// Otherwise 0.
    pub peer: u32,
    /// That index is of another namespace.
    pub peer_is_elsewhere: bool,
    /// What it is, where the kernel has a name for it: `veth`, `macvlan`.
    pub kind: String,
    /// Its hardware address, if it is one of Ethernet's.
    pub mac: Option<[u8; 6]>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets dropped on receipt.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets dropped on sending.
    pub tx_dropped: u64,
}

/// The network namespace of the calling thread.
pub fn current() -> Result<OwnedFd> {
    open_current().map_err(|error| Error::kernel("opening /proc/thread-self/ns/net", error))
}

fn open_current() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

/// Runs `work` on a thread of its own inside the namespace and hands back what it returned. The thread ends with it.
///
/// # Errors
/// No thread could be made, or the namespace could not be entered (the descriptor is no network namespace's, or
/// CAP_SYS_ADMIN is missing). A panic of `work` goes on in the caller.
pub fn run<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, move || {
            enter(namespace)?;
            Ok(work())
        });
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(error),
        }
    })
    .map_err(|error: io::Error| Error::kernel("entering a network namespace", error))
}

/// The interfaces of a namespace with their counters: one netlink dump.
pub fn interfaces(namespace: BorrowedFd<'_>) -> Result<Vec<Interface>> {
    let mut socket = route_socket(namespace)?;
    let mut all = Vec::new();
    socket.dump(route::list_links(), |_, body| all.extend(route::interface_of(body)))?;
    Ok(all)
}

/// The interfaces of a namespace, and the addresses that each has by its index; those of the link are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// Index, address, prefix length.
    pub addresses: Vec<(u32, IpAddr, u8)>,
}

/// What a namespace has: two netlink dumps.
pub fn inside(namespace: BorrowedFd<'_>) -> Result<Inside> {
    look_inside(&mut route_socket(namespace)?)
}

pub(crate) fn look_inside(socket: &mut Socket) -> Result<Inside> {
    let mut inside = Inside::default();
    socket.dump(route::list_links(), |_, body| inside.interfaces.extend(route::interface_of(body)))?;
    socket.dump(route::list_addresses(), |_, body| inside.addresses.extend(route::address_of(body)))?;
    Ok(inside)
}

/// A netlink socket that speaks to a namespace from wherever it is used.
pub(crate) fn route_socket(namespace: BorrowedFd<'_>) -> Result<Socket> {
    run(namespace, Socket::route)?.map_err(|error| Error::kernel("opening a netlink socket", error))
}

/// A new namespace, its loopback up, and a socket that speaks to it.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) namespace: OwnedFd,
    pub(crate) socket: Socket,
}

type Reply = SyncSender<Result<Made>>;

enum Request {
    /// Somebody waits for a namespace.
    Make(Reply),
    /// The machine has a moment: the next one can be made ahead.
    Ahead,
}

/// The thread that makes namespaces. It is inside a new one for three system calls.
#[derive(Debug)]
pub(crate) struct Maker {
    home: OwnedFd,
    requests: Mutex<Option<Sender<Request>>>,
    proc: Arc<OwnProc>,
}

impl Maker {
    /// `home` is where the thread lives between requests.
    pub(crate) fn new(home: OwnedFd) -> Self {
        Maker { home, requests: Mutex::new(None), proc: Arc::default() }
    }

    /// Has the interfaces that come into a namespace, which others have made, believe no router advertisement.
    pub(crate) fn hear_no_routers(&self, namespace: BorrowedFd<'_>) -> Result<()> {
        run(namespace, || self.proc.hear_no_routers())?
            .map_err(|error| Error::kernel("have a network namespace hear no routers", error))
    }

    pub(crate) fn make(&self) -> Result<Made> {
        let (reply, answer) = sync_channel(1);
        self.ask(Request::Make(reply))?;
        answer.recv().map_err(|_| Error::Invalid("the thread that makes network namespaces ended".into()))?
    }

    /// Lets the thread make one ahead, if it has none. Until this is said it does not: right after the last one was taken
    /// the machine has a container to start.
    pub(crate) fn ahead(&self) {
        // What fails is tried again, and told, when somebody asks.
        let _ = self.ask(Request::Ahead);
    }

    /// Hands the request to the thread; starts one where there is none, or where the last has ended itself.
    fn ask(&self, request: Request) -> Result<()> {
        let mut requests = self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let request = match requests.as_ref() {
            Some(sender) => match sender.send(request) {
                Ok(()) => return Ok(()),
                Err(unsent) => unsent.0,
            },
            None => request,
        };
        let (sender, receiver) = channel();
        let failed = |error| Error::kernel("starting the thread that makes network namespaces", error);
        let home = self.home.try_clone().map_err(failed)?;
        let proc = Arc::clone(&self.proc);
        std::thread::Builder::new()
            .name("netns-maker".into())
            .spawn(move || serve(&home, &proc, &receiver))
            .map_err(failed)?;
        // The receiver lives in the thread just started, so this cannot fail before the thread has served it.
        let _ = sender.send(request);
        *requests = Some(sender);
        Ok(())
    }
}

fn serve(home: &OwnedFd, proc: &OwnProc, requests: &Receiver<Request>) {
    if enter(home.as_fd()).is_err() {
        return; // whoever waits learns it from the dropped reply
    }
    let mut spare = None;
    while let Ok(request) = requests.recv() {
        if matches!(request, Request::Ahead) && spare.is_some() {
            continue;
        }
        let (made, at_home) =
            spare.take().map_or_else(|| make(home.as_fd(), proc), |spare| (Ok(spare), true));
        match request {
            // Who asked may have gone; the namespace goes with its descriptor then.
            Request::Make(reply) => drop(reply.send(made)),
            Request::Ahead => spare = made.ok(),
        }
        if !at_home {
            return;
        }
    }
}

/// Makes a namespace; the second value says whether the thread is back where it was.
fn make(home: BorrowedFd<'_>, proc: &OwnProc) -> (Result<Made>, bool) {
    // SAFETY: NEWNET alone; no descriptor table is unshared.
    if let Err(error) = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) } {
        return (Err(Error::kernel("making a network namespace", error)), true);
    }
    let inside = open_current().and_then(|namespace| {
        proc.hear_no_routers()?;
        Ok((namespace, Socket::route()?))
    });
    let at_home = enter(home).is_ok();
    let made = inside.map_err(|error| Error::kernel("opening a new network namespace", error)).and_then(
        |(namespace, mut socket)| {
            wake(&mut socket)?;
            Ok(Made { namespace, socket })
        },
    );
    (made, at_home)
}

/// Takes up the loopback of the namespace that a socket speaks to.
pub(crate) fn wake(socket: &mut Socket) -> Result<()> {
    let mut batch = Batch::new();
    route::up(&mut batch, LOOPBACK, "lo");
    socket.send(batch).map(drop)
}

/// The loopback's index in every namespace (LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;
