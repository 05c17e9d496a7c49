//! The distribution specification's verbs for one repository.

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LINK, RANGE};
use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;

use super::failure::{Answer, Failure, Refusal};
use super::manifest::{self, Descriptor, Raw};
use super::session::Session;
use super::wire::{Call, Reply, join, same_place};
use crate::Digest;
use crate::reference::is_tag;

/// A manifest may not be larger, as in Docker.
const MANIFEST_LIMIT: usize = 4 << 20;
/// A page of tags, and how many pages are read.
const TAGS_LIMIT: usize = 4 << 20;
/// How many tags of a repository are taken: what a list of them may fill.
const TAGS: usize = 100_000;
const TAG_PAGES: usize = 1000;
/// What a registry says of the digest of a manifest.
const DIGEST: &str = "docker-content-digest";

/// A repository at one place.
#[derive(Debug)]
pub struct Repository {
    /// Its registry.
    pub session: Session,
    /// Its path there.
    pub name: String,
}

/// A blob that comes.
pub struct Blob {
    /// The answer, to be read piece by piece.
    pub reply: Reply,
    /// Which byte of the blob its first one is: registries need not know of ranges.
    pub start: u64,
}

impl Repository {
    /// The scope of a token for a repository: `pull`, `pull,push`.
    pub fn scope(name: &str, actions: &str) -> String {
        format!("repository:{name}:{actions}")
    }

    /// A repository of a session.
    pub fn of(session: Session) -> Repository {
        Repository { name: session.endpoint.repository.clone(), session }
    }

    /// An address beneath the repository: `manifests/latest`.
    ///
    /// # Errors
    /// It cannot be one.
    pub fn url(&self, rest: &str) -> Answer<Uri> {
        self.session.url(&format!("/v2/{}/{rest}", self.name))
    }

    /// What a tag or a digest means now, without fetching it; none where the registry does not say, or has none and does
    /// not say why.
    ///
    /// # Errors
    /// The registry refuses, or does not answer.
    pub async fn head_manifest(&self, reference: &str) -> Answer<Option<Descriptor>> {
        let call = Call::new(Method::HEAD, self.url(&format!("manifests/{reference}"))?)
            .header(ACCEPT, &manifest::ACCEPTED.join(", "));
        let reply = match self.session.call(call).await {
            Ok(reply) => reply,
            // What is the matter stands in the body of GET's answer; and a registry may not know of HEAD.
            Err(Failure::Refused(refusal)) if refusal.code.is_empty() && refusal.status.is_client_error() => {
                return match refusal.status {
                    StatusCode::TOO_MANY_REQUESTS => Err(Failure::Refused(refusal)),
                    _ => Ok(None),
                };
            }
            Err(failure) => return Err(failure),
        };
        let digest = reply.header(DIGEST).and_then(|text| text.parse::<Digest>().ok());
        let size = number(&reply.headers, CONTENT_LENGTH);
        Ok(digest.map(|digest| Descriptor {
            media_type: media_type(&reply),
            size: size.unwrap_or_default(),
            ..Descriptor::of(digest)
        }))
    }

    /// A manifest by its tag or digest. What has a digest is verified.
    ///
    /// # Errors
    /// There is none, it is too large, or not what its digest says.
    pub async fn manifest(&self, reference: &str) -> Answer<Raw> {
        let call = Call::new(Method::GET, self.url(&format!("manifests/{reference}"))?)
            .header(ACCEPT, &manifest::ACCEPTED.join(", "));
        let reply = match self.session.call(call).await {
            Err(Failure::Refused(refusal))
                if refusal.code.is_empty() && refusal.status == StatusCode::NOT_FOUND =>
            {
                let message = "manifest unknown".to_owned();
                return Err(Failure::Refused(Refusal {
                    code: "MANIFEST_UNKNOWN".to_owned(),
                    message,
                    ..refusal
                }));
            }
            reply => reply?,
        };
        let said = reply.header(DIGEST).map(str::to_owned);
        let media_type = media_type(&reply);
        let bytes = reply.bytes(MANIFEST_LIMIT, &format!("the manifest {reference}")).await?;
        let digest = Digest::of(&bytes);
        let wanted = reference.contains(':').then(|| reference.to_owned());
        if let Some(other) = wanted.or(said).filter(|other| *other != digest.to_string()) {
            let other = super::failure::shown(&other, 80);
            return Err(Failure::Wrong(format!("manifest verification failed for digest {other}")));
        }
        Ok(Raw { media_type, digest, bytes })
    }

    /// A blob that is small, whole and verified.
    ///
    /// # Errors
    /// It is not there, larger than it was said to be, or not what its digest says.
    pub async fn small_blob(&self, descriptor: &Descriptor, limit: usize) -> Answer<Bytes> {
        let limit = usize::try_from(descriptor.size).unwrap_or(usize::MAX).min(limit);
        let blob = self.blob(&descriptor.digest, 0).await?;
        let bytes = blob.reply.bytes(limit, &format!("the blob {}", descriptor.digest)).await?;
        match Digest::of(&bytes) == descriptor.digest {
            true => Ok(bytes),
            false => {
                Err(Failure::Wrong(format!("blob verification failed for digest {}", descriptor.digest)))
            }
        }
    }

    /// A blob from a byte on.
    ///
    /// # Errors
    /// It is not there, or the registry does not answer.
    pub async fn blob(&self, digest: &Digest, offset: u64) -> Answer<Blob> {
        self.blob_at(self.url(&format!("blobs/{digest}"))?, offset).await
    }

    /// The same from an address of its own, which a foreign layer has.
    ///
    /// # Errors
    /// As [`Repository::blob`].
    pub async fn blob_at(&self, url: Uri, offset: u64) -> Answer<Blob> {
        let mut call = Call::new(Method::GET, url);
        if offset > 0 {
            call = call.header(RANGE, &format!("bytes={offset}-"));
        }
        let reply = self.session.call(call).await?;
        let start = match reply.status {
            StatusCode::PARTIAL_CONTENT => reply.header(CONTENT_RANGE).and_then(first_byte).unwrap_or(offset),
            _ => 0,
        };
        match start > offset {
            true => Err(Failure::Wrong(format!(
                "the registry sends from byte {start} on, and {offset} was asked for"
            ))),
            false => Ok(Blob { reply, start }),
        }
    }

    /// Whether a blob is there, and how long it is.
    ///
    /// # Errors
    /// The registry does not answer, or refuses.
    pub async fn has_blob(&self, digest: &Digest) -> Answer<Option<u64>> {
        let call = Call::new(Method::HEAD, self.url(&format!("blobs/{digest}"))?);
        match self.session.call(call).await {
            Ok(reply) => Ok(Some(number(&reply.headers, CONTENT_LENGTH).unwrap_or_default())),
            Err(Failure::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All tags; what is none by the specification's grammar would mean something else in an address, and is left out.
    ///
    /// # Errors
    /// There is no such repository, it has too many, or the registry does not answer.
    pub async fn tags(&self) -> Answer<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut next = Some(self.url("tags/list")?);
        for _ in 0..TAG_PAGES {
            let Some(url) = next.take() else { break };
            let reply = self.session.call(Call::new(Method::GET, url)).await?;
            next = following(&reply);
            let page = reply.bytes(TAGS_LIMIT, "the list of tags").await?;
            let page: Page = serde_json::from_slice(&page)
                .map_err(|error| Failure::Wrong(format!("the list of tags is none: {error}")))?;
            tags.extend(page.tags.unwrap_or_default().into_iter().filter(|tag| is_tag(tag)));
            if tags.len() > TAGS {
                return Err(Failure::Wrong(format!("the list of tags has more than {TAGS}")));
            }
        }
        Ok(tags)
    }
}

/// The next page, in the same registry.
pub(super) fn following(reply: &Reply) -> Option<Uri> {
    next_page(&reply.url, reply.header(LINK)?)
}

/// The first byte of a blob in `bytes 5-9/10`.
pub(super) fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// The page behind one, where the link names it and it is in the same registry.
pub(super) fn next_page(from: &Uri, link: &str) -> Option<Uri> {
    let (address, relation) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = relation.contains("rel=\"next\"") || relation.contains("rel=next");
    let url = join(from, address).filter(|_| next)?;
    same_place(&url, from).then_some(url)
}

fn media_type(reply: &Reply) -> String {
    let text = reply.header(CONTENT_TYPE).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn number(headers: &HeaderMap, name: hyper::header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}
