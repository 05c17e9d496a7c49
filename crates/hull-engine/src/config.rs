//! What a daemon was told at its start, resolved: flags, configuration file and defaults in one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Runtimes;
use crate::images::collect::Collection;
use crate::model::{LogConfig, Ulimit};
use crate::remap::Remap;

/// The configuration of one daemon.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// State that survives a reboot.
    pub data_root: PathBuf,
    /// State of this boot.
    pub exec_root: PathBuf,
    /// The name of what this daemon makes in the kernel: bridges, tables, cgroups.
    pub instance: String,
    /// Whether debug messages are logged, at the start.
    pub debug: bool,
    /// Limits of containers that set none of their own.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    /// The log driver of containers that choose none.
    pub log: LogConfig,
    /// Address and prefix length of the default bridge; none: from the pools.
    pub bip: Option<String>,
    /// `base=10.10.0.0/16,size=24`; empty: Docker's pools.
    pub address_pools: Vec<String>,
    /// Name servers of containers that set none; empty: the host's.
    pub dns: Vec<IpAddr>,
    /// Options of resolv.conf.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// `key=value` labels of the daemon, at the start.
    pub labels: Vec<String>,
    /// Where the Container Device Interface's specifications are; a later folder wins.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// When images that nobody needs go by themselves.
    pub collection: Collection,
    /// The most bytes that a container may write to its own file system, where it does not say.
    pub default_size: Option<u64>,
    /// The snapshotter that was asked for; none: the best that the file system carries.
    pub storage_driver: Option<String>,
    /// Registries: mirrors, which are insecure, how much is fetched at once.
    pub registries: hull_image::registry::Settings,
    /// The runtimes that make containers, at the start.
    pub runtimes: Runtimes,
    /// The ids that containers have; none: the host's.
    pub userns_remap: Option<Remap>,
}

/// What of the configuration a running daemon takes anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reloadable {
    pub(crate) debug: bool,
    pub(crate) labels: Vec<String>,
    pub(crate) runtimes: Arc<Runtimes>,
}

impl DaemonConfig {
    /// The bridge of the default network: `hull0`, or `hull` and the digits of the instance's name.
    pub fn bridge_name(&self) -> String {
        match self.instance.strip_prefix("hull-") {
            Some(digits) => format!("hull{digits}"),
            None => "hull0".to_owned(),
        }
    }

    /// The instance's name for an exec root.
    pub fn instance_of(exec_root: &std::path::Path) -> String {
        use sha2::{Digest, Sha256};
        use std::os::unix::ffi::OsStrExt;
        if exec_root == std::path::Path::new("/run/hull") {
            return "hull".to_owned();
        }
        let digest = Sha256::digest(exec_root.as_os_str().as_bytes());
        format!("hull-{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2])
    }
}
