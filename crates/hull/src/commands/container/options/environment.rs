//! `--env`, `--env-file`, `--label`, `--label-file`: pairs from flags and from files.

use serde_json::{Map, Value};

use crate::commands::shared::upload;

/// The variables of the files, then those of the flags. A name alone takes its value from this process.
pub fn variables(files: &[String], flags: &[String]) -> Result<Vec<String>, String> {
    let mut variables = Vec::new();
    for file in files {
        for line in lines(file)? {
            variables.extend(variable(&line, file)?);
        }
    }
    for flag in flags {
        if flag.is_empty() || flag.starts_with('=') {
            return Err(format!("invalid environment variable: {flag}"));
        }
        variables.extend(resolved(flag));
    }
    Ok(variables)
}

/// The labels of the files, then those of the flags; a name alone has an empty value.
pub fn labels(files: &[String], flags: &[String]) -> Result<Map<String, Value>, String> {
    let mut labels = Map::new();
    let mut add = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        labels.insert(name.to_owned(), Value::from(value));
    };
    for file in files {
        for line in lines(file)? {
            checked_name(&line, file)?;
            add(&line);
        }
    }
    flags.iter().for_each(|flag| add(flag));
    Ok(labels)
}

fn resolved(text: &str) -> Option<String> {
    if text.contains('=') {
        return Some(text.to_owned());
    }
    std::env::var(text).ok().map(|value| format!("{text}={value}"))
}

fn variable(line: &str, file: &str) -> Result<Option<String>, String> {
    checked_name(line, file)?;
    Ok(resolved(line))
}

fn checked_name<'a>(line: &'a str, file: &str) -> Result<&'a str, String> {
    let name = line.split('=').next().unwrap_or("");
    if name.is_empty() {
        return Err(format!("invalid env file ({file}): no variable name on line '{line}'"));
    }
    if name.contains(char::is_whitespace) {
        return Err(format!("invalid env file ({file}): variable '{name}' contains whitespaces"));
    }
    Ok(name)
}

/// A file's lines without comments and empty ones.
fn lines(file: &str) -> Result<Vec<String>, String> {
    let content = std::fs::read(file).map_err(|e| format!("open {file}: {}", upload::plain(&e)))?;
    let content =
        String::from_utf8(content).map_err(|_| format!("invalid env file ({file}): it is not UTF-8"))?;
    let content = content.strip_prefix('\u{feff}').unwrap_or(&content);
    Ok(content
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    #[test]
    fn file_then_flags() {
        let file = file("\u{feff}# comment\n\n  A=1\nPATH\nNOT_SET_ANYWHERE\nB=x y=z \n");
        let names = [file.path().to_str().unwrap().to_owned()];
        let path = std::env::var("PATH").unwrap();
        let variables = variables(&names, &["A=2".to_owned(), "NOT_SET_ANYWHERE".to_owned()]).unwrap();
        assert_eq!(
            variables,
            ["A=1".to_owned(), format!("PATH={path}"), "B=x y=z ".to_owned(), "A=2".to_owned()]
        );
    }

    #[test]
    fn refusals() {
        for content in ["=x\n", "a b=c\n"] {
            let file = file(content);
            assert!(variables(&[file.path().to_str().unwrap().to_owned()], &[]).is_err(), "{content}");
        }
        assert!(variables(&["/nowhere/x".to_owned()], &[]).is_err());
        assert!(variables(&[], &["=x".to_owned()]).is_err());
    }

    #[test]
    fn label_pairs() {
        let labels = labels(&[], &["a".to_owned(), "b=c=d".to_owned()]).unwrap();
        assert_eq!(Value::Object(labels).to_string(), r#"{"a":"","b":"c=d"}"#);
    }
}
