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
    #[arg(value_name = "PROGRAM", last = true)]
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
}

/// `ns enter`.
pub async fn enter(args: EnterArgs, context: &Context) -> Result<ExitStatus, Error> {
    let target = match (&args.target, &args.named) {
        (Some(target), None) | (None, Some(target)) => target,
        (None, None) => {
            return Err(Error::usage("whose namespaces? name a process or container: hull ns enter PID"));
        }
        (Some(_), Some(extra)) => {
            return Err(Error::usage(format!(
                "{extra}: the program stands after --, as in: -t PID -- {extra}"
            )));
        }
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
        program: args.program,
    };
    let status = enter::enter(&wish).map_err(failed)?;
    Ok(ExitStatus(u8::try_from(status).unwrap_or(u8::MAX)))
}
