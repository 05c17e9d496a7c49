//! The answer of a build: its events in lines of JSON, as the client asks for them, and archives beside them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hull_build::progress::{Classic, Event, Listener, Sink, TakesArchive};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

/// So many lines may wait for a client that reads slowly, until who prints waits too.
const BACKLOG: usize = 1024;

/// The answer's lines. What tells is never held up by who reads; what prints is, when it asks for room.
#[derive(Clone)]
pub(crate) struct Lines {
    pieces: mpsc::UnboundedSender<std::io::Result<Bytes>>,
    waiting: Arc<AtomicUsize>,
    taken: Arc<Notify>,
    /// Each piece is behind its channel (a byte; 1 is the lines, outputs are from 2 on) and its length (four bytes).
    framed: bool,
}

/// An output on its way to the client.
struct Sending {
    lines: Lines,
    channel: u8,
    runtime: tokio::runtime::Handle,
}

impl std::io::Write for Sending {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.runtime.block_on(self.lines.room());
        if self.lines.pieces.is_closed() {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.lines.send(self.channel, data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The frames' end is the answer's.
impl TakesArchive for Sending {}

impl Lines {
    pub(crate) fn new(
        framed: bool,
    ) -> (Lines, impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static) {
        let (pieces, receiver) = mpsc::unbounded_channel();
        let lines = Lines { pieces, waiting: Arc::default(), taken: Arc::default(), framed };
        let (waiting, taken) = (Arc::clone(&lines.waiting), Arc::clone(&lines.taken));
        let stream = futures_util::stream::unfold(receiver, move |mut receiver| {
            let (waiting, taken) = (Arc::clone(&waiting), Arc::clone(&taken));
            async move {
                let piece = receiver.recv().await?;
                waiting.fetch_sub(1, Ordering::Relaxed);
                taken.notify_waiters();
                Some((piece, receiver))
            }
        });
        (lines, stream)
    }

    pub(crate) fn say(&self, line: &Value) {
        self.send(1, format!("{line}\r\n").as_bytes());
    }

    fn send(&self, channel: u8, bytes: &[u8]) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let head = [&[channel][..], &(bytes.len() as u32).to_be_bytes()].concat();
        let piece = if self.framed { [&head[..], bytes].concat() } else { bytes.to_vec() };
        // A client that is gone hears nothing.
        let _ = self.pieces.send(Ok(piece.into()));
    }

    /// Waits until nobody reads any more.
    pub(crate) async fn gone(&self) {
        self.pieces.closed().await;
    }

    /// Waits until what was said has been taken, more or less.
    pub(crate) async fn room(&self) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // Registered before it is looked at, so that what is taken in between is not missed.
            taken.as_mut().enable();
            if self.waiting.load(Ordering::Relaxed) < BACKLOG || self.pieces.is_closed() {
                return;
            }
            tokio::select! {
                () = taken => {}
                () = self.pieces.closed() => return,
            }
        }
    }
}

type Room<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Every event as it is.
pub(crate) struct Events(pub(crate) Lines);

impl Listener for Events {
    fn event(&self, event: Event) {
        match serde_json::to_value(&event) {
            Ok(event) => self.0.say(&json!({ "id": "hull.build", "aux": event })),
            Err(error) => tracing::error!(%error, "an event of a build could not be written"),
        }
    }

    fn room(&self) -> Room<'_> {
        Box::pin(self.0.room())
    }

    fn output(&self, number: usize) -> Option<Sink> {
        let channel = u8::try_from(number + 2).ok().filter(|_| self.0.framed)?;
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        Some(Sink::Archive(Box::new(Sending { lines: self.0.clone(), channel, runtime })))
    }
}

/// The classic builder's lines.
pub(crate) struct AsClassic {
    pub(crate) lines: Lines,
    pub(crate) classic: Classic,
}

impl Listener for AsClassic {
    fn event(&self, event: Event) {
        match event {
            Event::Warning { text, .. } => {
                self.lines.say(&json!({ "stream": format!("[Warning] {text}\n") }));
            }
            event => self.classic.event(event),
        }
    }

    fn room(&self) -> Room<'_> {
        Box::pin(self.lines.room())
    }
}

impl Drop for AsClassic {
    fn drop(&mut self) {
        self.classic.finish();
    }
}

/// Nothing.
pub(crate) struct Quiet(pub(crate) Lines);

impl Listener for Quiet {
    fn event(&self, _: Event) {}

    fn room(&self) -> Room<'_> {
        Box::pin(self.0.room())
    }
}
