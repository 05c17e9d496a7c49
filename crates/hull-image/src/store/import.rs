//! A root file system's archive as an image of one layer; and how any new image is entered.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use super::database::{Database, LayerRow};
use super::state::State;
use super::steps::Draft;
use super::{Image, Import, Platform, Progress, Report, Store};
use crate::config::{History, RootFs};
use crate::layer::split::assemble;
use crate::layer::stream::Passed;
use crate::layer::unpack::{Place, unpack};
use crate::reference::Reference;
use crate::{ContainerConfig, Digest, Error, ImageConfig, ImageId, Result, fault, instruction};

/// A layer that was unpacked and has no place yet. Dropped, it is removed.
pub(super) struct Unpacked<'a> {
    store: &'a Store,
    folder: PathBuf,
    pub(super) passed: Passed<u64>,
}

impl Drop for Unpacked<'_> {
    fn drop(&mut self) {
        self.store.discard(&self.folder);
    }
}

impl Store {
    /// Makes an image of one layer from a root file system's tar, plain or compressed by gzip, zstd or xz.
    pub fn import(&self, tar: &mut dyn Read, options: Import, progress: Report<'_>) -> Result<Arc<Image>> {
        let reference = options.reference.as_deref().map(Reference::parse_tag).transpose()?;
        self.check_not_builtin(reference.as_ref())?;
        let mut config = ContainerConfig::default();
        instruction::apply(&mut config, &options.changes)?;
        let layer = self.unpack(tar, true, &|current| {
            progress(Progress { id: String::new(), status: "Importing", current, total: 0 });
        })?;
        let message = if options.message.is_empty() { "Imported from -".to_owned() } else { options.message };
        let now = jiff::Timestamp::now().to_string();
        let platform = options.platform.unwrap_or_else(Platform::host);
        let config = ImageConfig {
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            comment: message.clone(),
            created: Some(now.clone()),
            config: Some(config),
            history: vec![History { created: Some(now), comment: message, ..History::default() }],
            rootfs: RootFs { diff_ids: vec![layer.passed.diff_id], ..RootFs::default() },
            ..ImageConfig::default()
        };
        self.enter(&serialise(&config)?, vec![layer], None, reference.as_slice())
    }

    /// Unpacks a layer into a temporary folder.
    pub(super) fn unpack(
        &self,
        tar: &mut dyn Read,
        end_required: bool,
        progress: &dyn Fn(u64),
    ) -> Result<Unpacked<'_>> {
        let folder = self.temporary()?;
        match unpack(tar, &Place::beneath(&folder), end_required, progress) {
            Ok(passed) => Ok(Unpacked { store: self, folder, passed }),
            Err(error) => {
                self.discard(&folder);
                Err(error)
            }
        }
    }

    /// Enters an image: gives its new layers their places, lowest first, then writes all rows at once. A layer that
    /// is known already is not among `unpacked`, or is dropped.
    pub(super) fn enter(
        &self,
        raw_config: &[u8],
        unpacked: Vec<Unpacked<'_>>,
        parent: Option<ImageId>,
        names: &[Reference],
    ) -> Result<Arc<Image>> {
        let id = Digest::of(raw_config);
        self.check_not_host(&id)?;
        let now = jiff::Timestamp::now().as_nanosecond() as i64;
        let keys: Vec<String> = names.iter().map(super::images::key).collect();
        // With its names, or whoever prunes what has none might take it before it gets them.
        let put = |database: &Database| {
            database.put_image(&id, raw_config, parent.as_ref())?;
            if keys.is_empty() {
                return Ok(());
            }
            keys.iter().try_for_each(|name| database.put_name(name, &id))?;
            database.set_last_tagged(&id, now)
        };
        self.enter_layers(raw_config, unpacked, put, |state| {
            state.add_image(id, raw_config.into(), parent, 0)?;
            state.set_names(&keys, id, now);
            state.images.get(&id).cloned().ok_or_else(|| Error::not_found(format!("No such image: {id}")))
        })
    }

    /// The same for what is to be nobody's image: its layers stay as long as the draft is there.
    pub(super) fn enter_as_draft(
        self: &Arc<Self>,
        raw_config: &[u8],
        unpacked: Vec<Unpacked<'_>>,
    ) -> Result<Draft> {
        self.check_not_host(&Digest::of(raw_config))?;
        self.enter_layers(raw_config, unpacked, |_| Ok(()), |state| self.draft_in(state, raw_config))
    }

    /// This machine itself is no other image.
    pub(super) fn check_not_host(&self, id: &ImageId) -> Result<()> {
        match self.image(id).is_ok_and(|known| known.builtin) {
            true => Err(Error::new(
                crate::Kind::Forbidden,
                "the image's configuration is that of hull/host, which is this machine itself: it cannot be another image's",
            )),
            false => Ok(()),
        }
    }

    /// Places what is unpacked; `put` writes what stands on it in the same transaction, and `noted` has it known before
    /// anybody could remove it again.
    pub(super) fn enter_layers<T>(
        &self,
        raw_config: &[u8],
        unpacked: Vec<Unpacked<'_>>,
        put: impl FnOnce(&Database) -> Result<()>,
        noted: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let config: ImageConfig = serde_json::from_slice(raw_config)
            .map_err(|error| Error::invalid(format!("invalid image configuration: {error}")))?;
        let database = self.database();
        let mut rows = Vec::new();
        let placed = self.place_all(&config.rootfs.diff_ids, &unpacked, &mut rows);
        let entered = placed.and_then(|()| fault::point("image", "layers placed")).and_then(|()| {
            database.transaction(|database| {
                rows.iter().try_for_each(|row| database.put_layer(row))?;
                put(database)
            })
        });
        if let Err(error) = entered {
            for row in rows {
                let place = self.layer_place(row.number);
                [place.tree, place.split, place.kept].iter().for_each(|path| self.discard(path));
            }
            return Err(error);
        }
        let noted = {
            let mut state = self.state_mut();
            self.syncing.layers(rows.iter().map(|row| row.number));
            rows.into_iter().for_each(|row| state.add_layer(row));
            noted(&mut state)?
        };
        drop(database);
        fault::passed("image", "rows written");
        Ok(noted)
    }

    /// Gives all layers that are not known yet their places, lowest first.
    fn place_all(
        &self,
        diff_ids: &[Digest],
        unpacked: &[Unpacked<'_>],
        rows: &mut Vec<LayerRow>,
    ) -> Result<()> {
        let mut unplaced: Vec<&Unpacked<'_>> = unpacked.iter().collect();
        let mut below = None;
        for &diff_id in diff_ids {
            let chain_id = Digest::chain(below, diff_id);
            if !self.state().layers.contains_key(&chain_id) {
                let layer = unplaced.iter().position(|layer| layer.passed.diff_id == diff_id);
                let copy;
                let layer = match layer {
                    Some(layer) => unplaced.swap_remove(layer),
                    None => {
                        copy = self.copy_layer(&diff_id, rows)?;
                        &copy
                    }
                };
                rows.push(LayerRow {
                    number: self.place(layer)?,
                    chain_id,
                    diff_id,
                    parent: below,
                    size: layer.passed.value,
                    archive_size: layer.passed.length,
                    unsynced: Some(self.boot.clone()),
                });
            }
            below = Some(chain_id);
        }
        Ok(())
    }

    /// The same layer at another place of a stack needs a folder of its own: overlayfs takes none twice.
    fn copy_layer(&self, diff_id: &Digest, placed: &[LayerRow]) -> Result<Unpacked<'_>> {
        let here = placed.iter().find(|row| row.diff_id == *diff_id).map(|row| row.number);
        let number = here.or_else(|| {
            let state = self.state();
            state.layers.values().find(|layer| layer.row.diff_id == *diff_id).map(|layer| layer.row.number)
        });
        let number = number.ok_or_else(|| Error::not_found(format!("layer {diff_id} is missing")))?;
        let place = self.layer_place(number);
        let copy = self.unpack_from(|out| {
            assemble(&place.split, &place.kept, &place.tree, out)
                .map_err(|error| Error::system(format_args!("read layer {diff_id}"), error))?;
            out.flush().map_err(|error| Error::system(format_args!("copy layer {diff_id}"), error))
        })?;
        match copy.passed.diff_id == *diff_id {
            true => Ok(copy),
            false => {
                Err(Error::new(crate::Kind::System, format!("layer {diff_id} is not any more what it was")))
            }
        }
    }

    /// Moves an unpacked layer to the place that it will have for good.
    pub(super) fn place(&self, layer: &Unpacked<'_>) -> Result<u64> {
        let number = self.next_number();
        let from = Place::beneath(&layer.folder);
        let to = self.layer_place(number);
        let rename = |from: &PathBuf, to: &PathBuf| match std::fs::rename(from, to) {
            Err(error) => Err(Error::file("create", to, error)),
            Ok(()) => Ok(()),
        };
        rename(&from.split, &to.split)?;
        if from.kept.exists() {
            rename(&from.kept, &to.kept)?;
        }
        rename(&from.tree, &to.tree)?;
        Ok(number)
    }
}

/// The bytes of a configuration, which are hashed.
pub(super) fn serialise(config: &ImageConfig) -> Result<Vec<u8>> {
    serde_json::to_vec(config)
        .map_err(|error| Error::invalid(format!("write the image's configuration: {error}")))
}
