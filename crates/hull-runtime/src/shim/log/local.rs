//! The `local` format: binary records, written without escaping and walked in both directions.
//!
//! All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the text, in bytes |
//! | 1 | stream: 1 standard output, 2 standard error; bit 7 is set when the line goes on in the next record |
//! | 8 | time, in nanoseconds since 1970 |
//! | length | the text, without its newline |
//! | 4 | the length again |

use super::{PIECE_MAX, Stream};

/// Bytes before the text.
pub(super) const HEAD: usize = 13;
/// Bytes behind the text.
pub(super) const TAIL: usize = 4;
/// The bit of the stream's byte that says that the line goes on.
pub(super) const GOES_ON: u8 = 0x80;

/// Writes the first line of `text`, or its first piece when the line is longer, and returns how many bytes of
/// `text` that took.
pub(super) fn record(out: &mut Vec<u8>, text: &[u8], stream: Stream, time_ns: u64) -> usize {
    let piece = &text[..text.len().min(PIECE_MAX)];
    let newline = piece.iter().position(|&byte| byte == b'\n');
    let line = &piece[..newline.unwrap_or(piece.len())];
    let goes_on = if newline.is_none() { GOES_ON } else { 0 };
    let length = (line.len() as u32).to_le_bytes();
    out.extend_from_slice(&length);
    out.push(stream as u8 | goes_on);
    out.extend_from_slice(&time_ns.to_le_bytes());
    out.extend_from_slice(line);
    out.extend_from_slice(&length);
    line.len() + usize::from(newline.is_some())
}
