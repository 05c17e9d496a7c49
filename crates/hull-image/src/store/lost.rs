//! Layers whose database is gone. Which is which, and on which it stands, stood there alone; yet containers may run on them.
//! They are put aside for [`Store::check`] to tell of, and to remove when it is to repair.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use serde::Serialize;

use super::Store;
use super::check::{Check, Checked, Finding, Wrong, names};
use crate::{Error, Result};

/// The folder of what was put aside, in the store's.
pub(super) const LOST: &str = "lost";

/// The folders of what belongs to layers, and last those themselves: as long as they are there, not all was put aside.
const OF_LAYERS: [&str; 3] = ["split", "merged", "layers"];

/// Puts the layers aside where there is no database that knows them.
pub(super) fn put_aside(root: &Path) -> Result<()> {
    let database = root.join("image.db");
    if std::fs::metadata(&database).is_ok_and(|database| database.len() > 0) {
        return Ok(());
    }
    let layers: usize = count(root)?;
    if layers == 0 {
        return Ok(());
    }
    let lost = root.join(LOST);
    std::fs::create_dir_all(&lost).map_err(|error| Error::file("create", &lost, error))?;
    // One that a crash left half is gone on with.
    let is_open = |place: &PathBuf| !place.join("layers").exists();
    let place = (1..).map(|number: u64| lost.join(number.to_string())).find(is_open);
    let place = place.unwrap_or(lost);
    std::fs::create_dir_all(&place).map_err(|error| Error::file("create", &place, error))?;
    tracing::warn!(
        "{} is gone, and with it which image has which of {layers} layers: they are put aside in {}, and `hull system fsck \
         --repair` removes them; load or pull the images again",
        database.display(),
        place.display()
    );
    for folder in OF_LAYERS {
        let (from, to) = (root.join(folder), place.join(folder));
        if to.exists() {
            continue;
        }
        std::fs::rename(&from, &to).map_err(|error| Error::file("put aside", &from, error))?;
        crate::fault::point("put aside", folder)?;
    }
    // The store makes its own again.
    for folder in OF_LAYERS {
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder).map_err(|error| Error::file("create", &folder, error))?;
    }
    Ok(())
}

/// The layers in a store's root, or in one that was put aside.
fn count(root: &Path) -> Result<usize> {
    // The init layer is made anew.
    Ok(names(&root.join("layers"))?.iter().filter(|name| *name != "0").count())
}

/// Layers that were put aside together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LostLayers {
    /// Where they are.
    pub path: PathBuf,
    /// How many.
    pub layers: usize,
    /// The bytes of their files.
    pub size: u64,
}

impl Store {
    /// What was put aside, and has not been removed. Its trees are walked the first time: nobody changes them.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn lost(&self) -> Result<Vec<LostLayers>> {
        let mut known = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.root.join(LOST);
        let paths: Vec<PathBuf> = names(&folder)?.into_iter().map(|name| folder.join(name)).collect();
        known.retain(|lost| paths.contains(&lost.path));
        for path in paths {
            if !known.iter().any(|lost| lost.path == path) {
                let size = super::tree_size(&path).unwrap_or_default();
                known.push(LostLayers { layers: count(&path)?, size, path });
            }
        }
        Ok(known.clone())
    }

    /// Tells of what was put aside.
    pub(super) fn check_lost(&self, how: Check, checked: &mut Checked) -> Result<()> {
        for LostLayers { path, layers, size } in self.lost()? {
            let what = format!("{layers} layers ({} MB) whose database is gone", size / 1_000_000);
            let remedy = match how.lost_is_used {
                true => "containers run on them: end those whose image is missing, and repair then",
                false => "remove them, and load or pull the images again",
            };
            let mut finding = Finding::new(Wrong::Orphan, what, &path, remedy);
            finding.repaired = how.repair && !how.lost_is_used && self.trash.take(&path)?;
            checked.findings.push(finding);
        }
        Ok(())
    }
}
