//! The files of cache mounts, taken elsewhere behind a build (`--cache-mounts-to`) and brought back where they are not there
//! (`--cache-mounts-from`): each cache is a blob of an artifact, by its id.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};

use hull_image::artifact::{Artifact, Layout, blobs_of, pack};
use hull_image::compress::Compress;
use hull_image::reference::Reference;
use hull_image::registry::Remote;
use hull_image::registry::manifest::Descriptor;
use rustix::fs::{CWD, RenameFlags};
use tokio::runtime::Handle;

use crate::build::{Build, wanted};
use crate::context::{Context, Folder};
use crate::copying::blocking;
use crate::dockerfile::Sharing;
use crate::exporting::Leaving;
use crate::failure::{Failure, Result};
use crate::mounts::Used;
use crate::progress::Event;

/// What the artifact is.
const KIND: &str = "application/vnd.hull.build.cache-mounts.v1";
/// The annotation of a blob that says which cache it is.
const ID: &str = "io.hull.build.cache-mount.id";

/// Where the files of caches are.
enum Place {
    /// In an OCI layout that came with the build.
    Layout(Arc<Context>),
    /// In a registry.
    Remote(Remote),
}

/// Files of cache mounts that can be brought back.
pub(crate) struct Elsewhere {
    /// As who builds knows it.
    name: String,
    place: Place,
    blobs: Vec<Descriptor>,
}

/// What is read, as long as somebody wants it.
struct Wanted<'a, R>(R, &'a AtomicBool);

impl<R: Read> Read for Wanted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        wanted(self.1).map_err(|failure| io::Error::other(failure.message))?;
        self.0.read(buffer)
    }
}

/// What others' words may fill of a folder's disk: a twentieth of it stays free.
pub(crate) fn room(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_sub(disk.f_blocks / 20).saturating_mul(disk.f_frsize))
}

/// Notes which cache the folder of this name is, and by the time of the note that it is used now.
///
/// # Errors
/// The disk fails.
pub(crate) fn note_used(caches: &Path, id: &str, name: &str) -> io::Result<()> {
    let path = caches.join(format!("{name}.id"));
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    // It is empty where whoever made it was ended then.
    if file.metadata()?.len() != id.len() as u64 {
        file.write_all_at(id.as_bytes(), 0)?;
    }
    file.set_modified(std::time::SystemTime::now())
}

impl Build {
    /// Where the files of caches can be had. What cannot be had has nothing to give.
    pub(crate) async fn mounts_elsewhere(&self) -> Vec<Elsewhere> {
        let mut all = Vec::new();
        for layout in &self.request.cache_mounts_given {
            let name = "the folder of cache mounts".to_owned();
            let folder = Arc::clone(layout);
            let read =
                move || Ok(Layout(folder.root()).manifest().and_then(|manifest| blobs_of(&manifest, KIND)));
            let blobs = blocking("read an OCI layout", read).await;
            let blobs = blobs.unwrap_or_else(|failure| Err(hull_image::Error::invalid(failure.message)));
            let place = Place::Layout(Arc::clone(layout));
            all.extend(self.or_warn(&name.clone(), blobs.map(|blobs| Elsewhere { name, place, blobs })));
        }
        for name in &self.request.cache_mounts_from {
            let found = match self.request.may_fetch {
                true => Box::pin(self.mounts_remote(name)).await,
                false => Err(hull_image::Error::invalid("this socket refuses the host's network to builds")),
            };
            all.extend(self.or_warn(name, found));
        }
        all
    }

    async fn mounts_remote(&self, name: &str) -> hull_image::Result<Elsewhere> {
        let reference = Reference::parse(name)?.or_latest();
        let who = self.credentials(&reference.domain);
        let remote = self.engine.registries().remote(&reference, &who).await?;
        let blobs = blobs_of(&remote.raw.bytes, KIND)?;
        Ok(Elsewhere { name: name.to_owned(), place: Place::Remote(remote), blobs })
    }

    /// What was found; where nothing was, that is told.
    fn or_warn<T>(&self, name: &str, found: hull_image::Result<T>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(error) => {
                let text = format!("{name} gives no cache mounts: {}", error.message);
                self.say(Event::Warning { text, excerpt: String::new() });
                None
            }
        }
    }

    /// Brings the files of a cache back, where its folder is not there and they are to be had. Blocks.
    ///
    /// # Errors
    /// Nobody wants the build any more, or the disk fails.
    pub(crate) fn bring_back(&self, id: &str, name: &str) -> Result<()> {
        let mut sources = self.mounts_from.get().into_iter().flatten().peekable();
        let folder = self.places.caches.join(name);
        if sources.peek().is_none() || folder.exists() {
            return Ok(());
        }
        // Of several steps that want it at once the first one fetches.
        let coming = self.places.lock(&format!("{name}/coming"));
        let _coming = coming.blocking_lock();
        for source in sources {
            let of_id = |blob: &&Descriptor| blob.annotations.get(ID).is_some_and(|of| of == id);
            let Some(blob) = source.blobs.iter().find(of_id) else { continue };
            if folder.exists() {
                return Ok(());
            }
            self.check()?;
            let failed = |error: io::Error| Failure::system(format_args!("bring the cache {id} back"), error);
            let to_unpack = Folder::beneath(&self.places.temporary)?;
            let limit = room(&self.places.temporary).map_err(failed)?;
            let unpacked = self.unpacked(source, blob, to_unpack, limit);
            self.check()?;
            let unpacked = match unpacked {
                // The disk's fault and not that of what is unpacked.
                Err(error) if error.kind == hull_image::Kind::System => {
                    return Err(Failure::system(format_args!("bring the cache {id} back"), error.message));
                }
                other => other,
            };
            let name_of = format!("{}: the cache mount {id}", source.name);
            let Some(unpacked) = self.or_warn(&name_of, unpacked) else { continue };
            // Its id before the folder itself: one without is known to nobody.
            note_used(&self.places.caches, id, name).map_err(failed)?;
            let files = unpacked.path().join("files");
            match rustix::fs::renameat_with(CWD, &files, CWD, &folder, RenameFlags::NOREPLACE) {
                // Another build has made it meanwhile.
                Err(rustix::io::Errno::EXIST) => return Ok(()),
                renamed => renamed.map_err(|errno| failed(errno.into()))?,
            }
            return Ok(());
        }
        Ok(())
    }

    /// The files of a cache, in a folder of their own until their digest was right: so many bytes at most.
    fn unpacked(
        &self,
        source: &Elsewhere,
        blob: &Descriptor,
        folder: Folder,
        limit: u64,
    ) -> hull_image::Result<Folder> {
        let system = |what: &str, error: io::Error| hull_image::Error::system(what, error);
        let files = folder.path().join("files");
        std::fs::create_dir(&files).map_err(|error| system("make a folder", error))?;
        let root = File::open(&files).map_err(|error| system("open a folder", error))?;
        let take = |blob: &mut dyn Read| {
            let mut blob = Wanted(blob, &self.stop);
            hull_image::archive::import_files(root.as_fd(), &mut blob, limit)?;
            // At its end it is compared with its digest.
            let rest = io::copy(&mut blob, &mut io::sink());
            rest.map(drop).map_err(|error| match error.raw_os_error() {
                Some(_) => system("read the blob", error),
                None => hull_image::Error::invalid(format!("read the blob: {error}")),
            })
        };
        match &source.place {
            Place::Layout(layout) => take(&mut Layout(layout.root()).blob(blob)?)?,
            Place::Remote(remote) => take(&mut remote.blob(blob, &Handle::current()))?,
        }
        Ok(folder)
    }

    /// The caches that builds used, packed: also those that their steps, which were all done before, did not look into.
    pub(crate) async fn mounts_packed(
        self: &Arc<Build>,
        all: &[Leaving],
        how: Compress,
        step: usize,
    ) -> Result<Artifact> {
        let mut used = BTreeMap::new();
        for one in all {
            used.extend(one.build.caches_used.lock().unwrap_or_else(PoisonError::into_inner).clone());
        }
        let mut blobs = Vec::new();
        for (id, sharing) in used {
            let name = self.cache_name(&id);
            // Who locks it has it alone, also from here.
            let lock = match sharing {
                Sharing::Locked => Some(self.places.lock(&name).lock_owned().await),
                Sharing::Shared | Sharing::Private => None,
            };
            let build = Arc::clone(self);
            let packed = blocking("pack a cache mount", move || {
                let _lock = lock;
                let _used = Used::of(&build.places, &name);
                build.bring_back(&id, &name)?;
                let folder = match File::open(build.places.caches.join(&name)) {
                    Ok(folder) => folder,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => {
                        return Err(Failure::system(format_args!("open the cache {id}"), error));
                    }
                };
                let of = BTreeMap::from([(ID.to_owned(), id.clone())]);
                let blob = pack(folder.as_fd(), &build.places.temporary, how, of)?;
                Ok(Some((id, blob)))
            });
            let Some((id, blob)) = packed.await? else { continue };
            let text = format!("{id}: {} bytes\n", blob.descriptor.size);
            self.say(Event::Output { step, text, error: false });
            blobs.push(blob);
        }
        if blobs.is_empty() {
            let text = "the build uses no cache mounts\n".to_owned();
            self.say(Event::Output { step, text, error: false });
        }
        Ok(Artifact::new(KIND, blobs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_gets_its_id_again() {
        let caches = Folder::beneath(&std::env::temp_dir()).unwrap();
        let note = caches.path().join("a.id");
        let id = || std::fs::read_to_string(&note).unwrap();
        note_used(caches.path(), "/root/.cache", "a").unwrap();
        assert_eq!(id(), "/root/.cache");
        let long_ago = std::time::UNIX_EPOCH;
        File::options().write(true).open(&note).unwrap().set_modified(long_ago).unwrap();
        note_used(caches.path(), "/root/.cache", "a").unwrap();
        assert!(std::fs::metadata(&note).unwrap().modified().unwrap() > long_ago);
        // The daemon was killed between the folder and its note, or amid that.
        std::fs::write(&note, "").unwrap();
        note_used(caches.path(), "/root/.cache", "a").unwrap();
        assert_eq!(id(), "/root/.cache");
        assert!(room(caches.path()).is_ok());
    }
}
