//! Images by their names: found, tagged, listed.

use std::sync::Arc;

use super::{DiskUsage, Image, ImageUsage, Store};
use crate::reference::Reference;
use crate::{Digest, Error, ImageId, Result};

impl Store {
    /// The image that `name` means: `busybox`, `repo:tag`, `repo@sha256:…`, an id, or the unambiguous beginning of
    /// one; a tag wins over an id.
    pub fn resolve(&self, name: &str) -> Result<Arc<Image>> {
        let state = self.state();
        let full = if name.len() == 64 { format!("sha256:{name}") } else { name.to_owned() };
        if let Ok(id) = full.parse::<Digest>() {
            return state.images.get(&id).cloned().ok_or_else(|| no_such(name));
        }
        let parsed = Reference::parse(name).map(Reference::or_latest);
        if let Ok(reference) = &parsed
            && let Some(id) = state.names.get(&key(reference))
        {
            return state.images.get(id).cloned().ok_or_else(|| no_such(name));
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if !prefix.is_empty() && prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let first: Result<Digest> = format!("sha256:{prefix:0<64}").parse();
            if let Ok(first) = first {
                let mut found =
                    state.images.range(first..).take_while(|(id, _)| id.hex().starts_with(prefix));
                match (found.next(), found.next()) {
                    (Some((_, image)), None) => return Ok(Arc::clone(image)),
                    (Some(_), Some(_)) => {
                        return Err(Error::invalid(format!(
                            "the image id prefix {name} is ambiguous: give more of it"
                        )));
                    }
                    (None, _) => {}
                }
            }
        }
        match parsed {
            Ok(reference) => Err(no_such(&reference.familiar())),
            Err(error) => Err(error),
        }
    }

    /// The image of this id.
    pub(super) fn image(&self, id: &ImageId) -> Result<Arc<Image>> {
        self.state().images.get(id).cloned().ok_or_else(|| no_such(&id.to_string()))
    }

    /// All images, newest first; the built-in one is among them.
    pub fn images(&self) -> Vec<Arc<Image>> {
        let mut images: Vec<Arc<Image>> = self.state().images.values().cloned().collect();
        images.sort_by_key(|image| std::cmp::Reverse(image.created));
        images
    }

    /// Whether other images were committed from this one. Such an image without names is what Docker calls
    /// intermediate and lists only when all are asked for.
    pub fn has_children(&self, id: &ImageId) -> bool {
        self.state().children.get(id).is_some_and(|children| !children.is_empty())
    }

    /// Gives the image `source` the name `target`.
    pub fn tag(&self, source: &str, target: &str) -> Result<()> {
        let image = self.resolve(source)?;
        let reference = Reference::parse_tag(target)?;
        self.check_not_builtin(Some(&reference))?;
        self.set_name(&reference, &image.id)
    }

    /// Names an image by the digest of a manifest in a registry: `repo@sha256:…`.
    pub fn add_digest(&self, image: &ImageId, reference: &str) -> Result<()> {
        let reference = Reference::parse(reference)?;
        if reference.digest.is_none() {
            return Err(Error::invalid(format!("{} has no digest", reference.familiar())));
        }
        self.set_name(&reference, image)
    }

    pub(super) fn set_name(&self, reference: &Reference, image: &ImageId) -> Result<()> {
        let database = self.database();
        let found = self.image(image)?;
        let now = jiff::Timestamp::now().as_nanosecond() as i64;
        let name = key(reference);
        if found.builtin {
            // Its own name is not stored, and it has no row to be stored with.
            return Err(Error::new(
                crate::Kind::Forbidden,
                "hull/host is this machine itself: it cannot have another name",
            ));
        }
        database.transaction(|database| {
            database.put_name(&name, image)?;
            database.set_last_tagged(image, now)
        })?;
        self.state_mut().set_names(&[name], *image, now);
        self.syncing.rows();
        Ok(())
    }

    /// The name of the built-in image cannot be given to another.
    pub(super) fn check_not_builtin(&self, reference: Option<&Reference>) -> Result<()> {
        match reference {
            Some(reference) if key(reference) == super::HOST_NAME => Err(Error::new(
                crate::Kind::Forbidden,
                "hull/host:latest is this machine itself, built in: another image cannot have its name",
            )),
            _ => Ok(()),
        }
    }

    /// The bytes of all layers.
    pub fn layers_size(&self) -> u64 {
        self.state().layers.values().map(|layer| layer.row.size).sum()
    }

    /// What the images take; from memory, nothing is walked.
    pub fn disk_usage(&self) -> DiskUsage {
        let state = self.state();
        let mut users: std::collections::HashMap<Digest, usize> = std::collections::HashMap::new();
        // What is there for the image that was made of it alone takes nothing from that.
        let intermediate = |image: &Image| {
            image.is_dangling() && state.children.get(&image.id).is_some_and(|children| !children.is_empty())
        };
        for image in state.images.values().filter(|image| !intermediate(image)) {
            for layer in &image.layers {
                *users.entry(layer.chain_id).or_default() += 1;
            }
        }
        let images = state.images.values().map(|image| {
            let own = usize::from(!intermediate(image));
            let shared =
                image.layers.iter().filter(|layer| users.get(&layer.chain_id).is_some_and(|&n| n > own));
            let shared = shared.map(|layer| layer.size).sum();
            ImageUsage { id: image.id, size: image.size, shared, unique: image.size - shared }
        });
        DiskUsage {
            layers_size: state.layers.values().map(|layer| layer.row.size).sum(),
            images: images.collect(),
        }
    }
}

/// Under which a reference is stored: a digest says all, a tag beside it nothing more.
pub(super) fn key(reference: &Reference) -> String {
    match reference.digest {
        Some(_) => Reference { tag: None, ..reference.clone() }.to_string(),
        None => reference.to_string(),
    }
}

fn no_such(name: &str) -> Error {
    Error::not_found(format!("No such image: {name}"))
}
