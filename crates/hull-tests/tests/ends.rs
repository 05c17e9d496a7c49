//! Why something ended: one object, in which what is not known is null.

use std::fs;
use std::path::PathBuf;

use hull_tests::{Daemon, Engine, PATIENCE, cgroups_of, wait_until};
use serde_json::{Value, json};

/// Docker has no such object.
fn docker() -> bool {
    Engine::under_test() == Engine::Docker
}

fn end_of(daemon: &Daemon, container: &str) -> Value {
    let inspected: Value =
        serde_json::from_str(&daemon.ok(&["inspect", "-f", "{{json .State.End}}", container])).expect("JSON");
    inspected
}

/// Runs a command to its end, and tells how it was.
fn run(daemon: &Daemon, options: &[&str], command: &[&str]) -> Value {
    daemon.hull(&[&["run", "--name", "box"], options, &["busybox"], command].concat());
    let end = end_of(daemon, "box");
    daemon.ok(&["rm", "box"]);
    end
}

#[track_caller]
fn says(end: &Value, wanted: &Value) {
    for (name, wanted) in wanted.as_object().expect("an object") {
        assert_eq!(&end[name], wanted, "{name} of {end}");
    }
    // There is no quota that would tell.
    assert_eq!(
        (end.as_object().map_or(0, serde_json::Map::len), &end["DiskLimit"]),
        (10, &Value::Null),
        "{end}"
    );
}

const SPINS: &str = "while :; do :; done";
const FORKS: &str = "i=0; while [ $i -lt 40 ]; do sleep 2 & i=$((i+1)); done; exit 5";

#[test]
fn of_a_container() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    let end = run(&daemon, &[], &["sh", "-c", "exit 3"]);
    says(
        &end,
        &json!({"Reason": "exited", "ExitCode": 3, "Signal": null, "OutOfMemory": false, "MemoryLimit": null,
        "TimeLimit": false, "CpuTimeLimit": false, "ProcessLimit": false}),
    );
    assert!(end["CpuTime"].as_u64().is_some_and(|time| time > 0), "{end}");
    let end = run(&daemon, &["--memory", "32m", "--memory-swap", "32m"], &["tail", "-n", "1", "/dev/zero"]);
    says(&end, &json!({"Reason": "oom", "ExitCode": 137, "OutOfMemory": true, "MemoryLimit": "own"}));
    let end = run(&daemon, &["--timeout", "300ms"], &["sleep", "600"]);
    says(
        &end,
        &json!({"Reason": "timeout", "ExitCode": 137, "Signal": 9, "TimeLimit": true, "CpuTimeLimit": false,
        "OutOfMemory": false}),
    );
    let end = run(&daemon, &["--cpu-time", "300ms"], &["sh", "-c", SPINS]);
    says(&end, &json!({"Reason": "cpu-time", "TimeLimit": false, "CpuTimeLimit": true}));
    assert!(end["CpuTime"].as_u64().is_some_and(|time| time >= 300_000_000), "{end}");
    let end = run(&daemon, &["--pids-limit", "10"], &["sh", "-c", FORKS]);
    says(&end, &json!({"ProcessLimit": true, "OutOfMemory": false}));
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    assert_eq!(end_of(&daemon, "box"), Value::Null, "it runs");
    daemon.ok(&["kill", "-s", "QUIT", "box"]);
    daemon.ok(&["kill", "box"]);
    daemon.ok(&["wait", "box"]);
    says(
        &end_of(&daemon, "box"),
        &json!({"Reason": "signal", "ExitCode": 137, "Signal": 9, "OutOfMemory": false}),
    );
    daemon.ok(&["start", "box"]);
    assert_eq!(end_of(&daemon, "box"), Value::Null, "it runs again");
}

/// A cgroup of the test's own, above a container's.
struct Parent(String);

impl Parent {
    fn folders(&self) -> Vec<PathBuf> {
        cgroups_of(&self.0)
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for folder in self.folders() {
            fs::remove_dir(&folder).ok();
        }
    }
}

#[test]
fn at_a_parents_limit() {
    if docker() {
        return;
    }
    let parent = Parent(format!("hull-ends-{}", std::process::id()));
    let daemon = Daemon::start();
    let above = format!("/{}", parent.0);
    daemon.ok(&["run", "--rm", "--cgroup-parent", &above, "busybox", "true"]);
    let mut limited = 0;
    for folder in parent.folders() {
        // The second is there where swap is accounted for.
        for file in ["memory.limit_in_bytes", "memory.max", "memory.memsw.limit_in_bytes"] {
            limited += usize::from(fs::write(folder.join(file), "33554432").is_ok());
        }
        fs::write(folder.join("memory.swap.max"), "0").ok();
    }
    assert!(limited > 0, "the parent has a limit");
    let end = run(&daemon, &["--cgroup-parent", &above], &["tail", "-n", "1", "/dev/zero"]);
    says(&end, &json!({"Reason": "oom", "OutOfMemory": true, "MemoryLimit": "parent"}));
    // With a limit of its own that is met first, it is its own.
    let own = ["--cgroup-parent", &above, "--memory", "16m", "--memory-swap", "16m"];
    let end = run(&daemon, &own, &["tail", "-n", "1", "/dev/zero"]);
    says(&end, &json!({"Reason": "oom", "OutOfMemory": true, "MemoryLimit": "own"}));
    drop(daemon);
}

#[test]
fn of_an_exec() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--memory",
        "32m",
        "--memory-swap",
        "32m",
        "busybox",
        "sleep",
        "600",
    ]);
    let mut api = daemon.api();
    let mut exec = |body: Value| {
        let made = api.post("/containers/box/exec", &body).expect("an answer").json();
        let path = format!("/exec/{}", made["Id"].as_str().expect("an id"));
        api.post(&format!("{path}/start"), &json!({"Detach": true})).expect("an answer");
        let mut end = Value::Null;
        wait_until("it has ended", PATIENCE, || {
            let shown = api.get(&format!("{path}/json")).expect("an answer").json();
            end = shown["End"].clone();
            shown["Running"] == json!(false)
        });
        end
    };
    let unknown = json!({"Cmd": ["sh", "-c", "exit 4"]});
    says(&exec(unknown), &json!({"Reason": "exited", "ExitCode": 4, "Signal": null, "CpuTime": null}));
    let timed = json!({"Cmd": ["sleep", "600"], "Timeout": 200_000_000});
    says(&exec(timed), &json!({"Reason": "timeout", "ExitCode": 137, "TimeLimit": true}));
    let end = exec(json!({"Cmd": ["sh", "-c", SPINS], "CpuTime": 200_000_000}));
    says(&end, &json!({"Reason": "cpu-time", "CpuTimeLimit": true}));
    assert!(end["CpuTime"].as_u64().is_some_and(|time| time >= 200_000_000), "{end}");
    let grows = json!({"Cmd": ["tail", "-n", "1", "/dev/zero"]});
    says(&exec(grows), &json!({"Reason": "oom", "OutOfMemory": true, "MemoryLimit": "own"}));
    // That was another's end.
    says(
        &exec(json!({"Cmd": ["true"]})),
        &json!({"Reason": "exited", "OutOfMemory": false, "MemoryLimit": null}),
    );
}

#[test]
fn that_nobody_saw() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    let id = daemon.ok(&["inspect", "-f", "{{.Id}}", "box"]).trim().to_owned();
    let first: u32 = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "box"]).trim().parse().expect("a number");
    let status = fs::read_to_string(format!("/proc/{first}/status")).expect("it runs");
    let shim =
        status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent").trim().to_owned();
    // The shim is killed, and the container with it: how it would have ended is not known.
    let shim = rustix::process::Pid::from_raw(shim.parse().expect("a number")).expect("a process");
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).expect("root may");
    daemon.ok(&["wait", &id]);
    let end = end_of(&daemon, "box");
    assert!(end.as_object().expect("an object").values().all(Value::is_null), "{end}");
}
