//! A disk that fills up amid work with images and volumes: what was asked for fails with the kernel's words, what was there is
//! as it was, nothing is left, and the room comes back. What is only read is given out all the same; where the disk that it
//! goes to is full, that is told by the file's name, and no file is there by half.

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
        $ hull run --rm -v data:/data busybox sh -c 'head -c 65536 /dev/zero >/data/spare'
        $ hull run --name greedy busybox sh -c 'cat /dev/urandom >/f' 2>&1 | grep -o 'No space left on device'; hull tag busybox other; hull rmi other
        No space left on device
        Untagged: other:latest
        $ rm "$(hull volume inspect -f '{{.Mountpoint}}' data)/spare"; hull volume create more
        more
        "#,
    );
    fails("hull commit greedy half");
    fails(&pull);
    daemon.session("$ hull system fsck >/dev/null; hull rm greedy; hull volume rm more; hull image prune -f >/dev/null\ngreedy\nmore");
    comes_back("a container", before);
}

#[test]
fn what_goes_to_a_full_disk_is_not_there_by_half() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let Some(small) = LoopMount::new(16, &["mkfs.ext4", "-q", "-O", "^has_journal"], "") else { return };
    let daemon = Daemon::start();
    std::fs::write(daemon.dir().join("work/noise"), noise(3, 30 << 20)).expect("a file");
    daemon.session(
        r#"
        $ tar -c noise | hull import - big >/dev/null; tar -c noise | hull volume import data -; hull create --name box big x >/dev/null
        data
        $ mkdir ctx; mv noise ctx/; printf '%s\n' 'FROM busybox' 'COPY noise /' >ctx/Dockerfile; hull build -q -t built ctx >/dev/null
        "#,
    );
    let folder = small.path();
    let kept = folder.join("noise");
    std::fs::write(&kept, "as it was").expect("a file");
    let files = || {
        let found = std::process::Command::new("find")
            .arg(&folder)
            .args(["-type", "f", "-printf", "%P %s\n"])
            .output();
        let mut lines: Vec<String> = String::from_utf8(found.expect("find is executed").stdout)
            .expect("names")
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    for (command, told) in [
        ("save -o FOLDER/x.tar big", "FOLDER/x.tar"),
        ("export -o FOLDER/x.tar box", "FOLDER/x.tar"),
        ("volume export -o FOLDER/x.tar data", "FOLDER/x.tar"),
        ("build -q -o type=tar,dest=FOLDER/x.tar ctx", "FOLDER/x.tar"),
        ("build -q -o type=oci,dest=FOLDER/x.tar ctx", "FOLDER/x.tar"),
        ("cp box:/noise FOLDER", "FOLDER"),
        ("build -q --cache-to type=local,dest=FOLDER/cache,mode=max ctx", "FOLDER/cache"),
    ] {
        let here = |text: &str| text.replace("FOLDER", folder.to_str().expect("plain letters"));
        let said = daemon.hull(&here(command).split(' ').collect::<Vec<_>>());
        let reason = said.stderr.to_lowercase();
        assert!(
            said.status != 0
                && said.stderr.contains(&here(told))
                && reason.contains("no space left on device"),
            "{command}: {said:?}"
        );
        // Blobs that came whole may stay: they are what their names say.
        let left: Vec<String> =
            files().into_iter().filter(|file| !file.starts_with("cache/blobs/sha256/")).collect();
        assert_eq!(left, ["noise 9"], "{command}");
        for blob in files().iter().filter_map(|file| file.strip_prefix("cache/blobs/sha256/")) {
            let digest = blob.split(' ').next().unwrap_or_default();
            let bytes = std::fs::read(folder.join("cache/blobs/sha256").join(digest)).expect("a blob");
            assert_eq!(hull_tests::registry::digest(&bytes), format!("sha256:{digest}"), "{command}");
        }
    }
    assert_eq!(std::fs::read_to_string(&kept).expect("it is there"), "as it was");
}

#[test]
fn a_full_disk_gives_out_what_it_has() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let Some(disk) = LoopMount::new(96, &["mkfs.ext4", "-q", "-O", "^has_journal"], "") else { return };
    private_network();
    let registry = Registry::start();
    let daemon = Daemon::on(&disk.path(), &[]);
    let out = tempfile::tempdir().expect("a folder elsewhere");
    let name = format!("{}/a/b:1", registry.address);
    let there = |file: &str| out.path().join(file).to_str().expect("plain letters").to_owned();
    std::fs::write(out.path().join("noise"), noise(3, 8 << 20)).expect("a file");
    std::fs::write(out.path().join("Dockerfile"), "FROM busybox\nRUN echo made >/made\n").expect("a file");
    daemon.session(&format!(
        r#"
        $ cd {folder}; tar -c noise | hull import - {name} >/dev/null; tar -c noise | hull volume import data -; hull create --name box {name} x >/dev/null
        data
        "#,
        folder = out.path().display()
    ));
    let filler = disk.path().join("filler");
    let mut file = std::fs::File::create(&filler).expect("a file");
    let block = vec![0; 4096];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    drop(file);
    assert_eq!(free(&disk), 0);
    daemon.ok(&["push", "-q", &name]);
    daemon.ok(&["save", "-o", &there("saved.tar"), &name]);
    daemon.ok(&["export", "-o", &there("exported.tar"), "box"]);
    daemon.ok(&["volume", "export", "-o", &there("volume.tar"), "data"]);
    for command in [
        &["create", "--name", "none", "busybox"][..],
        &["volume", "create", "none"],
        &["build", "-q", out.path().to_str().expect("plain letters")],
    ] {
        let said = daemon.hull(command);
        // Where it is that there is no room.
        let named = said.stderr.contains("/data/");
        assert!(
            said.status != 0 && named && said.stderr.contains("No space left on device"),
            "{command:?}: {said:?}"
        );
    }
    std::fs::remove_file(&filler).expect("it is there");
    daemon.session(&format!(
        r#"
        $ hull system fsck >/dev/null; hull ps -a --format '{{{{.Names}}}}'; hull volume ls -q
        box
        data
        $ hull rm box; hull rmi -f {name} >/dev/null; hull pull -q {name} >/dev/null; hull save {name} | wc -c | grep -qx "$(wc -c <{saved})" && echo same
        box
        same
        "#,
        saved = there("saved.tar")
    ));
}
