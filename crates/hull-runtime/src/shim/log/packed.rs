//! What is in a compressed log file, read as a stream: nothing of it is put on the disk, which may be full.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::{Format, local};

/// A compressed file's content, from wherever it is wanted. It goes forward: who wants what was before has it from the
/// beginning again.
#[derive(Debug)]
pub(super) struct Packed {
    file: Arc<File>,
    /// None before anything is read: many files may be open, and each one's decoder has buffers.
    content: Option<BufReader<Content>>,
    /// How far the content was taken.
    at: u64,
}

/// What can be read of it: behind a place where it is damaged there is nothing.
#[derive(Debug)]
struct Content {
    decoder: MultiGzDecoder<FromStart>,
    is_damaged: bool,
}

/// A file from its start, whatever else reads it.
#[derive(Debug)]
struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl Packed {
    pub(super) fn new(file: Arc<File>) -> Packed {
        Packed { file, content: None, at: 0 }
    }

    /// Reads as [`FileExt::read_at`] does, but for signals.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], from: u64) -> io::Result<usize> {
        if from < self.at {
            (self.content, self.at) = (None, 0);
        }
        let content = self.content.get_or_insert_with(|| content(&self.file));
        let ahead = from - self.at;
        self.at += io::copy(&mut content.by_ref().take(ahead), &mut io::sink())?;
        if self.at < from {
            return Ok(0);
        }
        // By its own buffer: what is read at once where it is damaged is lost, and that is less so.
        let read = content.fill_buf()?.read(buffer)?;
        content.consume(read);
        self.at += read as u64;
        Ok(read)
    }

    /// Where the last `count` entries start, and how many there are (fewer, when the file has no more).
    pub(super) fn back(&self, format: Format, count: u64) -> io::Result<(u64, u64)> {
        let (_, all) = pass(content(&self.file), format, u64::MAX)?;
        let wanted = all.min(count);
        let (start, _) = pass(content(&self.file), format, all - wanted)?;
        Ok((start, wanted))
    }
}

fn content(file: &Arc<File>) -> BufReader<Content> {
    let file = FromStart { file: Arc::clone(file), at: 0 };
    BufReader::new(Content { decoder: MultiGzDecoder::new(file), is_damaged: false })
}

/// Where the first `count` entries end, and how many there are (fewer, when there are no more); half a one is none.
fn pass(mut content: impl BufRead, format: Format, count: u64) -> io::Result<(u64, u64)> {
    let (mut at, mut found) = (0, 0);
    while found < count {
        let Some(length) = (match format {
            Format::Json => pass_line(&mut content)?,
            Format::Local => pass_record(&mut content)?,
        }) else {
            break;
        };
        (at, found) = (at + length, found + 1);
    }
    Ok((at, found))
}

fn pass_line(content: &mut impl BufRead) -> io::Result<Option<u64>> {
    let mut length = 0;
    loop {
        let bytes = content.fill_buf()?;
        let (passed, ends) = match bytes.iter().position(|&byte| byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (bytes.len(), bytes.is_empty()),
        };
        let is_whole = ends && passed > 0;
        content.consume(passed);
        length += passed as u64;
        if ends {
            return Ok(is_whole.then_some(length));
        }
    }
}

fn pass_record(content: &mut impl BufRead) -> io::Result<Option<u64>> {
    let mut text = [0; 4];
    match content.read_exact(&mut text) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = (local::HEAD + local::TAIL) as u64 + u64::from(u32::from_le_bytes(text));
    let rest = length - text.len() as u64;
    let passed = io::copy(&mut content.by_ref().take(rest), &mut io::sink())?;
    Ok((passed == rest).then_some(length))
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_damaged {
            return Ok(0);
        }
        match self.decoder.read(buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::UnexpectedEof) => {
                self.is_damaged = true;
                Ok(0)
            }
            read => read,
        }
    }
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn pack(text: &[u8]) -> File {
        let mut packer = GzEncoder::new(tempfile::tempfile().unwrap(), Compression::fast());
        packer.write_all(text).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn it_is_read_from_anywhere() {
        let text: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        let mut packed = Packed::new(pack(&text).into());
        for from in [0, 70_000, 70_000, 5, 199_990, 200_000, 300_000, 1] {
            let mut buffer = [0; 64];
            let read = packed.read_at(&mut buffer, from).unwrap();
            let rest = &text[text.len().min(from as usize)..];
            assert!(read > 0 || rest.is_empty(), "{from}");
            assert_eq!(buffer[..read], rest[..read], "{from}");
        }
    }

    #[test]
    fn the_last_entries_are_found_and_half_a_one_is_none() {
        let lines = Packed::new(pack(b"one\ntwo\nthree\nha").into());
        let back = |count| lines.back(Format::Json, count).unwrap();
        assert_eq!([back(0), back(1), back(2), back(9)], [(14, 0), (8, 1), (4, 2), (0, 3)]);
        let mut record = vec![0; local::HEAD + 3 + local::TAIL];
        record[0] = 3;
        let whole = record.len() as u64;
        let both = [&record[..], &record, &record[..7]].concat();
        let records = Packed::new(pack(&both).into());
        let back = |count| records.back(Format::Local, count).unwrap();
        assert_eq!([back(0), back(1), back(9)], [(2 * whole, 0), (whole, 1), (0, 2)]);
    }

    #[test]
    fn what_is_damaged_ends_there() {
        let file = pack("line\n".repeat(100_000).as_bytes());
        let length = file.metadata().unwrap().len();
        file.write_all_at(&[0xff; 64], length / 2).unwrap();
        let mut packed = Packed::new(file.into());
        let (mut at, mut buffer) = (0, vec![0; 64 << 10]);
        while let read @ 1.. = packed.read_at(&mut buffer, at).unwrap() {
            at += read as u64;
        }
        assert!((1..500_000).contains(&at), "{at}");
        assert!(packed.back(Format::Json, u64::MAX).unwrap().1 <= at / 5);
    }
}
