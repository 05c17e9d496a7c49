//! The images that a build takes: those that it stands on and copies from, and those whose steps it uses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hull_engine::Kind;
use hull_engine::images::News;
use hull_image::reference::Reference;
use hull_image::registry::{Credentials, Wanted};
use hull_image::{Digest, Draft, Image, Platform};

use crate::build::{Build, Made};
use crate::failure::{Failure, Result};
use crate::progress::Event;

/// Names of images of which a build has one platform's looked for at a time.
pub(crate) type Looking = Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;

impl Build {
    /// An image that is here, or is fetched.
    pub async fn image(&self, name: &str, platform: Option<&Platform>) -> Result<Made> {
        let platform = platform.or(self.request.platform.as_ref());
        // A name means one image here, and the platforms of a build want several: one after the other.
        let looking = {
            let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(looking.entry(name.to_owned()).or_default())
        };
        let looking = looking.lock().await;
        let before = self.here(name)?;
        let fits =
            |image: &Arc<Image>| !self.request.pull && platform.is_none_or(|platform| image.is_for(platform));
        let image = match before.clone().filter(fits) {
            Some(image) => image,
            None => {
                let pulled = Box::pin(self.pulled(name, platform)).await?;
                self.named_as_before(name, before.as_deref(), &pulled)?;
                pulled
            }
        };
        drop(looking);
        if image.builtin {
            return Err(Failure::new(
                Kind::Forbidden,
                "hull/host is this machine itself, which is no layer: nothing can be built on it; make a base with `hull \
                 image bootstrap`",
            ));
        }
        self.took(name, &image);
        let key = self.base_key("image").with(image.id.to_string()).finish();
        Ok(Made { draft: self.engine.images.draft_of(&image)?, key })
    }

    /// The images whose steps are used. One that cannot be had has nothing to give.
    pub(crate) async fn caching_images(&self) -> Vec<Draft> {
        let images = &self.engine.images;
        let mut drafts = self.request.cache_given.clone();
        for name in &self.request.cache_from {
            drafts.extend(images.resolve(name).ok().and_then(|image| images.draft_of(&image).ok()));
        }
        for name in &self.request.cache_from_registry {
            if !self.request.may_fetch {
                continue;
            }
            let fetched = async {
                let stages = Box::pin(self.stages_at(name)).await?;
                // An image has the steps of its own stage; an index of stages those of all.
                let platform = self.request.platform.as_ref().filter(|_| stages.is_none());
                for name in stages.unwrap_or_else(|| vec![name.clone()]) {
                    drafts.push(Box::pin(self.lent(&name, platform)).await?);
                }
                Ok::<(), Failure>(())
            };
            if let Err(failure) = fetched.await {
                self.say(Event::Warning {
                    text: format!("the cache {name} gives nothing: {}", failure.message),
                    excerpt: String::new(),
                });
            }
        }
        drafts
    }

    /// The images of an index of stages, by their digests; none where the name means something else.
    async fn stages_at(&self, name: &str) -> Result<Option<Vec<String>>> {
        let reference = Reference::parse(name)?.or_latest();
        let who = self.credentials(&reference.domain);
        let remote = self.engine.registries().remote(&reference, &who).await?;
        let digests = hull_image::dress::stages(&remote.raw.bytes)?;
        let named = |digest: Digest| format!("{}@{digest}", reference.familiar_name());
        Ok(digests.map(|digests| digests.into_iter().map(named).collect()))
    }

    /// An image that is fetched for its layers: by its name nobody has asked for it here.
    async fn lent(&self, name: &str, platform: Option<&Platform>) -> Result<Draft> {
        let images = &self.engine.images;
        let before = images.resolve(name).ok();
        let image = Box::pin(self.pulled(name, platform)).await?;
        let draft = images.draft_of(&image)?;
        if before.is_none()
            && let Err(error) = images.remove(name, false, false, &|_| None)
        {
            tracing::debug!(%error, "an image that gave its steps stays");
        }
        Ok(draft)
    }

    /// Notes an image that the build takes: by its manifest where it has one, or else by its id.
    fn took(&self, name: &str, image: &Image) {
        let Ok(name) = Reference::parse(name).map(Reference::or_latest) else { return };
        let begins = format!("{}@", name.familiar_name());
        let digest = image
            .repo_digests
            .iter()
            .find_map(|digest| digest.strip_prefix(&begins)?.strip_prefix("sha256:"));
        let digest = digest.map_or_else(|| image.id.hex(), str::to_owned);
        let tag = name.tag.as_deref().unwrap_or_default();
        let uri = hull_image::dress::package(&name.name(), tag, image);
        self.materials.lock().unwrap_or_else(PoisonError::into_inner).insert(uri, digest);
    }

    /// An image that is here.
    fn here(&self, name: &str) -> Result<Option<Arc<Image>>> {
        match self.engine.images.resolve(name) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.kind == hull_image::Kind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Has a name mean what it meant before an image for another platform than this machine's was fetched under it: whoever
    /// runs the image by that name did not ask for another. Docker's classic builder leaves it as a pull does.
    fn named_as_before(&self, name: &str, before: Option<&Image>, pulled: &Image) -> Result<()> {
        let Some(before) = before.filter(|before| before.id != pulled.id && !self.request.classic) else {
            return Ok(());
        };
        let has_digest = Reference::parse(name).is_ok_and(|name| name.digest.is_some());
        if !has_digest && !pulled.is_for(&Platform::host()) {
            self.engine.images.tag(&before.id.to_string(), name)?;
        }
        Ok(())
    }

    /// An image from its registry. One that is nobody's but this machine's stays what it is.
    async fn pulled(&self, name: &str, platform: Option<&Platform>) -> Result<Arc<Image>> {
        let reference = Reference::parse(name)?.or_latest();
        let who = self.credentials(&reference.domain);
        let wanted = Wanted { reference: reference.clone(), platform: platform.cloned() };
        let mut watch = self.engine.image_pull(wanted, who);
        loop {
            match watch.next().await {
                News::Steps(steps) => steps.iter().for_each(|step| self.tell.pulling(step)),
                News::End(Ok(pulled)) => {
                    self.tell.pulled(&reference, &pulled);
                    return Ok(pulled.image);
                }
                News::End(Err(error)) => {
                    let here = self.request.pull.then(|| self.here(name)).transpose()?.flatten();
                    let here = here.filter(|here| platform.is_none_or(|platform| here.is_for(platform)));
                    return match here {
                        // Asked for anew, and only here: an image that was built or imported.
                        Some(image) if image.repo_digests.is_empty() => Ok(image),
                        _ => {
                            let mut failure = Failure::from(error);
                            failure.detail.classic = Some(failure.message.clone());
                            failure.message =
                                format!("{name}: failed to resolve source metadata: {}", failure.message);
                            Err(failure)
                        }
                    };
                }
            }
        }
    }

    /// What the request says of who asks that registry.
    pub fn credentials(&self, registry: &str) -> Credentials {
        let who = self.request.registries.get(registry);
        let hub =
            || self.request.registries.get("https://index.docker.io/v1/").filter(|_| registry == "docker.io");
        who.or_else(hub).cloned().unwrap_or_default()
    }
}
