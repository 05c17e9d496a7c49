//! `hull plugin …`: which a daemon has. hull's has none, and takes none.

use clap::Args;
use serde_json::{Value, json};

use super::shared::print_list;
use super::unsupported::{Anything, refuse};
use super::{Entry, Management};
use crate::client::Query;
use crate::context::Context;
use crate::error::{Error, ExitStatus};

const ENTRIES: &[Entry] = &[
    entry!("create", [], Hidden, "Create a plugin", "[ARG...]", Anything, refuse),
    entry!("disable", [], Hidden, "Disable a plugin", "[ARG...]", Anything, refuse),
    entry!("enable", [], Hidden, "Enable a plugin", "[ARG...]", Anything, refuse),
    entry!("inspect", [], Hidden, "Display a plugin", "[ARG...]", Anything, refuse),
    entry!("install", [], Hidden, "Install a plugin", "[ARG...]", Anything, refuse),
    entry!("ls", ["list"], Commands, "List plugins", "[OPTIONS]", ListArgs, list),
    entry!("push", [], Hidden, "Push a plugin", "[ARG...]", Anything, refuse),
    entry!("rm", ["remove"], Hidden, "Remove plugins", "[ARG...]", Anything, refuse),
    entry!("set", [], Hidden, "Change a plugin's settings", "[ARG...]", Anything, refuse),
    entry!("upgrade", [], Hidden, "Upgrade a plugin", "[ARG...]", Anything, refuse),
];

/// `hull plugin`.
pub const MANAGEMENT: Management = Management { name: "plugin", about: "Manage plugins", entries: ENTRIES };

/// `plugin ls`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Provide filter values (e.g. "enabled=true")
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display plugin IDs
    #[arg(short, long)]
    quiet: bool,
}

/// The titles of a plugin's columns.
const HEADERS: &[(&str, &str)] =
    &[("ID", "ID"), ("Name", "NAME"), ("Description", "DESCRIPTION"), ("Enabled", "ENABLED")];

async fn list(args: ListArgs, context: &Context) -> Result<ExitStatus, Error> {
    let path = Query::new("/plugins").with_filters(&args.filter)?;
    let plugins: Value = context.client.get_json(&path).await?;
    let row = |plugin: &Value| {
        let id = plugin["Id"].as_str().unwrap_or_default();
        let short = id.get(..12).filter(|_| !args.no_trunc).unwrap_or(id);
        json!({
            "ID": short,
            "Name": plugin["Name"],
            "Description": plugin["Config"]["Description"],
            "Enabled": plugin["Enabled"],
        })
    };
    let rows: Vec<Value> = plugins.as_array().into_iter().flatten().map(row).collect();
    let table = if args.quiet { "{{.ID}}" } else { "{{.ID}}\t{{.Name}}\t{{.Description}}\t{{.Enabled}}" };
    let spec = match args.format.as_deref().filter(|spec| !spec.is_empty()) {
        None | Some("table") if args.quiet => Some(table),
        spec => spec,
    };
    print_list(spec, table, HEADERS, &rows)?;
    Ok(ExitStatus::SUCCESS)
}
