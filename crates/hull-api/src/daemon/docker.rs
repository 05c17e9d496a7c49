//! What dockerd can be told of its default network and of containers that do not say: hull can, too. What hull has in one
//! way only is taken where that way is asked for, and refused by its name where it is not.

use std::collections::BTreeMap;
use std::fs;

use hull_engine::{DefaultBridge, DefaultNetwork, DefaultSeccomp, Defaults, Error, Result};
use hull_image::registry::Proxies;

use super::flags::Flags;

/// Docker's options of bridge networks.
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";

/// How long containers have to end with the daemon, in seconds, as in Docker.
const SHUTDOWN_TIMEOUT: i64 = 15;

/// The default network.
///
/// # Errors
/// Flags that exclude each other, or a subnet that is none.
pub(super) fn default_network(flags: &Flags, file: &Flags) -> Result<DefaultNetwork> {
    let bip = flags.bip.clone().or_else(|| file.bip.clone()).filter(|bip| !bip.is_empty());
    let bridge = match flags.bridge.as_deref().or(file.bridge.as_deref()) {
        None | Some("") => DefaultBridge::Own,
        Some("none") => DefaultBridge::None,
        Some(name) => DefaultBridge::Standing(name.to_owned()),
    };
    if bip.is_some() && bridge != DefaultBridge::Own {
        return Err(Error::invalid(
            "you specified -b & --bip, mutually exclusive options. Please specify only one",
        ));
    }
    let icc = flags.icc.or(file.icc);
    let subnet = |name: &str, flag: &Option<String>, file: &Option<String>| {
        let Some(text) = flag.as_ref().or(file.as_ref()) else { return Ok(None) };
        let invalid = |_| Error::invalid(format!("--{name} {text}: it is ADDRESS/BITS"));
        text.parse().map(Some).map_err(invalid)
    };
    let mut options = BTreeMap::new();
    let mut say = |name: &str, value: Option<String>| {
        options.extend(value.map(|value| (name.to_owned(), value)));
    };
    say(ICC, icc.map(|icc| icc.to_string()));
    say(MASQUERADE, flags.ip_masq.or(file.ip_masq).map(|masquerade| masquerade.to_string()));
    say(HOST_BINDING, flags.ip.or(file.ip).map(|address| address.to_string()));
    say(MTU, flags.mtu.or(file.mtu).filter(|mtu| *mtu > 0).map(|mtu| mtu.to_string()));
    Ok(DefaultNetwork {
        bridge,
        bip,
        range4: subnet("fixed-cidr", &flags.fixed_cidr, &file.fixed_cidr)?,
        range6: subnet("fixed-cidr-v6", &flags.fixed_cidr_v6, &file.fixed_cidr_v6)?,
        gateway4: flags.default_gateway.or(file.default_gateway),
        gateway6: flags.default_gateway_v6.or(file.default_gateway_v6),
        ipv6: flags.ipv6 || file.ipv6,
        options,
    })
}

/// Options of networks that do not set them, by driver.
///
/// # Errors
/// One that is not `DRIVER=NAME=VALUE`.
pub(super) fn network_options(
    flags: &[String],
    file: BTreeMap<String, BTreeMap<String, String>>,
) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut all = file;
    for text in flags {
        let parts = text.split_once('=').and_then(|(driver, rest)| Some((driver, rest.split_once('=')?)));
        let Some((driver, (name, value))) = parts else {
            return Err(Error::invalid(format!("--default-network-opt {text}: it is DRIVER=NAME=VALUE")));
        };
        all.entry(driver.to_owned()).or_default().insert(name.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// What containers are that do not say.
///
/// # Errors
/// A size, mode or profile that is none.
pub(super) fn defaults(flags: &Flags, file: &Flags) -> Result<Defaults> {
    let usual = Defaults::default();
    let shm_size = match flags.default_shm_size.as_ref().or(file.default_shm_size.as_ref()) {
        None => usual.shm_size,
        Some(size) => size
            .bytes()
            .ok_or_else(|| Error::invalid("default-shm-size: it is a size, as 64m, and more than nothing"))?,
    };
    let word = |name: &str, flag: &Option<String>, file: &Option<String>, words: [&str; 2]| {
        let word = flag.as_deref().or(file.as_deref()).filter(|word| !word.is_empty()).unwrap_or("private");
        if words.contains(&word) {
            return Ok(word.to_owned());
        }
        Err(Error::invalid(format!(
            "default {name} mode setting ({word}) is invalid, use {} or {}",
            words[0], words[1]
        )))
    };
    Ok(Defaults {
        shm_size,
        ipc_mode: word("IPC", &flags.default_ipc_mode, &file.default_ipc_mode, ["private", "shareable"])?,
        cgroupns_mode: word(
            "cgroup namespace",
            &flags.default_cgroupns_mode,
            &file.default_cgroupns_mode,
            ["private", "host"],
        )?,
        init: flags.init || file.init,
        cgroup_parent: flags.cgroup_parent.clone().or_else(|| file.cgroup_parent.clone()).unwrap_or_default(),
        no_new_privileges: flags.no_new_privileges || file.no_new_privileges,
        seccomp: seccomp(flags.seccomp_profile.as_deref().or(file.seccomp_profile.as_deref()))?,
    })
}

fn seccomp(profile: Option<&str>) -> Result<DefaultSeccomp> {
    Ok(match profile {
        None | Some("" | "builtin") => DefaultSeccomp::BuiltIn,
        Some("unconfined") => DefaultSeccomp::Unconfined,
        Some(path) => {
            let json = fs::read_to_string(path)
                .map_err(|error| Error::system(format_args!("open the seccomp profile {path}"), error))?;
            hull_engine::container::check_seccomp_profile(&json)
                .map_err(|error| Error::invalid(format!("the seccomp profile {path}: {}", error.message)))?;
            DefaultSeccomp::Profile { path: path.to_owned(), json }
        }
    })
}

/// Proxies to registries: the flags', the file's, or the environment's.
pub(super) fn proxies(flags: &Flags, file: &Flags) -> Proxies {
    let usual = Proxies::of_environment();
    let or = |flag: &Option<String>, file: &Option<String>, usual: String| {
        flag.clone().or_else(|| file.clone()).unwrap_or(usual)
    };
    let of_file = &file.proxies;
    Proxies {
        http: or(&flags.http_proxy, &of_file.http_proxy, usual.http),
        https: or(&flags.https_proxy, &of_file.https_proxy, usual.https),
        no: or(&flags.no_proxy, &of_file.no_proxy, usual.no),
    }
}

/// How long containers have to end with the daemon; none: as long as they need.
pub(super) fn shutdown_timeout(flags: &Flags, file: &Flags) -> Option<std::time::Duration> {
    let seconds = flags.shutdown_timeout.or(file.shutdown_timeout).unwrap_or(SHUTDOWN_TIMEOUT);
    u64::try_from(seconds).ok().map(std::time::Duration::from_secs)
}

/// Refuses what hull has in one way only, where another is asked for.
///
/// # Errors
/// The flag's name, and why.
pub(super) fn check(flags: &Flags, file: &Flags) -> Result<()> {
    let refused = |name: &str, value: &str, why: &str| {
        Err(Error::new(
            hull_engine::Kind::NotImplemented,
            format!("{name}={value} is not supported by hull: {why}"),
        ))
    };
    let firewall =
        "ports are published and networks kept apart by a table of its own in nftables, and by nothing else";
    for (name, value) in
        [("iptables", flags.iptables.or(file.iptables)), ("ip6tables", flags.ip6tables.or(file.ip6tables))]
    {
        if value == Some(false) {
            return refused(name, "false", firewall);
        }
    }
    if flags.ip_forward.or(file.ip_forward) == Some(false) {
        return refused(
            "ip-forward",
            "false",
            "networks of containers are of no use where nothing is forwarded",
        );
    }
    for option in flags.exec_opt.iter().chain(&file.exec_opt) {
        match option.split_once('=') {
            Some(("native.cgroupdriver", "cgroupfs")) => {}
            Some((name @ "native.cgroupdriver", value)) => {
                return refused(name, value, "the daemon makes its containers' cgroups itself");
            }
            _ => {
                return Err(Error::invalid(format!(
                    "Unknown option: {option:?}: there is native.cgroupdriver"
                )));
            }
        }
    }
    for (name, on) in &file.features {
        match (name.as_str(), on) {
            ("buildkit" | "cdi", true) => {}
            (_, on) => {
                return refused(&format!("features.{name}"), &on.to_string(), "it has no such switch");
            }
        }
    }
    let log_format = flags.log_format.as_deref().or(file.log_format.as_deref());
    if !matches!(log_format, None | Some("" | "text" | "json")) {
        return Err(Error::invalid(format!(
            "invalid log format: {}: text or json",
            log_format.unwrap_or_default()
        )));
    }
    Ok(())
}

/// What is told to another program than hull has: said in the log, once.
pub(super) fn warn(flags: &Flags) {
    let told = [
        ("--containerd", flags.containerd.is_some()),
        ("--containerd-namespace", flags.containerd_namespace.is_some()),
        ("--containerd-plugins-namespace", flags.containerd_plugins_namespace.is_some()),
    ];
    let names: Vec<&str> = told.into_iter().filter(|(_, said)| *said).map(|(name, _)| name).collect();
    if !names.is_empty() {
        tracing::warn!("{} without effect: hull has no containerd beside it", names.join(", "));
    }
}
