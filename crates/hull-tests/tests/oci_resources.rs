//! The configuration's resources, and what update and events do with them; spec and features.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use hull_tests::{Oci, Output, PATIENCE, wait_until};
use serde_json::{Value, json};

fn with(oci: &Oci, resources: Value) -> Value {
    let mut config = oci.config(&["sleep", "600"]);
    config["linux"]["resources"] = resources;
    config["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" }]);
    config
}

const MEMORY: &[&str] = &["memory.limit_in_bytes", "memory.max"];
const RESERVATION: &[&str] = &["memory.soft_limit_in_bytes", "memory.low"];
const PIDS: &[&str] = &["pids.max"];

/// Quota and period, in v1's or v2's files.
fn quota(oci: &Oci) -> (String, String) {
    let both = oci.cgroup_value("c", &["cpu.cfs_quota_us", "cpu.max"]);
    match both.split_once(' ') {
        Some((quota, period)) => (quota.to_owned(), period.to_owned()),
        None => (both, oci.cgroup_value("c", &["cpu.cfs_period_us"])),
    }
}

/// The number of pages is what the kernel keeps of a limit.
const LIMIT: i64 = 64 << 20;

#[test]
fn limits_are_those_of_the_configuration() {
    let oci = Oci::new();
    let resources = json!({
        "memory": { "limit": LIMIT, "reservation": LIMIT / 2 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0", "mems": "0" },
        "pids": { "limit": 77 },
    });
    oci.run_detached(&with(&oci, resources));
    assert_eq!(oci.cgroup_value("c", MEMORY), LIMIT.to_string());
    assert_eq!(oci.cgroup_value("c", RESERVATION), (LIMIT / 2).to_string());
    assert_eq!(quota(&oci), ("50000".into(), "200000".into()));
    let shares = oci.cgroup_value("c", &["cpu.shares", "cpu.weight"]);
    assert!(["512", "20", "59"].contains(&shares.as_str()), "{shares}");
    assert_eq!(oci.cgroup_value("c", &["cpuset.cpus"]), "0");
    assert_eq!(oci.cgroup_value("c", &["cpuset.mems"]), "0");
    assert_eq!(oci.cgroup_value("c", PIDS), "77");
    oci.ok(&["delete", "-f", "c"]);
    oci.nothing_is_left("c");
}

#[test]
fn no_limit_is_no_limit() {
    let oci = Oci::new();
    oci.run_detached(&with(
        &oci,
        json!({ "memory": { "limit": -1 }, "pids": { "limit": -1 }, "cpu": { "quota": -1 } }),
    ));
    let memory = oci.cgroup_value("c", MEMORY);
    assert!(memory == "max" || memory.parse::<u64>().is_ok_and(|bytes| bytes > 1 << 50), "{memory}");
    assert_eq!(oci.cgroup_value("c", PIDS), "max");
    assert!(["-1", "max"].contains(&quota(&oci).0.as_str()));
}

#[test]
fn what_the_kernel_does_not_take_is_refused() {
    let oci = Oci::new();
    for resources in [
        json!({ "cpu": { "cpus": "4000" } }),
        json!({ "cpu": { "cpus": "nonsense" } }),
        json!({ "cpu": { "period": 1 } }),
        json!({ "memory": { "limit": "nonsense" } }),
        json!({ "blockIO": { "throttleReadBpsDevice": [{ "major": 999, "minor": 0, "rate": 1000 }] } }),
    ] {
        let config = with(&oci, resources);
        oci.configure(&config);
        let output = oci.call(&["create", "c"]);
        assert!(output.status != 0, "{}: {output:?}", config["linux"]["resources"]);
        oci.nothing_is_left("c");
    }
}

#[test]
fn processes_are_limited_for_real() {
    let oci = Oci::new();
    let mut config = oci.shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 600 & done; echo all");
    config["linux"]["resources"]["pids"] = json!({ "limit": 4 });
    let output = oci.run(&config);
    assert!(output.stdout.is_empty() && output.stderr.contains("fork"), "{output:?}");
}

#[test]
fn memory_is_limited_for_real_and_its_end_is_an_event() {
    let oci = Oci::new();
    let mut config = oci.shell("read x </dev/stdin; tail -c 200m /dev/zero; sleep 600");
    config["process"]["args"] =
        json!(["sh", "-c", "while ! test -e /go; do sleep 0.05; done; tail -c 200m /dev/zero; sleep 600"]);
    config["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    oci.run_detached(&config);
    let mut events = oci.begin(&["events", "--interval", "100ms", "c"]);
    let mut lines = BufReader::new(events.stdout.take().expect("its output")).lines();
    let mut next = || -> Value {
        serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("a line of JSON")
    };
    let first = next();
    assert_eq!((&first["type"], &first["id"]), (&json!("stats"), &json!("c")));
    fs::write(oci.rootfs().join("go"), "").expect("the word");
    while next()["type"] != "oom" {}
    oci.ok(&["delete", "-f", "c"]);
    assert!(events.wait().expect("its end").success(), "events end with the container");
}

#[test]
fn figures_are_printed_once() {
    let oci = Oci::new();
    oci.run_detached(&with(&oci, json!({ "memory": { "limit": LIMIT }, "pids": { "limit": 55 } })));
    let stats: Value = serde_json::from_str(&oci.ok(&["events", "--stats", "c"])).expect("JSON");
    assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!("c")));
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], LIMIT);
    assert!(stats["data"]["memory"]["usage"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{stats}");
    // runc's own threads may not all be gone yet.
    assert!(stats["data"]["pids"]["current"].as_u64().is_some_and(|count| count >= 1), "{stats}");
    assert_eq!(stats["data"]["pids"]["limit"], 55);
    assert!(stats["data"]["cpu"]["usage"]["total"].as_u64().is_some_and(|ns| ns > 0), "{stats}");
    let is_there = |file: &str| oci.cgroups("c").iter().any(|folder| folder.join(file).exists());
    for (file, kind) in [("memory.memsw.usage_in_bytes", "swap"), ("memory.kmem.usage_in_bytes", "kernel")] {
        let limit = &stats["data"]["memory"][kind]["limit"];
        assert!(!is_there(file) || limit.as_u64().is_some_and(|bytes| bytes > 0), "{kind}: {stats}");
    }
    assert!(!is_there("cpuset.cpus") || stats["data"]["cpuset"]["mems"][0] == 0, "{stats}");
    oci.fails(&["events", "--interval", "0s", "c"], "");
}

#[test]
fn limits_are_changed_by_flags_and_by_a_file() {
    let oci = Oci::new();
    oci.run_detached(&with(&oci, json!({ "memory": { "limit": LIMIT }, "pids": { "limit": 55 } })));
    oci.ok(&["update", "--memory", "128m", "--pids-limit", "66", "c"]);
    assert_eq!(oci.cgroup_value("c", MEMORY), (LIMIT * 2).to_string());
    assert_eq!(oci.cgroup_value("c", PIDS), "66");
    oci.ok(&["update", "--cpu-quota", "30000", "--cpu-period", "100000", "--cpu-share", "256", "c"]);
    assert_eq!(quota(&oci), ("30000".into(), "100000".into()));
    assert_eq!(oci.cgroup_value("c", PIDS), "66", "what is not named stays");
    oci.ok(&["update", "--cpuset-cpus", "0", "--memory-reservation", "32m", "c"]);
    assert_eq!(oci.cgroup_value("c", &["cpuset.cpus"]), "0");
    assert_eq!(oci.cgroup_value("c", RESERVATION), (LIMIT / 2).to_string());

    let text = json!({ "memory": { "limit": LIMIT }, "pids": { "limit": 44 } }).to_string();
    let file = oci.dir().join("resources.json");
    fs::write(&file, &text).expect("a file");
    oci.ok(&["update", "--resources", file.to_str().expect("a name"), "c"]);
    assert_eq!(oci.cgroup_value("c", MEMORY), LIMIT.to_string());
    oci.ok(&["update", "--pids-limit", "33", "c"]);
    let mut child =
        oci.command(&["update", "-r", "-", "c"]).stdin(Stdio::piped()).spawn().expect("the runtime");
    child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("it reads");
    assert!(child.wait().expect("its end").success());
    assert_eq!(oci.cgroup_value("c", PIDS), "44");

    oci.ok(&["update", "c"]);
    assert_eq!(oci.cgroup_value("c", PIDS), "44", "nothing was said to change");
    oci.fails(&["update", "--memory", "nonsense", "c"], "");
    oci.fails(&["update", "--cpuset-cpus", "4000", "c"], "");
    oci.fails(&["update", "-r", "/no/such/file", "c"], "no such file");
    oci.fails(&["update", "--l3-cache-schema", "L3:0=f", "c"], "");
    assert_eq!(oci.status("c"), "running");
}

#[test]
fn a_container_that_is_created_or_paused_is_updated_too() {
    let oci = Oci::new();
    oci.create(&with(&oci, json!({ "pids": { "limit": 55 } })));
    oci.ok(&["update", "--pids-limit", "66", "c"]);
    assert_eq!(oci.cgroup_value("c", PIDS), "66");
    oci.ok(&["start", "c"]);
    oci.ok(&["pause", "c"]);
    oci.ok(&["update", "--pids-limit", "77", "c"]);
    assert_eq!(oci.cgroup_value("c", PIDS), "77");
    assert_eq!(oci.status("c"), "paused");
}

#[test]
fn what_is_paused_stands_still() {
    let oci = Oci::new();
    let call = oci.next_call();
    oci.run_detached(&oci.shell("while true; do echo turn; sleep 0.02; done"));
    wait_until("it runs", PATIENCE, || oci.said(call).contains("turn"));
    oci.ok(&["pause", "c"]);
    let then = oci.said(call).len();
    let pid = oci.state("c")["pid"].to_string();
    let ticks = || fs::read_to_string(format!("/proc/{pid}/stat")).expect("its figures");
    let before = ticks();
    assert_eq!((oci.said(call).len(), ticks()), (then, before));
    oci.ok(&["resume", "c"]);
    wait_until("it goes on", PATIENCE, || oci.said(call).len() > then);
    // The end of what is paused is seen.
    oci.ok(&["pause", "c"]);
    oci.ok(&["kill", "c", "KILL"]);
    oci.comes_to("c", "stopped");
}

#[test]
fn block_io_is_throttled() {
    let oci = Oci::new();
    let disk = fs::read_to_string("/proc/partitions").unwrap_or_default();
    let whole = disk.lines().skip(2).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.get(3)?;
        (!name.starts_with("loop") && !name.starts_with("ram"))
            .then(|| (words[0].parse::<i64>().ok(), words[1].parse::<i64>().ok()))
    });
    let Some((Some(major), Some(minor))) = whole else {
        eprintln!("not tested: no disk");
        return;
    };
    let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
    oci.run_detached(&with(
        &oci,
        json!({ "blockIO": {
        "throttleReadBpsDevice": rate(1_048_576), "throttleWriteBpsDevice": rate(2_097_152),
        "throttleReadIOPSDevice": rate(300), "throttleWriteIOPSDevice": rate(400),
    } }),
    ));
    for (v1, v2, number) in [
        ("blkio.throttle.read_bps_device", "rbps=", "1048576"),
        ("blkio.throttle.write_bps_device", "wbps=", "2097152"),
        ("blkio.throttle.read_iops_device", "riops=", "300"),
        ("blkio.throttle.write_iops_device", "wiops=", "400"),
    ] {
        let value = oci.cgroup_value("c", &[v1, "io.max"]);
        let expected = [format!("{major}:{minor} {number}"), format!("{v2}{number}")];
        assert!(expected.iter().any(|expected| value.contains(expected)), "{v1}: {value}");
    }
}

#[test]
fn files_of_v2_by_their_names() {
    let oci = Oci::new();
    let resources = json!({ "unified": { "pids.max": "44", "memory.high": "33554432" } });
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok();
    if !v2 {
        // Nothing is accepted and not done.
        let config = with(&oci, resources);
        if oci.is_hull() {
            oci.refuses(&config, "");
        }
        eprintln!("not tested further: this machine's controllers are v1's");
        return;
    }
    oci.run_detached(&with(&oci, resources));
    assert_eq!(oci.cgroup_value("c", PIDS), "44");
    assert_eq!(oci.cgroup_value("c", &["memory.high"]), "33554432");
    oci.ok(&["delete", "-f", "c"]);
    oci.refuses(&with(&oci, json!({ "unified": { "no.such": "1" } })), "no.such");
    oci.refuses(&with(&oci, json!({ "unified": { "../cgroup.procs": "1" } })), "");
}

#[test]
fn huge_pages_are_limited_where_they_can_be() {
    let oci = Oci::new();
    let sizes: Vec<String> = fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|size| {
            size.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .map(|kib: u64| if kib >= 1 << 20 { format!("{}GB", kib >> 20) } else { format!("{}MB", kib >> 10) })
        .collect();
    let Some(size) = sizes.first() else {
        eprintln!("not tested: no huge pages");
        return;
    };
    let limit = json!([{ "pageSize": size, "limit": 0 }]);
    oci.configure(&with(&oci, json!({ "hugepageLimits": limit })));
    let output = oci.call(&["run", "-d", "c"]);
    if output.status != 0 {
        assert!(output.stderr.contains("hugetlb"), "{output:?}");
        oci.nothing_is_left("c");
        eprintln!("not tested: {}", output.stderr);
        return;
    }
    if oci.cgroups("c").iter().any(|folder| folder.join(format!("hugetlb.{size}.limit_in_bytes")).exists()) {
        assert_eq!(oci.cgroup_value("c", &[&format!("hugetlb.{size}.limit_in_bytes")]), "0");
    }
}

#[test]
fn a_limit_that_the_kernel_has_no_more_is_refused() {
    let oci = Oci::new();
    if fs::exists("/sys/fs/cgroup/blkio/blkio.leaf_weight").unwrap_or(false) {
        eprintln!("not tested: this kernel has it");
        return;
    }
    let word = if fs::exists("/sys/fs/cgroup/blkio").unwrap_or(false) { "leaf" } else { "" };
    oci.refuses(&with(&oci, json!({ "blockIO": { "leafWeight": 300 } })), word);
}

/// Whether this machine has a controller, in a hierarchy that is mounted.
fn has_controller(name: &str) -> bool {
    let all = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let unified = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"];
    let unified = unified.iter().filter_map(|file| fs::read_to_string(file).ok());
    unified
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .any(|one| one == name)
        || all
            .lines()
            .any(|line| line.contains(" - cgroup ") && line.rsplit([' ', ',']).any(|word| word == name))
}

#[test]
fn a_limit_whose_controller_is_not_there_is_refused() {
    let oci = Oci::new();
    for (controller, resources) in [
        ("net_cls", json!({ "network": { "classID": 5 } })),
        ("net_prio", json!({ "network": { "priorities": [{ "name": "lo", "priority": 3 }] } })),
        ("rdma", json!({ "rdma": { "mlx5_0": { "hcaHandles": 3 } } })),
        ("hugetlb", json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }] })),
    ] {
        if has_controller(controller) {
            eprintln!("not tested: this machine has {controller}");
            continue;
        }
        // crun names another controller of the same hierarchy.
        let word = if oci.is_hull() || oci.is_runc() { controller } else { "" };
        oci.refuses(&with(&oci, resources.clone()), word);
        if oci.is_hull() {
            // runc's `update` does not read these at all.
            oci.run_detached(&with(&oci, json!({})));
            fs::write(oci.dir().join("resources.json"), resources.to_string()).expect("a file");
            let file = oci.dir().join("resources.json");
            oci.fails(&["update", "--resources", file.to_str().expect("a name"), "c"], controller);
            oci.ok(&["delete", "-f", "c"]);
        }
    }
}

/// `run c` in a mount namespace where a hierarchy of v1 is not mounted.
fn run_without(oci: &Oci, hierarchy: &str) -> Output {
    let run = oci.command(&["run", "c"]);
    let mut command = Command::new("unshare");
    let script = format!("umount {hierarchy} && exec \"$@\"");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(run.get_program()).args(run.get_args());
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(oci.bundle()).stdin(Stdio::null());
    oci.finish(command)
}

#[test]
fn a_limit_whose_hierarchy_is_not_mounted_is_refused() {
    let oci = Oci::new();
    for (controller, limited, unlimited) in [
        ("pids", json!({ "pids": { "limit": 9 } }), Some(json!({ "pids": { "limit": -1 } }))),
        ("memory", json!({ "memory": { "limit": LIMIT } }), Some(json!({ "memory": { "limit": -1 } }))),
        ("cpuset", json!({ "cpu": { "cpus": "0" } }), None),
        ("blkio", json!({ "blockIO": { "weight": 100 } }), None),
    ] {
        let hierarchy = format!("/sys/fs/cgroup/{controller}");
        if !fs::exists(format!("{hierarchy}/cgroup.procs")).unwrap_or(false) {
            eprintln!("not tested: {controller} is not on v1 here");
            continue;
        }
        let mut config = with(&oci, limited);
        config["process"]["args"] = json!(["echo", "ran"]);
        oci.configure(&config);
        let output = run_without(&oci, &hierarchy);
        assert!(output.status != 0 && output.stdout.is_empty(), "{controller}: {output:?}");
        assert!(output.stderr.contains(controller), "{controller}: {output:?}");
        oci.nothing_is_left("c");
        // Nothing is lost where there is no limit: the others refuse that as well.
        let Some(unlimited) = unlimited.filter(|_| oci.is_hull()) else { continue };
        config["linux"]["resources"] = unlimited;
        oci.configure(&config);
        let output = run_without(&oci, &hierarchy);
        assert!(output.status == 0 && output.stdout == "ran\n" && output.stderr.is_empty(), "{output:?}");
        oci.nothing_is_left("c");
    }
}

#[test]
fn a_limit_too_low_to_begin_with_is_told() {
    let oci = Oci::new();
    oci.refuses(&with(&oci, json!({ "memory": { "limit": 4096 } })), "memory");
}

#[test]
fn the_place_in_the_hierarchy() {
    let oci = Oci::new();
    let mut config = oci.config(&["cat", "/proc/self/cgroup"]);
    let path = format!("/{}/deep/er", oci.cgroup_parent());
    config["linux"]["cgroupsPath"] = json!(path);
    let printed = oci.prints(&config);
    assert!(printed.lines().any(|line| line.ends_with(&path)), "{printed}");
    // Within a namespace of cgroups it is the root.
    config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "cgroup" }));
    let printed = oci.prints(&config);
    assert!(printed.lines().all(|line| !line.contains("deep")), "{printed}");
    // And its files are there to be read.
    config["process"]["args"] =
        json!(["sh", "-c", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null"]);
    config["linux"]["resources"]["pids"] = json!({ "limit": 22 });
    config["mounts"]
        .as_array_mut()
        .expect("a list")
        .push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup",
        "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }));
    let output = oci.run(&config);
    assert_eq!(output.stdout, "22\n", "{output:?}");
}

#[test]
fn a_configuration_to_begin_with() {
    let oci = Oci::new();
    oci.ok(&["spec"]);
    let path = oci.bundle().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("the file")).expect("JSON");
    assert_eq!(config["process"]["args"], json!(["sh"]));
    oci.fails(&["spec"], "exist");
    let other = oci.dir().join("other");
    fs::create_dir(&other).expect("a folder");
    oci.ok(&["spec", "--bundle", other.to_str().expect("a name"), "--rootless"]);
    let rootless: Value =
        serde_json::from_slice(&fs::read(other.join("config.json")).expect("the file")).expect("JSON");
    assert_eq!(rootless["linux"]["uidMappings"][0]["containerID"], 0);
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] =
        json!(["/bin/sh", "-c", "echo begun; touch /x 2>/dev/null || echo read-only"]);
    config["linux"]["cgroupsPath"] = json!(format!("/{}/c", oci.cgroup_parent()));
    assert_eq!(oci.prints(&config), "begun\nread-only");
}

#[test]
fn what_the_runtime_can_do() {
    let oci = Oci::new();
    let features: Value = serde_json::from_str(&oci.ok(&["features"])).expect("JSON");
    let has = |list: &Value, word: &str| list.as_array().is_some_and(|list| list.contains(&json!(word)));
    assert!(
        features["ociVersionMin"].as_str().is_some_and(|version| version.starts_with("1.0")),
        "{features}"
    );
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        assert!(has(&features["hooks"], hook), "{hook}");
    }
    for option in
        ["bind", "rbind", "ro", "rro", "nosuid", "sync", "iversion", "rprivate", "rslave", "tmpcopyup"]
    {
        assert!(has(&features["mountOptions"], option), "{option}");
    }
    for kind in ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"] {
        assert!(has(&features["linux"]["namespaces"], kind), "{kind}");
    }
    assert!(has(&features["linux"]["capabilities"], "CAP_SYS_ADMIN"));
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert!(has(&features["linux"]["seccomp"]["actions"], "SCMP_ACT_ERRNO"));
    assert!(has(&features["linux"]["seccomp"]["operators"], "SCMP_CMP_MASKED_EQ"));
    let version = oci.ok(&["--version"]);
    assert!(version.contains("version") && version.contains("spec: 1."), "{version}");
}
