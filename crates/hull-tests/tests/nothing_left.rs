//! A container that is gone leaves nothing. dockerd is not asked: it leaves files behind.

use hull_tests::{Daemon, Engine, cgroups_of, wait_until};
use serde_json::json;
use std::time::Duration;

#[test]
fn a_thousand_runs_leave_every_count_where_it_was() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let run =
        || daemon.ok(&["run", "--rm", "-p", "127.0.0.1:4000:80", "-v", "/anonymous", "busybox", "true"]);
    // The first make what stays: the bridge, the firewall's table, the daemon's threads.
    (0..5).for_each(|_| drop(run()));
    wait_until("the first containers are gone", Duration::from_secs(20), || {
        daemon.ok(&["ps", "-aq"]).is_empty()
    });
    let before = daemon.settled();
    (0..1000).for_each(|_| drop(run()));
    daemon.comes_back_to(&before);
}

#[test]
fn containers_that_fail_to_start_leave_nothing() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let fail = || {
        assert_eq!(daemon.hull(&["run", "--rm", "busybox", "no-such-command"]).status, 127);
        assert_ne!(daemon.hull(&["run", "--rm", "-w", "/etc/passwd", "busybox", "true"]).status, 0);
        assert_ne!(daemon.hull(&["run", "--rm", "-u", "nobody-here", "busybox", "true"]).status, 0);
        assert_ne!(daemon.hull(&["run", "--rm", "-v", "/etc/passwd:/tmp", "busybox", "true"]).status, 0);
        assert_ne!(daemon.hull(&["run", "--rm", "--sysctl", "no.such=1", "busybox", "true"]).status, 0);
    };
    fail();
    let before = daemon.settled();
    (0..10).for_each(|_| fail());
    daemon.comes_back_to(&before);
}

#[test]
fn a_whole_life_with_everything_leaves_nothing() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let life = || {
        daemon.ok(&["network", "create", "net"]);
        daemon.ok(&["volume", "create", "vol"]);
        daemon.ok(&[
            "run",
            "-d",
            "--name",
            "box",
            "--network",
            "net",
            "-v",
            "vol:/vol",
            "--tmpfs",
            "/t",
            "busybox",
            "sleep",
            "600",
        ]);
        daemon.ok(&["exec", "box", "touch", "/vol/f", "/t/f", "/f"]);
        daemon.ok(&["pause", "box"]);
        daemon.ok(&["unpause", "box"]);
        daemon.ok(&["restart", "-t", "0", "box"]);
        daemon.ok(&["commit", "box", "child"]);
        daemon.ok(&["stats", "--no-stream", "box"]);
        daemon.ok(&["rm", "-f", "-v", "box"]);
        daemon.ok(&["rmi", "child"]);
        daemon.ok(&["volume", "rm", "vol"]);
        daemon.ok(&["network", "rm", "net"]);
    };
    life();
    let before = daemon.settled();
    (0..5).for_each(|_| life());
    daemon.comes_back_to(&before);
}

#[test]
fn many_at_once_leave_nothing() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"AutoRemove": true}});
    let round = || {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut api = daemon.api();
                    for _ in 0..10 {
                        let created = api.post("/containers/create", &body).expect("an answer");
                        let id = created.json()["Id"].as_str().expect("an id").to_owned();
                        let started = api.post_empty(&format!("/containers/{id}/start")).expect("an answer");
                        assert_eq!(started.status, 204, "{}", started.text());
                        let wait = format!("/containers/{id}/wait?condition=removed");
                        // Gone already is as good.
                        assert!(matches!(api.post_empty(&wait).expect("an answer").status, 200 | 404));
                    }
                });
            }
        });
    };
    round();
    let before = daemon.settled();
    round();
    daemon.comes_back_to(&before);
}

#[test]
fn the_daemons_end_leaves_its_containers_and_its_death_nothing_else() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&["run", "--rm", "busybox", "true"]);
    assert_eq!(daemon.stop(), 0);
    daemon.begin();
    let before = daemon.settled();
    for _ in 0..3 {
        assert_eq!(daemon.stop(), 0);
        daemon.begin();
    }
    daemon.comes_back_to(&before);
}

#[test]
fn a_daemon_that_ends_leaves_no_cgroup_of_its_own_but_what_is_in_use() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    let instance = daemon.instance();
    let own = || cgroups_of(&instance);
    daemon.ok(&["run", "-d", "--name", "on", "busybox", "sleep", "600"]);
    assert!(!own().is_empty());
    assert_eq!(daemon.stop(), 0);
    assert!(!own().is_empty(), "a container runs on");
    daemon.begin();
    daemon.ok(&["rm", "-f", "on"]);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(own(), Vec::<std::path::PathBuf>::new());
}
