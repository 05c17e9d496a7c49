//! `system prune`.

use clap::Args;
use serde_json::Value;

use crate::client::{Query, empty};
use crate::commands::image::prune_images;
use crate::commands::network::prune_networks;
use crate::commands::shared::confirm;
use crate::commands::volume::{print_removed, prune_volumes};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::outln;

/// `system prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "label=<key>=<value>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
}

/// `hull system prune`.
pub async fn prune(args: PruneArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.volumes && args.filter.iter().any(|filter| filter.starts_with("until=")) {
        return Err(Error::new("the \"until\" filter is not supported with \"--volumes\""));
    }
    if !args.force && !confirm(&warning(&args))? {
        return Ok(ExitStatus::SUCCESS);
    }
    // In the order in which one frees the next: a container that is gone uses no network, volume or image.
    let mut reclaimed = prune_containers(context, &args.filter).await?;
    prune_networks(context, &args.filter).await?;
    if args.volumes {
        reclaimed += prune_volumes(context, false, &args.filter).await?;
    }
    reclaimed += prune_images(context, args.all, &args.filter).await?;
    reclaimed += prune_build_cache(context, args.all, &args.filter).await?;
    outln!("Total reclaimed space: {}", human::size_in_digits(reclaimed, 4))?;
    Ok(ExitStatus::SUCCESS)
}

fn warning(args: &PruneArgs) -> String {
    let mut lines = vec!["all stopped containers", "all networks not used by at least one container"];
    if args.volumes {
        lines.push("all anonymous volumes not used by at least one container");
    }
    if args.all {
        lines.extend(["all images without at least one container associated to them", "all build cache"]);
    } else {
        lines.extend(["all dangling images", "unused build cache"]);
    }
    let mut text = String::from("This will remove:\n");
    for line in lines {
        text.push_str(&format!("  - {line}\n"));
    }
    if !args.filter.is_empty() {
        text.push_str("\n  Items to be pruned will be filtered with:\n");
        let mut filters = args.filter.clone();
        filters.sort();
        for filter in filters {
            text.push_str(&format!("  - {filter}\n"));
        }
    }
    text
}

async fn prune_containers(context: &Context, filters: &[String]) -> Result<f64, Error> {
    let path = Query::new("/containers/prune").with_filters(filters)?;
    let answer: Value =
        context.client.request(hyper::Method::POST, &path, &[], empty()).await?.json().await?;
    print_removed("Deleted Containers:", &answer["ContainersDeleted"])?;
    Ok(answer["SpaceReclaimed"].as_f64().unwrap_or_default())
}

/// Removes the cache of builds, prints of what and returns the bytes freed.
pub async fn prune_build_cache(context: &Context, all: bool, filters: &[String]) -> Result<f64, Error> {
    // The cache's records have no labels; Docker leaves it alone when labels are asked for.
    if filters.iter().any(|filter| filter.starts_with("label")) {
        return Ok(0.0);
    }
    let path = Query::new("/build/prune").with_flag("all", all).with_filters(filters)?;
    match context.client.request(hyper::Method::POST, &path, &[], empty()).await {
        Ok(response) => {
            let answer: Value = response.json().await?;
            print_removed("Deleted build cache objects:", &answer["CachesDeleted"])?;
            Ok(answer["SpaceReclaimed"].as_f64().unwrap_or_default())
        }
        // A daemon without a builder has no cache of one.
        Err(error) if matches!(error.http_status(), Some(404 | 501)) => Ok(0.0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_names_all_that_goes() {
        let args = PruneArgs { all: true, filter: vec!["label=k".to_owned()], force: false, volumes: true };
        assert_eq!(
            warning(&args),
            "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n\
             \x20 - all anonymous volumes not used by at least one container\n\
             \x20 - all images without at least one container associated to them\n  - all build cache\n\n\
             \x20 Items to be pruned will be filtered with:\n  - label=k\n"
        );
    }
}
