//! What builds leave: their caches, which are removed, and their logs, which are read.

use std::sync::Arc;

use hull_engine::{Error, Result};
use serde_json::{Value, json};

use crate::blocking;
use crate::build::refused;
use crate::http::{self, Request, Response};

/// `POST /build/prune`.
pub(crate) async fn prune(request: Request) -> Result<Response> {
    let filters = hull_engine::filter::Filters::from(request.query.filters()?);
    filters.only(&["until", "id", "unused-for", "type", "shared", "private", "inuse"])?;
    if filters.boolean("inuse")? == Some(true) {
        // What is in use is not removed.
        return http::ok(&json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }));
    }
    let private = filters.boolean("private")?.map(|private| !private);
    let size = |name: &str| match request.query.text(name) {
        None => Ok(0),
        Some(text) => text.parse::<u64>().map_err(|_| Error::invalid(format!("{name}: {text:?} is no size"))),
    };
    let prune = hull_build::Prune {
        all: request.query.flag("all"),
        // The second is its name of before 1.48.
        keep: size("reserved-space")?.max(size("keep-storage")?),
        max_used: size("max-used-space")?,
        min_free: size("min-free-space")?,
        until: filters.until()?,
        ids: filters.values("id").to_vec(),
        kinds: filters.values("type").to_vec(),
        shared: filters.boolean("shared")?.or(private),
    };
    let builder = Arc::clone(&request.builder);
    let (removed, reclaimed) =
        blocking::run(move || builder.prune(&prune).map_err(|failure| refused(&failure))).await?;
    let removed = if removed.is_empty() { Value::Null } else { json!(removed) };
    http::ok(&json!({ "CachesDeleted": removed, "SpaceReclaimed": reclaimed }))
}

/// Adds the folders of cache mounts and contexts to what takes up the disk, in both shapes that there are.
pub(crate) fn add_caches(usage: &mut Value, caches: &[hull_build::CacheFolder]) {
    let time = |seconds: i64| hull_engine::container::rfc3339(seconds.saturating_mul(1_000_000_000));
    let shown = |cache: &hull_build::CacheFolder| {
        json!({
            "ID": cache.name,
            "Type": cache.kind,
            "Description": cache.description,
            "InUse": cache.in_use,
            "Shared": false,
            "Size": cache.size,
            "CreatedAt": time(cache.created),
            "LastUsedAt": time(cache.used),
            "UsageCount": 0,
        })
    };
    let sum = |all: bool| -> u64 {
        caches.iter().filter(|cache| all || !cache.in_use).map(|cache| cache.size).sum()
    };
    let add = |place: &mut Value, more: u64| *place = json!(place.as_u64().unwrap_or_default() + more);
    let items: Vec<Value> = caches.iter().map(shown).collect();
    add(&mut usage["BuilderSize"], sum(true));
    if usage["BuildCacheUsage"].is_object() {
        let sums = &mut usage["BuildCacheUsage"];
        add(&mut sums["TotalCount"], items.len() as u64);
        add(&mut sums["ActiveCount"], caches.iter().filter(|cache| cache.in_use).count() as u64);
        add(&mut sums["TotalSize"], sum(true));
        add(&mut sums["Reclaimable"], sum(false));
        if let Some(list) = sums["Items"].as_array_mut() {
            list.extend(items.iter().cloned());
        }
    }
    if let Some(list) = usage["BuildCache"].as_array_mut() {
        list.extend(items);
    }
}

/// `GET /hull/builds`: the builds whose logs are kept, the newest first.
pub(crate) async fn list(request: Request) -> Result<Response> {
    let builder = Arc::clone(&request.builder);
    let listed = blocking::run(move || builder.logs.list().map_err(|failure| refused(&failure))).await?;
    let shown = |one: &hull_build::logs::Listed| {
        let status = match &one.end {
            None => "running or interrupted",
            Some(end) if end["image"].is_string() => "built",
            Some(_) => "failed",
        };
        json!({
            "Id": one.head.id,
            "Started": one.head.started,
            "Tags": one.head.tags,
            "Dockerfile": one.head.dockerfile,
            "Target": one.head.target,
            "Status": status,
            "Image": one.end.as_ref().map_or(&Value::Null, |end| &end["image"]),
            "Error": one.end.as_ref().map_or(&Value::Null, |end| &end["error"]),
            "Seconds": one.end.as_ref().map_or(&Value::Null, |end| &end["at"]),
            "Size": one.size,
        })
    };
    http::ok(&listed.iter().map(shown).collect::<Vec<_>>())
}

/// `POST /hull/builds/shell`: an image of what a command that failed has left, and what is executed for a shell in it.
pub(crate) async fn shell(request: Request) -> Result<Response> {
    let (builder, id) = (Arc::clone(&request.builder), request.query.text("id").map(str::to_owned));
    let (image, shell) =
        blocking::run(move || builder.failed_step(id.as_deref()).map_err(|failure| refused(&failure)))
            .await?;
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| std::path::Path::new(path).is_file());
    http::ok(&json!({ "Image": image.id, "HasShell": shell, "HostShell": busybox }))
}

/// `GET /hull/builds/ID/log`: what a build told, a line of JSON for each event.
pub(crate) async fn log(request: Request) -> Result<Response> {
    let (builder, id) = (Arc::clone(&request.builder), request.capture(0).to_owned());
    let path = blocking::run(move || builder.logs.find(&id).map_err(|failure| refused(&failure))).await?;
    blocking::written(request.side(), "application/json", move |out| {
        let failed = |error: std::io::Error| Error::system("read the log of a build", error);
        let mut file = std::fs::File::open(&path).map_err(failed)?;
        std::io::copy(&mut file, out).map_err(failed)?;
        Ok(())
    })
    .await
}
