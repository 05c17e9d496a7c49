//! What a build made, as an archive: its files, or the image as Docker's archive or an OCI layout with what goes with it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};
use serde_json::{Value, json};

use super::save::{path, sending};
use super::seal::Held;
use super::{Image, Layer, Store};
use crate::artifact::{end_layout, write_blob};
use crate::compress::{Algorithm, Compress};
use crate::dress::{Dress, Part, described, package};
use crate::reference::Reference;
use crate::registry::manifest::Descriptor;
use crate::tar::{Entry, Kind, Writer};
use crate::{Digest, Error, Result};

impl Store {
    /// Writes images as an archive that is an OCI layout, and with `docker` also what `docker load` of long ago reads. Their
    /// layers are not compressed, where nothing else is asked for. What names the images, with its size.
    ///
    /// # Errors
    /// A layer is not any more what it was, or nobody reads.
    pub fn save_built(
        &self,
        parts: &[Part],
        names: &[Reference],
        dress: &Dress,
        docker: bool,
        out: &mut dyn Write,
    ) -> Result<Value> {
        let mut out = Writer::new(io::BufWriter::with_capacity(256 * 1024, out));
        for folder in ["blobs/", "blobs/sha256/"] {
            out.header(&Entry::new(folder, Kind::Directory, 0o755, 0, 0)).map_err(sending)?;
        }
        let mut written = BTreeSet::new();
        let mut layers_of = Vec::new();
        let mut known: HashMap<Digest, Descriptor> = HashMap::new();
        for part in parts {
            let mut layers = Vec::new();
            for layer in &part.image.layers {
                let descriptor = match known.get(&layer.diff_id) {
                    Some(descriptor) => descriptor.clone(),
                    None => self.save_layer(&layer.chain_id, dress.compress, &mut out)?,
                };
                written.insert(descriptor.digest);
                known.insert(layer.diff_id, descriptor.clone());
                layers.push(descriptor);
            }
            layers_of.push((part, layers));
        }
        let dressed = dress.dressed(&layers_of, &|image| {
            let package =
                |name: &Reference| package(&name.name(), name.tag.as_deref().unwrap_or("latest"), image);
            names.iter().map(package).collect()
        });
        let configs = parts.iter().map(|part| (part.image.id, part.image.raw_config.to_vec().into()));
        let manifests = dressed.inner.iter().chain([&dressed.top]).map(|raw| (raw.digest, raw.bytes.clone()));
        for (digest, bytes) in configs.chain(dressed.blobs.iter().cloned()).chain(manifests) {
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
        if let (true, [(one, layers)]) = (docker, &layers_of[..]) {
            let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
            let layers: Vec<String> = layers.iter().map(|layer| path(&layer.digest)).collect();
            let manifest = json!([{ "Config": path(&one.image.id), "RepoTags": tags, "Layers": layers }]);
            out.file("manifest.json", manifest.to_string().as_bytes(), 0).map_err(sending)?;
        }
        end_layout(out, &index)?;
        Ok(described(&dressed.top))
    }

    /// Writes a layer as a blob of a layout.
    fn save_layer<W: Write>(
        &self,
        chain_id: &Digest,
        how: Compress,
        out: &mut Writer<W>,
    ) -> Result<Descriptor> {
        let algorithm = how.algorithm.unwrap_or(Algorithm::Uncompressed);
        let row = self.layer_row(chain_id)?;
        let of = |digest, size| Descriptor {
            media_type: algorithm.media_type(false).to_owned(),
            size,
            ..Descriptor::of(digest)
        };
        if algorithm == Algorithm::Uncompressed {
            self.write_layer(out, chain_id)?;
            return Ok(of(row.diff_id, row.archive_size));
        }
        // How long it is stands before it.
        let mut file = self.spool()?;
        let mut failed = None;
        let mut take = |piece: bytes::Bytes| match file.write_all(&piece) {
            Ok(()) => true,
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        let compressed = self.compress_layer(chain_id, how, &|_| {}, &mut take);
        let compressed = match failed {
            Some(error) => return Err(Error::system("compress a layer", error)),
            None => compressed?,
        };
        write_blob(out, &compressed.digest, &file, compressed.size)?;
        Ok(of(compressed.digest, compressed.size))
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
