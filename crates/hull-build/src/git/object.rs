//! What objects are called, and how they are read.

use std::fmt;

use sha1_checked::{Digest as _, Sha1};

use crate::failure::{Failure, Result};

/// An object's name: the SHA-1 of what it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Oid(pub(super) [u8; 20]);

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Oid {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Oid> {
        let wrong = || Failure::invalid(format!("{text:?} is no object of git's"));
        let bytes = text.as_bytes();
        if bytes.len() != 40 {
            return Err(wrong());
        }
        let mut oid = [0; 20];
        for (byte, pair) in oid.iter_mut().zip(bytes.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(wrong()) };
            *byte = (high * 16 + low) as u8;
        }
        Ok(Oid(oid))
    }
}

impl Oid {
    /// Of raw bytes.
    pub(super) fn of(bytes: &[u8]) -> Result<Oid> {
        bytes.try_into().map(Oid).map_err(|_| Failure::invalid("the name of an object is cut off"))
    }

    /// Whether its digits begin so; too few tell nothing.
    pub(crate) fn begins_with(&self, digits: &str) -> bool {
        digits.len() >= 7 && self.to_string().starts_with(&digits.to_ascii_lowercase())
    }
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Commit,
    Tree,
    Blob,
    Tag,
}

impl Kind {
    /// By its number in a pack.
    pub(super) fn of(number: u8) -> Option<Kind> {
        [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag].get(usize::from(number).checked_sub(1)?).copied()
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Commit => "commit",
            Kind::Tree => "tree",
            Kind::Blob => "blob",
            Kind::Tag => "tag",
        }
    }
}

/// Names an object while its contents come.
pub(super) struct Naming(Sha1);

impl Naming {
    /// Of something of that length.
    pub(super) fn of(kind: Kind, length: u64) -> Naming {
        let mut hash = Sha1::new();
        hash.update(format!("{} {length}\0", kind.name()));
        Naming(hash)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The name. What was made so that something else has the same one is refused.
    pub(super) fn finish(self) -> Result<Oid> {
        finished(self.0)
    }
}

/// A SHA-1, refused where it was made to be another's.
pub(super) fn finished(hash: Sha1) -> Result<Oid> {
    let result = hash.try_finalize();
    if result.has_collision() {
        return Err(Failure::invalid("it has an object made to collide with another's SHA-1"));
    }
    Oid::of(result.hash())
}

/// What is read of a commit.
pub(super) struct Commit {
    pub(super) tree: Oid,
    /// In seconds of Unix time.
    pub(super) time: i64,
}

impl Commit {
    pub(super) fn parse(bytes: &[u8]) -> Result<Commit> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines().take_while(|line| !line.is_empty());
        let tree = lines
            .next()
            .and_then(|line| line.strip_prefix("tree "))
            .ok_or_else(|| Failure::invalid("a commit has no tree"))?
            .parse()?;
        let time = lines
            .find_map(|line| line.strip_prefix("committer "))
            .and_then(|line| line.rsplit(' ').nth(1)?.parse().ok())
            .unwrap_or_default();
        Ok(Commit { tree, time })
    }
}

/// An entry of a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) mode: u32,
    pub(super) name: &'a [u8],
    pub(super) oid: Oid,
}

/// The entries of a tree, whose names are names and nothing else.
pub(super) fn entries(mut bytes: &[u8]) -> Result<Vec<Entry<'_>>> {
    let wrong = || Failure::invalid("a tree is malformed");
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let mode =
            std::str::from_utf8(&bytes[..space]).ok().and_then(|mode| u32::from_str_radix(mode, 8).ok());
        let rest = &bytes[space + 1..];
        let end = rest.iter().position(|byte| *byte == 0).ok_or_else(wrong)?;
        let (name, rest) = (&rest[..end], &rest[end + 1..]);
        let oid = Oid::of(rest.get(..20).ok_or_else(wrong)?)?;
        if name.is_empty() || name.contains(&b'/') || name == b"." || name == b".." || is_git_dir(name) {
            return Err(Failure::invalid(format!(
                "a tree has an entry of the forbidden name {:?}",
                String::from_utf8_lossy(name)
            )));
        }
        entries.push(Entry { mode: mode.ok_or_else(wrong)?, name, oid });
        bytes = &rest[20..];
    }
    Ok(entries)
}

/// Whether a name is that of git's own folder, however it is written.
fn is_git_dir(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b".git") || name.eq_ignore_ascii_case(b"git~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_gits_names() {
        let mut naming = Naming::of(Kind::Blob, 6);
        naming.add(b"hello\n");
        let oid = naming.finish().unwrap();
        assert_eq!(oid.to_string(), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(oid.to_string().parse::<Oid>().unwrap(), oid);
        assert!(oid.begins_with("CE01362") && !oid.begins_with("ce01") && !oid.begins_with("ce01363"));
        assert!("ce013625".parse::<Oid>().is_err() && "g".repeat(40).parse::<Oid>().is_err());
    }

    #[test]
    fn trees_have_names_only() {
        let tree = |name: &str| [format!("100644 {name}\0").as_bytes(), &[7; 20]].concat();
        assert_eq!(entries(&tree("a")).unwrap()[0], Entry { mode: 0o100_644, name: b"a", oid: Oid([7; 20]) });
        for name in ["", ".", "..", "a/b", ".git", ".GIT"] {
            assert!(entries(&tree(name)).is_err(), "{name}");
        }
        assert!(entries(&tree("a")[..20]).is_err() && entries(b"x").is_err());
    }

    #[test]
    fn commits_name_their_tree() {
        let text = format!(
            "tree {}\nparent x\nauthor A <a> 1 +0000\ncommitter C <c> 1234 +0200\n\nwords",
            "0".repeat(40)
        );
        let commit = Commit::parse(text.as_bytes()).unwrap();
        assert_eq!((commit.tree, commit.time), (Oid([0; 20]), 1234));
        assert!(Commit::parse(b"parent x\n").is_err());
    }
}
