//! An image that arrives from a registry: its layers are unpacked while they come, and entered when all are there.
//!
//! What came of a blob lies beneath `partial/` under its digest until its image is entered: a download goes on from
//! there, also in the next daemon.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::fs::FlockOperation;
use tokio::sync::{mpsc, oneshot};

use super::import::Unpacked;
use super::kept::Kept;
use super::{Draft, Image, Store};
use crate::reference::Reference;
use crate::registry::Keep;
use crate::registry::manifest::{Descriptor, Raw};
use crate::{Digest, Error, ImageConfig, ImageId, Result, fault};

/// Partial blobs that nobody came back for are removed after that.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 3600);

/// A layer as it lies in a registry, for whoever sends it there again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBlob {
    /// The digest of its compressed bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// What it is.
    pub media_type: String,
    /// Where it is, in full: `docker.io/library/busybox`.
    pub repository: String,
}

/// An image that is to be received.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    /// The bytes of its configuration, verified.
    pub(crate) config: Bytes,
    /// Its layers, lowest first: the digests of their archives and what they are in the registry.
    pub(crate) layers: Vec<(Digest, Descriptor)>,
    /// The names that it gets.
    pub(crate) names: Vec<Reference>,
    /// What of it stays.
    pub(crate) keep: Keep,
    /// Its manifest and the indexes that led to it.
    pub(crate) manifests: Vec<Raw>,
    /// Where it is, in full.
    pub(crate) repository: String,
}

/// What the one who fetches tells the one who unpacks.
pub(crate) enum Message {
    /// A layer begins to come.
    Layer(Arrival),
    /// All layers came and were unpacked.
    Enter,
}

/// A layer that comes.
pub(crate) struct Arrival {
    /// Which of the image's.
    pub(crate) index: usize,
    pub(crate) source: Arriving,
    /// Told how much of it was unpacked.
    pub(crate) progress: Box<dyn Fn(u64) + Send>,
    /// Told whether it was unpacked, and was what it should be.
    pub(crate) done: oneshot::Sender<Result<()>>,
}

/// A piece of a blob, or the word that there are no more.
pub(crate) enum Piece {
    Bytes(Bytes),
    End,
}

/// A blob on its way: what the disk has of it, then what comes, which is put on the disk first.
pub(crate) struct Arriving {
    file: File,
    /// How much of the file was there before.
    kept: u64,
    position: u64,
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Arriving {
    pub(crate) fn new(file: File, kept: u64, pieces: mpsc::Receiver<Piece>) -> Arriving {
        Arriving { file, kept, position: 0, pieces, piece: Bytes::new(), ended: false }
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position < self.kept {
            let wanted = usize::try_from(self.kept - self.position).unwrap_or(usize::MAX).min(buffer.len());
            let count = self.file.read_at(&mut buffer[..wanted], self.position)?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the partial download was cut off"));
            }
            self.position += count as u64;
            return Ok(count);
        }
        while self.piece.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(piece)) => {
                    self.file.write_all_at(&piece, self.position)?;
                    self.position += piece.len() as u64;
                    self.kept = self.position;
                    self.piece = piece;
                }
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download ended early")),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl Store {
    /// Receives an image. `known` is told which of its layers are here already, and keeps them here meanwhile; the others
    /// are to come by `messages`. Where these end without the word to enter it, nothing is left but partial blobs. With an
    /// image that gets no names comes what has its layers stay.
    pub(crate) fn receive(
        self: &Arc<Self>,
        image: &Incoming,
        known: oneshot::Sender<Vec<bool>>,
        messages: Receiver<Message>,
    ) -> Result<Option<(Arc<Image>, Option<Draft>)>> {
        image.names.iter().try_for_each(|name| self.check_not_builtin(Some(name)))?;
        let (_held, here) = self.hold_known(image);
        if known.send(here).is_err() {
            return Ok(None);
        }
        let unpacked = Mutex::new(Vec::new());
        let complete = std::thread::scope(|scope| {
            for message in messages {
                let arrival = match message {
                    Message::Enter => return true,
                    Message::Layer(arrival) => arrival,
                };
                let (unpacked, layer) = (&unpacked, image.layers.get(arrival.index));
                let Some(layer) = layer else { continue };
                scope.spawn(move || {
                    let Arrival { mut source, progress, done, .. } = arrival;
                    let taken = self.unpack_arriving(&mut source, layer, &*progress).map(|layer| {
                        unpacked.lock().unwrap_or_else(PoisonError::into_inner).push(layer);
                    });
                    // Nobody waits any more where the client has gone.
                    let _ = done.send(taken);
                });
            }
            false
        });
        if !complete {
            return Ok(None);
        }
        let unpacked = unpacked.into_inner().unwrap_or_else(PoisonError::into_inner);
        let came = unpacked.iter().map(|layer| (layer.passed.diff_id, layer.passed.blob)).collect();
        fault::point("pull", "unpacked")?;
        let (entered, draft) = self.enter_received(image, unpacked)?;
        fault::passed("pull", "entered");
        self.remember(&entered.id, image, &came)?;
        fault::passed("pull", "remembered");
        for (_, layer) in &image.layers {
            self.forget_partial(&layer.digest);
        }
        fault::passed("pull", "partial blobs gone");
        Ok(Some((entered, draft)))
    }

    /// Enters what came, as far as it is to stay. What gets no name is held before it is an image: whoever prunes may take
    /// it from then on.
    fn enter_received(
        self: &Arc<Self>,
        image: &Incoming,
        unpacked: Vec<Unpacked<'_>>,
    ) -> Result<(Arc<Image>, Option<Draft>)> {
        if image.keep == Keep::Named {
            return Ok((self.enter(&image.config, unpacked, None, &image.names)?, None));
        }
        let draft = self.enter_as_draft(&image.config, unpacked)?;
        if image.keep == Keep::Layers {
            return Ok((Arc::clone(&draft.image), Some(draft)));
        }
        let entered = self.enter_draft(&draft, &[])?;
        let draft = self.draft_of(&entered)?;
        Ok((entered, Some(draft)))
    }

    /// Which layers are here: as a part of the same stack, or of another, from where they can be copied.
    fn hold_known(&self, image: &Incoming) -> (Kept<&Store>, Vec<bool>) {
        let kept = self.hold_chain(image.layers.iter().map(|(diff_id, _)| *diff_id));
        let state = self.state();
        let all: HashSet<Digest> = state.layers.values().map(|layer| layer.row.diff_id).collect();
        let here = image.layers.iter().map(|(diff_id, _)| all.contains(diff_id)).collect();
        (kept, here)
    }

    /// Keeps those of an image's layers, lowest first, that are here as a part of the same stack.
    pub(super) fn hold_chain(&self, diff_ids: impl IntoIterator<Item = Digest>) -> Kept<&Store> {
        let mut state = self.state_mut();
        let (mut below, mut top) = (None, None);
        for diff_id in diff_ids {
            let chain_id = Digest::chain(below, diff_id);
            below = Some(chain_id);
            if !state.layers.contains_key(&chain_id) {
                break;
            }
            top = Some(chain_id);
        }
        if let Some(layer) = top.and_then(|top| state.layers.get_mut(&top)) {
            layer.users += 1;
        }
        Kept::counted(self, top)
    }

    /// Whether a layer of that archive is here.
    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.state().layers.values().any(|layer| layer.row.diff_id == *diff_id)
    }

    fn unpack_arriving(
        &self,
        source: &mut Arriving,
        (diff_id, layer): &(Digest, Descriptor),
        progress: &dyn Fn(u64),
    ) -> Result<Unpacked<'_>> {
        let unpacked = self.unpack(source, false, progress)?;
        if unpacked.passed.blob != layer.digest {
            return Err(Error::invalid(format!(
                "filesystem layer verification failed for digest {}: what came is {}",
                layer.digest, unpacked.passed.blob
            )));
        }
        if unpacked.passed.diff_id != *diff_id {
            return Err(Error::invalid(format!(
                "layers from manifest don't match image configuration: the layer {} is {} uncompressed, and the \
                 configuration says {diff_id}",
                layer.digest, unpacked.passed.diff_id
            )));
        }
        Ok(unpacked)
    }

    /// Writes down where an image came from; of layers that are no image's, where these did, and nothing else. That a layer
    /// is a blob is believed of those alone that `came`, and of those of which it was seen before: a push would take the
    /// blob over in the layer's place.
    fn remember(&self, id: &ImageId, image: &Incoming, came: &HashSet<(Digest, Digest)>) -> Result<()> {
        let database = self.database();
        database.transaction(|database| {
            for (diff_id, layer) in &image.layers {
                let is_seen = |blob: &LayerBlob| blob.digest == layer.digest;
                if !came.contains(&(*diff_id, layer.digest)) && !database.blobs(diff_id)?.iter().any(is_seen)
                {
                    continue;
                }
                let blob = LayerBlob {
                    digest: layer.digest,
                    size: layer.size,
                    media_type: layer.media_type.clone(),
                    repository: image.repository.clone(),
                };
                database.put_blob(diff_id, &blob)?;
            }
            image.manifests.iter().try_for_each(|raw| database.put_manifest(raw, id))
        })
    }

    /// The image that a manifest's or an index's digest led to before, where it is still here and runs on a platform.
    pub(crate) fn image_of_manifest(
        &self,
        digest: &Digest,
        fits: &dyn Fn(&ImageConfig) -> bool,
    ) -> Result<Option<Arc<Image>>> {
        let ids = self.database().images_of_manifest(digest)?;
        let images = ids.iter().filter_map(|id| self.image(id).ok());
        Ok(images.into_iter().find(|image| fits(&image.config)))
    }

    /// Notes what a name led to that is no image's name here: an image, and what the name is in its registry.
    pub(crate) fn note_led(&self, name: &Reference, image: &ImageId, manifest: &Digest) -> Result<()> {
        self.database().put_led(&super::images::key(name), image, manifest)
    }

    /// What a name led to last of images that are still here and fit.
    pub(crate) fn led(
        &self,
        name: &Reference,
        fits: &dyn Fn(&ImageConfig) -> bool,
    ) -> Result<Option<(Arc<Image>, Digest)>> {
        let led = self.database().led(&super::images::key(name))?;
        let images = led.into_iter().filter_map(|(id, manifest)| Some((self.image(&id).ok()?, manifest)));
        Ok(images.into_iter().find(|(image, _)| fits(&image.config)))
    }

    /// The bytes of a manifest that an image came with, and their media type.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Raw>> {
        self.database().manifest(digest)
    }

    /// Keeps the bytes of a manifest that an image was sent with.
    pub fn add_manifest(&self, raw: &Raw, image: &ImageId) -> Result<()> {
        self.database().put_manifest(raw, image)
    }

    /// What a layer is in registries, the latest first.
    pub fn layer_blobs(&self, diff_id: &Digest) -> Result<Vec<LayerBlob>> {
        self.database().blobs(diff_id)
    }

    /// Writes down what a layer is in a registry.
    pub fn add_layer_blob(&self, diff_id: &Digest, blob: &LayerBlob) -> Result<()> {
        self.database().put_blob(diff_id, blob)
    }

    /// Gives an image the names that it does not have yet.
    pub(crate) fn name_pulled(&self, id: &ImageId, names: &[Reference]) -> Result<()> {
        names.iter().try_for_each(|name| {
            self.check_not_builtin(Some(name))?;
            if self.named(name) == Some(*id) { Ok(()) } else { self.set_name(name, id) }
        })
    }

    /// The image that has exactly this name.
    pub(crate) fn named(&self, name: &Reference) -> Option<ImageId> {
        self.state().names.get(&super::images::key(name)).copied()
    }

    /// The file of what came of a blob, and how much that is.
    pub(crate) fn partial(&self, layer: &Descriptor) -> Result<(File, u64)> {
        let path = self.partial_path(&layer.digest);
        let failed = |error: io::Error| Error::file("open", &path, error);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        // Held as long as the file is open: what is not is nobody's, and may be pruned.
        rustix::fs::flock(&file, FlockOperation::LockShared).map_err(|errno| failed(errno.into()))?;
        fault::point("pull", "partial blob made")?;
        let kept = file.metadata().map_err(failed)?.len();
        if kept > layer.size {
            file.set_len(0).map_err(failed)?;
            return Ok((file, 0));
        }
        Ok((file, kept))
    }

    /// Removes what came of a blob.
    pub(crate) fn forget_partial(&self, digest: &Digest) {
        let path = self.partial_path(digest);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{}", Error::file("remove", &path, error));
            }
            _ => {}
        }
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.hex())
    }

    /// Removes what came of blobs that are not being fetched, and of which nothing came for so long. The bytes that were
    /// given back are returned.
    pub(super) fn remove_partials(&self, idle: Duration) -> Result<u64> {
        let folder = self.root.join("partial");
        let entries = std::fs::read_dir(&folder).map_err(|error| Error::file("read", &folder, error))?;
        let mut freed = 0;
        for path in entries.flatten().map(|entry| entry.path()) {
            let Ok(file) = File::open(&path) else { continue };
            let Ok(data) = file.metadata() else { continue };
            let is_idle = data.modified().is_ok_and(|time| time.elapsed().unwrap_or_default() >= idle);
            let is_busy = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
            if is_busy || !is_idle {
                continue;
            }
            match std::fs::remove_file(&path) {
                Ok(()) => freed += data.blocks() * 512,
                Err(error) => tracing::warn!("{}", Error::file("remove", &path, error)),
            }
        }
        Ok(freed)
    }
}
