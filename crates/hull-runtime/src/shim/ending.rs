//! Draining and Ended: what is left is killed and read, then everyone is told.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::interests::{Interests, Part};
use super::relay::Relays;
use super::running::Shim;
use super::starting::container_has_ended;
use super::streams::Streams;
use crate::Result;
use crate::error::Context;
use crate::protocol::{Event, Exit};

/// How long what does not die is waited for: a process in a file system that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The place of the record of the end. It is there from the start on: a file system that others have filled meanwhile
/// does not keep the end from being written down.
#[derive(Debug)]
pub(super) struct ExitRecord(OwnedFd);

impl ExitRecord {
    /// Its name until it is whole.
    pub(super) const TEMPORARY: &str = ".exit.json";
    /// More than any record takes, in bytes.
    const SPACE: u64 = 4096;

    /// Makes the file and gets its space.
    pub(super) fn reserve(folder: BorrowedFd<'_>) -> Result<ExitRecord> {
        let doing = || "make the place for exit.json".to_owned();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, Self::TEMPORARY, flags, Mode::from_raw_mode(0o600));
        let file = file.context(doing)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, Self::SPACE) {
            Err(Errno::OPNOTSUPP) => {
                let zeros = [0; Self::SPACE as usize];
                if rustix::io::pwrite(&file, &zeros, 0).context(doing)? < zeros.len() {
                    return Err(crate::Error::kernel(doing(), Errno::NOSPC));
                }
            }
            reserved => reserved.context(doing)?,
        }
        Ok(ExitRecord(file))
    }

    /// Writes the record in its place, and gives it its name.
    fn write(&self, folder: BorrowedFd<'_>, exit: &Exit) -> Result<()> {
        let doing = || "write exit.json".to_owned();
        let json =
            serde_json::to_vec(exit).map_err(|error| crate::Error::refused(doing(), error.to_string()))?;
        if rustix::io::pwrite(&self.0, &json, 0).context(doing)? < json.len() {
            return Err(crate::Error::refused(doing(), "the file system is full"));
        }
        rustix::fs::ftruncate(&self.0, json.len() as u64).context(doing)?;
        rustix::fs::renameat(folder, Self::TEMPORARY, folder, super::EXIT).context(doing)
    }
}

impl Shim {
    /// Ends: the first process has been reaped.
    pub(super) fn end(mut self) {
        let Some((status, at_ns, _)) = self.first.ended else { return };
        self.drain();
        self.count_oom_kills();
        let exit = self.exit(&self.first, (status, at_ns), Some(&self.cgroup));
        // The record first: a daemon that finds no shim looks for it.
        let _ = self.exit_record.write(self.folder.as_fd(), &exit);
        self.listener = None;
        // Not ours any more from the moment the daemon knows: the next shim binds its own.
        let _ = super::remove(self.folder.as_fd(), super::SOCKET);
        self.reserved.clear();
        self.relays = Relays::default();
        self.memory = None;
        self.tell(Event::Exited(exit));
        for streams in self.all_streams() {
            streams.release();
        }
        // The daemon looks for cgroups without a container when it starts. Whoever starts this container again, or says
        // that it is removed, waits until the connection closes.
        if let Some(foreign) = &self.foreign {
            foreign.clear(&self.cgroup);
        }
        let _ = self.cgroup.remove();
        self.connections.clear();
        // A client that takes nothing must not keep the file system mounted: the next start mounts it again.
        self.root = None;
        if let Some(foreign) = self.foreign.take() {
            foreign.unmount();
        }
        self.deliver();
    }

    /// Kills what is left in the container and reads what it has printed.
    fn drain(&mut self) {
        // Where killing fails, the wait below is over in time.
        let _ = self.cgroup.kill_all();
        // Those on their way can never arrive. Their handles reap them.
        for starting in std::mem::take(&mut self.starting) {
            let error = container_has_ended();
            self.answer_later(starting.asker, crate::protocol::Reply::Failed(error));
        }
        self.drop_signals();
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
        if let Some(log) = self.log.take() {
            log.close();
        }
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

    /// The first process's, then the execs'.
    fn all_streams(&mut self) -> impl Iterator<Item = &mut Streams> {
        let execs = self.execs.iter_mut().map(|exec| &mut exec.process.streams);
        std::iter::once(&mut self.first.streams).chain(execs)
    }

    /// Stays until slow clients have taken what was printed, or take nothing any more. Nobody else waits for that.
    fn deliver(mut self) {
        let mut interests = Interests::default();
        loop {
            let mut behind = false;
            interests.clear();
            let now = Instant::now();
            let mut gives_up_at: Option<Instant> = None;
            for (owner, streams) in self.all_streams().enumerate() {
                streams.look();
                streams.cut_stalled(now);
                streams.release();
                let due = streams.gives_up_at().into_iter().chain(streams.looks_at(now));
                gives_up_at = gives_up_at.into_iter().chain(due).min();
                streams.interests(owner, &mut interests);
                behind |= streams.has_clients();
            }
            if !behind {
                return;
            }
            interests.wait(gives_up_at.map(|at| at.saturating_duration_since(now)));
            for index in 0..interests.len() {
                if let Some((part @ (Part::Client(..) | Part::Hold(..)), ready)) = interests.ready(index) {
                    self.happened(part, ready);
                }
            }
        }
    }
}
