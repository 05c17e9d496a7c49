//! Containers started on this machine's kernel, from busybox, and looked at from inside and outside. Needs
//! root and Debian's busybox-static.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::runtime::Spec;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};

use super::*;
use crate::cgroup::Cgroup;

mod exec;
mod failing;
mod mapped;
mod running;
mod tuned;

/// A root file system of busybox and what it needs to be one.
pub(super) struct Bench {
    folder: tempfile::TempDir,
    cgroup: Cgroup,
    pub(super) spec: Value,
    pub(super) layers: usize,
    /// The layers' ids are mapped.
    pub(super) mapped: bool,
    pub(super) filter: Option<seccomp::Filter>,
    pub(super) init: bool,
}

/// How a container ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) output: String,
    pub(super) status: i32,
    pub(super) warnings: Vec<String>,
    pub(super) error: Option<Error>,
}

const APPLETS: [&str; 25] = [
    "sh", "cat", "ls", "echo", "id", "mount", "readlink", "stat", "hostname", "tty", "touch", "true",
    "sleep", "ps", "grep", "chmod", "umount", "mkdir", "kill", "env", "pwd", "mknod", "stty", "wc", "cut",
];

impl Bench {
    pub(super) fn new() -> Bench {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            std::fs::create_dir_all(base.join(name)).unwrap();
        }
        // By another process: what this one has open for writing, a container that another test starts just now has open
        // too, and the program cannot be executed meanwhile.
        let copied = std::process::Command::new("cp").arg("/usr/bin/busybox").arg(base.join("bin")).status();
        assert!(copied.unwrap().success(), "busybox is copied");
        for applet in APPLETS {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            base.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/u:/bin/sh\n",
        )
        .unwrap();
        for name in ["upper", "work", "more"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let path = format!("/hull-test-{}/{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (cgroup, _) = Cgroup::create(&path, None).unwrap();
        Bench { folder, cgroup, spec: spec(), layers: 1, mapped: false, filter: None, init: false }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn command(&mut self, arguments: &[&str]) -> &mut Bench {
        self.spec["process"]["args"] = json!(arguments);
        self
    }

    pub(super) fn shell(&mut self, script: &str) -> &mut Bench {
        self.command(&["/bin/sh", "-c", script])
    }

    pub(super) fn rootfs(&self) -> Rootfs {
        let mut lower: Vec<PathBuf> = Vec::new();
        for layer in 1..self.layers {
            let path = self.path("more").join(layer.to_string());
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(format!("layer-{layer}")), "").unwrap();
            lower.push(path);
        }
        lower.push(self.path("base"));
        Rootfs::Overlay { lower, upper: self.path("upper"), work: self.path("work"), mapped: self.mapped }
    }

    pub(super) fn parsed(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    /// Runs the container to its end in a process of its own (the test's has threads), which does what a shim
    /// would: `with` is called there once the command runs.
    pub(super) fn run_with(&self, with: impl Fn(&Child, &mut Outcome)) -> Outcome {
        let (spec, rootfs) = (self.parsed(), self.rootfs());
        in_a_shim(|outcome| {
            let terminal = spec.process().as_ref().unwrap().terminal() == Some(true);
            let (streams, output) = streams(terminal);
            let start = Start {
                filter: self.filter.as_ref(),
                init: self.init,
                ..Start::plain(&spec, &rootfs, streams, &self.cgroup)
            };
            let child = super::start(start)?;
            conduct(child, output, outcome, &with)
        })
    }

    pub(super) fn run(&self) -> Outcome {
        self.run_with(|_, _| {})
    }

    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.cgroup.kill_all();
        let removed = self.cgroup.remove();
        // The last one takes the folder above along.
        let _ =
            Cgroup::open(&format!("/hull-test-{}", std::process::id())).map(|above| above.remove_if_empty());
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// The child's ends of its streams, and what to read its output from.
pub(super) fn streams(terminal: bool) -> (Streams, Option<OwnedFd>) {
    if terminal {
        return (Streams::Terminal { size: Some((100, 40)) }, None);
    }
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let stdin = OwnedFd::from(File::open("/dev/null").unwrap());
    (Streams::Pipes { stdin, stderr: writer.try_clone().unwrap(), stdout: writer }, Some(reader))
}

/// Leads a child through its steps and to its end.
pub(super) fn conduct(
    mut child: Child,
    mut output: Option<OwnedFd>,
    outcome: &mut Outcome,
    with: impl Fn(&Child, &mut Outcome),
) -> Result<()> {
    loop {
        match child.step()? {
            Step::Warning(text) => outcome.warnings.push(text),
            Step::Terminal(master) => output = Some(master),
            Step::NeedsNetwork => {
                let own = File::open("/proc/self/ns/net").unwrap();
                child.give_network(own.as_fd())?;
            }
            Step::Running => break,
            Step::NeedsHooks | Step::Held => panic!("nothing was to be held"),
        }
    }
    with(&child, outcome);
    let mut text = Vec::new();
    // A terminal's master ends with EIO.
    let _ = File::from(output.unwrap()).read_to_end(&mut text);
    outcome.output = String::from_utf8_lossy(&text).into_owned();
    let pidfd = child.into_pidfd();
    let ended = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    outcome.status = match (ended.exit_status(), ended.terminating_signal()) {
        (Some(status), _) => status,
        (None, signal) => 128 + signal.unwrap(),
    };
    Ok(())
}

/// Runs `shim` in a forked, single-threaded process and brings its outcome back.
pub(super) fn in_a_shim(shim: impl FnOnce(&mut Outcome) -> Result<()>) -> Outcome {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: glibc's fork makes the allocator usable in the child, which ends without returning.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        drop(reader);
        let mut outcome = Outcome::default();
        let result = catch_unwind(AssertUnwindSafe(|| shim(&mut outcome)));
        outcome.error = match result {
            Ok(result) => result.err(),
            Err(_) => Some(Error::refused("the test's shim", "it panicked")),
        };
        let words = json!([outcome.output, outcome.status, outcome.warnings, outcome.error]);
        let _ = writer.write_all(words.to_string().as_bytes());
        sys::exit_now(0);
    }
    drop(writer);
    let mut words = String::new();
    reader.read_to_string(&mut words).unwrap();
    // SAFETY: reaps the child forked above.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    let (output, status, warnings, error) = serde_json::from_str(&words).unwrap();
    Outcome { output, status, warnings, error }
}

/// Docker's usual configuration, in what matters here.
fn spec() -> Value {
    let caps = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETUID", "CAP_MKNOD", "CAP_KILL"];
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "hostname": "box",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["ro", "nosuid", "noexec", "nodev"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "mount" }, { "type": "network" }, { "type": "uts" }, { "type": "pid" },
                { "type": "ipc" }, { "type": "cgroup" },
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
