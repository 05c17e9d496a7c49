//! What a build made, as an archive: its files, or the image as Docker's archive or an OCI layout with what goes with it.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};
use serde_json::{Value, json};

use super::save::{LAYER, path, sending};
use super::seal::Held;
use super::{Image, Layer, Store};
use crate::archive::pack::Packer;
use crate::dress::{Dress, package};
use crate::reference::Reference;
use crate::registry::manifest::Descriptor;
use crate::tar::{Entry, Kind, Writer};
use crate::{Error, Result};

impl Store {
    /// Writes an image as an archive that is an OCI layout, and with `docker` also what `docker load` of long ago reads. Its layers
    /// are not compressed. What names the image, with its size.
    ///
    /// # Errors
    /// A layer is not any more what it was, or nobody reads.
    pub fn save_built(
        &self,
        image: &Image,
        names: &[Reference],
        dress: &Dress,
        docker: bool,
        out: &mut dyn Write,
    ) -> Result<Value> {
        let mut out = Writer::new(io::BufWriter::with_capacity(256 * 1024, out));
        for folder in ["blobs/", "blobs/sha256/"] {
            out.header(&Entry::new(folder, Kind::Directory, 0o755, 0, 0)).map_err(sending)?;
        }
        let (mut written, mut layers) = (BTreeSet::new(), Vec::new());
        for layer in &image.layers {
            if written.insert(layer.diff_id) {
                self.write_layer(&mut out, &layer.chain_id)?;
            }
            let size = self.layer_row(&layer.chain_id)?.archive_size;
            layers.push(Descriptor { media_type: LAYER.to_owned(), size, ..Descriptor::of(layer.diff_id) });
        }
        let packages: Vec<String> = names
            .iter()
            .map(|name| package(&name.name(), name.tag.as_deref().unwrap_or("latest"), image))
            .collect();
        let dressed = dress.dressed(image, &layers, &packages);
        let config = (image.id, image.raw_config.to_vec().into());
        let manifests = dressed.inner.iter().chain([&dressed.top]).map(|raw| (raw.digest, raw.bytes.clone()));
        for (digest, bytes) in [config].into_iter().chain(dressed.blobs.iter().cloned()).chain(manifests) {
            if written.insert(digest) {
                out.file(&path(&digest), &bytes, 0).map_err(sending)?;
            }
        }
        let mut index = Vec::new();
        for name in names {
            let mut descriptor = dressed.descriptor.clone();
            descriptor["annotations"]["io.containerd.image.name"] = json!(name.to_string());
            descriptor["annotations"]["org.opencontainers.image.ref.name"] = json!(name.tag);
            index.push(descriptor);
        }
        if index.is_empty() {
            index.push(dressed.descriptor.clone());
        }
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index });
        let mut file =
            |name: &str, value: Value| out.file(name, value.to_string().as_bytes(), 0).map_err(sending);
        file("index.json", index)?;
        if docker {
            let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
            let layers: Vec<String> = image.layers.iter().map(|layer| path(&layer.diff_id)).collect();
            file(
                "manifest.json",
                json!([{ "Config": path(&image.id), "RepoTags": tags, "Layers": layers }]),
            )?;
        }
        file("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }))?;
        out.finish().map_err(sending)?;
        Ok(json!({
            "mediaType": dressed.top.media_type,
            "digest": dressed.top.digest,
            "size": dressed.top.bytes.len(),
        }))
    }

    /// Writes the files of an image, whose view this is, as an archive: without what is there only to be mounted on.
    ///
    /// # Errors
    /// They cannot be read, or nobody reads.
    pub fn export_built(&self, image: &Image, root: BorrowedFd<'_>, out: &mut dyn Write) -> Result<()> {
        let without = self.only_mounted_on(image)?;
        let packer = Packer::new(io::BufWriter::with_capacity(256 * 1024, out), true).without(without);
        crate::archive::export_with(root, packer)
    }

    /// The paths in an image's view that are there only to be mounted on.
    ///
    /// # Errors
    /// A layer is not any more what it was.
    pub fn only_mounted_on(&self, image: &Image) -> Result<HashSet<Vec<u8>>> {
        let mut without = HashSet::new();
        for place in super::init::places() {
            match self.parts_at(image, place) {
                Ok(_) => {}
                Err(error) if error.kind == crate::Kind::NotFound => {
                    without.insert(place.as_bytes().to_vec());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(without)
    }

    /// Makes one layer of all that an image's view has beyond its lowest layers, which stay. None where that is nothing.
    ///
    /// # Errors
    /// The files cannot be read, or the disk is full.
    pub fn squash(
        self: &Arc<Self>,
        image: &Image,
        base: usize,
        root: BorrowedFd<'_>,
    ) -> Result<Option<(Layer, Held)>> {
        let below = base.checked_sub(1).and_then(|top| image.layers.get(top)).map(|layer| layer.chain_id);
        let mut lower =
            below.map(|top| self.state().folders(&top, &self.root.join("layers"))).unwrap_or_default();
        lower.push(self.init_layer());
        let mut changes = super::diff::Changes::new();
        // A view's root is open by its path only.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tree = openat(root, ".", flags, Mode::empty())
            .map_err(|errno| Error::system("read the files of a build", errno))?;
        super::whole::compare(&tree, &lower, b"", 0, &mut changes)?;
        if changes.is_empty() {
            return Ok(None);
        }
        let unpacked = self.unpack_from(|out| super::commit::pack_of(&tree, &changes, out))?;
        self.enter_layer(&unpacked, below).map(Some)
    }
}
