//! The folder of a build: sent by what was changed, and right whatever was.

use hull_tests::{Daemon, Engine};

/// A folder of some hundred files; `sent` builds it, and tells how many bytes went over.
const FOLDER: &str = r#"
        $ mkdir -p ctx/d; for n in $(seq 300); do echo $n >ctx/d/$n; done; printf '%s\n' 'FROM busybox' 'COPY d /d' >ctx/Dockerfile
        $ settled() { until test $(($(date +%s) - $(find ctx -printf '%C@\n' | sort -n | tail -1 | cut -d. -f1))) -gt 3; do sleep 0.2; done; }
        $ sent() { hull build --progress rawjson -t c "$@" ctx 2>&1 | grep -o '"bytes":[0-9]*' | cut -d: -f2; }; settled; test $(sent) -gt 900
"#;

#[test]
fn only_what_was_changed_is_sent() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    Daemon::start().session(&format!(
        r#"{FOLDER}
        $ sent
        0
        $ echo changed >ctx/d/7; rm ctx/d/8; mkdir ctx/d/new; ln -s ../7 ctx/d/new/link; sent; hull run --rm c sh -c 'cat /d/new/link /d/9; ls /d | wc -l; ls /d/8'
        11
        changed
        9
        300
        ls: /d/8: No such file or directory
        [1]
        $ printf 'CHANGED\n' >ctx/d/7; touch -r ctx/d/9 ctx/d/7; sent >/dev/null; hull run --rm c cat /d/7
        CHANGED
        $ settled; sent >/dev/null; sent; mv ctx/d/7 ctx/d/77; cp -p ctx/d/9 ctx/d/7; sent >/dev/null; hull run --rm c cat /d/7 /d/77
        0
        9
        CHANGED
        $ settled; sent >/dev/null; sent; touch ctx/d/3; settled; sent
        0
        5
        $ chmod 700 ctx/d/9; sent >/dev/null; hull run --rm c stat -c %a /d/9
        700
        $ printf 'd/1*\n' >ctx/.dockerignore; sent >/dev/null; hull run --rm c sh -c 'ls /d | grep -c ^1'
        0
        [1]
        "#
    ));
}

#[test]
fn what_is_kept_goes_with_the_rest_and_with_a_killed_daemon() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.session(FOLDER);
    daemon.kill();
    daemon.begin();
    let kept = daemon.dir().join("data/build/contexts");
    let count = || std::fs::read_dir(&kept).expect("the folder of contexts").count();
    assert_eq!(count(), 1);
    daemon.session(
        r#"
        $ sent() { hull build --progress rawjson -t c "$@" ctx 2>&1 | grep -o '"bytes":[0-9]*' | cut -d: -f2; }; sent; hull system fsck >/dev/null
        0
        $ hull builder df --verbose --format '{{.Type}} {{.Reclaimable}} {{.Description}}' | grep source
        source.local true local source for context
        $ hull builder prune -af >/dev/null; hull system fsck >/dev/null; test $(sent) -gt 900; hull builder prune -af >/dev/null
        "#,
    );
    assert_eq!(count(), 0);
}

#[test]
fn builds_of_one_folder_at_once_each_have_their_own_files() {
    Daemon::start().session(
        r#"
        $ mkdir -p ctx/d; for n in $(seq 300); do echo $n >ctx/d/$n; done; printf '%s\n' 'FROM busybox' 'COPY d /d' 'RUN --mount=type=cache,id=gate,target=/g until test -e /g/open; do usleep 1000; done' 'COPY d/1 /last' >ctx/Dockerfile
        $ run() { until test $(hull ps -q | wc -l) = $1; do :; done; }; hull build -q -t a ctx >/dev/null & first=$!; run 1; echo other >ctx/d/1; hull build -q -t b ctx >/dev/null & second=$!; run 2
        $ printf '%s\n' 'FROM busybox' 'RUN --mount=type=cache,id=gate,target=/g touch /g/open' | hull build -q - >/dev/null; wait $first $second; for name in a b; do hull run --rm $name cat /d/1 /last; done
        1
        1
        other
        other
        "#,
    );
}
