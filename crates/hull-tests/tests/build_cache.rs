//! What is done again, and what is not.

use hull_tests::{Daemon, DockerRegistry, Engine, private_network};

const FILE: &str = r#"
        $ mkdir -p ctx/d; printf '%s\n' 'FROM busybox' 'RUN cat /proc/sys/kernel/random/uuid >/first' 'COPY d /d' 'RUN cat /proc/sys/kernel/random/uuid >/second' >ctx/Dockerfile
        $ echo 1 >ctx/d/a; echo 1 >ctx/d/b; build() { hull build -q -t c "$@" ctx >/dev/null; hull run --rm c cat /first /second; }; build >one
"#;

#[test]
fn contents_count_and_times_do_not() {
    Daemon::start().session(&format!(
        r#"{FILE}
        $ build | cmp - one
        $ touch ctx/d/a ctx/d; build | cmp - one
        $ echo 2 >ctx/d/a; build >two; head -1 two | cmp - one 2>&1 | grep -c EOF; tail -1 two | grep -cf one
        1
        0
        [1]
        $ chmod 600 ctx/d/b; build | tail -1 | grep -cf two
        0
        [1]
        $ chmod 644 ctx/d/b; echo 1 >ctx/d/a; build | cmp - one
        $ build --no-cache | head -1 | grep -cf one
        0
        [1]
        "#
    ));
}

#[test]
fn it_outlives_the_daemon_and_the_image() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.session(FILE);
    daemon.kill();
    daemon.begin();
    daemon.session(
        r#"
        $ hull rmi c >/dev/null; hull build --progress plain -t c ctx 2>&1 | grep -c CACHED
        3
        $ hull run --rm c cat /first /second | cmp - one
        $ hull system df --format '{{.Type}} {{.TotalCount}}' | grep Build
        Build Cache 3
        $ hull rmi c >/dev/null; hull builder prune -f | grep -c 'Total reclaimed space'
        1
        $ hull system df --format '{{.Type}} {{.TotalCount}}' | grep Build
        Build Cache 0
        $ hull build -q -t c ctx >/dev/null; hull run --rm c cat /first | cmp - one 2>&1 | grep -c differ
        1
        "#,
    );
}

#[test]
fn arguments_and_order_count() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'ARG A' 'RUN echo "$A" >/a' 'ENV E=1' 'RUN echo e >/e' >ctx/Dockerfile; cached() { hull build --progress plain "$@" ctx 2>&1 | grep -c CACHED; }; cached
        0
        [1]
        $ cached; cached --build-arg A=1; cached --build-arg A=1
        4
        1
        4
        $ printf '%s\n' 'FROM busybox' 'ENV E=1' 'ARG A' 'RUN echo "$A" >/a' >ctx/Dockerfile; hull build --progress plain ctx 2>&1 | grep -c CACHED
        0
        [1]
        $ hull build -q --build-arg SOURCE_DATE_EPOCH=0 --no-cache ctx >one; hull build -q --build-arg SOURCE_DATE_EPOCH=0 ctx | cmp - one
        "#,
    );
}

#[test]
fn an_image_from_elsewhere_gives_its_steps() {
    Daemon::start().session(&format!(
        r#"{FILE}
        $ hull save c >c.tar; hull rmi c >/dev/null; hull builder prune -af >/dev/null; hull load -qi c.tar
        Loaded image: c:latest
        $ hull build --progress plain --cache-from c -t again ctx 2>&1 | grep -c CACHED; hull run --rm again cat /first /second | cmp - one
        3
        $ hull builder prune -af >/dev/null; echo 9 >ctx/d/a; hull build --progress plain --cache-from c -t again ctx 2>&1 | grep -c CACHED
        1
        "#
    ));
}

#[test]
fn what_follows_a_copy_of_a_stage_is_found_again() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; echo 1 >ctx/x; printf '%s\n' 'FROM busybox AS a' 'COPY x /other' 'RUN echo made >/made && touch -d @0 /made' 'FROM busybox' 'COPY --from=a /made /' 'RUN cat /proc/sys/kernel/random/uuid >/id' >ctx/Dockerfile
        $ build() { hull build -q -t c ctx >/dev/null; hull run --rm c cat /id; }; build >one; build | cmp - one; build | cmp - one
        $ echo 2 >ctx/x; build | cmp - one
        "#,
    );
}

#[test]
fn the_same_step_at_the_same_time_is_done_once() {
    Daemon::start().session(
        r#"
        $ gate() { printf '%s\n' 'FROM busybox' "RUN --mount=type=cache,id=gate,target=/g $*" | hull build -q --no-cache - >/dev/null; }
        $ mkdir ctx; id='RUN --mount=type=cache,id=gate,target=/g until test -e /g/open; do usleep 1000; done; cat /proc/sys/kernel/random/uuid >/id'; printf '%s\n' 'FROM busybox' "$id" >ctx/Dockerfile
        $ build() { hull build --progress plain -t $1 ctx >$1.log 2>&1; }; waiting() { until test $(cat *.log 2>/dev/null | grep -c 'waiting for it') = $1; do :; done; }
        $ build a & build b & build c & waiting 2; gate touch /g/open; wait; for name in a b c; do hull run --rm $name cat /id; done | uniq | wc -l
        1
        $ printf '%s\n' 'FROM busybox AS a' "$id" 'FROM busybox AS b' "$id" 'FROM busybox' 'COPY --from=a /id /a' 'COPY --from=b /id /b' >ctx/Dockerfile
        $ for n in 1 2; do rm *.log; gate rm /g/open; hull build --progress plain --no-cache -t c ctx >c.log 2>&1 & waiting 1; gate touch /g/open; wait; hull run --rm c cat /a /b | uniq; done | uniq | wc -l
        2
        "#,
    );
}

#[test]
fn a_step_that_another_build_gives_up_is_done_all_the_same() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'RUN --mount=type=cache,id=gate,target=/g echo begun; until test -e /g/open; do usleep 1000; done; echo done >/done' >ctx/Dockerfile
        $ hull build --progress plain ctx >log 2>&1 & first=$!; until grep -qs ' begun' log; do :; done; hull build --progress plain -t c ctx >second 2>&1 & second=$!; until grep -qs 'waiting for it' second; do :; done
        $ kill $first; until grep -q ' begun' second; do :; done; printf '%s\n' 'FROM busybox' 'RUN --mount=type=cache,id=gate,target=/g touch /g/open' | hull build -q - >/dev/null; wait $second; hull run --rm c cat /done
        done
        "#,
    );
}

#[test]
fn steps_are_kept_in_folders_and_registries() {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let _registry = DockerRegistry::start(folder.path(), "127.0.0.1:15210", "");
    Daemon::start().session(&format!(
        r#"{FILE}
        $ clean() {{ hull rmi -f c >/dev/null; hull builder prune -af >/dev/null; }}; cached() {{ hull build --progress plain -t c "$@" ctx 2>&1 | grep -c CACHED; hull run --rm c cat /first /second | cmp - one; }}
        $ cached --cache-to type=local,dest=kept --cache-to type=registry,ref=127.0.0.1:15210/kept --cache-to type=inline; ls kept; hull images -q 127.0.0.1:15210/kept
        3
        blobs
        index.json
        oci-layout
        $ clean; cached --cache-from type=local,src=kept; clean; cached --cache-from type=registry,ref=127.0.0.1:15210/kept; hull images --format '{{{{.Repository}}}}' | sort
        3
        3
        busybox
        c
        hull/host
        $ clean; hull build -q --cache-from type=local,src=none --cache-from type=registry,ref=127.0.0.1:15210/none -t c ctx 2>&1 | cut -d: -f1
        WARNING
        sha256
        $ hull build --cache-to type=inline,mode=max ctx 2>&1 | head -1
        --cache-to type=inline,mode=max: an image has the steps of its own stage: mode=max is of type=registry and local
        "#
    ));
}

/// A stage that is only copied from, and an image that has nothing of it but one file.
const STAGES: &str = r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox AS made' 'RUN cat /proc/sys/kernel/random/uuid >/id' 'FROM busybox' 'COPY --from=made /id /id' >ctx/Dockerfile
        $ clean() { hull rmi -f c >/dev/null 2>&1; hull builder prune -af >/dev/null; }; cached() { hull build --progress plain -t c "$@" ctx 2>&1 | grep -c CACHED; hull run --rm c cat /id | cmp -s - one && echo same; }
"#;

#[test]
fn the_steps_of_all_stages_are_kept_where_that_is_asked_for() {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let _registry = DockerRegistry::start(folder.path(), "127.0.0.1:15216", "");
    Daemon::start().session(&format!(
        r#"{STAGES}
        $ hull build -q -t c --cache-to type=local,dest=max,mode=max --cache-to type=local,dest=min --cache-to type=registry,ref=127.0.0.1:15216/max,mode=max,compression=zstd ctx >/dev/null; hull run --rm c cat /id >one
        $ clean; cached --cache-from type=local,src=max
        2
        same
        $ clean; cached --cache-from type=registry,ref=127.0.0.1:15216/max; hull images --format '{{{{.Repository}}}}' | sort
        2
        same
        busybox
        c
        hull/host
        $ clean; cached --cache-from type=local,src=min
        0
        [1]
        "#
    ));
}

#[test]
fn files_of_cache_mounts_are_kept_elsewhere_and_come_back() {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let _registry = DockerRegistry::start(folder.path(), "127.0.0.1:15217", "");
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'ARG RUN' 'RUN --mount=type=cache,id=a,target=/a,uid=5,mode=0711 --mount=type=cache,target=/b cat /a/n /b/n >/seen 2>/dev/null; test -e /a/n || { echo one >/a/n; chown 7:8 /a/n; chmod 640 /a/n; ln /a/n /a/m; echo two >/b/n; }; stat -c "%u:%g %a %h" /a/n /a/m /a >>/seen' >ctx/Dockerfile
        $ run=0; seen() { run=$((run+1)); hull build -q -t c --build-arg RUN=$run "$@" ctx 2>&1 | grep -v ^sha256; hull run --rm c cat /seen; }; forget() { hull rmi -f c >/dev/null; hull builder prune -af >/dev/null; }
        $ hull build --progress plain --cache-mounts-from 127.0.0.1:15217/none --cache-mounts-from type=local,src=none ctx 2>&1 | grep -c 's no cache mounts'; hull builder prune -af >/dev/null
        2
        $ seen --cache-mounts-to type=local,dest=kept --cache-mounts-to 127.0.0.1:15217/kept; ls kept
        7:8 640 2
        7:8 640 2
        5:0 711 2
        blobs
        index.json
        oci-layout
        $ forget; seen --cache-mounts-from type=local,src=kept
        one
        two
        7:8 640 2
        7:8 640 2
        5:0 711 2
        $ forget; seen --cache-mounts-from type=registry,ref=127.0.0.1:15217/kept | head -2; hull builder df -v | grep -o 'cache mount.*'
        one
        two
        cache mount /b
        cache mount a
        $ forget; seen | head -1
        7:8 640 2
        $ forget; printf 'FROM busybox\nRUN --mount=type=cache,id=a,target=/a cat /a/n\nRUN --mount=type=cache,id=other,target=/o true\n' | hull build --progress plain --cache-mounts-from type=local,src=kept --cache-mounts-to type=local,dest=again,compression=gzip - 2>&1 | grep -o ' one$\|[a-z]*: [0-9]* bytes$' | sed 's/[0-9][0-9]*/N/'
         one
        a: N bytes
        other: N bytes
        $ printf 'FROM busybox\nRUN --mount=type=cache,id=a,target=/a cat /a/n || echo no""ne\nRUN --mount=type=cache,id=other,target=/o true\n' >D; hull builder prune -af >/dev/null; hull build -q -t c --cache-to type=local,dest=steps -f D ctx >/dev/null; forget; hull build --progress plain -f D --cache-from type=local,src=steps --cache-mounts-from type=local,src=again --cache-mounts-to type=local,dest=third ctx 2>&1 | grep -o 'CACHED\|[a-z]*: [0-9]* bytes$' | sed 's/[0-9][0-9]*/N/'
        CACHED
        CACHED
        a: N bytes
        other: N bytes
        $ python3 -c 'import json; d = json.load(open("again/index.json"))["manifests"][0]["digest"][7:]; l = json.load(open("again/blobs/sha256/" + d))["layers"][0]; print(l["mediaType"], l["annotations"]); open("again/blobs/sha256/" + l["digest"][7:], "ab").write(b"no"); f = "third/blobs/sha256/" + json.load(open("third/index.json"))["manifests"][0]["digest"][7:]; b = "third/blobs/sha256/" + json.load(open(f))["layers"][0]["digest"][7:]; open(b, "r+b").write(b"no")'
        application/vnd.oci.image.layer.v1.tar+gzip {'io.hull.build.cache-mount.id': 'a'}
        $ for from in again third kept; do hull builder prune -af >/dev/null; hull build -f D --progress plain --cache-mounts-from type=local,src=$from ctx 2>&1 | grep -o 'the cache mount a gives no cache mounts\| one$\| none$' | sort; done
         one
         none
        the cache mount a gives no cache mounts
         one
        $ hull build -q --cache-mounts-from type=local,src=steps -f D ctx 2>&1 | grep -c sha256; hull build -q --cache-mounts-to type=inline ctx 2>&1 | head -1
        1
        --cache-mounts-to type=inline: there are type=registry,ref=NAME and type=local,dest=FOLDER
        "#,
    );
}
