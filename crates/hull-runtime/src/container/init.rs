//! The small init of `--init`: process 1 which starts the command as its child, passes signals on to it, reaps
//! whatever is orphaned, and ends as the command does. It is a fork of the first process; where another runtime makes
//! the container, it is hull's own program under the name [`NAME`].

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use rustix::process::{Pid, getpid, setpgid};
use rustix::stdio;

use super::process::Privileges;
use crate::error::Context;
use crate::sys;
use crate::{Error, Result};

/// The name that makes hull's program the init, which is Docker's.
pub const NAME: &str = "docker-init";

/// The whole life of the process as the init of a container that another runtime has made. Its words are `--` and the
/// command with its arguments. It has the command's user and privileges.
pub fn main(words: impl Iterator<Item = OsString>) -> ! {
    let mut command = words.skip_while(|word| word == "--");
    let Some(program) = command.next() else {
        eprintln!("{NAME}: there is no command behind --");
        sys::exit_now(125)
    };
    let arguments: Vec<OsString> = command.collect();
    let forked = sys::block_signals().and_then(|()| sys::fork());
    let status = match forked {
        Ok(None) => be_command(program, &arguments),
        Ok(Some(command)) => name_and_reap().and_then(|()| serve(command)),
        Err(error) => Err(Error::kernel("fork the command from its init", error)),
    };
    sys::exit_now(status.unwrap_or_else(|error| {
        eprintln!("{NAME}: {error}");
        i32::from(error.exit_status)
    }))
}

/// Executes the command, in the foreground of a terminal. It returns only when that fails.
fn be_command(program: OsString, arguments: &[OsString]) -> Result<i32> {
    setpgid(None, None).context(|| "give the command a process group".into())?;
    if rustix::termios::isatty(stdio::stdin()) {
        // One that is no terminal of this session's stays as it is.
        let _ = rustix::termios::tcsetpgrp(stdio::stdin(), getpid());
    }
    sys::reset_signals().context(|| "reset the signals".into())?;
    let error = std::process::Command::new(&program).args(arguments).exec();
    let exit_status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    Err(Error { exit_status, ..Error::kernel(format!("execute {}", program.display()), error) })
}

/// Forks. Returns in the command's process; the init itself never returns.
pub(super) fn stand_in_front(privileges: &Privileges<'_>, terminal: bool) -> Result<()> {
    // Blocked before the fork, so that no signal falls between.
    sys::block_signals().context(|| "block the init's signals".into())?;
    match sys::fork().context(|| "fork the command from its init".into())? {
        Some(command) => be_init(command, privileges),
        None => {
            setpgid(None, None).context(|| "give the command a process group".into())?;
            if terminal {
                let group: Pid = getpid();
                rustix::termios::tcsetpgrp(stdio::stdin(), group)
                    .context(|| "give the command its terminal".into())?;
            }
            Ok(())
        }
    }
}

fn be_init(command: i32, privileges: &Privileges<'_>) -> ! {
    // A failure here ends the init, and with it the pid namespace and the command.
    let status = become_init(privileges).and_then(|()| serve(command)).unwrap_or(125);
    sys::exit_now(status)
}

/// What is not the command's own pid namespace does not hand its orphans to us by itself.
fn name_and_reap() -> Result<()> {
    rustix::thread::set_name(c"docker-init").context(|| "name the init".into())?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).context(|| "become the reaper".into()).map(drop)
}

fn become_init(privileges: &Privileges<'_>) -> Result<()> {
    name_and_reap()?;
    privileges.drop_all()?;
    // The report to the shim must end with the command's exec, and no descriptor of the host's may stay.
    sys::close_from(3).context(|| "close the init's descriptors".into())
}

fn serve(command: i32) -> Result<i32> {
    loop {
        let signal = sys::wait_signal();
        match signal {
            Ok(libc::SIGCHLD) => {
                while let Ok(Some((pid, status))) = sys::reap() {
                    if pid == command {
                        return Ok(exit_status(status));
                    }
                }
            }
            // The terminal's words to background processes are not for passing on.
            Ok(libc::SIGTTIN | libc::SIGTTOU) => {}
            // A command that has just ended is reaped by the SIGCHLD that follows.
            Ok(signal) => drop(sys::kill(command, signal)),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(Error::kernel("wait for signals", error)),
        }
    }
}

fn exit_status(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
