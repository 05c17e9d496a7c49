//! Layers whose database is gone. Which is which, and on which it stands, stood there alone; yet containers may run on them.
//! They are put aside for [`Store::check`] to tell of, and to remove when it is to repair.

use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use serde::{Serialize, Serializer};

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
    #[serde(serialize_with = "as_shown")]
    pub path: PathBuf,
    /// How many.
    pub layers: usize,
    /// The bytes of their files.
    pub size: u64,
}

/// A path need not be UTF-8, and what is told of it is.
fn as_shown<S: Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl Store {
    /// What was put aside, and has not been removed. What a tree takes is remembered, since nobody changes it; one that cannot
    /// be walked is walked again the next time, and counts nothing until then.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn lost(&self) -> Result<Vec<LostLayers>> {
        let folder = self.root.join(LOST);
        let paths: Vec<PathBuf> = names(&folder)?.into_iter().map(|name| folder.join(name)).collect();
        let known = {
            let mut known = self.known_lost();
            known.retain(|lost| paths.contains(&lost.path));
            known.clone()
        };
        // Not under the lock: who asks meanwhile walks too, and waits for nobody.
        let mut all = Vec::new();
        for path in paths {
            if let Some(known) = known.iter().find(|known| known.path == path) {
                all.push(known.clone());
                continue;
            }
            let counted = count(&path).and_then(|layers| Ok((layers, super::tree_size(&path)?)));
            match counted {
                Ok((layers, size)) => {
                    let lost = LostLayers { path, layers, size };
                    let mut known = self.known_lost();
                    if !known.contains(&lost) {
                        known.push(lost.clone());
                    }
                    all.push(lost);
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "what these lost layers take is not known");
                    all.push(LostLayers { layers: count(&path).unwrap_or_default(), size: 0, path });
                }
            }
        }
        Ok(all)
    }

    fn known_lost(&self) -> MutexGuard<'_, Vec<LostLayers>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
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
            if how.repair && !how.lost_is_used {
                // What a removal leaves that fails is less than it was.
                self.known_lost().retain(|known| known.path != path);
                finding.repaired = self.trash.take(&path)?;
            }
            checked.findings.push(finding);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn store(root: &Path) -> Store {
        fs::create_dir_all(root).unwrap();
        Store::open(root, &[]).unwrap()
    }

    #[test]
    fn what_cannot_be_walked_is_walked_again() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let lost = root.path().join("lost/1");
        fs::create_dir_all(lost.parent().unwrap()).unwrap();
        // No folder: nothing can be counted.
        fs::write(&lost, "").unwrap();
        assert_eq!(store.lost().unwrap(), [LostLayers { path: lost.clone(), layers: 0, size: 0 }]);
        fs::remove_file(&lost).unwrap();
        fs::create_dir_all(lost.join("layers/a")).unwrap();
        fs::write(lost.join("layers/a/file"), [0; 1000]).unwrap();
        let counted = [LostLayers { path: lost.clone(), layers: 1, size: 1000 }];
        assert_eq!(store.lost().unwrap(), counted);
        // A folder that has been counted is not walked again.
        fs::write(lost.join("layers/a/file"), "").unwrap();
        assert_eq!(store.lost().unwrap(), counted);
    }

    #[test]
    fn a_place_that_is_no_utf8_is_told_nonetheless() {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(b"/d\xff/lost/1"));
        let told = serde_json::to_value(LostLayers { path, layers: 1, size: 2 }).unwrap();
        assert_eq!(told["Path"], "/d\u{fffd}/lost/1");
    }
}
