//! What a daemon makes of shims that do not answer, cannot be reached, or are gone.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hull_tests::{Daemon, Engine, wait_until};
use rustix::process::{Pid, Signal, kill_process};

fn pid_of(daemon: &Daemon, name: &str) -> i32 {
    daemon.ok(&["inspect", "-f", "{{.State.Pid}}", name]).parse().expect("a process id")
}

/// The parent of a container's first process.
fn shim_of(daemon: &Daemon, name: &str) -> Pid {
    let pid = pid_of(daemon, name);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("it has a parent");
    Pid::from_raw(parent.trim().parse().expect("a process id")).expect("not 0")
}

fn lives(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}/root")).join("bin").exists()
}

#[test]
fn trouble_with_a_shim_is_not_its_end() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "lives", "busybox", "sleep", "600"]);
    let pid = pid_of(&daemon, "lives");
    daemon.kill();
    // As where no descriptor is free.
    daemon.set_environment(&[("HULL_FAULT", "fail:rejoin: connected")]);
    daemon.begin();
    let tries = |daemon: &Daemon| daemon.log().matches("its shim is tried again").count();
    let before = tries(&daemon);
    wait_until("it is tried again and again", Duration::from_secs(30), || tries(&daemon) > before);
    assert!(lives(pid), "the container was killed");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "lives"]), "running");
    daemon.kill();
    daemon.set_environment(&[]);
    daemon.begin();
    assert_eq!(daemon.ok(&["exec", "lives", "echo", "in"]), "in");
    assert_eq!(pid_of(&daemon, "lives"), pid);
    daemon.ok(&["rm", "-f", "lives"]);
}

#[test]
fn an_end_that_cannot_be_read_now_is_read_later() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "ends",
        "busybox",
        "sh",
        "-c",
        "until test -e /go; do usleep 10000; done; exit 5",
    ]);
    let pid = pid_of(&daemon, "ends");
    daemon.kill();
    std::fs::write(format!("/proc/{pid}/root/go"), "").expect("its root can be written to");
    wait_until("it has ended", Duration::from_secs(10), || !lives(pid));
    // As where no descriptor is free.
    daemon.set_environment(&[("HULL_FAULT", "fail:end: record read")]);
    daemon.begin();
    assert_eq!(
        daemon.ok(&["inspect", "-f", "{{.State.Status}}", "ends"]),
        "running",
        "nobody knows better yet"
    );
    daemon.kill();
    daemon.set_environment(&[]);
    daemon.begin();
    assert_eq!(daemon.ok(&["wait", "ends"]), "5");
}

#[test]
fn shims_that_do_not_answer_hold_no_daemon_up() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    let hung = ["one", "two", "three"];
    for name in hung {
        daemon.ok(&["run", "-d", "--name", name, "busybox", "sleep", "600"]);
    }
    daemon.ok(&["run", "-d", "--name", "fine", "busybox", "sleep", "600"]);
    let shims = hung.map(|name| shim_of(&daemon, name));
    daemon.kill();
    for shim in shims {
        kill_process(shim, Signal::STOP).expect("a shim");
    }
    let begun = Instant::now();
    daemon.begin();
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert_eq!(daemon.ok(&["exec", "fine", "echo", "in"]), "in");
    assert_eq!(daemon.ok(&["ps", "-q"]).lines().count(), 4);
    for shim in shims {
        kill_process(shim, Signal::CONT).expect("a shim");
    }
    for name in hung {
        wait_until("it answers again", Duration::from_secs(20), || {
            daemon.hull(&["exec", name, "echo", "in"]).stdout == "in\n"
        });
    }
    daemon.ok(&["rm", "-f", "one", "two", "three", "fine"]);
}

#[test]
fn a_shim_that_is_killed_behind_its_record_leaves_nothing() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    let before = daemon.census();
    let id = daemon.ok(&["run", "-d", "--name", "ended", "busybox", "sleep", "600"]);
    let (pid, shim) = (pid_of(&daemon, "ended"), shim_of(&daemon, "ended"));
    daemon.kill();
    kill_process(shim, Signal::KILL).expect("a shim");
    let record =
        r#"{"status":5,"signal":null,"oom_killed":false,"reason":"exited","at_ns":1700000000000000000}"#;
    fs::write(daemon.dir().join("exec/c").join(&id).join("exit.json"), record).expect("the record");
    daemon.begin();
    assert_eq!(daemon.ok(&["wait", "ended"]), "5");
    wait_until("its process is gone", Duration::from_secs(20), || !lives(pid));
    wait_until("its cgroup is gone", Duration::from_secs(20), || daemon.census().cgroups == before.cgroups);
    daemon.ok(&["start", "ended"]);
    daemon.ok(&["rm", "-f", "ended"]);
}

#[test]
fn a_cgroup_that_a_start_left_behind_does_not_outlive_the_daemon() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    let rests = daemon.ok(&["create", "--name", "rests", "busybox", "true"]);
    let lives = daemon.ok(&["run", "-d", "--name", "lives", "busybox", "sleep", "600"]);
    let own = fs::read_to_string(format!("/proc/{}/cgroup", pid_of(&daemon, "lives"))).expect("its cgroups");
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).expect("a unified cgroup");
    let folder = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(|base| std::path::PathBuf::from(format!("{base}{path}")))
        .into_iter()
        .find(|folder| folder.join("cgroup.procs").exists())
        .expect("its folder");
    let left =
        folder.with_file_name(folder.file_name().expect("a name").to_string_lossy().replace(&lives, &rests));
    daemon.kill();
    // As of a shim that was killed before its first process was there.
    fs::create_dir(&left).expect("a cgroup");
    daemon.begin();
    wait_until("the cgroup is gone", Duration::from_secs(10), || !left.exists());
    assert_eq!(daemon.ok(&["exec", "lives", "echo", "in"]), "in");
    daemon.ok(&["start", "-a", "rests"]);
    daemon.ok(&["rm", "-f", "lives", "rests"]);
}
