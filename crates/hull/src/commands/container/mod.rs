//! Containers: `hull container …` and its twins at the root.

mod attach;
mod copy;
pub use copy::extract_into;
pub use run::{RunArgs, run};
mod exec;
mod foreground;
mod lifecycle;
mod list;
mod logs;
pub mod options;
mod run;
mod signals;
mod stats;
mod update;
mod view;

use super::{Entry, Management};

const RUN: Entry = entry!(
    "run",
    [],
    Common,
    "Create and run a new container from an image",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    run::RunArgs,
    run::run
);
const EXEC: Entry = entry!(
    "exec",
    [],
    Common,
    "Execute a command in a running container",
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    exec::ExecArgs,
    exec::exec
);
const PS: Entry = entry!("ps", [], Common, "List containers", "[OPTIONS]", list::ListArgs, list::list);
const LS: Entry =
    entry!("ls", ["list", "ps"], Common, "List containers", "[OPTIONS]", list::ListArgs, list::list);
const ATTACH: Entry = entry!(
    "attach",
    [],
    Commands,
    "Attach local standard input, output, and error streams to a running container",
    "[OPTIONS] CONTAINER",
    attach::AttachArgs,
    attach::attach
);
const COMMIT: Entry = entry!(
    "commit",
    [],
    Commands,
    "Create a new image from a container's changes",
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    view::CommitArgs,
    view::commit
);
const CP: Entry = entry!(
    "cp",
    [],
    Commands,
    "Copy files/folders between a container and the local filesystem",
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\thull cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    copy::CopyArgs,
    copy::copy
);
const CREATE: Entry = entry!(
    "create",
    [],
    Commands,
    "Create a new container",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    run::CreateArgs,
    run::create
);
const DIFF: Entry = entry!(
    "diff",
    [],
    Commands,
    "Inspect changes to files or directories on a container's filesystem",
    "CONTAINER",
    view::OneContainer,
    view::diff
);
const EXPORT: Entry = entry!(
    "export",
    [],
    Commands,
    "Export a container's filesystem as a tar archive",
    "[OPTIONS] CONTAINER",
    view::ExportArgs,
    view::export
);
const INSPECT: Entry = entry!(
    "inspect",
    [],
    Commands,
    "Display detailed information on one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    view::InspectArgs,
    view::inspect
);
const KILL: Entry = entry!(
    "kill",
    [],
    Commands,
    "Kill one or more running containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    lifecycle::KillArgs,
    lifecycle::kill
);
const LOGS: Entry = entry!(
    "logs",
    [],
    Commands,
    "Fetch the logs of a container",
    "[OPTIONS] CONTAINER",
    logs::LogsArgs,
    logs::logs
);
const PAUSE: Entry = entry!(
    "pause",
    [],
    Commands,
    "Pause all processes within one or more containers",
    "CONTAINER [CONTAINER...]",
    lifecycle::Containers,
    lifecycle::pause
);
const PORT: Entry = entry!(
    "port",
    [],
    Commands,
    "List port mappings or a specific mapping for the container",
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    view::PortArgs,
    view::port
);
const PRUNE: Entry = entry!(
    "prune",
    [],
    Commands,
    "Remove all stopped containers",
    "[OPTIONS]",
    update::PruneArgs,
    update::prune
);
const RENAME: Entry = entry!(
    "rename",
    [],
    Commands,
    "Rename a container",
    "CONTAINER NEW_NAME",
    lifecycle::RenameArgs,
    lifecycle::rename
);
const RESTART: Entry = entry!(
    "restart",
    [],
    Commands,
    "Restart one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    lifecycle::StopArgs,
    lifecycle::restart
);
const RM: Entry = entry!(
    "rm",
    ["remove"],
    Commands,
    "Remove one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    lifecycle::RemoveArgs,
    lifecycle::remove
);
const START: Entry = entry!(
    "start",
    [],
    Commands,
    "Start one or more stopped containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    attach::StartArgs,
    attach::start
);
const STATS: Entry = entry!(
    "stats",
    [],
    Commands,
    "Display a live stream of container(s) resource usage statistics",
    "[OPTIONS] [CONTAINER...]",
    stats::StatsArgs,
    stats::stats
);
const STOP: Entry = entry!(
    "stop",
    [],
    Commands,
    "Stop one or more running containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    lifecycle::StopArgs,
    lifecycle::stop
);
const TOP: Entry = entry!(
    "top",
    [],
    Commands,
    "Display the running processes of a container",
    "CONTAINER [ps OPTIONS]",
    view::TopArgs,
    view::top
);
const UNPAUSE: Entry = entry!(
    "unpause",
    [],
    Commands,
    "Unpause all processes within one or more containers",
    "CONTAINER [CONTAINER...]",
    lifecycle::Containers,
    lifecycle::unpause
);
const UPDATE: Entry = entry!(
    "update",
    [],
    Commands,
    "Update configuration of one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    update::UpdateArgs,
    update::update
);
const WAIT: Entry = entry!(
    "wait",
    [],
    Commands,
    "Block until one or more containers stop, then print their exit codes",
    "CONTAINER [CONTAINER...]",
    lifecycle::Containers,
    lifecycle::wait
);

/// The container commands that stand at the root as well.
pub const ROOT: &[Entry] = &[
    RUN, EXEC, PS, ATTACH, COMMIT, CP, CREATE, DIFF, EXPORT, KILL, LOGS, PAUSE, PORT, RENAME, RESTART, RM,
    START, STATS, STOP, TOP, UNPAUSE, UPDATE, WAIT,
];

/// `hull container`.
pub const MANAGEMENT: Management = Management {
    name: "container",
    about: "Manage containers",
    entries: &[
        ATTACH, COMMIT, CP, CREATE, DIFF, EXEC, EXPORT, INSPECT, KILL, LOGS, LS, PAUSE, PORT, PRUNE, RENAME,
        RESTART, RM, RUN, START, STATS, STOP, TOP, UNPAUSE, UPDATE, WAIT,
    ],
};
