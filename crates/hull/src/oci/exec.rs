//! `hull oci exec`.

use std::path::PathBuf;

use clap::Args;
use hull_runtime::Result;
use hull_runtime::error::Context;
use hull_runtime::oci::{self, Console, Exec, Runtime, foreground};
use oci_spec::runtime::{Capability, LinuxCapabilities, Process};

use super::container::warn;
use super::log::{Log, refused};

#[derive(Args, Debug)]
pub(super) struct ExecArguments {
    /// A socket that gets the master of the process's terminal
    #[arg(long, value_name = "socket")]
    console_socket: Option<PathBuf>,
    /// The working directory
    #[arg(long, value_name = "folder")]
    cwd: Option<PathBuf>,
    /// A variable, NAME=VALUE
    #[arg(short, long, value_name = "variable")]
    env: Vec<String>,
    /// On a terminal
    #[arg(short, long)]
    tty: bool,
    /// Whom it runs as: UID[:GID]
    #[arg(short, long, value_name = "uid:gid", allow_hyphen_values = true)]
    user: Option<String>,
    /// A further group, by number
    #[arg(short = 'g', long, value_name = "gid")]
    additional_gids: Vec<u32>,
    /// A file with the process as the specification has it
    #[arg(short, long, value_name = "file")]
    process: Option<PathBuf>,
    /// Leave it running and return
    #[arg(short, long)]
    detach: bool,
    /// A file that gets its process id
    #[arg(long, value_name = "file")]
    pid_file: Option<PathBuf>,
    /// A socket that gets a pidfd of it
    #[arg(long, value_name = "socket")]
    pidfd_socket: Option<PathBuf>,
    /// No privileges by exec
    #[arg(long)]
    no_new_privs: bool,
    /// The AppArmor profile
    #[arg(long, value_name = "profile")]
    apparmor: Option<String>,
    /// The SELinux label
    #[arg(long, value_name = "label")]
    process_label: Option<String>,
    /// A further capability
    #[arg(short, long, value_name = "capability")]
    cap: Vec<String>,
    /// How many descriptors, from 3 on, it gets
    #[arg(long, value_name = "number", default_value_t = 0)]
    preserve_fds: u32,
    /// A cgroup below the container's; on v1 for some controllers alone: CONTROLLER[,CONTROLLER]:PATH
    #[arg(long, value_name = "path")]
    cgroup: Vec<String>,
    /// Put it into a container that is paused, too
    #[arg(long)]
    ignore_paused: bool,
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,
    /// The command with its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "command")]
    command: Vec<String>,
}

pub(super) fn exec(arguments: ExecArguments, runtime: &Runtime, log: &Log) -> Result<u8> {
    let container = runtime.container(&arguments.id)?;
    let process = process(&arguments, container.config()?.process().clone(), log)?;
    let console = match (&arguments.console_socket, arguments.detach) {
        (Some(socket), true) => Some(Console::Socket(socket.clone())),
        (Some(_), false) => {
            let reason = "cannot use console socket if hull will not detach: say --detach";
            return Err(refused("exec", reason));
        }
        (None, true) => None,
        (None, false) => Some(Console::Caller),
    };
    let signals = if arguments.detach { None } else { Some(foreground::prepare(true)?) };
    let executed = container.exec(&Exec {
        process,
        console,
        pid_file: arguments.pid_file,
        pidfd_socket: arguments.pidfd_socket,
        preserve_fds: arguments.preserve_fds,
        detach: arguments.detach,
        ignore_paused: arguments.ignore_paused,
        cgroup: arguments.cgroup,
    })?;
    warn(&executed.warnings, log);
    let Some(signals) = signals else { return Ok(0) };
    let status = foreground::follow(&executed.pidfd, &signals, executed.terminal, None, |_| {})?;
    Ok(u8::try_from(status).unwrap_or(255))
}

/// The process: one of a file, or the container's own with what the flags say.
fn process(arguments: &ExecArguments, own: Option<Process>, log: &Log) -> Result<Process> {
    if let Some(path) = &arguments.process {
        let doing = || format!("read the process {}", path.display());
        let text = std::fs::read(path).context(doing)?;
        let (process, warnings) = oci::read_process(&text).map_err(|error| hull_runtime::Error {
            doing: format!("{}: {}", doing(), error.doing),
            ..error
        })?;
        warn(&warnings, log);
        return Ok(process);
    }
    let mut process = own.unwrap_or_default();
    if arguments.command.is_empty() {
        return Err(refused(
            "exec",
            "process args cannot be empty: name a command, or a file with --process",
        ));
    }
    process.set_args(Some(arguments.command.clone()));
    process.set_terminal(Some(arguments.tty));
    process.set_console_size(None);
    if let Some(cwd) = &arguments.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut environment = process.env().clone().unwrap_or_default();
    environment.extend(arguments.env.iter().cloned());
    process.set_env(Some(environment));
    if let Some(profile) = &arguments.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &arguments.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if arguments.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    user(arguments, &mut process)?;
    capabilities(&arguments.cap, &mut process, log);
    Ok(process)
}

fn user(arguments: &ExecArguments, process: &mut Process) -> Result<()> {
    if let Some(text) = &arguments.user {
        let (uid, gid) = text.split_once(':').map_or((text.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let number = |part: &str, kind: &str| {
            let doing = || format!("parsing {part:?} as int for {kind} failed (--user {text})");
            let number = part
                .parse::<i64>()
                .map_err(|_| refused(doing(), "hull oci takes numbers here, UID[:GID]"))?;
            u32::try_from(number).map_err(|_| refused(doing(), "it is out of range"))
        };
        let user = process.user_mut();
        user.set_uid(number(uid, "uid")?);
        if let Some(gid) = gid {
            user.set_gid(number(gid, "gid")?);
        }
    }
    if !arguments.additional_gids.is_empty() {
        let user = process.user_mut();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&arguments.additional_gids);
        user.set_additional_gids(Some(groups));
    }
    Ok(())
}

/// Adds capabilities to every set but the inheritable one. One that this hull does not know is left out, as those of a
/// configuration are.
fn capabilities(names: &[String], process: &mut Process, log: &Log) {
    if names.is_empty() {
        return;
    }
    let mut all = process.capabilities().clone().unwrap_or_else(|| {
        let mut none = LinuxCapabilities::default();
        let empty = || Some(Default::default());
        none.set_bounding(empty()).set_effective(empty()).set_permitted(empty()).set_inheritable(empty());
        none.set_ambient(empty());
        none
    });
    for name in names {
        let known = serde_json::from_value(serde_json::Value::from(name.to_uppercase()));
        let Ok::<Capability, _>(capability) = known else {
            log.warn(&format!("ignoring unknown or unavailable capabilities: [{name}]"));
            continue;
        };
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective) = (with(all.bounding()), with(all.effective()));
        let (permitted, ambient) = (with(all.permitted()), with(all.ambient()));
        all.set_bounding(bounding).set_effective(effective).set_permitted(permitted).set_ambient(ambient);
    }
    process.set_capabilities(Some(all));
}
