//! The daemon holds no container's life in its hands: it may die at any moment.

use hull_tests::{Daemon, Engine, wait_until};
use std::time::Duration;

/// dockerd, as it is installed, takes its containers with it.
fn only_hull() -> bool {
    Engine::under_test() == Engine::Hull
}

#[test]
fn everything_goes_on_without_it() {
    if !only_hull() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.session(
        r#"
        $ mkdir www; echo 'it works' >www/index.html
        $ hull run -d --name web -p 127.0.0.1:3000:80 -v ./www:/www busybox httpd -f -p 80 -h /www >/dev/null
        $ hull run -d --name paused busybox sh -c 'while :; do date; usleep 10000; done' >/dev/null; hull pause paused
        paused
        $ hull run -d --name ends busybox sh -c 'until test -e /go; do usleep 10000; done; exit 5' >/dev/null
        $ hull run -d --name talks busybox sh -c 'i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); usleep 5000; done; exit 6' >/dev/null
        $ hull run -d --name removed --rm busybox sh -c 'until test -e /go; do usleep 10000; done' >/dev/null
        $ eventually curl -sf http://127.0.0.1:3000/
        $ hull inspect -f '{{.Name}} {{.State.Pid}}' web paused >pids
        $ hull inspect -f '/proc/{{.State.Pid}}/root/go' ends removed >doors
        "#,
    );
    daemon.kill();
    daemon.session(
        r#"
        $ curl -sf --max-time 2 http://127.0.0.1:3000/
        it works
        $ touch $(cat doors)
        "#,
    );
    daemon.begin();
    daemon.session(
        r#"
        $ hull wait ends talks
        5
        6
        $ hull logs talks >said; seq 0 299 | cmp - said
        $ hull ps --format '{{.Names}} {{.State}}' | sort
        paused paused
        web running
        $ hull inspect -f '{{.Name}} {{.State.Pid}}' web paused | cmp - pids
        $ curl -sf --max-time 2 http://127.0.0.1:3000/
        it works
        $ hull unpause paused; hull exec paused echo in
        paused
        in
        $ hull exec web echo in
        in
        $ hull stop -t 0 web; curl -sf --max-time 1 http://127.0.0.1:3000/
        web
        [7]
        $ eventually sh -c '! hull inspect removed'; hull ps -a --format '{{.Names}}' | sort
        ends
        paused
        talks
        web
        $ hull rm -f ends paused talks web >/dev/null; hull ps -aq
        "#,
    );
}

#[test]
fn a_hundred_deaths_under_load_lose_nothing() {
    if !only_hull() {
        return;
    }
    const DEATHS: u32 = 100;
    let mut daemon = Daemon::start();
    for n in 0..10 {
        let script =
            "i=0; until test -e /go; do echo $i; i=$((i+1)); usleep 20000; done; echo last $i; exit 7";
        daemon.ok(&["run", "-d", "--name", &format!("long{n}"), "busybox", "sh", "-c", script]);
    }
    daemon.ok(&["pause", "long0"]);
    let pids = daemon.ok(&["ps", "-q"]).lines().count();
    assert_eq!(pids, 10);
    let mut seed = u64::from(std::process::id());
    for death in 0..DEATHS {
        // Clients come and go meanwhile; what they get matters only in that each answer that came is true.
        let started: Vec<String> = std::thread::scope(|scope| {
            let load: Vec<_> = (0..2)
                .map(|n| {
                    let name = format!("short-{death}-{n}");
                    let (mut start, mut churn) = (
                        daemon.client(&["run", "-d", "--name", &name, "busybox", "sh", "-c", "exit 9"]),
                        daemon.client(&["run", "--rm", "busybox", "true"]),
                    );
                    scope.spawn(move || {
                        let churned = churn.output().expect("the client");
                        drop(churned);
                        start.output().expect("the client").status.success().then_some(name)
                    })
                })
                .collect();
            // A moment that is another each time, measured in the daemon's own answers.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut api = daemon.api();
            for _ in 0..(seed >> 33) % 60 {
                api.get("/containers/json").expect("an answer");
            }
            daemon_dies(&mut daemon);
            load.into_iter().filter_map(|thread| thread.join().expect("the thread")).collect()
        });
        daemon.begin();
        for name in started {
            assert_eq!(daemon.ok(&["wait", &name]), "9", "{name}, whose start was answered");
        }
        assert_eq!(
            daemon.ok(&["ps", "-q", "--filter", "name=long"]).lines().count(),
            10,
            "after death {death}"
        );
    }
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "long0"]), "paused");
    daemon.ok(&["unpause", "long0"]);
    for n in 0..10 {
        let name = format!("long{n}");
        // The container may end while the exec is still in it.
        daemon.client(&["exec", &name, "touch", "/go"]).output().expect("the client");
        assert_eq!(daemon.ok(&["wait", &name]), "7");
        let said = daemon.ok(&["logs", &name]);
        let mut lines = said.lines();
        let last: usize = lines
            .next_back()
            .and_then(|line| line.strip_prefix("last "))
            .expect(&said)
            .parse()
            .expect("a number");
        assert!(lines.eq((0..last).map(|i| i.to_string())), "{name}: a line was lost or doubled");
    }
    let all = daemon.ok(&["ps", "-aq"]);
    let mut remove = vec!["rm", "-f"];
    remove.extend(all.lines());
    daemon.ok(&remove);
    let short =
        |path: &str| std::fs::read_dir(daemon.dir().join(path)).map(|entries| entries.count()).unwrap_or(0);
    wait_until("no container's folder is left", Duration::from_secs(20), || {
        short("data/containers") == 0 && short("exec/containers") == 0
    });
    assert_eq!(daemon.census().cgroups, 0, "no cgroup is left: {}", daemon.census());
}

/// Kills the daemon; a name of its own, for the closure that borrows the rest.
fn daemon_dies(daemon: &mut Daemon) {
    daemon.kill();
}

#[test]
fn what_no_row_owns_is_ended_wherever_its_cgroup_is() {
    if !only_hull() {
        return;
    }
    let mut daemon = Daemon::start();
    let parent = format!("/hull-test-parent-{}", std::process::id());
    daemon.ok(&["run", "-d", "--name", "plain", "busybox", "sleep", "600"]);
    daemon.ok(&["run", "-d", "--name", "parent", "--cgroup-parent", &parent, "busybox", "sleep", "600"]);
    let pids = ["plain", "parent"].map(|name| daemon.ok(&["inspect", "-f", "{{.State.Pid}}", name]));
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", pids[1])).expect("it runs");
    assert!(cgroups.contains(&parent), "{cgroups}");
    daemon.kill();
    // The rows go with the data root; as of a removal that was cut off, one folder is aside.
    let data = daemon.dir().join("data");
    std::fs::rename(&data, daemon.dir().join("lost")).expect("the data root is moved");
    std::fs::create_dir(&data).expect("another data root");
    for entry in std::fs::read_dir(daemon.dir().join("exec/c")).expect("the runtime folders").flatten() {
        std::fs::rename(entry.path(), entry.path().with_extension("gone")).expect("a folder is put aside");
    }
    daemon.begin();
    for pid in pids {
        let gone = || !std::path::Path::new(&format!("/proc/{pid}")).exists();
        wait_until("its processes are gone", Duration::from_secs(10), gone);
    }
    let left: Vec<_> =
        std::fs::read_dir(daemon.dir().join("exec/c")).expect("the folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    // Whoever made the parent removes it; what was in it is gone.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("the hierarchies").flatten() {
        let folder = hierarchy.path().join(parent.trim_start_matches('/'));
        if folder.exists() {
            std::fs::remove_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
    }
}
