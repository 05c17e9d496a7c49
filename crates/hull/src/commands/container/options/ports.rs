//! `--publish` and `--expose`.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::csv;

/// What was published and exposed, in the API's two maps.
#[derive(Debug, Default)]
pub struct Ports {
    /// `Config.ExposedPorts`
    pub exposed: Map<String, Value>,
    /// `HostConfig.PortBindings`
    pub bindings: Map<String, Value>,
}

/// Reads all of `--publish` and `--expose`.
pub fn parse(publish: &[String], expose: &[String]) -> Result<Ports, String> {
    let mut ports = Ports::default();
    for spec in publish {
        let short;
        let spec = if spec.contains('=') {
            short = from_long_form(spec)?;
            &short
        } else {
            spec
        };
        ports.publish(spec)?;
    }
    for spec in expose {
        if spec.contains(':') {
            return Err(format!("invalid port format for --expose: {spec}"));
        }
        let (range, proto) = split_proto(spec)?;
        let (start, end) = port_range(range)
            .ok_or_else(|| format!("invalid range format for --expose: {spec}, error: invalid port"))?;
        for port in start..=end {
            ports.exposed.insert(format!("{port}/{proto}"), json!({}));
        }
    }
    Ok(ports)
}

impl Ports {
    fn publish(&mut self, spec: &str) -> Result<(), String> {
        let (raw, proto) = split_proto(spec)?;
        let (rest, container) = raw.rsplit_once(':').map_or((None, raw), |(rest, port)| (Some(rest), port));
        let (address, host) = match rest {
            None => ("", ""),
            Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
        };
        let address = match address.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(|| format!("invalid IP address: {address}"))?,
            None => address,
        };
        if !address.is_empty() && address.parse::<IpAddr>().is_err() {
            return Err(format!("invalid IP address: {address}"));
        }
        if container.is_empty() {
            return Err(format!("no port specified: {spec}<empty>"));
        }
        let (start, end) =
            port_range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
        let host_range = match host {
            "" => None,
            _ => Some(port_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
        };
        // A range of the host's ports for one of the container's leaves the choice in it to the engine.
        let choice = host_range.is_some_and(|(first, last)| start == end && first != last);
        if let Some((first, last)) = host_range
            && !choice
            && last - first != end - start
        {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
        for port in start..=end {
            let host_port = match host_range {
                None => String::new(),
                Some((first, last)) if choice => format!("{first}-{last}"),
                Some((first, _)) => (first + (port - start)).to_string(),
            };
            let key = format!("{port}/{proto}");
            self.exposed.insert(key.clone(), json!({}));
            let bindings = self.bindings.entry(key).or_insert_with(|| json!([]));
            if let Some(bindings) = bindings.as_array_mut() {
                bindings.push(json!({"HostIp": address, "HostPort": host_port}));
            }
        }
        Ok(())
    }
}

/// `80/udp` is `80` and `udp`; without a protocol it is tcp.
fn split_proto(spec: &str) -> Result<(&str, String), String> {
    let (port, proto) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let proto = if proto.is_empty() { "tcp".to_owned() } else { proto.to_lowercase() };
    match proto.as_str() {
        "tcp" | "udp" | "sctp" => Ok((port, proto)),
        _ => Err(format!("invalid proto: {proto}")),
    }
}

/// `80` or `80-90`, ends included.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (start, end) = (number(start)?, number(end)?);
    (start <= end).then_some((start, end))
}

/// Orders `80/tcp` by number, then by protocol.
pub fn sort_key(port: &str) -> (u16, String) {
    let (number, proto) = port.split_once('/').unwrap_or((port, ""));
    (number.parse().unwrap_or(0), proto.to_owned())
}

/// `target=80,published=8080,protocol=tcp` in the short form.
fn from_long_form(spec: &str) -> Result<String, String> {
    let (mut target, mut published, mut protocol) = (String::new(), String::new(), "tcp".to_owned());
    for field in csv::fields(spec)? {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field: {field}"))?;
        match key {
            "target" => target = value.to_owned(),
            "published" => published = value.to_owned(),
            "protocol" => protocol = value.to_owned(),
            _ => return Err(format!("invalid field key: {key} in {spec}")),
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindings(spec: &str) -> String {
        let ports = parse(&[spec.to_owned()], &[]).unwrap();
        Value::Object(ports.bindings).to_string()
    }

    #[test]
    fn every_form() {
        for (spec, wanted) in [
            ("80", r#"{"80/tcp":[{"HostIp":"","HostPort":""}]}"#),
            ("8080:80", r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}"#),
            ("8080:80/UDP", r#"{"80/udp":[{"HostIp":"","HostPort":"8080"}]}"#),
            ("127.0.0.1:8080:80", r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}"#),
            ("127.0.0.1::80", r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":""}]}"#),
            ("[::1]:8080:80", r#"{"80/tcp":[{"HostIp":"::1","HostPort":"8080"}]}"#),
            ("::1:8080:80", r#"{"80/tcp":[{"HostIp":"::1","HostPort":"8080"}]}"#),
            (
                "81-82:91-92",
                r#"{"91/tcp":[{"HostIp":"","HostPort":"81"}],"92/tcp":[{"HostIp":"","HostPort":"82"}]}"#,
            ),
            ("8000-9000:80", r#"{"80/tcp":[{"HostIp":"","HostPort":"8000-9000"}]}"#),
            ("target=80,published=8080,protocol=udp", r#"{"80/udp":[{"HostIp":"","HostPort":"8080"}]}"#),
        ] {
            assert_eq!(bindings(spec), wanted, "{spec}");
        }
    }

    #[test]
    fn wrong_forms() {
        for (spec, why) in [
            ("x", "invalid containerPort: x"),
            ("1:x", "invalid containerPort: x"),
            ("x:1", "invalid hostPort: x"),
            ("1.2.3:1:1", "invalid IP address: 1.2.3"),
            ("80/icmp", "invalid proto: icmp"),
            ("1-3:1-2", "invalid ranges specified for container and host Ports: 1-2 and 1-3"),
            ("70000", "invalid containerPort: 70000"),
            ("9-8", "invalid containerPort: 9-8"),
            ("80:", "no port specified: 80:<empty>"),
            ("[::1:80:80", "invalid IP address: [::1"),
        ] {
            assert_eq!(parse(&[spec.to_owned()], &[]).unwrap_err(), why, "{spec}");
        }
    }

    #[test]
    fn exposed() {
        let ports = parse(&["8:80".to_owned()], &["90-91/udp".to_owned()]).unwrap();
        assert_eq!(ports.exposed.keys().collect::<Vec<_>>(), ["80/tcp", "90/udp", "91/udp"]);
        assert!(parse(&[], &["1:2".to_owned()]).is_err());
    }
}
