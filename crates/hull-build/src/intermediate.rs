//! What Docker's classic builder leaves of its steps: each is an image on that of the step before, and was made by a
//! container, which may stay.

use hull_engine::container::Step;
use hull_image::{Digest, Draft, ImageConfig, ImageId, Taken};

use crate::build::{Build, Made};
use crate::failure::Result;
use crate::key::Key;
use crate::metadata::Change;
use crate::progress::Event;
use crate::stage::{Outcome, Stage, next};

/// What a step did, as the history has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doing {
    /// The words of its command.
    pub(crate) words: Vec<String>,
    /// The container that it was done in; empty: none.
    pub(crate) container: String,
    /// The image that it was done on.
    pub(crate) parent: Option<ImageId>,
}

impl Doing {
    /// The same as a line of the history.
    pub(crate) fn line(&self) -> String {
        self.words.join(" ")
    }

    /// Says in a configuration how the image came to be, as Docker's images tell it. Of what is to be the same again the
    /// container has no name.
    pub(crate) fn note_in(&self, config: &mut ImageConfig, again: bool) -> Result<()> {
        env!("CARGO_PKG_VERSION").clone_into(&mut config.docker_version);
        let own = config.config.get_or_insert_default();
        let parent = self.parent.map(|parent| parent.to_string()).unwrap_or_default();
        own.extra.insert("Image".to_owned(), parent.into());
        let mut of_container = own.clone();
        of_container.cmd = Some(self.words.clone());
        let of_container = serde_json::to_value(&of_container).map_err(|error| {
            crate::failure::Failure::system("write the configuration of a step's container", error)
        })?;
        let container = if again { String::new() } else { self.container.clone() };
        config.made_of(container, Some(of_container));
        Ok(())
    }
}

impl Build {
    /// Keeps what a step made: under its key, or as an image.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn keep(&self, key: &Digest, draft: &Draft, doing: &Doing, size: u64) -> Result<()> {
        let images = &self.engine.images;
        match self.request.classic {
            true => images.enter_step(key, draft, doing.parent.as_ref()).map(drop)?,
            false => images.keep_step(key, draft, &doing.line(), size)?,
        }
        Ok(())
    }

    /// What was kept under a key.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn kept(&self, key: &Digest) -> Result<Option<Draft>> {
        let images = &self.engine.images;
        Ok(if self.request.classic { images.step_image(key)? } else { images.step(key)? })
    }
}

impl Stage {
    /// What this stage does next, in these words.
    pub(crate) fn doing(&self, words: Vec<String>) -> Doing {
        Doing { words, container: String::new(), parent: self.parent }
    }

    /// Applies a change of the configuration as Docker's classic builder does: in a container that never runs.
    pub(crate) async fn committed(&mut self, change: &Change) -> Result<Outcome> {
        let mut doing = self.doing(change.words(&self.made.draft.image.container_config()));
        let key = change_key(&self.made, change, &doing.line());
        if let Some(outcome) = self.found(key, &doing.line(), |config| change.apply(config))? {
            return Ok(outcome);
        }
        // Another stage of this build, or another build, may be doing it: then it is there when that is through.
        let underway = &self.build.places.underway;
        let _turn = underway.turn(self.build.turn_key(key, self.fresh)).await;
        if let Some(outcome) = self.kept(key)? {
            return Ok(outcome);
        }
        let step = Box::pin(self.container_of(&mut doing)).await?;
        let draft = next(&self.build, &self.made.draft, &doing, None, |config| change.apply(config))?;
        self.build.keep(&key, &draft, &doing, 0)?;
        self.build.has_made(key);
        Box::pin(self.part_with(step)).await?;
        Ok(Outcome { made: Made { draft, key }, cached: false, borrowed: false })
    }

    /// The container that tells what is done, and never runs. It may stay and be started then, so it is one that a policy has
    /// judged, as that of a command.
    pub(crate) async fn container_of(&self, doing: &mut Doing) -> Result<Step> {
        let mut body = self.body(doing.words.clone(), &[], None);
        body.config.volumes = None;
        let step = Box::pin(self.build.step(&self.made.draft, body)).await?;
        step.id().clone_into(&mut doing.container);
        self.tell_container(&step);
        Ok(step)
    }

    /// Tells in which container the step is done.
    pub(crate) fn tell_container(&self, step: &Step) {
        self.build.say(Event::Running { step: self.step, container: step.id().to_owned() });
    }

    /// The step's container has served: it stays where the request wants that.
    pub(crate) async fn part_with(&self, step: Step) -> Result<()> {
        if self.build.request.containers.stay {
            return Ok(step.keep()?);
        }
        self.removed(step).await;
        Ok(())
    }

    /// What the step's container changed. It is gone then, or stays where the request wants that and it may.
    pub(crate) async fn taken(&self, step: Step, may_stay: bool) -> Result<Option<Taken>> {
        if self.build.request.containers.stay && may_stay {
            return Ok(Box::pin(step.copied(self.build.epoch)).await?);
        }
        let container = step.id().to_owned();
        let taken = Box::pin(step.take(self.build.epoch)).await?;
        if self.build.request.classic {
            self.build.say(Event::Removed { step: self.step, container });
        }
        Ok(taken)
    }

    /// The step failed in its container: that stays where the request does not want it removed and it may. Where it cannot
    /// stay that is a warning: why the step failed is what is to be told.
    pub(crate) async fn failed_in(&self, step: Step, may_stay: bool) {
        if !self.build.request.containers.failed_stay || !may_stay {
            return self.removed(step).await;
        }
        let container = step.id().to_owned();
        if let Err(error) = step.keep() {
            tracing::warn!(container, %error, "the container of a step that failed could not be kept");
            let text = format!("the step's container {container} could not be kept: {error}");
            self.build.say(Event::Warning { text, excerpt: String::new() });
        }
    }

    async fn removed(&self, step: Step) {
        let container = step.id().to_owned();
        step.remove().await;
        if self.build.request.classic {
            self.build.say(Event::Removed { step: self.step, container });
        }
    }
}

/// By what a change of the configuration is known.
pub(crate) fn change_key(made: &Made, change: &Change, line: &str) -> Digest {
    let stays = matches!(change, Change::Entrypoint(_, true));
    Key::of("change").with(made.key.to_string()).with(line).with([u8::from(stays)]).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_tells_of_its_container() {
        let words = ["/bin/sh", "-c", "#(nop) ", "ENV a=b"].map(str::to_owned).to_vec();
        let parent = Digest::of(b"parent");
        let doing = Doing { words: words.clone(), container: "c".repeat(64), parent: Some(parent) };
        assert_eq!(doing.line(), "/bin/sh -c #(nop)  ENV a=b");
        let mut config = ImageConfig::default();
        config.config.get_or_insert_default().cmd = Some(vec!["own".to_owned()]);
        doing.note_in(&mut config, false).unwrap();
        assert_eq!(config.container, doing.container);
        assert_eq!(config.made_of_config().unwrap().cmd, Some(words));
        let own = config.config.clone().unwrap();
        assert_eq!(
            (own.cmd.unwrap(), own.extra["Image"].as_str()),
            (vec!["own".to_owned()], Some(parent.to_string().as_str()))
        );
        // What is to be the same again has no name in it that was drawn.
        doing.note_in(&mut config, true).unwrap();
        assert_eq!(config.container, "");
    }
}
