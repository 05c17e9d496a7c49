//! Attacks on what the runtime mounts and writes while it makes a container: by links and other files where it expects the
//! kernel's, laid before or exchanged meanwhile.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use hull_tests::{Daemon, Engine, Oci, Pty};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

/// Exchanges two names as fast as it goes while `work` is done.
fn exchanging(one: &Path, other: &Path, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("both are there");
            }
        });
        // The thread ends also when the work panics.
        let end = Ends(&done);
        work();
        drop(end);
    });
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A configuration whose `/dev` is a folder of the attacker's.
fn with_own_dev(oci: &Oci, script: &str) -> Value {
    let dev = oci.dir().join("dev");
    fs::create_dir_all(dev.join("pts")).expect("a folder");
    let mut config = oci.shell(script);
    let mounts = config["mounts"].as_array_mut().expect("a list");
    mounts.retain(|mount| !mount["destination"].as_str().expect("a path").starts_with("/dev"));
    mounts.push(json!({ "destination": "/dev", "type": "bind", "source": dev, "options": ["rbind", "rw"] }));
    config
}

/// CVE-2025-31133: what masks is a bind of `/dev/null`. A link there would put what it leads to over the masked path,
/// where it can be written.
#[test]
fn a_mask_is_the_null_device_whatever_stands_in_its_place() {
    let oci = Oci::new();
    // The mask covers a file of the container's: what shines through is told by its content.
    fs::write(oci.rootfs().join("covered"), "covered\n").expect("a file");
    fs::write(oci.rootfs().join("target"), "target\n").expect("a file");
    let mut config =
        with_own_dev(&oci, "cat /covered; echo written >/covered; stat -c %F:%t,%T /covered; cat /target");
    config["linux"]["maskedPaths"] = json!(["/covered"]);
    let dev = oci.dir().join("dev");
    let masked = |output: hull_tests::Output| {
        // A refusal is as good.
        assert!(
            output.status != 0 || output.stdout == "character special file:1,3\ntarget\n",
            "the mask is none: {output:?}"
        );
        output.status == 0
    };
    for target in ["/target", "/proc/sys/kernel/core_pattern", "/covered", "../../../../../../etc/hostname"] {
        fs::remove_file(dev.join("null")).ok();
        symlink(target, dev.join("null")).expect("a link");
        masked(oci.run(&config));
    }
    // A file, and another device.
    fs::remove_file(dev.join("null")).expect("the link is removed");
    fs::write(dev.join("null"), "a file\n").expect("a file");
    masked(oci.run(&config));
    // Exchanged with the real one all the time.
    fs::remove_file(dev.join("null")).expect("the file is removed");
    let null = rustix::fs::makedev(1, 3);
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(CWD, dev.join("null"), kind, mode, null).expect("a device");
    symlink("/target", dev.join("other")).expect("a link");
    let mut ran = 0;
    exchanging(&dev.join("null"), &dev.join("other"), || {
        for _ in 0..20 {
            ran += usize::from(masked(oci.run(&config)));
        }
    });
    assert!(ran > 0, "no container ran at all");
}

/// CVE-2025-52565: the terminal is bound to `/dev/console`, and taken from `/dev/pts`.
#[test]
fn a_console_is_put_on_no_link_and_taken_from_no_other_multiplexer() {
    let oci = Oci::new();
    fs::write(oci.rootfs().join("target"), "target\n").expect("a file");
    let mut config = with_own_dev(&oci, "stat -c %F /target; exit 4");
    config["process"]["terminal"] = json!(true);
    let devpts = json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                         "options": ["newinstance", "ptmxmode=0666"] });
    config["mounts"].as_array_mut().expect("a list").push(devpts);
    let dev = oci.dir().join("dev");
    let run = |config: &Value| {
        oci.configure(config);
        let bundle = oci.bundle();
        Pty::start(oci.command(&["run", "--bundle", bundle.to_str().expect("a name"), "c"])).ends()
    };
    for target in ["../target", "/target", "/proc/sys/kernel/core_pattern"] {
        fs::remove_file(dev.join("console")).ok();
        symlink(target, dev.join("console")).expect("a link");
        let (said, status) = run(&config);
        assert!(status != 0 && !said.contains("character"), "{target}: {said}");
        assert!(status != 4 || said.contains("regular file"), "the terminal is on {target}: {said}");
    }
    // Where it is nobody's, it works.
    fs::remove_file(dev.join("console")).expect("the link is removed");
    assert_eq!(run(&config).1, 4);
    // The multiplexer of the host's own terminals, which the container may make a file for.
    config["mounts"].as_array_mut().expect("a list").pop();
    for make in [true, false] {
        let ptmx = dev.join("pts/ptmx");
        fs::remove_file(&ptmx).ok();
        if make {
            let kind = rustix::fs::FileType::CharacterDevice;
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(CWD, &ptmx, kind, mode, rustix::fs::makedev(5, 2)).expect("a device");
        } else {
            symlink("/target", &ptmx).expect("a link");
        }
        let (said, status) = run(&config);
        assert!(status != 4 && said.contains("multiplexer"), "{said}");
    }
}

/// CVE-2025-52881: what the runtime writes into `/proc` must reach the kernel, whatever is mounted there.
#[test]
fn what_is_written_to_proc_is_not_redirected() {
    let oci = Oci::new();
    // All of /proc is the attacker's, by a link that leads to it.
    let fake = oci.rootfs().join("fake");
    for folder in ["sys/net/ipv4", "self/attr", "self/task/self"] {
        fs::create_dir_all(fake.join(folder)).expect("a folder");
    }
    for file in ["sys/net/ipv4/ip_forward", "self/oom_score_adj", "self/attr/exec", "self/attr/current"] {
        fs::write(fake.join(file), "0\n").expect("a file");
    }
    let untouched = || {
        for file in ["sys/net/ipv4/ip_forward", "self/oom_score_adj"] {
            let text = fs::read_to_string(fake.join(file)).expect("a file");
            assert_eq!(text, "0\n", "what was for the kernel is in {file}");
        }
    };
    let script = "mkdir /real && mount -t proc proc /real && cat /real/sys/net/ipv4/ip_forward /real/self/oom_score_adj && umount /proc; mount --bind /fake /proc && touch /up && exec sleep 600";
    let mut config = oci.shell(script);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    }
    config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    config["process"]["oomScoreAdj"] = json!(500);
    let call = oci.next_call();
    oci.run_detached(&config);
    hull_tests::wait_until("the attacker has mounted", hull_tests::PATIENCE, || {
        oci.rootfs().join("up").exists()
    });
    assert_eq!(oci.said(call), "1\n500\n");
    let process = json!({ "user": { "uid": 0, "gid": 0 }, "args": ["cat", "/real/self/oom_score_adj"],
                          "env": ["PATH=/bin"], "cwd": "/", "oomScoreAdj": 700 });
    let file = oci.dir().join("process.json");
    fs::write(&file, process.to_string()).expect("the file");
    assert_eq!(oci.ok(&["exec", "--process", file.to_str().expect("a name"), "c"]), "700");
    untouched();
}

/// Nothing takes the place of what the kernel says, as a volume of an image could (CVE-2019-16884).
#[test]
fn nothing_is_mounted_over_proc() {
    let oci = Oci::new();
    let fake = oci.dir().join("fake");
    fs::create_dir_all(fake.join("self")).expect("a folder");
    fs::write(fake.join("file"), "fake\n").expect("a file");
    symlink("/proc", oci.rootfs().join("link")).expect("a link");
    let with = |mount: Value| {
        let mut config = oci.shell("cat /proc/meminfo | head -n 1; cat /proc/version");
        config["mounts"].as_array_mut().expect("a list").push(mount);
        config
    };
    let bind = |source: &str, destination: &str| json!({ "destination": destination, "type": "bind", "source": fake.join(source), "options": ["bind"] });
    for (mount, words) in [
        (bind("", "/proc"), "not of type proc"),
        (bind("file", "/proc/version"), "inside /proc"),
        (bind("self", "/proc/self"), "inside /proc"),
        (bind("file", "/link/version"), "inside /proc"),
        (bind("file", "/dev/../proc/version"), "inside /proc"),
        (json!({ "destination": "/proc", "type": "tmpfs", "source": "tmpfs" }), "not of type proc"),
        (json!({ "destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs" }), "inside /proc"),
    ] {
        oci.refuses(&with(mount), words);
    }
    // Figures may be replaced.
    assert!(oci.prints(&with(bind("file", "/proc/meminfo"))).starts_with("fake\nLinux version"));
}

/// CVE-2019-19921: where the kernel's file systems are an image's link, another container could lead the masks elsewhere.
#[test]
fn proc_and_sys_are_folders_and_no_links() {
    for place in ["proc", "sys"] {
        let oci = Oci::new();
        fs::create_dir_all(oci.rootfs().join("volume/there")).expect("a folder");
        fs::remove_dir(oci.rootfs().join(place)).expect("it is empty");
        symlink("/volume/there", oci.rootfs().join(place)).expect("a link");
        oci.refuses(&oci.config(&["true"]), "symbolic link");
        // Exchanged all the time, it is never behind the link.
        fs::create_dir(oci.rootfs().join("folder")).expect("a folder");
        let config = oci.shell("grep -c ' /volume' /proc/mounts");
        exchanging(&oci.rootfs().join(place), &oci.rootfs().join("folder"), || {
            for _ in 0..20 {
                let output = oci.run(&config);
                assert!(!output.stdout.starts_with(|first: char| ('1'..='9').contains(&first)), "{output:?}");
            }
        });
    }
}

/// CVE-2019-19921 and its kin: the destination of a mount is exchanged with a link that leads out.
#[test]
fn a_mount_s_destination_stays_in_the_container() {
    let oci = Oci::new();
    let outside = oci.dir().join("outside");
    fs::create_dir(&outside).expect("a folder");
    let (volume, source) = (oci.dir().join("volume"), oci.dir().join("source"));
    fs::create_dir_all(volume.join("folder")).expect("a folder");
    fs::create_dir(&source).expect("a folder");
    symlink(&outside, volume.join("link")).expect("a link");
    let mut config = oci.config(&["true"]);
    let bind = |source: &Path, destination: &str| json!({ "destination": destination, "type": "bind", "source": source, "options": ["bind"] });
    let mounts = config["mounts"].as_array_mut().expect("a list");
    mounts.push(bind(&volume, "/volume"));
    // What is not there is made: on the host, if the link leads there.
    mounts.push(bind(&source, "/volume/folder/made/deep"));
    exchanging(&volume.join("folder"), &volume.join("link"), || {
        for _ in 0..20 {
            oci.run(&config);
            let made: Vec<_> = fs::read_dir(&outside).expect("it is there").flatten().collect();
            assert!(made.is_empty(), "made on the host: {made:?}");
        }
    });
}

/// The engine's volumes: a link in one leads another mount nowhere else than into the container.
#[test]
fn a_volume_s_links_lead_no_mount_out() {
    let daemon = Daemon::start();
    let outside = daemon.dir().join("outside");
    fs::create_dir(&outside).expect("a folder");
    let link = format!("ln -s {} /v/link", outside.display());
    daemon.ok(&["run", "--rm", "-v", "shared:/v", "busybox", "sh", "-c", &link]);
    daemon.hull(&["run", "--rm", "-v", "shared:/v", "-v", "other:/v/link/made", "busybox", "true"]);
    assert_eq!(fs::read_dir(&outside).expect("it is there").count(), 0);
    if Engine::under_test() == Engine::Hull {
        // Its files are not laid open either where the volume itself was exchanged by a link.
        let volume = daemon.ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", "shared"]);
        assert_eq!(fs::metadata(volume).expect("the volume").uid(), 0);
    }
}
