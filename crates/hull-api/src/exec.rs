//! /exec and /containers/{id}/exec.

use hull_engine::container::ExecStart;
use hull_engine::model::ExecConfig;
use hull_engine::{Error, Result};
use hyper::StatusCode;
use serde::Deserialize;

use crate::hijack;
use crate::http::{self, Request, Response};
use crate::policy::{Judge, Judged};

pub(crate) async fn create(mut request: Request) -> Result<Response> {
    let config: ExecConfig = request.json().await?;
    if config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("No exec command specified"));
    }
    let container = request.engine.container(request.capture(0))?;
    let exec = request.engine.create_exec(&container, config)?;
    http::json(StatusCode::CREATED, &serde_json::json!({ "Id": exec.id }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartBody {
    detach: bool,
    /// The client takes what comes as it comes. It says so again here, and this counts: who does not expects frames,
    /// also around what a terminal shows.
    tty: bool,
    console_size: Option<[u16; 2]>,
}

impl Judged for StartBody {
    fn judge(&mut self, _: &Judge<'_>) -> Result<()> {
        Ok(())
    }
}

pub(crate) async fn start(mut request: Request) -> Result<Response> {
    let body: StartBody = request.json().await?;
    let engine = request.engine.clone();
    let (container, exec) = engine.exec(request.capture(0))?;
    if body.detach && exec.config.end_with_client {
        return Err(Error::invalid(
            "an exec that ends with its client has to have one: it cannot be detached",
        ));
    }
    let claim = engine.claim_exec(&container, &exec)?;
    if body.detach {
        let start = ExecStart { detach: true, client: None, framed: false, console_size: body.console_size };
        engine.start_exec(claim, start).await?;
        return http::empty(StatusCode::OK);
    }
    let framed = !body.tty;
    hijack::hijack(request, framed, move |client| async move {
        // A copy of the connection for the last words, should the command not be executable.
        let copy = client.socket.try_clone();
        let start =
            ExecStart { detach: false, client: Some(client), framed, console_size: body.console_size };
        if let Err(error) = engine.start_exec(claim, start).await {
            let words = format!("{error}\r\n");
            let words = if framed { hijack::frame(1, words.as_bytes()) } else { words.into_bytes() };
            if let Ok(socket) = copy {
                hijack::last_words(socket, &words).await;
            }
        }
    })
}

pub(crate) async fn resize(request: Request) -> Result<Response> {
    let (height, width) = request.query.terminal_size()?;
    let (container, exec) = request.engine.exec(request.capture(0))?;
    request.engine.resize_exec(&container, &exec, width, height).await?;
    http::empty(StatusCode::OK)
}

/// hull's own: a signal to an exec.
pub(crate) async fn kill(request: Request) -> Result<Response> {
    let (container, exec) = request.engine.exec(request.capture(0))?;
    request.engine.kill_exec(&container, &exec, request.query.text("signal")).await?;
    http::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn inspect(request: Request) -> Result<Response> {
    let (container, exec) = request.engine.exec(request.capture(0))?;
    http::ok(&request.engine.inspect_exec(&container, &exec).await)
}
