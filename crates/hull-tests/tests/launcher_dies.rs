//! The launcher is a process like others: it may be killed, and is there again.

use std::fs;
use std::time::Duration;

use hull_tests::{Daemon, Engine, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// The launcher of a daemon, and the spare process that waits to be a shim.
fn launchers(daemon: &Daemon) -> Vec<Pid> {
    let is_one = |pid: &i32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        ["hull-launcher", "hull-spare"].contains(&comm.trim())
    };
    let children = |pid: u32| -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let read = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        tasks
            .map(read)
            .flat_map(|text| text.split_whitespace().flat_map(str::parse).collect::<Vec<i32>>())
            .collect()
    };
    let first: Vec<i32> = children(daemon.pid()).into_iter().filter(is_one).collect();
    let spares = first.iter().flat_map(|pid| children(pid.unsigned_abs())).filter(is_one).collect::<Vec<_>>();
    first.into_iter().chain(spares).filter_map(Pid::from_raw).collect()
}

fn kill_launchers(daemon: &Daemon) -> usize {
    launchers(daemon).into_iter().filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count()
}

#[test]
fn a_launcher_that_is_killed_is_there_again() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "lives", "busybox", "sleep", "600"]);
    wait_until("there is a launcher", Duration::from_secs(10), || !launchers(&daemon).is_empty());
    for _ in 0..5 {
        assert!(kill_launchers(&daemon) > 0, "there is no launcher to be killed");
        // By itself, without anyone who asks for it.
        wait_until("there is another one", Duration::from_secs(10), || launchers(&daemon).len() == 2);
        assert_eq!(daemon.ok(&["run", "--rm", "busybox", "echo", "here"]), "here");
        assert_eq!(daemon.ok(&["exec", "lives", "echo", "in"]), "in");
    }
    daemon.ok(&["rm", "-f", "lives"]);
}

#[test]
fn starts_on_their_way_fail_with_a_reason_or_succeed() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let before = daemon.census();
    let mut failed = 0;
    for _ in 0..6 {
        let runs: Vec<_> = (0..8)
            .map(|_| {
                let mut run = daemon.client(&["run", "--rm", "busybox", "echo", "here"]);
                std::thread::spawn(move || run.output().expect("the client"))
            })
            .collect();
        while !runs.iter().all(std::thread::JoinHandle::is_finished) {
            kill_launchers(&daemon);
            daemon.api().get("/_ping").expect("an answer");
        }
        for run in runs {
            let output = run.join().expect("the thread");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let fine = output.status.success() && output.stdout == b"here\n";
            assert!(fine || said.contains("start it again"), "{output:?}");
            failed += u32::from(!fine);
        }
    }
    eprintln!("{failed} of 48 starts failed while launchers were killed all the time");
    wait_until("a start succeeds", Duration::from_secs(10), || {
        daemon.hull(&["run", "--rm", "busybox", "echo", "here"]).stdout == "here\n"
    });
    assert_eq!(daemon.ok(&["ps", "-aq"]), "");
    let left = || {
        let now = daemon.census();
        (now.cgroups, now.mounts, now.interfaces)
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while left() != (before.cgroups, before.mounts, before.interfaces) {
        assert!(std::time::Instant::now() < deadline, "left: {before}\nnow: {}", daemon.census());
    }
}
