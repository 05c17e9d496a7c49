//! Where, when and with which memory a process runs: scheduler, processors, memory nodes, personality.

use oci_spec::runtime::{
    ExecCPUAffinity, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Scheduler,
};
use rustix::thread::CpuSet;

use crate::error::Context;
use crate::sys::{self, SchedulerAttributes};
use crate::{Error, Result};

/// Sets the scheduler of the calling process.
pub(super) fn schedule(scheduler: &Scheduler) -> Result<()> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
        LinuxSchedulerPolicy::SchedIso => {
            let reason = "Linux reserves the number and has no such scheduler";
            return Err(Error::refused("process.scheduler: SCHED_ISO", reason));
        }
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| flags | scheduler_flag(*flag));
    let attributes = SchedulerAttributes {
        policy: policy.unsigned_abs(),
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0).unsigned_abs(),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedulerAttributes::default()
    };
    sys::sched_setattr(attributes).map_err(|error| {
        let advice = match error.raw_os_error() {
            Some(libc::EPERM) => {
                "it needs CAP_SYS_NICE, and on cgroup v1 a share of realtime (cpu.rt_runtime_us)"
            }
            Some(libc::EINVAL) => "the kernel does not take this combination of values",
            _ => "",
        };
        Error::kernel(format!("set the scheduler to {:?}", scheduler.policy()), error).advise(advice)
    })
}

fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// Puts an exec onto processors before it is in the container's cgroup.
pub(super) fn initial_processors(affinity: Option<&ExecCPUAffinity>) -> Result<()> {
    processors(affinity.and_then(|affinity| affinity.initial().as_deref()))
}

/// And after.
pub(super) fn final_processors(affinity: Option<&ExecCPUAffinity>) -> Result<()> {
    processors(affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref()))
}

fn processors(list: Option<&str>) -> Result<()> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(()) };
    let doing = || format!("run on the processors {list}");
    let mut set = CpuSet::new();
    for number in numbers(list).ok_or_else(|| Error::refused(doing(), "this is no list such as 0-3,7"))? {
        if number >= CpuSet::MAX_CPU {
            return Err(Error::refused(doing(), format!("there is no processor {number}")));
        }
        set.set(number);
    }
    rustix::thread::sched_setaffinity(None, &set).context(doing)
}

/// The numbers of a list such as `0-3,7`.
fn numbers(list: &str) -> Option<Vec<usize>> {
    const MOST: usize = 4096;
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Sets from which nodes the memory of the calling process comes.
pub(super) fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<()> {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            }
    });
    let doing = || format!("set the memory policy {:?}", policy.mode());
    let nodes = policy.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    let nodes = nodes.map(|nodes| {
        numbers(nodes)
            .ok_or_else(|| Error::refused(doing(), format!("{nodes:?} is no list of nodes such as 0-3,7")))
    });
    let nodes = nodes.transpose()?.unwrap_or_default();
    let mut mask = vec![0_u64; nodes.iter().max().map_or(0, |most| most / 64 + 1)];
    for node in nodes {
        mask[node / 64] |= 1 << (node % 64);
    }
    sys::set_mempolicy(mode | flags, &mask).map_err(|error| {
        let advice = if error.raw_os_error() == Some(libc::EINVAL) {
            "there are no such nodes, or the mode takes none"
        } else {
            ""
        };
        Error::kernel(doing(), error).advise(advice)
    })
}

/// `PER_LINUX` and `PER_LINUX32` of `personality(2)`.
const PER_LINUX: i32 = 0;
const PER_LINUX32: i32 = 0x8;

/// Sets what the calling process's programs take this machine for.
pub(super) fn personality(personality: &LinuxPersonality) -> Result<()> {
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::refused("linux.personality.flags", "the specification knows no flag yet"));
    }
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => PER_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    sys::personality(domain).context(|| format!("set the personality {:?}", personality.domain()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("0-2,7").unwrap(), [0, 1, 2, 7]);
        assert_eq!(numbers("5").unwrap(), [5]);
        assert!(["", "3-1", "a", "0-99999", "1,,2"].iter().all(|list| numbers(list).is_none()));
    }
}
