//! `hull builder …`: what builds have made, and making more of it.

use clap::Args;
use serde_json::{Value, json};

use super::build::{BuildArgs, build, logs};
use super::shared::{confirm, print_list};
use super::system::prune_build_cache;
use super::{Entry, Management};
use crate::client::Query;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::outln;

const ENTRIES: &[Entry] = &[
    entry!(
        "build",
        [],
        Commands,
        "Build an image from a Dockerfile",
        "[OPTIONS] PATH | URL | -",
        BuildArgs,
        build
    ),
    entry!("df", ["du"], Commands, "Show what builds take up", "[OPTIONS]", DfArgs, df),
    entry!(
        "logs",
        [],
        Commands,
        "List the builds whose logs are kept, or show the log of one",
        "[OPTIONS] [BUILD]",
        LogsArgs,
        show_logs
    ),
    entry!("prune", [], Commands, "Remove build cache", "[OPTIONS]", PruneArgs, prune),
];

/// `hull builder`.
pub const MANAGEMENT: Management = Management { name: "builder", about: "Manage builds", entries: ENTRIES };

/// `builder df`.
#[derive(Args, Debug)]
pub struct DfArgs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show ids in full, and what each was made by
    #[arg(short, long)]
    verbose: bool,
}

async fn df(args: DfArgs, context: &Context) -> Result<ExitStatus, Error> {
    let path = Query::new("/system/df").with("type", "build-cache").with("verbose", "1");
    let answer: Value = context.client.get_json(&path).await?;
    let records = [&answer["BuildCacheUsage"]["Items"], &answer["BuildCache"]];
    let records: Vec<Value> = records.into_iter().find_map(Value::as_array).cloned().unwrap_or_default();
    let rows: Vec<Value> = records.iter().map(|record| row(record, args.verbose)).collect();
    let table = match args.verbose {
        false => "{{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{.LastAccessed}}",
        true => {
            "{{.ID}}\t{{.Reclaimable}}\t{{.Shared}}\t{{.Size}}\t{{.LastAccessed}}\t{{.UsageCount}}\t{{.Type}}\t{{.Description}}"
        }
    };
    let headers = [
        ("ID", "ID"),
        ("Reclaimable", "RECLAIMABLE"),
        ("Shared", "SHARED"),
        ("Size", "SIZE"),
        ("LastAccessed", "LAST ACCESSED"),
        ("UsageCount", "USAGE"),
        ("Type", "TYPE"),
        ("Description", "DESCRIPTION"),
    ];
    print_list(args.format.as_deref(), table, &headers, &rows)?;
    if args.format.is_none() {
        let sum = |wanted: &dyn Fn(&Value) -> bool| -> String {
            let sizes = records.iter().filter(|record| wanted(record));
            human::size_in_digits(sizes.filter_map(|record| record["Size"].as_f64()).sum(), 4)
        };
        let shared = |record: &Value| record["Shared"] == true;
        outln!("\nShared:\t\t{}", sum(&shared))?;
        outln!("Private:\t{}", sum(&|record| !shared(record)))?;
        outln!("Reclaimable:\t{}", sum(&|record| !shared(record) && record["InUse"] != true))?;
        outln!("Total:\t\t{}", sum(&|_| true))?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// A record of the cache, as a list shows it.
fn row(record: &Value, whole: bool) -> Value {
    let id = record["ID"].as_str().unwrap_or_default();
    let used = record["LastUsedAt"].as_str().and_then(human::parse_time);
    json!({
        "ID": if whole { id } else { human::short_id(id) },
        "Reclaimable": (record["InUse"] != true && record["Shared"] != true).to_string(),
        "Shared": (record["Shared"] == true).to_string(),
        "Size": human::size(record["Size"].as_f64().unwrap_or_default()),
        "LastAccessed": used.map_or_else(String::new, |used| human::duration_ago(used, human::now())),
        "UsageCount": record["UsageCount"].as_u64().unwrap_or_default().to_string(),
        "Type": record["Type"],
        // A script of many lines is one here.
        "Description": record["Description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// `builder logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// The build, by the beginning of its id
    #[arg(value_name = "BUILD")]
    build: Option<String>,
}

async fn show_logs(args: LogsArgs, context: &Context) -> Result<ExitStatus, Error> {
    match args.build {
        Some(id) => logs::show(context, &id).await,
        None => logs::list(context, args.format.as_deref()).await,
    }
}

/// `builder prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Remove all unused build cache, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "until=24h")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

async fn prune(args: PruneArgs, context: &Context) -> Result<ExitStatus, Error> {
    let which = if args.all { "build cache" } else { "dangling build cache" };
    if !args.force && !confirm(&format!("This will remove all {which}."))? {
        return Ok(ExitStatus::SUCCESS);
    }
    let reclaimed = prune_build_cache(context, args.all, &args.filter).await?;
    outln!("Total reclaimed space: {}", human::size_in_digits(reclaimed, 4))?;
    Ok(ExitStatus::SUCCESS)
}
