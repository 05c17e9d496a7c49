//! What is no image, read from a registry: manifests as they are, and the blobs that they name.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::failure::Failure;
use super::fetch::{Fetch, Stopped};
use super::manifest::{Descriptor, Raw};
use super::sources::Sources;
use super::{Credentials, Registries};
use crate::Result;
use crate::artifact::Verified;
use crate::reference::Reference;
use crate::store::receive::Piece;

/// How many pieces of a blob may wait to be read.
const WAITING: usize = 16;

/// What a name stands for in a registry.
pub struct Remote {
    sources: Arc<Sources>,
    attempts: usize,
    /// The manifest or index.
    pub raw: Raw,
}

impl Registries {
    /// What a name stands for, whatever it is.
    ///
    /// # Errors
    /// It is not there, or the registry does not answer.
    pub async fn remote(&self, name: &Reference, who: &Credentials) -> Result<Remote> {
        let (_, raw) = self.named(name, who).await.map_err(|failure| failure.of_pull(name))?;
        let settings = self.settings();
        let sources = Sources::new(self.clone(), vec![settings.own(name)], who.clone());
        Ok(Remote { sources: Arc::new(sources), attempts: settings.attempts, raw })
    }
}

impl Remote {
    /// A blob of the same repository, to be read by a thread that may block; its digest is compared at its end. It is fetched
    /// by a task of the runtime that `runtime` is of, until nobody reads it any more.
    pub fn blob(&self, descriptor: &Descriptor, runtime: &Handle) -> Verified<impl Read + use<>> {
        let (sender, pieces) = mpsc::channel(WAITING);
        let (sources, attempts, layer) = (Arc::clone(&self.sources), self.attempts, descriptor.clone());
        let fetching = runtime.spawn(async move {
            let fetch = Fetch { sources: &sources, layer: &layer, attempts, progress: &|_| {} };
            match fetch.run(0, &sender).await {
                Ok(()) | Err(Stopped::Unwanted) => None,
                Err(Stopped::Failed(failure)) => Some(failure),
            }
        });
        let coming =
            Coming { pieces, piece: Bytes::new(), fetching: Some(fetching), runtime: runtime.clone() };
        Verified::new(coming, descriptor)
    }
}

/// A blob on its way.
struct Coming {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    /// Says why there came no more.
    fetching: Option<tokio::task::JoinHandle<Option<Failure>>>,
    runtime: Handle,
}

impl Read for Coming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(piece)) => self.piece = piece,
                Some(Piece::End) => return Ok(0),
                None => {
                    let Some(fetching) = self.fetching.take() else { return Ok(0) };
                    let ended = self.runtime.block_on(fetching).map_err(io::Error::other)?;
                    return ended.map_or(Ok(0), |failure| Err(io::Error::other(failure.to_string())));
                }
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
