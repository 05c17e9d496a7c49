//! What hull's own client sends before the archive of a build: a line of JSON, and the contexts beside the build's own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use base64::Engine as _;
use hull_build::{Builder, Named, Secret, Stop};
use hull_engine::{Error, Result};
use serde::Deserialize;

use crate::blocking::BodyReader;
use crate::build::refused;

/// The longest first line, in bytes.
const PREFACE_LIMIT: u64 = 16 << 20;

/// What stands before the archive.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Preface {
    /// Secrets by their ids, in base64.
    secrets: BTreeMap<String, String>,
    /// The Dockerfile, where it is not in the archive.
    pub(crate) dockerfile: Option<String>,
    /// Contexts beside the build's own. Those that are sent follow the line in this order, in pieces, each behind its length.
    pub(crate) contexts: Vec<NamedContext>,
    /// The folder that was told before (`POST /build/context`): what follows is no archive, but those of its files that are
    /// missing.
    pub(crate) context: Option<String>,
}

/// A context beside the build's own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedContext {
    pub(crate) name: String,
    kind: ContextKind,
    /// The image.
    #[serde(default)]
    value: String,
}

impl NamedContext {}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ContextKind {
    /// A folder, sent as an archive.
    Folder,
    /// An OCI layout with one image, sent as an archive.
    Layout,
    /// The same, with any number of images, whose steps are used where they are the same.
    Cache,
    /// An OCI layout with the files of cache mounts.
    #[serde(rename = "cachemounts")]
    CacheMounts,
    /// An image that is here or in a registry.
    Image,
    /// A git repository, an archive or a file, which the daemon fetches.
    Address,
}

/// Reads the line before an archive.
pub(crate) fn preface(reader: &mut BufReader<BodyReader>) -> Result<Preface> {
    let mut line = Vec::new();
    reader
        .take(PREFACE_LIMIT)
        .read_until(b'\n', &mut line)
        .map_err(|error| Error::system("read the request", error))?;
    serde_json::from_slice(&line).map_err(|error| malformed(&error))
}

fn malformed(error: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("the line before the archive is malformed: {error}"))
}

impl Preface {
    /// The secrets, by their ids.
    pub(crate) fn secrets(&self) -> Result<BTreeMap<String, Secret>> {
        let decoded = |(id, text): (&String, &String)| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            Ok((id.clone(), Secret(bytes.map_err(|error| malformed(&error))?)))
        };
        self.secrets.iter().map(decoded).collect()
    }
}

/// Takes in a context beside the build's own.
pub(crate) fn received(
    builder: &Builder,
    context: &NamedContext,
    asked: &mut hull_build::Request,
    stop: &Stop,
    reader: &mut BufReader<BodyReader>,
) -> Result<()> {
    let mut pieces = Pieces { reader, left: 0, ended: false };
    let (platforms, name) = (asked.all_platforms(), context.name.to_ascii_lowercase());
    let one = |named| vec![(name.clone(), named)];
    let named = match context.kind {
        ContextKind::Image => Ok(one(Named::Image(context.value.clone()))),
        ContextKind::Address => {
            let fetching = builder.fetch_named(&context.value, asked, stop);
            tokio::runtime::Handle::current().block_on(fetching).map(one)
        }
        ContextKind::Folder => builder.receive_folder(&mut pieces).map(one),
        ContextKind::Layout => builder.receive_layout(&name, &mut pieces, &platforms),
        ContextKind::Cache => builder.receive_cache(&mut pieces, &platforms).map(|drafts| {
            asked.cache_given.extend(drafts);
            Vec::new()
        }),
        ContextKind::CacheMounts => builder.receive_folder(&mut pieces).map(|named| {
            if let Named::Folder(folder) = named {
                asked.cache_mounts_given.push(folder);
            }
            Vec::new()
        }),
    };
    let is_sent = !matches!(context.kind, ContextKind::Image | ContextKind::Address);
    let named = named.map_err(|failure| {
        let error = refused(&failure);
        match is_sent {
            true => Error::new(error.kind, format!("the context {}: {}", context.name, error.message)),
            false => error,
        }
    })?;
    if is_sent {
        // What stands behind an archive's end is sent as well.
        std::io::copy(&mut pieces, &mut std::io::sink())
            .map_err(|error| Error::system("read the request", error))?;
    }
    asked.contexts.extend(named);
    Ok(())
}

/// What comes in pieces, each behind its length in four bytes, the highest first; an empty one is the last.
struct Pieces<'a, R> {
    reader: &'a mut R,
    left: usize,
    ended: bool,
}

impl<R: Read> Read for Pieces<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut length = [0; 4];
            self.reader.read_exact(&mut length)?;
            self.left = u32::from_be_bytes(length) as usize;
            self.ended = self.left == 0;
        }
        let wanted = self.left.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_they_say() {
        let mut bytes: &[u8] = b"\0\0\0\x02ab\0\0\0\x01c\0\0\0\0rest";
        let mut read = String::new();
        Pieces { reader: &mut bytes, left: 0, ended: false }.read_to_string(&mut read).unwrap();
        assert_eq!((read.as_str(), bytes), ("abc", &b"rest"[..]));
        let mut torn: &[u8] = b"\0\0\0\x05ab";
        assert!(Pieces { reader: &mut torn, left: 0, ended: false }.read_to_string(&mut read).is_err());
    }
}
