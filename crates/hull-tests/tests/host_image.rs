//! `hull/host`: this machine's own files, copy-on-write, without its secrets.

use hull_tests::{Daemon, Engine};

#[test]
fn the_machine_without_its_secrets() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    Daemon::empty(Engine::Hull, &[]).session(
        r#"
        $ hull run --rm hull/host cat /etc/os-release | cmp - /etc/os-release
        $ hull run --rm hull/host bash -c 'echo $((6 * 7))'
        42
        $ hull run --rm hull/host sh -c 'ls -A /root /home | grep -v -e : -e ^$'
        [1]
        $ hull run --rm hull/host sh -c 'cat /etc/shadow /etc/gshadow 2>/dev/null | grep -E ":[$]|[0-9]"'
        [1]
        $ hull run --rm hull/host sh -c 'ls /etc/ssh 2>/dev/null | grep "key$"'
        [1]
        $ hull run --rm hull/host sh -c 'echo x >/hull-tests-written && cat /hull-tests-written && rm /etc/os-release /usr/bin/env'
        x
        $ ls /hull-tests-written 2>/dev/null; test -e /etc/os-release && test -e /usr/bin/env
        $ hull run --rm hull/host sh -c 'ls /proc | grep -c "^[0-9]*$"' | grep -qE '^[1-4]$'
        $ hull run --rm hull/host id -u
        0
        "#,
    );
}
