//! The folders of volumes against their rows.

use std::fs;

use hull_image::{Check, Finding, Wrong};

use super::files::MARK;
use super::{Entry, Volume, Volumes, check_name, remove_tree};
use crate::Result;
use crate::container::{now_ns, rfc3339};
use crate::database::Table;
use crate::system::names;

impl Volumes {
    /// Looks the volumes through. What is in a folder without a row is someone's: a repair makes a volume of it, and
    /// removes none but empty ones.
    pub(crate) fn check(&self, how: Check, findings: &mut Vec<Finding>) -> Result<usize> {
        // Nobody makes or removes one meanwhile.
        let mut state = self.state();
        let mut lost = Vec::new();
        for name in names(&self.root)? {
            // What is being made and what is being removed; the next daemon removes what is left of either.
            let on_its_way = name.starts_with(".new-") || name.starts_with(".gone-");
            if !on_its_way && !state.volumes.contains_key(&name) {
                lost.push(name);
            }
        }
        for name in lost {
            let path = self.root.join(&name);
            let data = path.join("_data");
            let is_empty = || fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_none());
            let may_be_one = check_name(&name).is_ok() && data.is_dir();
            let mut finding = match (may_be_one, may_be_one && is_empty()) {
                (_, true) => Finding::new(
                    Wrong::Orphan,
                    "an empty folder of a volume without a row",
                    &path,
                    "remove it",
                ),
                (true, false) => {
                    let remedy = "make a volume of it, as someone's files are in it";
                    Finding::new(Wrong::Orphan, "the folder of a volume without a row", &path, remedy)
                }
                (false, _) => {
                    let remedy = "it is no volume: look at it, and move it elsewhere";
                    Finding::new(Wrong::Orphan, "something among the volumes", &path, remedy)
                }
            };
            if how.repair && may_be_one {
                if is_empty() {
                    remove_tree(&path)?;
                } else {
                    let volume = Volume {
                        name: name.clone(),
                        driver: "local".to_owned(),
                        mountpoint: data,
                        labels: Default::default(),
                        options: Default::default(),
                        created_at: rfc3339(now_ns()),
                        anonymous: false,
                        snapshot_of: None,
                    };
                    self.database.put(Table::Volumes, &name, &volume)?;
                    state.volumes.insert(name, Entry::of(volume));
                }
                finding.repaired = true;
            }
            findings.push(finding);
        }
        for entry in state.volumes.values() {
            let volume = &entry.volume;
            if fs::symlink_metadata(&volume.mountpoint).is_err() {
                let what = format!("the files of the volume {}", volume.name);
                let remedy = "make its folder again, empty";
                let mut finding = Finding::new(Wrong::Missing, what, &volume.mountpoint, remedy);
                finding.repaired =
                    how.repair && self.make(&volume.mountpoint, self.limit(&volume.options)?).is_ok();
                findings.push(finding);
            }
        }
        Ok(state.volumes.len())
    }

    /// Removes what a creation left that a crash interrupted: folders without a row which bear the mark of one, or in which
    /// there is nothing.
    pub(super) fn remove_left(&self) -> Result<()> {
        let state = self.state();
        for name in names(&self.root)? {
            let path = self.root.join(&name);
            if state.volumes.contains_key(&name) {
                let _ = fs::remove_file(path.join(MARK));
                continue;
            }
            if path.join(MARK).exists() {
                match remove_tree(&path) {
                    Ok(()) => {
                        tracing::info!(volume = name, "a volume that was not made to its end is removed")
                    }
                    Err(error) => tracing::warn!(%error, "what is left of a volume stays"),
                }
                continue;
            }
            let data = path.join("_data");
            // Neither is removed if it is not empty.
            let gone = fs::remove_dir(&data).is_ok() || !data.exists();
            if gone && fs::remove_dir(&path).is_ok() {
                tracing::info!(volume = name, "an empty folder that no volume owns was removed");
            }
        }
        Ok(())
    }
}
