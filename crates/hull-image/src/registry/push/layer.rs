//! A layer, or another blob, that no repository of the registry has: compressed, and sent meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::StatusCode;
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::Push;
use crate::artifact::{Blob, Source};
use crate::compress::{Algorithm, Compress};
use crate::registry::failure::{Answer, Failure};
use crate::registry::upload::{PUT_TOGETHER, Place};
use crate::registry::{Body, Challenge};
use crate::store::send::Compressed;
use crate::{Error, Kind, Layer, LayerBlob, Result};

/// How many compressed pieces of a layer may wait to be sent.
const WAITING: usize = 8;
/// Where an upload has to be in pieces, each of these has so many bytes, or as many as the registry wants, but not more than
/// that: each is in memory as a whole, and so many are those of all pushes together.
const PIECE: usize = 8 << 20;
pub(super) const LARGEST_PIECE: usize = 16 << 20;
/// So many bytes of a piece go to the line at once.
const PART: usize = 64 << 10;

/// An upload that is under way.
struct Upload {
    /// Where it goes on; none: it is to be begun.
    place: Option<Place>,
    /// So many bytes of it are in the registry.
    start: u64,
    /// So many were given to the line: the registry cannot have more.
    given: Arc<AtomicU64>,
}

impl Upload {
    fn anew(place: Option<Place>) -> Upload {
        Upload { place, start: 0, given: Arc::default() }
    }
}

/// Who makes something: tells how far it is, and gives it piece by piece.
type Making = dyn Fn(&dyn Fn(u64), &mut dyn FnMut(Bytes) -> bool) -> Result<Compressed> + Send + Sync;

/// A blob that is made while it is sent, always to the same bytes.
pub(super) struct Outgoing {
    /// By what those who watch know it.
    id: String,
    /// The same in full.
    what: String,
    /// Bytes of what it is made of.
    size: u64,
    media_type: String,
    make: Arc<Making>,
}

impl Push<'_> {
    /// A layer as what is sent of it.
    pub(super) fn of_layer(&self, layer: &Layer, size: u64, how: Compress) -> Outgoing {
        let (store, chain_id) = (Arc::clone(&self.pusher.store), layer.chain_id);
        // By Docker's name for it, which stays where nothing else is asked for.
        let media_type = how.algorithm.unwrap_or(Algorithm::Gzip).media_type(true);
        Outgoing {
            id: layer.diff_id.short(),
            what: format!("layer {}", layer.diff_id),
            size,
            media_type: media_type.to_owned(),
            make: Arc::new(move |progress, take| store.compress_layer(&chain_id, how, progress, take)),
        }
    }

    /// Sees to it that a blob is in the repository.
    pub(super) async fn blob(&self, blob: &Blob) -> Answer<()> {
        let digest = blob.descriptor.digest;
        let file = match &blob.source {
            Source::Bytes(bytes) => return self.small(&digest, bytes.clone()).await,
            Source::File(file) => Arc::clone(file),
        };
        if retried!(self, self.repository.has_blob(&digest))?.is_some() {
            return Ok(());
        }
        let permit = self.pusher.uploads.acquire().await;
        let _permit = permit.map_err(|_| Failure::Line("the daemon ends".to_owned()))?;
        let outgoing = Outgoing {
            id: digest.short(),
            what: format!("blob {digest}"),
            size: blob.descriptor.size,
            media_type: blob.descriptor.media_type.clone(),
            make: Arc::new(move |progress, take| crate::artifact::pieces_of(&file, progress, take)),
        };
        self.upload(&outgoing, None).await.map(drop)
    }

    /// Makes a blob and sends it meanwhile, as often as it takes. Where the line breaks, it goes on behind what the registry has,
    /// if that says so: made again the bytes are the same ones.
    pub(super) async fn upload(&self, blob: &Outgoing, place: Option<Place>) -> Answer<LayerBlob> {
        let (mut upload, mut attempt, mut may_resume) = (Upload::anew(place), 1, true);
        let Compressed { digest, size } = loop {
            let failure = match self.upload_once(blob, &mut upload).await {
                Ok(compressed) => break compressed,
                Err(failure) => failure,
            };
            let status = match &failure {
                Failure::Refused(refusal) => refusal.status,
                _ => StatusCode::OK,
            };
            let mut next = Upload::anew(None);
            match status {
                // The registry, or what stands before it, wants to know the length first, or wants less at once.
                StatusCode::LENGTH_REQUIRED | StatusCode::PAYLOAD_TOO_LARGE if !self.is_in_pieces() => {
                    self.in_pieces.store(true, Ordering::Relaxed);
                }
                // The token was over before its time. Another is fetched for the next request.
                StatusCode::UNAUTHORIZED
                    if attempt == 1
                        && matches!(self.repository.session.challenge, Challenge::Bearer { .. }) => {}
                // What the registry said that it has is not what it was sent, or it takes no more behind that.
                _ if upload.start > 0
                    && may_resume
                    && matches!(failure, Failure::Refused(_) | Failure::Wrong(_))
                    && !failure.is_passing() =>
                {
                    may_resume = false;
                }
                _ if self.again(&failure, attempt).await => {
                    if may_resume {
                        next = self.resumed(upload).await;
                    }
                }
                _ => return Err(failure),
            }
            upload = next;
            attempt += 1;
        };
        let (media_type, repository) = (blob.media_type.clone(), self.name.clone());
        Ok(LayerBlob { digest, size, media_type, repository })
    }

    fn is_in_pieces(&self) -> bool {
        self.in_pieces.load(Ordering::Relaxed)
    }

    /// An upload that broke off, behind what the registry has of it; from its beginning where that is nothing, or not told.
    async fn resumed(&self, upload: Upload) -> Upload {
        let Some(place) = &upload.place else { return Upload::anew(None) };
        match self.repository.received(place).await {
            Ok(received) if (1..=upload.given.load(Ordering::Relaxed)).contains(&received.bytes) => {
                tracing::debug!(repository = self.name, at = received.bytes, "an upload goes on");
                Upload { place: Some(received.place), start: received.bytes, given: upload.given }
            }
            Ok(received) => {
                tracing::debug!(repository = self.name, bytes = received.bytes, "an upload begins anew");
                Upload::anew(None)
            }
            Err(failure) => {
                tracing::debug!(repository = self.name, %failure, "an upload begins anew");
                Upload::anew(None)
            }
        }
    }

    async fn upload_once(&self, blob: &Outgoing, upload: &mut Upload) -> Answer<Compressed> {
        let place = match upload.place.take() {
            Some(place) => place,
            None => self.repository.begin_upload().await?,
        };
        upload.place = Some(place.clone());
        let processor = Arc::clone(&self.pusher.compressing).acquire_owned().await;
        let processor = processor.map_err(|_| Failure::Line("the daemon ends".to_owned()))?;
        let (sender, pieces) = mpsc::channel(WAITING);
        let make = Arc::clone(&blob.make);
        let progress = self.progress(blob.id.clone(), blob.size);
        let compressing = tokio::task::spawn_blocking(move || {
            let done = make(&progress, &mut |piece| sender.blocking_send(piece).is_ok());
            drop(processor);
            done
        });
        // Where the sending failed, the one who compresses notices that nobody takes it any more. What goes on in the middle
        // says where that is, which only pieces do.
        let place = match upload.start > 0 || self.is_in_pieces() {
            true => self.send_pieces(blob, place, upload, pieces).await?,
            false => self.send_whole(blob, place, upload, pieces).await?,
        };
        upload.place = Some(place.clone());
        let compressed =
            compressing.await.unwrap_or_else(|error| Err(Error::new(Kind::System, error.to_string())))?;
        self.end(place, &compressed).await?;
        Ok(compressed)
    }

    /// Ends an upload that has come as a whole. Where the line breaks meanwhile, only its answer may have been lost.
    async fn end(&self, mut place: Place, compressed: &Compressed) -> Answer<()> {
        let mut attempt = 1;
        loop {
            let ended = self.repository.end_upload(&place.url, &compressed.digest, Bytes::new()).await;
            let Err(failure) = ended else { return Ok(()) };
            if !self.again(&failure, attempt).await {
                return Err(failure);
            }
            let there = self.repository.has_blob(&compressed.digest).await;
            if there.is_ok_and(|size| size.is_some_and(|size| size == 0 || size == compressed.size)) {
                return Ok(());
            }
            place = match self.repository.received(&place).await {
                Ok(received) if received.bytes == compressed.size => received.place,
                _ => return Err(failure),
            };
            attempt += 1;
        }
    }

    /// Sends a layer in one request, whose length nobody knows before its end.
    async fn send_whole(
        &self,
        blob: &Outgoing,
        place: Place,
        upload: &Upload,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Answer<Place> {
        let taken = Arc::new(AtomicU64::new(0));
        let body = body(pieces, Arc::clone(&taken), Arc::clone(&upload.given));
        tokio::select! {
            sent = self.repository.send_bytes(place.url, body) => sent,
            failure = self.stands_still(blob, &taken) => Err(failure),
        }
    }

    /// Sends a layer in requests of a known length, behind what the registry has of it.
    async fn send_pieces(
        &self,
        blob: &Outgoing,
        mut place: Place,
        upload: &mut Upload,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> Answer<Place> {
        let length = place.least.max(PIECE);
        if length > LARGEST_PIECE {
            return Err(Failure::Wrong(format!(
                "the registry wants pieces of at least {length} bytes, and {LARGEST_PIECE} are allowed"
            )));
        }
        // What is compressed meanwhile waits for this one.
        let memory = Arc::clone(&self.pusher.pieces);
        let memory = memory.acquire_many_owned(u32::try_from(length / 1024).unwrap_or(u32::MAX)).await;
        let _memory = memory.map_err(|_| Failure::Line("the daemon ends".to_owned()))?;
        let mut skipped = upload.start;
        let mut piece = Vec::new();
        loop {
            let mut more = pieces.recv().await;
            if let Some(bytes) = &mut more {
                let known = skipped.min(bytes.len() as u64);
                // At most the piece's own length.
                drop(bytes.split_to(known as usize));
                skipped -= known;
            }
            piece.extend_from_slice(more.as_deref().unwrap_or_default());
            let is_last = more.is_none();
            if piece.len() < length && !is_last {
                continue;
            }
            if !piece.is_empty() {
                let bytes = Bytes::from(std::mem::take(&mut piece));
                place = self.send_piece(blob, place, upload, bytes).await?;
                upload.place = Some(place.clone());
            }
            if is_last && skipped > 0 {
                return Err(Failure::Wrong(
                    "the registry has more of a layer than there is of it".to_owned(),
                ));
            }
            if is_last {
                return Ok(place);
            }
        }
    }

    /// Sends one piece: again where the token was over before its time, and the rest of it where the line broke and the
    /// registry says how much has come.
    async fn send_piece(
        &self,
        blob: &Outgoing,
        mut place: Place,
        upload: &mut Upload,
        mut bytes: Bytes,
    ) -> Answer<Place> {
        let mut again = matches!(self.repository.session.challenge, Challenge::Bearer { .. });
        let mut attempt = 1;
        while !bytes.is_empty() {
            upload.given.fetch_max(upload.start + bytes.len() as u64, Ordering::Relaxed);
            let failure = match self.send_part(blob, &place, upload.start, &bytes).await {
                Ok(next) => {
                    upload.start += bytes.len() as u64;
                    return Ok(next);
                }
                Err(failure) => failure,
            };
            let status = match &failure {
                Failure::Refused(refusal) => refusal.status,
                _ => StatusCode::OK,
            };
            if again && status == StatusCode::UNAUTHORIZED {
                again = false;
                continue;
            }
            // The registry has another part of it than was thought, or the line broke and nobody knows: it is asked at once, and
            // behind a pause where that brings nothing.
            let is_elsewhere = attempt == 1 && status == StatusCode::RANGE_NOT_SATISFIABLE;
            let mut told = match is_elsewhere || matches!(failure, Failure::Line(_)) {
                true => self.has_of_piece(&place, upload.start, &bytes, &failure).await,
                false => None,
            };
            if !told.as_ref().is_some_and(|(_, has)| is_elsewhere || *has >= PART) {
                if !self.again(&failure, attempt).await {
                    return Err(failure);
                }
                told = self.has_of_piece(&place, upload.start, &bytes, &failure).await;
            }
            let Some((next, has)) = told else { return Err(failure) };
            attempt = if has >= PART { 1 } else { attempt + 1 };
            drop(bytes.split_to(has));
            upload.start += has as u64;
            place = next;
        }
        Ok(place)
    }

    /// How many bytes of a piece the registry has, and where the rest goes; none where it does not tell, or tells what cannot be.
    async fn has_of_piece(
        &self,
        place: &Place,
        start: u64,
        bytes: &Bytes,
        failure: &Failure,
    ) -> Option<(Place, usize)> {
        let (place, received) = match (self.repository.received(place).await, failure) {
            (Ok(received), _) => (received.place, received.bytes),
            (Err(_), Failure::Refused(refusal)) => (place.clone(), refusal.received?),
            (Err(_), _) => return None,
        };
        let has = usize::try_from(received.checked_sub(start)?).ok()?;
        (has <= bytes.len()).then_some((place, has))
    }

    /// Sends what is left of a piece.
    async fn send_part(&self, blob: &Outgoing, place: &Place, start: u64, bytes: &Bytes) -> Answer<Place> {
        let taken = Arc::new(AtomicU64::new(0));
        let body = parts(bytes.clone(), Arc::clone(&taken));
        let sending = self.repository.send_piece(place.url.clone(), start, body, bytes.len() as u64);
        let next = tokio::select! {
            sent = sending => sent?,
            failure = self.stands_still(blob, &taken) => return Err(failure),
        };
        Ok(Place { least: next.least.max(place.least), ..next })
    }

    /// Waits until a registry has not taken anything for too long.
    async fn stands_still(&self, blob: &Outgoing, taken: &AtomicU64) -> Failure {
        let patience = self.pusher.registries.settings().patience;
        let (mut before, mut since) = (0, Instant::now());
        loop {
            tokio::time::sleep(patience / 4).await;
            let now = taken.load(Ordering::Relaxed);
            if now != before {
                (before, since) = (now, Instant::now());
                continue;
            }
            let allowed = if now == ENDED { patience * PUT_TOGETHER } else { patience };
            if since.elapsed() > allowed {
                let seconds = allowed.as_secs_f32();
                return Failure::Line(format!(
                    "the registry has taken nothing of the {} for {seconds} seconds",
                    blob.what
                ));
            }
        }
    }
}

/// In the place of the number of pieces taken: all were.
const ENDED: u64 = u64::MAX;

/// One piece as a request's body, in parts: that they are taken is how one sees that it moves.
fn parts(piece: Bytes, taken: Arc<AtomicU64>) -> Body {
    let parts = stream::unfold((piece, taken), |(mut rest, taken)| async move {
        if rest.is_empty() {
            return None;
        }
        let part = rest.split_to(rest.len().min(PART));
        // Nobody need ask for more behind the last: the length was said.
        match rest.is_empty() {
            true => taken.store(ENDED, Ordering::Relaxed),
            false => {
                taken.fetch_add(1, Ordering::Relaxed);
            }
        }
        Some((Ok(Frame::data(part)), (rest, taken)))
    });
    BodyExt::boxed_unsync(StreamBody::new(parts))
}

/// The pieces as a request's body. It ends where there come no more, for whatever reason: what was broken off is never
/// called by a digest.
fn body(pieces: mpsc::Receiver<Bytes>, taken: Arc<AtomicU64>, given: Arc<AtomicU64>) -> Body {
    let pieces = stream::unfold((pieces, taken, given), |(mut pieces, taken, given)| async move {
        let Some(piece) = pieces.recv().await else {
            taken.store(ENDED, Ordering::Relaxed);
            return None;
        };
        taken.fetch_add(1, Ordering::Relaxed);
        given.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Some((Ok(Frame::data(piece)), (pieces, taken, given)))
    });
    BodyExt::boxed_unsync(StreamBody::new(pieces))
}
