//! All containers, found by id, by the beginning of an id, or by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use super::{Container, Record, Status, locked};
use crate::database::{Database, Table};
use crate::{Engine, Error, Result};

/// All containers.
pub(crate) struct Containers(Mutex<Index>);

#[derive(Default)]
struct Index {
    by_id: BTreeMap<String, Arc<Container>>,
    /// A name is taken before its container is there: two creations with one name meet here.
    ids_by_name: HashMap<String, String>,
    /// Of a container those that are linked to it, by their ids: whoever starts asks whom it has to tell.
    parents: HashMap<String, BTreeSet<String>>,
    /// Those that have no row any more, and whose files are on their way.
    leaving: BTreeSet<String>,
}

impl Index {
    fn link(&mut self, parent: &str, targets: &[String]) {
        for target in targets {
            self.parents.entry(target.clone()).or_default().insert(parent.to_owned());
        }
    }

    fn unlink(&mut self, parent: &str, targets: &[String]) {
        for target in targets {
            if let Some(parents) = self.parents.get_mut(target) {
                parents.remove(parent);
                if parents.is_empty() {
                    self.parents.remove(target);
                }
            }
        }
    }
}

/// A name that is taken for a container in the making; dropped, it is free again.
pub(super) struct NameTaken<'a> {
    containers: &'a Containers,
    name: String,
    kept: bool,
}

impl Drop for NameTaken<'_> {
    fn drop(&mut self) {
        if !self.kept {
            locked(&self.containers.0).ids_by_name.remove(&self.name);
        }
    }
}

impl Containers {
    /// Reads what the database has.
    pub(crate) fn load(database: &Database) -> Result<Containers> {
        let mut index = Index::default();
        for record in database.all::<Record>(Table::Containers)? {
            index.ids_by_name.insert(record.name.clone(), record.id.clone());
            index.link(&record.id, &record.link_targets());
            index.by_id.insert(record.id.clone(), Arc::new(Container::new(record)));
        }
        Ok(Containers(Mutex::new(index)))
    }

    /// Every container, in no order that means something.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        locked(&self.0).by_id.values().cloned().collect()
    }

    /// Takes a name for a container in the making.
    ///
    /// # Errors
    /// Another container has it.
    pub(super) fn take_name(&self, name: &str, id: &str) -> Result<NameTaken<'_>> {
        let mut index = locked(&self.0);
        if let Some(owner) = index.ids_by_name.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". \
                 You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        index.ids_by_name.insert(name.to_owned(), id.to_owned());
        Ok(NameTaken { containers: self, name: name.to_owned(), kept: false })
    }

    /// Enters a container whose name was taken.
    pub(super) fn insert(&self, mut name: NameTaken<'_>, container: Arc<Container>) {
        name.kept = true;
        // One lock at a time: whoever holds a record's may ask for the index.
        let targets = container.record().link_targets();
        let mut index = locked(&self.0);
        index.link(&container.id, &targets);
        index.by_id.insert(container.id.clone(), container);
    }

    /// The container has another name now, which was taken before.
    pub(super) fn renamed(&self, mut taken: NameTaken<'_>, old: &str) {
        taken.kept = true;
        locked(&self.0).ids_by_name.remove(old);
    }

    /// Takes a container out; its name is free.
    pub(super) fn remove(&self, container: &Container, name: &str) {
        let targets = container.record().link_targets();
        let mut index = locked(&self.0);
        index.by_id.remove(&container.id);
        index.leaving.insert(container.id.clone());
        index.ids_by_name.remove(name);
        index.unlink(&container.id, &targets);
    }

    /// Nothing is left of a container that was taken out.
    pub(super) fn left(&self, id: &str) {
        locked(&self.0).leaving.remove(id);
    }

    /// The ids of all containers, of those in the making, and of those whose files are being removed.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        let index = locked(&self.0);
        index.by_id.keys().chain(index.ids_by_name.values()).chain(&index.leaving).cloned().collect()
    }

    /// Whether a container is there.
    pub(crate) fn has(&self, id: &str) -> bool {
        locked(&self.0).by_id.contains_key(id)
    }

    /// Those that are linked to a container.
    pub(super) fn linked_to(&self, target: &str) -> Vec<Arc<Container>> {
        let index = locked(&self.0);
        let Some(parents) = index.parents.get(target) else { return Vec::new() };
        parents.iter().filter_map(|id| index.by_id.get(id)).cloned().collect()
    }

    /// A container has no link to that one any more.
    pub(super) fn unlinked(&self, parent: &str, target: &str) {
        locked(&self.0).unlink(parent, &[target.to_owned()]);
    }

    /// Finds a container by the alias of a link, `CONTAINER/ALIAS`.
    fn linked(&self, name: &str) -> Option<Arc<Container>> {
        let (parent, alias) = name.strip_prefix('/').unwrap_or(name).split_once('/')?;
        let named = |name: &str| {
            let index = locked(&self.0);
            index.by_id.get(index.ids_by_name.get(name)?).cloned()
        };
        // One lock at a time: whoever holds a record's may ask for the index.
        let parent = named(parent)?;
        let target = parent.record().target_of(alias)?.to_owned();
        locked(&self.0).by_id.get(&target).cloned()
    }

    /// Finds a container by its id, its name (with or without a slash), or the beginning of its id.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>> {
        if let Some(linked) = self.linked(name) {
            return Ok(linked);
        }
        let index = locked(&self.0);
        if let Some(container) = index.by_id.get(name) {
            return Ok(Arc::clone(container));
        }
        let plain = name.strip_prefix('/').unwrap_or(name);
        if let Some(container) = index.ids_by_name.get(plain).and_then(|id| index.by_id.get(id)) {
            return Ok(Arc::clone(container));
        }
        let none = || Error::not_found(format!("No such container: {name}"));
        if name.is_empty() {
            return Err(Error::invalid("invalid name or ID supplied: \"\""));
        }
        let from = (Bound::Included(name.to_owned()), Bound::Unbounded);
        let mut candidates = index.by_id.range(from).take_while(|(id, _)| id.starts_with(name));
        match (candidates.next(), candidates.next()) {
            (None, _) => Err(none()),
            (Some((_, container)), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("multiple IDs found with provided prefix: {name}")))
            }
        }
    }
}

impl Engine {
    /// Finds a container by id, name, or the beginning of an id.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn container(&self, name: &str) -> Result<Arc<Container>> {
        self.containers.find(name)
    }

    /// Containers made of an image: their ids, and whether they run.
    pub fn containers_using(&self, image_id: &str) -> Vec<(String, bool)> {
        let of_image = |container: Arc<Container>| {
            let record = container.record();
            let mounts = record.mounts.iter().any(|mount| mount.image == image_id);
            (record.image_id == image_id || mounts).then(|| (record.id.clone(), record.is_running()))
        };
        self.containers.all().into_iter().filter_map(of_image).collect()
    }

    /// How many containers are made of each image that any is made of, by the images' ids.
    pub fn users_of_images(&self) -> HashMap<String, usize> {
        let mut users = HashMap::new();
        for container in self.containers.all() {
            *users.entry(container.record().image_id.clone()).or_default() += 1;
        }
        users
    }

    /// How many containers run, are paused, and are stopped.
    pub fn container_counts(&self) -> (usize, usize, usize) {
        let mut counts = (0, 0, 0);
        for container in self.containers.all() {
            match container.record().state.status {
                Status::Running | Status::Restarting => counts.0 += 1,
                Status::Paused => counts.1 += 1,
                _ => counts.2 += 1,
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container that is linked to these, each as an alias of the same name.
    fn container(id: &str, targets: &[&str]) -> Arc<Container> {
        let mut record = Record::named(id);
        record.links = targets.iter().map(|target| super::super::links::Link::plain(target)).collect();
        Arc::new(Container::new(record))
    }

    fn insert(containers: &Containers, container: &Arc<Container>) {
        let name = containers.take_name(&container.id, &container.id).unwrap();
        containers.insert(name, Arc::clone(container));
    }

    #[test]
    fn who_is_linked_to_a_container_is_known_without_a_walk() {
        let containers = Containers(Mutex::default());
        let [db, web, job] = [container("db", &[]), container("web", &["db"]), container("job", &["db"])];
        for container in [&db, &web, &job] {
            insert(&containers, container);
        }
        let parents = |target: &str| -> Vec<String> {
            containers.linked_to(target).iter().map(|parent| parent.id.clone()).collect()
        };
        assert_eq!(parents("db"), ["job", "web"]);
        assert!(parents("web").is_empty());
        containers.unlinked("job", "db");
        assert_eq!(parents("db"), ["web"]);
        containers.remove(&web, "web");
        assert!(parents("db").is_empty());
        assert!(locked(&containers.0).parents.is_empty(), "nothing of what is gone is kept");
    }
}
