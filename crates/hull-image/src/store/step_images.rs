//! What Docker's classic builder may use again: a step is an image of its own on that of the step before, and is known by
//! what it depends on as long as that image is here. Whoever removes the image has the step done again.

use std::collections::HashMap;
use std::sync::Arc;

use super::database::Database;
use super::{Draft, Image, Store};
use crate::{Digest, ImageId, Result};

/// Images that steps made, by the steps' keys; and the keys by the images, so that one that is removed is not looked for.
#[derive(Debug, Default)]
pub(super) struct StepImages {
    images: HashMap<Digest, ImageId>,
    keys: HashMap<ImageId, Vec<Digest>>,
}

impl StepImages {
    /// The image that a step of this key made.
    pub(super) fn of(&self, key: &Digest) -> Option<&ImageId> {
        self.images.get(key)
    }

    /// A step of this key made this image, in the place of what one made before.
    pub(super) fn insert(&mut self, key: Digest, id: ImageId) {
        let before = self.images.insert(key, id);
        if before == Some(id) {
            return;
        }
        if let Some(keys) = before.and_then(|before| self.keys.get_mut(&before)) {
            keys.retain(|other| *other != key);
        }
        self.keys.entry(id).or_default().push(key);
    }

    /// The image is here no more.
    pub(super) fn forget(&mut self, id: &ImageId) {
        for key in self.keys.remove(id).unwrap_or_default() {
            self.images.remove(&key);
        }
    }
}

impl Store {
    /// Enters what a step made as an image on its parent (where that is here), and remembers it under the step's key.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn enter_step(&self, key: &Digest, draft: &Draft, parent: Option<&ImageId>) -> Result<Arc<Image>> {
        let raw_config = &draft.image.raw_config;
        let id = draft.image.id;
        self.check_not_host(&id)?;
        let parent = parent.filter(|parent| self.image(parent).is_ok()).copied();
        let put = |database: &Database| {
            database.put_image(&id, raw_config, parent.as_ref())?;
            database.put_step_image(key, &id)
        };
        self.enter_layers(raw_config, Vec::new(), put, |state| {
            state.add_image(id, Arc::clone(raw_config), parent, 0)?;
            state.step_images.insert(*key, id);
            Ok(())
        })?;
        self.image(&id)
    }

    /// The image that a step of this key made, if it is still here.
    ///
    /// # Errors
    /// One of its layers was removed meanwhile.
    pub fn step_image(self: &Arc<Self>, key: &Digest) -> Result<Option<Draft>> {
        let image = {
            let state = self.state();
            state.step_images.of(key).and_then(|id| state.images.get(id)).cloned()
        };
        match image.map(|image| self.draft_of(&image)).transpose() {
            // Removed at this very moment.
            Err(error) if error.kind == crate::Kind::NotFound => Ok(None),
            found => found,
        }
    }

    /// Reads them from the disk.
    pub(super) fn read_step_images(&self) -> Result<()> {
        let rows = self.database().step_images()?;
        let mut state = self.state_mut();
        rows.into_iter().for_each(|(key, id)| state.step_images.insert(key, id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_with_its_keys_and_no_others() {
        let [a, b, one, two] = ["a", "b", "one", "two"].map(|text| Digest::of(text.as_bytes()));
        let mut made = StepImages::default();
        made.insert(a, one);
        made.insert(b, one);
        made.insert(b, one);
        // The same step came to another image.
        made.insert(a, two);
        assert_eq!((made.of(&a), made.of(&b)), (Some(&two), Some(&one)));
        made.forget(&one);
        assert_eq!((made.of(&a), made.of(&b)), (Some(&two), None));
        made.forget(&two);
        assert!(made.of(&a).is_none() && made.images.is_empty() && made.keys.is_empty());
    }
}
