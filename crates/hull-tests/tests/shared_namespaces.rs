//! Namespaces that are shared: with the host, with another container, with nobody; and what else sets a container up.

use hull_tests::{Daemon, Engine};

#[test]
fn interprocess_communication() {
    Daemon::start().session(
        r#"
        $ hull run -d --name donor --ipc shareable --shm-size 2m busybox sleep 600
        <id>
        $ hull run --rm --name joiner --ipc container:donor busybox sh -c 'echo here >/dev/shm/file; readlink /proc/self/ns/ipc' >inside; hull exec donor cat /dev/shm/file
        here
        $ hull exec donor readlink /proc/self/ns/ipc | diff - inside && hull exec donor sh -c 'df -k /dev/shm | tail -n 1 | tr -s " " | cut -d" " -f2'
        2048
        $ hull run -d --name middle --ipc container:donor busybox sleep 600
        <id>
        $ hull run --rm --ipc container:middle busybox cat /dev/shm/file
        here
        $ hull run -d --name alone busybox sleep 600; hull create --name stopped busybox true
        <id>
        <id>
        $ hull run --rm --ipc container:alone busybox true 2>&1 | grep -o "can't join.*"
        can't join IPC of container <id>: non-shareable IPC (hint: use IpcMode:shareable for the donor container)
        $ hull run --rm --ipc container:stopped busybox true 2>&1 | grep -o "can't join.*"
        can't join IPC of container <id>: container <id> is not running
        $ hull run --rm --ipc none busybox ls -A /dev/shm 2>&1
        ls: /dev/shm: No such file or directory
        [1]
        $ hull run --rm --ipc host busybox readlink /proc/self/ns/ipc | diff - <(readlink /proc/self/ns/ipc) && test -d /dev/shm && echo same
        same
        $ hull rm -f donor middle >/dev/null; hull run -d --name donor --ipc shareable busybox sleep 600
        <id>
        $ hull restart -t 0 donor && hull exec donor ls -A /dev/shm
        donor
        "#,
    );
}

#[test]
fn processes() {
    Daemon::start().session(
        r#"
        $ hull run -d --name donor busybox sleep 600; hull create --name stopped busybox true
        <id>
        <id>
        $ hull run --rm --pid container:donor busybox ps -o args
        COMMAND
        sleep 600
        ps -o args
        $ hull run --rm --pid host busybox readlink /proc/self/ns/pid | diff - <(readlink /proc/self/ns/pid) && echo same
        same
        $ hull run --rm --pid container:stopped busybox true 2>&1 | grep -o 'container <\?[0-9a-f]*>\? is not running'
        container <id> is not running
        $ hull create --pid container:missing busybox true 2>&1 | grep -o 'No such container: missing'
        No such container: missing
        $ hull create --pid nonsense busybox true 2>&1 | grep -o 'invalid PID mode'
        invalid PID mode
        "#,
    );
}

#[test]
fn names_of_the_machine_and_control_groups() {
    Daemon::start().session(
        r#"
        $ hull run --rm --uts host busybox hostname | diff - <(hostname) && echo same
        same
        $ hull create --uts host --hostname box busybox true 2>&1 | grep -o 'conflicting options: hostname and the UTS mode'
        conflicting options: hostname and the UTS mode
        $ hull run --rm --cgroupns private busybox grep -v ':/$' /proc/self/cgroup
        [1]
        $ hull run --rm --cgroupns host busybox readlink /proc/self/ns/cgroup | diff - <(readlink /proc/self/ns/cgroup) && echo same
        same
        $ hull run --rm --userns host busybox readlink /proc/self/ns/user | diff - <(readlink /proc/self/ns/user) && echo same
        same
        $ for flag in uts userns cgroupns; do hull create --$flag nonsense busybox true 2>&1 | grep -o 'invalid [A-Z]* mode'; done
        invalid UTS mode
        invalid USER mode
        invalid CGROUP mode
        "#,
    );
}

#[test]
fn kernel_parameters() {
    Daemon::start().session(
        r#"
        $ hull run --rm --sysctl net.ipv4.ip_forward=0 --sysctl kernel.msgmax=9000 busybox cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax
        0
        9000
        $ for name in kernel.panic=1 kernel.hostname=x nonsense; do hull create --sysctl $name busybox true 2>&1 | head -n 1; done
        invalid argument "kernel.panic=1" for "--sysctl" flag: sysctl 'kernel.panic=1' is not allowed
        invalid argument "kernel.hostname=x" for "--sysctl" flag: sysctl 'kernel.hostname=x' is not allowed
        invalid argument "nonsense" for "--sysctl" flag: sysctl 'nonsense' is not allowed
        $ hull run --rm --ipc host --sysctl kernel.msgmax=9000 busybox true 2>/dev/null
        [125]
        $ hull run --rm --network host --sysctl net.ipv4.ip_forward=0 busybox true 2>/dev/null
        [125]
        "#,
    );
    if Engine::under_test() == Engine::Hull {
        // By the API, where no client looks first.
        let daemon = Daemon::start();
        for (name, mode) in [("kernel.panic", "private"), ("kernel.msgmax", "host")] {
            let body = format!(
                r#"{{"Image": "busybox", "HostConfig": {{"IpcMode": "{mode}", "Sysctls": {{"{name}": "1"}}}}}}"#
            );
            let answer = daemon
                .api()
                .send("POST", "/containers/create", "application/json", body.as_bytes())
                .expect("an answer");
            assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        }
    }
}

#[test]
fn limits_groups_and_shared_memory() {
    Daemon::start().session(
        r#"
        $ hull run --rm --ulimit core=0 --ulimit nofile=99:100 busybox sh -c 'ulimit -c; ulimit -Sn; ulimit -Hn'
        0
        99
        100
        $ hull create --ulimit nonsense=1 busybox true 2>&1 | head -n 1
        invalid argument "nonsense=1" for "--ulimit" flag: invalid ulimit type: nonsense
        $ hull create --ulimit nofile=2:1 busybox true 2>&1 | head -n 1
        invalid argument "nofile=2:1" for "--ulimit" flag: ulimit soft limit must be less than or equal to hard limit: 2 > 1
        $ hull run --rm --oom-score-adj 500 busybox cat /proc/self/oom_score_adj
        500
        $ hull create --oom-score-adj 2000 busybox true 2>&1 | grep -o 'Invalid value 2000.*'
        Invalid value 2000, range for oom score adj is [-1000, 1000]
        $ hull run --rm --shm-size 1m busybox sh -c 'df -k /dev/shm | tail -n 1 | tr -s " " | cut -d" " -f2'
        1024
        $ hull run --rm --group-add 7 --group-add root busybox id -G
        0 7
        $ hull run --rm -u 1000:1001 --group-add 7 busybox id -G
        1001 7
        $ hull run --rm --group-add nonsense busybox true 2>&1 | grep -o 'nable to find group nonsense: no matching entries in group file'
        nable to find group nonsense: no matching entries in group file
        "#,
    );
}

#[test]
fn a_read_only_root() {
    Daemon::start().session(
        r#"
        $ hull run --rm --read-only busybox sh -c 'exec 2>&1; touch /x; echo a >/etc/resolv.conf; touch /dev/shm/x && echo shm'
        touch: /x: Read-only file system
        sh: can't create /etc/resolv.conf: Read-only file system
        shm
        $ hull run --rm --read-only --tmpfs /tmp -v data:/data busybox sh -c 'touch /tmp/x /data/x && echo written'
        written
        $ hull run --rm --read-only busybox mount -o remount,rw / 2>&1
        mount: permission denied (are you root?)
        [1]
        "#,
    );
}
