//! What the shim waits for.

use std::time::Duration;

use super::kernel::{self, Interest};
use super::log::Stream;
use super::relay::Side;

/// Whose descriptor has become ready. Processes are counted: 0 is the container's first, execs follow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// A connection has come.
    Listener,
    /// A child has ended.
    Children,
    /// The kernel has perhaps killed for memory.
    Memory,
    /// A connection of the daemon.
    Connection(usize),
    /// An exec on its way.
    Starting(usize),
    /// A signal on its way by another runtime.
    Signalling(usize),
    /// A process has printed.
    Output(usize, Stream),
    /// A process's standard input has room.
    Input(usize),
    /// A client of a process.
    Client(usize, usize),
    /// What holds the stream of a client of a process.
    Hold(usize, usize),
    /// Who writes the log can take more.
    Log,
    /// A published port, or who has come to one.
    Relay(Side),
}

/// A list of descriptors to wait for, made anew for each wait in the same memory.
#[derive(Debug, Default)]
pub(super) struct Interests {
    polled: Vec<Interest>,
    parts: Vec<Part>,
}

impl Interests {
    /// Starts the list anew.
    pub(super) fn clear(&mut self) {
        self.polled.clear();
        self.parts.clear();
    }

    /// Waits for `events` on `fd`.
    pub(super) fn add(&mut self, fd: i32, events: i16, part: Part) {
        self.polled.push(Interest { fd, events, revents: 0 });
        self.parts.push(part);
    }

    /// Waits until something is ready or the time is over. Interrupted, nothing is ready.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) {
        if kernel::poll(&mut self.polled, timeout).is_err() {
            for interest in &mut self.polled {
                interest.revents = 0;
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// What has become of one of them.
    pub(super) fn ready(&self, index: usize) -> Option<(Part, i16)> {
        let ready = self.polled[index].revents;
        (ready != 0).then(|| (self.parts[index], ready))
    }
}
