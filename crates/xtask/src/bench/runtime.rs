//! An OCI runtime, driven by its command line.

#![allow(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::contestants::Scene;
use crate::Result;

/// Where the v2 tree is on a machine with both versions.
const V2_BESIDE_V1: &str = "/sys/fs/cgroup/unified";

/// An OCI runtime with a bundle.
pub(crate) struct Runtime {
    pub(super) name: &'static str,
    /// The program, with the words that come first.
    program: Vec<String>,
    root: PathBuf,
    bundle: PathBuf,
    count: u32,
    /// Whether the v2 tree is hidden from it, for it takes no machine that mounts cgroups of both versions. It has one
    /// hierarchy less to look after then.
    hidden: bool,
}

impl Runtime {
    pub(super) fn new(name: &'static str, program: &[&str], scene: &Scene) -> Self {
        let program = program.iter().map(|word| (*word).to_owned()).collect();
        let root = scene.dir().join(format!("{name}-containers"));
        let hidden = name == "crun" && Path::new(V2_BESIDE_V1).join("cgroup.procs").exists();
        Self { name, program, root, bundle: scene.dir().join("bundle"), count: 0, hidden }
    }

    /// `RUNTIME run`.
    fn command(&mut self) -> Command {
        self.count += 1;
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).arg("--root").arg(&self.root).arg("run").arg("--bundle");
        command.arg(&self.bundle).arg(format!("bench-{}-{}", std::process::id(), self.count));
        command
    }

    /// `RUNTIME run`, from its execution to its exit, in milliseconds.
    pub(crate) fn container(&mut self) -> Result<f64> {
        let name = self.name;
        let mut command = self.command();
        let (output, took) = self.seeing_cgroups(move || {
            let begin = Instant::now();
            Ok((command.output()?, super::rows::milliseconds(begin)))
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{name} run: {}: {}", output.status, said.trim()).into());
        }
        Ok(took)
    }

    /// Does something where cgroups are mounted as the runtime takes them: in a mount namespace of a thread's own if need
    /// be.
    fn seeing_cgroups<T: Send>(&self, run: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        if !self.hidden {
            return Ok(run()?);
        }
        let hidden = || {
            // SAFETY: the thread shares its descriptors as before, and nobody else its namespace.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            unmount(V2_BESIDE_V1, UnmountFlags::DETACH)?;
            run()
        };
        let done = std::thread::scope(|scope| scope.spawn(hidden).join());
        Ok(done.map_err(|_| "a thread of the bench")??)
    }

    /// The most memory that a `RUNTIME run` has resident, in MiB.
    pub(crate) fn peak(&mut self) -> Result<f64> {
        let command = self.command();
        let exe = std::env::current_exe()?;
        let mut words = vec!["peak", command.get_program().to_str().ok_or("a program that is not UTF-8")?];
        for word in command.get_args() {
            words.push(word.to_str().ok_or("a word that is not UTF-8")?);
        }
        let mut command = Command::new(exe);
        command.args(&words).stdin(Stdio::null()).stderr(Stdio::inherit());
        let printed = self.seeing_cgroups(move || command.output())?;
        Ok(String::from_utf8_lossy(&printed.stdout).trim().parse()?)
    }
}
