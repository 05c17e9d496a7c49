//! An image that is sent to a registry: its layers' archives, compressed as they are put together.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::kept::Kept;
use super::{Image, Store};
use crate::compress::{Algorithm, Compress};
use crate::registry::manifest::Raw;
use crate::{Digest, ImageId, Result};

/// As large a piece is sent at once.
const PIECE: usize = 128 << 10;

/// What a layer is when it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compressed {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Store {
    /// Keeps the layers of an image that is here.
    pub(crate) fn keep_layers(self: &Arc<Store>, image: &Image) -> Kept<Arc<Store>> {
        let top = image.layers.last().map(|layer| layer.chain_id);
        let mut state = self.state_mut();
        let layer = top.filter(|top| state.layers.get_mut(top).map(|layer| layer.users += 1).is_some());
        Kept::counted(Arc::clone(self), layer)
    }

    /// Puts a layer's archive together and compresses it, with gzip where nothing else is said, always to the same bytes. `take`
    /// gets them piece by piece, and says no when nobody wants more, which is an error then; `progress` gets how much of the
    /// archive is done.
    pub(crate) fn compress_layer(
        &self,
        chain_id: &Digest,
        how: Compress,
        progress: &dyn Fn(u64),
        take: &mut dyn FnMut(Bytes) -> bool,
    ) -> Result<Compressed> {
        let row = self.layer_row(chain_id)?;
        let failed = |error| crate::Error::system("compress a layer", error);
        let pieces = Pieces::new(take);
        let encoder = how.algorithm.unwrap_or(Algorithm::Gzip).encoder(how.level, pieces).map_err(failed)?;
        let mut counted = Counted { out: encoder, count: 0, progress };
        self.assemble_layer(&row, &mut counted)?;
        counted.out.finish().and_then(Pieces::ended).map_err(failed)
    }

    /// The bytes of a layer's archive.
    pub(crate) fn archive_size(&self, chain_id: &Digest) -> Result<u64> {
        self.layer_row(chain_id).map(|row| row.archive_size)
    }

    /// The manifests and indexes that an image came or was sent with.
    pub(crate) fn manifests_of(&self, image: &ImageId) -> Result<Vec<Raw>> {
        self.database().manifests_of_image(image)
    }
}

/// Counts what is written.
struct Counted<'a, W> {
    out: W,
    count: u64,
    progress: &'a dyn Fn(u64),
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        (self.progress)(self.count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Gathers what is written, hashes it and passes it on.
pub(crate) struct Pieces<'a> {
    take: &'a mut dyn FnMut(Bytes) -> bool,
    piece: Vec<u8>,
    digest: Sha256,
    size: u64,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(take: &'a mut dyn FnMut(Bytes) -> bool) -> Pieces<'a> {
        Pieces { take, piece: Vec::with_capacity(PIECE), digest: Sha256::new(), size: 0 }
    }

    /// What it came to.
    pub(crate) fn ended(mut self) -> io::Result<Compressed> {
        self.send()?;
        Ok(Compressed { digest: Digest::from_hasher(self.digest), size: self.size })
    }

    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.digest.update(&self.piece);
        self.size += self.piece.len() as u64;
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        match (self.take)(piece.into()) {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes it any more")),
        }
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..room]);
        if self.piece.len() >= PIECE {
            self.send()?;
        }
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
