//! The flags of an instruction: `--name=value` before its words.

use super::nearest::hint;

/// Flags that were given, each taken out where it is read; what is left at the end is unknown.
pub(super) struct Flags {
    given: Vec<(String, Option<String>)>,
    known: &'static [&'static str],
}

/// Takes the flags off a text; returns them and where the rest begins.
pub(super) fn take(
    text: &str,
    escape: char,
    known: &'static [&'static str],
) -> Result<(Flags, usize), String> {
    let mut given = Vec::new();
    let mut rest = text;
    loop {
        let start = rest.trim_start();
        if !start.starts_with("--") {
            rest = start;
            break;
        }
        let (word, after) = flag_word(start, escape);
        rest = after;
        if word == "--" {
            rest = after.trim_start();
            break;
        }
        let (name, value) = match word[2..].split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word[2..].to_owned(), None),
        };
        if !known.contains(&name.as_str()) {
            return Err(format!("unknown flag: --{name}{}", hint(&name, known.iter().copied())));
        }
        given.push((name, value));
    }
    Ok((Flags { given, known }, text.len() - rest.len()))
}

/// A word without its quotes, and what is behind it.
fn flag_word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match quote {
            None if letter.is_whitespace() => return (word, &text[at..]),
            None if matches!(letter, '"' | '\'') => quote = Some(letter),
            Some(open) if open == letter => quote = None,
            _ if letter == escape => word.extend(letters.next().map(|(_, next)| next)),
            _ => word.push(letter),
        }
    }
    (word, "")
}

impl Flags {
    /// A flag that may be given once, with a value.
    pub(super) fn one(&mut self, name: &str) -> Result<Option<String>, String> {
        let mut all = self.all(name)?;
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(format!("duplicate flag specified: {name}")),
        }
    }

    /// A flag that may be given more often.
    pub(super) fn all(&mut self, name: &str) -> Result<Vec<String>, String> {
        debug_assert!(self.known.contains(&name));
        let (found, rest) = std::mem::take(&mut self.given).into_iter().partition(|(given, _)| given == name);
        self.given = rest;
        let found: Vec<(String, Option<String>)> = found;
        found
            .into_iter()
            .map(|(name, value)| value.ok_or_else(|| format!("missing a value on flag: {name}")))
            .collect()
    }

    /// A flag that is there or not, or says so.
    pub(super) fn switch(&mut self, name: &str) -> Result<Option<bool>, String> {
        let (found, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.given).into_iter().partition(|(given, _)| given == name);
        self.given = rest;
        match found.as_slice() {
            [] => Ok(None),
            [(_, None)] => Ok(Some(true)),
            [(_, Some(value))] => match value.to_ascii_lowercase().as_str() {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(format!("expecting boolean value for flag {name}, not: {value}")),
            },
            _ => Err(format!("duplicate flag specified: {name}")),
        }
    }
}
