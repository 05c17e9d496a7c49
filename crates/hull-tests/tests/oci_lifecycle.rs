//! The life of an OCI container: what each operation does, and what it refuses in which state.

use std::fs;
use std::process::Command;

use hull_tests::{Oci, PATIENCE, wait_until};
use serde_json::{Value, json};

#[test]
fn a_container_is_created_started_and_deleted() {
    let oci = Oci::new();
    let mut config = oci.shell("echo ran");
    config["annotations"] = json!({ "org.example.key": "value" });
    oci.create(&config);
    let state = oci.state("c");
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], "c");
    assert_eq!(state["ociVersion"].as_str().map(|version| version.split('.').next()), Some(Some("1")));
    assert_eq!(state["bundle"], json!(oci.bundle()));
    assert_eq!(state["annotations"]["org.example.key"], "value");
    let pid = state["pid"].as_i64().expect("a process id");
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(oci.said(0), "", "the command runs before it is started");

    oci.ok(&["start", "c"]);
    oci.comes_to("c", "stopped");
    assert_eq!(oci.said(0), "ran\n");
    assert_eq!(oci.state("c")["pid"], 0);
    oci.ok(&["delete", "c"]);
    oci.nothing_is_left("c");
}

#[test]
fn run_gives_the_exit_status_and_removes() {
    let oci = Oci::new();
    for (script, status) in [("true", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        // Process 1 of a namespace is spared by signals from inside.
        let mut config = oci.shell(script);
        if script.starts_with("kill") {
            config["process"]["args"] = json!(["sh", "-c", format!("sh -c '{script}'; exit $?")]);
        }
        assert_eq!(oci.run(&config).status, status, "{script}");
        oci.nothing_is_left("c");
    }
    let output = oci.run(&oci.shell("echo out; echo err >&2"));
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn run_can_keep_and_can_detach() {
    let oci = Oci::new();
    if oci.is_hull() {
        // runc has it since 1.1.6.
        oci.configure(&oci.config(&["true"]));
        oci.ok(&["run", "--keep", "c"]);
        assert_eq!(oci.status("c"), "stopped");
        oci.ok(&["delete", "c"]);
    }
    oci.run_detached(&oci.config(&["sleep", "600"]));
    assert_eq!(oci.status("c"), "running");
    oci.ok(&["kill", "c", "KILL"]);
    oci.comes_to("c", "stopped");
    oci.ok(&["delete", "c"]);
    oci.nothing_is_left("c");
}

#[test]
fn what_is_not_there_is_told() {
    let oci = Oci::new();
    oci.configure(&oci.config(&["true"]));
    for words in [
        &["state", "no"][..],
        &["start", "no"],
        &["kill", "no", "TERM"],
        &["kill", "--all", "no", "TERM"],
        &["delete", "no"],
        &["exec", "no", "true"],
        &["ps", "no"],
        &["pause", "no"],
        &["resume", "no"],
        &["update", "--memory", "64m", "no"],
        &["events", "--stats", "no"],
    ] {
        oci.fails(words, "does not exist");
    }
    oci.ok(&["delete", "--force", "no"]);
    assert_eq!(oci.ok(&["list", "--quiet"]), "");
}

#[test]
fn an_id_is_unique_and_plain() {
    let oci = Oci::new();
    oci.run_detached(&oci.config(&["sleep", "600"]));
    oci.fails(&["create", "c"], "already exists");
    oci.fails(&["run", "c"], "already exists");
    assert_eq!(oci.status("c"), "running", "the first one lives on");
    for id in [".", "..", "a/b", "a b", "../c", "ä", "a\nb"] {
        oci.fails(&["create", id], "invalid container id format");
    }
    assert_ne!(oci.call(&["create", ""]).status, 0);
    oci.ok(&["delete", "--force", "c"]);
    let long = "x_1+2-3.".repeat(4);
    oci.configure(&oci.config(&["true"]));
    oci.ok(&["run", &long]);
}

#[test]
fn a_missing_bundle_is_told() {
    let oci = Oci::new();
    oci.fails(&["create", "c"], "config.json");
    oci.fails(&["create", "--bundle", "/no/such/bundle", "c"], "no such file");
    oci.nothing_is_left("c");
    oci.configure(&oci.config(&["true"]));
    let bundle = oci.bundle();
    let mut command = oci.command(&["run", "--bundle", bundle.to_str().expect("a name"), "c"]);
    command.current_dir("/");
    assert_eq!(oci.finish(command).status, 0);
}

#[test]
fn an_invalid_configuration_is_refused_before_anything_is_made() {
    let oci = Oci::new();
    fs::write(oci.bundle().join("config.json"), "{ \"ociVersion\": ").expect("a broken file");
    oci.fails(&["create", "c"], "");
    type Change = fn(&mut Value);
    let mut changes: Vec<(&str, Change)> = vec![
        ("args", |config| config["process"]["args"] = json!([])),
        ("cwd", |config| config["process"]["cwd"] = json!("relative")),
        ("cwd", |config| config["process"]["cwd"] = json!("")),
        ("invalid rootfs", |config| config["root"]["path"] = json!("nowhere")),
        ("nonsense", |config| config["process"]["env"] = json!(["PATH=/bin", "NONSENSE"])),
        ("", |config| config["process"]["args"] = json!("a string")),
        ("", |config| config["linux"]["namespaces"] = json!([{ "type": "nonsense" }])),
        ("", |config| config["linux"]["namespaces"][1]["path"] = json!("/no/such/namespace")),
        ("private uts namespace", |config| {
            config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid" }])
        }),
    ];
    if oci.is_hull() {
        // runc runs whatever calls itself by whichever version, and crun what begins with 1.0.
        changes.push(("ociversion \"2.0.0\"", |config| config["ociVersion"] = json!("2.0.0")));
        changes.push(("no version", |config| config["ociVersion"] = json!("1.0")));
        changes.push(("no version", |config| config["ociVersion"] = json!("1.x.0")));
    }
    for (word, change) in changes {
        let mut config = oci.config(&["true"]);
        change(&mut config);
        oci.configure(&config);
        let output = oci.call(&["create", "c"]);
        assert!(output.status != 0, "{word} {config}");
        assert!(output.stderr.to_lowercase().contains(word), "{word}: {output:?}");
        oci.nothing_is_left("c");
    }
    let mut without = oci.config(&["true"]);
    without.as_object_mut().expect("an object").remove("process");
    oci.refuses(&without, "process");
}

#[test]
fn each_state_refuses_what_does_not_belong_to_it() {
    let oci = Oci::new();
    oci.create(&oci.config(&["sleep", "600"]));
    oci.fails(&["resume", "c"], "not paused");
    oci.ok(&["start", "c"]);
    oci.fails(&["start", "c"], "running");
    oci.fails(&["delete", "c"], "not stopped");
    oci.fails(&["resume", "c"], "not paused");
    oci.ok(&["pause", "c"]);
    assert_eq!(oci.status("c"), "paused");
    oci.fails(&["pause", "c"], "not running");
    oci.fails(&["exec", "c", "true"], "paused");
    oci.fails(&["delete", "c"], "not stopped");
    oci.fails(&["start", "c"], if oci.is_hull() || oci.is_runc() { "paused state" } else { "" });
    oci.ok(&["resume", "c"]);
    assert_eq!(oci.status("c"), "running");
    oci.ok(&["kill", "c", "9"]);
    oci.comes_to("c", "stopped");
    oci.fails(&["start", "c"], "stopped");
    oci.fails(&["kill", "c", "9"], "not running");
    oci.fails(&["exec", "c", "true"], "stopped");
    oci.fails(&["pause", "c"], "");
    oci.fails(&["resume", "c"], "not paused");
    oci.fails(&["events", "--stats", "c"], "not running");
    oci.fails(&["update", "--memory", "64m", "c"], "not running");
    oci.ok(&["delete", "c"]);
}

#[test]
fn a_created_container_can_be_killed_and_deleted() {
    let oci = Oci::new();
    oci.create(&oci.config(&["true"]));
    oci.ok(&["delete", "c"]);
    oci.nothing_is_left("c");
    oci.create(&oci.config(&["true"]));
    oci.ok(&["kill", "c", "KILL"]);
    oci.comes_to("c", "stopped");
    oci.fails(&["start", "c"], "stopped");
    oci.ok(&["delete", "c"]);
    oci.create(&oci.config(&["true"]));
    oci.ok(&["delete", "--force", "c"]);
    oci.nothing_is_left("c");
}

#[test]
fn delete_with_force_ends_whatever_runs() {
    let oci = Oci::new();
    oci.run_detached(&oci.shell("trap '' TERM; sleep 600 & sleep 600"));
    oci.ok(&["delete", "--force", "c"]);
    oci.nothing_is_left("c");
    oci.run_detached(&oci.config(&["sleep", "600"]));
    oci.ok(&["pause", "c"]);
    oci.ok(&["delete", "--force", "c"]);
    oci.nothing_is_left("c");
}

#[test]
fn signals_go_by_number_and_by_name() {
    let oci = Oci::new();
    let script = "for s in HUP INT TERM USR1 USR2; do trap \"echo got $s\" $s; done; echo ready; \
                  while true; do sleep 600 & wait $!; kill $!; done";
    let call = oci.next_call();
    oci.run_detached(&oci.shell(script));
    wait_until("the traps are set", PATIENCE, || oci.said(call).contains("ready"));
    for (word, name) in [("HUP", "HUP"), ("SIGINT", "INT"), ("10", "USR1"), ("usr2", "USR2"), ("15", "TERM")]
    {
        oci.ok(&["kill", "c", word]);
        let told = format!("got {name}");
        wait_until(&told, PATIENCE, || oci.said(call).contains(&told));
    }
    // Without a word it is TERM.
    oci.ok(&["kill", "c"]);
    wait_until("a second TERM", PATIENCE, || oci.said(call).matches("got TERM").count() == 2);
    oci.ok(&["kill", "c", "0"]);
    oci.fails(&["kill", "c", "NOSUCH"], "unknown signal");
    oci.ok(&["kill", "c", "KILL"]);
    oci.comes_to("c", "stopped");
}

#[test]
fn kill_all_reaches_every_process() {
    let oci = Oci::new();
    let mut config = oci.shell("sleep 601 & sleep 602 & echo ready; wait");
    config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts" }, { "type": "network" }]);
    let call = oci.next_call();
    oci.run_detached(&config);
    wait_until("it runs", PATIENCE, || oci.said(call).contains("ready"));
    let pids: Vec<i64> = serde_json::from_str(&oci.ok(&["ps", "--format", "json", "c"])).expect("a list");
    assert_eq!(pids.len(), 3);
    oci.ok(&["kill", "--all", "c", "KILL"]);
    oci.comes_to("c", "stopped");
    wait_until("all are dead", PATIENCE, || {
        pids.iter().all(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
        })
    });
    // With all there is nothing to refuse where nothing runs.
    oci.ok(&["kill", "--all", "c", "KILL"]);
    oci.ok(&["delete", "c"]);
    oci.nothing_is_left("c");
}

#[test]
fn what_outlives_the_first_process_dies_with_the_container() {
    let oci = Oci::new();
    let mut config = oci.shell("sleep 601 & exit 0");
    config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts" }, { "type": "network" }]);
    oci.run_detached(&config);
    oci.comes_to("c", "stopped");
    oci.ok(&["delete", "--force", "c"]);
    oci.nothing_is_left("c");
}

#[test]
fn a_command_that_cannot_be_executed_leaves_nothing() {
    let oci = Oci::new();
    oci.refuses(&oci.config(&["no-such-program"]), "executable file not found in $PATH");
    oci.refuses(&oci.config(&["/no/such/program"]), "no such file or directory");
    oci.refuses(&oci.config(&["/etc/passwd"]), "permission denied");
    oci.refuses(&oci.config(&["/etc"]), "");
    // Create tells it already, and engines rely on that.
    oci.configure(&oci.config(&["no-such-program"]));
    oci.fails(&["create", "c"], "executable file not found in $PATH");
    oci.nothing_is_left("c");
}

#[test]
fn the_process_id_is_written_to_a_file() {
    let oci = Oci::new();
    let file = oci.dir().join("pid");
    let name = file.to_str().expect("a name");
    oci.configure(&oci.config(&["sleep", "600"]));
    oci.ok(&["create", "--pid-file", name, "c"]);
    assert_eq!(fs::read_to_string(&file).expect("the file"), oci.state("c")["pid"].to_string());
    oci.ok(&["delete", "--force", "c"]);
    oci.ok(&["run", "--detach", "--pid-file", name, "c"]);
    let pid = oci.state("c")["pid"].to_string();
    assert_eq!(fs::read_to_string(&file).expect("the file"), pid);
    let other = oci.dir().join("exec-pid");
    oci.ok(&["exec", "--detach", "--pid-file", other.to_str().expect("a name"), "c", "sleep", "600"]);
    let pids: Vec<i64> = serde_json::from_str(&oci.ok(&["ps", "--format", "json", "c"])).expect("a list");
    let executed: i64 = fs::read_to_string(&other).expect("the file").parse().expect("a number");
    assert!(executed.to_string() != pid && pids.contains(&executed), "{executed} is not in {pids:?}");
    oci.ok(&["delete", "--force", "c"]);
    oci.fails(&["create", "--pid-file", "/no/such/folder/pid", "c"], "no such file or directory");
    oci.nothing_is_left("c");
}

#[test]
fn errors_are_in_the_log_in_its_format() {
    let oci = Oci::new();
    oci.configure(&oci.config(&["no-such-program"]));
    let log = oci.dir().join("log.json");
    let name = log.to_str().expect("a name");
    assert_ne!(oci.call(&["--log", name, "--log-format", "json", "create", "c"]).status, 0);
    let text = fs::read_to_string(&log).expect("the log");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("a line of JSON");
    assert_eq!(last["level"], "error");
    assert!(last["msg"].as_str().expect("a message").contains("executable file not found"), "{last}");
    assert!(last["time"].as_str().expect("a time").starts_with("20"), "{last}");
    let log = oci.dir().join("log.text");
    assert_ne!(oci.call(&["--log", log.to_str().expect("a name"), "state", "no"]).status, 0);
    let text = fs::read_to_string(&log).expect("the log");
    assert!(text.contains("level=error") && text.contains("does not exist"), "{text}");
    oci.fails(&["--log-format", "xml", "state", "no"], "");
}

#[test]
fn a_container_that_is_listed_has_its_columns() {
    let oci = Oci::new();
    assert!(oci.ok(&["list"]).starts_with("ID "));
    oci.run_detached(&oci.config(&["sleep", "600"]));
    let mut other = oci.config(&["true"]);
    other["linux"]["cgroupsPath"] = json!(format!("/{}/b", oci.cgroup_parent()));
    oci.configure(&other);
    oci.ok(&["create", "b"]);
    assert_eq!(oci.ok(&["list", "-q"]), "b\nc");
    let list: Value = serde_json::from_str(&oci.ok(&["list", "-f", "json"])).expect("JSON");
    assert_eq!((&list[0]["id"], &list[0]["status"]), (&json!("b"), &json!("created")));
    assert_eq!((&list[1]["id"], &list[1]["status"]), (&json!("c"), &json!("running")));
    let table = oci.ok(&["list"]);
    let words = |line: usize| -> Vec<String> {
        table.lines().nth(line).expect("a line").split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words(0), ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!((&words(2)[0], &words(2)[2], &words(2)[5]), (&"c".into(), &"running".into(), &"root".into()));
    assert!(list[0]["owner"] == "root" && list[1]["owner"] == "root", "{list}");
    assert_eq!(oci.state("c")["owner"], "", "a state leaves root's name out");
    oci.fails(&["list", "--format", "xml"], "invalid format");
}

#[test]
fn a_list_of_nothing_is_none() {
    let oci = Oci::new();
    assert_eq!(oci.ok(&["list", "--format", "json"]), "null");
    assert_eq!(oci.ok(&["list", "--quiet"]), "");
}

#[test]
fn commands_that_nobody_knows_have_a_status_of_their_own() {
    let oci = Oci::new();
    assert_eq!(oci.call(&["nonsense"]).status, 3);
    for words in [&["state"][..], &["state", "a", "b"], &["list", "--nonsense"], &["start"]] {
        assert_eq!(oci.call(words).status, 1, "{words:?}");
    }
    let without = oci.call(&[]);
    assert!(without.status == 0 && without.stdout.to_lowercase().contains("commands:"), "{without:?}");
}

#[test]
fn the_binary_stands_in_for_others_under_their_names() {
    let oci = Oci::new();
    if !oci.is_hull() {
        eprintln!("not tested: the others have one name");
        return;
    }
    for name in ["hull-oci", "runc", "crun"] {
        let link = oci.dir().join(name);
        std::os::unix::fs::symlink(oci.program(), &link).expect("a link");
        let mut command = Command::new(&link);
        command.arg("--root").arg(oci.root()).args(["state", "no"]);
        let output = oci.finish(command);
        assert!(
            output.status == 1 && output.stderr.contains("container does not exist"),
            "{name}: {output:?}"
        );
    }
}

#[test]
fn a_failure_says_at_which_command_it_was() {
    let oci = Oci::new();
    oci.configure(&oci.config(&["/no/such/program"]));
    oci.fails(&["create", "c"], "create failed: unable to start container process: exec: ");
    oci.fails(&["run", "c"], "run failed: unable to start container process: exec: ");
    oci.run_detached(&oci.config(&["sleep", "600"]));
    let exec = oci.call(&["exec", "c", "/no/such/program"]);
    assert_eq!(exec.status, 255);
    assert!(exec.stderr.contains("exec failed: unable to start container process: exec: "), "{exec:?}");
}

#[test]
fn ps_shows_the_processes_of_the_container_alone() {
    let oci = Oci::new();
    let call = oci.next_call();
    oci.run_detached(&oci.shell("sleep 604 & echo ready; wait"));
    wait_until("it runs", PATIENCE, || oci.said(call).contains("ready"));
    let table = oci.ok(&["ps", "c"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("sleep 604") && table.starts_with("UID"), "{table}");
    let own = oci.ok(&["ps", "c", "-o", "pid,args"]);
    assert!(own.lines().next().expect("a head").trim().starts_with("PID"), "{own}");
    assert_eq!(own.lines().count(), 3, "{own}");
    oci.fails(&["ps", "c", "-o", "args"], "PID");
    oci.fails(&["ps", "--format", "xml", "c"], "");
}

#[test]
fn without_pivot_the_root_is_still_the_container_s() {
    let oci = Oci::new();
    oci.configure(&oci.shell("ls / | tr '\\n' ' '; cat /proc/self/mountinfo | wc -l"));
    let output = oci.call(&["run", "--no-pivot", "c"]);
    assert!(output.stdout.starts_with("bin dev etc proc root sys tmp"), "{output:?}");
    oci.ok(&["run", "--no-new-keyring", "c"]);
}

#[test]
fn a_creation_that_was_killed_can_be_cleared_away() {
    let oci = Oci::new();
    let mut config = oci.config(&["true"]);
    // The hook says when it is in the midst of it.
    let script = format!("touch {}/begun; exec sleep 600", oci.bundle().display());
    config["hooks"] = json!({ "prestart": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
    oci.configure(&config);
    let mut creating = oci.begin(&["create", "c"]);
    wait_until("the hook runs", PATIENCE, || oci.bundle().join("begun").exists());
    if oci.is_hull() {
        oci.fails(&["delete", "--force", "c"], "being made");
    }
    creating.kill().and_then(|()| creating.wait()).expect("one's own child");
    oci.is_gone("c");
    if oci.is_hull() {
        // Its first process may still be on its way out.
        let cleared = || oci.call(&["delete", "--force", "c"]).status == 0;
        wait_until("what it left is cleared away", PATIENCE, cleared);
        oci.nothing_is_left("c");
    } else {
        // runc leaves the processes and the cgroup of such a one.
        oci.call(&["delete", "--force", "c"]);
    }
    oci.configure(&oci.config(&["echo", "again"]));
    if oci.is_hull() {
        assert_eq!(oci.ok(&["run", "c"]), "again");
    }
}

#[test]
fn what_cannot_be_read_is_told_beside_the_list() {
    let oci = Oci::new();
    oci.run_detached(&oci.config(&["sleep", "600"]));
    let damaged = oci.root().join("damaged");
    if oci.is_hull() {
        fs::write(&damaged, "{").expect("a file");
        // One that is being made just now, seen with as much as its maker has written.
        fs::write(oci.root().join("unfinished"), "0000002000 - -\n{}").expect("a file");
        let folder = oci.root().join("folder");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("state.json"), "{}").expect("a file");
    } else {
        fs::create_dir_all(&damaged).expect("a folder");
        fs::write(damaged.join("state.json"), "{").expect("a file");
    }
    let output = oci.call(&["list", "-q"]);
    assert_eq!((output.status, output.stdout.trim()), (0, "c"), "{output:?}");
    assert!(output.stderr.contains("damaged"), "{output:?}");
    if oci.is_hull() {
        assert!(!output.stderr.contains("unfinished"), "{output:?}");
        assert!(output.stderr.contains("/folder: it is a folder, as an earlier build"), "{output:?}");
        oci.ok(&["delete", "--force", "unfinished"]);
        oci.ok(&["delete", "--force", "c"]);
        oci.ok(&["run", "--detach", "unfinished"]);
        oci.ok(&["delete", "--force", "unfinished"]);
        // What it may have running is not for this build to lose sight of.
        for words in [&["state"][..], &["delete", "--force"], &["create"], &["kill"]] {
            oci.fails(&[words, &["folder"]].concat(), "it is a folder, as an earlier build");
        }
        assert!(oci.root().join("folder/state.json").exists());
    }
    fs::remove_file(&damaged).or_else(|_| fs::remove_dir_all(&damaged)).expect("it goes");
}

#[test]
fn without_a_file_the_log_in_json_is_on_standard_error() {
    let oci = Oci::new();
    let output = oci.call(&["--log-format", "json", "state", "no"]);
    assert_ne!(output.status, 0);
    let said: Value = serde_json::from_str(output.stderr.trim()).expect("one line of JSON");
    assert_eq!(said["level"], "error");
    assert!(said["msg"].as_str().is_some_and(|text| text.contains("does not exist")), "{said}");
}

#[test]
fn checkpoints_are_refused_by_name() {
    let oci = Oci::new();
    if !oci.is_hull() {
        return;
    }
    oci.run_detached(&oci.config(&["sleep", "600"]));
    oci.fails(&["checkpoint", "--image-path", "/tmp/x", "--leave-running", "c"], "criu");
    oci.fails(&["restore", "-d", "--image-path", "/tmp/x", "c"], "criu");
    assert_eq!(oci.status("c"), "running");
    assert!(oci.call(&["--criu", "/no/criu", "list"]).stderr.contains("--criu"));
}

#[test]
fn another_file_is_the_configuration() {
    let oci = Oci::new();
    if oci.is_runc() {
        return;
    }
    oci.configure(&oci.config(&["false"]));
    let other = oci.dir().join("other.json");
    fs::write(&other, oci.config(&["echo", "other"]).to_string()).expect("a file");
    assert_eq!(oci.ok(&["run", "--config", other.to_str().expect("a name"), "c"]), "other");
    oci.fails(&["run", "--config", "/no/such.json", "c"], "no such");
}

#[test]
fn a_container_without_a_cgroup_is_in_its_maker_s() {
    let oci = Oci::new();
    if oci.is_runc() {
        return;
    }
    let mut config = oci.shell("cat /proc/self/cgroup");
    config["linux"].as_object_mut().expect("an object").remove("resources");
    oci.configure(&config);
    let own = fs::read_to_string("/proc/self/cgroup").expect("a file");
    let printed = oci.ok(&["--cgroup-manager", "disabled", "run", "c"]);
    assert_eq!(printed.trim(), own.trim());
    oci.fails(&["--cgroup-manager", "nobody", "list"], "");
}

#[test]
fn a_run_whose_runtime_is_killed_before_the_start_leaves_no_process() {
    let oci = Oci::new();
    if !oci.is_hull() {
        return;
    }
    // The hook holds the creation up until the runtime is killed.
    let fifo = oci.dir().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let mut config = oci.shell("echo started >/started");
    let script = format!("echo up >{0}; cat {0}", fifo.display());
    config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
    oci.configure(&config);
    let mut runtime = oci.command(&["run", "c"]).spawn().expect("the runtime");
    assert_eq!(fs::read_to_string(&fifo).expect("the hook runs"), "up\n");
    let first: Vec<String> = oci
        .cgroups("c")
        .iter()
        .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(!first.is_empty(), "the first process waits");
    runtime.kill().and_then(|()| runtime.wait()).expect("it is killed");
    fs::write(&fifo, "").expect("the hook goes on");
    wait_until("the first process ends", PATIENCE, || {
        first.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    });
    assert!(!oci.rootfs().join("started").exists());
    oci.ok(&["delete", "--force", "c"]);
    oci.nothing_is_left("c");
}
