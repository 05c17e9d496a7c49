//! The configuration's file systems: the root, mounts with each option, masked and read-only paths, devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use hull_tests::Oci;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use serde_json::{Value, json};

fn add(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("a list").push(mount);
}

/// The options of the mount at a place, and its optional fields, as the container sees them.
fn line(oci: &Oci, config: &mut Value, place: &str) -> String {
    config["process"]["args"] = json!(["grep", format!(" {place} "), "/proc/self/mountinfo"]);
    oci.prints(config)
}

/// A folder of the host's with a file.
fn source(oci: &Oci) -> PathBuf {
    let folder = oci.dir().join("source");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("file"), "of the host\n").expect("a file");
    folder
}

fn bind(oci: &Oci, options: &[&str]) -> Value {
    json!({ "destination": "/mnt", "type": "bind", "source": source(oci), "options": options })
}

#[test]
fn attributes_of_a_mount() {
    let oci = Oci::new();
    for (options, has, has_not) in [
        (&["rbind", "ro"][..], "ro", "rw"),
        (&["bind", "rw"], "rw", "ro"),
        (&["bind", "nosuid"], "nosuid", "nodev"),
        (&["bind", "nodev"], "nodev", "nosuid"),
        (&["bind", "noexec"], "noexec", "ro"),
        (&["bind", "noatime"], "noatime", "relatime"),
        (&["bind", "relatime"], "relatime", "noatime"),
        (&["bind", "strictatime"], "rw", "relatime"),
        (&["bind", "nodiratime"], "nodiratime", "ro"),
        (&["bind", "ro", "rw"], "rw", "ro"),
        (&["bind", "rw", "ro"], "ro", "rw"),
        (&["bind", "nosuid", "suid"], "rw", "nosuid"),
    ] {
        let mut config = oci.config(&[]);
        add(&mut config, bind(&oci, options));
        let line = line(&oci, &mut config, "/mnt");
        let own = line.split_whitespace().nth(5).expect("its options").to_owned();
        let words: Vec<&str> = own.split(',').collect();
        assert!(words.contains(&has) && !words.contains(&has_not), "{options:?}: {line}");
    }
    let mut config = oci.shell("cat /mnt/file; echo x >/mnt/other");
    add(&mut config, bind(&oci, &["rbind", "ro"]));
    let output = oci.run(&config);
    assert!(output.stdout == "of the host\n" && output.stderr.contains("Read-only"), "{output:?}");
}

/// Flags of `mount(2)`, which each file system takes, also one that they mean nothing to.
#[test]
fn words_with_a_flag_of_mount_are_taken_by_every_file_system() {
    let oci = Oci::new();
    for word in ["sync", "dirsync", "mand", "lazytime", "silent", "iversion", "noiversion", "acl", "noacl"] {
        let mut config = oci.config(&[]);
        add(
            &mut config,
            json!({ "destination": "/mnt", "type": "tmpfs", "source": "mine", "options": [word, "size=64k"] }),
        );
        let line = line(&oci, &mut config, "/mnt");
        assert!(line.contains("- tmpfs mine ") && line.contains("size=64k"), "{word}: {line}");
    }
}

#[test]
fn file_systems_take_their_own_parameters() {
    let oci = Oci::new();
    let mut config = oci.config(&[]);
    add(
        &mut config,
        json!({ "destination": "/mnt", "type": "tmpfs", "source": "mine",
        "options": ["nosuid", "nodev", "size=1024k", "mode=1770", "uid=33", "gid=44"] }),
    );
    let line = line(&oci, &mut config, "/mnt");
    assert!(line.contains("- tmpfs mine ") && line.contains("size=1024k"), "{line}");
    config["process"]["args"] = json!(["stat", "-c", "%a %u %g", "/mnt"]);
    // runc 1.1 gives it the mode of its place in any case.
    let mode = if oci.is_runc() { "755" } else { "1770" };
    assert_eq!(oci.prints(&config), format!("{mode} 33 44"));
    add(&mut config, json!({ "destination": "/bad", "type": "tmpfs", "options": ["nonsense=1"] }));
    oci.refuses(&config, "/bad");
    let mut config = oci.config(&["true"]);
    add(&mut config, json!({ "destination": "/bad", "type": "nonsense", "source": "nonsense" }));
    oci.refuses(&config, "/bad");
    let mut config = oci.config(&["stat", "-f", "-c", "%T", "/dev/mqueue"]);
    add(
        &mut config,
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
        "options": ["nosuid", "noexec", "nodev"] }),
    );
    assert!(!oci.prints(&config).is_empty());
}

#[test]
fn a_tmpfs_has_the_mode_of_its_place_unless_told() {
    let oci = Oci::new();
    let place = oci.rootfs().join("place");
    fs::create_dir(&place).expect("a folder");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o1750)).expect("its mode");
    let mut config = oci.config(&["stat", "-c", "%a", "/place"]);
    add(
        &mut config,
        json!({ "destination": "/place", "type": "tmpfs", "source": "tmpfs", "options": ["nodev"] }),
    );
    assert_eq!(oci.prints(&config), "1750");
}

#[test]
fn a_bind_of_a_file_and_of_what_is_not_there() {
    let oci = Oci::new();
    let mut config = oci.shell("cat /etc/deep/given");
    let file = source(&oci).join("file");
    add(&mut config, json!({ "destination": "/etc/deep/given", "source": file, "options": ["bind", "ro"] }));
    assert_eq!(oci.prints(&config), "of the host");
    let mut config = oci.config(&["true"]);
    add(
        &mut config,
        json!({ "destination": "/mnt", "type": "bind", "source": "/no/such", "options": ["bind"] }),
    );
    oci.refuses(&config, "no such file or directory");
    // A folder onto a file.
    let mut config = oci.config(&["true"]);
    add(
        &mut config,
        json!({ "destination": "/etc/passwd", "type": "bind", "source": source(&oci), "options": ["bind"] }),
    );
    oci.refuses(&config, "not a directory");
}

#[test]
fn a_relative_source_is_the_bundle_s() {
    let oci = Oci::new();
    fs::create_dir_all(oci.bundle().join("data")).expect("a folder");
    fs::write(oci.bundle().join("data/file"), "of the bundle\n").expect("a file");
    let mut config = oci.shell("cat /mnt/file");
    add(&mut config, json!({ "destination": "/mnt", "type": "bind", "source": "data", "options": ["bind"] }));
    oci.configure(&config);
    let bundle = oci.bundle();
    let mut command = oci.command(&["run", "--bundle", bundle.to_str().expect("a name"), "c"]);
    command.current_dir("/");
    let output = oci.finish(command);
    assert_eq!(output.stdout, "of the bundle\n", "{output:?}");
}

#[test]
fn a_destination_is_found_within_the_root() {
    let oci = Oci::new();
    std::os::unix::fs::symlink("/../../../../../../tmp/deep", oci.rootfs().join("link")).expect("a link");
    let mut config = oci.shell("cat /tmp/deep/here/file");
    add(
        &mut config,
        json!({ "destination": "/link/here", "type": "bind", "source": source(&oci),
        "options": ["bind"] }),
    );
    assert_eq!(oci.prints(&config), "of the host");
    // proc and sys are not put where a link leads.
    let oci = Oci::new();
    fs::remove_dir(oci.rootfs().join("proc")).expect("an empty folder");
    std::os::unix::fs::symlink("/tmp", oci.rootfs().join("proc")).expect("a link");
    oci.refuses(&oci.config(&["true"]), "");
}

#[test]
fn nothing_goes_over_proc() {
    let oci = Oci::new();
    let over = |place: &str, mount: Value| {
        let mut config = oci.shell("cat /proc/uptime; ls /host/proc/self >/dev/null && echo there");
        let mut mount = mount;
        mount["destination"] = json!(place);
        add(&mut config, mount);
        config
    };
    let tmpfs = json!({ "type": "tmpfs", "source": "tmpfs" });
    let folder = json!({ "type": "bind", "source": source(&oci), "options": ["bind"] });
    for place in ["/proc", "/proc/", "/proc/sys", "/proc/self", "/proc/1/attr"] {
        // runc 1.1 lets these through, some only to fail later.
        if oci.is_hull() {
            oci.refuses(&over(place, tmpfs.clone()), "cannot be mounted because it is");
        }
        oci.refuses(&over(place, folder.clone()), "cannot be mounted because it is");
    }
    // Nor by a link.
    std::os::unix::fs::symlink("/proc/sys", oci.rootfs().join("way")).expect("a link");
    oci.refuses(&over("/way/kernel", folder), "cannot be mounted because it is");
    // But figures may be told otherwise, and another procfs be elsewhere.
    let file = json!({ "type": "bind", "source": source(&oci).join("file"), "options": ["bind"] });
    let mut config = over("/proc/uptime", file);
    add(
        &mut config,
        json!({ "destination": "/host", "type": "bind", "source": "/", "options": ["rbind", "ro"] }),
    );
    add(
        &mut config,
        json!({ "destination": "/host/proc", "type": "bind", "source": "/proc", "options": ["rbind"] }),
    );
    assert_eq!(oci.prints(&config), "of the host\nthere");
}

/// A mount of the host's with another one in it.
struct Nested(PathBuf);

impl Nested {
    fn new(oci: &Oci) -> Self {
        let folder = oci.dir().join("nested");
        fs::create_dir_all(&folder).expect("a folder");
        let tmpfs = |at: &PathBuf| mount("tmpfs", at, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        tmpfs(&folder);
        mount_change(&folder, MountPropagationFlags::SHARED).expect("a shared mount");
        let inner = folder.join("inner");
        fs::create_dir(&inner).expect("a folder");
        tmpfs(&inner);
        fs::write(inner.join("file"), "deep\n").expect("a file");
        Self(folder)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

#[test]
fn what_is_mounted_below_comes_along_when_asked() {
    let oci = Oci::new();
    let nested = Nested::new(&oci);
    let with = |options: &[&str], script: &str| {
        let mut config = oci.shell(script);
        add(
            &mut config,
            json!({ "destination": "/mnt", "type": "bind", "source": nested.0, "options": options }),
        );
        oci.prints(&config)
    };
    assert_eq!(with(&["rbind"], "cat /mnt/inner/file"), "deep");
    assert_eq!(with(&["bind"], "ls /mnt/inner"), "");
    let write = "touch /mnt/a 2>/dev/null; echo $?; touch /mnt/inner/a 2>/dev/null; echo $?";
    assert_eq!(with(&["rbind", "ro"], write), "1\n0");
    assert_eq!(with(&["rbind", "rro"], write), "1\n1");
    let exec = "grep -c ' /mnt.*noexec' /proc/self/mountinfo";
    assert_eq!(with(&["rbind", "rnoexec"], exec), "2");
    assert_eq!(with(&["rbind", "noexec"], exec), "1");
}

#[test]
fn propagation_of_a_mount() {
    let oci = Oci::new();
    let nested = Nested::new(&oci);
    for (word, tag) in [
        ("private", None),
        ("rprivate", None),
        ("slave", Some("master:")),
        ("rslave", Some("master:")),
        ("shared", Some("shared:")),
        ("rshared", Some("shared:")),
        ("unbindable", Some("unbindable")),
        ("runbindable", Some("unbindable")),
    ] {
        let mut config = oci.config(&[]);
        add(
            &mut config,
            json!({ "destination": "/mnt", "type": "bind", "source": nested.0, "options": ["rbind", word] }),
        );
        let line = line(&oci, &mut config, "/mnt");
        let fields = line.split(" - ").next().expect("the fields before").to_owned();
        match tag {
            Some(tag) => assert!(fields.contains(tag), "{word}: {line}"),
            None => {
                let none = ["shared:", "master:", "unbindable"].iter().all(|tag| !fields.contains(tag));
                assert!(none, "{word}: {line}");
            }
        }
    }
}

#[test]
fn propagation_of_the_root() {
    let oci = Oci::new();
    for (word, tag) in
        [("private", ""), ("slave", ""), ("shared", "shared:"), ("rprivate", ""), ("rslave", "")]
    {
        let mut config = oci.config(&[]);
        config["linux"]["rootfsPropagation"] = json!(word);
        let line = line(&oci, &mut config, "/");
        let fields = line.split(" - ").next().expect("the fields before").to_owned();
        // runc 1.1 says it of the root that it leaves.
        let tag = if oci.is_runc() { "" } else { tag };
        assert!(fields.contains(tag) && (!tag.is_empty() || !fields.contains("shared:")), "{word}: {line}");
    }
    let mut config = oci.config(&["true"]);
    config["linux"]["rootfsPropagation"] = json!("nonsense");
    oci.refuses(&config, "");
}

#[test]
fn a_tmpfs_that_starts_with_a_copy() {
    let oci = Oci::new();
    let mut config = oci.shell("cat /etc/passwd | head -c 4; touch /etc/new; stat -f -c %T /etc");
    add(
        &mut config,
        json!({ "destination": "/etc", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup"] }),
    );
    assert_eq!(oci.prints(&config), "roottmpfs");
    assert!(!oci.rootfs().join("etc/new").exists());
}

#[test]
fn ids_of_a_bind_are_mapped() {
    let oci = Oci::new();
    if !oci.is_hull() {
        eprintln!("not tested: runc 1.1 maps no mounts");
        return;
    }
    let mapping = json!([{ "containerID": 0, "hostID": 1000, "size": 1000 }]);
    let mut mount = bind(&oci, &["bind", "idmap"]);
    mount["uidMappings"] = mapping.clone();
    mount["gidMappings"] = mapping;
    let mut config = oci.shell("stat -c %u /mnt/file; touch /mnt/new");
    add(&mut config, mount);
    let output = oci.run(&config);
    if output.stderr.contains("cannot map ids") {
        eprintln!("not tested: {}", output.stderr);
        return;
    }
    assert_eq!(output.stdout, "1000\n", "{output:?}");
}

#[test]
fn mappings_stand_in_crun_s_option_too() {
    let oci = Oci::new();
    if oci.is_runc() {
        eprintln!("not tested: runc 1.1 maps no mounts");
        return;
    }
    let mut config = oci.shell("stat -c %u:%g /mnt/file");
    add(&mut config, bind(&oci, &["bind", "idmap=uids=0-1000-10;gids=0-2000-10"]));
    let output = oci.run(&config);
    if output.stderr.contains("cannot map ids") {
        eprintln!("not tested: {}", output.stderr);
        return;
    }
    assert_eq!(output.stdout, "1000:2000\n", "{output:?}");
    if oci.is_hull() {
        let mut config = oci.shell("true");
        add(&mut config, bind(&oci, &["bind", "idmap=uids=0-1000"]));
        oci.refuses(&config, "idmap=uids=0-1000");
    }
}

/// `mount(2)` takes them and leaves the bind's file system as it is.
#[test]
fn a_bind_goes_without_the_words_of_file_systems() {
    let oci = Oci::new();
    let mut config = oci.config(&[]);
    let words =
        ["bind", "ro", "sync", "dirsync", "mand", "lazytime", "silent", "acl", "iversion", "async", "loud"];
    add(&mut config, bind(&oci, &words));
    let quiet = line(&oci, &mut config, "/mnt");
    assert!(quiet.contains(" ro,"), "{quiet}");
    let mut config = oci.shell("cat /proc/self/mountinfo");
    add(&mut config, bind(&oci, &["bind", "mode=0700", "nonsense"]));
    let output = oci.run(&config);
    assert!(output.status == 0 && output.stdout.contains(" /mnt "), "{output:?}");
    if oci.is_hull() {
        assert!(output.stderr.contains("mode=0700,nonsense"), "{output:?}");
    }
}

#[test]
fn a_root_that_is_read_only() {
    let oci = Oci::new();
    let mut config = oci.shell("touch /new 2>&1; touch /dev/shm/new && echo but this");
    config["root"]["readonly"] = json!(true);
    assert_eq!(oci.prints(&config), "touch: /new: Read-only file system\nbut this");
    let mut absolute = oci.config(&["cat", "/etc/passwd"]);
    absolute["root"]["path"] = json!(oci.rootfs());
    assert!(oci.prints(&absolute).starts_with("root:"));
    absolute["root"]["path"] = json!("/no/such/root");
    oci.refuses(&absolute, "no such file or directory");
}

#[test]
fn masked_and_read_only_paths() {
    let oci = Oci::new();
    let mut config = oci.shell(
        "cat /proc/keys; ls /sys/firmware /secret | grep -v :; wc -c </proc/keys; \
         (echo 1 >/proc/sys/kernel/panic) 2>&1; touch /locked/file 2>&1; cat /locked/there",
    );
    for folder in ["secret", "locked"] {
        fs::create_dir(oci.rootfs().join(folder)).expect("a folder");
        fs::write(oci.rootfs().join(folder).join("there"), "there\n").expect("a file");
    }
    config["linux"]["maskedPaths"] = json!(["/proc/keys", "/sys/firmware", "/secret", "/no/such"]);
    config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/locked", "/no/such/either"]);
    let output = oci.run(&config);
    let printed = output.stdout.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>();
    assert_eq!(printed[0], "0", "{output:?}");
    assert!(
        output.stdout.contains("/locked/file: Read-only") && output.stdout.ends_with("there\n"),
        "{output:?}"
    );
    assert!(output.stdout.contains("panic: Read-only"), "{output:?}");
}

#[test]
fn devices_are_made_with_their_mode_and_owner() {
    let oci = Oci::new();
    let mut config = oci.shell(
        "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
         for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; \
         stat -c '%t %T %a %u %g' /dev/deep/mine; head -c 4 /dev/deep/mine | wc -c; test -p /dev/pipe && echo fifo",
    );
    config["linux"]["devices"] = json!([
        { "path": "/dev/deep/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 33, "gid": 44 },
        { "path": "/dev/pipe", "type": "p", "fileMode": 0o600 },
        // An engine that names all of the host's does not get this one: it is the container's own devpts's.
        { "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2, "fileMode": 0o666 },
    ]);
    config["linux"]["resources"]["devices"] = json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" },
    ]);
    let printed = oci.prints(&config);
    let expected = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n\
                    1 5 640 33 44\n4\nfifo";
    assert_eq!(printed, expected);
}

#[test]
fn the_cgroup_says_which_devices_can_be_used() {
    let oci = Oci::new();
    let script = "mknod /dev/k c 10 229 && echo made; head -c 1 /dev/zero | wc -c; echo x >/dev/null && echo null; \
                  (exec 3</dev/k) 2>&1 | sed 's/.*: //'";
    let rules = |extra: Value| {
        let mut config = oci.shell(script);
        let mut all = vec![json!({ "allow": false, "access": "rwm" })];
        all.extend(extra.as_array().expect("a list").iter().cloned());
        config["linux"]["resources"]["devices"] = json!(all);
        oci.prints(&config)
    };
    // Every device can be made, and the usual ones be used; FUSE's not, unless it is allowed.
    assert_eq!(rules(json!([])), "made\n1\nnull\nOperation not permitted");
    let allowed = json!([{ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "r" }]);
    assert_eq!(rules(allowed), "made\n1\nnull");
    let wild = json!([{ "allow": true, "type": "c", "major": 10, "access": "rwm" }]);
    assert_eq!(rules(wild), "made\n1\nnull");
}

#[test]
fn nothing_is_left_mounted_outside() {
    let oci = Oci::new();
    let before = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    oci.prints(&oci.config(&["true"]));
    let after = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let dir = oci.dir().display().to_string();
    let own = |text: &str| text.lines().filter(|line| line.contains(&dir)).count();
    assert_eq!(own(&before), own(&after));
    let null = fs::metadata("/dev/null").expect("the host's");
    assert!(
        null.file_type().is_char_device() && null.permissions().mode() & 0o777 == 0o666 && null.uid() == 0
    );
}

#[test]
fn a_relative_destination_is_from_the_root() {
    let oci = Oci::new();
    let mut config = oci.shell("grep ' /deep/place ' /proc/self/mounts | cut -d' ' -f3");
    add(&mut config, json!({ "destination": "deep/place", "type": "tmpfs", "source": "tmpfs" }));
    let output = oci.run(&config);
    assert_eq!((output.status, output.stdout.trim()), (0, "tmpfs"), "{output:?}");
    assert!(output.stderr.contains("not absolute"), "{output:?}");
}
