//! The daemon's own options, and daemons side by side.

use hull_tests::{Daemon, Engine};
use std::os::unix::fs::PermissionsExt;

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
        $ start() { timeout 20 hull daemon --data-root $PWD/d --exec-root $PWD/e --pidfile $PWD/p -H unix://$PWD/s "$@"; }
        $ echo '{"no-such-key": 1}' >config; start --config config 2>&1 | grep -o 'no-such-key' | head -n 1
        no-such-key
        $ echo '{"labels": "text"}' >config; start --config config >/dev/null 2>&1
        [1]
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
