//! Signatures as cosign makes them: the manifest of them, or, where the first byte is no `{`, behind it what was signed.

use hull_image::Digest;
use hull_image::registry::words;

use crate::{Target, as_it_is, outcome};

pub(crate) const TARGET: Target = Target {
    name: "signature",
    about: "manifests of signatures, and what was signed",
    seeds: || {
        let digest = Digest::of(b"image");
        let payload = format!(
            r#"p{{"critical":{{"identity":{{"docker-reference":"r/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"layers":[{{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"{digest}","size":9,"annotations":{{"dev.cosignproject.cosign/signature":"AAAA"}}}}]}}"#
        );
        vec![payload.into_bytes(), manifest.into_bytes()]
    },
    words: json_words![
        "\"critical\":",
        "\"image\":",
        "\"docker-manifest-digest\":",
        "\"type\":",
        "\"optional\":",
        "\"layers\":",
        "\"annotations\":",
        "\"mediaType\":",
        "cosign container image signature",
        "sha256:",
        "sha512:",
    ],
    block: 1,
    repair: as_it_is,
    prepare: || Box::new(read),
};

fn read(input: &[u8]) -> String {
    match input.split_first() {
        Some((first, payload)) if *first != b'{' => {
            let (image, other) = (Digest::of(b"image"), Digest::of(b"other"));
            let is_of = words::is_of(payload, &image);
            // A claim is of one image, and that one is named in it.
            let named = String::from_utf8_lossy(payload).contains(image.hex().as_str());
            assert!(!is_of || named || payload.contains(&b'\\'), "a claim that names nothing");
            assert!(!(is_of && words::is_of(payload, &other)), "a claim of two images");
            format!("claim {is_of}")
        }
        _ => {
            let found = words::signatures(input);
            format!("{} {}", found.as_ref().copied().unwrap_or_default().min(3), outcome(&found))
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn signatures() {
        crate::briefly(&super::TARGET);
    }
}
