//! Attacks on the runtime's own processes: its binary, its descriptors, what it is on its way into a container.

use std::fs;
use std::process::{Command, Stdio};

use hull_tests::{Daemon, Engine, Oci, PATIENCE, attacker, python, wait_until};
use serde_json::json;

/// Waits at a socket for a lured runtime, takes a handle of the file that it was executed from, and tries to open that
/// for writing while it runs and when it has ended (CVE-2019-5736).
const OVERWRITE: &str = r#"
import fcntl
server = socket.socket(socket.AF_UNIX)
server.bind("/tmp/lure")
server.listen()
say("ready")
while True:
    victim, _ = server.accept()
    pid = struct.unpack("iii", victim.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    handle = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
    during = tried(lambda: os.open(f"/proc/{pid}/exe", os.O_WRONLY))
    os.kill(pid, 9)
    while tried(lambda: os.readlink(f"/proc/{pid}/exe")) not in ("ENOENT", "ESRCH"):
        pass
    victim.close()
    after = tried(lambda: os.open(f"/proc/self/fd/{handle}", os.O_WRONLY))
    # Another runtime that runs makes it busy for a while, which is no defence: whether it will ever open is what counts.
    sealed = lambda: fcntl.fcntl(handle, 1034) & 8
    closed = os.fstatvfs(handle).f_flag & os.ST_RDONLY or isinstance(tried(sealed), int) and sealed()
    say("attacked", "got", during, after, "closed" if closed else "open")
"#;

/// The handle was had, or the attack says nothing, and nothing came of it.
#[track_caller]
fn nothing_came_of_it(said: &str) {
    let words: Vec<&str> = said.split_whitespace().skip_while(|word| *word != "attacked").collect();
    assert_eq!(words[1], "got", "{said}");
    for tried in &words[2..4] {
        assert!(
            ["ETXTBSY", "EROFS", "EPERM", "EACCES"].contains(tried),
            "the binary opens for writing: {said}"
        );
    }
    assert_eq!(words[4], "closed", "the binary will open for writing: {said}");
}

#[test]
fn the_oci_runtime_s_binary_is_not_overwritten() {
    // What runs it is lured by its own name, as the command of an exec and of a container.
    for first in ["exec", "run", "create"] {
        let oci = Oci::new();
        let mut config = attacker(&oci, OVERWRITE);
        let own = |config: &mut serde_json::Value| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
            namespaces.retain(|namespace| namespace["type"] != "pid");
        };
        own(&mut config);
        let call = oci.next_call();
        oci.run_detached(&config);
        wait_until("the attacker waits", PATIENCE, || oci.said(call).contains("ready"));
        let lure = ["/proc/self/exe", "-H", "unix:///tmp/lure", "version"];
        let output = if first == "exec" {
            oci.call(&[&["exec", "c"][..], &lure].concat())
        } else {
            let mut config = attacker(&oci, "");
            own(&mut config);
            config["process"]["args"] = json!(lure);
            config["linux"]["cgroupsPath"] = json!(format!("/{}/d", oci.cgroup_parent()));
            oci.configure(&config);
            if first == "run" {
                oci.call(&["run", "d"])
            } else {
                oci.ok(&["create", "d"]);
                oci.call(&["start", "d"])
            }
        };
        if output.status == 1 {
            // It did not execute itself at all.
            assert!(output.stderr.contains("own binary"), "{first}: {output:?}");
            continue;
        }
        wait_until("the attack is over", PATIENCE, || oci.said(call).contains("attacked"));
        nothing_came_of_it(&oci.said(call));
    }
}

#[test]
fn the_engine_s_binary_is_not_overwritten() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let script = python(OVERWRITE);
    daemon.ok(&["run", "-d", "--name", "box", "hull/host", "python3", "-c", &script]);
    let said = || daemon.ok(&["logs", "box"]);
    wait_until("the attacker waits", PATIENCE, || said().contains("ready"));
    daemon.hull(&["exec", "box", "/proc/self/exe", "-H", "unix:///tmp/lure", "version"]);
    wait_until("the attack is over", PATIENCE, || said().contains("attacked"));
    nothing_came_of_it(&said());
}

/// The runtime's command, called by a shell that has opened a folder of the host's before.
fn with_leaked_folder(oci: &Oci, words: &[&str]) -> Command {
    let inner = oci.command(words);
    let mut command = Command::new("sh");
    let opening = format!("exec 7<{}; exec \"$0\" \"$@\"", oci.dir().join("outside").display());
    command.arg("-c").arg(opening).arg(inner.get_program()).args(inner.get_args());
    command.current_dir(oci.bundle()).stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

#[test]
fn a_leaked_descriptor_is_no_working_directory() {
    let oci = Oci::new();
    fs::create_dir(oci.dir().join("outside")).expect("a folder");
    fs::write(oci.dir().join("outside/secret"), "").expect("a file");
    std::os::unix::fs::symlink("/proc/self/fd/7", oci.rootfs().join("link")).expect("a link");
    for folder in ["/proc/self/fd/7", "/proc/1/fd/7", "/link", "/proc/self/fd/7/../outside"] {
        // Handed on with --preserve-fds it is open when the working directory is entered, and refused all the same.
        for preserved in ["0", "5"] {
            let mut config = oci.config(&["ls"]);
            config["process"]["cwd"] = json!(folder);
            oci.configure(&config);
            if preserved == "5" {
                let mut command = with_leaked_folder(&oci, &["run", "--preserve-fds", preserved, "c"]);
                let script = command.get_args().nth(1).expect("a script").to_string_lossy().into_owned();
                let opened = script.replacen("exec 7<", "exec 3</dev/null 4<&3 5<&3 6<&3 7<", 1);
                let rest: Vec<_> = command.get_args().skip(2).map(ToOwned::to_owned).collect();
                let mut again = Command::new("sh");
                again.arg("-c").arg(opened).args(rest).current_dir(oci.bundle()).stdin(Stdio::null());
                for (name, value) in command.get_envs() {
                    again.env(name, value.unwrap_or_default());
                }
                std::mem::swap(&mut command, &mut again);
                let output = oci.finish(command);
                assert!(!output.stdout.contains("secret"), "{folder}: {output:?}");
                continue;
            }
            let output = oci.finish(with_leaked_folder(&oci, &["run", "c"]));
            assert!(!output.stdout.contains("secret") && output.status != 0, "run: {folder}: {output:?}");
        }
        oci.run_detached(&oci.config(&["sleep", "600"]));
        let words = ["exec", "--cwd", folder, "c", "ls"];
        let output = oci.finish(with_leaked_folder(&oci, &words));
        assert!(!output.stdout.contains("secret") && output.status != 0, "exec: {folder}: {output:?}");
        oci.ok(&["delete", "--force", "c"]);
    }
}

/// Looks into every process that comes, for what is not the container's: the file it was executed from while that is
/// still the runtime's, and descriptors (CVE-2016-9962).
const LOOK: &str = r#"
own = set(os.listdir("/proc"))
seen, looked = set(), 0
say("ready")
while not os.path.exists("/tmp/enough"):
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid in own:
            continue
        looked += 1
        exe = tried(lambda: os.readlink(f"/proc/{pid}/exe"))
        if exe.startswith("E") or exe.startswith("/bin/") or exe.startswith("/usr/bin/"):
            continue
        seen.add(exe)
        for fd in tried(lambda: os.listdir(f"/proc/{pid}/fd")) or []:
            seen.add(tried(lambda: os.readlink(f"/proc/{pid}/fd/{fd}")))
say("saw", looked > 0, sorted(seen))
"#;

#[test]
fn a_process_on_its_way_into_a_container_cannot_be_looked_into() {
    let oci = Oci::new();
    let mut config = attacker(&oci, LOOK);
    // Root in a user namespace with every capability there: as much as who enters has.
    let all: Vec<String> = ["SYS_PTRACE", "SYS_ADMIN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "SETUID", "SETGID"]
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect();
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(all);
    }
    config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "user" }));
    let mapping = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    config["linux"]["uidMappings"] = mapping.clone();
    config["linux"]["gidMappings"] = mapping;
    let call = oci.next_call();
    oci.run_detached(&config);
    wait_until("the attacker looks", PATIENCE, || oci.said(call).contains("ready"));
    for _ in 0..25 {
        oci.ok(&["exec", "c", "true"]);
    }
    fs::write(oci.rootfs().join("tmp/enough"), "").expect("a file");
    wait_until("the attack is over", PATIENCE, || oci.said(call).contains("saw"));
    assert!(oci.said(call).contains("saw True []"), "{}", oci.said(call));
}
