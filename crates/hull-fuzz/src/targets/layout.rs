//! OCI layouts whose blobs are what their digests say: the documents of one, each behind a line `---`. The first is
//! `index.json`; the
//! others are blobs, which are named by their number: `@digest-1`, `@size-1`. A layer is there as `@digest-0`.

use std::io;

use hull_image::{Digest, Store};
use serde_json::json;

use super::tar::{Walls, archive, member};
use crate::{Once, Target, as_it_is, outcome};

const MARK: &[u8] = b"\n---\n";

pub(crate) const TARGET: Target = Target {
    name: "oci-layout",
    about: "indexes, manifests and configurations of an OCI layout",
    seeds,
    words: json_words![
        "\n---\n",
        "@digest-0",
        "@digest-1",
        "@digest-2",
        "@digest-3",
        "@size-1",
        "@size-2",
        "@diff",
        "\"manifests\":",
        "\"layers\":",
        "\"config\":",
        "\"mediaType\":",
        "\"platform\":",
        "\"annotations\":",
        "\"os\":",
        "\"architecture\":",
        "\"variant\":",
        "\"rootfs\":",
        "\"diff_ids\":",
        "\"history\":",
        "\"empty_layer\":true",
        "\"org.opencontainers.image.ref.name\":",
        "\"io.containerd.image.name\":",
        "\"data\":",
        "\"urls\":",
        "\"artifactType\":",
        "\"subject\":",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "../",
    ],
    block: 1,
    repair: as_it_is,
    prepare,
};

fn seeds() -> Vec<Vec<u8>> {
    let entry = |number: u8, kind: &str| {
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}.v1+json"), "digest": format!("@digest-{number}"),
            "size": format!("@size-{number}"), "platform": { "os": "linux", "architecture": "amd64" },
            "annotations": { "io.containerd.image.name": "a:1", "org.opencontainers.image.ref.name": "1" } })
    };
    let index = |list: &[serde_json::Value]| json!({ "schemaVersion": 2, "manifests": list }).to_string();
    let manifest = |config: u8| {
        json!({ "schemaVersion": 2, "config": { "digest": format!("@digest-{config}"), "size": format!("@size-{config}"),
            "mediaType": "application/vnd.oci.image.config.v1+json" },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "@digest-0", "size": "@size-0" }] })
        .to_string()
    };
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": ["@digest-0"] },
        "config": { "Env": ["A=b"], "Labels": { "a": "b" } }, "history": [{ "created_by": "x" }, { "created_by": "y", "empty_layer": true }] })
    .to_string();
    let joined = |documents: &[String]| documents.join("\n---\n").into_bytes();
    vec![
        joined(&[index(&[entry(1, "manifest")]), manifest(2), config.clone()]),
        // An index in an index, and two images.
        joined(&[
            index(&[entry(1, "index"), entry(2, "manifest")]),
            index(&[entry(2, "manifest")]),
            manifest(3),
            config,
        ]),
    ]
}

/// The archive of an input. A document may name those behind it.
fn layout(input: &[u8], layer: &[u8]) -> Vec<u8> {
    let mut documents = Vec::new();
    let mut rest = input;
    while let Some(end) =
        rest.windows(MARK.len()).position(|window| window == MARK).filter(|_| documents.len() < 9)
    {
        documents.push(rest[..end].to_vec());
        rest = &rest[end + MARK.len()..];
    }
    documents.push(rest.to_vec());
    let mut names: Vec<(usize, String, String)> = vec![named(0, layer)];
    let mut members = vec![blob(layer)];
    for number in (0..documents.len()).rev() {
        let document = filled(&documents[number], &names);
        if number == 0 {
            members.push(member("index.json", &document));
        } else {
            members.push(blob(&document));
            names.push(named(number, &document));
        }
    }
    members.push(member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#));
    archive(&members)
}

fn blob(bytes: &[u8]) -> Vec<u8> {
    member(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes)
}

fn named(number: usize, bytes: &[u8]) -> (usize, String, String) {
    (number, Digest::of(bytes).to_string(), bytes.len().to_string())
}

/// With digests and sizes in the places of their marks; a size loses the quotation marks around it.
fn filled(document: &[u8], names: &[(usize, String, String)]) -> Vec<u8> {
    let mut text = document.to_vec();
    for (number, digest, size) in names {
        for (mark, value) in [
            (format!("@digest-{number}"), digest),
            (format!("\"@size-{number}\""), size),
            (format!("@size-{number}"), size),
        ] {
            while let Some(at) = text.windows(mark.len()).position(|window| window == mark.as_bytes()) {
                text.splice(at..at + mark.len(), value.bytes());
            }
        }
    }
    text
}

fn prepare() -> Once {
    let walls = Walls::new();
    let store = Store::open(&walls.inner, &[]).expect("a store");
    let layer = archive(&[member("file", b"contents")]);
    Box::new(move |input| {
        let loaded = store.load(&mut &layout(input, &layer)[..], None, &|_| {});
        for image in store.images().iter().filter(|image| !image.builtin) {
            let id = image.id.to_string();
            store
                .save(std::slice::from_ref(&id), &mut io::sink())
                .expect("an image is given back as it came");
            store.remove(&id, true, true, &|_| None).expect("what was loaded can be removed");
        }
        super::tar::is_empty(&walls, &store);
        outcome(&loaded)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn layouts() {
        // What is well-formed is loaded.
        let mut once = (super::TARGET.prepare)();
        let said: Vec<String> = (super::TARGET.seeds)().iter().map(|seed| once(seed)).collect();
        assert_eq!(said, ["done", "done"]);
        crate::briefly(&super::TARGET);
    }
}
