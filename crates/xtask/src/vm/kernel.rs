//! Debian's cloud kernel, taken out of its package and not installed, and the first file system that it boots with.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::shell::{find, heading, output, run_command};

/// The package that depends on the newest cloud kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Modules without which the guest does not find its disk.
const FOR_THE_DISK: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// The compressed kernel.
    pub(super) image: PathBuf,
    /// The first file system.
    pub(super) initrd: PathBuf,
    /// The folder of its modules, named by its version.
    pub(super) modules: PathBuf,
}

/// Downloads and unpacks the kernel, unless that was done before.
pub(super) fn prepare(folder: &Path) -> Result<Kernel> {
    let unpacked = folder.join("kernel");
    if !unpacked.join("boot").is_dir() {
        heading("a kernel for virtual machines");
        unpack(folder, &unpacked)?;
    }
    let modules = only_entry(&unpacked.join("lib/modules"))?;
    let version = modules.file_name().and_then(|name| name.to_str()).ok_or("a kernel's version")?;
    let initrd = folder.join("initrd");
    fs::write(&initrd, first_file_system(&modules)?)?;
    Ok(Kernel { image: unpacked.join(format!("boot/vmlinuz-{version}")), initrd, modules })
}

/// Downloads and unpacks another package, unless that was done before; the folder with its files.
pub(super) fn package(folder: &Path, package: &str) -> Result<PathBuf> {
    let unpacked = folder.join("packages").join(package);
    if !unpacked.is_dir() {
        heading(&format!("the package {package} for virtual machines"));
        let work = folder.join("package.new");
        download(&work, package)?;
        fs::create_dir_all(folder.join("packages"))?;
        fs::rename(&work, &unpacked)?;
    }
    Ok(unpacked)
}

/// Downloads a package and unpacks it into a new folder.
fn download(work: &Path, package: &str) -> Result<()> {
    if work.exists() {
        fs::remove_dir_all(work)?;
    }
    fs::create_dir_all(work)?;
    run_command(Command::new("apt-get").args(["download", "--quiet", package]).current_dir(work))?;
    let archive = only_entry(work)?;
    run_command(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(work))?;
    Ok(fs::remove_file(&archive)?)
}

fn unpack(folder: &Path, unpacked: &Path) -> Result<()> {
    let depends = output("apt-cache", &["depends", PACKAGE])?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .ok_or_else(|| format!("apt-get knows no package {PACKAGE}: apt-get update"))?;
    let work = folder.join("kernel.new");
    download(&work, package)?;
    let modules = only_entry(&work.join("lib/modules"))?;
    let version = modules.file_name().ok_or("a kernel's version")?;
    let depmod = find("depmod").ok_or("depmod is missing: apt-get install kmod")?;
    run_command(Command::new(depmod).arg("--basedir").arg(&work).arg(version))?;
    if unpacked.exists() {
        fs::remove_dir_all(unpacked)?;
    }
    Ok(fs::rename(&work, unpacked)?)
}

fn only_entry(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    match (entries.pop(), entries.is_empty()) {
        (Some(entry), true) => Ok(entry.path()),
        _ => Err(format!("{}: one entry was expected", folder.display()).into()),
    }
}

/// Busybox, the modules for the disk, and a script that mounts the disk and goes on there; a cpio archive.
fn first_file_system(modules: &Path) -> Result<Vec<u8>> {
    let dependencies = fs::read_to_string(modules.join("modules.dep"))?;
    let mut order = Vec::new();
    for name in FOR_THE_DISK {
        for file in with_dependencies(&dependencies, name)? {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    let busybox = find("busybox").ok_or("busybox is missing: apt-get install busybox-static")?;
    let mut archive = Cpio::default();
    for folder in ["dev", "disk", "modules", "proc"] {
        archive.folder(folder);
    }
    archive.file("busybox", &fs::read(busybox)?);
    let mut init = String::from("#!/busybox sh\n/busybox mount -t devtmpfs dev /dev\n");
    for (number, file) in order.iter().enumerate() {
        archive.file(&format!("modules/{number}"), &fs::read(modules.join(file))?);
        init.push_str(&format!("/busybox insmod /modules/{number}\n"));
    }
    init.push_str("/busybox mount -t ext4 /dev/vda /disk && exec /busybox switch_root /disk /vm/init\n");
    archive.file("init", init.as_bytes());
    Ok(archive.finish())
}

/// The files of a module and of those that it needs, in the order in which they are to be loaded.
fn with_dependencies(dependencies: &str, name: &str) -> Result<Vec<String>> {
    let file_name = format!("/{name}.ko");
    let line = dependencies.lines().find_map(|line| {
        let (file, needs) = line.split_once(':')?;
        file.ends_with(&file_name).then_some((file, needs))
    });
    let (file, needs) = line.ok_or_else(|| format!("the kernel has no module {name}"))?;
    // What is needed stands behind what needs it.
    let needs = needs.split_whitespace().rev().map(str::to_owned);
    Ok(needs.chain([file.to_owned()]).collect())
}

/// A cpio archive in the form that a kernel takes, "newc".
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // inode, mode, user, group, links, time, size, four device numbers, length of the name, checksum
        let (size, length) = (content.len() as u32, name.len() as u32 + 1);
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08x}").expect("a vector takes everything");
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Cpio, with_dependencies};

    #[test]
    fn modules_come_behind_what_they_need() {
        let text = "kernel/a/virtio.ko:\nkernel/a/ring.ko: kernel/a/virtio.ko\n\
                    kernel/b/blk.ko: kernel/a/ring.ko kernel/a/virtio.ko\n";
        let order = with_dependencies(text, "blk").expect("it is there");
        assert_eq!(order, ["kernel/a/virtio.ko", "kernel/a/ring.ko", "kernel/b/blk.ko"]);
        assert!(with_dependencies(text, "lk").is_err());
    }

    #[test]
    fn an_archive_is_headers_names_and_contents() {
        let mut archive = Cpio::default();
        archive.file("init", b"abc");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"070701" as &[u8]) && bytes.len() % 4 == 0);
        // The header of 110 bytes, "init" and its end, padded to 116.
        assert_eq!(&bytes[110..120], b"init\0\0abc\0");
    }
}
