//! The guest's root disk: this machine's own programs with their libraries, the binary under test, and the compiled
//! tests, in one ext4 image. No guest changes it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernel::{self, Kernel};
use super::policy;
use crate::Result;
use crate::shell::{find, heading, output, run_command};

/// The packages whose files the tests run; those that are not installed are left out.
const PACKAGES: &[&str] = &[
    "bash",
    "bsdutils",
    "btrfs-progs",
    "busybox-static",
    "coreutils",
    "crun",
    "curl",
    "diffutils",
    "docker-registry",
    "e2fsprogs",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "iproute2",
    "jq",
    "kmod",
    "libc-bin",
    "libpython3-stdlib",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libpython3.13-minimal",
    "libpython3.13-stdlib",
    "mawk",
    "mount",
    "ncurses-base",
    "nftables",
    "procps",
    "python3-minimal",
    "python3.11-minimal",
    "python3.13-minimal",
    "runc",
    "sed",
    "socat",
    "systemd",
    "tar",
    "util-linux",
    "util-linux-extra",
    "xfsprogs",
    "xz-utils",
    "zstd",
];

/// The parts of the kernel's modules that a container engine may ask for; its drivers for hardware are many.
const MODULES: &[&str] = &[
    "arch",
    "block",
    "crypto",
    "drivers/block",
    "drivers/net/dummy.ko",
    "drivers/net/ipvlan",
    "drivers/net/macvlan.ko",
    "drivers/net/tun.ko",
    "drivers/net/veth.ko",
    "fs/btrfs",
    "fs/fscache",
    "fs/fuse",
    "fs/lockd",
    "fs/netfs",
    "fs/nfs",
    "fs/nfs_common",
    "fs/nfsd",
    "fs/nls",
    "fs/overlayfs",
    "fs/quota",
    "fs/smb",
    "fs/xfs",
    "lib",
    "net/802",
    "net/8021q",
    "net/bridge",
    "net/dns_resolver",
    "net/ipv4",
    "net/ipv6",
    "net/llc",
    "net/netfilter",
    "net/sched",
    "net/sunrpc",
];

/// Packages that need not be installed here: they are unpacked for the guests alone, with those of their libraries that are
/// not installed here.
const UNPACKED: &[&str] = &["apparmor", "samba", "samba-common-bin", "samba-libs"];

/// The tests that run in a guest: the crate, its test binary, and words of which a test's name has one (none: all).
const TESTS: &[(&str, &str, &[&str])] = &[
    ("hull-runtime", "hull_runtime", &["cgroup::", "container::"]),
    ("hull-runtime", "shim", &["execs::", "lives::"]),
    ("hull-tests", "cgroups", &[]),
    ("hull-tests", "cgroups_by_hand", &[]),
    ("hull-tests", "daemon_dies", &["everything_goes_on"]),
    ("hull-tests", "doctor", &["what_containers_need"]),
    ("hull-tests", "ends", &[]),
    ("hull-tests", "exec", &[]),
    ("hull-tests", "explain", &["what_it_is_made_of"]),
    ("hull-tests", "first_container", &[]),
    ("hull-tests", "foreign_runtime", &["lives_with_everything", "memory_is_limited", "as_it_was_asked_for"]),
    ("hull-tests", "host_image", &[]),
    ("hull-tests", "limits", &[]),
    ("hull-tests", "limits_of_disk", &[]),
    ("hull-tests", "namespaces_by_hand", &["one_some_and_all", "network_of_containers"]),
    ("hull-tests", "networks_parents", &[]),
    ("hull-tests", "networks_ports", &[]),
    ("hull-tests", "nothing_left", &["fail_to_start", "whole_life", "the_daemons_end"]),
    ("hull-tests", "userns_elsewhere", &[]),
    (
        "hull-tests",
        "userns_remap",
        &[
            "root_inside_is_nobody",
            "layers_are_shared",
            "a_cgroup_is_divided",
            "what_belongs_together",
            "in_user_namespaces",
        ],
    ),
    ("hull-tests", "volumes_on_servers", &[]),
    // The profile that it loads would be that of others' containers: last.
    ("hull-tests", "apparmor", &[]),
];

/// Those that run where systemd is the first process.
const TESTS_ON_SYSTEMD: &[(&str, &str, &[&str])] = &[("hull-tests", "oci_systemd", &[])];

/// Those that run where SELinux is.
const TESTS_ON_SELINUX: &[(&str, &str, &[&str])] = &[("hull-tests", "selinux", &[])];

/// What the policy's authors tell engines: the labels of containers. It is the file of Debian's and Fedora's policies.
const LABELS: &str = "process = \"system_u:system_r:container_t:s0\"\n\
                      file = \"system_u:object_r:container_file_t:s0\"\n\
                      ro_file = \"system_u:object_r:container_ro_file_t:s0\"\n";

const INIT: &str = include_str!("guest/init.sh");
const UNIT: &str = include_str!("guest/vm.service");
const RESET: &str = include_str!("guest/reset.sh");

/// Makes the image, with the tests of these machines; where there are words, with those alone that have one in their names.
pub(super) fn prepare(
    folder: &Path,
    kernel: &Kernel,
    binary: &Path,
    machines: &[String],
    filters: &[String],
) -> Result<PathBuf> {
    heading("the disk of virtual machines");
    let tree = Tree::new(folder.join("root"))?;
    for package in UNPACKED {
        tree.unpacked(&kernel::package(folder, package)?)?;
        for library in missing_libraries(package)? {
            tree.unpacked(&kernel::package(folder, &library)?)?;
        }
    }
    tree.programs()?;
    tree.modules(&kernel.modules)?;
    tree.program(binary, "usr/bin/hull")?;
    for way in machines {
        let tests = match way.as_str() {
            super::SYSTEMD => TESTS_ON_SYSTEMD,
            super::SELINUX => TESTS_ON_SELINUX,
            _ => TESTS,
        };
        let mut plan = String::new();
        for (krate, name, words) in tests {
            let words = if filters.is_empty() { words.join(" ") } else { filters.join(" ") };
            let file = format!("vm/{krate}-{name}");
            if !tree.0.join(&file).exists() {
                tree.program(&test_binary(krate, name)?, &file)?;
            }
            plan.push_str(&format!("/{file} {words}\n"));
        }
        tree.text(&format!("vm/tests-on-{way}"), &plan, 0o644)?;
    }
    policy::compile(folder, &tree.0.join("vm/policy"))?;
    tree.text("etc/selinux/config", "SELINUX=permissive\nSELINUXTYPE=guest\n", 0o644)?;
    tree.text("etc/selinux/guest/contexts/lxc_contexts", LABELS, 0o644)?;
    tree.text("usr/lib/systemd/system/vm.service", UNIT, 0o644)?;
    tree.text("vm/init", INIT, 0o755)?;
    tree.text("vm/reset", RESET, 0o755)?;
    let image = folder.join("root.img");
    if image.exists() {
        fs::remove_file(&image)?;
    }
    let mut mke2fs = Command::new(find("mke2fs").ok_or("mke2fs is missing: apt-get install e2fsprogs")?);
    mke2fs.args(["-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1", "-d"]);
    run_command(mke2fs.arg(&tree.0).arg(&image).arg("3G"))?;
    fs::remove_dir_all(&tree.0)?;
    Ok(image)
}

/// The packages with libraries that a package depends on and that are not installed here.
fn missing_libraries(package: &str) -> Result<Vec<String>> {
    let depends = output("apt-cache", &["depends", "--important", package])?;
    let installed = |package: &&str| {
        output("dpkg-query", &["--show", "--showformat=${Status}", package])
            .is_ok_and(|status| status.ends_with(" installed"))
    };
    let libraries = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: lib"));
    let libraries: Vec<String> = libraries.map(|rest| format!("lib{rest}")).collect();
    Ok(libraries.into_iter().filter(|library| !installed(&library.as_str())).collect())
}

/// Where cargo puts a test binary of the workspace, built now.
fn test_binary(package: &str, name: &str) -> Result<PathBuf> {
    let kind = if package.replace('-', "_") == name { vec!["--lib"] } else { vec!["--test", name] };
    let args =
        [&["test", "--no-run", "--quiet", "--message-format=json", "--package", package], &*kind].concat();
    let messages = output("cargo", &args)?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("cargo names no test binary {name} of {package}").into())
}

/// The files of the root disk, before they are put into the image.
struct Tree(PathBuf);

impl Tree {
    fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        let folders = [
            "dev",
            "etc/selinux/guest/contexts",
            "disk",
            "etc",
            "proc",
            "root",
            "run",
            "sys",
            "tmp",
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
            "var/lib",
            "var/tmp",
            "vm",
        ];
        for folder in folders {
            fs::create_dir_all(path.join(folder))?;
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), path.join(link))?;
        }
        fs::set_permissions(path.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        let tree = Self(path);
        let users = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
        tree.text("etc/passwd", users, 0o644)?;
        tree.text("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)?;
        for file in ["etc/subuid", "etc/subgid"] {
            tree.text(file, "", 0o644)?;
        }
        tree.text("etc/hosts", "127.0.0.1 localhost\n", 0o644)?;
        tree.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644)?;
        tree.text("etc/hostname", "guest\n", 0o644)?;
        tree.text("etc/resolv.conf", "nameserver 192.0.2.53\n", 0o644)?;
        tree.text(
            "etc/os-release",
            "ID=guest\nNAME=guest\nPRETTY_NAME=\"guest of cargo xtask vm-test\"\n",
            0o644,
        )?;
        Ok(tree)
    }

    fn text(&self, file: &str, content: &str, mode: u32) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, content)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
    }

    /// The files of the packages, with the libraries of what is executed.
    fn programs(&self) -> Result<()> {
        for package in PACKAGES {
            let Ok(files) = output("dpkg-query", &["--listfiles", package]) else { continue };
            for file in files.lines().map(Path::new) {
                let wanted = [
                    "/bin",
                    "/sbin",
                    "/lib",
                    "/usr/bin",
                    "/usr/sbin",
                    "/usr/lib",
                    "/etc/alternatives",
                    "/etc/mke2fs.conf",
                ]
                .iter()
                .any(|folder| file.starts_with(folder));
                if wanted {
                    self.copy(file)?;
                }
            }
        }
        for (name, to) in [("sh", "bash"), ("awk", "mawk"), ("python3", "python3.11")] {
            let link = self.0.join("usr/bin").join(name);
            if link.symlink_metadata().is_err() && self.0.join("usr/bin").join(to).exists() {
                symlink(to, link)?;
            }
        }
        self.libraries(&self.0.clone())
    }

    /// Copies what a package has of programs, libraries and their configuration.
    fn unpacked(&self, package: &Path) -> Result<()> {
        for part in ["sbin", "bin", "lib", "usr", "etc"] {
            copy_tree(&package.join(part), &self.0.join(part))?;
        }
        Ok(())
    }

    /// Copies one file or link of this machine to the same place.
    fn copy(&self, file: &Path) -> Result<()> {
        let Ok(kind) = file.symlink_metadata() else { return Ok(()) };
        let target = self.0.join(file.strip_prefix("/")?);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        if target.symlink_metadata().is_ok() {
            return Ok(());
        }
        if kind.is_symlink() {
            symlink(fs::read_link(file)?, target)?;
        } else if kind.is_file() {
            fs::copy(file, target)?;
        }
        Ok(())
    }

    /// Copies what the programs and libraries below `folder` are linked against.
    fn libraries(&self, folder: &Path) -> Result<()> {
        let mut programs = Vec::new();
        elf_files(folder, &mut programs)?;
        let mut needed = BTreeSet::new();
        for some in programs.chunks(100) {
            // A static program makes ldd's exit status a failure; what the others need is printed nevertheless.
            let said = Command::new("ldd").args(some).output()?;
            for line in String::from_utf8_lossy(&said.stdout).lines() {
                needed.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
            }
        }
        for library in needed.iter().filter(|path| path.is_file()) {
            let target = self.0.join(library.strip_prefix("/")?);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            if !target.is_file() {
                // A link's name, with the content of what it leads to.
                fs::copy(library.canonicalize()?, target)?;
            }
        }
        Ok(())
    }

    /// Puts a program at `to`, without what only a debugger reads, with its libraries.
    fn program(&self, from: &Path, to: &str) -> Result<()> {
        let target = self.0.join(to);
        run_command(Command::new("strip").arg("--strip-debug").arg("-o").arg(&target).arg(from))?;
        let alone = self.0.join("vm/alone");
        fs::create_dir_all(&alone)?;
        symlink(&target, alone.join("program"))?;
        let done = self.libraries(&alone);
        fs::remove_dir_all(&alone)?;
        done
    }

    /// The kernel's modules that the guest may ask for by name.
    fn modules(&self, modules: &Path) -> Result<()> {
        let version = modules.file_name().ok_or("a kernel's version")?;
        let target = self.0.join("usr/lib/modules").join(version);
        for part in MODULES {
            copy_tree(&modules.join("kernel").join(part), &target.join("kernel").join(part))?;
        }
        for entry in fs::read_dir(modules)?.flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), target.join(entry.file_name()))?;
        }
        Ok(())
    }
}

/// The ELF files below a folder, links to files among them.
fn elf_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            elf_files(&path, found)?;
        } else if path.is_file() && starts_as_elf(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn starts_as_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut start = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"\x7fELF"
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(from, to)?;
    } else if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
