//! What stands beside images in registries: referrers, and signatures with a key.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hull_tests::registry::{Answer, INDEX, Registry, digest};
use hull_tests::{Daemon, Engine, private_network};
use serde_json::{Value, json};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SIGNED: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

fn setup() -> (Registry, Daemon) {
    private_network();
    (Registry::start(), Daemon::empty(Engine::Hull, &[]))
}

fn openssl(folder: &Path, words: &str) {
    let args = words.split_whitespace();
    let done = Command::new("openssl").args(args).current_dir(folder).output().expect("openssl");
    assert!(done.status.success(), "{words}: {done:?}");
}

/// The signature of a key in a folder over what is signed of an image, as cosign keeps it.
fn signature(registry: &Registry, folder: &Path, key: &str, image: &str) -> Value {
    let payload = json!({ "critical": {
        "identity": { "docker-reference": "" },
        "image": { "docker-manifest-digest": image },
        "type": "cosign container image signature",
    }, "optional": null })
    .to_string();
    std::fs::write(folder.join("payload"), &payload).expect("a file");
    match key {
        "ed25519" => openssl(folder, "pkeyutl -sign -rawin -inkey ed25519.key -in payload -out signature"),
        key => openssl(folder, &format!("dgst -sha256 -sign {key}.key -out signature payload")),
    }
    let signature = STANDARD.encode(std::fs::read(folder.join("signature")).expect("the signature"));
    json!({
        "mediaType": SIGNED, "digest": registry.blob(payload.as_bytes()), "size": payload.len(),
        "annotations": { "dev.cosignproject.cosign/signature": signature },
    })
}

fn manifest(artifact_type: &str, layers: &[Value]) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type,
        "config": { "mediaType": EMPTY, "digest": digest(b"{}"), "size": 2 }, "layers": layers,
    })
}

#[test]
fn what_refers_to_an_image_is_listed() {
    let (registry, daemon) = setup();
    let image = digest(registry.image("1", &[]).to_string().as_bytes());
    let name = format!("{}/a:1", registry.address);
    let list = |args: &[&str]| daemon.hull(&[&["image", "referrers"], args, &[name.as_str()]].concat());
    let none = list(&["--format", "{{.Digest}}"]);
    assert_eq!((none.status, none.stdout.as_str()), (0, ""), "{none:?}");

    // As a registry lists it that knows of it, in two pages; it does not know how to filter.
    let of = |kind: &str, said: &str| json!({ "mediaType": OCI_MANIFEST, "digest": digest(said.as_bytes()), "size": 1500, "artifactType": kind, "annotations": null });
    let (bill, sums) = (of("application/spdx+json", "bill"), of("text/sums", "sums"));
    let pages = [
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [bill] }),
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [sums] }),
    ];
    let path = format!("/v2/a/referrers/{image}");
    registry.misbehave(move |asked, proper| match asked.path.split_once('?') {
        _ if !asked.path.starts_with(&path) => proper,
        Some((_, "page=2")) => Answer::json(200, &pages[1]),
        _ => Answer::json(200, &pages[0]).with("Link", &format!("<{path}?page=2>; rel=\"next\"")),
    });
    let all = list(&[]);
    let table: Vec<Vec<&str>> = all.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        table,
        [
            vec!["DIGEST", "ARTIFACT", "TYPE", "SIZE"],
            vec![digest(b"bill").as_str(), "application/spdx+json", "1.5kB"],
            vec![digest(b"sums").as_str(), "text/sums", "1.5kB"],
        ],
        "{all:?}"
    );
    let some = list(&["--artifact-type", "text/sums", "--format", "{{.Digest}}"]);
    assert_eq!(some.stdout.trim(), digest(b"sums"), "{some:?}");
    assert!(registry.asked().iter().any(|asked| asked.path.ends_with("?artifactType=text/sums")));

    // As clients keep it where the registry does not know of it.
    registry.behave();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [of("text/sums", "kept")] });
    registry.manifest(&image.replace(':', "-"), INDEX, &index);
    let kept = list(&["--format", "{{.Digest}} {{.ArtifactType}}"]);
    assert_eq!(kept.stdout.trim(), format!("{} text/sums", digest(b"kept")), "{kept:?}");
}

#[test]
fn an_image_is_signed_with_a_key_or_not() {
    let (registry, daemon) = setup();
    let folder = daemon.dir().join("work");
    for (key, made) in [
        ("p256", "ecparam -genkey -noout -name prime256v1 -out p256.key"),
        ("other", "ecparam -genkey -noout -name prime256v1 -out other.key"),
        ("rsa", "genrsa -out rsa.key 2048"),
        ("ed25519", "genpkey -algorithm ed25519 -out ed25519.key"),
        ("small", "genpkey -algorithm x25519 -out small.key"),
    ] {
        openssl(&folder, made);
        openssl(&folder, &format!("pkey -in {key}.key -pubout -out {key}.pub"));
    }
    let image = digest(registry.image("1", &[]).to_string().as_bytes());
    let name = format!("{}/a:1", registry.address);
    let verify = |key: &str| {
        let key = folder.join(format!("{key}.pub"));
        daemon.hull(&["image", "verify", "--key", &key.display().to_string(), &name])
    };
    let refused = |key: &str, words: &str| {
        let said = verify(key);
        assert!(said.status == 1 && said.stdout.is_empty() && said.stderr.contains(words), "{said:?}");
    };
    refused("p256", "is not signed");
    let tag = format!("{}.sig", image.replace(':', "-"));
    let signed = |key: &str| signature(&registry, &folder, key, &image);
    registry.manifest(&tag, OCI_MANIFEST, &manifest("", &["p256", "rsa", "ed25519"].map(signed)));
    for key in ["p256", "rsa", "ed25519"] {
        let said = verify(key);
        assert_eq!(said.stdout, format!("{}/a@{image}\n", registry.address), "{key}: {said:?}");
    }
    refused("other", "is not signed with this key: of its 3 signatures none is of it");
    refused("small", "the key is of no kind that is supported");
    std::fs::write(folder.join("word.pub"), "word").expect("a file");
    refused("word", "the key is no public key in PEM");
    refused("none", "no such file or directory");

    // A good signature of another image, put to this one.
    let foreign = signature(&registry, &folder, "p256", &digest(b"another"));
    registry.manifest(&tag, OCI_MANIFEST, &manifest("", std::slice::from_ref(&foreign)));
    refused("p256", "none is of it");
    // One of what was changed afterwards.
    let mut changed = signed("p256");
    changed["digest"] = foreign["digest"].clone();
    registry.manifest(&tag, OCI_MANIFEST, &manifest("", &[changed]));
    refused("p256", "none is of it");

    // As what refers to the image.
    registry.manifest(&tag, OCI_MANIFEST, &manifest("", &[]));
    let artifact = manifest(ARTIFACT, &[signed("p256")]);
    let referrer = registry.manifest("any", OCI_MANIFEST, &artifact);
    let size = artifact.to_string().len();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": OCI_MANIFEST, "digest": referrer, "size": size, "artifactType": ARTIFACT },
    ] });
    registry.manifest(&image.replace(':', "-"), INDEX, &index);
    assert_eq!(verify("p256").status, 0);
    // It is no image, and refused by what it is.
    let pulled = daemon.hull(&["pull", &format!("{}/a:any", registry.address)]);
    assert!(pulled.stderr.contains(&format!("artifact of the type {ARTIFACT}")), "{pulled:?}");
}
