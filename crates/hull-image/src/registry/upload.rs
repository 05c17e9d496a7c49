//! The distribution specification's verbs that put something into a repository.

use bytes::Bytes;
use hyper::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use hyper::{Method, StatusCode, Uri};

use super::failure::{Answer, Failure, shown};
use super::manifest::Raw;
use super::repository::Repository;
use super::token::encode;
use super::wire::{Body, Call, Payload, Reply, join};
use crate::Digest;

const BYTES: &str = "application/octet-stream";
/// How many times longer than for other answers is waited for the one to an upload's end: the registry may put the blob
/// together, read it and copy it to where it keeps it.
pub(super) const PUT_TOGETHER: u32 = 10;

/// What came of the wish to have a blob from another repository.
#[derive(Debug)]
pub enum Mount {
    /// It is there.
    Mounted,
    /// It is not, and this is where it can be sent to.
    Upload(Place),
}

/// Where an upload goes on.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address.
    pub url: Uri,
    /// The fewest bytes that the registry takes in a piece which is not the last (`OCI-Chunk-Min-Length`).
    pub least: usize,
}

/// What a registry has of an upload.
#[derive(Debug)]
pub struct Received {
    /// Where the rest goes.
    pub place: Place,
    /// So many bytes, from the first on.
    pub bytes: u64,
}

impl Repository {
    /// Has a blob taken over from another repository of the same registry; from whichever has it, where none is named and the
    /// registry does that.
    ///
    /// # Errors
    /// The registry does not answer, or lets nothing be sent.
    pub async fn mount(&self, digest: &Digest, from: Option<&str>) -> Answer<Mount> {
        let from = from.map(|from| format!("&from={}", encode(from))).unwrap_or_default();
        let url = self.url(&format!("blobs/uploads/?mount={digest}{from}"))?;
        let reply = self.session.call(Call::new(Method::POST, url)).await?;
        match reply.status {
            StatusCode::CREATED => Ok(Mount::Mounted),
            _ => location(&reply).map(Mount::Upload),
        }
    }

    /// Begins an upload; where it goes on.
    ///
    /// # Errors
    /// The registry does not answer, or lets nothing be sent.
    pub async fn begin_upload(&self) -> Answer<Place> {
        location(&self.session.call(Call::new(Method::POST, self.url("blobs/uploads/")?)).await?)
    }

    /// Sends bytes of an upload as they come; where it goes on.
    ///
    /// # Errors
    /// The line broke, or the registry does not want them.
    pub async fn send_bytes(&self, upload: Uri, body: Body) -> Answer<Place> {
        let call =
            Call::new(Method::PATCH, upload).header(CONTENT_TYPE, BYTES).payload(Payload::Stream(body, None));
        location(&self.session.call(call).await?)
    }

    /// Sends a piece of an upload that begins at a byte of it; where it goes on.
    ///
    /// # Errors
    /// As [`Repository::send_bytes`].
    pub async fn send_piece(&self, upload: Uri, start: u64, piece: Body, length: u64) -> Answer<Place> {
        let last = start + length.saturating_sub(1);
        let call = Call::new(Method::PATCH, upload)
            .header(CONTENT_TYPE, BYTES)
            .header(CONTENT_RANGE, &format!("{start}-{last}"))
            .payload(Payload::Stream(piece, Some(length)));
        location(&self.session.call(call).await?)
    }

    /// Asks how much of an upload has come, behind a line that broke.
    ///
    /// # Errors
    /// The registry has given it up, does not say, or does not answer.
    pub async fn received(&self, upload: &Place) -> Answer<Received> {
        let reply = self.session.call(Call::new(Method::GET, upload.url.clone())).await?;
        let bytes = reply.header(RANGE).and_then(received);
        let bytes = bytes.ok_or_else(|| {
            Failure::Wrong("the registry does not say how much of an upload it has".to_owned())
        })?;
        let place = match reply.header(LOCATION) {
            Some(_) => location(&reply)?,
            None => upload.clone(),
        };
        Ok(Received { place: Place { least: place.least.max(upload.least), ..place }, bytes })
    }

    /// Ends an upload, with its last bytes, by the blob's digest.
    ///
    /// # Errors
    /// What was sent has another digest, or the line broke.
    pub async fn end_upload(&self, upload: &Uri, digest: &Digest, bytes: Bytes) -> Answer<()> {
        let text = upload.to_string();
        let url = format!("{text}{}digest={digest}", if upload.query().is_some() { '&' } else { '?' });
        let url = url.parse().map_err(|_| no_place(&text))?;
        let mut call = Call::new(Method::PUT, url).header(CONTENT_TYPE, BYTES).payload(Payload::Bytes(bytes));
        call.slow = PUT_TOGETHER;
        taken_for(&self.session.call(call).await?, "blob", digest)
    }

    /// Sends a blob that is small, in one piece.
    ///
    /// # Errors
    /// As [`Repository::end_upload`].
    pub async fn put_blob(&self, digest: &Digest, bytes: Bytes) -> Answer<()> {
        let upload = self.begin_upload().await?;
        self.end_upload(&upload.url, digest, bytes).await
    }

    /// Puts a manifest under a tag or its digest.
    ///
    /// # Errors
    /// The registry does not take it, or takes it for something else.
    pub async fn put_manifest(&self, reference: &str, raw: &Raw) -> Answer<()> {
        let mut call = Call::new(Method::PUT, self.url(&format!("manifests/{reference}"))?)
            .header(CONTENT_TYPE, &raw.media_type)
            .payload(Payload::Bytes(raw.bytes.clone()));
        call.slow = PUT_TOGETHER;
        taken_for(&self.session.call(call).await?, "manifest", &raw.digest)
    }
}

/// Whether a registry, where it says what it has now, has what was sent.
fn taken_for(reply: &Reply, what: &str, digest: &Digest) -> Answer<()> {
    match reply.header("docker-content-digest").filter(|said| *said != digest.to_string()) {
        None => Ok(()),
        Some(other) => {
            Err(Failure::Wrong(format!("the registry took the {what} {digest} for {}", shown(other, 80))))
        }
    }
}

/// Where an answer says that an upload goes on.
fn location(reply: &Reply) -> Answer<Place> {
    let text = reply.header(LOCATION).unwrap_or_default();
    if !reply.status.is_success() {
        return Err(no_place(text));
    }
    let url = join(&reply.url, text).ok_or_else(|| no_place(text))?;
    let least = reply.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok());
    let place = |url| Ok(Place { url, least: least.unwrap_or_default() });
    match url.scheme_str() {
        Some("https") => place(url),
        // What is sent to a registry by TLS does not go on without.
        Some("http") if reply.url.scheme_str() == Some("http") => place(url),
        _ => Err(no_place(text)),
    }
}

/// How many bytes are in the range that a registry has of an upload: `0-1023`, or as others write ranges. For none there is no
/// way to write it, and registries write `0-0`.
pub(super) fn received(range: &str) -> Option<u64> {
    let range = range.trim();
    let (first, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    match (first.trim(), last) {
        ("0", 0) => Some(0),
        ("0", last) => last.checked_add(1),
        _ => None,
    }
}

fn no_place(text: &str) -> Failure {
    Failure::Wrong(format!("the registry wants an upload sent to {:?}, which is refused", shown(text, 200)))
}

#[cfg(test)]
mod tests {
    use super::received;

    #[test]
    fn what_a_registry_has_of_an_upload() {
        for (range, bytes) in [("0-1023", 1024), (" bytes=0-9 ", 10), ("0-0", 0)] {
            assert_eq!(received(range), Some(bytes), "{range}");
        }
        for range in ["", "-", "5-9", "0-", "0--1", "9", "0-18446744073709551615", "0-1-2"] {
            assert_eq!(received(range), None, "{range}");
        }
    }
}
