//! A stage: its base, then one instruction after the other. Each is looked up by its key first and done only where it was
//! never done before.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use hull_image::config::History;
use hull_image::{Digest, Draft, ImageConfig, ImageId, Layer, Platform, Taken};

use crate::behind::{self, Behind};
use crate::borrowing::{borrowed, continued};
use crate::build::{Build, Made};
use crate::dockerfile::expand::{Expander, fits};
use crate::dockerfile::lint::PREDEFINED;
use crate::dockerfile::{Instruction, Kind, Position, parse_trigger};
use crate::failure::{Failure, Result};
use crate::intermediate::{Doing, change_key};
use crate::key::Key;
use crate::metadata::{self, Change};
use crate::plan::{Base, platform_arguments};
use crate::progress::Event;
use crate::underway::Turn;

/// What `PATH` is where nobody says so.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest configuration of an image, in bytes: one that is longer could be neither loaded nor pulled.
const CONFIG_LIMIT: usize = 8 << 20;

/// A stage on its way.
pub(crate) struct Stage {
    pub(crate) build: Arc<Build>,
    pub(crate) index: usize,
    /// What was made so far.
    pub(crate) made: Made,
    /// The image that this is, or that it was before something was taken from it that is not the new image's.
    pub(crate) parent: Option<ImageId>,
    /// The arguments that were declared, with their values.
    pub(crate) arguments: BTreeMap<String, Option<String>>,
    /// Nothing that was made before is used.
    pub(crate) fresh: bool,
    /// This stage has a CMD of its own.
    cmd_set: bool,
    /// The place of the instruction that is done, and its last line.
    place: Option<(Position, u32)>,
    /// The number of the step that is done.
    pub(crate) step: usize,
    /// Layers of it whose digests are being computed.
    pub(crate) behind: Option<Behind>,
    /// How long the step has waited for what others do.
    waited: Duration,
    /// What the words of the instruction came to so far.
    spent: AtomicUsize,
}

/// What became of a step.
pub(crate) struct Outcome {
    pub(crate) made: Made,
    pub(crate) cached: bool,
    /// An image that the request names gave it: it is this build's, and kept for no other.
    pub(crate) borrowed: bool,
}

/// Builds the stage of this number.
pub(crate) async fn run(build: Arc<Build>, index: usize) -> Result<Made> {
    let first = 1
        + build.among.steps_before
        + build
            .plan
            .needed
            .iter()
            .filter(|stage| **stage < index)
            .map(|stage| 1 + build.plan.stages[*stage].instructions.len())
            .sum::<usize>();
    let planned = build.plan.stages[index].clone();
    let from = &planned.from;
    let begun = Instant::now();
    // What it stands on is waited for before anything of it is told: its own time begins then.
    let base = match &planned.base {
        Base::Stage(stage) => Some(build.stage(*stage).await?),
        _ => None,
    };
    announce(&build, index, first, from);
    let made = match based(&build, &planned.base, base, planned.platform.as_ref()).await {
        Ok(made) => made,
        Err(failure) => {
            build.say(Event::Failed { step: first });
            return Err(failure.at(from.at, from.last_line));
        }
    };
    // Those of a stage below are this one's, too, and go no further.
    let triggers = made.draft.image.container_config().on_build;
    // What a stage below has declared is seen here.
    let arguments = match &planned.base {
        Base::Stage(below) => build.declared(*below),
        _ => BTreeMap::new(),
    };
    let mut stage = Stage {
        build: Arc::clone(&build),
        index,
        parent: made.image(),
        made,
        arguments,
        fresh: build.request.no_cache || build.plan.is_among(index, &build.request.no_cache_filter),
        cmd_set: false,
        place: Some((from.at, from.last_line)),
        step: first,
        behind: None,
        waited: Duration::ZERO,
        spent: AtomicUsize::new(0),
    };
    stage.triggers(triggers, from).await?;
    // Nothing is no image, and what has a drawn name yet is told without an id.
    let id = (planned.base != Base::Scratch && stage.behind.is_none()).then_some(&stage.made);
    tell_done(&build, first, id, false, begun.elapsed());
    for instruction in &planned.instructions {
        stage.step += 1;
        stage.place = Some((instruction.at, instruction.last_line));
        announce(&build, index, stage.step, instruction);
        let begun = Instant::now();
        match stage.execute(instruction).await {
            Ok(outcome) => {
                let took = begun.elapsed().saturating_sub(std::mem::take(&mut stage.waited));
                stage.tell_cached(&outcome);
                let id = stage.behind.is_none().then_some(&outcome.made);
                tell_done(&build, stage.step, id, outcome.cached, took);
                stage.stands_on(outcome.made);
            }
            Err(failure) => {
                build.say(Event::Failed { step: stage.step });
                return Err(failure.at(instruction.at, instruction.last_line));
            }
        }
    }
    stage.settle().await?;
    let id = stage.made.image().map(|id| id.to_string()).unwrap_or_default();
    build.say(Event::Stage { stage: build.among.stages_before + index, id });
    build.declares(index, stage.arguments);
    Ok(stage.made)
}

fn announce(build: &Build, index: usize, step: usize, instruction: &Instruction) {
    let planned = &build.plan.stages[index];
    let steps = 1 + planned.instructions.len();
    let first = planned.instructions.iter().position(|one| one == instruction).map_or(1, |at| at + 2);
    build.say(Event::Step {
        step,
        total: build.among.steps,
        stage: build.among.stages_before + index,
        name: format!("{} {first}/{steps}", build.among.name_of(index, &build.plan)),
        text: instruction.text.clone(),
    });
}

fn tell_done(build: &Build, step: usize, made: Option<&Made>, cached: bool, took: Duration) {
    let seconds = took.as_secs_f64();
    let id = made.map(|made| made.draft.image.id.to_string()).unwrap_or_default();
    build.say(Event::Done { step, id, cached, seconds });
}

/// What a stage stands on.
async fn based(
    build: &Arc<Build>,
    base: &Base,
    stage: Option<Made>,
    platform: Option<&Platform>,
) -> Result<Made> {
    build.check()?;
    match (base, stage) {
        (Base::Stage(_), Some(made)) => Ok(made),
        (Base::Stage(_), None) => Err(Failure::system("build a stage", "the one below it is not there")),
        (Base::Image(name), _) => build.image(name, platform).await,
        (Base::Context(name), _) => {
            let scratch = Box::pin(based(build, &Base::Scratch, None, platform)).await?;
            Box::pin(build.on_named(name, scratch, platform)).await
        }
        (Base::Scratch, _) => {
            let platform =
                platform.or(build.request.platform.as_ref()).cloned().unwrap_or_else(Platform::host);
            let config = ImageConfig {
                os: platform.os.clone(),
                architecture: platform.architecture.clone(),
                variant: platform.variant.clone(),
                config: Some(hull_image::ContainerConfig {
                    env: vec![format!("PATH={DEFAULT_PATH}")],
                    ..hull_image::ContainerConfig::default()
                }),
                ..ImageConfig::default()
            };
            let key =
                build.base_key("scratch").with_all([&platform.os, &platform.architecture, &platform.variant]);
            Ok(Made { draft: build.engine.images.draft(config)?, key: key.finish() })
        }
    }
}

/// Applies a change of the configuration, or finds that it was applied before.
pub(crate) fn changed(build: &Build, made: &Made, change: &Change, fresh: bool) -> Result<(Made, bool)> {
    let words = change.words(&made.draft.image.container_config());
    let doing = Doing { words, ..Doing::default() };
    let key = change_key(made, change, &doing.line());
    if let Some(draft) = cached(build, &key, fresh)? {
        return Ok((Made { draft, key }, true));
    }
    let draft = next(build, &made.draft, &doing, None, |config| change.apply(config))?;
    build.keep(&key, &draft, &doing, 0)?;
    Ok((Made { draft, key }, false))
}

/// What a step of this key made before, unless it is to be made anew. What this very build has made is as new as can be.
pub(crate) fn cached(build: &Build, key: &Digest, fresh: bool) -> Result<Option<Draft>> {
    if fresh && !build.has_done(key) { Ok(None) } else { build.kept(key) }
}

/// The next image: a line of the history more, and a layer where there is one.
pub(crate) fn next(
    build: &Build,
    draft: &Draft,
    doing: &Doing,
    layer: Option<&Layer>,
    change: impl FnOnce(&mut ImageConfig) -> Result<()>,
) -> Result<Draft> {
    let mut config = draft.image.config.clone();
    change(&mut config)?;
    let now = build.now();
    config.history.push(History {
        created: Some(now.clone()),
        created_by: doing.line(),
        empty_layer: layer.is_none(),
        ..History::default()
    });
    config.rootfs.diff_ids.extend(layer.map(|layer| layer.diff_id));
    config.created = Some(now);
    // These are the base's: who made it, of what.
    config.made_of(String::new(), None);
    config.docker_version.clear();
    config.comment.clear();
    if let Some(config) = &mut config.config {
        config.extra.remove("Image");
    }
    if build.request.classic {
        doing.note_in(&mut config, build.epoch.is_some())?;
    }
    let env = config.config.as_ref().map(|config| &config.env[..]).unwrap_or_default();
    fits("the variables of the image", env.iter().map(String::as_str)).map_err(Failure::invalid)?;
    let draft = build.engine.images.draft(config)?;
    let length = draft.image.raw_config.len();
    if length > CONFIG_LIMIT {
        return Err(Failure::invalid(format!(
            "the image's configuration comes to {length} bytes: with more than {CONFIG_LIMIT} it could not be pulled again"
        )));
    }
    Ok(draft)
}

impl Build {
    /// The time that images get: the request's, where it wants the same image again, or now.
    pub(crate) fn now(&self) -> String {
        let asked = self.epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        asked.unwrap_or_else(jiff::Timestamp::now).to_string()
    }
}

impl Stage {
    /// The instructions that the base image holds for who builds on it.
    async fn triggers(&mut self, triggers: Vec<String>, from: &Instruction) -> Result<()> {
        if triggers.is_empty() {
            return Ok(());
        }
        self.build.say(Event::Triggers { step: self.step, count: triggers.len() });
        // They are not the new image's.
        let mut config = self.made.draft.image.config.clone();
        config.config.get_or_insert_default().on_build.clear();
        self.made.draft = self.build.engine.images.draft(config)?;
        self.made.key = Key::of("triggered").with(self.made.key.to_string()).finish();
        for text in triggers {
            let wrong = |message: String| Failure::invalid(format!("ONBUILD {text}: {message}"));
            let instruction = parse_trigger(&text).map_err(|mistake| wrong(mistake.message))?;
            let outcome =
                self.execute(&instruction).await.map_err(|failure| failure.at(from.at, from.last_line));
            match outcome {
                Ok(outcome) => {
                    self.tell_cached(&outcome);
                    self.stands_on(outcome.made);
                }
                Err(failure) => {
                    self.build.say(Event::Failed { step: self.step });
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// What the next step is done on.
    fn stands_on(&mut self, made: Made) {
        self.parent = made.image();
        self.made = made;
    }

    /// Tells clients of the classic builder that what a step does was done before.
    fn tell_cached(&self, outcome: &Outcome) {
        if outcome.cached && self.build.request.classic {
            self.build.say(Event::Cached { step: self.step });
        }
    }

    /// The value of a variable.
    fn value(&self, name: &str) -> Option<String> {
        let config = self.made.draft.image.config.config.as_ref();
        let env = config.map(|config| &config.env[..]).unwrap_or_default();
        let of = |entry: &String| {
            entry.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        env.iter()
            .find_map(of)
            .or_else(|| self.arguments.get(name).cloned().flatten())
            .or_else(|| (name == "PATH").then(|| DEFAULT_PATH.to_owned()))
    }

    /// Expands words with the variables of this stage.
    pub(crate) fn expanded(&self, text: &str) -> Result<String> {
        self.expand(|expander| expander.word(text))
    }

    /// Expands a document.
    pub(crate) fn expanded_document(&self, text: &str) -> Result<String> {
        self.expand(|expander| expander.document(text))
    }

    /// Expands something, and counts it to what the instruction comes to.
    fn expand(&self, text: impl FnOnce(&Expander<'_>) -> Result<String, String>) -> Result<String> {
        let value = |name: &str| self.value(name);
        let expander =
            Expander::new(self.build.plan.escape, &value).after(self.spent.load(Ordering::Relaxed));
        let expanded = text(&expander).map_err(Failure::invalid);
        self.spent.store(expander.spent(), Ordering::Relaxed);
        expanded
    }

    /// The arguments that a command sees, `NAME=value`: what the environment has already is not among them.
    pub(crate) fn visible_arguments(&self) -> Vec<String> {
        let config = self.made.draft.image.container_config();
        let has = |name: &str| config.env.iter().any(|entry| entry.split('=').next() == Some(name));
        self.arguments
            .iter()
            .filter(|(name, _)| !has(name))
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={value}")))
            .collect()
    }

    /// The arguments that every command sees, and that change nothing of what it does.
    pub(crate) fn predefined_arguments(&self) -> Vec<String> {
        let given = PREDEFINED.iter().filter(|name| !self.arguments.contains_key(**name));
        given
            .filter_map(|name| {
                let value = self.build.request.build_args.get(*name)?.as_ref()?;
                Some(format!("{name}={value}"))
            })
            .collect()
    }

    async fn execute(&mut self, instruction: &Instruction) -> Result<Outcome> {
        self.build.check()?;
        self.spent.store(0, Ordering::Relaxed);
        match &instruction.kind {
            // Boxed: what these keep over their awaits is large, and the daemon's threads have small stacks.
            Kind::Run(run) => Box::pin(self.run(run)).await,
            Kind::Copy(copy) => Box::pin(self.copy(copy, None)).await,
            Kind::Add(add) => Box::pin(self.copy(&add.copy, Some(add))).await,
            Kind::Arg(arguments) => {
                let change = self.argument(arguments)?;
                self.apply(&change).await
            }
            kind => {
                let config = self.made.draft.image.container_config();
                let change = {
                    let value = |name: &str| self.value(name);
                    let expander = Expander::new(self.build.plan.escape, &value);
                    metadata::change(kind, &config, &expander, self.cmd_set)?
                };
                let Some(change) = change else {
                    return Err(Failure::invalid(format!("{} is not expected here", instruction.keyword)));
                };
                self.cmd_set |= matches!(change, Change::Cmd(_));
                if let Change::Workdir(path) = &change {
                    return Box::pin(self.workdir(path, &change)).await;
                }
                self.apply(&change).await
            }
        }
    }

    /// Applies a change of the configuration.
    async fn apply(&mut self, change: &Change) -> Result<Outcome> {
        match self.build.request.classic {
            true => Box::pin(self.committed(change)).await,
            false => self.changed(change),
        }
    }

    /// Applies a change of the configuration to what was made so far.
    fn changed(&mut self, change: &Change) -> Result<Outcome> {
        let Some(behind) = &mut self.behind else {
            let (made, cached) = changed(&self.build, &self.made, change, self.fresh)?;
            return Ok(Outcome { made, cached, borrowed: false });
        };
        // Nothing was done before on what has only just been made.
        let words = change.words(&self.made.draft.image.container_config());
        let doing = Doing { words, ..Doing::default() };
        let key = change_key(&self.made, change, &doing.line());
        let draft = next(&self.build, &self.made.draft, &doing, None, |config| change.apply(config))?;
        behind.note(key, &draft, doing);
        Ok(Outcome { made: Made { draft, key }, cached: false, borrowed: false })
    }

    /// ARG: a value for what follows, and a line of the history.
    fn argument(&mut self, arguments: &[(String, Option<String>)]) -> Result<Change> {
        let platforms = platform_arguments(&self.build.request);
        let mut shown = Vec::new();
        for (name, default) in arguments {
            let default = default.as_ref().map(|default| self.expanded(default)).transpose()?;
            shown.push(match &default {
                Some(default) => format!("{name}={default}"),
                None => name.clone(),
            });
            let given = self.build.request.build_args.get(name).cloned().flatten();
            let global = self.build.plan.globals.get(name).cloned().flatten();
            let value = given.or(default).or(global).or_else(|| platforms.get(name).cloned());
            self.arguments.insert(name.clone(), value);
            self.build.consumed.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        }
        fits("the arguments of the stage", self.arguments.values().flatten().map(String::as_str))
            .map_err(Failure::invalid)?;
        Ok(Change::Arg(shown.join(" ")))
    }

    /// Waits for the stage that `from` names, if it is one. Its time is its own steps'.
    pub(crate) async fn wait_for(&mut self, from: &str) -> Result<()> {
        let Some(stage) = self.build.plan.earlier(self.index, from) else { return Ok(()) };
        let begun = Instant::now();
        let made = self.build.stage(stage).await;
        self.waited += begun.elapsed();
        made.map(drop)
    }

    /// Waits until no other does the step of this key; who reads is told that this is waited for.
    pub(crate) async fn turn(&mut self, key: Digest) -> Turn {
        let underway = &self.build.places.underway;
        let key = self.build.turn_key(key, self.fresh);
        if let Some(turn) = underway.try_turn(key) {
            return turn;
        }
        let text =
            "this step is being done already, by another build or another stage: waiting for it\n".to_owned();
        self.build.say(Event::Output { step: self.step, text, error: false });
        let begun = Instant::now();
        let turn = underway.turn(key).await;
        self.waited += begun.elapsed();
        turn
    }

    /// Enters what a step did: the next image, kept under its key.
    pub(crate) async fn entered(
        &mut self,
        key: Digest,
        doing: Doing,
        taken: Option<Taken>,
        turn: Option<Turn>,
        change: impl FnOnce(&mut ImageConfig) -> Result<()>,
    ) -> Result<Outcome> {
        let unnamed = match taken {
            Some(Taken::Unnamed(layer)) => layer,
            Some(Taken::Layer(layer, _held)) => return self.enter(key, doing, Some(&layer), change),
            None => return self.enter(key, doing, None, change),
        };
        let draft = next(&self.build, &self.made.draft, &doing, Some(unnamed.layer()), change)?;
        let follows = self.behind.is_some() || self.may_follow(&draft.image.config);
        let step = behind::Step { key, doing, draft: draft.clone(), layer: unnamed, place: self.place, turn };
        self.behind = Some(behind::follow(&self.build, self.behind.take(), step));
        let draft = if follows { draft } else { self.settled(&draft).await? };
        Ok(Outcome { made: Made { draft, key }, cached: false, borrowed: false })
    }

    /// The same of a step without a layer, or with one that has its digest.
    fn enter(
        &mut self,
        key: Digest,
        doing: Doing,
        layer: Option<&Layer>,
        change: impl FnOnce(&mut ImageConfig) -> Result<()>,
    ) -> Result<Outcome> {
        let draft = next(&self.build, &self.made.draft, &doing, layer, change)?;
        match &mut self.behind {
            Some(behind) => behind.note(key, &draft, doing),
            None => {
                self.build.keep(&key, &draft, &doing, layer.map_or(0, |layer| layer.size))?;
                self.build.has_made(key);
            }
        }
        Ok(Outcome { made: Made { draft, key }, cached: false, borrowed: false })
    }

    /// What a step of this key made before.
    pub(crate) fn kept(&self, key: Digest) -> Result<Option<Outcome>> {
        let draft = cached(&self.build, &key, self.fresh)?;
        Ok(draft.map(|draft| Outcome { made: Made { draft, key }, cached: true, borrowed: false }))
    }

    /// What a step of this key made before, also as a step of an image that the request names: that image's layer, and
    /// the step's own change of the configuration.
    pub(crate) fn found(
        &self,
        key: Digest,
        created_by: &str,
        change: impl Fn(&mut ImageConfig) -> Result<()>,
    ) -> Result<Option<Outcome>> {
        if let Some(outcome) = self.kept(key)? {
            return Ok(Some(outcome));
        }
        if self.fresh {
            return Ok(None);
        }
        for draft in self.build.cache.get().into_iter().flatten() {
            let (so_far, other) = (&self.made.draft.image.config, &draft.image.config);
            if let Some(mut config) = continued(so_far, other, created_by) {
                let is_all = self.build.request.classic && other.history.len() == config.history.len();
                // What was made at another time has other times in it.
                if self.build.epoch.is_some() && config.created != Some(self.build.now()) {
                    continue;
                }
                change(&mut config)?;
                let key = borrowed(key, &self.made.draft.image.config, &config);
                // As Docker does: where that was the image's last step, it is that image.
                let draft = if is_all { draft.clone() } else { self.build.engine.images.draft(config)? };
                if self.build.request.classic {
                    self.build.keep(&key, &draft, &self.doing(Vec::new()), 0)?;
                }
                return Ok(Some(Outcome { made: Made { draft, key }, cached: true, borrowed: true }));
            }
        }
        Ok(None)
    }
}
