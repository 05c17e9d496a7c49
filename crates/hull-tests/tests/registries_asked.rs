//! What registries are asked besides images: a search, and what a name means there.

use hull_tests::registry::{Answer, INDEX, MANIFEST, Registry};
use hull_tests::{Daemon, Engine, private_network};
use serde_json::json;

fn setup() -> (Registry, Daemon) {
    private_network();
    (Registry::start(), Daemon::empty(Engine::Hull, &[]))
}

#[test]
fn a_search_is_shown_as_docker_shows_it() {
    let (registry, daemon) = setup();
    let address = registry.address.clone();
    let output = daemon.hull(&["search", &format!("{address}/web")]);
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("has no search: it answers 404 to /v1/search"), "{output:?}");

    registry.misbehave(|asked, proper| match asked.path.strip_prefix("/v1/search?q=web%20server&n=") {
        Some("2") => Answer::json(
            200,
            &json!({ "num_results": 3, "results": [
                { "name": "web", "description": "serves\nthings", "star_count": 12, "is_official": true },
                { "name": "me/web", "description": null, "star_count": 3, "is_official": false, "is_automated": false },
                { "name": "one/too-many", "description": "", "star_count": 99 },
            ] }),
        ),
        Some(_) => Answer::json(200, &json!({ "results": [] })),
        None => proper,
    });
    let term = format!("{address}/web server");
    let search = |args: &[&str]| daemon.ok(&[&["search", "--limit", "2"], args, &[term.as_str()]].concat());
    let table = search(&[]);
    assert_eq!(
        table.lines().map(str::trim_end).collect::<Vec<_>>(),
        [
            "NAME      DESCRIPTION     STARS     OFFICIAL",
            "web       serves things   12        [OK]",
            "me/web                    3",
        ]
    );
    assert_eq!(search(&["--filter", "stars=5", "--format", "{{.Name}}"]), "web");
    assert_eq!(search(&["--filter", "is-official=false", "--format", "{{.Name}}"]), "me/web");
    assert_eq!(daemon.ok(&["search", "--format", "{{.Name}}", &term]), "");
    for (args, words) in [
        (["--limit", "101"], "limit 101 is outside the range of [1, 100]"),
        (["--filter", "stars=many"], "invalid filter 'stars=many'"),
        (["--filter", "colour=red"], "invalid filter 'colour'"),
        (["--filter", "is-official=perhaps"], "invalid filter 'is-official=[perhaps]'"),
    ] {
        let output = daemon.hull(&[&["search"], &args[..], &[term.as_str()]].concat());
        assert!(output.status == 1 && output.stderr.contains(words), "{output:?}");
    }
    registry.misbehave(|_, _| Answer::of(200, "text/html", "<html>secret"));
    let output = daemon.hull(&["search", &term]);
    assert!(output.stderr.contains("is no list of repositories"), "{output:?}");
}

#[test]
fn what_a_name_means_in_its_registry() {
    let (registry, daemon) = setup();
    let manifest = registry.image("one", &[]);
    let bytes = manifest.to_string();
    let digest = hull_tests::registry::digest(bytes.as_bytes());
    let platform = |architecture: &str| json!({ "os": "linux", "architecture": architecture });
    let of = |architecture: &str| json!({ "mediaType": MANIFEST, "digest": digest, "size": bytes.len(), "platform": platform(architecture) });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [of("amd64"), of("s390x")] });
    let index_digest = registry.manifest("all", INDEX, &index);
    let inspect = |name: &str, format: &str| {
        daemon.hull(&[
            "image",
            "inspect",
            "--remote",
            "-f",
            format,
            &format!("{}/a:{name}", registry.address),
        ])
    };
    let one = inspect("one", "{{.Descriptor.digest}} {{.Descriptor.mediaType}} {{len .Platforms}}");
    assert_eq!(one.stdout, format!("{digest} {MANIFEST} 1\n"), "{one:?}");
    let all = inspect("all", "{{.Descriptor.digest}}{{range .Platforms}} {{.architecture}}{{end}}");
    assert_eq!(all.stdout, format!("{index_digest} amd64 s390x\n"), "{all:?}");
    let none = inspect("none", "");
    assert!(none.status == 1 && none.stderr.contains("manifest unknown"), "{none:?}");
    assert_eq!(daemon.ok(&["images", "-q", &format!("{}/a", registry.address)]), "", "nothing is fetched");
    let path = format!("/distribution/{}/a:none/json", registry.address);
    assert_eq!(daemon.api().get(&path).expect("an answer").status, 404);
}

#[test]
fn a_search_takes_credentials_to_the_registry_they_are_for() {
    private_network();
    let registry = Registry::start();
    registry.misbehave(|_, _| Answer::json(200, &json!({ "results": [] })));
    let address = registry.address.clone();
    let daemon = Daemon::empty(Engine::Hull, &[&format!("--default-registry={address}")]);
    let folder = daemon.dir().join("home/.docker");
    std::fs::create_dir_all(&folder).expect("a folder");
    // base64 of someone:secret
    let kept = json!({ "auth": "c29tZW9uZTpzZWNyZXQ=" });
    let auths = json!({ "auths": { "https://index.docker.io/v1/": kept, address.clone(): kept } });
    std::fs::write(folder.join("config.json"), auths.to_string()).expect("a file");
    let searched = |term: &str| {
        daemon.ok(&["search", term]);
        let asked = registry.asked();
        let last = asked.iter().rev().find(|asked| asked.path.starts_with("/v1/search")).expect("a search");
        last.header("authorization").map(str::to_owned)
    };
    assert_eq!(searched("word"), None, "Docker Hub's password is not another's");
    assert_eq!(searched(&format!("{address}/word")).as_deref(), Some("Basic c29tZW9uZTpzZWNyZXQ="));
}
