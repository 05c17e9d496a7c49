//! Limits of what a container or a volume takes of the disk, on real file systems in files.

use hull_tests::{Daemon, Engine, LoopMount};

/// What each test runs on, where the machine's kernel has it: `mkfs`, its options, and those of the mount.
const FILE_SYSTEMS: [(&str, &[&str], &str); 3] = [
    ("ext4", &["mkfs.ext4", "-q", "-O", "project,quota"], "prjquota"),
    ("xfs", &["mkfs.xfs", "-q"], "prjquota"),
    ("btrfs", &["mkfs.btrfs", "-q"], ""),
];

/// A disk with quotas of each kind that there is; what there is not is told.
fn disks() -> Vec<(&'static str, LoopMount)> {
    let made =
        FILE_SYSTEMS.into_iter().map(|(name, mkfs, options)| (name, LoopMount::new(400, mkfs, options)));
    made.filter_map(|(name, disk)| {
        if disk.is_none() {
            eprintln!("left out: limits on {name}");
        }
        Some((name, disk?))
    })
    .collect()
}

fn docker() -> bool {
    Engine::under_test() == Engine::Docker
}

/// Writes until the disk is full: how many KiB went into the file, and what was said.
const FILL: &str = "dd if=/dev/zero of=$0/fill bs=64k count=1024 2>/tmp/said; tail -n1 $0/fill >/dev/null; \
                    stat -c %s $0/fill; grep -oE 'No space left|quota exceeded' /tmp/said";

#[track_caller]
fn full_at(what: &str, mib: u64, said: &str) {
    let mut lines = said.lines();
    let bytes: u64 =
        lines.next().and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("{what}: {said}"));
    let limit = mib << 20;
    assert!(bytes <= limit && bytes + (1 << 20) >= limit, "{what}: {bytes} of {limit} bytes: {said}");
    assert!(matches!(lines.next(), Some("No space left" | "quota exceeded")), "{what}: {said}");
}

#[test]
fn a_container_s_own_writes_end_at_its_limit() {
    if docker() {
        return;
    }
    for (name, disk) in disks() {
        let daemon = Daemon::on(&disk.path(), &[]);
        let limited =
            ["run", "--tmpfs", "/tmp", "--storage-opt", "size=16m", "--name", "box", "busybox", "sh", "-c"];
        let said = daemon.hull(&[&limited[..], &[FILL, "/root"]].concat());
        full_at(name, 16, &said.stdout);
        assert_eq!(
            daemon.ok(&["inspect", "-f", "{{json .HostConfig.StorageOpt}}", "box"]),
            r#"{"size":"16m"}"#
        );
        let limit_met =
            |container: &str| daemon.ok(&["inspect", "-f", "{{.State.End.DiskLimit}}", container]);
        // btrfs counts when it commits, which nobody waits for.
        assert_eq!(limit_met("box"), if name == "btrfs" { "<nil>" } else { "true" }, "{name}");
        // Who has room left, or no limit at all, is told nothing that is not known.
        daemon.ok(&["run", "--name", "room", "--storage-opt", "size=16m", "busybox", "touch", "/x"]);
        daemon.ok(&["run", "--name", "free", "busybox", "true"]);
        assert_eq!(
            (limit_met("room"), limit_met("free")),
            ("<nil>".to_owned(), "<nil>".to_owned()),
            "{name}"
        );
        // Who has no limit, and who has one of his own, is not held to that.
        daemon.ok(&["run", "--rm", "busybox", "dd", "if=/dev/zero", "of=/f", "bs=1M", "count=40"]);
        daemon.ok(&["rm", "box"]);
        let said = daemon.hull(&[&limited[..], &[FILL, "/root"]].concat());
        full_at(&format!("{name}, again"), 16, &said.stdout);
    }
}

#[test]
fn a_volume_ends_at_its_size_and_its_clone_at_its_own() {
    if docker() {
        return;
    }
    for (name, disk) in disks() {
        let daemon = Daemon::on(&disk.path(), &[]);
        daemon.ok(&["volume", "create", "-o", "size=8m", "small"]);
        let fill = |volume: &str| {
            let volume = format!("{volume}:/v");
            daemon
                .hull(&["run", "--rm", "--tmpfs", "/tmp", "-v", &volume, "busybox", "sh", "-c", FILL, "/v"])
                .stdout
        };
        full_at(name, 8, &fill("small"));
        daemon.ok(&["volume", "clone", "small", "twin"]);
        full_at(&format!("{name}, the clone"), 8, &fill("twin"));
        daemon.ok(&["volume", "rm", "small", "twin"]);
        // An id that was given back has no limit any more.
        daemon.ok(&[
            "run",
            "--rm",
            "-v",
            "large:/v",
            "busybox",
            "dd",
            "if=/dev/zero",
            "of=/v/f",
            "bs=1M",
            "count=20",
        ]);
        daemon.ok(&["volume", "create", "-o", "size=8m", "small"]);
        full_at(&format!("{name}, made again"), 8, &fill("small"));
    }
}

#[test]
fn the_daemon_s_own_limit_is_for_who_says_nothing() {
    if docker() {
        return;
    }
    for (name, disk) in disks().into_iter().take(1) {
        let daemon = Daemon::on(&disk.path(), &["--storage-opt", "overlay2.size=8M"]);
        let run = |options: &[&str]| {
            let rest = ["busybox", "sh", "-c", FILL, "/root"];
            daemon.hull(&[&["run", "--rm", "--tmpfs", "/tmp"], options, &rest[..]].concat()).stdout
        };
        full_at(name, 8, &run(&[]));
        full_at(name, 12, &run(&["--storage-opt", "size=12m"]));
    }
}

#[test]
fn where_there_are_no_limits_it_is_told_what_lacks() {
    if docker() {
        return;
    }
    let Some(disk) = LoopMount::new(64, &["mkfs.ext4", "-q"], "") else { return };
    let daemon = Daemon::on(&disk.path(), &[]);
    let refused = |args: &[&str]| {
        let output = daemon.hull(args);
        assert_ne!(output.status, 0, "{output:?}");
        output.stderr
    };
    let told = refused(&["run", "--storage-opt", "size=1g", "busybox", "true"]);
    for word in ["--storage-opt size", "ext4 (/dev/loop", "tune2fs -O project,quota /dev/loop", "prjquota"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let told = refused(&["volume", "create", "-o", "size=1g", "vol"]);
    assert!(
        told.contains("quota size requested but no quota support") && told.contains("prjquota"),
        "{told}"
    );
    let told = refused(&["create", "--storage-opt", "colour=red", "busybox", "true"]);
    assert!(told.contains("Unknown option colour"), "{told}");
    let told = refused(&["create", "--storage-opt", "size=big", "busybox", "true"]);
    assert!(told.contains("invalid size: 'big'"), "{told}");
    assert_eq!(daemon.ok(&["ps", "-aq"]), "");
    // No limit is none to be refused.
    daemon.ok(&["run", "--rm", "--storage-opt", "size=0", "busybox", "true"]);
}

#[test]
fn clones_share_their_blocks_where_the_file_system_can() {
    if docker() {
        return;
    }
    let made = [("xfs", &["mkfs.xfs", "-q"][..]), ("btrfs", &["mkfs.btrfs", "-q"][..])];
    for (name, mkfs) in made {
        let Some(disk) = LoopMount::new(400, mkfs, "") else { continue };
        let daemon = Daemon::on(&disk.path(), &[]);
        let write = "dd if=/dev/urandom of=/v/f bs=1M count=40; sync";
        daemon.ok(&["run", "--rm", "-v", "data:/v", "busybox", "sh", "-c", write]);
        let free = || {
            rustix::fs::statvfs(disk.path()).map(|found| found.f_bavail * found.f_frsize).expect("figures")
        };
        let before = free();
        for clone in ["one", "two", "three"] {
            let output = daemon.hull(&["volume", "clone", "data", clone]);
            assert!(output.status == 0 && output.stderr.is_empty(), "{name}: {output:?}");
        }
        let taken = before.saturating_sub(free());
        assert!(taken < 20 << 20, "{name}: three clones of 40 MiB took {taken} bytes");
        let same = "cmp /a/f /b/f && echo same";
        assert_eq!(
            daemon.ok(&["run", "--rm", "-v", "data:/a", "-v", "three:/b", "busybox", "sh", "-c", same]),
            "same"
        );
    }
}
