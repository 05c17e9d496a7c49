#!/bin/bash
# The guest's first process: mounts what a machine has, does the job that the kernel's command line names, says how it
# ended on the console, and turns the machine off.
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8 TMPDIR=/tmp

asked() { # NAME: the value of hull.NAME on the kernel's command line
    local word
    for word in $(</proc/cmdline); do
        case $word in hull.$1=*) echo "${word#*=}" ;; esac
    done
}

cgroups_v2() {
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # As systemd does: the first process is not in the root, and what is below the root has every controller.
    mkdir /sys/fs/cgroup/init && echo $$ >/sys/fs/cgroup/init/cgroup.procs
}

cgroups_v1() {
    local controller
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for controller in cpu,cpuacct cpuset memory pids devices freezer blkio hugetlb perf_event net_cls,net_prio; do
        mkdir "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" ||
            rmdir "/sys/fs/cgroup/$controller"
    done
    mkdir /sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
}

# The tests' policy, in one write, as the kernel wants it; it is not enforced yet.
selinux() {
    mount -t selinuxfs selinuxfs /sys/fs/selinux
    dd if=/vm/policy of=/sys/fs/selinux/load bs=16M count=1 status=none
    export HULL_TESTS_NEED_SELINUX=1
}

machine() {
    mount -t sysfs sysfs /sys
    mount -t securityfs securityfs /sys/kernel/security
    mount -t devtmpfs dev /dev
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=1777 shm /dev/shm
    mount -t tmpfs -o mode=755 run /run
    mount -o remount,rw /
    mount --make-rshared /
    [ "$(asked tests)" != selinux ] || selinux
    "cgroups_$(asked cgroup)"
    # All at once and before there is work: patching the kernel's text while both processors are busy is what
    # emulation does worst.
    modprobe -aq overlay veth bridge br_netfilter nf_tables nft_chain_nat nft_nat nft_masq nft_ct nft_fib_inet \
        nft_reject_inet nf_conntrack nf_nat dummy loop xfs btrfs quota_v2
    hostname guest
    ip link set lo up
    # Swap, so that limits on it can be seen to hold.
    truncate -s 0 /swap && chmod 600 /swap && head -c 134217728 /dev/zero >/swap
    busybox mkswap /swap >/dev/null && busybox swapon /swap
}

# What every process waits for, where tests go on for longer than any does: the machine is given up soon after.
watched() {
    read -r -t 200 <>/run/never
    echo "-- still running after 200 s; what there is, and what it waits for:"
    ps axww --forest -o pid,ppid,stat,wchan:24,args | grep -v '\[.*\]$' | cut -c1-200
    grep . /sys/fs/cgroup/freezer/*/*/freezer.state
}

tests() {
    local status=0 line
    export HULL_BIN=/usr/bin/hull HULL_TESTS_NEED_CIFS=1
    [ "$(asked tests)" = selinux ] || export HULL_TESTS_NEED_APPARMOR=1
    mkfifo /run/never
    while read -r -u 9 line; do
        # The words behind the program's name are the tests to run.
        set -- $line
        echo "== $*"
        watched </dev/null 2>/dev/null &
        "$1" --test-threads=2 "${@:2}" </dev/null || status=1
        kill $! 2>/dev/null && wait $! 2>/dev/null
    done 9<"/vm/tests-on-$(asked tests)"
    return $status
}

# Where systemd is asked for, it is the first process and begins this script again as its one unit.
on_systemd() {
    mount -o remount,rw /
    modprobe -aq overlay veth
}

[ $$ != 1 ] || mount -t proc proc /proc
case $(asked cgroup),$$ in
    systemd,1) exec /usr/lib/systemd/systemd --unit=vm.service ;;
    systemd,*) on_systemd ;;
    *) machine ;;
esac
case $(asked job) in
    tests) tests ;;
    reset) /vm/reset "$(asked step)" ;;
    *) echo "hull.job: what?"; false ;;
esac
echo "vm: ended with $?"
busybox poweroff -f
