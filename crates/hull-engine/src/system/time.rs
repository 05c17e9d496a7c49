//! Times as clients write them.

use jiff::Timestamp;
use jiff::civil::DateTime;

use crate::{Error, Result};

/// The nanoseconds since 1970 of an RFC 3339 time; 0 where it is none.
pub fn parse_rfc3339(text: &str) -> i64 {
    text.parse::<Timestamp>()
        .ok()
        .and_then(|time| i64::try_from(time.as_nanosecond()).ok())
        .unwrap_or_default()
}

/// A time as Docker's clients write it, in nanoseconds since 1970: seconds since 1970 with or without a fraction, an
/// RFC 3339 time or the beginning of one (UTC then), or a Go duration before `now`: `10m`, `1h30m`.
///
/// # Errors
/// It is none of these, or too far away.
pub fn moment_ns(text: &str, now_ns: i64) -> Result<i64> {
    let ago = |duration: i64| now_ns.checked_sub(duration);
    seconds(text)
        .or_else(|| duration(text).and_then(ago))
        .or_else(|| written(text))
        .ok_or_else(|| {
            Error::invalid(format!(
                "failed to parse value as time or duration: {text:?}: seconds since 1970, RFC 3339 or a duration as 10m is expected"
            ))
        })
}

/// `1700000000` or `1700000000.123456789`, also before 1970.
fn seconds(text: &str) -> Option<i64> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty()
        || ![whole, fraction].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return None;
    }
    let nanoseconds: i64 = format!("{:0<9.9}", fraction).parse().ok()?;
    // Further away than nanoseconds reach is as far as they do.
    let whole: i64 = whole.parse().ok()?;
    let total = whole.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    Some(if negative { -total } else { total })
}

fn written(text: &str) -> Option<i64> {
    let nanoseconds = match text.parse::<Timestamp>() {
        Ok(time) => time.as_nanosecond(),
        Err(_) => text.parse::<DateTime>().ok()?.in_tz("UTC").ok()?.timestamp().as_nanosecond(),
    };
    i64::try_from(nanoseconds).ok()
}

/// A Go duration in nanoseconds: `1h2m3.5s`, `300ms`, `-1m`.
fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if rest.is_empty() {
        return None;
    }
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..letters] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    // Beyond that a float of nanoseconds is no int64 any more.
    (total < 9e18).then(|| if negative { -(total as i64) } else { total as i64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000_000_000;

    #[test]
    fn every_way_to_write_a_time() {
        let of = |text: &str| moment_ns(text, NOW).unwrap();
        assert_eq!(of("1700000000"), NOW);
        assert_eq!(of("1700000000.5"), NOW + 500_000_000);
        assert_eq!(of("1700000000.000000001"), NOW + 1);
        assert_eq!(of("1700000000.0000000019"), NOW + 1);
        assert_eq!(of("2023-11-14T22:13:20Z"), NOW);
        assert_eq!(of("2023-11-14T23:13:20.5+01:00"), NOW + 500_000_000);
        assert_eq!(of("2023-11-14T22:13:20"), NOW);
        assert_eq!(of("2023-11-14"), NOW - (22 * 3600 + 13 * 60 + 20) * 1_000_000_000);
        assert_eq!(of("10m"), NOW - 600_000_000_000);
        assert_eq!(of("1h30m0.5s"), NOW - 5_400_500_000_000);
        assert_eq!(of("-1s"), NOW + 1_000_000_000);
        assert_eq!(of("0"), 0);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "x", "10", "1.2.3", "m", "10y", "-", "99999999999999999999", "2023-13-01", "."] {
            let parsed = moment_ns(text, NOW);
            assert!(parsed.is_err() || text == "10", "{text:?} {parsed:?}");
        }
        assert_eq!(parse_rfc3339("nonsense"), 0);
    }
}
