//! `hull ns …`: namespaces by hand, without a container around them.

mod enter;
mod list;
mod parts;
mod run;

use super::{Entry, Management};

const ENTRIES: &[Entry] = &[
    entry!(
        "enter",
        [],
        Commands,
        "Run a program in the namespaces of a process or container",
        "[OPTIONS] PID|CONTAINER [PROGRAM [ARG...]]",
        enter::EnterArgs,
        enter::enter
    ),
    entry!(
        "ls",
        ["list"],
        Commands,
        "List namespaces and who is in them",
        "[OPTIONS]",
        list::ListArgs,
        list::list
    ),
    entry!(
        "pids",
        [],
        Commands,
        "Show a process's id at every level, outermost first",
        "[OPTIONS] PID|CONTAINER",
        list::PidsArgs,
        list::pids
    ),
    entry!(
        "run",
        [],
        Commands,
        "Run a program in new namespaces, all else shared with the host",
        "[OPTIONS] [--] [PROGRAM [ARG...]]",
        run::RunArgs,
        run::run
    ),
];

/// `hull ns`.
pub const MANAGEMENT: Management =
    Management { name: "ns", about: "Work with namespaces by hand", entries: ENTRIES };
