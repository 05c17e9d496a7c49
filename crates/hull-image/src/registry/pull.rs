//! An image from a registry into the store: found, its layers fetched side by side and unpacked while they come.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::{Semaphore, oneshot};

use super::failure::{Answer, Failure};
use super::fetch::{Fetch, Stopped, TICK};
use super::last::held;
use super::manifest::{self, Content, Descriptor, Manifest, Raw};
use super::repository::Repository;
use super::sources::Sources;
use super::{Credentials, Registries, Settings};
use crate::reference::Reference;
use crate::store::receive::{Arrival, Arriving, Incoming, Message};
use crate::{Digest, Draft, Error, Image, ImageConfig, ImageId, Kind, Platform, Result, Store};

/// How deep indexes may lie in indexes.
const NESTED: usize = 4;
/// A configuration may not be larger.
const CONFIG_LIMIT: usize = 8 << 20;
/// How many pieces of a blob may wait to be unpacked.
const WAITING: usize = 16;

/// So many images come at once: each holds a thread that unpacks, of which the daemon has some hundreds for all that it
/// does.
const AT_ONCE: usize = 64;

/// What is to be pulled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// A repository with a tag or a digest.
    pub reference: Reference,
    /// For what; this machine where it is not said.
    pub platform: Option<Platform>,
    /// What of it stays.
    pub keep: Keep,
    /// Where no registry answers, what the name led to last will do. That is known of what gets no names
    /// ([`Keep::Unnamed`]).
    pub or_last: bool,
}

/// What stays of a pulled image. A name means one image here: whoever runs it by that name has asked for no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Keep {
    /// The image, under its name and its digest.
    #[default]
    Named,
    /// The image without names: it is found again by its manifest, and goes as others without a name do.
    Unnamed,
    /// Its layers, as long as [`Pulled::draft`] is there.
    Layers,
}

/// What a pull came to.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Arc<Image>,
    /// The digest of what the registry has under the name: a manifest or an index.
    pub digest: Digest,
    /// Whether the name means another image now than before; of one without names, whether it came just now.
    pub newer: bool,
    /// Has its layers stay where no name does; none of an image with names.
    pub draft: Option<Draft>,
    /// Why no registry answered, where it is what the name led to last.
    pub unanswered: Option<String>,
}

/// A step of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// A layer's short digest, or what is pulled; empty for the pull itself.
    pub id: String,
    /// Docker's word for it.
    pub status: String,
    /// Bytes done, and bytes in all.
    pub progress: Option<(u64, u64)>,
}

/// Where steps are told.
pub type Tell = Arc<dyn Fn(Step) + Send + Sync>;

/// Pulls images, several at once; their layers share the downloads that may run at once.
#[derive(Debug)]
pub struct Puller {
    pub(super) store: Arc<Store>,
    registries: Registries,
    downloads: Arc<Semaphore>,
    /// How many more images may come.
    images: Semaphore,
    /// Blobs that are being fetched: whoever wants one too waits, and finds it on the disk.
    busy: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// What was found in a registry.
struct Found {
    /// What the name leads to.
    digest: Digest,
    manifest: Manifest,
    /// The manifest and the indexes that led to it.
    manifests: Vec<Raw>,
    config: Bytes,
}

impl Puller {
    /// Into that store, from those registries.
    pub fn new(store: Arc<Store>, registries: Registries) -> Puller {
        let downloads = Arc::new(Semaphore::new(registries.settings().downloads));
        Puller { store, registries, downloads, images: Semaphore::new(AT_ONCE), busy: Mutex::default() }
    }

    /// Takes another configuration, which was checked. What is under way goes on.
    pub fn reconfigure(&self, settings: Settings) {
        let former = self.registries.settings().downloads;
        let now = settings.downloads;
        self.registries.set(settings);
        resize(&self.downloads, former, now);
    }

    /// The registries.
    pub fn registries(&self) -> &Registries {
        &self.registries
    }

    /// Pulls one image. Dropped, it leaves what came of its layers for the next time, and nothing else.
    ///
    /// # Errors
    /// In Docker's words: it is not there, not to be had, for other platforms, or not what it says that it is.
    pub async fn pull(&self, wanted: &Wanted, who: &Credentials, tell: &Tell) -> Result<Pulled> {
        if let Some(digest) = &wanted.reference.digest {
            // Others than sha256 are references, and nothing here is named by them.
            digest.parse::<Digest>()?;
        }
        let endpoints = self.registries.settings().endpoints(&wanted.reference);
        let sources = Sources::new(self.registries.clone(), endpoints, who.clone());
        let pulled = self.pull_from(wanted, &sources, tell).await;
        if let Some(current) = sources.asked().await {
            tell_warnings(&current.repository, tell);
        }
        let pulled = pulled?;
        // The image is here all the same.
        if let Err(error) = self.note(wanted, &pulled).await {
            tracing::warn!(%error, "a build without this registry will not find what {} led to", wanted.reference);
        }
        Ok(pulled)
    }

    async fn pull_from(&self, wanted: &Wanted, sources: &Sources, tell: &Tell) -> Result<Pulled> {
        let of_pull = |failure: Failure| failure.of_pull(&wanted.reference);
        let mut there = self.still_there(wanted, sources, tell).await;
        if let Err(failure) = &there
            && let Some(last) = self.last(wanted, failure).await?
        {
            there = Ok(Some(last));
        }
        if let Some(pulled) = there.map_err(of_pull)? {
            return Ok(pulled);
        }
        let found = match self.find(wanted, sources, tell).await {
            Ok(found) => found,
            // Registries count what is fetched, and not what is asked for.
            Err(failure) => return self.last(wanted, &failure).await?.ok_or_else(|| of_pull(failure)),
        };
        let result = self.fetch_and_enter(wanted, sources, &found, tell).await;
        match result {
            // A layer that was here went amid the pull, with the last other image that had it.
            Err(error) if error.kind == Kind::NotFound => {
                self.fetch_and_enter(wanted, sources, &found, tell).await
            }
            result => result,
        }
    }

    /// All tags of a repository.
    ///
    /// # Errors
    /// There is no such repository, or it is not to be had.
    pub async fn tags(&self, repository: &Reference, who: &Credentials) -> Result<Vec<String>> {
        let endpoint = self.registries.settings().own(repository);
        let sources = Sources::new(self.registries.clone(), vec![endpoint], who.clone());
        let list = async { sources.current().await?.repository.tags().await };
        list.await.map_err(|failure| failure.of_pull(repository))
    }

    /// Asks what the name means now, without fetching that (it counts for nothing where pulls are counted), and whether
    /// it is here already.
    async fn still_there(&self, wanted: &Wanted, sources: &Sources, tell: &Tell) -> Answer<Option<Pulled>> {
        let (at, tag) = (asked(&wanted.reference), &wanted.reference);
        let head = tried(sources, |repository| {
            let at = at.clone();
            async move { repository.head_manifest(&at).await }
        });
        let head = head.await?;
        let Some(digest) = head.map(|head| head.digest) else { return Ok(None) };
        if tag.digest.as_ref().is_some_and(|asked| *asked != digest.to_string()) {
            // What is here under another digest is not what was asked for, whatever the registry says.
            return Ok(None);
        }
        let platform = wanted.platform.clone().unwrap_or_else(Platform::host);
        let (store, wanted) = (Arc::clone(&self.store), wanted.clone());
        let known = blocking(move || {
            let Some(image) = store.image_of_manifest(&digest, &|config| runs_on(config, &platform))? else {
                return Ok(None);
            };
            if wanted.keep != Keep::Named {
                return held(&store, image, digest);
            }
            let newer = store.named(&wanted.reference) != Some(image.id);
            store.name_pulled(&image.id, &names(&wanted.reference, digest))?;
            let image = store.resolve(&image.id.to_string())?;
            Ok(Some(Pulled { image, digest, newer, draft: None, unanswered: None }))
        });
        let known = known.await?;
        if known.is_some() {
            tell_found(tag, tell);
        }
        Ok(known)
    }

    /// Fetches the manifest, through indexes, and the configuration.
    async fn find(&self, wanted: &Wanted, sources: &Sources, tell: &Tell) -> Answer<Found> {
        let platform = wanted.platform.clone().unwrap_or_else(Platform::host);
        let name = wanted.reference.familiar();
        let mut at = asked(&wanted.reference);
        let mut manifests = Vec::new();
        let manifest = loop {
            let raw = tried(sources, |repository| {
                let at = at.clone();
                async move { repository.manifest(&at).await }
            });
            let raw = raw.await?;
            let content = manifest::parse(&raw, &name)?;
            manifests.push(raw);
            match content {
                Content::Image(manifest) => break *manifest,
                Content::Index(_) if manifests.len() > NESTED => {
                    return Err(Failure::Wrong(format!("{name}: its indexes lie in each other too deep")));
                }
                Content::Index(list) => at = manifest::choose(&list, &platform, &name)?.digest.to_string(),
            }
        };
        let config = tried(sources, |repository| {
            let config = manifest.config.clone();
            async move { repository.small_blob(&config, CONFIG_LIMIT).await }
        });
        let config = config.await?;
        check(&config, &manifest, wanted)?;
        tell_found(&wanted.reference, tell);
        let digest = manifests.first().map_or(manifest.config.digest, |raw| raw.digest);
        Ok(Found { digest, manifest, manifests, config })
    }

    /// Fetches what of the layers is not here, unpacks it meanwhile, and enters the image.
    async fn fetch_and_enter(
        &self,
        wanted: &Wanted,
        sources: &Sources,
        found: &Found,
        tell: &Tell,
    ) -> Result<Pulled> {
        let diff_ids = crate::store::diff_ids(&found.config)?;
        let id = Digest::of(&found.config);
        let former: Option<ImageId> = self.store.named(&wanted.reference);
        let incoming = Incoming {
            config: found.config.clone(),
            layers: diff_ids.into_iter().zip(found.manifest.layers.iter().cloned()).collect(),
            names: match wanted.keep {
                Keep::Named => names(&wanted.reference, found.digest),
                Keep::Unnamed | Keep::Layers => Vec::new(),
            },
            keep: wanted.keep,
            manifests: found.manifests.clone(),
            repository: wanted.reference.name(),
        };
        let _permit = self.images.acquire().await;
        let (messages, received) = mpsc::channel();
        let (known, here) = oneshot::channel();
        let (store, image) = (Arc::clone(&self.store), incoming.clone());
        let receiving = tokio::task::spawn_blocking(move || store.receive(&image, known, received));
        let fetched = match here.await {
            Ok(here) => self.fetch_all(sources, &incoming, &here, &messages, tell).await,
            // It ended before it began, and says why.
            Err(_) => Ok(()),
        };
        if fetched.is_ok() {
            // Of no effect where it has ended: its own error is told then.
            let _ = messages.send(Message::Enter);
        }
        drop(messages);
        let received =
            receiving.await.unwrap_or_else(|error| Err(Error::new(Kind::System, error.to_string())));
        fetched.map_err(|failure| failure.of_pull(&wanted.reference))?;
        let (image, draft) =
            received?.ok_or_else(|| Error::new(Kind::System, "the image was not entered"))?;
        let newer = wanted.keep != Keep::Named || former != Some(id);
        Ok(Pulled { newer, digest: found.digest, image, draft, unanswered: None })
    }

    async fn fetch_all(
        &self,
        sources: &Sources,
        image: &Incoming,
        here: &[bool],
        messages: &mpsc::Sender<Message>,
        tell: &Tell,
    ) -> Answer<()> {
        let mut seen = HashSet::new();
        let mut missing = Vec::new();
        for (index, ((diff_id, layer), here)) in image.layers.iter().zip(here).enumerate() {
            // A layer that comes twice is fetched once.
            if !seen.insert(*diff_id) {
                continue;
            }
            let step = if *here { "Already exists" } else { "Pulling fs layer" };
            tell(Step { id: layer.digest.short(), status: step.to_owned(), progress: None });
            if !here {
                missing.push(self.fetch_layer(sources, index, *diff_id, layer, messages, tell));
            }
        }
        try_join_all(missing).await.map(drop)
    }

    /// Fetches a layer and has it unpacked. One of whose bytes some were here before, and which turns out wrong, is
    /// fetched once more from its first byte.
    async fn fetch_layer(
        &self,
        sources: &Sources,
        index: usize,
        diff_id: Digest,
        layer: &Descriptor,
        messages: &mpsc::Sender<Message>,
        tell: &Tell,
    ) -> Answer<()> {
        let id = layer.digest.short();
        let say = |status: &str, progress| tell(Step { id: id.clone(), status: status.to_owned(), progress });
        let permit = match self.downloads.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                say("Waiting", None);
                self.downloads.acquire().await.map_err(|_| Failure::Line("the daemon ends".to_owned()))?
            }
        };
        let lock = self.busy_with(layer.digest);
        let alone = lock.lock().await;
        if self.store.has_layer(&diff_id) {
            say("Already exists", None);
            return Ok(());
        }
        for again in [false, true] {
            let (store, of) = (Arc::clone(&self.store), layer.clone());
            let (file, kept) = blocking(move || store.partial(&of)).await?;
            // What was waited for may have been entered just now, and its bytes removed.
            if kept < layer.size && self.store.has_layer(&diff_id) {
                self.store.forget_partial(&layer.digest);
                say("Already exists", None);
                return Ok(());
            }
            let (pieces, arriving) = tokio::sync::mpsc::channel(WAITING);
            let (done, unpacked) = oneshot::channel();
            let downloaded = Arc::new(AtomicBool::new(false));
            let arrival = Arrival {
                index,
                source: Arriving::new(file, kept, arriving),
                progress: extracting(tell, layer, &downloaded),
                done,
            };
            // Where nobody takes it, `unpacked` says so.
            let _ = messages.send(Message::Layer(arrival));
            let progress = |at| say("Downloading", Some((at, layer.size)));
            let attempts = self.registries.settings().attempts;
            let fetch = Fetch { sources, layer, attempts, progress: &progress };
            let fetched = fetch.run(kept, &pieces).await;
            drop(pieces);
            if fetched.is_ok() {
                downloaded.store(true, Ordering::Relaxed);
                say("Download complete", None);
            }
            let unpacked =
                unpacked.await.unwrap_or_else(|_| Err(Error::new(Kind::System, "the image was not entered")));
            match (fetched, unpacked) {
                (Ok(()), Ok(())) => {
                    say("Pull complete", None);
                    drop((alone, permit));
                    return Ok(());
                }
                (Err(Stopped::Failed(failure)), _) => return Err(failure),
                (_, Err(error)) if error.kind == Kind::System => {
                    // A disk that is full gets its room back; what other reason there is, is here no more likely to go.
                    self.store.forget_partial(&layer.digest);
                    return Err(error.into());
                }
                (_, unpacked) => {
                    self.store.forget_partial(&layer.digest);
                    if again || kept == 0 {
                        unpacked?;
                        return Err(Failure::Line("the download was left".to_owned()));
                    }
                    tracing::warn!(digest = %layer.digest, "what was here of a layer is wrong; it is fetched anew");
                }
            }
        }
        Ok(())
    }

    fn busy_with(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = busy.get(&digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        busy.insert(digest, Arc::downgrade(&lock));
        lock
    }
}

/// Lets more or fewer run at once.
pub(super) fn resize(permits: &Arc<Semaphore>, former: usize, now: usize) {
    if now >= former {
        permits.add_permits(now - former);
        return;
    }
    let (permits, fewer) = (Arc::clone(permits), u32::try_from(former - now).unwrap_or(u32::MAX));
    // Where all are in use, as soon as they are not.
    tokio::spawn(async move {
        if let Ok(taken) = permits.acquire_many(fewer).await {
            taken.forget();
        }
    });
}

/// How often the registry itself is asked for something small whose line breaks, or while it is busy, and how long it is
/// left alone in between, longer each time.
const ASKED: u32 = 3;
const PAUSE: Duration = Duration::from_millis(250);

/// Asks one place after the other, as long as there are mirrors that fail. A mirror is left at its first failure.
async fn tried<T, F: Future<Output = Answer<T>>>(
    sources: &Sources,
    ask: impl Fn(Arc<Repository>) -> F,
) -> Answer<T> {
    let mut place = sources.current().await?;
    let mut failures = 0;
    loop {
        let failure = match ask(Arc::clone(&place.repository)).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        failures += 1;
        let is_own = !place.repository.session.endpoint.mirror;
        if is_own && failures < ASKED && may_pass(&failure) {
            tokio::time::sleep(failure.asked_to_wait().unwrap_or(PAUSE * failures)).await;
            continue;
        }
        (place, failures) = (sources.after(&place, failure).await?, 0);
    }
}

/// Whether the same registry may answer a moment later. One that counts pulls (429) is not asked again: that would count, too.
fn may_pass(failure: &Failure) -> bool {
    use hyper::StatusCode;
    match failure {
        Failure::Line(_) => true,
        Failure::Refused(refusal) => matches!(
            refusal.status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ),
        Failure::Wrong(_) | Failure::Here(_) => false,
    }
}

/// Tells how much of a layer is unpacked, from when it is all there.
fn extracting(tell: &Tell, layer: &Descriptor, downloaded: &Arc<AtomicBool>) -> Box<dyn Fn(u64) + Send> {
    let (tell, downloaded) = (Arc::clone(tell), Arc::clone(downloaded));
    let (id, size) = (layer.digest.short(), layer.size);
    let told = Cell::new(None::<Instant>);
    Box::new(move |at| {
        let is_due = at == size || told.get().is_none_or(|told| told.elapsed() >= TICK);
        if downloaded.load(Ordering::Relaxed) && is_due {
            told.set(Some(Instant::now()));
            tell(Step { id: id.clone(), status: "Extracting".to_owned(), progress: Some((at, size)) });
        }
    })
}

/// Tells what a registry warned of, as the distribution specification asks of clients.
pub(super) fn tell_warnings(repository: &Repository, tell: &Tell) {
    let session = &repository.session;
    for warning in session.take_warnings() {
        let status = format!("Warning from {}: {warning}", session.endpoint.host);
        tell(Step { id: String::new(), status, progress: None });
    }
}

fn tell_found(reference: &Reference, tell: &Tell) {
    let id = reference.digest.clone().or_else(|| reference.tag.clone()).unwrap_or_default();
    // As in Docker: without the registry.
    let status = format!("Pulling from {}", reference.path);
    tell(Step { id, status, progress: None });
}

/// What a registry is asked for.
fn asked(reference: &Reference) -> String {
    reference.digest.clone().or_else(|| reference.tag.clone()).unwrap_or_else(|| "latest".to_owned())
}

/// The names that a pulled image gets: the one that was asked for, and its digest's.
fn names(reference: &Reference, digest: Digest) -> Vec<Reference> {
    let by_digest = Reference { tag: None, digest: Some(digest.to_string()), ..reference.clone() };
    match (&reference.digest, &reference.tag) {
        (None, Some(_)) => vec![reference.clone(), by_digest],
        _ => vec![by_digest],
    }
}

/// Looks through what can be seen before the layers are there.
fn check(config: &[u8], manifest: &Manifest, wanted: &Wanted) -> Result<()> {
    let name = wanted.reference.familiar();
    let parsed: ImageConfig = serde_json::from_slice(config)
        .map_err(|error| Error::invalid(format!("invalid image configuration of {name}: {error}")))?;
    if !parsed.os.is_empty() && parsed.os != "linux" {
        let os = super::failure::shown(&parsed.os, 32);
        return Err(Error::new(
            Kind::NotImplemented,
            format!("image operating system \"{os}\" cannot be used on this platform: {name}"),
        ));
    }
    if parsed.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(Error::invalid(format!(
            "layers from manifest don't match image configuration: {name} has {} in the one and {} in the other",
            manifest.layers.len(),
            parsed.rootfs.diff_ids.len()
        )));
    }
    match &wanted.platform {
        Some(platform) if !runs_on(&parsed, platform) => Err(Error::not_found(format!(
            "image with reference {name} was found but does not match the specified platform: wanted {platform}, actual: {}",
            Platform::of(&parsed)
        ))),
        _ => Ok(()),
    }
}

/// Whether an image is for a platform; one that names no variant is for all.
pub(super) fn runs_on(config: &ImageConfig, platform: &Platform) -> bool {
    let variant =
        platform.variant.is_empty() || config.variant.is_empty() || platform.variant == config.variant;
    config.os == platform.os && config.architecture == platform.architecture && variant
}

/// Asks the store, on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::new(Kind::System, error.to_string())))
}
