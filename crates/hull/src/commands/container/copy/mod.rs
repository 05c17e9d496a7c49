//! `cp`: files and folders between a container and this machine, as an archive in either direction.

mod extract;
mod pack;
mod paths;
mod unfinished;

use std::io::{self, IsTerminal as _, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use bytes::{Buf as _, Bytes};
use clap::Args;
use hyper::Method;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::{Query, empty, segment, streamed};
use crate::commands::shared::progress::Transfer;
use crate::commands::shared::upload;
use crate::context::Context;
use crate::errln;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::stream::{self, Target};
pub use paths::check_parent;
use paths::{Destination, Place, Source};

/// `cp`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull cp web:/etc/nginx/nginx.conf .        a file out of a container
  hull cp ./site/. web:/www                  a folder's content into one
  tar c data | hull cp - web:/srv            an archive from standard input
  hull cp web:/var/log - | tar t             an archive to standard output")]
pub struct CopyArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress progress output during copy; without a terminal there is none
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "SRC")]
    source: String,
    #[arg(value_name = "DEST")]
    destination: String,
}

/// Pieces read ahead of whoever takes them.
const AHEAD: usize = 8;

/// `hull cp`.
pub async fn copy(args: CopyArgs, context: &Context) -> Result<ExitStatus, Error> {
    let (from, to) = (Place::parse(&args.source), Place::parse(&args.destination));
    let copied = match (&from, &to) {
        (Place::Container(name, path), Place::Here(here)) => out_of(&args, context, name, path, here).await?,
        (Place::Here(here), Place::Container(name, path)) => into(&args, context, here, name, path).await?,
        (Place::Container(..), Place::Container(..)) => {
            return Err(Error::new("copying between containers is not supported"));
        }
        (Place::Here(_), Place::Here(_)) => {
            return Err(Error::new("must specify at least one container source"));
        }
    };
    if let Some(bytes) = copied
        && !args.quiet
        && io::stdout().is_terminal()
    {
        errln!("Successfully copied {} to {}", human::size(bytes as f64), args.destination);
    }
    Ok(ExitStatus::SUCCESS)
}

/// What the daemon knows of a path in a container.
struct Stat {
    is_dir: bool,
    /// Where it points to, of a symbolic link.
    link: Option<String>,
}

/// Go's os.FileMode bits in the header's JSON.
const GO_DIR: u64 = 1 << 31;
const GO_SYMLINK: u64 = 1 << 27;

fn stat_of(header: Option<&str>) -> Result<Stat, Error> {
    let wrong = || Error::new("the daemon's answer does not tell what kind of file the path is");
    let bytes = base64::engine::general_purpose::STANDARD.decode(header.ok_or_else(wrong)?);
    let stat: Value = serde_json::from_slice(&bytes.map_err(|_| wrong())?)?;
    let mode = stat["mode"].as_u64().ok_or_else(wrong)?;
    let link = (mode & GO_SYMLINK != 0).then(|| stat["linkTarget"].as_str().unwrap_or_default().to_owned());
    Ok(Stat { is_dir: mode & GO_DIR != 0, link })
}

const STAT_HEADER: &str = "x-docker-container-path-stat";

async fn stat(context: &Context, container: &str, path: &str) -> Result<Stat, Error> {
    let path = Query::new(format!("/containers/{}/archive", segment(container))).with("path", path);
    let answer = context.client.request(Method::HEAD, &path, &[], empty()).await?;
    let stat = stat_of(answer.header(STAT_HEADER));
    answer.bytes().await?;
    stat
}

/// From a container to here. The number of bytes, where they were not for standard output.
async fn out_of(
    args: &CopyArgs,
    context: &Context,
    container: &str,
    path: &str,
    here: &str,
) -> Result<Option<u64>, Error> {
    let mut source = Source { path: path.to_owned(), is_dir: false, rename: None };
    if here != "-" {
        check_parent(Path::new(here))?;
    }
    if args.follow_link
        && let Ok(Stat { link: Some(link), .. }) = stat(context, container, path).await
    {
        source = paths::follow(path, &link);
    }
    let query = Query::new(format!("/containers/{}/archive", segment(container))).with("path", &source.path);
    let mut answer = context.client.stream(&query).await?;
    if here == "-" {
        if io::stdout().is_terminal() {
            return Err(Error::new("cowardly refusing to write an archive to a terminal; redirect it"));
        }
        while let Some(piece) = answer.chunk().await? {
            stream::write(Target::Out, &piece).await?;
        }
        return Ok(None);
    }
    source.is_dir = stat_of(answer.header(STAT_HEADER))?.is_dir;
    let destination = Destination::here(here)?;
    let plan = paths::plan(&source, &destination)?;

    let done = Arc::new(AtomicU64::new(0));
    let _bar = (!args.quiet).then(|| Transfer::start("Copying", None, done.clone()));
    let (sender, receiver) = mpsc::channel::<Bytes>(AHEAD);
    let owners = args.archive;
    let extracting =
        tokio::task::spawn_blocking(move || extract::extract(Receiver::new(receiver), &plan, owners));
    let mut broken = None;
    loop {
        match answer.chunk().await {
            Ok(Some(piece)) => {
                done.fetch_add(piece.len() as u64, Ordering::Relaxed);
                // The extraction has ended early: its own error says why.
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let extracted = extracting.await.map_err(|e| Error::new(format!("the extraction broke off: {e}")))?;
    match broken {
        Some(error) => Err(error),
        None => extracted.map(|()| Some(done.load(Ordering::Relaxed))),
    }
}

/// Extracts an archive that comes in pieces into a folder; what is in it becomes whoever calls.
///
/// # Errors
/// It is malformed, leads out of the folder, or the disk is full.
pub fn extract_into(pieces: mpsc::Receiver<Bytes>, folder: String) -> Result<(), Error> {
    extract::extract(Receiver::new(pieces), &paths::Plan { folder, rename: None }, false)
}

/// From here to a container.
async fn into(
    args: &CopyArgs,
    context: &Context,
    here: &str,
    container: &str,
    path: &str,
) -> Result<Option<u64>, Error> {
    let mut destination = Destination { path: path.to_owned(), exists: false, is_dir: false };
    let mut found = stat(context, container, path).await;
    if let Ok(Stat { link: Some(link), .. }) = &found {
        destination.path = paths::join_link(path, link);
        found = stat(context, container, &destination.path).await;
    }
    match found {
        Ok(stat) => {
            destination.exists = true;
            destination.is_dir = stat.is_dir;
        }
        // A path that is not there will be made; a container that is not there ends it here.
        Err(error) if error.is_connection() => return Err(error),
        Err(_) => {}
    }
    let done = Arc::new(AtomicU64::new(0));
    let (body, target, _bar) = if here == "-" {
        if !destination.is_dir {
            return Err(Error::new(format!("destination \"{container}:{path}\" must be a directory")));
        }
        let (body, bar) = upload::body(None, "Copying")?;
        (body, destination.path.clone(), Some(bar))
    } else {
        let source = Source::here(here, args.follow_link)?;
        let plan = paths::plan(&source, &destination)?;
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
        let sent = done.clone();
        let rename = plan.rename.clone();
        std::thread::spawn(move || pack::pack(&source, rename.as_ref(), sender, &sent));
        let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        });
        let bar = (!args.quiet).then(|| Transfer::start("Copying", None, done.clone()));
        (streamed(pieces), plan.folder, bar)
    };
    let query = Query::new(format!("/containers/{}/archive", segment(container)))
        .with("path", &target)
        .with("noOverwriteDirNonDir", "true")
        .with_some("copyUIDGID", args.archive.then_some("true"));
    let headers = [("content-type", "application/x-tar")];
    context.client.request(Method::PUT, &query, &headers, body).await?.bytes().await?;
    Ok((here != "-").then(|| done.load(Ordering::Relaxed)))
}

/// What comes over a channel, read by a thread.
struct Receiver {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Receiver {
    fn new(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { pieces, current: Bytes::new() }
    }
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
