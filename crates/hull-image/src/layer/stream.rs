//! An archive on its way: read, decompressed, hashed and unpacked, each by a thread of its own.

use std::io::{self, BufRead, Read};
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
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => {
                return Err(Error::new(
                    crate::Kind::NotImplemented,
                    "the archive is compressed with bzip2, which is not supported: use gzip, zstd or xz",
                ));
            }
            _ => Compression::None,
        })
    }

    /// A reader of what was compressed.
    pub(crate) fn decoder<'a>(self, source: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(source),
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
