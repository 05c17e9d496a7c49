//! Writing an archive: ustar headers, with PAX records where these do not suffice.

use std::io::{self, Write};

use super::{BLOCK, Entry, Kind};

/// What ustar's octal fields hold.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// Writes entries. After a file's header its stored bytes are written, then [`Writer::pad`] is called.
pub(crate) struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Writer<W> {
        Writer { out }
    }

    /// Writes the header of an entry. A sparse file's map is written with it, so that its pieces follow.
    pub(crate) fn header(&mut self, entry: &Entry) -> io::Result<()> {
        let mut records = Vec::new();
        let mut path = entry.path.clone();
        let mut stored = entry.size;
        let mut map = Vec::new();
        if let Some(pieces) = &entry.sparse {
            map = sparse_map(pieces);
            stored = pieces.iter().map(|(_, length)| length).sum::<u64>() + map.len() as u64;
            record(&mut records, "GNU.sparse.major", b"1");
            record(&mut records, "GNU.sparse.minor", b"0");
            record(&mut records, "GNU.sparse.name", &path);
            record(&mut records, "GNU.sparse.realsize", entry.size.to_string().as_bytes());
            path = [b"GNUSparseFile.0/", super::super::layer::extract::split(&path).1].concat();
        }
        let (uid, gid) = (u64::from(entry.uid), u64::from(entry.gid));
        if path.len() > 100 || !path.is_ascii() {
            record(&mut records, "path", &path);
        }
        if entry.link.len() > 100 || !entry.link.is_ascii() {
            record(&mut records, "linkpath", &entry.link);
        }
        if stored > OCTAL_11 {
            record(&mut records, "size", stored.to_string().as_bytes());
        }
        if uid > OCTAL_7 {
            record(&mut records, "uid", uid.to_string().as_bytes());
        }
        if gid > OCTAL_7 {
            record(&mut records, "gid", gid.to_string().as_bytes());
        }
        let (seconds, nanos) = entry.mtime;
        if nanos != 0 || !(0..=OCTAL_11.cast_signed()).contains(&seconds) {
            record(&mut records, "mtime", time(seconds, nanos).as_bytes());
        }
        for (name, value) in &entry.xattrs {
            record(&mut records, &format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)), value);
        }
        if !records.is_empty() {
            let name = [b"PaxHeaders.0/", super::super::layer::extract::split(&path).1].concat();
            self.block(&Fields {
                name: &name,
                typeflag: b'x',
                size: records.len() as u64,
                mode: 0o644,
                ..Fields::default()
            })?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.block(&Fields {
            name: &path,
            mode: entry.mode,
            uid: if uid > OCTAL_7 { 0 } else { uid },
            gid: if gid > OCTAL_7 { 0 } else { gid },
            size: if stored > OCTAL_11 { 0 } else { stored },
            mtime: u64::try_from(seconds).ok().filter(|&seconds| seconds <= OCTAL_11).unwrap_or(0),
            typeflag: match entry.kind {
                Kind::File => b'0',
                Kind::HardLink => b'1',
                Kind::Symlink => b'2',
                Kind::Character => b'3',
                Kind::Block => b'4',
                Kind::Directory => b'5',
                Kind::Fifo => b'6',
            },
            link: &entry.link,
            device: entry.device,
        })?;
        self.out.write_all(&map)
    }

    /// Writes bytes of the entry's contents.
    pub(crate) fn contents(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Fills the last block of contents that were `length` bytes long.
    pub(crate) fn pad(&mut self, length: u64) -> io::Result<()> {
        let padding = (length.wrapping_neg() % BLOCK as u64) as usize;
        self.out.write_all(&[0; BLOCK][..padding])
    }

    /// A file whose contents are at hand.
    pub(crate) fn file(&mut self, path: &str, contents: &[u8], mtime: i64) -> io::Result<()> {
        self.header(&Entry::new(path, Kind::File, 0o644, contents.len() as u64, mtime))?;
        self.out.write_all(contents)?;
        self.pad(contents.len() as u64)
    }

    /// Gives back where it wrote, without an end of the archive.
    pub(crate) fn leave(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    /// Writes the end-of-archive marker and gives back where it wrote.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn block(&mut self, fields: &Fields<'_>) -> io::Result<()> {
        let mut block = [0u8; BLOCK];
        let mut text = |at: usize, limit: usize, value: &[u8]| {
            let count = value.len().min(limit);
            block[at..at + count].copy_from_slice(&value[..count]);
        };
        text(0, 100, fields.name);
        text(100, 8, format!("{:07o}", fields.mode & 0o7777).as_bytes());
        text(108, 8, format!("{:07o}", fields.uid).as_bytes());
        text(116, 8, format!("{:07o}", fields.gid).as_bytes());
        text(124, 12, format!("{:011o}", fields.size).as_bytes());
        text(136, 12, format!("{:011o}", fields.mtime).as_bytes());
        text(148, 8, b"        ");
        text(156, 1, &[fields.typeflag]);
        text(157, 100, fields.link);
        text(257, 8, b"ustar\x0000");
        text(329, 8, &device(fields.device.0));
        text(337, 8, &device(fields.device.1));
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.out.write_all(&block)
    }
}

#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    typeflag: u8,
    link: &'a [u8],
    device: (u32, u32),
}

impl Entry {
    /// An entry of root's.
    pub(crate) fn new(path: &str, kind: Kind, mode: u32, size: u64, mtime: i64) -> Entry {
        Entry {
            path: path.as_bytes().to_vec(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            size,
            mtime: (mtime, 0),
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// A device number, in GNU's binary form where seven octal digits do not hold it.
fn device(number: u32) -> [u8; 8] {
    let mut field = [0; 8];
    if u64::from(number) <= OCTAL_7 {
        field[..7].copy_from_slice(format!("{number:07o}").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&number.to_be_bytes());
    }
    field
}

/// A PAX record: its length counts its own digits.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() + rest != length {
        length += 1;
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn sparse_map(pieces: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", pieces.len());
    for (offset, length) in pieces {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

fn time(seconds: i64, nanos: u32) -> String {
    let (seconds, nanos, sign) = match (seconds < 0, nanos) {
        (true, 0) => (seconds.unsigned_abs(), 0, "-"),
        (true, nanos) => (seconds.unsigned_abs() - 1, 1_000_000_000 - nanos, "-"),
        (false, nanos) => (seconds.unsigned_abs(), nanos, ""),
    };
    let text = format!("{sign}{seconds}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::Reader;

    #[test]
    fn what_is_written_is_read() {
        let mut entries = vec![
            Entry::new("short", Kind::Directory, 0o1755, 0, 12),
            Entry::new(&"long/".repeat(60), Kind::Directory, 0o755, 0, -5),
            Entry::new("ümlaut", Kind::Fifo, 0o600, 0, 0),
            Entry { device: (259, 70000), ..Entry::new("dev", Kind::Block, 0o600, 0, 0) },
            Entry { device: (1, 0x4000_0000), ..Entry::new("dev", Kind::Character, 0o600, 0, 0) },
            Entry { link: b"t".repeat(150), ..Entry::new("sym", Kind::Symlink, 0o777, 0, 1) },
            Entry { uid: 3_000_000, gid: u32::MAX, ..Entry::new("far", Kind::File, 0o4755, 0, 1) },
            Entry { mtime: (-2, 750_000_000), ..Entry::new("time", Kind::File, 0o644, 0, 1) },
        ];
        entries[6].xattrs = vec![(b"user.x".to_vec(), b"=\n\0".to_vec())];
        let mut writer = Writer::new(Vec::new());
        for entry in &entries {
            writer.header(entry).unwrap();
        }
        let sparse = Entry {
            sparse: Some(vec![(512, 3), (4096, 2)]),
            ..Entry::new("a/sparse", Kind::File, 0o644, 9000, 0)
        };
        writer.header(&sparse).unwrap();
        writer.contents(b"abcde").unwrap();
        writer.pad(5).unwrap();
        writer.file("file", b"contents", 3).unwrap();
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&bytes[..], ());
        for entry in entries.iter().chain([&sparse]) {
            assert_eq!(reader.next().unwrap().as_ref(), Some(entry));
        }
        assert_eq!(reader.data().unwrap(), b"abcde");
        assert_eq!(reader.next().unwrap().unwrap().path, b"file");
        assert_eq!(reader.data().unwrap(), b"contents");
        assert!(reader.next().unwrap().is_none());
        assert!(reader.finish().unwrap().0);
    }
}
