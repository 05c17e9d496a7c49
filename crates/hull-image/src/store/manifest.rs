//! What an archive says its images are: Docker's manifest.json, the older repositories file, or an OCI index.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Platform;
use super::load::{Described, Members};
use crate::reference::Reference;
use crate::{Digest, Error, ImageConfig, Result};

/// How deep indexes may lie in indexes.
const NESTED: usize = 4;

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The images of an archive, each checked for what can be checked before its layers are there.
pub(super) fn described(members: &Members, platforms: &[Platform]) -> Result<Vec<Described>> {
    if platforms.is_empty() {
        return describe(members, None);
    }
    let mut images: Vec<Described> = Vec::new();
    for platform in platforms {
        for image in describe(members, Some(platform))? {
            if !images.iter().any(|known| known.config == image.config) {
                images.push(image);
            }
        }
    }
    Ok(images)
}

/// The same for one platform; none: for this machine's.
fn describe(members: &Members, platform: Option<&Platform>) -> Result<Vec<Described>> {
    let images = if members.has("manifest.json") {
        docker(members)?
    } else if members.has("index.json") {
        oci(members, platform)?
    } else if members.has("repositories") {
        legacy(members)?
    } else {
        return Err(Error::invalid(
            "invalid archive: it has neither manifest.json, index.json nor repositories: it is not an archive of \
             images (a root file system's is brought in with import)",
        ));
    };
    for image in &images {
        let diff_ids = diff_ids(&image.config)?;
        if diff_ids.len() != image.layers.len() {
            return Err(Error::invalid(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                diff_ids.len(),
                image.layers.len()
            )));
        }
        if image.names.iter().any(|name| super::images::key(name) == super::HOST_NAME) {
            return Err(Error::new(
                crate::Kind::Forbidden,
                "hull/host:latest is this machine itself, built in: an archive cannot bring another image of its name",
            ));
        }
    }
    Ok(images)
}

/// The layers that a configuration names.
pub(crate) fn diff_ids(config: &[u8]) -> Result<Vec<Digest>> {
    // What is no object at all, the next one tells.
    if serde_json::from_slice::<WithLayers>(config).is_ok_and(|found| found.rootfs.is_none()) {
        return Err(Error::invalid("invalid image JSON, no RootFS key"));
    }
    let parsed: ImageConfig = serde_json::from_slice(config)
        .map_err(|error| Error::invalid(format!("invalid image configuration: {error}")))?;
    if parsed.os == "windows" {
        return Err(Error::invalid("cannot load windows image on linux"));
    }
    Ok(parsed.rootfs.diff_ids)
}

/// A configuration that says which layers there are, and be it none.
#[derive(Deserialize)]
struct WithLayers {
    rootfs: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
    #[serde(default)]
    parent: Option<String>,
}

fn docker(members: &Members) -> Result<Vec<Described>> {
    let images: Vec<DockerImage> = parse("manifest.json", &members.json("manifest.json")?)?;
    images
        .into_iter()
        .map(|image| {
            let config = members.json(&image.config)?;
            check_name(&image.config, &config)?;
            let names = image.repo_tags.unwrap_or_default();
            Ok(Described {
                config,
                layers: image.layers.unwrap_or_default().into_iter().map(|layer| (layer, None)).collect(),
                names: names.iter().map(|name| Reference::parse_tag(name)).collect::<Result<_>>()?,
                parent: image.parent.and_then(|parent| parent.parse().ok()),
            })
        })
        .collect()
}

/// A configuration under the name of a digest has that digest.
fn check_name(path: &str, config: &[u8]) -> Result<()> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let stated: Option<Digest> = format!("sha256:{}", name.trim_end_matches(".json")).parse().ok();
    match stated {
        Some(stated) if stated != Digest::of(config) => Err(Error::invalid(format!(
            "invalid archive: {path} does not have the digest that its name says"
        ))),
        _ => Ok(()),
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<OciPlatform>,
}

#[derive(Deserialize)]
struct OciPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

fn oci(members: &Members, platform: Option<&Platform>) -> Result<Vec<Described>> {
    let index: Index = parse("index.json", &members.json("index.json")?)?;
    let mut images: Vec<Described> = Vec::new();
    let index = with_stages(members, index)?;
    for descriptor in &index.manifests {
        let name = image_name(&descriptor.annotations)?;
        let Some(mut image) = image(members, descriptor, platform, 0)? else {
            let wanted = platform.cloned().unwrap_or_else(Platform::host);
            return Err(Error::not_found(format!(
                "image {} was found in the archive, but not for the platform {}/{}",
                name.map_or_else(|| descriptor.digest.clone(), |name| name.familiar()),
                wanted.os,
                wanted.architecture
            )));
        };
        image.names.extend(name);
        match images.iter_mut().find(|known| known.config == image.config) {
            Some(known) => known.names.append(&mut image.names),
            None => images.push(image),
        }
    }
    Ok(images)
}

/// An index in which indexes of stages are those stages.
fn with_stages(members: &Members, index: Index) -> Result<Index> {
    let mut manifests = Vec::new();
    for descriptor in index.manifests {
        let stages = match descriptor.media_type.as_str() {
            OCI_INDEX => crate::dress::stages(&blob(members, &descriptor.digest)?)?,
            _ => None,
        };
        let Some(stages) = stages else {
            manifests.push(descriptor);
            continue;
        };
        let of = |digest: Digest| Descriptor { digest: digest.to_string(), ..Descriptor::default() };
        manifests.extend(stages.into_iter().map(of));
    }
    Ok(Index { manifests })
}

/// The name that an index gives an image: in full, or a mere tag, which names nothing by itself.
fn image_name(annotations: &BTreeMap<String, String>) -> Result<Option<Reference>> {
    if let Some(name) = annotations.get(NAME) {
        return Reference::parse_tag(name).map(Some);
    }
    match annotations.get(REF_NAME) {
        Some(name) if name.contains(['/', ':']) => Reference::parse_tag(name).map(Some),
        _ => Ok(None),
    }
}

/// The image that a descriptor leads to, through indexes of platforms; `None` where none is for the platform.
fn image(
    members: &Members,
    descriptor: &Descriptor,
    platform: Option<&Platform>,
    depth: usize,
) -> Result<Option<Described>> {
    if depth > NESTED {
        return Err(Error::invalid("invalid archive: its indexes lie in each other too deep"));
    }
    let bytes = blob(members, &descriptor.digest)?;
    let value: Value = parse(&descriptor.digest, &bytes)?;
    let media_type = value.get("mediaType").and_then(Value::as_str).unwrap_or(&descriptor.media_type);
    if media_type == OCI_INDEX || media_type == DOCKER_LIST || value.get("manifests").is_some() {
        let index: Index = parse(&descriptor.digest, &bytes)?;
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let fits = |found: &OciPlatform| {
            found.os == wanted.os
                && found.architecture == wanted.architecture
                && (wanted.variant.is_empty() || found.variant == wanted.variant)
        };
        for inner in &index.manifests {
            // What is for no platform (an attestation) is no image to run.
            if inner.platform.as_ref().is_none_or(|found| index.manifests.len() == 1 || fits(found)) {
                // An archive need not hold every platform that its index lists.
                let present = path(&inner.digest).is_ok_and(|path| members.has(&path));
                if present && let Some(found) = image(members, inner, platform, depth + 1)? {
                    return Ok(Some(found));
                }
            }
        }
        return Ok(None);
    }
    let manifest: Manifest = parse(&descriptor.digest, &bytes)?;
    let config = manifest.config.ok_or_else(|| {
        Error::invalid(format!("invalid archive: the manifest {} has no configuration", descriptor.digest))
    })?;
    let layers = manifest.layers.iter().map(|layer| Ok((path(&layer.digest)?, Some(layer.digest.parse()?))));
    let layers = layers.collect::<Result<_>>()?;
    Ok(Some(Described { config: blob(members, &config.digest)?, layers, names: Vec::new(), parent: None }))
}

/// A blob that is JSON, verified.
fn blob(members: &Members, digest: &str) -> Result<Vec<u8>> {
    let bytes = members.json(&path(digest)?)?;
    match digest.parse::<Digest>()? == Digest::of(&bytes) {
        true => Ok(bytes),
        false => Err(Error::invalid(format!("invalid archive: the blob {digest} has another digest"))),
    }
}

fn path(digest: &str) -> Result<String> {
    Ok(format!("blobs/sha256/{}", digest.parse::<Digest>()?.hex()))
}

/// The format before Docker 1.10: a folder for each layer, with its JSON that names its parent.
fn legacy(members: &Members) -> Result<Vec<Described>> {
    let repositories: BTreeMap<String, BTreeMap<String, String>> =
        parse("repositories", &members.json("repositories")?)?;
    let mut images: BTreeMap<&String, Vec<Reference>> = BTreeMap::new();
    for (repository, tags) in &repositories {
        for (tag, id) in tags {
            images.entry(id).or_default().push(Reference::parse_tag(&format!("{repository}:{tag}"))?);
        }
    }
    if !images.is_empty() {
        return Err(Error::new(
            crate::Kind::NotImplemented,
            "the archive is of the format before Docker 1.10 (repositories, without manifest.json), which is not \
             supported: load and save it with a Docker of 1.10 to 27",
        ));
    }
    Ok(Vec::new())
}

fn parse<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::invalid(format!("invalid archive: {what}: {error}")))
}
