//! What keeps a container in, attacked from inside. Each attack is also made where its defence is off, and succeeds
//! there: what it meets otherwise is the defence.

use hull_tests::{Daemon, Engine};

/// A setuid program does not make root of who is to gain nothing.
#[test]
fn no_new_privileges() {
    if Engine::under_test() == Engine::Docker {
        // There is no image of the host's own files.
        return;
    }
    Daemon::start().session(
        r#"
        $ attack='cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id && setpriv --reuid 1000 --clear-groups /tmp/id -u'
        $ hull run --rm hull/host sh -c "$attack"
        0
        $ hull run --rm --security-opt no-new-privileges hull/host sh -c "$attack"
        1000
        $ hull run --rm --security-opt no-new-privileges:true hull/host sh -c "$attack"
        1000
        $ hull run --rm --security-opt no-new-privileges=false hull/host sh -c "$attack"
        0
        "#,
    );
}

/// What is masked stays so in a user namespace of the container's own too, where it is root over mounts.
#[test]
fn masked_and_read_only_paths() {
    Daemon::start().session(
        r#"
        $ hull run --rm busybox sh -c 'test -c /proc/keys && wc -c </proc/keys; ls /sys/firmware | wc -l'
        0
        0
        $ hull run --rm busybox umount /proc/keys 2>&1
        umount: can't unmount /proc/keys: Operation not permitted
        [1]
        $ hull run --rm --security-opt seccomp=unconfined busybox unshare -Urm sh -c 'umount /proc/keys; mount -o remount,rw /proc/sys' 2>&1
        umount: can't unmount /proc/keys: Invalid argument
        mount: permission denied (are you root?)
        [1]
        $ hull run --rm --security-opt seccomp=unconfined busybox unshare -Urmpf mount -t proc proc /proc 2>&1
        mount: permission denied (are you root?)
        [1]
        $ hull run --rm --security-opt systempaths=unconfined busybox sh -c 'test -f /proc/keys && echo open; test -w /proc/sys/kernel/panic && echo writable'
        open
        writable
        "#,
    );
}

/// A node can be made of any device; to open it is what the rules are for, and they know reading from writing.
#[test]
fn device_rules() {
    Daemon::start().session(
        r#"
        $ attack='mknod /tmp/kmsg c 1 11 && dd if=/tmp/kmsg of=/dev/null bs=8192 count=1 2>&1 | grep -v records'
        $ hull run --rm --cap-add SYSLOG busybox sh -c "$attack"
        dd: can't open '/tmp/kmsg': Operation not permitted
        $ hull run --rm --cap-add SYSLOG --device-cgroup-rule 'c 1:11 r' busybox sh -c "$attack" | grep -c open
        0
        [1]
        $ hull run --rm --device-cgroup-rule 'c 1:11 r' busybox sh -c 'mknod /tmp/kmsg c 1 11; echo x >/tmp/kmsg' 2>&1
        sh: can't create /tmp/kmsg: Operation not permitted
        [1]
        $ hull run --rm --cap-drop MKNOD busybox mknod /tmp/zero c 1 5 2>&1
        mknod: /tmp/zero: Operation not permitted
        [1]
        $ hull run --rm --device /dev/zero:/dev/x:r busybox sh -c 'head -c 3 /dev/x | wc -c'
        3
        $ hull run --rm --device /dev/net:/dev/x busybox ls /dev/x 2>/dev/null || test -d /dev/net || echo tun
        tun
        $ hull run --rm --device /dev/no-such busybox true 2>&1 | grep -o 'error gathering device information while adding custom device "/dev/no-such": no such file or directory'
        error gathering device information while adding custom device "/dev/no-such": no such file or directory
        "#,
    );
}

/// io_uring (425) and clone3 (435) have the numbers on every architecture that hull runs on.
#[test]
fn system_calls() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    Daemon::start().session(
        r#"
        $ attack='foreach (425, 435) { $! = 0; syscall($_, 0, 0); printf "%d ", $! }'
        $ hull run --rm hull/host perl -e "$attack"; echo
        1 38
        $ hull run --rm --security-opt seccomp=builtin hull/host perl -e "$attack"; echo
        1 38
        $ hull run --rm --security-opt seccomp=unconfined hull/host perl -e "$attack"; echo
        14 22
        $ hull run --rm --privileged hull/host perl -e "$attack"; echo
        14 22
        $ hull run -d --name box hull/host sleep 600
        <id>
        $ hull exec box perl -e "$attack"; echo
        1 38
        "#,
    );
}

/// A profile of one's own, in Docker's format, in a container and in its execs.
#[test]
fn a_profile_of_ones_own() {
    Daemon::start().session(
        r#"
        $ cat >profile.json <<'X'
        > {"defaultAction": "SCMP_ACT_ALLOW",
        >  "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        >              {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        >  "syscalls": [
        >   {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        >   {"names": ["rmdir", "unlinkat"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "4.8"}},
        >   {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["mips"]}}]}
        > X
        $ hull run -d --name box --security-opt seccomp=profile.json busybox sleep 600
        <id>
        $ hull exec box sh -c 'exec 2>&1; mkdir /tmp/x; rmdir /tmp; chmod 700 /tmp && echo changed'
        mkdir: can't create directory '/tmp/x': No space left on device
        rmdir: '/tmp': Operation not permitted
        changed
        $ hull run --rm --cap-add SYS_ADMIN --security-opt seccomp=profile.json busybox mkdir /tmp/x
        $ hull run --rm --privileged --security-opt seccomp=profile.json busybox rmdir /tmp 2>&1
        rmdir: '/tmp': Operation not permitted
        [1]
        $ echo '{"defaultAction": "SCMP_ACT_NONSENSE"}' >bad.json
        $ hull run --rm --security-opt seccomp=bad.json busybox true 2>&1 | grep -o 'decoding seccomp profile failed'
        decoding seccomp profile failed
        $ hull run --rm --security-opt seccomp=missing.json busybox true 2>&1 | grep -o 'opening seccomp profile (missing.json) failed'
        opening seccomp profile (missing.json) failed
        "#,
    );
}

/// A capability that was dropped does not come back, by whatever is executed.
#[test]
fn dropped_capabilities() {
    Daemon::start().session(
        r#"
        $ hull run -d --name box --cap-drop CHOWN busybox sleep 600
        <id>
        $ hull exec box chown 1:1 /etc/group 2>&1
        chown: /etc/group: Operation not permitted
        [1]
        $ hull exec --privileged box chown 1:1 /etc/group
        $ hull run --rm --cap-drop all busybox grep CapBnd /proc/self/status
        CapBnd:	0000000000000000
        $ hull run --rm --cap-add NO_SUCH busybox true 2>&1 | grep -o 'invalid CapAdd: unknown capability: "CAP_NO_SUCH"'
        invalid CapAdd: unknown capability: "CAP_NO_SUCH"
        "#,
    );
}

/// The container's own limits are not its own to raise, unless that was asked for.
#[test]
fn cgroups() {
    Daemon::start().session(
        r#"
        $ attack='for d in /sys/fs/cgroup/pids /sys/fs/cgroup; do test -e $d/cgroup.procs && break; done; mkdir $d/x && rmdir $d/x && echo made'
        $ hull run --rm busybox sh -c "$attack" 2>&1 | grep -o 'Read-only file system'
        Read-only file system
        $ hull run --rm --privileged busybox sh -c "$attack"
        made
        $ hull run --rm busybox mount -o remount,rw /sys/fs/cgroup 2>&1
        mount: permission denied (are you root?)
        [1]
        "#,
    );
    if Engine::under_test() == Engine::Hull {
        // Newer than the Docker that the tests compare with.
        Daemon::start().session(
            r#"
            $ attack='for d in /sys/fs/cgroup/pids /sys/fs/cgroup; do test -e $d/cgroup.procs && break; done; mkdir $d/x && rmdir $d/x && echo made'
            $ hull run --rm --security-opt writable-cgroups busybox true 2>&1 | grep -o 'Invalid --security-opt.*'
            Invalid --security-opt: "writable-cgroups"
            $ hull run --rm --security-opt writable-cgroups=true busybox sh -c "$attack"
            made
            $ hull run --rm --security-opt writable-cgroups=false busybox sh -c "$attack" 2>&1 | grep -o 'Read-only file system'
            Read-only file system
            "#,
        );
    }
}

/// Everything of the machine, and what the machine does not grant itself is cut.
#[test]
fn privileged() {
    if Engine::under_test() == Engine::Docker {
        // runc fails where the machine withholds a capability.
        return;
    }
    Daemon::start().session(
        r#"
        $ own='^(null|zero|full|random|urandom|tty|console|ptmx|pts/.*|shm/.*)$'
        $ nodes='cd /dev; find . \( -type b -o -type c \) | sed s,^./,, | sort'
        $ sh -c "$nodes" | grep -vE "$own" >outside
        $ hull run --rm --privileged busybox sh -c "$nodes" | grep -vE "$own" | diff - outside && echo same
        same
        $ hull run --rm --privileged busybox grep CapEff /proc/self/status | diff - <(grep CapEff /proc/self/status) && echo same
        same
        $ hull run --rm --privileged busybox sh -c 'test -f /proc/keys && grep -c "^[a-z0-9]* /sys[ /].* ro," /proc/mounts; grep -w -e Seccomp -e NoNewPrivs /proc/self/status'
        0
        NoNewPrivs:	0
        Seccomp:	0
        $ hull run --rm --cap-add SYS_RESOURCE --cap-add ALL --cap-drop SYS_RESOURCE busybox true
        "#,
    );
}

/// Labels of modules that the machine has not are refused, not left out.
#[test]
fn labels_that_the_machine_has_not() {
    if std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y")) {
        return;
    }
    if Engine::under_test() == Engine::Docker {
        // It leaves the profile out without a word.
        return;
    }
    Daemon::start().session(
        r#"
        $ hull run --rm --security-opt apparmor=unconfined --security-opt label=disable busybox echo runs
        runs
        $ hull create --security-opt apparmor=mine busybox true 2>&1 | sed 's/^hull: //'
        Error response from daemon: the AppArmor profile mine: AppArmor is not enabled on this machine: start the container with apparmor=unconfined
        $ hull run --rm --security-opt label=type:mine --security-opt label=level:s0:c1,c2 busybox echo runs as well
        runs as well
        $ hull create --security-opt nonsense=1 busybox true 2>&1 | sed 's/^hull: //'
        Error response from daemon: invalid --security-opt 2: "nonsense=1"
        "#,
    );
}

/// Devices by name: what a specification says comes along, and nothing else.
#[test]
fn devices_of_the_container_device_interface() {
    if Engine::under_test() == Engine::Docker {
        // The Docker that the tests compare with is older than the interface.
        return;
    }
    let folder = tempfile::tempdir().expect("a folder for specifications");
    let daemon = Daemon::with(&["--cdi-spec-dir", &folder.path().display().to_string()]);
    daemon.session(&format!(
        r#"
        $ cd {0}; echo inside >file
        $ cat >vendor.json <<'X'
        > {{"cdiVersion": "0.6.0", "kind": "vendor.com/device", "containerEdits": {{"env": ["ALL=1"]}}, "devices": [
        >   {{"name": "log", "containerEdits": {{"env": ["WHICH=log"],
        >     "deviceNodes": [{{"path": "/dev/log0", "hostPath": "/dev/kmsg", "permissions": "w", "fileMode": 420}}],
        >     "mounts": [{{"hostPath": "{0}/file", "containerPath": "/etc/vendor", "options": ["ro", "bind"]}}]}}}},
        >   {{"name": "hooked", "containerEdits": {{"hooks": [{{"hookName": "createRuntime", "path": "/bin/true"}}]}}}}]}}
        > X
        $ hull run --rm --device vendor.com/device=log -e WHICH=none busybox sh -c 'echo $ALL $WHICH; cat /etc/vendor; stat -c "%t:%T %a" /dev/log0; : >/dev/log0 && echo written; cat /dev/log0' 2>&1
        1 log
        inside
        1:b 644
        written
        cat: can't open '/dev/log0': Operation not permitted
        [1]
        $ hull run --rm --device vendor.com/device=none busybox true 2>&1 | head -n 1 | sed 's/^.*daemon: //'
        CDI device injection failed: unresolvable CDI devices vendor.com/device=none
        $ hull run --rm --device vendor.com/device=hooked busybox true 2>&1 | head -n 1 | sed 's/^.*daemon: //'
        CDI device injection failed: vendor.com/device=hooked: its containerEdits have hooks, which hull does not do
        $ hull info -f '{{{{json .DiscoveredDevices}}}}'
        [{{"Source":"cdi","ID":"vendor.com/device=hooked"}},{{"Source":"cdi","ID":"vendor.com/device=log"}}]
        $ hull ps -aq
        "#,
        folder.path().display()
    ));
}

#[test]
fn graphics_processors_that_are_not_there() {
    Daemon::start().session(
        r#"
        $ hull create --name box --gpus all busybox true
        <id>
        $ hull start box 2>&1 | head -n 1 | sed 's/^.*daemon: //'
        could not select device driver "" with capabilities: [[gpu]]
        $ hull inspect -f '{{json .HostConfig.DeviceRequests}} {{.State.Status}}' box
        [{"Driver":"","Count":-1,"DeviceIDs":null,"Capabilities":[["gpu"]],"Options":{}}] created
        $ hull run --rm --gpus 1 busybox true 2>/dev/null
        [125]
        "#,
    );
}

/// What root makes inside belongs outside to who asked for the container, and not to the host's root.
#[test]
fn a_bind_whose_ids_are_mapped() {
    if Engine::under_test() == Engine::Docker {
        // hull's own.
        return;
    }
    Daemon::with(&["-G", "4321"]).session(
        r#"
        $ mkdir mine && echo outside >mine/file && chown -R 4321:4321 mine && here=$PWD
        $ me="setpriv --reuid 4321 --regid 4321 --clear-groups"
        $ $me hull run --rm -v $here/mine:/mine:idmap busybox sh -c 'stat -c "%u:%g" /mine/file; echo x >>/mine/file; mkdir /mine/new; touch /mine/other; chown 7:7 /mine/other'
        0:0
        $ stat -c '%n %u:%g' mine/*
        mine/file 4321:4321
        mine/new 4321:4321
        mine/other 7:7
        $ $me hull run --rm -v $here/mine:/mine busybox stat -c '%u:%g' /mine/file
        4321:4321
        $ touch mine/roots && $me hull run --rm -v $here/mine:/mine:idmap busybox sh -c 'stat -c "%u" /mine/roots; chown 4321 /mine/file' 2>&1
        65534
        chown: /mine/file: Value too large for defined data type
        [1]
        $ $me hull run --rm -v $here/made:/mine:idmap,ro busybox true; stat -c '%u:%g' made
        4321:4321
        $ $me hull create --name box -v $here/mine:/mine:idmap busybox true
        <id>
        $ echo copied >it && hull cp -q it box:/mine/it && stat -c '%u' mine/it
        4321
        $ hull run --rm -v $here/mine:/mine:idmap busybox stat -c '%u:%g' /mine/file
        4321:4321
        $ $me hull run --rm -v /proc:/mine:idmap busybox true 2>&1 | grep -o 'map the ids of /proc for the mount on /mine: .*'
        map the ids of /proc for the mount on /mine: invalid argument: its file system cannot map ids on this kernel
        $ $me hull run --rm -v volume:/mine:idmap busybox true 2>&1 | grep -o 'invalid mode.*'
        invalid mode: idmap: idmap is for a folder or file of the host, and "volume" is a volume, which is root's
        "#,
    );
}
