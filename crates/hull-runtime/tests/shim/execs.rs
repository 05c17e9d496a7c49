//! Other processes in a container that runs.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use hull_runtime::protocol::{Attach, EndReason, Exec, Reply, Request};

use crate::bench::{Bench, Connection, eventually, everything, exec, read_all, read_until, write};

fn container() -> (Bench, Connection) {
    let mut bench = Bench::shell("cat").with_stdin();
    let connection = bench.start();
    (bench, connection)
}

fn end(mut connection: Connection) {
    connection.done(&Request::KillAll);
    connection.exit();
}

#[test]
fn it_prints_and_exits() {
    let (_bench, mut connection) = container();
    let mut client = connection.exec(exec("one", "hostname; exit 4"));
    assert_eq!(read_all(&mut client), "box\n");
    let exit = connection.exec_exit("one");
    assert_eq!((exit.status, exit.signal, exit.reason), (4, None, EndReason::Exited));
    assert!(connection.state().execs.is_empty());
    end(connection);
}

#[test]
fn its_input_ends_with_its_client() {
    let (_bench, mut connection) = container();
    let mut asked = exec("one", "wc -l");
    asked.stdio.stdin = true;
    asked.stdio.stdin_once = true;
    let mut client = connection.exec(asked);
    write(&mut client, "1\n2\n3\n");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client), "3\n");
    end(connection);
}

#[test]
fn it_has_a_terminal_of_its_own() {
    let (_bench, mut connection) = container();
    let mut asked = exec("one", "stty size; read line; stty size");
    asked.process.set_terminal(Some(true));
    asked.stdio.terminal = true;
    asked.stdio.stdin = true;
    asked.stdio.size = Some((90, 30));
    let mut client = connection.exec(asked);
    read_until(&mut client, "30 90");
    connection.done(&Request::Resize { exec: Some("one".into()), width: 50, height: 20 });
    write(&mut client, "\n");
    assert!(read_all(&mut client).contains("20 50"));
    end(connection);
}

#[test]
fn one_that_cannot_be_executed_is_answered_so() {
    let (_bench, mut connection) = container();
    let mut asked = exec("one", "");
    asked.process.set_args(Some(vec!["no-such-command".into()]));
    asked.attach = None;
    let error = connection.failed(&Request::Exec(Box::new(asked)), &[]);
    assert_eq!(error.exit_status, 127, "{error}");
    assert!(connection.state().execs.is_empty());
    end(connection);
}

#[test]
fn signals_reach_it() {
    let (_bench, mut connection) = container();
    let _client = connection.exec(exec("one", "sleep 100"));
    assert_eq!(connection.state().execs.len(), 1);
    connection.done(&Request::Signal { exec: Some("one".into()), signal: 9 });
    let exit = connection.exec_exit("one");
    assert_eq!((exit.status, exit.reason), (137, EndReason::Signal));
    connection.failed(&Request::Signal { exec: Some("one".into()), signal: 9 }, &[]);
    end(connection);
}

#[test]
fn its_time_is_limited_and_what_it_started_dies_with_it() {
    let (bench, mut connection) = container();
    let mut asked = exec("one", "(sleep 3000; true) & sleep 3000");
    asked.limits.timeout_ns = 100_000_000;
    let mut client = connection.exec(asked);
    let exit = connection.exec_exit("one");
    assert_eq!((exit.status, exit.reason), (137, EndReason::Timeout));
    read_all(&mut client);
    let mut count = connection.exec(exec("two", "ps | grep -c '[s]leep 3000'"));
    assert_eq!(read_all(&mut count), "0\n");
    let mut asked = exec("three", "while :; do :; done");
    asked.limits.cpu_time_ns = 100_000_000;
    connection.exec(asked);
    assert_eq!(connection.exec_exit("three").reason, EndReason::CpuTime);
    end(connection);
    bench.assert_gone();
}

#[test]
fn what_a_limited_one_leaves_behind_is_limited_too() {
    let (_bench, mut connection) = container();
    let mut asked = exec("one", "sleep 3000 & exit 0");
    asked.limits.timeout_ns = 1_000_000_000;
    asked.attach = None;
    connection.exec(asked);
    assert_eq!(connection.exec_exit("one").status, 0);
    let sleepers = |connection: &mut Connection| {
        let mut client = connection.exec(exec("count", "ps | grep -c '[s]leep 3000'"));
        let count = read_all(&mut client);
        connection.exec_exit("count");
        count
    };
    assert_eq!(sleepers(&mut connection), "1\n");
    eventually("it is killed", || sleepers(&mut connection) == "0\n");
    end(connection);
}

#[test]
fn one_whose_client_has_gone_goes_on() {
    let (_bench, mut connection) = container();
    let client = connection.exec(exec("one", "sleep 0.2; yes | head -c 1000000; exit 6"));
    drop(client);
    assert_eq!(connection.exec_exit("one").status, 6);
    end(connection);
}

#[test]
fn what_it_leaves_behind_does_not_hold_up_its_end() {
    let (_bench, mut connection) = container();
    let begin = Instant::now();
    let mut asked = exec("quiet", "sleep 3000 & exit 1");
    asked.attach = None;
    connection.exec(asked);
    assert_eq!(connection.exec_exit("quiet").status, 1);
    assert!(begin.elapsed() < Duration::from_secs(1));
    let mut client = connection.exec(exec("attached", "echo said; sleep 3000 & exit 2"));
    assert_eq!(connection.exec_exit("attached").status, 2);
    assert_eq!(read_all(&mut client), "said\n");
    assert!(begin.elapsed() < Duration::from_secs(4));
    end(connection);
}

#[test]
fn a_second_client_attaches_to_it() {
    let (_bench, mut connection) = container();
    let mut asked = exec("one", "cat");
    asked.stdio.stdin = true;
    let mut first = connection.exec(asked);
    let mut second = connection.attach(Attach { exec: Some("one".into()), ..everything() });
    write(&mut second, "x\n");
    read_until(&mut first, "x\n");
    read_until(&mut second, "x\n");
    end(connection);
}

#[test]
fn many_at_once_and_the_container_ends_under_them() {
    let (bench, mut connection) = container();
    let mut clients: Vec<_> =
        (0..20).map(|number| connection.exec(exec(&number.to_string(), "echo on; sleep 1000"))).collect();
    clients.iter_mut().for_each(|client| drop(read_until(client, "on\n")));
    assert_eq!(connection.state().execs.len(), 20);
    connection.done(&Request::KillAll);
    for number in 0..20 {
        assert_eq!(connection.exec_exit(&number.to_string()).status, 137);
    }
    connection.exit();
    for mut client in clients {
        assert_eq!(read_all(&mut client), "");
    }
    bench.assert_gone();
}

#[test]
fn the_same_id_twice_is_refused() {
    let (_bench, mut connection) = container();
    let _client = connection.exec(exec("one", "sleep 100"));
    let again = Exec { attach: None, ..exec("one", "true") };
    connection.failed(&Request::Exec(Box::new(again)), &[]);
    end(connection);
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let (_bench, mut connection) = container();
    let asked = Exec { attach: None, ..exec("one", "sleep 100") };
    connection.send(&Request::Exec(Box::new(asked)), &[]);
    let Reply::Started { .. } = connection.ask(&Request::State, &[]) else { panic!("out of order") };
    // The answer to the second.
    let Reply::State(state) = connection.ask(&Request::KillAll, &[]) else { panic!("out of order") };
    assert_eq!(state.execs.len(), 1);
}

/// What it started has become another's child: only its cgroup knows that it is its own.
const LEAVES_A_CHILD: &str = "setsid sh -c 'sleep 1000 & wait' & echo begun; sleep 1000";

/// Waits until so many of them sleep: what is killed is gone a moment later.
fn sleep_on(connection: &mut Connection, wanted: &str) {
    let mut number = 0;
    eventually("so many sleep", || {
        number += 1;
        let id = format!("count-{number}");
        let mut client = connection.exec(exec(&id, "ps | grep -c '[s]leep 1000'; true"));
        let count = read_all(&mut client);
        connection.exec_exit(&id);
        count.trim() == wanted
    });
}

#[test]
fn killed_it_takes_along_what_it_started() {
    let (_bench, mut connection) = container();
    let mut client = connection.exec(exec("one", LEAVES_A_CHILD));
    read_until(&mut client, "begun");
    connection.done(&Request::Signal { exec: Some("one".into()), signal: 9 });
    let exit = connection.exec_exit("one");
    assert_eq!((exit.status, exit.reason), (137, EndReason::Signal));
    sleep_on(&mut connection, "0");
    end(connection);
}

#[test]
fn another_signal_is_for_its_first_process() {
    let (_bench, mut connection) = container();
    let mut client =
        connection.exec(exec("one", "sleep 1000 & trap 'echo told; exit 3' TERM; echo begun; wait"));
    read_until(&mut client, "begun");
    connection.done(&Request::Signal { exec: Some("one".into()), signal: 15 });
    read_until(&mut client, "told");
    assert_eq!(connection.exec_exit("one").status, 3);
    sleep_on(&mut connection, "1");
    end(connection);
}

#[test]
fn it_ends_with_its_client_where_that_is_asked() {
    let (_bench, mut connection) = container();
    let mut asked = exec("one", LEAVES_A_CHILD);
    asked.ends_with_client = true;
    let mut client = connection.exec(asked);
    read_until(&mut client, "begun");
    // No more input is not the client's end.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.state().execs.len(), 1);
    drop(client);
    let exit = connection.exec_exit("one");
    assert_eq!((exit.status, exit.reason), (137, EndReason::ClientGone));
    sleep_on(&mut connection, "0");
    // Any other lives on.
    let mut client = connection.exec(exec("three", "echo begun; exec sleep 1000"));
    read_until(&mut client, "begun");
    drop(client);
    sleep_on(&mut connection, "1");
    end(connection);
}

#[test]
fn nothing_is_left_of_its_cgroup() {
    let (bench, mut connection) = container();
    for number in 0..12 {
        let mut client = connection.exec(exec(&format!("exec-{number}"), "setsid sleep 0.01 & true"));
        read_all(&mut client);
        connection.exec_exit(&format!("exec-{number}"));
    }
    // One more looks at those that were left.
    eventually("the execs' cgroups are gone", || {
        let mut client = connection.exec(exec("last", "true"));
        read_all(&mut client);
        connection.exec_exit("last");
        bench.cgroups_below() <= 1
    });
    end(connection);
}
