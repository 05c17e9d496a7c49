//! A daemon's side of one container.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hull_runtime::Error;
use hull_runtime::cgroup::Cgroup;
use hull_runtime::launcher::{self, Launcher};
use hull_runtime::protocol::{
    self, Attach, Event, Exec, Exit, FromShim, Launch, Limits, Log, LogFile, Reply, Request, Rootfs, Seccomp,
    State, Stdio, ToLauncher, VERSION,
};
use serde_json::{Value, json};

/// The longest that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The one launcher of this test program.
pub(crate) fn launcher() -> &'static Launcher {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    // The launcher runs the tests that are called so: if others than that one were, it would start itself.
    assert_ne!(
        std::env::args().next().as_deref(),
        Some("hull"),
        "this test must not be named after the launcher"
    );
    LAUNCHER.get_or_init(|| launcher::start().unwrap())
}

/// A container to be started, and its folders.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) spec: Value,
    pub(crate) id: String,
    pub(crate) seccomp: Seccomp,
    pub(crate) stdio: Stdio,
    pub(crate) log: Log,
    pub(crate) limits: Limits,
    pub(crate) awaits_network: bool,
    pub(crate) init: bool,
    pub(crate) attach: Vec<(Attach, OwnedFd)>,
    pub(crate) reserved: Vec<OwnedFd>,
    /// How many more reserved descriptors the message claims than there are.
    pub(crate) reserved_claimed: usize,
    cgroup: String,
}

/// A connection to a shim.
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    /// Events that came while an answer was waited for.
    events: Vec<Event>,
}

const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

impl Bench {
    /// A container that runs a shell script.
    pub(crate) fn shell(script: &str) -> Bench {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::create_dir(folder.path().join("run")).unwrap();
        std::fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
        let list = std::process::Command::new("/usr/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let cgroup = format!("/hull-shim-test-{}/{number}", std::process::id());
        let log = folder.path().join("log");
        Bench {
            spec: spec(&root, script, &cgroup),
            folder,
            id: format!("{number:064x}"),
            seccomp: Seccomp::Default,
            stdio: Stdio::default(),
            log: Log::JsonFile(log_file(&log)),
            limits: Limits::default(),
            awaits_network: false,
            init: false,
            attach: Vec::new(),
            reserved: Vec::new(),
            reserved_claimed: 0,
            cgroup,
        }
    }

    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Standard input is a pipe that stays open.
    pub(crate) fn with_stdin(mut self) -> Bench {
        self.stdio.stdin = true;
        self
    }

    /// A client that is attached before the start; returns its end.
    pub(crate) fn client(&mut self, attach: Attach) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.attach.push((attach, theirs.into()));
        ours
    }

    /// Sends the launch message; returns the control socket.
    pub(crate) fn launch(&mut self) -> Connection {
        let (ours, theirs) = protocol::pair().unwrap();
        let message = ToLauncher::Start(Box::new(Launch {
            version: VERSION,
            id: self.id.clone(),
            spec: serde_json::from_value(self.spec.clone()).unwrap(),
            rootfs: Rootfs::Path,
            seccomp: self.seccomp.clone(),
            stdio: self.stdio.clone(),
            log: self.log.clone(),
            limits: self.limits,
            runtime_dir: self.runtime_dir(),
            awaits_network: self.awaits_network,
            init: self.init,
            user: None,
            runtime: None,
            reserved: self.reserved.len() + self.reserved_claimed,
            relays: Vec::new(),
            attach: self.attach.iter().map(|(attach, _)| attach.clone()).collect(),
        }));
        let mut descriptors = vec![theirs.as_fd()];
        descriptors.extend(self.reserved.iter().map(AsFd::as_fd));
        descriptors.extend(self.attach.iter().map(|(_, socket)| socket.as_fd()));
        launcher().send(&message, &descriptors).unwrap();
        drop(theirs);
        self.attach.clear();
        self.reserved.clear();
        Connection::new(ours)
    }

    /// Starts it, and returns the control socket once it runs.
    pub(crate) fn start(&mut self) -> Connection {
        let mut connection = self.launch();
        match connection.event() {
            Some(Event::Started { .. }) => connection,
            other => panic!("not started: {other:?}"),
        }
    }

    /// Runs it to its end.
    pub(crate) fn run(&mut self) -> Exit {
        self.start().exit()
    }

    /// The text of its log, of a json-file.
    pub(crate) fn log_text(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["log"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::new(hull_runtime::shim::connect(&self.runtime_dir()).unwrap())
    }

    /// Looks that nothing of it is left.
    pub(crate) fn assert_gone(&self) {
        assert!(Cgroup::open(&self.cgroup).is_err(), "the cgroup is still there");
        assert!(!self.runtime_dir().join("shim.sock").exists(), "the socket is still there");
        let (root, run) = (self.folder.path().join("root"), self.runtime_dir());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for path in [root, run] {
            assert!(!mounts.contains(path.to_str().unwrap()), "a mount is left");
        }
    }
}

impl Bench {
    /// How many cgroups there are below the container's, in the hierarchy that has the most.
    pub(crate) fn cgroups_below(&self) -> usize {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let roots = hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
        let below = |root: PathBuf| {
            let folder = std::fs::read_dir(root.join(self.cgroup.trim_start_matches('/')));
            let entries = folder.into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
        };
        roots.map(below).max().unwrap_or(0)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Ok(cgroup) = Cgroup::open(&self.cgroup) {
            let _ = cgroup.kill_all();
            let _ = cgroup.remove();
        }
        // The last one takes the folder above along.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let above = format!("hull-shim-test-{}", std::process::id());
            let _ = std::fs::remove_dir(hierarchy.path().join(above));
        }
    }
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Connection {
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )
        .unwrap();
        Connection { socket, events: Vec::new() }
    }

    pub(crate) fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) {
        protocol::send(self.socket.as_fd(), request, descriptors).unwrap();
    }

    fn receive(&mut self) -> Option<FromShim> {
        protocol::receive::<FromShim>(self.socket.as_fd()).unwrap().map(|(message, _)| message)
    }

    /// The next event; none when the shim has closed.
    pub(crate) fn event(&mut self) -> Option<Event> {
        if !self.events.is_empty() {
            return Some(self.events.remove(0));
        }
        match self.receive()? {
            FromShim::Event(event) => Some(event),
            FromShim::Reply(reply) => panic!("an unasked answer: {reply:?}"),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Reply {
        self.send(request, descriptors);
        loop {
            match self.receive().unwrap() {
                FromShim::Reply(reply) => return reply,
                FromShim::Event(event) => self.events.push(event),
            }
        }
    }

    pub(crate) fn done(&mut self, request: &Request) {
        match self.ask(request, &[]) {
            Reply::Done => {}
            other => panic!("{request:?}: {other:?}"),
        }
    }

    pub(crate) fn failed(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Error {
        match self.ask(request, descriptors) {
            Reply::Failed(error) => error,
            other => panic!("{request:?}: {other:?}"),
        }
    }

    pub(crate) fn state(&mut self) -> State {
        match self.ask(&Request::State, &[]) {
            Reply::State(state) => state,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the container's end, and until its shim has cleared up.
    pub(crate) fn exit(&mut self) -> Exit {
        loop {
            match self.event() {
                Some(Event::Exited(exit)) => {
                    assert!(self.receive().is_none(), "the end is the last word");
                    return exit;
                }
                Some(_) => {}
                None => panic!("the shim ended without a word"),
            }
        }
    }

    /// Waits for an exec's end.
    pub(crate) fn exec_exit(&mut self, wanted: &str) -> Exit {
        let mut others = Vec::new();
        loop {
            match self.event() {
                Some(Event::ExecExited { id, exit }) if id == wanted => {
                    self.events.splice(0..0, others);
                    return exit;
                }
                Some(other) => others.push(other),
                None => panic!("the shim ended without a word"),
            }
        }
    }

    /// Attaches a client; returns its end.
    pub(crate) fn attach(&mut self, attach: Attach) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        match self.ask(&Request::Attach(attach), &[theirs.as_fd()]) {
            Reply::Done => ours,
            other => panic!("not attached: {other:?}"),
        }
    }

    /// Starts an exec; returns its client's end.
    pub(crate) fn exec(&mut self, exec: Exec) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let descriptors = [theirs.as_fd()];
        let descriptors = if exec.attach.is_some() { &descriptors[..] } else { &[] };
        match self.ask(&Request::Exec(Box::new(exec)), descriptors) {
            Reply::Started { .. } => ours,
            other => panic!("not started: {other:?}"),
        }
    }
}

/// A client of everything, unframed.
pub(crate) fn everything() -> Attach {
    Attach {
        exec: None,
        stdin: true,
        stdout: true,
        stderr: true,
        framed: false,
        detach_keys: Vec::new(),
        already_read: Vec::new(),
        preface: Vec::new(),
        held: false,
    }
}

pub(crate) fn log_file(path: &Path) -> LogFile {
    LogFile {
        path: path.to_owned(),
        max_size: 0,
        max_file: 1,
        attributes: Default::default(),
        compress: false,
        buffer: None,
    }
}

/// An exec of a shell script with a client of its output.
pub(crate) fn exec(id: &str, script: &str) -> Exec {
    Exec {
        id: id.to_owned(),
        process: serde_json::from_value(process(script)).unwrap(),
        seccomp: Seccomp::Default,
        stdio: Stdio::default(),
        attach: Some(everything()),
        limits: Limits::default(),
        user: None,
        ends_with_client: false,
    }
}

fn process(script: &str) -> Value {
    json!({
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "env": ["PATH=/bin"],
        "args": ["/bin/sh", "-c", script],
        "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
    })
}

fn spec(root: &Path, script: &str, cgroup: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "hostname": "box",
        "root": { "path": root },
        "process": process(script),
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["newinstance", "ptmxmode=0666", "mode=0620"] },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "cgroup" },
            ],
        },
    })
}

/// Reads a client's output to its end.
pub(crate) fn read_all(client: &mut UnixStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

/// Reads a client's output until it holds `wanted`.
pub(crate) fn read_until(client: &mut UnixStream, wanted: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(wanted) {
        match client.read(&mut buffer).unwrap() {
            0 => panic!("ended before {wanted:?}: {}", String::from_utf8_lossy(&text)),
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
    String::from_utf8(text).unwrap()
}

pub(crate) fn write(client: &mut UnixStream, text: &str) {
    client.write_all(text.as_bytes()).unwrap();
}

/// Waits until something that tells nobody has come true.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        pause(Duration::from_millis(2));
    }
}

/// Waits for what tells nobody, or to see that nothing happens.
#[allow(clippy::disallowed_methods)] // there is no event to wait for
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
