//! A layer made of what a snapshot changed, where it lies: its files are renamed, not copied. They are read once, for the
//! digest that names the layer and for the archive's bookkeeping.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use super::clamp::clamp;
use super::commit::pack;
use super::database::LayerRow;
use super::diff::Changes;
use super::import::Unpacked;
use super::state::{Base, State, What};
use super::{Layer, Snapshot, Store};
use crate::layer::split::SplitWriter;
use crate::layer::stream::{ChunkReader, Passed, pass_made};
use crate::tar::{Kind, Reader, Record};
use crate::{Digest, Error, Result};

/// Layers that nobody removes as long as this is there: the uppermost one, and all below it.
#[derive(Debug)]
pub struct Held {
    store: Arc<Store>,
    top: Digest,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.store.state_mut().release(&self.top);
        if let Err(error) = self.store.collect(self.top) {
            tracing::warn!("{error}; layers that nothing uses stay until the next start");
        }
    }
}

/// What was taken of a snapshot.
#[derive(Debug)]
pub enum Taken {
    /// A layer whose digest is not known yet.
    Unnamed(Unnamed),
    /// A layer.
    Layer(Layer, Held),
}

/// A layer that can be stood on, and whose digest is not known yet. It is known by a name that was drawn, in memory alone: a
/// daemon that comes later finds its folder without a row, and removes it.
#[derive(Debug)]
pub struct Unnamed {
    store: Arc<Store>,
    /// As it is called until then.
    layer: Layer,
    number: u64,
    below: Option<Digest>,
    changes: Changes,
    held: Held,
}

impl Unnamed {
    /// What it is called until its digest is known.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Reads it for its digest, and enters it under that. By its former name it is known as long as something uses it so.
    /// Blocks.
    ///
    /// # Errors
    /// What it stands on has no digest itself, its files cannot be read, or the disk fails.
    pub fn named(self) -> Result<(Layer, Held)> {
        let Unnamed { store, layer: unnamed, number, below, changes, held } = self;
        let below = store.named_below(below)?;
        let place = store.layer_place(number);
        let passed = pass_made(|out| pack(&place.tree, &changes, out), |chunks| record(chunks, &place.split));
        let Passed { diff_id, length, value: size, .. } = passed?;
        crate::fault::point("seal", "digest known")?;
        let chain_id = Digest::chain(below, diff_id);
        let database = store.database();
        let known = store.state().layers.contains_key(&chain_id);
        if !known {
            let unsynced = Some(store.boot.clone());
            let row =
                LayerRow { number, chain_id, diff_id, parent: below, size, archive_size: length, unsynced };
            database.put_layer(&row)?;
            store.state_mut().add_layer(row);
            store.syncing.layers([number]);
        }
        {
            let mut state = store.state_mut();
            if let Some(layer) = state.layers.get_mut(&unnamed.chain_id) {
                layer.what = What::Named { chain_id, has_files: known };
            }
            // The name stands on what it is a name of, and whoever asked holds that too.
            if let Some(layer) = state.layers.get_mut(&chain_id) {
                layer.users += 2;
            }
        }
        drop(database);
        drop(held);
        let held = Held { store, top: chain_id };
        Ok((Layer { chain_id, diff_id, size }, held))
    }
}

impl Store {
    /// Holds a layer and those below it.
    ///
    /// # Errors
    /// It is not there.
    pub fn hold(self: &Arc<Self>, top: Digest) -> Result<Held> {
        self.hold_in(&mut self.state_mut(), top)
    }

    /// The same, where the state is had already.
    pub(super) fn hold_in(self: &Arc<Self>, state: &mut State, top: Digest) -> Result<Held> {
        let layer = state.layers.get_mut(&top);
        layer.ok_or_else(|| Error::not_found(format!("layer {top} was removed meanwhile")))?.users += 1;
        Ok(Held { store: Arc::clone(self), top })
    }

    /// Makes a layer of what a snapshot changed, which nothing is mounted of any more and nothing will be: only its
    /// removal is left. None where nothing was changed. No time in it is later than `latest`, in seconds since 1970.
    ///
    /// # Errors
    /// Its files cannot be read, or the disk fails; nothing is left then.
    pub fn seal(self: &Arc<Self>, key: &str, latest: Option<i64>) -> Result<Option<(Layer, Held)>> {
        match self.take(key, latest)? {
            None => Ok(None),
            Some(Taken::Unnamed(unnamed)) => unnamed.named().map(Some),
            Some(Taken::Layer(layer, held)) => Ok(Some((layer, held))),
        }
    }

    /// The same of a snapshot that stays what it is: its files are copied.
    ///
    /// # Errors
    /// As [`Store::seal`].
    pub fn copied(self: &Arc<Self>, key: &str, latest: Option<i64>) -> Result<Option<Taken>> {
        let changes = self.raw_changes(key)?;
        if changes.is_empty() {
            return Ok(None);
        }
        let below = self.below(key)?;
        let upper = self.snapshot(key)?.upper;
        if let Some(latest) = latest {
            clamp(&upper, &changes, latest)?;
        }
        let unpacked = self.unpack_from(|out| pack(&upper, &changes, out))?;
        let below = self.named_below(below)?;
        self.enter_layer(&unpacked, below).map(|(layer, held)| Some(Taken::Layer(layer, held)))
    }

    /// The layer that a snapshot stands on.
    fn below(&self, key: &str) -> Result<Option<Digest>> {
        match self.state().snapshots.get(key) {
            Some(Base::Layer(top)) => Ok(Some(*top)),
            Some(Base::Nothing) => Ok(None),
            _ => Err(Error::new(
                crate::Kind::Forbidden,
                "what lies below is this machine itself (hull/host), which is no layer: nothing can be built on it",
            )),
        }
    }

    /// As [`Store::seal`], without reading the files for their digest: they are moved to their place, and can be stood
    /// on at once. None
    /// where nothing was changed.
    ///
    /// # Errors
    /// As [`Store::seal`].
    pub fn take(self: &Arc<Self>, key: &str, latest: Option<i64>) -> Result<Option<Taken>> {
        let changes = self.raw_changes(key)?;
        if changes.is_empty() {
            return Ok(None);
        }
        let below = self.below(key)?;
        let Snapshot { upper, is_whole, .. } = self.snapshot(key)?;
        if let Some(latest) = latest {
            clamp(&upper, &changes, latest)?;
        }
        if is_whole {
            // What was changed lies among all the rest.
            let unpacked = self.unpack_from(|out| pack(&upper, &changes, out))?;
            let below = self.named_below(below)?;
            return self.enter_layer(&unpacked, below).map(|(layer, held)| Some(Taken::Layer(layer, held)));
        }
        let number = self.next_number();
        // Nobody guesses it, or an image could be made to stand on it.
        let drawn = Path::new("/proc/sys/kernel/random/uuid");
        let drawn = std::fs::read(drawn).map_err(|error| Error::file("read", drawn, error))?;
        let diff_id = Digest::of(&drawn);
        let chain_id = Digest::chain(below, diff_id);
        let place = self.layer_place(number);
        let row =
            LayerRow { number, chain_id, diff_id, parent: below, size: 0, archive_size: 0, unsynced: None };
        {
            // Whoever looks for folders without rows holds the database.
            let _database = self.database();
            moved(&upper, &place.tree)?;
            let mut state = self.state_mut();
            state.add_layer(row);
            if let Some(layer) = state.layers.get_mut(&chain_id) {
                layer.what = What::Unnamed;
            }
        }
        let held = self.hold(chain_id)?;
        let layer = Layer { chain_id, diff_id, size: 0 };
        Ok(Some(Taken::Unnamed(Unnamed { store: Arc::clone(self), layer, number, below, changes, held })))
    }

    /// What a layer stands on, by its digest.
    fn named_below(&self, below: Option<Digest>) -> Result<Option<Digest>> {
        let unnamed = || Error::conflict("the layer below has no digest yet");
        below.map(|below| self.state().named(below).ok_or_else(unnamed)).transpose()
    }

    /// Gives a layer its place above another, and its row.
    pub(super) fn enter_layer(
        self: &Arc<Self>,
        unpacked: &Unpacked<'_>,
        below: Option<Digest>,
    ) -> Result<(Layer, Held)> {
        let Passed { diff_id, length, value: size, .. } = unpacked.passed;
        let chain_id = Digest::chain(below, diff_id);
        let database = self.database();
        let known = self.state().layers.contains_key(&chain_id);
        if !known {
            let number = self.place(unpacked)?;
            let row = LayerRow {
                number,
                chain_id,
                diff_id,
                parent: below,
                size,
                archive_size: length,
                unsynced: Some(self.boot.clone()),
            };
            if let Err(error) = database.put_layer(&row) {
                let place = self.layer_place(number);
                [place.tree, place.split, place.kept].iter().for_each(|path| self.discard(path));
                return Err(error);
            }
            self.state_mut().add_layer(row);
            self.syncing.layers([number]);
        }
        let held = self.hold(chain_id)?;
        drop(database);
        Ok((Layer { chain_id, diff_id, size }, held))
    }
}

/// The snapshot's folder becomes the layer's.
fn moved(upper: &Path, tree: &Path) -> Result<()> {
    // As of every layer: what the root itself is, is its container's.
    rustix::fs::chmod(upper, rustix::fs::Mode::from(0o755))
        .map_err(|errno| Error::file("change the mode of", upper, errno))?;
    std::fs::rename(upper, tree).map_err(|error| Error::file("move", upper, error))
}

/// Writes down what is in an archive besides the bytes of its files. The value is the number of those.
fn record(chunks: ChunkReader, split: &Path) -> Result<u64> {
    let create = |error| Error::file("write", split, error);
    let mut reader = Reader::new(chunks, SplitWriter::create(split).map_err(create)?);
    let mut size = 0;
    while let Some(entry) = reader.next().map_err(Error::archive)? {
        if entry.kind == Kind::File {
            size += entry.size;
            passed_over(&mut reader, &entry.path, &entry).map_err(Error::archive)?;
        }
    }
    let (_, split) = reader.finish().map_err(Error::archive)?;
    split.finish().map_err(create)?;
    Ok(size)
}

/// Takes note of a file's contents, which are on the disk already.
fn passed_over<R: BufRead, S: Record>(
    reader: &mut Reader<R, S>,
    path: &[u8],
    entry: &crate::tar::Entry,
) -> std::io::Result<()> {
    let whole = [(0, entry.size)];
    for &(offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
        reader.record.contents(path, offset, length)?;
        let mut done = 0;
        while done < length {
            let count = reader.data()?.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            if count == 0 {
                break;
            }
            reader.consume(count);
            done += count as u64;
        }
    }
    Ok(())
}
