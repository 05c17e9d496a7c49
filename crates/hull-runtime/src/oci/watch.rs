//! The first process's exec, watched: it must not come to execute hull's own binary, from where what runs in the container
//! could open and overwrite it (CVE-2019-5736).
//!
//! A command can name that binary as `/proc/self/exe`, or as the interpreter of a script, for until its exec the first
//! process is hull. The kernel stops a traced process when an exec has succeeded and before the new program's first
//! instruction; there one looks at what was executed. That costs some tens of microseconds where executing hull anew from
//! a file that nobody can write costs a millisecond. Source: `ptrace(2)`, `PTRACE_O_TRACEEXEC`.

use std::os::unix::fs::MetadataExt;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::thread::{CapabilitySet, capabilities};

use crate::error::Context;
use crate::sys::{self, TraceEvent};
use crate::{Error, Result};

/// Whether a container's exec can be watched, and watching is enough: nothing else in there may look at the first process
/// before its exec, which a process of the same pid namespace could that has CAP_SYS_PTRACE; and no security module
/// changes the label at an exec, which it refuses to who is traced.
pub(super) fn is_enough(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own_processes = namespaces.into_iter().flatten().any(|namespace| {
        namespace.typ() == LinuxNamespaceType::Pid
            && namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
    });
    let labelled = spec.process().as_ref().is_none_or(|process| {
        [process.apparmor_profile(), process.selinux_label()]
            .into_iter()
            .flatten()
            .any(|label| !label.is_empty())
    });
    let nobody =
        std::fs::read("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.first() == Some(&b'3'));
    let may =
        !nobody && capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_PTRACE));
    own_processes && !labelled && may
}

/// A process that is traced, and killed when its tracer dies.
#[derive(Debug)]
pub(super) struct Watched {
    pid: i32,
}

impl Watched {
    /// Begins.
    ///
    /// # Errors
    /// The kernel lets nobody trace (`kernel.yama.ptrace_scope`).
    pub(super) fn begin(pid: i32) -> Result<Watched> {
        let advice = "the kernel lets nobody trace (sysctl kernel.yama.ptrace_scope): create and start it";
        let refused = |_| Error::refused("watch the exec of the command", advice);
        sys::trace_execs(pid).map(|()| Watched { pid }).map_err(refused)
    }

    /// Waits until the process has executed its command, and lets it go if that is another program than hull.
    ///
    /// # Errors
    /// It is hull. The process is killed then.
    pub(super) fn exec(self) -> Result<()> {
        let doing = || "watch the exec of the command".to_owned();
        loop {
            match sys::next_trace_event(self.pid).context(doing)? {
                TraceEvent::Exec => break,
                // Its own report or the status of its end says why.
                TraceEvent::Ended => return Ok(()),
                TraceEvent::Signal(signal) => sys::trace_continue(self.pid, signal).context(doing)?,
            }
        }
        if self.has_executed_hull().context(doing)? {
            let _ = sys::kill(self.pid, libc::SIGKILL);
            let reason =
                "it leads to hull's own binary (/proc/self/exe), which nothing in a container may get at";
            return Err(Error::refused("execute the command", reason));
        }
        sys::trace_end(self.pid).context(doing)
    }

    /// Whether hull's binary is what it executes, or mapped into it as that program's interpreter.
    fn has_executed_hull(&self) -> std::io::Result<bool> {
        let own = std::fs::metadata("/proc/self/exe")?;
        let there = std::fs::metadata(format!("/proc/{}/exe", self.pid))?;
        if (own.dev(), own.ino()) == (there.dev(), there.ino()) {
            return Ok(true);
        }
        if !self.has_interpreter()? {
            return Ok(false);
        }
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        // Address, permissions, offset, device, inode, path. An inode's number is enough to be careful by: the device
        // is another than `stat`'s on some file systems.
        let inode = own.ino().to_string();
        Ok(maps.lines().any(|line| line.split_whitespace().nth(4) == Some(inode.as_str())))
    }

    /// Whether a program's interpreter was mapped as well, by the auxiliary vector that the kernel has made for it
    /// (`AT_BASE`), which costs a tenth of its map.
    fn has_interpreter(&self) -> std::io::Result<bool> {
        let mut vector = [0; 1024];
        let length = sys::read_once(&format!("/proc/{}/auxv", self.pid), &mut vector)?;
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).ok();
        let mut pairs = vector[..length].chunks_exact(16).map(|pair| (word(&pair[..8]), word(&pair[8..])));
        // One that does not say is looked at.
        Ok(pairs.find(|(key, _)| *key == Some(libc::AT_BASE)).is_none_or(|(_, base)| base != Some(0)))
    }
}
