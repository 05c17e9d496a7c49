//! `ns enter`: nsenter, by process or container.

use std::path::PathBuf;

use clap::Args;
use hull_runtime::partial::enter::{self, Enter};
use hull_runtime::partial::{Kind, Kinds};

use crate::commands::shared::process::{self, failed};
use crate::context::Context;
use crate::error::{Error, ExitStatus};

/// `ns enter`.
#[derive(Args, Debug)]
#[command(
    after_help = "Without a flag for one, all namespaces are entered in which the target is not with you.

Examples:
  hull ns enter --net web -- ss -lt                    # the host's ss in a container that has none
  hull ns enter --pid --mount-proc web -- ps -ef       # the same with ps, and a /proc to match
  hull ns enter --all -t 4711 -- sh                    # every namespace of a process"
)]
pub struct EnterArgs {
    /// Enter all namespaces of the target
    #[arg(short, long)]
    all: bool,
    /// Enter the cgroup namespace
    #[arg(short = 'C', long)]
    cgroup: bool,
    /// Enter the IPC namespace
    #[arg(short, long)]
    ipc: bool,
    /// Enter the mount namespace: the target's files, and its programs
    #[arg(short, long)]
    mount: bool,
    /// Mount a /proc of the pid namespace, in a mount namespace of the program's own
    #[arg(
        long,
        value_name = "directory",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "/proc"
    )]
    mount_proc: Option<PathBuf>,
    /// Enter the network namespace
    #[arg(short, long)]
    net: bool,
    /// Enter the pid namespace
    #[arg(short, long)]
    pid: bool,
    /// Don't become root in a user namespace
    #[arg(long)]
    preserve_credentials: bool,
    /// Become this group
    #[arg(short = 'G', long, value_name = "gid")]
    setgid: Option<u32>,
    /// Become this user
    #[arg(short = 'S', long, value_name = "uid")]
    setuid: Option<u32>,
    /// The process or container; it can stand without the flag as well
    #[arg(short, long, value_name = "PID|CONTAINER")]
    target: Option<String>,
    /// Enter the time namespace
    #[arg(short = 'T', long)]
    time: bool,
    /// Enter the user namespace
    #[arg(short = 'U', long)]
    user: bool,
    /// Enter the UTS namespace: host and domain name
    #[arg(short, long)]
    uts: bool,
    /// Working directory
    #[arg(long, value_name = "directory")]
    wd: Option<PathBuf>,
    #[arg(value_name = "PID|CONTAINER")]
    named: Option<String>,
    #[arg(value_name = "PROGRAM", trailing_var_arg = true)]
    program: Vec<String>,
}

impl EnterArgs {
    fn kinds(&self) -> Kinds {
        let asked = [
            (self.mount, Kind::Mount),
            (self.uts, Kind::Uts),
            (self.ipc, Kind::Ipc),
            (self.net, Kind::Net),
            (self.pid, Kind::Pid),
            (self.user, Kind::User),
            (self.cgroup, Kind::Cgroup),
            (self.time, Kind::Time),
        ];
        // None is all in which the target is not with the caller.
        asked.into_iter().filter(|(asked, _)| *asked && !self.all).map(|(_, kind)| kind).collect()
    }

    /// Whose namespaces, by `--target` or else the first word, and the program: with `--target` that word begins it.
    fn split(&self) -> Option<(&str, Vec<String>)> {
        match (&self.target, &self.named) {
            (Some(target), first) => Some((target, first.iter().chain(&self.program).cloned().collect())),
            (None, Some(named)) => Some((named, self.program.clone())),
            (None, None) => None,
        }
    }
}

/// `ns enter`.
pub async fn enter(args: EnterArgs, context: &Context) -> Result<ExitStatus, Error> {
    let Some((target, program)) = args.split() else {
        return Err(Error::usage("whose namespaces? name a process or container: hull ns enter PID"));
    };
    let (pid, container) = process::find_whose(context, target).await?;
    let wish = Enter {
        pid,
        container,
        kinds: args.kinds(),
        proc_at: args.mount_proc.clone(),
        directory: args.wd.clone(),
        uid: args.setuid,
        gid: args.setgid,
        keep_credentials: args.preserve_credentials,
        program,
    };
    let status = enter::enter(&wish).map_err(failed)?;
    Ok(ExitStatus(u8::try_from(status).unwrap_or(u8::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches as _;

    #[test]
    fn a_program_needs_no_dashes_before_it() {
        for (words, target, program) in [
            (vec!["web"], "web", vec![]),
            (vec!["web", "ls", "-l"], "web", vec!["ls", "-l"]),
            (vec!["web", "--", "ls", "-l"], "web", vec!["ls", "-l"]),
            (vec!["web", "--net", "ls", "--pid"], "web", vec!["ls", "--pid"]),
            (vec!["-t", "7", "ls", "/"], "7", vec!["ls", "/"]),
            (vec!["-t", "7", "--", "ls"], "7", vec!["ls"]),
            (vec!["-t", "7"], "7", vec![]),
            (vec!["--net", "web", "ip", "--", "x"], "web", vec!["ip", "--", "x"]),
        ] {
            let command = EnterArgs::augment_args(clap::Command::new("enter").no_binary_name(true));
            let args = EnterArgs::from_arg_matches(&command.get_matches_from(&words)).unwrap();
            let program: Vec<String> = program.into_iter().map(str::to_owned).collect();
            assert_eq!(args.split(), Some((target, program)), "{words:?}");
        }
    }
}
