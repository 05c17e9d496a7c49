//! Limits of the machine that many containers meet.

use super::{Finding, State};

/// A setting under `/proc/sys`, the least that many containers need, and who meets it.
const SETTINGS: [(&str, u64, &str); 7] = [
    ("kernel.pid_max", 32_768, "no more processes than that on the whole machine"),
    ("kernel.threads-max", 30_000, "no more threads than that on the whole machine"),
    ("user.max_user_namespaces", 100, "no more user namespaces than that for each user"),
    ("user.max_mnt_namespaces", 1_000, "no more containers than that, one mount namespace each"),
    ("user.max_net_namespaces", 1_000, "no more containers than that with a network of their own"),
    ("fs.inotify.max_user_instances", 128, "programs that watch files fail in the containers of one user"),
    ("fs.file-max", 100_000, "no more open files than that on the whole machine"),
];

/// What the daemon needs for a thousand containers.
const OPEN_FILES: u64 = 4_096;

pub(super) fn examine(found: &mut Vec<Finding>) {
    const AREA: &str = "limits";
    for (name, least, without) in SETTINGS {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        // A kernel without what is limited has no such limit.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let finding = Finding::yes(AREA, name, text.trim());
        let enough = text.trim().parse::<u64>().map_or(true, |value| value >= least);
        found.push(if enough {
            finding
        } else {
            finding.lacking(State::Partly, without, format!("sysctl {name}={least}"))
        });
    }
    if let Ok((soft, hard)) = crate::sys::get_limit(libc::RLIMIT_NOFILE) {
        let shown = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
        let finding = Finding::yes(AREA, "open files", format!("{} (up to {})", shown(soft), shown(hard)));
        found.push(if hard >= OPEN_FILES {
            finding
        } else {
            let without = "the daemon runs out of descriptors with some hundred containers";
            finding.lacking(State::Partly, without, "LimitNOFILE=infinity in the daemon's unit, or ulimit -n")
        });
    }
}
