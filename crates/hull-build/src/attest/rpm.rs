//! rpm's list of packages: a database of SQLite with a header for each. Both are an image's, and so an attacker's.

use std::fs::File;

use super::packages::Package;
use super::sqlite::{Database, Value};
use crate::failure::{Failure, Result};

/// What of a header is wanted, by rpm's numbers for it.
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const LICENCE: u32 = 1014;
const ARCHITECTURE: u32 = 1022;

/// Reads the packages of a database, `most` of them and one more.
pub(super) fn packages(file: &File, distribution: &(String, String), most: usize) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    let read = Database::of(file).and_then(|mut database| {
        database.rows_of("Packages", |row| {
            // Its number is the row's, and so not among its values.
            let [_, Value::Bytes(header)] = row else {
                return Err("its table Packages is not as rpm has it".to_owned());
            };
            packages.extend(package(header, distribution));
            Ok(packages.len() <= most)
        })
    });
    read.map_err(|why| Failure::invalid(format!("--sbom: rpm's database cannot be read: {why}")))?;
    Ok(packages)
}

/// The package that a header is of; none: it is malformed, or a key, which is kept as if it were a package.
fn package(header: &[u8], distribution: &(String, String)) -> Option<Package> {
    let header = Header::of(header)?;
    let (name, version, release) = (header.text(NAME)?, header.text(VERSION)?, header.text(RELEASE)?);
    let architecture = header.text(ARCHITECTURE)?;
    let version = match header.number(EPOCH) {
        Some(epoch) if epoch > 0 => format!("{epoch}:{version}-{release}"),
        _ => format!("{version}-{release}"),
    };
    let licence = header.text(LICENCE).filter(|licence| !licence.is_empty());
    Some(Package { kind: "rpm", name, version, architecture, licence, distribution: distribution.clone() })
}

/// A header: an index of tags with their types and places, and what they say behind it.
struct Header<'a> {
    index: &'a [u8],
    store: &'a [u8],
}

/// How long an entry of the index is.
const ENTRY: usize = 16;
/// Types of values.
const INT32: u32 = 4;
const STRING: u32 = 6;
const TRANSLATED: u32 = 9;

impl<'a> Header<'a> {
    fn of(bytes: &'a [u8]) -> Option<Header<'a>> {
        let (entries, length) = (number(bytes, 0)? as usize, number(bytes, 4)? as usize);
        let (index, store) = bytes.get(8..)?.split_at_checked(entries.checked_mul(ENTRY)?)?;
        Some(Header { index, store: store.get(..length)? })
    }

    /// What a tag says, from its first byte, where it is of one of these types.
    fn value(&self, tag: u32, kinds: &[u32]) -> Option<&'a [u8]> {
        let entry = self.index.chunks_exact(ENTRY).find(|entry| number(entry, 0) == Some(tag))?;
        let (kind, offset) = (number(entry, 4)?, number(entry, 8)? as usize);
        self.store.get(offset..).filter(|_| kinds.contains(&kind))
    }

    fn text(&self, tag: u32) -> Option<String> {
        let value = self.value(tag, &[STRING, TRANSLATED])?;
        let end = value.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(&value[..end]).into_owned();
        (end < 4096).then_some(text)
    }

    fn number(&self, tag: u32) -> Option<u32> {
        number(self.value(tag, &[INT32])?, 0)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use rusqlite::Connection;

    use super::*;

    fn header(tags: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let (mut index, mut store) = (Vec::new(), Vec::new());
        for (tag, kind, value) in tags {
            for number in [*tag, *kind, store.len() as u32, 1] {
                index.extend(number.to_be_bytes());
            }
            store.extend_from_slice(value);
        }
        let head = [tags.len() as u32, store.len() as u32].map(u32::to_be_bytes).concat();
        [head, index, store].concat()
    }

    /// A database with bash, and a key.
    pub(in crate::attest) fn database(path: &std::path::Path) {
        let bash = header(&[
            (NAME, STRING, b"bash\0"),
            (VERSION, STRING, b"5.2\0"),
            (RELEASE, STRING, b"1.fc40\0"),
            (EPOCH, INT32, &[0, 0, 0, 2]),
            (LICENCE, STRING, b"GPL-3.0\0"),
            (ARCHITECTURE, STRING, b"x86_64\0"),
        ]);
        let key =
            header(&[(NAME, STRING, b"gpg-pubkey\0"), (VERSION, STRING, b"1\0"), (RELEASE, STRING, b"2\0")]);
        let database = Connection::open(path).unwrap();
        database
            .execute_batch("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
            .unwrap();
        for blob in [bash, key, b"torn".to_vec()] {
            database.execute("INSERT INTO Packages (blob) VALUES (?1)", [blob]).unwrap();
        }
    }

    #[test]
    fn headers_are_read_and_what_is_torn_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpmdb.sqlite");
        database(&path);
        let distribution = ("fedora".to_owned(), "40".to_owned());
        let found = packages(&File::open(&path).unwrap(), &distribution, 10).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].url(), "pkg:rpm/fedora/bash@2%3A5.2-1.fc40?arch=x86_64&distro=fedora-40");
        let whole = header(&[(NAME, STRING, b"a\0"), (VERSION, STRING, b"1\0")]);
        for length in 0..whole.len() {
            assert!(package(&whole[..length], &distribution).is_none(), "{length}");
        }
        let view = folder.path().join("view");
        let database = Connection::open(&view).unwrap();
        database.execute_batch("CREATE VIEW Packages AS SELECT 1 AS blob").unwrap();
        assert!(packages(&File::open(&view).unwrap(), &distribution, 10).is_err());
        assert!(packages(&File::open("/proc/self/exe").unwrap(), &distribution, 10).is_err());
    }
}
