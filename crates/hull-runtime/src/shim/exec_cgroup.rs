//! The cgroup of an exec, beneath the container's.

use crate::Result;
use crate::cgroup::Cgroup;

/// How many of the cgroups that were left are looked at when an exec ends.
const LOOKS: usize = 4;

/// What holds an exec and all that came of it.
#[derive(Debug)]
pub(super) enum ExecCgroup {
    /// With limits: its processor time is counted, in every hierarchy.
    Counting(Cgroup),
    /// Without: one folder ([`Cgroup::leaf`]).
    Leaf(Cgroup),
}

impl ExecCgroup {
    pub(super) fn cgroup(&self) -> &Cgroup {
        match self {
            ExecCgroup::Counting(cgroup) | ExecCgroup::Leaf(cgroup) => cgroup,
        }
    }

    /// Kills everything in it.
    pub(super) fn kill_all(&self) -> Result<()> {
        self.cgroup().kill_all()
    }

    /// Removes it, when nobody is in it; whether it is gone. What cannot be removed goes with the container's.
    pub(super) fn remove(&self) -> bool {
        match self {
            ExecCgroup::Counting(cgroup) => {
                let empty = cgroup.processes().is_ok_and(|processes| processes.is_empty());
                empty && cgroup.remove().is_ok()
            }
            ExecCgroup::Leaf(cgroup) => cgroup.remove_leaf(),
        }
    }
}

/// Leaves of execs that have ended before what they started. Nothing tells when the last process of one ends, and it
/// costs a folder: some are looked at whenever another exec ends, so that there are never many more than are in use.
#[derive(Debug, Default)]
pub(super) struct LeftLeaves(std::collections::VecDeque<ExecCgroup>);

impl LeftLeaves {
    /// Keeps one, and looks whether others are over.
    pub(super) fn push(&mut self, leaf: ExecCgroup) {
        self.0.push_back(leaf);
        self.sweep();
    }

    /// Looks at a few, those first that were not looked at for longest.
    pub(super) fn sweep(&mut self) {
        for _ in 0..LOOKS.min(self.0.len()) {
            if let Some(leaf) = self.0.pop_front()
                && !leaf.remove()
            {
                self.0.push_back(leaf);
            }
        }
    }
}
