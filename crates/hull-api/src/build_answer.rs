//! The answer of a build: its events in lines of JSON, as the client asks for them, and archives beside them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hull_build::plan::Plan;
use hull_build::progress::{Classic, Event, Listener, Said, Sink, TakesArchive};
use hull_image::reference::Reference;
use hull_image::registry::{Pulled, Step};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

/// So many bytes may wait for a client that reads slowly, until who prints or sends waits too.
const BACKLOG: usize = 2 << 20;

/// So many bytes of what a quiet build tells last are kept for the case that it fails.
const WITHHELD: usize = 1 << 20;

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
                let piece: std::io::Result<Bytes> = receiver.recv().await?;
                let length = piece.as_ref().map_or(0, Bytes::len);
                waiting.fetch_sub(length, Ordering::Relaxed);
                taken.notify_waiters();
                Some((piece, receiver))
            }
        });
        (lines, stream)
    }

    pub(crate) fn say(&self, line: &Value) {
        self.say_text(&line.to_string());
    }

    fn say_text(&self, line: &str) {
        self.send(1, format!("{line}\r\n").as_bytes());
    }

    fn send(&self, channel: u8, bytes: &[u8]) {
        let length = (bytes.len() as u32).to_be_bytes();
        let piece = match self.framed {
            true => Bytes::from([&[channel][..], &length, bytes].concat()),
            false => Bytes::copy_from_slice(bytes),
        };
        self.waiting.fetch_add(piece.len(), Ordering::Relaxed);
        // A client that is gone hears nothing.
        let _ = self.pieces.send(Ok(piece));
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

/// Lines that are told only where the build fails: whoever builds quietly wants nothing but the image's id.
#[derive(Clone, Default)]
pub(crate) struct Withheld(Arc<Mutex<Kept>>);

/// The last lines, by their bytes: why a build fails is said at its end.
#[derive(Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
    /// So many were before them.
    left_out: usize,
}

impl Kept {
    fn keep(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        // The last one stays, however long it is.
        while self.bytes > WITHHELD && self.lines.len() > 1 {
            let Some(first) = self.lines.pop_front() else { return };
            self.bytes -= first.len();
            self.left_out += 1;
        }
    }
}

impl Withheld {
    /// Tells them.
    pub(crate) fn told(&self, lines: &Lines) {
        let withheld = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if withheld.left_out > 0 {
            let text = format!("[{} earlier lines of the quiet build are left out]\n", withheld.left_out);
            lines.say(&json!({ "stream": text }));
        }
        withheld.lines.iter().for_each(|line| lines.say_text(line));
    }

    fn keep(&self, line: &Value) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(line.to_string());
    }
}

/// The classic builder's lines.
pub(crate) struct AsClassic {
    lines: Lines,
    withheld: Option<Withheld>,
    classic: Classic,
}

impl AsClassic {
    /// For what is planned.
    pub(crate) fn new(plan: &Plan, lines: &Lines, withheld: Option<Withheld>) -> AsClassic {
        let (into, aside) = (lines.clone(), withheld.clone());
        let classic = Classic::new(plan, move |said| {
            let line = match said {
                Said::Text(text) => json!({ "stream": text }),
                Said::Image(id) => json!({ "aux": { "ID": id } }),
            };
            match &aside {
                None => into.say(&line),
                Some(withheld) => withheld.keep(&line),
            }
        });
        AsClassic { lines: lines.clone(), withheld, classic }
    }

    fn say(&self, line: Value) {
        match &self.withheld {
            None => self.lines.say(&line),
            Some(withheld) => withheld.keep(&line),
        }
    }
}

impl Listener for AsClassic {
    fn event(&self, event: Event) {
        match event {
            Event::Warning { text, .. } => self.say(json!({ "stream": format!("[Warning] {text}\n") })),
            event => self.classic.event(event),
        }
    }

    fn pulling(&self, step: &Step) {
        self.say(crate::pull::line(step));
    }

    fn pulled(&self, name: &Reference, pulled: &Pulled) {
        crate::pull::ended(name, pulled).into_iter().for_each(|line| self.say(line));
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

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_quiet_build_that_fails_tells_what_it_told_last() {
        let withheld = Withheld::default();
        for number in 0..40 {
            withheld.keep(&json!({ "stream": format!("{number}{}", "x".repeat(WITHHELD / 16)) }));
        }
        withheld.keep(&json!({ "stream": "why it failed" }));
        assert!(withheld.0.lock().unwrap().bytes <= WITHHELD);
        let (lines, stream) = Lines::new(false);
        withheld.told(&lines);
        drop(lines);
        let told: Vec<Bytes> = stream.map(|piece| piece.unwrap()).collect().await;
        let told = String::from_utf8(told.concat()).unwrap();
        assert!(
            told.starts_with("{\"stream\":\"[25 earlier lines of the quiet build are left out]\\n\"}\r\n")
        );
        assert!(told.contains("\"25xx") && told.ends_with("{\"stream\":\"why it failed\"}\r\n"));
    }

    #[tokio::test]
    async fn who_sends_waits_for_who_reads_by_the_bytes() {
        let (lines, stream) = Lines::new(true);
        let mut stream = Box::pin(stream);
        lines.send(2, &vec![0; BACKLOG - 6]);
        let waits = |lines: &Lines| futures_util::FutureExt::now_or_never(lines.room()).is_none();
        assert!(!waits(&lines));
        lines.send(2, b"x");
        assert!(waits(&lines));
        assert_eq!(stream.next().await.unwrap().unwrap().len(), BACKLOG - 1);
        assert!(!waits(&lines));
        assert_eq!(&stream.next().await.unwrap().unwrap()[..], b"\x02\0\0\0\x01x");
        assert_eq!(lines.waiting.load(Ordering::Relaxed), 0);
    }
}
