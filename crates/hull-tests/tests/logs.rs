//! Logs: what a container said, whole and in order, now and later.

use hull_tests::Daemon;

#[test]
fn tail_streams_and_times() {
    Daemon::start().session(
        r#"
        $ hull run --name ll busybox sh -c 'for i in 1 2 3; do echo out $i; done; echo err >&2' >/dev/null 2>&1
        $ hull logs ll 2>/dev/null
        out 1
        out 2
        out 3
        $ hull logs ll 2>&1 >/dev/null
        err
        $ hull run --name out busybox seq 5 >/dev/null; hull logs --tail 2 out
        4
        5
        $ hull logs --tail 0 ll
        $ hull logs -t --tail all ll 2>/dev/null
        <time> out 1
        <time> out 2
        <time> out 3
        $ hull logs --since 1h ll 2>/dev/null | wc -l
        3
        $ hull logs --until 1h ll
        $ hull logs -f ll 2>/dev/null
        out 1
        out 2
        out 3
        $ hull logs no-such 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn a_line_without_an_end_and_bytes_that_are_no_text() {
    Daemon::start().session(
        r#"
        $ hull run --name ll busybox printf 'no end' >/dev/null; hull logs ll | od -c | head -n 1
        0000000   n   o       e   n   d
        $ hull run --name mm busybox sh -c 'head -c 100000 /dev/zero | tr "\0" x; echo; echo after' >/dev/null
        $ hull logs mm | wc -lc | tr -s ' '
         2 100007
        $ hull run --name nn -t busybox printf 'a\nb\n' | od -c | head -n 1
        0000000   a  \r  \n   b  \r  \n
        "#,
    );
}

#[test]
fn following_ends_with_the_container_and_misses_nothing() {
    Daemon::start().session(
        r#"
        $ hull run -d --name ff busybox sh -c 'i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); done; usleep 200000; echo last'
        <id>
        $ hull logs -f ff >followed; seq 0 499 >wanted; echo last >>wanted; cmp followed wanted
        $ hull logs ff | cmp - wanted
        "#,
    );
}

#[test]
fn rotation_keeps_the_end_and_following_survives_it() {
    Daemon::start().session(
        r#"
        $ hull run -d --name rr --log-opt max-size=100k --log-opt max-file=3 busybox sh -c 'i=0; while [ $i -lt 100 ]; do seq $((i*100)) $((i*100+99)); i=$((i+1)); usleep 10000; done'
        <id>
        $ hull logs -f rr >followed; seq 0 9999 | cmp - followed
        $ hull logs rr | tail -n 1
        9999
        $ test $(hull logs rr | wc -l) -lt 9000
        $ first=$(hull logs rr | head -n 1); seq $first 9999 >wanted; hull logs rr | cmp - wanted
        "#,
    );
}

#[test]
fn rotated_files_are_compressed_and_read_like_others() {
    Daemon::start().session(
        r#"
        $ hull run -d --name zz --log-opt max-size=200k --log-opt max-file=4 --log-opt compress=true busybox sh -c 'i=0; while [ $i -lt 100 ]; do seq $((i*100)) $((i*100+99)); i=$((i+1)); usleep 10000; done'
        <id>
        $ hull logs -f zz >followed; seq 0 9999 | cmp - followed
        $ until ls $(hull inspect -f '{{.LogPath}}' zz).*.gz >/dev/null 2>&1; do :; done
        $ first=$(hull logs zz | head -n 1); seq $first 9999 >wanted; hull logs zz | cmp - wanted
        $ hull logs --tail 5000 zz | cmp - <(seq 5000 9999)
        $ hull start -a zz | tail -n 1; hull logs --tail 2 zz
        9999
        9998
        9999
        "#,
    );
}

#[test]
fn a_log_that_nobody_waits_for_has_all_that_there_was_room_for() {
    Daemon::start().session(
        r#"
        $ hull run -d --name nb --log-opt mode=non-blocking --log-opt max-buffer-size=8m busybox sh -c 'printf begun; until test -e /go; do usleep 1000; done; seq 1 20000'
        <id>
        $ (hull attach --no-stdin nb >attached 2>&1; echo $? >status) & hull exec nb touch /go; hull wait nb; wait; cat status
        0
        0
        $ hull logs nb | sed s/begun// | cmp - <(seq 1 20000)
        $ hull logs --since 1h -f nb | tail -n 1
        20000
        $ hull run --log-driver local --log-opt mode=non-blocking --name nl busybox echo hi; hull logs nl
        hi
        hi
        "#,
    );
}

#[test]
fn drivers() {
    Daemon::start().session(
        r#"
        $ hull run --name nn --log-driver none busybox echo said
        said
        $ hull logs nn 2>/dev/null
        [1]
        $ hull run --name ll --log-driver local busybox echo said
        said
        $ hull logs ll
        said
        $ hull create --log-driver no-such busybox true 2>/dev/null
        [1]
        $ hull create --log-opt no-such=option busybox true 2>/dev/null
        [1]
        $ hull ps -a --format '{{.Names}}'
        ll
        nn
        "#,
    );
}

#[test]
fn a_torrent_is_followed_without_a_lost_or_doubled_line() {
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ for n in 1 2; do
        >   hull run -d --name torrent$n --log-opt max-size=4k --log-opt max-file=$n busybox sh -c 'echo 0; until test -e /go; do usleep 1000; done; seq 1 100000' >/dev/null
        >   hull logs -f torrent$n >followed$n & hull logs -f torrent$n >again$n &
        > done
        $ eventually sh -c 'test $(cat followed* again* | wc -l) = 4'
        $ hull exec torrent1 touch /go; hull exec torrent2 touch /go; wait
        $ for n in 1 2; do seq 0 100000 | cmp - followed$n; seq 0 100000 | cmp - again$n; done
        $ hull rm torrent1 torrent2 >/dev/null
        "#,
    );
}
