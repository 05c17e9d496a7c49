//! Requests that meet: whatever comes at the same time, what was asked for last holds, and nothing is left.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hull_tests::{Client, Daemon, wait_until};
use serde_json::json;

/// A number that is another each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn create(api: &mut Client, name: &str, command: &str, policy: &str) {
    let body = json!({
        "Image": "busybox",
        "Cmd": ["sh", "-c", command],
        "HostConfig": { "RestartPolicy": { "Name": policy }, "NetworkMode": "none" },
    });
    let created = api.post(&format!("/containers/create?name={name}"), &body).expect("an answer");
    assert_eq!(created.status, 201, "{}", created.text());
}

fn status(api: &mut Client, name: &str) -> String {
    let shown = api.get(&format!("/containers/{name}/json")).expect("an answer").json();
    shown["State"]["Status"].as_str().unwrap_or("gone").to_owned()
}

/// What is started from now on for so long.
fn started_within(api: &mut Client, time: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let (since, until) = (now.as_secs_f64(), (now + time).as_secs_f64());
    // {"event":["start"]}
    let filter = "%7B%22event%22%3A%5B%22start%22%5D%7D";
    let path = format!("/events?since={since:.6}&until={until:.6}&filters={filter}");
    api.get(&path).expect("the events").text()
}

#[test]
fn a_stop_holds_in_every_phase_of_a_restart() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let mut dice = Dice(u64::from(std::process::id()));
    // Ends at once: it is in its back-off most of the time, and on its way up again between.
    for round in 0..40 {
        let name = format!("again{round}");
        create(&mut api, &name, "exit 1", "always");
        api.post_empty(&format!("/containers/{name}/start")).expect("an answer");
        // The first back-offs are 100, 200, 400 ms: this meets all of their edges.
        let until = Instant::now() + Duration::from_millis(90 + dice.roll(250));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let verb = ["stop?t=0", "kill", "stop?t=5"][dice.roll(3) as usize];
        let answer = api.post_empty(&format!("/containers/{name}/{verb}")).expect("an answer");
        assert!([204, 304, 409].contains(&answer.status), "{verb}: {} {}", answer.status, answer.text());
        assert_eq!(status(&mut api, &name), "exited", "after {verb} had been answered");
    }
    // Long enough for a restart that was not given up.
    assert_eq!(started_within(&mut api, Duration::from_millis(900)), "", "one was started after its stop");
    for round in 0..40 {
        let gone = api.delete(&format!("/containers/again{round}?force=1")).expect("an answer");
        assert_eq!(gone.status, 204, "{}", gone.text());
    }
    wait_until("nothing is left", Duration::from_secs(20), || daemon.census().cgroups == 0);
}

#[test]
fn a_container_that_its_policy_restarts_is_removed_by_force() {
    let daemon = Daemon::start();
    let mut api = daemon.api();
    for round in 0..20 {
        let name = format!("again{round}");
        create(&mut api, &name, "exit 1", "always");
        api.post_empty(&format!("/containers/{name}/start")).expect("an answer");
        let until = Instant::now() + Duration::from_millis(80 + 3 * round);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let gone = api.delete(&format!("/containers/{name}?force=1")).expect("an answer");
        assert_eq!(gone.status, 204, "{}", gone.text());
        assert_eq!(status(&mut api, &name), "gone");
    }
    wait_until("nothing is left", Duration::from_secs(20), || daemon.census().cgroups == 0);
}

#[test]
fn whatever_comes_at_once_the_last_word_holds() {
    const CONTAINERS: u64 = 4;
    const CLIENTS: u64 = 8;
    const REQUESTS: u32 = 60;
    const ROUNDS: u64 = 3;
    let mut daemon = Daemon::start();
    let before = daemon.census();
    for round in 0..ROUNDS {
        let name = |n: u64| format!("c{round}-{n}");
        let mut api = daemon.api();
        for n in 0..CONTAINERS {
            let (command, policy) = [
                ("trap 'exit 0' TERM; while :; do usleep 20000; done", "no"),
                ("usleep 50000; exit 1", "always"),
                ("sleep 600", "unless-stopped"),
                ("usleep 150000", "on-failure"),
            ][n as usize % 4];
            create(&mut api, &name(n), command, policy);
        }
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (mut api, daemon) = (daemon.api(), &daemon);
                scope.spawn(move || {
                    let mut dice = Dice(u64::from(std::process::id()) * 31 + client * 7 + round);
                    for _ in 0..REQUESTS {
                        storm(daemon, &mut api, &mut dice, &name(dice_of(client, CONTAINERS)));
                    }
                });
            }
        });
        // What clients asked for that went away is done all the same: until that is over, there is no last word.
        wait_until("what is on its way is through", Duration::from_secs(20), || {
            for n in 0..CONTAINERS {
                api.post_empty(&format!("/containers/{}/stop?t=0", name(n))).expect("an answer");
            }
            started_within(&mut api, Duration::from_millis(300)).is_empty()
        });
        for n in 0..CONTAINERS {
            let name = name(n);
            api.post_empty(&format!("/containers/{name}/start")).expect("an answer");
            if status(&mut api, &name) == "gone" {
                continue;
            }
            let stopped = api.post_empty(&format!("/containers/{name}/stop?t=0")).expect("an answer");
            assert!([204, 304].contains(&stopped.status), "{} {}", stopped.status, stopped.text());
            assert_eq!(status(&mut api, &name), "exited", "{name} after its last stop");
        }
        assert_eq!(started_within(&mut api, Duration::from_millis(600)), "", "started after its last stop");
        let running = api.get("/containers/json").expect("an answer").json();
        assert_eq!(running, json!([]), "running after its last stop");
        assert_eq!(daemon.census().cgroups, before.cgroups, "a process runs that nobody knows of");
        if round == 1 {
            daemon.kill();
            daemon.begin();
        }
        let mut api = daemon.api();
        let all = api.get("/containers/json?all=1").expect("an answer").json();
        for container in all.as_array().expect("a list") {
            let id = container["Id"].as_str().expect("an id");
            let gone = api.delete(&format!("/containers/{id}?force=1&v=1")).expect("an answer");
            assert_eq!(gone.status, 204, "{}", gone.text());
        }
    }
    let after = || (daemon.census().cgroups, daemon.census().mounts, daemon.census().interfaces);
    let want = (before.cgroups, before.mounts, before.interfaces);
    wait_until("nothing is left", Duration::from_secs(20), || after() == want);
    drop(daemon.api());
    daemon.kill();
    daemon.begin();
    let all = daemon.api().get("/containers/json?all=1").expect("an answer").json();
    assert_eq!(all, json!([]), "a removed container has come back");
}

fn dice_of(client: u64, sides: u64) -> u64 {
    client % sides
}

/// One request of any kind at one container. What it is answered matters only in that it is: never a failure of the
/// engine itself, never a hang.
fn storm(daemon: &Daemon, api: &mut Client, dice: &mut Dice, name: &str) {
    let answer = match dice.roll(16) {
        0..4 => api.post_empty(&format!("/containers/{name}/start")),
        4 | 5 => api.post_empty(&format!("/containers/{name}/stop?t=0")),
        6 => api.post_empty(&format!("/containers/{name}/kill?signal=KILL")),
        7 => api.post_empty(&format!("/containers/{name}/kill?signal=TERM")),
        8 => api.post_empty(&format!("/containers/{name}/restart?t=0")),
        9 => api.post_empty(&format!("/containers/{name}/pause")),
        10 | 11 => api.post_empty(&format!("/containers/{name}/unpause")),
        12 => {
            let other = format!("{name}x{}", dice.roll(1000));
            match api.post_empty(&format!("/containers/{name}/rename?name={other}")) {
                Ok(renamed) if renamed.status == 204 => {
                    api.post_empty(&format!("/containers/{other}/rename?name={name}"))
                }
                answer => answer,
            }
        }
        13 => api.post(
            &format!("/containers/{name}/update"),
            &json!({ "Memory": (16 + dice.roll(16)) << 20, "MemorySwap": -1 }),
        ),
        14 => match api.post(&format!("/containers/{name}/exec"), &json!({ "Cmd": ["true"] })) {
            Ok(made) if made.status == 201 => {
                let id = made.json()["Id"].as_str().unwrap_or_default().to_owned();
                api.post(&format!("/exec/{id}/start"), &json!({ "Detach": true }))
            }
            answer => answer,
        },
        // Rarely, or there would soon be nothing to meet at.
        _ if dice.roll(8) == 0 => api.delete(&format!("/containers/{name}?force=1")),
        // A client that goes away in the middle of its request.
        _ => {
            if let Ok(mut stream) = daemon.api().connect() {
                let verb = ["start", "stop?t=0", "restart?t=0"][dice.roll(3) as usize];
                let request = format!(
                    "POST /containers/{name}/{verb} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
                );
                std::io::Write::write_all(stream.get_mut(), request.as_bytes()).ok();
            }
            return;
        }
    };
    let answer = answer.expect("an answer");
    let meant = answer.status < 500
        // A start, an exec or a limit whose container was killed in the middle of it.
        || ["ended", "not running", "no such process", "without a word", "cgroup"]
            .iter()
            .any(|words| answer.text().to_lowercase().contains(words));
    assert!(meant, "{} {}", answer.status, answer.text());
}

#[test]
fn the_second_of_two_removals_is_told_of_the_first() {
    let daemon = Daemon::start();
    let mut told = 0;
    for round in 0..10 {
        let name = format!("box{round}");
        create(&mut daemon.api(), &name, "sleep 1000", "no");
        daemon.ok(&["start", &name]);
        let path = format!("/containers/{name}?force=1");
        let clients = [daemon.api(), daemon.api(), daemon.api()].map(|mut api| {
            let path = path.clone();
            std::thread::spawn(move || api.delete(&path).expect("an answer"))
        });
        let answers = clients.map(|client| client.join().expect("a client ends"));
        let removed = answers.iter().filter(|answer| answer.status == 204).count();
        assert_eq!(removed, 1, "{answers:?}");
        for refused in answers.iter().filter(|answer| answer.status != 204) {
            let words = refused.json()["message"].as_str().unwrap_or_default().to_owned();
            let in_progress = format!("removal of container {name} is already in progress");
            match refused.status {
                409 => assert_eq!(words, in_progress),
                // It came when nothing was left to remove.
                status => assert_eq!((status, words), (404, format!("No such container: {name}"))),
            }
            told += usize::from(refused.status == 409);
        }
    }
    assert!(told > 0, "no removal met another");
}

#[test]
fn an_image_that_is_about_to_be_mounted_is_not_pruned() {
    use std::sync::atomic::{AtomicBool, Ordering};
    const ROUNDS: usize = 60;
    /// Ends the pruner also where the test fails.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let daemon = Daemon::start();
    let mut api = daemon.api();
    create(&mut api, "base", "true", "no");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            let mut api = daemon.api();
            while !ended.load(Ordering::Relaxed) {
                // {"dangling":["false"]}: those with a name go, too.
                let path = "/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D";
                let pruned = api.post_empty(path).expect("an answer");
                assert_eq!(pruned.status, 200, "{}", pruned.text());
            }
        });
        let _end = End(&ended);
        let (mut made, mut tried) = (0, 0);
        while made < ROUNDS && !pruner.is_finished() {
            tried += 1;
            assert!(tried < ROUNDS * 50, "only {made} containers were made: the prune is always first");
            let image = api.post_empty("/commit?container=base&repo=files").expect("an answer").json();
            let image = image["Id"].as_str().expect("an image").to_owned();
            let mount = json!({ "Type": "image", "Source": image, "Target": "/i" });
            let body = json!({ "Image": "busybox", "HostConfig": { "Mounts": [mount] } });
            let created = api.post("/containers/create?name=user", &body).expect("an answer");
            // Pruned before it was asked for.
            if created.status == 404 {
                continue;
            }
            assert_eq!(created.status, 201, "{}", created.text());
            made += 1;
            let there = api.get(&format!("/images/{image}/json")).expect("an answer").status;
            let gone = api.delete("/containers/user").expect("an answer");
            assert_eq!((there, gone.status), (200, 204), "the image of a container's mount was pruned");
        }
    });
}
