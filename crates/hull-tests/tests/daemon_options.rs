//! The daemon's own options, and daemons side by side.

use hull_tests::{Daemon, Engine, wait_until};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

fn only_hull() -> bool {
    Engine::under_test() == Engine::Hull
}

#[test]
fn two_daemons_side_by_side() {
    if !only_hull() {
        return;
    }
    let (one, other) = (Daemon::start(), Daemon::start());
    for (daemon, port) in [(&one, "3001"), (&other, "3002")] {
        let publish = format!("127.0.0.1:{port}:80");
        daemon.ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            &publish,
            "busybox",
            "sh",
            "-c",
            "echo $HOSTNAME >/index.html; exec httpd -f -p 80 -h /",
        ]);
        daemon.session(&format!(
            r#"
            $ eventually curl -sf http://127.0.0.1:{port}/; test "$(curl -sf --max-time 2 http://127.0.0.1:{port}/)" = "$(hull inspect -f '{{{{.Config.Hostname}}}}' web)"
            $ hull ps --format '{{{{.Names}}}}'
            web
            "#
        ));
    }
    one.ok(&["rm", "-f", "web"]);
    drop(one);
    other.session(
        r#"
        $ curl -sf --max-time 2 -o page http://127.0.0.1:3002/; curl -sf --max-time 1 http://127.0.0.1:3001/
        [7]
        $ hull run --rm busybox echo still
        still
        "#,
    );
}

#[test]
fn options_are_seen_in_info() {
    if !only_hull() {
        return;
    }
    let daemon = Daemon::with(&[
        "--label",
        "a=b",
        "--log-driver",
        "local",
        "--default-ulimit",
        "nofile=123:456",
        "--dns",
        "192.0.2.7",
    ]);
    daemon.session(
        r#"
        $ hull info --format '{{json .Labels}} {{.LoggingDriver}} {{.DockerRootDir}}'
        ["a=b"] local <dir>/data
        $ hull run --rm busybox sh -c 'ulimit -Sn; ulimit -Hn'
        123
        456
        $ hull run --rm busybox grep nameserver /etc/resolv.conf
        nameserver 192.0.2.7
        $ hull create --name box busybox true >/dev/null; hull inspect -f '{{.HostConfig.LogConfig.Type}}' box
        local
        "#,
    );
    let mode = std::fs::metadata(daemon.socket()).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let pid = std::fs::read_to_string(daemon.dir().join("daemon.pid")).expect("the pidfile");
    assert_eq!(pid.trim(), daemon.pid().to_string());
}

#[test]
fn what_the_daemon_refuses() {
    if !only_hull() {
        return;
    }
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ start() { timeout 20 hull daemon --pidfile $PWD/p -H unix://$PWD/s $(case "$*" in *-root*) ;; *) echo --data-root $PWD/d --exec-root $PWD/e ;; esac) "$@"; }
        $ echo '{"no-such-key": 1}' >config; start --config config 2>&1 | grep -o 'no-such-key' | head -n 1
        no-such-key
        $ echo '{"labels": "text"}' >config; start --config config >/dev/null 2>&1
        [1]
        $ echo '{"debug": true, "labels": ["a=b"]}' >config; start --config config --label c=d 2>&1
        hull daemon: unable to configure the daemon with file config: the following directives are specified both as a flag and in the configuration file: labels: (from flag: c=d, from file: ["a=b"])
        [1]
        $ echo regular >file; start -H unix://$PWD/file 2>&1 | grep -o 'file is there.*'; cat file
        file is there, and is no socket
        regular
        $ start --data-root ../data --exec-root $PWD/e 2>&1 | grep -o 'another daemon has the data root'
        another daemon has the data root
        $ start --exec-root ../exec --data-root $PWD/d 2>&1 | grep -o 'another daemon has the exec root'
        another daemon has the exec root
        $ start -H tcp://0.0.0.0:2375 2>&1 | grep -c 0.0.0.0
        1
        $ start --no-such-flag >/dev/null 2>&1; test $? != 0
        $ start --bip 10.0.0.1/99 >/dev/null 2>&1
        [1]
        $ start --storage-driver no-such >/dev/null 2>&1
        [1]
        $ timeout 20 hull daemon --data-root ../data --exec-root ../exec --pidfile ../daemon.pid -H unix://$PWD/s >/dev/null 2>&1
        [1]
        $ hull run --rm busybox echo 'the first still serves'
        the first still serves
        "#,
    );
}

#[test]
fn tcp_on_loopback() {
    if !only_hull() {
        return;
    }
    let daemon = Daemon::with(&["-H", "tcp://127.0.0.1:23750"]);
    daemon.session(
        r#"
        $ curl -sf --max-time 2 http://127.0.0.1:23750/_ping; echo
        OK
        $ hull -H tcp://127.0.0.1:23750 run --rm busybox echo over tcp
        over tcp
        "#,
    );
}

#[test]
fn the_client_starts_the_default_daemon_and_stops_it() {
    if !only_hull() {
        return;
    }
    // Its folders are private to a mount namespace, so that the machine's own daemon is never meant.
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ cat >inside <<'E'
        > mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib || exit 99
        > unset HULL_HOST DOCKER_HOST
        > hull ps -q && echo started && test -S /run/hull/hull.sock || exit 98
        > hull run --rm hull/host echo ran
        > hull system stop >/dev/null && echo stopped
        > test ! -e /run/hull/hull.pid || ! kill -0 "$(cat /run/hull/hull.pid)" 2>/dev/null
        > E
        $ unshare --mount --net --pid --fork --mount-proc --propagation private bash inside
        started
        ran
        stopped
        "#,
    );
}

#[test]
fn what_a_killed_daemon_left_stops_no_other() {
    if !only_hull() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.kill();
    // The pidfile names a process that is alive and no daemon.
    let pidfile = daemon.dir().join("daemon.pid");
    std::fs::write(&pidfile, std::process::id().to_string()).expect("the pidfile");
    daemon.begin();
    let pid = std::fs::read_to_string(&pidfile).expect("the pidfile");
    assert_eq!(pid.trim(), daemon.pid().to_string());
    assert_eq!(daemon.stop(), 0);
    assert!(!pidfile.exists() && !daemon.socket().exists());
}

#[test]
fn who_is_in_the_group_may_use_it() {
    if !only_hull() {
        return;
    }
    let daemon = Daemon::with(&["--group", "4242"]);
    daemon.session(
        r#"
        $ stat -c '%a %u:%g' ../api.sock
        660 0:4242
        $ cp "$(readlink -f "$(command -v hull)")" client; chmod 755 client
        $ as() { HOME=/nonexistent setpriv --reuid 65534 --regid 65534 "$@"; }
        $ as --groups 4242 ./client run --rm busybox echo may
        may
        $ as --clear-groups ./client ps 2>&1 | sed 's/ on the daemon.*//'
        permission denied
        $ as --clear-groups ./client daemon 2>&1
        hull daemon: the daemon needs root: start it with `sudo hull daemon`
        [1]
        $ cat >inside <<'E'
        > mount -t tmpfs tmpfs /run || exit 99
        > unset HULL_HOST DOCKER_HOST
        > exec setpriv --reuid 65534 --regid 65534 --clear-groups ./client ps
        > E
        $ unshare --mount --propagation private bash inside 2>&1
        hull's daemon is not running; start it with: sudo hull start-daemon
        [1]
        $ timeout 20 hull daemon --group no-such-group --data-root d --exec-root e --pidfile p -H unix://$PWD/s 2>&1
        hull daemon: there is no group no-such-group on this machine: make it with `groupadd no-such-group`
        [1]
        "#,
    );
}

#[test]
fn several_sockets_pools_and_the_bridges_address() {
    if !only_hull() {
        return;
    }
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let other = daemon.dir().join("work/second.sock");
    let second = Daemon::with(&[
        "-H",
        &format!("unix://{}", other.display()),
        "-H",
        "tcp://localhost:23766",
        "--bip=10.215.7.1/24",
        "--default-address-pool",
        "base=10.216.0.0/16,size=24",
        "--log-opt",
        "max-size=1m",
        "--storage-driver",
        "overlay2",
    ]);
    second.session(&format!(
        r#"
        $ hull -H unix://{other} info --format '{{{{.ID}}}}' >one; hull -H tcp://localhost:23766 info --format '{{{{.ID}}}}' >two; hull info --format '{{{{.ID}}}}' >three; sort -u one two three | wc -l
        1
        $ hull run --rm busybox sh -c 'ip -4 -o addr show eth0 | grep -o "10[.0-9/]*" | head -n 1; ip route | grep -o "default via [.0-9]*"'
        10.215.7.2/24
        default via 10.215.7.1
        $ hull network create n >/dev/null; hull network create m >/dev/null; hull network inspect -f '{{{{range .IPAM.Config}}}}{{{{.Subnet}}}}{{{{end}}}}' n m; hull network rm n m >/dev/null
        10.216.0.0/24
        10.216.1.0/24
        $ hull create --name box busybox true >/dev/null; hull inspect -f '{{{{json .HostConfig.LogConfig}}}}' box
        {{"Type":"json-file","Config":{{"max-size":"1m"}}}}
        "#,
        other = other.display(),
    ));
}

#[test]
fn a_hang_up_reads_debug_labels_and_runtimes_again() {
    if !only_hull() {
        return;
    }
    let file = std::env::temp_dir().join(format!("hull-tests-{}.json", std::process::id()));
    std::fs::write(&file, r#"{"labels": ["a=1"]}"#).expect("a file");
    let daemon = Daemon::with(&["--config", file.to_str().expect("text")]);
    let info = || daemon.ok(&["info", "--format", "{{json .Labels}} {{.Debug}}"]);
    let hang_up = |said: &str| {
        let pid = rustix::process::Pid::from_raw(daemon.pid() as i32).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("a signal");
        wait_until(said, Duration::from_secs(10), || daemon.log().contains(said));
    };
    assert_eq!(info(), r#"["a=1"] false"#);

    std::fs::write(&file, r#"{"labels": ["b=2"], "debug": true, "runtimes": {"other": {"path": "/no/such"}}, "default-runtime": "other", "registry-mirrors": ["https://m.example"], "max-concurrent-downloads": 1}"#).expect("a file");
    hang_up("debug, labels, runtimes and registries are as in the configuration file");
    assert_eq!(info(), r#"["b=2"] true"#);
    assert_eq!(
        daemon.ok(&["info", "--format", "{{.DefaultRuntime}} {{json (index .Runtimes \"other\")}}"]),
        r#"other {"path":"/no/such"}"#
    );
    let mirrors = daemon.ok(&["info", "--format", "{{json .RegistryConfig.Mirrors}}"]);
    assert_eq!(mirrors, r#"["https://m.example/"]"#);
    daemon.hull(&["inspect", "nothing-of-that-name"]);
    wait_until("debug messages", Duration::from_secs(10), || daemon.log().contains("DEBUG"));
    let events = daemon.ok(&["events", "--since", "0", "--until", "0s", "--filter", "type=daemon"]);
    assert!(events.contains("daemon reload") && events.contains(r#"labels=["b=2"]"#), "{events}");

    // A default that is not there is no configuration either.
    std::fs::write(&file, r#"{"labels": ["c=3"], "default-runtime": "kata"}"#).expect("a file");
    hang_up("specified default runtime 'kata' does not exist");
    std::fs::write(&file, "no configuration").expect("a file");
    hang_up("the configuration stays as it is");
    assert_eq!(info(), r#"["b=2"] true"#);
    std::fs::remove_file(&file).expect("the file is removed");
}
