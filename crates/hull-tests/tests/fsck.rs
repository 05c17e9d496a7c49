//! `system fsck`: all that is on the disk is accounted for.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hull_tests::{Client, Daemon, Engine, wait_until};
use serde_json::Value;

fn docker() -> bool {
    Engine::under_test() == Engine::Docker
}

fn data(daemon: &Daemon, path: &str) -> PathBuf {
    daemon.dir().join("data").join(path)
}

/// The exit status, and the findings as `wrong what`.
fn fsck(daemon: &Daemon, options: &[&str]) -> (i32, Vec<String>) {
    let output = daemon.hull(&[&["system", "fsck", "--format", "json"], options].concat());
    let told: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let line = |finding: &Value| {
        let done = if finding["Repaired"] == true { ", repaired" } else { "" };
        let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}{done}", text("Wrong"), text("What"))
    };
    let mut findings: Vec<String> = told["Findings"].as_array().expect("findings").iter().map(line).collect();
    findings.sort();
    (output.status, findings)
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "-v",
        "data:/v",
        "-v",
        "/anonymous",
        "busybox",
        "sleep",
        "600",
    ]);
    daemon.ok(&["commit", "box", "made"]);
    daemon.session(
        r#"
        $ hull system fsck --contents
        2 images, 2 layers, 1 snapshots, 1 containers, 2 volumes, 3 networks: nothing is wrong
        $ hull system fsck --repair
        2 images, 2 layers, 1 snapshots, 1 containers, 2 volumes, 3 networks: nothing is wrong
        "#,
    );
}

#[test]
fn orphans_are_found_and_go_and_files_are_kept() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    for folder in [
        "image/layers/zz/a",
        "image/snapshots/lost/upper",
        "containers/0123",
        "volumes/lost/_data",
        "volumes/empty/_data",
    ] {
        fs::create_dir_all(data(&daemon, folder)).expect("a folder");
    }
    for file in ["image/split/zz", "volumes/lost/_data/file", "image/strange", "stranger"] {
        fs::write(data(&daemon, file), "x").expect("a file");
    }
    let wanted = |repaired: &str| {
        vec![
            format!("orphan a folder of layers without a row{repaired}"),
            format!("orphan a folder of split without a row{repaired}"),
            format!("orphan an empty folder of a volume without a row{repaired}"),
            format!("orphan snapshot lost{repaired}"),
            "orphan something in the data root".to_owned(),
            "orphan something in the image store".to_owned(),
            format!("orphan the folder of a container without a row{repaired}"),
            format!("orphan the folder of a volume without a row{repaired}"),
        ]
    };
    assert_eq!(fsck(&daemon, &[]), (4, wanted("")));
    assert_eq!(fsck(&daemon, &["--repair"]), (4, wanted(", repaired")));
    fs::remove_file(data(&daemon, "image/strange")).expect("it stays");
    fs::remove_file(data(&daemon, "stranger")).expect("it stays");
    assert_eq!(fsck(&daemon, &[]), (0, vec![]));
    assert_eq!(daemon.ok(&["volume", "ls", "-q"]), "lost", "what is someone's is not removed");
    assert!(data(&daemon, "volumes/lost/_data/file").exists());
    fs::create_dir_all(data(&daemon, "containers/4567")).expect("a folder");
    assert_eq!(fsck(&daemon, &["--repair"]).0, 1, "all was repaired");
}

#[test]
fn what_is_missing_or_damaged_is_found() {
    if docker() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&["create", "--name", "box", "-v", "data:/v", "busybox", "true"]);
    let id = daemon.ok(&["inspect", "-f", "{{.Id}}", "box"]);
    let layers: Vec<_> = fs::read_dir(data(&daemon, "image/layers"))
        .expect("layers")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name != "0"))
        .collect();
    fs::write(layers[0].join("etc/group"), "changed by hand").expect("a file");
    assert_eq!(fsck(&daemon, &[]), (0, vec![]), "sizes are not looked at without --contents");
    let (status, findings) = fsck(&daemon, &["--contents"]);
    assert!(
        status == 4 && findings.len() == 1 && findings[0].starts_with("damaged layer sha256:"),
        "{findings:?}"
    );
    fs::remove_dir_all(data(&daemon, "volumes/data")).expect("a folder");
    fs::remove_dir_all(data(&daemon, &format!("image/snapshots/{id}/work"))).expect("a folder");
    let wanted = vec![
        "missing the files of the volume data".to_owned(),
        "missing the writable layer of the container box".to_owned(),
    ];
    assert_eq!(fsck(&daemon, &[]), (4, wanted));
    fs::remove_dir_all(&layers[0]).expect("a folder");
    let (status, findings) = fsck(&daemon, &["--repair"]);
    assert!(
        status == 4 && findings.iter().any(|told| told.starts_with("missing layer sha256:")),
        "{findings:?}"
    );
    assert!(findings.contains(&"missing the files of the volume data, repaired".to_owned()), "{findings:?}");
    daemon.stop();
    daemon.begin();
}

#[test]
fn a_policy_lets_nobody_repair() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    let socket = daemon.dir().join("guarded.sock");
    let path = socket.to_str().expect("plain letters");
    daemon.ok(&["system", "socket", "add", path, "no-binds"]);
    let mut api = Client::new(&socket);
    assert_eq!(api.get("/hull/fsck").expect("an answer").status, 200);
    assert_eq!(api.post_empty("/hull/fsck").expect("an answer").status, 403);
}

#[test]
fn a_container_whose_image_was_lost_is_given_its_files_again() {
    if docker() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&["save", "-o", "busybox.tar", "busybox"]);
    daemon.ok(&["create", "--name", "box", "busybox", "sh", "-c", "echo whole; touch /mine"]);
    let id = daemon.ok(&["inspect", "-f", "{{.Id}}", "box"]);
    daemon.stop();
    // As after a power cut: what it stands on is not there.
    fs::remove_file(data(&daemon, &format!("image/snapshots/{id}/base"))).expect("a link");
    daemon.begin();
    daemon.ok(&["rmi", "-f", "busybox"]);
    let missing = "missing the writable layer of the container box";
    assert_eq!(fsck(&daemon, &["--repair"]), (4, vec![missing.to_owned()]));
    let told = daemon.hull(&["system", "fsck"]).stdout;
    assert!(
        told.contains("its image busybox (") && told.contains("load or pull it again and repair"),
        "{told}"
    );
    let refused = daemon.hull(&["start", "-a", "box"]);
    assert!(refused.stderr.contains("hull system fsck --repair"), "{refused:?}");
    daemon.ok(&["load", "-i", "busybox.tar"]);
    assert_eq!(fsck(&daemon, &[]), (4, vec![missing.to_owned()]));
    assert_eq!(fsck(&daemon, &["--repair"]), (1, vec![format!("{missing}, repaired")]));
    assert_eq!(daemon.ok(&["start", "-a", "box"]), "whole");
    assert_eq!(daemon.ok(&["diff", "box"]), "A /mine");
    // What it stands on is used again.
    assert_ne!(daemon.hull(&["rmi", "busybox"]).status, 0);
    assert_eq!(fsck(&daemon, &[]), (0, vec![]));
}

#[test]
fn what_a_container_wrote_outlives_the_loss_of_its_image() {
    if docker() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&["save", "-o", "busybox.tar", "busybox"]);
    daemon.ok(&["run", "--name", "box", "busybox", "sh", "-c", "echo precious >/mine; rm /bin/ls"]);
    daemon.ok(&["create", "--name", "other", "busybox", "true"]);
    daemon.stop();
    let layers = fs::read_dir(data(&daemon, "image/layers")).expect("the layers").flatten();
    for layer in layers.filter(|layer| layer.file_name() != "0") {
        fs::remove_dir_all(layer.path()).expect("a layer goes");
    }
    daemon.begin();
    let (other, mine) = (
        "missing the writable layer of the container other",
        "missing the writable layer of the container box",
    );
    let mut found = fsck(&daemon, &["--repair"]);
    found.1.sort();
    assert_eq!(found, (4, vec![mine.to_owned(), other.to_owned()]));
    let refused = daemon.hull(&["cp", "box:/mine", "-"]);
    assert!(refused.stderr.contains("hull system fsck --repair"), "{refused:?}");
    // It goes without a trace where its user has had enough of it.
    daemon.ok(&["rm", "other"]);
    daemon.ok(&["load", "-i", "busybox.tar"]);
    let told = daemon.hull(&["system", "fsck"]).stdout;
    assert!(told.contains("with --repair box stands on its image again, with what it had written"), "{told}");
    assert_eq!(fsck(&daemon, &["--repair"]), (1, vec![format!("{mine}, repaired")]));
    assert_eq!(daemon.ok(&["diff", "box"]), "C /bin\nD /bin/ls\nA /mine");
    assert_ne!(daemon.hull(&["rmi", "busybox"]).status, 0, "it is used again");
    // And so it is for the next daemon.
    daemon.kill();
    daemon.begin();
    let copied = daemon.dir().join("work/mine");
    daemon.ok(&["cp", "box:/mine", copied.to_str().expect("a path")]);
    assert_eq!(fs::read_to_string(copied).expect("it came"), "precious\n");
    assert_eq!(fsck(&daemon, &[]), (0, vec![]));
}

#[test]
fn containers_outlive_the_loss_of_the_images_database() {
    if docker() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&["save", "-o", "busybox.tar", "busybox"]);
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sh", "-c", "echo precious >/mine; exec sleep 600"]);
    hull_tests::wait_until("it has written", hull_tests::PATIENCE, || {
        daemon.hull(&["exec", "box", "cat", "/mine"]).status == 0
    });
    daemon.kill();
    for file in ["image.db", "image.db-wal", "image.db-shm"] {
        fs::remove_file(data(&daemon, &format!("image/{file}"))).ok();
    }
    daemon.begin();
    assert_eq!(daemon.ok(&["exec", "box", "sh", "-c", "ls /bin/sh /mine"]), "/bin/sh\n/mine", "it runs on");
    let of_box = "missing the writable layer of the container box";
    let lost = "orphan 1 layers (";
    let (status, findings) = fsck(&daemon, &["--repair"]);
    assert!(
        status == 4 && findings.len() == 2 && findings[0] == of_box && findings[1].starts_with(lost),
        "{findings:?}"
    );
    assert!(!findings[1].contains("repaired"), "a container runs on it: {findings:?}");
    let told_by_df = |what: &str| {
        let told = daemon.ok(&["system", "df"]);
        let line = told.lines().find(|line| line.contains("1 layers whose database is gone"));
        assert!(line.is_some_and(|line| line.contains("/image/lost/1; ") && line.contains(what)), "{told}");
    };
    told_by_df("containers run on them");
    assert_eq!(daemon.ok(&["exec", "box", "cat", "/etc/group", "/mine"]).lines().last(), Some("precious"));
    // Its image, and another that must not be taken for it.
    daemon.ok(&["load", "-i", "busybox.tar"]);
    daemon.ok(&["kill", "box"]);
    told_by_df("to remove them: \"hull system fsck --repair\"");
    let (status, findings) = fsck(&daemon, &["--repair"]);
    assert!(!daemon.ok(&["system", "df", "-v"]).contains("whose database is gone"));
    assert!(
        status == 1 && findings.len() == 2 && findings.iter().all(|told| told.ends_with(", repaired")),
        "{findings:?}"
    );
    assert_eq!(fsck(&daemon, &[]), (0, vec![]));
    daemon.kill();
    daemon.begin();
    daemon.ok(&["start", "box"]);
    assert_eq!(daemon.ok(&["diff", "box"]), "A /mine");
    daemon.ok(&["rm", "-f", "box"]);
    daemon.ok(&["rmi", "busybox"]);
    assert_eq!(fsck(&daemon, &[]), (0, vec![]));
}

#[test]
fn a_removal_that_a_power_cut_divided_is_finished() {
    if docker() {
        return;
    }
    let mut daemon = Daemon::start();
    let [gone, stays] = ["gone", "stays"].map(|name| {
        daemon.ok(&["create", "--name", name, "-v", "data:/v", "busybox", "true"]).trim().to_owned()
    });
    daemon.kill();
    // The folder's rename was on the disk, and the deletion of the row was not.
    let folder = data(&daemon, &format!("containers/{gone}"));
    fs::rename(&folder, folder.with_extension("gone")).expect("it is there");
    fs::remove_dir_all(data(&daemon, &format!("containers/{stays}"))).expect("it is there");
    daemon.begin();
    assert_eq!(daemon.ok(&["ps", "-a", "--format", "{{.Names}}"]), "stays", "its files are there");
    assert_eq!(fsck(&daemon, &[]), (4, vec!["missing the folder of the container stays".to_owned()]));
    daemon.ok(&["create", "--name", "gone", "busybox", "true"]);
    daemon.ok(&["rm", "gone", "stays"]);
    daemon.ok(&["volume", "rm", "data"]);
    assert_eq!(fsck(&daemon, &[]), (0, vec![]));
}

#[test]
fn containers_whose_files_are_elsewhere_for_a_while_are_kept() {
    if docker() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&["create", "--name", "kept", "busybox", "echo", "here"]);
    daemon.kill();
    // A disk that did not come: all that a container has is missing.
    let away =
        |path: &str| (data(&daemon, path), data(&daemon, &format!("../away-{}", path.replace('/', "-"))));
    let places = ["containers", "image/snapshots"].map(away);
    for (here, away) in &places {
        fs::rename(here, away).expect("it is there");
        fs::create_dir(here).expect("a folder");
    }
    daemon.begin();
    assert_eq!(daemon.ok(&["ps", "-a", "--format", "{{.Names}}"]), "kept");
    daemon.kill();
    for (here, away) in &places {
        fs::remove_dir_all(here).expect("a folder");
        fs::rename(away, here).expect("it is there");
    }
    daemon.begin();
    assert_eq!(daemon.ok(&["start", "-a", "kept"]), "here");
}

#[test]
fn what_is_just_being_removed_is_no_orphan() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    let id = daemon.ok(&["create", "busybox", "true"]).trim().to_owned();
    let kept = data(&daemon, &format!("containers/{id}"));
    for number in 0..30_000 {
        fs::write(kept.join(format!("{number}")), "").expect("a file that the removal takes along");
    }
    daemon.ok(&["rm", &id]);
    assert_eq!(fsck(&daemon, &[]), (0, Vec::new()));
    wait_until("its folder is gone", Duration::from_secs(60), || !kept.with_extension("gone").exists());
    assert_eq!(fsck(&daemon, &[]), (0, Vec::new()));
}
