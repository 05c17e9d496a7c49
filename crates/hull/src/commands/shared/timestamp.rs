//! Points in time as `--since` and `--until` take them.

use jiff::civil::DateTime;
use jiff::{Timestamp, tz::TimeZone};

use crate::error::Error;

/// `text` as the API takes it, seconds and nanoseconds since the epoch. It is a span of time before `now` (`90s`,
/// `1h30m`), a date or time (`2026-01-02`, `2026-01-02T15:04:05Z`; the local zone where it names none), or seconds.
///
/// # Errors
/// What it is not.
pub fn parse(text: &str, now: Timestamp) -> Result<String, Error> {
    if let Some(span) = go_duration(text) {
        let then = i128::from(now.as_second()) * 1_000_000_000 + i128::from(now.subsec_nanosecond()) - span;
        return Ok(format!("{}.{:09}", then.div_euclid(1_000_000_000), then.rem_euclid(1_000_000_000)));
    }
    if let Some(time) = date_or_time(text) {
        return Ok(format!("{}.{:09}", time.as_second(), time.subsec_nanosecond()));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if digits(seconds.strip_prefix('-').unwrap_or(seconds)) && digits(fraction) {
        return Ok(text.to_owned());
    }
    Err(Error::new(format!(
        "failed to parse value as time or duration: {text:?}: a span (10m, 1h30m), a date or time \
         (2026-01-02T15:04:05) or seconds since 1970 is expected"
    )))
}

fn date_or_time(text: &str) -> Option<Timestamp> {
    if !text.contains('-') || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let (local, zone) = match text.strip_suffix('Z') {
        Some(local) => (local, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    // Docker takes a time without seconds or minutes as well.
    let complete = match local.split_once('T') {
        Some((_, clock)) if clock.len() == 2 => format!("{local}:00"),
        _ => local.to_owned(),
    };
    let civil: DateTime = complete.parse().ok()?;
    civil.to_zoned(zone).ok().map(|time| time.timestamp())
}

/// Go's durations in nanoseconds: numbers with units, one after another.
fn go_duration(text: &str) -> Option<i128> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..unit_end])?;
        total += number * unit;
        rest = &rest[unit_end..];
    }
    (total < 1e18).then_some(sign * total as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time() {
        let now = Timestamp::new(1_000_000, 500_000_000).unwrap();
        for (text, expected) in [
            ("10m", "999400.500000000"),
            ("1h30m", "994600.500000000"),
            ("1.5s", "999999.000000000"),
            ("-1s", "1000001.500000000"),
            ("1970-01-02T00:00:00Z", "86400.000000000"),
            ("1970-01-02T01:00:00+01:00", "86400.000000000"),
            ("1970-01-01T00:01Z", "60.000000000"),
            ("1970-01-01T01Z", "3600.000000000"),
            ("1970-01-01T00:00:00.25Z", "0.250000000"),
            ("1234", "1234"),
            ("1234.5", "1234.5"),
        ] {
            assert_eq!(parse(text, now).unwrap(), expected, "{text}");
        }
        for wrong in ["", "yesterday", "10", "1d", "1.", "5x", "2026-13-01"] {
            assert_eq!(parse(wrong, now).is_ok(), wrong == "10", "{wrong}");
        }
    }
}
