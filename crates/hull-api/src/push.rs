//! `POST /images/NAME/push`, told as Docker's daemon tells it; and what else registries are asked: `/auth`,
//! `/distribution/NAME/json`, `/images/search`, and hull's own `/hull/images/referrers` and `/hull/images/verify`.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use hull_engine::filter::Filters;
use hull_engine::images::Pushing;
use hull_engine::{Error, Result};
use hull_image::reference::Reference;
use hull_image::registry::Credentials;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::http::{self, Request, Response};
use crate::images::{platform, with_tag};
use crate::pull::{credentials, failure, line, text};

/// How many lines may wait for a client. Of one that reads slower only the progress is lost: all other lines of an image
/// of as many layers as there can be fit into half of this.
const LINES: usize = 8192;

/// Pushes an image, or all tags of its repository.
pub(crate) async fn push(mut request: Request) -> Result<Response> {
    let platform = platform(&request.query)?;
    let reference = Reference::parse(&with_tag(request.capture(0), request.query.text("tag"))?)?;
    if reference.digest.is_some() {
        return Err(Error::invalid("cannot push a digest reference"));
    }
    let who = who(&mut request).await?;
    let engine = Arc::clone(&request.engine);
    let (sender, lines) = mpsc::channel::<Value>(LINES);
    tokio::spawn(async move {
        let said = sender.clone();
        let tell = Arc::new(move |pushing: Pushing| {
            let is_progress = matches!(&pushing, Pushing::Step(step) if step.progress.is_some());
            if is_progress && said.capacity() < LINES / 2 {
                return;
            }
            for line in told(pushing) {
                // Whoever has gone hears nothing, and the push ends.
                let _ = said.try_send(line);
            }
        });
        let pushed = tokio::select! {
            pushed = engine.image_push(&reference, platform.as_ref(), &who, tell) => pushed,
            () = sender.closed() => return,
        };
        if let Err(error) = pushed {
            let _ = sender.send(failure(&error)).await;
        }
    });
    let lines = stream::unfold(lines, |mut lines| async move {
        let line = lines.recv().await?;
        Some((Ok(Bytes::from(text(&line))), lines))
    });
    Ok(http::streamed(StatusCode::OK, "application/json", lines))
}

/// Who pushes: by the header, or as clients of long ago have it, by the body. One of the two must be there.
async fn who(request: &mut Request) -> Result<Credentials> {
    if request.headers.get("x-registry-auth").is_some_and(|value| !value.is_empty()) {
        return Ok(credentials(&request.headers));
    }
    let body = request.bytes().await?;
    let missing = |why: &str| {
        Error::invalid(format!(
            "bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header: {why}"
        ))
    };
    if body.is_empty() {
        return Err(missing("EOF"));
    }
    // The parser's own words could quote what it reads.
    Credentials::from_json(&body).map_err(|_| missing("its body is no JSON of credentials"))
}

/// The lines that tell of a push.
fn told(pushing: Pushing) -> Vec<Value> {
    match pushing {
        Pushing::To(name) => vec![json!({ "status": format!("The push refers to repository [{name}]") })],
        Pushing::Step(step) => vec![line(&step)],
        Pushing::Sent(tag, sent) => vec![
            json!({ "status": format!("{tag}: digest: {} size: {}", sent.digest, sent.size) }),
            json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": sent.digest, "Size": sent.size } }),
        ],
    }
}

/// `POST /auth`: tries credentials.
pub(crate) async fn auth(mut request: Request) -> Result<Response> {
    let body = request.bytes().await?;
    if body.is_empty() {
        return Err(Error::invalid(
            "invalid JSON: got EOF while reading request body: it is to have username, password and serveraddress",
        ));
    }
    let who = Credentials::from_json(&body).map_err(|_| {
        Error::invalid("the request's body is no JSON of credentials (username, password, serveraddress)")
    })?;
    http::ok(&request.engine.registry_login(&who).await?)
}

/// `GET /distribution/NAME/json`: what a name means in its registry.
pub(crate) async fn distribution(request: Request) -> Result<Response> {
    let who = credentials(&request.headers);
    http::ok(&request.engine.image_remote(request.capture(0), &who).await?)
}

/// `GET /hull/images/referrers?name=NAME&artifact-type=TYPE`: what refers to an image in its registry.
pub(crate) async fn referrers(request: Request) -> Result<Response> {
    let (name, who) = (request.query.text("name").unwrap_or_default(), credentials(&request.headers));
    let wanted = request.query.text("artifact-type").filter(|wanted| !wanted.is_empty());
    http::ok(&request.engine.image_referrers(name, wanted, &who).await?)
}

/// `POST /hull/images/verify?name=NAME`, its body a public key in PEM: whether the image is signed with that.
pub(crate) async fn verify(mut request: Request) -> Result<Response> {
    let (name, who) =
        (request.query.text("name").unwrap_or_default().to_owned(), credentials(&request.headers));
    let key = request.bytes().await?;
    let key =
        str::from_utf8(&key).map_err(|_| Error::invalid("the key is no public key in PEM: it is no text"))?;
    http::ok(&request.engine.image_verify(&name, key, &who).await?)
}

/// `GET /images/search`.
pub(crate) async fn search(request: Request) -> Result<Response> {
    let query = &request.query;
    let term = query.text("term").unwrap_or_default();
    let filters = Filters::from(query.filters()?);
    let who = credentials(&request.headers);
    http::ok(&request.engine.image_search(term, query.number("limit")?, &filters, &who).await?)
}

#[cfg(test)]
mod tests {
    use hull_image::Digest;
    use hull_image::registry::{Sent, Step};

    use super::*;

    #[test]
    fn a_push_is_told_as_docker_tells_it() {
        let texts = |pushing| told(pushing).iter().map(Value::to_string).collect::<Vec<_>>().join("|");
        assert_eq!(
            texts(Pushing::To("r:1/a".into())),
            r#"{"status":"The push refers to repository [r:1/a]"}"#
        );
        let step = Step { id: "x".into(), status: "Layer already exists".into(), progress: None };
        assert_eq!(
            texts(Pushing::Step(step)),
            r#"{"status":"Layer already exists","progressDetail":{},"id":"x"}"#
        );
        let digest = Digest::of(b"");
        assert_eq!(
            texts(Pushing::Sent("1".into(), Sent { digest, size: 7, media_type: String::new() })),
            format!(
                "{{\"status\":\"1: digest: {digest} size: 7\"}}|{{\"progressDetail\":{{}},\"aux\":{{\"Tag\":\"1\",\"Digest\":\"{digest}\",\"Size\":7}}}}"
            )
        );
    }
}
