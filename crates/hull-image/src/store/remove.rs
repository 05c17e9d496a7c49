//! Removing images: Docker's rules, in Docker's words.

use std::collections::HashMap;
use std::time::Duration;

use super::images::key;
use super::pins::{Going, Stays};
use super::{Image, InUse, Removed, Store};
use crate::reference::Reference;
use crate::{Error, ImageId, Kind, Result, fault};

/// Tells which container uses an image; one that runs before one that does not.
type Using<'a> = &'a dyn Fn(&ImageId) -> Option<InUse>;

/// Why an image may not be removed.
struct Obstacle {
    /// Force does not help.
    hard: bool,
    /// A container uses it.
    used: bool,
    message: String,
}

impl Obstacle {
    fn told(self, id: &ImageId) -> Error {
        let force = if self.hard { "cannot be forced" } else { "must be forced" };
        Error::conflict(format!("conflict: unable to delete {} ({force}) - {}", id.short(), self.message))
    }
}

impl Store {
    /// Removes a name, and the image with it when it was the last, by Docker's rules. `in_use` tells a container that
    /// uses an image: one that runs, if there is one.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        prune_parents: bool,
        in_use: Using<'_>,
    ) -> Result<Vec<Removed>> {
        let image = self.resolve(name)?;
        if image.builtin {
            return Err(Error::new(
                Kind::Forbidden,
                "hull/host is this machine itself, built in: nothing of it is stored that could be removed",
            ));
        }
        let id = image.id;
        let mut removed = Vec::new();
        if id.to_string().starts_with(name) || id.hex().starts_with(name) {
            let going = match self.going(&id) {
                Ok(going) => going,
                Err(Stays::Pinned) => return Err(being_used().told(&id)),
                Err(Stays::Going) => return Ok(removed),
            };
            self.remove_by_id(&id, force, in_use, &mut removed)?;
            self.delete_going(&going, &id, force, prune_parents, false, in_use, &mut removed)?;
            return Ok(removed);
        }
        let reference = Reference::parse(name)?.or_latest();
        self.remove_by_name((name, &reference), &id, force, in_use, &mut removed)?;
        if self.state().names_of(&id).is_empty() {
            self.delete(&id, force, prune_parents, true, in_use, &mut removed)?;
        }
        Ok(removed)
    }

    /// A name alone goes without force when the image has others, or when no container uses it.
    fn remove_by_name(
        &self,
        (typed, reference): (&str, &Reference),
        id: &ImageId,
        force: bool,
        in_use: Using<'_>,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        let names = self.state().names_of(id);
        if !force
            && is_single(&names)
            && let Some(InUse { container, .. }) = in_use(id)
        {
            return Err(Error::conflict(format!(
                "conflict: unable to remove repository reference \"{typed}\" (must force) - container {} is using its \
                     referenced image {}",
                short(&container),
                id.short()
            )));
        }
        self.untag(reference, removed)?;
        // Digests alone do not keep a repository's image.
        let rest = self.state().names_of(id);
        let same = |name: &&Reference| name.name() == reference.name();
        if reference.digest.is_none() && !rest.iter().filter(same).any(|name| name.digest.is_none()) {
            for name in rest.iter().filter(same) {
                self.untag(name, removed)?;
            }
        }
        Ok(())
    }

    /// An id stands for all names, where these are of one repository.
    fn remove_by_id(
        &self,
        id: &ImageId,
        force: bool,
        in_use: Using<'_>,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        let names = self.state().names_of(id);
        if !is_single(&names) {
            return Ok(());
        }
        if let Some(obstacle) = self.obstacle(id, force, true, in_use) {
            return Err(obstacle.told(id));
        }
        names.iter().try_for_each(|name| self.untag(name, removed))
    }

    fn untag(&self, reference: &Reference, removed: &mut Vec<Removed>) -> Result<()> {
        let database = self.database();
        let name = key(reference);
        database.remove_name(&name)?;
        self.state_mut().remove_name(&name);
        self.syncing.rows();
        removed.push(Removed::Untagged(reference.familiar()));
        Ok(())
    }

    /// [`Store::delete_going`] of one that nobody removes yet.
    fn delete(
        &self,
        id: &ImageId,
        force: bool,
        prune_parents: bool,
        quiet: bool,
        in_use: Using<'_>,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        match self.going(id) {
            Ok(going) => self.delete_going(&going, id, force, prune_parents, quiet, in_use, removed),
            Err(Stays::Pinned) if !quiet => Err(being_used().told(id)),
            Err(_) => Ok(()),
        }
    }

    /// Removes an image with all its names, the layers that nothing else uses, and the parents that lose their last
    /// reason to be. What forbids it is not told where a name was removed already: that was what was asked.
    #[expect(clippy::too_many_arguments, reason = "what Docker's rules depend on")]
    fn delete_going(
        &self,
        _going: &Going<'_>,
        id: &ImageId,
        force: bool,
        prune_parents: bool,
        quiet: bool,
        in_use: Using<'_>,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        if let Some(obstacle) = self.obstacle(id, force, false, in_use) {
            let dangling = self.state().names_of(id).is_empty() && !self.has_children(id);
            return match quiet && (!dangling || obstacle.used) {
                true => Ok(()),
                false => Err(obstacle.told(id)),
            };
        }
        // Another, who prunes, may have taken it since its name went: that was what was asked.
        let Ok(image) = self.image(id) else { return Ok(()) };
        let names = self.state().names_of(id);
        names.iter().try_for_each(|name| self.untag(name, removed))?;
        {
            let database = self.database();
            database.transaction(|database| database.remove_image(id))?;
            self.state_mut().remove_image(id);
        }
        fault::passed("image remove", "row gone");
        removed.push(Removed::Deleted(id.to_string()));
        if let Some(top) = image.layers.last() {
            let layers = self.collect(top.chain_id)?;
            removed.extend(layers.into_iter().map(|layer| Removed::Deleted(layer.chain_id.to_string())));
        }
        fault::passed("image remove", "layers gone");
        let Some(parent) = image.parent.filter(|_| prune_parents) else { return Ok(()) };
        let goes = self.state().images.contains_key(&parent) && self.state().names_of(&parent).is_empty();
        if goes { self.delete(&parent, false, true, true, in_use, removed) } else { Ok(()) }
    }

    fn obstacle(&self, id: &ImageId, force: bool, names_may_be: bool, in_use: Using<'_>) -> Option<Obstacle> {
        if self.has_children(id) {
            let message = "image has dependent child images".to_owned();
            return Some(Obstacle { hard: true, used: false, message });
        }
        let user = in_use(id);
        if let Some(InUse { container, running: true }) = &user {
            let message = format!("image is being used by running container {}", short(container));
            return Some(Obstacle { hard: true, used: true, message });
        }
        if !force && !names_may_be && !self.state().names_of(id).is_empty() {
            let message = "image is referenced in multiple repositories".to_owned();
            return Some(Obstacle { hard: false, used: false, message });
        }
        match user {
            Some(InUse { container, .. }) if !force => {
                let message = format!("image is being used by stopped container {}", short(&container));
                Some(Obstacle { hard: false, used: true, message })
            }
            _ => None,
        }
    }

    /// The images that have no name, are not used and are no other image's parent, and how long that has been seen to be
    /// so, also by earlier daemons. It begins with the first look.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub fn unnamed(&self, in_use: &dyn Fn(&ImageId) -> bool) -> Result<Vec<(ImageId, Duration)>> {
        let now = jiff::Timestamp::now().as_second();
        let database = self.database();
        let before: HashMap<ImageId, i64> = database.unnamed()?.into_iter().collect();
        let is_unnamed = |image: &Image| {
            !image.builtin && image.is_dangling() && !self.has_children(&image.id) && !in_use(&image.id)
        };
        let unnamed: Vec<(ImageId, i64)> = self
            .images()
            .iter()
            .filter(|image| is_unnamed(image))
            .map(|image| (image.id, before.get(&image.id).copied().unwrap_or(now).min(now)))
            .collect();
        let same = unnamed.len() == before.len() && unnamed.iter().all(|(id, _)| before.contains_key(id));
        if !same {
            database.transaction(|database| database.set_unnamed(&unnamed))?;
        }
        let age = |since: i64| Duration::from_secs((now - since).unsigned_abs());
        Ok(unnamed.into_iter().map(|(id, since)| (id, age(since))).collect())
    }

    /// Removes the images that no container uses, no other image stands on and `filter` lets pass: only those
    /// without a name, or all; and what came of layers that nobody fetches any more. The bytes that were given back are
    /// the second value.
    pub fn prune(
        &self,
        dangling_only: bool,
        filter: &dyn Fn(&Image) -> bool,
        in_use: Using<'_>,
    ) -> Result<(Vec<Removed>, u64)> {
        let before = self.layers_size();
        let mut removed = Vec::new();
        for image in self.images() {
            let names = self.state().names_of(&image.id);
            let wanted = !image.builtin
                && (names.is_empty() || !dangling_only)
                && !self.has_children(&image.id)
                && in_use(&image.id).is_none()
                && filter(&image);
            // It may have gone meanwhile, with a child of it or by another's hand.
            if !wanted || !self.state().images.contains_key(&image.id) {
                continue;
            }
            // Asked again, now that no container comes to it any more.
            let Ok(going) = self.going(&image.id) else { continue };
            if in_use(&image.id).is_some() {
                continue;
            }
            for name in &names {
                self.untag(name, &mut removed)?;
            }
            self.delete_going(&going, &image.id, false, true, true, in_use, &mut removed)?;
        }
        let partial = self.remove_partials(std::time::Duration::ZERO)?;
        Ok((removed, before.saturating_sub(self.layers_size()) + partial))
    }
}

/// A container of it is being made.
fn being_used() -> Obstacle {
    let message = "image is being used by a container that is being created".to_owned();
    Obstacle { hard: true, used: true, message }
}

/// At most one tag, and all digests of the same repository.
fn is_single(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.digest.is_none()).count();
    tags <= 1 && names.iter().all(|name| name.name() == names[0].name())
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}
