//! The client's own commands, for which there is no daemon: completions, manual pages, the daemon's start.

use std::path::PathBuf;

use clap::{Args, Command, ValueEnum as _};

use super::{Entry, MANAGEMENT, ROOT as ALL};
use crate::cli;
use crate::context::Context;
use crate::error::{Error, ExitStatus, words};
use crate::out;

/// The commands at the root.
pub const ROOT: &[Entry] = &[
    entry!(
        "completion",
        [],
        Commands,
        "Print the shell's completion script for hull",
        "bash|zsh|fish",
        CompletionArgs,
        completion
    ),
    entry!("man-pages", [], Hidden, "Write the manual pages", "DIRECTORY", ManPagesArgs, man_pages),
    entry!(
        "start-daemon",
        [],
        Hidden,
        "Start the daemon of this machine, and return when it serves",
        "",
        StartDaemonArgs,
        start_daemon
    ),
];

/// `completion`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull completion bash > /etc/bash_completion.d/hull
  hull completion zsh > /usr/share/zsh/site-functions/_hull
  hull completion fish > ~/.config/fish/completions/hull.fish")]
pub struct CompletionArgs {
    #[arg(value_name = "SHELL")]
    shell: String,
}

async fn completion(args: CompletionArgs, _: &Context) -> Result<ExitStatus, Error> {
    let shell = clap_complete::Shell::from_str(&args.shell, true).map_err(|_| {
        Error::new(format!("there are completions for bash, zsh and fish, not for {}", args.shell))
    })?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree(), "hull", &mut script);
    out!("{}", String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::SUCCESS)
}

/// `man-pages`.
#[derive(Args, Debug)]
pub struct ManPagesArgs {
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

async fn man_pages(args: ManPagesArgs, _: &Context) -> Result<ExitStatus, Error> {
    let wrong = |e: std::io::Error| {
        Error::new(format!("cannot write the manual pages to {}: {}", args.directory.display(), words(&e)))
    };
    std::fs::create_dir_all(&args.directory).map_err(wrong)?;
    clap_mangen::generate_to(tree(), &args.directory).map_err(wrong)?;
    Ok(ExitStatus::SUCCESS)
}

/// `start-daemon`.
#[derive(Args, Debug)]
pub struct StartDaemonArgs {}

async fn start_daemon(_: StartDaemonArgs, _: &Context) -> Result<ExitStatus, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new("only root starts the daemon: sudo hull start-daemon"));
    }
    crate::client::start_daemon().await?;
    Ok(ExitStatus::SUCCESS)
}

/// Every command in one tree, for what is made of their definitions.
fn tree() -> Command {
    let shown = |entry: &&Entry| entry.group != super::Group::Hidden;
    // As when it is parsed: `-h` is a container's host name, so help has its long flag alone.
    let with_help = |command: Command| {
        let help = clap::Arg::new("help").long("help").action(clap::ArgAction::Help).help("Print usage");
        command.disable_help_flag(true).disable_help_subcommand(true).arg(help)
    };
    let leaf = |entry: &Entry| {
        let command = (entry.arguments)(Command::new(entry.name));
        with_help(command).about(entry.about).visible_aliases(entry.aliases)
    };
    let root =
        cli::globals_command().mut_args(|arg| if arg.is_positional() { arg.required(false) } else { arg });
    with_help(root)
        .about("A container engine in one binary")
        .subcommands(MANAGEMENT.iter().map(|management| {
            let entries = management.entries.iter().filter(shown).map(leaf);
            with_help(Command::new(management.name)).about(management.about).subcommands(entries)
        }))
        .subcommands(ALL.iter().flat_map(|table| table.iter()).filter(shown).map(leaf))
        .subcommand(with_help(hull_api::daemon::command().name("daemon").no_binary_name(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_sound() {
        // clap checks the whole tree: names, duplicates, shorthands taken twice.
        tree().debug_assert();
    }

    #[test]
    fn every_command_has_its_page() {
        fn check(command: &Command, name: &str, folder: &std::path::Path) {
            let page = folder.join(format!("{name}.1"));
            let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
            let shown = command.get_opts().filter(|flag| !flag.is_hide_set());
            // A page writes a hyphen as its own escape.
            for flag in shown.filter_map(|flag| flag.get_long()).filter(|long| !long.contains('-')) {
                assert!(text.contains(flag), "{name}: --{flag}");
            }
            for below in command.get_subcommands() {
                check(below, &format!("{name}-{}", below.get_name()), folder);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(tree(), folder.path()).unwrap();
        check(&tree(), "hull", folder.path());
        // What the unit files send the reader to.
        assert!(folder.path().join("hull-daemon.1").exists());
    }

    #[test]
    fn completions_for_every_shell() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut tree(), "hull", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["container", "run", "no-trunc"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
