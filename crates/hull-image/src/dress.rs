//! What an image has beyond its layers when it goes out, to a registry or as an OCI layout: annotations, and attestations
//! beside it in an index, laid out as BuildKit lays them out.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::registry::manifest::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Raw};
use crate::{Digest, Image};

/// What an attestation's blob is.
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Annotations of any kind.
pub type Annotations = BTreeMap<String, String>;

/// What goes with an image.
#[derive(Clone, Debug, Default)]
pub struct Dress {
    /// Annotations of its manifest.
    pub manifest: Annotations,
    /// Of what names the manifest in an index.
    pub manifest_descriptor: Annotations,
    /// Of the index.
    pub index: Annotations,
    /// What is attested of it.
    pub statements: Vec<Statement>,
    /// The image is not known here by where it went.
    pub unnamed: bool,
}

/// Something that is attested of an image.
#[derive(Clone, Debug)]
pub struct Statement {
    /// What it is.
    pub predicate_type: String,
    /// What it says.
    pub predicate: Value,
}

/// An image with all that goes with it.
#[derive(Debug)]
pub struct Dressed {
    /// Blobs beyond its layers and its configuration.
    pub blobs: Vec<(Digest, Bytes)>,
    /// Manifests that others name.
    pub inner: Vec<Raw>,
    /// What the image's name stands for.
    pub top: Raw,
    /// What names that: with the platform, where it is a manifest.
    pub descriptor: Value,
}

impl Dress {
    /// Whether an image goes as it is.
    pub fn is_plain(&self) -> bool {
        self.statements.is_empty()
            && [&self.manifest, &self.manifest_descriptor, &self.index].into_iter().all(Annotations::is_empty)
    }

    /// An image of these layers, with all that goes with it. `names` are the image's own, as package URLs have them.
    pub fn dressed(&self, image: &Image, layers: &[Descriptor], names: &[String]) -> Dressed {
        let manifest = with_annotations(
            json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": { "mediaType": OCI_CONFIG, "digest": image.id, "size": image.raw_config.len() },
                "layers": layers,
            }),
            &self.manifest,
        );
        let manifest = raw(OCI_MANIFEST, &manifest);
        let mut platform = json!({ "architecture": image.config.architecture, "os": image.config.os });
        if !image.config.variant.is_empty() {
            platform["variant"] = json!(image.config.variant);
        }
        let mut descriptor = described(&manifest);
        descriptor["platform"] = platform;
        let descriptor = with_annotations(descriptor, &self.manifest_descriptor);
        if self.statements.is_empty() {
            return Dressed { blobs: Vec::new(), inner: Vec::new(), top: manifest, descriptor };
        }
        let (attested, blobs) = self.attested(&manifest, names);
        let mut of = described(&attested);
        of["annotations"] = json!({
            "vnd.docker.reference.digest": manifest.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        });
        of["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor, of] });
        let top = raw(OCI_INDEX, &with_annotations(index, &self.index));
        let descriptor = described(&top);
        Dressed { blobs, inner: vec![manifest, attested], top, descriptor }
    }

    /// The statements' manifest, and its blobs: they and its configuration.
    fn attested(&self, of: &Raw, names: &[String]) -> (Raw, Vec<(Digest, Bytes)>) {
        let digest = json!({ "sha256": of.digest.hex() });
        let subject = |name: &str| json!({ "name": name, "digest": digest });
        let subjects: Vec<Value> = match names.is_empty() {
            true => vec![subject("_")],
            false => names.iter().map(|name| subject(name)).collect(),
        };
        let mut blobs = Vec::new();
        let mut layers = Vec::new();
        for statement in &self.statements {
            let bytes = bytes_of(&json!({
                "_type": "https://in-toto.io/Statement/v0.1",
                "predicateType": statement.predicate_type,
                "subject": subjects,
                "predicate": statement.predicate,
            }));
            let digest = Digest::of(&bytes);
            layers.push(json!({
                "mediaType": IN_TOTO,
                "digest": digest,
                "size": bytes.len(),
                "annotations": { "in-toto.io/predicate-type": statement.predicate_type },
            }));
            blobs.push((digest, bytes));
        }
        let diff_ids: Vec<&Digest> = blobs.iter().map(|(digest, _)| digest).collect();
        let config = bytes_of(&json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }));
        let digest = Digest::of(&config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": OCI_CONFIG, "digest": digest, "size": config.len() },
            "layers": layers,
        });
        blobs.push((digest, config));
        (raw(OCI_MANIFEST, &manifest), blobs)
    }
}

/// An image's name as a package URL.
pub fn package(name: &str, tag: &str, image: &Image) -> String {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let platform = format!("{}%2F{}", image.config.os, image.config.architecture);
    format!("pkg:docker/{name}@{tag}?platform={platform}")
}

fn bytes_of(value: &Value) -> Bytes {
    value.to_string().into_bytes().into()
}

fn raw(media_type: &str, value: &Value) -> Raw {
    let bytes = bytes_of(value);
    Raw { media_type: media_type.to_owned(), digest: Digest::of(&bytes), bytes }
}

fn described(raw: &Raw) -> Value {
    json!({ "mediaType": raw.media_type, "digest": raw.digest, "size": raw.bytes.len() })
}

/// The same with these annotations, where there are any.
fn with_annotations(mut value: Value, annotations: &Annotations) -> Value {
    if !annotations.is_empty() {
        let all: Map<String, Value> =
            annotations.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        value["annotations"] = Value::Object(all);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageConfig;

    fn image() -> Image {
        Image {
            id: Digest::of(b"{}"),
            size: 0,
            created: 0,
            config: ImageConfig {
                os: "linux".to_owned(),
                architecture: "amd64".to_owned(),
                ..ImageConfig::default()
            },
            raw_config: b"{}".to_vec().into(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            layers: Vec::new(),
            parent: None,
            last_tagged: 0,
            builtin: false,
        }
    }

    #[test]
    fn annotations_stand_where_they_belong() {
        let annotations = |name: &str| Annotations::from([(name.to_owned(), "v".to_owned())]);
        let mut dress = Dress { manifest: annotations("m"), ..Dress::default() };
        dress.manifest_descriptor = annotations("d");
        assert!(!dress.is_plain() && Dress::default().is_plain());
        let dressed = dress.dressed(&image(), &[], &[]);
        let manifest: Value = serde_json::from_slice(&dressed.top.bytes).unwrap();
        assert_eq!(manifest["annotations"], json!({ "m": "v" }));
        assert_eq!(dressed.descriptor["annotations"], json!({ "d": "v" }));
        assert_eq!(dressed.descriptor["platform"]["os"], "linux");
    }

    #[test]
    fn attestations_lie_beside_the_image_and_name_it() {
        let statement = Statement { predicate_type: "https://e/p".to_owned(), predicate: json!({ "a": 1 }) };
        let dress = Dress { statements: vec![statement], ..Dress::default() };
        let dressed = dress.dressed(&image(), &[], &["pkg:docker/x@1".to_owned()]);
        let index: Value = serde_json::from_slice(&dressed.top.bytes).unwrap();
        let (of_image, attested) = (&index["manifests"][0], &index["manifests"][1]);
        assert_eq!(attested["annotations"]["vnd.docker.reference.digest"], of_image["digest"]);
        assert_eq!(attested["platform"]["os"], "unknown");
        assert_eq!(json!(dressed.inner[1].digest), attested["digest"]);
        let manifest: Value = serde_json::from_slice(&dressed.inner[1].bytes).unwrap();
        assert_eq!(manifest["layers"][0]["digest"], json!(dressed.blobs[0].0));
        let statement: Value = serde_json::from_slice(&dressed.blobs[0].1).unwrap();
        let hex = of_image["digest"].as_str().unwrap().trim_start_matches("sha256:");
        assert_eq!(statement["subject"], json!([{ "name": "pkg:docker/x@1", "digest": { "sha256": hex } }]));
    }
}
