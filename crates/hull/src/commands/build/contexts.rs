//! `--build-context NAME=…`: what names stand for in the Dockerfile, beside or instead of images and stages.

use std::collections::BTreeSet;
use std::path::Path;

use hull_api::is_elsewhere;
use serde_json::{Value, json};

use super::pack::{self, Packed};
use crate::error::{Error, words};

/// What the daemon is told of them, and what is sent of them, in the same order.
pub(super) fn named(texts: &[String]) -> Result<(Vec<Value>, Vec<Packed>), Error> {
    let (mut told, mut sent, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
    for text in texts {
        let wrong = |why: String| Error::flag(format!("--build-context {text}: {why}"));
        let (name, value) = text
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| {
                wrong(
                    "expected NAME=FOLDER, an address, docker-image://IMAGE or oci-layout://FOLDER"
                        .to_owned(),
                )
            })?;
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(wrong("the name stands for another context already".to_owned()));
        }
        let (kind, value, packed) = match value.split_once("://") {
            Some(("docker-image", image)) => ("image", image, None),
            Some(("oci-layout", layout)) => ("layout", "", Some(layout_of(layout).map_err(wrong)?)),
            _ if is_elsewhere(value) => ("address", value, None),
            Some((scheme, _)) => {
                return Err(wrong(format!("{scheme}:// is no kind of context")));
            }
            None => ("folder", "", Some(folder_of(Path::new(value)).map_err(wrong)?)),
        };
        told.push(json!({ "name": name, "kind": kind, "value": value }));
        sent.extend(packed);
    }
    Ok((told, sent))
}

fn folder_of(path: &Path) -> Result<Packed, String> {
    if !path.is_dir() {
        return Err(format!("{} is no folder", path.display()));
    }
    let ignore = pack::ignore(path, None).map_err(|error| error.message().to_owned())?;
    Ok(Packed::folder(path.to_owned(), ignore))
}

/// An OCI layout: its folder, and the tag or digest of the image that is meant, where it has several.
pub(super) fn layout_of(text: &str) -> Result<Packed, String> {
    let (path, wanted) = match text.split_once('@') {
        Some((path, digest)) => (path, Some(("digest", digest))),
        None => match text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((path, tag)) => (path, Some(("tag", tag))),
            None => (text, None),
        },
    };
    let path = Path::new(path);
    let file = path.join("index.json");
    let bytes = std::fs::read(&file).map_err(|error| {
        format!("{} is no OCI layout: read {}: {}", path.display(), file.display(), words(&error))
    })?;
    let index: Value =
        serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", file.display()))?;
    let all = index["manifests"].as_array().cloned().unwrap_or_default();
    let fits = |entry: &&Value| match wanted {
        None => true,
        Some(("digest", digest)) => entry["digest"] == digest,
        Some((_, tag)) => {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or_default();
            name == tag || name.rsplit_once(':').is_some_and(|(_, of_name)| of_name == tag)
        }
    };
    let mut digests = BTreeSet::new();
    let mut found: Vec<&Value> = all.iter().filter(fits).collect();
    // The same image under several names is one.
    found.retain(|entry| digests.insert(entry["digest"].to_string()));
    let [one] = found[..] else {
        let what = wanted.map_or_else(String::new, |(kind, value)| format!(" with the {kind} {value}"));
        return Err(format!(
            "{} has {} images{what} where one is wanted: name it as FOLDER:TAG or FOLDER@DIGEST",
            path.display(),
            found.len()
        ));
    };
    let mut one = one.clone();
    // Its names are the layout's; the build knows it by another.
    if let Some(entry) = one.as_object_mut() {
        entry.remove("annotations");
    }
    let index = json!({ "schemaVersion": 2, "manifests": [one] });
    Ok(Packed::Layout(path.to_owned(), index.to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_one_thing_each() {
        let told = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            named(&texts).map(|(told, _)| told).map_err(|error| error.message().to_owned())
        };
        assert_eq!(
            told(&["a=docker-image://r/x:1"]).unwrap(),
            [json!({ "name": "a", "kind": "image", "value": "r/x:1" })]
        );
        assert!(told(&["a=docker-image://x", "A=docker-image://y"]).unwrap_err().contains("already"));
        assert!(told(&["a=/no/such"]).unwrap_err().contains("no folder"));
        assert!(told(&["a"]).is_err() && told(&["=x"]).is_err() && told(&["a=ftp://x"]).is_err());
    }

    #[test]
    fn one_image_of_a_layout_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let entry = |digest: &str, tag: &str| json!({ "digest": digest, "annotations": { "org.opencontainers.image.ref.name": tag } });
        let index = json!({ "manifests": [entry("sha256:a", "1"), entry("sha256:b", "x:2"), entry("sha256:a", "3")] });
        std::fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
        let found = |suffix: &str| match layout_of(&format!("{}{suffix}", folder.path().display())) {
            Ok(Packed::Layout(_, index)) => {
                let index: Value = serde_json::from_slice(&index).unwrap();
                index["manifests"][0]["digest"].as_str().unwrap().to_owned()
            }
            Ok(_) => "something else".to_owned(),
            Err(error) => error,
        };
        assert_eq!(
            [":1", ":2", "@sha256:b", ":3"].map(found),
            ["sha256:a", "sha256:b", "sha256:b", "sha256:a"]
        );
        assert!(found("").contains("has 2 images") && found(":9").contains("with the tag 9"));
    }
}
