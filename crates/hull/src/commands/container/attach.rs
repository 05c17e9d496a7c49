//! `attach` and `start`.

use clap::Args;
use serde_json::Value;

use super::foreground::{self, Foreground};
use super::options::Attach;
use super::run::{attach_path, status, wait};
use super::signals::Signals;
use crate::client::{Query, segment};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::stream::End;
use crate::{errln, outln};

/// `attach`.
#[derive(Args, Debug)]
pub struct AttachArgs {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process (default true)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = crate::cli::parse_bool, value_name = "bool")]
    sig_proxy: Option<bool>,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// `start`.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Restore from this checkpoint
    #[arg(long, value_name = "string")]
    checkpoint: Option<String>,
    /// Use a custom checkpoint storage directory
    #[arg(long, value_name = "string")]
    checkpoint_dir: Option<String>,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// `hull attach`.
pub async fn attach(args: AttachArgs, context: &Context) -> Result<ExitStatus, Error> {
    let client = &context.client;
    let container: Value = client.get_json(&format!("/containers/{}/json", segment(&args.container))).await?;
    let state = &container["State"];
    if state["Running"] != true {
        return Err(Error::new("You cannot attach to a stopped container, start it first"));
    }
    if state["Paused"] == true {
        return Err(Error::new("cannot attach to a paused container, unpause it first"));
    }
    if state["Restarting"] == true {
        return Err(Error::new("cannot attach to a restarting container, wait until it is running"));
    }
    let id = container["Id"].as_str().unwrap_or(&args.container);
    let tty = container["Config"]["Tty"] == true;
    let stdin = !args.no_stdin && container["Config"]["OpenStdin"] == true;
    foreground::check_tty(stdin, tty)?;
    let signals = Signals::catch()?;
    let (keys, keys_text) = foreground::detach_keys(context, args.detach_keys.as_deref())?;
    let streams = Attach { stdin, stdout: true, stderr: true };
    let path = attach_path(id, streams, keys_text.as_deref());
    let (waiting, io) = tokio::try_join!(wait(client, id, ""), client.hijack(&path, None))?;
    let what = Foreground {
        path: format!("/containers/{id}"),
        tty,
        stdin,
        detach_keys: keys,
        signals: Some((signals, id, args.sig_proxy.unwrap_or(true))),
    };
    if foreground::stay(context, io, what).await? == End::Detached {
        return Ok(ExitStatus::SUCCESS);
    }
    status(waiting).await
}

/// `hull start`.
pub async fn start(args: StartArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.attach || args.interactive {
        if args.containers.len() > 1 {
            return Err(Error::new("you cannot start and attach multiple containers at once"));
        }
        return start_attached(&args, &args.containers[0], context).await;
    }
    let mut failed = Vec::new();
    for name in &args.containers {
        match context.client.post_empty(&start_path(&args, name)).await {
            Ok(_) => outln!("{name}")?,
            Err(error) if error.is_connection() => return Err(error),
            Err(error) => {
                errln!("{error}");
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(ExitStatus::SUCCESS);
    }
    Err(Error::new(format!("Error: failed to start containers: {}", failed.join(", "))))
}

fn start_path(args: &StartArgs, name: &str) -> Query {
    Query::new(format!("/containers/{}/start", segment(name)))
        .with_some("checkpoint", args.checkpoint.as_deref())
        .with_some("checkpoint-dir", args.checkpoint_dir.as_deref())
}

async fn start_attached(args: &StartArgs, name: &str, context: &Context) -> Result<ExitStatus, Error> {
    let client = &context.client;
    let container: Value = client.get_json(&format!("/containers/{}/json", segment(name))).await?;
    let id = container["Id"].as_str().unwrap_or(name);
    let tty = container["Config"]["Tty"] == true;
    let stdin = args.interactive && container["Config"]["OpenStdin"] == true;
    foreground::check_tty(stdin, tty)?;
    let signals = Signals::catch()?;
    let (keys, keys_text) = foreground::detach_keys(context, args.detach_keys.as_deref())?;
    let streams = Attach { stdin, stdout: true, stderr: true };
    let path = attach_path(id, streams, keys_text.as_deref());
    let condition = if container["HostConfig"]["AutoRemove"] == true { "removed" } else { "next-exit" };
    let (waiting, io) = tokio::try_join!(wait(client, id, condition), client.hijack(&path, None))?;
    client.post_empty(&start_path(args, id)).await?;
    let what = Foreground {
        path: format!("/containers/{id}"),
        tty,
        stdin,
        detach_keys: keys,
        signals: Some((signals, id, true)),
    };
    if foreground::stay(context, io, what).await? == End::Detached {
        return Ok(ExitStatus::SUCCESS);
    }
    status(waiting).await
}
