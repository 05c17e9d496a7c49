//! What the tests share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hull_image::{Image, Import, Result, Snapshot, Store};

/// A store in a folder that goes with the first value.
pub(crate) fn scratch_store() -> (tempfile::TempDir, Store) {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(&scratch.path().join("store"), &[]).unwrap();
    (scratch, store)
}

/// What tar makes of what a shell made.
pub(crate) fn shell_tar(scratch: &Path, script: &str, options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir_in(scratch).unwrap();
    let line = format!("set -e; ( {script} ) >&2; exec tar -c --numeric-owner {options} .");
    let output = Command::new("sh").args(["-c", &line]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Imports an archive, telling progress to nobody.
pub(crate) fn import(store: &Store, mut tar: &[u8], options: Import) -> Result<Arc<Image>> {
    store.import(&mut tar, options, &|_| {})
}

/// A mounted overlay, unmounted by Drop.
pub(crate) struct Mounted(pub(crate) std::path::PathBuf);

impl Mounted {
    pub(crate) fn new(scratch: &Path, snapshot: &Snapshot) -> Mounted {
        use rustix::mount::{
            FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string,
            fsmount, fsopen, move_mount,
        };
        let target = tempfile::tempdir_in(scratch).unwrap().keep();
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for lower in &snapshot.lower {
            fsconfig_set_string(&fs, "lowerdir+", lower).unwrap();
        }
        fsconfig_set_string(&fs, "upperdir", &snapshot.upper).unwrap();
        fsconfig_set_string(&fs, "workdir", &snapshot.work).unwrap();
        fsconfig_create(&fs).unwrap();
        let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
        move_mount(&mount, "", rustix::fs::CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
        Mounted(target)
    }

    pub(crate) fn run(&self, script: &str) {
        let status = Command::new("sh").args(["-ec", script]).current_dir(&self.0).status().unwrap();
        assert!(status.success(), "{script}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}
