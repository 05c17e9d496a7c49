//! Pushes: the tags of a repository, one after the other, to the registry that it names.

use std::sync::Arc;

use hull_image::artifact::Artifact;
use hull_image::dress::{Dress, Part};
use hull_image::reference::Reference;
use hull_image::registry::{Credentials, Sent, Step};
use hull_image::{Image, Platform};

use crate::engine::Engine;
use crate::{Error, Kind, Result};

/// What is told of a push.
#[derive(Clone, Debug)]
pub enum Pushing {
    /// Where it goes: the repository in full.
    To(String),
    /// A layer comes further.
    Step(Step),
    /// A tag is there.
    Sent(String, Sent),
}

impl Engine {
    /// Pushes the image that a reference names; where it has no tag, those of all its repository's tags. Dropped, it
    /// ends.
    ///
    /// # Errors
    /// In Docker's words: nothing is here by that name, or the registry does not take it.
    pub async fn image_push(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        who: &Credentials,
        tell: Arc<dyn Fn(Pushing) + Send + Sync>,
    ) -> Result<()> {
        if reference.digest.is_some() {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        tell(Pushing::To(reference.name()));
        let images = self.to_be_pushed(reference, platform)?;
        let all: Vec<Arc<Image>> = images.iter().map(|(_, image)| Arc::clone(image)).collect();
        let steps = Arc::clone(&tell);
        let steps = Arc::new(move |step| steps(Pushing::Step(step)));
        let push = self.pusher.open(reference, &all, who, steps).await?;
        for (tagged, image) in images {
            let tag = tagged.tag.clone().unwrap_or_default();
            let sent = push.image(&image, &tag).await?;
            tell(Pushing::Sent(tag, sent));
            self.tell_push(&tagged, &image);
        }
        Ok(())
    }

    /// Pushes images that were built, one for each platform, under a name, with what goes with them. Dropped, it ends.
    ///
    /// # Errors
    /// In Docker's words: the registry does not take it.
    pub async fn push_built(
        &self,
        parts: &[Part],
        name: &Reference,
        who: &Credentials,
        dress: &Dress,
        tell: hull_image::registry::Tell,
    ) -> Result<Sent> {
        let images: Vec<Arc<Image>> = parts.iter().map(|part| Arc::clone(&part.image)).collect();
        let push = self.pusher.open(name, &images, who, tell).await?;
        let sent = push.dressed(parts, name.tag.as_deref().unwrap_or("latest"), dress).await?;
        if let Some(first) = images.first() {
            self.tell_push(name, first);
        }
        Ok(sent)
    }

    /// Pushes what is no image. Dropped, it ends.
    ///
    /// # Errors
    /// In Docker's words: the registry does not take it.
    pub async fn push_artifact(
        &self,
        artifact: &Artifact,
        name: &Reference,
        who: &Credentials,
        tell: hull_image::registry::Tell,
    ) -> Result<Sent> {
        let push = self.pusher.open(name, &[], who, tell).await?;
        Ok(push.artifact(artifact, name.tag.as_deref().unwrap_or("latest")).await?)
    }

    /// The images by their tags.
    fn to_be_pushed(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Vec<(Reference, Arc<Image>)>> {
        let mut tags = self.images.tags_of(reference);
        if tags.is_empty() {
            let name = reference.familiar_name();
            return Err(Error::not_found(format!("An image does not exist locally with the tag: {name}")));
        }
        if reference.tag.is_some() {
            tags.retain(|(name, _)| name.tag == reference.tag);
        }
        if tags.is_empty() {
            return Err(Error::not_found(format!("tag does not exist: {}", reference.familiar())));
        }
        tags.sort();
        let mut images = Vec::new();
        for (name, id) in tags {
            let image = self.images.resolve(&id.to_string())?;
            if image.builtin {
                return Err(Error::new(
                    Kind::Forbidden,
                    "hull/host is this machine itself: it has no layers that could be pushed",
                ));
            }
            super::fits(&image, &name.familiar(), platform)?;
            images.push((name, image));
        }
        Ok(images)
    }

    fn tell_push(&self, reference: &Reference, image: &Image) {
        let mut attributes = image.container_config().labels;
        attributes.insert("name".to_owned(), reference.familiar_name());
        self.events.publish(crate::events::Kind::Image, "push", &reference.familiar(), attributes);
    }
}
