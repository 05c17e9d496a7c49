//! AppArmor, where the kernel has it and apparmor_parser is there: in the virtual machine of `cargo xtask vm-test`, which
//! says so ([`NEEDED`]). Profiles are the machine's: one test has them for itself, and takes them away again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hull_tests::{Daemon, Engine, Oci, hull_binary, which};
use serde_json::json;

/// Set where a machine without AppArmor is a failure.
const NEEDED: &str = "HULL_TESTS_NEED_APPARMOR";

/// A profile that confines in one thing alone.
const OTHER: &str = "profile hull-test-other flags=(attach_disconnected,mediate_deleted) {\n  file,\n  network,\n  capability,\n  \
                     mount,\n  umount,\n  pivot_root,\n  signal,\n  ptrace,\n  deny /secret r,\n}\n";

/// apparmor_parser, if there is something to load profiles into.
fn parser() -> Option<PathBuf> {
    let found =
        which("apparmor_parser").filter(|_| Path::new("/sys/kernel/security/apparmor/profiles").exists());
    assert!(
        found.is_some() || std::env::var_os(NEEDED).is_none(),
        "this machine has no AppArmor, or no apparmor_parser"
    );
    if found.is_none() {
        eprintln!("not tested: no AppArmor, or no apparmor_parser");
    }
    found.filter(|_| Engine::under_test() == Engine::Hull)
}

/// A profile that is loaded as long as this is there.
struct Loaded<'p> {
    parser: &'p Path,
    file: tempfile::NamedTempFile,
}

impl<'p> Loaded<'p> {
    fn load(parser: &'p Path, text: &str) -> Loaded<'p> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("its text");
        let loaded = Loaded { parser, file };
        loaded.say("-r");
        loaded
    }

    fn say(&self, option: &str) {
        let said = Command::new(self.parser).arg(option).arg("--skip-cache").arg(self.file.path()).output();
        let said = said.expect("apparmor_parser is executed");
        assert!(said.status.success(), "apparmor_parser {option}: {}", String::from_utf8_lossy(&said.stderr));
    }
}

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        let mut command = Command::new(self.parser);
        command.arg("-R").arg(self.file.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().ok();
    }
}

#[test]
fn containers_are_confined_by_the_profile_that_is_loaded() {
    let Some(parser) = parser() else { return };
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ hull info -f '{{json .SecurityOptions}}' | grep -o '^."name=apparmor"'
        ["name=apparmor"
        $ hull run -d --name before busybox sleep 600
        <id>
        $ hull exec before cat /proc/1/attr/current /proc/self/attr/current; hull inspect -f '{{json .AppArmorProfile}}' before
        unconfined
        unconfined
        ""
        $ hull run --rm --security-opt apparmor=not-loaded busybox true 2>&1 | grep -o 'unable to apply apparmor profile: .*: no such file or directory'
        unable to apply apparmor profile: apparmor failed to apply profile not-loaded: write thread-self/attr/apparmor/exec: no such file or directory
        "#,
    );
    let profile = Command::new(hull_binary())
        .args(["doctor", "--apparmor-profile"])
        .output()
        .expect("hull is executed");
    let own = Loaded::load(&parser, &String::from_utf8(profile.stdout).expect("text"));
    let _other = Loaded::load(&parser, OTHER);
    the_default(&daemon);
    what_is_denied(&daemon);
    others_and_none(&daemon);
    the_oci_runtime();
    // One that is gone is the default no more, and what runs under it goes on.
    daemon.ok(&["run", "-d", "--name", "stays", "busybox", "sleep", "600"]);
    drop(own);
    daemon.session(
        r#"
        $ hull run --rm busybox cat /proc/self/attr/current
        unconfined
        $ hull rm -f stays before
        stays
        before
        "#,
    );
}

fn the_default(daemon: &Daemon) {
    daemon.session(
        r#"
        $ hull run --rm busybox cat /proc/1/attr/current
        hull-default (enforce)
        $ hull run -d --name box busybox sh -c 'trap "exit 7" TERM; while :; do sleep 1; done'
        <id>
        $ hull exec box cat /proc/1/attr/current /proc/self/attr/current; hull inspect -f '{{.AppArmorProfile}}' box
        hull-default (enforce)
        hull-default (enforce)
        hull-default
        $ hull stop -t 60 box; hull inspect -f '{{.State.ExitCode}}' box; hull rm box
        box
        7
        box
        $ hull exec before cat /proc/1/attr/current /proc/self/attr/current; hull inspect -f '{{json .AppArmorProfile}}' before
        unconfined
        unconfined
        ""
        "#,
    );
}

/// With every other defence open it is the profile that denies, and without it nothing does.
fn what_is_denied(daemon: &Daemon) {
    let open =
        ["--cap-add=ALL", "--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined"];
    let try_all = "mkdir /m; mount -t tmpfs t /m && echo mounted; cat /proc/sys/vm/swappiness >/proc/sys/vm/swappiness && echo set; \
                   ls /proc/1 >/dev/null && echo listed; echo x >/file && echo written; kill -0 1 && echo signalled";
    let run = |more: &[&str]| {
        daemon.hull(&[&["run", "--rm"], &open[..], more, &["busybox", "sh", "-c", try_all]].concat())
    };
    let confined = run(&[]);
    assert_eq!(confined.stdout, "listed\nwritten\nsignalled\n", "{confined:?}");
    assert_eq!(confined.stderr.to_lowercase().matches("permission denied").count(), 2, "{confined:?}");
    let free = run(&["--security-opt=apparmor=unconfined"]);
    assert_eq!(free.stdout, "mounted\nset\nlisted\nwritten\nsignalled\n", "{free:?}");
}

fn others_and_none(daemon: &Daemon) {
    daemon.session(
        r#"
        $ hull run --rm --security-opt apparmor=unconfined busybox cat /proc/self/attr/current; hull run --rm --privileged busybox cat /proc/self/attr/current
        unconfined
        unconfined
        $ hull run -d --name other --security-opt apparmor=hull-test-other busybox sh -c 'echo x >/secret; sleep 600'; hull exec other cat /proc/self/attr/current; hull exec other cat /secret 2>&1; hull inspect -f '{{.AppArmorProfile}}' other
        <id>
        hull-test-other (enforce)
        cat: can't open '/secret': Permission denied
        hull-test-other
        $ hull exec --privileged other cat /proc/self/attr/current; hull rm -f other
        hull-test-other (enforce)
        other
        $ hull run --rm --security-opt apparmor=not-loaded busybox true 2>&1 | grep -c 'unable to apply apparmor profile'
        1
        "#,
    );
}

fn the_oci_runtime() {
    let oci = Oci::new();
    let mut config = oci.shell("cat /proc/self/attr/current; echo x >/secret; cat /secret 2>&1; true");
    config["root"]["readonly"] = json!(false);
    assert_eq!(oci.prints(&config).lines().next(), Some("unconfined"));
    config["process"]["apparmorProfile"] = json!("hull-test-other");
    assert_eq!(
        oci.prints(&config).trim(),
        "hull-test-other (enforce)\ncat: can't open '/secret': Permission denied"
    );
    config["process"]["apparmorProfile"] = json!("not-loaded");
    oci.refuses(&config, "not-loaded");
    let mut config = oci.config(&["sleep", "600"]);
    config["process"]["apparmorProfile"] = json!("hull-test-other");
    oci.configure(&config);
    oci.run_detached(&config);
    assert_eq!(oci.ok(&["exec", "c", "cat", "/proc/self/attr/current"]).trim(), "hull-test-other (enforce)");
    let other = ["exec", "--apparmor", "hull-default", "c", "cat", "/proc/self/attr/current"];
    assert_eq!(oci.ok(&other).trim(), "hull-default (enforce)");
    oci.fails(&["exec", "--apparmor", "not-loaded", "c", "true"], "not-loaded");
    oci.ok(&["delete", "--force", "c"]);
}
