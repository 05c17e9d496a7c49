//! What is done to one or more containers by name: stop, kill, pause, wait, rm and their like.

use std::future::Future;

use clap::Args;
use futures_util::future::join_all;
use serde_json::Value;

use crate::client::{Query, segment};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::{errln, outln};

/// Names or ids, and nothing else.
#[derive(Args, Debug)]
pub struct Containers {
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `kill`.
#[derive(Args, Debug)]
pub struct KillArgs {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    signal: Option<String>,
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `stop` and `restart`.
#[derive(Args, Debug)]
pub struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    signal: Option<String>,
    /// Seconds to wait before killing the container (-1 waits for ever)
    #[arg(short, long, visible_alias = "time", value_name = "int")]
    timeout: Option<i64>,
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `rm`.
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    force: bool,
    /// Remove the specified link
    #[arg(short, long)]
    link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `rename`.
#[derive(Args, Debug)]
pub struct RenameArgs {
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "NEW_NAME")]
    name: String,
}

/// Does the same to each, all at once; prints each one's name in the order given, and each failure.
async fn each<F: Future<Output = Result<String, Error>>>(
    names: &[String],
    action: impl Fn(String) -> F,
) -> Result<ExitStatus, Error> {
    let mut status = ExitStatus::SUCCESS;
    for result in join_all(names.iter().cloned().map(action)).await {
        match result {
            Ok(line) => outln!("{line}")?,
            Err(error) => {
                errln!("{error}");
                status = ExitStatus::FAILURE;
            }
        }
    }
    Ok(status)
}

async fn post_each(
    names: &[String],
    context: &Context,
    path: impl Fn(&str) -> Query,
) -> Result<ExitStatus, Error> {
    let path = &path;
    each(names, |name| async move {
        context.client.post_empty(&path(&segment(&name))).await?;
        Ok(name)
    })
    .await
}

/// `hull pause`.
pub async fn pause(args: Containers, context: &Context) -> Result<ExitStatus, Error> {
    post_each(&args.containers, context, |name| Query::new(format!("/containers/{name}/pause"))).await
}

/// `hull unpause`.
pub async fn unpause(args: Containers, context: &Context) -> Result<ExitStatus, Error> {
    post_each(&args.containers, context, |name| Query::new(format!("/containers/{name}/unpause"))).await
}

/// `hull kill`.
pub async fn kill(args: KillArgs, context: &Context) -> Result<ExitStatus, Error> {
    let signal = args.signal.as_deref();
    post_each(&args.containers, context, |name| {
        Query::new(format!("/containers/{name}/kill")).with_some("signal", signal)
    })
    .await
}

/// `hull stop`.
pub async fn stop(args: StopArgs, context: &Context) -> Result<ExitStatus, Error> {
    stop_or_restart(&args, context, "stop").await
}

/// `hull restart`.
pub async fn restart(args: StopArgs, context: &Context) -> Result<ExitStatus, Error> {
    stop_or_restart(&args, context, "restart").await
}

async fn stop_or_restart(args: &StopArgs, context: &Context, verb: &str) -> Result<ExitStatus, Error> {
    let timeout = args.timeout.map(|seconds| seconds.to_string());
    post_each(&args.containers, context, |name| {
        Query::new(format!("/containers/{name}/{verb}"))
            .with_some("signal", args.signal.as_deref())
            .with_some("t", timeout.as_deref())
    })
    .await
}

/// `hull wait`.
pub async fn wait(args: Containers, context: &Context) -> Result<ExitStatus, Error> {
    each(&args.containers, |name| async move {
        let path = format!("/containers/{}/wait", segment(&name));
        let response =
            context.client.request(hyper::Method::POST, &path, &[], crate::client::empty()).await?;
        let answer: Value = response.json().await?;
        match answer["Error"]["Message"].as_str() {
            Some(message) if !message.is_empty() => Err(Error::new(message)),
            _ => Ok(answer["StatusCode"].to_string()),
        }
    })
    .await
}

/// `hull rm`.
pub async fn remove(args: RemoveArgs, context: &Context) -> Result<ExitStatus, Error> {
    let args = &args;
    let results = join_all(args.containers.iter().map(|name| async move {
        let name = name.trim_matches('/');
        if name.is_empty() {
            return Err(Error::new("Container name cannot be empty"));
        }
        let path = Query::new(format!("/containers/{}", segment(name)))
            .with_flag("force", args.force)
            .with_flag("link", args.link)
            .with_flag("v", args.volumes);
        context.client.delete(&path).await?.bytes().await.map(|_| ())
    }));
    let mut status = ExitStatus::SUCCESS;
    for (name, result) in args.containers.iter().zip(results.await) {
        match result {
            Ok(()) => outln!("{name}")?,
            Err(error) => {
                errln!("{error}");
                // `rm -f` wants it gone, and gone it is.
                if !(args.force && error.http_status() == Some(404)) {
                    status = ExitStatus::FAILURE;
                }
            }
        }
    }
    Ok(status)
}

/// `hull rename`.
pub async fn rename(args: RenameArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.container.trim().is_empty() || args.name.trim().is_empty() {
        return Err(Error::new("Error: Neither old nor new names may be empty"));
    }
    let path =
        Query::new(format!("/containers/{}/rename", segment(&args.container))).with("name", &args.name);
    let renamed = context.client.post_empty(&path).await;
    renamed.map_err(|error| {
        error.followed_by(&format!("\nError: failed to rename container named {}", args.container))
    })?;
    Ok(ExitStatus::SUCCESS)
}
