//! What dockerd's flags and configuration say of the default network, of containers that do not say, and of the daemon.

use std::time::Duration;

use hull_tests::{Daemon, Engine, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

fn only_hull() -> bool {
    Engine::under_test() == Engine::Hull
}

#[test]
fn containers_that_do_not_say_are_as_the_daemon_says() {
    if !only_hull() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("profile.json");
    std::fs::write(
        &profile,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#,
    )
    .expect("the profile");
    let profile_flag = format!("--seccomp-profile={}", profile.display());
    let daemon = Daemon::with(&[
        "--default-shm-size=32m",
        "--default-ipc-mode=shareable",
        "--default-cgroupns-mode=host",
        "--init",
        "--cgroup-parent=/hull-of-flags",
        "--no-new-privileges",
        "--experimental",
        &profile_flag,
    ]);
    daemon.session(
        r#"
        $ hull run -d --name box busybox sleep 600 >/dev/null
        $ hull inspect -f '{{.HostConfig.ShmSize}} {{.HostConfig.IpcMode}} {{.HostConfig.CgroupnsMode}} {{.HostConfig.CgroupParent}} {{.HostConfig.SecurityOpt}} {{.HostConfig.Init}}' box
        33554432 shareable host /hull-of-flags [no-new-privileges] <nil>
        $ hull exec box df -k /dev/shm | awk 'NR == 2 { print $2 }'
        32768
        $ hull exec box cat /proc/1/comm | grep -c sleep
        0
        [1]
        $ hull exec box grep NoNewPrivs /proc/self/status
        NoNewPrivs:	1
        $ hull exec box mkdir /x
        mkdir: can't create directory '/x': Operation not permitted
        [1]
        $ hull run --rm busybox mkdir /x
        mkdir: can't create directory '/x': Operation not permitted
        [1]
        $ hull run --rm --security-opt seccomp=builtin busybox mkdir /x
        $ hull run --rm --privileged busybox mkdir /x
        $ hull run --rm --shm-size 1m --ipc private --security-opt no-new-privileges=false busybox sh -c 'df -k /dev/shm | tail -n 1 | grep -c 1024; grep NoNewPrivs /proc/self/status'
        1
        NoNewPrivs:	0
        $ grep -o '/hull-of-flags/.*' /proc/$(hull inspect -f '{{.State.Pid}}' box)/cgroup | sort -u | sed 's/[0-9a-f]\{64\}/ID/'
        /hull-of-flags/ID
        $ hull version -f '{{.Server.Experimental}}'; hull info -f '{{.ExperimentalBuild}} {{.LiveRestoreEnabled}}'
        true
        true true
        $ hull info -f '{{json .SecurityOptions}}' | grep -o 'profile=[^"]*profile.json\|no-new-privileges' | sed 's,=/.*/,=,'
        profile=profile.json
        no-new-privileges
        $ hull rm -f box
        box
        $ find /sys/fs/cgroup -depth -type d -name hull-of-flags -exec rmdir {} +
        "#,
    );
}

#[test]
fn the_default_network_is_as_the_daemon_says() {
    if !only_hull() {
        return;
    }
    let daemon = Daemon::with(&[
        "--bip=10.212.77.1/24",
        "--fixed-cidr=10.212.77.64/28",
        "--default-gateway=10.212.77.9",
        "--mtu=1400",
        "--icc=false",
        "--ip=127.0.0.1",
        "--ipv6",
        "--fixed-cidr-v6=fd00:212:77::/64",
        "--default-network-opt=bridge=com.docker.network.driver.mtu=1300",
        "--host-gateway-ip=192.0.2.8",
        "--host-gateway-ip=2001:db8::8",
        "--userland-proxy=false",
        "--iptables=true",
    ]);
    daemon.session(
        r#"
        $ hull run -d --name one -p 18766:80 busybox sleep 600 >/dev/null
        $ hull inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}} {{.NetworkSettings.Networks.bridge.Gateway}} {{.NetworkSettings.Networks.bridge.GlobalIPv6PrefixLen}}' one
        10.212.77.64 10.212.77.9 64
        $ hull exec one ip route | grep default | sed "s, *$,,"
        default via 10.212.77.9 dev eth0
        $ hull exec one cat /sys/class/net/eth0/mtu
        1400
        $ hull port one
        80/tcp -> 127.0.0.1:18766
        $ hull network create four >/dev/null; hull run -d --name four --network four -p 18768:80 busybox sleep 600 >/dev/null; hull port four; hull rm -f four >/dev/null
        80/tcp -> 0.0.0.0:18768
        $ hull run --rm busybox ping -c1 -W1 10.212.77.64 >/dev/null
        [1]
        $ hull run --rm --add-host me:host-gateway busybox grep me /etc/hosts
        192.0.2.8	me
        2001:db8::8	me
        $ hull network create made >/dev/null; hull run --rm --network made busybox cat /sys/class/net/eth0/mtu
        1300
        $ hull network create -o com.docker.network.driver.mtu=1200 own >/dev/null; hull run --rm --network own busybox cat /sys/class/net/eth0/mtu
        1200
        $ hull network inspect -f '{{(index .IPAM.Config 0).IPRange}} {{(index .IPAM.Config 0).AuxiliaryAddresses}} {{index .Options "com.docker.network.bridge.enable_icc"}}' bridge
        10.212.77.64/28 map[DefaultGatewayIPv4:10.212.77.9] false
        "#,
    );
}

#[test]
fn the_default_network_may_be_another_bridge_or_none() {
    if !only_hull() {
        return;
    }
    // Beside a daemon of the usual kind, in whose network namespace the bridge is made.
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ ip link add standing type bridge; ip address add 10.212.78.5/24 dev standing; ip link set standing up
        $ hull save -o busybox.tar busybox
        $ other() { hull -H unix://$PWD/s "$@"; }
        $ start() { hull daemon --data-root $PWD/d --exec-root $PWD/e --pidfile $PWD/p -H unix://$PWD/s "$@" 2>log & echo $! >pid; eventually other load -q -i busybox.tar; }
        $ end() { kill $(cat pid); eventually test ! -e p; }
        $ start -b standing >/dev/null; other run --rm busybox ip route | grep -o 'default.*eth0'; end
        default via 10.212.78.5 dev eth0
        $ ip -o link show standing | grep -c standing
        1
        $ start --bridge none --default-address-pool base=10.212.79.0/24,size=28 >/dev/null; other network ls --format '{{.Name}}'
        host
        none
        $ other run --rm busybox ls /sys/class/net
        lo
        $ other network create mine >/dev/null; other run --rm --network mine busybox ls /sys/class/net; other network rm mine; end
        eth0
        lo
        mine
        $ hull daemon --validate -b x --bip 10.0.0.1/8
        hull daemon: you specified -b & --bip, mutually exclusive options. Please specify only one
        [1]
        $ hull daemon --data-root $PWD/d --exec-root $PWD/e --pidfile $PWD/p -H unix://$PWD/s -b no-such; ip link delete standing
        hull daemon: bridge device with non default name no-such must be created manually: there is no bridge no-such on this machine
        "#,
    );
}

#[test]
fn containers_end_with_the_daemon_where_they_are_to() {
    if !only_hull() {
        return;
    }
    let mut daemon =
        Daemon::with(&["--live-restore=false", "--shutdown-timeout", "20", "--log-format", "json"]);
    daemon.session(
        r#"
        $ hull run -d --name kept --restart unless-stopped -e 'A=1' busybox sh -c 'trap "exit 3" TERM; while :; do sleep 0.1; done' >/dev/null
        $ hull run -d --name plain busybox sh -c 'trap "exit 4" TERM; while :; do sleep 0.1; done' >/dev/null
        $ hull run -d --name stopped --restart unless-stopped busybox sleep 600 >/dev/null; hull stop -t 0 stopped
        stopped
        $ hull info -f '{{.LiveRestoreEnabled}}'
        false
        "#,
    );
    assert_eq!(daemon.stop(), 0);
    daemon.begin();
    daemon.session(
        r#"
        $ hull inspect -f '{{.State.Running}} {{.State.ExitCode}}' plain stopped
        false 4
        false 137
        $ hull ps --format '{{.Names}}'
        kept
        "#,
    );
}

#[test]
fn who_outlives_the_end_of_the_daemon_keeps_its_policy() {
    if !only_hull() {
        return;
    }
    let mut daemon = Daemon::with(&["--live-restore=false", "--shutdown-timeout", "-1"]);
    // It does not heed the signal, and has all the time that it likes.
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "deaf",
        "--restart",
        "unless-stopped",
        "--stop-timeout",
        "-1",
        "busybox",
        "sh",
        "-c",
        "trap : TERM; echo ready; while :; do sleep 1; done",
    ]);
    wait_until("it listens to no signal", PATIENCE, || daemon.ok(&["logs", "deaf"]) == "ready");
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "deaf"]);
    let told = std::process::Command::new("kill").arg(daemon.pid().to_string()).status().expect("kill");
    assert!(told.success());
    wait_until("the daemon serves nobody", PATIENCE, || daemon.hull(&["ps"]).status != 0);
    // Who says it again does not want to wait.
    assert_eq!(daemon.stop(), 0);
    daemon.begin();
    assert_eq!(
        daemon.ok(&["inspect", "-f", "{{.State.Pid}} {{.State.Running}}", "deaf"]),
        format!("{pid} true")
    );
    // No stop of a user's: its policy holds.
    let restarts = || daemon.ok(&["inspect", "-f", "{{.RestartCount}}", "deaf"]);
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().expect("kill").success());
    wait_until("its policy starts it again", PATIENCE, || restarts() == "1");
    daemon.ok(&["rm", "-f", "deaf"]);
}

#[test]
fn what_hull_has_in_one_way_only_is_refused_by_name() {
    if !only_hull() {
        return;
    }
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ of() { echo "$1" >config; hull daemon --validate --config config 2>&1 | sed 's/^hull daemon: //; s/: .*//'; }
        $ of '{"userland-proxy": true, "iptables": true, "live-restore": true, "exec-opts": ["native.cgroupdriver=cgroupfs"], "features": {"buildkit": true}, "default-shm-size": 65536, "proxies": {"http-proxy": "http://p:1"}, "log-format": "json"}'
        configuration OK
        $ of '{"userland-proxy": false}'
        configuration OK
        $ of '{"iptables": false}'
        iptables=false is not supported by hull
        $ of '{"ip-forward": false}'
        ip-forward=false is not supported by hull
        $ of '{"exec-opts": ["native.cgroupdriver=systemd"]}'
        native.cgroupdriver=systemd is not supported by hull
        $ of '{"features": {"containerd-snapshotter": true}}'
        features.containerd-snapshotter=true is not supported by hull
        $ of '{"default-ipc-mode": "host"}'
        default IPC mode setting (host) is invalid, use private or shareable
        $ of '{"default-shm-size": "lots"}'
        default-shm-size
        $ of '{"seccomp-profile": "/no/such"}'
        open the seccomp profile /no/such
        $ of '{"metrics-addr": "127.0.0.1:1"}'
        the configuration config
        "#,
    );
}

#[test]
fn by_the_name_of_dockerd_it_has_dockers_places() {
    if !only_hull() {
        return;
    }
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ ln -s "$(readlink -f "$(command -v hull)")" dockerd
        $ cat >inside <<'E'
        > mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /etc/docker || exit 99
        > unset HULL_HOST DOCKER_HOST
        > echo '{"labels": ["from=file"]}' >/etc/docker/daemon.json
        > ./dockerd --containerd-namespace x --default-address-pool base=10.212.80.0/20,size=24 2>log & 
        > for i in $(seq 200); do test -S /run/docker.sock && break; sleep 0.05; done
        > hull -H unix:///var/run/docker.sock info -f '{{.Labels}} {{.Name}}' | cut -d' ' -f1
        > cat /var/run/docker.pid | grep -c "^$!$"
        > kill $!; wait $!; grep -o 'containerd-namespace without effect' log
        > E
        $ unshare --mount --net --pid --fork --mount-proc --propagation private bash inside
        [from=file]
        1
        containerd-namespace without effect
        "#,
    );
}
