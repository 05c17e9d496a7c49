//! exec: a second process in a container.

use hull_tests::{Daemon, Engine, PATIENCE, frames, wait_until};
use serde_json::json;
use std::io::Read;

#[test]
fn a_second_process() {
    Daemon::start().session(
        r#"
        $ hull run -d --name box --hostname box -e A=container busybox sleep 600
        <id>
        $ hull exec box hostname
        box
        $ hull exec -e A=exec -w /tmp box sh -c 'echo $A $PWD'
        exec /tmp
        $ hull exec box sh -c 'echo $A'
        container
        $ hull exec -u 1234 box id -u
        1234
        $ hull exec box sh -c 'exit 3'
        [3]
        $ hull exec box no-such-command >/dev/null 2>&1
        [127]
        $ hull exec box /etc/passwd >/dev/null 2>&1
        [126]
        $ printf 'a\nb\n' | hull exec -i box wc -l
        2
        $ hull exec box sh -c 'echo out; echo err >&2' 2>/dev/null
        out
        $ hull exec -d box sh -c 'echo done >/tmp/f'
        $ eventually hull exec box cat /tmp/f; hull exec box cat /tmp/f
        done
        $ hull exec box sh -c 'kill -9 $$'
        [137]
        $ hull exec no-such true 2>/dev/null
        [1]
        $ hull stop -t 0 box
        box
        $ hull exec box true 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn over_the_api() {
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    let mut api = daemon.api();
    let body = json!({
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
        "Cmd": ["sh", "-c", "read line; echo out $line; echo err >&2; exit 4"],
    });
    let created = api.post("/containers/box/exec", &body).expect("an answer");
    assert_eq!(created.status, 201, "{}", created.text());
    let id = created.json()["Id"].as_str().expect("an id").to_owned();
    let (head, mut stream) =
        api.upgrade(&format!("/exec/{id}/start"), &json!({"Detach": false, "Tty": false})).expect("a stream");
    assert_eq!(head.status, 101);
    let running = api.get(&format!("/exec/{id}/json")).expect("an answer").json();
    assert_eq!((&running["Running"], &running["ExitCode"]), (&json!(true), &json!(null)));
    std::io::Write::write_all(stream.get_mut(), b"typed\n").expect("input is taken");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("output to its end");
    let mut frames = frames(&all);
    frames.sort();
    assert_eq!(frames, [(1, b"out typed\n".to_vec()), (2, b"err\n".to_vec())]);
    let ended = api.get(&format!("/exec/{id}/json")).expect("an answer").json();
    assert_eq!((&ended["Running"], &ended["ExitCode"]), (&json!(false), &json!(4)));
    let again = api.post(&format!("/exec/{id}/start"), &json!({"Detach": true})).expect("an answer");
    assert_eq!(again.status, 409, "{}", again.text());
    assert_eq!(api.get("/exec/0123/json").expect("an answer").status, 404);
    let empty = api.post("/containers/box/exec", &json!({"Cmd": []})).expect("an answer");
    assert_eq!(empty.status, 400, "{}", empty.text());
}

#[test]
fn an_exec_ends_with_its_container() {
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ hull run -d --name box busybox sleep 600
        <id>
        $ hull exec box sleep 500 & E=$!; eventually sh -c "hull top box | grep 'sleep 500'"; hull kill box; wait $E
        box
        [137]
        "#,
    );
}

/// A sleep that is no child of the exec's first process any more.
const LEAVES_A_CHILD: &str = "setsid sh -c 'sleep 1000 & wait' & exec sleep 2000";

fn sleepers(daemon: &Daemon) -> String {
    daemon.ok(&["exec", "box", "sh", "-c", "ps | grep -c '[s]leep [12]000'; true"]).trim().to_owned()
}

#[test]
fn an_exec_is_killed_whole() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    daemon.ok(&["exec", "-d", "box", "sh", "-c", LEAVES_A_CHILD]);
    wait_until("both sleep", PATIENCE, || sleepers(&daemon) == "3");
    let id = daemon.ok(&["inspect", "-f", "{{index .ExecIDs 0}}", "box"]).trim().to_owned();
    assert_eq!(daemon.ok(&["exec", "kill", &id]).trim(), id);
    wait_until("none sleeps", PATIENCE, || sleepers(&daemon) == "0");
    let again = daemon.hull(&["exec", "kill", &id]);
    assert!(again.status == 1 && again.stderr.contains("it is not running"), "{again:?}");
    let mut api = daemon.api();
    let shown = api.get(&format!("/exec/{id}/json")).expect("an answer").json();
    assert_eq!((&shown["ExitCode"], &shown["EndReason"]), (&json!(137), &json!("signal")));
    let unknown = api.post_empty(&format!("/exec/{}/kill", "0".repeat(64))).expect("an answer");
    assert_eq!(unknown.status, 404);
    // A container may be called so.
    daemon.ok(&["run", "-d", "--name", "kill", "busybox", "sleep", "600"]);
    assert_eq!(daemon.ok(&["exec", "kill", "echo", "hello"]).trim(), "hello");
}

#[test]
fn an_exec_can_end_with_its_client() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    for (flags, left) in [(&["--end-with-client"][..], "0"), (&[], "3")] {
        let words = [&["exec"], flags, &["box", "sh", "-c", LEAVES_A_CHILD]].concat();
        let mut client = daemon.client(&words).spawn().expect("the client starts");
        wait_until("both sleep", PATIENCE, || sleepers(&daemon) == "3");
        client.kill().expect("one's own child");
        client.wait().expect("and waited for");
        wait_until("what is to end has ended", PATIENCE, || sleepers(&daemon) == left);
    }
    let refused = daemon.hull(&["exec", "-d", "--end-with-client", "box", "true"]);
    assert!(refused.stderr.contains("conflicting options"), "{refused:?}");
}
