//! The images that a build takes: those that it stands on and copies from, and those whose steps it uses.

use std::sync::{Arc, PoisonError};

use hull_engine::Kind;
use hull_engine::images::News;
use hull_image::reference::Reference;
use hull_image::registry::{Credentials, Keep, Pulled, Wanted};
use hull_image::{Digest, Draft, Image, Platform};

use crate::build::{Build, Made};
use crate::failure::{Failure, Result};
use crate::progress::Event;

/// An image that a build takes: what holds its layers, and the manifest that its name led to, where it was asked for just now.
struct Taken {
    draft: Draft,
    manifest: Option<Digest>,
}

impl Build {
    /// An image that is here, or is fetched.
    pub async fn image(&self, name: &str, platform: Option<&Platform>) -> Result<Made> {
        let platform = platform.or(self.request.platform.as_ref());
        let fits =
            |image: &Arc<Image>| !self.request.pull && platform.is_none_or(|platform| image.is_for(platform));
        let taken = match self.here(name)?.filter(fits) {
            Some(image) => Taken { draft: self.draft_of(&image)?, manifest: None },
            None => Box::pin(self.fetched(name, platform, self.what_stays(platform))).await?,
        };
        self.took(name, &taken);
        let key = self.base_key("image").with(taken.draft.image.id.to_string()).finish();
        Ok(Made { draft: taken.draft, key })
    }

    /// What stays of an image that is fetched for a platform. One for another machine gets no names: whoever runs an image
    /// by its name here has not asked for that. Docker's classic builder gives it one, as a pull does.
    fn what_stays(&self, platform: Option<&Platform>) -> Keep {
        let host = Platform::host();
        let is_own =
            |platform: &Platform| (&platform.os, &platform.architecture) == (&host.os, &host.architecture);
        match self.request.classic || platform.is_none_or(is_own) {
            true => Keep::Named,
            false => Keep::Unnamed,
        }
    }

    fn draft_of(&self, image: &Arc<Image>) -> Result<Draft> {
        if image.builtin {
            return Err(Failure::new(
                Kind::Forbidden,
                "hull/host is this machine itself, which is no layer: nothing can be built on it; make a base with `hull \
                 image bootstrap`",
            ));
        }
        Ok(self.engine.images.draft_of(image)?)
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
                    // By its name nobody has asked for it here.
                    drafts.push(Box::pin(self.fetched(&name, platform, Keep::Layers)).await?.draft);
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

    /// Notes an image that the build takes: by its manifest where it has one, or else by its id.
    fn took(&self, name: &str, taken: &Taken) {
        let Ok(name) = Reference::parse(name).map(Reference::or_latest) else { return };
        let begins = format!("{}@", name.familiar_name());
        let image = &taken.draft.image;
        let digest = taken.manifest.map(|manifest| manifest.hex()).or_else(|| {
            let mut digests = image.repo_digests.iter();
            digests
                .find_map(|digest| digest.strip_prefix(&begins)?.strip_prefix("sha256:"))
                .map(str::to_owned)
        });
        let digest = digest.unwrap_or_else(|| image.id.hex());
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

    /// An image from its registry. One that is nobody's but this machine's stays what it is.
    async fn fetched(&self, name: &str, platform: Option<&Platform>, keep: Keep) -> Result<Taken> {
        let reference = Reference::parse(name)?.or_latest();
        let who = self.credentials(&reference.domain);
        let wanted = Wanted {
            reference: reference.clone(),
            platform: platform.cloned(),
            keep,
            // What has a name is found by that where nobody has it looked for anew: so is what has none.
            or_last: keep == Keep::Unnamed && !self.request.pull,
        };
        let mut watch = self.engine.image_pull(wanted, who);
        loop {
            match watch.next().await {
                News::Steps(steps) => steps.iter().for_each(|step| self.tell.pulling(step)),
                News::End(Ok(pulled)) => {
                    self.tell.pulled(&reference, &pulled);
                    let Pulled { image, digest, draft, unanswered, .. } = pulled;
                    if let Some(why) = unanswered {
                        let what = "it is built on what the name led to last";
                        let text = format!("{name}: its registry cannot be asked, so {what}: {why}");
                        self.say(Event::Warning { text, excerpt: String::new() });
                    }
                    let draft = draft.map_or_else(|| self.draft_of(&image), Ok)?;
                    return Ok(Taken { draft, manifest: Some(digest) });
                }
                News::End(Err(error)) => {
                    let here = self.request.pull.then(|| self.here(name)).transpose()?.flatten();
                    let here = here.filter(|here| platform.is_none_or(|platform| here.is_for(platform)));
                    return match here {
                        // Asked for anew, and only here: an image that was built or imported.
                        Some(image) if image.repo_digests.is_empty() => {
                            Ok(Taken { draft: self.draft_of(&image)?, manifest: None })
                        }
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
