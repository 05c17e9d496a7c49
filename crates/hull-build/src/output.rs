//! Where a build goes, in the words of BuildKit's exporters.

use std::collections::{BTreeMap, BTreeSet};

use hull_engine::Kind;
use hull_image::Image;
use hull_image::compress::{Algorithm, Compress};
use hull_image::dress::{Annotations, Dress};
use hull_image::reference::Reference;
use serde::Deserialize;

use crate::failure::{Failure, Result};

/// An output as clients ask for it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Asked {
    /// `image`, `registry`, …
    #[serde(rename = "Type", alias = "type")]
    pub kind: String,
    /// What more is said of it.
    #[serde(alias = "attrs")]
    pub attrs: BTreeMap<String, String>,
}

/// Where a build goes.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// The names that the image gets.
    pub names: Vec<Reference>,
    /// It goes to the registries of its names.
    pub push: bool,
    /// It is kept there for later builds' steps, and has no name here by it.
    pub cache: bool,
    /// It is built for later builds alone.
    pub nowhere: bool,
    /// What goes are the files of the cache mounts that the build used, and no image.
    pub mounts: bool,
    /// It goes to whoever asks, as an archive of this kind.
    pub archive: Option<Archive>,
    /// Files get the time that is asked for, or not, where somebody said so.
    pub rewrite: Option<bool>,
    /// The files of each platform are in a folder of its own, or not, where somebody said so.
    pub split: Option<bool>,
    /// What goes with it.
    pub dress: Dress,
}

/// What goes to whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    /// The files of the image.
    Files,
    /// The image as Docker's archive.
    Docker,
    /// The image as an OCI layout.
    Oci,
}

impl Output {
    /// The output that is asked for; `tags` are the names that the request gives, `indexed`: an index is made in any case.
    ///
    /// # Errors
    /// There is none such, or it makes no sense.
    pub fn of(asked: Asked, tags: &[String], indexed: bool) -> Result<Output> {
        let wrong = |why: String| Failure::invalid(format!("output type={}: {why}", asked.kind));
        let (push, archive) = match asked.kind.as_str() {
            "image" => (false, None),
            "registry" => (true, None),
            "local" | "tar" => (false, Some(Archive::Files)),
            "docker" => (false, Some(Archive::Docker)),
            "oci" => (false, Some(Archive::Oci)),
            "cacheonly" => (false, None),
            // hull's own: where it has a name it goes there, and to who asks otherwise.
            "cachemounts" => match asked.attrs.get("name").is_some_and(|name| !name.is_empty()) {
                true => (true, None),
                false => (false, Some(Archive::Oci)),
            },
            other => {
                return Err(Failure::new(
                    Kind::NotImplemented,
                    format!(
                        "output type={other} is not supported by hull: it has image, registry, docker, oci, tar, local and cacheonly"
                    ),
                ));
            }
        };
        let mut output = Output { push, archive, ..Output::default() };
        output.nowhere = asked.kind == "cacheonly";
        output.mounts = asked.kind == "cachemounts";
        output.cache = output.mounts || asked.attrs.contains_key("cache");
        let mut names = if output.cache { Vec::new() } else { tags.to_vec() };
        for (name, value) in asked.attrs {
            match name.as_str() {
                "name" => {
                    let given = value.split(',').filter(|name| !name.is_empty());
                    names.extend(given.map(str::to_owned));
                }
                annotation if annotation.starts_with("annotation") => {
                    let (list, key) = annotated(annotation, &mut output.dress)
                        .ok_or_else(|| wrong(format!("{annotation:?} is no kind of annotation")))?;
                    list.insert(key, value);
                }
                _ => output.option(&name, &value).map_err(&wrong)?,
            }
        }
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        output.names =
            names.iter().map(|name| Reference::parse_tag(name)).collect::<hull_image::Result<_>>()?;
        output.check(indexed).map_err(wrong)?;
        output.dress.unnamed = output.cache || output.nowhere;
        Ok(output)
    }

    /// An option with one value.
    fn option(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = || format!("{name}={value:?}: it is true or false");
        let set = || flag(value).ok_or_else(wrong);
        let is_files = self.archive == Some(Archive::Files);
        match name {
            "cache" => self.dress.stages = value == "max",
            "push" => self.push = set()?,
            "push-by-digest" => self.dress.by_digest = set()?,
            "platform-split" if is_files => self.split = Some(set()?),
            "oci-mediatypes" if !is_files => self.dress.oci = Some(set()?),
            "force-compression" if !is_files => self.dress.compress.force = set()?,
            "rewrite-timestamp" => self.rewrite = Some(set()?),
            "store" if self.archive.is_none() => self.nowhere |= !set()?,
            "compression" if !is_files => {
                self.dress.compress.algorithm = Some(match value {
                    "uncompressed" => Algorithm::Uncompressed,
                    "gzip" => Algorithm::Gzip,
                    "zstd" => Algorithm::Zstd,
                    other => {
                        return Err(format!(
                            "compression={other} is not supported by hull: there are gzip, zstd and uncompressed"
                        ));
                    }
                });
            }
            "compression-level" if !is_files => {
                let level = value.parse().map_err(|_| format!("{name}={value:?} is no number"))?;
                self.dress.compress.level = Some(level);
            }
            // A pushed image is known here by its digest there, too; and what stays here is unpacked.
            "name-canonical" | "unpack" if self.archive.is_none() && set()? => {}
            "name-canonical" | "oci-artifact" | "registry.insecure" | "prefer-nondist-layers" if !set()? => {}
            "registry.insecure" => {
                return Err(
                    "which registries are reached without TLS is the daemon's to say (insecure-registries)"
                        .to_owned(),
                );
            }
            "unpack" => {
                return Err(
                    "what stays here is unpacked in any case: unpack=false is not supported".to_owned()
                );
            }
            "name-canonical"
            | "oci-artifact"
            | "prefer-nondist-layers"
            | "dangling-name-prefix"
            | "attestation-prefix"
            | "attestation-inline"
            | "buildinfo"
            | "buildinfo-attrs" => {
                return Err(format!("{name}={value} is not supported by hull"));
            }
            other => return Err(format!("unexpected key {other:?}")),
        }
        Ok(())
    }

    fn check(&self, indexed: bool) -> Result<(), String> {
        let Compress { algorithm, level, .. } = self.dress.compress;
        let leaves = self.push || self.archive.is_some();
        if self.push && self.names.is_empty() {
            return Err("tag is needed when pushing to registry".to_owned());
        }
        if self.push && self.archive.is_some() {
            return Err("an archive goes nowhere but to who asks: push is of type=image".to_owned());
        }
        if self.dress.by_digest && !self.push {
            return Err("push-by-digest is of what is pushed".to_owned());
        }
        if self.nowhere && !self.push && self.archive.is_none() && self.rewrite.is_some() {
            return Err("what stays nowhere has no times".to_owned());
        }
        if !leaves && (self.dress.compress != Compress::default() || self.dress.oci.is_some_and(|oci| !oci)) {
            return Err("what stays here are files, and no compressed layers: compression and media types are of what is pushed \
                        or sent"
                .to_owned());
        }
        if let Some(level) = level {
            let algorithm = algorithm.unwrap_or(Algorithm::Gzip);
            let levels = algorithm.levels();
            if !levels.contains(&level) || algorithm == Algorithm::Uncompressed {
                return Err(format!(
                    "compression-level={level}: there are {} to {} with gzip, and {} to {} with zstd",
                    Algorithm::Gzip.levels().start(),
                    Algorithm::Gzip.levels().end(),
                    Algorithm::Zstd.levels().start(),
                    Algorithm::Zstd.levels().end()
                ));
            }
        }
        if self.dress.oci == Some(false) {
            if algorithm == Some(Algorithm::Zstd) {
                return Err(
                    "compression=zstd needs OCI's media types: leave out oci-mediatypes=false".to_owned()
                );
            }
            if !self.dress.is_without_annotations() {
                return Err("annotations need OCI's media types: leave out oci-mediatypes=false".to_owned());
            }
        }
        if !self.push && self.archive != Some(Archive::Oci) && !self.dress.is_without_annotations() {
            return Err(
                "annotations are of manifests, and an image that stays here has none: push it (--push), or have an OCI layout made (-o type=oci)"
                    .to_owned(),
            );
        }
        if !self.dress.index.is_empty() && !indexed {
            return Err("index annotations not supported for single platform export".to_owned());
        }
        let is_described =
            !self.dress.manifest_descriptor.is_empty() || !self.dress.manifest_descriptor_of.is_empty();
        if is_described && self.push && !indexed {
            return Err(
                "manifest descriptor annotations need an index, which one pushed image has not".to_owned()
            );
        }
        Ok(())
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "" | "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Where an annotation belongs, and its name: `annotation.KEY`, `annotation-index.KEY`, `annotation-manifest[linux/amd64].KEY`.
fn annotated<'a>(text: &str, dress: &'a mut Dress) -> Option<(&'a mut Annotations, String)> {
    // A platform has no dot, and a key may have brackets.
    let (kind, key) = match text.split_once("].") {
        Some((kind, key)) if kind.contains('[') && !kind.contains('.') => (kind, key),
        _ => text.split_once('.')?,
    };
    let (kind, platform) = kind.split_once('[').unwrap_or((kind, ""));
    let list = match (kind, platform) {
        ("annotation" | "annotation-manifest", "") => &mut dress.manifest,
        ("annotation" | "annotation-manifest", platform) => {
            dress.manifest_of.entry(platform.to_owned()).or_default()
        }
        ("annotation-index", _) => &mut dress.index,
        ("annotation-manifest-descriptor", "") => &mut dress.manifest_descriptor,
        ("annotation-manifest-descriptor", platform) => {
            dress.manifest_descriptor_of.entry(platform.to_owned()).or_default()
        }
        _ => return None,
    };
    (!key.is_empty()).then(|| (list, key.to_owned()))
}

/// What a build tells of what it made, under BuildKit's names for it. Of an index of images, what that is alone is told.
pub(crate) fn told(image: Option<&Image>, names: &[Reference]) -> BTreeMap<String, serde_json::Value> {
    let mut told = BTreeMap::new();
    // As Docker has it where an image has no manifest: its configuration stands for it.
    for name in ["containerimage.config.digest", "containerimage.digest"] {
        told.extend(image.map(|image| (name.to_owned(), serde_json::json!(image.id))));
    }
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(Reference::to_string).collect();
        told.insert("image.name".to_owned(), serde_json::json!(names.join(",")));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, attrs: &[(&str, &str)], tags: &[&str]) -> Result<Output> {
        let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Output::of(Asked { kind: kind.to_owned(), attrs }, &tags, false)
    }

    #[test]
    fn outputs_are_read() {
        let output = of("registry", &[("name", "r:1/b,r:1/c"), ("annotation.a", "1")], &["r:1/a"]).unwrap();
        assert_eq!(output.names.len(), 3);
        assert!(output.push && output.dress.manifest["a"] == "1");
        let bracketed =
            of("image", &[("push", "true"), ("annotation-manifest[linux/amd64].x.y", "2")], &["a"]);
        assert_eq!(bracketed.unwrap().dress.manifest_of["linux/amd64"]["x.y"], "2");
        assert!(!of("image", &[], &["a"]).unwrap().push);
    }

    #[test]
    fn options_of_exporters_are_read() {
        let pushed = |attrs: &[(&str, &str)]| of("registry", attrs, &["r:1/a"]);
        let compressed =
            pushed(&[("compression", "zstd"), ("compression-level", "9"), ("force-compression", "true")]);
        let how = Compress { algorithm: Some(Algorithm::Zstd), level: Some(9), force: true };
        assert_eq!(compressed.unwrap().dress.compress, how);
        let other =
            pushed(&[("push-by-digest", "true"), ("name-canonical", "true"), ("oci-mediatypes", "false")]);
        let other = other.unwrap();
        assert!(other.dress.by_digest && other.dress.oci == Some(false));
        assert!(pushed(&[("store", "false")]).unwrap().nowhere);
        assert_eq!(of("local", &[("platform-split", "false")], &[]).unwrap().split, Some(false));
        assert!(
            of("image", &[("cache", "max"), ("push", "true"), ("name", "r:1/a")], &[]).unwrap().dress.stages
        );
        let message = |attrs: &[(&str, &str)]| pushed(attrs).unwrap_err().message;
        assert!(message(&[("compression", "estargz")]).contains("compression=estargz is not supported"));
        assert!(message(&[("compression-level", "10")]).contains("0 to 9 with gzip"));
        assert!(
            message(&[("compression", "zstd"), ("oci-mediatypes", "false")]).contains("OCI's media types")
        );
        assert!(message(&[("registry.insecure", "true")]).contains("insecure-registries"));
        assert!(message(&[("unpack", "false")]).contains("unpack=false is not supported"));
        assert!(
            message(&[("dangling-name-prefix", "x")]).contains("dangling-name-prefix=x is not supported")
        );
        assert!(of("image", &[("compression", "zstd")], &["a"]).unwrap_err().message.contains("stays here"));
        assert!(
            of("local", &[("compression", "zstd")], &["a"]).unwrap_err().message.contains("unexpected key")
        );
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let message = |kind, attrs, tags| of(kind, attrs, tags).unwrap_err().message;
        assert!(message("registry", &[], &[]).contains("tag is needed"));
        assert!(message("image", &[("annotation.a", "1")], &["a"]).contains("--push"));
        assert!(message("registry", &[("annotation-index.a", "1")], &["a"]).contains("index annotations"));
        assert!(message("registry", &[("annotation-what.a", "1")], &["a"]).contains("no kind of annotation"));
        assert!(message("registry", &[("nmae", "1")], &["a"]).contains("unexpected key \"nmae\""));
        assert!(message("vm", &[], &[]).contains("not supported"));
    }
}
