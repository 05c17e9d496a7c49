//! An object as what it differs from another in.

use crate::failure::{Failure, Result};

/// A number of seven bits a byte, the lowest first.
fn number(bytes: &mut &[u8]) -> Result<u64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let (byte, rest) = bytes.split_first().ok_or_else(wrong)?;
        *bytes = rest;
        if shift > 56 {
            return Err(wrong());
        }
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
}

fn wrong() -> Failure {
    Failure::invalid("a delta of the pack is malformed")
}

/// The object that a delta makes of another; no longer than `most` bytes.
pub(super) fn apply(base: &[u8], mut delta: &[u8], most: u64) -> Result<Vec<u8>> {
    if number(&mut delta)? != base.len() as u64 {
        return Err(wrong());
    }
    let length = number(&mut delta)?;
    if length > most {
        return Err(Failure::invalid(format!(
            "an object of {length} bytes is stored as a delta: {most} are allowed"
        )));
    }
    let mut made = Vec::with_capacity(length as usize);
    while let Some((op, rest)) = delta.split_first() {
        delta = rest;
        let piece = if op & 0x80 != 0 {
            let mut field = |bits: std::ops::Range<u8>| -> Result<usize> {
                let mut value = 0;
                for (place, bit) in bits.enumerate() {
                    if op & (1 << bit) != 0 {
                        let (byte, rest) = delta.split_first().ok_or_else(wrong)?;
                        delta = rest;
                        value |= usize::from(*byte) << (8 * place);
                    }
                }
                Ok(value)
            };
            let offset = field(0..4)?;
            let size = match field(4..7)? {
                0 => 0x1_0000,
                size => size,
            };
            let end = offset.checked_add(size).ok_or_else(wrong)?;
            base.get(offset..end).ok_or_else(wrong)?
        } else {
            let size = usize::from(*op);
            if size == 0 {
                return Err(wrong());
            }
            let piece = delta.get(..size).ok_or_else(wrong)?;
            delta = &delta[size..];
            piece
        };
        if (made.len() + piece.len()) as u64 > length {
            return Err(wrong());
        }
        made.extend_from_slice(piece);
    }
    if made.len() as u64 != length {
        return Err(wrong());
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::apply;

    #[test]
    fn deltas_copy_and_insert() {
        // "hello world" to "world, hello": copy 6..11, insert ", ", copy 0..5.
        let delta = [11, 12, 0x91, 6, 5, 2, b',', b' ', 0x90, 5];
        assert_eq!(apply(b"hello world", &delta, 100).unwrap(), b"world, hello");
    }

    #[test]
    fn malformed_deltas_are_refused() {
        for delta in [
            &[11][..],
            &[10, 1, 1, b'x'],
            &[11, 1, 0],
            &[11, 5, 0x91, 9, 5],
            &[11, 1, 2, b'x', b'y'],
            &[11, 2, 1, b'x'],
            &[11, 2, 0x91],
            &[0xff; 12],
        ] {
            assert!(apply(b"hello world", delta, 100).is_err(), "{delta:?}");
        }
        assert!(apply(b"", &[0, 101], 100).unwrap_err().message.contains("101 bytes"));
    }
}
