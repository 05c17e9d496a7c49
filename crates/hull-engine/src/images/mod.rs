//! Images to a user: the store's verbs with who uses an image, the API's shapes and the events.

pub(crate) mod collect;
mod pull;
mod push;
mod remote;
mod shape;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::sync::Arc;

use hull_image::reference::Reference;
use hull_image::{Image, ImageId, Import, InUse, Loaded, Platform, Progress, Removed};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::events::Kind as About;
use crate::filter::Filters;
use crate::{Error, Kind, Result};

pub(crate) use pull::Pulls;
pub use pull::{News, Watch};
pub use push::Pushing;

impl From<hull_image::Error> for Error {
    fn from(error: hull_image::Error) -> Error {
        let kind = match error.kind {
            hull_image::Kind::NotFound => Kind::NotFound,
            hull_image::Kind::InvalidParameter => Kind::InvalidParameter,
            hull_image::Kind::Conflict => Kind::Conflict,
            hull_image::Kind::Forbidden => Kind::Forbidden,
            hull_image::Kind::Unauthorized => Kind::Unauthorized,
            hull_image::Kind::NotImplemented => Kind::NotImplemented,
            hull_image::Kind::System => Kind::System,
        };
        Error::new(kind, error.message)
    }
}

/// The store's error as the engine's.
pub(crate) fn error(error: hull_image::Error) -> Error {
    error.into()
}

/// Where progress is told; see [`hull_image::Report`].
pub type Report<'a> = &'a (dyn Fn(Progress) + Sync);

/// What `GET /images/json` asks for.
#[derive(Clone, Debug, Default)]
pub struct ImageQuery {
    /// Also those without a name that others were made of.
    pub all: bool,
    /// `before`, `dangling`, `label`, `reference`, `since`, `until`.
    pub filters: Filters,
    /// With the bytes that each shares with others.
    pub shared_size: bool,
    /// How many containers use each is counted.
    pub containers: bool,
    /// The API's minor version.
    pub version: u32,
}

impl Engine {
    /// The images that pass the filters, newest first, in the API's shape.
    ///
    /// # Errors
    /// A filter that is not known, or an image in it that is not there.
    pub fn image_list(&self, query: &ImageQuery) -> Result<Vec<Value>> {
        let filters = &query.filters;
        filters.only(&["before", "dangling", "label", "label!", "reference", "since", "until"])?;
        let dangling = filters.boolean("dangling")?;
        let until = filters.until()?;
        let bound = |name: &str| -> Result<Option<i64>> {
            let images = filters.values(name).iter().map(|image| self.images.resolve(image));
            let created = images.map(|image| Ok(image?.created)).collect::<Result<Vec<i64>>>()?;
            Ok(if name == "before" { created.into_iter().min() } else { created.into_iter().max() })
        };
        let (before, since) = (bound("before")?, bound("since")?);
        let images = self.images.images();
        let passes = |image: &&Arc<Image>| {
            let unnamed = image.is_dangling();
            dangling.is_none_or(|dangling| dangling == unnamed)
                && (query.all || !unnamed || !self.images.has_children(&image.id))
                && before.is_none_or(|before| image.created < before)
                && since.is_none_or(|since| image.created > since)
                && until.is_none_or(|until| image.created.saturating_mul(1_000_000_000) < until)
                && filters.labels(&image.container_config().labels)
        };
        let shared: HashMap<ImageId, u64> = match query.shared_size {
            true => {
                self.images.disk_usage().images.into_iter().map(|usage| (usage.id, usage.shared)).collect()
            }
            false => HashMap::new(),
        };
        let users = query.containers.then(|| self.users_of_images());
        let patterns = filters.values("reference");
        if !patterns.iter().all(|pattern| shape::is_pattern(pattern)) {
            return Err(Error::invalid("syntax error in pattern"));
        }
        let mut list = Vec::new();
        for image in images.iter().filter(passes) {
            let (mut tags, mut digests) = (image.repo_tags.clone(), image.repo_digests.clone());
            if !patterns.is_empty() {
                let named = |name: &String| patterns.iter().any(|pattern| shape::is_called(name, pattern));
                tags.retain(named);
                digests.retain(named);
                if tags.is_empty() && digests.is_empty() {
                    continue;
                }
            }
            let shared = shared.get(&image.id).copied();
            let users = users.as_ref().map(|users| users.get(&image.id.to_string()).copied().unwrap_or(0));
            list.push(shape::summary(image, (tags, digests), shared, users, query.version));
        }
        Ok(list)
    }

    /// An image as inspect shows it.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn image_inspect(&self, name: &str, platform: Option<&Platform>, version: u32) -> Result<Value> {
        let image = self.images.resolve(name)?;
        fits(&image, name, platform)?;
        let mut shown = shape::inspect(&image, version);
        shown["GraphDriver"]["Name"] = json!(self.images.driver().name());
        Ok(shown)
    }

    /// How an image came to be, newest first.
    ///
    /// # Errors
    /// There is none of that name, or it is of another platform.
    pub fn image_history(&self, name: &str, platform: Option<&Platform>) -> Result<Vec<Value>> {
        let image = self.images.resolve(name)?;
        fits(&image, name, platform)?;
        let line = |entry: hull_image::HistoryEntry| {
            json!({
                "Id": entry.id,
                "Created": entry.created,
                "CreatedBy": entry.created_by,
                "Tags": if entry.tags.is_empty() { Value::Null } else { json!(entry.tags) },
                "Size": entry.size,
                "Comment": entry.comment,
            })
        };
        Ok(self.images.history(&image).into_iter().map(line).collect())
    }

    /// What each step of an image does: its layers with what they add, change and hide. Blocks.
    ///
    /// # Errors
    /// There is none of that name, or a layer cannot be read.
    pub fn image_tree(&self, name: &str) -> Result<Value> {
        let image = self.images.resolve(name)?;
        Ok(json!({
            "Id": image.id,
            "RepoTags": image.repo_tags,
            "Size": image.size,
            "Steps": self.images.tree(&image)?,
        }))
    }

    /// What differs from one image to another. Blocks.
    ///
    /// # Errors
    /// There is no such image, or a layer cannot be read.
    pub fn image_difference(&self, from: &str, to: &str) -> Result<Value> {
        let (from, to) = (self.images.resolve(from)?, self.images.resolve(to)?);
        let (shared, differences) = self.images.difference(&from, &to)?;
        Ok(json!({ "From": from.id, "To": to.id, "SharedLayers": shared, "Differences": differences }))
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// There is no such image, or the name is none.
    pub fn image_tag(&self, source: &str, target: &str) -> Result<()> {
        self.images.tag(source, target)?;
        let image = self.images.resolve(target)?;
        let name = Reference::parse(target)?.or_latest().familiar();
        self.tell_image("tag", &image, &name);
        Ok(())
    }

    /// Removes a name, and the image with it when it was the last, by Docker's rules. An image is of one platform: where some are
    /// named, it must be of each.
    ///
    /// # Errors
    /// There is no such image, it is of another platform, or a container or another name stands in the way (409).
    pub fn image_remove(
        &self,
        name: &str,
        force: bool,
        prune_parents: bool,
        platforms: &[Platform],
    ) -> Result<Vec<Value>> {
        let before = self.known_images();
        let image = self.images.resolve(name)?;
        platforms.iter().try_for_each(|platform| fits(&image, name, Some(platform)))?;
        let removed = self.images.remove(name, force, prune_parents, &|id| self.user_of(id))?;
        self.tell_removed(&removed, &before, Some(&image));
        Ok(removed.iter().map(shape::removed).collect())
    }

    /// Removes images that no container uses: those without a name, or with `dangling=false` all. The answer of
    /// `POST /images/prune`.
    ///
    /// # Errors
    /// A filter that is not known, or the store fails.
    pub fn image_prune(&self, filters: &Filters) -> Result<Value> {
        filters.only(&["dangling", "label", "label!", "until"])?;
        let dangling_only = filters.boolean("dangling")?.unwrap_or(true);
        let until = filters.until()?;
        let passes = |image: &Image| {
            filters.labels(&image.container_config().labels)
                && until.is_none_or(|until| image.created.saturating_mul(1_000_000_000) < until)
        };
        let (removed, reclaimed) = self.prune_images(dangling_only, &passes)?;
        let list: Vec<Value> = removed.iter().map(shape::removed).collect();
        Ok(json!({
            "ImagesDeleted": if list.is_empty() { Value::Null } else { Value::Array(list) },
            "SpaceReclaimed": reclaimed,
        }))
    }

    /// Removes what no container uses and `wanted` names: those without a name, or all; what went, and the bytes that
    /// came back.
    fn prune_images(
        &self,
        dangling_only: bool,
        wanted: &dyn Fn(&Image) -> bool,
    ) -> Result<(Vec<Removed>, u64)> {
        let before = self.known_images();
        let (removed, reclaimed) = self.images.prune(dangling_only, wanted, &|id| self.user_of(id))?;
        self.tell_removed(&removed, &before, None);
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.events.publish(About::Image, "prune", "", attributes);
        Ok((removed, reclaimed))
    }

    /// Makes an image of a root file system's archive.
    ///
    /// # Errors
    /// The archive, a change or the name is malformed, or the disk fails; nothing is left then.
    pub fn image_import(
        &self,
        tar: &mut dyn Read,
        options: Import,
        report: Report<'_>,
    ) -> Result<Arc<Image>> {
        let tag = options.reference.clone();
        let image = self.images.import(tar, options, report)?;
        if let Some(Ok(tag)) = tag.as_deref().map(Reference::parse) {
            self.tell_image("tag", &image, &tag.or_latest().familiar());
        }
        self.tell_image("import", &image, &image.id.to_string());
        Ok(image)
    }

    /// Takes in the images of an archive.
    ///
    /// # Errors
    /// It is no archive of images, it is cut off or lies about its digests, or the disk fails; nothing is left then.
    pub fn image_load(
        &self,
        archive: &mut dyn Read,
        platform: Option<&Platform>,
        report: Report<'_>,
    ) -> Result<Vec<Loaded>> {
        let loaded = self.images.load(archive, platform, report)?;
        for one in &loaded {
            let name = match one {
                Loaded::Reference(name) => name.clone(),
                Loaded::Id(id) => id.to_string(),
                Loaded::Renamed(..) => continue,
            };
            // Another client may have removed it already.
            if let Ok(image) = self.images.resolve(&name) {
                self.tell_image("load", &image, &image.id.to_string());
            }
        }
        Ok(loaded)
    }

    /// Writes images as one archive.
    ///
    /// # Errors
    /// An image is not there, or the reader went away.
    pub fn image_save(&self, names: &[String], out: &mut dyn Write) -> Result<()> {
        self.images.save(names, out)?;
        for name in names {
            if let Ok(image) = self.images.resolve(name) {
                self.tell_image("save", &image, &image.id.to_string());
            }
        }
        Ok(())
    }

    /// Makes an image from a package archive.
    ///
    /// # Errors
    /// The system is not known, a tool is missing, or it fails.
    pub fn image_bootstrap(&self, what: &str, report: Report<'_>) -> Result<Arc<Image>> {
        let image = self.images.bootstrap(what, report)?;
        self.tell_image("import", &image, &image.id.to_string());
        Ok(image)
    }

    /// Tells that an image was built and has got these names.
    pub fn tell_built(&self, image: &Image, names: &[Reference]) {
        for name in names {
            self.tell_image("tag", image, &name.familiar());
        }
    }

    /// Checks that an image is here, and of this platform.
    ///
    /// # Errors
    /// It is not, or it is of another.
    pub fn image_on_platform(&self, name: &str, platform: &Platform) -> Result<()> {
        fits(&*self.images.resolve(name).map_err(error)?, name, Some(platform))
    }

    /// What is to be said where an image is taken for another machine than this one, and nobody has asked for that.
    pub fn image_of_elsewhere(&self, name: &str) -> Option<String> {
        let (image, host) = (self.images.resolve(name).ok()?, Platform::host());
        if image.config.architecture.is_empty() || image.is_for(&host) {
            return None;
        }
        Some(format!(
            "The requested image's platform ({}) does not match the detected host platform ({host}) and no specific platform \
             was requested",
            Platform::of(&image.config)
        ))
    }

    /// A container that stands in the way of an image's removal, a running one first.
    fn user_of(&self, id: &ImageId) -> Option<InUse> {
        let users = self.containers_using(&id.to_string());
        let user = users.iter().find(|(_, running)| *running).or(users.first())?;
        Some(InUse { container: user.0.clone(), running: user.1 })
    }

    fn known_images(&self) -> HashMap<String, Arc<Image>> {
        self.images.images().into_iter().map(|image| (image.id.to_string(), image)).collect()
    }

    fn tell_removed(
        &self,
        removed: &[Removed],
        before: &HashMap<String, Arc<Image>>,
        of: Option<&Arc<Image>>,
    ) {
        for one in removed {
            match one {
                Removed::Untagged(name) => {
                    let has = |image: &&Arc<Image>| {
                        image.repo_tags.contains(name) || image.repo_digests.contains(name)
                    };
                    if let Some(image) = of.or_else(|| before.values().find(has)) {
                        self.tell_image("untag", image, &image.id.to_string());
                    }
                }
                // Layers are told by the same word; events are of images only.
                Removed::Deleted(id) => {
                    if let Some(image) = before.get(id) {
                        self.tell_image("delete", image, id);
                    }
                }
            }
        }
    }

    fn tell_image(&self, action: &str, image: &Image, name: &str) {
        let mut attributes = image.container_config().labels;
        attributes.insert("name".to_owned(), name.to_owned());
        self.events.publish(About::Image, action, &image.id.to_string(), attributes);
    }
}

/// An image as `GET /system/df` shows it.
pub(crate) fn used(image: &Image, shared: u64, containers: usize, version: u32) -> Value {
    let names = (image.repo_tags.clone(), image.repo_digests.clone());
    shape::summary(image, names, Some(shared), Some(containers), version)
}

/// Whether an image is of the platform that was asked for.
fn fits(image: &Image, name: &str, platform: Option<&Platform>) -> Result<()> {
    let Some(wanted) = platform else { return Ok(()) };
    let has = &image.config;
    if image.is_for(wanted) {
        return Ok(());
    }
    Err(Error::not_found(format!(
        "image with reference {name} was found but its platform ({}/{}) does not match the specified platform \
         ({}/{})",
        has.os, has.architecture, wanted.os, wanted.architecture
    )))
}
