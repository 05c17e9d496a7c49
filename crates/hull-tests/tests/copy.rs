//! cp, both ways, as Docker has it.

use hull_tests::Daemon;

#[test]
fn files_folders_and_streams() {
    Daemon::start().session(
        r#"
        $ hull run -d --name box busybox sleep 600
        <id>
        $ echo one >one; hull cp -q one box:/tmp/one; hull exec box cat /tmp/one
        one
        $ hull cp -q box:/tmp/one back; cat back
        one
        $ mkdir -p dir/sub; echo two >dir/sub/two; hull cp -q dir box:/tmp; hull exec box cat /tmp/dir/sub/two
        two
        $ hull cp -q dir/. box:/tmp/other 2>/dev/null; hull exec box mkdir /tmp/into; hull cp -q dir/. box:/tmp/into; hull exec box ls /tmp/into
        sub
        $ hull cp -q box:/tmp/dir copy; find copy | sort
        copy
        copy/sub
        copy/sub/two
        $ hull cp box:/tmp/dir - | tar -t | sort
        dir/
        dir/sub/
        dir/sub/two
        $ tar -c one | hull cp - box:/root; hull exec box cat /root/one
        one
        $ hull cp -q no-such-file box:/tmp 2>/dev/null
        [1]
        $ hull cp -q box:/no-such-file . 2>/dev/null
        [1]
        $ hull cp -q one box:/no/such/folder/ 2>/dev/null
        [1]
        $ hull cp -q dir box:/tmp/one 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn links_are_followed_inside_the_container_alone() {
    Daemon::start().session(
        r#"
        $ hull run -d --name box busybox sh -c 'ln -s /etc/passwd /tmp/absolute; ln -s ../../../../../../etc/passwd /tmp/up; ln -s / /tmp/root; echo ready; sleep 600'
        <id>
        $ eventually sh -c 'hull logs box | grep ready'; hull cp -q -L box:/tmp/absolute out; cat out
        root:x:0:0:root:/root:/bin/sh
        $ hull cp -q -L box:/tmp/up out; cat out
        root:x:0:0:root:/root:/bin/sh
        $ hull cp -q box:/tmp/absolute link; readlink link
        /etc/passwd
        $ echo inside >file; hull cp -q file box:/tmp/root/landed; hull exec box cat /landed; ls /landed 2>/dev/null
        inside
        [2]
        $ hull cp -q box:../../../../../../../../etc/passwd out; cat out
        root:x:0:0:root:/root:/bin/sh
        "#,
    );
}

#[test]
fn a_stopped_container_is_copied_too_and_volumes_are_seen() {
    Daemon::start().session(
        r#"
        $ hull create --name box -v data:/data busybox true
        <id>
        $ echo one >one; hull cp -q one box:/data/one; hull cp -q one box:/etc/one; hull run --rm -v data:/data busybox cat /data/one
        one
        $ hull cp -q box:/etc/one out; cat out
        one
        $ hull diff box | grep etc
        C /etc
        A /etc/one
        $ hull run --name ro --read-only busybox true; hull cp -q one ro:/etc/one 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn what_the_kernel_shows_is_no_part_of_a_container_s_files() {
    Daemon::start().session(
        r#"
        $ hull run -d --name box -v vol:/vol busybox sh -c 'echo x >/vol/file; sleep 1000' >/dev/null; until hull exec box test -s /vol/file; do :; done
        $ hull cp box:/ - >all.tar; tar tf all.tar 2>/dev/null | grep -E '^/?(proc|sys|vol|bin/busybox)' | sort
        /bin/busybox
        /proc/
        /sys/
        /vol/
        /vol/file
        $ hull cp box:/proc - | tar t
        proc/
        "#,
    );
}
