//! All containers, found by id, by the beginning of an id, or by name.

use std::collections::{BTreeMap, HashMap};
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
        locked(&self.0).by_id.insert(container.id.clone(), container);
    }

    /// The container has another name now, which was taken before.
    pub(super) fn renamed(&self, mut taken: NameTaken<'_>, old: &str) {
        taken.kept = true;
        locked(&self.0).ids_by_name.remove(old);
    }

    /// Takes a container out; its name is free.
    pub(super) fn remove(&self, id: &str, name: &str) {
        let mut index = locked(&self.0);
        index.by_id.remove(id);
        index.ids_by_name.remove(name);
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
            (record.image_id == image_id).then(|| (record.id.clone(), record.is_running()))
        };
        self.containers.all().into_iter().filter_map(of_image).collect()
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
