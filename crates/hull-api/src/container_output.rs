//! What a container printed and what it uses: /containers/{id}/stats and top.

use bytes::Bytes;
use futures_util::stream;
use hull_engine::container::Stats;
use hull_engine::{Error, Result};
use hyper::StatusCode;
use serde_json::Value;

use crate::http::{self, Request, Response};

pub(crate) async fn stats(request: Request) -> Result<Response> {
    let stream = request.query.flag_or("stream", true);
    let one_shot = request.version >= 41 && request.query.flag("one-shot");
    if stream && one_shot {
        return Err(Error::invalid("cannot have stream=true and one-shot=true"));
    }
    let container = request.engine.container(request.capture(0))?;
    let mut stats = request.engine.stats(&container, request.version);
    if stream {
        return Ok(streamed_stats(stats));
    }
    let mut figures = stats.read().await?;
    // The share of a processor needs two readings.
    if !one_shot && stats.is_running() && stats.next_period().await {
        figures = stats.read().await?;
    }
    http::ok(&figures)
}

fn streamed_stats(stats: Stats) -> Response {
    let figures = stream::unfold((stats, true), |(mut stats, first)| async move {
        if !first && !stats.next_period().await {
            return None;
        }
        let line = match stats.read().await {
            Ok(figures) => Ok(line(&figures)),
            Err(error) => Err(std::io::Error::other(error)),
        };
        Some((line, (stats, false)))
    });
    http::streamed(StatusCode::OK, "application/json", figures)
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

pub(crate) async fn top(request: Request) -> Result<Response> {
    let container = request.engine.container(request.capture(0))?;
    http::ok(&request.engine.top(&container, request.query.get("ps_args").unwrap_or_default()).await?)
}
