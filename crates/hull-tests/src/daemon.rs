//! A daemon of a test's own.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use sha2::{Digest, Sha256};

use crate::census::{self, Census};
use crate::cleanup::{self, MARK};
use crate::http::{Client, PATIENCE};
use crate::kernel::{private_network, quiet, readable, wait, wait_until};
use crate::{Pty, busybox_rootfs, session};

/// Whose daemon and command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// This project's release binary.
    Hull,
    /// The machine's dockerd and docker, as the reference.
    Docker,
}

impl Engine {
    /// What the tests run against: hull, unless the environment says `REFERENCE=docker`.
    pub fn under_test() -> Self {
        if std::env::var_os("REFERENCE").is_some_and(|value| value == "docker") {
            Self::Docker
        } else {
            Self::Hull
        }
    }

    /// The engine's command line program; with `CLI=docker` in the environment, Docker's for either.
    ///
    /// # Panics
    /// Where it is not there.
    pub fn client(self) -> PathBuf {
        let dockers = std::env::var_os("CLI").is_some_and(|value| value == "docker");
        match self {
            Self::Hull if !dockers => hull_binary(),
            Self::Hull | Self::Docker => ["/usr/local/bin/docker", "/usr/bin/docker"]
                .into_iter()
                .map(PathBuf::from)
                .find(|path| path.exists())
                .expect("REFERENCE=docker and CLI=docker need the docker client"),
        }
    }
}

/// The release binary: `HULL_BIN`, or where `cargo build --release` puts it.
///
/// # Panics
/// It is not there.
pub fn hull_binary() -> PathBuf {
    let path = match (std::env::var_os("HULL_BIN"), std::env::var_os("CARGO_TARGET_DIR")) {
        (Some(binary), _) => PathBuf::from(binary),
        (None, Some(target)) => Path::new(&target).join("release/hull"),
        (None, None) => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/hull"),
    };
    path.canonicalize()
        .unwrap_or_else(|_| panic!("{}: not there; run cargo build --release first", path.display()))
}

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit status; 128 and the signal's number where one ended it.
    pub status: i32,
}

/// A daemon with folders, socket and network namespace of its own. Dropping it removes all of it.
#[derive(Debug)]
pub struct Daemon {
    engine: Engine,
    dir: PathBuf,
    process: Option<Child>,
    options: Vec<String>,
    /// What its environment has besides.
    environment: Vec<(String, String)>,
    /// What it makes in the network does not end with a namespace.
    on_this_network: bool,
}

/// The instance name that hull derives from the exec root in this folder.
pub(crate) fn instance_of(dir: &Path) -> String {
    let digest = Sha256::digest(dir.join("exec").as_os_str().as_bytes());
    format!("hull-{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2])
}

impl Daemon {
    /// Starts the engine under test and imports the image `busybox`.
    ///
    /// # Panics
    /// When it does not start; the message holds its log.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// [`Daemon::start`], with further options of the daemon.
    pub fn with(options: &[&str]) -> Self {
        let daemon = Self::empty(Engine::under_test(), options);
        daemon.import_busybox();
        daemon
    }

    /// [`Daemon::with`], with its data root on another file system.
    ///
    /// # Panics
    /// When it does not start; the message holds its log.
    pub fn on(disk: &Path, options: &[&str]) -> Self {
        let daemon = Self::made(Engine::under_test(), options, Some(&disk.join("data")));
        daemon.import_busybox();
        daemon
    }

    /// Starts this engine without any image.
    ///
    /// # Panics
    /// When it does not start; the message holds its log.
    pub fn empty(engine: Engine, options: &[&str]) -> Self {
        Self::made(engine, options, None)
    }

    /// Starts this engine without any image on the machine's own network, not one that it has to itself: its containers
    /// reach what the machine reaches. Its bridge must be of nobody else's addresses (`--bip`).
    ///
    /// # Panics
    /// When it does not start; the message holds its log.
    pub fn on_this_network(engine: Engine, options: &[&str]) -> Self {
        let mut daemon = Self::of(engine, options, None);
        daemon.on_this_network = true;
        daemon
    }

    fn made(engine: Engine, options: &[&str], data: Option<&Path>) -> Self {
        private_network();
        Self::of(engine, options, data)
    }

    fn of(engine: Engine, options: &[&str], data: Option<&Path>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        cleanup::sweep();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = cleanup::base().join(format!("{}-{number}", std::process::id()));
        for folder in ["data", "exec", "bin", "work", "home"] {
            fs::create_dir_all(dir.join(folder)).expect("the test's folder can be made");
        }
        if let Some(data) = data {
            fs::remove_dir(dir.join("data")).expect("it is empty");
            fs::create_dir_all(data).expect("the data root can be made");
            std::os::unix::fs::symlink(data, dir.join("data")).expect("a link");
        }
        // Sessions say `hull`, whichever engine is behind it.
        std::os::unix::fs::symlink(engine.client(), dir.join("bin/hull")).expect("a link to the client");
        let mut options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        if number > 0 && !options.iter().any(|option| option.starts_with("--bip")) {
            // Two daemons of one test share its network namespace.
            options.push(format!("--bip=10.213.{}.1/24", number % 256));
        }
        let environment = Vec::new();
        let mut daemon = Self { engine, dir, process: None, options, environment, on_this_network: false };
        daemon.begin();
        daemon
    }

    /// The name of what this daemon makes in the kernel.
    pub fn instance(&self) -> String {
        instance_of(&self.dir)
    }

    /// What the environment of the daemon has besides when it begins the next time.
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        self.environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    }

    /// The further options of the daemon when it begins the next time, instead of those that it was started with.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|&option| option.to_owned()).collect();
    }

    /// Starts the daemon's process (again) and waits for it to say that it serves.
    ///
    /// # Panics
    /// When it ends instead, or says nothing within [`PATIENCE`].
    pub fn begin(&mut self) {
        let notify = self.dir.join("notify.sock");
        fs::remove_file(&notify).ok();
        let ready = UnixDatagram::bind(&notify).expect("a socket for the daemon's word");
        let log = File::options().create(true).append(true).open(self.dir.join("daemon.log")).expect("a log");
        let mut command = match self.engine {
            Engine::Hull => {
                let mut command = Command::new(hull_binary());
                command.arg("daemon");
                command
            }
            Engine::Docker => {
                let mut command = Command::new("dockerd");
                command.args(["--cgroup-parent", &format!("/{}", instance_of(&self.dir))]);
                command
            }
        };
        command
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()))
            .arg("--data-root")
            .arg(self.dir.join("data"))
            .arg("--exec-root")
            .arg(self.dir.join("exec"))
            .arg("--pidfile")
            .arg(self.dir.join("daemon.pid"))
            .args(&self.options)
            .env("NOTIFY_SOCKET", &notify)
            .env(MARK, &self.dir)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/");
        let child = quiet(&mut command, log).spawn().expect("the daemon's program starts");
        let pidfd =
            pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd of one's own child");
        self.process = Some(child);
        let ready = OwnedFd::from(ready);
        let said = loop {
            let which = readable(&[&ready, &pidfd], PATIENCE);
            if !which[0] {
                break false;
            }
            let mut word = [0; 4096];
            let n = rustix::io::read(&ready, &mut word).expect("the daemon's word");
            if String::from_utf8_lossy(&word[..n]).lines().any(|line| line == "READY=1") {
                break true;
            }
        };
        assert!(said, "the daemon did not come up; its log:\n{}", self.log());
    }

    /// Imports the machine's busybox as `busybox:latest`.
    ///
    /// # Panics
    /// When the engine refuses it.
    pub fn import_busybox(&self) {
        static ROOTFS: OnceLock<Vec<u8>> = OnceLock::new();
        let rootfs = ROOTFS.get_or_init(|| busybox_rootfs().finish());
        let path = "/images/create?fromSrc=-&repo=busybox&tag=latest\
                    &changes=ENV%20PATH%3D%2Fbin&changes=CMD%20%5B%22sh%22%5D";
        let response =
            self.api().send("POST", path, "application/x-tar", rootfs).expect("an answer to import");
        assert!(
            response.status == 200 && !response.text().contains("\"error\""),
            "import of busybox: {} {}",
            response.status,
            response.text()
        );
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }

    /// The folder of this daemon: `data`, `exec`, `work` (where commands run), and its log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The daemon's process id.
    ///
    /// # Panics
    /// When it was killed and not begun again.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").id()
    }

    /// A client of its API, with a connection of its own.
    pub fn api(&self) -> Client {
        Client::new(&self.socket())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }

    /// Counts what belongs to it now.
    pub fn census(&self) -> Census {
        census::take(&self.dir, self.pid())
    }

    /// The counts once nothing moves any more: the kernel takes its time with the namespaces of what ran before.
    ///
    /// # Panics
    /// When something still moves after a minute.
    #[track_caller]
    pub fn settled(&self) -> Census {
        let mut last = self.census();
        let (mut unmoved, mut since) = (0, Instant::now());
        wait_until("the counts stay as they are", Duration::from_secs(60), || {
            let now = self.census();
            if now != last {
                (unmoved, since) = (0, Instant::now());
            }
            unmoved += 1;
            last = now;
            // An emulated machine does not look a hundred times in a minute.
            unmoved > 100 || (unmoved > 5 && since.elapsed() > Duration::from_secs(5))
        });
        last
    }

    /// Waits until every count is where it was: what is cleaned up behind an answer gets a little time.
    ///
    /// # Panics
    /// When one is not.
    #[track_caller]
    pub fn comes_back_to(&self, before: &Census) {
        let mut now = self.census();
        let mut tries = 0;
        wait_until("the counts are back, or a while has passed", Duration::from_secs(60), || {
            tries += 1;
            now = self.census();
            now == *before || tries == 300
        });
        assert!(now == *before, "something is left.\nbefore: {before}\nafter:  {now}");
    }

    /// The proportional set size of the daemon and of its helpers, not of containers, in KiB.
    pub fn pss(&self) -> u64 {
        self.mapped("Pss:")
    }

    /// The part of it that is in no file: what is allocated.
    pub fn allocated(&self) -> u64 {
        self.mapped("Pss_Anon:")
    }

    fn mapped(&self, field: &str) -> u64 {
        let of = |pid: i32| -> Option<u64> {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = rollup.lines().find_map(|line| line.strip_prefix(field))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        };
        cleanup::marked(&self.dir).into_iter().filter_map(of).sum()
    }

    /// Forgets the most memory that the daemon and its helpers had so far.
    pub fn forget_peak(&self) {
        for pid in cleanup::marked(&self.dir) {
            // One that has just ended has none.
            fs::write(format!("/proc/{pid}/clear_refs"), "5").ok();
        }
    }

    /// The most memory that the daemon and its helpers, each for itself, have had resident since, in KiB.
    pub fn peak(&self) -> u64 {
        let of = |pid: i32| -> Option<u64> {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        };
        cleanup::marked(&self.dir).into_iter().filter_map(of).sum()
    }

    /// The processor time that the daemon, its helpers, and whatever they waited for have used.
    pub fn processor_time(&self) -> Duration {
        let ticks = |pid: i32| -> Option<u64> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // After the name, which may hold anything: utime, stime, cutime, cstime are the 12th to the 15th.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
        };
        let total: u64 = cleanup::marked(&self.dir).into_iter().filter_map(ticks).sum();
        Duration::from_millis(total * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// A command with `hull` on its path, this daemon as its host, and a home and working folder of its own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let host = format!("unix://{}", self.socket().display());
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.dir.join("bin").display()))
            .env("HULL_HOST", &host)
            .env("DOCKER_HOST", &host)
            .env("HOME", self.dir.join("home"))
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.dir.join("work"))
            .stdin(Stdio::null());
        command
    }

    /// The client with these arguments, to be run or put on a terminal.
    pub fn client(&self, args: &[&str]) -> Command {
        let mut command = self.command(self.dir.join("bin/hull"));
        command.args(args);
        command
    }

    /// The client with these arguments on a terminal of its own.
    pub fn pty(&self, args: &[&str]) -> Pty {
        Pty::start(self.client(args))
    }

    /// Runs the client with these arguments.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn hull(&self, args: &[&str]) -> Output {
        let output = self.client(args).output().expect("the client is executed");
        Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status.code().unwrap_or(128 + output.status.signal().unwrap_or(0)),
        }
    }

    /// Runs the client, which must succeed, and gives back its standard output without the last line's end.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.hull(args);
        assert!(output.status == 0, "hull {}: {output:?}", args.join(" "));
        output.stdout.trim_end_matches('\n').to_owned()
    }

    /// Plays a session: lines that begin with `$ ` are commands (`> ` goes on with one), run one after another by one
    /// bash; what follows is all that they print, both streams, and `[N]` where the exit status is not 0. Ids, times
    /// and this daemon's paths are masked (see [`mask`](crate::mask)).
    ///
    /// # Panics
    /// When what it prints is something else.
    #[track_caller]
    pub fn session(&self, text: &str) {
        session::play(self, text);
    }

    /// Kills the daemon as a crash would, and waits until it is dead.
    ///
    /// # Panics
    /// When it does not die.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().expect("one's own child can be killed");
            child.wait().expect("and waited for");
        }
    }

    /// Asks the daemon to end, and waits until it has; its exit status.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`].
    pub fn stop(&mut self) -> i32 {
        let mut child = self.process.take().expect("the daemon runs");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("one's own child can be signalled");
        let Some(status) = wait(&mut child, PATIENCE) else {
            self.process = Some(child);
            panic!("the daemon does not end; its log:\n{}", self.log());
        };
        status.code().unwrap_or(128 + status.signal().unwrap_or(0))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the daemon's last words:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
        if let Some(mut child) = self.process.take() {
            let asked = kill_process(Pid::from_child(&child), Signal::TERM).is_ok();
            if !asked || wait(&mut child, PATIENCE).is_none() {
                child.kill().and_then(|()| child.wait()).ok();
            }
        }
        cleanup::clear(&self.dir);
        if self.on_this_network {
            cleanup::clear_network(&instance_of(&self.dir));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_instance_is_named_by_the_exec_root() {
        // printf /tmp/x/exec | sha256sum
        assert_eq!(super::instance_of(Path::new("/tmp/x")), "hull-b3784a");
    }
}
