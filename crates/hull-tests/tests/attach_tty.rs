//! Terminals and attach: what a person sees and types.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use hull_tests::{Daemon, frames, wait_until};
use serde_json::json;

#[test]
fn a_shell_on_a_terminal() {
    let daemon = Daemon::start();
    let mut pty = daemon.pty(&["run", "--rm", "-it", "busybox", "sh"]);
    pty.shows("# ");
    pty.types("tty; stty size\n");
    pty.shows("/dev/pts/0\r\n");
    pty.shows("24 80\r\n");
    pty.resize(33, 111);
    pty.types("until stty size | grep '33 111'; do usleep 10000; done\n");
    pty.shows("33 111\r\n");
    pty.types("sh -c 'echo begun; sleep 500'\n");
    pty.shows("begun\r\n");
    pty.types("\x03");
    pty.shows("# ");
    pty.types("echo status $?\n");
    pty.shows("status 130\r\n");
    pty.types("exit 6\n");
    let (_, status) = pty.ends();
    assert_eq!(status, 6);
    assert_eq!(daemon.ok(&["ps", "-aq"]), "");
}

#[test]
fn detaching_leaves_it_running_and_attaching_comes_back() {
    let daemon = Daemon::start();
    let mut pty = daemon.pty(&["run", "--name", "tt", "-it", "busybox", "sh"]);
    pty.shows("# ");
    pty.types("X=kept\n");
    pty.shows("# ");
    pty.types("\x10\x11");
    let (_, status) = pty.ends();
    assert_eq!(status, 0);
    assert_eq!(daemon.ok(&["ps", "--format", "{{.Names}}"]), "tt");
    let mut pty = daemon.pty(&["attach", "--detach-keys", "ctrl-x,q", "tt"]);
    pty.types("echo $X again\n");
    pty.shows("kept again\r\n");
    pty.types("\x18q");
    // Docker's client calls this an error of attach, and none of run.
    pty.ends();
    let mut pty = daemon.pty(&["exec", "-it", "tt", "sh"]);
    pty.shows("# ");
    pty.types("exit 4\n");
    assert_eq!(pty.ends().1, 4);
    daemon.ok(&["rm", "-f", "tt"]);
}

#[test]
fn attach_without_a_terminal_passes_on_signals_and_output() {
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ hull create -i --name aa busybox sh -c 'read x; echo got $x; exit 5'
        <id>
        $ echo typed | hull start -ai aa
        got typed
        [5]
        $ hull run -d --name ss busybox sh -c 'trap "echo caught; exit 7" USR1; echo ready; while :; do sleep 0.1; done'
        <id>
        $ hull attach ss >out & A=$!; eventually sh -c 'hull logs ss | grep ready'; hull kill -s USR1 ss; wait $A
        ss
        [7]
        $ cat out | grep caught
        caught
        $ hull run --sig-proxy=true --name pp busybox sh -c 'trap "exit 8" TERM; echo ready; while :; do sleep 0.1; done' >out & P=$!; eventually grep ready out; kill -TERM $P; wait $P
        [8]
        "#,
    );
}

#[test]
fn a_client_that_goes_away_leaves_the_container() {
    let daemon = Daemon::start();
    let mut child =
        daemon.client(&["run", "--name", "gone", "busybox", "sleep", "600"]).spawn().expect("the client");
    wait_until("the container runs", Duration::from_secs(30), || {
        daemon.ok(&["ps", "--format", "{{.Names}}"]) == "gone"
    });
    child.kill().expect("one's own child");
    child.wait().expect("its status");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "gone"]), "running");
}

/// Attaches a client that wants the log and then the stream; what it gets until the connection ends, unframed.
fn log_and_stream(daemon: &Daemon, name: &str) -> thread::JoinHandle<Vec<u8>> {
    let path = format!("/containers/{name}/attach?logs=1&stream=1&stdout=1&stderr=1");
    let (head, mut stream) = daemon.api().upgrade(&path, &json!({})).expect("an answer");
    assert_eq!(head.status, 101);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the stream");
        frames(&bytes).into_iter().flat_map(|(_, text)| text).collect()
    })
}

/// Where two texts begin to differ, with what stands there.
fn assert_whole(got: &[u8], wanted: &[u8], what: &str) {
    if let Some(at) = (0..got.len().max(wanted.len())).find(|&at| got.get(at) != wanted.get(at)) {
        let around = |text: &[u8]| {
            String::from_utf8_lossy(&text[at.saturating_sub(20).min(text.len())..(at + 20).min(text.len())])
                .into_owned()
        };
        panic!("{what}: byte {at}: {:?} in place of {:?}", around(got), around(wanted));
    }
}

fn numbers(last: u32) -> Vec<u8> {
    (1..=last).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

#[test]
fn between_the_log_and_the_stream_nothing_is_lost_and_nothing_comes_twice() {
    let daemon = Daemon::start();
    // Files of a size that several rotations happen meanwhile; and lines that are cut by the ends of a buffer.
    let rotated = ["--log-opt", "max-size=3m", "--log-opt", "max-file=6"];
    let script = "for n in 0 1 2 3 4 5 6 7; do read go; seq $((n * 20000 + 1)) $((n * 20000 + 20000)); done; read over";
    for (name, options) in [("json", &rotated[..]), ("local", &["--log-driver", "local"])] {
        daemon.ok(&[&["run", "-di", "--name", name], options, &["busybox", "sh", "-c", script]].concat());
        let input = format!("/containers/{name}/attach?stream=1&stdin=1");
        let (_, mut input) = daemon.api().upgrade(&input, &json!({})).expect("an answer");
        let mut clients = Vec::new();
        for _ in 0..8 {
            input.get_mut().write_all(b"\n").expect("a line is typed");
            // While it prints.
            clients.push(log_and_stream(&daemon, name));
        }
        input.get_mut().write_all(b"\n").expect("a line is typed");
        for (number, client) in clients.into_iter().enumerate() {
            let got = client.join().expect("a client");
            assert_whole(&got, &numbers(160_000), &format!("{name}, client {number}"));
        }
        daemon.ok(&["rm", "-f", name]);
    }
}

#[test]
fn an_end_while_the_log_is_sent_loses_nothing() {
    let daemon = Daemon::start();
    for round in 0..10 {
        daemon.ok(&["run", "-d", "--name", "short", "busybox", "seq", "1", "60000"]);
        let client = log_and_stream(&daemon, "short");
        daemon.ok(&["wait", "short"]);
        // One that came behind the end waits for another start.
        daemon.ok(&["rm", "short"]);
        assert_whole(&client.join().expect("a client"), &numbers(60_000), &format!("round {round}"));
    }
}
