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
        // The kernel does not ask whether the timer ticks in time: where the host is busy an emulated one seems not to, and
        // the machine stops before it has begun.
        let append = format!("console=ttyS0 quiet panic=-1 no_timer_check swapaccount=1 {job}");
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
            Err(RecvTimeoutError::Timeout) => {
                Err("the machine was given up: it said nothing for too long".into())
            }
        }
    }

    /// The next line of its console, if it comes by then.
    pub(super) fn line_before(&self, until: Instant) -> Option<String> {
        self.lines.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }

    /// Prints what it prints, until it ends; an error where it says no good last word, or nothing at all for so long.
    /// Returns how many tests have passed in it.
    pub(super) fn run_to_its_end(mut self, silence: Duration) -> Result<u64> {
        let mut last = None;
        let mut passed = 0;
        while let Some(line) = self.line(Instant::now() + silence)? {
            println!("  {line}");
            passed += passed_by(&line);
            if let Some(status) = line.strip_prefix(LAST_WORD) {
                last = Some(status.to_owned());
            }
        }
        self.process.wait()?;
        match last.as_deref() {
            Some("0") => Ok(passed),
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

/// How many tests a line says have passed: `test result: ok. 3 passed; 0 failed; …`.
fn passed_by(line: &str) -> u64 {
    let result = line.trim_start().strip_prefix("test result: ").and_then(|rest| rest.split_once(". "));
    let number = result.and_then(|(_, counts)| counts.split_once(" passed"));
    number.and_then(|(number, _)| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::passed_by;

    #[test]
    fn what_has_passed_is_read_from_the_closing_lines() {
        let line =
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.00s";
        assert_eq!(passed_by(line), 3);
        assert_eq!(passed_by("test result: FAILED. 2 passed; 1 failed"), 2);
        assert_eq!(
            passed_by("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out"),
            0
        );
        assert_eq!(passed_by("test one ... ok"), 0);
    }
}
