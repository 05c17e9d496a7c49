//! Which name comes to lie where: the rules of `docker cp`, without a file system but for the lookups at the top.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::commands::shared::upload;
use crate::error::{Error, words};

/// One of the two arguments.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// A path in a container.
    Container(String, String),
    /// A path of this machine, or `-`.
    Here(String),
}

/// What is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The path, with its `/.` or `/` at the end, which mean something.
    pub path: String,
    /// It is a folder.
    pub is_dir: bool,
    /// A link was followed: the name under which its target is to appear.
    pub rename: Option<String>,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The path as typed, links at its end followed.
    pub path: String,
    /// Something is there.
    pub exists: bool,
    /// It is a folder.
    pub is_dir: bool,
}

/// The folder to extract in, and the first component of each name that is to become another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The folder.
    pub folder: String,
    /// From which name to which.
    pub rename: Option<(String, String)>,
}

impl Place {
    /// `CONTAINER:PATH`; what begins with `/`, `.` or has a slash before its colon is a path of this machine.
    pub fn parse(text: &str) -> Self {
        let here = || Self::Here(text.to_owned());
        if text.starts_with('/') || text.starts_with('.') {
            return here();
        }
        match text.split_once(':') {
            Some((name, path)) if !name.is_empty() && !name.contains('/') => {
                Self::Container(name.to_owned(), path.to_owned())
            }
            _ => here(),
        }
    }
}

fn ends_in_slash(path: &str) -> bool {
    path.ends_with('/')
}

fn ends_in_dot(path: &str) -> bool {
    path.rsplit('/').next() == Some(".")
}

/// Go's filepath.Clean: by the words alone.
fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// The folder and the name in it; the name is `.` where the path asks for a folder's content.
pub fn split(path: &str) -> (String, String) {
    let cleaned = clean(path);
    if ends_in_dot(path) {
        return (cleaned, ".".to_owned());
    }
    match cleaned.rsplit_once('/') {
        Some(("", "")) => ("/".to_owned(), "/".to_owned()),
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((folder, name)) => (folder.to_owned(), name.to_owned()),
        None => (".".to_owned(), cleaned),
    }
}

/// A link's target as seen from where the link lies.
pub fn join_link(path: &str, link: &str) -> String {
    if link.starts_with('/') { link.to_owned() } else { clean(&format!("{}/{link}", split(path).0)) }
}

/// The source behind a link in a container, which keeps the link's name.
pub fn follow(path: &str, link: &str) -> Source {
    let (resolved, rename) = keep_name(path, join_link(path, link));
    Source { path: resolved, is_dir: false, rename }
}

/// The path that was resolved, with the ending of the one that was typed, and the latter's name where it differs.
fn keep_name(typed: &str, mut resolved: String) -> (String, Option<String>) {
    if ends_in_dot(typed) && !ends_in_dot(&resolved) {
        resolved.push_str("/.");
    } else if ends_in_slash(typed) && !ends_in_slash(&resolved) {
        resolved.push('/');
    }
    let name = split(typed).1;
    let rename = (name != split(&resolved).1 && name != ".").then_some(name);
    (resolved, rename)
}

impl Source {
    /// Looks at a path of this machine.
    pub fn here(typed: &str, follow_link: bool) -> Result<Self, Error> {
        let wrong = |e: std::io::Error| {
            let whole = std::path::absolute(typed).unwrap_or_else(|_| typed.into());
            Error::new(format!("lstat {}: {}", whole.display(), upload::plain(&e)))
        };
        let path = typed.to_owned();
        if follow_link {
            let resolved = text(fs::canonicalize(typed).map_err(wrong)?)?;
            let (path, rename) = keep_name(typed, resolved);
            let is_dir = fs::metadata(&path).map_err(wrong)?.is_dir();
            return Ok(Self { path, is_dir, rename });
        }
        // A slash at the end makes lstat look at what a link points to, which is what it means here too.
        let is_dir = fs::symlink_metadata(typed).map_err(wrong)?.is_dir();
        Ok(Self { path, is_dir, rename: None })
    }
}

impl Destination {
    /// Looks at a path of this machine. A link at its end is followed, even one that points to nothing.
    pub fn here(typed: &str) -> Result<Self, Error> {
        let mut path = typed.to_owned();
        for _ in 0..40 {
            match fs::symlink_metadata(path.trim_end_matches('/')) {
                Ok(meta) if meta.is_symlink() => {
                    let link = fs::read_link(path.trim_end_matches('/'))?;
                    path = join_link(&path, &text(link)?);
                }
                Ok(meta) => return Ok(Self { path, exists: true, is_dir: meta.is_dir() }),
                // `/` is trimmed to nothing.
                Err(_) if path.chars().all(|c| c == '/') => {
                    return Ok(Self { path, exists: true, is_dir: true });
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(Self { path, exists: false, is_dir: false });
                }
                Err(e) => return Err(Error::new(format!("cannot copy to {typed}: {}", words(&e)))),
            }
        }
        Err(Error::new(format!("cannot copy to {typed}: too many links")))
    }
}

fn text(path: PathBuf) -> Result<String, Error> {
    path.into_os_string().into_string().map_err(|path| Error::new(format!("{path:?} is not valid UTF-8")))
}

/// Refuses a destination whose folder is not there.
pub fn check_parent(path: &Path) -> Result<(), Error> {
    let parent = match path.components().next_back() {
        Some(Component::Normal(_)) => path.parent().unwrap_or(Path::new("/")),
        _ => path,
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    if parent.is_dir() {
        return Ok(());
    }
    Err(Error::new(format!(
        "invalid output path: directory {:?} does not exist",
        parent.display().to_string()
    )))
}

/// Decides where the archive of `source` is extracted, and under which name.
///
/// # Errors
/// A folder over a file; a file into a folder (`path/`) that is not there.
pub fn plan(source: &Source, destination: &Destination) -> Result<Plan, Error> {
    // The archive's first component; a followed link has taken its own name in place of its target's.
    let archive_base = split(&source.path).1;
    let base = source.rename.clone().unwrap_or_else(|| archive_base.clone());
    let (folder, name) = split(&destination.path);
    let to = |wanted: &str| (archive_base != wanted).then(|| (archive_base.clone(), wanted.to_owned()));
    if destination.exists && destination.is_dir {
        return Ok(Plan { folder: destination.path.clone(), rename: to(&base) });
    }
    if destination.exists && source.is_dir {
        return Err(Error::new("cannot copy directory"));
    }
    if !destination.exists
        && !source.is_dir
        && (ends_in_slash(&destination.path) || ends_in_dot(&destination.path))
    {
        return Err(Error::new("no such directory"));
    }
    Ok(Plan { folder, rename: to(&name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let container = |name: &str, path: &str| Place::Container(name.to_owned(), path.to_owned());
        for (text, wanted) in [
            ("c:/x", container("c", "/x")),
            ("c:x:y", container("c", "x:y")),
            ("-", Place::Here("-".to_owned())),
            ("./c:x", Place::Here("./c:x".to_owned())),
            ("/c:x", Place::Here("/c:x".to_owned())),
            ("a/b:x", Place::Here("a/b:x".to_owned())),
            (":x", Place::Here(":x".to_owned())),
            ("plain", Place::Here("plain".to_owned())),
        ] {
            assert_eq!(Place::parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn split_paths() {
        for (path, folder, name) in [
            ("/a/b", "/a", "b"),
            ("/a/b/", "/a", "b"),
            ("/a/b/.", "/a/b", "."),
            ("a", ".", "a"),
            (".", ".", "."),
            ("/", "/", "/"),
            ("/a", "/", "a"),
            ("../x/./y/..", "..", "x"),
            ("/../..", "/", "/"),
        ] {
            assert_eq!(split(path), (folder.to_owned(), name.to_owned()), "{path}");
        }
    }

    /// The table of Docker's manual: what the source is, what the destination is, and what comes of it.
    #[test]
    fn plans() {
        let source = |path: &str, is_dir| Source { path: path.to_owned(), is_dir, rename: None };
        let nothing = |path: &str| Destination { path: path.to_owned(), exists: false, is_dir: false };
        let file = |path: &str| Destination { path: path.to_owned(), exists: true, is_dir: false };
        let dir = |path: &str| Destination { path: path.to_owned(), exists: true, is_dir: true };
        let at = |folder: &str, rename: Option<(&str, &str)>| {
            let rename = rename.map(|(from, to)| (from.to_owned(), to.to_owned()));
            Ok(Plan { folder: folder.to_owned(), rename })
        };
        for (source, destination, wanted) in [
            (source("/s/f", false), nothing("/d/n"), at("/d", Some(("f", "n")))),
            (source("/s/f", false), nothing("/d/n/"), Err("no such directory")),
            (source("/s/f", false), file("/d/n"), at("/d", Some(("f", "n")))),
            (source("/s/f", false), dir("/d"), at("/d", None)),
            (source("/s/d", true), nothing("/d/n"), at("/d", Some(("d", "n")))),
            (source("/s/d/.", true), nothing("/d/n"), at("/d", Some((".", "n")))),
            (source("/s/d", true), file("/d/n"), Err("cannot copy directory")),
            (source("/s/d", true), dir("/d"), at("/d", None)),
            (source("/s/d/.", true), dir("/d"), at("/d", None)),
            (source("/s/f", false), file("/d/f"), at("/d", None)),
        ] {
            let got = plan(&source, &destination).map_err(|e| e.to_string());
            assert_eq!(got, wanted.map_err(str::to_owned), "{source:?} {destination:?}");
        }
    }

    #[test]
    fn followed_links_keep_their_names() {
        let source = follow("/a/link", "../b/target");
        assert_eq!(source, Source { path: "/b/target".into(), is_dir: false, rename: Some("link".into()) });
        let into = Destination { path: "/d".into(), exists: true, is_dir: true };
        assert_eq!(plan(&source, &into).unwrap().rename, Some(("target".into(), "link".into())));
        assert_eq!(follow("/a/link/.", "/b").path, "/b/.");
        assert_eq!(follow("/a/link/.", "/b").rename, None);
    }
}
