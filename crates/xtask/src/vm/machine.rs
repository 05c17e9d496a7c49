//! One virtual machine: boots, prints what it prints, and says at its end whether all was well.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::kernel::Kernel;
use crate::Result;

/// What the guest prints at its end, followed by its exit status.
const LAST_WORD: &str = "vm: ended with ";

/// A running machine; it is killed when dropped.
pub(super) struct Machine {
    process: Child,
    lines: Receiver<String>,
}

impl Machine {
    /// Boots the kernel on the root disk, which it does not change, with a second disk where one is given;
    /// `job` is what the guest's own init is told on the kernel's command line.
    pub(super) fn boot(kernel: &Kernel, root: &Path, second: Option<&Path>, job: &str) -> Result<Self> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2048",
        ]);
        command.args(["-display", "none", "-nic", "none", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&kernel.initrd);
        let append = format!("console=ttyS0 quiet panic=-1 swapaccount=1 {job}");
        command.args(["-append", &append]);
        let disk = |path: &Path, more: &str| format!("file={},format=raw,if=virtio{more}", path.display());
        command.arg("-drive").arg(disk(root, ",snapshot=on"));
        if let Some(second) = second {
            command.arg("-drive").arg(disk(second, ",cache=writeback"));
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("qemu-system-x86_64: {error}"))?;
        let console = process.stdout.take().ok_or("the machine has no console")?;
        let (sender, lines) = channel();
        // A thread of its own, so that a silent machine can be given up.
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(std::result::Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { process, lines })
    }

    /// The next line of its console; none at its end.
    pub(super) fn line(&self, until: Instant) -> Result<Option<String>> {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err("the machine was given up: it took too long".into()),
        }
    }

    /// The next line of its console, if it comes by then.
    pub(super) fn line_before(&self, until: Instant) -> Option<String> {
        self.lines.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }

    /// Prints what it prints, until it ends; an error where it says no good last word.
    pub(super) fn run_to_its_end(mut self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        let mut last = None;
        while let Some(line) = self.line(until)? {
            println!("  {line}");
            if let Some(status) = line.strip_prefix(LAST_WORD) {
                last = Some(status.to_owned());
            }
        }
        self.process.wait()?;
        match last.as_deref() {
            Some("0") => Ok(()),
            Some(status) => Err(format!("what ran in it ended with {status}").into()),
            None => Err("the machine stopped without its last word".into()),
        }
    }

    /// Pulls the plug: what its kernel had not written to the disk is lost.
    pub(super) fn reset(self) {
        drop(self);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.process.kill().and_then(|()| self.process.wait()).ok();
        }
    }
}
