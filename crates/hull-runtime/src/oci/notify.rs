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

use super::descriptors::{address, socket_at};
use crate::error::Context;
use crate::sys::sockets;
use crate::{Error, Result};

/// Where the container has the folder.
const INSIDE: &str = "/run/notify";
const NAME: &str = "notify.sock";
/// Nobody says more in one datagram.
const LONGEST: usize = 4096;
/// How many datagrams are read before everything else is looked at again: the container may send without end. As many as
/// wait in a socket where systemd has set that (`net.unix.max_dgram_qlen`), so that what was said before the container's
/// end is read with it.
const AT_ONCE: usize = 512;
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
        // One of the configuration's own is for whoever wrote that.
        environment.retain(|variable| !variable.starts_with("NOTIFY_SOCKET="));
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
    /// Who is told, once there is something to tell.
    told: Option<UnixDatagram>,
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
        Ok(Notify { socket: socket.into(), host: host.to_owned(), told: None })
    }

    /// What [`Notify::turn`] waits for: the container's word, then room at the service manager's socket.
    pub(super) fn interest(&self) -> PollFd<'_> {
        match &self.told {
            None => PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
            Some(host) => PollFd::from_borrowed_fd(host.as_fd(), PollFlags::OUT),
        }
    }

    /// Goes on as far as nobody has to be waited for. Returns the socket by which it was passed on that the container is
    /// ready; none: not yet. `main` is whom the service manager is to watch.
    pub(super) fn turn(&mut self, main: i32) -> Result<Option<UnixDatagram>> {
        let doing = || format!("tell {} that the container is ready (NOTIFY_SOCKET)", self.host.display());
        let host = match self.told.take() {
            Some(host) => host,
            None if self.is_ready() => self.connect().context(doing)?,
            None => return Ok(None),
        };
        match host.send(format!("READY=1\nMAINPID={main}\n").as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.told = Some(host);
                Ok(None)
            }
            sent => sent.context(doing).map(|_| Some(host)),
        }
    }

    /// Reads what has come, up to [`AT_ONCE`] datagrams; whether the container is ready by that.
    fn is_ready(&self) -> bool {
        let mut word = [0; LONGEST];
        for _ in 0..AT_ONCE {
            // Nothing is left unread, or it cannot be read.
            let Ok(length) = self.socket.recv(&mut word) else { return false };
            if word[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return true;
            }
        }
        false
    }

    /// A socket to the service manager, who may be slow to read: it does not wait for that.
    fn connect(&self) -> io::Result<UnixDatagram> {
        let host = UnixDatagram::unbound()?;
        host.set_nonblocking(true)?;
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
    pub fn wait(&mut self, pidfd: BorrowedFd<'_>, pid: i32) -> Result<Option<String>> {
        if let Err(error) = self.connect() {
            let host = self.host.display();
            return Ok(Some(format!(
                "the container is not waited for: nobody is at {host} (NOTIFY_SOCKET): {error}"
            )));
        }
        loop {
            let waited = &mut [self.interest(), PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
            match poll(waited, None) {
                Err(Errno::INTR) => continue,
                polled => polled.context(|| "wait until the container is ready".into())?,
            };
            let has_ended = !waited[1].revents().is_empty();
            match self.turn(pid).and_then(|told| told.map(|host| barrier(&host)).transpose()) {
                Ok(Some(())) => return Ok(None),
                Ok(None) if has_ended => return Ok(Some(self.of_its_end())),
                Ok(None) => {}
                Err(error) => return Ok(Some(error.to_string())),
            }
        }
    }

    /// What is said of a container that has ended before somebody was told that it is ready.
    fn of_its_end(&self) -> String {
        match &self.told {
            None => "the container has ended, and was not ready (READY=1) before".to_owned(),
            Some(_) => format!(
                "the container was ready, and has ended before {} (NOTIFY_SOCKET) had room for that: nobody reads there",
                self.host.display()
            ),
        }
    }
}

/// Waits until the service manager has taken note (`sd_notify_barrier(3)`): a word of who has ended by then may not be
/// known for one of the service's.
fn barrier(host: &UnixDatagram) -> Result<()> {
    let doing = || "wait until the service manager has heard that the container is ready".to_owned();
    let (ours, theirs): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(doing)?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = sockets::send(host.as_fd(), b"BARRIER=1", Some(theirs.as_fd())) {
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(error).context(doing);
        }
        if !comes_by(PollFd::from_borrowed_fd(host.as_fd(), PollFlags::OUT), deadline).context(doing)? {
            return Err(Error::refused(doing(), "it has not read what it was told for 30 seconds"));
        }
    }
    drop(theirs);
    if comes_by(PollFd::new(&ours, PollFlags::IN), deadline).context(doing)? {
        return Ok(());
    }
    let reason = "it has not closed what came with BARRIER=1 for 30 seconds: it may know no such word";
    Err(Error::refused(doing(), reason))
}

/// Waits for one thing; false: it has not come by then.
fn comes_by(awaited: PollFd<'_>, deadline: Instant) -> rustix::io::Result<bool> {
    let awaited = &mut [awaited];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(awaited, Some(&left)) {
            Err(Errno::INTR) => {}
            polled => return polled.map(|ready| ready > 0),
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

    /// What the container says.
    fn say(start: &Path, word: &[u8]) {
        let container = UnixDatagram::unbound().unwrap();
        container.send_to(word, folder(start).join(NAME)).unwrap();
    }

    /// A process that is killed and reaped with the test, and its pidfd.
    struct Container(std::process::Child, OwnedFd);

    impl Container {
        fn begin() -> Container {
            let child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
            let pid = rustix::process::Pid::from_child(&child);
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
            Container(child, pidfd)
        }
    }

    impl Drop for Container {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Floods a socket from two threads, so that there always is something to read, until it is closed.
    fn flood(socket: &Path) -> Vec<std::thread::JoinHandle<()>> {
        let sender = || {
            let (container, socket) = (UnixDatagram::unbound().unwrap(), socket.to_owned());
            std::thread::spawn(move || while container.send_to(b"STATUS=on the way", &socket).is_ok() {})
        };
        vec![sender(), sender()]
    }

    #[test]
    fn the_configuration_names_one_socket() {
        let root = tempfile::tempdir().unwrap();
        let mut spec = Spec::default();
        let own = ["NOTIFY_SOCKET=/old", "A=1"].map(str::to_owned);
        spec.process_mut().as_mut().unwrap().set_env(Some(own.to_vec()));
        prepare(&mut spec, &root.path().join(":7")).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.env().as_ref().unwrap(), &["A=1", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
    }

    #[test]
    fn who_speaks_without_end_holds_nobody_up() {
        let root = tempfile::tempdir().unwrap();
        let start = root.path().join(":7");
        let host = root.path().join("host");
        let heard = UnixDatagram::bind(&host).unwrap();
        heard.set_nonblocking(true).unwrap();
        let mut notify = notify(&start, host.as_os_str());
        let senders = flood(&folder(&start).join(NAME));
        // Each turn ends, and so does the wait with the container.
        for _ in 0..10 {
            assert!(notify.turn(77).unwrap().is_none());
        }
        let mut container = Container::begin();
        container.0.kill().unwrap();
        let said = notify.wait(container.1.as_fd(), 77).unwrap();
        assert!(said.is_some_and(|said| said.contains("was not ready")));
        assert!(heard.recv(&mut [0; 64]).is_err(), "something was told");
        drop(notify);
        for sender in senders {
            sender.join().unwrap();
        }
    }

    #[test]
    fn a_service_manager_that_does_not_read_holds_nobody_up() {
        let root = tempfile::tempdir().unwrap();
        let start = root.path().join(":7");
        let path = root.path().join("host");
        let host = UnixDatagram::bind(&path).unwrap();
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        while other.send_to(b"X=1", &path).is_ok() {}
        let mut notify = notify(&start, path.as_os_str());
        say(&start, b"READY=1");
        assert!(notify.turn(77).unwrap().is_none());
        assert!(notify.turn(77).unwrap().is_none(), "there is no room yet");
        // Its end is seen meanwhile.
        let mut container = Container::begin();
        container.0.kill().unwrap();
        let said = notify.wait(container.1.as_fd(), 77).unwrap();
        assert!(said.is_some_and(|said| said.contains("nobody reads there")));
        // The word is not lost: it goes when there is room.
        let mut word = [0; 64];
        let mut next = || {
            let length = host.recv(&mut word).unwrap();
            word[..length].to_vec()
        };
        assert_eq!(next(), b"X=1");
        let deadline = Instant::now() + PATIENCE;
        let mut told = None;
        while told.is_none() && comes_by(notify.interest(), deadline).unwrap() {
            told = notify.turn(77).unwrap();
        }
        told.unwrap();
        let mut last = next();
        while last == b"X=1" {
            last = next();
        }
        assert_eq!(last, b"READY=1\nMAINPID=77\n");
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
            let mut notify = notify(&start, &name);
            say(&start, b"READY=1");
            let connected = notify.turn(77).unwrap().unwrap();
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
