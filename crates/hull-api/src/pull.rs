//! `POST /images/create?fromImage=…`: pulls, told as Docker's daemon tells them.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{Stream, stream};
use hull_engine::images::{News, Watch};
use hull_engine::{Engine, Error, Kind, Result};
use hull_image::Platform;
use hull_image::reference::Reference;
use hull_image::registry::{Credentials, Keep, Pulled, Step, Wanted};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::blocking::bar;
use crate::http::{self, Request, Response};

/// Who asks a registry, by the request's header; nobody where it has none.
pub(crate) fn credentials(headers: &HeaderMap) -> Credentials {
    let header = headers.get("x-registry-auth").and_then(|value| value.to_str().ok());
    header.map(Credentials::from_header).unwrap_or_default()
}

/// Pulls an image; a name without a tag stands for all tags of its repository.
pub(crate) async fn pull(request: &Request, name: &str, platform: Option<Platform>) -> Result<Response> {
    let reference = Reference::parse(name)?;
    let who = credentials(&request.headers);
    let engine = Arc::clone(&request.engine);
    if let Some(image) = builtin(&engine, &reference) {
        let shown = reference.or_latest().familiar();
        let lines = [
            json!({ "status": format!("Digest: {image}") }),
            json!({ "status": format!("Status: Image is up to date for {shown}") }),
        ];
        return Ok(http::with_type(
            StatusCode::OK,
            "application/json",
            http::full(lines.map(|line| text(&line)).concat()),
        ));
    }
    // What a Dockerfile begins with where it begins with nothing.
    if reference.familiar_name() == "scratch" {
        return Err(Error::new(Kind::Forbidden, "'scratch' is a reserved name"));
    }
    let references = match (&reference.tag, &reference.digest) {
        (None, None) => {
            let tags = engine.image_remote_tags(&reference, &who).await?;
            tags.into_iter().map(|tag| Reference { tag: Some(tag), ..reference.clone() }).collect()
        }
        _ => VecDeque::from([reference]),
    };
    let mut told = Told { engine, references, platform, who, current: None, lines: VecDeque::new() };
    // A failure before the first line is an answer of its own.
    let first = told.next().await?;
    Ok(http::streamed(StatusCode::OK, "application/json", told.stream(first)))
}

/// The image that is this machine itself, and in no registry.
fn builtin(engine: &Engine, reference: &Reference) -> Option<String> {
    let image = engine.images.resolve(&reference.clone().or_latest().familiar()).ok()?;
    image.builtin.then(|| image.id.to_string())
}

/// Pulls that are told one after the other.
struct Told {
    engine: Arc<Engine>,
    references: VecDeque<Reference>,
    platform: Option<Platform>,
    who: Credentials,
    current: Option<(Reference, Watch)>,
    lines: VecDeque<Value>,
}

impl Told {
    /// The next line; none behind the last.
    async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            let (reference, watch) = match &mut self.current {
                Some(current) => current,
                None => {
                    let Some(reference) = self.references.pop_front() else { return Ok(None) };
                    let wanted = Wanted {
                        reference: reference.clone(),
                        platform: self.platform.clone(),
                        keep: Keep::Named,
                        or_last: false,
                    };
                    let watch = self.engine.image_pull(wanted, self.who.clone());
                    self.current.insert((reference, watch))
                }
            };
            match watch.next().await {
                News::Steps(steps) => self.lines.extend(steps.iter().map(line)),
                News::End(end) => {
                    self.lines.extend(ended(reference, &end?));
                    self.current = None;
                }
            }
        }
    }

    /// All lines, the first of which is there. It is polled as long as the client is, and ends with it.
    fn stream(self, first: Option<Value>) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        stream::unfold((Some(self), first), |(told, first)| async move {
            let mut told = told?;
            let line = match first {
                Some(line) => line,
                None => match told.next().await {
                    Ok(line) => line?,
                    Err(error) => return Some((Ok(text(&failure(&error)).into()), (None, None))),
                },
            };
            Some((Ok(Bytes::from(text(&line))), (Some(told), None)))
        })
    }
}

pub(crate) fn text(line: &Value) -> String {
    format!("{line}\r\n")
}

pub(crate) fn failure(error: &Error) -> Value {
    json!({ "errorDetail": { "message": error.message }, "error": error.message })
}

/// What a pull came to, in Docker's words.
pub(crate) fn ended(reference: &Reference, pulled: &Pulled) -> [Value; 2] {
    let name = reference.familiar();
    let status = match pulled.newer {
        true => format!("Status: Downloaded newer image for {name}"),
        false => format!("Status: Image is up to date for {name}"),
    };
    [json!({ "status": format!("Digest: {}", pulled.digest) }), json!({ "status": status })]
}

pub(crate) fn line(step: &Step) -> Value {
    let mut line = json!({ "status": step.status });
    if let Some((current, total)) = step.progress {
        line["progressDetail"] = json!({ "current": current, "total": total });
        line["progress"] = json!(bar(current, total));
    } else if !step.status.starts_with("Pulling from ") {
        line["progressDetail"] = json!({});
    }
    if !step.id.is_empty() {
        line["id"] = json!(step.id);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_as_docker_tells_them() {
        let step = |status: &str, progress| {
            line(&Step { id: "a".into(), status: status.into(), progress }).to_string()
        };
        assert_eq!(step("Pulling from a/b", None), r#"{"status":"Pulling from a/b","id":"a"}"#);
        assert_eq!(
            step("Pulling fs layer", None),
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"a"}"#
        );
        assert!(step("Downloading", Some((1, 2))).starts_with(
            r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"progress":"[==="#
        ));
    }
}
