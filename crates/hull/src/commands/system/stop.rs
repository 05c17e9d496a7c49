//! `system stop`, hull's own: the end of the daemon. And `system dial-stdio`, the far end of ssh.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::client::{empty, segment};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::{errln, outln};

/// A daemon that takes longer is told about, and waited for no more.
const PATIENCE: Duration = Duration::from_secs(60);

/// `system stop`.
#[derive(Args, Debug)]
pub struct StopArgs {
    /// Stop all running containers first
    #[arg(short, long)]
    all: bool,
}

/// `hull system stop`.
pub async fn stop(args: StopArgs, context: &Context) -> Result<ExitStatus, Error> {
    let socket = socket_path(context)?;
    // Before the first request: one to a daemon that is not there would start it.
    let Some(daemon) = peer(&socket)? else {
        outln!("No daemon is running at unix://{}", socket.display())?;
        return Ok(ExitStatus::SUCCESS);
    };
    require_hull(daemon, &socket)?;
    let pidfd = pidfd_open(daemon, PidfdFlags::NONBLOCK).map_err(|e| {
        Error::from(std::io::Error::from(e)).context(format!("cannot watch the daemon (pid {daemon})"))
    })?;
    if args.all && !stop_containers(context).await? {
        errln!("Some containers did not stop; the daemon runs on.");
        return Ok(ExitStatus::FAILURE);
    }
    pidfd_send_signal(&pidfd, Signal::TERM).map_err(|e| match e {
        rustix::io::Errno::PERM => Error::new(format!(
            "the daemon (pid {daemon}) is another user's; end it as root: sudo hull system stop"
        )),
        other => {
            Error::from(std::io::Error::from(other)).context(format!("cannot end the daemon (pid {daemon})"))
        }
    })?;
    if !ends_within(&pidfd, PATIENCE)? {
        return Err(Error::new(format!(
            "the daemon (pid {daemon}) was asked to end and still runs after {} s; see its log",
            PATIENCE.as_secs()
        )));
    }
    outln!("The daemon has stopped.")?;
    Ok(ExitStatus::SUCCESS)
}

/// Waits for a process; whether it ended in time. Blocks: nothing else is left to do meanwhile.
fn ends_within(pidfd: &OwnedFd, patience: Duration) -> Result<bool, Error> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        // A pidfd can be read from when its process has ended.
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(
                    Error::from(std::io::Error::from(error)).context("cannot wait for the daemon's end")
                );
            }
        }
    }
}

fn socket_path(context: &Context) -> Result<PathBuf, Error> {
    let host = context.client.host().to_string();
    host.strip_prefix("unix://").map(PathBuf::from).ok_or_else(|| {
        Error::new(format!(
            "only a daemon on this machine can be stopped, over its unix socket; this one is at {host}"
        ))
    })
}

/// The process that listens on the socket; none where nobody does.
fn peer(socket: &Path) -> Result<Option<Pid>, Error> {
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(Error::from(error).context(format!("cannot connect to unix://{}", socket.display())));
        }
    };
    let credentials = rustix::net::sockopt::socket_peercred(stream.as_fd())
        .map_err(|e| Error::from(std::io::Error::from(e)).context("cannot ask who listens on the socket"))?;
    Ok(Some(credentials.pid))
}

/// Refuses to end what is not hull's daemon: another engine, or a service manager that holds the socket for it.
fn require_hull(daemon: Pid, socket: &Path) -> Result<(), Error> {
    let command = std::fs::read(format!("/proc/{daemon}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        command.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    if words.get(1).is_some_and(|word| word == "daemon") {
        return Ok(());
    }
    let program = words.first().map(String::as_str).unwrap_or_default();
    Err(Error::new(format!(
        "what listens at unix://{} is not hull's daemon but {program} (pid {daemon}); stop it by its own means",
        socket.display()
    )))
}

/// Stops what runs, all at once; whether all did.
async fn stop_containers(context: &Context) -> Result<bool, Error> {
    let containers: Vec<Value> = context.client.get_json("/containers/json").await?;
    let stops = containers.iter().filter_map(|c| c["Id"].as_str()).map(|id| async move {
        let path = format!("/containers/{}/stop", segment(id));
        let answer = context.client.request(hyper::Method::POST, &path, &[], empty()).await;
        match answer {
            Ok(response) => response.bytes().await.map(|_| ()),
            // It has ended and was removed meanwhile.
            Err(error) if error.http_status() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    });
    let mut all = true;
    for failure in join_all(stops).await.into_iter().filter_map(Result::err) {
        errln!("{failure}");
        all = false;
    }
    Ok(all)
}

/// `system dial-stdio`.
#[derive(Args, Debug)]
pub struct DialArgs {}

/// `hull system dial-stdio`: bytes from standard input to the daemon, and back, until the daemon closes.
pub async fn dial_stdio(_: DialArgs, context: &Context) -> Result<ExitStatus, Error> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    let mut input = tokio::fs::File::from_std(stdin.into());
    let mut output = tokio::fs::File::from_std(stdout.into());
    let (mut from, mut to) = tokio::io::split(context.client.raw().await?);
    let forward = async {
        tokio::io::copy(&mut input, &mut to).await?;
        to.shutdown().await?;
        // The answer may still be under way: the daemon's end decides.
        std::future::pending::<std::io::Result<()>>().await
    };
    let back = async {
        tokio::io::copy(&mut from, &mut output).await?;
        output.flush().await
    };
    tokio::select! {
        result = forward => result?,
        result = back => result?,
    }
    Ok(ExitStatus::SUCCESS)
}
