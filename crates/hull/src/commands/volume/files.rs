//! The files of volumes: `volume clone`, `snapshot`, `export`, `import`.

use std::io::IsTerminal as _;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Query, segment};
use crate::commands::shared::output::{self, Output};
use crate::commands::shared::{pairs, upload};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::{errln, outln};

/// `volume clone`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull volume clone data data-copy")]
pub struct CloneArgs {
    /// Set metadata for the new volume, beside that of the old one
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Do not say what had to be copied
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "VOLUME")]
    volume: String,
    #[arg(value_name = "NEW_VOLUME")]
    name: Option<String>,
}

/// `volume snapshot`.
#[derive(Args, Debug)]
#[command(after_help = "The containers that run with the volume stand still while the snapshot is taken.

Examples:
  hull volume snapshot data
  hull volume snapshot data before-upgrade")]
pub struct SnapshotArgs {
    /// Set metadata for the snapshot, beside that of the volume
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Do not say what had to be copied
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "VOLUME")]
    volume: String,
    #[arg(value_name = "SNAPSHOT")]
    name: Option<String>,
}

/// `hull volume clone`.
pub async fn clone(args: CloneArgs, context: &Context) -> Result<ExitStatus, Error> {
    let CloneArgs { label, quiet, volume, name } = args;
    copy(context, &volume, name, &label, quiet, false).await
}

/// `hull volume snapshot`.
pub async fn snapshot(args: SnapshotArgs, context: &Context) -> Result<ExitStatus, Error> {
    let SnapshotArgs { label, quiet, volume, name } = args;
    copy(context, &volume, name, &label, quiet, true).await
}

async fn copy(
    context: &Context,
    volume: &str,
    name: Option<String>,
    labels: &[String],
    quiet: bool,
    snapshot: bool,
) -> Result<ExitStatus, Error> {
    let path = format!("/volumes/{}/clone", segment(volume));
    let body = json!({ "Name": name.unwrap_or_default(), "Labels": pairs(labels), "Snapshot": snapshot });
    let made: Value = context.client.post_json(&path, &body).await?;
    outln!("{}", made["Name"].as_str().unwrap_or_default())?;
    if let Some(told) = what_was_copied(&made["Copied"]).filter(|_| !quiet) {
        errln!("{told}");
    }
    Ok(ExitStatus::SUCCESS)
}

/// A copy is told: it takes its place on the disk, and took its time.
fn what_was_copied(copied: &Value) -> Option<String> {
    let file_system = copied["CannotShare"].as_str()?;
    let bytes = human::size_in_digits(copied["CopiedBytes"].as_f64().unwrap_or_default(), 4);
    Some(format!(
        "{bytes} were copied: files cannot share their blocks on {file_system} as they can on xfs and btrfs"
    ))
}

/// `volume export`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull volume export -o data.tar data
  hull volume export data | zstd >data.tar.zst")]
pub struct ExportArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    output: Option<String>,
    #[arg(value_name = "VOLUME")]
    volume: String,
}

/// `hull volume export`.
pub async fn export(args: ExportArgs, context: &Context) -> Result<ExitStatus, Error> {
    let output = args.output.as_deref().filter(|output| !output.is_empty());
    if output.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::new("cowardly refusing to export to a terminal. Use the -o flag or redirect"));
    }
    let file = output.map(Output::open).transpose()?;
    let response = context.client.stream(&format!("/volumes/{}/export", segment(&args.volume))).await?;
    output::save(response, file, "Exporting").await?;
    Ok(ExitStatus::SUCCESS)
}

/// `volume import`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull volume import data data.tar
  zstd -d <data.tar.zst | hull volume import data
  hull volume import --merge data more.tar.gz")]
pub struct ImportArgs {
    /// Unpack over what is in the volume already
    #[arg(long)]
    merge: bool,
    #[arg(value_name = "VOLUME")]
    volume: String,
    #[arg(value_name = "file|-", default_value = "-", hide_default_value = true)]
    source: String,
}

/// `hull volume import`.
pub async fn import(args: ImportArgs, context: &Context) -> Result<ExitStatus, Error> {
    let source = (args.source != "-").then_some(args.source.as_str());
    if source.is_none() && std::io::stdin().is_terminal() {
        return Err(Error::new("requested import from stdin, but stdin is a terminal"));
    }
    let volume = format!("/volumes/{}", segment(&args.volume));
    let (body, transfer) = upload::body(source, "Importing")?;
    let is_new = match context.client.get_json::<Value>(&volume).await {
        Ok(_) => false,
        Err(error) if error.http_status() == Some(404) => {
            let body = json!({ "Name": args.volume, "Driver": "local" });
            context.client.post_json::<Value>("/volumes/create", &body).await?;
            true
        }
        Err(error) => return Err(error),
    };
    let path = Query::new(format!("{volume}/import")).with_flag("merge", args.merge);
    let headers = &[("content-type", "application/x-tar")];
    let imported = context.client.request(Method::POST, &path, headers, body).await;
    drop(transfer);
    match imported {
        Ok(response) => response.bytes().await.map(drop)?,
        Err(error) => {
            if is_new {
                // What failed leaves nothing; the reason of the failure is the better one to tell.
                let _ = context.client.delete(&volume).await;
            }
            return Err(error);
        }
    }
    outln!("{}", args.volume)?;
    Ok(ExitStatus::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_and_shared_blocks_are_not() {
        let copied = json!({ "SharedBytes": 0, "CopiedBytes": 1_500_000, "CannotShare": "extfs" });
        assert_eq!(
            what_was_copied(&copied).as_deref(),
            Some("1.5MB were copied: files cannot share their blocks on extfs as they can on xfs and btrfs")
        );
        assert_eq!(what_was_copied(&json!({ "SharedBytes": 5, "CannotShare": null })), None);
    }
}
