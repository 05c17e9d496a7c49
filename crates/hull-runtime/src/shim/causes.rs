//! What a container met of limits: whose memory was at its end, and whether processes were refused.

use crate::cgroup::{Cgroup, OomWatch};
use crate::protocol::{Met, Whose};

/// The limits of memory above a container, which are others' too: since it began.
#[derive(Debug, Default)]
pub(super) enum Above {
    /// Nothing is known of them.
    #[default]
    Unknown,
    /// On v1: what tells when the limit of the next one above, or of one further up, has led to a kill. None: there is
    /// none above but the root, which has no limit.
    Watched(Option<OomWatch>),
    /// On v2: how often they had by then.
    Counted(u64),
}

impl Above {
    /// As it is now.
    pub(super) fn of(cgroup: &Cgroup) -> Above {
        if !cgroup.has_memory_v1() {
            return counted(cgroup).map_or(Above::Unknown, Above::Counted);
        }
        match cgroup.above().next().map(|above| above.oom_watch()) {
            None => Above::Watched(None),
            Some(Ok(Some(watch))) => Above::Watched(Some(watch)),
            Some(_) => Above::Unknown,
        }
    }
}

fn counted(cgroup: &Cgroup) -> Option<u64> {
    cgroup.above().map(|above| above.own_memory_ends()).sum()
}

/// What is known when something has ended, before its cgroup goes.
pub(super) fn met(cgroup: &Cgroup, memory: Option<Whose>, counted: Option<&Cgroup>) -> Met {
    Met {
        memory,
        refused_forks: cgroup.forks_refused(),
        cpu_time_ns: counted.and_then(|cgroup| cgroup.cpu_time_ns().ok()),
    }
}

/// At whose limit the kernel has killed. Where both its own and one above were met, neither is known to be the one.
/// `told` is how often a watch of the container's own cgroup has told, on v1: of its own limit and of those above.
pub(super) fn whose(cgroup: &Cgroup, above: &Above, told: Option<u64>) -> Option<Whose> {
    match above {
        Above::Unknown => None,
        Above::Watched(watch) => {
            let told_above = watch.as_ref().map_or(0, OomWatch::take);
            decided(told? > told_above, told_above > 0)
        }
        Above::Counted(before) => decided(cgroup.own_memory_ends()? > 0, counted(cgroup)? > *before),
    }
}

fn decided(own: bool, parents: bool) -> Option<Whose> {
    match (own, parents) {
        (true, false) => Some(Whose::Own),
        (false, true) => Some(Whose::Parent),
        (false, false) => Some(Whose::Machine),
        (true, true) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_said() {
        assert_eq!(decided(true, false), Some(Whose::Own));
        assert_eq!(decided(false, true), Some(Whose::Parent));
        assert_eq!(decided(false, false), Some(Whose::Machine));
        assert_eq!(decided(true, true), None);
    }
}
