//! The end of a container of another runtime's: whatever the runtime does, nothing stays.

use std::time::{Duration, Instant};

use super::invocation::Output;
use super::{FORGETTING, Foreign, GIVING_UP};
use crate::cgroup::Cgroup;
use crate::{Result, sys};

/// How long processes that have been killed are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl Foreign {
    /// Has the runtime forget a container that has ended, and ends what is left of it.
    pub(in crate::shim) fn clear(&self, cgroup: &Cgroup) {
        self.forget(cgroup, FORGETTING);
    }

    /// The same for one that has not come up.
    pub(super) fn give_up(&self, cgroup: &Cgroup) {
        self.forget(cgroup, GIVING_UP);
    }

    fn forget(&self, cgroup: &Cgroup, limit: Duration) {
        // What it has to say of that, nobody asked.
        let _ = self.delete(limit);
        let _ = cgroup.kill_all();
        end_children();
        cgroup.remove_elsewhere();
    }

    fn delete(&self, limit: Duration) -> Result<()> {
        self.invoke(("delete", "delete"), &["--force".as_ref()], Output::Said, limit)?.wait()
    }
}

/// Kills and reaps every child of the shim. What those leave becomes its children in turn, until there are none.
fn end_children() {
    let own = rustix::process::getpid().as_raw_nonzero();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        while let Ok(Some(_)) = sys::reap() {}
        // A kernel that does not list them leaves them to their cgroup.
        let children =
            std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let children: Vec<i32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        let Some(first) = children.first().copied() else { return };
        for pid in children {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        wait_for(first);
    }
}

/// Waits for one that was killed, for a while.
fn wait_for(pid: i32) {
    use std::os::fd::AsRawFd;
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
    if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        let fd = pidfd.as_raw_fd();
        let mut interest = [crate::shim::kernel::Interest { fd, events: libc::POLLIN, revents: 0 }];
        let _ = crate::shim::kernel::poll(&mut interest, Some(Duration::from_millis(100)));
    }
}
