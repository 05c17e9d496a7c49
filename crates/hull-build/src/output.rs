//! Where a build goes, in the words of BuildKit's exporters.

use std::collections::{BTreeMap, BTreeSet};

use hull_engine::Kind;
use hull_image::Image;
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
    /// It goes to whoever asks, as an archive of this kind.
    pub archive: Option<Archive>,
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
    /// The output that is asked for; `tags` are the names that the request gives, `attested`: there are attestations.
    ///
    /// # Errors
    /// There is none such, or it makes no sense.
    pub fn of(asked: Asked, tags: &[String], attested: bool) -> Result<Output> {
        let wrong = |why: String| Failure::invalid(format!("output type={}: {why}", asked.kind));
        let (push, archive) = match asked.kind.as_str() {
            "image" => (false, None),
            "registry" => (true, None),
            "local" | "tar" => (false, Some(Archive::Files)),
            "docker" => (false, Some(Archive::Docker)),
            "oci" => (false, Some(Archive::Oci)),
            "cacheonly" => (false, None),
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
        output.cache = asked.attrs.contains_key("cache");
        let mut names = if output.cache { Vec::new() } else { tags.to_vec() };
        for (name, value) in asked.attrs {
            match name.as_str() {
                "cache" if flag(&value) == Some(true) => {}
                "name" if !value.is_empty() => names.extend(value.split(',').map(str::to_owned)),
                "name" => {}
                "push" => {
                    output.push =
                        flag(&value).ok_or_else(|| wrong(format!("push={value:?}: it is true or false")))?
                }
                // What it says is so in any case, where it is not denied.
                "oci-mediatypes" | "store" if flag(&value) == Some(true) => {}
                "compression" if value == if archive.is_some() { "uncompressed" } else { "gzip" } => {}
                annotation if annotation.starts_with("annotation") => {
                    let (list, key) = annotated(annotation, &mut output.dress)
                        .ok_or_else(|| wrong(format!("{annotation:?} is no kind of annotation")))?;
                    list.insert(key, value);
                }
                other => return Err(wrong(format!("unexpected key {other:?}"))),
            }
        }
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        output.names =
            names.iter().map(|name| Reference::parse_tag(name)).collect::<hull_image::Result<_>>()?;
        output.check(attested).map_err(wrong)?;
        Ok(output)
    }

    fn check(&self, attested: bool) -> Result<(), String> {
        if self.push && self.names.is_empty() {
            return Err("tag is needed when pushing to registry".to_owned());
        }
        if self.push && self.archive.is_some() {
            return Err("an archive goes nowhere but to who asks: push is of type=image".to_owned());
        }
        if !self.push && self.archive != Some(Archive::Oci) && !self.dress.is_plain() {
            return Err(
                "annotations are of manifests, and an image that stays here has none: push it (--push), or have an OCI layout made (-o type=oci)"
                    .to_owned(),
            );
        }
        if !self.dress.index.is_empty() && !attested {
            return Err("index annotations not supported for single platform export".to_owned());
        }
        if !self.dress.manifest_descriptor.is_empty() && self.push && !attested {
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
    let (kind, key) = text.split_once('.')?;
    let kind = kind.split('[').next().unwrap_or(kind);
    let list = match kind {
        "annotation" | "annotation-manifest" => &mut dress.manifest,
        "annotation-index" => &mut dress.index,
        "annotation-manifest-descriptor" => &mut dress.manifest_descriptor,
        _ => return None,
    };
    (!key.is_empty()).then(|| (list, key.to_owned()))
}

/// What a build tells of what it made, under BuildKit's names for it.
pub(crate) fn told(image: &Image, names: &[Reference]) -> BTreeMap<String, serde_json::Value> {
    let mut told = BTreeMap::from([
        ("containerimage.config.digest".to_owned(), serde_json::json!(image.id)),
        // As Docker has it where an image has no manifest: its configuration stands for it.
        ("containerimage.digest".to_owned(), serde_json::json!(image.id)),
    ]);
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
        assert_eq!(bracketed.unwrap().dress.manifest["x.y"], "2");
        assert!(!of("image", &[], &["a"]).unwrap().push);
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
