//! The rows of a table in a database of SQLite's, and nothing else of SQLite: in a file that is an attacker's, text that is
//! compiled to a program, or a page that is read again and again, is his computing and not a list.
//!
//! So a page is read once and never again, what all rows hold together is no more than the file, and a path is never seen:
//! the file is one that is open already. A journal beside it is not looked at. The format is described in
//! <https://sqlite.org/fileformat2.html>.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The longest database, in bytes.
const DATABASE_LIMIT: u64 = 256 << 20;
/// The longest row, in bytes; a header of rpm's of a package with many files has some megabytes.
const ROW_LIMIT: u64 = 16 << 20;
const MAGIC: &[u8] = b"SQLite format 3\0";
/// The first page begins with the file's own head.
const FILE_HEAD: usize = 100;
/// What the first byte of a page of a table says: pages below it, or rows in it.
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;

/// Why no rows are read, in words.
pub(super) type Result<T> = std::result::Result<T, String>;

/// A database.
pub(super) struct Database<'a> {
    file: &'a File,
    page_size: usize,
    /// How much of a page is used: its end may be kept for something else.
    usable: usize,
    /// Which pages were read, by their number from 1 on.
    seen: Vec<bool>,
    /// What rows may still hold: together they are no longer than the file.
    left: u64,
}

/// A value of a row; numbers with a fraction are none that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Number(i64),
    Text(&'a [u8]),
    Bytes(&'a [u8]),
}

impl<'a> Database<'a> {
    /// Reads the head of a file.
    pub(super) fn of(file: &'a File) -> Result<Database<'a>> {
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        let length = metadata.len();
        if !metadata.is_file() || length > DATABASE_LIMIT {
            return Err(format!("it is no file of at most {DATABASE_LIMIT} bytes"));
        }
        let mut head = [0; FILE_HEAD];
        file.read_exact_at(&mut head, 0).map_err(|error| error.to_string())?;
        // A page of 65536 bytes has no number of 16 bits.
        let page_size = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 65536,
            size => usize::from(size),
        };
        let usable = page_size.saturating_sub(usize::from(head[20]));
        if !head.starts_with(MAGIC) || !page_size.is_power_of_two() || page_size < 512 || usable < 480 {
            return Err("it is no database of SQLite's".to_owned());
        }
        let pages = length / page_size as u64;
        Ok(Database { file, page_size, usable, seen: vec![false; pages as usize + 1], left: length })
    }

    /// The rows of a table, one after the other, until one is answered by false.
    pub(super) fn rows_of(
        &mut self,
        table: &str,
        mut each: impl FnMut(&[Value<'_>]) -> Result<bool>,
    ) -> Result<()> {
        let mut root = None;
        self.walk(1, &mut |row| {
            // What it is, its name, whose it is, where it begins, and how it was asked for.
            if let [Value::Text(b"table"), Value::Text(name), _, Value::Number(page), ..] = row
                && *name == table.as_bytes()
            {
                root = u32::try_from(*page).ok();
            }
            Ok(root.is_none())
        })?;
        self.walk(root.ok_or_else(|| format!("it has no table {table}"))?, &mut each)
    }

    fn walk(&mut self, root: u32, each: &mut dyn FnMut(&[Value<'_>]) -> Result<bool>) -> Result<()> {
        let mut waiting = vec![root];
        while let Some(number) = waiting.pop() {
            let page = self.page(number)?;
            let head = if number == 1 { FILE_HEAD } else { 0 };
            let cells = usize::from(u16::from_be_bytes(array(&page, head + 3)?));
            let pointers = match page.get(head) {
                Some(&INTERIOR) => head + 12,
                Some(&LEAF) => head + 8,
                _ => return Err(format!("page {number} is none of a table's")),
            };
            let is_leaf = pointers == head + 8;
            if !is_leaf {
                waiting.push(u32::from_be_bytes(array(&page, head + 8)?));
            }
            // What is put down last is taken up first: the first row is to come first.
            for cell in 0..cells {
                let cell = if is_leaf { cell } else { cells - 1 - cell };
                let at = usize::from(u16::from_be_bytes(array(&page, pointers + 2 * cell)?));
                if !is_leaf {
                    waiting.push(u32::from_be_bytes(array(&page, at)?));
                } else if !each(&values(&self.row(&page, at)?)?)? {
                    return Ok(());
                }
            }
            if waiting.len() > self.seen.len() {
                return Err("its pages are more than it has".to_owned());
            }
        }
        Ok(())
    }

    /// Reads a page, once.
    fn page(&mut self, number: u32) -> Result<Vec<u8>> {
        let index = number as usize;
        match self.seen.get_mut(index).filter(|_| number > 0) {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(format!("page {number} is in two places")),
            None => return Err(format!("it has no page {number}")),
        }
        let mut page = vec![0; self.page_size];
        let at = (u64::from(number) - 1) * self.page_size as u64;
        self.file.read_exact_at(&mut page, at).map_err(|error| error.to_string())?;
        page.truncate(self.usable);
        Ok(page)
    }

    /// A row's bytes, whose begin is in a page, and what has no room there in others.
    fn row(&mut self, page: &[u8], at: usize) -> Result<Vec<u8>> {
        let cell = page.get(at..).ok_or(TORN)?;
        let (length, size) = varint(cell)?;
        let (_, id) = varint(&cell[size..])?;
        if length > ROW_LIMIT {
            return Err(format!("a row has more than {ROW_LIMIT} bytes"));
        }
        // Cells may lie above one another; each has at least its begin.
        self.left = self.left.checked_sub(length + 4).ok_or("its rows are longer than it is")?;
        let (length, usable) = (length as usize, self.usable);
        let here = if length <= usable - 35 {
            length
        } else {
            let least = (usable - 12) * 32 / 255 - 23;
            let fit = least + (length - least) % (usable - 4);
            if fit <= usable - 35 { fit } else { least }
        };
        let begin = size + id;
        let mut row = cell.get(begin..begin + here).ok_or(TORN)?.to_vec();
        let mut rest = cell.get(begin + here..).unwrap_or_default().to_vec();
        while row.len() < length {
            let next = u32::from_be_bytes(array(&rest, 0)?);
            rest = self.page(next)?;
            let wanted = (length - row.len()).min(usable - 4);
            row.extend_from_slice(&rest[4..4 + wanted]);
        }
        Ok(row)
    }
}

const TORN: &str = "a row of it is torn";

/// What is in a row: the kinds of its values, and then these.
fn values(row: &[u8]) -> Result<Vec<Value<'_>>> {
    let (length, mut at) = varint(row)?;
    let (kinds, mut rest) = row.split_at_checked(usize::try_from(length).map_err(|_| TORN)?).ok_or(TORN)?;
    let mut values = Vec::new();
    while at < kinds.len() {
        let (kind, size) = varint(&kinds[at..])?;
        at += size;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err(TORN.to_owned()),
            _ => (kind - 12) / 2,
        };
        let (value, behind) =
            rest.split_at_checked(usize::try_from(length).map_err(|_| TORN)?).ok_or(TORN)?;
        rest = behind;
        values.push(match kind {
            0 | 7 => Value::Null,
            1..=6 => Value::Number(signed(value)),
            8 | 9 => Value::Number(i64::from(kind == 9)),
            _ if kind % 2 == 0 => Value::Bytes(value),
            _ => Value::Text(value),
        });
        // No table that is asked for has as many.
        if values.len() > 16 {
            return Err(TORN.to_owned());
        }
    }
    Ok(values)
}

fn signed(bytes: &[u8]) -> i64 {
    let begin = if bytes.first().is_some_and(|first| first & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(begin, |number, byte| (number << 8) | i64::from(*byte))
}

/// A number of one to nine bytes, and how many these are.
fn varint(bytes: &[u8]) -> Result<(u64, usize)> {
    let mut number = 0;
    for (place, byte) in bytes.iter().enumerate().take(9) {
        if place == 8 {
            return Ok((number << 8 | u64::from(*byte), 9));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((number, place + 1));
        }
    }
    Err(TORN.to_owned())
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let part = at.checked_add(N).and_then(|end| bytes.get(at..end));
    part.and_then(|part| part.try_into().ok()).ok_or_else(|| TORN.to_owned())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// The lengths and first bytes of what a table has, as this reads it.
    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let mut found = Vec::new();
        Database::of(&file)?.rows_of("Packages", |row| {
            let [_, Value::Bytes(bytes)] = row else { return Err("other columns".to_owned()) };
            found.push(bytes.to_vec());
            Ok(true)
        })?;
        Ok(found)
    }

    fn database(page_size: u32, statements: &str, blobs: &[Vec<u8>]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        let database = Connection::open(&path).unwrap();
        database.execute_batch(&format!("PRAGMA page_size = {page_size}; {statements}")).unwrap();
        database.execute_batch("BEGIN").unwrap();
        for blob in blobs {
            database.execute("INSERT INTO Packages (blob) VALUES (?1)", [blob]).unwrap();
        }
        database.execute_batch("COMMIT").unwrap();
        drop(database);
        std::fs::read(path).unwrap()
    }

    const RPM: &str = "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)";

    #[test]
    fn rows_are_as_sqlite_wrote_them() {
        // Each length by which a row's place is reckoned otherwise, and enough of them for pages above pages.
        for page_size in [512, 1024, 4096, 65536] {
            let lengths = (0..1200).step_by(3).chain([
                page_size - 41,
                page_size - 40,
                page_size - 39,
                page_size - 38,
                300_000,
            ]);
            let blobs: Vec<Vec<u8>> =
                lengths.map(|length| (0..length).map(|at| (at * 7 + length) as u8).collect()).collect();
            assert!(read(&database(page_size, RPM, &blobs)).unwrap() == blobs, "{page_size}");
        }
    }

    #[test]
    fn what_is_no_table_is_not_computed() {
        for other in [
            "CREATE VIEW Packages AS SELECT 1, x'00' AS blob",
            "CREATE VIRTUAL TABLE Packages USING fts5(blob)",
            "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB AS (zeroblob(1000000)))",
        ] {
            let bytes = database(4096, other, &[]);
            assert!(!read(&bytes).is_ok_and(|found| !found.is_empty()), "{other}");
        }
    }

    #[test]
    fn a_page_is_read_once() {
        let blobs: Vec<Vec<u8>> = (0..200).map(|_| vec![1; 100]).collect();
        let whole = database(512, RPM, &blobs);
        let number = |at: usize| u32::from_be_bytes(whole[at..at + 4].try_into().unwrap());
        // A page of pages whose children are all its first, and one that is its own.
        let interior = (512..whole.len()).step_by(512).find(|at| whole[*at] == INTERIOR).unwrap();
        let cell = |index: usize| {
            interior
                + usize::from(u16::from_be_bytes([
                    whole[interior + 12 + 2 * index],
                    whole[interior + 13 + 2 * index],
                ]))
        };
        for page in [number(cell(0)), (interior / 512 + 1) as u32] {
            let mut other = whole.clone();
            other[cell(1)..cell(1) + 4].copy_from_slice(&page.to_be_bytes());
            assert!(read(&other).unwrap_err().contains("two places"));
        }
        // Every row is where the longest is: together they are more than the file.
        let mut other = database(65536, RPM, &[vec![1; 60_000]]);
        let leaf =
            (65536..other.len()).step_by(65536).find(|at| other[*at] == LEAF && other[*at + 5] != 0).unwrap();
        let cell = [other[leaf + 8], other[leaf + 9]];
        other[leaf + 3..leaf + 5].copy_from_slice(&100_u16.to_be_bytes());
        for index in 0..100 {
            other[leaf + 8 + 2 * index..leaf + 10 + 2 * index].copy_from_slice(&cell);
        }
        assert!(read(&other).unwrap_err().contains("longer than it is"));
    }

    #[test]
    fn what_is_damaged_is_refused_or_read_but_never_more() {
        let blobs: Vec<Vec<u8>> = (0..12).map(|length| vec![2; length * 90]).collect();
        let whole = database(512, RPM, &blobs);
        for length in (0..whole.len()).step_by(97) {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            for byte in [0xff, whole[at] ^ 1] {
                let mut other = whole.clone();
                other[at] = byte;
                let total: usize = read(&other).unwrap_or_default().iter().map(Vec::len).sum();
                assert!(total <= whole.len());
            }
        }
    }
}
