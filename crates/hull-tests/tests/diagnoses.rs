//! An exec that fails says what stood in the way and what to do.

use hull_tests::{Daemon, Engine, Kind, Tar};

/// The smallest ELF header of a 64-bit program for another architecture (0xb7: arm64).
fn other_architecture() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend_from_slice(&[2, 0, 0xb7, 0, 1, 0, 0, 0]);
    elf.resize(120, 0);
    elf
}

#[test]
fn each_reason_is_named() {
    if Engine::under_test() == Engine::Docker {
        // dockerd passes on the system call's error alone.
        return;
    }
    let daemon = Daemon::start();
    let programs = Tar::new()
        .program("bin/windows", b"#!/bin/sh\r\necho hello\r\n")
        .program("bin/orphan", b"#!/no/such/interpreter\n")
        .program("bin/foreign", &other_architecture())
        .program("bin/nothing", b"")
        .file("bin/plain", b"#!/bin/sh\necho hello\n")
        .entry(Kind::SymLink, "bin/dangling", "/no/such/target", b"")
        .finish();
    daemon.ok(&["create", "--name", "base", "busybox"]);
    let put = daemon.api().send("PUT", "/containers/base/archive?path=/", "application/x-tar", &programs);
    assert_eq!(put.expect("an answer").status, 200);
    daemon.ok(&["commit", "base", "programs"]);
    let cases = [
        ("no-such-command", 127, vec!["no-such-command"]),
        ("/no/such/file", 127, vec!["/no/such/file"]),
        ("windows", 127, vec!["windows", "carriage return"]),
        ("orphan", 127, vec!["orphan", "/no/such/interpreter"]),
        ("dangling", 127, vec!["dangling"]),
        ("foreign", 126, vec!["foreign", "aarch64"]),
        ("/bin/plain", 126, vec!["/bin/plain", "permi"]),
        ("/etc", 126, vec!["/etc", "directory"]),
    ];
    for (program, status, words) in cases {
        for how in [vec!["run", "--rm", "programs", program], vec!["exec", "box", program]] {
            if how[0] == "exec" {
                daemon.hull(&["run", "-d", "--name", "box", "programs", "sleep", "600"]);
            }
            let output = daemon.hull(&how);
            let said = format!("{}{}", output.stdout, output.stderr);
            let all = words.iter().all(|word| said.contains(word));
            assert!(output.status == status && all, "{how:?}: wanted {status} and {words:?}: {output:?}");
            assert!(!said.contains("panicked"), "{said}");
        }
    }
    let output = daemon.hull(&[
        "run",
        "--rm",
        "--tmpfs",
        "/bin2:noexec",
        "busybox",
        "sh",
        "-c",
        "cp /bin/busybox /bin2/echo; exec /bin2/echo",
    ]);
    assert_eq!(output.status, 126, "{output:?}");
}

#[test]
fn mistyped_commands_and_flags_get_the_nearest_one() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    for (args, nearest) in [
        (vec!["rnu", "busybox"], "run"),
        (vec!["run", "--nmae", "x", "busybox"], "--name"),
        (vec!["contianer", "ls"], "container"),
    ] {
        let output = daemon.hull(&args);
        assert!(output.status != 0 && output.stderr.contains(nearest), "{args:?}: {output:?}");
    }
    for args in [vec!["--help"], vec!["run", "--help"], vec!["container", "--help"]] {
        let output = daemon.hull(&args);
        assert!(output.status == 0 && output.stdout.contains("Usage"), "{args:?}: {output:?}");
    }
}
