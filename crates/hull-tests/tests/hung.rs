//! A file system whose server is gone: whoever looks at it hangs, and nobody else may.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hull_tests::{Client, Daemon, Engine, wait_until};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

/// A FUSE mount that nobody answers for; whoever waits in it fails when this is dropped.
struct Hung {
    folder: PathBuf,
    device: Option<File>,
}

impl Hung {
    fn mount(folder: &Path) -> Option<Hung> {
        fs::create_dir_all(folder).expect("a folder");
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("no zero byte");
        mount("hung", folder, "fuse", MountFlags::empty(), options.as_c_str()).ok()?;
        Some(Hung { folder: folder.to_owned(), device: Some(device) })
    }

    /// Everything that waits in it fails.
    fn end(&mut self) {
        self.device = None;
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.end();
        unmount(&self.folder, UnmountFlags::DETACH).ok();
    }
}

/// Other requests, each of which must be answered as if nothing were.
fn others_go_on(daemon: &Daemon, what: &str) {
    let begun = Instant::now();
    assert_eq!(daemon.api().get("/_ping").expect("an answer").text(), "OK");
    assert_eq!(daemon.ok(&["run", "--rm", "busybox", "echo", "fine"]), "fine", "while {what} hangs");
    daemon.ok(&["volume", "create", "other"]);
    daemon.ok(&["volume", "rm", "other"]);
    daemon.ok(&["ps", "-as"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "while {what} hangs: {:?}", begun.elapsed());
}

/// More than there are workers of any kind ask at once, and hang.
fn hang(
    daemon: &Daemon,
    method: &str,
    requests: impl Iterator<Item = (String, String)>,
) -> Vec<std::io::BufReader<std::os::unix::net::UnixStream>> {
    requests
        .map(|(path, body)| {
            let mut stream = daemon.api().connect().expect("a connection");
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            std::io::Write::write_all(stream.get_mut(), request.as_bytes()).expect("the request goes out");
            stream
        })
        .collect()
}

/// Whether a task waits in FUSE.
fn waits_in_fuse(task: &Path) -> bool {
    fs::read_to_string(task.join("wchan")).is_ok_and(|at| at.contains("fuse") || at.contains("request"))
}

fn threads(daemon: &Daemon) -> impl Iterator<Item = PathBuf> {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon's threads");
    threads.flatten().map(|thread| thread.path())
}

fn waiting(daemon: &Daemon) -> usize {
    let patient =
        |thread: &Path| fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.contains("patient"));
    threads(daemon).filter(|thread| waits_in_fuse(thread) || patient(thread)).count()
}

#[test]
fn a_source_that_does_not_answer_holds_nobody_else_up() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let place = daemon.dir().join("hung");
    // Made while it answers, to be started when it does not.
    fs::create_dir_all(place.join("source")).expect("a folder");
    let source = place.join("source").display().to_string();
    for n in 0..100 {
        let body = json!({ "Image": "busybox", "Cmd": ["true"], "HostConfig": { "Binds": [format!("{source}:/x")] } });
        let created = daemon.api().post(&format!("/containers/create?name=c{n}"), &body).expect("an answer");
        assert_eq!(created.status, 201, "{}", created.text());
    }
    let Some(mut hung) = Hung::mount(&place) else {
        eprintln!("left out: this machine lets nobody mount FUSE here");
        return;
    };
    let body = json!({ "Image": "busybox", "HostConfig": { "Mounts": [{ "Type": "bind", "Source": source, "Target": "/x" }] } });
    let creations =
        hang(&daemon, "POST", (0..100).map(|_| ("/containers/create".to_owned(), body.to_string())));
    wait_until("creations hang", Duration::from_secs(20), || waiting(&daemon) >= 100);
    others_go_on(&daemon, "a creation");
    let starts = hang(&daemon, "POST", (0..100).map(|n| (format!("/containers/c{n}/start"), String::new())));
    wait_until("starts hang", Duration::from_secs(20), || waiting(&daemon) >= 200);
    others_go_on(&daemon, "a start");
    drop((creations, starts));
    hung.end();
    drop(hung);
    wait_until("nobody hangs", Duration::from_secs(20), || waiting(&daemon) == 0);
    // The starts have failed, and the containers are whole.
    let mut api: Client = daemon.api();
    wait_until("all are at rest", Duration::from_secs(20), || {
        api.get("/containers/json").expect("an answer").json() == json!([])
    });
    assert_eq!(daemon.ok(&["start", "-a", "c7"]), "");
    daemon.ok(&["rm", "-f", "c7"]);
}

#[test]
fn a_volume_whose_server_does_not_answer_holds_nobody_else_up() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "remote"]);
    let Some(mut hung) = Hung::mount(&daemon.dir().join("data/volumes/remote/_data")) else {
        eprintln!("left out: this machine lets nobody mount FUSE here");
        return;
    };
    // What is mounted takes none of this disk: nobody need ask its server.
    let told = answered(&daemon, Duration::from_secs(5), |api| {
        let told = api.get("/system/df").expect("an answer");
        assert_eq!(told.json()["Volumes"][0]["UsageData"]["Size"], -1, "{}", told.text());
        told.status
    });
    assert_eq!(told, 200);
    others_go_on(&daemon, "a look at the disk");
    hung.end();
}

/// A request that is answered in a time, with its status.
fn answered(daemon: &Daemon, within: Duration, ask: impl FnOnce(&mut Client) -> u16) -> u16 {
    let begun = Instant::now();
    let status = ask(&mut daemon.api());
    assert!(begun.elapsed() < within, "answered after {:?}", begun.elapsed());
    status
}

/// What a user wants ended is ended while it hangs in its start, and then starts again or is gone.
fn hanging_starts_are_ended(
    daemon: &Daemon,
    binds: impl Fn(&str) -> Vec<String>,
    place: &Path,
    hangs: impl Fn() -> bool,
) {
    let api = || daemon.api();
    for name in ["removed", "stopped"] {
        let body =
            json!({ "Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": { "Binds": binds(name) } });
        let created = api().post(&format!("/containers/create?name={name}"), &body).expect("an answer");
        assert_eq!(created.status, 201, "{}", created.text());
    }
    let Some(mut hung) = Hung::mount(place) else {
        eprintln!("left out: this machine lets nobody mount FUSE here");
        return;
    };
    let mut starts =
        hang(daemon, "POST", std::iter::once(("/containers/removed/start".into(), String::new())));
    wait_until("the start hangs", Duration::from_secs(20), &hangs);
    let removed = answered(daemon, Duration::from_secs(8), |api| {
        api.delete("/containers/removed?force=1").expect("an answer").status
    });
    assert_eq!(removed, 204);
    starts.extend(hang(daemon, "POST", std::iter::once(("/containers/stopped/start".into(), String::new()))));
    wait_until("the next start hangs", Duration::from_secs(20), &hangs);
    // It never ran, and it does not: that is what was asked for.
    let stopped = answered(daemon, Duration::from_secs(8), |api| {
        api.post("/containers/stopped/stop?t=1", &json!({})).expect("an answer").status
    });
    assert_eq!(stopped, 304);
    for mut start in starts {
        let mut head = String::new();
        std::io::BufRead::read_line(&mut start, &mut head).expect("the start is answered");
        assert!(head.contains(" 409 ") || head.contains(" 500 "), "{head}");
    }
    hung.end();
    drop(hung);
    // Nothing of the start that was given up is in the way of the next.
    daemon.ok(&["start", "stopped"]);
    daemon.ok(&["rm", "-f", "stopped"]);
}

/// Whether a process that sees mounts of this folder waits in FUSE.
fn a_process_hangs_in(folder: &Path) -> bool {
    let processes = fs::read_dir("/proc").expect("the processes").flatten();
    processes.map(|process| process.path()).any(|process| {
        waits_in_fuse(&process)
            && fs::read_to_string(process.join("mountinfo"))
                .is_ok_and(|mounts| mounts.contains(&folder.display().to_string()))
    })
}

#[test]
fn a_start_that_hangs_while_the_daemon_dies_is_ended() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::start();
    let place = daemon.dir().join("place");
    fs::create_dir_all(place.join("hung/y")).expect("a folder");
    let binds = [format!("{}:/x", place.display()), format!("{}:/x/hung/y", daemon.dir().display())];
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": { "Binds": binds } });
    let created = daemon.api().post("/containers/create?name=caught", &body).expect("an answer");
    assert_eq!(created.status, 201, "{}", created.text());
    let Some(_hung) = Hung::mount(&place.join("hung")) else {
        eprintln!("left out: this machine lets nobody mount FUSE here");
        return;
    };
    drop(hang(&daemon, "POST", std::iter::once(("/containers/caught/start".into(), String::new()))));
    wait_until("the start hangs", Duration::from_secs(20), || a_process_hangs_in(daemon.dir()));
    daemon.kill();
    daemon.begin();
    let removed = answered(&daemon, Duration::from_secs(12), |api| {
        api.delete("/containers/caught?force=1").expect("an answer").status
    });
    assert_eq!(removed, 204);
    wait_until("nobody hangs", Duration::from_secs(10), || !a_process_hangs_in(daemon.dir()));
}

#[test]
fn a_start_that_hangs_in_its_first_process_is_ended() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let (place, other) = (daemon.dir().join("place"), daemon.dir().join("other"));
    fs::create_dir_all(place.join("hung/y")).expect("a folder");
    fs::create_dir_all(&other).expect("a folder");
    let binds = |_: &str| vec![format!("{}:/x", place.display()), format!("{}:/x/hung/y", other.display())];
    let hangs = || a_process_hangs_in(daemon.dir());
    hanging_starts_are_ended(&daemon, binds, &place.join("hung"), hangs);
}

#[test]
fn a_start_that_hangs_in_the_daemon_is_ended() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let place = daemon.dir().join("place");
    // A folder each: who looks for the same one waits for the first, and not in FUSE.
    let binds = |name: &str| {
        let source = place.join(name);
        fs::create_dir_all(&source).expect("a folder");
        vec![format!("{}:/x", source.display())]
    };
    // The thread of a start that was given up hangs on. Others that are patient do not count: the start may not have begun.
    let most = std::cell::Cell::new(0);
    let hangs = || {
        let hang = threads(&daemon).filter(|thread| waits_in_fuse(thread)).count();
        hang > most.replace(most.get().max(hang))
    };
    hanging_starts_are_ended(&daemon, binds, &place, hangs);
}

#[test]
fn a_process_that_cannot_be_frozen_holds_nobody_else_up() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    let place = daemon.dir().join("hung");
    let Some(mut hung) = Hung::mount(&place) else {
        eprintln!("left out: this machine lets nobody mount FUSE here");
        return;
    };
    // The initial request of a FUSE mount is waited for without being woken by the freezer.
    daemon.ok(&["run", "-d", "--name", "stuck", "busybox", "sleep", "600"]);
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "stuck"]);
    let mut looks = std::process::Command::new("stat")
        .arg(place.join("x"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("stat is there");
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    let unified = own.lines().find_map(|line| line.strip_prefix("0::")).expect("a unified cgroup").to_owned();
    for base in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
        if fs::write(format!("{base}{unified}/cgroup.procs"), looks.id().to_string()).is_ok() {
            break;
        }
    }
    let pauses =
        hang(&daemon, "POST", (0..20).map(|_| ("/containers/stuck/pause".to_owned(), String::new())));
    wait_until("the pause hangs", Duration::from_secs(20), || waiting(&daemon) >= 10);
    others_go_on(&daemon, "a pause");
    drop(pauses);
    hung.end();
    looks.kill().ok();
    looks.wait().ok();
    daemon.ok(&["rm", "-f", "stuck"]);
}
