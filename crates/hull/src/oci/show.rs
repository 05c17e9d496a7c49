//! What is printed: state, list, ps, events, spec.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use hull_runtime::error::Context;
use hull_runtime::oci::{self, Container, Listed, Runtime};
use hull_runtime::{Error, Result};
use serde_json::{Value, json};

use super::log::{Log, refused};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

fn format(text: &str) -> std::result::Result<Format, String> {
    match text {
        "table" => Ok(Format::Table),
        "json" => Ok(Format::Json),
        _ => Err("invalid format option: it is table or json".to_owned()),
    }
}

#[derive(Args, Debug)]
pub(super) struct ListArguments {
    /// table or json
    #[arg(short, long, default_value = "table", value_parser = format)]
    format: Format,
    /// Ids alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Args, Debug)]
pub(super) struct PsArguments {
    /// table or json
    #[arg(short, long, default_value = "table", value_parser = format)]
    format: Format,
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,
    /// Options for ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ps option")]
    options: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct EventsArguments {
    /// How often figures are printed: 5s, 500ms
    #[arg(long, default_value = "5s", value_parser = interval)]
    interval: Duration,
    /// Print the figures once
    #[arg(long)]
    stats: bool,
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,
}

#[derive(Args, Debug)]
pub(super) struct SpecArguments {
    /// The folder that gets config.json
    #[arg(short, long, value_name = "folder", default_value = ".")]
    bundle: PathBuf,
    /// One that a user without privileges can run
    #[arg(long)]
    rootless: bool,
}

fn interval(text: &str) -> std::result::Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| format!("{text:?} is no duration"))?;
    let seconds = match &text[end..] {
        "ms" => number / 1000.0,
        "s" | "" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        unit => return Err(format!("unit {unit:?} is none of ms, s, m, h")),
    };
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("duration interval must be greater than 0".to_owned()) } else { Ok(duration) }
}

pub(super) fn print(value: &Value) -> Result<()> {
    put(&serde_json::to_string_pretty(value).unwrap_or_default())
}

fn put(text: &str) -> Result<()> {
    let written = writeln!(std::io::stdout(), "{text}");
    written.context(|| "print".into())
}

pub(super) fn state(container: &Container) -> Result<()> {
    print(&container.state()?)
}

pub(super) fn list(arguments: &ListArguments, runtime: &Runtime, log: &Log) -> Result<()> {
    let Listed { containers, unreadable } = runtime.containers()?;
    unreadable.iter().for_each(|error| log.warn(&error.to_string()));
    if arguments.quiet {
        return containers.iter().try_for_each(|container| put(container.id()));
    }
    let mut states = containers.iter().map(Container::state).collect::<Result<Vec<_>>>()?;
    for state in states.iter_mut().filter(|state| state["owner"] == "") {
        // A state leaves root's name out, a list does not.
        state["owner"] = Value::from("root");
    }
    if arguments.format == Format::Json {
        // In Go's words a list of nothing is none.
        return put(&if states.is_empty() { Value::Null } else { Value::from(states) }.to_string());
    }
    let text = |state: &Value, key: &str| match &state[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = states
        .iter()
        .map(|state| ["id", "pid", "status", "bundle", "created", "owner"].map(|key| text(state, key)));
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(9) + 3;
            line.push_str(&if column + 1 < row.len() { format!("{cell:width$}") } else { cell.clone() });
        }
        put(&line)?;
    }
    Ok(())
}

/// The processes as the host's `ps` prints them, those of the container alone.
pub(super) fn ps(arguments: &PsArguments, runtime: &Runtime) -> Result<()> {
    let pids = runtime.container(&arguments.id)?.processes()?;
    if arguments.format == Format::Json {
        return put(&json!(pids).to_string());
    }
    let options =
        if arguments.options.is_empty() { vec!["-ef".to_owned()] } else { arguments.options.clone() };
    let doing = || format!("list processes with ps {}", options.join(" "));
    let output = Command::new("ps").args(&options).output().context(doing)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(refused(doing(), said.trim().replace('\n', "; ")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|title| title == "PID");
    let Some(column) = column else {
        return Err(refused(doing(), "couldn't find PID field in ps output"));
    };
    put(head)?;
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            put(line)?;
        }
    }
    Ok(())
}

pub(super) fn events(arguments: &EventsArguments, runtime: &Runtime) -> Result<()> {
    let container = runtime.container(&arguments.id)?;
    if arguments.stats {
        return put(&container.stats()?.to_string());
    }
    container.follow_events(arguments.interval, |event| put(&event.to_string()))
}

pub(super) fn spec(arguments: &SpecArguments) -> Result<()> {
    let path = arguments.bundle.join("config.json");
    let doing = || format!("write {}", path.display());
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let text = serde_json::to_string_pretty(&oci::default_spec(arguments.rootless.then_some(own)))
        .map_err(|error| Error::refused(doing(), error.to_string()))?;
    match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(refused(doing(), "it exists already; remove it first"))
        }
        file => file.and_then(|mut file| file.write_all(text.as_bytes())).context(doing),
    }
}
