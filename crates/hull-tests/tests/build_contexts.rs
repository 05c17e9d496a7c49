//! Contexts beside the build's own, and from elsewhere.

use hull_tests::{Daemon, Engine};

#[test]
fn folders_stand_for_images_and_stages() {
    Daemon::start().session(
        r#"
        $ mkdir ctx src src/d; echo one >src/f; echo two >src/d/g; echo no >src/left.log; echo '*.log' >src/.dockerignore; ln -s d/g src/link
        $ printf '%s\n' 'FROM busybox AS files' 'RUN exit 1' 'FROM src AS on-src' 'FROM busybox' 'COPY --from=src f d/g /c/' 'COPY --from=on-src / /all/' 'COPY --from=files /f /files/' 'RUN --mount=from=src,target=/m cat /m/f /m/link >/mounted; ! touch /m/x 2>/dev/null' 'RUN --mount=from=src,source=d,target=/m,rw echo new >/m/g; --mount=x' >ctx/Dockerfile; sed -i 's/; --mount=x//' ctx/Dockerfile
        $ hull build -q -t c --build-context src=src --build-context files=src ctx >/dev/null && hull run --rm c sh -c 'cat /mounted /c/* /files/f; cd /all; ls .dockerignore d/g f link left.log 2>/dev/null; stat -c %u:%g /all/f'
        one
        two
        one
        two
        one
        .dockerignore
        d/g
        f
        link
        0:0
        $ cat src/d/g; touch src/f; hull build --progress plain --build-context SRC=src --build-context files=./src ctx 2>&1 | grep -c CACHED
        two
        5
        $ echo three >src/f; hull build -q -t c --build-context src=src --build-context files=src ctx >/dev/null && hull run --rm c cat /c/f /all/f
        three
        three
        $ hull build --build-context src=none ctx 2>&1 | head -1
        --build-context src=none: none is no folder
        $ ls -A "$HULL_DATA/build/tmp" 2>/dev/null; hull ps -aq
        "#,
    );
}

#[test]
fn images_stand_for_others() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    Daemon::start().session(
        r#"
        $ printf 'FROM busybox\nRUN echo other >/which\n' | hull build -q -t other - >/dev/null; mkdir ctx; printf '%s\n' 'FROM golang:1.2' 'COPY --from=docker.io/library/golang:1.2 /which /copied' 'RUN --mount=from=tools,target=/t cat /t/which >/mounted' >ctx/Dockerfile
        $ hull build -q -t c --build-context golang:1.2=docker-image://other --build-context tools=docker-image://other ctx >/dev/null; hull run --rm c cat /which /copied /mounted
        other
        other
        other
        $ mkdir layout; hull save other busybox | tar -xC layout; hull rmi other >/dev/null; hull images -aq | wc -l >before
        $ hull build -q -t d --build-context golang:1.2=oci-layout://layout:latest --build-context tools=oci-layout://layout ctx 2>&1 | head -1
        --build-context golang:1.2=oci-layout://layout:latest: layout has 2 images with the tag latest where one is wanted: name it as FOLDER:TAG or FOLDER@DIGEST
        $ digest=$(python3 -c 'import json; print([m["digest"] for m in json.load(open("layout/index.json"))["manifests"] if "other" in str(m)][0])'); hull rmi c >/dev/null; hull builder prune -af >/dev/null
        $ hull build -q -t d --build-context golang:1.2=oci-layout://layout@$digest --build-context tools=oci-layout://layout@$digest ctx >/dev/null; hull run --rm d cat /which /copied /mounted
        other
        other
        other
        $ hull images --format '{{.Repository}}' -a | sort
        busybox
        d
        hull/host
        $ hull build --build-context golang:1.2=oci-layout://ctx ctx 2>&1 | grep -c 'is no OCI layout'
        1
        "#,
    );
}
