//! The builder: what outlives one build, and the builds that go on.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hull_engine::{Engine, Kind};
use hull_image::reference::Reference;
use hull_image::{Digest, Image, Platform};

use crate::build::{Among, Build};
use crate::caches::Places;
use crate::cancel::{Names, Stop};
use crate::context::{Context, Folder};
use crate::copies::leads_out;
use crate::dockerfile::lint::{Around, Check, lint};
use crate::dockerfile::{self, Dockerfile, Source};
use crate::failure::{Failure, Result};
use crate::ignore::Ignore;
use crate::kept::{Contexts, Missing};
use crate::logs::Logs;
use crate::output::{Archive, Output};
use crate::plan::{Plan, plan};
use crate::prepared::Prepared;
use crate::progress::{Event, Silence};
use crate::request::Request;

/// The daemon's builder.
pub struct Builder {
    pub(crate) engine: Arc<Engine>,
    pub(crate) places: Arc<Places>,
    pub(crate) contexts: Arc<Contexts>,
    /// What builds told.
    pub logs: Logs,
    /// The builds that clients have named.
    pub names: Names,
}

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
        let logs = Logs::open(root.join("logs"))?;
        Ok(Builder {
            engine: Arc::clone(engine),
            places: Arc::new(places),
            contexts,
            logs,
            names: Names::default(),
        })
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
        let epoch = request.epoch()?;
        let (source, file) = read(&request, &context)?;
        let wrong = |message| Failure::of_mistake(&check_mistake(&file, message), &source);
        let check = Check::of(&file, &request.build_args).map_err(wrong)?;
        let ignored = ignored(&source, &context, request.ignore_text.as_deref())?;
        let around = Around {
            inherited: &|stage| self.inherited(&file, stage),
            ignored: &|path| ignored.excludes(path.as_bytes()),
        };
        let warnings = lint(&file, &check, &around);
        if let Some(first) = warnings.first().filter(|_| check.error && !request.check_only) {
            let rules: BTreeSet<&str> = warnings.iter().map(|warning| warning.rule).collect();
            let rules: Vec<&str> = rules.into_iter().collect();
            let message = format!("lint violation found for rules: {}", rules.join(", "));
            return Err(Failure::of_mistake(&dockerfile::Mistake::at(first.at, message), &source));
        }
        let mut plans = Vec::new();
        for request in request.each() {
            let plan = plan(&file, &request).map_err(|mistake| Failure::of_mistake(&mistake, &source))?;
            plans.push((request, plan));
        }
        let builds = self.builds(plans, (source, context, names, epoch), stop)?;
        Prepared::of(builds, stop, &self.logs, warnings)
    }

    /// A build for each platform. What is done for one is not done again for another where it is the same.
    fn builds(
        &self,
        plans: Vec<(Request, Plan)>,
        (source, context, names, epoch): (Source, Context, Vec<Reference>, Option<i64>),
        stop: &Stop,
    ) -> Result<Vec<Build>> {
        let (context, private) = (Arc::new(context), Arc::new(Folder::beneath(&self.places.private)?));
        let (done, mounts_from) = (Arc::default(), Arc::default());
        let started = jiff::Timestamp::now().to_string();
        let steps = plans.iter().map(|(_, plan)| plan.steps()).sum();
        let (mut steps_before, mut stages_before) = (0, 0);
        let mut builds = Vec::new();
        for (request, plan) in plans {
            let platform = request.indexed.then(|| request.platform.clone().unwrap_or_else(Platform::host));
            let among = Among { platform, steps_before, stages_before, steps };
            steps_before += plan.steps();
            stages_before += plan.stages.len();
            builds.push(Build {
                engine: Arc::clone(&self.engine),
                stages: plan.stages.iter().map(|_| tokio::sync::OnceCell::new()).collect(),
                plan,
                source: source.clone(),
                among,
                context: Arc::clone(&context),
                tell: Arc::new(Silence),
                stop: stop.flag(),
                cancelled: stop.asked(),
                places: Arc::clone(&self.places),
                contexts: Arc::clone(&self.contexts),
                private: Arc::clone(&private),
                names: names.clone(),
                origins: Mutex::default(),
                started: started.clone(),
                epoch,
                materials: Mutex::default(),
                consumed: Mutex::default(),
                declared: Mutex::default(),
                done: Arc::clone(&done),
                naming: Mutex::default(),
                cache: tokio::sync::OnceCell::new(),
                mounts_from: Arc::clone(&mounts_from),
                caches_used: Mutex::default(),
                request,
            });
        }
        Ok(builds)
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

    /// Whether what a client that came by `socket` has in the folder that it calls `key` is here already, by the digest of its
    /// listing; none where it is not. Blocks.
    ///
    /// # Errors
    /// The machine has no random numbers.
    pub fn is_kept(&self, socket: Option<&Path>, key: &str, listing: Digest) -> Result<Option<Missing>> {
        self.contexts.same(socket, key, listing)
    }

    /// The variables that the image of a stage brings, where it is here.
    fn inherited(&self, file: &Dockerfile, stage: usize) -> Option<Vec<String>> {
        let image = self.engine.images.resolve(&file.stages.get(stage)?.base).ok()?;
        let env = image.container_config().env;
        Some(env.iter().filter_map(|entry| entry.split_once('=')).map(|(name, _)| name.to_owned()).collect())
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
}

/// What the context is said to be without.
fn ignored(source: &Source, context: &Context, given: Option<&str>) -> Result<Ignore> {
    let text = match given {
        Some(text) => Some(text.to_owned()),
        None => match context.text(&format!("{}.dockerignore", source.name))? {
            None => context.text(".dockerignore")?,
            own => own,
        },
    };
    Ignore::parse(&text.unwrap_or_default())
        .map_err(|message| Failure::invalid(format!("error reading .dockerignore: {message}")))
}

fn check_mistake(file: &Dockerfile, message: String) -> dockerfile::Mistake {
    let line = file.directives.check.as_ref().map_or(1, |(_, line)| *line);
    dockerfile::Mistake::at(dockerfile::Position { line, column: 1 }, message)
}

/// The names that the image gets; an error where the request makes no sense.
fn names(request: &Request) -> Result<Vec<Reference>> {
    let names = request.tags.iter().map(|tag| {
        let has_digest = Reference::parse(tag).is_ok_and(|name| name.digest.is_some());
        if has_digest {
            Err(hull_image::Error::invalid("build tag cannot contain a digest"))
        } else {
            Reference::parse_tag(tag)
        }
    });
    let mut names = names.collect::<hull_image::Result<Vec<_>>>()?;
    let named = |output: &&Output| !output.cache && !output.dress.by_digest;
    for name in request.outputs.iter().filter(named).flat_map(|output| &output.names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let denied = request.outputs.iter().any(|output| output.rewrite == Some(false));
    if denied && request.epoch()?.is_some() {
        return Err(Failure::invalid(
            "rewrite-timestamp=false is not supported by hull with SOURCE_DATE_EPOCH: what is built has that time in any case",
        ));
    }
    let goes = |output: &Output| !output.cache && (output.push || output.archive == Some(Archive::Oci));
    if request.attest.any() && !request.attest.where_possible && !request.outputs.iter().any(goes) {
        return Err(Failure::invalid(
            "attestations lie beside an image in an index, and one that stays here has none: push it (--push), or have an OCI \
             layout made (-o type=oci)",
        ));
    }
    if request.indexed {
        several(request)?;
    }
    Ok(names)
}

/// An error where an index of images is to go where there is no place for one.
fn several(request: &Request) -> Result<()> {
    let outputs = || request.outputs.iter().filter(|output| !output.cache);
    if outputs().any(|output| output.archive == Some(Archive::Docker)) {
        return Err(Failure::invalid(
            "docker exporter does not currently support exporting manifest lists: have an OCI layout made (-o type=oci,dest=FILE), \
             or build for one platform",
        ));
    }
    let stays = |output: &Output| output.archive.is_none() && !output.push && !output.nowhere;
    if request.platforms.len() > 1 && (outputs().next().is_none() || outputs().any(stays)) {
        return Err(Failure::new(
            Kind::NotImplemented,
            "exporting multiple references to image store is currently unsupported: a name means one image here; push them \
             (--push), have an OCI layout made (-o type=oci,dest=FILE), or build for one platform",
        ));
    }
    Ok(())
}

/// The Dockerfile of a request.
fn read(request: &Request, context: &Context) -> Result<(Source, Dockerfile)> {
    let given = request.dockerfile.trim_start_matches("./");
    let name = if given.is_empty() { "Dockerfile" } else { given };
    if request.dockerfile_text.is_none() && leads_out(name) {
        return Err(Failure::invalid(format!("forbidden path outside the build context: {name} ()")));
    }
    let text = match &request.dockerfile_text {
        Some(text) => Some(text.clone()),
        None => match context.text(name)? {
            // As Docker does, where nobody said what it is called.
            None if given.is_empty() => context.text("dockerfile")?,
            text => text,
        },
    };
    let Some(text) = text else {
        return Err(Failure::invalid(format!("Cannot locate specified Dockerfile: {name}")));
    };
    if text.trim().is_empty() {
        return Err(Failure::invalid(format!("the Dockerfile ({name}) cannot be empty")));
    }
    context.hide_sent_anyway(name)?;
    let source = Source { name: name.to_owned(), text };
    let file = dockerfile::parse(&source.text).map_err(|mistake| Failure::of_mistake(&mistake, &source))?;
    Ok((source, file))
}
