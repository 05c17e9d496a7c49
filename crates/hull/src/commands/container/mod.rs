//! Containers: `hull container …` and its twins at the root.

mod foreground;
mod lifecycle;
mod options;
mod run;
mod signals;

use super::{Entry, Management};

/// The container commands that stand at the root as well.
pub const ROOT: &[Entry] = &[
    entry!(
        "run",
        [],
        Common,
        "Create and run a new container from an image",
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        run::RunArgs,
        run::run
    ),
    entry!(
        "create",
        [],
        Commands,
        "Create a new container",
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        run::CreateArgs,
        run::create
    ),
    entry!(
        "kill",
        [],
        Commands,
        "Kill one or more running containers",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        lifecycle::KillArgs,
        lifecycle::kill
    ),
    entry!(
        "pause",
        [],
        Commands,
        "Pause all processes within one or more containers",
        "CONTAINER [CONTAINER...]",
        lifecycle::Containers,
        lifecycle::pause
    ),
    entry!(
        "rename",
        [],
        Commands,
        "Rename a container",
        "CONTAINER NEW_NAME",
        lifecycle::RenameArgs,
        lifecycle::rename
    ),
    entry!(
        "restart",
        [],
        Commands,
        "Restart one or more containers",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        lifecycle::StopArgs,
        lifecycle::restart
    ),
    entry!(
        "rm",
        ["remove"],
        Commands,
        "Remove one or more containers",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        lifecycle::RemoveArgs,
        lifecycle::remove
    ),
    entry!(
        "stop",
        [],
        Commands,
        "Stop one or more running containers",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        lifecycle::StopArgs,
        lifecycle::stop
    ),
    entry!(
        "unpause",
        [],
        Commands,
        "Unpause all processes within one or more containers",
        "CONTAINER [CONTAINER...]",
        lifecycle::Containers,
        lifecycle::unpause
    ),
    entry!(
        "wait",
        [],
        Commands,
        "Block until one or more containers stop, then print their exit codes",
        "CONTAINER [CONTAINER...]",
        lifecycle::Containers,
        lifecycle::wait
    ),
];

/// `hull container`.
pub const MANAGEMENT: Management =
    Management { name: "container", about: "Manage containers", entries: ROOT };
