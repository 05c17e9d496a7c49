//! A signal to a container, by its runtime's `kill`: a runtime may have a kernel of its own between the host's process and
//! the command. The shim does other things meanwhile.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use super::Foreign;
use super::invocation::{Invocation, Output};
use crate::Result;
use crate::protocol::Reply;
use crate::shim::control::{gone, has_ended};
use crate::shim::running::{Shim, signal};

/// How long a runtime may take; then the kernel passes the signal on.
const PATIENCE: Duration = Duration::from_secs(5);

/// A signal on its way.
#[derive(Debug)]
pub(in crate::shim) struct Signalling {
    invocation: Invocation,
    number: i32,
    /// The connection that waits for the answer.
    asker: u64,
}

impl Signalling {
    /// Readable when it is through.
    pub(in crate::shim) fn fd(&self) -> i32 {
        self.invocation.ends().as_fd().as_raw_fd()
    }

    /// When it has taken too long.
    pub(in crate::shim) fn due(&self) -> Instant {
        self.invocation.due()
    }
}

impl Foreign {
    fn signal(&self, number: i32, asker: u64) -> Result<Signalling> {
        let (log, text) = (format!("kill-{asker}"), number.to_string());
        let invocation = self.invoke_with(("kill", &log), &[], &[text.as_ref()], Output::Said, PATIENCE)?;
        Ok(Signalling { invocation, number, asker })
    }
}

impl Shim {
    /// Has another runtime pass a signal on; false where that is left to the kernel: the container is hull's own, it has
    /// ended, or it is to be killed, which no runtime is waited for with.
    pub(in crate::shim) fn signal_by_runtime(&mut self, number: i32, asker: u64) -> bool {
        let runs = self.first.ended.is_none() && number != libc::SIGKILL;
        let Some(foreign) = self.foreign.as_ref().filter(|_| runs) else { return false };
        match foreign.signal(number, asker) {
            Ok(signalling) => {
                self.signalling.push(signalling);
                true
            }
            // The program is not there any more.
            Err(_) => false,
        }
    }

    /// Looks whether a signal is through, and answers who asked for it.
    pub(in crate::shim) fn signalled(&mut self, index: usize) {
        let Some(signalling) = self.signalling.get_mut(index) else { return };
        let Some(through) = signalling.invocation.ended(Vec::new) else { return };
        let Signalling { number, asker, .. } = self.signalling.remove(index);
        let reply = match through {
            Ok(()) => Reply::Done,
            Err(_) if has_ended(&self.first) => Reply::Failed(gone("the container has ended")),
            Err(_) => signal(&self.first, number).map_or_else(Reply::Failed, |()| Reply::Done),
        };
        self.answer_later(asker, reply);
        self.reap();
    }

    /// Passes on by the kernel what its runtime takes too long for.
    pub(in crate::shim) fn end_hanging_signals(&mut self, now: Instant) {
        while let Some(index) = self.signalling.iter().position(|signalling| signalling.due() <= now) {
            let before = self.signalling.len();
            self.signalled(index);
            if self.signalling.len() == before {
                return;
            }
        }
    }

    /// The container has ended: signals come to nobody any more.
    pub(in crate::shim) fn drop_signals(&mut self) {
        for signalling in std::mem::take(&mut self.signalling) {
            self.answer_later(signalling.asker, Reply::Failed(gone("the container has ended")));
        }
    }
}
