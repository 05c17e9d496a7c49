//! An exec on its way, by this runtime or by another one.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::exec_cgroup::ExecCgroup;
use super::foreign::Executing;
use super::kernel::{self, Interest};
use super::limits::Clock;
use super::running::{Running, RunningExec};
use super::streams::Streams;
use crate::container::{Child, Step};
use crate::protocol::Exec;
use crate::{Error, Result};

/// An exec on its way. Dropped, it is ended.
pub(super) struct StartingExec {
    pub(super) exec: Box<Exec>,
    pub(super) way: Way,
    pub(super) streams: Streams,
    pub(super) client: Option<OwnedFd>,
    pub(super) cgroup: Option<ExecCgroup>,
    /// The connection that waits for the answer.
    pub(super) asker: u64,
}

/// Who makes its process.
pub(super) enum Way {
    /// This runtime.
    Own(Box<Child>),
    /// Another one.
    Foreign(Executing),
}

impl StartingExec {
    /// Readable when [`StartingExec::step`] has something to do.
    pub(super) fn fds(&self) -> Vec<i32> {
        match &self.way {
            Way::Own(child) => vec![child.sync().as_raw_fd()],
            Way::Foreign(executing) => {
                let streams = self.streams.read_early_at().map(|stream| stream.as_raw_fd());
                streams.chain([executing.fd()]).collect()
            }
        }
    }

    /// When to call [`StartingExec::step`] even so.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.way {
            Way::Own(_) => None,
            Way::Foreign(executing) => Some(executing.due()),
        }
    }

    /// Whether it has come through; none: not yet.
    pub(super) fn step(&mut self) -> Option<Result<()>> {
        match &mut self.way {
            Way::Own(child) => step(child, &mut self.streams),
            Way::Foreign(executing) => {
                self.streams.read_early();
                executing.step(&mut self.streams)
            }
        }
    }

    /// It runs, or it never will.
    pub(super) fn arrive(mut self, through: Result<()>, oom_kills_before: u64) -> Result<RunningExec> {
        let process = match (through, self.way) {
            (Ok(()), Way::Own(child)) => Ok((child.pid(), child.into_pidfd())),
            (Ok(()), Way::Foreign(executing)) => executing.into_process(self.cgroup.as_ref()),
            (Err(error), way) => {
                drop(way);
                Err(error)
            }
        };
        let (pid, pidfd) = process.inspect_err(|_| {
            if let Some(cgroup) = &self.cgroup {
                // What cannot be removed goes with the container's.
                cgroup.remove();
            }
        })?;
        if let (Some(attach), Some(socket)) = (self.exec.attach.take(), self.client.take()) {
            self.streams.attach(attach, socket, None);
        }
        self.streams.pass_early(None);
        Ok(RunningExec {
            process: Running {
                pid,
                pidfd,
                streams: self.streams,
                clock: Clock::new(self.exec.limits),
                killed: false,
                oom_kills_before,
                ended: None,
            },
            id: self.exec.id,
            ends_with_client: self.exec.ends_with_client,
            cgroup: self.cgroup,
            told: false,
        })
    }
}

/// Hears what a process of this runtime has to tell, until it waits or is through.
fn step(child: &mut Child, streams: &mut Streams) -> Option<Result<()>> {
    loop {
        match child.step() {
            // A warning of an exec has no one to be shown to: the container's own start told the same.
            Ok(Step::Warning(_)) => {}
            Ok(Step::NeedsNetwork | Step::NeedsHooks | Step::Held) => {}
            Ok(Step::Terminal(master)) => {
                if let Err(error) = streams.set_terminal(master) {
                    return Some(Err(error));
                }
            }
            Ok(Step::Running) => return Some(Ok(())),
            Err(error) => return Some(Err(error)),
        }
        if !is_readable(child) {
            return None;
        }
    }
}

fn is_readable(child: &Child) -> bool {
    let sync = child.sync().as_fd().as_raw_fd();
    let mut interest = [Interest { fd: sync, events: libc::POLLIN, revents: 0 }];
    kernel::poll(&mut interest, Some(Duration::ZERO)).is_ok() && interest[0].revents != 0
}

/// The error of one that cannot arrive any more.
pub(super) fn container_has_ended() -> Error {
    Error::refused("execute in the container", "the container has ended")
}
