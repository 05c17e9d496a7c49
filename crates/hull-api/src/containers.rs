//! /containers: lists, and what moves a container through its life.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use hull_engine::container::{AttachRequest, Condition, Container, ListOptions, RemoveOptions};
use hull_engine::model::{Resources, RestartPolicy};
use hull_engine::{Error, Result, model};
use hyper::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use crate::blocking;
use crate::ended;
use crate::hijack;
use crate::http::{self, Request, Response};
use crate::policy::{Judge, Judged};

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
        before: query.text("before").map(str::to_owned),
        since: query.text("since").map(str::to_owned),
        filters: query.filters()?,
    };
    let mut listed = if options.size {
        // Every file of every writable layer is looked at.
        let engine = Arc::clone(&request.engine);
        blocking::run(move || engine.list(&options)).await?
    } else {
        request.engine.list(&options)?
    };
    if request.version < 52 {
        for shown in listed.iter_mut().filter_map(serde_json::Value::as_object_mut) {
            shown.remove("Health");
        }
    }
    if request.version < 46 {
        for shown in listed.iter_mut().filter_map(|shown| shown["HostConfig"].as_object_mut()) {
            shown.remove("Annotations");
        }
    }
    http::ok(&listed)
}

pub(crate) async fn inspect(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let (size, version) = (request.query.flag("size"), request.version);
    let mut shown = if size {
        let engine = Arc::clone(&request.engine);
        blocking::run(move || engine.inspect(&container, size, version)).await?
    } else {
        request.engine.inspect(&container, size, version)?
    };
    if request.knows_the_end_of(ended::SHAPES_OF_OLD) {
        ended::in_container(&mut shown);
    }
    http::ok(&shown)
}

/// What a container is made of: hull's own.
pub(crate) async fn explain(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let mut explanation = request.engine.explain(&container).await?;
    if let Some(guard) = &request.guard {
        // Whom it shares with is not named to who does not see that one.
        let judge = guard.on(&request.engine);
        for namespace in explanation.namespaces.values_mut() {
            let seen = |name: &String| request.engine.container(name).is_ok_and(|other| judge.sees(&other));
            namespace.containers.retain(seen);
        }
    }
    http::ok(&explanation)
}

pub(crate) async fn start(mut request: Request) -> Result<Response> {
    // Docker took a HostConfig here once: what may be one is refused, `{}` and `null` are not.
    if request.bytes().await?.len() > 7 {
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

/// The signal that a client asks to stop with, since 1.42.
fn stop_signal(request: &Request) -> Option<&str> {
    request.query.text("signal").filter(|_| request.version >= 42)
}

pub(crate) async fn stop(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let (signal, timeout) = (stop_signal(&request), request.query.number("t")?);
    let ran = request.engine.stop(&container, signal, timeout).await?;
    http::empty(if ran { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED })
}

pub(crate) async fn restart(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let (signal, timeout) = (stop_signal(&request), request.query.number("t")?);
    request.engine.restart(&container, signal, timeout).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn kill(request: Request) -> Result<Response> {
    let name = request.capture(0);
    let told = |error: Error| Error {
        message: format!("cannot kill container: {name}: {}", error.message),
        ..error
    };
    let container = container(&request).map_err(told)?;
    request.engine.kill(&container, request.query.text("signal")).await.map_err(told)?;
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
    let name = request.query.get("name").unwrap_or_default();
    if name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty"));
    }
    let container = container(&request)?;
    request.engine.rename(&container, name).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn resize(request: Request) -> Result<Response> {
    let (height, width) = request.query.terminal_size()?;
    let container = container(&request)?;
    request.engine.resize(&container, width, height).await?;
    http::empty(StatusCode::OK)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, remote = "Self")]
struct UpdateBody {
    /// Its members stand beside the others.
    #[serde(skip)]
    resources: Resources,
    restart_policy: Option<RestartPolicy>,
}

impl<'de> Deserialize<'de> for UpdateBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (body, resources) =
            model::embedded(deserializer, "UpdateBody", |members| UpdateBody::deserialize(members))?;
        Ok(UpdateBody { resources, ..body })
    }
}

impl Judged for UpdateBody {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        self.resources.judge(judge)
    }
}

pub(crate) async fn update(mut request: Request) -> Result<Response> {
    let mut body: UpdateBody = request.json().await?;
    if request.version < 40 {
        body.resources.pids_limit = None;
    }
    // Zero and less both mean no limit.
    body.resources.pids_limit = body.resources.pids_limit.map(|limit| limit.max(0));
    let container = container(&request)?;
    let warnings = request.engine.update(&container, body.resources, body.restart_policy).await?;
    // No warnings are Go's nil slice.
    http::ok(&json!({ "Warnings": Some(warnings).filter(|warnings| !warnings.is_empty()) }))
}

pub(crate) async fn wait(request: Request) -> Result<Response> {
    let container = container(&request)?;
    // Clients before 1.30 knew no conditions.
    let condition = request.query.get("condition").filter(|_| request.version >= 30);
    let condition = Condition::parse(condition)?;
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
    request.engine.remove(&container, request.capture(0), options).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn attach(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let query = &request.query;
    let (stdin, stdout, stderr) = (query.flag("stdin"), query.flag("stdout"), query.flag("stderr"));
    let asked = AttachRequest {
        stdin,
        stdout,
        stderr,
        framed: true,
        detach_keys: query.get("detachKeys").unwrap_or_default().to_owned(),
        // Of no stream there is nothing to wait for.
        stream: query.flag("stream") && (stdin || stdout || stderr),
        logs: query.flag("logs"),
    };
    let place = request.engine.attach(&container, asked)?;
    let framed = place.framed();
    hijack::hijack(request, framed, move |client| async move {
        if let Err(error) = place.take(client).await {
            tracing::debug!(%error, "a client could not be attached");
        }
    })
}

pub(crate) async fn prune(request: Request) -> Result<Response> {
    let (ids, bytes) = request.engine.prune_containers(&request.query.filters()?).await?;
    // No ids are Go's nil slice.
    http::ok(
        &json!({ "ContainersDeleted": Some(ids).filter(|ids| !ids.is_empty()), "SpaceReclaimed": bytes }),
    )
}
