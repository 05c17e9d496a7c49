//! The shapes of the Docker Engine API that the engine keeps and shows: the same words inside and outside.
//!
//! Source: the Engine API's definition, version 1.56. A Go `nil` slice or map is `null` on the wire, so
//! fields that clients see as `null` are options here.

mod container;
mod decode;
mod network;

pub use container::*;
pub use decode::{decode, embedded};
pub use network::*;

use serde_json::{Map, Value};

/// Reads a request's body the way Go does: names in any case, and a `null` is the field's zero value.
///
/// # Errors
/// The body is no JSON, or a field is of another type; the sentence names it.
pub fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> crate::Result<T> {
    from_object(parse_object(body)?.unwrap_or_default())
}

/// Reads a request's body as an object; none, where the body is `null` itself.
///
/// # Errors
/// The body is no JSON, something follows behind it, or it is another kind of value.
pub fn parse_object(body: &[u8]) -> crate::Result<Option<Map<String, Value>>> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let value = match values.next() {
        None => return Err(crate::Error::invalid("invalid JSON: got EOF while reading request body")),
        Some(value) => value.map_err(|error| crate::Error::invalid(syntax_error(&error, body)))?,
    };
    if body[values.byte_offset()..].iter().any(|byte| !byte.is_ascii_whitespace()) {
        return Err(crate::Error::invalid("unexpected content after JSON"));
    }
    match value {
        Value::Null => Ok(None),
        Value::Object(members) => Ok(Some(members)),
        other => Err(crate::Error::invalid(format!(
            "invalid JSON: json: cannot unmarshal {} into Go value of an object",
            kind_of(&other)
        ))),
    }
}

/// The object of a request's body as what it stands for.
///
/// # Errors
/// A field is of another type.
pub fn from_object<T: serde::de::DeserializeOwned>(members: Map<String, Value>) -> crate::Result<T> {
    decode::from_value(&Value::Object(members))
        .map_err(|error| crate::Error::invalid(format!("invalid JSON: json: cannot unmarshal: {error}")))
}

/// What is wrong with a text that is no JSON, in the words of Go's parser, which scripts look for.
fn syntax_error(error: &serde_json::Error, body: &[u8]) -> String {
    if error.is_eof() {
        return "invalid JSON: unexpected EOF".to_owned();
    }
    let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    match line.get(error.column().saturating_sub(1)) {
        Some(byte) if error.to_string().starts_with("expected value") => {
            format!(
                "invalid JSON: invalid character '{}' looking for beginning of value",
                byte.escape_ascii()
            )
        }
        Some(byte) => format!("invalid JSON: invalid character '{}': {error}", byte.escape_ascii()),
        None => format!("invalid JSON: {error}"),
    }
}

/// Go's word for a kind of value.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> String {
        parse_object(body.as_bytes()).unwrap_err().message
    }

    #[test]
    fn what_is_no_object_is_told_in_gos_words() {
        assert!(refused("x").contains("invalid character 'x' looking for beginning of value"));
        assert!(refused("{").contains("unexpected EOF"));
        assert!(refused("").contains("got EOF while reading request body"));
        assert!(refused("[]").contains("cannot unmarshal array"));
        assert_eq!(refused("{} {}"), "unexpected content after JSON");
        assert_eq!(parse_object(b"null\n").unwrap(), None);
        assert_eq!(
            parse_object(b" {\"a\":null} \n").unwrap(),
            Some(Map::from_iter([("a".to_owned(), Value::Null)]))
        );
    }
}
