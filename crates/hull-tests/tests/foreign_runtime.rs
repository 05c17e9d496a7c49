//! Containers by other runtimes: `hull-oci` stands for one; runc and crun are two where they are installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hull_tests::{Daemon, Engine, HullOci, PATIENCE, private_files, wait_until, which};
use serde_json::{Value, json};

/// A daemon that knows other runtimes.
struct Foreign {
    daemon: Daemon,
    own: HullOci,
    /// Those that work.
    names: Vec<&'static str>,
}

/// A runtime that does as `hull-oci` does, but for what the shell's `case` says of a word of its command line.
fn script(folder: &Path, name: &str, cases: &str) -> PathBuf {
    let path = folder.join(name);
    let own = folder.join("hull-oci");
    let text = format!(
        "#!/bin/sh\nfor word in \"$@\"; do case $word in {cases} esac; done\nexec {} \"$@\"\n",
        own.display()
    );
    fs::write(&path, text).expect("a script");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("its mode");
    path
}

impl Foreign {
    /// None where it is not hull that is tested.
    fn new(scripts: &[(&str, &str)], more: &[&str]) -> Option<Foreign> {
        if Engine::under_test() == Engine::Docker {
            return None;
        }
        let own = HullOci::new();
        let mut options = vec![format!("--add-runtime=own={}", own.dir().join("hull-oci").display())];
        let mut names = vec!["own"];
        match which("runc") {
            Some(runc) => {
                options.push(format!("--add-runtime=runc={}", runc.display()));
                names.push("runc");
            }
            None => eprintln!("not tested: runc is not installed"),
        }
        match which("crun") {
            // It refuses a machine with both versions of control groups.
            Some(crun) if !Path::new("/sys/fs/cgroup/unified").exists() => {
                options.push(format!("--add-runtime=crun={}", crun.display()));
                names.push("crun");
            }
            _ => eprintln!(
                "not tested: crun is not installed, or does not work with this machine's control groups"
            ),
        }
        for (name, cases) in scripts {
            options.push(format!("--add-runtime={name}={}", script(own.dir(), name, cases).display()));
        }
        let options: Vec<&str> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Some(Foreign { daemon: Daemon::with(&options), own, names })
    }

    fn ok(&self, args: &[&str]) -> String {
        self.daemon.ok(args)
    }

    /// `run --rm --runtime NAME` with these words.
    fn run(&self, name: &str, words: &[&str]) -> hull_tests::Output {
        self.daemon.hull(&[&["run", "--rm", "--runtime", name], words].concat())
    }

    fn prints(&self, name: &str, words: &[&str]) -> String {
        let output = self.run(name, words);
        assert!(output.status == 0, "{name}: {words:?}: {output:?}");
        output.stdout.trim_end_matches('\n').to_owned()
    }
}

/// Waits until every count is where it was.
#[track_caller]
fn assert_back(daemon: &Daemon, before: &hull_tests::Census) {
    let began = Instant::now();
    wait_until("the counts are back, or a while has passed", PATIENCE, || {
        daemon.census() == *before || began.elapsed() > Duration::from_secs(15)
    });
    let now = daemon.census();
    assert!(now == *before, "something is left.\nbefore: {before}\nafter:  {now}");
}

#[test]
fn a_command_runs_and_its_status_and_words_come_back() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    for name in &foreign.names {
        let said = foreign.run(name, &["busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(
            (said.stdout.as_str(), said.stderr.as_str(), said.status),
            ("out\n", "err\n", 7),
            "{name}"
        );
        let missing = foreign.run(name, &["busybox", "no-such-program"]);
        let words = "OCI runtime create failed: ";
        assert!(
            missing.status == 127
                && missing.stderr.contains(words)
                && missing.stderr.contains("no-such-program")
                && missing.stderr.contains("not found in $PATH"),
            "{name}: {missing:?}"
        );
        let denied = foreign.run(name, &["busybox", "/etc/passwd"]);
        assert!(denied.status == 126 && denied.stderr.contains("permission denied"), "{name}: {denied:?}");
        let nobody = foreign.run(name, &["-u", "nobody-here", "busybox", "true"]);
        assert!(
            nobody.status == 125 && nobody.stderr.contains("unable to find user nobody-here"),
            "{nobody:?}"
        );
        // What a container that is stopped shows of it.
        let id = foreign.ok(&["create", "--runtime", name, "busybox", "no-such-program"]);
        assert_eq!(foreign.daemon.hull(&["start", &id]).status, 1);
        assert_eq!(
            foreign.ok(&["inspect", "-f", "{{.State.ExitCode}} {{.HostConfig.Runtime}}", &id]),
            format!("127 {name}")
        );
        foreign.ok(&["rm", &id]);
    }
}

#[test]
fn the_process_is_as_it_was_asked_for() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    for name in &foreign.names {
        assert_eq!(
            foreign.prints(
                name,
                &["-u", "33:44", "--group-add", "77", "busybox", "sh", "-c", "id -u; id -g; id -G"]
            ),
            "33\n44\n44 77",
            "{name}"
        );
        assert_eq!(
            foreign.prints(
                name,
                &[
                    "--hostname",
                    "named",
                    "--domainname",
                    "example.org",
                    "busybox",
                    "sh",
                    "-c",
                    "hostname; cat /proc/sys/kernel/domainname"
                ]
            ),
            "named\nexample.org",
            "{name}"
        );
        // The same filter, capabilities and ignored signals as with hull's own.
        let status = "grep -E '^(Cap|Seccomp:|SigIgn|SigBlk|NoNewPrivs)' /proc/self/status; cat /proc/self/oom_score_adj";
        let own = foreign.prints("hull", &["busybox", "sh", "-c", status]);
        assert_eq!(foreign.prints(name, &["busybox", "sh", "-c", status]), own, "{name}");
        let denied = "unshare -U true 2>/dev/null || echo denied";
        assert_eq!(foreign.prints(name, &["busybox", "sh", "-c", denied]), "denied", "{name}");
        let may = "mount -t tmpfs t /tmp && echo may";
        assert_eq!(foreign.prints(name, &["--privileged", "busybox", "sh", "-c", may]), "may", "{name}");
        // Nothing that the daemon was told by its own service manager.
        let environment = foreign.prints(name, &["-e", "A=b", "busybox", "env"]);
        assert!(
            environment.contains("A=b") && !environment.contains("NOTIFY_SOCKET"),
            "{name}: {environment}"
        );
        let open = foreign.prints(name, &["busybox", "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"]);
        assert_eq!(open, "0 1 2 3 ", "{name}: what is open besides the streams and the folder itself");
    }
}

#[test]
fn a_terminal_is_the_runtime_s_and_follows_the_client_s() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    for name in &foreign.names {
        let fits = |status: u32| {
            format!(
                "tty; until [ \"$(stty size)\" = '33 111' ]; do sleep 0.05; done; echo fits; read x; exit {status}"
            )
        };
        let mut pty =
            foreign.daemon.pty(&["run", "--rm", "-it", "--runtime", name, "busybox", "sh", "-c", &fits(3)]);
        pty.shows("/dev/pts/0");
        pty.resize(33, 111);
        pty.shows("fits");
        pty.types("\r");
        assert_eq!(pty.ends().1, 3, "{name}");

        foreign.ok(&["run", "-d", "--runtime", name, "--name", "tt", "busybox", "sleep", "600"]);
        let mut pty = foreign.daemon.pty(&["exec", "-it", "tt", "sh", "-c", &fits(4)]);
        pty.shows("/dev/pts/");
        pty.resize(33, 111);
        pty.shows("fits");
        pty.types("\r");
        assert_eq!(pty.ends().1, 4, "{name}");
        foreign.ok(&["rm", "-f", "tt"]);
    }
}

#[test]
fn a_container_lives_with_everything() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    for name in &foreign.names {
        let shell = "echo started; trap 'echo term; exit 3' TERM; while :; do sleep 0.1; done";
        let run =
            ["run", "-d", "--runtime", name, "--name", "cc", "--memory", "64m", "busybox", "sh", "-c", shell];
        foreign.ok(&run);
        wait_until("it has said so", PATIENCE, || foreign.ok(&["logs", "cc"]) == "started");

        assert_eq!(foreign.daemon.hull(&["exec", "cc", "sh", "-c", "exit 9"]).status, 9, "{name}");
        assert_eq!(
            foreign.ok(&[
                "exec",
                "-u",
                "33:44",
                "-w",
                "/tmp",
                "-e",
                "A=b",
                "cc",
                "sh",
                "-c",
                "id -u; pwd; echo $A"
            ]),
            "33\n/tmp\nb"
        );
        let missing = foreign.daemon.hull(&["exec", "cc", "no-such-program"]);
        assert!(missing.status == 127, "{name}: {missing:?}");
        let said = format!("{}{}", missing.stdout, missing.stderr);
        assert!(said.contains("OCI runtime exec failed: ") && said.contains("not found in $PATH"), "{said}");
        assert_eq!(foreign.daemon.hull(&["exec", "cc", "/etc/passwd"]).status, 126, "{name}");
        let late =
            foreign.daemon.hull(&["exec", "--timeout", "300ms", "cc", "sh", "-c", "sleep 600 & sleep 601"]);
        assert_ne!(late.status, 0, "{name}: {late:?}");
        wait_until("what the exec had started is killed too", PATIENCE, || {
            !foreign.ok(&["top", "cc"]).contains("sleep 60")
        });

        let stats = foreign.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "cc"]);
        assert!(stats.contains("/ 64MiB"), "{name}: {stats}");
        foreign.ok(&["update", "--memory", "128m", "--memory-swap", "128m", "cc"]);
        let limit =
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true";
        assert_eq!(foreign.ok(&["exec", "cc", "sh", "-c", limit]), (128 << 20).to_string(), "{name}");
        assert!(foreign.ok(&["top", "cc"]).contains("sh -c echo started"), "{name}");

        foreign.ok(&["pause", "cc"]);
        assert_eq!(foreign.ok(&["inspect", "-f", "{{.State.Status}}", "cc"]), "paused");
        foreign.ok(&["unpause", "cc"]);
        foreign.ok(&["restart", "-t", "60", "cc"]);
        wait_until("it has ended and begun again", PATIENCE, || {
            foreign.ok(&["logs", "cc"]) == "started\nterm\nstarted"
        });
        foreign.ok(&["stop", "-t", "60", "cc"]);
        assert_eq!(foreign.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "cc"]), "exited 3");
        foreign.ok(&["start", "cc"]);
        foreign.ok(&["kill", "cc"]);
        assert_eq!(foreign.ok(&["wait", "cc"]), "137", "{name}");
        foreign.ok(&["start", "cc"]);
        foreign.ok(&["rm", "-f", "cc"]);
    }
}

#[test]
fn an_init_stands_in_front() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    for name in &foreign.names {
        let orphan = "cat /proc/1/comm; orphan=$(sh -c 'sleep 0.1 >/dev/null & echo $!'); \
                      while [ -d /proc/$orphan ]; do sleep 0.05; done; echo reaped; exit 7";
        let words = ["--init", "--timeout", "120s", "-u", "33", "busybox", "sh", "-c", orphan];
        let output = foreign.run(name, &words);
        assert_eq!(
            (output.stdout.as_str(), output.status),
            ("docker-init\nreaped\n", 7),
            "{name}: {output:?}"
        );
        let write = "echo > /sbin/docker-init; echo > /proc/1/exe; true";
        let output = foreign.run(name, &["--init", "busybox", "sh", "-c", write]);
        assert_eq!(output.stderr.matches("can't create").count(), 2, "{name}: {output:?}");
        let missing = foreign.run(name, &["--init", "busybox", "no-such-program"]);
        assert!(missing.status == 127 && missing.stderr.contains("execute no-such-program"), "{missing:?}");
        let shell = "echo ready; trap 'exit 9' TERM; while :; do sleep 0.1; done";
        foreign.ok(&["run", "-d", "--init", "--runtime", name, "--name", "ii", "busybox", "sh", "-c", shell]);
        wait_until("it is ready", PATIENCE, || foreign.ok(&["logs", "ii"]) == "ready");
        foreign.ok(&["stop", "-t", "60", "ii"]);
        assert_eq!(foreign.ok(&["inspect", "-f", "{{.State.ExitCode}} {{.Path}}", "ii"]), "9 sh", "{name}");
        foreign.ok(&["rm", "ii"]);
    }
}

#[test]
fn what_an_ended_run_clears_up_is_not_in_the_next_one_s_way() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    for name in &foreign.names {
        foreign.ok(&["run", "-d", "--runtime", name, "--name", "rr", "busybox", "sleep", "600"]);
        for _ in 0..15 {
            foreign.ok(&["restart", "-t", "0", "rr"]);
            assert_eq!(foreign.ok(&["exec", "rr", "echo", "there"]), "there", "{name}");
        }
        foreign.ok(&["rm", "-f", "rr"]);
    }
}

#[test]
fn memory_is_limited_and_a_kill_is_told() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    for name in &foreign.names {
        let run = [
            "run",
            "--runtime",
            name,
            "--name",
            "oo",
            "--memory",
            "16m",
            "--memory-swap",
            "16m",
            "busybox",
            "tail",
            "/dev/zero",
        ];
        assert_eq!(foreign.daemon.hull(&run).status, 137, "{name}");
        let state = foreign.ok(&[
            "inspect",
            "-f",
            "{{.State.OOMKilled}} {{.State.End.Reason}} {{.State.End.MemoryLimit}}",
            "oo",
        ]);
        assert_eq!(state, "true oom own", "{name}");
        foreign.ok(&["rm", "oo"]);
    }
}

#[test]
fn it_has_its_network_and_what_is_mounted() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    let work = foreign.daemon.dir().join("work");
    fs::write(work.join("file"), "of the host\n").expect("a file");
    let folder = work.display().to_string();
    for name in &foreign.names {
        let serve = "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
        let run = [
            "run",
            "-d",
            "--runtime",
            name,
            "--name",
            "web",
            "-p",
            "127.0.0.1:4080:80",
            "busybox",
            "sh",
            "-c",
            serve,
        ];
        foreign.ok(&run);
        let get = || foreign.daemon.command("curl").args(["-s", "http://127.0.0.1:4080/index.html"]).output();
        wait_until("it serves", PATIENCE, || get().is_ok_and(|output| output.stdout == b"served\n"));
        assert_eq!(
            foreign.prints(
                name,
                &["--network", "container:web", "busybox", "wget", "-qO-", "http://127.0.0.1/index.html"]
            ),
            "served",
            "{name}"
        );
        foreign.ok(&["rm", "-f", "web"]);
        assert_eq!(
            foreign.prints(name, &["--network", "none", "busybox", "ls", "/sys/class/net"]),
            "lo",
            "{name}"
        );

        let bind = format!("{folder}:/b:ro");
        assert_eq!(
            foreign.prints(name, &["-v", &bind, "--tmpfs", "/t", "--read-only", "busybox", "sh", "-c", "cat /b/file; touch /b/x 2>/dev/null || echo ro; touch /x 2>/dev/null || echo ro; stat -f -c %T /t"]),
            "of the host\nro\nro\ntmpfs",
            "{name}"
        );
        foreign.ok(&["volume", "create", "vol"]);
        foreign.prints(
            name,
            &["-v", "vol:/v", "busybox", "sh", "-c", "mkdir -p /v/part && echo inside > /v/part/file"],
        );
        let part = "type=volume,src=vol,dst=/p,volume-subpath=part";
        assert_eq!(foreign.prints(name, &["--mount", part, "busybox", "cat", "/p/file"]), "inside", "{name}");
        foreign.ok(&["volume", "rm", "vol"]);
        let shared = format!("{folder}:/s:rshared");
        let refused = foreign.run(name, &["-v", &shared, "busybox", "true"]);
        assert!(refused.status != 0 && refused.stderr.contains("mount /s as shared"), "{name}: {refused:?}");
    }
}

#[test]
fn nothing_is_left() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    for name in &foreign.names {
        let life = || {
            foreign.prints(name, &["-v", "/anonymous", "-p", "127.0.0.1:4000:80", "busybox", "true"]);
            assert_eq!(foreign.run(name, &["busybox", "no-such-program"]).status, 127);
            foreign.ok(&["run", "-d", "--rm", "--runtime", name, "--name", "ll", "busybox", "sleep", "600"]);
            foreign.ok(&["exec", "ll", "true"]);
            assert_eq!(foreign.daemon.hull(&["exec", "ll", "no-such-program"]).status, 127);
            foreign.ok(&["rm", "-f", "ll"]);
        };
        life();
        wait_until("the first are gone", PATIENCE, || foreign.ok(&["ps", "-aq"]).is_empty());
        // The kernel takes its time with what ran before.
        let mut before = foreign.daemon.census();
        let mut unmoved = 0;
        wait_until("the counts stay as they are", PATIENCE, || {
            let now = foreign.daemon.census();
            unmoved = if now == before { unmoved + 1 } else { 0 };
            before = now;
            unmoved == 50
        });
        (0..5).for_each(|_| life());
        assert_back(&foreign.daemon, &before);
    }
}

#[test]
fn it_runs_on_and_ends_while_the_daemon_is_away() {
    let Some(mut foreign) = Foreign::new(&[], &[]) else { return };
    for name in foreign.names.clone() {
        let gate = foreign.daemon.dir().join("work").join(format!("gate-{name}"));
        let bind = format!("{}:/work", foreign.daemon.dir().join("work").display());
        let shell =
            format!("echo one; until [ -e /work/gate-{name} ]; do sleep 0.05; done; echo two; exit 6");
        foreign.ok(&[
            "run",
            "-d",
            "--runtime",
            name,
            "--name",
            "ends",
            "-v",
            &bind,
            "busybox",
            "sh",
            "-c",
            &shell,
        ]);
        foreign.ok(&["run", "-d", "--runtime", name, "--name", "stays", "busybox", "sleep", "600"]);
        let pid: i32 = foreign.ok(&["inspect", "-f", "{{.State.Pid}}", "ends"]).parse().expect("its process");
        foreign.daemon.kill();
        fs::write(&gate, "").expect("the gate opens");
        wait_until("it has ended", PATIENCE, || !Path::new(&format!("/proc/{pid}/root/bin")).exists());
        foreign.daemon.begin();
        wait_until("its end is known", PATIENCE, || {
            foreign.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "ends"]) == "exited 6"
        });
        assert_eq!(foreign.ok(&["logs", "ends"]), "one\ntwo", "{name}");
        assert_eq!(foreign.ok(&["exec", "stays", "echo", "alive"]), "alive", "{name}");
        foreign.ok(&["rm", "-f", "ends", "stays"]);
    }
}

#[test]
fn a_shim_that_is_killed_takes_its_container_along() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    for name in &foreign.names {
        // The first makes what stays: the cgroup that all are in.
        foreign.prints(name, &["busybox", "true"]);
        wait_until("the first is gone", PATIENCE, || foreign.ok(&["ps", "-aq"]).is_empty());
        let before = foreign.daemon.census();
        let id = foreign.ok(&["run", "-d", "--runtime", name, "--name", "kk", "busybox", "sleep", "600"]);
        let pid = foreign.ok(&["inspect", "-f", "{{.State.Pid}}", "kk"]);
        let shim = format!("hull shim {}", &id[..12]);
        let killed = foreign.daemon.command("pkill").args(["-KILL", "-f", &shim]).status();
        assert!(killed.is_ok_and(|status| status.success()), "the shim is found by its name");
        wait_until("its end is told", PATIENCE, || {
            foreign.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "kk"]) == "exited 137"
        });
        assert!(!Path::new(&format!("/proc/{pid}/root/bin")).exists(), "{name}: it runs on");
        wait_until("its cgroups are gone, those that the runtime made too", PATIENCE, || {
            foreign.daemon.census().cgroups == before.cgroups
        });
        foreign.ok(&["start", "kk"]);
        assert_eq!(foreign.ok(&["exec", "kk", "echo", "again"]), "again", "{name}");
        foreign.ok(&["rm", "-f", "kk"]);
    }
}

#[test]
fn a_runtime_that_is_none_is_told() {
    let nonsense =
        [("nonsense", "*) echo what is this >&2; echo nonsense; exit 3;;"), ("silent", "*) exit 4;;")];
    let more = [
        "--add-runtime=missing=/no/such/runtime",
        "--add-runtime=text=/etc/passwd",
        "--add-runtime=true=true",
    ];
    let Some(foreign) = Foreign::new(&nonsense, &more) else { return };
    for (name, words) in [
        ("missing", "execute the runtime missing (/no/such/runtime): no such file or directory"),
        ("text", "execute the runtime text (/etc/passwd): permission denied"),
        ("nonsense", "OCI runtime create failed: what is this"),
        ("silent", "create of the runtime silent: it ended with status 4 and said nothing"),
        ("true", "find the process that the runtime has made: no such file or directory"),
    ] {
        let output = foreign.run(name, &["busybox", "true"]);
        assert!(output.status >= 125 && output.stderr.contains(words), "{name}: {output:?}");
    }
    wait_until("nothing is left of them", PATIENCE, || foreign.ok(&["ps", "-aq"]).is_empty());
}

#[test]
fn a_runtime_that_hangs_keeps_nobody_from_ending_its_container() {
    let hang = |verb: &str| format!("{verb}) sleep 1234567;;");
    let (create, exec, delete) = (hang("create"), hang("exec"), hang("delete"));
    let scripts = [("creates", create.as_str()), ("executes", &exec), ("deletes", &delete)];
    let Some(foreign) = Foreign::new(&scripts, &[]) else { return };

    let begin = |args: &[&str]| foreign.daemon.client(args).spawn().expect("the client is executed");
    let mut client = begin(&["run", "--runtime", "creates", "--name", "hh", "busybox", "true"]);
    wait_until("it is there", PATIENCE, || foreign.daemon.hull(&["inspect", "hh"]).status == 0);
    foreign.ok(&["rm", "-f", "hh"]);
    assert!(!client.wait().expect("its end").success());

    foreign.ok(&[
        "run",
        "-d",
        "--runtime",
        "executes",
        "--name",
        "ee",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 5' TERM; while :; do sleep 0.1; done",
    ]);
    let mut client = begin(&["exec", "ee", "true"]);
    let hangs = || {
        let found = foreign.daemon.command("pgrep").args(["-f", "sleep 1234567"]).output();
        found.is_ok_and(|found| !found.stdout.is_empty())
    };
    wait_until("the runtime hangs", PATIENCE, hangs);
    let began = Instant::now();
    foreign.ok(&["stop", "ee"]);
    assert_eq!(foreign.ok(&["inspect", "-f", "{{.State.ExitCode}}", "ee"]), "5");
    assert!(began.elapsed() < Duration::from_secs(9), "the stop waited for the runtime");
    assert!(!client.wait().expect("its end").success());
    foreign.ok(&["rm", "-f", "ee"]);

    foreign.ok(&["run", "-d", "--runtime", "deletes", "--name", "dd", "busybox", "sleep", "600"]);
    foreign.ok(&["rm", "-f", "dd"]);
    wait_until("nothing of the runtime's runs on", PATIENCE, || !hangs());
    assert_eq!(foreign.ok(&["ps", "-aq"]), "");
}

#[test]
fn signals_are_passed_on_by_the_runtime_or_where_it_hangs_by_the_kernel() {
    let scripts = [
        ("tells", "kill) echo \"$@\" >> \"$0.words\";;"),
        ("hangs", "kill) sleep 1234568;;"),
        ("fails", "kill) exit 1;;"),
    ];
    let Some(foreign) = Foreign::new(&scripts, &[]) else { return };
    for name in ["tells", "hangs", "fails"] {
        let shell = "trap 'echo usr' USR1; trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let id = foreign.ok(&["run", "-d", "--runtime", name, "--name", "ss", "busybox", "sh", "-c", shell]);
        wait_until("it is ready", PATIENCE, || foreign.ok(&["logs", "ss"]) == "ready");
        foreign.ok(&["kill", "-s", "USR1", "ss"]);
        wait_until("it was heard", PATIENCE, || foreign.ok(&["logs", "ss"]) == "ready\nusr");
        // One that is killed waits for no runtime.
        foreign.ok(&["stop", "-t", "60", "ss"]);
        assert_eq!(foreign.ok(&["inspect", "-f", "{{.State.ExitCode}}", "ss"]), "5", "{name}");
        foreign.ok(&["rm", "ss"]);
        if name == "tells" {
            let words = fs::read_to_string(foreign.own.dir().join("tells.words")).expect("its words");
            let lines: Vec<&str> =
                words.lines().map(|line| &line[line.find("kill ").unwrap_or(0)..]).collect();
            assert_eq!(lines, [format!("kill {id} 10"), format!("kill {id} 15")]);
        }
    }
}

#[test]
fn a_default_is_what_a_container_gets_that_names_none() {
    let own = HullOci::new();
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let path = own.dir().join("hull-oci").display().to_string();
    let file = own.dir().join("daemon.json");
    let runtimes = json!({ "runtimes": { "own": { "path": path }, "words": { "path": path, "runtimeArgs": ["--debug"] } }, "default-runtime": "own" });
    fs::write(&file, runtimes.to_string()).expect("the daemon's file");
    let daemon = Daemon::with(&["--config", &file.display().to_string()]);
    let id = daemon.ok(&["create", "busybox", "true"]);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.HostConfig.Runtime}}", &id]), "own");
    assert_eq!(daemon.ok(&["run", "--rm", "--runtime", "hull", "busybox", "echo", "hulls"]), "hulls");
    assert_eq!(daemon.ok(&["run", "--rm", "--runtime", "words", "busybox", "echo", "words"]), "words");
    // Docker's names are hull's own until they are registered.
    assert_eq!(daemon.ok(&["run", "--rm", "--runtime", "runc", "busybox", "echo", "runc"]), "runc");
    let info: Value = daemon.api().get("/info").expect("info").json();
    assert_eq!(info["DefaultRuntime"], "own");
    assert_eq!(info["Runtimes"]["words"], json!({ "path": path, "runtimeArgs": ["--debug"] }));
    assert!(info["Runtimes"]["hull"]["path"].is_string());

    let body = json!({ "Image": "busybox", "HostConfig": { "Runtime": "kata" } });
    let refused = daemon.api().post("/containers/create", &body).expect("an answer");
    assert_eq!((refused.status, refused.message().as_str()), (400, "unknown or invalid runtime name: kata"));
}

#[test]
fn a_socket_without_privileges_gives_no_other_runtime() {
    let folder = HullOci::new();
    let socket = folder.dir().join("sock");
    let Some(foreign) = Foreign::new(&[], &["--socket", &format!("{},no-privilege", socket.display())])
    else {
        return;
    };
    let create = |runtime: &str| {
        let body = json!({ "Image": "busybox", "HostConfig": { "Runtime": runtime } });
        hull_tests::Client::new(&socket).post("/containers/create", &body).expect("an answer")
    };
    for name in &foreign.names {
        let refused = create(name);
        let words = format!("HostConfig.Runtime {name}");
        assert!(refused.status == 403 && refused.message().contains(&words), "{}", refused.text());
    }
    for name in ["", "hull", "io.containerd.runc.v2"] {
        assert_eq!(create(name).status, 201, "{name:?}");
    }
}

#[test]
fn one_that_is_not_to_be_in_a_user_namespace_is_not() {
    let ranges = "hull:300000:65536\n";
    private_files(&[("/etc/subuid", ranges), ("/etc/subgid", ranges)]);
    let Some(foreign) = Foreign::new(&[], &["--userns-remap=default"]) else { return };
    for name in &foreign.names {
        let map = "cat /proc/self/uid_map | tr -s ' '";
        let own = foreign.prints(name, &["--userns", "host", "busybox", "sh", "-c", map]);
        assert_eq!(own.trim(), "0 0 4294967295", "{name}");
    }
}

#[test]
fn a_runtime_that_is_registered_no_more_starts_nothing() {
    let Some(foreign) = Foreign::new(&[], &[]) else { return };
    let id = foreign.ok(&["create", "--runtime", "own", "busybox", "true"]);
    let Foreign { mut daemon, own: _own, .. } = foreign;
    daemon.kill();
    daemon.set_options(&[]);
    daemon.begin();
    let output = daemon.hull(&["start", &id]);
    assert!(
        output.status == 1 && output.stderr.contains("unknown or invalid runtime name: own"),
        "{output:?}"
    );
    daemon.ok(&["rm", &id]);
}

#[test]
fn a_runtime_that_says_a_lot_is_not_held_up() {
    // More than any pipe takes.
    let much = "create|start|exec|kill|delete) head -c 3000000 /dev/zero | tr '\\0' x >&2;;";
    let fails = "create) head -c 2000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo the reason >&2; exit 1;;";
    let Some(foreign) = Foreign::new(&[("talks", much), ("fails", fails)], &[]) else { return };
    let began = Instant::now();
    let output = foreign.run("talks", &["busybox", "echo", "hi"]);
    assert!(output.status == 0 && output.stdout.ends_with("hi\n"), "{}", output.status);
    assert_eq!(output.stderr.len(), 3_000_000, "its words are where the process's are, all of them");
    let id = foreign.ok(&["run", "-d", "--runtime", "talks", "busybox", "sleep", "600"]);
    let output = foreign.daemon.hull(&["exec", &id, "sh", "-c", "echo hi; echo err >&2"]);
    let words = (output.status, output.stdout.as_str(), output.stderr.len());
    assert_eq!(words, (0, "hi\n", 3_000_004), "{}", output.status);
    assert!(output.stderr.ends_with("xerr\n"));
    foreign.ok(&["rm", "-f", &id]);
    for tty in [&["-t"][..], &[]] {
        let output = foreign.run("fails", &[tty, &["busybox", "true"]].concat());
        assert!(output.status >= 125 && output.stderr.contains("the reason"), "{}", output.status);
    }
    assert!(began.elapsed() < Duration::from_secs(50), "it was waited for until it was killed");
}
