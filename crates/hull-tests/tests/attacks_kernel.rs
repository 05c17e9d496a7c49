//! Attacks by the kernel's own doors: devices, cgroups, keys, terminals, sockets, user namespaces. Where a defence can be left
//! away by what is asked for, the same attack is made without it and must work: what it meets otherwise is the defence.
//!
//! The engine's part of devices, cgroups and system calls is in `isolation.rs`.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;

use hull_tests::{Daemon, Engine, Oci, Pty, attacker, python};
use serde_json::{Value, json};

fn without_namespace(config: &mut Value, kind: &str) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != kind);
}

#[test]
fn a_device_s_node_opens_nothing() {
    let oci = Oci::new();
    let script = "mknod /tmp/kmsg c 1 11; mknod /tmp/mem c 1 1; mknod /tmp/disk b 7 0; for node in kmsg mem disk; do head -c 1 /tmp/$node >/dev/null 2>/tmp/said; grep -o 'not permitted' /tmp/said; done; rm -f /tmp/kmsg /tmp/mem /tmp/disk; true";
    let mut config = oci.shell(script);
    assert_eq!(oci.prints(&config), "not permitted\nnot permitted\nnot permitted");
    // Without rules the log of the kernel is read.
    config["linux"]["resources"] = json!({ "devices": [{ "allow": true, "access": "rwm" }] });
    config["process"]["args"][2] = json!(
        "mknod /tmp/kmsg c 1 11; dd if=/tmp/kmsg of=/dev/null bs=8192 count=1 2>&1 | grep -c 'not permitted'; rm /tmp/kmsg"
    );
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set].as_array_mut().expect("a list").push(json!("CAP_SYSLOG"));
    }
    assert_eq!(oci.prints(&config), "0");
}

/// From inside: to leave the cgroup, to raise its limits, and on v1 to name a program that the host runs.
#[test]
fn a_cgroup_s_files_are_not_written_from_inside() {
    let oci = Oci::new();
    // What can be written: every file of every hierarchy, opened and not touched.
    let script = r#"
wrote = []
for folder, _, files in os.walk("/sys/fs/cgroup"):
    for file in files:
        path = os.path.join(folder, file)
        if isinstance(tried(lambda: os.close(os.open(path, os.O_WRONLY))), type(None)):
            wrote.append(file)
names = os.listdir("/sys/fs/cgroup")
mounted = libc.mount(b"cgroup", b"/tmp", b"cgroup", 0, b"memory"), libc.mount(b"cgroup", b"/tmp", b"cgroup2", 0, None)
say(len(names) > 0, "cgroup.procs" in wrote, "release_agent" in wrote, mounted)
"#;
    let mut config = attacker(&oci, script);
    let cgroups = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                          "options": ["ro", "nosuid", "noexec", "nodev"] });
    config["mounts"].as_array_mut().expect("a list").push(cgroups);
    config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "cgroup" }));
    assert_eq!(oci.prints(&config), "True False False (-1, -1)");
    let last = config["mounts"].as_array().expect("a list").len() - 1;
    config["mounts"][last]["options"] = json!(["rw"]);
    // The one's own is writable then; the program that the host runs is named in the root's alone.
    assert_eq!(oci.prints(&config), "True True False (-1, -1)");
}

/// A set-user-ID program of a user namespace's root is nobody's in particular outside.
#[test]
fn a_setuid_program_of_a_user_namespace_is_not_the_host_s() {
    let oci = Oci::new();
    let source = oci.dir().join("source");
    fs::create_dir(&source).expect("a folder");
    fs::set_permissions(&source, fs::Permissions::from_mode(0o777)).expect("a mode");
    let mut config = attacker(&oci, "");
    config["process"]["args"] =
        json!(["sh", "-c", "cp /usr/bin/id /out/id && chmod 4755 /out/id && /usr/bin/id -u"]);
    config["mounts"]
        .as_array_mut()
        .expect("a list")
        .push(json!({ "destination": "/out", "type": "bind", "source": source, "options": ["bind"] }));
    let program = source.join("id");
    let user_of_it = || {
        let output = Command::new("setpriv")
            .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
            .arg(&program)
            .arg("-u")
            .output()
            .expect("setpriv of util-linux");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let open = |path: &Path| {
        for folder in path.ancestors().filter(|folder| folder.starts_with(std::env::temp_dir())) {
            let mode = fs::metadata(folder).expect("it is there").permissions().mode();
            fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o111)).expect("a mode");
        }
    };
    open(&source);
    // Without a user namespace it is root's.
    assert_eq!(oci.prints(&config), "0");
    assert_eq!(user_of_it(), "0");
    fs::remove_file(&program).expect("it is there");
    config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "user" }));
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    config["linux"]["uidMappings"] = mapping.clone();
    config["linux"]["gidMappings"] = mapping;
    assert_eq!(oci.prints(&config), "0");
    assert_eq!(fs::metadata(&program).expect("it was made").uid(), 100_000);
    assert_eq!(user_of_it(), "100000");
}

/// The caller's keys are not the container's, without any filter.
#[test]
fn the_caller_s_keys_are_not_found() {
    const JOIN: i32 = 1;
    const SEARCH: &str = r#"
say(call("keyctl", 10, -3, b"user", b"hull-tests-key", 0))
"#;
    let oci = Oci::new();
    oci.configure(&attacker(&oci, SEARCH));
    // A caller with a session keyring of its own, and a key in it.
    let called = |flags: &[&str]| {
        let inner = oci.command(&[&["run"][..], flags, &["c"]].concat());
        let mut words: Vec<String> = vec![inner.get_program().to_string_lossy().into_owned()];
        words.extend(inner.get_args().map(|word| word.to_string_lossy().into_owned()));
        let script = python(&format!(
            r#"
assert isinstance(call("keyctl", {JOIN}, None), int)
assert isinstance(call("add_key", b"user", b"hull-tests-key", b"secret", 6, -3), int)
os.execv(sys.argv[1], sys.argv[1:])
"#
        ));
        let mut command = Command::new("python3");
        command.arg("-c").arg(script).args(words).current_dir(oci.bundle());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = oci.finish(command);
        assert_eq!(output.status, 0, "{output:?}");
        output.stdout.trim().to_owned()
    };
    assert_eq!(called(&[]), "ENOKEY");
    let with = called(&["--no-new-keyring"]);
    assert!(with.parse::<u32>().is_ok(), "the attack itself does not work: {with}");
}

/// What is typed into the caller's terminal from inside would be executed by the caller's shell.
#[test]
fn nothing_is_typed_into_the_caller_s_terminal() {
    // Newer kernels refuse it to everyone where this is 0.
    let legacy = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|text| text.trim() == "0");
    if legacy {
        return;
    }
    const TYPE: &str = r#"
say("typed", [call("ioctl", fd, 0x5412, ctypes.c_char_p(b"x")) for fd in (0, 1, 2)], tried(lambda: os.open("/dev/tty", os.O_RDWR)))
"#;
    let oci = Oci::new();
    oci.configure(&attacker(&oci, TYPE));
    let bundle = oci.bundle();
    let bundle = bundle.to_str().expect("a name");
    let (said, status) = Pty::start(oci.command(&["run", "--bundle", bundle, "c"])).ends();
    assert!(status == 0 && said.contains("typed ['EPERM', 'EPERM', 'EPERM'] ENXIO"), "{said}");
    oci.run_detached(&attacker(&oci, "time.sleep(600)"));
    let script = python(TYPE);
    let (said, status) = Pty::start(oci.command(&["exec", "c", "/usr/bin/python3", "-c", &script])).ends();
    assert!(status == 0 && said.contains("typed ['EPERM', 'EPERM', 'EPERM'] ENXIO"), "{said}");
    // Who has the terminal types.
    let mut direct = Command::new("/usr/bin/python3");
    direct.arg("-c").arg(python(TYPE));
    assert!(Pty::start(direct).ends().0.contains("typed [0, 0, 0]"));
}

/// Sockets without a file belong to the network namespace.
#[test]
fn the_host_s_abstract_sockets_are_not_reached() {
    let name = format!("hull-tests-abstract-{}", std::process::id());
    let script = format!(
        r#"
client = socket.socket(socket.AF_UNIX)
say(tried(lambda: client.connect("\0{name}")))
"#
    );
    let listen = || {
        let address = SocketAddr::from_abstract_name(&name).expect("an address");
        UnixListener::bind_addr(&address).expect("nobody has the name")
    };
    let listener = listen();
    let oci = Oci::new();
    let mut config = attacker(&oci, &script);
    assert_eq!(oci.prints(&config), "ECONNREFUSED");
    without_namespace(&mut config, "network");
    assert_eq!(oci.prints(&config), "None");
    if Engine::under_test() == Engine::Docker {
        return;
    }
    // The daemon's host is the test's network namespace.
    drop(listener);
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let _listener = listen();
    let script = python(&script);
    let run = |network: &str| {
        daemon.ok(&["run", "--rm", "--network", network, "hull/host", "python3", "-c", &script])
    };
    assert_eq!(run("bridge"), "ECONNREFUSED");
    assert_eq!(run("none"), "ECONNREFUSED");
    assert_eq!(run("host"), "None");
}

/// The default filter's part for `hull oci`: engines bring their own, and this is what hull's does for a bundle that has it.
#[test]
fn a_filter_of_the_configuration_holds_in_execs_too() {
    const TRY: &str = r#"
say(call("io_uring_setup", 0, None), call("clone3", None, 0), call("unshare", 0x10000000))
"#;
    let oci = Oci::new();
    let script = format!("{TRY}\ntime.sleep(600)");
    let mut config = attacker(&oci, &script);
    let architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"];
    let own = architectures[usize::from(cfg!(target_arch = "aarch64"))];
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": [own],
        "syscalls": [
            { "names": ["io_uring_setup", "unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 },
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
        ],
    });
    oci.run_detached(&config);
    let script = python(TRY);
    assert_eq!(oci.ok(&["exec", "c", "/usr/bin/python3", "-c", &script]), "EPERM ENOSYS EPERM");
    oci.ok(&["delete", "--force", "c"]);
    // Without it the kernel answers.
    let said = oci.prints(&attacker(&oci, TRY));
    assert!(said.starts_with("EFAULT EINVAL"), "{said}");
}
