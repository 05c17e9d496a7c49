//! A header block: its fields and numbers.

use std::io;

use super::BLOCK;

/// An error of the archive itself.
pub(super) fn malformed(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid tar archive: {what}"))
}

/// One raw header block.
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// The checksum holds, in the unsigned or the old signed way of adding.
    pub(super) fn checksum_holds(&self) -> bool {
        let Ok(stated) = octal(&self.0[148..156]) else { return false };
        let (mut unsigned, mut signed) = (0u64, 0i64);
        for (index, &byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&index) { b' ' } else { byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte as i8);
        }
        stated == unsigned || i64::try_from(stated) == Ok(signed)
    }

    pub(super) fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    pub(super) fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// The name, joined with ustar's prefix.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[0..100]);
        let prefix = if self.is_ustar() { text(&self.0[345..500]) } else { &[] };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> io::Result<u64> {
        self.number("mode", 100..108)
    }

    pub(super) fn uid(&self) -> io::Result<u64> {
        self.number("uid", 108..116)
    }

    pub(super) fn gid(&self) -> io::Result<u64> {
        self.number("gid", 116..124)
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        self.number("size", 124..136)
    }

    /// Seconds of Unix time, which may be negative in GNU's binary form.
    pub(super) fn mtime(&self) -> io::Result<i64> {
        let field = &self.0[136..148];
        if field[0] == 0xff {
            let tail: [u8; 8] = field[4..12].try_into().map_err(|_| malformed("mtime"))?;
            if field[..4].iter().any(|&byte| byte != 0xff) {
                return Err(malformed("an mtime that is out of range"));
            }
            return Ok(i64::from_be_bytes(tail));
        }
        i64::try_from(self.number("mtime", 136..148)?).map_err(|_| malformed("an mtime that is out of range"))
    }

    pub(super) fn device(&self) -> io::Result<(u64, u64)> {
        Ok((self.number("device", 329..337)?, self.number("device", 337..345)?))
    }

    fn number(&self, what: &str, range: std::ops::Range<usize>) -> io::Result<u64> {
        number(&self.0[range])
            .map_err(|()| malformed(format_args!("a header with a {what} that is no number")))
    }
}

/// The bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number in octal digits or in GNU's binary form.
pub(super) fn number(field: &[u8]) -> Result<u64, ()> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    if field[0] & 0x40 != 0 {
        return Err(());
    }
    let mut value = u64::from(field[0] & 0x3f);
    for &byte in &field[1..] {
        if value >> 56 != 0 {
            return Err(());
        }
        value = value << 8 | u64::from(byte);
    }
    Ok(value)
}

fn octal(field: &[u8]) -> Result<u64, ()> {
    let mut value = 0u64;
    let digits = field.iter().skip_while(|&&byte| byte == b' ' || byte == 0);
    for &byte in digits.take_while(|&&byte| byte != b' ' && byte != 0) {
        if !(b'0'..=b'7').contains(&byte) {
            return Err(());
        }
        value = value.checked_mul(8).ok_or(())? + u64::from(byte - b'0');
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Ok(0o644));
        assert_eq!(number(b"   644 \0"), Ok(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Ok(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\0"), Ok(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff"), Err(()));
        assert_eq!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), Err(()));
        assert_eq!(number(b"12x4567\0"), Err(()));
    }
}
