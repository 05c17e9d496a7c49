//! What Docker's classic builder may use again: a step is an image of its own on that of the step before, and is known by
//! what it depends on as long as that image is here. Whoever removes the image has the step done again.

use std::sync::Arc;

use super::database::Database;
use super::{Draft, Image, Store};
use crate::{Digest, ImageId, Result};

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
            state.step_images.get(key).and_then(|id| state.images.get(id)).cloned()
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
        self.state_mut().step_images.extend(rows);
        Ok(())
    }
}
