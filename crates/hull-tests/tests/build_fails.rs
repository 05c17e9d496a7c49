//! Builds that fail: why is told, and nothing is left.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use hull_tests::{Census, Daemon, Engine, wait_until};

#[test]
fn mistakes_are_told_with_their_lines() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf 'FROM busybox\nFORM x\n' >ctx/Dockerfile; hull build ctx
        Error response from daemon: dockerfile parse error on line 2: unknown instruction: FORM (did you mean FROM?)
        Dockerfile:2:1
        --------------------
           1 |     FROM busybox
           2 | >>> FORM x
        --------------------
        [1]
        $ printf 'FROM busybox\nRUN echo said; exit 9\n' >ctx/Dockerfile; hull build --progress plain ctx 2>&1 | tail -8 | sed '/^$/d'
        #2 ERROR
        Dockerfile:2:1
        --------------------
           1 |     FROM busybox
           2 | >>> RUN echo said; exit 9
        --------------------
        failed to build: process "/bin/sh -c echo said; exit 9" did not complete successfully: exit code: 9
        $ for text in 'RUN true' 'FROM busybox\nCOPY --from=nowhere.invalid/x /a /b' 'FROM busybox\nCOPY missing /' 'FROM busybox\nCOPY ../../etc/passwd /p' 'FROM busybox\nADD https://e.invalid/x.git /g' 'FROM busybox\nRUN --network=host true' 'FROM busybox\nRUN --security=insecure true' 'FROM hull/host' ' '; do printf "$text" >ctx/Dockerfile; hull build ctx >/dev/null 2>why && echo built; grep -E 'response|failed' why | cut -c1-80; done
        Error response from daemon: dockerfile parse error on line 1: no build stage in
        failed to build: nowhere.invalid/x: failed to resolve source metadata: Get "http
        failed to build: COPY failed: file not found in build context or excluded by .do
        failed to build: COPY failed: forbidden path outside the build context: ../../et
        failed to build: failed to fetch the git repository https://e.invalid/x.git: Get
        failed to build: RUN --network=host: granting entitlement network.host is not al
        failed to build: RUN --security=insecure is not supported by hull yet: the entit
        failed to build: hull/host is this machine itself, which is no layer: nothing ca
        Error response from daemon: the Dockerfile (Dockerfile) cannot be empty
        "#,
    );
}

/// Sends an archive that is an attack and reads how it was answered.
fn attacked(daemon: &Daemon, make: &str) -> String {
    let script = format!(
        "rm -rf evil; mkdir evil; cd evil; printf 'FROM busybox\\nCOPY . /c/\\n' >Dockerfile; {make} | hull build -q - 2>&1"
    );
    let output = daemon.command("sh").args(["-c", &script]).output().expect("a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_hostile_context_reaches_nothing_outside() {
    let daemon = Daemon::start();
    let outside = daemon.dir().join("work/outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("secret"), "of the host").expect("a file");
    // Names that lead up, and a link through which the next entry would be written.
    attacked(&daemon, "ln -s ../outside link; tar -c -P --transform='s|^x|../../outside/x|' Dockerfile link");
    attacked(
        &daemon,
        "ln -s ../outside link; tar -cf ../a.tar Dockerfile link; rm link; mkdir link; echo x >link/written; tar -rf ../a.tar link/written; cat ../a.tar",
    );
    assert!(
        !outside.join("written").exists() && std::fs::read_dir(&outside).expect("the folder").count() == 1
    );
    let told = attacked(&daemon, "mknod device c 1 1; tar -c Dockerfile device");
    assert!(told.contains("devices are not taken"), "{told}");
    // A link to what the host has, copied by its name: what it leads to is looked for in the context.
    let link = format!(
        "printf 'FROM busybox\\nCOPY link /c\\n' >Dockerfile; ln -s {} link; tar -c Dockerfile link",
        outside.join("secret").display()
    );
    let told = attacked(&daemon, &link);
    assert!(told.contains("file not found in build context"), "{told}");
    let mount = format!(
        "printf 'FROM busybox\\nRUN --mount=source=link,target=/m cat /m/secret\\n' >Dockerfile; ln -s {} link; tar -c Dockerfile link",
        outside.display()
    );
    let told = attacked(&daemon, &mount);
    assert!(told.contains("not found"), "{told}");
    // A link in the image leads nowhere outside of it, either.
    let through = format!(
        "printf 'FROM busybox\\nRUN ln -s {} /l\\nCOPY Dockerfile /l/\\n' >Dockerfile; tar -c Dockerfile",
        outside.display()
    );
    attacked(&daemon, &through);
    assert_eq!(std::fs::read_dir(&outside).expect("the folder").count(), 1);
}

fn steps(daemon: &Daemon) -> usize {
    daemon.ok(&["ps", "-aq"]).lines().count()
}

/// What is in the folders of builds that go on.
fn left(daemon: &Daemon) -> usize {
    ["data/build/tmp", "exec/build", "data/image/tmp"]
        .iter()
        .map(|folder| std::fs::read_dir(daemon.dir().join(folder)).map_or(0, Iterator::count))
        .sum()
}

#[test]
fn a_client_that_goes_away_ends_its_build() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let daemon = Daemon::start();
    let patience = Duration::from_secs(30);
    // What the first container and the first build make for good.
    daemon.session("$ printf 'FROM busybox\\nRUN true\\n' | hull build -q - >/dev/null\n");
    let mut before = daemon.census();
    wait_until("the first build is cleared up", patience, || {
        let counted = std::mem::replace(&mut before, daemon.census());
        counted == before && steps(&daemon) == 0 && left(&daemon) == 0
    });
    let mut client = daemon.client(&["build", "-"]);
    let mut client = client.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the client");
    let file = "FROM busybox AS a\nRUN sleep 1000\nFROM busybox\nCOPY --from=a / /a\nRUN sleep 1000\n";
    client.stdin.take().expect("its input").write_all(file.as_bytes()).expect("it reads");
    wait_until("a step runs", patience, || !daemon.ok(&["ps", "-q"]).is_empty());
    client.kill().and_then(|()| client.wait()).expect("it ends");
    wait_until("its steps are gone", patience, || steps(&daemon) == 0 && left(&daemon) == 0);
    wait_until("nothing is left", patience, || {
        let Census { mounts, interfaces, cgroups, firewall, files, processes, descriptors } = daemon.census();
        // What was still going away when it was counted first does not come back.
        mounts <= before.mounts
            && interfaces <= before.interfaces
            && cgroups <= before.cgroups
            && firewall <= before.firewall
            // But for its log, which is kept.
            && files <= before.files + 1
            && processes <= before.processes
            && descriptors <= before.descriptors
    });
}

#[test]
fn a_build_is_cancelled_by_its_name() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let daemon = Daemon::start();
    let tar = daemon
        .command("sh")
        .args(["-c", "mkdir c; printf 'FROM busybox\\nRUN sleep 1000\\n' >c/Dockerfile; tar -C c -c ."])
        .output()
        .expect("an archive")
        .stdout;
    let begin = || {
        let mut socket = UnixStream::connect(daemon.socket()).expect("the daemon");
        let head = format!(
            "POST /build?buildid=mine&nocache=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
            tar.len()
        );
        socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(&tar)).expect("it is sent");
        socket
    };
    let running = |count: usize| daemon.ok(&["ps", "-q"]).lines().count() == count;
    let mut first = begin();
    wait_until("the step runs", Duration::from_secs(30), || running(1));
    // Another of that name is another build: its end leaves the first one's name alone.
    let second = begin();
    wait_until("both steps run", Duration::from_secs(30), || running(2));
    drop(second);
    wait_until("the second one is gone", Duration::from_secs(30), || running(1));
    // Of another socket it is nobody's.
    let confined = daemon.dir().join("confined.sock");
    daemon.ok(&["system", "socket", "add", &confined.display().to_string(), "confined"]);
    let asked = daemon
        .command("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "--unix-socket"])
        .arg(&confined)
        .arg("http://x/build/cancel?id=mine")
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&asked.stdout), "200");
    first.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
    let mut told = String::new();
    let heard = std::io::Read::read_to_string(&mut first, &mut told);
    assert!(heard.is_err() && running(1), "a confined socket has ended it: {told}");
    first.set_read_timeout(None).expect("no limit");
    assert_eq!(daemon.api().post_empty("/build/cancel?id=mine").expect("an answer").status, 200);
    std::io::Read::read_to_string(&mut first, &mut told).expect("the answer's end");
    assert!(told.contains("the build was cancelled"), "{told}");
    wait_until("its step is gone", Duration::from_secs(30), || steps(&daemon) == 0);
}

#[test]
fn a_daemon_that_dies_amid_a_build_leaves_nothing() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.session(
        "$ mkdir ctx; printf 'FROM busybox\\nRUN echo kept >/k\\nRUN sleep 1000\\n' >ctx/Dockerfile\n",
    );
    let mut client = daemon.client(&["build", "ctx"]);
    let mut client = client.stderr(Stdio::null()).spawn().expect("the client");
    wait_until("the last step runs", Duration::from_secs(30), || {
        daemon.ok(&["ps", "--no-trunc", "--format", "{{.Command}}"]).contains("sleep")
    });
    daemon.kill();
    client.wait().expect("it ends");
    daemon.begin();
    wait_until("its step is gone", Duration::from_secs(30), || steps(&daemon) == 0 && left(&daemon) == 0);
    daemon.session(
        r#"
        $ printf 'FROM busybox\nRUN echo kept >/k\nRUN cat /k\n' >ctx/Dockerfile; hull build --progress plain ctx 2>&1 | grep -c CACHED
        1
        "#,
    );
}

#[test]
fn what_a_socket_refuses_to_containers_it_refuses_to_builds() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ printf 'FROM busybox\nRUN true\n' >Dockerfile; hull system socket add $PWD/p.sock no-host-namespaces >/dev/null
        $ hull -H unix://$PWD/p.sock build -q . >/dev/null
        $ hull -H unix://$PWD/p.sock build -q --network host . 2>&1 | grep -c 'refused by the rule no-host-namespaces'
        1
        "#,
    );
}

#[test]
fn pruning_takes_no_step_of_a_build_that_goes_on() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    // The first stage's files are held by a container that never runs, while the step that copies from it waits.
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox AS a' 'RUN echo a >/a' 'FROM busybox' 'COPY --from=a /a /a' 'RUN --mount=type=cache,id=go,target=/g until test -e /g/go; do usleep 1000; done' 'COPY --from=a /a /b' >ctx/Dockerfile
        $ hull build -q -t pruned ctx >id & eventually sh -c 'hull ps -a --format "{{.State}}" | grep running'; hull container prune -f >/dev/null; hull ps -a --format '{{.State}}' | sort
        running
        $ printf 'FROM busybox\nRUN --mount=type=cache,id=go,target=/g touch /g/go\n' | hull build -q - >/dev/null; wait; cat id; hull run --rm pruned cat /a /b
        sha256:<id>
        a
        a
        "#,
    );
}

#[test]
fn variables_that_double_with_each_line_are_refused_with_their_line() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; { echo FROM busybox; echo ENV a0=0123456789abcdef; for n in $(seq 40); do echo "ENV a$n=\$a$((n - 1))\$a$((n - 1))"; done; } >ctx/Dockerfile; hull build ctx 2>&1 | grep -o 'Dockerfile:1[0-9]\|the variables of the image come to [0-9]* bytes' | sort -u
        Dockerfile:17
        the variables of the image come to 1048623 bytes
        $ sed -i s/ENV/ARG/ ctx/Dockerfile; hull build ctx 2>&1 | grep -o 'Dockerfile:1[0-9]\|the arguments of the stage come to [0-9]* bytes' | sort -u
        Dockerfile:18
        the arguments of the stage come to 2097136 bytes
        $ { echo FROM busybox; echo "ENV a=$(head -c 100000 /dev/zero | tr '\0' x)"; for n in $(seq 90); do echo 'LABEL a=$a$a$a$a$a$a$a$a$a$a'; done; } >ctx/Dockerfile; hull build ctx 2>&1 | grep -c 'the image.s configuration comes to 9[0-9]* bytes: with more than 8388608 it could not be pulled again'
        1
        $ { echo FROM busybox; echo "ENV a=$(head -c 100000 /dev/zero | tr '\0' x)"; echo 'COPY $a $a $a $a $a $a $a $a $a $a $a /x/'; } >ctx/Dockerfile; hull build ctx 2>&1 | grep -o 'Dockerfile:3\|the values of its variables come to more than 1048576 bytes' | sort -u
        Dockerfile:3
        the values of its variables come to more than 1048576 bytes
        "#,
    );
}
