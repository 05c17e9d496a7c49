//! The start of an exec.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use hull_runtime::protocol::{self, Attach, Limits, Reply, Request, Stdio, UserLookup};
use oci_spec::runtime::{Process, User};

use super::attach::{ClientStream, detach_keys};
use super::exec::{Exec, ExecClaim, NOT_STARTED, Phase};
use super::spec::with_variables;
use super::{Container, locked, prepare, security};
use crate::blocking::see_through;
use crate::model::ExecConfig;
use crate::{Engine, Error, Kind, Result};

/// How an exec is started.
pub struct ExecStart {
    /// Nobody is attached.
    pub detach: bool,
    /// The client, where it is not detached.
    pub client: Option<ClientStream>,
    /// What the client gets is in frames that say of which stream it is.
    pub framed: bool,
    /// The terminal's size at the start: height and width.
    pub console_size: Option<[u16; 2]>,
}

impl Engine {
    /// Starts an exec that was claimed.
    ///
    /// # Errors
    /// The command cannot be executed; its exit status is kept with it.
    pub async fn start_exec(self: &Arc<Self>, claim: ExecClaim, start: ExecStart) -> Result<()> {
        let engine = Arc::clone(self);
        // A client that goes away does not leave a process behind that nobody knows how it came up.
        see_through("start the command", async move { engine.start_exec_now(&claim, start).await }).await
    }

    async fn start_exec_now(&self, claim: &ExecClaim, start: ExecStart) -> Result<()> {
        let ExecClaim { container, exec } = claim;
        // Told first: its end, which is told next, may come before the answer to its start.
        self.tell_exec(container, exec, "exec_start");
        let started = self.try_start_exec(container, exec, start).await;
        let mut state = locked(&exec.state);
        match started {
            Ok(pid) => {
                state.pid = pid;
                // A short one may have ended already.
                if state.phase == Phase::Starting {
                    state.phase = Phase::Running;
                }
                drop(state);
                exec.ended.send_modify(|_| {});
                Ok(())
            }
            Err(error) => {
                let by_other = self.runtimes().foreign(&container.record().host_config);
                let error = not_started(error, matches!(by_other, Ok(Some(_))));
                state.failed(i32::from(error.exit_status));
                drop(state);
                exec.ended.send_replace(true);
                Err(error)
            }
        }
    }

    async fn try_start_exec(&self, container: &Container, exec: &Exec, start: ExecStart) -> Result<i32> {
        let config = &exec.config;
        let size =
            start.console_size.or(config.console_size).filter(|size| size.iter().all(|side| *side > 0));
        let attach = match (&start.client, start.detach) {
            (Some(client), false) => Some(Attach {
                exec: Some(exec.id.clone()),
                stdin: config.attach_stdin,
                stdout: config.attach_stdout,
                stderr: config.attach_stderr && !config.tty && start.framed,
                framed: start.framed,
                detach_keys: if config.tty { detach_keys(&config.detach_keys)? } else { Vec::new() },
                already_read: client.already_read.clone(),
                preface: Vec::new(),
                held: false,
            }),
            _ => None,
        };
        let request = Request::Exec(Box::new(protocol::Exec {
            id: exec.id.clone(),
            process: self.exec_process(container, config)?,
            seccomp: if config.privileged {
                protocol::Seccomp::Unconfined
            } else {
                security::seccomp(&container.record().host_config, &self.config.defaults.seccomp)?.0
            },
            stdio: Stdio {
                terminal: config.tty,
                stdin: config.attach_stdin && attach.is_some(),
                stdin_once: true,
                size: size.map(|[height, width]| (width, height)),
            },
            attach,
            limits: Limits {
                timeout_ns: config.timeout.unsigned_abs(),
                cpu_time_ns: config.cpu_time.unsigned_abs(),
            },
            user: Some(exec_user(container, config)),
            ends_with_client: config.end_with_client,
        }));
        let shim = self.shim_alone(container).await?;
        let socket = start.client.as_ref().filter(|_| !start.detach).map(|client| client.socket.as_fd());
        let descriptors: Vec<_> = socket.into_iter().collect();
        match shim.ask_alone(&request, &descriptors).await {
            Ok(Reply::Started { pid }) => Ok(pid),
            Ok(other) => Err(Error::system("start the command", format!("the shim answered {other:?}"))),
            Err(error) => Err(error),
        }
    }

    /// The exec's process: the container's, but for what was said otherwise.
    fn exec_process(&self, container: &Container, config: &ExecConfig) -> Result<Process> {
        let record = container.record().clone();
        let linked = self.linked_running(&record).into_iter().flat_map(|linked| linked.environment);
        let linked: Vec<String> = linked.collect();
        let mut process = self.process(&record, &linked)?;
        process.set_terminal(Some(config.tty));
        process.set_user(User::default());
        process.set_args(config.cmd.clone());
        let own = process.env().clone().unwrap_or_default();
        let mut environment = with_variables(own, config.env.as_deref().unwrap_or_default());
        if config.tty && !environment.iter().any(|entry| entry.starts_with("TERM=")) {
            environment.push("TERM=xterm".to_owned());
        }
        process.set_env(Some(environment));
        if !config.working_dir.is_empty() {
            process.set_cwd(PathBuf::from(&config.working_dir));
        }
        if config.privileged {
            let all = crate::model::HostConfig { privileged: true, ..crate::model::HostConfig::default() };
            process.set_capabilities(Some(security::capability_sets(security::capabilities(&all)?)));
        }
        Ok(process)
    }
}

/// Why a command could not be started, in Docker's words and with its exit status. Another runtime (`by_other`) has its
/// own for what it was about.
fn not_started(error: Error, by_other: bool) -> Error {
    if error.kind != Kind::System {
        return error;
    }
    let named = matches!(error.exit_status, 126 | 127);
    let about = if by_other { "" } else { "exec failed: unable to start container process: " };
    Error {
        kind: if named { Kind::InvalidParameter } else { Kind::System },
        exit_status: if named { error.exit_status } else { NOT_STARTED },
        message: format!("OCI runtime exec failed: {about}{}", error.message),
        errno: error.errno,
    }
}

/// Whom the exec's process looks up in the container's files.
fn exec_user(container: &Container, config: &ExecConfig) -> UserLookup {
    let mut lookup = prepare::user(&container.record());
    if !config.user.is_empty() {
        lookup.user.clone_from(&config.user);
    }
    lookup
}
