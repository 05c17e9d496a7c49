//! The `filters` of list, prune and events: names and what each may be.

use std::collections::BTreeMap;

use serde::Deserialize;

pub use crate::system::moment_ns;
use crate::{Error, Result};

/// A request's filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl From<BTreeMap<String, Vec<String>>> for Filters {
    fn from(map: BTreeMap<String, Vec<String>>) -> Filters {
        Filters(map)
    }
}

/// Filters as they come in a query: name to values, of which those count that are on. Its name and that of what is in it
/// are known to [`crate::model::Mistake`], which tells of them in Go's words.
#[derive(Debug, Deserialize)]
pub struct FilterSets(BTreeMap<String, FilterSet>);

#[derive(Debug, Deserialize)]
struct FilterSet(BTreeMap<String, bool>);

impl FilterSets {
    /// The values that are on.
    pub fn into_lists(self) -> BTreeMap<String, Vec<String>> {
        let on = |set: FilterSet| set.0.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect();
        self.0.into_iter().map(|(name, set)| (name, on(set))).collect()
    }
}

impl Filters {
    /// Refuses what is not one of these.
    ///
    /// # Errors
    /// Names the filter that is not known.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Error::invalid(format!("invalid filter '{name}'"))),
            None => Ok(()),
        }
    }

    /// The values of a filter; none: it was not given.
    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// A filter that is on or off.
    ///
    /// # Errors
    /// It is neither, or both.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>> {
        let mut values = self.values(name).iter().map(|value| match value.as_str() {
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
            _ => None,
        });
        let invalid = || Error::invalid(format!("invalid filter '{name}=[{}]'", self.values(name).join(" ")));
        let Some(first) = values.next() else { return Ok(None) };
        let first = first.ok_or_else(invalid)?;
        if values.all(|value| value == Some(first)) { Ok(Some(first)) } else { Err(invalid()) }
    }

    /// Whether the filter was not given, or one of its values is this text.
    pub fn any_exact(&self, name: &str, text: &str) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(|value| value == text)
    }

    /// Whether the filter was not given, or one of its values is found in this text; `^` and `$` hold its ends.
    pub fn any_match(&self, name: &str, text: &str) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(|value| found(value, text))
    }

    /// Whether the labels are as `label` and `label!` ask: every `label` is there (with that value, where one is
    /// named), no `label!` is.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |asked: &String| match asked.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|is| is == value),
            None => labels.contains_key(asked),
        };
        self.values("label").iter().all(has) && !self.values("label!").iter().any(has)
    }

    /// The time of the filter `until`, in nanoseconds since 1970: absolute, or as long ago as that.
    ///
    /// # Errors
    /// It is no time, or there are several.
    pub fn until(&self) -> Result<Option<i64>> {
        match self.values("until") {
            [] => Ok(None),
            [one] => moment_ns(one, crate::container::now_ns()).map(Some),
            _ => Err(Error::invalid("more than one until filter specified")),
        }
    }
}

/// Whether `pattern` is in `text`; `^` and `$` hold the ends.
fn found(pattern: &str, text: &str) -> bool {
    let start = pattern.strip_prefix('^');
    let rest = start.unwrap_or(pattern);
    let end = rest.strip_suffix('$');
    let middle = end.unwrap_or(rest);
    match (start.is_some(), end.is_some()) {
        (true, true) => text == middle,
        (true, false) => text.starts_with(middle),
        (false, true) => text.ends_with(middle),
        (false, false) => text.contains(middle),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(list: &[(&str, &[&str])]) -> Filters {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        Filters(list.iter().map(|(name, all)| ((*name).to_owned(), values(all))).collect())
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let error = filters(&[("nonsense", &["x"])]).only(&["label"]).unwrap_err();
        assert_eq!(error.message, "invalid filter 'nonsense'");
        assert!(filters(&[("label", &["x"])]).only(&["label"]).is_ok());
    }

    #[test]
    fn labels_are_all_there() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        let passes = |name: &str, values: &[&str]| filters(&[(name, values)]).labels(&labels);
        assert!(passes("label", &["a"]) && passes("label", &["a=1", "b"]) && passes("label", &["b="]));
        assert!(!passes("label", &["a=2"]) && !passes("label", &["a", "c"]));
        assert!(passes("label!", &["c"]) && !passes("label!", &["a"]) && passes("label!", &["a=2"]));
    }

    #[test]
    fn names_are_found_within_names() {
        let passes = |value: &str| filters(&[("name", &[value])]).any_match("name", "my-net");
        for value in ["net", "^my", "net$", "^my-net$", "my-net"] {
            assert!(passes(value), "{value}");
        }
        for value in ["^net", "my$", "^my$", "x"] {
            assert!(!passes(value), "{value}");
        }
        assert!(Filters::default().any_match("name", "x"));
    }

    #[test]
    fn booleans() {
        let of = |values: &[&str]| filters(&[("dangling", values)]).boolean("dangling");
        assert_eq!(of(&["true"]).unwrap(), Some(true));
        assert_eq!(of(&["0"]).unwrap(), Some(false));
        assert_eq!(Filters::default().boolean("dangling").unwrap(), None);
        assert!(of(&["yes"]).is_err() && of(&["1", "0"]).is_err());
    }
}
