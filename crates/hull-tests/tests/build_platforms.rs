//! Builds for several platforms: an image for each, and an index of them.

use std::process::Command;

use hull_tests::{Daemon, DockerRegistry, private_network, unindented};
use serde_json::{Value, json};

/// A Dockerfile whose last stage has files made here for another machine, and one that is the same for all.
const CROSS: &str = r"mkdir ctx; printf '%s\n' 'FROM --platform=$BUILDPLATFORM busybox AS once' 'RUN cat /proc/sys/kernel/random/uuid >/once' 'FROM --platform=$BUILDPLATFORM busybox AS build' 'ARG TARGETARCH TARGETPLATFORM BUILDPLATFORM' 'RUN echo $TARGETPLATFORM on $BUILDPLATFORM >/out' 'FROM scratch' 'ARG TARGETARCH' 'COPY for-$TARGETARCH /for' 'COPY --from=once /once /once' 'COPY --from=build /out /out' >ctx/Dockerfile; for a in amd64 arm64; do echo $a >ctx/for-$a; done";

#[test]
fn each_platform_has_its_files() {
    Daemon::start().session(&format!(
        "$ {CROSS}\n{}",
        unindented(
            r#"
        $ hull build --platform linux/amd64,linux/arm64 --progress plain -o out ctx >log 2>&1; (cd out; for f in */for */out; do echo $f $(cat $f); done); cmp out/linux_amd64/once out/linux_arm64/once && echo the same
        linux_amd64/for amd64
        linux_arm64/for arm64
        linux_amd64/out linux/amd64 on linux/amd64
        linux_arm64/out linux/arm64 on linux/amd64
        the same
        $ grep -o '^#[0-9]* \[linux[^]]*\]' log | sed 's/#[0-9]* //' | sort
        [linux/amd64 build 1/3]
        [linux/amd64 build 2/3]
        [linux/amd64 build 3/3]
        [linux/amd64 once 1/2]
        [linux/amd64 once 2/2]
        [linux/amd64 stage-2 1/5]
        [linux/amd64 stage-2 2/5]
        [linux/amd64 stage-2 3/5]
        [linux/amd64 stage-2 4/5]
        [linux/amd64 stage-2 5/5]
        [linux/amd64->arm64 build 1/3]
        [linux/amd64->arm64 build 2/3]
        [linux/amd64->arm64 build 3/3]
        [linux/amd64->arm64 once 1/2]
        [linux/amd64->arm64 once 2/2]
        [linux/arm64 stage-2 1/5]
        [linux/arm64 stage-2 2/5]
        [linux/arm64 stage-2 3/5]
        [linux/arm64 stage-2 4/5]
        [linux/arm64 stage-2 5/5]
        $ grep -c '^#[0-9]* \[export\]' log; grep -o '^#[0-9]* \[' log | sort | uniq -d | wc -l
        1
        0
        $ hull build --no-cache --platform linux/amd64 --platform linux/arm64 -o type=tar,dest=- ctx 2>/dev/null | tar -x --one-top-level=again && cmp again/linux_*/once && cmp -s again/linux_amd64/once out/linux_amd64/once || echo made anew
        made anew
        $ hull build --platform linux/amd64,linux/amd64 -o type=local,dest=one ctx 2>/dev/null; ls one
        for
        once
        out
        $ hull build --platform linux/amd64,linux/arm64 -o type=local,dest=merged,platform-split=false ctx 2>&1 | tail -1 | sed 's,/[a-z]* from,PATH from,'; ls merged 2>/dev/null || :
        failed to build: cannot overwrite PATH from linux/amd64 with linux/arm64 when split option is disabled: leave platform-split=false away, and each platform has a folder of its own
        $ mkdir apart; printf 'FROM scratch\nARG TARGETARCH\nCOPY f /for/$TARGETARCH\n' >apart/Dockerfile; echo 1 >apart/f; hull build --platform linux/amd64,linux/arm64 -o type=local,dest=merged,platform-split=false apart 2>/dev/null; ls merged/for
        amd64
        arm64
        $ hull build --platform linux/arm64 -o type=local,dest=split,platform-split=true ctx 2>/dev/null; ls split
        linux_arm64
        $ hull images --format '{{.Repository}}' | sort
        busybox
        hull/host
        "#
        )
    ));
}

#[test]
fn there_is_no_place_for_an_index_here() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf 'FROM scratch\nCOPY f /f\n' >ctx/Dockerfile; echo 1 >ctx/f
        $ hull build --platform linux/amd64,linux/arm64 -t x ctx 2>&1 | tail -1
        Error response from daemon: exporting multiple references to image store is currently unsupported: a name means one image here; push them (--push), have an OCI layout made (-o type=oci,dest=FILE), or build for one platform
        $ hull build --platform linux/amd64,linux/arm64 -o type=oci,dest=o --load ctx 2>&1 | grep -o 'exporting multiple references to image store'
        exporting multiple references to image store
        $ hull build --platform linux/amd64,linux/arm64 -o type=docker,dest=d -t x ctx 2>&1 | tail -1; ls
        Error response from daemon: docker exporter does not currently support exporting manifest lists: have an OCI layout made (-o type=oci,dest=FILE), or build for one platform
        ctx
        $ hull build --platform linux/amd64,what -o type=cacheonly ctx 2>&1 | tail -1
        Error response from daemon: "what": unknown operating system or architecture: invalid argument
        $ hull build --platform linux/amd64,linux/arm64 -o type=cacheonly --iidfile id --progress plain ctx
        --iidfile: images for several platforms have an id together only as an index: push them (--push), or have an OCI layout made (-o type=oci,dest=FILE)
        [1]
        $ hull build --platform amd64,linux/amd64 -o type=cacheonly --iidfile id ctx 2>/dev/null && wc -c <id; hull build --platform $(seq -s, -f 'linux/a%.0f' 0 32) -o type=cacheonly ctx 2>&1 | tail -1
        71
        Error response from daemon: one build is for 32 platforms at most, and 33 are asked for: build for the others (linux/a32 and what follows) by another
        $ hull build --platform $(seq -s, -f 'linux/a%.0f' 0 31) -o out ctx 2>/dev/null; cat out/*/f | wc -l
        32
        "#,
    );
}

#[test]
fn what_a_machine_cannot_run_is_refused_with_what_to_install() {
    // A program for a machine for which nobody has an emulator: Alpha.
    let daemon = Daemon::start();
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(16, 0);
    program.extend([2, 0, 0x26, 0x90]);
    program.resize(120, 0);
    std::fs::write(daemon.dir().join("program"), program).expect("a program");
    daemon.session(
        r#"
        $ mkdir ctx; cp ../program ctx/sh; chmod +x ctx/sh; printf 'FROM scratch\nCOPY sh /bin/sh\nRUN true\n' >ctx/Dockerfile
        $ hull build --platform linux/alpha ctx >log 2>&1 || grep -o 'the stage is for linux/alpha, and this machine (linux/amd64) has no emulator.*' log
        the stage is for linux/alpha, and this machine (linux/amd64) has no emulator for its programs: install one that the kernel knows by binfmt_misc (Debian, Ubuntu: apt-get install qemu-user-static binfmt-support; Fedora: dnf install qemu-user-static), or have the stage run here (FROM --platform=$BUILDPLATFORM) and build for $TARGETPLATFORM
        $ printf 'FROM scratch\nCOPY sh /bin/sh\nRUN ["/nosuch"]\n' >ctx/Dockerfile; hull build --platform linux/alpha ctx >log 2>&1; grep -c 'no such file' log; grep -c emulator log || :
        1
        0
        $ printf 'FROM scratch\nCOPY sh /bin/sh\nLABEL a=b\n' >ctx/Dockerfile; hull build -q --platform linux/alpha -t foreign ctx >/dev/null; hull image inspect -f '{{.Architecture}}' foreign
        alpha
        "#,
    );
}

/// What a registry has at a path.
fn got(registry: &DockerRegistry, path: &str) -> Value {
    let accept =
        "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    let output = Command::new("curl")
        .args(["-sf", "-H", accept])
        .arg(format!("http://{}/v2/{path}", registry.address))
        .output()
        .expect("curl");
    assert!(output.status.success(), "{path}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn an_index_is_pushed_and_built_on() {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let registry = DockerRegistry::start(folder.path(), "127.0.0.1:15213", "");
    let daemon = Daemon::start();
    daemon.session(&format!(
        "$ {CROSS}\n{}",
        unindented(
            r#"
        $ hull build -q --push --sbom --provenance=mode=max --platform linux/amd64,linux/arm64 -t 127.0.0.1:15213/app:1 --annotation 'index:of=all' --annotation 'manifest[linux/arm64]:of=arm' --metadata-file m.json --iidfile id ctx >told; test "$(cat told)" = "$(cat id)" && python3 -c 'import json; m = json.load(open("m.json")); print(m["containerimage.digest"] == open("id").read(), sorted(m))'
        True ['containerimage.descriptor', 'containerimage.digest', 'image.name']
        $ hull image inspect -f '{{.Architecture}} {{.RepoDigests}}' 127.0.0.1:15213/app:1 | sed "s/$(cat id)/DIGEST/"
        amd64 [127.0.0.1:15213/app@DIGEST]
        $ mkdir on; printf '%s\n' 'FROM 127.0.0.1:15213/app:1' 'COPY f /f' >on/Dockerfile; echo 1 >on/f
        $ echo 'for name in 127.0.0.1:15213/app:1 127.0.0.1:15213/app@$(cat id); do hull image inspect -f "{{.Id}} {{.Architecture}} {{.RepoTags}} {{.RepoDigests}}" $name; done' >named; sh named >before; wc -l <before
        2
        $ hull build --platform linux/arm64,linux/amd64 -o on-it on >log 2>&1 || cat log; cat on-it/*/for; sh named | diff before -
        amd64
        arm64
        $ hull images -aq --no-trunc | sort >images; hull build --no-cache --platform linux/arm64 --provenance=mode=max -o type=oci,dest=layout,tar=false on >log 2>&1 || cat log; grep -rqF "$(cut -d: -f2 id)" layout/blobs && echo the base by its index; sh named | diff before -; hull images -aq --no-trunc | sort | diff images -
        the base by its index
        $ hull build --platform linux/arm64,linux/amd64 --cache-from type=registry,ref=127.0.0.1:15213/app:1 --progress plain -o on-it on >log 2>&1 || cat log; grep -c 'gives nothing' log; sh named | diff before -
        0
        $ hull image prune -f >/dev/null; hull images -aq --no-trunc | sort >images; hull build --platform linux/arm64,linux/amd64 --cache-from type=registry,ref=127.0.0.1:15213/app:1 -o lent ctx >log 2>&1 || cat log; sh named | diff before -; hull images -aq --no-trunc | sort | diff images -
        $ hull rmi -f $(hull images -q --filter reference='127.0.0.1:15213/*') >/dev/null; hull build --pull --platform linux/arm64,linux/amd64 -o again on >log 2>&1 || cat log; diff -r on-it again; hull image inspect -f '{{.Architecture}}' 127.0.0.1:15213/app:1
        amd64
        $ hull build --cache-to type=registry,ref=127.0.0.1:15213/cache,mode=max --platform linux/amd64,linux/arm64 -o again ctx >log 2>&1 || cat log
        $ hull builder prune -af >/dev/null; hull build --cache-from type=registry,ref=127.0.0.1:15213/cache --platform linux/amd64,linux/arm64 -o cached --progress plain ctx >log 2>&1; cmp cached/linux_arm64/once again/linux_arm64/once; grep -c 'gives nothing' log || :
        0
        "#
        )
    ));
    let index = got(&registry, "app/manifests/1");
    assert_eq!(index["annotations"], json!({ "of": "all" }));
    let listed = index["manifests"].as_array().expect("manifests");
    let platforms: Vec<&Value> = listed.iter().map(|one| &one["platform"]["architecture"]).collect();
    assert_eq!(json!(platforms), json!(["amd64", "arm64", "unknown", "unknown"]));
    for (image, attested) in [(0, 2), (1, 3)] {
        let digest = &listed[image]["digest"];
        assert_eq!(&listed[attested]["annotations"]["vnd.docker.reference.digest"], digest);
        let manifest = got(&registry, &format!("app/manifests/{}", digest.as_str().expect("a digest")));
        assert_eq!(manifest["annotations"]["of"], if image == 1 { json!("arm") } else { Value::Null });
        let at = listed[attested]["digest"].as_str().expect("a digest");
        let attestations = got(&registry, &format!("app/manifests/{at}"));
        assert_eq!(attestations["layers"].as_array().map(Vec::len), Some(2), "an SBOM and a provenance");
    }
}

#[test]
fn a_base_for_another_platform_is_there_without_its_registry() {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let registry = DockerRegistry::start(folder.path(), "127.0.0.1:15214", "");
    let daemon = Daemon::start();
    daemon.session(&format!(
        "$ {CROSS}\n{}",
        unindented(
            r#"
        $ hull build -q --push --platform linux/amd64,linux/arm64 -t 127.0.0.1:15214/app:1 ctx >/dev/null; hull rmi 127.0.0.1:15214/app:1 >/dev/null
        $ printf '%s\n' 'FROM 127.0.0.1:15214/app:1' 'COPY f /f' >Dockerfile; echo 1 >f; hull build -q --platform linux/arm64 -o out . >/dev/null; cat out/for; hull images -q 127.0.0.1:15214/app | wc -l
        arm64
        0
        "#
        )
    ));
    drop(registry);
    daemon.session(
        r#"
        $ printf '%s\n' 'FROM 127.0.0.1:15214/app:1' 'COPY f /f' >Dockerfile; echo 2 >f; hull build --progress plain --platform linux/arm64 -o out . >log 2>&1; cat out/for out/f; grep -o 'its registry cannot be asked, so it is built on what the name led to last: .*' log | sort -u
        arm64
        2
        its registry cannot be asked, so it is built on what the name led to last: Get "http://127.0.0.1:15214/v2/": dial tcp 127.0.0.1:15214: connect: connection refused
        $ hull build --pull --platform linux/arm64 -o not . 2>&1 | grep -c 'failed to resolve source metadata: .*connection refused'; ls -d not 2>/dev/null || :
        1
        $ hull build --platform linux/s390x -o not . 2>&1 | grep -c 'failed to resolve source metadata: .*connection refused'
        1
        $ hull image prune -f >/dev/null; hull build --platform linux/arm64 -o not . 2>&1 | grep -c 'failed to resolve source metadata: .*connection refused'
        1
        "#,
    );
}

#[test]
fn a_layout_has_all_platforms_and_they_are_built_on() {
    Daemon::start().session(&format!(
        "$ {CROSS}\n{}",
        unindented(
            r#"
        $ hull build -q --platform linux/amd64,linux/arm64 -o type=oci,dest=layout,tar=false -t app:1 ctx >/dev/null; python3 -c 'import json; top = json.load(open("layout/index.json"))["manifests"]; print(len(top), top[0]["mediaType"]); index = json.load(open("layout/blobs/" + top[0]["digest"].replace(":", "/"))); print([one["platform"]["architecture"] for one in index["manifests"]])'
        1 application/vnd.oci.image.index.v1+json
        ['amd64', 'arm64']
        $ mkdir on; printf '%s\n' 'FROM base' 'COPY f /f' >on/Dockerfile; echo 1 >on/f; hull build --platform linux/amd64,linux/arm64 --build-context base=oci-layout://layout -o out on >log 2>&1 || cat log; cat out/*/for
        amd64
        arm64
        $ hull build --platform linux/amd64,linux/s390x --build-context base=oci-layout://layout -o not on 2>&1 | tail -1 | grep -o 's390x' | head -1
        s390x
        "#
        )
    ));
}
