//! The life of a container: create, run, kill, delete.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use hull_runtime::Result;
use hull_runtime::oci::{self, Console, Create, Runtime, foreground};

use super::log::{Log, refused};

#[derive(Args, Debug)]
pub(super) struct OfContainer {
    /// The container's id
    #[arg(value_name = "container-id")]
    pub(super) id: String,
}

#[derive(Args, Debug, Default)]
pub(super) struct CreateArguments {
    /// The folder of config.json
    #[arg(short, long, value_name = "folder", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// The configuration, where it is not the bundle's config.json
    #[arg(short = 'f', long, value_name = "file")]
    config: Option<PathBuf>,
    /// A socket that gets the master of the container's terminal
    #[arg(long, value_name = "socket")]
    pub(super) console_socket: Option<PathBuf>,
    /// A file that gets the first process's id
    #[arg(long, value_name = "file")]
    pub(super) pid_file: Option<PathBuf>,
    /// A socket that gets a pidfd of the first process
    #[arg(long, value_name = "socket")]
    pidfd_socket: Option<PathBuf>,
    /// Change the root without pivot_root
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// How many descriptors, from 3 on, the command gets
    #[arg(long, value_name = "number", default_value_t = 0)]
    preserve_fds: u32,
    /// The container's id
    #[arg(value_name = "container-id")]
    pub(super) id: String,
}

#[derive(Args, Debug, Default)]
pub(super) struct RunArguments {
    /// Leave the container running and return
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Keep the container when it has ended
    #[arg(long)]
    keep: bool,
    /// Leave orphans of the container to who inherits them anyway
    #[arg(long)]
    no_subreaper: bool,
    #[command(flatten)]
    pub(super) create: CreateArguments,
}

#[derive(Args, Debug)]
pub(super) struct KillArguments {
    /// Send it to every process
    #[arg(short, long)]
    all: bool,
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,
    /// By number or name
    #[arg(default_value = "TERM", allow_hyphen_values = true)]
    signal: String,
}

#[derive(Args, Debug)]
pub(super) struct DeleteArguments {
    /// Kill it first where it runs; none of that id is no error
    #[arg(short, long)]
    pub(super) force: bool,
    /// The container's id
    #[arg(value_name = "container-id")]
    pub(super) id: String,
}

/// What the global flags say of every container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Everywhere {
    pub(super) no_pivot: bool,
    /// systemd makes the cgroups.
    pub(super) by_systemd: bool,
    /// Containers get none.
    pub(super) none: bool,
    /// Whether a container may do without; none: unless root has called.
    pub(super) rootless: Option<bool>,
    pub(super) crun_annotations: bool,
}

impl RunArguments {
    /// With a bundle, and nothing else said.
    pub(super) fn of(bundle: &str) -> Self {
        let create = CreateArguments { bundle: bundle.into(), ..CreateArguments::default() };
        Self { create, ..Self::default() }
    }
}

impl CreateArguments {
    fn asked(self, console: Option<Console>, everywhere: Everywhere) -> (String, Create) {
        let create = Create {
            bundle: self.bundle,
            config: self.config,
            console,
            pid_file: self.pid_file,
            pidfd_socket: self.pidfd_socket,
            crun_annotations: everywhere.crun_annotations,
            preserve_fds: self.preserve_fds,
            no_new_keyring: self.no_new_keyring,
            no_pivot: self.no_pivot || everywhere.no_pivot,
            systemd_cgroup: everywhere.by_systemd,
            no_cgroup: everywhere.none,
            rootless: everywhere.rootless,
            starts: false,
            notify: notify_socket(),
        };
        (self.id, create)
    }
}

pub(super) fn create(
    arguments: CreateArguments,
    runtime: &Runtime,
    everywhere: Everywhere,
    log: &Log,
) -> Result<()> {
    let console = arguments.console_socket.clone().map(Console::Socket);
    let (id, create) = arguments.asked(console, everywhere);
    let created = runtime.create(&id, &create)?;
    warn(&created.warnings, log);
    Ok(())
}

/// The socket that wants to hear when a container is ready (`sd_notify(3)`).
fn notify_socket() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())
}

pub(super) fn start(of: &OfContainer, runtime: &Runtime, log: &Log) -> Result<()> {
    let container = runtime.container(&of.id)?;
    match notify_socket() {
        Some(host) => {
            let warning = container.start_ready(&host)?;
            warn(warning.as_slice(), log);
            Ok(())
        }
        None => container.start(),
    }
}

pub(super) fn warn(warnings: &[String], log: &Log) {
    warnings.iter().for_each(|warning| log.warn(warning));
}

pub(super) fn run(
    arguments: RunArguments,
    runtime: &Runtime,
    everywhere: Everywhere,
    log: &Log,
) -> Result<u8> {
    let RunArguments { detach, keep, no_subreaper, create } = arguments;
    let console = match (create.console_socket.clone(), detach) {
        (Some(socket), true) => Some(Console::Socket(socket)),
        (Some(_), false) => {
            let reason = "cannot use console socket if hull will not detach: say --detach";
            return Err(refused("run the container", reason));
        }
        (None, true) => None,
        (None, false) => Some(Console::Caller),
    };
    let signals = if detach { None } else { Some(foreground::prepare(!no_subreaper)?) };
    let (id, mut create) = create.asked(console, everywhere);
    create.starts = true;
    let mut created = runtime.create(&id, &create)?;
    warn(&created.warnings, log);
    created.start()?;
    let Some(signals) = signals else {
        warn(created.wait_until_ready()?.as_slice(), log);
        return Ok(0);
    };
    created.unmount_at_end();
    let (terminal, notify) = (created.terminal.take(), created.notify.take());
    let status = foreground::follow(&created.pidfd, &signals, terminal, notify, |text| log.warn(text))?;
    if !keep {
        warn(&created.delete()?, log);
    }
    Ok(u8::try_from(status).unwrap_or(255))
}

pub(super) fn kill(arguments: &KillArguments, runtime: &Runtime) -> Result<()> {
    let signal = oci::signal_number(&arguments.signal)?;
    runtime.container(&arguments.id)?.kill(signal, arguments.all)
}

pub(super) fn delete(arguments: &DeleteArguments, runtime: &Runtime, log: &Log) -> Result<()> {
    if !runtime.is_there(&arguments.id)? && (runtime.clear_unfinished(&arguments.id)? || arguments.force) {
        return Ok(());
    }
    warn(&runtime.container(&arguments.id)?.delete(arguments.force)?, log);
    Ok(())
}
