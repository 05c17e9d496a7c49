//! Volumes: folders that outlive containers, and who uses them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::DaemonConfig;
use crate::database::Database;
use crate::events::Events;
use crate::{Error, Result};

/// The body of `POST /volumes/create`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeCreate {
    /// Its name; empty: 64 digits of the engine's choice.
    pub name: String,
    /// The driver; empty: `local`, the only one.
    pub driver: String,
    /// `type`, `device`, `o`: what is mounted while the volume is used.
    pub driver_opts: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Swarm's: refused.
    pub cluster_volume_spec: Option<serde_json::Value>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Always `local`.
    pub driver: String,
    /// The folder that is bound.
    pub mountpoint: PathBuf,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What it was made with.
    pub options: BTreeMap<String, String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Nobody named it: it goes with its container.
    pub anonymous: bool,
}

/// The volumes.
pub struct Volumes {
    _root: PathBuf,
}

impl Volumes {
    /// Opens the volumes beneath `<data-root>/volumes`.
    pub(crate) fn open(config: &DaemonConfig, _: Arc<Database>, _: Arc<Events>) -> Result<Volumes> {
        Ok(Volumes { _root: config.data_root.join("volumes") })
    }

    /// Makes a volume; one of that name that is there already is the answer, if it is of the same kind.
    pub fn create(&self, _create: VolumeCreate) -> Result<Arc<Volume>> {
        Err(Error::unsupported("this"))
    }

    /// The volume of that name.
    pub fn get(&self, _name: &str) -> Result<Arc<Volume>> {
        Err(Error::unsupported("this"))
    }

    /// A volume for a container, made if it is not there; from now on the container uses it. `None`: anonymous.
    pub(crate) fn acquire(
        &self,
        _name: Option<&str>,
        _driver: &str,
        _options: &BTreeMap<String, String>,
        _labels: &BTreeMap<String, String>,
        _container: &str,
    ) -> Result<Arc<Volume>> {
        Err(Error::unsupported("this"))
    }

    /// At load: that container uses that volume.
    pub(crate) fn retain(&self, _name: &str, _container: &str) {}

    /// A container that is gone uses no volume any more; its anonymous ones may go with it.
    pub(crate) fn release(&self, _container: &str, _remove_anonymous: bool) -> Result<()> {
        Err(Error::unsupported("this"))
    }

    /// The folder to bind, for a container that starts. What the volume's options name is mounted at first use.
    pub(crate) fn mount(&self, _name: &str, _container: &str) -> Result<PathBuf> {
        Err(Error::unsupported("this"))
    }

    /// A container that ended needs it no longer: unmounted after the last.
    pub(crate) fn unmount(&self, _name: &str, _container: &str) -> Result<()> {
        Err(Error::unsupported("this"))
    }
}
