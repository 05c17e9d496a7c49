//! `stats`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::{Value, json};

use crate::client::{Query, segment};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::{self, human};
use crate::out;

/// `stats`.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const HEADERS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

const TABLE: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

/// How often the table is drawn: twice as often as the daemon takes its figures.
const REDRAW: Duration = Duration::from_millis(500);

/// One container's line.
struct Line {
    container: String,
    row: Option<Value>,
}

/// `hull stats`.
pub async fn stats(args: StatsArgs, context: &Context) -> Result<ExitStatus, Error> {
    let configured =
        || context.config_value("statsFormat").and_then(|format| format.as_str().map(str::to_owned));
    let spec = args.format.clone().or_else(configured);
    let follow_events = args.containers.is_empty();
    // Asked for before the list, so that a container that starts between the two is not missed.
    let mut events = match follow_events && !args.no_stream {
        true => Some(container_events(context).await?),
        false => None,
    };
    let names = if follow_events { running(context, args.all).await? } else { args.containers.clone() };
    let lines = RefCell::new(Vec::new());
    let failure = RefCell::new(None);
    let mut following = FuturesUnordered::new();
    for name in names {
        lines.borrow_mut().push(Line { container: name.clone(), row: None });
        following.push(follow(context, name, &args, &lines, &failure));
    }
    if args.no_stream {
        while following.next().await.is_some() {}
        if !follow_events && failure.borrow().is_some() {
            return finish(failure.take(), false);
        }
        let text = table(&lines.borrow(), spec.as_deref())?;
        out!("{text}")?;
        return finish(failure.take(), follow_events);
    }
    let mut ticks = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let text = table(&lines.borrow(), spec.as_deref())?;
                draw(&text)?;
            }
            Some(()) = following.next(), if !following.is_empty() => {
                // The first of the containers that were named and is not there ends it.
                if !follow_events && failure.borrow().is_some() {
                    return finish(failure.take(), false);
                }
                if following.is_empty() && !follow_events {
                    return Ok(ExitStatus::SUCCESS);
                }
            }
            event = next_event(&mut events) => match event? {
                Some((action, id)) if action == "start" || (args.all && action == "create") => {
                    let known = lines.borrow().iter().any(|line| line.container == id);
                    if !known {
                        lines.borrow_mut().push(Line { container: id.clone(), row: None });
                        following.push(follow(context, id, &args, &lines, &failure));
                    }
                }
                Some((action, id)) if action == "destroy" || (!args.all && action == "die") => {
                    lines.borrow_mut().retain(|line| line.container != id);
                }
                Some(_) => {}
                None => return Err(Error::connection("the daemon ended the stream of its events")),
            }
        }
    }
}

fn finish(failure: Option<Error>, follow_events: bool) -> Result<ExitStatus, Error> {
    match failure {
        // Where none was named, one that went away meanwhile is no failure.
        Some(error) if !follow_events => Err(error),
        _ => Ok(ExitStatus::SUCCESS),
    }
}

async fn running(context: &Context, all: bool) -> Result<Vec<String>, Error> {
    let path = Query::new("/containers/json").with_flag("all", all);
    let containers: Vec<Value> = context.client.get_json(&path).await?;
    Ok(containers.iter().filter_map(|c| c["Id"].as_str()).map(str::to_owned).collect())
}

async fn container_events(context: &Context) -> Result<crate::client::JsonStream, Error> {
    let path = Query::new("/events").with_filters(&["type=container".to_owned()])?;
    Ok(context.client.stream(&path).await?.json_stream())
}

async fn next_event(
    events: &mut Option<crate::client::JsonStream>,
) -> Result<Option<(String, String)>, Error> {
    let Some(events) = events else { return std::future::pending().await };
    let Some(event) = events.next().await? else { return Ok(None) };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Some((text(&event["Action"]), text(&event["Actor"]["ID"]))))
}

/// Takes one container's figures as they come, until its stream ends.
async fn follow(
    context: &Context,
    name: String,
    args: &StatsArgs,
    lines: &RefCell<Vec<Line>>,
    failure: &RefCell<Option<Error>>,
) {
    let path = Query::new(format!("/containers/{}/stats", segment(&name)))
        .with("stream", if args.no_stream { "0" } else { "1" });
    let result = async {
        let mut figures = context.client.stream(&path).await?.json_stream();
        while let Some(sample) = figures.next().await? {
            let row = row(&name, &sample, args.no_trunc);
            if let Some(line) = lines.borrow_mut().iter_mut().find(|line| line.container == name) {
                line.row = Some(row);
            }
        }
        Ok::<(), Error>(())
    };
    if let Err(error) = result.await {
        lines.borrow_mut().retain(|line| line.container != name);
        failure.borrow_mut().get_or_insert(error);
    }
}

fn table(lines: &[Line], spec: Option<&str>) -> Result<String, Error> {
    let mut seen = HashSet::new();
    let rows: Vec<Value> = lines
        .iter()
        .filter(|line| seen.insert(line.container.as_str()))
        .map(|line| line.row.clone().unwrap_or_else(|| empty_row(&line.container)))
        .collect();
    format::list_text(spec, TABLE, HEADERS, &rows).map_err(Error::new)
}

/// Draws over what was drawn before, on a terminal; elsewhere one table after another.
fn draw(text: &str) -> Result<(), Error> {
    if !std::io::stdout().is_terminal() {
        return out!("{text}");
    }
    // Home; each line cleared to its end; what is below cleared. No blank moment in between.
    out!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

fn empty_row(container: &str) -> Value {
    json!({"Container": container, "ID": human::short_id(container), "Name": "--", "CPUPerc": "--", "MemUsage": "-- / --",
           "MemPerc": "--", "NetIO": "--", "BlockIO": "--", "PIDs": "--"})
}

/// One sample as a row. The figures are computed as Docker's client does.
fn row(container: &str, sample: &Value, whole: bool) -> Value {
    let id = sample["id"].as_str().unwrap_or(container);
    let name = sample["name"].as_str().unwrap_or_default();
    let used = memory_without_cache(&sample["memory_stats"]);
    let limit = sample["memory_stats"]["limit"].as_f64().unwrap_or(0.0);
    let memory = if limit > 0.0 { used / limit * 100.0 } else { 0.0 };
    let (received, sent) = network(&sample["networks"]);
    let (read, written) = block_io(&sample["blkio_stats"]);
    json!({
        "Container": if whole { container } else { human::short_id(container) },
        "ID": if whole { id } else { human::short_id(id) },
        "Name": name.strip_prefix('/').unwrap_or(name),
        "CPUPerc": format!("{:.2}%", cpu_percent(sample)),
        "MemUsage": format!("{} / {}", human::size_binary(used), human::size_binary(limit)),
        "MemPerc": format!("{memory:.2}%"),
        "NetIO": format!("{} / {}", human::size(received), human::size(sent)),
        "BlockIO": format!("{} / {}", human::size(read), human::size(written)),
        "PIDs": sample["pids_stats"]["current"].as_u64().unwrap_or(0).to_string(),
    })
}

/// The container's share of one processor between the two samples: 200% are two processors in full.
fn cpu_percent(sample: &Value) -> f64 {
    let figure = |of: &str, pointer: &str| sample[of].pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
    let delta = |pointer: &str| figure("cpu_stats", pointer) - figure("precpu_stats", pointer);
    let (own, all) = (delta("/cpu_usage/total_usage"), delta("/system_cpu_usage"));
    let mut online = figure("cpu_stats", "/online_cpus");
    if online == 0.0 {
        let each = sample["cpu_stats"]["cpu_usage"]["percpu_usage"].as_array();
        online = each.map_or(0, Vec::len) as f64;
    }
    if own > 0.0 && all > 0.0 { own / all * online * 100.0 } else { 0.0 }
}

/// Used memory less the page cache that can be given back at once.
fn memory_without_cache(memory: &Value) -> f64 {
    let usage = memory["usage"].as_f64().unwrap_or(0.0);
    // cgroup v1's name for it, then v2's.
    for name in ["total_inactive_file", "inactive_file"] {
        if let Some(cache) = memory["stats"][name].as_f64() {
            return if cache < usage { usage - cache } else { usage };
        }
    }
    usage
}

fn network(networks: &Value) -> (f64, f64) {
    let sum = |name: &str| {
        let interfaces = networks.as_object().into_iter().flatten();
        interfaces.map(|(_, interface)| interface[name].as_f64().unwrap_or(0.0)).sum()
    };
    (sum("rx_bytes"), sum("tx_bytes"))
}

fn block_io(blkio: &Value) -> (f64, f64) {
    let sum = |letter: &str| {
        let entries = blkio["io_service_bytes_recursive"].as_array().into_iter().flatten();
        entries
            .filter(|entry| entry["op"].as_str().is_some_and(|op| op.to_lowercase().starts_with(letter)))
            .map(|entry| entry["value"].as_f64().unwrap_or(0.0))
            .sum()
    };
    (sum("r"), sum("w"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let sample = json!({
            "id": "0123456789abcdef", "name": "/box",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3 << 20, "limit": 8 << 20, "stats": {"inactive_file": 1 << 20}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 1}, "eth1": {"rx_bytes": 500, "tx_bytes": 1}},
            "blkio_stats": {"io_service_bytes_recursive": [
                {"op": "Read", "value": 5}, {"op": "write", "value": 7}, {"op": "Total", "value": 12}]},
            "pids_stats": {"current": 3}});
        let row = row("box", &sample, false);
        for (field, wanted) in [
            ("ID", "0123456789ab"),
            ("Name", "box"),
            ("CPUPerc", "40.00%"),
            ("MemUsage", "2MiB / 8MiB"),
            ("MemPerc", "25.00%"),
            ("NetIO", "1.5kB / 2B"),
            ("BlockIO", "5B / 7B"),
            ("PIDs", "3"),
        ] {
            assert_eq!(row[field], wanted, "{field}");
        }
    }

    #[test]
    fn an_idle_or_stopped_container_has_no_share() {
        assert_eq!(cpu_percent(&json!({})), 0.0);
        assert_eq!(memory_without_cache(&json!({"usage": 5, "stats": {"total_inactive_file": 9}})), 5.0);
    }
}
