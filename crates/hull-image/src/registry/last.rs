//! What a name led to last, of images that get no names here: it will do where no registry answers.

use std::sync::Arc;

use super::Puller;
use super::failure::Failure;
use super::pull::{Keep, Pulled, Wanted, blocking, runs_on};
use crate::{Digest, Image, Kind, Platform, Result, Store};

impl Puller {
    /// Notes what a name led to. What has names is found by these.
    pub(super) async fn note(&self, wanted: &Wanted, pulled: &Pulled) -> Result<()> {
        if wanted.keep != Keep::Unnamed || pulled.unanswered.is_some() {
            return Ok(());
        }
        let (store, reference) = (Arc::clone(&self.store), wanted.reference.clone());
        let (image, manifest) = (Arc::clone(&pulled.image), pulled.digest);
        blocking(move || {
            let is_same = |config: &_| Platform::of(config) == Platform::of(&image.config);
            // Most builds find what the last one did, and a row is a write to the disk.
            match store.led(&reference, &is_same)? {
                Some((last, at)) if (last.id, at) == (image.id, manifest) => Ok(()),
                _ => store.note_led(&reference, &image.id, &manifest),
            }
        })
        .await
    }

    /// What the name led to last for the platform, where that will do for a failure: no answer came, or the registry is busy.
    /// A registry that says no is believed.
    pub(super) async fn last(&self, wanted: &Wanted, failure: &Failure) -> Result<Option<Pulled>> {
        if !wanted.or_last || !failure.is_passing() {
            return Ok(None);
        }
        let platform = wanted.platform.clone().unwrap_or_else(Platform::host);
        let (store, reference) = (Arc::clone(&self.store), wanted.reference.clone());
        let why = failure.to_string();
        blocking(move || {
            let Some((image, digest)) = store.led(&reference, &|config| runs_on(config, &platform))? else {
                return Ok(None);
            };
            Ok(held(&store, image, digest)?.map(|pulled| Pulled { unanswered: Some(why), ..pulled }))
        })
        .await
    }
}

/// An image that is here and gets no names, with what has its layers stay; none where it was removed at this very moment.
pub(super) fn held(store: &Arc<Store>, image: Arc<Image>, digest: Digest) -> Result<Option<Pulled>> {
    match store.draft_of(&image) {
        Ok(draft) => Ok(Some(Pulled { image, digest, newer: false, draft: Some(draft), unanswered: None })),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
