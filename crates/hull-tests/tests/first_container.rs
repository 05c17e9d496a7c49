//! The first minutes: an image, a container, its output and its exit status.

use hull_tests::Daemon;

#[test]
fn a_command_its_output_and_its_exit_status() {
    Daemon::start().session(
        r#"
        $ hull run --rm busybox echo hello
        hello
        $ hull run --rm busybox sh -c 'exit 7'
        [7]
        $ printf '1\n2\n3\n' | hull run --rm -i busybox wc -l
        3
        $ hull run --rm busybox sh -c 'echo out; echo err >&2' 2>/dev/null
        out
        $ hull run --rm busybox sh -c 'echo out; echo err >&2' >/dev/null
        err
        $ hull run --rm -e A=x -w /tmp --entrypoint sh busybox -c 'echo $PWD $A'
        /tmp x
        $ hull run --rm --hostname box busybox hostname
        box
        $ hull run --rm busybox sh -c 'echo $$'
        1
        $ hull run --rm -u 1234:5678 busybox sh -c 'echo $(id -u):$(id -g)'
        1234:5678
        $ hull ps -a
        CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES
        "#,
    );
}

#[test]
fn what_cannot_be_run_has_dockers_exit_status() {
    Daemon::start().session(
        r#"
        $ hull run --rm busybox no-such-command 2>/dev/null
        [127]
        $ hull run --rm busybox /etc/passwd 2>/dev/null
        [126]
        $ hull run --rm busybox /tmp 2>/dev/null
        [126]
        $ hull run --rm --no-such-flag busybox true 2>/dev/null
        [125]
        $ hull run --rm --pull=never no/such:image true 2>/dev/null
        [125]
        $ hull run --rm --name 'no spaces' busybox true 2>/dev/null
        [125]
        $ hull ps -aq
        "#,
    );
}

#[test]
fn the_container_sees_itself_alone() {
    Daemon::start().session(
        r#"
        $ hull run --rm --network none busybox ls /sys/class/net
        lo
        $ hull run --rm busybox sh -c 'echo /proc/[0-9]*; true'
        /proc/1
        $ hull run --rm busybox sh -c 'for f in keys timer_list; do test -c /proc/$f && echo $f masked; done'
        keys masked
        timer_list masked
        $ hull run --rm busybox sh -c 'echo 1 >/proc/sys/kernel/panic' 2>&1 | grep -o 'Read-only file system'
        Read-only file system
        $ hull run --rm busybox mount -t tmpfs none /tmp 2>/dev/null
        [1]
        $ hull run --rm busybox sh -c 'ls /dev | grep -v core | sort | tr "\n" " "'
        fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero
        $ hull run --rm --read-only busybox touch /file 2>&1
        touch: /file: Read-only file system
        [1]
        $ hull run --rm busybox sh -c 'ulimit -n; ulimit -Hn' | sort -n | tail -n 1 | grep -c .
        1
        "#,
    );
}
