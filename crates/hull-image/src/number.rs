//! Numbers of seven bits a byte, the lowest first (LEB128), in what hull keeps and sends.

use std::io::{self, Read, Write};

/// Writes a number.
///
/// # Errors
/// Who takes it does not.
pub fn put_number(out: &mut (impl Write + ?Sized), mut value: u64) -> io::Result<()> {
    let mut bytes = [0; 10];
    let mut count = 0;
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        bytes[count] = if value == 0 { low } else { low | 0x80 };
        count += 1;
        if value == 0 {
            return out.write_all(&bytes[..count]);
        }
    }
}

/// Reads a number.
///
/// # Errors
/// There is none, or it does not end.
pub fn get_number(source: &mut (impl Read + ?Sized)) -> io::Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        source.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a number in it does not end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_number(&mut bytes, value).unwrap();
            assert_eq!(get_number(&mut bytes.as_slice()).unwrap(), value);
        }
        assert!(get_number(&mut [0x80; 11].as_slice()).is_err() && get_number(&mut [].as_slice()).is_err());
    }
}
