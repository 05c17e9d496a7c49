//! What this machine's kernel offers, found out by trying: what hull does without it, and how to turn it on.
//!
//! Nothing is read out of the kernel's version: a feature can be compiled out, forbidden by a setting or by whoever
//! runs the machine, or be back-ported. Each try happens in a child of its own (`probe`), and leaves nothing.

mod limits;
mod netlink;
mod probe;

use std::io;

use serde::Serialize;

use crate::cgroup::{Cgroup, HierarchyMode, hierarchy};
use crate::partial::Kind;
use crate::{apparmor, container, selinux};

/// How far a feature is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All of it.
    Yes,
    /// With something to know.
    Partly,
    /// Not at all.
    No,
}

/// One feature of the kernel, and what it means here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it belongs to.
    pub area: &'static str,
    /// Its name.
    pub name: String,
    /// How far it is there.
    pub state: State,
    /// What was found, in a few words.
    pub found: String,
    /// What hull does without it; empty where nothing is missing.
    pub without: String,
    /// How to turn it on; empty where nothing is missing.
    pub remedy: String,
}

impl Finding {
    fn yes(area: &'static str, name: impl Into<String>, found: impl Into<String>) -> Finding {
        let (name, found) = (name.into(), found.into());
        Finding { area, name, state: State::Yes, found, without: String::new(), remedy: String::new() }
    }

    /// With what hull does without it, and the remedy.
    fn lacking(mut self, state: State, without: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.state = state;
        self.without = without.into();
        self.remedy = remedy.into();
        self
    }

    /// There if the try went well; else the reason is what was found.
    fn tried(
        area: &'static str,
        name: impl Into<String>,
        tried: io::Result<()>,
        without: &str,
        remedy: &str,
    ) -> Finding {
        match tried {
            Ok(()) => Finding::yes(area, name, "works"),
            Err(error) => Finding::yes(area, name, probe::reason(&error)).lacking(State::No, without, remedy),
        }
    }
}

/// Tries everything. The caller has one thread.
pub fn examine() -> Vec<Finding> {
    let mut found = Vec::new();
    privilege(&mut found);
    namespaces(&mut found);
    cgroups(&mut found);
    files(&mut found);
    security(&mut found);
    network(&mut found);
    limits::examine(&mut found);
    found
}

fn privilege(found: &mut Vec<Finding>) {
    const AREA: &str = "privilege";
    let root = rustix::process::geteuid().is_root();
    let who = Finding::yes(AREA, "root", if root { "yes" } else { "this is not root" });
    found.push(if root {
        who
    } else {
        let without = "the daemon does not start; what follows is what this user may do";
        who.lacking(State::No, without, "sudo hull doctor")
    });
    if !root {
        return;
    }
    let lacking = container::capabilities_lacking();
    let all = Finding::yes(AREA, "capabilities", "all that the kernel has");
    found.push(if lacking.is_empty() {
        all
    } else {
        let withheld = format!("withheld: {}", lacking.join(", "));
        Finding::yes(AREA, "capabilities", withheld).lacking(
            State::Partly,
            "they are cut from what a container is given, --privileged too, with a warning",
            "they were taken away where this system was started: its container's or virtual machine's settings",
        )
    });
}

fn namespaces(found: &mut Vec<Finding>) {
    const AREA: &str = "namespaces";
    for kind in Kind::ALL {
        let (without, config) = match kind {
            Kind::Mount => ("no container starts", "CONFIG_NAMESPACES"),
            Kind::Uts => ("a container needs --uts host", "CONFIG_UTS_NS"),
            Kind::Ipc => ("a container needs --ipc host", "CONFIG_IPC_NS"),
            Kind::Net => ("a container needs --network host", "CONFIG_NET_NS"),
            Kind::Pid => ("a container needs --pid host", "CONFIG_PID_NS"),
            Kind::User => (
                "hull ns run --user and hull daemon --userns-remap are refused",
                "CONFIG_USER_NS, and user.max_user_namespaces above 0",
            ),
            Kind::Cgroup => ("a container needs --cgroupns host", "CONFIG_CGROUPS"),
            Kind::Time => ("hull ns run --time is refused", "CONFIG_TIME_NS"),
        };
        let tried = probe::namespace(kind);
        found.push(Finding::tried(AREA, kind.name(), tried, without, &format!("a kernel with {config}")));
    }
    found.push(Finding::tried(
        AREA,
        "user, for users other than root",
        probe::user_namespace_of_nobody(),
        "without root, hull ns run --map-root-user is refused",
        "sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1 \
         kernel.apparmor_restrict_unprivileged_userns=0 (those that there are)",
    ));
}

/// A controller's names on v1 and v2, and what hull does without it.
const CONTROLLERS: [(&str, &str, &str); 7] = [
    ("memory", "memory", "--memory is not enforced"),
    ("cpu", "cpu", "--cpus and --cpu-shares are not enforced"),
    ("cpuset", "cpuset", "--cpuset-cpus is not enforced"),
    ("pids", "pids", "--pids-limit is not enforced"),
    ("blkio", "io", "--device-read-bps and the like are not enforced"),
    ("hugetlb", "hugetlb", "huge pages are not limited"),
    ("devices", "devices", "--device rules are not enforced"),
];

fn cgroups(found: &mut Vec<Finding>) {
    const AREA: &str = "cgroups";
    let hierarchy = hierarchy();
    let mode = match hierarchy.mode {
        HierarchyMode::V2 => "v2",
        HierarchyMode::Hybrid => "v1, with a v2 hierarchy beside it",
        HierarchyMode::V1 => "v1",
    };
    let none = hierarchy.v1.is_empty() && hierarchy.unified.is_none();
    let version = Finding::yes(AREA, "version", if none { "none is mounted" } else { mode });
    let remedy_mount = "mount -t cgroup2 cgroup2 /sys/fs/cgroup";
    let remedy_v2 = "the kernel's parameter systemd.unified_cgroup_hierarchy=1";
    found.push(match hierarchy.mode {
        _ if none => version.lacking(State::No, "no container starts", remedy_mount),
        HierarchyMode::V2 => version,
        _ => version.lacking(
            State::Partly,
            "all works; memory.oom.group and the like of v2 are done by hull itself",
            remedy_v2,
        ),
    });
    for (v1, v2, without) in CONTROLLERS {
        let by_program = v2 == "devices" && hierarchy.unified.is_some() && hierarchy.v1_of(v1).is_none();
        let place = match (hierarchy.v1_of(v1), hierarchy.is_unified(v2) || by_program) {
            (Some(_), _) => Some("v1"),
            (None, true) => Some("v2"),
            (None, false) => None,
        };
        let remedy = if v1 == "memory" {
            "the kernel's parameters cgroup_enable=memory swapaccount=1".to_owned()
        } else {
            format!("a kernel with the controller {v2}, in its hierarchy's cgroup.subtree_control")
        };
        found.push(match place {
            Some(version) => Finding::yes(AREA, v2, version),
            None => Finding::yes(AREA, v2, "not there").lacking(State::No, without, remedy),
        });
    }
    let path = format!("/hull-doctor-{}", std::process::id());
    let made = Cgroup::create(&path, None).and_then(|(cgroup, _)| cgroup.remove());
    found.push(match made {
        Ok(()) => Finding::yes(AREA, "making one", "works"),
        Err(error) => Finding::yes(AREA, "making one", error.to_string()).lacking(
            State::No,
            "no container starts",
            "run as root, where /sys/fs/cgroup is mounted writable",
        ),
    });
}

fn files(found: &mut Vec<Finding>) {
    const AREA: &str = "files";
    found.push(Finding::tried(
        AREA,
        "overlay",
        probe::overlay(),
        "no container starts: images' layers cannot be stacked",
        "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS",
    ));
    let many = Finding::yes(AREA, "overlay with many layers", "one layer a parameter");
    found.push(if container::overlay_reads_parameters() {
        many
    } else {
        let mut few = many;
        "all layers in one page".clone_into(&mut few.found);
        few.lacking(State::Partly, "an image has some 300 layers at most", "Linux 6.7 or newer")
    });
    for (name, place) in [("idmapped mounts of /", "/"), ("idmapped mounts of tmpfs", "tmpfs")] {
        found.push(Finding::tried(
            AREA,
            name,
            probe::idmapped(place),
            "a file belongs inside to whom it belongs outside: owners are not translated there, and hull daemon \
             --userns-remap needs it of its data root",
            "a file system that takes them: ext4, xfs, btrfs, overlay (Linux 5.19), tmpfs (Linux 6.3)",
        ));
    }
    found.push(Finding::tried(
        AREA,
        "paths resolved in a root (openat2)",
        probe::openat2(),
        "no container starts: what a container names cannot be looked up safely",
        "Linux 5.6 or newer, and no seccomp filter around hull that withholds openat2",
    ));
}

fn security(found: &mut Vec<Finding>) {
    const AREA: &str = "security";
    found.push(Finding::tried(
        AREA,
        "seccomp filters",
        probe::seccomp(),
        "a container needs --security-opt seccomp=unconfined",
        "a kernel with CONFIG_SECCOMP_FILTER",
    ));
    found.push(Finding::tried(
        AREA,
        "seccomp notification",
        probe::seccomp_notification(),
        "a profile with SCMP_ACT_NOTIFY is refused",
        "Linux 5.0 or newer",
    ));
    found.push(default_profile(apparmor::is_enabled(), apparmor::default_profile()));
    let enforced = selinux::is_enabled().then(selinux::is_enforced);
    found.push(labels(enforced, selinux::contexts_of_containers().is_ok(), apparmor::is_enabled()));
}

/// SELinux's labels. A machine has one of both modules as a rule: without this one nothing is missing where it has AppArmor.
fn labels(enforced: Option<bool>, has_contexts: bool, has_apparmor: bool) -> Finding {
    let found = |found: &str| Finding::yes("security", "SELinux", found);
    match (enforced, has_contexts, has_apparmor) {
        (Some(true), true, _) => found("enforced; hull daemon --selinux-enabled gives containers labels"),
        (Some(false), true, _) => found("enabled, and refuses nothing").lacking(
            State::Partly,
            "what a label forbids is told in the kernel's log, and done",
            "setenforce 1",
        ),
        (Some(_), false, _) => found("enabled, and its policy knows of no containers").lacking(
            State::Partly,
            "hull daemon --selinux-enabled is refused: containers run with the daemon's own label",
            "install container-selinux",
        ),
        (None, _, true) => found("not enabled: this machine has AppArmor"),
        (None, _, false) => found("not enabled").lacking(
            State::Partly,
            "containers have no labels, and :z and :Z mean nothing",
            "a kernel with CONFIG_SECURITY_SELINUX and a policy for it, as Fedora and its like have; or AppArmor",
        ),
    }
}

/// The AppArmor profile of containers that ask for none.
fn default_profile(is_enabled: bool, loaded: Option<&str>) -> Finding {
    let found = |found: &str| Finding::yes("security", "AppArmor", found);
    let load = "hull doctor --apparmor-profile >/etc/apparmor.d/hull-default && apparmor_parser -r /etc/apparmor.d/hull-default";
    match (is_enabled, loaded) {
        (_, Some(profile)) => found(&format!("containers run under {profile}")),
        (true, None) => found("enabled, and no default profile is loaded").lacking(
            State::Partly,
            "containers run under none, but what --security-opt apparmor= asks for",
            load,
        ),
        (false, None) => found("not enabled").lacking(
            State::Partly,
            "namespaces, capabilities, masks and the filter of system calls alone confine containers",
            "a kernel with CONFIG_SECURITY_APPARMOR, booted with lsm=...,apparmor; then load the profile of hull doctor --apparmor-profile",
        ),
    }
}

fn network(found: &mut Vec<Finding>) {
    const AREA: &str = "network";
    found.push(Finding::tried(
        AREA,
        "nftables",
        probe::in_a_network(netlink::nftables),
        "the daemon does not start: no port is published and nothing is masqueraded",
        "modprobe nf_tables, or a kernel with CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_FIB_INET",
    ));
    for (kind, without) in [
        ("bridge", "there are the networks host and none alone"),
        ("veth", "there are the networks host and none alone"),
    ] {
        let remedy = format!("modprobe {kind}, or a kernel with CONFIG_{}", kind.to_uppercase());
        found.push(Finding::tried(
            AREA,
            kind,
            probe::in_a_network(|| netlink::make_link(kind)),
            without,
            &remedy,
        ));
    }
    let ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    let six = Finding::yes(AREA, "IPv6", if ipv6 { "works" } else { "not there" });
    found.push(if ipv6 {
        six
    } else {
        six.lacking(State::No, "a network with --ipv6 is refused", "boot without ipv6.disable=1")
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tests_themselves_need_is_found() {
        let found = examine();
        let state =
            |name: &str| found.iter().find(|finding| finding.name == name).map(|finding| finding.state);
        for name in
            ["root", "mnt", "net", "pid", "overlay", "seccomp filters", "nftables", "veth", "making one"]
        {
            assert_eq!(state(name), Some(State::Yes), "{name}");
        }
    }

    #[test]
    fn what_is_lacking_has_a_remedy() {
        for finding in examine() {
            let lacks = finding.state != State::Yes;
            assert_eq!(lacks, !finding.without.is_empty(), "{finding:?}");
            assert_eq!(lacks, !finding.remedy.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn one_of_the_two_modules_is_enough() {
        let state = |enforced, contexts, apparmor| labels(enforced, contexts, apparmor).state;
        assert_eq!(state(None, false, true), State::Yes);
        assert_eq!(state(Some(true), true, false), State::Yes);
        for (enforced, contexts) in [(None, false), (Some(true), false), (Some(false), true)] {
            assert_eq!(state(enforced, contexts, false), State::Partly, "{enforced:?} {contexts}");
        }
    }

    #[test]
    fn a_failed_try_is_told_with_its_reason() {
        let denied = Err(io::Error::from_raw_os_error(libc::EPERM));
        let finding = Finding::tried("x", "y", denied, "nothing works", "try again");
        assert_eq!((finding.state, finding.found.as_str()), (State::No, "operation not permitted"));
    }
}
