//! The daemon's flags, which are the keys of its configuration file as well.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::Parser;
use clap::builder::BoolishValueParser as Truth;
use serde::Deserialize;

use super::runtimes;

/// Runs the engine that clients talk to.
///
/// Containers do not depend on the daemon's life: end it, start it again, and they run on.
#[derive(Clone, Debug, Default, Parser, Deserialize)]
#[command(name = "hull daemon", no_binary_name = true, version)]
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
    /// A JSON file with Docker's keys [default: /etc/hull/daemon.json, if it is there; as dockerd /etc/docker/daemon.json]
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
    /// The default network's bridge: one that stands already, or none
    #[arg(short = 'b', long, value_name = "NAME")]
    pub(super) bridge: Option<String>,
    /// The part of its subnet that containers' addresses are from: ADDRESS/BITS
    #[arg(long, value_name = "SUBNET")]
    pub(super) fixed_cidr: Option<String>,
    /// Its IPv6 subnet
    #[arg(long, value_name = "SUBNET")]
    pub(super) fixed_cidr_v6: Option<String>,
    /// The router that its containers use [default: the bridge]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) default_gateway: Option<Ipv4Addr>,
    /// The same for IPv6
    #[arg(long, value_name = "ADDRESS")]
    pub(super) default_gateway_v6: Option<Ipv6Addr>,
    /// Gives its containers IPv6 addresses, too
    #[arg(long)]
    pub(super) ipv6: bool,
    /// Its MTU
    #[arg(long, value_name = "BYTES")]
    pub(super) mtu: Option<u32>,
    /// Whether its containers reach each other [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = Truth::new())]
    pub(super) icc: Option<bool>,
    /// Whether what leaves it takes this machine's address [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = Truth::new())]
    pub(super) ip_masq: Option<bool>,
    /// Where its containers' ports are published that do not say [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) ip: Option<Ipv4Addr>,
    /// An option of networks that do not set it: DRIVER=NAME=VALUE
    #[arg(long = "default-network-opt", value_name = "OPTION")]
    #[serde(skip)]
    pub(super) default_network_opt: Vec<String>,
    /// The same, from the file
    #[arg(skip)]
    pub(super) default_network_opts: BTreeMap<String, BTreeMap<String, String>>,
    /// What host-gateway stands for in --add-host [default: the default network's bridge]
    #[arg(long = "host-gateway-ip", value_name = "ADDRESS")]
    #[serde(rename = "host-gateway-ips")]
    pub(super) host_gateway_ip: Vec<IpAddr>,
    /// The same, of a file with one of them
    #[arg(skip)]
    #[serde(rename = "host-gateway-ip")]
    pub(super) one_host_gateway_ip: Option<IpAddr>,
    /// Ports are published and networks kept apart by nftables: false is refused
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = Truth::new())]
    pub(super) iptables: Option<bool>,
    /// The same for IPv6
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = Truth::new())]
    pub(super) ip6tables: Option<bool>,
    /// Packets of containers are forwarded: false is refused
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = Truth::new())]
    pub(super) ip_forward: Option<bool>,
    /// Shims answer by IPv6 at the published ports of containers that have IPv4 only; all else is led by the kernel in
    /// any case [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = Truth::new())]
    pub(super) userland_proxy: Option<bool>,
    /// The size of /dev/shm of containers that do not say [default: 64m]
    #[arg(long, value_name = "SIZE")]
    pub(super) default_shm_size: Option<FileSize>,
    /// The IPC mode of containers that do not say: private or shareable [default: private]
    #[arg(long, value_name = "MODE")]
    pub(super) default_ipc_mode: Option<String>,
    /// The cgroup namespace of containers that do not say: private or host [default: private]
    #[arg(long, value_name = "MODE")]
    pub(super) default_cgroupns_mode: Option<String>,
    /// Gives containers that do not say an init as process 1
    #[arg(long)]
    pub(super) init: bool,
    /// The cgroup that containers' cgroups are made beneath [default: the daemon's own]
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup_parent: Option<String>,
    /// Lets no program in containers that do not say gain privileges
    #[arg(long)]
    pub(super) no_new_privileges: bool,
    /// Gives containers SELinux labels, where the machine has SELinux
    #[arg(long)]
    pub(super) selinux_enabled: bool,
    /// The system call filter of containers that choose none: a file with Docker's format, builtin or unconfined
    #[arg(long, value_name = "PROFILE")]
    pub(super) seccomp_profile: Option<String>,
    /// Whether containers run on when the daemon ends [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = Truth::new())]
    pub(super) live_restore: Option<bool>,
    /// How many seconds containers have to end with the daemon, where they do; -1: as many as they need [default: 15]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) shutdown_timeout: Option<i64>,
    /// The daemon's own oom_score_adj
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(super) oom_score_adjust: Option<i32>,
    /// Says so in info and version; there is nothing else to it
    #[arg(long)]
    pub(super) experimental: bool,
    /// An option of how containers are made: native.cgroupdriver=cgroupfs
    #[arg(long = "exec-opt", value_name = "OPTION")]
    #[serde(rename = "exec-opts")]
    pub(super) exec_opt: Vec<String>,
    /// The form of messages: text or json
    #[arg(long, value_name = "FORM")]
    pub(super) log_format: Option<String>,
    /// The proxy to registries by http, instead of the environment's
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip)]
    pub(super) http_proxy: Option<String>,
    /// The same by https
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip)]
    pub(super) https_proxy: Option<String>,
    /// What is reached without a proxy
    #[arg(long, value_name = "HOSTS")]
    #[serde(skip)]
    pub(super) no_proxy: Option<String>,
    /// The same, from the file
    #[arg(skip)]
    pub(super) proxies: FileProxies,
    /// Features of Docker's by their names, from the file: what hull has may be said
    #[arg(skip)]
    pub(super) features: BTreeMap<String, bool>,
    /// Where Docker's containerd is: hull has none, and says so
    #[arg(long, value_name = "ADDRESS")]
    pub(super) containerd: Option<String>,
    /// Docker's name in containerd
    #[arg(long, value_name = "NAME")]
    pub(super) containerd_namespace: Option<String>,
    /// The same for plug-ins
    #[arg(long, value_name = "NAME")]
    #[serde(rename = "containerd-plugin-namespace")]
    pub(super) containerd_plugins_namespace: Option<String>,
    /// It was called by the name dockerd, whose places it has then
    #[arg(skip)]
    #[serde(skip)]
    pub(super) is_dockerd: bool,
    /// Looks at flags and file, says what is wrong with them, and ends
    #[arg(long)]
    #[serde(skip)]
    pub(super) validate: bool,
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

/// A size as Docker's file writes it: bytes, or text with a unit.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum FileSize {
    /// Bytes.
    Bytes(i64),
    /// `64m`.
    Text(String),
}

impl From<String> for FileSize {
    fn from(text: String) -> FileSize {
        FileSize::Text(text)
    }
}

impl FileSize {
    /// In bytes; none: it is no size.
    pub(super) fn bytes(&self) -> Option<i64> {
        match self {
            FileSize::Bytes(bytes) => Some(*bytes),
            FileSize::Text(text) => hull_engine::size_of(text).and_then(|bytes| i64::try_from(bytes).ok()),
        }
        .filter(|bytes| *bytes > 0)
    }
}

/// Proxies as Docker's file writes them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct FileProxies {
    pub(super) http_proxy: Option<String>,
    pub(super) https_proxy: Option<String>,
    pub(super) no_proxy: Option<String>,
}

/// The daemon's flags, for help, manual pages and completions.
pub fn command() -> clap::Command {
    <Flags as clap::CommandFactory>::command()
}
