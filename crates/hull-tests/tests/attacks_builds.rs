//! Attacks by a Dockerfile, or an image that one is built on, on the machine that builds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hull_tests::{Daemon, Engine, Output, Tar};
use serde_json::{Value, json};

/// A daemon, and a folder of the host with a file and an empty folder in it, neither of which a build may see or touch.
fn target() -> Option<(Daemon, PathBuf)> {
    if Engine::under_test() == Engine::Docker {
        return None;
    }
    let daemon = Daemon::start();
    let folder = daemon.dir().join("hosts");
    fs::create_dir_all(folder.join("empty/sub")).expect("a folder");
    fs::write(folder.join("secret"), "of the host").expect("a file");
    Some((daemon, folder))
}

fn build(daemon: &Daemon, dockerfile: &str) -> Output {
    let context = daemon.dir().join("work/ctx");
    fs::create_dir_all(&context).expect("a context");
    fs::write(context.join("Dockerfile"), dockerfile).expect("a Dockerfile");
    daemon.hull(&["build", "--progress", "plain", "-t", "out", &context.display().to_string()])
}

/// CVE-2024-1753, CVE-2024-23651: the source of a mount is a link, absolute or upwards, in another stage, or exchanged for
/// one by a step beside this one.
#[test]
fn a_mount_s_source_is_what_it_is_taken_from() {
    let Some((daemon, hosts)) = target() else { return };
    let host = hosts.display().to_string();
    let up = "../".repeat(20);
    for (link, source) in [("/", "/link"), (&*up, "/link"), (&*host, "/link"), (&*host, "/link/empty")] {
        let output = build(
            &daemon,
            &format!(
                "FROM busybox AS evil\nRUN ln -s {link} /link\nFROM busybox\n\
                 RUN --mount=type=bind,from=evil,source={source},target=/m,rw echo seen: $(cat /m/secret /m{host}/secret 2>&1); \
                 touch /m/made /m{host}/made; true\n"
            ),
        );
        let told = format!("{}{}", output.stdout, output.stderr);
        // In the image that leads to its own root, or to what is not there.
        let ran = output.status == 0 && told.contains("seen: ");
        let refused = told.contains(&format!("failed to build: RUN --mount: \"{source}\": not found"));
        assert!(if link == host { refused } else { ran }, "{link}: {output:?}");
        assert!(!told.contains("of the host"), "{link}: {output:?}");
        assert!(!hosts.join("made").exists() && !hosts.join("empty/made").exists(), "{link}");
    }
    // A part of a cache is found anew each time: what leads to it goes back and forth meanwhile.
    let exchange = "RUN --mount=type=cache,id=c,target=/c mkdir -p /c/real/sub; ln -sfn HOST /c/link; i=0; \
                    while [ $i -lt 300 ]; do mv -T /c/part /c/was 2>/dev/null; mv -T /c/link /c/part; mv -T /c/part /c/link; \
                    mv -T /c/was /c/part 2>/dev/null || cp -r /c/real /c/part; i=$((i+1)); done"
        .replace("HOST", &host);
    let mut text = format!("FROM busybox AS a\n{exchange}\nFROM busybox AS b\n");
    for number in 0..20 {
        text.push_str(&format!(
            "RUN --mount=type=cache,id=c,target=/c --mount=type=cache,id=c,source=part,target=/p echo {number} $(cat /p/secret 2>&1); \
             touch /p/made; true\n"
        ));
    }
    text.push_str("FROM scratch\nCOPY --from=a /etc/group /a\nCOPY --from=b /etc/group /b\n");
    let output = build(&daemon, &text);
    let told = format!("{}{}", output.stdout, output.stderr);
    assert!(!told.contains("of the host"), "{output:?}");
    assert!(!hosts.join("made").exists());
    // A part that is not there at its moment ends the build.
    assert!(output.status == 0 || told.contains("failed to build: RUN --mount: "), "{output:?}");
}

/// CVE-2024-23652: what was made to mount on is removed behind the step, whatever that has put in the way to it.
#[test]
fn clearing_up_behind_a_step_stays_in_its_files() {
    let Some((daemon, hosts)) = target() else { return };
    let host = hosts.display();
    let output = build(
        &daemon,
        &format!(
            "FROM busybox\nRUN --mount=type=cache,target=/way/empty/sub --mount=type=tmpfs,target=/other/secret \
             mv /way /moved; ln -s {host} /way; mv /other /moved2; ln -s {host} /other; ls -d /way/ >/dev/null || echo dangling\n"
        ),
    );
    assert_eq!(output.status, 0, "{output:?}");
    assert!(hosts.join("empty/sub").is_dir(), "an empty folder of the host's was removed");
    assert!(hosts.join("secret").is_file(), "a file of the host's was removed");
    // The same with links that are in the image before.
    let output = build(
        &daemon,
        &format!(
            "FROM busybox\nRUN ln -s {host} /way; ln -s {host}/empty /deep\n\
             RUN --mount=type=cache,target=/way/empty/new --mount=type=cache,target=/deep/sub true\n"
        ),
    );
    assert_eq!(output.status, 0, "{output:?}");
    let left: Vec<_> = fs::read_dir(hosts.join("empty")).expect("it is there").flatten().collect();
    assert!(left.len() == 1 && hosts.join("empty/sub").is_dir(), "{left:?}");
}

/// Links in the context and in other stages lead COPY, WORKDIR and ADD nowhere else; nor does a link at the destination.
#[test]
fn copies_stay_in_the_context_and_in_the_image() {
    let Some((daemon, hosts)) = target() else { return };
    let host = hosts.display();
    let context = daemon.dir().join("work/ctx");
    fs::create_dir_all(&context).expect("a context");
    std::os::unix::fs::symlink(&hosts, context.join("way")).expect("a link");
    std::os::unix::fs::symlink(hosts.join("secret"), context.join("one")).expect("a link");
    fs::write(context.join("plain"), "mine").expect("a file");
    for line in ["COPY way/secret /x", "COPY one /x", "ADD way/ /x", "COPY ../../hosts/secret /x"] {
        let output = build(&daemon, &format!("FROM busybox\n{line}\nRUN cat /x /x/secret; true\n"));
        assert!(!format!("{}{}", output.stdout, output.stderr).contains("of the host"), "{line}: {output:?}");
    }
    let output = build(
        &daemon,
        &format!(
            "FROM busybox\nRUN mkdir -p {host}; touch {host}/secret; ln -s {host} /way; ln -s {host}/secret /file\n\
             COPY plain /way/made\nCOPY plain /file\n\
             ADD plain /way/\nWORKDIR /way/deep\nRUN touch here\n"
        ),
    );
    assert_eq!(output.status, 0, "{output:?}");
    assert_eq!(fs::read_to_string(hosts.join("secret")).expect("it is there"), "of the host");
    let left: Vec<_> = fs::read_dir(&hosts).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// CVE-2024-24557: what an image says it was made by is nobody's cache: only what was built here, from the same parent and
/// the same words, is.
#[test]
fn an_image_that_claims_to_be_a_step_is_none() {
    let Some((daemon, _)) = target() else { return };
    // An image whose history is that of the build below, with another file in it.
    let text = "FROM busybox\nRUN echo clean >/file\n";
    assert_eq!(build(&daemon, text).status, 0);
    daemon.session(
        r#"
        $ hull tag out claims:1; hull save claims:1 -o claims.tar; hull rmi out claims:1 >/dev/null; hull builder prune -af >/dev/null
        $ hull run --name evil busybox sh -c 'echo poisoned >/file'; hull commit -c 'CMD ["sh"]' -m 'RUN /bin/sh -c echo clean >/file' evil poison >/dev/null; hull rm evil >/dev/null; hull save poison | hull load -q
        Loaded image: poison:latest
        "#,
    );
    for more in [&[][..], &["--cache-from", "poison"]] {
        let context = daemon.dir().join("work/ctx").display().to_string();
        daemon.ok(&[&["build", "-q", "-t", "out"], more, &[&context]].concat());
        assert_eq!(daemon.ok(&["run", "--rm", "out", "cat", "/file"]), "clean", "{more:?}");
        daemon.ok(&["rmi", "out"]);
        daemon.ok(&["builder", "prune", "-af"]);
    }
}

/// The same where the history is a true one, with the moments of this machine's own steps in it, and the layer that it is
/// told of is another: who names the image gets it, and what is built on it is in no build that does not.
#[test]
fn an_image_with_a_true_history_and_another_layer_poisons_no_build_that_does_not_name_it() {
    let Some((daemon, _)) = target() else { return };
    let stage = "FROM busybox AS a\nRUN echo clean >/file\nFROM busybox\n";
    let honest = format!("{stage}COPY --from=a /file /file\n");
    assert_eq!(build(&daemon, &honest).status, 0);
    daemon.ok(&["save", "-o", &daemon.dir().join("work/out.tar").display().to_string(), "out"]);
    let poison = daemon.dir().join("work/poison.tar");
    fs::write(&poison, with_another_layer(&daemon.dir().join("work"))).expect("an archive");
    daemon.ok(&["load", "-q", "-i", &poison.display().to_string()]);

    let context = daemon.dir().join("work/ctx").display().to_string();
    // The same line of the history, of a step that is not kept yet.
    let named = format!("{stage}COPY --link --from=a /file /file\nRUN cp /file /made\n");
    fs::write(daemon.dir().join("work/ctx/Dockerfile"), named).expect("a Dockerfile");
    daemon.ok(&["build", "-q", "-t", "out", "--cache-from", "poison", &context]);
    assert_eq!(
        daemon.ok(&["run", "--rm", "out", "cat", "/made"]),
        "poisoned",
        "the image is not used at all"
    );

    assert_eq!(build(&daemon, &format!("{honest}RUN cp /file /made\n")).status, 0);
    assert_eq!(daemon.ok(&["run", "--rm", "out", "cat", "/file", "/made"]), "clean\nclean");
}

/// The image in the archive `out.tar` of this folder as the image `poison`: the history as it is, another last layer.
fn with_another_layer(folder: &Path) -> Vec<u8> {
    use sha2::Digest;
    let files = folder.join("saved");
    fs::create_dir(&files).expect("a folder");
    let tar = ["-xf", &folder.join("out.tar").display().to_string(), "-C", &files.display().to_string()]
        .map(str::to_owned);
    assert!(Command::new("tar").args(tar).status().expect("tar is executed").success());
    let read = |name: &Value| fs::read(files.join(name.as_str().expect("a name"))).expect("a saved file");
    let manifest: Value = serde_json::from_slice(&read(&json!("manifest.json"))).expect("a manifest");
    let mut config: Value = serde_json::from_slice(&read(&manifest[0]["Config"])).expect("a configuration");
    let mut layers: Vec<Vec<u8>> =
        manifest[0]["Layers"].as_array().expect("layers").iter().map(read).collect();
    let other = Tar::new().file("file", b"poisoned\n").finish();
    let digest: String = sha2::Sha256::digest(&other).iter().map(|byte| format!("{byte:02x}")).collect();
    *config["rootfs"]["diff_ids"].as_array_mut().expect("layers").last_mut().expect("a layer") =
        json!(format!("sha256:{digest}"));
    *layers.last_mut().expect("a layer") = other;
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["poison:latest"], "Layers": names}]);
    let mut archive = Tar::new().file("config.json", config.to_string().as_bytes());
    for (name, layer) in names.iter().zip(&layers) {
        archive = archive.file(name, layer);
    }
    archive.file("manifest.json", manifest.to_string().as_bytes()).finish()
}
