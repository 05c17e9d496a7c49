//! What a socket lets through. Whoever holds the daemon's own socket has the machine; one with a policy can be mounted
//! into a container.
//!
//! - `admit`: each request, by its row in the table of endpoints, before anything answers it.
//! - `body`: what a request wants made, where its body has been read.
//! - `host`: what a container has of the host, whether it is asked for or there already.
//!
//! What is judged is what is done: paths and queries are decoded once, bodies are the parsed ones that the engine gets,
//! mounts are read by the engine's own reading of them, and names that could mean something else a moment later are
//! replaced by the ids of what was judged.

mod admit;
mod body;
mod host;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use hull_engine::container::Container;
use hull_engine::{Engine, Error, Kind, Result};

pub(crate) use body::{Judged, StandStill, member};

/// What a socket refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// Nothing is changed.
    ReadOnly,
    /// Only what carries a label is there.
    Label,
    /// No more capabilities, and no fewer defences, than a container has by default.
    NoPrivilege,
    /// No files of the host.
    NoBinds,
    /// No namespace of the host.
    NoHostNamespaces,
    /// No devices of the host.
    NoDevices,
}

impl Rule {
    const SWITCHES: [Rule; 5] =
        [Rule::ReadOnly, Rule::NoPrivilege, Rule::NoBinds, Rule::NoHostNamespaces, Rule::NoDevices];

    fn word(self) -> &'static str {
        match self {
            Rule::ReadOnly => "read-only",
            Rule::Label => "label",
            Rule::NoPrivilege => "no-privilege",
            Rule::NoBinds => "no-binds",
            Rule::NoHostNamespaces => "no-host-namespaces",
            Rule::NoDevices => "no-devices",
        }
    }
}

/// The word for the four rules that together keep the machine out of reach.
const CONFINED: &str = "confined";

/// The rules of a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    switches: Vec<Rule>,
    /// `KEY`, or `KEY` and `VALUE`.
    label: Option<(String, Option<String>)>,
}

/// Attributes of events that are no labels: a label of such a name would let others' events through.
const ATTRIBUTES: [&str; 14] = [
    "name",
    "image",
    "container",
    "driver",
    "type",
    "signal",
    "exitCode",
    "execID",
    "execDuration",
    "oldName",
    "destination",
    "propagation",
    "read/write",
    "reclaimed",
];

impl Policy {
    /// The rules that these words name.
    ///
    /// # Errors
    /// A word is none, or there is none.
    pub(crate) fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Policy> {
        let mut policy = Policy::default();
        for word in words {
            match word.split_once('=') {
                Some(("label", label)) if policy.label.is_none() => policy.label = Some(parse_label(label)?),
                Some(("label", _)) => return Err(Error::invalid("a socket's policy has one label at most")),
                _ if word == CONFINED => policy.switches.extend(&Rule::SWITCHES[1..]),
                _ => match Rule::SWITCHES.into_iter().find(|rule| rule.word() == word) {
                    Some(rule) => policy.switches.push(rule),
                    None => {
                        return Err(Error::invalid(format!(
                            "{word:?} is no rule of a socket: there are read-only, label=KEY[=VALUE], no-privilege, \
                             no-binds, no-host-namespaces, no-devices, and confined for the last four"
                        )));
                    }
                },
            }
        }
        policy.switches.sort_unstable();
        policy.switches.dedup();
        if policy.switches.is_empty() && policy.label.is_none() {
            return Err(Error::invalid(
                "a socket without a rule is the whole machine: name one (read-only, label=KEY[=VALUE], confined), or \
                 start the daemon with a further -H",
            ));
        }
        Ok(policy)
    }

    /// The words of the rules, in their order.
    pub(crate) fn words(&self) -> Vec<String> {
        let label = self.label.as_ref().map(|_| format!("label={}", self.label_filter().unwrap_or_default()));
        self.switches.iter().map(|rule| rule.word().to_owned()).chain(label).collect()
    }

    /// The label as filters write it.
    fn label_filter(&self) -> Option<String> {
        let (key, value) = self.label.as_ref()?;
        Some(match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        })
    }

    fn has(&self, rule: Rule) -> bool {
        match rule {
            Rule::Label => self.label.is_some(),
            // Whoever has the machine's privileges has its files, namespaces and devices.
            Rule::NoPrivilege => self.switches.iter().any(|rule| *rule != Rule::ReadOnly),
            rule => self.switches.contains(&rule),
        }
    }

    /// Whether these labels are those of something that is there for this socket.
    fn sees(&self, labels: &BTreeMap<String, String>) -> bool {
        match &self.label {
            None => true,
            Some((key, None)) => labels.contains_key(key),
            Some((key, Some(value))) => labels.get(key) == Some(value),
        }
    }
}

fn parse_label(text: &str) -> Result<(String, Option<String>)> {
    let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
    let plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/'))
    };
    if key.is_empty() || !plain(key) || !value.is_none_or(plain) {
        return Err(Error::invalid(format!(
            "the label {text:?} of a socket's policy: it is KEY or KEY=VALUE, of letters, digits and . - _ /"
        )));
    }
    if ATTRIBUTES.contains(&key) {
        return Err(Error::invalid(format!(
            "the label {key} cannot be a socket's: events have an attribute of that name; put something before it, as in \
             org.example.{key}"
        )));
    }
    Ok((key.to_owned(), value.map(str::to_owned)))
}

impl fmt::Display for Policy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.words().join(","))
    }
}

/// A socket's place and its policy, as a flag writes them: `PATH,RULE[,RULE…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it refuses.
    pub(crate) policy: Policy,
}

impl FromStr for Guard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Guard> {
        let mut words = text.split(',');
        let path = words.next().unwrap_or_default();
        let path = path.strip_prefix("unix://").unwrap_or(path);
        Guard::new(path, words)
    }
}

impl Guard {
    /// A socket at an absolute path.
    ///
    /// # Errors
    /// The path or a rule is none.
    pub(crate) fn new<'a>(path: &str, words: impl IntoIterator<Item = &'a str>) -> Result<Guard> {
        let plain = path.starts_with('/') && !path.ends_with('/') && !path.contains(['\0', ',', '\n']);
        if !plain || std::path::Path::new(path).components().any(|part| part.as_os_str() == "..") {
            return Err(Error::invalid(format!(
                "a socket's path is absolute, as in /run/hull/ro.sock, and not {path:?}"
            )));
        }
        // Written in one way, so that it is found again.
        Ok(Guard { path: std::path::Path::new(path).components().collect(), policy: Policy::of(words)? })
    }

    /// The guard at work.
    pub(crate) fn on<'a>(&'a self, engine: &'a Arc<Engine>) -> Judge<'a> {
        Judge { guard: self, engine }
    }

    /// The label that lists and events are filtered by.
    pub(crate) fn label_filter(&self) -> Option<String> {
        self.policy.label_filter()
    }

    fn refuse(&self, rule: Rule, what: impl fmt::Display) -> Error {
        let word = match rule {
            Rule::Label => format!("label={}", self.label_filter().unwrap_or_default()),
            rule => rule.word().to_owned(),
        };
        let given = self.policy.switches.contains(&rule) || rule == Rule::Label;
        let by = self.policy.switches.iter().find(|by| !given && **by != Rule::ReadOnly);
        let by =
            by.map(|by| format!(" (it has {}, which is nothing without)", by.word())).unwrap_or_default();
        let path = self.path.display();
        Error::new(Kind::Forbidden, format!("{what}: refused by the rule {word} of the socket {path}{by}"))
    }
}

/// A guard, and whose things it guards.
pub(crate) struct Judge<'a> {
    guard: &'a Guard,
    engine: &'a Arc<Engine>,
}

impl Judge<'_> {
    fn has(&self, rule: Rule) -> bool {
        self.guard.policy.has(rule)
    }

    fn check(&self, rule: Rule, broken: bool, what: impl fmt::Display) -> Result<()> {
        if broken && self.has(rule) { Err(self.guard.refuse(rule, what)) } else { Ok(()) }
    }

    /// Whether a container is there for this socket.
    pub(crate) fn sees(&self, container: &Container) -> bool {
        !self.has(Rule::Label) || self.guard.policy.sees(&container.traits().labels)
    }

    /// Finds a container among those that are there for this socket.
    fn container(&self, name: &str) -> Result<Arc<Container>> {
        let found = self.engine.container(name);
        if !self.has(Rule::Label) || found.as_ref().is_ok_and(|container| self.sees(container)) {
            return found;
        }
        // The beginning of an id is that of one, whatever else begins so.
        let mut seen = self.engine.containers_beginning(name);
        seen.retain(|container| !name.is_empty() && self.sees(container));
        match (seen.pop(), seen.pop()) {
            (Some(container), None) => Ok(container),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("multiple IDs found with provided prefix: {name}")))
            }
            (None, _) if name.is_empty() => found,
            (None, _) => Err(Error::not_found(format!("No such container: {name}"))),
        }
    }

    /// Puts the label on what is made.
    fn label(&self, labels: &mut BTreeMap<String, String>) -> Result<()> {
        let Some((key, value)) = &self.guard.policy.label else { return Ok(()) };
        match (labels.get(key), value) {
            (Some(given), Some(value)) if given != value => {
                Err(self.guard.refuse(Rule::Label, format_args!("the label {key}={given}")))
            }
            (Some(_), _) => Ok(()),
            (None, value) => {
                labels.insert(key.clone(), value.clone().unwrap_or_default());
                Ok(())
            }
        }
    }
}

/// What names something by the id that it was judged by, where the name could be the beginning of another's id.
fn pinned(name: &str, id: &str) -> String {
    let plain = name.strip_prefix("sha256:").unwrap_or(name);
    if plain.bytes().all(|byte| byte.is_ascii_hexdigit()) { id.to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
