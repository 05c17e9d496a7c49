//! From the API's resources to the OCI specification's, and what Docker refuses or warns about.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
    LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
};

use crate::model::{HostConfig, Resources, ThrottleDevice};
use crate::{Error, Result};

/// Docker's smallest memory limit, in bytes.
const MEMORY_MIN: i64 = 6 << 20;

/// Checks what a container may use.
///
/// # Errors
/// Values that contradict each other or that no kernel takes.
pub(super) fn check(host: &HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    let resources = &host.resources;
    check_memory(resources)?;
    check_cpu(resources)?;
    let weight = resources.blkio_weight;
    if weight != 0 && !(10..=1000).contains(&weight) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if resources.oom_kill_disable == Some(true) && resources.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .to_owned(),
        );
    }
    let windows = resources.cpu_count != 0
        || resources.cpu_percent != 0
        || resources.io_maximum_iops != 0
        || resources.io_maximum_bandwidth != 0;
    if windows {
        return Err(Error::invalid(
            "CpuCount, CpuPercent, IOMaximumIOps and IOMaximumBandwidth are of Windows only",
        ));
    }
    for ulimit in resources.ulimits.iter().flatten() {
        super::spec::rlimit_type(&ulimit.name)?;
        if ulimit.soft > ulimit.hard && ulimit.hard != -1 {
            return Err(Error::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                ulimit.soft, ulimit.hard
            )));
        }
    }
    for rule in resources.device_cgroup_rules.iter().flatten() {
        device_rule(rule)?;
    }
    // Read once here so that a device that is no device is told at creation.
    to_oci(resources, Vec::new()).map(drop)
}

/// The warnings that limits earn which the kernel has no more: they are not kept.
pub(super) fn discarded(resources: &Resources) -> impl Iterator<Item = String> {
    let limits = [("", resources.kernel_memory), ("TCP ", resources.kernel_memory_tcp)];
    limits.into_iter().filter(|(_, limit)| *limit > 0).map(|(which, _)| {
        format!(
            "Your kernel does not support kernel memory {which}limit capabilities or the cgroup is not mounted. \
             Limitation discarded."
        )
    })
}

/// Whether a memory limit is one at all.
pub(super) fn check_least(resources: &Resources) -> Result<()> {
    if resources.memory != 0 && resources.memory < MEMORY_MIN {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    Ok(())
}

fn check_memory(resources: &Resources) -> Result<()> {
    let Resources { memory, memory_swap, memory_reservation, .. } = *resources;
    check_least(resources)?;
    if memory > 0 && memory_swap > 0 && memory_swap < memory {
        return Err(Error::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if memory == 0 && memory_swap > 0 {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if memory_swap < -1 {
        return Err(Error::invalid("invalid memory and swap limit: it is -1 (unlimited) or more"));
    }
    if resources.memory_swappiness.is_some_and(|value| value != -1 && !(0..=100).contains(&value)) {
        return Err(Error::invalid(format!(
            "Invalid value: {}, valid memory swappiness range is 0-100",
            resources.memory_swappiness.unwrap_or_default()
        )));
    }
    if memory_reservation != 0 && memory_reservation < MEMORY_MIN {
        return Err(Error::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if memory > 0 && memory_reservation > memory {
        return Err(Error::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    Ok(())
}

fn check_cpu(resources: &Resources) -> Result<()> {
    let Resources { nano_cpus, cpu_period, cpu_quota, cpu_shares, .. } = *resources;
    if nano_cpus != 0 && (cpu_period != 0 || cpu_quota != 0) {
        let other = if cpu_period != 0 { "CPU Period" } else { "CPU Quota" };
        return Err(Error::invalid(format!("Conflicting options: Nano CPUs and {other} cannot both be set")));
    }
    // Asked only where it matters: the answer takes a walk through the daemon's own cgroup.
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as i64;
    if nano_cpus < 0 || (nano_cpus > 0 && nano_cpus > available() * 1_000_000_000) {
        let available = available();
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available"
        )));
    }
    if cpu_period != 0 && !(1_000..=1_000_000).contains(&cpu_period) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if cpu_quota > 0 && cpu_quota < 1_000 {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    let Resources { cpu_realtime_period, cpu_realtime_runtime, .. } = *resources;
    if cpu_realtime_period != 0 && cpu_realtime_runtime > cpu_realtime_period {
        return Err(Error::invalid("cpu real-time runtime cannot be higher than cpu real-time period"));
    }
    if cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({cpu_shares}): value must be a positive integer"
        )));
    }
    check_list("CPUs", &resources.cpuset_cpus, "/sys/devices/system/cpu/online")?;
    check_list("memory nodes", &resources.cpuset_mems, "/sys/devices/system/node/online")
}

/// Checks that a kernel list names what this machine has; `online` is the file that says so.
fn check_list(what: &str, list: &str, online: &str) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let Some(wanted) = kernel_list(list) else {
        return Err(Error::invalid(format!("Invalid value {list} for cpuset {what}")));
    };
    let Ok(available) = std::fs::read_to_string(online) else { return Ok(()) };
    let Some(ranges) = kernel_list(available.trim()) else { return Ok(()) };
    let has = |(first, last): &(u32, u32)| ranges.iter().any(|(from, to)| from <= first && last <= to);
    if wanted.iter().all(has) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Requested {what} are not available - requested {list}, available: {}",
        available.trim()
    )))
}

/// A kernel list, `0-3,7`, as ranges; none where it is written otherwise.
fn kernel_list(list: &str) -> Option<Vec<(u32, u32)>> {
    let parts = list.split(',').filter(|_| !list.is_empty());
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some((first, last))
    };
    parts.map(range).collect()
}

/// Resources as the runtime takes them; `devices` are the device rules in their order.
///
/// # Errors
/// A block device that is none.
pub(crate) fn to_oci(resources: &Resources, devices: Vec<LinuxDeviceCgroup>) -> Result<LinuxResources> {
    let mut oci = LinuxResources::default();
    if !devices.is_empty() {
        oci.set_devices(Some(devices));
    }
    oci.set_memory(memory(resources));
    oci.set_cpu(cpu(resources));
    if let Some(limit) = resources.pids_limit.filter(|limit| *limit != 0) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        oci.set_pids(Some(pids));
    }
    oci.set_block_io(block_io(resources)?);
    Ok(oci)
}

fn memory(resources: &Resources) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    let given = |value: i64| (value != 0).then_some(value);
    memory.set_limit(given(resources.memory));
    memory.set_reservation(given(resources.memory_reservation));
    // Docker: with a limit and nothing said of swap, as much swap again.
    let swap = match (resources.memory, resources.memory_swap) {
        (limit, 0) if limit > 0 => Some(limit.saturating_mul(2)),
        (_, swap) => given(swap),
    };
    memory.set_swap(swap);
    memory.set_swappiness(resources.memory_swappiness.and_then(|value| u64::try_from(value).ok()));
    memory.set_disable_oom_killer(resources.oom_kill_disable.filter(|disable| *disable));
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(resources: &Resources) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|value| *value != 0);
    cpu.set_shares(unsigned(resources.cpu_shares));
    cpu.set_period(unsigned(resources.cpu_period));
    cpu.set_quota((resources.cpu_quota != 0).then_some(resources.cpu_quota));
    if resources.nano_cpus > 0 {
        cpu.set_period(Some(100_000));
        cpu.set_quota(Some(resources.nano_cpus / 10_000));
    }
    cpu.set_realtime_period(unsigned(resources.cpu_realtime_period));
    cpu.set_realtime_runtime((resources.cpu_realtime_runtime != 0).then_some(resources.cpu_realtime_runtime));
    let list = |list: &String| (!list.is_empty()).then(|| list.clone());
    cpu.set_cpus(list(&resources.cpuset_cpus));
    cpu.set_mems(list(&resources.cpuset_mems));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn block_io(resources: &Resources) -> Result<Option<LinuxBlockIo>> {
    let mut io = LinuxBlockIo::default();
    io.set_weight((resources.blkio_weight != 0).then_some(resources.blkio_weight));
    if let Some(devices) = resources.blkio_weight_device.as_ref().filter(|devices| !devices.is_empty()) {
        let weights: Result<Vec<LinuxWeightDevice>> = devices
            .iter()
            .map(|device| {
                let (major, minor) = block_device(&device.path)?;
                LinuxWeightDeviceBuilder::default()
                    .major(major)
                    .minor(minor)
                    .weight(device.weight)
                    .build()
                    .map_err(|error| Error::system("describe a block device's weight", error))
            })
            .collect();
        io.set_weight_device(Some(weights?));
    }
    io.set_throttle_read_bps_device(throttles(resources.blkio_device_read_bps.as_deref())?);
    io.set_throttle_write_bps_device(throttles(resources.blkio_device_write_bps.as_deref())?);
    io.set_throttle_read_iops_device(throttles(resources.blkio_device_read_iops.as_deref())?);
    io.set_throttle_write_iops_device(throttles(resources.blkio_device_write_iops.as_deref())?);
    Ok((io != LinuxBlockIo::default()).then_some(io))
}

fn throttles(devices: Option<&[ThrottleDevice]>) -> Result<Option<Vec<LinuxThrottleDevice>>> {
    let Some(devices) = devices.filter(|devices| !devices.is_empty()) else { return Ok(None) };
    let throttle = |device: &ThrottleDevice| {
        let (major, minor) = block_device(&device.path)?;
        LinuxThrottleDeviceBuilder::default()
            .major(major)
            .minor(minor)
            .rate(device.rate)
            .build()
            .map_err(|error| Error::system("describe a block device's rate", error))
    };
    devices.iter().map(throttle).collect::<Result<_>>().map(Some)
}

fn block_device(path: &str) -> Result<(i64, i64)> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::invalid(format!(
            "the block device {path:?} is not there: lsblk lists those that there are"
        )),
        _ => Error::invalid(format!("the block device {path} cannot be looked at: {error}")),
    })?;
    if !metadata.file_type().is_block_device() {
        return Err(Error::invalid(format!("{path} is no block device")));
    }
    let device = metadata.rdev();
    Ok((i64::from(rustix::fs::major(device)), i64::from(rustix::fs::minor(device))))
}

/// One `--device-cgroup-rule`: `c 42:* rmw`.
///
/// # Errors
/// It is written otherwise.
pub(super) fn device_rule(rule: &str) -> Result<LinuxDeviceCgroup> {
    let invalid = || Error::invalid(format!("invalid device cgroup rule format: '{rule}'"));
    let parts: Vec<&str> = rule.split_ascii_whitespace().collect();
    let [kind, numbers, access] = parts[..] else { return Err(invalid()) };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(invalid()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits => digits.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| invalid()),
    };
    if access.is_empty() || access.len() > 3 || !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(invalid());
    }
    Ok(super::devices::device_access(true, kind, number(major)?, number(minor)?, access))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(resources: Resources) -> HostConfig {
        HostConfig { resources, ..HostConfig::default() }
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let of = |resources: Resources| check(&host(resources), &mut Vec::new());
        of(Resources { memory: 32 << 20, memory_swap: 64 << 20, ..Resources::default() }).unwrap();
        for wrong in [
            Resources { memory: 1 << 20, ..Resources::default() },
            Resources { memory: 32 << 20, memory_swap: 16 << 20, ..Resources::default() },
            Resources { memory_swap: 16 << 20, ..Resources::default() },
            Resources { nano_cpus: 1, cpu_period: 1000, ..Resources::default() },
            Resources { nano_cpus: i64::MAX, ..Resources::default() },
            Resources { cpuset_cpus: "3-1".to_owned(), ..Resources::default() },
            Resources { cpuset_cpus: "100000".to_owned(), ..Resources::default() },
            Resources { blkio_weight: 9, ..Resources::default() },
            Resources { cpu_count: 1, ..Resources::default() },
            Resources { device_cgroup_rules: Some(vec!["c x:1 r".to_owned()]), ..Resources::default() },
        ] {
            assert!(of(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn limits_that_the_kernel_has_no_more_are_discarded_aloud() {
        let body = br#"{"KernelMemory": 5000000, "KernelMemoryTCP": 7000000}"#;
        let host: HostConfig = crate::model::parse(body).unwrap();
        let warnings: Vec<String> = discarded(&host.resources).collect();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("kernel memory limit capabilities"), "{warnings:?}");
        assert!(warnings[1].contains("kernel memory TCP limit capabilities"), "{warnings:?}");
    }

    #[test]
    fn swap_is_as_much_again_unless_said_otherwise() {
        let swap = |memory, memory_swap| {
            let resources = Resources { memory, memory_swap, ..Resources::default() };
            to_oci(&resources, Vec::new()).unwrap().memory().and_then(|memory| memory.swap())
        };
        assert_eq!(swap(100, 0), Some(200));
        assert_eq!(swap(100, 100), Some(100));
        assert_eq!(swap(100, -1), Some(-1));
        assert_eq!(swap(0, 0), None);
    }

    #[test]
    fn parts_of_a_processor_are_a_quota() {
        let resources = Resources { nano_cpus: 500_000_000, ..Resources::default() };
        let oci = to_oci(&resources, Vec::new()).unwrap();
        let cpu = oci.cpu().as_ref().unwrap();
        assert_eq!((cpu.period(), cpu.quota()), (Some(100_000), Some(50_000)));
    }
}
