//! Whether what a creation asks for can be. Nothing is made here.

use crate::model::{Config, HostConfig, RestartPolicy};
use crate::{Engine, Error, Kind, Result};

/// Whether a restart policy is one.
pub(super) fn check_restart_policy(policy: &RestartPolicy) -> Result<()> {
    let limited = match policy.name.as_str() {
        "" | "on-failure" => true,
        "no" | "always" | "unless-stopped" => policy.maximum_retry_count == 0,
        other => return Err(Error::invalid(format!("invalid restart policy: unknown policy '{other}'"))),
    };
    let negative = policy.maximum_retry_count < 0;
    match (limited, negative) {
        (true, false) => Ok(()),
        (true, true) => Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative")),
        (false, false) => Err(Error::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        )),
        (false, true) => Err(Error::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure' and cannot be negative",
        )),
    }
}

/// Whether each variable has a name. Before the image's are added: what has none is taken out there.
pub(super) fn check_environment(config: &Config) -> Result<()> {
    match config
        .env
        .iter()
        .flatten()
        .find(|entry| entry.is_empty() || entry.starts_with('=') || entry.contains('\0'))
    {
        Some(entry) => Err(Error::invalid(format!("invalid environment variable: {}", entry.escape_debug()))),
        None => Ok(()),
    }
}

pub(super) fn check_config(config: &Config) -> Result<()> {
    let place = &config.working_dir;
    if !place.is_empty() && !place.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{place}' is invalid, it needs to be an absolute path"
        )));
    }
    for (what, name) in [("hostname", &config.hostname), ("domainname", &config.domainname)] {
        if name.len() > 64 || name.bytes().any(|byte| byte.is_ascii_control() || matches!(byte, b'/' | b' '))
        {
            return Err(Error::invalid(format!("invalid {what}: {name:?}")));
        }
    }
    for port in config.exposed_ports.iter().flatten().map(|(port, _)| port) {
        check_port(port)?;
    }
    if !config.stop_signal.is_empty() {
        super::lifecycle::signal(&config.stop_signal)?;
    }
    if let Some(check) = &config.healthcheck {
        super::health::check(check)?;
    }
    Ok(())
}

/// An `--add-host`: `name:address`; what `host-gateway` stands for is known when it starts.
fn check_extra_host(text: &str) -> Result<()> {
    let bad = || Error::invalid(format!("bad format for add-host: {text:?}"));
    let (name, address) = text.split_once(['=', ':']).ok_or_else(bad)?;
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(bad());
    }
    let bare = address.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(address);
    if address == "host-gateway" || bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid IP address in add-host: {address:?}")))
}

/// A container's port: `80`, `80/tcp`, `8000-8010/udp`.
pub(super) fn check_port(port: &str) -> Result<()> {
    let invalid = || Error::invalid(format!("invalid port specification: \"{port}\""));
    let (numbers, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    if !["tcp", "udp", "sctp"].iter().any(|known| protocol.eq_ignore_ascii_case(known)) {
        return Err(invalid());
    }
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    if number(first)? > number(last)? { Err(invalid()) } else { Ok(()) }
}

pub(super) fn check_ports(host: &HostConfig) -> Result<()> {
    for (port, bindings) in host.port_bindings.iter().flatten() {
        check_port(port)?;
        // A range is written out port by port by who binds it: Docker's words, without the protocol.
        let number = port.split('/').next().unwrap_or_default();
        if number.contains('-') {
            return Err(Error::invalid(format!("invalid port specification: \"{number}\"")));
        }
        for binding in bindings {
            let address = &binding.host_ip;
            if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
                return Err(Error::invalid(format!("invalid IP address: {address}")));
            }
            if !binding.host_port.is_empty() {
                check_port(&binding.host_port).map_err(|_| {
                    Error::invalid(format!("invalid port specification: \"{}\"", binding.host_port))
                })?;
            }
        }
    }
    Ok(())
}

/// The container whose namespace a mode names; `container:` alone names none, and is no mode.
fn other_of(mode: &str) -> Option<&str> {
    mode.strip_prefix("container:").filter(|name| !name.is_empty())
}

/// Namespaces and what else is chosen by a word; what hull has not is refused by name.
pub(super) fn check_modes(engine: &Engine, host: &HostConfig, config: &Config) -> Result<()> {
    let container = |mode: &str| other_of(mode).map(|name| engine.container(name)).transpose();
    let container = |mode: &str| container(mode).map_err(|error| Error::invalid(error.message));
    match host.pid_mode.as_str() {
        "" | "private" | "host" => {}
        mode if container(mode)?.is_some() => {}
        other => return Err(Error::invalid(format!("invalid PID mode: {other}"))),
    }
    match host.ipc_mode.as_str() {
        "private" | "shareable" | "host" | "none" => {}
        mode if container(mode)?.is_some() => {}
        other => return Err(Error::invalid(format!("invalid IPC mode: {other}"))),
    }
    match host.uts_mode.as_str() {
        "" | "private" => {}
        "host" if !config.hostname.is_empty() => {
            return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
        }
        "host" if !config.domainname.is_empty() => {
            return Err(Error::invalid("conflicting options: domainname and the UTS mode"));
        }
        "host" => {}
        other => return Err(Error::invalid(format!("invalid UTS mode: {other}"))),
    }
    match host.userns_mode.as_str() {
        "" | "host" => {}
        other => return Err(Error::invalid(format!("invalid user namespace mode: {other}"))),
    }
    engine.check_remapped(host)?;
    match host.cgroupns_mode.as_str() {
        "private" | "host" => {}
        other => return Err(Error::invalid(format!("invalid cgroup namespace mode: {other}"))),
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "Invalid isolation: {:?} - linux only supports 'default'",
            host.isolation
        )));
    }
    if !host.cgroup.is_empty() {
        return Err(Error::unsupported("HostConfig.Cgroup"));
    }
    if host.annotations.iter().flatten().any(|(name, _)| name.is_empty()) {
        return Err(Error::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    for text in host.extra_hosts.iter().flatten() {
        check_extra_host(text)?;
    }
    if host.timeout < 0 || host.cpu_time < 0 {
        return Err(Error::invalid("a limit of time cannot be negative"));
    }
    super::security::check(host)
}

impl Engine {
    /// The most bytes that a container may write to its own file system; none: as many as there are.
    ///
    /// # Errors
    /// An option is not known or no size, or the file system has no limits.
    pub(crate) fn storage_limit(&self, host: &HostConfig) -> Result<Option<u64>> {
        let mut limit = self.config.default_size;
        for (name, value) in host.storage_opt.iter().flatten() {
            if name != "size" {
                return Err(Error::invalid(format!("Unknown option {name}")));
            }
            limit = Some(
                crate::size::parse(value)
                    .ok_or_else(|| Error::invalid(format!("invalid size: '{value}'")))?,
            );
        }
        let limit = limit.filter(|bytes| *bytes > 0);
        if limit.is_some() {
            self.images.check_limits().map_err(|error| {
                Error::new(
                    Kind::InvalidParameter,
                    format!("--storage-opt size is not supported here: {error}"),
                )
            })?;
        }
        Ok(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_with_a_protocol() {
        for port in ["80", "80/tcp", "8000-8010/udp", "1/sctp", "80/TCP"] {
            check_port(port).unwrap();
        }
        for port in ["", "x", "80/icmp", "70000", "20-10", "-1", "1-2-3"] {
            assert!(check_port(port).is_err(), "{port:?}");
        }
    }
}
