//! A disk that fills up amid work with images and volumes: what was asked for fails with the kernel's words, what was there is
//! as it was, nothing is left, and the room comes back.

use hull_tests::registry::{Registry, noise};
use hull_tests::{Daemon, Engine, LoopMount, PATIENCE, private_network, wait_until};

/// The bytes that may be written.
fn free(disk: &LoopMount) -> u64 {
    let disk = rustix::fs::statvfs(disk.path()).expect("it is mounted");
    disk.f_bavail * disk.f_frsize
}

#[test]
fn a_full_disk_leaves_nothing_half() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let Some(disk) = LoopMount::new(96, &["mkfs.ext4", "-q", "-O", "^has_journal"], "") else { return };
    private_network();
    let registry = Registry::start();
    let half = 50 << 20;
    registry.image("1", &[half, half]);
    let daemon = Daemon::on(&disk.path(), &[]);
    let work = daemon.dir().join("work");
    std::fs::write(work.join("noise"), noise(7, half)).expect("a file");
    let pull = format!("hull pull {}/a/b:1", registry.address);
    daemon.session(
        r#"
        $ head -c 1 noise | wc -c; hull volume create data >/dev/null; hull run --rm busybox true
        1
        "#,
    );
    let comes_back = |what: &str, before: u64| {
        wait_until(&format!("the room comes back behind {what}"), PATIENCE, || {
            free(&disk) + 300_000 > before
        });
        daemon.session("$ hull system fsck >/dev/null; hull images -q | wc -l; hull ps -aq\n2");
    };
    let fails = |command: &str| {
        let output = daemon.command("sh").args(["-c", command]).output().expect("sh is executed");
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains("No space left on device"), "{command}: {told}");
    };
    let before = free(&disk);
    // What came of layers is kept for the next pull, until it is pruned.
    fails(&pull);
    daemon.ok(&["image", "prune", "-f"]);
    comes_back("a pull", before);
    for command in [
        "cat noise noise >both; tar -c both | hull import - both",
        "tar -c both | gzip -1 | hull import - both",
        "tar -c noise both | hull volume import new -",
    ] {
        fails(command);
        comes_back(command, before);
    }
    daemon.session(
        r#"
        $ hull volume ls -q
        data
        $ tar -c noise | hull volume import full -
        full
        "#,
    );
    let with_volume = free(&disk);
    fails("hull volume clone full other");
    comes_back("a clone", with_volume);
    daemon.session("$ hull volume ls -q; hull volume rm full\ndata\nfull\nfull");
    comes_back("a volume", before);
    // A container takes all there is; the others go on, and what gives room back does.
    daemon.session(
        r#"
        $ hull run --name greedy busybox sh -c 'cat /dev/urandom >/f' 2>&1 | grep -o 'No space left on device'; hull tag busybox other; hull rmi other; hull volume create more
        No space left on device
        Untagged: other:latest
        more
        "#,
    );
    fails("hull commit greedy half");
    fails(&pull);
    daemon.session("$ hull system fsck >/dev/null; hull rm greedy; hull volume rm more; hull image prune -f >/dev/null\ngreedy\nmore");
    comes_back("a container", before);
}
