//! What a container printed and what it uses: /containers/{id}/logs, stats and top.

use bytes::Bytes;
use futures_util::{Stream, stream};
use hull_engine::container::{LogOptions, Logs, Stats};
use hull_engine::system::moment_ns;
use hull_engine::{Error, Result};
use hyper::StatusCode;
use serde_json::Value;

use crate::hijack;
use crate::http::{self, Query, Request, Response};

pub(crate) async fn logs(request: Request) -> Result<Response> {
    let query = &request.query;
    let options = LogOptions {
        follow: query.flag("follow"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        since_ns: moment(query, "since")?,
        until_ns: moment(query, "until")?,
        // Docker takes what is no number, `all` among it, for everything.
        tail: query.text("tail").and_then(|tail| tail.parse().ok()),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    };
    if !options.stdout && !options.stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    let container = request.engine.container(request.capture(0))?;
    let logs = request.engine.logs(&container, &options, true)?;
    let content_type = hijack::content_type(!container.has_terminal(), request.version);
    Ok(http::streamed(StatusCode::OK, content_type, pieces(logs)))
}

fn moment(query: &Query, name: &str) -> Result<Option<i64>> {
    let text = query.text(name).filter(|text| *text != "0");
    text.map(|text| moment_ns(text, hull_engine::system::now_ns())).transpose()
}

fn pieces(logs: Logs) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::unfold(Some(logs), |logs| async move {
        let mut logs = logs?;
        match logs.next().await {
            Ok(None) => None,
            Ok(Some(piece)) => Some((Ok(Bytes::from(piece)), Some(logs))),
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    })
}

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
