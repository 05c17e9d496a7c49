//! `cgroup run`.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use clap::Args;
use hull_runtime::cgroup::Usage;
use hull_runtime::partial::limited::{self, Limits, Throttle};

use super::tree::lines;
use crate::commands::container::options::units;
use crate::commands::shared::process::failed;
use crate::context::Context;
use crate::errln;
use crate::error::{Error, ExitStatus};
use crate::format::human::size_binary;

/// The least that the kernel counts: a limit below it is a limit of nothing.
const PAGE: i64 = 4096;

/// `cgroup run`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull cgroup run --memory 100m --memory-swap 100m -- tail /dev/zero   # killed, and told why
  hull cgroup run --cpus 0.5 --stat -- make                            # half a processor; what it took
  hull cgroup run --pids 20 -- sh
  hull cgroup run --io /dev/sda:rbps=10m,wbps=1m -- cp big copy")]
pub struct RunArgs {
    /// Number of processors, such as 0.5
    #[arg(long, value_name = "number")]
    cpus: Option<f64>,
    /// Limit a disk: DEVICE:rbps=10m,wbps=1m,riops=100,wiops=100 (by its path or MAJOR:MINOR)
    #[arg(long, value_name = "limits")]
    io: Vec<String>,
    /// Memory, such as 100m
    #[arg(short, long, value_name = "bytes", value_parser = units::bytes)]
    memory: Option<i64>,
    /// Memory and swap together; -1 is as much swap as there is (default twice the memory)
    #[arg(long, value_name = "bytes", value_parser = units::bytes_or_unlimited)]
    memory_swap: Option<i64>,
    /// Number of processes and threads
    #[arg(long, value_name = "number")]
    pids: Option<i64>,
    /// Tell on standard error what it took, when it ends
    #[arg(long)]
    stat: bool,
    #[arg(value_name = "PROGRAM", trailing_var_arg = true)]
    program: Vec<String>,
}

impl RunArgs {
    fn limits(&self) -> Result<Limits, Error> {
        if let Some(cpus) = self.cpus.filter(|cpus| !(0.01..=100_000.0).contains(cpus)) {
            return Err(Error::usage(format!("--cpus {cpus}: it is a number of processors from 0.01 on")));
        }
        if let Some(pids) = self.pids.filter(|pids| *pids < 1) {
            return Err(Error::usage(format!("--pids {pids}: it is a number of processes from 1 on")));
        }
        if let Some(memory) = self.memory.filter(|memory| *memory < PAGE) {
            let why = "less than a page of memory, 4096 bytes: no program begins with that; 100m is a hundred megabytes";
            return Err(Error::usage(format!("--memory {memory}: {why}")));
        }
        Ok(Limits {
            memory: self.memory,
            memory_swap: self.memory_swap,
            cpus: self.cpus,
            pids: self.pids,
            io: self.io.iter().map(|text| throttle(text)).collect::<Result<_, _>>()?,
        })
    }
}

/// `/dev/sda:rbps=10m,wiops=5`.
fn throttle(text: &str) -> Result<Throttle, Error> {
    let wrong = |why: &str| Error::usage(format!("--io {text}: {why}"));
    let (device, limits) = text
        .rsplit_once(':')
        .filter(|(_, limits)| limits.contains('='))
        .ok_or_else(|| wrong("it is DEVICE:rbps=10m,wbps=1m,riops=100,wiops=100"))?;
    let (major, minor) = match device.split_once(':') {
        Some((major, minor)) => match (major.parse(), minor.parse()) {
            (Ok(major), Ok(minor)) => (major, minor),
            _ => return Err(wrong("a device is a path or MAJOR:MINOR")),
        },
        None => {
            let found = std::fs::metadata(device).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    wrong("there is no such device; lsblk lists those that there are")
                }
                _ => wrong(&error.to_string()),
            })?;
            if !found.file_type().is_block_device() {
                return Err(wrong(&format!("{device} is no block device")));
            }
            (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()))
        }
    };
    let mut throttle = Throttle { major, minor, ..Throttle::default() };
    for limit in limits.split(',') {
        let (name, value) = limit.split_once('=').ok_or_else(|| wrong("a limit is NAME=VALUE"))?;
        let place = match name {
            "rbps" => &mut throttle.rbps,
            "wbps" => &mut throttle.wbps,
            "riops" => &mut throttle.riops,
            "wiops" => &mut throttle.wiops,
            _ => return Err(wrong(&format!("there is no limit {name}: rbps, wbps, riops, wiops"))),
        };
        let rate = units::bytes(value).map_err(|why| wrong(&why))?;
        *place = u64::try_from(rate).ok().filter(|rate| *rate > 0);
        if place.is_none() {
            return Err(wrong("a limit is more than nothing"));
        }
    }
    Ok(throttle)
}

/// `cgroup run`.
pub async fn run(args: RunArgs, _: &Context) -> Result<ExitStatus, Error> {
    let limits = args.limits()?;
    let outcome =
        limited::run(&limits, &args.program, |warning| errln!("WARNING: {warning}")).map_err(failed)?;
    if let Some(whose) = outcome.killed_for {
        let name = args.program.first().map_or("the shell", String::as_str);
        errln!("hull: {name} was killed for memory: {whose}{}", memory(&outcome.usage));
    }
    if args.stat {
        lines(&outcome.usage).iter().for_each(|line| errln!("{line}"));
    }
    Ok(ExitStatus(u8::try_from(outcome.status).unwrap_or(u8::MAX)))
}

/// The memory's limit and peak, behind what is said of the kill.
fn memory(usage: &Usage) -> String {
    let Some(memory) = &usage.memory else { return String::new() };
    let size = |bytes: u64| size_binary(bytes as f64);
    let max = memory.max.map(|max| format!(" (memory.max {})", size(max))).unwrap_or_default();
    let peak = memory.peak.map(|peak| format!(", memory.peak {}", size(peak))).unwrap_or_default();
    format!("{max}{peak}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_disk() {
        let throttle = |text| throttle(text).map_err(|error| error.to_string());
        let found = throttle("254:0:rbps=10m,wiops=5").unwrap();
        assert_eq!((found.major, found.minor, found.rbps, found.wiops), (254, 0, Some(10 << 20), Some(5)));
        assert_eq!(found.wbps, None);
        for (wrong, why) in [
            ("254:0", "it is DEVICE:"),
            ("/dev/null:rbps=1", "no block device"),
            ("/dev/no-such:rbps=1", "no such device"),
            ("254:0:speed=1", "no limit speed"),
            ("254:0:rbps=0", "more than nothing"),
            ("a:b:rbps=1", "MAJOR:MINOR"),
        ] {
            assert!(throttle(wrong).unwrap_err().contains(why), "{wrong}");
        }
    }
}
