//! `update` and `container prune`.

use clap::Args;
use serde_json::{Value, json};

use super::options::{self, parsed, units};
use crate::client::{Query, segment};
use crate::commands::shared::confirm;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::{errln, outln};

/// `update`.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, value_name = "uint16")]
    blkio_weight: Option<String>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int")]
    cpu_period: Option<String>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int")]
    cpu_quota: Option<String>,
    /// Limit the CPU real-time period in microseconds
    #[arg(long, value_name = "int")]
    cpu_rt_period: Option<String>,
    /// Limit the CPU real-time runtime in microseconds
    #[arg(long, value_name = "int")]
    cpu_rt_runtime: Option<String>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "int")]
    cpu_shares: Option<String>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal")]
    cpus: Option<String>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "bytes")]
    memory: Option<String>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes")]
    memory_reservation: Option<String>,
    /// Limit of memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes")]
    memory_swap: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int")]
    pids_limit: Option<String>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string")]
    restart: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// `hull update`.
pub async fn update(args: UpdateArgs, context: &Context) -> Result<ExitStatus, Error> {
    let body = body(&args)?;
    if body.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(Error::new("you must provide one or more flags when using this command"));
    }
    let mut status = ExitStatus::SUCCESS;
    for name in &args.containers {
        let path = format!("/containers/{}/update", segment(name));
        let answer: Result<Value, Error> = context.client.post_json(&path, &body).await;
        match answer {
            Ok(answer) => {
                outln!("{name}")?;
                for warning in answer["Warnings"].as_array().into_iter().flatten() {
                    errln!("{}", warning.as_str().unwrap_or_default());
                }
            }
            Err(error) => {
                errln!("{error}");
                status = ExitStatus::FAILURE;
            }
        }
    }
    Ok(status)
}

fn body(args: &UpdateArgs) -> Result<Value, Error> {
    let mut body = options::Object::default();
    let int = |flag: &str, value: &Option<String>| parsed(flag, value.as_deref(), units::int);
    body.some("BlkioWeight", parsed("--blkio-weight", args.blkio_weight.as_deref(), units::weight)?);
    body.some("CpuPeriod", int("--cpu-period", &args.cpu_period)?);
    body.some("CpuQuota", int("--cpu-quota", &args.cpu_quota)?);
    body.some("CpuRealtimePeriod", int("--cpu-rt-period", &args.cpu_rt_period)?);
    body.some("CpuRealtimeRuntime", int("--cpu-rt-runtime", &args.cpu_rt_runtime)?);
    body.some("CpuShares", int("-c, --cpu-shares", &args.cpu_shares)?);
    body.some("NanoCpus", parsed("--cpus", args.cpus.as_deref(), units::cpus)?);
    body.some("CpusetCpus", args.cpuset_cpus.clone());
    body.some("CpusetMems", args.cpuset_mems.clone());
    body.some("Memory", parsed("-m, --memory", args.memory.as_deref(), units::bytes)?);
    let reservation = args.memory_reservation.as_deref();
    body.some("MemoryReservation", parsed("--memory-reservation", reservation, units::bytes)?);
    let swap = args.memory_swap.as_deref();
    body.some("MemorySwap", parsed("--memory-swap", swap, units::bytes_or_unlimited)?);
    body.some("PidsLimit", int("--pids-limit", &args.pids_limit)?);
    if let Some(policy) = &args.restart {
        body.set("RestartPolicy", options::restart_policy(policy).map_err(Error::usage)?);
    }
    Ok(body.into_value())
}

/// `container prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// `hull container prune`.
pub async fn prune(args: PruneArgs, context: &Context) -> Result<ExitStatus, Error> {
    if !args.force && !confirm("This will remove all stopped containers.")? {
        return Ok(ExitStatus::SUCCESS);
    }
    let path = Query::new("/containers/prune").with_filters(&args.filter)?;
    let report: Value = context.client.post_json(&path, &json!({})).await?;
    let deleted = report["ContainersDeleted"].as_array().filter(|list| !list.is_empty());
    if let Some(deleted) = deleted {
        outln!("Deleted Containers:")?;
        for id in deleted {
            outln!("{}", id.as_str().unwrap_or_default())?;
        }
        outln!()?;
    }
    outln!("Total reclaimed space: {}", human::size(report["SpaceReclaimed"].as_f64().unwrap_or(0.0)))?;
    Ok(ExitStatus::SUCCESS)
}
