//! What the registry of a test's own is sent.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::{Answer, Asked, State, digest};

/// The body of a request, of a length that was said or in chunks; none where it breaks off.
pub(super) fn body(headers: &[(String, String)], reader: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    if header("transfer-encoding") == Some("chunked") {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim_end(), 16).ok()?;
            let start = body.len();
            // The chunk and the end of its line.
            body.resize(start + length + 2, 0);
            reader.read_exact(&mut body[start..]).ok()?;
            body.truncate(start + length);
            if length == 0 {
                return Some(body);
            }
        }
    }
    let mut body = vec![0; header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

/// What a registry should answer to who sends something; none where nothing is sent.
pub(super) fn proper(state: &State, asked: &Asked) -> Option<Answer> {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    let mut uploads = state.lock(&state.uploads);
    let repository = path.split("/blobs/").next().unwrap_or_default();
    let goes_on = |upload: &str| {
        let place = format!("{repository}/blobs/uploads/{upload}");
        Answer::of(202, "text/plain", "").with("Location", &place)
    };
    match asked.method.as_str() {
        "POST" if path.ends_with("/blobs/uploads/") => {
            let upload = state.uploads_begun.fetch_add(1, Ordering::Relaxed).to_string();
            uploads.insert(upload.clone(), Vec::new());
            Some(goes_on(&upload))
        }
        "PATCH" => {
            let upload = path.rsplit('/').next()?;
            let bytes = uploads.get_mut(upload)?;
            // A piece that was refused by who stands before this comes again, to its place.
            if let Some((start, _)) = asked.header("content-range").and_then(|range| range.split_once('-')) {
                bytes.truncate(start.parse().ok()?);
            }
            bytes.extend_from_slice(&asked.body);
            Some(goes_on(upload))
        }
        "PUT" if path.contains("/blobs/uploads/") => {
            let mut bytes = uploads.remove(path.rsplit('/').next()?)?;
            bytes.extend_from_slice(&asked.body);
            let named = parameter("digest").unwrap_or_default();
            if digest(&bytes) != named {
                let error = json!({ "code": "DIGEST_INVALID", "message": "provided digest did not match uploaded content" });
                return Some(Answer::json(400, &json!({ "errors": [error] })));
            }
            let mut content = state.lock(&state.content);
            content.insert(format!("blobs/{named}"), ("application/octet-stream".to_owned(), bytes));
            Some(Answer::of(201, "text/plain", ""))
        }
        "PUT" => {
            let media_type = asked.header("content-type").unwrap_or_default().to_owned();
            let digest = digest(&asked.body);
            let mut content = state.lock(&state.content);
            for name in [digest.as_str(), path.rsplit('/').next()?] {
                content.insert(format!("manifests/{name}"), (media_type.clone(), asked.body.clone()));
            }
            Some(Answer::of(201, "text/plain", "").with("Docker-Content-Digest", &digest))
        }
        _ => None,
    }
}
