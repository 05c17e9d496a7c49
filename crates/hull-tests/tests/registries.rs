//! Pulls from a registry that does what it should, over lines that do not.

use std::time::{Duration, Instant};

use hull_tests::registry::{Answer, INDEX, Registry, Then, noise};
use hull_tests::{Daemon, Engine, PATIENCE, private_network, wait_until};
use serde_json::json;

const MIB: usize = 1 << 20;

fn daemon(options: &[&str]) -> Daemon {
    Daemon::empty(Engine::Hull, options)
}

/// What the image's files of noise are, seen from a container of it.
fn check_files(daemon: &Daemon, image: &str, sizes: &[usize]) {
    let folder = daemon.dir().join("work/out");
    std::fs::create_dir_all(&folder).expect("a folder");
    daemon.ok(&["create", "--name", "checked", image, "true"]);
    for (number, &size) in sizes.iter().enumerate() {
        let file = folder.join(number.to_string());
        daemon.ok(&["cp", &format!("checked:/{number}"), file.to_str().expect("a path")]);
        assert!(
            std::fs::read(&file).expect("the copy") == noise(number as u64 + 1, size),
            "the layer {number}"
        );
    }
    daemon.ok(&["rm", "checked"]);
}

/// Nothing is left of what did not arrive, but what a later pull goes on with.
fn nothing_left(daemon: &Daemon) {
    for folder in ["layers", "split", "tmp"] {
        let folder = daemon.dir().join("data/image").join(folder);
        let left = || {
            std::fs::read_dir(&folder)
                .map_or(0, |entries| entries.flatten().filter(|entry| entry.file_name() != "0").count())
        };
        wait_until(&format!("nothing is left in {}", folder.display()), PATIENCE, || left() == 0);
    }
    assert_eq!(daemon.ok(&["images", "-aq", "--filter", "dangling=true"]), "");
}

#[test]
fn an_image_is_pulled_once_and_runs() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    registry.image("1", &[MIB]);
    let image = format!("{}/a/b:1", registry.address);
    let told = daemon.ok(&["pull", &image]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], "1: Pulling from a/b");
    assert_eq!(told.matches(": Pulling fs layer").count(), 2, "{told}");
    assert_eq!(told.matches(": Pull complete").count(), 2, "{told}");
    assert!(lines[lines.len() - 3].starts_with("Digest: sha256:"), "{told}");
    assert_eq!(lines[lines.len() - 2], format!("Status: Downloaded newer image for {image}"));
    assert_eq!(lines[lines.len() - 1], image);
    assert_eq!(daemon.ok(&["run", "--rm", "--network=none", &image, "echo", "hi"]), "hi");
    // Once more nothing but what the name means is asked for.
    let (sent, asked) = (registry.sent(), registry.asked().len());
    assert!(daemon.ok(&["pull", &image]).contains(&format!("Status: Image is up to date for {image}")));
    assert_eq!(registry.sent(), sent);
    let later: Vec<String> =
        registry.asked()[asked..].iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect();
    assert_eq!(later, ["GET /v2/", "HEAD /v2/a/b/manifests/1"]);
    // By its digest it is the same.
    let digest = daemon.ok(&["image", "inspect", "-f", "{{index .RepoDigests 0}}", &image]);
    assert_eq!(daemon.ok(&["pull", "-q", &digest]), digest);
    assert_eq!(registry.sent(), sent);
    let images = daemon.ok(&[
        "images",
        "--digests",
        "--format",
        "{{.Repository}}:{{.Tag}} {{.Digest}}",
        &format!("{}/a/b", registry.address),
    ]);
    assert_eq!(images, format!("{image} {}", digest.split('@').next_back().expect("a digest")));
}

#[test]
fn a_line_that_breaks_at_random_costs_little_and_what_arrives_is_right() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    let sizes = [9 * MIB, 5 * MIB + 12345, 3 * MIB, 0];
    let manifest = registry.image("1", &sizes);
    let whole: u64 = manifest["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|layer| layer["size"].as_u64().unwrap_or(0))
        .sum();
    let seed = std::sync::atomic::AtomicU64::new(1);
    registry.misbehave(move |asked, answer| match asked.is_blob() {
        true => {
            let random = noise(seed.fetch_add(1, std::sync::atomic::Ordering::Relaxed), 4);
            // Now and then at once, and never later than after 600 kB.
            answer
                .cut(u32::from_le_bytes(random.try_into().expect("four bytes")) as usize % 600_000, Then::Cut)
        }
        false => answer,
    });
    let image = format!("{}/a:1", registry.address);
    daemon.ok(&["pull", "-q", &image]);
    let blobs = registry.asked().iter().filter(|asked| asked.is_blob()).count();
    assert!(blobs > 30, "{blobs} lines were enough");
    let configuration = manifest["config"]["size"].as_u64().unwrap_or(0);
    let limit = (whole + configuration) * 105 / 100;
    assert!(registry.sent() < limit, "{} bytes were sent of an image of {whole}", registry.sent());
    check_files(&daemon, &image, &sizes);
    let partial = std::fs::read_dir(daemon.dir().join("data/image/partial")).expect("the folder");
    assert_eq!(partial.count(), 0);
}

#[test]
fn what_a_killed_daemon_had_is_not_fetched_again() {
    private_network();
    let registry = Registry::start();
    let mut daemon = daemon(&["--max-concurrent-downloads=1"]);
    let sizes = [8 * MIB];
    let manifest = registry.image("1", &sizes);
    let layers: Vec<u64> = manifest["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|layer| layer["size"].as_u64().unwrap_or(0))
        .collect();
    let large = manifest["layers"][1]["digest"].as_str().expect("a digest").to_owned();
    let at = 6 * MIB;
    let stalls = large.clone();
    registry.misbehave(move |asked, answer| match asked.is_blob() && asked.path.ends_with(&stalls) {
        true => answer.cut(at, Then::Stall),
        false => answer,
    });
    let image = format!("{}/a:1", registry.address);
    let mut pull = daemon.client(&["pull", "-q", &image]).spawn().expect("the client");
    let partial = daemon.dir().join("data/image/partial").join(large.trim_start_matches("sha256:"));
    wait_until("all that came is on the disk", PATIENCE, || {
        std::fs::metadata(&partial).is_ok_and(|file| file.len() == at as u64)
    });
    daemon.kill();
    pull.wait().expect("the client ends");
    registry.behave();
    daemon.begin();
    daemon.ok(&["pull", "-q", &image]);
    let whole: u64 = layers.iter().sum();
    // The other layer was complete and not entered: it need not come again either.
    assert!(registry.sent() < whole * 105 / 100, "{} of {whole}", registry.sent());
    check_files(&daemon, &image, &sizes);
}

#[test]
fn what_is_wrong_on_the_disk_is_fetched_anew() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    let sizes = [MIB];
    let manifest = registry.image("1", &sizes);
    let digest = manifest["layers"][1]["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
    std::fs::write(daemon.dir().join("data/image/partial").join(digest), noise(77, MIB / 2)).expect("a file");
    let image = format!("{}/a:1", registry.address);
    daemon.ok(&["pull", "-q", &image]);
    check_files(&daemon, &image, &sizes);
}

#[test]
fn a_registry_without_ranges_is_enough() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    let sizes = [2 * MIB];
    registry.image("1", &sizes);
    let first = std::sync::atomic::AtomicBool::new(true);
    let whole = std::sync::Mutex::new(std::collections::HashMap::new());
    registry.misbehave(move |asked, answer| {
        if !asked.is_blob() {
            return answer;
        }
        let mut whole = whole.lock().expect("the map");
        let kept: &mut Vec<u8> = whole.entry(asked.path.clone()).or_default();
        if answer.status == 200 {
            kept.clone_from(&answer.body);
        }
        let answer = Answer::of(200, "application/octet-stream", kept.clone());
        match kept.len() > MIB && first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            true => answer.cut(MIB, Then::Cut),
            false => answer,
        }
    });
    let image = format!("{}/a:1", registry.address);
    daemon.ok(&["pull", "-q", &image]);
    check_files(&daemon, &image, &sizes);
}

#[test]
fn a_registry_that_speaks_http_1_0_is_enough() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    let sizes = [MIB, 10];
    registry.image("1", &sizes);
    // Each answer ends with its line, and none says how long it is.
    registry.misbehave(|_, answer| Answer { then: Then::Close, ..answer });
    let image = format!("{}/a:1", registry.address);
    daemon.ok(&["pull", "-q", &image]);
    check_files(&daemon, &image, &sizes);
    let other = format!("{}/b:2", registry.address);
    daemon.ok(&["tag", &image, &other]);
    daemon.ok(&["push", "-q", &other]);
    // A body that ends too early is seen all the same, by its length in the manifest, and the rest is asked for.
    daemon.ok(&["rmi", "-f", &image, &other]);
    let before = registry.asked().len();
    registry.misbehave(|asked, answer| match asked.is_blob() && answer.body.len() > MIB {
        true => answer.cut(MIB / 2, Then::Close),
        false => Answer { then: Then::Close, ..answer },
    });
    daemon.ok(&["pull", "-q", &image]);
    check_files(&daemon, &image, &sizes);
    let rest = registry.asked().split_off(before);
    assert!(rest.iter().any(|asked| asked.header("range").is_some()), "{rest:?}");
}

#[test]
fn two_pulls_of_one_image_download_once() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    let manifest = registry.image("1", &[2 * MIB, 2 * MIB]);
    // The same layers under another name: they are waited for, too.
    registry.manifest("2", hull_tests::registry::MANIFEST, &manifest);
    let image = format!("{}/a:1", registry.address);
    let other = format!("{}/a:2", registry.address);
    let mut pulls: Vec<_> = [&image, &image, &image, &other]
        .into_iter()
        .map(|name| {
            daemon.client(&["pull", name]).stdout(std::process::Stdio::piped()).spawn().expect("the client")
        })
        .collect();
    for pull in pulls.drain(..) {
        let output = pull.wait_with_output().expect("the client ends");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && told.contains(": Pull"), "{told}");
    }
    let whole: u64 = manifest["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|layer| layer["size"].as_u64().unwrap_or(0))
        .sum();
    let configuration = manifest["config"]["size"].as_u64().unwrap_or(0);
    assert!(registry.sent() <= whole + 4 * configuration, "{} of {whole}", registry.sent());
}

#[test]
fn a_client_that_goes_away_ends_its_pull() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    registry.image("1", &[4 * MIB]);
    registry.misbehave(|asked, answer| match asked.is_blob() && answer.body.len() > 2 * MIB {
        true => answer.cut(MIB, Then::Stall),
        false => answer,
    });
    let image = format!("{}/a:1", registry.address);
    let mut pull = daemon.client(&["pull", "-q", &image]).spawn().expect("the client");
    registry.wait_for(|asked| asked.is_blob());
    wait_until("a layer is on its way", PATIENCE, || registry.sent() >= MIB as u64);
    pull.kill().expect("one's own child can be killed");
    pull.wait().expect("and waited for");
    nothing_left(&daemon);
    registry.behave();
    daemon.ok(&["pull", "-q", &image]);
}

#[test]
fn a_dead_mirror_costs_one_time_out() {
    private_network();
    let (registry, mirror) = (Registry::start(), Registry::start());
    // It takes the call and says nothing.
    mirror.misbehave(|_, answer| answer.cut(0, Then::Stall));
    let configuration = json!({
        "mirrors": { format!("{}/team", registry.address): [format!("http://{}/copies", mirror.address)] },
        "registry-timeout": 2,
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("daemon.json");
    std::fs::write(&file, configuration.to_string()).expect("the configuration");
    let daemon = daemon(&["--config", file.to_str().expect("a path")]);
    registry.image("1", &[1000, 1001, 1002, 1003, 1004, 1005]);
    // HEAD and GET are answered with a head, and the body does not come: all that can be tried is.
    mirror.misbehave(|_, answer| Answer { status: 200, ..answer }.cut(0, Then::Stall));
    let begun = Instant::now();
    daemon.ok(&["pull", "-q", &format!("{}/team/a:1", registry.address)]);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2 * 4), "it took {took:?}");
    assert!(mirror.lines() <= 2, "the mirror was called {} times", mirror.lines());
    assert!(mirror.asked().iter().all(|asked| asked.header("authorization").is_none()));
}

#[test]
fn a_mirror_that_dies_amid_a_pull_costs_one_time_out() {
    private_network();
    let (registry, mirror) = (Registry::start(), Registry::start());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("daemon.json");
    let mirrors = json!({ registry.address.clone(): [format!("http://{}", mirror.address)] });
    let configuration = json!({ "mirrors": mirrors, "registry-timeout": 2 });
    std::fs::write(&file, configuration.to_string()).expect("the configuration");
    let daemon = daemon(&["--config", file.to_str().expect("a path")]);
    let sizes = [300_000; 8];
    registry.image("1", &sizes);
    mirror.image("1", &sizes);
    mirror.misbehave(|asked, answer| match asked.is_blob() && answer.body.len() > 200_000 {
        true => answer.cut(100_000, Then::Stall),
        false => answer,
    });
    let begun = Instant::now();
    let image = format!("{}/a:1", registry.address);
    daemon.ok(&["pull", "-q", &image]);
    let took = begun.elapsed();
    // What stood still is asked for once more, and is left when nothing comes.
    assert!(took < Duration::from_secs(2 * 4), "it took {took:?}");
    check_files(&daemon, &image, &sizes);
}

#[test]
fn a_mirror_is_asked_first_by_its_prefix_and_the_registry_for_what_it_has_not() {
    private_network();
    let (registry, mirror) = (Registry::start(), Registry::start());
    let configuration = json!({
        "mirrors": { format!("{}/team", registry.address): [format!("http://{}/copies", mirror.address)] },
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("daemon.json");
    std::fs::write(&file, configuration.to_string()).expect("the configuration");
    let daemon = daemon(&["--config", file.to_str().expect("a path")]);
    mirror.image("1", &[1000]);
    registry.image("2", &[2000]);
    daemon.ok(&["pull", "-q", &format!("{}/team/a:1", registry.address)]);
    assert_eq!(registry.lines(), 0);
    assert!(mirror.asked().iter().any(|asked| asked.path == "/v2/copies/a/manifests/1"));
    daemon.ok(&["pull", "-q", &format!("{}/team/a:2", registry.address)]);
    assert!(registry.asked().iter().any(|asked| asked.path == "/v2/team/a/manifests/2"));
    // Another repository of the same registry has no mirror.
    let before = mirror.asked().len();
    daemon.ok(&["pull", "-q", &format!("{}/other/a:2", registry.address)]);
    assert_eq!(mirror.asked().len(), before);
}

#[test]
fn all_tags_and_the_platform_of_an_index() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    registry.image("1", &[1000]);
    let two = registry.image("2", &[2000]).to_string();
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let digest = hull_tests::registry::digest(two.as_bytes());
    let of = |architecture: &str| {
        json!({ "mediaType": hull_tests::registry::MANIFEST, "digest": digest, "size": two.len(),
                "platform": { "os": "linux", "architecture": architecture } })
    };
    let missing = json!({ "mediaType": hull_tests::registry::MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)),
                          "size": 1, "platform": { "os": "linux", "architecture": "s390x" } });
    let index = registry.manifest(
        "many",
        INDEX,
        &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [missing, of(host)] }),
    );
    let name = format!("{}/a", registry.address);
    daemon.ok(&["pull", "-q", "--all-tags", &name]);
    let tags = daemon.ok(&["images", "--format", "{{.Tag}}", &name]);
    let mut tags: Vec<&str> = tags.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "2", "many"]);
    let digests = daemon.ok(&["image", "inspect", "-f", "{{json .RepoDigests}}", &format!("{name}:many")]);
    assert!(digests.contains(&index) && digests.contains(&digest), "{digests}");
    let refused = daemon.hull(&["pull", "--platform", "linux/ppc64le", &format!("{name}:many")]);
    let offered = format!(
        "no matching manifest for linux/ppc64le in the manifest list entries: {name}:many is offered for linux/{host}, linux/s390x"
    );
    assert!(refused.status == 1 && refused.stderr.contains(&offered), "{refused:?}");
    let refused = daemon.hull(&["pull", "--platform", "linux/ppc64le", &format!("{name}:1")]);
    assert!(refused.stderr.contains("does not match the specified platform"), "{refused:?}");
    // What is missing is pulled where it is run.
    daemon.ok(&["rmi", "-f", &format!("{name}:1")]);
    let run = daemon.hull(&["run", "--rm", "--network=none", &format!("{name}:1"), "echo", "pulled"]);
    assert!(run.stdout == "pulled\n" && run.stderr.contains("Unable to find image"), "{run:?}");
    let never = daemon.hull(&["run", "--rm", "--pull=never", &format!("{name}:none"), "true"]);
    assert_eq!(never.status, 125, "{never:?}");
}

#[test]
fn a_pull_is_told_to_who_listens_for_events() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    registry.image("1", &[]);
    let image = format!("{}/a:1", registry.address);
    daemon.ok(&["pull", "-q", &image]);
    let events = daemon.ok(&[
        "events",
        "--since",
        "1m",
        "--until",
        "0s",
        "--filter",
        "event=pull",
        "--format",
        "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}",
    ]);
    assert_eq!(events, format!("pull {image} {}/a", registry.address));
}

#[test]
fn a_daemon_killed_at_any_moment_of_a_pull_leaves_nothing_half() {
    private_network();
    let registry = Registry::start();
    let mut daemon = daemon(&[]);
    let sizes = [MIB, 700_000, 2 * MIB, 10];
    let manifest = registry.image("1", &sizes);
    let whole: u64 = manifest["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|layer| layer["size"].as_u64().unwrap_or(0))
        .sum();
    let image = format!("{}/a:1", registry.address);
    for round in 0..12u64 {
        let random = u64::from_le_bytes(noise(round + 1, 8).try_into().expect("eight bytes"));
        let until = registry.sent() + random % whole;
        let mut pull = daemon.client(&["pull", "-q", &image]).spawn().expect("the client");
        // What earlier rounds have brought does not come again: then it ends sooner.
        wait_until("so much has come, or all", PATIENCE, || {
            registry.sent() >= until || pull.try_wait().is_ok_and(|ended| ended.is_some())
        });
        daemon.kill();
        pull.wait().expect("the client ends");
        daemon.begin();
        if daemon.ok(&["images", "-q", &image]).is_empty() {
            nothing_left(&daemon);
        } else {
            check_files(&daemon, &image, &sizes);
            daemon.ok(&["rmi", "-f", &image]);
            nothing_left(&daemon);
        }
    }
    daemon.ok(&["pull", "-q", &image]);
    check_files(&daemon, &image, &sizes);
}

#[test]
fn what_came_of_an_image_is_pruned_where_nobody_fetches_it() {
    private_network();
    let registry = Registry::start();
    let daemon = daemon(&[]);
    registry.image("1", &[4 * MIB]);
    registry.misbehave(|asked, answer| match asked.is_blob() && answer.body.len() > 2 * MIB {
        true => answer.cut(MIB, Then::Stall),
        false => answer,
    });
    let image = format!("{}/a:1", registry.address);
    let mut pull = daemon.client(&["pull", "-q", &image]).spawn().expect("the client");
    let partial = || {
        let files = std::fs::read_dir(daemon.dir().join("data/image/partial")).expect("the folder").flatten();
        files.filter_map(|file| file.metadata().ok()).map(|data| data.len()).max()
    };
    wait_until("a part has come", PATIENCE, || partial() == Some(MIB as u64));
    daemon.ok(&["image", "prune", "-f"]);
    assert_eq!(partial(), Some(MIB as u64), "what is being fetched was removed");
    pull.kill().expect("one's own child can be killed");
    pull.wait().expect("and waited for");
    wait_until("nobody fetches it, and it is pruned", PATIENCE, || {
        daemon.ok(&["image", "prune", "-f"]);
        partial().is_none()
    });
}

#[test]
fn proxies_of_the_environment_are_used_and_left_out() {
    private_network();
    let added =
        std::process::Command::new("ip").args(["address", "add", "10.98.7.6/32", "dev", "lo"]).status();
    assert!(added.is_ok_and(|status| status.success()), "an address that is not of the loopback");
    let (proxy, registry) = (Registry::start(), Registry::start());
    proxy.image("1", &[1000]);
    registry.image("1", &[1000]);
    let port = registry.address.rsplit_once(':').expect("a port").1.to_owned();
    proxy.misbehave(|asked, answer| match (asked.method.as_str(), asked.path.ends_with("/v2/")) {
        ("CONNECT", _) => Answer::of(403, "text/plain", ""),
        (_, true) => Answer::json(200, &json!({})),
        _ => answer,
    });
    let mut daemon = daemon(&["--insecure-registry=10.98.7.0/24"]);
    let variables = |no: &'static str| {
        let through = format!("http://someone:secret@{}", proxy.address);
        [("HTTP_PROXY", through.clone()), ("HTTPS_PROXY", through), ("NO_PROXY", no.to_owned())]
    };
    let with = |daemon: &mut Daemon, no| {
        let variables = variables(no);
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        daemon.stop();
        daemon.set_environment(&variables);
        daemon.begin();
    };
    with(&mut daemon, "");
    let image = format!("10.98.7.6:{port}/a:1");
    daemon.ok(&["pull", "-q", &image]);
    let asked = proxy.asked();
    assert!(asked.iter().any(|asked| asked.method == "CONNECT" && asked.path == format!("10.98.7.6:{port}")));
    assert!(asked.iter().any(|asked| asked.path == format!("http://10.98.7.6:{port}/v2/a/manifests/1")));
    // base64 of someone:secret, for the proxy alone.
    assert!(
        asked.iter().all(|asked| asked.header("proxy-authorization") == Some("Basic c29tZW9uZTpzZWNyZXQ="))
    );
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()));
    assert_eq!(daemon.ok(&["info", "-f", "{{.HttpProxy}}"]), format!("http://xxxxx:xxxxx@{}", proxy.address));
    // What is on this machine is not asked for through it, nor what is named.
    let before = proxy.asked().len();
    daemon.ok(&["pull", "-q", &format!("{}/a:1", registry.address)]);
    with(&mut daemon, "10.98.7.0/24");
    let refused = daemon.hull(&["pull", "-q", &format!("10.98.7.6:{port}/a:2")]);
    assert!(refused.stderr.contains("connection refused"), "{refused:?}");
    assert_eq!(proxy.asked().len(), before);
}

#[test]
fn names_without_a_registry_are_fetched_from_the_default_one_and_its_mirrors() {
    private_network();
    let (registry, mirror) = (Registry::start(), Registry::start());
    let daemon = daemon(&[
        &format!("--default-registry={}", registry.address),
        &format!("--registry-mirror=http://{}", mirror.address),
    ]);
    registry.image("1", &[]);
    mirror.image("2", &[1000]);
    daemon.ok(&["pull", "-q", "thing:1"]);
    assert!(registry.asked().iter().any(|asked| asked.path == "/v2/library/thing/manifests/1"));
    let before = registry.lines();
    daemon.ok(&["pull", "-q", "someone/thing:2"]);
    assert!(mirror.asked().iter().any(|asked| asked.path == "/v2/someone/thing/manifests/2"));
    assert_eq!(registry.lines(), before);
    assert_eq!(daemon.ok(&["run", "--rm", "--network=none", "thing:1", "echo", "hi"]), "hi");
    // Who is known to Docker's own registry is not made known to this one.
    let folder = daemon.dir().join("home/.docker");
    std::fs::create_dir_all(&folder).expect("a folder");
    let auths = json!({ "auths": { "https://index.docker.io/v1/": { "auth": "c29tZW9uZTpzZWNyZXQ=" } } });
    std::fs::write(folder.join("config.json"), auths.to_string()).expect("a file");
    registry.misbehave(|asked, answer| match asked.header("authorization") {
        None => Answer::json(401, &json!({})).with("WWW-Authenticate", "Basic realm=\"r\""),
        Some(_) => answer,
    });
    let refused = daemon.hull(&["pull", "thing:3"]);
    assert!(refused.stderr.contains("no basic auth credentials"), "{refused:?}");
    let told = registry
        .asked()
        .into_iter()
        .chain(mirror.asked())
        .any(|asked| asked.header("authorization").is_some());
    assert!(!told, "the password went to another registry");
}

#[test]
fn what_pulls_took_of_memory_is_given_back() {
    private_network();
    let registry = Registry::start();
    registry.image("1", &[8 * MIB, 8 * MIB, 8 * MIB, 8 * MIB]);
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let image = format!("{}/a:1", registry.address);
    let pull = || {
        daemon.ok(&["pull", "-q", &image]);
        daemon.ok(&["rmi", &image]);
    };
    let rest = daemon.allocated();
    (0..8).for_each(|_| pull());
    // Lines to the registry are kept for a while, and threads.
    wait_until("most of it is given back", PATIENCE, || daemon.allocated() < rest + 3 * 1024);
}
