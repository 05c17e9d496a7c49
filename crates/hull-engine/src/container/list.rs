//! Containers as `ps` shows them, and its filters.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::{Container, Record, Status, inspect, now_ns};
use crate::filter::Filters;
use crate::{Engine, Error, Result};

/// Which containers are listed.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// The so many made last, running or not.
    pub limit: Option<usize>,
    /// With the bytes of their writable layers.
    pub size: bool,
    /// Only what was made before that one; the filter's older form.
    pub before: Option<String>,
    /// Only what was made after that one; the filter's older form.
    pub since: Option<String>,
    /// Name to values: within a name one must match, every name must.
    pub filters: BTreeMap<String, Vec<String>>,
}

/// The most memory that a compiled pattern of a filter may take, in bytes.
const PATTERN_MAX: usize = 1 << 20;

/// Filters that look at states that do not run list those too.
const ACROSS_STATES: [&str; 2] = ["status", "exited"];

const KNOWN: [&str; 16] = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

impl Engine {
    /// Lists containers, the newest first.
    ///
    /// # Errors
    /// A filter is unknown or has a value that makes no sense.
    pub fn list(&self, options: &ListOptions) -> Result<Vec<Value>> {
        if let Some(name) = options.filters.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(Error::invalid(format!("invalid filter '{name}'")));
        }
        let mut listed: Vec<(String, Arc<Container>)> =
            self.containers.all().into_iter().map(|container| (container.created(), container)).collect();
        listed.sort_by(|one, other| {
            moment(&other.0).cmp(&moment(&one.0)).then_with(|| one.1.id.cmp(&other.1.id))
        });
        check_values(&options.filters)?;
        let patterns = name_patterns(&options.filters);
        let bound = |name: &str, older: &Option<String>| -> Result<Option<i64>> {
            let filter = options.filters.get(name).and_then(|values| values.last());
            let Some(value) = filter.or(older.as_ref()) else { return Ok(None) };
            Ok(Some(moment(&self.container(value)?.record().created)))
        };
        let (before, since) = (bound("before", &options.before)?, bound("since", &options.since)?);
        let across = options.all
            || options.limit.is_some()
            || options.filters.keys().any(|name| ACROSS_STATES.contains(&name.as_str()))
            || before.is_some()
            || since.is_some();
        let mut linked_names = self.linked_names();
        let mut shown = Vec::new();
        for (created, container) in listed {
            let created = moment(&created);
            if before.is_some_and(|before| created >= before) || since.is_some_and(|since| created <= since) {
                continue;
            }
            let record = container.record().clone();
            let up = record.is_running() || record.state.status == Status::Restarting;
            if record.hidden
                || !(across || up)
                || !self.matches(&container, &record, &options.filters, &patterns)?
            {
                continue;
            }
            let mut names = vec![format!("/{}", record.name)];
            names.extend(linked_names.remove(&record.id).unwrap_or_default());
            shown.push(self.summary(&container, &record, names, options.size)?);
            if options.limit.is_some_and(|limit| shown.len() >= limit) {
                break;
            }
        }
        Ok(shown)
    }

    /// Whether a container is one that all filters let through.
    fn matches(
        &self,
        container: &Container,
        record: &Record,
        filters: &BTreeMap<String, Vec<String>>,
        patterns: &NamePatterns,
    ) -> Result<bool> {
        for (name, values) in filters {
            let mut any = values.is_empty();
            for value in values {
                // Of labels every one must match, of everything else one.
                let matched = self.matches_one(container, record, name, value, patterns)?;
                if name.starts_with("label") {
                    if !matched {
                        return Ok(false);
                    }
                    any = true;
                } else {
                    any |= matched;
                }
            }
            if !any {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn matches_one(
        &self,
        container: &Container,
        record: &Record,
        name: &str,
        value: &str,
        patterns: &NamePatterns,
    ) -> Result<bool> {
        let labelled = || {
            let (key, wanted) =
                value.split_once('=').map_or((value, None), |(key, wanted)| (key, Some(wanted)));
            let found = record.config.labels.as_ref().and_then(|labels| labels.get(key));
            found.is_some_and(|found| wanted.is_none_or(|wanted| found == wanted))
        };
        Ok(match name {
            "id" => record.id.starts_with(value),
            "name" => patterns.get(value).is_some_and(|pattern| pattern.matches(&record.name)),
            "label" => labelled(),
            "label!" => !labelled(),
            "status" => record.state.status.word() == value,
            "exited" => record.state.status == Status::Exited && value.parse() == Ok(record.state.exit_code),
            "health" => container.health_word() == value,
            "ancestor" => self.descends(record, value),
            "volume" => record
                .mounts
                .iter()
                .any(|mount| mount.name == value || mount.destination == value || mount.source == value),
            "network" => record.endpoints.iter().any(|(name, settings)| {
                name == value || (!value.is_empty() && settings.network_id.starts_with(value))
            }),
            "expose" => port_matches(
                record.config.exposed_ports.iter().flatten().map(|(port, _)| port.as_str()),
                value,
            )?,
            "publish" => {
                // By the port of the host that it really has.
                let published: Vec<String> = record
                    .ports
                    .iter()
                    .flat_map(|(port, bindings)| {
                        let protocol = port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
                        bindings.iter().map(move |binding| format!("{}/{protocol}", binding.host_port))
                    })
                    .collect();
                port_matches(published.iter().map(String::as_str), value)?
            }
            // Nothing here is a task of Swarm's.
            "is-task" => matches!(value, "false" | "0"),
            // The rest bounds by time and has been looked at, or is of Windows.
            _ => true,
        })
    }

    /// Whether a container was made of that image, or of one with it beneath.
    fn descends(&self, record: &Record, ancestor: &str) -> bool {
        if record.config.image == ancestor {
            return true;
        }
        let Ok(ancestor) = self.images.resolve(ancestor) else { return false };
        let Some(image) = self.image_of_record(record) else {
            return record.image_id == ancestor.id.to_string();
        };
        image.id == ancestor.id
            || (!ancestor.layers.is_empty()
                && ancestor.layers.len() < image.layers.len()
                && ancestor
                    .layers
                    .iter()
                    .zip(&image.layers)
                    .all(|(one, other)| one.chain_id == other.chain_id))
    }

    fn summary(
        &self,
        container: &Container,
        record: &Record,
        names: Vec<String>,
        size: bool,
    ) -> Result<Value> {
        let networks = inspect::endpoints(record);
        let mut shown = json!({
            "Id": record.id,
            "Names": names,
            "Image": self.image_name(record),
            "ImageID": record.image_id,
            "Command": command_line(&record.command),
            "Created": moment(&record.created) / 1_000_000_000,
            "Ports": ports(record),
            "Labels": record.config.labels.clone().unwrap_or_default(),
            "State": record.state.status.word(),
            "Status": status_line(record, container.health_word()),
            "HostConfig": { "NetworkMode": record.host_config.network_mode },
            "NetworkSettings": { "Networks": networks },
            "Mounts": self.mount_points(record),
            "Health": { "Status": container.health_word(), "FailingStreak": 0 },
        });
        if let Some(annotations) = &record.host_config.annotations {
            shown["HostConfig"]["Annotations"] = json!(annotations);
        }
        if let Some(health) = container.health() {
            shown["Health"] = json!({ "Status": health["Status"], "FailingStreak": health["FailingStreak"] });
        }
        if size {
            let own = self.images.snapshot_size(&record.id).map_err(crate::images::error)?;
            self.show_size(&mut shown, own);
        }
        Ok(shown)
    }

    /// Adds the bytes of a container's writable layer, and of all that it sees.
    fn show_size(&self, shown: &mut Value, own: u64) {
        // Docker leaves a size of nothing out.
        if own > 0 {
            shown["SizeRw"] = json!(own);
        }
        let image = shown["ImageID"].as_str().and_then(|id| self.images.resolve(id).ok());
        shown["SizeRootFs"] = json!(own + image.map_or(0, |image| image.size));
    }

    /// The image as it was named, or its id where the name means another image by now.
    fn image_name(&self, record: &Record) -> String {
        match self.images.resolve(&record.config.image) {
            Ok(image) if image.id.to_string() == record.image_id => record.config.image.clone(),
            _ => record.image_id.clone(),
        }
    }

    /// Containers and the bytes of their writable layers, for the disk's account: counted by the file system, or as they
    /// were measured last.
    pub(crate) async fn container_disk_usage(&self) -> Result<Vec<Value>> {
        let mut containers = self.list(&ListOptions { all: true, ..ListOptions::default() })?;
        let mut walked = Vec::new();
        for shown in &mut containers {
            let id = shown["Id"].as_str().unwrap_or_default().to_owned();
            match self.images.counted_size(&id) {
                Ok(Some(own)) => self.show_size(shown, own),
                Ok(None) => match self.images.snapshot(&id) {
                    Ok(snapshot) if snapshot.is_whole => {
                        // What is its own is told by its layers.
                        let images = Arc::clone(&self.images);
                        let own = tokio::task::spawn_blocking(move || images.snapshot_size(&id).unwrap_or(0));
                        self.show_size(shown, own.await.unwrap_or(0));
                    }
                    found => walked.extend(found.ok().map(|snapshot| snapshot.upper)),
                },
                // It goes just now.
                Err(_) => {}
            }
        }
        let known = self.container_sizes.of(walked).await;
        for shown in &mut containers {
            let upper =
                self.images.snapshot(shown["Id"].as_str().unwrap_or_default()).map(|found| found.upper);
            if let Some(own) = upper.ok().and_then(|upper| known.get(&upper)) {
                self.show_size(shown, *own);
            }
        }
        Ok(containers)
    }

    /// Removes what does not run and what the filters let through: the ids, and the bytes that came back.
    ///
    /// # Errors
    /// A filter is unknown.
    pub async fn prune_containers(
        self: &Arc<Self>,
        filters: &BTreeMap<String, Vec<String>>,
    ) -> Result<(Vec<String>, u64)> {
        let asked = Filters::from(filters.clone());
        asked.only(&["until", "label", "label!"])?;
        let until = asked.until()?;
        let mut labels = filters.clone();
        labels.remove("until");
        let (patterns, mut ids, mut bytes) = (name_patterns(&labels), Vec::new(), 0);
        for container in self.containers.all() {
            let record = container.record().clone();
            let ended = matches!(record.state.status, Status::Created | Status::Exited | Status::Dead);
            let old = until.is_none_or(|until| moment(&record.created) < until);
            // A build's step goes with its build, whether it has run yet or not, and what is a process's with that.
            let goes = ended && old && !record.build_step && record.owner.is_none();
            if !goes || !self.matches(&container, &record, &labels, &patterns)? {
                continue;
            }
            let (images, id) = (Arc::clone(&self.images), record.id.clone());
            let size = tokio::task::spawn_blocking(move || images.snapshot_size(&id).unwrap_or(0));
            let size = size.await.unwrap_or(0);
            // Started or removed meanwhile: it is not pruned.
            if self.remove(&container, &container.id, super::RemoveOptions::default()).await.is_ok() {
                ids.push(record.id);
                bytes += size;
            }
        }
        let attributes = BTreeMap::from([("reclaimed".to_owned(), bytes.to_string())]);
        self.events.publish(crate::events::Kind::Container, "prune", "", attributes);
        Ok((ids, bytes))
    }
}

/// Refuses values that no container can have, also where there is no container to ask.
fn check_values(filters: &BTreeMap<String, Vec<String>>) -> Result<()> {
    const STATUSES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
    for (name, value) in
        filters.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
    {
        let valid = match name.as_str() {
            "status" => STATUSES.contains(&value.as_str()),
            "exited" => value.parse::<i32>().is_ok(),
            "health" => ["none", "starting", "healthy", "unhealthy"].contains(&value.as_str()),
            "is-task" => matches!(value.as_str(), "true" | "false" | "1" | "0"),
            "expose" | "publish" => port_matches(std::iter::empty(), value).is_ok(),
            _ => true,
        };
        if !valid {
            return Err(Error::invalid(format!("invalid filter '{name}={value}'")));
        }
    }
    Ok(())
}

/// A moment in nanoseconds since 1970; what cannot be read is the oldest.
fn moment(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>()
        .ok()
        .and_then(|time| i64::try_from(time.as_nanosecond()).ok())
        .unwrap_or(0)
}

/// What a name is filtered by, read once for all containers: a regular expression, for the name with or without its
/// leading slash. One that is none matches nothing.
enum NamePattern {
    Plain(String),
    Expression(Option<Regex>),
}

impl NamePattern {
    fn of(pattern: &str) -> NamePattern {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/');
        if pattern.bytes().all(plain) {
            return NamePattern::Plain(pattern.to_owned());
        }
        NamePattern::Expression(RegexBuilder::new(pattern).size_limit(PATTERN_MAX).build().ok())
    }

    fn matches(&self, name: &str) -> bool {
        let slashed = format!("/{name}");
        match self {
            NamePattern::Plain(part) => slashed.contains(part.as_str()),
            NamePattern::Expression(Some(pattern)) => pattern.is_match(name) || pattern.is_match(&slashed),
            NamePattern::Expression(None) => false,
        }
    }
}

/// The patterns of the filter `name`, by its values.
type NamePatterns = BTreeMap<String, NamePattern>;

fn name_patterns(filters: &BTreeMap<String, Vec<String>>) -> NamePatterns {
    let values = filters.get("name").into_iter().flatten();
    values.map(|value| (value.clone(), NamePattern::of(value))).collect()
}

/// `80`, `80/udp`, `8000-8080/tcp` against ports as they are configured.
fn port_matches<'a>(mut ports: impl Iterator<Item = &'a str>, wanted: &str) -> Result<bool> {
    let range = |text: &str| -> Option<(u16, u16, String)> {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        Some((first.parse().ok()?, last.parse().ok()?, protocol.to_owned()))
    };
    let (first, last, protocol) =
        range(wanted).ok_or_else(|| Error::invalid(format!("invalid port '{wanted}'")))?;
    Ok(ports
        .any(|port| range(port).is_some_and(|(from, to, of)| of == protocol && from <= last && first <= to)))
}

/// The command as one line, words with blanks in quotes.
fn command_line(command: &[String]) -> String {
    let words: Vec<String> = command
        .iter()
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { word.clone() })
        .collect();
    words.join(" ")
}

fn ports(record: &Record) -> Vec<Value> {
    let mut shown = Vec::new();
    for (port, bindings) in &record.ports {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let Ok(private) = number.parse::<u16>() else { continue };
        if bindings.is_empty() {
            shown.push(json!({ "PrivatePort": private, "Type": protocol }));
        }
        for binding in bindings {
            let mut entry = json!({ "PrivatePort": private, "Type": protocol });
            // One that is let in at the container's own address has none.
            if let Ok(public) = binding.host_port.parse::<u16>() {
                entry["PublicPort"] = json!(public);
            }
            if !binding.host_ip.is_empty() {
                entry["IP"] = json!(binding.host_ip);
            }
            shown.push(entry);
        }
    }
    shown
}

/// `Up 5 minutes (healthy)`, `Exited (1) 2 hours ago`.
fn status_line(record: &Record, health: &str) -> String {
    let ago = |text: &str| human((now_ns() - moment(text)).max(0) / 1_000_000_000);
    let state = &record.state;
    match state.status {
        Status::Running if health == "none" => format!("Up {}", ago(&state.started_at)),
        Status::Running => {
            let health = if health == "starting" { "health: starting" } else { health };
            format!("Up {} ({health})", ago(&state.started_at))
        }
        Status::Paused => format!("Up {} (Paused)", ago(&state.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago(&state.finished_at)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Created => "Created".to_owned(),
        Status::Exited if state.finished_at == super::NEVER => format!("Exited ({})", state.exit_code),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago(&state.finished_at)),
    }
}

/// A span of seconds in Docker's words.
fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_dockers_words() {
        let told = [0, 1, 59, 61, 121, 3600, 5400, 86_400 * 3, 86_400 * 20, 86_400 * 100].map(human);
        let wanted = [
            "Less than a second",
            "1 second",
            "59 seconds",
            "About a minute",
            "2 minutes",
            "About an hour",
            "2 hours",
            "3 days",
            "2 weeks",
            "3 months",
        ];
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_name_is_found_by_a_part_of_it() {
        let name_matches = |name: &str, pattern: &str| NamePattern::of(pattern).matches(name);
        assert!(
            name_matches("ws-box", "box")
                && name_matches("ws-box", "^ws-box$")
                && name_matches("ws-box", "^/ws")
        );
        assert!(name_matches("ws-box", "^/?ws-[a-c]ox$"));
        assert!(!name_matches("ws-box", "(") && !name_matches("ws-box", "^ws-[x]"));
        assert!(!name_matches("ws-box", "^box"));
    }

    #[test]
    fn ports_match_by_range_and_protocol() {
        let ports = ["80/tcp", "8000-8010/udp"];
        let of = |wanted: &str| port_matches(ports.into_iter(), wanted).unwrap();
        assert!(of("80") && of("8005/udp") && of("7000-8000/udp") && !of("8005") && !of("81"));
        assert!(port_matches(ports.into_iter(), "x").is_err());
    }
}
