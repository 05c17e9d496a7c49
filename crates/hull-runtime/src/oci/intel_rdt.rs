//! Intel's resource director: a share of the processors' cache and of the memory's bandwidth, by the file system `resctrl`.
//! Source: the kernel's `filesystems/resctrl.rst` and `config-linux.md` of the runtime specification.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;

use crate::error::Context;
use crate::{Error, Result};

const RESCTRL: &str = "/sys/fs/resctrl";
const DOING: &str = "linux.intelRdt";

/// Whether this machine has it, mounted.
pub(super) fn is_there() -> bool {
    Path::new(RESCTRL).join("schemata").exists()
}

/// Puts a process into the class of its container, which is made if it is not there. Returns the class's folder if it
/// was made for the container, which is then to be removed with it.
pub(super) fn join(rdt: &LinuxIntelRdt, id: &str, pid: i32) -> Result<Option<PathBuf>> {
    if !is_there() {
        let reason = "this machine has no resctrl: its processors lack Intel RDT, or nobody ran mount -t resctrl resctrl /sys/fs/resctrl";
        return Err(Error::refused(DOING, reason));
    }
    let folder = folder_of(rdt.clos_id().as_deref().unwrap_or(id))?;
    let there = folder.is_dir();
    let lines = schemata(rdt);
    if !there {
        std::fs::create_dir(&folder).context(|| format!("make the class {}", folder.display()))?;
    }
    let made = if there { None } else { Some(folder.clone()) };
    let joined = write_all(&folder, &lines, pid);
    if joined.is_err()
        && let Some(made) = &made
    {
        // The first error is the one to tell.
        let _ = std::fs::remove_dir(made);
    }
    joined.map(|()| made)
}

/// The folder of a class.
pub(super) fn folder_of(class: &str) -> Result<PathBuf> {
    if class.is_empty() || class == "." || class == ".." || class.contains('/') {
        return Err(Error::refused(DOING, format!("closID {class:?} is no name of a class")));
    }
    Ok(Path::new(RESCTRL).join(class))
}

/// Writes other lines to a class.
pub(super) fn change(folder: &Path, lines: &[String]) -> Result<()> {
    for line in lines {
        let file = folder.join("schemata");
        std::fs::write(&file, format!("{line}\n"))
            .context(|| format!("write {line:?} to {}", file.display()))?;
    }
    Ok(())
}

fn write_all(folder: &Path, lines: &[String], pid: i32) -> Result<()> {
    change(folder, lines)?;
    let file = folder.join("tasks");
    std::fs::write(&file, pid.to_string()).context(|| format!("join the class by {}", file.display()))
}

/// The lines for `schemata`: those of the two older fields, then the general ones.
fn schemata(rdt: &LinuxIntelRdt) -> Vec<String> {
    let older = [rdt.l3_cache_schema(), rdt.mem_bw_schema()];
    let older = older.into_iter().flatten().flat_map(|text| text.lines().map(str::to_owned));
    let lines = older.chain(rdt.schemata().iter().flatten().cloned());
    lines.filter(|line| !line.trim().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_fields_become_lines() {
        let rdt: LinuxIntelRdt = serde_json::from_value(serde_json::json!({
            "closID": "guaranteed", "l3CacheSchema": "L3:0=7f0;1=1f", "memBwSchema": "MB:0=20;1=70", "schemata": ["L2:0=f"],
        }))
        .unwrap();
        assert_eq!(schemata(&rdt), ["L3:0=7f0;1=1f", "MB:0=20;1=70", "L2:0=f"]);
    }

    #[test]
    fn a_machine_without_it_says_so() {
        if is_there() {
            return;
        }
        let error = join(&LinuxIntelRdt::default(), "c", 1).unwrap_err().to_string();
        assert!(error.contains("no resctrl"), "{error}");
    }
}
