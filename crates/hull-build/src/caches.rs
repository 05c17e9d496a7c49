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

    /// Moves the folder of a cache mount that no step has out of the way; whether it could. Steps wait for this, and not for
    /// its removal.
    fn take_cache(&self, name: &str, trash: &Folder) -> Result<bool> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.contains_key(name) {
            return Ok(false);
        }
        // The folder first: by what lies beside it, it is found again.
        for file in [name.to_owned(), format!("{name}.id")] {
            match std::fs::rename(self.caches.join(&file), trash.path().join(&file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::system("remove the caches of builds", error));
                }
                _ => {}
            }
        }
        Ok(true)
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

/// Something that stays of builds and may be removed.
struct Thing {
    /// By what it is called.
    id: String,
    what: What,
    /// An image has it, too.
    shared: bool,
    /// When it was used last, in seconds of Unix time.
    used: i64,
    /// The bytes that its removal gives back.
    frees: u64,
}

/// What a [`Thing`] is.
enum What {
    Step(Digest),
    CacheMount,
    Context,
}

impl What {
    /// As BuildKit calls it.
    fn kind(&self) -> &'static str {
        match self {
            What::Step(_) => STEP,
            What::CacheMount => CACHE_MOUNT,
            What::Context => CONTEXT,
        }
    }
}

/// What is removed of what was built: what was used longest ago first. Contexts that came over sessions go where no bytes, no ids
/// and no time bound it.
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
    /// Whether it depends on bytes what goes.
    fn is_bounded_by_bytes(&self) -> bool {
        self.keep > 0 || self.max_used > 0 || self.min_free > 0
    }

    /// Up to how many bytes what is there may take, of so many that it takes and so many that are free; none: nothing
    /// bounds what goes.
    fn stays(&self, used: u64, free: u64) -> Option<u64> {
        if !self.is_bounded_by_bytes() {
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

    /// Whether it is one of those that are to go, if there are too many bytes.
    fn wants(&self, thing: &Thing) -> bool {
        self.means(thing.what.kind())
            && (self.all || !thing.shared)
            && self.shared.is_none_or(|shared| shared == thing.shared)
            && self.until.is_none_or(|until| thing.used.saturating_mul(1_000_000_000) < until)
            && (self.ids.is_empty() || self.ids.iter().any(|id| thing.id.starts_with(id.as_str())))
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
        let mut all = self.things(prune)?;
        let mut left: u64 = all.iter().map(|thing| thing.frees).sum();
        // Where nobody can say how much is free, none is missing.
        let free = rustix::fs::statvfs(&self.places.caches)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let stays = prune.stays(left, free);
        all.retain(|thing| prune.wants(thing));
        // What was used last goes last.
        all.sort_by_key(|thing| thing.used);
        let trash = Folder::beneath(&self.places.temporary)?;
        let (mut keys, mut removed, mut reclaimed) = (Vec::new(), Vec::new(), 0_u64);
        for thing in all {
            if stays.is_some_and(|stays| left <= stays) {
                break;
            }
            let is_taken = match &thing.what {
                What::Step(key) => {
                    keys.push(*key);
                    true
                }
                What::CacheMount => self.places.take_cache(&thing.id, &trash)?,
                What::Context => self.contexts.take_one(&thing.id, &trash)?,
            };
            if is_taken {
                left = left.saturating_sub(thing.frees);
                reclaimed += match &thing.what {
                    // The store says it.
                    What::Step(_) => 0,
                    What::CacheMount if !prune.is_bounded_by_bytes() => {
                        size_of(&trash.path().join(&thing.id))
                    }
                    What::CacheMount | What::Context => thing.frees,
                };
                removed.push(thing.id);
            }
        }
        reclaimed += self.engine.images.forget_steps(&keys)?;
        let is_bounded = stays.is_some() || !prune.ids.is_empty() || prune.until.is_some();
        if !is_bounded && prune.shared != Some(true) {
            if prune.means(CONTEXT) {
                // What is damaged is told nobody, nor is what came over sessions, and nothing says when that was used.
                let taken = self.contexts.take(0, &trash)?;
                reclaimed += taken.iter().map(|name| size_of(&trash.path().join(name))).sum::<u64>();
                removed.extend(taken);
                reclaimed += self.places.take_received()?;
            }
            if prune.all && prune.kinds.is_empty() {
                self.logs.clear();
            }
        }
        Ok((removed, reclaimed))
    }

    /// What stays of builds, with what its removal frees: all of it where bytes bound what goes, or else what is meant, and of
    /// cache mounts without their bytes. Blocks: where bytes count, folders are walked.
    fn things(&self, prune: &Prune) -> Result<Vec<Thing>> {
        let by_bytes = prune.is_bounded_by_bytes();
        let counts = |kind: &str| by_bytes || prune.means(kind);
        let step = |step: hull_image::StepUsage| Thing {
            id: step.key.hex(),
            what: What::Step(step.key),
            shared: step.shared,
            used: step.used,
            // What images have takes their room, and is not given back with the step.
            frees: if step.shared { 0 } else { step.size },
        };
        let folder = |folder: CacheFolder| Thing {
            what: if folder.kind == CONTEXT { What::Context } else { What::CacheMount },
            id: folder.name,
            shared: false,
            used: folder.used,
            frees: folder.size,
        };
        let mut things = Vec::new();
        if counts(STEP) {
            things.extend(self.engine.images.steps()?.into_iter().map(step));
        }
        let mut folders = Vec::new();
        if counts(CACHE_MOUNT) {
            folders.extend(self.places.cache_mounts(by_bytes)?);
        }
        if counts(CONTEXT) {
            folders.extend(self.contexts.folders()?);
        }
        things.extend(folders.into_iter().filter(|folder| !folder.in_use).map(folder));
        Ok(things)
    }

    /// The folders of cache mounts, and of contexts that are kept. Blocks: their sizes are counted.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn caches(&self) -> Result<Vec<CacheFolder>> {
        let mut caches = self.places.cache_mounts(true)?;
        caches.extend(self.contexts.folders()?);
        caches.sort_by(|a, b| a.description.cmp(&b.description));
        Ok(caches)
    }
}

impl Places {
    /// The folders of cache mounts. Where their bytes are to be counted, each is walked, and one without a folder is not told: it
    /// is pruned at this very moment, or was by a daemon that was ended then.
    fn cache_mounts(&self, sized: bool) -> Result<Vec<CacheFolder>> {
        let failed = |error: std::io::Error| Failure::system("look at the caches of builds", error);
        let mut caches = Vec::new();
        for entry in std::fs::read_dir(&self.caches).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_suffix(".id") else { continue };
            // One that is pruned at this very moment is not told.
            let Ok(id) = std::fs::read_to_string(entry.path()) else { continue };
            let size = if sized { hull_image::tree_size(&self.caches.join(name)) } else { Ok(0) };
            let Ok(size) = size else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            let seconds = |time: std::io::Result<std::time::SystemTime>| {
                let since = time.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
                since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
            };
            let used = seconds(metadata.modified());
            // Where the file system does not say when a file was made, it was no later than it was used.
            let created = Some(seconds(metadata.created())).filter(|time| *time > 0).unwrap_or(used);
            let in_use = self.used.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name);
            let (name, description) = (name.to_owned(), format!("cache mount {id}"));
            let kind = CACHE_MOUNT;
            caches.push(CacheFolder { name, kind, description, in_use, size, created, used });
        }
        Ok(caches)
    }
}

/// The bytes in a folder that is removed; none where there is none.
fn size_of(folder: &std::path::Path) -> u64 {
    hull_image::tree_size(folder).unwrap_or_default()
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

    #[test]
    fn what_is_meant_of_what_stays() {
        let thing = |what: What, shared: bool| Thing { id: "ab".into(), what, shared, used: 5, frees: 1 };
        let mount = || thing(What::CacheMount, false);
        let wants = |prune: Prune, thing: Thing| prune.wants(&thing);
        assert!(
            wants(Prune::default(), mount()) && wants(Prune { max_used: 1, ..Prune::default() }, mount())
        );
        assert!(!wants(Prune::default(), thing(What::Step(Digest::of(b"s")), true)));
        assert!(wants(Prune { ids: vec!["a".into()], ..Prune::default() }, mount()));
        assert!(!wants(Prune { ids: vec!["b".into()], ..Prune::default() }, mount()));
        assert!(!wants(Prune { until: Some(5_000_000_000), ..Prune::default() }, mount()));
        assert!(wants(Prune { until: Some(5_000_000_001), ..Prune::default() }, mount()));
        assert!(!wants(Prune { kinds: vec![CONTEXT.into()], ..Prune::default() }, mount()));
        assert!(!wants(Prune { shared: Some(true), ..Prune::default() }, mount()));
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
        let taken = |name: &str| places.take_cache(name, &trash).unwrap();
        assert_eq!((taken("a"), taken("b")), (true, false));
        let left = |name: &str| places.caches.join(name).exists();
        assert_eq!(["a", "a.id", "b/files", "b.id"].map(left), [false, false, true, true]);
        assert!(trash.path().join("a/files").exists() && trash.path().join("a.id").exists());
    }

    #[test]
    fn cache_mounts_are_walked_only_where_their_bytes_count() {
        let root = Folder::beneath(&std::env::temp_dir()).unwrap();
        let places = places(root.path());
        std::fs::create_dir_all(places.caches.join("b")).unwrap();
        std::fs::write(places.caches.join("b/file"), [1; 5000]).unwrap();
        // Of `a` a daemon that was ended while it pruned has left the note alone.
        for name in ["a", "b"] {
            std::fs::write(places.caches.join(format!("{name}.id")), name).unwrap();
        }
        let told = |sized: bool| {
            let mut folders = places.cache_mounts(sized).unwrap();
            folders.sort_by(|one, other| one.name.cmp(&other.name));
            folders.into_iter().map(|one| (one.name, one.size > 0)).collect::<Vec<_>>()
        };
        assert_eq!(told(true), [("b".to_owned(), true)]);
        assert_eq!(told(false), [("a".to_owned(), false), ("b".to_owned(), false)]);
        let trash = Folder::beneath(&places.temporary).unwrap();
        assert!(places.take_cache("a", &trash).unwrap() && told(false).len() == 1);
        assert!(size_of(&places.caches.join("b")) >= 5000 && size_of(&places.caches.join("a")) == 0);
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
