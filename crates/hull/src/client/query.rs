//! Paths with their queries, percent-encoded.

use std::fmt::Write as _;

/// A path and its query under construction.
#[derive(Clone, Debug)]
pub struct Query(String, bool);

impl Query {
    /// Starts with a path that needs no encoding.
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into(), false)
    }

    /// Adds `name=value`.
    pub fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.push(if self.1 { '&' } else { '?' });
        self.1 = true;
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&segment(value.as_ref()));
        self
    }

    /// Adds `name=1` where it is so.
    pub fn with_flag(self, name: &str, set: bool) -> Self {
        if set { self.with(name, "1") } else { self }
    }

    /// Adds `name=value` where there is a value.
    pub fn with_some(self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds the filters (`key=value` each, several of one key allowed) as the API's JSON.
    pub fn with_filters(self, filters: &[String]) -> Result<Self, crate::error::Error> {
        if filters.is_empty() {
            return Ok(self);
        }
        let mut map: serde_json::Map<String, serde_json::Value> = serde_json::Map::new();
        for filter in filters {
            let (key, value) = filter.split_once('=').ok_or_else(|| {
                crate::error::Error::flag(format!(
                    "invalid argument {filter:?} for \"-f, --filter\" flag: bad format of filter (expected name=value)"
                ))
            })?;
            let values = map.entry(key.trim().to_lowercase()).or_insert_with(|| serde_json::json!({}));
            values[value.trim()] = serde_json::Value::Bool(true);
        }
        Ok(self.with("filters", serde_json::Value::Object(map).to_string()))
    }
}

impl std::ops::Deref for Query {
    type Target = str;

    /// What goes on the request line.
    fn deref(&self) -> &str {
        &self.0
    }
}

/// Encodes one segment of a path, or one value of a query.
pub fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_and_flags_left_out() {
        let query = Query::new("/x").with("a", "b c&d").with_flag("f", false).with_flag("g", true);
        assert_eq!(&*query, "/x?a=b%20c%26d&g=1");
    }

    #[test]
    fn filters_gather_their_values() {
        let filters = ["label=a=b".to_owned(), "label=c".to_owned()];
        let query = Query::new("/x").with_filters(&filters).unwrap();
        assert_eq!(&*query, format!("/x?filters={}", segment(r#"{"label":{"a=b":true,"c":true}}"#)));
        assert!(Query::new("/x").with_filters(&["nothing".to_owned()]).is_err());
    }
}
