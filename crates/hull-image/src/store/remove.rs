//! Removing images: Docker's rules, in Docker's words.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::images::key;
use super::pins::{Going, Stays};
use super::{Image, InUse, Removed, Store};
use crate::reference::Reference;
use crate::{Error, ImageId, Kind, Result, fault};

/// Tells which container uses an image; one that runs before one that does not.
type Using<'a> = &'a dyn Fn(&ImageId) -> Option<InUse>;

/// How an image is to be removed.
#[derive(Clone, Copy)]
struct How<'a> {
    /// Also where a stopped container uses it.
    force: bool,
    /// The names that go with it. One that it has beside them keeps it.
    names: Names<'a>,
    /// With the parents that lose their last reason to be.
    prune_parents: bool,
    /// What forbids it is not told where a name was removed already: that was what was asked.
    quiet: bool,
    in_use: Using<'a>,
}

/// Names that go with their image.
#[derive(Clone, Copy)]
enum Names<'a> {
    All,
    /// These alone: what was given meanwhile is somebody else's.
    These(&'a [Reference]),
}

/// Why an image may not be removed.
struct Obstacle {
    /// Force does not help.
    hard: bool,
    /// A container uses it.
    used: bool,
    message: String,
}

impl How<'_> {
    fn keeps_one(self, names: &[Reference]) -> bool {
        match self.names {
            Names::All => false,
            Names::These(these) => names.iter().any(|name| !these.contains(name)),
        }
    }
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
            // Another who removes it may be refused: what he is told is not this one's answer.
            let going = self.going(&id).map_err(|_| being_used().told(&id))?;
            if !self.state().images.contains_key(&id) {
                return Err(Error::not_found(format!("No such image: {name}")));
            }
            // An id stands for all names, where these are of one repository.
            let names = self.state().names_of(&id);
            let names = match force {
                true => Names::All,
                false => Names::These(if is_single(&names) { &names } else { &[] }),
            };
            self.delete_going(
                &going,
                How { force, names, prune_parents, quiet: false, in_use },
                &mut removed,
            )?;
            return Ok(removed);
        }
        let how = How { force, names: Names::These(&[]), prune_parents, quiet: true, in_use };
        let reference = Reference::parse(name)?.or_latest();
        self.remove_by_name((name, &reference), &id, how, &mut removed)?;
        if self.state().names_of(&id).is_empty() {
            self.delete(&id, how, &mut removed)?;
        }
        Ok(removed)
    }

    /// A name alone goes without force when the image has others, or when no container uses it.
    fn remove_by_name(
        &self,
        (typed, reference): (&str, &Reference),
        id: &ImageId,
        how: How<'_>,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        let names = self.state().names_of(id);
        if !how.force
            && is_single(&names)
            && let Some(InUse { container, .. }) = (how.in_use)(id)
        {
            return Err(Error::conflict(format!(
                "conflict: unable to remove repository reference \"{typed}\" (must force) - container {} is using its \
                     referenced image {}",
                short(&container),
                id.short()
            )));
        }
        self.untag(reference, id, removed)?;
        // Digests alone do not keep a repository's image.
        let rest = self.state().names_of(id);
        let same = |name: &&Reference| name.name() == reference.name();
        if reference.digest.is_none() && !rest.iter().filter(same).any(|name| name.digest.is_none()) {
            rest.iter().filter(same).try_for_each(|name| self.untag(name, id, removed))?;
        }
        Ok(())
    }

    /// Takes a name from an image. One that was given to another since it was looked at is that other's.
    fn untag(&self, reference: &Reference, id: &ImageId, removed: &mut Vec<Removed>) -> Result<()> {
        let database = self.database();
        let name = key(reference);
        if self.state().names.get(&name) != Some(id) {
            return Ok(());
        }
        database.remove_name(&name)?;
        self.state_mut().remove_name(&name);
        self.syncing.rows();
        removed.push(Removed::Untagged(reference.familiar()));
        Ok(())
    }

    /// [`Store::delete_going`] of one that nobody removes yet, without waiting for who uses or removes it.
    fn delete(&self, id: &ImageId, how: How<'_>, removed: &mut Vec<Removed>) -> Result<()> {
        match self.try_going(id) {
            Ok(going) => self.delete_going(&going, how, removed),
            Err(Stays::Pinned) if !how.quiet => Err(being_used().told(id)),
            Err(_) => Ok(()),
        }
    }

    /// Removes an image with all its names, the layers that nothing else uses, and the parents that lose their last
    /// reason to be.
    fn delete_going(&self, going: &Going<'_>, how: How<'_>, removed: &mut Vec<Removed>) -> Result<()> {
        let id = going.image();
        if let Some(obstacle) = self.obstacle(id, how) {
            let dangling = self.state().names_of(id).is_empty() && !self.has_children(id);
            return match how.quiet && (!dangling || obstacle.used) {
                true => Ok(()),
                false => Err(obstacle.told(id)),
            };
        }
        let Some(image) = self.delete_row(id, how, removed)? else { return Ok(()) };
        fault::passed("image remove", "row gone");
        if let Some(top) = image.layers.last() {
            let layers = self.collect(top.chain_id)?;
            removed.extend(layers.into_iter().map(|layer| Removed::Deleted(layer.chain_id.to_string())));
        }
        fault::passed("image remove", "layers gone");
        let Some(parent) = image.parent.filter(|_| how.prune_parents) else { return Ok(()) };
        let goes = self.state().images.contains_key(&parent) && self.state().names_of(&parent).is_empty();
        let how = How { force: false, names: Names::These(&[]), quiet: true, ..how };
        if goes { self.delete(&parent, how, removed) } else { Ok(()) }
    }

    /// Takes the image and its names out of the database. None: it stays, for a name was given to it just now, or another
    /// has taken it since its name went, which was what was asked.
    fn delete_row(
        &self,
        id: &ImageId,
        how: How<'_>,
        removed: &mut Vec<Removed>,
    ) -> Result<Option<Arc<Image>>> {
        // Who gives names holds it, too.
        let database = self.database();
        let Ok(image) = self.image(id) else { return Ok(None) };
        let names = self.state().names_of(id);
        if how.keeps_one(&names) {
            return if how.quiet { Ok(None) } else { Err(in_repositories().told(id)) };
        }
        database.transaction(|database| database.remove_image(id))?;
        {
            let mut state = self.state_mut();
            names.iter().for_each(|name| state.remove_name(&key(name)));
            state.remove_image(id);
        }
        self.syncing.rows();
        removed.extend(names.iter().map(|name| Removed::Untagged(name.familiar())));
        removed.push(Removed::Deleted(id.to_string()));
        Ok(Some(image))
    }

    fn obstacle(&self, id: &ImageId, how: How<'_>) -> Option<Obstacle> {
        if self.has_children(id) {
            let message = "image has dependent child images".to_owned();
            return Some(Obstacle { hard: true, used: false, message });
        }
        let user = (how.in_use)(id);
        if let Some(InUse { container, running: true }) = &user {
            let message = format!("image is being used by running container {}", short(container));
            return Some(Obstacle { hard: true, used: true, message });
        }
        if how.keeps_one(&self.state().names_of(id)) {
            return Some(in_repositories());
        }
        match user {
            Some(InUse { container, .. }) if !how.force => {
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
            let Ok(going) = self.try_going(&image.id) else { continue };
            if in_use(&image.id).is_some() {
                continue;
            }
            let names = Names::These(&names);
            let how = How { force: false, names, prune_parents: true, quiet: true, in_use };
            self.delete_going(&going, how, &mut removed)?;
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

/// Names of several repositories are its own.
fn in_repositories() -> Obstacle {
    let message = "image is referenced in multiple repositories".to_owned();
    Obstacle { hard: false, used: false, message }
}

/// At most one tag, and all digests of the same repository.
fn is_single(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.digest.is_none()).count();
    tags <= 1 && names.iter().all(|name| name.name() == names[0].name())
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}
