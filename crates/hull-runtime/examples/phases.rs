//! Where the time of a container's life goes: starts containers of busybox's `true` one after the other, as a
//! shim would, and prints each phase in microseconds: the median, and the tenth percentile for a machine that is
//! busy with something else. Needs root and Debian's busybox-static.
//!
//! `cargo run --release -p hull-runtime --example phases [rounds]`; below it, `strace -f -r` and `perf trace`
//! show the single calls.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use hull_runtime::cgroup::Cgroup;
use hull_runtime::container::{self, ExecIn, Start, Step, Streams};
use hull_runtime::protocol::Rootfs;
use hull_runtime::{Result, seccomp};
use oci_spec::runtime::{Capability, Spec};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde_json::{Value, json};

type Marks = Vec<(&'static str, u128)>;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(200), |rounds| rounds.parse())?;
    let folder = tempfile::tempdir()?;
    prepare(folder.path())?;
    let begin = Instant::now();
    let filter = seccomp::default_filter(&[Capability::Chown])?;
    println!("compile the default filter: {} µs", begin.elapsed().as_micros());
    for (name, own_network, filtered) in [
        ("the host's network, no filter", false, false),
        ("the host's network", false, true),
        ("an empty network namespace", true, true),
    ] {
        let filter = filtered.then_some(&filter);
        print(name, (0..rounds).map(|_| life(folder.path(), own_network, filter)).collect::<Result<_>>()?);
    }
    print("exec in a running container", execs(folder.path(), &filter, rounds, true)?);
    print("the same in the container's own cgroup", execs(folder.path(), &filter, rounds, false)?);
    Ok(())
}

fn print(name: &str, lives: Vec<Marks>) {
    println!("{name}:");
    for index in 0..lives[0].len() {
        let mut times: Vec<u128> = lives.iter().map(|life| life[index].1).collect();
        times.sort_unstable();
        let (name, tenth, median) = (lives[0][index].0, times[times.len() / 10], times[times.len() / 2]);
        println!("  {name:38} {median:6} {tenth:6}");
    }
}

/// Times since the last mark, in microseconds.
struct Clock(Instant, Marks);

impl Clock {
    fn mark(&mut self, name: &'static str) {
        self.1.push((name, self.0.elapsed().as_micros()));
        self.0 = Instant::now();
    }
}

fn life(folder: &Path, own_network: bool, filter: Option<&seccomp::Filter>) -> Result<Marks> {
    let spec: Spec =
        serde_json::from_value(spec(own_network, &["/bin/true"])).expect("a valid configuration");
    // New ones for each container, as the engine makes them: on the same ones a mount would wait until the disk has
    // what the last container's end made it write.
    let layer = tempfile::tempdir_in(folder).expect("a folder for the writable layer");
    let rootfs = rootfs(folder, layer.path());
    let whole = Instant::now();
    let mut clock = Clock(whole, Vec::new());
    let (cgroup, _) =
        Cgroup::create("/hull-phases/one", spec.linux().as_ref().and_then(|l| l.resources().as_ref()))?;
    clock.mark("make the cgroup");
    let start = Start { filter, ..Start::plain(&spec, &rootfs, null_streams(), &cgroup) };
    let mut child = container::start(start)?;
    clock.mark("clone the first process");
    while !matches!(child.step()?, Step::Running) {}
    clock.mark("until exec has succeeded");
    let root = child.take_root();
    let pidfd = child.into_pidfd();
    reap(&pidfd);
    clock.mark("until the program has ended");
    let ended = whole.elapsed().as_micros();
    cgroup.remove()?;
    clock.mark("remove the cgroup");
    drop(root);
    clock.mark("let go of the root file system");
    clock.1.push(("from the first to the program's end", ended));
    Ok(clock.1)
}

fn execs(folder: &Path, filter: &seccomp::Filter, rounds: usize, in_a_leaf: bool) -> Result<Vec<Marks>> {
    let spec: Spec =
        serde_json::from_value(spec(false, &["/bin/sleep", "1000"])).expect("a valid configuration");
    let process = serde_json::from_value(spec_of_process(&["/bin/true"])).expect("a valid process");
    let layer = tempfile::tempdir_in(folder).expect("a folder for the writable layer");
    let rootfs = rootfs(folder, layer.path());
    let (cgroup, _) = Cgroup::create("/hull-phases/two", None)?;
    let start = Start { filter: Some(filter), ..Start::plain(&spec, &rootfs, null_streams(), &cgroup) };
    let mut first = container::start(start)?;
    while !matches!(first.step()?, Step::Running) {}
    let pid = first.pid();
    let first = first.into_pidfd();
    let exec = || -> Result<Marks> {
        let whole = Instant::now();
        let mut clock = Clock(whole, Vec::new());
        let leaf = in_a_leaf.then(|| Cgroup::leaf("/hull-phases/two/exec")).transpose()?;
        let mut child = container::exec(ExecIn {
            target_pid: pid,
            target_pidfd: first.as_fd(),
            process: &process,
            filter: Some(filter),
            streams: null_streams(),
            cgroup: &cgroup,
            apart: &[],
            leaf: leaf.as_ref(),
            user: None,
            preserved: 0,
            detached: false,
            state: None,
        })?;
        clock.mark("clone");
        while !matches!(child.step()?, Step::Running) {}
        clock.mark("until exec has succeeded");
        reap(&child.into_pidfd());
        clock.mark("until the program has ended");
        if let Some(leaf) = leaf {
            leaf.remove_leaf();
            clock.mark("remove its cgroup");
        }
        clock.1.push(("all of it", whole.elapsed().as_micros()));
        Ok(clock.1)
    };
    let marks = (0..rounds).map(|_| exec()).collect();
    let _ = pidfd_send_signal(&first, Signal::KILL);
    reap(&first);
    cgroup.remove()?;
    let above = Cgroup::open("/hull-phases")?;
    above.remove()?;
    marks
}

fn reap(pidfd: &OwnedFd) {
    let ended = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).expect("the child is ours");
    let signal = ended.and_then(|ended| ended.terminating_signal());
    assert!(signal.is_none() || signal == Some(9), "the container died of signal {signal:?}");
}

fn null_streams() -> Streams {
    let null = || {
        OwnedFd::from(File::options().read(true).write(true).open("/dev/null").expect("/dev/null is there"))
    };
    Streams::Pipes { stdin: null(), stdout: null(), stderr: null() }
}

fn prepare(folder: &Path) -> std::io::Result<()> {
    let base = folder.join("base");
    for name in ["bin", "etc", "proc", "sys", "dev"] {
        std::fs::create_dir_all(base.join(name))?;
    }
    std::fs::copy("/usr/bin/busybox", base.join("bin/busybox"))?;
    for applet in ["true", "sleep"] {
        std::os::unix::fs::symlink("busybox", base.join("bin").join(applet))?;
    }
    Ok(())
}

fn rootfs(folder: &Path, layer: &Path) -> Rootfs {
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    for made in [&upper, &work] {
        std::fs::create_dir(made).expect("a new folder");
    }
    Rootfs::Overlay { lower: vec![folder.join("base")], upper, work, mapped: false }
}

fn spec_of_process(arguments: &[&str]) -> Value {
    let caps = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    json!({
        "user": { "uid": 0, "gid": 0 },
        "args": arguments,
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=box", "HOME=/root"],
        "cwd": "/",
        "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
        "oomScoreAdj": 0,
    })
}

/// Docker's configuration of a container with a limit on memory and one on processes.
fn spec(own_network: bool, arguments: &[&str]) -> Value {
    let mut namespaces = vec!["mount", "uts", "pid", "ipc", "cgroup"];
    namespaces.extend(own_network.then_some("network"));
    let namespaces: Vec<Value> = namespaces.into_iter().map(|kind| json!({ "type": kind })).collect();
    let safe = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.2.0",
        "hostname": "box",
        "process": spec_of_process(arguments),
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": safe },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["ro", "nosuid", "noexec", "nodev"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": safe },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": {
                "devices": [{ "allow": false, "access": "rwm" }],
                "memory": { "limit": 268435456, "swap": 268435456 },
                "pids": { "limit": 100 },
            },
            "maskedPaths": ["/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
