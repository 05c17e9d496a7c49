//! JSON as Go decodes it into structs: a member's name is taken in any case, a `null` is the zero value, and of a member
//! that is there twice the last one counts.
//!
//! Clients rely on it: `{"image": …, "hostconfig": …}` is a body that dockerd takes. Only where a struct is wanted names are
//! folded; those of a map (labels, options, ports) are the user's own.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Error, Value};

/// Reads a text.
///
/// # Errors
/// It is no JSON, or not of this shape.
pub fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    T::deserialize(Folding(&serde_json::from_slice(text)?))
}

/// Reads a value.
pub(super) fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(Folding(value))
}

/// Reads an object whose members are those of two structs, as Go's embedded ones. Serde's own `flatten` would ask for
/// a map, and nobody would know the names to be folded.
///
/// # Errors
/// It is not of that shape.
pub fn embedded<'de, D, A, B>(
    deserializer: D,
    outer: impl FnOnce(Folding<'_>) -> Result<A, Error>,
) -> Result<(A, B), D::Error>
where
    D: Deserializer<'de>,
    B: DeserializeOwned,
{
    let value = Value::deserialize(deserializer)?;
    let read = || Ok((outer(Folding(&value))?, from_value(&value)?));
    read().map_err(|error: Error| D::Error::custom(error))
}

/// A value that is read as Go reads it.
pub struct Folding<'a>(&'a Value);

impl<'a> Folding<'a> {
    /// The members of an object for a struct with these fields, those without a meaning behind them.
    fn members(&self, fields: &'static [&'static str]) -> Vec<(&'a str, Folding<'a>)> {
        let Value::Object(object) = self.0 else { return Vec::new() };
        let mut known = vec![None; fields.len()];
        let mut unknown = Vec::new();
        for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
            let exact = fields.iter().position(|field| field == name);
            let folded = || fields.iter().position(|field| field.eq_ignore_ascii_case(name));
            match exact.or_else(folded) {
                Some(at) => known[at] = Some(value),
                None => unknown.push((name.as_str(), Folding(value))),
            }
        }
        let known = fields.iter().zip(known).filter_map(|(field, value)| Some((*field, Folding(value?))));
        known.chain(unknown).collect()
    }
}

impl<'de> IntoDeserializer<'de, Error> for Folding<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// What a `null` is where this is wanted, and else what is there.
macro_rules! zero {
    ($($method:ident: $visit:ident($zero:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            if self.0.is_null() { visitor.$visit($zero) } else { self.deserialize_any(visitor) }
        }
    )*};
}

impl<'de> Deserializer<'de> for Folding<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(elements) => visitor.visit_seq(SeqDeserializer::new(elements.iter().map(Folding))),
            Value::Object(members) => {
                let members = members.iter().map(|(name, value)| (name.as_str(), Folding(value)));
                visitor.visit_map(MapDeserializer::new(members))
            }
            Value::String(text) => visitor.visit_str(text),
            // A number, a truth or nothing: serde_json's own words, should that not be what is wanted.
            scalar => scalar.clone().deserialize_any(visitor),
        }
    }

    zero! {
        deserialize_bool: visit_bool(false);
        deserialize_i8: visit_i64(0);
        deserialize_i16: visit_i64(0);
        deserialize_i32: visit_i64(0);
        deserialize_i64: visit_i64(0);
        deserialize_u8: visit_u64(0);
        deserialize_u16: visit_u64(0);
        deserialize_u32: visit_u64(0);
        deserialize_u64: visit_u64(0);
        deserialize_f32: visit_f64(0.0);
        deserialize_f64: visit_f64(0.0);
        deserialize_str: visit_str("");
        deserialize_string: visit_str("");
        deserialize_seq: visit_seq(SeqDeserializer::new(std::iter::empty::<Folding<'_>>()));
        deserialize_map: visit_map(MapDeserializer::new(std::iter::empty::<(&str, Folding<'_>)>()));
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null | Value::Object(_) => {
                visitor.visit_map(MapDeserializer::new(self.members(fields).into_iter()))
            }
            // Serde would take its elements for the fields in their order.
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.clone().deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
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
    fn what_is_of_another_type_is_refused() {
        for wrong in [r#"{"Image": 5}"#, r#"{"HostConfig": []}"#, r#"{"hostconfig": {"memory": "x"}}"#] {
            let error = parse::<CreateBody>(wrong.as_bytes()).unwrap_err();
            assert!(error.message.contains("cannot unmarshal"), "{error}");
        }
    }
}
