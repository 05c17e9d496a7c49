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
        $ hull run --rm -e A=x -w /tmp --entrypoint sh busybox -c 'echo $PWD $A'
        /tmp x
        $ hull run --rm --hostname box busybox hostname
        box
        $ hull run --rm busybox sh -c 'echo $$'
        1
        $ hull ps -a
        CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES
        "#,
    );
}
