//! The shapes of the Docker Engine API that the engine keeps and shows: the same words inside and outside.
//!
//! Source: the Engine API's definition, version 1.56. A Go `nil` slice or map is `null` on the wire, so
//! fields that clients see as `null` are options here.

mod container;
mod network;

pub use container::*;
pub use network::*;

use serde_json::{Map, Value};

/// Reads a request's body the way Go does: a `null` is the field's zero value.
///
/// # Errors
/// The body is no JSON, or a field is of another type; the sentence names it.
pub fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> crate::Result<T> {
    let invalid = |error: serde_json::Error| crate::Error::invalid(format!("invalid JSON: {error}"));
    let mut value: Value = serde_json::from_slice(body).map_err(invalid)?;
    without_nulls(&mut value);
    serde_json::from_value(value).map_err(invalid)
}

/// Removes the members that are `null`. Where the member's name is the user's own (a port, a network), the
/// name itself means something, and the zero value is left in its place.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                let zero = match name.as_str() {
                    "ExposedPorts" | "Volumes" | "EndpointsConfig" => Value::Object(Map::new()),
                    "PortBindings" => Value::Array(Vec::new()),
                    _ => continue,
                };
                if let Value::Object(named) = member {
                    named
                        .values_mut()
                        .filter(|value| value.is_null())
                        .for_each(|value| *value = zero.clone());
                }
            }
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(without_nulls),
        _ => {}
    }
}
