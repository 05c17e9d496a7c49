//! Starts the daemon where the default socket has none.
#![allow(unsafe_code)] // one `pre_exec`: the daemon gets a session of its own

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::{UnixDatagram, UnixStream};
use tokio::process::{Child, Command};

use super::connect::DEFAULT_SOCKET;
use crate::errln;
use crate::error::{Error, words};

const DATA_ROOT: &str = "/var/lib/hull";
const LOG: &str = "/var/lib/hull/daemon.log";
/// After this long without a word, something is badly wrong with the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sees to it that a daemon serves the default socket: starts it as root; else says how, or asks on a terminal.
pub(super) async fn ensure() -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        return start().await;
    }
    let advice = "hull's daemon is not running; start it with: sudo hull start-daemon";
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Error::connection(advice));
    }
    eprint!("hull's daemon is not running. Start it with sudo? [Y/n] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "" | "y" | "Y" | "yes") {
        return Err(Error::connection(advice));
    }
    let this = this_program()?;
    let status = Command::new("sudo").arg(this).arg("start-daemon").status().await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Error::connection("sudo did not start hull's daemon")),
        Err(error) => {
            Err(Error::connection(format!("cannot run sudo ({}); as root: hull start-daemon", words(&error))))
        }
    }
}

/// Starts the daemon as root and returns when it serves. One that is there already is left alone.
pub async fn start() -> Result<(), Error> {
    if UnixStream::connect(DEFAULT_SOCKET).await.is_ok() {
        return Ok(());
    }
    let folder = tempfile::tempdir()
        .map_err(|e| Error::from(e).context("cannot make a folder for the daemon's notice"))?;
    let notice = folder.path().join("notify");
    let socket = UnixDatagram::bind(&notice)
        .map_err(|e| Error::from(e).context(format!("cannot listen at {}", notice.display())))?;
    let log = open_log()
        .map_err(|e| Error::connection(format!("cannot write the daemon's log {LOG}: {}", words(&e))))?;
    let log_start = log.metadata().map(|meta| meta.len()).unwrap_or(0);
    let mut child = spawn(&notice, &log)?;
    tokio::select! {
        ready = until_ready(&socket) => ready,
        ended = child.wait() => {
            // Another command may have been faster: then the daemon that we started ended, and one serves.
            if UnixStream::connect(DEFAULT_SOCKET).await.is_ok() {
                return Ok(());
            }
            let status = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(Error::connection(format!(
                "hull's daemon ended as it started ({status}){}", last_words(log_start)
            )))
        }
        () = tokio::time::sleep(PATIENCE) => Err(Error::connection(format!(
            "hull's daemon (pid {}) does not get ready; see {LOG}", child.id().unwrap_or(0)
        ))),
    }
}

fn this_program() -> Result<std::path::PathBuf, Error> {
    std::env::current_exe().map_err(|e| Error::from(e).context("cannot find this program's own file"))
}

fn open_log() -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o711).create(DATA_ROOT)?;
    OpenOptions::new().create(true).append(true).mode(0o600).open(LOG)
}

fn spawn(notice: &std::path::Path, log: &File) -> Result<Child, Error> {
    let mut command = Command::new(this_program()?);
    command
        .arg("daemon")
        .env("NOTIFY_SOCKET", notice)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    // SAFETY: setsid is a bare system call, safe between fork and exec.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(io::Error::from));
    }
    command.spawn().map_err(|e| Error::connection(format!("cannot start hull's daemon: {}", words(&e))))
}

async fn until_ready(socket: &UnixDatagram) -> Result<(), Error> {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer[..length].split(|&byte| byte == b'\n').any(|line| line == b"READY=1") {
            return Ok(());
        }
    }
}

/// What the daemon wrote since it was started, at most its last ten lines.
fn last_words(from: u64) -> String {
    let mut text = String::new();
    let read = File::open(LOG).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.take(1 << 16).read_to_string(&mut text)
    });
    if read.is_err() || text.trim().is_empty() {
        errln!("hull: the daemon's log is {LOG}");
        return String::new();
    }
    let lines: Vec<&str> = text.trim_end().lines().collect();
    format!("; its last words:\n{}", lines[lines.len().saturating_sub(10)..].join("\n"))
}
