//! One line of comma-separated fields, quoted as Go's encoding/csv takes them.

/// The fields of one line.
pub fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next() {
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err(format!("a quote in {line:?} is not closed")),
                }
            }
            if !matches!(chars.peek(), None | Some(',')) {
                return Err(format!("something follows a closing quote in {line:?}"));
            }
        } else {
            while let Some(&c) = chars.peek() {
                if c == ',' {
                    break;
                }
                if c == '"' {
                    return Err(format!("a bare quote in {line:?}: quote the whole field"));
                }
                field.push(c);
                chars.next();
            }
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn quotes() {
        assert_eq!(fields("a,b=c").unwrap(), ["a", "b=c"]);
        assert_eq!(fields(r#"a,"b,c",d"#).unwrap(), ["a", "b,c", "d"]);
        assert_eq!(fields(r#""a""b""#).unwrap(), [r#"a"b"#]);
        assert_eq!(fields("").unwrap(), [""]);
        for wrong in [r#""a"#, r#"a"b"#, r#""a"b"#] {
            assert!(fields(wrong).is_err(), "{wrong}");
        }
    }
}
