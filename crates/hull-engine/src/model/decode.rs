//! JSON as Go decodes it into structs: a member's name is taken in any case, a `null` is the zero value, and a member that is
//! there twice is read twice into the same place: of a text or a list the last one counts, structs and maps are merged.
//!
//! Clients rely on it: `{"image": …, "hostconfig": …}` is a body that dockerd takes. Only where a struct is wanted names are
//! folded; those of a map (labels, options, ports) are the user's own.
//!
//! It costs memory: a body is held as its text, as a value, and as what it stands for. That is for the bodies of requests,
//! whose length (8 MiB) and number of values have a limit; what comes in larger pieces (listings of contexts, manifests,
//! archives) is read by serde itself.

use std::str::FromStr;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use super::json::{self, Node};
use super::mistake::{Mistake, map_name, struct_name};

/// Reads a text.
///
/// # Errors
/// It is no JSON, or not of this shape.
pub fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, Mistake> {
    let eof = || "unexpected end of JSON input".to_owned();
    let (node, length) = json::parse(text).map_err(|why| Mistake::syntax(why.unwrap_or_else(eof)))?;
    match text[length..].iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(byte) => {
            let byte = byte.escape_ascii();
            Err(Mistake::syntax(format!("invalid character '{byte}' after top-level value")))
        }
        None => from_node(&node),
    }
}

/// Reads a value.
pub(super) fn from_node<T: DeserializeOwned>(node: &Node) -> Result<T, Mistake> {
    T::deserialize(Folding::of(node))
}

/// Reads an object whose members are those of two structs, as Go's embedded ones: a mistake in either is one in a field of
/// the struct `of`. Serde's own `flatten` would ask for a map, and nobody would know the names to be folded.
///
/// # Errors
/// It is not of that shape.
pub fn embedded<'de, D, A, B>(
    deserializer: D,
    of: &'static str,
    outer: impl FnOnce(Folding<'_>) -> Result<A, Mistake>,
) -> Result<(A, B), D::Error>
where
    D: Deserializer<'de>,
    B: DeserializeOwned,
{
    let node = Node::deserialize(deserializer)?;
    let read = || {
        let outer = outer(Folding::of(&node))?;
        Ok((outer, from_node(&node).map_err(|mistake: Mistake| mistake.embedded_in(of))?))
    };
    read().map_err(Mistake::hand_on)
}

/// A value that is read as Go reads it: all that was given for one place, in its order.
pub struct Folding<'a> {
    given: Vec<&'a Node>,
}

impl<'a> Folding<'a> {
    fn of(node: &'a Node) -> Self {
        Folding { given: vec![node] }
    }

    /// What counts, where each takes the place of the one before; a `null` changes nothing.
    fn last(&self) -> &'a Node {
        self.given.iter().rev().find(|node| !node.is_null()).copied().unwrap_or(&Node::Null)
    }

    /// Whether what was given last takes away what was given before.
    fn is_taken_back(&self) -> bool {
        self.given.last().copied().is_none_or(Node::is_null)
    }

    /// That all of it is of the wanted type.
    fn check(&self, wanted: &str, fits: fn(&Node) -> bool) -> Result<(), Mistake> {
        match self.given.iter().find(|node| !node.is_null() && !fits(node)) {
            Some(node) => Err(Mistake::mismatch(node, wanted)),
            None => Ok(()),
        }
    }

    /// The number that counts, zero where there is none.
    fn number<T: FromStr + Default>(&self, wanted: &str) -> Result<T, Mistake> {
        match self.last() {
            Node::Null => Ok(T::default()),
            node @ Node::Number(digits) => digits.parse().map_err(|_| Mistake::mismatch(node, wanted)),
            // No number: without its digits.
            node => Err(Mistake::mismatch(node, wanted)),
        }
    }

    /// All that was given, as one value: an object of the members of all objects, in their order.
    fn whole(&self) -> Node {
        match self.last() {
            Node::Object(_) if self.given.len() > 1 => {
                Node::Object(self.members().cloned().collect::<Vec<_>>().into())
            }
            last => last.clone(),
        }
    }

    /// The members of all objects that were given, in their order.
    fn members(&self) -> impl Iterator<Item = &'a (String, Node)> {
        self.given.iter().flat_map(|node| match node {
            Node::Object(members) => members.as_slice(),
            _ => &[],
        })
    }

    /// The members for a struct with these fields; those without a meaning for it are left out.
    fn fields(&self, fields: &'static [&'static str]) -> Vec<(&'static str, Folding<'a>)> {
        let mut given: Vec<Vec<&Node>> = vec![Vec::new(); fields.len()];
        for (name, value) in self.members() {
            let exact = fields.iter().position(|field| field == name);
            let folded = || fields.iter().position(|field| field.eq_ignore_ascii_case(name));
            if let Some(at) = exact.or_else(folded) {
                given[at].push(value);
            }
        }
        let fields = fields.iter().copied().zip(given).map(|(field, given)| (field, Folding { given }));
        fields.filter(|(_, folding)| !folding.last().is_null()).collect()
    }
}

/// A number of that type.
macro_rules! numbers {
    ($($method:ident: $type:ty, $visit:ident, $wanted:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
            visitor.$visit(self.number::<$type>($wanted)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Folding<'_> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.last() {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Text(text) => visitor.visit_str(text),
            Node::List(elements) => visitor.visit_seq(Elements(elements.iter())),
            Node::Object(_) => visitor.visit_map(Members { rest: self.members(), value: None }),
            Node::Number(digits) => match (digits.parse(), digits.parse()) {
                (Ok(whole), _) => visitor.visit_u64(whole),
                (_, Ok(whole)) => visitor.visit_i64(whole),
                _ => visitor.visit_f64(self.number("float64")?),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.check("bool", |node| matches!(node, Node::Bool(_)))?;
        visitor.visit_bool(*self.last() == Node::Bool(true))
    }

    numbers! {
        deserialize_i8: i8, visit_i8, "int8";
        deserialize_i16: i16, visit_i16, "int16";
        deserialize_i32: i32, visit_i32, "int32";
        deserialize_i64: i64, visit_i64, "int64";
        deserialize_u8: u8, visit_u8, "uint8";
        deserialize_u16: u16, visit_u16, "uint16";
        deserialize_u32: u32, visit_u32, "uint32";
        deserialize_u64: u64, visit_u64, "uint64";
        deserialize_f32: f32, visit_f32, "float32";
        deserialize_f64: f64, visit_f64, "float64";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.check("string", |node| matches!(node, Node::Text(_)))?;
        visitor.visit_str(if let Node::Text(text) = self.last() { text } else { "" })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.check("[]string", |node| matches!(node, Node::List(_)))?;
        let elements = match self.last() {
            Node::List(elements) if !self.is_taken_back() => elements.as_slice(),
            _ => &[],
        };
        visitor.visit_seq(Elements(elements.iter()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.check(&format!("[{length}]uint"), |node| matches!(node, Node::List(_)))?;
        let Node::List(elements) = self.last() else { return self.deserialize_any(visitor) };
        // An array in Go has its length: what is missing is zero, what is too much is dropped.
        let missing = std::iter::repeat_n(&Node::Null, length.saturating_sub(elements.len()));
        visitor.visit_seq(Elements(elements.iter().take(length).chain(missing)))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.check("map[string]string", |node| matches!(node, Node::Object(_)))?;
        visitor.visit_map(Members { rest: self.members(), value: None })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.is_taken_back() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        if name == json::LENT {
            return json::lend(self.whole(), visitor, self);
        }
        if let Some(wanted) = map_name(name) {
            self.check(wanted, |node| matches!(node, Node::Object(_)))?;
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.check(struct_name(name).0, |node| matches!(node, Node::Object(_)))?;
        visitor.visit_map(Fields { of: name, rest: self.fields(fields).into_iter(), value: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        // A variant is its name alone: no body has others.
        self.check("string", |node| matches!(node, Node::Text(_)))?;
        let name = if let Node::Text(text) = self.last() { text.as_str() } else { "" };
        visitor.visit_enum(serde::de::value::StrDeserializer::new(name))
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple_struct identifier ignored_any
    }
}

/// The elements of a list.
struct Elements<I>(I);

impl<'a, 'de, I: Iterator<Item = &'a Node>> SeqAccess<'de> for Elements<I> {
    type Error = Mistake;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        self.0.next().map(|node| seed.deserialize(Folding::of(node))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint().1
    }
}

/// The members of a map: each one's value is its own.
struct Members<'a, I> {
    rest: I,
    value: Option<&'a Node>,
}

impl<'a, 'de, I: Iterator<Item = &'a (String, Node)>> MapAccess<'de> for Members<'a, I> {
    type Error = Mistake;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        let Some((name, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(serde::de::value::StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mistake> {
        seed.deserialize(Folding::of(self.value.take().unwrap_or(&Node::Null)))
    }
}

/// The fields of a struct, and all that was given for each.
struct Fields<'a> {
    of: &'static str,
    rest: std::vec::IntoIter<(&'static str, Folding<'a>)>,
    value: Option<(&'static str, Folding<'a>)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Mistake;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        self.value = self.rest.next();
        let Some((name, _)) = &self.value else { return Ok(None) };
        seed.deserialize(serde::de::value::StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mistake> {
        match self.value.take() {
            Some((field, value)) => seed.deserialize(value).map_err(|mistake| mistake.within(self.of, field)),
            None => seed.deserialize(Folding::of(&Node::Null)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Node, json};
    use crate::model::{CreateBody, Ulimit, parse};

    fn body(text: &str) -> CreateBody {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn names_are_taken_in_any_case_and_the_users_own_as_they_are() {
        let body = body(
            r#"{"image": "x", "CMD": ["a"], "labels": {"Image": "1", "image": "2"}, "hostconfig": {"memory": 5,
                "logconfig": {"type": "none", "config": {"Max-Size": "1"}}, "ulimits": [{"name": "a", "SOFT": 1, "hard": 2}],
                "blkioDeviceReadiops": [{"path": "/x", "rate": 3}]}, "networkingconfig": {"endpointsconfig": {"Net": null}}}"#,
        );
        assert_eq!((body.config.image.as_str(), body.config.cmd.unwrap().len()), ("x", 1));
        let labels = body.config.labels.unwrap();
        assert_eq!((labels["Image"].as_str(), labels["image"].as_str()), ("1", "2"));
        let host = body.host_config;
        assert_eq!((host.resources.memory, host.log_config.driver.as_str()), (5, "none"));
        assert_eq!(host.log_config.config["Max-Size"], "1");
        assert_eq!(host.resources.ulimits.unwrap(), [Ulimit { name: "a".to_owned(), hard: 2, soft: 1 }]);
        assert_eq!(host.resources.blkio_device_read_iops.unwrap().len(), 1);
        assert!(body.networking_config.endpoints_config.contains_key("Net"));
    }

    #[test]
    fn the_last_of_a_member_counts_and_a_null_changes_nothing() {
        assert_eq!(body(r#"{"Image": "a", "image": "b", "IMAGE": null}"#).config.image, "b");
        assert_eq!(body(r#"{"image": "a", "Image": "b"}"#).config.image, "b");
        let body = body(
            r#"{"Env": ["a", null], "Labels": {"a": null}, "HostConfig": null, "Volumes": {"/a": null}}"#,
        );
        assert_eq!(body.config.env.unwrap(), ["a", ""]);
        assert_eq!(body.config.labels.unwrap()["a"], "");
        assert!(body.config.volumes.unwrap().contains_key("/a"));
    }

    #[test]
    fn what_is_there_twice_is_merged_where_it_has_members() {
        let body = body(
            r#"{"HostConfig": {"Memory": 5, "CpuShares": 7, "Binds": ["/a:/a"]}, "Labels": {"a": "1", "b": "1"},
                "hostconfig": {"Memory": 6, "Binds": ["/b:/b"]}, "labels": {"b": "2"}, "Env": ["A=b"], "Env": null}"#,
        );
        let host = body.host_config;
        assert_eq!((host.resources.memory, host.resources.cpu_shares), (6, 7));
        assert_eq!(host.binds.unwrap(), ["/b:/b"]);
        let labels = body.config.labels.unwrap();
        assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("1", "2"));
        assert_eq!(body.config.env, None);
    }

    #[test]
    fn an_array_has_its_length() {
        let size = |text: &str| {
            body(&format!(r#"{{"HostConfig": {{"ConsoleSize": {text}}}}}"#)).host_config.console_size
        };
        assert_eq!(
            [size("[1, 2]"), size("[1]"), size("[1, 2, 3]"), size("[]")],
            [[1, 2], [1, 0], [1, 2], [0, 0]]
        );
        assert!(parse::<CreateBody>(br#"{"HostConfig": {"ConsoleSize": {}}}"#).is_err());
    }

    #[test]
    fn what_is_embedded_is_the_same_value_and_no_copy() {
        let (node, _) = json::parse(br#"{"a": [1.50, 2]}"#).unwrap();
        let lent: Node = super::from_node(&node).unwrap();
        let (Node::Object(lent), Node::Object(node)) = (lent, node) else { panic!("no objects") };
        assert!(Arc::ptr_eq(&lent, &node));
        let written: Node = serde_json::from_str(r#"{"a": [1.50, 2]}"#).unwrap();
        assert!(
            matches!(written, Node::Object(members) if members[0].0 == "a"),
            "another format has none to lend"
        );
    }

    #[test]
    fn another_type_is_told_in_gos_words() {
        for (body, words) in [
            (r#"{"Image": 5}"#, "number into Go struct field CreateRequest.Image of type string"),
            (r#"{"Env": "x"}"#, "string into Go struct field CreateRequest.Env of type []string"),
            (r#"{"Cmd": 5}"#, "number into Go struct field CreateRequest.Cmd of type string"),
            (
                r#"{"Volumes": ["/x"]}"#,
                "array into Go struct field CreateRequest.Volumes of type map[string]struct {}",
            ),
            (
                r#"{"StopTimeout": 1.5}"#,
                "number 1.5 into Go struct field CreateRequest.StopTimeout of type int",
            ),
            (
                r#"{"HostConfig": []}"#,
                "array into Go struct field CreateRequest.HostConfig of type container.HostConfig",
            ),
            (
                r#"{"hostconfig": {"memory": "x"}}"#,
                "string into Go struct field HostConfig.HostConfig.Memory of type int64",
            ),
            (
                r#"{"HostConfig": {"BlkioWeight": 70000}}"#,
                "number 70000 into Go struct field HostConfig.HostConfig.BlkioWeight of type uint16",
            ),
            (
                r#"{"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": 80}]}}}"#,
                "number into Go struct field PortBinding.HostConfig.PortBindings.HostPort of type string",
            ),
            (
                r#"{"HostConfig": {"PortBindings": {"80/tcp": {}}}}"#,
                "object into Go struct field HostConfig.HostConfig.PortBindings of type []nat.PortBinding",
            ),
            (
                r#"{"Healthcheck": {"Interval": "1s"}}"#,
                "string into Go struct field HealthConfig.Healthcheck.Interval of type time.Duration",
            ),
            (
                r#"{"NetworkingConfig": {"EndpointsConfig": {"a": {"IPAMConfig": {"IPv4Address": 5}}}}}"#,
                "number into Go struct field EndpointIPAMConfig.NetworkingConfig.EndpointsConfig.IPAMConfig.IPv4Address of \
                 type string",
            ),
            ("[]", "array into Go value of type container.CreateRequest"),
        ] {
            let error = parse::<CreateBody>(body.as_bytes()).unwrap_err();
            assert_eq!(error.message, format!("invalid JSON: json: cannot unmarshal {words}"), "{body}");
        }
    }

    #[test]
    fn what_is_of_another_type_is_refused() {
        for wrong in [r#"{"Image": 5}"#, r#"{"HostConfig": []}"#, r#"{"hostconfig": {"memory": "x"}}"#] {
            let error = parse::<CreateBody>(wrong.as_bytes()).unwrap_err();
            assert!(error.message.contains("cannot unmarshal"), "{error}");
        }
    }
}
