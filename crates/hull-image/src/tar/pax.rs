//! PAX extended headers: the records that replace or add to a header's fields.

use std::io;

use super::header::malformed;

/// What an extended header says about the entry that follows it.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// GNU's records of sparse files, in their three versions.
#[derive(Default)]
pub(super) struct Sparse {
    /// Version 1.0: the map stands before the data.
    pub(super) major: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Version 0.0: offsets and lengths in turn; 0.1: all in one record.
    pub(super) map: Vec<u64>,
}

impl Pax {
    /// Reads the records `<length> <key>=<value>\n`.
    pub(super) fn parse(mut data: &[u8]) -> io::Result<Pax> {
        let mut pax = Pax::default();
        while !data.is_empty() {
            // GNU tar and others pad with NULs.
            if data.iter().all(|&byte| byte == 0) {
                break;
            }
            let space = data.iter().take(20).position(|&byte| byte == b' ');
            let space = space.ok_or_else(|| malformed("a PAX record without a length"))?;
            let length = decimal(&data[..space])
                .and_then(|length| usize::try_from(length).ok())
                .filter(|&length| length > space + 1 && length <= data.len() && data[length - 1] == b'\n')
                .ok_or_else(|| malformed("a PAX record whose length is wrong"))?;
            let record = &data[space + 1..length - 1];
            let equals = record.iter().position(|&byte| byte == b'=');
            let equals = equals.ok_or_else(|| malformed("a PAX record without a value"))?;
            pax.take(&record[..equals], &record[equals + 1..])?;
            data = &data[length..];
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let wrong = || malformed(format_args!("a PAX record {}", String::from_utf8_lossy(key)));
        let number = || decimal(value).ok_or_else(wrong);
        let name = || match value.contains(&0) {
            true => Err(wrong()),
            false => Ok(Some(value.to_vec()).filter(|name| !name.is_empty())),
        };
        match key {
            b"path" => self.path = name()?,
            b"linkpath" => self.link = name()?,
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(wrong)?),
            b"GNU.sparse.major" => self.sparse.major = Some(number()?),
            b"GNU.sparse.name" => self.sparse.name = name()?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(number()?),
            b"GNU.sparse.map" => {
                let numbers = value.split(|&byte| byte == b',').map(decimal);
                self.sparse.map = numbers.collect::<Option<Vec<u64>>>().ok_or_else(wrong)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// A number in decimal digits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter()
        .try_fold(0u64, |value, &byte| byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0')))
}

/// Seconds with a fraction, perhaps negative.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0u32;
    if let Some(fraction) = parts.next() {
        if fraction.iter().any(|byte| !byte.is_ascii_digit()) {
            return None;
        }
        for index in 0..9 {
            nanos = nanos * 10 + fraction.get(index).map_or(0, |byte| u32::from(byte - b'0'));
        }
    }
    match (negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let pax =
            Pax::parse(b"19 path=some/where\n21 mtime=1.500000001\n29 SCHILY.xattr.user.a=b=c\nd\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"some/where"[..]));
        assert_eq!(pax.mtime, Some((1, 500_000_001)));
        assert_eq!(pax.xattrs, vec![(b"user.a".to_vec(), b"b=c\nd".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        for text in [
            "x",
            "5 a=b\n",
            "99 a=b\n",
            "6 a=b\nx",
            "0 \n",
            "6 aab\n",
            "11 size=-1\n",
            "9999999999999999999999 a=b\n",
        ] {
            assert!(Pax::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_before_the_epoch() {
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"1."), Some((1, 0)));
        assert_eq!(time(b"a"), None);
    }
}
