//! `info` and `version`: what this machine is, and what hull makes of it.

use std::fs;

use hull_image::registry::Settings;
use hull_image::{Driver, Platform};
use hull_runtime::cgroup::{Hierarchy, HierarchyMode as Mode, hierarchy};
use serde_json::{Value, json};

use crate::config::{DaemonConfig, DefaultSeccomp};
use crate::container::cdi::Registry;
use crate::container::{now_ns, rfc3339};
use crate::engine::Engine;

/// How images and containers are stored, as clients read it: the name that Docker has for overlayfs mounts over a
/// content store. `overlay2` would promise the folders of Docker's own driver.
pub const STORAGE_DRIVER: &str = "overlayfs";

/// hull's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Engine {
    /// The body of `GET /info`.
    pub fn info(&self) -> Value {
        let (running, paused, stopped) = self.container_counts();
        let system = rustix::system::uname();
        let kernel = system.release().to_string_lossy().into_owned();
        let os = OsRelease::read();
        let cgroups = hierarchy();
        let limits = Limits::of(cgroups);
        let pools: Vec<Value> = self.config.address_pools.iter().filter_map(|text| pool(text)).collect();
        let mut info = json!({
            "ID": self.id,
            "Containers": running + paused + stopped,
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": stopped,
            "Images": self.images.images().len(),
            "Driver": self.images.driver().name(),
            "DriverStatus": self.driver_status(),
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
                "Authorization": null,
                "Log": ["json-file", "local", "none"],
            },
            "MemoryLimit": limits.memory,
            "SwapLimit": limits.swap,
            "KernelMemoryTCP": false,
            "CpuCfsPeriod": limits.cpu,
            "CpuCfsQuota": limits.cpu,
            "CPUShares": limits.cpu,
            "CPUSet": cgroups.has("cpuset"),
            "PidsLimit": cgroups.has("pids"),
            "OomKillDisable": cgroups.v1_of("memory").is_some(),
            "IPv4Forwarding": read("/proc/sys/net/ipv4/ip_forward") == "1",
            "BridgeNfIptables": false,
            "BridgeNfIp6tables": false,
        });
        let reloadable = self.reloadable();
        let more = json!({
            "Debug": reloadable.debug,
            "NFd": fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            "NGoroutines": 0,
            "SystemTime": rfc3339(now_ns()),
            "LoggingDriver": match self.config.log.driver.as_str() { "" => "json-file", driver => driver },
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": if cgroups.mode == Mode::V2 { "2" } else { "1" },
            "NEventsListener": self.events.listeners(),
            "KernelVersion": kernel,
            "OperatingSystem": os.pretty_name,
            "OSVersion": os.version_id,
            "OSType": "linux",
            "Architecture": system.machine().to_string_lossy(),
            "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
            "MemTotal": memory_total(&read("/proc/meminfo")),
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": registries(&self.registries().settings()),
            "GenericResources": null,
        });
        let proxies = &self.config.registries.proxies;
        let rest = json!({
            "DockerRootDir": self.config.data_root,
            "HttpProxy": without_password(&proxies.http),
            "HttpsProxy": without_password(&proxies.https),
            "NoProxy": proxies.no,
            "Name": system.nodename().to_string_lossy(),
            "Labels": reloadable.labels,
            "ExperimentalBuild": self.config.experimental,
            "ServerVersion": VERSION,
            "Runtimes": reloadable.runtimes.described(),
            "DefaultRuntime": reloadable.runtimes.default_name(),
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": false,
                "Error": "",
                "RemoteManagers": null,
            },
            "LiveRestoreEnabled": self.config.live_restore,
            "Isolation": "",
            "InitBinary": "hull",
            "ContainerdCommit": { "ID": "" },
            "RuncCommit": { "ID": "" },
            "InitCommit": { "ID": "" },
            "SecurityOptions": security(cgroups, &self.config, self.selinux.is_some()),
            "FirewallBackend": { "Driver": "nftables" },
            "CDISpecDirs": self.config.cdi_spec_dirs,
            "Warnings": limits.warnings(cgroups),
        });
        // In three pieces, for the macro's sake.
        for (name, value) in [more, rest].into_iter().flat_map(|piece| match piece {
            Value::Object(members) => members,
            _ => serde_json::Map::new(),
        }) {
            info[name] = value;
        }
        let devices = Registry::read(&self.config.cdi_spec_dirs);
        let devices: Vec<Value> = devices.names().map(|id| json!({ "Source": "cdi", "ID": id })).collect();
        if !devices.is_empty() {
            info["DiscoveredDevices"] = Value::Array(devices);
        }
        if !pools.is_empty() {
            info["DefaultAddressPools"] = Value::Array(pools);
        }
        info
    }

    /// The body of `GET /version`. `versions` are the oldest and the newest version of the API, `1.24`.
    pub fn version(&self, versions: (&str, &str)) -> Value {
        let (oldest, newest) = versions;
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let architecture = Platform::host().architecture;
        let mut version = json!({
            "Platform": { "Name": "hull" },
            "Components": [{
                "Name": "Engine",
                "Version": VERSION,
                "Details": {
                    "ApiVersion": newest,
                    "Arch": architecture,
                    "BuildTime": "",
                    "Experimental": self.config.experimental.to_string(),
                    "GitCommit": "",
                    "GoVersion": "",
                    "KernelVersion": kernel,
                    "MinAPIVersion": oldest,
                    "Os": "linux",
                },
            }],
            "Version": VERSION,
            "ApiVersion": newest,
            "MinAPIVersion": oldest,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": architecture,
            "KernelVersion": kernel,
            "BuildTime": "",
        });
        if self.config.experimental {
            version["Experimental"] = Value::Bool(true);
        }
        version
    }
}

/// What the configuration says of registries.
fn registries(settings: &Settings) -> Value {
    let mirrors: Vec<String> =
        settings.mirrors.iter().map(|mirror| format!("{}/", mirror.trim_end_matches('/'))).collect();
    let (mut networks, hosts): (Vec<&str>, Vec<&str>) =
        settings.insecure.iter().map(String::as_str).partition(|entry| entry.contains('/'));
    networks.extend(["::1/128", "127.0.0.0/8"]);
    let mut indexes = json!({
        "docker.io": { "Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true },
    });
    for host in hosts {
        indexes[host] = json!({ "Name": host, "Mirrors": [], "Secure": false, "Official": false });
    }
    json!({
        "InsecureRegistryCIDRs": networks,
        "IndexConfigs": indexes,
        "Mirrors": if mirrors.is_empty() { Value::Null } else { json!(mirrors) },
    })
}

/// A proxy's address, its password left out.
fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    match rest.rsplit_once('@') {
        None => address.to_owned(),
        Some((_, host)) if scheme.is_empty() => format!("xxxxx:xxxxx@{host}"),
        Some((_, host)) => format!("{scheme}://xxxxx:xxxxx@{host}"),
    }
}

/// What containers can be limited in here.
struct Limits {
    memory: bool,
    swap: bool,
    cpu: bool,
}

impl Limits {
    fn of(cgroups: &Hierarchy) -> Limits {
        let swap = match cgroups.v1_of("memory") {
            Some(memory) => memory.folder.join("memory.memsw.limit_in_bytes").exists(),
            None => cgroups.is_unified("memory"),
        };
        Limits { memory: cgroups.has("memory"), swap, cpu: cgroups.has("cpu") }
    }

    fn warnings(&self, cgroups: &Hierarchy) -> Value {
        let all = [
            (self.memory, "WARNING: No memory limit support"),
            (self.swap, "WARNING: No swap limit support"),
            (self.cpu, "WARNING: No cpu cfs quota support"),
            (cgroups.has("cpuset"), "WARNING: No cpuset support"),
            (cgroups.has("pids"), "WARNING: No pids limit support"),
        ];
        let missing: Vec<&str> =
            all.iter().filter(|(is_there, _)| !is_there).map(|(_, warning)| *warning).collect();
        if missing.is_empty() { Value::Null } else { json!(missing) }
    }
}

/// What confines containers, in Docker's order.
fn confining(apparmor: bool, seccomp: &str, selinux: bool) -> Vec<String> {
    let seccomp = format!("name=seccomp,profile={seccomp}");
    let named = |is_there: bool, name: &str| is_there.then(|| name.to_owned());
    [named(apparmor, "name=apparmor"), Some(seccomp), named(selinux, "name=selinux")]
        .into_iter()
        .flatten()
        .collect()
}

fn security(cgroups: &Hierarchy, config: &DaemonConfig, selinux: bool) -> Vec<String> {
    let profile = match &config.defaults.seccomp {
        DefaultSeccomp::BuiltIn => "builtin",
        DefaultSeccomp::Unconfined => "unconfined",
        DefaultSeccomp::Profile { path, .. } => path,
    };
    let mut options = confining(hull_runtime::apparmor::is_enabled(), profile, selinux);
    if config.userns_remap.is_some() {
        options.push("name=userns".to_owned());
    }
    if cgroups.mode == Mode::V2 {
        options.push("name=cgroupns".to_owned());
    }
    if config.defaults.no_new_privileges {
        options.push("name=no-new-privileges".to_owned());
    }
    options
}

/// What `/etc/os-release` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct OsRelease {
    pretty_name: String,
    version_id: String,
}

impl OsRelease {
    fn read() -> OsRelease {
        let text =
            fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
        OsRelease::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> OsRelease {
        let mut release = OsRelease { pretty_name: "Linux".to_owned(), version_id: String::new() };
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let value = value.trim().trim_matches(['"', '\'']).to_owned();
            match name.trim() {
                "PRETTY_NAME" => release.pretty_name = value,
                "VERSION_ID" => release.version_id = value,
                _ => {}
            }
        }
        release
    }
}

/// The bytes of memory, of `/proc/meminfo`'s text.
fn memory_total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kilobytes.unwrap_or_default() * 1024
}

/// `base=10.10.0.0/16,size=24` as info shows it.
fn pool(text: &str) -> Option<Value> {
    let pool: hull_network::ipam::DefaultPool = text.parse().ok()?;
    Some(json!({ "Base": pool.base.to_string(), "Size": pool.size }))
}

impl Engine {
    /// What the storage driver is on, in the words of Docker's drivers.
    fn driver_status(&self) -> Value {
        let beneath =
            hull_image::disk::file_system(&self.config.data_root).map(hull_image::disk::FileSystem::name);
        let beneath = beneath.unwrap_or("unknown");
        let limits = self.images.check_limits().is_ok().to_string();
        match self.images.driver() {
            Driver::Overlay => json!([
                ["Backing Filesystem", beneath],
                ["Supports d_type", "true"],
                ["Using metacopy", "false"],
                ["Native Overlay Diff", "true"],
                ["userxattr", "false"],
                ["Limits", limits],
            ]),
            Driver::Btrfs | Driver::Copies => json!([["Backing Filesystem", beneath], ["Limits", limits]]),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_confines_is_told_in_dockers_words_and_order() {
        assert_eq!(confining(false, "builtin", false), ["name=seccomp,profile=builtin"]);
        let all = ["name=apparmor", "name=seccomp,profile=unconfined", "name=selinux"];
        assert_eq!(confining(true, "unconfined", true), all);
    }

    #[test]
    fn registries_are_shown_as_docker_shows_them() {
        let settings = Settings {
            mirrors: vec!["https://m.example".into()],
            insecure: vec!["r:5000".into(), "10.0.0.0/8".into()],
            ..Settings::default()
        };
        let shown = registries(&settings);
        assert_eq!(shown["Mirrors"], json!(["https://m.example/"]));
        assert_eq!(shown["InsecureRegistryCIDRs"], json!(["10.0.0.0/8", "::1/128", "127.0.0.0/8"]));
        assert_eq!(shown["IndexConfigs"]["r:5000"]["Secure"], json!(false));
        assert_eq!(without_password("http://u:p@proxy:3128"), "http://xxxxx:xxxxx@proxy:3128");
        assert_eq!(without_password("proxy:3128"), "proxy:3128");
    }

    #[test]
    fn the_machine_is_read() {
        let release =
            OsRelease::parse("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n");
        assert_eq!(release.pretty_name, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(release.version_id, "12");
        assert_eq!(OsRelease::parse("").pretty_name, "Linux");
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), 2048 * 1024);
        assert_eq!(memory_total("nonsense"), 0);
    }
}
