//! The configuration as a whole: what the specification has passed over, and values that are none.

use hull_tests::Oci;
use serde_json::{Value, json};

#[test]
fn what_nobody_knows_is_passed_over() {
    let oci = Oci::new();
    let mut config = oci.shell("echo ran");
    for part in
        ["/nonsense", "/process/nonsense", "/process/user/nonsense", "/root/nonsense", "/linux/nonsense"]
    {
        let (within, name) = part.rsplit_once('/').expect("a name");
        config.pointer_mut(within).expect("a part")[name] = json!({ "any": ["thing"] });
    }
    config["linux"]["resources"]["nonsense"] = json!(7);
    config["mounts"][0]["nonsense"] = json!(true);
    config["hooks"] = json!({ "nonsense": [{ "path": "relative" }] });
    // Those of other systems are for their runtimes.
    config["windows"] = json!({ "layerFolders": ["C:\\layer"] });
    config["solaris"] = json!({ "milestone": "svc:/milestone/container:default" });
    config["annotations"] = json!({ "org.example.unknown": "value" });
    assert_eq!(oci.prints(&config), "ran");
}

#[test]
fn a_field_that_is_null_is_none() {
    let oci = Oci::new();
    let mut config = oci.shell("echo ran");
    for name in ["hooks", "annotations", "domainname", "windows"] {
        config[name] = Value::Null;
    }
    for name in ["rlimits", "apparmorProfile", "consoleSize", "oomScoreAdj", "selinuxLabel"] {
        config["process"][name] = Value::Null;
    }
    for name in
        ["devices", "sysctl", "seccomp", "uidMappings", "rootfsPropagation", "maskedPaths", "personality"]
    {
        config["linux"][name] = Value::Null;
    }
    for name in ["memory", "cpu", "pids", "blockIO", "hugepageLimits", "network"] {
        config["linux"]["resources"][name] = Value::Null;
    }
    assert_eq!(oci.prints(&config), "ran");
}

/// A place in the configuration, and a value that is none there.
fn wrong_values() -> Vec<(&'static str, Value)> {
    let filter = |syscall: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [syscall] });
    let argument = |argument: Value| {
        filter(json!({ "names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "args": [argument] }))
    };
    vec![
        ("/root/path", json!("")),
        ("/root/path", json!(7)),
        ("/hostname", json!("a".repeat(65))),
        ("/annotations", json!({ "key": 1 })),
        ("/mounts/0/destination", json!("")),
        ("/mounts/0/type", json!("nonsense")),
        ("/mounts/0/options", json!("ro")),
        ("/hooks", json!({ "prestart": [{ "args": ["no", "path"] }] })),
        ("/hooks", json!({ "prestart": [{ "path": "relative" }] })),
        ("/process/args", json!([1])),
        ("/process/args", json!([""])),
        ("/process/args", json!(["echo", "a\u{0}b"])),
        ("/process/env", json!(["PATH=/bin", "A=b\u{0}c"])),
        ("/process/env", json!(["PATH=/bin", "NONSENSE"])),
        ("/process/user/uid", json!(-1)),
        ("/process/user/uid", json!(1_u64 << 32)),
        ("/process/oomScoreAdj", json!(2000)),
        ("/process/rlimits", json!([{ "type": "rlimit_nofile", "soft": 10, "hard": 20 }])),
        ("/linux/rootfsPropagation", json!("nonsense")),
        ("/linux/namespaces", json!([{ "type": "mount" }, { "type": "mount" }])),
        ("/linux/namespaces", json!([{ "type": "mount" }, { "type": "uts", "path": "relative" }])),
        ("/linux/sysctl", json!({ "net.nonsense": "1" })),
        ("/linux/sysctl", json!({ "vm.swappiness": "10" })),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "z", "major": 1, "minor": 3 }])),
        ("/linux/resources/devices", json!([{ "allow": true, "type": "q", "access": "rwm" }])),
        ("/linux/resources/memory", json!({ "limit": 64 << 20, "swap": 32 << 20 })),
        ("/linux/resources/memory", json!({ "limit": "64m" })),
        ("/linux/resources/cpu", json!({ "shares": -1 })),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_NONSENSE" })),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NONSENSE"] }),
        ),
        ("/linux/seccomp", filter(json!({ "names": ["getcwd"], "action": "SCMP_ACT_NONSENSE" }))),
        ("/linux/seccomp", argument(json!({ "index": 0, "value": 1, "op": "NONSENSE" }))),
        ("/linux/seccomp", argument(json!({ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" }))),
    ]
}

#[test]
fn values_that_are_none_are_refused_and_leave_nothing() {
    let oci = Oci::new();
    let mut wrong = wrong_values();
    if oci.is_hull() {
        // The specification says so; runc takes the last of the limits, and of the letters those that it knows.
        let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 10, "hard": 20 });
        wrong.push(("/process/rlimits", json!([limit, limit])));
        wrong.push(("/linux/resources/devices", json!([{ "allow": true, "access": "xyz" }])));
        wrong.push(("/linux/resources/devices", json!([{ "allow": true, "access": "" }])));
    }
    let mut taken = Vec::new();
    for (place, value) in wrong {
        let told = format!("{place}: {value}");
        let mut config = oci.config(&["true"]);
        let (within, name) = place.rsplit_once('/').expect("a name");
        let part = config.pointer_mut(within).expect("a part");
        match name.parse::<usize>() {
            Ok(index) => part[index] = value,
            Err(_) => part[name] = value,
        }
        oci.configure(&config);
        let output = oci.call(&["run", "c"]);
        if output.status == 0 || output.stderr.is_empty() {
            taken.push(told);
        }
        oci.nothing_is_left("c");
    }
    assert!(taken.is_empty(), "{taken:#?}");
}
