//! A file or standard input as a request's body.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::progress::Transfer;
use crate::client::{Body, streamed};
use crate::error::{Error, words};

/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// Pieces read ahead of the connection.
const AHEAD: usize = 4;

/// A body made of what is in the file at `path`, or on standard input where that is none, and the bar that shows how
/// much of it was sent; the bar goes with its owner.
///
/// # Errors
/// The file cannot be opened, or is a folder.
pub fn body(path: Option<&str>, what: &str) -> Result<(Body, Transfer), Error> {
    let (source, total): (Box<dyn Read + Send>, Option<u64>) = match path {
        None => (Box::new(io::stdin()), None),
        Some(path) => {
            let wrong = |e: io::Error| Error::new(format!("open {path}: {}", plain(&e)));
            let file = File::open(path).map_err(wrong)?;
            let meta = file.metadata().map_err(wrong)?;
            if meta.is_dir() {
                return Err(Error::new(format!(
                    "open {path}: it is a folder; an archive of it is needed (tar)"
                )));
            }
            (Box::new(file), meta.is_file().then_some(meta.len()))
        }
    };
    let sent = Arc::new(AtomicU64::new(0));
    let transfer = Transfer::start(what, total, sent.clone());
    Ok((streamed(pieces(source, sent)), transfer))
}

/// The source's pieces, read by a thread of its own: reading a file or a pipe blocks.
fn pieces(
    mut source: Box<dyn Read + Send>,
    sent: Arc<AtomicU64>,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = match source.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => {
                    piece.truncate(length);
                    Ok(Bytes::from(piece))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            // The receiver is gone when the daemon has refused: then nobody wants the rest.
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    futures_util::stream::unfold((receiver, sent), |(mut receiver, sent)| async move {
        let piece = receiver.recv().await?;
        if let Ok(bytes) = &piece {
            sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Some((piece, (receiver, sent)))
    })
}

/// An error's words as a part of a sentence.
pub fn plain(error: &io::Error) -> String {
    let words = words(error);
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}
