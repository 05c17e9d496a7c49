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

#[test]
fn a_torrent_is_followed_over_rotations_that_are_too_fast_to_see() {
    const LINES: u64 = 20_000;
    let mut bench = Bench::shell(&format!("seq 1 {LINES}"));
    let path = bench.folder.path().join("log");
    for (max_file, local) in [(1, false), (2, false), (3, true)] {
        let file = LogFile { max_size: 3_000, max_file, ..log_file(&path) };
        bench.log = if local { Log::Local(file) } else { Log::JsonFile(file) };
        for entry in std::fs::read_dir(bench.folder.path()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("log") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        std::fs::write(&path, "").unwrap();
        let query = Query { follow: true, ..Query::default() };
        let mut reader = Reader::open(&bench.log, query).unwrap().unwrap();
        let keeper = reader.keeper();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    keeper.take_up_newer().unwrap();
                }
            });
            bench.run();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        // A reader that is slower than all of it: it has not read a line yet.
        let mut next = 1;
        loop {
            while let Some(entry) = reader.next_entry().unwrap() {
                assert_eq!(
                    String::from_utf8_lossy(&entry.bytes),
                    format!("{next}\n"),
                    "with {max_file} files"
                );
                next += 1;
            }
            if !reader.poll_more().unwrap() {
                break;
            }
        }
        assert_eq!(next, LINES + 1, "with {max_file} files");
        let files = std::fs::read_dir(bench.folder.path()).unwrap().flatten();
        let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log")).count();
        assert_eq!(logs as u32, max_file, "so many files are kept, and no more");
    }
}

#[test]
fn a_follower_that_does_nothing_holds_a_container_up_for_a_moment_only() {
    let mut bench = Bench::shell("seq 1 50000");
    let path = bench.folder.path().join("log");
    bench.log = Log::JsonFile(LogFile { max_size: 3_000, max_file: 2, ..log_file(&path) });
    std::fs::write(&path, "").unwrap();
    let query = Query { follow: true, ..Query::default() };
    let _reader = Reader::open(&bench.log, query).unwrap().unwrap();
    let begun = std::time::Instant::now();
    bench.run();
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}
