//! An archive on its way: read, decompressed, hashed and unpacked, each by a thread of its own.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::{Digest, Error, Result};

/// How much travels at once, and how many of these may wait between two threads.
const CHUNK: usize = 256 * 1024;
const WAITING: usize = 8;

type Chunk = Arc<Vec<u8>>;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Bzip2,
    Gzip,
    Zstd,
    Xz,
}

impl Compression {
    /// Told by its first bytes.
    pub(crate) fn sniff(start: &[u8]) -> Result<Compression> {
        Ok(match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            // A block begins behind that, or the end: a text may begin with the rest.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => Compression::Bzip2,
            _ => Compression::None,
        })
    }

    /// A reader of what was compressed.
    pub(crate) fn decoder<'a>(self, source: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(source),
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
            Compression::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream))
            }
        })
    }
}

/// What a decoder of xz may take: the most that `xz -9` makes use of is 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// What passed by.
pub(crate) struct Passed<T> {
    /// The digest of the bytes as they came.
    pub(crate) blob: Digest,
    /// The digest and the length of what they are uncompressed.
    pub(crate) diff_id: Digest,
    pub(crate) length: u64,
    /// What the consumer made of it.
    pub(crate) value: T,
}

/// Reads `source` to its end; `consume` gets what it is uncompressed, in a thread of its own, and must read to the
/// end too. `progress` gets the number of bytes as they come.
pub(crate) fn pass<T: Send>(
    source: &mut dyn Read,
    progress: &dyn Fn(u64),
    consume: impl FnOnce(ChunkReader) -> Result<T> + Send,
) -> Result<Passed<T>> {
    let first = read_chunk(source).map_err(|error| Error::system("read the archive", error))?;
    let compression = Compression::sniff(&first)?;
    thread::scope(|scope| {
        let (to_consumer, for_consumer) = sync_channel(WAITING);
        let consumer = scope.spawn(move || consume(ChunkReader::new(for_consumer)));
        let (to_hasher, for_hasher) = sync_channel(WAITING);
        let hasher = scope.spawn(move || hash(&for_hasher));
        let out = Tee { consumer: to_consumer, hasher: to_hasher };

        // A thread that ended early is told from here by its channel: it has the better reason to give.
        let (read, decompressed, blob);
        if compression == Compression::None {
            read = forward(source, first, progress, |chunk| out.send(chunk));
            drop(out);
            (decompressed, blob) = (Ok(()), None);
        } else {
            let (to_decoder, for_decoder) = sync_channel(WAITING);
            let decoder = scope.spawn(move || decompress(compression, for_decoder, out));
            let mut digest = Sha256::new();
            read = forward(source, first, progress, |chunk| {
                digest.update(&chunk[..]);
                to_decoder.send(chunk).is_ok()
            });
            drop(to_decoder);
            decompressed = join(decoder);
            blob = Some(Digest::from_hasher(digest));
        }
        let (diff_id, length) = join(hasher);
        let value = join(consumer);
        read.map_err(|error| Error::system("read the archive", error))?;
        if let Err(error) = decompressed {
            return Err(Error::invalid(format!("decompress the archive ({compression:?}): {error}")));
        }
        Ok(Passed { blob: blob.unwrap_or(diff_id), diff_id, length, value: value? })
    })
}

/// As [`pass`], of an archive that is not compressed and is made here: `write` makes it, in this thread. What it writes is
/// copied once, into the chunks that the two others get.
pub(crate) fn pass_made<T: Send>(
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
    consume: impl FnOnce(ChunkReader) -> Result<T> + Send,
) -> Result<Passed<T>> {
    thread::scope(|scope| {
        let (to_consumer, for_consumer) = sync_channel(WAITING);
        let consumer = scope.spawn(move || consume(ChunkReader::new(for_consumer)));
        let (to_hasher, for_hasher) = sync_channel(WAITING);
        let hasher = scope.spawn(move || hash(&for_hasher));
        let out = Tee { consumer: to_consumer, hasher: to_hasher };
        let mut out = Chunks { filling: Vec::new(), sent: Vec::new(), out, refused: false };
        let written = write(&mut out)
            .and_then(|()| out.flush().map_err(|error| Error::system("write the archive", error)));
        let refused = out.refused;
        drop(out);
        let (diff_id, length) = join(hasher);
        let value = join(consumer);
        match written {
            // Who reads had enough, and says why.
            Err(_) if refused && value.is_err() => {}
            // The archive was cut off: what its reader says of that says less.
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        Ok(Passed { blob: diff_id, diff_id, length, value: value? })
    })
}

/// Gathers what is written, and hands it on in chunks.
struct Chunks {
    filling: Vec<u8>,
    /// Chunks that were handed on: their memory is used again when both have let go of it.
    sent: Vec<Chunk>,
    out: Tee,
    /// Nobody listens any more.
    refused: bool,
}

impl Chunks {
    /// An empty chunk, of memory that was used before where there is some.
    fn empty(&mut self) -> Vec<u8> {
        let free = self.sent.iter().position(|chunk| Arc::strong_count(chunk) == 1);
        let free = free.and_then(|at| Arc::into_inner(self.sent.swap_remove(at)));
        free.map_or_else(
            || Vec::with_capacity(CHUNK),
            |mut chunk| {
                chunk.clear();
                chunk
            },
        )
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filling.capacity() == 0 {
            self.filling = self.empty();
        }
        let count = bytes.len().min(CHUNK - self.filling.len());
        self.filling.extend_from_slice(&bytes[..count]);
        if self.filling.len() == CHUNK {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let chunk = Arc::new(std::mem::take(&mut self.filling));
        if self.sent.len() < 2 * WAITING {
            self.sent.push(Arc::clone(&chunk));
        }
        if self.out.send(chunk) {
            return Ok(());
        }
        self.refused = true;
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// Both get every chunk.
struct Tee {
    consumer: SyncSender<Chunk>,
    hasher: SyncSender<Chunk>,
}

impl Tee {
    /// False where nobody listens any more.
    fn send(&self, chunk: Chunk) -> bool {
        self.hasher.send(Arc::clone(&chunk)).is_ok() && self.consumer.send(chunk).is_ok()
    }
}

fn forward(
    source: &mut dyn Read,
    first: Vec<u8>,
    progress: &dyn Fn(u64),
    mut send: impl FnMut(Chunk) -> bool,
) -> io::Result<()> {
    let mut chunk = first;
    let mut total = 0;
    while !chunk.is_empty() {
        total += chunk.len() as u64;
        if !send(Arc::new(chunk)) {
            break;
        }
        progress(total);
        chunk = read_chunk(source)?;
    }
    Ok(())
}

fn read_chunk(source: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; CHUNK];
    let mut filled = 0;
    while filled < CHUNK {
        match source.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    Ok(chunk)
}

fn hash(chunks: &Receiver<Chunk>) -> (Digest, u64) {
    let mut digest = Sha256::new();
    let mut length = 0;
    for chunk in chunks {
        digest.update(&chunk[..]);
        length += chunk.len() as u64;
    }
    (Digest::from_hasher(digest), length)
}

fn decompress(compression: Compression, chunks: Receiver<Chunk>, out: Tee) -> io::Result<()> {
    let mut decoder = compression.decoder(ChunkReader::new(chunks))?;
    loop {
        let chunk = read_chunk(&mut *decoder)?;
        if chunk.is_empty() || !out.send(Arc::new(chunk)) {
            return Ok(());
        }
    }
}

/// A panic of a thread goes on in the one that waits for it.
fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads what comes in chunks, without copying.
pub(crate) struct ChunkReader {
    chunks: Receiver<Chunk>,
    current: Chunk,
    position: usize,
}

impl ChunkReader {
    fn new(chunks: Receiver<Chunk>) -> ChunkReader {
        ChunkReader { chunks, current: Chunk::default(), position: 0 }
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.current.len() {
            // Whoever sends has ended: so does the stream.
            let Ok(next) = self.chunks.recv() else { return Ok(&[]) };
            (self.current, self.position) = (next, 0);
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_here_is_hashed_as_it_is_written() {
        let piece: Vec<u8> = (0..=255).cycle().take(3 * CHUNK / 2).collect();
        let write = |out: &mut dyn Write| {
            (0..40).try_for_each(|_| out.write_all(&piece)).map_err(|error| Error::system("write", error))
        };
        let read = |mut chunks: ChunkReader| {
            let mut all = Vec::new();
            chunks.read_to_end(&mut all).map_err(Error::archive)?;
            Ok(all)
        };
        let passed = pass_made(write, read).unwrap();
        assert_eq!(passed.length, 40 * piece.len() as u64);
        assert!(passed.value.chunks(piece.len()).all(|one| one == piece));
        assert_eq!(passed.diff_id, Digest::of(&passed.value));
    }

    #[test]
    fn the_side_that_failed_says_why() {
        let endless = |out: &mut dyn Write| loop {
            out.write_all(&[0; 1000]).map_err(|error| Error::system("write", error))?;
        };
        let refused = pass_made(endless, |_| Err::<(), _>(Error::invalid("enough")));
        assert_eq!(refused.err().unwrap().message, "enough");
        let cut = |out: &mut dyn Write| {
            out.write_all(b"half").map_err(|error| Error::system("write", error))?;
            Err(Error::invalid("a file cannot be read"))
        };
        let failed = pass_made(cut, |_| Err::<(), _>(Error::invalid("it is truncated")));
        assert_eq!(failed.err().unwrap().message, "a file cannot be read");
    }
}
