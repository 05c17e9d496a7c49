//! From `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's volumes to one plan of mounts.

mod parse;

use std::collections::BTreeMap;

use hull_image::Pinned;
use serde::{Deserialize, Serialize};

use self::parse::{destination, parse_bind, parse_mount, parse_tmpfs};
use crate::model::{Config, HostConfig, MountPoint};
use crate::{Engine, Error, Result};

/// One place in the container's file system that comes from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MountPlan {
    /// What it is.
    pub kind: MountKind,
    /// The volume's name; empty where it is none.
    pub name: String,
    /// The host's path of a bind.
    pub source: String,
    /// The place in the container, cleaned.
    pub destination: String,
    /// As written behind `-v`'s second colon.
    pub mode: String,
    /// Writable.
    pub writable: bool,
    /// How mounts propagate: empty for what has none.
    pub propagation: String,
    /// Mounts beneath a bind's source come along.
    pub recursive: bool,
    /// Read-only reaches the mounts beneath.
    pub read_only_recursive: bool,
    /// A volume that is new is not filled with what the image holds there.
    pub no_copy: bool,
    /// A folder inside the volume or the image.
    pub subpath: String,
    /// The id of the image whose files these are; empty where they are none's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// A tmpfs's mount options.
    pub options: Vec<String>,
    /// The volume was made for this container and has no name of a user's.
    pub anonymous: bool,
    /// It is another container's as well (`--volumes-from`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherited: bool,
    /// Whose outside is what root makes inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Folders that are shown merged, uppermost first; `source` is where writes to them go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<std::path::PathBuf>,
}

/// A user and a group of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What a mount is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A folder or file of the host.
    #[default]
    Bind,
    /// A volume.
    Volume,
    /// A file system in memory.
    Tmpfs,
    /// An image's files, which nobody changes.
    Image,
}

impl MountKind {
    pub(super) fn word(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Image => "image",
        }
    }
}

impl MountPlan {
    /// The mode as inspect shows it: Docker gives a volume that has a name, and no mode of its own, this one.
    fn shown_mode(&self) -> String {
        let named = self.kind == MountKind::Volume && !self.anonymous && !self.inherited;
        if named && self.mode.is_empty() { "z".to_owned() } else { self.mode.clone() }
    }

    /// As inspect shows it.
    pub(super) fn shown(&self, mountpoint: Option<String>) -> MountPoint {
        MountPoint {
            kind: self.kind.word().to_owned(),
            name: self.name.clone(),
            source: mountpoint.unwrap_or_else(|| self.source.clone()),
            destination: self.destination.clone(),
            driver: if self.kind == MountKind::Volume { "local".to_owned() } else { String::new() },
            mode: self.shown_mode(),
            rw: self.writable,
            propagation: self.propagation.clone(),
        }
    }
}

/// A volume that a plan needs, before it has been acquired.
#[derive(Default)]
pub(super) struct WantedVolume {
    pub(super) driver: String,
    pub(super) options: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
}

/// A plan, and the volume it stands for if it stands for one.
pub(super) struct Wanted {
    pub(super) plan: MountPlan,
    pub(super) volume: Option<WantedVolume>,
    /// A bind's source that is not there is made as a folder (`-v`) or refused (`--mount`).
    pub(super) create_source: bool,
    /// Keeps the image that is mounted here until the container is known to use it.
    pub(super) pinned: Option<Pinned>,
}

impl Engine {
    /// All mounts that a container asks for. Nothing is made yet.
    ///
    /// # Errors
    /// Something is written wrongly, or two mounts want one place.
    pub(super) fn wanted_mounts(
        &self,
        config: &Config,
        host: &HostConfig,
        caller: Owner,
        shallow_read_only: bool,
    ) -> Result<Vec<Wanted>> {
        // A later source overrides an earlier one at the same place, but two of one kind are a mistake.
        let mut by_place: BTreeMap<String, Wanted> = BTreeMap::new();
        for specification in host.volumes_from.iter().flatten() {
            for plan in self.mounts_of_other(specification)? {
                let volume = (plan.kind == MountKind::Volume).then(WantedVolume::default);
                let pinned = match plan.kind {
                    MountKind::Image => Some(self.pin(&plan.image, &plan.source)?),
                    _ => None,
                };
                let wanted = Wanted { plan, volume, create_source: false, pinned };
                by_place.insert(wanted.plan.destination.clone(), wanted);
            }
        }
        let mut written = Vec::new();
        for bind in host.binds.iter().flatten() {
            written.push(parse_bind(bind, &host.volume_driver, caller)?);
        }
        for mount in host.mounts.iter().flatten() {
            let mut wanted = parse_mount(mount)?;
            if wanted.plan.kind == MountKind::Image {
                let image = self.images.resolve(&mount.source).map_err(crate::images::error);
                let image = image.map_err(|error| of_mount(error, &mount.target))?;
                wanted.plan.image = image.id.to_string();
                wanted.pinned = Some(
                    self.pin(&wanted.plan.image, &mount.source)
                        .map_err(|error| of_mount(error, &mount.target))?,
                );
            }
            written.push(wanted);
        }
        for (place, options) in host.tmpfs.iter().flatten() {
            written.push(parse_tmpfs(place, options)?);
        }
        let mut places = std::collections::BTreeSet::new();
        for mut wanted in written {
            wanted.plan.read_only_recursive &= !shallow_read_only;
            let place = wanted.plan.destination.clone();
            if !places.insert(place.clone()) {
                return Err(Error::invalid(format!("Duplicate mount point: {place}")));
            }
            by_place.insert(place, wanted);
        }
        for place in config.volumes.iter().flatten().map(|(place, _)| place) {
            let place = destination(place).map_err(|error| {
                let why = format!("invalid mount config for type \"volume\": {}", error.message);
                Error::invalid(format!("invalid volume specification: '{place}': {why}"))
            })?;
            by_place.entry(place.clone()).or_insert_with(|| Wanted {
                plan: MountPlan {
                    kind: MountKind::Volume,
                    destination: place,
                    writable: true,
                    anonymous: true,
                    ..MountPlan::default()
                },
                volume: Some(WantedVolume { driver: host.volume_driver.clone(), ..WantedVolume::default() }),
                create_source: false,
                pinned: None,
            });
        }
        Ok(by_place.into_values().collect())
    }

    /// The mounts of the container that `--volumes-from` names, as `container[:ro|rw]`.
    fn mounts_of_other(&self, specification: &str) -> Result<Vec<MountPlan>> {
        let (name, mode) = specification.split_once(':').unwrap_or((specification, ""));
        if specification.is_empty() {
            return Err(Error::invalid("volumes-from specification cannot be an empty string"));
        }
        let read_only = match mode {
            "" | "rw" | "z" | "Z" => false,
            "ro" => true,
            other => return Err(Error::invalid(format!("invalid mode: {other}"))),
        };
        let other = self.container(name).map_err(|error| Error::invalid(error.message))?;
        let mounts = other.record().mounts.clone();
        Ok(mounts
            .into_iter()
            .map(|mut plan| {
                plan.writable &= !read_only;
                plan.no_copy = true;
                plan.inherited = true;
                // The words were said of the other's mount; whether this one is writable is told beside.
                plan.mode.clear();
                plan
            })
            .collect())
    }
}

/// Layers that a build's step mounts.
pub(super) fn layered(layered: crate::model::Layered) -> Result<Wanted> {
    let plan = MountPlan {
        kind: MountKind::Bind,
        source: layered.folder.to_string_lossy().into_owned(),
        destination: destination(&layered.target)?,
        writable: layered.writable,
        layers: layered.lower,
        ..MountPlan::default()
    };
    Ok(Wanted { plan, volume: None, create_source: false, pinned: None })
}

/// An image that is not here is not the one to be run: in Docker's words, and for which mount it is wanted.
fn of_mount(error: Error, target: &str) -> Error {
    Error { message: format!("{} (which is to be mounted at {target})", error.message), ..error }
}

/// The key of the snapshot that holds the image of a container's mount, by the mount's place in its list. It is made with
/// the container and goes with it, so that the layers stay as long.
pub(super) fn image_key(container: &str, index: usize) -> String {
    format!("{container}-{index}")
}

/// The container that a snapshot belongs to, its own or one of its mounts'.
pub(crate) fn owner_of_key(key: &str) -> &str {
    key.split_once('-').map_or(key, |(container, _)| container)
}
