//! /containers and /commit.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use hull_engine::container::{AttachRequest, Condition, Container, ListOptions, RemoveOptions};
use hull_engine::model::{CreateBody, Resources, RestartPolicy};
use hull_engine::{Error, Result};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::blocking;
use crate::hijack;
use crate::http::{self, Request, Response};

fn container(request: &Request) -> Result<Arc<Container>> {
    request.engine.container(request.capture(0))
}

pub(crate) async fn list(request: Request) -> Result<Response> {
    let query = &request.query;
    let limit: Option<i64> = query.number("limit")?;
    let options = ListOptions {
        all: query.flag("all"),
        limit: limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0),
        size: query.flag("size"),
        filters: query.filters()?,
    };
    if !options.size {
        return http::ok(&request.engine.list(&options)?);
    }
    // Every file of every writable layer is looked at.
    let engine = Arc::clone(&request.engine);
    http::ok(&blocking::run(move || engine.list(&options)).await?)
}

pub(crate) async fn create(mut request: Request) -> Result<Response> {
    let body: CreateBody = request.json().await?;
    if let Some(platform) = request.query.text("platform") {
        check_platform(platform)?;
    }
    let networks = &body.networking_config.endpoints_config;
    // Later clients put a container on several networks at once.
    if request.version < 44 && networks.len() > 1 {
        let names: Vec<&str> = networks.keys().map(String::as_str).collect();
        return Err(Error::invalid(format!(
            "Container cannot be connected to network endpoints: {}",
            names.join(", ")
        )));
    }
    let created = request.engine.create_container(request.query.text("name"), body).await?;
    http::json(StatusCode::CREATED, &json!({ "Id": created.id, "Warnings": created.warnings }))
}

/// Only this machine's own platform runs here.
fn check_platform(platform: &str) -> Result<()> {
    let host = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut parts = platform.split('/');
    let (system, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(host));
    if system == "linux" && architecture == host {
        return Ok(());
    }
    Err(Error::not_found(format!(
        "image with reference was found but does not match the specified platform: wanted {platform}, this machine runs linux/{host}"
    )))
}

pub(crate) async fn inspect(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let (size, version) = (request.query.flag("size"), request.version);
    if !size {
        return http::ok(&request.engine.inspect(&container, size, version)?);
    }
    let engine = Arc::clone(&request.engine);
    http::ok(&blocking::run(move || engine.inspect(&container, size, version)).await?)
}

pub(crate) async fn start(mut request: Request) -> Result<Response> {
    // Docker took a HostConfig here once; what is sent is refused, and an empty object is nothing.
    let body: serde_json::Map<String, serde_json::Value> = request.json_or_default().await?;
    if !body.is_empty() && request.version >= 24 {
        return Err(Error::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    for unsupported in ["checkpoint", "checkpoint-dir"] {
        if request.query.text(unsupported).is_some() {
            return Err(Error::unsupported(format_args!("starting from a checkpoint ({unsupported})")));
        }
    }
    let container = container(&request)?;
    if let Some(keys) = request.query.text("detachKeys") {
        tracing::debug!(keys, "detach keys belong to attach");
    }
    request.engine.start(&container).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn stop(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let (signal, timeout) = (request.query.text("signal"), request.query.number("t")?);
    let ran = request.engine.stop(&container, signal, timeout).await?;
    http::empty(if ran { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED })
}

pub(crate) async fn restart(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let (signal, timeout) = (request.query.text("signal"), request.query.number("t")?);
    request.engine.restart(&container, signal, timeout).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn kill(request: Request) -> Result<Response> {
    let container = container(&request)?;
    request.engine.kill(&container, request.query.text("signal")).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn pause(request: Request) -> Result<Response> {
    let container = container(&request)?;
    request.engine.pause(&container).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn unpause(request: Request) -> Result<Response> {
    let container = container(&request)?;
    request.engine.unpause(&container).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn rename(request: Request) -> Result<Response> {
    let container = container(&request)?;
    request.engine.rename(&container, request.query.get("name").unwrap_or_default()).await?;
    http::empty(StatusCode::NO_CONTENT)
}

/// The query's `w` and `h`.
pub(crate) fn size(request: &Request) -> Result<(u16, u16)> {
    let side = |name: &str| -> Result<u16> {
        request
            .query
            .number(name)?
            .ok_or_else(|| Error::invalid(format!("the query's {name} is missing: the terminal's size")))
    };
    Ok((side("w")?, side("h")?))
}

pub(crate) async fn resize(request: Request) -> Result<Response> {
    let (width, height) = size(&request)?;
    let container = container(&request)?;
    request.engine.resize(&container, width, height).await?;
    http::empty(StatusCode::OK)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct UpdateBody {
    #[serde(flatten)]
    resources: Resources,
    restart_policy: Option<RestartPolicy>,
}

pub(crate) async fn update(mut request: Request) -> Result<Response> {
    let body: UpdateBody = request.json().await?;
    let container = container(&request)?;
    let warnings = request.engine.update(&container, body.resources, body.restart_policy).await?;
    http::ok(&json!({ "Warnings": warnings }))
}

pub(crate) async fn wait(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let condition = Condition::parse(request.query.get("condition"))?;
    let ended = request.engine.wait(&container, condition);
    // The head leaves at once: clients wait for it before they start the container.
    let body = stream::once(async move {
        let ended = ended.await;
        let mut answer = json!({ "StatusCode": ended.status });
        if !ended.error.is_empty() {
            answer["Error"] = json!({ "Message": ended.error });
        }
        Ok(Bytes::from(format!("{answer}\n")))
    });
    Ok(http::streamed(StatusCode::OK, "application/json", body))
}

pub(crate) async fn remove(request: Request) -> Result<Response> {
    if request.query.flag("link") {
        let (engine, name) = (request.engine.clone(), request.capture(0).to_owned());
        blocking::run(move || engine.remove_link(&name)).await?;
        return http::empty(StatusCode::NO_CONTENT);
    }
    let container = container(&request)?;
    let options = RemoveOptions { force: request.query.flag("force"), volumes: request.query.flag("v") };
    request.engine.remove(&container, options).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn attach(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let query = &request.query;
    let asked = AttachRequest {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        framed: true,
        detach_keys: query.get("detachKeys").unwrap_or_default().to_owned(),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
    };
    let place = request.engine.attach(&container, asked)?;
    let framed = place.framed();
    hijack::hijack(request.upgrade, request.body, framed, request.version, move |client| async move {
        if let Err(error) = place.take(client).await {
            tracing::debug!(%error, "a client could not be attached");
        }
    })
}

pub(crate) async fn prune(request: Request) -> Result<Response> {
    let (ids, bytes) = request.engine.prune_containers(&request.query.filters()?).await?;
    http::ok(&json!({ "ContainersDeleted": ids, "SpaceReclaimed": bytes }))
}
