//! Images: in, out, named, and whole.

use hull_tests::{Daemon, Tar};

#[test]
fn names_and_configuration() {
    Daemon::start().session(
        r#"
        $ hull tag busybox other/name:v1
        $ hull images --format '{{.Repository}}:{{.Tag}}' | grep -v hull/host | sort
        busybox:latest
        other/name:v1
        $ hull image inspect -f '{{join .Config.Env " "}} {{json .Config.Cmd}} {{.Os}} {{.Architecture}} {{len .RootFS.Layers}}' busybox
        PATH=/bin ["sh"] linux amd64 1
        $ test "$(hull images -q --no-trunc busybox)" = "$(hull image inspect -f '{{.Id}}' other/name:v1)"
        $ hull create --name user busybox true
        <id>
        $ hull rmi other/name:v1
        Untagged: other/name:v1
        $ hull rmi busybox 2>/dev/null
        [1]
        $ hull rm user
        user
        $ hull rmi busybox | cut -d: -f1 | sort -u
        Deleted
        Untagged
        $ hull images -q busybox
        $ hull rmi busybox 2>/dev/null
        [1]
        $ hull image inspect busybox 2>/dev/null
        []
        [1]
        "#,
    );
}

#[test]
fn save_and_load_give_the_same_image() {
    Daemon::start().session(
        r#"
        $ hull run --name changed busybox sh -c 'echo new >/new; rm /etc/group; ln /new /hard; ln -s new /soft; mkfifo /pipe; chmod 4755 /new'
        $ hull commit -c 'LABEL k=v' -c 'USER 7' changed child
        sha256:<id>
        $ before=$(hull image inspect -f '{{.Id}}' child); hull save child >plain.tar; hull save -o both.tar child busybox
        $ gzip -k plain.tar; xz -k plain.tar
        $ hull rm changed; hull rmi child busybox >/dev/null; hull images -q child; hull images -q busybox
        changed
        $ for f in plain.tar plain.tar.gz plain.tar.xz; do hull load -q <$f; test "$before" = "$(hull image inspect -f '{{.Id}}' child)" && hull rmi child >/dev/null; done
        Loaded image: child:latest
        Loaded image: child:latest
        Loaded image: child:latest
        $ hull load -q -i both.tar | sort
        Loaded image: busybox:latest
        Loaded image: child:latest
        $ hull run --rm child sh -c 'cat /new /hard /soft; ls /etc; stat -c "%a %h" /new; test -p /pipe; id -u'
        new
        new
        new
        hostname
        hosts
        mtab
        passwd
        resolv.conf
        4755 2
        7
        $ hull image inspect -f '{{.Config.Labels.k}} {{.Config.User}} {{len .RootFS.Layers}}' child
        v 7 2
        "#,
    );
}

#[test]
fn commit_changes_and_export() {
    Daemon::start().session(
        r#"
        $ hull run --name changed busybox sh -c 'echo x >/new; rm /etc/group; echo y >>/etc/passwd; mkdir /dir; touch /dir/f'
        $ hull diff changed | sort -k 2
        A /dir
        A /dir/f
        C /etc
        D /etc/group
        C /etc/passwd
        A /new
        "#,
    );
}

#[test]
fn export_is_the_whole_file_system() {
    Daemon::start().session(
        r#"
        $ hull run --name changed busybox sh -c 'echo x >/new; rm /etc/group'
        $ hull export changed | tar -t | grep -E '^(new|bin/busybox|etc/group|etc/passwd)$' | sort
        bin/busybox
        etc/passwd
        new
        $ hull export changed | hull import -m 'from export' - flat
        sha256:<id>
        $ hull run --rm -e PATH=/bin flat cat /new
        x
        $ hull history --format '{{.Comment}}' flat
        from export
        $ hull image prune -f | tail -n 1
        Total reclaimed space: 0B
        "#,
    );
}

#[test]
fn layers_over_layers_hide_and_replace() {
    let daemon = Daemon::start();
    let layers = [
        Tar::new()
            .directory("d/")
            .file("d/a", b"1")
            .file("d/b", b"1")
            .file("gone", b"1")
            .file("f", b"1")
            .finish(),
        Tar::new().file("d/a", b"2").file(".wh.gone", b"").file("d/c", b"2").finish(),
        Tar::new().directory("d/").file("d/.wh..wh..opq", b"").file("d/only", b"3").file("f", b"33").finish(),
    ];
    std::fs::write(daemon.dir().join("work/image.tar"), archive(&layers)).expect("written");
    daemon.session(
        r#"
        $ hull load -q -i image.tar
        Loaded image: made:latest
        $ hull create --name c1 made /none
        <id>
        $ hull export c1 | tar -t | grep -vE '^(dev|proc|sys|etc|\.dockerenv)' | sort
        d/
        d/only
        f
        $ hull cp c1:/f - | tar -xO; echo
        33
        "#,
    );
}

/// A Docker archive of these layers, named `made:latest`.
fn archive(layers: &[Vec<u8>]) -> Vec<u8> {
    let digests: Vec<String> = layers
        .iter()
        .map(|layer| {
            use sha2::Digest;
            sha2::Sha256::digest(layer).iter().map(|byte| format!("{byte:02x}")).collect()
        })
        .collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {}, "created": "2024-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": digests.iter().map(|d| format!("sha256:{d}")).collect::<Vec<_>>()},
    });
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": ["made:latest"], "Layers": names}]);
    let mut tar = Tar::new().file("config.json", config.to_string().as_bytes());
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, layer);
    }
    tar.file("manifest.json", manifest.to_string().as_bytes()).finish()
}

#[test]
fn a_commit_of_what_has_not_changed_has_no_layer_of_its_own() {
    Daemon::start().session(
        r#"
        $ hull create --name same busybox true >/dev/null; hull commit -c 'ENV A=1' -m same same copy >/dev/null
        $ hull inspect -f '{{json .RootFS.Layers}}' busybox >of-the-parent; hull inspect -f '{{json .RootFS.Layers}}' copy | cmp - of-the-parent
        $ hull history --format '{{.Size}} {{.Comment}}' copy | head -1
        0B same
        $ hull run --rm copy sh -c 'echo $A'
        1
        $ hull run --name other copy touch /new; hull commit other third >/dev/null; hull run --rm third ls /new
        /new
        $ hull save third copy | hull load -q >/dev/null
        $ hull rm same other >/dev/null; hull rmi third copy >/dev/null; hull run --rm busybox true
        "#,
    );
}

#[test]
fn a_name_that_is_loaded_leaves_the_image_that_had_it() {
    Daemon::start().session(
        r#"
        $ hull run --name box busybox touch /new; hull commit box child >/dev/null; hull save -o child.tar child
        $ hull tag busybox child; old=$(hull image inspect -f '{{.Id}}' busybox)
        $ hull load -q -i child.tar | sed "s/$old/<old>/"
        The image child:latest already exists, renaming the old one with ID <old> to empty string
        Loaded image: child:latest
        $ hull load -q -i child.tar
        Loaded image: child:latest
        "#,
    );
}

#[test]
fn a_repository_s_name_saves_all_its_tags() {
    Daemon::start().session(
        r#"
        $ hull tag busybox many:1; hull tag busybox many:2; hull save many | tar xO manifest.json | grep -o 'many:[0-9a-z]*' | sort
        many:1
        many:2
        $ hull save no-such 2>&1 >/dev/null | tail -n 1
        Error response from daemon: No such image: no-such:latest
        "#,
    );
}
