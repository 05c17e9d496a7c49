//! `hull daemon --userns-remap`: containers in user namespaces, whose root is nobody in particular outside.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hull_tests::{Daemon, Engine, Output, hull_binary, private_files};

/// Who is root in the containers of these tests, outside.
const ROOT: u32 = 300_000;

/// Gives this test's processes ranges of ids, and says whether it is hull that is tested: of dockerd, user namespaces are
/// not these.
fn ranges() -> bool {
    let text = format!("hull:{ROOT}:65536\nother:500000:10\n");
    private_files(&[("/etc/subuid", &text), ("/etc/subgid", &text)]);
    Engine::under_test() == Engine::Hull
}

fn remapped() -> Option<Daemon> {
    ranges().then(|| Daemon::with(&["--userns-remap=default"]))
}

/// The first process of a container, on the host.
fn pid(daemon: &Daemon, name: &str) -> String {
    daemon.ok(&["inspect", "-f", "{{.State.Pid}}", name])
}

/// The folder in which a volume's files are.
fn volume(daemon: &Daemon, name: &str) -> PathBuf {
    PathBuf::from(daemon.ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", name]))
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let path = path.as_ref();
    let found = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid())
}

/// A folder of the host that everybody may write to, and in it a file that is root's alone.
fn folder(daemon: &Daemon) -> PathBuf {
    let folder = daemon.dir().join("work/bind");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("its mode");
    fs::write(folder.join("secret"), "of the host's root").expect("a file");
    fs::set_permissions(folder.join("secret"), PermissionsExt::from_mode(0o600)).expect("its mode");
    folder
}

#[test]
fn root_inside_is_nobody_in_particular_outside() {
    let Some(daemon) = remapped() else { return };
    daemon.session(
        r#"
        $ hull run --rm --network none busybox sh -c 'id -u; cat /proc/self/uid_map /proc/self/gid_map | tr -s " "; stat -c %u:%g / /bin/busybox /etc/hosts /etc/resolv.conf /dev/shm /dev/pts; touch /made; stat -c %u:%g /made'
        0
         0 300000 65536
         0 300000 65536
        0:0
        0:0
        0:0
        0:0
        0:0
        0:0
        0:0
        $ hull run -d --name box busybox sleep 600
        <id>
        $ grep -E '^(Uid|Gid|Groups):' /proc/$(hull inspect -f '{{.State.Pid}}' box)/status
        Uid:	300000	300000	300000	300000
        Gid:	300000	300000	300000	300000
        Groups:	300000 
        $ hull info -f '{{json .SecurityOptions}}' | grep -o name=userns
        name=userns
        $ hull inspect -f '{{json .HostConfig.UsernsMode}}' box
        ""
        $ hull explain box | grep -oE '(uid|gid) map.*' | tr -s ' '
        uid map 0 to 65535 inside are the host's 300000 to 365535
        gid map 0 to 65535 inside are the host's 300000 to 365535
        $ hull exec --env A=b box sh -c 'cat /proc/1/oom_score_adj /proc/self/oom_score_adj; ulimit -n'; hull run --rm --oom-score-adj 500 busybox cat /proc/self/oom_score_adj
        0
        0
        1024
        500
        $ hull explain --shell box | grep -oE -- '--setuid|The container is in a user namespace besides'
        The container is in a user namespace besides
        $ hull run --rm -t busybox sh -c 'stat -c %u:%g /dev/console; tty'
        0:5
        /dev/pts/0
        $ hull run -d --name few --ulimit nofile=8:8 busybox sleep 600 >/dev/null; hull exec few sh -c 'ulimit -n; ulimit -Hn'; hull exec -t few tty | tr -d '\r'; hull rm -f few
        8
        8
        /dev/pts/0
        few
        $ hull run --rm --init --read-only --tmpfs /t -w /some/where --user 33:44 -v anonymous:/v --ulimit nofile=100:200 busybox sh -c 'id; pwd; ulimit -n; touch /x 2>&1; stat -c %u:%g /t /v'
        uid=33 gid=44 groups=44
        /some/where
        100
        touch: /x: Read-only file system
        0:0
        0:0
        $ hull run --rm --user 70000 busybox id 2>&1 | grep -o 'become user 70000.*'
        become user 70000: invalid argument
        "#,
    );
    // The shim has set the score, from outside.
    assert!(!daemon.log().contains("oom_score_adj"), "{}", daemon.log());
}

#[test]
fn layers_are_shared_and_nothing_changes_hands() {
    let Some(daemon) = remapped() else { return };
    // Sixteen MiB in a layer, which a copy or a change of owner would have to touch.
    daemon.ok(&["run", "--name", "big", "busybox", "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=16"]);
    daemon.ok(&["commit", "big", "big"]);
    daemon.ok(&["rm", "big"]);
    let images = daemon.dir().join("data/image");
    let used = || -> u64 {
        let mut used = 0;
        let mut folders = vec![images.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder of the store").flatten() {
                let found = fs::symlink_metadata(entry.path()).expect("a file of the store");
                assert!(
                    found.uid() < ROOT && found.gid() < ROOT,
                    "{} has a mapped owner",
                    entry.path().display()
                );
                used += found.blocks() * 512;
                if found.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        used
    };
    // The removed container's own files go behind the answer.
    daemon.settled();
    let before = used();
    for name in ["one", "two"] {
        daemon.ok(&["run", "-d", "--name", name, "big", "sleep", "600"]);
        assert_eq!(daemon.ok(&["exec", name, "stat", "-c", "%u %s", "/big"]), "0 16777216");
    }
    assert!(used() < before + (1 << 20), "the layer was copied");
    // What one changes, the other does not see; on the disk it is root's.
    daemon.ok(&["exec", "one", "sh", "-c", "echo changed >/etc/group; chown 33:44 /etc/passwd"]);
    assert_eq!(daemon.ok(&["exec", "two", "cat", "/etc/group"]), "root:x:0:");
    assert_eq!(daemon.ok(&["exec", "one", "stat", "-c", "%u:%g", "/etc/group", "/etc/passwd"]), "0:0\n33:44");
    used();
    // The same image, for a container that is not remapped.
    assert_eq!(daemon.ok(&["run", "--rm", "--userns", "host", "big", "stat", "-c", "%u", "/big"]), "0");
}

#[test]
fn volumes_are_the_containers_and_binds_the_host_s() {
    let Some(daemon) = remapped() else { return };
    let bind = folder(&daemon);
    fs::write(bind.join("own"), "").expect("a file");
    chown(bind.join("own"), Some(ROOT + 5), Some(ROOT + 6)).expect("an owner");
    let at = format!("{}:/b", bind.display());
    let script = "echo v >/v/file; chown 33:44 /v/file; mkdir /v/folder; echo b >/b/file; stat -c '%u:%g %n' /v/* /b/*; \
                  cat /b/secret; echo more >>/b/secret";
    let output = daemon.hull(&["run", "--rm", "-v", "vol:/v", "-v", &at, "busybox", "sh", "-c", script]);
    assert_eq!(
        output.stdout, "33:44 /v/file\n0:0 /v/folder\n0:0 /b/file\n5:6 /b/own\n65534:65534 /b/secret\n",
        "{output:?}"
    );
    assert_eq!(output.stderr.matches("Permission denied").count(), 2, "{output:?}");
    let files = volume(&daemon, "vol");
    assert_eq!((owner(files.join("file")), owner(files.join("folder"))), ((33, 44), (0, 0)));
    assert_eq!(owner(bind.join("file")), (ROOT, ROOT));

    // A bind's source that is not there is made for the container's root, as Docker does.
    let made = daemon.dir().join("work/made");
    daemon.ok(&["run", "--rm", "-v", &format!("{}:/m", made.display()), "busybox", "touch", "/m/x"]);
    assert_eq!((owner(&made), owner(made.join("x"))), ((ROOT, ROOT), (ROOT, ROOT)));

    // Without a user namespace the same volume is the same, and another's files are those of another.
    let seen = daemon.ok(&[
        "run",
        "--rm",
        "--userns=host",
        "-v",
        "vol:/v",
        "-v",
        &at,
        "busybox",
        "stat",
        "-c",
        "%u",
        "/v/file",
        "/b/file",
        "/b/secret",
    ]);
    assert_eq!(seen, format!("33\n{ROOT}\n0"));

    // A volume that stands for files of the host is as a bind; one in memory is a container's.
    let device = format!("device={}", bind.display());
    daemon.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "theirs"]);
    daemon.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory"]);
    let seen = daemon.ok(&[
        "run",
        "--rm",
        "-v",
        "theirs:/t",
        "-v",
        "memory:/m",
        "busybox",
        "stat",
        "-c",
        "%u",
        "/t/secret",
        "/m",
    ]);
    assert_eq!(seen, "65534\n0");

    // `idmap`: root inside is who called, outside; nobody else is.
    let mapped = format!("{}:/b:idmap", bind.display());
    let seen = daemon.ok(&[
        "run",
        "--rm",
        "-v",
        &mapped,
        "busybox",
        "sh",
        "-c",
        "stat -c %u /b/secret; cat /b/secret; touch /b/idmapped",
    ]);
    assert_eq!(seen, "0\nof the host's root");
    assert_eq!(owner(bind.join("idmapped")), (0, 0));
}

#[test]
fn a_new_volume_is_filled_from_the_image_with_its_owners() {
    let Some(daemon) = remapped() else { return };
    daemon.ok(&[
        "run",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "mkdir /d; touch /d/f; chown 33:44 /d/f; mkdir /d/part; touch /d/part/g",
    ]);
    daemon.ok(&["commit", "box", "filled"]);
    assert_eq!(daemon.ok(&["run", "--rm", "-v", "vol:/d", "filled", "stat", "-c", "%u:%g", "/d/f"]), "33:44");
    assert_eq!(owner(volume(&daemon, "vol").join("f")), (33, 44));
    let part = "type=volume,src=vol,dst=/p,volume-subpath=part";
    assert_eq!(
        daemon.ok(&["run", "--rm", "--mount", part, "busybox", "stat", "-c", "%u %n", "/p/g"]),
        "0 /p/g"
    );
}

#[test]
fn networks_in_user_namespaces() {
    let Some(daemon) = remapped() else { return };
    daemon.session(
        r#"
        $ hull network create front >/dev/null; hull run -d --name web --network front -p 127.0.0.1:8080:80 busybox sh -c 'echo it works >/index.html; exec httpd -f -p 80 -h /'
        <id>
        $ until curl -sf http://127.0.0.1:8080/ 2>/dev/null; do :; done
        it works
        $ hull run --rm --network front busybox wget -q -O- http://web/
        it works
        $ hull run --rm --network container:web busybox sh -c 'wget -q -O- http://127.0.0.1/; ls /sys/class/net; stat -c %u /etc/hosts; readlink /proc/self/ns/user; readlink /proc/self/ns/net' >inside; cat inside | grep -v :
        it works
        eth0
        lo
        0
        $ hull exec web sh -c 'readlink /proc/self/ns/user; readlink /proc/self/ns/net' >donor; grep : inside | diff donor - && echo same
        same
        $ hull network create back >/dev/null; hull network connect back web; hull exec web ls /sys/class/net
        eth0
        eth1
        lo
        $ hull run --rm --sysctl net.ipv4.ip_forward=0 --cap-add NET_ADMIN busybox sh -c 'cat /proc/sys/net/ipv4/ip_forward; ip link set eth0 down && echo mine'
        0
        mine
        $ hull run --rm --network none busybox ls /sys/class/net
        lo
        "#,
    );
}

#[test]
fn what_belongs_together_shares_a_user_namespace() {
    let Some(daemon) = remapped() else { return };
    daemon.session(
        r#"
        $ hull run -d --name donor --ipc shareable busybox sleep 600; hull run -d --name other busybox sleep 600; hull run -d --name host --userns host busybox sleep 600
        <id>
        <id>
        <id>
        $ for name in donor other; do hull exec $name readlink /proc/self/ns/user; done | sort -u | wc -l
        2
        $ hull run --rm --pid container:donor --ipc container:donor --network container:donor busybox sh -c 'ps -o args | head -n 2; echo here >/dev/shm/f; stat -c %u /dev/shm/f; id -u; touch /x; stat -c %u /x'
        COMMAND
        sleep 600
        0
        0
        0
        $ hull exec donor cat /dev/shm/f
        here
        $ hull run --rm --pid container:donor --ipc private -t --init busybox sh -c 'kill -0 1 && echo may'
        may
        $ hull run --rm --pid container:donor --network container:other busybox true 2>&1 | head -n 1
        hull: Error response from daemon: cannot join the PID namespace of one container and another namespace of another: each is in a user namespace of its own, and this one can be in one only
        $ hull run --rm --network container:host busybox true 2>&1 | head -n 1
        hull: Error response from daemon: cannot join the network namespace of a container that is in the host's user namespace (--userns=host) when user namespaces are enabled: start this one with --userns=host as well
        $ hull run --rm --userns host --network container:donor --pid container:donor busybox sh -c 'ps -o args | head -n 2; ls /sys/class/net'
        COMMAND
        sleep 600
        eth0
        lo
        "#,
    );
}

#[test]
fn an_exec_is_in_it_too() {
    let Some(daemon) = remapped() else { return };
    daemon.session(
        r#"
        $ hull run -d --name box busybox sh -c 'echo web:x:33:44::/:/bin/sh >>/etc/passwd; echo ready; exec sleep 600'; until hull logs box | grep ready; do :; done
        <id>
        ready
        $ hull exec box sh -c 'id; cat /proc/self/uid_map | tr -s " "; echo again >/dev/stdout; grep CapEff /proc/self/status'
        uid=0(root) gid=0(root) groups=0(root)
         0 300000 65536
        again
        CapEff:	00000000a80425fb
        $ hull exec -u web box sh -c 'id; echo again >/dev/stdout; echo error >/dev/stderr' 2>&1
        uid=33(web) gid=44 groups=44
        again
        error
        $ hull exec -t box sh -c 'tty; id -u'
        /dev/pts/0
        0
        $ hull exec --privileged box grep CapEff /proc/self/status
        CapEff:	000001ffffffffff
        $ echo in | hull exec -i box cat
        in
        $ hull run --rm busybox sh -c 'echo first >/dev/stdout'; hull run --rm -u 33 busybox sh -c 'echo first >/dev/stdout'
        first
        first
        "#,
    );
}

/// What a tar of the container's files says of owners.
fn listed(daemon: &Daemon, args: &[&str]) -> Vec<String> {
    let mut client = daemon.client(args).stdout(Stdio::piped()).spawn().expect("the client");
    let archive = client.stdout.take().expect("its output");
    let list = Command::new("tar").args(["tv", "--numeric-owner"]).stdin(archive).output().expect("tar");
    assert!(client.wait().expect("its status").success() && list.status.success(), "{args:?}: {list:?}");
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}", fields[1], fields[5])
    };
    text.lines().map(line).collect()
}

#[test]
fn copies_have_the_owners_that_are_told_inside() {
    let Some(daemon) = remapped() else { return };
    let bind = folder(&daemon);
    chown(&bind, Some(ROOT), Some(ROOT)).expect("an owner");
    let at = format!("{}:/b", bind.display());
    let script = "mkdir /d; echo x >/d/f; chown 33:44 /d/f; cp -a /d/f /v/f; cp -a /d/f /b/f; echo ready; exec sleep 600";
    daemon.ok(&["run", "-d", "--name", "box", "-v", "vol:/v", "-v", &at, "busybox", "sh", "-c", script]);
    daemon.session("$ until hull logs box | grep -q ready; do :; done");
    let from = daemon.dir().join("work/from");
    fs::create_dir(&from).expect("a folder");
    for (name, id) in [("web", Some(33)), ("root", None)] {
        fs::write(from.join(name), name).expect("a file");
        chown(from.join(name), id, id).expect("an owner");
    }
    // Running and stopped: the same.
    for place in ["in", "again"] {
        assert_eq!(listed(&daemon, &["cp", "box:/d", "-"]), ["0/0 d/", "33/44 d/f"]);
        let of_volume = listed(&daemon, &["cp", "box:/v", "-"]);
        assert!(of_volume.contains(&"33/44 v/f".to_owned()), "{of_volume:?}");
        let of_bind = listed(&daemon, &["cp", "box:/b", "-"]);
        for line in ["0/0 b/", "33/44 b/f", "65534/65534 b/secret"] {
            assert!(of_bind.contains(&line.to_owned()), "{line}: {of_bind:?}");
        }
        let exported = listed(&daemon, &["export", "box"]);
        for line in ["0/0 d/", "33/44 d/f", "0/0 bin/busybox"] {
            assert!(exported.contains(&line.to_owned()), "{line}: {exported:?}");
        }
        for folder in ["", "/v", "/b"] {
            daemon.ok(&["cp", "-a", from.to_str().expect("its name"), &format!("box:{folder}/{place}")]);
        }
        daemon.hull(&["stop", "-t", "0", "box"]);
    }
    daemon.ok(&["start", "box"]);
    for place in ["in", "again"] {
        for folder in ["", "/v", "/b"] {
            let files = ["root", "web"].map(|name| format!("{folder}/{place}/{name}"));
            let owners = daemon.ok(&["exec", "box", "stat", "-c", "%u:%g", &files[0], &files[1]]);
            assert_eq!(owners, "0:0\n33:33", "{folder}/{place}");
        }
    }
    assert_eq!(owner(bind.join("in/web")), (ROOT + 33, ROOT + 33));
    assert_eq!(owner(bind.join("again/root")), (ROOT, ROOT));
    assert_eq!(owner(volume(&daemon, "vol").join("in/web")), (33, 33));
    // An owner that is nobody there.
    chown(from.join("web"), Some(70_000), None).expect("an owner");
    let refused = daemon.hull(&["cp", "-a", from.to_str().expect("its name"), "box:/no"]);
    assert!(refused.stderr.contains("user 70000 cannot be mapped"), "{refused:?}");
    // What is committed are the owners of inside, too.
    assert!(daemon.ok(&["diff", "box"]).lines().any(|line| line == "A /in/web"));
    daemon.ok(&["commit", "box", "made"]);
    let owners = ["run", "--rm", "made", "stat", "-c", "%u:%g", "/d", "/d/f", "/in/web"];
    assert_eq!(daemon.ok(&owners), "0:0\n33:44\n33:33");
    assert_eq!(daemon.ok(&[&["run", "--rm", "--userns=host"], &owners[2..]].concat()), "0:0\n33:44\n33:33");
}

#[test]
fn what_cannot_be_with_it_is_refused_in_docker_s_words() {
    if !ranges() {
        return;
    }
    let daemon = Daemon::with(&["--userns-remap=default", "--add-runtime", "other=/bin/true"]);
    let said = |output: Output| output.stderr.lines().next().unwrap_or_default().to_owned();
    for (option, words) in [
        (
            "--privileged",
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        ("--network=host", "cannot share the host's network namespace when user namespaces are enabled"),
        ("--pid=host", "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        let refused = daemon.hull(&["run", "--rm", option, "busybox", "true"]);
        assert_eq!(refused.status, 125, "{option}: {refused:?}");
        assert_eq!(said(refused), format!("hull: Error response from daemon: {words}"), "{option}");
        let host =
            daemon.hull(&["run", "--rm", option, "--userns=host", "busybox", "cat", "/proc/self/uid_map"]);
        assert_eq!(host.stdout.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"], "{host:?}");
    }
    daemon.ok(&["create", "--name", "donor", "busybox"]);
    let refused = daemon.hull(&["create", "--runtime", "other", "--pid", "container:donor", "busybox"]);
    assert!(
        refused.stderr.contains("cannot share the PID namespace of container:")
            && refused.stderr.contains("by the runtime other"),
        "{refused:?}"
    );
    // Docker shares these.
    for option in ["--ipc=host", "--uts=host", "--cgroupns=host"] {
        let output = daemon.ok(&["run", "--rm", option, "busybox", "cat", "/proc/self/uid_map"]);
        assert!(output.contains("300000"), "{option}: {output}");
    }
    let refused = daemon.hull(&["create", "--userns=private", "busybox"]);
    assert!(refused.stderr.contains("invalid USER mode"), "{refused:?}");
}

/// A container that was made before the daemon was told to remap: its start is judged too, and its files are the same.
#[test]
fn a_daemon_that_is_told_otherwise() {
    if !ranges() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ok(&["create", "--name", "privileged", "--privileged", "busybox", "true"]);
    daemon.ok(&[
        "run",
        "--name",
        "plain",
        "-v",
        "vol:/v",
        "busybox",
        "sh",
        "-c",
        "cat /proc/self/uid_map; touch /v/f /f; stat -c %u /v/f /f",
    ]);
    daemon.stop();
    daemon.set_options(&["--userns-remap=default"]);
    daemon.begin();
    let refused = daemon.hull(&["start", "privileged"]);
    assert!(refused.stderr.contains("privileged mode is incompatible with user namespaces"), "{refused:?}");
    let output = daemon.ok(&["start", "-a", "plain"]);
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "300000", "65536", "0", "0"]);
    daemon.ok(&["run", "-d", "--name", "runs", "-v", "vol:/v", "busybox", "sleep", "600"]);
    daemon.stop();
    daemon.set_options(&[]);
    daemon.begin();
    // It runs on as it was started, and is told as it is.
    assert!(daemon.ok(&["exec", "runs", "cat", "/proc/self/uid_map"]).contains("300000"));
    assert!(listed(&daemon, &["cp", "runs:/v", "-"]).contains(&"0/0 v/f".to_owned()));
    let output = daemon.ok(&["start", "-a", "plain"]);
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295", "0", "0"]);
}

#[test]
fn containers_outlive_their_daemon() {
    let Some(mut daemon) = remapped() else { return };
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "-p",
        "127.0.0.1:8081:80",
        "-v",
        "vol:/v",
        "busybox",
        "sh",
        "-c",
        "echo here >/index.html; exec httpd -f -p 80 -h /",
    ]);
    let before = pid(&daemon, "box");
    daemon.kill();
    daemon.begin();
    assert_eq!(pid(&daemon, "box"), before);
    daemon.session(
        r#"
        $ until curl -sf http://127.0.0.1:8081/ 2>/dev/null; do :; done
        here
        $ hull exec box sh -c 'id -u; touch /v/f; stat -c %u /v/f'
        0
        0
        $ hull network create more >/dev/null; hull network connect more box; hull exec box ls /sys/class/net
        eth0
        eth1
        lo
        $ hull stop -t 0 box; hull start box; hull exec box stat -c %u /v/f
        box
        box
        0
        $ hull rm -f box
        box
        "#,
    );
}

#[test]
fn nothing_is_left() {
    let Some(daemon) = remapped() else { return };
    let once = || {
        let port =
            ["run", "--rm", "-p", "127.0.0.1:8082:80", "-v", "/a", "--ipc", "shareable", "busybox", "true"];
        daemon.ok(&port);
        daemon.hull(&["run", "--rm", "--user", "70000", "busybox", "true"]);
        daemon.hull(&["run", "--rm", "busybox", "no-such-command"]);
    };
    once();
    let before = daemon.settled();
    (0..5).for_each(|_| once());
    daemon.comes_back_to(&before);
}

/// The daemon's error, which must not come up.
fn fails(dir: &Path, options: &[&str]) -> String {
    let output = Command::new(hull_binary())
        .arg("daemon")
        .args(["-H", &format!("unix://{}", dir.join("s").display()), "--exec-root"])
        .arg(dir.join("exec"))
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("hull is executed");
    assert!(!output.status.success(), "{options:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

#[test]
fn a_daemon_without_ranges_says_which_line_is_missing() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let group = "root:x:0:\nweb:x:33:\n";
    private_files(&[
        ("/etc/subuid", "other:100000:65536\nweb:165536:65536\n"),
        ("/etc/subgid", "other:100000:65536\n"),
        ("/etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n"),
        ("/etc/group", group),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    for (option, words) in [
        (
            "default",
            "there is no range of ids for hull or dockremap in /etc/subuid and /etc/subgid: add the line hull:231072:65536 to /etc/subuid and to /etc/subgid",
        ),
        (
            "web",
            "there is no range of ids for web in /etc/subgid: add the line web:231072:65536 to /etc/subgid",
        ),
        (
            "33:33",
            "there is no range of ids for web in /etc/subgid: add the line web:231072:65536 to /etc/subgid",
        ),
        ("nobody", "the user nobody has no entry in /etc/passwd"),
        ("web:staff", "the group staff has no entry in /etc/group"),
        ("0", "root cannot be remapped to itself; name another user, or leave the flag away"),
    ] {
        let said = fails(
            folder.path(),
            &["--data-root", data.to_str().expect("its name"), "--userns-remap", option],
        );
        assert_eq!(said, format!("hull daemon: --userns-remap={option}: {words}"));
    }
    // From the configuration file, too, and of a key that is said twice.
    let file = folder.path().join("daemon.json");
    fs::write(&file, r#"{"userns-remap": "web"}"#).expect("a file");
    let config =
        ["--config-file", file.to_str().expect("its name"), "--data-root", data.to_str().expect("its name")];
    assert!(
        fails(folder.path(), &config).contains("--userns-remap=web: there is no range"),
        "the file is read"
    );
    let twice = fails(folder.path(), &[&config[..], &["--userns-remap=default"]].concat());
    assert!(twice.contains("userns-remap: (from flag: default, from file: \"web\")"), "{twice}");
}

#[test]
fn a_file_system_that_maps_no_ids_is_refused_at_the_start() {
    if !ranges() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("a folder");
    rustix::mount::mount("ramfs", &data, "ramfs", rustix::mount::MountFlags::empty(), None).expect("a ramfs");
    let said =
        fails(folder.path(), &["--data-root", data.to_str().expect("its name"), "--userns-remap=default"]);
    for words in [
        "--userns-remap: the layers of images cannot be mounted with mapped ids",
        "its file system cannot map ids on this kernel",
        "a file system that can (ext4, xfs, btrfs)",
        data.to_str().expect("its name"),
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(fs::read_dir(&data).expect("the folder").count(), 0, "the try has left something");
}

/// Root inside, with every capability there is, against the host: each attack is made without a user namespace as well,
/// where it works.
#[test]
fn root_inside_has_nothing_of_root_outside() {
    let Some(daemon) = remapped() else { return };
    let bind = folder(&daemon);
    let at = format!("{}:/b", bind.display());
    let attack = "mknod /tmp/null c 1 3 && echo mknod; mknod /v/null c 1 3 && echo mknod; \
                  mount -o remount,rw /proc/sys 2>/dev/null; mount -t proc proc /mnt; \
                  ( echo 1 >/proc/sys/vm/overcommit_memory ) && echo sysctl; \
                  ( echo hull >/proc/sys/kernel/core_pattern ) && echo pattern; \
                  chown 0 /b/secret && echo chown; cat /b/secret && echo; chmod 666 /b/secret && echo chmod; \
                  dd if=/dev/kmsg of=/dev/null count=1 && echo kmsg; \
                  mkdir /m; mount -t cgroup -o memory cgroup /m; ( echo 1 >/m/notify_on_release ) && echo cgroup; \
                  ( echo 1 >/sys/fs/cgroup/memory/notify_on_release ) && echo release; exit 0";
    let core = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("the pattern");
    let options =
        ["--cap-add=ALL", "--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined"];
    let run = |more: &[&str], script: &str| {
        let args = [
            &["run", "--rm"],
            &options[..],
            more,
            &["-v", "vol:/v", "-v", &at, "busybox", "sh", "-c", script],
        ]
        .concat();
        daemon.hull(&args)
    };
    let output = run(&[], attack);
    assert_eq!((output.stdout.as_str(), output.status), ("", 0), "{output:?}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").expect("the pattern"), core);
    // The same, but for what would change the machine, where root is root.
    let works = run(
        &["--userns=host"],
        "mknod /tmp/null c 1 3 && echo mknod; cat /b/secret && echo; chmod 600 /b/secret && echo chmod",
    );
    assert_eq!(works.stdout, "mknod\nof the host's root\nchmod\n", "{works:?}");

    // A set-user-ID program in a folder of the host is that of nobody in particular.
    let setuid = "cp /bin/busybox /b/su && chmod 4755 /b/su && cp /bin/busybox /v/su && chmod 4755 /v/su";
    assert_eq!(run(&[], setuid).status, 0);
    let program = fs::metadata(bind.join("su")).expect("the program");
    assert_eq!((program.uid(), program.mode() & 0o7777), (ROOT, 0o4755));
    let as_nobody = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).arg("-u");
        command
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .expect("setpriv")
    };
    // Reachable for it, which the test's own folders are not.
    let open = tempfile::tempdir().expect("a folder");
    fs::set_permissions(open.path(), PermissionsExt::from_mode(0o755)).expect("its mode");
    let copy = open.path().join("su");
    let place = |uid: u32| {
        // What it says is its effective user; busybox gives that up.
        fs::copy("/usr/bin/id", &copy).expect("a copy");
        chown(&copy, Some(uid), Some(uid)).expect("its owner");
        fs::set_permissions(&copy, PermissionsExt::from_mode(0o4755)).expect("its mode");
        as_nobody(&copy)
    };
    assert_eq!(place(program.uid()), ROOT.to_string());
    assert_eq!(place(0), "0", "a set-user-ID program of root's is root");
    // That in a volume is root's on the disk, where only root reaches it.
    let inner = volume(&daemon, "vol").join("su");
    assert_eq!(owner(&inner), (0, 0));
    assert_eq!(as_nobody(&inner), "", "a user of the host has reached a volume's files");
    for folder in ["data/volumes", "data/image"] {
        let found = fs::metadata(daemon.dir().join(folder)).expect("a folder of the data root");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o007), (0, 0, 0), "{folder}");
    }
}

/// What is mounted in a bind later, on either side. `--userns-remap` or not: what a container in a user namespace mounts
/// stays its own.
#[test]
fn mounts_in_binds_go_one_way() {
    if !ranges() {
        return;
    }
    let tmpfs = |place: &Path| {
        rustix::mount::mount("tmpfs", place, "tmpfs", rustix::mount::MountFlags::empty(), None)
            .expect("a tmpfs");
    };
    for (options, reaches_the_host) in [(&[][..], true), (&["--userns-remap=default"], false)] {
        let daemon = Daemon::with(options);
        let folder = daemon.dir().join("work/shared");
        fs::create_dir(&folder).expect("a folder");
        tmpfs(&folder);
        rustix::mount::mount_change(&folder, rustix::mount::MountPropagationFlags::SHARED)
            .expect("a shared mount");
        for name in ["host", "container"] {
            fs::create_dir(folder.join(name)).expect("a folder");
            fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o777)).expect("its mode");
        }
        for word in ["rprivate", "rslave", "rshared"] {
            let bind = format!("{}:/s:{word}", folder.display());
            daemon.ok(&[
                "run",
                "-d",
                "--name",
                word,
                "--cap-add",
                "SYS_ADMIN",
                "-v",
                &bind,
                "busybox",
                "sleep",
                "600",
            ]);
        }
        tmpfs(&folder.join("host"));
        fs::write(folder.join("host/file"), "").expect("a file");
        let seen = |word| daemon.ok(&["exec", word, "ls", "/s/host"]);
        assert_eq!(["rprivate", "rslave", "rshared"].map(seen), ["", "file", "file"], "{options:?}");
        for word in ["rslave", "rshared"] {
            daemon.ok(&[
                "exec",
                word,
                "sh",
                "-c",
                "mount -t tmpfs tmpfs /s/container && touch /s/container/file",
            ]);
            let reached = folder.join("container/file").exists();
            assert_eq!(reached, word == "rshared" && reaches_the_host, "{word} {options:?}");
        }
    }
}

/// Steps of builds are containers too: what they mount is the builder's, and theirs inside.
#[test]
fn builds_in_user_namespaces() {
    let Some(daemon) = remapped() else { return };
    let context = daemon.dir().join("work/context");
    fs::create_dir(&context).expect("a folder");
    fs::write(context.join("file"), "file").expect("a file");
    fs::write(context.join("secret"), "hidden").expect("a file");
    let dockerfile = "FROM busybox AS base\nRUN mkdir /made && echo x >/made/f && chown 33:44 /made/f && cat /proc/self/uid_map >/map\n\
                      FROM busybox\nCOPY --chown=5:6 file /file\n\
                      RUN --mount=type=cache,target=/c --mount=type=secret,id=s --mount=type=bind,from=base,source=/,target=/b,rw \\\n\
                      touch /c/f && cat /run/secrets/s >/seen && cp -a /b/made/f /copied && cat /b/map >/map && touch /b/new && \\\n\
                      stat -c %u:%g /c/f /run/secrets/s /b /b/made/f /file >/owners\n\
                      COPY --from=base /made /made\n";
    fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
    let place = context.to_str().expect("its name");
    let secret = format!("id=s,src={place}/secret");
    for _ in 0..2 {
        daemon.ok(&["build", "--no-cache", "-t", "built", "--secret", &secret, place]);
    }
    let said = daemon.ok(&[
        "run",
        "--rm",
        "built",
        "sh",
        "-c",
        "cat /owners; cat /seen; echo; stat -c %u:%g /copied /made/f /file",
    ]);
    assert_eq!(said, "0:0\n0:0\n0:0\n33:44\n5:6\nhidden\n33:44\n33:44\n5:6");
    assert!(daemon.ok(&["run", "--rm", "--userns=host", "built", "cat", "/map"]).contains("300000"));
}

/// What systemd in a container needs: with cgroups that may be written, that one of v2 is the container's to divide. Its
/// limits are not.
#[test]
fn a_cgroup_is_divided_from_inside() {
    // Of v1 nobody in a user namespace has a part.
    if !["unified", "cgroup.controllers"].iter().any(|of_v2| Path::new("/sys/fs/cgroup").join(of_v2).exists())
    {
        eprintln!("not tested: this machine has cgroups of v1 alone");
        return;
    }
    let Some(daemon) = remapped() else { return };
    let script = "cd /sys/fs/cgroup; [ ! -d unified ] || cd unified; mkdir part && echo 0 >part/cgroup.procs && \
                  grep ^0: /proc/self/cgroup; ( echo max >cgroup.max.depth ) 2>/dev/null || echo limited";
    let writable = ["--security-opt", "writable-cgroups=true"];
    let run = |options: &[&str]| {
        daemon.hull(&[&["run", "--rm"], options, &["busybox", "sh", "-c", script]].concat()).stdout
    };
    assert_eq!(run(&writable), "0::/part\nlimited\n");
    assert_eq!(run(&[]), "limited\n");
}

#[test]
fn devices_come_from_the_host() {
    let Some(daemon) = remapped() else { return };
    // No node can be made there: it is the host's, at another place.
    let output = daemon.ok(&["run", "--rm", "--device", "/dev/zero:/dev/mine:r", "busybox", "sh", "-c", "stat -c '%t:%T' /dev/mine; head -c 2 /dev/mine | od -An -tx1; head -c 1 /dev/null; echo >/dev/null && echo null"]);
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["1:5", "00", "00", "null"]);
}
