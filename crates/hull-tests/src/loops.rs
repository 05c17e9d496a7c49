//! Real file systems in files, mounted by way of a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a test's own. Dropping it unmounts it and removes its file.
#[derive(Debug)]
pub struct LoopMount {
    folder: tempfile::TempDir,
}

impl LoopMount {
    /// Makes a file of `size` MiB, a file system in it by `mkfs` (a program with its options; the file is its last
    /// argument), and mounts that with `options`. `None`: the program is not there, or the kernel does not mount it.
    ///
    /// # Panics
    /// The program fails.
    pub fn new(size: u64, mkfs: &[&str], options: &str) -> Option<LoopMount> {
        let folder = tempfile::Builder::new().prefix("hull-loop-").tempdir().expect("a folder");
        let file = folder.path().join("disk");
        let disk = std::fs::File::create(&file).expect("a file");
        disk.set_len(size << 20).expect("a file may have holes");
        let program = crate::which(mkfs[0])?;
        let made = Command::new(program).args(&mkfs[1..]).arg(&file).output().expect("mkfs is executed");
        assert!(made.status.success(), "{}: {}", mkfs.join(" "), String::from_utf8_lossy(&made.stderr));
        let place = folder.path().join("mnt");
        std::fs::create_dir(&place).expect("a folder");
        let options = if options.is_empty() { "loop".to_owned() } else { format!("loop,{options}") };
        let mounted = Command::new("mount")
            .args(["-o", &options])
            .args([&file, &place])
            .output()
            .expect("mount is executed");
        if !mounted.status.success() {
            eprintln!("left out: mount -o {options}: {}", String::from_utf8_lossy(&mounted.stderr));
            return None;
        }
        Some(LoopMount { folder })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// The file that it is in.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

/// Detaches what is mounted there; the loop device goes with it.
fn unmount(place: &Path) {
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).ok();
}
