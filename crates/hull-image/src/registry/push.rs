//! An image from the store to a registry. What is there already is not sent: a layer is asked for by the digests that it
//! is known under in registries, then taken over from another repository of the same one, and only then compressed and
//! sent while it is compressed.
//!
//! An image that came with a manifest goes with the same one, byte for byte, as long as its layers there are the ones
//! that it names: its digest does not change on the way through hull.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use hyper::Method;
use serde::Serialize as _;
use serde_json::json;
use tokio::sync::Semaphore;

use super::failure::{Answer, Failure};
use super::manifest::{self, Content, DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Descriptor, Raw};
use super::pull::{Step, Tell, blocking};
use super::upload::{Mount, Place};
use super::{Call, Challenge, Credentials, Registries, Repository, Session};
use crate::artifact::Artifact;
use crate::compress::{Algorithm, Compress};
use crate::dress::{Dress, Part, package};
use crate::reference::Reference;
use crate::{Digest, Image, Layer, LayerBlob, Result, Store};

/// So many digests of a layer are asked for, and so many repositories that it may be taken over from.
const ASKED: usize = 4;
const MOUNTED_FROM: usize = 3;
/// How often the progress of a layer is told.
const TICK: Duration = Duration::from_millis(100);
/// How long is waited before an upload is tried again, each time longer.
const PAUSE: Duration = Duration::from_millis(250);

/// Asks again where the line broke or the registry is busy.
macro_rules! retried {
    ($push:expr, $ask:expr) => {{
        let mut attempt = 1;
        loop {
            match $ask.await {
                Err(failure) => {
                    if !$push.again(&failure, attempt).await {
                        break Err(failure);
                    }
                    attempt += 1;
                }
                answer => break answer,
            }
        }
    }};
}

// Behind the macro, which it uses.
mod layer;

/// Pushes images; the layers of all share the uploads that may run at once.
#[derive(Debug)]
pub struct Pusher {
    store: Arc<Store>,
    registries: Registries,
    uploads: Arc<Semaphore>,
    /// Compressing takes a processor each.
    compressing: Arc<Semaphore>,
    /// What pieces of uploads may have in memory together, in KiB.
    pieces: Arc<Semaphore>,
}

/// One repository that is pushed to.
pub struct Push<'a> {
    pusher: &'a Pusher,
    repository: Repository,
    /// In full, as blobs are remembered by it: `docker.io/library/busybox`.
    name: String,
    domain: String,
    tell: Tell,
    /// The registry takes no body whose length is not said before it, or none that is long.
    in_pieces: AtomicBool,
}

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: usize,
    /// What it is: a manifest, or an index.
    pub media_type: String,
}

impl Pusher {
    /// From that store, to those registries.
    pub fn new(store: Arc<Store>, registries: Registries) -> Pusher {
        let uploads = Arc::new(Semaphore::new(registries.settings().uploads));
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let compressing = Arc::new(Semaphore::new(processors));
        let pieces = Arc::new(Semaphore::new(layer::LARGEST_PIECE / 1024));
        Pusher { store, registries, uploads, compressing, pieces }
    }

    /// Has as many layers sent at once from now on, instead of `former`.
    pub fn resize(&self, former: usize, now: usize) {
        super::pull::resize(&self.uploads, former, now);
    }

    /// Greets the registry of a repository that `images` are going to be pushed to.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn open(
        &self,
        repository: &Reference,
        images: &[Arc<Image>],
        who: &Credentials,
        tell: Tell,
    ) -> Result<Push<'_>> {
        let (store, of) = (Arc::clone(&self.store), images.to_vec());
        let name = repository.clone();
        let sources = blocking(move || sources(&store, &name, &of)).await?;
        let session = self.greet(repository, &sources, who).await.map_err(Failure::of_push)?;
        Ok(Push {
            pusher: self,
            repository: Repository::of(session),
            name: repository.name(),
            domain: repository.domain.clone(),
            tell,
            in_pieces: AtomicBool::new(false),
        })
    }

    /// Greets the registry, for the repository and those that layers may be taken over from. Where nothing of these may be
    /// read, it is greeted for the repository alone.
    async fn greet(&self, repository: &Reference, sources: &[String], who: &Credentials) -> Answer<Session> {
        let endpoint = self.registries.settings().own(repository);
        let own = vec![Repository::scope(&repository.path, "pull,push")];
        if sources.is_empty() {
            return self.registries.greet(&endpoint, who, own).await;
        }
        let others = sources.iter().map(|path| Repository::scope(path, "pull"));
        let all = own.iter().cloned().chain(others).collect();
        let session = self.registries.greet(&endpoint, who, all).await?;
        if matches!(session.challenge, Challenge::Bearer { .. })
            && let Err(Failure::Refused(refusal)) =
                session.call(Call::new(Method::GET, session.url("/v2/")?)).await
            && refusal.is_denied()
        {
            return self.registries.greet(&endpoint, who, own).await;
        }
        Ok(session)
    }
}

/// Other repositories of the same registry that have layers of the images.
fn sources(store: &Store, repository: &Reference, images: &[Arc<Image>]) -> Result<Vec<String>> {
    let registry = format!("{}/", repository.domain);
    let mut paths: Vec<String> = Vec::new();
    for layer in images.iter().flat_map(|image| &image.layers) {
        for blob in store.layer_blobs(&layer.diff_id)? {
            let Some(path) = blob.repository.strip_prefix(&registry) else { continue };
            if path != repository.path && !paths.iter().any(|known| known == path) {
                paths.push(path.to_owned());
            }
            if paths.len() >= MOUNTED_FROM {
                return Ok(paths);
            }
        }
    }
    Ok(paths)
}

/// A layer, and how it is to be found there.
struct Candidates {
    /// What it is known as, the likeliest first.
    blobs: Vec<LayerBlob>,
    /// Bytes of its archive.
    size: u64,
}

impl Push<'_> {
    /// Pushes an image under a tag. Dropped, it is not finished, and what was sent stays in the registry's care.
    ///
    /// # Errors
    /// In Docker's words: the registry refuses, or does not answer.
    pub async fn image(&self, image: &Arc<Image>, tag: &str) -> Result<Sent> {
        self.dressed(&[Part::plain(image)], tag, &Dress::default()).await
    }

    /// The same of several images, with what goes with them.
    ///
    /// # Errors
    /// As [`Push::image`].
    pub async fn dressed(&self, parts: &[Part], tag: &str, dress: &Dress) -> Result<Sent> {
        let _kept: Vec<_> = parts.iter().map(|part| self.pusher.store.keep_layers(&part.image)).collect();
        let sent = self.send(parts, tag, dress).await.map_err(Failure::of_push);
        super::pull::tell_warnings(&self.repository, &self.tell);
        sent
    }

    /// Sends what is no image's.
    ///
    /// # Errors
    /// As [`Push::image`].
    pub async fn artifact(&self, artifact: &Artifact, tag: &str) -> Result<Sent> {
        let sending = async {
            for blob in &artifact.blobs {
                self.blob(blob).await?;
            }
            retried!(self, self.repository.put_manifest(tag, &artifact.manifest))
        };
        let sent: Answer<()> = sending.await;
        super::pull::tell_warnings(&self.repository, &self.tell);
        sent.map_err(Failure::of_push)?;
        Ok(sent_as(&artifact.manifest))
    }

    async fn send(&self, parts: &[Part], tag: &str, dress: &Dress) -> Answer<Sent> {
        let plain = dress.is_plain(parts);
        let came_with = match parts {
            [one] if plain => self.came_with(&one.image).await?,
            _ => None,
        };
        let wanted = came_with.as_ref().map(|(_, layers)| layers.as_slice()).unwrap_or_default();
        let mut unique: Vec<(&Layer, Option<&Descriptor>)> = Vec::new();
        let mut seen = HashSet::new();
        for part in parts {
            for (index, layer) in part.image.layers.iter().enumerate() {
                // A layer that comes twice is sent once.
                if seen.insert(layer.diff_id) {
                    unique.push((layer, wanted.get(index)));
                }
            }
        }
        // Docker's order: the uppermost is told first.
        unique.iter().rev().for_each(|(layer, _)| self.say(layer, "Preparing", None));
        let mut sent = Vec::new();
        for (layer, wanted) in unique.into_iter().rev() {
            sent.push(self.layer(layer, wanted, dress.compress));
        }
        let blobs: HashMap<Digest, LayerBlob> = try_join_all(sent).await?.into_iter().collect();
        for part in parts {
            self.small(&part.image.id, Bytes::copy_from_slice(&part.image.raw_config)).await?;
        }
        let of = |part: &Part| -> Vec<&LayerBlob> {
            part.image.layers.iter().filter_map(|layer| blobs.get(&layer.diff_id)).collect()
        };
        let raw = match (came_with, parts) {
            (Some((raw, wanted)), [one])
                if wanted.iter().map(|w| w.digest).eq(of(one).iter().map(|l| l.digest)) =>
            {
                raw
            }
            (_, [one]) if plain => written(&one.image.id, one.image.raw_config.len(), &of(one)),
            _ => self.with_dress(parts, tag, dress, &of).await?,
        };
        let at = if dress.by_digest { raw.digest.to_string() } else { tag.to_owned() };
        retried!(self, self.repository.put_manifest(&at, &raw))?;
        let sent = sent_as(&raw);
        let store = Arc::clone(&self.pusher.store);
        let ids: Vec<Digest> = parts.iter().map(|part| part.image.id).collect();
        let name = format!("{}@{}", self.name, raw.digest);
        let unnamed = dress.unnamed;
        blocking(move || {
            for id in &ids {
                store.add_manifest(&raw, id)?;
                if unnamed {
                    continue;
                }
                match store.add_digest(id, &name) {
                    // Of several platforms' images those of others are not entered here.
                    Err(error) if error.kind == crate::Kind::NotFound => {}
                    named => named?,
                }
            }
            Ok(())
        })
        .await?;
        Ok(sent)
    }

    /// A small blob, unless it is there.
    async fn small(&self, digest: &Digest, bytes: Bytes) -> Answer<()> {
        if retried!(self, self.repository.has_blob(digest))?.is_none() {
            retried!(self, self.repository.put_blob(digest, bytes.clone()))?;
        }
        Ok(())
    }

    /// Sends what goes with images; what their tag stands for then.
    async fn with_dress<'b>(
        &self,
        parts: &[Part],
        tag: &str,
        dress: &Dress,
        blobs: &(dyn Fn(&Part) -> Vec<&'b LayerBlob> + Sync),
    ) -> Answer<Raw> {
        let dressed = {
            let described = |layer: &LayerBlob| Descriptor {
                media_type: layer.media_type.clone(),
                size: layer.size,
                ..Descriptor::of(layer.digest)
            };
            let parts: Vec<(&Part, Vec<Descriptor>)> =
                parts.iter().map(|part| (part, blobs(part).into_iter().map(described).collect())).collect();
            dress.dressed(&parts, &|image| vec![package(&self.name, tag, image)])
        };
        for (digest, bytes) in &dressed.blobs {
            self.small(digest, bytes.clone()).await?;
        }
        for raw in &dressed.inner {
            retried!(self, self.repository.put_manifest(&raw.digest.to_string(), raw))?;
        }
        Ok(dressed.top)
    }

    /// The manifest that an image came or was pushed with, one of this repository before others, and its layers.
    async fn came_with(&self, image: &Arc<Image>) -> Result<Option<(Raw, Vec<Descriptor>)>> {
        let (store, image, name) = (Arc::clone(&self.pusher.store), Arc::clone(image), self.name.clone());
        blocking(move || {
            let mut manifests = store.manifests_of(&image.id)?;
            let named = |raw: &Raw| {
                let name = Reference::parse(&format!("{name}@{}", raw.digest)).ok();
                name.is_some_and(|name| image.repo_digests.contains(&name.familiar()))
            };
            manifests.sort_by_key(|raw| !named(raw));
            Ok(manifests.into_iter().find_map(|raw| match manifest::parse(&raw, "") {
                Ok(Content::Image(parsed))
                    if parsed.config.digest == image.id && parsed.layers.len() == image.layers.len() =>
                {
                    Some((raw, parsed.layers))
                }
                _ => None,
            }))
        })
        .await
    }

    /// Sees to it that a layer is in the repository; as what.
    async fn layer(
        &self,
        layer: &Layer,
        wanted: Option<&Descriptor>,
        how: Compress,
    ) -> Answer<(Digest, LayerBlob)> {
        let permit = match self.pusher.uploads.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                self.say(layer, "Waiting", None);
                self.pusher
                    .uploads
                    .acquire()
                    .await
                    .map_err(|_| Failure::Line("the daemon ends".to_owned()))?
            }
        };
        let candidates = self.candidates(layer, wanted, how).await?;
        let (blob, said) = match self.there(&candidates).await? {
            Some(blob) => (blob, "Layer already exists".to_owned()),
            None => match self.taken_over(&candidates).await? {
                Ok((blob, Some(from))) => (blob, format!("Mounted from {from}")),
                Ok((blob, None)) => (blob, "Layer already exists".to_owned()),
                Err(place) => {
                    let outgoing = self.of_layer(layer, candidates.size, how);
                    (self.upload(&outgoing, place).await?, "Pushed".to_owned())
                }
            },
        };
        drop(permit);
        let blob = LayerBlob { repository: self.name.clone(), ..blob };
        let (store, diff_id, row) = (Arc::clone(&self.pusher.store), layer.diff_id, blob.clone());
        blocking(move || store.add_layer_blob(&diff_id, &row)).await?;
        self.say(layer, &said, None);
        Ok((layer.diff_id, blob))
    }

    /// What a layer is known as: what the manifest names before what this repository has, what this registry has, and
    /// what others have.
    async fn candidates(
        &self,
        layer: &Layer,
        wanted: Option<&Descriptor>,
        how: Compress,
    ) -> Result<Candidates> {
        let (store, diff_id, chain_id) = (Arc::clone(&self.pusher.store), layer.diff_id, layer.chain_id);
        let (mut blobs, size) =
            blocking(move || Ok((store.layer_blobs(&diff_id)?, store.archive_size(&chain_id)?))).await?;
        let is_wanted = |blob: &LayerBlob| wanted.is_some_and(|wanted| wanted.digest == blob.digest);
        // What a new manifest cannot name is of use for the old one alone.
        blobs.retain(|blob| is_wanted(blob) || serves(&blob.media_type, how));
        blobs.sort_by_key(|blob| {
            (!is_wanted(blob), blob.repository != self.name, self.path_of(blob).is_none())
        });
        Ok(Candidates { blobs, size })
    }

    /// The path of a blob's repository, where that is in this registry.
    fn path_of<'a>(&self, blob: &'a LayerBlob) -> Option<&'a str> {
        blob.repository.strip_prefix(self.domain.as_str())?.strip_prefix('/')
    }

    /// The first of the candidates that the repository has.
    async fn there(&self, candidates: &Candidates) -> Answer<Option<LayerBlob>> {
        let mut asked: Vec<Digest> = Vec::new();
        for blob in &candidates.blobs {
            if asked.contains(&blob.digest) {
                continue;
            }
            if asked.len() >= ASKED {
                break;
            }
            asked.push(blob.digest);
            let has = retried!(self, self.repository.has_blob(&blob.digest))?;
            // One of another length would not be what its digest says.
            if has.is_some_and(|size| size == 0 || size == blob.size) {
                return Ok(Some(blob.clone()));
            }
        }
        Ok(None)
    }

    /// Has the registry take a layer over from another of its repositories, which one where that is known; or else where to
    /// send it to, if the registry said so.
    async fn taken_over(
        &self,
        candidates: &Candidates,
    ) -> Answer<std::result::Result<(LayerBlob, Option<String>), Option<Place>>> {
        let mut place = None;
        let others = candidates.blobs.iter().filter(|blob| blob.repository != self.name);
        let known = others.clone().filter_map(|blob| Some((blob, Some(self.path_of(blob)?))));
        let mut all: Vec<_> = known.take(MOUNTED_FROM).collect();
        if all.is_empty() {
            // It came from another registry, and this one may have it somewhere. Where not, the upload is begun with it.
            all.extend(others.take(1).map(|blob| (blob, None)));
        }
        for (blob, path) in all {
            match self.repository.mount(&blob.digest, path).await {
                Ok(Mount::Mounted) => return Ok(Ok((blob.clone(), path.map(str::to_owned)))),
                Ok(Mount::Upload(upload)) => place = Some(upload),
                // It is not ours to read, or the registry knows of no such thing: then the layer is sent.
                Err(Failure::Refused(refusal)) => {
                    tracing::debug!(digest = %blob.digest, from = path, %refusal, "not taken over");
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(Err(place))
    }

    /// Tells how much of a blob is on its way, a few times a second.
    fn progress(&self, id: String, size: u64) -> impl Fn(u64) + Send + 'static {
        let tell = Arc::clone(&self.tell);
        let told = std::cell::Cell::new(None::<Instant>);
        move |at| {
            if at < size && told.get().is_some_and(|last| last.elapsed() < TICK) {
                return;
            }
            told.set(Some(Instant::now()));
            let progress = Some((at, size));
            tell(Step { id: id.clone(), status: "Pushing".to_owned(), progress });
        }
    }

    fn say(&self, layer: &Layer, status: &str, progress: Option<(u64, u64)>) {
        (self.tell)(Step { id: layer.diff_id.short(), status: status.to_owned(), progress });
    }

    /// Whether something that failed so often is tried again, behind a pause.
    async fn again(&self, failure: &Failure, attempt: usize) -> bool {
        if attempt >= self.pusher.registries.settings().attempts || !failure.is_passing() {
            return false;
        }
        tracing::debug!(repository = self.name, attempt, %failure, "tried again");
        tokio::time::sleep(wait(failure, attempt)).await;
        true
    }
}

/// What was sent, by what stands for it.
fn sent_as(raw: &Raw) -> Sent {
    Sent { digest: raw.digest, size: raw.bytes.len(), media_type: raw.media_type.clone() }
}

/// Whether a blob of this kind may stand for a layer that is to be compressed so. As in BuildKit, what is compressed otherwise
/// already stays so where nobody forces it, as far as a manifest can name it.
fn serves(media_type: &str, how: Compress) -> bool {
    let wanted = how.algorithm.unwrap_or(Algorithm::Gzip);
    let is = Algorithm::of_media_type(media_type);
    match how.force {
        // How hard it was compressed is not known.
        true => is == Some(wanted) && how.level.is_none(),
        false => is == Some(Algorithm::Gzip) || is == Some(wanted),
    }
}

/// How long nothing is asked: as long as the registry says, or longer each time.
fn wait(failure: &Failure, attempt: usize) -> Duration {
    failure.asked_to_wait().unwrap_or(PAUSE * (1 << attempt.min(6)) as u32)
}

/// A new manifest of Docker's schema 2, written as Docker writes it: the same image has the same digest from either.
fn written(config: &Digest, config_size: usize, layers: &[&LayerBlob]) -> Raw {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| json!({ "mediaType": DOCKER_LAYER, "size": layer.size, "digest": layer.digest }))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": { "mediaType": DOCKER_CONFIG, "size": config_size, "digest": config },
        "layers": layers,
    });
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let written = manifest.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter));
    debug_assert!(written.is_ok(), "JSON is written to memory");
    Raw { media_type: DOCKER_MANIFEST.to_owned(), digest: Digest::of(&bytes), bytes: bytes.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_written_as_docker_writes_it() {
        let layer = LayerBlob {
            digest: Digest::of(b"layer"),
            size: 5,
            media_type: DOCKER_LAYER.to_owned(),
            repository: "docker.io/a/b".to_owned(),
        };
        let config = Digest::of(b"config");
        let raw = written(&config, 6, &[&layer]);
        let expected = format!(
            r#"{{
   "schemaVersion": 2,
   "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
   "config": {{
      "mediaType": "application/vnd.docker.container.image.v1+json",
      "size": 6,
      "digest": "{config}"
   }},
   "layers": [
      {{
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
         "size": 5,
         "digest": "{}"
      }}
   ]
}}"#,
            layer.digest
        );
        assert_eq!(String::from_utf8_lossy(&raw.bytes), expected);
        assert_eq!(raw.digest, Digest::of(expected.as_bytes()));
    }

    #[test]
    fn what_is_compressed_otherwise_stays_so_where_nobody_forces_it() {
        let how = |algorithm, force, level| Compress { algorithm: Some(algorithm), level, force };
        let zstd = Algorithm::Zstd.media_type(false);
        assert!(serves(DOCKER_LAYER, Compress::default()) && !serves(zstd, Compress::default()));
        assert!(serves(DOCKER_LAYER, how(Algorithm::Zstd, false, None)));
        assert!(!serves(DOCKER_LAYER, how(Algorithm::Zstd, true, None)));
        assert!(serves(zstd, how(Algorithm::Zstd, true, None)));
        assert!(!serves(zstd, how(Algorithm::Zstd, true, Some(9))));
    }

    #[test]
    fn a_busy_registry_says_how_long_to_wait() {
        let broken = Failure::Line("broken".into());
        assert!(wait(&broken, 1) < wait(&broken, 2));
        assert!(wait(&broken, 1000) <= Duration::from_secs(60));
    }
}
