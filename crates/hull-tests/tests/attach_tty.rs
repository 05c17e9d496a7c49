//! Terminals and attach: what a person sees and types.

use hull_tests::{Daemon, wait_until};
use std::time::Duration;

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
