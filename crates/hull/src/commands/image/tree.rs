//! `image tree` and `image diff`.

use clap::Args;
use serde_json::Value;

use crate::client::{Query, segment};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::outln;

/// `image tree`.
#[derive(Args, Debug)]
pub struct TreeArgs {
    /// Format output: 'json', or for people
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Do not cut instructions off
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// `hull image tree`.
pub async fn tree(args: TreeArgs, context: &Context) -> Result<ExitStatus, Error> {
    let json = is_json(args.format.as_deref())?;
    let answer: Value = context.client.get_json(&format!("/images/{}/tree", segment(&args.image))).await?;
    if json {
        outln!("{answer}")?;
    } else {
        outln!("{}", drawn(&answer, &args.image, args.no_trunc))?;
    }
    Ok(ExitStatus::SUCCESS)
}

fn is_json(format: Option<&str>) -> Result<bool, Error> {
    match format {
        None | Some("" | "table") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Error::new(format!("{other:?} is no format here: there is json"))),
    }
}

/// A step a branch, the first one on top.
fn drawn(answer: &Value, name: &str, no_trunc: bool) -> String {
    let size = |value: &Value| human::size_in_digits(value.as_f64().unwrap_or_default(), 4);
    let id = human::short_id(answer["Id"].as_str().unwrap_or_default());
    let mut lines = vec![format!("{name}  {id}  {}", size(&answer["Size"]))];
    let steps = answer["Steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, step) in steps.iter().enumerate() {
        let (branch, trunk) = if index + 1 == steps.len() { ("└─", "  ") } else { ("├─", "│ ") };
        let layer = &step["Layer"];
        let said = instruction(step, no_trunc);
        if layer.is_null() {
            lines.push(format!("{branch} {:>12}  {:>8}  {said}", "no layer", ""));
            continue;
        }
        let id = human::short_id(layer["DiffID"].as_str().unwrap_or_default());
        lines.push(format!("{branch} {id:>12}  {:>8}  {said}", size(&layer["Size"])));
        let does = [("adds", "Added"), ("changes", "Changed"), ("hides", "Hidden")].map(|(word, field)| {
            let files = layer[field]["Files"].as_u64().unwrap_or_default();
            (files > 0).then(|| format!("{word} {} ({})", counted(files), size(&layer[field]["Bytes"])))
        });
        let does: Vec<String> = does.into_iter().flatten().collect();
        if !does.is_empty() {
            lines.push(format!("{trunk}   {}", does.join(", ")));
        }
        lines.extend(stored_again(&layer["StoredAgain"]).map(|told| format!("{trunk}   {told}")));
    }
    lines.join("\n")
}

fn counted(files: u64) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

fn instruction(step: &Value, no_trunc: bool) -> String {
    const LONGEST: usize = 80;
    let text = [&step["CreatedBy"], &step["Comment"]];
    let text =
        text.iter().filter_map(|text| text.as_str()).find(|text| !text.is_empty()).unwrap_or("<missing>");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if no_trunc || text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// The bytes that need not be there.
fn stored_again(again: &Value) -> Option<String> {
    let files = again["Files"].as_u64().filter(|files| *files > 0)?;
    let differ: Vec<&str> =
        again["DifferIn"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let differ = match differ.is_empty() {
        true => "nothing of them differs".to_owned(),
        false => format!("only their {} differs", differ.join(" and ")),
    };
    let bytes = human::size_in_digits(again["Bytes"].as_f64().unwrap_or_default(), 4);
    let beneath = again["Beneath"].as_str().unwrap_or("/");
    Some(format!("stores {} beneath {beneath} again, {bytes}, unchanged: {differ}", counted(files)))
}

/// `image diff`.
#[derive(Args, Debug)]
#[command(
    after_help = "Each line is what happened to a path (A: added, C: changed, D: deleted), the path, and a file's sizes.

Examples:
  hull image diff app:1 app:2"
)]
pub struct DiffArgs {
    /// Format output: 'json', or for people
    #[arg(long, value_name = "string")]
    format: Option<String>,
    #[arg(value_name = "IMAGE")]
    from: String,
    #[arg(value_name = "IMAGE")]
    to: String,
}

/// `hull image diff`.
pub async fn diff(args: DiffArgs, context: &Context) -> Result<ExitStatus, Error> {
    let json = is_json(args.format.as_deref())?;
    let path = Query::new("/hull/images/diff").with("names", &args.from).with("names", &args.to);
    let answer: Value = context.client.get_json(&path).await?;
    if json {
        outln!("{answer}")?;
        return Ok(ExitStatus::SUCCESS);
    }
    for difference in answer["Differences"].as_array().into_iter().flatten() {
        outln!("{}", line(difference))?;
    }
    Ok(ExitStatus::SUCCESS)
}

fn line(difference: &Value) -> String {
    let size = |field: &str| {
        let bytes = difference[field].as_f64().unwrap_or_default();
        (bytes > 0.0).then(|| human::size_in_digits(bytes, 4))
    };
    let path = difference["Path"].as_str().unwrap_or_default();
    let (before, after) = (size("SizeBefore"), size("SizeAfter"));
    let word = match difference["Kind"].as_str().unwrap_or_default() {
        "Added" => "A",
        "Deleted" => "D",
        _ => "C",
    };
    let sizes = match (before, after) {
        (None, None) => String::new(),
        (Some(before), Some(after)) if before == after => format!("  {after}"),
        (Some(before), Some(after)) => format!("  {before} -> {after}"),
        (Some(one), None) | (None, Some(one)) => format!("  {one}"),
    };
    format!("{word} {path}{sizes}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tree_is_drawn() {
        let again = json!({"Files": 2, "Bytes": 2000, "Beneath": "/srv", "DifferIn": ["owner", "time"]});
        let answer = json!({
            "Id": "sha256:0123456789abcdef", "Size": 3000,
            "Steps": [
                {"CreatedBy": "ADD x", "Comment": "", "Layer": {"DiffID": "sha256:aaaaaaaaaaaaaaaa", "Size": 1000,
                    "Added": {"Files": 1, "Bytes": 1000}, "Changed": {"Files": 0}, "Hidden": {"Files": 0},
                    "StoredAgain": {"Files": 0}}},
                {"CreatedBy": "ENV A=b", "Comment": "", "Layer": null},
                {"CreatedBy": "", "Comment": "said", "Layer": {"DiffID": "sha256:bbbbbbbbbbbbbbbb", "Size": 2000,
                    "Added": {"Files": 0}, "Changed": {"Files": 2, "Bytes": 2000},
                    "Hidden": {"Files": 3, "Bytes": 30}, "StoredAgain": again}},
            ],
        });
        assert_eq!(
            drawn(&answer, "app", false),
            "app  0123456789ab  3kB\n\
             ├─ aaaaaaaaaaaa       1kB  ADD x\n\
             │    adds 1 file (1kB)\n\
             ├─     no layer            ENV A=b\n\
             └─ bbbbbbbbbbbb       2kB  said\n     \
                  changes 2 files (2kB), hides 3 files (30B)\n     \
                  stores 2 files beneath /srv again, 2kB, unchanged: only their owner and time differs"
        );
    }

    #[test]
    fn differences_have_their_sizes() {
        let told = |kind: &str, before: u64, after: u64| {
            line(&json!({"Path": "/x", "Kind": kind, "SizeBefore": before, "SizeAfter": after}))
        };
        assert_eq!(told("Modified", 1000, 2000), "C /x  1kB -> 2kB");
        assert_eq!(told("Modified", 1000, 1000), "C /x  1kB");
        assert_eq!(
            (told("Added", 0, 5), told("Deleted", 5, 0), told("Modified", 0, 0)),
            ("A /x  5B".into(), "D /x  5B".into(), "C /x".into())
        );
    }
}
