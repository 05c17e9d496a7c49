//! A layer that no repository of the registry has: compressed, and sent meanwhile.

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
use crate::registry::failure::{Answer, Failure};
use crate::registry::manifest::DOCKER_LAYER;
use crate::registry::upload::{PUT_TOGETHER, Place};
use crate::registry::{Body, Challenge};
use crate::store::send::Compressed;
use crate::{Error, Kind, Layer, LayerBlob};

/// How many compressed pieces of a layer may wait to be sent.
const WAITING: usize = 8;
/// Where an upload has to be in pieces, each of these has so many bytes, or as many as the registry wants, but not more than
/// that: each is in memory as a whole, and so many are those of all pushes together.
const PIECE: usize = 8 << 20;
pub(super) const LARGEST_PIECE: usize = 16 << 20;
/// So many bytes of a piece go to the line at once.
const PART: usize = 64 << 10;

impl Push<'_> {
    /// Compresses a layer and sends it meanwhile, as often as it takes.
    pub(super) async fn upload(&self, layer: &Layer, size: u64, place: Option<Place>) -> Answer<LayerBlob> {
        let (mut place, mut attempt) = (place, 1);
        let Compressed { digest, size } = loop {
            let in_pieces = self.in_pieces.load(Ordering::Relaxed);
            let failure = match self.upload_once(layer, size, place.take(), in_pieces).await {
                Ok(compressed) => break compressed,
                Err(failure) => failure,
            };
            let status = match &failure {
                Failure::Refused(refusal) => refusal.status,
                _ => StatusCode::OK,
            };
            match status {
                // The registry, or what stands before it, wants to know the length first, or wants less at once.
                StatusCode::LENGTH_REQUIRED | StatusCode::PAYLOAD_TOO_LARGE if !in_pieces => {
                    self.in_pieces.store(true, Ordering::Relaxed);
                }
                // The token was over before its time. Another is fetched for the next request.
                StatusCode::UNAUTHORIZED
                    if attempt == 1
                        && matches!(self.repository.session.challenge, Challenge::Bearer { .. }) => {}
                _ if self.again(&failure, attempt).await => {}
                _ => return Err(failure),
            }
            attempt += 1;
        };
        let (media_type, repository) = (DOCKER_LAYER.to_owned(), self.name.clone());
        Ok(LayerBlob { digest, size, media_type, repository })
    }

    async fn upload_once(
        &self,
        layer: &Layer,
        size: u64,
        place: Option<Place>,
        in_pieces: bool,
    ) -> Answer<Compressed> {
        let place = match place {
            Some(place) => place,
            None => self.repository.begin_upload().await?,
        };
        let processor = Arc::clone(&self.pusher.compressing).acquire_owned().await;
        let processor = processor.map_err(|_| Failure::Line("the daemon ends".to_owned()))?;
        let (sender, pieces) = mpsc::channel(WAITING);
        let (store, chain_id) = (Arc::clone(&self.pusher.store), layer.chain_id);
        let progress = self.progress(layer, size);
        let compressing = tokio::task::spawn_blocking(move || {
            let done =
                store.compress_layer(&chain_id, &progress, &mut |piece| sender.blocking_send(piece).is_ok());
            drop(processor);
            done
        });
        // Where the sending failed, the one who compresses notices that nobody takes it any more.
        let place = match in_pieces {
            true => self.send_pieces(layer, place, pieces).await?,
            false => self.send_whole(layer, place, pieces).await?,
        };
        let compressed =
            compressing.await.unwrap_or_else(|error| Err(Error::new(Kind::System, error.to_string())))?;
        self.repository.end_upload(&place.url, &compressed.digest, Bytes::new()).await?;
        Ok(compressed)
    }

    /// Sends a layer in one request, whose length nobody knows before its end.
    async fn send_whole(&self, layer: &Layer, place: Place, pieces: mpsc::Receiver<Bytes>) -> Answer<Place> {
        let taken = Arc::new(AtomicU64::new(0));
        let sending = self.repository.send_bytes(place.url, body(pieces, Arc::clone(&taken)));
        tokio::select! {
            sent = sending => sent,
            failure = self.stands_still(layer, &taken) => Err(failure),
        }
    }

    /// Sends a layer in requests of a known length.
    async fn send_pieces(
        &self,
        layer: &Layer,
        place: Place,
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
        let (mut place, mut start) = (place, 0);
        let mut piece = Vec::new();
        loop {
            let more = pieces.recv().await;
            piece.extend_from_slice(more.as_deref().unwrap_or_default());
            let is_last = more.is_none();
            if piece.len() < length && !is_last {
                continue;
            }
            if !piece.is_empty() {
                let bytes = Bytes::from(std::mem::take(&mut piece));
                let end = start + bytes.len() as u64;
                place = self.send_piece(layer, &place, start, &bytes).await?;
                start = end;
            }
            if is_last {
                return Ok(place);
            }
        }
    }

    /// Sends one piece; once more where the token was over before its time.
    async fn send_piece(&self, layer: &Layer, place: &Place, start: u64, bytes: &Bytes) -> Answer<Place> {
        let mut again = matches!(self.repository.session.challenge, Challenge::Bearer { .. });
        loop {
            let taken = Arc::new(AtomicU64::new(0));
            let body = parts(bytes.clone(), Arc::clone(&taken));
            let sending = self.repository.send_piece(place.url.clone(), start, body, bytes.len() as u64);
            let sent = tokio::select! {
                sent = sending => sent,
                failure = self.stands_still(layer, &taken) => Err(failure),
            };
            match sent {
                Err(Failure::Refused(refusal)) if again && refusal.status == StatusCode::UNAUTHORIZED => {
                    again = false;
                }
                sent => return sent,
            }
        }
    }

    /// Waits until a registry has not taken anything for too long.
    async fn stands_still(&self, layer: &Layer, taken: &AtomicU64) -> Failure {
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
                    "the registry has taken nothing of the layer {} for {seconds} seconds",
                    layer.diff_id
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
fn body(pieces: mpsc::Receiver<Bytes>, taken: Arc<AtomicU64>) -> Body {
    let pieces = stream::unfold((pieces, taken), |(mut pieces, taken)| async move {
        let Some(piece) = pieces.recv().await else {
            taken.store(ENDED, Ordering::Relaxed);
            return None;
        };
        taken.fetch_add(1, Ordering::Relaxed);
        Some((Ok(Frame::data(piece)), (pieces, taken)))
    });
    BodyExt::boxed_unsync(StreamBody::new(pieces))
}
