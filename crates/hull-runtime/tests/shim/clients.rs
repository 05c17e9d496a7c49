//! Clients of the standard streams.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use hull_runtime::protocol::{Attach, LogPlace, Reply, Request};

use crate::bench::{Bench, Connection, PATIENCE, eventually, everything, exec, read_all, read_until, write};

fn end(connection: &mut Connection) {
    connection.done(&Request::KillAll);
    connection.exit();
}

/// Docker's frames: streams and texts.
fn frames(bytes: &[u8]) -> Vec<(u8, String)> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
        assert_eq!(rest[1..4], [0; 3]);
        frames.push((rest[0], String::from_utf8(rest[8..8 + length].to_vec()).unwrap()));
        rest = &rest[8 + length..];
    }
    frames
}

#[test]
fn the_first_byte_reaches_who_is_attached_before_the_start() {
    for _ in 0..20 {
        let mut bench = Bench::shell("echo first; echo second");
        let mut client = bench.client(Attach { preface: b"HTTP/1.1 101\r\n\r\n".to_vec(), ..everything() });
        bench.run();
        assert_eq!(read_all(&mut client), "HTTP/1.1 101\r\n\r\nfirst\nsecond\n");
    }
}

#[test]
fn frames_tell_the_streams_apart() {
    let mut bench = Bench::shell("echo out; sleep 0.05; echo err >&2");
    let mut framed = bench.client(Attach { framed: true, ..everything() });
    let mut errors = bench.client(Attach { stdout: false, ..everything() });
    bench.run();
    let mut bytes = Vec::new();
    framed.read_to_end(&mut bytes).unwrap();
    assert_eq!(frames(&bytes), [(1, "out\n".into()), (2, "err\n".into())]);
    assert_eq!(read_all(&mut errors), "err\n");
}

#[test]
fn standard_input_reaches_it_and_ends_with_its_client() {
    let mut bench = Bench::shell("wc -c").with_stdin();
    bench.stdio.stdin_once = true;
    let mut client = bench.client(Attach { already_read: b"early ".to_vec(), ..everything() });
    let mut connection = bench.start();
    let large = vec![b'x'; 1_000_000];
    client.write_all(&large).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client), "1000006\n");
    assert_eq!(connection.exit().status, 0);
}

#[test]
fn a_client_that_writes_and_closes_has_written_all() {
    let mut bench = Bench::shell("sleep 0.1; wc -c").with_stdin();
    bench.stdio.stdin_once = true;
    let mut client = bench.client(everything());
    let mut connection = bench.start();
    client.write_all(&[b'x'; 100_000]).unwrap();
    drop(client);
    connection.exit();
    assert_eq!(bench.log_text(), "100000\n");
}

#[test]
fn standard_input_stays_open_for_the_next_client() {
    let mut bench = Bench::shell("cat").with_stdin();
    let mut first = bench.client(everything());
    let mut connection = bench.start();
    write(&mut first, "one\n");
    read_until(&mut first, "one\n");
    drop(first);
    let mut second = connection.attach(everything());
    write(&mut second, "two\n");
    read_until(&mut second, "two\n");
    second.shutdown(Shutdown::Write).unwrap();
    let mut third = connection.attach(everything());
    write(&mut third, "three\n");
    read_until(&mut second, "three\n");
    end(&mut connection);
}

#[test]
fn without_standard_input_it_is_at_its_end() {
    let mut bench = Bench::shell("wc -c");
    let mut client = bench.client(everything());
    write(&mut client, "unheard");
    bench.run();
    assert_eq!(read_all(&mut client), "0\n");
}

#[test]
fn keys_detach_and_only_that_client() {
    let mut bench = Bench::shell("cat").with_stdin();
    let keys = Attach { detach_keys: vec![16, 17], ..everything() };
    let mut leaver = bench.client(keys);
    let mut stayer = bench.client(everything());
    let mut connection = bench.start();
    write(&mut leaver, "a\x10b\n");
    read_until(&mut stayer, "a\x10b\n");
    write(&mut leaver, "\x10");
    write(&mut leaver, "\x11");
    assert!(read_all(&mut leaver).ends_with("b\n"));
    write(&mut stayer, "still here\n");
    read_until(&mut stayer, "still here\n");
    end(&mut connection);
}

#[test]
fn a_terminal_is_raw_and_resizes() {
    let mut bench = Bench::shell("tty; stty size; read line; stty size; echo got $line");
    bench.spec["process"]["terminal"] = serde_json::json!(true);
    bench.stdio.terminal = true;
    bench.stdio.stdin = true;
    bench.stdio.size = Some((100, 40));
    let mut client = bench.client(Attach { framed: true, ..everything() });
    let mut connection = bench.start();
    let shown = read_until(&mut client, "40 100");
    assert!(shown.contains("/dev/"), "{shown:?}");
    connection.done(&Request::Resize { exec: None, width: 77, height: 33 });
    write(&mut client, "hello\n");
    let rest = read_all(&mut client);
    assert!(rest.contains("33 77\r\n") && rest.contains("got hello\r\n"), "{rest:?}");
    assert_eq!(connection.exit().status, 0);
    assert!(bench.log_text().contains("got hello\r\n"));
}

#[test]
fn what_has_no_terminal_is_not_resized() {
    let mut bench = Bench::shell("cat").with_stdin();
    let mut connection = bench.start();
    connection.failed(&Request::Resize { exec: None, width: 1, height: 1 }, &[]);
    end(&mut connection);
}

#[test]
fn a_client_that_does_not_read_holds_the_container_up() {
    let mut bench =
        Bench::shell("dd if=/dev/zero bs=64k count=64 2>/dev/null | tr '\\0' x; echo done >/tmp/done");
    bench.log = hull_runtime::protocol::Log::None;
    let mut client = bench.client(everything());
    let mut connection = bench.start();
    let done = bench.folder.path().join("root/tmp/done");
    crate::bench::pause(std::time::Duration::from_millis(300));
    assert!(!done.exists(), "4 MiB were taken by nobody");
    // Nothing of this makes the shim busy.
    let before = processor_ticks(connection.state().shim_pid);
    crate::bench::pause(std::time::Duration::from_millis(300));
    assert!(processor_ticks(connection.state().shim_pid) - before <= 1);
    assert_eq!(read_all(&mut client).len(), 64 << 16);
    assert_eq!(connection.exit().status, 0);
}

fn processor_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_client_that_vanishes_is_dropped_and_the_container_goes_on() {
    let mut bench = Bench::shell("while :; do echo line; sleep 0.001; done");
    let client = bench.client(everything());
    let mut connection = bench.start();
    drop(client);
    let log = bench.folder.path().join("log");
    let length = || std::fs::metadata(&log).unwrap().len();
    let before = length();
    eventually("the log grows", || length() > before + 1000);
    let mut other = connection.attach(everything());
    read_until(&mut other, "line\nline\n");
    end(&mut connection);
}

#[test]
fn the_end_is_told_before_a_slow_client_has_taken_everything() {
    let mut bench = Bench::shell("head -c 300000 /dev/zero | tr '\\0' x");
    bench.log = hull_runtime::protocol::Log::None;
    let mut client = bench.client(everything());
    let mut connection = bench.start();
    let shim = connection.state().shim_pid;
    // The rest fits into the pipe and the shim's hands once so much is taken.
    let mut part = vec![0; 200_000];
    client.read_exact(&mut part).unwrap();
    assert_eq!(connection.exit().status, 0);
    bench.assert_gone();
    assert_eq!(read_all(&mut client).len(), 100_000);
    eventually("the shim ends", || !std::path::Path::new(&format!("/proc/{shim}")).exists());
}

#[test]
fn an_attach_without_a_socket_or_to_nothing_is_refused() {
    let mut bench = Bench::shell("cat").with_stdin();
    let mut connection = bench.start();
    connection.failed(&Request::Attach(everything()), &[]);
    let null = std::fs::File::open("/dev/null").unwrap();
    let null = std::os::fd::AsFd::as_fd(&null);
    connection.failed(&Request::Attach(Attach { exec: Some("none".into()), ..everything() }), &[null]);
    connection.failed(&Request::Attach(Attach { detach_keys: vec![1; 1000], ..everything() }), &[null]);
    end(&mut connection);
}

#[test]
fn a_client_that_takes_nothing_keeps_nothing_but_its_output() {
    let mut bench = Bench::shell("yes | head -c 60000");
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 4096).unwrap();
    bench.attach.push((everything(), theirs.into()));
    let mut connection = bench.launch();
    let Some(hull_runtime::protocol::Event::Started { shim_pid, .. }) = connection.event() else {
        panic!("not started")
    };
    connection.exit();
    bench.assert_gone();
    // The shim is there for this client alone, and the container's root is not open any more.
    let root = bench.folder.path().join("root");
    eventually("the root is let go of", || {
        let open = std::fs::read_dir(format!("/proc/{shim_pid}/fd")).expect("the shim").flatten();
        !open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|file| file.starts_with(&root))
    });
    bench.run();
    let mut output = String::new();
    ours.read_to_string(&mut output).unwrap();
    assert_eq!(output.len(), 60_000);
}

/// A client whose stream waits; its end, the writing end of the pipe, and where the log was.
fn held(connection: &mut Connection) -> (UnixStream, OwnedFd, LogPlace) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let (pipe, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let attach = Request::Attach(Attach { held: true, ..everything() });
    match connection.ask(&attach, &[pipe.as_fd(), theirs.as_fd()]) {
        Reply::Held(place) => (ours, hold, place),
        other => panic!("not held: {other:?}"),
    }
}

#[test]
fn a_held_stream_begins_where_the_log_was() {
    let mut bench = Bench::shell("echo logged; printf begun; while read x; do echo $x; done").with_stdin();
    let mut first = bench.client(everything());
    let mut connection = bench.start();
    read_until(&mut first, "begun");
    let (mut client, hold, place) = held(&mut connection);
    assert_eq!(place.offset, std::fs::metadata(bench.folder.path().join("log")).unwrap().len());
    write(&mut first, "-ended\n");
    rustix::io::write(&hold, &[0]).unwrap();
    read_until(&mut client, "begun-ended\n");
    end(&mut connection);
}

#[test]
fn a_held_client_is_dropped_with_its_hold() {
    let mut bench = Bench::shell("echo logged; while read x; do echo $x; done").with_stdin();
    let mut first = bench.client(everything());
    let mut connection = bench.start();
    read_until(&mut first, "logged\n");
    let (mut client, hold, _) = held(&mut connection);
    drop(hold);
    assert_eq!(read_all(&mut client), "");
    // The container goes on.
    write(&mut first, "heard\n");
    read_until(&mut first, "heard\n");
    end(&mut connection);
}

#[test]
fn a_held_client_gets_what_an_ended_container_left() {
    let mut bench = Bench::shell("echo logged; read x; echo the rest").with_stdin();
    let mut first = bench.client(everything());
    let mut connection = bench.start();
    read_until(&mut first, "logged\n");
    let (mut client, hold, _) = held(&mut connection);
    write(&mut first, "\n");
    assert_eq!(connection.exit().status, 0);
    rustix::io::write(&hold, &[0]).unwrap();
    assert_eq!(read_all(&mut client), "the rest\n");
}

#[test]
fn what_has_no_log_holds_no_client() {
    let mut bench = Bench::shell("cat").with_stdin();
    let mut connection = bench.start();
    let null = std::fs::File::open("/dev/null").unwrap();
    let held = Attach { held: true, ..everything() };
    connection.failed(&Request::Attach(held.clone()), &[null.as_fd()]);
    let _client = connection.exec(exec("one", "exec sleep 60"));
    let of_exec = Attach { exec: Some("one".into()), ..held };
    connection.failed(&Request::Attach(of_exec), &[null.as_fd(), null.as_fd()]);
    end(&mut connection);
}
