//! Who is about to use an image, and who is about to remove it: neither overtakes the other.
//!
//! A container is known to those who ask what uses an image only when it is made. Until then it pins its image. Who removes
//! one says so first, and asks then: whoever comes later finds it gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Store;
use crate::{Error, ImageId, Result};

/// The images that are pinned, by how many, and those that are being removed.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pinned: HashMap<ImageId, usize>,
    going: HashSet<ImageId>,
}

/// Keeps an image from being removed. Dropped when its user is known.
#[derive(Debug)]
pub struct Pinned {
    store: Arc<Store>,
    image: ImageId,
}

/// An image that is being removed: nobody pins it any more.
pub(super) struct Going<'a> {
    store: &'a Store,
    image: ImageId,
}

/// Why an image cannot be removed just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stays {
    /// Something that uses it is being made.
    Pinned,
    /// Another removes it.
    Going,
}

impl Store {
    /// Keeps an image from being removed until it is known what uses it.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn pin(self: &Arc<Self>, image: &ImageId) -> Result<Pinned> {
        let mut state = self.state_mut();
        if !state.images.contains_key(image) || state.pins.going.contains(image) {
            return Err(Error::not_found(format!("No such image: {image}")));
        }
        *state.pins.pinned.entry(*image).or_default() += 1;
        Ok(Pinned { store: Arc::clone(self), image: *image })
    }

    /// Begins the removal of an image, which need not be one any more.
    pub(super) fn going(&self, image: &ImageId) -> Result<Going<'_>, Stays> {
        let mut state = self.state_mut();
        if state.pins.pinned.contains_key(image) {
            return Err(Stays::Pinned);
        }
        match state.pins.going.insert(*image) {
            true => Ok(Going { store: self, image: *image }),
            false => Err(Stays::Going),
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut state = self.store.state_mut();
        if let Some(count) = state.pins.pinned.get_mut(&self.image) {
            *count -= 1;
            if *count == 0 {
                state.pins.pinned.remove(&self.image);
            }
        }
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.store.state_mut().pins.going.remove(&self.image);
    }
}
