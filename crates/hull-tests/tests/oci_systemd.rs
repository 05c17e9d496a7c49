//! `--systemd-cgroup`: a container's cgroup is a scope of systemd's.
//!
//! On machines without systemd something answers in its place ([`FakeSystemd`]); where it runs (`cargo xtask vm-test
//! systemd`), it is asked itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use hull_tests::{Does, FakeSystemd, Oci, Output, cgroups_of, property};
use serde_json::{Value, json};

fn is_there() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A runtime of hull's: the words beyond the specification are its own.
struct Bench {
    systemd: FakeSystemd,
    oci: Oci,
    slice: String,
}

impl Bench {
    fn new(does: Does) -> Self {
        let oci = Oci::new();
        let slice = format!("{}.slice", oci.cgroup_parent().replace('-', "_"));
        Self { systemd: FakeSystemd::start(oci.dir(), &slice, does), oci, slice }
    }

    fn config(&self, args: &[&str]) -> Value {
        let mut config = self.oci.config(args);
        config["linux"]["cgroupsPath"] = json!(format!("{}:test:c", self.slice));
        config
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.oci.command(&[&["--systemd-cgroup"], args].concat());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.systemd.address());
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        self.oci.finish(self.command(args))
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status == 0, "{args:?}: {output:?}");
        output.stdout
    }

    /// The scope's folders.
    fn folders(&self) -> usize {
        cgroups_of(&format!("{}/test-c.scope", self.slice)).len()
    }
}

#[test]
fn a_container_is_a_scope_from_its_creation_to_its_removal() {
    let bench = Bench::new(Does::All);
    let mut config = bench.config(&["sleep", "600"]);
    config["linux"]["resources"]["pids"] = json!({ "limit": 7 });
    config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
    config["linux"]["resources"]["cpu"] = json!({ "quota": 50_000, "period": 100_000 });
    config["annotations"] = json!({ "org.systemd.property.TimeoutStopSec": "uint64 3" });
    bench.oci.configure(&config);
    bench.ok(&["create", "c"]);

    let started = bench.systemd.calls("StartTransientUnit");
    assert_eq!(started.len(), 1);
    assert_eq!((&started[0][0], &started[0][1]), (&json!("test-c.scope"), &json!("replace")));
    let pid = bench.oci.state("c")["pid"].clone();
    for (name, value) in [
        ("PIDs", json!([pid])),
        ("Slice", json!(bench.slice)),
        ("Wants", json!([bench.slice])),
        ("Delegate", json!(true)),
        ("DefaultDependencies", json!(false)),
        ("MemoryAccounting", json!(true)),
        ("TasksMax", json!(7)),
        ("CPUQuotaPerSecUSec", json!(500_000)),
        ("DevicePolicy", json!("strict")),
        ("TimeoutStopUSec", json!(3_000_000)),
    ] {
        assert_eq!(property(&started[0][2], name), &value, "{name}");
    }
    // The process is there, in every hierarchy, with the limits that systemd has no part in.
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let path = format!("/{}/test-c.scope", bench.slice);
    assert!(own.lines().filter(|line| line.ends_with(&path)).count() == bench.folders(), "{own}");
    assert!(bench.folders() > 0);

    bench.ok(&["start", "c"]);
    assert_eq!(bench.ok(&["exec", "c", "echo", "inside"]), "inside\n");
    bench.ok(&["update", "--pids-limit", "9", "c"]);
    let set = bench.systemd.calls("SetUnitProperties");
    assert_eq!((&set[0][0], &set[0][1]), (&json!("test-c.scope"), &json!(true)));
    assert_eq!(property(&set[0][2], "TasksMax"), &json!(9));

    bench.ok(&["delete", "--force", "c"]);
    assert_eq!(bench.systemd.calls("StopUnit"), [json!(["test-c.scope", "replace"])]);
    assert_eq!(bench.systemd.calls("ResetFailedUnit"), [json!(["test-c.scope"])]);
    assert_eq!(bench.folders(), 0);
}

#[test]
fn without_a_path_it_is_in_the_system_s_slice() {
    let bench = Bench::new(Does::Fails);
    let mut config = bench.config(&["true"]);
    config["linux"].as_object_mut().expect("an object").remove("cgroupsPath");
    bench.oci.configure(&config);
    // It is not made: the machine's own slice is not for tests.
    assert_ne!(bench.call(&["create", "c"]).status, 0);
    let started = bench.systemd.calls("StartTransientUnit");
    assert_eq!(started[0][0], "hull-c.scope");
    assert_eq!(property(&started[0][2], "Slice"), "system.slice");
}

#[test]
fn a_user_namespace_s_root_is_moved_as_well() {
    let bench = Bench::new(Does::All);
    let mut config = bench.config(&["cat", "/proc/self/cgroup"]);
    config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "user" }));
    config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    config["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    bench.oci.configure(&config);
    let said = bench.ok(&["run", "c"]);
    assert!(said.contains(&format!("/{}/test-c.scope", bench.slice)), "{said}");
    assert_eq!(bench.folders(), 0);
}

#[test]
fn one_that_failed_before_makes_room() {
    let bench = Bench::new(Does::HasAnOldOne);
    bench.oci.configure(&bench.config(&["echo", "there"]));
    assert_eq!(bench.ok(&["run", "c"]), "there\n");
    assert_eq!(bench.systemd.calls("StartTransientUnit").len(), 2);
}

#[test]
fn what_systemd_does_not_do_ends_the_creation_and_leaves_nothing() {
    for (does, words) in [(Does::Fails, "this was failed"), (Does::Lies, "somewhere else")] {
        let bench = Bench::new(does);
        bench.oci.configure(&bench.config(&["true"]));
        let output = bench.call(&["run", "c"]);
        assert!(output.status != 0 && output.stderr.contains(words), "{does:?}: {output:?}");
        assert_eq!(bench.systemd.calls("StopUnit").len(), 1, "{does:?}");
        bench.oci.nothing_is_left("c");
        assert_eq!(bench.folders(), 0, "{does:?}");
    }
}

#[test]
fn a_creation_that_fails_later_stops_the_unit() {
    let bench = Bench::new(Does::All);
    bench.oci.configure(&bench.config(&["/no/such/program"]));
    assert_ne!(bench.call(&["run", "c"]).status, 0);
    assert_eq!(bench.systemd.calls("StopUnit").len(), 1);
    assert_eq!(bench.folders(), 0);
}

#[test]
fn what_is_no_unit_is_refused_before_anything_is_asked() {
    let bench = Bench::new(Does::All);
    for (path, words) in [("/a/b", "slice:prefix:name"), ("a:b:c", "no slice"), ("a.slice:b:", "no unit")] {
        let mut config = bench.config(&["true"]);
        config["linux"]["cgroupsPath"] = json!(path);
        bench.oci.configure(&config);
        let output = bench.call(&["run", "c"]);
        assert!(output.status != 0 && output.stderr.contains(words), "{path}: {output:?}");
    }
    assert_eq!(bench.systemd.calls("StartTransientUnit"), [] as [Value; 0]);
}

#[test]
fn a_machine_without_systemd_refuses() {
    if is_there() {
        return;
    }
    let oci = Oci::new();
    let mut config = oci.config(&["true"]);
    config["linux"]["cgroupsPath"] = json!("system.slice:hull:c");
    oci.configure(&config);
    oci.fails(&["--systemd-cgroup", "run", "c"], "systemd not running on this host");
    oci.nothing_is_left("c");
}

/// With systemd itself: what it says of the unit is what was asked for, and nothing is left of it.
#[test]
fn the_machine_s_own_systemd_makes_scopes() {
    if !is_there() {
        return;
    }
    let oci = Oci::new();
    let show = |properties: &str| {
        let mut command = Command::new("systemctl");
        command.args(["show", "--property", properties, "hulltests-c.scope"]);
        let output = command.output().expect("systemctl is there");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let mut config = oci.config(&["sh", "-c", "cat /proc/self/cgroup; exec sleep 600"]);
    config["linux"]["cgroupsPath"] = json!("hulltests-deep.slice:hulltests:c");
    config["linux"]["resources"]["pids"] = json!({ "limit": 7 });
    config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
    config["linux"]["resources"]["cpu"] =
        json!({ "quota": 50_000, "period": 100_000, "shares": 512, "cpus": "0" });
    oci.configure(&config);
    oci.ok(&["--systemd-cgroup", "run", "--detach", "c"]);
    let cgroup = "/hulltests.slice/hulltests-deep.slice/hulltests-c.scope";
    assert_eq!(show("ControlGroup"), format!("ControlGroup={cgroup}"));
    assert_eq!(show("TasksMax"), "TasksMax=7");
    assert_eq!(show("Delegate"), "Delegate=yes");
    assert_eq!(show("DevicePolicy"), "DevicePolicy=strict");
    assert_eq!(show("CPUQuotaPerSecUSec"), "CPUQuotaPerSecUSec=500ms");
    let pid = oci.state("c")["pid"].to_string();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    assert!(own.trim().ends_with(cgroup), "{own}");

    // What systemd does not know of survives its loading everything anew, and so does what it knows.
    let reloaded = Command::new("systemctl").arg("daemon-reload").status().expect("systemctl is there");
    assert!(reloaded.success());
    assert_eq!(oci.ok(&["exec", "c", "sh", "-c", "echo through >/dev/null && echo fine"]), "fine");
    let file = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup{cgroup}/{name}"));
    assert_eq!(file("pids.max").expect("pids.max").trim(), "7");
    assert_eq!(file("cpuset.cpus").expect("cpuset.cpus").trim(), "0");

    oci.ok(&["--systemd-cgroup", "update", "--pids-limit", "9", "--memory", "32m", "c"]);
    assert_eq!(show("TasksMax"), "TasksMax=9");
    assert_eq!(show("MemoryMax"), format!("MemoryMax={}", 32 << 20));
    assert_eq!(file("memory.max").expect("memory.max").trim(), (32 << 20).to_string());

    oci.ok(&["delete", "--force", "c"]);
    assert_eq!(show("LoadState"), "LoadState=not-found");
    assert!(!Path::new(&format!("/sys/fs/cgroup{cgroup}")).exists());
    // Its name is free again.
    assert!(oci.call(&["--systemd-cgroup", "run", "--detach", "c"]).status == 0);
    oci.ok(&["delete", "--force", "c"]);
}
