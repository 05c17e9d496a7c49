//! The daemon's flags, which are the keys of its configuration file as well.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Parser;
use serde::Deserialize;

use super::runtimes;

/// Runs the engine that clients talk to.
///
/// Containers do not depend on the daemon's life: end it, start it again, and they run on.
#[derive(Clone, Debug, Default, Parser, Deserialize)]
#[command(name = "hull daemon", no_binary_name = true)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Flags {
    /// Where clients connect: unix://PATH, tcp://ADDRESS:PORT, fd:// (several are possible)
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    pub(super) hosts: Vec<String>,
    /// A further socket with a policy: PATH,RULE[,RULE...], of read-only, label=KEY[=VALUE], no-privilege, no-binds,
    /// no-host-namespaces, no-devices, and confined for the last four
    #[arg(long = "socket", value_name = "SOCKET")]
    pub(super) sockets: Vec<String>,
    /// State that survives a reboot
    #[arg(long, value_name = "FOLDER")]
    pub(super) data_root: Option<PathBuf>,
    /// State of this boot
    #[arg(long, value_name = "FOLDER")]
    pub(super) exec_root: Option<PathBuf>,
    /// The file that holds the daemon's process id
    #[arg(long, value_name = "FILE")]
    pub(super) pidfile: Option<PathBuf>,
    /// The group that may use the unix socket, by name or number
    #[arg(short = 'G', long, value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// A JSON file with Docker's keys [default: /etc/hull/daemon.json, if it is there]
    #[arg(long, alias = "config-file", value_name = "FILE")]
    #[serde(skip)]
    pub(super) config: Option<PathBuf>,
    /// What is logged: debug, info, warn, error
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub(super) log_level: Option<String>,
    /// Logs what the daemon does in detail
    #[arg(short = 'D', long)]
    pub(super) debug: bool,
    /// A limit of containers that set none: NAME=SOFT[:HARD]
    #[arg(long = "default-ulimit", value_name = "LIMIT")]
    #[serde(skip)]
    pub(super) default_ulimit: Vec<String>,
    /// The same, from the file
    #[arg(skip)]
    pub(super) default_ulimits: BTreeMap<String, FileUlimit>,
    /// The log driver of containers that choose none: json-file, local, none
    #[arg(long, value_name = "DRIVER")]
    pub(super) log_driver: Option<String>,
    /// An option of the log driver: NAME=VALUE
    #[arg(long = "log-opt", value_name = "OPTION")]
    #[serde(skip)]
    pub(super) log_opt: Vec<String>,
    /// The same, from the file
    #[arg(skip)]
    pub(super) log_opts: BTreeMap<String, String>,
    /// How containers' files are made of layers: overlayfs (also called overlay2), btrfs, vfs [default: the best that the
    /// file system carries, in this order]
    #[arg(short = 's', long, value_name = "NAME")]
    pub(super) storage_driver: Option<String>,
    /// Gives containers a user namespace of their own, with the ids of /etc/subuid and /etc/subgid: default (those of
    /// hull, or else dockremap), USER[:GROUP] or UID[:GID]
    #[arg(long, value_name = "USER")]
    pub(super) userns_remap: Option<String>,
    /// An option of the storage driver: overlay2.size=SIZE, the most that a container may write which does not say
    #[arg(long = "storage-opt", value_name = "OPTION")]
    #[serde(rename = "storage-opts")]
    pub(super) storage_opt: Vec<String>,
    /// Whether images without a name that no container uses go by themselves: on or off [default: on]
    #[arg(long, value_name = "WORD")]
    pub(super) image_gc: Option<String>,
    /// How long such an image stays: 168h, 30m, 10s [default: 168h]
    #[arg(long, value_name = "TIME")]
    pub(super) image_gc_max_age: Option<String>,
    /// The disk's use from which on they go at once: a number of percent [default: 85]
    #[arg(long, value_name = "PERCENT")]
    pub(super) image_gc_disk_use: Option<u8>,
    /// How often it is looked [default: 10m]
    #[arg(long, value_name = "TIME")]
    pub(super) image_gc_every: Option<String>,
    /// Address and prefix length of the default bridge
    #[arg(long, value_name = "ADDRESS")]
    pub(super) bip: Option<String>,
    /// Where networks take their subnets from: base=SUBNET,size=BITS (several are possible)
    #[arg(long = "default-address-pool", value_name = "POOL")]
    #[serde(skip)]
    pub(super) default_address_pool: Vec<String>,
    /// The same, from the file
    #[arg(skip)]
    pub(super) default_address_pools: Vec<FilePool>,
    /// A name server of containers that set none
    #[arg(long, value_name = "ADDRESS")]
    pub(super) dns: Vec<IpAddr>,
    /// An option of their resolv.conf
    #[arg(long = "dns-opt", value_name = "OPTION")]
    #[serde(rename = "dns-opts")]
    pub(super) dns_opt: Vec<String>,
    /// A domain in which they search names
    #[arg(long, value_name = "DOMAIN")]
    pub(super) dns_search: Vec<String>,
    /// A label of the daemon: NAME=VALUE
    #[arg(long = "label", value_name = "LABEL")]
    pub(super) labels: Vec<String>,
    /// A folder with specifications of devices (CDI) [default: /etc/cdi and /var/run/cdi]
    #[arg(long = "cdi-spec-dir", value_name = "FOLDER")]
    #[serde(rename = "cdi-spec-dirs")]
    pub(super) cdi_spec_dir: Vec<PathBuf>,
    /// A mirror of the default registry: https://ADDRESS
    #[arg(long = "registry-mirror", value_name = "ADDRESS")]
    pub(super) registry_mirrors: Vec<String>,
    /// Mirrors of any registry, from the file: REGISTRY[/PREFIX] to addresses
    #[arg(skip)]
    pub(super) mirrors: BTreeMap<String, Vec<String>>,
    /// A registry without TLS, or with one that proves nothing: HOST[:PORT] or SUBNET
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    pub(super) insecure_registries: Vec<String>,
    /// The host where images are that name no registry [default: registry-1.docker.io]
    #[arg(long, value_name = "HOST")]
    pub(super) default_registry: Option<String>,
    /// A folder with certificates for single registries [default: /etc/docker/certs.d and /etc/hull/certs.d]
    #[arg(long = "certs-dir", value_name = "FOLDER")]
    #[serde(rename = "certs-dirs")]
    pub(super) certs_dir: Vec<PathBuf>,
    /// How long a registry may be silent, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub(super) registry_timeout: Option<u32>,
    /// How many layers are downloaded at once [default: 3]
    #[arg(long, value_name = "NUMBER")]
    pub(super) max_concurrent_downloads: Option<usize>,
    /// How many layers are uploaded at once [default: 5]
    #[arg(long, value_name = "NUMBER")]
    pub(super) max_concurrent_uploads: Option<usize>,
    /// How often a download is tried of which nothing comes [default: 5]
    #[arg(long, value_name = "NUMBER")]
    pub(super) max_download_attempts: Option<usize>,
    /// Another OCI runtime with runc's command line, which containers can be made by: NAME=PATH (several are possible)
    #[arg(long = "add-runtime", value_name = "RUNTIME")]
    #[serde(skip)]
    pub(super) runtime: Vec<String>,
    /// The same, from the file
    #[arg(skip)]
    pub(super) runtimes: BTreeMap<String, runtimes::FileRuntime>,
    /// The runtime of containers that choose none [default: hull]
    #[arg(long, value_name = "NAME")]
    pub(super) default_runtime: Option<String>,
    /// TLS on tcp://, without asking clients who they are
    #[arg(long)]
    pub(super) tls: bool,
    /// TLS on tcp://, for clients whose certificate the authority has signed
    #[arg(long)]
    pub(super) tlsverify: bool,
    /// The authority's certificate
    #[arg(long, value_name = "FILE")]
    pub(super) tlscacert: Option<PathBuf>,
    /// The daemon's certificate
    #[arg(long, value_name = "FILE")]
    pub(super) tlscert: Option<PathBuf>,
    /// The daemon's key
    #[arg(long, value_name = "FILE")]
    pub(super) tlskey: Option<PathBuf>,
    /// Lets everyone who reaches tcp:// have this machine: no TLS beyond loopback
    #[arg(long)]
    pub(super) allow_root_to_anyone_on_the_network: bool,
}

/// A limit as Docker's file writes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct FileUlimit {
    pub(super) name: String,
    pub(super) hard: i64,
    pub(super) soft: i64,
}

/// A pool as Docker's file writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePool {
    pub(super) base: String,
    pub(super) size: u8,
}

/// The daemon's flags, for help, manual pages and completions.
pub fn command() -> clap::Command {
    <Flags as clap::CommandFactory>::command()
}
