//! What a container uses, in the words of `runc events`.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::{Container, Status};
use crate::cgroup::{Blkio, Counted, Figures, Further, numbers_of};
use crate::{Error, Result};

impl Container {
    /// What it uses now: an event of the type `stats`.
    ///
    /// # Errors
    /// It has ended, or its cgroup cannot be read.
    pub fn stats(&self) -> Result<Value> {
        if self.status()? == Status::Stopped {
            let doing = format!("read the figures of the container {}", self.id());
            return Err(Error::refused(doing, "container is not running"));
        }
        let cgroup = self.existing_cgroup("read the figures of")?;
        let mut data = data(&cgroup.figures()?);
        add_further(&mut data, &cgroup.further_figures()?);
        for (part, resource) in [("cpu", "cpu"), ("memory", "memory"), ("blkio", "io")] {
            if let Some(text) = cgroup.pressure(resource) {
                data[part]["psi"] = pressure(&text);
            }
        }
        Ok(json!({ "type": "stats", "id": self.id(), "data": data }))
    }

    /// Calls `tell` with figures every `interval`, and with an event of the type `oom` when the kernel has killed for
    /// memory, until the container ends.
    ///
    /// # Errors
    /// It does not run; its cgroup cannot be read or watched; `tell` fails.
    pub fn follow_events(
        &self,
        interval: Duration,
        mut tell: impl FnMut(&Value) -> Result<()>,
    ) -> Result<()> {
        let doing = || format!("follow the events of the container {}", self.id());
        let not_running = || Error::refused(doing(), "container is not running");
        let pidfd = self.first_process()?.ok_or_else(not_running)?;
        let cgroup = self.existing_cgroup("follow")?;
        let watch = cgroup.oom_watch()?;
        let mut kills = cgroup.oom_kills()?;
        let mut next = Instant::now() + interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut interests = vec![PollFd::new(&pidfd, PollFlags::IN)];
            interests.extend(watch.as_ref().map(|watch| PollFd::new(&watch.fd, watch.events)));
            match poll(&mut interests, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Error::kernel(doing(), error)),
            }
            let ready: Vec<bool> = interests.iter().map(|interest| !interest.revents().is_empty()).collect();
            drop(interests);
            if let Some(watch) = &watch
                && ready.get(1) == Some(&true)
            {
                let mut some = [0; 4096];
                while matches!(rustix::io::read(&watch.fd, &mut some), Ok(1..)) {}
            }
            // On v1 the event comes just before the kill is counted: it is asked at every turn.
            let now = cgroup.oom_kills().unwrap_or(kills);
            if now > kills {
                kills = now;
                tell(&json!({ "type": "oom", "id": self.id() }))?;
            }
            if ready[0] {
                return Ok(());
            }
            if Instant::now() >= next {
                next += interval;
                tell(&self.stats()?)?;
            }
        }
    }
}

fn data(figures: &Figures) -> Value {
    let stat = |names: &[&str]| -> u64 {
        let found = names.iter().find_map(|name| figures.memory_stat.iter().find(|(key, _)| key == name));
        found.map_or(0, |(_, value)| *value)
    };
    let raw: serde_json::Map<String, Value> =
        figures.memory_stat.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({
        "cpu": {
            "usage": {
                "total": figures.cpu_total_ns,
                "percpu": figures.cpu_per_cpu_ns,
                "kernel": figures.cpu_kernel_ns,
                "user": figures.cpu_user_ns,
            },
            "throttling": {
                "periods": figures.throttling_periods,
                "throttledPeriods": figures.throttled_periods,
                "throttledTime": figures.throttled_ns,
            },
        },
        "memory": {
            "cache": stat(&["total_cache", "file", "cache"]),
            "usage": {
                "limit": figures.memory_limit,
                "usage": figures.memory_usage,
                "max": figures.memory_max_usage,
                "failcnt": figures.memory_failcnt,
            },
            "raw": raw,
        },
        "pids": { "current": figures.pids_current, "limit": figures.pids_limit },
        "blkio": {
            "ioServiceBytesRecursive": blkio(&figures.io_service_bytes),
            "ioServicedRecursive": blkio(&figures.io_serviced),
        },
    })
}

/// What runc's own words have besides.
fn add_further(data: &mut Value, further: &Further) {
    let counted = |counted: &Counted| {
        let mut entry = json!({ "limit": counted.limit, "usage": counted.usage, "failcnt": counted.failcnt });
        if let Some(max) = counted.max {
            entry["max"] = json!(max);
        }
        entry
    };
    let kinds = [("swap", &further.swap), ("kernel", &further.kernel), ("kernelTCP", &further.kernel_tcp)];
    for (name, kind) in kinds {
        if let Some(kind) = kind {
            data["memory"][name] = counted(kind);
        }
    }
    let huge_pages = further.huge_pages.iter().map(|(size, pages)| (size.clone(), counted(pages)));
    data["hugetlb"] = Value::Object(huge_pages.collect());
    if let Some((processors, nodes)) = &further.places {
        data["cpuset"] = json!({ "cpus": numbers_of(processors), "mems": numbers_of(nodes) });
        for (name, value) in &further.cpuset {
            data["cpuset"][*name] = json!(value);
        }
    }
}

/// Lines such as `some avg10=0.12 avg60=0.05 avg300=0.01 total=4567`, as an object.
fn pressure(text: &str) -> Value {
    let mut all = serde_json::Map::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(kind) = words.next() else { continue };
        let figures = words.filter_map(|word| {
            let (name, value) = word.split_once('=')?;
            // The averages are percentages, the total microseconds.
            let value = match name {
                "total" => json!(value.parse::<u64>().ok()?),
                _ => json!(value.parse::<f64>().ok()?),
            };
            Some((name.to_owned(), value))
        });
        all.insert(kind.to_owned(), Value::Object(figures.collect()));
    }
    Value::Object(all)
}

fn blkio(entries: &[Blkio]) -> Vec<Value> {
    let one = |entry: &Blkio| json!({ "major": entry.major, "minor": entry.minor, "op": entry.op, "value": entry.value });
    entries.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=0.12 avg60=0.05 avg300=0.00 total=4567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        assert_eq!(
            pressure(text),
            json!({
                "some": { "avg10": 0.12, "avg60": 0.05, "avg300": 0.0, "total": 4567 },
                "full": { "avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 12 },
            })
        );
    }
}
