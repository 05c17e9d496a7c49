//! What keeps an image's layers here while somebody works with them.

use std::ops::Deref;

use super::Store;
use crate::digest::Digest;

/// Keeps a layer that was counted as used, and all below it, from being collected, until it is dropped.
pub(crate) struct Kept<S: Deref<Target = Store>> {
    store: S,
    layer: Option<Digest>,
}

impl<S: Deref<Target = Store>> Kept<S> {
    /// `layer` counts this one among its users already; none keeps nothing.
    pub(super) fn counted(store: S, layer: Option<Digest>) -> Self {
        Self { store, layer }
    }
}

impl<S: Deref<Target = Store>> Drop for Kept<S> {
    fn drop(&mut self) {
        let Some(layer) = self.layer else { return };
        self.store.state_mut().release(&layer);
        if let Err(error) = self.store.collect(layer) {
            tracing::warn!("{error}; the layer goes at the next start");
        }
    }
}
