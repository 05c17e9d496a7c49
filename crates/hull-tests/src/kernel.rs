//! What the harness asks of the kernel itself: a network namespace, waiting for a process, a terminal.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::{UnshareFlags, unshare_unsafe};

thread_local! {
    static PRIVATE: Cell<bool> = const { Cell::new(false) };
}

/// Gives the calling thread, and whatever it starts from now on, a network namespace of its own with its loopback up.
/// A second call on the same thread does nothing.
///
/// # Panics
/// Where the caller is not root.
pub fn private_network() {
    if PRIVATE.replace(true) {
        return;
    }
    // SAFETY: only the network namespace is unshared, which no memory or descriptor of this process depends on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .expect("a network namespace of one's own (the tests run as root)");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("iproute2 is installed");
    assert!(up.success(), "the loopback of the test's network namespace did not come up");
}

/// Lets the calling thread, and whatever it starts from now on, see other files of the machine: `text` at each path, which
/// must be there. It has a mount namespace of its own for that.
///
/// # Panics
/// Where the caller is not root, or there is no such file.
pub fn private_files(files: &[(&str, &str)]) {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    // SAFETY: only the mount namespace is unshared (and with it this thread's working folder), which no memory or
    // descriptor of this process depends on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace of one's own");
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .expect("mounts that the machine does not see");
    for (path, text) in files {
        // Tests may be threads of one process.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("hull-file-{}-{number}", std::process::id()));
        std::fs::write(&file, text).expect("a file");
        mount_bind(&file, *path).unwrap_or_else(|error| panic!("bind over {path}: {error}"));
        std::fs::remove_file(&file).expect("its name goes, the mount stays");
    }
}

/// Waits for a process to end; `None` when it has not by then.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("a pidfd of one's own child");
    if !readable(&[&pidfd], patience)[0] {
        return None;
    }
    Some(child.wait().expect("the status of one's own child"))
}

/// Waits until one of the descriptors can be read (or, for a pidfd, its process has ended); says which.
pub(crate) fn readable(descriptors: &[&OwnedFd], patience: Duration) -> Vec<bool> {
    let mut fds: Vec<PollFd<'_>> = descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)).collect();
    let patience = Timespec::try_from(patience).expect("patience fits");
    match poll(&mut fds, Some(&patience)) {
        Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
        Err(rustix::io::Errno::INTR) => vec![false; descriptors.len()],
        Err(error) => panic!("poll: {error}"),
    }
}

/// Asks again until the answer is yes, for at most `patience`; for what the kernel or an engine announces nowhere.
///
/// # Panics
/// When the answer is still no by then.
pub fn wait_until(what: &str, patience: Duration, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !ready() {
        assert!(Instant::now() < end, "still not so after {patience:?}: {what}");
        pause();
    }
}

/// The pace at which a state is asked for that nothing announces.
#[expect(clippy::disallowed_methods, reason = "there is no event to wait for; the only sleep of the tests")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// A command on a terminal of its own: what a person sees and types.
#[derive(Debug)]
pub struct Pty {
    master: File,
    child: Child,
    seen: Vec<u8>,
}

impl Pty {
    /// Starts the command with its three streams on a new terminal of 24 rows and 80 columns, as its session's
    /// controlling one.
    ///
    /// # Panics
    /// Where there is no terminal or no such program.
    pub fn start(mut command: Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("the terminal's other side");
        let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("an ASCII name");
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("its size");
        let slave = || File::options().read(true).write(true).open(&name).expect("the terminal opens");
        // setsid -c takes the terminal on standard input as the controlling one.
        let mut wrapped = Command::new("setsid");
        wrapped.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(key, value);
            }
        }
        wrapped.env("TERM", "xterm");
        command = wrapped;
        let child =
            command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("setsid of util-linux");
        Self { master: File::from(master), child, seen: Vec::new() }
    }

    /// Types these bytes.
    pub fn types(&mut self, text: &str) {
        use std::io::Write;
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Changes the terminal's size, as its window would.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("the terminal takes a size");
    }

    /// Reads until the terminal shows this text; gives back all that came since the last call.
    ///
    /// # Panics
    /// When it does not come within [`crate::PATIENCE`].
    pub fn shows(&mut self, text: &str) -> String {
        let end = Instant::now() + crate::PATIENCE;
        loop {
            if let Some(at) = find(&self.seen, text.as_bytes()) {
                let rest = self.seen.split_off(at + text.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.seen, rest)).into_owned();
            }
            let more = Instant::now() < end && self.read_more(end - Instant::now());
            assert!(
                more,
                "the terminal never showed {text:?}; it showed {:?}",
                String::from_utf8_lossy(&self.seen)
            );
        }
    }

    /// Reads to the end, waits for the command, and gives back the rest and its exit status.
    ///
    /// # Panics
    /// When it does not end within [`crate::PATIENCE`].
    pub fn ends(mut self) -> (String, i32) {
        let end = Instant::now() + crate::PATIENCE;
        while Instant::now() < end && self.read_more(end - Instant::now()) {}
        let status = wait(&mut self.child, crate::PATIENCE);
        let seen = String::from_utf8_lossy(&self.seen).into_owned();
        let status =
            status.unwrap_or_else(|| panic!("the command on the terminal does not end; it showed {seen:?}"));
        (seen, status.code().unwrap_or(-1))
    }

    /// One read; false at the end (EIO: nobody has the terminal open any more) or when nothing came.
    fn read_more(&mut self, patience: Duration) -> bool {
        let descriptor = OwnedFd::from(self.master.try_clone().expect("a second descriptor of the terminal"));
        if !readable(&[&descriptor], patience)[0] {
            return false;
        }
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.seen.extend_from_slice(&buffer[..n]);
                true
            }
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.child.kill().is_ok() {
            // Reaped so that no zombie stays; its status says nothing that the test has not said already.
            self.child.wait().ok();
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Standard streams of a background process: nothing in, output to a file.
pub(crate) fn quiet(command: &mut Command, log: File) -> &mut Command {
    let again = log.try_clone().expect("a second descriptor of the log");
    command.stdin(Stdio::null()).stdout(log).stderr(again)
}
