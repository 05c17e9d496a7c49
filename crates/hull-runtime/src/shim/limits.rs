//! How long a process may run, by the clock on the wall and by the processors.

use std::time::{Duration, Instant};

use super::kernel;
use crate::cgroup::Cgroup;
use crate::protocol::{EndReason, Limits};

/// The processor time is not looked at more often than this.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

/// When killing failed, it is tried again after this time.
const RETRY: Duration = Duration::from_millis(20);

/// The limits of one cgroup, since its start.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    limits: Limits,
    /// When the processor time may be spent at the earliest.
    look: Instant,
    /// Which limit has been hit.
    pub(super) hit: Option<EndReason>,
    /// When to kill once more what could not be killed.
    again: Option<Instant>,
}

impl Clock {
    /// Starts now.
    pub(super) fn new(limits: Limits) -> Clock {
        let start = Instant::now();
        let mut clock = Clock { start, limits, look: start, hit: None, again: None };
        clock.set(limits);
        clock
    }

    /// Sets other limits, counted from the same start.
    pub(super) fn set(&mut self, limits: Limits) {
        self.limits = limits;
        self.look = self.start + earliest(limits.cpu_time_ns);
    }

    /// When [`Clock::check`] must be called next; never, without limits or when one was hit.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.hit.is_some() {
            return self.again;
        }
        let wall = (self.limits.timeout_ns > 0).then(|| self.end());
        let look = (self.limits.cpu_time_ns > 0).then_some(self.look);
        wall.into_iter().chain(look).min()
    }

    fn end(&self) -> Instant {
        self.start + Duration::from_nanos(self.limits.timeout_ns)
    }

    /// Looks whether a limit is hit, and kills everything in the cgroup then.
    pub(super) fn check(&mut self, now: Instant, cgroup: &Cgroup) {
        if self.hit.is_some() {
            if self.again.is_some_and(|again| now >= again) {
                self.kill(now, cgroup);
            }
            return;
        }
        if self.limits.timeout_ns > 0 && now >= self.end() {
            self.hit = Some(EndReason::Timeout);
        } else if self.limits.cpu_time_ns > 0 && now >= self.look {
            // A cgroup that cannot be read is looked at again: its processes may be on their way out.
            let used = cgroup.cpu_time_ns().unwrap_or(0);
            match self.limits.cpu_time_ns.checked_sub(used) {
                None | Some(0) => self.hit = Some(EndReason::CpuTime),
                Some(left) => self.look = now + earliest(left),
            }
        }
        if self.hit.is_some() {
            self.kill(now, cgroup);
        }
    }

    fn kill(&mut self, now: Instant, cgroup: &Cgroup) {
        self.again = cgroup.kill_all().is_err().then_some(now + RETRY);
    }
}

/// How long it takes at least to spend that much processor time: all processors work on it.
fn earliest(cpu_time_ns: u64) -> Duration {
    Duration::from_nanos(cpu_time_ns / kernel::processors()).max(SHORTEST_LOOK)
}
