//! The daemon dies at each point that changes something: the next one finds nothing half-made.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use hull_tests::registry::Registry;
use hull_tests::{Daemon, Engine, private_network, wait_until};

/// Passes all the points. Each step may fail; what it said is not looked at.
const LIFE: [&[&str]; 18] = [
    &["volume", "create", "kept"],
    &["network", "create", "net"],
    &["create", "--name", "one", "--network", "net", "-v", "kept:/kept", "-v", "/bin", "busybox", "true"],
    &["start", "one"],
    &["wait", "one"],
    &["rename", "one", "two"],
    &["run", "--rm", "-v", "kept:/kept", "busybox", "touch", "/kept/file"],
    &["volume", "clone", "-q", "kept", "twin"],
    &["run", "--rm", "busybox", "true"],
    &["rm", "-fv", "one", "two"],
    &["network", "rm", "net"],
    &["volume", "rm", "kept"],
    &["volume", "rm", "twin"],
    &["pull", "-q", IMAGE],
    &["run", "--name", "changed", IMAGE, "anything"],
    &["commit", "changed", "committed"],
    &["rm", "changed"],
    &["rmi", "committed", IMAGE],
];

/// Stands for the image in the test's registry.
const IMAGE: &str = "IMAGE";

fn live(daemon: &Daemon, image: &str) {
    for step in LIFE {
        let step: Vec<&str> = step.iter().map(|word| if *word == IMAGE { image } else { word }).collect();
        daemon.hull(&step);
    }
}

/// Nothing is half there: what is listed can be removed, then nothing is left, and everything works.
fn is_whole(daemon: &Daemon, point: &str, clean: &dyn Fn(&Daemon) -> [usize; 9]) {
    for list in [["ps", "-aq"], ["volume", "ls"], ["network", "ls"], ["system", "fsck"]] {
        daemon.ok(&list);
    }
    for name in daemon.ok(&["ps", "-aq"]).lines() {
        // One with --rm goes by itself meanwhile.
        daemon.hull(&["rm", "-fv", name]);
    }
    assert_eq!(daemon.ok(&["ps", "-aq"]), "", "behind {point}");
    daemon.ok(&["volume", "prune", "-af"]);
    daemon.ok(&["network", "prune", "-f"]);
    assert_eq!(daemon.ok(&["volume", "ls", "-q"]), "", "behind {point}");
    // The image without which nothing of it works keeps its own layer.
    daemon.ok(&["create", "--name", "keeps", "busybox"]);
    daemon.ok(&["image", "prune", "-af"]);
    daemon.ok(&["rm", "keeps"]);
    let images = daemon.ok(&["images", "-a", "--format", "{{.Repository}}"]);
    assert_eq!(
        images.lines().filter(|name| *name != "hull/host").collect::<Vec<_>>(),
        ["busybox"],
        "behind {point}"
    );
    let run = daemon.ok(&["run", "--rm", "-v", "kept:/kept", "busybox", "echo", "works"]);
    assert_eq!(run, "works", "behind {point}");
    daemon.ok(&["volume", "rm", "kept"]);
    let want = [0; 9];
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while clean(daemon) != want {
        assert!(std::time::Instant::now() < deadline, "left behind {point}: {:?}", clean(daemon));
    }
}

#[test]
fn every_point() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    private_network();
    let registry = Registry::start();
    registry.image("1", &[300_000, 1000]);
    let image = format!("{}/a:1", registry.address);
    let mut daemon = Daemon::start();
    daemon.stop();
    let trace = daemon.dir().join("points");
    let path = trace.display().to_string();
    daemon.set_environment(&[("HULL_FAULT_TRACE", &path)]);
    daemon.begin();
    live(&daemon, &image);
    wait_until("all is removed", Duration::from_secs(10), || daemon.ok(&["ps", "-aq"]).is_empty());
    daemon.stop();
    daemon.set_environment(&[]);
    daemon.begin();
    let base = daemon.census();
    let folders = ["layers", "split", "partial", "tmp"];
    let inside =
        |daemon: &Daemon, folder: &str| fs::read_dir(daemon.dir().join(folder)).map_or(0, Iterator::count);
    let before = folders.map(|folder| inside(&daemon, &format!("data/image/{folder}")));
    let clean = move |daemon: &Daemon| -> [usize; 9] {
        let [layers, split, partial, tmp] = [0, 1, 2, 3]
            .map(|index| inside(daemon, &format!("data/image/{}", folders[index])).abs_diff(before[index]));
        let now = daemon.census();
        let count = |folder: &str| fs::read_dir(daemon.dir().join(folder)).map_or(0, Iterator::count);
        [
            now.cgroups - base.cgroups.min(now.cgroups),
            now.mounts - base.mounts.min(now.mounts),
            count("data/containers"),
            count("exec/c"),
            count("data/volumes"),
            layers,
            split,
            partial,
            tmp,
        ]
    };
    let points: BTreeSet<String> =
        fs::read_to_string(&trace).expect("the points").lines().map(str::to_owned).collect();
    assert!(points.len() >= 30, "{points:?}");
    for of in ["pull", "image", "image remove", "snapshot", "snapshot remove"] {
        assert!(
            points.iter().any(|point| point.starts_with(&format!("{of}: "))),
            "no point of {of}: {points:?}"
        );
    }
    for point in &points {
        daemon.stop();
        let fault = format!("die:{point}");
        daemon.set_environment(&[("HULL_FAULT", &fault)]);
        daemon.begin();
        live(&daemon, &image);
        daemon.kill();
        daemon.set_environment(&[]);
        daemon.begin();
        is_whole(&daemon, &fault, &clean);
    }
}

#[test]
fn a_creation_that_fails_keeps_no_image_for_its_mounts() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.stop();
    daemon.set_environment(&[("HULL_FAULT", "fail:create: snapshot made")]);
    daemon.begin();
    let mount = |at: &str| format!("type=image,source=busybox,target={at}");
    let (one, two) = (mount("/one"), mount("/two"));
    let said = daemon.hull(&["create", "--tmpfs", "/t", "--mount", &one, "--mount", &two, "busybox"]);
    assert_ne!(said.status, 0, "{said:?}");
    assert_eq!(fs::read_dir(daemon.dir().join("data/image/snapshots")).map_or(0, Iterator::count), 0);
    let whole = daemon.ok(&["system", "fsck"]);
    assert!(whole.contains(" 0 snapshots, 0 containers") && whole.contains("nothing is wrong"), "{whole}");
}

#[test]
fn a_removal_that_fails_ends_the_wait_for_it() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.stop();
    daemon.set_environment(&[("HULL_FAULT", "fail:containers: delete")]);
    daemon.begin();
    daemon.ok(&["create", "--rm", "--name", "stays", "busybox", "true"]);
    daemon.ok(&["start", "stays"]);
    let waited = daemon.api().post_empty("/containers/stays/wait?condition=removed").expect("an answer");
    let told = waited.json()["Error"]["Message"].as_str().unwrap_or_default().to_owned();
    assert!(told.contains("fault point"), "{}", waited.text());
}

#[test]
fn a_creation_that_fails_is_undone() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    let mounts = daemon.census().mounts;
    daemon.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "scratch"]);
    for step in ["mounts acquired", "snapshot made", "volumes filled"] {
        daemon.stop();
        let fault = format!("fail:create: {step}");
        daemon.set_environment(&[("HULL_FAULT", &fault)]);
        daemon.begin();
        let body = serde_json::json!({
            "Image": "busybox", "Volumes": { "/data": {} }, "HostConfig": { "Binds": ["scratch:/scratch"] },
        });
        let created = daemon.api().post("/containers/create?name=half", &body).expect("an answer");
        assert!(created.text().contains("fault point"), "{}", created.text());
        // Its name and its volume are free, and what was nameless is gone.
        assert_eq!(daemon.ok(&["volume", "ls", "-q"]), "scratch", "after {step}");
        assert_eq!(daemon.census().mounts, mounts, "after {step}");
        let left = fs::read_dir(daemon.dir().join("data/containers")).expect("the folder").count();
        assert_eq!(left, 0, "after {step}");
    }
    daemon.stop();
    daemon.set_environment(&[]);
    daemon.begin();
    daemon.ok(&["create", "--name", "half", "-v", "scratch:/scratch", "busybox", "true"]);
    daemon.ok(&["rm", "half"]);
    daemon.ok(&["volume", "rm", "scratch"]);
}
