//! Sources of a copy: found by path or pattern beneath a root, and told apart by their contents.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::lstat;
use super::pack::{Of, by_number, names, reading, xattrs};
use super::resolve::{failed, open_in_root, through_links};
use crate::{Digest, Error, Result};

/// Folders deeper than this are refused: each takes a descriptor.
pub(super) const DEPTH: usize = 400;

/// What is left out of a copy: a path within the source, and whether it is a folder.
pub type LeftOut<'a> = &'a (dyn Fn(&[u8], bool) -> Entering + Sync);

/// What is done about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entering {
    /// It is copied, and what is in it is looked at.
    Take,
    /// It is not, but something in it may be.
    Look,
    /// Neither.
    Leave,
}

/// A source that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path beneath the root, no element of which is a link; without a leading slash, empty for the root itself.
    pub path: String,
    /// The path as it was asked for, links as they are named, for where it is to go.
    pub named: String,
    /// A folder, whose contents are meant.
    pub is_folder: bool,
}

/// Finds what a path or a pattern (`*`, `?`, `[a-z]`) means beneath a root. Links on the way are followed beneath it, also
/// the last one.
///
/// # Errors
/// Nothing is there (`NotFound`).
pub fn find(root: BorrowedFd<'_>, pattern: &str) -> Result<Vec<Found>> {
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !parts.iter().any(|part| part.contains(['*', '?', '[', '\\'])) {
        return Ok(vec![literal(root, &parts.join("/"))?]);
    }
    let mut paths = vec![String::new()];
    for part in parts {
        let mut next = Vec::new();
        for path in &paths {
            expand(root, path, part, &mut next)?;
        }
        paths = next;
    }
    paths.iter().map(|path| literal(root, path)).collect()
}

fn literal(root: BorrowedFd<'_>, named: &str) -> Result<Found> {
    let path = through_links(root, named)?;
    let file = open_in_root(root, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW)
        .map_err(|errno| failed(&format!("/{named}"), errno))?;
    let stat = fs::fstat(&file).map_err(|errno| reading(path.as_bytes(), errno))?;
    Ok(Found {
        path: path.trim_start_matches('/').to_owned(),
        named: named.to_owned(),
        is_folder: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
    })
}

/// The names in a folder that an element of a pattern matches.
fn expand(root: BorrowedFd<'_>, path: &str, part: &str, next: &mut Vec<String>) -> Result<()> {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
    if !part.contains(['*', '?', '[', '\\']) {
        let path = join(part);
        if open_in_root(root, path.as_bytes(), OFlags::PATH).is_ok() {
            next.push(path);
        }
        return Ok(());
    }
    let folder = match open_in_root(root, path.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(folder) => folder,
        Err(Errno::NOTDIR | Errno::NOENT | Errno::LOOP) => return Ok(()),
        Err(errno) => return Err(reading(path.as_bytes(), errno)),
    };
    for name in names(folder.as_fd()).map_err(|errno| reading(path.as_bytes(), errno))? {
        // A name that is no text cannot be written in a pattern; a star finds it all the same, by its folder.
        let Ok(name) = name.to_str() else { continue };
        if matches(part, name)? {
            next.push(join(name));
        }
    }
    Ok(())
}

/// Whether one element of a pattern matches a name, as Go's `filepath.Match`.
pub fn matches(pattern: &str, name: &str) -> Result<bool> {
    let wrong = || Error::invalid(format!("syntax error in pattern {pattern:?}"));
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star was, and how far it reached.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            None if n == name.len() => return Ok(true),
            None => None,
            Some('?') => name.get(n).map(|_| p + 1),
            Some('[') => {
                let (matched, end) = class(&pattern, p + 1, name.get(n).copied()).ok_or_else(wrong)?;
                matched.then_some(end)
            }
            Some('\\') => {
                let letter = pattern.get(p + 1).ok_or_else(wrong)?;
                (name.get(n) == Some(letter)).then_some(p + 2)
            }
            Some(letter) => (name.get(n) == Some(letter)).then_some(p + 1),
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                n += 1;
            }
            (None, Some((at, reached))) if reached < name.len() => {
                star = Some((at, reached + 1));
                p = at + 1;
                n = reached + 1;
            }
            _ => return Ok(false),
        }
    }
}

/// Whether a letter is of a class, and where the pattern goes on; none where the class is malformed.
fn class(pattern: &[char], mut at: usize, letter: Option<char>) -> Option<(bool, usize)> {
    let negated = pattern.get(at) == Some(&'^');
    at += usize::from(negated);
    let (mut matched, mut first) = (false, true);
    loop {
        let mut low = *pattern.get(at)?;
        at += 1;
        if low == ']' && !first {
            break;
        }
        if low == '\\' {
            low = *pattern.get(at)?;
            at += 1;
        }
        let mut high = low;
        if pattern.get(at) == Some(&'-') && pattern.get(at + 1).is_some_and(|next| *next != ']') {
            high = *pattern.get(at + 1)?;
            at += 2;
        }
        matched |= letter.is_some_and(|letter| (low..=high).contains(&letter));
        first = false;
    }
    Some((letter.is_some() && matched != negated, at))
}

/// The digests of files' contents by their paths beneath the root, where somebody knows them. Such files have no extended
/// attributes.
pub type Known<'a> = &'a (dyn Fn(&[u8]) -> Option<Digest> + Sync);

/// What a source is told apart by.
#[derive(Clone, Copy, Default)]
pub struct DigestOptions<'a> {
    /// Owners count, because they are copied.
    pub owners: bool,
    /// What need not be read.
    pub known: Option<Known<'a>>,
}

/// Adds a source to a digest: names, kinds, modes, contents; never times.
///
/// # Errors
/// It cannot be read, or the work was stopped.
pub fn digest(
    root: BorrowedFd<'_>,
    source: &Found,
    options: DigestOptions<'_>,
    left_out: LeftOut<'_>,
    stop: &AtomicBool,
    hasher: &mut Sha256,
) -> Result<()> {
    let (parent, name) = parent_of(root, &source.path)?;
    let base = source.path.as_bytes();
    let mut digest = Digesting { base, options, left_out, stop, hasher, buffer: vec![0; 256 * 1024] };
    digest.entry(parent.as_fd(), name.as_bytes(), b"", 0)
}

/// The folder that a path without links lies in, and its name there.
pub(super) fn parent_of<'a>(root: BorrowedFd<'_>, path: &'a str) -> Result<(OwnedFd, &'a str)> {
    let (folder, name) = match path.rsplit_once('/') {
        Some((folder, name)) => (folder, name),
        None if path.is_empty() => ("", "."),
        None => ("", path),
    };
    let folder = if folder.is_empty() { "." } else { folder };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat2(root, folder, flags, Mode::empty(), resolve)
        .map_err(|errno| reading(path.as_bytes(), errno))?;
    Ok((parent, name))
}

/// An error where the work is not wanted any more.
pub(super) fn check(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::conflict("the work was stopped")),
        false => Ok(()),
    }
}

struct Digesting<'a> {
    /// The source's own path.
    base: &'a [u8],
    options: DigestOptions<'a>,
    left_out: LeftOut<'a>,
    stop: &'a AtomicBool,
    hasher: &'a mut Sha256,
    buffer: Vec<u8>,
}

impl Digesting<'_> {
    fn field(&mut self, bytes: &[u8]) {
        self.hasher.update((bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn entry(&mut self, folder: BorrowedFd<'_>, name: &[u8], path: &[u8], depth: usize) -> Result<()> {
        check(self.stop)?;
        if depth > DEPTH {
            return Err(Error::invalid(format!(
                "folders are nested deeper than {DEPTH}: they are not copied"
            )));
        }
        let fail = |errno| reading(path, errno);
        let stat = lstat(folder, name).map_err(fail)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_folder = kind == FileType::Directory;
        let entering = if path.is_empty() { Entering::Take } else { (self.left_out)(path, is_folder) };
        if entering == Entering::Leave || (entering == Entering::Look && !is_folder) {
            return Ok(());
        }
        if entering == Entering::Take {
            self.field(path);
            let mut head = stat.st_mode.to_le_bytes().to_vec();
            if self.options.owners {
                head.extend(stat.st_uid.to_le_bytes());
                head.extend(stat.st_gid.to_le_bytes());
            }
            self.field(&head);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match kind {
            FileType::Directory => {
                let inner =
                    fs::openat(folder, name, flags | OFlags::DIRECTORY, Mode::empty()).map_err(fail)?;
                for name in names(inner.as_fd()).map_err(fail)? {
                    let path = join(path, name.as_bytes());
                    self.entry(inner.as_fd(), name.as_bytes(), &path, depth + 1)?;
                }
            }
            FileType::RegularFile => {
                let known = self.options.known.and_then(|known| match path {
                    b"" => known(self.base),
                    path => known(&join(self.base, path)),
                });
                let contents = match known {
                    Some(contents) => contents,
                    None => {
                        let file = fs::openat(folder, name, flags, Mode::empty()).map_err(fail)?;
                        self.contents(&file, path)?
                    }
                };
                self.hasher.update(contents.bytes());
            }
            FileType::Symlink => {
                let link = readlinkat(folder, name, Vec::new()).map_err(fail)?;
                self.field(link.as_bytes());
            }
            _ => self.field(&stat.st_rdev.to_le_bytes()),
        }
        Ok(())
    }

    /// The digest of a file's contents; its attributes are counted with the rest.
    fn contents(&mut self, file: &OwnedFd, path: &[u8]) -> Result<Digest> {
        let fail = |errno| reading(path, errno);
        for (name, value) in xattrs(&by_number(file), Of::Overlay).map_err(fail)? {
            self.field(&name);
            self.field(&value);
        }
        let mut hasher = Sha256::new();
        loop {
            check(self.stop)?;
            let count = rustix::io::read(file, &mut self.buffer[..]).map_err(fail)?;
            if count == 0 {
                return Ok(Digest::from_hasher(hasher));
            }
            hasher.update(&self.buffer[..count]);
        }
    }
}

pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn patterns_are_gos() {
        for (pattern, name, want) in [
            ("*", "anything", true),
            ("*.go", "a.go", true),
            ("*.go", "a.go.x", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]*", "bx", true),
            ("[^a-c]*", "bx", false),
            ("[a\\]]", "]", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name).unwrap(), want, "{pattern} {name}");
        }
        assert!(matches("[a", "a").is_err());
        assert!(matches("a\\", "a").is_err());
    }

    fn digest_of(root: &std::path::Path, pattern: &str) -> Vec<u8> {
        let root = std::fs::File::open(root).unwrap();
        let mut hasher = Sha256::new();
        for found in find(root.as_fd(), pattern).unwrap() {
            let take = |_: &[u8], _| Entering::Take;
            let options = DigestOptions::default();
            digest(root.as_fd(), &found, options, &take, &AtomicBool::new(false), &mut hasher).unwrap();
        }
        hasher.finalize().to_vec()
    }

    #[test]
    fn contents_count_and_times_do_not() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        let file = root.path().join("d/f");
        std::fs::write(&file, "one").unwrap();
        let first = digest_of(root.path(), "d");
        std::fs::File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(digest_of(root.path(), "d"), first);
        assert_eq!(digest_of(root.path(), "/./d/"), first);
        std::fs::write(&file, "two").unwrap();
        assert_ne!(digest_of(root.path(), "d"), first);
    }

    #[test]
    fn what_is_known_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        std::fs::write(root.path().join("d/f"), "one").unwrap();
        let folder = std::fs::File::open(root.path()).unwrap();
        let with = |known: Option<Known<'_>>, pattern: &str| {
            let found = find(folder.as_fd(), pattern).unwrap().remove(0);
            let mut hasher = Sha256::new();
            let options = DigestOptions { owners: false, known };
            let take = |_: &[u8], _| Entering::Take;
            digest(folder.as_fd(), &found, options, &take, &AtomicBool::new(false), &mut hasher).unwrap();
            hasher.finalize().to_vec()
        };
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        for pattern in ["d", "d/f", "/"] {
            let read = with(None, pattern);
            assert_eq!(with(Some(&|path| (path == b"d/f").then_some(one)), pattern), read, "{pattern}");
            assert_ne!(with(Some(&|_| Some(two)), pattern), read, "{pattern}");
        }
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("f"), "x").unwrap();
        for (target, name) in
            [("/f", "absolute"), ("../../../../f", "up"), ("/etc/passwd", "out"), ("loop", "loop")]
        {
            symlink(target, root.path().join(name)).unwrap();
        }
        let folder = std::fs::File::open(root.path()).unwrap();
        let path = |pattern: &str| find(folder.as_fd(), pattern).map(|found| found[0].path.clone());
        assert_eq!(path("absolute").unwrap(), "f");
        assert_eq!(path("up").unwrap(), "f");
        assert_eq!(path("../../f").unwrap(), "f");
        for nowhere in ["out", "loop", "none"] {
            assert!(path(nowhere).is_err(), "{nowhere}");
        }
        assert!(find(folder.as_fd(), "no*").unwrap().is_empty());
        let all: Vec<String> =
            find(folder.as_fd(), "*f").unwrap().into_iter().map(|found| found.named).collect();
        assert_eq!(all, ["f"]);
    }
}
