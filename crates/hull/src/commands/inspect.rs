//! `inspect` of whatever has the name: containers, images, networks, volumes.

use clap::Args;
use serde_json::Value;

use super::Entry;
use super::shared::inspect;
use crate::client::{Query, segment};
use crate::context::Context;
use crate::error::{Error, ExitStatus};

/// The command at the root.
pub const ROOT: &[Entry] = &[entry!(
    "inspect",
    [],
    Commands,
    "Return low-level information on containers, images, networks and volumes",
    "[OPTIONS] NAME|ID [NAME|ID...]",
    InspectArgs,
    inspect
)];

/// `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Only inspect objects of the given type: container, image, network, volume
    #[arg(long = "type", value_name = "string")]
    kind: Option<String>,
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// The kinds in the order in which they are asked, as Docker does.
const KINDS: &[&str] = &["container", "image", "network", "volume"];

async fn inspect(args: InspectArgs, context: &Context) -> Result<ExitStatus, Error> {
    let kind = args.kind.as_deref().filter(|kind| !kind.is_empty());
    let kinds: Vec<&str> = match kind {
        None => KINDS.to_vec(),
        Some(kind) if KINDS.contains(&kind) => vec![kind],
        Some(kind) => {
            let known = KINDS.join(", ");
            return Err(Error::new(format!("unknown type: {kind:?}: must be one of {known}")));
        }
    };
    if args.size && kind.is_some_and(|kind| kind != "container") {
        return Err(Error::new(format!("--size is not supported for type {}", kinds[0])));
    }
    let kinds = &kinds;
    inspect::each(&args.names, args.format.as_deref(), |name| async move {
        for kind in kinds {
            match context.client.get_json::<Value>(&path(kind, &name, args.size)).await {
                Err(error) if error.http_status() == Some(404) && kinds.len() > 1 => {}
                result => return result,
            }
        }
        Err(Error::new(format!("Error: No such object: {name}")))
    })
    .await
}

fn path(kind: &str, name: &str, size: bool) -> Query {
    let name = segment(name);
    match kind {
        "container" => Query::new(format!("/containers/{name}/json")).with_flag("size", size),
        // The slashes of an image's name belong to the path.
        "image" => Query::new(format!("/images/{}/json", name.replace("%2F", "/").replace("%3A", ":"))),
        "network" => Query::new(format!("/networks/{name}")),
        _ => Query::new(format!("/volumes/{name}")),
    }
}
