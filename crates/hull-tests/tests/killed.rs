//! The daemon killed at any moment of what changes the disk: nothing is missing, half or orphaned behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hull_tests::registry::Registry;
use hull_tests::{Client, Daemon, Engine, private_network, wait_until};
use serde_json::{Value, json};

/// How often the daemon is killed where `HULL_TEST_KILLS` says nothing.
const KILLS: u32 = 30;

/// A generator of numbers that are random enough for moments.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What is done over and over until the daemon is gone; each piece with a connection of its own.
type Work = fn(&mut Client, &Given, u64) -> std::io::Result<()>;

const WORK: [Work; 8] = [load_and_remove, pull_and_remove, commit, containers, volumes, prune, import, build];

/// What the work is done with.
struct Given {
    /// An image of three layers, saved.
    archive: Vec<u8>,
    /// An image in a registry.
    image: String,
}

fn pull_and_remove(api: &mut Client, given: &Given, _: u64) -> std::io::Result<()> {
    api.post_empty(&format!("/images/create?fromImage={}", given.image))?;
    api.delete(&format!("/images/{}?force=1", given.image))?;
    Ok(())
}

fn load_and_remove(api: &mut Client, given: &Given, _: u64) -> std::io::Result<()> {
    api.send("POST", "/images/load?quiet=1", "application/x-tar", &given.archive)?;
    api.delete("/images/layered:latest?force=1")?;
    Ok(())
}

fn commit(api: &mut Client, _: &Given, round: u64) -> std::io::Result<()> {
    let body = json!({ "Image": "busybox", "Cmd": ["true"] });
    let made = api.post(&format!("/containers/create?name=commit-{round}"), &body)?.json();
    let Some(id) = made["Id"].as_str() else { return Ok(()) };
    api.send(
        "PUT",
        &format!("/containers/{id}/archive?path=/"),
        "application/x-tar",
        &hull_tests::Tar::new().file("new", &[7; 50_000]).finish(),
    )?;
    api.post(&format!("/commit?container={id}&repo=committed&tag={}", round % 3), &json!({}))?;
    api.delete(&format!("/containers/{id}"))?;
    Ok(())
}

fn containers(api: &mut Client, _: &Given, round: u64) -> std::io::Result<()> {
    let host = json!({ "Binds": ["shared:/shared", "/anonymous"] });
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": host });
    let made = api.post(&format!("/containers/create?name=run-{round}"), &body)?.json();
    let Some(id) = made["Id"].as_str() else { return Ok(()) };
    api.post_empty(&format!("/containers/{id}/start"))?;
    api.delete(&format!("/containers/{id}?force=1&v=1"))?;
    Ok(())
}

fn volumes(api: &mut Client, _: &Given, round: u64) -> std::io::Result<()> {
    let name = format!("vol-{round}");
    api.post("/volumes/create", &json!({ "Name": name }))?;
    let archive = hull_tests::Tar::new().file("a", &[1; 100_000]).file("b", b"b").finish();
    api.send("POST", &format!("/volumes/{name}/import"), "application/x-tar", &archive)?;
    api.post(&format!("/volumes/{name}/clone"), &json!({ "Name": format!("{name}-clone") }))?;
    api.delete(&format!("/volumes/{name}"))?;
    api.delete(&format!("/volumes/{name}-clone"))?;
    Ok(())
}

fn prune(api: &mut Client, _: &Given, round: u64) -> std::io::Result<()> {
    // Everything that nobody uses every other time.
    let all = if round.is_multiple_of(2) {
        "?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D"
    } else {
        "?filters=%7B%22label%21%22%3A%5B%22keep%22%5D%7D"
    };
    api.post_empty(&format!("/images/prune{all}"))?;
    api.post_empty("/containers/prune")?;
    api.post_empty("/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D")?;
    Ok(())
}

fn import(api: &mut Client, _: &Given, round: u64) -> std::io::Result<()> {
    let archive = hull_tests::Tar::new().file("imported", &round.to_le_bytes().repeat(10_000)).finish();
    let path = format!("/images/create?fromSrc=-&repo=imported&tag={}", round % 4);
    api.send("POST", &path, "application/x-tar", &archive)?;
    Ok(())
}

/// A build of two stages, some steps of which are kept from earlier ones; what was built goes every other time.
fn build(api: &mut Client, _: &Given, round: u64) -> std::io::Result<()> {
    let file = format!(
        "FROM busybox AS a\nRUN --mount=type=cache,target=/c echo {0} >/c/n; echo {0} >/n\nFROM busybox\nCOPY file /d/\n\
         COPY --from=a /n /n\nWORKDIR /w\nRUN rm /d/file; echo {1} >/x\n",
        round % 5,
        round % 3
    );
    let archive = hull_tests::Tar::new().file("Dockerfile", file.as_bytes()).file("file", &[9; 200_000]);
    let path = format!("/build?t=built:{}&nocache={}", round % 2, round % 4 / 3);
    api.send("POST", &path, "application/x-tar", &archive.finish())?;
    if round.is_multiple_of(2) {
        api.delete("/images/built:0?force=1")?;
        api.post_empty("/build/prune")?;
    }
    Ok(())
}

/// An image of three layers.
fn layered(daemon: &Daemon) -> Vec<u8> {
    for (from, to) in [("busybox", "one"), ("one", "layered")] {
        daemon.ok(&[
            "run",
            "--name",
            to,
            from,
            "sh",
            "-c",
            "dd if=/dev/urandom of=/$HOSTNAME bs=64k count=30; rm -f /etc/group",
        ]);
        daemon.ok(&["commit", to, to]);
        daemon.ok(&["rm", to]);
    }
    let archive = daemon.api().get("/images/layered/get").expect("an answer");
    assert_eq!(archive.status, 200);
    archive.body
}

#[test]
fn whenever_the_daemon_is_killed_everything_is_accounted_for() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let kills = std::env::var("HULL_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let seed = std::env::var("HULL_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    let mut random = Random(seed);
    private_network();
    let registry = Registry::start();
    registry.image("1", &[300_000, 200_000, 1000]);
    let mut daemon = Daemon::start();
    let image = format!("{}/a/b:1", registry.address);
    let given = Arc::new(Given { archive: layered(&daemon), image });
    daemon.ok(&["rmi", "layered", "one"]);
    for kill in 0..kills {
        let over = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = WORK
            .into_iter()
            .enumerate()
            .map(|(number, work)| {
                let (mut api, given, over) = (daemon.api(), Arc::clone(&given), Arc::clone(&over));
                std::thread::spawn(move || {
                    let mut round = u64::from(kill) * 1000 + number as u64;
                    while !over.load(Ordering::Relaxed) && work(&mut api, &given, round).is_ok() {
                        round += 1;
                    }
                })
            })
            .collect();
        let moment = Instant::now() + Duration::from_micros(1000 + random.below(400_000));
        wait_until("its moment has come", Duration::from_secs(10), || Instant::now() >= moment);
        daemon.kill();
        over.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|worker| worker.join().expect("a worker ends with the daemon"));
        daemon.begin();
        let contents: &[&str] = if kill % 10 == 0 { &["--contents"] } else { &[] };
        let found = daemon.hull(&[&["system", "fsck"], contents].concat());
        assert!(found.status == 0, "kill {kill} of seed {seed}: {found:?}");
        daemon.import_busybox();
    }
    // What is there is whole: it can be used, and goes without a rest.
    daemon.ok(&["run", "--rm", "busybox", "true"]);
    daemon.session(
        r#"
        $ hull ps -aq | xargs -r hull rm -fv >/dev/null; hull volume prune -af >/dev/null; hull images -q | sort -u | grep -v "$(hull images -q hull/host)" | xargs -r hull rmi -f >/dev/null; hull image prune -af >/dev/null; hull builder prune -af >/dev/null
        $ hull system fsck --contents
        0 images, 0 layers, 0 snapshots, 0 containers, 0 volumes, 3 networks: nothing is wrong
        "#,
    );
    let left: Value = daemon.api().get("/system/df").expect("an answer").json();
    assert_eq!(left["LayersSize"], 0, "{left}");
}
