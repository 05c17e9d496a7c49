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
        write what is known of the image to /no/such/folder/m: No such file or directory
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
        Error response from daemon: output type=image: annotations are of manifests, and an image that stays here has none: push it (--push), or have an OCI layout made (-o type=oci)
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

#[test]
fn files_and_archives_go_to_who_asks() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let daemon = Daemon::start();
    daemon.session("        $ printf 'FROM busybox\\nRUN true\\n' | hull build -q -o - - 2>/dev/null | tar -t >/dev/null; hull builder prune -af >/dev/null\n");
    let before = daemon.settled();
    daemon.session(
        r#"
        $ mkdir ctx ctx/d; echo f >ctx/f; echo g >ctx/d/g; ln -s ../f ctx/d/l; printf '%s\n' 'FROM busybox AS b' 'RUN mkdir /etc/x && echo h >/etc/hosts.mine && chown 5:6 /etc/hosts.mine' 'FROM scratch' 'COPY f /' 'COPY d /d' 'COPY --from=b /etc/hosts.mine /etc/' >ctx/Dockerfile
        $ hull build -q -o out ctx | cut -c1-7; find out | sort; cat out/d/l
        sha256:
        out
        out/d
        out/d/g
        out/d/l
        out/etc
        out/etc/hosts.mine
        out/f
        f
        $ hull build --progress quiet -o - ctx 2>/dev/null | tar -tv --numeric-owner | awk '{print $1, $2, $6}' | sort -k3
        drwxr-xr-x 0/0 d/
        -rw-r--r-- 0/0 d/g
        lrwxrwxrwx 0/0 d/l
        drwxr-xr-x 0/0 etc/
        -rw-r--r-- 5/6 etc/hosts.mine
        -rw-r--r-- 0/0 f
        $ hull build -q -o type=tar,dest=t.tar -t kept:1 ctx >/dev/null; tar -tf t.tar | wc -l; hull images -q kept | wc -l; hull build -q -o type=tar,dest=t.tar -t kept:1 --load ctx >/dev/null; hull images -q kept | wc -l
        6
        0
        1
        $ hull rmi kept:1 >/dev/null; hull build -q --target b -t n:1 -o type=docker,dest=d.tar ctx >/dev/null; hull load -qi d.tar; hull run --rm n:1 cat /etc/hosts.mine
        Loaded image: n:1
        h
        $ hull rmi n:1 >/dev/null; hull build -q --target b -t o:1 --annotation k=v -o type=oci,dest=o.tar --metadata-file m.json ctx >/dev/null; hull load -qi o.tar; python3 -c 'import json, tarfile; t = tarfile.open("o.tar"); i = json.load(t.extractfile("index.json"))["manifests"][0]; m = json.load(t.extractfile("blobs/sha256/" + i["digest"][7:])); print(m["annotations"], i["annotations"]["org.opencontainers.image.ref.name"], json.load(open("m.json"))["containerimage.digest"] == i["digest"])'
        Loaded image: o:1
        {'k': 'v'} 1 True
        $ hull rmi o:1 >/dev/null; hull build -q --target b -o type=oci,dest=lay,tar=false ctx >/dev/null; printf 'FROM b\nCOPY --from=b /etc/hosts.mine /copy\n' | hull build -q -t l --build-context b=oci-layout://lay - >/dev/null; hull run --rm l cat /copy; hull rmi l >/dev/null
        h
        $ printf 'FROM busybox\nRUN exit 3\n' >ctx/Bad; hull build -f ctx/Bad -o type=tar,dest=bad.tar ctx 2>/dev/null; ls bad.tar* 2>/dev/null; hull build -f ctx/Bad -o bad ctx 2>/dev/null; ls bad 2>/dev/null
        [2]
        $ hull build -o type=vm ctx 2>&1 | tail -1
        Error response from daemon: output type=vm is not supported by hull: it has image, registry, docker, oci, tar, local and cacheonly
        $ curl -s --unix-socket "${HULL_HOST#unix://}" -X POST -H 'Content-Type: application/x-tar' "http://x/build?outputs=%5B%7B%22Type%22:%22tar%22%7D%5D" | grep -c "without hull's own client"
        1
        $ hull images --format '{{.Repository}}'
        busybox
        hull/host
        $ hull builder prune -af >/dev/null
        "#,
    );
    daemon.comes_back_to(&before);
}

#[test]
fn layers_of_a_build_become_one() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'RUN echo 1 >/a && echo old >/b && mkdir /d && echo x >/d/x' 'RUN rm /b && rm -r /d && rm /bin/vi && chown 7:8 /a' 'ENV E=e' >ctx/Dockerfile
        $ hull build -q --squash -t s ctx >/dev/null; hull image inspect -f '{{len .RootFS.Layers}}' busybox s; hull run --rm s sh -c 'cat /a; stat -c %u:%g /a; ls /b /d /bin/vi 2>/dev/null; echo $E'
        1
        2
        1
        7:8
        e
        $ hull build -q -t plain ctx >/dev/null; hull image inspect -f '{{len .RootFS.Layers}}' plain; hull history s --format '{{.Comment}}' | head -1 | cut -c1-13
        3
        merge sha256:
        $ hull save s >s.tar; hull rmi s plain >/dev/null; hull builder prune -af >/dev/null; hull load -qi s.tar; hull run --rm s cat /a
        Loaded image: s:latest
        1
        "#,
    );
}

#[test]
fn attestations_lie_beside_what_is_pushed() {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let registry = DockerRegistry::start(folder.path(), "127.0.0.1:15210", "");
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ mkdir ctx; printf 'Package: bash\nStatus: install ok installed\nVersion: 5.2-1\nArchitecture: amd64\n' >ctx/status; printf 'FROM busybox\nARG A\nRUN --mount=type=secret,id=s mkdir -p /var/lib/rpm && ln -s /of/rpm /var/lib/rpm/rpmdb.sqlite\nCOPY status /var/lib/dpkg/status\nCOPY rpm /of/rpm\n' >ctx/Dockerfile; echo hush >s
        $ python3 -c 'import sqlite3, struct; h = struct.pack(">18I", 4, 17, 1000, 6, 0, 1, 1001, 6, 4, 1, 1002, 6, 8, 1, 1022, 6, 10, 1) + b"zsh\x005.9\x001\x00x86_64\x00"; c = sqlite3.connect("ctx/rpm"); c.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)"); c.execute("INSERT INTO Packages (blob) VALUES (?)", (h,)); c.commit()'
        $ hull build -q --push -t 127.0.0.1:15210/a:1 --provenance=mode=max --sbom --annotation index:k=v --build-arg A=value --secret id=s,src=s --metadata-file m.json ctx >/dev/null
        $ hull rmi -f 127.0.0.1:15210/a:1 >/dev/null; hull run --rm 127.0.0.1:15210/a:1 cat /var/lib/dpkg/status 2>/dev/null | head -1
        Package: bash
        $ hull build --sbom -t x ctx 2>&1 | tail -1 | cut -c1-80
        Error response from daemon: attestations lie beside an image in an index, and on
        $ hull build --push -t x --attest type=what ctx 2>&1 | tail -1
        Error response from daemon: the attestation type=what: there are provenance and sbom
        $ hull build -q --provenance -o type=oci,dest=o.tar -t o:1 ctx >/dev/null; tar -xOf o.tar index.json | python3 -c 'import json, sys; print(json.load(sys.stdin)["manifests"][0]["mediaType"])'; hull load -qi o.tar
        application/vnd.oci.image.index.v1+json
        Loaded image: o:1
        "#,
    );
    let index = got(&registry, "a/manifests/1", "application/vnd.oci.image.index.v1+json");
    assert_eq!(index["annotations"]["k"], "v");
    let (image, attested) = (&index["manifests"][0], &index["manifests"][1]);
    assert_eq!(attested["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let manifest =
        got(&registry, &format!("a/manifests/{}", attested["digest"].as_str().expect("a digest")), OCI);
    let blob = |number: usize| {
        let digest = manifest["layers"][number]["digest"].as_str().expect("a digest");
        got(&registry, &format!("a/blobs/{digest}"), "*/*")
    };
    let (sbom, provenance) = (blob(0), blob(1));
    assert_eq!(sbom["predicateType"], "https://spdx.dev/Document");
    assert_eq!(sbom["predicate"]["packages"][0]["name"], "bash");
    // Beneath a link that leads nowhere but in the image.
    assert_eq!(sbom["predicate"]["packages"][1]["name"], "zsh");
    let hex = image["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
    assert_eq!(sbom["subject"][0]["digest"]["sha256"], hex);
    assert_eq!(provenance["predicateType"], "https://slsa.dev/provenance/v1");
    let definition = &provenance["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["request"]["args"]["build-arg:A"], "value");
    let uri = definition["resolvedDependencies"][0]["uri"].as_str().expect("an address");
    assert!(uri.starts_with("pkg:docker/busybox@latest"), "{uri}");
    assert!(!provenance.to_string().contains("hush"));
}

#[test]
fn what_is_pushed_is_compressed_and_named_as_it_is_asked_for() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let _registry = DockerRegistry::start(folder.path(), "127.0.0.1:15218", "");
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf 'FROM busybox\nRUN echo hi >/f\n' >ctx/Dockerfile; manifest() { curl -s -H 'Accept: application/vnd.oci.image.manifest.v1+json' -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' http://127.0.0.1:15218/v2/app/manifests/$1 | python3 -c 'import json, sys; m = json.load(sys.stdin); print(m.get("mediaType"), *sorted({l["mediaType"].split(".")[-1] for l in m["layers"]}))'; }
        $ push() { hull build -q -o type=registry,name=127.0.0.1:15218/app:$1,$2 ctx >/dev/null && manifest $1; }
        $ push zstd compression=zstd,force-compression=true; push hard compression=zstd,compression-level=19,force-compression=true; push plain compression=uncompressed,force-compression=true; push oci oci-mediatypes=true; push docker oci-mediatypes=false,compression=gzip
        application/vnd.oci.image.manifest.v1+json tar+zstd
        application/vnd.oci.image.manifest.v1+json tar+zstd
        application/vnd.oci.image.manifest.v1+json tar
        application/vnd.oci.image.manifest.v1+json tar+gzip
        application/vnd.docker.distribution.manifest.v2+json gzip
        $ for tag in zstd plain docker; do hull rmi -f 127.0.0.1:15218/app:$tag >/dev/null; hull builder prune -af >/dev/null; hull run --rm 127.0.0.1:15218/app:$tag cat /f 2>/dev/null; done
        hi
        hi
        hi
        $ hull build -q -o type=image,name=127.0.0.1:15218/digest,push=true,push-by-digest=true,name-canonical=true --metadata-file m ctx >/dev/null; curl -s http://127.0.0.1:15218/v2/digest/tags/list; curl -s -o /dev/null -w '%{http_code}\n' -H 'Accept: application/vnd.oci.image.manifest.v1+json' -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' http://127.0.0.1:15218/v2/digest/manifests/$(python3 -c 'import json; print(json.load(open("m"))["containerimage.digest"])'); hull images -q 127.0.0.1:15218/digest:latest
        {"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry","detail":{"name":"digest"}}]}
        200
        $ printf 'FROM busybox\nRUN echo ho >/f\n' >ctx/Dockerfile; hull build -q -o type=registry,name=127.0.0.1:15218/gone,store=false ctx >/dev/null; hull images -q 127.0.0.1:15218/gone; curl -s http://127.0.0.1:15218/v2/gone/tags/list
        {"name":"gone","tags":["latest"]}
        $ for o in compression=estargz compression-level=30 unpack=false registry.insecure=true dangling-name-prefix=x; do hull build -q -o type=registry,name=127.0.0.1:15218/no,$o ctx 2>&1 | grep -o 'output type=.*'; done
        output type=registry: compression=estargz is not supported by hull: there are gzip, zstd and uncompressed
        output type=registry: compression-level=30: there are 0 to 9 with gzip, and 0 to 22 with zstd
        output type=registry: what stays here is unpacked in any case: unpack=false is not supported
        output type=registry: which registries are reached without TLS is the daemon's to say (insecure-registries)
        output type=registry: dangling-name-prefix=x is not supported by hull
        "#,
    );
}
