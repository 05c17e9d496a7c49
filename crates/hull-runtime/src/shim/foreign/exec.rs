//! Another process in a container, by its runtime's `exec`. The shim does other things meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use super::bundle::{self, option};
use super::console::Console;
use super::invocation::{Invocation, Output};
use super::start::child_in;
use super::{Foreign, MAKING};
use crate::error::Context;
use crate::protocol::Exec;
use crate::shim::exec_cgroup::ExecCgroup;
use crate::shim::streams::Streams;
use crate::{Error, Result, container};

/// A process on its way. Dropped before it runs, its runtime's command is killed.
#[derive(Debug)]
pub(in crate::shim) struct Executing {
    invocation: Invocation,
    console: Option<Console>,
    process_file: PathBuf,
    pid_file: PathBuf,
    size: Option<(u16, u16)>,
    /// The process, once its runtime is through.
    process: Option<(i32, OwnedFd)>,
}

impl Foreign {
    /// Begins an exec in the container whose first process has this id.
    pub(in crate::shim) fn exec(
        &self,
        exec: &Exec,
        first: i32,
        streams: container::Streams,
    ) -> Result<Executing> {
        let doing = || "describe the process to the runtime".to_owned();
        let root = format!("/proc/{first}/root");
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, rustix::fs::Mode::empty()).context(doing)?;
        let mut process =
            bundle::looked_up(std::os::fd::AsFd::as_fd(&root), &exec.process, exec.user.as_ref())?;
        // An exec's warnings have no one to be shown to: the container's own start told the same.
        bundle::fit_process(&mut process, exec.stdio.size)?;
        let json =
            serde_json::to_vec(&process).map_err(|error| Error::refused(doing(), error.to_string()))?;
        let name = format!("exec-{}", exec.id);
        let process_file = self.bundle.write(&format!("{name}.json"), &json)?;
        let pid_file = self.bundle.pid_file(&name);
        let console =
            exec.stdio.terminal.then(|| Console::listen(self.bundle.folder(), &name)).transpose()?;
        let socket = console.as_ref().map(Console::path);
        let mut options: Vec<&OsStr> = vec!["--detach".as_ref()];
        options.extend(option("--process", &process_file));
        options.extend(option("--pid-file", &pid_file));
        if let Some(socket) = &socket {
            options.extend(option("--console-socket", socket));
        }
        match container::root_of(first) {
            // The host's own: there they are the host's root's already.
            Ok((0, 0)) => {}
            Ok(root) => container::give_streams(&streams, root)?,
            // Nobody is root there, to whom they could be given.
            Err(_) => {}
        }
        let output = match streams {
            container::Streams::Terminal { .. } => Output::Said,
            streams => Output::Process(streams),
        };
        let invocation = self.invoke(("exec", &name), &options, output, MAKING)?;
        Ok(Executing { invocation, console, process_file, pid_file, size: exec.stdio.size, process: None })
    }
}

impl Executing {
    /// Readable when [`Executing::step`] has something to say.
    pub(in crate::shim) fn fd(&self) -> i32 {
        self.invocation.ends().as_raw_fd()
    }

    /// When it is to be looked at even so.
    pub(in crate::shim) fn due(&self) -> Instant {
        self.invocation.due()
    }

    /// Whether the process is there; none: its runtime is not through.
    pub(in crate::shim) fn step(&mut self, streams: &mut Streams) -> Option<Result<()>> {
        let ended = self.invocation.ended(|| streams.printed())?;
        Some(ended.and_then(|()| {
            self.process = Some(child_in(&self.pid_file)?);
            self.take_terminal(streams)
        }))
    }

    /// The process, which is put into the exec's own cgroup with what it has started since.
    pub(in crate::shim) fn into_process(mut self, cgroup: Option<&ExecCgroup>) -> Result<(i32, OwnedFd)> {
        let Some((pid, _)) = &self.process else {
            return Err(Error::refused("execute in the container", "its runtime has made no process"));
        };
        if let Some(cgroup) = cgroup {
            cgroup.cgroup().adopt(*pid)?;
        }
        match self.process.take() {
            Some(process) => Ok(process),
            None => unreachable!("it was just looked at"),
        }
    }

    fn take_terminal(&self, streams: &mut Streams) -> Result<()> {
        let Some(console) = &self.console else { return Ok(()) };
        streams.set_terminal(console.terminal()?)?;
        if let Some((width, height)) = self.size {
            streams.resize(width, height)?;
        }
        Ok(())
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        if let Some((_, pidfd)) = &self.process {
            // It runs, and nobody would know.
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        }
        // Gone already, where it has come that far.
        let _ = std::fs::remove_file(&self.process_file);
        let _ = std::fs::remove_file(&self.pid_file);
    }
}
