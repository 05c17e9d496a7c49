//! `image rm` and `image prune`.

use clap::Args;
use serde_json::Value;

use crate::client::{Query, segment};
use crate::commands::shared::{self, confirm, platform_json, require_version};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::{errln, outln};

/// `image rm`.
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    /// Remove only the given platform variant
    #[arg(long, value_name = "os[/arch[/variant]]")]
    platform: Vec<String>,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// `hull image rm`.
pub async fn remove(args: RemoveArgs, context: &Context) -> Result<ExitStatus, Error> {
    if !args.platform.is_empty() {
        require_version(context, "--platform", (1, 50)).await?;
    }
    shared::remove::each(&args.images, async |image| {
        let mut path = Query::new(format!("/images/{}", segment(image)))
            .with_flag("force", args.force)
            .with_flag("noprune", args.no_prune);
        for platform in &args.platform {
            path = path.with("platforms", platform_json(platform)?);
        }
        let removed: Vec<Value> = match context.client.delete(&path).await {
            // With -f, an image that is gone is what was wanted.
            Err(error) if args.force && error.http_status() == Some(404) => {
                errln!("{error}");
                return Ok(());
            }
            answer => answer?.json().await?,
        };
        removed.iter().try_for_each(|item| match item["Deleted"].as_str() {
            Some(deleted) => outln!("Deleted: {deleted}"),
            None => outln!("Untagged: {}", item["Untagged"].as_str().unwrap_or_default()),
        })
    })
    .await
}

/// `image prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// `hull image prune`.
pub async fn prune(args: PruneArgs, context: &Context) -> Result<ExitStatus, Error> {
    let warning = if args.all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    if !args.force && !confirm(warning)? {
        return Ok(ExitStatus::SUCCESS);
    }
    let reclaimed = prune_images(context, args.all, &args.filter).await?;
    outln!("Total reclaimed space: {}", human::size_in_digits(reclaimed, 4))?;
    Ok(ExitStatus::SUCCESS)
}

/// Removes unused images, prints what was removed and returns the bytes that are free now.
pub async fn prune_images(context: &Context, all: bool, filters: &[String]) -> Result<f64, Error> {
    let mut filters = filters.to_vec();
    filters.push(format!("dangling={}", !all));
    let path = Query::new("/images/prune").with_filters(&filters)?;
    let answer: Value =
        context.client.request(hyper::Method::POST, &path, &[], crate::client::empty()).await?.json().await?;
    let removed = answer["ImagesDeleted"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !removed.is_empty() {
        outln!("Deleted Images:")?;
        for item in removed {
            match item["Deleted"].as_str() {
                Some(deleted) => outln!("deleted: {deleted}")?,
                None => outln!("untagged: {}", item["Untagged"].as_str().unwrap_or_default())?,
            }
        }
        outln!()?;
    }
    Ok(answer["SpaceReclaimed"].as_f64().unwrap_or_default())
}
