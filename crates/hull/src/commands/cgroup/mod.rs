//! `hull cgroup …`: limits and figures of cgroups by hand, in one vocabulary for v1 and v2.

mod run;
mod tree;

pub(super) use tree::lines;

use super::{Entry, Management};

const ENTRIES: &[Entry] = &[
    entry!(
        "run",
        [],
        Commands,
        "Run a program in a cgroup of its own, under limits",
        "[OPTIONS] [--] [PROGRAM [ARG...]]",
        run::RunArgs,
        run::run
    ),
    entry!(
        "show",
        [],
        Commands,
        "Show what the cgroup of a process or container uses of what it may",
        "[OPTIONS] PID|CONTAINER",
        tree::ShowArgs,
        tree::show
    ),
    entry!(
        "tree",
        [],
        Commands,
        "Show the hierarchy of cgroups with what is used of what is allowed",
        "[OPTIONS]",
        tree::TreeArgs,
        tree::tree
    ),
];

/// `hull cgroup`.
pub const MANAGEMENT: Management =
    Management { name: "cgroup", about: "Work with cgroups by hand", entries: ENTRIES };
