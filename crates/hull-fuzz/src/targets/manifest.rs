//! Manifests and indexes, as a registry gives them: the first byte says what it calls them.

use hull_image::registry::manifest::{
    Content, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Raw, choose, parse,
};
use hull_image::{Digest, Platform};

use crate::{Target, as_it_is, outcome};

const TYPES: [&str; 6] = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "application/json", ""];

pub(crate) const TARGET: Target = Target {
    name: "manifest",
    about: "manifests and indexes of registries",
    seeds,
    words: json_words![
        "\"schemaVersion\":2",
        "\"schemaVersion\":1",
        "\"mediaType\":",
        "\"config\":",
        "\"layers\":",
        "\"manifests\":",
        "\"platform\":",
        "\"annotations\":",
        "\"urls\":",
        "\"digest\":",
        "\"size\":",
        "\"artifactType\":",
        "\"fsLayers\":",
        "\"variant\":",
        "\"os\":",
        "\"architecture\":",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "linux",
        "amd64",
        "arm",
        "v7",
        "sha256:",
    ],
    block: 1,
    repair: as_it_is,
    prepare: || Box::new(read),
};

fn seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"").to_string();
    let with = |kind: usize, text: String| [&[kind as u8][..], text.as_bytes()].concat();
    let layer = format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":9}}"#
    );
    let image = |media_type: &str, config: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"{config}","digest":"{digest}","size":2}},"layers":[{layer},{layer}]}}"#
        )
    };
    let index = |media_type: &str| {
        let one = |os: &str, architecture: &str, variant: &str| {
            format!(
                r#"{{"digest":"{digest}","size":1,"platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}},"annotations":{{"a":"b"}}}}"#
            )
        };
        let list =
            [one("linux", "amd64", ""), one("linux", "arm", "v7"), one("unknown", "unknown", "")].join(",");
        format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{list}]}}"#)
    };
    vec![
        with(0, image(DOCKER_MANIFEST, "application/vnd.docker.container.image.v1+json")),
        with(2, image(OCI_MANIFEST, "application/vnd.oci.image.config.v1+json")),
        with(2, image(OCI_MANIFEST, "application/vnd.cncf.helm.config.v1+json")),
        with(1, index(DOCKER_LIST)),
        with(3, index(OCI_INDEX)),
        with(4, r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned()),
    ]
}

fn read(input: &[u8]) -> String {
    let Some((kind, bytes)) = input.split_first() else { return "nothing".to_owned() };
    let raw = Raw {
        media_type: TYPES[usize::from(*kind) % TYPES.len()].to_owned(),
        digest: Digest::of(bytes),
        bytes: bytes.to_vec().into(),
    };
    match parse(&raw, "a") {
        Ok(Content::Image(image)) => {
            assert!(image.layers.len() <= 400);
            "an image".to_owned()
        }
        Ok(Content::Index(list)) => {
            let found = choose(&list, &Platform::host(), "a");
            if let Err(error) = &found {
                assert!(!error.message.contains(char::is_control) && error.message.len() < 8192, "{error}");
            }
            outcome(&found)
        }
        Err(error) => {
            assert!(error.message.len() < 8192, "{} bytes of words", error.message.len());
            error.message
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn manifests() {
        crate::briefly(&super::TARGET);
    }
}
