//! `hull ns`: namespaces for programs of the host, and those of containers.

use std::process::Stdio;
use std::time::Duration;

use hull_tests::{Census, Daemon, PATIENCE, wait_until};

#[test]
fn one_some_and_all() {
    Daemon::start().session(
        r#"
        $ hull ns run --net -- sh -c 'tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d " "'
        lo
        $ [ "$(hull ns run --net -- readlink /proc/self/ns/pid)" = "$(readlink /proc/self/ns/pid)" ]
        $ hull ns run --uts --hostname test -- hostname
        test
        $ [ "$(hostname)" != test ]
        $ hull ns run --pid --mount -- sh -c 'ps -ef >/dev/null; echo $$'
        1
        $ hull ns run -mnup -- sh -c 'echo $$; exit 5'
        1
        [5]
        $ hull ns run -r -- sh -c 'id -u; tr -s " " </proc/self/uid_map'
        0
         0 0 1
        $ hull ns run --map-users 0:0:1 --map-users 1:100000:65535 --map-groups 0:0:1 -- tr -s ' ' </dev/null
        $ [ "$(hull ns run --time --boottime 1000000 -- cut -d. -f1 /proc/uptime)" -gt 1000000 ]
        $ hull ns run -m --wd /tmp -- pwd
        /tmp
        $ hull ns run -m --root / --setuid 65534 --setgid 65534 -- id -u
        65534
        "#,
    );
}

#[test]
fn what_cannot_be_is_told() {
    Daemon::start().session(
        r#"
        $ hull ns run -p -- nope 2>&1 | head -n 1
        hull: exec "nope": no such file or directory: there is no such program in PATH
        $ hull ns run -p -- nope 2>/dev/null
        [127]
        $ hull ns run -p -- /etc/passwd 2>/dev/null
        [126]
        $ hull ns run --flavour -- true 2>&1 | head -n 1
        unknown flag: --flavour
        $ hull ns run --hostname x -- true 2>&1 | head -n 1
        hull: --hostname: it needs a uts namespace of its own: say --uts as well
        $ hull ns enter --all 4194303 -- true
        4194303: no such process, or it is gone
        [125]
        $ hull ns enter nobody -- true
        nobody: no such container
        [125]
        $ hull ns enter -- true 2>/dev/null
        [125]
        $ hull ns pids 4194303 2>/dev/null
        [125]
        $ hull oci >/dev/full
        [1]
        "#,
    );
}

#[test]
fn without_a_daemon_none_is_started() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let output = daemon.hull(&["ns", "run", "-u", "--", "true"]);
    assert_eq!(output.status, 0, "{output:?}");
    assert!(daemon.ok(&["ns", "ls"]).contains("mnt"));
    let nobody = daemon.hull(&["ns", "enter", "web", "--", "true"]);
    assert_eq!(nobody.status, 125);
    assert_eq!(nobody.stderr.trim_end(), "web: no such container: no daemon runs that knows names");
    assert!(!daemon.socket().exists() || std::os::unix::net::UnixStream::connect(daemon.socket()).is_err());
}

#[test]
fn a_container_s_namespaces() {
    Daemon::start().session(
        r#"
        $ hull run -d --name web busybox sh -c 'exec httpd -f -p 80 -h /'
        <id>
        $ [ "$(hull ns enter --uts --net "$(hull inspect -f '{{.State.Pid}}' web)" -- hostname)" = "$(hull exec web hostname)" ]
        $ hull ns enter --pid --mount-proc web -- ps -e -o pid,comm | grep httpd | tr -s ' '
         1 httpd
        $ hull ns enter -t web --net -- sh -c 'tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d " " | sort | tr "\n" " "'
        eth0 lo 
        $ hull ns enter web -- /bin/ls -d /etc/passwd
        /etc/passwd
        $ echo 'echo $0; cat /proc/1/comm' | SHELL=/no/such/shell hull ns enter web
        /bin/sh
        httpd
        $ hull ns enter web -- python3 2>&1 | head -n 1
        exec "python3": no such file or directory: there is no such program in those files; without --mount the host's are used
        $ hull ns pids web --json | jq -c '[length, .[-1].pid, .[-1].level]'
        [2,1,1]
        $ hull ns ls | awk '$6 == "web" { print $1 }' | tr '\n' ' '
        mnt uts ipc net pid cgroup 
        $ hull ns ls --json | jq '[.[] | select(.host) | .type] | unique | length'
        8
        $ hull ns ls --type flavour 2>&1 | head -n 1
        hull: --type flavour: there are mnt, uts, ipc, net, pid, user, cgroup, time
        "#,
    );
}

#[test]
fn namespaces_nest() {
    let daemon = Daemon::start();
    let inner = "hull ns run -mnup -- bash -c 'exec -a nested-by-hand sleep 421' & wait";
    let mut outer = daemon.client(&["ns", "run", "-mnup", "--", "bash", "-c", inner]);
    let mut outer = outer.stdout(Stdio::null()).spawn().expect("the client is executed");
    let find = || {
        let found = daemon.command("pgrep").args(["-f", "^nested-by-hand"]).output().expect("pgrep");
        String::from_utf8_lossy(&found.stdout).trim().to_owned()
    };
    wait_until("the inner program runs", Duration::from_secs(20), || !find().is_empty());
    let pid = find();
    let ids: serde_json::Value =
        serde_json::from_str(&daemon.ok(&["ns", "pids", &pid, "--json"])).expect("JSON");
    let ids = ids.as_array().expect("a list");
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert_eq!((ids[0]["pid"].to_string(), &ids[2]["pid"]), (pid.clone(), &serde_json::json!(1)));
    daemon.command("kill").args(["-KILL", &pid]).status().expect("kill");
    assert!(outer.wait().expect("it ends").code().is_some());
}

#[test]
fn who_enters_a_user_namespace_is_root_there() {
    let daemon = Daemon::start();
    let maps = ["--map-users", "0:100000:65536", "--map-groups", "0:100000:65536"];
    let mut words = vec!["ns", "run", "-p", "-m"];
    words.extend(maps);
    words.extend(["--", "sh", "-c", "sleep 300 & echo $!; wait"]);
    let mut holder = daemon.client(&words);
    let mut holder = holder.stdout(Stdio::piped()).spawn().expect("the client is executed");
    let mut line = String::new();
    let output = holder.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
    let children =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", holder.id())).expect("children");
    let inside = children.trim();
    let entered = |more: &[&str]| {
        let mut words = vec!["ns", "enter", "--user", "--pid", inside];
        words.extend(more);
        words.extend(["--", "id", "-u"]);
        daemon.ok(&words)
    };
    assert_eq!(entered(&[]), "0");
    assert_eq!(entered(&["--preserve-credentials"]), "65534");
    assert_eq!(entered(&["--setuid", "33", "--setgid", "33"]), "33");
    daemon.command("kill").args(["-KILL", inside]).status().expect("kill");
    assert_eq!(holder.wait().expect("it ends").code(), Some(137));
}

#[test]
fn signals_are_handed_on() {
    let daemon = Daemon::start();
    let script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut program = daemon.client(&["ns", "run", "-p", "--", "bash", "-c", script]);
    let mut program = program.stdout(Stdio::piped()).spawn().expect("the client is executed");
    let mut output = std::io::BufReader::new(program.stdout.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    assert_eq!(line, "ready\n");
    daemon.command("kill").args(["-TERM", &program.id().to_string()]).status().expect("kill");
    assert_eq!(program.wait().expect("it ends").code(), Some(3));
    line.clear();
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    assert_eq!(line, "got it\n");
}

#[test]
fn the_terminal_is_the_program_s() {
    let daemon = Daemon::start();
    let mut terminal = daemon.pty(&["ns", "run", "-mp", "--", "bash", "--norc", "-i"]);
    terminal.types("tty; echo $$-$((6*7))\n");
    terminal.shows("1-42");
    terminal.types("exit 9\n");
    assert_eq!(terminal.ends().1, 9);
}

#[test]
fn a_program_of_the_host_on_a_network_of_containers() {
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ hull network create front
        <id>
        $ hull run -d --name web --network front busybox sh -c 'echo hello >/index.html; exec httpd -f -p 80 -h /'
        <id>
        $ hull ns run --net=front -- busybox wget -qO- http://web/
        hello
        $ hull ns run --net=front --uts --hostname teller -- sh -c 'grep -c teller /etc/hosts; cat /etc/resolv.conf | grep nameserver'
        1
        nameserver 127.0.0.11
        $ grep -c teller /etc/hosts
        0
        [1]
        $ hull ns run --net=front -- sh -c 'exit 4'
        [4]
        $ hull ns run --net=nowhere -- true 2>&1 | head -n 1
        hull: Error response from daemon: network nowhere not found
        $ hull ns run --net=host -- true 2>&1 | head -n 1
        hull: Error response from daemon: network host has no addresses to be given: a namespace alone is --net
        "#,
    );
    // Its name is known to others, it counts as being on the network, and its place is given back.
    let script = "echo ready; exec sleep 300";
    let words = ["ns", "run", "--net=front", "--uts", "--hostname", "teller", "--", "sh", "-c", script];
    let mut program = daemon.client(&words);
    let mut program = program.stdout(Stdio::piped()).spawn().expect("the client is executed");
    let mut output = std::io::BufReader::new(program.stdout.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    daemon.session(
        r#"
        $ hull exec web ping -c 1 -W 2 teller | grep -c '1 packets received'
        1
        $ hull network inspect -f '{{range .Containers}}{{println .Name}}{{end}}' front | sort | tr '\n' ' '
         teller web 
        $ hull network rm front 2>&1 | grep -c 'has active endpoints'
        1
        "#,
    );
    program.kill().and_then(|()| program.wait()).expect("it is killed");
    line.clear();
    std::io::BufRead::read_line(&mut output, &mut line).expect("the program dies with its parent");
    wait_until("the place is given back", Duration::from_secs(10), || {
        daemon.ok(&["network", "inspect", "-f", "{{len .Containers}}", "front"]) == "1"
    });
}

#[test]
fn an_image_s_files_and_all_else_the_host_s() {
    let daemon = Daemon::start();
    // From its first network on the daemon keeps a namespace ready, so its descriptors are not compared.
    let census = || Census { descriptors: 0, ..daemon.census() };
    let before = census();
    daemon.session(
        r#"
        $ hull ns run --root busybox -- sh -c 'echo changed >/etc/passwd; ls /bin/busybox /proc/self/exe; ls -d /dev/null /sys/kernel'
        /bin/busybox
        /proc/self/exe
        /dev/null
        /sys/kernel
        $ hull ns run --root busybox -- grep -c root /etc/passwd
        1
        $ [ "$(hull ns run --root busybox -- readlink /proc/self/ns/net)" = "$(readlink /proc/self/ns/net)" ]
        $ hull ns run --root busybox --pid -- sh -c 'echo $$; ls -d /proc/[0-9]* | head -n 1'
        1
        /proc/1
        $ hull ns run --root busybox --setuid 65534 --wd /tmp -- sh -c 'id -u; pwd'
        65534
        /tmp
        $ hull ns run --root busybox -- bash 2>&1 | head -n 1
        hull: exec "bash": no such file or directory: there is no such program in PATH
        $ hull ns run --root nothing:1 -- true 2>&1 | head -n 1
        hull: Error response from daemon: No such image: nothing:1
        $ hull ps -aq
        $ hull network create front
        <id>
        $ hull run -d --name web --network front busybox sh -c 'echo hello >/index.html; exec httpd -f -p 80 -h /'
        <id>
        $ hull ns run --root busybox --net=front -p -- sh -c 'wget -qO- http://web/; echo $$'
        hello
        1
        $ hull rm -f web
        web
        $ hull network rm front
        front
        "#,
    );
    wait_until("nothing is left", Duration::from_secs(10), || census() == before);
}

/// What is written to the container's files is nobody's when its program is gone: a killed command leaves nothing, whether
/// the daemon sees that, has come back meanwhile, or is not there.
#[test]
fn an_image_s_files_go_with_a_command_that_is_killed() {
    let mut daemon = Daemon::start();
    let layers = daemon.dir().to_string_lossy().into_owned();
    let mounts = || {
        let tables = std::fs::read_dir("/proc").expect("/proc").flatten();
        let tables = tables.filter_map(|entry| std::fs::read_to_string(entry.path().join("mountinfo")).ok());
        tables
            .filter(|table| table.lines().any(|line| line.contains(" / / ") && line.contains(&layers)))
            .count()
    };
    let begin = |daemon: &Daemon| {
        let words =
            ["ns", "run", "--root", "busybox", "--", "sh", "-c", "echo new >/file; echo up; exec sleep 300"];
        let program = daemon.client(&words).stdout(Stdio::piped()).spawn();
        let mut program = program.expect("the client is executed");
        let mut output = std::io::BufReader::new(program.stdout.take().expect("a pipe"));
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
        assert_eq!(line, "up\n");
        assert_eq!(daemon.ok(&["ps", "-aq"]).lines().count(), 1);
        assert!(mounts() > 0, "the files are mounted");
        // One that is somebody's is not pruned.
        daemon.ok(&["container", "prune", "-f"]);
        assert_eq!(daemon.ok(&["ps", "-aq"]).lines().count(), 1);
        program
    };
    let census = |daemon: &Daemon| Census { descriptors: 0, ..daemon.census() };
    let before = census(&daemon);
    for absent in ["nobody", "for a while", "at the end"] {
        let mut program = begin(&daemon);
        if absent != "nobody" {
            daemon.kill();
        }
        if absent == "for a while" {
            daemon.begin();
        }
        program.kill().and_then(|()| program.wait()).expect("it is killed");
        if absent == "at the end" {
            daemon.begin();
        }
        let gone = || daemon.ok(&["ps", "-aq"]).is_empty() && mounts() == 0;
        wait_until(&format!("the container and its mounts are gone, daemon away: {absent}"), PATIENCE, gone);
    }
    wait_until("nothing is left", PATIENCE, || census(&daemon) == before);
}

#[test]
fn a_place_on_a_network_outlives_the_daemon() {
    let mut daemon = Daemon::start();
    daemon.ok(&["network", "create", "front"]);
    let page = "echo hello >/index.html; exec httpd -f -p 80 -h /";
    daemon.ok(&["run", "-d", "--name", "web", "--network", "front", "busybox", "sh", "-c", page]);
    let script = "hostname -i; read -r _; wget -qO- http://web/; read -r _";
    let words =
        ["ns", "run", "--net=front", "--root", "busybox", "--hostname", "teller", "-u", "--", "sh", "-c"];
    let mut program = daemon.client(&[&words[..], &[script]].concat());
    let program = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut program = program.expect("the client is executed");
    let mut output = std::io::BufReader::new(program.stdout.take().expect("a pipe"));
    let mut input = program.stdin.take().expect("a pipe");
    let mut line = move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
        line.trim_end().to_owned()
    };
    let address = line();
    daemon.kill();
    daemon.begin();
    // Nobody else gets its address, others find it by its name, and it finds them.
    let names = daemon.ok(&[
        "run",
        "--rm",
        "--network",
        "front",
        "busybox",
        "sh",
        "-c",
        "hostname -i; ping -c1 teller",
    ]);
    assert!(
        !names.starts_with(&format!("{address}\n")) && names.contains(&format!("({address})")),
        "{names}"
    );
    std::io::Write::write_all(&mut input, b"go on\n").expect("it reads");
    assert_eq!(line(), "hello");
    std::io::Write::write_all(&mut input, b"end\n").expect("it reads");
    assert_eq!(program.wait().expect("it ends").code(), Some(0));
    // The place is given back, and so are its files.
    wait_until("the place is given back", Duration::from_secs(10), || {
        daemon.ok(&["network", "inspect", "-f", "{{len .Containers}}", "front"]) == "1"
    });
    assert_eq!(
        daemon.ok(&["ps", "-aq", "--filter", "name=web", "--no-trunc"]),
        daemon.ok(&["ps", "-aq", "--no-trunc"])
    );
    assert_eq!(std::fs::read_dir(daemon.dir().join("exec/places")).expect("the places").count(), 0);
}

#[test]
fn a_place_is_whose_process_asks_whatever_it_says() {
    let daemon = Daemon::start();
    daemon.ok(&["network", "create", "front"]);
    let url = "http://hull/networks/front/namespace?pid=1";
    let mut curl = daemon.command("curl");
    curl.args(["-sf", "-X", "POST", "--unix-socket"]).arg(daemon.socket()).arg(url);
    let taken = curl.output().expect("curl");
    assert!(taken.status.success(), "{taken:?}");
    // Were it process 1's, it would be taken for ever.
    wait_until("the place is given back", Duration::from_secs(10), || {
        daemon.hull(&["network", "rm", "front"]).status == 0
    });
}

#[test]
fn names_of_others_do_not_reach_a_terminal_as_they_are() {
    let daemon = Daemon::start();
    let mut outer =
        daemon.client(&["ns", "run", "-u", "--", "bash", "-c", "exec -a $'evil\\e[2J\\u202e' sleep 300"]);
    let mut outer = outer.spawn().expect("the client is executed");
    let list = || daemon.ok(&["ns", "ls", "--type", "uts", "--no-trunc"]);
    wait_until("it is listed", Duration::from_secs(10), || list().contains("evil"));
    let listed = list();
    assert!(!listed.contains(['\u{1b}', '\u{202e}']), "{listed:?}");
    outer.kill().expect("it is killed");
    outer.wait().expect("it ends");
}

#[test]
fn a_process_that_has_ended_is_not_entered() {
    let daemon = Daemon::start();
    // Nobody waits for it: its id is still there, its namespaces are not, and the caller's are not meant.
    let mut ended = daemon.command("true").spawn().expect("true");
    let pid = ended.id().to_string();
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
    wait_until("it has ended", Duration::from_secs(10), || state().contains(") Z "));
    for kinds in [&[][..], &["--user"], &["--net", "--mount"]] {
        let mut words = vec!["ns", "enter"];
        words.extend(kinds);
        words.extend([pid.as_str(), "--", "echo", "among the host's"]);
        let entered = daemon.hull(&words);
        assert_eq!((entered.stdout.as_str(), entered.status), ("", 125), "{entered:?}");
        assert!(entered.stderr.contains("or it is gone"), "{entered:?}");
    }
    ended.wait().expect("it ended");
}

#[test]
fn who_is_not_root_maps_others_by_the_helpers() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt as _;
    // Helpers that tell what they were asked, in the host's place, and a binary that nobody may execute.
    let folder =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir_in("/tmp");
    let folder = folder.expect("a folder");
    for helper in ["newuidmap", "newgidmap"] {
        let path = folder.path().join(helper);
        std::fs::write(&path, "#!/bin/sh\nshift\necho \"${0##*/} was asked: $*\" >&2\nexit 1\n")
            .expect("a helper");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    let hull = folder.path().join("hull");
    std::fs::copy(hull_tests::hull_binary(), &hull).expect("the binary");
    let run = |path: &str| {
        let mut command = std::process::Command::new(&hull);
        command.args(["ns", "run", "--map-users", "0:65534:1", "--map-users", "1:100000:10", "--", "true"]);
        command.current_dir("/").env_clear().env("PATH", path).uid(65_534).gid(65_534);
        let output = command.output().expect("it is executed");
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = run(&format!("{}:/usr/bin:/bin", folder.path().display()));
    assert!(told.contains("newuidmap was asked: 0 65534 1 1 100000 10"), "{told}");
    let without = run("/nowhere");
    assert!(without.contains("uidmap package"), "{without}");
}
