//! Running: one round of the loop for whatever happens.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::causes::{self, Above};
use super::control::{Connection, gone, has_ended};
use super::ending::ExitRecord;
use super::exec_cgroup::{ExecCgroup, LeftLeaves};
use super::foreign::{Foreign, Signalling};
use super::interests::{Interests, Part};
use super::kernel;
use super::limits::Clock;
use super::log::Sink;
use super::relay::Relays;
use super::start::Started;
use super::starting::StartingExec;
use super::streams::{READ_MAX, Streams};
use crate::cgroup::{Cgroup, OomWatch};
use crate::protocol::{EndReason, Event, Exit, Reply, Whose};
use crate::{Result, seccomp, sys};

/// How long the output of an exec that has ended is waited for, where something it left behind holds the
/// other end.
const EXEC_LINGERS: Duration = Duration::from_secs(2);

/// A shim whose container runs.
pub(super) struct Shim {
    pub(super) id: String,
    pub(super) folder: OwnedFd,
    pub(super) exit_record: ExitRecord,
    /// The container's root folder, let go of when everyone has been told: the last handle of an overlay waits for
    /// the disk.
    pub(super) root: Option<crate::container::Root>,
    /// The runtime that has made the container, where that is another one.
    pub(super) foreign: Option<Box<Foreign>>,
    pub(super) listener: Option<OwnedFd>,
    pub(super) connections: Vec<Connection>,
    pub(super) cgroup: Cgroup,
    /// The container's first process.
    pub(super) first: Running,
    pub(super) at_ns: u64,
    pub(super) init: bool,
    pub(super) log: Option<Sink>,
    pub(super) execs: Vec<RunningExec>,
    pub(super) starting: Vec<StartingExec>,
    /// Signals that another runtime passes on.
    pub(super) signalling: Vec<Signalling>,
    /// Cgroups of execs with limits whose first process has ended before what it started.
    pub(super) left: Vec<(ExecCgroup, Clock)>,
    /// The same of those without.
    pub(super) left_leaves: LeftLeaves,
    pub(super) filter: Option<seccomp::Filter>,
    pub(super) reserved: Vec<OwnedFd>,
    pub(super) relays: Relays,
    pub(super) memory: Option<OomWatch>,
    above: Above,
    /// How often `memory` has told since the last kill was counted.
    told_of_memory: u64,
    /// At whose limit the last kill was.
    memory_limit: Option<Whose>,
    pub(super) oom_kills: u64,
    /// Someone asked for SIGKILL of all, so that it is not the kernel's for memory.
    pub(super) killed: bool,
    children: OwnedFd,
    pub(super) interests: Interests,
    pub(super) buffer: Vec<u8>,
}

/// A process that runs, and its streams.
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) streams: Streams,
    pub(super) clock: Clock,
    /// Someone asked for SIGKILL, so that it is not the kernel's for memory.
    pub(super) killed: bool,
    /// The kernel's kills for memory before it began.
    pub(super) oom_kills_before: u64,
    /// Its wait status, and when it was reaped.
    pub(super) ended: Option<(i32, u64, Instant)>,
}

/// An exec that runs, or whose client has not taken everything yet.
pub(super) struct RunningExec {
    pub(super) id: String,
    pub(super) process: Running,
    /// Its own cgroup, until it has ended.
    pub(super) cgroup: Option<ExecCgroup>,
    /// It ends when nobody is attached to it any more.
    pub(super) ends_with_client: bool,
    /// Its end has been told.
    pub(super) told: bool,
}

impl Shim {
    /// Takes over from the start, and tells the daemon.
    pub(super) fn new(started: Started, control: OwnedFd) -> Shim {
        let event = Event::Started {
            pid: started.pid,
            shim_pid: rustix::process::getpid().as_raw_nonzero().get(),
            at_ns: started.at_ns,
            warnings: started.warnings,
        };
        let mut connections = Vec::new();
        // So that a daemon which reads nothing cannot hold up the container.
        if started.control_open && rustix::io::ioctl_fionbio(&control, true).is_ok() {
            connections.push(Connection::new(0, control, true));
        }
        let mut shim = Shim {
            id: started.id,
            folder: started.folder,
            exit_record: started.exit_record,
            root: started.root,
            foreign: started.foreign,
            listener: Some(started.listener),
            connections,
            first: Running {
                pid: started.pid,
                pidfd: started.pidfd,
                streams: started.streams,
                clock: Clock::new(started.limits),
                killed: false,
                oom_kills_before: 0,
                ended: None,
            },
            at_ns: started.at_ns,
            init: started.init,
            log: started.log,
            execs: Vec::new(),
            starting: Vec::new(),
            signalling: Vec::new(),
            left: Vec::new(),
            left_leaves: LeftLeaves::default(),
            filter: started.filter,
            reserved: started.reserved,
            relays: started.relays,
            memory: None,
            above: Above::default(),
            told_of_memory: 0,
            memory_limit: None,
            oom_kills: 0,
            killed: false,
            children: started.children,
            interests: Interests::default(),
            buffer: Vec::with_capacity(READ_MAX),
            cgroup: started.cgroup,
        };
        shim.tell(event);
        // Not before the daemon knows: nobody waits for these.
        shim.memory = shim.cgroup.oom_watch().ok().flatten();
        shim.above = Above::of(&shim.cgroup);
        shim
    }

    /// Runs until the container has ended, and everyone has been told.
    pub(super) fn run(mut self) {
        kernel::trim_heap();
        kernel::trim_stack();
        self.first.streams.pass_early(self.log.as_mut());
        // It may have ended already.
        self.reap();
        while self.first.ended.is_none() {
            self.round(None);
        }
        self.end();
    }

    /// Waits for something to happen, at most until `until`, and does what follows from it.
    pub(super) fn round(&mut self, until: Option<Instant>) {
        let mut interests = std::mem::take(&mut self.interests);
        self.gather(&mut interests);
        let until = self.due().into_iter().chain(until).min();
        interests.wait(until.map(|until| until.saturating_duration_since(Instant::now())));
        for index in 0..interests.len() {
            if let Some((part, ready)) = interests.ready(index) {
                self.happened(part, ready);
            }
        }
        self.interests = interests;
        self.first.streams.look();
        self.execs.iter_mut().for_each(|exec| exec.process.streams.look());
        self.check_limits();
        self.end_hanging();
        self.follow_clients();
        self.finish_execs();
        self.sweep();
    }

    fn gather(&self, interests: &mut Interests) {
        interests.clear();
        interests.add(self.children.as_raw_fd(), libc::POLLIN, Part::Children);
        if let Some(listener) = &self.listener {
            interests.add(listener.as_raw_fd(), libc::POLLIN, Part::Listener);
        }
        if let Some(memory) = &self.memory {
            interests.add(memory.fd.as_raw_fd(), memory.events.bits() as i16, Part::Memory);
        }
        for (index, connection) in self.connections.iter().enumerate() {
            if let Some(fd) = connection.listens() {
                interests.add(fd, libc::POLLIN, Part::Connection(index));
            }
        }
        for (index, starting) in self.starting.iter().enumerate() {
            for fd in starting.fds() {
                interests.add(fd, libc::POLLIN, Part::Starting(index));
            }
        }
        for (index, signalling) in self.signalling.iter().enumerate() {
            interests.add(signalling.fd(), libc::POLLIN, Part::Signalling(index));
        }
        self.relays.interests(interests);
        if let Some(fd) = self.log.as_ref().and_then(Sink::waits_for) {
            interests.add(fd, libc::POLLOUT, Part::Log);
        }
        self.first.streams.interests(0, interests);
        for (index, exec) in self.execs.iter().enumerate() {
            exec.process.streams.interests(index + 1, interests);
        }
    }

    pub(super) fn happened(&mut self, part: Part, ready: i16) {
        match part {
            Part::Listener => self.accept(),
            Part::Children => {
                self.empty_children();
                self.reap();
            }
            Part::Memory => self.memory_event(),
            Part::Connection(index) => self.serve(index),
            Part::Starting(index) => self.step(index),
            Part::Signalling(index) => self.signalled(index),
            Part::Output(owner, stream) => {
                let mut buffer = std::mem::take(&mut self.buffer);
                if owner == 0 {
                    self.first.streams.output(stream, &mut buffer, self.log.as_mut());
                } else if let Some(streams) = self.streams(owner) {
                    streams.output(stream, &mut buffer, None);
                }
                self.buffer = buffer;
            }
            Part::Log => {
                if let Some(log) = &mut self.log {
                    log.ready();
                }
            }
            Part::Relay(side) => {
                let mut buffer = std::mem::take(&mut self.buffer);
                self.relays.ready(side, ready, &mut buffer);
                self.buffer = buffer;
            }
            Part::Input(owner) => {
                if let Some(streams) = self.streams(owner) {
                    streams.input_ready();
                }
            }
            Part::Client(owner, index) => {
                if let Some(streams) = self.streams(owner) {
                    streams.client_ready(index, ready);
                }
            }
            Part::Hold(owner, index) => {
                if let Some(streams) = self.streams(owner) {
                    streams.hold_ready(index);
                }
            }
        }
    }

    fn streams(&mut self, owner: usize) -> Option<&mut Streams> {
        match owner {
            0 => Some(&mut self.first.streams),
            owner => self.execs.get_mut(owner - 1).map(|exec| &mut exec.process.streams),
        }
    }

    fn empty_children(&self) {
        // The signals themselves say nothing: who has ended is asked for.
        let mut signals = [0_u8; 512];
        while rustix::io::read(&self.children, &mut signals).is_ok() {}
    }

    /// Reaps whoever has ended.
    pub(super) fn reap(&mut self) {
        // One that is on its way to its exec is reaped by its handle; it is looked at again when it has come
        // through.
        if !self.starting.is_empty() || !self.signalling.is_empty() {
            if self.foreign.is_some() {
                self.reap_known();
            }
            return;
        }
        while let Ok(Some((pid, status))) = sys::reap() {
            let ended = Some((status, super::now_ns(), Instant::now()));
            if pid == self.first.pid {
                self.first.ended = ended;
            } else if let Some(exec) =
                self.execs.iter_mut().find(|exec| exec.process.pid == pid && exec.process.ended.is_none())
            {
                exec.process.ended = ended;
                exec.process.streams.end_input();
            }
        }
    }

    /// Reaps those that run, where they have ended, and nobody else: another runtime may hang over an exec for long.
    fn reap_known(&mut self) {
        let execs = self.execs.iter_mut().map(|exec| &mut exec.process);
        for process in std::iter::once(&mut self.first).chain(execs).filter(|one| one.ended.is_none()) {
            if let Some(status) = kernel::reap_by_pidfd(process.pidfd.as_raw_fd()) {
                process.ended = Some((status, super::now_ns(), Instant::now()));
            }
        }
        for exec in self.execs.iter_mut().filter(|exec| exec.process.ended.is_some()) {
            exec.process.streams.end_input();
        }
    }

    /// Asks whether the kernel has killed for memory, and tells of it.
    fn memory_event(&mut self) {
        self.told_of_memory += self.memory.as_ref().map_or(0, OomWatch::take);
        self.count_oom_kills();
    }

    /// Counts the kernel's kills for memory, and tells of new ones.
    pub(super) fn count_oom_kills(&mut self) {
        let Ok(kills) = self.cgroup.oom_kills() else { return };
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.told_of_memory += self.memory.as_ref().map_or(0, OomWatch::take);
            // A kill is by what was met last; what was met before is not looked at again.
            let told = self.memory.as_ref().map(|_| std::mem::take(&mut self.told_of_memory));
            self.memory_limit = causes::whose(&self.cgroup, &self.above, told);
            self.tell(Event::Oom);
        }
    }

    /// An exec on its way has something to tell.
    fn step(&mut self, index: usize) {
        let Some(starting) = self.starting.get_mut(index) else { return };
        let Some(through) = starting.step() else { return };
        let starting = self.starting.remove(index);
        let asker = starting.asker;
        let reply = match starting.arrive(through, self.oom_kills) {
            Ok(exec) => {
                let pid = exec.process.pid;
                self.execs.push(exec);
                Reply::Started { pid }
            }
            // In whichever words a runtime says so.
            Err(_) if self.foreign.is_some() && has_ended(&self.first) => {
                Reply::Failed(gone("the container has ended"))
            }
            Err(error) => Reply::Failed(error),
        };
        self.answer_later(asker, reply);
        self.reap();
    }

    /// When a limit must be looked at, or an exec's streams are given up.
    fn due(&self) -> Option<Instant> {
        let execs = self.execs.iter().filter(|exec| !exec.told);
        let clocks =
            execs.clone().map(|exec| &exec.process.clock).chain(self.left.iter().map(|(_, clock)| clock));
        let clocks = clocks.chain(std::iter::once(&self.first.clock).filter(|_| self.first.ended.is_none()));
        let lingering = execs.filter_map(|exec| exec.process.ended.map(|(_, _, at)| at + EXEC_LINGERS));
        // Clients of execs that are over: what they have not taken is not kept for ever.
        let told = self.execs.iter().filter(|exec| exec.told);
        let stalled = told.filter_map(|exec| exec.process.streams.gives_up_at());
        let now = Instant::now();
        let streams = self.execs.iter().map(|exec| &exec.process.streams).chain([&self.first.streams]);
        let looks = streams.filter_map(|streams| streams.looks_at(now));
        let starting = self.starting.iter().filter_map(StartingExec::due);
        let starting = starting.chain(self.signalling.iter().map(Signalling::due));
        let clocks = clocks.filter_map(Clock::due).chain(self.relays.due());
        clocks.chain(lingering).chain(stalled).chain(looks).chain(starting).min()
    }

    fn check_limits(&mut self) {
        let now = Instant::now();
        if self.first.ended.is_none() {
            self.first.clock.check(now, &self.cgroup);
        }
        for exec in &mut self.execs {
            if let Some(cgroup) = exec.cgroup.as_ref().filter(|_| exec.process.ended.is_none()) {
                exec.process.clock.check(now, cgroup.cgroup());
            }
        }
        self.left.retain_mut(|(cgroup, clock)| {
            clock.check(now, cgroup.cgroup());
            !cgroup.remove()
        });
    }

    /// Gives up execs and signals whose runtime takes too long.
    fn end_hanging(&mut self) {
        let now = Instant::now();
        self.end_hanging_signals(now);
        while let Some(index) =
            self.starting.iter().position(|starting| starting.due().is_some_and(|due| due <= now))
        {
            let before = self.starting.len();
            self.step(index);
            if self.starting.len() == before {
                return;
            }
        }
    }

    /// Kills the execs that end with their clients and have none any more.
    fn follow_clients(&mut self) {
        for exec in self.execs.iter_mut().filter(|exec| exec.ends_with_client) {
            if exec.process.ended.is_some() || exec.process.streams.is_attended() {
                continue;
            }
            exec.ends_with_client = false;
            exec.process.clock.hit.get_or_insert(EndReason::ClientGone);
            // One that has just ended by itself gets no signal; its reason is what it was going to be.
            let _ = signal(&exec.process, libc::SIGKILL);
            if let Some(cgroup) = &exec.cgroup {
                let _ = cgroup.kill_all();
            }
        }
    }

    /// Tells of execs that have ended and have been read to their end.
    pub(super) fn finish_execs(&mut self) {
        for index in 0..self.execs.len() {
            let exec = &mut self.execs[index];
            let Some((status, at_ns, at)) = exec.process.ended.filter(|_| !exec.told) else { continue };
            let over = exec.process.streams.ended() || !exec.process.streams.has_clients();
            if !over && at.elapsed() < EXEC_LINGERS {
                continue;
            }
            exec.told = true;
            let mut buffer = std::mem::take(&mut self.buffer);
            exec.process.streams.give_up(&mut buffer, None);
            self.buffer = buffer;
            exec.process.streams.drain();
            let id = exec.id.clone();
            self.count_oom_kills();
            let exec = &self.execs[index];
            let counted = match &exec.cgroup {
                Some(ExecCgroup::Counting(cgroup)) => Some(cgroup),
                _ => None,
            };
            let exit = self.exit(&exec.process, (status, at_ns), counted);
            self.tell(Event::ExecExited { id, exit });
            // Who sees the end of its stream and asks the daemon shall be told that it has ended.
            self.execs[index].process.streams.release();
            self.leave_cgroup(index);
        }
    }

    /// Removes the cgroup of an exec that has ended. What it left behind is kept within its limits.
    fn leave_cgroup(&mut self, index: usize) {
        let exec = &mut self.execs[index];
        match exec.cgroup.take() {
            Some(cgroup) if cgroup.remove() => {}
            Some(cgroup @ ExecCgroup::Counting(_)) => {
                let clock = std::mem::replace(&mut exec.process.clock, Clock::new(Default::default()));
                self.left.push((cgroup, clock));
            }
            Some(leaf) => self.left_leaves.push(leaf),
            None => {}
        }
        self.left_leaves.sweep();
    }

    /// How a process ended, in the daemon's words. Its processor time is that of a cgroup that counts it.
    pub(super) fn exit(
        &self,
        process: &Running,
        (status, at_ns): (i32, u64),
        counted: Option<&Cgroup>,
    ) -> Exit {
        let (hit, init) = (process.clock.hit, self.init && process.pid == self.first.pid);
        let oom_killed = self.oom_kills > process.oom_kills_before;
        let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
        let code = signal.map_or_else(|| libc::WEXITSTATUS(status), |signal| 128 + signal);
        // hull's own init passes on how the command ended by its status.
        let killed = signal == Some(libc::SIGKILL) || (init && code == 128 + libc::SIGKILL);
        let reason = match (hit, signal) {
            (Some(hit), _) => hit,
            _ if killed && oom_killed && !self.killed && !process.killed => EndReason::Oom,
            (None, Some(_)) => EndReason::Signal,
            (None, None) => EndReason::Exited,
        };
        let met = causes::met(&self.cgroup, self.memory_limit.filter(|_| oom_killed), counted);
        Exit { status: code, signal, oom_killed, reason, at_ns, met }
    }

    fn sweep(&mut self) {
        self.first.streams.sweep();
        self.execs.retain_mut(|exec| {
            exec.process.streams.sweep();
            if exec.told {
                exec.process.streams.cut_stalled(Instant::now());
                exec.process.streams.release();
            }
            !exec.told || exec.process.streams.has_clients()
        });
        self.connections.retain(|connection| !connection.closed);
        self.relays.sweep(Instant::now());
    }
}

/// Sends a signal of any number to a process that runs.
pub(super) fn signal(process: &Running, signal: i32) -> Result<()> {
    use crate::error::Context;
    kernel::signal_by_pidfd(process.pidfd.as_raw_fd(), signal)
        .context(|| format!("send signal {signal} to process {}", process.pid))
}
