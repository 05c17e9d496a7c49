//! What registries say, and what lies in their folders, read without a registry: for `hull-fuzz`.

use std::path::PathBuf;

use hyper::StatusCode;
use hyper::header::HeaderMap;

use super::failure::Refusal;
use super::{repository, session, signature, tls, upload};
use crate::{Digest, Result};

/// The page behind one, from its `Link`: in the same registry, or none.
pub fn next_page(from: &str, link: &str) -> Option<String> {
    repository::next_page(&from.parse().ok()?, link).map(|url| url.to_string())
}

/// Which byte of a blob the first of an answer is, from its `Content-Range`.
pub fn first_byte(content_range: &str) -> Option<u64> {
    repository::first_byte(content_range)
}

/// How much of an upload has come, from its `Range`.
pub fn received(range: &str) -> Option<u64> {
    upload::received(range)
}

/// What is told of a `Warning`.
pub fn warning(header: &str) -> Option<String> {
    session::warning(header)
}

/// What is told of an answer that refuses.
pub fn refusal(status: u16, headers: &HeaderMap, body: &[u8]) -> String {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    Refusal::read(status, headers, body).to_string()
}

/// How many signatures a manifest of them has.
///
/// # Errors
/// It is none.
pub fn signatures(manifest: &[u8]) -> Result<usize, String> {
    signature::signed(Digest::of(manifest), manifest)
        .map(|layers| layers.len())
        .map_err(|failure| failure.to_string())
}

/// Whether what was signed says that it is of that image.
pub fn is_of(payload: &[u8], image: &Digest) -> bool {
    signature::claims(payload, image)
}

/// Sets TLS up with what lies in a registry's folders.
///
/// # Errors
/// It cannot be read, or is nothing to set TLS up with.
pub fn certificates(host: &str, folders: &[PathBuf]) -> Result<()> {
    tls::config(host, folders, true).map(drop)
}
