//! The same image again: `SOURCE_DATE_EPOCH`, on two machines and at two times.

use std::time::{SystemTime, UNIX_EPOCH};

use hull_tests::{Daemon, Engine};

const DOCKERFILE: &str = "\
FROM busybox AS of
WORKDIR /w/x
RUN mkdir -p /d/e; touch /g /d/e/f; ln -s nowhere /l; mkfifo /p; ln /g /h; touch -d @1000 /old
COPY a /a
RUN rm /bin/ls; stat -c '%n %Y' /w /d /d/e /d/e/f /g /l /p /h /old /a >/seen
FROM busybox
COPY --from=of / /from/
COPY --from=of /seen /a /
ENV A=b
CMD cat /seen
";

/// The seconds of the clock, once they are others.
fn next_second() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let begun = now();
    while now() == begun {
        std::thread::yield_now();
    }
}

/// Builds in a daemon what lies in a folder of its own.
fn built(daemon: &Daemon, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let folder = daemon.dir().join("work/ctx");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("a"), "a file\n").expect("a file");
    std::fs::write(folder.join("Dockerfile"), DOCKERFILE).expect("a file");
    let arguments = [&["build", "-q"], arguments, &["ctx"]].concat();
    let output = daemon.client(&arguments).envs(environment.iter().copied()).output().expect("a client");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn layers(daemon: &Daemon, image: &str) -> String {
    daemon.ok(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", image])
}

#[test]
fn two_machines_make_one_image() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let (one, other) = (Daemon::start(), Daemon::start());
    // Of the same base.
    let base = one.dir().join("base.tar").display().to_string();
    one.ok(&["save", "-o", &base, "busybox"]);
    other.ok(&["rmi", "-f", "busybox"]);
    other.ok(&["load", "-qi", &base]);
    // What was made without a time is not used for it.
    let of_now = built(&one, &[], &[]);
    let given = "SOURCE_DATE_EPOCH=1000000000";
    let first = built(&one, &["--build-arg", given], &[]);
    assert_ne!(of_now, first);
    next_second();
    let second = built(&other, &[], &[("SOURCE_DATE_EPOCH", "1000000000")]);
    assert_eq!(layers(&one, &first), layers(&other, &second));
    assert_eq!(first, second);
    // The base's layers are as they were, and what is beneath them too.
    let below = layers(&one, "busybox");
    assert!(layers(&one, &first).starts_with(below.trim_end_matches(']')), "{below}");
    let later = built(&other, &["--build-arg", "SOURCE_DATE_EPOCH=1000000001"], &[]);
    assert_ne!(layers(&other, &later), layers(&other, &second));
    // What lies on the disk is what the layers' archives say.
    let seen = "/w 1000000000\n/d 1000000000\n/d/e 1000000000\n/d/e/f 1000000000\n/g 1000000000\n/l 1000000000\n\
                /p 1000000000\n/h 1000000000\n/old 1000\n/a 1000000000";
    assert_eq!(one.ok(&["run", "--rm", &first]), seen);
    let times = ["run", "--rm", &first, "stat", "-c", "%Y", "/from", "/from/d/e/f", "/from/bin", "/seen"];
    let told = one.ok(&times);
    assert_eq!(told, ["1000000000"; 4].join("\n"));
    let saved = one.dir().join("built.tar").display().to_string();
    one.ok(&["save", "-o", &saved, &first]);
    other.ok(&["rmi", "-f", &second]);
    other.ok(&["builder", "prune", "-af"]);
    other.ok(&["load", "-qi", &saved]);
    assert_eq!(other.ok(&times), told);
    one.ok(&["system", "fsck", "--contents"]);
    let wrong = one.hull(&["build", "--build-arg", "SOURCE_DATE_EPOCH=yesterday", "ctx"]);
    assert!(wrong.status != 0 && wrong.stderr.contains("invalid SOURCE_DATE_EPOCH"), "{wrong:?}");
}
