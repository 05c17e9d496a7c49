//! What builds made and may use again: each step by the digest of all that it depends on. Its layers are kept as long as
//! it is, whether an image has them or not.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::diff::find;
use super::import::serialise;
use super::seal::Held;
use super::state::{State, seconds};
use super::{Image, Store};
use crate::reference::Reference;
use crate::{Digest, Error, ImageConfig, Result};

/// An image that is not entered: what a build has made so far. Its layers stay as long as this is there.
#[derive(Clone, Debug)]
pub struct Draft {
    /// As it would be.
    pub image: Arc<Image>,
    _held: Option<Arc<Held>>,
}

/// A step that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepUsage {
    /// What it depends on.
    pub key: Digest,
    /// What it did, in one line.
    pub description: String,
    /// The bytes of its own layer.
    pub size: u64,
    /// Whether an image has its layers too.
    pub shared: bool,
    /// When it was made, in seconds of Unix time.
    pub created: i64,
    /// When it was last used.
    pub used: i64,
    /// How often it was used.
    pub uses: u64,
}

/// A step's row.
pub(super) struct StepRow {
    pub(super) key: Digest,
    pub(super) top: Option<Digest>,
    pub(super) config: Vec<u8>,
    pub(super) description: String,
    pub(super) size: u64,
    pub(super) created: i64,
    pub(super) used: i64,
    pub(super) uses: u64,
}

/// What of a step is known in memory: what it keeps.
pub(super) type Steps = HashMap<Digest, Option<Digest>>;

impl Store {
    /// An image that is not entered, of a configuration whose layers are here.
    ///
    /// # Errors
    /// One of them is not.
    pub fn draft(self: &Arc<Self>, config: ImageConfig) -> Result<Draft> {
        self.draft_in(&mut self.state_mut(), &serialise(&config)?)
    }

    /// The same of a configuration's bytes, where the state is had already.
    pub(super) fn draft_in(self: &Arc<Self>, state: &mut State, raw_config: &[u8]) -> Result<Draft> {
        let config: ImageConfig = serde_json::from_slice(raw_config)
            .map_err(|error| Error::invalid(format!("invalid image configuration: {error}")))?;
        let layers = state.chain(&config.rootfs.diff_ids);
        let layers = layers.ok_or_else(|| Error::not_found("a layer of the image was removed meanwhile"))?;
        let held = layers.last().map(|top| self.hold_in(state, top.chain_id)).transpose()?.map(Arc::new);
        let image = Image {
            id: Digest::of(raw_config),
            size: layers.iter().map(|layer| layer.size).sum(),
            created: seconds(config.created.as_deref()),
            config,
            raw_config: raw_config.into(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            layers,
            parent: None,
            last_tagged: 0,
            builtin: false,
        };
        Ok(Draft { image: Arc::new(image), _held: held })
    }

    /// An image as a draft that is that very image.
    ///
    /// # Errors
    /// It was removed meanwhile, or is built in: nothing is built on this machine's own files, whatever way leads to them.
    pub fn draft_of(self: &Arc<Self>, image: &Arc<Image>) -> Result<Draft> {
        if image.builtin {
            return Err(Error::new(
                crate::Kind::Forbidden,
                "hull/host is this machine itself: run it, but build on an image that can be kept",
            ));
        }
        let held = image.layers.last().map(|top| self.hold(top.chain_id)).transpose()?.map(Arc::new);
        Ok(Draft { image: Arc::clone(image), _held: held })
    }

    /// What an image has at a path without links, to be mounted: the folders that are merged there, uppermost first, or
    /// one file.
    ///
    /// # Errors
    /// Nothing is there.
    pub fn parts_at(&self, image: &Image, path: &str) -> Result<Vec<PathBuf>> {
        let top = image.layers.last();
        let mut folders =
            top.map(|top| self.state().folders(&top.chain_id, &self.root.join("layers"))).unwrap_or_default();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match find(&folders, name.as_bytes())? {
                Some(below) if below.folders.is_empty() => folders = vec![below.path],
                Some(below) => folders = below.folders,
                None => return Err(Error::not_found(format!("Could not find the file {path}"))),
            }
        }
        Ok(folders)
    }

    /// Enters a draft as an image under these names.
    ///
    /// # Errors
    /// A name is none, or the database cannot be written.
    pub fn enter_draft(&self, draft: &Draft, names: &[Reference]) -> Result<Arc<Image>> {
        names.iter().try_for_each(|name| self.check_not_builtin(Some(name)))?;
        self.enter(&draft.image.raw_config, Vec::new(), None, names)
    }

    /// What a step made when it was run before, if that is kept.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn step(self: &Arc<Self>, key: &Digest) -> Result<Option<Draft>> {
        if !self.state().steps.contains_key(key) {
            return Ok(None);
        }
        let config = {
            let database = self.database();
            let Some(config) = database.step_config(key)? else { return Ok(None) };
            database.step_used(key, now())?;
            config
        };
        let config: ImageConfig = serde_json::from_slice(&config)
            .map_err(|error| Error::invalid(format!("invalid configuration of a kept step: {error}")))?;
        match self.draft(config) {
            Ok(draft) => Ok(Some(draft)),
            // Pruned at this very moment.
            Err(error) if error.kind == crate::Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps what a step made, in the place of what it made before.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn keep_step(&self, key: &Digest, draft: &Draft, description: &str, size: u64) -> Result<()> {
        let top = draft.image.layers.last().map(|layer| layer.chain_id);
        let now = now();
        let row = StepRow {
            key: *key,
            top,
            config: draft.image.raw_config.to_vec(),
            description: description.to_owned(),
            size,
            created: now,
            used: now,
            uses: 0,
        };
        let former = {
            let database = self.database();
            database.put_step(&row)?;
            let mut state = self.state_mut();
            if let Some(layer) = top.and_then(|top| state.layers.get_mut(&top)) {
                layer.users += 1;
            }
            state.steps.insert(*key, top)
        };
        self.release_step(former.flatten())
    }

    /// All steps that are kept.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn steps(&self) -> Result<Vec<StepUsage>> {
        let rows = self.database().steps()?;
        let state = self.state();
        let of_images: HashSet<Digest> =
            state.images.values().flat_map(|image| &image.layers).map(|layer| layer.chain_id).collect();
        let shared = |top: &Digest| of_images.contains(top);
        let usage = |row: StepRow| StepUsage {
            shared: row.top.as_ref().is_some_and(shared),
            key: row.key,
            description: row.description,
            size: row.size,
            created: row.created,
            used: row.used,
            uses: row.uses,
        };
        Ok(rows.into_iter().map(usage).collect())
    }

    /// Forgets steps, and removes the layers that nothing uses any more. The bytes that were given back.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn forget_steps(&self, keys: &[Digest]) -> Result<u64> {
        let before = self.layers_size();
        for key in keys {
            let former = {
                let database = self.database();
                database.remove_step(key)?;
                self.state_mut().steps.remove(key)
            };
            self.release_step(former.flatten())?;
        }
        Ok(before.saturating_sub(self.layers_size()))
    }

    fn release_step(&self, top: Option<Digest>) -> Result<()> {
        let Some(top) = top else { return Ok(()) };
        self.state_mut().release(&top);
        self.collect(top).map(drop)
    }

    /// Reads the steps from the disk; those whose layers are lost go.
    pub(super) fn read_steps(&self) -> Result<()> {
        let database = self.database();
        let mut state = self.state_mut();
        for row in database.steps()? {
            if let Some(top) = row.top {
                let Some(layer) = state.layers.get_mut(&top) else {
                    database.remove_step(&row.key)?;
                    continue;
                };
                layer.users += 1;
            }
            state.steps.insert(row.key, row.top);
        }
        Ok(())
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
