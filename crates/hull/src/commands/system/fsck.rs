//! `system fsck`.

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::client::{Query, empty};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::outln;

/// `system fsck`.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0 if nothing was found, 1 if all that was found was repaired, 4 if something was not."
)]
pub struct FsckArgs {
    /// Remove what nobody knows, and make volumes of folders with files that no volume owns
    #[arg(long)]
    repair: bool,
    /// Read every layer, and compare it with its digest
    #[arg(long)]
    contents: bool,
    /// Format output: 'json', or for people
    #[arg(long, value_name = "string")]
    format: Option<String>,
}

/// Something was found that was not repaired, as fsck(8) tells it.
const LEFT: ExitStatus = ExitStatus(4);

/// `hull system fsck`.
pub async fn fsck(args: FsckArgs, context: &Context) -> Result<ExitStatus, Error> {
    let json = match args.format.as_deref() {
        None | Some("") => false,
        Some("json") => true,
        Some(other) => return Err(Error::new(format!("{other:?} is no format here: there is json"))),
    };
    let path = Query::new("/hull/fsck").with_flag("contents", args.contents);
    let method = if args.repair { Method::POST } else { Method::GET };
    let answer: Value = context.client.request(method, &path, &[], empty()).await?.json().await?;
    let findings = answer["Findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    if json {
        outln!("{answer}")?;
    } else {
        for finding in findings {
            outln!("{}", line(finding))?;
        }
        outln!("{}", summary(&answer["Checked"], findings.len()))?;
    }
    Ok(status(findings))
}

fn line(finding: &Value) -> String {
    let text = |field: &str| finding[field].as_str().unwrap_or_default();
    let done = if finding["Repaired"].as_bool() == Some(true) { "repaired" } else { "to do" };
    format!("{}: {} at {} ({done}: {})", text("Wrong"), text("What"), text("Path"), text("Remedy"))
}

fn summary(checked: &Value, findings: usize) -> String {
    let counted = ["Images", "Layers", "Snapshots", "Containers", "Volumes", "Networks"]
        .map(|what| format!("{} {}", checked[what].as_u64().unwrap_or_default(), what.to_lowercase()));
    let found = match findings {
        0 => "nothing is wrong".to_owned(),
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    format!("{}: {found}", counted.join(", "))
}

fn status(findings: &[Value]) -> ExitStatus {
    let left = findings.iter().any(|finding| finding["Repaired"].as_bool() != Some(true));
    match (findings.is_empty(), left) {
        (true, _) => ExitStatus::SUCCESS,
        (false, false) => ExitStatus::FAILURE,
        (false, true) => LEFT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_status_tells_what_is_left() {
        let (done, left) = (json!({"Repaired": true}), json!({"Repaired": false}));
        assert_eq!(status(&[]), ExitStatus::SUCCESS);
        assert_eq!(status(std::slice::from_ref(&done)), ExitStatus::FAILURE);
        assert_eq!(status(&[done, left]), LEFT);
    }

    #[test]
    fn findings_are_lines() {
        let finding = json!({"Wrong": "orphan", "What": "a folder of layers without a row", "Path": "/d/layers/x",
                             "Remedy": "remove it", "Repaired": false});
        assert_eq!(
            line(&finding),
            "orphan: a folder of layers without a row at /d/layers/x (to do: remove it)"
        );
        let checked =
            json!({"Images": 1, "Layers": 2, "Snapshots": 3, "Containers": 4, "Volumes": 5, "Networks": 6});
        assert_eq!(
            summary(&checked, 0),
            "1 images, 2 layers, 3 snapshots, 4 containers, 5 volumes, 6 networks: nothing is wrong"
        );
    }
}
