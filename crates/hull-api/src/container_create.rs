//! `POST /containers/create`: what a body means in the version of the API that it is written in.

use hull_engine::model::{Config, CreateBody, EndpointSettings, HostConfig, NetworkingConfig, PortBinding};
use hull_engine::{Error, Result, model};
use hull_runtime::cgroup::{HierarchyMode, hierarchy};
use hyper::StatusCode;
use serde_json::json;

use crate::http::{self, Request, Response, Version};

const VOLUME_DRIVER_IGNORED: &str = "WARNING: the container-wide volume-driver configuration is ignored for volumes \
    specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead";

const MAC_ADDRESS_MOVED: &str = "The container-wide MacAddress field is now deprecated. It should be specified in \
    EndpointsConfig instead.";

/// The version without a hardware address of the container's own.
const MAC_ADDRESS_ENDED: Version = 52;

/// The option of a place on a network that holds the kernel's settings of its interface.
pub(crate) const ENDPOINT_SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

pub(crate) async fn create(mut request: Request) -> Result<Response> {
    let members = request.json_object().await?.unwrap_or_default();
    // What is beside the container's own configuration does not make one.
    let beside =
        |name: &str| ["HostConfig", "NetworkingConfig"].iter().any(|other| other.eq_ignore_ascii_case(name));
    let has_configuration = !members.names().all(beside);
    let mut body: CreateBody = model::from_object(members)?;
    if !has_configuration {
        return Err(Error::invalid("config cannot be empty in order to create a container"));
    }
    if request.knows_the_end_of(MAC_ADDRESS_ENDED) && !body.config.mac_address.is_empty() {
        return Err(Error::invalid(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address instead",
        ));
    }
    let mut warnings = in_version(&mut body, request.version)?;
    request.judge(&mut body)?;
    if request.guard.is_none() {
        older_namespaces(&mut body.host_config, request.version);
    }
    // hull's own: a container that is the calling process's, and goes with it.
    if request.query.flag("end-with-caller") {
        body.ends_with = Some(request.owner("a container that ends with its caller")?);
    }
    let platform = if request.version >= 41 { crate::images::platform(&request.query)? } else { None };
    match &platform {
        Some(platform) => request.engine.image_on_platform(&body.config.image, platform)?,
        None => warnings.extend(request.engine.image_of_elsewhere(&body.config.image)),
    }
    let mut created =
        request.engine.create_container(request.query.text("name"), body, request.caller).await?;
    created.warnings.extend(warnings);
    http::json(StatusCode::CREATED, &json!({ "Id": created.id, "Warnings": created.warnings }))
}

/// Reads a body as its version of the API means it: what a later one has added does not count, and defaults are that
/// version's. The warnings that it earns.
fn in_version(body: &mut CreateBody, version: Version) -> Result<Vec<String>> {
    body.shallow_read_only = version < 44;
    let CreateBody { config, host_config: host, networking_config: networking, .. } = body;
    forget_what_came_later(config, host, version);
    if version < 48 {
        networking.endpoints_config.values_mut().for_each(|settings| settings.gw_priority = 0);
    }
    refuse_what_came_later(host, networking, version)?;
    let mut warnings = Vec::new();
    let volume_without_driver = host.mounts.iter().flatten().any(|mount| {
        let driver = mount.volume_options.as_ref().and_then(|options| options.driver_config.as_ref());
        mount.kind == "volume" && driver.is_none_or(|driver| driver.name.is_empty())
    });
    if version >= 48 && !host.volume_driver.is_empty() && volume_without_driver {
        warnings.push(VOLUME_DRIVER_IGNORED.to_owned());
    }
    warnings.extend(move_mac_address(config, host, networking, version)?);
    warnings.extend(move_sysctls(host, networking, version)?);
    warnings.extend(empty_port_bindings(host, version));
    // Zero and less always meant no limit, and -1 the kernel's own swappiness.
    host.resources.pids_limit = host.resources.pids_limit.filter(|limit| *limit > 0);
    host.resources.memory_swappiness = host.resources.memory_swappiness.filter(|value| *value != -1);
    Ok(warnings)
}

fn forget_what_came_later(config: &mut Config, host: &mut HostConfig, version: Version) {
    if version < 25 {
        host.auto_remove = false;
    }
    if version < 43 {
        host.annotations = None;
    }
    if version < 44
        && let Some(check) = &mut config.healthcheck
    {
        check.start_interval = 0;
    }
    for mount in host.mounts.iter_mut().flatten() {
        if let Some(options) = &mut mount.bind_options {
            options.non_recursive &= version >= 40;
            options.create_mountpoint &= version >= 42;
        }
        // Nobody looked whether they are another kind's until then.
        if version < 42 && mount.kind != "tmpfs" {
            mount.tmpfs_options = None;
        }
    }
}

/// What was not private before it could be told. A socket's policy is for the present: with one all of it is private.
fn older_namespaces(host: &mut HostConfig, version: Version) {
    if version < 40 && host.ipc_mode.is_empty() {
        host.ipc_mode = "shareable".to_owned();
    }
    if version < 41 && host.cgroupns_mode.is_empty() && hierarchy().mode != HierarchyMode::V2 {
        host.cgroupns_mode = "host".to_owned();
    }
}

/// What may not be ignored: who sends it relies on it.
fn refuse_what_came_later(host: &HostConfig, networking: &NetworkingConfig, version: Version) -> Result<()> {
    let refused = |what: &str| Err(Error::invalid(what.to_owned()));
    for mount in host.mounts.iter().flatten() {
        let force = mount.bind_options.as_ref().is_some_and(|options| options.read_only_force_recursive);
        if version < 44 && mount.kind == "bind" && force {
            return refused("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer");
        }
        if version < 48 && mount.kind == "image" {
            return refused("Mount type \"image\" needs API v1.48 or newer");
        }
        let subpath = mount.volume_options.as_ref().is_some_and(|options| !options.subpath.is_empty());
        if version < 45 && subpath {
            return refused("VolumeOptions.Subpath needs API v1.45 or newer");
        }
    }
    let endpoints = &networking.endpoints_config;
    if version < 44 && endpoints.len() > 1 {
        let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
        return Err(Error::invalid(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    Ok(())
}

/// The container's hardware address belongs to its place on a network since 1.44; before, a place had none.
fn move_mac_address(
    config: &mut Config,
    host: &HostConfig,
    networking: &mut NetworkingConfig,
    version: Version,
) -> Result<Option<String>> {
    let endpoints = &mut networking.endpoints_config;
    let mode = match host.network_mode.as_str() {
        "" | "default" => "bridge",
        mode => mode,
    };
    let has_places = !matches!(mode, "host" | "none") && !mode.starts_with("container:");
    if version < 44 {
        if config.mac_address.is_empty() {
            endpoints.values_mut().for_each(|settings| settings.mac_address.clear());
        } else if !has_places {
            return Err(Error::invalid("conflicting options: mac-address and the network mode"));
        }
        return Ok(None);
    }
    if config.mac_address.is_empty() {
        return Ok(None);
    }
    let address = std::mem::take(&mut config.mac_address);
    if has_places {
        if endpoints.is_empty() {
            endpoints.insert(mode.to_owned(), EndpointSettings::default());
        }
        let settings = endpoints.get_mut(mode).ok_or_else(|| {
            Error::invalid(
                "unable to migrate container-wide MAC address to a specific network: HostConfig.NetworkMode must match \
                 the identity of a network in NetworkSettings.Networks",
            )
        })?;
        if settings.mac_address.is_empty() {
            settings.mac_address = address;
        } else if settings.mac_address != address {
            return Err(Error::invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be \
                 left empty",
            ));
        }
    }
    Ok(Some(MAC_ADDRESS_MOVED.to_owned()))
}

/// The kernel's settings of an interface are its place's on a network since 1.46. Until 1.47 those of `eth0` are moved
/// there; with which network another interface goes nobody could tell.
fn move_sysctls(
    host: &mut HostConfig,
    networking: &mut NetworkingConfig,
    version: Version,
) -> Result<Option<String>> {
    let mode = match host.network_mode.as_str() {
        "" | "default" => "bridge",
        mode => mode,
    };
    let Some(sysctls) = host.sysctls.as_mut() else { return Ok(None) };
    if matches!(mode, "host" | "none") || mode.starts_with("container:") {
        return Ok(None);
    }
    let (mut moved, mut settings) = (Vec::new(), Vec::new());
    for (name, value) in sysctls.iter() {
        let parts: Vec<&str> = name.splitn(5, '.').collect();
        let ["net", family, kind, interface, setting] = parts[..] else { continue };
        if !interface.starts_with("eth") {
            continue;
        }
        if version > 47 {
            return Err(Error::invalid(format!(
                "interface specific sysctl setting {name:?} must be supplied using driver option '{ENDPOINT_SYSCTLS}'"
            )));
        }
        if interface != "eth0" {
            return Err(Error::invalid(format!(
                "unable to determine network endpoint for sysctl {name}, use driver option '{ENDPOINT_SYSCTLS}' to set \
                 per-interface sysctls"
            )));
        }
        moved.push(name.clone());
        settings.push(format!("net.{family}.{kind}.IFNAME.{setting}={value}"));
    }
    if moved.is_empty() {
        return Ok(None);
    }
    sysctls.retain(|name, _| !moved.contains(name));
    let endpoints = &mut networking.endpoints_config;
    let endpoint = match endpoints.len() {
        0 => endpoints.entry(mode.to_owned()).or_default(),
        _ => endpoints.get_mut(mode).ok_or_else(|| {
            let name = moved.first().map_or("", String::as_str);
            Error::invalid(format!(
                "unable to find a network for sysctl {name}: {mode} is none of the container's"
            ))
        })?,
    };
    let options = endpoint.driver_opts.get_or_insert_default();
    if let Some(given) = options.get(ENDPOINT_SYSCTLS).filter(|given| !given.is_empty()) {
        settings.insert(0, given.clone());
    }
    let settings = settings.join(",");
    options.insert(ENDPOINT_SYSCTLS.to_owned(), settings.clone());
    Ok(Some(format!("Migrated {} to DriverOpts{{{ENDPOINT_SYSCTLS:?}:{settings:?}}}.", moved.join(","))))
}

/// A port with an empty list of places was published at one of the engine's choice until 1.53; since then it is not.
fn empty_port_bindings(host: &mut HostConfig, version: Version) -> Option<String> {
    let bindings = host.port_bindings.as_mut()?;
    if version > 52 {
        bindings.retain(|_, places| !places.is_empty());
        return None;
    }
    let mut empty = Vec::new();
    for (port, places) in bindings.iter_mut().filter(|(_, places)| places.is_empty()) {
        places.push(PortBinding::default());
        empty.push(port.as_str());
    }
    (version == 52 && !empty.is_empty()).then(|| {
        format!(
            "Following container port(s) have an empty list of port-bindings: {}. Starting with API 1.53, such bindings \
             will be discarded.",
            empty.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: serde_json::Value) -> CreateBody {
        model::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_old_client_gets_the_defaults_that_it_knows() {
        let mut asked = body(json!({ "Image": "x", "HostConfig": {
            "AutoRemove": true,
            "Annotations": { "a": "b" },
            "PidsLimit": -1,
            "Mounts": [{ "Type": "bind", "Source": "/a", "Target": "/b", "TmpfsOptions": {},
                         "BindOptions": { "NonRecursive": true, "CreateMountpoint": true } }],
        }}));
        assert!(in_version(&mut asked, 24).unwrap().is_empty());
        let host = &asked.host_config;
        assert!(!host.auto_remove && host.annotations.is_none() && host.resources.pids_limit.is_none());
        let mount = &host.mounts.as_ref().unwrap()[0];
        assert_eq!(mount.bind_options, Some(model::BindOptions::default()));
        assert!(mount.tmpfs_options.is_none());
        older_namespaces(&mut asked.host_config, 24);
        assert_eq!(asked.host_config.ipc_mode, "shareable");
    }

    #[test]
    fn what_an_old_version_cannot_promise_is_refused() {
        let mount =
            |options: serde_json::Value| json!({ "Image": "x", "HostConfig": { "Mounts": [options] } });
        let forced = mount(json!({ "Type": "bind", "BindOptions": { "ReadOnlyForceRecursive": true } }));
        assert!(in_version(&mut body(forced.clone()), 43).unwrap_err().message.contains("1.44"));
        in_version(&mut body(forced), 44).unwrap();
        let subpath = mount(json!({ "Type": "volume", "VolumeOptions": { "Subpath": "a" } }));
        assert!(in_version(&mut body(subpath), 44).unwrap_err().message.contains("1.45"));
        let two = json!({ "Image": "x", "NetworkingConfig": { "EndpointsConfig": { "a": {}, "b": {} } } });
        let error = in_version(&mut body(two.clone()), 43).unwrap_err();
        assert!(error.message.ends_with("multiple network endpoints: a, b"), "{}", error.message);
        in_version(&mut body(two), 44).unwrap();
    }

    #[test]
    fn the_containers_hardware_address_moves_to_its_network() {
        let asked = json!({ "Image": "x", "MacAddress": "02:42:00:00:00:01" });
        let mut old = body(asked.clone());
        assert!(in_version(&mut old, 43).unwrap().is_empty());
        assert_eq!(old.config.mac_address, "02:42:00:00:00:01");
        let mut new = body(asked);
        assert_eq!(in_version(&mut new, 44).unwrap(), [MAC_ADDRESS_MOVED]);
        assert_eq!(new.config.mac_address, "");
        let endpoints = &new.networking_config.endpoints_config;
        assert_eq!(endpoints["bridge"].mac_address, "02:42:00:00:00:01");
    }

    #[test]
    fn an_interfaces_settings_move_to_its_network() {
        let asked = |name: &str| json!({ "Image": "x", "HostConfig": { "Sysctls": { name: "1", "net.ipv4.ip_forward": "1" } } });
        let mut old = body(asked("net.ipv4.conf.eth0.log_martians"));
        let warnings = in_version(&mut old, 47).unwrap();
        assert!(
            warnings[0].starts_with("Migrated net.ipv4.conf.eth0.log_martians to DriverOpts"),
            "{warnings:?}"
        );
        let options = old.networking_config.endpoints_config["bridge"].driver_opts.as_ref().unwrap();
        assert_eq!(options[ENDPOINT_SYSCTLS], "net.ipv4.conf.IFNAME.log_martians=1");
        assert_eq!(old.host_config.sysctls.unwrap().into_keys().collect::<Vec<_>>(), ["net.ipv4.ip_forward"]);
        let refused = |name: &str, version| in_version(&mut body(asked(name)), version).unwrap_err().message;
        assert!(
            refused("net.ipv4.conf.eth0.log_martians", 48).contains("must be supplied using driver option")
        );
        assert!(
            refused("net.ipv4.conf.eth1.log_martians", 47).contains("unable to determine network endpoint")
        );
        assert!(in_version(&mut body(asked("net.ipv4.conf.all.log_martians")), 48).unwrap().is_empty());
    }

    #[test]
    fn mounts_and_gateways_are_as_the_version_had_them() {
        let asked =
            json!({ "Image": "x", "NetworkingConfig": { "EndpointsConfig": { "a": { "GwPriority": 5 } } } });
        for (version, shallow, priority) in [(43, true, 0), (44, false, 0), (47, false, 0), (48, false, 5)] {
            let mut body = body(asked.clone());
            in_version(&mut body, version).unwrap();
            assert_eq!(body.shallow_read_only, shallow, "{version}");
            assert_eq!(body.networking_config.endpoints_config["a"].gw_priority, priority, "{version}");
        }
    }

    #[test]
    fn an_empty_list_of_places_publishes_until_it_does_not() {
        let asked = json!({ "Image": "x", "HostConfig": { "PortBindings": { "80/tcp": [] } } });
        for (version, published, warnings) in [(41, 1, 0), (52, 1, 1), (53, 0, 0)] {
            let mut body = body(asked.clone());
            assert_eq!(in_version(&mut body, version).unwrap().len(), warnings, "{version}");
            assert_eq!(body.host_config.port_bindings.unwrap().len(), published, "{version}");
        }
    }
}
