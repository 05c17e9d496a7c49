//! The words of instructions: pairs, lists, JSON.

use super::instruction::{Command, Pairs};
use super::lines::raw_words;

/// `name=value …`, or the old form `name the rest`.
pub(super) fn pairs(keyword: &str, text: &str, escape: char) -> Result<Pairs, String> {
    let words = raw_words(text, escape);
    let Some(first) = words.first() else { return Err(format!("{keyword} requires at least one argument")) };
    if !first.contains('=') {
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if rest.trim().is_empty() {
            return Err(format!("{keyword} must have two arguments"));
        }
        return Ok(Pairs { pairs: vec![(name.to_owned(), rest.trim().to_owned())], legacy: true });
    }
    let mut pairs = Vec::new();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"));
        };
        if name.is_empty() {
            return Err(format!("{keyword} names can not be blank"));
        }
        pairs.push((name.to_owned(), value.to_owned()));
    }
    Ok(Pairs { pairs, legacy: false })
}

/// Names with or without a value.
pub(super) fn arguments(text: &str, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    let words = raw_words(text, escape);
    if words.is_empty() {
        return Err("ARG requires at least one argument".to_owned());
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err("ARG names can not be blank".to_owned()),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((word, None)),
        })
        .collect()
}

/// A list of words in JSON; none where it is none.
///
/// # Errors
/// It is a list, but not one of words.
pub(super) fn json(text: &str) -> Result<Option<Vec<String>>, String> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let words = values.into_iter().map(|value| match value {
        serde_json::Value::String(word) => Ok(word),
        _ => Err("When using JSON array syntax, arrays must be comprised of strings only.".to_owned()),
    });
    words.collect::<Result<_, _>>().map(Some)
}

/// A command in either form.
pub(super) fn command(text: &str) -> Result<Command, String> {
    Ok(json(text)?.map_or_else(|| Command::Shell(text.to_owned()), Command::Exec))
}

/// Words in JSON, or divided by white space.
pub(super) fn list(text: &str) -> Result<Vec<String>, String> {
    Ok(json(text)?.unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect()))
}
