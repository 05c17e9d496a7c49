//! A container as it is asked for: what runs (`Config`) and how the host runs it (`HostConfig`).

use std::collections::BTreeMap;

use serde::de::{Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{NetworkingConfig, embedded};

/// Nothing, as Go's `struct{}` looks in JSON: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The body of `POST /containers/create`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, remote = "Self")]
pub struct CreateBody {
    /// What runs: its members stand beside the others.
    #[serde(skip)]
    pub config: Config,
    /// How the host runs it.
    #[serde(rename = "HostConfig")]
    pub host_config: HostConfig,
    /// On which networks.
    #[serde(rename = "NetworkingConfig")]
    pub networking_config: NetworkingConfig,
    /// A read-only mount is so itself, and what is mounted beneath it is not: so it was before API 1.44.
    #[serde(skip)]
    pub shallow_read_only: bool,
    /// Of a build's step: layers that are mounted. No request has any.
    #[serde(skip)]
    pub layered: Vec<Layered>,
    /// The process whose end is the container's removal. Told by who has asked the kernel: no request names it.
    #[serde(skip)]
    pub ends_with: Option<i32>,
    /// Of a build's step: variables that are written down nowhere.
    #[serde(skip)]
    pub secret_env: Vec<String>,
    /// Of a build's step that never runs: it has files only, and is listed and told of nowhere.
    #[serde(skip)]
    pub hidden: bool,
}

impl<'de> Deserialize<'de> for CreateBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (body, config) =
            embedded(deserializer, "CreateBody", |members| CreateBody::deserialize(members))?;
        Ok(CreateBody { config, ..body })
    }
}

/// Folders that are mounted merged.
#[derive(Clone, Debug, Default)]
pub struct Layered {
    /// Where.
    pub target: String,
    /// The folders, uppermost first.
    pub lower: Vec<std::path::PathBuf>,
    /// An empty folder for what is written, which goes with the step.
    pub folder: std::path::PathBuf,
    /// Something may be written, for as long as the step runs.
    pub writable: bool,
}

/// What runs, wherever it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// The host name; empty: the id's first twelve digits.
    pub hostname: String,
    /// The NIS domain name.
    pub domainname: String,
    /// `user[:group]`, by name or number.
    pub user: String,
    /// Whether `run` attached standard input.
    pub attach_stdin: bool,
    /// Whether `run` attached standard output.
    pub attach_stdout: bool,
    /// Whether `run` attached standard error.
    pub attach_stderr: bool,
    /// `port/protocol` of what it listens on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// A terminal instead of three streams.
    pub tty: bool,
    /// Standard input stays open when nobody is attached.
    pub open_stdin: bool,
    /// It closes when the first client that attached leaves.
    pub stdin_once: bool,
    /// `NAME=value`; a `NAME` alone takes it out of the image's.
    pub env: Option<Vec<String>>,
    /// The command, or the entry point's arguments.
    #[serde(deserialize_with = "words")]
    pub cmd: Option<Vec<String>>,
    /// How its health is looked after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Windows only.
    #[serde(skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// The image, as it was named.
    pub image: String,
    /// Places of anonymous volumes.
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// The working directory.
    pub working_dir: String,
    /// What is executed, before `cmd`.
    #[serde(deserialize_with = "words")]
    pub entrypoint: Option<Vec<String>>,
    /// No network at all.
    #[serde(skip_serializing_if = "is_false")]
    pub network_disabled: bool,
    /// The hardware address on the default network (before API 1.44).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    /// Instructions for images built from this one.
    pub on_build: Option<Vec<String>>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// What `stop` sends.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds that `stop` waits before it kills.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// The shell of a Dockerfile's shell form.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "words")]
    pub shell: Option<Vec<String>>,
}

/// How a container's health is looked after. Durations are nanoseconds, 0 inherits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`; empty inherits.
    #[serde(skip_serializing_if = "has_no_words")]
    pub test: Option<Vec<String>>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// How long one may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// While the container starts up failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row which make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// How the host runs a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, remote = "Self")]
#[allow(missing_docs, reason = "the names and their meaning are those of the API's HostConfig")]
pub struct HostConfig {
    pub binds: Option<Vec<String>>,
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    pub log_config: LogConfig,
    pub network_mode: String,
    pub port_bindings: Option<BTreeMap<String, Vec<PortBinding>>>,
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    pub volume_driver: String,
    pub volumes_from: Option<Vec<String>>,
    pub console_size: [u16; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "words")]
    pub cap_add: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    pub cap_drop: Option<Vec<String>>,
    pub cgroupns_mode: String,
    pub dns: Option<Vec<String>>,
    pub dns_options: Option<Vec<String>>,
    pub dns_search: Option<Vec<String>>,
    pub extra_hosts: Option<Vec<String>>,
    pub group_add: Option<Vec<String>>,
    pub ipc_mode: String,
    pub cgroup: String,
    pub links: Option<Vec<String>>,
    pub oom_score_adj: i32,
    pub pid_mode: String,
    pub privileged: bool,
    pub publish_all_ports: bool,
    pub readonly_rootfs: bool,
    pub security_opt: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_opt: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs: Option<BTreeMap<String, String>>,
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    pub userns_mode: String,
    pub shm_size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctls: Option<BTreeMap<String, String>>,
    pub runtime: String,
    pub isolation: String,
    #[serde(flatten, skip_deserializing)]
    pub resources: Resources,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<Mount>>,
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// hull's own: nanoseconds of wall-clock time after which everything is killed; 0: no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// hull's own: nanoseconds of processor time after which everything is killed; 0: no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_time: i64,
}

impl<'de> Deserialize<'de> for HostConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (host, resources) =
            embedded(deserializer, "HostConfig", |members| HostConfig::deserialize(members))?;
        Ok(HostConfig { resources, ..host })
    }
}

impl Serialize for HostConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        HostConfig::serialize(self, serializer)
    }
}

/// What a container may use: the part of [`HostConfig`] that `update` changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "the names and their meaning are those of the API's Resources")]
pub struct Resources {
    pub cpu_shares: i64,
    pub memory: i64,
    pub nano_cpus: i64,
    pub cgroup_parent: String,
    pub blkio_weight: u16,
    pub blkio_weight_device: Option<Vec<WeightDevice>>,
    pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
    pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpu_realtime_period: i64,
    pub cpu_realtime_runtime: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub devices: Option<Vec<DeviceMapping>>,
    pub device_cgroup_rules: Option<Vec<String>>,
    pub device_requests: Option<Vec<DeviceRequest>>,
    pub memory_reservation: i64,
    pub memory_swap: i64,
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: Option<bool>,
    pub pids_limit: Option<i64>,
    pub ulimits: Option<Vec<Ulimit>>,
    pub cpu_count: i64,
    pub cpu_percent: i64,
    #[serde(rename = "IOMaximumIOps")]
    pub io_maximum_iops: u64,
    #[serde(rename = "IOMaximumBandwidth")]
    pub io_maximum_bandwidth: u64,
    /// Limits that the kernel has no more: read, so that who sets them is told.
    #[serde(skip_serializing)]
    pub kernel_memory: i64,
    #[serde(rename = "KernelMemoryTCP", skip_serializing)]
    pub kernel_memory_tcp: i64,
}

/// A block device and its weight, 10 to 1000.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WeightDevice {
    /// The device's path on the host.
    pub path: String,
    /// Its weight.
    pub weight: u16,
}

/// A block device and a rate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ThrottleDevice {
    /// The device's path on the host.
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// A device of the host in the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    /// On the host.
    pub path_on_host: String,
    /// In the container.
    pub path_in_container: String,
    /// Any of `r`, `w`, `m`.
    pub cgroup_permissions: String,
}

/// Devices that someone is to find: `--gpus`, or by their names of the Container Device Interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceRequest {
    /// Who is to find them; `cdi`: the interface's specifications.
    pub driver: String,
    /// How many; -1: all.
    pub count: i64,
    /// Which.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Option<Vec<String>>,
    /// What they must be able to do: any of these sets.
    pub capabilities: Option<Vec<Vec<String>>>,
    /// Of the driver.
    pub options: Option<BTreeMap<String, String>>,
}

/// A limit of `setrlimit(2)`; -1 is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// Its name, lower case, without `RLIMIT_`.
    pub name: String,
    /// The hard limit.
    pub hard: i64,
    /// The soft limit.
    pub soft: i64,
}

/// How output is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// The log driver; empty: the daemon's default.
    #[serde(rename = "Type")]
    pub driver: String,
    /// Its options.
    pub config: BTreeMap<String, String>,
}

/// Where a port is published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    /// The host's address; empty: all.
    #[serde(rename = "HostIp")]
    pub host_ip: String,
    /// A port, a range, or nothing for one of the engine's choice.
    #[serde(rename = "HostPort")]
    pub host_port: String,
}

/// What happens when the container ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `no` (or nothing), `always`, `unless-stopped`, `on-failure`.
    pub name: String,
    /// With `on-failure`: give up after so many; 0: never.
    pub maximum_retry_count: i64,
}

/// One `--mount`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs`, `image`; others are refused by name.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The volume's name or the host's path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The place in the container.
    pub target: String,
    /// Not writable.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Of no meaning on Linux, kept.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consistency: String,
    /// For binds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// For volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// For images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
    /// For tmpfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    /// For volumes of a cluster: refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_options: Option<serde_json::Value>,
}

/// Options of a bind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    /// Mounts beneath the source stay out.
    #[serde(skip_serializing_if = "is_false")]
    pub non_recursive: bool,
    /// The source is made when it is not there.
    #[serde(skip_serializing_if = "is_false")]
    pub create_mountpoint: bool,
    /// Read-only is for the mount itself, not for those beneath.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only_non_recursive: bool,
    /// Read-only must reach the mounts beneath.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only_force_recursive: bool,
}

/// Options of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// What the image holds there is not copied into an empty volume.
    #[serde(skip_serializing_if = "is_false")]
    pub no_copy: bool,
    /// Labels of a volume that is made now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Its driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<DriverConfig>,
    /// A folder inside the volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// A driver and its options.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DriverConfig {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<BTreeMap<String, String>>,
}

/// Options of an image's files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageOptions {
    /// A folder or file inside the image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// Options of a tmpfs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    /// Bytes; 0: the kernel's default.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_bytes: i64,
    /// The root folder's mode.
    #[serde(skip_serializing_if = "is_zero32")]
    pub mode: u32,
    /// Further mount options, each one or two words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<Vec<String>>>,
}

/// One place in the container's file system that comes from elsewhere, as inspect shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs` or `image`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The volume's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The host's path.
    pub source: String,
    /// The place in the container.
    pub destination: String,
    /// The volume's driver.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// As written behind `-v`'s second colon.
    pub mode: String,
    /// Writable.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// How mounts propagate.
    pub propagation: String,
}

/// The body of `POST /containers/{id}/exec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecConfig {
    /// `user[:group]`; empty: the container's.
    pub user: String,
    /// All capabilities.
    pub privileged: bool,
    /// A terminal.
    pub tty: bool,
    /// Its height and width.
    pub console_size: Option<[u16; 2]>,
    /// Standard input is open.
    pub attach_stdin: bool,
    /// Standard error is delivered.
    pub attach_stderr: bool,
    /// Standard output is delivered.
    pub attach_stdout: bool,
    /// Keys which detach.
    pub detach_keys: String,
    /// `NAME=value`, above the container's.
    pub env: Option<Vec<String>>,
    /// The working directory; empty: the container's.
    pub working_dir: String,
    /// The command.
    #[serde(deserialize_with = "words")]
    pub cmd: Option<Vec<String>>,
    /// hull's own: nanoseconds of wall-clock time; 0: no limit.
    pub timeout: i64,
    /// hull's own: nanoseconds of processor time; 0: no limit.
    pub cpu_time: i64,
    /// hull's own: it is killed, with all that came of it, when its client has gone.
    pub end_with_client: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn has_no_words(words: &Option<Vec<String>>) -> bool {
    words.as_ref().is_none_or(Vec::is_empty)
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

fn is_zero32(value: &u32) -> bool {
    *value == 0
}

/// A list of words, or one word alone.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Words;

    impl<'de> Visitor<'de> for Words {
        type Value = Option<Vec<String>>;

        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("string")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E>(self, word: &str) -> Result<Self::Value, E> {
            Ok(Some(vec![word.to_owned()]))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
            let mut words = Vec::new();
            // As in Go, where it is the whole list that is no text.
            while let Some(word) =
                elements.next_element().map_err(|_| A::Error::invalid_type(Unexpected::Seq, &Words))?
            {
                words.push(word);
            }
            Ok(Some(words))
        }
    }

    deserializer.deserialize_any(Words)
}
