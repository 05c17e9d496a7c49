//! What a container uses, in the shape of the API's `ContainerStatsResponse`.

use std::sync::Arc;
use std::time::Duration;

use hull_runtime::cgroup::{self, Blkio, Cgroup, Figures};
use serde_json::{Map, Value, json};

use super::{Container, NEVER, now_ns, rfc3339};
use crate::{Engine, Error, Result};

/// Between two readings, as in Docker.
const PERIOD: Duration = Duration::from_secs(1);

/// Readings of one container, each with the processor's figures of the one before.
pub struct Stats {
    engine: Arc<Engine>,
    container: Arc<Container>,
    minor: u32,
    /// The processor's figures of the last reading, and when that was.
    before: Option<(Value, String)>,
}

/// What is read of a running container in one go.
struct Reading {
    figures: Figures,
    machine: Machine,
    networks: Map<String, Value>,
}

/// What is read of the machine.
#[derive(Debug, Default, PartialEq)]
struct Machine {
    /// Time of all processors since the machine started, idle time counted, in nanoseconds.
    cpu_ns: u64,
    processors: u32,
    /// Bytes.
    memory: u64,
}

impl Engine {
    /// Begins to read what a container uses. `minor` is the API's version.
    pub fn stats(self: &Arc<Self>, container: &Arc<Container>, minor: u32) -> Stats {
        Stats { engine: Arc::clone(self), container: Arc::clone(container), minor, before: None }
    }
}

impl Stats {
    /// The figures of this moment; those of a container that does not run are empty.
    ///
    /// # Errors
    /// The kernel's figures cannot be read.
    pub async fn read(&mut self) -> Result<Value> {
        let (pid, name, network_mode) = {
            let record = self.container.record();
            let pid = record.is_running().then_some(record.state.pid);
            (pid, record.name.clone(), record.host_config.network_mode.clone())
        };
        let path = self.container.cgroup_path(&self.engine.config.instance);
        let reading = match pid {
            None => None,
            Some(pid) => {
                let read = tokio::task::spawn_blocking(move || reading(&path, pid, &network_mode));
                match read.await {
                    Ok(Ok(reading)) => Some(reading),
                    // It ended while it was looked at.
                    Ok(Err(_)) if !self.container.record().is_running() => None,
                    Ok(Err(error)) => return Err(error),
                    Err(error) => return Err(Error::system("read what a container uses", error)),
                }
            }
        };
        let now = if reading.is_some() { rfc3339(now_ns()) } else { NEVER.to_owned() };
        let processor = reading.as_ref().map_or_else(no_processor, processor);
        let (before, read_before) = self.before.take().unwrap_or_else(|| (no_processor(), NEVER.to_owned()));
        let mut shown = json!({
            "name": format!("/{name}"),
            "id": self.container.id,
            "read": now,
            "preread": read_before,
            "pids_stats": reading.as_ref().map_or_else(|| json!({}), |reading| pids(&reading.figures)),
            "blkio_stats": block_io(reading.as_ref().map(|reading| &reading.figures)),
            "num_procs": 0,
            "storage_stats": {},
            "cpu_stats": processor,
            "precpu_stats": before,
            "memory_stats": reading.as_ref().map_or_else(|| json!({}), memory),
        });
        if self.minor >= 52 {
            shown["os_type"] = json!("linux");
        }
        if let Some(reading) = reading
            && !reading.networks.is_empty()
        {
            shown["networks"] = Value::Object(reading.networks);
        }
        self.before = Some((processor, now));
        Ok(shown)
    }

    /// Waits until it is time for the next reading. False: the container is removed, there is none.
    pub async fn next_period(&self) -> bool {
        let mut lifetime = self.container.lifetime.subscribe();
        let removed = lifetime.wait_for(|now| now.removed);
        tokio::time::timeout(PERIOD, removed).await.is_err()
    }

    /// Whether a single reading says something: the container runs.
    pub fn is_running(&self) -> bool {
        self.container.record().is_running()
    }
}

fn reading(cgroup: &str, pid: i32, network_mode: &str) -> Result<Reading> {
    let figures = Cgroup::open(cgroup)?.figures()?;
    let text = |path: &str| {
        std::fs::read_to_string(path).map_err(|error| Error::system(format_args!("read {path}"), error))
    };
    // The host's interfaces are none of the container's.
    let networks = match network_mode {
        "host" => Map::new(),
        _ => interfaces(&text(&format!("/proc/{pid}/net/dev"))?),
    };
    Ok(Reading { figures, machine: machine(&text("/proc/stat")?, &text("/proc/meminfo")?), networks })
}

/// From `/proc/stat` and `/proc/meminfo`.
fn machine(stat: &str, meminfo: &str) -> Machine {
    let mut machine = Machine::default();
    for line in stat.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("cpu") => {
                // User, nice, system, idle, iowait, irq, softirq, in hundredths of a second. What guests take is
                // counted in the first already.
                let ticks: u64 = words.take(7).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
                machine.cpu_ns = ticks * 10_000_000;
            }
            Some(word) if word.starts_with("cpu") => machine.processors += 1,
            _ => break,
        }
    }
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    machine.memory = kilobytes.unwrap_or(0) * 1024;
    machine
}

/// From `/proc/PID/net/dev`: every interface but the loopback.
fn interfaces(text: &str) -> Map<String, Value> {
    let mut found = Map::new();
    for line in text.lines().skip(2) {
        let Some((name, counters)) = line.rsplit_once(':') else { continue };
        let name = name.trim();
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        if name == "lo" || counters.len() < 12 {
            continue;
        }
        let shown = json!({
            "rx_bytes": counters[0],
            "rx_packets": counters[1],
            "rx_errors": counters[2],
            "rx_dropped": counters[3],
            "tx_bytes": counters[8],
            "tx_packets": counters[9],
            "tx_errors": counters[10],
            "tx_dropped": counters[11],
        });
        found.insert(name.to_owned(), shown);
    }
    found
}

/// `cpu_stats` of a container that does not run.
fn no_processor() -> Value {
    json!({
        "cpu_usage": { "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
        "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
    })
}

fn processor(reading: &Reading) -> Value {
    let Reading { figures, machine, .. } = reading;
    let mut usage = json!({ "total_usage": figures.cpu_total_ns });
    if !figures.cpu_per_cpu_ns.is_empty() {
        usage["percpu_usage"] = json!(figures.cpu_per_cpu_ns);
    }
    usage["usage_in_kernelmode"] = json!(figures.cpu_kernel_ns);
    usage["usage_in_usermode"] = json!(figures.cpu_user_ns);
    json!({
        "cpu_usage": usage,
        "system_cpu_usage": machine.cpu_ns,
        "online_cpus": machine.processors,
        "throttling_data": {
            "periods": figures.throttling_periods,
            "throttled_periods": figures.throttled_periods,
            "throttled_time": figures.throttled_ns,
        },
    })
}

fn memory(reading: &Reading) -> Value {
    let Reading { figures, machine, .. } = reading;
    let stats: Map<String, Value> =
        figures.memory_stat.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut shown = json!({ "usage": figures.memory_usage });
    // Only v1 has these to Docker.
    let v1 = cgroup::hierarchy().v1_of("memory").is_some();
    if v1 {
        shown["max_usage"] = json!(figures.memory_max_usage);
    }
    shown["stats"] = Value::Object(stats);
    if v1 && figures.memory_failcnt > 0 {
        shown["failcnt"] = json!(figures.memory_failcnt);
    }
    shown["limit"] = json!(figures.memory_limit.min(machine.memory));
    shown
}

fn pids(figures: &Figures) -> Value {
    let mut shown = json!({ "current": figures.pids_current });
    if figures.pids_limit > 0 {
        shown["limit"] = json!(figures.pids_limit);
    }
    shown
}

/// The lists of block devices. On v2 the kernel counts bytes; the other lists are v1's, of which today's kernels
/// fill the operations only.
fn block_io(figures: Option<&Figures>) -> Value {
    let line = |line: &Blkio| json!({ "major": line.major, "minor": line.minor, "op": line.op.to_ascii_lowercase(), "value": line.value });
    let list = |lines: &[Blkio]| Value::Array(lines.iter().map(line).collect());
    let v1 = figures.filter(|_| cgroup::hierarchy().v1_of("blkio").is_some());
    let unfilled = if v1.is_some() { json!([]) } else { Value::Null };
    json!({
        "io_service_bytes_recursive": figures.map_or(Value::Null, |figures| list(&figures.io_service_bytes)),
        "io_serviced_recursive": v1.map_or(Value::Null, |figures| list(&figures.io_serviced)),
        "io_queue_recursive": unfilled,
        "io_service_time_recursive": unfilled,
        "io_wait_time_recursive": unfilled,
        "io_merged_recursive": unfilled,
        "io_time_recursive": unfilled,
        "sectors_recursive": unfilled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_proc() {
        let stat =
            "cpu  100 1 2 1000 3 4 5 6 70 8\ncpu0 50 0 0 0 0 0 0 0 0 0\ncpu1 50 0 0 0 0 0 0 0 0 0\nintr 1\n";
        let meminfo = "MemTotal:        2048 kB\nMemFree: 1 kB\n";
        let machine = machine(stat, meminfo);
        assert_eq!(machine, Machine { cpu_ns: 1115 * 10_000_000, processors: 2, memory: 2 << 20 });
    }

    #[test]
    fn interfaces_but_the_loopback() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets\n    lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n  \
                    eth0:1000 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        let expected = json!({ "rx_bytes": 1000, "rx_packets": 2, "rx_errors": 3, "rx_dropped": 4,
                               "tx_bytes": 5, "tx_packets": 6, "tx_errors": 7, "tx_dropped": 8 });
        assert_eq!(found["eth0"], expected);
    }

    #[test]
    fn figures_in_the_shape_of_the_api() {
        let figures = Figures {
            cpu_total_ns: 30,
            cpu_user_ns: 20,
            cpu_kernel_ns: 10,
            memory_usage: 5,
            memory_limit: u64::MAX,
            memory_stat: vec![("cache".to_owned(), 2)],
            pids_current: 3,
            ..Figures::default()
        };
        let machine = Machine { cpu_ns: 99, processors: 2, memory: 1000 };
        let reading = Reading { figures, machine, networks: Map::new() };
        let shown = processor(&reading);
        assert_eq!(
            shown["cpu_usage"],
            json!({ "total_usage": 30, "usage_in_kernelmode": 10, "usage_in_usermode": 20 })
        );
        assert_eq!((&shown["system_cpu_usage"], &shown["online_cpus"]), (&json!(99), &json!(2)));
        let shown = memory(&reading);
        assert_eq!(
            (&shown["usage"], &shown["limit"], &shown["stats"]["cache"]),
            (&json!(5), &json!(1000), &json!(2))
        );
        assert_eq!(pids(&reading.figures), json!({ "current": 3 }));
        assert_eq!(block_io(None)["io_service_bytes_recursive"], Value::Null);
    }
}
