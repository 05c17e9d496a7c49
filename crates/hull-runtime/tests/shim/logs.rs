//! The log of a container, by its shim and by the reader.

use hull_runtime::protocol::{Log, LogFile, Request};
use hull_runtime::shim::log::Stream;
use hull_runtime::shim::log::read::{Query, Reader};

use crate::bench::{Bench, eventually, log_file};

#[test]
fn a_log_is_followed_over_rotations() {
    let mut bench = Bench::shell("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; echo last >&2");
    let path = bench.folder.path().join("log");
    for log in [
        Log::JsonFile(LogFile { max_size: 20_000, max_file: 20, ..log_file(&path) }),
        Log::Local(LogFile { max_size: 10_000, max_file: 20, ..log_file(&path) }),
    ] {
        for entry in std::fs::read_dir(bench.folder.path()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("log") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        bench.log = log.clone();
        let mut connection = bench.start();
        let mut reader = Reader::open(&log, Query::default()).unwrap().unwrap();
        let (mut next, mut over) = (0, false);
        eventually("all is read", || {
            while let Some(entry) = reader.next_entry().unwrap() {
                match entry.stream {
                    Stream::Stdout => {
                        assert_eq!(entry.bytes, format!("{next}\n").into_bytes());
                        next += 1;
                    }
                    Stream::Stderr => over = true,
                }
            }
            reader.poll_more().unwrap();
            over && next == 3000
        });
        connection.exit();
    }
}

#[test]
fn a_new_file_is_started_on_request() {
    let mut bench = Bench::shell("echo one; read line; echo two").with_stdin();
    if let Log::JsonFile(file) = &mut bench.log {
        file.max_file = 2;
    }
    let mut client = bench.client(crate::bench::everything());
    let mut connection = bench.start();
    crate::bench::read_until(&mut client, "one\n");
    connection.done(&Request::ReopenLog);
    crate::bench::write(&mut client, "\n");
    connection.exit();
    assert_eq!(bench.log_text(), "two\n");
    assert!(bench.folder.path().join("log.1").exists());
}

#[test]
fn no_log_is_kept_where_none_is_wanted() {
    let mut bench = Bench::shell("echo one; cat").with_stdin();
    bench.log = Log::None;
    let mut connection = bench.start();
    connection.failed(&Request::ReopenLog, &[]);
    connection.done(&Request::KillAll);
    connection.exit();
    assert!(!bench.folder.path().join("log").exists());
}
