//! The files of a container: /containers/{id}/archive, changes, export, and /commit.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hull_engine::container::{CommitOptions, Container, PutOptions};
use hull_engine::model::Config;
use hull_engine::{Error, Result, model};
use hull_image::archive::PathStat;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::json;
use tokio::sync::oneshot;

use crate::blocking;
use crate::http::{self, Request, Response};

/// What a path is, in the head of the answer.
const PATH_STAT: &str = "X-Docker-Container-Path-Stat";

fn container(request: &Request) -> Result<Arc<Container>> {
    request.engine.container(request.capture(0))
}

/// The path in the container.
fn path(request: &Request) -> Result<String> {
    let path = request.query.text("path").map(str::to_owned);
    path.ok_or_else(|| Error::invalid("bad parameter: path cannot be empty"))
}

fn with_stat(mut response: Response, stat: &PathStat) -> Result<Response> {
    let failed = |error: &dyn std::fmt::Display| Error::system("tell what the path is", error);
    let json = serde_json::to_vec(stat).map_err(|error| failed(&error))?;
    let header = HeaderValue::from_str(&BASE64_STANDARD.encode(json)).map_err(|error| failed(&error))?;
    response.headers_mut().insert(PATH_STAT, header);
    Ok(response)
}

pub(crate) async fn stat(request: Request) -> Result<Response> {
    let (path, container) = (path(&request)?, container(&request)?);
    let (engine, name) = (Arc::clone(&request.engine), request.capture(0).to_owned());
    let stat = blocking::run(move || engine.stat_archive(&container, &name, &path)).await?;
    with_stat(http::empty(StatusCode::OK)?, &stat)
}

pub(crate) async fn get(request: Request) -> Result<Response> {
    let (path, container) = (path(&request)?, container(&request)?);
    let (engine, name) = (Arc::clone(&request.engine), request.capture(0).to_owned());
    let (sender, stat) = oneshot::channel();
    let response = blocking::written(request.side(), "application/x-tar", move |out| {
        // A client that is gone needs no head.
        let found = |stat| drop(sender.send(stat));
        engine.get_archive(&container, &name, &path, found, out)
    });
    let response = response.await?;
    match stat.await {
        Ok(stat) => with_stat(response, &stat),
        Err(error) => Err(Error::system("tell what the path is", error)),
    }
}

pub(crate) async fn put(mut request: Request) -> Result<Response> {
    let (path, container) = (path(&request)?, container(&request)?);
    let (engine, name) = (Arc::clone(&request.engine), request.capture(0).to_owned());
    let options = PutOptions {
        no_overwrite_dir_non_dir: request.query.flag("noOverwriteDirNonDir"),
        copy_uid_gid: request.query.flag("copyUIDGID"),
    };
    let mut body = request.reader().await?;
    blocking::run(move || engine.put_archive(&container, &name, &path, &mut body, options)).await?;
    http::empty(StatusCode::OK)
}

pub(crate) async fn changes(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let engine = Arc::clone(&request.engine);
    let changes = blocking::run(move || engine.changes(&container)).await?;
    http::ok(&if changes.is_empty() { serde_json::Value::Null } else { changes.into() })
}

pub(crate) async fn export(request: Request) -> Result<Response> {
    let container = container(&request)?;
    let engine = Arc::clone(&request.engine);
    blocking::written(request.side(), "application/octet-stream", move |out| engine.export(&container, out))
        .await
}

pub(crate) async fn commit(mut request: Request) -> Result<Response> {
    let config: Option<Config> = request.json_object().await?.map(model::from_object).transpose()?;
    let query = &request.query;
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let container = request.engine.container(query.get("container").unwrap_or_default())?;
    let options = CommitOptions {
        repository: text("repo"),
        tag: text("tag"),
        comment: text("comment"),
        author: text("author"),
        pause: query.text("pause").is_none() || query.flag("pause"),
        changes: query.all("changes").filter(|change| !change.is_empty()).map(str::to_owned).collect(),
        config,
    };
    let engine = Arc::clone(&request.engine);
    let id = blocking::run(move || engine.commit(&container, options)).await?;
    http::json(StatusCode::CREATED, &json!({ "Id": id }))
}
