//! `hull explain`: what a container is made of, as a page, as JSON, or as a script that makes the like by hand.

mod page;
mod quote;
mod shell;

pub(super) use quote::plain;

use clap::Args;
use serde_json::Value;

use super::Entry;
use super::shared::inspect::pretty;
use crate::client::segment;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::{out, outln};

/// The commands at the root.
pub const ROOT: &[Entry] = &[entry!(
    "explain",
    [],
    Commands,
    "Show what a container is made of: namespaces, cgroup, mounts, network, capabilities",
    "[OPTIONS] CONTAINER",
    ExplainArgs,
    run
)];

/// `explain`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull explain web
  hull explain web --json | jq .namespaces.net
  hull explain web --shell > by-hand.sh   # read it, then run it: bash by-hand.sh")]
pub struct ExplainArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print a script of unshare, mount, ip, nft and cgroup writes which makes the like by hand
    #[arg(long, conflicts_with = "json")]
    shell: bool,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

async fn run(args: ExplainArgs, context: &Context) -> Result<ExitStatus, Error> {
    let path = format!("/containers/{}/explain", segment(&args.container));
    let explanation: Value = context.client.get_json(&path).await?;
    if args.json {
        outln!("{}", pretty(&explanation)?)?;
    } else if args.shell {
        out!("{}", shell::script(&explanation).map_err(Error::new)?)?;
    } else {
        out!("{}", page::page(&explanation)?)?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// The texts in a list.
fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A text; empty where there is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
