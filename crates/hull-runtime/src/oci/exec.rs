//! Exec: another process in a container that runs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Process;

use super::config;
use super::create::{check_preserved, send_pidfd, send_terminal, write_pid};
use super::{Console, Container, Status};
use crate::cgroup::Cgroup;
use crate::container::{self, ContainerState, ExecIn, Step, Streams};
use crate::{Error, Result, seccomp};

/// What [`Container::exec`] is asked for.
#[derive(Clone, Debug)]
pub struct Exec {
    /// The process.
    pub process: Process,
    /// Where the master of its terminal goes, if it wants one.
    pub console: Option<Console>,
    /// A file that gets its process id.
    pub pid_file: Option<PathBuf>,
    /// A socket that gets a pidfd of it.
    pub pidfd_socket: Option<PathBuf>,
    /// How many of the caller's descriptors, from 3 on, it gets.
    pub preserve_fds: u32,
    /// Whether it lives on without its parent.
    pub detach: bool,
    /// Whether it may be put into a container that stands still, where it waits as well.
    pub ignore_paused: bool,
    /// A cgroup below the container's, from there; none: the container's own.
    pub cgroup: Option<String>,
}

/// A process that runs in a container, a child of the caller's.
#[derive(Debug)]
pub struct Executed {
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The master of its terminal, for [`Console::Caller`].
    pub terminal: Option<OwnedFd>,
    /// What this machine does not grant.
    pub warnings: Vec<String>,
}

impl Container {
    /// Executes another process. Returns when its exec has succeeded. The caller must be single-threaded.
    ///
    /// # Errors
    /// The container does not run; the process is not valid; its exec failed.
    pub fn exec(&self, exec: &Exec) -> Result<Executed> {
        let doing = || format!("exec in the container {}", self.id());
        match self.status()? {
            Status::Running | Status::Created => {}
            Status::Paused if exec.ignore_paused => {}
            Status::Paused => {
                let reason = "cannot exec in a paused container (use --ignore-paused to override)";
                return Err(Error::refused(doing(), reason));
            }
            Status::Stopped => return Err(Error::refused(doing(), "cannot exec in a stopped container")),
        }
        config::check_process(Some(&exec.process))?;
        let terminal = exec.process.terminal() == Some(true);
        match (terminal, &exec.console) {
            (true, None) => {
                let reason = "cannot allocate tty if hull will detach without setting console socket";
                return Err(Error::refused(doing(), reason));
            }
            (false, Some(Console::Socket(_))) => {
                return Err(Error::refused(doing(), "cannot use console socket without a terminal (--tty)"));
            }
            _ => {}
        }
        check_preserved(exec.preserve_fds)?;
        let spec = self.config()?;
        let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let filter = filter.map(seccomp::compile).transpose()?;
        let pid = self.record.pid;
        let Some(target) = self.first_process()? else {
            return Err(Error::refused(doing(), "cannot exec in a stopped container"));
        };
        let cgroup = self.cgroup_of_exec(exec)?;
        let size = exec.process.console_size();
        let size =
            size.and_then(|size| Some((size.width().try_into().ok()?, size.height().try_into().ok()?)));
        let streams = if terminal { Streams::Terminal { size } } else { Streams::Inherited };
        let mut child = container::exec(ExecIn {
            target_pid: pid,
            target_pidfd: target.as_fd(),
            process: &exec.process,
            filter: filter.as_ref(),
            streams,
            cgroup: &cgroup,
            leaf: None,
            user: None,
            preserved: exec.preserve_fds,
            detached: exec.detach,
            state: Some(&ContainerState {
                version: self.record.oci_version.clone(),
                json: self.hook_state("running", pid),
            }),
        })?;
        let (mut master, mut warnings) = (None, Vec::new());
        loop {
            match child.step()? {
                Step::Warning(warning) => warnings.push(warning),
                Step::Terminal(terminal) => match &exec.console {
                    Some(Console::Socket(path)) => send_terminal(path, &terminal)?,
                    Some(Console::Caller) | None => master = Some(terminal),
                },
                Step::Running => break,
                // Hooks have no part in an exec; what it wants is its process id.
                Step::NeedsHooks => child.hooks_are_done()?,
                Step::NeedsNetwork | Step::Held => {
                    return Err(Error::refused(doing(), "the new process waits for what is not for it"));
                }
            }
        }
        if let Some(file) = &exec.pid_file {
            write_pid(file, child.pid())?;
        }
        if let Some(socket) = &exec.pidfd_socket {
            send_pidfd(socket, child.pidfd())?;
        }
        Ok(Executed { pidfd: child.into_pidfd(), terminal: master, warnings })
    }

    fn cgroup_of_exec(&self, exec: &Exec) -> Result<Cgroup> {
        match &exec.cgroup {
            None if self.record.cgroup.is_empty() => Ok(Cgroup::nowhere()),
            None => self.existing_cgroup("exec in"),
            Some(below) => {
                let path = format!("{}/{}", self.record.cgroup, below.trim_matches('/'));
                Cgroup::open(path.trim_end_matches('/'))
            }
        }
    }
}
