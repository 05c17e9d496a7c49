//! What is printed before the process is there whose streams these are: by a runtime that makes it.

use super::log::Stream;

/// How much is kept, in bytes, with what keeping it takes; then the streams wait.
const MAX: usize = 8 << 20;

/// How long a piece grows: one that doubled for ever would have as much again to spare.
const PIECE_MAX: usize = 64 * 1024;

/// What a piece takes besides its bytes: its place in the list and its allocation.
const PIECE_COST: usize = 64;

/// Pieces in the order in which they were printed. What is printed byte by byte becomes one piece, as long as it is of one
/// stream.
#[derive(Debug, Default)]
pub(super) struct Early {
    pieces: Vec<(Stream, Vec<u8>)>,
    taken: usize,
}

impl Early {
    /// Whether more is kept.
    pub(super) fn has_room(&self) -> bool {
        self.taken < MAX
    }

    pub(super) fn add(&mut self, stream: Stream, bytes: &[u8]) {
        self.taken += bytes.len();
        match self.pieces.last_mut() {
            Some((of, piece)) if *of == stream && piece.len() + bytes.len() <= PIECE_MAX => {
                piece.extend_from_slice(bytes);
            }
            _ => {
                self.taken += PIECE_COST;
                self.pieces.push((stream, bytes.to_vec()));
            }
        }
    }

    /// The pieces, which are not kept any more.
    pub(super) fn take(&mut self) -> Vec<(Stream, Vec<u8>)> {
        std::mem::take(self).pieces
    }

    /// The last `most` bytes of a stream.
    pub(super) fn tail(&self, stream: Stream, most: usize) -> Vec<u8> {
        let mut left = most;
        let mut parts = Vec::new();
        for (_, bytes) in self.pieces.iter().rev().filter(|(of, _)| *of == stream) {
            let part = &bytes[bytes.len().saturating_sub(left)..];
            left -= part.len();
            parts.push(part);
            if left == 0 {
                break;
            }
        }
        parts.reverse();
        parts.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_byte_by_byte_is_kept_whole_and_in_order() {
        let mut early = Early::default();
        for byte in b"abc" {
            early.add(Stream::Stderr, &[*byte]);
        }
        early.add(Stream::Stdout, b"out");
        early.add(Stream::Stderr, b"de");
        assert_eq!(early.tail(Stream::Stderr, 3), b"cde");
        assert_eq!(early.tail(Stream::Stderr, 100), b"abcde");
        assert_eq!(early.tail(Stream::Stdout, 0), b"");
        let pieces = early.take();
        let told: Vec<(Stream, &[u8])> = pieces.iter().map(|(stream, bytes)| (*stream, &bytes[..])).collect();
        assert_eq!(told, [(Stream::Stderr, &b"abc"[..]), (Stream::Stdout, b"out"), (Stream::Stderr, b"de")]);
        assert!(early.take().is_empty());
    }

    #[test]
    fn what_it_takes_is_bounded_however_it_comes() {
        let fill = |streams: [Stream; 2], length: usize| {
            let mut early = Early::default();
            let bytes = vec![b'x'; length];
            for stream in streams.into_iter().cycle() {
                if !early.has_room() {
                    break;
                }
                early.add(stream, &bytes);
            }
            let in_pieces = early.pieces.iter().map(|(_, bytes)| bytes.capacity()).sum::<usize>();
            in_pieces + early.pieces.capacity() * size_of::<(Stream, Vec<u8>)>()
        };
        let one = [Stream::Stdout; 2];
        for (streams, length) in
            [(one, 1), (one, 4096), (one, PIECE_MAX), ([Stream::Stdout, Stream::Stderr], 1)]
        {
            let held = fill(streams, length);
            assert!(held <= 2 * MAX, "{held} bytes for pieces of {length}");
        }
    }
}
