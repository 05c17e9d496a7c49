//! Sizes as people write them for limits.

/// `10g`, `1.5GiB`, `512k`, `100`: in powers of 1024 whatever the letters are, as Docker reads them.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let power = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 0,
        "k" | "ki" => 1,
        "m" | "mi" => 2,
        "g" | "gi" => 3,
        "t" | "ti" => 4,
        "p" | "pi" => 5,
        _ => return None,
    };
    let digits = digits.strip_suffix(' ').unwrap_or(digits);
    if !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let bytes = digits.parse::<f64>().ok()? * 1024f64.powi(power);
    (0.0..9e18).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("1k", 1024),
            ("1KB", 1024),
            ("1.5GiB", 3 << 29),
            ("2 m", 2 << 20),
            ("1t", 1 << 40),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in ["", "g", "-1", "1x", "1 2", "inf", "1e9", "99999999p", "1kk"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
