//! The help's pages: the root in groups, a management command, and one command with its examples.

use std::io::IsTerminal as _;

use clap::Command;

use crate::cli;
use crate::commands::{Entry, Group, MANAGEMENT, Management, ROOT};
use crate::error::Error;
use crate::out;

/// `hull --help`.
pub fn print_root() -> Result<(), Error> {
    let mut page = String::from("Usage:  hull [OPTIONS] COMMAND\n\nA container engine in one binary\n");
    section(&mut page, "Common Commands", listed(Group::Common));
    section(&mut page, "Management Commands", MANAGEMENT.iter().map(|m| (m.name, m.about)).collect());
    section(&mut page, "Commands", listed(Group::Commands));
    page.push_str("\nGlobal Options:\n");
    page.push_str(&options(cli::globals_command()));
    page.push_str("\nRun 'hull COMMAND --help' for more information on a command.\n");
    out!("{page}")
}

/// `hull container --help`.
pub fn print_management(management: &Management) -> Result<(), Error> {
    let mut page = format!("Usage:  hull {} COMMAND\n\n{}\n", management.name, management.about);
    let shown = management.entries.iter().filter(|entry| entry.group != Group::Hidden);
    section(&mut page, "Commands", shown.map(|entry| (entry.name, entry.about)).collect());
    page.push_str(&format!(
        "\nRun 'hull {} COMMAND --help' for more information on a command.\n",
        management.name
    ));
    out!("{page}")
}

/// `hull container run --help`.
pub fn print_command(path: &str, entry: &Entry) -> Result<(), Error> {
    let mut page = format!("Usage:  {path} {}\n\n{}\n", entry.usage, entry.about);
    let names = other_names(entry);
    if names.len() > 1 {
        page.push_str(&format!("\nAliases:\n  {}\n", names.join(", ")));
    }
    let command = (entry.arguments)(Command::new(entry.name));
    let examples = command.get_after_help().map(|help| help.to_string());
    let options = options(command.after_help(""));
    if !options.trim().is_empty() {
        page.push_str("\nOptions:\n");
        page.push_str(&options);
    }
    if let Some(examples) = examples {
        page.push_str(&format!("\n{}\n", examples.trim_end()));
    }
    out!("{page}")
}

/// Every way to type a command, the managed ones first.
fn other_names(entry: &Entry) -> Vec<String> {
    let mut names = Vec::new();
    for management in MANAGEMENT {
        for other in management.entries.iter().filter(|other| other.about == entry.about) {
            names.extend(
                std::iter::once(&other.name)
                    .chain(other.aliases)
                    .map(|name| format!("hull {} {name}", management.name)),
            );
        }
    }
    for other in ROOT.iter().flat_map(|table| table.iter()).filter(|other| other.about == entry.about) {
        names.extend(std::iter::once(&other.name).chain(other.aliases).map(|name| format!("hull {name}")));
    }
    names
}

fn listed(group: Group) -> Vec<(&'static str, &'static str)> {
    let all = ROOT.iter().flat_map(|table| table.iter());
    let mut rows: Vec<_> = all.filter(|e| e.group == group).map(|e| (e.name, e.about)).collect();
    if group == Group::Commands {
        rows.sort_unstable();
    }
    rows
}

fn section(page: &mut String, title: &str, rows: Vec<(&str, &str)>) {
    if rows.is_empty() {
        return;
    }
    page.push_str(&format!("\n{title}:\n"));
    for (name, about) in rows {
        page.push_str(&format!("  {name:<11} {about}\n"));
    }
}

/// The options alone, as clap lays them out.
fn options(command: Command) -> String {
    let command = command
        .disable_help_flag(true)
        .disable_version_flag(true)
        .mut_args(|arg| if arg.is_positional() { arg.hide(true) } else { arg.hide_env(true) })
        .help_template("{options}")
        .max_term_width(100);
    // Off a terminal, the width is the reader's business: 80 as everywhere.
    let mut command = if std::io::stdout().is_terminal() { command } else { command.term_width(80) };
    let text = command.render_help().to_string();
    let mut lines = text.trim_end().to_owned();
    lines.push('\n');
    lines
}
