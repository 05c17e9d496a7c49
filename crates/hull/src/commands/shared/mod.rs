//! What several commands do alike: inspecting several objects, asking before pruning, streams of progress.

pub mod inspect;
pub mod output;
pub mod process;
pub mod progress;
pub mod remove;
pub mod timestamp;
pub mod upload;

use std::cmp::Ordering;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use hull_api::reference::Reference;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::error::Error;
use crate::format;

/// An image's name as it was typed, by the grammar that the daemon takes names by.
pub fn image_name(typed: &str) -> Result<Reference, Error> {
    Reference::parse(typed).map_err(|error| Error::new(error.message))
}

/// The repository and the tag, or the digest in its place, as the query of `/images/create` has them.
pub fn to_pull(name: &Reference) -> (String, Option<&str>) {
    (name.familiar_name(), name.digest.as_deref().or(name.tag.as_deref()))
}

/// Prints the rows of a listing command; see [`format::list_text`].
pub fn print_list(
    spec: Option<&str>,
    default_table: &str,
    headers: &[(&str, &str)],
    rows: &[Value],
) -> Result<(), Error> {
    let mut text = format::list_text(spec, default_table, headers, rows).map_err(Error::new)?;
    // Names and annotations are others' words: no terminal is to obey them.
    if std::io::stdout().is_terminal() {
        text.retain(|c| !c.is_control() || matches!(c, '\n' | '\t'));
    }
    crate::out!("{text}")
}

/// `key=value` words as the API's map; a word without a value has an empty one.
pub fn pairs(words: &[String]) -> Value {
    words
        .iter()
        .map(|word| word.split_once('=').unwrap_or((word, "")))
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect::<Map<_, _>>()
        .into()
}

/// The labels of an object as Docker's lists show them: `a=b,c=d`, sorted.
pub fn labels_text(labels: &Value) -> String {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// Asks before something is removed: shows `warning`, and whether the answer was yes. Anything else, an end of the
/// input too, is a no.
pub fn confirm(warning: &str) -> Result<bool, Error> {
    crate::out!("WARNING! {warning}\nAre you sure you want to continue? [y/N] ")?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// `os[/arch[/variant]]` as the API's JSON.
pub fn platform_json(platform: &str) -> Result<String, Error> {
    let parts: Vec<&str> = platform.split('/').collect();
    if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
        return Err(Error::new(format!(
            "invalid platform {platform:?}: it is os[/arch[/variant]], as linux/arm/v7"
        )));
    }
    let names = ["os", "architecture", "variant"];
    let object: Map<String, Value> =
        names.iter().zip(parts).map(|(n, p)| ((*n).to_owned(), json!(p))).collect();
    Ok(Value::Object(object).to_string())
}

/// Refuses a flag that the daemon is too old for; it would ignore it.
pub async fn require_version(context: &Context, flag: &str, wanted: (u32, u32)) -> Result<(), Error> {
    let (major, minor) = context.client.version().await?;
    if (major, minor) >= wanted {
        return Ok(());
    }
    Err(Error::new(format!(
        "\"{flag}\" requires API version {}.{}, but the daemon's API version is {major}.{minor}",
        wanted.0, wanted.1
    )))
}

/// Orders names as people do: `a2` before `a10`.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let (Some(x), Some(y)) = (left.first(), right.first()) else { return left.len().cmp(&right.len()) };
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
            let ((n, left_rest), (m, right_rest)) =
                (left.split_at(digits(left)), right.split_at(digits(right)));
            let value = |digits: &[u8]| digits.iter().position(|d| *d != b'0').unwrap_or(digits.len());
            let (p, q) = (&n[value(n)..], &m[value(m)..]);
            let order = p.len().cmp(&q.len()).then_with(|| p.cmp(q)).then_with(|| n.len().cmp(&m.len()));
            if order != Ordering::Equal {
                return order;
            }
            (left, right) = (left_rest, right_rest);
        } else if x != y {
            return x.cmp(y);
        } else {
            (left, right) = (&left[1..], &right[1..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_natural_order() {
        let mut names = ["a10", "a2", "b", "a", "a02", "10", "9", ""];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["", "9", "10", "a", "a2", "a02", "a10", "b"]);
    }

    #[test]
    fn platforms() {
        assert_eq!(platform_json("linux").unwrap(), r#"{"os":"linux"}"#);
        assert_eq!(
            platform_json("linux/arm/v7").unwrap(),
            r#"{"os":"linux","architecture":"arm","variant":"v7"}"#
        );
        for wrong in ["", "/", "linux/", "a/b/c/d"] {
            assert!(platform_json(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pairs_and_labels() {
        let words = ["b=1=2".to_owned(), "a".to_owned()];
        assert_eq!(pairs(&words), json!({"b": "1=2", "a": ""}));
        assert_eq!(labels_text(&pairs(&words)), "a=,b=1=2");
        assert_eq!(labels_text(&Value::Null), "");
    }
}
