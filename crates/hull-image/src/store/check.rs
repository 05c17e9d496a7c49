//! Whether everything on the disk is accounted for: the folders of the store against its rows.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Store;
use super::state::{What, base36};
use crate::layer::split::assemble;
use crate::{Digest, Error, Result};

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wrong {
    /// It is on the disk, and nobody knows it.
    Orphan,
    /// It is known, and not on the disk.
    Missing,
    /// It is not what it was.
    Damaged,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// What is wrong.
    pub wrong: Wrong,
    /// What it is: `layer sha256:…`, `a folder of layers`, `snapshot …`.
    pub what: String,
    /// Where it is, or should be.
    pub path: PathBuf,
    /// What is to be done, or was.
    pub remedy: String,
    /// It was done.
    pub repaired: bool,
}

impl Finding {
    /// A finding that nothing was done about yet.
    pub fn new(wrong: Wrong, what: impl Into<String>, path: &Path, remedy: impl Into<String>) -> Finding {
        let (what, remedy) = (what.into(), remedy.into());
        Finding { wrong, what, path: path.to_owned(), remedy, repaired: false }
    }
}

/// How a store is looked through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Check {
    /// Orphans are removed, and images whose layers are missing or damaged.
    pub repair: bool,
    /// Every layer is read, and must be what its digest says.
    pub contents: bool,
    /// A container runs on layers whose database is gone: these stay.
    pub lost_is_used: bool,
}

/// What a look through a store found.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Checked {
    /// Images that were looked at, the built-in one apart.
    pub images: usize,
    /// Layers.
    pub layers: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// What operations that are on their way have made so far.
    pub in_work: usize,
    /// What is being removed behind.
    pub being_removed: usize,
    /// What is not as it should be.
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

/// All that is in the root of a store.
const KNOWN: [&str; 13] = [
    "host",
    "image.db",
    "image.db-shm",
    "image.db-wal",
    "layers",
    "lock",
    super::lost::LOST,
    "merged",
    "partial",
    "snapshots",
    "split",
    "tmp",
    "trash",
];

impl Store {
    /// Looks the store through. It may be in use: what is on its way is no finding.
    ///
    /// # Errors
    /// A folder or the database cannot be read.
    pub fn check(&self, how: Check) -> Result<Checked> {
        let mut checked = Checked::default();
        self.check_root(&mut checked)?;
        self.check_layers(how, &mut checked)?;
        self.check_lost(how, &mut checked)?;
        self.check_images(&mut checked)?;
        self.check_snapshots(how, &mut checked)?;
        if how.contents {
            self.check_contents(how, &mut checked)?;
        }
        checked.in_work = names(&self.root.join("tmp"))?.len();
        checked.being_removed = names(&self.root.join("trash"))?.len();
        Ok(checked)
    }

    fn check_root(&self, checked: &mut Checked) -> Result<()> {
        for name in names(&self.root)? {
            if !KNOWN.contains(&name.as_str()) {
                let remedy = "it is nothing of this daemon's: look at it, and move it elsewhere";
                checked.findings.push(Finding::new(
                    Wrong::Orphan,
                    "something in the image store",
                    &self.root.join(name),
                    remedy,
                ));
            }
        }
        Ok(())
    }

    /// The folders of layers against their rows, and the other way round.
    fn check_layers(&self, how: Check, checked: &mut Checked) -> Result<()> {
        // Whoever gives layers their places holds it until their rows are there.
        let database = self.database();
        let rows = database.layers()?;
        checked.layers = rows.len();
        let mut known: HashSet<String> =
            rows.iter().map(|row| base36(row.number)).chain(["0".to_owned()]).collect();
        // Those whose digest is not known yet have none.
        known.extend(self.state().layers.values().map(|layer| base36(layer.row.number)));
        for folder in ["layers", "split", "merged"] {
            for name in names(&self.root.join(folder))? {
                if known.contains(name.trim_end_matches(".kept")) {
                    continue;
                }
                let path = self.root.join(folder).join(name);
                let what = format!("a folder of {folder} without a row");
                let mut finding = Finding::new(Wrong::Orphan, what, &path, "remove it");
                finding.repaired = how.repair && self.trash.take(&path)?;
                checked.findings.push(finding);
            }
        }
        for row in rows {
            let place = self.layer_place(row.number);
            for (path, is_there) in
                [(&place.tree, place.tree.is_dir()), (&place.split, place.split.is_file())]
            {
                if !is_there {
                    let what = format!("layer {}", row.chain_id);
                    let remedy = "remove the images that have it, and load or pull them again";
                    checked.findings.push(Finding::new(Wrong::Missing, what, path, remedy));
                }
            }
        }
        Ok(())
    }

    /// The rows of images and names against what is known in memory, which was looked through when the store opened.
    fn check_images(&self, checked: &mut Checked) -> Result<()> {
        let database = self.database();
        let (rows, rows_of_names) = (database.images()?, database.names()?);
        let state = self.state();
        checked.images = rows.len();
        let file = self.root.join("image.db");
        let mut differs = |what: String, wrong| {
            let remedy = "start the daemon anew: it takes up what the database has";
            checked.findings.push(Finding::new(wrong, what, &file, remedy));
        };
        let stored: HashSet<_> = rows.iter().map(|row| row.id).collect();
        for id in stored.iter().filter(|id| !state.images.contains_key(*id)) {
            differs(format!("the row of image {id}"), Wrong::Orphan);
        }
        for image in state.images.values().filter(|image| !image.builtin && !stored.contains(&image.id)) {
            differs(format!("the row of image {}", image.id), Wrong::Missing);
        }
        for (name, image) in rows_of_names {
            if state.names.get(&name) != Some(&image) {
                differs(format!("the row of the name {name}"), Wrong::Orphan);
            }
        }
        Ok(())
    }

    fn check_snapshots(&self, how: Check, checked: &mut Checked) -> Result<()> {
        let folder = self.root.join("snapshots");
        for name in names(&folder)? {
            checked.snapshots += 1;
            let path = folder.join(&name);
            // It is known before its folder is made, and until its folder is put aside.
            let known = self.state().snapshots.contains_key(&name);
            if !known && path.exists() {
                let what = format!("snapshot {name}");
                let mut finding = Finding::new(Wrong::Orphan, what, &path, "remove it");
                finding.repaired = how.repair && self.trash.take(&path)?;
                checked.findings.push(finding);
            }
        }
        Ok(())
    }

    /// Whether a snapshot is whole: its folders and what it stands on.
    pub fn snapshot_is_whole(&self, key: &str) -> bool {
        let Ok(snapshot) = self.snapshot(key) else { return false };
        // What lies below the machine's own files is not the store's.
        let work = (!snapshot.is_whole).then_some(&snapshot.work);
        let mut folders = [&snapshot.upper].into_iter().chain(work).chain(&snapshot.lower);
        folders.all(|folder| folder.is_dir())
    }

    /// Reads every layer.
    fn check_contents(&self, how: Check, checked: &mut Checked) -> Result<()> {
        let layers: Vec<(u64, Digest, Digest)> = {
            let state = self.state();
            state
                .layers
                .values()
                // One whose digest is not known yet says nothing of what it should be.
                .filter(|layer| layer.what == What::Layer)
                .map(|layer| (layer.row.number, layer.row.diff_id, layer.row.chain_id))
                .collect()
        };
        for (number, diff_id, chain_id) in layers {
            let place = self.layer_place(number);
            let mut hasher = Hasher(Sha256::new());
            let read = assemble(&place.split, &place.kept, &place.tree, &mut hasher);
            let is = read.map(|()| Digest::from_hasher(hasher.0));
            // It may have been removed meanwhile.
            if matches!(&is, Ok(is) if *is == diff_id) || !self.state().layers.contains_key(&chain_id) {
                continue;
            }
            let what = match is {
                Ok(_) => format!("layer {chain_id}, whose archive is not {diff_id} any more,"),
                Err(error) => format!("layer {chain_id}, which cannot be read ({error}),"),
            };
            let remedy = match how.repair {
                true => "not repaired: remove the images that have it, and load or pull them again",
                false => "remove the images that have it, and load or pull them again",
            };
            checked.findings.push(Finding::new(Wrong::Damaged, what, &place.tree, remedy));
        }
        Ok(())
    }
}

struct Hasher(Sha256);

impl std::io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The names in a folder; one that is not there has none.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", folder, error)),
    };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.map_err(|error| Error::file("read", folder, error))?;
        Ok(entry.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}
