//! A container that says when it is ready, to whoever waits for the runtime: `NOTIFY_SOCKET`.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command};

use hull_tests::{Oci, PATIENCE, wait_until};

/// What stands for the service manager.
struct Host {
    socket: UnixDatagram,
    path: String,
}

impl Host {
    fn new(oci: &Oci) -> Host {
        let path = oci.dir().join("host.sock");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Host { socket, path: path.to_str().expect("a name").to_owned() }
    }

    /// The words that come until both are there; whatever they come in.
    fn hears_ready(&self) -> Vec<String> {
        let mut words = Vec::new();
        let both = |words: &[String]| {
            ["READY=1", "MAINPID="].iter().all(|key| words.iter().any(|word| word.starts_with(key)))
        };
        while !both(&words) {
            words.extend(self.hears());
        }
        words
    }

    fn hears(&self) -> Vec<String> {
        let mut word = [0; 4096];
        // Descriptors that come along are closed, for there is no room for them.
        let length = self.socket.recv(&mut word).expect("a word in time");
        String::from_utf8_lossy(&word[..length]).lines().map(str::to_owned).collect()
    }

    /// The end of the one that told waits until this has been seen; runc has it since 1.2.
    fn is_waited_for(&self, oci: &Oci) {
        if oci.is_hull() {
            assert_eq!(self.hears(), ["BARRIER=1"]);
        }
    }

    /// To be called when the runtime has ended, which could tell something until then.
    fn has_heard_nothing(&self) {
        self.socket.set_nonblocking(true).expect("a socket");
        assert!(self.socket.recv(&mut [0; 64]).is_err(), "something was told");
        self.socket.set_nonblocking(false).expect("a socket");
    }
}

/// A container whose command says what it finds, and sleeps.
fn configured() -> Oci {
    let oci = Oci::new();
    oci.configure(
        &oci.shell("echo $NOTIFY_SOCKET; touch /run/notify/x 2>&1 | grep -c -i read-only; exec sleep 600"),
    );
    oci
}

fn told(oci: &Oci, host: &Host, args: &[&str]) -> Command {
    let mut command = oci.command(args);
    command.env("NOTIFY_SOCKET", &host.path);
    command
}

/// A command on its way, with files for what it says: what a container leaves running holds a pipe open.
struct Begun {
    child: Child,
    oci_dir: PathBuf,
}

impl Begun {
    fn of(oci: &Oci, mut command: Command) -> Begun {
        let file = |name: &str| File::create(oci.dir().join(name)).expect("a file for what is said");
        command.stdout(file("notify-out")).stderr(file("notify-err"));
        let child = command.spawn().expect("the runtime is executed");
        Begun { child, oci_dir: oci.dir().to_owned() }
    }

    fn ends(&mut self) -> (Option<i32>, String) {
        wait_until("it ends", PATIENCE, || !self.runs());
        let status = self.child.wait().expect("its status");
        (status.code(), fs::read_to_string(self.oci_dir.join("notify-err")).expect("what it said"))
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    fn printed(&self) -> String {
        fs::read_to_string(self.oci_dir.join("notify-out")).expect("what it printed")
    }
}

/// Waits until the container runs and has its socket, and says this there. Returns its first process.
fn say(oci: &Oci, word: &str) -> i64 {
    let running = || oci.call(&["state", "c"]).stdout.contains("\"running\"");
    wait_until("c runs", PATIENCE, running);
    let pid = oci.state("c")["pid"].as_i64().expect("a process id");
    // The way there is the container's own, by the name that it was told (crun has another one).
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).expect("its environment");
    let name = environment.split('\0').find_map(|word| word.strip_prefix("NOTIFY_SOCKET="));
    let inside = format!("/proc/{pid}/root{}", name.expect("the socket's name"));
    let container = UnixDatagram::unbound().expect("a socket");
    wait_until("the socket is there", PATIENCE, || container.send_to(word.as_bytes(), &inside).is_ok());
    pid
}

fn leaves_nothing(oci: &Oci) {
    oci.ok(&["delete", "-f", "c"]);
    oci.nothing_is_left("c");
    let left: Vec<_> = fs::read_dir(oci.root()).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What the configured command prints in there.
const PRINTED: &str = "/run/notify/notify.sock\n1\n";

#[test]
fn a_detached_run_waits_until_the_container_is_ready() {
    let oci = configured();
    let host = Host::new(&oci);
    let mut run = Begun::of(&oci, told(&oci, &host, &["run", "--detach", "c"]));
    let pid = say(&oci, "STATUS=on the way\nEXTEND_TIMEOUT_USEC=9");
    assert!(run.runs(), "it does not wait");
    say(&oci, "READY=1");
    // All that is told: had what came before been passed on, it would have come before.
    let mut words = host.hears_ready();
    words.sort();
    assert_eq!(words, [format!("MAINPID={pid}"), "READY=1".to_owned()]);
    host.is_waited_for(&oci);
    assert_eq!(run.ends(), (Some(0), String::new()));
    assert_eq!(run.printed(), PRINTED);
    leaves_nothing(&oci);
}

#[test]
fn a_start_waits_until_the_container_is_ready() {
    let oci = configured();
    let host = Host::new(&oci);
    let mut create = Begun::of(&oci, told(&oci, &host, &["create", "c"]));
    assert_eq!(create.ends().0, Some(0));
    let mut start = Begun::of(&oci, told(&oci, &host, &["start", "c"]));
    let pid = say(&oci, "READY=1");
    let words = host.hears_ready();
    assert!(words.contains(&format!("MAINPID={pid}")), "{words:?}");
    host.is_waited_for(&oci);
    assert_eq!(start.ends(), (Some(0), String::new()));
    leaves_nothing(&oci);
}

#[test]
fn a_run_in_the_foreground_tells_of_itself() {
    let oci = configured();
    let host = Host::new(&oci);
    let mut run = Begun::of(&oci, told(&oci, &host, &["run", "c"]));
    let pid = say(&oci, "READY=1");
    // It is the one that reaps the container's first process, and has its status.
    let own = run.child.id();
    assert!(host.hears_ready().contains(&format!("MAINPID={own}")), "{pid}");
    assert!(run.runs());
    oci.ok(&["kill", "c", "KILL"]);
    assert_eq!(run.ends().0, Some(137));
    oci.nothing_is_left("c");
    assert_eq!(fs::read_dir(oci.root()).expect("the root").count(), 0);
}

#[test]
fn a_run_in_the_foreground_goes_on_while_nobody_reads_what_it_passes_on() {
    let oci = configured();
    if !oci.is_hull() {
        return;
    }
    let host = Host::new(&oci);
    let mut run = Begun::of(&oci, told(&oci, &host, &["run", "c"]));
    say(&oci, "STATUS=on the way");
    let other = UnixDatagram::unbound().expect("a socket");
    other.set_nonblocking(true).expect("a socket");
    while other.send_to(b"X=1", &host.path).is_ok() {}
    say(&oci, "READY=1");
    oci.ok(&["kill", "c", "KILL"]);
    assert_eq!(run.ends().0, Some(137), "its end is seen");
    oci.nothing_is_left("c");
    assert_eq!(fs::read_dir(oci.root()).expect("the root").count(), 0);
}

#[test]
fn who_ends_without_being_ready_holds_nobody_up() {
    let oci = Oci::new();
    let host = Host::new(&oci);
    oci.configure(&oci.config(&["true"]));
    let mut run = Begun::of(&oci, told(&oci, &host, &["run", "--detach", "c"]));
    let (status, said) = run.ends();
    assert_eq!(status, Some(0), "{said}");
    assert!(!oci.is_hull() || said.contains("was not ready"), "{said}");
    host.has_heard_nothing();
    leaves_nothing(&oci);
}

#[test]
fn what_cannot_be_told_or_heard_is_an_error_s_or_a_warning_s_words() {
    let oci = configured();
    if !oci.is_hull() {
        // runc says nothing, and waits for nobody.
        return;
    }
    let mut command = oci.command(&["run", "--detach", "c"]);
    command.env("NOTIFY_SOCKET", oci.dir().join("nobody.sock"));
    let output = oci.finish(command);
    assert!(output.status == 0 && output.stderr.contains("nobody.sock (NOTIFY_SOCKET)"), "{output:?}");
    leaves_nothing(&oci);
    // A container that was created without has no place to say it at.
    oci.ok(&["create", "c"]);
    let host = Host::new(&oci);
    let output = oci.finish(told(&oci, &host, &["start", "c"]));
    assert!(output.status != 0 && output.stderr.contains("set it for create as well"), "{output:?}");
    assert_eq!(oci.status("c"), "created");
    oci.ok(&["start", "c"]);
    leaves_nothing(&oci);
    // A creation that fails leaves nothing of it.
    let mut config = oci.shell("true");
    config["process"]["args"] = serde_json::json!(["no-such-program"]);
    oci.configure(&config);
    let output = oci.finish(told(&oci, &host, &["run", "c"]));
    assert!(output.status != 0, "{output:?}");
    assert_eq!(fs::read_dir(oci.root()).expect("the root").count(), 0);
}
