//! The configuration's process: user, directory, environment, limits, capabilities, scores, filter.

use std::fs;

use hull_tests::Oci;
use serde_json::{Value, json};

#[test]
fn user_groups_and_mask() {
    let oci = Oci::new();
    let mut config = oci.shell("id -u; id -g; id -G; umask; echo $HOME; grep Groups /proc/self/status");
    config["process"]["user"] = json!({ "uid": 33, "gid": 44, "additionalGids": [5, 66, 44], "umask": 0o77 });
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n";
    fs::write(oci.rootfs().join("etc/passwd"), passwd).expect("the container's users");
    let printed = oci.prints(&config);
    assert_eq!(printed.trim(), "33\n44\n44 5 66\n0077\n/var/www\nGroups:\t5 44 66");
    let mut nobody = oci.shell("id -u; umask");
    nobody["process"]["user"] = json!({ "uid": 12_345, "gid": 0 });
    assert_eq!(oci.prints(&nobody), "12345\n0022");
}

#[test]
fn a_process_without_a_user_is_root_s() {
    let oci = Oci::new();
    let mut config = oci.shell("id -u; id -g");
    config["process"].as_object_mut().expect("an object").remove("user");
    assert_eq!(oci.prints(&config), "0\n0");
}

#[test]
fn the_working_directory() {
    let oci = Oci::new();
    let mut config = oci.config(&["pwd"]);
    config["process"]["cwd"] = json!("/etc");
    assert_eq!(oci.prints(&config), "/etc");
    // One that is not there is made, as engines rely on.
    config["process"]["cwd"] = json!("/made/for/it");
    assert_eq!(oci.prints(&config), "/made/for/it");
    config["process"]["cwd"] = json!("/etc/passwd");
    oci.refuses(&config, "not a directory");
    // A descriptor of the runtime's would lead out (CVE-2024-21626).
    for descriptor in 3..12 {
        let mut config = oci.config(&["ls", "../../.."]);
        config["process"]["cwd"] = json!(format!("/proc/self/fd/{descriptor}"));
        let output = oci.run(&config);
        assert!(output.status != 0 && output.stdout.is_empty(), "{descriptor}: {output:?}");
    }
}

#[test]
fn the_environment_is_the_configuration_s_alone() {
    let oci = Oci::new();
    let mut config = oci.config(&["env"]);
    config["process"]["env"] = json!(["PATH=/bin", "A=1", "B=two words", "C=", "A=3"]);
    let mut command = {
        oci.configure(&config);
        oci.command(&["run", "c"])
    };
    command.env("LEAKS", "yes");
    let output = oci.finish(command);
    let mut lines: Vec<&str> = output.stdout.lines().filter(|line| !line.starts_with("A=")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["B=two words", "C=", "HOME=/root", "PATH=/bin"]);
}

#[test]
fn a_program_is_looked_for_in_the_container_s_path() {
    let oci = Oci::new();
    let mut config = oci.config(&["tool"]);
    config["process"]["env"] = json!(["PATH=/nowhere:/opt/tools:/bin"]);
    fs::create_dir_all(oci.rootfs().join("opt/tools")).expect("a folder");
    fs::write(oci.rootfs().join("opt/tools/tool"), "#!/bin/sh\necho $0\n").expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(oci.rootfs().join("opt/tools/tool"), mode).expect("a mode");
    assert_eq!(oci.prints(&config), "/opt/tools/tool");
    // A link that leads back to itself is no program.
    std::os::unix::fs::symlink("loop", oci.rootfs().join("bin/loop")).expect("a link");
    let reason = if oci.is_hull() { "symbolic link" } else { "executable file not found" };
    oci.refuses(&oci.config(&["loop"]), reason);
}

#[test]
fn limits_of_each_kind() {
    let oci = Oci::new();
    let mut config = oci.shell("cat /proc/self/limits");
    let kinds: [(&str, &str, u64, u64); 14] = [
        ("RLIMIT_NOFILE", "Max open files", 100, 200),
        ("RLIMIT_NPROC", "Max processes", 1000, 2000),
        ("RLIMIT_CORE", "Max core file size", 0, 0),
        ("RLIMIT_STACK", "Max stack size", 1 << 20, 1 << 24),
        ("RLIMIT_FSIZE", "Max file size", 1 << 20, 1 << 24),
        ("RLIMIT_CPU", "Max cpu time", 500, 600),
        ("RLIMIT_DATA", "Max data size", 1 << 28, 1 << 29),
        ("RLIMIT_AS", "Max address space", 1 << 30, 1 << 31),
        ("RLIMIT_LOCKS", "Max file locks", 7, 8),
        ("RLIMIT_SIGPENDING", "Max pending signals", 50, 60),
        ("RLIMIT_MSGQUEUE", "Max msgqueue size", 1000, 2000),
        ("RLIMIT_RTTIME", "Max realtime timeout", 1000, 2000),
        ("RLIMIT_RSS", "Max resident set", 1 << 28, 1 << 29),
        ("RLIMIT_MEMLOCK", "Max locked memory", 4096, 8192),
    ];
    config["process"]["rlimits"] = kinds
        .iter()
        .map(|(kind, _, soft, hard)| json!({ "type": kind, "soft": soft, "hard": hard }))
        .collect();
    let printed = oci.prints(&config);
    for (kind, name, soft, hard) in kinds {
        let line = printed.lines().find(|line| line.starts_with(name)).expect("a limit");
        let words: Vec<&str> = line[name.len()..].split_whitespace().collect();
        assert_eq!(words[..2], [soft.to_string(), hard.to_string()], "{kind}");
    }
    let mut config = oci.config(&["true"]);
    config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1 }]);
    oci.refuses(&config, "RLIMIT_NONSENSE");
    config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 2, "hard": 1 }]);
    oci.refuses(&config, "");
}

/// The bits of one of the sets in `/proc/self/status`.
fn set(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).expect("a set");
    u64::from_str_radix(line.split_whitespace().nth(1).expect("its bits"), 16).expect("a number")
}

#[test]
fn capabilities_in_each_set() {
    const CHOWN: u64 = 1;
    const KILL: u64 = 1 << 5;
    const NET_RAW: u64 = 1 << 13;
    let oci = Oci::new();
    let mut config = oci.shell("grep Cap /proc/self/status");
    config["process"]["user"]["uid"] = json!(33);
    config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    let status = oci.prints(&config);
    // What the exec of a program without capabilities of its own leaves to a user: the ambient ones.
    assert_eq!(set(&status, "CapBnd"), CHOWN | KILL | NET_RAW);
    assert_eq!(set(&status, "CapInh"), KILL);
    assert_eq!(set(&status, "CapAmb"), KILL);
    assert_eq!((set(&status, "CapPrm"), set(&status, "CapEff")), (KILL, KILL));

    let mut none = oci.shell("grep Cap /proc/self/status");
    none["process"]["capabilities"] = json!({});
    assert_eq!(set(&oci.prints(&none), "CapBnd"), 0);
    none["process"].as_object_mut().expect("an object").remove("capabilities");
    let status = oci.prints(&none);
    assert_eq!(set(&status, "CapEff"), 0, "{status}");
    // runc warns of a capability that nobody knows, and goes on.
    let mut unknown = oci.shell("echo ran");
    unknown["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_NONSENSE"]);
    let output = oci.run(&unknown);
    assert!(output.stdout == "ran\n" && output.stderr.contains("CAP_NONSENSE"), "{output:?}");
}

/// runc and crun end with `Operation not permitted`; hull runs without, and says so at each way in.
#[test]
fn capabilities_that_cannot_be_given_are_told() {
    let oci = Oci::new();
    if !oci.is_hull() {
        return;
    }
    let mut config = oci.config(&["sleep", "600"]);
    config["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
    oci.configure(&config);
    let told = |output: &hull_tests::Output, words: &str| {
        assert!(output.status == 0 && output.stderr.contains(words), "{words}: {output:?}");
    };
    let ambient =
        "ignoring ambient capabilities that are not among both the permitted and the inheritable: [CAP_KILL]";
    told(&oci.call(&["create", "c"]), ambient);
    oci.ok(&["start", "c"]);
    told(&oci.call(&["exec", "c", "true"]), ambient);
    oci.ok(&["delete", "-f", "c"]);
    let status = fs::read_to_string("/proc/self/status").expect("the own status");
    const SYS_RESOURCE: u64 = 1 << 24;
    if set(&status, "CapPrm") & SYS_RESOURCE != 0 {
        eprintln!("not tested: this machine grants everything");
        return;
    }
    let mut config = oci.config(&["true"]);
    config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_RESOURCE", "CAP_KILL"]);
    told(&oci.run(&config), "this machine does not grant CAP_SYS_RESOURCE");
}

#[test]
fn no_new_privileges() {
    let oci = Oci::new();
    for wanted in [true, false] {
        let mut config = oci.shell("grep NoNewPrivs /proc/self/status");
        config["process"]["noNewPrivileges"] = json!(wanted);
        assert_eq!(oci.prints(&config), format!("NoNewPrivs:\t{}", u8::from(wanted)));
    }
}

#[test]
fn the_score_for_running_out_of_memory() {
    let oci = Oci::new();
    let own = fs::read_to_string("/proc/self/oom_score_adj").expect("the own score");
    let mut config = oci.config(&["cat", "/proc/self/oom_score_adj"]);
    assert_eq!(oci.prints(&config), own.trim(), "unset, it is the caller's");
    config["process"]["oomScoreAdj"] = json!(500);
    assert_eq!(oci.prints(&config), "500");
    config["process"]["oomScoreAdj"] = json!(5000);
    oci.refuses(&config, "");
}

#[test]
fn the_io_priority() {
    let oci = Oci::new();
    if !oci.is_hull() {
        eprintln!("not tested: runc 1.1 overlooks it");
        return;
    }
    for (class, number, printed) in [
        ("IOPRIO_CLASS_BE", 3, "best-effort: prio 3"),
        ("IOPRIO_CLASS_RT", 1, "realtime: prio 1"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
    ] {
        let mut config = oci.config(&["ionice", "-p", "1"]);
        config["process"]["ioPriority"] = json!({ "class": class, "priority": number });
        assert_eq!(oci.prints(&config), printed);
    }
    let mut config = oci.config(&["true"]);
    config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_NONSENSE", "priority": 1 });
    oci.refuses(&config, "");
}

fn filtered(oci: &Oci, script: &str, seccomp: Value) -> Value {
    let mut config = oci.shell(script);
    config["linux"]["seccomp"] = seccomp;
    config
}

#[test]
fn the_filter_refuses_by_name_with_its_error() {
    let oci = Oci::new();
    let one = |rule: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    let script = "mkdir /made 2>&1; grep Seccomp: /proc/self/status";
    let rule = json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" });
    let printed = oci.prints(&filtered(&oci, script, one(rule)));
    assert_eq!(printed, "mkdir: can't create directory '/made': Operation not permitted\nSeccomp:\t2");
    let rule = json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 });
    let printed = oci.prints(&filtered(&oci, script, one(rule)));
    assert!(printed.contains("No space left on device"), "{printed}");
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP"] {
        let rule = json!({ "names": ["mkdir", "mkdirat"], "action": action });
        let printed = oci.prints(&filtered(&oci, "(mkdir /made); echo $?", one(rule)));
        assert!(printed.ends_with("159"), "{action}: {printed}");
    }
    for action in ["SCMP_ACT_LOG", "SCMP_ACT_ALLOW"] {
        let rule = json!({ "names": ["mkdir", "mkdirat"], "action": action });
        let mut config = filtered(&oci, "mkdir /made && rmdir /made && echo made", one(rule));
        if action == "SCMP_ACT_ALLOW" {
            config["linux"]["seccomp"]["defaultAction"] = json!("SCMP_ACT_LOG");
        }
        assert_eq!(oci.prints(&config), "made", "{action}");
    }
}

#[test]
fn the_filter_compares_arguments() {
    let oci = Oci::new();
    // kill(_, signal) is refused for one signal alone.
    for (op, value, second, refused) in [
        ("SCMP_CMP_EQ", 10, 0, &[10][..]),
        ("SCMP_CMP_NE", 10, 0, &[12, 28]),
        ("SCMP_CMP_GE", 12, 0, &[12, 28]),
        ("SCMP_CMP_GT", 12, 0, &[28]),
        ("SCMP_CMP_LE", 12, 0, &[10, 12]),
        ("SCMP_CMP_LT", 12, 0, &[10]),
        ("SCMP_CMP_MASKED_EQ", 8, 8, &[10, 12, 28]),
    ] {
        let script = "trap '' 10 12 28; for s in 10 12 28; do kill -$s $$ 2>/dev/null || echo $s; done";
        let config = filtered(
            &oci,
            script,
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
            "names": ["kill"], "action": "SCMP_ACT_ERRNO",
            "args": [{ "index": 1, "value": value, "valueTwo": second, "op": op }],
        }] }),
        );
        let numbers: Vec<String> = refused.iter().map(ToString::to_string).collect();
        assert_eq!(oci.prints(&config), numbers.join("\n"), "{op} {value}");
    }
}

#[test]
fn a_filter_that_allows_by_name_alone() {
    let oci = Oci::new();
    let mut seccomp = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{ "names": [
            "execve", "exit", "exit_group", "write", "writev", "brk", "arch_prctl", "mmap", "mprotect", "munmap",
            "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlink", "readlinkat", "getrandom", "prctl",
            "getuid", "geteuid", "getgid", "getegid", "fstat", "newfstatat", "ioctl", "rt_sigprocmask", "rt_sigaction",
            "capset", "capget", "futex", "close", "openat", "read", "fcntl", "setgroups", "setuid", "setgid",
            "setresuid", "setresgid", "chdir", "getpid", "getppid", "gettid", "tgkill", "epoll_ctl", "epoll_pwait",
            "sigaltstack", "nanosleep", "getdents64", "faccessat", "faccessat2", "fstatfs", "statfs", "lseek",
            "rt_sigreturn", "clone", "clone3", "seccomp", "madvise", "no_such_call",
        ], "action": "SCMP_ACT_ALLOW" }],
    });
    let mut config = filtered(&oci, "", seccomp.clone());
    config["process"]["args"] = json!(["mkdir", "/made"]);
    let output = oci.run(&config);
    assert!(output.status == 1 && output.stderr.contains("Function not implemented"), "{output:?}");
    seccomp["defaultAction"] = json!("SCMP_ACT_NONSENSE");
    oci.refuses(&filtered(&oci, "true", seccomp), "");
    let bad = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NONSENSE"] });
    oci.refuses(&filtered(&oci, "true", bad), "");
}

#[test]
fn an_exec_is_filtered_too() {
    let oci = Oci::new();
    let rule = json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" });
    oci.run_detached(&filtered(
        &oci,
        "sleep 600",
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }),
    ));
    oci.fails(&["exec", "c", "mkdir", "/made"], "not permitted");
}
