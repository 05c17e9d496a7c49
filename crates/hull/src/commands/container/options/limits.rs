//! Memory, processors, processes, block devices, ulimits: what a container may use.

use serde_json::{Value, json};

use super::flags::ContainerFlags;
use super::{Object, bad, parsed, units};
use crate::error::Error;

/// Fills in the limits.
pub fn fill(host: &mut Object, flags: &ContainerFlags) -> Result<(), Error> {
    memory(host, flags)?;
    cpu(host, flags)?;
    blkio(host, flags)?;
    if flags.kernel_memory.is_some() {
        return Err(Error::usage("--kernel-memory is not supported: the kernel has no such limit any more"));
    }
    host.some("PidsLimit", parsed("--pids-limit", flags.pids_limit.as_deref(), units::int)?);
    host.list("Ulimits", each("--ulimit", &flags.ulimit, ulimit)?);
    host.some("CpuCount", parsed("--cpu-count", flags.cpu_count.as_deref(), units::int)?);
    host.some("CpuPercent", parsed("--cpu-percent", flags.cpu_percent.as_deref(), units::int)?);
    host.some(
        "IOMaximumBandwidth",
        parsed("--io-maxbandwidth", flags.io_maxbandwidth.as_deref(), units::bytes)?,
    );
    host.some("IOMaximumIOps", parsed("--io-maxiops", flags.io_maxiops.as_deref(), units::int)?);
    Ok(())
}

fn memory(host: &mut Object, flags: &ContainerFlags) -> Result<(), Error> {
    host.some("Memory", parsed("-m, --memory", flags.memory.as_deref(), units::bytes)?);
    let swap = parsed("--memory-swap", flags.memory_swap.as_deref(), units::bytes_or_unlimited)?;
    host.some("MemorySwap", swap);
    let reservation = flags.memory_reservation.as_deref();
    host.some("MemoryReservation", parsed("--memory-reservation", reservation, units::bytes)?);
    let swappiness = parsed("--memory-swappiness", flags.memory_swappiness.as_deref(), units::int)?;
    if let Some(swappiness) = swappiness {
        if swappiness != -1 && !(0..=100).contains(&swappiness) {
            return Err(Error::usage(format!(
                "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
            )));
        }
        host.set("MemorySwappiness", swappiness);
    }
    host.flag("OomKillDisable", flags.oom_kill_disable);
    host.some("OomScoreAdj", parsed("--oom-score-adj", flags.oom_score_adj.as_deref(), units::int)?);
    Ok(())
}

fn cpu(host: &mut Object, flags: &ContainerFlags) -> Result<(), Error> {
    host.some("NanoCpus", parsed("--cpus", flags.cpus.as_deref(), units::cpus)?);
    host.some("CpuShares", parsed("-c, --cpu-shares", flags.cpu_shares.as_deref(), units::int)?);
    host.some("CpuPeriod", parsed("--cpu-period", flags.cpu_period.as_deref(), units::int)?);
    host.some("CpuQuota", parsed("--cpu-quota", flags.cpu_quota.as_deref(), units::int)?);
    host.some("CpuRealtimePeriod", parsed("--cpu-rt-period", flags.cpu_rt_period.as_deref(), units::int)?);
    host.some("CpuRealtimeRuntime", parsed("--cpu-rt-runtime", flags.cpu_rt_runtime.as_deref(), units::int)?);
    host.some("CpusetCpus", flags.cpuset_cpus.clone());
    host.some("CpusetMems", flags.cpuset_mems.clone());
    Ok(())
}

fn blkio(host: &mut Object, flags: &ContainerFlags) -> Result<(), Error> {
    host.some("BlkioWeight", parsed("--blkio-weight", flags.blkio_weight.as_deref(), units::weight)?);
    host.list("BlkioWeightDevice", each("--blkio-weight-device", &flags.blkio_weight_device, weight_device)?);
    for (name, flag, values) in [
        ("BlkioDeviceReadBps", "--device-read-bps", &flags.device_read_bps),
        ("BlkioDeviceWriteBps", "--device-write-bps", &flags.device_write_bps),
    ] {
        host.list(name, each(flag, values, |text| throttle(text, units::bytes))?);
    }
    for (name, flag, values) in [
        ("BlkioDeviceReadIOps", "--device-read-iops", &flags.device_read_iops),
        ("BlkioDeviceWriteIOps", "--device-write-iops", &flags.device_write_iops),
    ] {
        host.list(name, each(flag, values, |text| throttle(text, units::int))?);
    }
    Ok(())
}

/// Parses each of a flag's values.
pub fn each(
    flag: &str,
    values: &[String],
    parse: impl Fn(&str) -> Result<Value, String>,
) -> Result<Vec<Value>, Error> {
    values.iter().map(|value| parse(value).map_err(|why| bad(flag, value, why))).collect()
}

fn device_pair(text: &str) -> Result<(&str, &str), String> {
    let (path, value) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path, value))
}

fn weight_device(text: &str) -> Result<Value, String> {
    let (path, weight) = device_pair(text)?;
    match weight.parse::<u16>() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => {
            Ok(json!({"Path": path, "Weight": weight}))
        }
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

fn throttle(text: &str, parse: impl Fn(&str) -> Result<i64, String>) -> Result<Value, String> {
    let (path, rate) = device_pair(text)?;
    match parse(rate) {
        Ok(rate) if rate >= 0 => Ok(json!({"Path": path, "Rate": rate})),
        _ => Err(format!(
            "invalid rate for device: {text}: it is <device-path>:<number>, the number not negative"
        )),
    }
}

const ULIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The values of `--ulimit` as the API's list.
pub fn ulimits(texts: &[String]) -> Result<Value, Error> {
    each("--ulimit", texts, ulimit).map(Value::from)
}

fn ulimit(text: &str) -> Result<Value, String> {
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = match limits.split_once(':') {
        Some((_, hard)) if hard.contains(':') => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            ));
        }
        Some((soft, hard)) => (units::int(soft)?, units::int(hard)?),
        None => (units::int(limits)?, units::int(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(json!({"Name": name, "Hard": hard, "Soft": soft}))
}
