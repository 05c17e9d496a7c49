//! User and time namespaces, and mounts whose ids are mapped.

use std::cell::RefCell;
use std::os::unix::fs::{MetadataExt, chown};

use super::*;

fn ok(outcome: Outcome) -> String {
    match outcome.error {
        Some(error) => panic!("{error}; {:?}", outcome.warnings),
        None => outcome.output,
    }
}

/// A container in a user namespace: its root is the host's user 100000.
fn mapped() -> Bench {
    let mut bench = Bench::new();
    bench.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    bench.spec["linux"]["uidMappings"] = map.clone();
    bench.spec["linux"]["gidMappings"] = map;
    bench
}

fn bind(bench: &mut Bench, source: &Path, options: &[&str]) {
    std::fs::create_dir_all(bench.path("base/data")).unwrap();
    let mount = json!({ "destination": "/data", "type": "bind", "source": source, "options": options });
    bench.spec["mounts"].as_array_mut().unwrap().push(mount);
}

#[test]
fn root_inside_is_nobody_in_particular_outside() {
    let mut bench = mapped();
    bench.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }]);
    let script = "id -u; cat /proc/self/uid_map; hostname; echo gone >/dev/null && echo devices; ulimit -n; \
                  grep CapEff /proc/self/status; [ -e /proc/1/root/etc ] && echo proc";
    let outcome = bench.shell(script).run_with(|child, outcome| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap_or_default();
        outcome.warnings.extend(status.lines().find(|line| line.starts_with("Uid:")).map(str::to_owned));
    });
    assert!(outcome.warnings.iter().any(|line| line.contains("\t100000\t")), "{:?}", outcome.warnings);
    let output = ok(outcome);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "0");
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert_eq!(lines[2..], ["box", "devices", "100", "CapEff:\t00000000080000e3", "proc"]);
}

#[test]
fn its_cgroup_is_its_own_and_what_it_does_not_map_is_refused() {
    let mut bench = mapped();
    let output = ok(bench.shell("cat /proc/self/cgroup").run());
    assert!(output.lines().all(|line| line.ends_with(":/") || line.starts_with("0::/")), "{output}");
    bench.spec["linux"]["uidMappings"] = json!([]);
    let error = bench.run().error.unwrap().to_string();
    assert!(error.contains("needs both linux.uidMappings and linux.gidMappings"), "{error}");
}

#[test]
fn a_bind_with_mapped_ids_belongs_to_who_called() {
    let mut bench = mapped();
    let folder = tempfile::tempdir().unwrap();
    bind(&mut bench, folder.path(), &["rbind", "idmap"]);
    assert_eq!(ok(bench.shell("echo x >/data/f; stat -c %u /data /data/f").run()), "0\n0\n");
    assert_eq!(std::fs::metadata(folder.path().join("f")).unwrap().uid(), 0);
    // Without that, it is not the container's root's to write.
    let mut bench = mapped();
    bind(&mut bench, folder.path(), &["rbind"]);
    assert_eq!(
        ok(bench.shell("stat -c %u /data; echo y >/data/g || echo refused").run()).lines().last(),
        Some("refused")
    );
}

#[test]
fn a_mount_has_mappings_of_its_own() {
    let mut bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "").unwrap();
    chown(folder.path().join("f"), Some(1000), Some(1001)).unwrap();
    bind(&mut bench, folder.path(), &["rbind"]);
    let mount = bench.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap();
    mount["uidMappings"] = json!([{ "containerID": 1000, "hostID": 7, "size": 1 }]);
    mount["gidMappings"] = json!([{ "containerID": 1001, "hostID": 8, "size": 1 }]);
    assert_eq!(ok(bench.shell("stat -c %u:%g /data/f").run()), "7:8\n");
    // The mappings of a user namespace, where there is none.
    let mut bench = Bench::new();
    bind(&mut bench, folder.path(), &["rbind", "idmap"]);
    let error = bench.run().error.unwrap().to_string();
    assert!(error.contains("no user namespace whose they could be"), "{error}");
    // Not of what is no bind.
    let mut bench = Bench::new();
    let mount = json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["idmap"] });
    bench.spec["mounts"].as_array_mut().unwrap().push(mount);
    let error = bench.run().error.unwrap().to_string();
    assert!(error.contains("only those of a bind can be mapped"), "{error}");
}

#[test]
fn the_clocks_are_set_off() {
    let mut bench = Bench::new();
    bench.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "time" }));
    bench.spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 10_000_000 } });
    let output = ok(bench.shell("cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time").run());
    let (uptime, namespace) = output.split_once('\n').unwrap();
    assert!(uptime.parse::<u64>().unwrap() >= 10_000_000, "{uptime}");
    assert_ne!(namespace.trim(), std::fs::read_link("/proc/self/ns/time").unwrap().to_str().unwrap());
    bench.spec["linux"]["timeOffsets"] = json!({ "realtime": { "secs": 1 } });
    assert!(bench.run().error.unwrap().to_string().contains("monotonic and boottime"));
    bench.spec["linux"]["namespaces"].as_array_mut().unwrap().pop();
    assert!(bench.run().error.unwrap().to_string().contains("no time namespace of the container's own"));
}

#[test]
fn an_exec_is_in_the_user_namespace_too() {
    let mut bench = mapped();
    bench.command(&["/bin/cat"]);
    let script = "id -u; for n in user mnt net pid; do [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done";
    let outcome = exec::in_a_container(&bench, &[exec::process(script)], None).remove(0);
    assert_eq!(ok(outcome), "0\n");
}

#[test]
fn others_namespaces_are_joined_beside_a_user_namespace_of_its_own() {
    let mut bench = mapped();
    // The test's own, by path: what a container with a user namespace could not enter from inside of that.
    for namespace in bench.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "network" || namespace["type"] == "ipc" {
            let name = if namespace["type"] == "ipc" { "ipc" } else { "net" };
            namespace["path"] = json!(format!("/proc/{}/ns/{name}", std::process::id()));
        }
    }
    // Nobody may mount the file system of another's network, nor of its message queues.
    bench.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["type"] != "sysfs" && mount["type"] != "mqueue" && mount["type"] != "cgroup");
    let output = ok(bench.shell("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc").run());
    for (line, name) in output.lines().zip(["net", "ipc"]) {
        assert_eq!(line, std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap());
    }
    assert_eq!(output.lines().count(), 2);
}

#[test]
fn layers_with_mapped_ids_are_root_s_inside_and_outside() {
    let mut bench = mapped();
    bench.mapped = true;
    bench.layers = 3;
    let script = "stat -c %u:%g / /bin /etc/passwd /layer-1; touch /made /etc/passwd; stat -c %u /made /etc/passwd; chmod 600 /bin/busybox && echo copied";
    assert_eq!(ok(bench.shell(script).run()), "0:0\n0:0\n0:0\n0:0\n0\n0\ncopied\n");
    for name in ["made", "etc/passwd", "bin/busybox"] {
        assert_eq!(std::fs::metadata(bench.path("upper").join(name)).unwrap().uid(), 0, "{name}");
    }
    // Without a user namespace there is nobody to map them to.
    let mut bench = Bench::new();
    bench.mapped = true;
    let error = bench.run().error.unwrap().to_string();
    assert!(error.contains("no user namespace to map the ids of its files by"), "{error}");
}

#[test]
fn a_user_namespace_that_is_there_is_joined_with_what_belongs_to_it() {
    let donor = {
        let mut bench = mapped();
        bench.command(&["/bin/sleep", "600"]);
        bench
    };
    let joiner = RefCell::new(Bench::new());
    // In the shim of the one, with its process there, the other is started.
    let outcome = donor.run_with(|child, outcome| {
        let mut bench = joiner.borrow_mut();
        bench.mapped = true;
        let namespaces = bench.spec["linux"]["namespaces"].as_array_mut().unwrap();
        for namespace in namespaces.iter_mut() {
            let kind = namespace["type"].as_str().unwrap_or_default();
            let name = if kind == "network" { "net" } else { kind };
            if ["network", "pid"].contains(&kind) {
                namespace["path"] = json!(format!("/proc/{}/ns/{name}", child.pid()));
            }
        }
        namespaces.push(json!({ "type": "user", "path": format!("/proc/{}/ns/user", child.pid()) }));
        bench.shell("id -u; cat /proc/1/comm; stat -c %u / /dev/pts; touch /x; ls /sys/class/net; readlink /proc/self/ns/user; readlink /proc/1/ns/user");
        let inner = bench.run();
        outcome.warnings.push(match inner.error {
            Some(error) => error.to_string(),
            None => format!("{} {}", inner.status, inner.output),
        });
        sys::kill(child.pid(), libc::SIGKILL).unwrap();
    });
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    let said = outcome.warnings.last().unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() > 5, "{said}");
    assert_eq!(lines[..5], ["0 0", "sleep", "0", "0", "lo"], "{said}");
    assert_eq!(lines.len(), 7, "{said}");
    assert_eq!(lines[5], lines[6]);
    assert_eq!(std::fs::metadata(joiner.borrow().path("upper/x")).unwrap().uid(), 0);
}
