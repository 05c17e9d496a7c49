//! `hull oci update`.

use std::io::Read;

use clap::Args;
use hull_runtime::error::Context;
use hull_runtime::oci::Runtime;
use hull_runtime::{Error, Result};
use serde_json::{Map, Value, json};

use super::log::{Log, refused};

#[derive(Args, Debug)]
pub(super) struct UpdateArguments {
    /// A file with the resources as the specification has them; - is standard input
    #[arg(short, long, value_name = "file")]
    resources: Option<String>,
    /// The share of block io, 10 to 1000
    #[arg(long, value_name = "weight")]
    blkio_weight: Option<u16>,
    /// Microseconds of a period of realtime tasks' processor time
    #[arg(long, value_name = "microseconds")]
    cpu_rt_period: Option<u64>,
    /// Microseconds in it that realtime tasks may run
    #[arg(long, value_name = "microseconds", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Microseconds of a period of processor time
    #[arg(long, value_name = "microseconds")]
    cpu_period: Option<u64>,
    /// Microseconds in it that may be used; -1: all
    #[arg(long, value_name = "microseconds", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Microseconds that may be saved up for later periods
    #[arg(long, value_name = "microseconds")]
    cpu_burst: Option<u64>,
    /// The weight against other cgroups, 1024 being usual
    #[arg(long, visible_alias = "cpu-shares", value_name = "weight")]
    cpu_share: Option<u64>,
    /// 1: runs only when nothing else wants to
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// Processors, such as 0-3,7
    #[arg(long, value_name = "list")]
    cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "list")]
    cpuset_mems: Option<String>,
    /// Bytes of memory; -1: no limit
    #[arg(long, value_name = "bytes", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Bytes of memory that are kept for it when memory is short
    #[arg(long, value_name = "bytes", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Bytes of memory and swap together; -1: no limit
    #[arg(long, value_name = "bytes", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processes; -1: no limit
    #[arg(long, value_name = "number", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Intel RDT: which parts of the cache may be used, L3:0=f;1=f
    #[arg(long, value_name = "schema")]
    l3_cache_schema: Option<String>,
    /// Intel RDT: the bandwidth of memory, MB:0=20;1=70
    #[arg(long, value_name = "schema")]
    mem_bw_schema: Option<String>,
    // What kernels no longer limit apart.
    #[arg(long, value_name = "bytes", hide = true, allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    #[arg(long, value_name = "bytes", hide = true, allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,
}

pub(super) fn update(arguments: &UpdateArguments, runtime: &Runtime, log: &Log) -> Result<()> {
    let container = runtime.container(&arguments.id)?;
    if arguments.kernel_memory.is_some() || arguments.kernel_memory_tcp.is_some() {
        log.warn("kernel memory has no limit of its own any more: --kernel-memory and --kernel-memory-tcp change nothing");
    }
    let value = match &arguments.resources {
        Some(file) => read(file)?,
        None => of_flags(arguments)?,
    };
    let resources = serde_json::from_value(value)
        .map_err(|error| Error::refused("read the resources", error.to_string()))?;
    let schemata = [&arguments.l3_cache_schema, &arguments.mem_bw_schema];
    let schemata: Vec<String> = schemata.into_iter().flatten().cloned().collect();
    super::container::warn(&container.update(&resources, &schemata)?, log);
    Ok(())
}

fn read(file: &str) -> Result<Value> {
    let doing = || format!("read the resources {file}");
    let mut text = String::new();
    if file == "-" {
        std::io::stdin().read_to_string(&mut text).context(doing)?;
    } else {
        text = std::fs::read_to_string(file).context(doing)?;
    }
    serde_json::from_str(&text).map_err(|error| Error::refused(doing(), error.to_string()))
}

fn of_flags(arguments: &UpdateArguments) -> Result<Value> {
    let mut resources = json!({ "cpu": {}, "memory": {} });
    let mut set = |part: &str, key: &str, value: Option<Value>| {
        if let Some(value) = value {
            resources[part][key] = value;
        }
    };
    let a = arguments;
    set("cpu", "realtimePeriod", a.cpu_rt_period.map(Value::from));
    set("cpu", "realtimeRuntime", a.cpu_rt_runtime.map(Value::from));
    set("cpu", "period", a.cpu_period.map(Value::from));
    set("cpu", "quota", a.cpu_quota.map(Value::from));
    set("cpu", "burst", a.cpu_burst.map(Value::from));
    set("cpu", "shares", a.cpu_share.map(Value::from));
    set("cpu", "idle", a.cpu_idle.map(Value::from));
    set("cpu", "cpus", a.cpuset_cpus.clone().map(Value::from));
    set("cpu", "mems", a.cpuset_mems.clone().map(Value::from));
    set("memory", "limit", a.memory.as_deref().map(bytes).transpose()?);
    set("memory", "reservation", a.memory_reservation.as_deref().map(bytes).transpose()?);
    set("memory", "swap", a.memory_swap.as_deref().map(bytes).transpose()?);
    let resources = resources.as_object_mut().map(std::mem::take).unwrap_or_default();
    let mut resources: Map<String, Value> = resources
        .into_iter()
        .filter(|(_, part)| part.as_object().is_some_and(|part| !part.is_empty()))
        .collect();
    if let Some(limit) = a.pids_limit {
        resources.insert("pids".to_owned(), json!({ "limit": limit }));
    }
    if let Some(weight) = a.blkio_weight {
        resources.insert("blockIO".to_owned(), json!({ "weight": weight }));
    }
    Ok(Value::Object(resources))
}

/// A size as `docker` takes it: a number with `k`, `m`, `g` or `t`, or -1.
fn bytes(text: &str) -> Result<Value> {
    let wrong = || refused(format!("size {text:?}"), "it is a number, with b, k, m, g or t after it");
    if text == "-1" {
        return Ok(json!(-1));
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, shift) = match lower.char_indices().next_back() {
        Some((at, unit)) if !unit.is_ascii_digit() => {
            let shift = match unit {
                'k' => 10,
                'm' => 20,
                'g' => 30,
                't' => 40,
                _ => return Err(wrong()),
            };
            (&lower[..at], shift)
        }
        _ => (lower, 0),
    };
    let number: i64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes >= 0).map(Value::from).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in
            [("0", 0_i64), ("64m", 64 << 20), ("1G", 1 << 30), ("10KiB", 10 << 10), ("-1", -1), ("7b", 7)]
        {
            assert_eq!(bytes(text).unwrap(), json!(size), "{text}");
        }
        assert!(["", "m", "-5", "1x", "99999999999g"].iter().all(|text| bytes(text).is_err()));
    }
}
