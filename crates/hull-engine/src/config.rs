//! What a daemon was told at its start, resolved: flags, configuration file and defaults in one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use hull_network::Subnet;

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
    /// What else containers are that do not say.
    pub defaults: Defaults,
    /// The log driver of containers that choose none.
    pub log: LogConfig,
    /// The default network.
    pub default_network: DefaultNetwork,
    /// Shims answer by IPv6 at the published ports of containers that have IPv4 only.
    pub userland_proxy: bool,
    /// Options of networks that do not set them themselves, by driver.
    pub network_options: BTreeMap<String, BTreeMap<String, String>>,
    /// What `host-gateway` stands for in `--add-host`; empty: the default network's gateway.
    pub host_gateways: Vec<IpAddr>,
    /// `base=10.10.0.0/16,size=24`; empty: Docker's pools.
    pub address_pools: Vec<String>,
    /// Name servers of containers that set none; empty: the host's.
    pub dns: Vec<IpAddr>,
    /// Options of resolv.conf.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Containers run on when the daemon ends.
    pub live_restore: bool,
    /// What is told of features that are tried out.
    pub experimental: bool,
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
    /// Containers have SELinux labels, where the machine has SELinux.
    pub selinux_enabled: bool,
}

/// What a container is that does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The size of `/dev/shm`, in bytes.
    pub shm_size: i64,
    /// `private` or `shareable`.
    pub ipc_mode: String,
    /// `private` or `host`.
    pub cgroupns_mode: String,
    /// An init is process 1.
    pub init: bool,
    /// The cgroup that containers' cgroups are beneath; empty: the daemon's own.
    pub cgroup_parent: String,
    /// No program gains privileges that its caller has not.
    pub no_new_privileges: bool,
    /// The system call filter.
    pub seccomp: DefaultSeccomp,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            shm_size: 64 << 20,
            ipc_mode: "private".to_owned(),
            cgroupns_mode: "private".to_owned(),
            init: false,
            cgroup_parent: String::new(),
            no_new_privileges: false,
            seccomp: DefaultSeccomp::BuiltIn,
        }
    }
}

/// The system call filter of containers that choose none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DefaultSeccomp {
    /// hull's own.
    #[default]
    BuiltIn,
    /// None at all.
    Unconfined,
    /// A profile in Docker's format.
    Profile {
        /// The file that it is from, for `info`.
        path: String,
        /// What it says.
        json: String,
    },
}

/// The default network, `bridge`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultNetwork {
    /// Its bridge.
    pub bridge: DefaultBridge,
    /// Address and prefix length of the bridge; none: from the pools.
    pub bip: Option<String>,
    /// The part of the subnet that containers' addresses are from; without `bip` the subnet itself.
    pub range4: Option<Subnet>,
    /// The same for IPv6.
    pub range6: Option<Subnet>,
    /// The router that containers use; none: the bridge.
    pub gateway4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Containers have IPv6 addresses, too.
    pub ipv6: bool,
    /// The bridge driver's options that are not as usual.
    pub options: BTreeMap<String, String>,
}

/// Which bridge the default network has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DefaultBridge {
    /// One that the daemon makes.
    #[default]
    Own,
    /// One that somebody else has made.
    Standing(String),
    /// There is no default network.
    None,
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
