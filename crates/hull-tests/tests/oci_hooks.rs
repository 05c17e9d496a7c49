//! Hooks: when each runs and where, what it is told, and what its failure does.

use std::fs;

use hull_tests::{Oci, PATIENCE, wait_until};
use serde_json::{Value, json};

/// A hook that appends a line to the file `told` of the bundle and the state to `state-POINT`.
fn hook(oci: &Oci, point: &str) -> Value {
    let (bundle, file) = (oci.bundle(), format!("state-{point}"));
    let script = format!("cd {0} && echo {point} >>told && cat >{file}", bundle.display());
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }])
}

fn told(oci: &Oci) -> Vec<String> {
    let text = fs::read_to_string(oci.bundle().join("told")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn state(oci: &Oci, point: &str) -> Value {
    let text = fs::read_to_string(oci.bundle().join(format!("state-{point}"))).expect("the hook ran");
    serde_json::from_str(&text).expect("the state is JSON")
}

#[test]
fn each_point_has_its_time_and_is_told_the_state() {
    let oci = Oci::new();
    let mut config = oci.shell("cat /told; true");
    config["annotations"] = json!({ "org.example.key": "value" });
    let mut hooks = json!({});
    for point in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        hooks[point] = hook(&oci, point);
    }
    // This one's program is the container's.
    let script = "read -r state; echo \"$state\" >/told";
    hooks["startContainer"] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
    config["hooks"] = hooks;
    let call = oci.next_call();
    oci.create(&config);
    // runc 1.1 runs the poststart hooks before the start already.
    let until_now: Vec<String> =
        told(&oci).into_iter().filter(|point| oci.is_hull() || point != "poststart").collect();
    assert_eq!(until_now, ["prestart", "createRuntime", "createContainer"]);
    let pid = oci.state("c")["pid"].clone();
    for (point, statuses) in [
        ("prestart", &["creating", "created"][..]),
        ("createRuntime", &["creating", "created"]),
        ("createContainer", &["creating", "created"]),
    ] {
        let state = state(&oci, point);
        assert_eq!(state["id"], "c", "{point}");
        if oci.is_hull() || point != "createContainer" {
            // runc 1.1 tells this one the process's id within.
            assert_eq!(state["pid"], pid, "{point}");
        }
        assert_eq!(state["bundle"], json!(oci.bundle()), "{point}");
        assert_eq!(state["annotations"]["org.example.key"], "value", "{point}");
        assert!(statuses.iter().any(|status| state["status"] == **status), "{point}: {state}");
    }
    assert!(!oci.rootfs().join("told").exists(), "startContainer runs before the start");
    oci.ok(&["start", "c"]);
    oci.comes_to("c", "stopped");
    assert_eq!(told(&oci).last().map(String::as_str), Some("poststart"));
    wait_until("the container's hook was told", PATIENCE, || oci.said(call).contains("\"c\""));
    assert_eq!(state(&oci, "poststart")["status"], "running");
    oci.ok(&["delete", "c"]);
    assert_eq!(told(&oci).last().map(String::as_str), Some("poststop"));
    assert_eq!(state(&oci, "poststop")["status"], "stopped");
}

#[test]
fn hooks_of_a_point_run_in_their_order_in_the_right_namespaces() {
    let oci = Oci::new();
    let outside = fs::read_link("/proc/self/ns/mnt").expect("a namespace").to_string_lossy().into_owned();
    let say = |what: &str| {
        let told = oci.bundle().join("told");
        json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("{what} >>{}", told.display())] })
    };
    let mut config = oci.config(&["true"]);
    config["hooks"] = json!({
        "prestart": [say("echo 1"), say("echo 2"), say("echo 3")],
        "createRuntime": [say("readlink /proc/self/ns/mnt")],
        "createContainer": [say("readlink /proc/self/ns/mnt")],
    });
    assert_eq!(oci.run(&config).status, 0);
    let told = told(&oci);
    assert_eq!(told[..3], ["1", "2", "3"]);
    assert_eq!(told[3], outside, "createRuntime is in the runtime's namespaces");
    assert_ne!(told[4], outside, "createContainer is in the container's");
}

#[test]
fn a_hook_that_fails_ends_the_creation() {
    for point in ["prestart", "createRuntime", "createContainer"] {
        let oci = Oci::new();
        let mut config = oci.shell("echo ran");
        config["hooks"] = json!({ "poststop": hook(&oci, "poststop") });
        config["hooks"][point] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 3"] }]);
        oci.configure(&config);
        oci.fails(&["create", "c"], "hook");
        oci.nothing_is_left("c");
    }
    let oci = Oci::new();
    let mut config = oci.shell("echo ran");
    config["hooks"] = json!({ "startContainer": [{ "path": "/bin/false" }] });
    let output = oci.run(&config);
    assert!(output.status != 0 && output.stdout.is_empty(), "{output:?}");
    oci.nothing_is_left("c");
    config["hooks"] = json!({ "prestart": [{ "path": "/no/such/hook" }] });
    oci.refuses(&config, "no such file or directory");
    config["hooks"] = json!({ "prestart": [{ "path": "relative/hook" }] });
    oci.refuses(&config, "");
}

/// The container has ended: all that is left to do with the failure is to tell it.
#[test]
fn a_poststop_hook_that_fails_changes_nothing() {
    let oci = Oci::new();
    let mut config = oci.shell("exit 7");
    let fails = json!({ "path": "/bin/false" });
    config["hooks"] = json!({ "poststop": [fails, hook(&oci, "poststop")[0]] });
    let output = oci.run(&config);
    assert_eq!(output.status, 7, "{output:?}");
    assert!(output.stderr.contains("hook"), "{output:?}");
    oci.nothing_is_left("c");
    if oci.is_hull() {
        // runc goes no further than to the first that fails.
        assert_eq!(told(&oci), ["poststop"], "those behind it run too");
    }
    oci.create(&config);
    let output = oci.call(&["delete", "--force", "c"]);
    assert!(output.status == 0 && output.stderr.contains("hook"), "{output:?}");
    oci.nothing_is_left("c");
}

#[test]
fn a_hook_has_its_time() {
    let oci = Oci::new();
    let mut config = oci.config(&["true"]);
    config["hooks"] =
        json!({ "prestart": [{ "path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1 }] });
    oci.refuses(&config, "hook");
    for none in [0, -1] {
        config["hooks"] = json!({ "prestart": [{ "path": "/bin/true", "timeout": none }] });
        if oci.is_hull() {
            oci.refuses(&config, "timeout");
        }
    }
}

#[test]
fn a_prestart_hook_finds_the_container_s_network() {
    let oci = Oci::new();
    let script = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip link set lo up";
    let mut config = oci.shell("cat /sys/class/net/lo/operstate");
    config["hooks"] = json!({ "prestart": [
        { "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] },
    ] });
    assert_eq!(oci.prints(&config), "unknown", "the loopback is up");
}

/// Its program is the container's own file: it gets no more than the command.
#[test]
fn a_hook_inside_has_the_command_s_privileges() {
    let oci = Oci::new();
    let open = oci.rootfs().join("open");
    std::fs::create_dir(&open).expect("a folder");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("its mode");
    let mut config = oci.config(&["true"]);
    config["root"]["readonly"] = serde_json::json!(false);
    config["process"]["user"] = serde_json::json!({ "uid": 1000, "gid": 1000 });
    config["process"]["capabilities"] = serde_json::json!({ "bounding": ["CAP_KILL"] });
    let script = "id -u >/open/told; grep -e CapEff -e CapBnd /proc/self/status >>/open/told";
    config["hooks"]["startContainer"] =
        serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }]);
    oci.configure(&config);
    let output = oci.call(&["run", "c"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    let told = std::fs::read_to_string(open.join("told")).expect("it has run");
    assert_eq!(told, "1000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000020\n");
}
