//! A container as inspect shows it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::mounts::MountKind;
use super::{Container, Record, Status};
use crate::model::{EndpointSettings, MountPoint};
use crate::{Engine, Result};

impl Engine {
    /// The whole of a container, in the shape of the API's `ContainerInspectResponse`. With `size` the bytes of
    /// its writable layer are told too. `minor` is the API's version: clients before 1.45 find a
    /// container's own names among its aliases.
    ///
    /// # Errors
    /// Its files cannot be looked at.
    pub fn inspect(&self, container: &Container, size: bool, minor: u32) -> Result<Value> {
        let record = container.record().clone();
        let folder = self.container_dir(&record.id);
        let file = |name: &str| folder.join(name).display().to_string();
        let (path, args) =
            record.command.split_first().map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
        let log_path = super::logs::path(
            &self.container_dir(&record.id),
            &record.id,
            &record.host_config.log_config.driver,
        );
        let mut shown = json!({
            "Id": record.id,
            "Created": record.created,
            "Path": path,
            "Args": args,
            "State": state(&record, container.health()),
            "Image": record.image_id,
            "ResolvConfPath": file("resolv.conf"),
            "HostnamePath": file("hostname"),
            "HostsPath": file("hosts"),
            "LogPath": log_path.map(|path| path.display().to_string()).unwrap_or_default(),
            "Name": format!("/{}", record.name),
            "RestartCount": record.restart_count,
            "Driver": self.images.driver().name(),
            "Platform": "linux",
            "MountLabel": record.labels.as_ref().map(|labels| labels.mount.as_str()).unwrap_or_default(),
            "ProcessLabel": record.labels.as_ref().map(|labels| labels.process.as_str()).unwrap_or_default(),
            "AppArmorProfile": record.apparmor().ok().flatten().unwrap_or_default(),
            "ExecIDs": exec_ids(container),
            "HostConfig": record.host_config,
            "GraphDriver": self.graph_driver(&record),
            "Mounts": self.mount_points(&record),
            "Config": self.shown_config(&record),
            "NetworkSettings": network_settings(&record, minor),
        });
        shown["HostConfig"]["Links"] = json!(self.shown_links(&record));
        if size {
            let own = self.images.snapshot_size(&record.id).map_err(crate::images::error)?;
            let image = self.image_of_record(&record).map_or(0, |image| image.size);
            shown["SizeRw"] = json!(own);
            shown["SizeRootFs"] = json!(own + image);
        }
        Ok(shown)
    }

    fn graph_driver(&self, record: &Record) -> Value {
        let Ok(snapshot) = self.images.snapshot(&record.id) else {
            return json!({ "Name": "overlay2", "Data": null });
        };
        if snapshot.is_whole {
            return json!({ "Name": self.images.driver().name(), "Data": null });
        }
        let lower: Vec<String> = snapshot.lower.iter().map(|path| path.display().to_string()).collect();
        json!({
            "Name": "overlay2",
            "Data": {
                "ID": record.id,
                "LowerDir": lower.join(":"),
                "UpperDir": snapshot.upper.display().to_string(),
                "WorkDir": snapshot.work.display().to_string(),
            },
        })
    }

    /// The configuration, the host name it really has put in: on another's network that is the other's.
    fn shown_config(&self, record: &Record) -> Value {
        let mut config = record.config.clone();
        if config.hostname.is_empty() {
            match record.host_config.network_mode.strip_prefix("container:") {
                Some(other) => {
                    if let Ok(other) = self.container(other) {
                        other.record().hostname().clone_into(&mut config.hostname);
                    }
                }
                None => record.hostname().clone_into(&mut config.hostname),
            }
        }
        // A struct of plain fields: it has a JSON form.
        serde_json::to_value(config).unwrap_or_default()
    }

    /// What is mounted, as inspect and list show it; `--tmpfs` is shown in the host's configuration alone.
    pub(super) fn mount_points(&self, record: &Record) -> Vec<MountPoint> {
        let mountpoint =
            |name: &str| self.volumes.get(name).ok().map(|volume| volume.mountpoint.display().to_string());
        let of_flag =
            |place: &str| record.host_config.tmpfs.as_ref().is_some_and(|tmpfs| tmpfs.contains_key(place));
        let mounts = record.mounts.iter();
        mounts
            .filter(|plan| plan.kind != MountKind::Tmpfs || !of_flag(&plan.destination))
            .map(|plan| plan.shown(mountpoint(&plan.name)))
            .collect()
    }
}

fn state(record: &Record, health: Option<Value>) -> Value {
    let state = &record.state;
    let mut shown = json!({
        "Status": state.status.word(),
        "Running": record.is_running() || state.status == Status::Restarting,
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started_at,
        "FinishedAt": state.finished_at,
        "EndReason": state.end_reason,
        "End": state.end,
    });
    if let Some(health) = health {
        shown["Health"] = health;
    }
    shown
}

fn exec_ids(container: &Container) -> Value {
    let execs = super::locked(&container.execs);
    // Those that are over are no longer the container's.
    let ids: Vec<&str> = execs.values().filter(|exec| !exec.is_over()).map(|exec| exec.id.as_str()).collect();
    if ids.is_empty() { Value::Null } else { json!(ids) }
}

/// Ports as the API shows them: an exposed one that is not published is `null`.
pub(super) fn ports(record: &Record) -> Value {
    let shown = record.ports.iter().map(|(port, bindings)| {
        let bindings = bindings
            .iter()
            .map(|binding| json!({ "HostIp": binding.host_ip, "HostPort": binding.host_port }));
        let bindings: Vec<Value> = bindings.collect();
        (port.clone(), if bindings.is_empty() { Value::Null } else { Value::Array(bindings) })
    });
    Value::Object(shown.collect::<Map<_, _>>())
}

/// The places on networks; of a container that does not run without what it does not have then.
pub(super) fn endpoints(record: &Record) -> BTreeMap<String, EndpointSettings> {
    let mut endpoints = record.endpoints.clone();
    if !record.is_running() {
        for settings in endpoints.values_mut() {
            if crate::networks::has_own_mac(settings) {
                settings.mac_address.clear();
            }
            settings.endpoint_id.clear();
            settings.gateway.clear();
            settings.ip_address.clear();
            settings.ip_prefix_len = 0;
            settings.ipv6_gateway.clear();
            settings.global_ipv6_address.clear();
            settings.global_ipv6_prefix_len = 0;
        }
    }
    endpoints
}

/// The API version from which on a container's own names are told apart from its aliases.
const DNS_NAMES: u32 = 45;

/// Before that the id's beginning was one of the aliases.
fn add_own_aliases(record: &Record, endpoints: &mut BTreeMap<String, EndpointSettings>) {
    let short = &record.id[..12];
    for settings in endpoints.values_mut().filter(|settings| settings.dns_names.is_some()) {
        let aliases = settings.aliases.get_or_insert_default();
        for name in [short, record.hostname()] {
            if !aliases.iter().any(|alias| alias == name) {
                aliases.push(name.to_owned());
            }
        }
    }
}

fn network_settings(record: &Record, minor: u32) -> Value {
    let mut endpoints = endpoints(record);
    if minor < DNS_NAMES {
        add_own_aliases(record, &mut endpoints);
    }
    let sandbox = if record.is_running() { record.id.clone() } else { String::new() };
    let key = if record.is_running() { format!("/proc/{}/ns/net", record.state.pid) } else { String::new() };
    let mut shown = json!({
        "SandboxID": sandbox,
        "SandboxKey": key,
        "Ports": ports(record),
        "Networks": endpoints,
    });
    // Docker leaves these out from API 1.52 on. Who asks by the newest version without having been written for it
    // (scripts, and clients of older days that take whatever the daemon has) still reads the address here.
    let bridge = endpoints.get("bridge").cloned().unwrap_or_default();
    let older = json!({
        "Bridge": "",
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": bridge.endpoint_id,
        "Gateway": bridge.gateway,
        "GlobalIPv6Address": bridge.global_ipv6_address,
        "GlobalIPv6PrefixLen": bridge.global_ipv6_prefix_len,
        "IPAddress": bridge.ip_address,
        "IPPrefixLen": bridge.ip_prefix_len,
        "IPv6Gateway": bridge.ipv6_gateway,
        "MacAddress": bridge.mac_address,
    });
    if let (Value::Object(shown), Value::Object(older)) = (&mut shown, older) {
        shown.extend(older);
    }
    shown
}
