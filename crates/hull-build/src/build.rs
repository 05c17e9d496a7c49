//! One build: stages that run at the same time, each when what it stands on is there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hull_engine::container::{Step, StepView};
use hull_engine::model::CreateBody;
use hull_engine::{Engine, Kind};
use hull_image::reference::Reference;
use hull_image::{Digest, Draft, Image, ImageId, Platform};
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinSet;

use crate::cache_mounts::Elsewhere;
use crate::caches::Places;
use crate::context::{Context, Folder};
use crate::dockerfile::{Sharing, Source};
use crate::exporting::{Leaving, Told};
use crate::failure::{Failure, Result};
use crate::git::Fetcher;
use crate::kept::Contexts;
use crate::key::Key;
use crate::named::Named;
use crate::plan::Plan;
use crate::progress::{Event, Tell};
use crate::request::Request;

/// What a stage has made: its image so far, and by what that is known again.
#[derive(Clone)]
pub struct Made {
    /// The image so far.
    pub draft: Draft,
    /// The key of its last step.
    pub key: Digest,
}

impl Made {
    /// The image that it is; none where nothing was made on nothing.
    pub(crate) fn image(&self) -> Option<ImageId> {
        let config = &self.draft.image.config;
        let is_nothing = config.history.is_empty() && config.rootfs.diff_ids.is_empty();
        (!is_nothing).then_some(self.draft.image.id)
    }
}

/// The files of a stage, an image or a context, to be copied from.
pub enum Origin {
    /// Those of layers.
    Layers {
        /// Where they are seen.
        view: StepView,
        /// Whose view it is.
        step: Step,
        /// As whose image they are mounted.
        draft: Draft,
    },
    /// Those that were sent under a name.
    Sent(Arc<Context>),
}

impl Origin {
    /// The root of the files.
    pub fn root(&self) -> BorrowedFd<'_> {
        match self {
            Origin::Layers { view, .. } => view.root(),
            Origin::Sent(context) => context.root(),
        }
    }

    /// Whether its files belong to whom they belong there; those that were sent are root's.
    pub fn has_owners(&self) -> bool {
        matches!(self, Origin::Layers { .. })
    }

    /// What is there only to be mounted on, and is no part of it.
    ///
    /// # Errors
    /// Its layers cannot be read.
    pub fn mount_points(&self, images: &hull_image::Store) -> Result<BTreeSet<&'static str>> {
        match self {
            Origin::Layers { draft, .. } => Ok(images.mount_points(&draft.image)?),
            Origin::Sent(_) => Ok(BTreeSet::new()),
        }
    }

    /// The folders that make up what is at a path without links, uppermost first, or the one file there.
    ///
    /// # Errors
    /// Nothing is there.
    pub fn parts(&self, images: &hull_image::Store, path: &str) -> Result<Vec<PathBuf>> {
        match self {
            Origin::Layers { draft, .. } => Ok(images.parts_at(&draft.image, path)?),
            Origin::Sent(context) => Ok(vec![context.path().join(path.trim_start_matches('/'))]),
        }
    }
}

/// An [`Origin`], once somebody has opened it.
pub type Opened = Arc<OnceCell<Result<Arc<Origin>>>>;

/// Arguments with their values.
pub(crate) type Declared = BTreeMap<String, Option<String>>;

/// Where the steps of one platform's build are among those of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Among {
    /// The platform is told with each step.
    pub(crate) platform: Option<Platform>,
    /// The steps and stages of those before it.
    pub(crate) steps_before: usize,
    pub(crate) stages_before: usize,
    /// The steps of all.
    pub(crate) steps: usize,
}

impl Among {
    /// How a stage is called: behind its platform where there may be several, as `linux/amd64->arm64` where it is made on one
    /// for another.
    pub(crate) fn name_of(&self, stage: usize, plan: &Plan) -> String {
        let name = &plan.stages[stage].name;
        let Some(target) = &self.platform else { return name.clone() };
        let own = plan.platform_of(stage).unwrap_or(target);
        if own == target {
            return format!("{own} {name}");
        }
        let to = if own.os == target.os {
            target.to_string()[target.os.len() + 1..].to_owned()
        } else {
            target.to_string()
        };
        format!("{own}->{to} {name}")
    }
}

/// A build that goes on.
pub struct Build {
    /// The engine.
    pub engine: Arc<Engine>,
    /// What is asked.
    pub request: Request,
    /// What that means.
    pub plan: Plan,
    /// The Dockerfile.
    pub source: Source,
    /// Where its steps are among those of all platforms.
    pub(crate) among: Among,
    /// The files that were sent.
    pub context: Arc<Context>,
    /// Where what goes on is told.
    pub tell: Tell,
    /// Set when nobody wants it any more.
    pub stop: Arc<AtomicBool>,
    /// Set when nobody wants what it has made either, not even for the next time.
    pub cancelled: Arc<AtomicBool>,
    /// What outlives a build.
    pub places: Arc<Places>,
    /// Contexts that stay.
    pub(crate) contexts: Arc<Contexts>,
    /// Where this build's secrets are, in memory.
    pub private: Arc<Folder>,
    /// The names that the image gets.
    pub names: Vec<Reference>,
    /// What each stage made, once it has.
    pub stages: Vec<OnceCell<Result<Made>>>,
    /// Files of stages and images that are copied from, by what names them.
    pub origins: Mutex<HashMap<String, Opened>>,
    /// When it began.
    pub started: String,
    /// The time of what it makes, in seconds since 1970, where the request gives one.
    pub epoch: Option<i64>,
    /// The images that it took, as package URLs, with their digests.
    pub materials: Mutex<BTreeMap<String, String>>,
    /// Images whose steps are used where they are the same, once they are there.
    pub cache: OnceCell<Vec<Draft>>,
    /// Where the files of cache mounts are that are not here, once they are known.
    pub(crate) mounts_from: Arc<OnceCell<Vec<Elsewhere>>>,
    /// The ids of the cache mounts that its steps have, or would have had.
    pub(crate) caches_used: Mutex<BTreeMap<String, Sharing>>,
    /// Build arguments that some stage declares.
    pub consumed: Mutex<BTreeSet<String>>,
    /// The arguments that each stage has declared, with their values, once it is made.
    pub(crate) declared: Mutex<HashMap<usize, Declared>>,
    /// The steps that this build itself has done: two of its stages that do the same do it once, whatever of earlier
    /// builds may be used. So do two platforms' builds, as do those of what follows.
    pub done: Arc<Mutex<HashSet<Digest>>>,
    /// Layers whose digests are computed behind the steps: each ends with its sender.
    pub naming: Mutex<Vec<oneshot::Receiver<()>>>,
}

/// An error where nobody wants the build any more.
pub(crate) fn wanted(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Failure::cancelled()) } else { Ok(()) }
}

pub(crate) fn key_of(kind: &str, socket: Option<&Path>) -> Key {
    let key = Key::of(kind);
    match socket {
        None => key,
        Some(path) => key.with("of the socket").with(path.as_os_str().as_encoded_bytes()),
    }
}

impl Build {
    /// Finds what steps may be taken from.
    pub(crate) async fn begin(&self) {
        let cache = self.caching_images().await;
        self.cache.set(cache).ok();
        self.mounts_from.get_or_init(|| self.mounts_elsewhere()).await;
    }

    /// Runs its stages. What they make has no name yet and went nowhere.
    ///
    /// # Errors
    /// A step failed: what others did is kept for the next time.
    pub(crate) async fn make(self: Arc<Build>) -> Result<Made> {
        let mut running = JoinSet::new();
        for stage in self.plan.needed.clone() {
            let build = Arc::clone(&self);
            running.spawn(async move { build.stage(stage).await.map(drop) });
        }
        while let Some(ended) = running.join_next().await {
            let ended = ended.unwrap_or_else(|error| Err(Failure::system("build a stage", error)));
            if let Err(mut failure) = ended {
                // Those that still run are not wanted any more; what they have begun is undone with them.
                failure.detail.interrupted = self.stop.swap(true, Ordering::Relaxed);
                running.shutdown().await;
                return Err(failure.shown_in(&self.source));
            }
        }
        let made = self.stage(self.plan.target).await?;
        if self.request.classic && made.image().is_none() {
            return Err(Failure::invalid("No image was generated. Is your Dockerfile empty?"));
        }
        let made = self.squashed(made).await?;
        self.labelled(made)
    }

    /// Enters what was made under its names, and sends it where the request wants it. Of several platforms' images all go, and
    /// this machine's stays.
    ///
    /// # Errors
    /// It cannot be entered or sent.
    pub(crate) async fn deliver(self: &Arc<Build>, all: &[Leaving]) -> Result<(Arc<Image>, Told)> {
        let Some(first) = all.first() else {
            return Err(Failure::new(Kind::System, "the build has made nothing"));
        };
        let Some(draft) = self.staying(all).map(|one| one.draft.clone()) else {
            let told = Box::pin(self.exported(all)).await?;
            return Ok((Arc::clone(&first.draft.image), told));
        };
        let build = Arc::clone(self);
        let entered = tokio::task::spawn_blocking(move || {
            let image = build.engine.images.enter_draft(&draft, &build.names)?;
            build.engine.tell_built(&image, &build.names);
            Ok(image)
        });
        let image = entered.await.unwrap_or_else(|error| Err(Failure::system("enter the image", error)))?;
        let told = Box::pin(self.exported(all)).await?;
        Ok((image, told))
    }

    /// What a stage makes; the first who asks has it made. Boxed, for a stage asks for those below it.
    pub fn stage(self: &Arc<Build>, stage: usize) -> Pin<Box<dyn Future<Output = Result<Made>> + Send>> {
        let build = Arc::clone(self);
        Box::pin(async move {
            let made = build.stages[stage].get_or_init(|| crate::stage::run(Arc::clone(&build), stage));
            made.await.clone()
        })
    }

    /// The key of what other keys begin with: that of a socket with a policy is its own, and so are all that follow. What
    /// made a step is not in its key to the last (arguments that are no part of it, caches, an image's own word for its
    /// history), and whoever may not have the machine must not decide what those build who may.
    pub fn key_of(&self, kind: &str) -> Key {
        let key = key_of(kind, self.request.socket.as_deref());
        // What those make is kept as images, and goes with them.
        if self.request.classic { key.with("classic") } else { key }
    }

    /// The key of what a stage stands on. What is made at a given time is another than what is made now, so that is part of
    /// it.
    pub(crate) fn base_key(&self, kind: &str) -> Key {
        let key = self.key_of(kind);
        match self.epoch {
            Some(epoch) => key.with("at").with(epoch.to_le_bytes()),
            None => key,
        }
    }

    /// The arguments that a stage has declared.
    pub(crate) fn declared(&self, stage: usize) -> Declared {
        let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared.get(&stage).cloned().unwrap_or_default()
    }

    /// Notes the arguments that a stage has declared.
    pub(crate) fn declares(&self, stage: usize, arguments: Declared) {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).insert(stage, arguments);
    }

    /// Whether this build itself has done this step.
    pub(crate) fn has_done(&self, key: &Digest) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// This build has made what is kept under this key.
    pub(crate) fn has_made(&self, key: Digest) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// By what others know that this step is being done. A `fresh` one may use nothing of others, and waits for its own
    /// build alone.
    pub(crate) fn turn_key(&self, key: Digest, fresh: bool) -> Digest {
        let apart = fresh.then(|| self.private.path().as_os_str().as_encoded_bytes());
        apart.map_or(key, |name| Key::of("apart").with(name).with(key.to_string()).finish())
    }

    /// Tells something.
    pub fn say(&self, event: Event) {
        self.tell.event(event);
    }

    /// An error where nobody wants the build any more.
    pub fn check(&self) -> Result<()> {
        wanted(&self.stop)
    }

    /// Who fetches git repositories for it.
    pub(crate) fn fetcher(&self) -> Fetcher<'_> {
        Fetcher {
            registries: self.engine.registries(),
            parent: &self.places.temporary,
            secrets: &self.request.secrets,
            stop: Arc::clone(&self.stop),
        }
    }

    /// The files of an earlier stage, or of an image, that `from` names in the stage of this number.
    pub async fn origin(self: &Arc<Build>, stage: usize, from: &str) -> Result<Arc<Origin>> {
        let earlier = self.plan.earlier(stage, from);
        let named = self.request.named(from).filter(|_| earlier.is_none());
        let name = earlier.map_or_else(|| format!("image {from}"), |stage| format!("stage {stage}"));
        let cell = {
            let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(origins.entry(name).or_default())
        };
        let opened = cell.get_or_init(|| async {
            let draft = match (earlier, named) {
                (Some(stage), _) => self.stage(stage).await?.draft,
                (None, Some(Named::Folder(context))) => {
                    return Ok(Arc::new(Origin::Sent(Arc::clone(context))));
                }
                (None, Some(Named::Given(draft))) => draft.clone(),
                (None, Some(Named::Image(image))) => self.image(image, None).await?.draft,
                (None, None) => self.image_from(from).await?.draft,
            };
            let step = self.step(&draft, CreateBody::default()).await?;
            let view = step.view().await?;
            Ok(Arc::new(Origin::Layers { view, step, draft }))
        });
        opened.await.clone()
    }

    /// What `from` names, by what its files are known again, without looking at them; none where they have to be.
    pub async fn origin_key(self: &Arc<Build>, stage: usize, from: &str) -> Result<Option<Digest>> {
        if let Some(stage) = self.plan.earlier(stage, from) {
            return Ok(Some(self.stage(stage).await?.key));
        }
        match self.request.named(from) {
            Some(Named::Folder(_)) => Ok(None),
            Some(Named::Given(draft)) => {
                Ok(Some(self.base_key("image").with(draft.image.id.to_string()).finish()))
            }
            Some(Named::Image(image)) => Ok(Some(self.image(image, None).await?.key)),
            None => Ok(Some(self.image_from(from).await?.key)),
        }
    }

    /// An image that is copied from.
    async fn image_from(&self, from: &str) -> Result<Made> {
        if self.request.classic && from.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Failure::invalid(format!("invalid from flag value {from}: index out of bounds")));
        }
        Box::pin(self.image(from, None)).await.map_err(|mut failure| {
            let why = failure.detail.classic.as_ref().unwrap_or(&failure.message);
            failure.detail.classic = Some(format!("invalid from flag value {from}: {why}"));
            failure
        })
    }

    /// A container for files, which never runs.
    pub async fn step(&self, draft: &Draft, mut body: CreateBody) -> Result<Step> {
        self.check()?;
        if body.config.cmd.is_none() {
            body.hidden = true;
            body.config.cmd = Some(vec!["/".to_owned()]);
            body.host_config.network_mode = "none".to_owned();
            // Nothing runs in it: files are the layers' own, whatever users containers get.
            body.host_config.userns_mode = "host".to_owned();
        }
        body.config.image = draft.image.id.to_string();
        body.config.labels = Some(self.request.step_labels.clone());
        body.host_config.log_config.driver = "none".to_owned();
        Ok(Box::pin(self.engine.create_step(Arc::clone(&draft.image), body)).await?)
    }

    /// The labels of the request, as one more step; of the classic builder they are steps of the plan.
    fn labelled(&self, made: Made) -> Result<Made> {
        if self.request.labels.is_empty() || self.request.classic {
            return Ok(made);
        }
        let labels = self.request.labels.clone().into_iter().collect();
        crate::stage::changed(self, &made, &crate::metadata::Change::Label(labels), self.request.no_cache)
            .map(|(made, _)| made)
    }

    /// Build arguments that no stage declares.
    pub fn not_consumed(&self) -> Vec<String> {
        let consumed = self.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |name: &String| {
            consumed.contains(name)
                || self.plan.globals.contains_key(name)
                || crate::dockerfile::lint::PREDEFINED.contains(&name.as_str())
                || name == "SOURCE_DATE_EPOCH"
                || name.starts_with("BUILDKIT_")
        };
        self.request.build_args.keys().filter(|name| !known(name)).cloned().collect()
    }

    /// Waits for the layers that get their digests still, and lets go of the files that were copied from.
    pub async fn close(&self) {
        let naming = std::mem::take(&mut *self.naming.lock().unwrap_or_else(PoisonError::into_inner));
        for over in naming {
            over.await.ok();
        }
        let origins = std::mem::take(&mut *self.origins.lock().unwrap_or_else(PoisonError::into_inner));
        for cell in origins.into_values() {
            // Who still has one has it removed behind.
            let origin = Arc::into_inner(cell).and_then(OnceCell::into_inner).and_then(Result::ok);
            if let Some(Origin::Layers { view, step, .. }) = origin.and_then(Arc::into_inner) {
                view.close().await;
                step.remove().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_with_a_policy_has_keys_of_its_own() {
        let key = |socket: Option<&str>| key_of("image", socket.map(Path::new)).with("id").finish();
        assert_eq!(key(None), Key::of("image").with("id").finish());
        assert_eq!(key(Some("/a.sock")), key(Some("/a.sock")));
        assert_ne!(key(Some("/a.sock")), key(None));
        assert_ne!(key(Some("/a.sock")), key(Some("/b.sock")));
    }
}
