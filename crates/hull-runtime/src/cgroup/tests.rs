//! Cgroups of this machine's kernel. Needs root.

use std::fs;
use std::process::{Child, Command};

use super::*;

/// A cgroup of the test's own, removed with it.
struct Own(Cgroup);

impl Own {
    fn new(name: &str, resources: &str) -> (Own, Vec<String>) {
        let path = format!("/hull-cgroup-test-{}-{name}", std::process::id());
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let (cgroup, warnings) = Cgroup::create(&path, Some(&resources)).unwrap();
        (Own(cgroup), warnings)
    }

    /// A limit's file, wherever this machine has it: by its v1 or its v2 name.
    fn file(&self, v1: (&str, &str), v2: (&str, &str)) -> String {
        let path = match self.0.v1(v1.0) {
            Some(folder) => folder.join(v1.1),
            None => self.0.v2(v2.0).unwrap().join(v2.1),
        };
        fs::read_to_string(path).unwrap().trim().to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill_all();
        let _ = self.0.remove();
    }
}

/// A process that is killed and reaped with the test.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Sleeper {
        Sleeper(Command::new("/usr/bin/busybox").args(["sleep", "1000"]).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn limits_are_set_and_changed() {
    let (own, warnings) = Own::new(
        "limits",
        r#"{"memory": {"limit": 33554432, "swap": 33554432}, "cpu": {"quota": 50000, "period": 100000},
            "pids": {"limit": 20}}"#,
    );
    assert_eq!(warnings, [] as [&str; 0]);
    assert_eq!(own.file(("memory", "memory.limit_in_bytes"), ("memory", "memory.max")), "33554432");
    assert_eq!(own.file(("pids", "pids.max"), ("pids", "pids.max")), "20");
    let figures = own.0.figures().unwrap();
    assert_eq!((figures.memory_limit, figures.pids_limit), (33_554_432, 20));
    for size in [67_108_864, 16_777_216] {
        // Up, where the outer limit must go first, and down, where the inner one must.
        let changed = format!(r#"{{"memory": {{"limit": {size}, "swap": {size}}}}}"#);
        own.0.update(&serde_json::from_str(&changed).unwrap()).unwrap();
        assert_eq!(own.0.figures().unwrap().memory_limit, size);
    }
    assert_eq!(own.file(("pids", "pids.max"), ("pids", "pids.max")), "20");
}

#[test]
fn a_value_that_the_kernel_refuses_is_an_error_and_leaves_nothing() {
    let path = format!("/hull-cgroup-test-{}-refused", std::process::id());
    let resources = serde_json::from_str(r#"{"cpu": {"cpus": "4000-4001"}}"#).unwrap();
    let error = Cgroup::create(&path, Some(&resources)).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus to 4000-4001"), "{error}");
    assert!(Cgroup::open(&path).is_err());
}

#[test]
fn paths_that_leave_the_hierarchy_are_refused() {
    for path in ["", "x", "/", "/../x", "/x/../../y", "/x//y"] {
        assert!(Cgroup::create(path, None).is_err(), "{path:?}");
    }
}

#[test]
fn processes_freeze_thaw_and_die() {
    let (own, _) = Own::new("freeze", "{}");
    let mut sleeper = Sleeper::new();
    own.0.add(sleeper.pid()).unwrap();
    assert_eq!(own.0.processes().unwrap(), [sleeper.pid()]);
    own.0.freeze().unwrap();
    assert!(own.0.is_frozen().unwrap());
    own.0.thaw().unwrap();
    assert!(!own.0.is_frozen().unwrap());
    own.0.freeze().unwrap();
    own.0.kill_all().unwrap();
    assert!(!sleeper.0.wait().unwrap().success());
    assert_eq!(own.0.processes().unwrap(), [] as [i32; 0]);
}

#[test]
fn removing_waits_for_the_dying_and_takes_what_is_below() {
    let (own, _) = Own::new("remove", "{}");
    let folders: Vec<_> = own.0.everywhere().collect();
    for folder in &folders {
        fs::create_dir(folder.join("below")).unwrap();
    }
    let sleeper = Sleeper::new();
    own.0.add(sleeper.pid()).unwrap();
    own.0.kill_all().unwrap();
    own.0.remove().unwrap();
    assert!(!folders.iter().any(|folder| folder.exists()));
    own.0.remove().unwrap();
}

#[test]
fn device_rules_hold() {
    let (own, _) = Own::new("devices", r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    // A shell that joins, and then may read /dev/zero and not /dev/kmsg (1:11).
    let join: Vec<String> =
        own.0.everywhere().map(|folder| format!("echo 0 >{}/cgroup.procs", folder.display())).collect();
    let script = format!(
        "{}; head -c 1 /dev/zero >/dev/null || exit 1; head -c 1 /dev/kmsg >/dev/null 2>&1 && exit 2; exit 0",
        join.join("; ")
    );
    let status = Command::new("/usr/bin/busybox").args(["sh", "-c", &script]).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn processor_time_is_counted() {
    let (own, _) = Own::new("time", "{}");
    let mut burner =
        Sleeper(Command::new("/usr/bin/busybox").args(["sh", "-c", "while :; do :; done"]).spawn().unwrap());
    own.0.add(burner.pid()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while own.0.cpu_time_ns().unwrap() < 10_000_000 {
        assert!(Instant::now() < deadline, "no processor time is counted");
        rustix::thread::sched_yield();
    }
    let figures = own.0.figures().unwrap();
    assert!(figures.cpu_total_ns >= 10_000_000 && figures.pids_current == 1, "{figures:?}");
    assert!(figures.memory_stat.iter().any(|(key, _)| key.contains("cache") || key.contains("file")));
    burner.0.kill().unwrap();
}

#[test]
fn kills_for_memory_are_told_and_counted() {
    let (own, _) = Own::new("oom", r#"{"memory": {"limit": 8388608, "swap": 8388608}}"#);
    let watch = own.0.oom_watch().unwrap().unwrap();
    let join: Vec<String> =
        own.0.everywhere().map(|folder| format!("echo 0 >{}/cgroup.procs", folder.display())).collect();
    let script = format!("{}; exec busybox tail -n 1 /dev/zero", join.join("; "));
    let status = Command::new("/usr/bin/busybox").args(["sh", "-c", &script]).status().unwrap();
    assert!(!status.success());
    wait_for(watch.fd.as_fd(), watch.events, Instant::now() + PATIENCE).unwrap();
    assert_eq!(own.0.oom_kills().unwrap(), 1);
}

#[test]
fn many_at_once_below_a_folder_that_none_has_made_yet() {
    let above = format!("/hull-cgroup-test-{}-many", std::process::id());
    for _ in 0..10 {
        std::thread::scope(|scope| {
            for number in 0..4 {
                let path = format!("{above}/{number}");
                scope.spawn(move || {
                    let (cgroup, _) = Cgroup::create(&path, None).unwrap();
                    let own = Own(cgroup);
                    let sleeper = Sleeper::new();
                    own.0.add(sleeper.pid()).unwrap();
                    drop(sleeper);
                });
            }
        });
        Cgroup::open(&above).unwrap().remove().unwrap();
    }
}

/// A limit of a controller that is in the v2 hierarchy of this machine, its file, and what is read there.
fn limit_of_v2() -> Option<(&'static str, String, String, &'static str)> {
    if hierarchy().is_unified("pids") {
        return Some(("pids", r#"{"pids": {"limit": 7}}"#.to_owned(), "pids.max".to_owned(), "7"));
    }
    let (own, _) = Own::new("sizes", "{}");
    let size = fs::read_dir(own.0.v2("hugetlb")?).unwrap().find_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        Some(name.strip_prefix("hugetlb.")?.strip_suffix(".rsvd.max")?.to_owned())
    })?;
    let limit = format!(r#"{{"hugepageLimits": [{{"pageSize": "{size}", "limit": 0}}]}}"#);
    Some(("hugetlb", limit, format!("hugetlb.{size}.max"), "0"))
}

#[test]
fn a_limit_holds_below_cgroups_that_were_not_handed_its_controller() {
    let Some((controller, limit, file, value)) = limit_of_v2() else {
        eprintln!("not tested: no v2 hierarchy with pids or hugetlb");
        return;
    };
    let limit: LinuxResources = serde_json::from_str(&limit).unwrap();
    // As slices of systemd's are: made by somebody else, who hands down other controllers.
    let slice = Own(Cgroup::leaf(&format!("/hull-cgroup-test-{}-slice", std::process::id())).unwrap());
    let deep = Cgroup::leaf(&format!("{}/deep", slice.0.path())).unwrap();
    let cgroup = Cgroup::begin(&format!("{}/c", deep.path())).unwrap();
    let folder = cgroup.v2(controller).unwrap();
    let own = |folder: &Path| fs::read_to_string(folder.join("cgroup.controllers")).unwrap();
    assert!(!own(&folder).contains(controller));
    // One of them holds a process, and can hand down nothing.
    let sleeper = Sleeper::new();
    fs::write(slice.0.unified().unwrap().join("cgroup.procs"), sleeper.pid().to_string()).unwrap();
    let error = cgroup.complete(Some(&limit), Lacking::Refused).unwrap_err();
    assert!(error.to_string().contains(&file), "{error}");
    assert_eq!(fs::read_to_string(folder.join("cgroup.type")).unwrap(), "domain\n");
    drop(sleeper);
    assert_eq!(cgroup.complete(Some(&limit), Lacking::Refused).unwrap(), [] as [&str; 0]);
    assert!(own(&folder).contains(controller));
    assert_eq!(fs::read_to_string(folder.join(&file)).unwrap().trim(), value);
}
