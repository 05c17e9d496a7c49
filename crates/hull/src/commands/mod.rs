//! Every command, in one table each for the root and for the management commands.
//!
//! A command file offers its arguments (`#[derive(clap::Args)]`) and
//! `async fn run(args: X, context: &Context) -> Result<ExitStatus, Error>`; [`entry!`] makes a row of the two.
//! Only the command that was typed is ever built: sixty commands' arguments would cost more than a start.

use std::future::Future;
use std::pin::Pin;

use crate::context::Context;
use crate::error::{Error, ExitStatus};

/// A command's running future; the runtime has one thread, so nothing needs to be `Send`.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<ExitStatus, Error>> + 'a>>;

/// Where the root's help lists a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// What everyone types daily.
    Common,
    /// The rest.
    Commands,
    /// Not listed at all.
    Hidden,
}

/// One command: what its help says, its arguments and what it does.
pub struct Entry {
    /// The name as typed.
    pub name: &'static str,
    /// Other names for it at the same place.
    pub aliases: &'static [&'static str],
    /// Where the root's help lists it.
    pub group: Group,
    /// One line on what it does.
    pub about: &'static str,
    /// What follows the name in the usage line, such as `[OPTIONS] CONTAINER`.
    pub usage: &'static str,
    /// Adds the arguments to an empty command.
    pub arguments: fn(clap::Command) -> clap::Command,
    /// Runs it with what was parsed.
    pub run: for<'a> fn(&clap::ArgMatches, &'a Context) -> Running<'a>,
}

/// A management command: `hull container`, `hull image`, ...
pub struct Management {
    /// The name as typed.
    pub name: &'static str,
    /// One line on what it manages.
    pub about: &'static str,
    /// Its commands.
    pub entries: &'static [Entry],
}

/// Makes an [`Entry`]: `entry!("rm", ["remove"], Commands, "Remove …", "[OPTIONS] CONTAINER…", Args, run)`.
macro_rules! entry {
    ($name:literal, [$($alias:literal),*], $group:ident, $about:literal, $usage:literal, $args:ty, $run:path) => {
        $crate::commands::Entry {
            name: $name,
            aliases: &[$($alias),*],
            group: $crate::commands::Group::$group,
            about: $about,
            usage: $usage,
            arguments: <$args as clap::Args>::augment_args,
            run: |matches, context| {
                let parsed = <$args as clap::FromArgMatches>::from_arg_matches(matches);
                Box::pin(async move {
                    let args = parsed.map_err(|e| $crate::error::Error::usage(e.to_string()))?;
                    $run(args, context).await
                })
            },
        }
    };
}

mod build;
mod builder;
mod cgroup;
mod container;
mod doctor;
mod explain;
mod image;
mod inspect;
mod login;
mod network;
mod ns;
mod own;
mod plugin;
pub mod shared;
mod system;
mod unsupported;
mod volume;

/// The commands at the root, in tables: the first that has a name wins.
pub const ROOT: &[&[Entry]] = &[
    container::ROOT,
    build::ROOT,
    image::ROOT,
    inspect::ROOT,
    login::ROOT,
    system::ROOT,
    doctor::ROOT,
    explain::ROOT,
    own::ROOT,
    unsupported::ROOT,
];

/// The management commands, in the order in which the help lists them.
pub const MANAGEMENT: &[Management] = &[
    builder::MANAGEMENT,
    cgroup::MANAGEMENT,
    container::MANAGEMENT,
    image::MANAGEMENT,
    network::MANAGEMENT,
    ns::MANAGEMENT,
    plugin::MANAGEMENT,
    system::MANAGEMENT,
    volume::MANAGEMENT,
];

/// The root's command of that name or alias.
pub fn find_root(name: &str) -> Option<&'static Entry> {
    ROOT.iter().flat_map(|table| table.iter()).find(|entry| entry.answers_to(name))
}

/// The management command of that name.
pub fn find_management(name: &str) -> Option<&'static Management> {
    MANAGEMENT.iter().find(|management| management.name == name)
}

impl Entry {
    /// Whether the command is meant by that name.
    pub fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

impl Management {
    /// The command of that name or alias.
    pub fn find(&self, name: &str) -> Option<&'static Entry> {
        self.entries.iter().find(|entry| entry.answers_to(name))
    }
}
