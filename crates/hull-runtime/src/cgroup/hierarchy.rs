//! Which hierarchies this machine has, where they are mounted, and which controller is in which.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// How the hierarchies are mounted on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every controller has a v1 hierarchy, and there is no v2 one.
    V1,
    /// One v2 hierarchy.
    V2,
    /// Controllers on v1, and a v2 hierarchy beside them.
    Hybrid,
}

/// One v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1 {
    /// Where it is mounted.
    pub folder: PathBuf,
    /// Its controllers; `name=systemd` for a named one.
    pub controllers: Vec<String>,
}

/// The hierarchies of this machine, and which controller is in which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// How they are mounted.
    pub mode: Mode,
    /// The v1 hierarchies.
    pub v1: Vec<V1>,
    /// Where the v2 hierarchy is mounted.
    pub unified: Option<PathBuf>,
    /// The controllers of the v2 hierarchy.
    pub unified_controllers: Vec<String>,
}

/// The version of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The v1 controllers that a container gets a folder for: those that limit it, count it, or stop it. Where
/// there is a v2 hierarchy, that one stops, kills and tells of the end better than the freezer and systemd's
/// named hierarchy do, so these get none.
const LIMITING: [&str; 11] = [
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "hugetlb", "memory", "net_cls", "net_prio", "pids",
    "rdma",
];
const WITHOUT_UNIFIED: [&str; 2] = ["freezer", "name=systemd"];

impl Hierarchy {
    /// Reads `/proc/self/mountinfo`; `controllers` is the text of the v2 hierarchy's `cgroup.controllers`.
    fn parse(mountinfo: &str, controllers: impl FnOnce(&PathBuf) -> String) -> Hierarchy {
        let mut v1: Vec<V1> = Vec::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let Some((mount, system)) = line.split_once(" - ") else { continue };
            let mount: Vec<&str> = mount.split(' ').collect();
            let system: Vec<&str> = system.split(' ').collect();
            let (Some(root), Some(folder)) = (mount.get(3), mount.get(4)) else { continue };
            // A part of a hierarchy, bound somewhere, is not the hierarchy.
            if *root != "/" {
                continue;
            }
            match (system.first(), system.get(2)) {
                (Some(&"cgroup2"), _) => {
                    unified.get_or_insert_with(|| PathBuf::from(folder));
                }
                (Some(&"cgroup"), Some(options)) => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|option| {
                            LIMITING.contains(option)
                                || WITHOUT_UNIFIED.contains(option)
                                || matches!(*option, "perf_event" | "misc")
                        })
                        .map(str::to_owned)
                        .collect();
                    if !controllers.is_empty() && !v1.iter().any(|other| other.controllers == controllers) {
                        v1.push(V1 { folder: PathBuf::from(folder), controllers });
                    }
                }
                _ => {}
            }
        }
        Hierarchy::of(v1, unified, controllers)
    }

    /// Finds them where they commonly are, from the text of `/proc/self/cgroup`, which names those that there are; none
    /// where they are elsewhere. The list of all mounts, which tells otherwise, has a line for each that other containers
    /// have. `is_root` says whether a folder is the root of a hierarchy of v1 or v2.
    fn in_common_places(
        cgroups: &str,
        is_root: impl Fn(&Path, Version) -> bool,
        controllers: impl FnOnce(&PathBuf) -> String,
    ) -> Option<Hierarchy> {
        let common = Path::new("/sys/fs/cgroup");
        let mut v1 = Vec::new();
        let mut has_unified = false;
        for line in cgroups.lines() {
            let names = line.split(':').nth(1)?;
            if names.is_empty() {
                has_unified = true;
                continue;
            }
            let folder = common.join(names.strip_prefix("name=").unwrap_or(names));
            if !is_root(&folder, Version::V1) {
                return None;
            }
            let controllers = names.split(',').map(str::to_owned).collect();
            v1.push(V1 { folder, controllers });
        }
        let places = [common.join("unified"), common.to_owned()];
        let unified = places.into_iter().find(|place| has_unified && is_root(place, Version::V2));
        // One that is not found may be mounted somewhere, or nowhere.
        if has_unified && unified.is_none() {
            return None;
        }
        Some(Hierarchy::of(v1, unified, controllers))
    }

    fn of(v1: Vec<V1>, unified: Option<PathBuf>, controllers: impl FnOnce(&PathBuf) -> String) -> Hierarchy {
        let mode = match (&unified, v1.is_empty()) {
            (Some(_), true) => Mode::V2,
            (Some(_), false) => Mode::Hybrid,
            (None, _) => Mode::V1,
        };
        let text = unified.as_ref().map(controllers).unwrap_or_default();
        let unified_controllers = text.split_whitespace().map(str::to_owned).collect();
        Hierarchy { mode, v1, unified, unified_controllers }
    }

    /// The v1 hierarchies in which a container has a folder.
    pub(crate) fn used(&self) -> impl Iterator<Item = &V1> {
        let alone = self.unified.is_none();
        self.v1.iter().filter(move |hierarchy| {
            hierarchy.controllers.iter().any(|controller| {
                LIMITING.contains(&controller.as_str())
                    || alone && WITHOUT_UNIFIED.contains(&controller.as_str())
            })
        })
    }

    /// The v1 hierarchy that a controller is in.
    pub fn v1_of(&self, controller: &str) -> Option<&V1> {
        self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|own| own == controller))
    }

    /// Whether a controller is in the v2 hierarchy.
    pub fn is_unified(&self, controller: &str) -> bool {
        self.unified_controllers.iter().any(|own| own == controller)
    }

    /// Whether a controller is there at all.
    pub fn has(&self, controller: &str) -> bool {
        self.v1_of(controller).is_some() || self.is_unified(controller)
    }
}

/// The hierarchies of this machine; looked up once in a process.
pub fn hierarchy() -> &'static Hierarchy {
    static HIERARCHY: OnceLock<Hierarchy> = OnceLock::new();
    HIERARCHY.get_or_init(|| {
        let controllers = |unified: &PathBuf| {
            std::fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default()
        };
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Hierarchy::in_common_places(&cgroups, is_root, controllers).unwrap_or_else(|| {
            let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            Hierarchy::parse(&mountinfo, controllers)
        })
    })
}

/// Whether a folder is the root of a hierarchy, and not a part of one that is bound there: the first of its inodes.
fn is_root(folder: &Path, version: Version) -> bool {
    const FIRST: u64 = 1;
    let magic = match version {
        Version::V1 => libc::CGROUP_SUPER_MAGIC,
        Version::V2 => libc::CGROUP2_SUPER_MAGIC,
    };
    rustix::fs::statfs(folder).is_ok_and(|found| found.f_type == magic)
        && rustix::fs::stat(folder).is_ok_and(|found| found.st_ino == FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
37 31 0:32 /docker/x /somewhere rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn names<'a>(of: impl Iterator<Item = &'a V1>) -> Vec<&'a str> {
        of.map(|hierarchy| hierarchy.controllers[0].as_str()).collect()
    }

    #[test]
    fn a_hybrid_machine() {
        let hierarchy = Hierarchy::parse(HYBRID, |_| "hugetlb misc\n".into());
        assert_eq!(hierarchy.mode, Mode::Hybrid);
        assert_eq!(names(hierarchy.used()), ["cpu", "memory"]);
        assert!(hierarchy.is_unified("hugetlb") && !hierarchy.is_unified("memory"));
        assert_eq!(hierarchy.v1_of("cpuacct"), hierarchy.v1_of("cpu"));
        assert!(!hierarchy.has("pids"));
    }

    #[test]
    fn v1_alone_needs_freezer_and_systemd_s_hierarchy() {
        let v1: String =
            HYBRID.lines().filter(|line| !line.contains("cgroup2")).map(|l| format!("{l}\n")).collect();
        let hierarchy = Hierarchy::parse(&v1, |_| unreachable!("there is no v2 hierarchy"));
        assert_eq!(hierarchy.mode, Mode::V1);
        assert_eq!(names(hierarchy.used()), ["cpu", "memory", "freezer", "name=systemd"]);
    }

    #[test]
    fn the_common_places_tell_what_the_list_of_mounts_does() {
        let cgroups = "9:name=systemd:/\n3:memory:/x\n1:cpu,cpuacct:/\n4:freezer:/\n0::/\n";
        let everywhere = |_: &Path, _| true;
        let found = Hierarchy::in_common_places(cgroups, everywhere, |_| "hugetlb misc\n".into()).unwrap();
        let listed = Hierarchy::parse(HYBRID, |_| "hugetlb misc\n".into());
        let sorted = |mut hierarchy: Hierarchy| {
            hierarchy.v1.sort_by(|one, other| one.folder.cmp(&other.folder));
            hierarchy
        };
        assert_eq!(sorted(found), sorted(listed));
        let v2 = |path: &Path, _| path == Path::new("/sys/fs/cgroup");
        let found = Hierarchy::in_common_places("0::/\n", v2, |_| String::new()).unwrap();
        assert_eq!((found.mode, found.unified.unwrap()), (Mode::V2, PathBuf::from("/sys/fs/cgroup")));
        // Where one of them is not there, the list of mounts is asked.
        let without_memory = |path: &Path, _| !path.ends_with("memory");
        assert_eq!(Hierarchy::in_common_places(cgroups, without_memory, |_| String::new()), None);
        assert_eq!(Hierarchy::in_common_places("0::/\n", |_, _| false, |_| String::new()), None);
    }

    #[test]
    fn this_machine_by_either_way() {
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let Some(found) = Hierarchy::in_common_places(&cgroups, is_root, |_| String::new()) else { return };
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let listed = Hierarchy::parse(&mountinfo, |_| String::new());
        assert_eq!((found.mode, &found.unified), (listed.mode, &listed.unified));
        assert!(found.v1.iter().all(|v1| listed.v1.contains(v1)) && found.v1.len() == listed.v1.len());
    }

    #[test]
    fn v2_alone() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let hierarchy = Hierarchy::parse(v2, |_| "cpuset cpu io memory pids".into());
        assert_eq!((hierarchy.mode, hierarchy.used().count()), (Mode::V2, 0));
        assert!(hierarchy.has("memory"));
    }
}
