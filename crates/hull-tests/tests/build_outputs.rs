//! Where builds go, and what is told of them.

use std::process::Command;

use hull_tests::{Daemon, DockerRegistry, Engine, private_network};
use serde_json::Value;

/// What a registry has at a path.
fn got(registry: &DockerRegistry, path: &str, accept: &str) -> Value {
    let output = Command::new("curl")
        .args(["-sf", "-H", &format!("Accept: {accept}")])
        .arg(format!("http://{}/v2/{path}", registry.address))
        .output()
        .expect("curl");
    assert!(output.status.success(), "{path}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[test]
fn what_was_built_is_told_in_a_file() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf 'FROM busybox\nCOPY f /f\n' >ctx/Dockerfile; echo 1 >ctx/f
        $ hull build -q -t one -t two:2 --metadata-file m.json --iidfile id ctx >/dev/null; python3 -c 'import json; m = json.load(open("m.json")); i = open("id").read(); print(m["containerimage.config.digest"] == i == m["containerimage.digest"], m["image.name"])'
        True docker.io/library/one:latest,docker.io/library/two:2
        $ hull image inspect -f '{{.Id}}' one two:2 | sort -u | wc -l
        1
        $ hull build --metadata-file /no/such/folder/m ctx 2>&1 | tail -1
        write what is known of the image to /no/such/folder/m: No such file or directory (os error 2)
        "#,
    );
}

#[test]
fn an_image_is_pushed_under_each_of_its_names() {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let registry = DockerRegistry::start(folder.path(), "127.0.0.1:15210", "");
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ mkdir ctx; printf 'FROM busybox\nCOPY f /f\n' >ctx/Dockerfile; echo 1 >ctx/f
        $ hull build -q --push -t 127.0.0.1:15210/a/b:1 -t 127.0.0.1:15210/c:2 --metadata-file m.json ctx
        sha256:<id>
        $ hull build --push -t 127.0.0.1:15210/a/b:1 --annotation org.x.y=why --annotation 'manifest:org.x.z=1' --metadata-file n.json --progress plain ctx 2>&1 | grep -c 'Layer already exists\|pushing 127.0.0.1:15210/a/b:1'
        3
        $ hull rmi -f 127.0.0.1:15210/a/b:1 127.0.0.1:15210/c:2 >/dev/null; hull run --rm 127.0.0.1:15210/a/b:1 cat /f 2>/dev/null
        1
        $ hull build --push ctx 2>&1 | tail -1
        Error response from daemon: output type=image: tag is needed when pushing to registry
        $ hull build --annotation a=b -t x ctx 2>&1 | tail -1
        Error response from daemon: output type=image: annotations are of manifests, and an image that stays here has none: push it (--push)
        $ hull build --push --annotation index:a=b -t x ctx 2>&1 | tail -1
        Error response from daemon: output type=image: index annotations not supported for single platform export
        $ hull build --push --annotation what:a=b -t x ctx 2>&1 | head -1
        --annotation what:a=b: "what" is no kind of annotation: there are manifest, index and manifest-descriptor
        $ hull build --push -t 127.0.0.1:15211/x ctx 2>&1 | tail -1 | grep -c 'connection refused'
        1
        "#,
    );
    let file = |name: &str| -> Value {
        let text = std::fs::read(daemon.dir().join("work").join(name)).expect("the file");
        serde_json::from_slice(&text).expect("JSON")
    };
    let plain = file("m.json");
    let digest = plain["containerimage.digest"].as_str().expect("a digest");
    let manifest = got(&registry, &format!("c/manifests/{digest}"), DOCKER);
    assert_eq!(manifest["config"]["digest"], plain["containerimage.config.digest"]);
    assert_eq!(plain["containerimage.descriptor"]["mediaType"], DOCKER);
    let annotated = file("n.json");
    assert_eq!(annotated["containerimage.descriptor"]["mediaType"], OCI);
    let manifest = got(&registry, "a/b/manifests/1", OCI);
    assert_eq!(manifest["annotations"], serde_json::json!({ "org.x.y": "why", "org.x.z": "1" }));
    assert_eq!(manifest["config"]["digest"], annotated["containerimage.config.digest"]);
}

#[test]
fn what_the_cache_has_is_listed() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'RUN --mount=type=cache,id=things,target=/c head -c 3000000 /dev/zero >/c/f; head -c 2000000 /dev/zero >/g' >ctx/Dockerfile; hull build -q -t t ctx >/dev/null
        $ hull builder df | head -1
        ID             RECLAIMABLE   SIZE      LAST ACCESSED
        $ hull builder df --format '{{.Type}} {{.Size}} {{.Reclaimable}} {{.Shared}} {{.Description}}' --verbose | sort
        exec.cachemount 3MB true false cache mount things
        regular 2MB false true /bin/sh -c head -c 3000000 /dev/zero >/c/f; head -c 2000000 /dev/zero >/g
        $ hull rmi t >/dev/null; hull builder du --format '{{.Reclaimable}}' | sort -u
        true
        $ hull system df -v | grep -c 'exec.cachemount'; hull system df --format '{{.Type}} {{.TotalCount}} {{.Size}}' | grep Build
        1
        Build Cache 2 5MB
        $ hull builder df | tail -1
        Total:		5MB
        $ hull builder prune -f | tail -1; hull builder df --format '{{.ID}}'
        Total reclaimed space: 5MB
        "#,
    );
}

#[test]
fn one_stage_is_done_again_and_what_stands_on_it() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox AS a' 'RUN cat /proc/sys/kernel/random/uuid >/a' 'FROM busybox AS b' 'RUN cat /proc/sys/kernel/random/uuid >/b' 'FROM a AS on-a' 'RUN cat /proc/sys/kernel/random/uuid >/on-a' 'FROM busybox' 'COPY --from=on-a /a /on-a /' 'COPY --from=b /b /' >ctx/Dockerfile
        $ build() { hull build -q -t c "$@" ctx >/dev/null; hull run --rm c cat /a /b /on-a; }; changed() { cmp -s $1 $2 && echo same || diff $1 $2 | grep -c '^>'; }
        $ build >1; build >2; build --no-cache-filter B >3; build >4; build --no-cache-filter a,b >5; build >6; for n in 1 2 3 4 5; do changed $n $((n + 1)); done
        same
        1
        same
        3
        same
        $ build --no-cache-filter onna 2>&1 | head -1
        Error response from daemon: stage of --no-cache-filter "onna" could not be found (did you mean on-a?)
        "#,
    );
}
