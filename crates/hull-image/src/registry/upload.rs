//! The distribution specification's verbs that put something into a repository.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, LOCATION};
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
    Upload(Uri),
}

impl Repository {
    /// Has a blob taken over from another repository of the same registry.
    ///
    /// # Errors
    /// The registry does not answer, or lets nothing be sent.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Answer<Mount> {
        let url = self.url(&format!("blobs/uploads/?mount={digest}&from={}", encode(from)))?;
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
    pub async fn begin_upload(&self) -> Answer<Uri> {
        location(&self.session.call(Call::new(Method::POST, self.url("blobs/uploads/")?)).await?)
    }

    /// Sends bytes of an upload as they come; where it goes on.
    ///
    /// # Errors
    /// The line broke, or the registry does not want them.
    pub async fn send_bytes(&self, upload: Uri, body: Body) -> Answer<Uri> {
        let call =
            Call::new(Method::PATCH, upload).header(CONTENT_TYPE, BYTES).payload(Payload::Stream(body, None));
        location(&self.session.call(call).await?)
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
        self.session.call(call).await.map(drop)
    }

    /// Sends a blob that is small, in one piece.
    ///
    /// # Errors
    /// As [`Repository::end_upload`].
    pub async fn put_blob(&self, digest: &Digest, bytes: Bytes) -> Answer<()> {
        let upload = self.begin_upload().await?;
        self.end_upload(&upload, digest, bytes).await
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
        let reply = self.session.call(call).await?;
        match reply.header("docker-content-digest").filter(|said| *said != raw.digest.to_string()) {
            None => Ok(()),
            Some(other) => Err(Failure::Wrong(format!(
                "the registry took the manifest {} for {}",
                raw.digest,
                shown(other, 80)
            ))),
        }
    }
}

/// Where an answer says that an upload goes on.
fn location(reply: &Reply) -> Answer<Uri> {
    let text = reply.header(LOCATION).unwrap_or_default();
    if !reply.status.is_success() {
        return Err(no_place(text));
    }
    let url = join(&reply.url, text).ok_or_else(|| no_place(text))?;
    match url.scheme_str() {
        Some("https") => Ok(url),
        // What is sent to a registry by TLS does not go on without.
        Some("http") if reply.url.scheme_str() == Some("http") => Ok(url),
        _ => Err(no_place(text)),
    }
}

fn no_place(text: &str) -> Failure {
    Failure::Wrong(format!("the registry wants an upload sent to {:?}, which is refused", shown(text, 200)))
}
