//! Start, end, limits.

use std::time::{Duration, Instant};

use hull_runtime::protocol::{EndReason, Event, Request};
use hull_runtime::shim;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::bench::{Bench, eventually};

#[test]
fn it_starts_prints_and_exits() {
    let mut bench = Bench::shell("echo out; echo err >&2; exit 7");
    let exit = bench.run();
    assert_eq!((exit.status, exit.signal, exit.oom_killed), (7, None, false));
    assert_eq!(exit.reason, EndReason::Exited);
    assert_eq!(shim::read_exit(&bench.runtime_dir()).unwrap(), Some(exit));
    let mut lines: Vec<String> = bench.log_text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    bench.assert_gone();
}

#[test]
fn its_end_is_told_after_its_socket_is_gone_and_its_record_is_there() {
    let mut bench = Bench::shell("exit 3");
    let mut connection = bench.start();
    connection.exit();
    assert!(shim::connect(&bench.runtime_dir()).is_err());
    assert!(connection.event().is_none());
}

#[test]
fn signals_and_kills() {
    let mut bench = Bench::shell("sleep 100");
    let mut connection = bench.start();
    connection.done(&Request::Signal { exec: None, signal: 9 });
    let exit = connection.exit();
    assert_eq!((exit.status, exit.signal, exit.reason), (137, Some(9), EndReason::Signal));

    let mut bench = Bench::shell("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    let mut client = bench.client(crate::bench::everything());
    let mut connection = bench.start();
    crate::bench::read_until(&mut client, "ready");
    connection.done(&Request::Signal { exec: None, signal: 15 });
    assert_eq!(connection.exit().status, 5);

    let mut bench = Bench::shell("sleep 100 & sleep 100");
    let mut connection = bench.start();
    connection.done(&Request::KillAll);
    assert_eq!(connection.exit().status, 137);
    bench.assert_gone();
}

#[test]
fn signals_that_do_not_exist_are_refused() {
    let mut bench = Bench::shell("sleep 100");
    let mut connection = bench.start();
    let error = connection.failed(&Request::Signal { exec: None, signal: 1000 }, &[]);
    assert_eq!(error.errno, Some(22));
    connection.done(&Request::KillAll);
    connection.exit();
}

#[test]
fn a_failed_start_leaves_nothing() {
    let mut bench = Bench::shell("");
    bench.spec["process"]["args"] = json!(["/no/such/command"]);
    let mut client = bench.client(crate::bench::everything());
    let mut connection = bench.launch();
    match connection.event() {
        Some(Event::StartFailed(error)) => assert_eq!(error.exit_status, 127, "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(connection.event().is_none());
    assert_eq!(crate::bench::read_all(&mut client), "");
    assert_eq!(shim::read_exit(&bench.runtime_dir()).unwrap(), None);
    bench.assert_gone();
}

#[test]
fn a_wrong_count_of_descriptors_is_refused() {
    let mut bench = Bench::shell("true");
    bench.reserved_claimed = 1;
    match bench.launch().event() {
        Some(Event::StartFailed(error)) => {
            assert!(error.to_string().contains("0 descriptors came"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    bench.assert_gone();
}

#[test]
fn a_log_that_is_written_beside_is_whole_when_the_end_is_told() {
    let mut bench = Bench::shell("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; printf end");
    if let hull_runtime::protocol::Log::JsonFile(file) = &mut bench.log {
        file.buffer = Some(8 << 20);
    }
    let hull_runtime::protocol::Log::JsonFile(file) = bench.log.clone() else { panic!("another log") };
    assert_eq!(bench.run().status, 0);
    let log = std::fs::read_to_string(&file.path).unwrap();
    assert_eq!(log.lines().count(), 20_001);
    assert!(log.lines().last().unwrap().contains("\"end\""), "{log}");
    bench.assert_gone();
}

#[test]
fn the_wall_clock_ends_it() {
    let mut bench = Bench::shell("sleep 100 & sleep 100");
    bench.limits.timeout_ns = 200_000_000;
    let begin = Instant::now();
    let exit = bench.run();
    let took = begin.elapsed();
    assert_eq!((exit.status, exit.reason), (137, EndReason::Timeout));
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(2), "{took:?}");
    bench.assert_gone();
}

#[test]
fn the_processors_end_it() {
    let mut bench = Bench::shell("(while :; do :; done) & while :; do :; done");
    bench.limits.cpu_time_ns = 300_000_000;
    let exit = bench.run();
    assert_eq!((exit.status, exit.reason), (137, EndReason::CpuTime));
    let mut idle = Bench::shell("sleep 0.5");
    idle.limits.cpu_time_ns = 300_000_000;
    assert_eq!(idle.run().reason, EndReason::Exited);
}

#[test]
fn limits_change_while_it_runs() {
    let mut bench = Bench::shell("sleep 100");
    let mut connection = bench.start();
    connection.done(&Request::SetLimits(hull_runtime::protocol::Limits { timeout_ns: 1, cpu_time_ns: 0 }));
    assert_eq!(connection.exit().reason, EndReason::Timeout);
}

#[test]
fn memory_ends_it() {
    let mut bench = Bench::shell("exec tail -n 1 /dev/zero");
    bench.spec["linux"]["resources"] = json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } });
    let mut connection = bench.start();
    let mut told = false;
    let exit = loop {
        match connection.event().unwrap() {
            Event::Oom => told = true,
            Event::Exited(exit) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert!(told, "the kill was not told of");
    assert_eq!((exit.status, exit.oom_killed, exit.reason), (137, true, EndReason::Oom));
    assert!(connection.event().is_none(), "the end is the last word");
    bench.assert_gone();
}

#[test]
fn memory_ends_a_child_and_it_is_known() {
    let mut bench = Bench::shell("tail -n 1 /dev/zero; exit 3");
    bench.spec["linux"]["resources"] = json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } });
    let exit = bench.run();
    assert_eq!((exit.status, exit.oom_killed, exit.reason), (3, true, EndReason::Exited));
}

#[test]
fn with_the_host_s_processes_nothing_of_it_is_left_either() {
    let mut bench = Bench::shell("setsid sh -c 'echo $$; exec sleep 4000' & sleep 0.2");
    bench.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    bench.run();
    let pid: i32 = bench.log_text().trim().parse().unwrap();
    // Dead at once, and reaped by whoever reaps for the shim.
    eventually("it is gone", || kill_process(Pid::from_raw(pid).unwrap(), Signal::WINCH).is_err());
    bench.assert_gone();
}

#[test]
fn orphans_are_reaped() {
    let mut bench = Bench::shell("(sh -c 'true' &); sleep 100").with_stdin();
    bench.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    let mut connection = bench.start();
    let shim = connection.state().shim_pid;
    let children = || std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    eventually("the orphan is reaped", || children().split_whitespace().count() == 1);
    connection.done(&Request::KillAll);
    connection.exit();
}

#[test]
fn an_init_passes_status_and_signals_on() {
    let mut bench = Bench::shell("exit 9");
    bench.init = true;
    assert_eq!(bench.run().status, 9);
}

#[test]
fn it_waits_for_its_network() {
    let mut bench = Bench::shell("readlink /proc/self/ns/net");
    bench.awaits_network = true;
    let own = std::fs::File::open("/proc/self/ns/net").unwrap();
    let mut connection = bench.launch();
    connection.send(&Request::Network, &[std::os::fd::AsFd::as_fd(&own)]);
    assert!(matches!(connection.event(), Some(Event::Started { .. })));
    assert_eq!(connection.exit().status, 0);
    let name = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(bench.log_text().trim(), name.to_str().unwrap());
}

#[test]
fn without_its_network_it_does_not_start() {
    let mut bench = Bench::shell("true");
    bench.awaits_network = true;
    let mut connection = bench.launch();
    let reason = hull_runtime::Error::refused("make the bridge", "no");
    connection.send(&Request::NetworkFailed(reason), &[]);
    match connection.event() {
        Some(Event::StartFailed(error)) => assert_eq!(error.to_string(), "make the bridge: no"),
        other => panic!("{other:?}"),
    }
    assert!(connection.event().is_none());
    bench.assert_gone();

    let mut bench = Bench::shell("true");
    bench.awaits_network = true;
    drop(bench.launch());
    eventually("it is given up", || !bench.runtime_dir().join("shim.sock").exists());
}

#[test]
fn signals_are_as_by_default_inside() {
    let mut bench = Bench::shell("");
    bench.spec["process"]["args"] = json!(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
    bench.run();
    assert_eq!(bench.log_text(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

#[test]
fn reserved_descriptors_are_held_until_the_end() {
    let mut bench = Bench::shell("sleep 100");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    bench.reserved.push(port.into());
    let mut connection = bench.start();
    assert!(std::net::TcpListener::bind(address).is_err());
    connection.done(&Request::KillAll);
    connection.exit();
    assert!(std::net::TcpListener::bind(address).is_ok());
}
