//! What a build sends to its client, over the session: files, archives, and blobs into a content store of the client's.

use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bollard_buildkit_proto::moby::filesync::v1::BytesMessage;
use hull_build::Stop;
use hull_build::progress::{Event, Listener, Sink, TakesArchive, TakesFiles};
use tokio::runtime::Handle;

use crate::filesync;
use crate::grpc::client::{Call, Receiving, Sending};
use crate::grpc::{Result, Status};
use crate::patience::Patience;
use crate::session::Session;
use crate::store::Blobs;
use crate::trace::Trace;

/// The method by which a client takes files and archives.
const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// How much of an archive goes at a time.
const PIECE: usize = 256 << 10;

/// How the client takes an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nothing comes to it.
    None,
    /// Files, into a folder.
    Files,
    /// An archive.
    Archive,
    /// The blobs of an OCI layout, into the content store of that name.
    Store(String),
}

/// Who is told what goes on in a build, and given what it makes.
pub(crate) struct Carrier {
    pub(crate) trace: Arc<Trace>,
    pub(crate) session: Arc<Session>,
    /// How each output of the request is taken, and the number that the client knows it by.
    pub(crate) ways: Vec<(Way, usize)>,
    pub(crate) stop: Stop,
    /// What its threads work with the client by, from when something is to be sent.
    patience: OnceLock<Arc<Patience>>,
}

impl Carrier {
    pub(crate) fn new(
        trace: &Arc<Trace>,
        session: &Arc<Session>,
        ways: Vec<(Way, usize)>,
        stop: &Stop,
    ) -> Arc<Carrier> {
        let (trace, session, stop) = (Arc::clone(trace), Arc::clone(session), stop.clone());
        Arc::new(Carrier { trace, session, ways, stop, patience: OnceLock::new() })
    }

    /// Takes the place of the thread that sends, where something is sent. The outputs go one after the other.
    pub(crate) async fn begin(&self) -> Result<()> {
        if self.ways.iter().any(|(way, _)| *way != Way::None) {
            let patience = Patience::take(&self.session.places, &self.stop).await?;
            let _ = self.patience.set(patience);
        }
        Ok(())
    }
}

impl Listener for Carrier {
    fn event(&self, event: Event) {
        self.trace.event(event);
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.trace.room()
    }

    fn output(&self, number: usize) -> Option<Sink> {
        let (way, id) = self.ways.get(number)?;
        let metadata = vec![("buildkit-attachable-exporter-id", id.to_string())];
        let call = || self.session.call(SEND, metadata);
        let patience = || self.patience.get().cloned();
        match way {
            Way::None => None,
            Way::Store(name) => {
                let blobs = Blobs::new(Arc::clone(&self.session), name.clone(), patience()?);
                Some(Sink::Archive(Box::new(Layout::begin(blobs, Handle::try_current().ok()?).ok()?)))
            }
            Way::Files => Some(Sink::Files(Box::new(Files { call: call().ok()?, patience: patience()? }))),
            Way::Archive => {
                let Call { send, receive } = call().ok()?;
                let waiting = Vec::with_capacity(PIECE);
                Some(Sink::Archive(Box::new(Archive { send, receive, patience: patience()?, waiting })))
            }
        }
    }
}

/// Files that the client takes.
struct Files {
    call: Call,
    patience: Arc<Patience>,
}

impl TakesFiles for Files {
    fn take(
        self: Box<Self>,
        root: BorrowedFd<'_>,
        without: &HashSet<Vec<u8>>,
        beneath: Option<&str>,
    ) -> io::Result<()> {
        filesync::send(self.call, &self.patience, root, without, beneath)
    }
}

/// An archive that the client takes.
struct Archive {
    send: Sending,
    receive: Receiving,
    patience: Arc<Patience>,
    waiting: Vec<u8>,
}

fn other(status: Status) -> io::Error {
    io::Error::other(status.message)
}

impl Write for Archive {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(PIECE - self.waiting.len());
        self.waiting.extend_from_slice(&data[..count]);
        if self.waiting.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.waiting, Vec::with_capacity(PIECE));
        let count = data.len();
        self.patience.wait(self.send.send(&BytesMessage { data })).map_err(other)?;
        self.patience.moved(count);
        Ok(())
    }
}

impl TakesArchive for Archive {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.flush()?;
        let Archive { send, mut receive, patience, .. } = *self;
        drop(send);
        patience.wait_for_end(receive.end()).map_err(other)
    }
}

/// An OCI layout that goes into a content store, blob by blob: a thread reads the archive that it is written as.
struct Layout {
    out: io::PipeWriter,
    reading: tokio::task::JoinHandle<io::Result<()>>,
    runtime: Handle,
}

impl Layout {
    fn begin(blobs: Blobs, runtime: Handle) -> io::Result<Layout> {
        let (archive, out) = io::pipe()?;
        let reading = runtime.spawn_blocking(move || blobs.take_layout(archive));
        Ok(Layout { out, reading, runtime })
    }
}

impl Write for Layout {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.out.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl TakesArchive for Layout {
    fn finish(self: Box<Self>) -> io::Result<()> {
        let Layout { out, reading, runtime } = *self;
        drop(out);
        runtime.block_on(reading).map_err(io::Error::other)?
    }
}
