//! A folder is told before it is sent: the daemon answers which of its files it does not have as they are.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hull_api::ignore::Ignore;
use hull_api::listing::put_number;
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::client::{Body, Query, full};
use crate::commands::shared::progress::Transfer;
use crate::context::Context;
use crate::error::{Error, words};

use super::pack::{Channel, Exactly, PIECE, opened, written};
use super::walk::{in_path, listed};

/// A folder with less in it is sent whole: telling it first would cost more.
const FEW: usize = 256;
const LITTLE: u64 = 1 << 20;

/// A folder that was told.
pub(super) struct Told {
    /// By what the daemon knows that it was.
    pub(super) id: String,
    folder: PathBuf,
    /// The files to send: their number in the listing, and their path.
    files: Vec<(usize, Vec<u8>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    id: String,
    missing: Vec<usize>,
}

/// Tells a folder, if that is worth it and can be done.
pub(super) async fn tell(
    context: &Context,
    folder: &Path,
    ignore: &Ignore,
    dockerfile: Option<&str>,
) -> Result<Option<Told>, Error> {
    let wrong = |error: io::Error| Error::new(format!("read the build context: {}", words(&error)));
    let Some(listing) = listed(folder, ignore).map_err(wrong)? else { return Ok(None) };
    if listing.entries.len() < FEW && listing.size() < LITTLE {
        return Ok(None);
    }
    let (bytes, digest) = listing.encoded().map_err(wrong)?;
    let query = Query::new("/build/context").with("key", key(folder, dockerfile).map_err(wrong)?);
    let mut answer = None;
    if let Some(digest) = digest {
        // Nothing was changed: the listing itself is not sent either.
        answer = answered(context, &query.clone().with("digest", digest.to_string()), Vec::new()).await?;
    }
    if answer.is_none() {
        answer = answered(context, &query, bytes).await?;
    }
    let Some(Answer { id, missing }) = answer else { return Ok(None) };
    let mut entries: Vec<Option<Vec<u8>>> =
        listing.entries.into_iter().map(|entry| Some(entry.path)).collect();
    let mut files = Vec::with_capacity(missing.len());
    for index in missing {
        let path = entries.get_mut(index).and_then(Option::take);
        let path = path.ok_or_else(|| Error::new("the daemon asks for a file that was not told"))?;
        files.push((index, path));
    }
    Ok(Some(Told { id, folder: folder.to_owned(), files }))
}

/// What the daemon says to what it is told; nothing where it keeps nothing, or where the socket lets nobody build, which the
/// build itself is told.
async fn answered(context: &Context, query: &Query, bytes: Vec<u8>) -> Result<Option<Answer>, Error> {
    match context.client.request(Method::POST, query, &[], full(bytes)).await {
        Ok(response) => response.json().await,
        Err(error) if error.http_status().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Told {
    /// The body: what stands before the files in one line, then those that are missing.
    pub(super) fn body(self, preface: &Value) -> (Body, Transfer) {
        written(preface, move |out| self.write(out))
    }

    fn write(self, out: &mut Channel) -> io::Result<()> {
        for (index, path) in self.files {
            let path = self.folder.join(std::ffi::OsString::from_vec(path));
            let in_path = |error| in_path(&path, error);
            let (file, left) = opened(&path).map_err(in_path)?;
            put_number(out, index as u64)?;
            put_number(out, left)?;
            // Small files are read at once, large ones in the pieces that are sent.
            let piece = usize::try_from(left).unwrap_or(PIECE).clamp(1, PIECE);
            let mut file = io::BufReader::with_capacity(piece, Exactly { file, left });
            io::copy(&mut file, out).map_err(in_path)?;
        }
        out.flush()
    }
}

/// By what the daemon knows the folder again: the machine, where it is there, and whose patterns were applied.
fn key(folder: &Path, dockerfile: Option<&str>) -> io::Result<String> {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let (place, meta) = (folder.canonicalize()?, fs::metadata(folder)?);
    Ok(format!(
        "{}:{}:{}:{}:{}",
        machine.trim(),
        meta.dev(),
        meta.ino(),
        dockerfile.unwrap_or_default(),
        place.display()
    ))
}
