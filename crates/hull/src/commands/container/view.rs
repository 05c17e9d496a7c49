//! What is read of one container: top, diff, port, inspect; and what is made of it: export, commit.

use std::io::IsTerminal as _;

use clap::Args;
use serde_json::{Value, json};

use super::options::ports;
use crate::client::{Query, segment};
use crate::commands::shared::inspect;
use crate::commands::shared::output::Output;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::stream::{self, Target};
use crate::{out, outln};

/// `top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// The container, then options for `ps`.
    #[arg(required = true, trailing_var_arg = true, value_name = "CONTAINER")]
    container_and_options: Vec<String>,
}

/// `hull top`.
pub async fn top(args: TopArgs, context: &Context) -> Result<ExitStatus, Error> {
    let (container, options) =
        args.container_and_options.split_first().ok_or_else(|| Error::usage("a container is needed"))?;
    let path = Query::new(format!("/containers/{}/top", segment(container)))
        .with_some("ps_args", (!options.is_empty()).then(|| options.join(" ")));
    let answer: Value = context.client.get_json(&path).await?;
    let words = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|w| w.as_str().unwrap_or_default().to_owned()).collect()
    };
    let mut rows = vec![words(&answer["Titles"])];
    rows.extend(answer["Processes"].as_array().into_iter().flatten().map(words));
    out!("{}", wide_table(&rows))?;
    Ok(ExitStatus::SUCCESS)
}

/// Columns of at least 20 characters, 3 apart, the last as long as it is: `top`'s own layout in Docker.
fn wide_table(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| column + 1 < row.len()).map(|row| row[column].chars().count());
        (cells.max().unwrap_or(0) + 3).max(20)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:<0$}", widths[column]));
            }
        }
        text.push('\n');
    }
    text
}

/// A container's name, and nothing else.
#[derive(Args, Debug)]
pub struct OneContainer {
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// `hull diff`.
pub async fn diff(args: OneContainer, context: &Context) -> Result<ExitStatus, Error> {
    let path = format!("/containers/{}/changes", segment(&args.container));
    let changes: Option<Vec<Value>> = context.client.get_json(&path).await?;
    for change in changes.unwrap_or_default() {
        let kind = match change["Kind"].as_u64() {
            Some(0) => 'C',
            Some(1) => 'A',
            Some(2) => 'D',
            _ => '?',
        };
        outln!("{kind} {}", change["Path"].as_str().unwrap_or_default())?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// `port`.
#[derive(Args, Debug)]
pub struct PortArgs {
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

/// `hull port`.
pub async fn port(args: PortArgs, context: &Context) -> Result<ExitStatus, Error> {
    let path = format!("/containers/{}/json", segment(&args.container));
    let container: Value = context.client.get_json(&path).await?;
    let published = &container["NetworkSettings"]["Ports"];
    let host = |binding: &Value| {
        let address = binding["HostIp"].as_str().unwrap_or_default();
        let port = binding["HostPort"].as_str().unwrap_or_default();
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    if let Some(port) = &args.port {
        let (number, proto) = port.split_once('/').unwrap_or((port, "tcp"));
        if number.parse::<u16>().is_err() {
            return Err(Error::new(format!("Error: invalid port ({port})")));
        }
        let bindings = published[format!("{number}/{proto}")].as_array().filter(|list| !list.is_empty());
        let Some(bindings) = bindings else {
            let message = format!("Error: No public port '{port}' published for {}", args.container);
            return Err(Error::new(message));
        };
        for binding in bindings {
            outln!("{}", host(binding))?;
        }
        return Ok(ExitStatus::SUCCESS);
    }
    let mut ports: Vec<_> = published.as_object().into_iter().flatten().collect();
    ports.sort_by_key(|(name, _)| ports::sort_key(name));
    for (name, bindings) in ports {
        for binding in bindings.as_array().into_iter().flatten() {
            outln!("{name} -> {}", host(binding))?;
        }
    }
    Ok(ExitStatus::SUCCESS)
}

/// `container inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// `hull container inspect`.
pub async fn inspect(args: InspectArgs, context: &Context) -> Result<ExitStatus, Error> {
    inspect::each(&args.containers, args.format.as_deref(), |name| async move {
        let path = Query::new(format!("/containers/{}/json", segment(&name))).with_flag("size", args.size);
        context.client.get_json(&path).await
    })
    .await
}

/// `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    output: Option<String>,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// `hull export`.
pub async fn export(args: ExportArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let path = format!("/containers/{}/export", segment(&args.container));
    let Some(output) = args.output.filter(|output| output != "-") else {
        let mut answer = context.client.stream(&path).await?;
        while let Some(piece) = answer.chunk().await? {
            stream::write(Target::Out, &piece).await?;
        }
        return Ok(ExitStatus::SUCCESS);
    };
    // Before anything is asked of the daemon: what cannot be written is known now.
    let mut file = Output::open(&output)?;
    let mut answer = context.client.stream(&path).await?;
    while let Some(piece) = answer.chunk().await? {
        file.write(&piece)?;
    }
    file.finish()?;
    Ok(ExitStatus::SUCCESS)
}

/// `commit`.
#[derive(Args, Debug)]
pub struct CommitArgs {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, value_name = "string")]
    author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(short, long, value_name = "string")]
    message: Option<String>,
    /// Pause container during commit (default true)
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = crate::cli::parse_bool, value_name = "bool")]
    pause: Option<bool>,
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

/// `hull commit`.
pub async fn commit(args: CommitArgs, context: &Context) -> Result<ExitStatus, Error> {
    let reference = args.reference.as_deref().unwrap_or_default();
    let (repository, tag) = match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (reference, None),
    };
    let mut path = Query::new("/commit")
        .with("container", &args.container)
        .with_some("repo", (!repository.is_empty()).then_some(repository))
        .with_some("tag", tag)
        .with_some("comment", args.message.as_deref())
        .with_some("author", args.author.as_deref())
        .with("pause", if args.pause.unwrap_or(true) { "1" } else { "0" });
    for change in &args.change {
        path = path.with("changes", change);
    }
    let answer: Value = context.client.post_json(&path, &json!({})).await?;
    outln!("{}", answer["Id"].as_str().unwrap_or_default())?;
    Ok(ExitStatus::SUCCESS)
}
