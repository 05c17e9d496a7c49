//! The configuration to begin with that `hull oci spec` writes.

use serde_json::{Value, json};

use crate::cgroup::{HierarchyMode, hierarchy};

/// The version of the runtime specification that is followed.
pub const VERSION: &str = "1.3.0";

const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// A configuration of a shell on a terminal, with the root file system in `rootfs`. With `rootless` one that a user
/// without privileges can run, whose own ids are given.
pub fn default_spec(rootless: Option<(u32, u32)>) -> Value {
    let mut spec = json!({
        "ociVersion": VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "hull",
        "mounts": mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    if hierarchy().mode == HierarchyMode::V2 {
        push(&mut spec["linux"]["namespaces"], json!({ "type": "cgroup" }));
    }
    if let Some((uid, gid)) = rootless {
        make_rootless(&mut spec, uid, gid);
    }
    spec
}

fn mounts() -> Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
          "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
          "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs",
          "options": ["nosuid", "noexec", "nodev", "ro"] },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
          "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
    ])
}

/// What an unprivileged user cannot have is taken out: a network namespace of which nobody could use the file system,
/// limits, groups that are not mapped.
fn make_rootless(spec: &mut Value, uid: u32, gid: u32) {
    let retain = |list: &mut Value, keep: &dyn Fn(&Value) -> bool| {
        if let Some(list) = list.as_array_mut() {
            list.retain(|item| keep(item));
        }
    };
    retain(&mut spec["linux"]["namespaces"], &|namespace| namespace["type"] != "network");
    push(&mut spec["linux"]["namespaces"], json!({ "type": "user" }));
    spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    spec["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("resources");
    }
    retain(&mut spec["mounts"], &|mount| {
        mount["destination"] != "/sys" && mount["destination"] != "/sys/fs/cgroup"
    });
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        retain(&mut mount["options"], &|option| {
            !option.as_str().is_some_and(|option| option.starts_with("gid=") || option.starts_with("uid="))
        });
    }
    push(
        &mut spec["mounts"],
        json!({ "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] }),
    );
}

fn push(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for rootless in [None, Some((1000, 1000))] {
            let spec: oci_spec::runtime::Spec = serde_json::from_value(default_spec(rootless)).unwrap();
            assert_eq!(spec.version(), VERSION);
        }
        let rootless = default_spec(Some((1000, 1000))).to_string();
        assert!(!rootless.contains("gid=5") && !rootless.contains("\"network\""), "{rootless}");
    }
}
