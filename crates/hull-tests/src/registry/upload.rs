//! What the registry of a test's own is sent.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::{Answer, Asked, State, digest};

/// After how many bytes the line of this request is cut.
pub(super) fn cut(state: &State) -> Option<usize> {
    let number = state.parts.fetch_add(1, Ordering::Relaxed);
    let cuts = state.lock(&state.cuts).clone();
    cuts.and_then(|after| after(number))
}

/// The body of a request, of a length that was said or in chunks, or its first bytes; whether that is all of it. None where it
/// breaks off.
pub(super) fn body(
    headers: &[(String, String)],
    reader: &mut BufReader<TcpStream>,
    limit: usize,
) -> Option<(Vec<u8>, bool)> {
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim_end(), 16).ok()?;
            let start = body.len();
            if length > 0 && start + length > limit {
                body.resize(limit, 0);
                reader.read_exact(&mut body[start..]).ok()?;
                return Some((body, false));
            }
            // The chunk and the end of its line.
            body.resize(start + length + 2, 0);
            reader.read_exact(&mut body[start..]).ok()?;
            body.truncate(start + length);
            if length == 0 {
                return Some((body, true));
            }
        }
    }
    let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    body.resize(limit.min(length), 0);
    reader.read_exact(&mut body).ok()?;
    Some((body, limit >= length))
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
        "GET" if path.contains("/blobs/uploads/") => {
            let upload = path.rsplit('/').next()?;
            let Some(bytes) = uploads.get(upload) else {
                return Some(Answer::unknown("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"));
            };
            let range = format!("0-{}", bytes.len().saturating_sub(1));
            Some(Answer { status: 204, ..goes_on(upload) }.with("Range", &range))
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
