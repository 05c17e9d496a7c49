//! A container that says when it is ready (`sd_notify(3)`), to whoever waits for the runtime: systemd, where the runtime is
//! a service's program with `Type=notify`.
//!
//! The caller's socket (`NOTIFY_SOCKET`) is not the container's to write to. It gets one of its own, in a folder that is
//! mounted into it at `/run/notify`; of what comes there `READY=1` alone is passed on, with the process that the service
//! manager is to watch (`MAINPID`). The folder lies beside the container's file and goes with it:
//!
//! ```text
//! ROOT/:N.notify/notify.sock
//! ```
//!
//! Sources: `sd_notify(3)`, and what runc 1.1 does.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Mount, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::create::{address, socket_at};
use crate::error::Context;
use crate::sys::sockets;
use crate::{Error, Result};

/// Where the container has the folder.
const INSIDE: &str = "/run/notify";
const NAME: &str = "notify.sock";
/// Nobody says more in one datagram.
const LONGEST: usize = 4096;
/// How long a service manager may take to see what it was told, before the process that told it ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folder of a container whose first process waits at `start`.
fn folder(start: &Path) -> PathBuf {
    start.with_extension("notify")
}

/// Makes the folder, and has the configuration mount it and name the socket.
pub(super) fn prepare(spec: &mut Spec, start: &Path) -> Result<()> {
    let folder = folder(start);
    let doing = || format!("make {}", folder.display());
    DirBuilder::new().mode(0o755).create(&folder).context(doing)?;
    // Who is not root in there reaches the socket too, whatever the caller's mask.
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).context(doing)?;
    let mut mount = Mount::default();
    mount.set_destination(INSIDE.into());
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(folder));
    let words = ["bind", "nosuid", "noexec", "nodev", "ro"];
    mount.set_options(Some(words.map(str::to_owned).to_vec()));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        let mut environment = process.env().clone().unwrap_or_default();
        environment.push(format!("NOTIFY_SOCKET={INSIDE}/{NAME}"));
        process.set_env(Some(environment));
    }
    Ok(())
}

/// Removes the folder with its socket, where it is there.
pub(super) fn remove(start: &Path) -> io::Result<()> {
    let folder = folder(start);
    for removed in [fs::remove_file(folder.join(NAME)), fs::remove_dir(&folder)] {
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The socket at which a container tells, and the one that is told.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    host: OsString,
}

impl Notify {
    /// Listens in the folder of a container that was created with one.
    pub(super) fn listen(start: &Path, host: &OsStr) -> Result<Notify> {
        let place = folder(start).join(NAME);
        let doing = || format!("make {}", place.display());
        // The path to it is a short one, however long the root's is.
        let (folder, name) = socket_at(&place).context(doing)?;
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::DGRAM,
            rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
            None,
        );
        let socket = socket.context(doing)?;
        let address = address(&folder, &name).context(doing)?;
        match rustix::net::bind(&socket, &address) {
            // A start that was killed has left it.
            Err(Errno::ADDRINUSE) => {
                fs::remove_file(&place).context(doing)?;
                rustix::net::bind(&socket, &address)
            }
            bound => bound,
        }
        .context(doing)?;
        fs::set_permissions(&place, Permissions::from_mode(0o777)).context(doing)?;
        Ok(Notify { socket: socket.into(), host: host.to_owned() })
    }

    /// Readable when the container has said something.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads all that has come; whether the container is ready by that.
    pub(super) fn is_ready(&self) -> bool {
        let mut word = [0; LONGEST];
        // Its end is what is left unread, which is nothing (it does not block).
        while let Ok(length) = self.socket.recv(&mut word) {
            if word[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return true;
            }
        }
        false
    }

    /// Passes on that the container is ready. `main` is whom the service manager is to watch.
    pub(super) fn pass_on(&self, main: i32) -> Result<UnixDatagram> {
        let doing = || format!("tell {} that the container is ready (NOTIFY_SOCKET)", self.host.display());
        let host = self.connect().context(doing)?;
        host.send(format!("READY=1\nMAINPID={main}\n").as_bytes()).context(doing)?;
        Ok(host)
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let host = UnixDatagram::unbound()?;
        match self.host.as_bytes().strip_prefix(b"@") {
            Some(name) => host.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => host.connect(&self.host)?,
        }
        Ok(host)
    }

    /// Waits until the container is ready or its first process has ended, and passes on that it is ready. Returns what
    /// went wrong: it runs whether or not somebody was told.
    ///
    /// # Errors
    /// Waiting fails, which it does not.
    pub fn wait(&self, pidfd: BorrowedFd<'_>, pid: i32) -> Result<Option<String>> {
        if let Err(error) = self.connect() {
            let host = self.host.display();
            return Ok(Some(format!(
                "the container is not waited for: nobody is at {host} (NOTIFY_SOCKET): {error}"
            )));
        }
        loop {
            let waited = &mut [
                PollFd::from_borrowed_fd(self.socket(), PollFlags::IN),
                PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            ];
            match poll(waited, None) {
                Err(Errno::INTR) => continue,
                polled => polled.context(|| "wait until the container is ready".into())?,
            };
            let has_ended = !waited[1].revents().is_empty();
            if self.is_ready() {
                let told = self.pass_on(pid).and_then(|host| barrier(&host));
                return Ok(told.err().map(|error| error.to_string()));
            }
            if has_ended {
                return Ok(Some("the container has ended, and was not ready (READY=1) before".to_owned()));
            }
        }
    }
}

/// Waits until the service manager has taken note (`sd_notify_barrier(3)`): a word of who has ended by then may not be
/// known for one of the service's.
fn barrier(host: &UnixDatagram) -> Result<()> {
    let doing = || "wait until the service manager has heard that the container is ready".to_owned();
    let (ours, theirs): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(doing)?;
    sockets::send(host.as_fd(), b"BARRIER=1", Some(theirs.as_fd())).context(doing)?;
    drop(theirs);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&ours, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            Ok(0) => {
                let reason =
                    "it has not closed what came with BARRIER=1 for 30 seconds: it may know no such word";
                return Err(Error::refused(doing(), reason));
            }
            polled => return polled.map(drop).context(doing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notify(start: &Path, host: &OsStr) -> Notify {
        DirBuilder::new().create(folder(start)).unwrap();
        Notify::listen(start, host).unwrap()
    }

    #[test]
    fn ready_is_heard_wherever_it_stands_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        let start = root.path().join(":7");
        let notify = notify(&start, OsStr::new("/nowhere"));
        let socket = folder(&start).join(NAME);
        let container = UnixDatagram::unbound().unwrap();
        for word in ["STATUS=READY=1", "READY=0", "READY=1x", "MAINPID=1\nX_READY=1"] {
            container.send_to(word.as_bytes(), &socket).unwrap();
        }
        assert!(!notify.is_ready());
        for word in ["READY=1", "READY=1\n", "STATUS=up\nREADY=1"] {
            container.send_to(b"STATUS=on the way", &socket).unwrap();
            container.send_to(word.as_bytes(), &socket).unwrap();
            assert!(notify.is_ready(), "{word:?}");
            assert!(!notify.is_ready(), "once");
        }
        // Another start finds the place free, and the end leaves nothing.
        drop(notify);
        drop(Notify::listen(&start, OsStr::new("/nowhere")).unwrap());
        remove(&start).unwrap();
        remove(&start).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_waits_is_told_by_path_and_by_abstract_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("host");
        let name = format!("hull-notify-test-{}", std::process::id());
        let by_path = (UnixDatagram::bind(&path).unwrap(), path.into_os_string());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = (UnixDatagram::bind_addr(&address).unwrap(), OsString::from(format!("@{name}")));
        for (number, (host, name)) in [by_path, by_name].into_iter().enumerate() {
            let start = root.path().join(format!(":{number}"));
            let notify = notify(&start, &name);
            let connected = notify.pass_on(77).unwrap();
            let mut word = [0; 64];
            let length = host.recv(&mut word).unwrap();
            assert_eq!(&word[..length], b"READY=1\nMAINPID=77\n");
            // Who takes the word without the descriptor has closed that.
            let waiting = std::thread::spawn(move || barrier(&connected));
            let length = host.recv(&mut word).unwrap();
            assert_eq!(&word[..length], b"BARRIER=1");
            waiting.join().unwrap().unwrap();
        }
    }
}
