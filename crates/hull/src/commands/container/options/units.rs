//! Sizes, durations and numbers as Docker's flags take them.

use std::num::{IntErrorKind, ParseIntError};

/// A size with a binary suffix: `512`, `64m`, `1.5GiB`. Bytes.
pub fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid size: '{text}'");
    let split = text.rfind(|c: char| c.is_ascii_digit() || c == '.').map(|at| at + 1).ok_or_else(wrong)?;
    let (number, suffix) = text.split_at(split);
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix).to_ascii_lowercase();
    let power = match suffix.as_str() {
        "" | "b" => 0,
        _ => {
            let rest = &suffix[1..];
            if !matches!(rest, "" | "b" | "ib") {
                return Err(wrong());
            }
            "kmgtp".find(&suffix[..1]).map(|at| at + 1).ok_or_else(wrong)?
        }
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let size = number * 1024f64.powi(i32::try_from(power).unwrap_or(0));
    if !(0.0..9.2e18).contains(&size) {
        return Err(wrong());
    }
    Ok(size as i64)
}

/// A size, or -1 for no limit (`--memory-swap`).
pub fn bytes_or_unlimited(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// Go's duration: `10s`, `1m30s`, `1.5h`, `300ms`, `0`. Nanoseconds.
pub fn duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid duration {text:?} (such as 10s, 1m30s, 300ms are meant)");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(wrong()),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    if total > 9.2e18 {
        return Err(wrong());
    }
    let total = total.round() as i64;
    Ok(if negative { -total } else { total })
}

/// [`duration`], or a number of seconds: `2`, `0.5`. Nanoseconds.
pub fn seconds_or_duration(text: &str) -> Result<i64, String> {
    // Not what only ends in one: `1h30` means minutes to some, and nothing to Go.
    let is_number = text.parse::<f64>().is_ok_and(f64::is_finite) && !text.contains(['e', 'E']);
    duration(&if is_number { format!("{text}s") } else { text.to_owned() })
}

/// A decimal number of processors, in billionths of one.
pub fn cpus(text: &str) -> Result<i64, String> {
    let wrong = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(wrong());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let digits = |text: &str| -> Result<i64, String> {
        if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| wrong()) }
    };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let scale = 10i64.pow(9 - fraction.len() as u32);
    let nano = digits(whole)?.checked_mul(1_000_000_000).ok_or_else(wrong)?;
    Ok(if whole.starts_with('-') {
        nano - digits(fraction)? * scale
    } else {
        nano + digits(fraction)? * scale
    })
}

/// A whole number, worded as Go does.
pub fn int(text: &str) -> Result<i64, String> {
    text.parse().map_err(|error| not_parsed("ParseInt", text, &error, "a whole number"))
}

/// The weight of block devices, worded as Go does.
pub fn weight(text: &str) -> Result<u16, String> {
    let wanted = "a whole number from 10 to 1000, or 0 for none,";
    text.parse().map_err(|error| not_parsed("ParseUint", text, &error, wanted))
}

/// The words of Go's own parser, and what is wanted.
fn not_parsed(parser: &str, text: &str, error: &ParseIntError, wanted: &str) -> String {
    let why = match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{parser}: parsing {text:?}: {why}: {wanted} is expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", 0),
            ("512", 512),
            ("64m", 64 << 20),
            ("1.5g", 3 << 29),
            ("2KiB", 2048),
            ("3 mb", 3 << 20),
            ("1b", 1),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for wrong in ["", "x", "1x", "-5m", "1.2.3k", "5mib5", "999999p", "mm"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
    }

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("0", 0),
            ("10s", 10_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("300ms", 300_000_000),
            ("-1s", -1_000_000_000),
            ("1us", 1000),
        ] {
            assert_eq!(duration(text), Ok(nanos), "{text}");
        }
        for wrong in ["", "5", "s", "1x", "1s5", "--1s", "99999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_have_no_need_of_a_unit() {
        for (text, nanos) in [
            ("2", 2_000_000_000),
            ("0.5", 500_000_000),
            ("0", 0),
            ("1m", 60_000_000_000),
            ("-1", -1_000_000_000),
        ] {
            assert_eq!(seconds_or_duration(text), Ok(nanos), "{text}");
        }
        for wrong in ["", "1s5x", "x", "1..5", "1 ", "1h30", "1e3", "inf", "nan"] {
            assert!(seconds_or_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn processors() {
        assert_eq!(cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(cpus("2"), Ok(2_000_000_000));
        assert_eq!(cpus(".5"), Ok(500_000_000));
        assert_eq!(cpus("0.000000001"), Ok(1));
        assert!(cpus("0.0000000001").is_err());
        assert!(cpus("x").is_err());
        assert!(cpus("").is_err());
        assert!(cpus("99999999999999999").is_err());
    }
}
