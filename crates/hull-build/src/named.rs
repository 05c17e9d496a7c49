//! Contexts beside the build's own, by names (`--build-context`): in the place of an image, or of a stage.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use hull_image::archive::{self, CopyOptions, DigestOptions, Entering, Found};
use hull_image::reference::Reference;
use hull_image::{Draft, Platform};

use crate::build::{Build, Made};
use crate::builder::Builder;
use crate::context::Context;
use crate::copying::{blocking, digest_of};
use crate::failure::{Failure, Result};
use crate::intermediate::Doing;
use crate::key::Key;
use crate::request::Request;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Named {
    /// An image that is here or in a registry.
    Image(String),
    /// An image that came with the request.
    Given(Draft),
    /// Files.
    Folder(Arc<Context>),
}

impl Request {
    /// What a name stands for, where somebody said so. As an image's name it may be written in several ways.
    pub fn named(&self, name: &str) -> Option<&Named> {
        let whole = |name: &str| Reference::parse(name).ok().map(|name| name.or_latest().to_string());
        self.contexts.get(&name.to_ascii_lowercase()).or_else(|| {
            let wanted = whole(name)?;
            let mut contexts = self.contexts.iter();
            contexts.find(|(known, _)| whole(known).as_ref() == Some(&wanted)).map(|(_, named)| named)
        })
    }
}

impl Builder {
    /// Receives a folder as an archive. Blocks.
    ///
    /// # Errors
    /// As [`Context::read`].
    pub fn receive_folder(&self, archive: &mut dyn Read) -> Result<Named> {
        Context::read(&self.places.temporary, archive).map(Arc::new).map(Named::Folder)
    }

    /// Receives an OCI layout as an archive, which stands for a name: with one image, or one for each of several platforms. They
    /// are the build's alone: they are entered nowhere, and their layers stay as long as the build has them. Blocks.
    ///
    /// # Errors
    /// It is malformed, or has other images.
    pub fn receive_layout(
        &self,
        name: &str,
        archive: &mut dyn Read,
        platforms: &[Platform],
    ) -> Result<Vec<(String, Named)>> {
        let drafts = self.receive_cache(archive, platforms)?;
        if platforms.len() < 2 {
            let count = drafts.len();
            let [draft] = <[Draft; 1]>::try_from(drafts).map_err(|_| {
                Failure::invalid(format!(
                    "the OCI layout has {count} images where one is wanted: name it by its tag or digest"
                ))
            })?;
            return Ok(vec![(name.to_owned(), Named::Given(draft))]);
        }
        let of = |platform: &Platform| {
            let fitting: Vec<&Draft> = drafts.iter().filter(|draft| draft.image.is_for(platform)).collect();
            match fitting[..] {
                [draft] => Ok((format!("{name}::{platform}"), Named::Given(draft.clone()))),
                _ => Err(Failure::invalid(format!(
                    "the context {name}: the OCI layout has {} images for {platform} where one is wanted: name the one by its tag or \
                     digest (oci-layout://FOLDER:TAG); those of the layout are for {}",
                    fitting.len(),
                    offered(&drafts)
                ))),
            }
        };
        platforms.iter().map(of).collect()
    }

    /// The same of a layout whose images only give their steps: however many they are. Blocks.
    ///
    /// # Errors
    /// It is malformed.
    pub fn receive_cache(&self, archive: &mut dyn Read, platforms: &[Platform]) -> Result<Vec<Draft>> {
        Ok(self.engine.images.load_drafts(archive, platforms)?)
    }
}

/// What the images are for.
fn offered(drafts: &[Draft]) -> String {
    let platforms: BTreeSet<String> =
        drafts.iter().map(|draft| Platform::of(&draft.image.config).to_string()).collect();
    platforms.into_iter().collect::<Vec<_>>().join(", ")
}

impl Build {
    /// What a stage has that stands on a context: the image, or the files on nothing.
    pub(crate) async fn on_named(
        self: &Arc<Build>,
        name: &str,
        scratch: Made,
        platform: Option<&Platform>,
    ) -> Result<Made> {
        match self.request.named(name) {
            None => Err(Failure::invalid(format!("the context {name} is not there"))),
            Some(Named::Image(image)) => self.image(image, platform).await,
            Some(Named::Given(draft)) => {
                let key = self.base_key("image").with(draft.image.id.to_string()).finish();
                Ok(Made { draft: draft.clone(), key })
            }
            Some(Named::Folder(context)) => self.with_files(name, context, scratch).await,
        }
    }

    /// All files of a context as the first layer of an image.
    async fn with_files(self: &Arc<Build>, name: &str, context: &Arc<Context>, on: Made) -> Result<Made> {
        let all = || Found { path: String::new(), named: String::new(), is_folder: true };
        let (build, looked_at) = (Arc::clone(self), Arc::clone(context));
        let digest = blocking("read the files of a context", move || {
            digest_of(looked_at.root(), &all(), DigestOptions::default(), &build.stop)
        });
        let digest = digest.await?;
        let key = Key::of("context").with(on.key.to_string()).with(digest.to_string()).finish();
        if let Some(draft) = crate::stage::cached(self, &key, self.request.no_cache)? {
            return Ok(Made { draft, key });
        }
        let step = Box::pin(self.step(&on.draft, hull_engine::model::CreateBody::default())).await?;
        let view = Box::pin(step.view()).await?;
        let (build, context) = (Arc::clone(self), Arc::clone(context));
        let view = blocking("copy the files of a context", move || {
            let options = CopyOptions { owner: Some((0, 0)), ..CopyOptions::default() };
            let take = |_: &[u8], _: bool| Entering::Take;
            archive::copy_in(context.root(), &all(), view.root(), "/", &options, &take, &build.stop)?;
            Ok(view)
        });
        view.await?.close().await;
        let sealed = Box::pin(step.seal(self.epoch)).await?;
        let layer = sealed.as_ref().map(|(layer, _)| layer);
        let created_by = format!("/bin/sh -c #(nop) FROM context {name} dir:{} in / ", digest.hex());
        let doing = Doing { words: vec![created_by], ..Doing::default() };
        let draft = crate::stage::next(self, &on.draft, &doing, layer, |_| Ok(()))?;
        self.keep(&key, &draft, &doing, layer.map_or(0, |layer| layer.size))?;
        Ok(Made { draft, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_are_known_however_they_are_written() {
        let image = |name: &str| Named::Image(name.to_owned());
        let contexts = [("alpine".to_owned(), image("x")), ("app".to_owned(), image("y"))];
        let request = Request { contexts: contexts.into(), ..Request::default() };
        for name in ["alpine", "alpine:latest", "docker.io/library/alpine", "App"] {
            assert!(request.named(name).is_some(), "{name}");
        }
        for name in ["alpine:3", "other/alpine", "ap"] {
            assert!(request.named(name).is_none(), "{name}");
        }
    }
}
