//! The SELinux policy of a guest, compiled by Debian's `secilc`: what the tests say of it, and what every policy must say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernel;
use crate::Result;
use crate::shell::{root, run_command};

/// The package of the compiler.
const COMPILER: &str = "secilc";

/// What the tests say, from the workspace's root.
const RULES: &str = "crates/hull-tests/selinux/policy.cil";

/// How many categories a policy of containers has.
const CATEGORIES: u32 = 1024;

/// The labels that the kernel begins with, in the order of their numbers. Source: Linux,
/// security/selinux/include/initial_sid_to_string.h.
const INITIAL: [&str; 27] = [
    "kernel",
    "security",
    "unlabeled",
    "fs",
    "file",
    "file_labels",
    "init",
    "any_socket",
    "port",
    "netif",
    "netmsg",
    "node",
    "igmp_packet",
    "icmp_socket",
    "tcp_socket",
    "sysctl_modprobe",
    "sysctl",
    "sysctl_fs",
    "sysctl_kernel",
    "sysctl_net",
    "sysctl_net_unix",
    "sysctl_vm",
    "sysctl_dev",
    "kmod",
    "policy",
    "scmp_packet",
    "devnull",
];

/// Those of processes.
const OF_PROCESSES: [&str; 3] = ["kernel", "init", "kmod"];

/// Compiles the policy to a file.
pub(super) fn compile(folder: &Path, to: &Path) -> Result<()> {
    let compiler = kernel::package(folder, COMPILER)?.join("usr/bin/secilc");
    let common = folder.join("common.cil");
    fs::write(&common, common_text())?;
    let rules: PathBuf = root().join(RULES);
    let mut command = Command::new(compiler);
    // The kernel's own version of the format, and no list of files' labels: nothing in a guest reads one.
    command.args(["--mls", "true", "--policyvers", "33", "--filecontexts", "/dev/null", "--output"]);
    run_command(command.arg(to).arg(rules).arg(common))
}

fn common_text() -> String {
    let categories: Vec<String> = (0..CATEGORIES).map(|number| format!("c{number}")).collect();
    let mut text = String::new();
    for category in &categories {
        text.push_str(&format!("(category {category})\n"));
    }
    text.push_str(&format!("(categoryorder ({}))\n", categories.join(" ")));
    for label in INITIAL {
        let context = if OF_PROCESSES.contains(&label) {
            "(system_u system_r kernel_t ((s0) (s0 (range c0 c1023))))"
        } else {
            "(system_u object_r host_file_t ((s0) (s0)))"
        };
        text.push_str(&format!("(sid {label})\n(sidcontext {label} {context})\n"));
    }
    text.push_str(&format!("(sidorder ({}))\n", INITIAL.join(" ")));
    text
}

#[cfg(test)]
mod tests {
    use super::common_text;

    #[test]
    fn every_category_and_every_label_is_declared_and_in_order() {
        let text = common_text();
        assert_eq!(text.matches("(category c").count(), 1024);
        assert!(text.contains("(categoryorder (c0 c1 c2 ") && text.contains(" c1022 c1023))\n"));
        assert_eq!(text.matches("(sidcontext ").count(), 27);
        assert!(text.ends_with("(sidorder (kernel security unlabeled fs file file_labels init any_socket port netif netmsg node \
                                igmp_packet icmp_socket tcp_socket sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net \
                                sysctl_net_unix sysctl_vm sysctl_dev kmod policy scmp_packet devnull))\n"));
    }
}
