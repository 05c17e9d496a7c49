//! The builder: what outlives one build, and the builds that go on.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hull_engine::{Engine, Kind};
use hull_image::Image;
use hull_image::reference::Reference;
use tokio::sync::Notify;

use crate::build::Build;
use crate::context::{Context, Folder};
use crate::dockerfile::lint::{Warning, lint};
use crate::dockerfile::{self, Dockerfile, Source};
use crate::failure::{Failure, Result};
use crate::kept::{Contexts, Missing};
use crate::logs::Logs;
use crate::plan::{Plan, plan};
use crate::progress::{Event, Silence, Tell};
use crate::request::Request;
use crate::underway::Underway;

/// The folders that builds use.
#[derive(Debug)]
pub struct Places {
    /// What is gone with each build, and with the daemon.
    pub temporary: PathBuf,
    /// The folders of cache mounts.
    pub caches: PathBuf,
    /// Contexts that came over sessions, for the next time.
    pub received: PathBuf,
    /// Secrets, in memory.
    pub private: PathBuf,
    /// Who waits for a cache that is locked.
    pub locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// How many steps have a cache mounted.
    pub used: Mutex<HashMap<String, usize>>,
    /// Steps that are being done now.
    pub underway: Arc<Underway>,
}

impl Places {
    /// Removes the contexts that are kept; how many bytes they had.
    fn take_received(&self) -> Result<u64> {
        let failed = |error: std::io::Error| Failure::system("remove the contexts of builds", error);
        let trash = Folder::beneath(&self.temporary)?;
        for entry in std::fs::read_dir(&self.received).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // One that a build takes at this very moment is that build's.
            let _ = std::fs::rename(entry.path(), trash.path().join(entry.file_name()));
        }
        Ok(hull_image::tree_size(trash.path())?)
    }

    /// Moves the folders of cache mounts that no step has out of the way. Steps wait for this, and not for their removal.
    fn take_caches(&self, trash: &Folder) -> Result<Vec<String>> {
        let failed = |error: std::io::Error| Failure::system("remove the caches of builds", error);
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        for entry in std::fs::read_dir(&self.caches).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let folder = name.trim_end_matches(".id");
            if used.contains_key(folder) {
                continue;
            }
            std::fs::rename(entry.path(), trash.path().join(&name)).map_err(failed)?;
            if folder == name {
                taken.push(name);
            }
        }
        Ok(taken)
    }
}

/// The daemon's builder.
pub struct Builder {
    pub(crate) engine: Arc<Engine>,
    pub(crate) places: Arc<Places>,
    contexts: Arc<Contexts>,
    /// What builds told.
    pub logs: Logs,
    /// The builds that a client named, to be cancelled by that name: two may have one.
    named: Mutex<Vec<(Asker, Stop)>>,
}

/// Who has named a build: the socket with a policy that it came by, if one has, and the name.
type Asker = (Option<PathBuf>, String);

/// How the files of a build come.
pub enum Files<'a> {
    /// As an archive, plain or compressed.
    Archive(&'a mut dyn Read),
    /// Those that are missing, of a folder that was told before under this id ([`Builder::compare`]).
    Told(&'a str, &'a mut dyn Read),
}

/// Counts what is read.
struct Counted<'a>(&'a mut dyn Read, &'a mut u64);

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(buffer)?;
        *self.1 += count as u64;
        Ok(count)
    }
}

/// Ends a build from outside.
#[derive(Clone, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    told: Arc<Notify>,
}

impl Stop {
    /// Ends it.
    pub fn stop(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
        self.told.notify_one();
    }

    /// Whether both end the same build.
    fn is(&self, other: &Stop) -> bool {
        Arc::ptr_eq(&self.flag, &other.flag)
    }

    /// What is set when it ends.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Waits until it is ended.
    pub async fn stopped(&self) {
        while !self.flag.load(Ordering::Relaxed) {
            self.told.notified().await;
        }
    }
}

/// A build that has been looked through and can begin.
pub struct Prepared {
    build: Arc<Build>,
    stop: Stop,
    logs: Logs,
    /// What is unwise about its Dockerfile.
    pub warnings: Vec<Warning>,
}

/// A build that came to its end.
pub struct Built {
    /// The image.
    pub image: Arc<Image>,
    /// Build arguments that nothing asked for.
    pub unused: Vec<String>,
    /// What is told of it under BuildKit's names: `containerimage.digest` and so on.
    pub told: BTreeMap<String, serde_json::Value>,
}

/// A folder that stays for later builds.
#[derive(Clone, Debug)]
pub struct CacheFolder {
    /// Its name on the disk.
    pub name: String,
    /// Of which kind it is, as BuildKit calls it.
    pub kind: &'static str,
    /// What it is: of a cache mount, by the id that steps know it by.
    pub description: String,
    /// A build has it now.
    pub in_use: bool,
    /// Bytes in it.
    pub size: u64,
    /// When it was made, and when a step had it last, in seconds of Unix time.
    pub created: i64,
    /// When a step had it last.
    pub used: i64,
}

impl Builder {
    /// Opens it; what a daemon before left of its builds is removed.
    ///
    /// # Errors
    /// A folder cannot be made.
    pub fn open(engine: &Arc<Engine>) -> Result<Builder> {
        let root = engine.config.data_root.join("build");
        let places = Places {
            temporary: root.join("tmp"),
            caches: root.join("cache"),
            received: root.join("received"),
            private: engine.config.exec_root.join("build"),
            locks: Mutex::default(),
            used: Mutex::default(),
            underway: Arc::default(),
        };
        for folder in [&places.temporary, &places.private] {
            hull_image::remove_tree(folder)
                .map_err(|error| Failure::system(format_args!("remove {}", folder.display()), error))?;
        }
        let contexts = root.join("contexts");
        for folder in [&places.temporary, &places.private, &places.caches, &places.received, &contexts] {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.recursive(true).create(folder).map_err(|error| {
                Failure::system(format_args!("make the folder {}", folder.display()), error)
            })?;
        }
        let contexts = Arc::new(Contexts::open(contexts, places.temporary.clone())?);
        let named = Mutex::default();
        let logs = Logs::open(root.join("logs"))?;
        Ok(Builder { engine: Arc::clone(engine), places: Arc::new(places), contexts, logs, named })
    }

    /// The folders that builds use.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Reads a context and what is to be built of it. Blocks.
    ///
    /// # Errors
    /// The context or the Dockerfile is malformed, or asks for what there is not.
    pub fn prepare(
        &self,
        request: Request,
        files: Files<'_>,
        stop: &Stop,
        tell: &dyn Fn(Event),
    ) -> Result<Prepared> {
        // Names are looked at before anything long is read.
        names(&request)?;
        let begun = std::time::Instant::now();
        let mut bytes = 0;
        let context = match files {
            Files::Archive(archive) => {
                Context::read(&self.places.temporary, &mut Counted(archive, &mut bytes))?
            }
            Files::Told(id, missing) => {
                let socket = request.socket.as_deref();
                self.contexts.receive(socket, id, &mut Counted(missing, &mut bytes))?
            }
        };
        tell(Event::Context { seconds: begun.elapsed().as_secs_f64(), bytes });
        self.prepare_with(request, context, stop)
    }

    /// The same with a context that is here already.
    ///
    /// # Errors
    /// As [`Builder::prepare`].
    pub fn prepare_with(&self, request: Request, context: Context, stop: &Stop) -> Result<Prepared> {
        let names = names(&request)?;
        let (source, file) = read(&request, &context)?;
        let warnings = lint(&file, &|stage| self.inherited(&file, stage))
            .map_err(|message| Failure::of_mistake(&check_mistake(&file, message), &source))?;
        if let Some(first) = warnings.first().filter(|_| is_error(&file)) {
            let mistake =
                dockerfile::Mistake::at(first.at, format!("lint violation found for rules: {}", first.rule));
            return Err(Failure::of_mistake(&mistake, &source));
        }
        let plan = plan(&file, &request).map_err(|mistake| Failure::of_mistake(&mistake, &source))?;
        let build = Build {
            engine: Arc::clone(&self.engine),
            stages: plan.stages.iter().map(|_| tokio::sync::OnceCell::new()).collect(),
            plan,
            source,
            context,
            tell: Arc::new(Silence),
            stop: Arc::clone(&stop.flag),
            places: Arc::clone(&self.places),
            contexts: Arc::clone(&self.contexts),
            private: Folder::beneath(&self.places.private)?,
            names,
            origins: Mutex::default(),
            started: jiff::Timestamp::now().to_string(),
            materials: Mutex::default(),
            consumed: Mutex::default(),
            done: Mutex::default(),
            cache: tokio::sync::OnceCell::new(),
            request,
        };
        let logs = self.logs.clone();
        Ok(Prepared { build: Arc::new(build), stop: stop.clone(), logs, warnings })
    }

    /// Reads what a client that came by `socket` has in the folder that it calls `key`: what of it is to be sent with the
    /// build; none where it is to be sent whole. Blocks.
    ///
    /// # Errors
    /// The listing is malformed, or the disk is full.
    pub fn compare(
        &self,
        socket: Option<&Path>,
        key: &str,
        listing: &mut dyn Read,
    ) -> Result<Option<Missing>> {
        self.contexts.compare(socket, key, listing)
    }

    /// The variables that the image of a stage brings, where it is here.
    fn inherited(&self, file: &Dockerfile, stage: usize) -> Option<Vec<String>> {
        let image = self.engine.images.resolve(&file.stages.get(stage)?.base).ok()?;
        let env = image.container_config().env;
        Some(env.iter().filter_map(|entry| entry.split_once('=')).map(|(name, _)| name.to_owned()).collect())
    }

    /// Notes a build under a client's name for it, as long as the value is there; `socket` is the one with a policy that it
    /// came by.
    pub fn named(self: &Arc<Self>, socket: Option<&Path>, id: &str, stop: &Stop) -> Named {
        self.builds().push(((socket.map(Path::to_owned), id.to_owned()), stop.clone()));
        Named { builder: Arc::clone(self), stop: stop.clone() }
    }

    /// Ends the builds of that name that go on: a socket with a policy its own, the daemon's own socket everybody's.
    pub fn cancel(&self, socket: Option<&Path>, id: &str) {
        let may = |(of, name): &Asker| name == id && (socket.is_none() || of.as_deref() == socket);
        self.builds().iter().filter(|(asker, _)| may(asker)).for_each(|(_, stop)| stop.stop());
    }

    /// Removes what was built and is not wanted any more: the ids of the steps, and the bytes that were given back.
    ///
    /// # Errors
    /// The store fails.
    pub fn prune(&self, prune: &Prune) -> Result<(Vec<String>, u64)> {
        let mut steps = self.engine.images.steps()?;
        // What was used last goes last.
        steps.sort_by_key(|step| step.used);
        let old = |used: i64| prune.until.is_none_or(|until| used.saturating_mul(1_000_000_000) < until);
        let wanted = |step: &&hull_image::StepUsage| {
            (prune.all || !step.shared)
                && old(step.used)
                && (prune.ids.is_empty()
                    || prune.ids.iter().any(|id| step.key.hex().starts_with(id.as_str())))
        };
        let mut left: u64 = steps.iter().map(|step| step.size).sum();
        let mut keys = Vec::new();
        for step in steps.iter().filter(wanted) {
            if prune.keep > 0 && left <= prune.keep {
                break;
            }
            left = left.saturating_sub(step.size);
            keys.push(step.key);
        }
        let mut reclaimed = self.engine.images.forget_steps(&keys)?;
        let mut removed: Vec<String> = keys.iter().map(hull_image::Digest::hex).collect();
        if prune.keep == 0 && prune.ids.is_empty() && prune.until.is_none() {
            let (folders, bytes) = self.prune_folders()?;
            removed.extend(folders);
            reclaimed += bytes;
            if prune.all {
                self.logs.clear();
            }
        }
        Ok((removed, reclaimed))
    }

    /// Enters the files of a command that failed as an image without a name; and whether it has a shell. Blocks.
    ///
    /// # Errors
    /// They are not kept, or not any more.
    pub fn failed_step(&self, id: Option<&str>) -> Result<(Arc<Image>, bool)> {
        let draft = self.engine.images.step(&self.logs.kept(id)?)?.ok_or_else(|| {
            Failure::new(
                hull_engine::Kind::NotFound,
                "the files of the command that failed are not kept any more: they were pruned",
            )
        })?;
        let has = |path: &str| self.engine.images.parts_at(&draft.image, path).is_ok();
        // Where the folder is a link, its target is looked into.
        let shell = ["bin/sh", "usr/bin/sh"].into_iter().any(has);
        Ok((self.engine.images.enter_draft(&draft, &[])?, shell))
    }

    /// The folders of cache mounts, and of contexts that are kept. Blocks: their sizes are counted.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn caches(&self) -> Result<Vec<CacheFolder>> {
        let failed = |error: std::io::Error| Failure::system("look at the caches of builds", error);
        let mut caches = Vec::new();
        for entry in std::fs::read_dir(&self.places.caches).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_suffix(".id") else { continue };
            // One that is pruned at this very moment is not told.
            let Ok(id) = std::fs::read_to_string(entry.path()) else { continue };
            let Ok(size) = hull_image::tree_size(&self.places.caches.join(name)) else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            let seconds = |time: std::io::Result<std::time::SystemTime>| {
                let since = time.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
                since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
            };
            let used = seconds(metadata.modified());
            // Where the file system does not say when a file was made, it was no later than it was used.
            let created = Some(seconds(metadata.created())).filter(|time| *time > 0).unwrap_or(used);
            let in_use = self.places.used.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name);
            let (name, description) = (name.to_owned(), format!("cache mount {id}"));
            let kind = "exec.cachemount";
            caches.push(CacheFolder { name, kind, description, in_use, size, created, used });
        }
        caches.extend(self.contexts.folders()?);
        caches.sort_by(|a, b| a.description.cmp(&b.description));
        Ok(caches)
    }

    /// Removes the folders of cache mounts that no step has, and the contexts that no build has.
    fn prune_folders(&self) -> Result<(Vec<String>, u64)> {
        let trash = Folder::beneath(&self.places.temporary)?;
        let mut removed = self.places.take_caches(&trash)?;
        removed.extend(self.contexts.take(0, &trash)?);
        let mut bytes = self.places.take_received()?;
        for name in &removed {
            bytes += hull_image::tree_size(&trash.path().join(name))?;
        }
        Ok((removed, bytes))
    }

    fn builds(&self) -> std::sync::MutexGuard<'_, Vec<(Asker, Stop)>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is removed of what was built.
#[derive(Clone, Debug, Default)]
pub struct Prune {
    /// Also what images have.
    pub all: bool,
    /// So many bytes may stay; 0: none.
    pub keep: u64,
    /// Only what was not used since: nanoseconds since 1970.
    pub until: Option<i64>,
    /// Only these, by the beginnings of their ids.
    pub ids: Vec<String>,
}

/// So many bytes of steps are kept that no image has.
const KEPT: u64 = 20 << 30;

/// Removes the steps that were used longest ago, until those that are left take no more than so many bytes.
fn collect(engine: &Engine, most: u64) -> Result<()> {
    let mut steps = engine.images.steps()?;
    steps.retain(|step| !step.shared);
    let mut total: u64 = steps.iter().map(|step| step.size).sum();
    steps.sort_by_key(|step| step.used);
    let mut keys = Vec::new();
    for step in &steps {
        if total <= most {
            break;
        }
        total = total.saturating_sub(step.size);
        keys.push(step.key);
    }
    engine.images.forget_steps(&keys)?;
    Ok(())
}

/// A build's name, while it goes on.
pub struct Named {
    builder: Arc<Builder>,
    stop: Stop,
}

impl Drop for Named {
    fn drop(&mut self) {
        self.builder.builds().retain(|(_, stop)| !stop.is(&self.stop));
    }
}

fn is_error(file: &Dockerfile) -> bool {
    let check = file.directives.check.as_ref();
    check.is_some_and(|(text, _)| dockerfile::lint::Check::parse(text).is_ok_and(|check| check.error))
}

fn check_mistake(file: &Dockerfile, message: String) -> dockerfile::Mistake {
    let line = file.directives.check.as_ref().map_or(1, |(_, line)| *line);
    dockerfile::Mistake::at(dockerfile::Position { line, column: 1 }, message)
}

/// The names that the image gets; an error where the request makes no sense.
fn names(request: &Request) -> Result<Vec<Reference>> {
    let names = request.tags.iter().map(|tag| Reference::parse_tag(tag));
    let mut names = names.collect::<hull_image::Result<Vec<_>>>()?;
    for name in request.outputs.iter().filter(|output| !output.cache).flat_map(|output| &output.names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let goes = |output: &crate::output::Output| {
        !output.cache && (output.push || output.archive == Some(crate::output::Archive::Oci))
    };
    if request.attest.any() && !request.outputs.iter().any(goes) {
        return Err(Failure::invalid(
            "attestations lie beside an image in an index, and one that stays here has none: push it (--push), or have an OCI \
             layout made (-o type=oci)",
        ));
    }
    Ok(names)
}

/// The Dockerfile of a request.
fn read(request: &Request, context: &Context) -> Result<(Source, Dockerfile)> {
    let given = request.dockerfile.trim_start_matches("./");
    let name = if given.is_empty() { "Dockerfile" } else { given };
    let text = match &request.dockerfile_text {
        Some(text) => Some(text.clone()),
        None => match context.text(name)? {
            // As Docker does, where nobody said what it is called.
            None if given.is_empty() => context.text("dockerfile")?,
            text => text,
        },
    };
    let Some(text) = text else {
        let escaped = name.split('/').any(|part| part == "..");
        let what = if escaped {
            "forbidden path outside the build context"
        } else {
            "Cannot locate specified Dockerfile"
        };
        return Err(Failure::invalid(format!("{what}: {name}")));
    };
    if text.trim().is_empty() {
        return Err(Failure::invalid(format!("the Dockerfile ({name}) cannot be empty")));
    }
    context.hide_sent_anyway(name)?;
    let source = Source { name: name.to_owned(), text };
    let file = dockerfile::parse(&source.text).map_err(|mistake| Failure::of_mistake(&mistake, &source))?;
    Ok((source, file))
}

impl Prepared {
    /// The stages that are built, in their order.
    pub fn plan(&self) -> &Plan {
        &self.build.plan
    }

    /// The names that the image gets, as people write them.
    pub fn names(&self) -> Vec<String> {
        self.build.names.iter().map(Reference::familiar).collect()
    }

    /// The Dockerfile.
    pub fn source(&self) -> &Source {
        &self.build.source
    }

    /// Builds. What goes on is told meanwhile.
    ///
    /// # Errors
    /// A step failed, or the build was stopped.
    pub async fn run(self, tell: Tell) -> Result<Built> {
        let Prepared { build, stop, logs, .. } = self;
        let Ok(mut build) = Arc::try_unwrap(build) else {
            return Err(Failure::new(Kind::System, "the build has begun already"));
        };
        let recording = Arc::new(logs.record(&build.request, &build.source.name, tell).begun());
        build.tell = Arc::clone(&recording) as Tell;
        let build = Arc::new(build);
        let running = Arc::clone(&build);
        let image = tokio::select! {
            biased;
            () = stop.stopped() => Err(Failure::cancelled()),
            image = running.run() => image,
        };
        build.close().await;
        recording.ended(image.as_ref().map(|(image, _)| image.id.to_string()));
        let unused = build.not_consumed();
        let (engine, contexts) = (Arc::clone(&build.engine), Arc::clone(&build.contexts));
        drop(build);
        // Behind: what is used least gives way to what was made now.
        tokio::task::spawn_blocking(move || {
            logs.tidy();
            if let Err(error) = collect(&engine, KEPT) {
                tracing::warn!(%error, "steps of builds that are not used any more could not be removed");
            }
            if let Err(error) = contexts.collect() {
                tracing::warn!(%error, "contexts of builds that are not used any more could not be removed");
            }
        });
        let (image, told) = image?;
        Ok(Built { image, unused, told })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> Places {
        Places {
            temporary: root.to_owned(),
            caches: root.join("caches"),
            received: root.join("received"),
            private: root.to_owned(),
            locks: Mutex::default(),
            used: Mutex::new(HashMap::from([("b".to_owned(), 1)])),
            underway: Arc::default(),
        }
    }

    #[test]
    fn caches_that_a_step_has_stay() {
        let root = Folder::beneath(&std::env::temp_dir()).unwrap();
        let places = places(root.path());
        for name in ["a", "b"] {
            std::fs::create_dir_all(places.caches.join(name).join("files")).unwrap();
            std::fs::write(places.caches.join(format!("{name}.id")), name).unwrap();
        }
        let trash = Folder::beneath(&places.temporary).unwrap();
        assert_eq!(places.take_caches(&trash).unwrap(), ["a"]);
        let left = |name: &str| places.caches.join(name).exists();
        assert_eq!(["a", "a.id", "b/files", "b.id"].map(left), [false, false, true, true]);
        assert!(trash.path().join("a/files").exists() && trash.path().join("a.id").exists());
    }

    #[test]
    fn locks_that_nobody_has_are_not_kept() {
        let root = Folder::beneath(&std::env::temp_dir()).unwrap();
        let places = places(root.path());
        let held = places.lock("held");
        for name in 0..100 {
            drop(places.lock(&name.to_string()));
        }
        assert!(Arc::ptr_eq(&held, &places.lock("held")));
        assert_eq!(places.locks.lock().unwrap().len(), 1);
    }
}
