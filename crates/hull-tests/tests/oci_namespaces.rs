//! The configuration's namespaces: new ones, others' by path, users and their mappings, names, kernel parameters.

use std::fs;
use std::process::{Child, Command, Stdio};

use hull_tests::{Oci, Output};
use serde_json::{Value, json};

fn without(config: &mut Value, kind: &str) {
    let list = config["linux"]["namespaces"].as_array_mut().expect("a list");
    list.retain(|namespace| namespace["type"] != kind);
}

fn with(config: &mut Value, namespace: Value) {
    without(config, namespace["type"].as_str().expect("a type"));
    config["linux"]["namespaces"].as_array_mut().expect("a list").push(namespace);
}

fn own(kind: &str) -> String {
    let link = fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
    link.to_string_lossy().into_owned()
}

/// The configuration's words and the kernel's.
const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];

#[test]
fn what_is_named_is_new_and_what_is_not_is_the_host_s() {
    let oci = Oci::new();
    let list = "for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done";
    let mut config = oci.shell(list);
    with(&mut config, json!({ "type": "cgroup" }));
    for line in oci.prints(&config).lines() {
        assert!(KINDS.iter().all(|(_, kernel)| own(kernel) != line), "{line} is the host's");
    }
    let mut config = oci.shell(list);
    config.as_object_mut().expect("an object").remove("hostname");
    config["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    let printed = oci.prints(&config);
    for (index, kernel) in ["pid", "net", "ipc", "uts"].iter().enumerate() {
        assert_eq!(printed.lines().nth(index), Some(own(kernel).as_str()));
    }
}

/// A process that holds namespaces for others to join.
struct Holder(Child);

impl Holder {
    fn new(unshare: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args(unshare).args(["--fork", "sh", "-c", "echo up; exec sleep 600"]);
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("util-linux");
        let mut said = [0; 3];
        use std::io::Read;
        child.stdout.as_mut().expect("its output").read_exact(&mut said).expect("it is up");
        Self(child)
    }

    /// The process inside.
    fn pid(&self) -> String {
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("its child");
        children.trim().to_owned()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(pid) = self.pid().parse().ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        self.0.wait().ok();
    }
}

#[test]
fn others_are_joined_by_path() {
    let oci = Oci::new();
    let holder = Holder::new(&["--pid", "--net", "--ipc", "--uts", "--cgroup"]);
    let pid = holder.pid();
    for (word, kernel) in KINDS.iter().filter(|(word, _)| *word != "mount" && *word != "cgroup") {
        let path = format!("/proc/{pid}/ns/{kernel}");
        let there = fs::read_link(&path).expect("a namespace").to_string_lossy().into_owned();
        let mut config = oci.shell(&format!("readlink /proc/self/ns/{kernel}"));
        with(&mut config, json!({ "type": word, "path": path }));
        if *word == "uts" {
            config.as_object_mut().expect("an object").remove("hostname");
        }
        assert_eq!(oci.prints(&config), there, "{word}");
    }
}

#[test]
fn a_path_that_is_no_such_namespace_is_refused() {
    let oci = Oci::new();
    for path in ["/no/such/file", "/etc/passwd", "relative", "/proc/self/ns/uts"] {
        let mut config = oci.config(&["true"]);
        with(&mut config, json!({ "type": "network", "path": path }));
        oci.refuses(&config, "");
    }
    let mut config = oci.config(&["true"]);
    config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "pid" }));
    oci.refuses(&config, "");
}

#[test]
fn containers_share_a_pod_s_namespaces() {
    let oci = Oci::new();
    let mut pause = oci.config(&["sleep", "600"]);
    pause["linux"]["cgroupsPath"] = json!(format!("/{}/pause", oci.cgroup_parent()));
    oci.configure(&pause);
    oci.ok(&["run", "-d", "pause"]);
    let pid = oci.state("pause")["pid"].to_string();
    let mut config = oci.shell("hostname; ps | grep -c 'sleep 600'");
    for (word, kernel) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        with(&mut config, json!({ "type": word, "path": format!("/proc/{pid}/ns/{kernel}") }));
    }
    config.as_object_mut().expect("an object").remove("hostname");
    let printed = oci.prints(&config);
    assert!(printed.starts_with("inside\n"), "{printed}");
    assert_eq!(oci.status("pause"), "running", "the end of one is not the other's");
    oci.ok(&["delete", "--force", "pause"]);
}

#[test]
fn names_are_set_in_one_s_own_namespace() {
    let oci = Oci::new();
    let mut config = oci.shell("hostname; cat /proc/sys/kernel/domainname");
    config["hostname"] = json!("some.host-name");
    if oci.is_hull() {
        // runc has it since 1.1.6.
        config["domainname"] = json!("example.org");
        assert_eq!(oci.prints(&config), "some.host-name\nexample.org");
    } else {
        assert!(oci.prints(&config).starts_with("some.host-name\n"));
    }
    without(&mut config, "uts");
    oci.refuses(&config, "uts");
}

/// A configuration with a user namespace whose ids begin at 100000.
fn with_users(oci: &Oci, script: &str) -> Value {
    let mut config = oci.shell(script);
    with(&mut config, json!({ "type": "user" }));
    let mappings = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    config["linux"]["uidMappings"] = mappings.clone();
    config["linux"]["gidMappings"] = mappings;
    for folder in [oci.dir().to_owned(), oci.bundle(), oci.rootfs()] {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    }
    let chown = Command::new("chown").args(["-R", "100000:100000"]).arg(oci.rootfs()).status();
    assert!(chown.expect("chown").success());
    config
}

#[test]
fn users_are_mapped() {
    let oci = Oci::new();
    let script = "id -u; id -g; cat /proc/self/uid_map | tr -s ' '; touch /made; stat -c %u /made /dev/null; \
                  readlink /proc/self/ns/user";
    let printed = oci.prints(&with_users(&oci, script));
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[..3], ["0", "0", " 0 100000 65536"]);
    assert_eq!(lines[3], "0");
    assert_ne!(lines[5], own("user"));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(oci.rootfs().join("made")).expect("the file").uid(), 100_000);

    let mut other = with_users(&oci, "id -u; id -G");
    other["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [7] });
    assert_eq!(oci.prints(&other), "1000\n1001 7");

    let sleeping = with_users(&oci, "sleep 600");
    oci.run_detached(&sleeping);
    assert_eq!(oci.ok(&["exec", "c", "id", "-u"]), "0");
    let pid = oci.state("c")["pid"].to_string();
    assert_eq!(fs::metadata(format!("/proc/{pid}")).expect("the process").uid(), 100_000);
    oci.ok(&["pause", "c"]);
    oci.ok(&["resume", "c"]);
    oci.ok(&["delete", "-f", "c"]);
    oci.nothing_is_left("c");
}

#[test]
fn a_user_namespace_is_joined() {
    let oci = Oci::new();
    let mut first = with_users(&oci, "sleep 600");
    first["linux"]["cgroupsPath"] = json!(format!("/{}/first", oci.cgroup_parent()));
    oci.configure(&first);
    oci.ok(&["run", "-d", "first"]);
    let pid = oci.state("first")["pid"].to_string();
    // Its own of the others are to belong to it: it mounts in them, and sets its host name.
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; mount | grep -c '^proc on /proc '; hostname; \
                  readlink /proc/self/ns/user; touch /made; stat -c %u /made";
    let mut config = oci.shell(script);
    with(&mut config, json!({ "type": "user", "path": format!("/proc/{pid}/ns/user") }));
    with(&mut config, json!({ "type": "network", "path": format!("/proc/{pid}/ns/net") }));
    if oci.is_runc() {
        // runc 1.1 asks for the mappings of one that has them already.
        for map in ["uidMappings", "gidMappings"] {
            config["linux"][map] = first["linux"][map].clone();
        }
    }
    let printed = oci.prints(&config);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[..3], ["0", " 0 100000 65536", "1"], "{printed}");
    let there = fs::read_link(format!("/proc/{pid}/ns/user")).expect("the first one's namespace");
    assert_eq!(Some(lines[4]), there.to_str());
    assert_eq!(lines[5], "0");
    assert_eq!(oci.status("first"), "running");
    oci.ok(&["delete", "--force", "first"]);
}

#[test]
fn mappings_that_cannot_be_are_refused() {
    let oci = Oci::new();
    let mut config = with_users(&oci, "true");
    config["linux"].as_object_mut().expect("an object").remove("uidMappings");
    oci.refuses(&config, "");
    let mut config = with_users(&oci, "true");
    let twice = json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }, { "containerID": 5, "hostID": 1, "size": 9 }]);
    config["linux"]["uidMappings"] = twice;
    oci.refuses(&config, "");
    // The user of the process must be one of them.
    let mut config = with_users(&oci, "true");
    config["process"]["user"]["uid"] = json!(70_000);
    oci.refuses(&config, "");
    // Mappings without a namespace for them.
    let mut config = with_users(&oci, "true");
    without(&mut config, "user");
    if oci.is_hull() {
        // runc leaves them unused.
        oci.refuses(&config, "user namespace");
    }
}

#[test]
fn clocks_are_set_off_in_a_time_namespace() {
    let oci = Oci::new();
    let mut config = oci.shell("cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time");
    if !oci.is_hull() {
        eprintln!("not tested: runc 1.1 knows no time namespaces");
        return;
    }
    with(&mut config, json!({ "type": "time" }));
    config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000_000 } });
    let printed = oci.prints(&config);
    let uptime: u64 = printed.lines().next().expect("a line").parse().expect("a number");
    assert!(uptime > 1_000_000_000, "{printed}");
    assert_ne!(printed.lines().nth(1), Some(own("time").as_str()));
    without(&mut config, "time");
    oci.refuses(&config, "time");
}

#[test]
fn kernel_parameters_are_those_of_one_s_own_namespaces() {
    let oci = Oci::new();
    let mut config = oci.shell(
        "cd /proc/sys; cat net/ipv4/ip_forward net/ipv4/ping_group_range kernel/shmmax fs/mqueue/msg_max | tr '\\t' ' '",
    );
    config["linux"]["sysctl"] = json!({
        "net.ipv4.ip_forward": "1", "net/ipv4/ping_group_range": "0 7",
        "kernel.shmmax": "123456", "fs.mqueue.msg_max": "33",
    });
    assert_eq!(oci.prints(&config), "1\n0 7\n123456\n33");
    let refused = |name: &str, kind: &str| {
        let mut config = oci.config(&["true"]);
        config["linux"]["sysctl"] = json!({ name: "1" });
        without(&mut config, kind);
        oci.refuses(&config, name);
    };
    refused("net.ipv4.ip_forward", "network");
    refused("kernel.shmmax", "ipc");
    refused("fs.mqueue.msg_max", "ipc");
    refused("kernel.panic", "none");
    refused("vm.swappiness", "none");
    let mut config = oci.config(&["true"]);
    config["linux"]["sysctl"] = json!({ "net.no.such.thing": "1" });
    oci.refuses(&config, "");
}

#[test]
fn the_host_s_network_can_be_named_by_path() {
    let oci = Oci::new();
    let mut config = oci.config(&["true"]);
    with(&mut config, json!({ "type": "network", "path": "/proc/self/ns/net" }));
    config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    // It is the host's all the same, and its parameters are not the container's to set.
    let Output { status, .. } = oci.run(&config);
    assert_ne!(status, 0);
}

#[test]
fn an_interface_moves_in_with_its_addresses() {
    let oci = Oci::new();
    if !oci.is_hull() {
        // A field of 1.3, which the runtimes of Debian 12 do not know.
        return;
    }
    hull_tests::private_network();
    let ip = |words: &[&str]| {
        let status = std::process::Command::new("ip").args(words).status().expect("iproute2 is installed");
        assert!(status.success(), "ip {words:?}");
    };
    ip(&["link", "add", "hull-moves", "type", "veth", "peer", "name", "hull-stays"]);
    ip(&["address", "add", "192.0.2.7/24", "dev", "hull-moves"]);
    ip(&["address", "add", "2001:db8::7/64", "dev", "hull-moves", "nodad"]);
    let mut config = oci.config(&["sh", "-c", "ip -o address show dev lan; cat /sys/class/net/lan/flags"]);
    config["linux"]["netDevices"] = serde_json::json!({ "hull-moves": { "name": "lan" } });
    oci.configure(&config);
    let output = oci.call(&["run", "c"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(
        output.stdout.contains("192.0.2.7/24") && output.stdout.contains("2001:db8::7/64"),
        "{}",
        output.stdout
    );
    let flags = output
        .stdout
        .lines()
        .last()
        .and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
    assert!(flags.is_some_and(|flags| flags & 1 == 1), "it is not up: {}", output.stdout);
    config["linux"]["netDevices"] = serde_json::json!({ "hull-is-not": {} });
    oci.configure(&config);
    oci.fails(&["run", "c"], "there is no such interface");
    oci.nothing_is_left("c");
}

#[test]
fn a_user_without_privileges_runs_a_container() {
    use std::os::unix::process::CommandExt;
    const USER: u32 = 47_110;
    let oci = Oci::new();
    if !oci.is_hull() {
        return;
    }
    let mut config = oci.config(&["sh", "-c", "id -u; cat /proc/self/uid_map; echo $$"]);
    config["linux"]["namespaces"] = serde_json::json!([
        { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "user" },
    ]);
    let mapping = serde_json::json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
    config["linux"]["uidMappings"] = mapping.clone();
    config["linux"]["gidMappings"] = mapping;
    // As `hull oci spec --rootless` has it: no limits, no cgroup of a certain place, no mounts that need more.
    config["linux"]
        .as_object_mut()
        .expect("an object")
        .retain(|key, _| key != "resources" && key != "cgroupsPath");
    config["mounts"] = serde_json::json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
    ]);
    oci.configure(&config);
    let owned =
        std::process::Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(oci.dir()).status();
    assert!(owned.expect("chown is there").success());
    let mut command = oci.command(&["run", "c"]);
    command.uid(USER).gid(USER).current_dir(oci.bundle());
    let output = oci.finish(command);
    assert_eq!(output.status, 0, "{}", output.stderr);
    let lines: Vec<String> =
        output.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["0".to_owned(), format!("0 {USER} 1"), "1".to_owned()]);
    assert!(output.stderr.contains("the container has no cgroup of its own"), "{}", output.stderr);
    let mut refused = oci.command(&["--rootless", "false", "run", "c"]);
    refused.uid(USER).gid(USER).current_dir(oci.bundle());
    let output = oci.finish(refused);
    assert!(output.status != 0 && output.stderr.contains("permission denied"), "{}", output.stderr);
}

#[test]
fn a_new_network_has_its_loopback_interface_up() {
    let oci = Oci::new();
    // IFF_UP is the lowest bit.
    let script = "cat /sys/class/net/lo/flags; ls /sys/class/net";
    let printed = |config: &Value| oci.prints(config);
    assert_eq!(printed(&oci.shell(script)), "0x9\nlo");
    let mut hooked = oci.shell(script);
    hooked["hooks"] = json!({ "createRuntime": [{ "path": "/bin/true" }] });
    assert_eq!(printed(&hooked), "0x9\nlo", "one that hooks are shown");
    oci.create(&oci.config(&["sleep", "600"]));
    assert_eq!(oci.ok(&["exec", "c", "cat", "/sys/class/net/lo/flags"]), "0x9");
    oci.ok(&["delete", "-f", "c"]);
    assert_eq!(printed(&with_users(&oci, script)), "0x9\nlo", "one of a user namespace");
}
