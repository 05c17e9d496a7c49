//! From create to rm: each state, and what is accepted and refused in it.

use hull_tests::Daemon;
use serde_json::json;

#[test]
fn created_started_exited_removed() {
    Daemon::start().session(
        r#"
        $ hull create --name one busybox sh -c 'echo hi; exit 3'
        <id>
        $ hull ps -a --format '{{.Names}} {{.State}} {{.Status}}'
        one created Created
        $ hull start one
        one
        $ hull wait one
        3
        $ hull ps -a --format '{{.Names}} {{.State}} {{.Status}}'
        one exited Exited (3) <ago> ago
        $ hull inspect -f '{{.State.Status}} {{.State.Running}} {{.State.Pid}} {{.State.ExitCode}} {{.State.OOMKilled}}' one
        exited false 0 3 false
        $ hull start -a one
        hi
        [3]
        $ hull logs one
        hi
        hi
        $ hull rename one two
        $ hull rm two
        two
        $ hull rm two 2>/dev/null
        [1]
        $ hull ps -aq
        "#,
    );
}

#[test]
fn stop_kill_restart_pause() {
    Daemon::start().session(
        r#"
        $ hull run -d --name box busybox sleep 600
        <id>
        $ hull stop -t 0 box
        box
        $ hull inspect -f '{{.State.Status}} {{.State.ExitCode}}' box
        exited 137
        $ hull stop box
        box
        $ hull start box
        box
        $ hull kill -s KILL box && hull wait box
        box
        137
        $ hull kill box 2>/dev/null
        [1]
        $ hull restart -t 0 box
        box
        $ before=$(hull inspect -f '{{.State.Pid}}' box); hull restart -t 0 box
        box
        $ test "$before" != "$(hull inspect -f '{{.State.Pid}}' box)"
        $ hull pause box
        box
        $ hull ps --format '{{.Status}}'
        Up <ago> (Paused)
        $ hull pause box 2>/dev/null
        [1]
        $ hull exec box true 2>/dev/null
        [1]
        $ hull unpause box
        box
        $ hull unpause box 2>/dev/null
        [1]
        $ hull rm box 2>/dev/null
        [1]
        $ hull rm -f box
        box
        $ hull rm -f box >/dev/null 2>&1; hull ps -aq
        "#,
    );
}

#[test]
fn the_stop_signal_reaches_the_process() {
    Daemon::start().session(
        r#"
        $ hull run -d --name tt busybox sh -c 'trap "exit 5" TERM; echo ready; while :; do sleep 0.1; done'
        <id>
        $ eventually sh -c 'hull logs tt | grep ready'; hull stop tt
        tt
        $ hull wait tt
        5
        $ hull run -d --name uu --stop-signal USR1 busybox sh -c 'trap "exit 6" USR1; echo ready; while :; do sleep 0.1; done'
        <id>
        $ eventually sh -c 'hull logs uu | grep ready'; hull stop uu; hull wait uu
        uu
        6
        $ hull run -d --name vv --init busybox sleep 600
        <id>
        $ hull stop vv; hull wait vv
        vv
        143
        "#,
    );
}

#[test]
fn filters_of_ps() {
    Daemon::start().session(
        r#"
        $ hull create --name one --label k=v busybox true >/dev/null
        $ hull run --name two --label k=w busybox sh -c 'exit 4'
        [4]
        $ hull run -d --name three busybox sleep 600 >/dev/null
        $ hull ps --format '{{.Names}}'
        three
        $ hull ps -a --format '{{.Names}} {{.Command}}' --no-trunc
        three "sleep 600"
        two "sh -c 'exit 4'"
        one "true"
        $ hull ps -a --format '{{.Names}}' --filter label=k
        two
        one
        $ hull ps -a --format '{{.Names}}' --filter label=k=v
        one
        $ hull ps -a --format '{{.Names}}' --filter exited=4
        two
        $ hull ps -a --format '{{.Names}}' --filter status=created --filter status=running
        three
        one
        $ hull ps -a --format '{{.Names}}' --filter name=^three$
        three
        $ hull ps -a --format '{{.Names}}' --filter before=two
        one
        $ hull ps -a --format '{{.Names}}' --filter since=two
        three
        $ hull ps -a --format '{{.Names}}' -n 2
        three
        two
        $ hull ps -a --filter no-such=filter 2>/dev/null
        [1]
        $ hull container prune -f | head -n 1
        Deleted Containers:
        $ hull ps -a --format '{{.Names}}'
        three
        "#,
    );
}

#[test]
fn events_tell_a_life_in_order() {
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ since=$(date +%s.%N); hull create --name life --label k=v busybox sh -c 'exit 3'
        <id>
        $ hull start life; hull wait life
        life
        3
        $ hull rm life
        life
        $ hull events --since $since --until $(date +%s.%N) --filter type=container --format '{{.Action}}'
        create
        start
        die
        destroy
        $ hull events --since $since --until $(date +%s.%N) --filter event=die --format '{{index .Actor.Attributes "name"}} {{index .Actor.Attributes "exitCode"}} {{index .Actor.Attributes "image"}} {{index .Actor.Attributes "k"}}'
        life 3 busybox v
        "#,
    );
}

#[test]
fn statuses_of_the_api() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let mut status = |method: &str, path: &str| api.send(method, path, "", &[]).expect("an answer").status;
    daemon.ok(&["create", "--name", "cc", "busybox", "sleep", "600"]);
    assert_eq!(status("POST", "/containers/cc/start"), 204);
    assert_eq!(status("POST", "/containers/cc/start"), 304);
    assert_eq!(status("DELETE", "/containers/cc"), 409);
    assert_eq!(status("POST", "/containers/cc/stop?t=0"), 204);
    assert_eq!(status("POST", "/containers/cc/stop"), 304);
    assert_eq!(status("POST", "/containers/cc/pause"), 409);
    assert_eq!(status("POST", "/containers/cc/kill"), 409);
    assert_eq!(status("POST", "/containers/cc/rename?name=dd"), 204);
    assert_eq!(status("POST", "/containers/cc/start"), 404);
    assert_eq!(status("GET", "/containers/dd/json"), 200);
    assert_eq!(status("DELETE", "/containers/dd"), 204);
    assert_eq!(status("DELETE", "/containers/dd"), 404);
    assert_eq!(status("POST", "/containers/dd/wait"), 404);
}

#[test]
fn two_clients_at_once_on_one_name() {
    let daemon = Daemon::start();
    let body = json!({"Image": "busybox", "Cmd": ["true"]});
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|_| {
                let (mut api, body) = (daemon.api(), body.clone());
                scope.spawn(move || api.post("/containers/create?name=one", &body).expect("an answer").status)
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().expect("a status")).collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    assert_eq!(daemon.ok(&["ps", "-a", "--format", "{{.Names}}"]), "one");
}

/// Docker's clients ask for the next exit before they start, and would tell of a failed start twice.
#[test]
fn a_start_that_fails_is_no_exit() {
    let daemon = Daemon::start();
    let folder = daemon.dir().join("work");
    let bind = format!("{}:/v", folder.display());
    daemon.ok(&["create", "--name", "later", "-v", &bind, "busybox", "/v/program"]);
    let api = daemon.api();
    let mut waiting = api.connect().expect("a connection");
    let request =
        "POST /containers/later/wait?condition=next-exit HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n";
    std::io::Write::write_all(waiting.get_mut(), request.as_bytes()).expect("sent");
    let mut answer = String::new();
    let mut read_until = |words: &str| {
        while !answer.contains(words) {
            let n = std::io::BufRead::read_line(&mut waiting, &mut answer).expect("a line");
            assert!(n > 0, "the answer to wait ended early: {answer:?}");
        }
        answer.clone()
    };
    read_until("\r\n\r\n");
    let failed = daemon.api().post_empty("/containers/later/start").expect("an answer");
    assert!(failed.message().contains("no such file or directory"), "{}", failed.text());
    std::fs::write(folder.join("program"), "#!/bin/sh\nexit 7\n").expect("a program");
    std::fs::set_permissions(folder.join("program"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("its mode");
    daemon.ok(&["start", "later"]);
    let answer = read_until("StatusCode");
    assert!(answer.contains("{\"StatusCode\":7}"), "{answer}");
}

#[test]
fn wait_knows_its_conditions() {
    let daemon = Daemon::start();
    daemon.ok(&["create", "--name", "cc", "--rm", "busybox", "sh", "-c", "exit 9"]);
    let statuses: Vec<i64> = std::thread::scope(|scope| {
        let (mut connected, mut started) = (Vec::new(), daemon.api());
        for condition in ["next-exit", "removed"] {
            let api = daemon.api();
            let mut stream = api.connect().expect("a connection");
            let request = format!(
                "POST /containers/cc/wait?condition={condition} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
            );
            std::io::Write::write_all(stream.get_mut(), request.as_bytes()).expect("sent");
            connected.push(scope.spawn(move || {
                let mut answer = String::new();
                // The head comes at once, the status when the condition is met.
                while !answer.contains("StatusCode") {
                    let mut line = String::new();
                    let n = std::io::BufRead::read_line(&mut stream, &mut line).expect("a line");
                    assert!(n > 0, "the answer to wait ended early: {answer:?}");
                    answer.push_str(&line);
                }
                let at = answer.find("\"StatusCode\":").expect("a status") + "\"StatusCode\":".len();
                answer[at..]
                    .trim_start()
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>()
                    .parse()
                    .expect("a number")
            }));
        }
        assert_eq!(started.post_empty("/containers/cc/start").expect("an answer").status, 204);
        connected.into_iter().map(|thread| thread.join().expect("a status")).collect()
    });
    assert_eq!(statuses, [9, 9]);
    assert_eq!(daemon.ok(&["ps", "-aq"]), "");
}
