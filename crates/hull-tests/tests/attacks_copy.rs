//! Attacks on `cp`: a container exchanges a folder with a link while the engine copies (CVE-2018-15664).

use std::fs;

use hull_tests::{Daemon, Engine, python};

/// Exchanges `/tmp/way` (a folder, and a link to a folder of the host's) as fast as it goes.
const EXCHANGE: &str = r#"
outside = sys.argv[1]
os.makedirs("/tmp/way")
open("/tmp/way/file", "w").write("inside\n")
os.symlink(outside, "/tmp/other")
say("ready")
while True:
    libc.renameat2(-100, b"/tmp/way", -100, b"/tmp/other", 2)
"#;

#[test]
fn a_copy_stays_in_the_container_whatever_is_exchanged() {
    if Engine::under_test() == Engine::Docker {
        // There is no image of the host's own files.
        return;
    }
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let outside = daemon.dir().join("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("file"), "the host's\n").expect("a file");
    let outside = outside.to_str().expect("a name").to_owned();
    let (script, work) = (python(EXCHANGE), daemon.dir().join("work"));
    daemon.ok(&["run", "-d", "--name", "box", "hull/host", "python3", "-c", &script, &outside]);
    hull_tests::wait_until("the attacker is at work", hull_tests::PATIENCE, || {
        daemon.ok(&["logs", "box"]).contains("ready")
    });
    fs::write(work.join("new"), "new\n").expect("a file");
    let (mut out, mut in_) = (0, 0);
    for _ in 0..40 {
        // Either way it may fail: the link leads nowhere inside.
        let got = daemon.hull(&["cp", "-q", "box:/tmp/way/file", "got"]);
        out += usize::from(got.status == 0);
        let text = fs::read_to_string(work.join("got")).unwrap_or_default();
        assert!(!text.contains("host"), "a file of the host's came out");
        in_ += usize::from(daemon.hull(&["cp", "-q", "new", "box:/tmp/way/new"]).status == 0);
        assert!(fs::metadata(format!("{outside}/new")).is_err(), "a file was put onto the host");
    }
    assert!(out > 0 && in_ > 0, "nothing was copied at all: {out} out, {in_} in");
}
