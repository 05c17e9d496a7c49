//! What a shim costs, asserted generously: tests share the machine. `cargo run --release -p hull-runtime
//! --example shims` measures.

use std::time::Duration;

use hull_runtime::protocol::{Log, Request};

use crate::bench::{Bench, log_file};

#[test]
fn a_shim_is_small() {
    let mut bench =
        Bench::shell("yes 'a line of output' | head -c 5000000; echo end >&2; exec cat").with_stdin();
    let mut client = bench.client(crate::bench::everything());
    let mut connection = bench.start();
    crate::bench::read_until(&mut client, "end\n");
    let pid = connection.state().shim_pid;
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let figure = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    // What it has for itself; of the file's pages an unoptimised test program has many.
    let own = figure("Pss_Anon:");
    println!("a shim: {own} KiB of its own, {} KiB in all", figure("Pss:"));
    assert!(own < 1024, "{own} KiB");
    connection.done(&Request::KillAll);
    connection.exit();
}

#[test]
fn an_idle_shim_does_not_wake() {
    let mut bench = Bench::shell("cat").with_stdin();
    let mut connection = bench.start();
    let pid = connection.state().shim_pid;
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
        line.rsplit_once('\t').unwrap().1.parse::<u64>().unwrap()
    };
    crate::bench::eventually("it sleeps", || {
        let before = switches();
        crate::bench::pause(Duration::from_millis(100));
        switches() == before
    });
    connection.done(&Request::KillAll);
    connection.exit();
}

#[test]
fn much_output_is_logged_whole() {
    let mut bench = Bench::shell("yes 0123456789 | head -c 11000000");
    let path = bench.folder.path().join("log");
    bench.log = Log::Local(log_file(&path));
    bench.run();
    // A million lines, each with the 17 bytes around it instead of its newline.
    assert_eq!(std::fs::metadata(path).unwrap().len(), 27_000_000);
}
