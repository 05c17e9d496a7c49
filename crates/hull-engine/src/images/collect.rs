//! What is given back by itself: images that nobody has a name for and no container uses, by their age, and sooner when the
//! disk is nearly full.
//!
//! Nothing that someone named goes, nothing that a container has, stopped ones too, and no volume. An image loses its last
//! name when another takes it: it is what is left of a build, a load or a pull that was followed by a newer one.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hull_image::{Image, ImageId};

use crate::engine::Engine;
use crate::{Error, Result};

/// When images go by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// They do.
    pub on: bool,
    /// How often it is looked.
    pub every: Duration,
    /// How long an image has been without a name and a container.
    pub max_age: Duration,
    /// From this part of the disk's use on, in percent, they go whatever their age, the one first that has been without
    /// a name for longest.
    pub disk_use: u8,
}

impl Default for Collection {
    fn default() -> Collection {
        let day = Duration::from_secs(24 * 3600);
        Collection { on: true, every: Duration::from_secs(600), max_age: 7 * day, disk_use: 85 }
    }
}

/// On a disk that is nearly full an image is still left alone for so long, or for a hundredth of its age: what is being
/// built or loaded may come back to it.
const AT_LEAST: Duration = Duration::from_secs(600);

/// Looks again and again, as long as the engine is there.
pub(crate) async fn collect(engine: Weak<Engine>, how: Collection) {
    if !how.on {
        return;
    }
    loop {
        tokio::time::sleep(how.every).await;
        let Some(engine) = engine.upgrade() else { return };
        let collected = tokio::task::spawn_blocking(move || engine.collect_images(how)).await;
        match collected.unwrap_or_else(|error| Err(Error::system("collect images", error))) {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "images without a name and a container were collected"),
            Err(error) => tracing::error!(%error, "images that nobody needs could not be collected"),
        }
    }
}

impl Engine {
    /// One look; the bytes that were given back.
    fn collect_images(&self, how: Collection) -> Result<u64> {
        let unnamed = self.images.unnamed(&|image| self.user_of(image).is_some())?;
        let old: HashMap<ImageId, Duration> =
            unnamed.iter().filter(|(_, age)| *age >= how.max_age).copied().collect();
        let mut bytes = match old.is_empty() {
            true => 0,
            false => self.prune_these(&|image| old.contains_key(&image.id))?,
        };
        // The last in the list has been without a name for longest.
        let least = AT_LEAST.min(how.max_age / 100);
        let mut rest: Vec<(ImageId, Duration)> =
            unnamed.into_iter().filter(|(id, age)| !old.contains_key(id) && *age >= least).collect();
        rest.sort_by_key(|(_, age)| *age);
        while let Some((id, _)) = rest.pop() {
            if !self.is_nearly_full(how.disk_use)? {
                break;
            }
            bytes += self.prune_these(&|image| image.id == id)?;
        }
        Ok(bytes)
    }

    fn is_nearly_full(&self, percent: u8) -> Result<bool> {
        let root = &self.config.data_root;
        let disk = rustix::fs::statvfs(root)
            .map_err(|error| Error::system(format_args!("look at the disk of {}", root.display()), error))?;
        // What is kept for root is nobody's to use.
        let (free, used) = (disk.f_bavail, disk.f_blocks - disk.f_bfree);
        Ok(used * 100 >= (used + free) * u64::from(percent))
    }

    fn prune_these(&self, wanted: &dyn Fn(&Image) -> bool) -> Result<u64> {
        self.prune_images(true, wanted).map(|(_, bytes)| bytes)
    }
}

/// Begins to look.
pub(crate) fn begin(engine: &Arc<Engine>) {
    tokio::spawn(collect(Arc::downgrade(engine), engine.config.collection));
}
