//! /_ping, /version, /info, /events, /system/df.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use hull_engine::container::ListOptions;
use hull_engine::events::{Event, Subscription, check_filters};
use hull_engine::filter::{Filters, moment_ns};
use hull_engine::images::ImageQuery;
use hull_engine::system::{DiskQuery, now_ns};
use hull_engine::{Engine, Error, Result};
use hyper::StatusCode;
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderName, HeaderValue, PRAGMA};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use serde_json::{Value, json};

use crate::blocking;
use crate::ended;
use crate::http::{self, NEWEST, OLDEST, Request, Response};

/// `GET` and `HEAD /_ping`: that it is there, and with every answer's headers what it speaks.
pub(crate) async fn ping(_request: Request) -> Result<Response> {
    let mut response = http::with_type(StatusCode::OK, "text/plain; charset=utf-8", http::full("OK"));
    let headers = response.headers_mut();
    for (name, value) in [
        // Version 2 speaks BuildKit's protocol.
        ("builder-version", "2"),
        ("swarm", "inactive"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(response)
}

pub(crate) async fn version(request: Request) -> Result<Response> {
    http::ok(&request.engine.version((&format!("1.{OLDEST}"), &format!("1.{NEWEST}"))))
}

pub(crate) async fn info(request: Request) -> Result<Response> {
    let engine = request.engine.clone();
    let mut info = blocking::run(move || Ok(engine.info())).await?;
    if let Some(label) = request.guard.as_ref().and_then(|guard| guard.label_filter()) {
        count_the_seen(&request.engine, &label, &mut info)?;
    }
    ended::in_info(&mut info, request.version);
    http::ok(&info)
}

/// Counts what carries a label, in the place of all.
fn count_the_seen(engine: &Engine, label: &str, info: &mut Value) -> Result<()> {
    let filters = BTreeMap::from([("label".to_owned(), vec![label.to_owned()])]);
    let containers =
        engine.list(&ListOptions { all: true, filters: filters.clone(), ..ListOptions::default() })?;
    let images = engine.image_list(&ImageQuery {
        all: true,
        filters: Filters::from(filters),
        ..ImageQuery::default()
    })?;
    let count = |state: &[&str]| {
        let of = |shown: &&Value| shown["State"].as_str().is_some_and(|is| state.contains(&is));
        containers.iter().filter(of).count()
    };
    let (running, paused) = (count(&["running", "restarting"]), count(&["paused"]));
    info["Containers"] = json!(containers.len());
    info["ContainersRunning"] = json!(running);
    info["ContainersPaused"] = json!(paused);
    info["ContainersStopped"] = json!(containers.len() - running - paused);
    info["Images"] = json!(images.len());
    Ok(())
}

/// `GET /hull/fsck`: whether all that is on the disk is accounted for.
pub(crate) async fn fsck(request: Request) -> Result<Response> {
    http::ok(&request.engine.fsck(false, request.query.flag("contents")).await?)
}

/// `POST /hull/fsck`: the same, and orphans go.
pub(crate) async fn repair(request: Request) -> Result<Response> {
    http::ok(&request.engine.fsck(true, request.query.flag("contents")).await?)
}

pub(crate) async fn disk_usage(request: Request) -> Result<Response> {
    // Before 1.42 everything was told, whatever was asked.
    let types: Vec<&str> = request.query.all("type").filter(|_| request.version >= 42).collect();
    let named = types.contains(&"build-cache");
    let mut query = DiskQuery::of(types.into_iter(), request.query.flag("verbose"))?;
    // It says what everybody's builds did: the commands, with the values of their arguments.
    query.build_cache &= request.guard.is_none();
    if named && !query.build_cache {
        let message = "this socket has a policy, and what builds have kept (build-cache) is not its own";
        return Err(Error::new(hull_engine::Kind::Forbidden, message));
    }
    let mut usage = request.engine.disk_usage(query, request.version).await?;
    if query.build_cache {
        let builder = Arc::clone(&request.builder);
        let caches = blocking::run(move || {
            builder.caches().map_err(|failure| Error::new(failure.kind, failure.message))
        });
        crate::build_kept::add_caches(&mut usage, &caches.await?);
    }
    if request.version >= ended::BUILDER_SIZE
        && let Value::Object(members) = &mut usage
    {
        members.shift_remove("BuilderSize");
    }
    if request.knows_the_end_of(ended::LISTS_OF_USAGE)
        || (request.knows_the_end_of(ended::SHAPES_OF_OLD) && query.verbose)
    {
        ended::in_disk_usage(&mut usage);
    }
    http::ok(&usage)
}

/// What happened since a time, and what happens until another; without that, as long as the client listens.
pub(crate) async fn events(request: Request) -> Result<Response> {
    let filters = Filters::from(request.query.filters()?);
    check_filters(&filters)?;
    let now = now_ns();
    let time = |name: &str| request.query.text(name).map(|text| moment_ns(text, now)).transpose();
    let (since, until) = (time("since")?, time("until")?);
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        let asked = |name: &str| request.query.text(name).unwrap_or_default().to_owned();
        return Err(Error::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            asked("since"),
            asked("until")
        )));
    }
    // A time in the past ends the stream behind what is known of before it.
    let end = until
        .map(|until| Instant::now() + Duration::from_nanos(u64::try_from(until - now).unwrap_or_default()));
    let Subscription { past, receiver } = request.engine.events.subscribe(since.or(until.map(|_| i64::MIN)));
    let past = past.into_iter().filter(move |event| until.is_none_or(|until| event.time_ns <= until));
    let accepted = request.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = accepted.filter(|_| request.version >= 52).and_then(Form::accepted).unwrap_or(Form::Json);
    let past = past.collect::<Vec<_>>().into_iter();
    let old_words = !request.knows_the_end_of(ended::SHAPES_OF_OLD);
    let listening = Listening { past, receiver, end, filters, form, old_words };
    Ok(http::streamed(StatusCode::OK, form.content_type(), listening.lines()))
}

/// How events are told apart, and what that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Lines, under the name that they had before 1.52.
    Json,
    /// Lines.
    Jsonl,
    /// Lines.
    Ndjson,
    /// Each behind a record separator (RFC 7464).
    Sequence,
}

impl Form {
    const ALL: [Form; 4] = [Form::Json, Form::Jsonl, Form::Ndjson, Form::Sequence];

    /// The first that a client accepts by its name; none: it accepts whatever comes.
    fn accepted(header: &str) -> Option<Form> {
        let mut names = header.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
        names.find_map(|name| Form::ALL.into_iter().find(|form| form.content_type() == name))
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Jsonl => "application/jsonl",
            Form::Ndjson => "application/x-ndjson",
            Form::Sequence => "application/json-seq",
        }
    }

    fn separator(self) -> &'static str {
        if self == Form::Sequence { "\u{1e}" } else { "" }
    }
}

/// A client that listens to events.
struct Listening {
    past: std::vec::IntoIter<Arc<Event>>,
    receiver: tokio::sync::broadcast::Receiver<Arc<Event>>,
    end: Option<Instant>,
    filters: Filters,
    form: Form,
    /// An event is also told in the words of before 1.22.
    old_words: bool,
}

impl Listening {
    fn lines(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        stream::unfold(Some(self), |listening| async move {
            let mut listening = listening?;
            match listening.next().await {
                Ok(Some(event)) => {
                    let mut shown = event.shown();
                    if !listening.old_words {
                        ended::in_event(&mut shown);
                    }
                    let line = format!("{}{shown}\n", listening.form.separator());
                    Some((Ok(Bytes::from(line)), Some(listening)))
                }
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The next event that passes the filters; none: it is time to end.
    async fn next(&mut self) -> std::io::Result<Option<Arc<Event>>> {
        loop {
            let event = match self.past.next() {
                Some(event) => event,
                None => match self.receive().await? {
                    Some(event) => event,
                    None => return Ok(None),
                },
            };
            if event.passes(&self.filters) {
                return Ok(Some(event));
            }
        }
    }

    async fn receive(&mut self) -> std::io::Result<Option<Arc<Event>>> {
        let received = match self.end {
            None => self.receiver.recv().await,
            Some(end) => match tokio::time::timeout_at(end, self.receiver.recv()).await {
                Ok(received) => received,
                Err(_) => return Ok(None),
            },
        };
        match received {
            Ok(event) => Ok(Some(event)),
            Err(RecvError::Closed) => Ok(None),
            // A stream that is cut off says that something is missing; one with a hole would not.
            Err(RecvError::Lagged(missed)) => {
                Err(std::io::Error::other(format!("the client fell behind by {missed} events")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_form_that_a_client_names_first() {
        for (header, form) in [
            ("application/json-seq, application/jsonl", Some(Form::Sequence)),
            ("text/html;q=1, application/x-ndjson;q=0.5", Some(Form::Ndjson)),
            ("application/jsonl", Some(Form::Jsonl)),
            ("*/*", None),
            ("", None),
        ] {
            assert_eq!(Form::accepted(header), form, "{header}");
        }
    }
}
