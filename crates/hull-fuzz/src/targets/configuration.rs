//! Configurations of images: read, entered into a store as an image without layers, and shown.

use hull_image::{ImageConfig, Store};
use serde_json::json;

use super::tar::{archive, member, scratch};
use crate::{Once, Target, as_it_is};

pub(crate) const TARGET: Target = Target {
    name: "configuration",
    about: "configurations of images",
    seeds,
    words: json_words![
        "\"architecture\":",
        "\"os\":",
        "\"config\":",
        "\"Env\":",
        "\"Cmd\":",
        "\"Entrypoint\":",
        "\"Healthcheck\":",
        "\"ExposedPorts\":",
        "\"Volumes\":",
        "\"Labels\":",
        "\"rootfs\":",
        "\"diff_ids\":",
        "\"history\":",
        "\"created\":",
        "\"empty_layer\":",
        "\"OnBuild\":",
        "\"Shell\":",
        "\"StopSignal\":",
        "\"80/tcp\":{}",
        "windows",
        "linux",
    ],
    block: 1,
    repair: as_it_is,
    prepare,
};

fn seeds() -> Vec<Vec<u8>> {
    let whole = json!({
        "architecture": "amd64", "variant": "v2", "os": "linux", "author": "a", "comment": "c", "created": "2024-01-02T03:04:05.6Z",
        "container": "x", "docker_version": "20", "os.version": "1", "rootfs": { "type": "layers", "diff_ids": [] },
        "config": {
            "User": "1:2", "ExposedPorts": { "80/tcp": {} }, "Env": ["A=b"], "Entrypoint": ["/e"], "Cmd": ["c"],
            "Volumes": { "/v": {} }, "WorkingDir": "/w", "Labels": { "l": "m" }, "StopSignal": "SIGINT", "OnBuild": ["RUN x"],
            "Shell": ["/bin/sh"], "Healthcheck": { "Test": ["CMD", "t"], "Interval": 1_000_000_000u64, "Retries": 3 },
        },
        "history": [{ "created": "2024-01-02T03:04:05Z", "created_by": "x", "empty_layer": true, "comment": "y" }],
    });
    [
        whole,
        json!({}),
        json!({ "config": null, "history": null, "rootfs": { "type": "layers", "diff_ids": null } }),
    ]
    .iter()
    .map(|config| config.to_string().into_bytes())
    .collect()
}

fn prepare() -> Once {
    let folder = scratch();
    let store = Store::open(&folder.path().join("store"), &[]).expect("a store");
    Box::new(move |input| {
        let _stays = &folder;
        read(&store, input)
    })
}

fn read(store: &Store, input: &[u8]) -> String {
    let parsed: ImageConfig = match serde_json::from_slice(input) {
        Ok(parsed) => parsed,
        Err(error) => return error.to_string(),
    };
    // What is derived from it loses nothing.
    let written = serde_json::to_vec(&parsed).expect("a configuration can be written");
    let again: ImageConfig = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(parsed, again);
    let manifest = br#"[{"Config":"config.json","RepoTags":["fuzz:1"],"Layers":[]}]"#;
    let tar = archive(&[member("manifest.json", manifest), member("config.json", input)]);
    match store.load(&mut &tar[..], None, &|_| {}) {
        Ok(_) => {
            let image = store.resolve("fuzz:1").expect("what was loaded is there");
            let shown = (store.history(&image).len(), image.container_config());
            store.save(&["fuzz:1".to_owned()], &mut std::io::sink()).expect("what was loaded can be saved");
            store.remove("fuzz:1", true, true, &|_| None).expect("what was loaded can be removed");
            format!("loaded, {} steps, {}", shown.0 > 0, shown.1 == Default::default())
        }
        Err(error) => error.message,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn configurations() {
        crate::briefly(&super::TARGET);
    }
}
