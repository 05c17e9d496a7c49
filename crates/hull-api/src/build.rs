//! /build: Docker's classic builder, and what hull's own client asks beyond it.
//!
//! hull's client marks its body with its own content type: a line of JSON before the archive, for what must not stand in an
//! address (secrets). With `progress=events` the answer tells every event instead of the classic lines.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _};
use std::sync::{Arc, Mutex, PoisonError};

use hull_build::progress::{Event, Listener};
use hull_build::{Builder, Built, Failure, Files, Prepared, Stop};
use hull_engine::model::{Config, CreateBody, HostConfig};
use hull_engine::{Engine, Error, Result};
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use serde_json::json;

use crate::blocking;
use crate::build_answer::{AsClassic, Events, Lines, Withheld};
use crate::build_preface::{preface, received};
use crate::build_query::{asked, field, refuse};
use crate::http::{self, Request, Response};
use crate::policy::{Guard, Judged as _};

/// The content type of a body that begins with a line of JSON.
const WITH_PREFACE: &str = "application/vnd.hull.build";

/// The longest list of what is in a folder, in bytes: a million files. A folder with more in it is sent whole.
const LISTING_LIMIT: u64 = 64 << 20;

/// `POST /build/context`: what a client has in a folder; which of its files it is to send with the build. With `digest`
/// only whether that listing is the kept one's: null where it is not. hull's own.
pub(crate) async fn context(mut request: Request) -> Result<Response> {
    let key = request.query.text("key").unwrap_or_default().to_owned();
    let socket = request.guard.as_ref().map(|guard| guard.path.clone());
    let builder = Arc::clone(&request.builder);
    let shown = |missing: Option<hull_build::Missing>| {
        http::ok(&missing.map(|missing| json!({ "Id": missing.id, "Missing": missing.files })))
    };
    if let Some(digest) = request.query.text("digest") {
        let digest = digest.parse().map_err(|_| Error::invalid(format!("{digest:?} is no digest")))?;
        let missing = blocking::run(move || {
            builder.is_kept(socket.as_deref(), &key, digest).map_err(|failure| refused(&failure))
        });
        return shown(missing.await?);
    }
    let mut listing = request.reader().await?.take(LISTING_LIMIT);
    let missing = blocking::run(move || {
        builder.compare(socket.as_deref(), &key, &mut listing).map_err(|failure| refused(&failure))
    });
    shown(missing.await?)
}

/// `POST /build`.
pub(crate) async fn build(mut request: Request) -> Result<Response> {
    if request.query.text("version") == Some("2") {
        return crate::buildkit::build(request).await;
    }
    refuse(&request.query)?;
    let mut asked = asked(&request.query)?;
    if let Some(header) = request.headers.get("x-registry-config").and_then(|header| header.to_str().ok()) {
        asked.registries = hull_image::registry::Credentials::from_config_header(header);
    }
    judged(&request.engine, request.guard.as_ref(), &mut asked)?;
    let query = &request.query;
    let agents: Vec<String> = field(query, "agents")?;
    if !agents.is_empty() {
        let session = query.text("session");
        let session = session.ok_or_else(|| Error::invalid("agents are on a session: name it (session)"))?;
        let found = request.buildkit.agents(session, asked.socket.clone(), &agents).await;
        asked.agents = found.map_err(|failure| refused(&failure))?;
    }
    let (events, quiet) = (query.text("progress") == Some("events"), query.flag("q"));
    asked.classic = !events;
    let check_only = query.flag("check");
    // Archives are in the answer beside its lines, for clients that know of frames.
    let framed = query.flag("framed");
    if !framed && asked.outputs.iter().any(|output| output.archive.is_some()) {
        return Err(Error::unsupported(
            "an output that is sent to the client (local, tar, oci, docker), without hull's own client",
        ));
    }
    let remote = query.text("remote").filter(|remote| !remote.is_empty()).map(str::to_owned);
    if let Some(remote) = remote.as_ref().filter(|remote| !hull_build::is_elsewhere(remote)) {
        return Err(Error::invalid(format!("remoteURL ({remote}) could not be recognized as URL")));
    }
    let id = query.text("buildid").map(str::to_owned);
    let has_preface =
        request.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == WITH_PREFACE.as_bytes());
    let builder = Arc::clone(&request.builder);
    let stop = Stop::default();
    let socket = request.guard.as_ref().map(|guard| guard.path.clone());
    let named = id.map(|id| builder.names.add(socket.as_deref(), &id, &stop));
    let mut reader = BufReader::with_capacity(64 << 10, request.reader().await?);
    let (preparing, stopping) = (Arc::clone(&builder), stop.clone());
    // Whoever goes away while something is fetched wants it no more.
    let mut gone = StopOnDrop(Some(stop.clone()));
    let (prepared, early) = blocking::run(move || {
        let mut told = None;
        if has_preface {
            let preface = preface(&mut reader)?;
            asked.secrets = preface.secrets()?;
            for context in &preface.contexts {
                received(&preparing, context, &mut asked, &stopping, &mut reader)?;
            }
            asked.dockerfile_text = preface.dockerfile;
            told = preface.context;
        }
        let files = match &told {
            Some(id) => Files::Told(id, &mut reader),
            None => Files::Archive(&mut reader),
        };
        let early = Mutex::new(Vec::new());
        let tell = |event| early.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        let prepared = match remote {
            None => preparing.prepare(asked, files, &stopping, &tell),
            Some(remote) => fetched(&preparing, asked, &remote, &stopping, &tell),
        };
        let prepared = prepared.map_err(|failure| match events {
            true => refused(&failure),
            false => Error::new(failure.kind, failure.detail.classic.unwrap_or(failure.message)),
        })?;
        // What comes behind the archive is read too: the client is still sending it.
        std::io::copy(&mut reader, &mut std::io::sink())
            .map_err(|error| Error::system("read the request", error))?;
        Ok((prepared, early.into_inner().unwrap_or_else(PoisonError::into_inner)))
    })
    .await?;
    gone.0 = None;
    let (lines, answer) = Lines::new(framed);
    let withheld = (quiet && !events).then(Withheld::default);
    let teller: Arc<dyn Listener> = match events {
        true => Arc::new(Events(lines.clone())),
        false => Arc::new(AsClassic::new(prepared.plan(), &lines, withheld.clone())),
    };
    early.into_iter().for_each(|event| teller.event(event));
    if events || check_only {
        warn(&prepared, &*teller);
    }
    if check_only {
        return Ok(http::streamed(StatusCode::OK, content_type(framed), answer));
    }
    tokio::spawn(async move {
        let _named = named;
        let gone = lines.clone();
        let watch = tokio::spawn(async move {
            gone.gone().await;
            stop.stop();
        });
        let how = if events { How::Events } else { How::Classic(withheld) };
        finish(prepared, teller, &lines, how).await;
        watch.abort();
    });
    Ok(http::streamed(StatusCode::OK, content_type(framed), answer))
}

/// What an answer is: lines of JSON, or frames of lines and of archives.
fn content_type(framed: bool) -> &'static str {
    if framed { "application/vnd.hull.build.frames" } else { "application/json" }
}

/// Ends a build where nobody waits for what begins it any more.
struct StopOnDrop(Option<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(stop) = &self.0 {
            stop.stop();
        }
    }
}

/// Fetches the context of a build, on a thread that may block.
fn fetched(
    builder: &Builder,
    mut asked: hull_build::Request,
    remote: &str,
    stop: &Stop,
    tell: &dyn Fn(Event),
) -> std::result::Result<Prepared, Failure> {
    let begun = std::time::Instant::now();
    let fetching = builder.fetch_context(remote, &mut asked, stop);
    let context = tokio::runtime::Handle::current().block_on(fetching)?;
    tell(Event::Context { seconds: begun.elapsed().as_secs_f64(), bytes: 0 });
    builder.prepare_with(asked, context, stop)
}

/// Has a socket's policy judge a build: a step is a container, and what the socket refuses to those it refuses to it.
pub(crate) fn judged(
    engine: &Arc<Engine>,
    guard: Option<&Arc<Guard>>,
    asked: &mut hull_build::Request,
) -> Result<()> {
    let judge = |body: &mut CreateBody| guard.map_or(Ok(()), |guard| body.judge(&guard.on(engine)));
    let mut body = CreateBody {
        config: Config { labels: Some(BTreeMap::new()), ..Config::default() },
        host_config: std::mem::take(&mut asked.host),
        ..CreateBody::default()
    };
    judge(&mut body)?;
    asked.may_fetch = judge_fetching(engine, guard).is_ok();
    asked.socket = guard.map(|guard| guard.path.clone());
    asked.host = body.host_config;
    asked.step_labels = body.config.labels.unwrap_or_default();
    asked.labels.extend(asked.step_labels.clone());
    Ok(())
}

/// Judges a fetch of an address by the daemon, which does so from the host's network.
///
/// # Errors
/// The socket keeps that from containers, and so from this.
pub(crate) fn judge_fetching(engine: &Arc<Engine>, guard: Option<&Arc<Guard>>) -> Result<()> {
    let host_config = HostConfig { network_mode: "host".to_owned(), ..HostConfig::default() };
    let mut of_the_host = CreateBody { host_config, ..CreateBody::default() };
    guard.map_or(Ok(()), |guard| of_the_host.judge(&guard.on(engine)))
}

/// How a build is told.
enum How {
    /// Every event, to hull's own client.
    Events,
    /// As Docker's classic builder does; what is withheld where only the image's id is wanted.
    Classic(Option<Withheld>),
}

/// Builds, and tells how it ended.
async fn finish(prepared: Prepared, teller: Arc<dyn Listener>, lines: &Lines, how: How) {
    let names: Vec<String> = prepared.names();
    let squashed = prepared.request().squash;
    let built = prepared.run(teller).await;
    match (built, how) {
        (Ok(built), How::Events) => {
            if !built.unused.is_empty() {
                lines.say(&json!({ "stream": not_consumed(&built.unused) }));
            }
            if let Some(id) = built.id() {
                lines.say(&json!({ "aux": { "ID": id } }));
            }
            lines.say(&json!({ "id": "hull.build.result", "aux": built.told }));
        }
        (Ok(Built { image, .. }), How::Classic(Some(_))) => {
            lines.say(&json!({ "stream": format!("{}\n", image.id) }));
        }
        (Ok(Built { image, unused, .. }), How::Classic(None)) => {
            if !unused.is_empty() {
                lines.say(&json!({ "stream": not_consumed(&unused) }));
            }
            // Each stage has told its own, but this is made of that.
            if squashed {
                lines.say(&json!({ "aux": { "ID": image.id.to_string() } }));
            }
            lines.say(&json!({ "stream": format!("Successfully built {}\n", image.id.short()) }));
            for name in names {
                lines.say(&json!({ "stream": format!("Successfully tagged {name}\n") }));
            }
        }
        (Err(failure), how) => failed(failure, lines, &how),
    }
}

fn not_consumed(unused: &[String]) -> String {
    format!("[Warning] One or more build-args [{}] were not consumed\n", unused.join(" "))
}

/// Tells why a build failed.
fn failed(mut failure: Failure, lines: &Lines, how: &How) {
    let detail = std::mem::take(&mut *failure.detail);
    let events = matches!(how, How::Events);
    if let How::Classic(Some(withheld)) = how {
        withheld.told(lines);
    }
    let message = match detail.classic {
        Some(classic) if !events => classic,
        _ => failure.message,
    };
    let mut told = json!({ "message": message });
    if let Some(code) = detail.code {
        told["code"] = json!(code);
    }
    if events {
        told["excerpt"] = json!(detail.excerpt);
        told["output"] = json!(detail.output);
    }
    lines.say(&json!({ "errorDetail": told, "error": message }));
}

/// `POST /build/cancel`.
pub(crate) async fn cancel(request: Request) -> Result<Response> {
    let id = request.query.text("id").ok_or_else(|| Error::invalid("build ID not provided"))?;
    request.builder.names.cancel(request.guard.as_ref().map(|guard| &*guard.path), id);
    http::empty(StatusCode::OK)
}

/// A build that does not begin.
pub(crate) fn refused(failure: &Failure) -> Error {
    let excerpt = &failure.detail.excerpt;
    let message = match excerpt.is_empty() {
        true => failure.message.clone(),
        false => format!("{}\n{excerpt}", failure.message),
    };
    Error::new(failure.kind, message)
}

/// Tells what is unwise about a Dockerfile.
fn warn(prepared: &Prepared, teller: &dyn Listener) {
    for warning in &prepared.warnings {
        teller.event(Event::Warning {
            text: format!("{}: {} (line {})", warning.rule, warning.message, warning.at.line),
            excerpt: format!(
                "{}\n{}",
                warning.description,
                prepared.source().excerpt(warning.at, warning.at.line)
            ),
        });
    }
}
