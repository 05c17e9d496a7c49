//! Exec: another process in a container that runs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Process;

use super::config;
use super::create::{of_process, write_pid};
use super::descriptors::{check_preserved, send_pidfd, send_terminal};
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
    /// Cgroups below the container's, from there: one, or for v1's controllers `CONTROLLER[,CONTROLLER]:PATH` each; none: the
    /// container's own.
    pub cgroup: Vec<String>,
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
        let (cgroup, apart) = self.cgroups_of_exec(exec)?;
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
            apart: &apart,
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
            match child.step().map_err(of_process)? {
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

    /// Where the process goes, and in which v1 hierarchies it goes elsewhere.
    fn cgroups_of_exec(&self, exec: &Exec) -> Result<(Cgroup, Vec<PathBuf>)> {
        let own = || match self.record.cgroup.as_str() {
            "" => Ok(Cgroup::nowhere()),
            _ => self.existing_cgroup("exec in"),
        };
        match of_controllers(&exec.cgroup)? {
            Below::Nothing => Ok((own()?, Vec::new())),
            Below::All(path) => {
                let path = below(path)?;
                Cgroup::open(&format!("{}{path}", self.record.cgroup)).map(|cgroup| (cgroup, Vec::new()))
            }
            Below::Some(paths) => {
                let own = own()?;
                let apart = paths.into_iter().map(|(controller, path)| {
                    let path = below(path)?;
                    own.v1_below(controller, &path).ok_or_else(|| {
                        let reason = "the container has no v1 cgroup of that controller";
                        Error::refused(format!("unknown controller {controller} (--cgroup)"), reason)
                    })
                });
                let apart = apart.collect::<Result<Vec<_>>>()?;
                Ok((own, apart))
            }
        }
    }
}

/// What `--cgroup` names.
#[derive(Debug, PartialEq, Eq)]
enum Below<'w> {
    Nothing,
    /// One path in every hierarchy.
    All(&'w str),
    /// Controllers, each with its path.
    Some(Vec<(&'w str, &'w str)>),
}

fn of_controllers(words: &[String]) -> Result<Below<'_>> {
    let invalid =
        |word: &str, reason: &str| Error::refused(format!("invalid --cgroup argument {word:?}"), reason);
    let mut paths: Vec<(&str, &str)> = Vec::new();
    for word in words {
        let parts: Vec<&str> = word.split(':').collect();
        match parts.as_slice() {
            [path] if words.len() == 1 => return Ok(Below::All(path)),
            [_] => return Err(invalid(word, "missing <controller>: prefix where there are several")),
            [controllers, path] => {
                for controller in controllers.split(',') {
                    if paths.iter().any(|(other, _)| *other == controller) {
                        return Err(invalid(word, "a controller is specified multiple times"));
                    }
                    paths.push((controller, path));
                }
            }
            _ => return Err(invalid(word, "it is PATH or CONTROLLER[,CONTROLLER]:PATH")),
        }
    }
    Ok(if paths.is_empty() { Below::Nothing } else { Below::Some(paths) })
}

/// A path below the container's cgroup, with a slash before it; empty for that one itself.
fn below(path: &str) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(Error::refused(
            format!("{path} is not a sub cgroup path (--cgroup)"),
            "it leads out of the container's",
        ));
    }
    Ok(parts.iter().map(|part| format!("/{part}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_named_for_all_or_for_some_controllers() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(of_controllers(&[]).unwrap(), Below::Nothing);
        assert_eq!(of_controllers(&words(&["/a"])).unwrap(), Below::All("/a"));
        let some = words(&["cpu,pids:a", "memory:/"]);
        let all = vec![("cpu", "a"), ("pids", "a"), ("memory", "/")];
        assert_eq!(of_controllers(&some).unwrap(), Below::Some(all));
        for wrong in [&["a", "b"][..], &["cpu:a", "b"], &["cpu:a", "pids,cpu:b"], &["cpu:a:b"]] {
            assert!(of_controllers(&words(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_path_below_does_not_lead_out() {
        assert_eq!(below("/").unwrap(), "");
        assert_eq!(below("a//b/").unwrap(), "/a/b");
        assert!(below("a/../..").is_err());
    }
}
