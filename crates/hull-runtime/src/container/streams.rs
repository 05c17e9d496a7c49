//! The standard streams of the new process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::Streams;
use crate::Result;
use crate::error::Context;

/// Puts the streams at 0, 1 and 2; a terminal also becomes the session's controlling one.
pub(super) fn place(streams: &Streams, terminal: Option<OwnedFd>) -> Result<()> {
    let [stdin, stdout, stderr] = match (streams, &terminal) {
        (Streams::Pipes { stdin, stdout, stderr }, _) => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        (Streams::Terminal { .. }, Some(slave)) => [slave.as_fd(); 3],
        (Streams::Terminal { .. }, None) | (Streams::Inherited, _) => return Ok(()),
    };
    let place = || -> rustix::io::Result<()> {
        // Moved out of the way first: a stream may itself be at a number that another is put at.
        let (stdin, stdout, stderr) = (above(stdin)?, above(stdout)?, above(stderr)?);
        dup2_stdin(stdin)?;
        dup2_stdout(stdout)?;
        dup2_stderr(stderr)
    };
    place().context(|| "put the standard streams in place".into())?;
    if terminal.is_some() {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
            .context(|| "make the terminal the session's own".into())?;
    }
    Ok(())
}

fn above(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    fcntl_dupfd_cloexec(fd, 3)
}
