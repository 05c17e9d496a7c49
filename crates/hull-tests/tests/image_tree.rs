//! `image tree` and `image diff`: what layers do, told by their files.

use hull_tests::{Daemon, Engine};
use serde_json::{Value, json};

fn docker() -> bool {
    Engine::under_test() == Engine::Docker
}

/// `app:1` adds a megabyte in /srv; `app:2` changes its owner, removes a file, replaces one and a folder.
fn with_images() -> Daemon {
    let daemon = Daemon::start();
    let commit = |name: &str, from: &str, script: &str, to: &str| {
        daemon.ok(&["run", "--name", name, from, "sh", "-ec", script]);
        daemon.ok(&["commit", "-m", &format!("makes {to}"), name, to]);
    };
    let first = "mkdir -p /srv/app/deep; for n in 1 2 3 4; do dd if=/dev/urandom of=/srv/app/$n bs=256k count=1; done; \
                 mkdir /gone; echo a >/gone/a; echo bb >/gone/b; echo x >/etc/x";
    commit("one", "busybox", first, "app:1");
    let second = "chown -R 5:6 /srv/app; rm /etc/x; rm -r /gone; echo a-file >/gone; echo other >/etc/group";
    commit("two", "app:1", second, "app:2");
    daemon
}

#[test]
fn a_tree_tells_what_each_layer_does() {
    if docker() {
        return;
    }
    let daemon = with_images();
    let tree: Value =
        serde_json::from_str(&daemon.ok(&["image", "tree", "--format", "json", "app:2"])).expect("JSON");
    let steps = tree["Steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 3, "{tree}");
    assert_eq!(steps[1]["Comment"], "makes app:1");
    assert_eq!(steps[1]["Layer"]["Added"], json!({ "Files": 7, "Bytes": (4 << 18) + 2 + 3 + 2 }), "{tree}");
    assert_eq!(steps[1]["Layer"]["Changed"]["Files"], 0);
    let last = &steps[2]["Layer"];
    assert_eq!(last["Added"], json!({ "Files": 1, "Bytes": 7 }), "{last}");
    assert_eq!(last["Changed"], json!({ "Files": 5, "Bytes": (4 << 18) + 6 }), "{last}");
    assert_eq!(last["Hidden"], json!({ "Files": 3, "Bytes": 2 + 2 + 3 }), "{last}");
    assert_eq!(
        last["StoredAgain"],
        json!({ "Files": 4, "Bytes": 4 << 18, "Beneath": "/srv/app", "DifferIn": ["owner"] }),
        "{last}"
    );
    let drawn = daemon.ok(&["image", "tree", "app:2"]);
    assert!(
        drawn.contains("stores 4 files beneath /srv/app again, 1.049MB, unchanged: only their owner differs"),
        "{drawn}"
    );
    assert_eq!(
        tree["Size"],
        daemon.ok(&["image", "inspect", "-f", "{{.Size}}", "app:2"]).parse::<u64>().expect("a number")
    );
    let refused = daemon.hull(&["image", "tree", "hull/host"]);
    assert!(refused.status != 0 && refused.stderr.contains("has no layers"), "{refused:?}");
}

#[test]
fn a_diff_tells_what_differs_between_two_images() {
    if docker() {
        return;
    }
    let daemon = with_images();
    daemon.session(
        r#"
        $ hull image diff app:1 app:2
        C /etc/group  10B -> 6B
        D /etc/x  2B
        C /gone  7B
        D /gone/a  2B
        D /gone/b  3B
        C /srv/app
        C /srv/app/1  262.1kB
        C /srv/app/2  262.1kB
        C /srv/app/3  262.1kB
        C /srv/app/4  262.1kB
        C /srv/app/deep
        $ hull image diff app:2 app:2; hull image diff busybox app:1 | head -n 3
        A /etc/x  2B
        A /gone
        A /gone/a  2B
        $ hull image diff --format json app:1 app:2 | jq -c '[.SharedLayers, .Differences[0]]'
        [2,{"Path":"/etc/group","Kind":"Modified","SizeBefore":10,"SizeAfter":6}]
        $ hull image diff app:1 nothing 2>&1
        Error response from daemon: No such image: nothing:latest
        [1]
        "#,
    );
}
