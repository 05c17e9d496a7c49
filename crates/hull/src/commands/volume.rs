//! Volumes: `hull volume …`.

mod files;

use clap::Args;
use serde_json::{Value, json};

use super::shared::{self, confirm, labels_text, natural_order, pairs, print_list};
use super::{Entry, Management};
use crate::client::{Query, empty, segment};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::outln;

const ENTRIES: &[Entry] = &[
    entry!(
        "clone",
        [],
        Commands,
        "Make a volume with the files of another",
        "[OPTIONS] VOLUME [NEW_VOLUME]",
        files::CloneArgs,
        files::clone
    ),
    entry!("create", [], Commands, "Create a volume", "[OPTIONS] [VOLUME]", CreateArgs, create),
    entry!(
        "export",
        [],
        Commands,
        "Write a volume's files as a tar archive (to STDOUT by default)",
        "[OPTIONS] VOLUME",
        files::ExportArgs,
        files::export
    ),
    entry!(
        "import",
        [],
        Commands,
        "Unpack a tar archive into a volume, which is made if it is not there",
        "[OPTIONS] VOLUME [file|-]",
        files::ImportArgs,
        files::import
    ),
    entry!(
        "inspect",
        [],
        Commands,
        "Display detailed information on one or more volumes",
        "[OPTIONS] VOLUME [VOLUME...]",
        InspectArgs,
        inspect
    ),
    entry!("ls", ["list"], Commands, "List volumes", "[OPTIONS]", ListArgs, list),
    entry!("prune", [], Commands, "Remove unused local volumes", "[OPTIONS]", PruneArgs, prune),
    entry!(
        "rm",
        ["remove"],
        Commands,
        "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
        "[OPTIONS] VOLUME [VOLUME...]",
        RemoveArgs,
        remove
    ),
    entry!(
        "snapshot",
        [],
        Commands,
        "Make a read-only volume of what is in a volume now",
        "[OPTIONS] VOLUME [SNAPSHOT]",
        files::SnapshotArgs,
        files::snapshot
    ),
];

/// `hull volume`.
pub const MANAGEMENT: Management = Management { name: "volume", about: "Manage volumes", entries: ENTRIES };

/// `volume create`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull volume create data
  hull volume create -o type=tmpfs -o device=tmpfs -o o=size=100m scratch")]
pub struct CreateArgs {
    /// Specify volume driver name
    #[arg(short, long, value_name = "string", default_value = "local")]
    driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Specify volume name (as an argument is the newer way)
    #[arg(long, value_name = "string", hide = true)]
    name: Option<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map")]
    opt: Vec<String>,
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
}

async fn create(args: CreateArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.name.is_some() && args.volume.is_some() {
        return Err(Error::new(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
        ));
    }
    let body = json!({
        "Name": args.volume.or(args.name).unwrap_or_default(),
        "Driver": args.driver,
        "DriverOpts": pairs(&args.opt),
        "Labels": pairs(&args.label),
    });
    let volume: Value = context.client.post_json("/volumes/create", &body).await?;
    outln!("{}", volume["Name"].as_str().unwrap_or_default())?;
    Ok(ExitStatus::SUCCESS)
}

/// `volume ls`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Provide filter values (e.g. "dangling=true")
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    quiet: bool,
}

/// The titles of a volume's columns.
pub const HEADERS: &[(&str, &str)] = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Group", "GROUP"),
    ("Availability", "AVAILABILITY"),
    ("Status", "STATUS"),
];

/// A row for each volume, by name.
pub fn rows(volumes: &[Value]) -> Vec<Value> {
    let mut volumes: Vec<&Value> = volumes.iter().collect();
    let name = |volume: &Value| volume["Name"].as_str().unwrap_or_default().to_owned();
    volumes.sort_by(|a, b| natural_order(&name(a), &name(b)));
    let row = |volume: &&Value| {
        let usage = |field: &str| volume["UsageData"][field].as_f64().filter(|n| *n >= 0.0);
        json!({
            "Name": volume["Name"],
            "Driver": volume["Driver"],
            "Scope": volume["Scope"],
            "Mountpoint": volume["Mountpoint"],
            "Labels": labels_text(&volume["Labels"]),
            "Label": volume["Labels"],
            "Links": usage("RefCount").map_or("N/A".to_owned(), |n| n.to_string()),
            "Size": usage("Size").map_or("N/A".to_owned(), |n| human::size_in_digits(n, 4)),
            // Clusters have these; here they are shown for templates that ask.
            "Group": "N/A",
            "Availability": "N/A",
            "Status": "N/A",
        })
    };
    volumes.iter().map(row).collect()
}

async fn list(args: ListArgs, context: &Context) -> Result<ExitStatus, Error> {
    let path = Query::new("/volumes").with_filters(&args.filter)?;
    let answer: Value = context.client.get_json(&path).await?;
    let rows = rows(answer["Volumes"].as_array().map(Vec::as_slice).unwrap_or_default());
    let table = if args.quiet { "{{.Name}}" } else { "{{.Driver}}\t{{.Name}}" };
    let spec = match args.format.as_deref().filter(|spec| !spec.is_empty()) {
        None | Some("table") if args.quiet => Some(table),
        spec => spec,
    };
    print_list(spec, table, HEADERS, &rows)?;
    Ok(ExitStatus::SUCCESS)
}

/// `volume inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json', or 'TEMPLATE'
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

async fn inspect(args: InspectArgs, context: &Context) -> Result<ExitStatus, Error> {
    shared::inspect::each(&args.volumes, args.format.as_deref(), |name| async move {
        context.client.get_json(&format!("/volumes/{}", segment(&name))).await
    })
    .await
}

/// `volume rm`.
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Force the removal of one or more volumes
    #[arg(short, long)]
    force: bool,
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

async fn remove(args: RemoveArgs, context: &Context) -> Result<ExitStatus, Error> {
    shared::remove::each(&args.volumes, async |volume| {
        let path = Query::new(format!("/volumes/{}", segment(volume))).with_flag("force", args.force);
        context.client.delete(&path).await?.bytes().await?;
        outln!("{volume}")
    })
    .await
}

/// `volume prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "label=<label>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

async fn prune(args: PruneArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.all {
        shared::require_version(context, "--all", (1, 42)).await?;
    }
    if args.all && args.filter.iter().any(|filter| filter.starts_with("all=")) {
        return Err(Error::new("conflicting options: cannot specify both --all and --filter all=1"));
    }
    // Before 1.42, a daemon knew no difference between volumes with and without a name.
    let every = args.all || context.client.version().await? < (1, 42);
    let warning = if every {
        "This will remove all local volumes not used by at least one container."
    } else {
        "This will remove anonymous local volumes not used by at least one container."
    };
    if !args.force && !confirm(warning)? {
        return Ok(ExitStatus::SUCCESS);
    }
    let reclaimed = prune_volumes(context, args.all, &args.filter).await?;
    outln!("Total reclaimed space: {}", human::size_in_digits(reclaimed, 4))?;
    Ok(ExitStatus::SUCCESS)
}

/// Removes unused volumes (those with a name as well, where `all`), prints which and returns the bytes freed.
pub async fn prune_volumes(context: &Context, all: bool, filters: &[String]) -> Result<f64, Error> {
    let mut filters = filters.to_vec();
    filters.extend(all.then(|| "all=true".to_owned()));
    let path = Query::new("/volumes/prune").with_filters(&filters)?;
    let answer: Value =
        context.client.request(hyper::Method::POST, &path, &[], empty()).await?.json().await?;
    print_removed("Deleted Volumes:", &answer["VolumesDeleted"])?;
    Ok(answer["SpaceReclaimed"].as_f64().unwrap_or_default())
}

/// Prints what a prune removed under its title; nothing where it removed nothing.
pub fn print_removed(title: &str, removed: &Value) -> Result<(), Error> {
    let Some(removed) = removed.as_array().filter(|removed| !removed.is_empty()) else { return Ok(()) };
    outln!("{title}")?;
    for name in removed {
        outln!("{}", name.as_str().unwrap_or_default())?;
    }
    outln!()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_complete() {
        let volumes = [
            json!({"Name": "b10", "Driver": "local", "Scope": "local", "Mountpoint": "/m", "Labels": null}),
            json!({"Name": "b9", "Driver": "local", "Scope": "local", "Mountpoint": "/m", "Labels": {"x": "1"},
                   "UsageData": {"RefCount": 2, "Size": 1234567}}),
            json!({"Name": "a", "UsageData": {"RefCount": -1, "Size": -1}}),
        ];
        let rows = rows(&volumes);
        let shown: Vec<String> = rows
            .iter()
            .map(|r| format!("{} {} {} {}", r["Name"], r["Labels"], r["Links"], r["Size"]))
            .collect();
        assert_eq!(
            shown,
            [r#""a" "" "N/A" "N/A""#, r#""b9" "x=1" "2" "1.235MB""#, r#""b10" "" "N/A" "N/A""#]
        );
    }
}
