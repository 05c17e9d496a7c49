//! Whether everything beneath the data root is accounted for, and nothing is missing: every file against the rows.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use hull_image::{Check, Finding, Wrong};
use serde_json::{Value, json};

use crate::blocking::may_hang;
use crate::container::{Container, Status, owner_of_key};
use crate::engine::Engine;
use crate::{Error, Result};

/// All that is in a data root.
const KNOWN: [&str; 9] = [
    "build",
    "containers",
    "hull.db",
    "hull.db-shm",
    "hull.db-wal",
    "id",
    "image",
    "sockets.json",
    "volumes",
];

impl Engine {
    /// Looks the data root through; with `repair` orphans go, with `contents` every layer is read. The daemon may be at
    /// work meanwhile: what is on its way is no finding.
    ///
    /// # Errors
    /// A folder or a database cannot be read.
    pub async fn fsck(self: &Arc<Self>, repair: bool, contents: bool) -> Result<Value> {
        let engine = Arc::clone(self);
        may_hang(move || {
            let lost_is_used = engine.runs_on_lost_layers();
            engine.look_through(Check { repair, contents, lost_is_used })
        })
        .await
    }

    /// Whether a container runs whose image's layers are known no more: they are still there, beneath it.
    pub(super) fn runs_on_lost_layers(&self) -> bool {
        let is_up = |container: &Arc<Container>| {
            let status = container.record().state.status;
            matches!(status, Status::Running | Status::Paused | Status::Restarting)
        };
        // A container's own files, and those of the images that are mounted in it.
        let lost = self.images.snapshots().into_iter().filter(|key| self.images.is_lost_below(key));
        let mut owners = lost.filter_map(|key| self.container(owner_of_key(&key)).ok());
        // Whose start or end is under way may run, too.
        owners.any(|container| is_up(&container) || container.transition.try_lock().is_err())
    }

    fn look_through(&self, how: Check) -> Result<Value> {
        let mut store = self.images.check(how)?;
        let mut findings = std::mem::take(&mut store.findings);
        self.check_root(&mut findings)?;
        let containers = self.check_containers(how, &mut findings)?;
        let volumes = self.volumes.check(how, &mut findings)?;
        let networks = self.check_networks(&mut findings);
        let mut checked = json!(store);
        checked["Containers"] = json!(containers);
        checked["Volumes"] = json!(volumes);
        checked["Networks"] = json!(networks);
        Ok(json!({ "Findings": findings, "Checked": checked }))
    }

    fn check_root(&self, findings: &mut Vec<Finding>) -> Result<()> {
        let root = &self.config.data_root;
        for name in names(root)? {
            if !KNOWN.contains(&name.as_str()) {
                let remedy = "it is nothing of this daemon's: look at it, and move it elsewhere";
                findings.push(Finding::new(
                    Wrong::Orphan,
                    "something in the data root",
                    &root.join(name),
                    remedy,
                ));
            }
        }
        Ok(())
    }

    /// The containers' folders and snapshots against their rows, and the other way round.
    fn check_containers(&self, how: Check, findings: &mut Vec<Finding>) -> Result<usize> {
        let root = self.config.data_root.join("containers");
        // In this order: what is known behind the look at the disk was made in between.
        let (folders, snapshots) = (names(&root)?, self.images.snapshots());
        let known: HashSet<String> = self.containers.ids().into_iter().collect();
        for name in folders.iter().filter(|name| !known.contains(name.trim_end_matches(".gone"))) {
            let path = root.join(name);
            // A removal puts it aside before it goes.
            if !path.exists() {
                continue;
            }
            let mut finding =
                Finding::new(Wrong::Orphan, "the folder of a container without a row", &path, "remove it");
            finding.repaired = how.repair && hull_image::remove_tree(&path).is_ok();
            findings.push(finding);
        }
        for key in snapshots.iter().filter(|key| !known.contains(owner_of_key(key))) {
            if self.images.snapshot(key).is_err() {
                continue;
            }
            let path = self.config.data_root.join("image/snapshots").join(key);
            let what = "the writable layer of a container without a row";
            let mut finding = Finding::new(Wrong::Orphan, what, &path, "remove it");
            finding.repaired = how.repair && self.images.remove_snapshot(key).is_ok();
            findings.push(finding);
        }
        let containers = self.containers.all();
        for container in &containers {
            let folder = self.container_dir(&container.id);
            // It may have been removed meanwhile.
            if !folder.is_dir() && self.containers.has(&container.id) {
                let what = format!("the folder of the container {}", container.record().name);
                let remedy = "remove the container, and make it anew";
                findings.push(Finding::new(Wrong::Missing, what, &folder, remedy));
            }
            if !self.images.snapshot_is_whole(&container.id) && self.containers.has(&container.id) {
                findings.push(self.without_files(container, how));
            }
            for volume in container.record().volume_names() {
                if self.volumes.get(&volume).is_err() && self.containers.has(&container.id) {
                    let what = format!("the volume {volume} of the container {}", container.record().name);
                    let path = self.config.data_root.join("volumes").join(&volume);
                    findings.push(Finding::new(Wrong::Missing, what, &path, "create the volume anew"));
                }
            }
        }
        Ok(containers.len())
    }

    /// A container whose writable layer is not there, or what that stands on: its image was lost, as by a power cut. Where the
    /// image is here again, a repair has it stand on that, with what it had written where that is still there.
    fn without_files(&self, container: &Container, how: Check) -> Finding {
        let (name, typed, image_id, host) = {
            let record = container.record();
            (
                record.name.clone(),
                record.config.image.clone(),
                record.image_id.clone(),
                record.host_config.clone(),
            )
        };
        let path = self.config.data_root.join("image/snapshots").join(&container.id);
        let what = format!("the writable layer of the container {name}");
        let finding = |remedy: String| Finding::new(Wrong::Missing, what.clone(), &path, remedy);
        let image = match image_id.as_str() {
            "" => None,
            id => match self.images.resolve(id) {
                Ok(image) => Some(image),
                Err(_) => {
                    return finding(format!(
                        "its image {typed} ({}) is not here: load or pull it again and repair, or remove the container \
                         {name}",
                        id.trim_start_matches("sha256:").get(..12).unwrap_or(id)
                    ));
                }
            },
        };
        let kept = self.images.is_lost_below(&container.id);
        let remedy = match kept {
            true => format!("with --repair {name} stands on its image again, with what it had written"),
            false => format!("with --repair {name} gets a new one of its image; what it had written is lost"),
        };
        if !how.repair {
            return finding(remedy);
        }
        // Whoever starts, ends or removes it just now would find what is only being made: the next repair finds it again.
        let Ok(_transition) = container.transition.try_lock() else { return finding(remedy) };
        let status = container.record().state.status;
        if matches!(status, Status::Running | Status::Paused | Status::Restarting | Status::Removing) {
            return finding(remedy);
        }
        let made = self.storage_limit(&host).map_err(|error| error.to_string()).and_then(|limit| {
            self.images
                .renew_snapshot(&container.id, image.as_deref(), limit)
                .map_err(|error| error.to_string())
        });
        match made {
            Ok(()) if kept => {
                Finding { repaired: true, ..finding(format!("{name} has what it had written")) }
            }
            Ok(()) => Finding { repaired: true, ..finding(format!("{name} begins as its image is")) },
            Err(error) => {
                finding(format!("not repaired: {error}; remove the container {name}, and make it anew"))
            }
        }
    }

    /// The networks that containers are on.
    fn check_networks(&self, findings: &mut Vec<Finding>) -> usize {
        for container in self.containers.all() {
            let (name, endpoints, mode) = {
                let record = container.record();
                (record.name.clone(), record.endpoints.clone(), record.host_config.network_mode.clone())
            };
            if mode.starts_with("container:") {
                continue;
            }
            for network in endpoints.keys().filter(|network| self.networks.resolve(network).is_err()) {
                let what = format!("the network {network} of the container {name}");
                let remedy = "create the network anew, or disconnect the container from it";
                let file = self.config.data_root.join("hull.db");
                findings.push(Finding::new(Wrong::Missing, what, &file, remedy));
            }
        }
        self.networks.count()
    }
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let fail = |error| Error::system(format_args!("read {}", folder.display()), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
