//! What each layer of an image does to what lies below it, and what differs between two images. Read from the layers'
//! folders, without a mount.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::Serialize;

use super::diff::{Below, find, is_opaque, join, merged_names, open_upper};
use super::state::seconds;
use super::{ChangeKind, Image, Store};
use crate::archive::lstat;
use crate::archive::pack::{by_number, names, reading};
use crate::layer::extract::is_whiteout;
use crate::{Error, Result};

/// Folders deeper than this are refused: each takes a descriptor.
const DEPTH: usize = 900;

/// Files, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Count {
    /// How many; what is no folder counts, also links and devices.
    pub files: u64,
    /// The bytes of the regular ones.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        self.files += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            self.bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }
}

/// Files that a layer stores though their contents were there already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StoredAgain {
    /// How many.
    #[serde(flatten)]
    pub count: Count,
    /// The folder that all of them are in.
    pub beneath: String,
    /// What of them is another: `owner`, `mode`, `time`.
    pub differ_in: BTreeSet<&'static str>,
}

/// One step of an image's history, and what its layer does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Step {
    /// The instruction that made it, as the image's configuration has it.
    pub created_by: String,
    /// What is said of it.
    pub comment: String,
    /// Seconds of Unix time; 0 where that is not known.
    pub created: i64,
    /// The layer; none: the step made none.
    pub layer: Option<LayerWork>,
}

/// What a layer does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LayerWork {
    /// The digest of its uncompressed archive.
    #[serde(rename = "DiffID")]
    pub diff_id: String,
    /// The bytes of its files.
    pub size: u64,
    /// What was not there.
    pub added: Count,
    /// What was there and is another, as it is now.
    pub changed: Count,
    /// What was there and is not seen any more.
    pub hidden: Count,
    /// Of what is changed: what has the contents that it had.
    pub stored_again: StoredAgain,
}

/// A path that two images have differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Difference {
    /// The path, from `/`.
    pub path: String,
    /// What happened to it, from the first image to the second.
    pub kind: ChangeKind,
    /// Its bytes in the first image; 0 for what is no file.
    pub size_before: u64,
    /// Its bytes in the second.
    pub size_after: u64,
}

impl Store {
    /// The steps of an image, the first one first, with what each layer adds, changes and hides.
    ///
    /// # Errors
    /// It is the built-in image, which has no layers, or one cannot be read.
    pub fn tree(&self, image: &Image) -> Result<Vec<Step>> {
        let folders = self.folders_of(image)?;
        let mut works = Vec::new();
        for (index, layer) in image.layers.iter().enumerate() {
            // They are uppermost first.
            let at = folders.len() - index - 1;
            let mut work =
                LayerWork { diff_id: layer.diff_id.to_string(), size: layer.size, ..LayerWork::default() };
            Look { work: &mut work, seen: HashSet::new(), again: None }
                .at(&folders[at], &folders[at + 1..])?;
            works.push(work);
        }
        let mut works = works.into_iter();
        let mut steps: Vec<Step> = image
            .config
            .history
            .iter()
            .map(|step| Step {
                created_by: step.created_by.clone(),
                comment: step.comment.clone(),
                created: seconds(step.created.as_deref()),
                layer: if step.empty_layer { None } else { works.next() },
            })
            .collect();
        // A configuration may say less than there are layers.
        steps.extend(works.map(|work| Step { layer: Some(work), ..Step::default() }));
        Ok(steps)
    }

    /// What differs from one image to another, sorted by path, and how many layers both begin with. Times alone are no
    /// difference.
    ///
    /// # Errors
    /// One of them is the built-in image, or a layer cannot be read.
    pub fn difference(&self, from: &Image, to: &Image) -> Result<(usize, Vec<Difference>)> {
        let (before, after) = (self.folders_of(from)?, self.folders_of(to)?);
        let pairs = from.layers.iter().zip(&to.layers);
        let shared = pairs.take_while(|(one, other)| one.chain_id == other.chain_id).count();
        let mut differences = Vec::new();
        differ(&before, &after, b"", 0, &mut differences)?;
        differences.sort_by(|one, other| one.path.cmp(&other.path));
        Ok((shared, differences))
    }

    /// The folders of an image's layers, uppermost first.
    fn folders_of(&self, image: &Image) -> Result<Vec<PathBuf>> {
        if image.builtin {
            return Err(Error::invalid("hull/host is this machine itself: it has no layers to look into"));
        }
        let state = self.state();
        let top = image.layers.last();
        Ok(top.map_or_else(Vec::new, |top| state.folders(&top.chain_id, &self.root.join("layers"))))
    }
}

/// A look at one layer.
struct Look<'a> {
    work: &'a mut LayerWork,
    /// Files with several names that were counted.
    seen: HashSet<u64>,
    /// The folder that all files which are stored again are in.
    again: Option<Vec<u8>>,
}

impl Look<'_> {
    fn at(mut self, layer: &Path, below: &[PathBuf]) -> Result<()> {
        self.folder(&open_upper(layer)?, below, b"", 0)?;
        let beneath = self.again.unwrap_or_default();
        self.work.stored_again.beneath = format!("/{}", String::from_utf8_lossy(&beneath));
        Ok(())
    }

    fn folder(&mut self, upper: &OwnedFd, lower: &[PathBuf], path: &[u8], depth: usize) -> Result<()> {
        too_deep(depth)?;
        let fail = |errno| reading(path, errno);
        let present = names(upper.as_fd()).map_err(fail)?;
        if is_opaque(&by_number(upper)) {
            let kept: HashSet<&[u8]> = present.iter().map(|name| name.as_bytes()).collect();
            for name in merged_names(lower)?.iter().filter(|name| !kept.contains(&name[..])) {
                if let Some(below) = find(lower, name)? {
                    count(&below, &mut self.work.hidden, depth)?;
                }
            }
        }
        for name in present {
            let name = name.as_bytes();
            let path = join(path, name);
            let stat = match lstat(upper.as_fd(), name) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(reading(&path, errno)),
            };
            let below = find(lower, name)?;
            if is_whiteout(&stat) {
                below.map_or(Ok(()), |below| count(&below, &mut self.work.hidden, depth))?;
                continue;
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let folders = match below {
                    Some(below) if below.folders.is_empty() => {
                        self.work.hidden.add(&below.stat);
                        Vec::new()
                    }
                    below => below.map(|below| below.folders).unwrap_or_default(),
                };
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner =
                    fs::openat(upper, name, flags, Mode::empty()).map_err(|errno| reading(&path, errno))?;
                self.folder(&inner, &folders, &path, depth + 1)?;
            } else {
                self.file(upper, name, &path, &stat, below, depth)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        upper: &OwnedFd,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
        below: Option<Below>,
        depth: usize,
    ) -> Result<()> {
        // A further name of a file is another file, and no more bytes.
        let mut stat = *stat;
        if stat.st_nlink > 1 && !self.seen.insert(stat.st_ino) {
            stat.st_size = 0;
        }
        match below {
            None => self.work.added.add(&stat),
            Some(below) if !below.folders.is_empty() => {
                count(&below, &mut self.work.hidden, depth)?;
                self.work.added.add(&stat);
            }
            Some(below) => {
                self.work.changed.add(&stat);
                if is_file(&stat) && is_file(&below.stat) && stat.st_size > 0 {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file = fs::openat(upper, name, flags, Mode::empty())
                        .map_err(|errno| reading(path, errno))?;
                    if stat.st_size == below.stat.st_size && same_bytes(&file.into(), &below.path)? {
                        self.stored_again(path, &stat, &below.stat);
                    }
                }
            }
        }
        Ok(())
    }

    fn stored_again(&mut self, path: &[u8], stat: &Stat, below: &Stat) {
        let again = &mut self.work.stored_again;
        again.count.add(stat);
        if (stat.st_uid, stat.st_gid) != (below.st_uid, below.st_gid) {
            again.differ_in.insert("owner");
        }
        if stat.st_mode != below.st_mode {
            again.differ_in.insert("mode");
        }
        if (stat.st_mtime, stat.st_mtime_nsec) != (below.st_mtime, below.st_mtime_nsec) {
            again.differ_in.insert("time");
        }
        let folder = crate::layer::extract::split(path).0;
        self.again = Some(match self.again.take() {
            None => folder.to_vec(),
            Some(common) => common_folder(&common, folder),
        });
    }
}

/// The folder that both are in.
fn common_folder(one: &[u8], other: &[u8]) -> Vec<u8> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let (one, other) = (parts(one), parts(other));
    let common: Vec<Vec<u8>> =
        one.into_iter().zip(other).take_while(|(one, other)| one == other).map(|(part, _)| part).collect();
    common.join(&b'/')
}

/// Counts all that is at a place of the lower layers.
fn count(below: &Below, total: &mut Count, depth: usize) -> Result<()> {
    too_deep(depth)?;
    if below.folders.is_empty() {
        total.add(&below.stat);
        return Ok(());
    }
    for name in merged_names(&below.folders)? {
        if let Some(inner) = find(&below.folders, &name)? {
            count(&inner, total, depth + 1)?;
        }
    }
    Ok(())
}

fn differ(
    before: &[PathBuf],
    after: &[PathBuf],
    path: &[u8],
    depth: usize,
    found: &mut Vec<Difference>,
) -> Result<()> {
    too_deep(depth)?;
    // The same layers have the same beneath them.
    if before == after {
        return Ok(());
    }
    let mut names = merged_names(before)?;
    names.extend(merged_names(after)?);
    for name in names {
        let path = join(path, &name);
        let (one, other) = (find(before, &name)?, find(after, &name)?);
        match (&one, &other) {
            (None, None) => {}
            (Some(gone), None) => told(found, &path, ChangeKind::Deleted, Some(gone), None),
            (None, Some(new)) => {
                told(found, &path, ChangeKind::Added, None, Some(new));
                differ(&[], &new.folders, &path, depth + 1, found)?;
            }
            (Some(one), Some(other)) => {
                if !alike(one, other)? {
                    told(found, &path, ChangeKind::Modified, Some(one), Some(other));
                }
                differ(&one.folders, &other.folders, &path, depth + 1, found)?;
            }
        }
    }
    Ok(())
}

fn told(
    found: &mut Vec<Difference>,
    path: &[u8],
    kind: ChangeKind,
    before: Option<&Below>,
    after: Option<&Below>,
) {
    let size = |below: Option<&Below>| {
        let stat = below.map(|below| &below.stat).filter(|stat| is_file(stat));
        stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
    };
    let path = format!("/{}", String::from_utf8_lossy(path));
    found.push(Difference { path, kind, size_before: size(before), size_after: size(after) });
}

/// Whether two things are the same but for their times.
fn alike(one: &Below, other: &Below) -> Result<bool> {
    if one.path == other.path {
        return Ok(true);
    }
    let (a, b) = (&one.stat, &other.stat);
    if (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) != (b.st_mode, b.st_uid, b.st_gid, b.st_rdev) {
        return Ok(false);
    }
    Ok(match FileType::from_raw_mode(a.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = || fs::open(&one.path, flags, Mode::empty());
            let file = || open().map_err(|errno| Error::file("read", &one.path, errno));
            a.st_size == b.st_size && same_bytes(&file()?.into(), &other.path)?
        }
        FileType::Symlink => std::fs::read_link(&one.path).ok() == std::fs::read_link(&other.path).ok(),
        _ => true,
    })
}

fn same_bytes(file: &File, other: &Path) -> Result<bool> {
    let fail = |error: std::io::Error| Error::file("read", other, error);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let other: File = fs::open(other, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?.into();
    let (mut one, mut two) = (vec![0; 128 * 1024], vec![0; 128 * 1024]);
    let mut position = 0;
    loop {
        let count = file.read_at(&mut one, position).map_err(fail)?;
        if count == 0 {
            return Ok(true);
        }
        match other.read_exact_at(&mut two[..count], position) {
            Ok(()) if one[..count] == two[..count] => position += count as u64,
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(fail(error)),
        }
    }
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn too_deep(depth: usize) -> Result<()> {
    match depth > DEPTH {
        true => {
            Err(Error::invalid(format!("folders are nested deeper than {DEPTH}: the layers are not told")))
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::common_folder;

    #[test]
    fn what_files_have_in_common_is_a_folder() {
        assert_eq!(common_folder(b"srv/app/a", b"srv/app/b"), b"srv/app");
        assert_eq!(common_folder(b"srv/app", b"srv/apple"), b"srv");
        assert_eq!(common_folder(b"a", b"b"), b"");
    }
}
