//! Counts of everything that a container must not leave behind.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cleanup::{cgroups_of, marked};

/// How many of each there are, belonging to one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Mounts in the daemon's mount namespace that have to do with its folder.
    pub mounts: usize,
    /// Network interfaces.
    pub interfaces: usize,
    /// Cgroups beneath the instance's own, over all hierarchies.
    pub cgroups: usize,
    /// Rules, and elements of sets and maps, in nftables.
    pub firewall: usize,
    /// Files and folders in the data root and the exec root.
    pub files: usize,
    /// Processes of the daemon, its launcher and its shims.
    pub processes: usize,
    /// Open descriptors of the daemon, and of each such process.
    pub descriptors: usize,
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mounts {}, interfaces {}, cgroups {},", self.mounts, self.interfaces, self.cgroups)?;
        write!(f, "firewall {}, files {}, ", self.firewall, self.files)?;
        write!(f, "processes {}, descriptors {}", self.processes, self.descriptors)
    }
}

/// Counts what belongs to the daemon in this folder. The caller is in its network namespace.
pub(crate) fn take(dir: &Path, daemon: u32) -> Census {
    let processes = marked(dir);
    let mountinfo = std::fs::read_to_string(format!("/proc/{daemon}/mountinfo")).unwrap_or_default();
    Census {
        mounts: mountinfo.lines().filter(|line| line.contains(dir.to_string_lossy().as_ref())).count(),
        interfaces: printed("ip", &["-o", "link"]).lines().count(),
        cgroups: cgroups_of(&crate::daemon::instance_of(dir)).iter().map(|path| entries(path, true)).sum(),
        firewall: firewall(
            &serde_json::from_str(&printed("nft", &["-j", "list", "ruleset"])).unwrap_or(Value::Null),
        ),
        files: ["data", "exec"].iter().map(|root| entries(&dir.join(root), false)).sum(),
        descriptors: processes.iter().map(|pid| entries(Path::new(&format!("/proc/{pid}/fd")), false)).sum(),
        processes: processes.len(),
    }
}

/// Everything beneath a folder, or only its folders; links are not followed. SQLite's own side files come and go.
fn entries(dir: &Path, only_folders: bool) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_dir {
            count += 1 + entries(&entry.path(), only_folders);
        } else if !only_folders && !name.ends_with("-wal") && !name.ends_with("-shm") {
            count += 1;
        }
    }
    count
}

/// Rules and elements in what `nft -j list ruleset` prints.
fn firewall(ruleset: &Value) -> usize {
    let elements = |object: &Value| object["elem"].as_array().map_or(0, Vec::len);
    ruleset["nftables"].as_array().into_iter().flatten().fold(0, |sum, item| {
        sum + usize::from(item.get("rule").is_some()) + elements(&item["set"]) + elements(&item["map"])
    })
}

fn printed(program: &str, args: &[&str]) -> String {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn rules_and_elements_are_counted_and_tables_are_not() {
        let ruleset = json!({"nftables": [
            {"table": {"name": "hull"}}, {"rule": {"expr": []}},
            {"map": {"elem": [[1, 2], [3, 4]]}}, {"set": {"name": "empty"}}, {"set": {"elem": [5]}},
        ]});
        assert_eq!(super::firewall(&ruleset), 4);
    }
}
