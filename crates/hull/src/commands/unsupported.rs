//! Docker's commands that are not there yet, refused by their names.

use clap::Args;

use super::Entry;
use crate::context::Context;
use crate::error::{Error, ExitStatus};

/// The commands, hidden in the help.
pub const ROOT: &[Entry] = &[
    entry!("buildx", [], Hidden, "Build with BuildKit", "[ARG...]", Anything, refuse),
    entry!(
        "compose",
        [],
        Hidden,
        "Define and run applications of several containers",
        "[ARG...]",
        Anything,
        refuse
    ),
    entry!("checkpoint", [], Hidden, "Manage checkpoints", "[ARG...]", Anything, refuse),
    entry!("config", [], Hidden, "Manage Swarm configs", "[ARG...]", Anything, refuse),
    entry!("context", [], Hidden, "Manage contexts", "[ARG...]", Anything, refuse),
    entry!("manifest", [], Hidden, "Manage image manifests and manifest lists", "[ARG...]", Anything, refuse),
    entry!("node", [], Hidden, "Manage Swarm nodes", "[ARG...]", Anything, refuse),
    entry!("secret", [], Hidden, "Manage Swarm secrets", "[ARG...]", Anything, refuse),
    entry!("service", [], Hidden, "Manage Swarm services", "[ARG...]", Anything, refuse),
    entry!("stack", [], Hidden, "Manage Swarm stacks", "[ARG...]", Anything, refuse),
    entry!("swarm", [], Hidden, "Manage Swarm", "[ARG...]", Anything, refuse),
    entry!("trust", [], Hidden, "Manage trust on images", "[ARG...]", Anything, refuse),
];

/// Whatever was typed behind the name.
#[derive(Args, Debug)]
pub struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _words: Vec<String>,
}

pub async fn refuse(_: Anything, context: &Context) -> Result<ExitStatus, Error> {
    Err(Error::new(format!("{} is not supported yet", context.command)))
}
