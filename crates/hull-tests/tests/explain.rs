//! `hull explain`: what a container is made of, and the script that makes the like by hand.

use std::path::{Path, PathBuf};
use std::process::Command;

use hull_tests::Daemon;
use serde_json::Value;

/// Writes the script of a container into a file.
fn script(daemon: &Daemon, container: &str) -> (PathBuf, String) {
    let text = daemon.ok(&["explain", "--shell", container]);
    let path = daemon.dir().join(format!("{container}.sh"));
    std::fs::write(&path, &text).expect("the script is written");
    (path, text)
}

/// Runs a script; its output, and its exit status. What it makes must be gone with it.
fn by_hand(daemon: &Daemon, script: &Path) -> (String, i32) {
    let before = made(daemon);
    let output = bash(daemon).arg(script).output().expect("bash");
    assert_eq!(made(daemon), before, "it cleans up: {output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "{errors}\n{}", std::fs::read_to_string(script).unwrap_or_default());
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap_or(-1))
}

/// What scripts leave that do not clean up, of this daemon's network; other tests' folders and cgroups come and go.
fn made(daemon: &Daemon) -> String {
    let list = "ip -o link | grep -c ': bh'; nft list tables | grep -c by-hand; mount | grep -c \"^nsfs on $TMPDIR\"; ls $TMPDIR";
    let output = bash(daemon).args(["-c", list]).output().expect("bash");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A shell whose scripts have their folders where nobody else has.
fn bash(daemon: &Daemon) -> Command {
    let folder = daemon.dir().join("tmp");
    std::fs::create_dir_all(&folder).expect("a folder for the scripts");
    let mut bash = daemon.command("timeout");
    bash.args(["60", "bash"]).env("TMPDIR", folder);
    bash
}

fn json(daemon: &Daemon, container: &str) -> Value {
    serde_json::from_str(&daemon.ok(&["explain", container, "--json"])).expect("JSON")
}

#[test]
fn what_it_is_made_of() {
    let daemon = Daemon::start();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1:8080:80",
        "-m",
        "64m",
        "busybox",
        "sleep",
        "600",
    ]);
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "friend",
        "--net",
        "container:web",
        "--pid",
        "host",
        "--user",
        "33:34",
        "busybox",
        "sleep",
        "600",
    ]);
    let web = json(&daemon, "web");
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "web"]);
    let link = std::fs::read_link(format!("/proc/{}/ns/net", pid.trim())).expect("a namespace");
    assert_eq!(link.display().to_string(), format!("net:[{}]", web["namespaces"]["net"]["inode"]));
    assert_eq!(web["namespaces"]["net"]["containers"], serde_json::json!(["friend"]));
    assert_eq!(web["namespaces"]["mnt"]["containers"], serde_json::json!([]));
    assert_eq!(web["namespaces"]["user"]["host"], true);
    assert_eq!(web["cgroup"]["usage"]["memory"]["max"], 67_108_864);
    assert_eq!(web["mounts"][0]["destination"], "/");
    assert_eq!(web["mounts"][0]["type"], "overlay");
    assert_eq!(web["seccomp"]["filters"], 1);
    assert!(web["seccomp"]["allowed"].as_u64().is_some_and(|allowed| allowed > 250), "{web}");
    let wire = &web["network"]["interfaces"][0];
    assert_eq!(wire["name"], "eth0");
    let links = daemon
        .command("ip")
        .args(["-o", "link", "show", "master"])
        .arg(wire["bridge"].as_str().unwrap())
        .output();
    let links = String::from_utf8_lossy(&links.expect("ip").stdout).into_owned();
    assert!(links.contains(wire["host_end"].as_str().unwrap()), "{links}");
    let element = &web["network"]["firewall"][0];
    let (table, map) = (element["table"].as_str().unwrap(), element["map"].as_str().unwrap());
    let listed = daemon.command("nft").args(["list", "map", "inet", table, map]).output().expect("nft");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let (from, to) = element["element"].as_str().unwrap().split_once(" : ").unwrap();
    // Where no /etc/protocols names them, nft prints protocols as numbers.
    let is_there = listed.contains(from) || listed.contains(&from.replace(" tcp ", " 6 "));
    assert!(is_there && listed.contains(to), "{element} {listed}");
    assert_eq!(web["processes"]["first"].to_string(), pid.trim());
    let parent = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).expect("its status");
    assert!(parent.contains(&format!("PPid:\t{}\n", web["processes"]["shim"])), "{parent}");
    let friend = json(&daemon, "friend");
    assert_eq!(friend["namespaces"]["pid"]["host"], true);
    assert_eq!(friend["namespaces"]["net"]["containers"], serde_json::json!(["web"]));
    assert_eq!((&friend["user"]["uid"], &friend["user"]["gid"]), (&33.into(), &34.into()));
    let page = daemon.ok(&["explain", "web"]);
    for words in [
        "shared with friend",
        "memory.max       64MiB",
        "sleep 600",
        "system calls are let through",
        "CAP_CHOWN",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    daemon.ok(&["stop", "-t", "0", "web"]);
    let stopped = json(&daemon, "web");
    assert_eq!((&stopped["namespaces"]["net"]["inode"], &stopped["user"]), (&Value::Null, &Value::Null));
    assert!(
        stopped["capabilities"].as_array().is_some_and(|list| list.contains(&"CAP_CHOWN".into())),
        "{stopped}"
    );
    assert_eq!(stopped["notes"], serde_json::json!([]));
    assert_eq!(
        daemon.hull(&["explain", "nobody"]).stderr.trim_end(),
        "Error response from daemon: No such container: nobody"
    );
}

#[test]
fn the_like_by_hand_on_a_network() {
    let daemon = Daemon::start();
    daemon.ok(&["network", "create", "front"]);
    let look = "echo by-hand $$; hostname; cat /etc/hostname; id -u; pwd; echo $A
        ip -o -4 address show eth0 | wc -l; ip route | grep -c default; ls /proc | grep -c '^1$'
        touch /written; ls /written; ls /dev/null; grep CapBnd /proc/self/status; cat /proc/interrupts | wc -c; ulimit -n
        echo x 2>/dev/null >/proc/sys/kernel/panic || echo no; exit 7";
    daemon.ok(&[
        "create",
        "--name",
        "one",
        "--net",
        "front",
        "-p",
        "8081:80",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "50",
        "-h",
        "it",
        "-w",
        "/usr",
        "-e",
        "A=it's \"so\"",
        "--cap-drop",
        "KILL",
        "--ulimit",
        "nofile=100:200",
        "busybox",
        "sh",
        "-c",
        look,
    ]);
    let run = daemon.hull(&["start", "-a", "one"]);
    let (path, text) = script(&daemon, "one");
    let (output, status) = by_hand(&daemon, &path);
    assert_eq!((output.as_str(), status), (run.stdout.as_str(), run.status), "{text}");
    assert!(output.starts_with("by-hand 1\nit\nit\n0\n/usr\nit's \"so\"\n1\n1\n"), "{output}");
    assert_eq!(status, 7);
    assert!(!daemon.ok(&["diff", "one"]).is_empty(), "its own layer was written by itself");
}

#[test]
fn limits_and_published_ports_hold_by_hand() {
    let daemon = Daemon::start();
    let serve = "echo hello >/index.html; httpd -p 80 -h /; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null
        cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; read line; echo $line";
    daemon.ok(&[
        "run",
        "-d",
        "-i",
        "--name",
        "web",
        "-p",
        "8082:80",
        "-m",
        "64m",
        "--pids-limit",
        "50",
        "busybox",
        "sh",
        "-c",
        serve,
    ]);
    let (path, text) = script(&daemon, "web");
    daemon.ok(&["rm", "-f", "web"]);
    assert!(text.contains("elements = { tcp . 8082 : $address . 80 }"), "{text}");
    let address = "$(ip -o -4 address show | sed -n 's/.* \\(198[0-9.]*\\).*/\\1/p')";
    let session = format!(
        "trap '' PIPE; mkfifo $TMPDIR/in; bash {} <$TMPDIR/in >$TMPDIR/out 2>&1 & exec 3>$TMPDIR/in
         for try in $(seq 200); do grep -q 50 $TMPDIR/out && break; sleep 0.05; done
         curl -sf --max-time 5 http://{address}:8082/; echo over >&3; wait; cat $TMPDIR/out; rm $TMPDIR/in $TMPDIR/out",
        path.display()
    );
    let output = bash(&daemon).args(["-c", &session]).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n67108864\n50\nover\n", "{output:?}");
}

#[test]
fn the_like_by_hand_without_a_network() {
    let daemon = Daemon::start();
    for (name, network, interfaces) in [("none", "none", "lo"), ("host", "host", "")] {
        let look = "echo by-hand $$; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '";
        daemon.ok(&[
            "create",
            "--name",
            name,
            "--net",
            network,
            "--read-only",
            "--user",
            "33:34",
            "busybox",
            "sh",
            "-c",
            look,
        ]);
        let run = daemon.hull(&["start", "-a", name]);
        let (path, _) = script(&daemon, name);
        let (output, status) = by_hand(&daemon, &path);
        assert_eq!((output.as_str(), status), (run.stdout.as_str(), 0));
        assert!(output.starts_with(&format!("by-hand 1\n{interfaces}")), "{output}");
    }
    daemon.ok(&["run", "-d", "--name", "holder", "busybox", "sleep", "600"]);
    daemon.ok(&["create", "--name", "friend", "--net", "container:holder", "busybox", "hostname"]);
    let (path, _) = script(&daemon, "friend");
    assert_eq!(by_hand(&daemon, &path).0, format!("{}\n", daemon.ok(&["exec", "holder", "hostname"]).trim()));
}

#[test]
fn a_command_is_what_it_is_however_it_is_written() {
    let daemon = Daemon::start();
    let evil = [
        "a b",
        "it's",
        "\"q\" $HOME `id` $(touch $TMPDIR/broken)",
        "two\nlines",
        "'; touch $TMPDIR/broken; '",
        "EOF\n}\ntouch $TMPDIR/broken",
        "\u{1b}]0;title\u{7}\u{9b}31m",
        "\\",
        "-x",
        "",
        "~",
        "*",
        "\u{202e}txt",
    ];
    let mut words = vec![
        "create",
        "--name",
        "evil",
        "--net",
        "none",
        "-e",
        "B=';touch $TMPDIR/broken;'",
        "-l",
        "x=\u{1b}[2J\nid",
        "busybox",
        "printf",
        "<%s>\\n",
    ];
    words.extend(evil);
    daemon.ok(&words);
    let (path, text) = script(&daemon, "evil");
    assert!(!text.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']), "{text:?}");
    let (output, status) = by_hand(&daemon, &path);
    let expected: String = evil.iter().map(|word| format!("<{word}>\n")).collect();
    assert_eq!((output, status), (expected, 0));
    assert!(!daemon.dir().join("tmp/broken").exists());
    assert!(!daemon.ok(&["explain", "evil"]).contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']));
}

#[test]
fn an_image_s_links_lead_nowhere() {
    let daemon = Daemon::start();
    let out = daemon.dir().join("outside");
    std::fs::create_dir(&out).expect("a folder");
    let link = format!("ln -s {} /data", out.display());
    daemon.ok(&["run", "--name", "maker", "--net", "none", "busybox", "sh", "-c", &link]);
    daemon.ok(&["commit", "maker", "linked"]);
    daemon.ok(&["create", "--name", "linked", "--net", "none", "--tmpfs", "/data/deep", "linked", "true"]);
    let (path, _) = script(&daemon, "linked");
    let output = bash(&daemon).arg(&path).output().expect("bash");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("a link in the image leads out of it: /data/deep"), "{told}");
    assert_eq!(std::fs::read_dir(&out).expect("the folder").count(), 0);
}

#[test]
fn a_profile_of_one_s_own_and_the_socket_of_a_label() {
    let daemon = Daemon::start();
    let profile = daemon.dir().join("profile.json");
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&profile, rules).expect("the profile");
    let option = format!("seccomp={}", profile.display());
    daemon.ok(&["create", "--name", "own", "--security-opt", &option, "busybox", "true"]);
    let own = json(&daemon, "own");
    assert_eq!(
        (&own["seccomp"]["profile"], &own["seccomp"]["otherwise"]),
        (&"own".into(), &"are let through".into())
    );
    daemon.ok(&["run", "-d", "--name", "seen", "-l", "a=b", "busybox", "sleep", "600"]);
    daemon.ok(&["run", "-d", "--name", "hidden", "--net", "container:seen", "busybox", "sleep", "600"]);
    let socket = daemon.dir().join("label.sock");
    let path = socket.to_str().expect("UTF-8");
    daemon.ok(&["system", "socket", "add", path, "read-only", "label=a=b"]);
    let confined = |name: &str| {
        let mut client = daemon.client(&["explain", name, "--json"]);
        client.env("HULL_HOST", format!("unix://{path}")).output().expect("the client")
    };
    let seen: Value = serde_json::from_slice(&confined("seen").stdout).expect("JSON");
    assert_eq!(seen["namespaces"]["net"]["containers"], serde_json::json!([]));
    assert_eq!(json(&daemon, "seen")["namespaces"]["net"]["containers"], serde_json::json!(["hidden"]));
    assert!(!confined("hidden").status.success());
}
