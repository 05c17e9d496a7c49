//! The daemon and the machine: `hull system …`, `info`, `version`, `events`.

mod df;
mod events;
mod fsck;
mod info;
mod prune;
mod socket;
mod stop;
mod version;

pub use prune::prune_build_cache;

use super::{Entry, Management};

/// The system's commands at the root.
pub const ROOT: &[Entry] = &[
    entry!(
        "version",
        [],
        Common,
        "Show the version of client and daemon",
        "[OPTIONS]",
        version::VersionArgs,
        version::version
    ),
    entry!("info", [], Common, "Display system-wide information", "[OPTIONS]", info::InfoArgs, info::info),
    entry!(
        "events",
        [],
        Commands,
        "Get real time events from the server",
        "[OPTIONS]",
        events::EventsArgs,
        events::events
    ),
];

const ENTRIES: &[Entry] = &[
    entry!("df", [], Commands, "Show disk usage", "[OPTIONS]", df::DfArgs, df::df),
    entry!(
        "dial-stdio",
        [],
        Hidden,
        "Carry standard input and output to the daemon (the far end of ssh://)",
        "",
        stop::DialArgs,
        stop::dial_stdio
    ),
    entry!(
        "events",
        [],
        Commands,
        "Get real time events from the server",
        "[OPTIONS]",
        events::EventsArgs,
        events::events
    ),
    entry!(
        "fsck",
        [],
        Commands,
        "Check that every file of the daemon's is accounted for",
        "[OPTIONS]",
        fsck::FsckArgs,
        fsck::fsck
    ),
    entry!("info", [], Commands, "Display system-wide information", "[OPTIONS]", info::InfoArgs, info::info),
    entry!("prune", [], Commands, "Remove unused data", "[OPTIONS]", prune::PruneArgs, prune::prune),
    entry!(
        "socket",
        [],
        Commands,
        "Add, list and remove sockets with a policy",
        "add PATH RULE... | ls | rm PATH...",
        socket::SocketArgs,
        socket::socket
    ),
    entry!(
        "stop",
        [],
        Commands,
        "Stop the daemon; its containers run on unless --all is given",
        "[OPTIONS]",
        stop::StopArgs,
        stop::stop
    ),
];

/// `hull system`.
pub const MANAGEMENT: Management =
    Management { name: "system", about: "Manage the daemon", entries: ENTRIES };
