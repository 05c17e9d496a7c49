//! SELinux, where the kernel has it and the tests' own policy is loaded: in the virtual machine of `cargo xtask vm-test`, which
//! says so ([`NEEDED`]). What is enforced is the machine's: one test has it for itself. The policy is `selinux/policy.cil`.

use std::fs;
use std::path::Path;

use hull_tests::{Daemon, Engine, Oci};
use serde_json::{Value, json};

/// Set where the tests' policy is loaded, which no other machine's should be replaced by.
const NEEDED: &str = "HULL_TESTS_NEED_SELINUX";

/// Whether the kernel refuses what the policy does not allow.
const ENFORCE: &str = "/sys/fs/selinux/enforce";

const PROCESS: &str = "system_u:system_r:container_t:s0:c1,c2";
const FILES: &str = "system_u:object_r:container_file_t:s0:c1,c2";

fn is_here() -> bool {
    if std::env::var_os(NEEDED).is_none() {
        eprintln!("not tested: this is not the machine that is SELinux's");
        return false;
    }
    assert!(Path::new(ENFORCE).exists(), "this machine has no SELinux");
    Engine::under_test() == Engine::Hull
}

fn enforce(whether: bool) {
    fs::write(ENFORCE, if whether { "1" } else { "0" }).expect("the switch of SELinux");
}

/// Lines of `ls -Zd`-like output are too many programs' own; the kernel says labels by an attribute.
fn label_of(path: &Path) -> String {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut value).expect("a label");
    String::from_utf8_lossy(&value[..length]).trim_end_matches('\0').to_owned()
}

#[test]
fn containers_are_confined_by_their_labels() {
    if !is_here() {
        return;
    }
    enforce(true);
    the_oci_runtime();
    let daemon = Daemon::with(&["--selinux-enabled"]);
    what_the_engine_labels(&daemon);
    what_neighbours_are_denied(&daemon);
    volumes_and_binds(&daemon);
    options(&daemon);
    what_has_no_label(&daemon);
    builds_and_copies(&daemon);
    labels_of_an_earlier_daemon_are_taken(daemon);
    other_storage_and_runtimes();
    a_daemon_that_gives_no_labels();
}

fn the_oci_runtime() {
    let oci = Oci::new();
    chcon(&oci.rootfs(), FILES);
    let plain = oci.prints(&oci.shell("cat /proc/self/attr/current | tr -d '\\0'"));
    assert_eq!(plain.trim(), "system_u:system_r:kernel_t:s0-s0:c0.c1023");
    what_oci_labels(&oci);
    what_oci_containers_are_denied(&oci);
    what_oci_execs_are(&oci);
    let mut config = labelled(&oci, "true");
    config["process"]["selinuxLabel"] = json!("system_u:system_r:no_such_t:s0");
    oci.refuses(&config, "the policy knows no such label");
    let mut config = labelled(&oci, "true");
    config["linux"]["mountLabel"] = json!("system_u:object_r:no_such_t:s0");
    oci.refuses(&config, "no_such_t");
}

fn labelled(oci: &Oci, script: &str) -> Value {
    let mut config = oci.shell(script);
    config["process"]["selinuxLabel"] = json!(PROCESS);
    config["linux"]["mountLabel"] = json!(FILES);
    config["root"]["readonly"] = json!(false);
    config
}

/// The process and its keys, and what is mounted for it; not what is mounted of the kernel's.
fn what_oci_labels(oci: &Oci) {
    // A key that the label may not see is not in the list.
    let mut config = labelled(oci, "tr -d '\\0' </proc/self/attr/current; echo; exec sleep 600");
    config["linux"]["maskedPaths"] = json!(["/proc/fs"]);
    config["process"]["terminal"] = json!(false);
    for (kind, at) in [("tmpfs", "/t"), ("mqueue", "/dev/mqueue")] {
        let mount = json!({ "destination": at, "type": kind, "source": kind, "options": ["nosuid"] });
        config["mounts"].as_array_mut().expect("a list").push(mount);
    }
    oci.configure(&config);
    oci.run_detached(&config);
    let root = format!("/proc/{}/root", oci.state("c")["pid"]);
    let of = |at: &str| label_of(Path::new(&format!("{root}{at}")));
    for at in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/null", "/t", "/proc/fs"] {
        assert_eq!(of(at), FILES, "{at}");
    }
    for at in ["/proc", "/sys"] {
        assert_eq!(of(at), "system_u:object_r:proc_t:s0", "{at}");
    }
    oci.ok(&["delete", "--force", "c"]);
    config["process"]["args"][2] =
        json!("tr -d '\\0' </proc/self/attr/current; echo; grep -c ' keyring .* _ses' /proc/keys");
    assert_eq!(oci.prints(&config).trim_end(), format!("{PROCESS}\n1"));
}

/// Whether a label keeps a container from another's files, of which it has every right but that of its label; with the
/// policy not enforced it writes them.
fn what_oci_containers_are_denied(oci: &Oci) {
    let other = oci.dir().join("other");
    fs::create_dir(&other).expect("a folder");
    fs::write(other.join("secret"), "of another").expect("a file");
    chcon(&other, "system_u:object_r:container_file_t:s0:c3,c4");
    let mut config = labelled(oci, "cat /other/secret; echo mine >/other/secret; echo x >/file && cat /file");
    let bind =
        json!({ "destination": "/other", "type": "bind", "source": other, "options": ["rbind", "rw"] });
    config["mounts"].as_array_mut().expect("a list").push(bind);
    let denied = oci.run(&config);
    assert_eq!(denied.stdout, "x\n", "{denied:?}");
    assert_eq!(denied.stderr.to_lowercase().matches("permission denied").count(), 2, "{denied:?}");
    assert_eq!(fs::read_to_string(other.join("secret")).expect("it is there"), "of another");
    // The defence taken out.
    enforce(false);
    assert_eq!(oci.prints(&config), "of anotherx");
    assert_eq!(fs::read_to_string(other.join("secret")).expect("it is there"), "mine\n");
    enforce(true);
    // What is shared among containers has no category.
    chcon(&other, "system_u:object_r:container_file_t:s0");
    assert_eq!(oci.prints(&config), "mine\nx");
    // And what is the host's is not theirs at all.
    chcon(&other, "system_u:object_r:host_file_t:s0");
    assert_eq!(oci.run(&config).stdout, "x\n");
}

fn what_oci_execs_are(oci: &Oci) {
    let mut config = labelled(oci, "");
    config["process"]["args"] = json!(["sleep", "600"]);
    oci.configure(&config);
    oci.run_detached(&config);
    let current = ["cat", "/proc/self/attr/current"];
    let said = |options: &[&str]| oci.ok(&[&["exec"], options, &["c"], &current[..]].concat());
    assert_eq!(said(&[]).trim_end_matches(['\0', '\n']), PROCESS);
    let other = "system_u:system_r:other_container_t:s0:c1,c2";
    assert_eq!(said(&["--process-label", other]).trim_end_matches(['\0', '\n']), other);
    oci.fails(&["exec", "--process-label", "x:y:z:s0", "c", "true"], "the policy knows no such label");
    oci.ok(&["delete", "--force", "c"]);
}

fn what_the_engine_labels(daemon: &Daemon) {
    daemon.session(
        r#"
        $ hull info -f '{{json .SecurityOptions}}' | grep -o name=selinux
        name=selinux
        $ hull run -d --name box --tmpfs /t -v vol:/v busybox sleep 600; hull run -d --name two -v vol:/v busybox sleep 600
        <id>
        <id>
        "#,
    );
    let inspect = |name: &str, field: &str| daemon.ok(&["inspect", "-f", field, name]);
    let (process, files) = (inspect("box", "{{.ProcessLabel}}"), inspect("box", "{{.MountLabel}}"));
    let level = process.strip_prefix("system_u:system_r:container_t:s0:c").expect("a container's label");
    assert_eq!(files, format!("system_u:object_r:container_file_t:s0:c{level}"));
    assert_ne!(process, inspect("two", "{{.ProcessLabel}}"));
    for command in [&["exec", "box"][..], &["exec", "--privileged", "-u", "33", "box"]] {
        let said = daemon.ok(&[command, &["cat", "/proc/self/attr/current"]].concat());
        assert_eq!(said.trim_end_matches('\0'), process);
    }
    let root = format!("/proc/{}/root", inspect("box", "{{.State.Pid}}"));
    for at in [
        "/.",
        "/bin/busybox",
        "/dev",
        "/dev/shm",
        "/dev/pts",
        "/dev/mqueue",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/t",
    ] {
        assert_eq!(label_of(Path::new(&format!("{root}{at}"))), files, "{at}");
    }
    assert_eq!(label_of(Path::new(&format!("{root}/v"))), "system_u:object_r:container_file_t:s0");
}

/// The attack: with all else open, a container writes what is its neighbour's; its label alone denies that.
fn what_neighbours_are_denied(daemon: &Daemon) {
    let folder = daemon.dir().join("work/private");
    fs::create_dir(&folder).expect("a folder");
    let at = format!("{}:/b", folder.display());
    let open =
        ["--cap-add=ALL", "--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined"];
    let run = |bind: &str, script: &str| {
        daemon.hull(&[&["run", "--rm"], &open[..], &["-v", bind, "busybox", "sh", "-c", script]].concat())
    };
    assert_eq!(run(&format!("{at}:Z"), "echo first >/b/file && cat /b/file").stdout, "first\n");
    // The next one's categories are others.
    let denied =
        run(&at, "cat /b/file; echo second >/b/file; touch /b/new; kill -9 1 2>/dev/null; echo over");
    assert_eq!(denied.stdout, "over\n", "{denied:?}");
    assert_eq!(denied.stderr.to_lowercase().matches("permission denied").count(), 3, "{denied:?}");
    assert_eq!(fs::read_to_string(folder.join("file")).expect("it is there"), "first\n");
    enforce(false);
    let free = run(&at, "cat /b/file; echo second >/b/file");
    assert_eq!((free.stdout.as_str(), free.status), ("first\n", 0), "{free:?}");
    assert_eq!(fs::read_to_string(folder.join("file")).expect("it is there"), "second\n");
    enforce(true);
}

fn volumes_and_binds(daemon: &Daemon) {
    daemon.session(
        r#"
        $ hull exec box sh -c 'echo of box >/v/file'; hull exec two sh -c 'cat /v/file; echo of two >/v/other'; hull exec box cat /v/other
        of box
        of two
        $ mkdir -p plain/deep; echo x >plain/deep/file; hull run --rm -v $PWD/plain:/b busybox cat /b/deep/file 2>&1 | grep -o 'Permission denied'
        Permission denied
        $ hull run --rm -v $PWD/plain:/b:ro,z busybox cat /b/deep/file; hull run --rm -v $PWD/plain:/b busybox cat /b/deep/file
        x
        x
        $ hull create -v /usr:/b:Z busybox true 2>&1 | grep -o "error setting label on mount source '/usr'"
        error setting label on mount source '/usr'
        $ for at in /var/../home /usr/lib /etc/ssh; do hull run --rm -v $at:/b:z busybox true 2>&1 | grep -o 'SELinux relabeling of .*'; done
        SELinux relabeling of /home is not allowed
        SELinux relabeling of /usr/lib is not allowed
        SELinux relabeling of /etc/ssh is not allowed
        $ root=$(hull info -f '{{.DockerRootDir}}'); for at in $root $root/image $(dirname $root); do hull create -v $at:/b:Z busybox true 2>&1 | grep -o "is not allowed: hull's own files are in"; done
        is not allowed: hull's own files are in
        is not allowed: hull's own files are in
        is not allowed: hull's own files are in
        $ hull volume create -o type=none -o o=bind -o device=$root roots; hull run --rm -v roots:/b:Z busybox true 2>&1 | grep -o "is not allowed: hull's own files are in"; hull volume rm roots
        roots
        is not allowed: hull's own files are in
        roots
        "#,
    );
}

fn options(daemon: &Daemon) {
    daemon.session(
        r#"
        $ label() { hull run --rm "$@" busybox sh -c 'tr -d "\000" </proc/self/attr/current; echo'; }; label --security-opt label=level:s0:c7,c9; label --security-opt label=type:other_container_t --security-opt label:level:s0:c7,c9
        system_u:system_r:container_t:s0:c7,c9
        system_u:system_r:other_container_t:s0:c7,c9
        $ hull create --name three --security-opt label=filetype:other_file_t --security-opt label=level:s0:c7,c9 busybox true; hull inspect -f '{{.ProcessLabel}} {{.MountLabel}}' three
        <id>
        system_u:system_r:container_t:s0:c7,c9 system_u:object_r:other_file_t:s0:c7,c9
        $ hull run --rm --security-opt label=nested busybox true 2>&1 | grep -o 'bad label option.*'
        bad label option "nested", valid options 'disable' or
        $ hull run --rm --security-opt label=type:no_such_t busybox true 2>&1 | grep -o 'the policy knows no such label'
        the policy knows no such label
        $ hull run -d --name donor --ipc shareable busybox sleep 600; hull run -d --name guest --ipc container:donor --pid container:donor busybox sleep 600; test "$(hull inspect -f '{{.ProcessLabel}}' donor)" = "$(hull inspect -f '{{.ProcessLabel}}' guest)"; hull exec guest sh -c 'echo x >/dev/shm/x'; hull exec donor cat /dev/shm/x
        <id>
        <id>
        x
        $ hull run --rm --ipc container:donor --pid container:two busybox true 2>&1 | grep -o "aren't the same"
        aren't the same
        $ hull rm -f donor guest two three
        donor
        guest
        two
        three
        "#,
    );
}

/// As with Docker: what has the host's processes or memory, or every privilege, has no label.
fn what_has_no_label(daemon: &Daemon) {
    for option in ["--privileged", "--pid=host", "--ipc=host", "--security-opt=label=disable"] {
        let script = "tr -d '\\000' </proc/self/attr/current; echo; echo x >/file && cat /file";
        let said = daemon.ok(&["run", "--rm", option, "busybox", "sh", "-c", script]);
        assert_eq!(said, "system_u:system_r:kernel_t:s0-s0:c0.c1023\nx", "{option}");
        daemon.ok(&["create", "--name", "free", option, "busybox"]);
        let format = "{{json .ProcessLabel}} {{.MountLabel}} {{.HostConfig.SecurityOpt}}";
        assert_eq!(
            daemon.ok(&["inspect", "-f", format, "free"]),
            "\"\" system_u:object_r:container_file_t:s0:c1022,c1023 [label=disable]",
            "{option}"
        );
        daemon.ok(&["rm", "free"]);
    }
}

fn builds_and_copies(daemon: &Daemon) {
    daemon.session(
        r#"
        $ printf 'FROM busybox\nCOPY Dockerfile /copied\nRUN --mount=type=cache,target=/c --mount=type=bind,target=/ctx cat /copied /ctx/Dockerfile >/made && touch /c/x && tr -d "\\000" </proc/self/attr/current | cut -d: -f3 >/type\n' >Dockerfile; hull build -q -t built . | cut -c1-7; hull run --rm built sh -c 'cat /type; test -s /made && echo made'
        sha256:
        container_t
        made
        $ echo in >into; hull cp into box:/into; hull exec box cat /into; hull stop -t 0 box; hull cp into box:/again; hull start box; hull exec box cat /again
        in
        box
        box
        in
        $ hull commit box kept >/dev/null; hull run --rm kept cat /again
        in
        $ hull run -t --rm busybox sh -c 'tty; echo x >/dev/tty; cat /dev/null' | tr -d '\r'
        /dev/pts/0
        x
        "#,
    );
}

fn labels_of_an_earlier_daemon_are_taken(mut daemon: Daemon) {
    let label = |daemon: &Daemon| daemon.ok(&["inspect", "-f", "{{.ProcessLabel}}", "box"]);
    let before = label(&daemon);
    daemon.stop();
    daemon.begin();
    assert_eq!(label(&daemon), before);
    let said = daemon.ok(&["exec", "box", "cat", "/proc/self/attr/current"]);
    assert_eq!(said.trim_end_matches('\0'), before);
    daemon.ok(&["rm", "-f", "-v", "box"]);
}

fn other_storage_and_runtimes() {
    let script = "tr -d '\\000' </proc/self/attr/current | cut -d: -f3; echo x >/file && cat /file";
    for options in [
        &["--selinux-enabled"][..],
        &["--selinux-enabled", "--storage-driver=vfs"],
        &["--selinux-enabled", "--add-runtime=other=/usr/bin/runc", "--default-runtime=other"],
    ] {
        let daemon = Daemon::with(options);
        assert_eq!(
            daemon.ok(&["run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", script]),
            "container_t\nx"
        );
        let image = "type=image,source=busybox,target=/i";
        let name = daemon.ok(&[
            "run",
            "--rm",
            "--mount",
            image,
            "busybox",
            "/i/bin/busybox",
            "echo",
            "of the image",
        ]);
        assert_eq!(name, "of the image", "{options:?}");
    }
}

fn a_daemon_that_gives_no_labels() {
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ hull run --rm --security-opt label=disable busybox sh -c 'tr -d "\000" </proc/self/attr/current; echo'
        system_u:system_r:kernel_t:s0-s0:c0.c1023
        $ hull run --rm --security-opt label=type:container_t busybox true 2>&1 | grep -o 'this daemon gives .*'
        this daemon gives containers no SELinux labels: start it with --selinux-enabled, or say label=disable
        $ hull info -f '{{json .SecurityOptions}}' | grep -c selinux
        0
        [1]
        "#,
    );
}

fn chcon(tree: &Path, label: &str) {
    let mut left = vec![tree.to_owned()];
    while let Some(path) = left.pop() {
        rustix::fs::lsetxattr(&path, "security.selinux", label.as_bytes(), rustix::fs::XattrFlags::empty())
            .expect("a label");
        assert_eq!(label_of(&path), label);
        if path.symlink_metadata().expect("it is there").is_dir() {
            left.extend(fs::read_dir(&path).expect("a folder").flatten().map(|entry| entry.path()));
        }
    }
}
