//! `inspect` of whatever kind: several objects, as one JSON list or each by a template.

use std::future::Future;

use serde::Serialize as _;
use serde_json::Value;

use crate::error::{Error, ExitStatus};
use crate::format::Template;
use crate::{errln, outln};

/// Docker's exit status for a template that cannot be parsed.
const WRONG_TEMPLATE: u8 = 64;

/// Fetches each of `names` and prints what was found; then says which were not. The status tells whether all were.
///
/// # Errors
/// A template that is wrong or asks for what is not there; a closed output.
pub async fn each<F>(
    names: &[String],
    spec: Option<&str>,
    fetch: impl Fn(String) -> F,
) -> Result<ExitStatus, Error>
where
    F: Future<Output = Result<Value, Error>>,
{
    let spec = spec.filter(|s| !s.is_empty());
    let compact = spec == Some("json");
    let template = spec.filter(|_| !compact).map(Template::parse).transpose();
    let template = template.map_err(|why| Error::new(why).with_status(WRONG_TEMPLATE))?;
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match fetch(name.clone()).await {
            Ok(object) => found.push(object),
            Err(error) if error.is_connection() => return Err(error),
            Err(error) => failures.push(error),
        }
    }
    match template {
        None if compact => outln!("{}", Value::Array(found))?,
        None => outln!("{}", pretty(&Value::Array(found))?)?,
        Some(template) => {
            for object in &found {
                outln!("{}", template.render(object).map_err(Error::new)?)?;
            }
            // A script that reads one line for each call gets one.
            if found.is_empty() {
                outln!()?;
            }
        }
    }
    for failure in &failures {
        errln!("{failure}");
    }
    Ok(if failures.is_empty() { ExitStatus::SUCCESS } else { ExitStatus::FAILURE })
}

/// JSON with four blanks for each level, as Docker prints it.
///
/// # Errors
/// None that a value of JSON can cause.
pub fn pretty(value: &Value) -> Result<String, Error> {
    let mut text = Vec::new();
    let style = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, style))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn json_as_docker_indents_it() {
        let value = json!([{"b": {}, "a": [1, "x"], "c": []}]);
        assert_eq!(
            super::pretty(&value).unwrap(),
            "[\n    {\n        \"b\": {},\n        \"a\": [\n            1,\n            \"x\"\n        ],\n        \"c\": []\n    }\n]"
        );
    }
}
