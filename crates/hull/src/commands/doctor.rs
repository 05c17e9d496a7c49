//! `hull doctor`: what this machine's kernel offers.

use clap::Args;
use hull_runtime::doctor::{self, Finding, State};

use super::Entry;
use super::shared::inspect::pretty;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::outln;

/// The commands at the root.
pub const ROOT: &[Entry] = &[entry!(
    "doctor",
    [],
    Commands,
    "Find out what this machine's kernel offers, what hull does without it, and how to turn it on",
    "[OPTIONS]",
    DoctorArgs,
    run
)];

/// `doctor`.
#[derive(Args, Debug)]
#[command(
    after_help = "Everything is tried in a process of its own, and leaves nothing. The exit status is 0 where a
container can be started with all that is usual, and 1 where something is missing.

Examples:
  hull doctor
  hull doctor --apparmor-profile >/etc/apparmor.d/hull-default
  hull doctor --json | jq '.[] | select(.state != \"yes\")'"
)]
pub struct DoctorArgs {
    /// Print the AppArmor profile that containers run under where it is loaded
    #[arg(long, conflicts_with = "json")]
    apparmor_profile: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

async fn run(args: DoctorArgs, _: &Context) -> Result<ExitStatus, Error> {
    if args.apparmor_profile {
        outln!("{}", hull_runtime::apparmor::PROFILE.trim_end())?;
        return Ok(ExitStatus::SUCCESS);
    }
    let found = doctor::examine();
    if args.json {
        outln!("{}", pretty(&serde_json::to_value(&found)?)?)?;
    } else {
        page(&found).iter().try_for_each(|line| outln!("{line}"))?;
    }
    let missing = found.iter().any(|finding| finding.state == State::No);
    Ok(if missing { ExitStatus::FAILURE } else { ExitStatus::SUCCESS })
}

/// The findings by their areas, and what there is to do behind those that lack something.
fn page(found: &[Finding]) -> Vec<String> {
    let width = found.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    let mut area = "";
    for finding in found {
        if finding.area != area {
            area = finding.area;
            lines.push(format!("{}{area}:", if lines.is_empty() { "" } else { "\n" }));
        }
        let mark = match finding.state {
            State::Yes => "ok",
            State::Partly => "~",
            State::No => "NO",
        };
        lines.push(format!("  {mark:<3} {:<width$}  {}", finding.name, finding.found));
        if finding.state != State::Yes {
            lines.push(format!("      without it: {}", finding.without));
            lines.push(format!("      to turn it on: {}", finding.remedy));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_told_with_its_remedy() {
        let of = |state, without: &str| Finding {
            area: "files",
            name: "overlay".to_owned(),
            state,
            found: "works".to_owned(),
            without: without.to_owned(),
            remedy: "modprobe overlay".to_owned(),
        };
        let lines = page(&[of(State::Yes, ""), of(State::No, "nothing starts")]);
        assert_eq!(
            lines,
            [
                "files:",
                "  ok  overlay  works",
                "  NO  overlay  works",
                "      without it: nothing starts",
                "      to turn it on: modprobe overlay",
            ]
        );
    }
}
