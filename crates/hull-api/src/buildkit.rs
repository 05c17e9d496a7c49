//! BuildKit's own protocol: the connections that its clients open, and builds of version 2.
//!
//! A client opens `/session`, where it is the server, and orders a build: Docker's older clients at `/build`, newer ones
//! over gRPC at `/grpc`.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use hull_build::{Failure, Stop};
use hull_buildkit::{BuildKit, Greeting, Order, Place};
use hull_engine::{Engine, Error, Result};
use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::build::judged;
use crate::build_answer::Lines;
use crate::build_query::{asked, outputs_of, refuse};
use crate::http::{self, Request, Response};
use crate::policy::Guard;

/// What an older client calls the context that it sends over its session.
const OVER_SESSION: &str = "client-session";

/// What it calls one that it sends as a request of its own, and how that request's name begins.
const AS_REQUEST: &str = "upload-request";

/// `POST /session`.
pub(crate) async fn session(request: Request) -> Result<Response> {
    check_upgrade(&request)?;
    let greeting = Greeting::of(&request.headers)
        .ok_or_else(|| Error::invalid("a session has a name: X-Docker-Expose-Session-Uuid"))?;
    let socket = request.guard.as_ref().map(|guard| guard.path.clone());
    let buildkit = Arc::clone(&request.buildkit);
    take_over(request, |io| async move { buildkit.session(greeting, socket, io).await })
}

/// `POST /grpc`.
pub(crate) async fn control(request: Request) -> Result<Response> {
    let through = Through { engine: Arc::clone(&request.engine), guard: request.guard.clone() };
    let buildkit = Arc::clone(&request.buildkit);
    take_over(request, |io| buildkit.control(Arc::new(through), io))
}

/// Looks whether the connection is to become one of HTTP/2.
fn check_upgrade(request: &Request) -> Result<()> {
    let mut protocols = request.headers.get_all(UPGRADE).iter().map(HeaderValue::as_bytes).peekable();
    let Some(first) = protocols.peek().map(|first| String::from_utf8_lossy(first).into_owned()) else {
        return Err(Error::invalid("no upgrade proto in request"));
    };
    if protocols.any(|protocol| protocol.eq_ignore_ascii_case(b"h2c")) {
        return Ok(());
    }
    Err(Error::invalid(format!("protocol {first} not supported")))
}

/// Frees a connection of HTTP/1, for HTTP/2 in either direction.
fn take_over<F>(
    request: Request,
    serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Result<Response>
where
    F: Future<Output = ()> + Send + 'static,
{
    check_upgrade(&request)?;
    let upgrade = request.upgrade.ok_or_else(|| Error::invalid("no upgrade proto in request"))?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "a client went away before it could build"),
        }
    });
    let mut response = http::empty(StatusCode::SWITCHING_PROTOCOLS)?;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("h2c"));
    Ok(response)
}

/// The socket that a client builds through.
struct Through {
    engine: Arc<Engine>,
    guard: Option<Arc<Guard>>,
}

impl hull_buildkit::Guard for Through {
    fn judge(&self, request: &mut hull_build::Request) -> Result<()> {
        judged(&self.engine, self.guard.as_ref(), request)
    }

    fn socket(&self) -> Option<PathBuf> {
        self.guard.as_ref().map(|guard| guard.path.clone())
    }
}

/// `POST /build?version=2`.
pub(crate) async fn build(mut request: Request) -> Result<Response> {
    let socket = request.guard.as_ref().map(|guard| guard.path.clone());
    let id = request.query.text("buildid").unwrap_or_default().to_owned();
    if let Some(id) = id.strip_prefix(AS_REQUEST).and_then(|id| id.strip_prefix(':')) {
        let archive = request.reader().await?;
        request.buildkit.archives().offer(socket, id, Box::new(archive)).await.map_err(refused)?;
        return http::empty(StatusCode::OK);
    }
    let session = request.query.text("session");
    let session = session.ok_or_else(|| Error::invalid("a build of version 2 names its session"))?.to_owned();
    request.buildkit.opened(&session, socket.clone()).await;
    refuse(&request.query)?;
    let mut asked = asked(&request.query)?;
    judged(&request.engine, request.guard.as_ref(), &mut asked)?;
    let mut order = Order::new(asked);
    order.goes_to(outputs_of(&request.query)?).map_err(refused)?;
    match request.query.text("remote") {
        None | Some(OVER_SESSION) => {}
        Some(AS_REQUEST) => (order.context, order.dockerfile) = (Place::Archive, String::new()),
        Some(remote) if hull_build::is_elsewhere(remote) => {
            (order.context, order.dockerfile) = (Place::Address(remote.to_owned()), String::new());
        }
        Some(other) => {
            let what =
                format!("the context {other} is neither a git repository nor an address of http or https");
            return Err(Error::invalid(what));
        }
    }
    let stop = Stop::default();
    let named = (!id.is_empty()).then(|| request.builder.names.add(socket.as_deref(), &id, &stop));
    let (lines, answer) = Lines::new(false);
    let buildkit = Arc::clone(&request.buildkit);
    tokio::spawn(async move {
        let _named = named;
        let ended = tokio::select! {
            biased;
            () = lines.gone() => { stop.stop(); return },
            ended = ordered(&buildkit, &session, order, (socket, &id), &stop, &lines) => ended,
        };
        if let Err(message) = ended {
            lines.say(&json!({ "errorDetail": { "message": message }, "error": message }));
        }
    });
    Ok(http::streamed(StatusCode::OK, "application/json", answer))
}

/// Builds what was ordered, and tells what goes on. An error is in the words that the client shows.
async fn ordered(
    buildkit: &BuildKit,
    session: &str,
    order: Order,
    (socket, id): (Option<PathBuf>, &str),
    stop: &Stop,
    lines: &Lines,
) -> Result<(), String> {
    let text = |failure: Failure| format!("failed to solve: {failure}");
    let archive = match order.context {
        Place::Archive => Some(buildkit.archives().take(socket, id).await.map_err(text)?),
        _ => None,
    };
    let stays = order.stays();
    let (build, told) = buildkit.order(session, order, stop.clone()).await.map_err(text)?;
    // A task of its own: stopped, it undoes what it has begun.
    let running = tokio::spawn(build.run(archive));
    while let Some(message) = told.next().await {
        let message = base64::engine::general_purpose::STANDARD.encode(message);
        lines.say(&json!({ "id": "moby.buildkit.trace", "aux": Value::String(message) }));
        lines.room().await;
    }
    match running.await {
        // What only goes to the client has no image here.
        Ok(Ok(Some(_))) if !stays => Ok(()),
        Ok(Ok(Some(built))) => {
            if let Some(id) = built.id() {
                lines.say(&json!({ "id": "moby.image.id", "aux": { "ID": id } }));
            }
            Ok(())
        }
        Ok(Ok(None)) => Ok(()),
        Ok(Err(failed)) => Err(failed.text()),
        Err(error) => Err(format!("failed to solve: {error}")),
    }
}

fn refused(failure: Failure) -> Error {
    Error::new(failure.kind, failure.message)
}
