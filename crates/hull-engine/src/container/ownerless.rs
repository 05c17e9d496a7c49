//! What a container left behind whose row is gone: a crash came between the steps of its removal or its creation, or the
//! data root is another one.

use std::ffi::OsStr;
use std::path::Path;
use std::{fs, io};

use hull_runtime::cgroup::Cgroup;

use super::{Record, spec};
use crate::database::Table;
use crate::{Engine, Error, Result};

/// In the runtime folder of a container whose cgroup has a parent of the user's choosing: that cgroup's path.
const CGROUP: &str = "cgroup";

/// Notes where a container's processes are found should its row go before they do. Most are beneath the daemon's own
/// cgroup, where they are found without a note.
pub(super) fn note_cgroup(record: &Record, instance: &str, runtime_dir: &Path) -> Result<()> {
    let parent = &record.host_config.resources.cgroup_parent;
    if parent.is_empty() {
        return Ok(());
    }
    let path = runtime_dir.join(CGROUP);
    fs::write(&path, spec::cgroup_path(parent, instance, &record.id))
        .map_err(|error| Error::system(format_args!("write {}", path.display()), error))
}

/// The cgroup of the container that a folder belonged to; none: it is no container's folder.
fn cgroup_of(folder: &Path, instance: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(folder.join(CGROUP)) {
        Ok(noted) => return Ok(Some(noted)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        Err(error) => return Err(error),
    }
    let Some(name) = folder.file_name().and_then(OsStr::to_str) else { return Ok(None) };
    // A removal puts the folder aside under this name; the cgroup keeps its own.
    let id = name.strip_suffix(ASIDE).unwrap_or(name);
    Ok(Some(spec::cgroup_path("", instance, id)))
}

/// What ends the name of a folder that a removal has put aside.
const ASIDE: &str = ".gone";

/// Why it is left there.
const STAYS: &str = "what removed containers have left stays until the daemon starts again";

fn is_aside(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(ASIDE.as_bytes())
}

impl Engine {
    /// Goes on with removals that a power cut divided: what was put aside is on the disk, and the going of the row is not.
    /// A folder that is only missing proves nothing: its disk may not have been mounted. Whether the rows' going is on the
    /// disk, so that what was put aside, which tells of it, may go as well.
    pub(super) fn finish_removals(&self) -> Result<bool> {
        for container in self.containers.all() {
            let id = &container.id;
            let folder = self.container_dir(id);
            if folder.exists() || !super::remove::gone(&folder).exists() {
                continue;
            }
            let name = container.record().name.clone();
            tracing::warn!(
                container = id,
                name,
                "it was being removed when the machine went down, and is gone"
            );
            self.database.delete(Table::Containers, id)?;
            self.containers.remove(&container, &name);
            self.containers.left(id);
        }
        // An earlier daemon may have ended before it was.
        let aside = fs::read_dir(self.config.data_root.join("containers"))
            .is_ok_and(|entries| entries.flatten().any(|entry| is_aside(&entry.file_name())));
        Ok(!aside || self.database.sync().inspect_err(|error| tracing::error!(%error, "{STAYS}")).is_ok())
    }

    /// Folders, snapshots and cgroups of containers that are not in the database; what a removal put aside only where
    /// that `may_go`.
    pub(super) fn remove_ownerless(&self, may_go: bool) {
        let known = |name: &std::ffi::OsStr| {
            name.to_str().is_some_and(|id| {
                id.len() == 64 && self.containers.find(id).is_ok_and(|found| found.id == id)
            })
        };
        for folder in [self.config.data_root.join("containers"), self.config.exec_root.join("c")] {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let stays = |name: &OsStr| known(name) || (!may_go && is_aside(name));
            for entry in entries.flatten().filter(|entry| !stays(&entry.file_name())) {
                tracing::warn!(path = %entry.path().display(), "a folder that no container owns is removed");
                super::view::unmount_shared_memory(&entry.path());
                if let Err(error) = self.end_ownerless(&entry.path()) {
                    // Its folder stays with it, and the next daemon tries again.
                    tracing::error!(path = %entry.path().display(), %error, "processes that no container owns could not be ended");
                    continue;
                }
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    tracing::error!(path = %entry.path().display(), %error, "it could not be removed");
                }
            }
        }
        for key in self.images.snapshots() {
            if !known(super::mounts::owner_of_key(&key).as_ref())
                && let Err(error) = self.images.remove_snapshot(&key)
            {
                tracing::error!(key, %error, "a writable layer that no container owns could not be removed");
            }
        }
    }

    /// Ends the processes of a container whose row is gone.
    fn end_ownerless(&self, folder: &Path) -> Result<()> {
        let cgroup = cgroup_of(folder, &self.config.instance)
            .map_err(|error| Error::system(format_args!("find the cgroup of {}", folder.display()), error))?;
        let Some(Ok(cgroup)) = cgroup.map(|path| Cgroup::open(&path)) else { return Ok(()) };
        Ok(cgroup.kill_all().and_then(|()| cgroup.remove())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_by_its_note_or_by_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let mut record = Record::named("x");
        let found = |name: &str| cgroup_of(&root.path().join(name), "hull").unwrap();
        for name in ["x", "x.gone"] {
            fs::create_dir(root.path().join(name)).unwrap();
            note_cgroup(&record, "hull", &root.path().join(name)).unwrap();
            assert_eq!(found(name).as_deref(), Some("/hull/x"));
        }
        record.host_config.resources.cgroup_parent = "/jobs/night".to_owned();
        note_cgroup(&record, "hull", &root.path().join("x.gone")).unwrap();
        assert_eq!(found("x.gone"), Some(format!("/jobs/night/{}", record.id)));
    }
}
