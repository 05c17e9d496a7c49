//! What a shim costs: starts containers of busybox through the launcher, as the daemon does, and prints
//! medians. Needs root and Debian's busybox-static.
//!
//! `cargo run --release -p hull-runtime --example shims [rounds]`

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use hull_runtime::launcher::{self, Launcher};
use hull_runtime::protocol::{
    self, Event, FromShim, Launch, Limits, Log, LogFile, Request, Rootfs, Seccomp, Stdio, ToLauncher, VERSION,
};
use hull_runtime::shim::log::read::{Query, Reader};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    if std::env::args().nth(1).as_deref() == Some("launcher") {
        launcher::main();
    }
    let rounds: usize = std::env::args().nth(1).map_or(Ok(200), |rounds| rounds.parse())?;
    let folder = tempfile::tempdir()?;
    for name in ["root/bin", "root/proc", "root/dev", "run"] {
        std::fs::create_dir_all(folder.path().join(name))?;
    }
    std::fs::copy("/usr/bin/busybox", folder.path().join("root/bin/busybox"))?;
    let launcher = launcher::start()?;
    lives(&launcher, folder.path(), rounds)?;
    memory(&launcher, folder.path())?;
    output(&launcher, folder.path())
}

fn lives(launcher: &Launcher, folder: &Path, rounds: usize) -> Outcome<()> {
    let (mut started, mut ended) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begin = Instant::now();
        let control = start(launcher, folder, &["true"], 0, Log::None)?;
        wait(&control, |event| matches!(event, Event::Started { .. }))?;
        started.push(begin.elapsed().as_micros());
        wait(&control, |event| matches!(event, Event::Exited(_)))?;
        ended.push(begin.elapsed().as_micros());
    }
    println!("launch message to Started: {} µs at the median, {} at best", median(&mut started), started[0]);
    println!("launch message to Exited:  {} µs at the median, {} at best", median(&mut ended), ended[0]);
    Ok(())
}

fn memory(launcher: &Launcher, folder: &Path) -> Outcome<()> {
    let mut controls = Vec::new();
    for number in 0..20 {
        let log = Log::JsonFile(log_file(&folder.join(format!("log-{number}"))));
        let control = start(launcher, folder, &["sleep", "1000"], number, log)?;
        let shim = wait(&control, |event| matches!(event, Event::Started { .. }))?;
        controls.push((control, shim));
    }
    let (mut all, mut own) = (Vec::new(), Vec::new());
    for (_, shim) in &controls {
        let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup"))?;
        let figure = |name: &str| -> u128 {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
        };
        all.push(figure("Pss:"));
        own.push(figure("Private_Dirty:"));
    }
    println!("a shim among 20: {} KiB PSS, {} KiB private", median(&mut all), median(&mut own));
    for (control, _) in &controls {
        protocol::send(control.as_fd(), &Request::KillAll, &[])?;
        wait(control, |event| matches!(event, Event::Exited(_)))?;
    }
    Ok(())
}

fn output(launcher: &Launcher, folder: &Path) -> Outcome<()> {
    let file = log_file(&folder.join("log"));
    let rotated = LogFile { max_size: 10_000_000, max_file: 3, ..file.clone() };
    let line = "x".repeat(99);
    for (name, log) in [
        ("nowhere", Log::None),
        ("json-file, rotated", Log::JsonFile(rotated)),
        ("json-file, one file", Log::JsonFile(file.clone())),
        ("local", Log::Local(file.clone())),
    ] {
        for number in ["", ".1", ".2"] {
            // Of the one before, where there was one.
            let _ = std::fs::remove_file(format!("{}{number}", file.path.display()));
        }
        let script = format!("busybox yes {line} | busybox head -c 100000000");
        let begin = Instant::now();
        let control = start(launcher, folder, &["sh", "-c", &script], 0, log.clone())?;
        wait(&control, |event| matches!(event, Event::Exited(_)))?;
        println!("100 MB of lines of 100 bytes, {name}: {} ms", begin.elapsed().as_millis());
        let begin = Instant::now();
        if let Some(mut reader) = Reader::open(&log, Query { tail: Some(10), ..Query::default() })? {
            reader.next_entry()?;
            println!("  first of its last 10 lines: {} µs", begin.elapsed().as_micros());
        }
        let begin = Instant::now();
        if let Some(mut reader) = Reader::open(&log, Query::default())? {
            let mut count = 0;
            while reader.next_entry()?.is_some() {
                count += 1;
            }
            println!("  all {count} lines: {} ms", begin.elapsed().as_millis());
        }
    }
    Ok(())
}

fn log_file(path: &Path) -> LogFile {
    LogFile {
        path: path.into(),
        max_size: 0,
        max_file: 1,
        attributes: Default::default(),
        compress: false,
        buffer: None,
    }
}

fn median(values: &mut [u128]) -> u128 {
    values.sort_unstable();
    values[values.len() / 2]
}

fn start(launcher: &Launcher, folder: &Path, command: &[&str], number: usize, log: Log) -> Outcome<OwnedFd> {
    let capabilities = [
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
    let arguments: Vec<&str> = std::iter::once("/bin/busybox").chain(command.iter().copied()).collect();
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": { "path": folder.join("root") },
        "process": {
            "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": arguments, "env": ["PATH=/bin"],
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
        ],
        "linux": {
            "cgroupsPath": format!("/hull-shims-example/{number}"),
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "cgroup" },
            ],
        },
    });
    let runtime_dir = folder.join(format!("run/{number}"));
    std::fs::create_dir_all(&runtime_dir)?;
    let (ours, theirs) = protocol::pair()?;
    let message = ToLauncher::Start(Box::new(Launch {
        version: VERSION,
        id: format!("{number:064x}"),
        spec: serde_json::from_value(spec)?,
        rootfs: Rootfs::Path,
        seccomp: Seccomp::Default,
        stdio: Stdio::default(),
        log,
        limits: Limits::default(),
        runtime_dir,
        awaits_network: false,
        init: false,
        reserved: 0,
        relays: Vec::new(),
        attach: Vec::new(),
        user: None,
        runtime: None,
    }));
    launcher.send(&message, &[theirs.as_fd()])?;
    Ok(ours)
}

/// Waits for an event; returns the shim's process id if that was told.
fn wait(control: &OwnedFd, is_it: impl Fn(&Event) -> bool) -> Outcome<i32> {
    loop {
        match protocol::receive::<FromShim>(control.as_fd())? {
            Some((FromShim::Event(event), _)) if is_it(&event) => {
                return Ok(if let Event::Started { shim_pid, .. } = event { shim_pid } else { 0 });
            }
            Some((FromShim::Event(Event::StartFailed(error)), _)) => return Err(error.into()),
            Some(_) => {}
            None => return Err("the shim ended without a word".into()),
        }
    }
}
