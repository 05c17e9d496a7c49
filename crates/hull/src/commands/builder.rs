//! `hull builder …`: what builds have made, and making more of it.

use clap::Args;

use super::build::{BuildArgs, build};
use super::shared::confirm;
use super::system::prune_build_cache;
use super::{Entry, Management};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::outln;

const ENTRIES: &[Entry] = &[
    entry!("build", [], Commands, "Build an image from a Dockerfile", "[OPTIONS] PATH | -", BuildArgs, build),
    entry!("prune", [], Commands, "Remove build cache", "[OPTIONS]", PruneArgs, prune),
];

/// `hull builder`.
pub const MANAGEMENT: Management = Management { name: "builder", about: "Manage builds", entries: ENTRIES };

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
