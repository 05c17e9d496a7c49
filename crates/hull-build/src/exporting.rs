//! What was built leaves: each output is a step of its own behind those of the Dockerfile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hull_engine::Kind;
use hull_engine::model::CreateBody;
use hull_image::config::History;
use hull_image::dress::Dress;
use hull_image::reference::Reference;
use hull_image::{Draft, Image};
use serde_json::{Value, json};

use crate::build::{Build, Made};
use crate::copying::blocking;
use crate::failure::{Failure, Result};
use crate::intermediate::Doing;
use crate::key::Key;
use crate::named::Named;
use crate::output::{self, Archive, Output};
use crate::plan::Base;
use crate::progress::{Event, Sink};

/// One way out.
enum Way {
    Push(Reference),
    Archive(usize, Archive),
}

/// What is told of what was made, under BuildKit's names for it.
pub(crate) type Told = BTreeMap<String, Value>;

impl Build {
    /// Whether the image is asked for in other places alone.
    pub(crate) fn stays_nowhere(&self) -> bool {
        let mut outputs = self.request.outputs.iter().filter(|output| !output.cache).peekable();
        outputs.peek().is_some() && outputs.all(|output| output.archive.is_some() || output.nowhere)
    }

    /// Whether some output has a place for what is attested.
    fn goes_with_statements(&self) -> bool {
        let outputs = &mut self.request.outputs.iter().filter(|output| !output.cache);
        outputs.any(|output| output.push || output.archive == Some(Archive::Oci))
    }

    /// Sends an image where the request wants it; what is told of it then.
    pub(crate) async fn exported(self: &Arc<Build>, draft: &Draft) -> Result<Told> {
        let image = &draft.image;
        let statements = match self.request.attest.any() && self.goes_with_statements() {
            true => Box::pin(self.statements(draft)).await?,
            false => Vec::new(),
        };
        let mut told = output::told(image, &self.names);
        let total = self.plan.steps();
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
                stage: self.plan.stages.len(),
                name: "export".to_owned(),
                text: match &way {
                    _ if output.cache => "exporting cache".to_owned(),
                    Way::Push(name) => format!("pushing {name}"),
                    Way::Archive(_, Archive::Files) => "sending the files".to_owned(),
                    Way::Archive(_, Archive::Docker) => "sending the image as a Docker archive".to_owned(),
                    Way::Archive(_, Archive::Oci) => "sending the image as an OCI layout".to_owned(),
                },
            });
            let begun = Instant::now();
            let statements = if output.cache { Vec::new() } else { statements.clone() };
            let dress = Dress { statements, unnamed: output.cache, ..output.dress.clone() };
            let output = &Output { dress, ..output.clone() };
            let exported = match way {
                Way::Push(name) => Box::pin(self.pushed(image, output, &name, step)).await,
                Way::Archive(number, kind) => Box::pin(self.sent(draft, output, number, kind)).await,
            };
            match exported {
                Ok(sent) if output.cache => {
                    // As BuildKit's clients look for what to write into the index of a folder.
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
            self.say(Event::Done { step, id: image.id.to_string(), cached: false, seconds });
        }
        Ok(told)
    }

    /// Sends an archive to whoever asks.
    async fn sent(
        self: &Arc<Build>,
        draft: &Draft,
        output: &Output,
        number: usize,
        kind: Archive,
    ) -> Result<Told> {
        self.check()?;
        let taken = |error| Failure::system("send the output", error);
        let sink = self.tell.output(number).ok_or_else(|| {
            Failure::invalid(
                "who asks for this build takes no archives: use hull's own client, or save the image",
            )
        })?;
        let (images, image) = (Arc::clone(&self.engine.images), Arc::clone(&draft.image));
        if kind == Archive::Files {
            let step = Box::pin(self.step(draft, CreateBody::default())).await?;
            let view = Box::pin(step.view()).await?;
            let view = blocking("send the files", move || {
                match sink {
                    Sink::Archive(mut out) => {
                        images.export_built(&image, view.root(), &mut *out)?;
                        out.finish().map_err(taken)?;
                    }
                    Sink::Files(files) => {
                        let without = images.only_mounted_on(&image)?;
                        files.take(view.root(), &without).map_err(taken)?;
                    }
                }
                Ok(view)
            });
            view.await?.close().await;
            step.remove().await;
            return Ok(Told::new());
        }
        let Sink::Archive(mut out) = sink else {
            return Err(Failure::invalid("an image is sent as an archive, and files are asked for"));
        };
        let (names, dress) = (output.names.clone(), output.dress.clone());
        let descriptor = blocking("send the image", move || {
            let docker = kind == Archive::Docker;
            let descriptor = images.save_built(&image, &names, &dress, docker, &mut *out)?;
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

    async fn pushed(
        self: &Arc<Build>,
        image: &Arc<Image>,
        output: &Output,
        name: &Reference,
        step: usize,
    ) -> Result<Told> {
        self.check()?;
        if !self.request.may_fetch {
            return Err(Failure::new(
                Kind::Forbidden,
                format!(
                    "push {name}: the daemon sends it from the host's network, which this socket refuses to builds; push the \
                     image when it is built"
                ),
            ));
        }
        let build = Arc::clone(self);
        let tell = Arc::new(move |told: hull_image::registry::Step| {
            // How far a layer has come is for who watches alone.
            if told.progress.is_none() {
                build.say(Event::Output {
                    step,
                    text: format!("{}: {}\n", told.id, told.status),
                    error: false,
                });
            }
        });
        let who = self.credentials(&name.domain);
        let sent = self.engine.push_built(image, name, &who, &output.dress, tell).await?;
        let text = format!("{}: digest: {} size: {}\n", name.familiar(), sent.digest, sent.size);
        self.say(Event::Output { step, text, error: false });
        let descriptor = json!({ "mediaType": sent.media_type, "digest": sent.digest, "size": sent.size });
        Ok(Told::from([
            ("containerimage.digest".to_owned(), json!(sent.digest)),
            ("containerimage.descriptor".to_owned(), descriptor),
        ]))
    }
}
