//! Draining and Ended: what is left is killed and read, then everyone is told.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::interests::Interests;
use super::running::Shim;
use super::streams::Streams;
use crate::Result;
use crate::error::Context;
use crate::protocol::{Event, Exit};

/// How long what does not die is waited for: a process in a file system that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Shim {
    /// Ends: the first process has been reaped.
    pub(super) fn end(mut self) {
        let Some((status, at_ns, _)) = self.first.ended else { return };
        self.drain();
        self.count_oom_kills();
        let exit = self.exit(status, at_ns, self.first.clock.hit, self.init);
        // The record first: a daemon that finds no shim looks for it.
        let _ = self.write_exit(&exit);
        self.listener = None;
        // Not ours any more from the moment the daemon knows: the next shim binds its own.
        let _ = super::remove(self.folder.as_fd(), super::SOCKET);
        self.reserved.clear();
        self.memory = None;
        self.tell(Event::Exited(exit));
        for streams in self.all_streams() {
            streams.release();
        }
        // The daemon looks for cgroups without a container when it starts. Whoever starts this container again, or says
        // that it is removed, waits until the connection closes.
        let _ = self.cgroup.remove();
        self.connections.clear();
        self.deliver();
    }

    /// Kills what is left in the container and reads what it has printed.
    fn drain(&mut self) {
        // Where killing fails, the wait below is over in time.
        let _ = self.cgroup.kill_all();
        // Those on their way can never arrive. Their handles reap them.
        for starting in std::mem::take(&mut self.starting) {
            let error = crate::Error::refused("execute in the container", "the container has ended");
            self.answer_later(starting.asker, crate::protocol::Reply::Failed(error));
        }
        self.reap();
        self.finish_execs();
        self.first.streams.drain();
        self.first.streams.end_input();
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(200);
        loop {
            let open = !self.first.streams.ended() || self.execs.iter().any(|exec| !exec.told);
            if !open || Instant::now() > deadline {
                break;
            }
            // When all its processes are gone, whoever still holds a stream is none of the container's.
            if self.cgroup.processes().is_ok_and(|processes| processes.is_empty()) {
                break;
            }
            self.round(Some(Instant::now() + pause));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        self.first.streams.give_up(&mut buffer, self.log.as_mut());
        self.buffer = buffer;
        self.log = None;
        self.reap();
        self.end_execs();
    }

    /// Execs that are not told of yet: their processes are dead, or will never be.
    fn end_execs(&mut self) {
        for exec in &mut self.execs {
            if exec.process.ended.is_none() {
                exec.process.ended = Some((libc::SIGKILL, super::now_ns(), Instant::now()));
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            exec.process.streams.give_up(&mut buffer, None);
            self.buffer = buffer;
        }
        self.finish_execs();
    }

    fn write_exit(&self, exit: &Exit) -> Result<()> {
        let doing = || "write exit.json".to_owned();
        let json =
            serde_json::to_vec(exit).map_err(|error| crate::Error::refused(doing(), error.to_string()))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        const TEMPORARY: &str = ".exit.json";
        let file =
            rustix::fs::openat(&self.folder, TEMPORARY, flags, Mode::from_raw_mode(0o600)).context(doing)?;
        let written = rustix::io::write(&file, &json).context(doing)?;
        if written < json.len() {
            return Err(crate::Error::refused(doing(), "the file system is full"));
        }
        rustix::fs::renameat(&self.folder, TEMPORARY, &self.folder, super::EXIT).context(doing)
    }

    /// The first process's, then the execs'.
    fn all_streams(&mut self) -> impl Iterator<Item = &mut Streams> {
        let execs = self.execs.iter_mut().map(|exec| &mut exec.process.streams);
        std::iter::once(&mut self.first.streams).chain(execs)
    }

    /// Stays until slow clients have taken what was printed. Nobody else waits for that.
    fn deliver(mut self) {
        let mut interests = Interests::default();
        loop {
            let mut behind = false;
            interests.clear();
            for (owner, streams) in self.all_streams().enumerate() {
                streams.release();
                streams.interests(owner, &mut interests);
                behind |= streams.has_clients();
            }
            if !behind {
                return;
            }
            interests.wait(None);
            for index in 0..interests.len() {
                if let Some((super::interests::Part::Client(owner, index), ready)) = interests.ready(index) {
                    let streams = match owner {
                        0 => &mut self.first.streams,
                        owner => &mut self.execs[owner - 1].process.streams,
                    };
                    streams.client_ready(index, ready);
                }
            }
        }
    }
}
