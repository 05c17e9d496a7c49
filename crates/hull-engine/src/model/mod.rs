//! The shapes of the Docker Engine API that the engine keeps and shows: the same words inside and outside.
//!
//! Source: the Engine API's definition, version 1.56. A Go `nil` slice or map is `null` on the wire, so
//! fields that clients see as `null` are options here.

mod container;
mod decode;
mod json;
mod mistake;
mod network;

pub use container::*;
pub use decode::{Folding, decode, embedded};
pub use mistake::Mistake;
pub use network::*;

use std::sync::Arc;

use json::Node;

/// The members of a body that is an object, not read yet.
#[derive(Debug, Default)]
pub struct Members(Arc<Vec<(String, Node)>>);

impl Members {
    /// Their names, as they are written.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

/// Reads a request's body the way Go does: names in any case, and a `null` is the field's zero value.
///
/// # Errors
/// The body is no JSON, or a field is of another type; the sentence names it.
pub fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> crate::Result<T> {
    match parse_node(body)? {
        Node::Null => from_object(Members::default()),
        node => decode::from_node(&node).map_err(invalid),
    }
}

/// Reads a request's body as an object; none, where the body is `null` itself.
///
/// # Errors
/// The body is no JSON, something follows behind it, or it is no object, as a container's configuration is one.
pub fn parse_object(body: &[u8]) -> crate::Result<Option<Members>> {
    match parse_node(body)? {
        Node::Null => Ok(None),
        Node::Object(members) => Ok(Some(Members(members))),
        other => Err(invalid(Mistake::mismatch(&other, "container.CreateRequest"))),
    }
}

fn parse_node(body: &[u8]) -> crate::Result<Node> {
    let (node, length) = json::parse(body).map_err(|why| {
        invalid(Mistake::syntax(why.unwrap_or_else(|| "got EOF while reading request body".to_owned())))
    })?;
    // A closing bracket is no content: so Go's decoder has it.
    match body[length..].iter().find(|byte| !byte.is_ascii_whitespace()) {
        None | Some(b']' | b'}') => Ok(node),
        Some(_) => Err(crate::Error::invalid("unexpected content after JSON")),
    }
}

/// The object of a request's body as what it stands for.
///
/// # Errors
/// A field is of another type.
pub fn from_object<T: serde::de::DeserializeOwned>(members: Members) -> crate::Result<T> {
    decode::from_node(&Node::Object(members.0)).map_err(invalid)
}

fn invalid(mistake: Mistake) -> crate::Error {
    crate::Error::invalid(format!("invalid JSON: {mistake}"))
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
        assert!(parse_object(b"null\n").unwrap().is_none());
        let members = parse_object(b" {\"a\":null, \"b\": 1} \n").unwrap().unwrap();
        assert_eq!(members.names().collect::<Vec<_>>(), ["a", "b"]);
    }
}
