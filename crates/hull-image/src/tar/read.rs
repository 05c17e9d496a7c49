//! Reading an archive, entry by entry, from a stream.

use std::io::{self, BufRead};

use super::header::{Header, malformed, number, text};
use super::pax::{Pax, decimal};
use super::{BLOCK, Entry, Kind};

/// Offsets and lengths of what is stored of a sparse file.
type Pieces = Vec<(u64, u64)>;

/// Extended headers, long names and sparse maps may not be larger than this, as in Go's reader.
const SPECIAL_LIMIT: u64 = 1 << 20;

/// Gets every byte of the archive that is not the contents of a file, in order.
pub(crate) trait Record {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// In their place: `length` bytes at `offset` of the file at `path` came here.
    fn contents(&mut self, path: &[u8], offset: u64, length: u64) -> io::Result<()>;
}

/// Keeps nothing.
impl Record for () {
    fn raw(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn contents(&mut self, _path: &[u8], _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Reads entries. The contents of the current one are taken with [`Reader::data`]; what is not taken is skipped.
pub(crate) struct Reader<R, S> {
    source: R,
    /// Where the bytes go that are not contents.
    pub(crate) record: S,
    /// Stored bytes of the current entry that were not read yet, and the padding after them.
    left: u64,
    padding: u64,
    /// The end-of-archive marker was read.
    ended: bool,
}

impl<R: BufRead, S: Record> Reader<R, S> {
    pub(crate) fn new(source: R, record: S) -> Reader<R, S> {
        Reader { source, record, left: 0, padding: 0, ended: false }
    }

    /// The next entry, or `None` at the archive's end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut pax: Option<Pax> = None;
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(block) = self.header()? else {
                if pax.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(malformed("it ends after an extended header"));
                }
                return Ok(None);
            };
            let header = Header(&block);
            match header.typeflag() {
                b'x' | b'X' => pax = Some(Pax::parse(&self.special(header.size()?)?)?),
                b'g' => {
                    self.special(header.size()?)?;
                }
                b'L' => long_name = Some(text(&self.special(header.size()?)?).to_vec()),
                b'K' => long_link = Some(text(&self.special(header.size()?)?).to_vec()),
                _ => {
                    let pax = pax.take().unwrap_or_default();
                    let entry = self.entry(&header, pax, long_name.take(), long_link.take())?;
                    if let Some(entry) = entry {
                        return Ok(Some(entry));
                    }
                }
            }
        }
    }

    /// The next bytes of the current entry's contents; empty at their end. `consume` them.
    pub(crate) fn data(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let bytes = fill(&mut self.source)?;
        if bytes.is_empty() {
            return Err(truncated());
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        Ok(&bytes[..length])
    }

    /// Moves past bytes that [`Reader::data`] gave.
    pub(crate) fn consume(&mut self, count: usize) {
        self.source.consume(count);
        self.left -= count as u64;
    }

    /// Reads to the very end of the stream, past the end-of-archive marker. True where there was one.
    pub(crate) fn finish(mut self) -> io::Result<(bool, S)> {
        loop {
            let bytes = fill(&mut self.source)?;
            if bytes.is_empty() {
                return Ok((self.ended, self.record));
            }
            self.record.raw(bytes)?;
            let count = bytes.len();
            self.source.consume(count);
        }
    }

    /// The next header block; `None` at the end.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        if !self.block(&mut block)? {
            return Ok(None);
        }
        if block.iter().all(|&byte| byte == 0) {
            // One zero block is enough for every reader; a second one is left to `finish`.
            self.ended = true;
            return Ok(None);
        }
        if !Header(&block).checksum_holds() {
            return Err(malformed("a header's checksum is wrong (is it a tar archive?)"));
        }
        Ok(Some(block))
    }

    /// Fills a block; false where the stream ended before its first byte.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = fill(&mut self.source)?;
            if bytes.is_empty() {
                return if filled == 0 { Ok(false) } else { Err(truncated()) };
            }
            let count = bytes.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&bytes[..count]);
            self.source.consume(count);
            filled += count;
        }
        self.record.raw(&block[..])?;
        Ok(true)
    }

    /// The contents of a header that describes another.
    fn special(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > SPECIAL_LIMIT {
            return Err(malformed(format_args!(
                "an extended header of {size} bytes: {SPECIAL_LIMIT} are allowed"
            )));
        }
        let mut contents = Vec::with_capacity(size as usize);
        let mut block = [0; BLOCK];
        while contents.len() < size as usize {
            if !self.block(&mut block)? {
                return Err(truncated());
            }
            let count = (size as usize - contents.len()).min(BLOCK);
            contents.extend_from_slice(&block[..count]);
        }
        Ok(contents)
    }

    /// Passes over what is left of the current entry; it is recorded, since nobody took it as contents.
    fn skip(&mut self) -> io::Result<()> {
        let padding = self.padding;
        let mut left = self.left + padding;
        (self.left, self.padding) = (0, 0);
        while left > 0 {
            let bytes = fill(&mut self.source)?;
            if bytes.is_empty() {
                // Docker's client ends an archive behind the last file's contents where it has put a Dockerfile into it.
                return if left <= padding { Ok(()) } else { Err(truncated()) };
            }
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.record.raw(&bytes[..count])?;
            self.source.consume(count);
            left -= count as u64;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Option<Entry>> {
        let mut path = pax.path.or(long_name).unwrap_or_else(|| header.path());
        let kind = match header.typeflag() {
            // Before ustar, a folder was a file whose name ends in a slash.
            b'0' | 0 | b'7' | b'S' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            // Labels, multi-volume headers and the like describe no file.
            b'V' | b'M' | b'N' => {
                self.expect(header.size()?);
                return Ok(None);
            }
            other => return Err(malformed(format_args!("an entry of the unknown type {:?}", other as char))),
        };
        // Only files have contents; some writers put a size on links and folders and no bytes behind it.
        let stored = pax.size.map_or_else(|| header.size(), Ok)?;
        if stored > i64::MAX as u64 {
            return Err(malformed(format_args!("an entry of {stored} bytes")));
        }
        self.expect(if kind == Kind::File { stored } else { 0 });
        let (mut size, mut sparse) = (if kind == Kind::File { stored } else { 0 }, None);
        if kind == Kind::File && header.typeflag() == b'S' && header.is_gnu() {
            let (whole, map) = self.old_sparse(header)?;
            (size, sparse) = (whole, Some(map));
        } else if kind == Kind::File && (pax.sparse.major.is_some() || !pax.sparse.map.is_empty()) {
            path = pax.sparse.name.clone().unwrap_or(path);
            size = pax.sparse.real_size.ok_or_else(|| malformed("a sparse file without its size"))?;
            sparse = Some(match pax.sparse.major {
                Some(1) => self.sparse_map_before_data()?,
                None | Some(0) => pairs(&pax.sparse.map)?,
                Some(major) => return Err(malformed(format_args!("a sparse file of version {major}"))),
            });
        }
        if let Some(map) = &sparse {
            self.check_sparse(map, size)?;
        }
        let id = |what: &str, value: u64| {
            u32::try_from(value)
                .map_err(|_| malformed(format_args!("a {what} of {value}, which is out of range")))
        };
        let device = match kind {
            Kind::Character | Kind::Block => header.device()?,
            _ => (0, 0),
        };
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => (header.mtime()?, 0),
        };
        if path.contains(&0) || path.is_empty() {
            return Err(malformed("an entry without a name"));
        }
        Ok(Some(Entry {
            path,
            kind,
            mode: (header.mode()? & 0o7777) as u32,
            uid: id("uid", pax.uid.map_or_else(|| header.uid(), Ok)?)?,
            gid: id("gid", pax.gid.map_or_else(|| header.gid(), Ok)?)?,
            size,
            mtime,
            link: pax.link.or(long_link).unwrap_or_else(|| header.link()),
            device: (id("device number", device.0)?, id("device number", device.1)?),
            xattrs: pax.xattrs,
            sparse,
        }))
    }

    fn expect(&mut self, stored: u64) {
        self.left = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
    }

    /// GNU's old sparse format: a map in the header and in blocks that follow it.
    fn old_sparse(&mut self, header: &Header<'_>) -> io::Result<(u64, Pieces)> {
        let wrong = |()| malformed("a sparse map that is no number");
        let size = number(&header.0[483..495]).map_err(wrong)?;
        let mut map = Vec::new();
        let mut take = |field: &[u8]| -> io::Result<()> {
            for pair in field.chunks_exact(24) {
                if pair[0] != 0 {
                    map.push((number(&pair[..12]).map_err(wrong)?, number(&pair[12..]).map_err(wrong)?));
                }
            }
            Ok(())
        };
        take(&header.0[386..482])?;
        let mut more = header.0[482] != 0;
        let mut blocks = 0;
        while more {
            let mut block = [0; BLOCK];
            blocks += 1;
            if blocks * BLOCK as u64 > SPECIAL_LIMIT {
                return Err(malformed("a sparse map that is too long"));
            }
            if !self.block(&mut block)? {
                return Err(truncated());
            }
            take(&block[..504])?;
            more = block[504] != 0;
        }
        Ok((size, map))
    }

    /// PAX sparse format 1.0: decimal numbers on lines of their own, before the data, padded to a block.
    fn sparse_map_before_data(&mut self) -> io::Result<Pieces> {
        let mut lines = Vec::new();
        let mut newlines = 0u64;
        let mut wanted: Option<u64> = None;
        loop {
            let mut block = [0; BLOCK];
            if self.left < BLOCK as u64 || lines.len() as u64 > SPECIAL_LIMIT {
                return Err(malformed("a sparse map that does not end"));
            }
            if !self.block(&mut block)? {
                return Err(truncated());
            }
            self.left -= BLOCK as u64;
            newlines += block.iter().filter(|&&byte| byte == b'\n').count() as u64;
            lines.extend_from_slice(&block);
            if wanted.is_none()
                && let Some(end) = lines.iter().position(|&byte| byte == b'\n')
            {
                let count = decimal(&lines[..end]).filter(|&count| count <= SPECIAL_LIMIT);
                wanted = Some(count.ok_or_else(|| malformed("a sparse map without its length"))? * 2 + 1);
            }
            if wanted.is_some_and(|wanted| newlines >= wanted) {
                break;
            }
        }
        let count = wanted.map_or(0, |wanted| wanted as usize - 1);
        let numbers: Option<Vec<u64>> =
            lines.split(|&byte| byte == b'\n').skip(1).take(count).map(decimal).collect();
        pairs(&numbers.ok_or_else(|| malformed("a sparse map that is no number"))?)
    }

    /// The pieces ascend, lie within the file, and are what is stored.
    fn check_sparse(&self, map: &[(u64, u64)], size: u64) -> io::Result<()> {
        let (mut end, mut stored) = (0u64, 0u64);
        for &(offset, length) in map {
            let next = offset.checked_add(length).filter(|&next| offset >= end && next <= size);
            end =
                next.ok_or_else(|| malformed("a sparse map whose pieces overlap or lie outside the file"))?;
            stored += length;
        }
        if stored != self.left {
            return Err(malformed("a sparse map that does not fit what is stored"));
        }
        Ok(())
    }
}

fn pairs(numbers: &[u64]) -> io::Result<Pieces> {
    if !numbers.len().is_multiple_of(2) {
        return Err(malformed("a sparse map of an odd length"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn fill<R: BufRead>(source: &mut R) -> io::Result<&[u8]> {
    // Asked twice: the first answer's borrow may not be returned from a loop.
    while let Err(error) = source.fill_buf() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    source.fill_buf()
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "invalid tar archive: it is truncated (unexpected EOF)")
}
