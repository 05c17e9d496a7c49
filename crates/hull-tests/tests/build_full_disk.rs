//! A disk that is full amid a build: the build ends with the kernel's words, nothing of it is left, and what was made before
//! is as it was.

use hull_tests::{Daemon, Engine, LoopMount};

#[test]
fn a_full_disk_ends_the_build_and_nothing_else() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let Some(disk) = LoopMount::new(96, &["mkfs.ext4", "-q", "-O", "^has_journal"], "") else { return };
    let daemon = Daemon::on(&disk.path(), &[]);
    let temporary = daemon.dir().join("data/build/tmp");
    daemon.session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'RUN echo small >/small' >ctx/Dockerfile; hull build -q -t small ctx >/dev/null; hull run --rm small cat /small
        small
        $ printf '%s\n' 'FROM small' 'RUN cat /proc/sys/kernel/random/uuid >/before' 'RUN dd if=/dev/zero of=/big bs=1M count=500' >ctx/Dockerfile; hull build -t big ctx >log 2>&1; echo $?; grep -q 'No space left on device' log
        1
        $ head -c 150000000 /dev/zero | tr '\0' x >ctx/file; printf '%s\n' 'FROM small' 'COPY file /' >ctx/Dockerfile; hull build -t big ctx >log 2>&1; echo $?; tail -1 log | grep -o 'No space left on device'
        1
        No space left on device
        $ cd ctx; tar -cf ../ctx.tar .; cd ..; hull build -t big - <ctx.tar >log 2>&1; echo $?; tail -1 log | grep -o 'No space left on device'
        1
        No space left on device
        $ hull ps -aq; hull images -q big; hull system fsck >/dev/null
        "#,
    );
    hull_tests::wait_until("what was half made has gone", hull_tests::PATIENCE, || {
        std::fs::read_dir(&temporary).is_ok_and(|mut left| left.next().is_none())
    });
    // What was removed goes behind.
    hull_tests::wait_until("there is room again", hull_tests::PATIENCE, || {
        rustix::fs::statvfs(disk.path()).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > 40_000_000)
    });
    daemon.session(
        r#"
        $ rm ctx/file; printf '%s\n' 'FROM busybox' 'RUN echo small >/small' 'RUN dd if=/dev/zero of=/fits bs=1M count=20 2>/dev/null' >ctx/Dockerfile; hull build --progress plain -t fits ctx 2>&1 | grep -c CACHED; hull run --rm fits sh -c 'cat /small; wc -c </fits'
        1
        small
        20971520
        $ hull rmi fits small >/dev/null; hull builder prune -af >/dev/null; hull system df --format '{{.Type}} {{.TotalCount}}' | grep Build; hull system fsck >/dev/null
        Build Cache 0
        "#,
    );
}
