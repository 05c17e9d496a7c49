//! What was received is kept for the next build of the same folder: what has not changed is not sent again.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bollard_buildkit_proto::fsutil::types::Stat;
use hull_build::Failure;
use hull_build::context::Folder;
use hull_build::kept::boot;
use prost::Message;

/// So long nobody has to want it, until it is removed.
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// So many bytes are kept of all contexts together, and of those of each socket that has a policy.
const MOST: u64 = 10 << 30;
const OF_ONE: u64 = 2 << 30;

/// The contexts that are kept.
#[derive(Clone, Debug)]
pub(crate) struct Contexts {
    kept: PathBuf,
    temporary: PathBuf,
}

/// A context that a build has; it is nobody else's meanwhile. Its files go where they are kept when it is dropped, if it
/// is complete.
#[derive(Debug)]
pub(crate) struct Held {
    contexts: Contexts,
    name: Name,
    folder: Folder,
    complete: bool,
}

/// By what a context is kept.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    /// What its folder is called.
    pub(crate) key: String,
    /// The socket with a policy that it came by: it takes of that one's share.
    pub(crate) socket: Option<PathBuf>,
}

impl Contexts {
    pub(crate) fn new(kept: &Path, temporary: &Path) -> Contexts {
        Contexts { kept: kept.to_owned(), temporary: temporary.to_owned() }
    }

    /// Takes the context of that name, or an empty one where another build has it or there is none; and what is in it.
    pub(crate) fn take(&self, name: &Name) -> Result<(Held, HashMap<String, Stat>), Failure> {
        let folder = Folder::beneath(&self.temporary)?;
        let held = Held { contexts: self.clone(), name: name.clone(), folder, complete: false };
        let index = match std::fs::rename(self.kept.join(&name.key), held.home()) {
            Ok(()) => read_index(&held.home().join("index")),
            Err(_) => None,
        };
        if index.is_none() {
            let failed = |error| Failure::system("make a folder for the build context", error);
            let home = held.home();
            hull_image::remove_tree(&home).map_err(failed)?;
            std::fs::create_dir(&home).and_then(|()| std::fs::create_dir(held.path())).map_err(failed)?;
        }
        Ok((held, index.unwrap_or_default()))
    }

    /// Removes what nobody wanted for long, and what is too much.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.kept) else { return };
        let mut kept: Vec<(SystemTime, u64, Vec<u8>, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let size = std::fs::read_to_string(entry.path().join("size")).ok()?.parse().ok()?;
                let used = std::fs::metadata(entry.path().join("index")).ok()?.modified().ok()?;
                // What is everybody's has none.
                let socket = std::fs::read(entry.path().join("socket")).unwrap_or_default();
                Some((used, size, socket, entry.path()))
            })
            .collect();
        kept.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let mut total: u64 = 0;
        let mut shares: HashMap<Vec<u8>, u64> = HashMap::new();
        for (used, size, socket, path) in kept {
            let old = used.elapsed().is_ok_and(|age| age > AGE);
            let is_common = socket.is_empty();
            let share = shares.entry(socket).or_default();
            *share = share.saturating_add(size);
            let stays = !old && (is_common || *share <= OF_ONE) && total.saturating_add(size) <= MOST;
            if stays {
                total += size;
                continue;
            }
            // Out of the way first: what is half removed must not be taken for what was received.
            let Ok(trash) = Folder::beneath(&self.temporary) else { return };
            let _ = std::fs::rename(path, trash.path().join("context"));
        }
    }
}

impl Held {
    fn home(&self) -> PathBuf {
        self.folder.path().join("kept")
    }

    /// Where its files are.
    pub(crate) fn path(&self) -> PathBuf {
        self.home().join("files")
    }

    /// All of it has been received: these files.
    pub(crate) fn complete(&mut self, files: &[Stat]) -> Result<(), Failure> {
        let failed = |error| Failure::system("keep the build context", error);
        let boot =
            boot().ok_or_else(|| failed(std::io::Error::other("the kernel tells no id of this boot")))?;
        let mut index = format!("{boot}\n").into_bytes();
        for stat in files {
            // The buffer grows, so there is always room.
            let _ = stat.encode_length_delimited(&mut index);
        }
        let size: u64 = files.iter().map(|stat| u64::try_from(stat.size).unwrap_or(0)).sum();
        if let Some(socket) = &self.name.socket {
            std::fs::write(self.home().join("socket"), socket.as_os_str().as_encoded_bytes())
                .map_err(failed)?;
        }
        std::fs::write(self.home().join("size"), size.to_string()).map_err(failed)?;
        std::fs::write(self.home().join("index"), index).map_err(failed)?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.complete {
            // Where a build beside this one was quicker, its files stay and these go.
            let _ = std::fs::rename(self.home(), self.contexts.kept.join(&self.name.key));
            // All that are kept are looked at for this: nobody waits for it.
            let contexts = self.contexts.clone();
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || contexts.sweep())),
                Err(_) => contexts.sweep(),
            }
        }
    }
}

fn read_index(path: &Path) -> Option<HashMap<String, Stat>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
    // What was not on the disk when the machine lost its power may be anything now, so nothing outlives a boot.
    let at = bytes.iter().position(|byte| *byte == b'\n')?;
    if boot()?.as_bytes() != &bytes[..at] {
        return None;
    }
    let mut rest = &bytes[at + 1..];
    let mut index = HashMap::new();
    while !rest.is_empty() {
        let stat = Stat::decode_length_delimited(&mut rest).ok()?;
        index.insert(stat.path.clone(), stat);
    }
    Some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str, socket: Option<&str>) -> Name {
        Name { key: key.to_owned(), socket: socket.map(PathBuf::from) }
    }

    #[test]
    fn nothing_outlives_a_boot_and_nobody_drives_out_others() {
        let root = tempfile::tempdir().unwrap();
        let [kept, temporary] = ["kept", "tmp"].map(|name| root.path().join(name));
        for folder in [&kept, &temporary] {
            std::fs::create_dir(folder).unwrap();
        }
        let contexts = Contexts::new(&kept, &temporary);
        let keep = |key: &str, socket: Option<&str>, size: u64| {
            let (mut held, _) = contexts.take(&name(key, socket)).unwrap();
            let size = i64::try_from(size).unwrap();
            held.complete(&[Stat { path: "f".to_owned(), size, ..Stat::default() }]).unwrap();
        };
        keep("ours", None, MOST / 2);
        for key in ["a", "b", "c"] {
            keep(key, Some("/a.sock"), OF_ONE / 2 + 1);
        }
        let is_kept = |key: &str| kept.join(key).exists();
        assert_eq!(["ours", "c"].map(is_kept), [true, true]);
        assert!(!is_kept("a") && !is_kept("b"));
        let index = kept.join("ours/index");
        let bytes = std::fs::read(&index).unwrap();
        std::fs::write(&index, [b"0", &bytes[1..]].concat()).unwrap();
        assert!(contexts.take(&name("ours", None)).unwrap().1.is_empty());
        assert_eq!(contexts.take(&name("c", None)).unwrap().1.len(), 1);
    }

    #[test]
    fn what_is_complete_is_kept_and_nobody_else_s_meanwhile() {
        let root = tempfile::tempdir().unwrap();
        let [kept, temporary] = ["kept", "tmp"].map(|name| root.path().join(name));
        for folder in [&kept, &temporary] {
            std::fs::create_dir(folder).unwrap();
        }
        let contexts = Contexts::new(&kept, &temporary);
        let (held, index) = contexts.take(&name("a", None)).unwrap();
        assert!(index.is_empty() && held.path().is_dir());
        drop(held);
        assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 0, "it was not complete");
        let (mut held, _) = contexts.take(&name("a", None)).unwrap();
        std::fs::write(held.path().join("f"), "1").unwrap();
        held.complete(&[Stat { path: "f".to_owned(), size: 1, ..Stat::default() }]).unwrap();
        drop(held);
        let (held, index) = contexts.take(&name("a", None)).unwrap();
        assert_eq!(index["f"].size, 1);
        assert!(held.path().join("f").is_file());
        // Whoever comes beside has one of his own.
        let (beside, index) = contexts.take(&name("a", None)).unwrap();
        assert!(index.is_empty() && !beside.path().join("f").exists());
        drop((held, beside));
        assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
    }
}
