//! /volumes, and hull's own: their files cloned, exported and imported.

use hull_engine::filter::Filters;
use hull_engine::volumes::{VolumeClone, VolumeCreate};
use hull_engine::{Error, Result};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::blocking;
use crate::http::{self, Request, Response};
use crate::policy::StandStill;

pub(crate) async fn list(request: Request) -> Result<Response> {
    let filters = Filters::from(request.query.filters()?);
    let volumes: Vec<Value> =
        request.engine.volumes.list(&filters)?.iter().map(|volume| volume.shown()).collect();
    http::ok(&json!({ "Volumes": volumes, "Warnings": null }))
}

pub(crate) async fn create(mut request: Request) -> Result<Response> {
    let create: VolumeCreate = request.json().await?;
    let volume = request.engine.create_volume(create).await?;
    http::json(StatusCode::CREATED, &volume.shown())
}

pub(crate) async fn inspect(request: Request) -> Result<Response> {
    http::ok(&request.engine.volumes.get(request.capture(0))?.shown())
}

pub(crate) async fn remove(request: Request) -> Result<Response> {
    let (name, force) = (request.capture(0).to_owned(), request.query.flag("force"));
    request.engine.remove_volume(&name, force).await?;
    http::empty(StatusCode::NO_CONTENT)
}

/// `POST /volumes/NAME/clone`: a new volume with the files of this one.
pub(crate) async fn clone(mut request: Request) -> Result<Response> {
    let clone: VolumeClone = request.json().await?;
    if clone.snapshot {
        let users = request.engine.volumes.users(request.capture(0));
        request.judge(&mut StandStill(users))?;
    }
    let cloned = request.engine.clone_volume(request.capture(0), clone).await?;
    http::json(StatusCode::CREATED, &cloned.shown())
}

/// `GET /volumes/NAME/export`: its files as a tar.
pub(crate) async fn export(request: Request) -> Result<Response> {
    let (engine, name) = (request.engine.clone(), request.capture(0).to_owned());
    blocking::written(request.side(), "application/x-tar", move |out| engine.export_volume(&name, out)).await
}

/// `POST /volumes/NAME/import`: a tar, plain or compressed, unpacked into it; with `merge` over what is there.
pub(crate) async fn import(mut request: Request) -> Result<Response> {
    let (engine, name) = (request.engine.clone(), request.capture(0).to_owned());
    let merge = request.query.flag("merge");
    let mut body = request.reader().await?;
    blocking::run(move || engine.import_volume(&name, &mut body, merge)).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn prune(request: Request) -> Result<Response> {
    let filters = Filters::from(request.query.filters()?);
    // Since 1.42 only volumes that nobody named go, unless all are asked for.
    let all_by_default = request.version < 42;
    if all_by_default && !filters.values("all").is_empty() {
        return Err(Error::invalid("invalid filter 'all'"));
    }
    let (names, bytes) = request.engine.prune_volumes(filters, all_by_default).await?;
    http::ok(&json!({ "VolumesDeleted": names, "SpaceReclaimed": bytes }))
}
