//! Layers whose digests are computed while the next steps run.

use hull_tests::{Daemon, Engine};

#[test]
fn what_was_built_is_what_its_digests_say() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    Daemon::start().session(
        r#"
        $ mkdir ctx; echo one >ctx/f; printf '%s\n' 'FROM busybox' 'RUN head -c 50000000 /dev/urandom >/big; ln /big /link' 'ENV A=b' 'RUN sha256sum /big >/sum' 'WORKDIR /w/x' 'COPY f /f' 'RUN rm /big; echo $A >/a' 'CMD cat /a' >ctx/Dockerfile
        $ hull build -q -t c ctx >one; hull run --rm c; hull run --rm c sh -c 'sed s/big/link/ /sum | sha256sum -c; cat /f; pwd'
        b
        /link: OK
        one
        /w/x
        $ hull build -q -t c ctx | cmp - one; hull build --progress plain ctx 2>&1 | grep -c CACHED
        7
        $ hull system fsck --contents >/dev/null; hull save c >saved; hull rmi -f c >/dev/null; hull builder prune -af >/dev/null; hull load -q <saved; hull run --rm c
        Loaded image: c:latest
        b
        "#,
    );
}

#[test]
fn a_layer_is_kept_whatever_becomes_of_the_next_step() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.session(
        r#"
        $ mkdir ctx; first='RUN head -c 30000000 /dev/urandom >/big; cat /proc/sys/kernel/random/uuid >/id'; printf '%s\n' 'FROM busybox' "$first" 'ENV A=b' 'RUN cat /id >/other; cat /id; exit 3' >ctx/Dockerfile
        $ hull build --progress plain ctx 2>&1 | grep -o '[0-9a-f]*-[0-9a-f]*-[0-9a-f-]*' | head -1 >id; printf '%s\n' 'FROM busybox' "$first" 'ENV A=b' 'RUN cat /id >/other' >ctx/Dockerfile; hull build -q -t c ctx >/dev/null; hull run --rm c cat /other | cmp - id
        $ printf '%s\n' 'FROM busybox' "$first; : again" 'RUN --mount=type=cache,id=gate,target=/g until test -e /g/open; do usleep 1000; done; cat /id >/other' >ctx/Dockerfile
        $ hull build -q ctx >/dev/null 2>&1 & until hull builder df --verbose --format '{{.Description}}' | grep -q 'again'; do :; done
        "#,
    );
    daemon.kill();
    daemon.begin();
    daemon.session(
        r#"
        $ hull system fsck >/dev/null; printf '%s\n' 'FROM busybox' 'RUN --mount=type=cache,id=gate,target=/g touch /g/open' | hull build -q - >/dev/null; hull build --progress plain -t d ctx 2>&1 | grep -c CACHED; hull run --rm d cmp /id /other
        1
        "#,
    );
}

#[test]
fn a_digest_that_cannot_be_had_leaves_nothing() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.session(
        "$ mkdir ctx; printf '%s\\n' 'FROM busybox' 'RUN echo 1 >/a' 'RUN echo 2 >/b' >ctx/Dockerfile\n",
    );
    for how in ["fail", "die"] {
        daemon.stop();
        let fault = format!("{how}:seal: digest known");
        daemon.set_environment(&[("HULL_FAULT", &fault)]);
        daemon.begin();
        let built = daemon.hull(&["build", "-t", "c", "ctx"]);
        assert_ne!(built.status, 0, "{how}: {}", built.stderr);
        assert!(how == "die" || built.stderr.contains("fault point"), "{}", built.stderr);
        daemon.kill();
        daemon.set_environment(&[]);
        daemon.begin();
        daemon.session(
            r#"
            $ hull system fsck >/dev/null; hull build -q -t c ctx >/dev/null; hull run --rm c cat /a /b; hull rmi -f c >/dev/null; hull builder prune -af >/dev/null
            1
            2
            "#,
        );
    }
}
