//! Docker's json-file format: one object a line, escaped as Docker's own writer does it.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}
//! ```

use std::collections::BTreeMap;

use super::{PIECE_MAX, Stream};

/// What stands before the text of each line.
const HEAD: &[u8] = b"{\"log\":\"";

/// What stands behind the text of each line that was read from `stream` at `time_ns`.
pub(super) fn tail(tail: &mut Vec<u8>, stream: Stream, attributes: &BTreeMap<String, String>, time_ns: u64) {
    tail.clear();
    tail.extend_from_slice(b"\",\"stream\":\"");
    tail.extend_from_slice(stream.name().as_bytes());
    tail.push(b'"');
    if !attributes.is_empty() {
        tail.extend_from_slice(b",\"attrs\":{");
        for (index, (name, value)) in attributes.iter().enumerate() {
            tail.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
            escape(tail, name.as_bytes());
            tail.extend_from_slice(b"\":\"");
            escape(tail, value.as_bytes());
            tail.push(b'"');
        }
        tail.push(b'}');
    }
    tail.extend_from_slice(b",\"time\":\"");
    rfc3339(tail, time_ns);
    tail.extend_from_slice(b"\"}\n");
}

/// Writes the first line of `text`, or its first piece when the line is longer, and returns how many bytes of
/// `text` that took.
pub(super) fn line(out: &mut Vec<u8>, text: &[u8], tail: &[u8]) -> usize {
    out.extend_from_slice(HEAD);
    let text = &text[..text.len().min(PIECE_MAX)];
    let taken = escape_line(out, text);
    out.extend_from_slice(tail);
    taken
}

fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    while !text.is_empty() {
        text = &text[escape_line(out, text)..];
    }
}

/// Whether a byte of a JSON string stands for itself here.
fn is_plain(byte: u8) -> bool {
    (0x20..0x80).contains(&byte) && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&')
}

/// How many bytes at the start stand for themselves. By chunks, so that it is compiled to vector compares.
fn plain_prefix(text: &[u8]) -> usize {
    const CHUNK: usize = 16;
    let mut at = 0;
    for chunk in text.chunks_exact(CHUNK) {
        let special = chunk.iter().fold(0_u8, |special, &byte| special | u8::from(!is_plain(byte)));
        if special != 0 {
            break;
        }
        at += CHUNK;
    }
    at + text[at..].iter().position(|&byte| !is_plain(byte)).unwrap_or(text.len() - at)
}

/// Escapes up to and with the first newline, or all; returns how many bytes that were.
fn escape_line(out: &mut Vec<u8>, text: &[u8]) -> usize {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut at = 0;
    while at < text.len() {
        let plain = plain_prefix(&text[at..]);
        out.extend_from_slice(&text[at..at + plain]);
        at += plain;
        let Some(&byte) = text.get(at) else { break };
        at += 1;
        match byte {
            b'\n' => {
                out.extend_from_slice(b"\\n");
                return at;
            }
            b'\r' => out.extend_from_slice(b"\\r"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x80.. => at += encoded(out, &text[at - 1..]) - 1,
            _ => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
    at
}

/// One character beyond ASCII at the start of `text`; one byte of what is no UTF-8 becomes one U+FFFD.
fn encoded(out: &mut Vec<u8>, text: &[u8]) -> usize {
    let width = match text[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    match text.get(..width).filter(|_| width > 1).map(std::str::from_utf8) {
        Some(Ok("\u{2028}")) => out.extend_from_slice(b"\\u2028"),
        Some(Ok("\u{2029}")) => out.extend_from_slice(b"\\u2029"),
        Some(Ok(character)) => out.extend_from_slice(character.as_bytes()),
        _ => {
            out.extend_from_slice(b"\\ufffd");
            return 1;
        }
    }
    width
}

/// A time as Go's RFC3339Nano writes it: without zeros at the end of the fraction.
pub(crate) fn rfc3339(out: &mut Vec<u8>, time_ns: u64) {
    let (seconds, nanos) = (time_ns / 1_000_000_000, time_ns % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanos != 0 {
        text.push_str(format!(".{nanos:09}").trim_end_matches('0'));
    }
    text.push('Z');
    out.extend_from_slice(text.as_bytes());
}

/// Year, month and day of a number of days since 1970-01-01, by the cycle of 400 years that begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Days since 1970-01-01 of a date; the inverse of [`date`].
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

/// Nanoseconds since 1970 of a time that [`rfc3339`] or Docker wrote (UTC).
pub(super) fn parse_time(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (month, day) = (number(5..7)?, number(8..10)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days(number(0..4)?, month, day)?;
    let seconds = days * 86_400 + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let fraction = text.get(19..)?.strip_suffix('Z')?;
    let nanos = match fraction.strip_prefix('.') {
        Some(digits) if (1..=9).contains(&digits.len()) => {
            digits.parse::<u64>().ok()? * 10_u64.pow(9 - digits.len() as u32)
        }
        Some(_) => return None,
        None if fraction.is_empty() => 0,
        None => return None,
    };
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_escaped_as_docker_does() {
        assert_eq!(escaped(b"plain"), "plain");
        assert_eq!(escaped(b"a\"b\\c\n\r\t\x00\x1f"), r#"a\"b\\c\n\r\u0009\u0000\u001f"#);
        assert_eq!(escaped(b"<a>&b"), r"\u003ca\u003e\u0026b");
        assert_eq!(
            escaped("gr\u{fc}\u{df} \u{20ac} \u{1f600}".as_bytes()),
            "gr\u{fc}\u{df} \u{20ac} \u{1f600}"
        );
        assert_eq!(escaped("\u{2028}\u{2029}".as_bytes()), r"\u2028\u2029");
        assert_eq!(escaped(b"\xff\xc3"), r"\ufffd\ufffd");
        // A surrogate, an overlong zero and a sequence cut short: each byte is replaced by itself.
        assert_eq!(escaped(b"\xed\xa0\x80"), r"\ufffd\ufffd\ufffd");
        assert_eq!(escaped(b"\xc0\x80"), r"\ufffd\ufffd");
        assert_eq!(escaped(b"\xe2\x82x"), r"\ufffd\ufffdx");
        assert_eq!(escaped(b"\x7f"), "\u{7f}");
    }

    #[test]
    fn special_bytes_are_found_at_every_place() {
        for length in 0..70 {
            for place in 0..length {
                let mut text = vec![b'x'; length];
                text[place] = b'<';
                assert_eq!(plain_prefix(&text), place);
            }
            assert_eq!(plain_prefix(&vec![b'x'; length]), length);
        }
    }

    #[test]
    fn times_are_written_and_read() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
            (1_767_323_045_123_456_789, "2026-01-02T03:04:05.123456789Z"),
            (1_767_323_045_100_000_000, "2026-01-02T03:04:05.1Z"),
            (4_102_444_799_000_000_001, "2099-12-31T23:59:59.000000001Z"),
        ];
        for (time, text) in cases {
            let mut out = Vec::new();
            rfc3339(&mut out, time);
            assert_eq!(String::from_utf8(out).unwrap(), text);
            assert_eq!(parse_time(text), Some(time));
        }
        for bad in ["", "2026", "2026-13-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02T03:04:05.Z"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
