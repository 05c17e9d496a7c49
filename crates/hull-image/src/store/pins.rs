//! Who is about to use an image, and who is about to remove it: neither overtakes the other.
//!
//! A container is known to those who ask what uses an image only when it is made. Until then it pins its image. Who removes
//! one says so first, and asks then: whoever comes later finds it gone.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Store;
use crate::{Error, ImageId, Result};

/// Who holds images. Taken before the store's state, never behind it.
#[derive(Debug, Default)]
pub(super) struct Pins {
    held: Mutex<Held>,
    /// A removal has ended.
    ended: Condvar,
}

/// The images that are pinned, by how many, and those that are being removed.
#[derive(Debug, Default)]
struct Held {
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

impl Pins {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Going<'_> {
    pub(super) fn image(&self) -> &ImageId {
        &self.image
    }
}

impl Store {
    /// Keeps an image from being removed until it is known what uses it.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn pin(self: &Arc<Self>, image: &ImageId) -> Result<Pinned> {
        let mut held = self.pins.held();
        if held.going.contains(image) || !self.state().images.contains_key(image) {
            return Err(Error::not_found(format!("No such image: {image}")));
        }
        *held.pinned.entry(*image).or_default() += 1;
        Ok(Pinned { store: Arc::clone(self), image: *image })
    }

    /// Begins the removal of an image, which need not be one any more: another's removal of it is waited for.
    pub(super) fn going(&self, image: &ImageId) -> Result<Going<'_>, Stays> {
        let held = self.pins.held();
        let mut held = self
            .pins
            .ended
            .wait_while(held, |held| held.going.contains(image))
            .unwrap_or_else(PoisonError::into_inner);
        self.begin(&mut held, image)
    }

    /// [`Store::going`] without waiting.
    pub(super) fn try_going(&self, image: &ImageId) -> Result<Going<'_>, Stays> {
        self.begin(&mut self.pins.held(), image)
    }

    fn begin(&self, held: &mut Held, image: &ImageId) -> Result<Going<'_>, Stays> {
        if held.pinned.contains_key(image) {
            return Err(Stays::Pinned);
        }
        match held.going.insert(*image) {
            true => Ok(Going { store: self, image: *image }),
            false => Err(Stays::Going),
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut held = self.store.pins.held();
        if let Some(count) = held.pinned.get_mut(&self.image) {
            *count -= 1;
            if *count == 0 {
                held.pinned.remove(&self.image);
            }
        }
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.store.pins.held().going.remove(&self.image);
        self.store.pins.ended.notify_all();
    }
}
