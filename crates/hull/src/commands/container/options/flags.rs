//! The flags that `run` and `create` share, as typed. What they mean is in the modules beside this one.

use clap::Args;

/// Everything that describes a container to be made.
#[derive(Args, Debug, Default)]
pub struct ContainerFlags {
    /// Assign a name to the container
    #[arg(long, value_name = "string")]
    pub name: Option<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short, long, value_name = "list")]
    pub attach: Vec<String>,
    /// Set environment variables; NAME alone takes its value from here
    #[arg(short, long, value_name = "list")]
    pub env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    pub env_file: Vec<String>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long, value_name = "string")]
    pub entrypoint: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "string")]
    pub workdir: Option<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, value_name = "string")]
    pub user: Option<String>,
    /// Additional groups to join
    #[arg(long, value_name = "list")]
    pub group_add: Vec<String>,
    /// Container host name
    #[arg(short = 'h', long, value_name = "string")]
    pub hostname: Option<String>,
    /// Container NIS domain name
    #[arg(long, value_name = "string")]
    pub domainname: Option<String>,
    /// Set meta data on a container
    #[arg(short, long, value_name = "list")]
    pub label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long, value_name = "list")]
    pub label_file: Vec<String>,
    /// Add an annotation to the container (passed through to the OCI runtime)
    #[arg(long, value_name = "map")]
    pub annotation: Vec<String>,
    /// Write the container ID to the file
    #[arg(long, value_name = "string")]
    pub cidfile: Option<String>,
    /// Platform to choose where the image has several
    #[arg(long, value_name = "string", env = "DOCKER_DEFAULT_PLATFORM")]
    pub platform: Option<String>,
    /// Pull image before running: always, missing, never
    #[arg(long, value_name = "string", default_value = "missing")]
    pub pull: String,
    /// Suppress the pull output
    #[arg(short, long)]
    pub quiet: bool,
    /// Skip image verification; there is none to skip
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = crate::cli::parse_bool, value_name = "bool")]
    pub disable_content_trust: Option<bool>,

    /// Remove the container and its anonymous volumes when it exits
    #[arg(long, help_heading = "Lifetime")]
    pub rm: bool,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = crate::cli::parse_bool, value_name = "bool", help_heading = "Lifetime")]
    pub init: Option<bool>,
    /// When to restart the container after its end: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "string", default_value = "no", help_heading = "Lifetime")]
    pub restart: String,
    /// Signal to stop the container
    #[arg(long, value_name = "string", help_heading = "Lifetime")]
    pub stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container
    #[arg(long, value_name = "int", help_heading = "Lifetime")]
    pub stop_timeout: Option<String>,
    /// Kill all of the container after this time (2, 10s, 1m30s)
    #[arg(long, value_name = "duration", help_heading = "Lifetime")]
    pub timeout: Option<String>,
    /// Kill all of the container after it has used this much processor time
    #[arg(long, value_name = "duration", help_heading = "Lifetime")]
    pub cpu_time: Option<String>,

    /// Bind mount a volume or a folder (SOURCE:TARGET[:OPTIONS])
    #[arg(short, long, value_name = "list", help_heading = "Storage")]
    pub volume: Vec<String>,
    /// Attach a mount (type=bind|volume|tmpfs|image,source=...,target=...)
    #[arg(long, value_name = "mount", help_heading = "Storage")]
    pub mount: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long, value_name = "list", help_heading = "Storage")]
    pub tmpfs: Vec<String>,
    /// Mount volumes from the specified container(s)
    #[arg(long, value_name = "list", help_heading = "Storage")]
    pub volumes_from: Vec<String>,
    /// Volume driver for the container
    #[arg(long, value_name = "string", help_heading = "Storage")]
    pub volume_driver: Option<String>,
    /// Mount the container's root filesystem as read only
    #[arg(long, help_heading = "Storage")]
    pub read_only: bool,
    /// Storage driver options for the container
    #[arg(long, value_name = "list", help_heading = "Storage")]
    pub storage_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "bytes", help_heading = "Storage")]
    pub shm_size: Option<String>,
    /// Bind mount the API's socket into the container
    #[arg(long, help_heading = "Storage")]
    pub use_api_socket: bool,

    /// Connect a container to a network
    #[arg(long, visible_alias = "net", value_name = "network", help_heading = "Network")]
    pub network: Vec<String>,
    /// Publish a container's port(s) to the host ([[IP:]PORT:]PORT[/PROTOCOL])
    #[arg(short, long, value_name = "list", help_heading = "Network")]
    pub publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long, help_heading = "Network")]
    pub publish_all: bool,
    /// Expose a port or a range of ports
    #[arg(long, value_name = "list", help_heading = "Network")]
    pub expose: Vec<String>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "list", help_heading = "Network")]
    pub add_host: Vec<String>,
    /// Set custom DNS servers
    #[arg(long, value_name = "list", help_heading = "Network")]
    pub dns: Vec<String>,
    /// Set DNS options
    #[arg(long, alias = "dns-opt", value_name = "list", help_heading = "Network")]
    pub dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "list", help_heading = "Network")]
    pub dns_search: Vec<String>,
    /// Add network-scoped alias for the container
    #[arg(long, alias = "net-alias", value_name = "list", help_heading = "Network")]
    pub network_alias: Vec<String>,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long, value_name = "string", help_heading = "Network")]
    pub ip: Option<String>,
    /// IPv6 address (e.g., 2001:db8::33)
    #[arg(long, value_name = "string", help_heading = "Network")]
    pub ip6: Option<String>,
    /// Container IPv4/IPv6 link-local addresses
    #[arg(long, value_name = "list", help_heading = "Network")]
    pub link_local_ip: Vec<String>,
    /// Container MAC address (e.g., 92:d0:c6:0a:29:33)
    #[arg(long, value_name = "string", help_heading = "Network")]
    pub mac_address: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "list", help_heading = "Network")]
    pub link: Vec<String>,

    /// Memory limit
    #[arg(short, long, value_name = "bytes", help_heading = "Limits")]
    pub memory: Option<String>,
    /// Limit of memory plus swap: '-1' to enable unlimited swap
    #[arg(long, value_name = "bytes", help_heading = "Limits")]
    pub memory_swap: Option<String>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", help_heading = "Limits")]
    pub memory_reservation: Option<String>,
    /// Tune container memory swappiness (0 to 100) (default -1)
    #[arg(long, value_name = "int", help_heading = "Limits")]
    pub memory_swappiness: Option<String>,
    /// Kernel memory limit
    #[arg(long, value_name = "bytes", help_heading = "Limits")]
    pub kernel_memory: Option<String>,
    /// Disable OOM Killer
    #[arg(long, help_heading = "Limits")]
    pub oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, value_name = "int", help_heading = "Limits")]
    pub oom_score_adj: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", help_heading = "Limits")]
    pub pids_limit: Option<String>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", help_heading = "Limits")]
    pub cpus: Option<String>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "int", help_heading = "Limits")]
    pub cpu_shares: Option<String>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", help_heading = "Limits")]
    pub cpu_period: Option<String>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", help_heading = "Limits")]
    pub cpu_quota: Option<String>,
    /// Limit CPU real-time period in microseconds
    #[arg(long, value_name = "int", help_heading = "Limits")]
    pub cpu_rt_period: Option<String>,
    /// Limit CPU real-time runtime in microseconds
    #[arg(long, value_name = "int", help_heading = "Limits")]
    pub cpu_rt_runtime: Option<String>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", help_heading = "Limits")]
    pub cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", help_heading = "Limits")]
    pub cpuset_mems: Option<String>,
    /// CPU count (Windows only)
    #[arg(long, value_name = "int", hide = true)]
    pub cpu_count: Option<String>,
    /// CPU percent (Windows only)
    #[arg(long, value_name = "int", hide = true)]
    pub cpu_percent: Option<String>,
    /// Maximum IO bandwidth limit for the system drive (Windows only)
    #[arg(long, value_name = "bytes", hide = true)]
    pub io_maxbandwidth: Option<String>,
    /// Maximum IOps limit for the system drive (Windows only)
    #[arg(long, value_name = "uint", hide = true)]
    pub io_maxiops: Option<String>,
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, value_name = "uint16", help_heading = "Limits")]
    pub blkio_weight: Option<String>,
    /// Block IO weight (relative device weight)
    #[arg(long, value_name = "list", help_heading = "Limits")]
    pub blkio_weight_device: Vec<String>,
    /// Limit read rate (bytes per second) from a device
    #[arg(long, value_name = "list", help_heading = "Limits")]
    pub device_read_bps: Vec<String>,
    /// Limit read rate (IO per second) from a device
    #[arg(long, value_name = "list", help_heading = "Limits")]
    pub device_read_iops: Vec<String>,
    /// Limit write rate (bytes per second) to a device
    #[arg(long, value_name = "list", help_heading = "Limits")]
    pub device_write_bps: Vec<String>,
    /// Limit write rate (IO per second) to a device
    #[arg(long, value_name = "list", help_heading = "Limits")]
    pub device_write_iops: Vec<String>,
    /// Ulimit options (NAME=SOFT[:HARD])
    #[arg(long, value_name = "ulimit", help_heading = "Limits")]
    pub ulimit: Vec<String>,

    /// Give extended privileges to this container
    #[arg(long, help_heading = "Isolation")]
    pub privileged: bool,
    /// Add Linux capabilities
    #[arg(long, value_name = "list", help_heading = "Isolation")]
    pub cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list", help_heading = "Isolation")]
    pub cap_drop: Vec<String>,
    /// Security options
    #[arg(long, value_name = "list", help_heading = "Isolation")]
    pub security_opt: Vec<String>,
    /// Add a host device to the container
    #[arg(long, value_name = "list", help_heading = "Isolation")]
    pub device: Vec<String>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long, value_name = "list", help_heading = "Isolation")]
    pub device_cgroup_rule: Vec<String>,
    /// GPU devices to add to the container ('all' to pass all GPUs)
    #[arg(long, value_name = "gpu-request", help_heading = "Isolation")]
    pub gpus: Vec<String>,
    /// Sysctl options
    #[arg(long, value_name = "map", help_heading = "Isolation")]
    pub sysctl: Vec<String>,
    /// Parent cgroup for the container
    #[arg(long, value_name = "string", help_heading = "Isolation")]
    pub cgroup_parent: Option<String>,
    /// Cgroup namespace to use (host|private)
    #[arg(long, value_name = "string", help_heading = "Isolation")]
    pub cgroupns: Option<String>,
    /// IPC mode to use
    #[arg(long, value_name = "string", help_heading = "Isolation")]
    pub ipc: Option<String>,
    /// PID namespace to use
    #[arg(long, value_name = "string", help_heading = "Isolation")]
    pub pid: Option<String>,
    /// User namespace to use
    #[arg(long, value_name = "string", help_heading = "Isolation")]
    pub userns: Option<String>,
    /// UTS namespace to use
    #[arg(long, value_name = "string", help_heading = "Isolation")]
    pub uts: Option<String>,
    /// Container isolation technology
    #[arg(long, value_name = "string", help_heading = "Isolation")]
    pub isolation: Option<String>,
    /// Runtime to use for this container
    #[arg(long, value_name = "string", help_heading = "Isolation")]
    pub runtime: Option<String>,

    /// Command to run to check health
    #[arg(long, value_name = "string", help_heading = "Health and logs")]
    pub health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h)
    #[arg(long, value_name = "duration", help_heading = "Health and logs")]
    pub health_interval: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "int", help_heading = "Health and logs")]
    pub health_retries: Option<String>,
    /// Time between running the check during the start period (ms|s|m|h)
    #[arg(long, value_name = "duration", help_heading = "Health and logs")]
    pub health_start_interval: Option<String>,
    /// Start period for the container to initialize before failures count (ms|s|m|h)
    #[arg(long, value_name = "duration", help_heading = "Health and logs")]
    pub health_start_period: Option<String>,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long, value_name = "duration", help_heading = "Health and logs")]
    pub health_timeout: Option<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long, help_heading = "Health and logs")]
    pub no_healthcheck: bool,
    /// Logging driver for the container
    #[arg(long, value_name = "string", help_heading = "Health and logs")]
    pub log_driver: Option<String>,
    /// Log driver options
    #[arg(long, value_name = "list", help_heading = "Health and logs")]
    pub log_opt: Vec<String>,

    /// The image, the command and its arguments: one list, so that what follows the image is never a flag of ours.
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    pub image_and_command: Vec<String>,
}
