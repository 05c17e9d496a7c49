//! The answer of a build: lines of JSON, and in frames between them the archives that were asked for.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::{JsonStream, Response};
use crate::commands::container::extract_into;
use crate::commands::shared::output::Output;
use crate::error::{Error, words};
use crate::stream::{self, Target};

/// How many pieces are read ahead of who writes them.
const AHEAD: usize = 16;
/// A frame is not longer.
const LONGEST: usize = 64 << 20;

/// Where an archive goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Standard output.
    Out,
    /// A file, which is there when it is whole.
    File(PathBuf),
    /// What is in it, into a folder.
    Folder(PathBuf),
}

/// An answer.
pub(super) enum Answer {
    Lines(JsonStream),
    Frames(Frames),
}

impl Answer {
    pub(super) fn of(response: Response, places: Vec<Option<Place>>) -> Answer {
        if places.iter().all(Option::is_none) {
            return Answer::Lines(response.json_stream());
        }
        let sinks = places.into_iter().map(|place| (place, None)).collect();
        Answer::Frames(Frames { response, bytes: Vec::new(), at: 0, sinks })
    }

    /// The next line; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, Error> {
        match self {
            Answer::Lines(lines) => lines.next().await,
            Answer::Frames(frames) => frames.next().await,
        }
    }

    /// Puts everything in its place, behind a build that went well.
    pub(super) async fn finish(self) -> Result<(), Error> {
        let Answer::Frames(frames) = self else { return Ok(()) };
        for (place, sink) in frames.sinks {
            match (place, sink) {
                (_, Some(sink)) => sink.finish().await?,
                (None, None) => {}
                (Some(_), None) => return Err(Error::new("the daemon sent nothing of an output")),
            }
        }
        Ok(())
    }
}

/// Frames: a channel (a byte), a length (four bytes, the highest first), and so many bytes.
pub(super) struct Frames {
    response: Response,
    bytes: Vec<u8>,
    at: usize,
    sinks: Vec<(Option<Place>, Option<Sink>)>,
}

impl Frames {
    async fn has(&mut self, count: usize) -> Result<bool, Error> {
        while self.bytes.len() - self.at < count {
            self.bytes.drain(..self.at);
            self.at = 0;
            match self.response.chunk().await? {
                Some(piece) => self.bytes.extend_from_slice(&piece),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn next(&mut self) -> Result<Option<Value>, Error> {
        let cut = || Error::new("the daemon's answer is cut off");
        loop {
            if !self.has(5).await? {
                return if self.bytes.len() == self.at { Ok(None) } else { Err(cut()) };
            }
            let head = &self.bytes[self.at..self.at + 5];
            let (channel, length) =
                (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
            if length > LONGEST || !self.has(5 + length).await? {
                return Err(cut());
            }
            let start = self.at + 5;
            self.at = start + length;
            let bytes = &self.bytes[start..self.at];
            if channel == 1 {
                return Ok(Some(serde_json::from_slice(bytes)?));
            }
            let sink = usize::from(channel).checked_sub(2).and_then(|number| self.sinks.get_mut(number));
            let Some((Some(place), sink)) = sink else {
                return Err(Error::new("the daemon sends an output that nobody asked for"));
            };
            if sink.is_none() {
                *sink = Some(Sink::open(place)?);
            }
            if let Some(sink) = sink {
                sink.take(bytes).await?;
            }
        }
    }
}

/// Where an archive is written. Dropped before its end, nothing of a file is left.
enum Sink {
    Out,
    File(Output),
    Folder { pieces: mpsc::Sender<Bytes>, writing: JoinHandle<Result<(), Error>> },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |error| Error::new(format!("write the build's output to {}: {}", path.display(), words(&error)))
}

impl Sink {
    fn open(place: &Place) -> Result<Sink, Error> {
        match place {
            Place::Out => Ok(Sink::Out),
            Place::File(path) => Ok(Sink::File(Output::open(path)?)),
            Place::Folder(path) => {
                std::fs::create_dir_all(path).map_err(failed(path))?;
                let (pieces, receiver) = mpsc::channel(AHEAD);
                let folder = path.display().to_string();
                let writing = tokio::task::spawn_blocking(move || extract_into(receiver, folder));
                Ok(Sink::Folder { pieces, writing })
            }
        }
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Sink::Out => stream::write(Target::Out, bytes).await,
            Sink::File(file) => file.write(bytes),
            // Where the writing has ended early, its own error says why.
            Sink::Folder { pieces, .. } => {
                let _ = pieces.send(Bytes::copy_from_slice(bytes)).await;
                Ok(())
            }
        }
    }

    async fn finish(self) -> Result<(), Error> {
        match self {
            Sink::Out => Ok(()),
            Sink::File(file) => file.finish(),
            Sink::Folder { pieces, writing } => {
                drop(pieces);
                writing.await.map_err(|error| Error::new(format!("the writing broke off: {error}")))?
            }
        }
    }
}
