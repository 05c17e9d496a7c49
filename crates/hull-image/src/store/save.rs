//! Images as one archive that is both Docker's (manifest.json) and an OCI layout, as Docker writes since 25.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::database::LayerRow;
use super::{Image, Store};
use crate::layer::split::assemble;
use crate::reference::Reference;
use crate::tar::{Entry, Kind, Writer};
use crate::{Digest, Error, Result};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image and the names under which it is saved.
struct Saved {
    image: Arc<Image>,
    names: BTreeSet<Reference>,
}

impl Store {
    /// Writes images as one archive that is both Docker's and an OCI layout. A repository without a tag stands for
    /// all its tags; what is named by an id is saved without a name. The layers are verified on the way: where one
    /// is not any more what it was, the archive breaks off with an error.
    pub fn save(&self, names: &[String], out: &mut dyn Write) -> Result<()> {
        let images = self.chosen(names)?;
        let mut out = Writer::new(io::BufWriter::with_capacity(256 * 1024, out));
        let (mut blobs, mut index, mut docker) = (BTreeSet::new(), Vec::new(), Vec::new());
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for folder in ["blobs/", "blobs/sha256/"] {
            out.header(&Entry::new(folder, Kind::Directory, 0o755, 0, 0)).map_err(sending)?;
        }
        for Saved { image, names } in &images {
            for layer in &image.layers {
                if blobs.insert(layer.diff_id) {
                    self.write_layer(&mut out, &layer.chain_id)?;
                }
            }
            if blobs.insert(image.id) {
                out.file(&path(&image.id), &image.raw_config, image.created.max(0)).map_err(sending)?;
            }
            let manifest = self.oci_manifest(image).to_string().into_bytes();
            let digest = Digest::of(&manifest);
            if blobs.insert(digest) {
                out.file(&path(&digest), &manifest, 0).map_err(sending)?;
            }
            describe(image, &digest, manifest.len(), names, &mut index);
            docker.push(json!({
                "Config": path(&image.id),
                "RepoTags": match names.is_empty() {
                    true => Value::Null,
                    false => names.iter().map(Reference::familiar).collect(),
                },
                "Layers": image.layers.iter().map(|layer| path(&layer.diff_id)).collect::<Vec<_>>(),
            }));
            let top = image.layers.last().map_or(image.id, |layer| layer.diff_id);
            for name in names {
                let tags = repositories.entry(name.familiar_name()).or_default();
                tags.insert(name.tag.clone().unwrap_or_default(), top.hex());
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index });
        let mut file =
            |name: &str, value: Value| out.file(name, value.to_string().as_bytes(), 0).map_err(sending);
        file("index.json", index)?;
        file("manifest.json", docker.into())?;
        file("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }))?;
        if !repositories.is_empty() {
            file("repositories", json!(repositories))?;
        }
        out.finish().map_err(sending)?;
        Ok(())
    }

    /// The images that names mean, each once, in the order in which they were named.
    fn chosen(&self, names: &[String]) -> Result<Vec<Saved>> {
        let mut images: Vec<Saved> = Vec::new();
        let mut add = |image: Arc<Image>, name: Option<Reference>| {
            let at = images.iter().position(|saved| saved.image.id == image.id).unwrap_or_else(|| {
                images.push(Saved { image, names: BTreeSet::new() });
                images.len() - 1
            });
            images[at].names.extend(name);
        };
        for name in names {
            let reference = Reference::parse(name).ok();
            if let Some(reference) = reference.filter(|name| name.tag.is_none() && name.digest.is_none()) {
                let tags = self.tags_of(&reference);
                if !tags.is_empty() {
                    for (tag, image) in tags {
                        add(self.image(&image)?, Some(tag));
                    }
                    continue;
                }
            }
            let image = self.resolve(name)?;
            let reference = Reference::parse(name).map(Reference::or_latest).ok();
            let reference = reference.filter(|name| name.digest.is_none() && self.names_image(name, &image));
            add(image, reference);
        }
        if images.iter().any(|saved| saved.image.builtin) {
            return Err(Error::new(
                crate::Kind::Forbidden,
                "hull/host is this machine itself: it has no layers that could be saved; export a container of it",
            ));
        }
        Ok(images)
    }

    /// The tags of a repository, and the images that they name.
    pub fn tags_of(&self, repository: &Reference) -> Vec<(Reference, Digest)> {
        let state = self.state();
        let names =
            state.names.iter().filter_map(|(name, image)| Some((Reference::parse(name).ok()?, *image)));
        names.filter(|(name, _)| name.tag.is_some() && name.name() == repository.name()).collect()
    }

    fn names_image(&self, name: &Reference, image: &Image) -> bool {
        self.state().names.get(&super::images::key(name)) == Some(&image.id)
    }

    fn oci_manifest(&self, image: &Image) -> Value {
        let state = self.state();
        let size = |chain_id| state.layers.get(chain_id).map_or(0, |layer| layer.row.archive_size);
        let layers: Vec<Value> = image
            .layers
            .iter()
            .map(
                |layer| json!({ "mediaType": LAYER, "digest": layer.diff_id, "size": size(&layer.chain_id) }),
            )
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": image.id, "size": image.raw_config.len() },
            "layers": layers,
        })
    }

    pub(super) fn write_layer<W: Write>(&self, out: &mut Writer<W>, chain_id: &Digest) -> Result<()> {
        let row = self.layer_row(chain_id)?;
        let entry = Entry::new(&path(&row.diff_id), Kind::File, 0o644, row.archive_size, 0);
        out.header(&entry).map_err(sending)?;
        self.assemble_layer(&row, &mut Contents(out))?;
        out.pad(row.archive_size).map_err(sending)
    }

    /// What is known of a layer.
    pub(super) fn layer_row(&self, chain_id: &Digest) -> Result<LayerRow> {
        let row = self.state().layers.get(chain_id).map(|layer| layer.row.clone());
        row.ok_or_else(|| Error::not_found(format!("layer {chain_id} was removed meanwhile")))
    }

    /// Writes the archive of a layer as it once came in, and makes sure that it is.
    pub(super) fn assemble_layer(&self, row: &LayerRow, out: &mut dyn Write) -> Result<()> {
        let place = self.layer_place(row.number);
        let mut verified = Verified { out, digest: Sha256::new(), left: row.archive_size };
        assemble(&place.split, &place.kept, &place.tree, &mut verified)
            .map_err(|error| Error::system(format_args!("write layer {}", row.diff_id), error))?;
        let Verified { digest, left, .. } = verified;
        if left != 0 || Digest::from_hasher(digest) != row.diff_id {
            return Err(Error::new(
                crate::Kind::System,
                format!(
                    "layer {} is not any more what it was: something has changed {}",
                    row.diff_id,
                    place.tree.display()
                ),
            ));
        }
        Ok(())
    }
}

/// The contents of a member of an archive.
struct Contents<'a, W>(&'a mut Writer<W>);

impl<W: Write> Write for Contents<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.contents(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes what is written, and lets no more pass than was announced.
struct Verified<'a> {
    out: &'a mut dyn Write,
    digest: Sha256,
    left: u64,
}

impl Write for Verified<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is longer than it was"))?;
        self.digest.update(bytes);
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A descriptor in the index for each name, or one without a name.
fn describe(
    image: &Image,
    digest: &Digest,
    size: usize,
    names: &BTreeSet<Reference>,
    index: &mut Vec<Value>,
) {
    let descriptor = json!({
        "mediaType": MANIFEST,
        "digest": digest,
        "size": size,
        "platform": { "architecture": image.config.architecture, "os": image.config.os },
    });
    if names.is_empty() {
        index.push(descriptor.clone());
    }
    for name in names {
        let mut descriptor = descriptor.clone();
        descriptor["annotations"] = json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag,
        });
        index.push(descriptor);
    }
}

pub(super) fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(super) fn sending(error: io::Error) -> Error {
    Error::system("write the archive", error)
}
