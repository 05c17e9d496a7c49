//! Further processes in an OCI container, terminals, and descriptors that are handed on.

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use hull_tests::{Oci, PATIENCE, Pty, wait_until};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

/// A container `c` that sleeps.
fn sleeping() -> Oci {
    let oci = Oci::new();
    oci.run_detached(&oci.config(&["sleep", "600"]));
    oci
}

#[test]
fn exec_gives_output_and_exit_status() {
    let oci = sleeping();
    let output = oci.call(&["exec", "c", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.status), ("out\n", "err\n", 3));
    assert_eq!(oci.call(&["exec", "c", "sh", "-c", "kill -9 $$"]).status, 137);
    assert_eq!(oci.ok(&["exec", "c", "hostname"]), "inside");
    assert_eq!(oci.status("c"), "running");
}

#[test]
fn what_cannot_be_executed_is_told() {
    let oci = sleeping();
    oci.fails(&["exec", "c", "no-such-program"], "executable file not found in $PATH");
    oci.fails(&["exec", "c", "/no/such"], "no such file or directory");
    oci.fails(&["exec", "c", "/etc/passwd"], "permission denied");
    oci.fails(&["exec", "c"], "");
    assert_eq!(oci.call(&["exec", "c", "no-such-program"]).status, 255);
    oci.fails(&["exec", "--cwd", "/no/such/folder", "c", "true"], "no such file or directory");
    assert_eq!(oci.status("c"), "running");
}

#[test]
fn a_process_is_described_by_flags() {
    let oci = sleeping();
    let one = |flags: &[&str], script: &str| {
        let words = [&["exec"][..], flags, &["c", "sh", "-c", script]].concat();
        oci.ok(&words)
    };
    assert_eq!(one(&["--cwd", "/tmp"], "pwd"), "/tmp");
    assert_eq!(one(&["-e", "A=1", "-e", "B=two words"], "echo $A $B $PATH"), "1 two words /bin");
    assert_eq!(one(&["--user", "33:44"], "id -u; id -g"), "33\n44");
    assert_eq!(one(&["--user", "33"], "id -u; id -g"), "33\n0");
    assert_eq!(one(&["--user", "33:44", "-g", "55", "-g", "66"], "id -G"), "44 55 66");
    // What a program finds first is what was said last.
    assert_eq!(
        one(&["-e", "PATH=/bin:/a", "-e", "A=1", "-e", "A=2"], "env | grep -e ^A -e ^PATH | sort"),
        "A=2\nPATH=/bin:/a"
    );
    for (flag, value, words) in [
        ("-e", "NONSENSE", "invalid environment variable"),
        ("-u", "33:root", "as int for gid failed"),
        ("-u", "root", "as int for uid failed"),
    ] {
        oci.fails(&["exec", flag, value, "c", "true"], words);
    }
    oci.fails(&["exec", "--cwd", "/no/such", "c", "true"], "set in config.json failed: no such file");
    let sets = one(&["--cap", "CAP_SYS_TIME"], "grep Cap /proc/self/status");
    let has = |set: &str| {
        let line = sets.lines().find(|line| line.starts_with(set)).expect("a set");
        let bits = u64::from_str_radix(line.split_whitespace().nth(1).expect("its bits"), 16);
        bits.expect("a number") >> 25 & 1 == 1
    };
    assert!(has("CapEff") && has("CapPrm") && has("CapBnd"), "{sets}");
    if !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        oci.fails(&["exec", "--apparmor", "some-profile", "c", "true"], "apparmor");
    }
    let mut open = oci.config(&["sleep", "600"]);
    oci.ok(&["delete", "--force", "c"]);
    open["process"]["noNewPrivileges"] = json!(false);
    oci.run_detached(&open);
    let script = "grep NoNewPrivs /proc/self/status";
    assert_eq!(one(&[], script), "NoNewPrivs:\t0");
    assert_eq!(one(&["--no-new-privs"], script), "NoNewPrivs:\t1");
}

#[test]
fn a_process_is_described_by_a_file() {
    let oci = sleeping();
    let file = oci.dir().join("process.json");
    let name = file.to_str().expect("a name");
    let process = json!({
        "user": { "uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o27 },
        "args": ["sh", "-c", "id -u; id -G; umask; pwd; echo $WHO; grep CapEff /proc/self/status; ulimit -n"],
        "env": ["PATH=/bin", "WHO=me"],
        "cwd": "/etc",
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 100 }],
    });
    fs::write(&file, process.to_string()).expect("the file");
    let printed = oci.ok(&["exec", "--process", name, "c"]);
    // runc 1.1 overlooks the mask here.
    let printed = if oci.is_hull() { printed } else { printed.replace("0022", "0027") };
    assert_eq!(printed, "5\n6 7\n0027\n/etc\nme\nCapEff:\t0000000000000000\n99");
    // Whoever wrote it may know a newer kernel.
    let newer = json!({ "user": { "uid": 0, "gid": 0 }, "args": ["/bin/echo", "ran"], "cwd": "/",
        "capabilities": { "bounding": ["CAP_KILL", "CAP_NONSENSE"] } });
    fs::write(&file, newer.to_string()).expect("the file");
    assert_eq!(oci.ok(&["exec", "--process", name, "c"]), "ran");
    fs::write(&file, "{ broken").expect("the file");
    oci.fails(&["exec", "--process", name, "c"], "");
    oci.fails(&["exec", "--process", "/no/such/file", "c"], "no such file");
}

#[test]
fn exec_joins_every_namespace_and_the_cgroup() {
    let oci = Oci::new();
    let mut config = oci.config(&["sleep", "600"]);
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.push(json!({ "type": "cgroup" }));
    oci.run_detached(&config);
    let kinds = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];
    let pid = oci.state("c")["pid"].to_string();
    for kind in kinds {
        let outside = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
        let inside = oci.ok(&["exec", "c", "readlink", &format!("/proc/self/ns/{kind}")]);
        assert_eq!(inside, outside.to_str().expect("a name"));
    }
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
    oci.ok(&["exec", "--detach", "c", "sleep", "605"]);
    let pids: Vec<i64> = serde_json::from_str(&oci.ok(&["ps", "-f", "json", "c"])).expect("a list");
    assert_eq!(pids.len(), 2);
    for pid in pids {
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup"), own);
    }
}

#[test]
fn a_process_goes_to_cgroups_below() {
    let oci = sleeping();
    let folders = oci.cgroups("c");
    for folder in &folders {
        let below = folder.join("below");
        fs::create_dir(&below).expect("a cgroup below the container's");
        // Nothing runs in a v1 cpuset that is empty, and not every runtime has it handed on.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(below.join(file)).is_ok_and(|own| own.trim().is_empty()) {
                let above = fs::read_to_string(folder.join(file)).expect("the container's own");
                fs::write(below.join(file), above.trim()).expect("it is taken");
            }
        }
    }
    let place = |flags: &[&str], controller: &str| {
        let text = oci.ok(&[&["exec"][..], flags, &["c", "cat", "/proc/self/cgroup"]].concat());
        let named = |line: &&str| {
            line.split(':').nth(1).expect("controllers").split(',').any(|one| one == controller)
        };
        text.lines().find(named).unwrap_or_else(|| panic!("{controller} in {text}")).to_owned()
    };
    oci.fails(&["exec", "--cgroup", "nowhere", "c", "true"], "no such file");
    oci.fails(&["exec", "--cgroup", "below/../..", "c", "true"], "is not a sub cgroup path");
    let first = oci.ok(&["exec", "c", "cat", "/proc/1/cgroup"]);
    if !first.lines().any(|line| line.contains(":pids:")) {
        assert!(place(&["--cgroup", "below"], "").ends_with("/below"));
        oci.fails(&["exec", "--cgroup", "pids:below", "c", "true"], "controller");
        return;
    }
    for controller in ["pids", "memory"] {
        assert!(place(&["--cgroup", "below"], controller).ends_with("/c/below"));
        assert!(place(&["--cgroup", "/"], controller).ends_with("/c"));
    }
    let some = ["--cgroup", "pids,cpuset:/below", "--cgroup", "memory:/"];
    assert!(place(&some, "pids").ends_with("/c/below") && place(&some, "memory").ends_with("/c"));
    oci.fails(&["exec", "--cgroup", "nonsense:below", "c", "true"], "unknown controller nonsense");
    oci.fails(
        &["exec", "--cgroup", "pids:below", "--cgroup", "below", "c", "true"],
        "invalid --cgroup argument",
    );
}

#[test]
fn exec_into_a_container_that_is_not_started_yet() {
    let oci = Oci::new();
    oci.create(&oci.config(&["sleep", "600"]));
    assert_eq!(oci.ok(&["exec", "c", "echo", "early"]), "early");
    assert_eq!(oci.status("c"), "created");
}

#[test]
fn a_paused_container_takes_a_process_when_asked() {
    let oci = sleeping();
    oci.ok(&["pause", "c"]);
    oci.fails(&["exec", "c", "true"], "paused");
    oci.ok(&["resume", "c"]);
    oci.ok(&["exec", "c", "true"]);
}

#[test]
fn run_on_a_terminal_is_the_caller_s() {
    let oci = Oci::new();
    let mut config = oci.shell("test -t 0 && test -t 2 && tty; read line; stty size; echo got $line; exit 4");
    config["process"]["terminal"] = json!(true);
    oci.configure(&config);
    let mut pty = Pty::start(oci.command(&["run", "--bundle", oci.bundle().to_str().expect("a name"), "c"]));
    pty.shows("/dev/");
    pty.types("hello\r");
    pty.shows("24 80");
    pty.shows("got hello");
    assert_eq!(pty.ends().1, 4);
    oci.nothing_is_left("c");
    oci.run_detached(&oci.config(&["sleep", "600"]));
    let mut pty = Pty::start(oci.command(&["exec", "--tty", "c", "sh", "-c", "tty; read line; exit 5"]));
    pty.shows("/dev/pts/");
    pty.types("\r");
    assert_eq!(pty.ends().1, 5);
}

/// Waits for the terminal that a runtime sends to this socket.
fn receive(listener: &UnixListener) -> fs::File {
    let (connection, _) = listener.accept().expect("the runtime calls");
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); 128];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(&connection, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags).expect("a message");
    let mut received: Option<OwnedFd> = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            received = descriptors.into_iter().next();
        }
    }
    fs::File::from(received.expect("a descriptor comes along"))
}

/// Reads from a terminal until it shows this text.
fn shows(terminal: &mut fs::File, text: &str) {
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut some = [0; 1024];
        let length = terminal.read(&mut some).unwrap_or(0);
        assert!(length > 0, "the terminal ends without {text:?}: {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&some[..length]));
    }
}

#[test]
fn the_terminal_goes_to_the_console_socket() {
    let oci = Oci::new();
    let socket = oci.dir().join("console.sock");
    let name = socket.to_str().expect("a name").to_owned();
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut config = oci.shell("stty size; read line; echo got $line");
    config["process"]["terminal"] = json!(true);
    config["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
    oci.configure(&config);
    oci.fails(&["create", "c"], "console socket");
    oci.fails(&["run", "--detach", "c"], "console socket");
    oci.nothing_is_left("c");
    oci.fails(&["create", "--console-socket", "/no/such/socket", "c"], "no such file");
    oci.nothing_is_left("c");

    oci.ok(&["create", "--console-socket", &name, "c"]);
    let mut terminal = receive(&listener);
    oci.ok(&["start", "c"]);
    shows(&mut terminal, "33 77");
    terminal.write_all(b"word\n").expect("it takes input");
    shows(&mut terminal, "got word");
    oci.comes_to("c", "stopped");
    oci.ok(&["delete", "c"]);

    oci.configure(&oci.config(&["true"]));
    oci.fails(&["create", "--console-socket", &name, "c"], "console socket");
    oci.run_detached(&oci.config(&["sleep", "600"]));
    oci.fails(&["exec", "--tty", "--detach", "c", "sh"], "console socket");
    oci.ok(&["exec", "--tty", "--detach", "--console-socket", &name, "c", "sh", "-c", "tty; read x"]);
    shows(&mut receive(&listener), "/dev/pts/");
}

/// The runtime's command, called by a shell that has opened descriptors before.
fn with_descriptors(oci: &Oci, opening: &str, words: &[&str]) -> Command {
    let inner = oci.command(words);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{opening} exec \"$0\" \"$@\"")).arg(inner.get_program());
    command.args(inner.get_args()).current_dir(oci.bundle()).stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

#[test]
fn descriptors_are_handed_on_and_no_others() {
    let oci = Oci::new();
    let list = "cat <&3; cat <&4; test -e /proc/self/fd/5 || echo none";
    oci.configure(&oci.shell(list));
    let opening = "echo three >f3; echo four >f4; exec 3<f3 4<f4 5<f4;";
    let mut command = with_descriptors(&oci, opening, &["run", "--preserve-fds", "2", "c"]);
    command.env("LISTEN_FDS", "0");
    assert_eq!(oci.finish(command).stdout, "three\nfour\nnone\n");
    oci.run_detached(&oci.config(&["sleep", "600"]));
    let words = ["exec", "--preserve-fds", "2", "c", "sh", "-c", list];
    assert_eq!(oci.finish(with_descriptors(&oci, opening, &words)).stdout, "three\nfour\nnone\n");
    oci.ok(&["delete", "--force", "c"]);
    if oci.is_hull() {
        // runc takes what its own runtime has opened by then.
        let closing = "exec 3<&- 4<&-;";
        let command = with_descriptors(&oci, closing, &["create", "--preserve-fds", "2", "c"]);
        assert_ne!(oci.finish(command).status, 0, "descriptors that are not there are handed on");
        oci.nothing_is_left("c");
    }
}

#[test]
fn sockets_are_handed_on_as_systemd_does() {
    let oci = Oci::new();
    oci.configure(&oci.shell("echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; cat <&3"));
    let mut command =
        with_descriptors(&oci, "echo activated >f3; exec 3<f3; export LISTEN_PID=$$;", &["run", "c"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "web");
    let output = oci.finish(command);
    // runc 1.1 leaves the names behind.
    let expected = if oci.is_hull() { "1 1 web\nactivated\n" } else { "1 1\nactivated\n" };
    assert_eq!(output.stdout, expected, "{output:?}");
    // What was meant for another process is not taken.
    let mut command = with_descriptors(&oci, "exec 3<f3; export LISTEN_PID=1;", &["run", "c"]);
    command.env("LISTEN_FDS", "1");
    assert_eq!(oci.finish(command).stdout, "\n");
}

#[test]
fn an_exec_that_is_signalled_passes_it_on() {
    let oci = sleeping();
    let mut child =
        oci.begin(&["exec", "c", "sh", "-c", "trap 'exit 9' TERM; echo up; while true; do sleep 0.05; done"]);
    let mut said = [0; 3];
    child.stdout.as_mut().expect("its output").read_exact(&mut said).expect("it says that it is up");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .expect("a signal to one's own child");
    assert_eq!(child.wait().expect("its end").code(), Some(9));
    wait_until("it is gone", PATIENCE, || oci.ok(&["ps", "-f", "json", "c"]).matches(',').count() == 0);
}

#[test]
fn a_pidfd_goes_to_its_socket() {
    let oci = Oci::new();
    if !oci.is_hull() {
        return;
    }
    let socket = oci.dir().join("pidfd.sock");
    let name = socket.to_str().expect("a name").to_owned();
    let listener = UnixListener::bind(&socket).expect("a socket");
    oci.configure(&oci.config(&["sleep", "600"]));
    oci.ok(&["run", "--detach", "--pidfd-socket", &name, "c"]);
    let first = receive(&listener);
    oci.ok(&["exec", "--detach", "--pidfd-socket", &name, "c", "sleep", "600"]);
    let executed = receive(&listener);
    rustix::process::pidfd_send_signal(&executed, rustix::process::Signal::KILL).expect("a pidfd");
    rustix::process::pidfd_send_signal(&first, rustix::process::Signal::KILL).expect("a pidfd");
    oci.comes_to("c", "stopped");
    oci.fails(&["exec", "--pidfd-socket", "/no/such/socket", "c", "true"], "");
}

#[test]
fn annotations_of_crun_s_are_heeded_where_that_is_asked_for_alone() {
    let oci = Oci::new();
    if !oci.is_hull() {
        return;
    }
    let mut config = oci.config(&["true"]);
    config["annotations"] = json!({
        "run.oci.pidfd_receiver": "/no/such/socket",
        "run.oci.seccomp.receiver": "relative",
        "run.oci.timens_offset": "never",
    });
    assert_eq!(oci.prints(&config), "", "runc knows none of them");
    oci.fails(&["--crun-annotations", "run", "c"], "run.oci.seccomp.receiver=relative");
    config["annotations"] = json!({ "run.oci.pidfd_receiver": "/no/such/socket" });
    oci.configure(&config);
    for (name, heeds) in [("runc", false), ("crun", true)] {
        let link = oci.dir().join(name);
        std::os::unix::fs::symlink(oci.program(), &link).expect("a link");
        let mut command = Command::new(&link);
        command.arg("--root").arg(oci.root()).args(["run", "--bundle"]).arg(oci.bundle()).arg("c");
        let output = oci.finish(command);
        assert_eq!(output.stderr.contains("/no/such/socket"), heeds, "{name}: {output:?}");
        assert_eq!(output.status != 0, heeds, "{name}: {output:?}");
    }
}

#[test]
fn a_capability_that_nobody_knows_is_left_out() {
    let oci = sleeping();
    let output = oci.call(&["exec", "--cap", "CAP_SYS_TIME", "--cap", "CAP_NONSENSE", "c", "echo", "runs"]);
    assert_eq!((output.status, output.stdout.trim()), (0, "runs"), "{output:?}");
    assert!(output.stderr.contains("CAP_NONSENSE"), "{output:?}");
}
