//! `hull oci`, and the binary called by the name `hull-oci` (or `runc`, `crun`): the OCI runtime's own command line,
//! with runc's words. It
//! needs no daemon.

mod container;
mod exec;
mod log;
mod plain;
mod show;
mod update;

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, FromArgMatches, Parser, Subcommand};
use hull_runtime::Result;
use hull_runtime::oci::Runtime;

use self::log::Log;

/// The OCI runtime: containers from bundles, without a daemon
#[derive(Parser, Debug)]
#[command(name = "hull-oci", disable_version_flag = true)]
struct CommandLine {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Args, Debug, Default)]
struct Globals {
    /// Where containers' states are kept
    #[arg(long, value_name = "folder")]
    root: Option<std::path::PathBuf>,
    /// A file that gets what is logged, besides standard error
    #[arg(long, value_name = "file", value_parser = log::place)]
    log: Option<std::path::PathBuf>,
    /// How it is written there: text or json
    #[arg(long, value_name = "format", default_value = "text")]
    log_format: log::Format,
    /// Have systemd make the containers' cgroups, as scopes: cgroupsPath is SLICE:PREFIX:NAME then
    #[arg(long)]
    systemd_cgroup: bool,
    /// Whether containers may do without a cgroup where none may be made: auto (for who is not root), true or false
    #[arg(long, value_name = "auto|true|false", default_value = "auto")]
    rootless: Rootless,
    /// crun's word for who makes the cgroups: cgroupfs, systemd or disabled
    #[arg(long, value_name = "who", hide = true, conflicts_with = "systemd_cgroup")]
    cgroup_manager: Option<CgroupManager>,
    /// runc's word for the program that makes checkpoints, of which hull makes none
    #[arg(long, value_name = "program", hide = true)]
    criu: Option<std::path::PathBuf>,
    /// crun has this for every verb
    #[arg(long, hide = true)]
    no_pivot: bool,
    /// Heed crun's annotations `run.oci.seccomp.receiver`, `run.oci.pidfd_receiver` and `run.oci.timens_offset`, as
    /// under the name crun: whoever writes a container's annotations has this runtime connect to sockets of the host
    #[arg(long)]
    crun_annotations: bool,
    /// Log more
    #[arg(long)]
    debug: bool,
    /// Print the version
    #[arg(short, long, short_alias = 'V')]
    version: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Rootless {
    #[default]
    Auto,
    True,
    False,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

impl Rootless {
    fn asked(self) -> Option<bool> {
        match self {
            Rootless::Auto => None,
            Rootless::True => Some(true),
            Rootless::False => Some(false),
        }
    }
}

// Each verb's flags are put together when it is the one: all of them take longer than what it does.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
enum Verb {
    /// Make a container, which waits to be started
    Create(container::CreateArguments),
    /// Start a container that was created
    Start(container::OfContainer),
    /// Create and start a container
    Run(container::RunArguments),
    /// Print a container's state as JSON
    State(container::OfContainer),
    /// Send a signal to a container's first process
    Kill(container::KillArguments),
    /// Remove a container
    Delete(container::DeleteArguments),
    /// Execute another process in a container
    Exec(exec::ExecArguments),
    /// List a container's processes
    Ps(show::PsArguments),
    /// List containers
    List(show::ListArguments),
    /// Make a container's processes stand still
    Pause(container::OfContainer),
    /// Let a container's processes go on
    Resume(container::OfContainer),
    /// Change a container's limits
    Update(update::UpdateArguments),
    /// Print what a container uses, and when the kernel kills in it for memory
    Events(show::EventsArguments),
    /// Write a configuration to begin with
    Spec(show::SpecArguments),
    /// Print what this runtime can do as JSON
    Features,
    #[command(hide = true)]
    Checkpoint(Words),
    #[command(hide = true)]
    Restore(Words),
}

/// The words of a verb that is refused by its name.
#[derive(Args, Debug)]
struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _words: Vec<String>,
}

/// What runc ends with where it is asked for a command that it does not know.
const UNKNOWN_COMMAND: u8 = 3;

/// The whole life of the process as an OCI runtime; `words` begin with the name that it goes by.
pub fn main(words: Vec<std::ffi::OsString>) -> ExitCode {
    // Before anything else is done, for it begins anew. A word of these that is no command costs nothing else. `run` need
    // not: it watches what is executed.
    if words.iter().any(|word| word == "create" || word == "exec")
        && let Err(error) = hull_runtime::oci::protect_own_binary()
    {
        eprintln!("hull oci: {error}");
        return ExitCode::FAILURE;
    }
    let is_crun =
        words.first().is_some_and(|name| std::path::Path::new(name).file_name() == Some("crun".as_ref()));
    let mut line = match parse(words) {
        Ok(line) => line,
        Err(error) => {
            // Nobody is left to tell when this fails.
            let _ = error.print();
            return ExitCode::from(match error.kind() {
                ErrorKind::InvalidSubcommand => UNKNOWN_COMMAND,
                _ if error.use_stderr() => 1,
                _ => 0,
            });
        }
    };
    line.globals.crun_annotations |= is_crun;
    let log = Log::open(line.globals.log.as_deref(), line.globals.log_format, line.globals.debug);
    let log = match log {
        Ok(log) => log,
        Err(error) => {
            eprintln!("hull oci: {error}");
            return ExitCode::FAILURE;
        }
    };
    let Some(verb) = line.verb else {
        let said = if line.globals.version {
            let specification = hull_runtime::oci::SPECIFICATION;
            format!("hull-oci version {}\nspec: {specification}", env!("CARGO_PKG_VERSION"))
        } else {
            <CommandLine as clap::CommandFactory>::command().render_help().to_string()
        };
        // Whoever reads it may be gone: that is no panic.
        return match writeln!(std::io::stdout(), "{said}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    };
    log.debug(|| format!("{verb:?}"));
    // runc tells of these by their names, and ends an exec that failed with a status of its own.
    let (failed, which) = match verb {
        Verb::Exec(_) => (255, "exec failed: "),
        Verb::Create(_) => (1, "create failed: "),
        Verb::Run(_) => (1, "run failed: "),
        _ => (1, ""),
    };
    match run(verb, line.globals, &log) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            log.error(&format!("{which}{error}"));
            ExitCode::from(failed)
        }
    }
}

fn no_checkpoints(doing: &str) -> hull_runtime::Error {
    let reason = "hull makes no checkpoints and restores none: that needs criu, a program of others, and hull executes none";
    log::refused(doing, reason)
}

fn parse(words: Vec<std::ffi::OsString>) -> std::result::Result<CommandLine, clap::Error> {
    match words.get(1..).and_then(plain::read) {
        Some(line) => Ok(line),
        None => parse_whole(words),
    }
}

fn parse_whole(words: Vec<std::ffi::OsString>) -> std::result::Result<CommandLine, clap::Error> {
    let mut command = <CommandLine as clap::CommandFactory>::command();
    let matches = command.try_get_matches_from_mut(words)?;
    CommandLine::from_arg_matches(&matches)
}

fn run(verb: Verb, globals: Globals, log: &Log) -> Result<u8> {
    let runtime = Runtime::at(globals.root.unwrap_or_else(Runtime::default_root));
    if globals.criu.is_some() {
        log.warn("--criu is not used: hull makes no checkpoints");
    }
    let everywhere = container::Everywhere {
        no_pivot: globals.no_pivot,
        by_systemd: globals.systemd_cgroup || globals.cgroup_manager == Some(CgroupManager::Systemd),
        none: globals.cgroup_manager == Some(CgroupManager::Disabled),
        rootless: globals.rootless.asked(),
        crun_annotations: globals.crun_annotations,
    };
    let done = |result: Result<()>| result.map(|()| 0);
    match verb {
        Verb::Create(arguments) => done(container::create(arguments, &runtime, everywhere, log)),
        Verb::Start(of) => done(container::start(&of, &runtime, log)),
        Verb::Run(arguments) => container::run(arguments, &runtime, everywhere, log),
        Verb::State(of) => done(show::state(&runtime.container(&of.id)?)),
        Verb::Kill(arguments) => done(container::kill(&arguments, &runtime)),
        Verb::Delete(arguments) => done(container::delete(&arguments, &runtime, log)),
        Verb::Exec(arguments) => exec::exec(arguments, &runtime, log),
        Verb::Ps(arguments) => done(show::ps(&arguments, &runtime)),
        Verb::List(arguments) => done(show::list(&arguments, &runtime, log)),
        Verb::Pause(of) => done(runtime.container(&of.id)?.pause()),
        Verb::Resume(of) => done(runtime.container(&of.id)?.resume()),
        Verb::Update(arguments) => done(update::update(&arguments, &runtime, log)),
        Verb::Events(arguments) => done(show::events(&arguments, &runtime)),
        Verb::Spec(arguments) => done(show::spec(&arguments)),
        Verb::Features => done(show::print(&hull_runtime::oci::features())),
        Verb::Checkpoint(_) => Err(no_checkpoints("checkpoint the container")),
        Verb::Restore(_) => Err(no_checkpoints("restore the container")),
    }
}
