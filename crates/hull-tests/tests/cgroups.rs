//! Control groups: what is asked for is what the kernel holds a container to, on v1, v2 and the hybrid of both.
//! `cargo xtask vm-test` runs these where this machine's kernel has only one of them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use hull_tests::{Daemon, Engine};
use serde_json::Value;

/// The folder of a container's cgroup for a controller, and whether that is on v2.
fn folder_of(daemon: &Daemon, container: &str, controller: &str) -> (PathBuf, bool) {
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", container]);
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the container runs");
    let has = |list: &str| list.split(',').any(|name| name == controller);
    let v1 = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        has(controllers).then(|| parts.next().unwrap_or_default().to_owned())
    });
    let unified = || own.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned);
    let is_v2 = v1.is_none();
    let path = v1.or_else(unified).expect("a cgroup of the container's own");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = right.next()?;
        let fits = if is_v2 { kind == "cgroup2" } else { kind == "cgroup" && has(right.nth(1)?) };
        fits.then(|| left.split(' ').nth(4).unwrap_or_default().to_owned())
    });
    (Path::new(&mount.expect("its hierarchy is mounted")).join(path.trim_start_matches('/')), is_v2)
}

/// What the kernel says of a limit: the v1 file with its controller, and the v2 file.
fn limit(daemon: &Daemon, container: &str, v1: (&str, &str), v2: &str) -> (String, bool) {
    let (folder, is_v2) = folder_of(daemon, container, v1.0);
    let file = folder.join(if is_v2 { v2 } else { v1.1 });
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    (text.trim().to_owned(), is_v2)
}

/// A disk of this machine, and its number; none where it has none.
fn disk() -> Option<(String, String)> {
    let mut disks: Vec<PathBuf> =
        fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.path()).collect();
    disks.sort();
    disks.iter().find_map(|disk| {
        let name = disk.file_name()?.to_str()?;
        let node = format!("/dev/{name}");
        let real = ["vd", "sd", "nvme", "xvd"].iter().any(|kind| name.starts_with(kind));
        let there = fs::metadata(&node).is_ok_and(|node| node.file_type().is_block_device());
        let number = fs::read_to_string(disk.join("dev")).ok()?.trim().to_owned();
        (real && there).then_some((node, number))
    })
}

/// A device that can be opened here and that no container is given by itself: its file, kind, and number.
fn device() -> (String, char, String) {
    let candidates = ["/dev/vda", "/dev/fuse", "/dev/loop-control", "/dev/net/tun"];
    candidates
        .into_iter()
        .find_map(|path| {
            let kind = fs::File::open(path).ok()?.metadata().ok()?;
            let letter = if kind.file_type().is_block_device() { 'b' } else { 'c' };
            let (major, minor) = (rustix::fs::major(kind.rdev()), rustix::fs::minor(kind.rdev()));
            Some((path.to_owned(), letter, format!("{major}:{minor}")))
        })
        .expect("this machine has one of these devices")
}

/// The cgroups of the daemon become as many as they were.
fn nothing_left(daemon: &Daemon, before: usize) {
    hull_tests::wait_until("no cgroup is left", hull_tests::PATIENCE, || daemon.census().cgroups == before);
}

#[test]
fn limits_reach_the_kernel_and_are_changed_while_it_runs() {
    let daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--memory",
        "64m",
        "--memory-swap",
        "96m",
        "--memory-reservation",
        "32m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "--cpuset-mems",
        "0",
        "--pids-limit",
        "30",
        "busybox",
        "sleep",
        "600",
    ]);
    // v2 counts swap alone, and has weights for shares.
    let expect = |v1: (&str, &str), v2: &str, on_v1: &str, on_v2: &str| {
        let (value, is_v2) = limit(&daemon, "box", v1, v2);
        assert_eq!(value, if is_v2 { on_v2 } else { on_v1 }, "{} or {v2}", v1.1);
    };
    let memory = ("memory", "memory.limit_in_bytes");
    let swap = ("memory", "memory.memsw.limit_in_bytes");
    let cpuset = ("cpuset", "cpuset.cpus");
    expect(memory, "memory.max", "67108864", "67108864");
    expect(swap, "memory.swap.max", "100663296", "33554432");
    expect(("memory", "memory.soft_limit_in_bytes"), "memory.low", "33554432", "33554432");
    expect(("cpu", "cpu.cfs_quota_us"), "cpu.max", "50000", "50000 100000");
    expect(("cpu", "cpu.shares"), "cpu.weight", "512", "20");
    expect(cpuset, "cpuset.cpus", "0", "0");
    expect(("cpuset", "cpuset.mems"), "cpuset.mems", "0", "0");
    expect(("pids", "pids.max"), "pids.max", "30", "30");
    daemon.ok(&[
        "update",
        "--memory",
        "128m",
        "--memory-swap",
        "128m",
        "--cpus",
        "1.5",
        "--cpu-shares",
        "2048",
        "--pids-limit",
        "40",
        "box",
    ]);
    expect(memory, "memory.max", "134217728", "134217728");
    expect(swap, "memory.swap.max", "134217728", "0");
    expect(("cpu", "cpu.cfs_quota_us"), "cpu.max", "150000", "150000 100000");
    expect(("cpu", "cpu.shares"), "cpu.weight", "2048", "79");
    expect(cpuset, "cpuset.cpus", "0", "0");
    expect(("pids", "pids.max"), "pids.max", "40", "40");
    // Down again, where on v1 the inner limit must go first; and what is not named stays.
    daemon.ok(&["update", "--memory", "48m", "--memory-swap", "-1", "box"]);
    expect(memory, "memory.max", "50331648", "50331648");
    let (unlimited, is_v2) = limit(&daemon, "box", swap, "memory.swap.max");
    assert!(if is_v2 { unlimited == "max" } else { unlimited.len() > 18 }, "{unlimited}");
    expect(("cpu", "cpu.cfs_quota_us"), "cpu.max", "150000", "150000 100000");
    // A period alone leaves the quota as it is.
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "quota",
        "--cpu-period",
        "50000",
        "--cpu-quota",
        "25000",
        "busybox",
        "sleep",
        "600",
    ]);
    daemon.ok(&["update", "--cpu-period", "200000", "quota"]);
    let (quota, is_v2) = limit(&daemon, "quota", ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert_eq!(quota, if is_v2 { "25000 200000" } else { "25000" });
}

#[test]
fn the_kernel_s_kills_for_memory_are_told() {
    Daemon::start().session(
        r#"
        $ hull run --name first --memory 16m --memory-swap 16m busybox tail -n 1 /dev/zero
        [137]
        $ hull inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' first
        true 137
        $ hull run --name child --memory 16m --memory-swap 16m busybox sh -c 'tail -n 1 /dev/zero; echo $?' 2>/dev/null
        137
        $ hull inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' child
        true 0
        $ hull run --name fine --memory 16m busybox true; hull inspect -f '{{.State.OOMKilled}}' fine
        false
        $ hull run -d --name later --memory 32m --memory-swap 32m busybox sleep 600
        <id>
        $ hull exec later tail -n 1 /dev/zero
        [137]
        $ hull inspect -f '{{.State.Status}}' later; hull rm -f later
        running
        later
        $ hull events --since 1 --until "$(date +%s.%N)" --filter event=oom --format '{{.Actor.Attributes.name}}' | sort -u
        child
        first
        later
        "#,
    );
}

#[test]
fn processors_and_disks_are_throttled() {
    let daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "busy",
        "--cpus",
        "0.1",
        "busybox",
        "sh",
        "-c",
        "while :; do :; done",
    ]);
    let mut api = daemon.api();
    hull_tests::wait_until("it is throttled", hull_tests::PATIENCE, || {
        let stats = api.get("/containers/busy/stats?stream=false&one-shot=true").expect("an answer").json();
        stats["cpu_stats"]["throttling_data"]["throttled_periods"].as_u64() > Some(0)
    });
    daemon.ok(&["rm", "-f", "busy"]);
    let Some((disk, number)) = disk() else { return };
    // The folder of the daemon may be on another file system than that disk.
    let here = fs::metadata(daemon.dir()).expect("the daemon's folder").dev();
    let (major, minor) = (rustix::fs::major(here), rustix::fs::minor(here));
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "io",
        "--device-write-bps",
        &format!("{disk}:1mb"),
        "--device-read-iops",
        &format!("{disk}:500"),
        "busybox",
        "sleep",
        "600",
    ]);
    let (value, is_v2) = limit(&daemon, "io", ("blkio", "blkio.throttle.write_bps_device"), "io.max");
    let expected = format!("{number} rbps=max wbps=1048576 riops=500 wiops=max");
    assert_eq!(value, if is_v2 { expected } else { format!("{number} 1048576") });
    if format!("{major}:{minor}") == number {
        let begun = Instant::now();
        daemon.ok(&["exec", "io", "dd", "if=/dev/zero", "of=/file", "bs=64k", "count=48", "oflag=direct"]);
        assert!(begun.elapsed().as_secs_f64() > 1.5, "3 MB in {:?}", begun.elapsed());
        let stats = api.get("/containers/io/stats?stream=false&one-shot=true").expect("an answer").json();
        let written = |list: &Value| -> u64 {
            let lines = list.as_array().map(Vec::as_slice).unwrap_or_default();
            lines.iter().filter(|line| line["op"] == "write").filter_map(|line| line["value"].as_u64()).sum()
        };
        let bytes = written(&stats["blkio_stats"]["io_service_bytes_recursive"]);
        assert!(bytes >= 3 << 20, "{}", stats["blkio_stats"]);
    }
}

#[test]
fn devices_that_were_not_given_cannot_be_opened() {
    let (device, kind, number) = device();
    Daemon::start().session(&format!(
        r#"
        $ may() {{ hull run --rm "$@" busybox sh -c 'test -e /dev/disk || mknod /dev/disk {kind} {made}; : </dev/disk && echo reads; : >>/dev/disk && echo writes' 2>&1; }}
        $ may
        sh: can't open /dev/disk: Operation not permitted
        [1]
        $ may --device {device}:/dev/disk
        reads
        writes
        $ may --device {device}:/dev/disk:r
        reads
        sh: can't create /dev/disk: Operation not permitted
        [1]
        $ may --device-cgroup-rule '{kind} {number} rw'
        reads
        writes
        $ may --device-cgroup-rule '{kind} *:* r'
        reads
        sh: can't create /dev/disk: Operation not permitted
        [1]
        $ may --privileged
        reads
        writes
        $ hull run --rm busybox sh -c 'mknod /tmp/null c 1 3 && echo x >/tmp/null && head -c 3 /dev/zero | wc -c && : >/dev/tty' 2>&1
        3
        sh: can't create /dev/tty: No such device or address
        [1]
        $ hull run -d --name box busybox sleep 600 >/dev/null; hull exec box sh -c 'mknod /disk {kind} {made} && : </disk' 2>&1
        sh: can't open /disk: Operation not permitted
        [1]
        "#,
        made = number.replace(':', " "),
    ));
}

#[test]
fn it_stands_still_and_can_be_killed_so() {
    let daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "sleep 600 & while :; do echo $((n = n + 1)) >/tmp/new; mv /tmp/new /tmp/count; done",
    ]);
    daemon.session(
        r#"
        $ count() { hull cp box:/tmp/count - | tar -xO; }
        $ eventually count; hull pause box
        box
        $ hull inspect -f '{{.State.Status}}' box; a=$(count); hull run --rm busybox true; test "$a" = "$(count)"
        paused
        $ hull exec box true 2>&1 | grep -o 'is paused.*'
        is paused, unpause the container before exec
        $ hull top box -o pid,args | grep -c 'sleep 600$'
        1
        $ hull unpause box; changed() { test "$a" != "$(count)"; }; eventually changed
        box
        $ hull pause box; hull rm -f box
        box
        box
        "#,
    );
    let census = daemon.census();
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    daemon.ok(&["pause", "box"]);
    daemon.ok(&["kill", "box"]);
    daemon.session(
        r#"
        $ eventually sh -c 'hull unpause box; hull wait box'; hull wait box; hull rm box
        137
        box
        "#,
    );
    nothing_left(&daemon, census.cgroups);
}

#[test]
fn its_figures_are_complete() {
    let daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--memory",
        "64m",
        "--pids-limit",
        "50",
        "busybox",
        "sleep",
        "600",
    ]);
    daemon.ok(&["exec", "box", "sh", "-c", "n=0; while test $n -lt 20000; do n=$((n + 1)); done"]);
    let stats = daemon.api().get("/containers/box/stats?stream=false").expect("an answer").json();
    let number = |path: &str| {
        stats.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} is missing: {stats}"))
    };
    let (_, is_v2) = folder_of(&daemon, "box", "memory");
    assert!(number("/cpu_stats/cpu_usage/total_usage") > 0);
    assert!(
        number("/cpu_stats/cpu_usage/usage_in_usermode") + number("/cpu_stats/cpu_usage/usage_in_kernelmode")
            > 0
    );
    assert!(number("/cpu_stats/system_cpu_usage") > 0 && number("/cpu_stats/online_cpus") > 0);
    assert!(number("/precpu_stats/cpu_usage/total_usage") > 0);
    assert!(number("/memory_stats/usage") > 0);
    assert_eq!(number("/memory_stats/limit"), 64 << 20);
    number(if is_v2 {
        "/memory_stats/stats/inactive_file"
    } else {
        "/memory_stats/stats/total_inactive_file"
    });
    assert_eq!((number("/pids_stats/current"), number("/pids_stats/limit")), (1, 50));
    number("/networks/eth0/rx_bytes");
    assert_eq!(stats["cpu_stats"]["cpu_usage"].get("percpu_usage").is_some(), !is_v2, "{stats}");
    daemon.session(
        r#"
        $ hull stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}}' box | sed 's/^box [0-9.]*[KM]iB/box used/'
        box used / 64MiB 1
        "#,
    );
}

#[test]
fn the_container_sees_its_own_cgroup_and_cannot_write_it() {
    Daemon::start().session(
        r#"
        $ hull run --rm --memory 64m busybox sh -c 'cut -d: -f3 /proc/self/cgroup | sort -u; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null'
        /
        67108864
        [1]
        $ hull run --rm busybox sh -c 'for d in /sys/fs/cgroup /sys/fs/cgroup/memory; do test -d $d && mkdir $d/x; done' 2>&1 | grep -v 'Read-only file system'
        [1]
        $ hull run --rm --privileged busybox sh -c 'd=/sys/fs/cgroup/memory; test -d $d || d=/sys/fs/cgroup; mkdir $d/x && rmdir $d/x && echo may'
        may
        "#,
    );
}

#[test]
fn processes_that_moved_below_are_followed() {
    let daemon = Daemon::start();
    let before = daemon.census();
    daemon.session(
        r#"
        $ cat >inside <<'E'
        > for d in /sys/fs/cgroup /sys/fs/cgroup/memory /sys/fs/cgroup/pids /sys/fs/cgroup/unified; do
        >     test -e $d/cgroup.procs || continue
        >     mkdir $d/inner
        >     for pid in $(cat $d/cgroup.procs); do echo $pid >$d/inner/cgroup.procs; done
        >     test ! -e $d/cgroup.subtree_control || for c in $(cat $d/cgroup.controllers); do echo +$c >$d/cgroup.subtree_control; done
        > done 2>/tmp/errors
        > echo ready; exec sleep 600
        > E
        $ hull run -d --name box --privileged busybox sh -c "$(cat inside)"
        <id>
        $ eventually sh -c 'hull logs box | grep ready'; hull logs box
        ready
        $ hull exec box echo in
        in
        $ hull exec box grep -c inner /proc/1/cgroup | grep -vx 0 | wc -l
        1
        $ hull exec --timeout 1h box echo in
        in
        $ hull exec --timeout 200ms box sleep 600
        [137]
        $ hull exec --cpu-time 200ms box sh -c 'while :; do :; done'
        [137]
        $ hull top box -o pid,comm | tail -n +2 | sed 's/[0-9 ]*//'
        sleep
        $ hull stats --no-stream --format '{{.PIDs}}' box; hull pause box; hull unpause box
        1
        box
        box
        $ hull rm -f box
        box
        "#,
    );
    nothing_left(&daemon, before.cgroups);
}

#[test]
fn info_says_what_the_machine_has() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    let is = |kind: &str| mounts.contains(&format!(" - {kind} "));
    let version = if is("cgroup2") && !is("cgroup") { 2 } else { 1 };
    Daemon::start().session(&format!(
        r#"
        $ hull info --format '{{{{.CgroupDriver}}}} {{{{.CgroupVersion}}}}'
        cgroupfs {version}
        $ hull info --format '{{{{.MemoryLimit}}}} {{{{.CPUSet}}}} {{{{.PidsLimit}}}} {{{{.CpuCfsQuota}}}}'
        true true true true
        "#
    ));
}
