//! A pack of objects: read once to name everything in it, then by name.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use flate2::Crc;
use flate2::bufread::ZlibDecoder;
use sha1_checked::{Digest as _, Sha1};

use super::delta::apply;
use super::object::{Kind, Naming, Oid, finished};
use crate::failure::{Failure, Result};

/// An object that has to be in memory as a whole may be of so many bytes.
const IN_MEMORY: u64 = 128 << 20;
/// So many bytes of objects that others were made of are kept.
const KEPT: usize = 64 << 20;
/// A delta may be so many deltas away from an object.
const CHAIN: usize = 4096;
/// A pack may not have more objects: each takes some 150 bytes of memory.
const OBJECTS: u32 = 2_000_000;
/// Objects, and what deltas make, may not come to more bytes than these, all together: each takes its time, however small it is
/// in the pack.
const MADE: u64 = 256 << 30;

/// What an object is stored as.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Whole(Kind),
    /// What differs from the object of this number.
    Delta(usize),
    /// The same, by a name that nothing read so far has.
    Unresolved(Oid),
}

/// An object of a pack.
struct Object {
    stored: Stored,
    /// Where it begins, and where its compressed bytes do.
    offset: u64,
    data: u64,
    /// Bytes of what is compressed.
    size: u64,
    /// Of the bytes in the pack.
    crc: u32,
    oid: Option<Oid>,
}

/// What an index of a pack says of an object.
pub(super) struct Indexed {
    pub(super) oid: Oid,
    pub(super) crc: u32,
    pub(super) offset: u64,
}

/// A pack whose objects are named.
pub(super) struct Pack {
    file: File,
    objects: Vec<Object>,
    names: HashMap<Oid, usize>,
    /// The pack's own name.
    pub(super) checksum: Oid,
    cache: RefCell<Cache>,
    /// What deltas have made so far, in bytes.
    made: Cell<u64>,
    /// Set when nobody wants it any more.
    stop: Arc<AtomicBool>,
}

/// Objects that others are made of.
#[derive(Default)]
struct Cache {
    objects: HashMap<usize, (Kind, Rc<Vec<u8>>)>,
    bytes: usize,
}

fn wrong(why: &str) -> Failure {
    Failure::invalid(format!("the pack is malformed: {why}"))
}

fn disk(error: std::io::Error) -> Failure {
    Failure::invalid(format!("read the pack: {error}"))
}

/// Reads a file, and knows where it is.
struct Counted {
    file: BufReader<File>,
    at: u64,
    hash: Sha1,
    crc: Crc,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let piece = self.fill_buf()?;
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Counted {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.file.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        let piece = &self.file.buffer()[..count];
        self.hash.update(piece);
        self.crc.update(piece);
        self.at += count as u64;
        self.file.consume(count);
    }
}

impl Counted {
    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.read_exact(&mut byte).map_err(disk)?;
        Ok(byte[0])
    }
}

impl Pack {
    /// Reads a pack and names its objects.
    ///
    /// # Errors
    /// It is malformed, or nobody wants it any more.
    pub(super) fn open(path: &Path, stop: &Arc<AtomicBool>) -> Result<Pack> {
        let file = File::open(path).map_err(disk)?;
        let again = file.try_clone().map_err(disk)?;
        let mut input = Counted {
            file: BufReader::with_capacity(256 << 10, again),
            at: 0,
            hash: Sha1::new(),
            crc: Crc::new(),
        };
        let mut head = [0; 12];
        input.read_exact(&mut head).map_err(disk)?;
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if &head[..4] != b"PACK" || !matches!(number(4), 2 | 3) {
            return Err(wrong("it is none"));
        }
        if number(8) > OBJECTS {
            return Err(wrong(&format!("it has {} objects: {OBJECTS} are allowed", number(8))));
        }
        let mut pack = Pack {
            file,
            objects: Vec::new(),
            names: HashMap::new(),
            checksum: Oid([0; 20]),
            cache: RefCell::default(),
            made: Cell::default(),
            stop: Arc::clone(stop),
        };
        let (mut offsets, mut buffer, mut whole) = (HashMap::new(), vec![0; 64 << 10], 0u64);
        for _ in 0..number(8) {
            crate::build::wanted(stop)?;
            let object = pack.read(&mut input, &offsets, &mut buffer)?;
            whole = whole.saturating_add(object.size);
            if whole > MADE {
                return Err(wrong(&format!("its objects come to more than {MADE} bytes")));
            }
            offsets.insert(object.offset, pack.objects.len());
            if let Some(oid) = object.oid {
                pack.names.insert(oid, pack.objects.len());
            }
            pack.objects.push(object);
        }
        let checksum = finished(std::mem::take(&mut input.hash))?;
        let mut end = [0; 20];
        input.read_exact(&mut end).map_err(disk)?;
        if end != checksum.0 {
            return Err(wrong("its checksum is another"));
        }
        pack.checksum = checksum;
        pack.name_deltas()?;
        Ok(pack)
    }

    /// Reads an object, piece by piece into the buffer; what is stored whole is named.
    fn read(&self, input: &mut Counted, offsets: &HashMap<u64, usize>, buffer: &mut [u8]) -> Result<Object> {
        let offset = input.at;
        input.crc = Crc::new();
        let mut byte = input.byte()?;
        let kind = (byte >> 4) & 7;
        let (mut size, mut shift) = (u64::from(byte & 15), 4);
        while byte & 0x80 != 0 {
            byte = input.byte()?;
            if shift > 56 {
                return Err(wrong("an object is too long"));
            }
            size |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        let stored = match kind {
            6 => {
                let mut byte = input.byte()?;
                let mut back = u64::from(byte & 0x7f);
                while byte & 0x80 != 0 {
                    byte = input.byte()?;
                    back = back
                        .checked_add(1)
                        .and_then(|back| back.checked_mul(128))
                        .ok_or_else(|| wrong("an offset is too large"))?
                        | u64::from(byte & 0x7f);
                }
                let base = offset.checked_sub(back).and_then(|base| offsets.get(&base));
                Stored::Delta(*base.ok_or_else(|| wrong("a delta is of nothing"))?)
            }
            7 => {
                let mut oid = [0; 20];
                input.read_exact(&mut oid).map_err(disk)?;
                Stored::Unresolved(Oid(oid))
            }
            kind => Stored::Whole(Kind::of(kind).ok_or_else(|| wrong("an object is of no kind"))?),
        };
        let data = input.at;
        let mut naming = match stored {
            Stored::Whole(kind) => Some(Naming::of(kind, size)),
            _ => None,
        };
        if size > MADE {
            return Err(wrong("an object is too long"));
        }
        let mut decoder = ZlibDecoder::new(&mut *input);
        let mut length = 0u64;
        loop {
            crate::build::wanted(&self.stop)?;
            let count = decoder.read(buffer).map_err(disk)?;
            length += count as u64;
            if count == 0 || length > size {
                break;
            }
            if let Some(naming) = &mut naming {
                naming.add(&buffer[..count]);
            }
        }
        if length != size {
            return Err(wrong("an object is not as long as it says"));
        }
        let crc = input.crc.sum();
        Ok(Object { stored, offset, data, size, crc, oid: naming.map(Naming::finish).transpose()? })
    }

    /// Names what is stored as a delta.
    fn name_deltas(&mut self) -> Result<()> {
        let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut waiting: HashMap<Oid, Vec<usize>> = HashMap::new();
        let mut ready = Vec::new();
        for (index, object) in self.objects.iter().enumerate() {
            match object.stored {
                Stored::Whole(_) => ready.push(index),
                Stored::Delta(base) => children.entry(base).or_default().push(index),
                Stored::Unresolved(base) => waiting.entry(base).or_default().push(index),
            }
        }
        while let Some(index) = ready.pop() {
            crate::build::wanted(&self.stop)?;
            let oid = match self.objects[index].oid {
                Some(oid) => oid,
                None => {
                    let (kind, bytes) = self.whole(index)?;
                    let mut naming = Naming::of(kind, bytes.len() as u64);
                    naming.add(&bytes);
                    let oid = naming.finish()?;
                    self.objects[index].oid = Some(oid);
                    self.names.insert(oid, index);
                    oid
                }
            };
            for child in waiting.remove(&oid).unwrap_or_default() {
                self.objects[child].stored = Stored::Delta(index);
                ready.push(child);
            }
            ready.extend(children.remove(&index).unwrap_or_default());
        }
        match self.objects.iter().all(|object| object.oid.is_some()) {
            true => Ok(()),
            false => Err(wrong("a delta is of an object that is not in it")),
        }
    }

    /// An object in memory.
    fn whole(&self, index: usize) -> Result<(Kind, Rc<Vec<u8>>)> {
        let mut deltas = Vec::new();
        let mut at = index;
        let (kind, mut bytes) = loop {
            if let Some((kind, bytes)) = self.cache.borrow().objects.get(&at) {
                break (*kind, Rc::clone(bytes));
            }
            match self.objects[at].stored {
                Stored::Whole(kind) => break (kind, Rc::new(self.inflated(at)?)),
                Stored::Delta(base) if deltas.len() < CHAIN => {
                    deltas.push(at);
                    at = base;
                }
                Stored::Delta(_) => return Err(wrong("a delta is too far from an object")),
                Stored::Unresolved(_) => return Err(wrong("a delta is of an object that is not in it")),
            }
        };
        self.keep(at, kind, &bytes);
        while let Some(delta) = deltas.pop() {
            crate::build::wanted(&self.stop)?;
            bytes = Rc::new(apply(&bytes, &self.inflated(delta)?, IN_MEMORY)?);
            self.made.set(self.made.get() + bytes.len() as u64);
            if self.made.get() > MADE {
                return Err(wrong(&format!("its deltas make more than {MADE} bytes")));
            }
            self.keep(delta, kind, &bytes);
        }
        Ok((kind, bytes))
    }

    fn keep(&self, index: usize, kind: Kind, bytes: &Rc<Vec<u8>>) {
        let mut cache = self.cache.borrow_mut();
        if cache.bytes + bytes.len() > KEPT {
            *cache = Cache::default();
        }
        if bytes.len() <= KEPT && cache.objects.insert(index, (kind, Rc::clone(bytes))).is_none() {
            cache.bytes += bytes.len();
        }
    }

    fn stream(&self, index: usize) -> ZlibDecoder<BufReader<At<'_>>> {
        let at = At { file: &self.file, at: self.objects[index].data };
        ZlibDecoder::new(BufReader::with_capacity(32 << 10, at))
    }

    fn inflated(&self, index: usize) -> Result<Vec<u8>> {
        let size = self.objects[index].size;
        if size > IN_MEMORY {
            return Err(Failure::invalid(format!(
                "an object of {size} bytes has to be read as a whole: {IN_MEMORY} are allowed"
            )));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        self.stream(index).take(size).read_to_end(&mut bytes).map_err(disk)?;
        Ok(bytes)
    }

    fn find(&self, oid: Oid) -> Result<usize> {
        self.names.get(&oid).copied().ok_or_else(|| wrong(&format!("the object {oid} is not in it")))
    }

    /// An object of that kind.
    ///
    /// # Errors
    /// There is none, or it is too long for the memory.
    pub(super) fn object(&self, oid: Oid, kind: Kind) -> Result<Rc<Vec<u8>>> {
        match self.whole(self.find(oid)?)? {
            (found, bytes) if found == kind => Ok(bytes),
            _ => Err(wrong(&format!("the object {oid} is another than it is called"))),
        }
    }

    /// Writes a file's contents.
    ///
    /// # Errors
    /// There is none, or they cannot be written.
    pub(super) fn blob(&self, oid: Oid, out: &mut dyn Write) -> Result<u64> {
        let index = self.find(oid)?;
        let failed = |error: std::io::Error| Failure::invalid(format!("write a file: {error}"));
        if let Stored::Whole(Kind::Blob) = self.objects[index].stored {
            let size = self.objects[index].size;
            return std::io::copy(&mut self.stream(index).take(size), out).map_err(failed);
        }
        let bytes = self.object(oid, Kind::Blob)?;
        out.write_all(&bytes).map_err(failed)?;
        Ok(bytes.len() as u64)
    }

    /// All objects, by their names.
    pub(super) fn index(&self) -> Vec<Indexed> {
        let of = |object: &Object| Some(Indexed { oid: object.oid?, crc: object.crc, offset: object.offset });
        let mut index: Vec<Indexed> = self.objects.iter().filter_map(of).collect();
        index.sort_by_key(|object| object.oid);
        index.dedup_by_key(|object| object.oid);
        index
    }
}

/// A file from a place on.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    pub(in super::super) fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn packed(objects: &[Vec<u8>]) -> tempfile::NamedTempFile {
        let mut bytes =
            [b"PACK".as_slice(), &2u32.to_be_bytes(), &(objects.len() as u32).to_be_bytes()].concat();
        objects.iter().for_each(|object| bytes.extend_from_slice(object));
        let mut hash = Sha1::new();
        hash.update(&bytes);
        let end = finished(hash).unwrap();
        bytes.extend_from_slice(&end.0);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    pub(in super::super) fn opened(objects: &[Vec<u8>]) -> Result<Pack> {
        Pack::open(packed(objects).path(), &Arc::default())
    }

    fn blob(text: &[u8]) -> Vec<u8> {
        [&[0x30 | text.len() as u8][..], &compressed(text)].concat()
    }

    const DELTA: &[u8] = &[6, 11, 0x90, 5, 6, b' ', b'w', b'o', b'r', b'l', b'd'];

    #[test]
    fn objects_and_deltas_have_names() {
        let first = blob(b"hello\n");
        let delta = [&[0x60 | DELTA.len() as u8, first.len() as u8][..], &compressed(DELTA)].concat();
        let oid = "ce013625030ba8dba906f756967f9e9ca394464a".parse::<Oid>().unwrap();
        // By a name that is read only behind it.
        let by_name = [&[0x70 | DELTA.len() as u8][..], &oid.0, &compressed(DELTA)].concat();
        for objects in [vec![first.clone(), delta], vec![by_name, first.clone()]] {
            let pack = opened(&objects).unwrap();
            let mut read = Vec::new();
            pack.blob(oid, &mut read).unwrap();
            assert_eq!(read, b"hello\n");
            let made = "95d09f2b10159347eece71399a7e2e907ea3df4f".parse().unwrap();
            assert_eq!(pack.object(made, Kind::Blob).unwrap().as_slice(), b"hello world");
            assert!(pack.object(made, Kind::Tree).is_err());
            assert_eq!(pack.index().len(), 2);
        }
    }

    #[test]
    fn malformed_packs_are_refused() {
        let lonely = [&[0x70 | DELTA.len() as u8][..], &[9; 20], &compressed(DELTA)].concat();
        let back = [&[0x60 | DELTA.len() as u8, 99][..], &compressed(DELTA)].concat();
        let long = [&[0x31][..], &compressed(b"hello")].concat();
        let short = [&[0x3f][..], &compressed(b"hello")].concat();
        for object in [lonely, back, long, short, vec![0x00], vec![0x5f], vec![0xff; 30]] {
            assert!(opened(&[object]).is_err());
        }
        let file = packed(&[blob(b"x")]);
        let mut bytes = std::fs::read(file.path()).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(file.path(), &bytes).unwrap();
        assert!(Pack::open(file.path(), &Arc::default()).is_err());
        std::fs::write(file.path(), &bytes[..20]).unwrap();
        assert!(Pack::open(file.path(), &Arc::default()).is_err());
    }
}
