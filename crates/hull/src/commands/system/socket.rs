//! `system socket`, hull's own: further sockets of the daemon, each with a policy.

use clap::Args;
use serde_json::{Value, json};

use crate::client::Query;
use crate::commands::shared::print_list;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::outln;

/// `system socket`.
#[derive(Args, Debug)]
#[command(after_help = "Rules:
  read-only            nothing is changed
  label=KEY[=VALUE]    only what carries the label is there; what is made gets it
  no-privilege         no --privileged, capabilities, profiles, sysctls, runtimes, cgroup parents
  no-binds             no files of the host
  no-host-namespaces   none of --network, --pid, --ipc, --uts, --userns, --cgroupns host
  no-devices           no devices of the host
  confined             the last four: what keeps the machine out of reach

Examples:
  hull system socket add /run/hull/ci.sock confined label=org.example.ci
  hull run -v /run/hull/ci.sock:/var/run/docker.sock docker:cli docker ps
  hull system socket ls
  hull system socket rm /run/hull/ci.sock")]
pub struct SocketArgs {
    /// Format the list using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// What to do: add PATH RULE..., ls, rm PATH...
    #[arg(required = true, value_name = "ACTION")]
    action: String,
    /// What to do it with
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

/// `hull system socket`.
pub async fn socket(args: SocketArgs, context: &Context) -> Result<ExitStatus, Error> {
    match (args.action.as_str(), args.words.as_slice()) {
        ("add", [path, rules @ ..]) if !rules.is_empty() => add(path, rules, context).await,
        ("ls" | "list", []) => list(args.format.as_deref(), context).await,
        ("rm" | "remove", paths) if !paths.is_empty() => remove(paths, context).await,
        ("add", _) => Err(Error::usage("'hull system socket add' requires a path and at least one rule")),
        ("rm" | "remove", _) => Err(Error::usage("'hull system socket rm' requires at least one path")),
        (action, _) => Err(Error::usage(format!(
            "'hull system socket {action}' is nothing: there are add PATH RULE..., ls, and rm PATH..."
        ))),
    }
    .map_err(|error| if error.is_usage() { error.with_status(1) } else { error })
}

async fn add(path: &str, rules: &[String], context: &Context) -> Result<ExitStatus, Error> {
    // The daemon's folder need not be this one.
    let path = std::path::absolute(path).map_err(|e| Error::from(e).context(format!("cannot use {path}")))?;
    let body = json!({ "Path": path.display().to_string(), "Policy": rules });
    let made: Value = context.client.post_json("/hull/sockets", &body).await?;
    outln!("{}", made["Path"].as_str().unwrap_or_default())?;
    Ok(ExitStatus::SUCCESS)
}

/// The titles of a socket's columns.
const HEADERS: &[(&str, &str)] = &[("Path", "PATH"), ("Policy", "POLICY"), ("Kept", "KEPT")];

async fn list(format: Option<&str>, context: &Context) -> Result<ExitStatus, Error> {
    let sockets: Value = context.client.get_json("/hull/sockets").await?;
    let row = |socket: &Value| {
        let rules: Vec<&str> =
            socket["Policy"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        json!({ "Path": socket["Path"], "Policy": rules.join(","), "Kept": socket["Kept"] })
    };
    let rows: Vec<Value> = sockets.as_array().into_iter().flatten().map(row).collect();
    let spec = format.filter(|spec| !spec.is_empty());
    print_list(spec, "{{.Path}}\t{{.Policy}}\t{{.Kept}}", HEADERS, &rows)?;
    Ok(ExitStatus::SUCCESS)
}

async fn remove(paths: &[String], context: &Context) -> Result<ExitStatus, Error> {
    for path in paths {
        let whole =
            std::path::absolute(path).map_err(|e| Error::from(e).context(format!("cannot use {path}")))?;
        let query = Query::new("/hull/sockets").with("path", whole.display().to_string());
        context.client.delete(&query).await?.bytes().await?;
        outln!("{path}")?;
    }
    Ok(ExitStatus::SUCCESS)
}
