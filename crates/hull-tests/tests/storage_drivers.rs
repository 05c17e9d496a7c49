//! The storage drivers, each on a real file system in a file.

use std::process::Command;

use hull_tests::{Daemon, Engine, LoopMount};

fn docker() -> bool {
    Engine::under_test() == Engine::Docker
}

/// What every driver does alike.
fn works(daemon: &mut Daemon, driver: &str) {
    assert_eq!(daemon.ok(&["info", "-f", "{{.Driver}}"]), driver);
    daemon.session(
        r#"
        $ hull run --name one busybox sh -ec 'mkdir -p /d/e; echo a >/d/e/a; echo b >/d/b; ln /d/b /d/hard; ln -s b /d/soft; echo x >/etc/x; chown 5:6 /d/b; chmod 4750 /d/b'
        $ hull diff one | sort
        A /d
        A /d/b
        A /d/e
        A /d/e/a
        A /d/hard
        A /d/soft
        A /etc/x
        C /etc
        $ hull commit one layered:1 >/dev/null; hull run --name two layered:1 sh -ec 'rm /etc/x; rm -r /d; mkdir /d; echo new >/d/new; echo changed >/etc/group'
        $ hull diff two | sort
        A /d/new
        C /d
        C /etc
        C /etc/group
        D /d/b
        D /d/e
        D /d/hard
        D /d/soft
        D /etc/x
        $ hull commit two layered:2 >/dev/null; hull run --rm layered:2 sh -c 'ls /d; cat /d/new /etc/group; ls /etc/x' 2>&1
        new
        new
        changed
        ls: /etc/x: No such file or directory
        [1]
        $ hull run --rm layered:1 sh -c 'stat -c "%a %u:%g %h" /d/b; cat /d/soft /d/e/a'
        4750 5:6 2
        b
        a
        $ hull run -d --name runs layered:2 sh -c 'echo mine >/d/mine; sleep 600'; hull run --rm layered:2 ls /d
        <id>
        new
        $ hull run --rm --read-only busybox touch /x 2>&1
        touch: /x: Read-only file system
        [1]
        $ hull cp runs:/d/new - | tar -xO; hull export runs | tar -t d/ | sort
        new
        d/
        d/mine
        d/new
        $ printf 'FROM layered:1\nRUN echo built >/made && rm /etc/x\nCOPY Dockerfile /copied\nRUN --mount=type=cache,target=/c echo more >/made2\n' >Dockerfile; hull build -q -t built . | cut -c1-7
        sha256:
        $ hull run --rm built sh -c 'cat /made /made2; head -n1 /copied; ls /etc/x' 2>&1
        built
        more
        FROM layered:1
        ls: /etc/x: No such file or directory
        [1]
        $ hull image tree built | grep -c 'hides 1 file'; hull rmi built >/dev/null; hull builder prune -af >/dev/null
        1
        $ hull system fsck --contents | grep -o 'nothing is wrong'
        nothing is wrong
        "#,
    );
    // A daemon that comes back finds all of it.
    daemon.kill();
    daemon.begin();
    daemon.session(
        r#"
        $ hull exec runs cat /d/mine; hull rm -f one two runs; hull rmi layered:1 layered:2 >/dev/null; hull system fsck | grep -o 'nothing is wrong'
        mine
        one
        two
        runs
        nothing is wrong
        "#,
    );
}

/// Of this machine's files a container has an overlay, whatever others have.
fn host_image(daemon: &Daemon) {
    daemon.session(
        r#"
        $ hull run --name host hull/host sh -c 'echo mine >/usr/mine; rm -f /etc/passwd; cat /usr/mine'
        mine
        $ hull diff host | grep -E 'mine|passwd'
        D /etc/passwd
        A /usr/mine
        $ hull start -a host; hull rm host
        mine
        host
        $ hull system fsck | grep -o 'nothing is wrong'
        nothing is wrong
        "#,
    );
    assert!(!std::path::Path::new("/usr/mine").exists() && std::path::Path::new("/etc/passwd").exists());
}

#[test]
fn btrfs_by_subvolumes_and_snapshots() {
    let Some(disk) = LoopMount::new(400, &["mkfs.btrfs", "-q"], "").filter(|_| !docker()) else { return };
    let mut daemon = Daemon::on(&disk.path(), &["--storage-driver", "btrfs"]);
    works(&mut daemon, "btrfs");
    daemon.ok(&["create", "--name", "shown", "busybox", "true"]);
    let shown = daemon.ok(&["explain", "shown"]);
    assert!(shown.contains("a tree of its own, made of layers") && !shown.contains("overlay"), "{shown}");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Driver}} {{.GraphDriver.Name}}", "shown"]), "btrfs btrfs");
    assert_eq!(daemon.ok(&["image", "inspect", "-f", "{{.GraphDriver.Name}}", "busybox"]), "btrfs");
    daemon.ok(&["rm", "shown"]);
    host_image(&daemon);
    let refused = daemon.hull(&["run", "--rm", "--storage-opt", "size=1g", "busybox", "true"]);
    assert!(refused.stderr.contains("the storage driver btrfs has none"), "{refused:?}");
    // A container costs no copy of its image: the second one of it is a snapshot.
    daemon.ok(&["run", "--name", "big", "busybox", "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=60"]);
    daemon.ok(&["commit", "big", "big"]);
    for name in ["a1", "a2", "a3", "a4"] {
        daemon.ok(&["run", "--name", name, "big", "true"]);
    }
    rustix::fs::sync();
    let found = rustix::fs::statvfs(disk.path()).expect("figures");
    let used = (found.f_blocks - found.f_bfree) * found.f_frsize;
    // The first container's, the layer's, and what shares its blocks.
    assert!(used < 200 << 20, "{used} bytes are used");
}

#[test]
fn copies_on_other_file_systems() {
    if docker() {
        return;
    }
    for mkfs in [&["mkfs.xfs", "-q"][..], &["mkfs.ext4", "-q"][..]] {
        let Some(disk) = LoopMount::new(400, mkfs, "") else { continue };
        let mut daemon = Daemon::on(&disk.path(), &["--storage-driver", "vfs"]);
        works(&mut daemon, "vfs");
        host_image(&daemon);
    }
}

#[test]
fn overlayfs_where_it_can_be_and_copies_where_it_cannot() {
    if docker() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a folder");
    let part = |name: &str| {
        let path = scratch.path().join(name);
        std::fs::create_dir(&path).expect("a folder");
        path
    };
    let (lower, upper, work, place) = (part("lower"), part("upper"), part("work"), part("place"));
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let mounted =
        Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&place).status();
    assert!(mounted.expect("mount is executed").success());
    {
        // As in a container: nothing can be written through an overlay that lies on another.
        let mut daemon = Daemon::on(&place, &[]);
        works(&mut daemon, "vfs");
        assert!(daemon.log().contains("overlayfs cannot be mounted"), "{}", daemon.log());
        let refused = daemon.hull(&["run", "--rm", "hull/host", "true"]);
        assert!(
            refused.stderr.contains("hull/host needs an overlay, whatever the storage driver"),
            "{refused:?}"
        );
    }
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).expect("it is mounted");
    assert_eq!(Daemon::start().ok(&["info", "-f", "{{.Driver}}"]), "overlayfs");
    let refused = Command::new(hull_tests::hull_binary())
        .args(["daemon", "-s", "btrfs", "--data-root"])
        .arg(scratch.path().join("data"))
        .arg("--exec-root")
        .arg(scratch.path().join("exec"))
        .output()
        .expect("the daemon's program is executed");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("the storage driver btrfs cannot be used"), "{said}");
}
