//! What the tests share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hull_image::{Image, Import, Result, Store};

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
