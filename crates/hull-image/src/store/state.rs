//! What the store knows, in memory: it is asked here while containers start.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::database::LayerRow;
use super::types::{Image, Layer};
use crate::reference::Reference;
use crate::{Digest, Error, ImageConfig, ImageId, Result};

/// A layer and what keeps it: images and snapshots whose uppermost layer it is, and layers that stand on it.
#[derive(Debug)]
pub(super) struct LayerState {
    pub(super) row: LayerRow,
    pub(super) users: usize,
    pub(super) what: What,
}

/// What an entry of the layers is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A layer, with a row in the database.
    Layer,
    /// One whose digest is not known yet: its files are at their place, its name is drawn, and it has no row.
    Unnamed,
    /// One that had such a name, as long as something uses it by that: the layer that it is. Its files are that one's, or its
    /// own where that one was here before.
    Named {
        /// Its chain id.
        chain_id: Digest,
        /// Its files go with it.
        has_files: bool,
    },
}

/// What a snapshot stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Nothing: an image without layers, or none.
    Nothing,
    /// A layer and all below it.
    Layer(Digest),
    /// This machine's own files.
    Host,
    /// A layer that is not here any more. What was written above it is kept until the image is here again.
    Lost,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) layers: HashMap<Digest, LayerState>,
    pub(super) images: BTreeMap<ImageId, Arc<Image>>,
    /// In full: `docker.io/library/busybox:latest`, `…@sha256:…`.
    pub(super) names: BTreeMap<String, ImageId>,
    pub(super) children: HashMap<ImageId, BTreeSet<ImageId>>,
    pub(super) snapshots: HashMap<String, Base>,
    /// The steps of builds that are kept, and the uppermost layer of each.
    pub(super) steps: super::steps::Steps,
    /// The images that steps of classic builds made, by what those depend on.
    pub(super) step_images: super::step_images::StepImages,
}

impl State {
    pub(super) fn add_layer(&mut self, row: LayerRow) {
        if let Some(parent) = row.parent.and_then(|parent| self.layers.get_mut(&parent)) {
            parent.users += 1;
        }
        self.layers.insert(row.chain_id, LayerState { row, users: 0, what: What::Layer });
    }

    /// The chain id of a layer, where a drawn name stands for it; none where that has none yet.
    pub(super) fn named(&self, chain_id: Digest) -> Option<Digest> {
        match self.layers.get(&chain_id).map(|layer| layer.what) {
            Some(What::Unnamed) => None,
            Some(What::Named { chain_id, .. }) => Some(chain_id),
            Some(What::Layer) | None => Some(chain_id),
        }
    }

    /// The layers of these diff ids, where all are known.
    pub(super) fn chain(&self, diff_ids: &[Digest]) -> Option<Vec<Layer>> {
        let mut below = None;
        diff_ids
            .iter()
            .map(|&diff_id| {
                let chain_id = Digest::chain(below, diff_id);
                below = Some(chain_id);
                let layer = self.layers.get(&chain_id)?;
                Some(Layer { chain_id, diff_id, size: layer.row.size })
            })
            .collect()
    }

    /// How many of these layers, from the lowest, are known.
    pub(super) fn known_depth(&self, diff_ids: &[Digest]) -> usize {
        let mut below = None;
        let known = |&&diff_id: &&Digest| {
            let chain_id = Digest::chain(below, diff_id);
            below = Some(chain_id);
            self.layers.contains_key(&chain_id)
        };
        diff_ids.iter().take_while(known).count()
    }

    /// Adds an image whose layers are known; says no where they are not.
    pub(super) fn add_image(
        &mut self,
        id: ImageId,
        raw_config: Arc<[u8]>,
        parent: Option<ImageId>,
        last_tagged: i64,
    ) -> Result<()> {
        if self.images.contains_key(&id) {
            return Ok(());
        }
        let config: ImageConfig = serde_json::from_slice(&raw_config).map_err(|error| {
            Error::invalid(format!("invalid image configuration {}: {error}", id.short()))
        })?;
        let layers = self
            .chain(&config.rootfs.diff_ids)
            .ok_or_else(|| Error::not_found(format!("image {}: a layer is missing", id.short())))?;
        if let Some(top) = layers.last().and_then(|top| self.layers.get_mut(&top.chain_id)) {
            top.users += 1;
        }
        let image = Image {
            id,
            size: layers.iter().map(|layer| layer.size).sum(),
            created: seconds(config.created.as_deref()),
            config,
            raw_config,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            layers,
            parent: None,
            last_tagged,
            builtin: false,
        };
        self.images.insert(id, Arc::new(image));
        self.set_parent(id, parent);
        Ok(())
    }

    pub(super) fn set_builtin(&mut self, id: &ImageId) {
        if let Some(image) = self.images.get_mut(id) {
            Arc::make_mut(image).builtin = true;
        }
    }

    fn set_parent(&mut self, id: ImageId, parent: Option<ImageId>) {
        if let (Some(parent), Some(image)) = (parent, self.images.get_mut(&id)) {
            Arc::make_mut(image).parent = Some(parent);
            self.children.entry(parent).or_default().insert(id);
        }
    }

    /// Forgets an image that has no names. Its uppermost layer loses a user.
    pub(super) fn remove_image(&mut self, id: &ImageId) {
        let Some(image) = self.images.remove(id) else { return };
        self.step_images.forget(id);
        if let Some(top) = image.layers.last() {
            self.release(&top.chain_id);
        }
        if let Some(siblings) = image.parent.as_ref().and_then(|parent| self.children.get_mut(parent)) {
            siblings.remove(id);
        }
        for child in self.children.remove(id).unwrap_or_default() {
            if let Some(child) = self.images.get_mut(&child) {
                Arc::make_mut(child).parent = None;
            }
        }
    }

    pub(super) fn release(&mut self, chain_id: &Digest) {
        if let Some(layer) = self.layers.get_mut(chain_id) {
            layer.users -= 1;
        }
    }

    /// Takes out a layer that nothing uses, then those below that nothing uses any more; uppermost first.
    pub(super) fn take_unused(&mut self, chain_id: Digest) -> Vec<LayerRow> {
        let mut unused = Vec::new();
        let mut next = vec![chain_id];
        while let Some(chain_id) = next.pop() {
            if self.layers.get(&chain_id).is_none_or(|layer| layer.users > 0) {
                continue;
            }
            let Some(layer) = self.layers.remove(&chain_id) else { continue };
            let mut below = layer.row.parent;
            let mut has_files = true;
            if let What::Named { chain_id, has_files: own } = layer.what {
                has_files = own;
                // It stands on what it is, and on what that stands on.
                next.extend(below);
                below.iter().for_each(|below| self.release(below));
                below = Some(chain_id);
            }
            below.iter().for_each(|below| self.release(below));
            next.extend(below);
            if has_files {
                unused.push(layer.row);
            }
        }
        unused
    }

    pub(super) fn set_name(&mut self, name: String, image: ImageId) -> Option<ImageId> {
        let former = self.names.insert(name, image).filter(|former| *former != image);
        self.show_names(&image);
        if let Some(former) = &former {
            self.show_names(former);
        }
        former
    }

    /// Gives an image names, by the keys of which they are kept, at this time in nanoseconds.
    pub(super) fn set_names(&mut self, names: &[String], image: ImageId, now: i64) {
        if !names.is_empty()
            && let Some(image) = self.images.get_mut(&image)
        {
            Arc::make_mut(image).last_tagged = now;
        }
        for name in names {
            self.set_name(name.clone(), image);
        }
    }

    pub(super) fn remove_name(&mut self, name: &str) {
        if let Some(image) = self.names.remove(name) {
            self.show_names(&image);
        }
    }

    /// The names of an image, in full.
    pub(super) fn names_of(&self, id: &ImageId) -> Vec<Reference> {
        let names = self.names.iter().filter(|(_, image)| *image == id);
        names.filter_map(|(name, _)| Reference::parse(name).ok()).collect()
    }

    /// Brings the names into the image's value.
    fn show_names(&mut self, id: &ImageId) {
        let names = self.names_of(id);
        if let Some(image) = self.images.get_mut(id) {
            let image = Arc::make_mut(image);
            let (digests, tags): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.digest.is_some());
            image.repo_tags = tags.iter().map(Reference::familiar).collect();
            image.repo_digests = digests.iter().map(Reference::familiar).collect();
            image.repo_tags.sort();
            image.repo_digests.sort();
        }
    }

    /// The folders of a layer and of all below it, uppermost first.
    pub(super) fn folders(&self, chain_id: &Digest, layers: &Path) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        let mut next = self.layers.get(chain_id);
        while let Some(layer) = next {
            folders.push(layers.join(base36(layer.row.number)));
            next = layer.row.parent.and_then(|parent| self.layers.get(&parent));
        }
        folders
    }
}

/// Seconds of Unix time of an RFC 3339 text; 0 where there is none or it is no time.
pub(super) fn seconds(text: Option<&str>) -> i64 {
    let time = text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    time.map_or(0, |time| time.as_second())
}

/// A number in digits and small letters: short names for the folders of layers.
pub(super) fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_short_names() {
        assert_eq!(
            (base36(0), base36(35), base36(36), base36(46_655)),
            ("0".into(), "z".into(), "10".into(), "zzz".into())
        );
    }

    #[test]
    fn times() {
        assert_eq!(seconds(Some("2024-01-02T03:04:05.678Z")), 1_704_164_645);
        assert_eq!(seconds(Some("0001-01-01T00:00:00Z")), -62_135_596_800);
        assert_eq!((seconds(Some("yesterday")), seconds(None)), (0, 0));
    }
}
