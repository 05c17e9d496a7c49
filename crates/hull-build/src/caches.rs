//! What stays of builds for later ones: their steps, the folders of cache mounts, kept contexts; told and removed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hull_engine::Engine;
use hull_image::Digest;

use crate::builder::Builder;
use crate::context::Folder;
use crate::failure::{Failure, Result};
use crate::underway::Underway;

/// The folders that builds use.
#[derive(Debug)]
pub struct Places {
    /// What is gone with each build, and with the daemon.
    pub temporary: PathBuf,
    /// The folders of cache mounts.
    pub caches: PathBuf,
    /// Contexts that came over sessions, for the next time.
    pub received: PathBuf,
    /// Secrets, in memory.
    pub private: PathBuf,
    /// Who waits for a cache that is locked.
    pub locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// How many steps have a cache mounted.
    pub used: Mutex<HashMap<String, usize>>,
    /// Steps that are being done now.
    pub underway: Arc<Underway>,
}

impl Places {
    /// Removes the contexts that are kept; how many bytes they had.
    fn take_received(&self) -> Result<u64> {
        let failed = |error: std::io::Error| Failure::system("remove the contexts of builds", error);
        let trash = Folder::beneath(&self.temporary)?;
        for entry in std::fs::read_dir(&self.received).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // One that a build takes at this very moment is that build's.
            let _ = std::fs::rename(entry.path(), trash.path().join(entry.file_name()));
        }
        Ok(hull_image::tree_size(trash.path())?)
    }

    /// Moves the folders of cache mounts that no step has out of the way. Steps wait for this, and not for their removal.
    fn take_caches(&self, trash: &Folder) -> Result<Vec<String>> {
        let failed = |error: std::io::Error| Failure::system("remove the caches of builds", error);
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        for entry in std::fs::read_dir(&self.caches).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let folder = name.trim_end_matches(".id");
            if used.contains_key(folder) {
                continue;
            }
            std::fs::rename(entry.path(), trash.path().join(&name)).map_err(failed)?;
            if folder == name {
                taken.push(name);
            }
        }
        Ok(taken)
    }
}

/// A folder that stays for later builds.
#[derive(Clone, Debug)]
pub struct CacheFolder {
    /// Its name on the disk.
    pub name: String,
    /// Of which kind it is, as BuildKit calls it.
    pub kind: &'static str,
    /// What it is: of a cache mount, by the id that steps know it by.
    pub description: String,
    /// A build has it now.
    pub in_use: bool,
    /// Bytes in it.
    pub size: u64,
    /// When it was made, and when a step had it last, in seconds of Unix time.
    pub created: i64,
    /// When a step had it last.
    pub used: i64,
}

/// What is removed of what was built. Where bytes bound it, those are of steps: folders of cache mounts and contexts stay.
#[derive(Clone, Debug, Default)]
pub struct Prune {
    /// Also what images have.
    pub all: bool,
    /// So many bytes stay in any case; 0: none.
    pub keep: u64,
    /// So many bytes may stay; 0: as many as the others say.
    pub max_used: u64,
    /// So many bytes are to be free on the disk; 0: it does not matter.
    pub min_free: u64,
    /// Only what was not used since: nanoseconds since 1970.
    pub until: Option<i64>,
    /// Only these, by the beginnings of their ids.
    pub ids: Vec<String>,
    /// Only what is of these kinds, as BuildKit calls them.
    pub kinds: Vec<String>,
    /// Only what images have, or only what none has.
    pub shared: Option<bool>,
}

impl Prune {
    /// Up to how many bytes what is there may take, of so many that it takes and so many that are free; none: nothing
    /// bounds what goes.
    fn stays(&self, used: u64, free: u64) -> Option<u64> {
        if self.keep == 0 && self.max_used == 0 && self.min_free == 0 {
            return None;
        }
        let mut stays = if self.max_used == 0 && self.min_free > 0 { used } else { self.max_used };
        let missing = self.min_free.saturating_sub(free);
        if missing > 0 {
            stays = stays.min(used.saturating_sub(missing));
        }
        Some(stays.max(self.keep))
    }
}

/// The kinds of what is removed: steps, folders of cache mounts, and contexts.
const STEP: &str = "regular";
const CACHE_MOUNT: &str = "exec.cachemount";
const CONTEXT: &str = "source.local";

impl Prune {
    /// Whether things of that kind are meant.
    fn means(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|named| named == kind)
    }
}

/// So many bytes of steps are kept that no image has.
pub(crate) const KEPT: u64 = 20 << 30;

/// Removes the steps that were used longest ago, until those that are left take no more than so many bytes.
pub(crate) fn collect(engine: &Engine, most: u64) -> Result<()> {
    let mut steps = engine.images.steps()?;
    steps.retain(|step| !step.shared);
    let mut total: u64 = steps.iter().map(|step| step.size).sum();
    steps.sort_by_key(|step| step.used);
    let mut keys = Vec::new();
    for step in &steps {
        if total <= most {
            break;
        }
        total = total.saturating_sub(step.size);
        keys.push(step.key);
    }
    engine.images.forget_steps(&keys)?;
    Ok(())
}

impl Builder {
    /// Removes what was built and is not wanted any more: the ids of the steps, and the bytes that were given back.
    ///
    /// # Errors
    /// The store fails.
    pub fn prune(&self, prune: &Prune) -> Result<(Vec<String>, u64)> {
        let mut steps = self.engine.images.steps()?;
        // What was used last goes last.
        steps.sort_by_key(|step| step.used);
        let old = |used: i64| prune.until.is_none_or(|until| used.saturating_mul(1_000_000_000) < until);
        let wanted = |step: &&hull_image::StepUsage| {
            prune.means(STEP)
                && (prune.all || !step.shared)
                && prune.shared.is_none_or(|shared| shared == step.shared)
                && old(step.used)
                && (prune.ids.is_empty()
                    || prune.ids.iter().any(|id| step.key.hex().starts_with(id.as_str())))
        };
        // What images have takes their room, and is not given back with the step.
        let own = |step: &hull_image::StepUsage| if step.shared { 0 } else { step.size };
        let mut left: u64 = steps.iter().map(own).sum();
        // Where nobody can say how much is free, none is missing.
        let free = rustix::fs::statvfs(&self.places.caches)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let stays = prune.stays(left, free);
        let mut keys = Vec::new();
        for step in steps.iter().filter(wanted) {
            if stays.is_some_and(|stays| left <= stays) {
                break;
            }
            left = left.saturating_sub(own(step));
            keys.push(step.key);
        }
        let mut reclaimed = self.engine.images.forget_steps(&keys)?;
        let mut removed: Vec<String> = keys.iter().map(Digest::hex).collect();
        // No image has a folder.
        let folders_too = stays.is_none() && prune.ids.is_empty() && prune.until.is_none();
        if folders_too && prune.shared != Some(true) {
            let (folders, bytes) = self.prune_folders(prune)?;
            removed.extend(folders);
            reclaimed += bytes;
            if prune.all && prune.kinds.is_empty() {
                self.logs.clear();
            }
        }
        Ok((removed, reclaimed))
    }

    /// The folders of cache mounts, and of contexts that are kept. Blocks: their sizes are counted.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn caches(&self) -> Result<Vec<CacheFolder>> {
        let failed = |error: std::io::Error| Failure::system("look at the caches of builds", error);
        let mut caches = Vec::new();
        for entry in std::fs::read_dir(&self.places.caches).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_suffix(".id") else { continue };
            // One that is pruned at this very moment is not told.
            let Ok(id) = std::fs::read_to_string(entry.path()) else { continue };
            let Ok(size) = hull_image::tree_size(&self.places.caches.join(name)) else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            let seconds = |time: std::io::Result<std::time::SystemTime>| {
                let since = time.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
                since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
            };
            let used = seconds(metadata.modified());
            // Where the file system does not say when a file was made, it was no later than it was used.
            let created = Some(seconds(metadata.created())).filter(|time| *time > 0).unwrap_or(used);
            let in_use = self.places.used.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name);
            let (name, description) = (name.to_owned(), format!("cache mount {id}"));
            let kind = CACHE_MOUNT;
            caches.push(CacheFolder { name, kind, description, in_use, size, created, used });
        }
        caches.extend(self.contexts.folders()?);
        caches.sort_by(|a, b| a.description.cmp(&b.description));
        Ok(caches)
    }

    /// Removes the folders of cache mounts that no step has, and the contexts that no build has.
    fn prune_folders(&self, prune: &Prune) -> Result<(Vec<String>, u64)> {
        let trash = Folder::beneath(&self.places.temporary)?;
        let (mut removed, mut bytes) = (Vec::new(), 0);
        if prune.means(CACHE_MOUNT) {
            removed.extend(self.places.take_caches(&trash)?);
        }
        if prune.means(CONTEXT) {
            removed.extend(self.contexts.take(0, &trash)?);
            bytes += self.places.take_received()?;
        }
        for name in &removed {
            bytes += hull_image::tree_size(&trash.path().join(name))?;
        }
        Ok((removed, bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_stays_is_bounded_by_what_it_takes_and_by_what_is_free() {
        let of =
            |keep, max_used, min_free| Prune { keep, max_used, min_free, ..Prune::default() }.stays(100, 50);
        assert_eq!(of(0, 0, 0), None);
        assert_eq!(of(30, 0, 0), Some(30));
        assert_eq!(of(0, 60, 0), Some(60));
        assert_eq!(of(70, 60, 0), Some(70));
        // Twenty are missing.
        assert_eq!(of(0, 0, 70), Some(80));
        assert_eq!(of(90, 0, 70), Some(90));
        assert_eq!(of(0, 60, 70), Some(60));
        assert_eq!(of(0, 0, 40), Some(100));
    }

    fn places(root: &Path) -> Places {
        Places {
            temporary: root.to_owned(),
            caches: root.join("caches"),
            received: root.join("received"),
            private: root.to_owned(),
            locks: Mutex::default(),
            used: Mutex::new(HashMap::from([("b".to_owned(), 1)])),
            underway: Arc::default(),
        }
    }

    #[test]
    fn caches_that_a_step_has_stay() {
        let root = Folder::beneath(&std::env::temp_dir()).unwrap();
        let places = places(root.path());
        for name in ["a", "b"] {
            std::fs::create_dir_all(places.caches.join(name).join("files")).unwrap();
            std::fs::write(places.caches.join(format!("{name}.id")), name).unwrap();
        }
        let trash = Folder::beneath(&places.temporary).unwrap();
        assert_eq!(places.take_caches(&trash).unwrap(), ["a"]);
        let left = |name: &str| places.caches.join(name).exists();
        assert_eq!(["a", "a.id", "b/files", "b.id"].map(left), [false, false, true, true]);
        assert!(trash.path().join("a/files").exists() && trash.path().join("a.id").exists());
    }

    #[test]
    fn locks_that_nobody_has_are_not_kept() {
        let root = Folder::beneath(&std::env::temp_dir()).unwrap();
        let places = places(root.path());
        let held = places.lock("held");
        for name in 0..100 {
            drop(places.lock(&name.to_string()));
        }
        assert!(Arc::ptr_eq(&held, &places.lock("held")));
        assert_eq!(places.locks.lock().unwrap().len(), 1);
    }
}
