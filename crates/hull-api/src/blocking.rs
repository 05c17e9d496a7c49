//! Work that blocks, on threads of its own: a request's body as a [`Read`], an answer's as a [`Write`].

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use hull_engine::{Error, Result};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::http::{self, RequestBody, Response};
use crate::places::{Place, Side};

/// How many pieces may wait between the two sides.
const PIECES: usize = 16;
/// How long what nobody wants of a request is still taken.
const UNWANTED: Duration = Duration::from_secs(10);
/// How long a written piece gets before it is sent, in bytes.
const PIECE: usize = 64 << 10;

/// Does work that blocks on a thread of its own.
///
/// # Errors
/// The work's own, or it panicked.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::system("answer the request", error)),
    }
}

/// A request's body, to be read by a thread that may block.
pub(crate) struct BodyReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    place: Place,
}

impl BodyReader {
    /// Takes the body over, when there is a place for one more. It is read only as fast as the reader reads.
    ///
    /// # Errors
    /// There is no place.
    pub(crate) async fn new(mut body: RequestBody, side: Side) -> Result<BodyReader> {
        let place = Place::take(side).await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let piece = match frame {
                    Ok(frame) => frame.into_data().map_err(|_| ()).ok().map(Ok),
                    // A client that went away: what came is not all there is.
                    Err(error) => Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error))),
                };
                let Some(piece) = piece else { continue };
                let failed = piece.is_err();
                if sender.send(piece).await.is_err() {
                    return drain(body).await;
                }
                if failed {
                    return;
                }
            }
        });
        Ok(BodyReader { pieces, piece: Bytes::new(), place })
    }

    /// The same of what another server answers.
    ///
    /// # Errors
    /// There is no place.
    pub(crate) async fn of_reply(mut reply: hull_image::registry::Reply, side: Side) -> Result<BodyReader> {
        let place = Place::take(side).await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            loop {
                let piece = match reply.chunk().await {
                    Ok(None) => return,
                    Ok(Some(piece)) => Ok(piece),
                    Err(failure) => Err(io::Error::other(failure.to_string())),
                };
                let failed = piece.is_err();
                if sender.send(piece).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(BodyReader { pieces, piece: Bytes::new(), place })
    }
}

/// Takes what comes of a body that nobody wants: a client that still sends would find the line broken, and miss the answer
/// that says why.
async fn drain(mut body: RequestBody) {
    let drained = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(UNWANTED, drained).await;
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let (pieces, place) = (&mut self.pieces, &mut self.place);
            let next = match pieces.try_recv() {
                Ok(piece) => Some(piece),
                Err(_) => place.wait("the client sends", pieces.recv())?,
            };
            match next {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let length = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        self.place.moved(length);
        Ok(length)
    }
}

/// An answer's body, written by a thread that may block: it waits while the client is slow, and fails when it is gone.
struct BodyWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    place: Place,
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        let length = piece.len();
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the client went away");
        match self.pieces.try_send(Ok(piece)) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(gone()),
            Err(TrySendError::Full(piece)) => {
                self.place.wait("the client reads", self.pieces.send(piece))?.map_err(|_| gone())?;
            }
        }
        self.place.moved(length);
        Ok(())
    }
}

/// Answers with what `work` writes. A failure before its first piece is an answer of its own; a later one cuts the
/// body off, which every client notices.
pub(crate) async fn written(
    side: Side,
    content_type: &'static str,
    work: impl FnOnce(&mut dyn Write) -> Result<()> + Send + 'static,
) -> Result<Response> {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let place = Place::take(side).await?;
    let task = tokio::task::spawn_blocking(move || {
        let mut writer = BodyWriter { pieces: sender.clone(), buffer: Vec::new(), place };
        let result =
            work(&mut writer).and_then(|()| writer.flush().map_err(|error| Error::system("answer", error)));
        if let Err(error) = &result {
            // Of no effect where nobody listens any more.
            let _ = sender.blocking_send(Err(io::Error::other(error.message.clone())));
        }
        result
    });
    let first = match pieces.recv().await {
        Some(Ok(piece)) => Some(Ok(piece)),
        None | Some(Err(_)) => match task.await {
            Ok(result) => result.map(|()| None)?,
            Err(error) => return Err(Error::system("answer the request", error)),
        },
    };
    Ok(http::streamed(StatusCode::OK, content_type, after(first, pieces)))
}

fn after(
    first: Option<io::Result<Bytes>>,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold((first, pieces), |(mut first, mut pieces)| async move {
        let piece = match first.take() {
            Some(piece) => piece,
            None => pieces.recv().await?,
        };
        Some((piece, (None, pieces)))
    })
}

/// Where a long request tells how far it is: JSON lines, as Docker's clients read them.
pub(crate) struct Lines {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    /// The last time of a progress line of an id: a few a second are enough.
    said: Mutex<HashMap<String, Instant>>,
    spoke: AtomicBool,
    talk: Talk,
    begun: Instant,
}

/// How much is said of the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// All of it.
    All,
    /// What takes longer than [`PATIENCE`]: clients that read the answer expect its last line alone.
    Late,
    /// Nothing.
    Nothing,
}

/// How long nobody asks how far it is.
const PATIENCE: Duration = Duration::from_secs(1);

impl Lines {
    /// Says one thing. A client that is gone hears nothing, and the work goes on or fails by itself.
    pub(crate) fn say(&self, line: &Value) {
        self.spoke.store(true, Ordering::Relaxed);
        let _ = self.pieces.blocking_send(Ok(Bytes::from(format!("{line}\r\n"))));
    }

    /// Says what stood in the way, as the last line.
    pub(crate) fn fail(&self, error: &Error) {
        let message = &error.message;
        self.say(&json!({ "errorDetail": { "message": message }, "error": message }));
    }

    /// Says how far it is; the first and the last of an id always, others not more often than ten times a second.
    pub(crate) fn progress(&self, progress: &hull_image::Progress) {
        let early = self.begun.elapsed() < PATIENCE;
        if self.talk == Talk::Nothing || (self.talk == Talk::Late && early) {
            return;
        }
        let done = progress.total > 0 && progress.current >= progress.total;
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let last = said.get(&progress.id);
            if !done && last.is_some_and(|last| last.elapsed().as_millis() < 100) {
                return;
            }
            said.insert(progress.id.clone(), Instant::now());
        }
        let mut line = json!({ "status": progress.status });
        if progress.current > 0 || progress.total > 0 {
            line["progressDetail"] = json!({ "current": progress.current });
            if progress.total > 0 {
                line["progressDetail"]["total"] = json!(progress.total);
            }
            line["progress"] = json!(bar(progress.current, progress.total));
        } else {
            line["progressDetail"] = json!({});
        }
        if !progress.id.is_empty() {
            line["id"] = json!(progress.id);
        }
        self.say(&line);
    }
}

/// Answers with what `work` says. A failure before its first line is an answer of its own, a later one is the last
/// line.
pub(crate) async fn told(
    talk: Talk,
    work: impl FnOnce(&Lines) -> Result<()> + Send + 'static,
) -> Result<Response> {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let lines = Lines {
        pieces: sender,
        said: Mutex::default(),
        spoke: AtomicBool::new(false),
        talk,
        begun: Instant::now(),
    };
    let task = tokio::task::spawn_blocking(move || match work(&lines) {
        Err(error) if lines.spoke.load(Ordering::Relaxed) => {
            lines.fail(&error);
            Ok(())
        }
        result => result,
    });
    let first = pieces.recv().await;
    if first.is_none() {
        match task.await {
            Ok(result) => result?,
            Err(error) => return Err(Error::system("answer the request", error)),
        }
    }
    Ok(http::streamed(StatusCode::OK, "application/json", after(first, pieces)))
}

/// `[====>    ]  1.2MB/3MB`, as Docker's daemon draws it; the size alone where the total is not known.
pub(crate) fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    if total == 0 || current > total {
        return size(current);
    }
    let filled = usize::try_from(current.saturating_mul(WIDTH) / total).unwrap_or_default();
    let head = if filled < WIDTH as usize { ">" } else { "" };
    let blank = " ".repeat((WIDTH as usize).saturating_sub(filled + head.len()));
    format!("[{}{head}{blank}] {:>7}/{}", "=".repeat(filled), size(current), size(total))
}

/// Bytes with four digits at most: `999B`, `1.235MB`.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while value >= 1000.0 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    let places = if value >= 100.0 {
        1
    } else if value >= 10.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(response: Response) -> String {
        let body = response.into_body().collect().await.map(|body| body.to_bytes());
        body.map_or_else(
            |error| format!("cut off: {error}"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    #[tokio::test]
    async fn a_failure_before_the_first_line_is_an_answer_of_its_own() {
        let failed = told(Talk::All, |_| Err(Error::not_found("no"))).await;
        assert_eq!(failed.err().map(|error| error.message).as_deref(), Some("no"));
        let failed = told(Talk::All, |lines| {
            lines.say(&json!({ "status": "begun" }));
            Err(Error::not_found("no"))
        });
        let text = text(failed.await.unwrap()).await;
        assert_eq!(
            text,
            "{\"status\":\"begun\"}\r\n{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}\r\n"
        );
        let empty = told(Talk::All, |_| Ok(())).await.unwrap();
        assert_eq!(empty.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn what_is_written_arrives_whole_or_is_cut_off() {
        let whole = written(Side::Owner, "application/x-tar", |out| {
            for _ in 0..1000 {
                out.write_all(&[b'x'; 1000]).map_err(|error| Error::system("write", error))?;
            }
            Ok(())
        });
        assert_eq!(text(whole.await.unwrap()).await.len(), 1_000_000);
        let cut = written(Side::Owner, "application/x-tar", |out| {
            out.write_all(&[b'x'; 100_000]).map_err(|error| Error::system("write", error))?;
            Err(Error::system("read", "the disk is gone"))
        });
        assert!(text(cut.await.unwrap()).await.contains("the disk is gone"));
        let refused = written(Side::Owner, "application/x-tar", |_| Err(Error::not_found("no"))).await;
        assert!(refused.is_err());
    }

    #[test]
    fn bars_are_dockers() {
        assert_eq!(bar(0, 100), format!("[>{}]      0B/100B", " ".repeat(49)));
        assert_eq!(bar(100, 100), format!("[{}]    100B/100B", "=".repeat(50)));
        assert_eq!(bar(1_500_000, 0), "1.5MB");
        assert_eq!(size(999), "999B");
        assert_eq!(size(1000), "1kB");
        assert_eq!(size(12_345_678), "12.35MB");
    }
}
