//! Manifests and indexes, Docker's and OCI's, as registries give them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::shown;
use crate::config::null_is_default;
use crate::{Digest, Error, Kind, Platform, Result};

/// Docker's manifest of an image.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's list of manifests for several platforms.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI's manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's configuration of an image.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// OCI's configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// OCI's layer, compressed with gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What is accepted of a registry. Schema 1 is among it so that it can be refused by its name.
pub(super) const ACCEPTED: [&str; 6] = [
    DOCKER_MANIFEST,
    DOCKER_LIST,
    OCI_MANIFEST,
    OCI_INDEX,
    "application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1",
    "application/json;q=0.1",
];

/// Layers that an image can have.
const LAYERS: [&str; 11] = [
    DOCKER_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    OCI_LAYER_GZIP,
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
];

/// Whether a layer may be fetched from addresses of its own, which its manifest names.
pub(super) fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
}

/// What is in an index beside images names the image that it is about.
const ATTESTATION: &str = "vnd.docker.reference.type";
/// Farther from what is wanted than anything that says what it is for.
const UNSAID: u32 = u32::MAX;

/// An image may not have more layers: overlayfs takes 500, Docker 127.
const LAYERS_LIMIT: usize = 400;

/// The bytes of a manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// What the registry says that it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What something in a registry is, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    #[serde(default)]
    pub size: u64,
    /// Where else it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub urls: Vec<String>,
    /// What an image is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<OciPlatform>,
    /// What else is said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Something of that digest, of which nothing else is known.
    pub fn of(digest: Digest) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest,
            size: 0,
            urls: Vec::new(),
            platform: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// What an image in an index is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OciPlatform {
    /// `linux`.
    pub os: String,
    /// `amd64`.
    pub architecture: String,
    /// `v8`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Windows' version.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
}

/// What a registry gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An image.
    Image(Box<Manifest>),
    /// Images for several platforms.
    Index(Vec<Descriptor>),
}

/// An image as it lies in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parsed {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<Value>,
}

/// Reads a manifest or an index. `name` is what was asked for.
///
/// # Errors
/// It is none, of the first schema, or of something that is no container image.
pub fn parse(raw: &Raw, name: &str) -> Result<Content> {
    let wrong = |why: &str| Error::invalid(format!("invalid manifest of {name} ({}): {why}", raw.digest));
    // The type first: of what is no image the rest may be anything.
    let value: Value = serde_json::from_slice(&raw.bytes).map_err(|error| wrong(&error.to_string()))?;
    let stated = value.get("mediaType").and_then(Value::as_str).unwrap_or(&raw.media_type);
    let is_known = |text: &str| [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX].contains(&text);
    let first_schema = value.get("schemaVersion").and_then(Value::as_u64) == Some(1)
        || value.get("fsLayers").is_some()
        || stated.starts_with("application/vnd.docker.distribution.manifest.v1+");
    if first_schema {
        return Err(Error::new(
            Kind::NotImplemented,
            format!(
                "{name} is an image of the manifest's schema 1, which is out of use and not supported: have its author \
                 push it anew with a Docker since 1.10, or copy it (skopeo copy --format v2s2)"
            ),
        ));
    }
    let parsed: Parsed = serde_json::from_slice(&raw.bytes).map_err(|error| wrong(&error.to_string()))?;
    if parsed.schema_version != 2 || parsed.fs_layers.is_some() {
        return Err(wrong("it is of no schema that is known"));
    }
    // Read as one thing here and as another elsewhere, it would hide what it is (CVE-2021-41190).
    if parsed.manifests.is_some() && (parsed.layers.is_some() || parsed.config.is_some()) {
        return Err(wrong("it is an image and an index at once"));
    }
    let says = if parsed.media_type.is_empty() { raw.media_type.as_str() } else { &parsed.media_type };
    if is_known(&raw.media_type) && is_known(says) && says != raw.media_type {
        return Err(wrong("the registry and it do not agree on what it is"));
    }
    let is_index = matches!(says, DOCKER_LIST | OCI_INDEX);
    let is_manifest = matches!(says, DOCKER_MANIFEST | OCI_MANIFEST);
    match (parsed.manifests, parsed.config, parsed.layers) {
        (Some(manifests), None, None) if !is_manifest => Ok(Content::Index(manifests)),
        (None, Some(config), layers) if !is_index => {
            check_kind(&config, &parsed.artifact_type, name)?;
            let layers = layers.unwrap_or_default();
            check_layers(&layers, name)?;
            Ok(Content::Image(Box::new(Manifest { config, layers })))
        }
        _ => Err(wrong("it has neither a configuration nor a list of manifests, or not what its type says")),
    }
}

/// What is not a container image is refused by what it is.
fn check_kind(config: &Descriptor, artifact_type: &str, name: &str) -> Result<()> {
    let is_image =
        matches!(config.media_type.as_str(), DOCKER_CONFIG | OCI_CONFIG | "application/octet-stream" | "");
    if is_image && artifact_type.is_empty() {
        return Ok(());
    }
    let kind = if artifact_type.is_empty() { &config.media_type } else { artifact_type };
    Err(not_an_image(name, kind))
}

fn not_an_image(name: &str, kind: &str) -> Error {
    Error::new(
        Kind::NotImplemented,
        format!(
            "{name} is no container image, but an artifact of the type {}: it cannot be run; fetch it with the tool \
             that it is for",
            shown(kind, 128)
        ),
    )
}

fn check_layers(layers: &[Descriptor], name: &str) -> Result<()> {
    if layers.len() > LAYERS_LIMIT {
        return Err(Error::invalid(format!(
            "{name} has {} layers: {LAYERS_LIMIT} are possible",
            layers.len()
        )));
    }
    match layers.iter().find(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
        None => Ok(()),
        Some(layer) if layer.media_type.contains("encrypted") => Err(Error::new(
            Kind::NotImplemented,
            format!(
                "{name} has encrypted layers ({}), which is not supported",
                shown(&layer.media_type, 128)
            ),
        )),
        Some(layer) => Err(not_an_image(name, &layer.media_type)),
    }
}

/// Which of an index's images are for a platform, the best first.
///
/// # Errors
/// None is (404), with those that there are.
pub fn choose<'a>(index: &'a [Descriptor], wanted: &Platform, name: &str) -> Result<&'a Descriptor> {
    let fitting = index.iter().filter_map(|one| {
        match &one.platform {
            Some(platform) => Some((rank(platform, wanted)?, one)),
            // One that does not say what it is for is better than none, if it is an image at all.
            None if one.annotations.contains_key(ATTESTATION) => None,
            None => Some((UNSAID, one)),
        }
    });
    // The first of several that are equally good.
    if let Some((_, best)) = fitting.min_by_key(|(rank, _)| *rank) {
        return Ok(best);
    }
    let mut offered: Vec<String> = index
        .iter()
        .filter_map(|one| one.platform.as_ref())
        .filter(|platform| platform.os != "unknown" && !platform.os.is_empty())
        .map(|platform| shown(&Platform::from(platform).to_string(), 64))
        .collect();
    offered.sort();
    offered.dedup();
    offered.truncate(32);
    let offered = match offered.is_empty() {
        true => "none that it names".to_owned(),
        false => offered.join(", "),
    };
    Err(Error::not_found(format!(
        "no matching manifest for {wanted} in the manifest list entries: {name} is offered for {offered}"
    )))
}

impl From<&OciPlatform> for Platform {
    fn from(of: &OciPlatform) -> Platform {
        let OciPlatform { os, architecture, variant, .. } = of.clone();
        Platform { os, architecture, variant }
    }
}

/// How far what is offered is from what is wanted; none where it does not run there.
fn rank(offered: &OciPlatform, wanted: &Platform) -> Option<u32> {
    if offered.os != wanted.os {
        return None;
    }
    let has = level(&offered.architecture, &offered.variant);
    let wants = level(&wanted.architecture, &wanted.variant);
    match (has, wants) {
        (Some((a, has)), Some((b, wants))) if a == b => {
            // Nobody said which variant: the machine's own is the best that it may be.
            let wants = if wanted.variant.is_empty() { wants.max(machine_level(a)) } else { wants };
            wants.checked_sub(has)
        }
        (None, None) if offered.architecture == wanted.architecture => {
            (wanted.variant.is_empty() || offered.variant == wanted.variant).then_some(0)
        }
        _ => None,
    }
}

/// Architectures whose variants build on each other, with the number of the variant; none for others.
fn level<'a>(architecture: &'a str, variant: &str) -> Option<(&'a str, u32)> {
    let usual = match architecture {
        "amd64" => 1,
        "arm64" => 8,
        "arm" => 7,
        _ => return None,
    };
    let level = match variant {
        "" => usual,
        variant => variant.strip_prefix('v')?.split('.').next()?.parse().ok()?,
    };
    Some((architecture, level))
}

/// How much of an architecture this machine can.
fn machine_level(architecture: &str) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if architecture == "amd64" {
        let v2 = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
        let v3 = v2
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma");
        return if v3 {
            3
        } else if v2 {
            2
        } else {
            1
        };
    }
    match architecture {
        "arm64" => 8,
        "arm" => 7,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(media_type: &str, value: Value) -> Raw {
        let bytes = Bytes::from(value.to_string());
        Raw { media_type: media_type.into(), digest: Digest::of(&bytes), bytes }
    }

    fn descriptor(media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": Digest::of(b""), "size": 1 })
    }

    #[test]
    fn images_and_indexes_are_read() {
        let image = json!({ "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": descriptor(DOCKER_CONFIG), "layers": [descriptor(DOCKER_LAYER)] });
        assert!(
            matches!(parse(&raw(DOCKER_MANIFEST, image), "x"), Ok(Content::Image(image)) if image.layers.len() == 1)
        );
        let oci = json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [] });
        assert!(matches!(parse(&raw(OCI_MANIFEST, oci), "x"), Ok(Content::Image(_))));
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST)] });
        assert!(matches!(parse(&raw(OCI_INDEX, index), "x"), Ok(Content::Index(list)) if list.len() == 1));
    }

    #[test]
    fn what_is_no_image_is_refused_by_its_name() {
        let refusal =
            |media_type: &str, value: Value| parse(&raw(media_type, value), "r/x:1").unwrap_err().message;
        let chart = json!({ "schemaVersion": 2, "config": descriptor("application/vnd.cncf.helm.config.v1+json"), "layers": [] });
        assert!(
            refusal(OCI_MANIFEST, chart)
                .contains("artifact of the type application/vnd.cncf.helm.config.v1+json")
        );
        let artifact = json!({ "schemaVersion": 2, "artifactType": "application/x.sbom", "config": descriptor("application/vnd.oci.empty.v1+json"), "layers": [] });
        assert!(refusal(OCI_MANIFEST, artifact).contains("application/x.sbom"));
        let layer = json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [descriptor("text/plain")] });
        assert!(refusal(OCI_MANIFEST, layer).contains("text/plain"));
        let schema1 = json!({ "schemaVersion": 1, "fsLayers": [{}], "history": [] });
        assert!(
            refusal("application/vnd.docker.distribution.manifest.v1+prettyjws", schema1)
                .contains("schema 1")
        );
        for (media_type, lie) in [
            (
                OCI_MANIFEST,
                json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [], "manifests": [] }),
            ),
            (OCI_INDEX, json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [] })),
            (OCI_MANIFEST, json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] })),
            (OCI_MANIFEST, json!({ "schemaVersion": 3, "config": descriptor(OCI_CONFIG), "layers": [] })),
            (
                OCI_MANIFEST,
                json!({ "schemaVersion": 2, "config": { "digest": "sha256:../../x", "size": 1 }, "layers": [] }),
            ),
            (OCI_MANIFEST, json!([])),
            (
                OCI_MANIFEST,
                json!({ "schemaVersion": 2, "config": { "digest": Digest::of(b""), "size": -1 }, "layers": [] }),
            ),
        ] {
            assert!(refusal(media_type, lie.clone()).contains("invalid manifest"), "{lie}");
        }
    }

    fn index(platforms: &[(&str, &str, &str)]) -> Vec<Descriptor> {
        let of = |(number, (os, architecture, variant)): (usize, &(&str, &str, &str))| Descriptor {
            platform: Some(OciPlatform {
                os: (*os).into(),
                architecture: (*architecture).into(),
                variant: (*variant).into(),
                ..OciPlatform::default()
            }),
            size: number as u64,
            ..Descriptor::of(Digest::of(b""))
        };
        platforms.iter().enumerate().map(of).collect()
    }

    #[test]
    fn platforms_are_chosen_with_their_variants() {
        let chosen = |platforms: &[(&str, &str, &str)], wanted: &str| {
            choose(&index(platforms), &wanted.parse().unwrap(), "x").map(|one| one.size as usize).ok()
        };
        assert_eq!(chosen(&[("linux", "s390x", ""), ("linux", "amd64", "")], "linux/amd64"), Some(1));
        assert_eq!(chosen(&[("linux", "arm", "v6"), ("linux", "arm", "v7")], "linux/arm/v7"), Some(1));
        assert_eq!(chosen(&[("linux", "arm", "v5"), ("linux", "arm", "v6")], "linux/arm/v7"), Some(1));
        assert_eq!(chosen(&[("linux", "arm", "v7")], "linux/arm/v6"), None);
        assert_eq!(chosen(&[("linux", "arm64", "v8")], "linux/arm64"), Some(0));
        assert_eq!(chosen(&[("linux", "arm64", "")], "linux/arm64/v8"), Some(0));
        assert_eq!(chosen(&[("linux", "amd64", "v4"), ("linux", "amd64", "")], "linux/amd64/v1"), Some(1));
        // Whoever says the lowest gets no other, whatever this machine has.
        assert_eq!(chosen(&[("linux", "amd64", "v2"), ("linux", "amd64", "")], "linux/amd64/v1"), Some(1));
        assert_eq!(chosen(&[("linux", "amd64", "v3"), ("linux", "amd64", "v1")], "linux/amd64/v1"), Some(1));
        assert_eq!(chosen(&[("unknown", "unknown", ""), ("linux", "amd64", "")], "linux/amd64"), Some(1));
        assert_eq!(chosen(&[("windows", "amd64", "")], "linux/amd64"), None);
        assert_eq!(chosen(&[("linux", "riscv64", "")], "linux/riscv64"), Some(0));
    }

    #[test]
    fn what_does_not_say_what_it_is_for_comes_last() {
        let mut offered = index(&[("linux", "s390x", ""), ("linux", "amd64", "")]);
        offered.insert(0, Descriptor { size: 7, ..Descriptor::of(Digest::of(b"")) });
        let chosen = |offered: &[Descriptor], wanted: &str| {
            choose(offered, &wanted.parse().unwrap(), "x").map(|one| one.size).ok()
        };
        assert_eq!(chosen(&offered, "linux/amd64"), Some(1));
        assert_eq!(chosen(&offered, "linux/ppc64le"), Some(7));
        offered[0].annotations.insert(ATTESTATION.into(), "attestation-manifest".into());
        assert_eq!(chosen(&offered, "linux/ppc64le"), None);
    }

    #[test]
    fn what_go_writes_for_nothing_is_nothing() {
        let one = json!({ "mediaType": OCI_MANIFEST, "digest": Digest::of(b""), "size": 1, "urls": null, "annotations": null, "platform": null });
        assert!(serde_json::from_value::<Descriptor>(one).is_ok());
    }

    #[test]
    fn a_platform_that_is_not_offered_is_refused_with_those_that_are() {
        let offered = index(&[("linux", "s390x", ""), ("linux", "arm", "v7"), ("unknown", "unknown", "")]);
        let error = choose(&offered, &"linux/ppc64le".parse().unwrap(), "r/x:1").unwrap_err();
        assert_eq!(
            error.message,
            "no matching manifest for linux/ppc64le in the manifest list entries: r/x:1 is offered for linux/arm/v7, \
             linux/s390x"
        );
    }
}
