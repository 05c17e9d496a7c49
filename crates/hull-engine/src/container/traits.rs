//! What a container has of the host: what the policy of a socket judges it by, before it is made and after.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::mounts::{MountKind, Owner};
use super::selinux::Relabel;
use super::{Container, MountPlan, Status};
use crate::model::{Config, EndpointSettings, HostConfig};
use crate::{Engine, Result};

/// What is known of a container that is there.
pub struct Traits {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How the host runs it.
    pub host_config: HostConfig,
    /// What is mounted in it.
    pub mounts: Vec<Mounted>,
    /// Its places, by the names of its networks.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Its image's id.
    pub image: String,
    /// Whether it runs, and whether it is paused.
    pub running: (bool, bool),
}

/// One mount of a container, as far as it is the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// What it is.
    pub kind: MountKind,
    /// The volume's name, the image's id, or the host's path of a bind.
    pub source: String,
    /// What the volume is made with, should it not be there.
    pub options: BTreeMap<String, String>,
    /// Nobody named the volume: it is the container's own.
    pub anonymous: bool,
    /// Its files are labelled for this container alone (`:Z`), which takes them from all others.
    pub private: bool,
}

impl Mounted {
    fn of(plan: &MountPlan, options: BTreeMap<String, String>) -> Mounted {
        let source = match plan.kind {
            MountKind::Volume => &plan.name,
            MountKind::Image => &plan.image,
            MountKind::Bind | MountKind::Tmpfs => &plan.source,
        };
        let private = Relabel::asked(&plan.mode) == Some(Relabel::Private);
        Mounted { kind: plan.kind, source: source.clone(), options, anonymous: plan.anonymous, private }
    }
}

impl Container {
    /// What it has of the host.
    pub fn traits(&self) -> Traits {
        let record = self.record();
        Traits {
            labels: record.config.labels.clone().unwrap_or_default(),
            host_config: record.host_config.clone(),
            mounts: record.mounts.iter().map(|plan| Mounted::of(plan, BTreeMap::new())).collect(),
            networks: record.endpoints.clone(),
            image: record.image_id.clone(),
            running: (record.is_running(), record.state.status == Status::Paused),
        }
    }
}

impl Engine {
    /// What a container that is asked for would have mounted, by the same reading as its creation's.
    ///
    /// # Errors
    /// As the creation's.
    pub fn mounts_asked_for(&self, config: &Config, host: &HostConfig) -> Result<Vec<Mounted>> {
        let wanted = self.wanted_mounts(config, host, Owner::default(), false)?.into_iter();
        let of = |wanted: super::mounts::Wanted| {
            Mounted::of(&wanted.plan, wanted.volume.map(|volume| volume.options).unwrap_or_default())
        };
        Ok(wanted.map(of).collect())
    }

    /// The containers whose ids begin so.
    pub fn containers_beginning(&self, beginning: &str) -> Vec<Arc<Container>> {
        let mut containers = self.containers.all();
        containers.retain(|container| container.id.starts_with(beginning));
        containers
    }
}

/// Whether a container sees or writes what others do not of /proc and /sys.
pub fn is_unmasked(host: &HostConfig) -> bool {
    let lacks = |paths: &Option<Vec<String>>, usual: Vec<String>| {
        paths.as_ref().is_some_and(|paths| usual.iter().any(|path| !paths.contains(path)))
    };
    lacks(&host.masked_paths, super::spec::masked_paths())
        || lacks(&host.readonly_paths, super::spec::read_only_paths())
}
