//! Pushes to the registry that others run, Debian's docker-registry: what goes there, what does not need to, and that
//! it is the same when it comes back.

use std::fs;
use std::process::Command;

use hull_tests::{Daemon, DockerRegistry, Engine, private_network};

fn setup(address: &str) -> (tempfile::TempDir, DockerRegistry, Daemon) {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let registry = DockerRegistry::start(folder.path(), address, "");
    let daemon = Daemon::empty(Engine::Hull, &[]);
    daemon.import_busybox();
    (folder, registry, daemon)
}

/// What was answered since, without questions whether something is there.
fn changes(registry: &DockerRegistry, before: usize) -> Vec<String> {
    let answered = registry.answered().into_iter().skip(before);
    answered.filter(|line| !line.starts_with("GET ") && !line.starts_with("HEAD ")).collect()
}

fn digest(daemon: &Daemon, repository: &str, image: &str) -> String {
    let all = daemon.ok(&["image", "inspect", "-f", "{{join .RepoDigests \" \"}}", image]);
    let one = all.split(' ').find_map(|name| name.strip_prefix(&format!("{repository}@")));
    one.unwrap_or_else(|| panic!("{image} has no digest of {repository}: {all}")).to_owned()
}

#[test]
fn a_push_is_told_as_docker_tells_it() {
    let (_folder, registry, daemon) = setup("127.0.0.1:15300");
    daemon.session(
        r#"
        $ hull tag busybox 127.0.0.1:15300/a/b; hull tag busybox 127.0.0.1:15300/a/b:2
        $ hull push 127.0.0.1:15300/a/b | sed -E 's/^[0-9a-f]{12}:/LAYER:/; s/size: [0-9]+/size: N/'
        Using default tag: latest
        The push refers to repository [127.0.0.1:15300/a/b]
        LAYER: Preparing
        LAYER: Pushed
        latest: digest: sha256:<id> size: N
        $ hull push -a 127.0.0.1:15300/a/b | sed -E 's/^[0-9a-f]{12}:/LAYER:/; s/size: [0-9]+/size: N/'
        The push refers to repository [127.0.0.1:15300/a/b]
        LAYER: Preparing
        LAYER: Layer already exists
        2: digest: sha256:<id> size: N
        LAYER: Preparing
        LAYER: Layer already exists
        latest: digest: sha256:<id> size: N
        $ hull push -q 127.0.0.1:15300/a/b:2
        127.0.0.1:15300/a/b:2
        $ curl -s http://127.0.0.1:15300/v2/a/b/tags/list | jq -c .tags
        ["latest","2"]
        $ hull events --since 1h --until 0s --filter event=push --format '{{.Actor.ID}} {{.Actor.Attributes.name}}' | sort -u
        127.0.0.1:15300/a/b:2 127.0.0.1:15300/a/b
        127.0.0.1:15300/a/b:latest 127.0.0.1:15300/a/b
        $ hull image inspect --remote -f '{{(index .Platforms 0).os}} {{.Descriptor.mediaType}}' 127.0.0.1:15300/a/b
        linux application/vnd.docker.distribution.manifest.v2+json
        "#,
    );
    drop(registry);
    daemon.session(
        r#"
        $ hull push 127.0.0.1:15300/none:1
        The push refers to repository [127.0.0.1:15300/none]
        An image does not exist locally with the tag: 127.0.0.1:15300/none
        [1]
        $ hull push 127.0.0.1:15300/a/b:none
        The push refers to repository [127.0.0.1:15300/a/b]
        tag does not exist: 127.0.0.1:15300/a/b:none
        [1]
        $ hull push 127.0.0.1:15300/a/b:2
        The push refers to repository [127.0.0.1:15300/a/b]
        Get "http://127.0.0.1:15300/v2/": dial tcp 127.0.0.1:15300: connect: connection refused
        [1]
        $ hull push 127.0.0.1:15300/a/b:1 -a
        tag can't be used with --all-tags/-a
        [1]
        $ hull push hull/host 2>&1 | tail -n 1
        hull/host is this machine itself: it has no layers that could be pushed
        "#,
    );
    let unasked = daemon.api().post_empty("/images/busybox/push?tag=latest").expect("an answer");
    assert_eq!(unasked.status, 400);
    assert_eq!(
        unasked.message(),
        "bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header: EOF"
    );
}

#[test]
fn what_is_there_is_not_sent_again() {
    let (_folder, registry, daemon) = setup("127.0.0.1:15301");
    let (first, other) = ("127.0.0.1:15301/first:1", "127.0.0.1:15301/other:1");
    daemon.ok(&["run", "--name", "more", "busybox", "sh", "-c", "echo x >/x"]);
    daemon.ok(&["commit", "more", "two-layers"]);
    daemon.ok(&["tag", "two-layers", first]);
    daemon.ok(&["push", first]);
    assert_eq!(changes(&registry, 0).iter().filter(|line| line.starts_with("PATCH ")).count(), 2);

    let before = registry.answered().len();
    let said = daemon.ok(&["push", first]);
    assert_eq!(said.matches("Layer already exists").count(), 2, "{said}");
    assert_eq!(changes(&registry, before), ["PUT /v2/first/manifests/1 201"]);

    let before = registry.answered().len();
    daemon.ok(&["tag", "two-layers", other]);
    let said = daemon.ok(&["push", other]);
    assert_eq!(said.matches("Mounted from first").count(), 2, "{said}");
    assert!(!changes(&registry, before).iter().any(|line| line.starts_with("PATCH ")));
    assert_eq!(
        digest(&daemon, "127.0.0.1:15301/first", "two-layers"),
        digest(&daemon, "127.0.0.1:15301/other", "two-layers")
    );

    // What is shared with another image is not sent with that either.
    let before = registry.answered().len();
    daemon.ok(&["tag", "busybox", "127.0.0.1:15301/first:base"]);
    daemon.ok(&["push", "127.0.0.1:15301/first:base"]);
    assert!(!changes(&registry, before).iter().any(|line| line.starts_with("PATCH ")));
}

#[test]
fn a_digest_does_not_change_on_the_way() {
    let (folder, registry, daemon) = setup("127.0.0.1:15302");
    let ours = "127.0.0.1:15302/ours";
    daemon.ok(&["tag", "busybox", &format!("{ours}:1")]);
    let id = daemon.ok(&["image", "inspect", "-f", "{{.Id}}", "busybox"]);
    daemon.ok(&["push", &format!("{ours}:1")]);
    let pushed = digest(&daemon, ours, "busybox");
    let archive = folder.path().join("busybox.tar");
    daemon.ok(&["save", "-o", archive.to_str().expect("a path"), "busybox"]);
    daemon.ok(&["rmi", "-f", &id]);
    daemon.ok(&["pull", &format!("{ours}:1")]);
    assert_eq!(digest(&daemon, ours, &format!("{ours}:1")), pushed);
    assert_eq!(daemon.ok(&["image", "inspect", "-f", "{{.Id}}", &format!("{ours}:1")]), id);
    assert_eq!(daemon.ok(&["run", "--rm", &format!("{ours}:1"), "echo", "hi"]), "hi");

    // Pushed again after a pull, and by another daemon that never saw it before: the same bytes of manifest.
    daemon.ok(&["push", &format!("{ours}:1")]);
    assert_eq!(digest(&daemon, ours, &format!("{ours}:1")), pushed);

    // Others' manifests and layers, which hull would write otherwise, keep theirs where they were fetched from there.
    daemon.ok(&["rmi", "-f", &id]);
    for (name, options) in [
        ("oci", &["--format", "oci"][..]),
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
        ("docker", &["--format", "v2s2"]),
    ] {
        let (theirs, copy) = (format!("127.0.0.1:15302/{name}"), format!("127.0.0.1:15302/copy-of-{name}"));
        registry.fill(&archive, &format!("{name}:1"), options);
        daemon.ok(&["pull", &format!("{theirs}:1")]);
        daemon.ok(&["tag", &format!("{theirs}:1"), &format!("{copy}:1")]);
        let said = daemon.ok(&["push", &format!("{copy}:1")]);
        assert!(said.contains("Mounted from "), "{said}");
        let image = format!("{theirs}:1");
        assert_eq!(digest(&daemon, &copy, &image), digest(&daemon, &theirs, &image), "{name}");
        daemon.ok(&["rmi", "-f", &image, &format!("{copy}:1")]);
    }
}

#[test]
fn secrets_are_nowhere_but_where_they_belong() {
    const PASSWORD: &str = "s3cret-of-a-registry";
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    let made = Command::new("htpasswd").args(["-Bbn", "me", PASSWORD]).output().expect("htpasswd");
    fs::write(&users, made.stdout).expect("the registry's users");
    let _registry =
        DockerRegistry::start(folder.path(), "127.0.0.1:15303", &DockerRegistry::htpasswd(&users));
    let daemon = Daemon::empty(Engine::Hull, &["--debug"]);
    daemon.import_busybox();
    daemon.session(&format!(
        r#"
        $ hull tag busybox 127.0.0.1:15303/p:1
        $ hull push 127.0.0.1:15303/p:1 2>&1 | tail -n 1
        Post "http://127.0.0.1:15303/v2/p/blobs/uploads/": no basic auth credentials
        $ echo wrong | hull login -u me --password-stdin 127.0.0.1:15303
        Error response from daemon: login attempt to http://127.0.0.1:15303/v2/ failed with status: 401 Unauthorized
        [1]
        $ echo {PASSWORD} | hull login -u me --password-stdin 127.0.0.1:15303 2>/dev/null
        Login Succeeded
        $ hull push 127.0.0.1:15303/p:1 | tail -n 1 | sed -E 's/size: [0-9]+/size: N/'
        1: digest: sha256:<id> size: N
        $ hull rmi 127.0.0.1:15303/p:1 >/dev/null; hull pull -q 127.0.0.1:15303/p:1
        127.0.0.1:15303/p:1
        $ stat -c %a ~/.docker/config.json
        600
        $ hull logout 127.0.0.1:15303; hull pull -q 127.0.0.1:15303/p:2 2>&1 | grep -c 'no basic auth'
        Removing login credentials for 127.0.0.1:15303
        1
        "#
    ));
    let encoded = ["bWU6czNjcmV0", "s3cret-of", "czNjcmV0"];
    let log = daemon.log();
    assert!(log.contains("DEBUG"), "{log}");
    for secret in encoded {
        assert!(!log.contains(secret), "the daemon's log has {secret}");
    }
}
