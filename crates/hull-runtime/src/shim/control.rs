//! What daemons ask of a shim, over any number of connections.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::SocketFlags;

use super::exec_cgroup::ExecCgroup;
use super::kernel::{self, Interest};
use super::log::Stream;
use super::running::{Running, Shim, signal};
use super::starting::{StartingExec, Way};
use super::streams::{self, Hold, Streams};
use super::{now_ns, start};
use crate::cgroup::Cgroup;
use crate::container::{self, ExecIn};
use crate::protocol::{
    self, Attach, Event, Exec, FromShim, ReceiveError, Reply, Request, Seccomp, State, VERSION,
};
use crate::{Error, Result, seccomp};

/// A connection of a daemon.
pub(super) struct Connection {
    id: u64,
    socket: OwnedFd,
    subscribed: bool,
    /// It waits for an answer that takes its time; answers come in the order of the requests.
    waits: bool,
    pub(super) closed: bool,
}

impl Connection {
    /// A connection over a non-blocking socket.
    pub(super) fn new(id: u64, socket: OwnedFd, subscribed: bool) -> Connection {
        Connection { id, socket, subscribed, waits: false, closed: false }
    }

    /// The descriptor to wait for requests on.
    pub(super) fn listens(&self) -> Option<i32> {
        (!self.waits && !self.closed).then(|| self.socket.as_raw_fd())
    }

    fn send(&mut self, message: &FromShim) {
        // A daemon that reads nothing, or is gone, does not hold up the container. It finds its connection
        // closed, connects anew and asks.
        if !self.closed && protocol::send(self.socket.as_fd(), message, &[]).is_err() {
            self.closed = true;
        }
    }
}

impl Shim {
    /// Sends an event to all who want it.
    pub(super) fn tell(&mut self, event: Event) {
        let message = FromShim::Event(event);
        for connection in self.connections.iter_mut().filter(|connection| connection.subscribed) {
            connection.send(&message);
        }
    }

    /// Takes a new connection. The socket's mode lets only root connect.
    pub(super) fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        else {
            return;
        };
        let root = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
        if root {
            let id = self.connections.iter().map(|connection| connection.id).max().unwrap_or(0) + 1;
            self.connections.push(Connection::new(id, socket, false));
        }
    }

    /// Answers one request of a connection.
    pub(super) fn serve(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let (request, descriptors) = match protocol::receive::<Request>(connection.socket.as_fd()) {
            Ok(Some(message)) => message,
            Err(ReceiveError::WouldBlock) => return,
            Ok(None) => return connection.closed = true,
            Err(ReceiveError::Broken(error)) => {
                connection.send(&FromShim::Reply(Reply::Failed(error)));
                return connection.closed = true;
            }
        };
        let id = connection.id;
        let reply = match request {
            // Its network is made once, before the start.
            Request::Network => return,
            Request::Exec(exec) => match self.start_exec(exec, descriptors, id) {
                Ok(()) => {
                    self.connections[index].waits = true;
                    return;
                }
                Err(error) => Reply::Failed(error),
            },
            Request::Signal { exec: None, signal } if self.signal_by_runtime(signal, id) => {
                self.connections[index].waits = true;
                return;
            }
            request => self.answer(index, request, descriptors).unwrap_or_else(Reply::Failed),
        };
        self.connections[index].send(&FromShim::Reply(reply));
    }

    /// Answers a connection that has waited.
    pub(super) fn answer_later(&mut self, id: u64, reply: Reply) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) {
            connection.waits = false;
            connection.send(&FromShim::Reply(reply));
        }
    }

    fn answer(&mut self, index: usize, request: Request, descriptors: Vec<OwnedFd>) -> Result<Reply> {
        match request {
            Request::Network | Request::Exec(_) => Err(Error::refused("answer", "it is answered elsewhere")),
            Request::NetworkFailed(_) => {
                Err(Error::refused("give up the start", "the container runs already"))
            }
            Request::Attach(attach) => self.attach(attach, descriptors),
            Request::Resize { exec, width, height } => {
                match self.process(exec.as_deref())?.streams.resize(width, height)? {
                    true => Ok(Reply::Done),
                    false => Err(Error::refused("set the terminal's size", "it has no terminal")),
                }
            }
            Request::Signal { exec: Some(exec), signal: number } => self.signal_exec(&exec, number),
            Request::Signal { exec: None, signal: number } => {
                signal(self.process(None)?, number)?;
                self.killed |= number == libc::SIGKILL;
                Ok(Reply::Done)
            }
            Request::KillAll => {
                self.killed = true;
                self.cgroup.kill_all().map(|()| Reply::Done)
            }
            Request::SetLimits(limits) => {
                self.first.clock.set(limits);
                Ok(Reply::Done)
            }
            Request::State => Ok(Reply::State(self.state())),
            Request::Subscribe => {
                self.connections[index].subscribed = true;
                Ok(Reply::State(self.state()))
            }
            Request::ReopenLog => match &mut self.log {
                Some(log) => {
                    log.rotate();
                    Ok(Reply::Done)
                }
                None => Err(Error::refused("start a new log file", "this container has no log")),
            },
        }
    }

    fn state(&self) -> State {
        let execs = self.execs.iter().filter(|exec| !exec.told);
        let execs: BTreeMap<_, _> = execs.map(|exec| (exec.id.clone(), exec.process.pid)).collect();
        State {
            version: VERSION,
            id: self.id.clone(),
            shim_pid: rustix::process::getpid().as_raw_nonzero().get(),
            pid: self.first.pid,
            started_at_ns: self.at_ns,
            execs,
            oom_kills: self.oom_kills,
        }
    }

    /// The process of an exec, or the first one.
    fn process(&mut self, exec: Option<&str>) -> Result<&mut Running> {
        let Some(id) = exec else {
            return match self.first.ended {
                None => Ok(&mut self.first),
                Some(_) => Err(gone("the container has ended")),
            };
        };
        let found = self.execs.iter_mut().find(|exec| exec.id == id && exec.process.ended.is_none());
        found.map(|exec| &mut exec.process).ok_or_else(|| gone(&format!("there is no exec {id} running")))
    }

    /// Sends a signal to an exec: to its first process, or to be killed to all that came of it.
    fn signal_exec(&mut self, id: &str, number: i32) -> Result<Reply> {
        let process = self.process(Some(id))?;
        process.killed |= number == libc::SIGKILL;
        signal(process, number)?;
        if number == libc::SIGKILL
            && let Some(cgroup) =
                self.execs.iter().find(|exec| exec.id == id).and_then(|exec| exec.cgroup.as_ref())
        {
            cgroup.kill_all()?;
        }
        Ok(Reply::Done)
    }

    fn attach(&mut self, attach: Attach, mut descriptors: Vec<OwnedFd>) -> Result<Reply> {
        streams::check(&attach, attach.exec.is_none() && self.log.is_some())?;
        let Some(socket) = descriptors.pop() else {
            return Err(Error::refused("attach a client", "the message came without its socket"));
        };
        self.process(attach.exec.as_deref())?;
        if let (true, Some(log)) = (attach.held, &mut self.log) {
            let Some(pipe) = descriptors.pop() else {
                return Err(Error::refused("hold a client's stream", "the message came without its pipe"));
            };
            let (place, [stdout, stderr]) = log.place()?;
            let begun = [(Stream::Stdout, &stdout[..]), (Stream::Stderr, &stderr[..])];
            self.first.streams.attach(attach, socket, Some(Hold { pipe, begun }));
            return Ok(Reply::Held(place));
        }
        self.process(attach.exec.as_deref())?.streams.attach(attach, socket, None);
        Ok(Reply::Done)
    }

    /// Clones the process of an exec; its answer comes when it has executed.
    fn start_exec(&mut self, mut exec: Box<Exec>, mut descriptors: Vec<OwnedFd>, asker: u64) -> Result<()> {
        if self.first.ended.is_some() {
            return Err(gone("the container has ended"));
        }
        let known =
            self.execs.iter().map(|other| &other.id).chain(self.starting.iter().map(|other| &other.exec.id));
        if known.into_iter().any(|id| *id == exec.id) {
            return Err(Error::refused(format!("start the exec {}", exec.id), "one of this id runs already"));
        }
        start::default_score(&mut exec.process);
        let (streams, theirs) = match &exec.attach {
            Some(attach) => {
                streams::check(attach, false)?;
                Streams::new(exec.stdio.clone())?
            }
            None if exec.stdio.terminal => Streams::new(exec.stdio.clone())?,
            // Nobody will see what it prints, and what it leaves behind may print after it has ended.
            None => Streams::none()?,
        };
        let client = descriptors.pop();
        if exec.attach.is_some() && client.is_none() {
            return Err(Error::refused("attach a client", "the message came without its socket"));
        }
        let own = self.cgroup_of(&exec)?;
        match self.way(&exec, theirs, &own) {
            Ok(way) => {
                self.starting.push(StartingExec { exec, way, streams, client, cgroup: Some(own), asker });
                Ok(())
            }
            Err(error) => {
                // The first error is the one to tell.
                own.remove();
                // In a pid namespace whose first process is dying, the kernel has no memory for another one.
                if error.errno == Some(libc::ENOMEM) && has_ended(&self.first) {
                    return Err(gone("the container has ended"));
                }
                Err(error)
            }
        }
    }

    /// Begins to make the process of an exec.
    fn way(&self, exec: &Exec, streams: container::Streams, own: &ExecCgroup) -> Result<Way> {
        if let Some(foreign) = &self.foreign {
            return foreign.exec(exec, self.first.pid, streams).map(Way::Foreign);
        }
        let filter = self.filter_of(exec)?;
        let (cgroup, leaf) = match own {
            ExecCgroup::Counting(cgroup) => (cgroup, None),
            ExecCgroup::Leaf(leaf) => (&self.cgroup, Some(leaf)),
        };
        let child = container::exec(ExecIn {
            preserved: 0,
            detached: false,
            state: None,
            target_pid: self.first.pid,
            target_pidfd: self.first.pidfd.as_fd(),
            process: &exec.process,
            filter: filter.as_ref(),
            streams,
            cgroup,
            apart: &[],
            leaf,
            user: exec.user.as_ref(),
        })?;
        Ok(Way::Own(Box::new(child)))
    }

    fn filter_of(&self, exec: &Exec) -> Result<Option<seccomp::Filter>> {
        match exec.seccomp {
            Seccomp::Default => seccomp::default_filter(&start::bounding(Some(&exec.process))).map(Some),
            Seccomp::Spec => Ok(self.filter.clone()),
            Seccomp::Unconfined => Ok(None),
        }
    }

    /// A cgroup below the container's: what an exec started is killed with it, whoever it has become a child of. One with
    /// limits has its time counted apart.
    fn cgroup_of(&self, exec: &Exec) -> Result<ExecCgroup> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let Exec { id: exec, limits, .. } = exec;
        if exec.is_empty() || !exec.bytes().all(plain) {
            return Err(Error::refused(format!("start the exec {exec:?}"), "its id is not plain"));
        }
        let path = format!("{}/exec-{exec}-{}", self.cgroup.path(), now_ns());
        match limits.timeout_ns > 0 || limits.cpu_time_ns > 0 {
            true => Cgroup::create(&path, None).map(|(cgroup, _)| ExecCgroup::Counting(cgroup)),
            // A folder in one hierarchy is enough to kill by, and costs a tenth.
            false => Cgroup::leaf(&path).map(ExecCgroup::Leaf),
        }
    }
}

/// Whether a process has ended, reaped or not.
pub(super) fn has_ended(process: &Running) -> bool {
    let mut interest = [Interest { fd: process.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    kernel::poll(&mut interest, Some(std::time::Duration::ZERO)).is_ok() && interest[0].revents != 0
}

pub(super) fn gone(what: &str) -> Error {
    Error { errno: Some(libc::ESRCH), ..Error::refused("ask the shim", what) }
}
