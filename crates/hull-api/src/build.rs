//! /build: Docker's classic builder, and what hull's own client asks beyond it.
//!
//! hull's client marks its body with its own content type: a line of JSON before the archive, for what must not stand in an
//! address (secrets). With `progress=events` the answer tells every event instead of the classic lines.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hull_build::progress::{Classic, Event, Listener};
use hull_build::{Builder, Built, Failure, Files, Named, Output, Prepared, Stop};
use hull_engine::model::{Config, CreateBody, HostConfig, Ulimit};
use hull_engine::{Engine, Error, Result};
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::blocking::{self, BodyReader};
use crate::build_preface::{preface, received};
use crate::http::{self, Query, Request, Response};
use crate::policy::{Guard, Judged as _};

/// The content type of a body that begins with a line of JSON.
const WITH_PREFACE: &str = "application/vnd.hull.build";

/// The longest list of what is in a folder, in bytes.
const LISTING_LIMIT: u64 = 1 << 30;

/// `POST /build/context`: what a client has in a folder; which of its files it is to send with the build. hull's own.
pub(crate) async fn context(mut request: Request) -> Result<Response> {
    let key = request.query.text("key").unwrap_or_default().to_owned();
    let socket = request.guard.as_ref().map(|guard| guard.path.clone());
    let mut listing = BodyReader::new(std::mem::take(&mut request.body)).await.take(LISTING_LIMIT);
    let builder = Arc::clone(&request.builder);
    let missing = blocking::run(move || {
        builder.compare(socket.as_deref(), &key, &mut listing).map_err(|failure| refused(&failure))
    });
    http::ok(&missing.await?.map(|missing| json!({ "Id": missing.id, "Missing": missing.files })))
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
    let (events, quiet) = (query.text("progress") == Some("events"), query.flag("q"));
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
        return Err(Error::invalid(format!(
            "the context {remote} is neither a git repository nor an address of http or https"
        )));
    }
    let id = query.text("buildid").map(str::to_owned);
    let has_preface =
        request.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == WITH_PREFACE.as_bytes());
    let builder = Arc::clone(&request.builder);
    let stop = Stop::default();
    let named = id.map(|id| builder.named(asked.socket.as_deref(), &id, &stop));
    let mut reader =
        BufReader::with_capacity(64 << 10, BodyReader::new(std::mem::take(&mut request.body)).await);
    let (preparing, stopping) = (Arc::clone(&builder), stop.clone());
    // Whoever goes away while something is fetched wants it no more.
    let mut gone = StopOnDrop(Some(stop.clone()));
    let (prepared, early) = blocking::run(move || {
        let mut told = None;
        if has_preface {
            let preface = preface(&mut reader)?;
            asked.secrets = preface.secrets()?;
            for context in &preface.contexts {
                let named = received(&preparing, context, &asked, &stopping, &mut reader)?;
                match named {
                    Named::Given(draft) if context.is_cache() => asked.cache_given.push(draft),
                    named => drop(asked.contexts.insert(context.name.to_ascii_lowercase(), named)),
                }
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
        let prepared = prepared.map_err(|failure| refused(&failure))?;
        // What comes behind the archive is read too: the client is still sending it.
        std::io::copy(&mut reader, &mut std::io::sink())
            .map_err(|error| Error::system("read the request", error))?;
        Ok((prepared, early.into_inner().unwrap_or_else(PoisonError::into_inner)))
    })
    .await?;
    gone.0 = None;
    let (lines, answer) = Lines::new(framed);
    let teller: Arc<dyn Listener> = match (events, quiet) {
        (true, _) => Arc::new(Events(lines.clone())),
        (false, true) => Arc::new(Quiet(lines.clone())),
        (false, false) => {
            let say = lines.clone();
            let classic =
                Classic::new(&prepared.plan().needed, move |line| say.say(&json!({ "stream": line })));
            Arc::new(AsClassic { lines: lines.clone(), classic })
        }
    };
    early.into_iter().for_each(|event| teller.event(event));
    warn(&prepared, &*teller);
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
        finish(prepared, teller, &lines, (events, quiet)).await;
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

/// Builds, and tells how it ended.
async fn finish(prepared: Prepared, teller: Arc<dyn Listener>, lines: &Lines, (events, quiet): (bool, bool)) {
    let names: Vec<String> = prepared.names();
    match prepared.run(Arc::clone(&teller)).await {
        Ok(Built { image, unused, told }) => {
            let id = image.id.to_string();
            if !unused.is_empty() && !quiet {
                let text =
                    format!("[Warning] One or more build-args [{}] were not consumed\n", unused.join(" "));
                lines.say(&json!({ "stream": text }));
            }
            if !quiet {
                lines.say(&json!({ "aux": { "ID": id } }));
            }
            match (events, quiet) {
                (true, _) => lines.say(&json!({ "id": "hull.build.result", "aux": told })),
                (false, true) => lines.say(&json!({ "stream": format!("{id}\n") })),
                (false, false) => {
                    lines.say(&json!({ "stream": format!("Successfully built {}\n", image.id.short()) }));
                    for name in names {
                        lines.say(&json!({ "stream": format!("Successfully tagged {name}\n") }));
                    }
                }
            }
        }
        Err(failure) => {
            let mut failure = failure;
            let detail = std::mem::take(&mut *failure.detail);
            let message = match (events, detail.classic) {
                (false, Some(classic)) => classic,
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
    }
}

/// `POST /build/prune`.
pub(crate) async fn prune(request: Request) -> Result<Response> {
    let filters = hull_engine::filter::Filters::from(request.query.filters()?);
    filters.only(&["until", "id", "unused-for"])?;
    let keep = ["reserved-space", "keep-storage"].iter().find_map(|name| request.query.text(name));
    let keep =
        keep.map(|text| text.parse::<u64>().map_err(|_| Error::invalid(format!("{text:?} is no size"))));
    let prune = hull_build::Prune {
        all: request.query.flag("all"),
        keep: keep.transpose()?.unwrap_or(0),
        until: filters.until()?,
        ids: filters.values("id").to_vec(),
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
    blocking::written("application/json", move |out| {
        let failed = |error: std::io::Error| Error::system("read the log of a build", error);
        let mut file = std::fs::File::open(&path).map_err(failed)?;
        std::io::copy(&mut file, out).map_err(failed)?;
        Ok(())
    })
    .await
}

/// `POST /build/cancel`.
pub(crate) async fn cancel(request: Request) -> Result<Response> {
    let id = request.query.text("id").ok_or_else(|| Error::invalid("build ID not provided"))?;
    let socket = request.guard.as_ref().map(|guard| guard.path.as_path());
    request.builder.cancel(socket, id);
    http::empty(StatusCode::OK)
}

/// What is not there, by its name.
pub(crate) fn refuse(query: &Query) -> Result<()> {
    match query.text("isolation") {
        None | Some("default") => Ok(()),
        Some(other) => {
            Err(Error::invalid(format!("invalid isolation: {other}: Linux has none but the default")))
        }
    }
}

/// JSON in a query's field.
fn field<T: DeserializeOwned + Default>(query: &Query, name: &str) -> Result<T> {
    let Some(text) = query.text(name) else { return Ok(T::default()) };
    let parsed: Option<T> = serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("the query's {name}={text:?} is malformed: {error}")))?;
    Ok(parsed.unwrap_or_default())
}

/// What a query asks for.
pub(crate) fn asked(query: &Query) -> Result<hull_build::Request> {
    let mut host = HostConfig {
        network_mode: query.text("networkmode").unwrap_or_default().to_owned(),
        shm_size: query.number("shmsize")?.unwrap_or(0),
        ..HostConfig::default()
    };
    // Docker's clients send a list with commas, hull's as many as there are.
    let hosts: Vec<String> = query
        .all("extrahosts")
        .flat_map(|hosts| hosts.split(','))
        .filter(|host| !host.is_empty())
        .map(str::to_owned)
        .collect();
    host.extra_hosts = (!hosts.is_empty()).then_some(hosts);
    let resources = &mut host.resources;
    resources.memory = query.number("memory")?.unwrap_or(0);
    resources.memory_swap = query.number("memswap")?.unwrap_or(0);
    resources.cpu_shares = query.number("cpushares")?.unwrap_or(0);
    resources.cpu_period = query.number("cpuperiod")?.unwrap_or(0);
    resources.cpu_quota = query.number("cpuquota")?.unwrap_or(0);
    resources.cpuset_cpus = query.text("cpusetcpus").unwrap_or_default().to_owned();
    resources.cpuset_mems = query.text("cpusetmems").unwrap_or_default().to_owned();
    resources.cgroup_parent = query.text("cgroupparent").unwrap_or_default().to_owned();
    let ulimits: Vec<Ulimit> = field(query, "ulimits")?;
    resources.ulimits = (!ulimits.is_empty()).then_some(ulimits);
    let platform = crate::images::platform(query)?;
    let tags: Vec<String> = query.all("t").filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
    let attest = hull_build::Attest::of(&field(query, "attests")?).map_err(|failure| refused(&failure))?;
    let mut outputs = Vec::new();
    for output in field::<Vec<hull_build::output::Asked>>(query, "outputs")? {
        outputs.push(Output::of(output, &tags, attest.any()).map_err(|failure| refused(&failure))?);
    }
    Ok(hull_build::Request {
        tags,
        dockerfile: query.text("dockerfile").unwrap_or_default().to_owned(),
        target: query.text("target").unwrap_or_default().to_owned(),
        build_args: field(query, "buildargs")?,
        labels: field(query, "labels")?,
        platform,
        no_cache: query.flag("nocache"),
        squash: query.flag("squash"),
        keep_failed: query.flag("keepfailed"),
        no_cache_filter: field(query, "nocachefilter")?,
        pull: query.flag("pull"),
        outputs,
        attest,
        cache_from: field(query, "cachefrom")?,
        cache_from_registry: field(query, "cachefromregistry")?,
        host,
        ..hull_build::Request::default()
    })
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

/// So many lines may wait for a client that reads slowly, until who prints waits too.
const BACKLOG: usize = 1024;

/// The answer's lines. What tells is never held up by who reads; what prints is, when it asks for room.
#[derive(Clone)]
pub(crate) struct Lines {
    pieces: mpsc::UnboundedSender<std::io::Result<Bytes>>,
    waiting: Arc<AtomicUsize>,
    taken: Arc<Notify>,
    /// Each piece is behind its channel (a byte; 1 is the lines, outputs are from 2 on) and its length (four bytes).
    framed: bool,
}

/// An output on its way to the client.
struct Sending {
    lines: Lines,
    channel: u8,
    runtime: tokio::runtime::Handle,
}

impl std::io::Write for Sending {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.runtime.block_on(self.lines.room());
        if self.lines.pieces.is_closed() {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.lines.send(self.channel, data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(crate) fn new(
        framed: bool,
    ) -> (Lines, impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static) {
        let (pieces, receiver) = mpsc::unbounded_channel();
        let lines = Lines { pieces, waiting: Arc::default(), taken: Arc::default(), framed };
        let (waiting, taken) = (Arc::clone(&lines.waiting), Arc::clone(&lines.taken));
        let stream = futures_util::stream::unfold(receiver, move |mut receiver| {
            let (waiting, taken) = (Arc::clone(&waiting), Arc::clone(&taken));
            async move {
                let piece = receiver.recv().await?;
                waiting.fetch_sub(1, Ordering::Relaxed);
                taken.notify_waiters();
                Some((piece, receiver))
            }
        });
        (lines, stream)
    }

    pub(crate) fn say(&self, line: &Value) {
        self.send(1, format!("{line}\r\n").as_bytes());
    }

    fn send(&self, channel: u8, bytes: &[u8]) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let head = [&[channel][..], &(bytes.len() as u32).to_be_bytes()].concat();
        let piece = if self.framed { [&head[..], bytes].concat() } else { bytes.to_vec() };
        // A client that is gone hears nothing.
        let _ = self.pieces.send(Ok(piece.into()));
    }

    /// Waits until nobody reads any more.
    pub(crate) async fn gone(&self) {
        self.pieces.closed().await;
    }

    /// Waits until what was said has been taken, more or less.
    pub(crate) async fn room(&self) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // Registered before it is looked at, so that what is taken in between is not missed.
            taken.as_mut().enable();
            if self.waiting.load(Ordering::Relaxed) < BACKLOG || self.pieces.is_closed() {
                return;
            }
            tokio::select! {
                () = taken => {}
                () = self.pieces.closed() => return,
            }
        }
    }
}

type Room<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Every event as it is.
struct Events(Lines);

impl Listener for Events {
    fn event(&self, event: Event) {
        match serde_json::to_value(&event) {
            Ok(event) => self.0.say(&json!({ "id": "hull.build", "aux": event })),
            Err(error) => tracing::error!(%error, "an event of a build could not be written"),
        }
    }

    fn room(&self) -> Room<'_> {
        Box::pin(self.0.room())
    }

    fn output(&self, number: usize) -> Option<Box<dyn std::io::Write + Send>> {
        let channel = u8::try_from(number + 2).ok().filter(|_| self.0.framed)?;
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        Some(Box::new(Sending { lines: self.0.clone(), channel, runtime }))
    }
}

/// The classic builder's lines.
struct AsClassic {
    lines: Lines,
    classic: Classic,
}

impl Listener for AsClassic {
    fn event(&self, event: Event) {
        match event {
            Event::Warning { text, .. } => {
                self.lines.say(&json!({ "stream": format!("[Warning] {text}\n") }));
            }
            event => self.classic.event(event),
        }
    }

    fn room(&self) -> Room<'_> {
        Box::pin(self.lines.room())
    }
}

impl Drop for AsClassic {
    fn drop(&mut self) {
        self.classic.finish();
    }
}

/// Nothing.
struct Quiet(Lines);

impl Listener for Quiet {
    fn event(&self, _: Event) {}

    fn room(&self) -> Room<'_> {
        Box::pin(self.0.room())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/build?{text}").parse().unwrap())
    }

    #[test]
    fn every_field_is_read() {
        let asked = asked(&query(
            "t=a&t=b:1&dockerfile=D&target=x&buildargs=%7B%22A%22:%221%22,%22B%22:null%7D&labels=%7B%22l%22:%22v%22%7D&nocache=1&\
             memory=1000&cpuquota=5&shmsize=7&networkmode=none&extrahosts=a:1.2.3.4,b:5.6.7.8&cachefrom=%5B%22c%22%5D&\
             ulimits=%5B%7B%22Name%22:%22nofile%22,%22Soft%22:1,%22Hard%22:2%7D%5D&cgroupparent=/p&platform=linux/arm64",
        ))
        .unwrap();
        assert_eq!(
            (asked.tags, asked.dockerfile.as_str(), asked.target.as_str()),
            (vec!["a".into(), "b:1".into()], "D", "x")
        );
        assert_eq!(asked.build_args["A"].as_deref(), Some("1"));
        assert_eq!(asked.build_args["B"], None);
        assert!(asked.no_cache && asked.labels["l"] == "v" && asked.cache_from == ["c"]);
        let host = asked.host;
        assert_eq!((host.resources.memory, host.resources.cpu_quota, host.shm_size), (1000, 5, 7));
        assert_eq!((host.network_mode.as_str(), host.resources.cgroup_parent.as_str()), ("none", "/p"));
        assert_eq!(host.extra_hosts.unwrap(), ["a:1.2.3.4", "b:5.6.7.8"]);
        assert_eq!(host.resources.ulimits.unwrap()[0].hard, 2);
        assert_eq!(asked.platform.unwrap().architecture, "arm64");
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        refuse(&query("rm=0&version=1&outputs=null&remote=&squash=0")).unwrap();
        assert!(asked(&query("buildargs=x")).is_err());
        assert!(
            asked(&query("outputs=%5B%7B%22Type%22:%22what%22%7D%5D")).unwrap_err().message.contains("what")
        );
        assert!(asked(&query("t=a&outputs=%5B%7B%22Type%22:%22registry%22%7D%5D")).unwrap().outputs[0].push);
        assert!(asked(&query("memory=x")).is_err());
    }
}
