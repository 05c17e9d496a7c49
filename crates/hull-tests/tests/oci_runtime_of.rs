//! hull as the runtime of others: Docker, containerd and Podman run their containers by it. Each test is left out, and
//! says so, where its engine is not installed.

use std::fs;

use hull_tests::{Daemon, Engine, HullOci, Other, PATIENCE, wait_until, which};

/// dockerd whose containers are hull's.
struct Docker {
    daemon: Daemon,
    _runtime: HullOci,
}

impl Docker {
    fn new() -> Option<Self> {
        if which("dockerd").is_none() || which("docker").is_none() {
            eprintln!("not tested: docker is not installed");
            return None;
        }
        let runtime = HullOci::new();
        let added = format!("--add-runtime=hull={}", runtime.path());
        let daemon = Daemon::empty(Engine::Docker, &["--bridge=none", &added, "--default-runtime=hull"]);
        daemon.import_busybox();
        Some(Self { daemon, _runtime: runtime })
    }

    fn ok(&self, args: &[&str]) -> String {
        self.daemon.ok(args)
    }
}

#[test]
fn docker_runs_a_container() {
    let Some(docker) = Docker::new() else { return };
    assert_eq!(docker.ok(&["run", "--rm", "busybox", "echo", "hi"]), "hi");
    for status in ["0", "7", "200"] {
        let output = docker.daemon.hull(&["run", "--rm", "busybox", "sh", "-c", &format!("exit {status}")]);
        assert_eq!(output.status.to_string(), status, "{output:?}");
    }
    let missing = docker.daemon.hull(&["run", "--rm", "busybox", "no-such-program"]);
    assert!(missing.status == 127 && missing.stderr.contains("executable file not found"), "{missing:?}");
    let denied = docker.daemon.hull(&["run", "--rm", "busybox", "/etc/passwd"]);
    assert!(denied.status == 126 && denied.stderr.contains("permission denied"), "{denied:?}");
    assert_eq!(docker.ok(&["run", "--rm", "-u", "33:44", "busybox", "sh", "-c", "id -u; id -g"]), "33\n44");
    let work = docker.daemon.dir().join("work");
    fs::write(work.join("file"), "of the host\n").expect("a file");
    let volume = format!("{}:/v:ro", work.display());
    let printed = docker.ok(&["run", "--rm", "-v", &volume, "busybox", "cat", "/v/file"]);
    assert_eq!(printed, "of the host");
    assert_eq!(
        docker.ok(&["run", "--rm", "--read-only", "busybox", "sh", "-c", "touch /x 2>/dev/null; echo $?"]),
        "1"
    );
    assert_eq!(
        docker.ok(&["run", "--rm", "--tmpfs", "/t", "busybox", "stat", "-f", "-c", "%T", "/t"]),
        "tmpfs"
    );
    assert_eq!(
        docker.ok(&[
            "run",
            "--rm",
            "--privileged",
            "busybox",
            "sh",
            "-c",
            "mount -t tmpfs t /tmp && echo may"
        ]),
        "may"
    );
    assert_eq!(
        docker.ok(&[
            "run",
            "--rm",
            "--init",
            "busybox",
            "sh",
            "-c",
            "tr '\\0' ' ' </proc/1/cmdline | cut -d' ' -f1"
        ]),
        "/sbin/docker-init"
    );
    assert_eq!(docker.ok(&["run", "--rm", "--hostname", "named", "busybox", "hostname"]), "named");
}

#[test]
fn docker_s_containers_live_and_end() {
    let Some(docker) = Docker::new() else { return };
    let mut pty =
        docker.daemon.pty(&["run", "--rm", "-it", "busybox", "sh", "-c", "tty; stty size; read x; exit 3"]);
    pty.shows("/dev/pts/0");
    pty.types("\r");
    assert_eq!(pty.ends().1, 3);

    docker.ok(&[
        "run",
        "-d",
        "--name",
        "cc",
        "--memory",
        "64m",
        "--pids-limit",
        "50",
        "busybox",
        "sleep",
        "600",
    ]);
    assert_eq!(docker.ok(&["exec", "cc", "hostname"]).len(), 12);
    assert_eq!(docker.daemon.hull(&["exec", "cc", "sh", "-c", "exit 9"]).status, 9);
    let mut pty = docker.daemon.pty(&["exec", "-it", "cc", "sh", "-c", "tty; read x; exit 4"]);
    pty.shows("/dev/pts/");
    pty.types("\r");
    assert_eq!(pty.ends().1, 4);
    let missing = docker.daemon.hull(&["exec", "cc", "no-such-program"]);
    assert!(missing.status == 127 || missing.status == 126, "{missing:?}");
    assert!(
        missing.stderr.contains("executable file not found")
            || missing.stdout.contains("executable file not found"),
        "{missing:?}"
    );

    docker.ok(&["pause", "cc"]);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.Status}}", "cc"]), "paused");
    docker.ok(&["unpause", "cc"]);
    docker.ok(&["update", "--memory", "128m", "--memory-swap", "128m", "--pids-limit", "60", "cc"]);
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true";
    assert_eq!(docker.ok(&["exec", "cc", "sh", "-c", limit]), (128 << 20).to_string());
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "cc"]);
    assert!(stats.contains("128MiB") && stats.ends_with(" 1"), "{stats}");
    assert!(docker.ok(&["top", "cc"]).contains("sleep 600"));

    docker.ok(&["stop", "-t", "0", "cc"]);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "cc"]), "137 exited");
    docker.ok(&["start", "cc"]);
    docker.ok(&["kill", "-s", "KILL", "cc"]);
    assert_eq!(docker.ok(&["wait", "cc"]), "137");
    docker.ok(&["rm", "cc"]);
    docker.ok(&["run", "-d", "--name", "dd", "busybox", "sleep", "600"]);
    docker.ok(&["rm", "-f", "dd"]);
}

#[test]
fn docker_is_told_of_an_end_for_memory() {
    let Some(docker) = Docker::new() else { return };
    let hog = [
        "run",
        "--name",
        "cc",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "sh",
        "-c",
        // The container outlives what is killed in it: Docker hears of that and of the end by two ways, and of an end that
        // comes at once it may hear first.
        "tail -c 200m /dev/zero; status=$?; sleep 1; exit $status",
    ];
    assert_eq!(docker.daemon.hull(&hog).status, 137);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.OOMKilled}}", "cc"]), "true");
}

#[test]
fn docker_s_flags_reach_the_container() {
    let Some(docker) = Docker::new() else { return };
    let run = |flags: &[&str], script: &str| {
        docker.ok(&[&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
    };
    let own = |kind: &str| {
        let link = fs::read_link(format!("/proc/{}/ns/{kind}", docker.daemon.pid())).expect("a namespace");
        link.to_string_lossy().into_owned()
    };
    assert_eq!(run(&["--pid=host"], "readlink /proc/self/ns/pid"), own("pid"));
    assert_eq!(run(&["--net=host"], "readlink /proc/self/ns/net"), own("net"));
    assert_eq!(run(&["--uts=host"], "readlink /proc/self/ns/uts"), own("uts"));
    assert_eq!(run(&["--ipc=host"], "readlink /proc/self/ns/ipc"), own("ipc"));
    docker.ok(&["run", "-d", "--name", "other", "--ipc=shareable", "busybox", "sleep", "600"]);
    let theirs = docker.ok(&["exec", "other", "readlink", "/proc/self/ns/ipc"]);
    assert_eq!(run(&["--ipc=container:other"], "readlink /proc/self/ns/ipc"), theirs);
    assert_eq!(run(&["--pid=container:other"], "ps | grep -c '[s]leep 600'"), "1");
    assert_eq!(run(&["--net=container:other"], "readlink /proc/self/ns/net"), {
        docker.ok(&["exec", "other", "readlink", "/proc/self/ns/net"])
    });
    docker.ok(&["rm", "-f", "other"]);
    let bounds = |flags: &[&str]| {
        let line = run(flags, "grep CapBnd /proc/self/status");
        u64::from_str_radix(line.trim_start_matches("CapBnd:\t"), 16).expect("a number")
    };
    let usual = bounds(&[]);
    assert_eq!(bounds(&["--cap-drop=NET_RAW"]), usual & !(1 << 13));
    assert_eq!(bounds(&["--cap-add=NET_ADMIN"]), usual | 1 << 12);
    assert_eq!(bounds(&["--cap-drop=ALL"]), 0);
    assert_eq!(run(&["--sysctl=net.ipv4.ip_forward=0"], "cat /proc/sys/net/ipv4/ip_forward"), "0");
    assert_eq!(run(&["--ulimit=nofile=99:100"], "ulimit -n"), "99");
    assert_eq!(run(&["--oom-score-adj=300"], "cat /proc/self/oom_score_adj"), "300");
    assert_eq!(run(&["--shm-size=2m"], "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2"), "2048");
    assert_eq!(
        run(&["--device=/dev/fuse"], "test -c /dev/fuse && (exec 3</dev/fuse) && echo opens"),
        "opens"
    );
    assert_eq!(run(&["--security-opt=seccomp=unconfined"], "grep Seccomp: /proc/self/status"), "Seccomp:\t0");
    assert_eq!(run(&[], "grep Seccomp: /proc/self/status"), "Seccomp:\t2");
    assert_eq!(
        run(&["--security-opt=no-new-privileges"], "grep NoNewPrivs /proc/self/status"),
        "NoNewPrivs:\t1"
    );
    assert_eq!(run(&["--group-add=55", "-u", "33:44"], "id -G"), "44 55");
    assert_eq!(run(&["-w", "/made/here"], "pwd"), "/made/here");
    assert_eq!(run(&["-e", "A=1", "-e", "B=two words"], "echo $A $B"), "1 two words");
    assert_eq!(run(&["--mount=type=tmpfs,destination=/t,tmpfs-mode=1770"], "stat -c %a /t"), "1770");
    assert_eq!(run(&[], "cat /proc/sysrq-trigger 2>&1 >/dev/null; wc -c </proc/keys; echo x >/proc/sys/kernel/panic || true").lines().last(), Some("0"));
}

#[test]
fn docker_starts_again_what_ends_and_looks_after_its_health() {
    let Some(docker) = Docker::new() else { return };
    docker.ok(&["run", "-d", "--name", "again", "--restart=on-failure:2", "busybox", "false"]);
    let count = || docker.ok(&["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again"]);
    wait_until("it was started again twice", PATIENCE, || count() == "2 exited");
    let health = ["--health-cmd=test -e /tmp/well", "--health-interval=100ms", "--health-retries=100"];
    docker.ok(&[&["run", "-d", "--name", "ward"][..], &health, &["busybox", "sleep", "600"]].concat());
    docker.ok(&["exec", "ward", "touch", "/tmp/well"]);
    let is = || docker.ok(&["inspect", "-f", "{{.State.Health.Status}}", "ward"]);
    wait_until("it is well", PATIENCE, || is() == "healthy");
    docker.ok(&["rm", "-f", "again", "ward"]);
}

#[test]
fn podman_runs_a_container() {
    let Some(podman) = Other::podman() else { return };
    let parent = podman.runtime().cgroup_parent();
    let run = |args: &[&str]| {
        podman.call(&[&["run", "--rm", "--network=none", "--cgroup-parent", &parent], args].concat())
    };
    assert_eq!(run(&["busybox", "echo", "hi"]).stdout, "hi\n");
    assert_eq!(run(&["busybox", "sh", "-c", "exit 7"]).status, 7);
    let missing = run(&["busybox", "no-such-program"]);
    assert!(missing.status == 127 && missing.stderr.contains("executable file"), "{missing:?}");
    let denied = run(&["busybox", "/etc/passwd"]);
    assert!(denied.status == 126 && denied.stderr.contains("permission denied"), "{denied:?}");
    assert_eq!(run(&["--user", "33:44", "busybox", "sh", "-c", "id -u; id -g"]).stdout, "33\n44\n");
    fs::write(podman.runtime().dir().join("file"), "of the host\n").expect("a file");
    let volume = format!("{}:/v:ro", podman.runtime().dir().display());
    assert_eq!(run(&["-v", &volume, "busybox", "cat", "/v/file"]).stdout, "of the host\n");
    assert_eq!(run(&["--hostname", "named", "busybox", "hostname"]).stdout, "named\n");
    assert_eq!(run(&["--init", "--help"]).status, 0);
    let mapped = run(&["--uidmap", "0:100000:5000", "busybox", "cat", "/proc/self/uid_map"]);
    assert_eq!(mapped.stdout.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "5000"], "{mapped:?}");
}

#[test]
fn podman_s_containers_live_and_end() {
    let Some(podman) = Other::podman() else { return };
    let parent = podman.runtime().cgroup_parent();
    let run = ["run", "--network=none", "--cgroup-parent", &parent];
    let mut pty =
        podman.pty(&[&run[..], &["--rm", "-it", "busybox", "sh", "-c", "tty; read x; exit 3"]].concat());
    pty.shows("/dev/pts/0");
    pty.types("\r");
    assert_eq!(pty.ends().1, 3);
    podman.ok(&[&run[..], &["-d", "--name", "c", "--memory", "64m", "busybox", "sleep", "600"]].concat());
    assert_eq!(podman.ok(&["exec", "c", "echo", "in"]), "in");
    assert_eq!(podman.call(&["exec", "c", "sh", "-c", "exit 9"]).status, 9);
    let missing = podman.call(&["exec", "c", "no-such-program"]);
    assert_eq!(missing.status, 127, "{missing:?}");
    let mut pty = podman.pty(&["exec", "-it", "c", "sh", "-c", "tty; read x; exit 4"]);
    pty.shows("/dev/pts/");
    pty.types("\r");
    assert_eq!(pty.ends().1, 4);
    podman.ok(&["pause", "c"]);
    assert_eq!(podman.ok(&["inspect", "-f", "{{.State.Status}}", "c"]), "paused");
    podman.ok(&["unpause", "c"]);
    podman.ok(&["update", "--memory", "128m", "c"]);
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true";
    assert_eq!(podman.ok(&["exec", "c", "sh", "-c", limit]), (128 << 20).to_string());
    let stats = podman.ok(&["stats", "--no-stream", "--format", "{{.PIDs}}", "c"]);
    assert_eq!(stats, "1");
    assert!(podman.ok(&["top", "c"]).contains("sleep 600"));
    podman.ok(&["stop", "-t", "0", "c"]);
    assert_eq!(podman.ok(&["inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "c"]), "137 exited");
    // Podman clears away behind its answer, by a process of its own; whoever starts the container before that is told
    // that it is still there.
    hull_tests::wait_until("the container starts again", std::time::Duration::from_secs(20), || {
        podman.call(&["start", "c"]).status == 0
    });
    podman.ok(&["rm", "-f", "-t", "0", "c"]);
    // That it was for memory, conmon does not find out on every kernel, whichever the runtime.
    let hog =
        ["--name", "d", "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "-c", "200m", "/dev/zero"];
    assert_eq!(podman.call(&[&run[..], &hog].concat()).status, 137);
    podman.ok(&["rm", "-f", "d"]);
}

#[test]
fn containerd_s_shim_runs_hull() {
    let Some(containerd) = Other::containerd() else { return };
    let runtime = containerd.runtime();
    let (binary, cgroup) = (runtime.path(), format!("{}/c", runtime.cgroup_parent()));
    let rootfs = runtime.dir().join("rootfs").to_string_lossy().into_owned();
    let state = runtime.dir().join("runtime").to_string_lossy().into_owned();
    let run = ["run", "--runc-binary", &binary, "--runc-root", &state, "--cgroup", &cgroup];
    let with = |flags: &[&str], command: &[&str]| {
        containerd.call(&[&run[..], flags, &["--rootfs", &rootfs, "c"], command].concat())
    };
    assert_eq!(with(&["--rm"], &["/bin/echo", "hi"]).stdout, "hi\n");
    let output = with(&["--rm"], &["/bin/sh", "-c", "exit 7"]);
    assert_eq!(output.status, 7, "{output:?}");
    let missing = with(&["--rm"], &["/no/such/program"]);
    assert!(missing.status != 0 && missing.stderr.contains("no such file or directory"), "{missing:?}");
    containerd.call(&["container", "delete", "c"]);
    let begun = with(&["-d", "--memory-limit", "67108864"], &["/bin/sleep", "600"]);
    assert_eq!(begun.status, 0, "{begun:?}");
    assert_eq!(containerd.ok(&["task", "exec", "--exec-id", "e", "c", "/bin/echo", "in"]), "in");
    assert!(containerd.ok(&["task", "ls"]).contains("RUNNING"));
    containerd.ok(&["task", "pause", "c"]);
    assert!(containerd.ok(&["task", "ls"]).contains("PAUSED"));
    containerd.ok(&["task", "resume", "c"]);
    assert!(containerd.ok(&["task", "metrics", "c"]).contains("memory"));
    assert!(containerd.ok(&["task", "ps", "c"]).contains("PID"));
    containerd.ok(&["task", "kill", "-s", "SIGKILL", "c"]);
    wait_until("the task has ended", PATIENCE, || containerd.ok(&["task", "ls"]).contains("STOPPED"));
    containerd.call(&["task", "delete", "c"]);
    containerd.ok(&["container", "delete", "c"]);
    assert!(!containerd.ok(&["task", "ls"]).contains("STOPPED"));
}
