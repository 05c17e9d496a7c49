//! What was built leaves: each output is a step of its own behind those of the Dockerfile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use hull_engine::Kind;
use hull_engine::model::CreateBody;
use hull_image::archive;
use hull_image::config::History;
use hull_image::dress::{Dress, Part};
use hull_image::reference::Reference;
use hull_image::{Draft, Image, Platform, Store};
use serde_json::{Value, json};

use crate::build::{Build, Made};
use crate::copying::blocking;
use crate::failure::{Failure, Result};
use crate::intermediate::Doing;
use crate::key::Key;
use crate::named::Named;
use crate::output::{self, Archive, Output};
use crate::plan::Base;
use crate::progress::{Event, Sink, TakesArchive};

/// One way out.
enum Way {
    Push(Reference),
    Archive(usize, Archive),
}

/// What a build made, on its way out: of several platforms each is a build of its own.
pub(crate) struct Leaving {
    pub(crate) build: Arc<Build>,
    pub(crate) draft: Draft,
}

impl Leaving {
    /// The folder of its files, where those of other platforms are beside them.
    fn folder(&self) -> String {
        Platform::of(&self.draft.image.config).to_string().replace('/', "_")
    }
}

/// What is told of what was made, under BuildKit's names for it.
pub(crate) type Told = BTreeMap<String, Value>;

impl Build {
    /// What stays on this machine; none: it is asked for in other places alone. Of several platforms' images it is this
    /// machine's, for a name means one.
    pub(crate) fn staying<'a>(&self, all: &'a [Leaving]) -> Option<&'a Leaving> {
        let mut outputs = self.request.outputs.iter().filter(|output| !output.cache).peekable();
        if outputs.peek().is_some() && outputs.all(|output| output.archive.is_some() || output.nowhere) {
            return None;
        }
        match all {
            [one] => Some(one),
            several => several.iter().find(|one| one.draft.image.is_for(&Platform::host())),
        }
    }

    /// Whether some output has a place for what is attested.
    fn goes_with_statements(&self) -> bool {
        let outputs = &mut self.request.outputs.iter().filter(|output| !output.cache);
        outputs.any(|output| output.push || output.archive == Some(Archive::Oci))
    }

    /// Sends images, one for each platform, where the request wants them; what is told of them then.
    pub(crate) async fn exported(self: &Arc<Build>, all: &[Leaving]) -> Result<Told> {
        let Some(first) = all.first() else { return Ok(Told::new()) };
        let attested = self.request.attest.any() && self.goes_with_statements();
        let mut parts = Vec::new();
        for one in all {
            let statements = match attested {
                true => Box::pin(one.build.statements(&one.draft)).await?,
                false => Vec::new(),
            };
            parts.push(Part { image: Arc::clone(&one.draft.image), statements });
        }
        let one = (!self.request.indexed).then_some(&*first.draft.image);
        let mut told = output::told(one, &self.names);
        let total = self.among.steps;
        let stages = all.iter().map(|one| one.build.plan.stages.len()).sum();
        let mut ways = Vec::new();
        for (number, output) in self.request.outputs.iter().enumerate() {
            if let Some(archive) = output.archive {
                ways.push((output, Way::Archive(number, archive)));
            }
            if output.push {
                ways.extend(output.names.iter().map(|name| (output, Way::Push(name.clone()))));
            }
        }
        for (at, (output, way)) in ways.into_iter().enumerate() {
            let step = total + 1 + at;
            self.say(Event::Step {
                step,
                total,
                stage: stages,
                name: "export".to_owned(),
                text: match &way {
                    _ if output.mounts => "exporting cache mounts".to_owned(),
                    _ if output.cache => "exporting cache".to_owned(),
                    Way::Push(name) => format!("pushing {name}"),
                    Way::Archive(_, Archive::Files) => "sending the files".to_owned(),
                    Way::Archive(_, Archive::Docker) => "sending the image as a Docker archive".to_owned(),
                    Way::Archive(_, Archive::Oci) => "sending the image as an OCI layout".to_owned(),
                },
            });
            let begun = Instant::now();
            let goes = match (output.cache, output.dress.stages) {
                (false, _) => parts.clone(),
                (true, false) => all.iter().map(|one| Part::plain(&one.draft.image)).collect(),
                (true, true) => stages_of(all),
            };
            let exported = match way {
                _ if output.mounts => Box::pin(self.mounts_sent(all, output, way, step)).await,
                Way::Push(name) => Box::pin(self.pushed(goes, output, &name, step)).await,
                Way::Archive(number, Archive::Files) => Box::pin(self.files_sent(all, output, number)).await,
                Way::Archive(number, kind) => Box::pin(self.sent(goes, output, number, kind)).await,
            };
            match exported {
                Ok(_) if output.mounts => {}
                Ok(_) if output.cache && output.push => {}
                Ok(sent) if output.cache => {
                    // As BuildKit's clients look for what to write into the index of a folder: what a registry has is another.
                    let manifest = sent.get("containerimage.descriptor").cloned();
                    told.extend(manifest.map(|manifest| ("cache.manifest".to_owned(), manifest)));
                }
                Ok(pushed) => told.extend(pushed),
                Err(failure) => {
                    self.say(Event::Failed { step });
                    return Err(failure);
                }
            }
            let seconds = begun.elapsed().as_secs_f64();
            let id = if output.mounts { String::new() } else { first.draft.image.id.to_string() };
            self.say(Event::Done { step, id, cached: false, seconds });
        }
        Ok(told)
    }

    /// What goes with the images of an output.
    fn dress(&self, output: &Output) -> Dress {
        Dress { indexed: self.request.indexed && !output.cache, ..output.dress.clone() }
    }

    /// Where an output goes that is sent to whoever asks.
    pub(crate) fn sink(&self, number: usize) -> Result<Sink> {
        self.check()?;
        self.tell.output(number).ok_or_else(|| {
            Failure::invalid(
                "who asks for this build takes no archives: use hull's own client, or save the image",
            )
        })
    }

    /// The same of an output that is an archive.
    pub(crate) fn archive_sink(&self, number: usize) -> Result<Box<dyn TakesArchive>> {
        match self.sink(number)? {
            Sink::Archive(out) => Ok(out),
            Sink::Files(_) => {
                Err(Failure::invalid("an image is sent as an archive, and files are asked for"))
            }
        }
    }

    /// Sends the files of images to whoever asks: those of several platforms each in a folder of its own, unless they are to be
    /// in one.
    async fn files_sent(self: &Arc<Build>, all: &[Leaving], output: &Output, number: usize) -> Result<Told> {
        let split = output.split.unwrap_or(self.request.indexed);
        let mut opened = Vec::new();
        for one in all {
            let step = Box::pin(one.build.step(&one.draft, CreateBody::default())).await?;
            let view = Box::pin(step.view()).await?;
            opened.push((step, view, one.draft.clone(), split.then(|| one.folder())));
        }
        if !split && opened.len() > 1 {
            let images = Arc::clone(&self.engine.images);
            opened = blocking("look at the files", move || {
                apart(&images, opened.iter().map(|(_, view, draft, _)| (view.root(), &*draft.image)))?;
                Ok(opened)
            })
            .await?;
        }
        let mut archive: Option<FilesArchive> = None;
        for (step, view, draft, folder) in opened {
            let sink = match archive.take() {
                None => self.sink(number)?,
                Some(archive) => Sink::Archive(Box::new(archive)),
            };
            let images = Arc::clone(&self.engine.images);
            let (view, rest) = blocking("send the files", move || {
                let without = images.only_mounted_on(&draft.image)?;
                let rest = match sink {
                    Sink::Archive(out) => {
                        let mut archive = FilesArchive(out);
                        archive::export_files(view.root(), without, folder.as_deref(), &mut archive)?;
                        Some(archive)
                    }
                    Sink::Files(files) => {
                        files.take(view.root(), &without, folder.as_deref()).map_err(taken)?;
                        None
                    }
                };
                Ok((view, rest))
            })
            .await?;
            archive = rest;
            view.close().await;
            step.remove().await;
        }
        if let Some(FilesArchive(mut out)) = archive {
            let end = move || {
                archive::end_files(&mut out)?;
                out.finish().map_err(taken)
            };
            blocking("send the files", end).await?;
        }
        Ok(Told::new())
    }

    /// Sends an archive of images to whoever asks.
    async fn sent(
        self: &Arc<Build>,
        parts: Vec<Part>,
        output: &Output,
        number: usize,
        kind: Archive,
    ) -> Result<Told> {
        let mut out = self.archive_sink(number)?;
        let images = Arc::clone(&self.engine.images);
        let (names, dress) = (output.names.clone(), self.dress(output));
        let descriptor = blocking("send the image", move || {
            let docker = kind == Archive::Docker;
            let descriptor = images.save_built(&parts, &names, &dress, docker, &mut *out)?;
            out.finish().map_err(taken)?;
            Ok(descriptor)
        });
        let descriptor = descriptor.await?;
        let digest = descriptor["digest"].clone();
        Ok(Told::from([
            ("containerimage.digest".to_owned(), digest),
            ("containerimage.descriptor".to_owned(), descriptor),
        ]))
    }

    /// All layers of the build as one, above those that it stands on; where the request wants that.
    pub(crate) async fn squashed(self: &Arc<Build>, made: Made) -> Result<Made> {
        if !self.request.squash {
            return Ok(made);
        }
        let base = self.base_layers(self.plan.target).await?;
        let mut config = made.draft.image.config.clone();
        if config.rootfs.diff_ids.len() <= base {
            return Ok(made);
        }
        let key = Key::of("squashed").with(made.draft.image.id.to_string()).with(base.to_le_bytes()).finish();
        if let Some(draft) = crate::stage::cached(self, &key, self.request.no_cache)? {
            return Ok(Made { draft, key });
        }
        let step = Box::pin(self.step(&made.draft, CreateBody::default())).await?;
        let view = Box::pin(step.view()).await?;
        let (images, image) = (Arc::clone(&self.engine.images), Arc::clone(&made.draft.image));
        let (view, sealed) = blocking("make one layer of several", move || {
            let sealed = images.squash(&image, base, view.root())?;
            Ok((view, sealed))
        })
        .await?;
        view.close().await;
        step.remove().await;
        let layer = sealed.as_ref().map(|(layer, _)| layer);
        config.rootfs.diff_ids.truncate(base);
        config.rootfs.diff_ids.extend(layer.map(|layer| layer.diff_id));
        // As in Docker: what the steps were stays to be read, and one line more has their layer.
        let mut layers = 0;
        for line in config.history.iter_mut().filter(|line| !line.empty_layer) {
            layers += 1;
            line.empty_layer = layers > base;
        }
        config.history.push(History {
            created: config.created.clone(),
            comment: format!("merge {} to one layer", made.draft.image.id),
            empty_layer: layer.is_none(),
            ..History::default()
        });
        let draft = self.engine.images.draft(config)?;
        let size = layer.map_or(0, |layer| layer.size);
        let doing = Doing { words: vec!["all layers of a build as one".to_owned()], ..Doing::default() };
        self.keep(&key, &draft, &doing, size)?;
        Ok(Made { draft, key })
    }

    /// How many layers what a stage stands on has.
    async fn base_layers(self: &Arc<Build>, mut stage: usize) -> Result<usize> {
        loop {
            let planned = &self.plan.stages[stage];
            let image = match &planned.base {
                Base::Stage(below) => {
                    stage = *below;
                    continue;
                }
                Base::Scratch => return Ok(0),
                Base::Image(name) => name,
                Base::Context(name) => match self.request.named(name) {
                    Some(Named::Image(image)) => image,
                    Some(Named::Given(draft)) => return Ok(draft.image.layers.len()),
                    _ => return Ok(0),
                },
            };
            return Ok(self.image(image, planned.platform.as_ref()).await?.draft.image.layers.len());
        }
    }

    /// An error where the daemon may send nothing to a registry.
    fn may_push(&self, name: &Reference) -> Result<()> {
        self.check()?;
        if self.request.may_fetch {
            return Ok(());
        }
        Err(Failure::new(
            Kind::Forbidden,
            format!(
                "push {name}: the daemon sends it from the host's network, which this socket refuses to builds; push the \
                 image when it is built"
            ),
        ))
    }

    /// Who tells how far a push has come.
    pub(crate) fn push_teller(self: &Arc<Build>, step: usize) -> hull_image::registry::Tell {
        let build = Arc::clone(self);
        Arc::new(move |told: hull_image::registry::Step| {
            // How far a layer has come is for who watches alone.
            if told.progress.is_none() {
                let text = format!("{}: {}\n", told.id, told.status);
                build.say(Event::Output { step, text, error: false });
            }
        })
    }

    async fn pushed(
        self: &Arc<Build>,
        parts: Vec<Part>,
        output: &Output,
        name: &Reference,
        step: usize,
    ) -> Result<Told> {
        self.may_push(name)?;
        let (who, tell) = (self.credentials(&name.domain), self.push_teller(step));
        let sent = self.engine.push_built(&parts, name, &who, &self.dress(output), tell).await?;
        let shown = if output.dress.by_digest { name.familiar_name() } else { name.familiar() };
        let text = format!("{shown}: digest: {} size: {}\n", sent.digest, sent.size);
        self.say(Event::Output { step, text, error: false });
        let descriptor = json!({ "mediaType": sent.media_type, "digest": sent.digest, "size": sent.size });
        Ok(Told::from([
            ("containerimage.digest".to_owned(), json!(sent.digest)),
            ("containerimage.descriptor".to_owned(), descriptor),
        ]))
    }

    /// Sends the cache mounts that the build used.
    async fn mounts_sent(
        self: &Arc<Build>,
        all: &[Leaving],
        output: &Output,
        way: Way,
        step: usize,
    ) -> Result<Told> {
        if let Way::Push(name) = &way {
            self.may_push(name)?;
        }
        let artifact = Box::pin(self.mounts_packed(all, output.dress.compress, step)).await?;
        match way {
            Way::Push(name) => {
                let (who, tell) = (self.credentials(&name.domain), self.push_teller(step));
                self.engine.push_artifact(&artifact, &name, &who, tell).await?;
            }
            Way::Archive(number, _) => {
                let mut out = self.archive_sink(number)?;
                let written = move || {
                    artifact.write_layout(&mut *out)?;
                    out.finish().map_err(taken)
                };
                blocking("send the cache mounts", written).await?;
            }
        }
        Ok(Told::new())
    }
}

/// The images of all stages, from which steps are taken again: the targets' before those that they are made of.
fn stages_of(all: &[Leaving]) -> Vec<Part> {
    let mut parts: Vec<Part> = all.iter().map(|one| Part::plain(&one.draft.image)).collect();
    for one in all {
        let plan = &one.build.plan;
        let with_steps = plan.needed.iter().filter(|stage| !plan.stages[**stage].instructions.is_empty());
        for stage in with_steps {
            if let Some(Ok(made)) = one.build.stages[*stage].get() {
                parts.push(Part::plain(&made.draft.image));
            }
        }
    }
    let mut seen = HashSet::new();
    parts.retain(|part| seen.insert(part.image.id));
    parts
}

fn taken(error: std::io::Error) -> Failure {
    Failure::system("send the output", error)
}

/// An error where a file of one platform would take the place of another's in the one folder that all go to.
fn apart<'a>(images: &Store, all: impl Iterator<Item = (BorrowedFd<'a>, &'a Image)>) -> Result<()> {
    let failed = |error| Failure::system("look at the files", error);
    let mut of: HashMap<PathBuf, Platform> = HashMap::new();
    for (root, image) in all {
        // Nothing runs in it: what is a folder stays one.
        let root = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        let platform = Platform::of(&image.config);
        let without = images.only_mounted_on(image)?;
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(root.join(&folder)).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = folder.join(entry.file_name());
                if without.contains(path.as_os_str().as_encoded_bytes()) {
                    continue;
                }
                if entry.file_type().map_err(failed)?.is_dir() {
                    folders.push(path);
                } else if let Some(other) = of.insert(path.clone(), platform.clone()) {
                    return Err(Failure::invalid(format!(
                        "cannot overwrite /{} from {other} with {platform} when split option is disabled: leave platform-split=false \
                         away, and each platform has a folder of its own",
                        path.display()
                    )));
                }
            }
        }
    }
    Ok(())
}

/// An archive of files that is not at its end yet.
struct FilesArchive(Box<dyn TakesArchive>);

impl std::io::Write for FilesArchive {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl TakesArchive for FilesArchive {
    fn finish(self: Box<Self>) -> std::io::Result<()> {
        self.0.finish()
    }
}
