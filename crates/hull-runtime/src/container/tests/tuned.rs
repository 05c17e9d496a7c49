//! Where and how a process runs, mounts that change, labels: what few configurations have.

use super::*;

fn ok(outcome: Outcome) -> String {
    match outcome.error {
        Some(error) => panic!("{error}; {:?}", outcome.warnings),
        None => outcome.output,
    }
}

/// The 41st field of a process's `stat` is its scheduler.
const SCHEDULER: &str = "cut -d' ' -f41 /proc/self/stat";

#[test]
fn the_scheduler_is_as_asked() {
    let mut bench = Bench::new();
    bench.shell(SCHEDULER);
    assert_eq!(ok(bench.run()), "0\n");
    bench.spec["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    assert_eq!(ok(bench.shell(&format!("{SCHEDULER}; cut -d' ' -f19 /proc/self/stat")).run()), "3\n5\n");
    bench.spec["process"]["scheduler"] = json!({ "policy": "SCHED_ISO" });
    let error = bench.run().error.unwrap().to_string();
    assert_eq!(error, "process.scheduler: SCHED_ISO: Linux reserves the number and has no such scheduler");
    bench.spec["process"]["scheduler"] = json!({ "policy": "SCHED_OTHER", "priority": 5 });
    let error = bench.run().error.unwrap().to_string();
    assert!(error.ends_with("the kernel does not take this combination of values"), "{error}");
}

#[test]
fn the_personality_is_as_asked() {
    let mut bench = Bench::new();
    bench.command(&["/bin/busybox", "uname", "-m"]);
    let own = ok(bench.run());
    bench.spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
    let other = ok(bench.run());
    assert_ne!(own, other);
    assert!(cfg!(not(target_arch = "x86_64")) || other == "i686\n", "{other}");
    bench.spec["linux"]["personality"] = json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] });
    let error = bench.run().error.unwrap().to_string();
    assert_eq!(error, "linux.personality.flags: the specification knows no flag yet");
}

#[test]
fn memory_comes_from_the_nodes_asked_for() {
    let mut bench = Bench::new();
    bench.spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "4000" });
    let error = bench.shell("true").run().error.unwrap().to_string();
    // A kernel without NUMA has no such call.
    if error.contains("function not implemented") {
        return;
    }
    assert!(error.ends_with("there are no such nodes, or the mode takes none"), "{error}");
    bench.spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0" });
    // What shows it is there in some kernels only.
    let output =
        ok(bench.shell("[ ! -e /proc/self/numa_maps ] || grep -m1 -o bind:0 /proc/self/numa_maps").run());
    assert!(["", "bind:0\n"].contains(&output.as_str()), "{output}");
}

#[test]
fn an_exec_runs_on_the_processors_asked_for() {
    let mut bench = Bench::new();
    bench.command(&["/bin/cat"]);
    let mut process = exec::process("grep Cpus_allowed_list /proc/self/status | cut -f2");
    process["execCPUAffinity"] = json!({ "initial": "0", "final": "0" });
    let mut missing = exec::process("true");
    missing["execCPUAffinity"] = json!({ "final": "1023" });
    let outcomes = exec::in_a_container(&bench, &[process, missing], None);
    assert_eq!(outcomes[0].output, "0\n", "{:?}", outcomes[0].error);
    let error = outcomes[1].error.as_ref().unwrap().to_string();
    assert_eq!(error, "run on the processors 1023: invalid argument");
}

#[test]
fn a_mount_is_changed_by_a_later_one() {
    let mut bench = Bench::new();
    let mounts = bench.spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "noexec"] }));
    let remount = ["remount", "bind", "ro", "exec"];
    mounts.push(json!({ "destination": "/tmp", "type": "none", "source": "none", "options": remount }));
    let script = "grep ' /tmp ' /proc/self/mounts; touch /tmp/f || echo refused";
    let output = ok(bench.shell(script).run());
    assert!(
        output.contains(" ro,") && !output.contains("noexec") && output.ends_with("refused\n"),
        "{output}"
    );
    let mounts = bench.spec["mounts"].as_array_mut().unwrap();
    mounts.pop();
    mounts.push(json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "size=128k"] }));
    let output = ok(bench.shell("grep ' /tmp ' /proc/self/mounts").run());
    assert!(output.contains("size=128k"), "{output}");
    bench.spec["mounts"].as_array_mut().unwrap().push(
        json!({ "destination": "/etc", "type": "none", "source": "none", "options": ["remount", "bind", "ro"] }),
    );
    let error = bench.run().error.unwrap().to_string();
    assert_eq!(error, "mount /etc anew (remount): invalid argument: nothing is mounted there");
}

#[test]
fn a_label_without_its_module_is_refused() {
    let mut bench = Bench::new();
    bench.spec["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
    let error = bench.run().error.unwrap().to_string();
    assert!(error.contains("SELinux is not enabled on this machine"), "{error}");
    bench.spec["process"]["selinuxLabel"] = json!("");
    bench.spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0");
    let error = bench.run().error.unwrap().to_string();
    assert!(error.contains("linux.mountLabel") && error.contains("SELinux is not enabled"), "{error}");
}
