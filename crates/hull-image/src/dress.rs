//! What an image has beyond its layers when it goes out, to a registry or as an OCI layout: annotations, and attestations
//! beside it in an index, laid out as BuildKit lays them out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::compress::{Algorithm, Compress};
use crate::registry::manifest::{
    DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Raw,
};
use crate::{Digest, Error, Image, Platform, Result};

/// What an index of stages' images is, all of which give their steps to later builds.
pub const STAGES: &str = "application/vnd.hull.build.stages.v1";

/// So many stages' images are taken from one index.
const STAGES_LIMIT: usize = 256;

/// What an attestation's blob is.
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Annotations of any kind.
pub type Annotations = BTreeMap<String, String>;

/// What goes with an image.
#[derive(Clone, Debug, Default)]
pub struct Dress {
    /// Annotations of its manifest.
    pub manifest: Annotations,
    /// The same, of the image for one platform alone (`linux/arm64`).
    pub manifest_of: BTreeMap<String, Annotations>,
    /// Of what names the manifest in an index.
    pub manifest_descriptor: Annotations,
    /// The same, of the image for one platform alone.
    pub manifest_descriptor_of: BTreeMap<String, Annotations>,
    /// Of the index.
    pub index: Annotations,
    /// How its layers are compressed.
    pub compress: Compress,
    /// Whether it goes in OCI's words or in Docker's, where somebody said so.
    pub oci: Option<bool>,
    /// It has no tag where it goes, and is found by its digest alone.
    pub by_digest: bool,
    /// What goes are the images of stages, for later builds: an index, however many they are.
    pub stages: bool,
    /// An index is made also of one image.
    pub indexed: bool,
    /// The image is not known here by where it went.
    pub unnamed: bool,
}

/// One of the images that go out together.
#[derive(Clone, Debug)]
pub struct Part {
    /// The image.
    pub image: Arc<Image>,
    /// What is attested of it.
    pub statements: Vec<Statement>,
}

impl Part {
    /// An image of which nothing is attested.
    pub fn plain(image: &Arc<Image>) -> Part {
        Part { image: Arc::clone(image), statements: Vec::new() }
    }

    /// What the image is for, as people write it.
    fn platform(&self) -> String {
        Platform::of(&self.image.config).to_string()
    }
}

/// Something that is attested of an image.
#[derive(Clone, Debug)]
pub struct Statement {
    /// What it is.
    pub predicate_type: String,
    /// What it says.
    pub predicate: Value,
}

/// Images with all that goes with them.
#[derive(Debug)]
pub struct Dressed {
    /// Blobs beyond their layers and configurations.
    pub blobs: Vec<(Digest, Bytes)>,
    /// Manifests that others name.
    pub inner: Vec<Raw>,
    /// What the name stands for.
    pub top: Raw,
    /// What names that: with the platform, where it is a manifest.
    pub descriptor: Value,
}

impl Dress {
    /// Whether images go as one does that is pushed by its name.
    pub fn is_plain(&self, parts: &[Part]) -> bool {
        matches!(parts, [one] if one.statements.is_empty())
            && !self.stages
            && !self.indexed
            && self.oci.is_none()
            && self.compress == Compress::default()
            && self.is_without_annotations()
    }

    /// Whether nothing is said beside the images.
    pub fn is_without_annotations(&self) -> bool {
        let all = [&self.manifest, &self.manifest_descriptor, &self.index];
        let of_platforms = self.manifest_of.values().chain(self.manifest_descriptor_of.values());
        all.into_iter().chain(of_platforms).all(Annotations::is_empty)
    }

    /// Images with their layers, and all that goes with them. `names` are their own, as package URLs have them.
    pub fn dressed(
        &self,
        parts: &[(&Part, Vec<Descriptor>)],
        names: &dyn Fn(&Image) -> Vec<String>,
    ) -> Dressed {
        let docker = self.oci == Some(false);
        let (mut blobs, mut inner, mut listed) = (Vec::new(), Vec::new(), Vec::new());
        for (part, layers) in parts {
            let manifest = self.manifest(part, layers, docker);
            let image = &part.image;
            let mut descriptor = described(&manifest);
            descriptor["platform"] = Platform::of(&image.config).oci();
            let mut annotations = self.manifest_descriptor.clone();
            annotations
                .extend(self.manifest_descriptor_of.get(&part.platform()).cloned().unwrap_or_default());
            listed.push(with_annotations(descriptor, &annotations));
            if !part.statements.is_empty() {
                let (attested, more) = attested(&part.statements, &manifest, &names(image));
                let mut of = described(&attested);
                of["annotations"] = json!({
                    "vnd.docker.reference.digest": manifest.digest,
                    "vnd.docker.reference.type": "attestation-manifest",
                });
                of["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
                blobs.extend(more);
                inner.extend([manifest, attested]);
                listed.push(of);
            } else {
                inner.push(manifest);
            }
        }
        if let ([descriptor], false) = (&listed[..], self.stages || self.indexed)
            && let Some(top) = inner.pop()
        {
            return Dressed { blobs, inner, top, descriptor: descriptor.clone() };
        }
        // As BuildKit: the images before what is said of them.
        listed.sort_by_key(|one| one["platform"]["os"] == "unknown");
        let media_type = if docker { DOCKER_LIST } else { OCI_INDEX };
        let mut index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": listed });
        if self.stages {
            index["artifactType"] = json!(STAGES);
        }
        let top = raw(media_type, &with_annotations(index, &self.index));
        let mut descriptor = described(&top);
        if self.stages {
            descriptor["artifactType"] = json!(STAGES);
        }
        Dressed { blobs, inner, top, descriptor }
    }

    /// The manifest of an image.
    fn manifest(&self, part: &Part, layers: &[Descriptor], docker: bool) -> Raw {
        let (media_type, config) =
            if docker { (DOCKER_MANIFEST, DOCKER_CONFIG) } else { (OCI_MANIFEST, OCI_CONFIG) };
        let layers: Vec<Descriptor> = layers
            .iter()
            .map(|layer| Descriptor {
                // What came with a manifest of Docker's is named in OCI's words, and the other way round.
                media_type: match Algorithm::of_media_type(&layer.media_type) {
                    Some(algorithm) => algorithm.media_type(docker).to_owned(),
                    None => layer.media_type.clone(),
                },
                ..layer.clone()
            })
            .collect();
        let image = &part.image;
        let mut annotations = self.manifest.clone();
        annotations.extend(self.manifest_of.get(&part.platform()).cloned().unwrap_or_default());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": { "mediaType": config, "digest": image.id, "size": image.raw_config.len() },
            "layers": layers,
        });
        raw(media_type, &with_annotations(manifest, &annotations))
    }
}

/// The statements' manifest, and its blobs: they and its configuration.
fn attested(statements: &[Statement], of: &Raw, names: &[String]) -> (Raw, Vec<(Digest, Bytes)>) {
    let digest = json!({ "sha256": of.digest.hex() });
    let subject = |name: &str| json!({ "name": name, "digest": digest });
    let subjects: Vec<Value> = match names.is_empty() {
        true => vec![subject("_")],
        false => names.iter().map(|name| subject(name)).collect(),
    };
    let mut blobs = Vec::new();
    let mut layers = Vec::new();
    for statement in statements {
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

/// The images of an index of stages; none where it is something else.
///
/// # Errors
/// There are more of them than there are stages of a build.
pub fn stages(bytes: &[u8]) -> Result<Option<Vec<Digest>>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Index {
        artifact_type: String,
        manifests: Vec<Descriptor>,
    }
    let index = serde_json::from_slice::<Index>(bytes).ok();
    let Some(index) = index.filter(|index| index.artifact_type == STAGES) else { return Ok(None) };
    match index.manifests.len() > STAGES_LIMIT {
        true => Err(Error::invalid(format!(
            "it has the images of {} stages: {STAGES_LIMIT} are allowed",
            index.manifests.len()
        ))),
        false => Ok(Some(index.manifests.into_iter().map(|one| one.digest).collect())),
    }
}

/// An image's name as a package URL.
pub fn package(name: &str, tag: &str, image: &Image) -> String {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let platform = format!("{}%2F{}", image.config.os, image.config.architecture);
    format!("pkg:docker/{name}@{tag}?platform={platform}")
}

pub(crate) fn bytes_of(value: &Value) -> Bytes {
    value.to_string().into_bytes().into()
}

pub(crate) fn raw(media_type: &str, value: &Value) -> Raw {
    let bytes = bytes_of(value);
    Raw { media_type: media_type.to_owned(), digest: Digest::of(&bytes), bytes }
}

pub(crate) fn described(raw: &Raw) -> Value {
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

    fn part(statements: Vec<Statement>, architecture: &str) -> Part {
        let image = Image {
            id: Digest::of(b"{}"),
            size: 0,
            created: 0,
            config: ImageConfig {
                os: "linux".to_owned(),
                architecture: architecture.to_owned(),
                ..ImageConfig::default()
            },
            raw_config: b"{}".to_vec().into(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            layers: Vec::new(),
            parent: None,
            last_tagged: 0,
            builtin: false,
        };
        Part { image: Arc::new(image), statements }
    }

    fn dressed(dress: &Dress, parts: &[Part]) -> Dressed {
        let parts: Vec<_> = parts.iter().map(|part| (part, Vec::new())).collect();
        dress.dressed(&parts, &|_| vec!["pkg:docker/x@1".to_owned()])
    }

    #[test]
    fn annotations_stand_where_they_belong() {
        let annotations = |name: &str| Annotations::from([(name.to_owned(), "v".to_owned())]);
        let mut dress = Dress { manifest: annotations("m"), ..Dress::default() };
        dress.manifest_descriptor = annotations("d");
        dress.manifest_of.insert("linux/amd64".to_owned(), annotations("p"));
        dress.manifest_descriptor_of.insert("linux/arm64".to_owned(), annotations("q"));
        let one = [part(Vec::new(), "amd64")];
        assert!(!dress.is_plain(&one) && Dress::default().is_plain(&one));
        let indexed = super::tests::dressed(&Dress { indexed: true, ..Dress::default() }, &one);
        assert_eq!((indexed.top.media_type.as_str(), indexed.inner.len()), (OCI_INDEX, 1));
        let several = [part(Vec::new(), "amd64"), part(Vec::new(), "arm64")];
        let index = super::tests::dressed(&dress, &several);
        let listed: Value = serde_json::from_slice(&index.top.bytes).unwrap();
        let platforms = |number: usize| listed["manifests"][number]["platform"]["architecture"].clone();
        assert_eq!((platforms(0), platforms(1)), (json!("amd64"), json!("arm64")));
        let described = |number: usize| listed["manifests"][number]["annotations"].clone();
        assert_eq!((described(0), described(1)), (json!({ "d": "v" }), json!({ "d": "v", "q": "v" })));
        let of_arm: Value = serde_json::from_slice(&index.inner[1].bytes).unwrap();
        assert_eq!(of_arm["annotations"], json!({ "m": "v" }));
        let dressed = super::tests::dressed(&dress, &one);
        let manifest: Value = serde_json::from_slice(&dressed.top.bytes).unwrap();
        assert_eq!(manifest["annotations"], json!({ "m": "v", "p": "v" }));
        assert_eq!(dressed.descriptor["annotations"], json!({ "d": "v" }));
        assert_eq!(dressed.descriptor["platform"]["os"], "linux");
    }

    #[test]
    fn attestations_lie_beside_the_image_and_name_it() {
        let statement = Statement { predicate_type: "https://e/p".to_owned(), predicate: json!({ "a": 1 }) };
        let dressed = super::tests::dressed(&Dress::default(), &[part(vec![statement], "amd64")]);
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

    #[test]
    fn stages_are_an_index_and_words_are_docker_s_where_that_is_asked_for() {
        let one = [part(Vec::new(), "amd64")];
        let stages = dressed(&Dress { stages: true, ..Dress::default() }, &one);
        let index: Value = serde_json::from_slice(&stages.top.bytes).unwrap();
        assert_eq!(
            (&index["artifactType"], &stages.descriptor["artifactType"]),
            (&json!(STAGES), &json!(STAGES))
        );
        assert_eq!(super::stages(&stages.top.bytes).unwrap().unwrap(), [stages.inner[0].digest]);
        assert_eq!(super::stages(&stages.inner[0].bytes).unwrap(), None);
        let many: Vec<Value> = (0..257).map(|_| json!({ "digest": stages.top.digest })).collect();
        let many = bytes_of(&json!({ "artifactType": STAGES, "manifests": many }));
        assert!(super::stages(&many).unwrap_err().message.contains("257 stages"));
        let docker = dressed(&Dress { oci: Some(false), ..Dress::default() }, &one);
        assert_eq!(docker.top.media_type, DOCKER_MANIFEST);
    }
}
