//! Limits, and what happens at them.

use hull_tests::{Daemon, Engine};

#[test]
fn memory() {
    Daemon::start().session(
        r#"
        $ hull run --name oom --memory 32m --memory-swap 32m busybox tail -n 1 /dev/zero
        [137]
        $ hull inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}' oom
        true 137 33554432 33554432
        $ hull run -d --name box --memory 64m busybox sleep 600
        <id>
        $ hull update --memory 48m --memory-swap 48m box
        box
        $ hull inspect -f '{{.HostConfig.Memory}}' box
        50331648
        $ hull stats --no-stream --format '{{.Name}} {{.MemUsage}}' box | grep -c '^box .*/ 48MiB$'
        1
        $ hull create --memory 1m busybox true 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn processes_files_and_processors() {
    Daemon::start().session(
        r#"
        $ hull run --rm --pids-limit 20 busybox sh -c 'for i in $(seq 50); do sleep 2 & done' 2>&1 | grep -qiE 'fork|resource'
        $ hull run -d --name few --ulimit nofile=8:8 --oom-score-adj 500 -p 127.0.0.1::80 -v /tmp:/t:ro -w /new busybox sleep 600
        <id>
        $ hull exec few sh -c 'ulimit -n'; hull exec few cat /proc/1/oom_score_adj; hull rm -f few
        8
        500
        few
        $ hull run --rm --ulimit nofile=100:200 busybox sh -c 'ulimit -Sn; ulimit -Hn'
        100
        200
        $ hull run --rm --cpuset-cpus 0 busybox grep Cpus_allowed_list /proc/self/status
        Cpus_allowed_list:	0
        $ hull create --name cpu --cpus 0.5 --cpu-shares 512 busybox true
        <id>
        $ hull inspect -f '{{.HostConfig.NanoCpus}} {{.HostConfig.CpuShares}}' cpu
        500000000 512
        $ hull create --cpuset-cpus 4096 busybox true 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn what_a_process_may_do() {
    Daemon::start().session(
        r#"
        $ hull run --rm busybox chown 1:1 /etc/group
        $ hull run --rm --cap-drop ALL busybox chown 1:1 /etc/group 2>&1
        chown: /etc/group: Operation not permitted
        [1]
        $ hull run --rm --cap-drop ALL --cap-add CHOWN busybox chown 1:1 /etc/group
        $ hull run --rm -u 1000 busybox sh -c 'grep CapEff /proc/self/status'
        CapEff:	0000000000000000
        $ hull run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status
        NoNewPrivs:	1
        $ hull run --rm busybox grep -w Seccomp /proc/self/status
        Seccomp:	2
        $ hull run --rm --security-opt seccomp=unconfined busybox grep -w Seccomp /proc/self/status
        Seccomp:	0
        $ hull run --rm busybox unshare -U true 2>&1
        unshare: unshare(0x10000000): Operation not permitted
        [1]
        $ hull run --rm --privileged busybox sh -c 'mount -t tmpfs none /tmp && test -e /dev/kmsg && echo may'
        may
        $ hull create --cap-add NO_SUCH busybox true 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn time_that_is_spent() {
    if Engine::under_test() == Engine::Docker {
        // hull's own: Docker has no such limit.
        return;
    }
    Daemon::start().session(
        r#"
        $ hull run --name slow --timeout 300ms busybox sleep 600
        [137]
        $ hull inspect -f '{{.State.EndReason}} {{.State.ExitCode}}' slow
        timeout 137
        $ hull run --name busy --cpu-time 300ms busybox sh -c 'while :; do :; done'
        [137]
        $ hull inspect -f '{{.State.EndReason}}' busy
        cpu-time
        $ hull run --name fine --timeout 1h --cpu-time 1h busybox true; hull inspect -f '{{.State.EndReason}}' fine
        exited
        $ hull run -d --name box busybox sleep 600
        <id>
        $ hull exec --timeout 300ms box sleep 600
        [137]
        $ hull inspect -f '{{.State.Status}}' box
        running
        "#,
    );
}
