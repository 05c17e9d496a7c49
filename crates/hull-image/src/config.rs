//! The configuration of an image: the OCI image configuration with Docker's additional fields.
//!
//! Fields that are not known here are kept, so that a configuration that is derived from another loses nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::Digest;

/// A set as Go writes one: an object whose values are empty objects.
pub type Set = BTreeMap<String, Map<String, Value>>;

/// The configuration of an image, as it is hashed into its id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The processor architecture in Go's words: `amd64`, `arm64`.
    #[serde(deserialize_with = "null_is_default")]
    pub architecture: String,
    /// The architecture's variant: `v8`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub variant: String,
    /// Who made it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub author: String,
    /// Docker: what was said when it was made.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub comment: String,
    /// What a container of it runs, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ContainerConfig>,
    /// Docker: the container that it was committed from.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub container: String,
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Docker: the version of the engine that made it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub docker_version: String,
    /// What was done for each layer, and what made none.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub history: Vec<History>,
    /// The operating system: `linux`.
    #[serde(deserialize_with = "null_is_default")]
    pub os: String,
    /// The version of the operating system (Windows).
    #[serde(
        rename = "os.version",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub os_version: String,
    /// The layers.
    pub rootfs: RootFs,
    /// Fields that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Docker's field for the configuration of the container that an image was committed from.
const CONTAINER_CONFIG: &str = "container_config";

impl ImageConfig {
    /// Says of which container the image is made; of none, so that what its base was made of is not taken for its own.
    pub fn made_of(&mut self, container: String, config: Option<Value>) {
        self.container = container;
        match config {
            Some(config) => self.extra.insert(CONTAINER_CONFIG.to_owned(), config),
            None => self.extra.remove(CONTAINER_CONFIG),
        };
    }

    /// The configuration of the container that the image was made of, as Docker wrote it.
    pub fn made_of_config(&self) -> Option<ContainerConfig> {
        self.extra.get(CONTAINER_CONFIG).and_then(|config| serde_json::from_value(config.clone()).ok())
    }
}

/// The layers of an image, by the digests of their uncompressed archives, lowest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The digest of each layer's uncompressed archive, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> RootFs {
        RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One step of an image's making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub author: String,
    /// The command that made it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub created_by: String,
    /// What was said about it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub comment: String,
    /// It changed the configuration only: no layer is its own.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub empty_layer: bool,
    /// Fields that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a container runs, and how: Docker's container configuration, of which OCI's is a part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user[:group]`, names or numbers.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    /// `80/tcp` and the like.
    #[serde(skip_serializing_if = "Set::is_empty", deserialize_with = "null_is_default")]
    pub exposed_ports: Set,
    /// `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// What is executed, before the command's words. `None` and empty differ: empty clears an inherited one.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "one_or_many")]
    pub entrypoint: Option<Vec<String>>,
    /// The command's words.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "one_or_many")]
    pub cmd: Option<Vec<String>>,
    /// The places that are volumes.
    #[serde(skip_serializing_if = "Set::is_empty", deserialize_with = "null_is_default")]
    pub volumes: Set,
    /// The working directory.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to stop.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// Docker: how many seconds it has to stop before it is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Docker: how its health is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker: instructions that run when another image is built from it.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub on_build: Vec<String>,
    /// Docker: the shell of the shell form of instructions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Docker on Windows: the command is escaped already.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub args_escaped: bool,
    /// Fields that are not known here, among them those that only a container has (Hostname, Tty …).
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How a container's health is checked. Times are in nanoseconds; 0 is the default of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// Empty: inherited. `NONE`; `CMD` and its words; `CMD-SHELL` and a line.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// How long one may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// While it starts, failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks while it starts.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// How many failures in a row make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes an empty list or map as null.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Docker reads a bare string as a list of one.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<OneOrMany>::deserialize(deserializer)?.map(|value| match value {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_known_stay_what_they_are() {
        let text = r#"{"architecture":"a","os":"l","rootfs":{"type":"layers","diff_ids":[]},"x":1.8446744018446743e+28}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
    }
}
