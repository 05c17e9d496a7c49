//! Daemons that come and go.

use hull_runtime::protocol::{self, Event, FromShim, Reply, Request, ToLauncher, VERSION, View};
use hull_runtime::shim;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use crate::bench::{Bench, Connection, eventually, launcher};

#[test]
fn a_daemon_that_was_away_finds_the_container_again() {
    let mut bench = Bench::shell("cat; exit 8").with_stdin();
    bench.stdio.stdin_once = true;
    drop(bench.start());
    let mut connection = bench.connect();
    let Reply::State(state) = connection.ask(&Request::Subscribe, &[]) else { panic!() };
    assert_eq!((state.id.clone(), state.version), (bench.id.clone(), VERSION));
    assert!(std::path::Path::new(&format!("/proc/{}", state.pid)).exists());
    let client = connection.attach(crate::bench::everything());
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(connection.exit().status, 8);
}

#[test]
fn an_end_that_nobody_saw_is_recorded() {
    let mut bench = Bench::shell("sleep 0.1; echo last; exit 8");
    drop(bench.start());
    let record = || shim::read_exit(&bench.runtime_dir()).unwrap();
    eventually("the record is there", || record().is_some());
    assert_eq!(record().unwrap().status, 8);
    assert_eq!(bench.log_text(), "last\n");
    eventually("all is gone", || !bench.runtime_dir().join("shim.sock").exists());
    let error = shim::connect(&bench.runtime_dir()).unwrap_err();
    assert_eq!(error.errno, Some(2), "{error}");
}

#[test]
fn the_socket_is_root_s_alone() {
    let mut bench = Bench::shell("cat").with_stdin();
    let mut connection = bench.start();
    let socket = bench.runtime_dir().join("shim.sock");
    assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    connection.done(&Request::KillAll);
    connection.exit();
}

#[test]
fn a_shim_that_looks_at_nobody_makes_nobody_wait() {
    let mut bench = Bench::shell("cat").with_stdin();
    let mut control = bench.start();
    let Reply::State(state) = control.ask(&Request::State, &[]) else { panic!("out of order") };
    let shim_pid = rustix::process::Pid::from_raw(state.shim_pid).unwrap();
    rustix::process::kill_process(shim_pid, rustix::process::Signal::STOP).unwrap();
    let mut waiting = Vec::new();
    let error = loop {
        match shim::connect(&bench.runtime_dir()) {
            Ok(socket) => waiting.push(socket),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10_000);
    };
    assert_eq!(error.errno, Some(libc::EAGAIN), "{error}");
    rustix::process::kill_process(shim_pid, rustix::process::Signal::CONT).unwrap();
    control.done(&Request::KillAll);
    control.exit();
}

#[test]
fn nonsense_ends_a_connection_and_nothing_else() {
    let mut bench = Bench::shell("cat").with_stdin();
    let mut control = bench.start();
    let connection = bench.connect();
    protocol::send(connection.socket.as_fd(), &"nonsense", &[]).unwrap();
    let answer = protocol::receive::<FromShim>(connection.socket.as_fd()).unwrap();
    assert!(matches!(answer, Some((FromShim::Reply(Reply::Failed(_)), _))));
    assert!(protocol::receive::<FromShim>(connection.socket.as_fd()).unwrap().is_none());
    control.done(&Request::KillAll);
    control.exit();
}

#[test]
fn a_daemon_that_reads_nothing_holds_nothing_up() {
    let mut bench = Bench::shell("cat").with_stdin();
    let mut control = bench.start();
    let deaf = bench.connect();
    rustix::io::ioctl_fionbio(&deaf.socket, true).unwrap();
    // Answers that nobody reads, until there is no room for more on either side, or it is cut off.
    while protocol::send(deaf.socket.as_fd(), &Request::State, &[]).is_ok() {}
    assert!(control.state().pid > 0);
    control.done(&Request::KillAll);
    control.exit();
}

#[test]
fn a_container_that_does_not_run_is_shown() {
    let bench = Bench::shell("true");
    std::fs::write(bench.folder.path().join("root/etc/seen"), "yes").unwrap();
    let (ours, theirs) = protocol::pair().unwrap();
    let view = View {
        version: VERSION,
        spec: serde_json::from_value(bench.spec.clone()).unwrap(),
        rootfs: protocol::Rootfs::Path,
    };
    launcher().send(&ToLauncher::View(Box::new(view)), &[theirs.as_fd()]).unwrap();
    drop(theirs);
    let (event, mut descriptors) = protocol::receive::<FromShim>(ours.as_fd()).unwrap().unwrap();
    assert!(matches!(event, FromShim::Event(Event::ViewReady)), "{event:?}");
    let root = descriptors.pop().unwrap();
    let file = rustix::fs::openat(&root, "etc/seen", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    assert!(file.is_ok());
}

#[test]
fn a_view_that_cannot_be_is_answered_on_its_control_socket() {
    let (ours, theirs) = protocol::pair().unwrap();
    let view = ToLauncher::View(Box::new(View {
        version: VERSION,
        spec: serde_json::from_value(serde_json::json!({ "ociVersion": "1.0.2" })).unwrap(),
        rootfs: protocol::Rootfs::Path,
    }));
    launcher().send(&view, &[theirs.as_fd()]).unwrap();
    drop(theirs);
    match Connection::new(ours).event() {
        Some(Event::StartFailed(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_binary_that_shims_run_from_cannot_be_written() {
    let path = format!("/proc/{}/exe", launcher().pid());
    assert!(std::fs::OpenOptions::new().write(true).open(&path).is_err());
    // Busy now, it is still read-only when nobody runs it any more.
    let flags = rustix::fs::statvfs(path).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
}

#[test]
fn an_end_is_written_down_where_the_exec_root_is_full() {
    let mut bench = Bench::shell("read line; exit 5").with_stdin();
    bench.stdio.stdin_once = true;
    let run = bench.runtime_dir();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tiny", &run, "tmpfs", flags, c"size=64k").unwrap();
    let client = bench.client(crate::bench::everything());
    let mut connection = bench.start();
    let fills = std::fs::write(run.join("large"), vec![1; 1 << 20]);
    assert_eq!(fills.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    drop(client);
    assert_eq!(connection.exit().status, 5);
    let exit = hull_runtime::shim::read_exit(&run).unwrap().map(|exit| exit.status);
    // One that finds no place is not started: its end could not be told. The place is free when the shim has ended.
    let mut refused = String::new();
    crate::bench::eventually("a start is refused", || {
        std::fs::remove_file(run.join("exit.json")).ok();
        std::fs::write(run.join("rest"), vec![1; 1 << 20]).unwrap_err();
        let mut connection = bench.launch();
        match connection.event() {
            Some(Event::StartFailed(error)) => refused = error.to_string(),
            Some(Event::Started { .. }) => {
                connection.done(&Request::KillAll);
                connection.exit();
            }
            other => panic!("{other:?}"),
        }
        !refused.is_empty()
    });
    rustix::mount::unmount(&run, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(exit, Some(5));
    assert!(refused.contains("make the place for exit.json"), "{refused}");
}
