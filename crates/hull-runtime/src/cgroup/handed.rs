//! Which controllers a cgroup of v2 hands down to those below it (`cgroup.subtree_control`).
//!
//! Every cgroup that hull makes a container's in hands down what containers use. Those above it are somebody else's:
//! slices of systemd's are not handed hugetlb, say. There a controller is handed down, from the root on, when a limit
//! needs it, as runc does with all of them for each container.

use std::io;
use std::path::Path;

use super::files;

const FILE: &str = "cgroup.subtree_control";

/// Lets the cgroups below `parent` have the controllers that containers use.
pub(super) fn down(parent: &Path, controllers: &[String]) -> io::Result<()> {
    // Those that a cgroup with processes refuses to hand down come first. It would hand down the others, and with
    // one of them become the root of a threaded tree, below which no process can be put.
    const USED: [&str; 7] = ["memory", "io", "hugetlb", "cpu", "cpuset", "pids", "rdma"];
    let file = parent.join(FILE);
    let handed = files::text(&file)?;
    for controller in USED.iter().filter(|used| controllers.iter().any(|own| own == *used)) {
        if !lists(&handed, controller) {
            match files::write(&file, &format!("+{controller}")) {
                // It holds processes, and hands nothing down. What is made below it (for an exec with limits of
                // time) counts and kills without controllers; a limit that needs one fails by its own name.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
                // It was not handed this one itself: see [`to`].
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                written => written?,
            }
        }
    }
    Ok(())
}

/// Has a controller of the hierarchy at `root` handed down to the cgroup `folder` in it, by all of those above. Where one
/// of them cannot, it stays without: the limit that needs it fails by its own name.
pub(super) fn to(folder: &Path, root: &Path, controller: &str) {
    if files::text(&folder.join("cgroup.controllers")).is_ok_and(|own| lists(&own, controller)) {
        return;
    }
    let mut above: Vec<&Path> = folder.ancestors().skip(1).take_while(|one| one.starts_with(root)).collect();
    above.reverse();
    for parent in above {
        let file = parent.join(FILE);
        if files::text(&file).is_ok_and(|handed| lists(&handed, controller)) {
            continue;
        }
        if holds_processes(parent) || files::write(&file, &format!("+{controller}")).is_err() {
            return;
        }
    }
}

/// Whether a cgroup other than the root has processes of its own: the kernel has it hand down nothing then, or, worse, makes
/// it the root of a threaded tree, below which a container's cgroup is one no more.
fn holds_processes(folder: &Path) -> bool {
    folder.join("cgroup.type").exists()
        && !files::text(&folder.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
}

fn lists(controllers: &str, controller: &str) -> bool {
    controllers.split_whitespace().any(|one| one == controller)
}
