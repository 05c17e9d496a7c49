//! The OCI runtimes that make containers: hull's own, and those that the operator has registered.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hull_runtime::protocol::ForeignRuntime;
use serde_json::{Value, json};

use crate::model::HostConfig;
use crate::{Error, Result};

/// The name of hull's own runtime.
const OWN: &str = "hull";

/// The names under which Docker knows its one runtime, which tools and scripts send: hull's own, unless the operator has
/// registered another one by them.
const DOCKERS: [&str; 2] = ["runc", "io.containerd.runc.v2"];

/// A registered runtime: a program with runc's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where it is; without a folder it is looked for in the daemon's `PATH`.
    pub path: PathBuf,
    /// What it is given before everything else.
    pub arguments: Vec<String>,
}

/// Which runtimes there are, and which one a container gets that names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtimes {
    registered: BTreeMap<String, Program>,
    default: String,
}

impl Default for Runtimes {
    fn default() -> Runtimes {
        Runtimes { registered: BTreeMap::new(), default: OWN.to_owned() }
    }
}

impl Runtimes {
    /// hull's own and these.
    ///
    /// # Errors
    /// A name is taken or none, or the default is not among them.
    pub fn new(registered: BTreeMap<String, Program>, default: Option<String>) -> Result<Runtimes> {
        for (name, program) in &registered {
            if name == OWN || name.starts_with("io.containerd.") {
                return Err(Error::invalid(format!("runtime name '{name}' is reserved")));
            }
            if name.is_empty() || program.path.as_os_str().is_empty() {
                return Err(Error::invalid(format!("the runtime '{name}' needs a name and a path")));
            }
        }
        let runtimes = Runtimes { registered, default: default.unwrap_or_else(|| OWN.to_owned()) };
        if runtimes.is_known(&runtimes.default) {
            return Ok(runtimes);
        }
        Err(Error::invalid(format!("specified default runtime '{}' does not exist", runtimes.default)))
    }

    fn is_known(&self, name: &str) -> bool {
        name == OWN || DOCKERS.contains(&name) || self.registered.contains_key(name)
    }

    /// The name of the runtime that a container gets which asks for this one, or with an empty name for none.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn chosen(&self, asked: &str) -> Result<String> {
        let name = if asked.is_empty() { &self.default } else { asked };
        if self.is_known(name) { Ok(name.to_owned()) } else { Err(unknown(name)) }
    }

    /// The runtime that makes a container; none: hull's own.
    ///
    /// # Errors
    /// There is none of that name any more.
    pub(crate) fn foreign(&self, host: &HostConfig) -> Result<Option<ForeignRuntime>> {
        let name = &host.runtime;
        let Some(Program { path, arguments }) = self.registered.get(name) else {
            return if self.is_known(name) { Ok(None) } else { Err(unknown(name)) };
        };
        Ok(Some(ForeignRuntime { name: name.clone(), path: path.clone(), arguments: arguments.clone() }))
    }

    /// Whether a container may have this one without having asked for anything but hull: hull's own, or the default.
    pub fn is_usual(&self, name: &str) -> bool {
        let own = name == OWN || DOCKERS.contains(&name) && !self.registered.contains_key(name);
        name.is_empty() || own || name == self.default
    }

    /// The name of the one that a container gets which names none.
    pub(crate) fn default_name(&self) -> &str {
        &self.default
    }

    /// Those that there are, as `info` shows them.
    pub(crate) fn described(&self) -> Value {
        let own = json!({ "path": std::env::current_exe().unwrap_or_default() });
        let mut all = serde_json::Map::from_iter([(OWN.to_owned(), own)]);
        for (name, Program { path, arguments }) in &self.registered {
            let mut one = json!({ "path": path });
            if !arguments.is_empty() {
                one["runtimeArgs"] = json!(arguments);
            }
            all.insert(name.clone(), one);
        }
        Value::Object(all)
    }
}

/// In Docker's words.
fn unknown(name: &str) -> Error {
    Error::invalid(format!("unknown or invalid runtime name: {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtimes(names: &[&str], default: Option<&str>) -> Result<Runtimes> {
        let program = |name: &&str| {
            (name.to_string(), Program { path: format!("/bin/{name}").into(), arguments: vec![] })
        };
        Runtimes::new(names.iter().map(program).collect(), default.map(str::to_owned))
    }

    fn of(name: &str) -> HostConfig {
        HostConfig { runtime: name.to_owned(), ..HostConfig::default() }
    }

    #[test]
    fn who_names_none_gets_the_default() {
        assert_eq!(Runtimes::default().chosen("").unwrap(), "hull");
        let two = runtimes(&["crun"], Some("crun")).unwrap();
        assert_eq!((two.chosen("").unwrap(), two.chosen("hull").unwrap()), ("crun".into(), "hull".into()));
        assert_eq!(two.chosen("kata").unwrap_err().message, "unknown or invalid runtime name: kata");
        let error = runtimes(&["crun"], Some("kata")).unwrap_err();
        assert_eq!(error.message, "specified default runtime 'kata' does not exist");
    }

    #[test]
    fn runc_is_hull_s_own_until_it_is_registered() {
        let none = Runtimes::default();
        assert!(none.foreign(&of("runc")).unwrap().is_none() && none.is_usual("runc"));
        let registered = runtimes(&["runc"], None).unwrap();
        assert_eq!(registered.foreign(&of("runc")).unwrap().unwrap().path, PathBuf::from("/bin/runc"));
        assert!(registered.foreign(&of("io.containerd.runc.v2")).unwrap().is_none());
        assert!(!registered.is_usual("runc") && registered.is_usual(""));
        assert!(runtimes(&["runc"], Some("runc")).unwrap().is_usual("runc"));
        // A container whose runtime is gone cannot be started by another one.
        assert!(none.foreign(&of("crun")).is_err());
    }

    #[test]
    fn names_that_mean_something_else_are_reserved() {
        for name in ["hull", "io.containerd.runc.v2"] {
            let error = runtimes(&[name], None).unwrap_err();
            assert_eq!(error.message, format!("runtime name '{name}' is reserved"));
        }
    }
}
