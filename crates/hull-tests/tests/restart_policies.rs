//! Restart policies: when a container starts again, and when it does not.

use hull_tests::Daemon;

#[test]
fn on_failure_counts() {
    Daemon::start().session(
        r#"
        $ hull run -d --name fails --restart on-failure:2 busybox sh -c 'echo try; exit 3'
        <id>
        $ eventually sh -c 'hull inspect -f "{{.RestartCount}} {{.State.Status}}" fails | grep "2 exited"'
        $ hull logs fails
        try
        try
        try
        $ hull inspect -f '{{.State.ExitCode}} {{.RestartCount}} {{.HostConfig.RestartPolicy.Name}}' fails
        3 2 on-failure
        $ hull run -d --name succeeds --restart on-failure busybox true >/dev/null; hull wait succeeds
        0
        $ hull inspect -f '{{.RestartCount}} {{.State.Status}}' succeeds
        0 exited
        $ hull create --restart sometimes busybox true 2>/dev/null
        [1]
        $ hull create --rm --restart always busybox true 2>/dev/null
        [125]
        "#,
    );
}

#[test]
fn always_until_it_is_stopped() {
    Daemon::start().session(
        r#"
        $ hull run -d --name again --restart always busybox sh -c 'sleep 0.2; echo round'
        <id>
        $ eventually sh -c 'test $(hull inspect -f "{{.RestartCount}}" again) -ge 2'
        $ hull stop -t 0 again; hull inspect -f '{{.State.Status}}' again
        again
        exited
        $ count=$(hull inspect -f '{{.RestartCount}}' again); sleep 1; test $count = $(hull inspect -f '{{.RestartCount}}' again)
        $ hull update --restart no again; hull inspect -f '{{.HostConfig.RestartPolicy.Name}}' again
        again
        no
        "#,
    );
}

#[test]
fn a_daemon_that_starts_again_starts_what_should_run() {
    let mut daemon = Daemon::start();
    daemon.session(
        r#"
        $ hull run -d --name always --restart always busybox sleep 600 >/dev/null
        $ hull run -d --name unless --restart unless-stopped busybox sleep 600 >/dev/null
        $ hull run -d --name stopped --restart unless-stopped busybox sleep 600 >/dev/null
        $ hull run -d --name revived --restart always busybox sleep 600 >/dev/null
        $ hull stop -t 0 stopped revived >/dev/null
        "#,
    );
    daemon.stop();
    daemon.begin();
    daemon.session(
        r#"
        $ eventually sh -c 'hull ps --format "{{.Names}}" | grep revived'; hull ps --format '{{.Names}}' | sort
        always
        revived
        unless
        "#,
    );
}
