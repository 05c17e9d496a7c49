//! What a container is, seen from inside.

use super::*;

fn ok(outcome: Outcome) -> Outcome {
    if let Some(error) = &outcome.error {
        panic!("{error}");
    }
    outcome
}

fn lines(outcome: &Outcome) -> Vec<&str> {
    outcome.output.lines().collect()
}

#[test]
fn it_runs_and_its_status_comes_back() {
    let mut bench = Bench::new();
    let outcome = ok(bench.shell("echo hello; exit 7").run());
    assert_eq!((outcome.output.as_str(), outcome.status), ("hello\n", 7));
    let outcome = ok(bench.shell("kill -9 $$; exit 1").run());
    // Process 1 is not killed by a signal from inside its pid namespace.
    assert_eq!(outcome.status, 1);
}

#[test]
fn every_namespace_is_its_own() {
    let mut bench = Bench::new();
    let outcome = ok(bench
        .shell("for n in mnt uts ipc net pid cgroup; do readlink /proc/self/ns/$n; done; echo $$; hostname; readlink /proc/self/ns/user")
        .run());
    let seen = lines(&outcome);
    for (index, name) in ["mnt", "uts", "ipc", "net", "pid", "cgroup"].iter().enumerate() {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(seen[index], own.to_str().unwrap(), "{name}");
        assert!(seen[index].starts_with(&format!("{name}:[")), "{}", seen[index]);
    }
    assert_eq!(seen[6..8], ["1", "box"]);
    assert_eq!(seen[8], std::fs::read_link("/proc/self/ns/user").unwrap().to_str().unwrap());
}

#[test]
fn nothing_of_the_host_is_mounted_in_it() {
    let mut bench = Bench::new();
    let outcome = ok(bench.shell("cat /proc/self/mountinfo; ls /").run());
    let hosts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| line.contains(" - "))
            .map(|line| line.split(' ').nth(2).unwrap().into())
            .collect()
    };
    let root = hosts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    let root_device = root.split(' ').nth(2).unwrap();
    assert!(!of(&outcome.output).iter().any(|device| device == root_device), "{}", outcome.output);
    let points: Vec<&str> = outcome
        .output
        .lines()
        .filter(|line| line.contains(" - "))
        .map(|l| l.split(' ').nth(4).unwrap())
        .collect();
    assert_eq!(points[0], "/");
    for point in ["/proc", "/dev", "/dev/pts", "/sys", "/dev/mqueue", "/dev/shm", "/proc/sys", "/proc/keys"] {
        assert!(points.contains(&point), "{point} in {points:?}");
    }
    assert!(!outcome.output.contains("hull-test"), "the host's path shows: {}", outcome.output);
    assert!(outcome.output.ends_with("bin\ndev\netc\nproc\nroot\nsys\ntmp\n"), "{}", outcome.output);
}

#[test]
fn mounts_made_inside_are_not_seen_outside() {
    let bench = Bench::new();
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let outcome = ok(bench.run_with(|_, outcome| {
        let count = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        outcome.warnings.push(count.to_string());
    }));
    assert_eq!(outcome.warnings, [before.to_string()]);
}

#[test]
fn masked_and_read_only_paths_hold() {
    let mut bench = Bench::new();
    let masked = bench.spec["linux"]["maskedPaths"].as_array_mut().unwrap();
    masked.extend([json!("/proc/version"), json!("/proc/no-such-file")]);
    let outcome = ok(bench
        .shell(
            "wc -c </proc/version; wc -c </proc/keys; ls /sys/firmware | wc -l; \
             (echo 1 >/proc/sys/kernel/hostname) 2>&1; (touch /sys/firmware/x) 2>&1; \
             (touch /sys/x) 2>&1; (chmod 777 /proc/version) 2>&1",
        )
        .run());
    let seen = lines(&outcome);
    assert_eq!(seen[..3], ["0", "0", "0"], "{seen:?}");
    assert_eq!(seen.len(), 7, "{seen:?}");
    assert!(seen[3..].iter().all(|line| line.contains("Read-only file system")), "{seen:?}");
}

#[test]
fn devices_are_there_and_work() {
    let mut bench = Bench::new();
    bench.spec["linux"]["devices"] = json!([{ "path": "/dev/deep/loop", "type": "b", "major": 7, "minor": 0, "fileMode": 0o640, "gid": 6 }]);
    let outcome = ok(bench
        .shell(
            "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' $d; done; \
             stat -c '%n %t:%T %a %g' deep/loop; readlink fd; readlink ptmx; echo x >/dev/null; \
             (echo x >/dev/full) 2>&1 | grep -c 'No space'; stat -c %a /dev/shm",
        )
        .run());
    assert_eq!(
        lines(&outcome),
        [
            "null 1:3 666",
            "zero 1:5 666",
            "full 1:7 666",
            "random 1:8 666",
            "urandom 1:9 666",
            "tty 5:0 666",
            "deep/loop 7:0 640 6",
            "/proc/self/fd",
            "pts/ptmx",
            "1",
            "1777",
        ]
    );
}

#[test]
fn a_user_has_only_what_it_is_given() {
    let mut bench = Bench::new();
    bench.spec["process"]["user"] =
        json!({ "uid": 1000, "gid": 100, "additionalGids": [7, 8], "umask": 0o27 });
    bench.spec["process"]["noNewPrivileges"] = json!(true);
    let outcome = ok(bench
        .shell("id -u; id -g; id -G; umask; echo $HOME; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; echo x >/dev/stdout")
        .run());
    let seen = lines(&outcome);
    assert_eq!(seen[..5], ["1000", "100", "100 7 8", "0027", "/home/u"]);
    // CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID and MKNOD bound it; none is in effect.
    assert_eq!(
        seen[5..],
        [
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapBnd:\t00000000080000e3",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t0",
            "x",
        ]
    );
}

#[test]
fn ambient_capabilities_reach_a_user() {
    let mut bench = Bench::new();
    bench.spec["process"]["user"] = json!({ "uid": 1000, "gid": 100 });
    let set = json!(["CAP_NET_RAW"]);
    bench.spec["process"]["capabilities"] =
        json!({ "bounding": set, "effective": set, "permitted": set, "inheritable": set, "ambient": set });
    let outcome = ok(bench.shell("grep -E '^Cap(Eff|Amb)' /proc/self/status").run());
    assert_eq!(lines(&outcome), ["CapEff:\t0000000000002000", "CapAmb:\t0000000000002000"]);
}

#[test]
fn what_the_machine_does_not_grant_is_said() {
    let own = rustix::thread::capabilities(None).unwrap().permitted;
    if own.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        println!("left out: this machine grants CAP_SYS_RESOURCE");
        return;
    }
    let mut bench = Bench::new();
    let set = json!(["CAP_SYS_RESOURCE", "CAP_CHOWN"]);
    bench.spec["process"]["capabilities"] = json!({ "bounding": set, "effective": set, "permitted": set });
    bench.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1048577 }]);
    let outcome = ok(bench.shell("grep CapBnd /proc/self/status; ulimit -Sn").run());
    assert_eq!(lines(&outcome), ["CapBnd:\t0000000000000001", "1024"]);
    assert_eq!(outcome.warnings.len(), 2, "{:?}", outcome.warnings);
    assert!(outcome.warnings[0].starts_with("the limit nofile is 1024:"), "{:?}", outcome.warnings);
    assert_eq!(outcome.warnings[1], "this machine does not grant CAP_SYS_RESOURCE");
}

#[test]
fn limits_and_scores_are_set() {
    let mut bench = Bench::new();
    bench.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }]);
    bench.spec["process"]["oomScoreAdj"] = json!(500);
    let outcome = ok(bench.shell("ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj").run());
    assert_eq!(lines(&outcome), ["100", "200", "0", "500"]);
}

#[test]
fn a_read_only_root_is_not_written_but_what_is_mounted_is() {
    let mut bench = Bench::new();
    bench.spec["root"]["readonly"] = json!(true);
    let outcome = ok(bench.shell("touch /x 2>&1; touch /dev/shm/x && echo written").run());
    assert_eq!(lines(&outcome), ["touch: /x: Read-only file system", "written"]);
}

#[test]
fn binds_and_their_options() {
    let mut bench = Bench::new();
    let (share, file) = (bench.path("share"), bench.path("file"));
    std::fs::create_dir(&share).unwrap();
    std::fs::write(share.join("a"), "from the host\n").unwrap();
    std::fs::write(&file, "a file\n").unwrap();
    let mounts = bench.spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({ "destination": "/made/rw", "source": share, "type": "bind", "options": ["rbind"] }));
    mounts.push(json!({ "destination": "/made/ro", "source": share, "type": "bind",
        "options": ["rbind", "ro", "rprivate", "nosuid", "noexec"] }));
    mounts.push(json!({ "destination": "/etc/file", "source": file, "options": ["bind", "ro"] }));
    let outcome = ok(bench
        .shell(
            "cat /made/rw/a /etc/file; echo new >/made/rw/b; touch /made/ro/c 2>&1; \
             grep -E ' /made/ro ' /proc/self/mountinfo | cut -d' ' -f6 2>/dev/null || grep /made/ro /proc/mounts",
        )
        .run());
    let seen = lines(&outcome);
    assert_eq!(seen[..3], ["from the host", "a file", "touch: /made/ro/c: Read-only file system"]);
    assert_eq!(std::fs::read_to_string(share.join("b")).unwrap(), "new\n");
    assert!(seen[3].contains("ro") && seen[3].contains("nosuid") && seen[3].contains("noexec"), "{seen:?}");
}

#[test]
fn a_bind_s_destination_stays_in_the_root() {
    let mut bench = Bench::new();
    let share = bench.path("share");
    std::fs::create_dir(&share).unwrap();
    std::fs::write(share.join("a"), "bound\n").unwrap();
    symlink("/../../../../../../tmp", bench.path("base/evil")).unwrap();
    let destination = format!("/evil/hull-evil-{}", std::process::id());
    bench.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": destination, "source": share, "options": ["bind"] }));
    let outcome = ok(bench.shell(&format!("cat /tmp/hull-evil-{}/a", std::process::id())).run());
    assert_eq!(outcome.output, "bound\n");
    assert!(!Path::new(&destination.replace("/evil", "/tmp")).exists());
}

#[test]
fn a_tmpfs_has_its_size_and_mode_and_may_start_with_a_copy() {
    let mut bench = Bench::new();
    std::fs::create_dir_all(bench.path("base/data/sub")).unwrap();
    std::fs::write(bench.path("base/data/sub/f"), "kept\n").unwrap();
    symlink("sub/f", bench.path("base/data/link")).unwrap();
    let mounts = bench.spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({ "destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
        "options": ["noexec", "nosuid", "nodev", "size=1m", "mode=1750", "uid=5"] }));
    mounts.push(
        json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"] }),
    );
    let outcome = ok(bench
        .shell("grep ' /scratch ' /proc/mounts; stat -c '%a %u' /scratch; cat /data/link; touch /data/x 2>&1")
        .run());
    let seen = lines(&outcome);
    assert!(seen[0].contains("size=1024k") && seen[0].contains("noexec"), "{seen:?}");
    assert_eq!(seen[1..], ["1750 5", "kept", "touch: /data/x: Read-only file system"]);
}

#[test]
fn three_hundred_layers() {
    let mut bench = Bench::new();
    bench.layers = 300;
    let outcome = ok(bench.shell("ls / | grep -c layer-; touch /new").run());
    assert_eq!(outcome.output, "299\n");
    assert!(bench.path("upper/new").is_file());
}

#[test]
fn a_root_at_a_path() {
    let mut bench = Bench::new();
    bench.spec["root"]["path"] = json!(bench.path("base"));
    let spec = bench.shell("echo here; touch /x").parsed();
    let outcome = ok(in_a_shim(|outcome| {
        let (streams, output) = streams(false);
        let cgroup = bench.cgroup();
        let start = Start::plain(&spec, &Rootfs::Path, streams, cgroup);
        conduct(super::super::start(start)?, output, outcome, |_, _| {})
    }));
    assert_eq!(outcome.output, "here\n");
    assert!(bench.path("base/x").exists());
}

#[test]
fn kernel_parameters_of_its_own_namespaces_and_of_no_other() {
    let mut bench = Bench::new();
    bench.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.shmmax": "4096" });
    let outcome = ok(bench.shell("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax").run());
    assert_eq!(lines(&outcome), ["1", "4096"]);
    bench.spec["linux"]["sysctl"] = json!({ "kernel.panic": "1" });
    assert!(bench.run().error.unwrap().to_string().contains("whole machine's"));
    bench.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    for host in [json!({ "type": "network", "path": "/proc/self/ns/net" }), json!({ "type": "uts" })] {
        bench.spec["linux"]["namespaces"][1] = host;
        assert!(bench.run().error.unwrap().to_string().contains("host's net namespace"));
    }
}

#[test]
fn its_cgroups_are_its_own_and_read_only() {
    let mut bench = Bench::new();
    let outcome = ok(bench
        .shell("grep -vE ':(/|.*(freezer|systemd).*)$' /proc/self/cgroup; ls /sys/fs/cgroup | wc -l; for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do test ! -d $d || mkdir $d/x 2>&1; done | grep -v 'Read-only'; true")
        .run());
    let seen = lines(&outcome);
    // Each hierarchy shows its root, which is the container's own cgroup.
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].parse::<u32>().unwrap() > 0);
}

#[test]
fn no_descriptor_of_the_host_s_is_left() {
    let mut bench = Bench::new();
    let outcome = ok(bench
        .shell("ls -l /proc/1/fd | grep -c ' -> '; ls /proc/1/fd")
        .command(&["/bin/ls", "/proc/self/fd"])
        .run());
    // 3 is the folder that ls reads.
    assert_eq!(lines(&outcome), ["0", "1", "2", "3"]);
}

#[test]
fn a_working_directory_outside_is_refused() {
    let mut bench = Bench::new();
    let host = File::open("/tmp").unwrap();
    rustix::io::fcntl_setfd(&host, rustix::io::FdFlags::empty()).unwrap();
    use std::os::fd::AsRawFd;
    bench.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{}", host.as_raw_fd()));
    let error = bench.run().error.unwrap();
    let closed = format!(
        "chdir to cwd (\"/proc/self/fd/{}\") set in config.json failed: no such file or directory",
        host.as_raw_fd()
    );
    assert_eq!(error.to_string(), closed);
    bench.spec["process"]["cwd"] = json!("/bin/busybox/beneath-a-file");
    let error = bench.run().error.unwrap();
    assert_eq!(
        error.to_string(),
        "chdir to cwd (\"/bin/busybox/beneath-a-file\") set in config.json failed: not a directory"
    );
}

/// CVE-2024-21626: what the new process holds of the host's must not lead out of the container, neither as the command
/// nor as the working directory.
#[test]
fn no_descriptor_leads_out() {
    let up = "../".repeat(12);
    // Static, so that it would run wherever it is found; the container's own is elsewhere.
    let program = std::fs::canonicalize("/usr/bin/busybox").unwrap();
    let program = program.strip_prefix("/").unwrap().display().to_string();
    let made = std::env::temp_dir().join(format!("hull-made-outside-{}", std::process::id()));
    // As the shim holds its folder.
    let _held = File::open("/tmp").unwrap();
    for fd in 3..32 {
        let mut bench = Bench::new();
        bench.spec["process"]["args"] = json!([format!("/proc/self/fd/{fd}/{up}{program}")]);
        let error = bench.run().error.expect("a program of the host ran");
        assert_eq!(error.exit_status, 127, "{fd}: {error}");
        let mut bench = Bench::new();
        bench.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}/{up}{}", made.display()));
        assert!(bench.run().error.is_some());
        assert!(!made.exists(), "{fd} made a folder on the host");
    }
}

#[test]
fn a_working_directory_that_is_not_there_is_made() {
    let mut bench = Bench::new();
    bench.spec["process"]["cwd"] = json!("/made/for/it");
    assert_eq!(lines(&ok(bench.shell("pwd; stat -c %u:%a .").run())), ["/made/for/it", "0:755"]);
}

#[test]
fn the_filter_holds_with_and_without_new_privileges() {
    for no_new_privileges in [false, true] {
        let mut bench = Bench::new();
        bench.filter = Some(seccomp::default_filter(&[]).unwrap());
        bench.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let outcome = ok(bench
            .shell("grep -E '^(Seccomp:|CapEff)' /proc/self/status; umount /proc 2>&1; echo on")
            .run());
        let seen = lines(&outcome);
        assert_eq!(seen[..2], ["CapEff:\t00000000080000e3", "Seccomp:\t2"]);
        assert!(seen[2].contains("not permitted"), "{seen:?}");
        assert_eq!(seen[3], "on");
    }
}

#[test]
fn a_terminal_is_the_container_s_own() {
    let mut bench = Bench::new();
    bench.spec["process"]["terminal"] = json!(true);
    let outcome = ok(bench
        .shell("tty; stty size; test -t 0 && test -c /dev/console && echo yes; ls -1 /dev/pts")
        .run());
    assert_eq!(outcome.output.replace('\r', ""), "/dev/pts/0\n40 100\nyes\n0\nptmx\n");
}

#[test]
fn init_reaps_and_passes_on() {
    let mut bench = Bench::new();
    bench.init = true;
    let outcome = ok(bench
        .shell("cat /proc/1/comm; echo $$; (sleep 0.01 &) ; grep CapEff /proc/1/status; exit 9")
        .run());
    assert_eq!(lines(&outcome), ["docker-init", "2", "CapEff:\t00000000080000e3"]);
    assert_eq!(outcome.status, 9);
    let outcome = ok(bench
        .shell("trap 'echo caught; exit 3' TERM; echo on; while :; do sleep 0.01; done")
        .run_with(|child, _| {
            // The shell's trap is set before it writes; the signal is sent again until it ends.
            let pidfd = child.pidfd().try_clone_to_owned().unwrap();
            std::thread::spawn(move || {
                while pidfd_send_signal(&pidfd, Signal::TERM).is_ok() {
                    rustix::thread::sched_yield();
                }
            });
        }));
    assert!(outcome.output.contains("caught") || outcome.status == 143, "{outcome:?}");
    let outcome = bench.command(&["/nowhere"]).run();
    assert_eq!(outcome.error.unwrap().exit_status, 127);
}

#[test]
fn namespaces_of_another_by_path() {
    let mut bench = Bench::new();
    bench.spec["linux"]["namespaces"][1] = json!({ "type": "network", "path": "/proc/self/ns/net" });
    bench.spec["linux"]["namespaces"][3] = json!({ "type": "pid", "path": "/proc/self/ns/pid" });
    let outcome = ok(bench.shell("readlink /proc/self/ns/net; readlink /proc/self/ns/pid").run());
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    assert_eq!(lines(&outcome), [own("net"), own("pid")]);
    bench.spec["linux"]["namespaces"][1] = json!({ "type": "network", "path": "/nowhere" });
    let error = bench.run().error.unwrap();
    assert_eq!(error.to_string(), "open the net namespace /nowhere: no such file or directory");
}

#[test]
fn the_network_may_come_later() {
    let mut bench = Bench::new();
    let (spec, rootfs) =
        (bench.shell("readlink /proc/self/ns/net; ls /sys/class/net").parsed(), bench.rootfs());
    let outcome = ok(in_a_shim(|outcome| {
        let (streams, output) = streams(false);
        let cgroup = bench.cgroup();
        let start = Start { awaits_network: true, ..Start::plain(&spec, &rootfs, streams, cgroup) };
        conduct(super::super::start(start)?, output, outcome, |_, _| {})
    }));
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(lines(&outcome)[0], own.to_str().unwrap());
    let hosts = std::fs::read_dir("/sys/class/net").unwrap().count();
    assert!(lines(&outcome).len() > 1 && lines(&outcome).len() <= hosts + 1, "{outcome:?}");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let mut bench = Bench::new();
    bench.spec["process"]["apparmorProfile"] = json!("docker-default");
    let error = bench.run().error.unwrap().to_string();
    // By the machine: no AppArmor, or none that has this profile loaded.
    assert!(
        error.ends_with(
            "AppArmor is not enabled on this machine: start the container with apparmor=unconfined"
        ) || error.ends_with("the profile is not loaded: apparmor_parser -r loads one"),
        "{error}"
    );
}

#[test]
fn a_view_shows_the_files_and_the_binds() {
    let mut bench = Bench::new();
    let share = bench.path("share");
    std::fs::create_dir(&share).unwrap();
    std::fs::write(share.join("a"), "bound").unwrap();
    bench.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/data", "source": share, "options": ["bind"] }));
    let (spec, rootfs) = (bench.parsed(), bench.rootfs());
    let outcome = ok(in_a_shim(|outcome| {
        let root = view(&spec, &rootfs)?;
        let file = inroot::open(root.as_fd(), Path::new("/data/a"), rustix::fs::OFlags::RDONLY).unwrap();
        File::from(file).read_to_string(&mut outcome.output).unwrap();
        assert!(inroot::find(root.as_fd(), Path::new("/bin/busybox"))?.is_some());
        assert!(inroot::find(root.as_fd(), Path::new("/proc/1"))?.is_none());
        Ok(())
    }));
    assert_eq!(outcome.output, "bound");
}

#[test]
fn every_session_has_a_keyring_of_its_own() {
    const GET_KEYRING_ID: i64 = 0;
    const SESSION_KEYRING: i64 = -3;
    // SAFETY: integer arguments.
    let serial = || unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION_KEYRING, 0) };
    let outcome = ok(in_a_shim(|outcome| {
        let before = serial();
        let procfs = sysctl::host_procfs()?;
        process::new_session(Some(&Process::default()), procfs.as_fd())?;
        let first = serial();
        sys::new_session_keyring().unwrap();
        outcome.output = format!("{}", before != first && first != serial() && before != serial());
        Ok(())
    }));
    assert_eq!(outcome.output, "true");
}

#[test]
fn a_slave_bind_follows_the_host_and_not_the_other_way() {
    let mut bench = Bench::new();
    let share = bench.path("share");
    std::fs::create_dir_all(share.join("later")).unwrap();
    bench.spec["linux"]["rootfsPropagation"] = json!("rslave");
    bench.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/data", "source": share, "type": "bind", "options": ["rbind", "rslave"] }));
    bench.shell("read x; grep -c /data/later /proc/mounts");
    let (spec, rootfs) = (bench.parsed(), bench.rootfs());
    let outcome = ok(in_a_shim(|outcome| {
        // In a mount namespace of the test's own, of which the share is a shared mount.
        sys::unshare_namespaces(libc::CLONE_NEWNS).unwrap();
        let change = |path: &Path, propagation: u64| {
            let folder = rustix::fs::open(path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
            sys::mount_setattr(folder.as_fd(), true, &sys::MountAttr::propagation(propagation)).unwrap();
        };
        change(Path::new("/"), libc::MS_PRIVATE);
        rustix::mount::mount_bind(&share, &share).unwrap();
        change(&share, libc::MS_SHARED);
        let (stdin, mut go) = std::io::pipe().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let stdout = OwnedFd::from(writer);
        let stderr = stdout.try_clone().unwrap();
        let streams = Streams::Pipes { stdin: stdin.into(), stdout, stderr };
        let cgroup = bench.cgroup();
        let start = Start::plain(&spec, &rootfs, streams, cgroup);
        conduct(super::super::start(start)?, Some(reader.into()), outcome, |_, _| {
            let later = share.join("later");
            rustix::mount::mount("none", &later, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
            let _ = (&go).write_all(b"on\n");
        })?;
        go.flush().unwrap();
        Ok(())
    }));
    assert_eq!(outcome.output, "1\n");
}

#[test]
fn a_killed_shim_takes_the_container_along() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    for (init, uid) in [(false, 0), (false, 1000), (true, 1000)] {
        let mut bench = Bench::new();
        bench.init = init;
        bench.spec["process"]["user"] = json!({ "uid": uid, "gid": uid });
        let (spec, rootfs) = (bench.command(&["/bin/sleep", "1000"]).parsed(), bench.rootfs());
        let outcome = ok(in_a_shim(|outcome| {
            let (streams, _) = streams(false);
            let cgroup = bench.cgroup();
            let start = Start { init, ..Start::plain(&spec, &rootfs, streams, cgroup) };
            let mut child = super::super::start(start)?;
            while !matches!(child.step()?, Step::Running) {}
            outcome.output = child.pid().to_string();
            // Not dropped: the shim ends here as if it were killed.
            std::mem::forget(child);
            Ok(())
        }));
        let pid = Pid::from_raw(outcome.output.parse().unwrap()).unwrap();
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
            assert_eq!(
                poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)),
                Ok(1),
                "init {init}"
            );
        }
    }
}
