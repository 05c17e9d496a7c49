//! User namespaces (`--userns-remap`) where no overlay of hull's own runtime is: other storage drivers, other runtimes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hull_tests::{Daemon, Engine, HullOci, LoopMount, private_files, which};

/// Who is root in the containers of these tests, outside.
const ROOT: u32 = 300_000;

/// Gives this test's processes ranges of ids, and says whether it is hull that is tested.
fn ranges() -> bool {
    let text = format!("hull:{ROOT}:65536\n");
    private_files(&[("/etc/subuid", &text), ("/etc/subgid", &text)]);
    Engine::under_test() == Engine::Hull
}

/// That nothing below a folder belongs to an id of the range, and that a file of this name is somebody's.
#[track_caller]
fn owners_are_those_of_inside(folder: &Path, name: &str, owner: (u32, u32)) {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the data root").flatten() {
            let stat = fs::symlink_metadata(entry.path()).expect("a file of the data root");
            assert!(
                stat.uid() < ROOT && stat.gid() < ROOT,
                "{} has a mapped owner: {}",
                entry.path().display(),
                stat.uid()
            );
            if entry.file_name().to_str() == Some(name) {
                found.push((stat.uid(), stat.gid()));
            }
            if stat.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    assert!(!found.is_empty() && found.iter().all(|found| *found == owner), "{name}: {found:?}");
}

/// What a container in a user namespace does, whoever mounts its files; `run` is how one is run.
fn lives(daemon: &Daemon, data: &Path, run: &str) {
    daemon.session(
        &r#"
        $ RUN --rm --network none busybox sh -c 'id -u; tr -s " " </proc/self/uid_map; stat -c %u:%g / /bin/busybox /etc/hosts /dev/shm; cat /proc/sys/kernel/cap_last_cap >/dev/null; touch /made && stat -c %u:%g /made'
        0
         0 300000 65536
        0:0
        0:0
        0:0
        0:0
        0:0
        $ RUN -d --name box -v vol:/v busybox sh -c 'echo a >/markedfile; chown 33:44 /markedfile; echo v >/v/markedfile; chown 33:44 /v/markedfile; echo ready; exec sleep 600'; until hull logs box | grep ready; do :; done
        <id>
        ready
        $ grep -E '^(Uid|Gid):' /proc/$(hull inspect -f '{{.State.Pid}}' box)/status
        Uid:	300000	300000	300000	300000
        Gid:	300000	300000	300000	300000
        $ hull exec box sh -c 'id -u; stat -c %u:%g /markedfile /v/markedfile; echo again >/dev/stdout; ls /sys/class/net'
        0
        33:44
        33:44
        again
        eth0
        lo
        $ hull exec -u 33 box sh -c 'id -u; cat /markedfile; touch /x 2>&1'
        33
        a
        touch: /x: Permission denied
        [1]
        $ hull diff box | grep marked; hull cp box:/markedfile - | tar -tv --numeric-owner | cut -d' ' -f2; hull export box | tar -tv --numeric-owner markedfile bin/busybox | cut -d' ' -f2
        A /markedfile
        33/44
        0/0
        33/44
        $ echo in >into; chown 5:6 into; hull cp -a into box:/into; hull exec box stat -c %u:%g /into
        5:6
        $ hull commit box kept >/dev/null; RUN --rm --userns host --network none kept stat -c %u:%g /markedfile /into /bin/busybox
        33:44
        5:6
        0:0
        $ RUN --rm --network none kept sh -c 'stat -c %u:%g /markedfile; rm /markedfile /bin/ls && echo may'
        33:44
        may
        $ hull stop -t 0 box; hull cp box:/into - | tar -tv --numeric-owner | cut -d' ' -f2; hull start box; until hull exec box cat /into; do :; done
        box
        5/6
        box
        in
        "#
        .replace("RUN", run),
    );
    owners_are_those_of_inside(&data.join("image"), "markedfile", (33, 44));
    owners_are_those_of_inside(&data.join("volumes"), "markedfile", (33, 44));
    daemon.ok(&["rm", "-f", "-v", "box"]);
    daemon.ok(&["volume", "rm", "-f", "vol"]);
    daemon.ok(&["rmi", "kept"]);
}

#[test]
fn whole_trees_are_mounted_with_mapped_ids() {
    if !ranges() {
        return;
    }
    for (mkfs, driver) in [
        (&["mkfs.btrfs", "-q"][..], "btrfs"),
        (&["mkfs.xfs", "-q"][..], "vfs"),
        (&["mkfs.ext4", "-q"][..], "vfs"),
    ] {
        let Some(disk) = LoopMount::new(400, mkfs, "") else { continue };
        let daemon = Daemon::on(&disk.path(), &["--storage-driver", driver, "--userns-remap=default"]);
        assert_eq!(daemon.ok(&["info", "-f", "{{.Driver}}"]), driver);
        lives(&daemon, &disk.path().join("data"), "hull run");
        daemon.session(
            r#"
            $ printf 'FROM busybox\nRUN id -u >/who && touch /made && chown 33:44 /made && stat -c %%u:%%g /bin/busybox >>/who\nCOPY Dockerfile /copied\nRUN --mount=type=cache,target=/c touch /c/x && stat -c %%u:%%g /c/x >>/who\n' >Dockerfile; hull build -q -t built . | cut -c1-7
            sha256:
            $ hull run --rm --network none built sh -c 'cat /who; stat -c %u:%g /made /copied'
            0
            0:0
            0:0
            33:44
            0:0
            $ hull run --rm --network none --read-only built touch /x 2>&1
            touch: /x: Read-only file system
            [1]
            $ hull system fsck | grep -o 'nothing is wrong'
            nothing is wrong
            "#,
        );
    }
}

/// The runtimes that are here, as `hull daemon` registers them.
fn runtimes(own: &HullOci) -> Vec<(&'static str, String)> {
    let mut found = vec![("own", own.dir().join("hull-oci").display().to_string())];
    found.extend(which("runc").map(|path| ("runc", path.display().to_string())));
    // It refuses a machine with both versions of control groups.
    if !Path::new("/sys/fs/cgroup/unified").exists() {
        found.extend(which("crun").map(|path| ("crun", path.display().to_string())));
    }
    found
}

fn with_runtimes(more: &[&str]) -> Option<(Daemon, HullOci, Vec<&'static str>)> {
    if !ranges() {
        return None;
    }
    let own = HullOci::new();
    let found = runtimes(&own);
    let options: Vec<String> =
        found.iter().map(|(name, path)| format!("--add-runtime={name}={path}")).collect();
    let options: Vec<&str> = options
        .iter()
        .map(String::as_str)
        .chain(["--userns-remap=default"])
        .chain(more.iter().copied())
        .collect();
    let names = found.iter().map(|(name, _)| *name).collect();
    Some((Daemon::with(&options), own, names))
}

#[test]
fn other_runtimes_get_files_with_mapped_ids() {
    let Some((daemon, _own, names)) = with_runtimes(&[]) else { return };
    for name in names {
        lives(&daemon, &daemon.dir().join("data"), &format!("hull run --runtime {name}"));
    }
}

#[test]
fn other_runtimes_keep_root_inside_from_the_host_s() {
    let Some((daemon, _own, names)) = with_runtimes(&[]) else { return };
    let bind = daemon.dir().join("work/bind");
    fs::create_dir(&bind).expect("a folder");
    fs::set_permissions(&bind, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("its mode");
    fs::write(bind.join("secret"), "of the host's root").expect("a file");
    fs::set_permissions(bind.join("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("its mode");
    daemon.session("$ hull run -d --name donor busybox sleep 600\n<id>\n");
    for name in names {
        let run = |words: &[&str]| {
            let start = ["run", "--rm", "--runtime", name];
            daemon.hull(&[&start[..], words].concat())
        };
        let at = format!("{}:/b", bind.display());
        let script = "cat /b/secret; touch /b/made; stat -c %u:%g /b/made /b/secret; ip link set eth0 down && echo mine; \
                      cat /proc/sys/net/ipv4/ip_forward";
        let words = ["-v", &at, "--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.ip_forward=0"];
        let output = run(&[&words[..], &["busybox", "sh", "-c", script]].concat());
        assert_eq!(output.stdout, "0:0\n65534:65534\nmine\n0\n", "{name}: {output:?}");
        assert!(output.stderr.contains("Permission denied"), "{name}: {output:?}");
        let made = fs::metadata(bind.join("made")).expect("what it has made");
        assert_eq!((made.uid(), made.gid()), (ROOT, ROOT), "{name}");
        fs::remove_file(bind.join("made")).expect("it goes");

        let mapped = format!("{}:/b:idmap", bind.display());
        let output = run(&["-v", &mapped, "busybox", "sh", "-c", "cat /b/secret; touch /b/made"]);
        assert_eq!((output.stdout.as_str(), output.status), ("of the host's root", 0), "{name}: {output:?}");
        assert_eq!(fs::metadata(bind.join("made")).expect("what it has made").uid(), 0, "{name}");
        fs::remove_file(bind.join("made")).expect("it goes");

        let words =
            ["--domainname", "example.org", "--hostname", "box", "--shm-size", "1m", "--ipc", "shareable"];
        let output = run(&[
            &words[..],
            &["-t", "busybox", "sh", "-c", "hostname; cat /proc/sys/kernel/domainname; tty"],
        ]
        .concat());
        assert_eq!(output.stdout.replace('\r', ""), "box\nexample.org\n/dev/pts/0\n", "{name}: {output:?}");

        for shared in ["--network", "--pid", "--ipc"] {
            let output = run(&[shared, "container:donor", "busybox", "true"]);
            assert!(
                output.status == 125
                    && output.stderr.contains("cannot share the")
                    && output.stderr.contains(name),
                "{name}: {output:?}"
            );
        }
        let output = run(&["--privileged", "busybox", "true"]);
        assert!(output.stderr.contains("privileged mode is incompatible with user namespaces"), "{output:?}");
    }
}

#[test]
fn other_runtimes_on_whole_trees() {
    if !ranges() {
        return;
    }
    let Some(disk) = LoopMount::new(400, &["mkfs.btrfs", "-q"], "") else { return };
    let own = HullOci::new();
    let found = runtimes(&own);
    let mut options = vec!["--storage-driver=btrfs".to_owned(), "--userns-remap=default".to_owned()];
    options.extend(found.iter().map(|(name, path)| format!("--add-runtime={name}={path}")));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let daemon = Daemon::on(&disk.path(), &options);
    for (name, _) in found {
        lives(&daemon, &disk.path().join("data"), &format!("hull run --runtime {name}"));
    }
}

#[test]
fn builds_by_another_runtime() {
    let Some((daemon, _own, names)) = with_runtimes(&["--default-runtime=own"]) else { return };
    assert!(names.contains(&"own"));
    daemon.session(
        r#"
        $ printf 'FROM busybox\nRUN --mount=type=cache,target=/c --mount=type=bind,target=/ctx,rw stat -c %%u:%%g /bin/busybox /ctx/Dockerfile >/who && touch /c/x /ctx/y && chown 33:44 /who\n' >Dockerfile; hull build -q -t built . | cut -c1-7
        sha256:
        $ hull run --rm --runtime hull --network none built sh -c 'cat /who; stat -c %u:%g /who'
        0:0
        0:0
        33:44
        "#,
    );
}

#[test]
fn other_runtimes_give_what_is_asked_for_besides() {
    let Some((daemon, _own, names)) = with_runtimes(&[]) else { return };
    daemon.ok(&[
        "run",
        "--rm",
        "-v",
        "vol:/v",
        "busybox",
        "sh",
        "-c",
        "mkdir /v/part; echo in >/v/part/file",
    ]);
    let bind = daemon.dir().join("work/bind");
    fs::create_dir(&bind).expect("a folder");
    for name in names {
        let run = |words: &[&str]| daemon.hull(&[&["run", "--rm", "--runtime", name], words].concat());
        let prints = |words: &[&str], expected: &str| {
            let output = run(words);
            assert_eq!(output.stdout, expected, "{name}: {words:?}: {output:?}");
        };
        let script = "touch /x 2>/dev/null || echo root; touch /t/x && echo tmpfs; touch /b/x 2>/dev/null || echo bind; \
                      cat /p/file; touch /p/new && stat -c %u /p/new; echo x >/dev/null && cat /dev/zero | head -c 3 | wc -c; \
                      test -c /dev/full && echo device; ulimit -n; cat /proc/self/oom_score_adj";
        let at = format!("{}:/b:ro", bind.display());
        let part = "type=volume,src=vol,dst=/p,volume-subpath=part";
        let words = [
            "--read-only",
            "--tmpfs",
            "/t",
            "-v",
            &at,
            "--mount",
            part,
            "--ulimit",
            "nofile=100:200",
            "--oom-score-adj",
            "300",
        ];
        let expected = "root\ntmpfs\nbind\nin\n0\n3\ndevice\n100\n300\n";
        prints(&[&words[..], &["busybox", "sh", "-c", script]].concat(), expected);
        prints(
            &["--device", "/dev/full:/dev/mine", "busybox", "sh", "-c", "test -c /dev/mine && echo there"],
            "there\n",
        );
        prints(
            &["--user", "33:44", "busybox", "sh", "-c", "id -u; id -g; echo again >/dev/stdout"],
            "33\n44\nagain\n",
        );
        prints(&["--ipc", "host", "busybox", "sh", "-c", "ls -d /dev/shm"], "/dev/shm\n");
        prints(
            &["--cap-drop", "ALL", "busybox", "sh", "-c", "grep CapEff /proc/self/status"],
            "CapEff:\t0000000000000000\n",
        );
        prints(
            &[
                "busybox",
                "sh",
                "-c",
                "cat /proc/sys/kernel/core_pattern >/proc/sys/kernel/core_pattern 2>/dev/null || echo kept",
            ],
            "kept\n",
        );
        let missing = run(&["busybox", "no-such-program"]);
        assert_eq!(missing.status, 127, "{name}: {missing:?}");
    }
}
