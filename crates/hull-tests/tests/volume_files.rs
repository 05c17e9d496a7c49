//! The files of volumes: cloned, caught in a snapshot, exported and imported.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use hull_tests::{Daemon, Engine, PATIENCE, Tar, picture, private_network, wait_until};
use serde_json::json;

/// Docker has none of this.
fn docker() -> bool {
    Engine::under_test() == Engine::Docker
}

/// Where a volume's files are.
fn place(daemon: &Daemon, volume: &str) -> PathBuf {
    daemon.dir().join("data/volumes").join(volume).join("_data")
}

/// A volume `data` with all that files can be.
fn with_a_volume() -> Daemon {
    let daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "--rm",
        "-v",
        "data:/v",
        "busybox",
        "sh",
        "-c",
        "cd /v; mkdir -p a/b c; echo hello >a/b/f; ln a/b/f c/hard; ln -s ../a c/soft; mkfifo pipe; mknod null c 1 3; \
         dd if=/dev/zero of=sparse bs=1 count=1 seek=3000000 2>/dev/null; chown 5:6 a/b; chown -h 7:8 c/soft; \
         chmod 4711 a/b/f; chmod 1770 .; chown 9:10 .",
    ]);
    let attribute = |path: &str, name: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(place(&daemon, "data").join(path), name, value, flags).expect("an attribute");
    };
    attribute("a/b/f", "user.of-mine", b"=\n\0x");
    // As a volume has them that is the data root of an engine inside.
    attribute("c", "trusted.overlay.opaque", b"y");
    daemon
}

#[test]
fn a_clone_and_what_comes_out_of_an_archive_are_all_that_the_volume_is() {
    if docker() {
        return;
    }
    let daemon = with_a_volume();
    let before = picture(&place(&daemon, "data"));
    assert!(before["./sparse"].contains("holes true"), "{}", before["./sparse"]);
    assert_eq!(daemon.ok(&["volume", "clone", "--label", "k=v", "data", "twin"]), "twin");
    assert_eq!(picture(&place(&daemon, "twin")), before);
    assert_eq!(daemon.ok(&["volume", "inspect", "-f", "{{.Labels}}", "twin"]), "map[k:v]");
    daemon.session(
        r#"
        $ hull volume export data >data.tar; hull volume export -o again.tar data; cmp data.tar again.tar; gzip -k data.tar
        $ hull volume import plain <data.tar; hull volume import packed data.tar.gz
        plain
        packed
        $ tar -tf data.tar | head -n 4
        ./
        ./a/
        ./a/b/
        ./a/b/f
        "#,
    );
    for volume in ["plain", "packed"] {
        assert_eq!(picture(&place(&daemon, volume)), before, "{volume}");
    }
    // A clone is its own: what is written to one is not in the other.
    daemon.session(
        r#"
        $ hull run --rm -v twin:/v busybox sh -c 'echo changed >/v/a/b/f'; hull run --rm -v data:/v:ro busybox cat /v/c/hard
        hello
        $ hull volume clone data twin 2>&1; hull volume clone nothing there 2>&1; hull volume clone data 'a/b' 2>/dev/null
        Error response from daemon: clone into twin: there is a volume of that name already
        Error response from daemon: get nothing: no such volume
        [1]
        $ hull volume rm data twin plain packed; ls -A $(dirname $(hull volume inspect -f '{{.Mountpoint}}' $(hull volume create rest)))/..
        data
        twin
        plain
        packed
        rest
        "#,
    );
}

#[test]
fn a_snapshot_is_taken_while_containers_stand_still_and_stays_as_it_is() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "writer",
        "-v",
        "data:/v",
        "busybox",
        "sh",
        "-c",
        "echo one >/v/f; sleep 600",
    ]);
    wait_until("the file is written", PATIENCE, || place(&daemon, "data").join("f").exists());
    assert_eq!(daemon.ok(&["volume", "snapshot", "data", "then"]), "then");
    daemon.session(
        r#"
        $ hull events --since 0 --until 0s --filter container=writer --format '{{.Action}}' | grep pause
        pause
        unpause
        $ hull exec writer sh -c 'echo two >/v/f'; hull run --rm -v then:/v busybox sh -c 'cat /v/f; echo >/v/new' 2>&1
        one
        sh: can't create /v/new: Read-only file system
        [1]
        $ hull create --name reader -v then:/etc busybox true; hull inspect -f '{{range .Mounts}}{{.RW}}{{end}}' reader
        <id>
        false
        $ hull create -v then:/etc:rw busybox true 2>&1 | grep WARN; hull create -v then:/etc busybox true 2>&1 | grep WARN
        WARNING: The volume then is a snapshot, to which nobody writes: /etc is read-only.
        [1]
        $ hull volume inspect -f '{{.Status.SnapshotOf}}' then
        data
        $ hull volume snapshot -q data | sed 's/[0-9]/N/g'
        data-NNNNNNNNTNNNNNN
        $ hull volume import then </dev/null 2>&1 | grep -o 'it is a snapshot, which stays as it is'
        it is a snapshot, which stays as it is
        $ hull volume clone -q then back; hull run --rm -v back:/v busybox sh -c 'cat /v/f; echo >/v/new'
        back
        one
        "#,
    );
}

#[test]
fn an_import_is_whole_or_nothing() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    let whole = Tar::new().file("a", b"a").file("b", b"b").finish();
    fs::write(daemon.dir().join("work/whole.tar"), &whole).expect("a file");
    fs::write(daemon.dir().join("work/cut.tar"), &whole[..whole.len() - 1024]).expect("a file");
    daemon.session(
        r#"
        $ hull volume import new cut.tar 2>&1 | grep -o 'it is truncated'; hull volume ls -q
        it is truncated
        $ hull volume create empty; hull volume import empty cut.tar 2>/dev/null; ls -A $(hull volume inspect -f '{{.Mountpoint}}' empty)
        empty
        $ hull volume import empty whole.tar; ls $(hull volume inspect -f '{{.Mountpoint}}' empty)
        empty
        a
        b
        $ hull volume import empty whole.tar 2>&1 | grep -o 'it is not empty'
        it is not empty
        $ hull run -d --name user -v empty:/v busybox sleep 600; hull volume import empty whole.tar 2>&1 | grep -o 'a container runs with it'
        <id>
        a container runs with it
        $ hull exec user sh -c 'echo mine >/v/c; echo changed >/v/a'; hull volume import --merge empty whole.tar; hull exec user sh -c 'cd /v; cat a b c'
        empty
        abmine
        "#,
    );
}

#[test]
fn an_import_that_is_refused_while_its_archive_comes_says_why() {
    if docker() {
        return;
    }
    private_network();
    let address = "tcp://127.0.0.1:2375";
    let daemon = Daemon::empty(Engine::Hull, &["-H", address]);
    daemon.ok(&["volume", "create", "full"]);
    fs::write(place(&daemon, "full").join("file"), "").expect("a file");
    // A line that is closed while something comes is reset by TCP, and an answer on it lost.
    for _ in 0..20 {
        let mut command = daemon.client(&["-H", address, "volume", "import", "full"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the client");
        let mut stdin = child.stdin.take().expect("its input");
        // The client goes away amid it, as it should.
        let feeds = std::thread::spawn(move || (0..60).all(|_| stdin.write_all(&[0; 1 << 20]).is_ok()));
        let said = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("import into full: it is not empty"), "{said}");
        feeds.join().expect("the feeder ends");
    }
}

/// An import that has unpacked the file `a` and waits for the rest of its archive.
fn begun_import(daemon: &Daemon, volume: &str) -> Child {
    let whole = Tar::new().file("a", &[7; 1 << 20]).file("b", &[7; 1 << 20]).finish();
    let mut command = daemon.client(&["volume", "import", volume]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the client");
    let stdin = child.stdin.as_mut().expect("its input");
    stdin.write_all(&whole[..(1 << 20) + (1 << 19)]).expect("the archive is taken");
    wait_until("it unpacks", PATIENCE, || place(daemon, volume).join("a").exists());
    child
}

/// Cuts it off; what it says.
fn cut_off(import: Child) -> String {
    let said = import.wait_with_output().expect("it ends");
    assert!(!said.status.success(), "{said:?}");
    String::from_utf8(said.stderr).expect("text")
}

#[test]
fn an_import_that_fails_takes_nothing_of_others_with_it() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["volume", "create", "own"]);
    let import = begun_import(&daemon, "own");
    let run = ["run", "--rm", "-v", "own:/v", "busybox", "sh", "-c", "echo precious >/v/mine; cat /v/mine"];
    let waits = "the volume own is being imported into; wait until that is done";
    for others in [&run[..], &["volume", "clone", "own", "twin"], &["volume", "import", "own"]] {
        let refused = daemon.hull(others);
        assert!(refused.stderr.contains(waits), "{refused:?}");
    }
    cut_off(import);
    assert_eq!(fs::read_dir(place(&daemon, "own")).expect("a folder").count(), 0);
    assert_eq!(daemon.ok(&run), "precious");

    // What a volume stands for is others' too, who do not ask this daemon.
    let host = daemon.dir().join("work/host");
    fs::create_dir(&host).expect("a folder");
    let device = format!("device={}", host.display());
    daemon.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "hosts"]);
    let import = begun_import(&daemon, "hosts");
    fs::write(host.join("mine"), "precious").expect("a file");
    let said = cut_off(import);
    assert!(said.contains("what was unpacked before stays in the volume hosts"), "{said}");
    assert!(host.join("mine").exists() && host.join("a").exists());
}

#[test]
fn a_daemon_that_is_killed_leaves_no_container_standing_still() {
    if docker() {
        return;
    }
    let mut daemon = Daemon::start();
    for name in ["held", "paused"] {
        daemon.ok(&["run", "-d", "--name", name, "-v", "data:/v", "busybox", "sleep", "600"]);
    }
    daemon.ok(&["pause", "paused"]);
    daemon.stop();
    daemon.set_environment(&[("HULL_FAULT", "die:volume clone: copied")]);
    daemon.begin();
    assert!(daemon.hull(&["volume", "snapshot", "data", "then"]).status != 0);
    daemon.kill();
    daemon.set_environment(&[]);
    daemon.begin();
    daemon.session(
        r#"
        $ hull inspect -f '{{.State.Status}}' held paused; hull exec held echo goes on; hull volume ls -q
        running
        paused
        goes on
        data
        $ hull unpause paused; hull exec paused echo as well
        paused
        as well
        $ hull pause held
        held
        "#,
    );
    // Whom a user pauses stays so, whatever held it before.
    daemon.kill();
    daemon.begin();
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "held"]), "paused");
}

#[test]
fn what_was_copied_is_on_the_disk_before_the_volume_is_there() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["volume", "create", "data"]);
    fs::write(place(&daemon, "data").join("f"), [7; 1 << 20]).expect("a file");
    // Whose blocks are not allocated yet are in memory alone, on file systems that tell so.
    daemon.session(
        r#"
        $ where() { hull volume inspect -f '{{.Mountpoint}}' $1; }
        $ hull volume clone -q data twin; filefrag -v $(where twin)/f | grep delalloc
        twin
        [1]
        $ hull volume snapshot -q data then; filefrag -v $(where then)/f | grep delalloc
        then
        [1]
        $ tar -C $(where data) -cf data.tar f; hull volume import new data.tar; filefrag -v $(where new)/f | grep delalloc
        new
        [1]
        "#,
    );
}

#[test]
fn a_label_s_snapshot_holds_no_others_still() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["volume", "create", "--label", "org.example.k=1", "own"]);
    let run = ["run", "-d", "-v", "own:/v"];
    daemon.ok(&[&run[..], &["--label", "org.example.k=1", "busybox", "sleep", "600"]].concat());
    daemon.ok(&[&run[..], &["--name", "other", "busybox", "sleep", "600"]].concat());
    let socket = daemon.dir().join("guarded.sock");
    let path = socket.to_str().expect("a path of plain letters");
    daemon.ok(&["system", "socket", "add", path, "label=org.example.k=1"]);
    let mut api = hull_tests::Client::new(&socket);
    let mut clone = |snapshot: bool, name: &str| {
        api.post("/volumes/own/clone", &json!({ "Name": name, "Snapshot": snapshot })).expect("an answer")
    };
    let refused = clone(true, "then");
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.message().contains("refused by the rule label"), "{}", refused.message());
    let paused = ["events", "--since", "0", "--until", "0s", "--filter", "event=pause"];
    assert_eq!(daemon.ok(&paused), "");
    assert_eq!(clone(false, "twin").status, 201, "a clone holds nobody");
    daemon.ok(&["rm", "-f", "other"]);
    assert_eq!(clone(true, "then").status, 201, "its own may stand still");
}

#[test]
fn an_archive_reaches_nothing_outside_the_volume() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    let target = daemon.dir().join("work/target");
    fs::create_dir(&target).expect("a folder");
    let link = target.display().to_string();
    let mut api = daemon.api();
    api.post("/volumes/create", &json!({ "Name": "v0" })).expect("an answer");
    for (number, (what, archive)) in [
        (
            "a link that leads out",
            Tar::new().entry(hull_tests::Kind::SymLink, "out", &link, &[]).file("out/x", b"x"),
        ),
        ("a path that leads out", Tar::new().file("../../../../work/target/x", b"x")),
        ("an absolute path", Tar::new().file(&format!("{link}/x"), b"x")),
        (
            "a hard link that leads out",
            Tar::new().entry(hull_tests::Kind::HardLink, "x", "../../../../data/id", &[]),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("v{number}x");
        api.post("/volumes/create", &json!({ "Name": name })).expect("an answer");
        let path = format!("/volumes/{name}/import");
        api.send("POST", &path, "application/x-tar", &archive.finish()).expect("an answer");
        assert_eq!(fs::read_dir(&target).expect("a folder").count(), 0, "{what}");
        let inside = picture(&place(&daemon, &name));
        assert!(
            !inside.values().any(|told| told.contains("-> ") && !told.contains(&link)),
            "{what}: {inside:?}"
        );
        assert!(!inside.contains_key("./x") || what == "an absolute path", "{what}: {inside:?}");
    }
}

#[test]
fn a_volume_of_the_host_s_files_is_a_bind_to_a_policy() {
    if docker() {
        return;
    }
    let daemon = Daemon::start();
    let bound = ["-o", "type=none", "-o", "o=bind", "-o", "device=/etc"];
    daemon.ok(&[&["volume", "create"], &bound[..], &["hosts"]].concat());
    daemon.ok(&["volume", "create", "--label", "org.example.k=1", "own"]);
    let socket = daemon.dir().join("guarded.sock");
    let path = socket.to_str().expect("a path of plain letters");
    daemon.ok(&["system", "socket", "add", path, "confined", "label=org.example.k=1"]);
    daemon.ok(&[
        "volume",
        "create",
        "--label",
        "org.example.k=1",
        "-o",
        "type=none",
        "-o",
        "o=bind",
        "-o",
        "device=/etc",
        "hosts-own",
    ]);
    let mut api = hull_tests::Client::new(&socket);
    let clone = |name: &str| json!({ "Name": name });
    for (method, part) in [("GET", "export"), ("POST", "clone"), ("POST", "import")] {
        let body = if part == "clone" { clone("x").to_string() } else { String::new() };
        let send = |api: &mut hull_tests::Client, volume: &str| {
            api.send(method, &format!("/volumes/{volume}/{part}"), "application/json", body.as_bytes())
                .expect("an answer")
        };
        assert_eq!(send(&mut api, "hosts").status, 404, "{part}: it does not carry the label");
        let refused = send(&mut api, "hosts-own");
        assert_eq!(refused.status, 403, "{part}: {}", refused.text());
        assert!(refused.message().contains("refused by the rule no-binds"), "{}", refused.message());
    }
    let made = api.post("/volumes/own/clone", &clone("mine")).expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["Labels"]["org.example.k"], "1");
    let taken = api.post("/volumes/own/clone", &clone("hosts")).expect("an answer");
    assert_eq!(taken.status, 403, "another's name: {}", taken.text());
}

#[test]
fn a_mount_of_a_volume_lasts_as_long_as_its_containers_whatever_becomes_of_the_daemon() {
    if docker() {
        return;
    }
    let mut daemon = Daemon::start();
    let scratch = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m"];
    daemon.ok(&[&["volume", "create"], &scratch[..], &["scratch"]].concat());
    let mounted = |daemon: &Daemon| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        mounts.contains(&place(daemon, "scratch").display().to_string())
    };
    assert!(!mounted(&daemon), "not before it is used");
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "one",
        "-v",
        "scratch:/v",
        "busybox",
        "sh",
        "-c",
        "echo kept >/v/f; sleep 600",
    ]);
    wait_until("the file is written", PATIENCE, || place(&daemon, "scratch").join("f").exists());
    daemon.kill();
    daemon.begin();
    assert_eq!(daemon.ok(&["run", "--rm", "-v", "scratch:/v", "busybox", "cat", "/v/f"]), "kept");
    assert!(mounted(&daemon), "the other container runs with it");
    let pid: i32 = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "one"]).parse().expect("a number");
    daemon.kill();
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is there");
    daemon.begin();
    wait_until("nobody uses it any more", PATIENCE, || !mounted(&daemon));
}

#[test]
fn what_is_mounted_read_only_stays_so_inside() {
    let daemon = Daemon::start();
    let folder = daemon.dir().join("work/files");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("file"), "text").expect("a file");
    let device = format!("device={}", folder.display());
    daemon.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind,ro", "-o", &device, "bound"]);
    let script = "cat /v/file; touch /v/new || echo refused";
    for volume in ["bound:/v", "bound:/v:rw"] {
        let output = daemon.hull(&["run", "--rm", "-v", volume, "busybox", "sh", "-c", script]);
        assert!(output.stdout.ends_with("refused\n"), "{volume}: {output:?}");
        assert!(output.stderr.contains("Read-only file system"), "{volume}: {output:?}");
    }
    // Nor is it written from outside, by way of a container that has it.
    daemon.ok(&["create", "--name", "has", "-v", "bound:/v", "busybox", "true"]);
    let copied = daemon.hull(&["cp", "/etc/hostname", "has:/v/new"]);
    assert!(copied.stderr.contains("mounted volume is marked read-only"), "{copied:?}");
    // What is read is what the container would see: the volume is mounted for it, and not any longer.
    let out = daemon.dir().join("work/out");
    daemon.ok(&["cp", "has:/v/file", out.to_str().expect("a path")]);
    assert_eq!(fs::read_to_string(&out).expect("it came"), "text");
    assert_eq!(fs::read_dir(place(&daemon, "bound")).expect("its folder").count(), 0);
    assert!(!folder.join("new").exists());
    // While it is used its place is a read-only mount of the host's, which a bind may be of as well.
    daemon.ok(&["run", "-d", "--name", "uses", "-v", "bound:/v", "busybox", "sleep", "600"]);
    let bind = format!("{}:/v", place(&daemon, "bound").display());
    let output = daemon.hull(&["run", "--rm", "-v", &bind, "busybox", "sh", "-c", script]);
    assert!(output.stdout.ends_with("refused\n"), "{output:?}");
    assert!(!folder.join("new").exists());
}

#[test]
fn what_the_kernel_lacks_is_told_by_name() {
    let daemon = Daemon::start();
    daemon.ok(&["volume", "create", "-o", "type=nosuchfs", "-o", "device=x", "va"]);
    let failed = daemon.hull(&["run", "--rm", "-v", "va:/v", "busybox", "true"]);
    assert!(failed.stderr.contains("failed to mount local volume"), "{}", failed.stderr);
    if docker() {
        return;
    }
    assert!(failed.stderr.contains("this kernel has no file system nosuchfs"), "{}", failed.stderr);
    // A password is in the options and in no error.
    let options = ["-o", "type=cifs", "-o", "device=//127.0.0.1/x", "-o", "o=username=u,password=hunter2"];
    daemon.ok(&[&["volume", "create"], &options[..], &["vb"]].concat());
    let failed = daemon.hull(&["run", "--rm", "-v", "vb:/v", "busybox", "true"]);
    assert!(failed.stderr.contains("password=********"), "{}", failed.stderr);
    assert!(!failed.stderr.contains("hunter2") && !daemon.log().contains("hunter2"), "{}", failed.stderr);
}
