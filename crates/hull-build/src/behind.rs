//! Layers whose digests are computed while the next steps run: those need their files alone.
//!
//! A step's layer is moved to its place and gets a name that is drawn (`hull_image::Unnamed`); what follows in its stage
//! stands on that. Its digest is computed by a thread, one layer after the other, which keeps the step as soon as it is
//! there, whatever becomes of those that follow; only a build that is cancelled computes no more of them. A stage ends
//! when all its layers have their digests: nobody beyond it ever
//! sees a drawn name.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use hull_image::config::History;
use hull_image::{Digest, Draft, ImageConfig, Store, Unnamed};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::build::{Build, wanted};
use crate::dockerfile::Position;
use crate::failure::{Failure, Result};
use crate::intermediate::Doing;
use crate::stage::Stage;
use crate::underway::Turn;

/// The digests of layers, by the names that were drawn for them; and what holds these layers.
#[derive(Default)]
struct Names {
    digests: HashMap<Digest, Digest>,
    held: Vec<Draft>,
}

impl Names {
    /// A draft with the digests in the places of the names.
    fn applied(&self, images: &Arc<Store>, draft: &Draft) -> Result<Draft> {
        let mut config = draft.image.config.clone();
        for diff_id in &mut config.rootfs.diff_ids {
            *diff_id = self.digests.get(diff_id).copied().unwrap_or(*diff_id);
        }
        Ok(images.draft(config)?)
    }
}

/// What a stage has done on layers that have no digests yet.
pub(crate) struct Behind {
    naming: JoinHandle<Result<Names>>,
    /// Steps without a layer: their keys, what they made, and what they did.
    since: Vec<(Digest, Draft, Doing)>,
}

impl Behind {
    /// Notes a step without a layer, to be kept.
    pub(crate) fn note(&mut self, key: Digest, draft: &Draft, doing: Doing) {
        self.since.push((key, draft.clone(), doing));
    }
}

/// A step whose layer has no digest yet.
pub(crate) struct Step {
    pub(crate) key: Digest,
    pub(crate) doing: Doing,
    /// What it made, by the layer's drawn name.
    pub(crate) draft: Draft,
    pub(crate) layer: Unnamed,
    /// The instruction's place, and its last line.
    pub(crate) place: Option<(Position, u32)>,
    /// Nobody else does the step meanwhile.
    pub(crate) turn: Option<Turn>,
}

/// Computes the digest of a step's layer, behind those before it, and keeps the step.
pub(crate) fn follow(build: &Arc<Build>, before: Option<Behind>, step: Step) -> Behind {
    let build = Arc::clone(build);
    let (going_on, over) = oneshot::channel();
    build.naming.lock().unwrap_or_else(PoisonError::into_inner).push(over);
    let (before, since) = before.map_or((None, Vec::new()), |before| (Some(before.naming), before.since));
    let naming = tokio::spawn(async move {
        let _going_on: oneshot::Sender<()> = going_on;
        let names = match before {
            Some(before) => joined(before).await?,
            None => Names::default(),
        };
        let place = step.place;
        let naming = tokio::task::spawn_blocking(move || named(&build, names, step));
        joined(naming).await.map_err(|failure| match place {
            Some((at, last_line)) => failure.at(at, last_line),
            None => failure,
        })
    });
    Behind { naming, since }
}

fn named(build: &Build, mut names: Names, step: Step) -> Result<Names> {
    // A step that fails leaves what was done before it for the next time; who cancels the build wants nothing of it.
    wanted(&build.cancelled)?;
    let Step { key, doing, draft, layer, turn, place: _ } = step;
    let drawn = layer.layer().diff_id;
    let (layer, _held) = layer.named()?;
    names.digests.insert(drawn, layer.diff_id);
    let images = &build.engine.images;
    let draft = names.applied(images, &draft)?;
    build.keep(&key, &draft, &doing, layer.size)?;
    build.has_made(key);
    drop(turn);
    names.held.push(draft);
    Ok(names)
}

async fn joined(naming: JoinHandle<Result<Names>>) -> Result<Names> {
    naming.await.unwrap_or_else(|error| Err(Failure::system("compute the digest of a layer", error)))
}

impl Stage {
    /// Waits until all layers have their digests.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        let draft = self.made.draft.clone();
        self.made.draft = self.settled(&draft).await?;
        Ok(())
    }

    /// The same; a draft with the digests in it.
    pub(crate) async fn settled(&mut self, draft: &Draft) -> Result<Draft> {
        let Some(Behind { naming, since }) = self.behind.take() else { return Ok(draft.clone()) };
        let names = joined(naming).await?;
        let images = &self.build.engine.images;
        for (key, draft, doing) in since {
            self.build.keep(&key, &names.applied(images, &draft)?, &doing, 0)?;
            self.build.has_made(key);
        }
        names.applied(images, draft)
    }

    /// Whether the digests of this stage's layers may follow: not where each step's image is told by its id, nor where the
    /// same steps are to give the same image, and what follows is known by the digests.
    pub(crate) fn may_follow(&self, config: &ImageConfig) -> bool {
        !self.build.request.classic && config.history.last().is_some_and(|line| moment(line).is_some())
    }
}

/// When a step was done, where that tells it from all others: a clock's time has nanoseconds.
fn moment(line: &History) -> Option<&str> {
    line.created.as_deref().filter(|created| created.contains('.'))
}

/// By what that which follows a step with a layer is known: the moment at which the layer was made, or its digest where
/// that moment is a given one.
pub(crate) fn known_by(before: &ImageConfig, now: &ImageConfig) -> Vec<String> {
    let new = now.rootfs.diff_ids.get(before.rootfs.diff_ids.len()..).unwrap_or_default();
    match now.history.last().and_then(moment) {
        Some(moment) if !new.is_empty() => vec![moment.to_owned()],
        _ => new.iter().map(Digest::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(created: &str, layers: &[&str]) -> ImageConfig {
        let mut config = ImageConfig::default();
        config.history.push(History { created: Some(created.to_owned()), ..History::default() });
        config.rootfs.diff_ids = layers.iter().map(|layer| Digest::of(layer.as_bytes())).collect();
        config
    }

    #[test]
    fn what_follows_is_known_before_a_digest_is() {
        let before = config("2024-01-01T00:00:00.5Z", &["base"]);
        let now = "2024-01-02T00:00:00.123456789Z";
        let of = |created, layers: &[&str]| known_by(&before, &config(created, layers));
        assert_eq!(of(now, &["base", "drawn"]), of(now, &["base", "named"]));
        assert_ne!(of(now, &["base", "a"]), of("2024-01-02T00:00:00.123456788Z", &["base", "a"]));
        // Nothing was made: it is what it was.
        assert!(of(now, &["base"]).is_empty());
        // A time that was given (SOURCE_DATE_EPOCH) tells nothing.
        let given = "2024-01-02T00:00:00Z";
        assert_ne!(of(given, &["base", "a"]), of(given, &["base", "b"]));
    }
}
