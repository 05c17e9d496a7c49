//! BuildKit's own clients against hull: Docker's client of version 20.10, which has one built in, and buildx.

use std::process::Command;

use hull_tests::{Daemon, DockerRegistry, Engine, private_network, unindented};

/// Whether a machine may be without these clients: the tests fail there unless the environment says so.
fn missing<T>(what: &str) -> Option<T> {
    assert!(
        std::env::var_os("HULL_NO_BUILDKIT_CLIENTS").is_some(),
        "{what} is not installed: HULL_NO_BUILDKIT_CLIENTS=1 in the environment says that this is meant"
    );
    None
}

/// A Docker client with BuildKit's client built in: later ones have it in a plug-in.
fn docker() -> Option<&'static str> {
    let version = |docker: &str| {
        let output = Command::new(docker).args(["--version"]).output().ok()?;
        String::from_utf8_lossy(&output.stdout).split([' ', ',']).nth(2).map(str::to_owned)
    };
    let old = |docker: &&str| version(docker).is_some_and(|version| version.starts_with("20.10."));
    let found = ["/usr/bin/docker", "/usr/local/bin/docker"].into_iter().find(old);
    found.or_else(|| missing("a Docker client of version 20.10 (Debian's docker.io)"))
}

/// buildx, which runs by itself too.
fn buildx() -> Option<String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let places = [
        "/usr/bin/docker-buildx".to_owned(),
        std::env::var("BUILDX").unwrap_or_default(),
        "/usr/libexec/docker/cli-plugins/docker-buildx".to_owned(),
        "/usr/lib/docker/cli-plugins/docker-buildx".to_owned(),
        format!("{home}/.docker/cli-plugins/docker-buildx"),
    ];
    let found = places.into_iter().find(|place| std::path::Path::new(place).is_file());
    found.or_else(|| missing("docker-buildx (BUILDX names it where it is elsewhere)"))
}

/// The beginning of a session in which `x` is buildx.
fn with_buildx() -> Option<String> {
    if Engine::under_test() != Engine::Hull {
        return None;
    }
    let buildx = buildx()?;
    Some(format!(
        "$ export DOCKER_HOST=${{DOCKER_HOST:-$HULL_HOST}} DOCKER_CONFIG=$PWD/config; x() {{ {buildx} \"$@\"; }}"
    ))
}

/// Plays a session with each of the clients; `build` is its command.
fn with_each(text: &str) {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let docker = docker()
        .map(|docker| format!("build() {{ DOCKER_BUILDKIT=1 {docker} build --progress plain \"$@\"; }}"));
    let buildx = buildx().map(|buildx| format!("build() {{ {buildx} build --progress plain \"$@\"; }}"));
    for build in [docker, buildx].into_iter().flatten() {
        let host = "export DOCKER_HOST=${DOCKER_HOST:-$HULL_HOST} DOCKER_CONFIG=$PWD/config";
        Daemon::start().session(&format!("$ {host}; {build}\n{}", unindented(text)));
    }
}

#[test]
fn a_context_comes_over_the_session_without_what_is_left_out() {
    with_each(
        r#"
        $ mkdir -p ctx/d/e; cd ctx; echo 1 >d/e/f; echo no >d/x.log; ln -s e d/l; chmod 750 d/e/f; printf '*.log\n**/*.log\n' >.dockerignore
        $ printf '%s\n' 'FROM busybox' 'COPY d /d' 'RUN ls /d; cat /d/l/f; stat -c %a:%u /d/e/f' >Dockerfile
        $ build -t a . 2>&1 | grep -c 'transferring context: [0-9.]*B'
        2
        $ hull run --rm a sh -c 'ls /d; cat /d/l/f; stat -c %a:%u:%Y /d/e/f' | sed "s/$(stat -c %Y d/e/f)/T/"
        e
        l
        1
        750:0:T
        "#,
    );
}

#[test]
fn what_has_not_changed_is_neither_sent_nor_built_again() {
    with_each(
        r#"
        $ mkdir ctx; cd ctx; for n in $(seq 300); do head -c 1000 /dev/urandom >f$n; done; printf 'FROM busybox\nCOPY . /c\n' >Dockerfile; sent() { grep -o 'transferring context: [0-9.]*k\?B' | tail -1; }
        $ build -t a . 2>&1 | sent | grep -c kB
        1
        $ build -t a . >../log 2>&1; build . 2>&1 | grep -c CACHED
        1
        $ echo other >f7; rm f8; build -t a . 2>&1 | sent
        transferring context: 6B
        $ hull run --rm a sh -c 'cat /c/f7; ls /c | wc -l; ls /c/f8' 2>/dev/null
        other
        300
        [1]
        "#,
    );
}

#[test]
fn secrets_and_arguments_are_given_and_failures_are_shown_in_their_lines() {
    with_each(
        r#"
        $ printf s3cret >token; mkdir ctx; printf '%s\n' 'FROM busybox' 'ARG A' 'RUN --mount=type=secret,id=t test "$(cat /run/secrets/t)" = s3cret && echo $A >/a' >ctx/Dockerfile
        $ build -t a --build-arg A=given --secret id=t,src=token --label l=v ctx >log 2>&1; hull run --rm a cat /a; hull image inspect -f '{{.Config.Labels.l}}' a
        given
        v
        $ tar -C ctx -c . | build -t b --build-arg A=piped --secret id=t,src=token - >log 2>&1; hull run --rm b cat /a
        piped
        $ build ctx 2>&1 | grep -o "can't open '/run/secrets/t'" | head -1
        can't open '/run/secrets/t'
        $ printf '%s\n' 'FROM busybox' '' 'RUN echo said; exit 9' >ctx/Dockerfile; build ctx 2>&1 | grep -e '3 |' -e '^ERROR:\|^failed to solve' | head -2 | sed 's/^.*\(failed to solve\)/\1/; s/ *$//' | sort
           3 | >>> RUN echo said; exit 9
        failed to solve: process "/bin/sh -c echo said; exit 9" did not complete successfully: exit code: 9
        $ printf 'FROM busybox\nRUN echo stdin >/o\n' | build -t b - >log 2>&1 || tail -5 log; hull run --rm b cat /o
        stdin
        $ mkdir c; echo 1 >c/f; printf 'FROM busybox\nCOPY f /o\n' >c/Other; tar -C c -c . | build -t b -f Other - >log 2>&1 || tail -5 log; hull run --rm b cat /o
        1
        "#,
    );
}

#[test]
fn a_client_that_goes_away_leaves_nothing_running() {
    with_each(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'RUN echo begun; sleep 1017' >ctx/Dockerfile; build ctx >log 2>&1 & client=$!; eventually grep -q begun log
        $ pkill -INT -P $client || kill -INT $client; wait $client; gone() { ! pgrep -f '^sleep 1017$'; }; eventually gone && echo gone
        gone
        "#,
    );
}

#[test]
fn a_socket_refuses_to_these_clients_what_it_refuses_to_others() {
    with_each(
        r#"
        $ hull system socket add $PWD/c.sock confined >/dev/null; hull system socket add $PWD/l.sock label=a=b >/dev/null; mkdir ctx; printf 'FROM busybox\nRUN true\n' >ctx/Dockerfile
        $ DOCKER_HOST=unix://$PWD/c.sock; build --network host ctx 2>&1 | grep -o 'refused by the rule [a-z-]*' | head -1
        refused by the rule no-host-namespaces
        $ build -t a ctx >log 2>&1 && hull image inspect -f ok a
        ok
        $ for path in session grpc; do curl -s --unix-socket l.sock -X POST -H 'Connection: Upgrade' -H 'Upgrade: h2c' http://d/$path | grep -o 'refused by the rule label'; done
        refused by the rule label
        refused by the rule label
        "#,
    );
}

#[test]
fn the_client_s_agent_is_reached_where_it_is_given() {
    with_each(
        r#"
        $ mkdir -p ctx/root; socat=$(which socat); cp -L --parents $socat $(ldd $socat | grep -o '/[^ ]*') ctx/root
        $ cat >ctx/Dockerfile <<'EOT'
        > FROM busybox
        > COPY root /
        > RUN --mount=type=ssh,required=true printf '\000\000\000\001\013' | /usr/bin/socat -t 9 - UNIX-CONNECT:$SSH_AUTH_SOCK,shut-none,readbytes=9 | od -An -tx1 >/said
        > EOT
        $ printf 'head -c 5 >/dev/null; printf "\\000\\000\\000\\005\\014\\000\\000\\000\\000"\n' >keys; socat UNIX-LISTEN:$PWD/agent,fork EXEC:'sh keys' & agent=$!; eventually test -S agent
        $ SSH_AUTH_SOCK=$PWD/agent build --ssh default -t s ctx >log 2>&1 || tail -5 log; hull run --rm s cat /said; kill $agent
         00 00 00 05 0c 00 00 00 00
        $ build --no-cache ctx 2>&1 | grep -o 'no SSH key "default" forwarded from the client' | head -1
        no SSH key "default" forwarded from the client
        $ pgrep -f "$PWD/age[n]t"
        [1]
        "#,
    );
}

#[test]
fn buildx_checks_bakes_and_names_contexts() {
    let Some(begin) = with_buildx() else { return };
    Daemon::start().session(&format!(
        "{begin}\n{}",
        unindented(
            r#"
        $ mkdir ctx; printf 'from busybox\nRUN true\nWORKDIR x\n' >ctx/Dockerfile; x build --check ctx 2>&1 | grep -o '^WARNING: [A-Za-z]*'
        WARNING: ConsistentInstructionCasing
        WARNING: WorkdirRelativePath
        $ printf '# check=experimental=CopyIgnoredFile\nFROM busybox\nCOPY no /\n' >ctx/Dockerfile; echo no >ctx/.dockerignore; x build --check ctx 2>&1 | grep -o '^WARNING: [A-Za-z]*'
        WARNING: CopyIgnoredFile
        $ printf '# check=experimental=CopyIgnoredFile\nFROM busybox\nCOPY . /\n' >ctx/Dockerfile; x build --check ctx 2>&1 | grep -c '^WARNING'; x build -q ctx | cut -c 1-7
        0
        sha256:
        $ mkdir other; echo other >other/f; printf 'FROM busybox\nCOPY --from=dir f /f\nCOPY --from=img /bin/busybox /b\n' | x build -q --build-context dir=other --build-context img=docker-image://busybox -t n - >/dev/null; hull run --rm n cat /f
        other
        $ mkdir bake; cd bake; echo f >f; printf '%s\n' 'target "default" {' 'contexts = { below = "target:base" }' 'dockerfile-inline = "FROM below\nRUN cat /base >/app\nCOPY f /f"' 'tags = ["baked"]' '}' 'target "base" {' 'dockerfile-inline = "FROM busybox\nCOPY f /base"' '}' >docker-bake.hcl
        $ x bake --progress plain >../log 2>&1 || tail -5 ../log; hull run --rm baked cat /app /f
        f
        f
        $ printf 'FROM busybox\nRUN --mount=type=cache,target=/c echo 12345 >/c/f\n' | x build -q - >/dev/null; x du --filter type=exec.cachemount --verbose | grep -o 'cache mount /c'
        cache mount /c
        $ x du | grep -c Total; x prune -af >/dev/null; x du | grep Total | tr -d '\t'
        1
        Total:0B
        "#
        )
    ));
}

#[test]
fn what_was_built_goes_where_the_client_wants_it() {
    let Some(begin) = with_buildx() else { return };
    Daemon::start().session(&format!(
        "{begin}\n{}",
        unindented(
            r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox AS b' 'RUN mkdir -p /o/d && echo hi >/o/d/f && ln /o/d/f /o/h && ln -s d/f /o/s && chmod 4750 /o/h && head -c 3000000 /dev/zero >/o/big' 'FROM scratch' 'COPY --from=b /o /' >ctx/Dockerfile
        $ x build -q -o out ctx >/dev/null; cd out; stat -c '%n %a %F' *; cat s; test d/f -ef h && echo linked; stat -c %s big; cd ..
        big 644 regular file
        d 755 directory
        h 4750 regular file
        s 777 symbolic link
        hi
        linked
        3000000
        $ printf '%s\n' 'FROM scratch' 'ADD x.tar /' >Attributes; mkdir at; python3 -c 'import io, tarfile; t = tarfile.open("at/x.tar", "w", format=tarfile.PAX_FORMAT); f = tarfile.TarInfo("f"); f.pax_headers = {"SCHILY.xattr.user.a": "b"}; t.addfile(f); t.close()'; x build -q -f Attributes -o attributes at >/dev/null; python3 -c 'import os; print(os.getxattr("attributes/f", "user.a"))'
        b'b'
        $ x build -q -o type=tar,dest=o.tar ctx >/dev/null; tar tf o.tar
        big
        d/
        d/f
        h
        s
        $ x build -q -t doc:1 -o type=docker,dest=d.tar ctx >/dev/null; tar xOf d.tar manifest.json | grep -o doc:1; hull image inspect doc:1 2>&1 | grep -ci 'no such image'
        doc:1
        1
        $ hull load -qi d.tar >/dev/null && hull create doc:1 x >/dev/null && echo loaded
        loaded
        $ x build -q -o type=oci,dest=lay,tar=false ctx >/dev/null; printf 'FROM lay\nCOPY --from=lay /d/f /g\n' | x build -q --build-context lay=oci-layout://$PWD/lay -o out2 - >/dev/null; cat out2/g out2/h
        hi
        hi
        $ x build -q --provenance mode=max --sbom true -o type=oci,dest=at.tar ctx >/dev/null; for blob in $(tar tf at.tar | grep blobs/sha256/.); do tar xOf at.tar $blob | head -c 9999 | tr -d '\000' | grep -ao '"predicateType":"[^"]*"'; done | sort
        "predicateType":"https://slsa.dev/provenance/v1"
        "predicateType":"https://spdx.dev/Document"
        $ hull rmi -f $(hull images -q --filter dangling=true) >/dev/null 2>&1; x build -q -o type=cacheonly ctx >/dev/null; hull images -q --filter dangling=true | wc -l
        0
        $ x build -q -o type=local,dest=o1 -o type=tar,dest=o2.tar ctx >/dev/null; cat o1/d/f; tar xOf o2.tar d/f
        hi
        hi
        $ x build -o type=oci,dest=z.tar,compression=estargz ctx 2>&1 | tail -1 | grep -o 'output type=oci.*'
        output type=oci: compression=estargz is not supported by hull: there are gzip, zstd and uncompressed
        $ for c in gzip zstd uncompressed; do x build -q -o type=oci,dest=c.tar,compression=$c,force-compression=true ctx >/dev/null; for blob in $(tar tf c.tar | grep blobs/sha256/.); do tar xOf c.tar $blob | head -c 4 | od -An -tx1; done | grep -c '^ 1f 8b\|^ 28 b5 2f fd'; done
        1
        1
        0
        [1]
        "#
        )
    ));
}

#[test]
fn caches_go_to_folders_and_registries_and_come_back() {
    let Some(begin) = with_buildx() else { return };
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let _registry = DockerRegistry::start(folder.path(), "127.0.0.1:15212", "");
    Daemon::start().session(&format!(
        "{begin}\n{}",
        unindented(
            r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'RUN head -c 9 /dev/urandom | base64 >/n' >ctx/Dockerfile; forget() { hull rmi -f $(hull images -q --filter reference='c*') >/dev/null; x prune -af >/dev/null; }
        $ x build -q -t c1 --cache-to type=local,dest=cache ctx >/dev/null; hull run --rm c1 cat /n >n1; forget; x build -q -t c2 --cache-from type=local,src=cache ctx >/dev/null; hull run --rm c2 cat /n | cmp - n1 && echo same
        same
        $ forget; x build -q -t c3 ctx >/dev/null; hull run --rm c3 cat /n | cmp -s - n1 || echo another
        another
        $ forget; x build -q -t c4 --cache-to type=registry,ref=127.0.0.1:15212/cache ctx >/dev/null; hull run --rm c4 cat /n >n4; forget; x build -q -t c5 --cache-from type=registry,ref=127.0.0.1:15212/cache ctx >/dev/null; hull run --rm c5 cat /n | cmp - n4 && echo same
        same
        $ mkdir two; printf '%s\n' 'FROM busybox AS made' 'RUN head -c 9 /dev/urandom | base64 >/n' 'FROM busybox' 'COPY --from=made /n /n' >two/Dockerfile; x build -q -t c6 --cache-to type=local,dest=max,mode=max --cache-to type=registry,ref=127.0.0.1:15212/max,mode=max two >/dev/null; hull run --rm c6 cat /n >n6
        $ for from in type=local,src=max type=registry,ref=127.0.0.1:15212/max; do forget; x build --progress plain -t c7 --cache-from $from two 2>&1 | grep -c CACHED; hull run --rm c7 cat /n | cmp - n6 && echo same; done
        2
        same
        2
        same
        $ forget; x build -q --push -t 127.0.0.1:15212/app --metadata-file m --provenance false ctx >/dev/null; python3 -c 'import json; m = json.load(open("m")); print(m["containerimage.digest"] != m["containerimage.config.digest"])'; curl -s http://127.0.0.1:15212/v2/app/tags/list
        True
        {"name":"app","tags":["latest"]}
        "#
        )
    ));
}

#[test]
fn several_platforms_are_one_build() {
    let Some(begin) = with_buildx() else { return };
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let _registry = DockerRegistry::start(folder.path(), "127.0.0.1:15214", "");
    Daemon::start().session(&format!(
        "{begin}\n{}",
        unindented(
            r#"
        $ mkdir ctx; printf '%s\n' 'FROM --platform=$BUILDPLATFORM busybox AS build' 'ARG TARGETPLATFORM' 'RUN --mount=type=secret,id=s echo $TARGETPLATFORM $(cat /run/secrets/s) >/out' 'FROM scratch' 'ARG TARGETARCH' 'COPY for-$TARGETARCH /for' 'COPY --from=build /out /out' >ctx/Dockerfile; for a in amd64 arm64; do echo $a >ctx/for-$a; done; echo hush >s
        $ both() { x build --progress plain --platform linux/amd64,linux/arm64 --secret id=s,src=s "$@" ctx 2>&1; }; both -o out >log || cat log; cat out/*/out; grep -o ' \[linux/a.*\(3/3\|4/4\)\]' log | sort -u
        linux/amd64 hush
        linux/arm64 hush
         [linux/amd64 build 3/3]
         [linux/amd64 stage-1 4/4]
         [linux/amd64->arm64 build 3/3]
         [linux/arm64 stage-1 4/4]
        $ both --push -t 127.0.0.1:15214/app --metadata-file m >log || cat log; x imagetools inspect 127.0.0.1:15214/app | grep -o 'Platform: .*'; grep -c "\"containerimage.digest\": \"sha256:$(x imagetools inspect --raw 127.0.0.1:15214/app | sha256sum | cut -d' ' -f1)" m
        Platform:    linux/amd64
        Platform:    linux/arm64
        Platform:    unknown/unknown
        Platform:    unknown/unknown
        1
        $ both -t here | grep -o 'ERROR: .*unsupported'
        ERROR: failed to build: failed to solve: exporting multiple references to image store is currently unsupported
        $ BUILDKIT_MULTI_PLATFORM=1 x build -q --build-arg BUILDKIT_MULTI_PLATFORM=1 --platform linux/arm64 --secret id=s,src=s -o single ctx; cat single/linux_arm64/out
        linux/arm64 hush
        $ mkdir app; printf 'FROM base\nCOPY f /f\n' >app/Dockerfile; echo 1 >app/f; printf '%s\n' 'target "base" {' 'context = "ctx"' 'platforms = ["linux/amd64", "linux/arm64"]' 'secret = ["id=s,src=s"]' '}' 'target "app" {' 'context = "app"' 'contexts = { base = "target:base" }' 'platforms = ["linux/amd64", "linux/arm64"]' 'output = ["baked"]' '}' >docker-bake.hcl; x bake --allow fs.read=* --allow fs.write=* --progress plain app >log 2>&1 || cat log; cat baked/*/for
        amd64
        arm64
        "#
        )
    ));
}

#[test]
fn an_output_that_the_client_cannot_take_fails_its_build() {
    let Some(begin) = with_buildx() else { return };
    Daemon::start().session(&format!(
        "{begin}\n{}",
        unindented(
            r#"
        $ mkdir ctx; printf 'FROM busybox\nRUN mkdir /d && echo 1 >/d/f\n' >ctx/Dockerfile; echo file >out
        $ x build -o type=local,dest=out/below ctx >log 2>&1 || grep -q 'not a directory' log && echo told
        told
        "#
        )
    ));
}

#[test]
fn what_was_built_is_remembered_and_a_dockerfile_can_be_asked() {
    let Some(begin) = with_buildx() else { return };
    Daemon::start().session(&format!(
        "{begin}\n{}",
        unindented(
            r#"
        $ mkdir ctx; printf '%s\n' '# V which one' 'ARG V=1' '# base what is below' 'FROM busybox AS base' 'RUN --mount=type=secret,id=s true' 'FROM base AS last' 'RUN echo said$((20+3))' >ctx/Dockerfile
        $ x build --call targets ctx 2>/dev/null | grep -o 'base *what is below\|last (default)'
        base           what is below
        last (default)
        $ x build --call outline,format=json ctx 2>/dev/null | python3 -c 'import json, sys; o = json.load(sys.stdin); print(o["name"], o["secrets"][0]["name"])'
        last s
        $ x build -q ctx >/dev/null; x build -q --target nope ctx >/dev/null 2>&1; x history ls | grep -o 'Completed\|Error' | sort
        Completed
        Error
        $ x history logs $(x history ls --format '{{.Ref}}' | tail -1 | sed 's,.*/,,') 2>&1 | grep -c said23
        1
        $ for n in 1 2; do x history rm $(x history ls --format '{{.Ref}}' | tail -1 | sed 's,.*/,,') >/dev/null; done; x history ls | wc -l
        1
        "#
        )
    ));
}

#[test]
fn the_older_client_takes_what_was_built() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let Some(docker) = docker() else { return };
    let begin = format!(
        "$ export DOCKER_HOST=${{DOCKER_HOST:-$HULL_HOST}} DOCKER_CONFIG=$PWD/config DOCKER_BUILDKIT=1; build() {{ {docker} build -q \"$@\"; }}"
    );
    Daemon::start().session(&format!(
        "{begin}\n{}",
        unindented(
            r#"
        $ mkdir -p ctx/d; echo f >ctx/d/f; printf '%s\n' 'FROM busybox AS b' 'RUN echo hi >/x && chmod 750 /x' 'FROM scratch' 'COPY --from=b /x /x' 'COPY d /d' >ctx/Dockerfile
        $ build -o out ctx; cat out/x out/d/f; stat -c %a out/x
        hi
        f
        750
        $ build -o - ctx | tar tf -
        d/
        d/f
        x
        $ build -t named:1 -o type=tar,dest=d.tar ctx; tar xOf d.tar x; hull images -q named
        hi
        $ build -t named:2 -o type=image ctx >log; hull images --format '{{.Tag}}' named
        2
        $ build -o type=nope ctx 2>&1 | grep -o 'output type=nope is not supported'
        output type=nope is not supported
        "#
        )
    ));
}
