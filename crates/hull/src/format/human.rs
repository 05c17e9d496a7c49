//! Sizes, ages and ids for human eyes, with the words and the rounding of Docker's client.

/// Steps of 1000, as Docker shows sizes on disk and on the wire.
const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
/// Steps of 1024, as Docker shows memory.
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// `bytes` in steps of 1000 with three significant digits: `1.23MB`.
pub(crate) fn size(bytes: f64) -> String {
    size_in_digits(bytes, 3)
}

/// `bytes` in steps of 1000 with `digits` significant digits: `system df` shows four.
pub(crate) fn size_in_digits(bytes: f64, digits: usize) -> String {
    scaled(bytes, digits, 1000.0, DECIMAL)
}

/// `bytes` in steps of 1024 with four significant digits: `23.54GiB`.
pub(crate) fn size_binary(bytes: f64) -> String {
    scaled(bytes, 4, 1024.0, BINARY)
}

fn scaled(bytes: f64, digits: usize, base: f64, units: [&str; 9]) -> String {
    let mut amount = bytes;
    let mut step = 0;
    while amount >= base && step < units.len() - 1 {
        amount /= base;
        step += 1;
    }
    format!("{}{}", general(amount, digits), units[step])
}

/// C's and Go's `%.<digits>g`: significant digits without trailing zeros, with an exponent where that is shorter.
pub(crate) fn general(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".to_owned() } else { go_infinite(value) };
    }
    let digits = digits.max(1);
    // Rounding to the digits may carry into the next power of ten, so the exponent is read after rounding.
    let scientific = format!("{:.*e}", digits - 1, value);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_trailing_zeros(mantissa), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    without_trailing_zeros(&format!("{value:.decimals$}")).to_owned()
}

fn without_trailing_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// How Go writes what is no number of digits.
pub(crate) fn go_infinite(value: f64) -> String {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "+Inf"
    } else {
        "-Inf"
    }
    .to_owned()
}

/// A span of time in words: `2 hours`, `About a minute`, `Less than a second`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds as i64;
    let minutes = whole / 60;
    let hours = (seconds / 3600.0 + 0.5) as i64;
    match () {
        () if whole < 1 => "Less than a second".to_owned(),
        () if whole == 1 => "1 second".to_owned(),
        () if whole < 60 => format!("{whole} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", (seconds / 3600.0) as i64 / 24 / 365),
    }
}

/// How long ago `then` was, in words: `2 hours ago`. Both are seconds since the epoch.
pub(crate) fn duration_ago(then: f64, now: f64) -> String {
    format!("{} ago", duration(now - then))
}

/// The twelve digits by which an object is named in lists, without the digest's algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.char_indices().nth(12).map_or(digits, |(end, _)| &digits[..end])
}

/// At most `length` characters of `text`, the last of them an ellipsis where something was cut.
pub(crate) fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(length.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Seconds since the epoch, now.
pub(crate) fn now() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

/// Seconds since the epoch of a time in RFC 3339; none for what is no time, and for Go's zero time of the year 1.
pub(crate) fn parse_time(text: &str) -> Option<f64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    let seconds = time.as_duration().as_secs_f64();
    (!text.starts_with("0001-01-01T00:00:00")).then_some(seconds)
}

/// A time as lists show it, in the local zone: `2026-11-24 02:01:45 +0000 UTC`.
pub(crate) fn local_time(seconds: f64) -> String {
    match jiff::Timestamp::from_second(seconds.floor() as i64) {
        Ok(time) => {
            time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
        }
        Err(_) => String::new(),
    }
}

/// A time of the API as Go prints one: `2026-11-24 02:01:45.85 +0000 UTC`. What is no time in UTC stays as it is.
pub(crate) fn go_time(text: &str) -> String {
    match text.strip_suffix('Z').and_then(|time| time.split_once('T')) {
        Some((day, clock)) => format!("{day} {clock} +0000 UTC"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (0.0, "0B"),
            (1.0, "1B"),
            (999.0, "999B"),
            (1000.0, "1kB"),
            (1234.0, "1.23kB"),
            (1_230_000.0, "1.23MB"),
            (1_235_000.0, "1.24MB"),
            (4_261_550.0, "4.26MB"),
            (72_800_000.0, "72.8MB"),
            (126_000_000.0, "126MB"),
            (999_999.0, "1e+03kB"),
            (10_000_000_000.0, "10GB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
        assert_eq!(size_in_digits(1_234_567.0, 4), "1.235MB");
    }

    #[test]
    fn binary_sizes() {
        for (bytes, expected) in [
            (0.0, "0B"),
            (1024.0, "1KiB"),
            (1_572_864.0, "1.5MiB"),
            (25_275_876_147.0, "23.54GiB"),
            (1047.0 * 1024.0, "1.022MiB"),
        ] {
            assert_eq!(size_binary(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn general_notation() {
        for (value, digits, expected) in [
            (0.0, 3, "0"),
            (1.5, 3, "1.5"),
            (100.0, 3, "100"),
            (1000.0, 3, "1e+03"),
            (0.0001, 3, "0.0001"),
            (0.00001, 3, "1e-05"),
            (-2.5, 4, "-2.5"),
            (f64::INFINITY, 3, "+Inf"),
        ] {
            assert_eq!(general(value, digits), expected, "{value}");
        }
    }

    #[test]
    fn durations() {
        const HOUR: f64 = 3600.0;
        for (seconds, expected) in [
            (-5.0, "Less than a second"),
            (0.9, "Less than a second"),
            (1.0, "1 second"),
            (59.9, "59 seconds"),
            (60.0, "About a minute"),
            (119.0, "About a minute"),
            (120.0, "2 minutes"),
            (59.0 * 60.0, "59 minutes"),
            (HOUR, "About an hour"),
            (1.4 * HOUR, "About an hour"),
            (1.5 * HOUR, "2 hours"),
            (47.0 * HOUR, "47 hours"),
            (48.0 * HOUR, "2 days"),
            (13.0 * 24.0 * HOUR, "13 days"),
            (14.0 * 24.0 * HOUR, "2 weeks"),
            (59.0 * 24.0 * HOUR, "8 weeks"),
            (60.0 * 24.0 * HOUR, "2 months"),
            (729.0 * 24.0 * HOUR, "24 months"),
            (730.0 * 24.0 * HOUR, "2 years"),
        ] {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
        assert_eq!(duration_ago(100.0, 220.0), "2 minutes ago");
    }

    #[test]
    fn ids_and_cut_texts() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123"), "0123");
        assert_eq!(ellipsis("abcdef", 6), "abcdef");
        assert_eq!(ellipsis("abcdefg", 6), "abcde…");
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("1970-01-01T00:01:00.5Z"), Some(60.5));
        assert_eq!(parse_time("0001-01-01T00:00:00Z"), None);
        assert_eq!(parse_time("yesterday"), None);
        assert_eq!(go_time("2026-11-24T02:01:45.85Z"), "2026-11-24 02:01:45.85 +0000 UTC");
        assert_eq!(go_time("Z"), "Z");
    }
}
