//! `hull daemon --userns-remap`, and what is the host's own: its files as an image, its users, the data root.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hull_tests::{Daemon, Engine, private_files};

/// Gives this test's processes ranges of ids and users; none where dockerd is tested, which has no `hull/host`.
fn ranges(passwd: &str) -> bool {
    private_files(&[
        ("/etc/subuid", "hull:300000:65536\n"),
        ("/etc/subgid", "hull:300000:65536\n"),
        ("/etc/passwd", &format!("root:x:0:0::/root:/bin/sh\n{passwd}")),
    ]);
    Engine::under_test() == Engine::Hull
}

#[test]
fn this_machine_s_files_are_no_image_for_root_inside() {
    if !ranges("") {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&["create", "--name", "before", "hull/host", "cat", "/etc/passwd"]);
    daemon.stop();
    daemon.set_options(&["--userns-remap=default"]);
    daemon.begin();
    for refused in [&["run", "--rm", "hull/host", "cat", "/etc/passwd"][..], &["start", "-a", "before"]] {
        let refused = daemon.hull(refused);
        assert!(refused.stdout.is_empty(), "{refused:?}");
        assert!(refused.stderr.contains("hull/host is incompatible with user namespaces"), "{refused:?}");
    }
    daemon.ok(&["run", "--rm", "--userns=host", "hull/host", "cat", "/etc/passwd"]);
}

#[test]
fn the_folders_of_a_remapped_daemon_are_closed_whoever_made_them() {
    if !ranges("") {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.stop();
    let folders = ["data/volumes", "data/image"].map(|folder| daemon.dir().join(folder));
    for folder in &folders {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the folder is there");
    }
    daemon.set_options(&["--userns-remap=default"]);
    daemon.begin();
    for folder in &folders {
        let mode = fs::metadata(folder).expect("the folder is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{}", folder.display());
    }
    daemon.ok(&["run", "--rm", "-v", "data:/v", "busybox", "touch", "/v/f", "/f"]);
}

#[test]
fn users_who_are_somebody_inside_are_warned_of() {
    if !ranges("ann:x:300001:300001::/home/ann:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n") {
        return;
    }
    let daemon = Daemon::with(&["--userns-remap=default"]);
    let log = daemon.log();
    assert!(log.contains("have ids of the ranges of hull in /etc/subuid: ann (300001):"), "{log}");
}
